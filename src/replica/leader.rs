//! What the leader of a partition does: hand out batches, know who has them, say what is committed.
//!
//! ```text
//!  start        committed     held by B   held by C          end
//!    |--------------|------------|-----------|----------------|
//!     on all in sync   not on C      ...        here only
//! ```
//!
//! A follower's question for `next` says that it has all below, under this epoch: that, and nothing else, is progress. The
//! high watermark, `committed`, is what each replica of the *maximal* in-sync set has: those in sync, and those that the
//! controller was asked to add. Whichever of the two sets it knows, a record below is on all of it.
//!
//! Invariants:
//! - `committed` only rises, and not while fewer are in sync than the topic asks for (KIP-966).
//! - Nothing that was said under another epoch, or by another life of a node, counts; nor a question that is older than
//!   one that was heard (KAFKA-15221).
//! - One change of the in-sync set is on its way at a time. Until a newer assignment answers it, it may have come about.

use std::collections::{BTreeMap, VecDeque};
#[cfg(feature = "sim")]
use std::hash::{Hash, Hasher};
use std::time::Duration;

use super::{
    Answer, Assignment, EpochEnd, Fetch, Fetched, InSyncChange, Incarnation, LocalLog, Member, Refusal, ReplicaTiming,
};
use crate::probe;
use crate::types::{LeaderEpoch, NodeId, Offset};

/// The leader of one partition under one epoch: it hands out batches, knows who has them, and says what is committed.
///
/// ```
/// use std::time::Duration;
/// use chiplog::replica::*;
/// use chiplog::{LeaderEpoch, NodeId, Offset, TopicId};
///
/// let a = Member { node: NodeId(1), incarnation: Incarnation(1) };
/// let assignment = Assignment {
///     id: PartitionId { topic: TopicId::from_bytes([7; 16]), partition: 0 },
///     version: 0,
///     replicas: vec![a.node],
///     leader: Some(a),
///     leader_epoch: LeaderEpoch(0),
///     in_sync: vec![a],
///     min_in_sync: 1,
///     eligible: vec![],
///     unclean_epoch: None,
/// };
/// let (now, timing) = (Duration::ZERO, ReplicaTiming::default());
/// let mut leader = Leader::new(a, assignment, timing, LocalLog::default(), Offset(0), now);
/// leader.handle(LeaderEvent::Log(LocalLog { end: Offset(3), held: Offset(3), ..LocalLog::default() }), now);
/// assert_eq!(leader.poll(), Some(LeaderAction::Commit(Offset(3)))); // nobody else is in sync
/// ```
#[derive(Debug, Clone)]
pub struct Leader {
    local: Member,
    assignment: Assignment,
    timing: ReplicaTiming,
    log: LocalLog,
    /// Where the log ended when the epoch began.
    epoch_start: Offset,
    committed: Offset,
    followers: BTreeMap<NodeId, Progress>,
    /// The change that is on its way, and when it was asked for last.
    pending: Option<(InSyncChange, Duration)>,
    next_look: Duration,
    actions: VecDeque<LeaderAction>,
}

/// What a leader is told.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum LeaderEvent {
    /// The local log is this now.
    Log(LocalLog),
    /// A question came.
    Fetch {
        /// From this node.
        from: NodeId,
        /// The question.
        fetch: Fetch,
        /// Where the local log has [`Fetch::last_epoch`] end; `None` if that is unknown, or was not given.
        epoch_end: Option<EpochEnd>,
    },
    /// A newer assignment of the same leader and epoch.
    Assigned(Assignment),
    /// Time has passed.
    Tick,
}

/// What a leader wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaderAction {
    /// Read batches from `fetch.next` on, at most so many bytes, and answer by them: see [`Leader::batches`].
    Read {
        /// To whom.
        to: NodeId,
        /// The question.
        fetch: Fetch,
        /// Whether it is out of sync: what it is sent may be throttled.
        is_catching_up: bool,
    },
    /// Send this.
    Answer {
        /// To whom.
        to: NodeId,
        /// The answer.
        answer: Fetched,
    },
    /// Everything below is committed.
    Commit(Offset),
    /// Tell the controller that a follower has less than it had said.
    Lost(Member),
    /// Ask the controller for this. It is asked for again until a newer assignment comes.
    Propose(InSyncChange),
}

