//! Appending: records or a batch in, an offset out.
//!
//! ```text
//! no lock      encode, compress, check against the topic's rules, checksum
//! append lock  end as expected? duplicate? -> roll if full -> stamp the offset -> stage, or one positional write -> publish
//! no lock      wake who waits; sync if the topic says so
//! ```
//!
//! A small record by itself is encoded under the lock: to where it is staged, or into a little buffer.
//!
//! Everything that can fail happens before the offset is given, except the sync of a topic that syncs each append.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

mod built;
mod rules;

pub(crate) use self::built::append_built;
pub(crate) use self::rules::{AppendRules, stored_as};
use super::core::Core;
use super::follow::{marker_of, producer_batch};
use super::producers::{Checked, Marker, Origin};
use super::report::Raised;
use super::writer::Writer;
use super::{Partition, ReadOptions};
use crate::config::Durability;
use crate::error::{Error, Result};
use crate::probe;
use crate::record::{
    BatchBuilder, BatchHeader, BatchOrigin, BatchRef, Compression, Record, Sender, Stamp, Validator, stamp,
};
use crate::segment::active::Failure;
use crate::types::{LeaderEpoch, Offset, Timestamp};

/// What an acknowledgement promises. Each partition keeps a prefix of what was appended to it, at least up to the last
/// record of which the promise holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ack {
    /// The record survives the death of this process, at any instruction. True as soon as `append` returned. It may not
    /// survive a power cut or a crash of the system.
    ///
    /// With one exception, where small appends are [staged](crate::Staging): if the process is killed and then, before
    /// the log is opened again, the machine is restarted or the directory copied, all is kept but the last
    /// [linger time](crate::LogBuilder::linger), 1 second by default; with
    /// [`Background::Caller`](crate::Background::Caller) all but what came since the last
    /// [`Log::maintain`](crate::Log::maintain), and the linger time before.
    Written,
    /// The record survives a power cut and a crash of the system, too, and what [`Written`](Self::Written) excepts.
    Synced,
    /// The record is committed: every in-sync replica has it, at least as many as the topic asks for, each as the topic's
    /// [`Durability`] says. It survives the loss of all of these but one. In a log without a
    /// [`Replicator`](crate::Replicator) the same as [`Written`](Self::Written). Kafka: `acks=all`.
    Replicated,
}

impl Ack {
    /// What it comes to in a log that no other node holds.
    pub(crate) fn alone(self) -> Self {
        if self == Self::Replicated { Self::Written } else { self }
    }
}

/// Records that were appended, and the way to wait for more to be promised of them.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use chiplog::{Ack, Log, Offset};
///
/// let log = Log::open(dir.path())?;
/// let partition = log.topic("orders")?.partition(0)?;
/// let appended = partition.append("paid")?;
/// assert_eq!(appended.offset(), Offset::ZERO);
///
/// appended.wait(Ack::Synced)?; // from here on a power cut does not take it
/// assert_eq!(partition.offsets().synced, Offset(1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Appended<'p> {
    core: Held<'p>,
    offset: Offset,
    last_offset: Offset,
    timestamp: Timestamp,
    is_duplicate: bool,
    /// How often the log had been cut before.
    cuts: u64,
}

impl fmt::Debug for Appended<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Appended {{ {}, {}..={} }}", self.core.core().id, self.offset, self.last_offset)
    }
}

/// A partition that is borrowed from the caller, or kept by the result.
pub(crate) enum Held<'p> {
    Borrowed(&'p Arc<Core>),
    Shared(Arc<Core>),
}

impl Held<'_> {
    fn core(&self) -> &Arc<Core> {
        match self {
            Self::Borrowed(core) => core,
            Self::Shared(core) => core,
        }
    }
}

