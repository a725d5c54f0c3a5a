//! The state of producers as a file: Kafka's `.snapshot`, version 1. Its name is the offset up to which it holds.
//!
//! | Byte | Size | Field            | Notes                                                            |
//! |-----:|-----:|------------------|------------------------------------------------------------------|
//! |    0 |    2 | version          | 1                                                                |
//! |    2 |    4 | CRC-32C          | of byte 6 to the end                                             |
//! |    6 |    4 | count            | of entries                                                       |
//! |   10 | 46 n | entries          | Kafka writes them in any order, we by ascending id               |
//!
//! | Byte | Size | Field of entry            | Notes                                                   |
//! |-----:|-----:|---------------------------|---------------------------------------------------------|
//! |    0 |    8 | producer id               |                                                         |
//! |    8 |    2 | producer epoch            |                                                         |
//! |   10 |    4 | last sequence             | -1 if only a marker was seen                            |
//! |   14 |    8 | last offset               | of the last batch; -1 if only a marker was seen         |
//! |   22 |    4 | offset delta              | last offset of that batch minus its first               |
//! |   26 |    8 | timestamp                 | of the last batch or marker                             |
//! |   34 |    4 | coordinator epoch         | -1 if no marker was seen                                |
//! |   38 |    8 | first offset of the transaction | -1 if none is open                                |
//!
//! All numbers are big-endian. Of the five batches that are known of a producer only the last is kept. A snapshot is
//! derived: if it does not read, an older one and the batches since say the same.

use crate::checksum::crc32c;
use crate::types::{Offset, ProducerEpoch, ProducerId, Timestamp};
use crate::wire::{Invalid, Reader};

/// What a snapshot says of one producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) producer: ProducerId,
    pub(crate) epoch: ProducerEpoch,
    pub(crate) last_batch: Option<LastBatch>,
    pub(crate) timestamp: Timestamp,
    /// -1 if no marker was seen.
    pub(crate) coordinator_epoch: i32,
    /// Where its open transaction began.
    pub(crate) open_since: Option<Offset>,
}

/// The last batch of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LastBatch {
    pub(crate) last_sequence: i32,
    pub(crate) base_offset: Offset,
    pub(crate) last_offset: Offset,
}

/// Encodes a snapshot of these producers.
pub(crate) fn encode(entries: impl Iterator<Item = Entry>) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LEN];
    let mut count = 0_i32;
    for entry in entries {
        put_entry(&mut bytes, &entry);
        count += 1;
    }
    bytes[..CRC_AT].copy_from_slice(&VERSION.to_be_bytes());
    bytes[COUNT_AT..HEADER_LEN].copy_from_slice(&count.to_be_bytes());
    let crc = crc32c(&bytes[COUNT_AT..]);
    bytes[CRC_AT..COUNT_AT].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// Decodes the snapshot that holds up to `end`, in the order of the file. An error says where it cannot be one.
pub(crate) fn decode(bytes: &[u8], end: Offset) -> Result<Vec<Entry>, Invalid> {
    let mut reader = Reader::new(bytes);
    if reader.i16()? != VERSION {
        return Err(Invalid { at: 0, what: "unknown version of a snapshot" });
    }
    let crc = reader.u32()?;
    if crc32c(&bytes[COUNT_AT..]) != crc {
        return Err(Invalid { at: CRC_AT, what: "checksum of a snapshot does not match" });
    }
    let count = usize::try_from(reader.i32()?).map_err(|_| Invalid { at: COUNT_AT, what: "negative count" })?;
    if count.checked_mul(ENTRY_LEN) != Some(reader.remaining()) {
        return Err(Invalid { at: COUNT_AT, what: "count does not match the length" });
    }
    // The length of the file bounds the count by now.
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        entries.push(take_entry(&mut reader, end)?);
    }
    Ok(entries)
}

fn put_entry(into: &mut Vec<u8>, entry: &Entry) {
    let (last_sequence, last_offset, delta) = match entry.last_batch {
        Some(batch) => {
            (batch.last_sequence, batch.last_offset.to_wire(), (batch.last_offset - batch.base_offset) as i32)
        }
        None => (-1, -1, 0),
    };
    into.extend_from_slice(&entry.producer.0.to_be_bytes());
    into.extend_from_slice(&entry.epoch.0.to_be_bytes());
    into.extend_from_slice(&last_sequence.to_be_bytes());
    into.extend_from_slice(&last_offset.to_be_bytes());
    into.extend_from_slice(&delta.to_be_bytes());
    into.extend_from_slice(&entry.timestamp.0.to_be_bytes());
    into.extend_from_slice(&entry.coordinator_epoch.to_be_bytes());
    into.extend_from_slice(&entry.open_since.map_or(-1, Offset::to_wire).to_be_bytes());
}

