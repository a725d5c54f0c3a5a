//! Drives the coordinators of groups, one for each partition of `__consumer_offsets`: requests in, records into the
//! partition, answers out.
//!
//! ```text
//! request -> | lock: handle -> poll -> append -> report -> poll | -> answer -> sync what it tells of -> who asked
//! ```
//!
//! What is appended counts at once, for the requests behind it. An answer that tells of it is given once that is durable:
//! the wait for an answer ends in the wait for a sync, and whoever waits at the same time shares it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

mod reply;
mod shards;

pub use reply::Reply;
pub(super) use shards::offsets_config;

use self::reply::{After, Desk, Outcome, State};
use self::shards::UNSYNCED;
use super::topic::again;
use super::{FirstError, Inner, Log, TopicRead};
use crate::error::{Error, GroupError, Result};
use crate::group::{
    Action, Answer, Coordinator, Event, GroupOffset, GroupRecord, IN_PROCESS, ListGroups, Now, OffsetCommit, Request,
    Token,
};
use crate::observe::{Quiet, tell};
use crate::partition::core::Core;
use crate::partition::{Ack, Admission, Ending, Placement, append_records};
use crate::probe;
use crate::record::{Header, Record, Sender};
use crate::types::{Offset, TopicPartition};

impl Log {
    /// Asks the coordinator of a group, as a member of it does, or a server for one: every [`Request`] that Kafka's
    /// protocol has for classic groups. Members in this process and those that a server speaks for are of one group.
    ///
    /// Asking waits for no other member: what has to, is told later, by the [`Reply`]. A commit of offsets syncs the records
    /// below them before it is stored, as [`Group::commit`](crate::Group::commit) does. The coordinator's time passes while
    /// the log is [maintained](Log::maintain).
    ///
    /// What an answer tells survives a power cut, and so does what a request stored once it is answered. Of a log that is
    /// replicated, it is [committed](crate::guide::replication#groups) instead, and only who leads the group's partition answers.
    ///
    /// # Errors
    ///
    /// They come with the reply: [`Error::GroupRefused`] with Kafka's reason; what keeps the log from storing something, as
    /// [`Error::Io`], [`Error::LowSpace`] or [`Error::Poisoned`]; [`Error::Corrupt`] if the groups could not be read when the log
    /// was opened; [`Error::ReadOnly`], [`Error::Closed`]. Of a log that is replicated, [`Error::NotLeader`], with the node to ask
    /// if it is known; [`Error::NotEnoughReplicas`] and [`Error::Truncated`], if what it tells of is not, or never will be,
    /// committed.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::group::{Answer, JoinGroup, Protocol, Request};
    /// use chiplog::{GroupConfig, Log};
    ///
    /// let at_once = GroupConfig::default().initial_rebalance_delay(Duration::ZERO);
    /// let log = Log::builder(dir.path()).groups(at_once).open()?;
    /// let mut join = JoinGroup::new("billing", 7);
    /// join.needs_member_id = false;
    /// join.protocols = vec![Protocol { name: "range".into(), metadata: (*b"orders").into() }];
    /// let Answer::Joined(joined) = log.ask_coordinator(Request::Join(join)).wait()? else { panic!() };
    /// assert_eq!((joined.generation.0, &joined.leader), (1, &joined.member_id));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ask_coordinator(&self, request: Request) -> Reply {
        self.ask_coordinator_with(request, Ack::Synced)
    }

    /// As [`ask_coordinator`](Self::ask_coordinator); a commit of offsets waits for no more than `ack` says.
    ///
    /// With [`Ack::Written`] nothing is synced. After a power cut the group may go on from an older offset; never from one
    /// above what is left of the partition, as the next open lowers it to the end. Of a log that is replicated, nothing is
    /// lowered, and such a commit may be lost with the leader.
    ///
    /// # Errors
    ///
    /// As for [`ask_coordinator`](Self::ask_coordinator).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::group::{Answer, Caller, OffsetCommit, OffsetToCommit, Request};
    /// use chiplog::{Ack, LeaderEpoch, Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// let (leader_epoch, metadata) = (LeaderEpoch::NONE, "".into());
    /// let offset = OffsetToCommit { topic: "orders".into(), partition: 0, offset: Offset(42), leader_epoch, metadata };
    /// let (group, caller) = ("billing".into(), Caller::none());
    /// let commit = OffsetCommit { group, caller, transaction: None, retention: None, offsets: vec![offset] };
    /// let answer = log.ask_coordinator_with(Request::CommitOffsets(commit), Ack::Written).wait()?;
    /// assert_eq!(answer, Answer::Committed(vec![Ok(())]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ask_coordinator_with(&self, request: Request, ack: Ack) -> Reply {
        self.opened.inner.ask(request, ack).unwrap_or_else(Reply::failed)
    }

    /// Which partition of `__consumer_offsets` a group belongs to: what a server tells a client that looks for the group's
    /// coordinator.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidGroupId`]; those of [`topic`](Self::topic), as this makes the topic, unless the log is replicated:
    /// [`Error::Unsupported`] if it is not there.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// let log = chiplog::Log::open(dir.path())?;
    /// assert_eq!(log.coordinator_of("billing")?.to_string(), "__consumer_offsets-0");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn coordinator_of(&self, group: &str) -> Result<TopicPartition> {
        crate::group::check_group_id(group)?;
        let inner = &self.opened.inner;
        if inner.context.is_replicated {
            return inner.coordinated_by(group);
        }
        let shard = inner.shard_or_create(group)?;
        let id = Quiet::lock(&shard).core.id.clone();
        Ok(id)
    }
}

