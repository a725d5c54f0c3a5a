//! The rows that compare the log with what the machine allows: ours, and a bare loop, in turn, in one run.
//!
//! | File | Holds |
//! |---|---|
//! | `system` | what is measured, as traits |
//! | `work` | what is done with it, and timed |
//! | `race` | who runs when, and what counts |
//! | `outcome` | the table |
//! | `ours`, `bare` | the two sides |
//! | `child` | processes of their own |
//! | `machine` | what the figures are from |

pub(crate) mod bare;
pub(crate) mod child;
pub(crate) mod machine;
pub(crate) mod ours;
pub(crate) mod outcome;
pub(crate) mod race;
pub(crate) mod system;
pub(crate) mod work;

use std::io;

use bare::{Buffered, Copied, Group, Indexed, Positional, Staged, Walk};
use ours::{
    AsItComes, CaughtUp, Committed, Compacted, Consuming, Delayed, DiskBytes, Gathered, Iterating, ManyPartitions,
    Numbered, OnePartition, Opened, Ours, Repaired, Replicated, Tailed, Transacted, Unstaged, Verified, VerifyAll,
    Woken,
};
use race::{Bound, Entrant, Goal, Line, PER_RECORD, Row};
use system::{Shape, System};
use work::{Appends, Paced, Plan, RandomReads, Scan};

/// How much is done: enough for figures, or a little of everything, so that it cannot rot.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) is_quick: bool,
}

impl Size {
    pub(crate) fn of(self, full: u64, quick: u64) -> u64 {
        if self.is_quick { quick } else { full }
    }

    pub(crate) fn laps(self) -> usize {
        if self.is_quick { 3 } else { 5 }
    }
}

pub(crate) const OURS: &str = "chiplog";

/// The buffer of the bare loops, and that of each of very many logs.
const STAGED: usize = 1 << 20;
const SLOT: usize = 64 << 10;

/// All rows, the longest last.
pub(crate) fn rows(size: Size) -> io::Result<Vec<Row>> {
    let mut rows = appends(size);
    rows.extend(producers(size));
    rows.extend(synced(size));
    rows.extend(reads(size));
    rows.extend(consumers(size));
    rows.extend(many(size));
    rows.extend(memory(size));
    rows.push(pace(size)?);
    rows.extend(opening(size));
    #[cfg(feature = "zstd")]
    rows.push(opening_of_brokers());
    rows.push(verifying(size));
    rows.extend(compacting(size));
    rows.extend(replicated(size));
    Ok(rows)
}

fn appends(size: Size) -> Vec<Row> {
    let (small, middle, large) = (Shape::one(100), Shape::one(1_024), Shape::one(10_240));
    let (batch, large_batch) = (Shape { values: 100, len: 100 }, Shape { values: 100, len: 1_024 });
    let staged = |name, goal, plan| against::<Staged<STAGED>>(name, goal, "staged", plan);
    let buffered = |name, goal, plan| against::<Buffered>(name, goal, "buffered batches", plan);
    let through = Plan::new(small, size.of(1_500_000, 50_000));
    vec![
        staged("append/100B", 0.85, Plan::new(small, size.of(3_000_000, 100_000))),
        staged("append/1KiB", 0.9, Plan::new(middle, size.of(800_000, 20_000))),
        staged("append/10KiB", 0.9, Plan::new(large, size.of(80_000, 2_000))),
        Row::rate(
            "append/100B, staging off",
            0.8,
            vec![
                Entrant::new(OURS, Appends::<Ours<Unstaged>>::new(through)),
                Entrant::new("one pwrite each", Appends::<Positional>::new(through)),
            ],
        ),
        buffered("append_all/100x100B", 0.85, Plan::new(batch, size.of(60_000, 2_000))),
        buffered("append_all/100x1KiB", 0.9, Plan::new(large_batch, size.of(8_000, 250))),
        staged("append/100B, 4 threads", 0.8, Plan::new(small, size.of(4_000_000, 200_000)).threads(4).logs(4)),
    ]
}

