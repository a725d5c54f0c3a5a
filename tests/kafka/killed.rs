//! Logs of processes that were killed while they wrote, opened again, gone on with and closed.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use chiplog::{Durability, Log, Record, Staging, Topic, TopicConfig};

use crate::Result;
use crate::lines::{self, Lines, base64};
use crate::random::Random;

const TOPICS: [&str; 3] = ["plain", "packed", "synced"];
const THREADS: u64 = 2;
/// How often a log is killed.
const KILLS: u64 = 2;

/// Writes one log; every other one stages.
pub(crate) fn write(dir: &Path, seed: u64) -> Result {
    let dir = dir.join(format!("killed-{seed}"));
    let staging = if seed.is_multiple_of(2) { Staging::On } else { Staging::Off };
    let mut acknowledged = Vec::new();
    for kill in 0..KILLS {
        acknowledged.extend(run_child(&dir, seed * KILLS + kill, staging)?);
    }
    let log = Log::builder(&dir).staging(staging).open()?;
    if let Some(damage) = log.damaged().first() {
        return Err(format!("{}, {:?}: {}", dir.display(), damage.partition, damage.error).into());
    }
    for topic in log.topics() {
        for partition in 0..topic.partition_count() {
            topic.partition(partition)?.append(&*format!("after {KILLS} kills"))?;
        }
    }
    log.close()?;
    let lines = lines::read(&dir)?;
    acknowledged
        .iter()
        .try_for_each(|ack| check(&lines, ack))
        .map_err(|error| format!("{}: {error}", dir.display()))?;
    lines::store(&dir, &lines)
}

/// What a child said it had appended.
struct Ack {
    topic: String,
    partition: u32,
    offset: u64,
    thread: u64,
    number: u64,
}

impl Ack {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        Some(Self {
            topic: words.next()?.to_owned(),
            partition: words.next()?.parse().ok()?,
            offset: words.next()?.parse().ok()?,
            thread: words.next()?.parse().ok()?,
            number: words.next()?.parse().ok()?,
        })
    }
}

fn check(lines: &Lines, ack: &Ack) -> Result {
    let Ack { topic, partition, offset, thread, number } = ack;
    let found = lines.get(&(topic.clone(), *partition, *offset)).map(|line| &line["value"]);
    let expected = base64(Some(&value(*thread, *number)));
    if found.and_then(|value| value.as_str()) == expected.as_deref() {
        return Ok(());
    }
    Err(format!("{topic}-{partition}, offset {offset}: acknowledged, and there is {found:?}").into())
}

/// Lets a child work for a moment and kills it. Returns what it had acknowledged.
fn run_child(dir: &Path, seed: u64, staging: Staging) -> Result<Vec<Ack>> {
    let staging = if staging == Staging::On { "on" } else { "off" };
    let mut child = Command::new(std::env::current_exe()?)
        .arg("child")
        .arg(dir)
        .args([&seed.to_string(), staging])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut pipe = child.stdout.take().ok_or("a child without a pipe")?;
    // Not before it is at work.
    let mut said = vec![0];
    pipe.read_exact(&mut said)?;
    let reader = std::thread::spawn(move || pipe.read_to_end(&mut said).map(|_| said));
    std::thread::sleep(Duration::from_millis(20 + Random(seed).below(60)));
    child.kill()?;
    child.wait()?;
    let said = reader.join().map_err(|_| "the reader of the pipe panicked")??;
    let whole = said.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let said = String::from_utf8(said[..whole].to_vec())?;
    said.lines().map(|line| Ack::parse(line).ok_or_else(|| format!("a child says: {line}").into())).collect()
}

/// Appends until it is killed.
pub(crate) fn child(dir: &Path, seed: &str, staging: &str) -> Result {
    let seed: u64 = seed.parse()?;
    let staging = if staging == "on" { Staging::On } else { Staging::Off };
    let log = Log::builder(dir).staging(staging).linger(Duration::from_millis(5)).open()?;
    let topics = TOPICS.into_iter().map(|name| topic(&log, name)).collect::<Result<Vec<_>>>()?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn({
                    let topics = &topics;
                    move || work(topics, thread, seed)
                })
            })
            .collect();
        // Only errors come back.
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a panic".into())))
    })
}

fn topic(log: &Log, name: &str) -> Result<Topic> {
    if let Some(topic) = log.find_topic(name) {
        return Ok(topic);
    }
    let config = TopicConfig::default().partitions(2).segment_bytes(16_384).index_interval_bytes(500);
    let config = match name {
        "packed" if cfg!(feature = "lz4") => config.set("compression.type", "lz4")?,
        "synced" => config.durability(Durability::Every { records: Some(9), time: None }),
        _ => config,
    };
    Ok(log.create_topic(name, config)?)
}

fn work(topics: &[Topic], thread: u64, seed: u64) -> Result {
    let mut random = Random(seed << 8 | thread);
    // The next child of the log must not say the same.
    for number in (seed << 32).. {
        let topic = &topics[random.below(topics.len() as u64) as usize];
        let partition = topic.partition(random.below(2) as u32)?;
        let offset = partition.append(Record::new(&value(thread, number)).key("k"))?.offset();
        let line = format!("{} {} {offset} {thread} {number}\n", topic.name(), partition.number());
        // In one write: a line is whole or not there.
        io::stdout().lock().write_all(line.as_bytes())?;
    }
    Ok(())
}

fn value(thread: u64, number: u64) -> Vec<u8> {
    let mut random = Random(thread << 56 ^ number);
    let mut value = format!("{thread} {number} ").into_bytes();
    let len = random.below(200);
    value.extend(random.bytes(len));
    value
}