/// How far a follower has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FollowerProgress {
    /// The node.
    pub node: NodeId,
    /// It has everything below; `None` until it has asked under this epoch.
    pub held: Option<Offset>,
    /// How many offsets it is behind the leader's end.
    pub behind: u64,
    /// How long ago it had everything that the leader had then; `None`: never under this epoch.
    pub lag: Option<Duration>,
    /// Whether it is in sync.
    pub is_in_sync: bool,
}

#[derive(Debug, Clone, Default)]
struct Progress {
    incarnation: Option<Incarnation>,
    /// The number of its last question.
    number: u64,
    held: Option<Offset>,
    /// When it last had all that was there.
    caught_up: Option<Duration>,
    /// When it asked last, and where the log ended then.
    asked: Option<(Duration, Offset)>,
    /// What it was told last is committed.
    told: Offset,
    /// The controller left it out: it is not asked before.
    left_out_until: Option<Duration>,
    /// What a life before this one had, which this one is to go on from; until it has asked.
    owed: Option<Offset>,
    parked: Option<Parked>,
}

/// A question that waits for something new.
#[derive(Debug, Clone)]
struct Parked {
    fetch: Fetch,
    until: Duration,
    /// Not before, whatever comes.
    is_throttled: bool,
}

impl Leader {
    /// The leader of `assignment`, which says that `local` is. The epoch is in the log already. `committed` is what this
    /// node knew to be committed before.
    #[must_use]
    pub fn new(
        local: Member,
        assignment: Assignment,
        timing: ReplicaTiming,
        log: LocalLog,
        committed: Offset,
        now: Duration,
    ) -> Self {
        let mut leader = Self {
            local,
            assignment,
            timing,
            log,
            epoch_start: log.end,
            committed: committed.min(log.end),
            followers: BTreeMap::new(),
            pending: None,
            next_look: now + timing.lag_time / 2,
            actions: VecDeque::new(),
        };
        // Who is in sync has until the lag time to show it.
        for member in leader.in_sync_followers().collect::<Vec<_>>() {
            let known = Progress { caught_up: Some(now), ..Progress::of(member.incarnation) };
            leader.followers.insert(member.node, known);
        }
        leader.commit(now);
        leader
    }

    /// Takes an event into account.
    pub fn handle(&mut self, event: LeaderEvent, now: Duration) {
        match event {
            LeaderEvent::Log(log) => self.grown(log, now),
            LeaderEvent::Fetch { from, fetch, epoch_end } => self.fetch(from, fetch, epoch_end, now),
            LeaderEvent::Assigned(assignment) => self.assigned(assignment, now),
            LeaderEvent::Tick => self.tick(now),
        }
    }

    /// The next thing to do. To be drained after each event.
    pub fn poll(&mut self) -> Option<LeaderAction> {
        self.actions.pop_front()
    }

    /// When there is something to do though nothing happens.
    #[must_use]
    pub fn next_deadline(&self) -> Duration {
        let parked =
            self.followers.values().filter_map(|follower| follower.parked.as_ref()).map(|parked| parked.until);
        let proposed = self.pending.iter().map(|(_, at)| *at + self.timing.retry);
        parked.chain(proposed).fold(self.next_look, Duration::min)
    }

    /// Everything below is committed.
    #[must_use]
    pub fn committed(&self) -> Offset {
        self.committed
    }

    /// Where the local log ends, as far as it was told.
    #[must_use]
    pub fn log_end(&self) -> Offset {
        self.log.end
    }

    /// What the controller said last.
    #[must_use]
    pub fn assignment(&self) -> &Assignment {
        &self.assignment
    }

    /// Whether a follower waits for the log to grow.
    #[must_use]
    pub fn has_parked(&self) -> bool {
        let parked = self.followers.values().filter_map(|follower| follower.parked.as_ref());
        parked.into_iter().any(|parked| !parked.is_throttled)
    }

