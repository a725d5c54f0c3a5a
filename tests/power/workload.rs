//! The process that works on a log while the power goes.
//!
//! It says what it does, a line each, with the time in front. What it announces in capitals it is about to do; in small
//! letters, that the call returned: the time is taken after the call, so a power cut later than that must not undo it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chiplog::{
    Ack, Background, Durability, Log, LogBuilder, Observer, ReadPath, Record, Retained, Topic, TopicConfig,
};

use super::Result;
use super::disks::{Changed, write_back};
use super::random::{Random, stamp};
use super::worker::Worker;

pub(crate) const GROUP: &str = "followers";
/// The topics that are there all the time, each with its durability.
pub(crate) const OS: &str = "os";
pub(crate) const EACH: &str = "each";
pub(crate) const EVERY: &str = "every";
/// What is appended once something has failed, to see whether it still can be.
pub(crate) const LAST_WORD: &str = "a last word";

/// A deliberate mistake, for the self-check to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// There is none: what a proper run does.
    None,
    /// Says that an append is synced without having waited for that.
    Acks,
    /// Syncs do not flush.
    Flushes,
}

impl Lie {
    pub(crate) const ALL: [(Self, &str); 3] =
        [(Self::None, "none"), (Self::Acks, "acks"), (Self::Flushes, "flushes")];

    pub(crate) fn named(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(_, other)| *other == name);
        Ok(found.ok_or_else(|| format!("there is no mistake {name}"))?.0)
    }

    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(lie, _)| *lie == self).map_or("", |(_, name)| name)
    }
}

/// Settings of a log: each seed turns some things off and draws the sizes.
#[derive(Debug)]
pub(super) struct Swarm {
    codec: &'static str,
    partitions: u32,
    segment_bytes: u32,
    threads: u64,
    pub(super) background: Background,
    pub(super) most_padding: u64,
    retains: Option<u64>,
    preallocates: bool,
    pub(super) deletes: bool,
    pub(super) commits: bool,
    pub(super) makes_topics: bool,
    writes_back: bool,
}

impl Swarm {
    fn of(seed: u64) -> Self {
        let random = &mut Random(seed);
        let mut codecs = vec!["uncompressed", "producer"];
        codecs.extend(cfg!(feature = "lz4").then_some("lz4"));
        codecs.extend(cfg!(feature = "zstd").then_some("zstd"));
        let segment_bytes = *random.pick(&[1 << 11, 1 << 14, 1 << 18]);
        Self {
            codec: codecs[random.below(codecs.len() as u64) as usize],
            partitions: 1 + random.below(2) as u32,
            segment_bytes,
            threads: 1 + random.below(3),
            background: *random.pick(&[Background::Thread, Background::Caller]),
            // The largest batch has 16 records, and has to fit in a segment.
            most_padding: (*random.pick(&[1, 50, 1000])).min(u64::from(segment_bytes) / 40),
            retains: random.one_in(3).then(|| u64::from(segment_bytes) * 4),
            preallocates: random.one_in(2),
            deletes: random.one_in(2),
            commits: random.one_in(2),
            makes_topics: random.one_in(2),
            writes_back: !random.one_in(3),
        }
    }

    fn builder(&self, dir: &Path, disk: Changed, may_fail: bool) -> LogBuilder {
        // What is mapped and cannot be read is a signal, as the guide says.
        let path = if may_fail { ReadPath::Positional } else { ReadPath::Mapped };
        Log::builder(dir)
            .read_path(path)
            .background(self.background)
            .disk(Arc::new(disk))
            .observer(Arc::new(Tells))
            .retention_interval(Duration::from_millis(20))
            .checkpoint_interval(Duration::from_millis(50))
    }

    pub(super) fn config(&self, durability: Durability) -> Result<TopicConfig> {
        let config = TopicConfig::default().partitions(self.partitions).segment_bytes(self.segment_bytes);
        let config = config.durability(durability).preallocate(self.preallocates).file_delete_delay(Duration::ZERO);
        Ok(config.retention_bytes(self.retains).set("compression.type", self.codec)?)
    }
}

/// Tells what retention does by itself.
#[derive(Debug)]
struct Tells;

impl Observer for Tells {
    fn retention_deleted(&self, event: &Retained<'_>) {
        say(&format!("retained {} {} {}", event.partition.topic, event.partition.partition, event.start));
    }
}