/// The coordinators of all groups, one a partition of the topic; none until the topic is there.
#[derive(Debug, Default)]
pub(super) struct Coordinators {
    partitions: Mutex<Vec<ShardSlot>>,
}

/// The groups of one partition, or why they could not be read.
type ShardSlot = Result<Arc<Mutex<Shard>>, Arc<Error>>;

/// The groups of one partition.
#[derive(Debug)]
pub(super) struct Shard {
    core: Arc<Core>,
    coordinator: Coordinator,
    /// The offset after the last record that was taken in: what is told of the groups must be synced up to it.
    end: Offset,
    next_token: u64,
    /// Those who wait for an answer.
    asked: BTreeMap<Token, (Box<str>, Arc<Desk>)>,
    /// How often the log had been cut when this was read from it: nothing of it is true once it is cut again.
    cuts: u64,
    /// Why this is not what is so, if this node leads the partition no more.
    gone: Option<Arc<Error>>,
    /// At open: the keys of offsets that were committed without a sync, and where the last such commit of each is.
    unsynced: BTreeMap<Vec<u8>, Offset>,
}

/// What came of an event, to be told once the lock of the groups is released.
#[derive(Default)]
struct Told {
    answers: Vec<(Token, Result<Answer, GroupError>)>,
    expired: Vec<(Box<str>, usize)>,
    /// Groups whose members have to join again.
    rebalancing: BTreeSet<Box<str>>,
    /// Where what was appended for a transaction went.
    placed: Option<Placement>,
    /// Why an append failed.
    failure: Option<Error>,
}

/// Requests.
impl Inner {
    /// Asks the coordinator of the group that the request is about.
    pub(super) fn ask(&self, request: Request, ack: Ack) -> Result<Reply> {
        self.ask_having_read(request, ack, &[])
    }

