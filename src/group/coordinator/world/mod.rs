//! A coordinator in a small world: four clients, a log, a clock, and a model that says what must not happen.
//!
//! The property test, the exhaustive exploration and the fuzzer all drive this. What it checks, by the names of the
//! invariants:
//!
//! - Each request is answered once, and no sooner than what it says is in the log.
//! - G1, G4: what is told of offsets is the naive fold of the log; what is known of groups is what a new coordinator reads
//!   from it, before and after it is compacted; a group at rest is what its record says.
//! - G2: nobody is served under an older generation, nor a static member that another took the place of.
//! - G3: no partition has two owners in a generation, ever; in a group at rest each has one.
//! - G6: once the clients are silent, all rebalances end, and once they cooperate, they have their partitions. Who is heard
//!   of in time stays. Offsets expire only of age, and not if somebody reads them.

mod fold;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use self::fold::{Log, LogEntry, Logged};
use super::{
    Action, Answer, Caller, Coordinator, Event, Generation, GroupError, GroupState, Heartbeat, JoinGroup, Joined,
    LeaveGroup, LeavingMember, Now, OffsetCommit, OffsetDelete, OffsetToCommit, Protocol, Request, SyncGroup, Token,
    TransactionProducer,
};
use crate::config::GroupConfig;
use crate::group::offsets::GroupRecord;
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};

pub(crate) const CLIENTS: usize = 4;
const GROUP: &str = "g";
/// The one that all members read, and one that nobody does.
const TOPICS: [&str; 2] = ["read", "other"];
const PARTITIONS: u8 = 2;
const SESSION: Duration = Duration::from_secs(10);
const REBALANCE: Duration = Duration::from_secs(20);
const RETENTION: Duration = Duration::from_secs(60);
/// Each looks at the whole log.
const MAX_STEPS: usize = 200;
const PRODUCER: TransactionProducer = TransactionProducer { id: ProducerId(7), epoch: ProducerEpoch(0) };

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    /// A client does what is next for it: joins, syncs, or sends a heartbeat.
    Proceed(usize),
    Join(usize),
    Sync(usize),
    Heartbeat(usize),
    Leave(usize),
    Commit(usize),
    /// A client commits as it would have one generation ago.
    CommitLate(usize),
    /// A client commits in a transaction.
    CommitInTransaction(usize),
    /// A client loses its memory, and the answers it waits for.
    Restart(usize),
    /// What a client was before its last restart commits, or says that it is alive.
    Haunt(usize),
    /// A client subscribes otherwise.
    Resubscribe(usize),
    /// Somebody who is no member commits.
    CommitByHand(usize),
    /// Somebody removes a static member.
    RemoveStatic(usize),
    EndTransaction(bool),
    DeleteOffset(usize),
    DeleteGroup,
    ForgetTopic(usize),
    Expire,
    /// The oldest append that is awaited is in the log, or not.
    Report(bool),
    /// The newest is.
    ReportLast,
    /// So many seconds pass.
    Wait(u8),
    /// As much time passes as it takes until something is due.
    WaitUntilDue,
    /// All is lost but the log, of which what was not reported is a part, or not.
    Crash(bool),
    Compact,
    Resign,
}

impl Op {
    pub(crate) fn decode(kind: u8, argument: u8) -> Self {
        let client = usize::from(argument) % CLIENTS;
        let topic = usize::from(argument) % TOPICS.len();
        let is_odd = argument % 2 == 1;
        match kind % 41 {
            0..8 => Self::Proceed(client),
            8..10 => Self::Join(client),
            10 => Self::Sync(client),
            11..13 => Self::Heartbeat(client),
            13 => Self::Leave(client),
            14..16 => Self::Commit(client),
            16 => Self::CommitLate(client),
            17 => Self::CommitInTransaction(client),
            18 => Self::Restart(client),
            19 => Self::Resubscribe(client),
            20 => Self::CommitByHand(topic),
            21 => Self::RemoveStatic(client),
            22 => Self::EndTransaction(is_odd),
            23 => Self::DeleteOffset(topic),
            24 => Self::DeleteGroup,
            25 => Self::ForgetTopic(topic),
            26 => Self::Expire,
            27..32 => Self::Report(!argument.is_multiple_of(8)),
            32 => Self::ReportLast,
            33 => Self::Wait([1, 3, 9, 61][client]),
            34..37 => Self::WaitUntilDue,
            37 => Self::Crash(is_odd),
            38 => Self::Compact,
            39 => Self::Haunt(client),
            _ if argument == 0 => Self::Resign,
            _ => Self::Proceed(client),
        }
    }
}

