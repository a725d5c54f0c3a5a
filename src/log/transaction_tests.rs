//! Transactions under crashes, kills and errors at every call: none is found in part, none that was reported is undone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests fail as tests do")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::coordinate::offsets_config;
use super::transactions::transactions_config;
use super::{Background, Log, LogBuilder, Staging};
use crate::client::TransactionalProducer;
use crate::config::{Durability, GroupConfig, TopicConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::group::GroupOffset;
use crate::partition::{Ack, Isolation, ReadOptions};
use crate::record::Record;
use crate::segment::pool::Layout;
use crate::sim::{DiskOptions, Errno, Fault, Record as Recording, SimDisk, SimEntropy, Times};
use crate::types::Offset;

mod damage;
mod mended;

/// Little slots and batches, so that their ends are near.
const LAYOUT: Layout = Layout { slot_len: 2048, slot_count: 4, batch_len: 300, stride: 256 };
/// What each transaction writes to.
const TOPICS: [&str; 2] = ["a", "b"];

/// Two lives of a log must not draw the same ids.
static OPENED: AtomicU64 = AtomicU64::new(1);

fn builder(disk: &Arc<SimDisk>, staging: Staging) -> LogBuilder {
    lenient(disk, staging).strict()
}

/// Opens also what is damaged.
fn lenient(disk: &Arc<SimDisk>, staging: Staging) -> LogBuilder {
    let (clock, disk) = (disk.clock(), Arc::clone(disk));
    let groups = GroupConfig::default();
    Log::builder("/log")
        .disk(disk)
        .clock(clock)
        .entropy(Arc::new(SimEntropy::new(OPENED.fetch_add(1, Ordering::Relaxed))))
        .background(Background::Caller)
        .staging(staging)
        .layout(LAYOUT)
        .offsets_topic(small(offsets_config(&groups)))
        .transactions_topic(small(transactions_config()))
}

fn small(config: TopicConfig) -> TopicConfig {
    config.segment_bytes(8192).set("segment.index.bytes", "240").unwrap()
}

/// A disk with the topics, all of them, and nothing in them.
fn disk(staging: Staging) -> Arc<SimDisk> {
    made_by(|disk| builder(disk, staging))
}

fn made_by(builder: impl Fn(&Arc<SimDisk>) -> LogBuilder) -> Arc<SimDisk> {
    let disk = SimDisk::new(DiskOptions::default());
    let log = builder(&disk).open().unwrap();
    let config = TopicConfig::default().segment_bytes(1024).set("segment.index.bytes", "240").unwrap();
    TOPICS.iter().for_each(|topic| drop(log.create_topic(topic, config).unwrap()));
    log.group("g").unwrap().commit("other", 0, Offset(1)).unwrap();
    drop(log.producer().transactional("id").unwrap());
    log.close().unwrap();
    disk.kill()
}

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Commit(Ack),
    Abort,
    Drop,
    /// Prepared, and then committed or not.
    Prepare(bool),
    /// Its holder is replaced by another.
    Fence,
    /// It takes too long.
    TimeOut,
}

/// One transaction: to how many topics, and whether with offsets of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Txn {
    topics: usize,
    has_offsets: bool,
    end: End,
}

const fn txn(topics: usize, has_offsets: bool, end: End) -> Txn {
    Txn { topics, has_offsets, end }
}

const SYNCED: End = End::Commit(Ack::Synced);
const WRITTEN: End = End::Commit(Ack::Written);

/// What survives a power cut as a whole.
const DURABLE: [Txn; 10] = [
    txn(2, true, SYNCED),
    txn(2, false, SYNCED),
    txn(1, false, SYNCED),
    txn(2, true, End::Abort),
    txn(2, false, SYNCED),
    txn(2, true, End::Prepare(true)),
    txn(2, false, End::Drop),
    txn(2, false, End::Prepare(false)),
    txn(2, true, End::Fence),
    txn(2, true, SYNCED),
];

/// What survives a kill as a whole.
const QUICK: [Txn; 8] = [
    txn(2, true, WRITTEN),
    txn(2, false, WRITTEN),
    txn(1, false, WRITTEN),
    txn(2, true, End::Abort),
    txn(2, false, SYNCED),
    txn(2, true, WRITTEN),
    txn(2, false, End::TimeOut),
    txn(2, true, WRITTEN),
];

