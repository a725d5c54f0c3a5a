//! Opens the log that a power cut left, as after a restart of the machine, and holds it to what was promised.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use chiplog::disk::BootId;
use chiplog::{Ack, Background, Durability, Log, LogBuilder, Offset, Record, TopicConfig};

use super::Result;
use super::disks::Changed;
use super::expected::{self, Cut, Expected, Fate};
use super::identity::Id;
use super::random::Random;
use super::workload::{EACH, EVERY, GROUP, LAST_WORD, OS};

/// What is appended after the cut: whether it stays, too.
const AFTER: &str = "after the cut";

/// What one check read.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Found {
    /// 1, or 0 if the disk still failed.
    pub(crate) logs: u64,
    pub(crate) records: u64,
    pub(crate) acks: u64,
    /// Records above what was acknowledged: what the cut could have taken.
    pub(crate) beyond: u64,
}

impl Found {
    fn to_text(self) -> String {
        let Self { logs, records, acks, beyond } = self;
        format!("{logs} {records} {acks} {beyond}")
    }

    pub(crate) fn from_text(text: &str) -> Result<Self> {
        let numbers: Vec<u64> = text.split(' ').filter_map(|word| word.trim().parse().ok()).collect();
        let [logs, records, acks, beyond] = numbers[..] else { return Err(format!("not counts: {text}").into()) };
        Ok(Self { logs, records, acks, beyond })
    }
}

/// The process that checks. Its input is what the workload said; without a cut the log is checked where it is.
pub(crate) fn run(dir: &Path, cut: Option<(Cut, u64)>) -> Result {
    let said = io::read_to_string(io::stdin())?;
    let found = match cut {
        Some((cut, seed)) => check(dir, &Expected::at(&said, cut)?, seed)?,
        None => check_in_place(dir, &Expected::at(&said, Cut::NONE)?)?,
    };
    println!("{}", found.to_text());
    Ok(())
}

/// Checks the log in `dir`, from a boot that never was before.
fn check(dir: &Path, expected: &Expected, seed: u64) -> Result<Found> {
    let mut random = Random(seed);
    let first = machine(dir, &mut random);
    if !dir.exists() {
        return if expected.acks == 0 { Ok(Found::default()) } else { Err("there is no log".into()) };
    }
    // Reading alone must not need a recovery that writes.
    if random.one_in(4) && expected.acks > 0 {
        let log = first.read_only().strict().open().map_err(at("a read-only open"))?;
        compare(&log, expected, &mut HashMap::new()).map_err(at("read-only"))?;
    }
    let log = machine(dir, &mut random).strict().open().map_err(at("the open"))?;
    let mut ends = HashMap::new();
    let found = compare(&log, expected, &mut ends).map_err(at("opened"))?;

    go_on(&log, &mut ends, &mut random).map_err(at("going on"))?;
    match random.below(3) {
        0 => drop(log),
        _ => log.close().map_err(at("the close"))?,
    }
    let log = machine(dir, &mut random).strict().open().map_err(at("the second open"))?;
    compare(&log, expected, &mut ends).map_err(at("reopened"))?;
    log.close().map_err(at("the second close"))?;
    Ok(Found { acks: expected.acks, ..found })
}

/// Checks the log where it is, after a fault and without a restart. A disk that goes on failing says nothing of it.
fn check_in_place(dir: &Path, expected: &Expected) -> Result<Found> {
    let log = match Log::builder(dir).background(Background::Caller).strict().open() {
        Ok(log) => log,
        Err(error) if is_of_disk(&error) => return Ok(Found::default()),
        Err(error) => return Err(at("the open in place")(error)),
    };
    match compare(&log, expected, &mut HashMap::new()) {
        Ok(found) => Ok(found),
        Err(error) if error.downcast_ref().is_some_and(is_of_disk) => Ok(Found::default()),
        Err(error) => Err(at("opened in place")(error)),
    }
}

fn is_of_disk(error: &chiplog::Error) -> bool {
    error.kind() == chiplog::ErrorKind::Io
}

/// Names the step an error came from.
fn at<E: std::fmt::Display>(step: &'static str) -> impl Fn(E) -> Box<dyn std::error::Error + Send + Sync> {
    move |error| format!("{step}: {error}").into()
}

/// How the log is opened by a machine that was started anew.
fn machine(dir: &Path, random: &mut Random) -> LogBuilder {
    let boot = BootId(u128::from(random.next()).to_be_bytes());
    let disk = Changed { boot: Some(boot), forgets_flushes: false };
    // A thread would begin at once with what retention is due.
    Log::builder(dir).disk(Arc::new(disk)).background(Background::Caller)
}

/// Appends to everything, some of it synced.
fn go_on(log: &Log, ends: &mut Ends, random: &mut Random) -> Result {
    for (name, durability) in [(OS, Durability::Os), (EACH, Durability::Each), (EVERY, Durability::Os)] {
        let topic = match log.find_topic(name) {
            Some(topic) => topic,
            None => log.create_topic(name, TopicConfig::default().durability(durability))?,
        };
        for number in 0..topic.partition_count() {
            let partition = topic.partition(number)?;
            let end = ends.entry((name.to_owned(), number)).or_insert(0);
            for _ in 0..1 + random.below(3) {
                let appended = partition.append(Record::new(AFTER))?;
                if appended.offset().0 != *end {
                    return Err(format!("{name}-{number}: {} was given, not {end}", appended.offset()).into());
                }
                *end += 1;
                if random.one_in(2) {
                    appended.wait(Ack::Synced)?;
                }
            }
        }
    }
    log.maintain()?;
    Ok(())
}