    /// How far each follower has come, in the order of their nodes.
    pub fn followers(&self, now: Duration) -> impl Iterator<Item = FollowerProgress> {
        self.assignment.replicas.iter().filter(|node| **node != self.local.node).map(move |node| {
            let known = self.followers.get(node);
            let held = known.and_then(|known| known.held);
            FollowerProgress {
                node: *node,
                held,
                behind: self.log.end - held.unwrap_or(self.log.start).min(self.log.end),
                lag: known.and_then(|known| known.caught_up).map(|at| now.saturating_sub(at)),
                is_in_sync: self.assignment.in_sync.iter().any(|member| member.node == *node),
            }
        })
    }

    /// The answer by batches to a question, made after they were read: with what is committed now.
    pub fn batches(&mut self, to: NodeId, fetch: &Fetch, batches: super::Payload) -> Fetched {
        let (committed, start, end) = (self.committed, self.log.start, self.log.end);
        if let Some(follower) = self.followers.get_mut(&to) {
            follower.told = committed;
        }
        self.answer(fetch, Answer::Batches { committed, start, end, batches })
    }

    /// Keeps a question until then: what the follower is sent is throttled.
    pub fn postpone(&mut self, to: NodeId, fetch: Fetch, until: Duration) {
        if let Some(follower) = self.followers.get_mut(&to) {
            follower.parked = Some(Parked { fetch, until, is_throttled: true });
        }
    }

    /// An answer to a question.
    #[must_use]
    pub fn answer(&self, fetch: &Fetch, answer: Answer) -> Fetched {
        let leader_epoch = self.assignment.leader_epoch;
        let Fetch { id, incarnation, number, .. } = *fetch;
        Fetched { id, leader_epoch, incarnation, number, answer }
    }

    fn grown(&mut self, log: LocalLog, now: Duration) {
        self.log = log;
        self.commit(now);
        self.answer_parked(now);
    }

    fn fetch(&mut self, from: NodeId, fetch: Fetch, epoch_end: Option<EpochEnd>, now: Duration) {
        let epoch = self.assignment.leader_epoch;
        if fetch.leader_epoch != epoch {
            let older = fetch.leader_epoch < epoch;
            return self.refuse(from, &fetch, if older { Refusal::Fenced } else { Refusal::Unknown });
        }
        if !self.may_ask(from, fetch.incarnation) {
            return self.refuse(from, &fetch, Refusal::NotReplica);
        }
        let known = self.followers.entry(from).or_default();
        if known.incarnation != Some(fetch.incarnation) {
            *known = Progress::of(fetch.incarnation);
        } else if fetch.number <= known.number {
            probe::reached("replica.late_fetch");
            return;
        }
        known.number = fetch.number;
        known.parked = None;
        if let Some(answer) = self.misses(&fetch, epoch_end) {
            // It does not have what it said it had, or asks for what nobody has.
            probe::reached("replica.diverging");
            if let Some(known) = self.followers.get_mut(&from) {
                (known.held, known.asked) = (None, None);
            }
            let answer = self.answer(&fetch, answer);
            return self.actions.push_back(LeaderAction::Answer { to: from, answer });
        }
        self.progressed(from, &fetch, now);
        self.check_owed(from);
        self.expand(from, now);
        self.commit(now);
        if fetch.next < self.log.end {
            self.read(from, fetch);
        } else if let Some(known) = self.followers.get_mut(&from) {
            let is_news = known.told < self.committed;
            let wait = if is_news { self.timing.commit_delay } else { self.timing.fetch_wait };
            known.parked = Some(Parked { fetch, until: now + wait, is_throttled: false });
        }
    }

    /// Whether the node holds the partition; and, if it is in sync, lives the life that is.
    fn may_ask(&self, from: NodeId, incarnation: Incarnation) -> bool {
        let in_sync = self.assignment.in_sync.iter().find(|member| member.node == from);
        let is_of_life = in_sync.is_none_or(|member| member.incarnation == incarnation);
        from != self.local.node && self.assignment.replicas.contains(&from) && is_of_life
    }

