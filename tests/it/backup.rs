//! Backups of a log under full load: each holds a prefix of every partition, and lives on beside the log.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use chiplog::{
    Ack, Durability, Error, GroupConfig, Log, LogBuilder, Offset, Partition, Record, Topic, TopicConfig,
    VerifyOptions,
};

use crate::support::{by_hand, files, values};

const PARTITIONS: u32 = 4;
/// How many are made, unless `BACKUPS` says otherwise.
const BACKUPS: u64 = 8;
const GROUPS: [&str; 3] = ["billing", "audit", "search"];

/// The record at an offset of a partition, whatever the length.
fn value(partition: u32, offset: u64) -> String {
    let len = offset.wrapping_mul(0x9E37_79B9).rotate_left(7) % 90;
    format!("{partition} {offset} {}", "x".repeat(len as usize))
}

fn small() -> TopicConfig {
    TopicConfig::default()
        .partitions(PARTITIONS)
        .segment_bytes(64 << 10)
        .segment_index_bytes(4 << 10)
        .retention_bytes(256 << 10)
}

fn builder(dir: &Path) -> LogBuilder {
    Log::builder(dir)
        .groups(GroupConfig::default().offsets_partitions(3))
        .retention_interval(Duration::from_millis(20))
}

fn partition(topic: &Topic, number: u32) -> Partition {
    topic.partition(number).unwrap()
}

/// What others do to a log while it is backed up.
struct Load<'a> {
    log: &'a Log,
    is_over: AtomicBool,
    /// Up to where each partition was acknowledged.
    acknowledged: [AtomicU64; PARTITIONS as usize],
    committed: AtomicU64,
}

