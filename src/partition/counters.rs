//! What a partition has done since it was opened.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::observe::LatencyRecorder;

/// What was appended.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AppendCounts {
    /// Batches. A record that joined one counts as one.
    pub(crate) batches: u64,
    pub(crate) records: u64,
    /// The length of the batches.
    pub(crate) bytes: u64,
}

/// The same, as it grows: counted under the append lock, and looked at without. What joins a batch is counted once that
/// is complete.
#[derive(Debug, Default)]
pub(crate) struct AppendCounter {
    batches: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
}

impl AppendCounter {
    /// Under the append lock, so plain loads and stores do.
    pub(crate) fn add(&self, more: AppendCounts) {
        for (counter, by) in [(&self.batches, more.batches), (&self.records, more.records), (&self.bytes, more.bytes)]
        {
            counter.store(counter.load(Ordering::Relaxed) + by, Ordering::Relaxed);
        }
    }

    /// So far, and with what `joined` an open batch.
    pub(crate) fn with(&self, joined: AppendCounts) -> AppendCounts {
        AppendCounts {
            batches: self.batches.load(Ordering::Relaxed) + joined.batches,
            records: self.records.load(Ordering::Relaxed) + joined.records,
            bytes: self.bytes.load(Ordering::Relaxed) + joined.bytes,
        }
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
