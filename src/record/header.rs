//! The header of a record batch.
//!
//! | Byte | Size | Field             | Notes                                                           |
//! |-----:|-----:|-------------------|-----------------------------------------------------------------|
//! |    0 |    8 | base offset       | of the first record the batch once held; outside the CRC        |
//! |    8 |    4 | batch length      | bytes after this field: total length - 12                       |
//! |   12 |    4 | leader epoch      | -1 from clients; stamped by the leader; outside the CRC         |
//! |   16 |    1 | magic             | 2                                                               |
//! |   17 |    4 | CRC-32C           | of byte 21 to the end of the batch                              |
//! |   21 |    2 | attributes        | see [`Attributes`]                                              |
//! |   23 |    4 | last offset delta | of the last record the batch once held                          |
//! |   27 |    8 | base timestamp    | record timestamps count from here; may be the delete horizon    |
//! |   35 |    8 | max timestamp     | the largest of the records, or the time of the append           |
//! |   43 |    8 | producer id       | -1: none                                                        |
//! |   51 |    2 | producer epoch    | -1: none                                                        |
//! |   53 |    4 | base sequence     | -1: none                                                        |
//! |   57 |    4 | record count      | records present now: compaction removes some                    |
//! |   61 |      | records           |                                                                 |
//!
//! All integers are big-endian. The last offset comes from its delta, never from the record count.

use byteorder::{BigEndian, ByteOrder};

use super::compress::Codec;
use crate::checksum::crc32c;
pub use crate::config::TimestampType;
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};
use crate::wire::Invalid;

/// The header of a record batch, decoded.
///
/// Whatever the bytes were, no method overflows. [`BatchHeader::check_range`] tells whether the offsets and the
/// count can belong to a batch that a leader accepted.
///
/// ```
/// use chiplog::record::{BatchHeader, BatchBuilder, BatchOptions, Record};
/// use chiplog::{Offset, Timestamp};
///
/// let mut builder = BatchBuilder::new();
/// builder.begin(BatchOptions::default().base_offset(Offset(7)));
/// builder.push(&Record::new("paid"), Timestamp(1_000))?;
/// builder.push(&Record::new("sent"), Timestamp(1_001))?;
///
/// let header = BatchHeader::read(builder.finish()?)?;
/// assert_eq!(header.last_offset(), Offset(8));
/// assert_eq!(header.max_timestamp, Timestamp(1_001));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchHeader {
    /// The offset that record offsets count from.
    pub base_offset: Offset,
    /// The length of the whole batch, header included, in bytes.
    pub batch_len: u32,
    /// The term of the leader that accepted the batch.
    pub leader_epoch: LeaderEpoch,
    /// The stored checksum.
    pub crc: u32,
    /// Codec and flags.
    pub attributes: Attributes,
    /// The last offset of the batch as it was built, minus the base offset.
    pub last_offset_delta: i32,
    /// What record timestamps count from. Not a record's timestamp if the batch has a delete horizon.
    pub base_timestamp: Timestamp,
    /// The largest timestamp of the records, or the time of the append.
    pub max_timestamp: Timestamp,
    /// Who wrote the batch.
    pub producer_id: ProducerId,
    /// The incarnation of the producer.
    pub producer_epoch: ProducerEpoch,
    /// The producer's number for the first record, or -1.
    pub base_sequence: i32,
    /// How many records the batch holds now. Negative only in a damaged batch.
    pub record_count: i32,
}

impl BatchHeader {
    /// The length of a header, in bytes.
    pub const LEN: usize = 61;
    /// The first byte that the checksum covers.
    pub(crate) const CRC_FROM: usize = ATTRIBUTES_AT;
    /// Where the version of the form stands, and which it is.
    pub(crate) const MAGIC_FROM: usize = MAGIC_AT;
    pub(crate) const MAGIC: u8 = MAGIC as u8;

