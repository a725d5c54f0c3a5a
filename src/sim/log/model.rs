//! What a log must hold, as plain values; before the first look after a crash, what it may.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::TOPICS;
use super::groups::{Groups, commits, setting, setting_unsynced};
use super::look::FoundRecord;
use super::op::{At, Batch, Op, Options, Sent, is_tombstone, key};
use super::transactions::{Transactions, is_commit, is_marker};
use crate::TopicConfig;
use crate::sim::explore::{Verdict, Violation};

/// A whole log.
#[derive(Debug, Clone)]
pub struct Model {
    pub(super) options: Options,
    pub(super) topics: [Topic; TOPICS.len()],
    pub(super) groups: Groups,
    pub(super) transactions: Transactions,
}

/// A name of a topic.
#[derive(Debug, Clone, Default)]
pub(super) struct Topic {
    /// The topic, if there is one.
    pub(super) live: Option<Live>,
    /// One whose creation is under way, or failed, and may be found.
    pub(super) pending: Option<Live>,
    /// A deletion is under way, or failed, and may have happened.
    pub(super) may_vanish: bool,
    /// A deletion began, and may not have come to its end: repeating it is no error.
    pub(super) may_be_left: bool,
}

/// A topic that is there.
#[derive(Debug, Clone)]
pub(super) struct Live {
    pub(super) config: TopicConfig,
    /// Settings that are being stored, or could not be: all since the last time it worked.
    pub(super) config_may: Vec<TopicConfig>,
    pub(super) partitions: Vec<Partition>,
}

/// One partition: what was appended, how much of it must be there.
#[derive(Debug, Clone, Default)]
pub(super) struct Partition {
    /// The offset of the first record kept here.
    pub(super) base: u64,
    pub(super) records: Arc<Vec<Rec>>,
    pub(super) start: u64,
    /// The highest start that an operation under way may set.
    pub(super) start_flight: Option<u64>,
    /// The highest start that a failed operation may have set.
    pub(super) start_doubt: Option<u64>,
    /// What a crash may not take.
    pub(super) synced: u64,
    /// What a kill may not take.
    pub(super) acknowledged: u64,
    /// What is in the segment files: a restart of the machine after a kill may not take it.
    pub(super) written: u64,
    /// Since when something was seen that is not.
    pub(super) staged_since: Option<Duration>,
    /// The batches that were handed out as they are stored, by base offset, and their digests.
    pub(super) served: BTreeMap<u64, u64>,
    /// A sync failed, and what it was to sync may be dropped from the cache until another one has covered it.
    pub(super) may_be_dropped: bool,
    /// The end must be found at or above it; before the first look.
    pub(super) floor: Option<u64>,
    /// The batch under way: all of it or none.
    pub(super) maybe: Vec<Rec>,
    /// A batch whose write failed: if all of it was written, and the cut fails too, who opens next finds it.
    pub(super) doubt: Vec<Rec>,
    /// It is, or was, compacted: how long tombstones stay, in milliseconds.
    pub(super) compacted: Option<i64>,
    /// Whether a record of it belongs, or belonged, to a transaction.
    pub(super) is_in_transactions: bool,
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rec {
    pub(super) id: u64,
    pub(super) len: u16,
    pub(super) is_last: bool,
    pub(super) timestamp: Option<i64>,
    pub(super) producer: Option<Numbered>,
    /// When it was appended; none if that is not known.
    pub(super) since: Option<i64>,
    /// The transaction it belongs to.
    pub(super) transaction: Option<usize>,
    /// As whose it is stored, if it belongs to a transaction, or ends one.
    pub(super) sender: Option<i64>,
}

impl Rec {
    fn is_in_transaction(&self) -> bool {
        self.transaction.is_some() || self.producer.is_some_and(|producer| producer.id == IN_TRANSACTION)
    }
}

/// As an idempotent producer numbered it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Numbered {
    pub(super) id: u8,
    pub(super) epoch: i16,
    pub(super) sequence: i32,
}

