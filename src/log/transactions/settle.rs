//! How a transaction ends: by what is written, in which order, and what is made durable before what.

use std::sync::Arc;
use std::time::Duration;

use super::{Current, Part, Phase, Seat, Untold, Work};
use crate::error::{Error, ErrorKind, Result};
use crate::group::partition_for_group;
use crate::log::names::TRANSACTIONS_TOPIC;
use crate::log::{FirstError, Inner, Log};
use crate::observe::{Later, Quiet, tell};
use crate::partition::core::Core;
use crate::partition::{Ack, Admission, Ending, append_one, append_records};
use crate::probe;
use crate::record::{Record, Sender};
use crate::txn::{Span, State, Status, Ticket};
use crate::types::{Offset, ProducerId};

/// Why a transaction was not committed.
enum Failed {
    /// It is not, and will not be.
    Not(Error),
    /// Nobody knows.
    Unknown(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Not(error)
    }
}

impl Inner {
    /// Commits the transaction that is open.
    pub(super) fn commit(&self, seat: &Seat, work: &mut Work, producer: ProducerId, ack: Ack) -> Result<()> {
        let Some(mut current) = work.current.take() else { return Ok(()) };
        match self.try_commit(seat, work, producer, &current, ack) {
            Ok(()) => {
                self.tell_groups(&mut current);
                Ok(())
            }
            Err(Failed::Not(error)) => {
                work.current = Some(current);
                // What cannot be done now, maintenance does.
                let _ = self.abort(work, producer);
                Err(error)
            }
            Err(Failed::Unknown(error)) => {
                probe::reached("transactions.doubtful");
                let reason: Box<str> = error.to_string().into();
                if !probe::planted("transactions.doubt_forgotten") {
                    work.current = Some(Current { phase: Phase::Doubtful(reason.clone()), ..current });
                } else {
                    work.current = Some(current);
                    let _ = self.abort(work, producer);
                }
                Err(Error::OutcomeUnknown { id: seat.id.clone(), reason })
            }
        }
    }

    fn try_commit(
        &self,
        seat: &Seat,
        work: &mut Work,
        producer: ProducerId,
        current: &Current,
        ack: Ack,
    ) -> Result<(), Failed> {
        let (parts, ack) = (&current.parts, ack.alone());
        // Whatever is waited for: else a power cut could take the records and leave the offsets, and a group would pass over
        // what is appended in their place.
        self.sync_below_groups(current)?;
        match &parts[..] {
            // What was committed before is to be durable all the same.
            [] if ack == Ack::Synced => self.sync_markers(work).map_err(Failed::Not),
            [] => Ok(()),
            // A partition keeps a prefix of what was appended to it, so the marker is not there without the data.
            [part] if ack == Ack::Written => {
                let marker = self.end_alone(producer, part)?;
                marker.into_iter().for_each(|marker| work.note_marker(&part.core, marker + 1));
                Ok(())
            }
            _ => {
                match ack {
                    Ack::Synced => self.sync_data(work, current)?,
                    // Of one that is poisoned nobody knows what is on the disk.
                    Ack::Written | Ack::Replicated => parts
                        .iter()
                        .try_for_each(|part| unless_deleted(part.core.check().and_then(|()| no_more_than(part))))?,
                }
                self.decide(seat, work, Status::PrepareCommit, parts, None, ack)?;
                self.tell_parts(work, producer, parts.clone(), true);
                Ok(())
            }
        }
    }

    /// Commits a transaction in its only partition.
    fn end_alone(&self, producer: ProducerId, part: &Part) -> Result<Option<Offset>, Failed> {
        match self.end_part(producer, part, true) {
            Err(error) if may_reappear(&error) => {
                let revoked = self.end_part(producer, part, false);
                Err(if revoked.is_ok() { Failed::Not(error) } else { Failed::Unknown(error) })
            }
            ended => Ok(ended?),
        }
    }

