//! Building a batch: records in, one encoded batch out, in a buffer that is used again.
//!
//! ```text
//! buffer   |-- header, empty --|-- record --|-- record --| ...     push appends
//! finish   fills in the header; with a codec, into a second buffer with the records compressed behind it
//! ```
//!
//! Once both buffers have grown to the size of the batches, plain ones are built without allocating.

use super::compress::{Compression, Compressor, RecordError};
use super::header::{
    Attributes, BASE_SEQUENCE_AT, BatchHeader, MAX_BATCH_LEN, PRODUCER_ID_AT, RECORD_COUNT_AT, TimestampType,
};
use super::record::{Record, check_limit};
use crate::error::{Error, Result};
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};
use crate::wire::Invalid;

/// What a batch is built with, beside its records. The default is what a client sends: offset 0, no leader epoch,
/// no producer, not compressed, timestamps of the producer.
///
/// ```
/// use chiplog::record::{BatchOptions, TimestampType};
/// use chiplog::{LeaderEpoch, Offset};
///
/// let options = BatchOptions::default()
///     .base_offset(Offset(1_000))
///     .leader_epoch(LeaderEpoch(7))
///     .timestamp_type(TimestampType::LogAppendTime);
/// assert_ne!(options, BatchOptions::default());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchOptions {
    base_offset: Offset,
    leader_epoch: LeaderEpoch,
    compression: Compression,
    timestamp_type: TimestampType,
    producer: Option<Producer>,
    delete_horizon: Option<Timestamp>,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self {
            base_offset: Offset::ZERO,
            leader_epoch: LeaderEpoch::NONE,
            compression: Compression::NONE,
            timestamp_type: TimestampType::CreateTime,
            producer: None,
            delete_horizon: None,
        }
    }
}

impl BatchOptions {
    /// Sets the offset of the first record.
    #[must_use]
    pub fn base_offset(mut self, offset: Offset) -> Self {
        self.base_offset = offset;
        self
    }

    /// Sets the term of the leader that accepts the batch.
    #[must_use]
    pub fn leader_epoch(mut self, epoch: LeaderEpoch) -> Self {
        self.leader_epoch = epoch;
        self
    }

    /// Sets codec and level.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Sets whose clock the timestamps are. With [`TimestampType::LogAppendTime`], every record reads as the time
    /// given with the last push.
    #[must_use]
    pub fn timestamp_type(mut self, timestamp_type: TimestampType) -> Self {
        self.timestamp_type = timestamp_type;
        self
    }

    /// Sets the idempotent or transactional producer.
    #[must_use]
    pub fn producer(mut self, producer: Producer) -> Self {
        self.producer = Some(producer);
        self
    }

    /// Sets when compaction may drop the tombstones of the batch, in place of the base timestamp.
    #[must_use]
    pub fn delete_horizon(mut self, horizon: Timestamp) -> Self {
        self.delete_horizon = Some(horizon);
        self
    }
}

/// Who a batch is from, if duplicates are to be told from new batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producer {
    /// The identity, 0 or above.
    pub id: ProducerId,
    /// The incarnation, 0 or above.
    pub epoch: ProducerEpoch,
    /// The number of the batch's first record, 0 or above.
    pub base_sequence: i32,
    /// Whether the batch is part of a transaction.
    pub is_transactional: bool,
}

impl Producer {
    fn check(&self) -> Result<(), Invalid> {
        if !self.id.is_some() || self.epoch.0 < 0 {
            return Err(Invalid { at: PRODUCER_ID_AT, what: "negative producer id or epoch" });
        }
        if self.base_sequence < 0 {
            return Err(Invalid { at: BASE_SEQUENCE_AT, what: "producer without a sequence" });
        }
        Ok(())
    }
}

