//! What became of a record that was sent: told to whoever waits, once, for the whole batch.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::lane::Lane;
use crate::error::{Error, Result};
use crate::log::again;
use crate::probe;
use crate::types::{Offset, Timestamp, TopicPartition};

/// Where a record is that was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivered {
    /// The topic and the number of the partition.
    pub partition: TopicPartition,
    /// Its offset there, which no other record has.
    pub offset: Offset,
    /// The time it is stored with: its own, that of its [`send`](crate::Producer::send), or, if the topic says so, that of the
    /// append.
    pub timestamp: Timestamp,
}

/// A record that was sent: a way to wait until it is [`Delivered`], blocking or as a future on any runtime. Dropping it changes
/// nothing for the record.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use chiplog::{Log, Offset, Record};
///
/// let log = Log::open(dir.path())?;
/// let producer = log.producer().build()?;
/// let one = producer.send(Record::new("paid").to("orders"))?;
/// let two = producer.send(Record::new("sent").to("orders"))?;
/// assert_eq!(two.wait()?.offset, Offset(1));
/// assert_eq!(one.told().unwrap()?.offset, Offset(0)); // of the same batch
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Sent {
    fate: Arc<Fate>,
    place: Place,
    /// Whether a task was told to be woken, once.
    is_awaited: bool,
}

impl fmt::Debug for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.fate.outcome.get() {
            None => "waits",
            Some(Ok(_)) => "delivered",
            Some(Err(_)) => "failed",
        };
        write!(f, "Sent {{ {}, {what} }}", self.fate.lane.id)
    }
}

/// A record within its batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) index: u32,
    /// The time it is stored with, unless that of the append is.
    pub(super) timestamp: Timestamp,
}

impl Sent {
    #[inline]
    pub(super) fn new(fate: &Arc<Fate>, place: Place) -> Self {
        Self { fate: Arc::clone(fate), place, is_awaited: false }
    }

    /// The topic it was sent to.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.fate.lane.id.topic
    }

    /// The number of the partition that was chosen for it.
    #[must_use]
    pub fn partition(&self) -> u32 {
        self.fate.lane.id.partition
    }

    /// What became of it, if that is known.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Self::wait).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Background, Log, Record};
    ///
    /// let log = Log::builder(dir.path()).background(Background::Caller).open()?;
    /// let producer = log.producer().build()?;
    /// let sent = producer.send(Record::new("paid").to("orders"))?;
    /// assert!(sent.told().is_none());
    /// producer.flush()?;
    /// assert_eq!(sent.told().unwrap()?.offset.0, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn told(&self) -> Option<Result<Delivered>> {
        self.fate.told(self.place)
    }

    /// Waits until the record is delivered.
    ///
    /// Its batch is appended at once, by this thread, and with [`Ack::Synced`](crate::Ack::Synced) synced: a thread that waits
    /// has nothing more to add to it, and others would have to be waited for. Who has more to send waits later, or uses the
    /// future, which leaves the batch its [linger time](crate::ProducerBuilder::linger).
    ///
    /// # Errors
    ///
    /// - As for [`Partition::append`](crate::Partition::append): the record is not stored. An error of the kind
    ///   [`Full`](crate::ErrorKind::Full) comes only when the
    ///   [`delivery_timeout`](crate::ProducerBuilder::delivery_timeout) is over, or the producer or the log is closed.
    /// - [`Error::NotSynced`] if it was appended, and a sync failed: whether it survives is open, and sending it again may store
    ///   it twice. If the partition is not poisoned, it is in the log, and a later [`sync`](crate::Partition::sync) makes it
    ///   durable.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Ack, Log, Record};
    ///
    /// let log = Log::open(dir.path())?;
    /// let producer = log.producer().acks(Ack::Synced).build()?;
    /// let delivered = producer.send(Record::new("paid").to("orders"))?.wait()?;
    /// assert_eq!(delivered.partition.to_string(), "orders-0");
    /// assert!(log.topic("orders")?.partition(0)?.offsets().synced > delivered.offset);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait(&self) -> Result<Delivered> {
        self.fate.tell(self.place, self.fate.wait())
    }
}

