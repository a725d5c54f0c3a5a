//! Which records and batches compaction keeps. Decides only: batches go in, in the order of the log, verdicts come out.
//!
//! ```text
//! start                                         covered                stable
//! |-- the latest of each key stays, and what no map knows --|-- untouched --|-- never looked at --|
//! ```
//!
//! | | Goes | Stays |
//! |---|---|---|
//! | record with a key | if a later one of its key is known | else |
//! | tombstone, the latest of its key | once its batch carries a delete horizon that has passed | until then |
//! | record without a key | always | never |
//! | record of an aborted transaction | at once | never |
//! | marker of a transaction | once nothing of its transaction was met in a whole pass, it then got a horizon, and that has passed | until then |
//! | batch without a record | else | if it tells of its producer, or where its segment ends |
//!
//! So a tombstone and a marker take two passes to go, with the time of the horizon between them: readers that had begun
//! before see them. (KIP-534.) A batch that the map does not cover to its end gets no horizon: what a tombstone in it
//! deletes may be there yet.

use std::collections::{BTreeMap, BTreeSet};

use crate::partition::snapshot::Entry;
use crate::probe;
use crate::record::{BatchHeader, Control, RecordRef};
use crate::segment::txn_index::AbortedTxn;
use crate::types::{Offset, ProducerEpoch, ProducerId, Timestamp};

use super::offset_map::OffsetMap;

/// What a pass goes by. The time moves on with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// The map knows of every record below, as far as it is to; what comes after is left as it is.
    pub(crate) covered: Offset,
    pub(crate) now: Timestamp,
    pub(crate) delete_retention_ms: i64,
    /// Whether only older records of the keys in the map go, and nothing else is due: a key is being erased.
    pub(crate) erases: bool,
}

/// Follows the transactions and producers of a pass.
#[derive(Debug)]
pub(crate) struct Filter {
    rules: Rules,
    producers: BTreeMap<ProducerId, LastOf>,
    /// By producer and marker: where the transaction began.
    aborted: BTreeMap<(ProducerId, Offset), Offset>,
    /// Who has batches since its last marker.
    with_data: BTreeSet<ProducerId>,
}

/// What is to be told of a producer that is remembered.
#[derive(Debug, Clone, Copy)]
struct LastOf {
    epoch: ProducerEpoch,
    /// Of its last batch; none if only a marker is known.
    offset: Option<Offset>,
}

/// What is to become of a batch, before its records are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Verdict {
    /// The map does not reach it: it stays as it is.
    is_untouched: bool,
    /// The map reaches over all of it.
    is_whole: bool,
    /// All its records go.
    discards: bool,
    /// It is a marker of which nothing is left to be decided.
    is_spent: bool,
    /// It tells of its producer, also without a record.
    keeps_header: bool,
}

/// How many records of a batch stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Kept {
    pub(crate) count: i32,
    pub(crate) tombstones: i32,
}

/// What becomes of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It stays, byte for byte.
    Copied,
    /// It stays with the records that are kept.
    Rewritten { horizon: Option<Timestamp> },
    /// It stays without a record.
    Emptied,
    /// It goes.
    Dropped,
}

impl Filter {
    /// For a pass from the start of a log with these producers and aborted transactions.
    pub(crate) fn new(rules: Rules, producers: impl Iterator<Item = Entry>, aborted: &[AbortedTxn]) -> Self {
        let last_of = |entry: Entry| {
            let offset = entry.last_batch.map(|last| last.last_offset);
            (entry.producer, LastOf { epoch: entry.epoch, offset })
        };
        Self {
            rules,
            producers: producers.map(last_of).collect(),
            aborted: aborted.iter().map(|txn| ((txn.producer, txn.last_offset), txn.first_offset)).collect(),
            with_data: BTreeSet::new(),
        }
    }

