//! The offset index of a segment: where in the file to begin looking for an offset. Kafka's `.index`.
//!
//! It is sparse. An entry holds the *last* offset of a batch and the position of its *first* byte, and means: offsets
//! up to this one may begin here. The first batch of a segment never has one, since looking there needs no index.
//!
//! | Byte | Size | Field           | Notes                                            |
//! |-----:|-----:|-----------------|--------------------------------------------------|
//! |    0 |    4 | relative offset | offset minus the base of the segment, 31 bits    |
//! |    4 |    4 | position        | in the segment file, 31 bits                     |
//!
//! Both numbers are big-endian and rise from entry to entry.
//!
//! An index is a hint. Look-ups take whatever bytes there are, sorted or not, and return some entry of them or none;
//! who asked verifies against the batch it leads to.

use byteorder::{BigEndian, ByteOrder};

use crate::types::Offset;

/// One entry of an offset index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OffsetEntry {
    /// The last offset of the batch.
    pub(crate) offset: Offset,
    /// The position of its first byte.
    pub(crate) position: u32,
}

impl OffsetEntry {
    pub(crate) const LEN: usize = 8;

    /// The entry for a batch at `position` that ends with `offset`; `None` past what a position can be.
    pub(crate) fn at(offset: Offset, position: u64) -> Option<Self> {
        let position = u32::try_from(position).ok()?;
        Some(Self { offset, position })
    }

    /// The stored form, in the index of the segment that begins at `base`; `None` if a number does not fit it.
    pub(crate) fn encode(self, base: Offset) -> Option<[u8; Self::LEN]> {
        let relative = relative(base, self.offset)?;
        let position = i32::try_from(self.position).ok()?;
        let mut bytes = [0; Self::LEN];
        BigEndian::write_i32(&mut bytes[..4], relative);
        BigEndian::write_i32(&mut bytes[4..], position);
        Some(bytes)
    }

    /// Reads an entry. Numbers that a sound index cannot hold come back as what their bits are.
    pub(crate) fn decode(bytes: &[u8; Self::LEN], base: Offset) -> Self {
        let relative = BigEndian::read_u32(&bytes[..4]);
        Self { offset: absolute(base, relative), position: BigEndian::read_u32(&bytes[4..]) }
    }
}

/// Where to begin looking for an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Near {
    /// The greatest entry not above it; `None`: begin at the start of the segment.
    pub(crate) entry: Option<OffsetEntry>,
    /// About how many bytes from there on will be looked at, if they are few.
    pub(crate) way: usize,
}

/// Where to begin looking for `target`.
pub(crate) fn floor(index: &[u8], base: Offset, target: Offset) -> Near {
    let entries = entries(index);
    let number = |at: usize| u64::from(BigEndian::read_u32(&entries[at][..4]));
    let Some(target) = target.0.checked_sub(base.0) else { return Near { entry: None, way: 0 } };
    let count = count_up_to(target, entries.len(), number);
    let decode = |at: usize| entries.get(at).map(|bytes| OffsetEntry::decode(bytes, base));
    let entry = count.checked_sub(1).and_then(decode);
    let way = decode(count).map_or(WAY_MAX, |next| {
        let len = next.position.saturating_sub(entry.map_or(0, |entry| entry.position));
        let from = count.checked_sub(1).map_or(0, number);
        way(target - from, number(count) - from, len.into())
    });
    Near { entry, way }
}

/// How far into `len` bytes with `count` offsets in them the one `ahead` will be, if they are worth it.
fn way(ahead: u64, count: u64, len: u64) -> usize {
    // Entries this far apart are of long batches: most of what lies between two headers is not looked at.
    if len > 2 * WAY_MAX as u64 {
        return 0;
    }
    (ahead * len / count + TARGET_LEN).min(WAY_MAX as u64) as usize
}

/// Kafka's default for the distance of two entries.
const WAY_MAX: usize = 4096;

/// What is looked at once there: a header and a short record.
const TARGET_LEN: u64 = 256;

/// The whole entries of an index. A last one that was cut is left out.
fn entries(index: &[u8]) -> &[[u8; OffsetEntry::LEN]] {
    index.as_chunks().0
}

