//! The driver of replication: the machines of [`crate::replica`] on one side, partitions and a transport on the other.
//!
//! ```text
//!   assume, receive, the clock ----> machine of a partition ----> append, cut, commit
//!        appends of others, by                 |
//!        who waits for the end                 v
//!                                     outbox, sent with no lock held
//! ```
//!
//! A partition has one machine, behind a lock of its own; what it wants done is done under that lock, one after the other.
//! What is to be sent leaves when the lock is gone: a transport may call back.
//!
//! Order of locks: that of a machine comes before those of maintenance and of the partition.

mod cut;
mod node;
mod role;
#[cfg(all(test, feature = "sim"))]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::Wake;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

pub(super) use self::node::NODE_FILE;
use self::node::Node;
use super::coordinate::Spread;
use super::{Inner, Log};
use crate::config::Durability;
use crate::error::{Error, Result};
use crate::observe::Quiet;
use crate::partition::RecoveryMode;
use crate::partition::core::Core;
use crate::probe;
use crate::replica::{
    Answer, Assignment, Command, Fetch, Fetched, Follower, FollowerProgress, Halt, Incarnation, Leader, Loss, Member,
    Message, PartitionId, Refusal, ReplicaTiming, ReservedIds,
};
use crate::types::{LeaderEpoch, NodeId, TopicId};
use crate::watermark::Reached;

/// Carries messages to other nodes, and commands to the controller. Implemented by the application.
///
/// Both calls are made with no lock held, and may call back into the log. Loss, delay, repetition and any order are fine:
/// what matters is said again.
pub trait Replicator: fmt::Debug + Send + Sync {
    /// Hands `message` over for delivery to [`Log::receive`] of the node `to`, and returns promptly.
    fn send(&self, to: NodeId, message: Message);

    /// Hands `command` over to whoever runs the [`Controller`](crate::replica::Controller), and returns promptly.
    fn command(&self, command: Command);
}

/// How a log is replicated.
#[derive(Debug, Clone)]
pub(super) struct ReplicationSettings {
    pub(super) node: NodeId,
    pub(super) replicator: Arc<dyn Replicator>,
    pub(super) timing: ReplicaTiming,
    /// Bytes per second that are sent to followers which are not in sync; none: no limit.
    pub(super) catch_up_rate: Option<u64>,
}

/// What a node is to a partition, and how the others do. See [`Log::replication`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplicationState {
    /// Who holds the partition, as this node knows it.
    pub assignment: Assignment,
    /// Whether this node leads it.
    pub is_leader: bool,
    /// Of a leader: how far each follower has come.
    pub followers: Vec<FollowerProgress>,
    /// Why this node follows no more, if it stopped.
    pub halted: Option<Halt>,
    /// Of a follower: why the last thing failed that it did to its log, if it did. It is tried again.
    pub last_error: Option<String>,
    /// Whether this node has less than it acknowledged, and the controller has not answered that yet.
    pub has_lost: bool,
}

/// Replication of a log.
#[derive(Debug)]
pub(super) struct Replication {
    member: Member,
    replicator: Arc<dyn Replicator>,
    timing: ReplicaTiming,
    node: Mutex<Node>,
    /// What partitions had lost when the log was opened.
    lost: Vec<PartitionId>,
    replicas: RwLock<BTreeMap<PartitionId, Arc<Mutex<Replica>>>>,
    throttle: Mutex<Throttle>,
    /// Until when nothing is due, as who calls maintenance was told last: in nanoseconds. Whatever is due sooner rings.
    due_at: AtomicU64,
    /// When the controller was asked last for producer ids.
    asked_for_ids: Mutex<Option<Duration>>,
    /// Partitions whose end was raised while a follower waited for it.
    rung: Arc<Rung>,
}

/// The machine of one partition.
#[derive(Debug)]
struct Replica {
    id: PartitionId,
    core: Arc<Core>,
    role: Role,
    /// The version of the last assignment that was taken, and its epoch.
    version: Option<u64>,
    epoch: LeaderEpoch,
    /// If it has less than it acknowledged: the last epoch in which it said so. It was heard once a later one counts on
    /// nothing that is here.
    lost_in: Option<LeaderEpoch>,
    /// Damage was found in its files: they are put aside before it follows.
    is_damaged: bool,
    /// When the controller was told last of what is lost.
    told_at: Option<Duration>,
    halted: Option<Halt>,
    /// Why the last thing that it did as a follower failed, if it did.
    last_error: Option<String>,
    /// Rings when the log grows, if a follower waits for that.
    watch: Option<Pin<Box<Reached>>>,
}

#[derive(Debug)]
enum Role {
    None,
    Leader(Box<Leader>),
    Follower(Box<Follower>),
}

