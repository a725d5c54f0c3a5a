//! What a record takes on disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::race::{Contender, Work};
use super::super::system::{Setup, Shape, Sum, read_back};
use super::super::work::fill;
use super::{AsItComes, Ours, data_files};

const SHAPE: Shape = Shape::one(100);
const SETUP: Setup = Setup { log_count: 1, is_synced: false, room: 0 };

/// Figure: bytes of all files of a closed partition, indexes included, for each of its records appended alone.
pub(crate) struct DiskBytes {
    calls: u64,
    dir: PathBuf,
    bytes: u64,
}

impl DiskBytes {
    pub(crate) fn new(calls: u64) -> Self {
        Self { calls, dir: PathBuf::new(), bytes: 0 }
    }
}

impl Contender for DiskBytes {
    fn prepare(&mut self, dir: &Path) -> io::Result<Work> {
        self.dir = dir.to_owned();
        Ok(Work::of(SHAPE, self.calls))
    }

    fn run(&mut self) -> io::Result<()> {
        fill::<Ours<AsItComes>>(&self.dir, SHAPE, self.calls)
    }

    fn verify(&mut self) -> io::Result<Sum> {
        let files = data_files(&self.dir, 0)?;
        let dir = files.first().and_then(|path| path.parent()).ok_or_else(|| io::Error::other("no file"))?;
        let lens = fs::read_dir(dir)?.map(|entry| Ok(entry?.metadata()?.len()));
        self.bytes = lens.sum::<io::Result<u64>>()?;
        read_back::<Ours<AsItComes>>(&self.dir, SETUP)
    }

    fn figures(&self, work: &Work, _: Duration) -> Vec<f64> {
        vec![self.bytes as f64 / work.record_count as f64]
    }
}
