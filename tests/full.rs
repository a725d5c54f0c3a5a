//! A full disk is an error that heals: nothing acknowledged is lost, and freeing space is enough to go on.
//!
//! ```text
//! full --dir DIR      DIR is on a small file system of its own, see .ci/with-disk
//! ```
//!
//! Without `--dir` there is nothing small to fill, so nothing is tested. A *ballast* file takes space from the start;
//! removing it is what frees some.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use chiplog::{Durability, Error, ErrorKind, Log, Offset, Partition, Record, Topic, TopicConfig};

type Result<T = (), E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;
type Fact = (&'static str, fn(&Path) -> Result);

const FACTS: [Fact; 6] = [
    ("appends_go_on_once_space_is_freed", |dir| appends_go_on(dir, Durability::Os)),
    ("synced_appends_go_on_once_space_is_freed", |dir| appends_go_on(dir, Durability::Each)),
    ("a_full_log_opens", |dir| a_full_log_opens(dir, Durability::Os)),
    ("a_full_durable_log_opens", |dir| a_full_log_opens(dir, Durability::Each)),
    ("low_space_is_refused_before_the_disk_is_full", low_space_is_refused),
    ("commits_go_on_once_space_is_freed", commits_go_on),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let at = arguments.iter().position(|argument| argument == "--dir");
    let Some(root) = at.and_then(|at| arguments.get(at + 1)).map(PathBuf::from) else {
        println!("NOTICE: no --dir with a small file system: nothing was filled");
        return ExitCode::SUCCESS;
    };
    let mut passed = 0;
    for (name, fact) in FACTS {
        let dir = root.join(name);
        match fact(&dir) {
            Ok(()) => passed += 1,
            Err(error) => println!("{name} FAILED: {error:?}"),
        }
        let _ = fs::remove_dir_all(&dir);
    }
    println!("count facts {passed} {}", FACTS.len());
    println!("{passed} passed, {} failed", FACTS.len() - passed);
    if passed == FACTS.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn appends_go_on(dir: &Path, durability: Durability) -> Result {
    let ballast = Ballast::new(dir)?;
    let log = Log::open(dir.join("log"))?;
    let topic = log.create_topic("lines", config(durability))?;
    let mut written = Written::default();
    written.fill(&topic)?;
    written.check(&topic)?;

    drop(ballast);
    for _ in 0..20 {
        written.append(&topic)?;
    }
    written.check(&topic)?;
    log.close()?;
    written.check_reopened(dir)
}

/// It may be that no more than reading works; that must.
fn a_full_log_opens(dir: &Path, durability: Durability) -> Result {
    let ballast = Ballast::new(dir)?;
    let mut written = Written::default();
    let log = Log::open(dir.join("log"))?;
    written.fill(&log.create_topic("lines", config(durability))?)?;
    fill_up(&dir.join("rest"))?;
    allow_full(log.close())?;

    let log = Log::builder(dir.join("log")).read_only().open()?;
    written.check(&find(&log)?)?;
    drop(log);
    if let Some(log) = allow_full(Log::open(dir.join("log")))? {
        written.check(&find(&log)?)?;
        allow_full(log.close())?;
    }

    drop(ballast);
    let log = Log::open(dir.join("log"))?;
    let topic = find(&log)?;
    written.append(&topic)?;
    written.check(&topic)?;
    log.close()?;
    written.check_reopened(dir)
}

fn low_space_is_refused(dir: &Path) -> Result {
    let ballast = Ballast::new(dir)?;
    let log = Log::open(dir.join("log"))?;
    let free = log.stats()?.free_bytes;
    log.close()?;

    let limit = free.saturating_sub(Ballast::LEN);
    let log = Log::builder(dir.join("log")).min_free_bytes(limit).open()?;
    let topic = log.create_topic("lines", config(Durability::Os))?;
    let mut written = Written::default();
    let refused = written.fill(&topic)?;
    let Error::LowSpace { limit: told, .. } = refused else { return Err(refused.into()) };
    let left = log.stats()?.free_bytes;
    // Space is looked at every 16 MiB, so that much may go below the limit.
    if told != limit || left + (16 << 20) < limit {
        return Err(format!("refused with {left} bytes free, told {told}, the limit is {limit}").into());
    }
    drop(ballast);
    written.append(&topic)?;
    written.check(&topic)?;
    log.close()?;
    written.check_reopened(dir)
}

fn commits_go_on(dir: &Path) -> Result {
    let ballast = Ballast::new(dir)?;
    let log = Log::open(dir.join("log"))?;
    let group = log.group("readers")?;
    group.commit("lines", 0, Offset(1))?;
    fill_up(&dir.join("rest"))?;
    let mut committed = 1;
    // What is allocated already takes some more.
    let refused = loop {
        match group.commit("lines", 0, Offset(committed + 1)) {
            Ok(()) => committed += 1,
            Err(error) => break error,
        }
        if committed > 100_000 {
            return Err("a full disk takes commits for ever".into());
        }
    };
    if refused.kind() != ErrorKind::Full {
        return Err(refused.into());
    }
    let read = |log: &Log| -> Result<Option<u64>> {
        Ok(log.group("readers")?.committed("lines", 0)?.map(|committed| committed.offset.0))
    };
    if read(&log)? != Some(committed) {
        return Err(format!("{:?} is committed, not {committed}", read(&log)?).into());
    }
    drop(ballast);
    group.commit("lines", 0, Offset(1_000_000))?;
    drop(group);
    log.close()?;
    match read(&Log::open(dir.join("log"))?)? {
        Some(1_000_000) => Ok(()),
        other => Err(format!("{other:?} is committed after reopening").into()),
    }
}

/// What was acknowledged: the number of records in each partition, whose values follow from where they are.
#[derive(Debug, Default)]
struct Written {
    counts: [u64; 2],
    turn: usize,
}

impl Written {
    /// Appends until it is refused, which must be for want of space.
    fn fill(&mut self, topic: &Topic) -> Result<Error> {
        loop {
            let Err(refused) = self.append(topic) else { continue };
            return match refused.downcast::<Error>() {
                Ok(refused) if refused.kind() == ErrorKind::Full => Ok(*refused),
                Ok(refused) => Err(refused),
                Err(other) => Err(other),
            };
        }
    }

    fn append(&mut self, topic: &Topic) -> Result {
        let partition = topic.partition(self.turn as u32 % 2)?;
        let count = &mut self.counts[self.turn % 2];
        let offset = partition.append(Record::new(&value(*count)))?.offset();
        if offset.0 != *count {
            return Err(format!("the append after {count} records got offset {offset}").into());
        }
        *count += 1;
        self.turn += 1;
        Ok(())
    }

    /// Everything that was acknowledged is there, and nothing else.
    fn check(&self, topic: &Topic) -> Result {
        for (number, count) in (0..).zip(self.counts) {
            let partition = topic.partition(number)?;
            let mut expected = 0;
            while expected < count {
                expected = check_from(&partition, expected)?;
            }
            if partition.offsets().end.0 != count {
                return Err(format!("it ends at {}, and {count} were acknowledged", partition.offsets().end).into());
            }
        }
        Ok(())
    }

    fn check_reopened(&self, dir: &Path) -> Result {
        let log = Log::open(dir.join("log"))?;
        self.check(&find(&log)?)
    }
}

/// Reads a piece and compares it. Returns the offset to go on from.
fn check_from(partition: &Partition, from: u64) -> Result<u64> {
    let records = partition.read(Offset(from))?;
    let mut expected = from;
    for record in &records {
        if record.offset.0 != expected || record.value != Some(&value(expected)[..]) {
            return Err(format!("the record at {expected} is not what was written").into());
        }
        expected += 1;
    }
    if expected == from { Err(format!("nothing can be read at {from}").into()) } else { Ok(expected) }
}

/// From 1 to 16,000 bytes, which say where they belong.
fn value(offset: u64) -> Vec<u8> {
    let len = 1 + (offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48) % 16_000;
    (0..len).map(|at| (at ^ offset.wrapping_mul(31)) as u8).collect()
}

fn config(durability: Durability) -> TopicConfig {
    TopicConfig::default().partitions(2).segment_bytes(4 << 20).durability(durability)
}

fn find(log: &Log) -> Result<Topic> {
    Ok(log.find_topic("lines").ok_or("the topic is gone")?)
}

/// A result, or none if the disk is full; other errors stay errors.
fn allow_full<T>(result: chiplog::Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::Full => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Writes until not even one byte fits.
fn fill_up(path: &Path) -> Result {
    use std::io::Write;
    let mut file = fs::File::create(path)?;
    let mut piece = &[0xA5; 1 << 16][..];
    while !piece.is_empty() {
        match file.write(piece) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => piece = &piece[..piece.len() / 2],
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Space that is taken until this goes.
struct Ballast(PathBuf);

impl Ballast {
    const LEN: u64 = 20 << 20;

    fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let path = dir.join("ballast");
        fs::write(&path, vec![0xA5; Self::LEN as usize])?;
        Ok(Self(path))
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        // If it stays, the next append says so.
        let _ = fs::remove_file(&self.0);
    }
}
