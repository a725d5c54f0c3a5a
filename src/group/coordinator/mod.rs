//! The coordinator of classic consumer groups: who is a member, who is assigned what, what was committed. Pure.
//!
//! Events go in by [`Coordinator::handle`], actions come out by [`Coordinator::poll`]. There is no clock, no thread and no
//! randomness: the time is an argument, and a random number part of a request. Members in the same process are served by
//! the same calls as a server's clients.
//!
//! ```text
//!  Request ----> groups, in memory ----> Append, number 7 ----> the log
//!                      ^                                          |
//!                      +------ fold of records <--- Appended, 7 <-+
//!                      +-----> Answers that waited for it
//! ```
//!
//! One coordinator has one partition of `__consumer_offsets`, and all groups that belong to it. What it knows is of two
//! kinds:
//!
//! | What                                                        | Is                       | After a crash            |
//! |-------------------------------------------------------------|--------------------------|--------------------------|
//! | offsets; members, generation and assignments of groups at rest | the fold of the records | there                    |
//! | a rebalance under way, sessions, ids not joined with        | in memory                | begun anew by the members |
//!
//! A rebalance is written down once, when its leader has assigned (or nobody is left). Until then the last generation
//! stands in the log, and is the one that a crash returns to; nobody was given a partition in the one that is lost.
//!
//! Invariants:
//! - What is answered is in the log. A change that is to be stored is worked out on a copy, which takes the group's place,
//!   with its answers, once it is appended. If it is not, nothing has changed.
//! - While a group waits for that, its requests wait, and its time stands still.
//! - Appends take effect in the order of their numbers, which is that of the log.

mod action;
mod admin;
mod append;
mod commits;
mod expire;
mod group;
mod member;
mod rebalance;
mod request;

#[cfg(any(fuzzing, test))]
pub(crate) mod world;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

pub use crate::error::GroupError;
pub use action::{
    Action, Answer, DescribedGroup, DescribedMember, FetchedOffset, GroupState, Joined, JoinedMember, ListedGroup,
    Synced,
};
pub(crate) use request::MAX_CLIENT_ID_LEN;
pub use request::{
    Caller, Event, Generation, Heartbeat, JoinGroup, LeaveGroup, LeavingMember, ListGroups, Now, OffsetCommit,
    OffsetDelete, OffsetFetch, OffsetToCommit, Protocol, Request, SyncGroup, Token, TransactionProducer,
};

use self::append::Outstanding;
pub(crate) use self::append::batches;
use self::group::{Effects, Group, Phase, Turn};
use super::offsets::{LogRecord, Offsets};
use super::records::{GROUP_KEY_VERSION, GroupValue, Key};
use crate::config::GroupConfig;
use crate::types::ProducerId;
use crate::wire::Invalid;