    /// Whether there are producers of which something is to be told.
    pub(crate) fn knows_producers(&self) -> bool {
        !self.producers.is_empty()
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Sets what horizons are counted from, and compared with, from here on.
    pub(crate) fn set_now(&mut self, now: Timestamp) {
        self.rules.now = now;
    }

    /// Sets up to where the map knows all records.
    pub(crate) fn cover(&mut self, covered: Offset) {
        self.rules.covered = covered;
    }

    /// Whether a data batch is part of a transaction that was aborted. By its place between the ends of that: one that
    /// the producer began later is another.
    pub(crate) fn is_aborted(&self, header: &BatchHeader) -> bool {
        let from = (header.producer_id, header.last_offset());
        let ends = self.aborted.range(from..).next();
        header.attributes.is_transactional()
            && ends
                .is_some_and(|((producer, _), first)| *producer == header.producer_id && *first <= header.base_offset)
    }

    /// Takes the next batch of the log into account. `control` is what it says, if it is a control batch with a record.
    pub(crate) fn judge(&mut self, header: &BatchHeader, control: Option<Control>) -> Verdict {
        let rules = self.rules;
        if header.base_offset >= rules.covered {
            return Verdict { is_untouched: true, ..Verdict::default() };
        }
        let is_whole = header.next_offset() <= rules.covered;
        let keeps_header = self.tells_of_producer(header);
        if !header.attributes.is_control() {
            if header.attributes.is_transactional() {
                self.with_data.insert(header.producer_id);
            }
            let discards = is_whole && self.is_aborted(header);
            if discards && header.record_count > 0 {
                probe::reached("compact.aborted");
            }
            return Verdict { is_whole, discards, keeps_header, ..Verdict::default() };
        }
        let is_spent = match control {
            Some(Control::Commit { .. } | Control::Abort { .. }) => {
                !self.with_data.remove(&header.producer_id) || probe::planted("compact.marker_dropped")
            }
            Some(Control::Other(_)) => false,
            // It was emptied before.
            None => true,
        };
        let is_due = header.delete_horizon().is_some_and(|horizon| horizon <= rules.now);
        // An empty marker does not say an epoch to who reads it back: of a producer that has nothing else it stays whole.
        let is_needed = keeps_header && control.is_some();
        let discards = is_spent && is_due && !is_needed && !rules.erases;
        if discards && control.is_some() {
            probe::reached("compact.marker_dropped");
        }
        Verdict { is_whole, discards, is_spent, keeps_header, ..Verdict::default() }
    }

    /// Whether a record of a batch with this verdict stays.
    #[inline]
    pub(crate) fn keeps(
        &self,
        header: &BatchHeader,
        verdict: Verdict,
        record: &RecordRef<'_>,
        latest: &OffsetMap,
    ) -> bool {
        if verdict.is_untouched || verdict.discards {
            return verdict.is_untouched;
        }
        let rules = &self.rules;
        if header.attributes.is_control() || record.offset >= rules.covered {
            return true;
        }
        let Some(key) = record.key else { return rules.erases };
        if latest.get(key).is_some_and(|latest| record.offset < latest) {
            return false;
        }
        let is_protected = header.delete_horizon().is_none_or(|horizon| rules.now < horizon);
        record.value.is_some() || is_protected || rules.erases
    }

    /// Whether a record that goes is a tombstone whose time has passed: who has not read it by now never will.
    pub(crate) fn forgets(&self, verdict: Verdict, record: &RecordRef<'_>, latest: &OffsetMap) -> bool {
        let is_latest = |key| latest.get(key).is_none_or(|latest| latest <= record.offset);
        record.value.is_none() && !verdict.discards && record.key.is_some_and(is_latest)
    }

    /// What becomes of a batch of which these records stay. `is_last` says that it is the last one of its segment: that
    /// tells where the segment ends.
    pub(crate) fn fate(&self, header: &BatchHeader, verdict: Verdict, kept: Kept, is_last: bool) -> Fate {
        if verdict.is_untouched {
            return Fate::Copied;
        }
        if kept.count == 0 {
            return match (verdict.keeps_header || is_last, header.record_count) {
                (false, _) => Fate::Dropped,
                (true, 0) => Fate::Copied,
                (true, _) => Fate::Emptied,
            };
        }
        let is_spent_marker = verdict.is_spent && header.attributes.is_control();
        let needs_horizon = is_spent_marker || (kept.tombstones > 0 && !header.attributes.is_control());
        let is_set = needs_horizon && verdict.is_whole && !self.rules.erases && header.delete_horizon().is_none();
        if is_set && is_spent_marker {
            probe::reached("compact.marker_spent");
        }
        if kept.count == header.record_count && !is_set {
            return Fate::Copied;
        }
        let new = Timestamp(self.rules.now.0.saturating_add(self.rules.delete_retention_ms));
        Fate::Rewritten { horizon: header.delete_horizon().or(is_set.then_some(new)) }
    }

    /// Whether a producer is known by this batch: by its last one, or by its last marker if there is no other of its epoch.
    fn tells_of_producer(&self, header: &BatchHeader) -> bool {
        let last = self.producers.get(&header.producer_id);
        last.is_some_and(|last| match last.offset {
            Some(offset) => offset == header.last_offset(),
            None => header.attributes.is_control() && last.epoch == header.producer_epoch,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::snapshot::LastBatch;
    use crate::record::{Attributes, BatchBuilder, BatchOptions, BatchRef, Marker, Producer, Record, encode_marker};
    use crate::types::LeaderEpoch;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn rules(covered: u64) -> Rules {
        Rules { covered: Offset(covered), now: NOW, delete_retention_ms: 100, erases: false }
    }

    fn data(base: u64, producer: i64, keys: &[(&str, Option<&str>)], horizon: Option<i64>) -> Vec<u8> {
        let mut builder = BatchBuilder::new();
        let mut options = BatchOptions::default().base_offset(Offset(base));
        if producer >= 0 {
            let id = ProducerId(producer);
            options =
                options.producer(Producer { id, epoch: ProducerEpoch(0), base_sequence: 0, is_transactional: true });
        }
        if let Some(horizon) = horizon {
            options = options.delete_horizon(Timestamp(horizon));
        }
        builder.begin(options);
        for (key, value) in keys {
            let record = Record { value: value.map(str::as_bytes), ..Record::tombstone(*key) };
            builder.push(&record.timestamp(Timestamp(500)), NOW).unwrap();
        }
        builder.finish().unwrap().to_vec()
    }

    fn marker(offset: u64, producer: i64, is_commit: bool, horizon: Option<i64>) -> Vec<u8> {
        let marker = Marker {
            offset: Offset(offset),
            leader_epoch: LeaderEpoch(0),
            producer_id: ProducerId(producer),
            producer_epoch: ProducerEpoch(0),
            timestamp: Timestamp(500),
            is_commit,
            coordinator_epoch: 0,
        };
        let mut bytes = Vec::new();
        let header = encode_marker(&marker, &mut bytes).unwrap();
        if let Some(horizon) = horizon {
            // Its one record has another time then, which nobody looks at here.
            let attributes = Attributes(header.attributes.0 | 0x40);
            BatchHeader { attributes, base_timestamp: Timestamp(horizon), ..header }.seal(&mut bytes);
        }
        bytes
    }

    /// The fate of a batch, and the offsets that are kept of it.
    fn pass(filter: &mut Filter, map: &OffsetMap, bytes: &[u8], is_last: bool) -> (Fate, Vec<u64>) {
        let batch = BatchRef::verify(bytes).unwrap();
        let header = *batch.header();
        let verdict = filter.judge(&header, batch.control().unwrap());
        let mut scratch = Vec::new();
        let (mut kept, mut offsets) = (Kept::default(), Vec::new());
        for record in batch.records(0, &mut scratch).unwrap() {
            if filter.keeps(&header, verdict, &record, map) {
                kept.count += 1;
                kept.tombstones += i32::from(record.value.is_none());
                offsets.push(record.offset.0);
            }
        }
        (filter.fate(&header, verdict, kept, is_last), offsets)
    }

    fn map(latest: &[(&str, u64)]) -> OffsetMap {
        let mut map = OffsetMap::new([1, 2], 1 << 20, 100);
        assert!(latest.iter().all(|(key, offset)| map.put(key.as_bytes(), Offset(*offset))));
        map
    }

    #[test]
    fn the_latest_of_a_key_stays_and_what_the_map_does_not_reach() {
        let mut filter = Filter::new(rules(12), std::iter::empty(), &[]);
        let map = map(&[("a", 10), ("b", 11)]);
        let old = data(3, -1, &[("a", Some("1")), ("c", Some("2")), ("b", Some("3"))], None);
        assert_eq!(pass(&mut filter, &map, &old, false), (Fate::Rewritten { horizon: None }, vec![4]));
        let gone = data(6, -1, &[("a", Some("1"))], None);
        assert_eq!(pass(&mut filter, &map, &gone, false), (Fate::Dropped, vec![]));
        assert_eq!(pass(&mut filter, &map, &gone, true), (Fate::Emptied, vec![]), "it tells where the segment ends");
        let both = data(10, -1, &[("a", Some("1")), ("b", Some("2")), ("b", Some("3"))], None);
        assert_eq!(pass(&mut filter, &map, &both, false), (Fate::Copied, vec![10, 11, 12]), "12 is above");
        let above = data(13, -1, &[("a", None)], None);
        assert_eq!(pass(&mut filter, &map, &above, false), (Fate::Copied, vec![13]));
    }

    #[test]
    fn a_tombstone_goes_once_its_horizon_has_passed_and_gets_none_where_the_map_ends() {
        let map = map(&[("a", 5)]);
        let fate = |covered, horizon| {
            let mut filter = Filter::new(rules(covered), std::iter::empty(), &[]);
            pass(&mut filter, &map, &data(5, -1, &[("a", None), ("z", Some("1"))], horizon), false)
        };
        let set = Fate::Rewritten { horizon: Some(Timestamp(NOW.0 + 100)) };
        assert_eq!(fate(7, None), (set, vec![5, 6]));
        assert_eq!(fate(6, None), (Fate::Copied, vec![5, 6]), "the map does not reach over all of it");
        assert_eq!(fate(7, Some(NOW.0 + 1)), (Fate::Copied, vec![5, 6]));
        assert_eq!(fate(7, Some(NOW.0)), (Fate::Rewritten { horizon: Some(NOW) }, vec![6]));
    }

    #[test]
    fn aborted_records_go_at_once_and_their_marker_after_two_passes() {
        let aborted = [AbortedTxn {
            producer: ProducerId(7),
            first_offset: Offset(0),
            last_offset: Offset(2),
            last_stable_offset: Offset(3),
        }];
        let new = || Filter::new(rules(20), std::iter::empty(), &aborted);
        let (map, batch, later) = (map(&[]), data(0, 7, &[("a", Some("1"))], None), data(3, 7, &[("a", None)], None));
        let mut first = new();
        assert_eq!(pass(&mut first, &map, &batch, false), (Fate::Dropped, vec![]));
        let spent = Fate::Rewritten { horizon: Some(Timestamp(NOW.0 + 100)) };
        assert_eq!(pass(&mut first, &map, &marker(2, 7, false, None), false), (Fate::Copied, vec![2]));
        assert_eq!(pass(&mut first, &map, &later, false), (spent, vec![3]), "another transaction, not aborted");
        assert_eq!(pass(&mut first, &map, &marker(4, 7, true, None), false), (Fate::Copied, vec![4]));

        assert_eq!(pass(&mut new(), &map, &marker(2, 7, false, None), false), (spent, vec![2]));
        assert_eq!(pass(&mut new(), &map, &marker(2, 7, false, Some(NOW.0 + 1)), false), (Fate::Copied, vec![2]));
        assert_eq!(pass(&mut new(), &map, &marker(2, 7, false, Some(NOW.0)), false), (Fate::Dropped, vec![]));
        assert_eq!(pass(&mut new(), &map, &marker(2, 7, false, Some(NOW.0)), true), (Fate::Emptied, vec![]));
    }

    #[test]
    fn what_tells_of_a_producer_stays() {
        let entry = |producer, last_offset: Option<u64>| Entry {
            producer: ProducerId(producer),
            epoch: ProducerEpoch(0),
            last_batch: last_offset.map(|last| LastBatch {
                last_sequence: 0,
                base_offset: Offset(last),
                last_offset: Offset(last),
            }),
            timestamp: NOW,
            coordinator_epoch: 0,
            open_since: None,
        };
        let known = [entry(7, Some(3)), entry(8, None)];
        let mut filter = Filter::new(rules(20), known.into_iter(), &[]);
        let map = map(&[("a", 9)]);
        let batch = |base| data(base, 7, &[("a", Some("1"))], None);
        assert_eq!(pass(&mut filter, &map, &batch(2), false).0, Fate::Dropped);
        assert_eq!(pass(&mut filter, &map, &batch(3), false).0, Fate::Emptied);
        let due = marker(6, 8, true, Some(NOW.0));
        assert_eq!(pass(&mut filter, &map, &due, false), (Fate::Copied, vec![6]), "it says the epoch");
    }

    #[test]
    fn erasing_touches_only_what_is_erased_and_what_was_aborted() {
        let mut filter = Filter::new(Rules { erases: true, ..rules(20) }, std::iter::empty(), &[]);
        let map = map(&[("a", 19)]);
        let mixed = data(0, -1, &[("a", Some("1")), ("b", None)], Some(NOW.0 - 5));
        let horizon = Some(Timestamp(NOW.0 - 5));
        assert_eq!(pass(&mut filter, &map, &mixed, false), (Fate::Rewritten { horizon }, vec![1]));
        let other = data(2, -1, &[("b", None)], None);
        assert_eq!(pass(&mut filter, &map, &other, false), (Fate::Copied, vec![2]), "no horizon either");
        assert_eq!(pass(&mut filter, &map, &marker(3, 7, true, Some(0)), false), (Fate::Copied, vec![3]));
    }
}