#[derive(Debug, Clone)]
struct Client {
    member_id: Box<str>,
    instance_id: Option<Box<str>>,
    generation: Generation,
    /// What it was told when it joined, if it did.
    joined: Option<Joined>,
    assignment: Option<Arc<[u8]>>,
    /// Whether it waits for an answer to its join or sync.
    waits: bool,
    /// When it last was, for sure, a member at peace.
    heard: Option<Duration>,
    /// How often somebody asked that it leaves.
    disturbed: u32,
    /// Answers to those before it are lost.
    life: u32,
    /// Who it was before.
    before: Option<Caller>,
    user_data: u8,
}

/// A request without an answer.
#[derive(Debug, Clone)]
struct Asked {
    client: Option<(usize, u32)>,
    /// How often it was asked to leave before.
    disturbed: u32,
    caller: Caller,
    at: Duration,
    /// The highest generation that anybody knew of.
    floor: Generation,
    /// Whether another member had its instance id.
    is_fenced: bool,
    /// Whether it must be served: it was heard of in time.
    must_live: bool,
    /// What it commits.
    offset: Option<(usize, Offset)>,
}

/// Records that were given to the log.
#[derive(Debug, Clone)]
struct Written {
    number: u64,
    base: Offset,
    records: Arc<[GroupRecord]>,
    transaction: Option<TransactionProducer>,
}

#[derive(Debug, Clone)]
pub(crate) struct World {
    config: GroupConfig,
    coordinator: Coordinator,
    now: Now,
    log: Log,
    /// What was not reported yet, by number.
    awaited: VecDeque<Written>,
    clients: Vec<Client>,
    asked: BTreeMap<Token, Asked>,
    next_token: u64,
    next_uuid: u8,
    next_offset: u64,
    /// Whether tokens are given out again, so that two ways to one world are one.
    reuses_tokens: bool,
    /// The highest generation that anybody was told.
    floor: Generation,
    /// Who was told to have an instance id.
    holders: BTreeMap<Box<str>, Box<str>>,
    /// Who was told to own a partition.
    owners: BTreeMap<(Generation, u8), usize>,
    has_resigned: bool,
}

impl World {
    pub(crate) fn new(max_members: u32, initial_delay: Duration) -> Self {
        let config = GroupConfig::default()
            .min_session_timeout(Duration::from_secs(1))
            .max_members(max_members)
            .initial_rebalance_delay(initial_delay)
            .offset_retention(RETENTION);
        let client = |index| Client {
            member_id: "".into(),
            instance_id: (index >= CLIENTS / 2).then(|| format!("static{index}").into()),
            generation: Generation::NONE,
            joined: None,
            assignment: None,
            waits: false,
            heard: None,
            disturbed: 0,
            life: 0,
            before: None,
            user_data: 0,
        };
        Self {
            config,
            coordinator: Coordinator::new(config),
            now: Now { monotonic: Duration::from_secs(1000), wall: Timestamp(1_000_000) },
            log: Log::default(),
            awaited: VecDeque::new(),
            clients: (0..CLIENTS).map(client).collect(),
            asked: BTreeMap::new(),
            next_token: 0,
            next_uuid: 0,
            next_offset: 0,
            reuses_tokens: false,
            floor: Generation::NONE,
            holders: BTreeMap::new(),
            owners: BTreeMap::new(),
            has_resigned: false,
        }
    }

    /// A world in which nothing counts how often something was asked.
    #[cfg(test)]
    pub(crate) fn forgetful(mut self) -> Self {
        self.reuses_tokens = true;
        self
    }

    /// Runs operations made of `bytes`, then lets the clients cooperate or fall silent.
    pub(crate) fn run(bytes: &[u8]) -> Result<(), String> {
        let Some((&first, rest)) = bytes.split_first() else { return Ok(()) };
        let max_members = if first.is_multiple_of(4) { 2 } else { 10 };
        let delay = Duration::from_secs(if first.is_multiple_of(3) { 0 } else { 3 });
        let mut world = Self::new(max_members, delay);
        for op in rest.chunks_exact(2).take(MAX_STEPS) {
            world.step(Op::decode(op[0], op[1]))?;
        }
        if world.has_resigned {
            return world.step(Op::Crash(false));
        }
        world.clone().fall_silent()?;
        world.clone().drag_on()?;
        if max_members > 2 { world.cooperate() } else { Ok(()) }
    }

