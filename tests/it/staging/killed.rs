//! What a killed process leaves staged. A test has a part of it done by a child, which is killed when it is through.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Lines, Read, Write, stdin};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio, exit};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use chiplog::{
    Durability, Error, ErrorKind, Log, Offset, Partition, Record, Staging, StagingStats, Timestamp, TimestampType,
    TopicConfig,
};

use super::{Result, append_steps, batches, builder, codecs, dir, dirs, in_files, numbers, steps, values_of};
use crate::support::{append_numbers, copy, files, text, values};

// Set in the child only: which part to do, and where.
const PART: &str = "CHIPLOG_STAGING_PART";
const DIR: &str = "CHIPLOG_STAGING_DIR";
/// What the child says when it has done everything.
const DONE: &str = "the part is done";

/// Set in the process that starts the children.
const NURSE: &str = "CHIPLOG_STAGING_NURSE";
const REPORT: &str = "the child: ";
/// Longer than any part takes, so that one that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a child does. It ends by being killed, so the part keeps its log open: see [`done`].
type Part = fn(&Path) -> Result;

const PARTS: &[(&str, Part)] = &[
    ("mixed", mixed),
    ("plain", plain),
    ("sized", sized),
    ("threads", threads),
    ("synced", synced),
    ("deleted", deleted),
    ("raised", raised),
    ("altered", altered),
    ("compressed", compressed),
    ("append time", append_time),
    ("opened", opened),
    ("group", group),
    ("two", two),
];

/// Not a test of its own: what the children of the others run.
#[test]
fn child() -> Result {
    if env::var_os(NURSE).is_some() {
        return nurse();
    }
    let (Some(part), Some(dir)) = (env::var_os(PART), env::var_os(DIR)) else { return Ok(()) };
    let (_, work) = PARTS.iter().find(|(name, _)| part == *name).ok_or("there is no such part")?;
    work(Path::new(&dir))
}

/// Says that everything is done, and waits to be killed.
fn done<T>(_held: T) -> ! {
    println!("\n{DONE}");
    // Ends if the parent does.
    let _ = stdin().read_to_end(&mut Vec::new());
    exit(3);
}

/// Has a child do a part in `dir`, and kills it.
fn kill(dir: &Path, part: &str) -> Result {
    static NURSES: Mutex<Option<Nurse>> = Mutex::new(None);
    let mut nurses = NURSES.lock().unwrap_or_else(PoisonError::into_inner);
    let nurse = match &mut *nurses {
        Some(nurse) => nurse,
        none => none.insert(Nurse::hire()?),
    };
    let said = nurse.ask(dir, part)?;
    assert_eq!(said, "killed at the end", "part {part}");
    Ok(())
}

/// A process that has no log open, to start the others from. A child has its parent's files until it runs its program:
/// started from here, it would keep locks that other tests let go of.
struct Nurse {
    orders: ChildStdin,
    reports: Lines<BufReader<ChildStdout>>,
}

impl Nurse {
    fn hire() -> Result<Self> {
        let mut process = itself().env(NURSE, "1").spawn()?;
        let (orders, reports) = (process.stdin.take(), process.stdout.take());
        let reports = BufReader::new(reports.ok_or("a nurse without a pipe")?).lines();
        Ok(Self { orders: orders.ok_or("a nurse without a pipe")?, reports })
    }

    fn ask(&mut self, dir: &Path, part: &str) -> Result<String> {
        writeln!(self.orders, "{part}\t{}", dir.display())?;
        for line in &mut self.reports {
            if let Some(report) = line?.strip_prefix(REPORT) {
                return Ok(report.to_owned());
            }
        }
        Err("the nurse is gone".into())
    }
}

