//! One call of a user, and what it must lead to.

use std::sync::Arc;
use std::time::Duration;

use super::backup::{BACKUP, clear};
use super::groups::{Key, commits};
use super::look::{Blind, check, look};
use super::model::{Fate, Model, Numbering, Rec, records};
use super::op::{At, Batch, Op, is_tombstone, key, value};
use super::settle::{named, settle};
use super::subject::{Explored, LINGER, builder, is_full, refusal};
use super::{GROUPS, OFFSETS, TOPICS};
use crate::clock::Clock;
use crate::record::{BatchBuilder, BatchHeader, BatchOptions, Header, Producer};
use crate::sim::explore::{Refusal, Subject, Verdict, Violation};
use crate::{
    Ack, Appended, Durability, Error, GroupOffset, Log, Offset, Partition, ProducerEpoch, ProducerId, ReadOptions,
    Record, Timestamp, Topic, TopicConfig,
};

/// Runs `op`, which the model expects.
pub(super) fn apply(subject: &mut Explored, op: &Op, model: &mut Model) -> Verdict {
    if *op == Op::LookOnly {
        return subject.look_only(model);
    }
    let Some(log) = subject.log.clone() else { return Ok(()) };
    let mut call = Call { log, subject, model };
    let outcome = call.run(op).and_then(|()| call.absorb_orphans());
    let Call { log, .. } = call;
    drop(log);
    outcome?;
    subject.notice_poison(model);
    model.nothing_under_way();
    Ok(())
}

pub(super) struct Call<'a> {
    pub(super) log: Log,
    pub(super) subject: &'a mut Explored,
    pub(super) model: &'a mut Model,
}