impl Txn {
    /// Runs it, from its beginning to its end.
    fn run(self, number: u64, log: &Log, producer: &mut TransactionalProducer) -> Result<()> {
        let mut transaction = producer.begin()?;
        let value = number.to_string();
        for topic in &TOPICS[..self.topics] {
            // Twice: half of it is not all of it in one partition either.
            for _ in 0..2 {
                transaction.send(Record::new(&*value).to(topic))?;
            }
        }
        if self.has_offsets {
            let offset = GroupOffset::new("other", 0, Offset(number));
            transaction.commit_offsets(&log.group("g")?, &[offset])?;
        }
        match self.end {
            End::Commit(ack) => transaction.commit_with(ack),
            End::Abort => transaction.abort(),
            End::Drop => {
                drop(transaction);
                Ok(())
            }
            End::Prepare(true) => log.commit_prepared(&transaction.prepare()?),
            End::Prepare(false) => log.abort_prepared(&transaction.prepare()?),
            End::Fence => {
                std::mem::forget(transaction);
                *producer = log.producer().transactional("id")?;
                Ok(())
            }
            End::TimeOut => {
                // Whoever runs it moves the clock.
                std::mem::forget(transaction);
                Ok(())
            }
        }
    }

    fn commits(self) -> bool {
        matches!(self.end, End::Commit(_) | End::Prepare(true))
    }
}

/// What readers of committed data see: of each transaction, how many records where; and the offset of the group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Seen {
    records: BTreeMap<u64, [usize; 2]>,
    committed: u64,
}

impl Seen {
    fn of(log: &Log) -> Self {
        let mut seen = Self::default();
        for (at, topic) in TOPICS.iter().enumerate() {
            let partition = log.find_topic(topic).unwrap().partition(0).unwrap();
            let options = ReadOptions::default().isolation(Isolation::Committed);
            let mut from = Offset::ZERO;
            while from < partition.offsets().stable {
                let records = partition.read_with(from, options).unwrap();
                for record in &records {
                    let value = std::str::from_utf8(record.value.unwrap()).unwrap();
                    seen.records.entry(value.parse().unwrap()).or_default()[at] += 1;
                }
                from = records.next_offset();
            }
        }
        let committed = log.group("g").unwrap().committed("other", 0).unwrap();
        seen.committed = committed.map_or(0, |committed| committed.offset.0);
        seen
    }

    /// Which transactions are there. What is there in part is told.
    fn whole(&self, plan: &[Txn]) -> Result<BTreeSet<u64>, String> {
        let mut whole = BTreeSet::new();
        for (number, counts) in &self.records {
            let Some(txn) = plan.get(*number as usize - FIRST as usize) else { continue };
            let expected = if txn.topics == 2 { [2, 2] } else { [2, 0] };
            if *counts != expected {
                return Err(format!("of transaction {number} there are {counts:?}, not {expected:?}"));
            }
            whole.insert(*number);
        }
        let of = |number: &u64| plan[*number as usize - FIRST as usize].has_offsets;
        let last = whole.iter().rfind(|number| of(number)).copied().unwrap_or(1);
        match self.committed == last {
            true => Ok(whole),
            false => {
                Err(format!("the group is at {}, and the last transaction with offsets is {last}", self.committed))
            }
        }
    }
}

/// The number of the first transaction: the offset that a group has before it is another.
const FIRST: u64 = 10;

