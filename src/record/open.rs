//! A batch that grows record by record in memory of somebody else's, and is whole at every moment.
//!
//! ```text
//! |-- header: offset, epoch, attributes, first timestamp --|-- record --|-- record --| ...     push
//! |-- header, complete, with length and checksum ----------|-- record --|-- record --|         seal
//! ```
//!
//! What the header says from the first moment on, and the records, are enough to seal the batch after a crash: nothing
//! else is believed then. Sealing writes the same values there again, so it may be cut short.

use byteorder::{BigEndian, ByteOrder};

use super::compress::{Compression, Compressor, RecordError};
use super::header::{
    ATTRIBUTES_AT, Attributes, BASE_OFFSET_AT, BASE_SEQUENCE_AT, BASE_TIMESTAMP_AT, BatchHeader, LEADER_EPOCH_AT,
    MAGIC, MAGIC_AT, MAX_BATCH_LEN, PRODUCER_EPOCH_AT, PRODUCER_ID_AT, TimestampType,
};
use super::record::Record;
use super::walk::{check_offset, read_checked};
use crate::error::Result;
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};
use crate::wire::{Invalid, Reader};

/// Who the records of a growing batch are from. All of them are from the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sender {
    /// [`ProducerId::NONE`] for plain records.
    pub(crate) producer: ProducerId,
    pub(crate) epoch: ProducerEpoch,
    pub(crate) is_transactional: bool,
}

impl Sender {
    /// Nobody in particular.
    pub(crate) const NONE: Self =
        Self { producer: ProducerId::NONE, epoch: ProducerEpoch::NONE, is_transactional: false };

    /// Who sent the batch with this header.
    pub(crate) fn of(header: &BatchHeader) -> Self {
        let is_transactional = header.attributes.is_transactional();
        Self { producer: header.producer_id, epoch: header.producer_epoch, is_transactional }
    }

    /// Whether the records are numbered.
    pub(crate) fn is_some(self) -> bool {
        self.producer.is_some()
    }
}

/// A batch of records of one sender, as far as it has come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenBatch {
    sender: Sender,
    /// The number of the first record; -1 without a sender.
    base_sequence: i32,
    base_offset: Offset,
    leader_epoch: LeaderEpoch,
    timestamp_type: TimestampType,
    base_timestamp: Timestamp,
    max_timestamp: Timestamp,
    count: i32,
}

impl OpenBatch {
    /// A batch without records yet, whose first one has the time `first`.
    pub(crate) fn new(
        base_offset: Offset,
        leader_epoch: LeaderEpoch,
        timestamp_type: TimestampType,
        first: Timestamp,
    ) -> Self {
        Self {
            sender: Sender::NONE,
            base_sequence: -1,
            base_offset,
            leader_epoch,
            timestamp_type,
            base_timestamp: first,
            max_timestamp: Timestamp::NONE,
            count: 0,
        }
    }

    /// The same of `sender`, whose first record here has the number `base_sequence`.
    pub(crate) fn of(self, sender: Sender, base_sequence: i32) -> Self {
        Self { sender, base_sequence, ..self }
    }

    #[inline]
    pub(crate) fn sender(&self) -> Sender {
        self.sender
    }

    pub(crate) fn count(&self) -> i32 {
        self.count
    }

    pub(crate) fn next_offset(&self) -> Offset {
        self.base_offset + self.count as u64
    }

    /// What the batch begins with from its first moment on.
    pub(crate) fn head(&self) -> [u8; BatchHeader::LEN] {
        BatchHeader { batch_len: BatchHeader::LEN as u32, ..self.header() }.encode()
    }

    /// How long the stored form of `record` is as the next one of this batch, with the time `at`.
    ///
    /// # Errors
    ///
    /// [`TooLong`](crate::Error::TooLong) if it cannot be stored.
    #[inline(always)]
    pub(crate) fn len_of(&self, record: &Record<'_>, at: Timestamp) -> Result<RecordLen> {
        // Wraps for a time of 2^63 - 1 on a base of -1; readers wrap back.
        let delta = at.0.wrapping_sub(self.base_timestamp.0);
        let body = record.body_len(delta, self.count)?;
        Ok(RecordLen { delta, body, whole: Record::whole_len(body) })
    }

    /// Puts `record` into `bytes`, which are as many as [`len_of`](Self::len_of) said.
    #[inline(always)]
    pub(crate) fn push(&mut self, record: &Record<'_>, at: Timestamp, len: RecordLen, bytes: &mut [u8]) {
        record.encode_into(len.body, len.delta, self.count, bytes);
        self.count += 1;
        self.max_timestamp = match self.timestamp_type {
            TimestampType::CreateTime => self.max_timestamp.max(at),
            TimestampType::LogAppendTime => at,
        };
    }

    /// Completes the header over `batch`, which holds all that was pushed behind [`head`](Self::head).
    pub(crate) fn seal(&self, batch: &mut [u8]) -> BatchHeader {
        self.header().seal(batch)
    }