/// Builds batches, one after the other, in buffers of its own.
///
/// ```
/// use chiplog::record::{BatchBuilder, BatchOptions, BatchRef, Codec, Compression, Record};
/// use chiplog::{Offset, Timestamp};
///
/// # if !Codec::Lz4.is_supported() {
/// #     return Ok(());
/// # }
/// let mut builder = BatchBuilder::new();
/// builder.begin(BatchOptions::default().base_offset(Offset(5)).compression(Compression::new(Codec::Lz4)));
/// for value in ["paid", "sent", "received"] {
///     builder.push(&Record::new(value), Timestamp(1_000))?;
/// }
/// let batch = BatchRef::verify(builder.finish()?)?;
/// let mut scratch = Vec::new();
/// let offsets: Vec<u64> = batch.records(1 << 20, &mut scratch)?.map(|record| record.offset.0).collect();
/// assert_eq!(offsets, [5, 6, 7]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct BatchBuilder {
    options: BatchOptions,
    /// Room for the header, then the records in plain form, then what was there before.
    plain: Vec<u8>,
    /// Where the records end.
    filled: usize,
    /// The batch, if it is compressed.
    packed: Vec<u8>,
    /// Up to where the records are in it; 0 if they are not.
    packed_to: usize,
    compressor: Compressor,
    times: Times,
    record_count: i32,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchBuilder {
    /// A builder with the default options and no record.
    #[must_use]
    pub fn new() -> Self {
        let mut builder = Self {
            options: BatchOptions::default(),
            plain: Vec::new(),
            filled: 0,
            packed: Vec::new(),
            packed_to: 0,
            compressor: Compressor::default(),
            times: Times::default(),
            record_count: 0,
        };
        builder.begin(BatchOptions::default());
        builder
    }

    /// A builder with room for a batch of `len` bytes, before compression: one that is no longer takes no more memory.
    pub(crate) fn with_room(len: usize) -> Self {
        let mut builder = Self::new();
        builder.plain.reserve_exact(len.saturating_sub(builder.plain.len()));
        builder.make_room(len);
        builder
    }

    /// Gives back what compressing took, which the next batch takes anew.
    pub(crate) fn shed(&mut self) {
        self.packed = Vec::new();
        self.packed_to = 0;
    }

    /// How much memory it keeps for the next batch, in bytes.
    pub(crate) fn capacity(&self) -> usize {
        self.plain.capacity() + self.packed.capacity()
    }

    /// Drops what was pushed and begins a batch.
    pub fn begin(&mut self, options: BatchOptions) {
        self.options = options;
        self.make_room(BatchHeader::LEN);
        self.filled = BatchHeader::LEN;
        self.packed_to = 0;
        self.times = Times::default();
        self.record_count = 0;
    }

    /// Adds a record. Its time is `now` if it has none of its own.
    ///
    /// # Errors
    ///
    /// The batch is left as it was by:
    ///
    /// - [`Error::TooLong`] if the record, a part of it or the batch would be longer than 2 GiB.
    /// - [`Error::InvalidRecord`] if the timestamp is negative and not [`Timestamp::NONE`].
    /// - [`Error::OffsetsExhausted`] if there is no offset left for it.
    #[inline]
    pub fn push(&mut self, record: &Record<'_>, now: Timestamp) -> Result<()> {
        let encoded = self.measure(record, now)?;
        check_limit(encoded.end, MAX_BATCH_LEN)?;
        self.place(record, encoded);
        Ok(())
    }

    /// Adds a record as [`push`](Self::push) does, if the batch is at most `limit` bytes long with it, before compression.
    /// Else the batch is left as it was, and this is `false`.
    #[inline]
    pub(crate) fn push_within(&mut self, record: &Record<'_>, now: Timestamp, limit: usize) -> Result<bool> {
        let encoded = self.measure(record, now)?;
        if encoded.end > limit.min(MAX_BATCH_LEN) {
            return Ok(false);
        }
        self.place(record, encoded);
        Ok(true)
    }

    #[inline(always)]
    fn measure(&self, record: &Record<'_>, now: Timestamp) -> Result<Encoded> {
        let index = self.record_count;
        let end = self.options.base_offset.checked_add(index as u64 + 1);
        if end.is_none() || index == i32::MAX {
            return Err(Error::OffsetsExhausted { end: self.options.base_offset, count: index as u64 + 1 });
        }
        let times = self.times.after(record, index as usize, now, &self.options)?;
        let body_len = record.body_len(times.last_delta, index)?;
        Ok(Encoded { times, body_len, end: self.filled + Record::whole_len(body_len) })
    }

    #[inline(always)]
    fn place(&mut self, record: &Record<'_>, Encoded { times, body_len, end }: Encoded) {
        if end > self.plain.len() {
            self.make_room(end);
        }
        record.encode_into(body_len, times.last_delta, self.record_count, &mut self.plain[self.filled..end]);
        self.filled = end;
        self.times = times;
        self.record_count += 1;
    }

    /// Ends the batch and returns its bytes, which stay until the next `begin`.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidBatch`] if it has no record, or the producer's numbers are negative.
    /// - [`Error::Unsupported`] if this build lacks the codec.
    /// - [`Error::TooLong`] if compression made it longer than 2 GiB.
    pub fn finish(&mut self) -> Result<&mut [u8]> {
        let (batch, header) = self.finish_unsealed()?;
        header.seal(batch);
        Ok(batch)
    }

    /// As [`finish`](Self::finish), but the header is not in the bytes yet: who changes it first seals but once.
    pub(crate) fn finish_unsealed(&mut self) -> Result<(&mut [u8], BatchHeader)> {
        if self.record_count == 0 {
            return Err(Error::InvalidBatch { reason: "no records", position: RECORD_COUNT_AT });
        }
        let header = header(&self.options, &self.times, self.record_count)?;
        let batch = if self.options.compression.codec().is_none() {
            &mut self.plain[..self.filled]
        } else {
            self.compress()?
        };
        Ok((batch, header))
    }

    /// How long the batch is, header included and before compression, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Whether no record was pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Whether its bytes will be compressed.
    pub(crate) fn is_compressed(&self) -> bool {
        !self.options.compression.codec().is_none()
    }

    /// How many records were pushed.
    #[must_use]
    pub fn record_count(&self) -> usize {
        self.record_count as usize
    }

    /// Makes the buffer `len` bytes long at least: at once by as much again, so that growing is rare.
    #[cold]
    fn make_room(&mut self, len: usize) {
        if len > self.plain.len() {
            self.plain.resize(len.max(2 * self.plain.len()).min(MAX_BATCH_LEN), 0);
        }
    }

    /// Compresses the batch, unless that was done: who asks how long it is appends it next, or tries to once more.
    fn compress(&mut self) -> Result<&mut [u8]> {
        if self.packed_to == self.filled {
            return Ok(&mut self.packed);
        }
        self.packed_to = 0;
        self.packed.clear();
        self.packed.resize(BatchHeader::LEN, 0);
        let body = &self.plain[BatchHeader::LEN..self.filled];
        self.compressor
            .compress(self.options.compression, body, &mut self.packed)
            .map_err(RecordError::into_error)?;
        check_len(self.packed.len())?;
        self.packed_to = self.filled;
        Ok(&mut self.packed)
    }
}

