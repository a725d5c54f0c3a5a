//! Real files, line by line, through a topic into consumers that remember where they were.
//!
//! ```text
//! files --> producers --append--> partitions --tail--> consumers --commit--> group
//!               ^                     |                    |
//!               '---- go on from -----'                    '--> every line once? each key's in order?
//! ```
//!
//! `cargo run --release --example producer_consumer -- --help` lists the options. With `--data DIR` the log is kept:
//! run it again, or kill it at any moment and run it again, and it goes on where it was. It fails if a line is missing,
//! repeated, changed or out of order.

#[path = "producer_consumer/acks.rs"]
mod acks;
#[path = "producer_consumer/checks.rs"]
mod checks;
#[path = "producer_consumer/input.rs"]
mod input;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chiplog::{
    Group, GroupConfig, Header, Log, Offset, Partition, Record, Staging, StagingStats, Topic, TopicConfig,
};
use clap::{Parser, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};

use acks::AckWriter;
use checks::{Line, Order, Seen, StoredBy};
use input::{Input, digest, key_of, producer_of};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// Sends the lines of files through a log, and checks that each arrives once and in order.
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
    /// How many partitions to create the topic with; each gets a consumer
    #[arg(long, value_name = "N", default_value_t = 4)]
    partitions: u32,
    /// How to store batches: uncompressed, lz4, snappy, gzip or zstd, as far as built in
    #[arg(long, default_value = "uncompressed")]
    codec: String,
    /// Whether small appends are gathered before they are written to a segment
    #[arg(long, value_enum, default_value_t = Switch::On)]
    staging: Switch,
    /// How many threads append; the same each time the log is used
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    threads: u32,
    /// Abort the process after this many appends, without closing anything
    #[arg(long, value_name = "N")]
    kill_after: Option<u64>,
    /// Note in this file what was appended: "THREAD LINE", written after the append returned
    #[arg(long, value_name = "FILE")]
    acks: Option<PathBuf>,
    /// Append nothing: only read the log, and check that each line noted in --acks is there once
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
    let log = Log::builder(dir).staging(staging).groups(GroupConfig::default().offset_retention(None)).open()?;
    // Gathering is safe on some file systems only; on others each append is a write of its own.
    match log.stats()?.staging {
        StagingStats::Off { why } => println!("staging: off, because {why}"),
        _ => println!("staging: on"),
    }

    // A topic has its settings from when it was created: here as Kafka's own strings, for most there are methods, too.
    let topic = match log.find_topic(&options.topic) {
        Some(topic) => topic,
        None => {
            let codec = if options.codec == "none" { "uncompressed" } else { &options.codec };
            let config = TopicConfig::default().partitions(options.partitions).retention_time(None);
            let config = config.set("compression.type", codec)?;
            log.create_topic(&options.topic, config)?
        }
    };

    // A group is a name for "where we are": one committed offset for each partition.
    let group = log.group("line-checkers")?;

    let seen = Seen::new(input.line_count());
    let Stored { followers, last_lines } = look_back(options, &topic, &group, &seen)?;
    let acks = options.acks.as_deref().map(AckWriter::open).transpose()?;
    let appending = Appending {
        input: &input,
        topic: &topic,
        threads: options.threads,
        acks: acks.as_ref(),
        kill_after: options.kill_after,
        appended: AtomicU64::new(0),
    };

    let began = Instant::now();
    let all_appended = AtomicBool::new(false);
    let (produced, consumed) = std::thread::scope(|scope| {
        let (group, seen, is_over) = (&group, &seen, &all_appended);
        let consumers: Vec<_> = followers
            .into_iter()
            .map(|follower| scope.spawn(move || consume(follower, group, seen, is_over)))
            .collect();
        let producers: Vec<_> = (0..)
            .zip(&last_lines)
            .map(|(producer, last)| {
                let appending = &appending;
                scope.spawn(move || produce(appending, producer, *last))
            })
            .collect();
        let produced: Result<Vec<Produced>> = producers.into_iter().map(join).collect();
        let append_time = began.elapsed();
        all_appended.store(true, Ordering::Release);
        let consumed: Result<Vec<u64>> = consumers.into_iter().map(join).collect();
        (produced.map(|produced| (produced, append_time)), consumed)
    });
    let ((produced, append_time), consumed) = (produced?, consumed?);

    let appended: u64 = produced.iter().map(|one| one.lines).sum();
    let bytes: u64 = produced.iter().map(|one| one.bytes).sum();
    println!("appended {}", rate(appended, bytes, append_time));
    println!("consumed {} lines in {:.2?}", grouped(consumed.iter().sum()), began.elapsed());
    println!("{}", table(&log, &topic, &group, &consumed)?);

    let expected = produced.iter().fold(0_u64, |sum, one| sum.wrapping_add(one.digest));
    seen.check_complete(expected)?;
    println!("each of {} lines was seen once, unchanged, and in the order of its key", grouped(input.line_count()));

    // Dropping the last handle closes, too, but has nobody to tell what went wrong.
    drop((topic, group));
    log.close()?;
    Ok(())
}