/// Works until told to stop. Where the disk `may_fail`, an error of the log is no failure of this process.
pub(crate) fn work(dir: &Path, seed: u64, lie: Lie, may_fail: bool) -> Result {
    let swarm = Swarm::of(seed);
    let stop = Arc::new(AtomicBool::new(false));
    stop_with_input(Arc::clone(&stop));
    let disk = Changed { boot: None, forgets_flushes: lie == Lie::Flushes };
    let done = swarm.builder(dir, disk, may_fail).open().map_err(Into::into).and_then(|log| {
        let mut topics = Vec::new();
        let done = run(&log, &swarm, &mut topics, seed, lie, &stop);
        if may_fail {
            last_words(&topics);
        }
        // Half of them end in order, and their last cuts may come into the close.
        if done.is_ok() && Random(seed).one_in(2) {
            log.close()?;
        }
        done
    });
    match done {
        Err(error) if may_fail => say(&format!("failed {}", told(&error))),
        done => done?,
    }
    say("ended");
    Ok(())
}

fn run(log: &Log, swarm: &Swarm, topics: &mut Vec<Topic>, seed: u64, lie: Lie, stop: &AtomicBool) -> Result {
    let every = Durability::Every { records: Some(7), time: Some(Duration::from_millis(5)) };
    for (name, durability) in [(OS, Durability::Os), (EACH, Durability::Each), (EVERY, every)] {
        say(&format!("CREATE {name} 0"));
        topics.push(log.create_topic(name, swarm.config(durability)?)?);
        say(&format!("created {name} 0"));
    }
    let topics = &*topics;
    std::thread::scope(|scope| {
        let mut threads: Vec<_> = (0..swarm.threads)
            .map(|thread| {
                let random = Random(seed ^ (thread + 1) << 48);
                let mut worker = Worker { thread, random, log, swarm, lie, counts: HashMap::new(), lives: 0 };
                scope.spawn(move || worker.run(topics, stop))
            })
            .collect();
        if swarm.writes_back {
            threads.push(scope.spawn(move || churn(log.dir(), seed, stop)));
        }
        // Only errors come back. All are waited for.
        let ends: Vec<Result> =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a panic".into()))).collect();
        ends.into_iter().collect()
    })
}

/// In the end: whether anything can still be synced.
fn last_words(topics: &[Topic]) {
    for topic in topics {
        for number in 0..topic.partition_count() {
            say(&format!("TRIES {} {number}", topic.name()));
            let refused = topic.partition(number).and_then(|partition| {
                // Not a record of anybody: it is not reported as appended, so only a failure may follow.
                partition.append(Record::new(LAST_WORD))?.wait(Ack::Synced)
            });
            match refused {
                Ok(()) => say(&format!("accepted {} {number}", topic.name())),
                Err(_) => say(&format!("refused {} {number}", topic.name())),
            }
        }
    }
}

/// Does to the files what the system does after some seconds: writes them to the disk, whole or in part, without a
/// flush, and syncs files that have nothing to do with the log.
fn churn(dir: &Path, seed: u64, stop: &AtomicBool) -> Result {
    let mut random = Random(!seed);
    let other = dir.with_extension("other");
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_micros(random.gap(13)));
        if random.one_in(8) {
            // Whether it works is not what is tested; nor that names come and go meanwhile.
            let _ = std::fs::write(&other, random.next().to_string()).and_then(|()| File::open(&other)?.sync_all());
            continue;
        }
        let Ok(partitions) = std::fs::read_dir(dir) else { continue };
        for partition in partitions.flatten() {
            let Ok(files) = std::fs::read_dir(partition.path()) else { continue };
            for file in files.flatten() {
                if random.one_in(6) {
                    let _ = File::open(file.path()).and_then(|file| write_back(&file));
                }
            }
        }
    }
    Ok(())
}

/// An error in one line.
fn told(error: &dyn std::fmt::Debug) -> String {
    format!("{error:?}").replace('\n', " ")
}

/// Raises `stop` when the input ends: the parent asks for it, or is gone.
fn stop_with_input(stop: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        let _ = io::stdin().lock().read(&mut [0]);
        stop.store(true, Ordering::Relaxed);
    });
}

/// Tells the parent, in one write: a line is whole or not there.
pub(super) fn say(line: &str) {
    let line = format!("{} {line}\n", stamp());
    // A parent that is gone cannot be told; the test is over.
    if io::stdout().lock().write_all(line.as_bytes()).is_err() {
        std::process::exit(3);
    }
}
