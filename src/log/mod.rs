//! The log: a directory of topics, opened by one process.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

mod adopt;
mod background;
mod backup;
mod broker;
mod builder;
mod catalog;
mod checkpoints;
mod clean;
mod clients;
mod close;
mod compact;
mod compacted;
mod coordinate;
mod create;
mod delete;
mod group_admin;
mod groups;
mod maintain;
mod names;
mod open;
mod own;
mod partitioner;
mod producer_ids;
mod queues;
mod replay;
mod replicate;
mod stats;
mod text;
mod topic;
mod transactions;
mod verify;

#[cfg(all(test, feature = "sim"))]
mod backup_tests;
#[cfg(all(test, feature = "sim"))]
mod compact_tests;
#[cfg(all(test, feature = "sim"))]
mod coordinate_tests;
#[cfg(all(test, feature = "sim"))]
mod crash_tests;
#[cfg(test)]
mod race_tests;
#[cfg(all(test, feature = "sim"))]
mod staging_tests;
#[cfg(test)]
mod tests;
#[cfg(all(test, feature = "sim"))]
mod transaction_tests;

pub use adopt::Adoption;
pub use backup::{BackedUp, Backup};
pub use builder::{Background, LogBuilder, Staging};
#[cfg(any(fuzzing, test))]
pub(crate) use catalog::Catalog;
pub use compact::Erased;
pub use coordinate::Reply;
pub use group_admin::{GroupLag, OffsetMove, OffsetTarget, ResetPlan};
pub use groups::Group;
pub(crate) use groups::TopicRead;
pub use maintain::Maintained;
pub use partitioner::{Partitioner, Partitioning, Unplaced};
pub use replicate::{ReplicationState, Replicator};
pub use topic::{Damage, Topic};
pub use verify::{InvalidVerifyPosition, VerifyOptions, VerifyPosition, VerifyProgress, VerifyReport};

use self::catalog::Stored;
use self::checkpoints::Checkpoints;
use self::clients::Clients;
pub(crate) use self::clients::{LogInside, Tended};
use self::coordinate::Coordinators;
use self::maintain::{Schedule, Unsynced};
use self::open::CATALOG_FILE;
pub(crate) use self::partitioner::{Choice, Turns};
use self::producer_ids::ProducerIds;
use self::queues::Queues;
pub(crate) use self::queues::{Handed, Progress, QueueSettings, SharedQueue};
use self::text::LogId;
use self::topic::Slot;
pub(crate) use self::topic::{TopicState, again};
pub(crate) use self::transactions::Holder;
use self::transactions::Transactions;
use crate::config::{Cleanup, GroupConfig, TopicConfig};
use crate::disk::DiskLock;
use crate::error::{Error, Result};
use crate::observe::Quiet;
use crate::partition::context::Context;
use crate::partition::core::Core;
use crate::partition::{Appended, stored_as};
use crate::record::{Compression, TopicRecord};
use crate::types::{Offset, TopicId};

/// A log: topics in a directory, which this process has for itself.
///
/// Clones are handles to the same log, and topics, partitions, their readers and groups keep it open, too: the last one
/// to go closes it. [`Log::close`] does so at once, and says what went wrong. Records that were read stay.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use chiplog::{Log, Offset, Record};
///
/// let log = Log::open(dir.path())?;
/// log.append(Record::new("paid").key("o-17").to("orders"))?;
///
/// let records = log.topic("orders")?.partition(0)?.read(Offset::ZERO)?;
/// assert_eq!(records.iter().next().unwrap().value, Some(&b"paid"[..]));
/// log.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Log {
    opened: Arc<Opened>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("dir", &self.opened.inner.dir).finish()
    }
}

/// The part of a log that closes it when the last handle goes. The background thread has none.
#[derive(Debug)]
pub(crate) struct Opened {
    inner: Arc<Inner>,
    thread: Mutex<Option<background::Background>>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        // There is nobody to tell: that is what `close` is for.
        let _ = self.close();
    }
}

