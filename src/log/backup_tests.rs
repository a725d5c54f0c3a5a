//! Backups under crashes and errors at every call, and beside whatever else a log does, on the simulated disk.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::coordinate::offsets_config;
use super::names::OFFSETS_TOPIC;
use super::{Background, Log, LogBuilder, Staging};
use crate::config::{Durability, GroupConfig, TopicConfig};
use crate::disk::{Disk, Lock, Open, write_all_at};
use crate::error::{Error, ErrorKind};
use crate::partition::testing::transact;
use crate::partition::{Isolation, Partition, ReadOptions, RecoveryMode};
use crate::probe;
use crate::segment::pool::Layout;
use crate::sim::{DiskOptions, Errno, Fault, Record as Recording, SimDisk, SimEntropy, Times};
use crate::types::Offset;

mod meanwhile;

const LOG: &str = "/log";
const BACKUP: &str = "/backups/monday";
const LAYOUT: Layout = Layout { slot_len: 4096, slot_count: 4, batch_len: 500, stride: 256 };

/// Two lives of a log must not draw the same ids.
static OPENED: AtomicU64 = AtomicU64::new(1);

fn builder(disk: &Arc<SimDisk>, dir: &str) -> LogBuilder {
    let groups = GroupConfig::default().offsets_partitions(2);
    Log::builder(dir)
        .disk(Arc::clone(disk) as Arc<dyn Disk>)
        .clock(disk.clock())
        .entropy(Arc::new(SimEntropy::new(OPENED.fetch_add(1, Ordering::Relaxed))))
        .background(Background::Caller)
        .staging(Staging::On)
        .layout(LAYOUT)
        .groups(groups)
        .offsets_topic(offsets_config(&groups).segment_bytes(8192).set("segment.index.bytes", "240").unwrap())
}

/// Segments of three or four records.
fn small() -> TopicConfig {
    TopicConfig::default().segment_bytes(300).set("segment.index.bytes", "240").unwrap()
}

fn values(partition: &Partition) -> Vec<String> {
    let (mut at, mut all) = (partition.offsets().start, Vec::new());
    while at < partition.offsets().end {
        let records = partition.read(at).unwrap();
        assert!(records.next_offset() > at, "nothing at {at}");
        all.extend(records.iter().map(|record| String::from_utf8_lossy(record.value.unwrap()).into_owned()));
        at = records.next_offset();
    }
    all
}

/// Everything there is to read in a log.
fn contents(log: &Log) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    for topic in log.topics().iter().filter(|topic| topic.name() != OFFSETS_TOPIC) {
        for number in 0..topic.partition_count() {
            let partition = topic.partition(number).unwrap();
            all.insert(format!("{}-{number}", topic.name()), values(&partition));
        }
    }
    for group in log.groups().unwrap() {
        for (partition, committed) in log.group(&group).unwrap().offsets().unwrap() {
            all.insert(format!("{group} of {partition}"), vec![committed.offset.to_string()]);
        }
    }
    all
}

/// A log with finished segments, sealed ones, staged records and a group.
fn written(disk: &Arc<SimDisk>) -> Log {
    filled(builder(disk, LOG))
}

fn filled(builder: LogBuilder) -> Log {
    let log = builder.open().unwrap();
    let a = log.create_topic("a", small().partitions(2)).unwrap();
    for number in 0..20 {
        a.partition(number % 2).unwrap().append_all([&*format!("a {number} of some length")]).unwrap();
    }
    log.create_topic("empty", small()).unwrap();
    log.create_topic("b", small().durability(Durability::Each)).unwrap().append("b 0").unwrap();
    log.group("g").unwrap().commit("a", 1, Offset(9)).unwrap();
    log.maintain().unwrap();
    for number in 20..30 {
        a.partition(number % 2).unwrap().append_all([&*format!("a {number} of some length")]).unwrap();
    }
    a.partition(0).unwrap().append("staged").unwrap();
    log
}

fn has_files(disk: &SimDisk, below: &str) -> bool {
    disk.image().files().keys().any(|path| path.starts_with(below))
}

