//! What a leader checks before it stores a batch that somebody else built, and what it changes in it.
//!
//! ```text
//! bytes -> length -> checksum -> header rules -> every record -> in place: header only
//!                                                             -> other codec: records packed again
//! ```
//!
//! Nothing is stored of a batch with one bad record. Where Kafka's leader lets through what later readers trip
//! over, this one does not: offsets inside the batch that are not 0, 1, 2 and so on, a delete horizon, append time
//! claimed by a client, negative timestamps.

use super::batch::BatchRef;
use super::builder::check_len;
use super::compress::{Codec, Compression, Compressor, RecordError};
use super::header::{
    ATTRIBUTES_AT, BASE_SEQUENCE_AT, BatchHeader, LAST_OFFSET_DELTA_AT, RECORD_COUNT_AT, TimestampType,
};
use super::record::Fields;
use super::walk::each_record;
use crate::error::{Error, Result};
use crate::types::{LeaderEpoch, Offset, Timestamp};
use crate::wire::Invalid;

/// Who hands the batch in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A producer, directly or through a service.
    Client,
    /// Our own transaction coordinator: it may write control batches.
    #[cfg_attr(not(any(fuzzing, test)), expect(dead_code, reason = "for transactions, to come"))]
    Coordinator,
}

/// What the topic asks of a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) origin: Origin,
    /// Records need keys.
    pub(crate) is_compacted: bool,
    pub(crate) timestamp_type: TimestampType,
    /// How far timestamps may lie before and after the clock, inclusive; `u64::MAX`: any distance.
    pub(crate) before_max_ms: u64,
    pub(crate) after_max_ms: u64,
    /// How to store it; none keeps what the producer chose.
    pub(crate) compression: Option<Compression>,
    /// The longest batch, in bytes, as handed in and as stored.
    pub(crate) max_message_bytes: usize,
    /// How long the records may become when decompressed, in bytes.
    pub(crate) decoded_limit: usize,
}

/// Where and when the batch is appended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    pub(crate) first_offset: Offset,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) now: Timestamp,
}

/// A batch that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validated {
    /// Its header, as it is to be stored.
    pub(crate) header: BatchHeader,
    /// Where Kafka looks for the largest timestamp: the last offset, or none if no record has a time.
    pub(crate) offset_of_max_timestamp: Option<Offset>,
    /// Whether the records were packed again.
    pub(crate) was_rewritten: bool,
}

/// Validates batches, one after the other, with buffers that are used again.
#[derive(Debug, Default)]
pub(crate) struct Validator {
    plain: Vec<u8>,
    compressor: Compressor,
}

impl Validator {
    /// Checks the one batch that is in `bytes` and replaces what is in `into` by what is to be stored.
    ///
    /// Positions in errors count as if the records had been handed in plain.
    pub(crate) fn validate(
        &mut self,
        bytes: &[u8],
        rules: &Rules,
        stamp: &Stamp,
        into: &mut Vec<u8>,
    ) -> Result<Validated> {
        check_limit(bytes.len(), rules)?;
        let batch = BatchRef::verify(bytes).map_err(refused)?;
        check_header(&batch, bytes.len(), rules)?;
        let header = stamped(batch.header(), stamp)?;
        let body = batch.plain_body(rules.decoded_limit, &mut self.plain).map_err(RecordError::into_error)?;
        let max_timestamp = check_all(batch.header(), body, rules, stamp.now)?;

        let stored = BatchHeader {
            attributes: header.attributes.with_timestamp_type(rules.timestamp_type),
            max_timestamp: match rules.timestamp_type {
                TimestampType::CreateTime => max_timestamp,
                TimestampType::LogAppendTime => stamp.now,
            },
            ..header
        };
        let source = batch.header().codec().map_err(refused)?;
        let target = target(rules, &stored, source);
        into.clear();
        let was_rewritten = target.codec() != source;
        let header = if was_rewritten {
            repack(&mut self.compressor, target, stored, body, into)?
        } else {
            into.extend_from_slice(batch.bytes());
            stored.seal(into)
        };
        check_limit(into.len(), rules)?;
        let has_time = header.max_timestamp != Timestamp::NONE;
        Ok(Validated { header, offset_of_max_timestamp: has_time.then(|| header.last_offset()), was_rewritten })
    }
}

/// How the batch is to be stored. Control batches are never compressed.
fn target(rules: &Rules, header: &BatchHeader, source: Codec) -> Compression {
    match rules.compression {
        Some(compression) if !header.attributes.is_control() => compression,
        _ => Compression::new(source),
    }
}

/// Packs the records anew. They keep their deltas: only what is around them changes.
fn repack(
    compressor: &mut Compressor,
    target: Compression,
    header: BatchHeader,
    body: &[u8],
    into: &mut Vec<u8>,
) -> Result<BatchHeader> {
    into.resize(BatchHeader::LEN, 0);
    compressor.compress(target, body, into).map_err(RecordError::into_error)?;
    check_len(into.len())?;
    // As in Kafka, bits without a meaning do not survive: the batch is a new one.
    let attributes = header.attributes.known().with_codec(target.codec());
    Ok(BatchHeader { attributes, ..header }.seal(into))
}

