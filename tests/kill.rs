//! Kill torture: a process that works on a log is killed at a random moment, again and again, and everything it had
//! acknowledged must be there.
//!
//! ```text
//! kill [--kills N] [--goal N] [--seed N]
//!
//! parent --spawns--> child: opens, appends from threads, syncs, commits, deletes
//!    ^                  |
//!    '-- acks (pipe) ---'   after SIGKILL: open, read everything, compare; then the next child goes on
//! ```
//!
//! A directory lives through a few children; each directory has settings of its own, drawn from the seed. What a child
//! announces in capitals it is about to do; in small letters, that the call returned. Half of the kills are with small
//! appends staged, in directories where that is on; without any such place the run fails. After each kill the log is
//! read twice: by one that may change nothing, and by one that goes on with it.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use chiplog::{
    Ack, Background, Durability, Log, LogBuilder, Offset, Partition, Record, Staging, StagingStats, Topic,
    TopicConfig,
};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const TOPIC: &str = "work";
const GROUP: &str = "followers";
/// How many children work on one directory.
const CHILDREN_A_DIR: u64 = 10;
/// The longest a child is left to work.
const MOST_WORK: Duration = Duration::from_millis(40);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, dir, seed, generation, mode] = &arguments[..]
        && first == "child"
    {
        let (Ok(seed), Ok(generation)) = (seed.parse(), generation.parse()) else { return ExitCode::FAILURE };
        let staging = if mode == "on" { Staging::On } else { Staging::Off };
        let Err(error) = work(Path::new(dir), seed, generation, staging) else { return ExitCode::SUCCESS };
        say(&format!("error {error:?}"));
        return ExitCode::FAILURE;
    }
    let number = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse::<u64>().ok()
    };
    // A few by default, so that running all tests stays quick.
    let kills = number("--kills").unwrap_or(10);
    torture(kills, number("--goal").unwrap_or(kills), number("--seed").unwrap_or_else(seed_of_now))
}

// --- The parent ----------------------------------------------------------------------------------------------------

