//! The log under crashes and errors at every call, on the simulated disk.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests fail as tests do")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::coordinate::offsets_config;
use super::names::OFFSETS_TOPIC;
use super::{Background, Log, Staging};
use crate::config::{Durability, GroupConfig, TopicConfig};
use crate::disk::Disk;
use crate::error::{ErrorKind, Result};
use crate::group::GroupOffset;
use crate::partition::Ack;
use crate::record::Record;
use crate::sim::{DiskOptions, Errno, Fault, Record as Recording, SimDisk, SimEntropy, Times};
use crate::types::Offset;

fn open(disk: &Arc<SimDisk>) -> Result<Log> {
    builder(disk).open()
}

/// Two lives of a log must not draw the same ids.
static OPENED: AtomicU64 = AtomicU64::new(1);

fn builder(disk: &Arc<SimDisk>) -> super::LogBuilder {
    let (clock, disk) = (disk.clock(), Arc::clone(disk));
    let groups = GroupConfig::default().offsets_partitions(1);
    Log::builder("/log")
        .disk(disk)
        .clock(clock)
        .entropy(Arc::new(SimEntropy::new(OPENED.fetch_add(1, Ordering::Relaxed))))
        .background(Background::Caller)
        .staging(Staging::Off)
        .groups(groups)
        .offsets_topic(offsets_config(&groups).segment_bytes(8192).set("segment.index.bytes", "240").unwrap())
        .strict()
}

/// Little segments, whose buffers are little.
fn small() -> TopicConfig {
    TopicConfig::default().segment_bytes(4096).set("segment.index.bytes", "240").unwrap()
}

/// A disk with a log of nothing but a small topic for groups.
fn disk() -> Arc<SimDisk> {
    let disk = SimDisk::new(DiskOptions::default());
    let log = open(&disk).unwrap();
    log.topic(OFFSETS_TOPIC).unwrap();
    log.close().unwrap();
    disk.kill()
}

/// The life of a topic, and of another of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Create(u32),
    Append(&'static str),
    Alter(u32),
    Commit(u64),
    Delete,
}

const LIFE: [Step; 7] = [
    Step::Create(2),
    Step::Append("x"),
    Step::Alter(3),
    Step::Commit(7),
    Step::Delete,
    Step::Create(1),
    Step::Append("y"),
];

impl Step {
    fn apply(self, log: &Log) -> Result<()> {
        let config = small();
        match self {
            Self::Create(count) => log.create_topic("a", config.partitions(count)).map(drop),
            Self::Append(value) => log.append(Record::new(value).key("k").to("a"))?.wait(Ack::Synced),
            Self::Alter(count) => log.alter_topic("a", config.partitions(count)),
            Self::Commit(offset) => log.group("g")?.commit("a", 0, Offset(offset)),
            Self::Delete => log.delete_topic("a"),
        }
    }
}

/// What there is to see of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Seen {
    partitions: Option<u32>,
    values: Vec<String>,
    committed: Option<u64>,
}

impl Seen {
    fn after(&self, step: Step) -> Self {
        let mut seen = self.clone();
        match step {
            Step::Create(count) | Step::Alter(count) => seen.partitions = Some(count),
            Step::Append(value) => seen.values.push(value.into()),
            Step::Commit(offset) => seen.committed = Some(offset),
            Step::Delete => seen = Self::default(),
        }
        seen
    }

    fn of(log: &Log) -> Self {
        let topic = log.find_topic("a");
        let mut seen = Self { partitions: topic.as_ref().map(super::Topic::partition_count), ..Self::default() };
        for number in 0..seen.partitions.unwrap_or(0) {
            let records = topic.as_ref().unwrap().partition(number).unwrap().read(Offset::ZERO).unwrap();
            for record in &records {
                let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                // An append that was repeated may be there twice.
                if !seen.values.contains(&value) {
                    seen.values.push(value);
                }
            }
        }
        let committed = log.group("g").unwrap().committed("a", 0).unwrap();
        seen.committed = committed.map(|committed| committed.offset.0);
        seen
    }
}

