//! A partition of which a tenth is live, compacted by one thread; and readers beside that.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use chiplog::{Background, Cleanup, Log, Offset, Record, TopicConfig};

use super::super::bare::verify_only;
use super::super::race::{Contender, Work};
use super::super::system::{Shape, Sum, random_numbers};
use super::super::work::unprepared;
use super::TOPIC;

const SHAPE: Shape = Shape::batch_of(1_024);
/// Of so many records one is the last of its key.
const LIVE: u64 = 10;
/// What is read beside the compaction.
const OTHER: &str = "other";

/// Who does what.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Compacts.
    Compacts,
    /// Checks the checksums of all batches twice: as often as a compaction reads them.
    Walks,
    /// Reads another topic for as long as the compaction of this takes.
    ReadsBeside,
    /// Reads as much, and nothing is compacted.
    ReadsAlone,
}

/// A log with something to compact.
pub(crate) struct Compacted {
    role: Role,
    bytes: u64,
    dir: PathBuf,
    log: Option<Log>,
    /// What is left of each partition, if it is compacted.
    sum: Sum,
    read: u64,
    took: Duration,
}

impl Compacted {
    fn of(role: Role, bytes: u64) -> Self {
        let (dir, sum, took) = (PathBuf::new(), Sum::default(), Duration::ZERO);
        Self { role, bytes, dir, log: None, sum, read: 0, took }
    }

    pub(crate) fn ours(bytes: u64) -> Self {
        Self::of(Role::Compacts, bytes)
    }

    pub(crate) fn walked(bytes: u64) -> Self {
        Self::of(Role::Walks, bytes)
    }

    pub(crate) fn beside(bytes: u64) -> Self {
        Self::of(Role::ReadsBeside, bytes)
    }

    pub(crate) fn alone(bytes: u64) -> Self {
        Self::of(Role::ReadsAlone, bytes)
    }

    fn compacts(&self) -> bool {
        matches!(self.role, Role::Compacts | Role::ReadsBeside)
    }

    fn config(&self) -> TopicConfig {
        let segment_bytes = (self.bytes / 8).clamp(1 << 20, 128 << 20) as u32;
        TopicConfig::default().cleanup(Cleanup::Keep).segment_bytes(segment_bytes)
    }

    fn open(&self) -> io::Result<Log> {
        let builder = Log::builder(&self.dir).background(Background::Caller);
        builder.compaction_interval(Duration::from_millis(1)).open().map_err(io::Error::other)
    }

    /// Fills a topic with records of keys in no order, and has its segments finished. Returns what is left of it once all
    /// but the last one is compacted.
    fn fill(&self, log: &Log, topic: &str) -> chiplog::Result<Sum> {
        let partition = log.create_topic(topic, self.config())?.partition(0)?;
        let payload = SHAPE.payload();
        let values: Vec<&[u8]> = payload.chunks_exact(SHAPE.len).collect();
        let calls = self.bytes / SHAPE.disk_bytes(1);
        let mut numbers = random_numbers();
        let key_count = (calls * values.len() as u64 / LIVE) as u32;
        let mut keys = Vec::new();
        for _ in 0..calls {
            let from = keys.len();
            keys.extend(numbers.by_ref().take(values.len()).map(|number| (number % key_count).to_be_bytes()));
            let records = keys[from..].iter().zip(&values).map(|(key, value)| Record::new(value).key(key));
            partition.append_all(records)?;
        }
        log.sync()?;
        let mut quiet = 0;
        while quiet < 3 {
            quiet = if log.maintain()?.finished > 0 { 0 } else { quiet + 1 };
        }
        let last = partition.segments().last().map_or(0, |last| last.base().0) as usize;
        let mut sum = Sum::default();
        let mut latest = HashMap::new();
        for (at, key) in keys.iter().enumerate() {
            match at < last {
                true if self.compacts() && topic == TOPIC => drop(latest.insert(key, at)),
                _ => sum.add(values[at % values.len()]),
            }
        }
        latest.into_values().for_each(|at| sum.add(values[at % values.len()]));
        Ok(sum)
    }

    fn compact(&self, log: &Log) -> chiplog::Result<()> {
        log.alter_topic(TOPIC, self.config().cleanup(Cleanup::Compact))?;
        while log.maintain()?.compacted == 0 {}
        Ok(())
    }
}

/// Reads a topic from its start. Returns how many records there are.
fn scan(log: &Log, topic: &str, mut each: impl FnMut(&[u8])) -> chiplog::Result<u64> {
    let partition = log.topic(topic)?.partition(0)?;
    let (mut reader, mut at, mut count) = (partition.reader(), Offset::ZERO, 0);
    while at < partition.offsets().end {
        let records = reader.read(at)?;
        for record in &records {
            each(record.value.unwrap_or_default());
            count += 1;
        }
        at = records.next_offset();
    }
    Ok(count)
}

impl Contender for Compacted {
    fn prepare(&mut self, dir: &Path) -> io::Result<Work> {
        self.dir = dir.to_owned();
        let log = self.open()?;
        self.sum = self.fill(&log, TOPIC).map_err(io::Error::other)?;
        if matches!(self.role, Role::ReadsBeside | Role::ReadsAlone) {
            self.fill(&log, OTHER).map_err(io::Error::other)?;
        }
        self.log = Some(log);
        let calls = self.bytes / SHAPE.disk_bytes(1);
        Ok(Work { disk_bytes: 0, sum: self.sum, ..Work::of(SHAPE, calls) })
    }

    fn run(&mut self) -> io::Result<()> {
        let log = self.log.clone().ok_or_else(unprepared)?;
        self.read = 0;
        match self.role {
            Role::Compacts => self.compact(&log).map_err(io::Error::other),
            Role::Walks => (0..2).try_for_each(|_| verify_only(&self.dir, 0).map(drop)),
            Role::ReadsAlone => {
                let began = Instant::now();
                for _ in 0..4 {
                    self.read += scan(&log, OTHER, |_| ()).map_err(io::Error::other)?;
                }
                self.took = began.elapsed();
                Ok(())
            }
            Role::ReadsBeside => {
                let (this, began) = (&*self, Instant::now());
                let mut read = 0;
                thread::scope(|threads| {
                    let compaction = threads.spawn(|| this.compact(&log));
                    while !compaction.is_finished() {
                        read += scan(&log, OTHER, |_| ())?;
                    }
                    compaction.join().unwrap_or(Err(chiplog::Error::Closed))
                })
                .map_err(io::Error::other)?;
                (self.read, self.took) = (read, began.elapsed());
                Ok(())
            }
        }
    }

    fn verify(&mut self) -> io::Result<Sum> {
        let log = self.log.take().ok_or_else(unprepared)?;
        let mut sum = Sum::default();
        scan(&log, TOPIC, |value| sum.add(value)).map_err(io::Error::other)?;
        log.close().map_err(io::Error::other)?;
        Ok(sum)
    }

    fn figures(&self, _: &Work, elapsed: Duration) -> Vec<f64> {
        match self.role {
            Role::Compacts | Role::Walks => vec![self.bytes as f64 / 1e6 / elapsed.as_secs_f64()],
            Role::ReadsBeside | Role::ReadsAlone => vec![self.read as f64 / self.took.as_secs_f64()],
        }
    }
}