impl Call<'_> {
    fn run(&mut self, op: &Op) -> Verdict {
        match op {
            Op::Append(at, batch) => self.append(*at, batch, false),
            Op::AppendSynced(at, batch) => self.append(*at, batch, true),
            Op::Numbered(at, batch) => self.append_numbered(*at, batch),
            Op::AppendIf(at, batch, is_right) => self.append_if(*at, batch, *is_right),
            Op::Raw(at, batch, producer, sent) => {
                let numbering = self.model.numbering(*at, batch.count, *producer, *sent);
                self.raw(*at, batch, *producer, numbering)
            }
            Op::Sync => self.sync(),
            Op::Maintain => self.maintain(),
            Op::Advance(seconds) => {
                self.subject.world.clock.advance(Duration::from_secs((*seconds).into()));
                Ok(())
            }
            Op::DeleteBefore(at, share) => self.delete_before(*at, *share),
            Op::Alter(topic, change) => {
                let Some(live) = &self.model.topics[*topic as usize].live else { return Ok(()) };
                self.alter(*topic, change.of(live.config))
            }
            Op::Create(topic) => self.create(*topic).map(drop),
            Op::Delete(topic) => self.delete(*topic),
            Op::Commit(group, at, count, offset) => {
                let keys = commits(*group, *at, *count);
                self.commit(*group, &keys, *offset)
            }
            Op::CommitEnd(group, at) => self.commit_end(*group, *at),
            Op::DeleteGroup(group) => self.delete_group(*group),
            Op::Read(at, seed) => self.read(*at, *seed),
            Op::OffsetAt(at, seed) => self.offset_at(*at, *seed),
            Op::ReadLast(at, count) => self.read_last(*at, *count),
            Op::LookOnly => Ok(()),
            Op::Transact(transact) => self.transact(transact),
            Op::Resolve(seat, is_commit) => self.resolve(*seat, *is_commit),
            Op::Retake(seat) => {
                self.subject.seats[*seat as usize] = None;
                self.seat(*seat).map(drop)
            }
            Op::Backup => self.backup(),
            Op::OpenTwice => match builder(&self.subject.world, &self.subject.options).open() {
                Err(Error::Locked { .. }) => Ok(()),
                Err(error) => self.explain(error).map(drop),
                Ok(_) => Err(Violation::new("L1", "it was opened twice")),
            },
        }
    }

    fn backup(&mut self) -> Verdict {
        let disk = Arc::clone(&self.subject.world.disk);
        clear(&disk)?;
        let checked = match self.log.backup(BACKUP) {
            Ok(backup) if !backup.left_out.is_empty() => Err(Violation::new("L6", format!("{:?}", backup.left_out))),
            Ok(_) => {
                // What a failed change had left in doubt was settled first.
                self.model.catalog_stored();
                self.subject.check_backup(self.model)
            }
            Err(error) => self.explain(error).map(drop),
        };
        checked.and_then(|()| clear(&disk))
    }

    /// An error is a value that something explains: a call that failed, a full disk, what failed before.
    pub(super) fn explain(&mut self, error: Error) -> Result<Error, Violation> {
        let is_explained = self.subject.world.disk.struck() > 0
            || is_full(&error)
            || matches!(error, Error::Poisoned { .. } | Error::NotSynced { .. });
        let is_dropped = self.subject.is_dropped(&error);
        match refusal(error) {
            Refusal::Corrupt(_) if is_dropped => Ok(Error::Closed),
            Refusal::Corrupt(why) => Err(Violation::new("R3", why)),
            Refusal::Failed(why) if !is_explained => Err(Violation::new("A2", format!("for no reason: {why}"))),
            Refusal::Failed(_) | Refusal::Dropped(_) => Ok(Error::Closed),
        }
    }

    /// The topic, made if it is not there; none if that failed.
    fn create(&mut self, topic: u8) -> Result<Option<Topic>, Violation> {
        let (number, name) = (topic as usize, TOPICS[topic as usize]);
        match self.log.topic(name) {
            Ok(found) => {
                if let Some(pending) = self.model.topics[number].pending.take()
                    && self.model.topics[number].live.is_none()
                {
                    self.model.catalog_stored();
                    self.model.topics[number].live = Some(pending);
                }
                Ok(Some(found))
            }
            Err(error) => {
                self.explain(error)?;
                Ok(None)
            }
        }
    }

    pub(super) fn partition(&mut self, at: At) -> Result<Option<(Topic, Partition)>, Violation> {
        let Some(topic) = self.create(at.topic)? else { return Ok(None) };
        let number = u32::from(at.partition) % topic.partition_count();
        match topic.partition(number) {
            Ok(partition) => Ok(Some((topic, partition))),
            Err(error) => Err(Violation::new("open", error.to_string())),
        }
    }

    fn append(&mut self, at: At, batch: &Batch, wait: bool) -> Verdict {
        let Some((topic, partition)) = self.partition(at)? else { return Ok(()) };
        let recs = records(batch, None);
        let appended = with_records(&recs, |records| match records.len() {
            1 => partition.append(records[0]),
            _ => partition.append_all(records.iter().copied()),
        });
        let Some(appended) = self.placed(at, &topic, &recs, appended)? else { return Ok(()) };
        if wait {
            match appended.wait(Ack::Synced) {
                Ok(()) if partition.offsets().synced <= appended.last_offset() => {
                    return Err(Violation::new("D1", "waited, and it is not synced"));
                }
                Ok(()) => {}
                Err(error) => drop(self.explain(error)?),
            }
        }
        Ok(())
    }

    /// The same producer for as long as the log is open: its records share batches.
    fn append_numbered(&mut self, at: At, batch: &Batch) -> Verdict {
        let Some((topic, partition)) = self.partition(at)? else { return Ok(()) };
        let mut producer = match self.subject.producer.take() {
            Some(producer) => producer,
            None => match self.log.producer().idempotent() {
                Ok(producer) => producer,
                Err(error) => return self.explain(error).map(drop),
            },
        };
        let recs = records(batch, None);
        let appended = with_records(&recs, |records| producer.append(&partition, records[0]));
        self.subject.producer = Some(producer);
        self.placed(at, &topic, &recs, appended).map(drop)
    }

    fn append_if(&mut self, at: At, batch: &Batch, is_right: bool) -> Verdict {
        let Some((topic, partition)) = self.partition(at)? else { return Ok(()) };
        let end = partition.offsets().end;
        let recs = records(batch, None);
        let expected = if is_right { end } else { end + 1 };
        let appended = with_records(&recs, |records| partition.append_if_end(expected, records.iter().copied()));
        match appended {
            Err(Error::EndMismatch { actual, .. }) if !is_right && actual == end => Ok(()),
            Ok(_) if !is_right => Err(Violation::new("A2", "appended where something else was expected")),
            appended => self.placed(at, &topic, &recs, appended).map(drop),
        }
    }

    fn raw(&mut self, at: At, batch: &Batch, producer: u8, numbering: Numbering) -> Verdict {
        let now = self.subject.world.clock.now().0;
        if numbering.fate == Fate::Unknown || numbering.newest.is_some_and(|newest| now - newest > FORGOTTEN_MS / 2) {
            return Ok(());
        }
        let Some((topic, partition)) = self.partition(at)? else { return Ok(()) };
        let batch = Batch { count: numbering.count, ..*batch };
        let recs = records(&batch, Some((producer, numbering)));
        let mut builder = BatchBuilder::new();
        let encoded = encode(&mut builder, producer, &numbering, &recs, self.subject.world.clock.now());
        let encoded = encoded.map_err(|error| Violation::new("A4", error.to_string()))?;
        let appended = partition.append_raw(encoded);
        match (numbering.fate, appended) {
            (Fate::Stored, appended) => self.placed(at, &topic, &recs, appended).map(drop),
            (Fate::Duplicate { offset, .. }, Ok(appended)) => {
                match appended.is_duplicate() && appended.offset().0 == offset {
                    true => Ok(()),
                    false => Err(Violation::new(
                        "X1",
                        format!("stored at {}, not a duplicate of {offset}", appended.offset()),
                    )),
                }
            }
            (Fate::Duplicate { may_be_forgotten: true, .. }, Err(Error::OutOfOrderSequence { .. })) => Ok(()),
            (Fate::OutOfOrder, Err(Error::OutOfOrderSequence { .. })) => Ok(()),
            (Fate::Fenced, Err(Error::ProducerFenced { .. })) => Ok(()),
            (_, Err(Error::BatchTooLarge { .. })) => Ok(()),
            (fate, Ok(appended)) => {
                Err(Violation::new("X2", format!("stored at {}, and it should be {fate:?}", appended.offset())))
            }
            (_, Err(error)) => self.explain(error).map(drop),
        }
    }

    /// Takes the outcome of an append into the model.
    pub(super) fn placed<'a>(
        &mut self,
        at: At,
        topic: &Topic,
        recs: &[Rec],
        appended: Result<Appended<'a>, Error>,
    ) -> Result<Option<Appended<'a>>, Violation> {
        let is_each = topic.config().sync_rule() == Durability::Each;
        let is_append_time = self.subject.options.is_append_time;
        if let (Ok(_), Some((number, partition))) = (&appended, self.model.partition(at)) {
            let (name, number, end) = (TOPICS[at.topic as usize], number as u32, partition.end());
            if self.model.groups.pass_over_none(name, number, end).is_err() {
                // Of an earlier topic of this name, perhaps, whose offsets were removed before this one was made.
                self.absorb_orphans()?;
            }
            self.model.groups.pass_over_none(name, number, end)?;
        }
        let Some(partition) = self.model.partition_mut(at) else {
            return Err(Violation::new("L2", "appended to a topic that is not there"));
        };
        let (end, count) = (partition.end(), recs.len() as u64);
        let since = Some(self.subject.world.clock.now().0);
        let take = |partition: &mut super::model::Partition, timestamp: Option<i64>| {
            let stored = |rec: &Rec| match (rec.timestamp, is_append_time) {
                (None, _) | (_, true) => Rec { timestamp, since, ..*rec },
                _ => Rec { since, ..*rec },
            };
            let recs: Vec<Rec> = recs.iter().map(stored).collect();
            partition.push(&recs);
        };
        match appended {
            Ok(appended) => {
                if (appended.offset().0, appended.last_offset().0, appended.is_duplicate())
                    != (end, end + count - 1, false)
                {
                    return Err(Violation::new(
                        "A1",
                        format!("stored at {}, where {end} comes next", appended.offset()),
                    ));
                }
                partition.doubt.clear();
                take(partition, Some(appended.timestamp().0));
                partition.acknowledged = end + count;
                if is_each {
                    partition.synced = end + count;
                }
                Ok(Some(appended))
            }
            Err(Error::NotSynced { offset, .. }) if offset.0 == end => {
                take(partition, None);
                Ok(None)
            }
            Err(Error::BatchTooLarge { .. } | Error::InvalidTransaction { .. }) => Ok(None),
            Err(error) => {
                if matches!(error, Error::Io { action: "write", .. }) {
                    partition.doubt = recs.to_vec();
                    if is_append_time {
                        partition.doubt.iter_mut().for_each(|rec| rec.timestamp = None);
                    }
                }
                self.explain(error)?;
                Ok(None)
            }
        }
    }

    fn sync(&mut self) -> Verdict {
        match self.log.sync() {
            Ok(()) => {
                self.subject.watch(self.model)?;
                let all = self.model.partitions_mut().all(|partition| partition.synced == partition.end());
                if all { Ok(()) } else { Err(Violation::new("D1", "synced, and something is not")) }
            }
            Err(error) => self.explain(error).map(drop),
        }
    }

    fn maintain(&mut self) -> Verdict {
        self.subject.world.clock.advance(Duration::from_millis(1));
        let began = self.subject.world.clock.monotonic();
        let outcome = self.log.maintain();
        let clock = &self.subject.world.clock;
        let times = (clock.now().0, clock.forward().0);
        let is_done = outcome.is_ok();
        if let Err(error) = outcome {
            self.explain(error)?;
        }
        if self.subject.options.transacts() {
            let log = self.log.clone();
            self.subject.absorb_markers(&log, self.model)?;
        }
        for (number, name) in TOPICS.into_iter().enumerate() {
            let (Some(topic), Some(live)) = (self.log.find_topic(name), &mut self.model.topics[number].live) else {
                continue;
            };
            for (at, expected) in live.partitions.iter_mut().enumerate() {
                let Ok(partition) = topic.partition(at as u32) else { continue };
                let waited = expected.staged_since.map_or(Duration::ZERO, |since| began.saturating_sub(since));
                let written = partition.segments().last().map_or(u64::MAX, |last| last.end().0);
                if is_done && waited > LINGER && written < expected.end_of_records() && !is_poisoned(&partition) {
                    let what = format!("{written} of {} written after {waited:?}", expected.end());
                    return Err(Violation::new("linger", what));
                }
                let start = partition.offsets().start.0;
                if start > expected.start {
                    check_retained(&live.config, &partition, expected, start, times)?;
                    expected.raise_start(start);
                }
                if !is_done {
                    expected.start_doubt = expected.start_doubt.max(expected.start_flight);
                }
            }
        }
        self.absorb_groups()
    }

    fn delete_before(&mut self, at: At, share: u8) -> Verdict {
        let Some(live) = &self.model.topics[at.topic as usize].live else { return Ok(()) };
        let deletes = live.config.cleanup.deletes();
        let Some((number, partition)) = self.model.partition(at) else { return Ok(()) };
        let to = partition.share(share);
        let outcome = self.log.delete_before(TOPICS[at.topic as usize], number as u32, Offset(to));
        let found = self.log.find_topic(TOPICS[at.topic as usize]);
        let start = found.and_then(|topic| topic.partition(number as u32).ok()).map(|found| found.offsets().start.0);
        let Some(partition) = self.model.partition_mut(at) else { return Ok(()) };
        match outcome {
            Ok(()) => {
                let expected = to.max(partition.start);
                if start != Some(expected) {
                    return Err(Violation::new("T2", format!("starts at {start:?}, not at {expected}")));
                }
                partition.raise_start(expected);
                Ok(())
            }
            Err(Error::CompactedTopic { .. }) if !deletes => Ok(()),
            Err(error) => {
                if start == Some(to) {
                    partition.raise_start(to);
                }
                partition.start_doubt = partition.start_doubt.max(Some(to));
                self.explain(error).map(drop)
            }
        }
    }

    fn alter(&mut self, topic: u8, config: TopicConfig) -> Verdict {
        match self.log.alter_topic(TOPICS[topic as usize], config) {
            Ok(()) => {
                self.model.catalog_stored();
                if let Some(live) = &mut self.model.topics[topic as usize].live {
                    live.set_config(config);
                }
                Ok(())
            }
            Err(error) => self.explain(error).map(drop),
        }
    }

    fn delete(&mut self, topic: u8) -> Verdict {
        let name = TOPICS[topic as usize];
        let outcome = self.log.delete_topic(name);
        let is_gone = self.log.find_topic(name).is_none();
        let was_there = self.model.topics[topic as usize].live.is_some();
        if was_there && is_gone {
            self.model.catalog_stored();
            self.model.topics[topic as usize].live = None;
            self.subject.forget(name);
        }
        self.note_write(false, None)?;
        let may_be_left = self.model.topics[topic as usize].may_be_left;
        match outcome {
            Ok(()) if (was_there || may_be_left) && is_gone => {
                self.model.topics[topic as usize].may_be_left = false;
                // What failed does not come back, for whoever has the name next.
                self.model.groups.doubt.clear();
                self.absorb_groups().and_then(|()| self.no_offsets_of(name))
            }
            Ok(()) => Err(Violation::new("L2", "a topic that was not there was deleted, or still is")),
            Err(Error::TopicNotFound { .. }) if !was_there => Ok(()),
            Err(error) => self.explain(error).map(drop),
        }
    }

    fn no_offsets_of(&mut self, name: &str) -> Verdict {
        // Nor does a transaction bring any back that commits later.
        match self.model.groups.fold().keys().any(|key| key.1 == name) || self.model.groups.may_come(name) {
            true => Err(Violation::new("G5", format!("{name} was deleted, and groups have offsets of it"))),
            false => {
                // Gone for good.
                self.model.groups.synced = self.model.groups.end();
                Ok(())
            }
        }
    }

    /// Sees to it that there is a topic for groups; `false` if that failed.
    pub(super) fn has_groups(&mut self) -> Result<bool, Violation> {
        if self.log.find_topic(OFFSETS).is_none() {
            match self.log.topic(OFFSETS) {
                Ok(_) => self.model.catalog_stored(),
                Err(error) => return self.explain(error).map(|_| false),
            }
        }
        Ok(true)
    }

    fn commit(&mut self, group: u8, keys: &[Key], offset: u64) -> Verdict {
        if !self.has_groups()? {
            return Ok(());
        }
        let offsets: Vec<_> = keys.iter().map(|key| GroupOffset::new(key.1, key.2, Offset(offset))).collect();
        let outcome = self.log.group(GROUPS[group as usize]).and_then(|group| group.commit_all(&offsets));
        if outcome.is_ok() {
            keys.iter().try_for_each(|key| self.is_synced_below(key.1, key.2, Offset(offset)))?;
        }
        self.written(outcome)
    }

    /// A group goes on from where the partition ends, if no power is cut.
    fn commit_end(&mut self, group: u8, at: At) -> Verdict {
        let Some((number, partition)) = self.model.partition(at) else { return Ok(()) };
        let (number, end) = (number as u32, partition.end());
        if !self.has_groups()? {
            return Ok(());
        }
        let offset = GroupOffset::new(TOPICS[at.topic as usize], number, Offset(end));
        let outcome =
            self.log.group(GROUPS[group as usize]).and_then(|group| group.commit_with(&[offset], Ack::Written));
        self.note_write(outcome.is_ok(), None)?;
        // Nobody asks what is committed: that would sync it.
        outcome.map_or_else(|error| self.explain(error).map(drop), Ok)
    }

    /// A group goes on from `offset`: what lies below must not be lost, nor anything be appended in its place.
    pub(super) fn is_synced_below(&self, topic: &str, partition: u32, offset: Offset) -> Verdict {
        let topic = self.log.find_topic(topic);
        let Some(Ok(partition)) = topic.map(|topic| topic.partition(partition)) else { return Ok(()) };
        let offsets = partition.offsets();
        match offsets.synced < offsets.end.min(offset) {
            true => Err(Violation::new("G1", format!("{offset} was committed in {offsets:?}"))),
            false => Ok(()),
        }
    }

    fn delete_group(&mut self, group: u8) -> Verdict {
        if self.log.find_topic(OFFSETS).is_none() {
            return Ok(());
        }
        let outcome = self.log.group(GROUPS[group as usize]).and_then(|group| group.delete());
        let is_gone = outcome.is_ok();
        self.written(outcome)?;
        if is_gone {
            self.model.groups.doubt.clear();
        }
        Ok(())
    }

    fn written(&mut self, outcome: Result<(), Error>) -> Verdict {
        self.note_write(outcome.is_ok(), None)?;
        match outcome {
            Ok(()) => self.absorb_groups(),
            Err(error) => self.explain(error).map(drop),
        }
    }

    /// A batch that was handed out once stands like that.
    fn served(&mut self, at: At, batches: &[u8]) -> Verdict {
        let Some(partition) = self.model.partition_mut(at) else { return Ok(()) };
        // Compaction writes them anew.
        let mut rest = if partition.compacted.is_some() { &[] } else { batches };
        while let Ok(header) = BatchHeader::read(rest) {
            let (batch, behind) = rest.split_at(header.batch_len as usize);
            let digest = crate::sim::digest(batch);
            if *partition.served.entry(header.base_offset.0).or_insert(digest) != digest {
                return Err(Violation::new("A3", format!("the batch at {} is another", header.base_offset)));
            }
            rest = behind;
        }
        Ok(())
    }

    fn read(&mut self, at: At, seed: u64) -> Verdict {
        let Some((number, expected)) = self.model.partition(at) else { return Ok(()) };
        let (start, end) = (expected.start, expected.end());
        let Some(partition) = self.found(at, number)? else { return Ok(()) };
        for outside in [start.checked_sub(1), Some(end + 1)].into_iter().flatten() {
            match partition.read(Offset(outside)) {
                Err(Error::OffsetOutOfRange { start: from, end: to, .. }) if (from.0, to.0) == (start, end) => {}
                Err(error) => drop(self.explain(error)?),
                Ok(_) => return Err(Violation::new("R4", format!("{outside} of {start}..{end} was read"))),
            }
        }
        let from = start + seed % (end - start + 1);
        let options =
            ReadOptions::default().max_bytes((seed >> 32) as usize % 500).max_records(1 + (seed >> 48) as usize % 9);
        // Before the read: if that writes what is staged, it writes what was served here.
        match partition.fetch(Offset(from), options) {
            Ok(batches) if batches.next_offset().0 > end => {
                return Err(Violation::new("R2", "fetched beyond the end"));
            }
            Ok(batches) => self.served(at, batches.bytes())?,
            Err(error) => drop(self.explain(error)?),
        }
        let read = match partition.read_with(Offset(from), options) {
            Ok(read) => read,
            Err(error) => return self.explain(error).map(drop),
        };
        let mut found = Vec::new();
        check(&read, from, &mut found)?;
        let (is_stuck, now) = (self.subject.is_stuck, self.subject.world.clock.forward().0);
        let Some((_, expected)) = self.model.partition(at) else { return Ok(()) };
        expected.is_read(from, read.next_offset().0, &found, now)?;
        if read.next_offset().0 == from && from < end && !is_stuck {
            return Err(Violation::new("R1", format!("nothing at {from}, and {end} is the end")));
        }
        Ok(())
    }

    fn found(&mut self, at: At, number: usize) -> Result<Option<Partition>, Violation> {
        let topic = self.log.find_topic(TOPICS[at.topic as usize]);
        let Some(topic) = topic else { return Err(Violation::new("L2", "a topic is gone")) };
        topic.partition(number as u32).map(Some).map_err(|error| Violation::new("open", error.to_string()))
    }

    fn offset_at(&mut self, at: At, seed: u64) -> Verdict {
        let Some((number, expected)) = self.model.partition(at) else { return Ok(()) };
        let records = expected.from(expected.start);
        if records.is_empty() || records.iter().any(|rec| rec.timestamp.is_none()) {
            return Ok(());
        }
        let around = records[seed as usize % records.len()].timestamp.unwrap_or(0);
        let time = Timestamp((around + (seed >> 60) as i64 % 3 - 1).max(0));
        let now = self.subject.world.clock.forward().0;
        let offsets = (expected.start..).zip(records);
        let fits = offsets.filter(|(_, rec)| rec.timestamp.is_some_and(|timestamp| timestamp >= time.0));
        let removable = expected.removable(now, false);
        let fits: Vec<_> = fits.map(|(offset, _)| (Offset(offset), removable.may_be_gone(offset))).collect();
        // The first that is there: the first that must be, or one before it that may be.
        let last = fits.iter().position(|(_, may_be_removed)| !may_be_removed);
        let expected: Vec<_> = fits.iter().take(last.map_or(usize::MAX, |last| last + 1)).map(|fit| fit.0).collect();
        let Some(partition) = self.found(at, number)? else { return Ok(()) };
        match partition.offset_at(time) {
            Ok(Some(found)) if expected.contains(&found) => Ok(()),
            Ok(None) if last.is_none() => Ok(()),
            Ok(found) if !self.subject.is_stuck => {
                Err(Violation::new("R6", format!("time {time} is at {found:?}, not at {expected:?}")))
            }
            Ok(_) => Ok(()),
            Err(error) => self.explain(error).map(drop),
        }
    }

    fn read_last(&mut self, at: At, count: u8) -> Verdict {
        let Some((number, _)) = self.model.partition(at) else { return Ok(()) };
        let Some(partition) = self.found(at, number)? else { return Ok(()) };
        let read = match partition.read_last(count.into()) {
            Ok(read) => read,
            Err(error) => return self.explain(error).map(drop),
        };
        let mut found = Vec::new();
        for records in &read {
            let from = records.iter().next().map_or(0, |record| record.offset.0);
            check(records, from, &mut found)?;
        }
        let (is_stuck, now) = (self.subject.is_stuck, self.subject.world.clock.forward().0);
        let Some((_, expected)) = self.model.partition(at) else { return Ok(()) };
        let removable = expected.removable(now, false);
        let must = (expected.start..expected.end()).filter(|offset| !removable.may_be_gone(*offset)).count();
        let from = found.first().map_or(expected.end(), |record| record.offset);
        match is_stuck {
            true => Ok(()),
            false if found.len() < must.min(count.into()) => Err(Violation::new("R1", "too few of the last")),
            false => expected.is_read(from, expected.end(), &found, now),
        }
    }
}