#[test]
fn a_backup_holds_what_was_appended_and_opens_without_a_recovery() {
    let disk = SimDisk::new(DiskOptions::default());
    let log = written(&disk);
    let backup = log.backup(BACKUP).unwrap();
    assert_eq!(backup.partitions.len(), 2 + 2 + 1 + 1);
    assert!(backup.left_out.is_empty() && backup.linked_files > 20, "{backup:?}");
    assert_eq!(disk.audit(), None);
    // Also after a power cut: it is durable.
    for disk in [disk.kill(), disk.crash(1), disk.crash(2)] {
        drop(probe::registry::take_marks());
        let copy = builder(&disk, BACKUP).strict().open().unwrap();
        assert_eq!(probe::registry::take_marks().get("recover.clean"), Some(&4), "all that hold anything");
        assert_eq!(contents(&copy), contents(&log));
        for held in &backup.partitions {
            let topic = copy.find_topic(&held.partition.topic).unwrap();
            let offsets = topic.partition(held.partition.partition).unwrap().offsets();
            assert_eq!((offsets.start, offsets.synced, offsets.end), (held.start, held.end, held.end));
        }
        copy.topic("a").unwrap().partition(0).unwrap().append("more").unwrap();
        copy.maintain().unwrap();
        copy.close().unwrap();
        let copy = builder(&disk, BACKUP).strict().open().unwrap();
        assert!(contents(&copy)["a-0"].ends_with(&["staged".into(), "more".into()]));
        assert_eq!(disk.audit(), None);
    }
}

/// Idempotence, open transactions and aborted ones come along: they are known from snapshots and indexes.
#[test]
fn a_backup_knows_producers_and_transactions() {
    let disk = SimDisk::new(DiskOptions::default());
    let log = builder(&disk, LOG).open().unwrap();
    let partition = log.create_topic("a", small()).unwrap().partition(0).unwrap();
    for sequence in 0..8 {
        transact(&partition, sequence, &sequence.to_string(), sequence % 2 == 0);
    }
    let committed = ReadOptions::default().isolation(Isolation::Committed).max_bytes(1 << 20);
    let read = |partition: &Partition| {
        let (mut at, mut values) = (partition.offsets().start, Vec::new());
        while at < partition.offsets().end {
            let records = partition.read_with(at, committed).unwrap();
            values.extend(records.iter().map(|record| record.value.unwrap().to_vec()));
            at = records.next_offset();
        }
        values
    };
    for (finished, dir) in [(false, "/one"), (true, "/two")] {
        if finished {
            log.sync().unwrap();
            log.maintain().unwrap();
        }
        log.backup(dir).unwrap();
        let copy = builder(&disk, dir).strict().open().unwrap();
        let copied = copy.topic("a").unwrap().partition(0).unwrap();
        assert_eq!(read(&copied), read(&partition));
        let (held, offsets) = (copied.offsets(), partition.offsets());
        assert_eq!((held.start, held.stable, held.end), (offsets.start, offsets.stable, offsets.end));
        transact(&copied, 8, "8", true);
    }
}

/// What a backup directory may be found to be.
fn is_whole(disk: &Arc<SimDisk>, expected: &BTreeMap<String, Vec<String>>, context: &str) -> bool {
    match builder(disk, BACKUP).strict().open() {
        Ok(copy) if copy.topics().is_empty() => {
            let left: Vec<_> = disk.image().files().into_keys().filter(|path| path.starts_with(BACKUP)).collect();
            let is_partition = |path: &PathBuf| path.parent() != Some(Path::new(BACKUP));
            assert!(!left.iter().any(is_partition), "{context}: {left:?}");
            false
        }
        Ok(copy) => {
            assert_eq!(&contents(&copy), expected, "{context}");
            copy.topic("a").unwrap().append("more").unwrap();
            copy.close().unwrap();
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{context}: {error}");
            assert!(error.to_string().contains("did not come to its end"), "{context}: {error}");
            false
        }
    }
}

