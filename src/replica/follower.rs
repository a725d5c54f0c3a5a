//! What a follower of a partition does: ask its leader for what comes next, store it, cut what the leader does not have.
//!
//! ```text
//!        ask ------> answered: batches ---> append (-> sync) ---> ask ...
//!         ^              |---> diverging --> truncate ------------> ask
//!         |              |---> out of range -> truncate or reset -> ask
//!         +-- backoff ---+---> refused, or none
//! ```
//!
//! Invariants:
//! - An answer counts if it is the one to the last question. The question named where the log ends, and nobody else
//!   appends: so the batches go on from there, in the leader's history.
//! - The log is cut only where epochs show that it parts from the leader's, and not below what is committed: but for what
//!   an unclean election may have lost. Else the follower [halts](Halt) and touches nothing.
//! - `committed` is at most the leader's, and at most the log's end.

use std::collections::VecDeque;
#[cfg(feature = "sim")]
use std::hash::{Hash, Hasher};
use std::time::Duration;

use super::{Answer, Assignment, EpochEnd, Fetch, Fetched, LocalLog, Member, Payload, ReplicaTiming};
use crate::probe;
use crate::types::{NodeId, Offset};

/// A follower of one partition under one epoch: it asks for what comes next, stores it, and cuts what its leader does not have.
///
/// ```
/// use std::time::Duration;
/// use chiplog::replica::*;
/// use chiplog::{LeaderEpoch, NodeId, Offset, TopicId};
///
/// let [a, b] = [1, 2].map(|node| Member { node: NodeId(node), incarnation: Incarnation(node.into()) });
/// let assignment = Assignment {
///     id: PartitionId { topic: TopicId::from_bytes([7; 16]), partition: 0 },
///     version: 0,
///     replicas: vec![a.node, b.node],
///     leader: Some(a),
///     leader_epoch: LeaderEpoch(0),
///     in_sync: vec![a, b],
///     min_in_sync: 2,
///     eligible: vec![],
///     unclean_epoch: None,
/// };
/// let (timing, log) = (ReplicaTiming::default(), LocalLog::default());
/// let mut follower = Follower::new(b, assignment, timing, log, Offset(0), Duration::ZERO);
/// let Some(FollowerAction::Send { to, fetch }) = follower.poll() else { panic!("it asks at once") };
/// assert_eq!((to, fetch.next), (a.node, Offset(0)));
/// ```
#[derive(Debug, Clone)]
pub struct Follower {
    local: Member,
    assignment: Assignment,
    timing: ReplicaTiming,
    log: LocalLog,
    committed: Offset,
    /// The number of the last question.
    number: u64,
    /// That of the first one since the log is what it is.
    first: u64,
    /// How often it was asked again for want of an answer.
    retries: u32,
    state: State,
    /// What the leader said in the answer that is being stored.
    answered: Option<Told>,
    actions: VecDeque<FollowerAction>,
}

/// What a follower is told.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum FollowerEvent {
    /// An answer came.
    Fetched {
        /// From this node.
        from: NodeId,
        /// The answer.
        fetched: Fetched,
        /// If it is [`Answer::Diverging`]: where the local log has that epoch end.
        epoch_end: Option<EpochEnd>,
    },
    /// What was to be done is done, and the local log is this now.
    Done(LocalLog),
    /// What was to be done could not be, not all of it. The local log is this now.
    Failed(LocalLog),
    /// A newer assignment of the same leader and epoch.
    Assigned(Assignment),
    /// Time has passed.
    Tick,
}

/// What a follower wants done. After all but [`Send`](Self::Send) and [`Commit`](Self::Commit) it waits for
/// [`FollowerEvent::Done`] or [`FollowerEvent::Failed`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FollowerAction {
    /// Ask the leader.
    Send {
        /// The leader.
        to: NodeId,
        /// The question.
        fetch: Fetch,
    },
    /// Append these batches, as they are.
    Append(Payload),
    /// Make all that is appended durable.
    Sync,
    /// Cut the log, so that it ends at this offset, or at the start of the batch that holds it; and forget the epochs that
    /// begin there or above.
    Truncate(Offset),
    /// Drop all batches, and go on at this offset, which is above what is stored, or below.
    Reset(Offset),
    /// Let the log start here: what lies below was deleted on the leader.
    RaiseStart(Offset),
    /// Everything below is committed.
    Commit(Offset),
    /// Tell somebody: nothing is done until another leader is elected.
    Halt(Halt),
}