    /// Makes durable what a decision that is to be durable rests on: the data, and the markers of decisions before it.
    fn sync_data(&self, work: &mut Work, current: &Current) -> Result<()> {
        if !probe::planted("transactions.data_not_synced") {
            for part in &current.parts {
                unless_deleted(no_more_than(part))?;
                sync(&part.core, part.end)?;
            }
        }
        self.sync_markers(work)
    }

    /// Makes durable what lies below the offsets that groups commit in the transaction.
    fn sync_below_groups(&self, current: &Current) -> Result<()> {
        if probe::planted("transactions.below_not_synced") {
            return Ok(());
        }
        current.below.iter().try_for_each(|(core, end)| sync(core, *end))
    }

    /// Makes the markers of earlier transactions durable: from here on their decisions are not needed.
    pub(super) fn sync_markers(&self, work: &mut Work) -> Result<()> {
        if !probe::planted("transactions.markers_not_synced") {
            for (core, end) in &work.markers {
                sync(core, *end)?;
            }
        }
        work.markers.clear();
        work.is_decided_durably = false;
        Ok(())
    }

    /// Writes down what becomes of a transaction. From when this returns it is so, whatever happens.
    fn decide(
        &self,
        seat: &Seat,
        work: &mut Work,
        status: Status,
        parts: &[Part],
        prepared: Option<Offset>,
        ack: Ack,
    ) -> Result<(State, Offset), Failed> {
        let Some(state) = &work.state else { return Err(Failed::Not(Error::Closed)) };
        let spans: Vec<Span> = parts.iter().map(Part::span).collect();
        let state = state.with(status, &spans, prepared, self.context.clock.now());
        if work.is_decided_durably {
            self.sync_markers(work)?;
        }
        if probe::planted("transactions.markers_first") {
            let producer = state.producer;
            parts.iter().for_each(|part| drop(self.end_part(producer, part, status == Status::PrepareCommit)));
        }
        let position = match self.record(seat, work, &state, Admission::IfSpace) {
            Ok(position) => position,
            Err(error @ Error::NotSynced { .. }) => return Err(Failed::Unknown(error)),
            Err(error) if may_reappear(&error) => {
                // With another record in its place, it does not. What was prepared is prepared still.
                let status = if prepared.is_some() { Status::Ongoing } else { Status::PrepareAbort };
                let revoked = State { status, ..state };
                let Ok(position) = self.record(seat, work, &revoked, Admission::IfSpace) else {
                    return Err(Failed::Unknown(error));
                };
                if prepared.is_some() {
                    self.transactions.coordinator.lock().take(&seat.id, revoked, position);
                }
                return Err(Failed::Not(error));
            }
            Err(error) => return Err(Failed::Not(error)),
        };
        if ack == Ack::Synced && !probe::planted("transactions.decision_not_synced") {
            work.core.sync_to(position + 1).map_err(Failed::Unknown)?;
            work.is_decided_durably = true;
        }
        Ok((state, position))
    }

    /// Appends the record of an id, and returns where it is.
    pub(super) fn record(&self, seat: &Seat, work: &Work, state: &State, admission: Admission) -> Result<Offset> {
        let value = state.encode().ok_or(Error::Unsupported { what: "a partition number above 2^31" })?;
        let record = Record { key: Some(&seat.key), value: Some(&value), ..Record::default() };
        let placed = match admission {
            Admission::IfSpace => append_one(&work.core, &record, Sender::NONE),
            Admission::Always => append_records(&work.core, admission, Sender::NONE, None, [record]),
        };
        placed.map(|placed| placed.offset)
    }

    /// Aborts the transaction that is open.
    pub(super) fn abort(&self, work: &mut Work, producer: ProducerId) -> Result<()> {
        let Some(current) = work.current.take() else { return Ok(()) };
        self.tell_parts(work, producer, current.parts, false);
        self.tell_rest(work, producer)
    }

