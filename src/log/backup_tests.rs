//! Backups under crashes and errors at every call, and beside whatever else a log does, on the simulated disk.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::groups::offsets_config;
use super::names::OFFSETS_TOPIC;
use super::{Background, Backup, Log, LogBuilder, Staging};
use crate::config::{Durability, GroupConfig, TopicConfig};
use crate::disk::{DirEntry, Disk, DiskFile, DiskLock, Lock, Metadata, Open, Volume, write_all_at};
use crate::error::{Error, ErrorKind};
use crate::partition::testing::transact;
use crate::partition::{Isolation, Partition, ReadOptions, RecoveryMode};
use crate::probe;
use crate::record::Record;
use crate::segment::pool::Layout;
use crate::sim::{DiskOptions, Errno, Fault, Record as Recording, Rng, SimDisk, SimEntropy, Times};
use crate::types::Offset;

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

#[test]
fn a_log_that_is_closed_meanwhile_gives_up_its_backup() {
    let mut closed = 0;
    for at in 0..60 {
        let disk = SimDisk::new(DiskOptions::default());
        let meddled = Meddled::new(&disk);
        let log = written_on(&meddled);
        let expected = contents(&log);
        let closing = Mutex::new(Some(log.clone()));
        let mut call = 0;
        meddled.meddle(move || {
            call += 1;
            if call == at {
                closing.lock().take().unwrap().close().unwrap();
            }
        });
        match log.backup(BACKUP) {
            Ok(_) => assert!(is_whole(&disk.crash(at), &expected, "closed")),
            Err(Error::Closed) => {
                closed += 1;
                assert!(!has_files(&disk, "/backups"));
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(closed > 20, "{closed}");
}

fn written_on(meddled: &Arc<Meddled>) -> Log {
    filled(builder(&meddled.disk, LOG).disk(Arc::clone(meddled) as Arc<dyn Disk>))
}

#[test]
fn where_nothing_can_be_linked_everything_is_copied() {
    let disk = SimDisk::new(DiskOptions::default());
    let meddled = Meddled::new(&disk);
    let log = written_on(&meddled);
    let linked = log.backup("/linked").unwrap();
    meddled.no_links.store(true, Ordering::Relaxed);
    let copied = log.backup(BACKUP).unwrap();
    assert_eq!((linked.linked_files > 0, copied.linked_files), (true, 0));
    assert_eq!(copied.copied_files, linked.linked_files + linked.copied_files);
    let below = |dir: &str| {
        let files = disk.image().files().into_iter().filter(|(path, _)| path.starts_with(dir));
        let files = files.map(|(path, bytes)| (path.strip_prefix(dir).unwrap().to_owned(), bytes));
        files.collect::<BTreeMap<_, _>>()
    };
    assert!(below("/linked") == below(BACKUP), "the same either way");
    let counted: usize =
        below(BACKUP).iter().filter(|(path, _)| path.iter().count() == 2).map(|file| file.1.len()).sum();
    let metadata = copied.partitions.len() * "version: 0\ntopic_id: ".len() + copied.partitions.len() * 22;
    assert_eq!(copied.copied_bytes as usize + metadata, counted);
}

/// A topic is deleted, and another made of its name, between the moments of two partitions.
#[test]
fn a_topic_deleted_meanwhile_is_not_in_the_backup_nor_what_groups_committed_for_it() {
    let mut left_out = 0;
    for at in 0..80 {
        let disk = SimDisk::new(DiskOptions::default());
        let meddled = Meddled::new(&disk);
        let log = written_on(&meddled);
        let other = log.clone();
        let mut call = 0;
        meddled.meddle(move || {
            call += 1;
            if call == at {
                other.delete_topic("a").unwrap();
                other.create_topic("a", small()).unwrap().append("new").unwrap();
            }
        });
        log.backup(BACKUP).unwrap();
        meddled.stop();
        for round in 0..2 {
            let copy = builder(&disk, BACKUP).strict().open().unwrap();
            let committed = copy.group("g").unwrap().committed("a", 1).unwrap().map(|committed| committed.offset);
            match copy.find_topic("a") {
                // All was over before it began.
                Some(topic) if topic.partition_count() == 1 => {
                    assert_eq!((committed, values(&topic.partition(0).unwrap())), (None, vec!["new".into()]));
                }
                Some(topic) => {
                    assert!(topic.partition_count() == 2 && committed == Some(Offset(9)), "call {at}");
                    assert_eq!(values(&topic.partition(0).unwrap()).len(), 16);
                }
                None => {
                    assert_eq!(committed, None, "call {at}, round {round}");
                    let is_of_a = |path: &PathBuf| path.starts_with(BACKUP) && path.to_string_lossy().contains("/a-");
                    assert!(!disk.image().files().keys().any(is_of_a), "call {at}");
                    left_out += 1;
                }
            }
            copy.close().unwrap();
        }
    }
    assert!(left_out > 10, "{left_out}");
}

/// A transaction goes on between any two steps, in partitions that no producer had written to before.
#[test]
fn a_transaction_that_goes_on_meanwhile_is_in_a_backup_as_a_whole_or_not_at_all() {
    for at in 1..30 {
        let disk = SimDisk::new(DiskOptions::default());
        let meddled = Meddled::new(&disk);
        let log = written_on(&meddled);
        let mut producer = log.producer().transactional("id").unwrap();
        let mut call = 0;
        meddled.meddle(move || {
            call += 1;
            if call == at {
                let mut transaction = producer.begin().unwrap();
                for topic in ["a", "b"] {
                    transaction.send(Record::new("moved").key("k").to(topic)).unwrap();
                }
                transaction.commit().unwrap();
            }
        });
        log.backup(BACKUP).unwrap();
        meddled.stop();
        let copy = builder(&disk, BACKUP).strict().open().unwrap();
        let found = ["a", "b"].map(|name| {
            let topic = copy.find_topic(name).unwrap();
            (0..topic.partition_count())
                .any(|number| values(&topic.partition(number).unwrap()).contains(&"moved".into()))
        });
        assert_eq!(found[0], found[1], "call {at}");
    }
}

/// Records by partition, as they were appended: the offset is the place in the list.
type Appended = BTreeMap<u32, Vec<String>>;

/// Between any two steps of a backup others append, roll, commit, delete and add partitions. Whatever they do, each
/// partition in the backup is a piece of the real one without a gap, from a start it had up to an end it had, and a group
/// is within the partition.
#[test]
fn whatever_happens_meanwhile_a_backup_holds_a_prefix_of_each_partition() {
    let (mut moved, mut removed) = (0, 0);
    for seed in 0..150 {
        let disk = SimDisk::new(DiskOptions::default());
        let meddled = Meddled::new(&disk);
        let log = builder(&disk, LOG).disk(Arc::clone(&meddled) as Arc<dyn Disk>).open().unwrap();
        let mut rng = Rng::stream(seed, "before");
        let durability = *rng.pick(&[Durability::Os, Durability::Each]);
        let config = small().retention_bytes(600).durability(durability).partitions(3);
        log.create_topic("a", config).unwrap();
        let appended = Arc::new(Mutex::new(Appended::new()));
        for _ in 0..rng.between(10, 60) {
            meddle_once(&log, &appended, &mut rng);
        }
        let before: Vec<_> = ends(&log);
        let (other, all) = (log.clone(), Arc::clone(&appended));
        let mut rng = Rng::stream(seed, "meanwhile");
        meddled.meddle(move || {
            for _ in 0..rng.below(4) {
                meddle_once(&other, &all, &mut rng);
            }
        });
        drop(probe::registry::take_marks());
        let backup = log.backup(BACKUP).unwrap();
        meddled.stop();
        removed += u64::from(probe::registry::take_marks().contains_key("backup.removed_meanwhile"));
        let after: Vec<_> = ends(&log);
        let copy = builder(&disk.crash(seed), BACKUP).strict().open().unwrap();
        let appended = appended.lock();
        check_prefixes(&backup, &copy, &appended, &before, &after, seed);
        moved += u64::from(before != after);
        assert_eq!(disk.audit(), None, "seed {seed}");
    }
    assert!(moved > 100 && removed > 5, "{moved} moved, {removed} lost segments");
}

fn ends(log: &Log) -> Vec<(Offset, Offset)> {
    let topic = log.topic("a").unwrap();
    let offsets = (0..topic.partition_count()).map(|number| topic.partition(number).unwrap().offsets());
    offsets.map(|offsets| (offsets.start, offsets.end)).collect()
}

fn check_prefixes(
    backup: &Backup,
    copy: &Log,
    appended: &Appended,
    before: &[(Offset, Offset)],
    after: &[(Offset, Offset)],
    seed: u64,
) {
    let held: Vec<_> = backup.partitions.iter().filter(|held| *held.partition.topic == *"a").collect();
    assert!(held.len() >= before.len() && held.len() <= after.len(), "seed {seed}");
    for held in held {
        let number = held.partition.partition;
        let partition = copy.topic("a").unwrap().partition(number).unwrap();
        let offsets = partition.offsets();
        assert_eq!((offsets.start, offsets.end), (held.start, held.end), "seed {seed}");
        let (first, last) = (before.get(number as usize), after[number as usize]);
        let (start, end) = first.copied().unwrap_or_default();
        assert!(
            start <= held.start && held.start <= last.0.max(start),
            "seed {seed}: {held:?} of {first:?} and {last:?}"
        );
        assert!(end <= held.end && held.end <= last.1, "seed {seed}: {held:?} of {first:?} and {last:?}");
        let real = appended.get(&number).map_or(&[][..], Vec::as_slice);
        assert_eq!(values(&partition), real[held.start.0 as usize..held.end.0 as usize], "seed {seed}: {held:?}");
        if let Some(committed) = copy.group("g").unwrap().committed("a", number).unwrap() {
            assert!(committed.offset <= held.end, "seed {seed}: {} of {held:?}", committed.offset);
        }
        assert_eq!(partition.append("more").unwrap().offset(), held.end);
    }
}

/// Something that a log does while another thread makes a backup of it.
fn meddle_once(log: &Log, appended: &Mutex<Appended>, rng: &mut Rng) {
    let topic = log.topic("a").unwrap();
    let number = rng.below(topic.partition_count().into()) as u32;
    let partition = topic.partition(number).unwrap();
    match rng.weighted(&[12, 6, 3, 3, 2, 1, 2]) {
        0 => {
            let value = format!("{number} {}", rng.draw());
            assert_eq!(partition.append(&*value).unwrap().offset().0, push(appended, number, &value));
        }
        1 => {
            let value = format!("{number} {}", "x".repeat(rng.below(150) as usize));
            assert_eq!(partition.append_all([&*value]).unwrap().offset().0, push(appended, number, &value));
        }
        2 => log.group("g").unwrap().commit("a", number, partition.offsets().end).unwrap(),
        3 => {
            // What retention looks at every five minutes.
            log.maintain().unwrap();
        }
        4 => {
            let offsets = partition.offsets();
            let to = offsets.start + rng.below(offsets.end - offsets.start + 1);
            log.delete_before("a", number, to).unwrap();
        }
        5 => {
            let config = topic.config();
            log.alter_topic("a", config.partitions((config.partitions + 1).min(5))).unwrap();
        }
        _ => log.sync().unwrap(),
    }
}

fn push(appended: &Mutex<Appended>, number: u32, value: &str) -> u64 {
    let mut appended = appended.lock();
    let values = appended.entry(number).or_default();
    values.push(value.to_owned());
    values.len() as u64 - 1
}

/// A disk that has somebody else do something before each change of names below the directory of a backup.
struct Meddled {
    disk: Arc<SimDisk>,
    work: Mutex<Option<Box<dyn FnMut() + Send>>>,
    no_links: AtomicBool,
    stopped: AtomicBool,
}

impl fmt::Debug for Meddled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meddled")
    }
}

impl Meddled {
    fn new(disk: &Arc<SimDisk>) -> Arc<Self> {
        let (no_links, stopped) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { disk: Arc::clone(disk), work: Mutex::new(None), no_links, stopped })
    }

    fn meddle(&self, work: impl FnMut() + Send + 'static) {
        *self.work.lock() = Some(Box::new(work));
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        *self.work.lock() = None;
    }

    fn turn(&self, path: &Path) {
        if !path.starts_with("/backups") {
            return;
        }
        // What it does leads here again, and is not to go on for ever.
        let work = self.work.lock().take();
        if let Some(mut work) = work {
            work();
            if !self.stopped.load(Ordering::Relaxed) {
                *self.work.lock() = Some(work);
            }
        }
    }
}

impl Disk for Meddled {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        if how == Open::CreateNew {
            self.turn(path);
        }
        self.disk.open(path, how)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.turn(path);
        self.disk.create_dir(path)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.turn(to);
        match self.no_links.load(Ordering::Relaxed) {
            true => Err(io::ErrorKind::CrossesDevices.into()),
            false => self.disk.link(from, to),
        }
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.disk.list(dir)
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.disk.metadata(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.turn(dir);
        self.disk.sync_dir(dir)
    }
    fn lock(&self, path: &Path, how: Lock) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.disk.lock(path, how)
    }
    fn volume(&self, dir: &Path) -> io::Result<Volume> {
        self.disk.volume(dir)
    }
}