fn producers(size: Size) -> Vec<Row> {
    let plan = Plan::new(Shape::one(100), size.of(3_000_000, 100_000));
    let numbered = vec![
        Entrant::new(OURS, Appends::<Numbered>::new(plan)),
        Entrant::new("plain", Appends::<Ours<AsItComes>>::new(plan)),
    ];
    let ten = Plan::new(Shape { values: 10, len: 100 }, size.of(300_000, 10_000));
    // 100,000 transactions.
    let line = Line { name: "", unit: "records/s", goal: Goal::Value(Bound::AtLeast(1_000_000.0)) };
    let transacted = vec![Entrant::new(OURS, Appends::<Transacted>::new(ten))];
    let hundred = Plan::new(Shape { values: 100, len: 100 }, size.of(60_000, 2_000));
    let gathered = vec![
        Entrant::new(OURS, Appends::<Gathered>::new(Plan { calls: size.of(6_000_000, 200_000), ..plan })),
        Entrant::new("append_all of 100", Appends::<Ours<AsItComes>>::new(hundred)),
    ];
    let both = Plan { calls: size.of(12_000_000, 400_000), ..plan };
    let threads = vec![
        Entrant::new(OURS, Appends::<Gathered>::new(both.threads(2).logs(2))),
        Entrant::new("1 thread", Appends::<Gathered>::new(both.logs(2))),
    ];
    vec![
        Row::rate("append/100B, idempotent", 0.9, numbered),
        Row::rate("producer/100B", 0.3, gathered),
        Row::rate("producer/100B, 2 threads", 1.7, threads),
        Row::of("transaction/10 appends to 3 partitions", vec![line], transacted),
    ]
}

fn synced(size: Size) -> Vec<Row> {
    let alone = |name, len, calls| {
        against::<Positional>(name, 0.97, "pwrite and fdatasync", Plan::new(Shape::one(len), calls).synced())
    };
    let group = |name, thread_count, calls| {
        let plan = Plan::new(Shape::one(100), calls).synced().threads(thread_count);
        against::<Group>(name, 0.95, "group by hand", plan)
    };
    vec![
        alone("synced/100B", 100, size.of(6_000, 150)),
        alone("synced/10KiB", 10_240, size.of(6_000, 150)),
        group("synced/100B, 2 threads", 2, size.of(12_000, 300)),
        group("synced/100B, 8 threads", 8, size.of(32_000, 800)),
        group("synced/100B, 32 threads", 32, size.of(80_000, 1_600)),
    ]
}

fn reads(size: Size) -> Vec<Row> {
    let scan = |name, len, calls| {
        let shape = Shape::batch_of(len);
        let contenders = vec![
            Entrant::new(OURS, Scan::<Ours<AsItComes>>::new(shape, calls)),
            Entrant::new("walk", Scan::<Walk>::new(shape, calls)),
        ];
        Row::rate(name, 0.85, contenders).keep()
    };
    let (one, calls, reads) = (Shape::one(100), size.of(2_000_000, 50_000), size.of(400_000, 40_000));
    let found = Line { name: "", unit: "ns, p50", goal: Goal::Ratio(Bound::AtMost(1.3)) };
    let contenders = vec![
        Entrant::new(OURS, RandomReads::<Ours<Unstaged>>::new(one, calls, reads)),
        Entrant::new("indexed walk", RandomReads::<Indexed>::new(one, calls, reads)),
    ];
    vec![
        scan("scan/100B", 100, size.of(60_000, 3_000)),
        scan("scan/1KiB", 1_024, size.of(60_000, 3_000)),
        Row::of("random read/100B", vec![found], contenders).keep(),
        tail(size),
    ]
}

