//! Taking over a broker's directory, for good.
//!
//! ```text
//! locks: ours, Kafka's -> looked through, as a reader would -> refused, if anything speaks against it
//!     -> .kafka_cleanshutdown goes -> what the cleaner left half done is finished -> checkpoints -> catalog
//!     -> an ordinary open -> open transactions are aborted, if that was chosen -> catalog: they were
//! ```
//!
//! Until the catalog is there it is a broker's directory, which Kafka may load as after a kill, and the adoption can
//! begin anew. From then on it is a log of ours.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::broker::{self, Broker};
use super::builder::LogBuilder;
use super::checkpoints::{Checkpoint, Checkpoints};
use super::names::{DirName, classify_dir};
use super::open::{self, CATALOG_FILE, CHECKPOINTS_FILE, METADATA_FILE};
use super::topic::Damage;
use super::{FirstError, Inner, delete};
use crate::config::TopicConfig;
use crate::disk::Disk;
use crate::disk::checkpoint::PartitionMetadata;
use crate::disk::replace::sync_parent;
use crate::error::{Error, Result};
use crate::partition::RecoveryMode;
use crate::partition::hints::Stopped;
use crate::partition::recover::{Leftovers, Whose};
use crate::probe;
use crate::types::{TopicId, TopicPartition};

/// How a Kafka broker's directory is taken over: see [`LogBuilder::adopt`].
#[derive(Debug, Clone, Default)]
#[must_use = "hand it to `LogBuilder::adopt`"]
pub struct Adoption {
    configs: Vec<(Box<str>, TopicConfig)>,
    aborts_open: bool,
}

impl Adoption {
    /// Sets the settings of a topic. Its number of partitions stays what it is.
    ///
    /// Default: those of [`default_config`](LogBuilder::default_config), but nothing is removed by age or size; of
    /// `__consumer_offsets` and `__transaction_state` what the log needs, and only how their files are cut can differ. A broker
    /// keeps settings in the metadata of its cluster, not in this directory, so for how long it was to keep records is not
    /// known here: say so by this, or later by [`Log::alter_topic`](crate::Log::alter_topic). Nor is it known which topics
    /// were compacted: until `cleanup.policy` says so again, such a topic takes records without a key, too.
    ///
    /// What is given counts as a whole, and from the first maintenance on: [`TopicConfig::default()`] removes what is older
    /// than 7 days by its own timestamps, so say [`retention_time(None)`](TopicConfig::retention_time) to keep it.
    ///
    /// The adoption of a broker's directory fails with [`Error::TopicNotFound`] if there is no such topic, and with
    /// [`Error::InvalidSetting`] if under these settings of `__consumer_offsets` or `__transaction_state` offsets of groups, or
    /// decisions on transactions, could be lost.
    pub fn topic(mut self, name: &str, config: TopicConfig) -> Self {
        self.configs.push((name.into(), config));
        self
    }

    /// Has transactions aborted that the broker left open: an abort marker is written to each partition concerned, those
    /// of `__consumer_offsets` included, so that offsets committed in them do not count.
    ///
    /// Default: a directory with open transactions is refused.
    pub fn abort_open(mut self) -> Self {
        self.aborts_open = true;
        self
    }

    pub(super) fn validate(&self) -> Result<()> {
        self.configs.iter().try_for_each(|(_, config)| {
            config.validate()?;
            super::check_codec(config)
        })
    }
}

