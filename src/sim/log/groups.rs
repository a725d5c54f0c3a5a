//! What groups committed: the records of `__consumer_offsets`, and what follows from them.
//!
//! Of all records of a group and a partition that count, the last one holds. One in a transaction counts once that is
//! committed, in the place where it is: what was written behind it and counts goes on holding.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::apply::Call;
use super::look::{Blind, Found, groups};
use super::model::Model;
use super::op::At;
use super::subject::Explored;
use super::transactions::{Outcomes, is_marker, says_commit};
use super::{GROUPS, OFFSETS, TOPICS};
use crate::group::{Key as StoredKey, OffsetValue};
use crate::record::RecordRef;
use crate::sim::explore::{Verdict, Violation};
use crate::{Error, Log, Offset, Partition, ReadOptions};

/// A group, a topic, a partition.
pub(super) type Key = (u8, &'static str, u32);

/// What is committed.
pub(super) type Fold = BTreeMap<Key, u64>;

/// The keys that a group commits for.
pub(super) fn commits(group: u8, at: At, count: u8) -> Vec<Key> {
    (0..count).map(|step| (group, TOPICS[at.topic as usize], u32::from(at.partition + step) % 4)).collect()
}

/// What a record of the topic says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Set(Key, u64),
    Removed(Key),
    /// A transaction is committed, or not.
    Ended(bool),
}

/// A record of the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GroupRec {
    pub(super) what: What,
    /// Whether it is the last one of its batch.
    pub(super) is_last: bool,
    /// The transaction it belongs to.
    pub(super) transaction: Option<usize>,
    /// As whose it is stored, if it belongs to a transaction, or ends one.
    pub(super) sender: Option<i64>,
    /// Whether it says that what it tells of need not be on the disk.
    pub(super) is_unsynced: bool,
}

/// One as it was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct FoundGroupRec {
    pub(super) offset: u64,
    pub(super) rec: GroupRec,
}

/// What groups committed.
#[derive(Debug, Clone, Default)]
pub(super) struct Groups {
    /// From offset 0 on.
    pub(super) records: Arc<Vec<GroupRec>>,
    pub(super) synced: u64,
    pub(super) acknowledged: u64,
    pub(super) may_be_dropped: bool,
    pub(super) floor: Option<u64>,
    /// The batch under way.
    pub(super) maybe: Vec<GroupRec>,
    /// A batch whose write failed, as in [`Partition::doubt`](super::model::Partition::doubt).
    pub(super) doubt: Vec<GroupRec>,
    /// Offsets past their retention may be removed.
    pub(super) may_expire: bool,
    /// Topics that were deleted, or may have been: what is committed for them may be removed.
    pub(super) orphans: BTreeSet<&'static str>,
}

/// A batch that sets offsets.
pub(super) fn setting(keys: Vec<Key>, offset: u64, transaction: Option<usize>) -> Vec<GroupRec> {
    batch(keys.into_iter().map(|key| What::Set(key, offset)), transaction)
}

/// One that sets an offset, and waits for no sync.
pub(super) fn setting_unsynced(key: Key, offset: u64) -> Vec<GroupRec> {
    let batch = setting(vec![key], offset, None);
    batch.into_iter().map(|rec| GroupRec { is_unsynced: true, ..rec }).collect()
}

fn batch(whats: impl Iterator<Item = What>, transaction: Option<usize>) -> Vec<GroupRec> {
    let mut batch: Vec<_> =
        whats.map(|what| GroupRec { what, is_last: false, transaction, sender: None, is_unsynced: false }).collect();
    batch.iter_mut().next_back().into_iter().for_each(|last| last.is_last = true);
    batch
}

impl Groups {
    pub(super) fn end(&self) -> u64 {
        self.records.len() as u64
    }

    /// What counts.
    pub(super) fn fold(&self) -> Fold {
        self.counting().map(|(key, _, offset)| (key, offset)).collect()
    }

    /// What counts, and that need not be on the disk.
    fn unsynced(&self) -> impl Iterator<Item = (Key, u64)> {
        let unsynced = self.counting().filter(|(_, at, _)| self.records[*at].is_unsynced);
        unsynced.map(|(key, _, offset)| (key, offset))
    }

