//! What the log says about itself: events as they happen, for an [`Observer`], and counts when asked, as [`Stats`].
//!
//! No payloads: neither keys nor values nor headers of a record ever pass through here.
//!
//! Invariants:
//! - An observer is called with no lock held, on the thread that did the work: see [`mod@tell`].
//! - Recording a latency takes no lock and allocates nothing.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::types::{LeaderEpoch, Offset, TopicPartition};

mod tell;

pub(crate) use tell::{Later, Quiet, later, tell};

/// Is told what happens in the log. Every method does nothing unless implemented.
///
/// An event is told on the thread that brought it about, before its call of the log returns: the caller's, or the one
/// that does the background work. So return promptly. What one thread brings about is told in order.
///
/// No lock is held then: an observer may call the log, even to maintain or to close it. What it brings about there is
/// told when it has returned, so see to it that this comes to an end. It must not wait for the background work, which
/// may be what called it: [`Appended::wait`](crate::Appended::wait) is fine, blocking on
/// [`Appended::acked`](crate::Appended::acked) is not. A panic on the log's own thread stops the log.
///
/// An observer that stores a [`Log`](crate::Log), or another handle of it, is a cycle of references: dropping the other
/// handles closes nothing then, so call [`Log::close`](crate::Log::close), and let the observer drop its own.
///
/// Events get more fields over time, never fewer.
///
/// ```
/// use chiplog::{Observer, TailCut};
///
/// #[derive(Debug)]
/// struct Print;
///
/// impl Observer for Print {
///     fn corrupt_tail_cut(&self, cut: &TailCut<'_>) {
///         eprintln!("{}: {} bytes cut off, kept in {}", cut.partition, cut.bytes, cut.kept_in.display());
///     }
/// }
/// # let _: &dyn Observer = &Print;
/// ```
#[allow(unused_variables)]
pub trait Observer: fmt::Debug + Send + Sync + 'static {
    /// A segment was begun.
    fn segment_created(&self, event: &SegmentEvent<'_>) {}

    /// A segment took its last record.
    fn segment_sealed(&self, event: &SegmentEvent<'_>) {}

    /// The files of a segment were removed.
    fn segment_deleted(&self, event: &SegmentEvent<'_>) {}

    /// Everything below an offset became durable.
    fn synced(&self, event: &Synced<'_>) {}

    /// A sync failed. The partition is poisoned: it refuses appends until the log is reopened.
    fn sync_failed(&self, event: &SyncFailed<'_>) {}

    /// A partition refuses appends until the log is reopened, for the reason given.
    fn poisoned(&self, partition: &TopicPartition, reason: &str) {}

    /// Bytes at the end of a partition that are no whole batch, as a crash leaves them, were cut off and put aside.
    /// Opening finds them and leaves them; they are cut, and this is told, at the first change of the partition (an
    /// append, a sync), by maintenance or by the close. In a read-only log they stay, and this is never told.
    fn corrupt_tail_cut(&self, cut: &TailCut<'_>) {}

    /// Damage in the middle of a partition was cut out, because the log was opened with
    /// [`RecoveryMode::Salvage`](crate::RecoveryMode::Salvage).
    fn damage_cut_out(&self, cut: &DamageCut<'_>) {}

    /// A batch was out of place and was set right, because the log was opened with
    /// [`RecoveryMode::Salvage`](crate::RecoveryMode::Salvage). No record is lost by it.
    fn batch_mended(&self, mended: &BatchMended<'_>) {}

    /// The index of a sealed segment was missing or wrong, so a read built it again from the batches, in memory. The
    /// path is that of the offset index. Told again if the segment was unmapped in between.
    fn index_rebuilt(&self, partition: &TopicPartition, path: &Path) {}

    /// A file that follows from the batches was missing or wrong, so what it should have said was found in the batches:
    /// a snapshot of producers, the checkpoint of leader epochs, an index of aborted transactions. Told of a directory
    /// that a Kafka broker wrote, for Kafka passes over this in silence.
    fn state_rebuilt(&self, partition: &TopicPartition, path: &Path) {}

    /// A partition that was not closed in order is being read through: told by the open after each 64 MiB of batches,
    /// so never for one in which there is less to read. [`recovered`](Self::recovered) follows when it is over.
    fn recovering(&self, progress: &Recovery<'_>) {}

    /// A partition was opened after it had not been closed in order, or differed from what the close had left. Not
    /// called for a new one, nor for one in which nothing was ever written.
    fn recovered(&self, recovery: &Recovery<'_>) {}

    /// A partition cannot be used; the rest of the log can. One of `__consumer_offsets` also if a batch in it is damaged,
    /// as all of it is read at open.
    fn partition_damaged(&self, partition: &TopicPartition, reason: &str) {}

    /// Retention removed the oldest records of a partition.
    fn retention_deleted(&self, event: &Retained<'_>) {}

    /// A partition was compacted, as far as its records are sealed and decided, and there is memory for their keys.
    fn compacted(&self, event: &Compacted<'_>) {}

    /// A partition cannot be compacted any more, for the reason given, until the log is reopened: a batch is damaged, or
    /// this build lacks a codec. Records go on being appended and read.
    fn compaction_failed(&self, partition: &TopicPartition, reason: &str) {}

    /// Less space is free than [`min_free_bytes`](crate::LogBuilder::min_free_bytes): an append found out and was
    /// refused, and others are until there is more.
    fn space_low(&self, free_bytes: u64, limit_bytes: u64) {}

    /// Enough space is free again: an append found out, and was taken.
    fn space_recovered(&self, free_bytes: u64) {}

    /// A group committed offsets of this many partitions.
    fn offsets_committed(&self, group: &str, count: usize) {}

    /// The offsets of a group for this many partitions were removed for their age.
    fn offsets_expired(&self, group: &str, count: usize) {}
}

/// The observer that is there when no other is given.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct NoObserver;

impl Observer for NoObserver {}

/// Something happened to a segment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SegmentEvent<'a> {
    /// Its partition.
    pub partition: &'a TopicPartition,
    /// Its base offset, which names its files.
    pub base: Offset,
    /// The offset after its last record.
    pub end: Offset,
    /// The length of its batches.
    pub bytes: u64,
}

/// A sync succeeded.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Synced<'a> {
    /// What was synced.
    pub partition: &'a TopicPartition,
    /// Everything below is durable.
    pub offset: Offset,
    /// How long the sync took.
    pub duration: Duration,
}

/// A sync failed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SyncFailed<'a> {
    /// What was to be synced.
    pub partition: &'a TopicPartition,
    /// The file.
    pub path: &'a Path,
    /// What the operating system said.
    pub error: &'a std::io::Error,
}

/// Bytes were cut off the end of a partition.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TailCut<'a> {
    /// Where.
    pub partition: &'a TopicPartition,
    /// The segment file they were in.
    pub path: &'a Path,
    /// The file they were put aside in.
    pub kept_in: &'a Path,
    /// The position of the first of them in `path`.
    pub from: u64,
    /// How many.
    pub bytes: u64,
}

/// Damage was cut out of the middle of a partition, and what lies behind it kept.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DamageCut<'a> {
    /// Where.
    pub partition: &'a TopicPartition,
    /// The segment file the damage was in.
    pub path: &'a Path,
    /// The position of its first byte there, before it was cut out.
    pub position: u64,
    /// How many bytes it took.
    pub bytes: u64,
    /// The first offset whose record is lost; none is if `next_offset` is the same.
    pub first_offset: Offset,
    /// The first offset behind the damage.
    pub next_offset: Offset,
    /// The file that what was cut out is kept in.
    pub kept_in: &'a Path,
}

/// A salvage found a whole batch with a wrong offset or leader epoch, which no checksum covers, and set it right.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BatchMended<'a> {
    /// Where.
    pub partition: &'a TopicPartition,
    /// The segment file.
    pub path: &'a Path,
    /// The position of the batch there, before the salvage.
    pub position: u64,
    /// The offset of its first record, now.
    pub offset: Offset,
    /// Its leader epoch, now.
    pub leader_epoch: LeaderEpoch,
}

/// A partition is being, or was, recovered.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Recovery<'a> {
    /// Which.
    pub partition: &'a TopicPartition,
    /// The offset after its last record, as far as read.
    pub end: Offset,
    /// How many bytes of batches were read and verified so far.
    pub scanned_bytes: u64,
    /// How many there are to read in all. While it is going on, at most: where batches end is not known yet.
    pub total_bytes: u64,
    /// The time it took so far.
    pub duration: Duration,
}

/// Retention removed records.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Retained<'a> {
    /// Where.
    pub partition: &'a TopicPartition,
    /// The first offset that is left.
    pub start: Offset,
    /// How many segments went.
    pub segments: u64,
    /// How many bytes of batches went.
    pub bytes: u64,
    /// Which limit they had passed.
    pub reason: RetentionReason,
}

/// A partition was compacted.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Compacted<'a> {
    /// Which.
    pub partition: &'a TopicPartition,
    /// Everything below was compacted.
    pub end: Offset,
    /// How many segments were looked through.
    pub segments_before: u64,
    /// How many there are of them now.
    pub segments_after: u64,
    /// The length of the batches in the segments that were looked through.
    pub bytes_before: u64,
    /// The length of those that are left.
    pub bytes_after: u64,
    /// The time from begin to end, in which other work was done, too.
    pub duration: Duration,
}

/// The limit a removed segment had passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RetentionReason {
    /// It ended below the start of the partition, which somebody had raised.
    Start,
    /// The partition was larger than `retention.bytes` without it.
    Size,
    /// Its newest record was older than `retention.ms`.
    Age,
}

/// What the log holds and has done since it was opened.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Each topic, by name.
    pub topics: Vec<TopicStats>,
    /// Bytes free on the file system of the log.
    pub free_bytes: u64,
    /// Segments mapped for reading.
    pub open_maps: u64,
    /// Partitions that cannot be used.
    pub damaged_partitions: u64,
    /// Whether small appends are staged, and why not.
    pub staging: StagingStats,
}