/// Opens what a crash or kill left, looks, and checks that the log is good for more.
fn look(disk: &Arc<SimDisk>) -> Seen {
    let log = open(disk).expect("it opens");
    let seen = Seen::of(&log);
    let left: Vec<_> =
        disk.image().files().into_keys().filter(|path| path.to_string_lossy().contains("-delete")).collect();
    assert!(left.is_empty(), "{left:?}");
    log.append(Record::new("more").key("k").to("a")).unwrap().wait(Ack::Synced).unwrap();
    log.close().unwrap();
    let log = open(disk).unwrap();
    assert!(Seen::of(&log).values.contains(&"more".to_owned()));
    assert_eq!(Seen::of(&log).committed, seen.committed);
    assert_eq!(disk.audit(), None);
    seen
}

#[test]
fn a_crash_at_any_call_of_a_topics_life_finds_it_before_or_after_that_step() {
    let disk = disk();
    disk.record(Recording::All);
    let log = open(&disk).unwrap();
    let mut ends = vec![disk.calls()];
    let mut states = vec![Seen::default()];
    for step in LIFE {
        step.apply(&log).unwrap();
        ends.push(disk.calls());
        states.push(states.last().unwrap().after(step));
    }
    log.close().unwrap();
    let mut count = 0;
    for moment in disk.take_moments().into_iter().filter(|moment| moment.call >= ends[0]) {
        let done = ends.iter().filter(|end| **end <= moment.call).count() - 1;
        let allowed = &states[done..(done + 2).min(states.len())];
        let clock = disk.clock().fork();
        let mut found = vec![("kill".to_owned(), SimDisk::on(moment.image.clone(), Arc::clone(&clock)))];
        if !moment.during {
            let crash = |seed| (format!("crash {seed}"), SimDisk::on(moment.image.crash(seed), clock.fork()));
            found.extend((0..4).map(crash));
        }
        for (how, disk) in found {
            let seen = look(&disk);
            assert!(allowed.contains(&seen), "{how} at call {}: {seen:?}, not {allowed:?}", moment.call);
            count += 1;
        }
    }
    assert!(count > 300, "{count}");
}

/// A deletion that failed after its renaming said nothing, records went on being promised, and the
/// next crash found the topic deleted.
#[test]
fn an_error_at_any_call_of_a_topics_life_leaves_it_before_or_after_that_step_and_can_be_repeated() {
    let calls = {
        let disk = disk();
        let log = open(&disk).unwrap();
        LIFE.iter().for_each(|step| step.apply(&log).unwrap());
        disk.calls()
    };
    for (errno, times) in [(Errno::Io, Times::Once), (Errno::Full, Times::Dead), (Errno::Io, Times::Dead)] {
        for call in 0..calls {
            live_with_error(call, errno, times);
        }
    }
}

