//! What the log holds and has done, as plain numbers.

use std::sync::Arc;

use super::topic::TopicState;
use super::{Log, damaged_count};
use crate::error::{Error, Result};
use crate::observe::{PartitionStats, StagingStats, Stats, TopicStats};
use crate::partition::core::Core;

impl Log {
    /// What the log holds, and has done since it was opened.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the file system cannot be asked for its free space; [`Error::Closed`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// let log = chiplog::Log::open(dir.path())?;
    /// log.topic("orders")?.append("paid")?;
    /// let stats = log.stats()?;
    /// assert_eq!(stats.topics[0].name, "orders");
    /// assert_eq!(stats.total().appended_records, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats(&self) -> Result<Stats> {
        let inner = &self.opened.inner;
        inner.check_open()?;
        let mut states: Vec<Arc<TopicState>> = inner.topics.read().values().map(Arc::clone).collect();
        states.sort_by(|one, other| one.name.cmp(&other.name));
        let volume = inner.context.disk().volume(&inner.dir).map_err(Error::io("describe", &*inner.dir))?;
        let open_maps = inner.context.files.open_maps() as u64;
        let pool = &inner.context.pool;
        let staging = match pool.why_not() {
            None => StagingStats::On { slots: pool.layout().slot_count.into(), in_use: pool.in_use() as u64 },
            Some(why) => StagingStats::Off { why },
        };
        let mut stats = Stats { free_bytes: volume.free_bytes, open_maps, staging, ..Stats::default() };
        for state in states {
            stats.damaged_partitions += damaged_count(&state.partitions.read()) as u64;
            let partitions = state.cores().iter().map(|core| of_partition(core)).collect();
            stats.topics.push(TopicStats { name: state.name.to_string(), partitions });
        }
        Ok(stats)
    }
}

fn of_partition(core: &Core) -> PartitionStats {
    let segments = core.segments();
    let (end, committed, stable) = (core.end(), core.committed(), core.stable());
    let appended = core.appended();
    PartitionStats {
        partition: core.id.partition,
        start: core.start(),
        stable,
        committed,
        synced: core.synced(),
        end,
        segments: segments.len() as u64,
        bytes: segments.iter().map(|segment| segment.len()).sum(),
        appended_batches: appended.batches,
        appended_records: appended.records,
        appended_bytes: appended.bytes,
        syncs: core.counters.syncs.snapshot(),
    }
}