/// Why a follower stopped: going on would lose records that were committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Halt {
    /// The leader's history parts from ours below what is committed, and no unclean election was announced.
    #[error(
        "the leader's log parts from this one at {at}, below {committed} that is committed, and no unclean election said so"
    )]
    Diverged {
        /// Where.
        at: Offset,
        /// What is committed here.
        committed: Offset,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The question was asked then.
    Asking(Duration),
    /// Something is being done.
    Working,
    /// Until then.
    Waiting(Duration),
    Halted,
}

#[derive(Debug, Clone, Copy)]
struct Told {
    committed: Offset,
    start: Offset,
}

impl Follower {
    /// A follower of the leader of `assignment`, if that has one. `committed` is what this node knew to be committed before.
    #[must_use]
    pub fn new(
        local: Member,
        assignment: Assignment,
        timing: ReplicaTiming,
        log: LocalLog,
        committed: Offset,
        now: Duration,
    ) -> Self {
        let mut follower = Self {
            local,
            assignment,
            timing,
            log,
            committed: committed.min(log.end),
            number: 0,
            first: 1,
            retries: 0,
            state: State::Working,
            answered: None,
            actions: VecDeque::new(),
        };
        follower.go_on(now);
        follower
    }

    /// Takes an event into account.
    pub fn handle(&mut self, event: FollowerEvent, now: Duration) {
        match event {
            FollowerEvent::Fetched { from, fetched, epoch_end } => self.fetched(from, fetched, epoch_end, now),
            FollowerEvent::Done(log) => self.done(log, now),
            FollowerEvent::Failed(log) => {
                self.log = log;
                self.answered = None;
                self.committed = self.committed.min(log.end);
                self.wait(now);
            }
            FollowerEvent::Assigned(assignment) => self.assigned(assignment),
            FollowerEvent::Tick => self.tick(now),
        }
    }

    /// The next thing to do. To be drained after each event.
    pub fn poll(&mut self) -> Option<FollowerAction> {
        self.actions.pop_front()
    }