/// A producer that wrote nothing for a day may be forgotten. Kafka: `producer.id.expiration.ms`.
const FORGOTTEN_MS: i64 = 86_400_000;

/// Whether retention may have removed what is before `start`: all of it old, or enough left.
fn check_retained(
    config: &TopicConfig,
    partition: &Partition,
    expected: &super::model::Partition,
    start: u64,
    (now, forward): (i64, i64),
) -> Verdict {
    let removed = (expected.start..start).zip(expected.from(expected.start));
    let removable = expected.removable(forward, false);
    let is_fresh = |(offset, rec): (u64, &Rec)| {
        rec.timestamp.is_some_and(|at| now.saturating_sub(at) <= config.retention_ms)
            && !removable.may_be_gone(offset)
    };
    let by_age = config.retention_ms >= 0 && !removed.clone().any(is_fresh);
    let count = start - expected.start;
    let left: u64 = partition.segments().iter().filter(|kept| kept.base().0 >= start).map(|kept| kept.len()).sum();
    // Compaction takes more of it afterwards, in the same call.
    let is_left = left as i64 >= config.retention_bytes || expected.compacted.is_some();
    let by_size = config.retention_bytes >= 0 && is_left;
    match by_age || by_size {
        true => Ok(()),
        false => Err(Violation::new("T4", format!("{count} records were removed, {left} bytes are left"))),
    }
}

