//! How a producer is to be: its settings, and the three kinds that are made of them.

use std::time::Duration;

use super::Producer;
use super::shared::Settings;
use crate::client::{IdempotentProducer, TransactionalProducer};
use crate::error::{Error, Result};
use crate::log::{Log, Partitioning};
use crate::partition::Ack;
use crate::record::{Compression, Sender};

/// Settings of a producer. Made by [`Log::producer`](crate::Log::producer).
///
/// | To | End with |
/// |---|---|
/// | send many records, in batches | [`build`](Self::build) |
/// | append record by record, each stored once | [`idempotent`](Self::idempotent) |
/// | write all or nothing | [`transactional`](Self::transactional) |
///
/// A setting that the kind of producer has no use for is refused, so that nobody relies on it: all but
/// [`transaction_timeout`](Self::transaction_timeout) are those of [`build`](Self::build), and that one is for
/// [`transactional`](Self::transactional).
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use std::time::Duration;
/// use chiplog::{Ack, Log, Record};
///
/// let log = Log::open(dir.path())?;
/// let producer = log.producer().linger(Duration::from_millis(20)).batch_bytes(64 << 10).acks(Ack::Synced).build()?;
/// let sent = producer.send(Record::new("paid").key("o-17").to("orders"))?;
/// assert_eq!(sent.wait()?.offset.0, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder makes nothing by itself"]
pub struct ProducerBuilder {
    log: Log,
    transaction_timeout: Duration,
    settings: Settings,
    is_numbered: bool,
}

impl Log {
    /// Settings for a producer: one that gathers records, one that numbers each, or one with transactions.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Record};
    ///
    /// let log = Log::open(dir.path())?;
    /// let producer = log.producer().build()?;
    /// for number in 0..1_000 {
    ///     producer.send(Record::new(&number.to_string()).to("numbers"))?;
    /// }
    /// producer.flush()?;
    /// assert_eq!(log.topic("numbers")?.partition(0)?.offsets().end.0, 1_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn producer(&self) -> ProducerBuilder {
        ProducerBuilder {
            log: self.clone(),
            transaction_timeout: TRANSACTION_TIMEOUT,
            settings: Settings::default(),
            is_numbered: true,
        }
    }
}

impl ProducerBuilder {
    /// Sets how long a record waits at most for others to be appended with, by the log's clock, if
    /// [maintenance](Log::maintain) comes by. Longer makes fuller batches; zero appends each record by itself, before
    /// [`send`](Producer::send) returns, unless the disk is full: then it is kept and tried again, as any other. A full batch
    /// does not wait.
    ///
    /// Default: 5 ms. Range: 0 to 24 days. Kafka: `linger.ms`.
    pub fn linger(mut self, time: Duration) -> Self {
        self.settings.linger = time;
        self
    }

