//! A node: the machine of the partition, and what drives it, over a log that is a few records in memory.
//!
//! What `log::replicate` does with the real log, in the same order: roles are taken by version, a machine's actions are done
//! until it has none left, and each is told what the log is now. Refusals are not sent: who hears nothing asks again, too.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use super::ID;
use crate::partition::epochs::Epochs;
use crate::replica::{
    Answer, Assignment, Command, EpochEnd, Follower, FollowerAction, FollowerEvent, Incarnation, Leader,
    LeaderAction, LeaderEvent, LocalLog, Loss, Member, Message, Payload, ReplicaTiming,
};
use crate::types::{LeaderEpoch, NodeId, Offset};

/// A record: the epoch of its batch, which is it alone, and a value that no other has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Record {
    pub(super) epoch: LeaderEpoch,
    pub(super) value: u8,
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    id: NodeId,
    /// How many lives it has lived: the last one's number.
    life: u64,
    pub(super) is_up: bool,
    /// The controller has heard of this life.
    is_registered: bool,
    /// Of each append it is known that it is durable; else the machine may lose some of it.
    is_synced: bool,
    /// What its directory holds.
    pub(super) log: Vec<Record>,
    epochs: Epochs,
    pub(super) committed: usize,
    synced: usize,
    continues: Vec<Incarnation>,
    has_lost: bool,
    /// It has less than it said, and the controller has not heard of that.
    pub(super) is_suspect: bool,
    now: Duration,
    pub(super) version: Option<u64>,
    pub(super) role: Role,
}

#[derive(Debug, Clone)]
pub(super) enum Role {
    None,
    Leader(Box<Leader>),
    Follower(Box<Follower>),
}

/// What a node says, and what it tells its clients.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) messages: Vec<(NodeId, Message)>,
    pub(super) commands: Vec<Command>,
    /// As a leader it has committed all below its own mark.
    pub(super) has_committed: bool,
    /// What it must not have done.
    pub(super) broken: Option<(&'static str, String)>,
}

/// All waits but one end with a short one, and that one with a long one. So of a moment it is known only whether it is this
/// one, or came before a short, or a long wait; and states recur.
const TIMING: ReplicaTiming = ReplicaTiming {
    lag_time: Duration::from_secs(1),
    fetch_wait: Duration::from_nanos(1),
    commit_delay: Duration::from_nanos(1),
    retry: Duration::from_nanos(1),
    backoff: Duration::from_nanos(1),
    max_bytes: 1_000,
};
const SHORT: Duration = Duration::from_nanos(3);
const LONG: Duration = Duration::from_secs(2);

impl Node {
    pub(super) fn new(id: NodeId, is_synced: bool) -> Self {
        Self {
            id,
            life: 0,
            is_up: false,
            is_registered: false,
            is_synced,
            log: Vec::new(),
            epochs: Epochs::default(),
            committed: 0,
            synced: 0,
            continues: Vec::new(),
            has_lost: false,
            is_suspect: false,
            now: Duration::from_secs(10),
            version: None,
            role: Role::None,
        }
    }

    pub(super) fn member(&self) -> Member {
        Member { node: self.id, incarnation: Incarnation(u64::from(self.id.0) * 100 + self.life) }
    }

    /// Begins a life, and says so.
    pub(super) fn start(&mut self) -> Command {
        self.life += 1;
        (self.is_up, self.is_registered) = (true, false);
        self.registration()
    }

    pub(super) fn registration(&self) -> Command {
        let lost = if self.has_lost { Loss::Partitions(vec![ID]) } else { Loss::Nothing };
        Command::NodeUp { member: self.member(), continues: self.continues.clone(), lost }
    }

    pub(super) fn is_registered(&self) -> bool {
        self.is_registered
    }

    /// The controller has applied the registration.
    pub(super) fn registered(&mut self) {
        (self.is_registered, self.has_lost, self.is_suspect) = (true, false, false);
        self.continues.clear();
    }

