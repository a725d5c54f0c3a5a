//! What groups have committed: the fold of the records of one partition of `__consumer_offsets`.
//!
//! One rule decides: **of all records of a group, topic and partition that count, the one with the highest log
//! position holds**, and if that is a tombstone, there is no offset. A plain record counts at once; one inside a
//! transaction waits, and counts when the transaction commits, or never.
//!
//! ```text
//! position   5            6            7            8
//! producer   7: set 10    -: set 11    7: commit    ...
//! offset     none         11           11, because 6 is above 5
//! ```
//!
//! Compaction keeps the last record of each key, so the rule gives the same state before and after it. (A broker
//! forgets that a tombstone was above a waiting commit, and may bring the offset back.)
//!
//! Invariants:
//! - [`Offsets::replay`] and [`Offsets::end_transaction`] are the only mutations. All else returns records, which
//!   have no effect until the caller appended and replayed them.
//! - A group is listed while it has an offset that is told, or a record of its own, and only then.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use super::records::{Key, OffsetValue, offset_key};
use crate::config::GroupConfig;
use crate::error::{Error, Result};
use crate::probe;
use crate::types::{LeaderEpoch, Offset, ProducerId, Timestamp};
use crate::wire::Invalid;

/// What a group committed for one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Committed {
    /// The offset it goes on from.
    pub offset: Offset,
    /// The leader epoch of the record before it, as far as the committer knew.
    pub leader_epoch: LeaderEpoch,
    /// The committer's own text.
    pub metadata: Box<str>,
    /// When it was committed.
    pub commit_timestamp: Timestamp,
    /// When it is removed, whatever the retention, if the commit said so.
    pub(crate) expire_timestamp: Option<Timestamp>,
    /// Where in the log it is.
    pub(crate) position: Offset,
}

/// An offset for a group to commit: the one to go on from, which is the last one processed plus one.
///
/// ```
/// use chiplog::{GroupOffset, Offset};
///
/// let done = GroupOffset::new("orders", 0, Offset(42)).metadata("by worker 7");
/// assert_eq!(done.offset, Offset(42));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupOffset<'a> {
    /// The topic that was read.
    pub topic: &'a str,
    /// The partition that was read.
    pub partition: u32,
    /// The offset to go on from.
    pub offset: Offset,
    /// The leader epoch of the record before it; [`LeaderEpoch::NONE`] if not known.
    pub leader_epoch: LeaderEpoch,
    /// A text of the committer's own.
    pub metadata: &'a str,
}

impl<'a> GroupOffset<'a> {
    /// An offset without metadata.
    #[must_use]
    pub fn new(topic: &'a str, partition: u32, offset: Offset) -> Self {
        Self { topic, partition, offset, leader_epoch: LeaderEpoch::NONE, metadata: "" }
    }

    /// Sets a text of the committer's own, which is given back with the offset.
    ///
    /// Default: empty. Range: 4,096 UTF-16 units, unless the group settings say otherwise. Kafka:
    /// `offset.metadata.max.bytes`.
    #[must_use]
    pub fn metadata(mut self, metadata: &'a str) -> Self {
        self.metadata = metadata;
        self
    }

    /// Sets the leader epoch of the last record processed.
    #[must_use]
    pub fn leader_epoch(mut self, epoch: LeaderEpoch) -> Self {
        self.leader_epoch = epoch;
        self
    }
}

/// A record to append to `__consumer_offsets`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRecord {
    /// The key.
    pub key: Vec<u8>,
    /// The value; none makes it a tombstone.
    pub value: Option<Vec<u8>>,
}

/// A record of `__consumer_offsets` as it lies in the log.
#[derive(Debug, Clone, Copy)]
pub struct LogRecord<'a> {
    /// Its offset.
    pub position: Offset,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; none for a tombstone.
    pub value: Option<&'a [u8]>,
    /// The producer whose transaction it is part of, if it is.
    pub transaction: Option<ProducerId>,
}

