//! Who leads what, and who is in sync with whom: the decisions that all nodes have to agree on, as a value.
//!
//! ```text
//!               agreed order of commands                     to be told to the nodes
//! NodeDown(b)  InSync(..)  NodeUp(b')  ...  --> Controller --> Assignment, version 8: {a, c}, led by a in epoch 3
//!                                                 |
//!                                                 +--> encode: a snapshot, to go on from
//! ```
//!
//! It holds no clock and draws nothing at random. Whoever applies the same commands in the same order has the same
//! state. One node may run it alone; else it is the state machine of a consensus library.
//!
//! # Why no clean election loses what is committed
//!
//! **At any time each member that is in sync, and each that is eligible, holds everything that was ever committed** -
//! unless it lost something and the controller has not heard of it yet: it knows that itself, and does not lead. An
//! unclean election begins anew: what counts as committed from then on is what its leader has.
//!
//! *A leader that knows the present state* commits what all that are in sync hold, itself included, and nothing while
//! these are fewer than the minimum. There are eligible members only below the minimum. So nothing becomes committed
//! that one of them lacks; and they are forgotten in the very change that brings enough in sync.
//!
//! *A leader that has not heard of a change* asks more, never less. Within an epoch only the leader itself can add to
//! the in-sync set, so what has changed behind its back are members that left. All that are in sync or eligible now
//! were in sync in the state that it knows, if there were enough there to commit anything: it still waits for each of
//! them. With the minimum it is the same: it comes with the set, in one version.
//!
//! *A leader that asked for a change* holds by both sets until it knows a later version: it waits for those that it
//! asked to add, and counts as enough only what it knows to be in sync. Whatever becomes of what it asked, and
//! whenever, one of the two cases above applies. The change names the version that it changes, so of all that were
//! asked for in one version at most one comes about.
//!
//! *A leader of a former epoch* commits only by the reports of all that were in sync then. The new leader is one of
//! them, or was eligible, and in both cases no more reports come from it in that epoch: what was committed by then is
//! in its log. It adds nobody who has not caught up with where its own epoch begins.
//!
//! *A member that loses something* leaves both sets, even as the last one. In another life its reports come under
//! another name. In the same life, those that it made before could count for what it does not have any more, whenever
//! they arrive: therefore the epoch rises, although the leader may stay. The same when a replica goes, since it
//! deletes its copy, and may be asked to hold the partition again.
//!
//! *The minimum* may be raised over a set that has committed by fewer. Nobody becomes eligible by that: only who
//! leaves the set does, and who leaves it held everything at that moment.
//!
//! What the others have to do for it:
//! - A leader acts by one assignment at a time, the latest that it knows, in the life that is elected there.
//! - A report counts under its own epoch and life only, and not after a later one of the same follower.
//! - A node acts on no older version than it has acted on, also after a restart: it would delete a copy that it holds
//!   again.
//! - A node that lost something says [`Command::Lost`] in each epoch that it hears of. It reports nothing and does not lead
//!   until it hears of a later one in which nobody [counts on](Assignment::counts_on) it: then all that it said is applied,
//!   or too late to be. Or in which an unclean election has come meanwhile: that begins anew. It begins a life by
//!   [`Command::NodeUp`] with the losses of which it does not know that they were applied.
//! - A copy of a directory does not continue the life that was lived in it when it was made.

use std::collections::{BTreeMap, BTreeSet};

mod codec;
mod command;
mod nodes;
mod partition;
#[cfg(test)]
mod tests;
#[cfg(any(fuzzing, test))]
pub(crate) mod world;

pub use codec::InvalidForm;
#[cfg(any(fuzzing, test))]
pub(crate) use codec::framed;
pub use command::{Command, Loss, Outcome, Reassignment, Refused, ReservedIds};

use self::nodes::{Life, Nodes};
use self::partition::{Partition, Reports};
use super::{Assignment, InSyncChange, Incarnation, Member, PartitionId};
use crate::probe;
use crate::types::{LeaderEpoch, NodeId, ProducerId, TopicId};

