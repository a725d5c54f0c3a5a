//! What makes a consumer a member: the [`Member`] that decides, the coordinator that it asks, and who lets time pass.
//!
//! ```text
//! poll -----------------+                        +--> Log::ask_coordinator
//!   listener, assignors |                        |            |
//!                       +--> Shared { Member } --+ <------- Reply
//! maintenance ----------+                                     |
//!   heartbeats only                                         Alarm --> wakes the poll
//! ```
//!
//! Invariants:
//! - The lock is held while the member decides, never while something is asked or somebody is called.
//! - Maintenance asks what needs no word of the application's, so it calls no code of the application.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use super::builder::{Interest, Joining};
use super::fetch::look_for;
use super::listener::RebalanceListener;
use super::member::{By, Member, Step};
use super::wait::Alarm;
use crate::error::{Error, GroupError, Result};
use crate::group::assign::protocol::{MemberAssignment, Subscription, Version};
use crate::group::assign::{Assignor, GroupView, MemberView};
use crate::group::{Answer, Caller, Generation, JoinGroup, Joined, Protocol, Request};
use crate::log::{Log, LogInside, Reply, Tended};
use crate::probe;
use crate::types::{INTERNAL_TOPICS, TopicPartition};

/// A member and its part of the work that is done in polls.
pub(super) struct Membership {
    log: Log,
    pub(super) shared: Arc<Shared>,
    pub(super) listener: Option<Box<dyn RebalanceListener>>,
    assignors: Vec<Arc<dyn Assignor>>,
    interest: Interest,
    group: Box<str>,
    /// The version of the topics when they were looked at last.
    topics_version: Option<u64>,
    /// What it wants to read.
    subscribed: BTreeSet<Arc<str>>,
    /// What it divided last, as the leader.
    divided: Option<BTreeMap<Arc<str>, u32>>,
    /// Assigned, and could not be opened: looked for again when topics come and go.
    pub(super) missing: BTreeSet<TopicPartition>,
}

/// What polls and maintenance share.
pub(super) struct Shared {
    log: LogInside,
    pub(super) alarm: Arc<Alarm>,
    waker: Waker,
    group: Box<str>,
    /// Whether its group rebalances, as far as that was not asked since.
    is_hurried: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    member: Member,
    asked: Vec<Asked>,
    /// What the next poll returns.
    failure: Option<Error>,
    /// What maintenance was told last.
    expected: Option<Duration>,
    /// The topics that the last poll saw.
    topics_version: u64,
}

/// A request that was not answered yet.
#[derive(Debug)]
struct Asked {
    number: u64,
    reply: Reply,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("group", &self.group).finish()
    }
}

impl Shared {
    /// The next step, with all answers that came taken in.
    fn next(&self, by: By, now: Duration) -> Option<Step> {
        self.collect(by, now);
        let mut state = self.state.lock();
        if by == By::Poll {
            state.member.polled(now);
        }
        if self.is_hurried.load(Ordering::Acquire) && state.member.hurry(now) {
            self.is_hurried.store(false, Ordering::Release);
        }
        state.member.next(by, now)
    }

    /// Takes in the answers that came.
    fn collect(&self, by: By, now: Duration) {
        let asked = mem::take(&mut self.state.lock().asked);
        if asked.is_empty() {
            return;
        }
        // Without the lock: a sync may be waited for, and then others are told of it.
        let (mut answers, mut unanswered) = (Vec::new(), Vec::new());
        for Asked { number, mut reply } in asked {
            match self.look_for(&mut reply, by) {
                Some(answer) => answers.push((number, answer)),
                None => unanswered.push(Asked { number, reply }),
            }
        }
        let mut state = self.state.lock();
        state.asked.append(&mut unanswered);
        for (number, answer) in answers {
            state.take_in(number, answer, &self.group, now);
        }
    }

