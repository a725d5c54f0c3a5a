//! What waits for one partition: the batch that is filled, those that are full, and those that were appended and are not
//! durable yet.
//!
//! ```text
//! send                     append                          sync
//!   -> open --- full, or ---> closed --- in order, one ---> unsynced --- acks is ---> told
//!               lingered                 at a time                        Synced
//! ```
//!
//! Two locks. `state` is held for as long as a record is copied; `appending` while batches are appended, so that others go on
//! sending meanwhile. Who has `appending` may take `state`, and nobody the other way round. Neither is held while wakers or
//! callbacks are called: that is in `told.rs`.
//!
//! Invariants:
//! - Batches are appended in the order in which they were begun, records in that of their sends.
//! - A batch that the disk has no space for stays the first until it is appended or given up.
//! - Each batch is settled once, and its callbacks are called in the order of the batches.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

mod told;

pub(super) use self::told::FirstPanic;
use self::told::Untold;
use super::room::Buffer;
use super::sent::{AGAIN, Delivered, Fate, Place, Sent};
use super::shared::Common;
use crate::error::{Error, ErrorKind, Result};
use crate::log::Turns;
use crate::observe::Quiet;
use crate::partition::core::Core;
use crate::partition::{Ack, AppendRules, append_built};
use crate::probe;
use crate::record::{Record, TimestampType};
use crate::types::{Offset, Timestamp, TopicPartition};

/// What is called when the record is delivered, or cannot be.
pub(super) type Call = Box<dyn FnOnce(Result<Delivered>) + Send>;

// Threads that send to different partitions share no line of the cache.
#[repr(align(128))]
pub(super) struct Lane {
    pub(super) id: TopicPartition,
    common: Arc<Common>,
    turns: Arc<Turns>,
    /// When it has something to do, by the monotonic clock, in ns. A hint: whoever sets it holds `state`.
    due: AtomicU64,
    is_usable: AtomicBool,
    appending: Mutex<()>,
    state: Mutex<State>,
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lane {{ {} }}", self.id)
    }
}

#[derive(Default)]
struct State {
    /// Weak: a topic that is deleted holds files. Of nothing if it could not be opened.
    core: Weak<Core>,
    open: Option<Batch>,
    closed: VecDeque<Batch>,
    /// The fate of the one that is being appended.
    in_hand: Option<Arc<Fate>>,
    unsynced: VecDeque<Written>,
    untold: Untold,
    /// Not before then what failed is tried again.
    retry_at: Option<Duration>,
    sync_at: Duration,
    /// How much went here since the last turn of those that stick.
    given: usize,
}

/// Records that are not appended yet.
struct Batch {
    buffer: Buffer,
    /// How long it may become, in bytes.
    limit: usize,
    rules: AppendRules,
    fate: Arc<Fate>,
    calls: Vec<(Place, Call)>,
    since: Duration,
}

/// Records that are appended, and count when they are durable.
struct Written {
    core: Arc<Core>,
    base: Offset,
    end: Offset,
    appended_at: Option<Timestamp>,
    since: Duration,
    fate: Arc<Fate>,
    calls: Vec<(Place, Call)>,
}

/// How hard to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effort {
    /// What failed for lack of space waits until it is due again.
    Due,
    /// All is tried, now.
    Now,
    /// For the last time: what cannot be appended never will be.
    Last,
}

/// What an offered record came to.
pub(super) enum Step {
    /// It is in a batch, which is to be appended now, or at a time.
    Kept { sent: Sent, is_closed: bool, due: Option<Duration> },
    /// It did not fit: append what was closed, and offer it again.
    Full,
    /// So much room is needed for it.
    NoRoom(usize),
    /// The lane is that of another partition than the caller's, or of one that could not be opened.
    Gone,
}

