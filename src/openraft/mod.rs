//! The log of a node of [openraft](https://docs.rs/openraft/0.9) 0.9, in one partition of a topic: its `RaftLogStorage`
//! and `RaftLogReader`, under the feature `openraft`. The state machine and its snapshots are the application's.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! use std::io::Cursor;
//! use chiplog::openraft::RaftLog;
//! use chiplog::Log;
//! use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
//! use openraft::{CommittedLeaderId, Entry, EntryPayload, LogId, RaftLogReader, Vote};
//!
//! openraft::declare_raft_types!(pub Types: D = String, R = ());
//!
//! // Openraft does all this. An application opens the raft log, and gives it to `Raft::new`.
//! async fn follow(mut raft_log: RaftLog<Types>) -> Result<(), Box<dyn std::error::Error>> {
//!     raft_log.save_vote(&Vote::new(1, 7)).await?; // from here on a power cut does not take it
//!
//!     let leader = CommittedLeaderId::new(1, 7);
//!     let entries = ["a=1", "b=2", "a=3"].into_iter().enumerate().map(|(index, text)| Entry {
//!         log_id: LogId::new(leader, index as u64),
//!         payload: EntryPayload::Normal(text.to_owned()),
//!     });
//!     raft_log.blocking_append(entries).await?; // nor these
//!
//!     raft_log.truncate(LogId::new(leader, 2)).await?;
//!     raft_log.purge(LogId::new(leader, 0)).await?;
//!     Ok(())
//! }
//!
//! let runtime = tokio::runtime::Runtime::new()?;
//! let log = Log::open(dir.path())?;
//! runtime.block_on(follow(RaftLog::open(&log, "raft", 0)?))?;
//! log.close()?;
//!
//! let log = Log::open(dir.path())?;
//! let mut raft_log = RaftLog::<Types>::open(&log, "raft", 0)?;
//! let entries = runtime.block_on(raft_log.try_get_log_entries(..))?;
//! assert_eq!(entries.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>(), [1]);
//! assert_eq!(runtime.block_on(raft_log.read_vote())?, Some(Vote::new(1, 7)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is durable, and when
//!
//! | Call | A killed process keeps it ([`Ack::Written`](crate::Ack)) | A power cut does not take it (`Ack::Synced`) |
//! |---|---|---|
//! | `append` | when it returned | when it has called the callback |
//! | `save_vote`, `truncate`, `purge` | when it returned | when it returned |
//! | `save_committed` | when it returned | with the next of the others: until then, an earlier one may come back |
//!
//! What survives is what was told up to some moment, in its order: never a later thing without an earlier one. So
//! entries that were truncated do not come back once anything after it was acknowledged.
//!
//! No call waits for the disk on the thread of the runtime, but for two: a read of what is not in memory, and a `purge`
//! that removes files. The log's background thread syncs. With [`Background::Caller`](crate::Background) there is none:
//! nothing is acknowledged until somebody calls [`Log::maintain`](crate::Log::maintain). On a full disk, an append may
//! be refused, which stops the node; or what waits for the disk waits on, until there is space.
//!
//! # What the application does
//!
//! - It opens a raft log once at a time. Another one on the same partition makes the next call of the first fail
//!   ([`RaftLogError::Overtaken`]); until then, what the other wrote is not seen.
//! - It leaves the topic to raft logs, with the settings that [`topic_config`] makes. Retention would remove the vote
//!   and entries that are needed, and is refused when a raft log is opened. If it is set later, or records are deleted
//!   by hand, the next open says that they are missing ([`RaftLogError::Missing`]), and the node must begin anew under
//!   a new id.
//! - It keeps entries under the limit of the topic, [`max_message_bytes`](crate::TopicConfig::max_message_bytes):
//!   openraft stops a node whose log refuses an entry ([`RaftLogError::EntryTooLarge`]).
//! - It chooses how entries, votes and log ids become bytes: see [`RaftCodec`]. The default is JSON, for which
//!   openraft's feature `serde` is needed.
//! - With several groups of nodes, it gives each a partition of its own, of one topic or of many.
//! - It drops the raft log, or shuts openraft down, to have the log closed: as every handle, a raft log keeps it open.
//!
//! # How it is kept
//!
//! A partition takes no record back, and raft does: so each call appends a record that says what is to be known from
//! now on, and opening replays them. The index of an entry is not its offset; where each entry is, is kept in memory, 8
//! bytes an entry. A purge writes down the vote, the committed log id and where the first entry is that stays, waits
//! until that is synced, and then gives up the records before, in whole segment files.

