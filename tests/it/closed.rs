//! A closed partition directory is an ordinary Kafka directory.

use chiplog::record::{BatchRef, Codec};
use chiplog::{Durability, Log, Offset, ReadOptions, Record, TopicConfig};

use crate::support::{append_batches, append_numbers, files, values};

const SUFFIXES: [&str; 5] = [".log", ".index", ".timeindex", ".snapshot", ".seal"];

#[test]
fn nothing_is_left_but_kafkas_files_and_seals() {
    for durability in [Durability::Os, Durability::Each] {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path()).unwrap();
        let config = TopicConfig::default().segment_bytes(1000).durability(durability);
        let partition = log.create_topic("orders", config).unwrap().partition(0).unwrap();
        append_batches(&partition, 0..50);
        // Joined, where staging is on.
        append_numbers(&partition, 50..80);
        drop(partition);
        log.close().unwrap();
        let log = Log::builder(dir.path()).read_only().open().unwrap();
        let segments = log.topic("orders").unwrap().partition(0).unwrap().segments();
        log.close().unwrap();

        assert!(segments.len() > 3);
        let files = files(&dir.path().join("orders-0"));
        for name in files.keys() {
            let is_kafkas = ["leader-epoch-checkpoint", "partition.metadata"].contains(&name.as_str());
            let stem = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or_default();
            let is_of_segment = stem.len() == 20 && stem.bytes().all(|byte| byte.is_ascii_digit());
            assert!(is_kafkas || is_of_segment, "{name}");
        }
        for segment in &segments {
            let log = &files[&format!("{:020}.log", segment.base().0)];
            assert_eq!(log.len() as u64, segment.len(), "zeros or marks are left behind the batches");
            let mut rest = &log[..];
            while !rest.is_empty() {
                let len = 12 + u32::from_be_bytes(rest[8..12].try_into().unwrap()) as usize;
                BatchRef::verify(&rest[..len]).unwrap();
                rest = &rest[len..];
            }
            assert!(files.contains_key(&format!("{:020}.index", segment.base().0)));
            assert!(files.contains_key(&format!("{:020}.timeindex", segment.base().0)));
        }
    }
}

#[test]
fn reopening_goes_on_where_the_log_ended() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..5 {
        let log = Log::open(dir.path()).unwrap();
        let partition = log.topic("orders").unwrap().partition(0).unwrap();
        append_numbers(&partition, round * 10..round * 10 + 10);
        let expected: Vec<_> = (0..round * 10 + 10).map(|number| number.to_string()).collect();
        assert_eq!(values(&partition), expected);
        drop(partition);
        log.close().unwrap();
    }
}

#[test]
fn every_codec_reads_back_after_reopening() {
    for codec in [Codec::None, Codec::Lz4, Codec::Snappy, Codec::Gzip, Codec::Zstd] {
        if !codec.is_supported() {
            continue;
        }
        let name = if codec == Codec::None { "uncompressed" } else { codec.name() };
        let dir = tempfile::tempdir().unwrap();
        let config = TopicConfig::default().set("compression.type", name).unwrap();
        let value = "the same again ".repeat(100);
        {
            let log = Log::open(dir.path()).unwrap();
            let partition = log.create_topic("orders", config).unwrap().partition(0).unwrap();
            let _ = partition.append_all((0..20).map(|_| Record::new(&value).key("k"))).unwrap();
        }
        let log = Log::open(dir.path()).unwrap();
        let partition = log.find_topic("orders").unwrap().partition(0).unwrap();
        assert_eq!(values(&partition), vec![value; 20], "{name}");
        let stored = partition.fetch(Offset(0), ReadOptions::default()).unwrap();
        let batch = BatchRef::verify(stored.bytes()).unwrap();
        assert_eq!(batch.header().attributes.codec(), Some(codec));
    }
}

/// A broker was started on a log of ours and stopped in order. We went on, were killed, and the broker believed its own mark:
/// it took the zeros behind our last batch for batches.
#[test]
fn what_a_broker_says_of_its_own_stop_is_taken_back_by_who_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    Log::open(dir.path()).unwrap().topic("orders").unwrap();
    let mark = dir.path().join(".kafka_cleanshutdown");
    std::fs::write(&mark, r#"{"version":0,"brokerEpoch":-1}"#).unwrap();

    Log::builder(dir.path()).read_only().open().unwrap().close().unwrap();
    assert!(mark.exists(), "reading alone has changed something");
    Log::open(dir.path()).unwrap();
    assert!(!mark.exists());
}
