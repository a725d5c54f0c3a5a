//! Money moves between accounts, in transactions, from several threads, while the process is killed.
//!
//! ```text
//! teller threads --transaction--> accounts (3 partitions): -5 ann, +5 bob
//!                            '--> ledger: transfer 2.17     '--> group `tellers`: how far this one has come
//! ```
//!
//! `cargo run --release --example transfers -- --kills 200` starts itself, kills that after a moment, opens what is left,
//! and looks: the sum of all balances is what it was, no transfer is there in part, each that was acknowledged is there, and
//! none that was aborted. It fails if not. With `--data DIR` the log is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use chiplog::{Ack, GroupOffset, Isolation, Log, Offset, ReadOptions, Record, TopicConfig, TransactionalProducer};
use clap::Parser;

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// Moves money between accounts in transactions, is killed meanwhile, and checks that none appears or vanishes.
#[derive(Debug, Clone, Parser)]
struct Options {
    /// How many times the process that moves money is killed
    #[arg(long, value_name = "N", default_value_t = 20)]
    kills: u64,
    /// How many threads move money, each with a transactional id of its own
    #[arg(long, value_name = "N", default_value_t = 4)]
    tellers: u64,
    /// How long that process lives at most, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 120)]
    life: u64,
    /// The directory of the log, which is kept [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Move money until killed: what this program starts itself with
    #[arg(long, hide = true)]
    work: bool,
}

