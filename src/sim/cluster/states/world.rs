//! The world: three nodes, a controller, what is on its way between them, and all that can happen next.

use std::sync::Arc;

use super::node::{Node, Outbox, Record};
use super::{Bounds, ID, NODES};
use crate::replica::{Assignment, Command, Controller, Incarnation, Member, Message, Refused};
use crate::types::{LeaderEpoch, NodeId};

/// A state. What several have in common is there once.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) controller: Arc<Controller>,
    pub(super) nodes: [Arc<Node>; NODES],
    pub(super) net: Vec<Sent>,
    /// What was decided last, and before that as much as may be heard late: the latest last.
    pub(super) roles: Vec<Arc<Assignment>>,
    /// All that was ever committed, as some client was told.
    pub(super) acked: Vec<Record>,
    /// What has happened of each thing that may happen only so often.
    pub(super) spent: Spent,
    /// Of the step that is taken: what arrives at once, and what does not. A bit for answers to each node, one for commands.
    arrived: u8,
    loses: u8,
    has_proposed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Spent {
    records: u8,
    crashes: u8,
    wipes: u8,
    alarms: u8,
    repeats: u8,
    losses: u8,
}

/// Something on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sent {
    Message { from: NodeId, to: NodeId, message: Message },
    Command { from: NodeId, command: Command },
}

/// What happens next. Nodes go by their place, other things by theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A client appends to a leader.
    Append(u8),
    /// Something arrives.
    Deliver(u8),
    /// Something arrives, and will once more.
    Repeat(u8),
    /// A node hears of what was decided.
    Hear(u8, u8),
    /// A node has waited for a little.
    Tick(u8),
    /// A leader has waited for as long as it ever does.
    Pass(u8),
    Kill(u8),
    /// The power fails, and so many records are left.
    Cut(u8, u8),
    Wipe(u8),
    Start(u8),
    /// The controller hears that a node is down; perhaps it is not.
    Down(u8),
    /// A node says that it is there.
    Register(u8),
}

impl Sent {
    /// From whom, to whom, and what.
    fn kind(&self) -> (NodeId, NodeId, u8) {
        match self {
            Self::Message { from, to, message: Message::Fetch(_) } => (*from, *to, 0),
            Self::Message { from, to, message: Message::Fetched(_) } => (*from, *to, 1),
            Self::Command { from, command: Command::NodeUp { .. } } => (*from, *from, 2),
            Self::Command { from, command: Command::InSync(_) } => (*from, *from, 3),
            Self::Command { from, .. } => (*from, *from, 4),
        }
    }

    /// Which of one kind is the oldest.
    fn age(&self) -> (LeaderEpoch, Incarnation, u64) {
        match self {
            Self::Message { message: Message::Fetch(fetch), .. } => {
                (fetch.leader_epoch, fetch.incarnation, fetch.number)
            }
            Self::Message { message: Message::Fetched(fetched), .. } => {
                (fetched.leader_epoch, fetched.incarnation, fetched.number)
            }
            Self::Command { command, .. } => match command {
                Command::NodeUp { member, .. } => (LeaderEpoch::NONE, member.incarnation, 0),
                Command::InSync(change) => (change.leader_epoch, change.leader.incarnation, change.version),
                Command::Lost { member, leader_epoch, .. } => (*leader_epoch, member.incarnation, 0),
                _ => (LeaderEpoch::NONE, Incarnation(0), 0),
            },
        }
    }
}

