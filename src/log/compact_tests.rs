//! Compaction under crashes and errors at every call, and beside whatever else a log does, on the simulated disk.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests fail as tests do")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Background, Log, LogBuilder, Staging, VerifyOptions};
use crate::config::{Cleanup, TopicConfig};
use crate::disk::Disk;
use crate::error::{Error, ErrorKind};
use crate::partition::testing::append_as;
use crate::partition::{Ack, Isolation, Partition, ReadOptions};
use crate::record::{BatchBuilder, BatchOptions, BatchOrigin, Marker, Producer, Record, encode_marker};
use crate::sim::{DiskOptions, Errno, Fault, Record as Recording, SimDisk, SimEntropy, Times};
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};

mod meanwhile;
mod mended;
#[cfg(feature = "planted-bugs")]
mod planted;

/// Two lives of a log must not draw the same ids.
static OPENED: AtomicU64 = AtomicU64::new(1);

fn builder(disk: &Arc<SimDisk>) -> LogBuilder {
    Log::builder("/log")
        .disk(Arc::clone(disk) as Arc<dyn Disk>)
        .clock(disk.clock())
        .entropy(Arc::new(SimEntropy::new(OPENED.fetch_add(1, Ordering::Relaxed))))
        .background(Background::Caller)
        .staging(Staging::Off)
        .compaction_interval(Duration::from_secs(1))
        .strict()
}

fn open(disk: &Arc<SimDisk>) -> Log {
    builder(disk).open().unwrap()
}

/// Segments of four records or so, compacted whenever one of them is sealed.
fn small() -> TopicConfig {
    TopicConfig::default()
        .cleanup(Cleanup::Compact)
        .segment_bytes(500)
        .min_cleanable_dirty_ratio(0.0)
        .delete_retention(Duration::from_secs(60))
        .set("segment.index.bytes", "240")
        .unwrap()
}

fn partition(log: &Log) -> Partition {
    log.topic("a").unwrap().partition(0).unwrap()
}

/// Appends records of these keys, whose values are their offsets; a key in capitals is deleted.
fn append(log: &Log, keys: &str) {
    let partition = partition(log);
    for key in keys.chars() {
        let value = format!("{:060}", partition.offsets().end.0);
        let lower = key.to_ascii_lowercase().to_string();
        let record = match key.is_uppercase() {
            true => Record::tombstone(&lower),
            false => Record::new(&value).key(&lower),
        };
        partition.append(record).unwrap();
    }
}

/// A transaction of a producer, with a record of each key, and its outcome.
fn transact(log: &Log, producer: i64, sequence: i32, keys: &str, is_commit: bool) {
    let core = &partition(log).core;
    append_transactional(log, producer, sequence, keys);
    let marker = Marker {
        offset: Offset::ZERO,
        leader_epoch: LeaderEpoch(0),
        producer_id: ProducerId(producer),
        producer_epoch: ProducerEpoch(0),
        timestamp: core.context.clock.now(),
        is_commit,
        coordinator_epoch: 0,
    };
    let mut batch = Vec::new();
    encode_marker(&marker, &mut batch).unwrap();
    append_as(&partition(log), &batch, BatchOrigin::Coordinator);
}

fn append_transactional(log: &Log, producer: i64, sequence: i32, keys: &str) {
    let core = &partition(log).core;
    let mut builder = BatchBuilder::new();
    let producer = Producer {
        id: ProducerId(producer),
        epoch: ProducerEpoch(0),
        base_sequence: sequence,
        is_transactional: true,
    };
    builder.begin(BatchOptions::default().producer(producer));
    for (at, key) in keys.chars().enumerate() {
        let value = format!("{:060}", core.end().0 + at as u64);
        builder.push(&Record::new(&value).key(&key.to_string()), core.context.clock.now()).unwrap();
    }
    append_as(&partition(log), builder.finish().unwrap(), BatchOrigin::Client);
}

/// Has maintenance called until a partition was compacted.
fn compact(log: &Log, disk: &SimDisk) {
    for _ in 0..1_000 {
        let done = log.maintain().unwrap();
        if done.compacted > 0 {
            return;
        }
        disk.clock().advance(done.next);
    }
    panic!("nothing is compacted");
}

/// What is read of a partition, by offset: key and value.
type Found = BTreeMap<u64, (String, Option<String>)>;