fn itself() -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "staging::killed::child", "--nocapture"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// Starts and kills a child for each line that comes in.
fn nurse() -> Result {
    for order in stdin().lines() {
        let order = order?;
        let (part, dir) = order.split_once('\t').ok_or("an order without a directory")?;
        let mut child = itself().env_remove(NURSE).env(PART, part).env(DIR, dir).spawn()?;
        let said = BufReader::new(child.stdout.take().ok_or("a child without a pipe")?);
        let (tell, told) = mpsc::channel();
        let hearing = thread::spawn(move || {
            let is_done = said.lines().map_while(std::io::Result::ok).any(|line| line == DONE);
            let _ = tell.send(is_done);
        });
        let is_done = told.recv_timeout(PATIENCE);
        child.kill()?;
        let signal = child.wait()?.signal();
        let _ = hearing.join();
        let report = match (is_done, signal) {
            (Ok(true), Some(9)) => "killed at the end",
            (Err(_), _) => "it hangs",
            _ => "it failed",
        };
        println!("\n{REPORT}{report}");
    }
    // The tests are over, and nobody is left to be told so.
    exit(0)
}

fn orders(log: &Log) -> Partition {
    log.find_topic("orders").unwrap().partition(0).unwrap()
}

/// Opens what a kill left, strictly: nothing of it is damage.
fn reopen(dir: &Path) -> Result<Log> {
    let log = builder(dir).strict().open()?;
    assert!(log.damaged().is_empty());
    Ok(log)
}

// --- Nothing is lost -------------------------------------------------------------------------------------------------

fn mixed(dir: &Path) -> Result {
    let log = builder(dir).open()?;
    let topic = log.create_topic("orders", TopicConfig::default().partitions(3).segment_bytes(300_000))?;
    for number in 0..3 {
        append_steps(&topic.partition(number)?, &steps(100 + u64::from(number) * 50))?;
    }
    done((log, topic))
}

#[test]
fn appends_of_all_kinds_survive_a_kill() -> Result {
    for dir in dirs() {
        kill(dir.path(), "mixed")?;
        for round in 0..2 {
            let log = reopen(dir.path())?;
            let topic = log.find_topic("orders").unwrap();
            for number in 0..3 {
                let steps = steps(100 + u64::from(number) * 50);
                assert_eq!(values(&topic.partition(number)?), values_of(&steps), "round {round}, partition {number}");
            }
            // Untouched, and then closed in order.
            drop(topic);
            log.close()?;
            assert!(!dir.path().join("staging").exists());
        }
    }
    Ok(())
}

fn plain(dir: &Path) -> Result {
    let log = builder(dir).open()?;
    let partition = log.topic("orders")?.partition(0)?;
    append_numbers(&partition, 0..50);
    partition.sync()?;
    append_numbers(&partition, 50..80);
    assert_eq!(in_files(&partition), Offset(50), "nothing is staged");
    done((log, partition))
}

#[test]
fn a_log_goes_on_with_what_was_staged() -> Result {
    for dir in dirs() {
        kill(dir.path(), "plain")?;
        let log = reopen(dir.path())?;
        let partition = orders(&log);
        assert_eq!((in_files(&partition), partition.offsets().end), (Offset(50), Offset(80)));
        assert!(partition.offsets().synced <= Offset(50), "nobody synced what is staged");
        append_numbers(&partition, 80..100);
        assert_eq!(values(&partition), numbers(0..100));
        partition.sync()?;
        assert_eq!((in_files(&partition), partition.offsets().synced), (Offset(100), Offset(100)));
        assert_eq!(values(&partition), numbers(0..100));
        drop(partition);
        log.close()?;
        assert_eq!(values(&orders(&reopen(dir.path())?)), numbers(0..100));
    }
    Ok(())
}

/// Opens, and is killed before it changes anything, or after it appended: `opened` again and again.
fn opened(dir: &Path) -> Result {
    let log = reopen(dir)?;
    let partition = orders(&log);
    let end = partition.offsets().end.0;
    assert_eq!(values(&partition), numbers(0..end));
    if end.is_multiple_of(2) {
        append_numbers(&partition, end..end + 3);
    } else {
        partition.sync()?;
        append_numbers(&partition, end..end + 1);
    }
    done((log, partition))
}