/// Opens what a crash or kill left. Everything is whole, every transaction ends, and it is good for more.
fn look(disk: &Arc<SimDisk>, staging: Staging, plan: &[Txn]) -> Result<BTreeSet<u64>, String> {
    let log = builder(disk, staging).open().map_err(|error| format!("it does not open: {error}"))?;
    for ticket in log.prepared().unwrap() {
        log.abort_prepared(&ticket).map_err(|error| format!("{ticket}: {error}"))?;
    }
    let seen = Seen::of(&log).whole(plan)?;
    let is_durable = plan.iter().all(|txn| txn.end != WRITTEN);
    for topic in TOPICS {
        let offsets = log.find_topic(topic).unwrap().partition(0).unwrap().offsets();
        if offsets.stable != offsets.end {
            return Err(format!("a transaction in {topic} has no end: {offsets:?}"));
        }
    }
    for seed in 0..if is_durable { 2 } else { 0 } {
        // Before anything else is synced.
        let log = builder(&disk.crash(seed), staging).open().map_err(|error| format!("once more: {error}"))?;
        let again = Seen::of(&log).whole(plan)?;
        if again != seen {
            return Err(format!("{seen:?} were there, and after a power cut {again:?}"));
        }
    }
    let mut producer = log.producer().transactional("id").map_err(|error| error.to_string())?;
    let mut transaction = producer.begin().unwrap();
    TOPICS.iter().for_each(|topic| drop(transaction.send(Record::new("99").to(topic)).unwrap()));
    transaction.commit().map_err(|error| format!("it is good for no more: {error}"))?;
    // What was found is what is found again, whatever happens to what was not synced.
    let disk = disk.crash(7);
    let log = builder(&disk, staging).open().map_err(|error| format!("it does not open again: {error}"))?;
    let mut again = Seen::of(&log);
    if again.records.remove(&99) != Some([1, 1]) {
        return Err("a commit after the crash is gone".to_owned());
    }
    match again.whole(plan)? == seen {
        true => Ok(seen),
        false => Err(format!("{seen:?} were there, and then {again:?}")),
    }
}

/// Runs a plan, and looks at what a crash or a kill leaves at each of its calls. Returns how many disks were judged.
fn crash_everywhere(plan: &[Txn], staging: Staging, crashes: u64) -> Result<u64, String> {
    let disk = disk(staging);
    disk.record(Recording::All);
    let log = builder(&disk, staging).open().unwrap();
    let mut producer = log.producer().transaction_timeout(Duration::from_secs(5)).transactional("id").unwrap();
    let mut ends = Vec::new();
    let began = disk.calls();
    for (txn, number) in plan.iter().zip(FIRST..) {
        txn.run(number, &log, &mut producer).unwrap();
        if txn.end == End::TimeOut {
            disk.clock().advance(Duration::from_secs(6));
            log.maintain().unwrap();
        }
        ends.push(disk.calls());
    }
    let mut judged = 0;
    for moment in disk.take_moments().into_iter().filter(|moment| moment.call >= began) {
        let done = ends.iter().filter(|end| **end <= moment.call).count();
        let clock = disk.clock().fork();
        let mut found = vec![("kill".to_owned(), SimDisk::on(moment.image.clone(), Arc::clone(&clock)))];
        if !moment.during {
            let crash = |seed| (format!("crash {seed}"), SimDisk::on(moment.image.crash(seed), clock.fork()));
            found.extend((0..crashes).map(crash));
        }
        for (how, disk) in found {
            let context = |what: String| format!("{how} at call {} in transaction {done}: {what}", moment.call);
            let seen = look(&disk, staging, plan).map_err(context)?;
            for (at, txn) in plan.iter().enumerate() {
                let (number, is_over) = (FIRST + at as u64, at < done);
                let is_seen = seen.contains(&number);
                if is_seen && (!txn.commits() || at > done) {
                    return Err(context(format!("{number} is seen, of {txn:?}")));
                }
                if !is_seen && is_over && txn.commits() {
                    return Err(context(format!("{number} was committed, and is gone: {txn:?}")));
                }
            }
            judged += 1;
        }
    }
    Ok(judged)
}

#[test]
fn a_crash_at_any_call_finds_each_transaction_as_a_whole_or_not_at_all() {
    for staging in [Staging::Off, Staging::On] {
        let judged = crash_everywhere(&DURABLE, staging, 4).unwrap();
        assert!(judged > 500, "{judged}");
    }
}

#[test]
fn a_kill_at_any_call_keeps_what_was_committed_without_a_sync() {
    for staging in [Staging::Off, Staging::On] {
        let judged = crash_everywhere(&QUICK, staging, 0).unwrap();
        assert!(judged > 100, "{judged}");
    }
}

