//! One member of a group, seen from its own side: when it joins, what it owns, what it has to give up. Pure.
//!
//! Answers and the time go in, steps come out. There is no log and no thread here, and nobody is called.
//!
//! ```text
//!             join            joined: assign, if it leads        synced
//! Outside -----------> Joining -----------> Joined -------> Syncing ------> Stable
//!    ^                                                                        |
//!    +------- a rebalance: joins again, with what it owns, if the assignor is cooperative, or with nothing
//!    +------- not a member any more: all that it owned is lost, and it joins anew
//! ```
//!
//! | The member owns | and at a rebalance |
//! |---|---|
//! | eager | gives up everything, then joins: nobody reads meanwhile |
//! | cooperative | joins, reads on, then gives up what its assignment leaves out, and joins again so that another gets it (KIP-429) |
//!
//! Invariants:
//! - What it gives up is revoked while it is still a member of the generation that gave it: so its offsets can be committed.
//! - What is lost was taken by others, perhaps: its offsets are refused.
//! - An answer to a request that nobody waits for any more changes nothing.

use std::collections::{BTreeSet, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use crate::error::GroupError;
use crate::group::assign::protocol::{LastAssignment, MemberAssignment};
use crate::group::{
    Answer, Caller, Generation, Heartbeat, IN_PROCESS, JoinGroup, Joined, LeaveGroup, LeavingMember, Request,
    SyncGroup, Synced,
};
use crate::probe;
use crate::types::TopicPartition;

/// What a member is like.
#[derive(Debug, Clone)]
pub(super) struct MemberSettings {
    pub(super) group: Box<str>,
    pub(super) client_id: Box<str>,
    pub(super) instance_id: Option<Box<str>>,
    pub(super) session_timeout: Duration,
    pub(super) rebalance_timeout: Duration,
    pub(super) heartbeat_interval: Duration,
    pub(super) max_poll_interval: Duration,
    /// Whether it reads on while the group is divided anew.
    pub(super) is_cooperative: bool,
}

#[derive(Debug)]
pub(super) struct Member {
    settings: MemberSettings,
    state: State,
    /// Empty until the coordinator gave one.
    id: Box<str>,
    generation: Generation,
    owned: BTreeSet<TopicPartition>,
    /// What it was assigned last, for its assignor to tell.
    last: LastAssignment,
    /// What the application is to be told.
    told: VecDeque<Step>,
    /// Whether it is to join again.
    rejoins: bool,
    next_number: u64,
    /// The heartbeat that was not answered yet.
    heartbeat: Option<u64>,
    next_heartbeat: Duration,
    last_poll: Duration,
    /// Whether the application waits in a poll.
    is_waiting: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// It is to join, not before that.
    Outside {
        not_before: Duration,
    },
    /// It asked to join.
    Joining {
        number: u64,
    },
    /// It leads, and is to assign.
    Leading(Joined),
    /// It joined. It leads, if there are assignments.
    Joined {
        assignments: Vec<(Box<str>, Arc<[u8]>)>,
    },
    /// It asked for its assignment.
    Syncing {
        number: u64,
    },
    Stable,
    /// Another took its place, for good.
    Fenced,
    /// It left, for good.
    Left,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask the coordinator, with the protocols put in, and answer under this number.
    Join { number: u64, request: JoinGroup },
    /// Assign, for all these members, and say so by [`Member::assign`]: nothing to anybody if that can be skipped.
    Assign(Joined),
    /// Ask the coordinator, and answer under this number.
    Ask { number: u64, request: Request },
    /// Ask the coordinator. Whatever it says, nothing follows.
    Leave(LeaveGroup),
    /// Stop reading these, once the application had its say.
    Revoked(BTreeSet<TopicPartition>),
    /// Stop reading these: others read them by now, perhaps.
    Lost(BTreeSet<TopicPartition>),
    /// Read these, too.
    Assigned(BTreeSet<TopicPartition>),
}

/// Who does the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// A poll, which may call the application.
    Poll,
    /// Maintenance, which may not.
    Maintenance,
}

/// What is asked.
impl Member {
    /// A member that is to join.
    pub(super) fn new(settings: MemberSettings, now: Duration) -> Self {
        Self {
            settings,
            state: State::Outside { not_before: now },
            id: "".into(),
            generation: Generation::NONE,
            owned: BTreeSet::new(),
            last: LastAssignment::default(),
            told: VecDeque::new(),
            rejoins: false,
            next_number: 0,
            heartbeat: None,
            next_heartbeat: now,
            last_poll: now,
            is_waiting: false,
        }
    }

