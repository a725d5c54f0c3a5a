//! A broker's directory is taken over whole or not at all: whatever crash, error or refusal comes between.

mod broker;
mod dir;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chiplog::disk::{Disk, Lock};
use chiplog::sim::{Errno, Fault, Image, Record as Recording, SimClock, SimDisk, SimEntropy, Times, mix};
use chiplog::{
    Adoption, Background, Cleanup, Error, ErrorKind, Isolation, Log, LogBuilder, Offset, Partition, ReadOptions,
    RecoveryMode, Result, Staging, Timestamp, TopicConfig,
};

use broker::{assert_loads, ends_with_a_batch};
use dir::{BrokerDir, CLEAN_MARK, DIR, Files, Stopped};

/// Two lives of a log must not draw the same ids.
static OPENED: AtomicU64 = AtomicU64::new(1);

fn builder(disk: &Arc<SimDisk>) -> LogBuilder {
    Log::builder(DIR)
        .disk(Arc::clone(disk) as Arc<dyn Disk>)
        .clock(disk.clock())
        .entropy(Arc::new(SimEntropy::new(OPENED.fetch_add(1, Ordering::Relaxed))))
        .background(Background::Caller)
        .staging(Staging::Off)
        .default_config(small())
        .offsets_topic(small().cleanup(Cleanup::Compact))
        .transactions_topic(small().cleanup(Cleanup::Compact))
        .strict()
}

/// Little segments, whose buffers are little.
fn small() -> TopicConfig {
    TopicConfig::default().segment_bytes(4096).segment_index_bytes(240)
}

/// What every test here asks for: open transactions are aborted.
fn adoption() -> Adoption {
    Adoption::default().abort_open()
}

fn adopt(disk: &Arc<SimDisk>) -> Result<Log> {
    builder(disk).adopt(adoption()).open()
}

fn on(image: Image) -> Arc<SimDisk> {
    let disk = SimDisk::on(image, Arc::new(SimClock::new(Timestamp(1_700_000_100_000))));
    disk.set_call_limit(20_000);
    disk
}

/// Asserts that a log has every record of the broker's, none besides, and no transaction open.
fn assert_adopted(log: &Log, before: &BrokerDir) {
    let mut found = BTreeSet::new();
    for topic in log.topics() {
        for number in 0..topic.partition_count() {
            let partition = topic.partition(number).expect("an undamaged partition");
            let name = format!("{}-{number}", topic.name());
            let held = before.holds.get(&name).expect("a partition that was there");
            let marker = u64::from(held.is_open);
            let offsets = partition.offsets();
            assert_eq!((offsets.start.0, offsets.end.0), (held.start, held.end + marker), "{name}");
            assert_eq!(offsets.stable, offsets.end, "a transaction is open in {name}");
            assert_eq!(records(&partition, Isolation::Uncommitted), held.records, "{name}");
            let committed = held.records.iter().filter(|(offset, _)| !held.undone.contains(offset));
            assert_eq!(records(&partition, Isolation::Committed), committed.cloned().collect::<Vec<_>>(), "{name}");
            found.insert(name);
        }
    }
    assert!(found.iter().eq(before.holds.keys()), "{found:?}");
    let committed = log.group("billing").and_then(|group| group.committed("orders", 0)).expect("a group");
    assert_eq!(committed.map(|committed| committed.offset), Some(Offset(5)));
}

fn records(partition: &Partition, isolation: Isolation) -> Vec<(u64, String)> {
    let (mut all, mut at) = (Vec::new(), partition.offsets().start);
    while at < partition.offsets().end {
        let read =
            partition.read_with(at, ReadOptions::default().isolation(isolation)).expect("a readable partition");
        let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
        all.extend(read.iter().map(|record| (record.offset.0, text(record.value))));
        at = read.next_offset();
    }
    all
}

fn is_ours(image: &Image) -> bool {
    image.files().contains_key(&Path::new(DIR).join("catalog"))
}

/// A directory to be adopted, and how much was tried on it.
struct Crashes<'b> {
    before: &'b BrokerDir,
    /// What was judged already: most crashes find the same few disks.
    seen: BTreeSet<(u64, bool)>,
}

