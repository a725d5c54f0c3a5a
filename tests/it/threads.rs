//! Many threads on one log.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use chiplog::{Durability, Log, Offset, Partition, Record, TopicConfig};

const THREADS: u64 = 4;
const EACH: u64 = 10_000;

/// Every reader sees, while four threads append, each thread's records in order, without hole or repeat.
#[test]
fn readers_see_every_record_once_while_threads_append() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let config = TopicConfig::default().partitions(2).segment_bytes(64 << 10);
    let topic = log.create_topic("orders", config).unwrap();
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|reader| {
                let (partition, is_done) = (topic.partition(reader % 2).unwrap(), &is_done);
                scope.spawn(move || follow(&partition, is_done))
            })
            .collect();
        let writers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let topic = &topic;
                scope.spawn(move || {
                    for number in 0..EACH {
                        let _ = topic
                            .append(Record::new(&format!("{thread} {number}")).key(&thread.to_be_bytes()))
                            .unwrap();
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        is_done.store(true, Ordering::Release);
        let seen: Vec<u64> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        assert_eq!(seen.iter().sum::<u64>(), 2 * THREADS * EACH, "two readers a partition: {seen:?}");
    });
}

/// Follows a partition to its end. Returns how many records there were.
fn follow(partition: &Partition, is_done: &AtomicBool) -> u64 {
    let mut reader = partition.reader();
    let (mut at, mut last) = (Offset::ZERO, HashMap::new());
    loop {
        let is_all = is_done.load(Ordering::Acquire);
        let records = reader.read(at).unwrap();
        for (record, offset) in records.iter().zip(at.0..) {
            assert_eq!(record.offset, Offset(offset));
            let value = std::str::from_utf8(record.value.unwrap()).unwrap();
            let (thread, number) = value.split_once(' ').unwrap();
            let number: u64 = number.parse().unwrap();
            let before = last.insert(thread.to_owned(), number);
            assert_eq!(before.map_or(0, |before| before + 1), number, "thread {thread}");
        }
        if records.next_offset() == at {
            if is_all {
                return at.0;
            }
            partition.wait_readable(at, Duration::from_millis(10)).unwrap();
        }
        at = records.next_offset();
    }
}

#[test]
fn threads_that_sync_each_append_share_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let topic = log.create_topic("orders", TopicConfig::default().durability(Durability::Each)).unwrap();
    let partition = topic.partition(0).unwrap();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let offset = partition.append("paid").unwrap().offset();
                    assert!(partition.offsets().synced > offset);
                }
            });
        }
    });
    let stats = log.stats().unwrap().total();
    assert_eq!(stats.appended_records, 400);
    assert!(stats.syncs.count() <= 400, "{} syncs for 400 appends", stats.syncs.count());
}