/// Coordinates the classic consumer groups of one partition of `__consumer_offsets`.
///
/// First [`replay`](Self::replay) the partition, then [`handle`](Self::handle) what happens. After each call, carry out
/// what [`poll`](Self::poll) gives, until it gives nothing; and send [`Event::Tick`] when
/// [`next_deadline`](Self::next_deadline) is reached.
///
/// ```
/// use std::time::Duration;
/// use chiplog::group::{
///     Action, Answer, Caller, Coordinator, Event, JoinGroup, Now, Protocol, Request, SyncGroup, Token,
/// };
/// use chiplog::{GroupConfig, Offset, Timestamp};
///
/// let mut coordinator = Coordinator::new(GroupConfig::default());
/// let at = |seconds| Now { monotonic: Duration::from_secs(seconds), wall: Timestamp(1000 * seconds as i64) };
///
/// // A member joins. It is the first: others have three seconds to join with it.
/// let mut join = JoinGroup::new("billing", 7);
/// join.client_id = "worker".into();
/// join.needs_member_id = false;
/// join.protocols = vec![Protocol { name: "range".into(), metadata: (*b"orders").into() }];
/// coordinator.handle(Event::Request { token: Token(1), request: Request::Join(join) }, at(0));
/// assert_eq!(coordinator.poll(), None);
/// assert_eq!(coordinator.next_deadline(), Some(Duration::from_secs(3)));
/// coordinator.handle(Event::Tick, at(3));
/// let Some(Action::Answer { token: Token(1), answer: Ok(Answer::Joined(joined)) }) = coordinator.poll() else {
///     panic!("nobody else came");
/// };
/// assert_eq!(&*joined.member_id, "worker-00000000-0000-0000-0000-000000000007");
/// assert_eq!((&joined.leader, &*joined.protocol, joined.generation.0), (&joined.member_id, "range", 1));
///
/// // It leads, so it assigns. The answer waits until that is in the log.
/// let caller = Caller { member_id: joined.member_id.clone(), instance_id: None, generation: joined.generation };
/// let assignments = vec![(joined.member_id, (*b"orders-0").into())];
/// let sync = SyncGroup { group: "billing".into(), caller, protocol_type: None, protocol: None, assignments };
/// coordinator.handle(Event::Request { token: Token(2), request: Request::Sync(sync) }, at(3));
/// let Some(Action::Append { number, records, .. }) = coordinator.poll() else { panic!("it is stored") };
/// assert_eq!((records.len(), coordinator.poll()), (1, None));
/// coordinator.handle(Event::Appended { number, base: Offset(0) }, at(4));
/// let Some(Action::Answer { token: Token(2), answer: Ok(Answer::Synced(synced)) }) = coordinator.poll() else {
///     panic!("it is in the log");
/// };
/// assert_eq!(&*synced.assignment, b"orders-0");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coordinator {
    config: GroupConfig,
    offsets: Offsets,
    groups: BTreeMap<Box<str>, Entry>,
    /// When each group is to be looked at: at its next deadline, or before.
    timers: BTreeSet<(Duration, Box<str>)>,
    /// Groups with members that were loaded, and whose sessions have not begun.
    unstarted: BTreeSet<Box<str>>,
    /// What was, or is to be, appended and has no effect yet, in log order.
    outstanding: VecDeque<Outstanding>,
    next_number: u64,
    actions: VecDeque<Action>,
    /// Groups whose members are waited for to join again, so that who is near can tell them before they ask.
    rebalancing: BTreeSet<Box<str>>,
    has_resigned: bool,
}

