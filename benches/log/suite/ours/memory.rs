//! Private memory and descriptors, of processes that do nothing else.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chiplog::Offset;

use super::super::child::{self, Job};
use super::super::machine;
use super::super::race::{Contender, Work};
use super::super::system::{Setup, Shape, Sum, System, Writer, read_back};
use super::super::work::fill;
use super::{AsItComes, Ours};

const ONE: Shape = Shape::one(100);
const BATCH: Shape = Shape::batch_of(100);

fn setup(log_count: usize) -> Setup {
    Setup { log_count, is_synced: false, room: 0 }
}

/// The job of a child: descriptors and private KiB after so many rounds of appending to each log in turn.
pub(crate) fn many_partitions(dir: &Path, log_count: usize, rounds: u64) -> io::Result<[u64; 2]> {
    let ours = Ours::<AsItComes>::open(dir, setup(log_count))?;
    let mut writers = (0..log_count).map(|log| ours.writer(log)).collect::<io::Result<Vec<_>>>()?;
    let payload = ONE.payload();
    for _ in 0..rounds {
        writers.iter_mut().try_for_each(|writer| Writer::append(writer, &payload))?;
    }
    let found = [machine::descriptors()?, machine::private_kib()?];
    drop(writers);
    ours.close()?;
    Ok(found)
}

/// The job of a child: private KiB before a log is opened, and after its first, middle and last record were read.
pub(crate) fn one_partition(dir: &Path) -> io::Result<[u64; 2]> {
    let before = machine::private_kib()?;
    let ours = Ours::<AsItComes>::open(dir, setup(1))?;
    let partition = ours.writer(0)?;
    let end = partition.offsets().end.0;
    for at in [0, end / 2, end - 1] {
        partition.read(Offset(at)).map_err(io::Error::other)?;
    }
    let after = machine::private_kib()?;
    drop(partition);
    ours.close()?;
    Ok([before, after])
}

/// Figures: descriptors, and MiB of private memory.
pub(crate) struct ManyPartitions {
    log_count: usize,
    rounds: u64,
    dir: PathBuf,
    found: Vec<u64>,
}

impl ManyPartitions {
    pub(crate) fn new(log_count: usize, rounds: u64) -> Self {
        Self { log_count, rounds, dir: PathBuf::new(), found: Vec::new() }
    }
}

impl Contender for ManyPartitions {
    fn prepare(&mut self, dir: &Path) -> io::Result<Work> {
        self.dir = dir.to_owned();
        Ok(Work::of(ONE, self.log_count as u64 * self.rounds))
    }

    fn run(&mut self) -> io::Result<()> {
        let job = Job::Many { log_count: self.log_count, rounds: self.rounds };
        self.found = child::run(&self.dir, job)?;
        Ok(())
    }

    fn verify(&mut self) -> io::Result<Sum> {
        read_back::<Ours<AsItComes>>(&self.dir, setup(self.log_count))
    }

    fn figures(&self, _: &Work, _: Duration) -> Vec<f64> {
        match self.found[..] {
            [descriptors, kib] => vec![descriptors as f64, kib as f64 / 1024.0],
            _ => vec![f64::NAN; 2],
        }
    }
}

/// Figure: MiB of private memory that a process has more of for one open partition.
pub(crate) struct OnePartition {
    calls: u64,
    dir: PathBuf,
    found: Vec<u64>,
}

impl OnePartition {
    pub(crate) fn new(record_count: u64) -> Self {
        Self { calls: record_count / BATCH.values as u64, dir: PathBuf::new(), found: Vec::new() }
    }
}

impl Contender for OnePartition {
    fn prepare(&mut self, dir: &Path) -> io::Result<Work> {
        self.dir = dir.to_owned();
        if dir.read_dir()?.next().is_none() {
            fill::<Ours<AsItComes>>(dir, BATCH, self.calls)?;
        }
        Ok(Work { disk_bytes: 0, ..Work::of(BATCH, self.calls) })
    }

    fn run(&mut self) -> io::Result<()> {
        self.found = child::run(&self.dir, Job::One)?;
        Ok(())
    }

    fn verify(&mut self) -> io::Result<Sum> {
        read_back::<Ours<AsItComes>>(&self.dir, setup(1))
    }

    fn figures(&self, _: &Work, _: Duration) -> Vec<f64> {
        match self.found[..] {
            [before, after] => vec![after.saturating_sub(before) as f64 / 1024.0],
            _ => vec![f64::NAN],
        }
    }
}