/// The number of the producer whose batches belong to a transaction.
pub(super) const IN_TRANSACTION: u8 = 2;

/// A batch of one producer that is stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct SentBatch {
    pub(super) epoch: i16,
    pub(super) first: i32,
    pub(super) last: i32,
    pub(super) offset: u64,
}

/// What must happen to a batch of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Stored,
    /// It is known, and stored at this offset; beyond the newest one it may be forgotten.
    Duplicate {
        offset: u64,
        may_be_forgotten: bool,
    },
    OutOfOrder,
    Fenced,
    /// The model cannot tell: it is not sent.
    Unknown,
}

/// How a batch of a producer is numbered, and what must happen to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbering {
    pub(super) epoch: i16,
    pub(super) sequence: i32,
    pub(super) count: u8,
    pub(super) fate: Fate,
    /// The timestamp of the producer's newest batch, if that is known.
    pub(super) newest: Option<i64>,
}

impl Model {
    pub(super) fn new(options: Options) -> Self {
        let transactions = Transactions::default();
        Self { options, topics: Default::default(), groups: Groups::default(), transactions }
    }

    /// The number of the partition meant, and what it holds. None if the topic is not there.
    pub(super) fn partition(&self, at: At) -> Option<(usize, &Partition)> {
        let live = self.topics[at.topic as usize].live.as_ref()?;
        let number = at.partition as usize % live.partitions.len();
        Some((number, &live.partitions[number]))
    }

    pub(super) fn partition_mut(&mut self, at: At) -> Option<&mut Partition> {
        let live = self.topics[at.topic as usize].live.as_mut()?;
        let number = at.partition as usize % live.partitions.len();
        live.partitions.get_mut(number)
    }

    pub(super) fn partitions_mut(&mut self) -> impl Iterator<Item = &mut Partition> {
        let lives = self.topics.iter_mut().flat_map(|topic| topic.live.iter_mut().chain(&mut topic.pending));
        lives.flat_map(|live| live.partitions.iter_mut())
    }

    /// Takes in that `op` is under way.
    pub(super) fn expect(&mut self, op: &Op) {
        match op {
            Op::Append(at, batch)
            | Op::AppendSynced(at, batch)
            | Op::Numbered(at, batch)
            | Op::AppendIf(at, batch, true) => {
                self.expect_append(*at, records(batch, None));
            }
            Op::AppendIf(at, _, false) => self.expect_append(*at, Vec::new()),
            Op::Raw(at, batch, producer, sent) => self.expect_raw(*at, batch, *producer, *sent),
            Op::Maintain => self.expect_maintain(),
            Op::DeleteBefore(at, share) => {
                if let Some(partition) = self.partition_mut(*at) {
                    partition.start_flight = Some(partition.share(*share));
                }
            }
            Op::Alter(topic, change) => {
                if let Some(live) = &mut self.topics[*topic as usize].live {
                    let config = change.of(live.config);
                    live.config_may.push(config);
                    live.compacted_by(&config);
                }
            }
            Op::Create(topic) => self.expect_topic(*topic),
            Op::Delete(topic) => {
                let deleted = &mut self.topics[*topic as usize];
                deleted.may_vanish |= deleted.live.is_some();
                deleted.may_be_left |= deleted.live.is_some();
                self.groups.maybe = self.groups.without_topic(TOPICS[*topic as usize]);
                self.groups.orphans.insert(TOPICS[*topic as usize]);
            }
            Op::Commit(group, at, count, offset) => {
                self.groups.maybe = setting(commits(*group, *at, *count), *offset, None);
            }
            Op::CommitEnd(group, at) => {
                let end = self.partition(*at).map(|(number, partition)| (number as u32, partition.end()));
                self.groups.maybe = end.map_or(Vec::new(), |(number, end)| {
                    setting_unsynced((*group, TOPICS[at.topic as usize], number), end)
                });
            }
            Op::DeleteGroup(group) => self.groups.maybe = self.groups.without_group(*group),
            Op::Sync | Op::Advance(_) | Op::Read(..) | Op::OffsetAt(..) | Op::ReadLast(..) => {}
            Op::LookOnly | Op::OpenTwice | Op::Backup | Op::Retake(_) => {}
            Op::Transact(transact) => self.expect_transact(transact),
            Op::Resolve(seat, is_commit) => self.transactions.may_resolve(*seat, *is_commit),
        }
    }