fn torture(kills: u64, goal: u64, seed: u64) -> ExitCode {
    let began = Instant::now();
    let mut random = Random(seed);
    let places = match places() {
        Ok(places) => places,
        Err(error) => {
            println!("FAILED: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut total = Round::default();
    let mut done = 0;
    for (staging, share) in [(Staging::On, kills.div_ceil(2)), (Staging::Off, kills / 2)] {
        match half(staging, share, &places, &mut random) {
            Ok(found) => total.add(&found),
            Err(error) => {
                println!("FAILED: {error}; seed {seed}");
                println!("{done} passed, 1 failed");
                return ExitCode::FAILURE;
            }
        }
        done += share;
    }
    let Round { acks, records, left } = total;
    println!("{acks} acknowledgements, {records} records read back, {:.1?}, seed {seed}", began.elapsed());
    println!("count kills {done} {goal}");
    println!("count kills with staging {} {}", kills.div_ceil(2), goal.div_ceil(2));
    println!("count kills without staging {} {}", kills / 2, goal / 2);
    // Else it was never in the hands of a kill.
    let least = goal / 20;
    println!("count kills that left something staged {left} {least}");
    println!("{done} passed, 0 failed");
    if done < goal || left < least { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Where directories are made that staging is on in: on the disk, in memory, or both.
fn places() -> Result<Vec<PathBuf>> {
    let mut places = Vec::new();
    for place in [std::env::temp_dir(), "/dev/shm".into()] {
        let Ok(dir) = tempfile::tempdir_in(&place) else { continue };
        let stats = Log::open(dir.path())?.stats()?;
        if matches!(stats.staging, StagingStats::On { .. }) {
            places.push(place);
        }
    }
    if places.is_empty() {
        return Err("staging is on neither in the temporary directory nor in /dev/shm".into());
    }
    Ok(places)
}

/// The kills of one kind, a few in each directory.
fn half(staging: Staging, kills: u64, places: &[PathBuf], random: &mut Random) -> Result<Round> {
    let (mut total, mut done) = (Round::default(), 0);
    while done < kills {
        let dir_seed = random.next();
        let dir = tempfile::tempdir_in(random.pick(places))?;
        let mut model = Model::default();
        for generation in 0..CHILDREN_A_DIR.min(kills - done) {
            match one_kill(dir.path(), dir_seed, generation, staging, random, &mut model) {
                Ok(found) => total.add(&found),
                Err(error) => {
                    let (kept, swarm) = (dir.keep(), Swarm::of(dir_seed));
                    let kept = kept.display();
                    return Err(format!(
                        "{error}\n  after {done} kills, staging {staging:?}; directory seed {dir_seed}, child {generation}\n  \
                         {swarm:?}; kept in {kept}"
                    )
                    .into());
                }
            }
            done += 1;
        }
    }
    Ok(total)
}

/// What one round did, or several.
#[derive(Debug, Default)]
struct Round {
    acks: u64,
    records: u64,
    /// Kills that left records in no segment file.
    left: u64,
}

impl Round {
    fn add(&mut self, other: &Self) {
        self.acks += other.acks;
        self.records += other.records;
        self.left += other.left;
    }
}

/// Lets a child work, kills it, and compares what it said with what is there.
fn one_kill(
    dir: &Path,
    seed: u64,
    generation: u64,
    staging: Staging,
    random: &mut Random,
    model: &mut Model,
) -> Result<Round> {
    let said = run_child(dir, seed, generation, staging, random)?;
    let acks = model.hear(&said)?;
    let swarm = Swarm::of(seed);
    let before = files(dir)?;
    let log = swarm.builder(dir, staging).read_only().open()?;
    let mut records = check(&log, model)?;
    let has_left = has_staged(&log)?;
    drop(log);
    if files(dir)? != before {
        return Err("reading alone has changed a file".into());
    }
    // The next child, or this process, is the one to recover.
    if random.one_in(2) {
        let log = swarm.builder(dir, staging).open()?;
        let found = check(&log, model)?;
        if records != found {
            return Err(format!("{records} records were read without repair, and {found} with it").into());
        }
        records = found;
        if random.one_in(2) {
            log.close()?;
        }
    }
    Ok(Round { acks, records, left: has_left.into() })
}

/// Whether the log has records that are in no segment file.
fn has_staged(log: &Log) -> Result<bool> {
    let Some(topic) = log.find_topic(TOPIC) else { return Ok(false) };
    for number in 0..topic.partition_count() {
        let partition = topic.partition(number)?;
        let written = partition.segments().last().map_or(partition.offsets().start, |last| last.end());
        if written < partition.offsets().end {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Every file below a directory: its length, when it was changed, and which one it is.
fn files(dir: &Path) -> Result<HashMap<PathBuf, (u64, i64, i64, u64)>> {
    use std::os::unix::fs::MetadataExt;
    let (mut found, mut dirs) = (HashMap::new(), vec![dir.to_owned()]);
    while let Some(at) = dirs.pop() {
        for entry in std::fs::read_dir(at)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                dirs.push(entry.path());
            } else {
                let what = (metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ino());
                found.insert(entry.path().strip_prefix(dir)?.to_owned(), what);
            }
        }
    }
    Ok(found)
}

/// Runs a child until it is killed. Returns what it said, in whole lines.
fn run_child(dir: &Path, seed: u64, generation: u64, staging: Staging, random: &mut Random) -> Result<String> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("child")
        .arg(dir)
        .args([seed.to_string(), generation.to_string()])
        .arg(if staging == Staging::On { "on" } else { "off" })
        .stdout(Stdio::piped())
        .spawn()?;
    let mut pipe = child.stdout.take().ok_or("a child without a pipe")?;
    let (begun, has_begun) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let (mut said, mut piece) = (Vec::new(), vec![0; 1 << 16]);
        while let Ok(len @ 1..) = pipe.read(&mut piece) {
            said.extend_from_slice(&piece[..len]);
            let _ = begun.send(());
        }
        said
    });
    // One in eight is killed while it opens, the others while they work.
    if !random.one_in(8) {
        let _ = has_begun.recv_timeout(Duration::from_secs(60));
    }
    std::thread::sleep(MOST_WORK.mul_f64(random.below(1000) as f64 / 1000.0));
    let was_alive = kill(&mut child)?;
    let mut said = reader.join().map_err(|_| "the reader of the pipe panicked")?;
    said.truncate(said.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1));
    let said = String::from_utf8(said)?;
    match was_alive {
        true => Ok(said),
        false => Err(format!("the child ended by itself: {:?}", said.lines().last()).into()),
    }
}

/// Kills a child; `false` if there was nothing left to kill.
fn kill(child: &mut Child) -> Result<bool> {
    use std::os::unix::process::ExitStatusExt;
    child.kill()?;
    Ok(child.wait()?.signal() == Some(9))
}

/// A record, by who wrote it: the thread of a child, and how many that thread had written to the partition before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Id {
    generation: u64,
    thread: u64,
    count: u64,
}

/// What must be true, by what the children said and what was found since.
#[derive(Debug, Default)]
struct Model {
    partitions: HashMap<u32, PartitionModel>,
    topics: HashMap<String, Fate>,
}

#[derive(Debug, Default)]
struct PartitionModel {
    /// What is known to be at each offset.
    known: HashMap<u64, Id>,
    /// The offset that deletion reached for sure, and the one it may have reached.
    deleted: u64,
    deleting: u64,
    committed: Option<u64>,
    synced: u64,
}

/// What is known of a topic that comes and goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    There,
    Unknown,
    Gone,
}

