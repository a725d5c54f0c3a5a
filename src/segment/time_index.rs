//! The time index of a segment: from which offset on to look for a time. Kafka's `.timeindex`.
//!
//! An entry holds the largest timestamp so far and the last offset of the batch that has it, and means: every record
//! up to this offset is no younger than this. Timestamps strictly rise from entry to entry.
//!
//! | Byte | Size | Field           | Notes                                            |
//! |-----:|-----:|-----------------|--------------------------------------------------|
//! |    0 |    8 | timestamp       | milliseconds                                     |
//! |    8 |    4 | relative offset | offset minus the base of the segment, 31 bits    |
//!
//! Both are big-endian. Like the offset index it is a hint: look-ups take any bytes, who asked verifies.

use byteorder::{BigEndian, ByteOrder};

use super::offset_index::{absolute, count_while, relative};
use crate::types::{Offset, Timestamp};

/// One entry of a time index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeEntry {
    /// The largest timestamp of the segment up to here.
    pub(crate) timestamp: Timestamp,
    /// The last offset of the batch that has it.
    pub(crate) offset: Offset,
}

impl TimeEntry {
    pub(crate) const LEN: usize = 12;

    /// The stored form, in the index of the segment that begins at `base`; `None` if the offset does not fit it.
    pub(crate) fn encode(self, base: Offset) -> Option<[u8; Self::LEN]> {
        let mut bytes = [0; Self::LEN];
        BigEndian::write_i64(&mut bytes[..8], self.timestamp.0);
        BigEndian::write_i32(&mut bytes[8..], relative(base, self.offset)?);
        Some(bytes)
    }

    /// Reads an entry. An offset that a sound index cannot hold comes back as what its bits are.
    pub(crate) fn decode(bytes: &[u8; Self::LEN], base: Offset) -> Self {
        let offset = absolute(base, BigEndian::read_u32(&bytes[8..]));
        Self { timestamp: Timestamp(BigEndian::read_i64(&bytes[..8])), offset }
    }
}

/// The entry to begin at for `target`: the greatest not above it. `None`: begin at the start of the segment.
pub(crate) fn floor(index: &[u8], base: Offset, target: Timestamp) -> Option<TimeEntry> {
    let entries = entries(index);
    let count = count_while(entries, |bytes| TimeEntry::decode(bytes, base).timestamp <= target);
    entries.get(count.checked_sub(1)?).map(|bytes| TimeEntry::decode(bytes, base))
}

/// The last entry of all: in the index of a sealed segment, its largest timestamp.
pub(crate) fn last(index: &[u8], base: Offset) -> Option<TimeEntry> {
    entries(index).last().map(|bytes| TimeEntry::decode(bytes, base))
}

/// The whole entries of an index. A last one that was cut is left out.
fn entries(index: &[u8]) -> &[[u8; TimeEntry::LEN]] {
    index.as_chunks().0
}

/// The largest timestamp of a segment so far, and which entry of its time index is due.
///
/// An entry is due whenever the offset index gets one, and once more when the segment is sealed: then it tells the
/// segment's largest timestamp. A timestamp that is not larger than the last one indexed makes no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LargestTime {
    largest: Option<TimeEntry>,
    indexed: Timestamp,
}

impl LargestTime {
    /// The state at the start of a segment, without records or entries.
    pub(crate) fn new() -> Self {
        Self { largest: None, indexed: Timestamp::NONE }
    }

    /// The state behind `last`, the last entry of an index that was read.
    pub(crate) fn resume(last: Option<TimeEntry>) -> Self {
        Self { largest: last, indexed: last.map_or(Timestamp::NONE, |entry| entry.timestamp) }
    }

    /// Follows a batch. The first of several that have the same timestamp counts.
    #[inline]
    pub(crate) fn follow(&mut self, timestamp: Timestamp, last_offset: Offset) {
        if timestamp > self.timestamp() {
            self.largest = Some(TimeEntry { timestamp, offset: last_offset });
        }
    }

    /// Takes the entry to add now; `None` if the index says as much already.
    pub(crate) fn take_due(&mut self) -> Option<TimeEntry> {
        let due = self.largest.filter(|largest| largest.timestamp > self.indexed)?;
        self.indexed = due.timestamp;
        Some(due)
    }