    /// The answer, if it is there. Maintenance does not wait for a sync.
    fn look_for(&self, reply: &mut Reply, by: By) -> Option<Result<Answer>> {
        if by == By::Poll {
            return look_for(reply, &self.waker);
        }
        match Pin::new(reply).poll(&mut Context::from_waker(&self.waker)) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        }
    }

    fn ask(&self, number: u64, request: Request) {
        let reply = self.log.ask_coordinator(request);
        self.state.lock().asked.push(Asked { number, reply });
    }

    #[cfg(all(test, feature = "sim"))]
    pub(super) fn generation(&self) -> i32 {
        self.state.lock().member.generation().0
    }

    /// What the group calls it, once it did.
    pub(super) fn member_id(&self) -> Option<Box<str>> {
        let state = self.state.lock();
        Some(state.member.id()).filter(|id| !id.is_empty()).map(Into::into)
    }

    /// Who it is, if it is a member.
    pub(super) fn caller(&self) -> Result<Caller> {
        // It may be of a newer generation than it knows.
        self.collect(By::Poll, self.log.clock().monotonic());
        let state = self.state.lock();
        match state.member.generation().is_some() {
            true => Ok(state.member.caller()),
            // The group may have no members by now, and would take it for somebody who commits without being one.
            false => Err(Error::GroupRefused { group: self.group.clone(), reason: GroupError::UnknownMemberId }),
        }
    }

    /// A commit of this generation was refused.
    pub(super) fn refused(&self, reason: GroupError, of: Generation) -> Error {
        let reason = self.state.lock().member.refused(reason, of, self.log.clock().monotonic());
        Error::GroupRefused { group: self.group.clone(), reason }
    }

    /// A poll waits from here on, if `is_waiting`; else the application is at it.
    pub(super) fn waits(&self, is_waiting: bool) {
        let now = self.log.clock().monotonic();
        let mut state = self.state.lock();
        match is_waiting {
            true => state.member.waits(),
            false => state.member.polled(now),
        }
        drop(state);
        self.expect();
    }

    /// When a poll, or maintenance, has to come by.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.state.lock().member.next_deadline()
    }

    /// Tells maintenance when to come by, if that is news.
    fn expect(&self) {
        let mut state = self.state.lock();
        let next = state.member.next_deadline();
        let is_news = next != mem::replace(&mut state.expected, next);
        drop(state);
        if let Some(next) = next.filter(|_| is_news) {
            self.log.expect_by(next);
        }
    }

    /// Leaves for good. The answer, if there was anything to ask.
    pub(super) fn leave(&self) -> Option<Reply> {
        let left = self.state.lock().member.leave();
        left.map(|leave| self.log.ask_coordinator(Request::Leave(leave)))
    }
}

impl State {
    fn take_in(&mut self, number: u64, answer: Result<Answer>, group: &str, now: Duration) {
        let told = match answer {
            Ok(answer) => self.member.answer(number, Ok(answer), now),
            Err(Error::GroupRefused { reason, .. }) => self.member.answer(number, Err(reason), now),
            Err(error) => {
                self.member.failed(number, now);
                self.failure.get_or_insert(error);
                None
            }
        };
        if let Some(reason) = told {
            self.failure.get_or_insert(Error::GroupRefused { group: group.into(), reason });
        }
    }
}

impl Tended for Shared {
    fn tend(&self, now: Duration) -> Option<Duration> {
        while let Some(step) = self.next(By::Maintenance, now) {
            match step {
                Step::Ask { number, request } => self.ask(number, request),
                // Nobody waits for the answer: what it is asked for happens at once.
                Step::Leave(leave) => drop(self.log.ask_coordinator(Request::Leave(leave))),
                _ => break,
            }
        }
        self.collect(By::Maintenance, now);
        let mut state = self.state.lock();
        let is_due = state.member.needs_poll(now) || state.failure.is_some();
        let next = state.member.next_deadline();
        state.expected = next;
        let is_due = is_due || state.topics_version != self.log.topics_version();
        drop(state);
        if is_due {
            self.alarm.ring();
        }
        next
    }

    fn rebalancing(&self, groups: &BTreeSet<Box<str>>) {
        if groups.contains(&self.group) {
            // Who polls is woken by maintenance, which comes at once: here others may hold locks.
            self.is_hurried.store(true, Ordering::Release);
        }
    }

    /// Its session would have to end before others get what it owns, after the log is opened again.
    fn before_close(&self) {
        let _ = self.leave();
        // Of who waits, and has no partition that would tell.
        self.alarm.ring();
    }
}

impl Membership {
    pub(super) fn new(log: &Log, joining: Joining, alarm: Arc<Alarm>) -> Self {
        let Joining { member, interest, assignors, listener } = joining;
        let group = member.group.clone();
        let state = State {
            member: Member::new(member, log.clock().monotonic()),
            asked: Vec::new(),
            failure: None,
            expected: None,
            topics_version: log.inside().topics_version(),
        };
        let (inside, waker) = (log.inside(), Waker::from(Arc::clone(&alarm)));
        let shared = Arc::new(Shared {
            log: inside,
            alarm,
            waker,
            group: group.clone(),
            is_hurried: AtomicBool::new(false),
            state: Mutex::new(state),
        });
        let tended: Weak<Shared> = Arc::downgrade(&shared);
        log.look_after(tended);
        Self {
            log: log.clone(),
            shared,
            listener,
            assignors,
            interest,
            group,
            topics_version: None,
            subscribed: BTreeSet::new(),
            divided: None,
            missing: BTreeSet::new(),
        }
    }

    /// Notices topics and partitions that came or went. Whether any did.
    pub(super) fn look_at_topics(&mut self) -> bool {
        let shared = &self.shared;
        let version = shared.log.topics_version();
        if self.topics_version == Some(version) {
            return false;
        }
        self.topics_version = Some(version);
        let wanted = self.wanted();
        let is_other = wanted != self.subscribed;
        self.subscribed = wanted;
        let divided = self.divided.as_ref();
        let is_more = divided.is_some_and(|divided| *divided != self.partition_counts(divided.keys()));
        let mut state = self.shared.state.lock();
        state.topics_version = version;
        if (is_other || is_more) && !probe::planted("consumer.growth_ignored") {
            probe::reached("consumer.topics_changed");
            state.member.rejoin();
        }
        true
    }

