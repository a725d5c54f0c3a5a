//! Everything there is to see of a log, read once. Each payload is checked against the id it carries.

use std::collections::{BTreeMap, BTreeSet};

use super::groups::{Fold, FoundGroupRec, read_groups};
use super::op::{Options, is_tombstone, key, value};
use super::transactions::read_marked;
use super::{GROUPS, OFFSETS, SEATS, TOPICS};
use crate::record::RecordRef;
use crate::sim::explore::Violation;
use crate::{Error, ErrorKind, Log, Offset, Offsets, Partition, Records, Timestamp, Topic, TopicConfig};

/// A log as it was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) topics: BTreeMap<&'static str, FoundTopic>,
    pub(super) groups: Fold,
    /// The records that this follows from.
    pub(super) group_records: Vec<FoundGroupRec>,
    /// The end of the topic of the groups.
    pub(super) groups_end: u64,
    /// How much of it is synced.
    pub(super) groups_synced: u64,
    /// Topics that are being deleted: their offsets are there, and not told.
    pub(super) hidden: BTreeSet<String>,
    /// When it was looked at.
    pub(super) now: i64,
    /// The seats in which a transaction is prepared; none if that cannot be told yet.
    pub(super) prepared: Option<BTreeSet<u8>>,
    /// Whether what a crash cut short was ended.
    pub(super) is_settled: bool,
}

#[derive(Debug)]
pub(super) struct FoundTopic {
    pub(super) config: TopicConfig,
    pub(super) partitions: Vec<FoundPartition>,
}

#[derive(Debug)]
pub(super) struct FoundPartition {
    pub(super) offsets: Offsets,
    /// From its start on.
    pub(super) records: Vec<FoundRecord>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FoundRecord {
    pub(super) offset: u64,
    pub(super) id: u64,
    /// Of its value: none of a tombstone.
    pub(super) len: u16,
    pub(super) timestamp: i64,
    /// Whose transaction it belongs to, or ends.
    pub(super) producer: Option<i64>,
}

/// Why a look showed nothing.
#[derive(Debug)]
pub(super) enum Blind {
    Failed(Error),
    Wrong(Violation),
}

impl From<Error> for Blind {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Looks at all of it.
pub(super) fn look(log: &Log, now: Timestamp, options: &Options) -> Result<Found, Blind> {
    let mut found = Found { now: now.0, is_settled: true, ..Found::default() };
    for name in TOPICS {
        if let Some(topic) = log.find_topic(name) {
            found.topics.insert(name, topic_of(&topic, options)?);
        }
    }
    found.prepared = match log.prepared() {
        Err(error) if error.kind() == ErrorKind::Full => None,
        tickets => {
            let tickets = tickets?;
            let is_prepared = |name: &str| tickets.iter().any(|ticket| ticket.transactional_id() == name);
            Some((0..).zip(SEATS).filter(|seat| is_prepared(seat.1)).map(|seat| seat.0).collect())
        }
    };
    if let Some(topic) = log.find_topic(OFFSETS) {
        let partition = topic.partition(0)?;
        let offsets = partition.offsets();
        (found.groups_end, found.groups_synced) = (offsets.end.0, offsets.synced.0);
        found.group_records = read_groups(&partition, 0)?;
        (found.groups, found.hidden) = (groups(log)?, log.hidden_topics());
    }
    Ok(found)
}

/// What all groups committed.
pub(super) fn groups(log: &Log) -> Result<Fold, Error> {
    let mut fold = Fold::new();
    for (number, name) in GROUPS.iter().enumerate() {
        for (at, committed) in log.group(name)?.offsets()? {
            if let Some(topic) = TOPICS.into_iter().find(|topic| **topic == *at.topic) {
                fold.insert((number as u8, topic, at.partition), committed.offset.0);
            }
        }
    }
    Ok(fold)
}

fn topic_of(topic: &Topic, options: &Options) -> Result<FoundTopic, Blind> {
    let partitions = (0..topic.partition_count()).map(|number| {
        let partition = topic.partition(number)?;
        let offsets = partition.offsets();
        let (start, end) = (offsets.start.0, offsets.end.0);
        let has_gaps = options.compaction.is_some();
        let records = match options.transacts() {
            true => read_marked(&partition, start, end, has_gaps)?,
            false => read(&partition, start, end)?,
        };
        Ok(FoundPartition { offsets, records })
    });
    Ok(FoundTopic { config: topic.config(), partitions: partitions.collect::<Result<_, Blind>>()? })
}

/// All records from `from` on, which must be there up to `end`.
pub(super) fn read(partition: &Partition, from: u64, end: u64) -> Result<Vec<FoundRecord>, Blind> {
    let mut records = Vec::new();
    let mut at = from;
    while at < end {
        let read = partition.read(Offset(at))?;
        check(&read, at, &mut records).map_err(Blind::Wrong)?;
        if read.next_offset().0 <= at {
            return Err(Blind::Wrong(Violation::new("R1", format!("no record at {at}, where {end} is the end"))));
        }
        at = read.next_offset().0;
    }
    match partition.read(Offset(end)).map(|read| read.is_empty()) {
        Ok(true) => Ok(records),
        other => Err(Blind::Wrong(Violation::new("R4", format!("at the end {end}: {other:?}")))),
    }
}

/// Records must be in order from `from` on, and hold what their ids say.
pub(super) fn check(read: &Records, from: u64, into: &mut Vec<FoundRecord>) -> Result<(), Violation> {
    let mut next = from;
    for record in read {
        let record = check_record(&record, next)?;
        next = record.offset + 1;
        into.push(record);
    }
    match read.next_offset().0 >= next {
        true => Ok(()),
        false => Err(Violation::new("R1", format!("{} follows where {next} does", read.next_offset()))),
    }
}

/// A record, which must be at `next` or behind, must hold what its id says.
pub(super) fn check_record(record: &RecordRef<'_>, next: u64) -> Result<FoundRecord, Violation> {
    let offset = record.offset.0;
    let name = record.headers().next().and_then(|header| header.value);
    let Some(id) = record.value.or(name).and_then(|bytes| Some(u64::from_be_bytes(*bytes.first_chunk()?))) else {
        return Err(Violation::new("R1", format!("offset {offset} holds {:?}", record.value)));
    };
    if offset < next {
        return Err(Violation::new("R1", format!("offset {offset} where {next} comes next")));
    }
    let is_value = record.value.map_or(is_tombstone(id), |bytes| bytes == value(id, bytes.len()));
    if !is_value || record.key != key(id).as_ref().map(|key| &key[..]) {
        return Err(Violation::new("R3", format!("offset {offset} is not what was written as {id:x}")));
    }
    let len = record.value.map_or(0, |bytes| bytes.len() as u16);
    Ok(FoundRecord { offset, id, len, timestamp: record.timestamp.0, producer: None })
}
