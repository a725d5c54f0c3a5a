//! The producer that gathers records into batches, and appends them when they are full or have waited long enough.
//!
//! ```text
//! send -- partition --> batch of the partition -- full, by this thread -----------> append --> told
//!                                               \ lingered, by maintenance -------/
//!                                                \ flush, wait, by who calls it -/
//! ```
//!
//! It has no thread of its own. `topics.rs` finds the lane of a partition without a lock, `lane.rs` is what waits for one
//! partition, `room.rs` the memory, `sent.rs` how senders are told, `shared.rs` the way of a record through these.

use std::fmt;
use std::sync::Arc;

mod builder;
mod lane;
mod room;
mod sent;
mod shared;
#[cfg(all(test, feature = "sim"))]
mod tests;
mod topics;

pub use builder::ProducerBuilder;
pub use sent::{Delivered, Sent};

use self::shared::{Settings, Shared, To};
use crate::error::{Error, Result};
use crate::log::{Log, Tended};
use crate::partition::Partition;
use crate::record::{Record, Sender, TopicRecord};
use crate::types::ProducerId;

/// A producer that gathers records into batches: one append for hundreds of records. Made by
/// [`ProducerBuilder::build`].
///
/// [`send`](Self::send) copies a record into the batch of its partition and returns. A batch is appended when the next record
/// does not fit, by the thread that sends that one; when its [linger time](ProducerBuilder::linger) is over, by
/// [maintenance](Log::maintain); or when somebody waits for it, by [`flush`](Self::flush) and [`Sent::wait`]. What becomes of
/// it the [`Sent`] tells, or a callback: each record is told once. Until then it is in memory only, and dies with the process.
///
/// Within a partition, records are stored in the order in which one thread sends them. Batches carry an id of the producer and
/// are numbered by the partition, as those of Kafka's idempotent producers.
///
/// If the disk is full, records wait until there is space again, for
/// [`delivery_timeout`](ProducerBuilder::delivery_timeout) at most, and take up to
/// [`buffer_bytes`](ProducerBuilder::buffer_bytes) of memory meanwhile; then `send` waits, too. No other error is tried again.
/// It is that of each record of its batch: if the rules of a topic change meanwhile, one record that breaks them fails those
/// it shares a batch with.
///
/// Clones are the same producer, for other threads: those that send to different partitions do not wait for each other. It
/// keeps the log open. Dropping the last clone appends what is kept; what cannot be is told to each [`Sent`]. [`Log::close`]
/// does so, too.
///
/// Plain [appends](Partition::append) share batches without any of this, and are written when they return: see
/// [`guide::producers`](crate::guide::producers#which-producer) for which is for what.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use chiplog::{Log, Offset, Record};
///
/// let log = Log::open(dir.path())?;
/// let producer = log.producer().build()?;
/// let sent = producer.send(Record::new("paid").key("o-17").to("orders"))?;
/// producer.send(Record::new("sent").key("o-17").to("orders"))?;
/// producer.flush()?;
/// assert_eq!(sent.wait()?.offset, Offset(0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Producer {
    owner: Arc<Owner>,
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("id", &self.owner.shared.common.sender.producer).finish()
    }
}

/// What goes with the last clone. Others have the rest for a while: maintenance, and who waits for a record.
struct Owner {
    log: Log,
    shared: Arc<Shared>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.finish();
    }
}

impl Producer {
    fn new(log: Log, settings: Settings, sender: Sender) -> Self {
        let shared = Arc::new(Shared::new(&log, settings, sender));
        let tended: Arc<dyn Tended> = Arc::clone(&shared) as Arc<dyn Tended>;
        log.look_after(Arc::downgrade(&tended));
        Self { owner: Arc::new(Owner { log, shared }) }
    }

    /// The id that its batches carry, which no other producer of this log has, before or after; none if it is not
    /// [numbered](ProducerBuilder::numbered).
    #[must_use]
    pub fn id(&self) -> Option<ProducerId> {
        let sender = self.owner.shared.common.sender;
        sender.is_some().then_some(sender.producer)
    }

