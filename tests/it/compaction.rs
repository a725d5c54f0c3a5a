//! Of each key the latest record stays, and everything else about the log stays as it was.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use chiplog::{
    Cleanup, Compacted, Error, Log, Observer, Offset, Partition, ReadOptions, Record, Timestamp, TopicConfig,
    VerifyOptions,
};

use crate::support::{ManualClock, by_hand, files};

/// Little segments, compacted whenever one is sealed.
fn small() -> TopicConfig {
    TopicConfig::default().cleanup(Cleanup::Compact).segment_bytes(1000).min_cleanable_dirty_ratio(0.0)
}

/// Appends a record of a key, with a value that says its offset.
fn put(partition: &Partition, key: &str) {
    let value = format!("{:0100}", partition.offsets().end.0);
    partition.append_all([Record::new(&value).key(key)]).unwrap();
}

/// Appends so many records, of as many keys as are said, in turn.
fn fill(partition: &Partition, count: u64, keys: u64) {
    for number in 0..count {
        put(partition, &format!("key-{}", number % keys));
    }
}

/// Every record, by its offset: key, and whether it has a value.
fn all(partition: &Partition) -> BTreeMap<u64, (String, Option<u64>)> {
    let (mut found, mut at) = (BTreeMap::new(), partition.offsets().start);
    while at < partition.offsets().end {
        let records = partition.read(at).unwrap();
        for record in &records {
            let key = String::from_utf8(record.key.unwrap().to_vec()).unwrap();
            let value = record.value.map(|value| std::str::from_utf8(value).unwrap().parse().unwrap());
            found.insert(record.offset.0, (key, value));
        }
        assert!(records.next_offset() > at);
        at = records.next_offset();
    }
    found
}

fn len(partition: &Partition) -> u64 {
    partition.segments().iter().map(chiplog::Segment::len).sum()
}

/// Maintains until a partition is compacted.
fn compact(log: &Log, clock: &ManualClock) {
    let compacted = (0..10_000).any(|_| {
        let done = log.maintain().unwrap();
        clock.advance(if done.compacted > 0 { Duration::ZERO } else { done.next });
        done.compacted > 0
    });
    assert!(compacted, "nothing is");
}

fn whole(log: &Log) {
    let report = log.verify(&VerifyOptions::default()).unwrap();
    assert!(report.findings().is_empty(), "{:?}", report.findings());
}

fn open(dir: &Path, clock: &Arc<ManualClock>) -> Log {
    by_hand(dir).clock(clock.clone()).open().unwrap()
}

#[test]
fn the_latest_of_each_key_is_kept_also_after_a_restart() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), ManualClock::new());
    let log = open(dir.path(), &clock);
    let partition = log.create_topic("a", small()).unwrap().partition(0).unwrap();
    fill(&partition, 500, 7);
    log.sync().unwrap();
    let (before, end) = (len(&partition), partition.offsets().end);
    compact(&log, &clock);
    let kept = all(&partition);
    assert!(len(&partition) < before / 10, "{} of {before}", len(&partition));
    assert!(kept.iter().all(|(offset, (_, value))| Some(*offset) == *value), "each at its offset");
    for key in 0..7 {
        let last = (0..500).rev().find(|number| number % 7 == key).unwrap();
        assert_eq!(kept.get(&last), Some(&(format!("key-{key}"), Some(last))));
    }
    whole(&log);
    drop(partition);
    log.close().unwrap();
    assert!(files(dir.path()).contains_key("cleaner-offset-checkpoint"));

    let log = open(dir.path(), &clock);
    let partition = log.topic("a").unwrap().partition(0).unwrap();
    assert_eq!((all(&partition), partition.offsets().end), (kept.clone(), end));
    whole(&log);
    // What was compacted is not looked through again.
    let quiet = log.maintain().unwrap();
    assert_eq!(quiet.compacted, 0);
    // Nor does a copy of the directory, as a power cut leaves it, tell anything else.
    let copy = tempfile::tempdir().unwrap();
    crate::support::copy(dir.path(), copy.path());
    std::fs::remove_file(copy.path().join("LOCK")).unwrap();
    let _ = std::fs::remove_file(copy.path().join("clean"));
    let log = open(copy.path(), &clock);
    assert_eq!(all(&log.topic("a").unwrap().partition(0).unwrap()), kept);
}