    fn header(&self) -> BatchHeader {
        BatchHeader {
            base_offset: self.base_offset,
            batch_len: 0,
            leader_epoch: self.leader_epoch,
            crc: 0,
            attributes: self.attributes(),
            last_offset_delta: self.count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: self.sender.producer,
            producer_epoch: self.sender.epoch,
            base_sequence: self.base_sequence,
            record_count: self.count,
        }
    }

    fn attributes(&self) -> Attributes {
        let attributes = Attributes::default().with_timestamp_type(self.timestamp_type);
        attributes.with_transactional(self.sender.is_transactional)
    }

    /// Finds out what the batch in `bytes` holds, which was being written when the process died. With log-append time,
    /// all records have the time of the first: the batch ends when the time changes.
    ///
    /// # Errors
    ///
    /// What is wrong, and where: only whole records were said to be there.
    pub(crate) fn replay(bytes: &[u8]) -> Result<Self, Invalid> {
        let Some(head) = bytes.first_chunk::<{ BatchHeader::LEN }>() else {
            return Err(Invalid { at: bytes.len(), what: "batch header cut short" });
        };
        if head[MAGIC_AT] != MAGIC as u8 {
            return Err(Invalid { at: MAGIC_AT, what: "not a batch that was being written" });
        }
        let attributes = Attributes(BigEndian::read_i16(&head[ATTRIBUTES_AT..]));
        let sender = Sender {
            producer: ProducerId(BigEndian::read_i64(&head[PRODUCER_ID_AT..])),
            epoch: ProducerEpoch(BigEndian::read_i16(&head[PRODUCER_EPOCH_AT..])),
            is_transactional: attributes.is_transactional(),
        };
        let base_sequence = BigEndian::read_i32(&head[BASE_SEQUENCE_AT..]);
        let is_numbered = sender.is_some() && sender.epoch.0 >= 0 && base_sequence >= 0;
        if !is_numbered && (sender != Sender::NONE || base_sequence != -1) {
            return Err(Invalid { at: PRODUCER_ID_AT, what: "a producer that no growing batch has" });
        }
        let Some(base_offset) = Offset::from_wire(BigEndian::read_i64(&head[BASE_OFFSET_AT..])) else {
            return Err(Invalid { at: BASE_OFFSET_AT, what: "negative base offset" });
        };
        let leader_epoch = LeaderEpoch(BigEndian::read_i32(&head[LEADER_EPOCH_AT..]));
        let base_timestamp = Timestamp(BigEndian::read_i64(&head[BASE_TIMESTAMP_AT..]));
        let open = Self::new(base_offset, leader_epoch, attributes.timestamp_type(), base_timestamp);
        let mut open = open.of(sender, base_sequence);
        if attributes != open.attributes() {
            return Err(Invalid { at: ATTRIBUTES_AT, what: "attributes that no growing batch has" });
        }
        let mut reader = Reader::new(&bytes[BatchHeader::LEN..]);
        while !reader.is_empty() {
            let at = BatchHeader::LEN + reader.position();
            let fields = read_checked(&mut reader)?;
            if fields.offset_delta != open.count {
                return Err(Invalid { at, what: "record out of order" });
            }
            check_offset(&open.header(), &fields, at)?;
            let time = Timestamp(base_timestamp.0.wrapping_add(fields.timestamp_delta));
            open.count += 1;
            open.max_timestamp = open.max_timestamp.max(time);
        }
        if open.count == 0 {
            return Err(Invalid { at: BatchHeader::LEN, what: "no records" });
        }
        Ok(open)
    }
}

/// The lengths of a record's stored form in one batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordLen {
    delta: i64,
    body: i32,
    /// All of it, in bytes.
    pub(crate) whole: usize,
}