/// Transactions beside a failing disk, then a crash: what was reported is so, and what was not is one or the other.
fn fail_everywhere(errno: Errno, times: Times, staging: Staging) -> Result<u64, String> {
    let plan = &[txn(2, true, SYNCED), txn(1, false, SYNCED), txn(2, false, End::Prepare(true))];
    let calls = {
        let disk = disk(staging);
        let log = builder(&disk, staging).open().unwrap();
        let mut producer = log.producer().transactional("id").unwrap();
        plan.iter().zip(FIRST..).for_each(|(txn, number)| txn.run(number, &log, &mut producer).unwrap());
        disk.calls()
    };
    let mut doubted = 0;
    for call in 0..calls {
        let disk = disk(staging);
        disk.inject(call, Fault::Error(errno), times);
        let Ok(log) = builder(&disk, staging).open() else { continue };
        let Ok(mut producer) = log.producer().transactional("id") else { continue };
        let (mut committed, mut aborted) = (BTreeSet::new(), BTreeSet::new());
        for (txn, number) in plan.iter().zip(FIRST..) {
            match txn.run(number, &log, &mut producer) {
                Ok(()) if txn.commits() => _ = committed.insert(number),
                Ok(()) => _ = aborted.insert(number),
                Err(Error::OutcomeUnknown { .. }) => doubted += 1,
                // Still prepared, where the error is of what comes after that.
                Err(_) if matches!(txn.end, End::Prepare(_)) => {}
                Err(_) => _ = aborted.insert(number),
            }
        }
        let context = |what: String| format!("{errno:?} {times:?} at call {call}: {what}");
        let before = Seen::of_healthy(&log);
        disk.heal();
        for seed in 0..2 {
            let left = if seed == 0 { disk.kill() } else { disk.crash(seed) };
            let seen = look(&left, staging, plan).map_err(|what| context(format!("seed {seed}: {what}")))?;
            let is_kept = committed.is_subset(&seen) && aborted.is_disjoint(&seen);
            if !is_kept || before.as_ref().is_some_and(|before| !before.is_subset(&seen)) {
                return Err(context(format!("seed {seed}: {seen:?}, {committed:?} committed, {aborted:?} aborted")));
            }
        }
        if let Some(audit) = disk.audit() {
            return Err(context(format!("{audit:?}")));
        }
    }
    Ok(doubted)
}

impl Seen {
    /// The transactions of which a reader saw anything at all, if nothing failed it.
    fn of_healthy(log: &Log) -> Option<BTreeSet<u64>> {
        let mut seen = BTreeSet::new();
        for topic in TOPICS {
            let partition = log.find_topic(topic)?.partition(0).ok()?;
            let options = ReadOptions::default().isolation(Isolation::Committed);
            let mut from = Offset::ZERO;
            while from < partition.offsets().stable {
                let records = partition.read_with(from, options).ok()?;
                let value = |value: Option<&[u8]>| std::str::from_utf8(value?).ok()?.parse::<u64>().ok();
                seen.extend(records.iter().filter_map(|record| value(record.value)));
                if records.next_offset() == from {
                    return None;
                }
                from = records.next_offset();
            }
        }
        Some(seen)
    }
}

#[test]
fn an_error_at_any_call_ends_in_a_commit_an_abort_or_a_doubt_that_the_next_open_settles() {
    for (errno, times, staging) in [
        (Errno::Io, Times::Once, Staging::Off),
        (Errno::Io, Times::Once, Staging::On),
        (Errno::Full, Times::Once, Staging::On),
        (Errno::Io, Times::Dead, Staging::Off),
    ] {
        let doubted = fail_everywhere(errno, times, staging).unwrap();
        assert!(doubted > 0 || errno == Errno::Full, "{errno:?} {times:?} {staging:?}");
    }
}

/// What was to be decided is in doubt, and a kill comes at any instruction after that.
#[test]
fn a_commit_in_doubt_has_one_outcome_whenever_the_process_dies() {
    let (doubted, judged) = die_in_doubt().unwrap();
    assert!(doubted > 0 && judged > 10, "{doubted}, {judged}");
}

