//! A topic: partitions of one name.

use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;

use super::partitioner::{Sticky, partition_for_key};
use super::{Log, Opened};
use crate::config::TopicConfig;
use crate::error::{Corruption, Error, Result};
use crate::partition::context::Context;
use crate::partition::core::{Core, Halt};
use crate::partition::{Appended, Held, Partition, append_one};
use crate::record::{Record, Sender};
use crate::types::{TopicId, TopicPartition};

/// A topic. Clones are handles to the same topic; each keeps the log open.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// let log = chiplog::Log::open(dir.path())?;
/// let orders = log.topic("orders")?;
/// orders.append("paid")?;
/// assert_eq!(format!("{orders:?}"), "Topic { orders, partitions: 1 }");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Topic {
    pub(super) state: Arc<TopicState>,
    pub(super) opened: Arc<Opened>,
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic {{ {}, partitions: {} }}", self.name(), self.partition_count())
    }
}

/// What handles to one topic share.
#[derive(Debug)]
pub(crate) struct TopicState {
    pub(crate) id: TopicId,
    pub(crate) name: Arc<str>,
    pub(crate) config: RwLock<TopicConfig>,
    pub(crate) partitions: RwLock<Vec<Slot>>,
    pub(crate) sticky: Sticky,
}

/// What producers need of topics.
impl Log {
    /// The topic of this name, for a producer: created if there is none.
    pub(crate) fn topic_state(&self, name: &str) -> Result<Arc<TopicState>> {
        let inner = &self.opened.inner;
        inner.topic_or_create(name, inner.default_config)
    }

    /// What the partitions share. It does not keep the log open.
    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.opened.inner.context
    }
}

/// A partition that could be opened, or why not.
#[derive(Debug, Clone)]
pub(crate) enum Slot {
    Open(Arc<Core>),
    Damaged(Arc<Error>),
}

impl Slot {
    pub(crate) fn core(&self) -> Result<&Arc<Core>> {
        match self {
            Self::Open(core) => Ok(core),
            Self::Damaged(error) => Err(again(error)),
        }
    }
}

impl TopicState {
    /// The partition of this number.
    pub(crate) fn core(&self, partition: u32) -> Result<Arc<Core>> {
        let partitions = self.partitions.read();
        match partitions.get(partition as usize) {
            Some(slot) => slot.core().map(Arc::clone),
            None => Err(Error::PartitionNotFound {
                topic: (*self.name).into(),
                partition,
                count: partitions.len() as u32,
            }),
        }
    }

    /// Every partition that could be opened.
    pub(crate) fn cores(&self) -> Vec<Arc<Core>> {
        self.partitions.read().iter().filter_map(|slot| slot.core().ok().map(Arc::clone)).collect()
    }

    /// Stops every partition.
    pub(crate) fn fence(&self, halt: &Halt) {
        self.cores().iter().for_each(|core| core.fence(halt.clone()));
    }

    /// The partition that the key chooses, or the one whose turn it is.
    pub(crate) fn choose(&self, record: &Record<'_>) -> Result<Arc<Core>> {
        let partitions = self.partitions.read();
        let count = partitions.len() as u32;
        let chosen = match (record.key, count) {
            (_, 1) => 0,
            (Some(key), _) => partition_for_key(key, count),
            (None, _) => {
                let chosen = self.sticky.choose(count, weight(record), || self.random(&partitions));
                usable_from(&partitions, chosen)
            }
        };
        partitions[chosen as usize].core().map(Arc::clone)
    }

    /// Appends to the partition that is [chosen](Self::choose).
    pub(crate) fn append(&self, record: Record<'_>) -> Result<Appended<'static>> {
        let core = self.choose(&record)?;
        core.check_external()?;
        let placed = append_one(&core, &record, Sender::NONE)?;
        Ok(placed.into_appended(Held::Shared(core)))
    }

    /// The partition that a key chooses.
    pub(crate) fn core_of_key(&self, key: &[u8]) -> Result<Arc<Core>> {
        let count = self.partitions.read().len() as u32;
        self.core(if count == 1 { 0 } else { partition_for_key(key, count) })
    }

    fn random(&self, partitions: &[Slot]) -> u64 {
        let open = partitions.iter().find_map(|slot| slot.core().ok());
        open.map_or(0, |core| core.context.entropy.random())
    }
}

/// The partition, or if that is damaged or poisoned the next that is not: a record without key goes anywhere.
fn usable_from(partitions: &[Slot], chosen: u32) -> u32 {
    let is_usable = |number: &u32| match &partitions[*number as usize] {
        Slot::Open(core) => !core.has_stopped(),
        Slot::Damaged(_) => false,
    };
    let count = partitions.len() as u32;
    (chosen..count).chain(0..chosen).find(is_usable).unwrap_or(chosen)
}

/// How much a record counts for when partitions take turns.
fn weight(record: &Record<'_>) -> usize {
    record.value.map_or(0, <[u8]>::len) + RECORD_OVERHEAD
}

/// What a record takes beside its value, about.
const RECORD_OVERHEAD: usize = 12;

impl Topic {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// The id: a new topic of an old name has another one.
    #[must_use]
    pub fn id(&self) -> TopicId {
        self.state.id
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> TopicConfig {
        *self.state.config.read()
    }

    /// How many partitions it has.
    #[must_use]
    pub fn partition_count(&self) -> u32 {
        self.state.partitions.read().len() as u32
    }

    /// The partition with this number, from 0.
    ///
    /// # Errors
    ///
    /// - [`Error::PartitionNotFound`] if there are fewer.
    /// - [`Error::Corrupt`], [`Error::Io`] if it could not be opened: what was found then.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// let log = chiplog::Log::open(dir.path())?;
    /// let orders = log.topic("orders")?;
    /// assert_eq!(orders.partition(0)?.number(), 0);
    /// assert!(orders.partition(1).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn partition(&self, partition: u32) -> Result<Partition> {
        let core = self.state.core(partition)?;
        let opened: Arc<Opened> = Arc::clone(&self.opened);
        Ok(Partition::new(core, opened))
    }