fn consumers(size: Size) -> Vec<Row> {
    let (shape, calls) = (Shape { values: 100, len: 100 }, size.of(60_000, 3_000));
    let against_scan = |name, goal, ours| {
        let contenders = vec![ours, Entrant::new("scan", Scan::<Ours<AsItComes>>::new(shape, calls))];
        Row::rate(name, goal, contenders).keep()
    };
    let waits = size.of(10_000, 500);
    let alone = |name, unit, at_most, ours| {
        Row::of(name, vec![Line { name: "", unit, goal: Goal::Value(Bound::AtMost(at_most)) }], vec![ours])
    };
    vec![
        against_scan("consumer/poll, 100x100B", 0.6, Entrant::new(OURS, Scan::<Consuming>::new(shape, calls))),
        against_scan("consumer/iter, 100x100B", 0.1, Entrant::new(OURS, Scan::<Iterating>::new(shape, calls))),
        alone("consumer/woken by an append", "us, p50", 20.0, Entrant::new(OURS, Woken::new(waits))),
        alone("group/commit, unsynced", "us", 2.0, Entrant::new(OURS, Committed::new(size.of(1_000_000, 50_000)))),
        alone("group/a member's death, after its session", "ms", 100.0, Entrant::new(OURS, Repaired::new())),
    ]
}

fn tail(size: Size) -> Row {
    let half = Goal::Ratio(Bound::AtLeast(0.5));
    let lines = vec![
        Line { name: "appender", unit: "records/s", goal: half },
        Line { name: "reader", unit: "records/s", goal: half },
        Line { name: "mean batch", unit: "bytes", goal: Goal::Value(Bound::AtLeast(2_048.0)) },
    ];
    let calls = size.of(3_000_000, 100_000);
    let contenders =
        vec![Entrant::new(OURS, Tailed::beside(calls)), Entrant::new("each alone", Tailed::alone(calls))];
    Row::of("tail/100B", lines, contenders)
}

fn many(size: Size) -> Vec<Row> {
    let (log_count, rounds) = (size.of(1_000, 50), size.of(2_000, 400));
    let plan = Plan::new(Shape::one(100), log_count * rounds).logs(log_count as usize);
    let lines = vec![
        Line { name: "descriptors", unit: "", goal: Goal::Value(Bound::AtMost(log_count as f64 + 10.0)) },
        Line { name: "private", unit: "MiB", goal: Goal::Value(Bound::AtMost(16.0)) },
    ];
    let held = Entrant::new(OURS, ManyPartitions::new(log_count as usize, rounds));
    vec![
        against::<Staged<SLOT>>("1,000 partitions in turn/100B", 0.75, "staged", plan),
        Row::of("1,000 partitions in turn", lines, vec![held]),
    ]
}

fn memory(size: Size) -> Vec<Row> {
    let value = |unit, most| Line { name: "", unit, goal: Goal::Value(Bound::AtMost(most)) };
    let open = Entrant::new(OURS, OnePartition::new(size.of(10_000_000, 500_000)));
    let stored = Entrant::new(OURS, DiskBytes::new(size.of(400_000, 50_000)));
    vec![
        Row::of("private memory/10 M records", vec![value("MiB", 2.0)], vec![open]).keep(),
        Row::of("on disk/100B appended alone", vec![value("bytes", 111.0)], vec![stored]),
    ]
}

/// What the tail of the latencies is held against is a crate, not a loop: those goals are in the report.
fn pace(size: Size) -> io::Result<Row> {
    let lines = vec![
        Line { name: "call, p99", unit: "us", goal: Goal::Value(Bound::AtMost(30.0)) },
        Line { name: "call, p99.99", unit: "us", goal: Goal::None },
        Line { name: "since due, p99.9", unit: "us", goal: Goal::None },
    ];
    let ours = Entrant::new(OURS, Paced::<Ours<AsItComes>>::new(size.of(1_000_000, 25_000))?);
    Ok(Row::of("50,000 a second/1KiB", lines, vec![ours]))
}

fn compacting(size: Size) -> Vec<Row> {
    let line = Line { name: "", unit: "MB/s", goal: Goal::Value(Bound::AtLeast(300.0)) };
    let (gib, half) = (size.of(1 << 30, 16 << 20), size.of(512 << 20, 8 << 20));
    let compacted =
        vec![Entrant::new(OURS, Compacted::ours(gib)), Entrant::new("checksums, twice", Compacted::walked(gib))];
    let read = vec![Entrant::new(OURS, Compacted::beside(half)), Entrant::new("alone", Compacted::alone(half))];
    vec![Row::of("compact/1GiB", vec![line], compacted), Row::rate("read beside compaction/1KiB", 0.8, read)]
}