impl Appended<'_> {
    /// The offset of the first record of the append.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// The offset of the last record of the append.
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        self.last_offset
    }

    /// The number of the partition that took the records.
    #[must_use]
    pub fn partition(&self) -> u32 {
        self.core.core().id.partition
    }

    /// The largest timestamp the records were stored with: the records' own, or that of the log's clock, which with
    /// [`SystemClock`](crate::SystemClock) is up to a tick behind.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// Whether the batch had been appended before, and nothing was stored now. The offsets are those of then.
    #[must_use]
    pub fn is_duplicate(&self) -> bool {
        self.is_duplicate
    }

    /// Waits until `ack` holds. Concurrent waiters share one sync. For [`Ack::Replicated`] that may be long: a leader that is cut
    /// off from all others waits until it hears that it leads no more. Who cannot wait so long uses [`acked`](Self::acked).
    ///
    /// # Errors
    ///
    /// - [`Error::Io`] if the sync failed: it was this call that tried. The partition is poisoned.
    /// - [`Error::Poisoned`], [`Error::Closed`], [`Error::TopicDeleted`] if it will not come to hold.
    /// - [`Error::NotLeader`], [`Error::NotEnoughReplicas`] of [`Ack::Replicated`]: the record may come to be committed, or be cut
    ///   off. [`Error::Truncated`] if it was.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Ack, Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// let partition = log.topic("orders")?.partition(0)?;
    /// let (one, two) = (partition.append("paid")?, partition.append("sent")?);
    /// two.wait(Ack::Synced)?;
    /// one.wait(Ack::Synced)?; // covered already: no second sync
    /// assert_eq!(partition.offsets().synced, Offset(2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait(&self, ack: Ack) -> Result<()> {
        self.core.core().check_uncut(self.cuts)?;
        match ack {
            Ack::Written => Ok(()),
            Ack::Synced => self.core.core().sync_to(self.last_offset + 1),
            Ack::Replicated => self.core.core().wait_committed(self.last_offset + 1, None).map(drop),
        }?;
        // Others may have its offset by now.
        self.core.core().check_uncut(self.cuts)
    }

    /// Resolves once `ack` holds. Runs on any runtime; the sync itself is done by the log's background thread, or by
    /// the caller's next [`Log::maintain`](crate::Log::maintain), which [`Log::wait_due`](crate::Log::wait_due) waits
    /// for. As every future, it does nothing until it is first polled: only then is the sync asked for.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Self::wait).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::future::Future;
    /// use std::pin::pin;
    /// use std::task::{Context, Poll, Waker};
    /// use chiplog::{Ack, Background, Log};
    ///
    /// let log = Log::builder(dir.path()).background(Background::Caller).open()?;
    /// let partition = log.topic("orders")?.partition(0)?;
    /// let mut acked = pin!(partition.append("paid")?.acked(Ack::Synced));
    ///
    /// let mut context = Context::from_waker(Waker::noop()); // your runtime's
    /// assert!(acked.as_mut().poll(&mut context).is_pending());
    /// log.maintain()?; // what the background thread does otherwise
    /// assert!(matches!(acked.as_mut().poll(&mut context), Poll::Ready(Ok(()))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn acked(&self, ack: Ack) -> impl Future<Output = Result<()>> + Send + 'static + use<> {
        let core = Arc::clone(self.core.core());
        let (end, cuts) = (self.last_offset + 1, self.cuts);
        async move {
            core.check_uncut(cuts)?;
            let mark = match ack {
                Ack::Written => return Ok(()),
                Ack::Synced => &core.synced,
                Ack::Replicated if !core.context.is_replicated => return Ok(()),
                Ack::Replicated => &core.replicated.acked,
            };
            let mut reached = pin!(mark.reached(end.0));
            let mut has_rung = false;
            let reached = poll_fn(|context| {
                let polled = reached.as_mut().poll(context);
                // Only now is it known that somebody waits: who is woken before finds nothing to do and sleeps again.
                if polled.is_pending() && !std::mem::replace(&mut has_rung, true) {
                    core.context.doorbell.ring();
                }
                polled
            });
            reached.await.map_err(|stop| core.stopped(stop))?;
            core.check_uncut(cuts)
        }
    }
}

