//! What a Kafka broker left of itself in its log directory: which topics there are, where each partition starts, how
//! far it was flushed, and whether the broker stopped in order.
//!
//! ```text
//! meta.properties   .kafka_cleanshutdown              it is a broker's; it stopped in order
//! recovery-point-offset-checkpoint                    everything below was flushed
//! log-start-offset-checkpoint                         nothing below may be read any more
//! cleaner-offset-checkpoint                           compacted up to here: offsets may be missing
//! <topic>-<partition>/partition.metadata              the topic's id
//! ```
//!
//! A broker keeps its catalog, the settings included, in the log of its cluster's metadata. So the topics are those
//! whose partitions lie here, with the settings that the caller says.
//!
//! Kafka's files have no checksum, and Kafka takes one that it cannot read for an empty one. Here that is damage, and
//! told. High watermarks are not looked at: what lies above one was written, and is what the leader of a topic with one
//! replica serves.

use std::collections::BTreeMap;
use std::path::Path;

use super::catalog::{Catalog, CatalogTopic, TopicState};
use super::names::{DirName, INTERNAL_TOPICS, OFFSETS_TOPIC, TRANSACTIONS_TOPIC, classify_dir};
use super::open::{CLEAN_FILE, LOCK_FILE, LOG_STARTS, NOTES_FILE, RECOVERY_POINTS};
use super::text::LogId;
use crate::clock::Entropy;
use crate::config::{Cleanup, TopicConfig};
use crate::disk::checkpoint::{OffsetCheckpoint, PartitionMetadata};
use crate::disk::replace::sync_parent;
use crate::disk::{DirEntry, Disk, DiskLock, Lock};
use crate::error::{Error, Result};
use crate::partition::hints::Stopped;
use crate::types::{Offset, TopicId, TopicPartition};

/// A broker's directory, read without changing it.
#[derive(Debug)]
pub(super) struct Broker {
    pub(super) catalog: Catalog,
    pub(super) stopped: Stopped,
    starts: OffsetCheckpoint,
    recovery_points: OffsetCheckpoint,
    cleaned: OffsetCheckpoint,
    /// The partitions whose directories are here.
    held: Vec<TopicPartition>,
    /// Files that cannot be read as what they are.
    pub(super) flaws: Vec<Error>,
}

/// The settings of topics whose names are all that is known.
pub(super) struct Settings<'a> {
    pub(super) default: &'a TopicConfig,
    pub(super) offsets: &'a TopicConfig,
    pub(super) transactions: &'a TopicConfig,
}

impl Settings<'_> {
    /// Nothing goes by age or size: how long the broker was to keep it is not known here.
    fn of(&self, topic: &str) -> TopicConfig {
        let kept = self.default.retention_time(None).retention_bytes(None);
        match topic {
            OFFSETS_TOPIC => *self.offsets,
            TRANSACTIONS_TOPIC => *self.transactions,
            _ if INTERNAL_TOPICS.contains(&topic) => kept.cleanup(Cleanup::Compact),
            _ => kept,
        }
    }
}

impl Broker {
    /// Reads the directory of these entries.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if a file cannot be read. What cannot be understood is among the flaws.
    pub(super) fn read(
        disk: &dyn Disk,
        dir: &Path,
        entries: &[DirEntry],
        settings: &Settings<'_>,
        entropy: &dyn Entropy,
    ) -> Result<Self> {
        let mut flaws = Vec::new();
        let mut checkpoint = |name: &str| match OffsetCheckpoint::read(disk, &dir.join(name)) {
            Err(error @ Error::Io { .. }) => Err(error),
            Err(flaw) => {
                flaws.push(flaw);
                Ok(OffsetCheckpoint::default())
            }
            read => read,
        };
        let starts = checkpoint(LOG_STARTS)?;
        let recovery_points = checkpoint(RECOVERY_POINTS)?;
        let cleaned = checkpoint(CLEANED)?;
        let random = || u128::from(entropy.random()) << 64 | u128::from(entropy.random());
        let mut held = Vec::new();
        for entry in entries.iter().filter(|entry| entry.is_dir) {
            if let DirName::Partition(partition) = classify_dir(&entry.name) {
                held.push(partition);
            }
        }
        held.sort_unstable();
        let mut topics: BTreeMap<&str, (u32, Option<TopicId>)> = BTreeMap::new();
        for partition in &held {
            let path = dir.join(partition.to_string()).join("partition.metadata");
            let id = match PartitionMetadata::read(disk, &path) {
                // Whoever opens the partition says so.
                Err(_) => None,
                Ok(found) => found.map(|found| found.topic),
            };
            let known = topics.entry(&partition.topic).or_default();
            let count = partition.partition.saturating_add(1);
            if settings.default.partitions(count).validate().is_err() {
                let what = format!("partition {} of a topic: more than a log can have", partition.partition);
                flaws.push(Error::corrupt(&dir.join(partition.to_string()), 0, what));
                continue;
            }
            *known = (known.0.max(count), known.1.or(id));
        }
        let topics =
            topics.into_iter().filter(|(_, (count, _))| *count > 0).map(|(name, (count, id))| CatalogTopic {
                // Kafka before 2.8 gave topics no id.
                id: id.unwrap_or_else(|| TopicId::from_bytes(random().to_be_bytes())),
                name: name.into(),
                config: settings.of(name).partitions(count),
                state: TopicState::Live,
                is_sparse: false,
            });
        let mut catalog = Catalog::of(topics.collect(), LogId(random()));
        let in_order = entries.iter().any(|entry| !entry.is_dir && entry.name == CLEAN_SHUTDOWN);
        let stopped = if in_order { Stopped::InOrder } else { Stopped::Killed };
        for topic in catalog.topics_mut() {
            topic.is_sparse = topic.config.cleanup.compacts() || cleaned.0.keys().any(|id| id.topic == topic.name);
        }
        Ok(Self { catalog, stopped, starts, recovery_points, cleaned, held, flaws })
    }