    /// Refuses a record that a group passes over: it was appended at `end`, and the offset of the group is above. What that
    /// counted is lost.
    pub(super) fn pass_over_none(&self, topic: &str, partition: u32, end: u64) -> Verdict {
        if !self.records.iter().any(|rec| rec.is_unsynced) {
            return Ok(());
        }
        let over = self.unsynced().find(|(key, offset)| (key.1, key.2) == (topic, partition) && *offset > end);
        over.map_or(Ok(()), |over| {
            Err(Violation::new("G1", format!("{over:?} passes over what is appended at {end}")))
        })
    }

    /// Each key that has an offset: where the record is that sets it, and the offset.
    fn counting(&self) -> impl Iterator<Item = (Key, usize, u64)> {
        let mut counts = BTreeMap::<Key, (usize, Option<u64>)>::new();
        let mut waiting = BTreeMap::<_, Vec<(usize, What)>>::new();
        let mut apply = |at: usize, what: What| {
            let (key, value) = match what {
                What::Set(key, offset) => (key, Some(offset)),
                What::Removed(key) => (key, None),
                What::Ended(_) => return,
            };
            if counts.get(&key).is_none_or(|(before, _)| *before < at) {
                counts.insert(key, (at, value));
            }
        };
        for (at, rec) in self.records.iter().enumerate() {
            match (rec.what, rec.sender) {
                (What::Ended(is_commit), sender) => {
                    let ended = waiting.remove(&sender).filter(|_| is_commit);
                    ended.into_iter().flatten().for_each(|(at, what)| apply(at, what));
                }
                (what, None) => apply(at, what),
                (what, sender) => waiting.entry(sender).or_default().push((at, what)),
            }
        }
        counts.into_iter().filter_map(|(key, (at, value))| Some((key, at, value?)))
    }

    /// The records of transactions without an outcome.
    fn waiting(&self) -> impl Iterator<Item = &GroupRec> {
        let mut ended = Vec::new();
        self.records.iter().rev().filter(move |rec| {
            if let What::Ended(_) = rec.what {
                ended.push(rec.sender);
            }
            rec.sender.is_some() && !ended.contains(&rec.sender)
        })
    }

    /// The keys of those that are to count then: nothing behind them removes them.
    fn awaited(&self) -> BTreeSet<Key> {
        let (mut ended, mut removed, mut awaited) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for rec in self.records.iter().rev() {
            match (rec.what, rec.sender) {
                (What::Ended(_), sender) => ended.push(sender),
                (What::Removed(key), None) => _ = removed.insert(key),
                (What::Set(key, _), sender @ Some(_)) if !ended.contains(&sender) && !removed.contains(&key) => {
                    awaited.insert(key);
                }
                _ => {}
            }
        }
        awaited
    }

    /// Whether an offset for this topic may yet come to count.
    pub(super) fn may_come(&self, topic: &str) -> bool {
        self.awaited().iter().any(|key| key.1 == topic)
    }

    /// The transactions that this sender has open here.
    fn open_of(&self, sender: Option<i64>) -> BTreeSet<usize> {
        let of_sender = self.waiting().filter(|rec| rec.sender == sender);
        of_sender.filter_map(|rec| rec.transaction).collect()
    }

    /// What removes all that is committed for a topic, or waits to be.
    pub(super) fn without_topic(&self, topic: &str) -> Vec<GroupRec> {
        self.without(|key| key.1 == topic)
    }

    /// The same of a group.
    pub(super) fn without_group(&self, group: u8) -> Vec<GroupRec> {
        self.without(|key| key.0 == group)
    }

    fn without(&self, is_meant: impl Fn(&Key) -> bool) -> Vec<GroupRec> {
        let mut keys: BTreeSet<Key> = self.fold().into_keys().collect();
        keys.extend(self.awaited());
        batch(keys.into_iter().filter(is_meant).map(What::Removed), None)
    }

    pub(super) fn push(&mut self, records: &[GroupRec]) {
        Arc::make_mut(&mut self.records).extend_from_slice(records);
    }