    /// One thing happens, and what follows from it.
    pub(crate) fn step(&mut self, op: Op) -> Result<(), String> {
        match op {
            Op::Proceed(client) => self.proceed(client),
            Op::Join(client) => self.join(client),
            Op::Sync(client) => self.sync(client),
            Op::Heartbeat(client) => {
                let caller = self.caller(client);
                self.ask(Some(client), caller.clone(), Request::Heartbeat(Heartbeat { group: GROUP.into(), caller }));
            }
            Op::Leave(client) => self.leave(client, self.clients[client].member_id.clone()),
            Op::RemoveStatic(client) => self.leave(client, "".into()),
            Op::Commit(client) => self.commit(Some(client), self.caller(client), client % 2, None),
            Op::CommitLate(client) => {
                let mut caller = self.caller(client);
                caller.generation.0 = caller.generation.0.saturating_sub(1);
                self.commit(Some(client), caller, client % 2, None);
            }
            Op::CommitInTransaction(client) => {
                self.commit(Some(client), self.caller(client), client % 2, Some(PRODUCER));
            }
            Op::CommitByHand(topic) => self.commit(None, Caller::none(), topic, None),
            Op::Restart(client) => self.restart(client),
            Op::Haunt(client) => self.haunt(client),
            Op::Resubscribe(client) => self.clients[client].user_data ^= 1,
            Op::EndTransaction(is_committed) => {
                self.log.push(LogEntry::Marker { producer: PRODUCER.id, is_committed });
                self.coordinator.end_transaction(PRODUCER.id, is_committed);
            }
            Op::DeleteOffset(topic) => {
                let delete = OffsetDelete { group: GROUP.into(), partitions: vec![(TOPICS[topic].into(), 0)] };
                self.ask(None, Caller::none(), Request::DeleteOffsets(delete));
            }
            Op::DeleteGroup => {
                self.ask(None, Caller::none(), Request::DeleteGroup { group: GROUP.into() });
            }
            Op::ForgetTopic(topic) => {
                self.ask(None, Caller::none(), Request::ForgetTopic { topic: TOPICS[topic].into() });
            }
            Op::Expire => self.expire()?,
            Op::Report(is_appended) => {
                if let Some(written) = self.awaited.pop_front() {
                    self.report(written, is_appended);
                }
            }
            Op::ReportLast => {
                if let Some(written) = self.awaited.pop_back() {
                    self.report(written, true);
                }
            }
            Op::Wait(seconds) => {
                self.pass(Duration::from_secs(seconds.into()));
                self.tell(Event::Tick);
            }
            Op::WaitUntilDue => {
                if let Some(deadline) = self.coordinator.next_deadline() {
                    self.pass(deadline.saturating_sub(self.now.monotonic));
                    self.tell(Event::Tick);
                }
            }
            Op::Crash(keeps) => self.crash(keeps)?,
            // What is written and not reported is not in our log yet, though it is in theirs.
            Op::Compact if !self.awaited.is_empty() => {}
            Op::Compact => self.log.compact()?,
            Op::Resign => {
                self.has_resigned = true;
                self.tell(Event::Resign);
            }
        }
        self.carry_out()?;
        self.check().map_err(|what| format!("after {op:?}: {what}"))
    }
}

/// What clients do.
impl World {
    fn caller(&self, client: usize) -> Caller {
        let Client { member_id, instance_id, generation, .. } = &self.clients[client];
        Caller { member_id: member_id.clone(), instance_id: instance_id.clone(), generation: *generation }
    }

    fn proceed(&mut self, client: usize) {
        let Client { joined, assignment, waits, .. } = &self.clients[client];
        match (joined, assignment) {
            _ if *waits => {}
            (None, _) => self.join(client),
            (Some(_), None) => self.sync(client),
            (Some(_), Some(_)) => {
                let caller = self.caller(client);
                self.ask(Some(client), caller.clone(), Request::Heartbeat(Heartbeat { group: GROUP.into(), caller }));
            }
        }
    }