/// What is known of a group. One that only has offsets needs none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Entry {
    group: Group,
    /// What its last record says.
    stored: Option<Stored>,
    /// Whether it waits for an append: its requests wait with it.
    wait: Wait,
    queue: VecDeque<(Token, Request)>,
    /// Whether it waits for members to join again, as far as that was told.
    rebalances: bool,
    /// Under which time it is in the list of timers.
    timer: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stored {
    Group(GroupValue),
    /// In a form that is not known here.
    Unreadable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Wait {
    #[default]
    No,
    /// Until its new state is stored.
    Change,
    /// Until it is deleted.
    Deletion,
}

/// State from the log.
impl Coordinator {
    /// A coordinator of no groups. The settings are [valid](GroupConfig::validate).
    ///
    /// # Example
    ///
    /// ```
    /// use chiplog::GroupConfig;
    /// use chiplog::group::Coordinator;
    ///
    /// let mut coordinator = Coordinator::new(GroupConfig::default());
    /// assert_eq!((coordinator.poll(), coordinator.next_deadline()), (None, None));
    /// ```
    #[must_use]
    pub fn new(config: GroupConfig) -> Self {
        Self {
            config,
            offsets: Offsets::default(),
            groups: BTreeMap::new(),
            timers: BTreeSet::new(),
            unstarted: BTreeSet::new(),
            outstanding: VecDeque::new(),
            next_number: 0,
            actions: VecDeque::new(),
            rebalancing: BTreeSet::new(),
            has_resigned: false,
        }
    }

    /// Takes in one record of the log that was not appended for this coordinator: all of them when the log is opened, in
    /// log order, without those of control batches.
    ///
    /// The members of a group have one session time-out, from the next event on, to be heard of.
    ///
    /// # Errors
    ///
    /// If the record cannot be read. A group of which that was the record is kept as it is: nobody can join it, and it is
    /// listed without a state. An offset is passed over.
    ///
    /// # Example
    ///
    /// ```
    /// use chiplog::GroupConfig;
    /// use chiplog::Offset;
    /// use chiplog::group::{Coordinator, LogRecord};
    ///
    /// let mut coordinator = Coordinator::new(GroupConfig::default());
    /// // Of group `g`, a value of version 9, which is yet to be.
    /// let (key, value) = (b"\x00\x02\x00\x01g", b"\x00\x09");
    /// let record = LogRecord { position: Offset(0), key: Some(key), value: Some(value), transaction: None };
    /// assert_eq!(coordinator.replay(record).unwrap_err().what, "unknown version of a group");
    /// ```
    pub fn replay(&mut self, record: LogRecord<'_>) -> Result<(), Invalid> {
        if self.outstanding.is_empty() {
            return self.replay_now(record);
        }
        // What was to be appended before it comes first in the log. It is read to tell of what is wrong with it.
        let read = Self::new(self.config).replay_now(record);
        self.outstanding.push_back(Outstanding::record(record));
        read
    }

    /// Takes in the end of a producer's transaction, as its marker in the log tells it: what was committed in it counts
    /// from now on, or is gone.
    ///
    /// It counts at the place in the log where it is told of: after all that [`poll`](Self::poll) gave to append, before all
    /// that it will give.
    ///
    /// # Example
    ///
    /// ```
    /// use std::time::Duration;
    /// use chiplog::group::{
    ///     Action, Answer, Caller, Coordinator, Event, Now, OffsetCommit, OffsetFetch, OffsetToCommit, Request, Token,
    ///     TransactionProducer,
    /// };
    /// use chiplog::{GroupConfig, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};
    ///
    /// let now = Now { monotonic: Duration::ZERO, wall: Timestamp(1_700_000_000_000) };
    /// let mut coordinator = Coordinator::new(GroupConfig::default());
    /// let producer = TransactionProducer { id: ProducerId(7), epoch: ProducerEpoch(0) };
    /// let (leader_epoch, metadata) = (LeaderEpoch::NONE, "".into());
    /// let offset = OffsetToCommit { topic: "orders".into(), partition: 0, offset: Offset(42), leader_epoch, metadata };
    /// let (group, caller) = ("billing".into(), Caller::none());
    /// let commit = OffsetCommit { group, caller, transaction: Some(producer), retention: None, offsets: vec![offset] };
    /// coordinator.handle(Event::Request { token: Token(1), request: Request::CommitOffsets(commit) }, now);
    /// let Some(Action::Append { number, .. }) = coordinator.poll() else { panic!("it is to be stored") };
    /// coordinator.handle(Event::Appended { number, base: Offset(0) }, now);
    /// assert!(matches!(coordinator.poll(), Some(Action::Answer { token: Token(1), answer: Ok(_) })));
    ///
    /// coordinator.end_transaction(producer.id, true);
    /// let fetch = OffsetFetch { group: "billing".into(), partitions: None, require_stable: true };
    /// coordinator.handle(Event::Request { token: Token(2), request: Request::FetchOffsets(fetch) }, now);
    /// let Some(Action::Answer { answer: Ok(Answer::Offsets(told)), .. }) = coordinator.poll() else { panic!() };
    /// assert_eq!(told[0].committed.as_ref().unwrap().as_ref().unwrap().offset, Offset(42));
    /// ```
    pub fn end_transaction(&mut self, producer: ProducerId, is_committed: bool) {
        if self.outstanding.is_empty() {
            self.offsets.end_transaction(producer, is_committed);
        } else {
            self.outstanding.push_back(Outstanding::Marker { producer, is_committed });
        }
    }

    /// Takes in a record that somebody else wrote: a group is what it says.
    fn replay_now(&mut self, record: LogRecord<'_>) -> Result<(), Invalid> {
        let folded = self.fold(record);
        if let Some(Ok(Key::Group { version: GROUP_KEY_VERSION, group })) = record.key.map(Key::decode) {
            self.load(group);
        }
        folded
    }

    /// Lets a record count, whoever wrote it.
    fn fold(&mut self, record: LogRecord<'_>) -> Result<(), Invalid> {
        self.offsets.replay(record)?;
        let Some(Ok(Key::Group { version: GROUP_KEY_VERSION, group })) = record.key.map(Key::decode) else {
            return Ok(());
        };
        let read = record.value.map(GroupValue::decode).transpose();
        let entry = self.groups.entry(group.into()).or_default();
        entry.stored = match &read {
            Ok(value) => value.clone().map(Stored::Group),
            Err(_) => Some(Stored::Unreadable),
        };
        read.map(drop)
    }

    /// Makes a group what its last record says. Who waits for something of what it was is sent away.
    fn load(&mut self, name: &str) {
        let Some(entry) = self.groups.get_mut(name) else { return };
        let mut replies = Vec::new();
        entry.group.refuse_all(GroupError::NotCoordinator, &mut replies);
        entry.group = match &entry.stored {
            Some(Stored::Group(value)) => Group::from_value(value),
            Some(Stored::Unreadable) | None => Group::default(),
        };
        if !entry.group.members.is_empty() {
            self.unstarted.insert(name.into());
        }
        self.reply_all(replies);
        self.settle(name);
    }
}

/// Commands.
impl Coordinator {
    /// Takes in what happened. [`poll`](Self::poll) gives what follows from it. Never fails, never waits: a request that is
    /// refused is answered so.
    ///
    /// # Example
    ///
    /// ```
    /// use std::time::Duration;
    /// use chiplog::{GroupConfig, Timestamp};
    /// use chiplog::group::{Action, Caller, Coordinator, Event, GroupError, Heartbeat, Now, Request, Token};
    ///
    /// let mut coordinator = Coordinator::new(GroupConfig::default());
    /// let heartbeat = Heartbeat { group: "billing".into(), caller: Caller::none() };
    /// let now = Now { monotonic: Duration::ZERO, wall: Timestamp(1_700_000_000_000) };
    /// coordinator.handle(Event::Request { token: Token(1), request: Request::Heartbeat(heartbeat) }, now);
    /// let answer = Err(GroupError::UnknownMemberId);
    /// assert_eq!(coordinator.poll(), Some(Action::Answer { token: Token(1), answer }));
    /// ```
    pub fn handle(&mut self, event: Event, now: Now) {
        self.start_sessions(now);
        match event {
            Event::Request { token, request } => self.request(token, request, now),
            Event::Appended { number, base } => self.report(number, Ok(base), now),
            Event::NotAppended { number, error } => self.report(number, Err(error), now),
            Event::Tick => self.tick(now),
            Event::ExpireOffsets => self.expire_offsets(now),
            Event::Resign => self.resign(),
        }
    }

    /// The next thing to do, if there is one. Ask until there is none, after each [`handle`](Self::handle) and before
    /// anything else is appended to the partition: see [`Action::Append`].
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to send [`Event::Tick`] next, on the monotonic clock. It may turn out that nothing is due then.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        if !self.unstarted.is_empty() {
            return Some(Duration::ZERO);
        }
        self.timers.first().map(|(deadline, _)| *deadline)
    }

    /// The groups of which a rebalance began since this was asked last.
    pub(crate) fn take_rebalancing(&mut self) -> BTreeSet<Box<str>> {
        std::mem::take(&mut self.rebalancing)
    }

    /// What is committed, as far as it has been appended.
    pub(crate) fn offsets(&self) -> &Offsets {
        &self.offsets
    }

    /// The names of all groups, in order: those with offsets, records of their own, or members.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &str> {
        let all: BTreeSet<&str> = self.offsets.groups().chain(self.groups.keys().map(|name| &**name)).collect();
        all.into_iter()
    }

    /// Tells no more what was committed for a topic that is being deleted.
    pub(crate) fn hide_topic(&mut self, topic: &str) {
        self.offsets.hide_topic(topic);
    }

    /// Tells again what is committed for topics of this name.
    pub(crate) fn show_topic(&mut self, topic: &str) {
        self.offsets.show_topic(topic);
    }

    fn start_sessions(&mut self, now: Now) {
        for name in std::mem::take(&mut self.unstarted) {
            self.change(&name, None, true, now, |group, turn| {
                group.start(turn);
                Ok(())
            });
        }
    }

    fn tick(&mut self, now: Now) {
        let is_due = |timer: &&(Duration, Box<str>)| timer.0 <= now.monotonic;
        let due: Vec<_> = self.timers.iter().take_while(is_due).map(|(_, name)| name.clone()).collect();
        for name in due {
            let is_due = |entry: &Entry| entry.group.next_deadline().is_some_and(|due| due <= now.monotonic);
            if self.groups.get(&name).is_some_and(is_due) {
                self.change(&name, None, true, now, |group, turn| {
                    group.pass_time(turn);
                    Ok(())
                });
            }
            self.settle(&name);
        }
    }

    fn resign(&mut self) {
        self.has_resigned = true;
        self.timers.clear();
        let mut replies = Vec::new();
        for entry in self.groups.values_mut() {
            entry.timer = None;
            // What waits for the log is answered by what becomes of it.
            if entry.wait == Wait::No {
                entry.group.refuse_all(GroupError::NotCoordinator, &mut replies);
            }
            replies.extend(entry.queue.drain(..).map(|(token, _)| (token, Err(GroupError::NotCoordinator))));
        }
        self.reply_all(replies);
    }
}

