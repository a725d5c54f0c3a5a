//! What nodes tell each other: a follower asks for batches, a leader answers.
//!
//! Each message stands by itself. One that is late, comes twice or in another order than it was sent has no effect: it
//! names the epoch it belongs to and the number of its question.

use std::fmt;
use std::sync::Arc;

mod codec;

pub use codec::InvalidMessage;
#[cfg(any(fuzzing, test))]
pub(crate) use codec::mend;

use super::{EpochEnd, Incarnation, PartitionId};
use crate::types::{LeaderEpoch, Offset};

/// A message between two nodes that hold a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// From a follower to its leader.
    Fetch(Fetch),
    /// From a leader to a follower.
    Fetched(Fetched),
}

/// A follower asks for what comes next, and says how far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// The partition.
    pub id: PartitionId,
    /// The epoch it follows.
    pub leader_epoch: LeaderEpoch,
    /// The life of the follower.
    pub incarnation: Incarnation,
    /// Rises with each question of this life; the answer carries it.
    pub number: u64,
    /// The offset it wants next, which is where its log ends.
    pub next: Offset,
    /// The epoch of its last batch; `None` if it knows none.
    pub last_epoch: Option<LeaderEpoch>,
    /// It answers for everything below: see [`LocalLog::held`](super::LocalLog::held).
    pub held: Offset,
    /// Where its log starts.
    pub start: Offset,
    /// How many bytes of batches it wants at most; the first batch comes whole.
    pub max_bytes: u32,
}

/// The answer to a [`Fetch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The partition.
    pub id: PartitionId,
    /// The epoch of the leader.
    pub leader_epoch: LeaderEpoch,
    /// The life of the one who asked.
    pub incarnation: Incarnation,
    /// The number of the question.
    pub number: u64,
    /// What is answered.
    pub answer: Answer,
}

/// What a leader answers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// Batches from the offset on that was asked for; none if there was nothing new for a while.
    Batches {
        /// Everything below is committed.
        committed: Offset,
        /// Where the leader's log starts.
        start: Offset,
        /// Where the leader's log ends.
        end: Offset,
        /// The batches, as they are stored.
        batches: Payload,
    },
    /// The two logs part: the follower has what the leader does not. The leader's log has this epoch, the latest that is not
    /// above the follower's last one, up to this offset.
    Diverging(EpochEnd),
    /// The offset asked for is not in the leader's log.
    OutOfRange {
        /// Where the leader's log starts.
        start: Offset,
        /// Where the leader's log ends.
        end: Offset,
    },
    /// There is no answer: ask again later.
    Refused(Refusal),
}

/// Why a node does not answer a [`Fetch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// It does not lead the partition, as far as it knows.
    NotLeader,
    /// It leads a later epoch: the one who asks has not heard of it.
    Fenced,
    /// It leads an earlier epoch: it has not heard of the later one.
    Unknown,
    /// The one who asks has another life, or none, in the assignment that the leader knows.
    NotReplica,
    /// Its log is damaged where it would have to read.
    Damaged,
    /// It cannot read its log now.
    Failed,
}

/// Bytes of batches: owned, or lent from where they are stored, without a copy.
#[derive(Clone)]
pub struct Payload(Arc<dyn AsRef<[u8]> + Send + Sync>);

impl Payload {
    /// What holds the bytes, for as long as the message lives.
    pub fn new(bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        Self(Arc::new(bytes))
    }

    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self::new([])
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.as_slice().len())
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Payload {}
