//! What goes into a coordinator: requests, reports and the time.
//!
//! The requests are Kafka's, under its names. A field that only some versions of Kafka's protocol have says what a server
//! gives for the others.

use std::sync::Arc;
use std::time::Duration;

use super::action::GroupState;
use crate::error::GroupError;
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};

/// The time: two readings of one moment, as a [`Clock`](crate::Clock) gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Now {
    /// Time since some fixed moment, which never goes back: what time-outs are measured with.
    pub monotonic: Duration,
    /// Milliseconds since 1970: what commits are stamped with, and how old offsets are.
    pub wall: Timestamp,
}

/// The caller's name for one request. Its answer carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// How many times the members of a group were assigned partitions anew. What a member does under an older one is refused.
///
/// After 2^31 - 1 comes 0.
///
/// ```
/// use chiplog::group::Generation;
///
/// assert!(Generation(3) > Generation(2));
/// assert!(!Generation::NONE.is_some());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub i32);

impl Generation {
    /// None: of who is no member. Anything negative counts as none.
    pub const NONE: Self = Self(-1);

    /// Whether there is one.
    #[must_use]
    pub fn is_some(self) -> bool {
        self.0 >= 0
    }

    pub(super) fn next(self) -> Self {
        Self(self.0.max(0).checked_add(1).unwrap_or(0))
    }
}

impl std::fmt::Display for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Somebody asks for something. There will be one [`Action::Answer`](super::Action::Answer) with this token.
    Request {
        /// The name of the request.
        token: Token,
        /// What is asked for.
        request: Request,
    },
    /// The records of an [`Action::Append`](super::Action::Append) are in the log, as durable as they are to be.
    Appended {
        /// The number of the append.
        number: u64,
        /// The offset of its first record; the others follow it, one by one.
        base: Offset,
    },
    /// The records of an append are not in the log, and never will be. If that is not known, as after a failed sync, let go
    /// of the coordinator: what holds is known when the log is read anew.
    NotAppended {
        /// The number of the append.
        number: u64,
        /// What who asked for it is answered: [`CoordinatorNotAvailable`](GroupError::CoordinatorNotAvailable) to ask
        /// again, say.
        error: GroupError,
    },
    /// Time passed: what is due now happens. First tell of the requests that have come: a member whose heartbeat waits to be
    /// told of is not dead.
    Tick,
    /// Removes offsets that are past their retention, and groups that have no more of them. Kafka does so every 10 minutes:
    /// `offsets.retention.check.interval.ms`.
    ExpireOffsets,
    /// The groups are coordinated elsewhere from now on, or nowhere. All requests that wait, and all that come, are
    /// answered with [`NotCoordinator`](GroupError::NotCoordinator).
    Resign,
}

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// To become, or stay, a member. Answered once all members have joined: [`Answer::Joined`](super::Answer::Joined).
    Join(JoinGroup),
    /// To be told one's assignment; the leader brings those of all. Answered once the leader has:
    /// [`Answer::Synced`](super::Answer::Synced).
    Sync(SyncGroup),
    /// To stay a member.
    Heartbeat(Heartbeat),
    /// To be a member no longer, for one or several.
    Leave(LeaveGroup),
    /// To remember offsets.
    CommitOffsets(OffsetCommit),
    /// To be told offsets.
    FetchOffsets(OffsetFetch),
    /// To forget offsets of one group.
    DeleteOffsets(OffsetDelete),
    /// To forget what all groups committed, or are about to, for a topic that was deleted.
    ForgetTopic {
        /// The topic.
        topic: Box<str>,
    },
    /// To be told which groups there are.
    List(ListGroups),
    /// To be told about one group.
    Describe {
        /// The group.
        group: Box<str>,
    },
    /// To forget a group without members, and its offsets. More of them than fit a batch are removed by several: if one of
    /// these could not be appended, the group is there, and some of its offsets are not.
    DeleteGroup {
        /// The group.
        group: Box<str>,
    },
}

/// A protocol that a member supports, and what it has to say under it: an assignor and a subscription, mostly.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Protocol {
    /// The name. Up to 32,000 bytes.
    pub name: Box<str>,
    /// The bytes, which only the leader reads (but for topics of the type `consumer`, whose offsets are not to expire).
    pub metadata: Arc<[u8]>,
}