fn die_in_doubt() -> Result<(u64, u64), String> {
    let plan = &DURABLE[..1];
    let (mut doubted, mut judged, mut at) = (0, 0, 0);
    loop {
        let disk = disk(Staging::Off);
        let log = builder(&disk, Staging::Off).open().unwrap();
        let mut producer = log.producer().transactional("id").unwrap();
        let began = disk.calls();
        disk.inject(began + at, Fault::Error(Errno::Io), Times::Once);
        disk.record(Recording::All);
        let ended = plan[0].run(FIRST, &log, &mut producer);
        if disk.struck() == 0 {
            return Ok((doubted, judged));
        }
        drop((producer, log));
        at += 1;
        if !matches!(ended, Err(Error::OutcomeUnknown { .. })) {
            continue;
        }
        doubted += 1;
        for moment in disk.take_moments().into_iter().filter(|moment| moment.call + 1 >= began + at) {
            let context = |what: String| format!("error at call {at}, kill at {}: {what}", moment.call - began);
            let left = SimDisk::on(moment.image.clone(), disk.clock().fork());
            look(&left, Staging::Off, plan).map_err(context)?;
            judged += 1;
        }
    }
}

/// An old holder's end of a transaction, which comes late, must not touch the transaction of the next.
#[test]
fn a_late_end_of_a_transaction_touches_no_later_one() {
    late_end().unwrap();
}

fn late_end() -> Result<(), String> {
    let disk = disk(Staging::On);
    let log = builder(&disk, Staging::On).open().unwrap();
    let mut old = log.producer().transactional("id").unwrap();
    let mut first = old.begin().unwrap();
    first.send(Record::new("10").to("a")).unwrap();
    let mut new = log.producer().transactional("id").unwrap();
    let mut second = new.begin().unwrap();
    second.send(Record::new("11").to("a")).unwrap();
    if first.commit().is_ok() {
        return Err("a fenced holder committed".to_owned());
    }
    if old.begin().is_ok() {
        return Err("a fenced holder began".to_owned());
    }
    let stable = log.find_topic("a").unwrap().partition(0).unwrap().offsets().stable;
    if stable != Offset(2) {
        return Err(format!("stable is at {stable}: the later transaction ended"));
    }
    second.commit().unwrap();
    // Late by one transaction of the same holder.
    let core = log.find_topic("a").unwrap().partition(0).unwrap().core;
    let mut third = new.begin().unwrap();
    third.send(Record::new("12").to("a")).unwrap();
    let producer = core.open_transactions()[0].producer;
    let late = crate::partition::Ending { producer, first: Offset(2), is_commit: true, fences: false };
    if core.end_transaction(&late).unwrap().is_some() {
        return Err("an ending of the second transaction ended the third".to_owned());
    }
    third.abort().unwrap();
    let seen = Seen::of(&log).records;
    match seen.keys().eq([&11]) {
        true => Ok(()),
        false => Err(format!("{seen:?}")),
    }
}

/// The topic was deleted and made anew, the next transaction began where the one before had, and a kill came: the decision on
/// the one before was taken for its own.
#[test]
fn a_decision_is_not_one_on_a_transaction_in_a_topic_that_was_made_anew() {
    let disk = disk(Staging::Off);
    let log = builder(&disk, Staging::Off).open().unwrap();
    let mut producer = log.producer().transactional("id").unwrap();
    txn(2, false, SYNCED).run(10, &log, &mut producer).unwrap();
    log.delete_topic("a").unwrap();
    let mut transaction = producer.begin().unwrap();
    TOPICS.iter().for_each(|topic| drop(transaction.send(Record::new("11").to(topic)).unwrap()));
    std::mem::forget(transaction);
    let log = builder(&disk.kill(), Staging::Off).open().unwrap();
    assert_eq!(Seen::of(&log).records, BTreeMap::from([(10, [0, 2])]));
}

/// A power cut took a part of a commit that nobody had asked to be durable. What the open then says of the rest stays so, also
/// when other records have taken the place of those that were lost.
#[test]
fn a_commit_that_lost_a_part_stays_aborted_when_others_take_its_place() {
    lose_a_part().unwrap();
}