    pub(super) fn expect_topic(&mut self, topic: u8) {
        let config = self.options.config();
        let topic = &mut self.topics[topic as usize];
        // One that may be gone may be found made again: a user who is refused opens the log again first.
        if topic.live.is_none() || topic.may_vanish {
            topic.pending = Some(Live::new(config));
        }
    }

    fn expect_append(&mut self, at: At, mut records: Vec<Rec>) {
        if self.options.is_append_time {
            records.iter_mut().for_each(|record| record.timestamp = None);
        }
        self.expect_topic(at.topic);
        let topic = &mut self.topics[at.topic as usize];
        if let Some(live) = topic.live.as_mut().or(topic.pending.as_mut()) {
            let number = at.partition as usize % live.partitions.len();
            live.partitions[number].maybe = records;
        }
    }

    fn expect_raw(&mut self, at: At, batch: &Batch, producer: u8, sent: Sent) {
        let numbering = self.numbering(at, batch.count, producer, sent);
        let stored = match numbering.fate {
            Fate::Stored => records(batch, Some((producer, numbering))),
            _ => Vec::new(),
        };
        if numbering.fate != Fate::Unknown {
            self.expect_append(at, stored);
        }
    }

    pub(super) fn numbering(&self, at: At, count: u8, producer: u8, sent: Sent) -> Numbering {
        match self.partition(at) {
            Some((_, partition)) => partition.numbering(count, producer, sent),
            None => Partition::default().numbering(count, producer, sent),
        }
    }

    fn expect_maintain(&mut self) {
        self.groups.may_expire = self.options.offset_retention.is_some();
        for live in self.topics.iter_mut().filter_map(|topic| topic.live.as_mut()) {
            let retains = |config: &TopicConfig| config.retention_bytes >= 0 || config.retention_ms >= 0;
            if retains(&live.config) {
                for partition in &mut live.partitions {
                    partition.start_flight = Some(partition.end());
                }
            }
        }
    }

    /// The operation under way came to an end: nothing of it is left to happen.
    pub(super) fn nothing_under_way(&mut self) {
        self.groups.maybe.clear();
        for partition in self.partitions_mut() {
            partition.maybe.clear();
            partition.start_flight = None;
        }
    }

    /// The catalog was stored as this process knows it: what a failed change before may have left is gone.
    pub(super) fn catalog_stored(&mut self) {
        for topic in &mut self.topics {
            topic.pending = None;
            topic.may_vanish = false;
            if let Some(live) = &mut topic.live {
                live.config_may.clear();
            }
        }
    }

    pub(super) fn crashed(&mut self) {
        self.partitions_mut().for_each(|partition| partition.floor = Some(partition.synced));
        self.groups.floor = Some(self.groups.synced);
        self.transactions.power_lost();
    }

    pub(super) fn restarted(&mut self) {
        for partition in self.partitions_mut() {
            let kept =
                if partition.may_be_dropped { partition.synced } else { partition.written.max(partition.synced) };
            partition.floor = Some(kept.min(partition.end()));
        }
        // Groups are answered once they are synced.
        self.groups.floor = Some(self.groups.synced);
        self.transactions.power_lost();
    }