fn take_entry(reader: &mut Reader<'_>, end: Offset) -> Result<Entry, Invalid> {
    let start = reader.clone();
    let producer = ProducerId(reader.i64()?);
    if !producer.is_some() {
        return Err(start.invalid("negative producer id"));
    }
    Ok(Entry {
        producer,
        epoch: ProducerEpoch(reader.i16()?),
        last_batch: take_last_batch(reader, end)?,
        timestamp: Timestamp(reader.i64()?),
        coordinator_epoch: reader.i32()?,
        open_since: take_offset(reader, end)?,
    })
}

fn take_last_batch(reader: &mut Reader<'_>, end: Offset) -> Result<Option<LastBatch>, Invalid> {
    let last_sequence = reader.i32()?;
    let last_offset = take_offset(reader, end)?;
    let start = reader.clone();
    let delta = reader.i32()?;
    let Some(last_offset) = last_offset else { return Ok(None) };
    let base_offset = u64::try_from(delta).ok().and_then(|delta| last_offset.0.checked_sub(delta));
    let base_offset = Offset(base_offset.ok_or_else(|| start.invalid("offset delta out of range"))?);
    Ok(Some(LastBatch { last_sequence, base_offset, last_offset }))
}

/// An offset below `end`, or -1 for none.
fn take_offset(reader: &mut Reader<'_>, end: Offset) -> Result<Option<Offset>, Invalid> {
    let start = reader.clone();
    match reader.i64()? {
        -1 => Ok(None),
        value => match Offset::from_wire(value) {
            Some(offset) if offset < end => Ok(Some(offset)),
            _ => Err(start.invalid("offset is not below that of the snapshot")),
        },
    }
}

const VERSION: i16 = 1;
const CRC_AT: usize = 2;
const COUNT_AT: usize = 6;
const HEADER_LEN: usize = 10;
const ENTRY_LEN: usize = 46;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const END: Offset = Offset(100);

    #[test]
    fn an_empty_snapshot_is_ten_bytes() {
        let bytes = encode([].into_iter());
        assert_eq!((bytes.len(), decode(&bytes, Offset::ZERO)), (10, Ok(vec![])));
    }

    #[test]
    fn what_cannot_be_a_snapshot_is_refused_with_its_place() {
        let good = encode([entry(1), entry(2)].into_iter());
        assert_eq!(decode(&good, END), Ok(vec![entry(1), entry(2)]));

        // The second entry begins at byte 56.
        for (at, value, place, what) in [
            (1, 2, 0, "unknown version of a snapshot"),
            (6, 0x80, 6, "negative count"),
            (9, 3, 6, "count does not match the length"),
            (56, 0x80, 56, "negative producer id"),
            (70, 0x80, 70, "offset is not below that of the snapshot"),
            (77, 100, 70, "offset is not below that of the snapshot"),
            (78, 0x80, 78, "offset delta out of range"),
            (81, 100, 78, "offset delta out of range"),
            (101, 100, 94, "offset is not below that of the snapshot"),
        ] {
            let mut bytes = good.clone();
            bytes[at] = value;
            assert_eq!(decode(&with_crc(bytes), END), Err(Invalid { at: place, what }), "byte {at}");
        }
        assert_eq!(decode(&good, Offset(30)).map_err(|invalid| invalid.at), Err(24), "it leads the log");
    }

    #[test]
    fn no_single_bit_can_flip_and_no_byte_be_missing_unnoticed() {
        let mut bytes = encode([entry(1)].into_iter());
        for bit in 0..8 * bytes.len() {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes, END).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len], END).is_err(), "{len} bytes");
        }
    }

    proptest! {
        #[test]
        fn entries_read_back(raw in prop::collection::vec(any::<(i64, i16, i32, u32, u16, i64, bool)>(), 0..9)) {
            let entries: Vec<_> = raw.into_iter().map(|(id, epoch, sequence, offset, delta, time, bare)| {
                let last = Offset(u64::from(offset) + u64::from(delta));
                Entry {
                    producer: ProducerId(id & i64::MAX),
                    epoch: ProducerEpoch(epoch),
                    last_batch: (!bare).then_some(LastBatch {
                        last_sequence: sequence, base_offset: Offset(offset.into()), last_offset: last,
                    }),
                    timestamp: Timestamp(time),
                    coordinator_epoch: sequence / 2,
                    open_since: bare.then_some(last),
                }
            }).collect();
            let bytes = encode(entries.iter().copied());
            prop_assert_eq!(decode(&bytes, Offset::MAX), Ok(entries));
        }
    }

    fn entry(id: i64) -> Entry {
        let last_batch = LastBatch { last_sequence: 6, base_offset: Offset(30), last_offset: Offset(32) };
        Entry {
            producer: ProducerId(id),
            epoch: ProducerEpoch(3),
            last_batch: Some(last_batch),
            timestamp: Timestamp(1_700_000_000_000),
            coordinator_epoch: -1,
            open_since: Some(Offset(27)),
        }
    }

    fn with_crc(mut bytes: Vec<u8>) -> Vec<u8> {
        let crc = crc32c(&bytes[COUNT_AT..]);
        bytes[CRC_AT..COUNT_AT].copy_from_slice(&crc.to_be_bytes());
        bytes
    }
}