const ACCOUNTS: u64 = 100;
const DEPOSIT: i64 = 1_000;

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match &options.data {
        Some(dir) if options.work => work(dir, options.tellers),
        Some(dir) => fs::create_dir_all(dir).map_err(Into::into).and_then(|()| survive(dir, &options)),
        None => tempfile::tempdir().map_err(Into::into).and_then(|dir| survive(dir.path(), &options)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("transfers: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Starts, kills and checks, again and again.
fn survive(dir: &Path, options: &Options) -> Result<()> {
    deposit(dir)?;
    let (began, mut acknowledged, mut whole) = (Instant::now(), BTreeSet::new(), 0);
    for round in 0..options.kills {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--work", "--tellers", &options.tellers.to_string(), "--data"])
            .arg(dir)
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = child.stdout.take().ok_or("the output is gone")?;
        let reader = thread::spawn(move || BufReader::new(lines).lines().map_while(Result::ok).collect::<Vec<_>>());
        // From the first moment of its opening to the midst of its work.
        thread::sleep(Duration::from_millis(1 + round * 7_919 % options.life.max(1)));
        child.kill()?;
        child.wait()?;
        let lines = reader.join().map_err(|_| "the reader of acknowledgments panicked")?;
        // Of the last one, a part may have been written: it has no end then.
        acknowledged.extend(lines.iter().filter_map(|line| line.strip_suffix('.').map(str::to_owned)));
        let log = Log::open(dir)?;
        whole = check(&log, &acknowledged).map_err(|error| format!("after kill {round}: {error}"))?;
        log.close()?;
    }
    let (seconds, count) = (began.elapsed().as_secs_f64(), acknowledged.len());
    println!(
        "{} kills in {seconds:.1} s: {whole} transfers are whole, {count} of them were acknowledged, no money was lost",
        options.kills
    );
    Ok(())
}

/// Gives each account its money, once.
fn deposit(dir: &Path) -> Result<()> {
    let log = Log::open(dir)?;
    let accounts = log.topic_with("accounts", TopicConfig::default().partitions(3).retention_time(None))?;
    log.topic_with("ledger", TopicConfig::default().retention_time(None))?;
    let is_there =
        (0..accounts.partition_count()).any(|at| accounts.partition(at).is_ok_and(|it| it.offsets().end.0 > 0));
    if !is_there {
        let mut bank = log.producer().transactional("bank")?;
        let mut deposits = bank.begin()?;
        for account in 0..ACCOUNTS {
            let (key, value) = (account.to_string(), format!("deposit {DEPOSIT}"));
            deposits.send(Record::new(&*value).key(&*key).to("accounts"))?;
        }
        deposits.commit()?;
    }
    Ok(log.close()?)
}

/// Moves money until the process is killed.
fn work(dir: &Path, tellers: u64) -> Result<()> {
    let log = Log::open(dir)?;
    let threads = (0..tellers).map(|teller| {
        let log = log.clone();
        thread::spawn(move || -> Result<()> {
            let mut producer = log.producer().transactional(&format!("teller-{teller}"))?;
            let group = log.group("tellers")?;
            let done = group.committed("requests", teller as u32)?.map_or(0, |done| done.offset.0);
            for number in done.. {
                transfer(&log, &mut producer, teller, number)?;
            }
            Ok(())
        })
    });
    let threads: Vec<_> = threads.collect();
    threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a teller panicked")?)
}

/// One transfer: its two halves, its line in the ledger, and that it is done, or nothing of it.
fn transfer(log: &Log, producer: &mut TransactionalProducer, teller: u64, number: u64) -> Result<()> {
    let (from, to) = ((teller * 31 + number * 7) % ACCOUNTS, (teller * 17 + number * 13 + 1) % ACCOUNTS);
    let (id, amount) = (format!("{teller}.{number}"), number as i64 % 50 + 1);
    let mut transaction = producer.begin()?;
    for (account, change) in [(from, -amount), (to, amount)] {
        let (key, value) = (account.to_string(), format!("{id} {change}"));
        transaction.send(Record::new(&*value).key(&*key).to("accounts"))?;
    }
    if number % 7 == 3 {
        // Thought better of it. The next of this number is another try, which stays.
        transaction.abort()?;
        transaction = producer.begin()?;
        transaction.send(Record::new(&*format!("{id} 0")).key("0").to("accounts"))?;
    }
    transaction.send(Record::new(&*id).to("ledger"))?;
    let done = GroupOffset::new("requests", teller as u32, Offset(number + 1));
    transaction.commit_offsets(&log.group("tellers")?, &[done])?;
    transaction.commit_with(if number.is_multiple_of(10) { Ack::Synced } else { Ack::Written })?;
    // In one write, with an end that tells a whole line from a part of one.
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(format!("{id}.\n").as_bytes())?;
    Ok(stdout.flush()?)
}

/// Counts the money. Returns how many transfers there are.
fn check(log: &Log, acknowledged: &BTreeSet<String>) -> Result<usize> {
    let mut changes: BTreeMap<String, (i64, u32)> = BTreeMap::new();
    let mut total = 0;
    for value in committed(log, "accounts")? {
        let (id, change) = value.split_once(' ').ok_or("a record without a change")?;
        let change: i64 = change.parse()?;
        total += change;
        if id != "deposit" {
            let (sum, count) = changes.entry(id.to_owned()).or_default();
            (*sum, *count) = (*sum + change, *count + 1);
        }
    }
    if total != ACCOUNTS as i64 * DEPOSIT {
        return Err(format!("there are {total} in all accounts").into());
    }
    let ledger = committed(log, "ledger")?;
    let ids: BTreeSet<&String> = ledger.iter().collect();
    if ids.len() != ledger.len() || !ids.iter().copied().eq(changes.keys()) {
        return Err(format!("{} lines in the ledger, {} transfers", ledger.len(), changes.len()).into());
    }
    for (id, (sum, count)) in &changes {
        let expected = if id.split_once('.').is_some_and(|(_, number)| is_aborted_first(number)) { 1 } else { 2 };
        if *sum != 0 || *count != expected {
            return Err(format!("of transfer {id} there are {count} records, which come to {sum}").into());
        }
    }
    match acknowledged.iter().find(|id| !changes.contains_key(*id)) {
        Some(lost) => Err(format!("transfer {lost} was acknowledged, and is gone").into()),
        None => Ok(changes.len()),
    }
}

fn is_aborted_first(number: &str) -> bool {
    number.parse::<u64>().is_ok_and(|number| number % 7 == 3)
}

/// The values of all committed records of a topic.
fn committed(log: &Log, topic: &str) -> Result<Vec<String>> {
    let (topic, mut values) = (log.topic(topic)?, Vec::new());
    let options = ReadOptions::default().isolation(Isolation::Committed);
    for number in 0..topic.partition_count() {
        let partition = topic.partition(number)?;
        let (mut reader, mut at) = (partition.reader().options(options), partition.offsets().start);
        while at < partition.offsets().stable {
            let records = reader.read(at)?;
            for record in &records {
                values.push(String::from_utf8(record.value.unwrap_or_default().to_vec())?);
            }
            at = records.next_offset();
        }
        if partition.offsets().stable != partition.offsets().end {
            return Err(format!("a transaction in {partition:?} has no end").into());
        }
    }
    Ok(values)
}
