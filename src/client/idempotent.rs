//! Idempotent producers that append record by record: each is numbered, so that one which is sent twice is stored once.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::log::Log;
use crate::partition::core::Core;
use crate::partition::{Appended, Held, Partition, Placement, append_one, join_one, repeat_one};
use crate::record::{Record, Sender, TopicRecord};
use crate::types::{Offset, ProducerEpoch, ProducerId, Timestamp};

/// A producer whose records are numbered, in each partition from 0 up: what it sends twice is stored once. Made by
/// [`ProducerBuilder::idempotent`](crate::ProducerBuilder::idempotent).
///
/// Each call appends, and knows the offset when it returns. A [`Producer`](crate::Producer) gathers records instead.
///
/// The partition gives the numbers, under the lock of the append, and a record that was refused uses none up. So after an
/// error, [`retry`](Self::retry) does the right thing without a look at what the error was. Numbers begin anew with each
/// producer: who must not store a record twice even if the process dies between an append and what remembers it uses a
/// [`TransactionalProducer`](crate::TransactionalProducer), or numbers batches of its own for [`append_raw`](crate::Partition::append_raw).
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use chiplog::{Log, Record};
///
/// let log = Log::open(dir.path())?;
/// let mut producer = log.producer().idempotent()?;
/// let offset = producer.send(Record::new("paid").to("orders"))?.offset();
///
/// let again = producer.retry(Record::new("paid").to("orders"))?;
/// assert!(again.is_duplicate());
/// assert_eq!(again.offset(), offset);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct IdempotentProducer {
    log: Log,
    sender: Sender,
    /// Where the last record was sent to.
    last: Option<Arc<Core>>,
    /// Where it is, if it was stored, and its time, if that was told.
    stored: Option<(Offset, Option<Timestamp>)>,
}

impl fmt::Debug for IdempotentProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotentProducer").field("id", &self.sender.producer).finish()
    }
}

impl IdempotentProducer {
    pub(super) fn new(log: Log, sender: Sender) -> Self {
        Self { log, sender, last: None, stored: None }
    }

    /// Its id, which no other producer of this log has, before or after.
    #[must_use]
    pub fn id(&self) -> ProducerId {
        self.sender.producer
    }

    /// Its epoch: 0.
    #[must_use]
    pub fn epoch(&self) -> ProducerEpoch {
        self.sender.epoch
    }

    /// Appends a record to the topic it names, as [`Log::append`](crate::Log::append) does, under the producer's next
    /// number there.
    ///
    /// Record and number survive the death of the process when this returns, and a power cut when those of a plain
    /// [append](Partition::append) do.
    ///
    /// # Errors
    ///
    /// As for [`Log::append`](crate::Log::append).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Record};
    ///
    /// let log = Log::open(dir.path())?;
    /// let mut producer = log.producer().idempotent()?;
    /// for value in ["paid", "sent"] {
    ///     producer.send(Record::new(value).to("orders"))?;
    /// }
    /// let known = log.topic("orders")?.partition(0)?.producers()[0];
    /// assert_eq!((known.producer_id, known.last_sequence), (producer.id(), Some(1)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send<'r>(&mut self, record: impl Into<TopicRecord<'r>>) -> Result<Appended<'static>> {
        // What fails before it has a partition is no repetition of the record before.
        self.forget();
        let record = record.into();
        let core = self.log.choose(&record)?;
        self.turn_to(&core);
        let placed = self.append_to(&core, &record.record)?;
        Ok(placed.into_appended(Held::Shared(core)))
    }

    /// Sends the record of the last [`send`](Self::send) or [`append`](Self::append) again, under the same number to the same
    /// partition. If it was stored, the answer is where, [as a duplicate](Appended::is_duplicate); else it is stored now.
    /// Without one before, or for another topic than that one's, this is a `send`. If the topic was deleted since, it fails, also
    /// if there is one of that name again.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send); [`Error::TopicDeleted`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Record};
    ///
    /// let log = Log::open(dir.path())?;
    /// let mut producer = log.producer().idempotent()?;
    /// let record = Record::new("paid").key("o-17").to("orders");
    /// let appended = match producer.send(record) {
    ///     Ok(appended) => appended,
    ///     Err(_) => producer.retry(record)?,
    /// };
    /// assert!(!appended.is_duplicate());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn retry<'r>(&mut self, record: impl Into<TopicRecord<'r>>) -> Result<Appended<'static>> {
        let record = record.into();
        let last = self.last.as_ref().filter(|core| *core.id.topic == *record.topic).map(Arc::clone);
        let Some(core) = last else { return self.send(record) };
        let placed = match self.stored {
            Some((offset, timestamp)) => repeat_one(&core, offset, timestamp)?,
            None => self.append_to(&core, &record.record)?,
        };
        Ok(placed.into_appended(Held::Shared(core)))
    }

    /// Appends a record to one partition, under the producer's next number there. Survives what one of [`send`](Self::send)
    /// does.
    ///
    /// # Errors
    ///
    /// As for [`Partition::append`]; [`Error::TopicNotFound`] if the partition is of another log.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// let orders = log.topic("orders")?.partition(0)?;
    /// let mut producer = log.producer().idempotent()?;
    /// assert_eq!(producer.append(&orders, "paid")?.offset(), Offset(0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn append<'p, 'r>(
        &mut self,
        partition: &'p Partition,
        record: impl Into<Record<'r>>,
    ) -> Result<Appended<'p>> {
        let core = &partition.core;
        if !self.last.as_ref().is_some_and(|last| Arc::ptr_eq(last, core)) {
            self.forget();
            self.log.check_own(core)?;
            self.turn_to(core);
        }
        let placed = self.append_to(core, &record.into())?;
        Ok(placed.into_appended(Held::Borrowed(core)))
    }

    fn forget(&mut self) {
        (self.last, self.stored) = (None, None);
    }

    fn turn_to(&mut self, core: &Arc<Core>) {
        (self.last, self.stored) = (Some(Arc::clone(core)), None);
    }

    #[inline]
    fn append_to(&mut self, core: &Arc<Core>, record: &Record<'_>) -> Result<Placement> {
        let cuts = core.cuts();
        match join_one(core, record, self.sender) {
            Some((offset, timestamp)) => {
                self.stored = Some((offset, Some(timestamp)));
                Ok(Placement::one(offset, timestamp, cuts))
            }
            None => self.append_slowly(core, record),
        }
    }

    #[cold]
    fn append_slowly(&mut self, core: &Arc<Core>, record: &Record<'_>) -> Result<Placement> {
        let appended = append_one(core, record, self.sender);
        self.stored = match &appended {
            // It is there, and nobody knows for how long: another sync says so, or only another incarnation of the log can.
            Err(Error::NotSynced { offset, .. }) => Some((*offset, None)),
            Ok(placed) => Some((placed.offset, Some(placed.timestamp))),
            Err(_) => None,
        };
        appended
    }
}
