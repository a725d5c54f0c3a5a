//! Batches made by Kafka's own classes and by its clients, and what Kafka makes of them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::control::{Marker, encode_marker};
use super::header::framed_len;
use super::validate::{Origin, Rules, Stamp, Validator};
use super::{
    BatchBuilder, BatchHeader, BatchOptions, BatchRef, Codec, Compression, Control, Header, Producer, Record,
    RecordError, RecordRef, TimestampType,
};
use crate::error::Error;
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};
use crate::wire::Invalid;

struct Vector {
    name: String,
    bytes: Vec<u8>,
    json: Value,
}

/// The vectors whose names pass `filter` and whose codec this build has.
fn vectors(filter: impl Fn(&str) -> bool) -> Vec<Vector> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let jsons = paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    jsons
        .map(|path| {
            let json: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
            let bytes = fs::read(path.with_extension("bin")).unwrap();
            assert_eq!(bytes, hex(&json["hex"]));
            Vector { name: json["name"].as_str().unwrap().to_owned(), bytes, json }
        })
        .filter(|vector| filter(&vector.name) && is_supported(&vector.bytes))
        .collect()
}

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/vectors")
}

fn is_supported(bytes: &[u8]) -> bool {
    let codec = BatchHeader::read(bytes).ok().and_then(|header| header.attributes.codec());
    codec.is_none_or(Codec::is_supported)
}

fn hex(text: &Value) -> Vec<u8> {
    let digits = text.as_str().unwrap();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// The names of vectors begin with a digit if they are good, with `n` if Kafka refuses them, with `o` if odd.
fn is_good(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_digit())
}

#[test]
fn good_vectors_decode_to_their_fields() {
    for Vector { name, bytes, json } in vectors(is_good) {
        let batch = BatchRef::verify(&bytes).unwrap();
        assert_eq!(batch.bytes().len(), bytes.len(), "{name}");
        assert_eq!(header_json(batch.header()), json["batch"], "{name}");
        assert_eq!(&batch.header().encode()[..], &bytes[..BatchHeader::LEN], "{name}");
        let expected = json["records"].as_array().unwrap();
        let mut scratch = Vec::new();
        let records: Vec<_> = batch.records(1 << 20, &mut scratch).unwrap().collect();
        assert_eq!(records.len(), expected.len(), "{name}");
        for (record, expected) in records.iter().zip(expected) {
            check_record(&name, record, expected);
            let delta = record.offset.0 as i64 - batch.header().base_offset.0 as i64;
            assert_eq!(batch.header().sequence_at(delta as i32), expected["sequence"], "{name}");
        }
    }
}

fn header_json(header: &BatchHeader) -> Value {
    let attributes = header.attributes;
    serde_json::json!({
        "baseOffset": header.base_offset.0,
        "batchLength": header.batch_len - 12,
        "partitionLeaderEpoch": header.leader_epoch.0,
        "magic": 2,
        "crc": header.crc,
        "crc_hex": format!("{:08x}", header.crc),
        "attributes": attributes.0,
        "compression": attributes.codec().unwrap().name(),
        "timestampType": timestamp_type_name(attributes.timestamp_type()),
        "isTransactional": attributes.is_transactional(),
        "isControl": attributes.is_control(),
        "hasDeleteHorizon": attributes.has_delete_horizon(),
        "lastOffsetDelta": header.last_offset_delta,
        "baseTimestamp": header.base_timestamp.0,
        "maxTimestamp": header.max_timestamp.0,
        "producerId": header.producer_id.0,
        "producerEpoch": header.producer_epoch.0,
        "baseSequence": header.base_sequence,
        "recordsCount": header.record_count,
        "lastOffset": header.last_offset().0,
        "sizeInBytes": header.batch_len,
        "lastSequence": header.last_sequence(),
        "deleteHorizonMs": header.delete_horizon().map(|horizon| horizon.0),
    })
}

fn timestamp_type_name(kind: TimestampType) -> &'static str {
    match kind {
        TimestampType::CreateTime => "CreateTime",
        TimestampType::LogAppendTime => "LogAppendTime",
    }
}

