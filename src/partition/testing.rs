//! A partition on a simulated disk, with limits so small that each boundary is a few appends away.

#![cfg_attr(fuzzing, allow(dead_code, reason = "fuzz targets need a part of it"))]
#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::append::append_raw;
use super::context::{CleanMark, Context, Doorbell, RecoveryMode, Space};
use super::core::Core;
use super::hints::{CleanPartition, Hints};
use super::notes::Notes;
use super::{Partition, ReadOptions};
use crate::config::TopicConfig;
use crate::disk::{Disk, Open, RealDisk, read_file, write_all_at};
use crate::error::Result;
use crate::observe::{NoObserver, Observer};
use crate::record::{BatchBuilder, BatchHeader, BatchOptions, BatchOrigin, Producer, Record};
use crate::segment::files::Files;
use crate::segment::pool::{self, Layout, Pool};
use crate::segment::{FileKind, ReadPath, file_path};
use crate::sim::{DiskOptions, SimDisk};
use crate::types::{Offset, ProducerEpoch, ProducerId, Timestamp, TopicId, TopicPartition};

/// What the tests open partitions on: a disk, settings, and what the log would know of the partition.
#[derive(Debug, Clone)]
pub(crate) struct Bed {
    pub(crate) disk: Arc<SimDisk>,
    pub(crate) config: TopicConfig,
    pub(crate) hints: Hints,
    pub(crate) recovery: RecoveryMode,
    pub(crate) read_only: bool,
    pub(crate) read_path: ReadPath,
    pub(crate) max_maps: usize,
    pub(crate) observer: Arc<dyn Observer>,
}

pub(crate) const DIR: &str = "/log/t-0";
pub(crate) const T0: i64 = 1_700_000_000_000;

impl Bed {
    pub(crate) fn new() -> Self {
        let disk = SimDisk::new(DiskOptions::default());
        for dir in ["/log", DIR] {
            disk.create_dir(Path::new(dir)).unwrap();
            disk.sync_dir(Path::new(dir).parent().unwrap()).unwrap();
        }
        let config = TopicConfig {
            segment_bytes: 1000,
            segment_index_bytes: 4096,
            index_interval_bytes: 1,
            max_message_bytes: 1000,
            ..TopicConfig::default()
        };
        let hints = Hints {
            id: TopicPartition { topic: "t".into(), partition: 0 },
            topic: TopicId::from_bytes([3; 16]),
            dense_from: Offset::ZERO,
            cleaned: Offset::ZERO,
            start: None,
            recovery_point: None,
            committed: None,
            clean: None,
            broker: None,
        };
        let (recovery, read_path) = (RecoveryMode::Report, ReadPath::Mapped);
        let observer = Arc::new(NoObserver);
        Self { disk, config, hints, recovery, read_only: false, read_path, max_maps: 100, observer }
    }

    /// One whose topic syncs each append.
    pub(crate) fn durable() -> Self {
        let mut bed = Self::new();
        bed.config.flush_messages = 1;
        bed.config.segment_bytes = 4096;
        bed
    }

    pub(crate) fn context(&self, disk: Arc<dyn Disk>, log: &Path) -> Arc<Context> {
        let clock = self.disk.clock();
        let boot = disk.volume(log).unwrap().boot;
        let origin = pool::Origin {
            log: [0; 16],
            boot,
            layout: Layout::DEFAULT,
            refused: Some("each append is looked at by itself"),
            read_only: false,
        };
        Arc::new(Context {
            pool: Pool::new("/staging".into(), origin),
            linger: Duration::from_secs(1),
            producer_expiry: Duration::from_secs(86_400),
            boot,
            notes: Notes::load(&*disk, log.join("notes"), [7; 16]),
            files: Arc::new(Files::new(disk, Arc::new(NoObserver), self.read_path, self.max_maps)),
            clock,
            entropy: Arc::new(crate::sim::SimEntropy::new(1)),
            observer: Arc::clone(&self.observer),
            recovery: self.recovery,
            read_only: self.read_only,
            is_replicated: false,
            clean_mark: CleanMark::new(log.join("clean"), false),
            space: Space::new(log.to_owned(), 0),
            doorbell: Doorbell::default(),
            closing: AtomicBool::new(false),
        })
    }

    pub(crate) fn open(&self) -> Result<Partition> {
        let context = self.context(Arc::clone(&self.disk) as Arc<dyn Disk>, Path::new("/log"));
        self.open_in(&context, DIR.into())
    }

    /// Opens a partition of a real directory.
    pub(crate) fn open_real(&self, dir: &Path) -> Result<Partition> {
        let context = self.context(Arc::new(RealDisk), dir.parent().unwrap());
        self.open_in(&context, dir.to_owned())
    }