    /// What was found must be what was written, as far as it must be there, then what may have been, and what the log
    /// writes by itself.
    pub(super) fn settle(&mut self, found: &Found, outcomes: &mut Outcomes) -> Result<(), String> {
        let maybe = std::mem::take(&mut self.maybe);
        let floor = self.floor.take().unwrap_or(self.acknowledged);
        let (end, known) = (found.groups_end, self.end());
        let is_same = |found: &&FoundGroupRec| {
            self.records.get(found.offset as usize).is_some_and(|rec| rec.is_same(&found.rec))
        };
        let same = found.group_records.iter().take_while(is_same).count();
        let rest = &found.group_records[same..];
        let kept = rest.first().map_or(end, |first| first.offset).min(known);
        if kept < floor {
            return Err(format!("groups hold what was written up to {kept}, not {floor} or above"));
        }
        let lost = self.records[kept as usize..].to_vec();
        if !lost.is_empty() {
            Arc::make_mut(&mut self.records).truncate(kept as usize);
        }
        if self.records.last().is_some_and(|last| !last.is_last) {
            return Err(format!("groups end at {kept}, inside a batch"));
        }
        let mut coming: Vec<_> = [&self.doubt, &maybe].into_iter().filter(|_| lost.is_empty()).cloned().collect();
        let by_the_log = self.follow(rest, &mut coming)?;
        self.lowered_no_more_than_lost(&by_the_log, found)?;
        if self.end() != end {
            return Err(format!("groups end at {end}, where {} were written", self.end()));
        }
        if end != known {
            self.doubt.clear();
        }
        // What is under way, and is not there.
        let is_there = coming.last().is_some_and(Vec::is_empty);
        let missing = lost.iter().chain(maybe.iter().filter(|_| !is_there));
        missing.filter_map(|rec| rec.transaction).for_each(|number| outcomes.lose(number));
        outcomes.note_all(self.records.iter().rev().map(|rec| (rec.ended(), rec.sender, rec.transaction)));
        if !self.tells(&found.groups, &found.hidden) {
            return Err(format!("groups at {end} committed {:?}, not {:?}", found.groups, self.fold()));
        }
        self.acknowledged = end;
        self.synced = self.synced.min(end).max(found.groups_synced);
        Ok(())
    }

    /// Of what the log set by itself: there is nothing that a group would see again though it need not.
    fn lowered_no_more_than_lost(&self, by_the_log: &[u64], found: &Found) -> Result<(), String> {
        let lowered = self.counting().filter(|(_, at, _)| by_the_log.contains(&(*at as u64)));
        for ((_, topic, partition), _, offset) in lowered {
            let number = partition as usize;
            let Some(partition) = found.topics.get(topic).and_then(|topic| topic.partitions.get(number)) else {
                return Err(format!("a group of {topic}-{number}, which is not there, is set to {offset}"));
            };
            let (start, end) = (partition.offsets.start.0, partition.offsets.end.0);
            if !(start..=end).contains(&offset) {
                return Err(format!("a group of {topic} is set to {offset}, outside of {start}..{end}"));
            }
            let mut records = partition.records.iter();
            if let Some(record) = records.find(|record| record.offset >= offset && !is_marker(record.id)) {
                return Err(format!("a group of {topic} is set to {offset}, and {} is there", record.offset));
            }
        }
        Ok(())
    }

    /// Takes in what was found behind what is known. Of `coming`, batches that are there are emptied. Returns where the records
    /// are that the log wrote by itself.
    fn follow(&mut self, mut rest: &[FoundGroupRec], coming: &mut [Vec<GroupRec>]) -> Result<Vec<u64>, String> {
        let mut by_the_log = Vec::new();
        while let [next, behind @ ..] = rest {
            if next.offset != self.end() {
                return Err(format!("no record of groups at {}: {next:?}", self.end()));
            }
            let begins = |batch: &&mut Vec<GroupRec>| {
                let is_same = |(rec, found): (&GroupRec, &FoundGroupRec)| {
                    (rec.what, rec.is_unsynced) == (found.rec.what, found.rec.is_unsynced)
                        && rec.transaction.is_some() == found.rec.sender.is_some()
                };
                !batch.is_empty() && batch.len() <= rest.len() && batch.iter().zip(rest).all(is_same)
            };
            if let Some(batch) = coming.iter_mut().find(begins) {
                for (rec, found) in std::mem::take(batch).into_iter().zip(rest) {
                    self.push(&[GroupRec { sender: found.rec.sender, ..rec }]);
                    rest = &rest[1..];
                }
                continue;
            }
            if !self.is_of_the_log(&next.rec) {
                return Err(format!("{next:?}, which nobody wrote, of {:?}", self.records));
            }
            by_the_log.push(self.end());
            self.push(&[next.rec]);
            rest = behind;
        }
        Ok(by_the_log)
    }

