//! One appender at full speed, and one reader that follows it: beside each other, and each by itself.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use chiplog::{Offset, Partition};

use super::super::bare::batch::Batch;
use super::super::race::{Contender, Work};
use super::super::system::{Setup, Shape, Sum, System};
use super::super::work::unprepared;
use super::{AsItComes, Ours, data_files};

/// Figures: records appended a second, records read a second, mean length of the batches in the file.
///
/// No reader outruns the appender it follows. So what the reader reaches alone counts no more than the appender alone.
pub(crate) struct Tailed {
    calls: u64,
    is_beside: bool,
    dir: PathBuf,
    open: Option<Ours<AsItComes>>,
    sum: Sum,
    appending: Duration,
    reading: Duration,
    batch_len: f64,
}

const SHAPE: Shape = Shape::one(100);
const SETUP: Setup = Setup { log_count: 1, is_synced: false, room: 0 };

impl Tailed {
    pub(crate) fn beside(calls: u64) -> Self {
        Self::new(calls, true)
    }

    pub(crate) fn alone(calls: u64) -> Self {
        Self::new(calls, false)
    }

    fn new(calls: u64, is_beside: bool) -> Self {
        let (dir, sum, zero) = (PathBuf::new(), Sum::default(), Duration::ZERO);
        Self { calls, is_beside, dir, open: None, sum, appending: zero, reading: zero, batch_len: 0.0 }
    }
}

impl Contender for Tailed {
    fn prepare(&mut self, dir: &Path) -> io::Result<Work> {
        self.dir = dir.to_owned();
        self.open = Some(Ours::open(dir, SETUP)?);
        Ok(Work::of(SHAPE, self.calls))
    }

    fn run(&mut self) -> io::Result<()> {
        let (ours, calls) = (self.open.as_ref().ok_or_else(unprepared)?, self.calls);
        let (writer, reader) = (ours.writer(0)?, ours.writer(0)?);
        if self.is_beside {
            let following = thread::spawn(move || follow(&reader, calls));
            self.appending = append(&writer, calls)?;
            (self.reading, self.sum) = following.join().map_err(|_| io::Error::other("a panic"))??;
        } else {
            self.appending = append(&writer, calls)?;
            (self.reading, self.sum) = follow(&reader, calls)?;
            self.reading = self.reading.max(self.appending);
        }
        Ok(())
    }

    fn verify(&mut self) -> io::Result<Sum> {
        let ours = self.open.take().ok_or_else(unprepared)?;
        ours.close()?;
        let (mut len, mut count) = (0, 0);
        for path in data_files(&self.dir, 0)? {
            let bytes = fs::read(path)?;
            let mut rest = &bytes[..];
            while let Some(batch) = Batch::first(rest)? {
                (len, count) = (len + batch.bytes.len(), count + 1);
                rest = &rest[batch.bytes.len()..];
            }
        }
        self.batch_len = len as f64 / f64::from(count);
        Ok(self.sum)
    }

    fn figures(&self, work: &Work, _: Duration) -> Vec<f64> {
        let rate = |time: Duration| work.record_count as f64 / time.as_secs_f64();
        vec![rate(self.appending), rate(self.reading), self.batch_len]
    }
}

fn append(partition: &Partition, calls: u64) -> io::Result<Duration> {
    let (payload, started) = (SHAPE.payload(), Instant::now());
    for _ in 0..calls {
        let _ = partition.append(&payload[..]).map_err(io::Error::other)?;
    }
    Ok(started.elapsed())
}

/// Reads until `end`, and waits where there is nothing yet.
fn follow(partition: &Partition, end: u64) -> io::Result<(Duration, Sum)> {
    let (mut reader, mut at, mut sum) = (partition.reader(), Offset::ZERO, Sum::default());
    let started = Instant::now();
    while at < Offset(end) {
        partition.wait_readable(at, Duration::from_secs(10)).map_err(io::Error::other)?;
        let records = reader.read(at).map_err(io::Error::other)?;
        records.iter().for_each(|record| sum.add(record.value.unwrap_or_default()));
        at = records.next_offset();
    }
    Ok((started.elapsed(), sum))
}
