//! Compaction as plainly as it can be said, over a log that is a vector: what the real one is compared with.
//!
//! A program of bytes makes a history of batches, transactions, segments and passes. After each pass the log is compared
//! batch by batch with what the plain rules leave; and a reader of committed data finds the same values as in a log that
//! was never compacted.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::clean::{At, Cleaner};
use super::filter::{Filter, Rules};
use super::offset_map::OffsetMap;
use crate::config::TopicConfig;
use crate::partition::follow::{Followed, marker_of};
use crate::record::{
    BatchBuilder, BatchOptions, BatchRef, Codec, Compression, Control, Marker, Producer, Record, encode_marker,
};
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};

/// A batch, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plain {
    base: u64,
    last: u64,
    producer: i64,
    sequence: i32,
    is_transactional: bool,
    is_control: bool,
    /// What a marker decides, if it still says so.
    commits: Option<bool>,
    horizon: Option<i64>,
    records: Vec<PlainRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PlainRecord {
    offset: u64,
    time: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

/// A log of whole batches.
#[derive(Debug, Default)]
struct History {
    /// Sealed segments, then the active one.
    segments: Vec<Vec<Vec<u8>>>,
    /// Every batch as it was appended.
    all: Vec<Plain>,
    followed: Followed,
    end: u64,
    cleaned: u64,
    now: i64,
    sequences: BTreeMap<i64, i32>,
    open: BTreeSet<i64>,
    passes: u64,
}

const DELETE_RETENTION_MS: i64 = 100;

/// Runs a program, which may be any bytes.
pub(crate) fn run(program: &[u8]) -> u64 {
    let mut log = History { segments: vec![Vec::new()], now: 1_000, ..History::default() };
    for step in program.as_chunks::<3>().0.iter().take(MOST_STEPS) {
        log.step(*step);
    }
    // What is undecided is committed, all memory is there, and time passes: what can go is gone.
    for producer in log.open.clone() {
        log.append_marker(producer, true);
    }
    for _ in 0..3 {
        log.segments.push(Vec::new());
        log.pass(1_000, 3);
        log.now += DELETE_RETENTION_MS;
    }
    log.passes
}

impl History {
    fn step(&mut self, [kind, a, b]: [u8; 3]) {
        match kind % 9 {
            0..=2 => self.append_data(-1, false, a, b),
            3 | 4 => self.append_data(i64::from(a % 2) + 1, true, a, b),
            5 => self.append_marker(i64::from(a % 2) + 1, b % 2 == 0),
            6 => self.append_data(3, false, a, b),
            7 => self.segments.push(Vec::new()),
            _ => {
                self.now += i64::from(b);
                self.pass(u64::from(a % 8) + 1, usize::from(a >> 5) + 1);
            }
        }
    }

    fn append_data(&mut self, producer: i64, is_transactional: bool, a: u8, b: u8) {
        let count = usize::from(a >> 4) % 4 + 1;
        let codecs = [Codec::None, Codec::Lz4];
        let codec = codecs[usize::from(b >> 7)];
        let codec = if codec.is_supported() { codec } else { Codec::None };
        let mut options = BatchOptions::default().base_offset(Offset(self.end)).compression(Compression::new(codec));
        if producer >= 0 {
            let sequence = self.sequences.entry(producer).or_insert(0);
            let (id, epoch) = (ProducerId(producer), ProducerEpoch(0));
            options = options.producer(Producer { id, epoch, base_sequence: *sequence, is_transactional });
            *sequence += count as i32;
        }
        let mut builder = BatchBuilder::new();
        builder.begin(options);
        for at in 0..count {
            let key = [(b as usize + 3 * at) as u8 % 5];
            let value = (self.end + at as u64).to_be_bytes();
            let is_tombstone = (b as usize + at).is_multiple_of(4);
            let record = Record {
                key: (key[0] < 4 || producer >= 0).then_some(&key[..]),
                value: (!is_tombstone).then_some(&value[..]),
                ..Record::default()
            };
            builder.push(&record.timestamp(Timestamp(self.now + at as i64)), Timestamp(0)).unwrap();
        }
        if is_transactional {
            self.open.insert(producer);
        }
        let batch = builder.finish().unwrap().to_vec();
        self.append(batch);
    }

    fn append_marker(&mut self, producer: i64, is_commit: bool) {
        let marker = Marker {
            offset: Offset(self.end),
            leader_epoch: LeaderEpoch(0),
            producer_id: ProducerId(producer),
            producer_epoch: ProducerEpoch(0),
            timestamp: Timestamp(self.now),
            is_commit,
            coordinator_epoch: 0,
        };
        self.open.remove(&producer);
        let mut batch = Vec::new();
        encode_marker(&marker, &mut batch).unwrap();
        self.append(batch);
    }

    fn append(&mut self, batch: Vec<u8>) {
        let read = BatchRef::verify(&batch).unwrap();
        self.followed.apply(read.header(), marker_of(&read));
        self.followed.producers.committed_to(read.header().next_offset());
        self.end = read.header().next_offset().0;
        self.all.push(plain(&batch));
        self.segments.last_mut().unwrap().push(batch);
    }

    /// One pass with room for so many keys, in which so many segments become one.
    fn pass(&mut self, room: u64, joined: usize) {
        let stable = self.followed.producers.transactions().first_unstable().map_or(self.end, |first| first.0);
        let last_of = |segment: &Vec<Vec<u8>>| segment.last().map(|batch| plain(batch).last);
        let sealed = self.segments.len() - 1;
        let count = self.segments[..sealed]
            .iter()
            .take_while(|segment| last_of(segment).is_none_or(|last| last < stable))
            .count();
        let Some(last) = self.segments[..count].iter().rev().find_map(last_of) else { return };
        let (from, upper) = (self.cleaned, last + 1);
        if from >= upper {
            return;
        }
        self.passes += 1;
        let rules = Rules {
            covered: Offset(from),
            now: Timestamp(self.now),
            delete_retention_ms: DELETE_RETENTION_MS,
            erases: false,
        };
        let producers: Vec<_> = self.followed.producers.entries().collect();
        let filter = Filter::new(rules, producers.iter().copied(), self.followed.aborted.entries());
        let map = OffsetMap::new([1, 2], room * 27, upper - from);
        let mut cleaner = Cleaner::new(filter, map, &TopicConfig::default());
        let covered = self.map(&mut cleaner, count, from).unwrap_or(upper);
        assert!(from < covered && covered <= upper, "{from} {covered} {upper}");
        cleaner.filter.cover(Offset(covered));
        let latest = self.latest(count, from, covered);
        let before: Vec<Vec<Plain>> = self.segments[..count].iter().map(|segment| plains(segment)).collect();
        let sources: Vec<Vec<Vec<u8>>> = self.segments.drain(..count).collect();
        let mut written = Vec::new();
        for group in sources.chunks(joined) {
            let end_of_group = group.iter().flatten().count();
            let mut batches = Vec::new();
            for (at, batch) in group.iter().flatten().enumerate() {
                let mut into = Vec::new();
                let read = BatchRef::verify(batch).unwrap();
                let cleaned = cleaner.clean(&read, at + 1 == end_of_group, here(), &mut into).unwrap();
                if cleaned.drops_abort {
                    self.followed.aborted.remove(&[read.header().base_offset]);
                }
                if !into.is_empty() {
                    batches.push(into);
                }
            }
            written.push(batches);
        }
        let expected = self.naive(&before, joined, covered, &latest, &producers);
        let found: Vec<Plain> = written.iter().flat_map(|segment| plains(segment)).collect();
        assert_eq!(found, expected, "covered {from}..{covered} of {upper} at {}", self.now);
        self.segments.splice(..0, written);
        self.cleaned = covered;
        self.check();
    }

    /// Maps what is dirty. Returns up to where, if there was no room for more.
    fn map(&self, cleaner: &mut Cleaner, count: usize, from: u64) -> Option<u64> {
        for batch in self.segments[..count].iter().flatten() {
            let batch = BatchRef::verify(batch).unwrap();
            if batch.header().next_offset().0 > from
                && let Some(full) = cleaner.map(&batch, Offset(from), here()).unwrap()
            {
                return Some(full.0);
            }
        }
        None
    }

    /// The latest decided record of each key that is dirty and covered. One at or above may be known, too.
    fn latest(&self, count: usize, from: u64, covered: u64) -> BTreeMap<Vec<u8>, u64> {
        let mut latest = BTreeMap::new();
        for batch in self.segments[..count].iter().flatten().map(|batch| plain(batch)) {
            for record in batch.records.iter().filter(|record| (from..covered).contains(&record.offset)) {
                if let Some(key) = record.key.clone().filter(|_| !batch.is_control && !self.is_aborted(&batch)) {
                    latest.insert(key, record.offset);
                }
            }
        }
        latest
    }

    /// The marker that decided a batch, as it was appended.
    fn marker_of(&self, batch: &Plain) -> Option<&Plain> {
        let of_producer = |other: &&Plain| other.producer == batch.producer && other.base > batch.base;
        self.all.iter().filter(of_producer).find(|other| other.is_control)
    }

    fn is_aborted(&self, batch: &Plain) -> bool {
        batch.is_transactional
            && !batch.is_control
            && self.marker_of(batch).is_some_and(|marker| marker.commits == Some(false))
    }

    /// What is to be left, by the rules as they are written down.
    fn naive(
        &self,
        sources: &[Vec<Plain>],
        joined: usize,
        covered: u64,
        latest: &BTreeMap<Vec<u8>, u64>,
        producers: &[crate::partition::snapshot::Entry],
    ) -> Vec<Plain> {
        let input: Vec<&Plain> = sources.iter().flatten().collect();
        let lasts: BTreeSet<u64> =
            sources.chunks(joined).filter_map(|group| group.iter().flatten().last()).map(|last| last.base).collect();
        let mut left = Vec::new();
        for batch in &input {
            if batch.base >= covered {
                left.push((*batch).clone());
                continue;
            }
            let is_whole = batch.last < covered;
            let has_data = input.iter().any(|other| {
                !other.is_control
                    && other.is_transactional
                    && other.producer == batch.producer
                    && self.marker_of(other).is_some_and(|marker| marker.base == batch.base)
            });
            let is_spent = batch.is_control && !has_data;
            let is_past = batch.horizon.is_some_and(|horizon| horizon <= self.now);
            let tells = producers.iter().any(|entry| {
                entry.producer.0 == batch.producer
                    && match entry.last_batch {
                        Some(last) => last.last_offset.0 == batch.last,
                        None => batch.is_control,
                    }
            });
            let mut after = (*batch).clone();
            after.records.retain(|record| match &record.key {
                _ if batch.is_control => !(is_spent && is_past) || tells,
                _ if is_whole && self.is_aborted(batch) => false,
                _ if record.offset >= covered => true,
                None => false,
                Some(key) => {
                    let is_latest = latest.get(key).is_none_or(|latest| record.offset >= *latest);
                    is_latest && (record.value.is_some() || !is_past)
                }
            });
            if after.records.is_empty() {
                (after.horizon, after.commits) = (None, None);
                if !tells && !lasts.contains(&batch.base) {
                    continue;
                }
            } else {
                let has_tombstone = !batch.is_control && after.records.iter().any(|record| record.value.is_none());
                if is_whole && batch.horizon.is_none() && (has_tombstone || is_spent) {
                    after.horizon = Some(self.now + DELETE_RETENTION_MS);
                }
            }
            left.push(after);
        }
        left
    }

    /// Who reads from the start finds of each key what was appended last, and of each producer how far it came.
    fn check(&self) {
        let found: Vec<Plain> = self.segments.iter().flat_map(|segment| plains(segment)).collect();
        let stable = self.followed.producers.transactions().first_unstable().map_or(self.end, |first| first.0);
        let fold = |batches: &[Plain]| {
            let mut table = BTreeMap::new();
            for batch in batches.iter().filter(|batch| !batch.is_control && !self.is_aborted(batch)) {
                for record in batch.records.iter().filter(|record| record.offset < stable) {
                    match (&record.key, &record.value) {
                        (Some(key), Some(value)) => drop(table.insert(key.clone(), (record.offset, value.clone()))),
                        (Some(key), None) => drop(table.remove(key)),
                        (None, _) => {}
                    }
                }
            }
            table
        };
        assert_eq!(fold(&found), fold(&self.all));
        assert!(found.is_sorted_by(|a, b| a.last < b.base));
        assert_eq!(found.last().map_or(0, |last| last.last + 1), self.end);
        for batch in &found {
            let as_it_was = self.all.iter().find(|other| other.base == batch.base).unwrap();
            assert_eq!((batch.last, batch.sequence), (as_it_was.last, as_it_was.sequence));
            assert!(batch.records.iter().all(|record| as_it_was.records.contains(record)));
        }
        let mut replayed = Followed::default();
        for batch in self.segments.iter().flatten() {
            let batch = BatchRef::verify(batch).unwrap();
            replayed.replay(batch.header(), Some(batch.bytes()));
        }
        for entry in self.followed.producers.entries() {
            let again = replayed.producers.entries().find(|other| other.producer == entry.producer).unwrap();
            assert_eq!((again.epoch, again.last_batch), (entry.epoch, entry.last_batch));
        }
    }
}

/// Where every batch is said to be.
fn here() -> At<'static> {
    At { path: Path::new("memory"), position: 0 }
}