/// To join a group. Kafka: `JoinGroup`.
///
/// Texts are up to 32,000 bytes, the metadata of all protocols together up to 1 MiB, protocols up to 100. Longer ones are
/// [`GroupError::InvalidRequest`].
///
/// ```
/// use chiplog::group::{JoinGroup, Protocol};
///
/// let mut join = JoinGroup::new("billing", 0x6b1f_43a2);
/// join.instance_id = Some("worker-3".into()); // it is known again after a restart
/// join.protocols = vec![Protocol { name: "range".into(), metadata: (*b"subscription").into() }];
/// assert_eq!((&*join.protocol_type, join.session_timeout.as_secs()), ("consumer", 45));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JoinGroup {
    /// The group. 1 to 32,767 bytes.
    pub group: Box<str>,
    /// The id that the member was given before; empty for a new one.
    pub member_id: Box<str>,
    /// The name under which a static member is known across restarts (KIP-345; Kafka: `group.instance.id`).
    pub instance_id: Option<Box<str>>,
    /// A random number, which a new member's id is made of.
    pub uuid: u128,
    /// What the client calls itself; a new dynamic member's id begins with it.
    pub client_id: Box<str>,
    /// Where the client is. A server must not say `in-process`: members of that host are this crate's own consumers, and leave
    /// when the log is opened again.
    pub client_host: Box<str>,
    /// How long the member may be silent before it is taken for dead. Default: 45 s. Range: that of the settings.
    pub session_timeout: Duration,
    /// How long a rebalance waits for the member to join again. Default: 5 minutes. Range: 0 to 2^31 - 1 ms. Before version
    /// 1: the session time-out.
    pub rebalance_timeout: Duration,
    /// What kind of protocols these are. All members have the same. Default: `consumer`.
    pub protocol_type: Box<str>,
    /// The protocols that the member supports, its favourite first. At least one.
    pub protocols: Vec<Protocol>,
    /// Whether a new dynamic member first gets an id, and joins with that (KIP-394): one that goes away in between leaves
    /// nothing behind. Default: yes. Before version 4: no.
    pub needs_member_id: bool,
    /// Whether a leader that comes back can be told that the assignment stays (KIP-814). Default: yes. Before version 9: no.
    pub can_skip_assignment: bool,
}

impl JoinGroup {
    /// A new member of this group, without protocols, and with all else as by default. `uuid` is random.
    #[must_use]
    pub fn new(group: &str, uuid: u128) -> Self {
        Self {
            group: group.into(),
            member_id: "".into(),
            instance_id: None,
            uuid,
            client_id: "".into(),
            client_host: "".into(),
            session_timeout: Duration::from_secs(45),
            rebalance_timeout: Duration::from_secs(5 * 60),
            protocol_type: "consumer".into(),
            protocols: Vec::new(),
            needs_member_id: true,
            can_skip_assignment: true,
        }
    }
}

/// Who asks, as the answer to its last join named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The member's id; empty for who is no member.
    pub member_id: Box<str>,
    /// Its instance id, if it is static.
    pub instance_id: Option<Box<str>>,
    /// The generation that it joined.
    pub generation: Generation,
}

impl Caller {
    /// Who is no member: an application that chooses its partitions by itself, or somebody who administers.
    ///
    /// ```
    /// use chiplog::group::Caller;
    ///
    /// assert!(Caller::none().member_id.is_empty() && !Caller::none().generation.is_some());
    /// ```
    #[must_use]
    pub fn none() -> Self {
        Self { member_id: "".into(), instance_id: None, generation: Generation::NONE }
    }
}

/// To get, and for the leader to give, assignments. Kafka: `SyncGroup`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncGroup {
    /// The group.
    pub group: Box<str>,
    /// The member.
    pub caller: Caller,
    /// The type of protocols that the member believes in, if it says so. Before version 5: none.
    pub protocol_type: Option<Box<str>>,
    /// The protocol that it believes in, if it says so. Before version 5: none.
    pub protocol: Option<Box<str>>,
    /// Of the leader: by member id, what each gets. Members without one get no bytes. Each up to 1 MiB.
    pub assignments: Vec<(Box<str>, Arc<[u8]>)>,
}

/// To say that a member is alive. Kafka: `Heartbeat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// The group.
    pub group: Box<str>,
    /// The member.
    pub caller: Caller,
}

/// To leave. Kafka: `LeaveGroup`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaveGroup {
    /// The group.
    pub group: Box<str>,
    /// Who leaves.
    pub members: Vec<LeavingMember>,
}

/// Who leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeavingMember {
    /// The member's id; empty if only its instance id is known, as to who administers.
    pub member_id: Box<str>,
    /// Its instance id, if it is static.
    pub instance_id: Option<Box<str>>,
}

/// To commit offsets. Kafka: `OffsetCommit`, `TxnOffsetCommit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetCommit {
    /// The group. 1 to 32,767 bytes.
    pub group: Box<str>,
    /// The member, or [`Caller::none`].
    pub caller: Caller,
    /// The producer of whose transaction it is a part, if it is: the offsets count once that is committed.
    pub transaction: Option<TransactionProducer>,
    /// How long the offsets are kept, whatever the settings say. Of versions 2 to 4 alone.
    pub retention: Option<Duration>,
    /// The offsets. All whose text is short enough are committed, in one batch.
    pub offsets: Vec<OffsetToCommit>,
}

