//! One partition: an ordered list of segments, and what is known about the producers that wrote to it.
//!
//! [`Partition`] is the public handle, cheap to clone; [`core::Core`] is what its clones share. Around it, a file for
//! each thing that is done to a partition: [`append`], [`read`], [`sync`], [`recover`], [`retention`], [`close`].

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::types::{Offset, TopicId};

mod aborted;
mod append;
mod batches;
pub(crate) mod capture;
mod close;
pub(crate) mod compact;
pub(crate) mod context;
pub(crate) mod core;
mod counters;
mod describe;
mod ending;
pub(crate) mod epochs;
#[cfg(test)]
mod fixture;
mod follow;
pub(crate) mod hints;
pub(crate) mod notes;
mod producers;
#[cfg(test)]
mod producers_model;
mod read;
mod reader;
mod records;
pub(crate) mod recover;
pub(crate) mod replicate;
mod report;
mod retention;
pub(crate) mod salvage;
mod snapshot;
mod stage;
mod sync;
#[cfg(all(any(test, fuzzing), feature = "sim"))]
pub(crate) mod testing;
#[cfg(all(test, feature = "sim"))]
mod tests;
mod transactions;
mod truncate;
pub(crate) mod verify;
mod writer;

#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;

pub use append::{Ack, Appended};
pub(crate) use append::{
    Admission, AppendRules, Held, Placement, append_built, append_one, append_records, join_one, repeat_one,
    stored_as,
};
pub use batches::RecordBatch;
pub use context::RecoveryMode;
pub use describe::{ProducerState, TornTail};
pub(crate) use ending::Ending;
pub(crate) use producers::OpenTransaction;
pub use read::Isolation;
pub use reader::Reader;
pub(crate) use records::Front;
pub use records::{Aborted, Batches, FileRange, Records, RecordsIter};

use self::core::Core;

/// A partition of a topic: records in the order of their offsets. Clones are handles to the same partition.
///
/// A handle keeps the log open, as do the [`Reader`]s made of it: the last one to go closes it.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// let log = chiplog::Log::open(dir.path())?;
/// let partition = log.topic("orders")?.partition(0)?;
/// partition.append("paid")?;
/// assert_eq!(format!("{partition:?}"), "Partition { orders-0, 0..1 }");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Partition {
    pub(crate) core: Arc<Core>,
    /// Whatever must live as long as a handle does.
    keeps_open: Arc<dyn Any + Send + Sync>,
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Partition {{ {}, {}..{} }}", self.core.id, self.core.start(), self.core.end())
    }
}

/// How far a partition has come; see [`Partition::offsets`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Offsets {
    /// The first offset that is stored.
    pub start: Offset,
    /// Everything below belongs to no transaction or to one whose outcome is known.
    pub stable: Offset,
    /// Everything below is held by every in-sync node.
    pub committed: Offset,
    /// Everything below survives a power cut.
    pub synced: Offset,
    /// The offset the next record gets.
    pub end: Offset,
}

/// The limits of a read.
///
/// ```
/// use chiplog::{Isolation, ReadOptions};
///
/// let options = ReadOptions::default().max_bytes(64 << 10).isolation(Isolation::Committed);
/// assert_eq!(options, ReadOptions::default().isolation(Isolation::Committed).max_bytes(65_536));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadOptions {
    max_bytes: usize,
    max_records: usize,
    isolation: Isolation,
    /// Whether the markers of transactions are returned, which have an offset and a time as records have.
    pub(crate) markers: bool,
    /// Whether what is not committed is returned, too: for followers.
    pub(crate) to_end: bool,
}

#[cfg(feature = "sim")]
impl ReadOptions {
    /// The markers of transactions too, as if they were records.
    pub(crate) const fn with_markers(mut self) -> Self {
        self.markers = true;
        self
    }
}

impl ReadOptions {
    /// What is not committed, too.
    pub(crate) const fn to_end(mut self) -> Self {
        self.to_end = true;
        self
    }
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            max_bytes: 1 << 20,
            max_records: usize::MAX,
            isolation: Isolation::Uncommitted,
            markers: false,
            to_end: false,
        }
    }
}

impl ReadOptions {
    /// Sets how many bytes of batches are read at most; the first batch is returned whole, however long. Compressed
    /// batches count as they are after decompression.
    ///
    /// Default: 1 MiB. Kafka: `max.partition.fetch.bytes`.
    #[must_use]
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets how many records are read at most; at least 1. Has no effect on [`Partition::fetch`].
    ///
    /// Default: no limit. Kafka: `max.poll.records`.
    #[must_use]
    pub fn max_records(mut self, count: usize) -> Self {
        self.max_records = count;
        self
    }

    /// Sets whether records of open and aborted transactions are seen.
    ///
    /// Default: [`Isolation::Uncommitted`]. Kafka: `isolation.level`.
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }
}

impl Partition {
    pub(crate) fn new(core: Arc<Core>, keeps_open: Arc<dyn Any + Send + Sync>) -> Self {
        Self { core, keeps_open }
    }

    /// What it was made with.
    pub(crate) fn keeps_open(&self) -> &(dyn Any + Send + Sync) {
        &*self.keeps_open
    }