fn plains(segment: &[Vec<u8>]) -> Vec<Plain> {
    segment.iter().map(|batch| plain(batch)).collect()
}

fn plain(bytes: &[u8]) -> Plain {
    let batch = BatchRef::verify(bytes).unwrap();
    let header = *batch.header();
    let mut scratch = Vec::new();
    let records = batch.records(1 << 20, &mut scratch).unwrap().map(|record| PlainRecord {
        offset: record.offset.0,
        time: record.timestamp.0,
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.map(<[u8]>::to_vec),
    });
    Plain {
        base: header.base_offset.0,
        last: header.last_offset().0,
        producer: header.producer_id.0,
        sequence: header.base_sequence,
        is_transactional: header.attributes.is_transactional(),
        is_control: header.attributes.is_control(),
        commits: batch.control().unwrap().map(|control| matches!(control, Control::Commit { .. })),
        horizon: header.delete_horizon().map(|horizon| horizon.0),
        records: records.collect(),
    }
}

const MOST_STEPS: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

        /// C1, C2, C4, C5 and C6, pass by pass.
        #[test]
        fn compaction_leaves_what_the_plain_rules_leave(program in prop::collection::vec(any::<u8>(), 0..450)) {
            run(&program);
        }
    }

    /// Each kind of step is among those that are tried, and passes are made.
    #[test]
    fn programs_come_to_passes() {
        let program: Vec<u8> = (0..600_u32).map(|at| ((at * 7919) >> 3) as u8).collect();
        assert!(run(&program) > 5);
    }
}