    /// Writes the markers of a decided transaction. Those that cannot be written are left for later: it is decided.
    fn tell_parts(&self, work: &mut Work, producer: ProducerId, parts: Vec<Part>, is_commit: bool) {
        let mut left = Vec::new();
        for part in parts {
            match self.end_part(producer, &part, is_commit) {
                Ok(Some(marker)) => work.note_marker(&part.core, marker + 1),
                Ok(None) => {}
                // It is undecided for whoever opens the log next, and nothing can be added to it before.
                Err(Error::Poisoned { .. }) if !is_commit => {}
                Err(_) => left.push(part),
            }
        }
        if !left.is_empty() {
            probe::reached("transactions.untold");
            work.untold.push(Untold { parts: left, is_commit });
            // Somebody is to try again.
            self.context.doorbell.ring();
        }
    }

    /// Writes the markers that could not be written before.
    pub(super) fn tell_rest(&self, work: &mut Work, producer: ProducerId) -> Result<()> {
        let mut errors = FirstError::default();
        for mut untold in std::mem::take(&mut work.untold) {
            untold.parts.retain(|part| match self.end_part(producer, part, untold.is_commit) {
                Ok(marker) => {
                    marker.into_iter().for_each(|marker| work.note_marker(&part.core, marker + 1));
                    false
                }
                // See above.
                Err(Error::Poisoned { .. }) if !untold.is_commit => false,
                Err(error) => {
                    errors.keep::<()>(Err(error));
                    true
                }
            });
            if !untold.parts.is_empty() {
                work.untold.push(untold);
            }
        }
        errors.into_result()
    }

    /// Ends a transaction in one partition, and returns where the marker is; `None` if it is not open there.
    fn end_part(&self, producer: ProducerId, part: &Part, is_commit: bool) -> Result<Option<Offset>> {
        let ending = Ending { producer, first: part.first, is_commit, fences: false };
        match self.end_in(&part.core, &ending) {
            // With the topic went the transaction.
            Err(Error::TopicDeleted { .. }) => Ok(None),
            ended => ended,
        }
    }

    fn tell_groups(&self, current: &mut Current) {
        for (group, partitions) in std::mem::take(&mut current.groups) {
            let count = partitions.len();
            tell(&self.context.observer, move |observer| observer.offsets_committed(&group, count));
        }
    }

    /// Makes the transaction that is open durable, and leaves what becomes of it to who has the ticket.
    pub(super) fn prepare(&self, seat: &Seat, work: &mut Work, producer: ProducerId) -> Result<Ticket> {
        let Some(current) = work.current.take() else { return Err(Error::Closed) };
        let prepared = self
            .sync_below_groups(&current)
            .and_then(|()| self.sync_data(work, &current))
            .map_err(Failed::Not)
            .and_then(|()| self.decide(seat, work, Status::Ongoing, &current.parts, None, Ack::Synced));
        match prepared {
            Ok((state, position)) => {
                probe::reached("transactions.prepared");
                let ticket = Ticket { id: seat.id.clone(), producer, epoch: state.epoch, position };
                self.transactions.coordinator.lock().take(&seat.id, state, position);
                work.current = Some(Current { phase: Phase::Prepared(ticket.clone()), ..current });
                Ok(ticket)
            }
            Err(Failed::Not(error)) => {
                work.current = Some(current);
                let _ = self.abort(work, producer);
                Err(error)
            }
            Err(Failed::Unknown(error)) => {
                let reason: Box<str> = error.to_string().into();
                work.current = Some(Current { phase: Phase::Doubtful(reason.clone()), ..current });
                Err(Error::OutcomeUnknown { id: seat.id.clone(), reason })
            }
        }
    }