impl Crashes<'_> {
    /// Adopts the directory on a disk that is crashed after every call that changed something: each time with several
    /// choices of what is kept of what was not durable. Of the disks found so, some are crashed again while they are adopted.
    fn run(&mut self, image: Image, crashed_before: bool) {
        let disk = on(image);
        disk.record(Recording::All);
        let log = adopt(&disk).expect("an adoption");
        let adopted = disk.calls();
        assert_adopted(&log, self.before);
        log.close().expect("a close");
        assert_eq!(disk.audit(), None);
        let moments = disk.take_moments();
        disk.record(Recording::Nothing);
        assert_adopted(&builder(&disk).read_only().open().expect("what was closed opens"), self.before);
        for (at, moment) in moments.iter().enumerate() {
            // A close is like any other: a few calls of it will do.
            if moment.call > adopted && at % 8 > 0 {
                continue;
            }
            let seeds = match moment.during {
                // Only a kill finds a call half done.
                true => 0,
                false if crashed_before => 1,
                false => CHOICES,
            };
            let outcomes = match moment.image.crash_bits() {
                _ if seeds <= 1 => 0..0,
                bits if bits <= MOST_BITS => 0..1 << bits,
                _ => u64::MAX - 1..u64::MAX,
            };
            let crashed = outcomes.map(|bits| moment.image.crash_outcome(bits));
            let crashed = crashed.chain((0..seeds).map(|seed| moment.image.crash(mix(moment.call) ^ seed)));
            let killed = (!crashed_before).then(|| moment.image.clone());
            let found = crashed.map(|found| (found, false)).chain(killed.map(|found| (found, true)));
            for (choice, (found, is_killed)) in found.enumerate() {
                if self.seen.insert((found.digest(), is_killed)) {
                    let is_again = !crashed_before && (at + choice) % AGAIN == 0;
                    self.judge(found, is_again);
                }
            }
        }
    }

    fn judge(&mut self, found: Image, is_again: bool) {
        if !is_ours(&found) {
            assert_loads(&found.files(), self.before);
        }
        if is_again {
            return self.run(found, true);
        }
        let is_just_opened = is_ours(&found) && self.seen.len().is_multiple_of(2);
        let disk = on(found);
        let log = if is_just_opened { builder(&disk).open() } else { adopt(&disk) }.expect("it opens after a crash");
        assert_adopted(&log, self.before);
        log.append(chiplog::Record::new("and on").to("orders")).expect("an append");
        log.close().expect("a close");
        assert_eq!(disk.audit(), None);
    }
}

/// How many choices of what survives are drawn for each crash, and up to how many pieces all that there are; and which crash
/// is followed by another.
const CHOICES: u64 = 4;
const MOST_BITS: u32 = 6;
const AGAIN: usize = 40;

/// Returns how many disks were judged.
fn crash_everywhere(stopped: Stopped) -> usize {
    let before = BrokerDir::new(stopped);
    let image = before.disk().image();
    assert_loads(&image.files(), &before);
    let mut crashes = Crashes { before: &before, seen: BTreeSet::new() };
    crashes.run(image, false);
    crashes.seen.len()
}

#[test]
fn a_crash_at_any_call_of_an_adoption_loses_nothing_and_brings_nothing_back() {
    for stopped in Stopped::BOTH {
        let judged = crash_everywhere(stopped);
        assert!(judged > 1_000, "{judged} disks after {stopped:?}");
    }
}

/// A test that cannot fail is none.
#[cfg(feature = "planted-bugs")]
#[test]
fn each_planted_mistake_of_adoption_is_found_by_crashing_it() {
    use std::panic::catch_unwind;

    for bug in chiplog::sim::log::ADOPTION {
        chiplog::sim::explore::plant(Some(bug));
        let is_found = Stopped::BOTH.into_iter().any(|stopped| catch_unwind(|| crash_everywhere(stopped)).is_err());
        chiplog::sim::explore::plant(None);
        assert!(is_found, "{bug}");
    }
}

/// Who believes the mark believes every file.
#[test]
fn the_brokers_clean_mark_is_durably_gone_before_any_other_change() {
    let disk = BrokerDir::new(Stopped::InOrder).disk();
    disk.trace();
    adopt(&disk).unwrap().close().unwrap();
    let trace = disk.take_trace();
    // What was renamed before is made durable when the directory is opened.
    let changes: Vec<&String> = trace.iter().filter(|call| is_change(call)).collect();
    let changes = &changes[changes.iter().take_while(|call| call.contains(" SyncDir ")).count()..];
    assert!(changes.len() > 50);
    assert!(changes[0].ends_with(&format!(" RemoveFile {CLEAN_MARK}")), "{}", changes[0]);
    assert!(changes[1].ends_with(&format!(" SyncDir {DIR}")), "{}", changes[1]);
}

/// Whether a line of the trace is of a call that changes something, or makes it durable; locks are not counted.
fn is_change(call: &str) -> bool {
    let mut words = call.split_whitespace().skip(1);
    let (kind, path, how) = (words.next().unwrap_or_default(), words.next().unwrap_or_default(), words.next());
    match kind {
        _ if is_lock(Path::new(path)) => false,
        "List" | "Metadata" | "Lock" | "Volume" | "Read" | "Map" => false,
        "Open" => how.is_some_and(|how| how.starts_with("2+")),
        _ => true,
    }
}

