//! A cluster in one thread: nodes that are whole logs on simulated disks, a network that loses and repeats, a controller,
//! clients, and all that can go wrong. One seed is one history.
//!
//! ```text
//! queue of events by time: deliver, command, assign, wake, act, fault, mend
//!        |                                     ^
//!        v                                     | delays, losses, repetitions, cuts
//!   node: Log on SimDisk --- outbox -----------+
//! ```
//!
//! Clients append with [`Ack::Replicated`](crate::Ack) and read what is committed. What they were told is held against the
//! logs, as it happens and at the end: see `check`. Faults stay within what replication can bear: no copy is damaged while
//! another one of the same partition is not whole. At the end all is mended, and all nodes must come to hold the same.

mod check;
pub mod faults;
pub(crate) mod groups;
mod net;
mod node;
pub mod planted;
pub mod states;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use self::check::History;
use self::groups::Groups;
use self::net::Net;
use self::node::Node;
use super::{Rng, SimClock};
use crate::clock::Clock;
use crate::config::{Durability, TopicConfig};
use crate::log::Staging;
use crate::replica::{Assignment, Command, Controller, Member, Message, PartitionId, Refused};
use crate::types::{NodeId, Timestamp, TopicId};

/// What a seed stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// 3 to 5.
    pub nodes: u32,
    /// How many replicas must be in sync for a record to be committed.
    pub min_in_sync: u32,
    /// Whether each append is synced, so that a power cut takes nothing.
    pub is_synced: bool,
    /// Whether small appends are staged.
    pub is_staged: bool,
    /// Whether a group commits offsets.
    pub has_groups: bool,
    /// Of 1,000 messages, so many are lost.
    pub lost: u64,
    /// Of 1,000 messages, so many come twice.
    pub doubled: u64,
    /// The longest way of a message, in milliseconds.
    pub longest_ms: u64,
    /// Of each kind of fault, how often it is drawn.
    pub faults: [u32; faults::KINDS],
    /// The time between faults, in milliseconds, on average.
    pub fault_every_ms: u64,
}

/// What a run did.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// How many events happened.
    pub events: u64,
    /// How many appends were acknowledged.
    pub acknowledged: u64,
    /// How many appends failed or were never heard of.
    pub unknown: u64,
    /// How often each kind of fault struck.
    pub faults: [u64; faults::KINDS],
    /// How many leaders there were.
    pub elections: u64,
    /// A digest of all that happened.
    pub digest: u64,
}

/// What was found to be wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The rule, in a word or two.
    pub rule: &'static str,
    /// How it was broken.
    pub detail: String,
    /// After how many events.
    pub event: u64,
}

#[derive(Debug)]
enum Event {
    Deliver {
        from: NodeId,
        to: NodeId,
        message: Message,
    },
    Command(Command),
    Assign {
        to: NodeId,
        assignment: Assignment,
    },
    /// A node does what is due.
    Wake(NodeId),
    /// A client does something.
    Act,
    Fault,
    /// A node that is down starts.
    Start(NodeId),
    /// Somebody sees that a node is down.
    Detect(Member),
    /// What was cut is whole again, what was full has space.
    Mend(faults::Mend),
    /// The controller says it all again.
    Repeat,
    /// A node says again who it is, until it was heard.
    Register(NodeId),
}

/// A run.
pub(crate) struct Cluster {
    pub(crate) options: Options,
    clock: Arc<SimClock>,
    queue: BinaryHeap<Reverse<(u64, u64, Queued)>>,
    /// Events by their number, which the queue holds.
    events: BTreeMap<u64, Event>,
    next_event: u64,
    nodes: BTreeMap<NodeId, Node>,
    net: Net,
    controller: Controller,
    history: History,
    groups: Groups,
    rng: Rng,
    chaos: Rng,
    report: Report,
    /// Nothing goes wrong any more.
    is_mended: bool,
    is_traced: bool,
    /// A message that did not arrive as it was sent, or a node that is not what it was when it was killed.
    broken: Option<String>,
}

type Queued = ();

