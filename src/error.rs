//! What can go wrong, and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod group;

pub use group::GroupError;

use crate::types::{NodeId, Offset, ProducerEpoch, ProducerId, Timestamp, TopicPartition};

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any error this crate returns. Call [`Error::kind`] to decide what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // Each message names its fields.
pub enum Error {
    /// A system call failed. After a failed sync the partition refuses appends until the log is reopened, because
    /// what reached the disk is unknown. A full disk is of kind [`ErrorKind::Full`].
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },

    /// Stored bytes are not what was written. Nothing was changed; restore the partition from a replica or a
    /// backup, or open with `RecoveryMode::Salvage` to keep what can be kept.
    #[error("{0}")]
    Corrupt(Box<Corruption>),

    /// The partition does not store the requested offset. Resume at `start` to lose nothing that still exists, or
    /// at `end` to wait for new records.
    #[error("offset {requested} is out of range: the log starts at {start}, and the next record gets {end}")]
    OffsetOutOfRange { requested: Offset, start: Offset, end: Offset },

    /// The conditional append came too late: others appended since. Read on from `expected` and decide again.
    #[error("the partition ends at {actual}, not at {expected}")]
    EndMismatch { expected: Offset, actual: Offset },

    /// The bytes handed in are not a batch, or break a rule of the format.
    #[error("invalid record batch: {reason} at byte {position}")]
    InvalidBatch { reason: &'static str, position: usize },

    /// A value of a typed topic has no bytes. Nothing was appended.
    #[error("cannot encode the value: {reason}")]
    NotEncoded { reason: Box<str> },

    /// The bytes of a record are those of no value of the topic's type. Step over it, or read it as it is.
    #[error("cannot decode the record at offset {offset}: {reason}")]
    NotDecoded { offset: Offset, reason: Box<str> },

    /// A record breaks a rule of its topic.
    #[error("invalid record {index}: {reason}")]
    InvalidRecord { index: usize, reason: &'static str },

    /// A record's timestamp is too far from the clock. Kafka: `message.timestamp.before.max.ms`, `...after.max.ms`.
    #[error("timestamp {timestamp} of record {index} is outside {earliest}..={latest}")]
    InvalidTimestamp { index: usize, timestamp: Timestamp, earliest: Timestamp, latest: Timestamp },

    /// The batch is larger than the topic allows. Split it, or raise `max.message.bytes`.
    #[error("a batch of {len} bytes is over the limit of {limit}")]
    BatchTooLarge { len: u64, limit: u64 },

    /// A field is longer than the format can hold.
    #[error("{what} of {len} bytes is over the limit of {limit}")]
    TooLong { what: &'static str, len: u64, limit: u64 },

    /// The partition has given out all 2^63 offsets, or the call would.
    #[error("{count} more offsets after {end} are more than the format can hold")]
    OffsetsExhausted { end: Offset, count: u64 },

    /// This build lacks what the call needs: a codec behind a feature, say.
    #[error("{what} is not supported by this build")]
    Unsupported { what: &'static str },

    /// The batch does not follow the producer's last one: one before it is missing.
    #[error("sequence {sequence} of producer {producer} does not follow {last}")]
    OutOfOrderSequence { producer: ProducerId, sequence: i32, last: i32 },

    /// A newer incarnation of this producer has written: this one must stop.
    #[error("epoch {epoch} of producer {producer} is fenced by epoch {current}")]
    ProducerFenced { producer: ProducerId, epoch: ProducerEpoch, current: ProducerEpoch },

    /// The batch, or the call, does not fit the state of the producer's transaction.
    #[error("producer {producer}: {reason}")]
    InvalidTransaction { producer: ProducerId, reason: &'static str },

    /// A transaction ends without an outcome that is known: its decision was written, and not made durable. Reopen the log,
    /// which settles it one way or the other, the same for every reader. Until then none of it is seen as committed.
    #[error("whether the transaction of {id:?} is committed is known when the log is reopened: {reason}")]
    OutcomeUnknown { id: Box<str>, reason: Box<str> },

    /// No prepared transaction has this name: it was never prepared, or decided otherwise or long ago.
    #[error("no transaction is prepared under the ticket {ticket}")]
    NotPrepared { ticket: Box<str> },

    /// The name cannot be a transactional id.
    #[error("transactional id {id:?} is invalid: {reason}")]
    InvalidTransactionalId { id: Box<str>, reason: &'static str },

    /// A newer transaction coordinator has written: this one must stop.
    #[error("coordinator epoch {epoch} for producer {producer} is fenced by epoch {current}")]
    CoordinatorFenced { producer: ProducerId, epoch: i32, current: i32 },

    /// This node does not lead the partition, so it takes no appends. Ask the leader, if one is known here.
    #[error("this node does not lead {partition}{}", leader.map_or(String::new(), |leader| format!(": node {leader} does")))]
    NotLeader { partition: TopicPartition, leader: Option<NodeId> },

    /// Fewer replicas are in sync than a record needs to be committed. It is appended, and is committed once enough are in
    /// sync again, if this node still leads then. Kafka: `NOT_ENOUGH_REPLICAS_AFTER_APPEND`.
    #[error("{partition} has {in_sync} replicas in sync, and a record needs {needed} to be committed")]
    NotEnoughReplicas { partition: TopicPartition, in_sync: u32, needed: u32 },

    /// No topic here has the id of the partition, or this node has no role in it. Create the topic with this id, then
    /// [assume](crate::Log::assume) a role.
    #[error("no partition {id} is known here")]
    UnknownPartition { id: Box<str> },

    /// This node is to lead the partition, and has less of it than it acknowledged. Elect another one: the controller is
    /// told of it.
    #[error("this node has lost records of {partition} that it had acknowledged")]
    NotElectable { partition: TopicPartition },

    /// The controller has not given this node producer ids to give out, or not yet again; it is asked for some. Try again.
    #[error("this node waits for producer ids from the controller")]
    NoProducerIds,

    /// An append under the epoch of a former leader.
    #[error("leader epoch {epoch} is fenced by epoch {current}")]
    LeaderFenced { epoch: i32, current: i32 },

    /// A setting is unknown or out of range.
    #[error("setting {key} cannot be {value:?}: {allowed}")]
    InvalidSetting { key: Box<str>, value: Box<str>, allowed: Box<str> },

    /// The name cannot be a topic's. Kafka's rules: 1 to 249 of `a-z A-Z 0-9 . _ -`, not `.` or `..`.
    #[error("topic name {name:?} is invalid: {reason}")]
    InvalidTopicName { name: Box<str>, reason: &'static str },

    /// The name cannot be a consumer group's.
    #[error("group id {id:?} is invalid: {reason}")]
    InvalidGroupId { id: Box<str>, reason: &'static str },

    /// The coordinator of the group refused what was asked for. The reason says what to do.
    #[error("the coordinator of group {group:?} refuses: {reason}")]
    GroupRefused { group: Box<str>, reason: GroupError },

    /// A consumer does not read this partition: it was not assigned it, or not any more.
    #[error("{partition} is not assigned to this consumer")]
    NotAssigned { partition: TopicPartition },

    /// A record of a queue is not with this worker, or not any more: it was with it for longer than
    /// [`QueueBuilder::lock`](crate::QueueBuilder::lock) says, and may be with another one. Kafka: `INVALID_RECORD_STATE`.
    #[error("{partition} at offset {offset} is not locked by this worker any more: it may be handed out again")]
    LockExpired { partition: TopicPartition, offset: Offset },

    /// A consumer knows no offset to read the partition from, and is to choose none: the group committed none, or one
    /// (`wanted`) that the log does not have. Seek, or set what to do by
    /// [`ConsumerBuilder::auto_offset_reset`](crate::ConsumerBuilder::auto_offset_reset).
    #[error("no offset is known to read {partition} from{}", wanted.map_or(String::new(), |at| format!(": there is no {at}")))]
    NoPosition { partition: TopicPartition, wanted: Option<Offset> },

    /// The group is of another log than the transaction. Take it from the one that has the transaction, by
    /// [`Log::group`](crate::Log::group).
    #[error("group {group:?} is of the log in {}, and the transaction of that in {}", found.display(), expected.display())]
    ForeignGroup { group: Box<str>, found: Box<Path>, expected: Box<Path> },

    /// Only the log itself appends to this topic or removes from it. Offsets are committed, and deleted, by
    /// [`Log::group`](crate::Log::group).
    #[error("topic {topic:?} is internal: only the log itself appends to it or removes from it")]
    InternalTopic { topic: Box<str> },

    /// Records of the topic are not deleted, but compacted: one goes when another of its key came. Kafka:
    /// `POLICY_VIOLATION`.
    #[error("records of topic {topic:?} cannot be deleted: its cleanup.policy is compact")]
    CompactedTopic { topic: Box<str> },

    /// Records of the topic are not compacted, so one of its keys cannot be erased. Set `cleanup.policy` to `compact`, or to
    /// both.
    #[error("no key of topic {topic:?} can be erased: its cleanup.policy is without compact")]
    NotCompacted { topic: Box<str> },

    /// There is no such topic.
    #[error("there is no topic {topic:?}")]
    TopicNotFound { topic: Box<str> },

    /// A topic of this name exists, or one that differs only by `.` for `_`.
    #[error("topic {topic:?} exists")]
    TopicExists { topic: Box<str> },

    /// The source of randomness repeats itself: topics have all the ids that it gave for a new one. Give the builder
    /// another [`Entropy`](crate::Entropy).
    #[error("topics have all of {draws} ids that were drawn for a new one")]
    RepeatedEntropy { draws: u32 },

    /// The topic has fewer partitions.
    #[error("topic {topic:?} has {count} partitions, there is no number {partition}")]
    PartitionNotFound { topic: Box<str>, partition: u32, count: u32 },

    /// A broker wrote this directory, and holds some partitions of the topic. This one is not among them.
    #[error("partition {partition} is not in this directory: another broker holds it")]
    PartitionElsewhere { partition: TopicPartition },

    /// A broker wrote the directory. Open it [read-only](crate::LogBuilder::read_only), or
    /// [adopt](crate::LogBuilder::adopt) it. Nothing was changed.
    #[error("{} is the directory of a Kafka broker: open it by LogBuilder::read_only, or take it over by LogBuilder::adopt", path.display())]
    NotAdopted { path: PathBuf },

    /// A broker left a transaction open. Have it [aborted](crate::Adoption::abort_open), or start the broker again and
    /// let it end. Nothing was changed.
    #[error(
        "producer {producer} has a transaction open in {partition}, from offset {first} on: Adoption::abort_open ends it"
    )]
    OpenTransaction { partition: TopicPartition, producer: ProducerId, first: Offset },

    /// A transaction without an end keeps records of the partition undecided. Try again once it was committed or aborted.
    #[error("producer {producer} has a transaction open in {partition}, from offset {first} on: wait for its end")]
    Undecided { partition: TopicPartition, producer: ProducerId, first: Offset },

    /// Another process, or another handle in this one, has the log open.
    #[error("{} is in use by {holder}", path.display())]
    Locked { path: PathBuf, holder: Box<str> },

    /// A backup is not made there. Nothing was changed: name a directory that is empty, or is not there yet, outside of
    /// the log's own.
    #[error("cannot back up into {}: {reason}", path.display())]
    BackupTarget { path: PathBuf, reason: &'static str },

    /// The directory was written by a newer version of this crate. Nothing was changed.
    #[error("{} has version {found}, this build reads up to {supported}", path.display())]
    NewerVersion { path: PathBuf, found: u32, supported: u32 },

    /// A write or sync of this partition failed in a way that leaves open what is on disk. Reads below the synced
    /// end go on; appends do not. Reopen the log: it recovers from what verifies.
    #[error("partition {partition} refuses to go on: {reason}")]
    Poisoned { partition: TopicPartition, reason: Arc<str> },

    /// The records were appended, at `offset` and after, and the sync that the topic or the producer asks for failed: whether
    /// they survive is open, and appending them again may store them twice. Most often the partition is poisoned by it: after
    /// reopening, look whether they are there. If it is not, as the sync could not begin because the disk was full or too many
    /// files were open, they are in the log, and [`Partition::sync`](crate::Partition::sync) makes them durable later.
    #[error("appended at offset {offset} of {partition}, but not synced: {reason}")]
    NotSynced { partition: TopicPartition, offset: Offset, reason: Box<str> },

    /// A table of the topic has more keys than it may hold. Make one that may hold more. What was read until then is in
    /// this one, and stays right for its keys up to there.
    #[error("topic {topic:?} has more keys than the {max_keys} that its table may hold")]
    TableFull { topic: Box<str>, max_keys: usize },

    /// The producer keeps as much as it may that is not appended yet, and no space came free for as long as
    /// [`max_block`](crate::ProducerBuilder::max_block) says. Nothing was sent: send the record again later.
    #[error("a producer that may keep {limit} bytes has no space for {needed} more")]
    BufferFull { needed: usize, limit: usize },

    /// The log was opened read-only.
    #[error("the log is open read-only")]
    ReadOnly,

    /// The log was closed.
    #[error("the log is closed")]
    Closed,

    /// The topic was deleted.
    #[error("topic {topic:?} was deleted")]
    TopicDeleted { topic: Box<str> },

    /// The records waited for were cut off when the log was truncated.
    #[error("the log was truncated to {end}")]
    Truncated { end: Offset },

    /// Less space is left than the log is told to leave. Free some and go on: nothing was lost.
    #[error("{free} bytes are free, {limit} are to be left free")]
    LowSpace { free: u64, limit: u64 },
}

// Errors travel up every read path; keep them cheap to move.
const _: () = assert!(size_of::<Error>() <= 64);

impl Error {
    /// What a caller can do about it.
    ///
    /// | Error | Kind |
    /// |---|---|
    /// | `NotEncoded`, `NotDecoded`, `InvalidBatch`, `InvalidRecord`, `InvalidTimestamp`, `BatchTooLarge`, `TooLong`, `OffsetsExhausted` | `Invalid` |
    /// | `InvalidSetting`, `InvalidTopicName`, `InvalidGroupId`, `InternalTopic`, `CompactedTopic`, `NotCompacted` | `Invalid` |
    /// | `TopicNotFound`, `TopicExists`, `PartitionNotFound`, `PartitionElsewhere`, `RepeatedEntropy` | `Invalid` |
    /// | `NotAdopted`, `OpenTransaction`, `TableFull` | `Invalid` |
    /// | `OutOfOrderSequence`, `InvalidTransaction`, `Unsupported`, `NewerVersion`, `ReadOnly`, `Truncated` | `Invalid` |
    /// | `BackupTarget`, `NotPrepared`, `InvalidTransactionalId`, `ForeignGroup` | `Invalid` |
    /// | `NotAssigned`, `LockExpired` | `Invalid` |
    /// | `OffsetOutOfRange`, `NoPosition` | `OutOfRange` |
    /// | `EndMismatch`, `Locked`, `Undecided`, `BufferFull` | `Retry` |
    /// | `ProducerFenced`, `CoordinatorFenced`, `LeaderFenced` | `Fenced` |
    /// | `Corrupt` | `Corrupt` |
    /// | `LowSpace`, and `Io` of a full disk or quota | `Full` |
    /// | any other `Io`, `Poisoned`, `NotSynced`, `OutcomeUnknown` | `Io` |
    /// | `Closed`, `TopicDeleted` | `Closed` |
    /// | `GroupRefused` | that of its reason: [`GroupError::kind`](crate::group::GroupError::kind) |
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Error, ErrorKind, Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// let partition = log.topic("orders")?.partition(0)?;
    /// for value in ["one", "two", "three"] {
    ///     partition.append(value)?;
    /// }
    /// log.delete_before("orders", 0, Offset(2))?;
    ///
    /// let error = partition.read(Offset::ZERO).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::OutOfRange);
    /// if let Error::OffsetOutOfRange { start, .. } = error {
    ///     assert_eq!(partition.read(start)?.iter().count(), 1); // go on with what is left
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } if is_full(source) => ErrorKind::Full,
            Self::LowSpace { .. } => ErrorKind::Full,
            Self::Io { .. } | Self::Poisoned { .. } | Self::NotSynced { .. } | Self::OutcomeUnknown { .. } => {
                ErrorKind::Io
            }
            Self::Corrupt(_) => ErrorKind::Corrupt,
            Self::EndMismatch { .. } | Self::Locked { .. } | Self::Undecided { .. } | Self::BufferFull { .. } => {
                ErrorKind::Retry
            }
            Self::NotLeader { .. }
            | Self::NotEnoughReplicas { .. }
            | Self::UnknownPartition { .. }
            | Self::NoProducerIds => ErrorKind::Retry,
            Self::ProducerFenced { .. }
            | Self::CoordinatorFenced { .. }
            | Self::LeaderFenced { .. }
            | Self::NotElectable { .. } => ErrorKind::Fenced,
            Self::GroupRefused { reason, .. } => reason.kind(),
            Self::OffsetOutOfRange { .. } | Self::NoPosition { .. } => ErrorKind::OutOfRange,
            Self::Closed | Self::TopicDeleted { .. } => ErrorKind::Closed,
            _ => ErrorKind::Invalid,
        }
    }

    /// Adds what was being done, and to what, to an error of the operating system.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// Stored bytes at `position` of `path` that are not what was written.
    pub(crate) fn corrupt(path: &Path, position: u64, reason: impl Into<Box<str>>) -> Self {
        Self::Corrupt(Box::new(Corruption { path: path.to_owned(), position, reason: reason.into() }))
    }
}

/// What a caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Fix the call or the setting.
    Invalid,
    /// Go on at the start or the end that the error names: what was asked for is gone, or not there yet.
    OutOfRange,
    /// Try again later, or after reading on.
    Retry,
    /// Stop: a newer leader, producer or coordinator exists. Only of a [`Consumer`](crate::Consumer)'s commit it does not mean to
    /// stop: its group took the member for dead, and the next poll joins again.
    Fenced,
    /// Restore from a replica or a backup.
    Corrupt,
    /// Free space, then go on. Nothing was lost.
    Full,
    /// Reopen the log.
    Io,
    /// Nothing: the log was closed or the topic deleted.
    Closed,
}

/// Where stored bytes are not what was written, and what is wrong with them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Corruption {
    /// The damaged file.
    pub path: PathBuf,
    /// The first byte, from its start, that cannot be explained.
    pub position: u64,
    /// What is wrong there.
    pub reason: Box<str>,
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is damaged at byte {}: {}", self.path.display(), self.position, self.reason)
    }
}

/// Whether the process, or the system, has too many files open: what was to be opened was not touched.
pub(crate) fn is_out_of_files(error: &Error) -> bool {
    // EMFILE and ENFILE, which no sync of an open file means.
    let is_limit = |source: &io::Error| matches!(source.raw_os_error(), Some(24 | 23));
    matches!(error, Error::Io { action, source, .. } if *action != "sync" && is_limit(source))
}

/// Whether the operating system says that the disk or a quota is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_a_broken_one() {
        let full = Error::io("write", "a/b")(io::ErrorKind::StorageFull.into());
        assert_eq!(full.kind(), ErrorKind::Full);
        assert_eq!(full.to_string(), "cannot write a/b");
        assert_eq!(Error::io("sync", "a")(io::Error::other("x")).kind(), ErrorKind::Io);
    }

    #[test]
    fn a_corruption_names_file_and_position() {
        let error = Error::corrupt(Path::new("orders-0/0.log"), 61, "checksum does not match");
        assert_eq!(error.to_string(), "orders-0/0.log is damaged at byte 61: checksum does not match");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}