fn live_with_error(call: u64, errno: Errno, times: Times) {
    let disk = disk();
    disk.inject(call, Fault::Error(errno), times);
    let Ok(mut log) = open(&disk) else {
        disk.heal();
        return drop(look(&disk));
    };
    let mut now = Seen::default();
    for step in LIFE {
        let next = now.after(step);
        if let Err(error) = step.apply(&log) {
            let context = format!("{step:?} with {errno:?} {times:?} at call {call}: {error}");
            disk.heal();
            // What is promised from here on must be kept, whatever that error left on the disk.
            let mut allowed = [now.clone(), next.clone()];
            let promised = log.find_topic("a").is_some()
                && log
                    .append(Record::new("z").key("k").to("a"))
                    .is_ok_and(|appended| appended.wait(Ack::Synced).is_ok());
            if promised {
                allowed
                    .iter_mut()
                    .filter(|seen| seen.partitions.is_some())
                    .for_each(|seen| seen.values.push("z".into()));
            }
            for seed in 0..2 {
                let mut seen = look(&disk.crash(seed));
                seen.values.sort();
                assert!(!promised || seen.values.contains(&"z".into()), "{context}: a promise was broken: {seen:?}");
                assert!(allowed.contains(&seen) || !promised && seen.partitions.is_some(), "{context}: {seen:?}");
            }
            if let Err(again) = step.apply(&log) {
                assert_eq!(again.kind(), ErrorKind::Io, "{context}: {again}");
                let _ = log.close();
                log = open(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
                let seen = Seen::of(&log);
                if seen.partitions != next.partitions || matches!(step, Step::Append(_) | Step::Commit(_)) {
                    step.apply(&log).unwrap_or_else(|error| panic!("{context}: {error}"));
                }
            }
        }
        now = next;
    }
    let mut seen = look(&disk.crash(1));
    seen.values.retain(|value| value != "z");
    assert_eq!(seen, now, "{errno:?} {times:?} at call {call}");
    assert_eq!(disk.audit(), None, "{errno:?} {times:?} at call {call}");
}

/// Whatever is done first after an orderly close, the mark is durably gone before any other file differs.
#[test]
fn a_clean_mark_is_there_only_while_every_file_is_as_the_close_left_it() {
    type Change = fn(&Log) -> Result<()>;
    let first_changes: [(&str, Change); 7] = [
        ("append", |log| log.append(Record::new("v").to("a")).map(drop)),
        ("create", |log| log.create_topic("b", TopicConfig::default()).map(drop)),
        ("alter", |log| log.alter_topic("a", TopicConfig::default().partitions(2))),
        ("delete", |log| log.delete_topic("a")),
        ("commit", |log| log.group("g")?.commit("a", 0, Offset(1))),
        ("delete before", |log| log.delete_before("a", 0, Offset(3))),
        ("nothing", |log| log.maintain().map(drop)),
    ];
    let disk = disk();
    let log = open(&disk).unwrap();
    log.create_topic("a", small().segment_bytes(100)).unwrap();
    for value in ["1", "2", "3", "4"] {
        log.append(Record::new(value).to("a")).unwrap();
    }
    log.group("g").unwrap().commit("a", 0, Offset(2)).unwrap();
    log.close().unwrap();
    let mark = Path::new("/log/clean");
    // The lock tells who holds it; what is derived from the batches is vouched for by its digests in the mark.
    let counts = |path: &Path| match path.extension() {
        Some(extension) => extension == "log",
        None => !path.ends_with("LOCK") && !path.ends_with("notes"),
    };
    let closed = |disk: &SimDisk| {
        let mut files = disk.image().files();
        files.retain(|path, _| counts(path));
        files
    };
    let before = closed(&disk);
    assert!(before.contains_key(mark));
    for (name, change) in first_changes {
        let disk = disk.kill();
        disk.record(Recording::All);
        let log = open(&disk).unwrap();
        change(&log).unwrap();
        let is_changed = closed(&disk) != before;
        assert_eq!(is_changed, name != "nothing");
        log.close().unwrap();
        assert!(closed(&disk).contains_key(mark), "after {name}");
        let after = closed(&disk);
        for moment in disk.take_moments() {
            for seed in 0..2 {
                let found = closed(&SimDisk::on(moment.image.crash(seed), disk.clock()));
                let is_as_closed = |then: &std::collections::BTreeMap<_, _>| found == *then;
                let has_mark = found.contains_key(mark);
                assert!(!has_mark || is_as_closed(&before) || is_as_closed(&after), "{name}, call {}", moment.call);
            }
        }
    }
}

/// Two calls that failed in a row made a mark that could not be read pass for gone: it was left beside what was changed.
#[test]
fn a_clean_mark_that_could_not_be_read_is_erased_before_the_first_change() {
    let closed = disk();
    let log = open(&closed).unwrap();
    log.create_topic("a", small()).unwrap().append("one").unwrap();
    log.close().unwrap();
    let mark = Path::new("/log/clean");
    let mut opened = 0;
    for (call, count) in (0..40).flat_map(|call| (1..4).map(move |count| (call, count))) {
        let disk = closed.kill();
        assert!(disk.image().files().contains_key(mark));
        disk.inject(call, Fault::Error(Errno::Io), Times::Next(count));
        let Ok(log) = open(&disk) else { continue };
        opened += u64::from(disk.struck() > 1);
        disk.heal();
        log.append(Record::new("two").to("a")).unwrap();
        assert!(!disk.image().files().contains_key(mark), "{count} from call {call}");
        assert_eq!(disk.audit(), None, "{count} from call {call}");
    }
    assert!(opened > 0);
}

/// Retention by size and age, deletion by hand: a crash finds the old start or the new one, and every record behind it.
#[test]
fn a_crash_during_retention_finds_the_old_start_or_the_new_one() {
    let disk = disk();
    let log = open(&disk).unwrap();
    let config = TopicConfig::default().segment_bytes(200).retention_time(Duration::from_secs(3600));
    let topic = log.create_topic("a", config).unwrap();
    let partition = topic.partition(0).unwrap();
    for number in 0..20 {
        partition.append(number.to_string().as_str()).unwrap();
        disk.clock().advance(Duration::from_secs(60));
    }
    partition.sync().unwrap();
    disk.record(Recording::All);
    let mut starts = vec![partition.offsets().start];
    log.delete_before("a", 0, Offset(3)).unwrap();
    starts.push(partition.offsets().start);
    disk.clock().advance(Duration::from_secs(3600 - 600));
    assert!(log.maintain().unwrap().removed > 0);
    starts.push(partition.offsets().start);
    assert!(starts[1] == Offset(3) && starts[2] > Offset(3) && starts[2] < Offset(20), "{starts:?}");
    disk.clock().advance(Duration::from_secs(7200));
    log.maintain().unwrap();
    starts.push(partition.offsets().start);
    assert_eq!(starts[3], Offset(20), "all are too old");
    for moment in disk.take_moments() {
        for seed in 0..4 {
            let found = SimDisk::on(moment.image.crash(seed), disk.clock().fork());
            let log = open(&found).unwrap();
            let partition = log.topic("a").unwrap().partition(0).unwrap();
            let (start, end) = (partition.offsets().start, partition.offsets().end);
            assert!(starts.contains(&start) && end == Offset(20), "{start}..{end} at call {}", moment.call);
            let (mut values, mut at) = (Vec::new(), start);
            while at < end {
                let records = partition.read(at).unwrap();
                values.extend(records.iter().map(|record| record.value.unwrap().to_vec()));
                at = records.next_offset();
            }
            let expected: Vec<_> = (start.0..20).map(|number| number.to_string().into_bytes()).collect();
            assert_eq!(values, expected, "call {}", moment.call);
        }
    }
}

/// A power cut took all that was above a start, and the log was closed before anything else was appended. What recovery
/// had planned was not carried out, so the partition was left without a segment and was not in the mark: with the
/// checkpoints damaged its start was lost, and offsets were given twice.
#[test]
fn a_start_above_what_a_power_cut_left_outlives_the_checkpoints_once_the_log_was_closed() {
    let disk = disk();
    let log = open(&disk).unwrap();
    let partition = log.create_topic("a", small()).unwrap().partition(0).unwrap();
    partition.append_all(["one", "two"]).unwrap();
    partition.append("three").unwrap();
    log.delete_before("a", 0, Offset(2)).unwrap();
    let mut lost = 0;
    for seed in 0..20 {
        let found = disk.crash(seed);
        let log = open(&found).unwrap();
        let partition = log.topic("a").unwrap().partition(0).unwrap();
        assert_eq!(partition.offsets().start, Offset(2), "seed {seed}");
        let end = partition.offsets().end;
        lost += u32::from(partition.segments().is_empty());
        drop(partition);
        log.close().unwrap();
        found.remove_file(Path::new("/log/checkpoints")).unwrap();
        let log = open(&found.kill()).unwrap();
        let partition = log.topic("a").unwrap().partition(0).unwrap();
        assert_eq!(partition.append("four").unwrap().offset(), end, "seed {seed}");
    }
    assert!(lost > 0, "no power cut took the records");
}

#[test]
fn sealed_segments_are_finished_and_synced_by_maintenance() {
    let disk = disk();
    let log = open(&disk).unwrap();
    let topic = log.create_topic("a", TopicConfig::default().segment_bytes(200)).unwrap();
    for _ in 0..10 {
        topic.append("some value").unwrap();
    }
    let sealed = topic.partition(0).unwrap().segments().len() as u64 - 1;
    let maintained = log.maintain().unwrap();
    assert!(sealed > 2 && maintained.finished == sealed, "{maintained:?}");
    let seals = disk.image().files().into_keys().filter(|path| path.extension().is_some_and(|ext| ext == "seal"));
    assert_eq!(seals.count() as u64, sealed);
    assert_eq!(log.maintain().unwrap().finished, 0);
    drop(topic);
    log.close().unwrap();
    disk.audit_closed();
    assert_eq!(disk.audit(), None);
}

/// A segment that cannot be finished, on a full disk, is not tried again at once for ever.
#[test]
fn what_fails_is_tried_again_but_not_at_once() {
    let disk = SimDisk::new(DiskOptions::default());
    let log = open(&disk).unwrap();
    let topic = log.create_topic("a", TopicConfig::default().segment_bytes(200)).unwrap();
    for _ in 0..10 {
        topic.append("some value").unwrap();
    }
    log.sync().unwrap();
    disk.set_free(Some(0));
    assert_eq!(log.maintain().unwrap_err().kind(), ErrorKind::Full);
    let calls = disk.calls();
    let quiet = log.maintain().unwrap();
    assert!(disk.calls() - calls < 5 && quiet.finished == 0 && quiet.next > Duration::from_secs(1), "{quiet:?}");
    disk.set_free(None);
    disk.clock().advance(quiet.next);
    assert!(log.maintain().unwrap().finished > 0);
}

#[test]
fn records_of_a_timed_topic_are_synced_in_time() {
    let disk = disk();
    let log = open(&disk).unwrap();
    let second = Duration::from_secs(1);
    let timed = TopicConfig::default().durability(Durability::Every { records: None, time: Some(second) });
    let partition = log.create_topic("a", timed).unwrap().partition(0).unwrap();
    let mut appended = None;
    for round in 0..40 {
        if round % 3 == 0 && appended.is_none() {
            partition.append("v").unwrap();
            appended = Some((partition.offsets().end, crate::clock::Clock::monotonic(&*disk.clock())));
        }
        let next = log.maintain().unwrap().next;
        disk.clock().advance(next);
        log.maintain().unwrap();
        if let Some((end, at)) = appended {
            let waited = crate::clock::Clock::monotonic(&*disk.clock()) - at;
            let is_synced = partition.offsets().synced >= end;
            assert!(is_synced || waited < second, "{waited:?}");
            appended = appended.filter(|_| !is_synced);
        }
    }
}

#[test]
fn a_read_only_log_changes_nothing_and_needs_no_lock_file() {
    let disk = disk();
    let log = open(&disk).unwrap();
    Step::Create(2).apply(&log).unwrap();
    Step::Append("x").apply(&log).unwrap();
    Step::Commit(7).apply(&log).unwrap();
    drop(log.topic("b").unwrap().append("unsynced").unwrap());
    for without_lock in [false, true] {
        let disk = disk.kill();
        if without_lock {
            crate::disk::Disk::remove_file(&*disk, Path::new("/log/LOCK")).unwrap();
        }
        disk.set_read_only(true);
        let log = builder(&disk).read_only().open().unwrap();
        let seen = Seen::of(&log);
        assert_eq!(seen, Seen { partitions: Some(2), values: vec!["x".into()], committed: Some(7) });
        for refused in [
            Step::Append("y").apply(&log),
            Step::Alter(5).apply(&log),
            Step::Commit(8).apply(&log),
            Step::Delete.apply(&log),
            log.create_topic("c", TopicConfig::default()).map(drop),
            log.delete_before("a", 0, Offset(1)).and_then(|()| log.delete_before("a", 1, Offset(1))),
        ] {
            assert!(refused.is_err());
        }
        log.maintain().unwrap();
        assert_eq!(Seen::of(&log), seen);
        log.close().unwrap();
        assert_eq!(disk.audit(), None);
    }
}

/// A deletion on a full disk needed space for its tombstones before it had freed any: it never came to its end.
#[test]
fn a_deletion_that_the_catalog_has_room_for_comes_to_its_end() {
    let disk = disk();
    let log = open(&disk).unwrap();
    log.create_topic("a", small()).unwrap();
    for _ in 0..20 {
        log.append(Record::new(&[0; 400]).key("k").to("a")).unwrap();
    }
    for group in ["g", "h", "i"] {
        let long = "m".repeat(1000);
        let offsets: Vec<_> = (0..30).map(|number| GroupOffset::new("a", number, Offset(1))).collect();
        log.group(group).unwrap().commit_all(&offsets).unwrap();
        let last = GroupOffset::new("b", 0, Offset(1)).metadata(&long);
        log.group(group).unwrap().commit_all(&[last]).unwrap();
    }
    log.sync().unwrap();
    let (mut refused, mut done) = (0, 0);
    for free in (0..4000).step_by(100) {
        let disk = disk.kill();
        let log = open(&disk).unwrap();
        disk.set_free(Some(free));
        match log.delete_topic("a") {
            Ok(()) => done += 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Full);
                assert!(log.find_topic("a").is_some(), "{free} bytes are free: {error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && done > 20, "{refused} {done}");
}

/// The calls by which the topic is deleted, once the log is open.
fn calls_of_deletion(disk: &SimDisk) -> std::ops::Range<u64> {
    let disk = disk.kill();
    let log = open(&disk).unwrap();
    let began = disk.calls();
    log.delete_topic("a").unwrap();
    began..disk.calls()
}

/// The catalog could not be stored at the end, and the topic was told to be deleted once more. What a group committed in
/// between stayed, for a new topic of the name to find. (Found by operation sequence 3864.)
#[test]
fn what_is_committed_until_a_deletion_comes_to_its_end_is_forgotten_with_it() {
    let disk = disk();
    let log = open(&disk).unwrap();
    LIFE[..4].iter().for_each(|step| step.apply(&log).unwrap());
    log.close().unwrap();
    let calls = calls_of_deletion(&disk);
    let mut committed = 0;
    for call in calls {
        let disk = disk.kill();
        let log = open(&disk).unwrap();
        disk.inject(call, Fault::Error(Errno::Full), Times::Once);
        let failed = log.delete_topic("a").is_err();
        disk.heal();
        if failed && log.find_topic("a").is_none() {
            committed += u32::from(log.group("h").unwrap().commit("a", 1, Offset(1)).is_ok());
            if log.delete_topic("a").is_ok() {
                assert_eq!(log.group("h").unwrap().committed("a", 1).unwrap(), None, "call {call}");
            }
        }
    }
    assert!(committed > 5, "{committed}");
}

/// Also if the last step fails: the tombstones of what groups committed.
#[test]
fn what_was_committed_for_a_topic_is_not_told_from_when_its_deletion_began() {
    let disk = disk();
    let log = open(&disk).unwrap();
    LIFE[..4].iter().for_each(|step| step.apply(&log).unwrap());
    log.group("h").unwrap().commit("b", 0, Offset(3)).unwrap();
    log.close().unwrap();
    let calls = calls_of_deletion(&disk);
    let mut hidden = 0;
    for call in calls {
        let disk = disk.kill();
        let log = open(&disk).unwrap();
        disk.inject(call, Fault::Error(Errno::Io), Times::Dead);
        assert!(log.delete_topic("a").is_err(), "call {call}");
        disk.heal();
        hidden += count_hidden(&log);
        // Nor to who may not remove it.
        let killed = disk.kill();
        hidden += count_hidden(&builder(&killed).read_only().open().unwrap());
        let opening = {
            let disk = disk.kill();
            open(&disk).unwrap();
            0..disk.calls()
        };
        for call in opening.step_by(3) {
            let disk = disk.kill();
            disk.inject(call, Fault::Error(Errno::Io), Times::Dead);
            if let Ok(log) = open(&disk) {
                disk.heal();
                hidden += count_hidden(&log);
            }
        }
    }
    assert!(hidden > 100, "{hidden}");
}

/// If the topic is gone, so are its offsets, or it is not known what is stored. 1 if they were looked for.
fn count_hidden(log: &Log) -> u32 {
    if log.find_topic("a").is_some() {
        return 0;
    }
    let group = log.group("g").unwrap();
    assert!(!group.committed("a", 0).is_ok_and(|told| told.is_some()));
    assert!(!group.offsets().is_ok_and(|told| !told.is_empty()));
    log.groups().map_or(0, |groups| {
        assert_eq!(groups, ["h"]);
        1
    })
}

/// A power cut took records and left the offset that a group had committed past them: those that were appended in their
/// place were never read.
#[test]
fn a_commit_survives_a_power_cut_only_with_the_records_below_it() {
    let disk = disk();
    let log = open(&disk).unwrap();
    let config = TopicConfig::default().partitions(2);
    let topic = log.create_topic("a", config).unwrap();
    for number in 0..2 {
        topic.partition(number).unwrap().append_all(["x", "y", "z"]).unwrap();
    }
    let ends = |log: &Log| [0, 1].map(|number| log.topic("a").unwrap().partition(number).unwrap().offsets().end.0);
    disk.record(Recording::All);
    let offsets = [GroupOffset::new("a", 0, Offset(3)), GroupOffset::new("a", 1, Offset(2))];
    let elsewhere = [GroupOffset::new("a", 2, Offset(7)), GroupOffset::new("b", 0, Offset(9))];
    log.group("g").unwrap().commit_all(&[offsets, elsewhere].concat()).unwrap();
    assert_eq!(log.group("g").unwrap().offsets().unwrap().len(), 4);
    let mut committed = 0;
    for moment in disk.take_moments() {
        for seed in 0..8 {
            let log = open(&SimDisk::on(moment.image.crash(seed), disk.clock().fork())).unwrap();
            if log.group("g").unwrap().committed("a", 0).unwrap().is_some() {
                committed += 1;
                assert_eq!(ends(&log), [3, 3], "call {}, seed {seed}", moment.call);
            }
        }
    }
    assert!(committed > 0);
    let crashed = open(&disk.crash(1)).unwrap();
    assert_eq!(crashed.group("g").unwrap().offsets().unwrap().len(), 4);
}

/// Of a commit that a killed process had not synced, whoever opened the log was told; then a power cut took it.
#[test]
fn an_offset_that_is_told_after_a_kill_survives_a_power_cut() {
    let disk = disk();
    let log = open(&disk).unwrap();
    log.group("g").unwrap().commit("a", 0, Offset(1)).unwrap();
    disk.record(Recording::All);
    log.group("h").unwrap().commit("a", 0, Offset(2)).unwrap();
    let mut unsynced = 0;
    for moment in disk.take_moments() {
        let killed = SimDisk::on(moment.image, disk.clock().fork());
        let groups = |disk: &Arc<SimDisk>, ask: fn(&Log) -> Vec<String>| ask(&open(disk).unwrap());
        let by_offset = |log: &Log| {
            let has_offset = |group: &&str| log.group(group).unwrap().committed("a", 0).unwrap().is_some();
            ["g", "h"].into_iter().filter(has_offset).map(str::to_owned).collect()
        };
        for ask in [|log: &Log| log.groups().unwrap(), by_offset] {
            let disk = killed.kill();
            let log = open(&disk).unwrap();
            let offsets = log.topic(OFFSETS_TOPIC).unwrap().partition(0).unwrap().offsets();
            unsynced += u32::from(offsets.synced < offsets.end);
            let told = ask(&log);
            for seed in 0..4 {
                assert_eq!(groups(&disk.crash(seed), ask), told, "call {}, seed {seed}", moment.call);
            }
        }
    }
    assert!(unsynced > 0, "opening syncs nothing");
}

/// A commit whose sync failed was seen until the log was reopened, and then it was gone.
#[test]
fn an_offset_that_was_not_stored_is_not_shown() {
    let disk = disk();
    let log = open(&disk).unwrap();
    let group = log.group("g").unwrap();
    group.commit("a", 0, Offset(1)).unwrap();
    // The write goes through, the sync does not.
    disk.inject(disk.calls() + 1, Fault::Error(Errno::Io), Times::Dead);
    assert!(group.commit("a", 0, Offset(2)).is_err());
    disk.heal();
    assert_eq!(group.committed("a", 0).unwrap_err().kind(), ErrorKind::Io);
    let found = open(&disk.crash(3)).unwrap().group("g").unwrap().committed("a", 0).unwrap();
    assert!(found.is_some_and(|committed| [Offset(1), Offset(2)].contains(&committed.offset)));
}

/// Maintenance went on with sealed segments, each read as a whole, however long that took; syncs waited, and the close.
#[test]
fn maintenance_stops_between_sealed_segments_and_goes_on_soon() {
    let disk = disk();
    let log = open(&disk).unwrap();
    let topic = log.create_topic("a", TopicConfig::default().segment_bytes(1100)).unwrap();
    (0..6).for_each(|_| drop(topic.append(&[0; 1000]).unwrap()));
    log.sync().unwrap();
    disk.inject(disk.calls(), Fault::Slow(Duration::from_secs(1)), Times::Dead);
    let first = log.maintain().unwrap();
    assert_eq!(first.finished, 1);
    assert!(first.next < Duration::from_secs(1), "{first:?}");
    disk.heal();
    disk.clock().advance(first.next);
    assert_eq!(log.maintain().unwrap().finished, 4);
}
