//! A record that a worker has taken.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::Desk;
use crate::error::Result;
use crate::group::share::Verdict;
use crate::log::Handed;
use crate::partition::Records;
use crate::record::RecordRef;
use crate::types::{Offset, TopicPartition};

/// A record that a worker has taken from a [`Queue`](crate::Queue), and nobody else has until it says what became of it. Dropped,
/// it is given back.
///
/// Copies nothing: keeping it keeps the bytes that it was read with, and so a file's disk space. It may outlive its queue; but
/// what a queue has taken is given back when that is dropped, and can then be taken by another.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use std::time::Duration;
/// use chiplog::{Log, Offset, Record, Task};
///
/// let log = Log::open(dir.path())?;
/// log.append(Record::new("to ada").key("42").to("mails"))?;
/// let mut queue = log.queue("senders", "mails").open()?;
/// let task: Task = queue.take(Duration::ZERO)?.unwrap();
/// assert_eq!((task.partition().to_string().as_str(), task.offset()), ("mails-0", Offset(0)));
/// assert_eq!(task.record().key, Some(&b"42"[..]));
/// task.accept()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropped, it is given back"]
pub struct Task {
    desk: Arc<Desk>,
    partition: TopicPartition,
    /// Exactly one.
    records: Records,
    offset: Offset,
    deliveries: u16,
    is_decided: bool,
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = format_args!("{}:{}", self.partition, self.offset);
        f.debug_struct("Task").field("at", &place).field("deliveries", &self.deliveries).finish()
    }
}

impl Task {
    pub(super) fn new(desk: Arc<Desk>, partition: TopicPartition, handed: Handed) -> Self {
        let Handed { records, offset, deliveries } = handed;
        Self { desk, partition, records, offset, deliveries, is_decided: false }
    }

    /// The record. Decoded at each call.
    #[must_use]
    pub fn record(&self) -> RecordRef<'_> {
        // There is one: an empty record only stands in for the impossible.
        self.records.iter().next().unwrap_or_else(|| RecordRef::empty(self.offset))
    }

    /// The partition it is from.
    #[must_use]
    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// Its offset there.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// How often it was handed out, this time included.
    #[must_use]
    pub fn deliveries(&self) -> u16 {
        self.deliveries
    }

    /// It is done: nobody gets it again. That survives a power cut when this returns, unless
    /// [`QueueBuilder::ack`](crate::QueueBuilder::ack) says otherwise. Workers that accept at the same time share a sync.
    ///
    /// # Errors
    ///
    /// - [`Error::LockExpired`](crate::Error::LockExpired): it was with this worker for too long, and was given back. It is, or will be,
    ///   done again.
    /// - [`Error::LowSpace`](crate::Error::LowSpace), [`Error::Io`](crate::Error::Io), [`Error::Poisoned`](crate::Error::Poisoned),
    ///   [`Error::Closed`](crate::Error::Closed): it may be handed out again, once its lock is over.
    ///
    /// # Example
    ///
    /// See [`Queue`](crate::Queue).
    pub fn accept(self) -> Result<()> {
        self.decide(Verdict::Accept)
    }

    /// It could not be done now: it is handed out again, to anybody, at once; or is a dead letter, if it was handed out as
    /// often as it may be. Dropping a task does the same, and says nothing of what went wrong.
    ///
    /// # Errors
    ///
    /// As for [`accept`](Self::accept); those of appending a dead letter.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::{Log, Record};
    ///
    /// let log = Log::open(dir.path())?;
    /// log.append(Record::new("to nobody").to("mails"))?;
    /// let mut queue = log.queue("senders", "mails").max_deliveries(2).open()?;
    /// for _ in 0..2 {
    ///     queue.take(Duration::ZERO)?.unwrap().release()?;
    /// }
    /// assert!(queue.take(Duration::ZERO)?.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn release(self) -> Result<()> {
        self.decide(Verdict::Release)
    }

    /// Nobody can do it: it is a dead letter now, however seldom it was handed out, and its copy is on the disk when this
    /// returns. Without a topic of [dead letters](crate::QueueBuilder::dead_letters) it is dropped.
    ///
    /// # Errors
    ///
    /// As for [`accept`](Self::accept); those of appending a dead letter. It is tried again then, and nobody is given the record
    /// meanwhile. A crash between the letter and its end makes a second letter.
    ///
    /// # Example
    ///
    /// See [`Queue`](crate::Queue).
    pub fn reject(self) -> Result<()> {
        self.decide(Verdict::Reject)
    }

    /// Keeps it for another [lock time](crate::QueueBuilder::lock), from now on. After KIP-1222. Locks are in memory only: whatever
    /// ends the process ends them.
    ///
    /// # Errors
    ///
    /// [`Error::LockExpired`](crate::Error::LockExpired).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::{Log, Record};
    ///
    /// let log = Log::open(dir.path())?;
    /// log.append(Record::new("a long story").to("mails"))?;
    /// let mut queue = log.queue("senders", "mails").lock(Duration::from_secs(5)).open()?;
    /// let task = queue.take(Duration::ZERO)?.unwrap();
    /// task.renew()?; // five seconds more
    /// task.accept()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn renew(&self) -> Result<()> {
        self.desk.shared.renew(self.desk.worker, self.partition.partition, self.offset)
    }

    /// Whose it is, and where, for who decides on it.
    pub(super) fn decided(mut self) -> (Arc<Desk>, u32, Offset) {
        self.is_decided = true;
        (Arc::clone(&self.desk), self.partition.partition, self.offset)
    }

    fn decide(self, verdict: Verdict) -> Result<()> {
        let (desk, partition, offset) = self.decided();
        let records = BTreeMap::from([(partition, vec![offset])]);
        desk.shared.decide(desk.worker, &records, verdict, desk.ack)
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if !self.is_decided {
            self.desk.shared.release(self.desk.worker, Some((self.partition.partition, self.offset)));
        }
    }
}