impl Model {
    /// Takes in what a child said. Returns how many lines those were.
    fn hear(&mut self, said: &str) -> Result<u64> {
        let mut count = 0;
        for line in said.lines() {
            let (what, rest) = line.split_once(' ').unwrap_or((line, ""));
            let numbers: Vec<u64> = rest.split(' ').filter_map(|word| word.parse().ok()).collect();
            match (what, &numbers[..]) {
                ("open", _) => {}
                ("appended", [partition, offset, records, generation, thread, first]) => {
                    let known = &mut self.partition(*partition).known;
                    for at in 0..*records {
                        let id = Id { generation: *generation, thread: *thread, count: first + at };
                        if let Some(other) = known.insert(offset + at, id) {
                            return Err(format!("offset {} was given to {other:?} and to {id:?}", offset + at).into());
                        }
                    }
                }
                ("synced", [partition, end]) => {
                    let synced = &mut self.partition(*partition).synced;
                    *synced = (*synced).max(*end);
                }
                ("committed", [partition, offset]) => self.partition(*partition).committed = Some(*offset),
                ("DELETE", [partition, offset]) => self.partition(*partition).deleting = *offset,
                ("deleted", [partition, offset]) => self.partition(*partition).deleted = *offset,
                ("CREATE" | "REMOVE", _) => drop(self.topics.insert(rest.to_owned(), Fate::Unknown)),
                ("created", _) => drop(self.topics.insert(rest.to_owned(), Fate::There)),
                ("removed", _) => drop(self.topics.insert(rest.to_owned(), Fate::Gone)),
                _ => return Err(format!("the child says: {line}").into()),
            }
            count += 1;
        }
        Ok(count)
    }

    fn partition(&mut self, number: u64) -> &mut PartitionModel {
        self.partitions.entry(number as u32).or_default()
    }
}

