//! A batch that was stored, less some of its records: what compaction leaves of it.
//!
//! | Header field | Some records kept | None kept |
//! |---|---|---|
//! | base offset, last offset delta, leader epoch, the producer's numbers | as they were | as they were |
//! | record count | of those kept | 0 |
//! | attributes | as they were; the delete horizon as below | without a codec and a delete horizon |
//! | base timestamp | that of the first one kept, or the delete horizon | -1 |
//! | max timestamp | the largest kept; the time of the append stays | as it was |
//!
//! Offsets and timestamps of the records kept do not change, only what is stored of them: deltas from another base.

use super::compress::{Compression, Compressor, RecordError};
use super::header::{BatchHeader, MAX_BATCH_LEN, TimestampType};
use super::record::RecordRef;
use crate::error::Result;
use crate::types::Timestamp;

/// Writes what is left of batches, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Rewriter {
    compressor: Compressor,
    plain: Vec<u8>,
}

impl Rewriter {
    /// Appends to `into` the batch of `header` with only the records `kept`, at least one, in their order.
    ///
    /// `horizon` is when its tombstones or its marker may go. `compression` is that of the batch; control batches have
    /// none.
    ///
    /// # Errors
    ///
    /// [`TooLong`](crate::Error::TooLong) if it gets longer than a batch can be: deltas may take more room than before;
    /// [`Unsupported`](crate::Error::Unsupported) if this build lacks the codec.
    pub(crate) fn rewrite<'r>(
        &mut self,
        header: &BatchHeader,
        kept: impl Iterator<Item = RecordRef<'r>>,
        horizon: Option<Timestamp>,
        compression: Compression,
        into: &mut Vec<u8>,
    ) -> Result<BatchHeader> {
        let is_plain = compression.codec().is_none();
        let begin = into.len();
        into.resize(begin + BatchHeader::LEN, 0);
        let body = if is_plain { &mut *into } else { &mut self.plain };
        if !is_plain {
            body.clear();
        }
        let limit = MAX_BATCH_LEN.saturating_add(body.len());
        let (mut base, mut largest, mut record_count) = (horizon, Timestamp::NONE, 0);
        for record in kept {
            let base = *base.get_or_insert(record.timestamp);
            let offset_delta = record.offset.0.wrapping_sub(header.base_offset.0) as i32;
            // Wraps for the extremes; readers wrap back.
            record.encode(record.timestamp.0.wrapping_sub(base.0), offset_delta, limit, body)?;
            largest = largest.max(record.timestamp);
            record_count += 1;
        }
        if !is_plain {
            self.compressor.compress(compression, &self.plain, into).map_err(RecordError::into_error)?;
        }
        super::builder::check_len(into.len() - begin)?;
        let max_timestamp = match header.attributes.timestamp_type() {
            TimestampType::CreateTime => largest,
            TimestampType::LogAppendTime => header.max_timestamp,
        };
        let attributes =
            header.attributes.known().with_codec(compression.codec()).with_delete_horizon(horizon.is_some());
        let base_timestamp = base.unwrap_or(Timestamp::NONE);
        let rewritten = BatchHeader { attributes, base_timestamp, max_timestamp, record_count, ..*header };
        Ok(rewritten.seal(&mut into[begin..]))
    }
}