/// Where each partition ended, by name.
type Ends = HashMap<(String, u32), u64>;

/// Compares all there is. `ends` says where partitions have to end, if that is known; what it does not know it is told.
fn compare(log: &Log, expected: &Expected, ends: &mut Ends) -> Result<Found> {
    if let Some(damage) = log.damaged().first() {
        return Err(format!("{:?}: {}", damage.partition, damage.error).into());
    }
    let mut found = Found { logs: 1, ..Found::default() };
    for (name, fate) in &expected.topics {
        // Those that stay are made again when the cut came before them.
        let is_new = ends.keys().any(|(topic, _)| topic == name);
        let Some(topic) = log.find_topic(name) else {
            if *fate == Fate::There {
                return Err(format!("topic {name} is gone").into());
            }
            continue;
        };
        if *fate == Fate::Gone && !is_new {
            return Err(format!("topic {name} is back").into());
        }
        for number in 0..topic.partition_count() {
            let key = (name.clone(), number);
            let unknown = expected::Partition::default();
            let expected = expected.partitions.get(&key).unwrap_or(&unknown);
            let partition = topic.partition(number)?;
            let wanted = ends.get(&key).copied();
            let step = || format!("{name}-{number}");
            let (records, beyond) =
                compare_partition(&partition, expected, wanted).map_err(|error| within(&step(), error))?;
            let end = partition.offsets().end.0;
            compare_committed(log, name, number, expected, end).map_err(|error| within(&step(), error))?;
            ends.insert(key, end);
            found.records += records;
            found.beyond += beyond;
        }
    }
    Ok(found)
}

/// Names the partition in an error, and keeps one of the log as it is.
fn within(
    partition: &str,
    error: Box<dyn std::error::Error + Send + Sync>,
) -> Box<dyn std::error::Error + Send + Sync> {
    if error.is::<chiplog::Error>() { error } else { format!("{partition}: {error}").into() }
}

/// Returns how many records there are, and how many beyond those that were acknowledged.
fn compare_partition(
    partition: &chiplog::Partition,
    expected: &expected::Partition,
    wanted: Option<u64>,
) -> Result<(u64, u64)> {
    let (start, end) = (partition.offsets().start.0, partition.offsets().end.0);
    // Retention went on meanwhile.
    let deleting = if wanted.is_some() { end } else { expected.deleting };
    if start < expected.deleted || start > deleting {
        return Err(format!("it starts at {start}, not in {}..={deleting}", expected.deleted).into());
    }
    if end < expected.synced || wanted.is_some_and(|wanted| wanted != end) {
        return Err(format!("it ends at {end}, was synced up to {}, should be {wanted:?}", expected.synced).into());
    }
    let (mut next, mut once, mut last) = (start, HashSet::new(), HashMap::new());
    let mut after = None;
    while next < end {
        let records = partition.read(Offset(next))?;
        for record in &records {
            let offset = record.offset.0;
            if offset != next {
                return Err(format!("{offset} follows where {next} should").into());
            }
            next += 1;
            if record.value == Some(AFTER.as_bytes()) || record.value == Some(LAST_WORD.as_bytes()) {
                after = after.or(Some(offset));
                continue;
            }
            let id = Id::of(partition.topic(), &record).ok_or_else(|| format!("nobody wrote what is at {offset}"))?;
            let known = expected.known.get(&offset);
            if known != Some(&id) || after.is_some() {
                return Err(format!("{offset} has {id:?}, and should have {known:?}; {AFTER} at {after:?}").into());
            }
            if !once.insert(id) {
                return Err(format!("{id:?} is there twice").into());
            }
            // A thread appends one after the other: what is there of it has no hole.
            let before = last.insert((id.life, id.thread), id.count);
            if before.is_some_and(|before| before + 1 != id.count) {
                return Err(format!("{id:?} comes after number {before:?}").into());
            }
        }
        if records.is_empty() {
            return Err(format!("nothing can be read at {next}").into());
        }
    }
    if after.is_some_and(|after| after < expected.synced) {
        return Err(format!("{AFTER} at {after:?}, below {}, which was synced", expected.synced).into());
    }
    Ok((end - start, end - expected.synced))
}

fn compare_committed(log: &Log, topic: &str, number: u32, expected: &expected::Partition, end: u64) -> Result {
    let committed = log.group(GROUP)?.committed(topic, number)?.map(|committed| committed.offset.0);
    // A commit that is under way may be there or not.
    let is_one_of_two = committed == expected.committed || committed == expected.committing;
    if !is_one_of_two || committed > Some(end) {
        let (acked, under_way) = (expected.committed, expected.committing);
        return Err(format!("{committed:?} is committed, acknowledged {acked:?}, under way {under_way:?}").into());
    }
    Ok(())
}