fn check_record(name: &str, record: &RecordRef<'_>, expected: &Value) {
    assert_eq!(record.offset.0, expected["offset"], "{name}");
    assert_eq!(record.timestamp.0, expected["timestamp"], "{name} at {}", record.offset);
    assert_eq!(record.key.map(<[u8]>::to_vec), nullable_hex(&expected["key_hex"]), "{name}");
    assert_eq!(record.value.map(<[u8]>::to_vec), nullable_hex(&expected["value_hex"]), "{name}");
    let headers: Vec<_> = record.headers().collect();
    let expected = expected["headers"].as_array().unwrap();
    assert_eq!(headers.len(), expected.len(), "{name}");
    for (header, expected) in headers.iter().zip(expected) {
        assert_eq!(header.key, expected[0].as_str().unwrap(), "{name}");
        assert_eq!(header.value.map(<[u8]>::to_vec), nullable_hex(&expected[1]), "{name}");
    }
}

fn nullable_hex(text: &Value) -> Option<Vec<u8>> {
    (!text.is_null()).then(|| hex(text))
}

/// Vectors marked as what Kafka writes for the same input come out of our builders to the byte.
#[test]
fn what_kafka_would_write_we_write() {
    let (mut count, is_emptied) = (0, |header: &BatchHeader| header.record_count == 0);
    for Vector { name, bytes, json } in vectors(is_good) {
        let batch = BatchRef::verify(&bytes).unwrap();
        if json["byte_identical_to_apache_kafka"] != true || is_emptied(batch.header()) {
            continue; // A batch without records is its header, which is written back above.
        }
        assert!(re_encoded(&batch) == bytes, "{name}");
        count += 1;
    }
    assert_eq!(count, 12 + usize::from(cfg!(feature = "snappy")));
}

fn re_encoded(batch: &BatchRef<'_>) -> Vec<u8> {
    let header = batch.header();
    let mut bytes = Vec::new();
    if let Some(control) = batch.control().unwrap() {
        let (is_commit, coordinator_epoch) = match control {
            Control::Commit { coordinator_epoch } => (true, coordinator_epoch),
            Control::Abort { coordinator_epoch } => (false, coordinator_epoch),
            Control::Other(kind) => panic!("control type {kind}"),
        };
        let marker = Marker {
            offset: header.base_offset,
            leader_epoch: header.leader_epoch,
            producer_id: header.producer_id,
            producer_epoch: header.producer_epoch,
            timestamp: header.max_timestamp,
            is_commit,
            coordinator_epoch,
        };
        encode_marker(&marker, &mut bytes).unwrap();
        return bytes;
    }
    let mut builder = BatchBuilder::new();
    builder.begin(options(header));
    // Under append time, the deltas still say what the producer's clock said.
    let created =
        BatchHeader { attributes: header.attributes.with_timestamp_type(TimestampType::CreateTime), ..*header };
    let mut scratch = Vec::new();
    let body = batch.plain_body(1 << 20, &mut scratch).unwrap();
    for record in super::RecordIter::new(&created, body) {
        let headers: Vec<Header<'_>> = record.headers().collect();
        let mut copy = Record::default().headers(&headers).timestamp(record.timestamp);
        (copy.key, copy.value) = (record.key, record.value);
        builder.push(&copy, header.max_timestamp).unwrap();
    }
    builder.finish().unwrap().to_vec()
}

fn options(header: &BatchHeader) -> BatchOptions {
    let mut options = BatchOptions::default()
        .base_offset(header.base_offset)
        .leader_epoch(header.leader_epoch)
        .compression(Compression::new(header.attributes.codec().unwrap()))
        .timestamp_type(header.attributes.timestamp_type());
    if let Some(horizon) = header.delete_horizon() {
        options = options.delete_horizon(horizon);
    }
    if header.producer_id != ProducerId::NONE {
        options = options.producer(Producer {
            id: header.producer_id,
            epoch: ProducerEpoch(header.producer_epoch.0),
            base_sequence: header.base_sequence,
            is_transactional: header.attributes.is_transactional(),
        });
    }
    options
}

