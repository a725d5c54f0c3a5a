//! Settings of a queue, and how one is opened.

use std::time::Duration;

use super::Queue;
use crate::error::{Error, Result};
use crate::group::share::{MAX_OPEN, ShareLimits};
use crate::log::{Log, QueueSettings};
use crate::partition::{Ack, Isolation};

/// Settings of a queue. Made by [`Log::queue`](crate::Log::queue).
///
/// Those of the whole queue hold for all who have it open, and are those of the worker that opened it last:
/// [`lock`](Self::lock), [`max_deliveries`](Self::max_deliveries), [`max_in_flight`](Self::max_in_flight),
/// [`dead_letters`](Self::dead_letters). **Who opens it without dead letters takes them from all others.** Keep the builder in one
/// function; who only wants to look has [`Log::list_queues`](crate::Log::list_queues), which opens nothing. The others are this
/// worker's.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use std::time::Duration;
/// use chiplog::Log;
///
/// let log = Log::open(dir.path())?;
/// let builder = log.queue("senders", "mails").lock(Duration::from_secs(60)).max_deliveries(3);
/// let mut queue = builder.dead_letters("mails.dead").open()?;
/// assert!(queue.take(Duration::ZERO)?.is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder opens nothing by itself"]
pub struct QueueBuilder {
    log: Log,
    group: Box<str>,
    topic: Box<str>,
    limits: ShareLimits,
    dead_letters: Option<Box<str>>,
    skips_present: bool,
    pub(super) ack: Ack,
    pub(super) isolation: Isolation,
    pub(super) max_bytes: usize,
}

impl Log {
    /// Settings for a worker of a queue: the group `group`, sharing the records of `topic` one by one. The topic is made if there
    /// is none. Queues and [consumer groups](Self::consumer) of one name have nothing to do with each other.
    ///
    /// # Example
    ///
    /// See [`Queue`].
    pub fn queue(&self, group: &str, topic: &str) -> QueueBuilder {
        QueueBuilder {
            log: self.clone(),
            group: group.into(),
            topic: topic.into(),
            limits: ShareLimits { lock: Duration::from_secs(30), max_deliveries: 5, max_in_flight: 2000 },
            dead_letters: None,
            skips_present: false,
            ack: Ack::Synced,
            isolation: Isolation::Committed,
            max_bytes: 1 << 20,
        }
    }
}

impl QueueBuilder {
    /// How long a record is with a worker that says nothing: then it is handed out again. 30 s by default, 1 s to 1 h. Kafka:
    /// `group.share.record.lock.duration.ms`.
    pub fn lock(mut self, time: Duration) -> Self {
        self.limits.lock = time;
        self
    }

    /// How often a record is handed out before it is a dead letter: 5 times by default, 1 to 1,000. Kafka:
    /// `group.share.delivery.count.limit`.
    ///
    /// Deliveries are counted in the log, so that a record which kills its process each time is a dead letter at last. A power
    /// cut may take the count of the last ones.
    pub fn max_deliveries(mut self, count: u16) -> Self {
        self.limits.max_deliveries = count;
        self
    }

    /// How many records of one partition may be handed out and not done: 2,000 by default, 1 to 10,000. All of them are stored
    /// with each change, as ranges. Kafka: `group.share.partition.max.record.locks`.
    pub fn max_in_flight(mut self, count: u32) -> Self {
        self.limits.max_in_flight = count;
        self
    }

    /// Copies records that nobody can do to this topic, which is made if there is none; none by default: then they are dropped.
    ///
    /// A letter has the record's key, value and headers, and the headers of KIP-1191 that say where it is from, and why:
    /// `__dlq.errors.topic`, `.partition`, `.offset`, `.group`, `.delivery.count` and `.message`, as text. One that would be
    /// too large with them has the headers alone.
    pub fn dead_letters(mut self, topic: &str) -> Self {
        self.dead_letters = Some(topic.into());
        self
    }

    /// Passes over what is in the topic already, if the queue is new; otherwise it begins with the first record there is. Kafka:
    /// `share.auto.offset.reset`, which is `latest` there by default.
    pub fn skip_present(mut self) -> Self {
        self.skips_present = true;
        self
    }

    /// How durable it is when [`Task::accept`](crate::Task::accept) returns: [`Ack::Synced`] by default. With [`Ack::Written`] it
    /// survives the death of the process, and a power cut may hand out again what was accepted last.
    pub fn ack(mut self, ack: Ack) -> Self {
        self.ack = ack;
        self
    }

    /// Whether this worker gets records of transactions that are open or aborted: [`Isolation::Committed`] by default, which does
    /// not. Kafka: `share.isolation.level`, which is `read_uncommitted` there by default.
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }

    /// How many bytes are read at once: 1 MiB by default. One batch is always read.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Opens the queue, as one more worker. Where a new queue begins survives a power cut when this returns.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidGroupId`], [`Error::InvalidSetting`]; those of [`Log::topic`].
    /// - [`Error::Corrupt`] if what is stored of queues, or a partition of the topic, could not be read when the log was opened.
    /// - [`Error::LowSpace`], [`Error::Io`], [`Error::Poisoned`], [`Error::ReadOnly`], [`Error::Closed`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Error, Log};
    ///
    /// let log = Log::open(dir.path())?;
    /// let refused = log.queue("senders", "mails").dead_letters("mails").open();
    /// assert!(matches!(refused, Err(Error::InvalidSetting { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(self) -> Result<Queue> {
        self.check()?;
        let settings = QueueSettings {
            limits: self.limits,
            dead_letters: self.dead_letters.clone(),
            skips_present: self.skips_present,
        };
        let shared = self.log.shared_queue(&self.group, &self.topic, settings)?;
        Ok(Queue::new(self.log.clone(), shared, &self))
    }

    fn check(&self) -> Result<()> {
        let ShareLimits { lock, max_deliveries, max_in_flight } = self.limits;
        let refuse = |key: &str, value: String, allowed: String| {
            Err(Error::InvalidSetting { key: key.into(), value: value.into(), allowed: allowed.into() })
        };
        if !(SHORTEST_LOCK..=LONGEST_LOCK).contains(&lock) {
            return refuse("lock", format!("{lock:?}"), format!("{SHORTEST_LOCK:?} to {LONGEST_LOCK:?}"));
        }
        if !(1..=MAX_DELIVERIES).contains(&max_deliveries) {
            return refuse("max_deliveries", max_deliveries.to_string(), format!("1 to {MAX_DELIVERIES}"));
        }
        if !(1..=MAX_OPEN).contains(&max_in_flight) {
            return refuse("max_in_flight", max_in_flight.to_string(), format!("1 to {MAX_OPEN}"));
        }
        Ok(())
    }
}

const SHORTEST_LOCK: Duration = Duration::from_secs(1);
const LONGEST_LOCK: Duration = Duration::from_secs(3600);
const MAX_DELIVERIES: u16 = 1000;