/// Requests.
impl Coordinator {
    fn request(&mut self, token: Token, request: Request, now: Now) {
        if self.has_resigned {
            return self.reply(token, Err(GroupError::NotCoordinator));
        }
        if let Err(error) = request.check() {
            return self.reply(token, Err(error));
        }
        // What is asked of nobody's state but the log's waits for nothing.
        let asks = matches!(request, Request::FetchOffsets(_) | Request::Describe { .. });
        let entry = request.group().filter(|_| !asks).and_then(|group| self.groups.get_mut(group));
        match entry.map(|entry| (entry.wait, &mut entry.queue)) {
            Some((Wait::Change, queue)) => queue.push_back((token, request)),
            Some((Wait::Deletion, _)) => self.of_the_dead(token, &request),
            _ => self.serve(token, request, now),
        }
    }

    /// Answers a request for a group that waits for nothing.
    fn serve(&mut self, token: Token, request: Request, now: Now) {
        match request {
            Request::Join(join) => self.join(token, join, now),
            Request::Sync(sync) => {
                let name = sync.group.clone();
                let assigns = self.groups.get(&name).is_some_and(|entry| {
                    entry.group.phase == Phase::Completing && entry.group.leads(&sync.caller.member_id)
                });
                self.of_member(&name, token, assigns, now, |group, turn| group.sync(token, sync, turn));
            }
            Request::Heartbeat(Heartbeat { group, caller }) => {
                self.of_member(&group, token, false, now, |group, turn| {
                    group.heartbeat(&caller, turn.now)?;
                    turn.reply(token, Ok(Answer::Alive));
                    Ok(())
                });
            }
            Request::Leave(LeaveGroup { group, members }) => {
                self.of_member(&group, token, true, now, |group, turn| {
                    let left = group.leave(&members, turn);
                    turn.reply(token, Ok(Answer::Left(left)));
                    Ok(())
                });
            }
            Request::CommitOffsets(commit) => self.commit_offsets(token, &commit, now),
            Request::FetchOffsets(fetch) => self.fetch_offsets(token, &fetch),
            Request::DeleteOffsets(delete) => self.delete_offsets(token, &delete),
            Request::ForgetTopic { topic } => self.forget_topic(token, &topic),
            Request::List(list) => self.list(token, &list),
            Request::Describe { group } => self.describe(token, &group),
            Request::DeleteGroup { group } => self.delete_group(token, &group, now),
        }
    }