#[test]
fn one_kill_after_the_other_loses_nothing() -> Result {
    for dir in dirs() {
        kill(dir.path(), "plain")?;
        let mut end = 80_u64;
        for _ in 0..6 {
            kill(dir.path(), "opened")?;
            end += if end.is_multiple_of(2) { 3 } else { 1 };
            // Looked at and dropped without a close: a reader leaves it to the next.
            let log = builder(dir.path()).read_only().open()?;
            assert_eq!(values(&orders(&log)), numbers(0..end));
        }
        assert_eq!(values(&orders(&reopen(dir.path())?)), numbers(0..end));
    }
    Ok(())
}

fn synced(dir: &Path) -> Result {
    let log = builder(dir).open()?;
    let config = TopicConfig::default().durability(Durability::Every { records: Some(7), time: None });
    let partition = log.create_topic("orders", config.segment_bytes(4_000))?.partition(0)?;
    append_numbers(&partition, 0..500);
    done((log, partition))
}

#[test]
fn a_durable_topic_keeps_what_was_staged_since_its_last_sync() -> Result {
    for dir in dirs() {
        kill(dir.path(), "synced")?;
        let log = reopen(dir.path())?;
        let partition = orders(&log);
        assert_eq!(values(&partition), numbers(0..500));
        assert!(partition.segments().len() > 1);
    }
    Ok(())
}

/// Lengths around those at which a batch is full, a slot is full, and a record is too long for one.
fn lens() -> impl Iterator<Item = usize> {
    let around = |len: usize| len - 180..len + 20;
    let (batch, lap, slot) = (16 << 10, 128 << 10, 144 << 10);
    // The head of a slot has 192 bytes; a batch header and what a record has beside its value 72.
    let longest = slot - 192;
    around(batch).chain(around(lap).step_by(7)).chain(around(longest).step_by(3)).chain([70_000, 100_000, 300_000])
}

fn sized_values() -> Vec<String> {
    let long = lens().map(|len| "x".repeat(len));
    long.enumerate().flat_map(|(number, value)| [number.to_string(), value]).collect()
}

fn sized(dir: &Path) -> Result {
    let log = builder(dir).open()?;
    let partition = log.topic("orders")?.partition(0)?;
    for value in sized_values() {
        partition.append(&*value)?;
    }
    assert!(values(&partition) == sized_values(), "what is read is not what was appended");
    done((log, partition))
}

#[test]
fn records_of_every_length_around_the_limits_are_kept() -> Result {
    let dir = dir();
    kill(dir.path(), "sized")?;
    let log = reopen(dir.path())?;
    assert!(values(&orders(&log)) == sized_values());
    log.close()?;
    assert!(values(&orders(&reopen(dir.path())?)) == sized_values());
    Ok(())
}

/// Each batch whose length is exactly that of a full one, or a slot's, and one byte to either side.
#[test]
fn batches_of_exactly_the_limits_keep_their_order() -> Result {
    let dir = dir();
    let log = builder(dir.path()).open()?;
    let partition = log.topic("orders")?.partition(0)?;
    let mut expected = Vec::new();
    let mut lens = std::collections::BTreeSet::new();
    for len in (16 << 10) - 90..(16 << 10) - 60 {
        for value in [len.to_string(), "y".repeat(len), "after".to_owned()] {
            // A batch of its own, copied into the slot.
            partition.append_all([&*value])?;
            expected.push(value);
        }
    }
    for header in batches(&partition) {
        lens.insert(header.batch_len);
    }
    let limit = 16 << 10;
    assert!([limit - 1, limit, limit + 1].iter().all(|len| lens.contains(len)), "{lens:?}");
    assert_eq!(values(&partition), expected);
    Ok(())
}

const THREADS: u64 = 8;
const EACH: u64 = 2_000;