    fn end_prepared(&self, ticket: &Ticket, is_commit: bool) -> Result<()> {
        self.check_open()?;
        if self.context.read_only {
            return Err(Error::ReadOnly);
        }
        self.settle_left()?;
        let seat = self.transactions.seats.lock().get(&ticket.id).map(Arc::clone);
        let not_prepared = || Error::NotPrepared { ticket: ticket.to_string().into() };
        let Some(seat) = seat else {
            let decided = self.transactions.coordinator.lock().decided(ticket);
            if decided.is_none()
                && let Ok(topic) = self.find(TRANSACTIONS_TOPIC)
            {
                // That nothing is known of it does not mean that it is not prepared.
                let count = topic.partitions.read().len() as u32;
                self.check_readable(&ticket.id, &*topic.core(partition_for_group(&ticket.id, count))?)?;
            }
            return if decided == Some(is_commit) { Ok(()) } else { Err(not_prepared()) };
        };
        let mut work = Quiet::lock(&seat.work);
        let is_this = |current: &Current| matches!(&current.phase, Phase::Prepared(prepared) if prepared == ticket);
        match &work.current {
            Some(current) if is_this(current) => {}
            Some(Current { phase: Phase::Doubtful(reason), .. }) => {
                return Err(Error::OutcomeUnknown { id: seat.id.clone(), reason: reason.clone() });
            }
            // Who asks again gets the same answer.
            _ if self.transactions.coordinator.lock().decided(ticket) == Some(is_commit) => return Ok(()),
            _ => return Err(not_prepared()),
        }
        let status = if is_commit { Status::PrepareCommit } else { Status::PrepareAbort };
        let parts = work.current.as_ref().map(|current| current.parts.clone()).unwrap_or_default();
        if let Some(state) = work.state.as_ref().filter(|_| is_commit) {
            // A part of it would be missing, perhaps for good.
            self.check_parts(state)?;
        }
        match self.decide(&seat, &mut work, status, &parts, Some(ticket.position), Ack::Synced) {
            Ok((state, position)) => self.transactions.coordinator.lock().take(&seat.id, state, position),
            Err(Failed::Not(error)) => return Err(error),
            Err(Failed::Unknown(error)) => {
                let reason: Box<str> = error.to_string().into();
                if let Some(current) = &mut work.current {
                    current.phase = Phase::Doubtful(reason.clone());
                }
                return Err(Error::OutcomeUnknown { id: seat.id.clone(), reason });
            }
        }
        self.tell_parts(&mut work, ticket.producer, parts, is_commit);
        if let Some(mut current) = work.current.take().filter(|_| is_commit) {
            self.tell_groups(&mut current);
        }
        Ok(())
    }

    /// Aborts transactions that took longer than their time-outs, and writes markers that could not be written before.
    /// Returns how long until there is something to do again.
    pub(in crate::log) fn tend_transactions(&self) -> (Option<Duration>, Result<()>) {
        let mut errors = FirstError::default();
        let mut next = None::<Duration>;
        let seats: Vec<Arc<Seat>> = self.transactions.seats.lock().values().map(Arc::clone).collect();
        let now = self.context.clock.monotonic();
        for seat in seats {
            let _later = Later::begin();
            let Some(mut work) = seat.work.try_lock() else {
                // Somebody is at work: it is not idle, and this comes by again.
                next = Some(next.map_or(RETRY, |next| next.min(RETRY)));
                continue;
            };
            let Some(producer) = work.state.as_ref().map(|state| state.producer) else { continue };
            let timeout = work.timeout();
            if let Some(current) = work.current.as_ref().filter(|current| matches!(current.phase, Phase::Open)) {
                let waited = now.saturating_sub(current.began);
                if waited >= timeout && !probe::planted("transactions.no_timeout") {
                    probe::reached("transactions.timed_out");
                    errors.keep(self.abort(&mut work, producer));
                } else {
                    let left = timeout.saturating_sub(waited);
                    next = Some(next.map_or(left, |next| next.min(left)));
                }
            }
            errors.keep(self.tell_rest(&mut work, producer));
            if !work.untold.is_empty() {
                next = Some(next.map_or(RETRY, |next| next.min(RETRY)));
            }
        }
        (next, errors.into_result())
    }
}