    /// Sets how long a batch may become, in bytes, header included and before compression. A longer record is a batch by
    /// itself; 0 makes each record one. So much memory is taken for each partition that records wait for.
    ///
    /// Default: 16 KiB. Range: 0 to [`buffer_bytes`](Self::buffer_bytes), and to 2^31 - 1. Kafka: `batch.size`.
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.settings.batch_bytes = bytes;
        self
    }

    /// Sets how much memory the records may take that are not appended yet, in bytes, all partitions together. At least one
    /// batch for each partition that records are sent to, or batches are appended before they are full.
    ///
    /// Default: 32 MiB. Range: 1 to 2^53. Kafka: `buffer.memory`.
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.settings.buffer_bytes = bytes;
        self
    }

    /// Sets how long [`send`](Producer::send) waits for space in that memory, by the log's clock. Space is short only if the
    /// disk is full, or other threads send faster than it writes. Zero refuses at once, by [`Error::BufferFull`].
    ///
    /// Default: 1 minute. Range: any. Kafka: `max.block.ms`.
    pub fn max_block(mut self, time: Duration) -> Self {
        self.settings.max_block = time;
        self
    }

    /// Sets for how long a batch is tried again that cannot be appended, or synced, because the disk is full, by the log's clock,
    /// from its first record on. Then its records are told so. Those behind it in its partition wait meanwhile.
    ///
    /// Default: 2 minutes. Range: any; zero tries once. Kafka: `delivery.timeout.ms`.
    pub fn delivery_timeout(mut self, time: Duration) -> Self {
        self.settings.delivery_timeout = time;
        self
    }

    /// Sets when a record counts as delivered: when it was appended, or when it survives a power cut, too. One sync serves
    /// all that was appended before it.
    ///
    /// Default: [`Ack::Written`]. Kafka: `acks`.
    pub fn acks(mut self, ack: Ack) -> Self {
        self.settings.acks = ack;
        self
    }

    /// Sets how partitions are chosen for records that are sent without one.
    ///
    /// Default: [`Partitioning::Murmur2`]. Kafka: `partitioner.class`, `partitioner.ignore.keys`.
    pub fn partitioner(mut self, partitioning: Partitioning) -> Self {
        self.settings.partitioning = partitioning;
        self
    }

    /// Sets how batches are compressed, for topics that leave it to the producer
    /// ([`Compression::Producer`](crate::Compression::Producer), the default of topics). It takes the time of the thread that
    /// appends the batch.
    ///
    /// Default: [`Compression::NONE`]. Kafka: `compression.type`.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.settings.compression = compression;
        self
    }

    /// Sets whether the batches of [`build`](Self::build) carry an id and numbers of the producer, as those of Kafka's do.
    /// Nothing is stored twice without them either.
    ///
    /// Default: `true`. Kafka: `enable.idempotence`.
    pub fn numbered(mut self, is_numbered: bool) -> Self {
        self.is_numbered = is_numbered;
        self
    }

    /// Sets how long a transaction may stay open, by the log's clock, before [maintenance](Log::maintain) aborts it: until
    /// it ends, readers of committed data see nothing behind its first record. A prepared one stays for as long as it takes.
    ///
    /// Default: 1 minute. Range: 1 ms to 24 days. Kafka: `transaction.timeout.ms`.
    pub fn transaction_timeout(mut self, timeout: Duration) -> Self {
        self.transaction_timeout = timeout;
        self
    }

    /// A producer that gathers records into batches: see [`Producer`]. That its id is taken is durable when this returns,
    /// which once for a thousand of them waits for the disk.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidSetting`] if a setting is out of range, or there is a time-out for transactions.
    /// - [`Error::Unsupported`] if this build lacks the codec.
    /// - [`Error::Io`] if no id could be reserved for it; [`Error::ReadOnly`], [`Error::Closed`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// let log = chiplog::Log::open(dir.path())?;
    /// assert!(log.producer().batch_bytes(1 << 20).build().is_ok());
    /// assert!(log.producer().batch_bytes(1 << 20).buffer_bytes(1 << 10).build().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn build(self) -> Result<Producer> {
        self.check_no_timeout()?;
        self.settings.check()?;
        let sender = self.log.new_sender()?;
        let sender = if self.is_numbered { sender } else { Sender::NONE };
        Ok(Producer::new(self.log, self.settings, sender))
    }

    /// A producer that numbers its records, and appends each by itself: see [`IdempotentProducer`]. That its id is taken is
    /// durable when this returns, which once for a thousand of them waits for the disk.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidSetting`] for any setting but the default: it has none.
    /// - [`Error::Io`] if no id could be reserved for it; [`Error::ReadOnly`], [`Error::Closed`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// let log = chiplog::Log::open(dir.path())?;
    /// let (one, other) = (log.producer().idempotent()?, log.producer().idempotent()?);
    /// assert_ne!(one.id(), other.id());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn idempotent(self) -> Result<IdempotentProducer> {
        self.check_no_timeout()?;
        self.check_no_batches()?;
        let sender = self.log.new_sender()?;
        Ok(IdempotentProducer::new(self.log, sender))
    }

    /// The producer of a transactional id, which this takes away from whoever had it: their transaction is aborted if it is
    /// open, and all they do from now on is refused. Durable when this returns.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidTransactionalId`] if the id is empty or longer than 32,767 bytes, [`Error::InvalidSetting`] if the
    ///   time-out is out of range, or for any other setting but the default.
    /// - [`Error::InvalidTransaction`] if a transaction of this id is prepared: end it first, by its ticket.
    /// - [`Error::OutcomeUnknown`] if a commit of this id ended so: reopen the log.
    /// - [`Error::Io`], [`Error::LowSpace`], [`Error::Poisoned`], [`Error::Corrupt`], [`Error::ReadOnly`],
    ///   [`Error::Closed`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{ErrorKind, Log};
    ///
    /// let log = Log::open(dir.path())?;
    /// let mut old = log.producer().transactional("billing-1")?;
    /// let mut new = log.producer().transactional("billing-1")?;
    /// assert_eq!(old.begin().unwrap_err().kind(), ErrorKind::Fenced);
    /// assert!(new.begin().is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn transactional(self, id: &str) -> Result<TransactionalProducer> {
        self.check_no_batches()?;
        let timeout = self.transaction_timeout;
        if timeout.as_millis() == 0 || timeout.as_millis() > i32::MAX as u128 {
            return Err(refused("transaction.timeout.ms", timeout.as_millis().to_string(), "1 to 2147483647"));
        }
        Ok(TransactionalProducer::new(self.log.take_seat(id, timeout)?))
    }

    /// Refuses the settings of a producer that gathers records.
    fn check_no_batches(&self) -> Result<()> {
        let not_numbered = (!self.is_numbered).then(|| ("enable.idempotence", "false".to_owned()));
        match self.settings.changed().or(not_numbered) {
            Some((key, value)) => {
                Err(refused(key, value, "only a producer that gathers records has it: end with `build`"))
            }
            None => Ok(()),
        }
    }

    /// Refuses the setting of a producer with transactions.
    fn check_no_timeout(&self) -> Result<()> {
        let timeout = self.transaction_timeout;
        if timeout == TRANSACTION_TIMEOUT {
            return Ok(());
        }
        let allowed = "only a producer with transactions has it: end with `transactional`";
        Err(refused("transaction.timeout.ms", timeout.as_millis().to_string(), allowed))
    }
}

fn refused(key: &str, value: String, allowed: &str) -> Error {
    Error::InvalidSetting { key: key.into(), value: value.into(), allowed: allowed.into() }
}

const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);