/// The topic, and its id.
const TOPIC: &str = "t";
const TOPIC_ID: TopicId = TopicId::from_bytes(*b"topic of cluster");
const ID: PartitionId = PartitionId { topic: TOPIC_ID, partition: 0 };
/// Where a group's offsets are kept.
const GROUPS: PartitionId = PartitionId { topic: TopicId::from_bytes(*b"groups' offsets."), partition: 0 };

impl Options {
    /// What `seed` stands for: of each kind of fault, some runs have none.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::stream(seed, "options");
        let nodes = rng.between(3, 5) as u32;
        let mut faults = [0; faults::KINDS];
        for weight in &mut faults {
            *weight = if rng.chance(1, 3) { 0 } else { rng.between(1, 10) as u32 };
        }
        Self {
            nodes,
            min_in_sync: rng.between(1, 2) as u32,
            is_synced: rng.chance(1, 2),
            is_staged: rng.chance(1, 2),
            lost: if rng.chance(1, 3) { 0 } else { rng.between(1, 200) },
            doubled: if rng.chance(1, 3) { 0 } else { rng.between(1, 200) },
            longest_ms: rng.between(1, 40),
            faults,
            fault_every_ms: rng.between(50, 500),
            has_groups: Rng::stream(seed, "groups").chance(1, 4),
        }
    }

    /// The partitions that there are.
    fn ids(&self) -> &'static [PartitionId] {
        if self.has_groups { &[ID, GROUPS] } else { &[ID] }
    }

    fn topic(&self) -> TopicConfig {
        let durability = if self.is_synced { Durability::Each } else { Durability::Os };
        let config = TopicConfig::default().durability(durability).segment_bytes(2_000).retention_time(None);
        config.set("segment.index.bytes", "240").unwrap_or(config)
    }

    fn staging(&self) -> Staging {
        if self.is_staged { Staging::On } else { Staging::Off }
    }
}

/// Runs the history of `seed`, of so many events before all is mended.
///
/// # Errors
///
/// The first rule that was broken.
pub fn run(seed: u64, options: Options, events: u64, is_traced: bool) -> Result<Report, Failure> {
    let mut cluster = Cluster::new(seed, options, is_traced);
    cluster.begin();
    while cluster.report.events < events {
        cluster.step()?;
    }
    cluster.mend();
    let deadline = cluster.now() + QUIET_WITHIN_MS;
    while !cluster.is_quiet() {
        if cluster.now() > deadline {
            return Err(cluster.failure("P11: all come to hold the same", cluster.describe()));
        }
        cluster.step()?;
    }
    cluster.check_end()?;
    let Report { digest, .. } = cluster.report;
    cluster.report.digest = cluster.nodes.values().fold(digest, |digest, node| digest ^ node.disk.digest());
    Ok(cluster.report)
}

impl Cluster {
    fn new(seed: u64, options: Options, is_traced: bool) -> Self {
        let clock = Arc::new(SimClock::new(Timestamp(1_700_000_000_000)));
        let nodes = (1..=options.nodes).map(|node| (NodeId(node), Node::new(NodeId(node), seed, &clock))).collect();
        Self {
            options,
            clock,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            nodes,
            net: Net::new(seed),
            controller: Controller::default(),
            history: History::default(),
            groups: Groups::default(),
            rng: Rng::stream(seed, "clients"),
            chaos: Rng::stream(seed, "faults"),
            report: Report::default(),
            is_mended: false,
            is_traced,
            broken: None,
        }
    }