fn check_limit(len: usize, rules: &Rules) -> Result<()> {
    if len <= rules.max_message_bytes {
        return Ok(());
    }
    Err(Error::BatchTooLarge { len: len as u64, limit: rules.max_message_bytes as u64 })
}

fn check_header(batch: &BatchRef<'_>, given: usize, rules: &Rules) -> Result<()> {
    let header = batch.header();
    if given > batch.bytes().len() {
        return Err(invalid(batch.bytes().len(), "more than one batch"));
    }
    if header.record_count < 1 {
        return Err(invalid(RECORD_COUNT_AT, "no records"));
    }
    if header.last_offset_delta != header.record_count - 1 {
        return Err(invalid(LAST_OFFSET_DELTA_AT, "last offset delta does not match the record count"));
    }
    if header.attributes.has_delete_horizon() {
        return Err(invalid(ATTRIBUTES_AT, "delete horizon set by the sender"));
    }
    if header.attributes.timestamp_type() == TimestampType::LogAppendTime {
        return Err(invalid(ATTRIBUTES_AT, "append time set by the sender"));
    }
    check_producer(batch, rules)
}

fn check_producer(batch: &BatchRef<'_>, rules: &Rules) -> Result<()> {
    let header = batch.header();
    if header.attributes.is_control() {
        if rules.origin == Origin::Client {
            return Err(invalid(ATTRIBUTES_AT, "control batch from a client"));
        }
        return batch.control().map(drop).map_err(refused);
    }
    if header.producer_id.is_some() && header.base_sequence < 0 {
        return Err(invalid(BASE_SEQUENCE_AT, "producer without a sequence"));
    }
    Ok(())
}

/// The header at its place in the log.
fn stamped(header: &BatchHeader, stamp: &Stamp) -> Result<BatchHeader> {
    let count = header.record_count as u64; // Checked: 1 at least.
    if stamp.first_offset.checked_add(count).is_none() {
        return Err(Error::OffsetsExhausted { end: stamp.first_offset, count });
    }
    Ok(BatchHeader { base_offset: stamp.first_offset, leader_epoch: stamp.leader_epoch, ..*header })
}

/// Checks every record and returns the largest timestamp.
///
/// A record whose bytes are wrong ends the check. Keys and timestamps that break a rule do not: if any timestamp
/// does, that is what is reported, as in Kafka, even if a key does before it.
fn check_all(header: &BatchHeader, body: &[u8], rules: &Rules, now: Timestamp) -> Result<Timestamp> {
    let window = Window::new(rules, now);
    let mut max_timestamp = Timestamp::NONE;
    let (mut bad_key, mut bad_timestamp) = (None, None);
    each_record(header, body, |index, at, fields: &Fields<'_>| {
        if usize::try_from(fields.offset_delta) != Ok(index) {
            return Err(Invalid { at, what: "offset delta is not the record's place in the batch" });
        }
        if rules.is_compacted && fields.key.is_none() {
            bad_key.get_or_insert(index);
        }
        let timestamp = Timestamp(header.base_timestamp.0.wrapping_add(fields.timestamp_delta));
        if !window.holds(timestamp) {
            bad_timestamp.get_or_insert((index, timestamp));
        }
        max_timestamp = max_timestamp.max(timestamp);
        Ok(())
    })
    .map_err(refused)?;

    if let Some((index, timestamp)) = bad_timestamp {
        let Window { earliest, latest } = window;
        return Err(Error::InvalidTimestamp { index, timestamp, earliest, latest });
    }
    match bad_key {
        Some(index) => Err(Error::InvalidRecord { index, reason: "a compacted topic needs keys" }),
        None => Ok(max_timestamp),
    }
}

/// The timestamps a record may have, beside none.
struct Window {
    earliest: Timestamp,
    latest: Timestamp,
}

impl Window {
    fn new(rules: &Rules, now: Timestamp) -> Self {
        if rules.timestamp_type == TimestampType::LogAppendTime {
            return Self { earliest: Timestamp(i64::MIN), latest: Timestamp(i64::MAX) };
        }
        Self {
            earliest: Timestamp(now.0.saturating_sub_unsigned(rules.before_max_ms).max(0)),
            latest: Timestamp(now.0.saturating_add_unsigned(rules.after_max_ms)),
        }
    }

    fn holds(&self, timestamp: Timestamp) -> bool {
        timestamp == Timestamp::NONE || (self.earliest..=self.latest).contains(&timestamp)
    }
}

fn invalid(position: usize, reason: &'static str) -> Error {
    Error::InvalidBatch { reason, position }
}