#[test]
fn a_crash_at_any_call_of_a_backup_leaves_the_log_as_it_was_and_the_backup_whole_or_refused() {
    let disk = SimDisk::new(DiskOptions::default());
    let log = written(&disk);
    log.sync().unwrap();
    let expected = contents(&log);
    disk.record(Recording::All);
    log.backup(BACKUP).unwrap();
    let end = disk.calls();
    let (mut whole, mut refused) = (0, 0);
    for moment in disk.take_moments() {
        let clock = disk.clock();
        let mut found = vec![("kill".to_owned(), SimDisk::on(moment.image.clone(), clock.fork()))];
        if !moment.during {
            let crash = |seed| (format!("crash {seed}"), SimDisk::on(moment.image.crash(seed), clock.fork()));
            found.extend((0..3).map(crash));
        }
        for (how, disk) in found {
            let context = format!("{how} at call {} of {end}", moment.call);
            let here = builder(&disk, LOG).strict().open().unwrap();
            assert_eq!(contents(&here), expected, "{context}");
            match is_whole(&disk, &expected, &context) {
                true => whole += 1,
                false => refused += 1,
            }
            assert_eq!(contents(&here), expected, "{context}: the log has changed with its backup");
            assert_eq!(disk.audit(), None, "{context}");
        }
    }
    assert!(whole > 0 && refused > 300, "{whole} whole, {refused} not");
    assert!(is_whole(&disk.crash(9), &expected, "at the end"));
}

/// The directory had just been made by somebody else. Its name was in memory only, and a power cut took it, with a backup
/// that had been told to be durable.
#[test]
fn a_backup_in_a_directory_that_was_just_made_survives_a_power_cut() {
    let disk = SimDisk::new(DiskOptions::default());
    let log = written(&disk);
    let expected = contents(&log);
    for dir in [Path::new("/backups"), Path::new(BACKUP)] {
        disk.create_dir(dir).unwrap();
    }
    log.backup(BACKUP).unwrap();
    for seed in 0..16 {
        assert!(is_whole(&disk.crash(seed), &expected, &format!("crash {seed}")), "crash {seed}");
    }
}

#[test]
fn an_error_at_any_call_of_a_backup_is_an_error_or_a_whole_backup() {
    let calls = {
        let disk = SimDisk::new(DiskOptions::default());
        let log = written(&disk);
        let before = disk.calls();
        log.backup(BACKUP).unwrap();
        disk.calls() - before
    };
    let faults = [
        (Errno::Io, Times::Once),
        (Errno::Full, Times::Once),
        (Errno::Denied, Times::Once),
        (Errno::Full, Times::Sticky),
        (Errno::Io, Times::Dead),
    ];
    let (mut failed, mut done) = (0, 0);
    for (call, (errno, times)) in (0..calls).flat_map(|call| faults.map(|fault| (call, fault))) {
        let context = format!("{errno:?} {times:?} at call {call} of {calls}");
        let disk = SimDisk::new(DiskOptions::default());
        let log = written(&disk);
        let expected = contents(&log);
        disk.inject(disk.calls() + call, Fault::Error(errno), times);
        let outcome = log.backup(BACKUP);
        disk.heal();
        match outcome {
            Ok(_) => {
                assert!(is_whole(&disk.crash(call), &expected, &context), "{context}");
                done += 1;
            }
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Io | ErrorKind::Full), "{context}: {error}");
                let is_clean = times == Times::Once;
                assert!(!is_clean || !has_files(&disk, "/backups"), "{context}: something is left");
                assert!(has_files(&disk, LOG));
                is_whole(&disk.kill(), &expected, &context);
                failed += 1;
            }
        }
        if log.backup("/again").is_ok() {
            assert_eq!(contents(&log), expected, "{context}");
        }
        drop(log);
        // Where every call fails, a poisoned partition cannot even take back what it noted.
        if times != Times::Dead {
            let here = builder(&disk, LOG).strict().open().unwrap();
            assert_eq!(contents(&here), expected, "{context}");
        }
        assert_eq!(disk.audit(), None, "{context}");
    }
    assert!(failed > 500 && done > 20, "{failed} failed, {done} did not");
}

