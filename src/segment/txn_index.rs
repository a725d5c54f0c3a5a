//! The aborted transactions of a segment: those whose abort marker is in it. Kafka's `.txnindex`.
//!
//! A reader of committed data gets the ones that reach into what it reads, and skips their batches itself.
//!
//! | Byte | Size | Field              | Notes                                                              |
//! |-----:|-----:|--------------------|--------------------------------------------------------------------|
//! |    0 |    2 | version            | 0                                                                  |
//! |    2 |    8 | producer id        |                                                                    |
//! |   10 |    8 | first offset       | of the transaction's first batch                                   |
//! |   18 |    8 | last offset        | of the abort marker                                                |
//! |   26 |    8 | last stable offset | what it became by this marker; a reader below it looks no further  |
//!
//! All numbers are big-endian, and last offsets rise from entry to entry.

use byteorder::{BigEndian, ByteOrder};

use crate::types::{Offset, ProducerId};
use crate::wire::{Invalid, Reader};

/// A transaction that was aborted: what its producer wrote from `first_offset` to `last_offset` does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AbortedTxn {
    pub(crate) producer: ProducerId,
    pub(crate) first_offset: Offset,
    pub(crate) last_offset: Offset,
    pub(crate) last_stable_offset: Offset,
}

impl AbortedTxn {
    pub(crate) const LEN: usize = 34;

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        BigEndian::write_i16(&mut bytes[..2], VERSION);
        BigEndian::write_i64(&mut bytes[2..10], self.producer.0);
        BigEndian::write_i64(&mut bytes[10..18], self.first_offset.to_wire());
        BigEndian::write_i64(&mut bytes[18..26], self.last_offset.to_wire());
        BigEndian::write_i64(&mut bytes[26..], self.last_stable_offset.to_wire());
        bytes
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Invalid> {
        let version = reader.clone().i16()?;
        if version != VERSION {
            return Err(reader.invalid("unknown version of an aborted transaction"));
        }
        reader.i16()?;
        Ok(Self {
            producer: ProducerId(reader.i64()?),
            first_offset: offset(reader)?,
            last_offset: offset(reader)?,
            last_stable_offset: offset(reader)?,
        })
    }
}

/// The aborted transactions of one segment, in the order of their markers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct AbortedTxns {
    entries: Vec<AbortedTxn>,
}

impl AbortedTxns {
    /// Reads the file of the segment that begins at `base`. An entry that cannot be there makes the whole file
    /// invalid: it is rebuilt from the batches.
    pub(crate) fn decode(bytes: &[u8], base: Offset) -> Result<Self, Invalid> {
        let mut reader = Reader::new(bytes);
        let mut read = Self::default();
        while !reader.is_empty() {
            let start = reader.clone();
            let entry = AbortedTxn::decode(&mut reader)?;
            if entry.last_offset < base {
                return Err(start.invalid("aborted transaction ends before the segment"));
            }
            read.append(entry).map_err(|what| start.invalid(what))?;
        }
        Ok(read)
    }

    /// The file of all of them; a log writes one for each segment.
    #[cfg(any(fuzzing, test))]
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.entries.iter().flat_map(AbortedTxn::encode).collect()
    }

    /// Adds the transaction that was aborted last. An error says why it cannot be, and changes nothing.
    pub(crate) fn append(&mut self, entry: AbortedTxn) -> Result<(), &'static str> {
        if entry.first_offset > entry.last_offset {
            return Err("aborted transaction ends before it begins");
        }
        if self.entries.last().is_some_and(|last| last.last_offset >= entry.last_offset) {
            return Err("aborted transactions are out of order");
        }
        self.entries.push(entry);
        Ok(())
    }

    /// Forgets those whose markers were at these offsets, which rise.
    pub(crate) fn remove(&mut self, markers: &[Offset]) {
        if !markers.is_empty() {
            self.entries.retain(|entry| markers.binary_search(&entry.last_offset).is_err());
        }
    }

    /// Forgets those that ended below `start`.
    pub(crate) fn forget_below(&mut self, start: Offset) {
        self.entries.drain(..ended_below(&self.entries, start));
    }

    /// Those that may have records in `from..to`.
    pub(crate) fn within(&self, from: Offset, to: Offset) -> impl Iterator<Item = &AbortedTxn> {
        let later = self.ended_from(from);
        // What ends after that one was open then, and so begins at its stable offset or above; or began later.
        let last = later.iter().position(|entry| entry.last_stable_offset >= to);
        let reaching = &later[..last.map_or(later.len(), |last| last + 1)];
        reaching.iter().filter(move |entry| entry.first_offset < to)
    }

    /// Those that ended at `from` or later.
    pub(crate) fn ended_from(&self, from: Offset) -> &[AbortedTxn] {
        &self.entries[ended_below(&self.entries, from)..]
    }

    pub(crate) fn entries(&self) -> &[AbortedTxn] {
        &self.entries
    }
}