impl Partition {
    /// Appends one record and returns its offset, which no other record gets.
    ///
    /// When this returns, the record survives the death of the process ([`Ack::Written`]). It survives a power cut
    /// once [`Appended::wait`] for [`Ack::Synced`] returns, or right away if the topic's
    /// [`Durability`] is `Each`.
    ///
    /// # Errors
    ///
    /// - [`Error::BatchTooLarge`], [`Error::InvalidRecord`], [`Error::InvalidTimestamp`] if the record breaks a rule of
    ///   the topic.
    /// - [`Error::Io`] or [`Error::LowSpace`] if it could not be written: nothing was appended. Of kind
    ///   [`Full`](crate::ErrorKind::Full), appends go on once space is freed.
    /// - [`Error::NotSynced`] if it was appended, and the sync that the topic asks for failed.
    /// - [`Error::InternalTopic`] if the topic holds the offsets of groups: commit to a [`Group`](crate::Group).
    /// - [`Error::Poisoned`], [`Error::Closed`], [`Error::TopicDeleted`], [`Error::ReadOnly`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset, Record};
    ///
    /// let log = Log::open(dir.path())?;
    /// let orders = log.topic("orders")?.partition(0)?;
    /// assert_eq!(orders.append("paid")?.offset(), Offset(0));
    /// assert_eq!(orders.append(Record::new("sent").key("o-17"))?.offset(), Offset(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn append<'r>(&self, record: impl Into<Record<'r>>) -> Result<Appended<'_>> {
        let (record, cuts) = (record.into(), self.core.cuts());
        let (offset, timestamp) = match self.core.join(&record, Sender::NONE).place() {
            Some(placed) => placed,
            None => self.append_slowly(&record)?,
        };
        let core = Held::Borrowed(&self.core);
        Ok(Appended { core, offset, last_offset: offset, timestamp, is_duplicate: false, cuts })
    }

    /// Appends several records as one batch: all of them or none, at consecutive offsets. Takes what
    /// [`append`](Self::append) takes, several of it.
    ///
    /// # Errors
    ///
    /// As for [`append`](Self::append); [`Error::InvalidBatch`] if there is no record.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset, Record};
    ///
    /// let log = Log::open(dir.path())?;
    /// let orders = log.topic("orders")?.partition(0)?;
    /// let appended = orders.append_all(["paid", "sent"])?;
    /// assert_eq!((appended.offset(), appended.last_offset()), (Offset(0), Offset(1)));
    /// orders.append_all([Record::new("paid").key("o-17"), Record::new("sent").key("o-17")])?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append_all<'r>(&self, records: impl IntoIterator<Item = impl Into<Record<'r>>>) -> Result<Appended<'_>> {
        self.append_records(None, records.into_iter().map(Into::into))
    }

    /// Appends as [`append_all`](Self::append_all) does, but only if the partition still ends at `expected_end`: what
    /// was decided from the log up to there is not overtaken.
    ///
    /// # Errors
    ///
    /// As for [`append_all`](Self::append_all); [`Error::EndMismatch`] if others appended since.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Error, Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// let seats = log.topic("seats")?.partition(0)?;
    /// seats.append_if_end(Offset(0), ["ann takes 4A"])?;
    ///
    /// let late = seats.append_if_end(Offset(0), ["bob takes 4A"]);
    /// assert!(matches!(late, Err(Error::EndMismatch { actual: Offset(1), .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append_if_end<'r>(
        &self,
        expected_end: Offset,
        records: impl IntoIterator<Item = impl Into<Record<'r>>>,
    ) -> Result<Appended<'_>> {
        self.append_records(Some(expected_end), records.into_iter().map(Into::into))
    }

    /// Appends a batch that somebody else encoded, in Kafka's format v2: what a produce request carries. It is
    /// checked as a Kafka leader checks it; offsets are assigned in place, and its bytes are kept if the topic's codec
    /// allows. Batches of idempotent producers are stored once, however often they are sent.
    ///
    /// # Errors
    ///
    /// As for [`append`](Self::append), and
    ///
    /// - [`Error::InvalidBatch`] if the bytes are not exactly one valid batch with the offsets a client sends.
    /// - [`Error::OutOfOrderSequence`], [`Error::ProducerFenced`], [`Error::InvalidTransaction`] by Kafka's rules.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::record::{BatchBuilder, BatchOptions, Record};
    /// use chiplog::{Log, Offset, Timestamp};
    ///
    /// let mut builder = BatchBuilder::new();
    /// builder.begin(BatchOptions::default());
    /// builder.push(&Record::new("paid"), Timestamp(1_700_000_000_000))?;
    ///
    /// let log = Log::open(dir.path())?;
    /// let orders = log.topic("orders")?.partition(0)?;
    /// assert_eq!(orders.append_raw(builder.finish()?)?.offset(), Offset(0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append_raw(&self, batch: &[u8]) -> Result<Appended<'_>> {
        self.core.check_external()?;
        let appended = append_raw(&self.core, batch, BatchOrigin::Client)?;
        Ok(appended.into_appended(Held::Borrowed(&self.core)))
    }

    #[cold]
    fn append_slowly(&self, record: &Record<'_>) -> Result<(Offset, Timestamp)> {
        self.core.check_external()?;
        append_slowly(&self.core, record, Sender::NONE).map(|placed| (placed.offset, placed.timestamp))
    }

    fn append_records<'r>(
        &self,
        expected_end: Option<Offset>,
        records: impl IntoIterator<Item = Record<'r>>,
    ) -> Result<Appended<'_>> {
        self.core.check_external()?;
        let placed = append_records(&self.core, Admission::IfSpace, Sender::NONE, expected_end, records)?;
        Ok(placed.into_appended(Held::Borrowed(&self.core)))
    }
}

