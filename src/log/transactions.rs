//! Transactions: who holds a transactional id, and what is done in its name.
//!
//! Each id has a *seat*, and the holder of it is who took it last. Records of a transaction go to their partitions as they
//! come, marked as its own, so that nobody who reads committed data sees them. What becomes of them is decided once:
//!
//! ```text
//! written   data --> decision --> marker in each partition         survives the death of the process
//! synced    data, synced --> decision, synced --> marker in each   survives a power cut
//! ```
//!
//! So nobody sees a transaction that was to be durable before it is. Of one in a single partition that is only written, the
//! marker is decision enough. An abort needs none: a transaction that is found open and undecided is aborted.
//!
//! Invariants:
//! - Between decision and markers a crash may come anywhere: the next open writes the markers that are missing.
//! - A decision is replaced by the next record of its id only once its markers are durable, if it is itself.
//! - No transaction begins while one before it of the same id is open anywhere: its records would be taken for that one's.
//!
//! Order of locks: the list of seats, the seat, then those of the log in their order. Only a backup holds several seats.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

mod foreign;
mod open;
mod settle;

use super::names::TRANSACTIONS_TOPIC;
use super::topic::TopicState;
use super::{Group, Inner, Log, TopicRead};
use crate::config::{Cleanup, Compression, Durability, TopicConfig};
use crate::error::{Error, Result};
use crate::group::{Caller, GroupOffset, OffsetCommit, TransactionProducer, partition_for_group};
use crate::observe::{Later, Quiet};
use crate::partition::core::Core;
use crate::partition::{Ack, Admission, Placement, append_one};
use crate::probe;
use crate::record::{Record, Sender, TopicRecord};
use crate::txn::{Coordinator, Extent, Key, Span, State, Status, Ticket, check_transactional_id};
use crate::types::{Offset, ProducerId, TopicPartition};

/// What a log knows of transactional ids.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    coordinator: Mutex<Coordinator>,
    seats: Mutex<BTreeMap<Box<str>, Arc<Seat>>>,
    /// Whether the open left transactions that are still to be ended: the disk was full. Nobody takes a seat until they are.
    has_left: Mutex<bool>,
    /// When maintenance comes by at the latest, in milliseconds by the monotonic clock.
    looks_at: AtomicU64,
}

impl Transactions {
    pub(super) fn last_producer(&self, below: ProducerId) -> Option<ProducerId> {
        self.coordinator.lock().last_producer(below)
    }
}

/// A transactional id, and who holds it.
#[derive(Debug)]
pub(crate) struct Seat {
    id: Box<str>,
    key: Vec<u8>,
    work: Mutex<Work>,
}

/// What is going on in the name of an id.
#[derive(Debug)]
struct Work {
    /// The partition of `__transaction_state` that the id belongs to.
    core: Arc<Core>,
    /// As the last holder took it; none of a seat that was only prepared for.
    state: Option<State>,
    current: Option<Current>,
    /// How many transactions were begun.
    count: u64,
    /// Where markers were written that may not be durable, and up to where.
    markers: Vec<(Arc<Core>, Offset)>,
    /// Whether a decision is durable whose markers may not be.
    is_decided_durably: bool,
    /// Transactions whose outcome is known and not told everywhere.
    untold: Vec<Untold>,
}

/// The transaction that is open.
#[derive(Debug)]
struct Current {
    number: u64,
    began: Duration,
    phase: Phase,
    parts: Vec<Part>,
    /// What must be durable before the offsets that groups commit in it.
    below: Vec<(Arc<Core>, Offset)>,
    /// Which groups commit offsets in it, and for which partitions.
    groups: BTreeMap<Box<str>, BTreeSet<TopicPartition>>,
}

#[derive(Debug)]
enum Phase {
    Open,
    /// Until somebody says by its ticket what becomes of it.
    Prepared(Ticket),
    /// Its decision was written, and may be durable or not.
    Doubtful(Box<str>),
}

/// A partition that a transaction wrote to.
#[derive(Debug, Clone)]
struct Part {
    core: Arc<Core>,
    first: Offset,
    end: Offset,
}