#[test]
fn a_tombstone_is_seen_for_as_long_as_it_is_said_and_then_goes() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), ManualClock::new());
    let log = open(dir.path(), &clock);
    let hour = Duration::from_secs(3600);
    let partition = log.create_topic("a", small().delete_retention(hour)).unwrap().partition(0).unwrap();
    put(&partition, "gone");
    partition.append(Record::tombstone("gone")).unwrap();
    fill(&partition, 30, 3);
    log.sync().unwrap();
    compact(&log, &clock);
    assert_eq!(all(&partition).get(&1), Some(&("gone".into(), None)));
    assert!(!all(&partition).contains_key(&0));
    for (wait, is_there) in [(hour / 2, true), (hour, false)] {
        clock.advance(wait);
        fill(&partition, 30, 3);
        log.sync().unwrap();
        compact(&log, &clock);
        assert_eq!(all(&partition).contains_key(&1), is_there, "after {wait:?}");
    }
    whole(&log);
}

#[test]
fn what_was_read_stays_and_readers_go_over_gaps() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), ManualClock::new());
    let log = open(dir.path(), &clock);
    let partition = log.create_topic("a", small()).unwrap().partition(0).unwrap();
    fill(&partition, 300, 3);
    log.sync().unwrap();
    let held = partition.read(Offset(0)).unwrap();
    let mut reader = partition.reader();
    assert_eq!(reader.read(Offset(20)).unwrap().iter().next().unwrap().offset, Offset(20));
    compact(&log, &clock);
    assert_eq!(held.iter().next().unwrap().offset, Offset(0), "what was read stays");
    let first_kept = *all(&partition).keys().next().unwrap();
    assert!(first_kept > 250);
    for from in [0, 1, 20, first_kept] {
        assert_eq!(reader.read(Offset(from)).unwrap().iter().next().unwrap().offset, Offset(first_kept), "{from}");
        assert_eq!(partition.read(Offset(from)).unwrap().iter().next().unwrap().offset, Offset(first_kept));
    }
    assert_eq!(partition.offset_at(Timestamp(0)).unwrap(), Some(Offset(first_kept)));
    assert_eq!(partition.offsets().start, Offset(0));
    let last: Vec<u64> = partition
        .read_last(2)
        .unwrap()
        .iter()
        .flat_map(|records| records.iter())
        .map(|record| record.offset.0)
        .collect();
    assert_eq!(last, [298, 299]);
    let fetched = partition.fetch(Offset(0), ReadOptions::default()).unwrap();
    assert!(fetched.next_offset() > Offset(0));
}

#[test]
fn records_without_a_key_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let topic = by_hand(dir.path()).open().unwrap().create_topic("a", small()).unwrap();
    assert!(matches!(topic.append("no key"), Err(Error::InvalidRecord { index: 0, .. })));
    topic.append(Record::new("an empty key is one").key("")).unwrap();
}

#[test]
fn both_policies_have_their_effect() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), ManualClock::new());
    let log = open(dir.path(), &clock);
    let day = Duration::from_secs(86_400);
    let both = small().cleanup(Cleanup::CompactAndDelete).retention_time(day);
    let partition = log.create_topic("a", both).unwrap().partition(0).unwrap();
    fill(&partition, 100, 2);
    log.sync().unwrap();
    compact(&log, &clock);
    assert!(all(&partition).len() < 20);
    clock.advance(day * 2);
    log.maintain().unwrap();
    assert!(all(&partition).is_empty() && partition.offsets().start == partition.offsets().end);
    fill(&partition, 100, 2);
    log.sync().unwrap();
    compact(&log, &clock);
    assert!(all(&partition).len() < 20 && all(&partition).contains_key(&199));
    whole(&log);
}

#[test]
fn an_erased_key_is_gone_when_it_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let topic = log.create_topic("a", small().partitions(3)).unwrap();
    for number in 0..200 {
        topic.append(Record::new(&format!("secret of {}", number % 5)).key(&format!("key-{}", number % 5))).unwrap();
    }
    let erased = topic.erase("key-3").unwrap();
    let partition = topic.partition(erased.partition).unwrap();
    let (mut of_key, mut at) = (Vec::new(), Offset(0));
    while at < partition.offsets().end {
        let records = partition.read(at).unwrap();
        let found = records.iter().filter(|record| record.key == Some(b"key-3"));
        of_key.extend(found.map(|record| (record.offset, record.value.is_some())));
        at = records.next_offset();
    }
    assert_eq!(of_key, [(erased.offset, false)]);
    drop((topic, partition));
    log.close().unwrap();
    for (name, bytes) in files(dir.path()) {
        assert!(!bytes.windows(11).any(|window| window == b"secret of 3"), "{name}");
    }
    whole(&Log::open(dir.path()).unwrap());
}