    /// Reads the header at the start of `bytes`. The rest of the batch need not be there, and the checksum is not
    /// looked at.
    ///
    /// # Errors
    ///
    /// If `bytes` are fewer than 61, if the length cannot be a batch's, if the magic is not 2 (message sets of
    /// Kafka before 0.11 have 0 or 1), or if the base offset is negative.
    pub fn read(bytes: &[u8]) -> Result<Self, Invalid> {
        let len = framed_len(bytes)?;
        let (Some(batch_len), Some(header)) = (len, bytes.first_chunk::<{ Self::LEN }>()) else {
            return Err(Invalid { at: bytes.len(), what: "batch header cut short" });
        };
        Ok(Self {
            base_offset: Offset(BigEndian::read_u64(&header[BASE_OFFSET_AT..])),
            batch_len,
            leader_epoch: LeaderEpoch(BigEndian::read_i32(&header[LEADER_EPOCH_AT..])),
            crc: BigEndian::read_u32(&header[CRC_AT..]),
            attributes: Attributes(BigEndian::read_i16(&header[ATTRIBUTES_AT..])),
            last_offset_delta: BigEndian::read_i32(&header[LAST_OFFSET_DELTA_AT..]),
            base_timestamp: Timestamp(BigEndian::read_i64(&header[BASE_TIMESTAMP_AT..])),
            max_timestamp: Timestamp(BigEndian::read_i64(&header[MAX_TIMESTAMP_AT..])),
            producer_id: ProducerId(BigEndian::read_i64(&header[PRODUCER_ID_AT..])),
            producer_epoch: ProducerEpoch(BigEndian::read_i16(&header[PRODUCER_EPOCH_AT..])),
            base_sequence: BigEndian::read_i32(&header[BASE_SEQUENCE_AT..]),
            record_count: BigEndian::read_i32(&header[RECORD_COUNT_AT..]),
        })
    }

    /// The stored form, with the checksum as it is in `crc`.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut header = [0; Self::LEN];
        BigEndian::write_i64(&mut header[BASE_OFFSET_AT..], self.base_offset.to_wire());
        BigEndian::write_u32(&mut header[BATCH_LENGTH_AT..], self.batch_len.saturating_sub(LOG_OVERHEAD as u32));
        BigEndian::write_i32(&mut header[LEADER_EPOCH_AT..], self.leader_epoch.0);
        header[MAGIC_AT] = MAGIC as u8;
        BigEndian::write_u32(&mut header[CRC_AT..], self.crc);
        BigEndian::write_i16(&mut header[ATTRIBUTES_AT..], self.attributes.0);
        BigEndian::write_i32(&mut header[LAST_OFFSET_DELTA_AT..], self.last_offset_delta);
        BigEndian::write_i64(&mut header[BASE_TIMESTAMP_AT..], self.base_timestamp.0);
        BigEndian::write_i64(&mut header[MAX_TIMESTAMP_AT..], self.max_timestamp.0);
        BigEndian::write_i64(&mut header[PRODUCER_ID_AT..], self.producer_id.0);
        BigEndian::write_i16(&mut header[PRODUCER_EPOCH_AT..], self.producer_epoch.0);
        BigEndian::write_i32(&mut header[BASE_SEQUENCE_AT..], self.base_sequence);
        BigEndian::write_i32(&mut header[RECORD_COUNT_AT..], self.record_count);
        header
    }

    /// Writes this header over the start of `batch`, with the length and the checksum of what is there.
    pub(crate) fn seal(mut self, batch: &mut [u8]) -> Self {
        assert!(batch.len() >= Self::LEN && batch.len() <= MAX_BATCH_LEN, "a batch has a header and a 31-bit length");
        self.batch_len = batch.len() as u32;
        batch[..Self::LEN].copy_from_slice(&self.encode());
        self.crc = crc32c(&batch[ATTRIBUTES_AT..]);
        BigEndian::write_u32(&mut batch[CRC_AT..], self.crc);
        self
    }

    /// The last offset the batch covers: the base offset plus the delta, held within what offsets can be.
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        self.frame().last_offset()
    }

    /// The offset after the last one the batch covers.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.frame().next_offset()
    }

    fn frame(&self) -> Frame {
        let Self { base_offset, batch_len, last_offset_delta, .. } = *self;
        Frame { base_offset, batch_len, last_offset_delta }
    }

    /// Whether the offsets and the record count can belong together: a batch covers at least its base offset, no
    /// more records than offsets, and leaves an offset for the next one. Every batch a leader accepted does.
    ///
    /// # Errors
    ///
    /// If they cannot.
    pub fn check_range(&self) -> Result<(), Invalid> {
        let Ok(delta) = u64::try_from(self.last_offset_delta) else {
            return Err(Invalid { at: LAST_OFFSET_DELTA_AT, what: "negative last offset delta" });
        };
        if self.base_offset.checked_add(delta + 1).is_none() {
            return Err(Invalid { at: BASE_OFFSET_AT, what: "offsets past the largest" });
        }
        match u64::try_from(self.record_count) {
            Err(_) => Err(Invalid { at: RECORD_COUNT_AT, what: "negative record count" }),
            Ok(count) if count > delta + 1 => Err(Invalid { at: RECORD_COUNT_AT, what: "more records than offsets" }),
            Ok(_) => Ok(()),
        }
    }

    /// The producer's number for the last record, or -1. Numbers go from 2^31 - 1 to 0.
    #[must_use]
    pub fn last_sequence(&self) -> i32 {
        self.sequence_at(self.last_offset_delta)
    }

    /// The producer's number for the record `offset_delta` after the base offset, or -1.
    #[must_use]
    pub fn sequence_at(&self, offset_delta: i32) -> i32 {
        if self.base_sequence == -1 {
            return -1;
        }
        self.base_sequence.wrapping_add(offset_delta) & i32::MAX
    }

    /// The timestamp of the first record the batch once held, if the header alone tells: with a delete horizon it
    /// does not.
    #[must_use]
    pub fn first_timestamp(&self) -> Option<Timestamp> {
        match self.attributes.timestamp_type() {
            TimestampType::LogAppendTime => Some(self.max_timestamp),
            TimestampType::CreateTime if self.attributes.has_delete_horizon() => None,
            TimestampType::CreateTime => Some(self.base_timestamp),
        }
    }

    /// When compaction may drop the tombstones and markers of this batch, if that was decided.
    #[must_use]
    pub fn delete_horizon(&self) -> Option<Timestamp> {
        self.attributes.has_delete_horizon().then_some(self.base_timestamp)
    }

    /// The codec of the records, at its place in the header if there is none of that number.
    pub(crate) fn codec(&self) -> Result<Codec, Invalid> {
        self.attributes.codec().ok_or(Invalid { at: ATTRIBUTES_AT, what: "unknown codec" })
    }
}

