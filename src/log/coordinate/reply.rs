//! The answer to a request, for who waits for it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};
use crate::group::Answer;
use crate::partition::core::Core;
use crate::types::Offset;
use crate::watermark::{Reached, Watermark};

/// The answer to a request of a group's coordinator, now or later: to be waited for by a thread, or as a future, on any
/// runtime. Made by [`Log::ask_coordinator`](crate::Log::ask_coordinator). Dropped, nobody is told; what was asked for happens.
///
/// As a future, it needs the log's background thread for a sync, or the caller's next [`Log::maintain`](crate::Log::maintain).
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use chiplog::group::{Answer, GroupState, Request};
/// use chiplog::{Error, Log, Offset};
///
/// let log = Log::open(dir.path())?;
/// let describe = || log.ask_coordinator(Request::Describe { group: "billing".into() });
/// assert!(matches!(describe().wait(), Err(Error::GroupRefused { .. })));
/// log.group("billing")?.commit("orders", 0, Offset(42))?;
/// let Answer::Described(billing) = describe().wait()? else { panic!() };
/// assert_eq!(billing.state, Some(GroupState::Empty));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the answer says whether it was done"]
pub struct Reply {
    pub(super) state: State,
}

pub(super) enum State {
    /// Nobody has answered yet.
    Asked(Arc<Desk>),
    Answered(Outcome),
    /// The future waits for a sync.
    Syncing(Outcome, Reached),
    Taken,
}

/// An answer, and what has to be durable before it is given.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) answer: Result<Answer>,
    pub(super) after: Option<After>,
}

/// What must be there for good: synced, or, of a log that is replicated, committed.
#[derive(Debug)]
pub(super) struct After {
    core: Arc<Core>,
    end: Offset,
    /// How often the log had been cut: what is cut off is not there, whatever comes in its place.
    cuts: u64,
}

impl After {
    pub(super) fn of(core: &Arc<Core>, end: Offset, cuts: u64) -> Self {
        Self { core: Arc::clone(core), end, cuts }
    }

    pub(super) fn wait(&self) -> Result<()> {
        self.wait_for(None).map(drop)
    }

    /// Syncs, or waits for other nodes, for these not longer than `timeout`. Whether it is there.
    fn wait_for(&self, timeout: Option<Duration>) -> Result<bool> {
        if !self.core.context.is_replicated {
            return self.core.sync_to(self.end).map(|()| true);
        }
        self.core.check_uncut(self.cuts)?;
        let is_there = self.core.wait_committed(self.end, timeout)?;
        self.core.check_uncut(self.cuts)?;
        Ok(is_there)
    }

    fn mark(&self) -> &Arc<Watermark> {
        if self.core.context.is_replicated { &self.core.replicated.acked } else { &self.core.synced }
    }

    fn is_reached(&self) -> bool {
        self.mark().get() >= self.end.0
    }
}

/// Where an answer is left for who waits for it.
#[derive(Default)]
pub(super) struct Desk {
    left: Mutex<Left>,
    arrived: Condvar,
}

#[derive(Default)]
struct Left {
    outcome: Option<Outcome>,
    waker: Option<Waker>,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Asked(_) => "asked",
            State::Answered(_) => "answered",
            State::Syncing(..) => "syncing",
            State::Taken => "taken",
        };
        write!(f, "Reply {{ {state} }}")
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Desk")
    }
}

impl Reply {
    pub(crate) fn failed(error: Error) -> Self {
        Self { state: State::Answered(Outcome { answer: Err(error), after: None }) }
    }

    /// Waits for the answer: that of a join for as long as other members take to join, too. Of a log that is replicated, it is
    /// given once what it tells of is committed: with too few replicas in sync, [`Error::NotEnoughReplicas`] comes instead, and
    /// what was asked for may have happened.
    ///
    /// # Errors
    ///
    /// Those of [`Log::ask_coordinator`](crate::Log::ask_coordinator); [`Error::Closed`] if the log is closed meanwhile.
    pub fn wait(mut self) -> Result<Answer> {
        loop {
            // The time-out only bounds one turn.
            if let Some(answer) = self.wait_for(Duration::from_secs(3600)) {
                return answer;
            }
        }
    }

