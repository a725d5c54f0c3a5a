//! A directory that Kafka's own code wrote, read and made again: each derived file follows from the batches, byte for
//! byte.

use std::collections::BTreeMap;
use std::time::Duration;

use byteorder::{BigEndian, ByteOrder};
use serde_json::Value;

use super::epochs::Epochs;
use super::producers::{Marker, MarkerKind, Placed, ProducerBatch, Producers, last_sequence};
use super::snapshot::{self, Entry};
use crate::disk::RealDisk;
use crate::record::BatchHeader;
use crate::segment::index::IndexWriter;
use crate::segment::offset_index::{self, OffsetEntry};
use crate::segment::time_index::TimeEntry;
use crate::segment::txn_index::{AbortedTxn, AbortedTxns};
use crate::segment::{FileKind, file_path};
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};

/// The index files, built again from the batches of their segment.
#[test]
fn the_indexes_follow_from_the_batches() {
    for segment in expected()["segments"].as_array().unwrap() {
        let base = Offset(segment["base"].as_u64().unwrap());
        let mut made = Replay::default();
        if base > Offset::ZERO {
            made.producers = load(&format!("{base:020}.snapshot"), base);
        }
        made.segment(base);
        assert_eq!(made.offsets, read(&format!("{base:020}.index")), "segment {base}");
        assert_eq!(made.times, read(&format!("{base:020}.timeindex")), "segment {base}");

        let aborted = segment["aborted_txns"].as_array().unwrap();
        assert_eq!(made.aborted.entries().len(), aborted.len());
        if !aborted.is_empty() {
            let file = read(&format!("{base:020}.txnindex"));
            assert_eq!(made.aborted.encode(), file);
            assert_eq!(AbortedTxns::decode(&file, base), Ok(made.aborted));
        }
    }
}

#[test]
fn the_indexes_read_as_kafka_says() {
    for segment in expected()["segments"].as_array().unwrap() {
        let base = Offset(segment["base"].as_u64().unwrap());
        let bytes = read(&format!("{base:020}.index"));
        let entries = bytes.as_chunks().0.iter().map(|bytes| OffsetEntry::decode(bytes, base));
        let read_back: Value = entries.map(|entry| serde_json::json!([entry.offset.0, entry.position])).collect();
        assert_eq!(read_back, segment["offset_index"]);

        let bytes = read(&format!("{base:020}.timeindex"));
        let entries = bytes.as_chunks().0.iter().map(|bytes| TimeEntry::decode(bytes, base));
        let read_back: Value = entries.map(|entry| serde_json::json!([entry.timestamp.0, entry.offset.0])).collect();
        assert_eq!(read_back, segment["time_index"]);
    }
    let index = read("00000000000000000000.index");
    let found =
        offset_index::floor(&index, Offset::ZERO, Offset(13)).entry.map(|entry| (entry.offset.0, entry.position));
    assert_eq!(found, Some((12, 383)));
}

/// Replayed from nothing, from the first snapshot, or read from the last one: the same producers.
#[test]
fn the_snapshots_follow_from_the_batches() {
    let mut replay = Replay::default();
    replay.segment(Offset(0));
    assert_eq!(sorted(replay.producers.entries()), sorted(entries("00000000000000000017.snapshot", Offset(17))));
    replay.segment(Offset(17));
    let whole = sorted(entries("00000000000000000024.snapshot", Offset(24)));
    assert_eq!(sorted(replay.producers.entries()), whole);

    let mut from_17 = Replay { producers: load("00000000000000000017.snapshot", Offset(17)), ..Replay::default() };
    from_17.segment(Offset(17));
    assert_eq!(sorted(from_17.producers.entries()), whole);
    from_17.producers.committed_to(Offset(24));
    let stable = from_17.producers.transactions().stable(Offset::ZERO, Offset(24));
    assert_eq!(stable.0, expected()["last_stable_offset"]);
}

#[test]
fn the_snapshots_read_as_kafka_says_and_write_back_unchanged() {
    for (end, names) in [(17, &["snapshot_17"][..]), (24, &["snapshot_17", "snapshot_24_extra"])] {
        let file = read(&format!("{end:020}.snapshot"));
        let entries = snapshot::decode(&file, Offset(end)).unwrap();
        let expected = expected();
        let listed: Vec<_> = names.iter().flat_map(|name| expected[*name].as_array().unwrap()).collect();
        assert_eq!(
            entries.iter().map(described).collect::<Vec<_>>(),
            listed.into_iter().cloned().collect::<Vec<_>>()
        );

        // The order of a file is kept if it is asked for; our own is by id.
        assert_eq!(snapshot::encode(entries.iter().copied()), file);
        let own = load(&format!("{end:020}.snapshot"), Offset(end)).snapshot();
        assert_eq!(sorted(snapshot::decode(&own, Offset(end)).unwrap()), sorted(entries));
    }
}

/// Producers whose last batch is older than the limit are gone, the one with an open transaction is not.
#[test]
fn idle_producers_are_dropped_on_load_as_kafka_does() {
    let entries = entries("00000000000000000024.snapshot", Offset(24));
    let years_later = Timestamp(1_800_000_000_000);
    let loaded = Producers::load(&entries, years_later, Duration::from_secs(86_400));
    assert_eq!(loaded.entries().map(|entry| entry.producer.0).collect::<Vec<_>>(), [3000]);
}