    fn join(&mut self, index: usize) {
        let mut join = JoinGroup::new(GROUP, self.next_uuid.into());
        let client = &mut self.clients[index];
        // They come round, so that an id may be drawn twice.
        self.next_uuid = self.next_uuid.wrapping_add(u8::from(client.member_id.is_empty()));
        // What it had it gives up.
        (client.joined, client.assignment, client.heard, client.waits) = (None, None, None, true);
        join.member_id = client.member_id.clone();
        join.instance_id = client.instance_id.clone();
        join.client_id = format!("client{index}").into();
        (join.session_timeout, join.rebalance_timeout) = (SESSION, REBALANCE);
        join.can_skip_assignment = index % 2 == 1;
        let subscription = [b"\0\0\0\0\0\x01\0\x04read", &[client.user_data][..]].concat();
        let protocols = [["range", "rr"], ["rr", "range"], ["range", "sticky"], ["range", "rr"]][index];
        let protocol = |name: &str| Protocol { name: name.into(), metadata: (&*subscription).into() };
        join.protocols = protocols.map(protocol).into();
        let caller = self.caller(index);
        self.ask(Some(index), caller, Request::Join(join));
    }

    fn sync(&mut self, client: usize) {
        let caller = self.caller(client);
        let mut assignments: Vec<(Box<str>, Arc<[u8]>)> = Vec::new();
        if let Some(joined) = &self.clients[client].joined {
            let count = joined.members.len();
            for (at, member) in joined.members.iter().enumerate() {
                let owned: Vec<u8> =
                    (0..PARTITIONS).filter(|partition| usize::from(*partition) % count == at).collect();
                assignments.push((member.member_id.clone(), owned.into()));
            }
            // Partitions go round, so that each generation is told from the one before.
            let turn = joined.generation.0.unsigned_abs() as usize % count.max(1);
            let owned: Vec<_> = assignments.iter().map(|(_, owned)| Arc::clone(owned)).collect();
            for (at, (_, assigned)) in assignments.iter_mut().enumerate() {
                *assigned = Arc::clone(&owned[(at + turn) % count]);
            }
        }
        self.clients[client].waits = true;
        let group = GROUP.into();
        let sync = SyncGroup { group, caller: caller.clone(), protocol_type: None, protocol: None, assignments };
        self.ask(Some(client), caller, Request::Sync(sync));
    }

    fn leave(&mut self, client: usize, member_id: Box<str>) {
        let instance_id = self.clients[client].instance_id.clone();
        self.clients[client].heard = None;
        self.clients[client].disturbed += 1;
        let caller = self.caller(client);
        let members = vec![LeavingMember { member_id, instance_id }];
        self.ask(Some(client), caller, Request::Leave(LeaveGroup { group: GROUP.into(), members }));
    }

    fn commit(
        &mut self,
        client: Option<usize>,
        caller: Caller,
        topic: usize,
        transaction: Option<TransactionProducer>,
    ) {
        let offset = OffsetToCommit {
            topic: TOPICS[topic].into(),
            partition: 0,
            offset: Offset(self.next_offset),
            leader_epoch: LeaderEpoch::NONE,
            metadata: "".into(),
        };
        self.next_offset += 1;
        let group = GROUP.into();
        let committed = Some((topic, offset.offset));
        let commit =
            OffsetCommit { group, caller: caller.clone(), transaction, retention: None, offsets: vec![offset] };
        let token = self.ask(client, caller, Request::CommitOffsets(commit));
        self.asked.entry(token).and_modify(|asked| asked.offset = committed);
    }

    fn haunt(&mut self, client: usize) {
        let Some(caller) = self.clients[client].before.clone() else { return };
        if self.next_token.is_multiple_of(2) {
            self.commit(None, caller, client % 2, None);
        } else {
            let heartbeat = Heartbeat { group: GROUP.into(), caller: caller.clone() };
            self.ask(None, caller, Request::Heartbeat(heartbeat));
        }
    }

    fn restart(&mut self, client: usize) {
        let caller = self.caller(client);
        let client = &mut self.clients[client];
        client.life += 1;
        if !caller.member_id.is_empty() {
            client.before = Some(caller);
        }
        client.member_id = "".into();
        client.generation = Generation::NONE;
        (client.joined, client.assignment, client.heard, client.waits) = (None, None, None, false);
    }