    /// The process is killed: the log stays.
    pub(super) fn kill(&mut self) {
        if self.is_up {
            self.continues.push(self.member().incarnation);
        }
        (self.is_up, self.is_registered, self.version, self.role) = (false, false, None, Role::None);
        // As the log is opened: an epoch of which it has nothing is not known any more.
        self.epochs.truncate_from_end(self.end());
    }

    /// The power fails: of what was appended so much is left.
    pub(super) fn cut(&mut self, to: usize) {
        self.kill();
        if !self.is_synced {
            // Whatever it is that is gone, something may be.
            (self.has_lost, self.is_suspect) = (true, true);
        }
        self.log.truncate(to);
        self.epochs.truncate_from_end(self.end());
        self.committed = 0;
        self.synced = self.log.len();
    }

    /// How much a power cut leaves at least.
    pub(super) fn lasting(&self) -> usize {
        if self.is_synced { self.synced } else { 0 }
    }

    /// The disk is replaced by an empty one.
    pub(super) fn wipe(&mut self) {
        self.kill();
        self.is_suspect = true;
        (self.log, self.epochs, self.committed, self.synced) = (Vec::new(), Epochs::default(), 0, 0);
        // The next life goes on from none.
        (self.continues, self.has_lost) = (Vec::new(), false);
    }

    fn end(&self) -> Offset {
        Offset(self.log.len() as u64)
    }

    fn local_log(&self) -> LocalLog {
        let held = if self.is_synced { Offset(self.synced as u64) } else { self.end() };
        LocalLog { start: Offset::ZERO, end: self.end(), held, last_epoch: self.epochs.latest() }
    }

    fn epoch_end(&self, epoch: LeaderEpoch) -> Option<EpochEnd> {
        let found = self.epochs.end_offset_for(epoch, self.end())?;
        Some(EpochEnd { epoch: found.epoch, end: found.end })
    }

    pub(super) fn leader(&self) -> Option<&Leader> {
        match &self.role {
            Role::Leader(leader) => Some(leader),
            _ => None,
        }
    }

    pub(super) fn follower(&self) -> Option<&Follower> {
        match &self.role {
            Role::Follower(follower) => Some(follower),
            _ => None,
        }
    }

    /// Takes a role.
    pub(super) fn assume(&mut self, assignment: &Assignment, out: &mut Outbox) {
        if Some(assignment.version) <= self.version {
            return;
        }
        let leads = assignment.leader == Some(self.member());
        let is_taken = if leads { self.lead(assignment) } else { self.follow(assignment) };
        if is_taken {
            self.version = Some(assignment.version);
            self.run(out);
        }
    }

    fn lead(&mut self, assignment: &Assignment) -> bool {
        if let Role::Leader(leader) = &mut self.role
            && leader.epoch() == assignment.leader_epoch
        {
            leader.handle(LeaderEvent::Assigned(assignment.clone()), self.now);
            return true;
        }
        self.role = Role::None;
        if Some(assignment.leader_epoch) < self.epochs.latest() {
            return false;
        }
        self.epochs.assign(assignment.leader_epoch, self.end());
        self.synced = self.log.len();
        let (log, committed) = (self.local_log(), Offset(self.committed as u64));
        let leader = Leader::new(self.member(), assignment.clone(), TIMING, log, committed, self.now);
        self.role = Role::Leader(Box::new(leader));
        true
    }

    fn follow(&mut self, assignment: &Assignment) -> bool {
        if let Role::Follower(follower) = &mut self.role {
            let known = follower.assignment();
            if (known.leader, known.leader_epoch) == (assignment.leader, assignment.leader_epoch) {
                follower.handle(FollowerEvent::Assigned(assignment.clone()), self.now);
                return true;
            }
        }
        self.role = Role::None;
        if assignment.leader.is_some_and(|leader| leader.node != self.id) {
            let (log, committed) = (self.local_log(), Offset(self.committed as u64));
            let follower = Follower::new(self.member(), assignment.clone(), TIMING, log, committed, self.now);
            self.role = Role::Follower(Box::new(follower));
        }
        true
    }