/// Where a record went that joined an open batch, if it did. Returned in two registers, by each append.
#[derive(Debug, Clone, Copy)]
struct Joined {
    offset: Offset,
    timestamp: Timestamp,
}

impl Joined {
    /// No record has this offset: the one after it could not be told.
    const NOT: Self = Self { offset: Offset(u64::MAX), timestamp: Timestamp::NONE };

    #[inline]
    fn place(self) -> Option<(Offset, Timestamp)> {
        (self.offset != Self::NOT.offset).then_some((self.offset, self.timestamp))
    }
}

/// Where an append went.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placement {
    pub(crate) offset: Offset,
    pub(crate) last_offset: Offset,
    pub(crate) timestamp: Timestamp,
    is_duplicate: bool,
    /// How often the log had been cut before.
    cuts: u64,
}

impl Placement {
    pub(crate) fn one(offset: Offset, timestamp: Timestamp, cuts: u64) -> Self {
        Self { offset, last_offset: offset, timestamp, is_duplicate: false, cuts }
    }

    pub(crate) fn into_appended(self, core: Held<'_>) -> Appended<'_> {
        let Self { offset, last_offset, timestamp, is_duplicate, cuts } = self;
        Appended { core, offset, last_offset, timestamp, is_duplicate, cuts }
    }
}

/// Buffers of one thread, kept between appends so that none has to allocate.
#[derive(Debug, Default)]
struct Buffers {
    builder: BatchBuilder,
    validator: Validator,
    stored: Vec<u8>,
}

thread_local! {
    static BUFFERS: Cell<Option<Box<Buffers>>> = const { Cell::new(None) };
}

/// Runs `work` with this thread's buffers. An append inside of it (from an iterator of records, say) gets its own.
fn with_buffers<R>(work: impl FnOnce(&mut Buffers) -> R) -> R {
    let mut buffers = BUFFERS.take().unwrap_or_default();
    let result = work(&mut buffers);
    // One huge batch must not hold its memory for good.
    if buffers.stored.capacity() <= MAX_KEPT && buffers.builder.capacity() <= MAX_KEPT {
        BUFFERS.set(Some(buffers));
    }
    result
}

const MAX_KEPT: usize = 4 << 20;

/// Whether an append is refused while less space is left than the log is told to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    IfSpace,
    /// What it removes frees space.
    Always,
}

/// Adds a record to the open batch of its sender, if it is that simple: then where, and with which time.
#[inline]
pub(crate) fn join_one(core: &Core, record: &Record<'_>, sender: Sender) -> Option<(Offset, Timestamp)> {
    core.join(record, sender).place()
}