impl Lane {
    pub(super) fn new(
        id: TopicPartition,
        core: Option<&Arc<Core>>,
        turns: &Arc<Turns>,
        common: &Arc<Common>,
    ) -> Arc<Self> {
        let is_usable = core.is_some_and(|core| !core.has_stopped());
        let core = core.map(Arc::downgrade).unwrap_or_default();
        Arc::new(Self {
            id,
            common: Arc::clone(common),
            turns: Arc::clone(turns),
            due: AtomicU64::new(u64::MAX),
            is_usable: AtomicBool::new(is_usable),
            appending: Mutex::new(()),
            state: Mutex::new(State { core, ..State::default() }),
        })
    }

    /// Adds a record to the batch that is open, if it fits there. `core` is the partition if the caller chose it.
    #[inline]
    pub(super) fn join(
        &self,
        core: Option<&Arc<Core>>,
        record: &Record<'_>,
        now: Timestamp,
        call: &mut Option<Call>,
    ) -> Result<Option<Sent>> {
        let mut state = self.state.lock();
        if core.is_some_and(|core| !state.is_of(core)) {
            return Ok(None);
        }
        self.common.check_open()?;
        state.join(record, now, call)
    }

    /// Takes a record, into a new batch if need be. `at` is the time by the monotonic clock; `buffer` may have one for it.
    pub(super) fn offer(
        self: &Arc<Self>,
        core: Option<&Arc<Core>>,
        record: &Record<'_>,
        at: Duration,
        buffer: &mut Option<Buffer>,
        call: &mut Option<Call>,
    ) -> Result<Step> {
        let now = self.common.context.clock.now();
        let mut state = self.state.lock();
        if core.is_some_and(|core| !state.is_of(core)) {
            return Ok(Step::Gone);
        }
        self.common.check_open()?;
        if let Some(sent) = state.join(record, now, call)? {
            return Ok(Step::Kept { sent, is_closed: false, due: None });
        }
        if state.open.is_some() {
            self.close(&mut state, true);
            return Ok(Step::Full);
        }
        let Some(core) = state.core.upgrade() else { return Ok(Step::Gone) };
        self.check(&mut state, &core)?;
        let rules = core.rules();
        rules.check(record, 0, now)?;
        let (len, limit) = (record.len_alone()?, self.limit(&rules));
        let buffer = match self.buffer_for(record, len, limit, now, &rules, buffer)? {
            Ok(buffer) => buffer,
            Err(needed) => return Ok(Step::NoRoom(needed)),
        };
        let fate = Fate::new(self);
        let place = Place { index: 0, timestamp: rules.time_of(record, now) };
        let sent = Sent::new(&fate, place);
        let calls = call.take().map(|call| (place, call)).into_iter().collect();
        state.open = Some(Batch { buffer, limit, rules, fate, calls, since: at });
        let is_closed = len > limit || self.common.settings.linger.is_zero();
        match is_closed {
            true => self.close(&mut state, len > limit),
            false => self.note_due(&state),
        }
        let due = (!is_closed).then(|| at.saturating_add(self.common.settings.linger));
        Ok(Step::Kept { sent, is_closed, due })
    }

    /// How long a batch may become that has more than one record.
    fn limit(&self, rules: &AppendRules) -> usize {
        let settings = &self.common.settings;
        settings.batch_bytes.min(rules.plain_limit(settings.compression))
    }

    /// A buffer with a batch begun in it, of this record; or how much room there should be. A record that the topic does not
    /// take is refused here, alone.
    fn buffer_for(
        &self,
        record: &Record<'_>,
        len: usize,
        limit: usize,
        now: Timestamp,
        rules: &AppendRules,
        given: &mut Option<Buffer>,
    ) -> Result<Result<Buffer, usize>> {
        let Common { settings, sender, room, .. } = &*self.common;
        // The time of the append it gets when it is appended.
        let options = rules.options(*sender, settings.compression).timestamp_type(TimestampType::CreateTime);
        let is_alone = len > limit;
        if is_alone && !rules.compresses(settings.compression) {
            rules.check_len(len)?;
        }
        if len > room.limit() {
            return Err(Error::BatchTooLarge { len: len as u64, limit: room.limit() as u64 });
        }
        let taken = match given.take() {
            Some(buffer) if buffer.holds(len) => Some(buffer),
            other => {
                other.into_iter().for_each(|buffer| room.give_back(buffer));
                room.take(len)
            }
        };
        let Some(mut buffer) = taken else { return Ok(Err(len)) };
        let builder = &mut buffer.builder;
        builder.begin(options);
        let filled = builder.push(record, now).and_then(|()| match is_alone {
            // Only now is it known how long it is when it is compressed.
            true => rules.check_decoded(builder).and_then(|()| rules.check_len(builder.finish()?.len())),
            false => Ok(()),
        });
        match filled {
            Ok(()) => Ok(Ok(buffer)),
            Err(error) => {
                room.give_back(buffer);
                Err(error)
            }
        }
    }