/// Where a batch ends, in bytes and in offsets: all that is looked at of those on the way to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) base_offset: Offset,
    pub(crate) batch_len: u32,
    pub(crate) last_offset_delta: i32,
}

impl Frame {
    /// Reads what [`BatchHeader::read`] would, and refuses what it would.
    #[inline]
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Invalid> {
        let len = framed_len(bytes)?;
        let (Some(batch_len), Some(header)) = (len, bytes.first_chunk::<{ BatchHeader::LEN }>()) else {
            return Err(Invalid { at: bytes.len(), what: "batch header cut short" });
        };
        Ok(Self {
            base_offset: Offset(BigEndian::read_u64(&header[BASE_OFFSET_AT..])),
            batch_len,
            last_offset_delta: BigEndian::read_i32(&header[LAST_OFFSET_DELTA_AT..]),
        })
    }

    /// See [`BatchHeader::last_offset`].
    #[inline]
    pub(crate) fn last_offset(&self) -> Offset {
        let last = self.base_offset.0.saturating_add_signed(i64::from(self.last_offset_delta));
        Offset(last).min(Offset::MAX)
    }

    /// See [`BatchHeader::next_offset`].
    #[inline]
    pub(crate) fn next_offset(&self) -> Offset {
        Offset(self.last_offset().0.saturating_add(1)).min(Offset::MAX)
    }
}

/// The length of the batch that starts `bytes`, or `None` if too few are there to tell.
///
/// The checks go in Kafka's order, so that bytes which cannot become a batch are refused as early as there.
#[inline]
pub(super) fn framed_len(bytes: &[u8]) -> Result<Option<u32>, Invalid> {
    let Some(start) = bytes.first_chunk::<LOG_OVERHEAD>() else { return Ok(None) };
    let batch_length = BigEndian::read_i32(&start[BATCH_LENGTH_AT..]);
    if batch_length < MIN_LEGACY_LENGTH {
        return Err(Invalid { at: BATCH_LENGTH_AT, what: "batch length too small" });
    }
    match bytes.get(MAGIC_AT).map(|magic| *magic as i8) {
        None => return Ok(None),
        Some(MAGIC) => {}
        Some(0 | 1) => return Err(Invalid { at: MAGIC_AT, what: "legacy format: a message set of magic 0 or 1" }),
        Some(_) => return Err(Invalid { at: MAGIC_AT, what: "unknown magic" }),
    }
    let batch_len = batch_length as u32 + LOG_OVERHEAD as u32;
    if (batch_len as usize) < BatchHeader::LEN {
        return Err(Invalid { at: BATCH_LENGTH_AT, what: "batch length too small" });
    }
    if BigEndian::read_i64(&start[BASE_OFFSET_AT..]) < 0 {
        return Err(Invalid { at: BASE_OFFSET_AT, what: "negative base offset" });
    }
    Ok(Some(batch_len))
}