/// Appends one record: into the open batch if it can be staged.
pub(crate) fn append_one(core: &Arc<Core>, record: &Record<'_>, sender: Sender) -> Result<Placement> {
    let cuts = core.cuts();
    match core.join(record, sender).place() {
        Some((offset, timestamp)) => Ok(Placement::one(offset, timestamp, cuts)),
        None => append_slowly(core, record, sender),
    }
}

/// The answer for a record that was stored before, and comes once more: it promises what that of an append does. Its time is
/// read if it is not known; none if the record is gone by now.
#[cold]
pub(crate) fn repeat_one(core: &Core, offset: Offset, timestamp: Option<Timestamp>) -> Result<Placement> {
    core.check_open()?;
    if core.config.read().sync_rule() == Durability::Each {
        core.sync_to(offset + 1).map_err(|error| core.not_synced(offset, &error))?;
    }
    let read = || {
        let records = core.read(&core.segments(), offset, ReadOptions::default().max_records(1)).ok()?;
        records.iter().find(|record| record.offset == offset).map(|record| record.timestamp)
    };
    let timestamp = timestamp.or_else(read).unwrap_or(Timestamp::NONE);
    Ok(Placement { is_duplicate: true, ..Placement::one(offset, timestamp, core.cuts()) })
}

/// As [`append_one`], for a record that cannot simply join the open batch.
#[cold]
fn append_slowly(core: &Arc<Core>, record: &Record<'_>, sender: Sender) -> Result<Placement> {
    match core.append_plain(record, sender, core.context.clock.now())? {
        Some(placed) => Ok(placed),
        None => append_records(core, Admission::IfSpace, sender, None, [*record]),
    }
}

pub(crate) fn append_records<'r>(
    core: &Arc<Core>,
    admission: Admission,
    sender: Sender,
    expected_end: Option<Offset>,
    records: impl IntoIterator<Item = Record<'r>>,
) -> Result<Placement> {
    with_buffers(|buffers| {
        let rules = core.rules();
        let now = core.context.clock.now();
        buffers.builder.begin(rules.options(sender, Compression::NONE));
        for (index, record) in records.into_iter().enumerate() {
            rules.check(&record, index, now)?;
            buffers.builder.push(&record, now)?;
        }
        if buffers.builder.is_empty() {
            return Err(Error::InvalidBatch { reason: "no records", position: 0 });
        }
        rules.check_decoded(&buffers.builder)?;
        let batch = buffers.builder.finish()?;
        rules.check_len(batch.len())?;
        let header = BatchHeader::read(batch)
            .map_err(|invalid| Error::InvalidBatch { reason: invalid.what, position: invalid.at })?;
        core.admit(admission, batch.len() as u64)?;
        core.append_batch(batch, header, expected_end, Origin::Local)
    })
}

pub(crate) fn append_raw(core: &Arc<Core>, batch: &[u8], origin: BatchOrigin) -> Result<Placement> {
    let numbered_by = match origin {
        BatchOrigin::Client => Origin::Client,
        BatchOrigin::Coordinator => Origin::Coordinator,
    };
    append_validated(core, batch, origin, numbered_by)
}

fn append_validated(core: &Arc<Core>, batch: &[u8], origin: BatchOrigin, numbered_by: Origin) -> Result<Placement> {
    with_buffers(|buffers| {
        let rules = core.rules();
        // Offset and epoch are outside the checksum: they are stamped when they are known.
        let now = core.context.clock.now();
        let stamp = Stamp { first_offset: Offset::ZERO, leader_epoch: LeaderEpoch(0), now };
        let Buffers { validator, stored, .. } = buffers;
        let validated = validator.validate(batch, &rules.for_foreign(origin), &stamp, stored)?;
        rules.check_len(stored.len())?;
        core.admit(Admission::IfSpace, stored.len() as u64)?;
        core.append_batch(stored, validated.header, None, numbered_by)
    })
}

impl Core {
    pub(crate) fn rules(&self) -> AppendRules {
        AppendRules::of(&self.config.read())
    }

    fn admit(&self, admission: Admission, len: u64) -> Result<()> {
        let context = &self.context;
        match admission {
            Admission::IfSpace => context.space.admit(context.disk(), &context.observer, len),
            Admission::Always => Ok(()),
        }
    }