    /// Refuses if the partition takes nothing.
    fn check(&self, state: &mut State, core: &Core) -> Result<()> {
        core.check_external()?;
        core.check_open().inspect_err(|_| self.note_stopped(state, core))
    }

    /// Notes that the partition takes nothing any more.
    fn note_stopped(&self, state: &mut State, core: &Core) {
        self.is_usable.store(false, Ordering::Relaxed);
        self.turns.leave(self.id.partition);
        if core.check().is_err_and(|error| error.kind() == ErrorKind::Closed) {
            state.core = Weak::new();
        }
    }

    pub(super) fn is_usable(&self) -> bool {
        self.is_usable.load(Ordering::Relaxed)
    }

    /// Whether nothing is kept, and nothing ever will be.
    pub(super) fn is_over(&self) -> bool {
        let state = self.state.lock();
        let is_idle =
            state.open.is_none() && state.closed.is_empty() && state.in_hand.is_none() && state.unsynced.is_empty();
        is_idle && state.core.upgrade().is_none_or(|core| core.has_stopped())
    }

    /// Takes no more records into the batch that is open.
    fn close(&self, state: &mut State, is_full: bool) {
        let Some(open) = state.open.take() else { return };
        state.given += open.buffer.builder.len();
        if is_full || state.given >= self.common.settings.batch_bytes {
            state.given = 0;
            self.turns.leave(self.id.partition);
        }
        state.closed.push_back(open);
        self.note_due(state);
    }

    /// Appends what was closed, and tells whose batches are over. Returns when there is something to do again: at once if some
    /// of it waits to be made durable, later if there was no space.
    pub(super) fn append(&self, effort: Effort) -> Option<Duration> {
        self.append_closed(effort);
        self.tell();
        self.state.lock().due(self.common.settings.linger)
    }

    /// Appends what was closed, in order, until there is no more or no space for it.
    fn append_closed(&self, effort: Effort) {
        let _appending = Quiet::lock(&self.appending);
        while let Some((batch, core)) = self.next(effort)
            && self.append_one(batch, core, effort)
        {}
    }

    fn next(&self, effort: Effort) -> Option<(Batch, Option<Arc<Core>>)> {
        let mut state = self.state.lock();
        let waits = |at: Duration| self.common.now() < at;
        if effort == Effort::Due && state.retry_at.is_some_and(waits) {
            return None;
        }
        let batch = state.closed.pop_front()?;
        state.in_hand = Some(Arc::clone(&batch.fate));
        Some((batch, state.core.upgrade()))
    }

    /// Returns whether the batch is over: it is not if there is no space for it.
    fn append_one(&self, mut batch: Batch, core: Option<Arc<Core>>, effort: Effort) -> bool {
        let appended = match &core {
            Some(core) => append_built(core, &mut batch.buffer.builder, &batch.rules),
            None => Err(Error::TopicDeleted { topic: (*self.id.topic).into() }),
        };
        let is_full = appended.as_ref().is_err_and(|error| error.kind() == ErrorKind::Full);
        if is_full && effort != Effort::Last && self.goes_on(&batch) {
            self.put_back(batch);
            return false;
        }
        let Batch { buffer, fate, calls, since, .. } = batch;
        self.common.room.give_back(buffer);
        let mut state = self.state.lock();
        (state.in_hand, state.retry_at) = (None, None);
        match (appended, core) {
            (Ok((placed, appended_at)), Some(core)) => {
                let (base, end) = (placed.offset, placed.last_offset + 1);
                let written = Written { core, base, end, appended_at, since, fate, calls };
                if self.common.settings.acks == Ack::Synced && !probe::planted("batching.told_before_sync") {
                    state.unsynced.push_back(written);
                } else {
                    state.delivered(written);
                }
            }
            (appended, core) => {
                if let Some(core) = core.filter(|core| core.has_stopped()) {
                    self.note_stopped(&mut state, &core);
                }
                let error = appended.err().unwrap_or(Error::Closed);
                let outcome = match probe::planted("batching.failure_told_as_delivered") {
                    true => Ok((Offset::ZERO, None)),
                    false => Err(Arc::new(error)),
                };
                state.untold.settle(fate, outcome, calls);
            }
        }
        self.note_due(&state);
        true
    }