fn found(log: &Log, isolation: Isolation) -> Found {
    let partition = partition(log);
    let (mut at, mut all) = (partition.offsets().start, Found::new());
    while at < partition.offsets().end {
        let records = partition.read_with(at, ReadOptions::default().isolation(isolation)).unwrap();
        if records.next_offset() == at {
            break;
        }
        for record in &records {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            all.insert(record.offset.0, (text(record.key.unwrap()), record.value.map(text)));
        }
        at = records.next_offset();
    }
    all
}

/// The value of each key, as who replays the log has it.
fn table(found: &Found) -> BTreeMap<String, String> {
    let mut table = BTreeMap::new();
    for (key, value) in found.values() {
        match value {
            Some(value) => drop(table.insert(key.clone(), value.clone())),
            None => drop(table.remove(key)),
        }
    }
    table
}

fn committed(log: &Log) -> Found {
    found(log, Isolation::Committed)
}

fn unfinished_files(disk: &SimDisk) -> Vec<String> {
    let files = disk.image().files().into_keys().map(|path| path.to_string_lossy().into_owned());
    files.filter(|path| path.ends_with(".swap") || path.ends_with(".cleaned")).collect()
}

fn verified(log: &Log) {
    let report = log.verify(&VerifyOptions::default()).unwrap();
    assert!(report.findings().is_empty(), "{:?}", report.findings());
}