    pub(super) fn killed(&mut self) {
        if self.groups.may_be_dropped || self.partitions_mut().any(|partition| partition.may_be_dropped) {
            self.transactions.power_lost();
        }
        for partition in self.partitions_mut() {
            let kept = if partition.may_be_dropped { partition.synced } else { partition.acknowledged };
            partition.floor.get_or_insert(kept);
        }
        let groups = &mut self.groups;
        let kept = if groups.may_be_dropped { groups.synced } else { groups.acknowledged };
        groups.floor.get_or_insert(kept);
    }
}

impl Live {
    pub(super) fn new(config: TopicConfig) -> Self {
        let partitions = vec![Partition::default(); config.partitions as usize];
        let mut live = Self { config, config_may: Vec::new(), partitions };
        live.compacted_by(&config);
        live
    }

    pub(super) fn set_config(&mut self, config: TopicConfig) {
        self.partitions.resize_with(config.partitions as usize, Partition::default);
        self.config = config;
        self.config_may.clear();
        self.compacted_by(&config);
    }

    /// From now on it is compacted, if these settings say so; what is removed by that stays away.
    fn compacted_by(&mut self, config: &TopicConfig) {
        if config.cleanup.compacts() {
            for partition in &mut self.partitions {
                partition.compacted = Some(config.delete_retention_ms);
            }
        }
    }
}

impl Partition {
    pub(super) fn end(&self) -> u64 {
        self.base + self.records.len() as u64
    }

    /// The end without the markers there, which maintenance may just have written.
    pub(super) fn end_of_records(&self) -> u64 {
        let markers = self.records.iter().rev().take_while(|rec| is_marker(rec.id)).count();
        self.end() - markers as u64
    }

    /// The records from offset `from` on.
    pub(super) fn from(&self, from: u64) -> &[Rec] {
        &self.records[from.saturating_sub(self.base).min(self.records.len() as u64) as usize..]
    }

    pub(super) fn push(&mut self, records: &[Rec]) {
        self.is_in_transactions |= records.iter().any(Rec::is_in_transaction);
        Arc::make_mut(&mut self.records).extend_from_slice(records);
    }

    pub(super) fn raise_start(&mut self, to: u64) {
        self.start = to;
        let gone = to.saturating_sub(self.base);
        if gone > 64 {
            let records = Arc::make_mut(&mut self.records);
            records.drain(..(gone as usize).min(records.len()));
            self.base = to;
        }
    }

    /// The offset that lies so many 255ths into what is there.
    pub(super) fn share(&self, share: u8) -> u64 {
        self.start + (self.end() - self.start) * u64::from(share) / 255
    }

    /// The first offset of a transaction without an outcome, as far as it is stored.
    pub(super) fn first_unstable(&self) -> Option<u64> {
        if !self.is_in_transactions {
            return None;
        }
        // A handful of senders.
        let (mut ended, mut first) = (Vec::new(), None);
        for (at, rec) in self.from(self.start).iter().enumerate().rev() {
            if is_marker(rec.id) {
                if !ended.contains(&rec.sender) {
                    ended.push(rec.sender);
                }
            } else if rec.is_in_transaction() && (rec.transaction.is_none() || !ended.contains(&rec.sender)) {
                first = Some(self.start.max(self.base) + at as u64);
            }
        }
        first
    }

    /// Checks that `found` is what a read of the offsets `from..to` may return at the time `now`.
    pub(super) fn is_read(&self, from: u64, to: u64, found: &[FoundRecord], now: i64) -> Verdict {
        self.is_found(from, to, found, &self.removable(now, false))
    }

    /// Checks that `found` is what a read of the offsets `from..to` that shows markers may return.
    pub(super) fn is_seen(&self, from: u64, to: u64, found: &[FoundRecord], now: i64) -> Verdict {
        self.is_found(from, to, found, &self.removable(now, self.is_marked()))?;
        self.markers_stand(found)
    }

