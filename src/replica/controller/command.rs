//! What a controller is told, what comes of it, and why it may refuse.

use crate::replica::{Assignment, InSyncChange, Incarnation, Member, PartitionId};
use crate::types::{LeaderEpoch, NodeId, ProducerId, TopicId};

/// What happened, or is wanted. To be applied by every controller in the same order.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// A node opened its log, and begins a life; or it is alive after all, though somebody said that it is not.
    ///
    /// Its former life is over: what it led is led anew, and where it was in sync, the new life is if it lost
    /// nothing. What it lost, it is out of sync with. If it continues another life than the one known last, or none,
    /// everything is lost: its disk was wiped, or is an old copy.
    NodeUp {
        /// The node, and the life that began.
        member: Member,
        /// Lives of the node of which this one has all that was acknowledged, but for what it lost; the latest last.
        continues: Vec<Incarnation>,
        /// What it does not have any more. What it finds later, it says by [`Lost`](Self::Lost): a repeated command
        /// changes nothing but that the node is alive.
        lost: Loss,
    },

    /// A node does not live any more, or cannot be reached: what it led, another leads. Of a life that is not the
    /// node's last, this has no effect.
    ///
    /// It may be wrong: the node still acts, in vain, and is soon in sync again. As long as it may be right it is to be
    /// repeated: a late [`NodeUp`](Self::NodeUp) takes it back.
    NodeDown {
        /// The node, in the life that is over.
        member: Member,
    },

    /// A node found that its copy of a partition is not what it was: cut, rotten, or of unknown state after a failed
    /// sync.
    ///
    /// It is out of sync until it has caught up, even if no other is left. Its reports from before count no more:
    /// there is a new epoch, whoever leads. The node repeats this until that is applied, and does not lead the
    /// partition before.
    ///
    /// Of an epoch that is over, this has no effect: it was applied, or the node says it again once it knows the
    /// epoch that began.
    Lost {
        /// The node.
        member: Member,
        /// The partition.
        id: PartitionId,
        /// The latest epoch that the node knows of.
        leader_epoch: LeaderEpoch,
    },

    /// A leader asks for other in-sync replicas. Those that do not live, or live another life, or hold the partition
    /// no more, are left out.
    ///
    /// Applied once at most, since it raises the version that it names, even if nothing else changes: so the leader
    /// hears that it was answered.
    InSync(InSyncChange),

    /// A node needs producer ids to give out: see [`Outcome::reserved`]. Applied twice, it reserves twice. Of a life that is
    /// not the node's last, this has no effect. Kafka: `AllocateProducerIds` (KIP-730).
    ReserveProducerIds {
        /// The node.
        member: Member,
        /// The highest id that it knows of, in its partitions or from when it was alone; [`ProducerId::NONE`] if it knows none.
        /// Those up to it are not given out.
        above: ProducerId,
    },

    /// A partition is made. It must be new: all of its replicas that live are in sync with it at once, as it has no
    /// records.
    ///
    /// To replicate one that has records, make it of the one node that has them, then [`Reassign`](Self::Reassign)
    /// it. An id that was deleted is not to be used again.
    Create {
        /// The partition.
        id: PartitionId,
        /// The nodes that hold it, the preferred leader first.
        replicas: Vec<NodeId>,
        /// How many in-sync replicas must have a record before it is committed. From 1 up; of more than there are
        /// replicas, all of them.
        min_in_sync: u32,
    },

    /// All partitions of a topic are gone. Of a topic that is not known, this has no effect.
    Delete {
        /// The topic.
        topic: TopicId,
    },

    /// Changes how many in-sync replicas a partition needs.
    SetMinInSync {
        /// The partition.
        id: PartitionId,
        /// As in [`Create`](Self::Create).
        min_in_sync: u32,
    },

    /// Moves a partition to other nodes, as in KIP-455.
    ///
    /// They hold it beside those that do until all of them are in sync; then the others go. Another one may come
    /// before: it takes the place of this one. Nodes that this one added go at once then, unless they are in sync
    /// already. To cancel is to move it back.
    Reassign {
        /// The partition.
        id: PartitionId,
        /// The nodes that are to hold it, the preferred leader first.
        replicas: Vec<NodeId>,
    },

    /// Lets the first replica lead. Refused unless it lives and is in sync.
    ElectPreferred {
        /// The partition.
        id: PartitionId,
    },

    /// Lets a replica lead that is not in sync: **what was committed may be lost**. Refused while there is a leader,
    /// which there is if any node can lead without loss.
    ElectUnclean {
        /// The partition.
        id: PartitionId,
        /// The node.
        node: NodeId,
    },
}

