//! What comes out of a coordinator: records to append, and answers.

use std::sync::Arc;

use super::request::{Generation, Token, TransactionProducer};
use crate::error::GroupError;
use crate::group::assign::protocol::MemberAssignment;
use crate::group::{Committed, GroupRecord};
use crate::types::TopicPartition;

/// What the caller is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Append these records to the group's partition of `__consumer_offsets`, as one batch, and report by
    /// [`Event::Appended`](super::Event::Appended) or [`Event::NotAppended`](super::Event::NotAppended). They are appended
    /// in the order of their numbers, ahead of whatever else the caller appends there; reports may come in any order.
    Append {
        /// The name of the append, for its report.
        number: u64,
        /// The records.
        records: Arc<[GroupRecord]>,
        /// The producer of whose transaction the batch is a part, if it is.
        transaction: Option<TransactionProducer>,
    },
    /// The answer to a request. What it says is in the log.
    Answer {
        /// The request.
        token: Token,
        /// What is answered.
        answer: Result<Answer, GroupError>,
    },
    /// Offsets of a group were removed because they were past their retention.
    Expired {
        /// The group.
        group: Box<str>,
        /// How many.
        count: usize,
    },
}

/// An answer that is not an error.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// The member joined, and all others did.
    Joined(Joined),
    /// A new member joins again, with this id (KIP-394). A server answers
    /// [`MemberIdRequired`](GroupError::MemberIdRequired).
    MemberIdRequired {
        /// Its id from now on. It is forgotten after one session time-out.
        member_id: Box<str>,
    },
    /// What the leader assigned.
    Synced(Synced),
    /// The member is alive.
    Alive,
    /// Of each that was to leave, in that order: it left, or why not.
    Left(Vec<Result<(), GroupError>>),
    /// Of each offset, in the order of the request: it is committed, or why not.
    Committed(Vec<Result<(), GroupError>>),
    /// Of each partition that was asked for, in that order.
    Offsets(Vec<FetchedOffset>),
    /// Of each partition, in the order of the request: its offset is gone, or why not.
    OffsetsDeleted(Vec<Result<(), GroupError>>),
    /// What all groups committed for the topic is gone.
    TopicForgotten,
    /// The groups, by id.
    Groups(Vec<ListedGroup>),
    /// The group.
    Described(DescribedGroup),
    /// The group is gone.
    GroupDeleted,
}

/// What a member is told when it joined.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Joined {
    /// Its id.
    pub member_id: Box<str>,
    /// The generation.
    pub generation: Generation,
    /// The type of protocols.
    pub protocol_type: Box<str>,
    /// The protocol that was chosen: of those that all support, the one that most prefer.
    pub protocol: Box<str>,
    /// The id of the member that assigns.
    pub leader: Box<str>,
    /// All members, by seniority, if this one is the leader; else none.
    pub members: Vec<JoinedMember>,
    /// Whether the leader need not assign: what it assigned before holds (KIP-814).
    pub skip_assignment: bool,
}

/// A member, as the leader is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JoinedMember {
    /// Its id.
    pub member_id: Box<str>,
    /// Its instance id, if it is static.
    pub instance_id: Option<Box<str>>,
    /// What it says under the chosen protocol.
    pub metadata: Arc<[u8]>,
}

/// What a member is told once the leader has assigned.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Synced {
    /// The type of protocols.
    pub protocol_type: Box<str>,
    /// The protocol.
    pub protocol: Box<str>,
    /// What the leader gave it; no bytes if nothing.
    pub assignment: Arc<[u8]>,
}

/// What a group committed for one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FetchedOffset {
    /// The topic.
    pub topic: Box<str>,
    /// The partition.
    pub partition: u32,
    /// The offset and what goes with it; `None` if there is none, which Kafka's protocol writes as offset -1.
    pub committed: Result<Option<Committed>, GroupError>,
}

/// The state of a classic group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum GroupState {
    /// It has no members. It may have offsets.
    Empty,
    /// Its members are to join.
    PreparingRebalance,
    /// Its members joined, and the leader is to assign.
    CompletingRebalance,
    /// Each member has its assignment.
    Stable,
    /// It is being deleted.
    Dead,
}

impl GroupState {
    /// Kafka's name of the state.
    ///
    /// ```
    /// assert_eq!(chiplog::group::GroupState::CompletingRebalance.name(), "CompletingRebalance");
    /// ```
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }
}

/// A group in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedGroup {
    /// Its id.
    pub group: Box<str>,
    /// The type of its protocols; empty if it never had members.
    pub protocol_type: Box<str>,
    /// Its state; `None` if its record is in a form that is not understood.
    pub state: Option<GroupState>,
}

/// All about a group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DescribedGroup {
    /// Its id.
    pub group: Box<str>,
    /// Its state; `None` if its record is in a form that is not understood.
    pub state: Option<GroupState>,
    /// Its generation.
    pub generation: Generation,
    /// The type of its protocols; empty if it never had members.
    pub protocol_type: Box<str>,
    /// The protocol that was chosen; empty unless it is stable.
    pub protocol: Box<str>,
    /// Its members, by seniority.
    pub members: Vec<DescribedMember>,
}

/// All about a member.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DescribedMember {
    /// Its id.
    pub member_id: Box<str>,
    /// Its instance id, if it is static.
    pub instance_id: Option<Box<str>>,
    /// What its client calls itself.
    pub client_id: Box<str>,
    /// Where its client is.
    pub client_host: Box<str>,
    /// What it says under the chosen protocol; no bytes unless the group is stable. Of a consumer,
    /// [`Subscription::decode`](crate::group::assign::protocol::Subscription::decode) reads them.
    pub metadata: Arc<[u8]>,
    /// What the leader gave it; no bytes unless the group is stable. Of a consumer, [`assigned`](Self::assigned) reads them.
    pub assignment: Arc<[u8]>,
}

impl DescribedMember {
    /// The partitions that the leader gave it, in order: none unless the group is stable. `None` if the bytes are not those of
    /// consumers: a group may use a protocol of its own.
    ///
    /// # Example
    ///
    /// See [`Group::describe`](crate::Group::describe).
    #[must_use]
    pub fn assigned(&self) -> Option<Vec<TopicPartition>> {
        let assignment = MemberAssignment::decode(&self.assignment).ok()?;
        Some(assignment.partitions.into_iter().collect())
    }
}