    /// Whether the log may write this record by itself: a marker, the removal of what is past its time, or a lower offset.
    fn is_of_the_log(&self, rec: &GroupRec) -> bool {
        match rec.what {
            What::Ended(_) => !self.open_of(rec.sender).is_empty(),
            What::Removed(key) => {
                let (is_there, is_orphan) = (self.fold().contains_key(&key), self.orphans.contains(key.1));
                let waits = self.awaited().contains(&key);
                // What a transaction is about to replace does not expire.
                is_orphan && (is_there || waits) || self.may_expire && is_there && !waits
            }
            // An open lowers what lies above the end.
            What::Set(key, offset) => {
                let mut unsynced = self.unsynced();
                rec.is_unsynced && unsynced.any(|(known, before)| known == key && offset < before)
            }
        }
    }

    /// Whether this is what is told, without the offsets of hidden topics.
    pub(super) fn tells(&self, found: &Fold, hidden: &BTreeSet<String>) -> bool {
        let mut fold = self.fold();
        fold.retain(|key, _| !hidden.contains(key.1));
        fold == *found
    }
}

impl GroupRec {
    fn ended(&self) -> Option<bool> {
        match self.what {
            What::Ended(is_commit) => Some(is_commit),
            _ => None,
        }
    }

    fn is_same(&self, found: &Self) -> bool {
        (self.what, self.sender, self.is_unsynced) == (found.what, found.sender, found.is_unsynced)
    }
}

/// The records of the topic from offset `from` on, and the markers among them.
pub(super) fn read_groups(partition: &Partition, from: u64) -> Result<Vec<FoundGroupRec>, Blind> {
    let (mut all, mut at, end) = (Vec::new(), Offset(from), partition.offsets().end);
    while at < end {
        let read = partition.read_with(at, ReadOptions::default().with_markers())?;
        for batch in read.batches() {
            let header = *batch.header();
            let sender = header.attributes.is_transactional().then_some(header.producer_id.0);
            for record in batch {
                let what = match header.attributes.is_control() {
                    true => Some(What::Ended(says_commit(&record))),
                    false => what_of(&record),
                };
                let Some(what) = what else {
                    let what = format!("{OFFSETS} holds at {} what nobody wrote: {record:?}", record.offset);
                    return Err(Blind::Wrong(Violation::new("G1", what)));
                };
                let is_last = record.offset == header.last_offset();
                let is_unsynced = record.headers().any(|header| header.key == "unsynced");
                let rec = GroupRec { what, is_last, transaction: None, sender, is_unsynced };
                all.push(FoundGroupRec { offset: record.offset.0, rec });
            }
        }
        if read.next_offset() <= at {
            return Err(Blind::Wrong(Violation::new(
                "R1",
                format!("{OFFSETS}: nothing at {at}, and {end} is the end"),
            )));
        }
        at = read.next_offset();
    }
    Ok(all)
}

fn what_of(record: &RecordRef<'_>) -> Option<What> {
    let StoredKey::Offset { group, topic, partition } = StoredKey::decode(record.key?).ok()? else { return None };
    let group = GROUPS.iter().position(|name| *name == group)? as u8;
    let key = (group, TOPICS.into_iter().find(|name| *name == topic)?, partition);
    match record.value {
        Some(value) => Some(What::Set(key, OffsetValue::decode(value).ok()?.offset as u64)),
        None => Some(What::Removed(key)),
    }
}

/// Where groups are kept, if there is anything.
pub(super) fn kept_in(log: &Log) -> Option<Partition> {
    log.find_topic(OFFSETS).and_then(|topic| topic.partition(0).ok())
}

