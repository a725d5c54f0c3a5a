//! Ours: what a user of the crate would write for the same work.

#[cfg(feature = "zstd")]
mod broker;
mod compact;
mod consume;
mod disk;
mod gathered;
mod group;
mod memory;
mod nodes;
mod numbered;
mod open;
mod replicate;
mod tail;
mod verify;

use std::fs;
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use chiplog::{
    Durability, Log, LogBuilder, Offset, Partition, ReadOptions, Reader, Record, Staging, StagingStats, Topic,
    TopicConfig,
};

use super::system::{Lookup, Setup, System, Writer};
use super::work::unprepared;

#[cfg(feature = "zstd")]
pub(crate) use broker::OpenedBroker;
pub(crate) use compact::Compacted;
pub(crate) use consume::{Consuming, Iterating, Woken};
pub(crate) use disk::DiskBytes;
pub(crate) use gathered::Gathered;
pub(crate) use group::{Committed, Repaired};
pub(crate) use memory::{ManyPartitions, OnePartition, many_partitions, one_partition};
pub(crate) use numbered::{Numbered, Transacted};
pub(crate) use open::{Opened, VerifyAll, fill_and_wait};
pub(crate) use replicate::{CaughtUp, Delayed, Replicated};
pub(crate) use tail::Tailed;
pub(crate) use verify::Verified;

/// How a log is opened.
pub(crate) trait Opening: Send + 'static {
    fn builder(dir: &Path) -> LogBuilder {
        Log::builder(dir)
    }
}

/// With the settings a user gets who sets none.
pub(crate) struct AsItComes;

impl Opening for AsItComes {}

/// Each append is one batch and one write.
pub(crate) struct Unstaged;

impl Opening for Unstaged {
    fn builder(dir: &Path) -> LogBuilder {
        Log::builder(dir).staging(Staging::Off)
    }
}

/// Whether small appends are staged in `dir`, and why not.
pub(crate) fn staging(dir: &Path) -> io::Result<String> {
    let dir = dir.join("staging-asked");
    let log = Log::open(&dir).map_err(io::Error::other)?;
    let stats = log.stats().map_err(io::Error::other)?;
    log.close().map_err(io::Error::other)?;
    fs::remove_dir_all(&dir)?;
    Ok(match stats.staging {
        StagingStats::On { .. } => "staging on".to_owned(),
        StagingStats::Off { why } => format!("staging off: {why}"),
        _ => "staging unknown".to_owned(),
    })
}

/// A topic with a partition for each log.
pub(crate) struct Ours<O> {
    log: Log,
    topic: Topic,
    reader: Option<Reader>,
    opening: PhantomData<O>,
}

impl<O: Opening> Ours<O> {
    fn partition(&self, log: usize) -> io::Result<Partition> {
        self.topic.partition(log as u32).map_err(io::Error::other)
    }
}

/// The data files of a partition, in order, whoever has it open.
pub(crate) fn data_files(dir: &Path, log: usize) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(dir.join(format!("{TOPIC}-{log}")))?.map(|entry| Ok(entry?.path()));
    let mut paths = paths.collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    paths.sort();
    Ok(paths)
}

const TOPIC: &str = "bench";

impl<O: Opening> System for Ours<O> {
    type Writer = Partition;

    fn open(dir: &Path, setup: Setup) -> io::Result<Self> {
        let durability = if setup.is_synced { Durability::Each } else { Durability::Os };
        let config = TopicConfig::default().partitions(setup.log_count as u32).durability(durability);
        let log = O::builder(dir).open().map_err(io::Error::other)?;
        let topic = log.topic_with(TOPIC, config).map_err(io::Error::other)?;
        Ok(Self { log, topic, reader: None, opening: PhantomData })
    }

    fn writer(&self, log: usize) -> io::Result<Partition> {
        self.partition(log)
    }

    fn scan(&self, log: usize, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let partition = self.partition(log)?;
        let (mut reader, mut at, end) = (partition.reader(), Offset::ZERO, partition.offsets().end);
        while at < end {
            let records = reader.read(at).map_err(io::Error::other)?;
            records.iter().for_each(|record| each(record.value.unwrap_or_default()));
            at = records.next_offset();
        }
        Ok(())
    }

    fn close(self) -> io::Result<()> {
        let Self { log, topic, reader, .. } = self;
        drop((topic, reader));
        log.close().map_err(io::Error::other)
    }
}

impl<O: Opening> Lookup for Ours<O> {
    #[inline]
    fn lookup(&mut self, at: u64, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        if self.reader.is_none() {
            // One batch, however long, and one record of it.
            let one = ReadOptions::default().max_bytes(1).max_records(1);
            self.reader = Some(self.partition(0)?.reader().options(one));
        }
        let reader = self.reader.as_mut().ok_or_else(unprepared)?;
        let records = reader.read(Offset(at)).map_err(io::Error::other)?;
        records.iter().for_each(|record| each(record.value.unwrap_or_default()));
        Ok(())
    }
}

impl Writer for Partition {
    #[inline]
    fn append(&mut self, value: &[u8]) -> io::Result<()> {
        Partition::append(self, value).map(|_| ()).map_err(io::Error::other)
    }

    fn append_all(&mut self, values: &[&[u8]]) -> io::Result<()> {
        let records = values.iter().map(|value| Record::new(*value));
        Partition::append_all(self, records).map(|_| ()).map_err(io::Error::other)
    }
}
