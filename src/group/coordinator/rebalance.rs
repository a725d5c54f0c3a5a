//! How a group comes to its next generation, and what the time does to it.
//!
//! A rebalance always ends: each phase has a deadline, and who misses it is a member no longer.
//!
//! | Waited for                          | How long                                          | Then                      |
//! |-------------------------------------|---------------------------------------------------|---------------------------|
//! | the first members of an empty group | the initial delay, prolonged by each that comes   | it goes on with those     |
//! | all members, to join                | the longest rebalance time-out of them            | the dynamic rest is out   |
//! | the members, to sync                | the same                                          | the rest is out           |
//! | a sign of life                      | the member's session time-out                     | it is out                 |
//! | an id, to be joined with            | the session time-out it asked with                | it is forgotten           |

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::action::Answer;
use super::group::{Group, Initial, Phase, Turn};
use super::member::Member;
use crate::error::GroupError;
use crate::probe;

impl Group {
    /// Begins a rebalance, or goes on with the one under way.
    pub(super) fn rebalance(&mut self, turn: &mut Turn<'_>) {
        match self.phase {
            Phase::Preparing { .. } => self.complete_if_all_joined(turn),
            _ => self.prepare(turn),
        }
    }

    fn prepare(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now.monotonic;
        if self.phase == Phase::Completing {
            for member in self.members.values_mut().filter(|member| member.syncing.is_some()) {
                turn.refuse(member.syncing.take(), GroupError::RebalanceInProgress);
                member.touch(now);
            }
        }
        self.sync_deadline = None;
        let timeout = self.rebalance_timeout();
        if self.phase == Phase::Empty {
            let delay = turn.config.initial_rebalance_delay;
            let initial = Initial { remaining: timeout.saturating_sub(delay), has_new: false };
            self.phase = Phase::Preparing { deadline: now.saturating_add(delay), initial: Some(initial) };
            return;
        }
        let deadline =
            if probe::planted("group.join_without_end") { Duration::MAX } else { now.saturating_add(timeout) };
        self.phase = Phase::Preparing { deadline, initial: None };
        self.complete_if_all_joined(turn);
    }

    /// Ends the join phase if nobody is waited for. The first one waits for those that are not known yet.
    pub(super) fn complete_if_all_joined(&mut self, turn: &mut Turn<'_>) {
        let Phase::Preparing { initial, .. } = self.phase else { return };
        let is_over = initial.is_none() || self.members.is_empty();
        if is_over && self.pending.is_empty() && self.joining_count() == self.members.len() {
            self.complete(turn);
        }
    }

    /// Ends the join phase: those that joined make up the next generation. Static members that did not stay until their
    /// session ends (KIP-345).
    fn complete(&mut self, turn: &mut Turn<'_>) {
        let mut out = Vec::new();
        for (id, member) in &self.members {
            if member.joining.is_none() && member.instance_id.is_none() {
                out.push(id.clone());
            }
        }
        out.iter().for_each(|id| self.remove(id, turn));
        if self.members.is_empty() {
            return self.become_empty(turn);
        }
        if !self.elect() {
            let again = self.rebalance_timeout().max(LEAST_WAIT);
            self.phase = Phase::Preparing { deadline: turn.now.monotonic.saturating_add(again), initial: None };
            return;
        }
        self.next_generation();
        self.protocol = self.select_protocol();
        self.phase = Phase::Completing;
        self.since = turn.now.wall;
        self.sync_deadline = Some(turn.now.monotonic.saturating_add(self.rebalance_timeout()));
        let mut joined = Vec::new();
        for (id, member) in &mut self.members {
            member.assignment = Arc::default();
            member.has_synced = false;
            member.is_new = false;
            member.touch(turn.now.monotonic);
            joined.extend(member.joining.take().map(|token| (token, id.clone())));
        }
        for (token, id) in joined {
            turn.reply(token, Ok(Answer::Joined(self.joined(&id, self.leads(&id)))));
        }
    }

    fn become_empty(&mut self, turn: &mut Turn<'_>) {
        self.next_generation();
        self.protocol = None;
        self.leader = None;
        self.phase = Phase::Empty;
        self.since = turn.now.wall;
        turn.effects.store = true;
    }