    fn is_found(&self, from: u64, to: u64, found: &[FoundRecord], removable: &Removable<'_>) -> Verdict {
        let mut next = from;
        for record in found {
            removable.are_gone(next, record.offset)?;
            let rec = self.from(self.base.max(record.offset)).first();
            let is_same = |rec: &&Rec| {
                rec.id == record.id && rec.len == record.len && rec.timestamp.is_none_or(|at| at == record.timestamp)
            };
            if rec.filter(is_same).is_none() {
                return Err(Violation::new("R1", format!("read {record:x?}, not {rec:x?}")));
            }
            next = record.offset + 1;
        }
        removable.are_gone(next, to)
    }

    fn is_marked(&self) -> bool {
        self.is_in_transactions && self.records.iter().any(|rec| is_marker(rec.id))
    }

    /// A marker stands for as long as anything of its transaction does (C5).
    fn markers_stand(&self, found: &[FoundRecord]) -> Verdict {
        if self.compacted.is_none() || !self.is_marked() {
            return Ok(());
        }
        let (mut found, mut gone) = (found.iter().rev().peekable(), BTreeSet::new());
        for (at, rec) in self.records.iter().enumerate().rev() {
            let offset = self.base + at as u64;
            let is_there = found.next_if(|record| record.offset == offset).is_some();
            match (is_marker(rec.id), is_there) {
                (true, true) => _ = gone.remove(&rec.sender),
                (true, false) => _ = gone.insert(rec.sender),
                (false, true) if rec.transaction.is_some() && gone.contains(&rec.sender) => {
                    let what = format!("{rec:x?} is at {offset}, and the marker of its transaction is gone");
                    return Err(Violation::new("C5", what));
                }
                (false, _) => {}
            }
        }
        Ok(())
    }

    /// What compaction may have removed by now. Who reads without markers passes over those.
    pub(super) fn removable(&self, now: i64, shows_markers: bool) -> Removable<'_> {
        let (mut ends, mut aborted) = (BTreeMap::new(), BTreeSet::new());
        if self.compacted.is_some() && self.is_in_transactions {
            for (at, rec) in self.records.iter().enumerate().rev() {
                if is_marker(rec.id) {
                    ends.insert(rec.sender, is_commit(rec.id));
                } else if rec.transaction.is_some() && ends.get(&rec.sender) == Some(&false) {
                    aborted.insert(self.base + at as u64);
                }
            }
        }
        let stable = self.first_unstable().unwrap_or_else(|| self.end());
        Removable { partition: self, stable, aborted, now, shows_markers }
    }

    /// The batches of a producer, the newest first.
    pub(super) fn batches_of(&self, producer: u8) -> Vec<SentBatch> {
        let mut batches: Vec<SentBatch> = Vec::new();
        let mut is_open = false;
        for (at, rec) in self.records.iter().enumerate().rev() {
            is_open &= !rec.is_last;
            let Some(sent) = rec.producer.filter(|sent| sent.id == producer) else { continue };
            let offset = self.base + at as u64;
            if let Some(batch) = batches.last_mut().filter(|_| is_open) {
                (batch.first, batch.offset) = (sent.sequence, offset);
                continue;
            }
            if batches.len() == 6 {
                break;
            }
            batches.push(SentBatch { epoch: sent.epoch, first: sent.sequence, last: sent.sequence, offset });
            is_open = true;
        }
        batches
    }

    fn numbering(&self, count: u8, producer: u8, sent: Sent) -> Numbering {
        let unknown = Numbering { epoch: 0, sequence: 0, count, fate: Fate::Unknown, newest: None };
        let batches = self.batches_of(producer);
        let Some(newest) = batches.first().copied() else {
            // Of what was deleted, the log may remember more than the model.
            let fate = if self.base == 0 && self.start == 0 { Fate::Stored } else { Fate::Unknown };
            return Numbering { fate, ..unknown };
        };
        if newest.offset < self.start {
            return unknown;
        }
        let next = newest.last + 1;
        let unknown = Numbering { newest: self.records[(newest.offset - self.base) as usize].timestamp, ..unknown };
        let numbered = |epoch, sequence, fate| Numbering { epoch, sequence, fate, ..unknown };
        match sent {
            Sent::Next => numbered(newest.epoch, next, Fate::Stored),
            Sent::Gap => numbered(newest.epoch, next + 2, Fate::OutOfOrder),
            Sent::New => numbered(newest.epoch + 1, 0, Fate::Stored),
            Sent::Old if newest.epoch > 0 => numbered(newest.epoch - 1, next, Fate::Fenced),
            Sent::Old => unknown,
            Sent::Again(back) => match batches.get(back as usize) {
                // Of a batch that begins where the model does, the first records may have been forgotten.
                Some(batch) if self.base > 0 && batch.offset == self.base => unknown,
                Some(batch) if batch.epoch == newest.epoch && batch.offset >= self.start && back < 5 => Numbering {
                    epoch: batch.epoch,
                    sequence: batch.first,
                    count: (batch.last - batch.first + 1) as u8,
                    fate: Fate::Duplicate { offset: batch.offset, may_be_forgotten: back > 0 },
                    ..unknown
                },
                _ => unknown,
            },
        }
    }
}

