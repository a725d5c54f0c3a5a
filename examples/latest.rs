//! The latest line of each key: a log of lines goes into a compacted topic, again and again, while the process is killed.
//!
//! ```text
//! lines --key: the address after `from`--> sessions (compacted) --> Table: the latest line of each address
//! ```
//!
//! `cargo run --release --example latest -- --repeat 1000 --kills 20 sshd.log` starts itself, kills that in the midst of
//! appends and compactions, and looks each time: the table is what a map of the lines so far says. In the end the topic is
//! compacted to one record of each address, and the table is the same.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use std::{fs, thread};

use chiplog::{Cleanup, Log, Offset, Record, Table, Topic, TopicConfig};
use clap::Parser;

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// Puts lines into a compacted topic, is killed meanwhile, and checks that the latest line of each key is there.
#[derive(Debug, Clone, Parser)]
struct Options {
    /// A file of lines; those with an address after `from` count
    input: PathBuf,
    /// How many times all of them are appended
    #[arg(long, value_name = "N", default_value_t = 100)]
    repeat: u64,
    /// How many times the process that appends and compacts is killed
    #[arg(long, value_name = "N", default_value_t = 10)]
    kills: u64,
    /// The directory of the log, which is kept [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Append until all is there, or the process is killed: what this program starts itself with
    #[arg(long, hide = true)]
    work: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match &options.data {
        Some(dir) if options.work => work(dir, &options),
        Some(dir) => survive(dir, &options),
        None => tempfile::tempdir().map_err(Into::into).and_then(|dir| survive(dir.path(), &options)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("latest: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The lines that have a key, behind it.
fn keyed(text: &str) -> Vec<(&str, &str)> {
    let key = |line| -> Option<&str> { str::split_once(line, " from ")?.1.split_whitespace().next() };
    text.lines().filter_map(|line| Some((key(line)?, line))).collect()
}

/// Appends line after line, going on where the process before was killed: there is one offset for each.
fn work(dir: &Path, options: &Options) -> Result<()> {
    let text = fs::read_to_string(&options.input)?;
    let lines = keyed(&text);
    let (log, topic) = open(dir)?;
    let all = lines.len() as u64 * options.repeat;
    for at in topic.partition(0)?.offsets().end.0..all {
        let (key, line) = lines[(at % lines.len() as u64) as usize];
        topic.append(Record::new(&value(at, line)).key(key))?;
    }
    // What is left to compact is compacted behind our back, until somebody kills us.
    thread::sleep(Duration::from_secs(60));
    Ok(log.close()?)
}

fn value(at: u64, line: &str) -> String {
    format!("{at} {line}")
}

fn open(dir: &Path) -> Result<(Log, Topic)> {
    let log = Log::builder(dir).compaction_interval(Duration::from_millis(5)).open()?;
    let config =
        TopicConfig::default().cleanup(Cleanup::Compact).segment_bytes(1 << 20).min_cleanable_dirty_ratio(0.1);
    let topic = log.topic_with("sessions", config)?;
    Ok((log, topic))
}

/// Starts, kills and checks, again and again; then compacts all of it.
fn survive(dir: &Path, options: &Options) -> Result<()> {
    let text = fs::read_to_string(&options.input)?;
    let lines = keyed(&text);
    if lines.is_empty() {
        return Err("no line has an address after `from`".into());
    }
    let (began, all) = (Instant::now(), lines.len() as u64 * options.repeat);
    let mut end = 0;
    for kill in 0..options.kills {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--work", "--repeat", &options.repeat.to_string(), "--data"])
            .args([dir, &options.input])
            .spawn()?;
        thread::sleep(Duration::from_millis(20 + kill * 7_919 % 400));
        child.kill()?;
        child.wait()?;
        let (log, topic) = open(dir)?;
        let found = topic.partition(0)?.offsets().end.0;
        check(&topic.table()?, &lines, found).map_err(|error| format!("after kill {kill}: {error}"))?;
        if found < end {
            return Err(format!("after kill {kill}: {found} records, where {end} were").into());
        }
        end = found;
        log.close()?;
    }
    let (log, topic) = open(dir)?;
    for at in end..all {
        let (key, line) = lines[(at % lines.len() as u64) as usize];
        topic.append(Record::new(&value(at, line)).key(key))?;
    }
    compact_all(&log, &topic, lines.iter().map(|line| line.0).collect::<HashSet<_>>().len())?;
    let keys = check(&topic.table()?, &lines, all)?;
    check(&topic.table_within(keys)?, &lines, all)?;
    let left = count(&topic)?;
    println!(
        "{} kills in {:.1} s: {all} lines of {keys} addresses, {left} records are left, the table equals the map",
        options.kills,
        began.elapsed().as_secs_f64()
    );
    log.close()?;
    if left == keys + 1 { Ok(()) } else { Err(format!("{left} records for {keys} keys and a tombstone").into()) }
}

/// Has everything compacted down to `keys` records and a last one, which says that a key is deleted that nobody has.
fn compact_all(log: &Log, topic: &Topic, keys: usize) -> Result<()> {
    let lag = Duration::from_millis(1);
    log.alter_topic(topic.name(), topic.config().min_cleanable_dirty_ratio(0.0).max_compaction_lag(lag))?;
    thread::sleep(2 * lag);
    topic.append(Record::tombstone("nobody"))?;
    let began = Instant::now();
    while count(topic)? > keys + 1 && began.elapsed() < Duration::from_secs(60) {
        log.maintain()?;
    }
    Ok(())
}

/// Compares the table with a map of the first `end` lines. Returns how many keys there are.
fn check(table: &Table, lines: &[(&str, &str)], end: u64) -> Result<usize> {
    let mut map = HashMap::new();
    let count = lines.len() as u64;
    // What comes before the last round is there again in it.
    for at in end.saturating_sub(count)..end {
        let (key, line) = lines[(at % count) as usize];
        map.insert(key.as_bytes().to_vec(), value(at, line).into_bytes());
    }
    let mut found = HashMap::new();
    table.for_each(|key, value| drop(found.insert(key.to_vec(), value.to_vec())))?;
    if found != map {
        return Err(format!("{} keys in the table, {} in the map, or other values", found.len(), map.len()).into());
    }
    Ok(map.len())
}

fn count(topic: &Topic) -> Result<usize> {
    let (partition, mut at, mut count) = (topic.partition(0)?, Offset::ZERO, 0);
    loop {
        let records = partition.read(at)?;
        if records.next_offset() == at {
            return Ok(count);
        }
        count += records.iter().count();
        at = records.next_offset();
    }
}
