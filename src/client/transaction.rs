//! Transactions: records of several partitions, and offsets of groups, that count together or not at all.

use std::fmt;

use super::Consumer;
use crate::error::{self, Result};
use crate::group::{Caller, GroupOffset};
use crate::log::{Group, Holder};
use crate::partition::{Ack, Appended, Held, Partition};
use crate::record::{Record, TopicRecord};
use crate::txn::Ticket;
use crate::types::{ProducerEpoch, ProducerId};

/// A producer with transactions, one at a time. Made by [`ProducerBuilder::transactional`](crate::ProducerBuilder::transactional).
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use chiplog::{Isolation, Log, Offset, ReadOptions, Record};
///
/// let log = Log::open(dir.path())?;
/// let mut producer = log.producer().transactional("transfers-1")?;
///
/// let mut transaction = producer.begin()?;
/// transaction.send(Record::new("-5").key("ann").to("accounts"))?;
/// transaction.send(Record::new("+5").key("bob").to("accounts"))?;
/// transaction.commit()?;
///
/// let mut transaction = producer.begin()?;
/// transaction.send(Record::new("-7").key("ann").to("accounts"))?;
/// drop(transaction); // aborted
///
/// let committed = ReadOptions::default().isolation(Isolation::Committed);
/// let records = log.topic("accounts")?.partition(0)?.read_with(Offset::ZERO, committed)?;
/// assert_eq!(records.iter().count(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct TransactionalProducer {
    holder: Holder,
}

impl fmt::Debug for TransactionalProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionalProducer").field("id", &self.transactional_id()).finish()
    }
}

impl TransactionalProducer {
    pub(super) fn new(holder: Holder) -> Self {
        Self { holder }
    }

    /// The transactional id.
    #[must_use]
    pub fn transactional_id(&self) -> &str {
        self.holder.id()
    }

    /// The id that its records carry.
    #[must_use]
    pub fn id(&self) -> ProducerId {
        self.holder.sender().producer
    }

    /// Its epoch, which fences those that had the transactional id before.
    #[must_use]
    pub fn epoch(&self) -> ProducerEpoch {
        self.holder.sender().epoch
    }

    /// Begins a transaction. Nothing is written yet; its [time-out](crate::ProducerBuilder::transaction_timeout) runs.
    ///
    /// # Errors
    ///
    /// - [`Error::ProducerFenced`](crate::Error::ProducerFenced) if another took the transactional id.
    /// - [`Error::InvalidTransaction`](crate::Error::InvalidTransaction) if a transaction is prepared: end it first.
    /// - [`Error::OutcomeUnknown`](crate::Error::OutcomeUnknown) if that of the last one is: reopen the log.
    /// - Those of an append, if one before could not be ended in all of its partitions, and still cannot;
    ///   [`Error::Closed`](crate::Error::Closed).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// let log = chiplog::Log::open(dir.path())?;
    /// let mut producer = log.producer().transactional("billing-1")?;
    /// producer.begin()?.commit()?; // of nothing: nothing is written
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn begin(&mut self) -> Result<Transaction<'_>> {
        let number = self.holder.begin()?;
        Ok(Transaction { holder: &self.holder, number: Some(number), is_refused: false })
    }
}

/// A transaction that is open. Dropped without a [`commit`](Self::commit), it is aborted.
///
/// Its records are in the log at once, and readers with [`Isolation::Uncommitted`](crate::Isolation::Uncommitted), the
/// default, see them. Readers with [`Isolation::Committed`](crate::Isolation::Committed) see them once it is committed, and
/// until it ends nothing that lies behind the first of them.
///
/// After an error of [`send`](Self::send) the transaction is as it was before, and can go on. Only after
/// [`NotSynced`](crate::Error::NotSynced), of a topic that syncs each append, the record is in the transaction all the same.
///
/// **Aborted, it takes no consumer back**: its positions stay behind what its polls have returned, and the next transaction
/// would commit them, without what should have come of it. So call
/// [`Consumer::seek_to_committed`](crate::Consumer::seek_to_committed) after a transaction that was not committed.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use chiplog::{GroupOffset, Log, Offset, Record};
///
/// let log = Log::open(dir.path())?;
/// log.append(Record::new("paid").to("orders"))?;
///
/// // Read, write, and remember how far: all of it once.
/// let orders = log.topic("orders")?.partition(0)?.read(Offset::ZERO)?;
/// let mut producer = log.producer().transactional("billing-1")?;
/// let mut transaction = producer.begin()?;
/// for order in &orders {
///     transaction.send(Record::new(order.value.unwrap()).to("invoices"))?;
/// }
/// let billing = log.group("billing")?;
/// transaction.commit_offsets(&billing, &[GroupOffset::new("orders", 0, orders.next_offset())])?;
/// assert!(billing.committed("orders", 0)?.is_none());
/// transaction.commit()?;
/// assert_eq!(billing.committed("orders", 0)?.unwrap().offset, Offset(1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a transaction that is dropped is aborted"]
pub struct Transaction<'p> {
    holder: &'p Holder,
    /// None once it ended.
    number: Option<u64>,
    /// Whether it was to commit positions of a member that is out: then others do the work that it was about.
    is_refused: bool,
}

impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("id", &self.holder.id()).field("number", &self.number).finish()
    }
}

impl Transaction<'_> {
    /// Appends a record to the topic it names, which is created if there is none, as one of the transaction's.
    ///
    /// What survives is said by the end of the transaction: after a crash before that, the next open aborts it. Nothing is
    /// synced here, but in a topic that syncs each append.
    ///
    /// # Errors
    ///
    /// - As for [`Log::append`](crate::Log::append). After [`Error::NotSynced`](crate::Error::NotSynced) the record is in the
    ///   transaction all the same: do not send it again.
    /// - [`Error::ProducerFenced`](crate::Error::ProducerFenced) if another took the transactional id,
    ///   [`Error::InvalidTransaction`](crate::Error::InvalidTransaction) if the transaction took too long: it is aborted.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Record};
    ///
    /// let log = Log::open(dir.path())?;
    /// let mut producer = log.producer().transactional("billing-1")?;
    /// let mut transaction = producer.begin()?;
    /// transaction.send(Record::new("invoice").to("invoices"))?;
    /// transaction.send(Record::new("paid").key("o-17").to("orders"))?;
    /// transaction.commit()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send<'r>(&mut self, record: impl Into<TopicRecord<'r>>) -> Result<Appended<'static>> {
        let (core, placed) = self.holder.send(self.number.unwrap_or(0), &record.into())?;
        Ok(placed.into_appended(Held::Shared(core)))
    }

    /// Appends a record to one partition, as one of the transaction's. Survives what one of [`send`](Self::send) does.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send); [`Error::TopicNotFound`](crate::Error::TopicNotFound) if the partition is of another log.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset, Record};
    ///
    /// let log = Log::open(dir.path())?;
    /// let orders = log.topic("orders")?.partition(0)?;
    /// let mut producer = log.producer().transactional("billing-1")?;
    /// let mut transaction = producer.begin()?;
    /// assert_eq!(transaction.append(&orders, "paid")?.offset(), Offset(0));
    /// transaction.commit()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append<'p, 'r>(
        &mut self,
        partition: &'p Partition,
        record: impl Into<Record<'r>>,
    ) -> Result<Appended<'p>> {
        let core = &partition.core;
        self.holder.log().check_own(core)?;
        let placed = self.holder.append(self.number.unwrap_or(0), core, &record.into())?;
        Ok(placed.into_appended(Held::Borrowed(core)))
    }

    /// Commits offsets of a group, if the transaction commits. Until then the group has those it had.
    ///
    /// This is for who reads by itself: nobody looks whether the caller is still a member of the group. For what a member was
    /// assigned use [`commit_positions`](Self::commit_positions).
    ///
    /// The commit makes the records below them durable first, as [`Group::commit`] does, also one with
    /// [`Ack::Written`]: else a power cut could leave the offsets without them.
    ///
    /// # Errors
    ///
    /// As for [`Group::commit_all`] and [`send`](Self::send); [`Error::ForeignGroup`](crate::Error::ForeignGroup) if the group
    /// is of another log.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{GroupOffset, Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// let billing = log.group("billing")?;
    /// let mut producer = log.producer().transactional("billing-1")?;
    /// let mut transaction = producer.begin()?;
    /// transaction.commit_offsets(&billing, &[GroupOffset::new("orders", 0, Offset(7))])?;
    /// transaction.abort()?;
    /// assert!(billing.committed("orders", 0)?.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn commit_offsets(&mut self, group: &Group, offsets: &[GroupOffset<'_>]) -> Result<()> {
        self.holder.commit_offsets(self.number.unwrap_or(0), group, Caller::none(), offsets, &[])
    }

    /// Commits the [positions](Consumer::positions) of a consumer, if the transaction commits: everything that its polls have
    /// returned is processed by this transaction. Those of a member are committed as such (KIP-447): if its group has taken it
    /// for dead, others do the same work, and this transaction will not commit. Kafka: `sendOffsetsToTransaction`.
    ///
    /// Let one transaction be about what one poll returned: what a member gave up in a later poll is not among its positions
    /// any more. The consumer must not commit in other ways. If the transaction is not committed, call
    /// [`Consumer::seek_to_committed`], or what the poll returned is never delivered again.
    ///
    /// # Errors
    ///
    /// - [`Error::GroupRefused`](crate::Error::GroupRefused) if the member is out (of kind
    ///   [`Fenced`](crate::ErrorKind::Fenced)), or the group rebalances, as it does whenever a member comes or goes
    ///   ([`Retry`](crate::ErrorKind::Retry)): none of the positions is committed, and the transaction can only be aborted.
    ///   Abort it, go back by [`Consumer::seek_to_committed`], and poll on: that joins again if need be.
    /// - As for [`commit_offsets`](Self::commit_offsets).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::{AutoOffsetReset, GroupConfig, Log, Offset, Record};
    ///
    /// let at_once = GroupConfig::default().initial_rebalance_delay(Duration::ZERO);
    /// let log = Log::builder(dir.path()).groups(at_once).open()?;
    /// log.append(Record::new("paid").to("orders"))?;
    ///
    /// let builder = log.consumer("billing").topics(["orders"]);
    /// let mut consumer = builder.auto_offset_reset(AutoOffsetReset::Earliest).join()?;
    /// let mut producer = log.producer().transactional("billing-1")?;
    /// let polled = consumer.poll(Duration::from_secs(60))?;
    /// let mut transaction = producer.begin()?;
    /// for (_, order) in &polled {
    ///     transaction.send(Record::new(order.value.unwrap()).to("invoices"))?;
    /// }
    /// transaction.commit_positions(&consumer)?;
    /// transaction.commit()?;
    /// assert_eq!(log.group("billing")?.committed("orders", 0)?.unwrap().offset, Offset(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn commit_positions(&mut self, consumer: &Consumer) -> Result<()> {
        let (holder, number) = (self.holder, self.number.unwrap_or(0));
        let committed = consumer.commit_positions_by(|group, caller, offsets, read| {
            holder.commit_offsets(number, group, caller, offsets, read)
        });
        self.is_refused |= matches!(committed, Err(error::Error::GroupRefused { .. }));
        committed
    }

    /// Commits: from now on all of the records count, and the offsets, or after an error none, for every reader and after any
    /// crash or power cut. Durable when this returns, and so is what this producer committed before; no reader of committed
    /// data sees any of it before it is.
    ///
    /// Costs a sync of each partition that was written to, and one for the decision.
    ///
    /// # Errors
    ///
    /// The transaction is aborted after all of them but the first. What could not be written of that is written by
    /// [maintenance](crate::Log::maintain), or the next open.
    ///
    /// - [`Error::OutcomeUnknown`](crate::Error::OutcomeUnknown) if the decision may not be durable: reopen the log, which
    ///   settles it one way or the other.
    /// - [`Error::ProducerFenced`](crate::Error::ProducerFenced),
    ///   [`Error::InvalidTransaction`](crate::Error::InvalidTransaction): it was aborted before; the latter also if
    ///   [`commit_positions`](Self::commit_positions) was refused, be it for an ordinary rebalance: go on as is said there.
    /// - [`Error::Io`](crate::Error::Io), [`Error::LowSpace`](crate::Error::LowSpace),
    ///   [`Error::Poisoned`](crate::Error::Poisoned), [`Error::Closed`](crate::Error::Closed).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset, Record};
    ///
    /// let log = Log::open(dir.path())?;
    /// let mut producer = log.producer().transactional("billing-1")?;
    /// let mut transaction = producer.begin()?;
    /// transaction.send(Record::new("invoice").to("invoices"))?;
    /// transaction.commit()?;
    /// let offsets = log.topic("invoices")?.partition(0)?.offsets();
    /// assert_eq!(offsets.synced, Offset(1)); // a marker that is lost is written again: the decision is durable, too
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn commit(self) -> Result<()> {
        self.commit_with(Ack::Synced)
    }

    /// Commits as [`commit`](Self::commit) does, but waits for no more than `ack` says.
    ///
    /// With [`Ack::Written`] nothing of the transaction is synced, only what lies below the offsets that groups commit in it.
    /// It counts as a whole after the death of the process, at any instruction. A power cut may take it: from each partition
    /// all of it or nothing, so a transaction in one partition is there as a whole or not at all. One in several may be lost
    /// in some of them and committed in others, as plain records may. A later [`commit`](Self::commit) of this producer makes
    /// it durable everywhere, also one of nothing.
    ///
    /// # Errors
    ///
    /// As for [`commit`](Self::commit).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Ack, Log, Record};
    ///
    /// let log = Log::open(dir.path())?;
    /// let mut producer = log.producer().transactional("counts-1")?;
    /// for number in 0..100 {
    ///     let mut transaction = producer.begin()?;
    ///     transaction.send(Record::new(&[number]).to("counts"))?;
    ///     transaction.send(Record::new(&[number]).to("copies"))?;
    ///     transaction.commit_with(Ack::Written)?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn commit_with(mut self, ack: Ack) -> Result<()> {
        self.check()?;
        match self.number.take() {
            Some(number) => self.holder.commit(number, ack),
            None => Ok(()),
        }
    }

    /// Aborts: none of the records counts. That is so from the moment this is called, whatever it returns; nothing is
    /// synced, as nothing is lost if a crash comes.
    ///
    /// A consumer whose records it was about does not go back by itself: call
    /// [`Consumer::seek_to_committed`](crate::Consumer::seek_to_committed), or they are never delivered again.
    ///
    /// # Errors
    ///
    /// - [`Error::ProducerFenced`](crate::Error::ProducerFenced),
    ///   [`Error::InvalidTransaction`](crate::Error::InvalidTransaction): it was aborted before.
    /// - Those of an append if it could not be written: readers of committed data wait until
    ///   [maintenance](crate::Log::maintain) has, or the next open.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Record};
    ///
    /// let log = Log::open(dir.path())?;
    /// let mut producer = log.producer().transactional("billing-1")?;
    /// let mut transaction = producer.begin()?;
    /// transaction.send(Record::new("invoice").to("invoices"))?;
    /// transaction.abort()?;
    /// let offsets = log.topic("invoices")?.partition(0)?.offsets();
    /// assert_eq!(offsets.stable, offsets.end); // the record and the marker of its abort
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn abort(mut self) -> Result<()> {
        self.number.take().map_or(Ok(()), |number| self.holder.abort(number))
    }

    /// Prepares: makes all of it durable, and leaves to [`Log::commit_prepared`](crate::Log::commit_prepared) or
    /// [`Log::abort_prepared`](crate::Log::abort_prepared) what becomes of it, now or after a restart. For those whose other
    /// half of the work is kept elsewhere, as in two-phase commit.
    ///
    /// A prepared transaction has no time-out, and readers of committed data see nothing behind its first record until it
    /// ends: so end it soon. Meanwhile this producer begins no other, and nobody can take its transactional id.
    ///
    /// 1. `prepare`, and store the ticket with the other half of the work, in one step.
    /// 2. `commit_prepared`.
    /// 3. After an open, commit of [`Log::prepared`](crate::Log::prepared) what is found stored, and abort the rest.
    ///
    /// # Errors
    ///
    /// As for [`commit`](Self::commit). After [`Error::OutcomeUnknown`](crate::Error::OutcomeUnknown), it may be among those
    /// that are prepared when the log is reopened.
    ///
    /// # Example
    ///
    /// See [`Log::commit_prepared`](crate::Log::commit_prepared).
    pub fn prepare(mut self) -> Result<Ticket> {
        self.check()?;
        let number = self.number.take().unwrap_or(0);
        self.holder.prepare(number)
    }

    /// Refuses to commit what others do, too. What is refused is dropped, and so aborted.
    fn check(&self) -> Result<()> {
        let (producer, reason) = (self.holder.sender().producer, "a member whose positions it was to commit is out");
        if self.is_refused { Err(error::Error::InvalidTransaction { producer, reason }) } else { Ok(()) }
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number.take() {
            // Whatever could not be written, maintenance writes.
            let _ = self.holder.abort(number);
        }
    }
}
