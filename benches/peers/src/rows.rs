//! The rows that compare the log with what a user would pick instead.
//!
//! Who cannot do a row is not in it: commitlog and simple_wal sync nothing, okaywal syncs always, walrus-rust and
//! simple_wal find no single record. The slow ones do less of the same, so that the fast ones can do enough.

use std::io;

use crate::peers::{Commitlog, Fjall, Okaywal, RaftEngine, Redb, SimpleWal, Sqlite, WalrusRust};
use crate::suite::ours::{AsItComes, Ours, Unstaged};
use crate::suite::race::{Bound, Entrant, Goal, Line, Row};
use crate::suite::system::{Lookup, Shape, System};
use crate::suite::work::{Appends, Paced, Plan, RandomReads, Scan};
use crate::suite::{OURS, Size};

pub(crate) fn rows(size: Size) -> io::Result<Vec<Row>> {
    let mut rows = appends(size);
    rows.extend(synced(size));
    rows.extend(reads(size));
    rows.push(pace(size)?);
    Ok(rows)
}

fn appends(size: Size) -> Vec<Row> {
    let one = |len, full, quick| Plan::new(Shape::one(len), size.of(full, quick));
    let batch = |len, full, quick| Plan::new(Shape { values: 100, len }, size.of(full, quick));
    let small = one(100, 2_000_000, 100_000);
    let log_count = size.of(1_000, 20);
    let unstaged = vec![
        entrant::<Ours<Unstaged>>(OURS, small),
        entrant::<Commitlog>("commitlog", small),
        entrant::<WalrusRust>("walrus-rust", small),
    ];
    vec![
        unsynced("peers/append/100B", 5.0, small),
        unsynced("peers/append/1KiB", 2.7, one(1_024, 400_000, 20_000)),
        unsynced("peers/append/10KiB", 1.9, one(10_240, 40_000, 4_000)),
        Row::rate("peers/append/100B, staging off", 1.0, unstaged),
        unsynced("peers/append_all/100x100B", 1.9, batch(100, 40_000, 2_000)),
        unsynced("peers/append_all/100x1KiB", 1.15, batch(1_024, 5_000, 200)),
        unsynced("peers/append/100B, 4 threads", 9.0, one(100, 4_000_000, 100_000).threads(4).logs(4)),
        unsynced("peers/1,000 partitions in turn/100B", 2.5, one(100, 1_000_000, 20_000).logs(log_count as usize)),
    ]
}

/// All that can do without syncing.
fn unsynced(name: &'static str, goal: f64, plan: Plan) -> Row {
    let less = |by: u64| Plan { calls: (plan.calls / by).max(plan.log_count as u64), ..plan };
    let contenders = vec![
        entrant::<Ours<AsItComes>>(OURS, plan),
        entrant::<Commitlog>("commitlog", less(2)),
        entrant::<WalrusRust>("walrus-rust", less(2)),
        entrant::<SimpleWal>("simple_wal", less(4)),
        entrant::<Fjall>("fjall", less(4)),
        entrant::<RaftEngine>("raft-engine", less(4)),
        entrant::<Sqlite>("SQLite", less(20)),
        entrant::<Redb>("redb, lost by a kill", less(40)),
    ];
    Row::rate(name, goal, contenders)
}

fn synced(size: Size) -> Vec<Row> {
    let plan = |len, full, quick| Plan::new(Shape::one(len), size.of(full, quick)).synced();
    let group = |threads: usize| plan(100, 1_500 * threads as u64, 20 * threads as u64).threads(threads);
    vec![
        syncing("peers/synced/100B", 0.98, plan(100, 4_000, 60)),
        syncing("peers/synced/10KiB", 1.1, plan(10_240, 4_000, 60)),
        syncing("peers/synced/100B, 2 threads", 1.8, group(2)),
        syncing("peers/synced/100B, 8 threads", 1.4, group(8)),
        syncing("peers/synced/100B, 32 threads", 1.3, group(32)),
    ]
}

