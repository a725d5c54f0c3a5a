//! What to verify, and who is told meanwhile.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::report::VerifyPosition;
use crate::error::{Error, Result};
use crate::types::TopicPartition;

/// What to verify, and how: see [`Log::verify`](crate::Log::verify).
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use std::ops::ControlFlow;
/// use chiplog::{Log, VerifyOptions, VerifyPosition};
///
/// let log = Log::open(dir.path())?;
/// log.topic("orders")?.append("paid")?;
/// log.sync()?;
///
/// // Enough for today, at the first opportunity.
/// let report = log.verify(&VerifyOptions::default().progress(|_| ControlFlow::Break(())))?;
/// let position = report.stopped_at().unwrap().to_string();
/// assert_eq!(position, "orders-0@0");
///
/// // Tomorrow, perhaps in another process.
/// let position: VerifyPosition = position.parse()?;
/// let report = log.verify(&VerifyOptions::default().from(position))?;
/// assert_eq!((report.stopped_at(), report.records()), (None, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct VerifyOptions<'a> {
    pub(super) partition: Option<TopicPartition>,
    pub(super) from: Option<VerifyPosition>,
    threads: usize,
    progress: Option<Arc<Told<'a>>>,
}

type Told<'a> = dyn Fn(&VerifyProgress<'_>) -> ControlFlow<()> + Send + Sync + 'a;

impl Default for VerifyOptions<'_> {
    fn default() -> Self {
        Self { partition: None, from: None, threads: 1, progress: None }
    }
}

impl fmt::Debug for VerifyOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyOptions")
            .field("partition", &self.partition)
            .field("from", &self.from)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl<'a> VerifyOptions<'a> {
    /// Verifies one partition, and none of the files of the whole log.
    ///
    /// Default: everything.
    #[must_use]
    pub fn partition(mut self, topic: &str, partition: u32) -> Self {
        self.partition = Some(TopicPartition::new(topic, partition));
        self
    }

    /// Goes on where an earlier verification [stopped](crate::VerifyReport::stopped_at). What comes before it is not
    /// judged, nor are the files of the whole log. If it was removed since, what comes next is the first.
    ///
    /// Default: from the beginning.
    #[must_use]
    pub fn from(mut self, position: VerifyPosition) -> Self {
        self.from = Some(position);
        self
    }

    /// Sets how many threads share the work, the caller's own included. A segment is judged by one of them, so more than
    /// there are segments are of no use; and two are mostly enough for one disk.
    ///
    /// Default: 1, which starts no thread. Range: 1 and more.
    #[must_use]
    pub fn threads(mut self, count: usize) -> Self {
        self.threads = count;
        self
    }

    /// Has somebody told how far it is, every 4 MiB and at the end of each segment, by one thread at a time. The answer
    /// [`Break`](ControlFlow::Break) stops it: all threads then end after a few MiB more, and the report says where to
    /// go on. What was read of a segment that was not finished will be read again, so a verification that is always
    /// stopped before it has finished one never gets anywhere: give it time for [`segment_bytes`] at least.
    ///
    /// Default: nobody.
    ///
    /// [`segment_bytes`]: crate::TopicConfig::segment_bytes
    #[must_use]
    pub fn progress(mut self, tell: impl Fn(&VerifyProgress<'_>) -> ControlFlow<()> + Send + Sync + 'a) -> Self {
        self.progress = Some(Arc::new(tell));
        self
    }

    pub(super) fn thread_count(&self) -> usize {
        self.threads
    }

    pub(super) fn validate(&self) -> Result<()> {
        if self.threads > 0 {
            return Ok(());
        }
        Err(Error::InvalidSetting { key: "threads".into(), value: "0".into(), allowed: "1 and more".into() })
    }

    pub(super) fn tell(&self, progress: &VerifyProgress<'_>) -> ControlFlow<()> {
        self.progress.as_ref().map_or(ControlFlow::Continue(()), |tell| tell(progress))
    }
}

/// How far a verification is.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct VerifyProgress<'a> {
    /// A partition that is being judged.
    pub partition: &'a TopicPartition,
    /// Bytes of data files judged so far, of all partitions.
    pub bytes: u64,
    /// How many there are in all; less is judged if retention removes some meanwhile.
    pub total_bytes: u64,
    /// How many findings there are so far.
    pub findings: usize,
}