    fn ask(&mut self, client: Option<usize>, caller: Caller, request: Request) -> Token {
        let mut token = Token(self.next_token);
        self.next_token += 1;
        if self.reuses_tokens {
            token = (0..).map(Token).find(|token| !self.asked.contains_key(token)).unwrap_or(token);
            self.next_token = 0;
        }
        let holder = caller.instance_id.as_ref().and_then(|instance| self.holders.get(instance));
        let heard = client.and_then(|client| self.clients[client].heard);
        let asked = Asked {
            disturbed: client.map_or(0, |client| self.clients[client].disturbed),
            client: client.map(|client| (client, self.clients[client].life)),
            at: self.now.monotonic,
            floor: self.floor,
            is_fenced: !caller.member_id.is_empty() && holder.is_some_and(|holder| *holder != caller.member_id),
            must_live: heard.is_some_and(|heard| self.now.monotonic < heard + SESSION)
                && caller.generation == self.floor,
            caller,
            offset: None,
        };
        self.asked.insert(token, asked);
        self.tell(Event::Request { token, request });
        token
    }
}

/// What else happens.
impl World {
    fn tell(&mut self, event: Event) {
        self.coordinator.handle(event, self.now);
    }

    fn pass(&mut self, time: Duration) {
        self.now.monotonic += time;
        self.now.wall = self.now.wall + time;
    }

    fn report(&mut self, written: Written, is_appended: bool) {
        let Written { number, base, records, transaction } = written;
        if is_appended {
            self.log_records(base, &records, transaction);
            self.tell(Event::Appended { number, base });
        } else {
            self.tell(Event::NotAppended { number, error: GroupError::CoordinatorNotAvailable });
        }
    }

    fn log_records(&mut self, base: Offset, records: &[GroupRecord], transaction: Option<TransactionProducer>) {
        for (record, position) in records.iter().zip(base.0..) {
            if record.is_group_tombstone() {
                // The next group of this name begins anew.
                (self.floor, self.owners) = (Generation::NONE, BTreeMap::new());
                self.holders.clear();
                self.clients.iter_mut().for_each(|client| client.heard = None);
            }
            let transaction = transaction.map(|producer| producer.id);
            let entry = LogEntry::Record { record: record.clone(), transaction };
            self.log.insert(Logged { position: Offset(position), entry });
        }
    }

    fn crash(&mut self, keeps: bool) -> Result<(), String> {
        for written in std::mem::take(&mut self.awaited) {
            if keeps {
                self.log_records(written.base, &written.records, written.transaction);
            }
        }
        self.asked.clear();
        self.has_resigned = false;
        self.coordinator = self.log.replayed(self.config);
        for client in &mut self.clients {
            (client.waits, client.heard) = (false, None);
        }
        let (_, groups) = self.coordinator.folded();
        let stored = groups.get(GROUP).copied().flatten();
        let last_owned = self.owners.keys().map(|(generation, _)| *generation).max();
        self.floor = stored.map_or(Generation::NONE, |stored| Generation(stored.generation));
        if last_owned > Some(self.floor) {
            return Err(format!("an assignment of {last_owned:?} is lost: the log has {stored:?}"));
        }
        let members = stored.into_iter().flat_map(|stored| &stored.members);
        self.holders = members.filter_map(|member| Some((member.instance_id.clone()?, member.id.clone()))).collect();
        Ok(())
    }

    /// Expires offsets, and looks at what is to be removed.
    fn expire(&mut self) -> Result<(), String> {
        let state = self.coordinator.state(GROUP);
        let before = self.coordinator.next_number;
        self.tell(Event::ExpireOffsets);
        let committed = self.log.committed()?;
        let mut unstable = self.log.unstable();
        unstable.extend(self.awaited.iter().flat_map(|written| fold::offsets_of(&written.records)));
        for outstanding in &self.coordinator.outstanding {
            let super::append::Outstanding::Append(append) = outstanding else { continue };
            if append.number < before {
                continue;
            }
            for (topic, partition) in fold::tombstones_of(&append.records) {
                let slot = (topic.clone(), partition);
                let Some((_, time)) = committed.get(&slot) else {
                    return Err(format!("{slot:?} expires, and is not there"));
                };
                let age = self.now.wall.0 - time.0;
                let is_read = *topic == *TOPICS[0] && state != Some(GroupState::Empty);
                let is_moving = !matches!(state, Some(GroupState::Empty | GroupState::Stable));
                if age < RETENTION.as_millis() as i64 || is_read || is_moving || unstable.contains(&slot) {
                    return Err(format!("{slot:?} expires at the age of {age} ms, in state {state:?}"));
                }
            }
        }
        Ok(())
    }