/// What a node lost since its former life.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Loss {
    /// Nothing that it had acknowledged.
    #[default]
    Nothing,
    /// Some of what it had of these. Those that it does not hold are passed over.
    Partitions(Vec<PartitionId>),
    /// It may be anything.
    Everything,
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Outcome {
    /// The assignments that changed, as they are now, in the order of their ids. To be told to all nodes that hold
    /// them, or did.
    pub changed: Vec<Assignment>,
    /// The partitions that are gone, in order.
    pub deleted: Vec<PartitionId>,
    /// Producer ids that a node may give out, and nobody else: to be handed to
    /// [`Log::take_producer_ids`](crate::Log::take_producer_ids) of that node.
    pub reserved: Option<ReservedIds>,
    /// Whether a leader was elected of which it is not known that it has everything committed: see
    /// [`Assignment::unclean_epoch`]. To be told to whoever answers for the data.
    pub is_unclean: bool,
}

/// Producer ids that were reserved for a node in this life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReservedIds {
    /// The node.
    pub member: Member,
    /// The first one.
    pub first: ProducerId,
    /// How many there are: it and those that follow.
    pub count: u32,
}

/// A partition on its way to other nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reassignment {
    /// The nodes that are to hold it, the preferred leader first.
    pub target: Vec<NodeId>,
    /// Those of them that did not hold it before.
    pub adding: Vec<NodeId>,
    /// The nodes that go once all of the target are in sync.
    pub removing: Vec<NodeId>,
}

/// Why a command was not applied. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // Each message names its fields.
pub enum Refused {
    /// The partition was never made, or is deleted.
    #[error("no partition {id}")]
    UnknownPartition { id: PartitionId },

    /// It was made before: perhaps by this very command.
    #[error("partition {id} exists")]
    Exists { id: PartitionId },

    #[error("no replicas of {id}: at least one node must hold it")]
    NoReplicas { id: PartitionId },

    /// Those that are to go count, too, until they are gone.
    #[error("{count} replicas of {id}, of which at most {limit} can be")]
    TooManyReplicas { id: PartitionId, count: usize, limit: usize },

    #[error("node {node} is named twice for {id}")]
    Duplicate { id: PartitionId, node: NodeId },

    /// Make it once one of the nodes is up.
    #[error("none of the replicas of {id} lives: one must, to lead it")]
    NoneLive { id: PartitionId },

    #[error("minimum of 0 in-sync replicas for {id}: it is 1 at least")]
    ZeroMinimum { id: PartitionId },

    /// The one who asks leads no more, or never did.
    #[error("{member} asks as the leader of {id}, which is led by {}", shown(leader.as_ref()))]
    NotLeader { id: PartitionId, member: Member, leader: Option<Member> },

    /// It was asked for in a former term.
    #[error("asked for in epoch {epoch} of {id}, which is in {current}")]
    StaleEpoch { id: PartitionId, epoch: LeaderEpoch, current: LeaderEpoch },

    /// The assignment changed meanwhile: look at it and ask anew.
    #[error("asked for in version {version} of {id}, which is in {current}")]
    StaleVersion { id: PartitionId, version: u64, current: u64 },

    #[error("node {node} is no replica of {id}")]
    NotReplica { id: PartitionId, node: NodeId },

    #[error("node {node}, a replica of {id}, does not live")]
    NotLive { id: PartitionId, node: NodeId },

    #[error("the leader of {id}, {leader}, is in sync, and was left out")]
    LeaderLeftOut { id: PartitionId, leader: Member },

    #[error("node {node}, the preferred leader of {id}, is not in sync")]
    PreferredNotInSync { id: PartitionId, node: NodeId },

    /// Nothing has to be lost.
    #[error("{id} is led by {leader}, without loss")]
    HasLeader { id: PartitionId, leader: Member },

    /// The command is late: a later life of the node is known. If the node does live this one, open its log again: it
    /// was wiped, and a command of the life before was later than this one's.
    #[error("the life {member} is over: the node lives as {known}")]
    FormerLife { member: Member, known: Incarnation },

    /// Apply the [`Command::NodeUp`] of this life, then this again: it must not be left out.
    #[error("the life {member} is not known: its node lives as {}", shown(known.as_ref()))]
    UnknownLife { member: Member, known: Option<Incarnation> },

    #[error("all {first} producer ids are given out")]
    NoMoreProducerIds { first: ProducerId },

    /// No higher one can be stored. Delete the topic and make it anew.
    #[error("epoch {epoch} or version {version} of {id} is the last that there can be")]
    Exhausted { id: PartitionId, epoch: LeaderEpoch, version: u64 },
}

fn shown(value: Option<&impl ToString>) -> String {
    value.map_or_else(|| "nobody".to_owned(), ToString::to_string)
}
