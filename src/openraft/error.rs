//! What can go wrong with a raft log.

use openraft::{AnyError, ErrorSubject, ErrorVerb, NodeId, StorageError, StorageIOError};

use crate::client::typed::CodecError;
use crate::error::Error;
use crate::types::{Offset, TopicPartition};

/// What can go wrong with a [`RaftLog`](super::RaftLog). Openraft gets it as the source of its [`StorageError`], as
/// text with all its causes, and stops the node: open the raft log anew once the cause is gone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // Each message names its fields.
pub enum RaftLogError {
    /// A call on the log failed. [`Error::kind`] of the source says what to do. A topic whose settings would lose
    /// records is an [`Error::InvalidSetting`].
    #[error("cannot {action} {partition}")]
    Log { action: &'static str, partition: TopicPartition, source: Error },

    /// The entry is larger than the topic allows. Refuse such before they get to openraft, or raise the limit.
    #[error(
        "entry {index} makes a batch of {len} bytes, over the limit of {limit} that max.message.bytes or segment.bytes \
         of {partition} sets"
    )]
    EntryTooLarge { partition: TopicPartition, index: u64, len: u64, limit: u64 },

    /// Somebody else appended to the partition, or an append of this raft log has an outcome that is not known. Open it
    /// anew; make sure that it is open once.
    #[error("{partition} ends at {actual}, not at {expected} where this raft log does: it may be open twice")]
    Overtaken { partition: TopicPartition, expected: Offset, actual: Offset },

    /// A record is none that a raft log writes, or not at this place. The partition is not one of a raft log, or others
    /// wrote to it, too.
    #[error("the record at offset {offset} of {partition} is none of a raft log: {reason}")]
    Foreign { partition: TopicPartition, offset: Offset, reason: &'static str },

    /// A newer version of this crate wrote the record.
    #[error("the record at offset {offset} of {partition} has version {found}, this build reads up to {supported}")]
    NewerVersion { partition: TopicPartition, offset: Offset, found: u8, supported: u8 },

    /// Records are gone that are needed: by retention, by somebody else, or as damage was cut out. The node must not go
    /// on with what is left, which may lack its vote or entries that it acknowledged. Begin anew as a new node.
    #[error("{partition} lacks the records from offset {needed} on: there is none before {found}")]
    Missing { partition: TopicPartition, needed: Offset, found: Offset },

    /// The codec cannot encode a value. Nothing was appended.
    #[error("cannot encode the {what} for {partition}")]
    NotEncoded { what: &'static str, partition: TopicPartition, source: CodecError },

    /// The codec cannot decode what is stored: it may be another one than that which wrote it.
    #[error("cannot decode the {what} at offset {offset} of {partition}")]
    NotDecoded { what: &'static str, partition: TopicPartition, offset: Offset, source: CodecError },
}

impl RaftLogError {
    /// As openraft has it: what was being done, and to what.
    pub(super) fn when<NID: NodeId>(self, verb: ErrorVerb, subject: ErrorSubject<NID>) -> StorageError<NID> {
        StorageIOError::new(subject, verb, AnyError::new(&self)).into()
    }
}