fn threads(dir: &Path) -> Result {
    let log = builder(dir).open()?;
    let topic = log.create_topic("orders", TopicConfig::default().partitions(3).segment_bytes(200_000))?;
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let topic = &topic;
            scope.spawn(move || {
                for number in 0..EACH {
                    // Partition 0 for all of them, the others by turns; some read and sync meanwhile.
                    let partition =
                        topic.partition(if number.is_multiple_of(2) { 0 } else { 1 + (number / 2 % 2) as u32 });
                    let partition = partition.unwrap();
                    let offset = partition.append(&format!("{thread} {number}")).unwrap().offset();
                    if number % 64 == thread {
                        assert!(!partition.read(offset).unwrap().is_empty());
                    }
                    if number % 500 == 499 && thread == 0 {
                        partition.sync().unwrap();
                    }
                }
            });
        }
    });
    done((log, topic))
}

#[test]
fn what_many_threads_appended_at_once_survives_a_kill() -> Result {
    for dir in dirs() {
        kill(dir.path(), "threads")?;
        let log = reopen(dir.path())?;
        let topic = log.find_topic("orders").unwrap();
        let mut found = vec![Vec::new(); THREADS as usize];
        for number in 0..3 {
            let partition = topic.partition(number)?;
            let mut at = Offset::ZERO;
            let mut last = [None; THREADS as usize];
            while at < partition.offsets().end {
                let records = partition.read(at)?;
                for (record, offset) in records.iter().zip(at.0..) {
                    assert_eq!(record.offset, Offset(offset));
                    let value = text(record.value);
                    let (thread, count) = value.split_once(' ').unwrap();
                    let (thread, count) = (thread.parse::<usize>()?, count.parse::<u64>()?);
                    assert!(last[thread].is_none_or(|last| last < count), "thread {thread}, partition {number}");
                    last[thread] = Some(count);
                    found[thread].push(count);
                }
                at = records.next_offset();
            }
        }
        for mut found in found {
            found.sort_unstable();
            assert!(found.into_iter().eq(0..EACH), "a record is missing, or there twice");
        }
    }
    Ok(())
}

fn group(dir: &Path) -> Result {
    let log = builder(dir).open()?;
    append_numbers(&log.topic("orders")?.partition(0)?, 0..20);
    let group = log.group("billing")?;
    for offset in 0..=15 {
        group.commit("orders", 0, Offset(offset))?;
    }
    done((log, group))
}

#[test]
fn what_a_group_committed_survives_beside_staged_records() -> Result {
    let dir = dir();
    kill(dir.path(), "group")?;
    let log = reopen(dir.path())?;
    assert_eq!(log.group("billing")?.committed("orders", 0)?.map(|at| at.offset), Some(Offset(15)));
    assert_eq!(values(&orders(&log)), numbers(0..20));
    Ok(())
}

// --- Other settings than those of the process that was killed ---------------------------------------------------------

#[test]
fn what_was_staged_is_there_with_staging_off() -> Result {
    for dir in dirs() {
        kill(dir.path(), "plain")?;
        let log = builder(dir.path()).staging(Staging::Off).strict().open()?;
        assert!(matches!(log.stats()?.staging, StagingStats::Off { why: "it was switched off" }));
        let partition = orders(&log);
        assert_eq!(values(&partition), numbers(0..80));
        append_numbers(&partition, 80..85);
        assert_eq!((in_files(&partition), values(&partition)), (Offset(85), numbers(0..85)));
        drop(partition);
        log.close()?;
        assert!(!dir.path().join("staging").exists());
        assert_eq!(values(&orders(&reopen(dir.path())?)), numbers(0..85));
    }
    Ok(())
}

#[test]
fn what_was_staged_is_there_with_another_number_of_slots() -> Result {
    for slots in [1, 64] {
        let dir = dir();
        kill(dir.path(), "mixed")?;
        let log = builder(dir.path()).staging_slots(slots).strict().open()?;
        let topic = log.find_topic("orders").unwrap();
        for number in 0..3 {
            let partition = topic.partition(number)?;
            let steps = steps(100 + u64::from(number) * 50);
            assert_eq!(values(&partition), values_of(&steps));
            partition.append("one more")?;
            assert_eq!(values(&partition).len(), values_of(&steps).len() + 1);
        }
    }
    Ok(())
}

