//! Opening what was closed, what was killed; and verifying all of it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chiplog::{Log, Offset, ReadOptions};

use super::super::bare::verify_only;
use super::super::child::{self, Job};
use super::super::race::{Contender, Work};
use super::super::system::{Setup, Shape, Sum, System, Writer, read_back};
use super::super::work::{fill, unprepared};
use super::{AsItComes, Opening, Ours};

const SHAPE: Shape = Shape::batch_of(1_024);

fn calls_for(bytes: u64) -> u64 {
    (bytes / SHAPE.disk_bytes(1)).max(1)
}

fn setup(log_count: usize) -> Setup {
    Setup { log_count, is_synced: false, room: 0 }
}

/// The job of a child: everything written, nothing closed.
pub(crate) fn fill_and_wait(dir: &Path, log_count: usize, bytes_each: u64) -> io::Result<()> {
    let ours = Ours::<AsItComes>::open(dir, setup(log_count))?;
    let payload = SHAPE.payload();
    let values: Vec<&[u8]> = payload.chunks_exact(SHAPE.len).collect();
    for log in 0..log_count {
        let mut writer = ours.writer(log)?;
        for _ in 0..calls_for(bytes_each) {
            Writer::append_all(&mut writer, &values)?;
        }
    }
    child::wait_to_be_killed()
}

/// Logs that a process wrote which was killed then. Figures, in milliseconds: opening them after that, and once more
/// after an orderly close.
pub(crate) struct Opened {
    log_count: usize,
    bytes_each: u64,
    dir: PathBuf,
    killed: Duration,
    clean: Duration,
}

impl Opened {
    pub(crate) fn new(log_count: usize, bytes_each: u64) -> Self {
        Self { log_count, bytes_each, dir: PathBuf::new(), killed: Duration::ZERO, clean: Duration::ZERO }
    }
}

impl Contender for Opened {
    fn prepare(&mut self, dir: &Path) -> io::Result<Work> {
        self.dir = dir.to_owned();
        child::run_and_kill(dir, Job::Fill { log_count: self.log_count, bytes_each: self.bytes_each })?;
        // What the kernel still writes back is not what is measured.
        rustix::fs::sync();
        let calls = self.log_count as u64 * calls_for(self.bytes_each);
        Ok(Work { disk_bytes: 0, ..Work::of(SHAPE, calls) })
    }

    fn run(&mut self) -> io::Result<()> {
        for time in [&mut self.killed, &mut self.clean] {
            let started = Instant::now();
            let log: Log = AsItComes::builder(&self.dir).open().map_err(io::Error::other)?;
            *time = started.elapsed();
            log.close().map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn verify(&mut self) -> io::Result<Sum> {
        read_back::<Ours<AsItComes>>(&self.dir, setup(self.log_count))
    }

    fn figures(&self, _: &Work, _: Duration) -> Vec<f64> {
        [self.clean, self.killed].iter().map(|time| time.as_secs_f64() * 1e3).collect()
    }
}

/// Reads each batch of one partition, whose checksum is verified by that; or, bare, verifies them and nothing else.
pub(crate) struct VerifyAll {
    bytes: u64,
    dir: PathBuf,
    /// Ours; a log that is open does work of its own in the background, so there is none beside the bare side.
    open: Option<Ours<AsItComes>>,
    is_bare: bool,
}

impl VerifyAll {
    pub(crate) fn ours(bytes: u64) -> Self {
        Self { bytes, dir: PathBuf::new(), open: None, is_bare: false }
    }

    pub(crate) fn bare(bytes: u64) -> Self {
        Self { is_bare: true, ..Self::ours(bytes) }
    }
}

impl Contender for VerifyAll {
    fn prepare(&mut self, dir: &Path) -> io::Result<Work> {
        self.dir = dir.to_owned();
        if dir.read_dir()?.next().is_none() {
            fill::<Ours<AsItComes>>(dir, SHAPE, calls_for(self.bytes))?;
        }
        self.open = if self.is_bare { None } else { Some(Ours::open(dir, setup(1))?) };
        Ok(Work { disk_bytes: 0, ..Work::of(SHAPE, calls_for(self.bytes)) })
    }

    fn run(&mut self) -> io::Result<()> {
        if self.is_bare {
            let count = verify_only(&self.dir, 0)?;
            return if count == calls_for(self.bytes) {
                Ok(())
            } else {
                Err(io::Error::other("batches are missing"))
            };
        }
        let partition = self.open.as_ref().ok_or_else(unprepared)?.writer(0)?;
        let (mut at, end) = (Offset::ZERO, partition.offsets().end);
        while at < end {
            at = partition.fetch(at, ReadOptions::default()).map_err(io::Error::other)?.next_offset();
        }
        Ok(())
    }

    fn verify(&mut self) -> io::Result<Sum> {
        self.open.take().map_or(Ok(()), Ours::close)?;
        read_back::<Ours<AsItComes>>(&self.dir, setup(1))
    }

    fn figures(&self, _: &Work, elapsed: Duration) -> Vec<f64> {
        vec![elapsed.as_secs_f64() * 1e3]
    }
}