    /// Does what the coordinator says, until it says nothing.
    fn carry_out(&mut self) -> Result<(), String> {
        while let Some(action) = self.coordinator.poll() {
            match action {
                Action::Append { number, records, transaction } => {
                    if self.awaited.back().is_some_and(|last| last.number >= number) {
                        return Err(format!("append {number} is out of order"));
                    }
                    let base = self.log.reserve(records.len());
                    self.awaited.push_back(Written { number, base, records, transaction });
                }
                Action::Answer { token, answer } => {
                    let Some(asked) = self.asked.remove(&token) else {
                        return Err(format!("{token:?} is answered, and did not ask: {answer:?}"));
                    };
                    self.answered(&asked, answer).map_err(|what| format!("{what}: {asked:?}"))?;
                }
                Action::Expired { .. } => {}
            }
        }
        Ok(())
    }
}

/// What clients are told.
impl World {
    fn answered(&mut self, asked: &Asked, answer: Result<Answer, GroupError>) -> Result<(), String> {
        self.check_served(asked, &answer)?;
        let Some((index, life)) = asked.client else { return Ok(()) };
        if self.clients[index].life != life {
            return Ok(());
        }
        match answer {
            Ok(Answer::MemberIdRequired { member_id }) => {
                let client = &mut self.clients[index];
                (client.member_id, client.waits) = (member_id, false);
            }
            Ok(Answer::Joined(joined)) => self.joined(index, joined)?,
            Ok(Answer::Synced(synced)) => self.synced(index, asked, synced.assignment)?,
            Ok(Answer::Alive) => {
                let client = &mut self.clients[index];
                client.heard = client.heard.map(|heard| heard.max(asked.at));
            }
            Ok(_) => {}
            Err(error) => self.refused(index, asked, error),
        }
        Ok(())
    }

    /// Whether the request could be served, or refused, as it was.
    fn check_served(&self, asked: &Asked, answer: &Result<Answer, GroupError>) -> Result<(), String> {
        let is_served = match answer {
            Ok(Answer::Committed(done)) => done.iter().any(Result::is_ok),
            Ok(Answer::Alive | Answer::Synced(_)) => true,
            _ => false,
        };
        if let (Ok(Answer::Committed(_)), Some((topic, offset))) = (answer, asked.offset)
            && !self.log.has_offset(TOPICS[topic], offset)
        {
            return Err(format!("offset {offset} of {} is committed, and not in the log", TOPICS[topic]));
        }
        if is_served && asked.caller.generation.is_some() && asked.caller.generation < asked.floor {
            return Err(format!("an old generation is served with {answer:?}"));
        }
        if is_served && asked.is_fenced {
            return Err(format!("a fenced member is served with {answer:?}"));
        }
        let is_gone = matches!(answer, Err(GroupError::UnknownMemberId | GroupError::IllegalGeneration));
        if is_gone && asked.must_live {
            return Err(format!("a member that was heard of in time is refused with {answer:?}"));
        }
        Ok(())
    }

    fn joined(&mut self, index: usize, joined: Joined) -> Result<(), String> {
        if joined.generation < self.floor {
            return Err(format!("the generation went back from {} to {}", self.floor, joined.generation));
        }
        let leads = joined.leader == joined.member_id;
        if leads != joined.members.iter().any(|member| member.member_id == joined.member_id) {
            return Err(format!("the leader, and only it, is told of all: {joined:?}"));
        }
        self.floor = joined.generation;
        let client = &mut self.clients[index];
        if let Some(instance) = &client.instance_id {
            self.holders.insert(instance.clone(), joined.member_id.clone());
        }
        (client.member_id, client.generation, client.waits) = (joined.member_id.clone(), joined.generation, false);
        (client.joined, client.assignment) = (Some(joined), None);
        Ok(())
    }

    fn synced(&mut self, index: usize, asked: &Asked, assignment: Arc<[u8]>) -> Result<(), String> {
        for partition in assignment.iter() {
            let owner = *self.owners.entry((asked.caller.generation, *partition)).or_insert(index);
            if owner != index {
                return Err(format!("{owner} and {index} both own {partition} in {}", asked.caller.generation));
            }
        }
        let client = &mut self.clients[index];
        client.waits = false;
        if client.generation == asked.caller.generation && client.joined.is_some() {
            client.assignment = Some(assignment);
            client.heard = Some(asked.at).filter(|_| asked.disturbed == client.disturbed);
        }
        Ok(())
    }