/// What all handles of a log share.
///
/// Order of locks: a seat of `transactions`, `producer_ids` or `erasing` of a partition, `schedule`, `has_left` of
/// `transactions`, `catalog`, the groups of `coordinators`, the coordinator of `transactions`, those of `queues`, `checkpoints`, `topics`, those of
/// a partition. Who changes files by their names holds `schedule` or `catalog`, and looks whether the log is closing after
/// taking it.
#[derive(Debug)]
pub(crate) struct Inner {
    dir: PathBuf,
    log_id: LogId,
    context: Arc<Context>,
    locks: Mutex<Vec<Box<dyn DiskLock>>>,
    catalog: Mutex<Stored>,
    topics: RwLock<BTreeMap<Arc<str>, Arc<TopicState>>>,
    /// Rises when a topic comes or goes, or gets more partitions.
    topics_version: AtomicU64,
    damaged: RwLock<Vec<Damage>>,
    coordinators: Coordinators,
    clients: Clients,
    transactions: Transactions,
    queues: Queues,
    producer_ids: Mutex<ProducerIds>,
    checkpoints: Mutex<Checkpoints>,
    schedule: Mutex<Schedule>,
    unsynced: Mutex<Unsynced>,
    default_config: TopicConfig,
    group_config: GroupConfig,
    /// What the topic of group offsets is made like.
    offsets_config: TopicConfig,
    /// What the topic of transactional ids is made like.
    transactions_config: TopicConfig,
    /// What the topic of queues is made like.
    queues_config: TopicConfig,
    retention_interval: Duration,
    checkpoint_interval: Duration,
    compaction: compact::CompactionSettings,
    replication: Option<replicate::Replication>,
    /// How often the doorbell had rung when `wait_due` returned last.
    heard: AtomicU64,
    closed: AtomicBool,
}