fn is_lock(path: &Path) -> bool {
    path.ends_with("LOCK") || path.ends_with(".lock")
}

#[test]
fn an_adoption_that_failed_at_any_call_succeeds_when_it_is_repeated() {
    let mut failed = 0;
    for stopped in Stopped::BOTH {
        let before = BrokerDir::small(stopped);
        let image = before.disk().image();
        let disk = on(image.clone());
        disk.trace();
        let log = adopt(&disk).unwrap();
        let adopted = disk.calls() as usize;
        log.close().unwrap();
        for (call, line) in disk.take_trace().iter().enumerate() {
            // A close is like any other: a few calls of it will do.
            if call > adopted && call % 8 > 0 {
                continue;
            }
            for (errno, times) in faults(is_change(line)) {
                let disk = on(image.clone());
                disk.inject(call as u64, Fault::Error(errno), times);
                let tried = adopt(&disk).and_then(Log::close);
                assert!(disk.struck() > 0);
                failed += usize::from(tried.is_err());
                disk.heal();
                let crashed = on(disk.image().crash(mix(call as u64)));
                for disk in [disk, crashed] {
                    let log = adopt(&disk).unwrap_or_else(|error| panic!("{errno:?} {times:?} at {line}: {error}"));
                    assert_adopted(&log, &before);
                    assert_eq!(disk.audit(), None, "{errno:?} {times:?} at {line}");
                }
            }
        }
    }
    assert!(failed > 500, "{failed}");
}

/// No space is missing for a call that only looks.
fn faults(is_change: bool) -> Vec<(Errno, Times)> {
    let errors = if is_change { &[Errno::Io, Errno::Full][..] } else { &[Errno::Io] };
    errors.iter().flat_map(|errno| [(*errno, Times::Once), (*errno, Times::Sticky)]).collect()
}

/// All files but those of locks, as they are, and as they are after a crash that keeps nothing it need not.
fn all_but_locks(disk: &SimDisk) -> [Files; 2] {
    [disk.image(), disk.image().crash_outcome(0)].map(|image| {
        let mut files = image.files();
        files.retain(|path, _| !is_lock(path));
        files
    })
}

/// What is done to a directory before it is adopted, how, and why that is refused.
type Refusal = (fn(&mut BrokerDir), fn(LogBuilder) -> LogBuilder, fn(&Error) -> bool);

const REFUSALS: [Refusal; 7] = [
    (|_| (), |builder| builder, |error| matches!(error, Error::NotAdopted { .. })),
    (
        |_| (),
        |builder| builder.adopt(Adoption::default()),
        |error| matches!(error, Error::OpenTransaction { partition, .. } if *partition.topic != *"orders"),
    ),
    (
        |_| (),
        |builder| builder.adopt(adoption().topic("order", small())),
        |error| matches!(error, Error::TopicNotFound { topic } if **topic == *"order"),
    ),
    (
        |dir| dir.files.retain(|path, _| !path.starts_with("/log/payments-0")),
        |builder| builder.adopt(adoption()),
        |error| matches!(error, Error::PartitionElsewhere { partition } if partition.to_string() == "payments-0"),
    ),
    (
        |dir| dir.bytes("orders-0/00000000000000000000.log")[100] ^= 1,
        |builder| builder.adopt(adoption()),
        |error| matches!(error, Error::Corrupt(damage) if damage.path.starts_with("/log/orders-0")),
    ),
    (
        |dir| *dir.bytes("orders-0/partition.metadata") = dir.bytes("split-0/partition.metadata").clone(),
        |builder| builder.adopt(adoption()),
        |error| matches!(error, Error::Corrupt(_)),
    ),
    (
        |_| (),
        |builder| builder.adopt(adoption().topic("orders", small().segment_bytes(1))),
        |error| matches!(error, Error::InvalidSetting { .. }),
    ),
];

#[test]
fn a_refused_adoption_changes_nothing() {
    for stopped in Stopped::BOTH {
        for (number, (change, with, is_why)) in REFUSALS.into_iter().enumerate() {
            let mut dir = BrokerDir::new(stopped);
            change(&mut dir);
            let disk = on(dir.disk().image());
            let before = all_but_locks(&disk);
            // Twice: the first leaves our lock there.
            for _ in 0..2 {
                let error = with(builder(&disk)).open().unwrap_err();
                assert!(is_why(&error), "refusal {number}, {stopped:?}: {error}");
                assert!(all_but_locks(&disk) == before, "refusal {number}, {stopped:?}");
            }
        }
    }
}