/// What the log says about the runs before this one.
struct Stored {
    /// A consumer's place in each partition.
    followers: Vec<Follower>,
    /// The last line of each producer that is stored.
    last_lines: Vec<Option<u64>>,
}

/// A place in a partition, and what came before it.
struct Follower {
    partition: Partition,
    from: Offset,
    order: Order,
}

/// Reads what is stored, which is the truth about what was appended: there is no other file to disagree with it.
fn look_back(options: &Options, topic: &Topic, group: &Group, seen: &Seen) -> Result<Stored> {
    let mut stored = Stored { followers: Vec::new(), last_lines: vec![None; options.threads as usize] };
    for number in 0..topic.partition_count() {
        let partition = topic.partition(number)?;
        // Consumers go on from what the group committed; what lies before it was consumed by an earlier run.
        // Retention may have removed that place, and only a restored backup ends below it: a commit keeps what it
        // points past.
        let committed = group.committed(topic.name(), number)?.map(|committed| committed.offset);
        let offsets = partition.offsets();
        let from = committed.unwrap_or(offsets.start).clamp(offsets.start, offsets.end);
        let mut order = Order::default();
        for_each_line(&partition, |offset, line| {
            if producer_of(line.key, options.threads) != line.producer {
                return Err(format!("{} was written with another number of --threads", partition.topic()).into());
            }
            let last = &mut stored.last_lines[line.producer as usize];
            *last = (*last).max(Some(line.number));
            if offset < from {
                order.follow(&line)?;
                seen.mark(&line)?;
            }
            Ok(())
        })?;
        stored.followers.push(Follower { partition, from, order });
    }
    let resumed: u64 = stored.followers.iter().map(|follower| follower.partition.offsets().end.0).sum();
    if resumed > 0 {
        println!("going on after {} lines that are stored", grouped(resumed));
    }
    Ok(stored)
}

/// Reads a partition from its start to where it ends now.
fn for_each_line(partition: &Partition, mut each: impl FnMut(Offset, Line<'_>) -> Result<()>) -> Result<()> {
    let mut at = partition.offsets().start;
    loop {
        // One read returns about a mebibyte of records, borrowed from the file where they are stored uncompressed.
        let records = partition.read(at)?;
        if records.next_offset() == at {
            return Ok(());
        }
        for record in &records {
            each(record.offset, Line::of(&record)?)?;
        }
        at = records.next_offset();
    }
}

/// What the producers share.
struct Appending<'a> {
    input: &'a Input,
    topic: &'a Topic,
    threads: u32,
    acks: Option<&'a AckWriter>,
    kill_after: Option<u64>,
    appended: AtomicU64,
}

/// What one producer did.
struct Produced {
    lines: u64,
    bytes: u64,
    /// Of all its lines, those of earlier runs included.
    digest: u64,
}