/// How many bytes of batches one answer has at most.
const MAX_ANSWER: usize = 32 << 20;

/// What is to be said once no lock is held.
#[derive(Debug, Default)]
struct Outbox {
    messages: Vec<(NodeId, Message)>,
    commands: Vec<Command>,
    /// To those who wait for an answer about a group that is coordinated elsewhere now.
    told: Spread,
}

/// Bytes for those who are catching up, refilled by time.
#[derive(Debug)]
struct Throttle {
    rate: Option<u64>,
    /// When what was sent so far has been paid for.
    paid_at: Duration,
}

/// Rung by appends.
#[derive(Debug)]
struct Rung {
    has_any: AtomicBool,
    ids: Mutex<Vec<PartitionId>>,
    inner: Mutex<Weak<crate::partition::context::Context>>,
}

struct Bell {
    id: PartitionId,
    rung: Arc<Rung>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.ids.lock().push(self.id);
        self.rung.has_any.store(true, Ordering::Release);
        if let Some(context) = self.rung.inner.lock().upgrade() {
            context.doorbell.ring_lightly();
        }
    }
}

/// What nodes that replicate a log tell each other.
impl Log {
    /// What the controller is to hear of this node first: [`Command::NodeUp`], with what this life of it goes on from and
    /// what was lost. `None` if the log has no [`Replicator`].
    ///
    /// To be handed over again until it is known to be applied; then call [`registered`](Self::registered).
    #[must_use]
    pub fn registration(&self) -> Option<Command> {
        let replication = self.opened.inner.replication.as_ref()?;
        let continues = replication.node.lock().continues().to_vec();
        let lost =
            if replication.lost.is_empty() { Loss::Nothing } else { Loss::Partitions(replication.lost.clone()) };
        Some(Command::NodeUp { member: replication.member, continues, lost })
    }

    /// Notes that the controller has applied the [`registration`](Self::registration): lives before this one are of no
    /// interest any more. Durable when this returns.
    ///
    /// # Errors
    ///
    /// Those of the disk: nothing was changed; call again.
    pub fn registered(&self) -> Result<()> {
        let inner = &self.opened.inner;
        inner.check_open()?;
        let Some(replication) = &inner.replication else { return Ok(()) };
        replication.node.lock().heard(inner.context.disk(), &replication.lost)
    }

    /// Takes producer ids that the controller reserved for this node in this life; those of another are passed over. It is asked
    /// for them when the last one is given out, and until it answers.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`]; [`Error::Unsupported`] if the log has no [`Replicator`].
    pub fn take_producer_ids(&self, reserved: &ReservedIds) -> Result<()> {
        let inner = &self.opened.inner;
        let replication = inner.replication()?;
        if reserved.member == replication.member {
            *replication.asked_for_ids.lock() = None;
            let first = reserved.first.0;
            inner.take_producer_ids(first..first.saturating_add(reserved.count.into()));
        }
        Ok(())
    }

    /// Who this node is, and in which life; `None` if the log has no [`Replicator`].
    #[must_use]
    pub fn member(&self) -> Option<Member> {
        self.opened.inner.replication.as_ref().map(|replication| replication.member)
    }

    /// Takes a role in a partition: what the [`Controller`](crate::replica::Controller) decided. One that is older than the
    /// last, or the same, changes nothing.
    ///
    /// When this returns for a leader, the partition takes appends, and that its epoch began is durable. A follower begins to
    /// ask its leader.
    ///
    /// # Errors
    ///
    /// - [`Error::UnknownPartition`] if no topic here has the id.
    /// - [`Error::NotElectable`] if this node is to lead, and has less than it acknowledged, or found damage in what it has: the
    ///   controller is told so.
    /// - [`Error::LeaderFenced`] if the log knows a later epoch. Those of writing, of a damaged partition; [`Error::Closed`].
    pub fn assume(&self, assignment: &Assignment) -> Result<()> {
        self.opened.inner.assume(assignment)
    }

    /// Takes a message of another node, and does what it asks for: appends, cuts, answers. Blocks while the disk works.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownPartition`] if no partition here has the id or a role was never [assumed](Self::assume) in it; and
    /// [`Error::Closed`]. What fails inside is tried again.
    pub fn receive(&self, from: NodeId, message: Message) -> Result<()> {
        self.opened.inner.receive(from, message)
    }

