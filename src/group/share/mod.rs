//! Work sharing within a partition, after Kafka's share groups (KIP-932): which records are to be handed out, which are
//! with somebody, and which are done. Pure.
//!
//! ```text
//! offset      10    11       12       13     14       15     16 ...
//! state       done  with B   ready    done   with A   ready  ready, and so is all behind it
//!                   |start                                   |next
//! ```
//!
//! Below `start` all is done. From `next` on nothing was handed out yet. Between them each offset has a state of its own, and
//! there are never more of them than [`ShareLimits::max_in_flight`].
//!
//! | State | Becomes | When |
//! |---|---|---|
//! | ready | with somebody, its count of deliveries + 1 | it is taken |
//! | with somebody | done | accepted, or there is no such record |
//! | | ready | released, or its lock is over |
//! | | lost | rejected, or ready again for the last time |
//! | lost | done | what was to be done with it is done: [`SharePartition::bury`] |
//!
//! What is stored ([`ShareState`]) knows no locks: after a restart what was with somebody is ready again, and its
//! deliveries count, so that a record which kills its process each time is lost at last, and not taken for ever.
//!
//! Invariants:
//! - An offset is with one worker at a time, and is not handed out again before it was released or its lock was over.
//! - `start` and `next` only rise, but for what a power cut took from the log.
//! - What is done stays done.

mod records;

use std::collections::VecDeque;
use std::time::Duration;

#[cfg_attr(not(test), expect(unused_imports, reason = "for queues, to come"))]
pub(crate) use records::ShareKey;
pub(crate) use records::{ShareState, StateBatch};

use crate::types::Offset;

/// Who takes records: a number that the caller gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Worker(pub(crate) u64);

/// How much is handed out, for how long, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShareLimits {
    /// How long a record is with who took it.
    pub(crate) lock: Duration,
    /// How often a record is handed out.
    pub(crate) max_deliveries: u16,
    /// How many offsets may lie between what is done and what was never handed out.
    pub(crate) max_in_flight: u32,
}

/// A record that is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) offset: Offset,
    /// How often it was handed out, this time included.
    pub(crate) deliveries: u16,
}

/// What a worker says of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    /// It is done.
    Accept,
    /// Somebody else may do it.
    Release,
    /// Nobody can do it.
    Reject,
}

/// The record is not with this worker, or no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotTaken;

/// What is known of one partition, for one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SharePartition {
    limits: ShareLimits,
    start: Offset,
    /// Those of the offsets from `start` on, one by one.
    slots: VecDeque<Slot>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    state: State,
    deliveries: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    With { worker: Worker, until: Duration },
    Lost,
    Done,
}

impl SharePartition {
    /// A partition of which nothing below `start` is to be handed out.
    pub(crate) fn new(start: Offset, limits: ShareLimits) -> Self {
        Self { limits, start, slots: VecDeque::new() }
    }

    /// The partition as it was stored.
    pub(crate) fn from_state(state: &ShareState, limits: ShareLimits) -> Self {
        let mut share = Self::new(state.start, limits);
        for batch in &state.batches {
            for offset in batch.first.0..=batch.last.0 {
                let slot = share.slot_or_new(Offset(offset));
                *slot = Slot {
                    state: if batch.is_done { State::Done } else { State::Ready },
                    deliveries: batch.deliveries,
                };
            }
        }
        share.settle();
        share.give_up();
        share
    }

    /// What is to be stored.
    pub(crate) fn to_state(&self) -> ShareState {
        let mut batches: Vec<StateBatch> = Vec::new();
        for (slot, offset) in self.slots.iter().zip(self.start.0..) {
            let (offset, is_done) = (Offset(offset), slot.state == State::Done);
            // Of what is done nobody asks how often it was tried.
            let deliveries = if is_done { 0 } else { slot.deliveries };
            match batches.last_mut() {
                Some(last) if (last.is_done, last.deliveries) == (is_done, deliveries) => last.last = offset,
                _ => batches.push(StateBatch { first: offset, last: offset, is_done, deliveries }),
            }
        }
        ShareState { start: self.start, batches }
    }

    /// All below is done.
    pub(crate) fn start(&self) -> Offset {
        self.start
    }

    /// Nothing from here on was handed out.
    pub(crate) fn next(&self) -> Offset {
        Offset(self.start.0 + self.slots.len() as u64)
    }

    /// How many more offsets may be handed out for the first time.
    fn room(&self) -> usize {
        (self.limits.max_in_flight as usize).saturating_sub(self.slots.len())
    }

    /// From where, and how many, records are to be offered to [`take`](Self::take) so that it can hand out `count`.
    pub(crate) fn wants(&self, count: usize) -> (Offset, usize) {
        let is_ready = |slot: &&Slot| slot.state == State::Ready;
        let first = self.slots.iter().position(|slot| is_ready(&slot)).unwrap_or(self.slots.len());
        let ready = self.slots.iter().filter(is_ready).count();
        (Offset(self.start.0 + first as u64), count.min(ready + self.room()))
    }