/// Appends the lines whose keys are this producer's, those after `last`, one record a call.
fn produce(appending: &Appending<'_>, producer: u32, last: Option<u64>) -> Result<Produced> {
    let mut produced = Produced { lines: 0, bytes: 0, digest: 0 };
    let mut acks = appending.acks.map(|file| file.of_thread(producer));
    let mut lines = appending.input.lines();
    while let Some((number, line)) = lines.next()? {
        let key = key_of(line);
        if producer_of(key, appending.threads) != producer {
            continue;
        }
        produced.digest = produced.digest.wrapping_add(digest(number, line));
        if last.is_some_and(|last| number <= last) {
            continue;
        }

        // Nothing is copied before the log copies it: a record borrows its key, value and headers.
        let (producer_bytes, number_bytes) = (producer.to_be_bytes(), number.to_be_bytes());
        let headers = [Header::new("producer", &producer_bytes), Header::new("line", &number_bytes)];
        let record = Record::new(line).key(key).headers(&headers);

        // The key chooses the partition, as in Kafka. From when this returns, killing the process loses nothing; if it
        // has to survive a power cut, `wait(Ack::Synced)` on what it returns.
        let _ = appending.topic.append(record)?;

        if let Some(acks) = &mut acks {
            acks.note(number)?;
        }
        produced.lines += 1;
        produced.bytes += line.len() as u64;
        let appended = appending.appended.fetch_add(1, Ordering::Relaxed) + 1;
        if appending.kill_after == Some(appended) {
            eprintln!("aborting after {} appends, as told", grouped(appended));
            std::process::abort();
        }
    }
    acks.map_or(Ok(()), |mut acks| acks.flush())?;
    Ok(produced)
}

/// Follows one partition until everything that was appended was seen. Returns how many lines those were.
fn consume(follower: Follower, group: &Group, seen: &Seen, all_appended: &AtomicBool) -> Result<u64> {
    let Follower { partition, from, mut order } = follower;
    let (topic, number) = (partition.topic(), partition.number());
    // A reader never waits for an append: what it locks, to find a segment, it locks for a moment.
    let mut reader = partition.reader();
    let (mut at, mut committed) = (from, from);
    loop {
        // Looked at before reading: if it is set now, what can be read now is all there is.
        let is_all = all_appended.load(Ordering::Acquire);
        let records = reader.read(at)?;
        for record in &records {
            let line = Line::of(&record)?;
            order.follow(&line)?;
            seen.mark(&line)?;
        }
        let is_at_end = records.next_offset() == at;
        at = records.next_offset();

        // Committed after the records were dealt with: killed in between, the next run sees them again, and none less.
        // A commit is durable when it returns, so not one for each record.
        if at - committed >= COMMIT_EVERY || (is_at_end && at > committed) {
            group.commit(topic, number, at)?;
            committed = at;
        }
        if is_at_end {
            if is_all {
                return Ok(at - from);
            }
            partition.wait_readable(at, Duration::from_millis(50))?;
        }
    }
}

const COMMIT_EVERY: u64 = 10_000;

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
            for_each_line(&topic.partition(number)?, |_, line| {
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

/// The partitions, as the log's own statistics describe them.
fn table(log: &Log, topic: &Topic, group: &Group, consumed: &[u64]) -> Result<Table> {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["partition", "offsets", "segments", "MiB", "appended", "consumed", "committed"]);
    let stats = log.stats()?;
    let partitions = stats.topics.iter().filter(|one| one.name == topic.name()).flat_map(|one| &one.partitions);
    for (partition, consumed) in partitions.zip(consumed) {
        let committed = group.committed(topic.name(), partition.partition)?;
        table.add_row([
            partition.partition.to_string(),
            format!("{}..{}", partition.start, grouped(partition.end.0)),
            partition.segments.to_string(),
            format!("{:.1}", mebibytes(partition.bytes)),
            grouped(partition.appended_records),
            grouped(*consumed),
            committed.map_or("none".into(), |committed| grouped(committed.offset.0)),
        ]);
    }
    table.column_iter_mut().for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    Ok(table)
}

/// What a thread returned; a panic in it is passed on.
fn join<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn rate(lines: u64, bytes: u64, time: Duration) -> String {
    let seconds = time.as_secs_f64().max(1e-9);
    let (per_second, mebibytes) = ((lines as f64 / seconds) as u64, mebibytes(bytes));
    let lines = grouped(lines);
    let per_second = grouped(per_second);
    format!(
        "{lines} lines, {mebibytes:.1} MiB, in {time:.2?}: {per_second} lines/s, {:.1} MiB/s",
        mebibytes / seconds
    )
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A number with commas.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
