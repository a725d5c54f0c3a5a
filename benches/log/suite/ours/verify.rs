//! Judging all that is on disk, on two threads.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use chiplog::VerifyOptions;

use super::super::bare::verify_only;
use super::super::race::{Contender, Work};
use super::super::system::{Setup, Shape, Sum, System, Writer, read_back};
use super::super::work::unprepared;
use super::{AsItComes, Ours};

const SHAPE: Shape = Shape::batch_of(1_024);
const THREADS: usize = 2;
const SETUP: Setup = Setup { log_count: THREADS, is_synced: false, room: 0 };

/// Verifies a partition for each thread, with all that is beside the batches; or, bare, the checksums of the batches and
/// nothing else.
pub(crate) struct Verified {
    calls_each: u64,
    dir: PathBuf,
    /// Ours; a log that is open does work of its own in the background, so there is none beside the bare side.
    open: Option<Ours<AsItComes>>,
    is_bare: bool,
}

impl Verified {
    pub(crate) fn ours(bytes: u64) -> Self {
        let calls_each = (bytes / THREADS as u64 / SHAPE.disk_bytes(1)).max(1);
        Self { calls_each, dir: PathBuf::new(), open: None, is_bare: false }
    }

    pub(crate) fn bare(bytes: u64) -> Self {
        Self { is_bare: true, ..Self::ours(bytes) }
    }

    fn calls(&self) -> u64 {
        self.calls_each * THREADS as u64
    }

    fn fill(&self) -> io::Result<()> {
        let ours = Ours::<AsItComes>::open(&self.dir, SETUP)?;
        let payload = SHAPE.payload();
        let values: Vec<&[u8]> = payload.chunks_exact(SHAPE.len).collect();
        for log in 0..THREADS {
            let mut writer = ours.writer(log)?;
            for _ in 0..self.calls_each {
                Writer::append_all(&mut writer, &values)?;
            }
        }
        ours.close()
    }

    fn walk(&self) -> io::Result<u64> {
        thread::scope(|scope| {
            let spawn = |log| scope.spawn(move || verify_only(&self.dir, log));
            let threads: Vec<_> = (0..THREADS).map(spawn).collect();
            threads.into_iter().map(|thread| thread.join().map_err(|_| io::Error::other("a panic"))?).sum()
        })
    }
}

impl Contender for Verified {
    fn prepare(&mut self, dir: &Path) -> io::Result<Work> {
        self.dir = dir.to_owned();
        if dir.read_dir()?.next().is_none() {
            self.fill()?;
        }
        self.open = if self.is_bare { None } else { Some(Ours::open(dir, SETUP)?) };
        Ok(Work { disk_bytes: 0, ..Work::of(SHAPE, self.calls()) })
    }

    fn run(&mut self) -> io::Result<()> {
        let count = match self.is_bare {
            true => self.walk()?,
            false => {
                let ours = self.open.as_ref().ok_or_else(unprepared)?;
                let report = ours.log.verify(&VerifyOptions::default().threads(THREADS)).map_err(io::Error::other)?;
                match report.findings() {
                    [] => report.batches(),
                    [finding, ..] => return Err(io::Error::other(finding.to_string())),
                }
            }
        };
        if count == self.calls() { Ok(()) } else { Err(io::Error::other("batches are missing")) }
    }

    fn verify(&mut self) -> io::Result<Sum> {
        self.open.take().map_or(Ok(()), Ours::close)?;
        read_back::<Ours<AsItComes>>(&self.dir, SETUP)
    }
}