    pub(super) fn receive(&mut self, from: NodeId, message: Message, out: &mut Outbox) {
        let (log, now) = (self.local_log(), self.now);
        let epoch_end = match &message {
            Message::Fetch(fetch) => fetch.last_epoch.and_then(|epoch| self.epoch_end(epoch)),
            Message::Fetched(fetched) => match &fetched.answer {
                Answer::Diverging(leaders) => self.epoch_end(leaders.epoch),
                _ => None,
            },
        };
        match (&mut self.role, message) {
            (Role::Leader(leader), Message::Fetch(fetch)) => {
                leader.handle(LeaderEvent::Log(log), now);
                leader.handle(LeaderEvent::Fetch { from, fetch, epoch_end }, now);
            }
            (Role::Follower(follower), Message::Fetched(fetched)) => {
                follower.handle(FollowerEvent::Fetched { from, fetched, epoch_end }, now);
            }
            _ => return,
        }
        self.run(out);
    }

    /// A client appends.
    pub(super) fn append(&mut self, value: u8, out: &mut Outbox) {
        let Role::Leader(leader) = &self.role else { return };
        self.log.push(Record { epoch: leader.epoch(), value });
        self.synced = self.log.len();
        let (log, now) = (self.local_log(), self.now);
        if let Role::Leader(leader) = &mut self.role {
            leader.handle(LeaderEvent::Log(log), now);
        }
        self.run(out);
    }

    /// A follower has waited long enough for an answer; a leader for all but those that are late.
    pub(super) fn tick(&mut self, out: &mut Outbox) {
        self.wait(SHORT, out);
    }

    /// A leader has waited for as long as it ever does.
    pub(super) fn pass(&mut self, out: &mut Outbox) {
        self.wait(LONG, out);
    }

    fn wait(&mut self, time: Duration, out: &mut Outbox) {
        self.now += time;
        let log = self.local_log();
        match &mut self.role {
            Role::None => return,
            Role::Leader(leader) => {
                leader.handle(LeaderEvent::Log(log), self.now);
                leader.handle(LeaderEvent::Tick, self.now);
            }
            Role::Follower(follower) => {
                let Some(at) = follower.next_deadline() else { return };
                self.now = self.now.max(at);
                follower.handle(FollowerEvent::Tick, self.now);
            }
        }
        self.run(out);
    }

    /// Does all that the machine wants done.
    fn run(&mut self, out: &mut Outbox) {
        loop {
            let is_done = match &mut self.role {
                Role::None => true,
                Role::Leader(leader) => leader.poll().map(|action| self.lead_on(action, out)).is_none(),
                Role::Follower(follower) => follower.poll().map(|action| self.follow_on(action, out)).is_none(),
            };
            if is_done || out.broken.is_some() {
                return;
            }
        }
    }

    fn lead_on(&mut self, action: LeaderAction, out: &mut Outbox) {
        let Role::Leader(leader) = &mut self.role else { return };
        match action {
            LeaderAction::Read { to, fetch, .. } => {
                let batches = payload(fetch.next.0 as usize, &self.log);
                out.messages.push((to, Message::Fetched(leader.batches(to, &fetch, batches))));
            }
            LeaderAction::Answer { answer, .. } if matches!(answer.answer, Answer::Refused(_)) => {}
            LeaderAction::Answer { to, answer } => out.messages.push((to, Message::Fetched(answer))),
            LeaderAction::Commit(to) => {
                self.committed = to.0 as usize;
                out.has_committed = true;
            }
            LeaderAction::Propose(change) => out.commands.push(Command::InSync(change)),
            LeaderAction::Lost(member) => {
                let leader_epoch = leader.epoch();
                out.commands.push(Command::Lost { member, id: ID, leader_epoch });
            }
        }
    }