pub(super) fn with_records<R>(recs: &[Rec], append: impl FnOnce(&[Record<'_>]) -> R) -> R {
    let owned: Vec<_> = recs.iter().map(|rec| (rec, key(rec.id), value(rec.id, rec.len.into()))).collect();
    // What a tombstone is told by.
    let names: Vec<_> = owned.iter().map(|(_, _, value)| [Header::new("id", value)]).collect();
    let mut records = Vec::with_capacity(owned.len());
    for ((rec, key, value), name) in owned.iter().zip(&names) {
        let mut record = Record::new(value);
        record.key = key.as_ref().map(|key| &key[..]);
        record.timestamp = rec.timestamp.map(Timestamp);
        if is_tombstone(rec.id) {
            record = Record { value: None, headers: name, ..record };
        }
        records.push(record);
    }
    append(&records)
}

fn encode<'b>(
    builder: &'b mut BatchBuilder,
    producer: u8,
    numbering: &Numbering,
    recs: &[Rec],
    now: Timestamp,
) -> Result<&'b [u8], Error> {
    let producer = Producer {
        id: ProducerId(producer.into()),
        epoch: ProducerEpoch(numbering.epoch),
        base_sequence: numbering.sequence,
        is_transactional: producer == super::model::IN_TRANSACTION,
    };
    builder.begin(BatchOptions::default().producer(producer));
    with_records(recs, |records| records.iter().try_for_each(|record| builder.push(record, now)))?;
    Ok(builder.finish()?)
}