/// All that sync. Those with one writer at a time are no faster with 32 of them than with 8, and wait for each other.
fn syncing(name: &'static str, goal: f64, plan: Plan) -> Row {
    let mut contenders = vec![
        entrant::<Ours<AsItComes>>(OURS, plan),
        entrant::<RaftEngine>("raft-engine", plan),
        entrant::<Okaywal>("okaywal", plan),
    ];
    if plan.thread_count <= 8 {
        // As many calls as one thread makes: they take turns.
        let turns = Plan { calls: (plan.calls / plan.thread_count as u64).max(plan.thread_count as u64), ..plan };
        contenders.push(entrant::<WalrusRust>("walrus-rust", turns));
        contenders.push(entrant::<Fjall>("fjall", turns));
        contenders.push(entrant::<Sqlite>("SQLite", turns));
        contenders.push(entrant::<Redb>("redb", turns));
    }
    Row::rate(name, goal, contenders)
}

fn reads(size: Size) -> Vec<Row> {
    vec![
        scan("peers/scan/100B", 1.6, Shape::batch_of(100), size.of(20_000, 500)),
        scan("peers/scan/1KiB", 1.4, Shape::batch_of(1_024), size.of(20_000, 500)),
        lookups(size),
    ]
}

fn scan(name: &'static str, goal: f64, shape: Shape, calls: u64) -> Row {
    fn entrant<S: System>(name: &'static str, shape: Shape, calls: u64) -> Entrant {
        Entrant::new(name, Scan::<S>::new(shape, calls))
    }
    let contenders = vec![
        entrant::<Ours<AsItComes>>(OURS, shape, calls),
        entrant::<Commitlog>("commitlog, unchecked", shape, calls),
        entrant::<SimpleWal>("simple_wal", shape, calls / 4),
        entrant::<WalrusRust>("walrus-rust", shape, calls / 4),
        entrant::<Fjall>("fjall", shape, calls / 4),
        entrant::<RaftEngine>("raft-engine", shape, calls / 4),
        entrant::<Okaywal>("okaywal", shape, calls / 8),
        entrant::<Sqlite>("SQLite, unchecked", shape, calls / 2),
        entrant::<Redb>("redb, unchecked", shape, calls / 4),
    ];
    Row::rate(name, goal, contenders).keep()
}

/// Ours stores batches of one record, which costs it most; the others have no such choice, and are filled quickly.
fn lookups(size: Size) -> Row {
    let (record_count, reads) = (size.of(2_000_000, 40_000), size.of(200_000, 8_000));
    fn entrant<S: Lookup>(name: &'static str, values: usize, record_count: u64, reads: u64) -> Entrant {
        let shape = Shape { values, len: 100 };
        Entrant::new(name, RandomReads::<S>::new(shape, record_count / values as u64, reads))
    }
    let line = Line { name: "", unit: "ns, p50", goal: Goal::Ratio(Bound::AtMost(0.4)) };
    let contenders = vec![
        entrant::<Ours<Unstaged>>(OURS, 1, record_count, reads),
        entrant::<Commitlog>("commitlog, unchecked", 100, record_count, reads),
        entrant::<Fjall>("fjall", 1_000, record_count, reads),
        entrant::<RaftEngine>("raft-engine", 100, record_count, reads),
        entrant::<Okaywal>("okaywal", 1_000, record_count, reads),
        entrant::<Sqlite>("SQLite, unchecked", 1_000, record_count, reads),
        entrant::<Redb>("redb, unchecked", 1_000, record_count, reads),
    ];
    Row::of("peers/random read/100B", vec![line], contenders).keep()
}

fn pace(size: Size) -> io::Result<Row> {
    let twice = Goal::Ratio(Bound::AtMost(2.0));
    let lines = vec![
        Line { name: "call, p99", unit: "us", goal: Goal::Value(Bound::AtMost(30.0)) },
        Line { name: "call, p99.99", unit: "us", goal: twice },
        Line { name: "since due, p99.9", unit: "us", goal: twice },
    ];
    let calls = size.of(1_000_000, 25_000);
    let contenders = vec![
        Entrant::new(OURS, Paced::<Ours<AsItComes>>::new(calls)?),
        Entrant::new("commitlog", Paced::<Commitlog>::new(calls)?),
    ];
    Ok(Row::of("peers/50,000 a second/1KiB", lines, contenders))
}

fn entrant<S: System>(name: &'static str, plan: Plan) -> Entrant {
    Entrant::new(name, Appends::<S>::new(plan))
}