impl Part {
    fn span(&self) -> Span {
        let (topic, partition) = (Arc::clone(&self.core.id.topic), self.core.id.partition);
        Span { topic, partition, extent: Extent { topic: self.core.topic, first: self.first, end: self.end } }
    }
}

/// An outcome that some partitions do not know yet.
#[derive(Debug)]
struct Untold {
    parts: Vec<Part>,
    is_commit: bool,
}

/// Who took an id, and what they do with it. Fenced as soon as another takes it.
#[derive(Debug)]
pub(crate) struct Holder {
    log: Log,
    seat: Arc<Seat>,
    sender: Sender,
}

impl Log {
    /// Takes a transactional id away from whoever held it.
    pub(crate) fn take_seat(&self, id: &str, timeout: Duration) -> Result<Holder> {
        let inner = &self.opened.inner;
        inner.check_open()?;
        check_transactional_id(id)?;
        inner.check_alone("a transaction of a log that is replicated")?;
        if inner.context.read_only {
            return Err(Error::ReadOnly);
        }
        let seat = inner.seat(id)?;
        let sender = inner.sit(&seat, timeout)?;
        Ok(Holder { log: self.clone(), seat, sender })
    }

    /// An id for an idempotent producer that numbers its batches itself, and has them appended by
    /// [`Partition::append_raw`](crate::Partition::append_raw): each is stored once, however often it is sent, also to the next
    /// leader of a partition that is replicated. Its epoch is 0, and its first sequence. Given out once, ever. Kafka:
    /// `InitProducerId`.
    ///
    /// # Errors
    ///
    /// [`Error::NoProducerIds`] while a node of several waits for some from the controller: try again. [`Error::ReadOnly`],
    /// [`Error::Closed`], and those of the disk.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::record::{BatchBuilder, BatchOptions, Producer, Record};
    /// use chiplog::{Log, Offset, ProducerEpoch, Timestamp};
    ///
    /// let log = Log::open(dir.path())?;
    /// let id = log.new_producer_id()?;
    /// let producer = Producer { id, epoch: ProducerEpoch(0), base_sequence: 0, is_transactional: false };
    /// let mut builder = BatchBuilder::new();
    /// builder.begin(BatchOptions::default().producer(producer));
    /// builder.push(&Record::new("paid"), Timestamp(1_700_000_000_000))?;
    /// let batch = builder.finish()?.to_vec();
    ///
    /// let orders = log.topic("orders")?.partition(0)?;
    /// assert_eq!(orders.append_raw(&batch)?.offset(), Offset(0));
    /// assert_eq!(orders.append_raw(&batch)?.offset(), Offset(0), "sent again, and stored once");
    /// assert_eq!(orders.offsets().end, Offset(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new_producer_id(&self) -> Result<ProducerId> {
        let inner = &self.opened.inner;
        inner.check_open()?;
        match inner.context.read_only {
            true => Err(Error::ReadOnly),
            false => inner.new_producer_id(),
        }
    }

    /// An id for a producer without transactions.
    pub(crate) fn new_sender(&self) -> Result<Sender> {
        // What it had stored may be cut off, and it does not look.
        self.opened.inner.check_alone("an idempotent producer beside a log, of a log that is replicated,")?;
        let producer = self.new_producer_id()?;
        Ok(Sender { producer, epoch: crate::types::ProducerEpoch(0), is_transactional: false })
    }

    /// Refuses a partition of another log, or of a topic of the log's own.
    pub(crate) fn check_own(&self, core: &Core) -> Result<()> {
        core.check_external()?;
        match Arc::ptr_eq(&core.context, &self.opened.inner.context) {
            true => Ok(()),
            false => Err(Error::TopicNotFound { topic: (*core.id.topic).into() }),
        }
    }

    /// The partition that a record belongs to, of a topic that is created if there is none.
    pub(crate) fn choose(&self, record: &TopicRecord<'_>) -> Result<Arc<Core>> {
        let inner = &self.opened.inner;
        let topic = inner.topic_or_create(record.topic, inner.default_config)?;
        let core = topic.choose(&record.record)?;
        core.check_external()?;
        Ok(core)
    }
}

impl Holder {
    pub(crate) fn id(&self) -> &str {
        &self.seat.id
    }