#[test]
fn a_read_only_open_sees_what_is_staged_and_changes_nothing() -> Result {
    for dir in dirs() {
        kill(dir.path(), "plain")?;
        let before = files(dir.path());
        for _ in 0..2 {
            let log = Log::builder(dir.path()).read_only().strict().open()?;
            let partition = orders(&log);
            assert_eq!(values(&partition), numbers(0..80));
            assert_eq!(partition.read_last(3)?.iter().flat_map(super::texts).collect::<Vec<_>>(), numbers(77..80));
            assert!(matches!(partition.append("x"), Err(Error::ReadOnly)));
            assert_eq!(partition.offset_at(Timestamp(1))?, Some(Offset(0)));
            assert!(partition.largest_timestamp()?.is_some());
            drop(partition);
            log.close()?;
            assert!(files(dir.path()) == before, "a file was changed");
        }
        assert_eq!(values(&orders(&reopen(dir.path())?)), numbers(0..80));
    }
    Ok(())
}

#[test]
fn several_read_only_at_once_see_the_same() -> Result {
    let dir = dir();
    kill(dir.path(), "plain")?;
    let one = Log::builder(dir.path()).read_only().open()?;
    let other = Log::builder(dir.path()).read_only().open()?;
    assert_eq!(values(&orders(&one)), numbers(0..80));
    assert_eq!(values(&orders(&other)), numbers(0..80));
    assert!(matches!(Log::open(dir.path()), Err(Error::Locked { .. })));
    Ok(())
}

// --- Other directories than the one that was left ---------------------------------------------------------------------

/// A copy is what a backup holds: only what is in the files. The arena in it is another process's, of other files.
#[test]
fn a_copy_holds_what_was_written_and_nothing_that_was_staged() -> Result {
    for dir in dirs() {
        kill(dir.path(), "plain")?;
        let (backup, second) = (super::dir(), super::dir());
        copy(dir.path(), backup.path());
        assert!(backup.path().join("staging").exists());
        for read_only in [true, false] {
            let builder = builder(backup.path()).strict();
            let log = if read_only { builder.read_only().open()? } else { builder.open()? };
            assert_eq!(values(&orders(&log)), numbers(0..50), "a copy replayed what it never held");
            assert!(log.damaged().is_empty());
        }
        // It goes on by itself, and what it appends is its own: also for a copy of the copy.
        let log = reopen(backup.path())?;
        let partition = orders(&log);
        for number in 50..60 {
            partition.append(&format!("of the copy {number}"))?;
        }
        copy(backup.path(), second.path());
        assert_eq!(in_files(&partition), Offset(50));
        drop(partition);
        log.close()?;
        let copied = values(&orders(&reopen(backup.path())?));
        assert_eq!((copied.len(), &*copied[50]), (60, "of the copy 50"));
        assert_eq!(values(&orders(&reopen(second.path())?)), numbers(0..50));
        // And the one that was left has everything.
        assert_eq!(values(&orders(&reopen(dir.path())?)), numbers(0..80));
    }
    Ok(())
}

/// Copied back over the original: the files are others, so nothing that was staged for the first ones may follow.
#[test]
fn a_restored_directory_holds_a_prefix() -> Result {
    let (dir, backup) = (dir(), dir());
    kill(dir.path(), "plain")?;
    copy(dir.path(), backup.path());
    let original = dir.path().join("data");
    copy(backup.path(), &original);
    let log = reopen(&original)?;
    append_numbers(&orders(&log), 50..55);
    log.close()?;
    assert_eq!(values(&orders(&reopen(&original)?)), numbers(0..55));
    Ok(())
}

/// Renamed, it is the same directory: nothing is missing.
#[test]
fn a_moved_directory_has_everything() -> Result {
    for dir in dirs() {
        let (before, after) = (dir.path().join("before"), dir.path().join("after"));
        kill(&before, "plain")?;
        fs::rename(&before, &after)?;
        assert_eq!(values(&orders(&reopen(&after)?)), numbers(0..80));
    }
    Ok(())
}