    /// As [`ask`](Self::ask), for who has read these topics: what it commits for one that is gone is left out.
    pub(super) fn ask_having_read(&self, mut request: Request, ack: Ack, read: &[TopicRead]) -> Result<Reply> {
        self.check_open()?;
        // Of a log that is replicated, what waits does so until it is committed.
        let ack = if self.context.is_replicated && ack == Ack::Replicated { Ack::Synced } else { ack.alone() };
        let asks = matches!(request, Request::FetchOffsets(_) | Request::Describe { .. } | Request::List(_));
        if self.context.read_only && !asks {
            return Err(Error::ReadOnly);
        }
        match &request {
            Request::List(list) => return self.list(list),
            Request::ForgetTopic { topic } => {
                // With several partitions, all but one are waited for here.
                let mut forgotten = self.forget_topic_offsets(topic)?;
                let (answer, after) = (Ok(Answer::TopicForgotten), forgotten.pop());
                forgotten.iter().try_for_each(After::wait)?;
                return Ok(Reply { state: State::Answered(Outcome { answer, after }) });
            }
            Request::CommitOffsets(OffsetCommit { group, transaction: Some(_), .. }) => {
                // Nobody would end it: a transaction of this log knows where it has been.
                return Err(Error::GroupRefused { group: group.clone(), reason: GroupError::InvalidRequest });
            }
            Request::CommitOffsets(commit) if ack == Ack::Synced => self.sync_below(&commit.as_group_offsets())?,
            _ => {}
        }
        let group: Box<str> = request.group().unwrap_or_default().into();
        crate::group::check_group_id(&group)?;
        let shard = match asks {
            _ if self.context.read_only => self.shard_that_knows(&group)?,
            // Who only asks makes no topic.
            true => self.shard(&group)?,
            false => Some(self.shard_or_create(&group)?),
        };
        let Some(shard) = shard else { return Ok(self.ask_nobody(&group, request)) };
        let (reply, told, next) = {
            let mut shard = enter(&shard)?;
            if let Request::CommitOffsets(commit) = &mut request {
                self.leave_out_gone(commit, read);
            }
            let (token, mut told) = shard.ask_with(request, ack, &self.now());
            let state = match told.take(token) {
                Some(answer) => {
                    let is_commit = matches!(answer, Ok(Answer::Committed(_)));
                    let Outcome { answer, after } = shard.outcome(&group, answer, &mut told.failure);
                    let after = after.filter(|_| !is_commit || ack == Ack::Synced);
                    State::Answered(Outcome { answer, after })
                }
                None => {
                    // Whoever closes the log answers all that wait once nobody can begin to.
                    self.check_open()?;
                    let desk = Arc::new(Desk::default());
                    shard.asked.insert(token, (group, Arc::clone(&desk)));
                    State::Asked(desk)
                }
            };
            (Reply { state }, shard.leave(told), shard.coordinator.next_deadline())
        };
        self.spread(told);
        next.into_iter().for_each(|next| self.expect_by(next));
        Ok(reply)
    }

    /// Leaves out what is to be committed for a topic that was read and is gone. The caller holds the groups: what is committed
    /// before a deleted topic is forgotten there is forgotten with it, and what comes behind that finds it gone.
    fn leave_out_gone(&self, commit: &mut OffsetCommit, read: &[TopicRead]) {
        commit.offsets.retain(|offset| {
            let Ok(at) = read.binary_search_by(|(topic, _)| (**topic).cmp(&*offset.topic)) else { return true };
            self.find(&offset.topic).is_ok_and(|topic| topic.id == read[at].1)
        });
    }

    /// What is answered of a group that is in no file here.
    fn ask_nobody(&self, group: &str, request: Request) -> Reply {
        let mut nobody = Coordinator::new(self.group_config);
        nobody.handle(Event::Request { token: Token(0), request }, self.now());
        let answer = match nobody.poll() {
            Some(Action::Answer { answer, .. }) => answer,
            _ => Err(GroupError::GroupIdNotFound),
        };
        let answer = answer.map_err(|reason| Error::GroupRefused { group: group.into(), reason });
        Reply { state: State::Answered(Outcome { answer, after: None }) }
    }

    /// Lists the groups of all partitions.
    fn list(&self, list: &ListGroups) -> Result<Reply> {
        let mut groups = Vec::new();
        for shard in self.shards() {
            let shard = match shard {
                Err(error) if is_elsewhere(&error) => continue,
                Err(_) if self.context.read_only => continue,
                shard => shard?,
            };
            let (after, told) = {
                let Ok(mut shard) = enter(&shard) else { continue };
                let (token, mut told) = shard.ask(Request::List(list.clone()), &self.now());
                if let Some(Ok(Answer::Groups(of_shard))) = told.take(token) {
                    groups.extend(of_shard);
                }
                (shard.after(), shard.leave(told))
            };
            self.spread(told);
            after.map_or(Ok(()), |after| after.wait())?;
        }
        groups.sort_by(|one, other| one.group.cmp(&other.group));
        Ok(Reply { state: State::Answered(Outcome { answer: Ok(Answer::Groups(groups)), after: None }) })
    }

    fn now(&self) -> Now {
        let clock = &self.context.clock;
        Now { monotonic: clock.monotonic(), wall: clock.now() }
    }

    /// Hands out answers, and tells the observer.
    pub(super) fn spread(&self, told: Spread) {
        for (desk, outcome) in told.answers {
            desk.leave(outcome);
        }
        for (group, count) in told.expired {
            probe::reached("groups.expired");
            tell(&self.context.observer, move |observer| observer.offsets_expired(&group, count));
        }
        if !told.rebalancing.is_empty() && !probe::planted("consumer.rebalance_not_told") {
            self.tell_of_rebalance(&told.rebalancing);
        }
    }

