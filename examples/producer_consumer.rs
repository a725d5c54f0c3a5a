//! Real files, line by line, through a topic into a group of consumers that come, leave and are killed.
//!
//! ```text
//! files --> producers --batches--> partitions --> members of a group --commit--> where to go on
//!               ^                      |                |
//!               '---- what is there ---'                '--> every line? each key's in order?
//! ```
//!
//! `cargo run --release --example producer_consumer -- --help` lists the options. With `--data DIR` the log is kept:
//! run it again, or kill it at any moment and run it again, and it goes on where it was. It fails if a line is missing,
//! changed or out of order; with `--transactional`, also if one comes out twice.

#[path = "producer_consumer/acks.rs"]
mod acks;
#[path = "producer_consumer/checks.rs"]
mod checks;
#[path = "producer_consumer/input.rs"]
mod input;
#[path = "producer_consumer/members.rs"]
mod members;
#[path = "producer_consumer/producers.rs"]
mod producers;
#[path = "producer_consumer/report.rs"]
mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use chiplog::{
    Group, GroupConfig, Isolation, Log, Offset, Partition, ReadOptions, Staging, StagingStats, Topic, TopicConfig,
};
use clap::{Parser, ValueEnum};

use acks::AckWriter;
use checks::{Line, Order, Seen, StoredBy};
use input::{Input, producer_of};
use members::{Checking, Member, Report, Word};
use producers::{Gate, Produced, Sending, produce};
use report::{Bars, grouped};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// Sends the lines of files through a log to a group of consumers, and checks that each arrives, and in order.
#[derive(Debug, Parser)]
struct Options {
    /// A file to read; may be given more than once [default: the README and sources of chiplog]
    #[arg(long = "input", value_name = "FILE")]
    inputs: Vec<PathBuf>,
    /// Read the files again and again until this many bytes were read; each line counts as a new one
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    repeat_to: u64,
    /// The directory of the log, which is kept [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The topic
    #[arg(long, default_value = "lines")]
    topic: String,
    /// How many partitions to create the topic with
    #[arg(long, value_name = "N", default_value_t = 4)]
    partitions: u32,
    /// How to store batches: uncompressed, lz4, snappy, gzip or zstd, as far as built in
    #[arg(long, default_value = "uncompressed")]
    codec: String,
    /// Whether small appends are gathered before they are written to a segment
    #[arg(long, value_enum, default_value_t = Switch::On)]
    staging: Switch,
    /// How many threads send, each with a producer; the same each time the log is used
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    threads: u32,
    /// How many members the group has
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    members: u32,
    /// How many times a member ends, by turns in order and killed, and another comes in its place
    #[arg(long, value_name = "N", default_value_t = 4)]
    churn: u64,
    /// Let the members copy each line that they checked into the topic checked-NAME, exactly once
    #[arg(long)]
    transactional: bool,
    /// Abort the process when this many lines are stored, without closing anything
    #[arg(long, value_name = "N")]
    kill_after: Option<u64>,
    /// Note in this file what is stored: "THREAD LINE"
    #[arg(long, value_name = "FILE")]
    acks: Option<PathBuf>,
    /// Send nothing: only read the log, and check that each line noted in --acks is there once
    #[arg(long, requires_all = ["data", "acks"])]
    verify_only: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Switch {
    On,
    Off,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = if options.verify_only { verify(&options) } else { run(&options) };
    let Err(error) = done else { return ExitCode::SUCCESS };
    eprintln!("error: {error}");
    // The cause is not part of a message: what the operating system said comes here.
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  because: {error}");
        cause = error.source();
    }
    ExitCode::FAILURE
}