/// The arena of another log, or one that was cut or spoiled: reported, and no reason not to open.
#[test]
fn an_arena_that_is_missing_or_spoiled_is_told_of() -> Result {
    type Spoil = fn(&Path) -> std::io::Result<()>;
    let spoils: [(&str, Spoil); 4] = [
        ("removed", |path| fs::remove_file(path)),
        ("short", |path| fs::File::options().write(true).open(path)?.set_len(5_000)),
        ("empty", |path| fs::File::options().write(true).open(path)?.set_len(0)),
        ("header", |path| fs::File::options().write(true).open(path)?.write_all_at(&[0xA5; 64], 0)),
    ];
    for (what, spoil) in spoils {
        let dir = dir();
        kill(dir.path(), "plain")?;
        spoil(&dir.path().join("staging"))?;
        let refused = builder(dir.path()).strict().open().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Corrupt, "{what}: {refused}");

        let log = builder(dir.path()).open()?;
        let told = log.damaged();
        assert_eq!(told.len(), 1, "{what}: {told:?}");
        assert!(told[0].partition.is_none(), "{what}");
        assert!(told[0].error.to_string().contains("staging"), "{what}: {}", told[0].error);
        let partition = orders(&log);
        assert_eq!(values(&partition), numbers(0..50), "{what}");
        append_numbers(&partition, 50..60);
        drop(partition);
        log.close()?;
        assert_eq!(values(&orders(&reopen(dir.path())?)), numbers(0..60), "{what}: told of once");
    }
    Ok(())
}

fn two(dir: &Path) -> Result {
    let log = builder(dir).open()?;
    let topic = log.create_topic("orders", TopicConfig::default().partitions(2))?;
    for number in 0..2 {
        for at in 0..20 {
            topic.partition(number)?.append(&format!("partition {number}, record {at}"))?;
        }
        assert_eq!(in_files(&topic.partition(number)?), Offset(0));
    }
    done((log, topic))
}

/// Acknowledged records that do not verify: their partition says so and keeps its slot, the others go on.
#[test]
fn a_spoiled_slot_damages_its_partition_only() -> Result {
    let dir = dir();
    kill(dir.path(), "two")?;
    let path = dir.path().join("staging");
    let bytes = fs::read(&path)?;
    let last = b"partition 1, record 19";
    let at = bytes.windows(last.len()).position(|window| window == last).ok_or("it is not staged")?;
    // The length of the value. The batch was never sealed, so no checksum covers the value itself.
    fs::File::options().write(true).open(&path)?.write_all_at(&[bytes[at - 1] ^ 0x40], at as u64 - 1)?;
    for _ in 0..2 {
        let log = builder(dir.path()).open()?;
        let [told] = &log.damaged()[..] else { panic!("{:?}", log.damaged()) };
        assert_eq!(told.partition.as_ref().map(ToString::to_string).as_deref(), Some("orders-1"));
        assert!(told.error.to_string().contains("staging"), "{}", told.error);
        let topic = log.find_topic("orders").unwrap();
        assert_eq!(topic.partition(1).unwrap_err().kind(), ErrorKind::Corrupt);
        let partition = topic.partition(0)?;
        assert_eq!(
            values(&partition)[..20],
            (0..20).map(|at| format!("partition 0, record {at}")).collect::<Vec<_>>()
        );
        partition.append("one more")?;
        drop((topic, partition));
        log.close()?;
        assert_eq!(fs::read(&path)?[at..at + last.len()], *last, "what was acknowledged is gone");
    }
    // Healed by hand, it has everything.
    fs::File::options().write(true).open(&path)?.write_all_at(&[bytes[at - 1]], at as u64 - 1)?;
    let topic = reopen(dir.path())?.find_topic("orders").unwrap();
    assert_eq!((values(&topic.partition(0)?).len(), values(&topic.partition(1)?).len()), (22, 20));
    Ok(())
}