/// Reads everything and compares. What was found is known from here on, acknowledged or not.
fn check(log: &Log, model: &mut Model) -> Result<u64> {
    if let Some(damage) = log.damaged().first() {
        return Err(format!("{:?}: {}", damage.partition, damage.error).into());
    }
    for (name, fate) in &mut model.topics {
        let is_there = log.find_topic(name).is_some();
        if (*fate == Fate::There && !is_there) || (*fate == Fate::Gone && is_there) {
            return Err(format!("topic {name} is {fate:?}, and there: {is_there}").into());
        }
        *fate = if is_there { Fate::There } else { Fate::Gone };
    }
    let Some(topic) = log.find_topic(TOPIC) else {
        return if model.partitions.is_empty() { Ok(0) } else { Err("the topic is gone".into()) };
    };
    let mut records = 0;
    for number in 0..topic.partition_count() {
        let expected = model.partition(number.into());
        let partition = topic.partition(number)?;
        let found = read_all(&partition)?;
        compare(&partition, &found, expected).map_err(|error| format!("partition {number}: {error}"))?;
        let committed = log.group(GROUP)?.committed(TOPIC, number)?.map(|committed| committed.offset.0);
        if committed < expected.committed || committed > Some(partition.offsets().end.0) {
            let acked = expected.committed;
            return Err(format!("partition {number}: committed {committed:?}, acknowledged {acked:?}").into());
        }
        expected.committed = committed;
        records += found.len() as u64;
        expected.known = found.into_iter().collect();
    }
    Ok(records)
}

/// Every record with its offset; each must say what its writer wrote.
fn read_all(partition: &Partition) -> Result<Vec<(u64, Id)>> {
    let mut found = Vec::new();
    let mut at = partition.offsets().start;
    while at < partition.offsets().end {
        let records = partition.read(at)?;
        for record in &records {
            let value = record.value.ok_or("a record without a value")?;
            let id = Id::of(value).ok_or_else(|| format!("nobody wrote the record at {}", record.offset))?;
            found.push((record.offset.0, id));
        }
        if records.next_offset() <= at {
            return Err(format!("nothing can be read at {at}").into());
        }
        at = records.next_offset();
    }
    Ok(found)
}

fn compare(partition: &Partition, found: &[(u64, Id)], expected: &mut PartitionModel) -> Result<()> {
    let offsets = partition.offsets();
    let (start, end) = (offsets.start.0, offsets.end.0);
    if start < expected.deleted || start > expected.deleting {
        return Err(format!("it starts at {start}, not in {}..={}", expected.deleted, expected.deleting).into());
    }
    if end < expected.synced {
        return Err(format!("it ends at {end}, and was synced up to {}", expected.synced).into());
    }
    (expected.deleted, expected.deleting) = (start, start);
    if !found.iter().map(|(offset, _)| *offset).eq(start..end) {
        return Err(format!("offsets are not those from {start} to {end}").into());
    }
    let lost = expected.known.iter().find(|(offset, _)| **offset >= end);
    if let Some((offset, id)) = lost {
        return Err(format!("{id:?} at {offset} is lost: it ends at {end}").into());
    }
    let (mut once, mut last) = (HashSet::new(), HashMap::new());
    for (offset, id) in found {
        if let Some(other) = expected.known.get(offset).filter(|known| *known != id) {
            return Err(format!("offset {offset} has {id:?}, and had {other:?}").into());
        }
        if !once.insert(id) {
            return Err(format!("{id:?} is there twice").into());
        }
        // A thread appends one after the other: what is there of it has no hole.
        let before = last.insert((id.generation, id.thread), id.count);
        if before.is_some_and(|before| before + 1 != id.count) {
            return Err(format!("{id:?} comes after number {before:?}").into());
        }
    }
    Ok(())
}

// --- The child -----------------------------------------------------------------------------------------------------

/// Settings of a directory: each seed turns some things off and draws the sizes.
#[derive(Debug)]
struct Swarm {
    durability: Durability,
    codec: &'static str,
    partitions: u32,
    segment_bytes: u32,
    threads: u64,
    background: Background,
    most_padding: u64,
    deletes: bool,
    commits: bool,
    makes_topics: bool,
    /// How many partitions can stage at once, and how long.
    slots: u32,
    linger: Duration,
}

