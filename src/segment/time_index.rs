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
pub(super) fn entries(index: &[u8]) -> &[[u8; TimeEntry::LEN]] {
    index.as_chunks().0
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