/// The same after a power cut, which may have taken what follows from the batches.
fn verified_after_crash(log: &Log) {
    let report = log.verify(&VerifyOptions::default()).unwrap();
    let is_lost = |finding: &&crate::Finding| finding.advice != crate::Advice::Derived;
    let lost: Vec<_> = report.findings().iter().filter(is_lost).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

/// A log with a topic that has something of everything to compact, all of it synced, and nothing compacted yet.
fn life() -> Arc<SimDisk> {
    let disk = SimDisk::new(DiskOptions::default());
    let log = open(&disk);
    log.create_topic("a", small()).unwrap();
    append(&log, "abcabdAaeeee");
    transact(&log, 7, 0, "xy", true);
    transact(&log, 8, 0, "bx", false);
    append(&log, "fgfghfB");
    transact(&log, 7, 2, "x", true);
    append(&log, "iiiiiiii");
    log.sync().unwrap();
    log.close().unwrap();
    disk.kill()
}

/// Two passes, with the time between them in which tombstones and markers stay.
fn compact_twice(log: &Log, disk: &SimDisk) {
    compact(log, disk);
    disk.clock().advance(Duration::from_secs(61));
    append(log, "jjjjjjjj");
    log.sync().unwrap();
    compact(log, disk);
}

#[test]
fn the_latest_of_each_key_stays_at_its_offset() {
    let disk = life();
    let log = open(&disk);
    let before = committed(&log);
    let bytes = |log: &Log| partition(log).segments().iter().map(crate::partition::Segment::len).sum::<u64>();
    let (end, len) = (partition(&log).offsets().end, bytes(&log));
    compact(&log, &disk);
    let after = committed(&log);
    assert_eq!(table(&after), table(&before));
    assert!(after.iter().all(|(offset, record)| before.get(offset) == Some(record)));
    assert!(after.len() < before.len() && bytes(&log) < len * 3 / 4, "{} {}", bytes(&log), len);
    assert_eq!(partition(&log).offsets().end, end);
    assert!(after.values().any(|(key, value)| key == "b" && value.is_none()), "its tombstone may be new to somebody");
    verified(&log);
    disk.clock().advance(Duration::from_secs(20));
    append(&log, "jjjjjjjj");
    log.sync().unwrap();
    compact(&log, &disk);
    assert!(committed(&log).values().any(|(key, value)| key == "b" && value.is_none()), "it is not a minute old");
    disk.clock().advance(Duration::from_secs(41));
    append(&log, "jjjjjjjj");
    log.sync().unwrap();
    compact(&log, &disk);
    assert!(committed(&log).values().all(|(_, value)| value.is_some()), "now it is not");
    verified(&log);
    log.close().unwrap();
    assert_eq!(disk.audit(), None);
    let log = open(&disk);
    verified(&log);
    assert_eq!(table(&committed(&log))["i"], table(&before)["i"]);
}

/// What there is to see of a moment: at least what the pass leaves, at most what was there, and the same values.
fn check_moment(disk: &Arc<SimDisk>, before: &Found, after: &Found, is_over: bool, context: &str) {
    let log = open(disk);
    assert_eq!(unfinished_files(disk), Vec::<String>::new(), "{context}");
    let seen = committed(&log);
    let is_within = seen.iter().all(|(offset, record)| before.get(offset) == Some(record));
    assert!(is_within, "{context}: {seen:?}, and there was {before:?}");
    let has_all = after.keys().all(|offset| seen.contains_key(offset));
    assert!(has_all, "{context}: {seen:?}, and there is to be {after:?}");
    assert!(!is_over || &seen == after, "{context}: {seen:?}, and it is over: {after:?}");
    assert_eq!(table(&seen), table(before), "{context}");
    verified_after_crash(&log);
    // It is good for more, and can be opened again.
    append(&log, "zz");
    transact(&log, 7, 3, "w", true);
    append(&log, "kkkkkkkk");
    log.sync().unwrap();
    compact(&log, disk);
    let seen = committed(&log);
    log.close().unwrap();
    let log = open(disk);
    assert_eq!(committed(&log), seen, "{context}");
    assert_eq!(disk.audit(), None, "{context}");
}

/// Runs the first pass of a life, or the second, and looks at what every kill leaves, and at crash images. Returns how
/// many were looked at.
fn crash_at_every_call(is_second: bool, seeds: u64) -> u64 {
    let disk = life();
    let log = open(&disk);
    if is_second {
        compact(&log, &disk);
        disk.clock().advance(Duration::from_secs(61));
        append(&log, "jjjjjjjj");
        log.sync().unwrap();
    }
    let before = committed(&log);
    disk.record(Recording::All);
    compact(&log, &disk);
    let end = disk.calls();
    log.maintain().unwrap();
    let after = committed(&log);
    assert!(after.len() < before.len());
    let mut count = 0;
    for moment in disk.take_moments() {
        let clock = disk.clock().fork();
        let mut images = vec![("kill".to_owned(), SimDisk::on(moment.image.clone(), Arc::clone(&clock)))];
        if !moment.during {
            let crash = |seed| (format!("crash {seed}"), SimDisk::on(moment.image.crash(seed), clock.fork()));
            images.extend((0..seeds).map(crash));
        }
        for (how, disk) in images {
            let context = format!("{how} at call {}", moment.call);
            check_moment(&disk, &before, &after, moment.call >= end, &context);
            count += 1;
        }
    }
    count
}

#[test]
fn a_crash_at_any_call_finds_each_group_as_it_was_or_as_it_is_to_be() {
    for is_second in [false, true] {
        let count = crash_at_every_call(is_second, 4);
        assert!(count > 300, "{count}");
    }
}

/// Injects errors, one call after the other, and goes on once the disk is well again.
fn fail_at_every_call(errno: Errno, times: Times, step: usize) -> u64 {
    let calls = {
        let disk = life();
        let log = open(&disk);
        let from = disk.calls();
        compact_twice(&log, &disk);
        from..disk.calls()
    };
    let mut count = 0;
    for call in calls.step_by(step) {
        let disk = life();
        let log = open(&disk);
        let before = committed(&log);
        disk.inject(call, Fault::Error(errno), times);
        let context = format!("{errno:?} {times:?} at call {call}");
        for _ in 0..40 {
            if let Ok(done) = log.maintain() {
                disk.clock().advance(done.next.min(Duration::from_secs(1)));
            }
        }
        let failed = disk.struck() > 0;
        disk.heal();
        // Whatever failed, the records are there; a poisoned partition shows what is synced.
        let seen = committed(&log);
        assert_eq!(table(&seen), table(&before), "{context}");
        let poisoned = partition(&log).append(Record::new("v").key("z")).is_err();
        if !poisoned {
            log.sync().unwrap();
            // It comes to its end, and what is left half done with it.
            disk.clock().advance(Duration::from_secs(61));
            for _ in 0..40 {
                let done = log.maintain().unwrap_or_else(|error| panic!("{context}: {error}"));
                disk.clock().advance(done.next.min(Duration::from_secs(1)));
            }
            assert_eq!(unfinished_files(&disk), Vec::<String>::new(), "{context}");
            assert!(committed(&log).len() < before.len(), "{context}: it is compacted");
            verified(&log);
        }
        for disk in [disk.kill(), disk.crash(call)] {
            let log = open(&disk);
            let seen = table(&committed(&log));
            let of_before: BTreeSet<_> = table(&before).into_iter().collect();
            let kept: BTreeSet<_> = seen.into_iter().filter(|(key, _)| key != "z").collect();
            assert_eq!(kept, of_before, "{context}");
            verified_after_crash(&log);
        }
        assert_eq!(disk.audit(), None, "{context}");
        count += u64::from(failed);
    }
    count
}

#[test]
fn an_error_at_any_call_leaves_every_record_and_is_gone_on_from() {
    assert!(fail_at_every_call(Errno::Io, Times::Once, 1) > 100);
    assert!(fail_at_every_call(Errno::Full, Times::Dead, 3) > 30);
    assert!(fail_at_every_call(Errno::Io, Times::Dead, 3) > 30);
}

/// A group with more keys than there is memory for, in one batch even.
#[test]
fn little_memory_takes_more_passes_and_comes_to_the_end() {
    let disk = SimDisk::new(DiskOptions::default());
    let log = builder(&disk).compaction_memory(1024).open().unwrap();
    log.create_topic("a", small().segment_bytes(4000)).unwrap();
    let keys: Vec<String> = (0..100).map(|key| format!("{key:04}")).collect();
    for _ in 0..4 {
        let records = keys.iter().map(|key| Record::new("v").key(key));
        partition(&log).append_all(records).unwrap();
    }
    append(&log, "zzzz");
    log.sync().unwrap();
    let (before, mut rounds) = (committed(&log), 0);
    for _ in 0..300 {
        let done = log.maintain().unwrap();
        rounds += done.compacted;
        disk.clock().advance(done.next);
    }
    let after = committed(&log);
    assert_eq!(table(&after), table(&before));
    assert!(rounds > 3 && after.len() <= 204, "{rounds} {}", after.len());
    verified(&log);
}

#[test]
fn what_is_undecided_and_what_follows_it_is_left_alone() {
    let disk = SimDisk::new(DiskOptions::default());
    let log = open(&disk);
    log.create_topic("a", small()).unwrap();
    append(&log, "aaaaaaaa");
    append_transactional(&log, 7, 0, "b");
    // The keys of before, too: a map that went on into these would take the last record that is decided.
    append(&log, "bbbaaabbbaaa");
    log.sync().unwrap();
    let before = found(&log, Isolation::Uncommitted);
    compact(&log, &disk);
    let after = found(&log, Isolation::Uncommitted);
    assert!(after.len() < before.len() && after.keys().any(|offset| *offset < 8), "{after:?}");
    assert_eq!(after.range(8..).collect::<Vec<_>>(), before.range(8..).collect::<Vec<_>>());
    let refused = log.topic("a").unwrap().erase("a").unwrap_err();
    assert!(matches!(refused, Error::Undecided { producer: ProducerId(7), first: Offset(8), .. }), "{refused}");
    assert_eq!(refused.kind(), ErrorKind::Retry);
}

/// A transaction was committed by its marker alone, and compaction removed what its records superseded before that was on the
/// disk. A power cut took the marker, so the transaction was aborted, and of its keys nothing was left.
#[test]
fn what_a_transaction_supersedes_stays_until_its_outcome_is_durable() {
    let disk = SimDisk::new(DiskOptions::default());
    let log = open(&disk);
    log.create_topic("a", small()).unwrap();
    append(&log, "abcdefgh");
    let mut producer = log.producer().transactional("id").unwrap();
    let mut transaction = producer.begin().unwrap();
    for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        transaction.append(&partition(&log), Record::new(&[b'.'; 60]).key(key)).unwrap();
    }
    log.sync().unwrap();
    transaction.commit_with(Ack::Written).unwrap();
    compact(&log, &disk);
    for seed in 0..20 {
        let found = open(&disk.crash(seed));
        let keys: String = table(&committed(&found)).into_keys().collect();
        assert_eq!(keys, "abcdefgh", "seed {seed}");
    }
}