impl Load<'_> {
    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    /// One writer a partition: single records, which are staged, batches, and now and then a wait for a sync.
    fn append(&self, topic: &Topic, number: u32) {
        let partition = partition(topic, number);
        let (mut next, mut synced) = (0, 0);
        while self.goes_on() {
            let count = if next % 7 == 0 { 5 } else { 1 };
            let batch: Vec<String> = (next..next + count).map(|offset| value(number, offset)).collect();
            let appended = match &batch[..] {
                [one] => partition.append(one.as_str()).unwrap(),
                all => partition.append_all(all.iter().map(|value| Record::new(value.as_bytes()))).unwrap(),
            };
            assert_eq!(appended.offset(), Offset(next));
            next += count;
            // As fast as maintenance can follow: each segment that it has not finished is an open file.
            while partition.segments().len() > 16 && self.goes_on() {
                thread::sleep(Duration::from_millis(1));
            }
            if next >= synced + 200 {
                appended.wait(Ack::Synced).unwrap();
                synced = next;
            }
            self.acknowledged[number as usize].store(next, Ordering::SeqCst);
        }
    }

    /// Groups that commit how far they have come: to the end.
    fn commit(&self, topic: &Topic) {
        while self.goes_on() {
            for (group, number) in GROUPS.into_iter().zip((0..PARTITIONS).cycle().skip(1)) {
                let end = partition(topic, number).offsets().end;
                self.log.group(group).unwrap().commit("events", number, end).unwrap();
                self.committed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Topics that come and go, and one that loses its front.
    fn change(&self) {
        let mut round = 0_u64;
        while self.goes_on() {
            let name = format!("passing-{}", round % 3);
            let passing = self.log.create_topic(&name, TopicConfig::default()).unwrap();
            passing.append("soon gone").unwrap();
            self.log.group("passing").unwrap().commit(&name, 0, Offset(1)).unwrap();
            let front = partition(&self.log.topic("events").unwrap(), 0).offsets();
            let to = front.start + (front.end - front.start) / 2;
            self.log.delete_before("events", 0, to).unwrap();
            self.log.delete_topic(&name).unwrap();
            round += 1;
        }
    }
}

/// Backups while threads append to four partitions (staged, batched and synced), segments roll, retention removes
/// the oldest, groups commit, and topics are made and deleted.
#[test]
fn backups_under_full_load_each_hold_a_prefix_of_every_partition() {
    let backups = env::var("BACKUPS").map_or(BACKUPS, |count| count.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let log = builder(&dir.path().join("log")).open().unwrap();
    let topic = log.create_topic("events", small()).unwrap();
    let load = Load {
        log: &log,
        is_over: AtomicBool::new(false),
        acknowledged: Default::default(),
        committed: AtomicU64::new(0),
    };
    let (mut linked, mut copied, mut judged) = (0, 0, 0);
    thread::scope(|scope| {
        let (_ends, began) = (EndsLoad(&load.is_over), Instant::now());
        for number in 0..PARTITIONS {
            let (load, topic) = (&load, &topic);
            scope.spawn(move || load.append(topic, number));
        }
        scope.spawn(|| load.commit(&topic));
        scope.spawn(|| load.change());
        while load.acknowledged.iter().any(|end| end.load(Ordering::SeqCst) < 2_000) {
            assert!(began.elapsed() < Duration::from_secs(100), "the load does not come up");
            thread::yield_now();
        }
        for round in 0..backups {
            let before: Vec<u64> = load.acknowledged.iter().map(|end| end.load(Ordering::SeqCst)).collect();
            let to = dir.path().join(format!("backup-{round}"));
            let backup = log.backup(&to).unwrap();
            assert!(backup.left_out.is_empty());
            (linked, copied) = (linked + backup.linked_files, copied + backup.copied_files);
            let held: Vec<(u64, u64)> = check(&to, &before);
            let found = backup.partitions.iter().filter(|held| *held.partition.topic == *"events");
            let told: Vec<(u64, u64)> = found.map(|held| (held.start.0, held.end.0)).collect();
            assert_eq!(told, held);
            fs::remove_dir_all(&to).unwrap();
            judged += 1;
        }
    });
    assert!(linked > 2 * backups && copied > 2 * backups, "{linked} linked, {copied} copied");
    assert!(load.committed.load(Ordering::Relaxed) > backups);
    // The log itself has lost nothing of what it keeps.
    let ends = load.acknowledged.iter().map(|end| end.load(Ordering::SeqCst)).collect::<Vec<_>>();
    log.close().unwrap();
    let log = builder(&dir.path().join("log")).read_only().strict().open().unwrap();
    for number in 0..PARTITIONS {
        let partition = partition(&log.topic("events").unwrap(), number);
        assert_eq!(partition.offsets().end.0, ends[number as usize]);
        check_records(&partition, number);
    }
    println!("count backups {judged} {backups}");
}

/// Ends the threads whatever comes.
struct EndsLoad<'a>(&'a AtomicBool);

impl Drop for EndsLoad<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Opens a backup, has it verified, compares it with what was to be in it, and goes on in it.
fn check(dir: &Path, acknowledged: &[u64]) -> Vec<(u64, u64)> {
    let copy = by_hand(dir).strict().open().unwrap();
    let report = copy.verify(&VerifyOptions::default()).unwrap();
    assert_eq!(report.findings(), []);
    let topic = copy.find_topic("events").unwrap();
    let mut held = Vec::new();
    for (number, acknowledged) in (0..PARTITIONS).zip(acknowledged) {
        let partition = partition(&topic, number);
        let offsets = partition.offsets();
        assert!(offsets.end.0 >= *acknowledged, "{offsets:?}, and {acknowledged} was acknowledged before");
        assert_eq!(offsets.synced, offsets.end);
        check_records(&partition, number);
        held.push((offsets.start.0, offsets.end.0));
    }
    assert!(report.records() >= held.iter().map(|(start, end)| end - start).sum::<u64>(), "{report:?}");
    for group in copy.groups().unwrap() {
        for (at, committed) in copy.group(&group).unwrap().offsets().unwrap() {
            // Of a topic that is gone nothing may be left.
            let topic = copy.find_topic(&at.topic).ok_or_else(|| format!("{group} has an offset of {at}")).unwrap();
            let end = partition(&topic, at.partition).offsets().end;
            assert!(committed.offset <= end, "{group} is at {} of {at}, which ends at {end}", committed.offset);
        }
    }
    for number in 0..PARTITIONS {
        let partition = partition(&topic, number);
        assert_eq!(partition.append("more").unwrap().offset().0, held[number as usize].1);
    }
    copy.close().unwrap();
    let copy = by_hand(dir).strict().open().unwrap();
    let first = partition(&copy.find_topic("events").unwrap(), 0);
    assert_eq!(values(&first).last().map(String::as_str), Some("more"));
    held
}

/// Whether every record from the start to the end is there, and is what was appended at its offset.
fn check_records(partition: &Partition, number: u32) {
    let offsets = partition.offsets();
    let mut at = offsets.start;
    while at < offsets.end {
        let records = partition.read(at).unwrap();
        for record in &records {
            assert_eq!(record.offset, at);
            assert_eq!(record.value, Some(value(number, at.0).as_bytes()), "offset {at} of {number}");
            at = at + 1;
        }
        assert_eq!(records.next_offset(), at);
    }
}

#[test]
fn finished_segments_are_the_same_files_and_neither_log_changes_them() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (dir.path().join("log"), dir.path().join("backup"));
    let log = by_hand(&here).open().unwrap();
    let durable = small().segment_bytes(4 << 10).durability(Durability::Each);
    for config in [("events", small().segment_bytes(4 << 10)), ("durable", durable)] {
        let topic = log.create_topic(config.0, config.1.retention_bytes(None)).unwrap();
        for offset in 0..400 {
            partition(&topic, 0).append(value(0, offset).as_str()).unwrap();
        }
    }
    let backup = log.backup(&there).unwrap();
    log.close().unwrap();
    let is_shared = |path: &Path| fs::metadata(path).unwrap().nlink() == 2;
    let first = "events-0/00000000000000000000.log";
    assert!(is_shared(&here.join(first)) && backup.linked_files > 20, "{backup:?}");
    let last_of = |dir: &Path| {
        let logs = files(dir).into_keys().filter(|name| name.starts_with("events-0/") && name.ends_with(".log"));
        dir.join(logs.max().unwrap())
    };
    assert!(!is_shared(&last_of(&here)) && !is_shared(&last_of(&there)));

    let before = files(&here);
    let copy = by_hand(&there).open().unwrap();
    for name in ["events", "durable"] {
        let topic = copy.topic(name).unwrap();
        for offset in 400..800 {
            partition(&topic, 0).append(value(0, offset).as_str()).unwrap();
        }
        copy.delete_before(name, 0, Offset(500)).unwrap();
    }
    copy.maintain().unwrap();
    copy.close().unwrap();
    assert!(files(&here) == before, "the log has changed with its backup");
    let log = by_hand(&here).strict().open().unwrap();
    for name in ["events", "durable"] {
        let partition = partition(&log.topic(name).unwrap(), 0);
        assert_eq!(partition.offsets().end, Offset(400));
        check_records(&partition, 0);
    }
}

#[test]
fn a_backup_is_not_made_into_the_log_by_way_of_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().join("log");
    let log = by_hand(&here).open().unwrap();
    log.topic("events").unwrap().append("one").unwrap();
    let link = dir.path().join("elsewhere");
    std::os::unix::fs::symlink(here.join("events-0"), &link).unwrap();
    let before = files(&here);
    for inside in [link.join("backup"), here.join("../log/backup"), here.clone()] {
        let refused = log.backup(&inside);
        assert!(matches!(refused, Err(Error::BackupTarget { .. })), "{}: {refused:?}", inside.display());
    }
    assert!(files(&here) == before);
    log.backup(here.join("../backup")).unwrap();
    assert_eq!(
        values(&partition(&Log::open(dir.path().join("backup")).unwrap().topic("events").unwrap(), 0)),
        ["one"]
    );
}