    /// Hands out up to `count` of the records at `offered` to a worker: offsets that rise, without one left out that has a
    /// record from the first to the last of them. What is passed over by them holds no record.
    pub(crate) fn take(
        &mut self,
        worker: Worker,
        offered: impl IntoIterator<Item = Offset>,
        count: usize,
        now: Duration,
    ) -> Vec<Taken> {
        let until = now.saturating_add(self.limits.lock);
        let mut taken = Vec::new();
        let mut expected = None;
        for offset in offered {
            if taken.len() == count {
                break;
            }
            // Compaction, markers, aborted records: nobody will be given these.
            let gap = expected.unwrap_or(offset).0..offset.0;
            if offset >= self.next() && (offset.0 - self.next().0) as usize >= self.room() {
                break;
            }
            gap.for_each(|missing| self.slot_or_new(Offset(missing)).state = State::Done);
            expected = Some(offset + 1);
            if offset < self.start {
                continue;
            }
            let slot = self.slot_or_new(offset);
            if slot.state == State::Ready {
                slot.deliveries = slot.deliveries.saturating_add(1);
                slot.state = State::With { worker, until };
                taken.push(Taken { offset, deliveries: slot.deliveries });
            }
        }
        self.settle();
        taken
    }

    /// Takes a worker's word for a record that is with it.
    pub(crate) fn decide(&mut self, worker: Worker, offset: Offset, verdict: Verdict) -> Result<(), NotTaken> {
        let max_deliveries = self.limits.max_deliveries;
        let slot = self.slot(offset).ok_or(NotTaken)?;
        if !matches!(slot.state, State::With { worker: holder, .. } if holder == worker) {
            return Err(NotTaken);
        }
        slot.state = match verdict {
            Verdict::Accept => State::Done,
            Verdict::Reject => State::Lost,
            Verdict::Release => ready_or_lost(slot.deliveries, max_deliveries),
        };
        self.settle();
        Ok(())
    }

    /// Prolongs the lock of a record that is with this worker.
    pub(crate) fn renew(&mut self, worker: Worker, offset: Offset, now: Duration) -> Result<(), NotTaken> {
        let renewed = now.saturating_add(self.limits.lock);
        match self.slot(offset).map(|slot| &mut slot.state) {
            Some(State::With { worker: holder, until }) if *holder == worker => {
                *until = renewed;
                Ok(())
            }
            _ => Err(NotTaken),
        }
    }

    /// Releases what has been with somebody for too long. Whether there was any.
    pub(crate) fn pass_time(&mut self, now: Duration) -> bool {
        self.release_where(|_, until| until <= now)
    }

    /// Releases all that is with a worker that is gone. Whether there was any.
    pub(crate) fn release_all(&mut self, worker: Worker) -> bool {
        self.release_where(|holder, _| holder == worker)
    }

    fn release_where(&mut self, is_over: impl Fn(Worker, Duration) -> bool) -> bool {
        let mut is_any = false;
        for slot in &mut self.slots {
            if let State::With { worker, until } = slot.state
                && is_over(worker, until)
            {
                slot.state = ready_or_lost(slot.deliveries, self.limits.max_deliveries);
                is_any = true;
            }
        }
        is_any
    }

    /// When the next lock is over.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let until = |slot: &Slot| match slot.state {
            State::With { until, .. } => Some(until),
            _ => None,
        };
        self.slots.iter().filter_map(until).min()
    }

    /// The records that nobody can do, and how often each was tried.
    pub(crate) fn lost(&self) -> impl Iterator<Item = Taken> {
        let offsets = self.slots.iter().zip(self.start.0..);
        offsets
            .filter(|(slot, _)| slot.state == State::Lost)
            .map(|(slot, offset)| Taken { offset: Offset(offset), deliveries: slot.deliveries })
    }

    /// What was to be done with a lost record is done.
    pub(crate) fn bury(&mut self, offset: Offset) {
        if let Some(slot) = self.slot(offset).filter(|slot| slot.state == State::Lost) {
            slot.state = State::Done;
        }
        self.settle();
    }

    /// What lies below is gone from the log. Whether that is news.
    pub(crate) fn raise_start(&mut self, to: Offset) -> bool {
        if to <= self.start {
            return false;
        }
        let gone = (to.0 - self.start.0).min(self.slots.len() as u64);
        self.slots.drain(..gone as usize);
        self.start = to;
        self.settle();
        true
    }

    /// What lies from `end` on was lost by a power cut: what comes in its place is new. Whether that is news.
    pub(crate) fn cut(&mut self, end: Offset) -> bool {
        if self.next() <= end {
            return false;
        }
        self.start = self.start.min(end);
        self.slots.truncate((end.0 - self.start.0) as usize);
        true
    }

    /// After a restart: what was tried too often is lost.
    fn give_up(&mut self) {
        for slot in self.slots.iter_mut().filter(|slot| slot.state == State::Ready) {
            slot.state = ready_or_lost(slot.deliveries, self.limits.max_deliveries);
        }
    }

    fn slot(&mut self, offset: Offset) -> Option<&mut Slot> {
        let at = offset.0.checked_sub(self.start.0)?;
        self.slots.get_mut(usize::try_from(at).ok()?)
    }

    /// The slot of an offset that is not below the start; those that are missing before it are ready.
    fn slot_or_new(&mut self, offset: Offset) -> &mut Slot {
        let at = (offset.0.saturating_sub(self.start.0)) as usize;
        if at >= self.slots.len() {
            self.slots.resize(at + 1, Slot { state: State::Ready, deliveries: 0 });
        }
        &mut self.slots[at]
    }

    /// Forgets what is done at the front.
    fn settle(&mut self) {
        while self.slots.front().is_some_and(|slot| slot.state == State::Done) {
            self.slots.pop_front();
            self.start = self.start + 1;
        }
    }
}

fn ready_or_lost(deliveries: u16, max_deliveries: u16) -> State {
    if deliveries >= max_deliveries { State::Lost } else { State::Ready }
}

#[cfg(test)]
mod tests;
