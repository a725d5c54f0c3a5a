//! Work sharing within a partition, after Kafka's share groups (KIP-932): which records are to be handed out, which are
//! with somebody, and which are done. Pure.
//!
//! ```text
//! offset      10    11       12       13     14       15     16 ...
//! state       done  with B   ready    done   with A   ready  ready, and so is all behind it
//!                   |start                                   |next
//! ```
//!
//! Below `start` all is done. From `next` on nothing was handed out yet. Of the offsets between them those that are not done
//! are kept, one by one, and there are never more of them than [`ShareLimits::max_in_flight`]. Offsets without a record, of
//! which compaction and transactions leave many, are done.
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
//! deliveries count, so that a record which kills its process each time is lost at last, and not taken for ever. What is
//! lost is stored as delivered as often as it may be.
//!
//! Invariants:
//! - An offset is with one worker at a time, and is not handed out again before it was released or its lock was over.
//! - `start` and `next` only rise.
//! - What is done stays done.

mod records;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

pub(crate) use records::{ShareKey, ShareState};

use self::records::StateBatch;

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
    /// How many records may be handed out and not done.
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
    next: Offset,
    /// Those between that are not done.
    open: BTreeMap<Offset, Slot>,
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
}

impl SharePartition {
    /// A partition of which nothing below `start` is to be handed out.
    pub(crate) fn new(start: Offset, limits: ShareLimits) -> Self {
        Self { limits, start, next: start, open: BTreeMap::new() }
    }

    /// The partition as it was stored.
    pub(crate) fn from_state(state: &ShareState, limits: ShareLimits) -> Self {
        let mut share = Self::new(state.start, limits);
        for batch in &state.batches {
            if !batch.is_done {
                let state = ready_or_lost(batch.deliveries, limits.max_deliveries);
                let slot = Slot { state, deliveries: batch.deliveries };
                share.open.extend((batch.first.0..=batch.last.0).map(|offset| (Offset(offset), slot)));
            }
            share.next = batch.last + 1;
        }
        share.settle();
        share
    }

    /// What is to be stored.
    pub(crate) fn to_state(&self) -> ShareState {
        let mut batches: Vec<StateBatch> = Vec::new();
        // Of what is done nobody asks how often it was tried.
        let done = |first: Offset, end: Offset| StateBatch::new(first, Offset(end.0 - 1), true, 0);
        let mut at = self.start;
        for (&offset, slot) in &self.open {
            if offset > at {
                batches.push(done(at, offset));
            }
            let deliveries = match slot.state {
                // So that it is lost after a restart, too.
                State::Lost => slot.deliveries.max(self.limits.max_deliveries),
                _ => slot.deliveries,
            };
            match batches.last_mut() {
                Some(last) if !last.is_done && last.deliveries == deliveries => last.last = offset,
                _ => batches.push(StateBatch::new(offset, offset, false, deliveries)),
            }
            at = offset + 1;
        }
        if self.next > at {
            batches.push(done(at, self.next));
        }
        ShareState { start: self.start, batches }
    }

    /// From now on other limits hold. What is with somebody stays there until its lock is over.
    pub(crate) fn limit(&mut self, limits: ShareLimits) {
        self.limits = limits;
        for slot in self.open.values_mut().filter(|slot| slot.state == State::Ready) {
            slot.state = ready_or_lost(slot.deliveries, limits.max_deliveries);
        }
    }

    /// All below is done.
    pub(crate) fn start(&self) -> Offset {
        self.start
    }

    /// Nothing from here on was handed out.
    pub(crate) fn next(&self) -> Offset {
        self.next
    }

    /// How many records are with somebody, and how many were handed out and are not done.
    pub(crate) fn in_flight(&self) -> (usize, usize) {
        let is_with = |slot: &&Slot| matches!(slot.state, State::With { .. });
        (self.open.values().filter(is_with).count(), self.open.len())
    }

    /// How many more records may be handed out for the first time.
    fn room(&self) -> usize {
        (self.limits.max_in_flight as usize).saturating_sub(self.open.len())
    }

    /// From where on the log is to be read so that [`take`](Self::take) can hand out up to `count` records, and how many of
    /// those it can.
    pub(crate) fn wants(&self, count: usize) -> (Offset, usize) {
        let mut ready = self.open.iter().filter(|(_, slot)| slot.state == State::Ready).map(|(offset, _)| *offset);
        let first = ready.next();
        let count = count.min(first.iter().len() + ready.count() + self.room());
        (first.unwrap_or(self.next), count)
    }