    /// Adds a record to the open batch, if it is that simple. What is done here is what every append costs.
    #[inline]
    fn join(&self, record: &Record<'_>, sender: Sender) -> Joined {
        if !self.stages {
            return Joined::NOT;
        }
        let now = self.context.clock.now();
        // Nothing is reported from here, so the bare lock will do.
        let mut writer = self.writer.lock();
        let is_stopped = self.has_stopped() || self.context.closing.load(Ordering::Relaxed) || !writer.takes_appends;
        if is_stopped || self.context.space.is_low() {
            return Joined::NOT;
        }
        if writer.rules.check(record, 0, now).is_err() {
            return Joined::NOT;
        }
        let timestamp = writer.rules.time_of(record, now);
        let Ok(Some(offset)) = writer.join(record, sender, timestamp) else { return Joined::NOT };
        let raised = self.raise_end(offset + 1);
        drop(writer);
        drop(raised);
        Joined { offset, timestamp }
    }

    /// Appends a record: staged, as the first of a batch if need be, or else as a batch of its own; `None` if that is to
    /// be compressed.
    fn append_plain(&self, record: &Record<'_>, sender: Sender, now: Timestamp) -> Result<Option<Placement>> {
        let len = record.len_alone_at_most();
        // So much more may join before this is asked again.
        let joining = if self.stages { u64::from(self.context.pool.layout().batch_len) } else { 0 };
        self.admit(Admission::IfSpace, len + joining)?;
        let mut writer = self.lock();
        self.check_open()?;
        self.check_leads(&writer)?;
        writer.rules.check(record, 0, now)?;
        if len > writer.rules.max_batch_bytes {
            // Whoever makes a batch of it says what is wrong, before anything is changed.
            return Ok(None);
        }
        writer.begin(self).map_err(|failure| self.fail(failure))?;
        let offset = writer.end;
        let end = offset.checked_add(1).ok_or(Error::OffsetsExhausted { end: offset, count: 1 })?;
        let at = writer.rules.time_of(record, now);
        let staged = if self.stages { writer.stage_record(self, record, sender, at) } else { Ok(false) };
        let is_placed = match staged {
            Ok(false) => writer.write_record(self, record, sender, at),
            staged => staged,
        };
        if !is_placed.map_err(|failure| self.fail(failure))? {
            return Ok(None);
        }
        self.assign_epoch(&mut writer, offset);
        let sync_now = writer.config.flush_messages <= writer.unsynced_records as i64;
        let (raised, cuts) = (self.raise_end(end), self.cuts());
        drop(writer);
        // Before the sync: what is appended can be read.
        drop(raised);
        if sync_now {
            self.sync_to(end).map_err(|error| self.not_synced(offset, &error))?;
        }
        Ok(Some(Placement::one(offset, at, cuts)))
    }

    /// Notes under which epoch the record at `offset` was appended, if it is a new one.
    pub(super) fn assign_epoch(&self, writer: &mut Writer, offset: Offset) {
        let epoch = writer.epoch;
        if writer.followed.epochs.assign(epoch, offset) {
            self.publish_epoch(epoch);
            // Derived from the batches, so an append does not fail for it.
            let _ = writer.followed.store_epochs(&self.context, &self.dir);
        }
    }

    /// Refuses if the partition stopped, or the log is closing.
    pub(crate) fn check_open(&self) -> Result<()> {
        self.check()?;
        match self.context.closing.load(Ordering::Acquire) {
            true => Err(Error::Closed),
            false => Ok(()),
        }
    }

    /// Gives an encoded batch its place at the end of the log.
    pub(super) fn append_batch(
        &self,
        batch: &mut [u8],
        header: BatchHeader,
        expected_end: Option<Offset>,
        origin: Origin,
    ) -> Result<Placement> {
        let (placement, sync_now, raised) = self.append_locked(batch, header, expected_end, origin)?;
        // Before the sync: what is appended can be read.
        drop(raised);
        if sync_now {
            self.sync_to(placement.last_offset + 1).map_err(|error| self.not_synced(placement.offset, &error))?;
        }
        Ok(placement)
    }