    /// Waits for the answer, at most for `timeout`, by the system's clock; zero only looks. `None` if it has not come. Of a log
    /// that is replicated, it waits as long once more until what the answer tells of is committed.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Self::wait).
    ///
    /// # Panics
    ///
    /// Never; once the answer was taken, this says [`Error::Closed`].
    pub fn wait_for(&mut self, timeout: Duration) -> Option<Result<Answer>> {
        if let State::Asked(desk) = &self.state {
            let mut left = desk.left.lock();
            desk.arrived.wait_while_for(&mut left, |left| left.outcome.is_none(), timeout);
            let outcome = left.outcome.take()?;
            drop(left);
            self.state = State::Answered(outcome);
        }
        match std::mem::replace(&mut self.state, State::Taken) {
            State::Answered(outcome) | State::Syncing(outcome, _) => match outcome.settle(timeout) {
                Ok(answer) => Some(answer),
                Err(outcome) => {
                    self.state = State::Answered(outcome);
                    None
                }
            },
            State::Asked(_) | State::Taken => Some(Err(Error::Closed)),
        }
    }
}

impl Outcome {
    /// Makes durable what the answer tells of, and gives it; or gives itself back, if that takes longer than `timeout`.
    fn settle(self, timeout: Duration) -> Result<Result<Answer>, Self> {
        match self.after.as_ref().map_or(Ok(true), |after| after.wait_for(Some(timeout))) {
            Ok(true) => Ok(self.answer),
            Ok(false) => Err(self),
            Err(error) => Ok(Err(error)),
        }
    }
}

impl Future for Reply {
    type Output = Result<Answer>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let State::Asked(desk) = &self.state {
            let mut left = desk.left.lock();
            let Some(outcome) = left.outcome.take() else {
                // Dropped once the lock is released: that may run code of a runtime.
                let before = left.waker.replace(context.waker().clone());
                drop(left);
                drop(before);
                return Poll::Pending;
            };
            drop(left);
            self.state = State::Answered(outcome);
        }
        match std::mem::replace(&mut self.state, State::Taken) {
            State::Answered(outcome) => match &outcome.after {
                Some(after) if !after.is_reached() => {
                    let (core, reached) = (Arc::clone(&after.core), after.mark().reached(after.end.0));
                    self.state = State::Syncing(outcome, reached);
                    let polled = self.as_mut().poll_sync(context);
                    // Only now is it known that somebody waits: who is woken before finds nothing to do.
                    if polled.is_pending() {
                        core.context.doorbell.ring();
                    }
                    polled
                }
                Some(after) => Poll::Ready(after.core.check_uncut(after.cuts).and(outcome.answer)),
                None => Poll::Ready(outcome.answer),
            },
            State::Syncing(outcome, reached) => {
                self.state = State::Syncing(outcome, reached);
                self.poll_sync(context)
            }
            State::Asked(_) | State::Taken => Poll::Ready(Err(Error::Closed)),
        }
    }
}

impl Reply {
    fn poll_sync(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Answer>> {
        let State::Syncing(outcome, reached) = &mut self.state else { return Poll::Ready(Err(Error::Closed)) };
        let Poll::Ready(synced) = Pin::new(reached).poll(context) else { return Poll::Pending };
        let synced = match (&outcome.after, synced) {
            (Some(after), Ok(())) => after.core.check_uncut(after.cuts),
            (Some(after), Err(stop)) => Err(after.core.stopped(stop)),
            (None, _) => Err(Error::Closed),
        };
        match std::mem::replace(&mut self.state, State::Taken) {
            State::Syncing(outcome, _) => Poll::Ready(synced.and(outcome.answer)),
            _ => Poll::Ready(Err(Error::Closed)),
        }
    }
}

impl Desk {
    /// Leaves the answer here, and wakes who waits for it.
    pub(super) fn leave(&self, outcome: Outcome) {
        let mut left = self.left.lock();
        left.outcome = Some(outcome);
        let waker = left.waker.take();
        drop(left);
        self.arrived.notify_all();
        waker.into_iter().for_each(Waker::wake);
    }
}