    /// Who it is to the coordinator.
    pub(super) fn caller(&self) -> Caller {
        let instance_id = self.settings.instance_id.clone();
        Caller { member_id: self.id.clone(), instance_id, generation: self.generation }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    /// What it reads on while it joins.
    pub(super) fn owned(&self) -> &BTreeSet<TopicPartition> {
        &self.owned
    }

    pub(super) fn last(&self) -> &LastAssignment {
        &self.last
    }

    /// Whether it was assigned what it may assign anew to the others, if it leads.
    pub(super) fn is_stable(&self) -> bool {
        self.state == State::Stable
    }

    pub(super) fn is_fenced(&self) -> bool {
        self.state == State::Fenced
    }

    /// Whether it left for good.
    pub(super) fn has_left(&self) -> bool {
        self.state == State::Left
    }

    /// Whether a poll has something to do at `now`.
    pub(super) fn needs_poll(&self, now: Duration) -> bool {
        let is_due = match &self.state {
            State::Outside { not_before } => *not_before <= now,
            State::Leading(_) | State::Joined { .. } => true,
            State::Stable => self.rejoins,
            State::Joining { .. } | State::Syncing { .. } | State::Fenced | State::Left => false,
        };
        is_due || !self.told.is_empty()
    }

    /// When to ask for a step again, though nothing happens.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let is_member = !matches!(self.state, State::Outside { .. } | State::Fenced | State::Left);
        let silence = self.last_poll.saturating_add(self.settings.max_poll_interval);
        let silence = Some(silence).filter(|_| is_member && !self.is_waiting);
        let own = match self.state {
            State::Outside { not_before } if self.is_waiting => Some(not_before),
            State::Stable if self.heartbeat.is_none() => Some(self.next_heartbeat),
            _ => None,
        };
        silence.into_iter().chain(own).min()
    }
}

/// The application, and the time.
impl Member {
    /// The application is at it.
    pub(super) fn polled(&mut self, now: Duration) {
        self.last_poll = now;
        self.is_waiting = false;
    }

    /// It waits, for however long.
    pub(super) fn waits(&mut self) {
        self.is_waiting = true;
    }

    /// Lets it join again: it wants to read other topics, or leads and there are other partitions to divide.
    pub(super) fn rejoin(&mut self) {
        self.rejoins = true;
    }

    /// Its group rebalances: it asks now, not at its next heartbeat. Whether it can.
    pub(super) fn hurry(&mut self, now: Duration) -> bool {
        let is_stable = self.state == State::Stable;
        if is_stable {
            self.next_heartbeat = self.next_heartbeat.min(now);
        }
        is_stable
    }

    /// What to do next; none if nothing is due.
    pub(super) fn next(&mut self, by: By, now: Duration) -> Option<Step> {
        match by {
            By::Poll => self.next_of_poll(now).or_else(|| self.next_request(now)),
            By::Maintenance if self.is_silent(now) => self.fall_silent(now),
            By::Maintenance => self.next_request(now),
        }
    }

    fn next_of_poll(&mut self, now: Duration) -> Option<Step> {
        if let Some(told) = self.told.pop_front() {
            return Some(told);
        }
        if self.rejoins && self.state == State::Stable {
            if !self.settings.is_cooperative && !self.owned.is_empty() {
                return Some(Step::Revoked(mem::take(&mut self.owned)));
            }
            self.state = State::Outside { not_before: now };
        }
        match &self.state {
            State::Outside { not_before } if *not_before <= now => {
                // What was asked before is of a generation that is over.
                (self.rejoins, self.heartbeat) = (false, None);
                let number = self.number();
                self.state = State::Joining { number };
                Some(Step::Join { number, request: self.join() })
            }
            State::Leading(joined) => Some(Step::Assign(joined.clone())),
            _ => None,
        }
    }

    /// What can be asked without a word to the application.
    fn next_request(&mut self, now: Duration) -> Option<Step> {
        if let State::Joined { assignments } = &mut self.state {
            let assignments = mem::take(assignments);
            let number = self.number();
            self.state = State::Syncing { number };
            let (group, caller) = (self.settings.group.clone(), self.caller());
            let sync = SyncGroup { group, caller, protocol_type: None, protocol: None, assignments };
            return Some(Step::Ask { number, request: Request::Sync(sync) });
        }
        let is_due = self.state == State::Stable && self.heartbeat.is_none() && self.next_heartbeat <= now;
        if !is_due || probe::planted("consumer.no_heartbeat") {
            return None;
        }
        let number = self.number();
        self.heartbeat = Some(number);
        let heartbeat = Heartbeat { group: self.settings.group.clone(), caller: self.caller() };
        Some(Step::Ask { number, request: Request::Heartbeat(heartbeat) })
    }