    fn begin(&mut self) {
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.start(node);
        }
        // The topic is made once all are there.
        let members: Vec<Member> = self.nodes.values().filter_map(|node| node.member).collect();
        for member in &members {
            let registration = self.nodes.get(&member.node).and_then(Node::registration);
            registration.into_iter().for_each(|command| self.apply(&command));
        }
        for &id in self.options.ids() {
            let replicas = members.iter().map(|member| member.node).take(self.replica_count()).collect();
            self.apply(&Command::Create { id, replicas, min_in_sync: self.options.min_in_sync });
        }
        self.later(10, Event::Act);
        self.later(100, Event::Repeat);
        let every = self.options.fault_every_ms;
        self.later(every, Event::Fault);
    }

    fn replica_count(&self) -> usize {
        // In larger clusters some hold nothing at first.
        (self.options.nodes as usize).min(4)
    }

    fn now(&self) -> u64 {
        self.clock.monotonic().as_millis() as u64
    }

    fn later(&mut self, ms: u64, event: Event) {
        let (at, number) = (self.now() + ms, self.next_event);
        self.next_event += 1;
        self.queue.push(Reverse((at, number, ())));
        self.events.insert(number, event);
    }

    fn step(&mut self) -> Result<(), Failure> {
        let Some(Reverse((at, number, ()))) = self.queue.pop() else {
            return Err(self.failure("nothing happens any more", self.describe()));
        };
        let Some(event) = self.events.remove(&number) else { return Ok(()) };
        let now = self.now();
        self.clock.advance(Duration::from_millis(at.saturating_sub(now)));
        self.report.events += 1;
        if self.is_traced {
            eprintln!("{:>6} {at:>7} ms  {event:?}", self.report.events);
        }
        self.report.digest = crate::sim::mix(self.report.digest ^ at ^ number << 20);
        match event {
            Event::Deliver { from, to, message } => self.deliver(from, to, message),
            Event::Command(command) => self.apply(&command),
            Event::Assign { to, assignment } => self.assign(to, assignment),
            Event::Wake(node) => self.wake(node),
            Event::Act => self.act()?,
            Event::Fault => self.fault(),
            Event::Start(node) => self.start(node),
            Event::Detect(member) => {
                let is_back = self.nodes.get(&member.node).is_some_and(|node| node.member == Some(member));
                if !is_back {
                    self.apply(&Command::NodeDown { member });
                }
            }
            Event::Mend(mend) => self.mend_one(&mend),
            Event::Repeat => self.repeat(),
            Event::Register(node) => self.register(node),
        }
        self.disarm();
        if let Some(broken) = self.broken.take() {
            return Err(self.failure("messages arrive as they were sent, and who is killed has all", broken));
        }
        self.settle_appends()?;
        self.settle_groups()?;
        self.check_marks()
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, message: Message) {
        let until = self.nodes.get(&to).map_or(0, |node| node.paused_until);
        if until > self.now() {
            return self.later(until - self.now(), Event::Deliver { from, to, message });
        }
        self.with(to, |node| node.receive(from, message));
    }

    fn assign(&mut self, to: NodeId, assignment: Assignment) {
        let until = self.nodes.get(&to).map_or(0, |node| node.paused_until);
        if until > self.now() {
            return self.later(until - self.now(), Event::Assign { to, assignment });
        }
        self.with(to, |node| node.assume(&assignment));
    }

    fn wake(&mut self, node: NodeId) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.wakes_at = None;
            if known.paused_until > self.clock.monotonic().as_millis() as u64 {
                let at = known.paused_until;
                return self.wake_at(node, at);
            }
        }
        self.with(node, Node::wake);
    }

    /// Does something with a node, sends what comes of it, and sees to it that it is woken when it wants to be.
    fn with(&mut self, id: NodeId, work: impl FnOnce(&mut Node)) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        work(node);
        let (messages, commands) = node.take_outbox();
        let next = node.next_wake;
        for (to, message) in messages {
            self.send(id, to, &message);
        }
        for command in commands {
            let (delay, again) = (self.net.delay(self.options.longest_ms), self.net.is_lost(100));
            if !self.net.is_lost(self.lost()) {
                self.later(delay, Event::Command(command.clone()));
            }
            if again && !self.is_mended {
                let late = delay + self.net.delay(2_000);
                self.later(late, Event::Command(command));
            }
        }
        self.look_after(id);
        if let Some(next) = next {
            self.wake_at(id, next);
        }
    }

    fn wake_at(&mut self, id: NodeId, at: u64) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.wakes_at.is_none_or(|known| known > at) {
            node.wakes_at = Some(at);
            let now = self.now();
            self.later(at.saturating_sub(now), Event::Wake(id));
        }
    }

    fn lost(&self) -> u64 {
        if self.is_mended { 0 } else { self.options.lost }
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: &Message) {
        if self.net.is_cut(from, to) || self.net.is_lost(self.lost()) {
            return;
        }
        let times = if !self.is_mended && self.net.is_lost(self.options.doubled) { 2 } else { 1 };
        for _ in 0..times {
            let delay = self.net.delay(self.options.longest_ms);
            match net::carried(message) {
                Some(message) => self.later(delay, Event::Deliver { from, to, message }),
                None => self.broken.get_or_insert_with(|| format!("{message:?}")).truncate(1_000),
            }
        }
    }

    /// Lets the controller decide, and tells the nodes.
    fn apply(&mut self, command: &Command) {
        let leaders = |controller: &Controller| -> Vec<_> {
            controller.assignments().map(|known| (known.id, known.leader)).collect()
        };
        let before = leaders(&self.controller);
        let outcome = match self.controller.apply(command) {
            Ok(outcome) => outcome,
            Err(Refused::FormerLife { member, .. }) => return self.begin_anew(member),
            Err(_) => return,
        };
        if let Command::NodeUp { member, .. } = command
            && let Some(node) = self.nodes.get_mut(&member.node).filter(|node| node.member == Some(*member))
        {
            node.registered();
        }
        for assignment in &outcome.changed {
            self.report.elections += u64::from(!before.contains(&(assignment.id, assignment.leader)));
            self.spread(assignment);
        }
    }

    /// A node was wiped, and what its life before had said came after what this one says: it opens its log again.
    fn begin_anew(&mut self, member: Member) {
        if self.nodes.get(&member.node).is_some_and(|node| node.member == Some(member)) {
            self.kill(member.node, 1);
        }
    }

    fn spread(&mut self, assignment: &Assignment) {
        for to in self.nodes.keys().copied().collect::<Vec<_>>() {
            let (delay, again) = (self.net.delay(self.options.longest_ms), self.net.is_lost(100));
            if !self.net.is_lost(self.lost()) {
                self.later(delay, Event::Assign { to, assignment: assignment.clone() });
            }
            if again && !self.is_mended {
                let late = delay + self.net.delay(500);
                self.later(late, Event::Assign { to, assignment: assignment.clone() });
            }
        }
    }

    fn repeat(&mut self) {
        // A node that is taken for dead says that it is there.
        let silent = self.nodes.values().filter(|node| !node.says_who_it_is()).filter_map(|node| node.member);
        let forgotten: Vec<Member> = silent.filter(|member| !self.controller.is_live(*member)).collect();
        for member in forgotten {
            if let Some(node) = self.nodes.get_mut(&member.node) {
                node.forgotten();
            }
            self.register(member.node);
        }
        let all: Vec<Assignment> = self.controller.assignments().cloned().collect();
        all.iter().for_each(|assignment| self.spread(assignment));
        self.later(100, Event::Repeat);
    }

    fn register(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(&id) else { return };
        if let Some(command) = node.registration() {
            let delay = self.net.delay(self.options.longest_ms);
            if !self.net.is_lost(self.lost()) {
                self.later(delay, Event::Command(command));
            }
            self.later(100, Event::Register(id));
        }
    }

    /// Starts a node that is down.
    fn start(&mut self, id: NodeId) {
        let options = self.options;
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.log.is_none()) else { return };
        if node.open(&options) {
            if node.lost_for_nothing() {
                self.broken = Some(format!("node {id} was killed, and says that it has lost something"));
            }
            self.with(id, Node::wake);
            self.register(id);
        } else {
            self.later(50, Event::Start(id));
        }
    }

    fn failure(&self, rule: &'static str, detail: String) -> Failure {
        Failure { rule, detail, event: self.report.events }
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        for assignment in self.controller.assignments() {
            text.push_str(&format!("{assignment:?}\n"));
        }
        for node in self.nodes.values() {
            text.push_str(&node.describe());
            text.push('\n');
        }
        text
    }
}

/// How long all may take to come to hold the same, once nothing goes wrong.
const QUIET_WITHIN_MS: u64 = 20_000;