/// Three nodes in one process: three times the work, on the same cores.
fn replicated(size: Size) -> Vec<Row> {
    let (one, hundred) = (Shape::one(100), Shape { values: 100, len: 100 });
    let line = |name, unit, goal| Line { name, unit, goal };
    let (calls, batches) = (size.of(1_500_000, 50_000), size.of(60_000, 2_000));
    let a_second = line("", PER_RECORD, Goal::Value(Bound::AtLeast(300_000.0)));
    let pipelined = vec![Entrant::new(OURS, Replicated::new(one, calls))];
    // 60 % of a third of what one log takes, which has one thread.
    let in_batches = vec![
        Entrant::new(OURS, Replicated::new(hundred, batches)),
        Entrant::new("not replicated", Appends::<Ours<AsItComes>>::new(Plan::new(hundred, batches))),
    ];
    let waits =
        vec![line("longer than alone, p50", "us", Goal::Value(Bound::AtMost(50.0))), line("p99", "us", Goal::None)];
    let bytes = size.of(512 << 20, 16 << 20);
    let speeds =
        vec![line("", "MB/s", Goal::Value(Bound::AtLeast(1_000.0))), line("beside a copy", "MB/s", Goal::None)];
    let caught_up =
        vec![Entrant::new(OURS, CaughtUp::new(bytes)), Entrant::new("pread and pwrite", Copied::new(bytes))];
    vec![
        Row::of("replicated/100B, pipelined", vec![a_second], pipelined),
        Row::rate("replicated/100x100B, pipelined", 0.2, in_batches),
        Row::of(
            "replicated/100B, each waited for",
            waits,
            vec![Entrant::new(OURS, Delayed::new(size.of(20_000, 1_000)))],
        ),
        Row::of("replicated/catching up with 512MiB", speeds, caught_up),
    ]
}

fn opening(size: Size) -> Vec<Row> {
    let lines = |clean, killed| {
        vec![
            Line { name: "closed", unit: "ms", goal: Goal::Value(Bound::AtMost(clean)) },
            Line { name: "killed", unit: "ms", goal: Goal::Value(Bound::AtMost(killed)) },
        ]
    };
    let gib = size.of(1 << 30, 32 << 20);
    let (log_count, each) = (size.of(1_000, 50), size.of(10 << 20, 128 << 10));
    let verified = Line { name: "", unit: "ms", goal: Goal::Ratio(Bound::AtMost(1.1)) };
    let both = vec![Entrant::new(OURS, VerifyAll::ours(gib)), Entrant::new("verify only", VerifyAll::bare(gib))];
    let (one, many) = (Entrant::new(OURS, Opened::new(1, gib)), Opened::new(log_count as usize, each));
    vec![
        Row::of("verify all/1GiB", vec![verified], both).keep(),
        Row::of("open/1GiB", lines(0.5, 5.0), vec![one]),
        Row::of("open/1,000 partitions of 10MiB", lines(60.0, 400.0), vec![Entrant::new(OURS, many)]),
    ]
}

/// Its directory is packed by zstd.
#[cfg(feature = "zstd")]
fn opening_of_brokers() -> Row {
    let line = Line { name: "", unit: "ms", goal: Goal::Value(Bound::AtMost(20.0)) };
    let ours = Entrant::new(OURS, ours::OpenedBroker::default());
    Row::of("open/a broker's 61 partitions, read-only", vec![line], vec![ours]).keep()
}

fn verifying(size: Size) -> Row {
    let bytes = size.of(1 << 30, 32 << 20);
    let contenders =
        vec![Entrant::new(OURS, Verified::ours(bytes)), Entrant::new("verifying walk", Verified::bare(bytes))];
    Row::rate("verify/1GiB, 2 threads", 0.85, contenders).keep()
}

/// A race of ours with `Bare`, both appending as planned.
fn against<Bare: System>(name: &'static str, goal: f64, bare: &'static str, plan: Plan) -> Row {
    let contenders = vec![
        Entrant::new(OURS, Appends::<Ours<AsItComes>>::new(plan)),
        Entrant::new(bare, Appends::<Bare>::new(plan)),
    ];
    Row::rate(name, goal, contenders)
}