/// A rule that was broken, and how.
pub(super) type Broken = (&'static str, String);

impl World {
    /// All nodes live, have heard of their roles, and ask.
    pub(super) fn new(bounds: &Bounds) -> Result<Self, Broken> {
        let mut world = Self {
            controller: Arc::default(),
            nodes: std::array::from_fn(|at| Arc::new(Node::new(NodeId(at as u32 + 1), bounds.is_synced))),
            net: Vec::new(),
            roles: Vec::new(),
            acked: Vec::new(),
            spent: Spent::default(),
            arrived: 0,
            loses: 0,
            has_proposed: false,
        };
        for at in 0..NODES {
            let up = Arc::make_mut(&mut world.nodes[at]).start();
            world.apply(&up, bounds)?;
        }
        let replicas = (1..=NODES as u32).map(NodeId).collect();
        world.apply(&Command::Create { id: ID, replicas, min_in_sync: bounds.min_in_sync }, bounds)?;
        for at in 0..NODES {
            world.step(Step::Hear(at as u8, 0), bounds)?;
        }
        Ok(world)
    }

    /// All that can happen next.
    pub(super) fn steps(&self, bounds: &Bounds) -> Vec<Step> {
        let mut steps = Vec::with_capacity(32);
        for (at, sent) in (0_u8..).zip(&self.net) {
            if self.is_ready(sent) {
                steps.push(Step::Deliver(at));
                steps.extend((self.spent.repeats < bounds.repeats).then_some(Step::Repeat(at)));
            }
        }
        for (at, node) in (0_u8..).zip(&self.nodes) {
            self.steps_of(at, node, bounds, &mut steps);
        }
        steps
    }

    fn steps_of(&self, at: u8, node: &Node, bounds: &Bounds, steps: &mut Vec<Step>) {
        let spent = self.spent;
        let is_live = self.controller.is_live(node.member());
        if let Some(known) = self.known_live(at) {
            let is_right = !node.is_up || known != node.member();
            steps.extend((is_right || spent.alarms < bounds.alarms).then_some(Step::Down(at)));
        }
        if spent.wipes < bounds.wipes {
            steps.push(Step::Wipe(at));
        }
        if !node.is_up {
            return steps.push(Step::Start(at));
        }
        if spent.crashes < bounds.crashes {
            steps.push(Step::Kill(at));
            steps.extend((node.lasting()..node.log.len()).map(|left| Step::Cut(at, left as u8)));
        }
        let is_saying = |sent: &Sent| matches!(sent, Sent::Command { command: Command::NodeUp { member, .. }, .. } if *member == node.member());
        let is_known = node.is_registered() && is_live;
        if !is_known && !self.net.iter().any(is_saying) {
            steps.push(Step::Register(at));
        }
        let is_news = |role: &Assignment| match node.follower() {
            // The rest of it is nothing to a follower.
            Some(follower) => role.leader_epoch > follower.assignment().leader_epoch,
            None => Some(role.version) > node.version,
        };
        let news = (0_u8..).zip(&self.roles).filter(|(_, role)| is_news(role));
        steps.extend(news.map(|(which, _)| Step::Hear(at, which)));
        if let Some(leader) = node.leader() {
            steps.extend((spent.records < bounds.records).then_some(Step::Append(at)));
            steps.extend(leader.has_parked().then_some(Step::Tick(at)));
            steps.push(Step::Pass(at));
        }
        if self.asks_in_vain(node) {
            steps.push(Step::Tick(at));
        }
    }

    /// Whether it waits for nothing, or for an answer that may not come: its question neither waits at the leader nor is alone on
    /// its way there.
    fn asks_in_vain(&self, node: &Node) -> bool {
        let Some(follower) = node.follower().filter(|follower| follower.next_deadline().is_some()) else {
            return false;
        };
        let Some(leader) = follower.assignment().leader else { return false };
        let id = node.member().node;
        let is_parked = self.node(leader.node).leader().is_some_and(|leader| leader.has_parked_of(id));
        let is_sent = |sent: &Sent| {
            matches!(sent, Sent::Message { from, to, message: Message::Fetch(fetch) }
                if (*from, *to) == (id, leader.node) && fetch.number == follower.number())
        };
        !is_parked && !self.net.iter().any(is_sent)
    }

    /// The life of a node that the controller takes for alive.
    fn known_live(&self, at: u8) -> Option<Member> {
        let known = self.controller.nodes().find(|known| known.node.0 == u32::from(at) + 1);
        known.filter(|known| self.controller.is_live(*known))
    }

    /// Whether it can be taken: who is asked leads, or else would refuse.
    fn is_ready(&self, sent: &Sent) -> bool {
        match sent {
            Sent::Message { to, message: Message::Fetch(fetch), .. } => {
                self.node(*to).leader().is_some_and(|leader| leader.epoch() == fetch.leader_epoch)
            }
            _ => true,
        }
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize - 1]
    }

    /// One thing happens, and something that comes of it is lost: answers to a node, or commands. What else did arrive.
    pub(super) fn take(&mut self, step: Step, loses: Option<u8>, bounds: &Bounds) -> Result<u8, Broken> {
        self.spent.losses += u8::from(loses.is_some());
        self.loses = loses.map_or(0, |which| 1 << which);
        (self.arrived, self.has_proposed) = (0, false);
        let done = self.step(step, bounds);
        self.loses = 0;
        done.map(|()| self.arrived)
    }

    /// Whether a leader asked for others to be in sync, in the last step.
    pub(super) fn has_proposed(&self) -> bool {
        self.has_proposed
    }

    pub(super) fn may_lose(&self, bounds: &Bounds) -> bool {
        self.spent.losses < bounds.losses
    }

    /// One thing happens.
    pub(super) fn step(&mut self, step: Step, bounds: &Bounds) -> Result<(), Broken> {
        match step {
            Step::Append(at) => {
                let value = self.spent.records;
                self.spent.records += 1;
                self.with(at, bounds, |node, out| node.append(value, out))?;
            }
            Step::Deliver(which) => {
                let sent = self.net.remove(which.into());
                self.deliver(sent, bounds)?;
            }
            Step::Repeat(which) => {
                self.spent.repeats += 1;
                let sent = self.net[usize::from(which)].clone();
                self.deliver(sent, bounds)?;
            }
            Step::Hear(at, which) => {
                let role = Arc::clone(&self.roles[usize::from(which)]);
                self.with(at, bounds, |node, out| node.assume(&role, out))?;
            }
            Step::Tick(at) => self.with(at, bounds, Node::tick)?,
            Step::Pass(at) => self.with(at, bounds, Node::pass)?,
            Step::Kill(at) => {
                self.spent.crashes += 1;
                self.with(at, bounds, |node, _| node.kill())?;
            }
            Step::Cut(at, left) => {
                self.spent.crashes += 1;
                self.with(at, bounds, |node, _| node.cut(left.into()))?;
            }
            Step::Wipe(at) => {
                self.spent.wipes += 1;
                self.with(at, bounds, |node, _| node.wipe())?;
            }
            Step::Start(at) => self.with(at, bounds, |node, out| out.commands.push(node.start()))?,
            Step::Register(at) => self.with(at, bounds, |node, out| out.commands.push(node.registration()))?,
            Step::Down(at) => {
                let node = &self.nodes[usize::from(at)];
                if let Some(member) = self.known_live(at) {
                    self.spent.alarms += u8::from(node.is_up && node.member() == member);
                    self.apply(&Command::NodeDown { member }, bounds)?;
                }
            }
        }
        self.forget(bounds);
        Ok(())
    }

    /// A step, in words.
    pub(super) fn name(&self, step: Step) -> String {
        match step {
            Step::Deliver(which) | Step::Repeat(which) => format!("{step:?}: {:?}", self.net.get(usize::from(which))),
            other => format!("{other:?}"),
        }
    }

    /// Does something with a node, and sends what comes of it.
    fn with(&mut self, at: u8, bounds: &Bounds, work: impl FnOnce(&mut Node, &mut Outbox)) -> Result<(), Broken> {
        let node = Arc::make_mut(&mut self.nodes[usize::from(at)]);
        let mut out = Outbox::default();
        work(node, &mut out);
        if let Some(broken) = out.broken {
            return Err(broken);
        }
        let from = NodeId(u32::from(at) + 1);
        if out.has_committed {
            self.acknowledge(from)?;
        }
        let commands = out.commands.into_iter().map(|command| Sent::Command { from, command });
        let messages = out.messages.into_iter().map(|(to, message)| Sent::Message { from, to, message });
        commands.chain(messages).try_for_each(|sent| self.carry(sent, bounds))
    }

    /// Lets it arrive, or be lost, or sends it on its way.
    fn carry(&mut self, sent: Sent, bounds: &Bounds) -> Result<(), Broken> {
        self.has_proposed |= matches!(sent, Sent::Command { command: Command::InSync(_), .. });
        let bit = match &sent {
            Sent::Message { message: Message::Fetch(_), .. } => 0,
            Sent::Message { to, .. } if !bounds.has_slow_answers => 1 << (to.0 - 1),
            Sent::Command { .. } if !bounds.has_slow_commands => 1 << NODES,
            _ => 0,
        };
        if bit == 0 {
            self.send(sent, bounds);
            return Ok(());
        }
        self.arrived |= bit;
        if self.loses & bit == 0 { self.deliver(sent, bounds) } else { Ok(()) }
    }

    /// A client was told that what a leader has committed is: each offset has one record, for ever.
    fn acknowledge(&mut self, leader: NodeId) -> Result<(), Broken> {
        let node = self.node(leader);
        let Some(told) = node.log.get(..node.committed) else {
            return Err(("what is committed is there", format!("node {leader} has {:?}", node.log)));
        };
        let common = told.len().min(self.acked.len());
        if told[..common] != self.acked[..common] {
            let detail = format!("node {leader} commits {told:?} where {:?} was acknowledged", self.acked);
            return Err(("one record per offset", detail));
        }
        if told.len() > common {
            self.acked = told.to_vec();
        }
        Ok(())
    }

    /// Of one kind and way only so many are there at once: the oldest is lost. None is there twice.
    fn send(&mut self, sent: Sent, bounds: &Bounds) {
        if self.net.contains(&sent) {
            return;
        }
        let is_command = matches!(sent, Sent::Command { .. });
        let most = if is_command { bounds.commands } else { bounds.messages };
        self.net.push(sent);
        let kind = self.net.last().map(Sent::kind);
        let alike = |(_, other): &(usize, &Sent)| Some(other.kind()) == kind;
        if self.net.iter().enumerate().filter(alike).count() > most {
            let oldest = self.net.iter().enumerate().filter(alike).min_by_key(|(_, other)| other.age());
            if let Some(at) = oldest.map(|(at, _)| at) {
                self.net.remove(at);
            }
        }
    }

    fn deliver(&mut self, sent: Sent, bounds: &Bounds) -> Result<(), Broken> {
        match sent {
            Sent::Command { command, .. } => self.apply(&command, bounds),
            Sent::Message { from, to, message } => {
                self.with(to.0 as u8 - 1, bounds, |node, out| node.receive(from, message, out))
            }
        }
    }

    /// The controller decides.
    fn apply(&mut self, command: &Command, bounds: &Bounds) -> Result<(), Broken> {
        let before = self.controller.assignment(ID).cloned();
        let outcome = match Arc::make_mut(&mut self.controller).apply(command) {
            Ok(outcome) => outcome,
            Err(Refused::FormerLife { member, .. }) => return self.begin_anew(member.node, command, bounds),
            Err(_) => return Ok(()),
        };
        if let Command::NodeUp { member, .. } = command
            && self.node(member.node).member() == *member
            && self.node(member.node).is_up
        {
            Arc::make_mut(&mut self.nodes[member.node.0 as usize - 1]).registered();
        }
        for now in outcome.changed {
            if let Some(before) = before.as_ref().filter(|before| before.leader_epoch == now.leader_epoch)
                && before.leader != now.leader
            {
                return Err(("one leader per epoch", format!("{before:?}, then {now:?}")));
            }
            self.roles.push(Arc::new(now));
            let excess = self.roles.len().saturating_sub(1 + bounds.late);
            self.roles.drain(..excess);
        }
        Ok(())
    }

    /// A node was wiped, and a command of the life before came later than one of this: it opens its log again.
    fn begin_anew(&mut self, id: NodeId, command: &Command, bounds: &Bounds) -> Result<(), Broken> {
        let node = self.node(id);
        let is_this = matches!(command, Command::NodeUp { member, .. } if *member == node.member() && node.is_up);
        if !is_this {
            return Ok(());
        }
        self.with(id.0 as u8 - 1, bounds, |node, out| {
            node.kill();
            out.commands.push(node.start());
        })
    }

    /// Whether there are no more leaders than are looked at.
    pub(super) fn is_within(&self, bounds: &Bounds) -> bool {
        self.assignment().is_some_and(|known| known.leader_epoch.0 < i32::from(bounds.epochs))
    }

    pub(super) fn assignment(&self) -> Option<&Assignment> {
        self.controller.assignment(ID)
    }

    /// Takes away what nobody would do anything about, now or later.
    fn forget(&mut self, bounds: &Bounds) {
        let mut net = std::mem::take(&mut self.net);
        net.retain(|sent| self.may_matter(sent, bounds));
        self.net = net;
    }

    fn may_matter(&self, sent: &Sent, bounds: &Bounds) -> bool {
        match sent {
            Sent::Message { to, message: Message::Fetch(fetch), .. } => {
                let node = self.node(*to);
                let is_to_lead = |role: &Arc<Assignment>| {
                    role.leader_epoch == fetch.leader_epoch && role.leader == Some(node.member())
                };
                let leads = node.leader().is_some_and(|leader| leader.epoch() == fetch.leader_epoch);
                let will = || self.roles.iter().any(|role| Some(role.version) > node.version && is_to_lead(role));
                node.is_up && (leads || will())
            }
            Sent::Message { from, to, message: Message::Fetched(fetched) } => {
                self.node(*to).follower().is_some_and(|follower| follower.expects(*from, fetched))
            }
            Sent::Command { command: Command::InSync(change), .. } => self.assignment().is_some_and(|known| {
                let is_of_leader = known.leader == Some(change.leader) && known.leader_epoch == change.leader_epoch;
                is_of_leader && (bounds.keeps_late || known.version == change.version)
            }),
            Sent::Command { command: Command::NodeUp { member, .. }, .. } => {
                let node = self.node(member.node);
                // The last life has to hear it if it is over.
                match node.member() == *member {
                    true => !node.is_registered() || !self.controller.is_live(*member),
                    false => !self.controller.is_over(*member),
                }
            }
            Sent::Command { command: Command::Lost { leader_epoch, .. }, .. } => {
                self.assignment().is_some_and(|known| known.leader_epoch <= *leader_epoch)
            }
            Sent::Command { .. } => true,
        }
    }
}