// --- What was staged, and then changed --------------------------------------------------------------------------------

fn deleted(dir: &Path) -> Result {
    let log = builder(dir).open()?;
    for name in ["orders", "gone", "again"] {
        append_numbers(&log.topic(name)?.partition(0)?, 0..30);
        assert_eq!(in_files(&log.topic(name)?.partition(0)?), Offset(0));
    }
    log.delete_topic("gone")?;
    log.delete_topic("again")?;
    append_numbers(&log.topic("again")?.partition(0)?, 0..5);
    done(log)
}

#[test]
fn a_topic_that_was_deleted_with_staged_records_stays_deleted() -> Result {
    for dir in dirs() {
        kill(dir.path(), "deleted")?;
        let log = reopen(dir.path())?;
        assert!(log.find_topic("gone").is_none());
        assert_eq!(values(&orders(&log)), numbers(0..30));
        assert_eq!(values(&log.topic("again")?.partition(0)?), numbers(0..5), "records of the one before came back");
        assert_eq!(log.stats()?.staging, StagingStats::On { slots: 8, in_use: 2 });
        append_numbers(&log.topic("gone")?.partition(0)?, 0..3);
        log.close()?;
        assert!(!dir.path().join("staging").exists());
        assert_eq!(values(&reopen(dir.path())?.topic("gone")?.partition(0)?), numbers(0..3));
    }
    Ok(())
}

fn raised(dir: &Path) -> Result {
    let log = builder(dir).open()?;
    for (topic, start) in [("some", 10), ("all", 30), ("twice", 5)] {
        append_numbers(&log.topic(topic)?.partition(0)?, 0..30);
        log.delete_before(topic, 0, Offset(start))?;
    }
    append_numbers(&log.topic("twice")?.partition(0)?, 30..40);
    log.delete_before("twice", 0, Offset(35))?;
    done(log)
}

#[test]
fn a_start_that_was_raised_over_staged_records_stays() -> Result {
    for dir in dirs() {
        kill(dir.path(), "raised")?;
        let log = reopen(dir.path())?;
        for (topic, start, end) in [("some", 10, 30), ("all", 30, 30), ("twice", 35, 40)] {
            let partition = log.topic(topic)?.partition(0)?;
            assert_eq!(values(&partition), numbers(start..end), "{topic}");
            assert_eq!(partition.offsets().start, Offset(start), "{topic}");
            append_numbers(&partition, end..end + 5);
            assert_eq!(values(&partition), numbers(start..end + 5), "{topic}");
        }
    }
    Ok(())
}

fn altered(dir: &Path) -> Result {
    let log = builder(dir).open()?;
    let topic = log.topic("orders")?;
    let partition = topic.partition(0)?;
    append_numbers(&partition, 0..20);
    let config = topic.config().timestamp_type(TimestampType::LogAppendTime).segment_bytes(900);
    log.alter_topic("orders", config)?;
    append_numbers(&partition, 20..25);
    let (_, codec) = codecs().pop().ok_or("no codec")?;
    log.alter_topic("orders", topic.config().set("compression.type", codec)?)?;
    append_numbers(&partition, 25..30);
    done((log, topic, partition))
}

#[test]
fn staged_records_survive_other_settings_and_a_kill() -> Result {
    for dir in dirs() {
        kill(dir.path(), "altered")?;
        let log = reopen(dir.path())?;
        let partition = orders(&log);
        assert_eq!(values(&partition), numbers(0..30));
        let (codec, _) = codecs().pop().ok_or("no codec")?;
        for header in batches(&partition) {
            let kind = header.attributes.timestamp_type();
            assert_eq!(kind == TimestampType::LogAppendTime, header.base_offset >= Offset(20), "{header:?}");
            if header.base_offset >= Offset(25) {
                assert_eq!(header.attributes.codec(), Some(codec));
            }
        }
        append_numbers(&partition, 30..200);
        assert_eq!(values(&partition), numbers(0..200));
    }
    Ok(())
}