    /// Whether the application was not heard of for longer than it may be.
    fn is_silent(&self, now: Duration) -> bool {
        let is_member = !matches!(self.state, State::Outside { .. } | State::Fenced | State::Left);
        let silence = now.saturating_sub(self.last_poll);
        is_member && !self.is_waiting && silence >= self.settings.max_poll_interval
    }

    /// Gives its place up, so that others read on. A static member keeps it until its session ends, as in Kafka.
    fn fall_silent(&mut self, now: Duration) -> Option<Step> {
        probe::reached("consumer.silent");
        let left = self.leaving();
        self.lose(now);
        if left.is_some() {
            self.id = "".into();
        }
        left.map(Step::Leave)
    }

    /// Leaves for good. What to ask, if there is anything to ask.
    pub(super) fn leave(&mut self) -> Option<LeaveGroup> {
        let left = self.leaving().filter(|_| !matches!(self.state, State::Fenced | State::Left));
        self.state = State::Left;
        (self.generation, self.owned) = (Generation::NONE, BTreeSet::new());
        left
    }

    fn leaving(&self) -> Option<LeaveGroup> {
        let is_asked = !self.id.is_empty() && self.settings.instance_id.is_none();
        let leaving = LeavingMember { member_id: self.id.clone(), instance_id: None };
        is_asked.then(|| LeaveGroup { group: self.settings.group.clone(), members: vec![leaving] })
    }

    fn join(&self) -> JoinGroup {
        JoinGroup {
            member_id: self.id.clone(),
            instance_id: self.settings.instance_id.clone(),
            client_id: self.settings.client_id.clone(),
            client_host: IN_PROCESS.into(),
            session_timeout: self.settings.session_timeout,
            rebalance_timeout: self.settings.rebalance_timeout,
            ..JoinGroup::new(&self.settings.group, 0)
        }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}

/// Answers.
impl Member {
    /// What the others get, as it is to be told them; it was asked by [`Step::Assign`].
    pub(super) fn assign(&mut self, assignments: Vec<(Box<str>, Arc<[u8]>)>) {
        if matches!(self.state, State::Leading(_)) {
            self.state = State::Joined { assignments };
        }
    }

    /// Takes in an answer. Returns what the application has to know of: nothing else helps.
    pub(super) fn answer(
        &mut self,
        number: u64,
        answer: Result<Answer, GroupError>,
        now: Duration,
    ) -> Option<GroupError> {
        match self.state {
            State::Joining { number: asked } if asked == number => self.join_answered(answer, now),
            State::Syncing { number: asked } if asked == number => self.sync_answered(answer, now),
            _ if self.heartbeat == Some(number) => {
                self.heartbeat_answered(answer.err(), now);
                None
            }
            _ => None,
        }
    }

    /// The request could not be asked at all: the disk is full, say.
    pub(super) fn failed(&mut self, number: u64, now: Duration) {
        self.answer(number, Err(GroupError::CoordinatorNotAvailable), now);
    }

    /// A commit, which carried this generation, was refused. Returns what the application is to be told.
    pub(super) fn refused(&mut self, error: GroupError, of: Generation, now: Duration) -> GroupError {
        match error {
            // Meanwhile maintenance took in that it is of a newer one: that says nothing of this. Or that it is out, already.
            GroupError::UnknownMemberId | GroupError::IllegalGeneration | GroupError::RebalanceInProgress
                if of != self.generation =>
            {
                return if self.generation.is_some() { GroupError::RebalanceInProgress } else { error };
            }
            // The generation that it asked to join has begun. It is not out: the answer is on its way.
            GroupError::IllegalGeneration if matches!(self.state, State::Joining { .. }) => {
                return GroupError::RebalanceInProgress;
            }
            GroupError::UnknownMemberId | GroupError::IllegalGeneration | GroupError::FencedInstanceId => {
                self.expelled(error, now);
            }
            GroupError::RebalanceInProgress => self.rejoins |= self.is_stable(),
            _ => {}
        }
        error
    }