    /// Lets time pass for groups. Returns when, on the monotonic clock, something is due next, and what could not be stored:
    /// it is tried again then.
    pub(super) fn tend_groups(&self, now: Duration) -> (Option<Duration>, Result<()>) {
        let mut next: Option<Duration> = None;
        let mut errors = FirstError::default();
        for shard in self.shards().into_iter().flatten() {
            let told = {
                let Ok(mut shard) = enter(&shard) else { continue };
                let mut told = match shard.coordinator.next_deadline().is_some_and(|due| due <= now) {
                    true => shard.handle(Event::Tick, &self.now()),
                    false => Told::default(),
                };
                errors.keep(told.failure.take().map_or(Ok(()), Err));
                next = next.into_iter().chain(shard.coordinator.next_deadline()).min();
                shard.leave(told)
            };
            self.spread(told);
        }
        (next, errors.into_result())
    }

    /// At an open: members that were of the process before are gone, as one process has the log at a time. Nobody waits for
    /// their sessions to end. What cannot be stored now waits for that.
    pub(super) fn leave_for_the_dead(&self) {
        for shard in self.shards().into_iter().flatten() {
            let dead = Quiet::lock(&shard).coordinator.members_of_host(IN_PROCESS);
            for leave in dead {
                probe::reached("groups.left_by_the_dead");
                let _ = self.ask(Request::Leave(leave), Ack::Written);
            }
        }
    }

    /// Removes offsets that are past their retention.
    pub(super) fn expire_group_offsets(&self) -> Result<()> {
        let mut errors = FirstError::default();
        // Those that cannot be read are damaged partitions, which was told.
        for shard in self.shards().into_iter().flatten() {
            let told = {
                let Ok(mut shard) = enter(&shard) else { continue };
                let mut told = shard.handle(Event::ExpireOffsets, &self.now());
                errors.keep(told.failure.take().map_or(Ok(()), Err));
                shard.leave(told)
            };
            self.spread(told);
        }
        errors.into_result()
    }

    /// Nobody coordinates these groups any more: the log is closing. Returns what is to be told to those who wait, once no
    /// lock is held: that may run code of a runtime.
    pub(super) fn resign(&self) -> Spread {
        let (mut told, closed) = (Spread::default(), Arc::new(Error::Closed));
        for shard in self.shards().into_iter().flatten() {
            Quiet::lock(&shard).dismiss(&closed, &mut told);
        }
        told
    }
}

/// Offsets that count once a transaction is committed: where they are, and of which partitions.
pub(super) struct Waiting {
    pub(super) core: Arc<Core>,
    pub(super) placed: Placement,
    pub(super) partitions: Vec<TopicPartition>,
}

/// What is told, and to whom.
#[derive(Debug, Default)]
pub(super) struct Spread {
    answers: Vec<(Arc<Desk>, Outcome)>,
    expired: Vec<(Box<str>, usize)>,
    rebalancing: BTreeSet<Box<str>>,
}

impl Told {
    /// The answer to one of the requests, if it is among them.
    fn take(&mut self, token: Token) -> Option<Result<Answer, GroupError>> {
        let at = self.answers.iter().position(|(answered, _)| *answered == token)?;
        Some(self.answers.swap_remove(at).1)
    }
}

impl Shard {
    fn ask(&mut self, request: Request, now: &Now) -> (Token, Told) {
        self.ask_with(request, Ack::Synced, now)
    }

    fn ask_with(&mut self, request: Request, ack: Ack, now: &Now) -> (Token, Told) {
        let token = Token(self.next_token);
        self.next_token += 1;
        let removes =
            matches!(request, Request::DeleteOffsets(_) | Request::ForgetTopic { .. } | Request::DeleteGroup { .. });
        if removes
            && !probe::planted("groups.failed_commit_comes_back")
            && let Err(error) = self.core.cut_what_failed()
        {
            // Nobody knows of it, so no tombstone would be behind it.
            let refused = (token, Err(GroupError::CoordinatorNotAvailable));
            return (token, Told { answers: vec![refused], failure: Some(error), ..Told::default() });
        }
        (token, self.handle_with(Event::Request { token, request }, ack, now))
    }

    fn handle(&mut self, event: Event, now: &Now) -> Told {
        self.handle_with(event, Ack::Synced, now)
    }

