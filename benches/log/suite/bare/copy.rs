//! Bytes from one file to another, both in memory: what a node that catches up cannot do without.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::MIB;
use crate::suite::race::{Contender, Work};
use crate::suite::system::{Shape, Sum};

/// Copies a file by a `pread` and a `pwrite` for each MiB. Figures, in MB/s: twice the same, as of what it stands beside.
pub(crate) struct Copied {
    bytes: u64,
    dir: PathBuf,
}

impl Copied {
    pub(crate) fn new(bytes: u64) -> Self {
        Self { bytes, dir: PathBuf::new() }
    }
}

impl Contender for Copied {
    fn prepare(&mut self, dir: &Path) -> io::Result<Work> {
        self.dir = dir.to_owned();
        let (file, piece) = (File::create(dir.join(FROM))?, Shape::one(MIB).payload());
        for position in (0..self.bytes).step_by(MIB) {
            file.write_all_at(&piece, position)?;
        }
        file.set_len(self.bytes)?;
        Ok(Work { record_count: 1, disk_bytes: self.bytes, sum: sum_of(&dir.join(FROM))?, synced_calls: 0 })
    }

    fn run(&mut self) -> io::Result<()> {
        let (from, to) = (File::open(self.dir.join(FROM))?, File::create(self.dir.join(TO))?);
        let mut piece = vec![0; MIB];
        for position in (0..self.bytes).step_by(MIB) {
            let piece = &mut piece[..MIB.min((self.bytes - position) as usize)];
            from.read_exact_at(piece, position)?;
            to.write_all_at(piece, position)?;
        }
        Ok(())
    }

    fn verify(&mut self) -> io::Result<Sum> {
        sum_of(&self.dir.join(TO))
    }

    fn figures(&self, _: &Work, elapsed: Duration) -> Vec<f64> {
        vec![self.bytes as f64 / 1e6 / elapsed.as_secs_f64(); 2]
    }
}

/// A file as one value.
fn sum_of(path: &Path) -> io::Result<Sum> {
    let mut sum = Sum::default();
    sum.add(&fs::read(path)?);
    Ok(sum)
}

const FROM: &str = "from";
const TO: &str = "to";
