//! A controller in a small world: four nodes that hold a partition, messages that are late, and a model that says
//! what must not happen.
//!
//! The property test and the fuzzer drive this. The nodes are the naive form of the real ones: they follow the rules
//! that the controller relies on, and no more. Commands and reports arrive late, twice, in any order or not at all;
//! nodes crash, lose what they had, are wiped or replaced by old copies of themselves, and hear of assignments long
//! after. What is checked, by the names of the invariants:
//!
//! - P2, P7: whoever is in sync or eligible has everything that was ever committed, unless it lost something and the
//!   controller has not heard of that yet. What an unclean election gives up is exempt.
//! - P4: an epoch has one leader. Epochs and versions only rise.
//! - P9: nothing is committed by fewer than the minimum, for the nodes do not.
//! - A command that is refused changes nothing. The state reads back from its bytes.
//! - P11: once all nodes live and talk, there is a leader, all replicas are in sync with it, and no move is unfinished.

mod node;

use std::collections::BTreeMap;

use self::node::{Entry, Node, Report};
use super::{Command, Controller, Loss, Outcome};
use crate::replica::{Assignment, InSyncChange, Member, PartitionId};
use crate::types::{LeaderEpoch, NodeId, TopicId};

const NODES: usize = 4;
const ID: PartitionId = PartitionId { topic: TopicId::from_bytes([7; 16]), partition: 0 };
/// How many commands or reports are on their way at most. The oldest are lost first.
const MAX_IN_FLIGHT: usize = 12;
const MAX_STEPS: usize = 400;

/// What happens next. Nodes are numbers below [`NODES`]; other arguments choose among what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    /// A node does all that is next for it, without delay.
    Proceed(usize),
    Append(usize),
    Commit(usize),
    /// A leader asks for who has caught up to be in sync.
    Expand(usize),
    /// A leader asks for somebody not to be.
    Shrink(usize, u8),
    /// A leader asks for the set that there is.
    Ask(usize),
    /// A follower gets so many records of its leader.
    Copy(usize, u8),
    Sync(usize),
    /// A follower tells its leader how far it is.
    Report(usize),
    /// A report arrives; it may do so again.
    Deliver(u8),
    /// A command is applied; it may be again.
    Apply(u8),
    /// A node hears of an assignment.
    Hear(usize, u8),
    /// A node dies, and loses some of what it did not hold.
    Crash(usize, u8),
    Restart(usize),
    /// A node's copy is cut to so many records.
    Lose(usize, u8),
    /// A node's disk is new.
    Wipe(usize),
    /// A node's directory is copied.
    Save(usize),
    /// A node's directory is replaced by the copy.
    Restore(usize),
    /// Somebody says that a node is dead.
    Down(usize),
    /// A node says that it lives.
    Up(usize),
    /// A node says what it lost, if it did.
    Lost(usize),
    /// The partition moves to these nodes: a bit for each, and where to begin.
    Reassign(u8),
    SetMinInSync(u8),
    ElectPreferred,
    ElectUnclean(usize),
}