#[test]
fn a_leader_change_is_a_control_batch_to_skip() {
    let vector = &vectors(|name| name == "20-leader-change")[0];
    assert_eq!(BatchRef::verify(&vector.bytes).unwrap().control(), Ok(Some(Control::Other(2))));
}

/// How far the reading of a vector comes: to the end, or to the step that Kafka names in `stage`.
fn read_all(bytes: &[u8], json: &Value, name: &str) -> Result<usize, &'static str> {
    let (mut rest, mut batches) = (bytes, 0);
    let mut scratch = Vec::new();
    while !rest.is_empty() {
        let len = match framed_len(rest) {
            Ok(Some(len)) if len as usize <= rest.len() => len as usize,
            Ok(_) => return Err("partial"),
            Err(_) => return Err("framing"),
        };
        let batch = BatchRef::verify(rest).map_err(|_| "crc")?;
        let records: Vec<_> = match batch.records(1 << 20, &mut scratch) {
            Ok(records) => records.collect(),
            Err(RecordError::Invalid(Invalid { what, .. })) if is_codec_error(what) => return Err("decompress"),
            Err(_) => return Err("records"),
        };
        check_odd_batch(name, &batch, &records, &json["batches"][batches]);
        (rest, batches) = (&rest[len..], batches + 1);
    }
    Ok(batches)
}

fn is_codec_error(what: &str) -> bool {
    ["lz4", "gzip", "snappy", "zstd"].iter().any(|codec| what.contains(codec))
}

fn check_odd_batch(name: &str, batch: &BatchRef<'_>, records: &[RecordRef<'_>], expected: &Value) {
    let header = batch.header();
    let last_offset = header.base_offset.0 as i64 + i64::from(header.last_offset_delta);
    assert_eq!(header.base_offset.0, expected["baseOffset"], "{name}");
    assert_eq!(last_offset, expected["lastOffset"], "{name}");
    assert_eq!(header.batch_len, expected["sizeInBytes"], "{name}");
    assert_eq!(header.attributes.codec().unwrap().name(), expected["compression"], "{name}");
    assert_eq!(header.record_count, expected["recordsCount"], "{name}");
    let expected = expected["records"].as_array().unwrap();
    assert_eq!(records.len(), expected.len(), "{name}");
    for (record, expected) in records.iter().zip(expected) {
        check_record(name, record, expected);
    }
}

#[test]
fn bad_and_odd_vectors_are_refused_and_read_as_kafka_does() {
    for Vector { name, bytes, json } in vectors(|name| !is_good(name)) {
        let result = read_all(&bytes, &json, &name);
        match json["expect"].as_str().unwrap() {
            "ok" => assert_eq!(result, Ok(json["batches"].as_array().unwrap().len()), "{name}"),
            "partial" => assert_eq!(result, Err("partial"), "{name}"),
            "error" => {
                let stage = json["stage"].as_str().unwrap();
                assert!(result.is_err_and(|found| is_same_stage(found, stage)), "{name}: {result:?}, not {stage}");
            }
            other => panic!("{name}: {other}"),
        }
    }
}

/// We look at the whole header where Kafka finds the end of a batch: what it finds next, we find at once.
fn is_same_stage(found: &str, stage: &str) -> bool {
    found == stage || (found == "framing" && stage == "header")
}

/// What Kafka's leader accepts and this one refuses: each would surprise a later reader.
const STRICTER: [&str; 4] = [
    "client-batch-flagged-log-append-time-on-create-time-topic",
    "file-o23-offset-deltas-wrong",
    "file-o28-horizon-flag",
    "file-o30-first-delta-nonzero",
];