fn lose_snapshots(disk: &SimDisk) {
    let is_snapshot = |path: &Path| path.extension().is_some_and(|of| of == "snapshot");
    disk.image()
        .files()
        .into_keys()
        .filter(|path| is_snapshot(path))
        .for_each(|path| disk.remove_file(&path).unwrap());
}

/// Snapshots may be lost: what a repeated batch is told by is in the batches that are left.
#[test]
fn producers_are_known_from_what_compaction_leaves_alone() {
    let disk = life();
    let log = open(&disk);
    let told = |log: &Log| -> Vec<_> {
        let all = partition(log).producers().into_iter();
        all.map(|state| (state.producer_id, state.producer_epoch, state.last_sequence)).collect()
    };
    let before = told(&log);
    assert_eq!(before.len(), 2);
    compact_twice(&log, &disk);
    let killed = disk.kill();
    lose_snapshots(&killed);
    let log = open(&killed);
    assert_eq!(told(&log), before);
}

/// The last batch of a producer was not on the disk when compaction removed the one before it, by which it had been known. A
/// power cut took the last one, and nothing was known of the producer: a batch that came again would have been stored again.
#[test]
fn a_producer_is_known_after_a_power_cut_that_takes_its_last_batch() {
    let disk = SimDisk::new(DiskOptions::default());
    let log = open(&disk);
    log.create_topic("a", small()).unwrap();
    let mut producer = log.producer().idempotent().unwrap();
    producer.append(&partition(&log), Record::new(&[b'.'; 60]).key("a")).unwrap();
    append(&log, "aaaaaaaa");
    log.sync().unwrap();
    compact(&log, &disk);
    append(&log, "bbbbbbbb");
    log.sync().unwrap();
    producer.append(&partition(&log), Record::new(&[b'.'; 60]).key("a")).unwrap();
    compact(&log, &disk);
    for seed in 0..20 {
        let found = disk.crash(seed);
        lose_snapshots(&found);
        assert_eq!(partition(&open(&found)).producers().len(), 1, "seed {seed}");
    }
}