/// Gives a batch its place in the log. Both fields are outside the checksum, which stays as it is.
pub(crate) fn stamp(batch: &mut [u8], base: Offset, epoch: LeaderEpoch) {
    assert!(batch.len() >= BatchHeader::LEN, "a batch has a header");
    BigEndian::write_i64(&mut batch[BASE_OFFSET_AT..], base.to_wire());
    BigEndian::write_i32(&mut batch[LEADER_EPOCH_AT..], epoch.0);
}

/// The flags of a batch. Unknown ones are ignored, and kept where the batch is not rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Attributes(pub i16);

impl Attributes {
    /// The codec of the records; `None` for the numbers 5 to 7, which are no codec's.
    #[must_use]
    pub fn codec(self) -> Option<Codec> {
        Codec::from_id(self.0 & CODEC_MASK)
    }

    /// Whether record timestamps are the producer's or the log's.
    #[must_use]
    pub fn timestamp_type(self) -> TimestampType {
        if self.0 & LOG_APPEND_TIME == 0 { TimestampType::CreateTime } else { TimestampType::LogAppendTime }
    }

    /// Whether the batch is part of a transaction.
    #[must_use]
    pub fn is_transactional(self) -> bool {
        self.0 & TRANSACTIONAL != 0
    }

    /// Whether the batch is a marker of Kafka's own, not for applications.
    #[must_use]
    pub fn is_control(self) -> bool {
        self.0 & CONTROL != 0
    }

    /// Whether the base timestamp holds the delete horizon.
    #[must_use]
    pub fn has_delete_horizon(self) -> bool {
        self.0 & DELETE_HORIZON != 0
    }

    pub(super) fn with_codec(self, codec: Codec) -> Self {
        Self(self.0 & !CODEC_MASK | codec.id())
    }

    pub(crate) fn with_timestamp_type(self, kind: TimestampType) -> Self {
        self.with(LOG_APPEND_TIME, kind == TimestampType::LogAppendTime)
    }

    pub(super) fn with_transactional(self, is_transactional: bool) -> Self {
        self.with(TRANSACTIONAL, is_transactional)
    }

    pub(super) fn with_control(self, is_control: bool) -> Self {
        self.with(CONTROL, is_control)
    }

    pub(super) fn with_delete_horizon(self, has_delete_horizon: bool) -> Self {
        self.with(DELETE_HORIZON, has_delete_horizon)
    }

    /// These attributes without the bits that mean nothing yet.
    pub(super) fn known(self) -> Self {
        Self(self.0 & (CODEC_MASK | LOG_APPEND_TIME | TRANSACTIONAL | CONTROL | DELETE_HORIZON))
    }

    fn with(self, bit: i16, is_set: bool) -> Self {
        Self(if is_set { self.0 | bit } else { self.0 & !bit })
    }
}

pub(super) const BASE_OFFSET_AT: usize = 0;
const BATCH_LENGTH_AT: usize = 8;
pub(super) const LEADER_EPOCH_AT: usize = 12;
pub(super) const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
pub(super) const ATTRIBUTES_AT: usize = 21;
pub(super) const LAST_OFFSET_DELTA_AT: usize = 23;
pub(super) const BASE_TIMESTAMP_AT: usize = 27;
const MAX_TIMESTAMP_AT: usize = 35;
pub(super) const PRODUCER_ID_AT: usize = 43;
pub(super) const PRODUCER_EPOCH_AT: usize = 51;
pub(super) const BASE_SEQUENCE_AT: usize = 53;
pub(super) const RECORD_COUNT_AT: usize = 57;

const _: () = assert!(MAGIC_AT + 1 == CRC_AT && CRC_AT + size_of::<u32>() == ATTRIBUTES_AT);
const _: () = assert!(RECORD_COUNT_AT + size_of::<i32>() == BatchHeader::LEN);

/// The first two fields, which the length does not count.
const LOG_OVERHEAD: usize = 12;
/// The smallest length of any magic.
const MIN_LEGACY_LENGTH: i32 = 14;
pub(super) const MAGIC: i8 = 2;
/// What the length field can say, plus the bytes before it; Kafka holds the whole batch to 31 bits.
pub(super) const MAX_BATCH_LEN: usize = i32::MAX as usize;