/// Takes over the directory that `settings` name: from when this returns it is a log. Nothing else has it: the locks are
/// held.
pub(super) fn adopt(settings: &LogBuilder, adoption: &Adoption) -> Result<()> {
    let (disk, dir) = (&*settings.disk, &*settings.dir);
    let (inner, Some(broker)) = open::look(settings)? else { return Ok(()) };
    let is_salvage = settings.recovery == RecoveryMode::Salvage;
    // What cannot be read now may be whole.
    let refuses = |damage: &&Damage| !is_salvage || matches!(*damage.error, Error::Io { .. });
    if let Some(damage) = inner.damaged.read().iter().find(refuses) {
        return Err(super::topic::again(&damage.error));
    }
    if let Some((topic, _)) = adoption.configs.iter().find(|(name, _)| broker.catalog.find(name).is_none()) {
        return Err(Error::TopicNotFound { topic: topic.clone() });
    }
    refuse_elsewhere(&inner)?;
    if !adoption.aborts_open {
        refuse_open_transactions(&inner)?;
    }
    let mut catalog = broker.catalog.clone();
    for topic in catalog.topics_mut() {
        let given = adoption.configs.iter().rev().find(|(name, _)| **name == *topic.name);
        if let Some((_, config)) = given {
            let count = topic.config.partitions;
            topic.config = config.partitions(count);
            inner.check_own_settings(&topic.name, count, &topic.config)?;
        }
        topic.is_sparse |= topic.config.cleanup.compacts();
    }
    if adoption.aborts_open {
        catalog.aborts_open_mut().extend(to_abort(&inner, &broker));
    }
    catalog.check_unique().map_err(|reason| Error::corrupt(dir, 0, reason))?;

    probe::reached("adopt.begins");
    if !probe::planted("adopt.mark_kept") {
        broker::remove_clean_mark(disk, dir)?;
    }
    let mut checkpoints = Checkpoints::default();
    for (topic, id) in broker.held_partitions() {
        let dir = inner.partition_dir(id);
        let entries = disk.list(&dir).map_err(Error::io("list", &*dir))?;
        Leftovers::find(disk, &dir, &entries, settings.recovery, Whose::Broker)?.finish(disk, &dir)?;
        let metadata = dir.join(METADATA_FILE);
        match PartitionMetadata::read(disk, &metadata) {
            Ok(Some(_)) => {}
            Err(error @ Error::Io { .. }) => return Err(error),
            // Of a damaged one nothing else says to which topic the directory belongs than its name.
            Ok(None) | Err(_) => PartitionMetadata { topic }.write(disk, &metadata)?,
        }
        let (start, flushed) = (broker.start(id), broker.recovery_point(id).unwrap_or_default());
        let opened = inner.topics.read().get(&*id.topic).and_then(|topic| topic.core(id.partition).ok());
        let checkpoint = match opened {
            // All of what a broker closed was flushed.
            Some(core) if broker.stopped == Stopped::InOrder => Checkpoint::new(core.start(), core.end()),
            Some(core) => Checkpoint::new(core.start(), flushed.min(core.end())),
            // A salvage opens it.
            None => Checkpoint::new(start.unwrap_or_default(), flushed),
        };
        checkpoints.raise(topic, id.partition, checkpoint);
    }
    remove_deleted(disk, dir)?;
    if probe::planted("adopt.catalog_first") {
        catalog.store(disk, &dir.join(CATALOG_FILE))?;
    }
    checkpoints.store(disk, &dir.join(CHECKPOINTS_FILE), catalog.log_id())?;
    catalog.store(disk, &dir.join(CATALOG_FILE))?;
    probe::reached("adopt.done");
    Ok(())
}

/// Each partition of each topic must be here: what another broker holds cannot be gone on with.
fn refuse_elsewhere(inner: &Inner) -> Result<()> {
    let topics = inner.topics.read();
    for topic in topics.values() {
        for (number, slot) in topic.partitions.read().iter().enumerate() {
            if let Err(Error::PartitionElsewhere { .. }) = slot.core() {
                let partition = TopicPartition::new(Arc::clone(&topic.name), number as u32);
                return Err(Error::PartitionElsewhere { partition });
            }
        }
    }
    Ok(())
}

pub(super) fn refuse_open_transactions(inner: &Inner) -> Result<()> {
    for core in inner.cores() {
        if let Some(open) = core.open_transactions().first() {
            let (partition, producer, first) = (core.id.clone(), open.producer, open.first);
            return Err(Error::OpenTransaction { partition, producer, first });
        }
    }
    Ok(())
}

/// Removes the directories of topics that were deleted, which Kafka does some time after.
fn remove_deleted(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let entries = disk.list(dir).map_err(Error::io("list", dir))?;
    for entry in entries.iter().filter(|entry| entry.is_dir && classify_dir(&entry.name) == DirName::Deleted) {
        delete::remove_dir(disk, &dir.join(&entry.name))?;
    }
    sync_parent(disk, &dir.join(CATALOG_FILE))
}

/// The partitions with open transactions, and those that only a salvage opens.
fn to_abort<'a>(inner: &'a Inner, broker: &'a Broker) -> impl Iterator<Item = (TopicId, u32)> + 'a {
    broker.held_partitions().filter_map(|(topic, id)| {
        let core = inner.topics.read().get(&*id.topic).and_then(|topic| topic.core(id.partition).ok());
        core.is_none_or(|core| !core.open_transactions().is_empty()).then_some((topic, id.partition))
    })
}

impl Inner {
    /// Aborts the transactions that a broker left open, where that was chosen when its directory was adopted and is still to
    /// be done. Durable when this returns; what cannot be done now is done by a later call. Nobody takes a transactional id
    /// before: a transaction that goes on would be taken for one that a broker left.
    pub(super) fn abort_open(&self) -> Result<()> {
        let mut catalog = self.catalog.lock();
        if catalog.aborts_open().is_empty() {
            return Ok(());
        }
        let mut with = (**catalog).clone();
        let live: HashSet<TopicId> = with.live().map(|topic| topic.id).collect();
        with.aborts_open_mut().retain(|(topic, _)| live.contains(topic));
        let mut errors = FirstError::default();
        for core in self.cores() {
            if with.aborts_open().contains(&core.key()) && errors.keep(self.abort_open_in(&core).map(|()| true)) {
                with.aborts_open_mut().remove(&core.key());
            }
        }
        // One that only a salvage opens stays.
        if with.aborts_open() != catalog.aborts_open() {
            self.context.before_change()?;
            catalog.replace(self.context.disk(), &self.dir.join(CATALOG_FILE), with)?;
        }
        errors.into_result()
    }
}