/// How many entries lie before the place where `holds` turns false, if it does so once. If the entries are not
/// sorted: some count for which the entry before that place holds, and the one behind it does not. (The standard
/// library's `partition_point` promises nothing then.)
pub(super) fn count_while<const N: usize>(entries: &[[u8; N]], holds: impl Fn(&[u8; N]) -> bool) -> usize {
    let (mut low, mut high) = (0, entries.len());
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(&entries[middle]) { low = middle + 1 } else { high = middle }
    }
    low
}

/// Counts as [`count_while`] does the numbers up to `target`, of `len` below 2^32 that `number` tells. Guesses where
/// they end: three or four looks if they grow evenly, as offsets mostly do, where halving takes seventeen, each on a
/// line of memory of its own.
fn count_up_to(target: u64, len: usize, number: impl Fn(usize) -> u64) -> usize {
    let Some(last) = len.checked_sub(1) else { return 0 };
    // Whatever the numbers are, the one before `low` is not above the target, and the one at `high` is.
    let (mut low, mut high, mut below, mut above) = (0, last, 0, number(last));
    if above <= target {
        return len;
    }
    for _ in 0..GUESSES {
        if low == high {
            return low;
        }
        let ahead = (target - below) * (high - low + 1) as u64 / (above - below);
        let guess = (low + ahead as usize).max(low + 1) - 1;
        match number(guess) {
            found if found <= target => (low, below) = (guess + 1, found),
            found => (high, above) = (guess, found),
        }
    }
    // They do not grow evenly.
    while low < high {
        let middle = low + (high - low) / 2;
        if number(middle) <= target { low = middle + 1 } else { high = middle }
    }
    low
}

/// How often is guessed before the rest is halved.
const GUESSES: usize = 6;

/// An offset as an index stores it; `None` if it is below the base or more than 31 bits above.
pub(super) fn relative(base: Offset, offset: Offset) -> Option<i32> {
    i32::try_from(offset.0.checked_sub(base.0)?).ok()
}

