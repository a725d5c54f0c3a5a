//! Replication: appends that wait for all nodes in sync, what that takes longer, and a node that catches up.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use chiplog::{Ack, Appended, Partition};

use super::nodes::Nodes;
use super::{AsItComes, Ours};
use crate::suite::race::{Contender, Work};
use crate::suite::system::{Setup, Shape, Sum, System, read_back};
use crate::suite::work::unprepared;

/// Appends to three nodes. The clock stops when all have all: each append is waited for, and not before so many records are
/// on their way.
pub(crate) struct Replicated {
    shape: Shape,
    calls: u64,
    open: Option<Nodes>,
}

/// Records that are appended and not waited for, at most.
const IN_FLIGHT: usize = 10_000;

impl Replicated {
    pub(crate) fn new(shape: Shape, calls: u64) -> Self {
        Self { shape, calls, open: None }
    }
}

impl Contender for Replicated {
    fn prepare(&mut self, dir: &Path) -> io::Result<Work> {
        let nodes = Nodes::start(dir, 3)?;
        append_in_flight(&nodes.partition(0)?, self.shape, 1)?;
        self.open = Some(nodes);
        let all = Work::of(self.shape, self.calls + 1);
        Ok(Work { record_count: self.calls * self.shape.values as u64, disk_bytes: all.disk_bytes * 3, ..all })
    }

    fn run(&mut self) -> io::Result<()> {
        let nodes = self.open.as_ref().ok_or_else(unprepared)?;
        append_in_flight(&nodes.partition(0)?, self.shape, self.calls)
    }

    fn verify(&mut self) -> io::Result<Sum> {
        one_of(&self.open.take().ok_or_else(unprepared)?.close_and_read()?)
    }
}

fn append_in_flight(partition: &Partition, shape: Shape, calls: u64) -> io::Result<()> {
    let payload = shape.payload();
    let values: Vec<&[u8]> = payload.chunks_exact(shape.len).collect();
    let wait = |appended: Appended<'_>| appended.wait(Ack::Replicated).map_err(io::Error::other);
    let most = (IN_FLIGHT / shape.values).max(1);
    let mut in_flight = VecDeque::with_capacity(most);
    for _ in 0..calls {
        if in_flight.len() == most {
            in_flight.pop_front().map_or(Ok(()), wait)?;
        }
        let appended = match &values[..] {
            [value] => partition.append(*value),
            values => partition.append_all(values.iter().copied()),
        };
        in_flight.push_back(appended.map_err(io::Error::other)?);
    }
    in_flight.into_iter().try_for_each(wait)
}

/// What each of them has, which has to be the same.
fn one_of(sums: &[Sum]) -> io::Result<Sum> {
    match sums {
        [first, others @ ..] if others.iter().all(|other| other == first) => Ok(*first),
        _ => Err(io::Error::other(format!("the nodes hold {sums:?}"))),
    }
}

/// Appends to a log that no other node holds and to three nodes, in turn, one record at a time, each waited for.
///
/// Figures, in microseconds: how much longer the three take than the one does, medians; and p99 of the three.
pub(crate) struct Delayed {
    calls: u64,
    dir: PathBuf,
    open: Option<(Nodes, Ours<AsItComes>)>,
    alone: Vec<Duration>,
    replicated: Vec<Duration>,
}

const ONE: Shape = Shape::one(100);
const SETUP: Setup = Setup { log_count: 1, is_synced: false, room: 0 };
const ALONE: &str = "alone";

impl Delayed {
    pub(crate) fn new(calls: u64) -> Self {
        Self { calls, dir: PathBuf::new(), open: None, alone: Vec::new(), replicated: Vec::new() }
    }
}

impl Contender for Delayed {
    fn prepare(&mut self, dir: &Path) -> io::Result<Work> {
        self.dir = dir.to_owned();
        let (nodes, alone) = (Nodes::start(dir, 3)?, Ours::open(&dir.join(ALONE), SETUP)?);
        for partition in [nodes.partition(0)?, alone.writer(0)?] {
            append_in_flight(&partition, ONE, 1)?;
        }
        self.open = Some((nodes, alone));
        Ok(Work { disk_bytes: 0, ..Work::of(ONE, self.calls + 1) })
    }