    fn refused(&mut self, index: usize, asked: &Asked, error: GroupError) {
        let client = &mut self.clients[index];
        if client.member_id != asked.caller.member_id {
            return;
        }
        client.waits = false;
        match error {
            GroupError::UnknownMemberId | GroupError::FencedInstanceId | GroupError::GroupMaxSizeReached => {
                self.restart(index);
            }
            GroupError::RebalanceInProgress | GroupError::IllegalGeneration => {
                (client.joined, client.assignment, client.heard) = (None, None, None);
            }
            _ => {}
        }
    }
}

/// What holds at any time, and in the end.
impl World {
    fn check(&self) -> Result<(), String> {
        self.coordinator.check()?;
        if !self.awaited.is_empty() || self.has_resigned {
            return Ok(());
        }
        let read = self.log.replayed(self.config);
        if read.folded() != self.coordinator.folded() {
            return Err(format!(
                "the log reads {:?}\nand is held for {:?}",
                read.folded(),
                self.coordinator.folded()
            ));
        }
        let told: BTreeMap<_, _> = self
            .coordinator
            .offsets
            .offsets(GROUP)
            .map(|(topic, partition, told)| ((topic.into(), partition), (told.offset, told.commit_timestamp)))
            .collect();
        let committed = self.log.committed()?;
        if told != committed {
            return Err(format!("{told:?} is told, and {committed:?} is in the log"));
        }
        Ok(())
    }

    fn report_all(&mut self) -> Result<(), String> {
        while !self.awaited.is_empty() {
            self.step(Op::Report(true))?;
        }
        Ok(())
    }

    /// Nobody says anything any more: all that waits is answered, and the group is empty in the end.
    pub(crate) fn fall_silent(&mut self) -> Result<(), String> {
        self.report_all()?;
        for _ in 0..100 {
            let Some(deadline) = self.coordinator.next_deadline() else { break };
            if deadline > self.now.monotonic + Duration::from_secs(3600) {
                return Err(format!("something is due in {deadline:?} only"));
            }
            self.step(Op::WaitUntilDue)?;
            self.report_all()?;
        }
        match self.coordinator.state(GROUP) {
            Some(GroupState::Empty) if self.asked.is_empty() && self.coordinator.next_deadline().is_none() => Ok(()),
            state => Err(format!("all are silent, the group is {state:?}, and these wait: {:?}", self.asked)),
        }
    }

    /// The clients say that they are alive, and nothing else: nobody waits for them for ever.
    pub(crate) fn drag_on(&mut self) -> Result<(), String> {
        self.report_all()?;
        for _ in 0..30 {
            for client in 0..CLIENTS {
                self.step(Op::Heartbeat(client))?;
                self.report_all()?;
            }
            self.step(Op::Wait(3))?;
            self.report_all()?;
        }
        if self.asked.is_empty() { Ok(()) } else { Err(format!("these still wait: {:?}", self.asked)) }
    }

    /// All clients want to be members: in the end they are, and each partition is somebody's.
    pub(crate) fn cooperate(&mut self) -> Result<(), String> {
        for _ in 0..80 {
            self.report_all()?;
            for client in 0..CLIENTS {
                self.step(Op::Proceed(client))?;
                self.report_all()?;
            }
            let is_settled = |client: &Client| client.assignment.is_some() && client.generation == self.floor;
            // Who restarted may be a member twice, for a session.
            let is_alone =
                self.coordinator.groups.get(GROUP).is_some_and(|entry| entry.group.members.len() == CLIENTS);
            let is_stable = self.coordinator.state(GROUP) == Some(GroupState::Stable);
            if is_alone && is_stable && self.clients.iter().all(is_settled) {
                return self.check_owners();
            }
            if self.clients.iter().all(|client| client.waits) {
                self.step(Op::WaitUntilDue)?;
            }
            self.step(Op::Wait(1))?;
        }
        Err(format!("all cooperate, and this came of it: {:?}", self.clients))
    }

    fn check_owners(&self) -> Result<(), String> {
        let owned = self.clients.iter().flat_map(|client| client.assignment.iter().flat_map(|owned| owned.iter()));
        let mut owned: Vec<u8> = owned.copied().collect();
        owned.sort_unstable();
        if owned == (0..PARTITIONS).collect::<Vec<_>>() { Ok(()) } else { Err(format!("these are owned: {owned:?}")) }
    }
}
