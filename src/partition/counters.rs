//! What a partition has done since it was opened.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::observe::LatencyRecorder;

/// Counters, raised with the weakest ordering: they order nothing.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    appends: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
    pub(crate) syncs: LatencyRecorder,
    /// How long the last sync took.
    sync_ns: AtomicU64,
}

impl Counters {
    /// Counts one append. Under the append lock, so plain loads and stores do.
    #[inline]
    pub(crate) fn appended(&self, records: u64, bytes: u64) {
        for (counter, by) in [(&self.appends, 1), (&self.records, records), (&self.bytes, bytes)] {
            counter.store(counter.load(Ordering::Relaxed) + by, Ordering::Relaxed);
        }
    }

    pub(crate) fn synced(&self, duration: Duration) {
        self.syncs.record(duration);
        self.sync_ns.store(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How long the last sync took.
    pub(crate) fn last_sync(&self) -> Duration {
        Duration::from_nanos(self.sync_ns.load(Ordering::Relaxed))
    }

    pub(crate) fn appends(&self) -> u64 {
        self.appends.load(Ordering::Relaxed)
    }

    pub(crate) fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}