#[test]
fn a_directory_that_a_broker_has_is_not_touched() {
    let dir = BrokerDir::new(Stopped::Killed);
    let disk = on(dir.disk().image());
    let before = all_but_locks(&disk);
    let held = disk.lock_as_kafka(&Path::new(DIR).join(".lock"), Lock::Exclusive).unwrap();
    assert!(matches!(adopt(&disk), Err(Error::Locked { .. })));
    assert!(all_but_locks(&disk) == before);
    drop(held);
    assert_adopted(&adopt(&disk).unwrap(), &dir);
}

/// It was made, was a log of ours, and nobody could end the transaction any more.
#[test]
fn no_backup_is_made_of_a_transaction_that_a_broker_left_open() {
    let dir = BrokerDir::new(Stopped::InOrder);
    let disk = on(dir.disk().image());
    let log = builder(&disk).read_only().open().unwrap();
    let refused = log.backup("/elsewhere");
    assert!(matches!(refused, Err(Error::OpenTransaction { .. })), "{refused:?}");
    assert!(disk.metadata(Path::new("/elsewhere")).is_err());
}

/// They were taken as they are, and the offsets of groups went with the first retention.
#[test]
fn settings_under_which_offsets_would_be_lost_are_refused() {
    let dir = BrokerDir::new(Stopped::InOrder);
    let disk = on(dir.disk().image());
    let before = all_but_locks(&disk);
    let refused = builder(&disk).adopt(adoption().topic("__consumer_offsets", TopicConfig::default())).open();
    assert!(matches!(&refused, Err(Error::InvalidSetting { key, .. }) if &**key == "cleanup.policy"), "{refused:?}");
    assert!(all_but_locks(&disk) == before);
}

/// A damaged `.swap` took the place of a segment that was whole.
#[test]
fn a_damaged_swap_file_costs_no_record_that_is_elsewhere() {
    let mut refused = 0;
    for stopped in Stopped::BOTH {
        for (name, recovery) in DAMAGED {
            let whole = BrokerDir::small(stopped).bytes(name).clone();
            for (at, is_cut) in (0..whole.len()).step_by(13).flat_map(|at| [(at, false), (at, true)]) {
                if !is_told(&whole, at, is_cut) {
                    continue;
                }
                let what = format!("{name} at {at}, cut {is_cut}, {recovery:?}, {stopped:?}");
                let mut dir = BrokerDir::small(stopped);
                match is_cut {
                    true => dir.bytes(name).truncate(at),
                    false => dir.bytes(name)[at] ^= 0x40,
                }
                let disk = on(dir.disk().image());
                let before = all_but_locks(&disk);
                match builder(&disk).recovery(recovery).adopt(adoption()).open() {
                    Ok(log) => assert_keeps(&log, &dir, &what),
                    Err(error) => {
                        assert_eq!((error.kind(), recovery), (ErrorKind::Corrupt, RecoveryMode::Report), "{what}");
                        assert!(all_but_locks(&disk) == before, "{what}");
                        refused += 1;
                    }
                }
            }
        }
    }
    assert!(refused > 100, "{refused}");
}

/// What is damaged, and what is to be made of it.
const DAMAGED: [(&str, RecoveryMode); 6] = [
    ("compacted-0/00000000000000000000.log.swap", RecoveryMode::Report),
    ("compacted-0/00000000000000000000.log.swap", RecoveryMode::Salvage),
    ("split-0/00000000000000000000.log.swap", RecoveryMode::Report),
    ("split-0/00000000000000000000.log.swap", RecoveryMode::Salvage),
    ("split-0/00000000000000000003.log.swap", RecoveryMode::Report),
    ("split-0/00000000000000000003.log.swap", RecoveryMode::Salvage),
];

/// Whether damage at this position can be told from what is whole: a file that ends with a batch, or is empty, is; and an
/// offset and a leader epoch are under no checksum, so where compaction left gaps, others may pass for right.
fn is_told(whole: &[u8], at: usize, is_cut: bool) -> bool {
    match is_cut {
        true => !ends_with_a_batch(&whole[..at]),
        // An offset so high is in no segment that begins so low.
        false => (at.saturating_sub(15)..at.saturating_sub(3)).all(|at| !ends_with_a_batch(&whole[..at])),
    }
}

/// Asserts that every record is there; those that compaction took may be, too.
fn assert_keeps(log: &Log, before: &BrokerDir, what: &str) {
    for (name, held) in &before.holds {
        let (topic, number) = name.rsplit_once('-').unwrap();
        let partition = log.find_topic(topic).unwrap().partition(number.parse().unwrap()).unwrap();
        let found: BTreeSet<_> = records(&partition, Isolation::Uncommitted).into_iter().collect();
        let lost: Vec<_> = held.records.iter().filter(|record| !found.contains(record)).collect();
        assert!(lost.is_empty(), "{what}: {name} lost {lost:?}");
    }
}