fn compressed_value(number: u64) -> String {
    format!("{number} {}", "the same again ".repeat(10))
}

fn compressed(dir: &Path) -> Result {
    let log = builder(dir).open()?;
    for (_, name) in codecs() {
        let config = TopicConfig::default().set("compression.type", name)?.segment_bytes(20_000);
        let partition = log.create_topic(name, config)?.partition(0)?;
        for number in 0..500 {
            partition.append(&compressed_value(number))?;
        }
    }
    done(log)
}

#[test]
fn batches_that_were_still_to_be_compressed_survive_a_kill() -> Result {
    let expected: Vec<String> = (0..600).map(compressed_value).collect();
    for dir in dirs() {
        kill(dir.path(), "compressed")?;
        // Without a change of the directory first: what is read then was never written.
        let log = builder(dir.path()).read_only().strict().open()?;
        for (_, name) in codecs() {
            assert_eq!(values(&log.topic(name)?.partition(0)?), expected[..500], "{name}");
        }
        log.close()?;
        let log = reopen(dir.path())?;
        for (codec, name) in codecs() {
            let partition = log.topic(name)?.partition(0)?;
            assert_eq!(values(&partition), expected[..500], "{name}");
            for value in &expected[500..] {
                partition.append(Record::new(value))?;
            }
            partition.sync()?;
            assert_eq!(values(&partition), expected, "{name}");
            let is_packed = |header: &chiplog::record::BatchHeader| header.attributes.codec() == Some(codec);
            assert!(batches(&partition).iter().all(is_packed), "{name}");
        }
    }
    Ok(())
}

fn append_time(dir: &Path) -> Result {
    let log = builder(dir).open()?;
    let config = TopicConfig::default().timestamp_type(TimestampType::LogAppendTime);
    let partition = log.create_topic("orders", config)?.partition(0)?;
    let mut times = String::new();
    for number in 0..200 {
        let value = number.to_string();
        let appended = partition.append(Record::new(&value).timestamp(Timestamp(5)))?;
        times.push_str(&format!("{}\n", appended.timestamp().0));
        if number % 20 == 0 {
            thread::sleep(Duration::from_millis(5));
        }
    }
    fs::write(dir.with_extension("times"), times)?;
    done((log, partition))
}

#[test]
fn the_times_that_the_log_gave_survive_a_kill() -> Result {
    for dir in dirs() {
        let data = dir.path().join("log");
        kill(&data, "append time")?;
        let times = fs::read_to_string(data.with_extension("times"))?;
        let times: Vec<Timestamp> =
            times.lines().map(|line| line.parse().map(Timestamp)).collect::<Result<_, _>>()?;
        let log = reopen(&data)?;
        let partition = orders(&log);
        assert_eq!(values(&partition), numbers(0..200));
        let mut at = Offset::ZERO;
        while at < Offset(200) {
            let records = partition.read(at)?;
            for record in &records {
                assert_eq!(record.timestamp, times[record.offset.0 as usize], "offset {}", record.offset);
            }
            at = records.next_offset();
        }
        assert_eq!(partition.largest_timestamp()?.map(|(_, time)| time), times.iter().max().copied());
    }
    Ok(())
}

#[test]
fn an_observer_is_told_where_a_recovered_partition_ends() -> Result {
    #[derive(Debug, Default)]
    struct Notes(std::sync::Mutex<Vec<String>>);
    impl chiplog::Observer for Notes {
        fn recovered(&self, recovery: &chiplog::Recovery<'_>) {
            self.0.lock().unwrap().push(format!("{} to {}", recovery.partition, recovery.end));
        }
    }
    let dir = dir();
    kill(dir.path(), "plain")?;
    let notes = Arc::new(Notes::default());
    let _log = builder(dir.path()).observer(notes.clone()).open()?;
    assert_eq!(*notes.0.lock().unwrap(), ["orders-0 to 80"], "what is staged is a part of the log");
    Ok(())
}
