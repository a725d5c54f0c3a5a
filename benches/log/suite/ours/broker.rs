//! Opening what a Kafka broker closed, to read it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chiplog::Log;

use super::super::race::{Contender, Work};
use super::super::system::Sum;
use super::super::work::unprepared;

/// The directory `clean` of the archive that the tests use. Figure, in milliseconds: opening it.
#[derive(Default)]
pub(crate) struct OpenedBroker {
    dir: PathBuf,
    log: Option<Log>,
}

impl Contender for OpenedBroker {
    fn prepare(&mut self, dir: &Path) -> io::Result<Work> {
        self.dir = dir.to_owned();
        if dir.read_dir()?.next().is_none() {
            unpack(dir)?;
        }
        let sum = told(dir)?;
        Ok(Work { record_count: sum.count, disk_bytes: 0, sum, synced_calls: 0 })
    }

    fn run(&mut self) -> io::Result<()> {
        self.log = Some(Log::builder(&self.dir).read_only().strict().open().map_err(io::Error::other)?);
        Ok(())
    }

    /// How many partitions there are, and where they end.
    fn verify(&mut self) -> io::Result<Sum> {
        let log = self.log.take().ok_or_else(unprepared)?;
        let mut sum = Sum::default();
        for topic in log.topics() {
            for number in 0..topic.partition_count() {
                let end = topic.partition(number).map_err(io::Error::other)?.offsets().end;
                sum = Sum { count: sum.count + 1, bytes: sum.bytes + end.0 };
            }
        }
        Ok(sum)
    }

    fn figures(&self, _: &Work, elapsed: Duration) -> Vec<f64> {
        vec![elapsed.as_secs_f64() * 1e3]
    }
}

fn unpack(to: &Path) -> io::Result<()> {
    // The package of the peers, which has these rows too, lies below the crate's.
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let path = above.map(|dir| dir.join("tests/fixtures/kafka-dirs.tar.zst")).find(|path| path.exists());
    let path = path.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no tests/fixtures/kafka-dirs.tar.zst"))?;
    let mut archive = tar::Archive::new(zstd::Decoder::new(File::open(path)?)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let Ok(below) = path.strip_prefix("clean") else { continue };
        if entry.header().entry_type().is_dir() {
            fs::create_dir_all(to.join(below))?;
        } else {
            entry.unpack(to.join(below))?;
        }
    }
    Ok(())
}

/// What the broker said when it stopped: `<topic> <partition> <offset>`, a line each, behind two others.
fn told(dir: &Path) -> io::Result<Sum> {
    let text = fs::read_to_string(dir.join("recovery-point-offset-checkpoint"))?;
    let ends = text.lines().skip(2).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    Ok(ends.fold(Sum::default(), |sum, end| Sum { count: sum.count + 1, bytes: sum.bytes + end }))
}