    /// The topics that it wants to read, of which some may not exist yet.
    fn wanted(&self) -> BTreeSet<Arc<str>> {
        match &self.interest {
            Interest::Topics(topics) => topics.clone(),
            Interest::Pattern(matches) => {
                let topics = self.log.topics();
                let names = topics.iter().map(|topic| topic.name());
                names.filter(|name| !INTERNAL_TOPICS.contains(name) && matches(name)).map(Into::into).collect()
            }
        }
    }

    /// How many partitions the topics have, those that exist.
    fn partition_counts<'t>(&self, topics: impl Iterator<Item = &'t Arc<str>>) -> BTreeMap<Arc<str>, u32> {
        let log = &self.log;
        let counted = topics.map(|topic| {
            let count = log.find_topic(topic).map_or(0, |found| found.partition_count());
            (Arc::clone(topic), count)
        });
        counted.collect()
    }

    /// Does what is due and needs no word to the listener; returns the step that does.
    pub(super) fn advance(&mut self, now: Duration) -> Result<Option<Step>> {
        while let Some(step) = self.shared.next(By::Poll, now) {
            match step {
                Step::Join { number, request } => self.join(number, request)?,
                Step::Assign(joined) => self.assign(&joined)?,
                Step::Ask { number, request } => self.shared.ask(number, request),
                Step::Leave(leave) => drop(self.shared.log.ask_coordinator(Request::Leave(leave))),
                step @ (Step::Revoked(_) | Step::Lost(_) | Step::Assigned(_)) => return Ok(Some(step)),
            }
        }
        let mut state = self.shared.state.lock();
        let failure = state.failure.take();
        let (is_fenced, has_left) = (state.member.is_fenced(), state.member.has_left());
        drop(state);
        self.shared.expect();
        match failure {
            Some(error) => Err(error),
            None if has_left => Err(Error::Closed),
            None if is_fenced => {
                Err(Error::GroupRefused { group: self.group.clone(), reason: GroupError::FencedInstanceId })
            }
            None => Ok(None),
        }
    }

    /// Asks to join, and says what it wants and what it has.
    fn join(&mut self, number: u64, mut request: JoinGroup) -> Result<()> {
        let (owned, last) = {
            let state = self.shared.state.lock();
            (state.member.owned().clone(), state.member.last().clone())
        };
        let mut subscription = Subscription::new(self.subscribed.iter().cloned());
        (subscription.owned, subscription.generation) = (owned, last.generation);
        for assignor in &self.assignors {
            subscription.user_data = assignor.user_data(&last);
            let metadata = subscription.encode(Version::V3)?.into();
            request.protocols.push(Protocol { name: assignor.name().into(), metadata });
        }
        let entropy = self.log.entropy();
        request.uuid = u128::from(entropy.random()) << 64 | u128::from(entropy.random());
        self.divided = None;
        self.shared.ask(number, Request::Join(request));
        Ok(())
    }

    /// Divides the partitions among the members, as their leader.
    fn assign(&mut self, joined: &Joined) -> Result<()> {
        let refuse = |allowed: String| Error::InvalidSetting {
            key: "partition.assignment.strategy".into(),
            value: joined.protocol.clone(),
            allowed: allowed.into(),
        };
        let assignor = self.assignors.iter().find(|assignor| *assignor.name() == *joined.protocol);
        let assignor = assignor.ok_or_else(|| refuse("one of those of the group".to_owned()))?;
        // A member that says what nobody understands gets nothing, and does not keep the others from theirs.
        let subscriptions = joined.members.iter().map(|member| {
            let subscription = Subscription::decode(&member.metadata).unwrap_or_default();
            (member, subscription)
        });
        let subscriptions: Vec<_> = subscriptions.collect();
        let topics: BTreeSet<_> =
            subscriptions.iter().flat_map(|(_, subscription)| subscription.topics.iter().cloned()).collect();
        let divided = self.partition_counts(topics.iter());
        if joined.skip_assignment {
            // It led before, under another id, and what it assigned then holds.
            self.divided = Some(divided);
            self.shared.state.lock().member.assign(Vec::new());
            return Ok(());
        }
        let members = subscriptions.iter().map(|(member, subscription)| {
            let view = MemberView::from_subscription(&member.member_id, subscription);
            match &member.instance_id {
                Some(instance) => view.instance_id(instance),
                None => view,
            }
        });
        let existing = divided.iter().filter(|(_, count)| **count > 0);
        let group = GroupView::new(members, existing.map(|(topic, count)| (Arc::clone(topic), *count)));
        let assignment = assignor.assign(&group);
        assignment.check(&group).map_err(|invalid| refuse(invalid.to_string()))?;
        let mut assignments = Vec::with_capacity(joined.members.len());
        for member in &joined.members {
            let partitions = assignment.of(&member.member_id).iter().cloned();
            let bytes = MemberAssignment::new(partitions).encode(Version::V3)?;
            assignments.push((member.member_id.clone(), bytes.into()));
        }
        self.divided = Some(divided);
        self.shared.state.lock().member.assign(assignments);
        Ok(())
    }
}