/// The offsets of all groups of one partition of `__consumer_offsets`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Offsets {
    groups: BTreeMap<Box<str>, Group>,
    /// What open transactions wait to set, or to remove.
    waiting: BTreeMap<ProducerId, BTreeMap<Slot, Waiting>>,
    /// Topics that are being deleted: what was committed for them is there, and not told.
    hidden: BTreeSet<Box<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Group {
    /// By topic, then by partition.
    offsets: BTreeMap<Box<str>, BTreeMap<u32, Committed>>,
    /// The key versions of the group's own records: it has, or had, members, and only its coordinator knows which.
    own_records: BTreeSet<i16>,
}

/// What a commit is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    group: Box<str>,
    topic: Box<str>,
    partition: u32,
}

/// What holds once the transaction commits.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Waiting {
    position: Offset,
    committed: Option<Committed>,
}

/// Mutation, by records only.
impl Offsets {
    /// Takes in one record of the log. Records are given in log order, those of control batches left out.
    ///
    /// # Errors
    ///
    /// If it is the record of a committed offset and cannot be read. Nothing is changed then.
    pub(crate) fn replay(&mut self, record: LogRecord<'_>) -> Result<(), Invalid> {
        let key = record.key.ok_or(Invalid { at: 0, what: "group record without a key" })?;
        match Key::decode(key)? {
            Key::Other(_) => {}
            Key::Group { version, group } => self.replay_group(version, group, record.value.is_some()),
            Key::Offset { group, topic, partition } => {
                let value = record.value.map(OffsetValue::decode).transpose()?;
                let committed = value.and_then(|value| Committed::from_value(&value, record.position));
                let waiting = Waiting { position: record.position, committed };
                match record.transaction {
                    None => self.apply((group, topic, partition), waiting),
                    Some(producer) => {
                        let slot = Slot { group: group.into(), topic: topic.into(), partition };
                        self.waiting.entry(producer).or_default().insert(slot, waiting);
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes in the end of a producer's transaction, as its marker tells it.
    pub(crate) fn end_transaction(&mut self, producer: ProducerId, is_committed: bool) {
        let Some(waiting) = self.waiting.remove(&producer) else { return };
        match is_committed {
            true => probe::reached("groups.waited"),
            false => probe::reached("groups.waited_in_vain"),
        }
        if is_committed {
            for (Slot { group, topic, partition }, waiting) in waiting {
                self.apply((&group, &topic, partition), waiting);
            }
        }
    }

    fn replay_group(&mut self, version: i16, name: &str, is_there: bool) {
        let group = self.groups.entry(name.into()).or_default();
        if is_there {
            group.own_records.insert(version);
        } else {
            group.own_records.remove(&version);
        }
        self.forget_if_empty(name);
    }

    /// Lets a record count for a group, topic and partition, unless one above it in the log did.
    fn apply(&mut self, (group, topic, partition): (&str, &str, u32), new: Waiting) {
        let topics = self.groups.get_mut(group).map(|group| &mut group.offsets);
        let known = topics.and_then(|topics| topics.get_mut(topic)?.get_mut(&partition));
        if known.as_ref().is_some_and(|known| known.position >= new.position) {
            probe::reached("groups.overtaken");
            if !probe::planted("groups.overtaken_counts") {
                return;
            }
        }
        match (known, new.committed) {
            (Some(known), Some(committed)) => *known = committed,
            (None, Some(committed)) => {
                let topics = &mut self.groups.entry(group.into()).or_default().offsets;
                topics.entry(topic.into()).or_default().insert(partition, committed);
            }
            (_, None) => self.remove(Slot { group: group.into(), topic: topic.into(), partition }, new.position),
        }
    }

    /// Lets a tombstone count.
    fn remove(&mut self, slot: Slot, position: Offset) {
        if let Some(group) = self.groups.get_mut(&slot.group)
            && let Some(partitions) = group.offsets.get_mut(&slot.topic)
        {
            partitions.remove(&slot.partition);
            if partitions.is_empty() {
                group.offsets.remove(&slot.topic);
            }
        }
        self.forget_if_empty(&slot.group);
        self.forget_waiting(&slot, position);
    }

    /// A tombstone leaves no position behind that a commit below it could be compared with later.
    fn forget_waiting(&mut self, slot: &Slot, below: Offset) {
        for waiting in self.waiting.values_mut() {
            if waiting.get(slot).is_some_and(|waiting| waiting.position < below) {
                probe::reached("groups.removed_while_waiting");
                waiting.remove(slot);
            }
        }
        self.waiting.retain(|_, waiting| !waiting.is_empty());
    }

    fn forget_if_empty(&mut self, name: &str) {
        if self.groups.get(name).is_some_and(|group| *group == Group::default()) {
            self.groups.remove(name);
        }
    }
}

/// What is told of deleted topics.
impl Offsets {
    /// Tells no more what was committed for a topic that is being deleted: the tombstones come last, or, in a log that is
    /// only read, never.
    pub(crate) fn hide_topic(&mut self, topic: &str) {
        self.hidden.insert(topic.into());
    }

    /// Tells again what is committed for topics of this name.
    pub(crate) fn show_topic(&mut self, topic: &str) {
        self.hidden.remove(topic);
    }

    /// The topics of which nothing is told.
    #[cfg(feature = "sim")]
    pub(crate) fn hidden_topics(&self) -> impl Iterator<Item = &str> {
        self.hidden.iter().map(|topic| &**topic)
    }
}

/// Questions.
impl Offsets {
    /// What a group committed for a partition.
    pub(crate) fn committed(&self, group: &str, topic: &str, partition: u32) -> Option<&Committed> {
        let offsets = &self.groups.get(group)?.offsets;
        offsets.get(topic).filter(|_| !self.hidden.contains(topic))?.get(&partition)
    }

    /// Whether an open transaction waits to commit an offset of this partition.
    pub(crate) fn is_unstable(&self, group: &str, topic: &str, partition: u32) -> bool {
        let slot = Slot { group: group.into(), topic: topic.into(), partition };
        self.waiting.values().any(|waiting| waiting.contains_key(&slot))
    }

    /// Of which partitions an open transaction waits to commit an offset.
    pub(super) fn unstable(&self, group: &str) -> impl Iterator<Item = (&str, u32)> {
        let slots = self.waiting.values().flat_map(BTreeMap::keys).filter(move |slot| *slot.group == *group);
        slots.map(|slot| (&*slot.topic, slot.partition))
    }

    /// All that was committed, and all that open transactions wait to: group, topic, partition.
    pub(super) fn all_slots(&self) -> impl Iterator<Item = (&str, &str, u32)> {
        let committed = self.groups.iter().flat_map(|(name, group)| {
            let slots = group
                .offsets
                .iter()
                .flat_map(|(topic, partitions)| partitions.keys().map(move |partition| (&**topic, *partition)));
            slots.map(move |(topic, partition)| (&**name, topic, partition))
        });
        let waiting = self.waiting.values().flat_map(BTreeMap::keys);
        let waiting = waiting.filter(|_| !probe::planted("groups.waiting_not_removed"));
        committed.chain(waiting.map(|slot| (&*slot.group, &*slot.topic, slot.partition)))
    }

    /// Whether a group has an offset, or waits for one.
    pub(super) fn has_offsets(&self, group: &str) -> bool {
        self.all_offsets(group).next().is_some() || self.unstable(group).next().is_some()
    }

    /// Whether a group has records of its own besides those of one key version.
    pub(super) fn has_records_besides(&self, group: &str, version: i16) -> bool {
        self.groups.get(group).is_some_and(|group| group.own_records.iter().any(|known| *known != version))
    }

    /// Everything a group committed: topic, partition, and what; by topic and partition.
    pub(crate) fn offsets(&self, group: &str) -> impl Iterator<Item = (&str, u32, &Committed)> {
        self.all_offsets(group).filter(|(topic, ..)| !self.hidden.contains(*topic))
    }

    /// The same, with what is not told.
    pub(super) fn all_offsets(&self, group: &str) -> impl Iterator<Item = (&str, u32, &Committed)> {
        let topics = self.groups.get(group).into_iter().flat_map(|group| &group.offsets);
        topics.flat_map(|(topic, partitions)| {
            partitions.iter().map(move |(partition, committed)| (&**topic, *partition, committed))
        })
    }

    /// The names of all groups, sorted: those with an offset, and those with a record of their own.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &str> {
        let is_told = |group: &Group| {
            !group.own_records.is_empty() || group.offsets.keys().any(|topic| !self.hidden.contains(topic))
        };
        self.groups.iter().filter(move |(_, group)| is_told(group)).map(|(name, _)| &**name)
    }
}

impl Committed {
    /// `None` for a negative offset: Kafka stores it unchecked, and answers with it as it does with no offset.
    fn from_value(value: &OffsetValue<'_>, position: Offset) -> Option<Self> {
        Some(Self {
            offset: Offset::from_wire(value.offset)?,
            leader_epoch: value.leader_epoch,
            metadata: value.metadata.into(),
            commit_timestamp: value.commit_time,
            expire_timestamp: value.expire_time,
            position,
        })
    }

    /// The record that sets a lower offset, and all else as it is.
    pub(crate) fn lowered(&self, group: &str, topic: &str, partition: u32, to: Offset) -> Option<GroupRecord> {
        let value = OffsetValue {
            offset: to.to_wire(),
            leader_epoch: LeaderEpoch::NONE,
            metadata: &self.metadata,
            commit_time: self.commit_timestamp,
            expire_time: self.expire_timestamp,
        };
        Some(GroupRecord { key: offset_key(group, topic, partition)?, value: value.encode() })
    }

    /// Whether it is past its retention, which counts from its commit, or from a later `since`.
    pub(super) fn is_due(&self, now: Timestamp, since: Timestamp, config: &GroupConfig) -> bool {
        if let Some(expire) = self.expire_timestamp {
            return now >= expire;
        }
        let Some(retention) = config.offset_retention else { return false };
        let since = self.commit_timestamp.max(since);
        // A clock that was set back gives a negative age: not due.
        let age = u64::try_from(now.0.saturating_sub(since.0)).unwrap_or(0);
        self.commit_timestamp.is_some() && u128::from(age) >= retention.as_millis()
    }
}

impl GroupOffset<'_> {
    /// Refuses what cannot be stored. `index` is its place among those of the commit.
    pub(super) fn check(&self, index: usize, config: &GroupConfig) -> Result<()> {
        let len = self.metadata.encode_utf16().count() as u64;
        let limit = u64::from(config.max_metadata_units);
        if len > limit {
            return Err(Error::TooLong { what: "the metadata of an offset", len, limit });
        }
        if self.offset > Offset::MAX {
            return Err(Error::InvalidRecord { index, reason: "the offset is above 2^63 - 1" });
        }
        if self.topic.len() > MAX_TEXT_LEN || i32::try_from(self.partition).is_err() {
            return Err(Error::InvalidRecord { index, reason: TOO_LARGE });
        }
        Ok(())
    }

    /// The record that commits it, at `now`, until `expire` if that is told.
    pub(super) fn to_record(
        self,
        group: &str,
        index: usize,
        now: Timestamp,
        expire: Option<Timestamp>,
        config: &GroupConfig,
    ) -> Result<GroupRecord> {
        self.check(index, config)?;
        let value = OffsetValue {
            offset: self.offset.to_wire(),
            leader_epoch: self.leader_epoch,
            metadata: self.metadata,
            commit_time: now,
            expire_time: expire,
        };
        let too_large = || Error::InvalidRecord { index, reason: TOO_LARGE };
        let key = offset_key(group, self.topic, self.partition).ok_or_else(too_large)?;
        Ok(GroupRecord { key, value: Some(value.encode().ok_or_else(too_large)?) })
    }
}

/// Checks that an id can be a consumer group's.
///
/// # Errors
///
/// [`Error::InvalidGroupId`].
pub(crate) fn check_group_id(id: &str) -> Result<()> {
    let invalid = |id: &str, reason| Err(Error::InvalidGroupId { id: id.into(), reason });
    match id.len() {
        0 => invalid(id, "it is empty"),
        1..=MAX_TEXT_LEN => Ok(()),
        // An error is no place for all of it.
        _ => invalid(&id.chars().take(60).collect::<String>(), "it is longer than 32767 bytes"),
    }
}

/// What was stored under this key fits it, so there always is one.
pub(super) fn tombstone(group: &str, topic: &str, partition: u32) -> Option<GroupRecord> {
    offset_key(group, topic, partition).map(|key| GroupRecord { key, value: None })
}

/// What the stored form can hold.
const MAX_TEXT_LEN: usize = i16::MAX as usize;
const TOO_LARGE: &str = "a name or the partition is too large to be stored";

const _: () = assert!(mem::size_of::<Committed>() <= 80);

#[cfg(test)]
mod tests;