    /// Whether the partition's directory is here: a broker holds some of a topic's partitions, not all.
    pub(super) fn holds(&self, partition: &TopicPartition) -> bool {
        self.held.binary_search(partition).is_ok()
    }

    /// The partitions whose directories are here, and the ids of their topics.
    pub(super) fn held_partitions(&self) -> impl Iterator<Item = (TopicId, &TopicPartition)> {
        let known =
            |id: &TopicPartition| self.catalog.find(&id.topic).map(|topic| (topic.id, topic.config.partitions));
        self.held
            .iter()
            .filter_map(move |id| known(id).filter(|(_, count)| id.partition < *count).map(|(topic, _)| (topic, id)))
    }

    pub(super) fn start(&self, partition: &TopicPartition) -> Option<Offset> {
        self.starts.0.get(partition).copied()
    }

    /// Everything below was flushed.
    pub(super) fn recovery_point(&self, partition: &TopicPartition) -> Option<Offset> {
        self.recovery_points.0.get(partition).copied()
    }

    /// Whether offsets follow one another without gaps, as far as is known: compaction makes gaps.
    pub(super) fn is_dense(&self, partition: &TopicPartition, config: &TopicConfig) -> bool {
        !config.cleanup.compacts() && !self.cleaned.0.contains_key(partition)
    }
}

/// Whether a broker ever locked the directory.
pub(super) fn has_lock(disk: &dyn Disk, dir: &Path) -> bool {
    disk.metadata(&dir.join(LOCK)).is_ok()
}

/// Whether a broker says that it stopped in order.
pub(super) fn has_clean_mark(disk: &dyn Disk, dir: &Path) -> bool {
    disk.metadata(&dir.join(CLEAN_SHUTDOWN)).is_ok()
}

/// Removes the file by which a broker says that it stopped in order, durably: before the first change.
pub(super) fn remove_clean_mark(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let path = dir.join(CLEAN_SHUTDOWN);
    match disk.remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &*path)(error)),
        _ => sync_parent(disk, &path),
    }
}

/// Takes the lock that a broker holds while it runs, as far as it is there: only who writes makes it.
///
/// # Errors
///
/// [`Error::Locked`] if a broker has the directory.
pub(super) fn take_lock(disk: &dyn Disk, dir: &Path, how: Lock) -> Result<Option<Box<dyn DiskLock>>> {
    let path = dir.join(LOCK);
    if how == Lock::Shared && disk.metadata(&path).is_err() {
        return Ok(None);
    }
    match disk.lock_as_kafka(&path, how).map_err(Error::io("lock", &*path))? {
        Some(lock) => Ok(Some(lock)),
        None => Err(Error::Locked { path, holder: "a Kafka broker".into() }),
    }
}

/// Whether the entries of `dir` are those of a broker's directory, and not of a log of ours that lost its catalog.
pub(super) fn is_broker_dir(disk: &dyn Disk, dir: &Path, entries: &[DirEntry]) -> bool {
    let is_there = |name: &str| entries.iter().any(|entry| entry.name == name);
    // An adoption that was refused or cut short leaves our lock beside a broker's files. It is signed by whose log it is.
    let is_signed = || disk.metadata(&dir.join(LOCK_FILE)).is_ok_and(|lock| lock.len > 0);
    !is_there(NOTES_FILE) && !is_there(CLEAN_FILE) && (is_there("meta.properties") || !is_signed())
}

/// Up to where the partitions are compacted.
pub(super) const CLEANED: &str = "cleaner-offset-checkpoint";
const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";
const LOCK: &str = ".lock";