fn lose_a_part() -> Result<(), String> {
    let mut aborted = 0;
    for seed in 0..60 {
        let disk = disk(Staging::Off);
        let log = builder(&disk, Staging::Off).open().unwrap();
        let partition = |log: &Log, topic| log.find_topic(topic).unwrap().partition(0).unwrap();
        let mut producer = log.producer().transactional("id").unwrap();
        let mut transaction = producer.begin().unwrap();
        for topic in TOPICS {
            transaction.send(Record::new("10").to(topic)).unwrap();
            if topic == "a" {
                partition(&log, "a").sync().unwrap();
            }
        }
        transaction.commit_with(Ack::Written).unwrap();
        // The decision is durable by the way.
        log.producer().transactional("other").unwrap();
        let found = disk.crash(seed);
        let log = builder(&found, Staging::Off).open().unwrap();
        if Seen::of(&log).records.contains_key(&10) {
            continue;
        }
        aborted += 1;
        let b = partition(&log, "b");
        (0..3).for_each(|_| drop(b.append("20").unwrap()));
        b.sync().unwrap();
        for seed in 0..4 {
            let log = builder(&found.crash(seed), Staging::Off).open().unwrap();
            let seen = Seen::of(&log).records;
            if seen.contains_key(&10) {
                return Err(format!("it was aborted, and is there in part: {seen:?}"));
            }
        }
    }
    assert!(aborted > 3, "{aborted}");
    Ok(())
}

/// Producer ids of two lives are never the same, whatever a crash takes.
#[test]
fn a_producer_id_is_given_out_once() {
    ids_differ().unwrap();
}

fn ids_differ() -> Result<(), String> {
    let mut disk = disk(Staging::Off);
    let mut ids = BTreeSet::new();
    for seed in 0..20 {
        let log = builder(&disk, Staging::Off).open().unwrap();
        for _ in 0..3 {
            let id = log.producer().idempotent().unwrap().id();
            if !ids.insert(id.0) {
                return Err(format!("{id} was given out before"));
            }
        }
        disk = disk.crash(seed);
    }
    Ok(())
}

/// A time-out is looked at by maintenance, by the log's clock.
#[test]
fn a_transaction_that_takes_too_long_is_aborted_and_says_so() {
    time_out().unwrap();
}

fn time_out() -> Result<(), String> {
    let disk = disk(Staging::Off);
    let log = builder(&disk, Staging::Off).open().unwrap();
    let mut producer = log.producer().transaction_timeout(Duration::from_secs(5)).transactional("id").unwrap();
    let mut transaction = producer.begin().unwrap();
    transaction.send(Record::new("10").to("a")).unwrap();
    let next = log.maintain().unwrap().next;
    assert!(next <= Duration::from_secs(5), "{next:?}");
    disk.clock().advance(Duration::from_millis(4_999));
    log.maintain().unwrap();
    transaction.send(Record::new("10").to("a")).unwrap();
    disk.clock().advance(Duration::from_millis(1));
    log.maintain().unwrap();
    let offsets = log.find_topic("a").unwrap().partition(0).unwrap().offsets();
    if offsets.stable != offsets.end {
        return Err(format!("it is open still: {offsets:?}"));
    }
    let late = transaction.send(Record::new("10").to("a"));
    assert!(matches!(late, Err(Error::InvalidTransaction { .. })), "{late:?}");
    assert!(matches!(transaction.commit(), Err(Error::InvalidTransaction { .. })));
    producer.begin().unwrap().commit().unwrap();
    Ok(())
}

/// A disk that is full when a transaction ends: it ends once there is space, and none begins before.
#[test]
fn a_marker_that_could_not_be_written_is_written_by_maintenance() {
    let disk = disk(Staging::Off);
    let log = builder(&disk, Staging::Off).open().unwrap();
    let mut producer = log.producer().transactional("id").unwrap();
    let mut transaction = producer.begin().unwrap();
    TOPICS.iter().for_each(|topic| drop(transaction.send(Record::new("10").to(topic)).unwrap()));
    disk.inject(disk.calls(), Fault::Error(Errno::Full), Times::Dead);
    assert!(transaction.abort().is_err());
    assert!(producer.begin().is_err(), "its records would be taken for those of the one before");
    disk.heal();
    log.maintain().unwrap();
    for topic in TOPICS {
        let offsets = log.find_topic(topic).unwrap().partition(0).unwrap().offsets();
        assert_eq!((offsets.stable, offsets.end), (Offset(2), Offset(2)));
    }
    producer.begin().unwrap().commit().unwrap();
}