impl Log {
    /// The transactions that are prepared, and wait for [`commit_prepared`](Self::commit_prepared) or
    /// [`abort_prepared`](Self::abort_prepared), by transactional id. To be asked for after an open: see
    /// [`Transaction::prepare`](crate::Transaction::prepare).
    ///
    /// # Errors
    ///
    /// [`Error::Closed`]; and if the log was opened on a full disk, until there is space, those of a sync: what was found
    /// decided may not be durable.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// let log = chiplog::Log::open(dir.path())?;
    /// assert!(log.prepared()?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn prepared(&self) -> Result<Vec<Ticket>> {
        let inner = &self.opened.inner;
        inner.check_open()?;
        inner.settle_left()?;
        Ok(inner.transactions.coordinator.lock().prepared().collect())
    }

    /// Commits a prepared transaction. Survives a power cut when this returns, as all of its records do. Asked again, this
    /// does nothing, until somebody takes the transactional id, or another transaction of it is decided or prepared: from then
    /// on the ticket is one that nothing is known of.
    ///
    /// # Errors
    ///
    /// - [`Error::NotPrepared`] if none is prepared under this ticket.
    /// - [`Error::OutcomeUnknown`] if the decision may not be durable: reopen the log and ask again.
    /// - [`Error::Io`], [`Error::LowSpace`], [`Error::Poisoned`]: it is still prepared.
    /// - [`Error::Corrupt`], or another error that an open found, if one of its partitions cannot be used: it is still
    ///   prepared. If the decisions on its transactional id cannot be read, it may be.
    /// - [`Error::ReadOnly`], [`Error::Closed`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Isolation, Log, Offset, ReadOptions, Record};
    ///
    /// let log = Log::open(dir.path())?;
    /// let mut producer = log.producer().transactional("billing-1")?;
    /// let mut transaction = producer.begin()?;
    /// transaction.send(Record::new("invoice").to("invoices"))?;
    /// let ticket = transaction.prepare()?;
    /// // Store `ticket.to_string()` in the database, in the transaction there, and commit that.
    /// log.commit_prepared(&ticket)?;
    /// log.commit_prepared(&ticket)?; // after a crash in between, say
    ///
    /// let committed = ReadOptions::default().isolation(Isolation::Committed);
    /// let records = log.topic("invoices")?.partition(0)?.read_with(Offset::ZERO, committed)?;
    /// assert_eq!(records.iter().count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn commit_prepared(&self, ticket: &Ticket) -> Result<()> {
        self.opened.inner.end_prepared(ticket, true)
    }

    /// Aborts a prepared transaction, as [`commit_prepared`](Self::commit_prepared) commits it.
    ///
    /// # Errors
    ///
    /// As for [`commit_prepared`](Self::commit_prepared).
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
    /// let ticket = transaction.prepare()?;
    /// drop((producer, log)); // the process ends here
    ///
    /// let log = Log::open(dir.path())?;
    /// assert_eq!(log.prepared()?, [ticket.clone()]);
    /// log.abort_prepared(&ticket)?; // the database does not know it
    /// assert!(log.prepared()?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn abort_prepared(&self, ticket: &Ticket) -> Result<()> {
        self.opened.inner.end_prepared(ticket, false)
    }
}

/// Makes a partition durable up to `end`. With a topic that was deleted went what was to be durable.
pub(super) fn sync(core: &Core, end: Offset) -> Result<()> {
    unless_deleted(core.sync_to(end))
}

/// Sees to it that what the producer was told is not in the transaction is not found in it by the next open.
fn no_more_than(part: &Part) -> Result<()> {
    match probe::planted("transactions.failed_append_counts") {
        true => Ok(()),
        false => part.core.cut_what_failed(),
    }
}

fn unless_deleted(done: Result<()>) -> Result<()> {
    match done {
        Err(Error::TopicDeleted { .. }) => Ok(()),
        done => done,
    }
}

/// Whether what could not be written may be found by the next open all the same, unless something else is written there
/// before: a write that failed, and what it left could not be cut off.
fn may_reappear(error: &Error) -> bool {
    matches!(error, Error::Io { .. }) && error.kind() != ErrorKind::Full
}

/// How long until a marker that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);