impl Log {
    /// Opens the log in `dir` with the default settings, creating it if it is not there.
    ///
    /// One process has a log open at a time; a second open, in this process or another, is refused. The files must
    /// not be changed by others while it is open, and after a `fork` the child must not touch it.
    ///
    /// # Errors
    ///
    /// As for [`LogBuilder::open`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Error, Log};
    ///
    /// let log = Log::open(dir.path())?;
    /// assert!(matches!(Log::open(dir.path()), Err(Error::Locked { .. })));
    /// log.close()?;
    /// assert!(Log::open(dir.path()).is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::builder(dir.as_ref()).open()
    }

    /// Settings for opening the log in `dir`; see [`LogBuilder`].
    pub fn builder(dir: impl Into<PathBuf>) -> LogBuilder {
        LogBuilder::new(dir.into())
    }

    /// The topic of this name; created with the [default settings](LogBuilder::default_config) if there is none. So a
    /// misspelled name makes a topic: [`find_topic`](Self::find_topic) only looks. For settings of the caller's, see
    /// [`topic_with`](Self::topic_with).
    ///
    /// # Errors
    ///
    /// - [`Error::TopicNotFound`] if there is none and the log is open read-only.
    /// - Those of [`create_topic`](Self::create_topic) if it is created; [`Error::Closed`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::Log;
    ///
    /// let log = Log::open(dir.path())?;
    /// assert_eq!(log.topic("orders")?.id(), log.topic("orders")?.id());
    /// assert!(log.topic("or/ders").is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn topic(&self, name: &str) -> Result<Topic> {
        self.topic_with(name, self.opened.inner.default_config)
    }

    /// The topic of this name; created with these settings if there is none. One that is there keeps its own:
    /// [`alter_topic`](Self::alter_topic) changes them.
    ///
    /// # Errors
    ///
    /// As for [`topic`](Self::topic); [`Error::InvalidSetting`] also if the topic is there.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, TopicConfig};
    ///
    /// let log = Log::open(dir.path())?;
    /// let config = TopicConfig::default().partitions(3).retention_time(None);
    /// assert_eq!(log.topic_with("orders", config)?.partition_count(), 3);
    /// assert_eq!(log.topic_with("orders", TopicConfig::default())?.config(), config);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn topic_with(&self, name: &str, config: TopicConfig) -> Result<Topic> {
        let inner = &self.opened.inner;
        inner.check_open()?;
        config.validate()?;
        if inner.context.read_only {
            return inner.find(name).map(|found| self.handle(found));
        }
        Ok(self.handle(inner.topic_or_create(name, config)?))
    }

    /// Creates a topic. It survives a power cut when this returns. Records are kept for 7 days by default, by their own
    /// timestamps: [`TopicConfig::retention_time`] says otherwise. A program that runs twice wants
    /// [`topic_with`](Self::topic_with).
    ///
    /// Of the settings for the topics of the log's own, `__consumer_offsets`, `__transaction_state` and `__share_group_state`, only
    /// the number of partitions is taken: with others, offsets of groups or decisions on transactions could be lost.
    ///
    /// # Errors
    ///
    /// - [`Error::TopicExists`] if there is one of this name, or of one that differs only by `.` for `_`.
    /// - [`Error::Unsupported`] if this build lacks the codec of the topic.
    /// - [`Error::InvalidTopicName`], [`Error::InvalidSetting`], [`Error::RepeatedEntropy`], [`Error::Io`],
    ///   [`Error::ReadOnly`], [`Error::Closed`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::{Log, TopicConfig};
    ///
    /// let log = Log::open(dir.path())?;
    /// let week = Duration::from_secs(7 * 86_400);
    /// let config = TopicConfig::default().partitions(3).retention_time(week);
    /// assert_eq!(log.create_topic("orders", config)?.partition_count(), 3);
    /// assert!(log.create_topic("orders", config).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn create_topic(&self, name: &str, config: TopicConfig) -> Result<Topic> {
        Ok(self.handle(self.opened.inner.create_topic(name, config)?))
    }

    /// Creates a topic with an id that was given to it elsewhere: the same topic on several nodes. One that is there, of this name
    /// and id, is returned as it is.
    ///
    /// # Errors
    ///
    /// As for [`create_topic`](Self::create_topic); [`Error::RepeatedEntropy`] if another topic has the id.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, TopicConfig, TopicId};
    ///
    /// let log = Log::open(dir.path())?;
    /// let id = TopicId::from_bytes(*b"drawn elsewhere.");
    /// let orders = log.create_topic_with_id(id, "orders", TopicConfig::default())?;
    /// assert_eq!(orders.id(), id);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn create_topic_with_id(&self, id: TopicId, name: &str, config: TopicConfig) -> Result<Topic> {
        let inner = &self.opened.inner;
        inner.check_open()?;
        if let Some(known) = self.find_topic(name).filter(|known| known.id() == id) {
            return Ok(known);
        }
        Ok(self.handle(inner.create_topic_of(name, config, || id)?))
    }

    /// The topic of this name, if there is one.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::Log;
    ///
    /// let log = Log::open(dir.path())?;
    /// assert!(log.find_topic("orders").is_none());
    /// log.topic("orders")?;
    /// assert!(log.find_topic("orders").is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn find_topic(&self, name: &str) -> Option<Topic> {
        let found = self.opened.inner.topics.read().get(name).map(Arc::clone)?;
        Some(self.handle(found))
    }

    /// Every topic, the internal ones included, by name.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::Log;
    ///
    /// let log = Log::open(dir.path())?;
    /// log.topic("returns")?;
    /// log.topic("orders")?;
    /// let topics = log.topics();
    /// let names: Vec<_> = topics.iter().map(|topic| topic.name()).collect();
    /// assert_eq!(names, ["orders", "returns"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn topics(&self) -> Vec<Topic> {
        let mut states: Vec<_> = self.opened.inner.topics.read().values().map(Arc::clone).collect();
        states.sort_by(|one, other| one.name.cmp(&other.name));
        states.into_iter().map(|state| self.handle(state)).collect()
    }

    /// Gives a topic other settings, for all appends and maintenance to come. More partitions are added; fewer are
    /// refused. The settings survive a power cut when this returns.
    ///
    /// Of the topics of the log's own (`__consumer_offsets`, `__transaction_state`, `__share_group_state`) only segments, indexes
    /// and compaction can be changed.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidSetting`] if a setting is out of range, there were to be fewer partitions, or offsets of groups or
    ///   decisions on transactions could be lost by it.
    /// - [`Error::Unsupported`] if this build lacks the codec that the topic is to have from now on.
    /// - [`Error::Corrupt`] if there is a directory in the place of a new partition, with files in it.
    /// - [`Error::TopicNotFound`], [`Error::Io`], [`Error::ReadOnly`], [`Error::Closed`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// let log = chiplog::Log::open(dir.path())?;
    /// let config = log.topic("orders")?.config();
    /// log.alter_topic("orders", config.retention_bytes(1 << 30).partitions(4))?;
    /// assert_eq!(log.topic("orders")?.partition_count(), 4);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn alter_topic(&self, name: &str, config: TopicConfig) -> Result<()> {
        self.opened.inner.alter_topic(name, config)
    }

    /// Deletes a topic with its records and what groups committed for it. Handles to it get
    /// [`Error::TopicDeleted`] from here on; held records stay readable. Gone for good when this returns.
    ///
    /// # Errors
    ///
    /// - [`Error::InternalTopic`] for `__consumer_offsets`, where groups are to be deleted instead,
    ///   `__transaction_state` and `__share_group_state`.
    /// - [`Error::Corrupt`] if a partition of `__consumer_offsets` or `__share_group_state` is damaged: the topic is gone, and its
    ///   name stays taken, as what groups committed for it could come back.
    /// - [`Error::TopicNotFound`], [`Error::Io`], [`Error::ReadOnly`], [`Error::Closed`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// let log = chiplog::Log::open(dir.path())?;
    /// let orders = log.topic("orders")?;
    /// log.delete_topic("orders")?;
    /// assert!(log.find_topic("orders").is_none());
    /// assert!(orders.append("paid").is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn delete_topic(&self, name: &str) -> Result<()> {
        self.opened.inner.delete_topic(name)
    }

    /// Appends a record to the topic it names, which is created if there is none, also for a misspelled name: see
    /// [`Topic::append`] and [`topic`](Self::topic).
    ///
    /// # Errors
    ///
    /// As for [`Topic::append`] and [`topic`](Self::topic).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Ack, Log, Record};
    ///
    /// let log = Log::open(dir.path())?;
    /// let appended = log.append(Record::new("paid").key("o-17").to("orders"))?;
    /// appended.wait(Ack::Synced)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append<'r>(&self, record: impl Into<TopicRecord<'r>>) -> Result<Appended<'_>> {
        let TopicRecord { topic, record } = record.into();
        let inner = &self.opened.inner;
        inner.topic_or_create(topic, inner.default_config)?.append(record)
    }

    /// The consumer group with this id: what it committed, and the way to commit.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidGroupId`] if the id is empty or too long.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::Log;
    ///
    /// let log = Log::open(dir.path())?;
    /// assert_eq!(log.group("billing")?.id(), "billing");
    /// assert!(log.group("").is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn group(&self, id: &str) -> Result<Group> {
        Group::new(id, Arc::clone(&self.opened))
    }

    /// The ids of all groups, in order: of those that have offsets or members, and in a broker's directory also of those of
    /// which it keeps records of another kind.
    ///
    /// Of a log that is replicated, those that this node coordinates.
    ///
    /// Of a log that is open read-only, those that can be told: [`damaged`](Self::damaged) names the partitions of
    /// `__consumer_offsets` whose groups are not among them.
    ///
    /// # Errors
    ///
    /// As for [`Group::committed`], if any of them cannot be told and the log is not open read-only.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// log.group("billing")?.commit("orders", 0, Offset(42))?;
    /// assert_eq!(log.groups()?, ["billing"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn groups(&self) -> Result<Vec<String>> {
        self.opened.inner.group_ids()
    }

    /// Raises the start of a partition to `offset`: what lies before can no longer be read. The files of segments that
    /// lie wholly before it are removed within this call. An offset below the start changes nothing. Durable when this
    /// returns.
    ///
    /// # Errors
    ///
    /// - [`Error::OffsetOutOfRange`] if `offset` is above the end.
    /// - [`Error::CompactedTopic`] if the topic is compacted and its records are not deleted.
    /// - [`Error::InternalTopic`] for `__consumer_offsets`, where groups are to be deleted instead,
    ///   `__transaction_state` and `__share_group_state`.
    /// - [`Error::TopicNotFound`], [`Error::PartitionNotFound`], [`Error::Corrupt`], [`Error::Poisoned`],
    ///   [`Error::Io`], [`Error::ReadOnly`], [`Error::Closed`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// let partition = log.topic("orders")?.partition(0)?;
    /// for value in ["one", "two", "three"] {
    ///     partition.append(value)?;
    /// }
    /// log.delete_before("orders", 0, Offset(2))?;
    /// assert_eq!(partition.offsets().start, Offset(2));
    /// assert!(partition.read(Offset(1)).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn delete_before(&self, topic: &str, partition: u32, offset: Offset) -> Result<()> {
        let inner = &self.opened.inner;
        inner.check_open()?;
        let core = inner.find(topic)?.core(partition)?;
        core.check_external()?;
        if core.config.read().cleanup == Cleanup::Compact {
            return Err(Error::CompactedTopic { topic: topic.into() });
        }
        inner.delete_before(&core, offset)
    }

    /// Makes everything appended so far durable, in all partitions.
    ///
    /// # Errors
    ///
    /// - The first of what went wrong: [`Error::Io`], [`Error::Poisoned`], [`Error::ReadOnly`]. The other partitions were
    ///   synced.
    /// - [`Error::Closed`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Record};
    ///
    /// let log = Log::open(dir.path())?;
    /// for topic in ["orders", "returns"] {
    ///     log.append(Record::new("paid").to(topic))?;
    /// }
    /// log.sync()?;
    /// for topic in log.topics() {
    ///     let offsets = topic.partition(0)?.offsets();
    ///     assert_eq!(offsets.synced, offsets.end);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn sync(&self) -> Result<()> {
        let inner = &self.opened.inner;
        inner.check_open()?;
        let mut errors = FirstError::default();
        inner.cores().iter().for_each(|core| errors.keep(core.sync_to(core.end())));
        errors.into_result()
    }

    /// The partitions that could not be opened, and why. Calls on them fail with the same error; the rest of the log
    /// goes on.
    ///
    /// A partition of `__consumer_offsets` that cannot be read to its end is among them, as its groups cannot be told, and one
    /// of `__transaction_state`, as what is decided is unknown. If the log is open read-only, what lies before the damage can be
    /// read all the same.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{ErrorKind, Log};
    ///
    /// let log = Log::open(dir.path())?;
    /// log.topic("orders")?;
    /// log.topic("returns")?;
    /// log.close()?;
    /// std::fs::remove_file(dir.path().join("orders-0/partition.metadata"))?;
    ///
    /// let log = Log::open(dir.path())?;
    /// let damaged = log.damaged();
    /// assert_eq!(damaged[0].partition.as_ref().unwrap().to_string(), "orders-0");
    /// assert_eq!(damaged[0].error.kind(), ErrorKind::Corrupt);
    /// assert!(log.topic("orders")?.partition(0).is_err());
    /// assert!(log.topic("returns")?.partition(0).is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn damaged(&self) -> Vec<Damage> {
        self.opened.inner.damaged.read().clone()
    }

    /// The directory, as an absolute path.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.opened.inner.dir
    }

    /// Closes the log, for all handles: makes everything durable, brings the files into the form of ordinary closed
    /// Kafka directories, leaves a mark that lets the next open believe them, and gives back the lock. Calls that are
    /// under way end first.
    ///
    /// One caller does not wait for that: an [`Observer`](crate::Observer) that calls this on the log's own thread, in
    /// the middle of the work there. It gets `Ok` at once; the thread closes the log when that work is over, and nobody
    /// is told what went wrong.
    ///
    /// What handles that are left answer from then on:
    ///
    /// | Call | Answer |
    /// |---|---|
    /// | what appends, commits, reads, syncs, maintains, creates, changes or counts; a second `close` | [`Error::Closed`] |
    /// | [`Appended::wait`] and [`acked`](Appended::acked) for [`Ack::Synced`](crate::Ack::Synced) | done if it was synced, as all is by a close that succeeds; else [`Error::Closed`] |
    /// | [`wait_readable`](crate::Partition::wait_readable), [`readable`](crate::Partition::readable) | done below the end, [`Error::Closed`] from there on |
    /// | names, numbers, settings, [`offsets`](crate::Partition::offsets), [`segments`](crate::Partition::segments), [`find_topic`](Self::find_topic), [`topics`](Self::topics), [`damaged`](Self::damaged) | as when it was closed |
    /// | [`Records`](crate::Records) that were read before | as before |
    ///
    /// # Errors
    ///
    /// The first of what went wrong. The log is closed all the same; the next open recovers what is not in order.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Error, Log};
    ///
    /// let log = Log::open(dir.path())?;
    /// let orders = log.topic("orders")?;
    /// log.close()?;
    /// assert!(matches!(orders.append("paid"), Err(Error::Closed)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(self) -> Result<()> {
        self.opened.close()
    }

    fn handle(&self, state: Arc<TopicState>) -> Topic {
        Topic { state, opened: Arc::clone(&self.opened) }
    }
}