    /// Hands out up to `count` of the records that were found in a part of the log, which begins where [`wants`](Self::wants)
    /// says. Their offsets rise; the others in there have no record.
    pub(crate) fn take(
        &mut self,
        worker: Worker,
        read: Range<Offset>,
        found: impl IntoIterator<Item = Offset>,
        count: usize,
        now: Duration,
    ) -> Vec<Taken> {
        let until = now.saturating_add(self.limits.lock);
        let (mut taken, mut at) = (Vec::new(), read.start);
        if at > self.next {
            // Between them nobody has looked.
            return taken;
        }
        let mut found = found.into_iter();
        let end = loop {
            let Some(offset) = found.next() else { break read.end };
            let is_last = self.is_last_chance(offset);
            if taken.len() == count || (is_last && !taken.is_empty()) || (offset >= self.next && self.room() == 0) {
                break offset;
            }
            self.pass_over(at, offset);
            at = offset + 1;
            if offset >= self.next {
                self.open.insert(offset, Slot { state: State::Ready, deliveries: 0 });
                self.next = at;
            }
            if let Some(slot) = self.open.get_mut(&offset).filter(|slot| slot.state == State::Ready) {
                slot.deliveries = slot.deliveries.saturating_add(1);
                slot.state = State::With { worker, until };
                taken.push(Taken { offset, deliveries: slot.deliveries });
                if is_last {
                    break at;
                }
            }
        };
        self.pass_over(at, end);
        self.settle();
        taken
    }

    /// Whether the record is ready, for the last time: it is handed out alone, so that one which kills its worker does not
    /// take with it what was handed out beside it each time.
    pub(crate) fn is_last_chance(&self, offset: Offset) -> bool {
        let max = self.limits.max_deliveries;
        let slot = self.open.get(&offset).filter(|slot| slot.state == State::Ready);
        max > 1 && slot.is_some_and(|slot| slot.deliveries + 1 >= max)
    }

    /// From `first` to before `end` there is no record: compaction, markers, aborted transactions. What somebody took
    /// before stays with him.
    fn pass_over(&mut self, first: Offset, end: Offset) {
        if first < self.next {
            self.open
                .retain(|offset, slot| !(first..end).contains(offset) || matches!(slot.state, State::With { .. }));
        }
        self.next = self.next.max(end);
    }

    /// Takes a worker's word for a record that is with it.
    pub(crate) fn decide(&mut self, worker: Worker, offset: Offset, verdict: Verdict) -> Result<(), NotTaken> {
        let max_deliveries = self.limits.max_deliveries;
        let slot = self.open.get_mut(&offset).ok_or(NotTaken)?;
        if !matches!(slot.state, State::With { worker: holder, .. } if holder == worker) {
            return Err(NotTaken);
        }
        match verdict {
            Verdict::Accept => drop(self.open.remove(&offset)),
            Verdict::Reject => slot.state = State::Lost,
            Verdict::Release => slot.state = ready_or_lost(slot.deliveries, max_deliveries),
        }
        self.settle();
        Ok(())
    }

    /// Prolongs the lock of a record that is with this worker.
    pub(crate) fn renew(&mut self, worker: Worker, offset: Offset, now: Duration) -> Result<(), NotTaken> {
        let renewed = now.saturating_add(self.limits.lock);
        match self.open.get_mut(&offset).map(|slot| &mut slot.state) {
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
        for slot in self.open.values_mut() {
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
        self.open.values().filter_map(until).min()
    }

    /// The records that nobody can do, and how often each was tried.
    pub(crate) fn lost(&self) -> impl Iterator<Item = Taken> {
        let lost = self.open.iter().filter(|(_, slot)| slot.state == State::Lost);
        lost.map(|(&offset, slot)| Taken { offset, deliveries: slot.deliveries })
    }

    /// What was to be done with a lost record is done.
    pub(crate) fn bury(&mut self, offset: Offset) {
        if self.open.get(&offset).is_some_and(|slot| slot.state == State::Lost) {
            self.open.remove(&offset);
        }
        self.settle();
    }

    /// What lies below is gone from the log. Whether that is news.
    pub(crate) fn raise_start(&mut self, to: Offset) -> bool {
        if to <= self.start {
            return false;
        }
        self.open = self.open.split_off(&to);
        self.next = self.next.max(to);
        self.settle();
        true
    }

    /// Forgets what is done at the front.
    fn settle(&mut self) {
        self.start = self.open.keys().next().map_or(self.next, |first| *first);
    }
}

/// The most that [`ShareLimits::max_in_flight`] may be, as in Kafka: what is stored of them fits a batch.
pub(crate) const MAX_OPEN: u32 = 10_000;

fn ready_or_lost(deliveries: u16, max_deliveries: u16) -> State {
    if deliveries >= max_deliveries { State::Lost } else { State::Ready }
}

#[cfg(test)]
mod tests;