/// Whether small appends are [staged](crate::Staging).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StagingStats {
    /// They are, as long as a partition gets a slot: there may be none left, or no space for one, or the kernel may
    /// be older than 5.14, which shows by `in_use` being 0.
    On {
        /// How many partitions can stage at once, as [set](crate::LogBuilder::staging_slots) for this opening.
        slots: u64,
        /// How many slots hold something or may: those in the hand of a partition, also while they are empty, those
        /// that a killed process left and nobody has taken over, and those of topics that are being deleted.
        in_use: u64,
    },
    /// They are not: each append is one write.
    Off {
        /// Why not, in words.
        why: &'static str,
    },
}

impl Default for StagingStats {
    fn default() -> Self {
        Self::Off { why: "the log is not open" }
    }
}

impl Stats {
    /// The sum over all topics, the internal `__consumer_offsets` included. Its `synced`, `end` and other offsets are
    /// meaningless and 0.
    #[must_use]
    pub fn total(&self) -> PartitionStats {
        sum(self.topics.iter().flat_map(|topic| &topic.partitions))
    }
}

/// What one topic holds and has done since the log was opened.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct TopicStats {
    /// Its name.
    pub name: String,
    /// Each partition, by number.
    pub partitions: Vec<PartitionStats>,
}

impl TopicStats {
    /// The sum over all partitions. Its `synced`, `end` and other offsets are meaningless and 0.
    #[must_use]
    pub fn total(&self) -> PartitionStats {
        sum(&self.partitions)
    }
}