fn run(options: &Options) -> Result<()> {
    let input = Input::new(&options.inputs, options.repeat_to)?;
    println!("input: {input}");

    // A directory of ours is removed when this goes out of scope; one of yours stays.
    let temporary = tempfile::tempdir()?;
    let dir = options.data.as_deref().unwrap_or(temporary.path());

    // Opening locks the directory for this process and recovers what the last one left, however it ended. By default a
    // group forgets after a week where it was, and records go after a week: this log may be gone on with later.
    let staging = match options.staging {
        Switch::On => Staging::On,
        Switch::Off => Staging::Off,
    };
    // Members that start together wait a moment for each other, and divide the partitions once.
    let groups = GroupConfig::default().offset_retention(None).initial_rebalance_delay(Duration::from_millis(50));
    let log = Log::builder(dir).staging(staging).groups(groups).open()?;
    // Gathering is safe on some file systems only; on others each append is a write of its own.
    match log.stats()?.staging {
        StagingStats::Off { why } => println!("staging: off, because {why}"),
        _ => println!("staging: on"),
    }

    let topic = open_topic(&log, &options.topic, options.partitions, &options.codec)?;
    let output = match options.transactional {
        // With as many partitions, so that lines that share one do so there, too.
        true => {
            Some(open_topic(&log, &format!("checked-{}", topic.name()), topic.partition_count(), &options.codec)?)
        }
        false => None,
    };

    // A group is a name for "where we are": one committed offset for each partition.
    let group = log.group(if options.transactional { "line-copiers" } else { "line-checkers" })?;

    let (stored, seen) = (Seen::new(input.line_count()), Seen::new(input.line_count()));
    look_back(options, &topic, &group, &stored, &seen)?;
    let acks = options.acks.as_deref().map(AckWriter::open).transpose()?;
    let sending = Sending {
        log: &log,
        topic: topic.name(),
        input: &input,
        threads: options.threads,
        stored: &stored,
        gate: Gate::new(0),
        acks: acks.as_ref(),
        kill_after: options.kill_after,
        delivered: AtomicU64::new(0),
    };
    let checking = Checking { log: &log, topic: &topic, group: &group, seen: &seen, output: output.as_ref() };
    let began = Instant::now();
    let done = thread::scope(|scope| {
        let mut running = Running { members: Vec::new(), producers: Vec::new(), done: Done::default() };
        let directed = direct(scope, options, &sending, checking, &mut running);
        // Whatever went wrong, nobody may wait for us.
        sending.gate.open_to(u64::MAX);
        running.members.iter().for_each(|member| member.tell(Word::Finish));
        directed.and_then(|()| running.end())
    })?;

    let Done { produced, mut reports } = done;
    reports.sort_by_key(|report| report.number);
    let (lines, bytes) = produced.iter().fold((0, 0), |sum, one| (sum.0 + one.lines, sum.1 + one.bytes));
    let (seconds, mebibytes) = (began.elapsed().as_secs_f64(), report::mebibytes(bytes));
    println!("sent {} lines, {mebibytes:.1} MiB; all is dealt with after {seconds:.2} s", grouped(lines));
    println!("{}", report::partitions(&log, &topic, &group)?);
    println!("{}", report::members(&reports));

    let expected = produced.iter().fold(0_u64, |sum, one| sum.wrapping_add(one.digest));
    seen.check_complete(expected)?;
    let count = grouped(input.line_count());
    println!("each of {count} lines was seen, unchanged, and in the order of its key");
    if let Some(output) = &output {
        check_output(output, &input, expected)?;
        println!("each of {count} lines is in {} once, unchanged, and in the order of its key", output.name());
    }

    // Dropping the last handle closes, too, but has nobody to tell what went wrong; and who was killed never drops his.
    log.close()?;
    Ok(())
}

/// A topic has its settings from when it was created: here as Kafka's own strings, for most there are methods, too.
fn open_topic(log: &Log, name: &str, partitions: u32, codec: &str) -> Result<Topic> {
    if let Some(topic) = log.find_topic(name) {
        return Ok(topic);
    }
    let codec = if codec == "none" { "uncompressed" } else { codec };
    let config = TopicConfig::default().partitions(partitions).retention_time(None);
    Ok(log.create_topic(name, config.set("compression.type", codec)?)?)
}

/// Reads what is stored, which is the truth about what was appended: there is no other file to disagree with it.
fn look_back(options: &Options, topic: &Topic, group: &Group, stored: &Seen, seen: &Seen) -> Result<()> {
    for number in 0..topic.partition_count() {
        let partition = topic.partition(number)?;
        // Members go on from what the group committed; what lies before it was dealt with in an earlier run. A commit keeps
        // what it points past: only in a restored backup it could lie above the end.
        let committed = group.committed(topic.name(), number)?;
        let from = committed.map_or(Offset::ZERO, |committed| committed.offset);
        let mut order = Order::default();
        for_each_line(&partition, Isolation::Uncommitted, |offset, line| {
            if producer_of(line.key, options.threads) != line.producer {
                return Err(format!("{} was written with another number of --threads", partition.topic()).into());
            }
            order.follow(&line)?;
            stored.mark_once(&line)?;
            if offset < from { seen.mark_once(&line) } else { Ok(()) }
        })?;
    }
    if stored.count() > 0 {
        println!("going on after {} lines that are stored", grouped(stored.count()));
    }
    Ok(())
}

/// Reads a partition from its start to where it ends now.
fn for_each_line(
    partition: &Partition,
    isolation: Isolation,
    mut each: impl FnMut(Offset, Line<'_>) -> Result<()>,
) -> Result<()> {
    let mut reader = partition.reader().options(ReadOptions::default().isolation(isolation));
    let mut at = partition.offsets().start;
    loop {
        // One read returns about a mebibyte of records, borrowed from the file where they are stored uncompressed.
        let records = reader.read(at)?;
        if records.next_offset() == at {
            return Ok(());
        }
        for record in &records {
            each(record.offset, Line::of(&record)?)?;
        }
        at = records.next_offset();
    }
}

/// The threads.
struct Running<'scope> {
    members: Vec<Member<'scope>>,
    producers: Vec<ScopedJoinHandle<'scope, Result<Produced>>>,
    done: Done,
}