    /// Takes in an event, and does all that follows from it.
    fn handle_with(&mut self, event: Event, ack: Ack, now: &Now) -> Told {
        let mut told = Told::default();
        self.coordinator.handle(event, *now);
        self.carry_out(ack, now, &mut told);
        // What waits for no time at all does not wait for maintenance.
        if self.coordinator.next_deadline().is_some_and(|due| due <= now.monotonic) {
            self.coordinator.handle(Event::Tick, *now);
            self.carry_out(Ack::Synced, now, &mut told);
        }
        told.rebalancing = self.coordinator.take_rebalancing();
        told
    }

    /// Does what the coordinator wants done.
    fn carry_out(&mut self, ack: Ack, now: &Now, told: &mut Told) {
        while let Some(action) = self.coordinator.poll() {
            match action {
                Action::Append { number, records, transaction } => {
                    let sender = transaction.map_or(Sender::NONE, |producer| Sender {
                        producer: producer.id,
                        epoch: producer.epoch,
                        is_transactional: true,
                    });
                    let event = match self.append(&records, sender, ack) {
                        Ok(placed) => {
                            // Not that of what the time brought meanwhile: its place is no part of the transaction.
                            if transaction.is_some() {
                                told.placed = Some(placed);
                            }
                            Event::Appended { number, base: placed.offset }
                        }
                        Err(error) => {
                            told.failure = Some(error);
                            Event::NotAppended { number, error: GroupError::CoordinatorNotAvailable }
                        }
                    };
                    self.coordinator.handle(event, *now);
                }
                Action::Answer { token, answer } => told.answers.push((token, answer)),
                Action::Expired { group, count } => told.expired.push((group, count)),
            }
        }
    }

    /// Appends records as one batch. It says if nobody waits for it to be synced, nor made sure of what it tells of.
    fn append(&mut self, records: &[GroupRecord], sender: Sender, ack: Ack) -> Result<Placement> {
        // What only removes frees space.
        let removes = records.iter().all(|record| record.value.is_none());
        let admission = if removes { Admission::Always } else { Admission::IfSpace };
        self.append_if(admission, records, sender, ack)
    }

    fn append_if(
        &mut self,
        admission: Admission,
        records: &[GroupRecord],
        sender: Sender,
        ack: Ack,
    ) -> Result<Placement> {
        // Whoever leads next has what is committed, and lowers nothing.
        let is_unsynced = ack == Ack::Written && !self.core.context.is_replicated;
        let headers: &[Header<'_>] = if is_unsynced { &[UNSYNCED] } else { &[] };
        let encoded = records.iter().map(|record| Record {
            key: Some(&record.key),
            value: record.value.as_deref(),
            headers,
            ..Record::default()
        });
        let placed = append_records(&self.core, admission, sender, None, encoded)?;
        self.end = placed.last_offset + 1;
        Ok(placed)
    }

    /// What is to be told to who asked: an error of the log's own, where that is why it was refused.
    fn outcome(&self, group: &str, answer: Result<Answer, GroupError>, failure: &mut Option<Error>) -> Outcome {
        let answer = answer.map_err(|reason| match failure {
            Some(error) if reason == GroupError::CoordinatorNotAvailable => {
                let again = again(error);
                std::mem::replace(error, again)
            }
            _ => Error::GroupRefused { group: group.into(), reason },
        });
        // What is so while members come and go is in no record.
        let is_told_at_once =
            matches!(answer, Err(_) | Ok(Answer::Joined(_) | Answer::MemberIdRequired { .. } | Answer::Alive));
        let is_told_before = is_told_at_once || probe::planted("log.commit_before_sync");
        Outcome { answer, after: self.after().filter(|_| !is_told_before) }
    }

    /// What has to be there for good before any of this is told.
    fn after(&self) -> Option<After> {
        let is_early = self.core.context.is_replicated && probe::planted("replica.group_told_early");
        (!self.core.context.read_only && !is_early).then(|| After::of(&self.core, self.end, self.cuts))
    }

    /// Sends away whoever waits, and whoever comes.
    fn dismiss(&mut self, why: &Arc<Error>, told: &mut Spread) {
        self.gone = Some(Arc::clone(why));
        let outcome = |(_, desk)| (desk, Outcome { answer: Err(again(why)), after: None });
        told.answers.extend(std::mem::take(&mut self.asked).into_values().map(outcome));
    }

    /// Finds who waits for what is told.
    fn leave(&mut self, told: Told) -> Spread {
        let Told { answers, expired, rebalancing, mut failure, .. } = told;
        let mut spread = Spread { answers: Vec::new(), expired, rebalancing };
        for (token, answer) in answers {
            if let Some((group, desk)) = self.asked.remove(&token) {
                spread.answers.push((desk, self.outcome(&group, answer, &mut failure)));
            }
        }
        spread
    }
}

/// Offsets.
impl Inner {
    /// Tells what is there of a group, once it is durable: what is told must still be so after a power cut.
    pub(super) fn with_group<R>(&self, group: &str, tell: impl FnOnce(&Coordinator) -> R) -> Result<Option<R>> {
        self.check_open()?;
        let shard = if self.context.read_only { self.shard_that_knows(group) } else { self.shard(group) };
        shard?.map(|shard| look(&shard, tell)).transpose()
    }