    /// How much memory is taken by records that are not appended yet, in bytes: a whole batch for each partition that has
    /// any. At most [`buffer_bytes`](ProducerBuilder::buffer_bytes).
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        self.owner.shared.common.room.kept()
    }

    /// Sends a record to the topic it names, which is created if there is none, also for a misspelled name. The
    /// [partitioner](ProducerBuilder::partitioner) chooses the partition.
    ///
    /// Returns when the record is in a batch: it is not written yet. The result tells what becomes of it, and may be dropped.
    /// Appends the batch that was full before, if it was; waits if there is no memory, at most for
    /// [`max_block`](ProducerBuilder::max_block).
    ///
    /// # Errors
    ///
    /// The record was not sent:
    ///
    /// - [`Error::BatchTooLarge`], [`Error::TooLong`], [`Error::InvalidRecord`], [`Error::InvalidTimestamp`] if it breaks a rule
    ///   of the topic, or needs more memory than there is. Others are not touched.
    /// - [`Error::BufferFull`] if no memory came free.
    /// - [`Error::PartitionNotFound`] if a [`Partitioner`](crate::Partitioner) chose one that is not there.
    /// - [`Error::InternalTopic`], [`Error::Corrupt`], [`Error::Poisoned`], and those of [`Log::topic`].
    /// - [`Error::Closed`] if the producer or the log was closed.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Record};
    ///
    /// let log = Log::open(dir.path())?;
    /// let producer = log.producer().build()?;
    /// let sent: Vec<_> = (0..100)
    ///     .map(|number| producer.send(Record::new(&[number]).to("numbers")))
    ///     .collect::<Result<_, _>>()?;
    /// for (number, sent) in (0..).zip(sent) {
    ///     assert_eq!(sent.wait()?.offset.0, number);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn send<'r>(&self, record: impl Into<TopicRecord<'r>>) -> Result<Sent> {
        let TopicRecord { topic, record } = record.into();
        let Owner { log, shared } = &*self.owner;
        shared.send(log, To::Topic(topic), &record, None)
    }

    /// Sends a record as [`send`](Self::send) does, and calls `callback` when it is delivered, or cannot be.
    ///
    /// It is called once if this returns `Ok`, and not at all otherwise; on the thread that appended the batch or synced it,
    /// be it a sender, the log's own, or one in [`flush`](Self::flush), which may return before another thread has called all;
    /// with no lock held, so it may send, flush, close the producer and drop it. Of one partition, callbacks are called in the
    /// order of the records, one at a time: one that takes long keeps others waiting. It may [wait](Sent::wait) for another
    /// record; on the log's own thread not as a future, for that would wait for itself.
    ///
    /// If it panics, the others are called all the same; then the panic goes on in the `send`, `flush` or `wait` that called it.
    /// On the log's own thread it ends the log, and all that is not told fails. In a close, or when the last clone is
    /// dropped, it ends there.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send); those of the callback as for [`Sent::wait`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::sync::mpsc;
    /// use chiplog::{Log, Record};
    ///
    /// let log = Log::open(dir.path())?;
    /// let producer = log.producer().build()?;
    /// let (tell, told) = mpsc::channel();
    /// producer.send_with(Record::new("paid").to("orders"), move |delivered| {
    ///     let _ = tell.send(delivered.map(|delivered| delivered.offset));
    /// })?;
    /// assert_eq!(told.recv()??.0, 0); // after the linger time
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_with<'r>(
        &self,
        record: impl Into<TopicRecord<'r>>,
        callback: impl FnOnce(Result<Delivered>) + Send + 'static,
    ) -> Result<()> {
        let TopicRecord { topic, record } = record.into();
        let Owner { log, shared } = &*self.owner;
        shared.send(log, To::Topic(topic), &record, Some(Box::new(callback))).map(drop)
    }

    /// Sends a record to one partition, whatever its key.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send); [`Error::TopicNotFound`] if the partition is of another log, [`Error::TopicDeleted`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Record, TopicConfig};
    ///
    /// let log = Log::open(dir.path())?;
    /// let orders = log.create_topic("orders", TopicConfig::default().partitions(3))?;
    /// let producer = log.producer().build()?;
    /// let sent = producer.send_to(&orders.partition(2)?, Record::new("paid").key("o-17"))?;
    /// assert_eq!(sent.wait()?.partition.to_string(), "orders-2");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn send_to<'r>(&self, partition: &Partition, record: impl Into<Record<'r>>) -> Result<Sent> {
        let Owner { log, shared } = &*self.owner;
        shared.send(log, To::Partition(&partition.core), &record.into(), None)
    }

    /// Appends all that is kept, makes it durable if [`acks`](ProducerBuilder::acks) says so, and waits until all that was sent
    /// before is delivered or cannot be. Blocks while the disk is full, at most for
    /// [`delivery_timeout`](ProducerBuilder::delivery_timeout).
    ///
    /// # Errors
    ///
    /// The first of what went wrong while it waited; the others were served all the same. What failed before, by itself, is not
    /// told again: keep the [`Sent`] of each record that matters, or use
    /// [`send_with`](Self::send_with), whose callback is told of each.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Ack, Log, Record};
    ///
    /// let log = Log::open(dir.path())?;
    /// let producer = log.producer().acks(Ack::Synced).build()?;
    /// for topic in ["orders", "returns"] {
    ///     producer.send(Record::new("paid").to(topic))?;
    /// }
    /// producer.flush()?;
    /// for topic in ["orders", "returns"] {
    ///     assert_eq!(log.topic(topic)?.partition(0)?.offsets().synced.0, 1);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn flush(&self) -> Result<()> {
        self.owner.shared.flush()
    }

    /// Closes the producer, for all clones: takes no more records, and [flushes](Self::flush) those it has.
    ///
    /// # Errors
    ///
    /// As for [`flush`](Self::flush), so of nothing that failed before; the producer is closed all the same. [`Error::Closed`] if it was before, or the log was.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Error, Log, Record};
    ///
    /// let log = Log::open(dir.path())?;
    /// let producer = log.producer().build()?;
    /// let sent = producer.send(Record::new("paid").to("orders"))?;
    /// producer.close()?;
    /// assert!(sent.told().unwrap().is_ok());
    /// assert!(matches!(producer.send(Record::new("sent").to("orders")), Err(Error::Closed)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(&self) -> Result<()> {
        let shared = &self.owner.shared;
        if !shared.close() {
            return Err(Error::Closed);
        }
        shared.flush()
    }
}