/// Puts a plain sealed batch into `into`, compressed.
///
/// # Errors
///
/// If this build lacks the codec, or it got longer than a batch can be.
pub(crate) fn pack(
    compressor: &mut Compressor,
    compression: Compression,
    plain: &[u8],
    into: &mut Vec<u8>,
) -> Result<BatchHeader> {
    let header = BatchHeader::read(plain).map_err(|invalid| RecordError::Invalid(invalid).into_error())?;
    let begin = into.len();
    into.resize(begin + BatchHeader::LEN, 0);
    compressor.compress(compression, &plain[BatchHeader::LEN..], into).map_err(RecordError::into_error)?;
    super::builder::check_len((into.len() - begin).min(MAX_BATCH_LEN + 1))?;
    let attributes = header.attributes.with_codec(compression.codec());
    Ok(BatchHeader { attributes, ..header }.seal(&mut into[begin..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, BatchOptions};

    fn grow(times: &[i64], timestamp_type: TimestampType) -> (OpenBatch, Vec<u8>) {
        let mut open = OpenBatch::new(Offset(7), LeaderEpoch(3), timestamp_type, Timestamp(times[0]));
        let mut bytes = open.head().to_vec();
        for (number, time) in times.iter().enumerate() {
            let value = vec![number as u8; number * 70];
            let record = Record::new(&value).key("k");
            let len = open.len_of(&record, Timestamp(*time)).unwrap();
            let at = bytes.len();
            bytes.resize(at + len.whole, 0);
            open.push(&record, Timestamp(*time), len, &mut bytes[at..]);
        }
        (open, bytes)
    }

    #[test]
    fn a_batch_that_grew_is_the_one_that_a_builder_makes() {
        for timestamp_type in [TimestampType::CreateTime, TimestampType::LogAppendTime] {
            let times = [5, 5, i64::MAX, -1, 0];
            let times = if timestamp_type == TimestampType::LogAppendTime { [9; 5] } else { times };
            let (open, mut bytes) = grow(&times, timestamp_type);
            open.seal(&mut bytes);
            let mut builder = BatchBuilder::new();
            builder.begin(
                BatchOptions::default()
                    .base_offset(Offset(7))
                    .leader_epoch(LeaderEpoch(3))
                    .timestamp_type(timestamp_type),
            );
            for (number, time) in times.iter().enumerate() {
                let value = vec![number as u8; number * 70];
                builder.push(&Record::new(&value).key("k").timestamp(Timestamp(*time)), Timestamp(9)).unwrap();
            }
            assert_eq!(bytes, builder.finish().unwrap());
        }
    }

    #[test]
    fn a_batch_is_sealed_the_same_after_its_writer_died_at_any_byte_of_sealing_it() {
        let (open, growing) = grow(&[5, 900, 6], TimestampType::CreateTime);
        let mut sealed = growing.clone();
        open.seal(&mut sealed);
        for cut in 0..=BatchHeader::LEN {
            let mut found = growing.clone();
            found[..cut].copy_from_slice(&sealed[..cut]);
            let replayed = OpenBatch::replay(&found).unwrap();
            replayed.seal(&mut found);
            assert_eq!(found, sealed, "cut at {cut}");
        }
    }

    #[test]
    fn a_batch_of_a_producer_grows_and_is_found_with_its_numbers() {
        let sender = Sender { producer: ProducerId(7), epoch: ProducerEpoch(2), is_transactional: true };
        let open = OpenBatch::new(Offset(7), LeaderEpoch(3), TimestampType::CreateTime, Timestamp(5));
        let mut open = open.of(sender, 41);
        let mut bytes = open.head().to_vec();
        for _ in 0..3 {
            let record = Record::new("x");
            let len = open.len_of(&record, Timestamp(5)).unwrap();
            let at = bytes.len();
            bytes.resize(at + len.whole, 0);
            open.push(&record, Timestamp(5), len, &mut bytes[at..]);
        }
        let replayed = OpenBatch::replay(&bytes).unwrap();
        assert_eq!(replayed.sender(), sender);
        let header = replayed.seal(&mut bytes);
        assert_eq!((Sender::of(&header), header.base_sequence, header.record_count), (sender, 41, 3));
        assert!(crate::record::BatchRef::verify(&bytes).is_ok());
        bytes[PRODUCER_EPOCH_AT] = 0x80;
        assert_eq!(OpenBatch::replay(&bytes).unwrap_err().what, "a producer that no growing batch has");
    }

    #[test]
    fn what_is_no_growing_batch_is_refused() {
        let (_, growing) = grow(&[5, 6], TimestampType::CreateTime);
        let what = |bytes: &[u8]| OpenBatch::replay(bytes).unwrap_err().what;
        assert_eq!(what(&growing[..60]), "batch header cut short");
        assert_eq!(what(&growing[..61]), "no records");
        assert!(OpenBatch::replay(&growing[..growing.len() - 1]).is_err());
        let twice = [&growing[..], &growing[61..]].concat();
        assert_eq!(what(&twice), "record out of order");
        let mut bytes = growing;
        bytes[BASE_OFFSET_AT] = 0x80;
        assert_eq!(what(&bytes), "negative base offset");
        bytes[BASE_OFFSET_AT] = 0;
        bytes[ATTRIBUTES_AT + 1] = 1;
        assert_eq!(what(&bytes), "attributes that no growing batch has");
    }

    #[cfg(feature = "lz4")]
    #[test]
    fn a_packed_batch_holds_the_same_records() {
        let (open, mut bytes) = grow(&[5; 40], TimestampType::CreateTime);
        let plain = open.seal(&mut bytes);
        let mut packed = vec![1, 2, 3];
        let codec = crate::record::Codec::Lz4;
        let header = pack(&mut Compressor::default(), Compression::new(codec), &bytes, &mut packed).unwrap();
        let batch = crate::record::BatchRef::verify(&packed[3..]).unwrap();
        assert_eq!((batch.header(), header.codec().unwrap()), (&header, codec));
        assert!(packed.len() < bytes.len());
        assert_eq!((header.next_offset(), header.max_timestamp), (plain.next_offset(), plain.max_timestamp));
        let (mut one, mut other) = (Vec::new(), Vec::new());
        let records = batch.records(1 << 20, &mut one).unwrap();
        assert!(records.eq(crate::record::BatchRef::verify(&bytes).unwrap().records(0, &mut other).unwrap()));
    }
}