    /// Every group. Of a log that is open read-only those that can be told: what keeps the others from it is among what
    /// is damaged.
    pub(super) fn group_ids(&self) -> Result<Vec<String>> {
        self.check_open()?;
        let mut ids = BTreeSet::new();
        for shard in self.shards() {
            match shard {
                Err(error) if is_elsewhere(&error) => {}
                Err(_) if self.context.read_only => {}
                shard => look(&*shard?, |coordinator| ids.extend(coordinator.groups().map(str::to_owned)))?,
            }
        }
        Ok(ids.into_iter().collect())
    }

    /// Why the groups of this partition of the topic cannot be told, if they cannot.
    pub(super) fn damage_of_groups(&self, partition: u32) -> Option<Arc<Error>> {
        let shards = self.coordinators.partitions.lock();
        let error = shards.get(partition as usize).and_then(|shard| shard.as_ref().err().map(Arc::clone));
        error.filter(|error| !matches!(**error, Error::NotLeader { .. }))
    }

    /// Makes durable what lies below the offsets, as far as it is in this log. Else a power cut could take the records
    /// and leave the offsets, and a group would pass over what is appended in their place.
    pub(super) fn sync_below(&self, offsets: &[GroupOffset<'_>]) -> Result<()> {
        // Who reads a log that is replicated sees what is committed, wherever it lies.
        if self.context.is_replicated || probe::planted("log.commit_ahead") {
            return Ok(());
        }
        let mut errors = FirstError::default();
        self.cores_below(offsets).iter().for_each(|(core, end)| errors.keep(core.sync_to(*end)));
        errors.into_result()
    }

    /// Which partitions of this log lie below the offsets, and up to where.
    pub(super) fn cores_below(&self, offsets: &[GroupOffset<'_>]) -> Vec<(Arc<Core>, Offset)> {
        let below = offsets.iter().filter_map(|commit| {
            let core = self.find(commit.topic).and_then(|topic| topic.core(commit.partition)).ok()?;
            let end = commit.offset.min(core.end());
            Some((core, end))
        });
        below.collect()
    }

    /// Appends offsets that a group commits in a transaction: they count once that is committed. Those of topics that were
    /// read and are gone are left out: `None` if no other is there.
    pub(super) fn commit_in_transaction(
        &self,
        mut commit: OffsetCommit,
        read: &[TopicRead],
    ) -> Result<Option<Waiting>> {
        let group = commit.group.clone();
        let shard = self.shard_or_create(&group)?;
        let (result, told) = {
            let mut shard = enter(&shard)?;
            self.leave_out_gone(&mut commit, read);
            let kept =
                commit.offsets.iter().map(|offset| TopicPartition::new(&*offset.topic, offset.partition)).collect();
            let (token, mut told) = shard.ask(Request::CommitOffsets(commit), &self.now());
            let answer = told.take(token).unwrap_or(Err(GroupError::CoordinatorNotAvailable));
            let outcome = shard.outcome(&group, answer, &mut told.failure);
            let placed = told.placed;
            let result = outcome.answer.and_then(|answer| {
                committed_count(&group, answer)?;
                Ok(placed.map(|placed| Waiting { core: Arc::clone(&shard.core), placed, partitions: kept }))
            });
            (result, shard.leave(told))
        };
        self.spread(told);
        result
    }

    /// Ends a transaction in a partition of the topic.
    pub(super) fn end_in_groups(&self, core: &Arc<Core>, ending: &Ending) -> Result<Option<Offset>> {
        let shard = self.coordinators.partitions.lock().get(core.id.partition as usize).cloned();
        let Some(Ok(shard)) = shard else {
            // At open: what is found there is replayed with its markers later.
            return core.end_transaction(ending);
        };
        let mut shard = Quiet::lock(&shard);
        let marker = core.end_transaction(ending)?;
        if let Some(marker) = marker {
            let is_commit = ending.is_commit || probe::planted("groups.aborted_counts");
            shard.coordinator.end_transaction(ending.producer, is_commit);
            shard.end = marker + 1;
        }
        Ok(marker)
    }

    /// Removes what any group committed for a deleted topic, durably: a new one of its name must not find it.
    pub(super) fn forget_deleted(&self, topic: &str) -> Result<()> {
        let forgotten = self.forget_topic_offsets(topic)?;
        // Who deletes keeps others from what a commit needs of them.
        if self.context.is_replicated { Ok(()) } else { forgotten.iter().try_for_each(After::wait) }
    }

    /// As [`forget_deleted`](Self::forget_deleted); it is durable after what is returned.
    fn forget_topic_offsets(&self, topic: &str) -> Result<Vec<After>> {
        let (mut errors, mut forgotten) = (FirstError::default(), Vec::new());
        for shard in self.shards() {
            // Whoever leads it does that, when the topic is deleted there.
            if !matches!(shard, Err(Error::NotLeader { .. })) {
                forgotten.extend(errors.keep(shard.and_then(|shard| self.forget_in(&shard, topic))));
            }
        }
        errors.into_result().map(|()| forgotten)
    }

    fn forget_in(&self, shard: &Mutex<Shard>, topic: &str) -> Result<Option<After>> {
        let (result, after, told) = {
            // Whoever leads it does that, when the topic is deleted there.
            let Ok(mut shard) = enter(shard) else { return Ok(None) };
            let (token, mut told) = shard.ask(Request::ForgetTopic { topic: topic.into() }, &self.now());
            let answer = told.take(token).unwrap_or(Err(GroupError::CoordinatorNotAvailable));
            let result = shard.outcome("", answer, &mut told.failure).answer;
            (result, shard.after(), shard.leave(told))
        };
        self.spread(told);
        result?;
        // Also if there was nothing to remove: that may be so because of records that are not synced yet.
        Ok(after.filter(|_| !probe::planted("log.commit_before_sync")))
    }

    /// Tells again what groups commit for a topic of this name: from now on it is one elsewhere, or a new one.
    pub(super) fn show_topic_offsets(&self, topic: &str) {
        for shard in self.shards().into_iter().flatten() {
            Quiet::lock(&shard).coordinator.show_topic(topic);
        }
    }

    /// Tells nobody what groups committed for a topic that is being deleted, until it is removed.
    pub(super) fn hide_topic_offsets(&self, topic: &str) {
        for shard in self.shards().into_iter().flatten() {
            Quiet::lock(&shard).coordinator.hide_topic(topic);
        }
    }
}

/// How many offsets were committed; the first that was refused is an error.
pub(super) fn committed_count(group: &str, answer: Answer) -> Result<usize> {
    let Answer::Committed(done) = answer else { return Ok(0) };
    let count = done.len();
    match done.into_iter().find_map(Result::err) {
        Some(reason) => Err(Error::GroupRefused { group: group.into(), reason }),
        None => Ok(count),
    }
}

/// Tells what is there, once it is durable.
fn look<R>(shard: &Mutex<Shard>, tell: impl FnOnce(&Coordinator) -> R) -> Result<R> {
    let (found, after) = {
        let shard = enter(shard)?;
        (tell(&shard.coordinator), shard.after())
    };
    after.map_or(Ok(()), |after| after.wait())?;
    Ok(found)
}

/// Locks the groups of a partition. Between the look for them and this, the node may have ceased to lead it, and what they were
/// is not what is so.
pub(super) fn enter(shard: &Mutex<Shard>) -> Result<Quiet<'_, Shard>> {
    let shard = Quiet::lock(shard);
    match &shard.gone {
        None => Ok(shard),
        Some(why) => Err(again(why)),
    }
}

/// Whether groups are kept elsewhere, by another broker or by the node that leads: they are in no file here, or not for this
/// node to tell.
fn is_elsewhere(error: &Error) -> bool {
    matches!(error, Error::PartitionElsewhere { .. } | Error::NotLeader { .. })
}