    fn follow_on(&mut self, action: FollowerAction, out: &mut Outbox) {
        let is_done = match action {
            FollowerAction::Send { to, fetch } => return out.messages.push((to, Message::Fetch(fetch))),
            FollowerAction::Commit(to) => {
                self.committed = self.committed.max(to.0 as usize);
                return;
            }
            FollowerAction::Halt(halt) => {
                out.broken = Some(("no follower halts unless an election was unclean", halt.to_string()));
                return;
            }
            FollowerAction::Append(batches) => self.append_replicated(batches.as_slice()),
            FollowerAction::Sync => {
                self.synced = self.log.len();
                true
            }
            FollowerAction::Truncate(to) => self.keep(to),
            FollowerAction::Reset(to) => self.keep(to) && to == Offset::ZERO,
            // Nothing is ever deleted here.
            FollowerAction::RaiseStart(_) => false,
        };
        if !is_done {
            let detail = format!("node {} cannot do what its machine wants: {:?}", self.id, self.log);
            out.broken = Some(("what is to be done fits the log", detail));
            return;
        }
        let log = self.local_log();
        if let Role::Follower(follower) = &mut self.role {
            follower.handle(FollowerEvent::Done(log), self.now);
        }
    }

    /// Whether the records go on where the log ends, under epochs that do not fall.
    fn append_replicated(&mut self, batches: &[u8]) -> bool {
        let Some((base, records)) = batches.split_first() else { return true };
        if usize::from(*base) != self.log.len() {
            return false;
        }
        for record in records.chunks_exact(2) {
            let record = Record { epoch: LeaderEpoch(record[0].into()), value: record[1] };
            if Some(record.epoch) < self.epochs.latest() {
                return false;
            }
            self.epochs.assign(record.epoch, self.end());
            self.log.push(record);
        }
        true
    }

    /// Whether the log may be cut there: not below what is committed.
    fn keep(&mut self, to: Offset) -> bool {
        self.log.truncate(to.0 as usize);
        self.epochs.truncate_from_end(self.end());
        self.synced = self.synced.min(self.log.len());
        self.committed <= self.log.len()
    }

    /// What it is, in a line.
    pub(super) fn describe(&self) -> String {
        let role = match &self.role {
            Role::None => "no role".to_owned(),
            Role::Leader(leader) => format!("leads {}", leader.epoch()),
            Role::Follower(follower) => format!("follows in {}", follower.assignment().leader_epoch),
        };
        let log: Vec<String> = self.log.iter().map(|record| format!("{}@{}", record.value, record.epoch)).collect();
        let Self { is_up, committed, version, is_suspect, .. } = self;
        format!(
            "{}: up {is_up}, suspect {is_suspect}, [{}] of which {committed} committed, {role}, version {version:?}",
            self.member(),
            log.join(" ")
        )
    }

    /// All that what it does depends on. Versions, and numbers of questions, go by what they are called there.
    pub(super) fn shape(
        &self,
        version: &mut dyn FnMut(u64) -> u64,
        number: &mut dyn FnMut(LeaderEpoch, Incarnation, u64) -> u64,
        into: &mut impl Hasher,
    ) {
        (self.life, self.is_up, self.is_registered, self.has_lost, self.is_suspect).hash(into);
        (&self.log, self.committed, self.lasting(), &self.continues).hash(into);
        for start in self.epochs.entries() {
            (start.epoch, start.start).hash(into);
        }
        if self.follower().is_none() {
            self.version.map(&mut *version).hash(into);
        }
        match &self.role {
            Role::None => 0.hash(into),
            Role::Leader(leader) => {
                let epoch = leader.epoch();
                1.hash(into);
                leader.shape(self.now, version, &mut |life, asked| number(epoch, life, asked), into);
            }
            Role::Follower(follower) => {
                let (epoch, life) = (follower.assignment().leader_epoch, self.member().incarnation);
                2.hash(into);
                follower.shape(&mut |asked| number(epoch, life, asked), into);
            }
        }
    }
}

/// The records from `from` on: its offset, and two bytes for each.
fn payload(from: usize, log: &[Record]) -> Payload {
    let records = log.get(from..).unwrap_or_default();
    if records.is_empty() {
        return Payload::empty();
    }
    let mut bytes = vec![from as u8];
    bytes.extend(records.iter().flat_map(|record| [record.epoch.0 as u8, record.value]));
    Payload::new(bytes)
}