impl Explored {
    /// Finds out whether a partition was poisoned: what it did not sync may be dropped from the cache at any time.
    fn notice_poison(&mut self, model: &mut Model) {
        let Some(log) = &self.log else { return };
        for (name, topic) in TOPICS.into_iter().zip(&mut model.topics) {
            let (Some(found), Some(live)) = (log.find_topic(name), &mut topic.live) else { continue };
            for (number, expected) in live.partitions.iter_mut().enumerate() {
                let partition = found.partition(number as u32);
                let is_poisoned = partition.is_ok_and(|partition| is_poisoned(&partition));
                if is_poisoned {
                    self.is_stuck = true;
                    expected.may_be_dropped = true;
                }
            }
        }
        let offsets = log.find_topic(OFFSETS).and_then(|topic| topic.partition(0).ok());
        if offsets.is_some_and(|partition| is_poisoned(&partition)) {
            self.is_stuck = true;
            model.groups.may_be_dropped = true;
        }
    }

    /// Closes, opens without the right to change anything, compares, opens again.
    fn look_only(&mut self, model: &mut Model) -> Verdict {
        let struck = self.world.disk.struck();
        self.close_log(model)?;
        model.killed();
        let disk = Arc::clone(&self.world.disk);
        disk.set_read_only(true);
        let opened = builder(&self.world, &self.options).read_only().strict().open();
        let looked = opened.map_err(Blind::Failed).and_then(|log| {
            disk.pause_faults(true);
            let mut looked = look(&log, self.world.clock.forward(), &self.options);
            if let Ok(found) = &mut looked {
                found.is_settled = false;
            }
            disk.pause_faults(false);
            refuses_changes(&log).map_err(Blind::Wrong)?;
            looked
        });
        disk.set_read_only(false);
        match looked {
            Ok(found) => {
                settle(&mut model.clone(), &found).map_err(|violation| named("read-only", violation))?;
            }
            Err(Blind::Wrong(violation)) => return Err(violation),
            Err(Blind::Failed(_)) if disk.struck() > struck => {}
            Err(Blind::Failed(error)) => return Err(Violation::new("L3", refusal(error).to_string())),
        }
        if let Ok(mut again) = Self::open(&self.world, &self.options) {
            self.is_stuck = false;
            (self.log, self.found) = (again.log.take(), again.found.take());
            self.settle(model)?;
        }
        Ok(())
    }
}

fn refuses_changes(log: &Log) -> Verdict {
    let changed = match log.find_topic(TOPICS[0]) {
        Some(topic) => topic.append(Record::new("no").key("no")).map(drop),
        None => log.create_topic("no", TopicConfig::default()).map(drop),
    };
    match changed {
        Err(Error::ReadOnly) => Ok(()),
        other => Err(Violation::new("L3", format!("a change of a read-only log: {other:?}"))),
    }
}

fn is_poisoned(partition: &Partition) -> bool {
    let end = partition.offsets().end;
    matches!(partition.wait_readable(end, Duration::ZERO), Err(Error::Poisoned { .. }))
}
