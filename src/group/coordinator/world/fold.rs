//! The log of that world, and the naive fold of its records.

use std::collections::{BTreeMap, BTreeSet};

use super::GROUP;
use crate::config::GroupConfig;
use crate::group::Coordinator;
use crate::group::offsets::{GroupRecord, LogRecord};
use crate::group::records::{Key, OffsetValue};
use crate::types::{Offset, ProducerId, Timestamp};

/// Topic and partition of one of the group's offsets.
pub(super) type Slot = (Box<str>, u32);

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Log {
    /// By position.
    entries: Vec<Logged>,
    end: Offset,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Logged {
    pub(super) position: Offset,
    pub(super) entry: LogEntry,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LogEntry {
    Record { record: GroupRecord, transaction: Option<ProducerId> },
    Marker { producer: ProducerId, is_committed: bool },
}

impl Log {
    /// Gives out offsets, which stay without records if the append fails.
    pub(super) fn reserve(&mut self, count: usize) -> Offset {
        let base = self.end;
        self.end = base + count as u64;
        base
    }

    pub(super) fn push(&mut self, entry: LogEntry) {
        let position = self.reserve(1);
        self.insert(Logged { position, entry });
    }

    pub(super) fn insert(&mut self, logged: Logged) {
        let at = self.entries.partition_point(|other| other.position < logged.position);
        self.entries.insert(at, logged);
    }

    /// What a new coordinator knows of it.
    pub(super) fn replayed(&self, config: GroupConfig) -> Coordinator {
        let mut coordinator = Coordinator::new(config);
        for Logged { position, entry } in &self.entries {
            match entry {
                LogEntry::Record { record: GroupRecord { key, value }, transaction } => {
                    let (key, value) = (Some(&**key), value.as_deref());
                    let record = LogRecord { position: *position, key, value, transaction: *transaction };
                    let replayed = coordinator.replay(record);
                    debug_assert_eq!(replayed, Ok(()), "what we wrote reads back");
                }
                LogEntry::Marker { producer, is_committed } => coordinator.end_transaction(*producer, *is_committed),
            }
        }
        coordinator
    }

    /// What of each offset's records counts: those outside of transactions, and those whose transaction was committed; of
    /// them the last.
    fn last_that_count(&self) -> BTreeMap<&[u8], (Offset, Option<&[u8]>)> {
        let mut last: BTreeMap<&[u8], (Offset, Option<&[u8]>)> = BTreeMap::new();
        let mut open: BTreeMap<ProducerId, Vec<(&GroupRecord, Offset)>> = BTreeMap::new();
        let mut count = |record, position| {
            let GroupRecord { key, value }: &GroupRecord = record;
            let entry = last.entry(key).or_insert((position, value.as_deref()));
            if entry.0 < position {
                *entry = (position, value.as_deref());
            }
        };
        for Logged { position, entry } in &self.entries {
            match entry {
                LogEntry::Record { record, transaction: None } => count(record, *position),
                LogEntry::Record { record, transaction: Some(producer) } => {
                    open.entry(*producer).or_default().push((record, *position));
                }
                LogEntry::Marker { producer, is_committed } => {
                    let ended = open.remove(producer).into_iter().flatten().filter(|_| *is_committed);
                    ended.for_each(|(record, position)| count(record, position));
                }
            }
        }
        last
    }

    /// What the group committed, and when.
    pub(super) fn committed(&self) -> Result<BTreeMap<Slot, (Offset, Timestamp)>, String> {
        let mut committed = BTreeMap::new();
        for (key, (_, value)) in self.last_that_count() {
            let (Some(slot), Some(value)) = (slot(key), value) else { continue };
            let value = OffsetValue::decode(value).map_err(|invalid| invalid.to_string())?;
            let offset = Offset::from_wire(value.offset).ok_or("a negative offset")?;
            committed.insert(slot, (offset, value.commit_time));
        }
        Ok(committed)
    }

    /// Whether a record commits this offset.
    pub(super) fn has_offset(&self, topic: &str, offset: Offset) -> bool {
        self.entries.iter().any(|logged| match &logged.entry {
            LogEntry::Record { record: GroupRecord { key, value: Some(value) }, .. } => {
                let is_topic = slot(key).is_some_and(|(known, _)| *known == *topic);
                is_topic && OffsetValue::decode(value).is_ok_and(|value| value.offset == offset.to_wire())
            }
            _ => false,
        })
    }

    /// What an open transaction is about to change: what was committed, or removed, above it stays as it is.
    pub(super) fn unstable(&self) -> BTreeSet<Slot> {
        let last = self.last_that_count();
        let mut open: BTreeMap<ProducerId, BTreeSet<Slot>> = BTreeMap::new();
        for Logged { position, entry } in &self.entries {
            match entry {
                LogEntry::Record { record, transaction: Some(producer) } => {
                    let changes = last.get(&*record.key).is_none_or(|(above, _)| above < position);
                    open.entry(*producer).or_default().extend(slot(&record.key).filter(|_| changes));
                }
                LogEntry::Record { .. } => {}
                LogEntry::Marker { producer, .. } => drop(open.remove(producer)),
            }
        }
        open.into_values().flatten().collect()
    }

    /// Where the first transaction begins that is not over: there a cleaner stops.
    fn stable(&self) -> Offset {
        let mut open: BTreeMap<ProducerId, Offset> = BTreeMap::new();
        for Logged { position, entry } in &self.entries {
            match entry {
                LogEntry::Record { transaction: Some(producer), .. } => {
                    open.entry(*producer).or_insert(*position);
                }
                LogEntry::Record { .. } => {}
                LogEntry::Marker { producer, .. } => drop(open.remove(producer)),
            }
        }
        open.into_values().min().unwrap_or(Offset::MAX)
    }

    /// Keeps what counts, and what may still; tombstones go.
    pub(super) fn compact(&mut self) -> Result<(), String> {
        let stable = self.stable();
        let counts: BTreeSet<Offset> =
            self.last_that_count().into_values().filter(|(_, value)| value.is_some()).map(|(at, _)| at).collect();
        let config = GroupConfig::default();
        let before = self.replayed(config);
        self.entries.retain(|logged| {
            let is_marker = matches!(logged.entry, LogEntry::Marker { .. });
            is_marker || logged.position >= stable || counts.contains(&logged.position)
        });
        let after = self.replayed(config);
        if before.folded() == after.folded() {
            return Ok(());
        }
        Err(format!("compacted, {:?} became {:?}", before.folded(), after.folded()))
    }
}

impl GroupRecord {
    pub(super) fn is_group_tombstone(&self) -> bool {
        self.value.is_none() && matches!(Key::decode(&self.key), Ok(Key::Group { .. }))
    }
}

fn slot(key: &[u8]) -> Option<Slot> {
    match Key::decode(key) {
        Ok(Key::Offset { group: GROUP, topic, partition }) => Some((topic.into(), partition)),
        _ => None,
    }
}

/// The offsets that records commit.
pub(super) fn offsets_of(records: &[GroupRecord]) -> impl Iterator<Item = Slot> {
    records.iter().filter(|record| record.value.is_some()).filter_map(|record| slot(&record.key))
}

/// The offsets that records remove.
pub(super) fn tombstones_of(records: &[GroupRecord]) -> impl Iterator<Item = Slot> {
    records.iter().filter(|record| record.value.is_none()).filter_map(|record| slot(&record.key))
}
