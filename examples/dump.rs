//! Prints what is in a directory, chiplog's or a Kafka broker's, one JSON object a line. Changes nothing.
//!
//! ```text
//! dump DIR                 every record of every partition, by topic name, number and offset
//! dump DIR --offsets       start, stable and end of each partition
//! dump DIR --groups        what consumer groups committed
//! dump DIR --verify        what is not as it should be: all of it is read
//! ```
//!
//! `cargo run --release --all-features --example dump -- --help` lists the options. Keys and values are in base64. What
//! is damaged ends the partition it is in, after everything before it was printed: a message says in which file, at
//! which position and what; `--from` goes on behind it, and `--verify` says where that is. The other partitions go on. A note says what was not as it should be and costs nothing: a
//! torn write at the end of a partition that was not closed in order, an index that was built again in memory.
//!
//! | Exit code | |
//! |--:|---|
//! | 0 | nothing was wrong with what was read; a broken pipe is nothing wrong |
//! | 1 | something is damaged |
//! | 2 | something else kept it from reading: wrong options, no such directory or topic, a codec not built in |

#[path = "dump/committed.rs"]
mod committed;
#[path = "dump/lines.rs"]
mod lines;
#[path = "dump/repairs.rs"]
mod repairs;

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use chiplog::record::BatchHeader;
use chiplog::{
    Error, ErrorKind, Isolation, Log, Offset, Partition, ReadOptions, RecoveryMode, Timestamp, Topic, VerifyOptions,
    VerifyReport,
};
use clap::Parser;

use committed::Committed;
use lines::Lines;
use repairs::Repairs;

/// Prints what is in a directory of chiplog's or a Kafka broker's, one JSON object a line
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// The directory that holds the directories of partitions
    dir: PathBuf,
    /// Only this topic [default: all, internal ones included]
    #[arg(long)]
    topic: Option<String>,
    /// Only the partitions of this number
    #[arg(long, value_name = "NUMBER")]
    partition: Option<u32>,
    /// Begin at this offset of each partition, or at its start if that is later
    #[arg(long, value_name = "OFFSET", conflicts_with = "at")]
    from: Option<u64>,
    /// Begin where the first record of each partition lies whose timestamp is this or later, in milliseconds since
    /// 1970; or the first marker of a transaction, if that comes before. Negative: at the start
    #[arg(long, value_name = "MILLIS", allow_negative_numbers = true)]
    at: Option<i64>,
    /// Print so many records at most, of all partitions together
    #[arg(long, value_name = "COUNT")]
    max: Option<u64>,
    /// Only records that belong to no transaction, or to one that was committed, up to the first that is open
    #[arg(long)]
    committed: bool,
    /// Print start, stable and end of each partition, and no records
    #[arg(long, conflicts_with_all = ["groups", "verify", "from", "at", "max", "committed"])]
    offsets: bool,
    /// Print what consumer groups committed, and no records
    #[arg(long, conflicts_with_all = ["verify", "from", "at", "max", "committed"])]
    groups: bool,
    /// Read all there is, print what is not as it should be, and no records
    #[arg(long, conflicts_with_all = ["from", "at", "max", "committed"])]
    verify: bool,
}

impl Options {
    fn wants(&self, topic: &str, partition: u32) -> bool {
        self.topic.as_ref().is_none_or(|wanted| wanted == topic)
            && self.partition.is_none_or(|wanted| wanted == partition)
    }

    fn isolation(&self) -> Isolation {
        if self.committed { Isolation::Committed } else { Isolation::Uncommitted }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    ExitCode::from(dump(&options, io::stdout().lock(), io::stderr()))
}

/// Does what the options say, and returns the exit code.
pub(crate) fn dump(options: &Options, out: impl Write, err: impl Write) -> u8 {
    let left = options.max.unwrap_or(u64::MAX);
    let (out, repairs) = (Lines::new(out), Arc::new(Repairs::default()));
    let mut dump = Dump { options, out, err, repairs, left, told: HashSet::new(), salvaged: None, code: FINE };
    match dump.run() {
        Ok(()) => {}
        // Who read the lines has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(error) => {
            let _ = writeln!(dump.err, "error: cannot write: {error}");
            dump.code = dump.code.max(FAILED);
        }
    }
    dump.code
}

const FINE: u8 = 0;
const DAMAGED: u8 = 1;
const FAILED: u8 = 2;