#[test]
fn the_epochs_follow_from_the_batches_and_write_back_unchanged() {
    let mut replay = Replay::default();
    replay.segment(Offset(0));
    replay.segment(Offset(17));
    let file = read("leader-epoch-checkpoint");
    assert_eq!(replay.epochs.to_text().as_bytes(), file);
    let epochs = Epochs::parse(&file).unwrap();
    let listed: Value =
        epochs.entries().iter().map(|entry| serde_json::json!([entry.epoch.0, entry.start.0])).collect();
    assert_eq!(listed, expected()["leader_epochs"]);
}

/// Derived files, made from the headers of batches.
#[derive(Default)]
struct Replay {
    producers: Producers,
    epochs: Epochs,
    offsets: Vec<u8>,
    times: Vec<u8>,
    aborted: AbortedTxns,
}

impl Replay {
    fn segment(&mut self, base: Offset) {
        let interval = expected()["index_interval_bytes"].as_u64().unwrap() as u32;
        let mut index = IndexWriter::new(base, 4096, interval).unwrap();
        let log = read(&format!("{base:020}.log"));
        let mut position = 0;
        while position < log.len() {
            let batch = &log[position..][..12 + BigEndian::read_u32(&log[position + 8..]) as usize];
            let placed = placed(batch);
            index.push(&BatchHeader::read(batch).unwrap(), position as u64, batch.len() as u64);
            self.epochs.assign(LeaderEpoch(BigEndian::read_i32(&batch[12..])), placed.base_offset);
            self.producer(batch, placed);
            position += batch.len();
        }
        index.close();
        let dir = tempfile::tempdir().unwrap();
        index.persist(&RealDisk, dir.path()).unwrap();
        let written = |kind| std::fs::read(file_path(dir.path(), base, kind)).unwrap();
        (self.offsets, self.times) = (written(FileKind::Index), written(FileKind::TimeIndex));
    }

    fn producer(&mut self, batch: &[u8], placed: Placed) {
        let attributes = BigEndian::read_i16(&batch[21..]);
        let producer = ProducerId(BigEndian::read_i64(&batch[43..]));
        let epoch = ProducerEpoch(BigEndian::read_i16(&batch[51..]));
        let base_sequence = BigEndian::read_i32(&batch[53..]);
        if attributes & 0x20 == 0 {
            let last_sequence = last_sequence(base_sequence, (placed.last_offset - placed.base_offset) as i32);
            let transactional = attributes & 0x10 != 0;
            let batch = ProducerBatch { producer, epoch, base_sequence, last_sequence, transactional };
            self.producers.apply(&batch, placed);
            return;
        }
        // The one record of a marker: length, attributes, two deltas, key of 4 bytes, value of 6; a byte for each
        // length.
        let (key, value) = (&batch[61 + 5..][..4], &batch[61 + 10..][..6]);
        let marker = Marker {
            producer,
            epoch,
            offset: placed.base_offset,
            timestamp: placed.timestamp,
            coordinator_epoch: BigEndian::read_i32(&value[2..]),
            kind: if key[3] == 0 { MarkerKind::Abort } else { MarkerKind::Commit },
        };
        if let Some(txn) = self.producers.apply_marker(&marker).filter(|txn| txn.aborted) {
            let (first_offset, last_offset) = (txn.first_offset, txn.marker_offset);
            let last_stable_offset = txn.last_stable_offset;
            self.aborted.append(AbortedTxn { producer, first_offset, last_offset, last_stable_offset }).unwrap();
        }
    }
}

fn placed(batch: &[u8]) -> Placed {
    let base_offset = Offset(BigEndian::read_u64(batch));
    let last_offset = base_offset + u64::from(BigEndian::read_u32(&batch[23..]));
    Placed { base_offset, last_offset, timestamp: Timestamp(BigEndian::read_i64(&batch[35..])) }
}

fn described(entry: &Entry) -> Value {
    let last = entry.last_batch.unwrap();
    serde_json::json!({
        "producerId": entry.producer.0,
        "epoch": entry.epoch.0,
        "lastSequence": last.last_sequence,
        "lastOffset": last.last_offset.0,
        "offsetDelta": last.last_offset - last.base_offset,
        "timestamp": entry.timestamp.0,
        "coordinatorEpoch": entry.coordinator_epoch,
        "currentTxnFirstOffset": entry.open_since.map_or(-1, Offset::to_wire),
    })
}

fn sorted(entries: impl IntoIterator<Item = Entry>) -> BTreeMap<ProducerId, Entry> {
    entries.into_iter().map(|entry| (entry.producer, entry)).collect()
}

fn entries(name: &str, end: Offset) -> Vec<Entry> {
    snapshot::decode(&read(name), end).unwrap()
}

fn load(name: &str, end: Offset) -> Producers {
    Producers::load(&entries(name, end), Timestamp(0), Duration::MAX)
}

fn expected() -> Value {
    serde_json::from_slice(&read("../expected.json")).unwrap()
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/fixtures/fixture-log-dir/orders-0/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}