/// Resolves when the record is delivered, or cannot be: then with the error that [`Sent::wait`] returns. Nothing is done by
/// polling it: the batch is appended when it is full, or by [maintenance](crate::Log::maintain) after its
/// [linger time](crate::ProducerBuilder::linger).
impl Future for Sent {
    type Output = Result<Delivered>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.fate.outcome.get().is_none() {
            this.is_awaited = true;
            this.fate.wake_later(this.place.index, context.waker());
        }
        this.told().map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if self.is_awaited && self.fate.outcome.get().is_none() {
            self.fate.forget(self.place.index);
        }
    }
}

/// What becomes of a batch. All its records share it.
#[derive(Debug)]
pub(super) struct Fate {
    lane: Arc<Lane>,
    outcome: OnceLock<Outcome>,
    waiting: Mutex<BTreeMap<u32, Waker>>,
    settled: Condvar,
}

/// Where the first record is, and the time of all of them, if it is that of the append; or what went wrong.
pub(super) type Outcome = Result<(Offset, Option<Timestamp>), Arc<Error>>;

impl Fate {
    pub(super) fn new(lane: &Arc<Lane>) -> Arc<Self> {
        let lane = Arc::clone(lane);
        Arc::new(Self { lane, outcome: OnceLock::new(), waiting: Mutex::default(), settled: Condvar::new() })
    }

    /// What became of one of its records, if that is known.
    pub(super) fn told(&self, place: Place) -> Option<Result<Delivered>> {
        self.outcome.get().map(|outcome| self.tell(place, outcome))
    }

    fn tell(&self, place: Place, outcome: &Outcome) -> Result<Delivered> {
        let index = if probe::planted("batching.first_offset_told") { 0 } else { place.index };
        match outcome {
            Ok((base, appended_at)) => Ok(Delivered {
                partition: self.lane.id.clone(),
                offset: *base + u64::from(index),
                timestamp: appended_at.unwrap_or(place.timestamp),
            }),
            Err(error) => Err(again(error)),
        }
    }

    /// Makes known what became of the batch, once. Threads are woken; the tasks to be woken are returned, for that is a call
    /// into somebody's runtime.
    pub(super) fn settle(&self, outcome: Outcome) -> BTreeMap<u32, Waker> {
        let mut waiting = self.waiting.lock();
        let is_first = self.outcome.set(outcome).is_ok();
        debug_assert!(is_first, "a batch has one fate");
        let tasks = std::mem::take(&mut *waiting);
        drop(waiting);
        self.settled.notify_all();
        tasks
    }

    /// Waits until it is known, and does what there is to do for it.
    pub(super) fn wait(&self) -> &Outcome {
        loop {
            if let Some(outcome) = self.outcome.get() {
                return outcome;
            }
            self.lane.hurry(self);
            // The disk is full, or another thread is at it.
            let mut waiting = self.waiting.lock();
            self.settled.wait_while_for(&mut waiting, |_| self.outcome.get().is_none(), AGAIN);
        }
    }

    fn wake_later(&self, index: u32, waker: &Waker) {
        // Cloned before the lock is taken and dropped after: both may run code of the task's runtime.
        let mut waker = Some(waker.clone());
        let mut waiting = self.waiting.lock();
        if self.outcome.get().is_none() {
            waker = waker.and_then(|waker| waiting.insert(index, waker));
        }
        drop(waiting);
        drop(waker);
    }

    fn forget(&self, index: u32) {
        let waker = self.waiting.lock().remove(&index);
        drop(waker);
    }
}

/// How soon what cannot be done because the disk is full is tried again.
pub(super) const AGAIN: Duration = Duration::from_millis(100);