    /// Whether a batch for which there was no space is tried again.
    fn goes_on(&self, batch: &Batch) -> bool {
        let age = self.common.now().saturating_sub(batch.since);
        age < self.common.settings.delivery_timeout && !probe::planted("batching.given_up_at_once")
    }

    fn put_back(&self, batch: Batch) {
        probe::reached("batching.no_space");
        let again = self.common.now().saturating_add(AGAIN);
        let mut state = self.state.lock();
        (state.in_hand, state.retry_at) = (None, Some(again));
        match probe::planted("batching.overtaken") {
            true => state.closed.push_back(batch),
            false => state.closed.push_front(batch),
        }
        self.note_due(&state);
    }

    /// Makes durable what was appended, and tells whose batches are over.
    pub(super) fn sync(&self) {
        self.sync_appended();
        self.tell();
    }

    fn sync_appended(&self) {
        let (core, end) = {
            let mut state = self.state.lock();
            state.settle_synced();
            match state.unsynced.back() {
                Some(last) => (Arc::clone(&last.core), last.end),
                None => return self.note_due(&state),
            }
        };
        let synced = core.sync_to(end);
        let mut state = self.state.lock();
        state.settle_synced();
        if let Err(error) = synced {
            if core.has_stopped() {
                state.fail_unsynced(&error, |_| true);
                self.note_stopped(&mut state, &core);
            } else {
                // No space for what is staged, or too many files are open: nothing is in doubt, and it is tried again.
                let (now, timeout) = (self.common.now(), self.common.settings.delivery_timeout);
                state.fail_unsynced(&error, |written| now.saturating_sub(written.since) >= timeout);
                state.sync_at = now.saturating_add(AGAIN);
            }
        }
        self.note_due(&state);
    }

    /// Does what is due, and returns when there is something again.
    pub(super) fn tend(&self, now: Duration) -> Option<Duration> {
        let linger = self.common.settings.linger;
        let (has_closed, is_unsynced) = {
            let mut state = self.state.lock();
            if state.open.as_ref().is_some_and(|open| open.since.saturating_add(linger) <= now) {
                probe::reached("batching.lingered");
                self.close(&mut state, false);
            }
            (!state.closed.is_empty(), !state.unsynced.is_empty() && state.sync_at <= now)
        };
        if has_closed {
            self.append_closed(Effort::Due);
        }
        if has_closed || is_unsynced {
            self.sync_appended();
        }
        self.tell();
        self.state.lock().due(linger)
    }

    /// Appends the batch with this fate if it is still filled, and makes it as durable as it has to be.
    pub(super) fn hurry(&self, fate: &Fate) {
        self.close_open(Some(fate));
        self.append_closed(Effort::Now);
        self.sync();
    }

    /// Appends what is kept. Who calls this makes it [durable](Self::sync) next.
    pub(super) fn append_all(&self) {
        self.close_open(None);
        self.append_closed(Effort::Now);
    }

    fn close_open(&self, only: Option<&Fate>) {
        let mut state = self.state.lock();
        let is_it = |open: &Batch| only.is_none_or(|fate| std::ptr::eq(&*open.fate, fate));
        if state.open.as_ref().is_some_and(is_it) {
            self.close(&mut state, false);
        }
    }