#[test]
fn a_full_disk_is_a_typed_error_and_nothing_is_left() {
    let disk = SimDisk::new(DiskOptions::default());
    let log = written(&disk);
    log.sync().unwrap();
    let mut free = 0;
    loop {
        disk.set_free(Some(free));
        match log.backup(BACKUP) {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Full, "{free} bytes free: {error}"),
            Ok(_) => break,
        }
        assert!(!has_files(&disk, "/backups"), "{free} bytes free");
        assert!(disk.metadata(Path::new("/backups")).is_err(), "{free} bytes free");
        free += 4096;
    }
    assert!(free > 4096);
    assert_eq!(disk.audit(), None);
}

/// Both logs change everything they can, and neither sees it in the other.
#[test]
fn files_that_are_shared_are_never_changed() {
    let live_on = |log: &Log, word: &str| {
        for round in 0..60 {
            let partition = log.topic("a").unwrap().partition(round % 2).unwrap();
            partition.append_all([&*format!("{word} {round} of some length")]).unwrap();
            if round % 20 == 0 {
                log.maintain().unwrap();
            }
        }
        log.alter_topic("a", small().set("index.interval.bytes", "0").unwrap().partitions(2)).unwrap();
        log.delete_before("a", 0, Offset(7)).unwrap();
        log.sync().unwrap();
        log.maintain().unwrap();
    };
    for first in [LOG, BACKUP] {
        let disk = SimDisk::new(DiskOptions::default());
        let log = written(&disk);
        assert!(log.backup(BACKUP).unwrap().linked_files > 0);
        log.close().unwrap();
        let other = if first == LOG { BACKUP } else { LOG };
        let there = |disk: &SimDisk| {
            let mut files = disk.image().files();
            files.retain(|path, _| path.starts_with(other));
            files
        };
        let before = there(&disk);
        let changing = builder(&disk, first).strict().open().unwrap();
        live_on(&changing, "more");
        // A process that dies, and one that comes after it and finds no seals and no checkpoints.
        let disk = disk.kill();
        for path in disk.image().files().into_keys().filter(|path| path.starts_with(first)) {
            if path.extension().is_some_and(|kind| kind == "seal") || path.ends_with("checkpoints") {
                disk.remove_file(&path).unwrap();
            }
        }
        let changing = builder(&disk, first).open().unwrap();
        live_on(&changing, "again");
        changing.delete_topic("a").unwrap();
        changing.close().unwrap();
        assert!(there(&disk) == before, "{other} has changed with {first}");
        assert!(!contents(&builder(&disk, other).strict().open().unwrap())["a-1"].is_empty());
        assert_eq!(disk.audit(), None);
    }
}

/// A salvage goes on in a segment that was sealed once: there the file, which is the other log's, too, was cut.
#[test]
fn a_salvage_cuts_a_copy_of_a_file_that_is_shared() {
    for salvaged in [LOG, BACKUP] {
        let disk = SimDisk::new(DiskOptions::default());
        let log = written(&disk);
        log.backup(BACKUP).unwrap();
        log.close().unwrap();
        let shared = |dir: &str| PathBuf::from(dir).join("a-0/00000000000000000003.log");
        let first = disk.open(&shared(salvaged), Open::Write).unwrap();
        assert_eq!(first.metadata().unwrap().links, 2, "it is finished, and so it was linked");
        let len = first.metadata().unwrap().len;
        write_all_at(&*first, b"rot", len - 3).unwrap();
        first.sync().unwrap();
        drop(first);
        let disk = disk.kill();
        for path in ["clean", "checkpoints", "a-0/00000000000000000003.seal"] {
            disk.remove_file(&Path::new(salvaged).join(path)).unwrap();
        }
        // With the segments behind it gone, it is the last.
        let later = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            path.starts_with(Path::new(salvaged).join("a-0"))
                && name.ends_with(".log")
                && *name > *"00000000000000000003.log"
        };
        for path in disk.image().files().into_keys().filter(later) {
            disk.remove_file(&path).unwrap();
        }
        let other = if salvaged == LOG { BACKUP } else { LOG };
        let before = disk.image().files()[&shared(other)].clone();
        let log = builder(&disk, salvaged).recovery(RecoveryMode::Salvage).open().unwrap();
        let partition = log.topic("a").unwrap().partition(0).unwrap();
        assert!(partition.offsets().end < Offset(7), "it was cut");
        let held = partition.read(Offset(3)).unwrap();
        drop(probe::registry::take_marks());
        for _ in 0..3 {
            partition.append_all(["in the place of what was cut"]).unwrap();
        }
        assert!(probe::registry::take_marks().contains_key("disk.unshared"));
        assert_eq!(values(&partition).last().unwrap(), "in the place of what was cut");
        assert!(held.iter().count() > 0);
        log.sync().unwrap();
        assert!(disk.image().files()[&shared(other)] == before, "{other} was cut, too");
        assert!(disk.image().files()[&shared(salvaged)] != before);
    }
}