/// What one partition holds, and what was appended to it since the log was opened.
///
/// How many records it holds is not counted: `end - start`, or fewer where offsets have gaps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionStats {
    /// Its number.
    pub partition: u32,
    /// The first offset it holds.
    pub start: Offset,
    /// Everything below is not part of an open transaction.
    pub stable: Offset,
    /// Everything below is held by every in-sync node.
    pub committed: Offset,
    /// Everything below is durable.
    pub synced: Offset,
    /// The offset the next record gets.
    pub end: Offset,
    /// How many segments it has, the active one included.
    pub segments: u64,
    /// The length of its batches on disk. What is [staged](crate::Staging) is not among them yet.
    pub bytes: u64,
    /// How many batches were appended since the log was opened. A record that is staged alone counts as one, at the
    /// latest when it is written.
    pub appended_batches: u64,
    /// How many records were in them.
    pub appended_records: u64,
    /// The length of those batches, before the topic's codec is applied to what was staged.
    pub appended_bytes: u64,
    /// Each sync since the log was opened, by how long it took.
    pub syncs: Latencies,
}

fn sum<'a>(partitions: impl IntoIterator<Item = &'a PartitionStats>) -> PartitionStats {
    let mut total = PartitionStats::default();
    for one in partitions {
        total.segments += one.segments;
        total.bytes += one.bytes;
        total.appended_batches += one.appended_batches;
        total.appended_records += one.appended_records;
        total.appended_bytes += one.appended_bytes;
        total.syncs.add(&one.syncs);
    }
    total
}

/// Counts durations by their power of two in microseconds, from many threads at once.
#[derive(Debug, Default)]
pub(crate) struct LatencyRecorder {
    buckets: [AtomicU64; BUCKET_COUNT],
    total_us: AtomicU64,
    max_us: AtomicU64,
}

impl LatencyRecorder {
    pub(crate) fn record(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.buckets.get(bucket_of(us)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.total_us.fetch_add(us, Ordering::Relaxed);
        self.max_us.fetch_max(us, Ordering::Relaxed);
    }

    /// What was recorded so far. What other threads record meanwhile may be in part of it only.
    pub(crate) fn snapshot(&self) -> Latencies {
        Latencies {
            buckets: std::array::from_fn(|at| self.buckets[at].load(Ordering::Relaxed)),
            total_us: self.total_us.load(Ordering::Relaxed),
            max_us: self.max_us.load(Ordering::Relaxed),
        }
    }
}

/// How long something took, each time, to within a factor of two.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Latencies {
    buckets: [u64; BUCKET_COUNT],
    total_us: u64,
    max_us: u64,
}