    /// What this node is to a partition; `None` if it has no role.
    #[must_use]
    pub fn replication(&self, id: PartitionId) -> Option<ReplicationState> {
        let inner = &self.opened.inner;
        let replica = inner.replication.as_ref()?.replicas.read().get(&id).map(Arc::clone)?;
        let (replica, now) = (replica.lock(), inner.context.clock.monotonic());
        let (assignment, is_leader, followers) = match &replica.role {
            Role::None => return None,
            Role::Leader(leader) => (leader.assignment(), true, leader.followers(now).collect()),
            Role::Follower(follower) => (follower.assignment(), false, Vec::new()),
        };
        let (halted, has_lost) = (replica.halted, replica.lost_in.is_some());
        let last_error = replica.last_error.clone();
        Some(ReplicationState { assignment: assignment.clone(), is_leader, followers, halted, last_error, has_lost })
    }
}

impl Replication {
    /// Begins a life of the node.
    pub(super) fn begin(inner: &Inner, settings: &ReplicationSettings) -> Result<Self> {
        let context = &inner.context;
        let mut lost = Vec::new();
        for topic in inner.topics.read().values() {
            for (number, slot) in topic.partitions.read().iter().enumerate() {
                if !slot.core().is_ok_and(|core| has_all_it_held(core)) {
                    lost.push(PartitionId { topic: topic.id, partition: number as u32 });
                }
            }
        }
        // The mark of an orderly close stays until a partition is written: without it nobody could tell, if this fails, that
        // nothing was lost.
        let member = Member { node: settings.node, incarnation: Incarnation(context.entropy.random()) };
        let node = Node::begin(context.disk(), &inner.dir, inner.log_id, member, lost)?;
        let lost = node.lost().to_vec();
        let rung = Rung {
            has_any: AtomicBool::new(false),
            ids: Mutex::default(),
            inner: Mutex::new(Arc::downgrade(context)),
        };
        Ok(Self {
            member: node.member(),
            replicator: Arc::clone(&settings.replicator),
            timing: settings.timing,
            node: Mutex::new(node),
            lost,
            replicas: RwLock::default(),
            due_at: AtomicU64::new(u64::MAX),
            asked_for_ids: Mutex::new(None),
            throttle: Mutex::new(Throttle { rate: settings.catch_up_rate, paid_at: Duration::ZERO }),
            rung: Arc::new(rung),
        })
    }

    fn replica(&self, id: PartitionId) -> Result<Arc<Mutex<Replica>>> {
        self.replicas.read().get(&id).map(Arc::clone).ok_or(Error::UnknownPartition { id: id.to_string().into() })
    }
}

/// Whether a partition was found with all that this node had answered for.
fn has_all_it_held(core: &Core) -> bool {
    let is_salvaged = core.context.recovery == RecoveryMode::Salvage;
    core.was_whole || is_synced_at_once(core) && !is_salvaged
}

/// Whether nothing is acknowledged before it is synced.
fn is_synced_at_once(core: &Core) -> bool {
    core.config.read().sync_rule() == Durability::Each
}

impl Inner {
    /// Refuses what needs a coordinator, which no node of a replicated log is yet.
    pub(super) fn check_alone(&self, what: &'static str) -> Result<()> {
        if self.context.is_replicated { Err(Error::Unsupported { what }) } else { Ok(()) }
    }

    /// Says what is to be said. For who holds no lock.
    fn send(&self, replication: &Replication, outbox: Outbox) {
        for command in outbox.commands {
            replication.replicator.command(command);
        }
        for (to, message) in outbox.messages {
            replication.replicator.send(to, message);
        }
        self.spread(outbox.told);
    }

    fn replication(&self) -> Result<&Replication> {
        self.check_open()?;
        self.replication.as_ref().ok_or(Error::Unsupported { what: "replication of a log without a replicator" })
    }

    fn assume(&self, assignment: &Assignment) -> Result<()> {
        let replication = self.replication()?;
        let replica = match replication.replica(assignment.id) {
            Ok(replica) => replica,
            Err(_) => self.new_replica(replication, assignment.id)?,
        };
        let mut outbox = Outbox::default();
        let mut replica = Quiet::lock(&replica);
        let assumed = replica.assume(self, replication, assignment, &mut outbox);
        let next = replica.next_deadline();
        drop(replica);
        self.ring_before(replication, next);
        self.send(replication, outbox);
        assumed
    }

    fn new_replica(&self, replication: &Replication, id: PartitionId) -> Result<Arc<Mutex<Replica>>> {
        let topic = self.topics.read().values().find(|topic| topic.id == id.topic).map(Arc::clone);
        let core = topic.ok_or(Error::UnknownPartition { id: id.to_string().into() })?.core(id.partition)?;
        let replica = Replica {
            id,
            core,
            role: Role::None,
            version: None,
            epoch: LeaderEpoch::NONE,
            lost_in: None,
            is_damaged: replication.node.lock().is_damaged(id),
            told_at: None,
            halted: None,
            last_error: None,
            watch: None,
        };
        let mut replicas = replication.replicas.write();
        Ok(Arc::clone(replicas.entry(id).or_insert_with(|| Arc::new(Mutex::new(replica)))))
    }