    fn run(&mut self) -> io::Result<()> {
        let (nodes, alone) = self.open.as_ref().ok_or_else(unprepared)?;
        let (replicated, alone, payload) = (nodes.partition(0)?, alone.writer(0)?, ONE.payload());
        self.alone.clear();
        self.replicated.clear();
        for _ in 0..self.calls {
            self.alone.push(append_one(&alone, &payload)?);
            self.replicated.push(append_one(&replicated, &payload)?);
        }
        self.alone.sort_unstable();
        self.replicated.sort_unstable();
        Ok(())
    }

    fn verify(&mut self) -> io::Result<Sum> {
        let (nodes, alone) = self.open.take().ok_or_else(unprepared)?;
        alone.close()?;
        let mut sums = nodes.close_and_read()?;
        sums.push(read_back::<Ours<AsItComes>>(&self.dir.join(ALONE), SETUP)?);
        one_of(&sums)
    }

    fn figures(&self, _: &Work, _: Duration) -> Vec<f64> {
        let at = |sorted: &[Duration], part: f64| {
            let found = sorted.get((sorted.len() as f64 * part) as usize);
            found.map_or(f64::NAN, |time| time.as_nanos() as f64 / 1e3)
        };
        vec![at(&self.replicated, 0.5) - at(&self.alone, 0.5), at(&self.replicated, 0.99)]
    }
}

/// How long it takes until an append holds for good. Without other nodes, that is when it returns.
fn append_one(partition: &Partition, payload: &[u8]) -> io::Result<Duration> {
    let began = Instant::now();
    let appended = partition.append(payload).map_err(io::Error::other)?;
    appended.wait(Ack::Replicated).map_err(io::Error::other)?;
    Ok(began.elapsed())
}

/// A node with nothing joins two that hold so many bytes, in memory. The clock stops when its log ends where theirs does.
///
/// Figures, in MB/s of batches: twice the same, for two goals.
pub(crate) struct CaughtUp {
    calls: u64,
    bytes: u64,
    open: Option<Nodes>,
}

const FULL: Shape = Shape::batch_of(1_024);

impl CaughtUp {
    pub(crate) fn new(bytes: u64) -> Self {
        Self { calls: bytes / FULL.disk_bytes(1), bytes: 0, open: None }
    }
}

impl Contender for CaughtUp {
    fn prepare(&mut self, dir: &Path) -> io::Result<Work> {
        let mut nodes = Nodes::start(dir, 2)?;
        let leader = nodes.partition(0)?;
        append_in_flight(&leader, FULL, self.calls)?;
        self.bytes = leader.segments().iter().map(|segment| segment.len()).sum();
        nodes.open_next()?;
        self.open = Some(nodes);
        Ok(Work::of(FULL, self.calls))
    }

    fn run(&mut self) -> io::Result<()> {
        let nodes = self.open.as_ref().ok_or_else(unprepared)?;
        let (end, newcomer) = (nodes.partition(0)?.offsets().end, nodes.partition(2)?);
        let began = Instant::now();
        nodes.join_last();
        while newcomer.offsets().end < end {
            if began.elapsed() > PATIENCE {
                return Err(io::Error::other(format!("it has {} of {end}", newcomer.offsets().end)));
            }
            // Not by spinning: there may be no third core.
            thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    fn verify(&mut self) -> io::Result<Sum> {
        one_of(&self.open.take().ok_or_else(unprepared)?.close_and_read()?)
    }

    fn figures(&self, _: &Work, elapsed: Duration) -> Vec<f64> {
        vec![self.bytes as f64 / 1e6 / elapsed.as_secs_f64(); 2]
    }
}

const PATIENCE: Duration = Duration::from_secs(60);