impl fmt::Debug for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, mean, max) = (self.count(), self.mean(), self.max());
        write!(f, "Latencies {{ count: {count}, mean: {mean:?}, max: {max:?} }}")
    }
}

impl Latencies {
    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The mean; zero if there were none.
    #[must_use]
    pub fn mean(&self) -> Duration {
        Duration::from_micros(self.total_us.checked_div(self.count()).unwrap_or(0))
    }

    /// The longest; zero if there were none.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.max_us)
    }

    /// A time that `percent` of them did not exceed, at most twice the least such time; zero if there were none.
    /// 50 is the median, 100 the longest; what is outside 0 to 100 counts as the nearer end.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Duration {
        let wanted = (self.count() as f64 * percent.clamp(0.0, 100.0) / 100.0).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (at, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_micros(upper_us(at).min(self.max_us));
            }
        }
        self.max()
    }

    /// The counts: each with the time that all of its durations are below; the last takes the rest, too.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        self.buckets.iter().enumerate().map(|(at, count)| (Duration::from_micros(upper_us(at)), *count))
    }

    /// Adds those of another partition.
    fn add(&mut self, other: &Self) {
        for (bucket, more) in self.buckets.iter_mut().zip(other.buckets) {
            *bucket += more;
        }
        self.total_us = self.total_us.saturating_add(other.total_us);
        self.max_us = self.max_us.max(other.max_us);
    }
}

/// Bucket 0 is below 1 us, bucket `i` from 2^(i-1) us to below 2^i us.
fn bucket_of(us: u64) -> usize {
    ((u64::BITS - us.leading_zeros()) as usize).min(BUCKET_COUNT - 1)
}

fn upper_us(bucket: usize) -> u64 {
    1 << bucket
}

/// The last one begins at 2^30 us, 18 minutes.
const BUCKET_COUNT: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_duration_falls_into_the_bucket_of_its_power_of_two() {
        for (us, bucket) in [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (1023, 10), (1024, 11), (u64::MAX, 31)] {
            assert_eq!(bucket_of(us), bucket, "{us} us");
        }
    }

    #[test]
    fn nothing_recorded_is_zero_everywhere() {
        let none = LatencyRecorder::default().snapshot();
        assert_eq!((none.count(), none.mean(), none.max()), (0, Duration::ZERO, Duration::ZERO));
        assert_eq!(none.percentile(99.0), Duration::ZERO);
    }

    #[test]
    fn recording_from_many_threads_loses_none() {
        let recorder = LatencyRecorder::default();
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let recorder = &recorder;
                scope
                    .spawn(move || (0..1000).for_each(|i| recorder.record(Duration::from_micros(thread * 1000 + i))));
            }
        });
        let all = recorder.snapshot();
        assert_eq!((all.count(), all.max()), (4000, Duration::from_micros(3999)));
        assert_eq!(all.mean(), Duration::from_micros(1999));
    }

    #[test]
    fn a_topic_sums_its_partitions() {
        let recorder = LatencyRecorder::default();
        recorder.record(Duration::from_micros(100));
        let one = PartitionStats {
            bytes: 10,
            appended_records: 2,
            end: Offset(2),
            syncs: recorder.snapshot(),
            ..Default::default()
        };
        let topic = TopicStats { name: "orders".into(), partitions: vec![one.clone(), one] };
        let total = topic.total();
        assert_eq!((total.bytes, total.appended_records, total.syncs.count(), total.end), (20, 4, 2, Offset::ZERO));
        let stats = Stats { topics: vec![topic.clone(), topic], ..Default::default() };
        assert_eq!(stats.total().bytes, 40);
    }

    proptest! {
        /// A percentile is never below the exact one and never twice as long.
        #[test]
        fn a_percentile_is_exact_to_a_factor_of_two(mut us in prop::collection::vec(0..100_000_u64, 1..200), percent in 0..=100_u32) {
            let recorder = LatencyRecorder::default();
            us.iter().for_each(|us| recorder.record(Duration::from_micros(*us)));
            us.sort_unstable();
            let rank = (us.len() * percent as usize).div_ceil(100).max(1);
            let exact = us[rank - 1];
            let told = recorder.snapshot().percentile(percent.into()).as_micros() as u64;
            prop_assert!(exact <= told && told <= (2 * exact).max(1), "{} us for {} us", told, exact);
        }
    }
}