/// Decides for each partition who leads it and who is in sync.
///
/// ```
/// use chiplog::replica::{Command, Controller, Incarnation, Loss, Member, PartitionId};
/// use chiplog::{LeaderEpoch, NodeId, TopicId};
///
/// let [a, b] = [1, 2].map(|node| Member { node: NodeId(node), incarnation: Incarnation(node.into()) });
/// let id = PartitionId { topic: TopicId::from_bytes([7; 16]), partition: 0 };
/// let mut controller = Controller::default();
/// for member in [a, b] {
///     controller.apply(&Command::NodeUp { member, continues: vec![], lost: Loss::Nothing })?;
/// }
/// let made = controller.apply(&Command::Create { id, replicas: vec![a.node, b.node], min_in_sync: 2 })?;
/// assert_eq!((made.changed[0].leader, made.changed[0].leader_epoch), (Some(a), LeaderEpoch(0)));
///
/// // The leader dies: who is in sync takes over. Below the minimum nothing is committed: both still hold all that was.
/// let down = controller.apply(&Command::NodeDown { member: a })?;
/// assert_eq!((down.changed[0].leader, down.changed[0].leader_epoch), (Some(b), LeaderEpoch(1)));
/// assert_eq!((&*down.changed[0].in_sync, &*down.changed[0].eligible), (&[b][..], &[a][..]));
///
/// // All nodes have the same state; a new one goes on from a snapshot.
/// assert_eq!(Controller::decode(&controller.encode())?, controller);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controller {
    /// From here on no producer id was reserved.
    next_producer: i64,
    nodes: Nodes,
    partitions: BTreeMap<PartitionId, Partition>,
}

impl Default for Controller {
    /// No nodes and no partitions.
    fn default() -> Self {
        Self { next_producer: FIRST_PRODUCER, nodes: Nodes::default(), partitions: BTreeMap::new() }
    }
}

impl Controller {
    /// Applies a command: all of it, or nothing.
    ///
    /// A command that comes twice does no harm. It is refused, or has no effect, or lets a node be what it said it was.
    ///
    /// # Errors
    ///
    /// The [`Refused`] that says what would have been right. The state is as before.
    pub fn apply(&mut self, command: &Command) -> Result<Outcome, Refused> {
        match command {
            Command::NodeUp { member, continues, lost } => self.node_up(*member, continues, lost),
            Command::NodeDown { member } => self.node_down(*member),
            Command::Lost { member, id, leader_epoch } => self.lost(*member, *id, *leader_epoch),
            Command::InSync(change) => self.in_sync(change),
            Command::ReserveProducerIds { member, above } => self.reserve(*member, *above),
            Command::Create { id, replicas, min_in_sync } => self.create(*id, replicas, *min_in_sync),
            Command::Delete { topic } => Ok(self.delete(*topic)),
            Command::SetMinInSync { id, min_in_sync } => self.change(*id, |known, _| known.set_minimum(*min_in_sync)),
            Command::Reassign { id, replicas } => self.change(*id, |known, _| known.reassign(replicas)),
            Command::ElectPreferred { id } => self.change(*id, Partition::elect_preferred),
            Command::ElectUnclean { id, node } => {
                let outcome = self.change(*id, |known, nodes| known.elect_unclean(*node, nodes))?;
                Ok(Outcome { is_unclean: true, ..outcome })
            }
        }
    }

    /// What was decided last of a partition.
    #[must_use]
    pub fn assignment(&self, id: PartitionId) -> Option<&Assignment> {
        self.partitions.get(&id).map(|known| &known.assignment)
    }

    /// What was decided last of each partition, in the order of their ids.
    pub fn assignments(&self) -> impl ExactSizeIterator<Item = &Assignment> {
        self.partitions.values().map(|known| &known.assignment)
    }