    /// When there is something to do though nothing happens; `None` if never.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        match self.state {
            // Twice as long each time: what is slow does not become faster by more questions.
            State::Asking(at) => Some(at + self.timing.retry * (1 << self.retries.min(3))),
            State::Waiting(until) => Some(until),
            State::Working | State::Halted => None,
        }
    }

    /// Everything below is committed.
    #[must_use]
    pub fn committed(&self) -> Offset {
        self.committed
    }

    /// What the controller said last.
    #[must_use]
    pub fn assignment(&self) -> &Assignment {
        &self.assignment
    }

    /// Whether it stopped: see [`FollowerAction::Halt`].
    #[must_use]
    pub fn is_halted(&self) -> bool {
        self.state == State::Halted
    }

    /// The number of the last question.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Whether this is the answer to a question that it asks.
    pub(crate) fn expects(&self, from: NodeId, fetched: &Fetched) -> bool {
        let is_leader = self.assignment.leader.is_some_and(|leader| leader.node == from);
        // Any answer will do to what was asked since the log is what it is: on a slow link each comes after the next question.
        let is_current = (self.first..=self.number).contains(&fetched.number);
        let is_this = fetched.leader_epoch == self.assignment.leader_epoch && is_current;
        // A life before this one asked, too, and counted from one.
        let is_ours = fetched.incarnation == self.local.incarnation;
        matches!(self.state, State::Asking(_)) && is_leader && is_this && is_ours
    }

    fn fetched(&mut self, from: NodeId, fetched: Fetched, epoch_end: Option<EpochEnd>, now: Duration) {
        if !self.expects(from, &fetched) {
            probe::reached("replica.late_answer");
            return;
        }
        self.retries = 0;
        match fetched.answer {
            Answer::Batches { committed, start, batches, .. } => {
                self.answered = Some(Told { committed, start });
                if batches.as_slice().is_empty() {
                    return self.done(self.log, now);
                }
                self.work(FollowerAction::Append(batches));
            }
            Answer::Diverging(leaders) => self.diverging(leaders, epoch_end),
            Answer::OutOfRange { start, end } => self.out_of_range(start, end),
            Answer::Refused(_) => self.wait(now),
        }
    }

    /// The leader's log has an epoch up to an offset, and ours has more, of it or of later ones.
    fn diverging(&mut self, leaders: EpochEnd, ours: Option<EpochEnd>) {
        let end = self.log.end;
        let at = match ours {
            None => leaders.end.min(end),
            Some(ours) if ours.epoch != leaders.epoch => ours.end.min(end),
            Some(ours) => ours.end.min(leaders.end).min(end),
        };
        self.cut(at);
    }

    fn out_of_range(&mut self, start: Offset, end: Offset) {
        let has_nothing = self.log.start >= self.log.end;
        if self.log.end < start || has_nothing {
            // What we have was deleted there; or it is nothing.
            probe::reached("replica.reset");
            let at = start.max(self.log.start.min(end));
            if self.may_go_back(at) {
                self.work(FollowerAction::Reset(at));
            }
            return;
        }
        self.cut(end.min(self.log.end));
    }

    /// Whether the log may end at `at`; else the follower stops.
    fn may_go_back(&mut self, at: Offset) -> bool {
        // Of a log that has nothing of the unclean leader's epoch or later, what was committed before may be lost.
        let may_lose = self.assignment.unclean_epoch.is_some_and(|unclean| self.log.last_epoch < Some(unclean));
        if at >= self.committed || may_lose {
            return true;
        }
        probe::reached("replica.halted");
        self.state = State::Halted;
        let committed = self.committed;
        self.actions.push_back(FollowerAction::Halt(Halt::Diverged { at, committed }));
        false
    }

    fn cut(&mut self, at: Offset) {
        if !self.may_go_back(at) {
            return;
        }
        if at < self.log.start {
            // What we have begins behind that: none of it is the leader's.
            return self.work(FollowerAction::Reset(at));
        }
        let at = if probe::planted("replica.cuts_to_committed") { self.committed } else { at };
        self.work(FollowerAction::Truncate(at));
    }

    fn work(&mut self, action: FollowerAction) {
        self.state = State::Working;
        self.actions.push_back(action);
    }

    fn done(&mut self, log: LocalLog, now: Duration) {
        self.log = log;
        self.committed = self.committed.min(log.end);
        if let Some(Told { committed, start }) = self.answered.take() {
            let committed = committed.min(log.end);
            if committed > self.committed {
                self.committed = committed;
                self.actions.push_back(FollowerAction::Commit(committed));
            }
            // Never past what is committed: that is deleted on the leader, so it was.
            let start = start.min(self.committed);
            if start > log.start {
                return self.work(FollowerAction::RaiseStart(start));
            }
        }
        self.go_on(now);
    }

    /// Asks for what comes next, once what there is is as durable as it is to be.
    fn go_on(&mut self, now: Duration) {
        if self.log.held < self.log.end && !probe::planted("replica.asks_before_sync") {
            return self.work(FollowerAction::Sync);
        }
        self.ask(now);
    }

    fn ask(&mut self, now: Duration) {
        if !matches!(self.state, State::Asking(_)) {
            self.first = self.number + 1;
        }
        let Some(leader) = self.assignment.leader else {
            self.state = State::Halted;
            return;
        };
        self.number += 1;
        self.state = State::Asking(now);
        let LocalLog { start, end, held, last_epoch } = self.log;
        let fetch = Fetch {
            id: self.assignment.id,
            leader_epoch: self.assignment.leader_epoch,
            incarnation: self.local.incarnation,
            number: self.number,
            next: end,
            last_epoch,
            held,
            start,
            max_bytes: self.timing.max_bytes,
        };
        self.actions.push_back(FollowerAction::Send { to: leader.node, fetch });
    }

    fn wait(&mut self, now: Duration) {
        self.state = State::Waiting(now + self.timing.backoff);
    }

    fn assigned(&mut self, assignment: Assignment) {
        let is_newer = assignment.version > self.assignment.version;
        let is_same =
            (assignment.leader, assignment.leader_epoch) == (self.assignment.leader, self.assignment.leader_epoch);
        if is_newer && is_same {
            self.assignment = assignment;
        }
    }

    fn tick(&mut self, now: Duration) {
        if self.next_deadline().is_some_and(|at| now >= at) {
            self.retries += u32::from(matches!(self.state, State::Asking(_)));
            self.go_on(now);
        }
    }
}

/// For who compares states.
#[cfg(feature = "sim")]
impl Follower {
    /// All that its behavior depends on, but for when it asks again; of the number of a question, what it is called there.
    pub(crate) fn shape(&self, number: &mut dyn FnMut(u64) -> u64, into: &mut impl Hasher) {
        let Assignment { leader, leader_epoch, unclean_epoch, .. } = &self.assignment;
        (self.local, leader, leader_epoch, unclean_epoch, self.committed).hash(into);
        (self.log.start, self.log.end, self.log.held, self.log.last_epoch).hash(into);
        let asked = number(self.number);
        match self.state {
            State::Asking(_) => (0, asked, number(self.first)).hash(into),
            State::Working => (1, asked).hash(into),
            State::Waiting(_) => (2, asked).hash(into),
            State::Halted => 3.hash(into),
        }
    }
}