    fn join_answered(&mut self, answer: Result<Answer, GroupError>, now: Duration) -> Option<GroupError> {
        match answer {
            Ok(Answer::Joined(joined)) => {
                (self.id, self.generation) = (joined.member_id.clone(), joined.generation);
                self.state = match joined.leader == joined.member_id {
                    true => State::Leading(joined),
                    false => State::Joined { assignments: Vec::new() },
                };
                None
            }
            Ok(Answer::MemberIdRequired { member_id }) => {
                self.id = member_id;
                self.state = State::Outside { not_before: now };
                None
            }
            Ok(_) => self.wait(now),
            Err(error) => self.not_in(error, now),
        }
    }

    fn sync_answered(&mut self, answer: Result<Answer, GroupError>, now: Duration) -> Option<GroupError> {
        match answer {
            Ok(Answer::Synced(synced)) => self.synced(&synced, now),
            Ok(_) => self.wait(now),
            Err(error) => self.not_in(error, now),
        }
    }

    /// It has an assignment.
    fn synced(&mut self, synced: &Synced, now: Duration) -> Option<GroupError> {
        let Ok(assigned) = MemberAssignment::decode(&synced.assignment) else {
            self.wait(now);
            return Some(GroupError::InconsistentGroupProtocol);
        };
        self.state = State::Stable;
        (self.heartbeat, self.next_heartbeat) = (None, now.saturating_add(self.settings.heartbeat_interval));
        let old = mem::replace(&mut self.owned, assigned.partitions);
        self.last = LastAssignment::new(self.owned.iter().cloned(), self.generation.0);
        let revoked: BTreeSet<_> = old.difference(&self.owned).cloned().collect();
        let added: BTreeSet<_> = self.owned.difference(&old).cloned().collect();
        if !revoked.is_empty() {
            probe::reached("consumer.gave_up");
            self.told.push_back(Step::Revoked(revoked));
            // Only then another is given them.
            self.rejoins |= !probe::planted("consumer.no_second_round");
        }
        self.told.push_back(Step::Assigned(added));
        None
    }

    fn heartbeat_answered(&mut self, error: Option<GroupError>, now: Duration) {
        self.heartbeat = None;
        self.next_heartbeat = now.saturating_add(self.settings.heartbeat_interval);
        match error {
            None => {}
            Some(GroupError::RebalanceInProgress) => self.rejoins |= self.is_stable(),
            Some(
                error @ (GroupError::UnknownMemberId | GroupError::IllegalGeneration | GroupError::FencedInstanceId),
            ) => self.expelled(error, now),
            Some(_) => self.next_heartbeat = now.saturating_add(RETRY),
        }
    }

    /// It could not become a member. Returns what the application has to know.
    fn not_in(&mut self, error: GroupError, now: Duration) -> Option<GroupError> {
        match error {
            GroupError::UnknownMemberId | GroupError::IllegalGeneration | GroupError::FencedInstanceId => {
                self.expelled(error, now);
                None
            }
            GroupError::RebalanceInProgress => {
                self.state = State::Outside { not_before: now };
                None
            }
            GroupError::CoordinatorLoadInProgress
            | GroupError::CoordinatorNotAvailable
            | GroupError::NotCoordinator => self.wait(now),
            error => {
                self.wait(now);
                Some(error)
            }
        }
    }

    /// It tries again later.
    fn wait(&mut self, now: Duration) -> Option<GroupError> {
        self.state = State::Outside { not_before: now.saturating_add(RETRY) };
        None
    }

    /// The coordinator does not know it as what it says it is.
    fn expelled(&mut self, error: GroupError, now: Duration) {
        probe::reached("consumer.expelled");
        if matches!(self.state, State::Fenced | State::Left) {
            return;
        }
        self.lose(now);
        match error {
            GroupError::UnknownMemberId => self.id = "".into(),
            GroupError::FencedInstanceId => self.state = State::Fenced,
            _ => {}
        }
    }

    /// It owns nothing any more, and joins anew.
    fn lose(&mut self, now: Duration) {
        // What it was not told of yet it never had, and what it was to give up it lost.
        let mut lost = mem::take(&mut self.owned);
        for step in self.told.drain(..) {
            match step {
                Step::Assigned(added) => lost.retain(|partition| !added.contains(partition)),
                Step::Revoked(revoked) | Step::Lost(revoked) => lost.extend(revoked),
                _ => {}
            }
        }
        if !lost.is_empty() && !probe::planted("consumer.lost_kept") {
            self.told.push_back(Step::Lost(lost));
        }
        (self.generation, self.last) = (Generation::NONE, LastAssignment::default());
        (self.heartbeat, self.rejoins) = (None, false);
        self.state = State::Outside { not_before: now };
    }
}

/// How long it waits before it asks again. Kafka: `retry.backoff.ms`.
const RETRY: Duration = Duration::from_millis(100);