/// What those did that ended.
#[derive(Default)]
struct Done {
    produced: Vec<Produced>,
    reports: Vec<Report>,
}

impl Running<'_> {
    /// Notices what ended. Whether all is sent.
    fn look(&mut self) -> Result<bool> {
        while let Some(at) = self.producers.iter().position(ScopedJoinHandle::is_finished) {
            self.done.produced.push(join(self.producers.swap_remove(at))?);
        }
        match self.members.iter().position(Member::has_ended) {
            // It says why.
            Some(at) => {
                Err(self.members.swap_remove(at).end(Word::Finish).err().unwrap_or("a member ended early".into()))
            }
            None => Ok(self.producers.is_empty()),
        }
    }

    /// Lets all members leave.
    fn end(mut self) -> Result<Done> {
        for member in self.members {
            self.done.reports.push(member.end(Word::Finish)?);
        }
        Ok(self.done)
    }
}

/// Starts the threads, and changes members again and again, until all is sent and dealt with.
///
/// The lines come in stretches. In the midst of each a member ends and another comes, and the next stretch is let in: so there
/// are lines on the way whenever partitions change hands.
fn direct<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    options: &Options,
    sending: &'env Sending<'env>,
    checking: Checking<'env>,
    running: &mut Running<'scope>,
) -> Result<()> {
    let (seen, stored, lines) = (checking.seen, sending.stored.count(), sending.input.line_count());
    let churn = options.churn.min(lines - stored);
    let stretch = (lines - stored) / (churn + 1);
    sending.gate.open_to(if churn == 0 { u64::MAX } else { stretch });

    let bars = Bars::new(lines)?;
    for seat in 0..options.members as usize {
        running.members.push(Member::start(scope, checking, seat, seat)?);
    }
    let producers = (0..options.threads).map(|thread| scope.spawn(move || produce(sending, thread)));
    running.producers.extend(producers);

    let (mut changes, mut is_sent) = (0, false);
    while !(changes == churn && is_sent && is_at_end(checking)?) {
        thread::sleep(Duration::from_millis(10));
        is_sent = running.look()?;
        bars.show(stored + sending.delivered.load(Ordering::Relaxed), seen.count());

        if changes < churn && seen.count() >= stored + changes * stretch + stretch / 2 {
            let seat = changes as usize % running.members.len();
            let word = if changes % 2 == 0 { Word::Leave } else { Word::Die };
            let ended = running.members.remove(seat).end(word)?;
            let number = (changes + u64::from(options.members)) as usize;
            bars.tell(format!("member {} {}, {number} comes", ended.number, ended.ended.past()));
            running.done.reports.push(ended);
            running.members.insert(seat, Member::start(scope, checking, number, seat)?);
            changes += 1;
            sending.gate.open_to(if changes == churn { u64::MAX } else { (changes + 1) * stretch });
        }
    }
    Ok(())
}

/// Whether the group has committed all that is there.
fn is_at_end(checking: Checking<'_>) -> Result<bool> {
    let Checking { topic, group, .. } = checking;
    for number in 0..topic.partition_count() {
        let committed = group.committed(topic.name(), number)?.map_or(Offset::ZERO, |committed| committed.offset);
        if committed < topic.partition(number)?.offsets().end {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads the copies, as far as they count, and checks that each line is among them once.
fn check_output(output: &Topic, input: &Input, expected: u64) -> Result<()> {
    let copied = Seen::new(input.line_count());
    for number in 0..output.partition_count() {
        let mut order = Order::default();
        for_each_line(&output.partition(number)?, Isolation::Committed, |_, line| {
            order.follow(&line)?;
            copied.mark_once(&line)
        })?;
    }
    copied.check_complete(expected)
}

/// Opens the log read-only, which changes nothing, and holds it against what was acknowledged: each line once, by the
/// thread it was acknowledged to.
fn verify(options: &Options) -> Result<()> {
    let (Some(dir), Some(acks)) = (&options.data, &options.acks) else {
        return Err("--verify-only needs --data and --acks".into());
    };
    let log = Log::builder(dir).read_only().open()?;
    let mut stored = StoredBy::default();
    if let Some(topic) = log.find_topic(&options.topic) {
        for number in 0..topic.partition_count() {
            let mut order = Order::default();
            for_each_line(&topic.partition(number)?, Isolation::Uncommitted, |_, line| {
                order.follow(&line)?;
                stored.note(&line)
            })?;
        }
    }
    let mut acknowledged = 0_u64;
    for ack in acks::read(acks)? {
        let (producer, line) = ack?;
        stored.acknowledge(producer, line)?;
        acknowledged += 1;
    }
    println!(
        "{acknowledged} lines were acknowledged, each is there once; {} are stored, none repeated",
        stored.count()
    );
    Ok(())
}

/// What a thread returned. That it panicked was said where it did.
fn join<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| Err("a thread panicked".into()))
}
