//! A reader that follows the tail of a partition.

use std::fmt;
use std::sync::Arc;

use super::core::Core;
use super::records::Records;
use super::{Partition, ReadOptions};
use crate::error::Result;
use crate::segment::data::SegmentData;
use crate::types::Offset;

/// Reads one partition again and again, without taking the lock that even [`Partition::read`] takes for a moment: the
/// list of segments is kept, and looked up anew only when it changed. Keeps the log open, as its partition does.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use chiplog::{Log, Offset};
///
/// let log = Log::open(dir.path())?;
/// let partition = log.topic("orders")?.partition(0)?;
/// let mut reader = partition.reader();
/// let mut from = Offset::ZERO;
/// for value in ["paid", "sent"] {
///     partition.append(value)?;
///     let records = reader.read(from)?;
///     assert_eq!(records.iter().next().unwrap().value, Some(value.as_bytes()));
///     from = records.next_offset();
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Reader {
    partition: Partition,
    segments: Arc<[Arc<SegmentData>]>,
    generation: u64,
    options: ReadOptions,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("partition", &self.partition).field("options", &self.options).finish()
    }
}

impl Reader {
    pub(super) fn new(partition: Partition) -> Self {
        let generation = partition.core.generation();
        let segments = partition.core.segments();
        Self { partition, segments, generation, options: ReadOptions::default() }
    }

    /// Sets the limits of each read.
    #[must_use]
    pub fn options(mut self, options: ReadOptions) -> Self {
        self.options = options;
        self
    }

    /// The partition it reads.
    #[must_use]
    pub fn partition(&self) -> &Partition {
        &self.partition
    }

    /// Reads the records from `from` on.
    ///
    /// # Errors
    ///
    /// As for [`Partition::read`].
    pub fn read(&mut self, from: Offset) -> Result<Records> {
        let core: &Core = &self.partition.core;
        let generation = core.generation();
        if generation != self.generation {
            self.segments = core.segments();
            self.generation = generation;
        }
        core.read(&self.segments, from, self.options)
    }

    /// Whether a read from `from` on would find nothing, now that the partition ends at `end`, and could not fail.
    #[inline]
    pub(crate) fn is_idle(&self, from: Offset, end: Offset) -> bool {
        let core: &Core = &self.partition.core;
        from == end && from >= core.start() && !core.has_stopped()
    }
}