pub(super) fn check_len(len: usize) -> Result<()> {
    if len <= MAX_BATCH_LEN {
        return Ok(());
    }
    Err(Error::TooLong { what: "batch", len: len as u64, limit: MAX_BATCH_LEN as u64 })
}

fn header(options: &BatchOptions, times: &Times, record_count: i32) -> Result<BatchHeader> {
    if let Some(producer) = options.producer {
        producer.check().map_err(|invalid| RecordError::Invalid(invalid).into_error())?;
    }
    let producer = options.producer;
    let attributes = Attributes::default()
        .with_codec(options.compression.codec())
        .with_timestamp_type(options.timestamp_type)
        .with_transactional(producer.is_some_and(|producer| producer.is_transactional))
        .with_delete_horizon(options.delete_horizon.is_some());
    Ok(BatchHeader {
        base_offset: options.base_offset,
        batch_len: 0,
        leader_epoch: options.leader_epoch,
        crc: 0,
        attributes,
        last_offset_delta: record_count - 1,
        base_timestamp: times.base,
        max_timestamp: times.max,
        producer_id: producer.map_or(ProducerId::NONE, |producer| producer.id),
        producer_epoch: producer.map_or(ProducerEpoch::NONE, |producer| producer.epoch),
        base_sequence: producer.map_or(-1, |producer| producer.base_sequence),
        record_count,
    })
}

/// What a record would make of a batch.
struct Encoded {
    times: Times,
    body_len: i32,
    /// Where the records would end.
    end: usize,
}

/// The timestamps of a batch so far.
#[derive(Debug, Clone, Copy)]
struct Times {
    base: Timestamp,
    max: Timestamp,
    /// From `base` to the last record.
    last_delta: i64,
}