#![allow(clippy::result_large_err, reason = "openraft's error is as large as it is")]

use std::fmt;
use std::sync::Arc;

use openraft::{LogId, RaftTypeConfig, Vote};

mod error;
mod reader;
mod record;
mod shared;
mod state;
mod storage;

#[cfg(all(test, feature = "sim"))]
mod crash_tests;
#[cfg(all(test, feature = "sim"))]
mod model_tests;
#[cfg(test)]
mod node_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use error::RaftLogError;
pub use reader::RaftReader;

use self::shared::Shared;
use crate::client::typed::{Codec, Json};
use crate::error::Error;
use crate::types::TopicPartition;
use crate::{Cleanup, Log, Partition, TopicConfig};

/// What turns the entries, votes and log ids of a raft log into bytes and back: whatever is a [`Codec`] of each.
/// [`Json`] is, if they are serde's, as they are under openraft's feature `serde`.
///
/// JSON is readable, and long: bytes become numbers in decimal. An application with much data has a codec of its own.
///
/// ```
/// use std::io::Cursor;
/// use chiplog::openraft::RaftCodec;
/// use chiplog::typed::{Codec, CodecError, Json};
/// use openraft::entry::{RaftEntry, RaftPayload};
/// use openraft::{Entry, EntryPayload, LogId, Vote};
///
/// openraft::declare_raft_types!(pub Types: D = Vec<u8>, R = ());
///
/// /// Data as it is, all else as JSON: the length of the log id, the log id, what kind it is of, and the rest.
/// struct Plain;
///
/// impl Codec<Entry<Types>> for Plain {
///     fn encode(&self, entry: &Entry<Types>, into: &mut Vec<u8>) -> Result<(), CodecError> {
///         let mut log_id = Vec::new();
///         Json.encode(&entry.log_id, &mut log_id)?;
///         into.push(log_id.len().try_into()?);
///         into.extend(log_id);
///         match &entry.payload {
///             EntryPayload::Normal(data) => into.extend([&[1], &data[..]].concat()),
///             other => {
///                 into.push(0);
///                 Json.encode(other, into)?;
///             }
///         }
///         Ok(())
///     }
///
///     fn decode(&self, bytes: &[u8]) -> Result<Entry<Types>, CodecError> {
///         let (len, rest) = bytes.split_first().ok_or("no length")?;
///         let (log_id, rest) = rest.split_at_checked(usize::from(*len)).ok_or("no log id")?;
///         let (kind, rest) = rest.split_first().ok_or("no kind")?;
///         let payload = if *kind == 1 { EntryPayload::Normal(rest.to_vec()) } else { Json.decode(rest)? };
///         Ok(Entry { log_id: Json.decode(log_id)?, payload })
///     }
/// }
///
/// impl Codec<Vote<u64>> for Plain {
///     fn encode(&self, vote: &Vote<u64>, into: &mut Vec<u8>) -> Result<(), CodecError> {
///         Json.encode(vote, into)
///     }
///
///     fn decode(&self, bytes: &[u8]) -> Result<Vote<u64>, CodecError> {
///         Json.decode(bytes)
///     }
/// }
///
/// impl Codec<LogId<u64>> for Plain {
///     fn encode(&self, log_id: &LogId<u64>, into: &mut Vec<u8>) -> Result<(), CodecError> {
///         Json.encode(log_id, into)
///     }
///
///     fn decode(&self, bytes: &[u8]) -> Result<LogId<u64>, CodecError> {
///         Json.decode(bytes)
///     }
/// }
///
/// fn is_codec(_: impl RaftCodec<Types>) {}
/// is_codec(Plain);
/// ```
pub trait RaftCodec<C: RaftTypeConfig>:
    Codec<C::Entry> + Codec<Vote<C::NodeId>> + Codec<LogId<C::NodeId>> + Send + Sync + 'static
{
}

impl<C: RaftTypeConfig, K> RaftCodec<C> for K where
    K: Codec<C::Entry> + Codec<Vote<C::NodeId>> + Codec<LogId<C::NodeId>> + Send + Sync + 'static
{
}

/// The log storage of a node, for openraft's `Raft::new`. See the [module](self).
pub struct RaftLog<C: RaftTypeConfig, K = Json> {
    shared: Arc<Shared<C, K>>,
    /// The last entry; if there is none, the last that was purged.
    last: Option<LogId<C::NodeId>>,
}