impl Op {
    pub(crate) fn decode(kind: u8, argument: u8) -> Self {
        let (node, rest) = (usize::from(argument) % NODES, argument / NODES as u8);
        match kind % 64 {
            0..8 => Self::Proceed(node),
            8..10 => Self::Append(node),
            10..13 => Self::Commit(node),
            13..17 => Self::Expand(node),
            17 => Self::Shrink(node, rest),
            18 => Self::Ask(node),
            19..22 => Self::Copy(node, rest % 3),
            22 => Self::Sync(node),
            23..26 => Self::Report(node),
            26..30 => Self::Deliver(argument),
            30..37 => Self::Apply(argument),
            37..42 => Self::Hear(node, rest),
            42 => Self::Crash(node, rest),
            43..46 => Self::Restart(node),
            46..48 => Self::Lose(node, rest % 8),
            48 => Self::Wipe(node),
            49 => Self::Save(node),
            50 => Self::Restore(node),
            51..53 => Self::Down(node),
            53..55 => Self::Up(node),
            55 => Self::Lost(node),
            56..59 => Self::Reassign(argument),
            59..61 => Self::SetMinInSync(argument),
            61 => Self::ElectPreferred,
            62 if rest < 16 => Self::ElectUnclean(node),
            _ => Self::Proceed(node),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct World {
    controller: Controller,
    nodes: Vec<Node>,
    commands: Vec<Command>,
    reports: Vec<Report>,
    /// All that was ever decided.
    history: Vec<Assignment>,
    leaders: BTreeMap<LeaderEpoch, Option<Member>>,
    /// What some leader told its clients to be committed, but for what an unclean election gave up.
    committed: Vec<Entry>,
    /// What is committed under an epoch before this one does not count: it was given up.
    unclean_epoch: LeaderEpoch,
    next_value: u32,
}

impl World {
    /// Three of four nodes hold a partition, of whom so many have to.
    pub(crate) fn new(min_in_sync: u32) -> Result<Self, String> {
        let mut world = Self {
            controller: Controller::default(),
            nodes: (0..NODES).map(Node::new).collect(),
            commands: Vec::new(),
            reports: Vec::new(),
            history: Vec::new(),
            leaders: BTreeMap::new(),
            committed: Vec::new(),
            unclean_epoch: LeaderEpoch(0),
            next_value: 0,
        };
        for node in 0..NODES {
            world.step(Op::Up(node))?;
            world.step(Op::Apply(0))?;
        }
        let replicas = (0..NODES - 1).map(|node| NodeId(node as u32)).collect();
        world.send(Command::Create { id: ID, replicas, min_in_sync });
        world.step(Op::Apply(0))?;
        Ok(world)
    }

    /// Runs operations made of `bytes`, then lets all nodes live and talk.
    pub(crate) fn run(bytes: &[u8]) -> Result<(), String> {
        let Some((&first, rest)) = bytes.split_first() else { return Ok(()) };
        let ops: Vec<_> = rest.chunks_exact(2).take(MAX_STEPS).map(|op| Op::decode(op[0], op[1])).collect();
        let run = || {
            let mut world = Self::new(u32::from(first % 4) + 1)?;
            ops.iter().try_for_each(|op| world.step(*op))?;
            world.heal()
        };
        run().map_err(|what: String| format!("{what}, in {ops:?}"))
    }

    /// One thing happens.
    pub(crate) fn step(&mut self, op: Op) -> Result<(), String> {
        match op {
            Op::Proceed(node) => self.proceed(node)?,
            Op::Append(node) => self.append(node),
            Op::Commit(node) => self.commit(node)?,
            Op::Expand(node) => self.propose(node, |node, in_sync| in_sync.extend(node.caught_up())),
            Op::Shrink(node, which) => self.propose(node, |node, in_sync| {
                let other = usize::from(which) % in_sync.len();
                in_sync.retain(|member| *member == node.member() || in_sync_at(node, other) != Some(*member));
            }),
            Op::Ask(node) => self.propose(node, |_, _| {}),
            Op::Copy(node, count) => self.copy(node, count.into()),
            Op::Sync(node) => self.nodes[node].sync(),
            Op::Report(node) => self.report(node),
            Op::Deliver(which) => self.deliver(which.into()),
            Op::Apply(which) => self.apply_any(which.into())?,
            Op::Hear(node, which) => self.hear(node, which.into()),
            Op::Crash(node, losing) => self.nodes[node].crash(losing.into()),
            Op::Restart(node) => self.restart(node),
            Op::Lose(node, len) => self.lose(node, len.into()),
            Op::Wipe(node) => self.nodes[node].wipe(),
            Op::Save(node) => self.nodes[node].save(),
            Op::Restore(node) => self.nodes[node].restore(),
            Op::Down(node) => {
                let known = self.controller.nodes().find(|member| member.node.0 as usize == node);
                self.commands.extend(known.map(|member| Command::NodeDown { member }));
            }
            Op::Up(node) => self.up(node),
            Op::Lost(node) => self.repeat_loss(node),
            Op::Reassign(bits) => self.send(Command::Reassign { id: ID, replicas: nodes_of(bits) }),
            Op::SetMinInSync(count) => {
                self.send(Command::SetMinInSync { id: ID, min_in_sync: u32::from(count % NODES as u8) + 1 });
            }
            Op::ElectPreferred => self.send(Command::ElectPreferred { id: ID }),
            Op::ElectUnclean(node) => self.send(Command::ElectUnclean { id: ID, node: NodeId(node as u32) }),
        }
        self.check().map_err(|what| format!("after {op:?}: {what}"))
    }
}

/// The nodes of a pattern, in an order that it chooses.
fn nodes_of(bits: u8) -> Vec<NodeId> {
    let from = bits / 16;
    let nodes = (0..NODES as u8).map(|at| (at + from) % NODES as u8);
    nodes.filter(|node| bits >> node & 1 == 1).map(|node| NodeId(node.into())).collect()
}

fn in_sync_at(node: &Node, at: usize) -> Option<Member> {
    node.view.as_ref()?.in_sync.get(at).copied()
}

/// What nodes do.
impl World {
    fn proceed(&mut self, node: usize) -> Result<(), String> {
        self.hear(node, usize::MAX);
        if self.nodes[node].leads() {
            // Before it has records that nobody else can have.
            self.step(Op::Expand(node))?;
            self.append(node);
            self.commit(node)?;
        } else {
            self.copy(node, usize::MAX);
            self.nodes[node].sync();
            self.report(node);
            self.deliver(usize::MAX);
        }
        Ok(())
    }

    fn append(&mut self, node: usize) {
        let value = self.next_value;
        if self.nodes[node].append(value) {
            self.next_value += 1;
        }
    }

    fn commit(&mut self, node: usize) -> Result<(), String> {
        let Some((epoch, committed)) = self.nodes[node].commit() else { return Ok(()) };
        if epoch < self.unclean_epoch {
            return Ok(());
        }
        let common = common_len(&committed, &self.committed);
        if common < committed.len().min(self.committed.len()) {
            return Err(format!("{committed:?} is committed beside {:?}", self.committed));
        }
        if committed.len() > self.committed.len() {
            self.committed = committed;
        }
        Ok(())
    }

    fn propose(&mut self, node: usize, change: impl FnOnce(&Node, &mut Vec<Member>)) {
        let leader = &mut self.nodes[node];
        let Some(Assignment { id, version, leader_epoch, in_sync, .. }) = leader.view.clone() else { return };
        if !leader.leads() {
            return;
        }
        let mut proposed = in_sync;
        change(leader, &mut proposed);
        let change = InSyncChange { id, leader: leader.member(), leader_epoch, version, in_sync: proposed };
        leader.pending.push(change.clone());
        self.send(Command::InSync(change));
    }

    fn copy(&mut self, node: usize, count: usize) {
        let Some((leader, epoch)) = self.nodes[node].follows() else { return };
        let leader = &self.nodes[leader.node.0 as usize];
        if leader.leads_in(epoch) {
            let log = leader.log.clone();
            self.nodes[node].take(&log, count);
        }
    }

    fn report(&mut self, node: usize) {
        self.reports.extend(self.nodes[node].report());
        let excess = self.reports.len().saturating_sub(MAX_IN_FLIGHT);
        self.reports.drain(..excess);
    }

    /// A report, or the last, arrives; of some a copy stays on its way.
    fn deliver(&mut self, which: usize) {
        let Some(last) = self.reports.len().checked_sub(1) else { return };
        let at = if which == usize::MAX { last } else { which / 4 % self.reports.len() };
        let report = if which.is_multiple_of(4) { self.reports[at] } else { self.reports.remove(at) };
        self.nodes[report.to.0 as usize].hear_report(report);
    }

    /// A node hears of one of the assignments that it has not heard of, or of the last.
    fn hear(&mut self, node: usize, which: usize) {
        let seen = self.nodes[node].view.as_ref().map(|view| view.version);
        let newer: Vec<_> = self.history.iter().filter(|known| Some(known.version) > seen).collect();
        let Some(last) = newer.len().checked_sub(1) else { return };
        let (news, had_lost) = (newer[which.min(last)].clone(), self.nodes[node].has_lost);
        self.nodes[node].hear(news.clone());
        let node = &self.nodes[node];
        let begins = self.unclean_epoch == news.leader_epoch && news.leader == Some(node.member());
        if begins && had_lost && !node.has_lost {
            // It leads uncleanly, with what it has left now.
            let kept = common_len(&node.log[..node.held], &self.committed);
            self.committed.truncate(kept);
        }
    }

    fn restart(&mut self, node: usize) {
        if self.nodes[node].restart() {
            self.up(node);
        }
    }

    fn up(&mut self, node: usize) {
        let node = &self.nodes[node];
        if node.is_running {
            let lost = if node.has_lost { Loss::Partitions(vec![ID]) } else { Loss::Nothing };
            self.send(Command::NodeUp { member: node.member(), continues: node.continues(), lost });
        }
    }

    fn lose(&mut self, node: usize, len: usize) {
        self.nodes[node].lose(len);
        self.repeat_loss(node);
    }

    fn repeat_loss(&mut self, node: usize) {
        if let Some(leader_epoch) = self.nodes[node].says_lost() {
            self.send(Command::Lost { member: self.nodes[node].member(), id: ID, leader_epoch });
        }
    }

    fn send(&mut self, command: Command) {
        self.commands.push(command);
        let excess = self.commands.len().saturating_sub(MAX_IN_FLIGHT);
        self.commands.drain(..excess);
    }

    /// Everything lives and talks from now on.
    fn heal(&mut self) -> Result<(), String> {
        self.apply_all()?;
        // One that was wiped may be refused because of a late command of the life before: it begins another.
        self.nodes.iter_mut().for_each(|node| node.crash(0));
        for _ in 0..8 {
            for node in 0..NODES {
                self.restart(node);
                self.up(node);
                self.repeat_loss(node);
                self.apply_all()?;
            }
            if self.assignment().is_some_and(|assignment| assignment.leader.is_none()) {
                let first = self.assignment().and_then(|assignment| assignment.replicas.first().copied());
                self.send(Command::ElectUnclean { id: ID, node: first.unwrap_or(NodeId(0)) });
                self.apply_all()?;
            }
            // Two rounds: what is reported in one is committed, or asked for, in the next.
            for node in (0..NODES).chain(0..NODES) {
                self.step(Op::Proceed(node))?;
                self.apply_all()?;
            }
        }
        self.check_healed().map_err(|what| format!("in peace: {what}, {:?}", self.controller))
    }

    fn apply_all(&mut self) -> Result<(), String> {
        while !self.commands.is_empty() {
            let command = self.commands.remove(0);
            self.apply(&command)?;
            self.check()?;
        }
        Ok(())
    }
}

/// What the controller does, and what must hold of it.
impl World {
    fn assignment(&self) -> Option<&Assignment> {
        self.controller.assignment(ID)
    }

    /// A command is applied; some stay on their way.
    fn apply_any(&mut self, which: usize) -> Result<(), String> {
        if self.commands.is_empty() {
            return Ok(());
        }
        let at = which / 4 % self.commands.len();
        let is_kept = which % 4 == 3;
        let command = if is_kept { self.commands[at].clone() } else { self.commands.remove(at) };
        self.apply(&command)
    }

    fn apply(&mut self, command: &Command) -> Result<(), String> {
        let before = self.controller.clone();
        let command = Command::decode(&command.encode()).map_err(|error| error.to_string())?;
        let outcome = self.controller.apply(&command);
        if Controller::decode(&self.controller.encode()).as_ref() != Ok(&self.controller) {
            return Err(format!("reads back otherwise: {:?}", self.controller));
        }
        match outcome {
            Ok(outcome) => self.applied(&before, &command, &outcome).map_err(|what| format!("{command:?}: {what}")),
            Err(_) if self.controller == before => Ok(()),
            Err(refused) => Err(format!("{command:?} was refused ({refused}) and changed {before:?}")),
        }
    }

    fn applied(&mut self, before: &Controller, command: &Command, outcome: &Outcome) -> Result<(), String> {
        let changed: Vec<_> =
            self.controller.assignments().filter(|now| before.assignment(now.id) != Some(*now)).collect();
        if changed != outcome.changed.iter().collect::<Vec<_>>() {
            return Err(format!("{outcome:?} does not tell all"));
        }
        for now in &outcome.changed {
            let rises = before
                .assignment(now.id)
                .is_none_or(|before| now.version == before.version + 1 && now.leader_epoch >= before.leader_epoch);
            let leader = *self.leaders.entry(now.leader_epoch).or_insert(now.leader);
            if !rises || leader != now.leader {
                return Err(format!("{now:?} after {:?}, led by {leader:?}", before.assignment(now.id)));
            }
            self.history.push(now.clone());
        }
        self.note(before, command);
        if outcome.is_unclean {
            self.give_up();
        }
        Ok(())
    }

    /// A node has been heard of that had lost something.
    fn note(&mut self, before: &Controller, command: &Command) {
        let version = self.assignment().map_or(0, |assignment| assignment.version);
        let (member, registered) = match command {
            // Said once more, it has no effect.
            Command::NodeUp { member, .. } if before.nodes().any(|known| known == *member) => return,
            Command::NodeUp { member, lost, .. } => (member, Some(*lost != Loss::Nothing)),
            Command::Lost { member, leader_epoch, .. }
                if before.assignment(ID).is_some_and(|known| known.leader_epoch <= *leader_epoch) =>
            {
                (member, None)
            }
            _ => return,
        };
        let node = &mut self.nodes[member.node.0 as usize];
        if node.member() == *member {
            node.heard_of(version, registered);
        }
    }

    /// What the new leader does not have is not committed any more.
    fn give_up(&mut self) {
        let Some(&Assignment { leader: Some(leader), leader_epoch, .. }) = self.assignment() else { return };
        self.unclean_epoch = leader_epoch;
        let node = &self.nodes[leader.node.0 as usize];
        let kept = common_len(&node.log[..node.held], &self.committed);
        self.committed.truncate(kept);
    }

    fn check(&self) -> Result<(), String> {
        self.controller.check()?;
        let Some(Assignment { in_sync, eligible, .. }) = self.assignment() else { return Ok(()) };
        for member in in_sync.iter().chain(eligible) {
            let node = &self.nodes[member.node.0 as usize];
            if !node.is_suspect() && !node.log.starts_with(&self.committed) {
                let (log, committed) = (&node.log, &self.committed);
                return Err(format!("{member} has {log:?} of {committed:?}: {:?}", self.controller));
            }
        }
        Ok(())
    }

    fn check_healed(&self) -> Result<(), String> {
        let Some(assignment) = self.assignment() else { return Err("no partition".to_owned()) };
        let Some(leader) = assignment.leader else { return Err("no leader".to_owned()) };
        if assignment.in_sync.len() != assignment.replicas.len() || self.controller.reassignment(ID).is_some() {
            return Err("somebody is out of sync".to_owned());
        }
        // The last record of all was appended after the last report.
        let log = &self.nodes[leader.node.0 as usize].log;
        let last = log.len().saturating_sub(3).max(1);
        if !self.committed.starts_with(&log[..last.min(log.len())]) {
            return Err(format!("committed is {:?}, not {log:?}", self.committed));
        }
        Ok(())
    }
}

fn common_len(a: &[Entry], b: &[Entry]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