    /// What the follower is told whose log does not go on in ours.
    fn misses(&self, fetch: &Fetch, epoch_end: Option<EpochEnd>) -> Option<Answer> {
        let LocalLog { start, end, .. } = self.log;
        let out_of_range = Answer::OutOfRange { start, end };
        let Some(last_epoch) = fetch.last_epoch else {
            return (fetch.next < start || fetch.next > end).then_some(out_of_range);
        };
        let Some(epoch_end) = epoch_end else {
            // It knows an epoch that is later than any of ours, and still follows this one.
            return Some(Answer::Refused(Refusal::Unknown));
        };
        if fetch.next < start {
            return Some(out_of_range);
        }
        let parts = epoch_end.epoch < last_epoch || epoch_end.end < fetch.next;
        parts.then_some(Answer::Diverging(epoch_end))
    }

    fn progressed(&mut self, from: NodeId, fetch: &Fetch, now: Duration) {
        let end = self.log.end;
        let Some(known) = self.followers.get_mut(&from) else { return };
        // A follower that keeps asking and is always a little behind has caught up with what there was when it asked before.
        known.caught_up = match known.asked {
            _ if fetch.next >= end => Some(now),
            Some((at, end_then)) if fetch.next >= end_then => known.caught_up.max(Some(at)),
            _ => known.caught_up,
        };
        known.asked = Some((now, end));
        known.held = Some(fetch.held.min(fetch.next));
    }

    /// A life that goes on from another one has what that one had: else its directory was put back from a copy, and nobody
    /// noticed. The controller is to know.
    fn check_owed(&mut self, from: NodeId) {
        let Some(known) = self.followers.get_mut(&from) else { return };
        let has_less = known.owed.take().is_some_and(|owed| known.held < Some(owed));
        if let Some(incarnation) = known.incarnation.filter(|_| has_less) {
            probe::reached("replica.owes");
            self.actions.push_back(LeaderAction::Lost(Member { node: from, incarnation }));
        }
    }

    /// Asks for the follower to be in sync, if it has all that may be committed.
    fn expand(&mut self, from: NodeId, now: Duration) {
        let Some(known) = self.followers.get(&from) else { return };
        let (Some(incarnation), Some(held)) = (known.incarnation, known.held) else { return };
        let member = Member { node: from, incarnation };
        let has_all = held >= self.committed.max(self.epoch_start) || probe::planted("replica.joins_behind");
        let is_left_out = known.left_out_until.is_some_and(|until| now < until);
        if self.pending.is_some() || self.assignment.is_in_sync(member) || !has_all || is_left_out {
            return;
        }
        let mut in_sync = self.assignment.in_sync.clone();
        in_sync.push(member);
        in_sync.sort_unstable();
        self.propose(in_sync, now);
    }

    /// Asks for those to leave that have not caught up for long.
    fn shrink(&mut self, now: Duration) {
        if self.pending.is_some() {
            return;
        }
        let is_late = |member: &Member| {
            let known = self.followers.get(&member.node);
            let has_all = known.is_some_and(|known| known.held >= Some(self.log.end));
            let caught_up = known.and_then(|known| known.caught_up).unwrap_or_default();
            !has_all && now.saturating_sub(caught_up) > self.timing.lag_time
        };
        let stays = |member: &&Member| **member == self.local || !is_late(member);
        let in_sync: Vec<Member> = self.assignment.in_sync.iter().filter(stays).copied().collect();
        if in_sync.len() < self.assignment.in_sync.len() {
            probe::reached("replica.shrink");
            self.propose(in_sync, now);
        }
    }

    fn propose(&mut self, in_sync: Vec<Member>, now: Duration) {
        let Assignment { id, version, leader_epoch, .. } = self.assignment;
        let change = InSyncChange { id, leader: self.local, leader_epoch, version, in_sync };
        self.actions.push_back(LeaderAction::Propose(change.clone()));
        self.pending = Some((change, now));
    }