    /// The partition that records of this key go to, as long as the topic has as many partitions as now: Kafka's murmur2 of
    /// the key.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, TopicConfig};
    ///
    /// let log = Log::open(dir.path())?;
    /// let orders = log.create_topic("orders", TopicConfig::default().partitions(10))?;
    /// assert_eq!(orders.partition_for_key("foobar"), 6); // as in Kafka
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn partition_for_key(&self, key: impl AsRef<[u8]>) -> u32 {
        partition_for_key(key.as_ref(), self.partition_count())
    }

    /// Appends a record: to the partition that Kafka's murmur2 of the key chooses, or, without a key, to one partition
    /// until it took 16 KiB, then to another.
    ///
    /// # Errors
    ///
    /// As for [`Partition::append`], and those of [`partition`](Self::partition).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Record, TopicConfig};
    ///
    /// let log = Log::open(dir.path())?;
    /// let orders = log.create_topic("orders", TopicConfig::default().partitions(10))?;
    /// let appended = orders.append(Record::new("paid").key("foobar"))?;
    /// assert_eq!(appended.partition(), 6); // as in Kafka
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append<'r>(&self, record: impl Into<Record<'r>>) -> Result<Appended<'_>> {
        self.state.append(record.into())
    }
}

/// The same error once more: what is wrong with a damaged partition is said at every call, and what became of a batch to each
/// of its records.
pub(crate) fn again(error: &Error) -> Error {
    match error {
        Error::Corrupt(corruption) => Error::Corrupt(Box::new(Corruption::clone(corruption))),
        Error::Io { action, path, source } => {
            let source = match source.raw_os_error() {
                Some(code) => std::io::Error::from_raw_os_error(code),
                None => std::io::Error::new(source.kind(), source.to_string()),
            };
            Error::Io { action, path: path.clone(), source }
        }
        Error::NewerVersion { path, found, supported } => {
            Error::NewerVersion { path: path.clone(), found: *found, supported: *supported }
        }
        Error::Unsupported { what } => Error::Unsupported { what },
        Error::PartitionElsewhere { partition } => Error::PartitionElsewhere { partition: partition.clone() },
        Error::TooLong { what, len, limit } => Error::TooLong { what, len: *len, limit: *limit },
        other => append_again(other).unwrap_or_else(|| {
            let source = std::io::Error::other(other.to_string());
            Error::Io { action: "open", path: "the partition".into(), source }
        }),
    }
}

/// The same of what appends answer beside that.
fn append_again(error: &Error) -> Option<Error> {
    Some(match error {
        Error::LowSpace { free, limit } => Error::LowSpace { free: *free, limit: *limit },
        Error::Poisoned { partition, reason } => {
            Error::Poisoned { partition: partition.clone(), reason: Arc::clone(reason) }
        }
        Error::NotSynced { partition, offset, reason } => {
            Error::NotSynced { partition: partition.clone(), offset: *offset, reason: reason.clone() }
        }
        Error::BatchTooLarge { len, limit } => Error::BatchTooLarge { len: *len, limit: *limit },
        Error::InvalidBatch { reason, position } => Error::InvalidBatch { reason, position: *position },
        Error::InvalidRecord { index, reason } => Error::InvalidRecord { index: *index, reason },
        Error::InvalidTimestamp { index, timestamp, earliest, latest } => {
            Error::InvalidTimestamp { index: *index, timestamp: *timestamp, earliest: *earliest, latest: *latest }
        }
        Error::OffsetsExhausted { end, count } => Error::OffsetsExhausted { end: *end, count: *count },
        Error::ProducerFenced { producer, epoch, current } => {
            Error::ProducerFenced { producer: *producer, epoch: *epoch, current: *current }
        }
        Error::OutOfOrderSequence { producer, sequence, last } => {
            Error::OutOfOrderSequence { producer: *producer, sequence: *sequence, last: *last }
        }
        Error::InvalidTransaction { producer, reason } => Error::InvalidTransaction { producer: *producer, reason },
        Error::TopicDeleted { topic } => Error::TopicDeleted { topic: topic.clone() },
        Error::NotLeader { partition, leader } => Error::NotLeader { partition: partition.clone(), leader: *leader },
        Error::InternalTopic { topic } => Error::InternalTopic { topic: topic.clone() },
        Error::ReadOnly => Error::ReadOnly,
        Error::Closed => Error::Closed,
        _ => return None,
    })
}

/// A partition that cannot be used, or [staged](crate::Staging) records that could not be given to one, and why. Of
/// the latter no [`Observer`](crate::Observer) is told, and no partition is kept from opening: each is open with what
/// its files hold.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Damage {
    /// Which partition; none if a killed process had staged records, and the file `staging` is gone or cannot be read,
    /// or holds some of nobody knows whom.
    pub partition: Option<TopicPartition>,
    /// What was found when it was opened, and in which file.
    pub error: Arc<Error>,
}

impl Damage {
    pub(super) fn is_of(&self, topic: &str) -> bool {
        self.partition.as_ref().is_some_and(|partition| *partition.topic == *topic)
    }
}