    /// The largest timestamp, or [`Timestamp::NONE`].
    pub(crate) fn timestamp(&self) -> Timestamp {
        self.largest.map_or(Timestamp::NONE, |largest| largest.timestamp)
    }

    /// The largest timestamp and the last offset of the first batch that has it.
    pub(crate) fn largest(&self) -> Option<TimeEntry> {
        self.largest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BASE: Offset = Offset(17);

    /// All sorted indexes over a few timestamps, all targets, each cut at every length.
    #[test]
    fn a_look_up_answers_as_a_linear_scan_does() {
        for chosen in 0..1_u32 << 6 {
            let entries: Vec<_> = (0..6_u8)
                .filter(|bit| chosen >> bit & 1 == 1)
                .map(|bit| at(2 * i64::from(bit) + 1, bit.into()))
                .collect();
            let bytes = encode(&entries);
            for cut in 0..=bytes.len() {
                let (index, whole) = (&bytes[..cut], &entries[..cut / TimeEntry::LEN]);
                assert_eq!(last(index, BASE), whole.last().copied());
                for target in -1..14 {
                    let lower = whole.iter().rev().find(|entry| entry.timestamp.0 <= target).copied();
                    assert_eq!(floor(index, BASE, Timestamp(target)), lower, "{entries:?} at {target}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_one_of_their_entries_or_none(index: Vec<u8>, target: i64, base in 0..1_u64 << 63) {
            let base = Offset(base);
            if let Some(found) = floor(&index, base, Timestamp(target)) {
                prop_assert!(found.timestamp.0 <= target);
                prop_assert!(entries(&index).iter().any(|bytes| TimeEntry::decode(bytes, base) == found));
            }
        }

        /// What the rule adds is sorted, and tells the largest timestamp of all batches once the segment is closed.
        #[test]
        fn entries_rise_and_end_with_the_largest(
            batches in prop::collection::vec((-1..9_i64, any::<bool>()), 0..30),
        ) {
            let mut time = LargestTime::new();
            let mut added = Vec::new();
            for (offset, (timestamp, indexed)) in batches.iter().enumerate() {
                time.follow(Timestamp(*timestamp), BASE + offset as u64);
                added.extend(indexed.then(|| time.take_due()).flatten());
            }
            added.extend(time.take_due());
            prop_assert!(added.is_sorted_by(|a, b| a.timestamp < b.timestamp && a.offset < b.offset));

            let largest = batches.iter().map(|(timestamp, _)| *timestamp).max().filter(|largest| *largest >= 0);
            prop_assert_eq!(added.last().map(|entry| entry.timestamp.0), largest);
            let holder = batches.iter().position(|(timestamp, _)| Some(*timestamp) == largest);
            prop_assert_eq!(added.last().map(|entry| (entry.offset - BASE) as usize), holder);
            prop_assert_eq!(LargestTime::resume(last(&encode(&added), BASE)), time);
        }
    }

    #[test]
    fn a_lower_or_equal_timestamp_adds_nothing() {
        let mut time = LargestTime::new();
        time.follow(Timestamp::NONE, BASE);
        assert_eq!(time.take_due(), None, "no timestamp is none to index");
        time.follow(Timestamp(5), BASE + 1);
        time.follow(Timestamp(5), BASE + 2);
        time.follow(Timestamp(4), BASE + 3);
        assert_eq!(time.take_due(), Some(at(5, 1)));
        assert_eq!(time.take_due(), None);
        assert_eq!((time.timestamp(), time.largest()), (Timestamp(5), Some(at(5, 1))));
    }

    #[test]
    fn an_entry_holds_31_bits_of_an_offset() {
        assert!(at(1, 0x7FFF_FFFF).encode(BASE).is_some());
        assert_eq!(at(1, 0x8000_0000).encode(BASE), None);
        assert_eq!(TimeEntry { timestamp: Timestamp(0), offset: Offset(16) }.encode(BASE), None);
    }

    fn at(timestamp: i64, relative: u64) -> TimeEntry {
        TimeEntry { timestamp: Timestamp(timestamp), offset: BASE + relative }
    }

    fn encode(entries: &[TimeEntry]) -> Vec<u8> {
        entries.iter().flat_map(|entry| entry.encode(BASE).unwrap()).collect()
    }
}