/// An offset from its stored form.
pub(super) fn absolute(base: Offset, relative: u32) -> Offset {
    Offset(base.0.saturating_add(u64::from(relative)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BASE: Offset = Offset(1000);

    /// All sorted indexes over a few offsets, all targets, each cut at every length.
    #[test]
    fn look_ups_answer_as_a_linear_scan_does() {
        for chosen in 0..1_u32 << 7 {
            let entries: Vec<_> = (0..7).filter(|bit| chosen >> bit & 1 == 1).map(|bit| at(2 * bit + 1)).collect();
            let bytes = encode(&entries);
            for cut in 0..=bytes.len() {
                let (index, whole) = (&bytes[..cut], &entries[..cut / OffsetEntry::LEN]);
                for target in 0..16 {
                    let lower = whole.iter().rev().find(|entry| entry.offset <= BASE + target).copied();
                    assert_eq!(floor(index, BASE, BASE + target).entry, lower, "{entries:?} at {target}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_one_of_their_entries_or_none(index: Vec<u8>, target: u32, base in 0..1_u64 << 63) {
            let (base, target) = (Offset(base), Offset(base) + u64::from(target));
            if let Some(found) = floor(&index, base, target).entry {
                prop_assert!(found.offset <= target);
                prop_assert!(entries(&index).iter().any(|bytes| OffsetEntry::decode(bytes, base) == found));
            }
        }
    }

    /// Offsets that grow in one of the ways that mislead a guess, or do not grow at all.
    fn skewed() -> impl Strategy<Value = Vec<u32>> {
        let rising = |gaps: Vec<u32>| {
            let sums = gaps.into_iter().scan(0_u32, |sum, gap| {
                *sum = sum.saturating_add(gap);
                Some(*sum)
            });
            sums.collect::<Vec<u32>>()
        };
        let even = (0..200_usize, 0..1_000_000_u32).prop_map(move |(len, gap)| rising(vec![gap; len]));
        let doubling = (0..32_u32, any::<bool>()).prop_map(move |(len, backward)| {
            let gap = |at: u32| if backward { 1 << (len - at) >> 1 } else { 1 << at };
            rising((0..len).map(gap).collect())
        });
        let outlier =
            (1..200_usize, any::<prop::sample::Index>(), any::<u32>()).prop_map(move |(len, at, outlier)| {
                let mut gaps = vec![1; len];
                gaps[at.index(len)] = outlier;
                rising(gaps)
            });
        let uneven = prop::collection::vec(0..1_000_u32, 0..200).prop_map(rising);
        let stepped = prop::collection::vec(prop_oneof![Just(1), 1..1_u32 << 24], 0..200).prop_map(rising);
        prop_oneof![even, doubling, outlier, uneven, stepped]
    }

    proptest! {
        /// However the offsets are spread, also over an index that is empty, or has one entry.
        #[test]
        fn guessing_finds_what_a_linear_scan_does(numbers in skewed(), near in any::<prop::sample::Index>(), any: u32) {
            let bytes: Vec<u8> = numbers.iter().flat_map(|number| [number.to_be_bytes(), [0; 4]].concat()).collect();
            let near = numbers.get(near.index(numbers.len().max(1))).copied().unwrap_or_default();
            for target in [0, near.saturating_sub(1), near, near.saturating_add(1), any, u32::MAX] {
                let expected = numbers.iter().rev().find(|number| **number <= target);
                let found = floor(&bytes, BASE, BASE + u64::from(target)).entry.map(|entry| (entry.offset - BASE) as u32);
                prop_assert_eq!(found, expected.copied(), "{:?} at {}", &numbers, target);
            }
        }
    }

    /// A full index of the default length.
    #[test]
    fn even_offsets_are_found_in_four_looks_and_any_in_few_more_than_halving_takes() {
        let len = 10 << 20 >> 3;
        let looks = std::cell::Cell::new(0);
        let most = |number: &dyn Fn(usize) -> u64| {
            let count = |target: u64| {
                looks.set(0);
                let found = count_up_to(target, len, |at| {
                    looks.set(looks.get() + 1);
                    number(at)
                });
                let rises_behind = found == len || number(found) > target;
                assert!(rises_behind && (found == 0 || number(found - 1) <= target), "{found} for {target}");
                looks.get()
            };
            let targets = (0..len).step_by(997).chain(len - 50..len).flat_map(|at| [number(at), number(at) + 1]);
            targets.map(count).max().unwrap()
        };
        assert_eq!(most(&|at| 24 * (at as u64 + 1)), 3);
        assert_eq!(most(&|at| 24 * at as u64 + 11), 4);
        let halvings = len.ilog2() + 1;
        let bound = 1 + GUESSES + halvings as usize;
        assert!(most(&|at| (at as u64).pow(2) >> 12) <= bound);
        assert!(most(&|at| if at < len / 2 { at as u64 } else { (1 << 31) + at as u64 }) <= bound);
        assert!(most(&|at| 1 << (at * 31 / len)) <= bound);
    }

    /// A crash left the file at its reserved length. Its zeros lead to the start of the segment: slow, but right.
    #[test]
    fn a_tail_of_zeros_never_leads_past_the_target() {
        let mut bytes = encode(&[at(3), at(6), at(9)]);
        bytes.resize(10 * OffsetEntry::LEN, 0);
        for target in 0..12 {
            let found = floor(&bytes, BASE, BASE + target).entry;
            assert!(found.is_none_or(|entry| entry.offset <= BASE + target));
        }
    }

    #[test]
    fn an_entry_holds_31_bits_of_either_number() {
        let largest = OffsetEntry { offset: BASE + 0x7FFF_FFFF, position: 0x7FFF_FFFF };
        let bytes = largest.encode(BASE).unwrap();
        assert_eq!(OffsetEntry::decode(&bytes, BASE), largest);
        assert_eq!(OffsetEntry { offset: BASE + 0x8000_0000, position: 0 }.encode(BASE), None);
        assert_eq!(OffsetEntry { offset: BASE, position: 0x8000_0000 }.encode(BASE), None);
        assert_eq!(OffsetEntry { offset: Offset(999), position: 0 }.encode(BASE), None);
        let damaged = OffsetEntry::decode(&[0xFF; 8], Offset(u64::MAX));
        assert_eq!(damaged, OffsetEntry { offset: Offset(u64::MAX), position: u32::MAX });
    }

    fn at(relative: u32) -> OffsetEntry {
        OffsetEntry { offset: BASE + u64::from(relative), position: 10 * relative }
    }

    fn encode(entries: &[OffsetEntry]) -> Vec<u8> {
        entries.iter().flat_map(|entry| entry.encode(BASE).unwrap()).collect()
    }
}