/// How many of these, which come in the order of their markers, ended below `offset`.
pub(crate) fn ended_below(entries: &[AbortedTxn], offset: Offset) -> usize {
    entries.partition_point(|entry| entry.last_offset < offset)
}

fn offset(reader: &mut Reader<'_>) -> Result<Offset, Invalid> {
    let start = reader.clone();
    Offset::from_wire(reader.i64()?).ok_or_else(|| start.invalid("negative offset"))
}

const VERSION: i16 = 0;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_index_reads_back_and_what_it_cannot_hold_is_refused() {
        let index = index(&[(6, 12, 13), (20, 25, 22), (22, 30, 31)]);
        let bytes = index.encode();
        assert_eq!(AbortedTxns::decode(&bytes, Offset(12)), Ok(index.clone()));
        assert_eq!(index.entries().len() * AbortedTxn::LEN, bytes.len());

        let refused = |change: fn(&mut Vec<u8>), base| {
            let mut bytes = bytes.clone();
            change(&mut bytes);
            let invalid = AbortedTxns::decode(&bytes, Offset(base)).unwrap_err();
            (invalid.at, invalid.what)
        };
        assert_eq!(refused(|_| (), 13), (0, "aborted transaction ends before the segment"));
        assert_eq!(refused(|bytes| bytes[35] = 1, 0), (34, "unknown version of an aborted transaction"));
        assert_eq!(refused(|bytes| bytes[44] = 0x80, 0), (44, "negative offset"));
        assert_eq!(refused(|bytes| bytes.truncate(101), 0), (94, "length past the end"));
        assert_eq!(refused(|bytes| bytes[34 + 25] = 12, 0), (34, "aborted transaction ends before it begins"));
        assert_eq!(refused(|bytes| bytes[68 + 25] = 25, 0), (68, "aborted transactions are out of order"));
    }

    #[test]
    fn a_marker_that_is_not_the_last_one_is_refused_without_effect() {
        let mut index = index(&[(1, 5, 6)]);
        let before = index.clone();
        assert!(index.append(txn(2, 5, 6)).is_err());
        assert!(index.append(txn(9, 8, 9)).is_err());
        assert_eq!(index, before);
    }

    proptest! {
        /// Whichever transactions there were, those that reach into a range are the ones that are found by looking at all.
        #[test]
        fn what_reaches_into_a_range_is_found_without_looking_at_all(
            steps in prop::collection::vec((0..4_usize, 0..3_u8), 1..60),
            from in 0..60_u64,
            len in 0..20_u64,
            start in 0..60_u64,
        ) {
            let (mut open, mut index) = ([None; 4], AbortedTxns::default());
            for (offset, (producer, what)) in (0..).zip(steps) {
                match (what, open[producer]) {
                    (0 | 1, None) => open[producer] = Some(offset),
                    (2, Some(first)) => {
                        open[producer] = None;
                        let stable = open.iter().flatten().min().copied().unwrap_or(offset + 1);
                        index.append(txn(first, offset, stable)).unwrap();
                    }
                    _ => {}
                }
            }
            let (from, to) = (Offset(from), Offset(from + len));
            let reaches = |entry: &&AbortedTxn| entry.last_offset >= from && entry.first_offset < to;
            let all: Vec<_> = index.entries().iter().filter(reaches).collect();
            prop_assert_eq!(index.within(from, to).collect::<Vec<_>>(), all);
            let left = index.entries().iter().filter(|entry| entry.last_offset >= Offset(start)).copied().collect();
            index.forget_below(Offset(start));
            prop_assert_eq!(index, AbortedTxns { entries: left });
        }

        #[test]
        fn any_bytes_are_refused_or_written_back_unchanged(bytes: Vec<u8>) {
            if let Ok(index) = AbortedTxns::decode(&bytes, Offset::ZERO) {
                prop_assert_eq!(index.encode(), bytes);
            }
        }
    }

    fn index(entries: &[(u64, u64, u64)]) -> AbortedTxns {
        let mut index = AbortedTxns::default();
        entries.iter().for_each(|(first, last, stable)| index.append(txn(*first, *last, *stable)).unwrap());
        index
    }

    fn txn(first: u64, last: u64, stable: u64) -> AbortedTxn {
        AbortedTxn {
            producer: ProducerId(2000),
            first_offset: Offset(first),
            last_offset: Offset(last),
            last_stable_offset: Offset(stable),
        }
    }
}