    fn next_generation(&mut self) {
        if !probe::planted("group.generation_kept") {
            self.generation = self.generation.next();
        }
    }

    /// Sees to it that the leader is one that joined. The first member leads, as long as it does.
    fn elect(&mut self) -> bool {
        if self.leader.as_deref().is_some_and(|leader| self.waits_to_join(leader)) {
            return true;
        }
        let oldest = self.by_seniority().find(|(_, member)| member.joining.is_some()).map(|(id, _)| id.into());
        let is_found = oldest.is_some();
        self.leader = oldest.or_else(|| self.leader.take());
        is_found
    }

    /// The protocol that most members prefer, of those that all support; of several, the one that the oldest member names
    /// first.
    pub(super) fn select_protocol(&self) -> Option<Box<str>> {
        let is_candidate = |name: &str| self.members.values().all(|member| member.supports(name));
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            let vote = member.protocols.iter().find(|protocol| is_candidate(&protocol.name));
            *votes.entry(vote.map_or("", |protocol| &protocol.name)).or_default() += 1;
        }
        let most = votes.values().max()?;
        let (_, oldest) = self.by_seniority().next()?;
        let mut names = oldest.protocols.iter().map(|protocol| &protocol.name);
        names.find(|name| votes.get(&***name) == Some(most)).cloned()
    }

    /// The longest of any member.
    fn rebalance_timeout(&self) -> Duration {
        self.members.values().map(|member| member.rebalance_timeout).max().unwrap_or_default()
    }

    /// What follows when members, or ids that were waited for, went.
    pub(super) fn members_went(&mut self, has_members_gone: bool, turn: &mut Turn<'_>) {
        match self.phase {
            Phase::Preparing { .. } => self.complete_if_all_joined(turn),
            Phase::Completing | Phase::Stable if has_members_gone => self.rebalance(turn),
            _ => {}
        }
    }
}

/// The time.
impl Group {
    /// Does what is due.
    pub(super) fn pass_time(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now.monotonic;
        let count = self.members.len();
        self.pending.retain(|_, deadline| *deadline > now);
        let is_missed = self.sync_deadline.is_some_and(|deadline| deadline <= now);
        let mut out = Vec::new();
        for (id, member) in &self.members {
            if member.due().is_some_and(|due| due <= now) || (is_missed && !member.has_synced) {
                out.push(id.clone());
            }
        }
        out.iter().for_each(|id| self.remove(id, turn));
        if is_missed {
            self.sync_deadline = None;
        }
        self.members_went(self.members.len() < count, turn);
        if let Phase::Preparing { deadline, initial } = self.phase
            && deadline <= now
        {
            match initial {
                Some(initial) if initial.has_new && !initial.remaining.is_zero() => self.prolong(initial, turn),
                _ => self.complete(turn),
            }
        }
    }

    /// Waits once more for whoever may come.
    fn prolong(&mut self, initial: Initial, turn: &Turn<'_>) {
        let delay = turn.config.initial_rebalance_delay.min(initial.remaining);
        let initial = Initial { remaining: initial.remaining.saturating_sub(delay), has_new: false };
        self.phase = Phase::Preparing { deadline: turn.now.monotonic.saturating_add(delay), initial: Some(initial) };
    }

    /// When something is due next.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let phase = match self.phase {
            Phase::Preparing { deadline, .. } => Some(deadline),
            _ => self.sync_deadline,
        };
        let members = self.members.values().filter_map(Member::due);
        phase.into_iter().chain(members).chain(self.pending.values().copied()).min()
    }

    /// Starts the sessions of members that were loaded.
    pub(super) fn start(&mut self, turn: &mut Turn<'_>) {
        self.members.values_mut().for_each(|member| member.touch(turn.now.monotonic));
        if self.members.len() > turn.config.max_members as usize {
            // The setting was lowered. Who joins last is turned away.
            self.rebalance(turn);
        }
    }
}

/// How long it is waited once more if nobody joined at all, at least: so long that it is no loop.
const LEAST_WAIT: Duration = Duration::from_secs(1);