    /// Raises `committed` to what all have that must.
    fn commit(&mut self, now: Duration) {
        if !self.assignment.has_enough() && !probe::planted("replica.commits_below_minimum") {
            return;
        }
        let mut least = self.log.held;
        let all = self.in_sync_followers().chain(self.joining());
        for member in all.filter(|_| !probe::planted("replica.acked_by_one")) {
            least = least.min(self.held_by(member).unwrap_or(Offset::ZERO));
        }
        // One that is about to join would not come to it if the others never waited.
        for (node, known) in &self.followers {
            let is_near = known.caught_up.is_some_and(|at| now.saturating_sub(at) <= self.timing.fetch_wait * 2);
            let is_replica = self.assignment.replicas.contains(node);
            if let Some(held) = known.held.filter(|_| is_near && is_replica) {
                least = least.min(held);
            }
        }
        if least > self.committed {
            self.committed = least;
            self.actions.push_back(LeaderAction::Commit(least));
            self.tell_committed(now);
        }
    }

    /// Sees to it that those who wait hear soon of what is committed.
    fn tell_committed(&mut self, now: Duration) {
        let (committed, soon) = (self.committed, now + self.timing.commit_delay);
        for known in self.followers.values_mut().filter(|known| known.told < committed) {
            if let Some(parked) = known.parked.as_mut().filter(|parked| !parked.is_throttled) {
                parked.until = parked.until.min(soon);
            }
        }
    }

    fn held_by(&self, member: Member) -> Option<Offset> {
        let known = self.followers.get(&member.node)?;
        known.held.filter(|_| known.is_of(member))
    }

    fn in_sync_followers(&self) -> impl Iterator<Item = Member> {
        self.assignment.in_sync.iter().copied().filter(|member| *member != self.local)
    }

    /// Those that the controller was asked to add.
    fn joining(&self) -> impl Iterator<Item = Member> {
        let asked = self.pending.iter().flat_map(|(change, _)| change.in_sync.iter().copied());
        asked.filter(|member| !self.assignment.is_in_sync(*member))
    }

    fn assigned(&mut self, assignment: Assignment, now: Duration) {
        let is_newer = assignment.version > self.assignment.version;
        let is_ours =
            assignment.leader == Some(self.local) && assignment.leader_epoch == self.assignment.leader_epoch;
        if !is_newer || !is_ours {
            return;
        }
        let before = std::mem::replace(&mut self.assignment, assignment);
        if let Some((change, _)) = self.pending.take()
            && self.assignment.in_sync == before.in_sync
        {
            // One that is not registered, say. Others are to come in meanwhile, or to leave.
            probe::reached("replica.left_out");
            let until = now + self.timing.retry;
            for member in change.in_sync.iter().filter(|member| !before.is_in_sync(**member)) {
                self.followers.entry(member.node).and_modify(|known| known.left_out_until = Some(until));
            }
        }
        self.followers.retain(|node, _| self.assignment.replicas.contains(node));
        for member in self.in_sync_followers().collect::<Vec<_>>() {
            let known = self.followers.entry(member.node).or_default();
            if known.incarnation != Some(member.incarnation) {
                let owed = known.held.or(known.owed);
                *known = Progress { caught_up: Some(now), owed, ..Progress::of(member.incarnation) };
            }
        }
        for member in before.in_sync.iter().filter(|member| !self.assignment.is_in_sync(**member)) {
            // Nobody waits for it until it has caught up again.
            if let Some(known) = self.followers.get_mut(&member.node).filter(|known| known.is_of(*member)) {
                (known.caught_up, known.asked) = (None, None);
            }
        }
        self.commit(now);
    }

    fn tick(&mut self, now: Duration) {
        self.commit(now);
        self.answer_parked(now);
        if let Some((change, at)) = &mut self.pending
            && now >= *at + self.timing.retry
        {
            *at = now;
            self.actions.push_back(LeaderAction::Propose(change.clone()));
        }
        if now >= self.next_look {
            self.next_look = now + self.timing.lag_time / 2;
            self.shrink(now);
        }
    }