impl Swarm {
    fn of(seed: u64) -> Self {
        let random = &mut Random(seed);
        let every = Durability::Every { records: Some(5), time: Some(Duration::from_millis(5)) };
        let mut codecs = vec!["uncompressed", "producer"];
        codecs.extend(cfg!(feature = "lz4").then_some("lz4"));
        codecs.extend(cfg!(feature = "snappy").then_some("snappy"));
        codecs.extend(cfg!(feature = "gzip").then_some("gzip"));
        codecs.extend(cfg!(feature = "zstd").then_some("zstd"));
        let segment_bytes = *random.pick(&[1 << 11, 1 << 14, 1 << 18]);
        Self {
            durability: *random.pick(&[Durability::Os, Durability::Os, every, Durability::Each]),
            codec: codecs[random.below(codecs.len() as u64) as usize],
            partitions: 1 + random.below(3) as u32,
            segment_bytes,
            threads: 1 + random.below(3),
            background: *random.pick(&[Background::Thread, Background::Caller]),
            // The largest batch has 16 records, and has to fit in a segment.
            most_padding: (*random.pick(&[1, 50, 1000])).min(u64::from(segment_bytes) / 40),
            deletes: random.one_in(2),
            commits: random.one_in(2),
            makes_topics: random.one_in(2),
            slots: *random.pick(&[1, 2, 64]),
            linger: *random.pick(&[Duration::from_millis(1), Duration::from_millis(8), Duration::from_secs(1)]),
        }
    }

    fn builder(&self, dir: &Path, staging: Staging) -> LogBuilder {
        let builder = Log::builder(dir).background(self.background);
        builder.staging(staging).staging_slots(self.slots).linger(self.linger)
    }

    fn config(&self) -> Result<TopicConfig> {
        let config = TopicConfig::default().partitions(self.partitions).segment_bytes(self.segment_bytes);
        Ok(config.durability(self.durability).set("compression.type", self.codec)?)
    }
}

/// Works until it is killed.
fn work(dir: &Path, seed: u64, generation: u64, staging: Staging) -> Result<()> {
    let swarm = Swarm::of(seed);
    let log = swarm.builder(dir, staging).open()?;
    say("open");
    let topic = match log.find_topic(TOPIC) {
        Some(topic) => topic,
        None => log.create_topic(TOPIC, swarm.config()?)?,
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..swarm.threads)
            .map(|thread| {
                let random = Random(seed ^ generation << 32 ^ thread << 48);
                let mut worker = Worker { generation, thread, random, log: &log, swarm: &swarm, counts: Vec::new() };
                let topic = &topic;
                scope.spawn(move || worker.run(topic))
            })
            .collect();
        // Only errors come back.
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a panic".into())))
    })
}

struct Worker<'a> {
    generation: u64,
    thread: u64,
    random: Random,
    log: &'a Log,
    swarm: &'a Swarm,
    /// How many records it has appended to each partition.
    counts: Vec<u64>,
}