/// A transactional producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransactionProducer {
    /// Its id.
    pub id: ProducerId,
    /// Its epoch. Whoever appends the records checks it.
    pub epoch: ProducerEpoch,
}

/// One offset to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetToCommit {
    /// The topic.
    pub topic: Box<str>,
    /// The partition.
    pub partition: u32,
    /// The offset to go on from. It may be any, and may go back.
    pub offset: Offset,
    /// The leader epoch of the last record processed; [`LeaderEpoch::NONE`] if not known.
    pub leader_epoch: LeaderEpoch,
    /// The committer's own text.
    pub metadata: Box<str>,
}

/// To be told offsets. Kafka: `OffsetFetch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetFetch {
    /// The group.
    pub group: Box<str>,
    /// Of which topics and partitions; `None` for all that there are.
    pub partitions: Option<Vec<(Box<str>, u32)>>,
    /// Whether to refuse to tell what a transaction that is not over may change (KIP-447).
    pub require_stable: bool,
}

/// To forget offsets. Kafka: `OffsetDelete`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetDelete {
    /// The group.
    pub group: Box<str>,
    /// Of which topics and partitions.
    pub partitions: Vec<(Box<str>, u32)>,
}

/// To be told which groups there are. Kafka: `ListGroups`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListGroups {
    /// Only those in one of these states (KIP-518); all if empty.
    pub states: Vec<GroupState>,
}

impl Request {
    /// The group that it is about, if it is about one. It tells which coordinator to ask.
    ///
    /// ```
    /// use chiplog::group::{ListGroups, Request};
    ///
    /// assert_eq!(Request::Describe { group: "billing".into() }.group(), Some("billing"));
    /// assert_eq!(Request::List(ListGroups::default()).group(), None);
    /// ```
    #[must_use]
    pub fn group(&self) -> Option<&str> {
        match self {
            Self::Join(JoinGroup { group, .. })
            | Self::Sync(SyncGroup { group, .. })
            | Self::Heartbeat(Heartbeat { group, .. })
            | Self::Leave(LeaveGroup { group, .. })
            | Self::CommitOffsets(OffsetCommit { group, .. })
            | Self::FetchOffsets(OffsetFetch { group, .. })
            | Self::DeleteOffsets(OffsetDelete { group, .. })
            | Self::Describe { group }
            | Self::DeleteGroup { group } => Some(group),
            Self::ForgetTopic { .. } | Self::List(_) => None,
        }
    }

    /// Refuses what could not be stored, or names no group.
    pub(super) fn check(&self) -> Result<(), GroupError> {
        if let Some(group) = self.group() {
            crate::group::check_group_id(group).map_err(|_| GroupError::InvalidGroupId)?;
        }
        match self {
            Self::Join(join) => join.check(),
            Self::Sync(sync) if sync.assignments.iter().any(|(_, bytes)| bytes.len() > MAX_MEMBER_BYTES) => {
                Err(GroupError::InvalidRequest)
            }
            _ => Ok(()),
        }
    }
}

impl JoinGroup {
    fn check(&self) -> Result<(), GroupError> {
        let texts = [&self.member_id, &self.client_id, &self.client_host, &self.protocol_type];
        let names = self.protocols.iter().map(|protocol| &protocol.name);
        let mut texts = texts.into_iter().chain(&self.instance_id).chain(names);
        let metadata_bytes =
            self.protocols.iter().fold(0_usize, |sum, protocol| sum.saturating_add(protocol.metadata.len()));
        let fits = texts.all(|text| text.len() <= MAX_TEXT_LEN)
            && self.protocols.len() <= MAX_PROTOCOLS
            && metadata_bytes <= MAX_MEMBER_BYTES
            && self.rebalance_timeout <= MAX_TIMEOUT;
        if fits { Ok(()) } else { Err(GroupError::InvalidRequest) }
    }
}

/// Short of what the stored form can hold by more than what a member's id adds to the text that it begins with.
const MAX_TEXT_LEN: usize = 32_000;
/// How long what a member's id begins with may be, so that the id, too, can be asked with: behind it come a hyphen and a UUID.
pub(crate) const MAX_CLIENT_ID_LEN: usize = MAX_TEXT_LEN - 37;
const MAX_PROTOCOLS: usize = 100;
const MAX_MEMBER_BYTES: usize = 1 << 20;
/// What the stored form can hold.
pub(super) const MAX_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);