    fn receive(&self, from: NodeId, message: Message) -> Result<()> {
        let replication = self.replication()?;
        let id = match &message {
            Message::Fetch(fetch) => fetch.id,
            Message::Fetched(fetched) => fetched.id,
        };
        let mut outbox = Outbox::default();
        match (replication.replica(id), message) {
            (Ok(replica), message) => {
                let mut replica = Quiet::lock(&replica);
                replica.receive(self, replication, from, message, &mut outbox);
                let next = replica.next_deadline();
                drop(replica);
                self.ring_before(replication, next);
            }
            // Who asks is to ask again.
            (Err(_), Message::Fetch(fetch)) => outbox.messages.push((from, refusal(&fetch, Refusal::NotLeader))),
            (Err(unknown), Message::Fetched(_)) => return Err(unknown),
        }
        self.send(replication, outbox);
        Ok(())
    }

    /// Asks the controller for producer ids, unless that was done just now.
    pub(super) fn ask_for_producer_ids(&self) {
        let Some(replication) = &self.replication else { return };
        let now = self.context.clock.monotonic();
        {
            let mut asked = replication.asked_for_ids.lock();
            if asked.is_some_and(|at| now < at + replication.timing.retry) {
                return;
            }
            *asked = Some(now);
        }
        let (member, above) = (replication.member, self.last_producer_id());
        replication.replicator.command(Command::ReserveProducerIds { member, above });
    }

    /// Forgets what this node was to the partitions of a topic that is gone.
    pub(super) fn forget_replicas(&self, topic: TopicId) {
        if let Some(replication) = &self.replication {
            replication.replicas.write().retain(|id, _| id.topic != topic);
        }
    }

    /// Wakes whoever calls maintenance, if something is due sooner than it knows.
    fn ring_before(&self, replication: &Replication, next: Option<Duration>) {
        let Some(next) = next.map(nanos) else { return };
        if replication.due_at.fetch_min(next, Ordering::AcqRel) > next {
            probe::reached("replicate.rung");
            self.context.doorbell.ring();
        }
    }

    /// Does what is due, for partitions that grew and by time. Returns when there is something to do again.
    pub(super) fn tend_replicas(&self, now: Duration) -> Option<Duration> {
        let replication = self.replication.as_ref()?;
        // What changes from here on rings: it may be too late to be looked at.
        replication.due_at.store(u64::MAX, Ordering::Release);
        let replicas: Vec<_> = replication.replicas.read().values().map(Arc::clone).collect();
        if replication.rung.has_any.swap(false, Ordering::AcqRel) {
            replication.rung.ids.lock().clear();
        }
        let (mut outbox, mut next) = (Outbox::default(), None);
        for replica in replicas {
            let mut replica = Quiet::lock(&replica);
            replica.tick(self, replication, now, &mut outbox);
            next = replica.next_deadline().into_iter().chain(next).min();
        }
        replication.due_at.fetch_min(next.map_or(u64::MAX, nanos), Ordering::AcqRel);
        self.send(replication, outbox);
        next
    }

    /// Serves those who wait for partitions that grew, and nothing else: quick, if there are none.
    pub(super) fn serve_grown(&self) {
        let Some(replication) = &self.replication else { return };
        // Whoever rings meanwhile has rung the doorbell, too.
        if replication.rung.has_any.swap(false, Ordering::AcqRel) {
            let ids = std::mem::take(&mut *replication.rung.ids.lock());
            let (mut outbox, now) = (Outbox::default(), self.context.clock.monotonic());
            for id in ids {
                if let Ok(replica) = replication.replica(id) {
                    let mut replica = Quiet::lock(&replica);
                    replica.tick(self, replication, now, &mut outbox);
                    let next = replica.next_deadline();
                    drop(replica);
                    self.ring_before(replication, next);
                }
            }
            self.send(replication, outbox);
        }
    }
}

fn nanos(time: Duration) -> u64 {
    time.as_nanos().try_into().unwrap_or(u64::MAX)
}

fn refusal(fetch: &Fetch, refusal: Refusal) -> Message {
    let Fetch { id, leader_epoch, incarnation, number, .. } = *fetch;
    Message::Fetched(Fetched { id, leader_epoch, incarnation, number, answer: Answer::Refused(refusal) })
}

impl Throttle {
    /// Until when nothing is to be sent; `None` if something may be now.
    fn wait(&self, now: Duration) -> Option<Duration> {
        Some(self.paid_at).filter(|paid_at| *paid_at > now)
    }

    /// Notes that so much was sent.
    fn spend(&mut self, bytes: u64, now: Duration) {
        if let Some(rate) = self.rate {
            self.paid_at = self.paid_at.max(now) + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        }
    }
}