#[test]
fn a_rate_is_kept_by_the_clock() {
    let disk = life();
    let log = builder(&disk).compaction_rate(200).open().unwrap();
    let len: u64 = partition(&log).segments().iter().map(crate::partition::Segment::len).sum();
    let began = crate::clock::Clock::monotonic(&*disk.clock());
    compact(&log, &disk);
    let took = crate::clock::Clock::monotonic(&*disk.clock()) - began;
    // Each byte that is dirty is read twice.
    let least = Duration::from_secs((len - 500) / 200 * 2);
    assert!(took > least * 3 / 4 && took < least * 3, "{took:?}, {len} bytes");
}

#[test]
fn a_slow_round_does_not_eat_up_the_time_that_tombstones_stay() {
    let disk = life();
    let log = builder(&disk).compaction_rate(200).open().unwrap();
    let began = crate::clock::Clock::now(&*disk.clock());
    compact(&log, &disk);
    let mut horizons = Vec::new();
    for segment in partition(&log).core.segments().iter() {
        let (view, len, mut position) = (segment.view().unwrap(), segment.len(), 0);
        while position < len {
            let header = segment.header(&view, position, len).unwrap();
            horizons.extend(header.delete_horizon());
            position += u64::from(header.batch_len);
        }
    }
    // All of it is read before the first is written.
    let is_late = |horizon: &crate::Timestamp| horizon.0 > began.0 + 60_000 + 5_000;
    assert!(!horizons.is_empty() && horizons.iter().all(is_late), "{began:?} {horizons:?}");
}

#[test]
fn compaction_rests_while_a_segment_would_take_space_that_is_to_be_left() {
    let disk = life();
    let log = builder(&disk).min_free_bytes(1 << 20).open().unwrap();
    disk.set_free(Some(1 << 19));
    let segments = partition(&log).segments().len();
    for _ in 0..60 {
        let done = log.maintain().unwrap();
        assert_eq!(done.compacted, 0);
        disk.clock().advance(done.next);
    }
    assert_eq!((partition(&log).segments().len(), unfinished_files(&disk)), (segments, Vec::new()));
    let refused = log.topic("a").unwrap().erase("x").unwrap_err();
    assert!(matches!(refused, Error::LowSpace { .. }), "{refused}");
    disk.set_free(None);
    compact(&log, &disk);
    log.topic("a").unwrap().erase("x").unwrap();
}

#[test]
fn a_damaged_segment_is_not_compacted_and_nothing_else_suffers() {
    let disk = life();
    let log = open(&disk);
    let segment = partition(&log).segments()[1].path().to_owned();
    let file = disk.open(&segment, crate::disk::Open::Write).unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, 100).unwrap();
    file.write_at(&[byte[0] ^ 1], 100).unwrap();
    let mut errors = 0;
    for _ in 0..60 {
        match log.maintain() {
            Ok(done) => disk.clock().advance(done.next),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                errors += 1;
                disk.clock().advance(Duration::from_secs(1));
            }
        }
    }
    assert_eq!(errors, 1, "once is enough");
    assert_eq!(partition(&log).segments()[1].path(), segment);
    append(&log, "a");
}