    /// A new member makes a group, if there is none.
    fn join(&mut self, token: Token, join: JoinGroup, now: Now) {
        let refusal =
            if !(self.config.min_session_timeout..=self.config.max_session_timeout).contains(&join.session_timeout) {
                Some(GroupError::InvalidSessionTimeout)
            } else if self.is_foreign(&join.group) {
                Some(GroupError::InconsistentGroupProtocol)
            } else if !join.member_id.is_empty() && !self.groups.contains_key(&join.group) {
                Some(GroupError::UnknownMemberId)
            } else {
                None
            };
        if let Some(error) = refusal {
            return self.reply(token, Err(error));
        }
        let name = join.group.clone();
        let replaces = join.instance_id.is_some() && join.member_id.is_empty();
        self.groups.entry(name.clone()).or_default();
        self.change(&name, Some(token), replaces, now, |group, turn| group.join(token, join, turn));
    }

    /// What only members ask for.
    fn of_member(
        &mut self,
        name: &str,
        token: Token,
        may_store: bool,
        now: Now,
        change: impl FnOnce(&mut Group, &mut Turn<'_>) -> Result<(), GroupError>,
    ) {
        if self.groups.contains_key(name) {
            self.change(name, Some(token), may_store, now, change);
        } else {
            self.reply(token, Err(GroupError::UnknownMemberId));
        }
    }

    /// Answers a request for a group that is being deleted.
    fn of_the_dead(&mut self, token: Token, request: &Request) {
        let error = match request {
            Request::DeleteOffsets(_) | Request::DeleteGroup { .. } => GroupError::GroupIdNotFound,
            _ => GroupError::CoordinatorNotAvailable,
        };
        self.reply(token, Err(error));
    }

    /// Changes a group: at once, or, if the change is to be stored, once it is. `cause` is the request; none is the time.
    fn change(
        &mut self,
        name: &str,
        cause: Option<Token>,
        may_store: bool,
        now: Now,
        change: impl FnOnce(&mut Group, &mut Turn<'_>) -> Result<(), GroupError>,
    ) {
        let Some(entry) = self.groups.get_mut(name) else { return };
        let mut effects = Effects::default();
        let mut turn = Turn { now, config: &self.config, effects: &mut effects };
        let mut next = if may_store { entry.group.clone() } else { entry.group.take() };
        let changed = change(&mut next, &mut turn);
        if let (Some(token), Err(error)) = (cause, changed) {
            effects.replies.push((token, Err(error)));
        }
        debug_assert!(may_store || !effects.store, "a change that is stored is made on a copy");
        if effects.store {
            self.store(name, next, effects.replies, cause, now);
        } else {
            entry.group = next;
            self.reply_all(effects.replies);
            self.settle(name);
        }
    }

    fn reply(&mut self, token: Token, answer: Result<Answer, GroupError>) {
        self.actions.push_back(Action::Answer { token, answer });
    }

    fn reply_all(&mut self, replies: Vec<group::Reply>) {
        replies.into_iter().for_each(|(token, answer)| self.reply(token, answer));
    }

    /// Whether only somebody else understands the records of a group.
    fn is_foreign(&self, name: &str) -> bool {
        let is_unreadable = |entry: &Entry| entry.stored == Some(Stored::Unreadable);
        self.groups.get(name).is_some_and(is_unreadable) || self.offsets.has_records_besides(name, GROUP_KEY_VERSION)
    }

    /// Sets the timer of a group anew, and forgets a group that there is nothing to know of.
    fn settle(&mut self, name: &str) {
        let Some(entry) = self.groups.get_mut(name) else { return };
        let is_idle = entry.wait == Wait::No && !self.has_resigned;
        let next = entry.group.next_deadline().filter(|_| is_idle);
        if next != entry.timer {
            if let Some(timer) = entry.timer.take() {
                self.timers.remove(&(timer, name.into()));
            }
            entry.timer = next;
            self.timers.extend(next.map(|timer| (timer, name.into())));
        }
        let rebalances = matches!(entry.group.phase, Phase::Preparing { initial: None, .. });
        if rebalances && !entry.rebalances {
            self.rebalancing.insert(name.into());
        }
        entry.rebalances = rebalances;
        let is_empty = entry.group.phase == Phase::Empty && entry.group.pending.is_empty();
        if is_empty && entry.stored.is_none() && entry.wait == Wait::No && entry.queue.is_empty() {
            self.groups.remove(name);
        }
    }
}

/// What tests look at.
#[cfg(any(fuzzing, test))]
impl Coordinator {
    /// What is the fold of the records.
    pub(crate) fn folded(&self) -> (&Offsets, BTreeMap<&str, Option<&GroupValue>>) {
        let stored = self.groups.iter().filter_map(|(name, entry)| {
            let stored = entry.stored.as_ref()?;
            Some((
                &**name,
                match stored {
                    Stored::Group(value) => Some(value),
                    Stored::Unreadable => None,
                },
            ))
        });
        (&self.offsets, stored.collect())
    }

    /// Whether a group at rest is what its record says, and the lists agree with each other.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (name, entry) in &self.groups {
            let group = &entry.group;
            let value = group.to_value();
            let fails = |what: &str| Err(format!("{what}: {name} is {group:?}, and stored is {:?}", entry.stored));
            match &entry.stored {
                Some(Stored::Group(stored)) if group.phase == Phase::Stable && value != *stored => {
                    return fails("a stable group is not what is stored");
                }
                Some(Stored::Group(stored)) if group.phase == Phase::Empty && value != *stored => {
                    return fails("an empty group is not what is stored");
                }
                None if group.phase == Phase::Stable => return fails("a stable group is not stored"),
                _ => {}
            }
            let leads = group.leader.as_ref().is_some_and(|leader| group.members.contains_key(leader));
            if leads == group.members.is_empty() {
                return fails("the leader is no member");
            }
            if group.phase == Phase::Empty && !group.members.is_empty() {
                return fails("an empty group has members");
            }
            let timers = self.timers.iter().filter(|(_, timed)| timed == name).map(|(timer, _)| *timer);
            if !timers.eq(entry.timer) {
                return fails("the timers differ");
            }
            let is_late = match (entry.timer, group.next_deadline()) {
                (Some(timer), Some(deadline)) => timer > deadline,
                (timer, deadline) => timer.is_none() && deadline.is_some(),
            };
            if is_late && entry.wait == Wait::No && !self.has_resigned && !self.unstarted.contains(name) {
                return fails("the timer is late");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