impl<C: RaftTypeConfig, K> fmt::Debug for RaftLog<C, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RaftLog {{ {}, last: {:?} }}", self.shared.id, self.last)
    }
}

impl<C: RaftTypeConfig> RaftLog<C>
where
    Json: RaftCodec<C>,
{
    /// Opens the raft log in a partition, with values as JSON. See [`open_with`](Self::open_with).
    ///
    /// # Errors
    ///
    /// As for [`open_with`](Self::open_with).
    pub fn open(log: &Log, topic: &str, partition: u32) -> Result<Self, RaftLogError> {
        Self::open_with(log, topic, partition, Json)
    }
}

impl<C: RaftTypeConfig, K: RaftCodec<C>> RaftLog<C, K> {
    /// Opens the raft log in a partition: reads it, from its start to its end. Blocks while it does.
    ///
    /// Creates the topic with one partition and the settings of [`topic_config`] if there is none, and `partition` is
    /// 0. For more partitions, create it before, with [`Log::topic_with`].
    ///
    /// # Errors
    ///
    /// - [`RaftLogError::Foreign`], [`RaftLogError::NewerVersion`], [`RaftLogError::NotDecoded`],
    ///   [`RaftLogError::Missing`] if the partition does not hold a raft log, or not all of it, or one of another
    ///   codec.
    /// - [`RaftLogError::Log`] if the topic has settings by which records go ([`Error::InvalidSetting`]), or the log or
    ///   the partition cannot be opened or read.
    pub fn open_with(log: &Log, topic: &str, partition: u32, codec: K) -> Result<Self, RaftLogError> {
        let opened = open_partition(log, topic, partition).map_err(|source| RaftLogError::Log {
            action: "open",
            partition: TopicPartition::new(topic, partition),
            source,
        })?;
        let shared = Shared::open(log.clone(), opened, codec)?;
        let last = shared.last_log_id()?;
        Ok(Self { shared: Arc::new(shared), last })
    }

    /// The partition that it is in.
    #[must_use]
    pub fn partition(&self) -> &Partition {
        &self.shared.partition
    }
}

fn open_partition(log: &Log, topic: &str, partition: u32) -> Result<Partition, Error> {
    let topic = match log.find_topic(topic) {
        Some(found) => found,
        None if partition == 0 => log.topic_with(topic, topic_config())?,
        None => return Err(Error::TopicNotFound { topic: topic.into() }),
    };
    check(&topic.config())?;
    topic.partition(partition)
}

/// Refuses settings by which records go that nobody deleted.
fn check(config: &TopicConfig) -> Result<(), Error> {
    let value = |key: &str| config.get(key).unwrap_or_default();
    let refuse = |key: &str, allowed: &str| {
        let allowed = format!("{allowed}: a raft log removes what it does not need");
        Err(Error::InvalidSetting { key: key.into(), value: value(key).into(), allowed: allowed.into() })
    };
    match value("cleanup.policy").as_str() {
        "" => Ok(()),
        "delete" if value("retention.ms") != "-1" => refuse("retention.ms", "-1"),
        "delete" if value("retention.bytes") != "-1" => refuse("retention.bytes", "-1"),
        "delete" => Ok(()),
        _ => refuse("cleanup.policy", "empty or delete"),
    }
}

/// The settings of a topic for raft logs: nothing goes by age or size, in segments of 64 MiB, of which whole ones go by
/// a purge. An entry may have up to 16 MiB.
///
/// All but the cleanup and retention may be set otherwise. [`Durability`](crate::Durability) is best left as it is:
/// more syncs add nothing, and those that an append does by itself block a thread of the runtime.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use chiplog::openraft::topic_config;
/// use chiplog::Log;
///
/// let log = Log::open(dir.path())?;
/// let groups = log.topic_with("raft", topic_config().partitions(3).max_message_bytes(1 << 20))?;
/// assert_eq!(groups.config().get("cleanup.policy").as_deref(), Some("")); // neither deleted nor compacted
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn topic_config() -> TopicConfig {
    TopicConfig::default()
        .cleanup(Cleanup::Keep)
        .retention_time(None)
        .retention_bytes(None)
        .segment_bytes(SEGMENT_BYTES)
        .max_message_bytes(MAX_MESSAGE_BYTES)
}

/// Little enough that what is read at open, beside what is needed, is read in a moment.
const SEGMENT_BYTES: u32 = 64 << 20;
const MAX_MESSAGE_BYTES: u32 = 16 << 20;