#[test]
fn a_rate_spreads_the_work_over_time() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), ManualClock::new());
    let log = by_hand(dir.path()).clock(clock.clone()).compaction_rate(10_000).open().unwrap();
    let partition = log.create_topic("a", small()).unwrap().partition(0).unwrap();
    fill(&partition, 500, 7);
    log.sync().unwrap();
    let (len, began) = (len(&partition), chiplog::Clock::monotonic(&*clock));
    compact(&log, &clock);
    let took = (chiplog::Clock::monotonic(&*clock) - began).as_secs_f64();
    let least = 2.0 * len as f64 / 10_000.0;
    assert!(took > least * 0.9 && took < least * 1.5 + 20.0, "{took} s for {len} bytes");
}

#[test]
fn an_observer_is_told_what_compaction_came_to() {
    #[derive(Debug, Default)]
    struct Told {
        count: AtomicU64,
        freed: AtomicU64,
    }
    impl Observer for Told {
        fn compacted(&self, event: &Compacted<'_>) {
            assert_eq!(event.partition.to_string(), "a-0");
            assert!(event.segments_after <= event.segments_before && event.end > Offset(0));
            self.count.fetch_add(1, Ordering::SeqCst);
            self.freed.fetch_add(event.bytes_before - event.bytes_after, Ordering::SeqCst);
        }
    }
    let (dir, clock, told) = (tempfile::tempdir().unwrap(), ManualClock::new(), Arc::new(Told::default()));
    let log = by_hand(dir.path()).clock(clock.clone()).observer(told.clone()).open().unwrap();
    let partition = log.create_topic("a", small()).unwrap().partition(0).unwrap();
    fill(&partition, 100, 2);
    log.sync().unwrap();
    let before = len(&partition);
    compact(&log, &clock);
    assert_eq!(told.count.load(Ordering::SeqCst), 1);
    assert_eq!(told.freed.load(Ordering::SeqCst), before - len(&partition));
}

/// Appends, readers at the tail and from the start, backups and a verification, while a thread of the log's compacts.
#[test]
fn compaction_beside_everything_else_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::builder(dir.path().join("log")).compaction_interval(Duration::from_millis(1)).open().unwrap();
    let config = small().segment_bytes(4000);
    let partition = log.create_topic("a", config).unwrap().partition(0).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for number in 0..1500_u64 {
                put(&partition, &format!("key-{}", number * number % 13));
                if number % 100 == 0 {
                    partition.sync().unwrap();
                }
            }
            is_over.store(true, Ordering::SeqCst);
        });
        for _ in 0..2 {
            threads.spawn(|| {
                let mut reader = partition.reader();
                while !is_over.load(Ordering::SeqCst) {
                    let (mut at, end) = (Offset(0), partition.offsets().end);
                    let mut last = BTreeMap::new();
                    while at < end {
                        let records = reader.read(at).unwrap();
                        for record in &records {
                            let value = std::str::from_utf8(record.value.unwrap()).unwrap();
                            assert_eq!(value.parse::<u64>().unwrap(), record.offset.0);
                            last.insert(record.key.unwrap().to_vec(), record.offset);
                        }
                        at = records.next_offset();
                    }
                    assert!(end < Offset(100) || last.len() >= 7, "{} keys of {end}", last.len());
                }
            });
        }
        threads.spawn(|| {
            let mut number = 0;
            while !is_over.load(Ordering::SeqCst) {
                number += 1;
                let to = dir.path().join(format!("backup-{number}"));
                log.backup(&to).unwrap();
                let copy = Log::builder(&to).read_only().open().unwrap();
                let held = all(&copy.topic("a").unwrap().partition(0).unwrap());
                assert!(held.iter().all(|(offset, (_, value))| Some(*offset) == *value));
                drop(copy);
                std::fs::remove_dir_all(&to).unwrap();
                let report = log.verify(&VerifyOptions::default()).unwrap();
                assert!(report.findings().is_empty(), "{:?}", report.findings());
            }
        });
    });
    let kept = all(&partition);
    let mut last = BTreeMap::new();
    for number in 0..1500_u64 {
        last.insert(format!("key-{}", number * number % 13), number);
    }
    assert!(last.iter().all(|(key, number)| kept.get(number) == Some(&(key.clone(), Some(*number)))));
    drop(partition);
    log.close().unwrap();
    whole(&Log::open(dir.path().join("log")).unwrap());
}