/// Offsets that compaction took are told from those that damage took: only below where it came to they may be missing.
#[test]
fn a_gap_above_what_was_compacted_is_damage_also_after_a_restart() {
    let disk = life();
    let log = open(&disk);
    compact(&log, &disk);
    log.alter_topic("a", small().min_cleanable_dirty_ratio(1.0)).unwrap();
    append(&log, "klmnopqrstuv");
    log.sync().unwrap();
    log.maintain().unwrap();
    let segments = partition(&log).segments();
    let last_sealed = &segments[segments.len() - 2];
    let lost = last_sealed.path().to_owned();
    assert!(last_sealed.base() >= partition(&log).core.dense_from());
    log.close().unwrap();
    for kind in ["log", "index", "timeindex", "seal"] {
        disk.remove_file(&lost.with_extension(kind)).unwrap();
    }
    disk.remove_file(Path::new("/log/clean")).unwrap();
    let refused = builder(&disk).open().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
}

/// As a broker leaves them: what comes before such a segment is the last of its group.
#[test]
fn a_sealed_segment_without_a_batch_does_not_keep_others_from_being_compacted() {
    let disk = SimDisk::new(DiskOptions::default());
    let log = open(&disk);
    log.create_topic("a", small()).unwrap();
    append(&log, "abcdefghijklmnopqrstuv");
    log.sync().unwrap();
    compact(&log, &disk);
    let segments = partition(&log).segments();
    let (first, emptied) = (segments[0].clone(), segments[1].clone());
    assert!(emptied.end() <= partition(&log).core.dense_from());
    log.close().unwrap();
    for kind in ["index", "timeindex", "seal"] {
        disk.remove_file(&emptied.path().with_extension(kind)).unwrap();
    }
    disk.open(emptied.path(), crate::disk::Open::Write).unwrap().set_len(0).unwrap();
    disk.remove_file(Path::new("/log/clean")).unwrap();
    let log = open(&disk);
    let keys: String = ('a'..='v').collect();
    append(&log, &keys);
    append(&log, "zzzzzzzz");
    log.sync().unwrap();
    compact(&log, &disk);
    let seen = committed(&log);
    assert!(seen.keys().all(|offset| *offset >= first.end().0), "all of the first has later ones: {seen:?}");
    assert!(keys.chars().all(|key| table(&seen).contains_key(&key.to_string())));
    log.close().unwrap();
    assert_eq!(committed(&open(&disk)), seen);
}

/// The offset of a batch is under no checksum, and where others are missing a wrong one does not show: a reader passed over
/// the batches behind it. (Found by operation sequence 31568.)
#[test]
fn a_flipped_offset_in_a_compacted_segment_is_told() {
    let disk = life();
    let log = open(&disk);
    compact(&log, &disk);
    let segments = partition(&log).segments();
    log.close().unwrap();
    let files = disk.image().files();
    let first_len = |bytes: &[u8]| 12 + u32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize;
    let has_two = |segment: &crate::Segment| {
        let bytes = &files[segment.path()];
        bytes.len() > 61 && bytes.len() > first_len(bytes) + 61
    };
    let at = segments.iter().position(has_two).unwrap();
    let (path, base, later) = (segments[at].path().to_owned(), segments[at].base(), segments[at + 1].base());
    let bytes = files[&path].clone();
    let second = first_len(&bytes);
    for (at, bit) in [(7, 1), (7, 5), (second + 7, 0), (second + 7, 6), (second + 15, 0), (second + 14, 2)] {
        let disk = disk.kill();
        let file = disk.open(&path, crate::disk::Open::Write).unwrap();
        file.write_at(&[bytes[at] ^ 1 << bit], at as u64).unwrap();
        file.sync().unwrap();
        let log = open(&disk);
        let refused = partition(&log).read(base).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Corrupt, "byte {at}, bit {bit}: {refused}");
        assert!(partition(&log).read(later).is_ok(), "the other segments are as they were");
        log.close().unwrap();
        let salvaged = builder(&disk).recovery(crate::RecoveryMode::Salvage).open().unwrap();
        let (mut from, end) = (Offset::ZERO, partition(&salvaged).offsets().end);
        // An epoch that nothing around it tells stays as it is, and is told.
        let is_offset = [7, second + 7].contains(&at);
        while from < end && is_offset {
            from = partition(&salvaged).read(from).unwrap().next_offset();
        }
    }
}