    /// Answers those for whom there is something new, or who have waited long enough.
    fn answer_parked(&mut self, now: Duration) {
        let end = self.log.end;
        let mut ready = Vec::new();
        for (node, known) in &mut self.followers {
            let is_due = |parked: &mut Parked| parked.fetch.next < end && !parked.is_throttled || now >= parked.until;
            ready.extend(known.parked.take_if(is_due).map(|parked| (*node, parked.fetch)));
        }
        for (to, fetch) in ready {
            self.read(to, fetch);
        }
    }

    fn read(&mut self, to: NodeId, fetch: Fetch) {
        let is_catching_up = !self.assignment.in_sync.iter().any(|member| member.node == to);
        self.actions.push_back(LeaderAction::Read { to, fetch, is_catching_up });
    }

    fn refuse(&mut self, to: NodeId, fetch: &Fetch, refusal: Refusal) {
        let answer = self.answer(fetch, Answer::Refused(refusal));
        self.actions.push_back(LeaderAction::Answer { to, answer });
    }

    /// The epoch it leads.
    #[must_use]
    pub fn epoch(&self) -> LeaderEpoch {
        self.assignment.leader_epoch
    }
}

/// For who compares states.
#[cfg(feature = "sim")]
impl Leader {
    /// All that its behavior from `now` on depends on. Of a time it is told only how long ago it was as compared with how long
    /// it counts, or whether it is over; of a version, and of the number of a question in some life, what it is called there.
    pub(crate) fn shape(
        &self,
        now: Duration,
        version: &mut dyn FnMut(u64) -> u64,
        number: &mut dyn FnMut(Incarnation, u64) -> u64,
        into: &mut impl Hasher,
    ) {
        // Of one that is in sync, whether it is late; of another, whether it is waited for, too.
        let near = self.timing.fetch_wait * 2;
        let age = |at: Duration, is_in_sync: bool| {
            let age = now.saturating_sub(at);
            u8::from(age > self.timing.lag_time) * 2 + u8::from(age > near && !is_in_sync)
        };
        let is_ahead = |at: Duration| at > now;
        let Assignment { in_sync, eligible, leader_epoch, unclean_epoch, min_in_sync, .. } = &self.assignment;
        (self.local, in_sync, eligible, leader_epoch, unclean_epoch, min_in_sync).hash(into);
        (version(self.assignment.version), &self.assignment.replicas).hash(into);
        (self.log.start, self.log.end, self.log.held, self.epoch_start, self.committed).hash(into);
        is_ahead(self.next_look).hash(into);
        if let Some((change, at)) = &self.pending {
            (version(change.version), &change.in_sync, is_ahead(*at + self.timing.retry)).hash(into);
        }
        for (node, known) in &self.followers {
            let called = known.incarnation.map(|life| number(life, known.number));
            (node, known.incarnation, called, known.held, known.owed).hash(into);
            let is_in_sync = in_sync.iter().any(|member| member.node == *node && known.is_of(*member));
            let caught_up = known.caught_up.map(|at| age(at, is_in_sync));
            let asked = known.asked.map(|(at, end)| (age(at, is_in_sync), end));
            // Else nothing comes of it that is not so already.
            (caught_up, asked.filter(|(age, _)| caught_up.is_none_or(|caught_up| *age < caught_up))).hash(into);
            known.left_out_until.is_some_and(is_ahead).hash(into);
            let hears_sooner = self.timing.commit_delay < self.timing.fetch_wait;
            hears_sooner.then_some(known.told).hash(into);
            if let Some(Parked { fetch, until, is_throttled }) = &known.parked {
                let called = number(fetch.incarnation, fetch.number);
                (called, fetch.next, fetch.held, fetch.last_epoch, is_ahead(*until), is_throttled).hash(into);
            }
        }
    }

    /// Whether a question of the node waits.
    pub(crate) fn has_parked_of(&self, node: NodeId) -> bool {
        self.followers.get(&node).is_some_and(|known| known.parked.is_some())
    }
}

impl Progress {
    fn of(incarnation: Incarnation) -> Self {
        Self { incarnation: Some(incarnation), ..Self::default() }
    }

    fn is_of(&self, member: Member) -> bool {
        self.incarnation == Some(member.incarnation)
    }
}