#[test]
fn a_backup_goes_where_nothing_is_and_not_into_the_log() {
    let disk = SimDisk::new(DiskOptions::default());
    let log = written(&disk);
    disk.create_dir(Path::new("/full")).unwrap();
    drop(disk.open(Path::new("/full/file"), Open::CreateNew).unwrap());
    for (dir, reason) in [
        ("/full", "it is not empty"),
        ("/full/file", "it is not a directory"),
        (LOG, "it lies in the directory of the log"),
        ("/log/backup", "it lies in the directory of the log"),
        ("/log/a-0/and/deeper", "it lies in the directory of the log"),
        ("/", "it is not empty"),
    ] {
        let before = disk.image().digest();
        match log.backup(dir) {
            Err(Error::BackupTarget { path, reason: why }) => assert_eq!((path, why), (dir.into(), reason)),
            other => panic!("{dir}: {other:?}"),
        }
        assert_eq!(disk.image().digest(), before, "{dir}");
    }
    disk.create_dir(Path::new("/there")).unwrap();
    let held = disk.lock(Path::new("/there/LOCK"), Lock::Exclusive).unwrap();
    assert!(matches!(log.backup("/there"), Err(Error::Locked { .. })));
    drop(held);
    log.backup("/there").unwrap();
    assert!(matches!(log.backup("/there"), Err(Error::BackupTarget { .. })));
    let again = builder(&disk, "/there").open().unwrap();
    again.backup("/log2").unwrap();
    assert_eq!(contents(&builder(&disk, "/log2").open().unwrap()), contents(&log), "a backup of a backup");
}

/// What a killed process has staged is in memory of the one that only reads: it is in the backup, too.
#[test]
fn a_log_that_is_open_read_only_can_be_backed_up_with_what_is_staged() {
    let disk = SimDisk::new(DiskOptions::default());
    let log = written(&disk);
    let found = disk.kill();
    disk.power_off();
    drop(log);
    let log = builder(&found, LOG).read_only().strict().open().unwrap();
    let before = contents(&log);
    assert!(before["a-0"].contains(&"staged".into()));
    let files = |disk: &SimDisk| {
        let mut files = disk.image().files();
        files.retain(|path, _| path.starts_with(LOG));
        files
    };
    let (here, backup) = (files(&found), log.backup(BACKUP).unwrap());
    assert!(files(&found) == here, "the log was changed");
    assert!(backup.linked_files > 0);
    let copy = builder(&found, BACKUP).strict().open().unwrap();
    assert_eq!(contents(&copy), before);
}

#[test]
fn a_damaged_partition_is_left_out_and_stays_damaged_in_the_backup() {
    let disk = SimDisk::new(DiskOptions::default());
    written(&disk).close().unwrap();
    disk.remove_file(Path::new("/log/a-1/partition.metadata")).unwrap();
    let log = builder(&disk, LOG).open().unwrap();
    let backup = log.backup(BACKUP).unwrap();
    assert_eq!(backup.left_out.len(), 1);
    assert_eq!(backup.left_out[0].partition.as_ref().unwrap().to_string(), "a-1");
    let copy = builder(&disk, BACKUP).open().unwrap();
    assert_eq!(copy.damaged().len(), 1);
    let a = copy.topic("a").unwrap();
    assert!(a.partition(1).is_err());
    assert_eq!(values(&a.partition(0).unwrap()), values(&log.topic("a").unwrap().partition(0).unwrap()));
}