    fn open_in(&self, context: &Arc<Context>, dir: PathBuf) -> Result<Partition> {
        let core = Core::open(context, dir, self.config, &self.hints)?;
        Ok(Partition::new(Arc::new(core), Arc::new(())))
    }

    /// The same after a power cut.
    pub(crate) fn crash(&self, seed: u64) -> Self {
        Self { disk: self.disk.crash(seed), ..self.clone() }
    }

    /// The same after the process was killed.
    pub(crate) fn kill(&self) -> Self {
        Self { disk: self.disk.kill(), ..self.clone() }
    }

    /// Syncs, finishes and closes, as a log does, and keeps what a clean mark would say.
    pub(crate) fn close(&mut self, partition: Partition) -> Option<CleanPartition> {
        let core = &partition.core;
        core.settle(core.end()).unwrap();
        self.hints.recovery_point = Some(core.synced());
        self.hints.start = Some(core.start());
        let clean = core.close_files().unwrap();
        self.hints.clean = clean.clone();
        clean
    }

    pub(crate) fn path(base: u64, kind: FileKind) -> PathBuf {
        file_path(Path::new(DIR), Offset(base), kind)
    }

    pub(crate) fn bytes(&self, path: &Path) -> Vec<u8> {
        read_file(&*self.disk, path, u64::MAX).unwrap()
    }

    /// Puts `bytes` at `position` of a file, durably, as rot would.
    pub(crate) fn poke(&self, path: &Path, position: u64, bytes: &[u8]) {
        let file = self.disk.open(path, Open::Write).unwrap();
        write_all_at(&*file, bytes, position).unwrap();
        file.sync().unwrap();
    }

    /// Makes a file of these bytes, durably, in place of what is there.
    pub(crate) fn replace(&self, path: &Path, bytes: &[u8]) {
        let _ = self.disk.remove_file(path);
        self.disk.open(path, Open::CreateNew).unwrap();
        self.poke(path, 0, bytes);
        self.disk.sync_dir(Path::new(DIR)).unwrap();
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.disk.list(Path::new(DIR)).unwrap().into_iter().map(|entry| entry.name).collect();
        names.sort();
        names
    }
}

/// Appends records of 100 bytes whose values are their offsets, until the partition ends at `end`.
pub(crate) fn fill(partition: &Partition, end: u64) {
    while partition.offsets().end < Offset(end) {
        partition.append(&value(partition.offsets().end)[..]).unwrap();
    }
}

pub(crate) fn value(offset: Offset) -> Vec<u8> {
    format!("{:0100}", offset.0).into_bytes()
}

/// Reads everything, by steps of `options`, and checks that no offset is missing and each value is its own.
pub(crate) fn check(partition: &Partition, options: ReadOptions) -> u64 {
    let offsets = partition.offsets();
    let mut at = offsets.start;
    while at < offsets.end {
        let records = partition.read_with(at, options).unwrap();
        assert!(!records.is_empty(), "nothing at {at}");
        for record in &records {
            assert_eq!((record.offset, record.value), (at, Some(&value(at)[..])));
            at = at + 1;
        }
        assert_eq!(records.next_offset(), at);
    }
    at.0
}

/// Appends a transaction of one record, and its outcome.
pub(crate) fn transact(partition: &Partition, sequence: i32, value: &str, is_commit: bool) {
    append_raw(&partition.core, &transactional(7, sequence, value), BatchOrigin::Client).unwrap();
    append_raw(&partition.core, &marker(7, is_commit), BatchOrigin::Coordinator).unwrap();
}

/// Appends a batch as a producer or a coordinator does.
pub(crate) fn append_as(partition: &Partition, batch: &[u8], origin: BatchOrigin) {
    append_raw(&partition.core, batch, origin).unwrap();
}

/// A transactional batch of one record.
pub(crate) fn transactional(producer: i64, sequence: i32, value: &str) -> Vec<u8> {
    let producer = Producer {
        id: ProducerId(producer),
        epoch: ProducerEpoch(0),
        base_sequence: sequence,
        is_transactional: true,
    };
    let mut builder = BatchBuilder::new();
    builder.begin(BatchOptions::default().producer(producer));
    builder.push(&Record::new(value), Timestamp(T0)).unwrap();
    builder.finish().unwrap().to_vec()
}

/// The end of a producer's transaction, made from Kafka's own.
pub(crate) fn marker(producer: i64, is_commit: bool) -> Vec<u8> {
    let name = if is_commit { "11-commit-marker.bin" } else { "12-abort-marker.bin" };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/vectors").join(name);
    let mut batch = std::fs::read(path).unwrap();
    let header = BatchHeader::read(&batch).unwrap();
    let header = BatchHeader {
        base_offset: Offset::ZERO,
        producer_id: ProducerId(producer),
        producer_epoch: ProducerEpoch(0),
        ..header
    };
    header.seal(&mut batch);
    batch
}