impl Inner {
    fn check_open(&self) -> Result<()> {
        if self.context.closing.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    /// The catalog, to be changed: what a failed change left of it is put right first.
    fn lock_catalog(&self) -> Result<Quiet<'_, Stored>> {
        let mut catalog = Quiet::lock(&self.catalog);
        self.check_open()?;
        catalog.settle(self.context.disk(), &self.dir.join(CATALOG_FILE))?;
        Ok(catalog)
    }

    fn replace_catalog(&self, catalog: &mut Stored, with: catalog::Catalog) -> Result<()> {
        catalog.replace(self.context.disk(), &self.dir.join(CATALOG_FILE), with)
    }

    /// The catalog, with nothing left of a deleted topic of this name.
    fn lock_catalog_for(&self, name: &str) -> Result<Quiet<'_, Stored>> {
        loop {
            let catalog = self.lock_catalog()?;
            if !catalog.is_deleting(name) {
                return Ok(catalog);
            }
            drop(catalog);
            self.context.before_change()?;
            delete::finish_deletes(self)?;
        }
    }

    /// Every partition that could be opened.
    fn cores(&self) -> Vec<Arc<Core>> {
        self.topics.read().values().flat_map(|topic| topic.cores()).collect()
    }

    fn find(&self, name: &str) -> Result<Arc<TopicState>> {
        let found = self.topics.read().get(name).map(Arc::clone);
        found.ok_or_else(|| Error::TopicNotFound { topic: name.into() })
    }
}

/// The first of several errors: the others were served all the same. A topic that was deleted meanwhile is none.
#[derive(Debug, Default)]
struct FirstError(Option<Error>);

impl FirstError {
    fn keep<T: Default>(&mut self, result: Result<T>) -> T {
        result.unwrap_or_else(|error| {
            if !matches!(error, Error::TopicDeleted { .. }) {
                self.0.get_or_insert(error);
            }
            T::default()
        })
    }

    fn into_result(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

/// Refuses settings with a codec that this build lacks: each append would fail.
fn check_codec(config: &TopicConfig) -> Result<()> {
    match stored_as(config).map(Compression::codec) {
        Some(codec) if !codec.is_supported() => Err(Error::Unsupported { what: codec.name() }),
        _ => Ok(()),
    }
}

/// The slots of a topic, for those who only count.
fn damaged_count(slots: &[Slot]) -> usize {
    slots.iter().filter(|slot| matches!(slot, Slot::Damaged(_))).count()
}