/// A record that failed before it had a partition is not the one before it.
#[test]
fn a_retry_is_of_the_record_that_failed_and_of_no_other() {
    let log = builder(&disk(Staging::Off), Staging::Off).open().unwrap();
    let mut producer = log.producer().idempotent().unwrap();
    producer.send(Record::new("10").to("a")).unwrap();
    assert!(producer.send(Record::new("11").to("__consumer_offsets")).is_err());
    let appended = producer.retry(Record::new("11").to("a")).unwrap();
    assert_eq!((appended.offset(), appended.is_duplicate()), (Offset(1), false));
}

/// A record whose sync failed is there, and nobody knows for how long: a retry does not say that it is durable.
#[test]
fn a_retry_of_a_record_that_is_not_synced_is_no_acknowledgement() {
    let mut not_synced = 0;
    for call in 0..6 {
        let disk = disk(Staging::Off);
        let log = builder(&disk, Staging::Off).open().unwrap();
        log.create_topic("each", TopicConfig::default().durability(Durability::Each)).unwrap();
        let mut producer = log.producer().idempotent().unwrap();
        producer.send(Record::new("10").to("each")).unwrap();
        disk.inject(disk.calls() + call, Fault::Error(Errno::Io), Times::Once);
        if let Err(Error::NotSynced { .. }) = producer.send(Record::new("11").to("each")) {
            not_synced += 1;
            let again = producer.retry(Record::new("11").to("each"));
            assert!(matches!(again, Err(Error::Poisoned { .. })), "{again:?}");
        }
    }
    assert!(not_synced > 0);
}

/// A decision is written before it is synced, so that a full disk refuses it and leaves no doubt.
#[test]
fn a_decision_that_a_full_disk_does_not_take_is_none() {
    let disk = disk(Staging::On);
    let log = builder(&disk, Staging::On).open().unwrap();
    let mut producer = log.producer().transactional("id").unwrap();
    let mut transaction = producer.begin().unwrap();
    for topic in TOPICS {
        transaction.send(Record::new("10").to(topic)).unwrap();
        log.find_topic(topic).unwrap().partition(0).unwrap().sync().unwrap();
    }
    disk.inject(disk.calls(), Fault::Error(Errno::Full), Times::Dead);
    let error = transaction.commit().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    disk.heal();
    producer.begin().unwrap().commit().unwrap();
    assert!(Seen::of(&log).records.is_empty());
}

/// What a commit without a sync rests on all the same, and what the next one with a sync makes good.
#[test]
fn a_written_commit_syncs_what_lies_below_its_offsets_and_an_empty_one_what_was_written() {
    let log = builder(&disk(Staging::Off), Staging::Off).open().unwrap();
    let offsets = |topic| log.find_topic(topic).unwrap().partition(0).unwrap().offsets();
    let mut producer = log.producer().transactional("id").unwrap();
    log.append(Record::new("5").to("b")).unwrap();
    let mut transaction = producer.begin().unwrap();
    transaction.send(Record::new("10").to("a")).unwrap();
    transaction.commit_offsets(&log.group("g").unwrap(), &[GroupOffset::new("b", 0, Offset(1))]).unwrap();
    transaction.commit_with(Ack::Written).unwrap();
    assert_eq!((offsets("b").synced, offsets("a").synced), (Offset(1), Offset(0)));
    producer.begin().unwrap().commit().unwrap();
    assert_eq!(offsets("a").synced, offsets("a").end);
}