/// What compaction may have removed of a partition.
#[derive(Debug)]
pub(super) struct Removable<'a> {
    partition: &'a Partition,
    /// What is above stays.
    stable: u64,
    /// The offsets of records whose transactions were aborted.
    aborted: BTreeSet<u64>,
    now: i64,
    shows_markers: bool,
}

impl Removable<'_> {
    /// Checks that all of the offsets `from..to` may have been removed.
    fn are_gone(&self, from: u64, to: u64) -> Verdict {
        for offset in from..to {
            if !self.may_be_gone(offset) {
                let rec = self.partition.from(offset).first();
                let what = format!("no record at {offset}, where {rec:x?} is the last of its key that counts");
                return Err(Violation::new(if self.partition.compacted.is_some() { "C1" } else { "R1" }, what));
            }
        }
        Ok(())
    }

    /// Whether the record at `offset` may have been removed: there is a later one of its key that counts (C1), or it is a
    /// tombstone, or a marker, that stood for its time (C4, C5), or it counts no more than the transaction it belongs to.
    pub(super) fn may_be_gone(&self, offset: u64) -> bool {
        let [rec, later @ ..] = self.partition.from(offset) else { return false };
        if is_marker(rec.id) && !self.shows_markers {
            return true;
        }
        let Some(stay) = self.partition.compacted.filter(|_| offset < self.stable) else { return false };
        let is_old = rec.since.is_none_or(|since| self.now - since >= stay);
        if is_marker(rec.id) {
            return is_old;
        }
        let later = (offset + 1..self.stable).zip(later).filter(|(at, _)| !self.aborted.contains(at));
        let is_same_key = |later: &Rec| !is_marker(later.id) && key(later.id) == key(rec.id);
        self.aborted.contains(&offset)
            || is_tombstone(rec.id) && is_old
            || later.into_iter().any(|(_, later)| is_same_key(later))
    }

    /// Whether the record at `offset` is there for who reads the latest of its key, if it is there.
    pub(super) fn counts(&self, offset: u64) -> bool {
        !self.aborted.contains(&offset)
    }
}

/// The records of a batch.
pub(super) fn records(batch: &Batch, producer: Option<(u8, Numbering)>) -> Vec<Rec> {
    let rec = |number: u8| Rec {
        id: batch.id + u64::from(number),
        len: if is_tombstone(batch.id) { 0 } else { batch.len },
        is_last: number + 1 == batch.count,
        // By its records' time a producer is forgotten after a day.
        timestamp: if producer.is_some() { None } else { batch.timestamp },
        producer: producer.map(|(id, numbering)| Numbered {
            id,
            epoch: numbering.epoch,
            sequence: numbering.sequence + i32::from(number),
        }),
        since: None,
        transaction: None,
        sender: None,
    };
    (0..batch.count).map(rec).collect()
}