/// Appends to `into` the batch of `header` without a record: 61 bytes that tell which offsets it had, and how far its
/// producer had come.
pub(crate) fn emptied(header: &BatchHeader, into: &mut Vec<u8>) -> BatchHeader {
    let begin = into.len();
    into.resize(begin + BatchHeader::LEN, 0);
    let attributes = header.attributes.known().with_codec(super::compress::Codec::None).with_delete_horizon(false);
    let rewritten = BatchHeader { attributes, base_timestamp: Timestamp::NONE, record_count: 0, ..*header };
    rewritten.seal(&mut into[begin..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, BatchOptions, BatchRef, Codec, Header, Marker, Record, encode_marker};
    use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};
    use proptest::prelude::*;

    /// Offset, time, key and number of headers.
    type Told = (u64, i64, Vec<u8>, usize);

    fn records(bytes: &[u8]) -> (BatchHeader, Vec<Told>) {
        let batch = BatchRef::verify(bytes).unwrap();
        let mut scratch = Vec::new();
        let records = batch.records(1 << 20, &mut scratch).unwrap();
        let told = records.map(|record| {
            (record.offset.0, record.timestamp.0, record.key.unwrap().to_vec(), record.headers().count())
        });
        (*batch.header(), told.collect())
    }

    /// Kafka's own classes wrote the same after a first pass that kept two tombstones, and after one that kept nothing.
    #[test]
    fn what_is_left_is_what_kafka_leaves() {
        let vector = |name: &str| {
            let path = format!("{}/tests/fixtures/vectors/{name}.bin", env!("CARGO_MANIFEST_DIR"));
            std::fs::read(path).unwrap()
        };
        let expected = vector("13-delete-horizon");
        let header = *BatchRef::verify(&expected).unwrap().header();
        let mut builder = BatchBuilder::new();
        builder.begin(BatchOptions::default().base_offset(Offset(100)).leader_epoch(header.leader_epoch));
        for (key, value, at) in [("k0", None, 0), ("k1", Some(&b"v1"[..]), 1), ("k2", None, 2)] {
            let record = Record { value, ..Record::tombstone(key) };
            builder.push(&record.timestamp(Timestamp(1_700_000_000_000 + at)), Timestamp(0)).unwrap();
        }
        let stored = builder.finish().unwrap().to_vec();
        let batch = BatchRef::verify(&stored).unwrap();
        let (mut scratch, mut into) = (Vec::new(), b"before".to_vec());
        let kept = batch.records(0, &mut scratch).unwrap();
        let horizon = header.delete_horizon();
        let written =
            Rewriter::default().rewrite(batch.header(), kept, horizon, Compression::NONE, &mut into).unwrap();
        assert_eq!((&into[6..], written), (&expected[..], header));

        let expected = vector("14-empty-retained");
        let empty = *BatchRef::verify(&expected).unwrap().header();
        let attributes = empty.attributes.with_codec(Codec::Gzip).with_delete_horizon(true);
        let full = BatchHeader { attributes, base_timestamp: Timestamp(5), record_count: 3, ..empty };
        let mut into = Vec::new();
        assert_eq!(emptied(&full, &mut into), empty);
        assert_eq!(into, expected);
    }

    #[test]
    fn a_marker_gets_its_horizon_and_still_says_the_same() {
        let marker = Marker {
            offset: Offset(3),
            leader_epoch: LeaderEpoch(5),
            producer_id: ProducerId(4242),
            producer_epoch: ProducerEpoch(3),
            timestamp: Timestamp(1_700_000_000_000),
            is_commit: true,
            coordinator_epoch: 7,
        };
        let (mut stored, mut into, mut scratch) = (Vec::new(), Vec::new(), Vec::new());
        encode_marker(&marker, &mut stored).unwrap();
        let batch = BatchRef::verify(&stored).unwrap();
        let horizon = Some(Timestamp(1_700_086_400_000));
        let kept = batch.records(0, &mut scratch).unwrap();
        Rewriter::default().rewrite(batch.header(), kept, horizon, Compression::NONE, &mut into).unwrap();
        let after = BatchRef::verify(&into).unwrap();
        assert_eq!((into.len(), after.header().delete_horizon()), (81, horizon));
        assert_eq!((after.control(), after.header().max_timestamp), (batch.control(), marker.timestamp));
    }

    proptest! {
        /// Whatever is kept keeps its offset, time, key and headers, under every codec, with and without a horizon.
        #[test]
        fn records_kept_are_as_they_were(
            times in prop::collection::vec(0..5_000_i64, 1..20),
            mask: u32,
            horizon in proptest::option::of(0..i64::MAX),
            is_append_time: bool,
        ) {
            for codec in Codec::ALL.into_iter().filter(|codec| codec.is_supported()) {
                let compression = Compression::new(codec);
                let kind = if is_append_time { TimestampType::LogAppendTime } else { TimestampType::CreateTime };
                let mut builder = BatchBuilder::new();
                builder.begin(
                    BatchOptions::default().base_offset(Offset(70)).compression(compression).timestamp_type(kind),
                );
                for (at, time) in times.iter().enumerate() {
                    let headers = [Header::new("h", "x"), Header { key: "", value: None }];
                    let key = [at as u8];
                    let record = Record::new("v").key(&key).headers(&headers[..at % 3]);
                    builder.push(&record.timestamp(Timestamp(*time)), Timestamp(9_000)).unwrap();
                }
                let stored = builder.finish().unwrap().to_vec();
                let (header, all) = records(&stored);
                let is_kept = |offset: u64| mask >> (offset - 70) & 1 == 1;
                let expected: Vec<_> = all.into_iter().filter(|record| is_kept(record.0)).collect();
                if expected.is_empty() {
                    continue;
                }
                let (mut scratch, mut into) = (Vec::new(), Vec::new());
                let batch = BatchRef::verify(&stored).unwrap();
                let kept = batch.records(1 << 20, &mut scratch).unwrap().filter(|record| is_kept(record.offset.0));
                let horizon = horizon.map(Timestamp);
                Rewriter::default().rewrite(&header, kept, horizon, compression, &mut into).unwrap();
                let (after, found) = records(&into);
                let largest = expected.iter().map(|record| record.1).max().unwrap();
                prop_assert_eq!(&found, &expected);
                prop_assert_eq!(after.max_timestamp.0, if is_append_time { header.max_timestamp.0 } else { largest });
                prop_assert_eq!((after.base_offset, after.last_offset()), (header.base_offset, header.last_offset()));
                prop_assert_eq!((after.delete_horizon(), after.codec()), (horizon, header.codec()));
            }
        }
    }
}