impl Worker<'_> {
    fn run(&mut self, topic: &Topic) -> Result<()> {
        self.counts = vec![0; topic.partition_count() as usize];
        loop {
            let partition = topic.partition(self.random.below(topic.partition_count().into()) as u32)?;
            // What only one thread does needs no order with the others.
            let is_first = self.thread == 0;
            match self.random.below(200) {
                0..=159 => self.append(&partition, 1)?,
                160..=179 => {
                    let count = 2 + self.random.below(15);
                    self.append(&partition, count)?;
                }
                180..=185 => self.sync(&partition)?,
                186..=189 if is_first && self.swarm.commits => self.commit(&partition)?,
                190..=191 if is_first && self.swarm.deletes => self.delete(&partition)?,
                192 if is_first && self.swarm.makes_topics => self.make_topic()?,
                193..=196 if self.swarm.background == Background::Caller => drop(self.log.maintain()?),
                _ => {}
            }
        }
    }

    fn append(&mut self, partition: &Partition, records: u64) -> Result<()> {
        let count = &mut self.counts[partition.number() as usize];
        let (generation, thread, first) = (self.generation, self.thread, *count);
        let ids = (first..first + records).map(|count| Id { generation, thread, count });
        let values: Vec<Vec<u8>> = ids.map(|id| id.to_value(self.swarm.most_padding)).collect();
        let appended = match &values[..] {
            [one] => partition.append(one)?,
            several => partition.append_all(several.iter().map(Record::new))?,
        };
        *count += records;
        let (partition, offset) = (partition.number(), appended.offset());
        say(&format!("appended {partition} {offset} {records} {generation} {thread} {first}"));
        Ok(())
    }

    fn sync(&mut self, partition: &Partition) -> Result<()> {
        let end = partition.offsets().end;
        if self.random.one_in(2) {
            partition.sync()?;
        } else {
            partition.append_all([Record::new(&self.next_value(partition))])?.wait(Ack::Synced)?;
        }
        say(&format!("synced {} {end}", partition.number()));
        Ok(())
    }

    /// The value of one more record, which nobody is told about: it may be there or not.
    fn next_value(&mut self, partition: &Partition) -> Vec<u8> {
        let count = &mut self.counts[partition.number() as usize];
        *count += 1;
        Id { generation: self.generation, thread: self.thread, count: *count - 1 }.to_value(self.swarm.most_padding)
    }

    fn commit(&self, partition: &Partition) -> Result<()> {
        let end = partition.offsets().end;
        self.log.group(GROUP)?.commit(TOPIC, partition.number(), end)?;
        say(&format!("committed {} {end}", partition.number()));
        Ok(())
    }

    fn delete(&mut self, partition: &Partition) -> Result<()> {
        let offsets = partition.offsets();
        let to = Offset(offsets.start.0 + self.random.below(offsets.end - offsets.start + 1));
        say(&format!("DELETE {} {to}", partition.number()));
        self.log.delete_before(TOPIC, partition.number(), to)?;
        say(&format!("deleted {} {to}", partition.number()));
        Ok(())
    }

    /// Creates one of a few topics, or removes it if it is there.
    fn make_topic(&mut self) -> Result<()> {
        let name = format!("t{}", self.random.below(3));
        if self.log.find_topic(&name).is_some() {
            say(&format!("REMOVE {name}"));
            self.log.delete_topic(&name)?;
            say(&format!("removed {name}"));
        } else {
            say(&format!("CREATE {name}"));
            let topic = self.log.create_topic(&name, self.swarm.config()?)?;
            say(&format!("created {name}"));
            let _ = topic.append("something to remove")?;
        }
        Ok(())
    }
}

impl Id {
    /// A record's value says who wrote it; its padding follows from that, so that any byte can be checked.
    fn to_value(self, most_padding: u64) -> Vec<u8> {
        let Self { generation, thread, count } = self;
        let mut random = Random(generation << 48 ^ thread << 32 ^ count);
        let mut value = format!("{most_padding} {generation} {thread} {count} ").into_bytes();
        let len = random.below(most_padding);
        value.extend((0..len).map(|_| random.next() as u8));
        value
    }

    /// Who wrote this value; `None` if nobody did.
    fn of(value: &[u8]) -> Option<Self> {
        let mut numbers = value.splitn(5, |byte| *byte == b' ');
        let mut number = || std::str::from_utf8(numbers.next()?).ok()?.parse().ok();
        let most_padding = number()?;
        let id = Self { generation: number()?, thread: number()?, count: number()? };
        (id.to_value(most_padding) == value).then_some(id)
    }
}

/// Tells the parent, in one write: a line is whole or not there.
fn say(line: &str) {
    // A parent that is gone cannot be told; the kill comes with it or the test is over.
    if io::stdout().lock().write_all(format!("{line}\n").as_bytes()).is_err() {
        std::process::exit(3);
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// Another one each time; printed, so that a run can be repeated.
fn seed_of_now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(1, |since| since.as_nanos() as u64)
}