    pub(crate) fn sender(&self) -> Sender {
        self.sender
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    fn inner(&self) -> &Inner {
        &self.log.opened.inner
    }

    /// Begins a transaction and returns its number.
    pub(crate) fn begin(&self) -> Result<u64> {
        let inner = self.inner();
        inner.check_open()?;
        let mut work = Quiet::lock(&self.seat.work);
        self.check(&work)?;
        inner.clear(&mut work, self.sender.producer)?;
        work.count += 1;
        let number = work.count;
        let began = inner.context.clock.monotonic();
        inner.expect_by(began.saturating_add(work.timeout()));
        work.current = Some(Current {
            number,
            began,
            phase: Phase::Open,
            parts: Vec::new(),
            below: Vec::new(),
            groups: BTreeMap::new(),
        });
        Ok(number)
    }

    /// Appends a record as one of the transaction's to the partition it belongs to, which is made if there is none: not for who
    /// has no transaction.
    pub(crate) fn send(&self, number: u64, record: &TopicRecord<'_>) -> Result<(Arc<Core>, Placement)> {
        let mut work = Quiet::lock(&self.seat.work);
        self.check(&work)?;
        let current = work.open(number, self.sender)?;
        let core = self.log.choose(record)?;
        let placed = current.append(&core, &record.record, self.sender)?;
        Ok((core, placed))
    }

    /// Appends a record to a partition as one of the transaction's.
    pub(crate) fn append(&self, number: u64, core: &Arc<Core>, record: &Record<'_>) -> Result<Placement> {
        let mut work = Quiet::lock(&self.seat.work);
        self.check(&work)?;
        work.open(number, self.sender)?.append(core, record, self.sender)
    }

    /// Commits offsets of a group together with the transaction, for a member or for who is none, who has read these topics.
    pub(crate) fn commit_offsets(
        &self,
        number: u64,
        group: &Group,
        caller: Caller,
        offsets: &[GroupOffset<'_>],
        read: &[TopicRead],
    ) -> Result<()> {
        let inner = self.inner();
        group.check_of(inner)?;
        if offsets.is_empty() {
            return Ok(());
        }
        let mut work = Quiet::lock(&self.seat.work);
        self.check(&work)?;
        let current = work.open(number, self.sender)?;
        let mut commit = OffsetCommit::of(group.id(), caller, offsets, &inner.group_config)?;
        commit.transaction = Some(TransactionProducer { id: self.sender.producer, epoch: self.sender.epoch });
        let Some(waiting) = inner.commit_in_transaction(commit, read)? else { return Ok(()) };
        current.add(&waiting.core, waiting.placed.offset, waiting.placed.last_offset + 1);
        inner.cores_below(offsets).into_iter().for_each(|(core, end)| raise(&mut current.below, &core, end));
        current.groups.entry(group.id().into()).or_default().extend(waiting.partitions);
        Ok(())
    }

    pub(crate) fn commit(&self, number: u64, ack: Ack) -> Result<()> {
        let mut work = Quiet::lock(&self.seat.work);
        self.check(&work)?;
        work.open(number, self.sender)?;
        self.inner().commit(&self.seat, &mut work, self.sender.producer, ack)
    }

    pub(crate) fn abort(&self, number: u64) -> Result<()> {
        let mut work = Quiet::lock(&self.seat.work);
        self.check(&work)?;
        work.open(number, self.sender)?;
        self.inner().abort(&mut work, self.sender.producer)
    }

    pub(crate) fn prepare(&self, number: u64) -> Result<Ticket> {
        let mut work = Quiet::lock(&self.seat.work);
        self.check(&work)?;
        work.open(number, self.sender)?;
        self.inner().prepare(&self.seat, &mut work, self.sender.producer)
    }

    /// Refuses who does not hold the id any more.
    fn check(&self, work: &Work) -> Result<()> {
        let current = work.state.as_ref().map(|state| (state.producer, state.epoch));
        if current == Some((self.sender.producer, self.sender.epoch)) || probe::planted("transactions.not_fenced") {
            return Ok(());
        }
        probe::reached("transactions.fenced");
        let current = current.map_or(self.sender.epoch, |(_, epoch)| epoch);
        Err(Error::ProducerFenced { producer: self.sender.producer, epoch: self.sender.epoch, current })
    }
}

impl Work {
    /// How long a transaction of the holder may stay open.
    fn timeout(&self) -> Duration {
        let ms = self.state.as_ref().map_or(i32::MAX, |state| state.timeout_ms);
        Duration::from_millis(ms.max(0).unsigned_abs().into())
    }

    /// The transaction of this number, if it is open.
    fn open(&mut self, number: u64, sender: Sender) -> Result<&mut Current> {
        let is_this = |current: &&mut Current| current.number == number && matches!(current.phase, Phase::Open);
        let reason = "it took longer than its time-out, or another holder of its id ended it: it was aborted";
        self.current.as_mut().filter(is_this).ok_or(Error::InvalidTransaction { producer: sender.producer, reason })
    }

    /// Remembers that a marker in `core` below `end` may not be durable.
    fn note_marker(&mut self, core: &Arc<Core>, end: Offset) {
        raise(&mut self.markers, core, end);
    }
}

/// Notes that `core` is to be durable up to `end`, too.
fn raise(ends: &mut Vec<(Arc<Core>, Offset)>, core: &Arc<Core>, end: Offset) {
    match ends.iter_mut().find(|(known, _)| Arc::ptr_eq(known, core)) {
        Some((_, known)) => *known = end.max(*known),
        None => ends.push((Arc::clone(core), end)),
    }
}

impl Current {
    fn append(&mut self, core: &Arc<Core>, record: &Record<'_>, sender: Sender) -> Result<Placement> {
        let appended = append_one(core, record, sender);
        match &appended {
            Ok(placed) => self.add(core, placed.offset, placed.last_offset + 1),
            // It is there all the same.
            Err(Error::NotSynced { offset, .. }) => self.add(core, *offset, *offset + 1),
            Err(_) => {}
        }
        appended
    }

    fn add(&mut self, core: &Arc<Core>, first: Offset, end: Offset) {
        match self.parts.iter_mut().find(|part| Arc::ptr_eq(&part.core, core)) {
            Some(part) => part.end = end,
            None => self.parts.push(Part { core: Arc::clone(core), first, end }),
        }
    }
}

impl Inner {
    /// Does something while no transaction is half way: nothing is appended, decided or ended in one meanwhile.
    pub(super) fn between_transactions<R>(&self, work: impl FnOnce() -> R) -> R {
        let _later = Later::begin();
        let seats = self.transactions.seats.lock();
        let _held: Vec<_> = seats.values().map(|seat| seat.work.lock()).collect();
        work()
    }

    /// The seat of an id, which is made if there is none.
    fn seat(&self, id: &str) -> Result<Arc<Seat>> {
        if let Some(seat) = self.transactions.seats.lock().get(id) {
            return Ok(Arc::clone(seat));
        }
        let topic = self.topic_or_create(TRANSACTIONS_TOPIC, self.transactions_config)?;
        let seat = self.new_seat(id, &topic)?;
        let mut seats = self.transactions.seats.lock();
        Ok(Arc::clone(seats.entry(id.into()).or_insert_with(|| Arc::new(seat))))
    }

    fn new_seat(&self, id: &str, topic: &TopicState) -> Result<Seat> {
        let count = topic.partitions.read().len() as u32;
        let core = topic.core(partition_for_group(id, count))?;
        let key = Key::encode(id).ok_or(Error::InvalidTransactionalId { id: id.into(), reason: "it is too long" })?;
        let mut work = Work {
            core,
            state: None,
            current: None,
            count: 0,
            markers: Vec::new(),
            is_decided_durably: false,
            untold: Vec::new(),
        };
        let state = self.transactions.coordinator.lock().state(id).cloned();
        for (topic, partition, _) in state.iter().flat_map(State::parts) {
            // Of a process before this one nobody knows which markers are durable.
            if let Ok(core) = self.find(topic).and_then(|topic| topic.core(partition)) {
                work.note_marker(&core, core.end());
            }
            work.is_decided_durably = true;
        }
        Ok(Seat { id: id.into(), key, work: Mutex::new(work) })
    }

    /// Gives a seat to a new holder.
    fn sit(&self, seat: &Seat, timeout: Duration) -> Result<Sender> {
        let mut work = Quiet::lock(&seat.work);
        self.settle_left()?;
        self.abort_open()?;
        self.check_readable(&seat.id, &work.core)?;
        let last = self.transactions.coordinator.lock().state(&seat.id).cloned();
        if let Some(last) = &last {
            self.clear(&mut work, last.producer)?;
            if last.status == Status::PrepareCommit {
                // What is damaged there may be mended, and then needs the decision.
                self.check_parts(last)?;
            }
        }
        // The record replaces the last decision, which whoever finds its markers missing needs.
        self.sync_markers(&mut work)?;
        let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        let now = self.context.clock.now();
        let state = Coordinator::begin(last.as_ref(), timeout_ms, now, || self.new_producer_id())?;
        let position = self.record(seat, &work, &state, Admission::IfSpace)?;
        work.core.sync_to(position + 1)?;
        let sender = Sender { producer: state.producer, epoch: state.epoch, is_transactional: true };
        self.transactions.coordinator.lock().take(&seat.id, state.clone(), position);
        work.state = Some(state);
        Ok(sender)
    }

    /// Refuses an id whose last record cannot be read: it may be a decision.
    fn check_readable(&self, id: &str, core: &Core) -> Result<()> {
        match self.transactions.coordinator.lock().is_unreadable(id) {
            true => {
                Err(Error::corrupt(&core.dir, 0, format!("the last record of transactional id {id:?} is unreadable")))
            }
            false => Ok(()),
        }
    }

    /// Refuses if a partition of a transaction is damaged.
    fn check_parts(&self, state: &State) -> Result<()> {
        for (topic, partition, extent) in state.parts() {
            // With a topic that was deleted went its part.
            let Ok(topic) = self.find(topic) else { continue };
            let is_this = extent.is_none_or(|extent| extent.topic == topic.id);
            if let Some(slot) = topic.partitions.read().get(partition as usize).filter(|_| is_this) {
                slot.core()?;
            }
        }
        Ok(())
    }

    /// Sees to it that maintenance comes by at `deadline`, on the monotonic clock.
    pub(super) fn expect_by(&self, deadline: Duration) {
        let deadline = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        if self.transactions.looks_at.load(Ordering::Relaxed) > deadline {
            self.transactions.looks_at.store(deadline, Ordering::Relaxed);
            self.context.doorbell.ring();
        }
    }

    /// Maintenance comes by again at `next`.
    pub(super) fn will_look_at(&self, next: Duration) {
        let next = u64::try_from(next.as_millis()).unwrap_or(u64::MAX);
        self.transactions.looks_at.store(next, Ordering::Relaxed);
    }

    /// Sees to it that nothing of an earlier transaction is open.
    fn clear(&self, work: &mut Work, producer: ProducerId) -> Result<()> {
        match work.current.as_ref().map(|current| &current.phase) {
            Some(Phase::Doubtful(reason)) => {
                return Err(Error::OutcomeUnknown { reason: reason.clone(), id: self.id_of(producer) });
            }
            Some(Phase::Prepared(_)) => {
                let reason = "a prepared transaction is to be committed or aborted first, by its ticket";
                return Err(Error::InvalidTransaction { producer, reason });
            }
            Some(Phase::Open) => self.abort(work, producer)?,
            None => {}
        }
        self.tell_rest(work, producer)
    }

    fn id_of(&self, producer: ProducerId) -> Box<str> {
        self.transactions.coordinator.lock().owner(producer).unwrap_or_default().into()
    }
}

/// The settings of the topic, as Kafka's coordinator chooses them.
pub(super) fn transactions_config() -> TopicConfig {
    TopicConfig::default()
        .partitions(1)
        .cleanup(Cleanup::Compact)
        .compression(Compression::Uncompressed)
        .segment_bytes(100 << 20)
        // Who needs a record to be durable waits for it; this makes the files those of a durable topic.
        .durability(Durability::Every { records: None, time: Some(Duration::from_secs(1)) })
}
