//! Replication of partitions, as machines without effects: what a leader does, what a follower does, and who is which.
//!
//! ```text
//!                    commands: nodes up and down, losses, in-sync changes
//!                  +--------------------------------------------------------+
//!                  v                                                        |
//!             Controller --- Assignment ---> every node: Leader or Follower-+
//!       (over whatever agrees)                     |            |
//!                                                  |<-- Fetch --|    from its own end on; also: "I have all below"
//!                                                  |-- Fetched->|    batches as stored, and how far is committed
//! ```
//!
//! The machines are values. Events and the time go in, actions come out by `poll`; nothing else happens. The log drives
//! them for its partitions: see [`Log::assume`](crate::Log::assume). A service with a storage of its own may
//! want only these.
//!
//! The rules are Kafka's (KIP-101, KIP-279, KIP-320, KIP-966), in its version from 4.0 on:
//!
//! - A record is committed once every in-sync replica has it, and these are as many as the topic asks for.
//! - A leader epoch has one leader. A node appends only under an epoch that it leads.
//! - A follower compares epochs, not offsets: it cuts its log where the leader's history says that they part.
//!
//! and one that Kafka has in part:
//!
//! - A replica that lost what it had acknowledged is another one. It has the same node, and another [`Incarnation`].

use std::fmt;
use std::time::Duration;

use crate::types::{LeaderEpoch, NodeId, Offset, TopicId};

mod bytes;
mod controller;
mod follower;
mod leader;
mod message;

#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;

#[cfg(test)]
mod tests;

pub use controller::*;
pub use follower::*;
pub use leader::*;
pub use message::*;

/// One life of a node's data: drawn at random each time the log of a node is opened.
///
/// A node tells the [`Controller`] which lives this one continues without a loss. What was promised by a life that is not
/// continued counts no more: see [`Command::NodeUp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A node in one of its lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.incarnation)
    }
}

/// A partition, by the id of its topic: another topic of the same name has other partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId {
    /// The topic.
    pub topic: TopicId,
    /// The number of the partition, from 0.
    pub partition: u32,
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// Who holds a partition, who leads it, and who is in sync: what the [`Controller`] decided, the same for all nodes.
///
/// Each one of a partition has a higher `version` than the one before. Which of two is newer is told by that alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The partition.
    pub id: PartitionId,
    /// Rises with each change. Kafka: the partition epoch.
    pub version: u64,
    /// The nodes that hold it. The first is the preferred leader.
    pub replicas: Vec<NodeId>,
    /// The leader, in the life in which it was elected; `None` while there is none that may be.
    pub leader: Option<Member>,
    /// The term: rises with each election.
    pub leader_epoch: LeaderEpoch,
    /// The replicas that hold everything committed, the leader included. Empty if no node is left of which that is known.
    pub in_sync: Vec<Member>,
    /// Replicas that are not in sync and still have everything committed: they may lead without loss. There are some only below
    /// the minimum. In the order of their nodes. Kafka: eligible leader replicas (KIP-966).
    pub eligible: Vec<Member>,
    /// How many in-sync replicas must have a record before it is committed. Kafka: `min.insync.replicas`, at most the number
    /// of replicas.
    pub min_in_sync: u32,
    /// The latest epoch whose leader was not in sync: what was committed before may be lost. `None`: there was none.
    pub unclean_epoch: Option<LeaderEpoch>,
}

impl Assignment {
    /// Whether `member` is in sync, in this very life.
    #[must_use]
    pub fn is_in_sync(&self, member: Member) -> bool {
        self.in_sync.contains(&member)
    }

    /// Whether it counts on the copy of `node`, in whatever life: it is in sync, or eligible.
    #[must_use]
    pub fn counts_on(&self, node: NodeId) -> bool {
        self.in_sync.iter().chain(&self.eligible).any(|member| member.node == node)
    }

    /// Whether the partition has at least as many in-sync replicas as its records need to be committed.
    #[must_use]
    pub fn has_enough(&self) -> bool {
        self.in_sync.len() >= self.min_in_sync as usize
    }
}

/// A leader epoch and where its batches end: the offset after its last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEnd {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// The offset after its last record.
    pub end: Offset,
}

/// What a node has of a partition, as far as the machines must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LocalLog {
    /// The first offset that is stored.
    pub start: Offset,
    /// The offset after the last record.
    pub end: Offset,
    /// What this replica answers for: everything below stays whatever becomes of the process, or, if the topic is synced with
    /// each append, of the machine. At most `end`.
    pub held: Offset,
    /// The epoch that the log knows last; `None` if it knows none.
    pub last_epoch: Option<LeaderEpoch>,
}

/// What a leader asks the [`Controller`] for: other in-sync replicas. To be handed to it as [`Command::InSync`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InSyncChange {
    /// The partition.
    pub id: PartitionId,
    /// Who asks.
    pub leader: Member,
    /// The epoch it leads.
    pub leader_epoch: LeaderEpoch,
    /// The version of the assignment that is to be changed.
    pub version: u64,
    /// The replicas that are to be in sync from now on, in the order of their nodes.
    pub in_sync: Vec<Member>,
}

/// How long the machines wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaTiming {
    /// A follower that has not caught up for so long leaves the in-sync set. Default: 30 s. Kafka: `replica.lag.time.max.ms`.
    pub lag_time: Duration,
    /// How long a leader keeps a question for which there is nothing new. Default: 500 ms. Kafka: `replica.fetch.wait.max.ms`.
    pub fetch_wait: Duration,
    /// How soon it answers one for which nothing is new but what is committed. Default: 5 ms.
    pub commit_delay: Duration,
    /// After which time without an answer a question is asked again. More than `fetch_wait`. Default: 1 s.
    pub retry: Duration,
    /// How long a follower waits after it was refused, or could not store what it got. Default: 100 ms. Kafka:
    /// `replica.fetch.backoff.ms`.
    pub backoff: Duration,
    /// How many bytes a follower asks for at once; the first batch comes whole. Default: 1 MiB. Kafka:
    /// `replica.fetch.max.bytes`.
    pub max_bytes: u32,
}

impl Default for ReplicaTiming {
    fn default() -> Self {
        Self {
            lag_time: Duration::from_secs(30),
            fetch_wait: Duration::from_millis(500),
            commit_delay: Duration::from_millis(5),
            retry: Duration::from_secs(1),
            backoff: Duration::from_millis(100),
            max_bytes: 1 << 20,
        }
    }
}