const CODEC_MASK: i16 = 0x07;
const LOG_APPEND_TIME: i16 = 0x08;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;
const DELETE_HORIZON: i16 = 0x40;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain() -> BatchHeader {
        BatchHeader {
            base_offset: Offset(10),
            batch_len: 61,
            leader_epoch: LeaderEpoch(3),
            crc: 0,
            attributes: Attributes(0),
            last_offset_delta: 4,
            base_timestamp: Timestamp(100),
            max_timestamp: Timestamp(200),
            producer_id: ProducerId(1),
            producer_epoch: ProducerEpoch(0),
            base_sequence: i32::MAX - 1,
            record_count: 5,
        }
    }

    #[test]
    fn what_is_shorter_than_a_header_has_no_frame() {
        let bytes = plain().encode();
        let frame = Frame::read(&bytes).unwrap();
        assert_eq!((frame.base_offset, frame.batch_len, frame.last_offset_delta), (Offset(10), 61, 4));
        for len in [0, 11, 12, 60] {
            let refused = Invalid { at: len, what: "batch header cut short" };
            assert_eq!(Frame::read(&bytes[..len]).map(|_| ()), Err(refused));
        }
    }

    proptest! {
        /// A header that is read is written back unchanged, and none of its answers overflows.
        #[test]
        fn a_header_is_written_back_as_it_was_read(mut bytes: [u8; 32], tail: [u8; 29]) {
            bytes[0] &= 0x7F;
            bytes[8] &= 0x7F;
            bytes[16] = 2;
            let bytes = [&bytes[..], &tail].concat();
            if let Ok(header) = BatchHeader::read(&bytes) {
                prop_assert_eq!(&header.encode()[..], &bytes[..]);
                prop_assert!(header.next_offset() <= Offset::MAX);
                prop_assert!(header.last_sequence() >= -1);
                if header.check_range().is_ok() {
                    prop_assert_eq!(header.next_offset() - header.base_offset, header.last_offset_delta as u64 + 1);
                }
            }
        }
    }

    #[test]
    fn sequences_wrap_to_zero() {
        assert_eq!(plain().last_sequence(), 2);
        assert_eq!(plain().sequence_at(1), i32::MAX);
        assert_eq!(BatchHeader { base_sequence: -1, ..plain() }.last_sequence(), -1);
    }

    #[test]
    fn a_range_that_no_leader_accepts_is_named() {
        let what = |header: BatchHeader| header.check_range().map_err(|invalid| invalid.what);
        assert_eq!(what(plain()), Ok(()));
        let negative = BatchHeader { base_offset: Offset(0), last_offset_delta: -1, ..plain() };
        assert_eq!(what(negative), Err("negative last offset delta"));
        assert_eq!((negative.last_offset(), negative.next_offset()), (Offset(0), Offset(1)));
        assert_eq!(what(BatchHeader { record_count: 6, ..plain() }), Err("more records than offsets"));
        assert_eq!(what(BatchHeader { record_count: -1, ..plain() }), Err("negative record count"));
        let full = BatchHeader { base_offset: Offset(Offset::MAX.0 - 4), ..plain() };
        assert_eq!(what(full), Err("offsets past the largest"));
        assert_eq!(full.next_offset(), Offset::MAX);
    }

    #[test]
    fn a_stamp_is_outside_the_checksum() {
        let mut batch = [0; BatchHeader::LEN];
        let sealed = plain().seal(&mut batch);
        stamp(&mut batch, Offset(77), LeaderEpoch(9));
        let expected = BatchHeader { base_offset: Offset(77), leader_epoch: LeaderEpoch(9), ..sealed };
        assert_eq!(BatchHeader::read(&batch), Ok(expected));
        assert_eq!(crc32c(&batch[ATTRIBUTES_AT..]), expected.crc);
    }

    #[test]
    fn a_legacy_message_set_is_told_from_damage() {
        let mut batch = plain().encode();
        for (magic, what) in [(0, "legacy"), (1, "legacy"), (3, "unknown"), (0xFF, "unknown")] {
            batch[MAGIC_AT] = magic;
            let invalid = BatchHeader::read(&batch).unwrap_err();
            assert!(invalid.at == MAGIC_AT && invalid.what.starts_with(what), "magic {magic}: {invalid}");
        }
    }

    #[test]
    fn timestamps_of_a_batch_depend_on_its_flags() {
        assert_eq!(plain().first_timestamp(), Some(Timestamp(100)));
        let appended = BatchHeader { attributes: Attributes(LOG_APPEND_TIME), ..plain() };
        assert_eq!(appended.first_timestamp(), Some(Timestamp(200)));
        let cleaned = BatchHeader { attributes: Attributes(DELETE_HORIZON), ..plain() };
        assert_eq!((cleaned.first_timestamp(), cleaned.delete_horizon()), (None, Some(Timestamp(100))));
    }
}
