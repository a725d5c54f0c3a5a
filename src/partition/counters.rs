//! What a partition has done since it was opened.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::observe::LatencyRecorder;

/// What was appended. Counted under the append lock; what joins a batch, once that is complete.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Appended {
    /// Batches. A record that joined one counts as one.
    pub(crate) batches: u64,
    pub(crate) records: u64,
    /// The length of the batches.
    pub(crate) bytes: u64,
}

impl Appended {
    pub(crate) fn add(&mut self, other: Self) {
        self.batches += other.batches;
        self.records += other.records;
        self.bytes += other.bytes;
    }
}

/// Counters, raised with the weakest ordering: they order nothing.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) syncs: LatencyRecorder,
    /// How long the last sync took.
    sync_ns: AtomicU64,
}

impl Counters {
    pub(crate) fn synced(&self, duration: Duration) {
        self.syncs.record(duration);
        self.sync_ns.store(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How long the last sync took.
    pub(crate) fn last_sync(&self) -> Duration {
        Duration::from_nanos(self.sync_ns.load(Ordering::Relaxed))
    }
}