    /// The part under the append lock.
    fn append_locked(
        &self,
        batch: &mut [u8],
        mut header: BatchHeader,
        expected_end: Option<Offset>,
        origin: Origin,
    ) -> Result<(Placement, bool, Option<Raised<'_>>)> {
        let mut writer = self.lock();
        self.check_open()?;
        self.check_leads(&writer)?;
        // The settings may have changed since the batch was made.
        let (len, limit) = (batch.len() as u64, writer.config.max_batch_bytes());
        if len > limit {
            return Err(Error::BatchTooLarge { len, limit });
        }
        writer.begin(self).map_err(|failure| self.fail(failure))?;
        let end = writer.end;
        if let Some(expected) = expected_end.filter(|expected| *expected != end) {
            probe::reached("append.end_mismatch");
            return Err(Error::EndMismatch { expected, actual: end });
        }
        header.base_offset = end;
        header.leader_epoch = writer.epoch;
        if header.producer_id.is_some() {
            writer.complete_sender();
        }
        if header.producer_id.is_some() && origin == Origin::Local {
            header.base_sequence = writer.followed.producers.next_sequence(Sender::of(&header))?;
            header = header.seal(batch);
        }
        let marker = if header.attributes.is_control() { control_of(batch, end)? } else { None };
        if let Some(marker) = &marker {
            writer.followed.producers.check_marker(marker, origin)?;
        } else if let Checked::Duplicate(placed) =
            writer.followed.producers.check(&producer_batch(&header), origin)?
        {
            probe::reached("append.duplicate");
            let (offset, last_offset) = (placed.base_offset, placed.last_offset);
            let (timestamp, cuts) = (placed.timestamp, self.cuts());
            let placement = Placement { offset, last_offset, timestamp, is_duplicate: true, cuts };
            return Ok((placement, writer.config.sync_rule() == Durability::Each, None));
        }
        let count = header.last_offset_delta as u64 + 1;
        end.checked_add(count).ok_or(Error::OffsetsExhausted { end, count })?;
        stamp(batch, end, writer.epoch);
        self.place(&mut writer, batch, &header).map_err(|failure| self.fail(failure))?;
        writer.followed.apply(&header, marker);
        if header.producer_id.is_some() {
            self.committed_at_once(&mut writer, header.next_offset());
            self.publish_transactions(&writer);
        }
        let sync_now = writer.config.flush_messages <= writer.unsynced_records as i64;
        self.assign_epoch(&mut writer, end);
        let raised = self.raise_end(writer.end);
        let placement = Placement {
            offset: end,
            last_offset: header.last_offset(),
            timestamp: header.max_timestamp,
            is_duplicate: false,
            cuts: self.cuts(),
        };
        drop(writer);
        Ok((placement, sync_now, Some(raised)))
    }

    /// Where no other node is asked, what is appended is committed.
    pub(super) fn committed_at_once(&self, writer: &mut Writer, end: Offset) {
        if !self.context.is_replicated {
            writer.followed.producers.committed_to(end);
        }
    }

    /// Puts a stamped batch behind everything else: into the slot if it is small, else into the file.
    pub(super) fn place(&self, writer: &mut Writer, batch: &[u8], header: &BatchHeader) -> Result<(), Failure> {
        writer.seal(self)?;
        if writer.stage_batch(self, batch, header)? {
            return Ok(());
        }
        writer.write_alone(self, batch, header)
    }

    pub(crate) fn not_synced(&self, offset: Offset, error: &Error) -> Error {
        Error::NotSynced { partition: self.id.clone(), offset, reason: error.to_string().into() }
    }
}

/// The marker in a control batch that is to be placed at `offset`.
fn control_of(batch: &[u8], offset: Offset) -> Result<Option<Marker>> {
    let verified = BatchRef::verify(batch)
        .map_err(|invalid| Error::InvalidBatch { reason: invalid.what, position: invalid.at })?;
    Ok(marker_of(&verified).map(|marker| Marker { offset, ..marker }))
}