/// One run. Functions fail only if what they print cannot be written; what cannot be read is told, and passed over.
struct Dump<'a, W: Write, E> {
    options: &'a Options,
    out: Lines<W>,
    err: E,
    repairs: Arc<Repairs>,
    /// How many records may be printed yet.
    left: u64,
    /// What was said already.
    told: HashSet<String>,
    /// The log once more, as far as it can be read before what is damaged. Opened when first needed.
    salvaged: Option<Option<Log>>,
    code: u8,
}

impl<W: Write, E: Write> Dump<'_, W, E> {
    fn run(&mut self) -> io::Result<()> {
        let observer: Arc<Repairs> = Arc::clone(&self.repairs);
        match Log::builder(&self.options.dir).read_only().observer(observer).open() {
            Err(error) => self.tell(&error)?,
            Ok(log) if self.options.groups => self.groups(&log)?,
            Ok(log) if self.options.verify => self.verify(&log)?,
            Ok(log) => self.partitions(&log)?,
        }
        self.out.flush()
    }

    fn partitions(&mut self, log: &Log) -> io::Result<()> {
        let topics = log.topics();
        if !self.has_what_is_wanted(&topics)? {
            return Ok(());
        }
        for topic in &topics {
            for number in 0..topic.partition_count() {
                if self.left == 0 {
                    return Ok(());
                }
                if self.options.wants(topic.name(), number) {
                    self.partition_or_what_is_left(topic, number)?;
                }
            }
        }
        self.other_damage(log)
    }

    /// Whether there are partitions, and those that were asked for; tells if not.
    fn has_what_is_wanted(&mut self, topics: &[Topic]) -> io::Result<bool> {
        if topics.is_empty() {
            self.note("there is no partition in this directory")?;
        }
        if let Some(name) = &self.options.topic {
            let found = topics.iter().find(|topic| topic.name() == name);
            let error = match (found, self.options.partition) {
                (None, _) => Some(Error::TopicNotFound { topic: name.as_str().into() }),
                (Some(topic), Some(number)) => topic.partition(number).err().filter(is_absent),
                (Some(_), None) => None,
            };
            if let Some(error) = error {
                self.tell(&error)?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn partition_or_what_is_left(&mut self, topic: &Topic, number: u32) -> io::Result<()> {
        match topic.partition(number) {
            Ok(partition) => {
                self.partition(&partition)?;
                self.repaired(&partition)
            }
            Err(error) if is_absent(&error) => Ok(()),
            Err(error) => {
                if let Some(partition) = self.salvaged(topic.name(), number)? {
                    self.partition(&partition)?;
                }
                self.tell(&error)
            }
        }
    }

    /// Tells what of a partition is passed over, and what of it was found elsewhere than it should be.
    fn repaired(&mut self, partition: &Partition) -> io::Result<()> {
        self.torn(partition)?;
        let rebuilt = self.repairs.take(|of| self.options.groups || self.options.wants(&of.topic, of.partition));
        for path in rebuilt {
            self.note(&format!("{} is missing or wrong: the batches say what it should", path.display()))?;
        }
        Ok(())
    }

    fn torn(&mut self, partition: &Partition) -> io::Result<()> {
        match partition.torn_tail() {
            Err(error) => self.tell(&error)?,
            Ok(None) => {}
            Ok(Some(torn)) => {
                let (path, position, len) = (torn.path.display(), torn.position, torn.len);
                if torn.hides_batches {
                    let offset = torn.offset;
                    let what = format!("no batch of offset {offset}, and whole batches behind it are cut off");
                    self.damage(&format!("{path} is damaged at byte {position}: {what}"))?;
                } else {
                    self.note(&format!("{path} ends at byte {position} in a torn write of {len} bytes"))?;
                }
            }
        }
        Ok(())
    }

    /// Tells of what is damaged and belongs to no partition that could be named.
    fn other_damage(&mut self, log: &Log) -> io::Result<()> {
        for damage in log.damaged() {
            let is_wanted = damage.partition.as_ref().is_none_or(|of| self.options.wants(&of.topic, of.partition));
            if is_wanted {
                self.tell(&damage.error)?;
            }
        }
        Ok(())
    }

    fn partition(&mut self, partition: &Partition) -> io::Result<()> {
        self.out.begin(partition.topic(), partition.number());
        if self.options.offsets {
            return self.out.offsets(&partition.offsets());
        }
        let mut committed = Committed::of(partition, self.options.committed);
        self.records(partition, &mut committed)?;
        committed.ended_by.map_or(Ok(()), |error| self.tell(&error))
    }

    /// Prints records until there are none, enough, or what is there cannot be read.
    fn records(&mut self, partition: &Partition, committed: &mut Committed) -> io::Result<()> {
        let (first, error) = self.first(partition);
        if let Some(first) = first {
            self.records_from(partition, first, committed)?;
        }
        error.map_or(Ok(()), |error| self.tell(&error))
    }

    fn records_from(
        &mut self,
        partition: &Partition,
        (mut at, earliest): First,
        committed: &mut Committed,
    ) -> io::Result<()> {
        let end = partition.offsets().end;
        let mut careful = Careful { options: ReadOptions::default().isolation(self.options.isolation()) };
        let mut is_early = earliest.is_some();
        while at < end {
            let records = match careful.read(|options| partition.read_with(at, options)) {
                Ok(records) => records,
                Err(error) => return self.tell(&error),
            };
            for batch in records.batches() {
                let header = *batch.header();
                for record in batch {
                    is_early = is_early && earliest.is_some_and(|earliest| record.timestamp < earliest);
                    if is_early {
                        continue;
                    }
                    if self.left == 0 {
                        return Ok(());
                    }
                    self.left -= 1;
                    let is_committed = committed.has(partition, &header, record.offset);
                    self.out.record(&header, &record, is_committed)?;
                }
            }
            if records.next_offset() <= at {
                break;
            }
            at = records.next_offset();
        }
        Ok(())
    }

    /// Where to begin, unless nothing is late enough; and why that may not be all.
    fn first(&self, partition: &Partition) -> (Option<First>, Option<Error>) {
        let start = partition.offsets().start;
        match self.options.at.map(Timestamp) {
            None => (Some((self.options.from.map_or(start, Offset).max(start), None)), None),
            // To the log a negative time is a question of another kind. Here every record is later.
            Some(at) if at < Timestamp(0) => (Some((start, None)), None),
            Some(at) => match partition.offset_at(at) {
                Ok(found) => (found.map(|found| (found.max(start), None)), None),
                // Something is damaged where it looked. What comes before that is wanted all the same.
                Err(error) => (Some(first_before_damage(partition, at)), Some(error)),
            },
        }
    }

    fn groups(&mut self, log: &Log) -> io::Result<()> {
        let is_theirs = |topic: &str| topic == OFFSETS_TOPIC;
        let mut damaged = log.damaged();
        damaged.retain(|damage| damage.partition.as_ref().is_none_or(|of| is_theirs(&of.topic)));
        let mut holders: BTreeMap<String, Log> = BTreeMap::new();
        if !damaged.is_empty()
            && let Some(salvaged) = self.salvage()?
        {
            // Of a partition that did not open, what lies before the damage.
            let ids = salvaged.groups().unwrap_or_default();
            holders.extend(ids.into_iter().map(|id| (id, salvaged.clone())));
        }
        match log.groups() {
            Ok(ids) => holders.extend(ids.into_iter().map(|id| (id, log.clone()))),
            Err(error) => self.tell(&error)?,
        }
        for (id, holder) in holders {
            match holder.group(&id).and_then(|group| group.offsets()) {
                Ok(offsets) => {
                    for (of, offset) in offsets.iter().filter(|(of, _)| self.options.wants(&of.topic, of.partition)) {
                        self.out.group(&id, of, offset)?;
                    }
                }
                Err(error) => self.tell(&error)?,
            }
        }
        for damage in damaged {
            self.tell(&damage.error)?;
        }
        // They are the records of this topic.
        let Some(topic) = log.find_topic(OFFSETS_TOPIC) else { return Ok(()) };
        for number in 0..topic.partition_count() {
            match topic.partition(number) {
                Ok(partition) => self.repaired(&partition)?,
                Err(error) if is_absent(&error) => {}
                Err(error) => self.tell(&error)?,
            }
        }
        Ok(())
    }

    fn verify(&mut self, log: &Log) -> io::Result<()> {
        let topics = log.topics();
        if !self.has_what_is_wanted(&topics)? {
            return Ok(());
        }
        let options = VerifyOptions::default().threads(2);
        let is_all = self.options.topic.is_none() && self.options.partition.is_none();
        if is_all {
            self.findings(log.verify(&options))?;
        }
        for topic in &topics {
            for number in (0..topic.partition_count()).filter(|number| self.options.wants(topic.name(), *number)) {
                let partition = topic.partition(number);
                if partition.as_ref().is_err_and(is_absent) {
                    continue;
                }
                if !is_all {
                    self.findings(log.verify(&options.clone().partition(topic.name(), number)))?;
                }
                // It is judged up to where recovery ended it: what that passed over is told here.
                partition.map_or(Ok(()), |partition| self.torn(&partition))?;
            }
        }
        Ok(())
    }

    fn findings(&mut self, report: Result<VerifyReport, Error>) -> io::Result<()> {
        let report = match report {
            Ok(report) => report,
            Err(error) => return self.tell(&error),
        };
        for finding in report.findings() {
            self.out.finding(finding)?;
        }
        for finding in report.findings().iter().filter(|finding| finding.is_damage()) {
            self.damage(&finding.to_string())?;
        }
        Ok(())
    }

    /// The partition as far as it can be read, if at all.
    fn salvaged(&mut self, topic: &str, number: u32) -> io::Result<Option<Partition>> {
        let log = self.salvage()?;
        Ok(log.and_then(|log| log.find_topic(topic)).and_then(|topic| topic.partition(number).ok()))
    }

    fn salvage(&mut self) -> io::Result<Option<Log>> {
        if self.salvaged.is_none() {
            let opened = Log::builder(&self.options.dir).read_only().recovery(RecoveryMode::Salvage).open();
            // What is wrong with it was said when it was opened as it is.
            self.salvaged = Some(opened.ok());
        }
        Ok(self.salvaged.clone().flatten())
    }

    /// Says what cannot be read, and why.
    fn tell(&mut self, error: &Error) -> io::Result<()> {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            text.push_str(&format!("\n  because: {error}"));
            cause = error.source();
        }
        if error.kind() == ErrorKind::Corrupt {
            return self.damage(&text);
        }
        self.code = if self.code == FINE { FAILED } else { self.code };
        self.say("error", &text)
    }

    /// Damage is the news, whatever else went wrong.
    fn damage(&mut self, text: &str) -> io::Result<()> {
        self.code = DAMAGED;
        self.say("damage", text)
    }

    fn note(&mut self, text: &str) -> io::Result<()> {
        self.say("note", text)
    }

    /// Says something once, after all that was printed before.
    fn say(&mut self, what: &str, text: &str) -> io::Result<()> {
        self.out.flush()?;
        let text = format!("{what}: {text}");
        if !self.told.contains(&text) {
            let _ = writeln!(self.err, "{text}");
            self.told.insert(text);
        }
        Ok(())
    }
}

/// Whether there is no such partition here: a broker need not hold all partitions of a topic.
fn is_absent(error: &Error) -> bool {
    matches!(error, Error::PartitionNotFound { .. } | Error::PartitionElsewhere { .. })
}

/// Where to begin; and the time to begin at, if it is to be looked for from there.
type First = (Offset, Option<Timestamp>);

/// What [`Partition::offset_at`] would answer if nothing were damaged, as far as it lies before that.
fn first_before_damage(partition: &Partition, at: Timestamp) -> First {
    let start = partition.offsets().start;
    let (mut next, mut careful) = (start, Careful { options: ReadOptions::default() });
    while let Ok(batches) = careful.read(|options| partition.fetch(next, options)) {
        let mut rest = batches.bytes();
        while let Ok(header) = BatchHeader::read(rest) {
            if header.max_timestamp >= at {
                let is_marker = header.attributes.is_control();
                return (header.base_offset.max(start), (!is_marker).then_some(at));
            }
            rest = rest.get(header.batch_len as usize..).unwrap_or_default();
        }
        if batches.next_offset() <= next {
            break;
        }
        next = batches.next_offset();
    }
    // Who reads from here is told what is damaged.
    (next, Some(at))
}

/// Reads a lot at once, until something is damaged: then batch by batch, for a read fails as a whole, and what comes
/// before the damage is wanted.
struct Careful {
    options: ReadOptions,
}

impl Careful {
    fn read<T>(&mut self, read: impl Fn(ReadOptions) -> Result<T, Error>) -> Result<T, Error> {
        read(self.options).or_else(|_| {
            self.options = self.options.max_bytes(1);
            read(self.options)
        })
    }
}

/// Where groups keep what they commit.
const OFFSETS_TOPIC: &str = "__consumer_offsets";