    /// The name of its topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.core.id.topic
    }

    /// The id of its topic.
    #[must_use]
    pub fn topic_id(&self) -> TopicId {
        self.core.topic
    }

    /// Its number, from 0.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.core.id.partition
    }

    /// How far it has come. Each offset is read by itself, in this order: end, committed, stable, synced, start.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// let partition = log.topic("orders")?.partition(0)?;
    /// partition.append("paid")?;
    /// let offsets = partition.offsets();
    /// assert_eq!((offsets.start, offsets.end), (Offset(0), Offset(1)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn offsets(&self) -> Offsets {
        let core = &self.core;
        let (end, committed, stable) = (core.end(), core.committed(), core.stable());
        Offsets { start: core.start(), stable, committed, synced: core.synced(), end }
    }

    /// A reader that keeps what it looked up: for following the tail. See [`Reader`].
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(self.clone())
    }

    /// Waits until the end has passed `at`, so that a record there can be read; `false` if `timeout` passed before.
    ///
    /// Returns at once for an offset that the end has passed already, also if it lies below the start by now or the log
    /// was closed since: the read that follows says so. Counts records of open transactions, too, as a read with
    /// [`Isolation::Uncommitted`] does; one with [`Isolation::Committed`] may still find nothing.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::Error::Closed), [`TopicDeleted`](crate::Error::TopicDeleted),
    /// [`Poisoned`](crate::Error::Poisoned), [`Truncated`](crate::Error::Truncated) if it will not come.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::{Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// let partition = log.topic("orders")?.partition(0)?;
    /// assert!(!partition.wait_readable(Offset(0), Duration::from_millis(1))?);
    /// partition.append("paid")?;
    /// assert!(partition.wait_readable(Offset(0), Duration::from_secs(60))?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_readable(&self, at: Offset, timeout: Duration) -> Result<bool> {
        let reached = self.core.readable().wait(at.0.saturating_add(1), Some(timeout));
        reached.map_err(|stop| self.core.stopped(stop))
    }

    /// Resolves once the end has passed `at`, so that a record there can be read, on any runtime. At once, and for
    /// which records, as for [`wait_readable`](Self::wait_readable).
    ///
    /// # Errors
    ///
    /// As for [`wait_readable`](Self::wait_readable).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::future::Future;
    /// use std::pin::pin;
    /// use std::task::{Context, Poll, Waker};
    /// use chiplog::{Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// let partition = log.topic("orders")?.partition(0)?;
    /// let mut readable = pin!(partition.readable(Offset(0)));
    /// let mut context = Context::from_waker(Waker::noop()); // your runtime's
    /// assert!(readable.as_mut().poll(&mut context).is_pending());
    /// partition.append("paid")?;
    /// assert!(matches!(readable.as_mut().poll(&mut context), Poll::Ready(Ok(()))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn readable(&self, at: Offset) -> impl Future<Output = Result<()>> + Send + 'static + use<> {
        let core = Arc::clone(&self.core);
        let reached = core.readable().reached(at.0.saturating_add(1));
        async move { reached.await.map_err(|stop| core.stopped(stop)) }
    }

    /// Makes everything appended so far durable, names of files included. Blocks while the disk works; concurrent
    /// calls share one sync.
    ///
    /// # Errors
    ///
    /// - [`Io`](crate::Error::Io) if it failed: the partition is poisoned, for what is on disk is unknown.
    /// - [`Poisoned`](crate::Error::Poisoned), [`Closed`](crate::Error::Closed),
    ///   [`TopicDeleted`](crate::Error::TopicDeleted), [`ReadOnly`](crate::Error::ReadOnly).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// let partition = log.topic("orders")?.partition(0)?;
    /// partition.append("paid")?;
    /// partition.sync()?;
    /// assert_eq!(partition.offsets().synced, Offset(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn sync(&self) -> Result<()> {
        // Also if there is nothing to sync: who asks wants to know that the log is there to keep it.
        self.core.check()?;
        self.core.sync_to(self.core.end())
    }

    /// Its segment files, in order; the last one is being written. What is [staged](crate::Staging) is in none of them
    /// yet: after a [`sync`](Self::sync), everything appended before is. A partition that was never written may have
    /// none.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// let partition = log.topic("orders")?.partition(0)?;
    /// partition.append("paid")?;
    /// partition.sync()?; // until then, the record may be staged
    /// let segments = partition.segments();
    /// let last = &segments[0];
    /// assert_eq!((last.base(), last.end(), last.is_sealed()), (Offset(0), Offset(1), false));
    /// assert!(last.path().ends_with("orders-0/00000000000000000000.log"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn segments(&self) -> Vec<Segment> {
        let segments = self.core.segments();
        let last = segments.len().saturating_sub(1);
        let describe = |(at, data): (usize, &Arc<crate::segment::data::SegmentData>)| Segment {
            base: data.base(),
            end: data.end(),
            len: data.len(),
            is_sealed: at < last,
            path: data.path().into(),
        };
        segments.iter().enumerate().map(describe).collect()
    }
}

/// A segment of a partition, as it was when [`Partition::segments`] was called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    base: Offset,
    end: Offset,
    len: u64,
    is_sealed: bool,
    path: Box<Path>,
}

impl Segment {
    /// The offset it begins at, which names its files.
    #[must_use]
    pub fn base(&self) -> Offset {
        self.base
    }

    /// The offset after its last record; of the last segment, the partition may end later.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// The length of its batches, in bytes, as they are in the file. The file may be longer while it is written.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it holds no batch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it will not be written any more.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.is_sealed
    }

    /// Its data file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

const _: fn() = || {
    fn shared<T: Send + Sync + Clone>() {}
    shared::<Partition>();
    shared::<Records>();
};