fn refused(Invalid { at, what }: Invalid) -> Error {
    invalid(at, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, BatchOptions, Producer, Record};
    use crate::types::{ProducerEpoch, ProducerId};

    const NOW: Timestamp = Timestamp(10_000);
    const STAMP: Stamp = Stamp { first_offset: Offset(50), leader_epoch: LeaderEpoch(9), now: NOW };

    fn rules() -> Rules {
        Rules {
            origin: Origin::Client,
            is_compacted: false,
            timestamp_type: TimestampType::CreateTime,
            before_max_ms: 100,
            after_max_ms: 50,
            compression: None,
            max_message_bytes: 1_000,
            decoded_limit: 10_000,
        }
    }

    fn batch(options: BatchOptions, records: &[Record<'_>]) -> Vec<u8> {
        let mut builder = BatchBuilder::new();
        builder.begin(options);
        for record in records {
            builder.push(record, NOW).unwrap();
        }
        builder.finish().unwrap().to_vec()
    }

    fn validate(bytes: &[u8], rules: &Rules) -> Result<(Validated, Vec<u8>)> {
        let mut stored = vec![1, 2, 3];
        let validated = Validator::default().validate(bytes, rules, &STAMP, &mut stored)?;
        assert_eq!(*BatchRef::verify(&stored).unwrap().header(), validated.header);
        Ok((validated, stored))
    }

    #[test]
    fn an_accepted_batch_gets_its_place_and_keeps_its_checksum() {
        let bytes = batch(BatchOptions::default(), &[Record::new("a"), Record::new("b")]);
        let (validated, stored) = validate(&bytes, &rules()).unwrap();
        assert_eq!((validated.header.base_offset, validated.header.next_offset()), (Offset(50), Offset(52)));
        assert_eq!(validated.offset_of_max_timestamp, Some(Offset(51)));
        assert_eq!((&stored[17..], validated.was_rewritten), (&bytes[17..], false));
    }

    #[test]
    fn the_window_includes_its_limits() {
        for (time, is_accepted) in [(9_900, true), (9_899, false), (10_050, true), (10_051, false), (-1, true)] {
            let bytes = batch(BatchOptions::default(), &[Record::new("a").timestamp(Timestamp(time))]);
            assert_eq!(validate(&bytes, &rules()).is_ok(), is_accepted, "{time}");
            let append_time = Rules { timestamp_type: TimestampType::LogAppendTime, ..rules() };
            assert_eq!(validate(&bytes, &append_time).unwrap().0.header.max_timestamp, NOW);
        }
    }

    #[test]
    fn the_limit_counts_what_came_and_what_is_stored() {
        let bytes = batch(BatchOptions::default(), &[Record::new("a")]);
        let exact = Rules { max_message_bytes: bytes.len(), ..rules() };
        assert!(validate(&bytes, &exact).is_ok());
        let below = Rules { max_message_bytes: bytes.len() - 1, ..rules() };
        assert!(matches!(validate(&bytes, &below), Err(Error::BatchTooLarge { len, limit }) if len == limit + 1));
    }

    #[cfg(feature = "lz4")]
    #[test]
    fn a_batch_is_bounded_when_it_grows_by_being_rewritten() {
        let value = [b'x'; 900];
        let lz4 = Compression::new(Codec::Lz4);
        let bytes = batch(BatchOptions::default().compression(lz4), &[Record::new(&value)]);
        let plain = Rules { compression: Some(Compression::NONE), ..rules() };
        assert!(validate(&bytes, &plain).unwrap().0.was_rewritten);
        let small = Rules { max_message_bytes: 500, ..plain };
        assert!(matches!(validate(&bytes, &small), Err(Error::BatchTooLarge { .. })));
        let bomb = Rules { decoded_limit: 899, ..rules() };
        let error = validate(&bytes, &bomb).unwrap_err();
        assert!(
            matches!(error, Error::InvalidBatch { reason: "decompressed records over the limit", .. }),
            "{error}"
        );
    }

    #[test]
    fn a_rewritten_batch_keeps_its_producer() {
        let producer =
            Producer { id: ProducerId(7), epoch: ProducerEpoch(1), base_sequence: 4, is_transactional: true };
        let bytes = batch(BatchOptions::default().producer(producer), &[Record::new("a"), Record::new("b")]);
        for codec in Codec::ALL.into_iter().filter(|codec| codec.is_supported()) {
            let rules = Rules { compression: Some(Compression::new(codec)), ..rules() };
            let (validated, stored) = validate(&bytes, &rules).unwrap();
            let header = validated.header;
            assert_eq!((header.producer_id, header.last_sequence()), (ProducerId(7), 5));
            assert!(header.attributes.is_transactional() && header.attributes.codec() == Some(codec));
            let mut scratch = Vec::new();
            let batch = BatchRef::verify(&stored).unwrap();
            let values: Vec<_> = batch.records(1_000, &mut scratch).unwrap().filter_map(|r| r.value).collect();
            assert_eq!(values, [b"a", b"b"]);
        }
    }

    #[test]
    fn offsets_run_out_with_an_error() {
        let bytes = batch(BatchOptions::default(), &[Record::new("a"), Record::new("b")]);
        let last = Stamp { first_offset: Offset(Offset::MAX.0 - 1), ..STAMP };
        let result = Validator::default().validate(&bytes, &rules(), &last, &mut Vec::new());
        assert!(matches!(result, Err(Error::OffsetsExhausted { count: 2, .. })));
    }
}