/// Of a partition that is poisoned nobody knows what is on the disk: no decision rests on it.
#[test]
fn a_written_commit_is_refused_if_one_of_its_partitions_is_poisoned() {
    let disk = disk(Staging::Off);
    let log = builder(&disk, Staging::Off).open().unwrap();
    let mut producer = log.producer().transactional("id").unwrap();
    let mut transaction = producer.begin().unwrap();
    TOPICS.iter().for_each(|topic| drop(transaction.send(Record::new("10").to(topic)).unwrap()));
    disk.inject(disk.calls(), Fault::Error(Errno::Io), Times::Once);
    assert!(log.find_topic("b").unwrap().partition(0).unwrap().sync().is_err());
    let refused = transaction.commit_with(Ack::Written);
    assert!(matches!(refused, Err(Error::Poisoned { .. })), "{refused:?}");
    let offsets = log.find_topic("a").unwrap().partition(0).unwrap().offsets();
    assert_eq!((offsets.stable, offsets.end), (Offset(2), Offset(2)));
    let log = builder(&disk.kill(), Staging::Off).open().unwrap();
    assert!(Seen::of(&log).records.is_empty());
}

/// A transaction in which something fails, so that what it left can be cut off only later, goes on and is committed, or
/// prepared. Whenever the process dies, and whatever it could write of the markers, what failed is no part of it.
fn go_on() -> Result<usize, String> {
    let mut dead = 0;
    for (call, end) in (0..3).flat_map(|call| [(call, SYNCED), (call, WRITTEN), (call, End::Prepare(true))]) {
        let disk = disk(Staging::Off);
        let log = builder(&disk, Staging::Off).open().unwrap();
        let mut producer = log.producer().transactional("id").unwrap();
        let group = log.group("g").unwrap();
        let mut transaction = producer.begin().unwrap();
        TOPICS.iter().for_each(|topic| drop(transaction.send(Record::new("10").to(topic)).unwrap()));
        transaction.commit_offsets(&group, &[GroupOffset::new("other", 0, Offset(10))]).unwrap();
        disk.inject(disk.calls() + call, Fault::Partly(usize::MAX), Times::Next(2));
        let sent = transaction.send(Record::new("11").to("a")).is_ok();
        let committed = transaction.commit_offsets(&group, &[GroupOffset::new("other", 0, Offset(11))]).is_ok();
        disk.heal();
        disk.record(Recording::All);
        match end {
            End::Prepare(_) => drop(transaction.prepare().unwrap()),
            End::Commit(ack) => transaction.commit_with(ack).unwrap(),
            _ => {}
        }
        let moments = disk.take_moments();
        for moment in &moments {
            let disk = SimDisk::on(moment.image.clone(), disk.clock().fork());
            let log =
                builder(&disk, Staging::Off).open().map_err(|error| format!("call {call}, {end:?}: {error}"))?;
            for ticket in log.prepared().unwrap() {
                log.commit_prepared(&ticket).unwrap();
            }
            let seen = Seen::of(&log);
            if !sent && seen.records.contains_key(&11) || !committed && seen.committed == 11 {
                return Err(format!("call {call}, {end:?}, after call {}: {seen:?}", moment.call));
            }
            dead += usize::from(!sent || !committed);
        }
    }
    Ok(dead)
}

#[test]
fn what_failed_in_a_transaction_that_goes_on_is_no_part_of_it() {
    let dead = go_on().unwrap();
    assert!(dead > 50, "{dead}");
}

/// A test that cannot fail is none.
#[cfg(feature = "planted-bugs")]
#[test]
fn each_planted_mistake_of_transactions_is_found() {
    let find: &[fn() -> Result<(), String>] = &[
        late_end,
        ids_differ,
        time_out,
        lose_a_part,
        || die_in_doubt().map(drop),
        || go_on().map(drop),
        || crash_everywhere(&QUICK, Staging::On, 0).map(drop),
        || fail_everywhere(Errno::Io, Times::Once, Staging::Off).map(drop),
        || crash_everywhere(&DURABLE, Staging::Off, 6).map(drop),
        || crash_everywhere(&DURABLE, Staging::On, 6).map(drop),
    ];
    for bug in crate::sim::log::TRANSACTIONS {
        crate::sim::explore::plant(Some(bug));
        let is_found = find.iter().any(|find| !std::panic::catch_unwind(find).is_ok_and(|found| found.is_ok()));
        crate::sim::explore::plant(None);
        assert!(is_found, "{bug}");
    }
}