impl Default for Times {
    fn default() -> Self {
        Self { base: Timestamp::NONE, max: Timestamp::NONE, last_delta: 0 }
    }
}

impl Times {
    /// The timestamps after `record`, number `index` of the batch.
    #[inline(always)]
    fn after(&self, record: &Record<'_>, index: usize, now: Timestamp, options: &BatchOptions) -> Result<Self> {
        let time = record.timestamp.unwrap_or(now);
        if time < Timestamp::NONE {
            return Err(Error::InvalidRecord { index, reason: "negative timestamp" });
        }
        // The first record's time, not the smallest: later ones may be older.
        let first = if index == 0 { time } else { self.base };
        let base = options.delete_horizon.unwrap_or(first);
        let max = match options.timestamp_type {
            TimestampType::CreateTime => self.max.max(time),
            TimestampType::LogAppendTime => now,
        };
        // Wraps for a time of 2^63 - 1 on a base of -1; readers wrap back.
        Ok(Self { base, max, last_delta: time.0.wrapping_sub(base.0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::BatchRef;

    const NOW: Timestamp = Timestamp(1_000);

    #[test]
    fn no_batch_is_longer_than_its_length_can_say() {
        assert!(check_len(MAX_BATCH_LEN).is_ok());
        let Err(Error::TooLong { what, len, limit }) = check_len(MAX_BATCH_LEN + 1) else { panic!("taken") };
        assert_eq!((what, len, limit), ("batch", MAX_BATCH_LEN as u64 + 1, MAX_BATCH_LEN as u64));
    }

    #[test]
    fn a_builder_forgets_the_batch_before() {
        let mut builder = BatchBuilder::new();
        builder.push(&Record::new("first"), NOW).unwrap();
        let first = builder.finish().unwrap().to_vec();
        builder.begin(BatchOptions::default());
        assert!(builder.is_empty());
        assert!(matches!(builder.finish(), Err(Error::InvalidBatch { reason: "no records", .. })));
        builder.push(&Record::new("first"), NOW).unwrap();
        assert_eq!((builder.len(), builder.record_count()), (first.len(), 1));
        assert_eq!(builder.finish().unwrap(), first);
    }

    #[test]
    fn times_may_go_back_and_the_extremes_survive() {
        let times = [5, i64::MAX, -1, 0];
        let mut builder = BatchBuilder::new();
        for time in times {
            builder.push(&Record::new("v").timestamp(Timestamp(time)), NOW).unwrap();
        }
        let bytes = builder.finish().unwrap().to_vec();
        let batch = BatchRef::verify(&bytes).unwrap();
        assert_eq!(batch.header().base_timestamp, Timestamp(5));
        assert_eq!(batch.header().max_timestamp, Timestamp(i64::MAX));
        let mut scratch = Vec::new();
        let read: Vec<i64> = batch.records(0, &mut scratch).unwrap().map(|record| record.timestamp.0).collect();
        assert_eq!(read, times);
        builder.begin(BatchOptions::default());
        assert!(builder.push(&Record::new("v").timestamp(Timestamp(-2)), NOW).is_err());
    }

    #[test]
    fn the_last_offset_is_left_for_the_end() {
        let mut builder = BatchBuilder::new();
        builder.begin(BatchOptions::default().base_offset(Offset(Offset::MAX.0 - 1)));
        builder.push(&Record::new("v"), NOW).unwrap();
        assert!(matches!(builder.push(&Record::new("v"), NOW), Err(Error::OffsetsExhausted { count: 2, .. })));
        assert_eq!(builder.record_count(), 1);
    }

    #[test]
    fn a_producer_needs_all_its_numbers() {
        let good = Producer { id: ProducerId(0), epoch: ProducerEpoch(0), base_sequence: 0, is_transactional: false };
        for bad in [
            Producer { id: ProducerId::NONE, ..good },
            Producer { epoch: ProducerEpoch::NONE, ..good },
            Producer { base_sequence: -1, ..good },
        ] {
            let mut builder = BatchBuilder::new();
            builder.begin(BatchOptions::default().producer(bad));
            builder.push(&Record::new("v"), NOW).unwrap();
            assert!(matches!(builder.finish(), Err(Error::InvalidBatch { .. })), "{bad:?}");
        }
    }
}