#[test]
fn the_leader_answers_as_kafka_does() {
    let text = fs::read(dir().join("scenarios/append-validation.json")).unwrap();
    let all: Value = serde_json::from_slice(&text).unwrap();
    let (mut stricter, mut count) = (Vec::new(), 0);
    for scenario in all["scenarios"].as_array().unwrap() {
        let bytes = hex(&scenario["in_hex"]);
        let target = Codec::from_name(scenario["targetCodec"].as_str().unwrap()).unwrap();
        if !target.is_supported() || !is_supported(&bytes) {
            continue;
        }
        let name = scenario["name"].as_str().unwrap();
        count += 1;
        if STRICTER.contains(&name) {
            assert_eq!(scenario["result"], "OK", "{name}");
            assert!(matches!(validate(scenario, &bytes, target), Err(Error::InvalidBatch { .. })), "{name}");
            stricter.push(name);
        } else {
            check_scenario(name, scenario, &validate(scenario, &bytes, target));
        }
    }
    assert_eq!(stricter, STRICTER);
    assert!(count >= 25, "{count} scenarios");
}

type Stored = (super::validate::Validated, Vec<u8>);

fn validate(scenario: &Value, bytes: &[u8], target: Codec) -> Result<Stored, Error> {
    let is_append_time = scenario["timestampType"] == "LogAppendTime";
    let rules = Rules {
        origin: if scenario["origin"] == "CLIENT" { Origin::Client } else { Origin::Coordinator },
        is_compacted: scenario["compacted"] == true,
        timestamp_type: if is_append_time { TimestampType::LogAppendTime } else { TimestampType::CreateTime },
        before_max_ms: scenario["beforeMaxMs"].as_u64().unwrap_or(u64::MAX),
        after_max_ms: scenario["afterMaxMs"].as_u64().unwrap_or(u64::MAX),
        compression: Some(Compression::new(target)),
        max_message_bytes: 1 << 20,
        decoded_limit: 1 << 20,
    };
    let stamp = Stamp { first_offset: Offset(50), leader_epoch: LeaderEpoch(9), now: Timestamp(1_700_000_001_000) };
    let mut stored = Vec::new();
    Validator::default().validate(bytes, &rules, &stamp, &mut stored).map(|validated| (validated, stored))
}

fn check_scenario(name: &str, scenario: &Value, outcome: &Result<Stored, Error>) {
    let failed = |index: &usize| scenario["failedBatchIndexes"].as_array().unwrap().contains(&Value::from(*index));
    match (scenario["result"].as_str().unwrap(), outcome) {
        ("OK", Ok((validated, stored))) => {
            check_stored(name, scenario, validated);
            if let Some(expected) = scenario.get("out_hex") {
                assert_eq!(*stored, hex(expected), "{name}");
            }
        }
        ("INVALID_RECORD", Err(Error::InvalidBatch { .. })) => {}
        ("INVALID_RECORD", Err(Error::InvalidRecord { index, .. })) => assert!(failed(index), "{name}"),
        ("INVALID_TIMESTAMP", Err(Error::InvalidTimestamp { index, .. })) => assert!(failed(index), "{name}"),
        (expected, outcome) => panic!("{name}: {outcome:?}, not {expected}"),
    }
}

fn check_stored(name: &str, scenario: &Value, validated: &super::validate::Validated) {
    let header = &validated.header;
    assert_eq!(header.next_offset().0, scenario["nextOffset"], "{name}");
    assert_eq!(header.base_offset.0, scenario["outBaseOffset"], "{name}");
    assert_eq!(header.last_offset().0, scenario["outLastOffset"], "{name}");
    assert_eq!(header.leader_epoch.0, scenario["outLeaderEpoch"], "{name}");
    assert_eq!(header.max_timestamp.0, scenario["maxTimestamp"], "{name}");
    assert_eq!(header.attributes.codec().unwrap().name(), scenario["outCodec"], "{name}");
    assert_eq!(timestamp_type_name(header.attributes.timestamp_type()), scenario["outTimestampType"], "{name}");
    let offset = validated.offset_of_max_timestamp.map_or(-1, |offset| offset.0 as i64);
    assert_eq!(offset, scenario["shallowOffsetOfMaxTimestamp"], "{name}");
    assert_eq!(validated.was_rewritten, scenario["rewritten"], "{name}");
}