    /// Appends what is kept so that its memory comes free. Returns what [`append`](Self::append) does.
    pub(super) fn make_room(&self) -> Option<Duration> {
        self.close_open(None);
        self.append(Effort::Due)
    }

    /// For the last time: nothing is kept after this.
    pub(super) fn finish(&self) {
        self.close_open(None);
        self.append_closed(Effort::Last);
        self.sync_appended();
        let mut state = self.state.lock();
        // What could not be synced yet.
        state.fail_unsynced(&Error::Closed, |_| true);
        self.note_due(&state);
        drop(state);
        self.tell();
    }

    /// The fates of all that was sent and is not told.
    pub(super) fn untold(&self, into: &mut Vec<Arc<Fate>>) {
        let state = self.state.lock();
        into.extend(state.unsynced.iter().map(|written| Arc::clone(&written.fate)));
        into.extend(state.in_hand.clone());
        into.extend(state.closed.iter().chain(&state.open).map(|batch| Arc::clone(&batch.fate)));
    }

    /// When there is something to do, by the monotonic clock.
    pub(super) fn due(&self) -> Option<Duration> {
        let due = self.due.load(Ordering::Relaxed);
        (due != u64::MAX).then(|| Duration::from_nanos(due))
    }

    fn note_due(&self, state: &State) {
        let due = state.due(self.common.settings.linger);
        let due = due.map_or(u64::MAX, |due| u64::try_from(due.as_nanos()).unwrap_or(u64::MAX - 1));
        self.due.store(due, Ordering::Relaxed);
    }
}

impl State {
    #[inline]
    fn is_of(&self, core: &Arc<Core>) -> bool {
        std::ptr::eq(self.core.as_ptr(), Arc::as_ptr(core))
    }

    #[inline]
    fn join(&mut self, record: &Record<'_>, now: Timestamp, call: &mut Option<Call>) -> Result<Option<Sent>> {
        let Some(open) = &mut self.open else { return Ok(None) };
        open.rules.check(record, 0, now)?;
        let builder = &mut open.buffer.builder;
        let index = builder.record_count() as u32;
        if !builder.push_within(record, now, open.limit)? {
            return Ok(None);
        }
        let place = Place { index, timestamp: open.rules.time_of(record, now) };
        if let Some(call) = call.take() {
            open.calls.push((place, call));
        }
        Ok(Some(Sent::new(&open.fate, place)))
    }

    /// When there is something to do.
    fn due(&self, linger: Duration) -> Option<Duration> {
        if probe::planted("batching.linger_forgotten") {
            return None;
        }
        let lingered = |batch: &Batch| batch.since.saturating_add(linger);
        let open = self.open.as_ref().map(lingered);
        // Whoever closed it is about to append it, unless there was no space.
        let closed = self.closed.front().map(|first| self.retry_at.unwrap_or(lingered(first)));
        let unsynced = self.unsynced.front().map(|_| self.sync_at);
        [open, closed, unsynced].into_iter().flatten().min()
    }

    fn delivered(&mut self, written: Written) {
        let Written { base, appended_at, fate, calls, .. } = written;
        self.untold.settle(fate, Ok((base, appended_at)), calls);
    }

    /// Those that are durable are delivered.
    fn settle_synced(&mut self) {
        while self.unsynced.front().is_some_and(|first| first.end <= first.core.synced())
            && let Some(written) = self.unsynced.pop_front()
        {
            self.delivered(written);
        }
    }

    /// Those at the front for which `is_over` holds: whether they will be durable, nobody knows.
    fn fail_unsynced(&mut self, error: &Error, is_over: impl Fn(&Written) -> bool) {
        while self.unsynced.front().is_some_and(&is_over)
            && let Some(Written { core, base, fate, calls, .. }) = self.unsynced.pop_front()
        {
            let error = match error {
                Error::TopicDeleted { topic } => Error::TopicDeleted { topic: topic.clone() },
                error => core.not_synced(base, error),
            };
            self.untold.settle(fate, Err(Arc::new(error)), calls);
        }
    }
}