    /// Where a partition moves, if it does.
    #[must_use]
    pub fn reassignment(&self, id: PartitionId) -> Option<&Reassignment> {
        self.partitions.get(&id)?.reassignment.as_ref()
    }

    /// All nodes that were ever up, each in its last life, in order.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = Member> {
        self.nodes.iter().map(|(node, known)| Member { node, incarnation: known.life })
    }

    /// Whether a node lives this life, as far as is known.
    #[must_use]
    pub fn is_live(&self, member: Member) -> bool {
        self.nodes.is_live(member)
    }

    fn node_up(&mut self, member: Member, continues: &[Incarnation], lost: &Loss) -> Result<Outcome, Refused> {
        let before = self.nodes.last(member.node).map(|known| known.incarnation);
        let mut nodes = self.nodes.clone();
        nodes.up(member, continues)?;
        let is_repeated = before == Some(member.incarnation);
        let is_continued = is_repeated || before.is_some_and(|before| continues.contains(&before));
        let lost_some: BTreeSet<&PartitionId> = match lost {
            Loss::Partitions(ids) => ids.iter().collect(),
            Loss::Nothing | Loss::Everything => BTreeSet::new(),
        };
        // What was lost was lost before the life began: it counts once, and not again when that has caught up since.
        let has_lost = |id| !is_repeated && (!is_continued || *lost == Loss::Everything || lost_some.contains(&id));
        let change = |known: &mut Partition| {
            match has_lost(known.assignment.id) && !probe::planted("controller.loss_ignored") {
                // What a former life reported does not count for this one.
                true => known.lose(member.node),
                false => known.renew(member),
            }
            Reports::Hold
        };
        self.change_all_of(member.node, nodes, change)
    }

    fn node_down(&mut self, member: Member) -> Result<Outcome, Refused> {
        let mut nodes = self.nodes.clone();
        if !nodes.down(member) {
            return Ok(Outcome::default());
        }
        self.change_all_of(member.node, nodes, |known| {
            known.fall_behind(member);
            Reports::Hold
        })
    }

    fn lost(&mut self, member: Member, id: PartitionId, noticed: LeaderEpoch) -> Result<Outcome, Refused> {
        if !self.is_current(member)? {
            // A later life has said what it has.
            return Ok(Outcome::default());
        }
        let Some(known) = self.partitions.get(&id).filter(|known| known.is_replica(member.node)) else {
            return Ok(Outcome::default());
        };
        // Of a former epoch: it was heard, and the node may have caught up; or it says so again once it knows of this one.
        if noticed < known.assignment.leader_epoch {
            return Ok(Outcome::default());
        }
        let mut changed = known.clone();
        changed.lose(member.node);
        changed.settle(&known.assignment, &self.nodes, Reports::Void)?;
        Ok(self.take(vec![changed]))
    }

    /// Whether a life is the last one of its node that is known, rather than one that is over.
    fn is_current(&self, member: Member) -> Result<bool, Refused> {
        match self.nodes.life(member) {
            Life::Current => Ok(true),
            Life::Former(_) => Ok(false),
            Life::Unknown(known) => Err(Refused::UnknownLife { member, known }),
        }
    }

    fn reserve(&mut self, member: Member, above: ProducerId) -> Result<Outcome, Refused> {
        if !self.is_current(member)? {
            return Ok(Outcome::default());
        }
        // One that somebody made up is not counted on from.
        let block = i64::from(PRODUCERS);
        let known = above.0.checked_sub(FIRST_PRODUCER).filter(|known| *known >= 0 && above.0 < MOST_PRODUCER);
        let above = known.map_or(FIRST_PRODUCER, |known| FIRST_PRODUCER + (known / block + 1) * block);
        let first = ProducerId(self.next_producer.max(above));
        let next = first.0.checked_add(block);
        self.next_producer = next.ok_or(Refused::NoMoreProducerIds { first })?;
        let reserved = Some(ReservedIds { member, first, count: PRODUCERS });
        Ok(Outcome { reserved, ..Outcome::default() })
    }

    fn in_sync(&mut self, change: &InSyncChange) -> Result<Outcome, Refused> {
        self.change(change.id, |known, nodes| known.change_in_sync(change, nodes))
    }

    fn create(&mut self, id: PartitionId, replicas: &[NodeId], min_in_sync: u32) -> Result<Outcome, Refused> {
        if self.partitions.contains_key(&id) {
            return Err(Refused::Exists { id });
        }
        let made = Partition::new(id, replicas, min_in_sync, &self.nodes)?;
        Ok(self.take(vec![made]))
    }

    fn delete(&mut self, topic: TopicId) -> Outcome {
        let of_topic = |partition| PartitionId { topic, partition };
        let all = self.partitions.range(of_topic(0)..=of_topic(u32::MAX));
        let deleted: Vec<PartitionId> = all.map(|(id, _)| *id).collect();
        for id in &deleted {
            self.partitions.remove(id);
        }
        Outcome { deleted, ..Outcome::default() }
    }

    /// Changes one partition.
    fn change(
        &mut self,
        id: PartitionId,
        change: impl FnOnce(&mut Partition, &Nodes) -> Result<(), Refused>,
    ) -> Result<Outcome, Refused> {
        let known = self.partitions.get(&id).ok_or(Refused::UnknownPartition { id })?;
        let mut changed = known.clone();
        change(&mut changed, &self.nodes)?;
        changed.settle(&known.assignment, &self.nodes, Reports::Hold)?;
        Ok(self.take(vec![changed]))
    }

    /// Changes all partitions that a node holds, which is now one of `nodes`.
    fn change_all_of(
        &mut self,
        node: NodeId,
        nodes: Nodes,
        change: impl Fn(&mut Partition) -> Reports,
    ) -> Result<Outcome, Refused> {
        let mut all = Vec::new();
        for known in self.partitions.values().filter(|known| known.is_replica(node)) {
            let mut changed = known.clone();
            let reports = change(&mut changed);
            changed.settle(&known.assignment, &nodes, reports)?;
            all.push(changed);
        }
        self.nodes = nodes;
        Ok(self.take(all))
    }

    /// Takes partitions as they are from now on, in order.
    fn take(&mut self, partitions: Vec<Partition>) -> Outcome {
        let mut outcome = Outcome::default();
        for partition in partitions {
            let assignment = partition.assignment.clone();
            let before = self.partitions.insert(assignment.id, partition);
            if before.is_none_or(|before| before.assignment != assignment) {
                outcome.changed.push(assignment);
            }
        }
        outcome
    }

    /// Says which invariant does not hold, if one does not.
    fn check(&self) -> Result<(), &'static str> {
        let reserved = self.next_producer.checked_sub(FIRST_PRODUCER).filter(|reserved| *reserved >= 0);
        if reserved.is_none_or(|reserved| reserved % i64::from(PRODUCERS) != 0) {
            return Err("producer ids that were not reserved by blocks");
        }
        self.nodes.iter().try_for_each(|(_, node)| node.check())?;
        self.partitions.values().try_for_each(|known| known.check(&self.nodes))
    }
}

/// For who compares states.
#[cfg(feature = "sim")]
impl Controller {
    /// What it knows of the nodes.
    pub(crate) fn nodes_shape(&self, into: &mut impl std::hash::Hasher) {
        std::hash::Hash::hash(&self.nodes, into);
    }

    /// Whether it knows that a life is over.
    pub(crate) fn is_over(&self, member: Member) -> bool {
        matches!(self.nodes.life(member), Life::Former(_))
    }
}

/// As of a log that is alone: far above those that a broker gives out, whose batches may be appended here later.
const FIRST_PRODUCER: i64 = 1 << 40;
/// Ids from here on are taken for numbers that somebody made up.
const MOST_PRODUCER: i64 = 1 << 62;
/// How many are reserved at once.
const PRODUCERS: u32 = 1_000;