impl Explored {
    /// Takes in what the log has written of groups by itself: markers, and the removal of offsets. Whether some were
    /// removed.
    pub(super) fn absorb_group_records(&mut self, log: &Log, model: &mut Model) -> Result<bool, Violation> {
        let Some(partition) = kept_in(log) else { return Ok(false) };
        if partition.offsets().end.0 <= model.groups.end() {
            return Ok(false);
        }
        self.world.disk.pause_faults(true);
        let read = read_groups(&partition, model.groups.end());
        self.world.disk.pause_faults(false);
        let read = match read {
            Ok(read) => read,
            // What is not known to be on the disk is not told.
            Err(Blind::Failed(Error::Poisoned { .. })) => {
                self.is_stuck = true;
                return Ok(false);
            }
            Err(Blind::Failed(error)) => return Err(Violation::new("G1", format!("groups cannot be read: {error}"))),
            Err(Blind::Wrong(violation)) => return Err(violation),
        };
        for FoundGroupRec { offset, rec } in &read {
            // Offsets are lowered by opens alone.
            let is_known = !matches!(rec.what, What::Set(..)) && model.groups.is_of_the_log(rec);
            if *offset != model.groups.end() || !is_known {
                let what = format!("{rec:?} at {offset}, which nobody wrote, of {:?}", model.groups.records);
                return Err(Violation::new("G1", what));
            }
            if let What::Ended(is_commit) = rec.what {
                for number in model.groups.open_of(rec.sender) {
                    model.transactions.pin(number, is_commit)?;
                }
            }
            model.groups.push(&[*rec]);
        }
        model.groups.acknowledged = model.groups.end();
        Ok(read.iter().any(|found| matches!(found.rec.what, What::Removed(_))))
    }
}

impl Call<'_> {
    /// Offsets of a topic whose deletion failed are removed by whoever finishes it.
    pub(super) fn absorb_orphans(&mut self) -> Verdict {
        let log = self.log.clone();
        match self.subject.absorb_group_records(&log, self.model)? {
            true => self.absorb_groups(),
            false => Ok(()),
        }
    }

    /// Takes in what became of the topic of the groups.
    pub(super) fn absorb_groups(&mut self) -> Verdict {
        let log = self.log.clone();
        self.subject.absorb_group_records(&log, self.model)?;
        let Some(partition) = kept_in(&log) else { return Ok(()) };
        // Asking may sync first, and what a test asks must not be what fails.
        self.subject.world.disk.pause_faults(true);
        let found = groups(&log);
        self.subject.world.disk.pause_faults(false);
        let found = match found {
            Ok(found) => found,
            // What is not known to be on the disk is not told either.
            Err(error) => return self.explain(error).map(drop),
        };
        let end = partition.offsets().end.0;
        let hidden = log.hidden_topics();
        let groups = &mut self.model.groups;
        groups.may_expire = false;
        if groups.end() != end || !groups.tells(&found, &hidden) {
            let what = format!("{found:?} at {end}, not {:?} at {}", groups.fold(), groups.end());
            return Err(Violation::new("G1", what));
        }
        Ok(())
    }

    /// Takes the write of a group into the model, if it was appended. Of a transaction it is `sender`'s, and counts later.
    pub(super) fn note_write(&mut self, is_done: bool, sender: Option<i64>) -> Verdict {
        let mut maybe = std::mem::take(&mut self.model.groups.maybe);
        maybe.iter_mut().for_each(|rec| rec.sender = sender);
        let Some(partition) = kept_in(&self.log) else { return Ok(()) };
        let offsets = partition.offsets();
        let groups = &mut self.model.groups;
        if !maybe.is_empty() && offsets.end.0 == groups.end() + maybe.len() as u64 {
            groups.doubt.clear();
            groups.push(&maybe);
            if is_done && sender.is_none() && !maybe.iter().any(|rec| rec.is_unsynced) {
                if offsets.synced < offsets.end {
                    return Err(Violation::new("G1", "committed, and not synced"));
                }
                groups.synced = groups.end();
            }
            groups.acknowledged = groups.end();
        } else if !is_done && !maybe.is_empty() {
            groups.doubt = maybe;
        } else if sender.is_some() {
            return Err(Violation::new("G1", format!("{maybe:?} was appended, and the end is {}", offsets.end)));
        }
        Ok(())
    }
}
