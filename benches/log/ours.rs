//! What a user of the crate would write for the same work.

use std::io;
use std::path::{Path, PathBuf};

use chiplog::{Ack, Durability, Log, Offset, Partition, Record, TopicConfig};

use crate::bare::Shape;
use crate::runner::{Contender, Work};

/// One append a call; with more than one value a batch, `append_all`.
pub(crate) struct Append {
    shape: Shape,
    batch_count: u64,
    is_synced: bool,
    open: Option<(Log, Partition)>,
}

impl Append {
    pub(crate) fn boxed(shape: Shape, batch_count: u64) -> Box<dyn Contender> {
        Box::new(Self { shape, batch_count, is_synced: false, open: None })
    }

    /// Each append waits until it is durable, on a topic that is made for that.
    pub(crate) fn synced(shape: Shape, batch_count: u64) -> Box<dyn Contender> {
        Box::new(Self { shape, batch_count, is_synced: true, open: None })
    }
}

impl Contender for Append {
    fn prepare(&mut self, dir: &Path) -> io::Result<Work> {
        let durability = if self.is_synced { Durability::Each } else { Durability::Os };
        let (log, partition) = open(dir, durability)?;
        // The first append makes the file; the first sync, its name durable and blocks for the tail.
        partition.append("warm").and_then(|appended| appended.wait(Ack::Synced)).map_err(io::Error::other)?;
        self.open = Some((log, partition));
        Ok(Work { is_synced: self.is_synced, ..Work::of(self.shape, self.batch_count) })
    }

    fn run(&mut self) -> io::Result<()> {
        let (_, partition) = opened(&self.open)?;
        append(partition, self.shape, self.batch_count)
    }

    fn verify(&mut self) -> io::Result<u64> {
        let sum = sum(&opened(&self.open)?.1, Offset(1));
        self.open = None;
        sum
    }
}

/// Reads a partition from start to end, every byte of every value.
pub(crate) struct Scan {
    shape: Shape,
    batch_count: u64,
    open: Option<(Log, Partition)>,
    sum: u64,
}

impl Scan {
    pub(crate) fn boxed(shape: Shape, batch_count: u64) -> Box<dyn Contender> {
        Box::new(Self { shape, batch_count, open: None, sum: 0 })
    }
}

impl Contender for Scan {
    fn prepare(&mut self, dir: &Path) -> io::Result<Work> {
        make_file(dir, self.shape, self.batch_count)?;
        self.open = Some(open(dir, Durability::Os)?);
        Ok(Work::of(self.shape, self.batch_count))
    }

    fn run(&mut self) -> io::Result<()> {
        self.sum = sum(&opened(&self.open)?.1, Offset::ZERO)?;
        Ok(())
    }

    fn verify(&mut self) -> io::Result<u64> {
        self.open = None;
        Ok(self.sum)
    }
}

/// The data file of a closed partition with so many batches.
pub(crate) fn make_file(dir: &Path, shape: Shape, batch_count: u64) -> io::Result<PathBuf> {
    let (log, partition) = open(dir, Durability::Os)?;
    append(&partition, shape, batch_count)?;
    let path = partition.segments().first().map(|segment| segment.path().to_owned());
    drop(partition);
    log.close().map_err(io::Error::other)?;
    path.ok_or_else(|| io::Error::other("a partition without a segment"))
}

fn open(dir: &Path, durability: Durability) -> io::Result<(Log, Partition)> {
    let log = Log::open(dir).map_err(io::Error::other)?;
    let config = TopicConfig::default().durability(durability);
    let topic = log.find_topic("bench").map_or_else(|| log.create_topic("bench", config), Ok);
    let partition = topic.and_then(|topic| topic.partition(0)).map_err(io::Error::other)?;
    Ok((log, partition))
}

fn append(partition: &Partition, shape: Shape, batch_count: u64) -> io::Result<()> {
    let payload = shape.payload();
    for _ in 0..batch_count {
        let appended = match shape.values {
            1 => partition.append(&payload[..]),
            _ => partition.append_all(payload.chunks_exact(shape.len).map(Record::new)),
        };
        let _ = appended.map_err(io::Error::other)?;
    }
    Ok(())
}

fn sum(partition: &Partition, from: Offset) -> io::Result<u64> {
    let (mut reader, mut at, end, mut sum) = (partition.reader(), from, partition.offsets().end, 0);
    while at < end {
        let records = reader.read(at).map_err(io::Error::other)?;
        for record in &records {
            sum += record.value.unwrap_or_default().iter().map(|byte| u64::from(*byte)).sum::<u64>();
        }
        at = records.next_offset();
    }
    Ok(sum)
}

fn opened(open: &Option<(Log, Partition)>) -> io::Result<&(Log, Partition)> {
    open.as_ref().ok_or_else(|| io::Error::other("run before it was prepared"))
}
