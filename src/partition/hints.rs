//! What the log knows of a partition before its directory is opened.

use crate::checksum::Digest;
use crate::segment::index::Grown;
use crate::types::{Offset, Timestamp, TopicId, TopicPartition};

/// What is known beforehand, from the catalog and the checkpoints.
#[derive(Debug, Clone)]
pub(crate) struct Hints {
    pub(crate) id: TopicPartition,
    pub(crate) topic: TopicId,
    /// From here on offsets follow one another without gaps; below, compaction may have made some. [`Offset::ZERO`]: there
    /// are none; [`Offset::MAX`]: nobody knows where.
    pub(crate) dense_from: Offset,
    /// Everything below was compacted.
    pub(crate) cleaned: Offset,
    /// From the checkpoint of log starts.
    pub(crate) start: Option<Offset>,
    /// From the checkpoint of recovery points: everything below was synced.
    pub(crate) recovery_point: Option<Offset>,
    /// From the checkpoint of high watermarks: what was committed; of a log without other nodes, none.
    pub(crate) committed: Option<Offset>,
    /// From the mark of an orderly close.
    pub(crate) clean: Option<CleanPartition>,
    /// If a broker wrote the directory, and no process of ours since: how it stopped.
    pub(crate) broker: Option<Stopped>,
}

impl Hints {
    /// Whether offsets follow one another everywhere.
    pub(crate) fn is_dense(&self) -> bool {
        self.dense_from == Offset::ZERO
    }
}

/// How a broker came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// It flushed and closed all files.
    InOrder,
    /// It was killed, or its machine was.
    Killed,
}

/// What a partition looked like when it was closed in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CleanPartition {
    /// Base offset and length of each segment, in order.
    pub(crate) segments: Vec<(Offset, u64)>,
    pub(crate) start: Offset,
    pub(crate) end: Offset,
    /// Position and checksum of the last batch; none if the last segment is empty.
    pub(crate) last_batch: Option<(u64, u32)>,
    /// The index files of the last segment.
    pub(crate) index: Digest,
    pub(crate) time_index: Digest,
    pub(crate) grown: Grown,
    pub(crate) first_timestamp: Option<Timestamp>,
    pub(crate) has_producers: bool,
    pub(crate) has_aborted: bool,
}
