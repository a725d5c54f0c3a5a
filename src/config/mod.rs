//! The settings of a topic: plain data, checked as a whole by [`TopicConfig::validate`].
//!
//! ```text
//! typed setters ------\                      /-- fields, for the crate
//!                      >--- TopicConfig ----<
//! Kafka's own strings-/   keys.rs: one row   \-- entries, for the catalog and for people
//!                         per key
//! ```
//!
//! Numbers are kept as Kafka keeps them, so that nothing is lost between the two ways in: times in whole
//! milliseconds (a shorter rest counts as one more), -1 for "no limit" where Kafka says so, and the largest `i64`
//! for "never".
//!
//! Invariants:
//! - A setter never fails and never clamps; what it was given is what `validate` judges.
//! - Every setting but the partition count has exactly one row in `keys.rs`: key, range, default.

use std::time::Duration;

mod group;
mod keys;
mod values;

pub use group::GroupConfig;
pub use values::{Cleanup, Compression, Durability, TimestampType};

/// The settings of a topic, kept with it in the catalog.
///
/// Built by value and checked when a topic is created or altered, with an error that names key, value and range.
/// Durations are kept in whole milliseconds, rounded up; `Duration::MAX` is Kafka's "never".
///
/// ```
/// use std::time::Duration;
/// use chiplog::{Durability, TopicConfig};
///
/// let config = TopicConfig::default()
///     .partitions(3)
///     .retention_time(Duration::from_secs(3600))
///     .durability(Durability::Each)
///     .set("segment.bytes", "1048576")?;
/// assert_eq!(config.get("retention.ms").as_deref(), Some("3600000"));
///
/// let error = TopicConfig::default().set("retension.ms", "1").unwrap_err();
/// assert_eq!(error.to_string(), r#"setting retension.ms cannot be "1": there is no such key, the nearest is retention.ms"#);
/// # Ok::<(), chiplog::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TopicConfig {
    pub(crate) partitions: u32,
    pub(crate) cleanup: Cleanup,
    pub(crate) compression: values::CompressionType,
    pub(crate) gzip_level: i64,
    pub(crate) lz4_level: i64,
    pub(crate) zstd_level: i64,
    pub(crate) delete_retention_ms: i64,
    pub(crate) file_delete_delay_ms: i64,
    pub(crate) flush_messages: i64,
    pub(crate) flush_ms: i64,
    pub(crate) index_interval_bytes: i64,
    pub(crate) max_compaction_lag_ms: i64,
    pub(crate) max_message_bytes: i64,
    pub(crate) max_decompressed_bytes: i64,
    pub(crate) timestamp_type: TimestampType,
    pub(crate) timestamp_before_max_ms: i64,
    pub(crate) timestamp_after_max_ms: i64,
    pub(crate) min_cleanable_dirty_ratio: f64,
    pub(crate) min_compaction_lag_ms: i64,
    pub(crate) preallocate: bool,
    pub(crate) retention_bytes: i64,
    pub(crate) retention_ms: i64,
    pub(crate) segment_bytes: i64,
    pub(crate) segment_index_bytes: i64,
    pub(crate) segment_jitter_ms: i64,
    pub(crate) segment_ms: i64,
}

/// How many partitions.
impl TopicConfig {
    /// Sets how many partitions the topic has. More of them take more threads writing at once and more consumers
    /// of a group; each is a directory with open files. The number can be raised later, which sends keys to other
    /// partitions, and never lowered.
    ///
    /// Default: 1. Range: 1 to 100,000: with five digits the longest topic name still fits a directory name.
    #[must_use]
    pub fn partitions(mut self, count: u32) -> Self {
        self.partitions = count;
        self
    }
}

/// What is durable, and when.
impl TopicConfig {
    /// Sets when appended records are synced to the disk without anybody waiting for it. A wait for
    /// `Ack::Synced` syncs at once whatever this says.
    ///
    /// Default: [`Durability::Os`]. Range: 1 record or more. Kafka: `flush.messages`, `flush.ms`.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        (self.flush_messages, self.flush_ms) = durability.to_flush();
        self
    }
}

/// How long records are kept.
impl TopicConfig {
    /// Sets whether old records are deleted, compacted to the last of each key, or both: see [`Cleanup`] and
    /// [`guide::compaction`](crate::guide::compaction).
    ///
    /// Default: [`Cleanup::Delete`]. Kafka: `cleanup.policy`.
    #[must_use]
    pub fn cleanup(mut self, cleanup: Cleanup) -> Self {
        self.cleanup = cleanup;
        self
    }

    /// Sets the age past which a segment is deleted; `None` keeps them whatever their age. A segment is as old as
    /// its newest record, by the records' own timestamps, and segments go oldest first, so one record from the future
    /// keeps all that follow it, and records with timestamps of last year go with the next
    /// [maintenance](crate::Log::maintain).
    ///
    /// Default: 7 days. Range: 0 ms or more. Kafka: `retention.ms`, where -1 is `None`.
    #[must_use]
    pub fn retention_time(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.retention_ms = time.into().map_or(UNLIMITED, to_ms);
        self
    }

    /// Sets how many bytes of segments each partition keeps; `None` keeps them whatever their size. Up to one
    /// segment more is kept, because only whole ones are deleted and never below this.
    ///
    /// Default: `None`. Range: 0 bytes or more. Kafka: `retention.bytes`, where -1 is `None`.
    #[must_use]
    pub fn retention_bytes(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.retention_bytes = bytes.into().map_or(UNLIMITED, saturate);
        self
    }

    /// Sets how long the files of a deleted segment stay under another name before they are removed. Longer is
    /// time to regret; the space is free only after it.
    ///
    /// **No effect yet**: files are removed at once.
    ///
    /// Default: 1 minute. Range: 0 ms or more. Kafka: `file.delete.delay.ms`.
    #[must_use]
    pub fn file_delete_delay(mut self, delay: Duration) -> Self {
        self.file_delete_delay_ms = to_ms(delay);
        self
    }
}

/// Segments and their indexes.
impl TopicConfig {
    /// Sets the length, in bytes, at which the active segment is sealed and a new one begun. Smaller segments make
    /// retention and compaction finer-grained; larger ones mean fewer files. A batch never spans two segments, so
    /// this bounds a batch, too.
    ///
    /// Default: 1 GiB. Range: 14 bytes to 2 GiB - 1. Kafka: `segment.bytes`.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u32) -> Self {
        self.segment_bytes = bytes.into();
        self
    }

    /// Sets the time a segment takes records before it is sealed even if it is not full, so that retention and
    /// compaction reach them. Measured between record timestamps, on append.
    ///
    /// Default: 7 days. Range: 1 ms or more. Kafka: `segment.ms`.
    #[must_use]
    pub fn segment_time(mut self, time: Duration) -> Self {
        self.segment_ms = to_ms(time);
        self
    }

    /// Sets by how much, at most and at random, each segment is sealed earlier than
    /// [`segment_time`](Self::segment_time) says, so that many partitions do not seal all at once.
    ///
    /// Default: 0. Range: 0 ms or more. Kafka: `segment.jitter.ms`.
    #[must_use]
    pub fn segment_jitter(mut self, jitter: Duration) -> Self {
        self.segment_jitter_ms = to_ms(jitter);
        self
    }

    /// Sets the length, in bytes, that each index of a segment may reach. A full index seals the segment.
    ///
    /// Default: 10 MiB. Range: 24 bytes to 2 GiB - 1. Kafka: `segment.index.bytes`. Kafka allows 4, too, which has
    /// room for no entry; 24 is room for one entry and the one written when the segment is sealed.
    #[must_use]
    pub fn segment_index_bytes(mut self, bytes: u32) -> Self {
        self.segment_index_bytes = bytes.into();
        self
    }

    /// Sets how many bytes of batches lie between two index entries. Fewer make a read by offset find its batch
    /// with less scanning, and the index longer.
    ///
    /// Default: 4096. Range: 0 to 2 GiB - 1. Kafka: `index.interval.bytes`.
    #[must_use]
    pub fn index_interval_bytes(mut self, bytes: u32) -> Self {
        self.index_interval_bytes = bytes.into();
        self
    }

    /// Sets whether the space of a segment is reserved when it is begun, which keeps it in one piece on the disk.
    /// What is unused is given back when it is sealed.
    ///
    /// **No effect yet**: topics with a [`Durability`] other than `Os` reserve space ahead of their tail anyway.
    ///
    /// Default: `false`. Kafka: `preallocate`.
    #[must_use]
    pub fn preallocate(mut self, on: bool) -> Self {
        self.preallocate = on;
        self
    }
}

/// Which records are taken, and how they are stored.
impl TopicConfig {
    /// Sets how batches are stored. A codec that the build lacks is refused when a topic is created or altered.
    ///
    /// The level of lz4 has **no effect yet**: the encoder has one.
    ///
    /// Default: [`Compression::Producer`]. Range: gzip 1 to 9 or -1, lz4 1 to 17, zstd -131072 to 22.
    /// Kafka: `compression.type`, `compression.gzip.level`, `compression.lz4.level`, `compression.zstd.level`.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression.to_type();
        match compression {
            Compression::Gzip { level } => self.gzip_level = level.into(),
            Compression::Lz4 { level } => self.lz4_level = level.into(),
            Compression::Zstd { level } => self.zstd_level = level.into(),
            Compression::Producer | Compression::Uncompressed | Compression::Snappy => {}
        }
        self
    }

    /// Sets the largest batch taken, in bytes as stored, that is, after compression. A batch must also fit in one
    /// segment, so the smaller of this and [`segment_bytes`](Self::segment_bytes) holds.
    ///
    /// Default: 1 MiB + 12. Range: 0 to 2 GiB - 1. Kafka: `max.message.bytes`.
    #[must_use]
    pub fn max_message_bytes(mut self, bytes: u32) -> Self {
        self.max_message_bytes = bytes.into();
        self
    }

    /// Sets how many bytes a compressed batch may decode to. Lower it where batches come from strangers: a small
    /// batch can decode to a thousand times its length.
    ///
    /// Default: 2 GiB - 9, as in Kafka. Range: 1 to 2 GiB - 1. Kafka: `max.decompressed.message.bytes`.
    #[must_use]
    pub fn max_decompressed_bytes(mut self, bytes: u32) -> Self {
        self.max_decompressed_bytes = bytes.into();
        self
    }

    /// Sets whose time a record carries: the producer's, or that of the append.
    ///
    /// Default: [`TimestampType::CreateTime`]. Kafka: `message.timestamp.type`.
    #[must_use]
    pub fn timestamp_type(mut self, timestamp_type: TimestampType) -> Self {
        self.timestamp_type = timestamp_type;
        self
    }

    /// Sets how far behind the clock a producer's timestamp may be.
    ///
    /// Default: never too far. Range: 0 ms or more. Kafka: `message.timestamp.before.max.ms`.
    #[must_use]
    pub fn timestamp_before_max(mut self, distance: Duration) -> Self {
        self.timestamp_before_max_ms = to_ms(distance);
        self
    }

    /// Sets how far ahead of the clock a producer's timestamp may be.
    ///
    /// Default: 1 hour, as in Kafka from 4.0; before, it was unlimited, and one timestamp in microseconds stopped
    /// retention for good. Range: 0 ms or more. Kafka: `message.timestamp.after.max.ms`.
    #[must_use]
    pub fn timestamp_after_max(mut self, distance: Duration) -> Self {
        self.timestamp_after_max_ms = to_ms(distance);
        self
    }
}

/// Compaction.
impl TopicConfig {
    /// Sets how long a tombstone stays after it was compacted, for readers to notice that the key is gone. It goes with
    /// the next compaction after that.
    ///
    /// Default: 1 day. Range: 0 ms or more. Kafka: `delete.retention.ms`.
    #[must_use]
    pub fn delete_retention(mut self, time: Duration) -> Self {
        self.delete_retention_ms = to_ms(time);
        self
    }

    /// Sets the share of a partition that must be new since its last compaction before it is compacted again.
    /// Higher saves work; lower saves space.
    ///
    /// Default: 0.5. Range: 0 to 1. Kafka: `min.cleanable.dirty.ratio`.
    #[must_use]
    pub fn min_cleanable_dirty_ratio(mut self, ratio: f64) -> Self {
        self.min_cleanable_dirty_ratio = ratio;
        self
    }

    /// Sets how long a record stays uncompacted at least, by its timestamp and the log's clock: a segment waits for the
    /// newest of its records.
    ///
    /// Default: 0. Range: 0 ms to [`max_compaction_lag`](Self::max_compaction_lag). Kafka: `min.compaction.lag.ms`.
    #[must_use]
    pub fn min_compaction_lag(mut self, lag: Duration) -> Self {
        self.min_compaction_lag_ms = to_ms(lag);
        self
    }

    /// Sets how long a record may stay uncompacted, whatever the share of new records: counted from the first batch of
    /// its segment, once that is sealed. The segments of a compacted topic are sealed at this age, too.
    ///
    /// Default: for ever. Range: 1 ms or more. Kafka: `max.compaction.lag.ms`.
    #[must_use]
    pub fn max_compaction_lag(mut self, lag: Duration) -> Self {
        self.max_compaction_lag_ms = to_ms(lag);
        self
    }
}

/// What several settings mean together.
impl TopicConfig {
    /// When to sync without being asked.
    pub(crate) fn sync_rule(&self) -> Durability {
        Durability::from_flush(self.flush_messages, self.flush_ms)
    }

    /// How to store batches, with the level that goes with it.
    pub(crate) fn stored_as(&self) -> Compression {
        Compression::of(self.compression, self.gzip_level, self.lz4_level, self.zstd_level)
    }

    /// The largest batch that is both allowed and fits in a segment.
    pub(crate) fn max_batch_bytes(&self) -> u64 {
        self.max_message_bytes.min(self.segment_bytes).unsigned_abs()
    }

    /// The age past which a segment is deleted; `None` if never.
    pub(crate) fn retained_ms(&self) -> Option<i64> {
        (self.cleanup.deletes() && self.retention_ms >= 0).then_some(self.retention_ms)
    }

    /// The bytes above which the oldest segment is deleted; `None` if never.
    pub(crate) fn retained_bytes(&self) -> Option<u64> {
        if self.cleanup.deletes() { u64::try_from(self.retention_bytes).ok() } else { None }
    }

    /// The time between record timestamps after which a segment is sealed, before jitter.
    pub(crate) fn roll_ms(&self) -> i64 {
        let forced = if self.cleanup.compacts() { self.max_compaction_lag_ms } else { NEVER };
        self.segment_ms.min(forced)
    }
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            partitions: 1,
            cleanup: Cleanup::Delete,
            compression: values::CompressionType::Producer,
            gzip_level: -1,
            lz4_level: 9,
            zstd_level: 3,
            delete_retention_ms: DAY_MS,
            file_delete_delay_ms: 60_000,
            flush_messages: NEVER,
            flush_ms: NEVER,
            index_interval_bytes: 4096,
            max_compaction_lag_ms: NEVER,
            max_message_bytes: 1024 * 1024 + 12,
            max_decompressed_bytes: MAX_I32 - 8,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: NEVER,
            timestamp_after_max_ms: 3_600_000,
            min_cleanable_dirty_ratio: 0.5,
            min_compaction_lag_ms: 0,
            preallocate: false,
            retention_bytes: UNLIMITED,
            retention_ms: 7 * DAY_MS,
            segment_bytes: 1024 * 1024 * 1024,
            segment_index_bytes: 10 * 1024 * 1024,
            segment_jitter_ms: 0,
            segment_ms: 7 * DAY_MS,
        }
    }
}

/// Whole milliseconds, rounded up: half a millisecond of patience is not none.
fn to_ms(time: Duration) -> i64 {
    i64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(NEVER)
}

/// As Kafka can keep it. No disk holds what is lost here.
fn saturate(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
const MAX_I32: i64 = i32::MAX as i64;
/// Kafka's "never", for times and counts.
const NEVER: i64 = i64::MAX;
/// Kafka's "no limit", for retention.
const UNLIMITED: i64 = -1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_bounded_by_the_smaller_of_its_two_limits() {
        let config = TopicConfig::default();
        assert_eq!(config.max_batch_bytes(), 1_048_588);
        assert_eq!(config.segment_bytes(1000).max_batch_bytes(), 1000);
        assert!(config.segment_bytes(1000).validate().is_ok(), "a small segment needs no second setting");
    }

    #[test]
    fn durations_are_kept_in_whole_milliseconds_rounded_up() {
        let config = TopicConfig::default().segment_time(Duration::from_micros(1)).retention_time(Duration::MAX);
        assert_eq!(config.segment_ms, 1);
        assert_eq!(config.retention_ms, NEVER);
        assert_eq!(config.retention_time(None).retained_ms(), None);
        assert_eq!(config.retention_time(Duration::ZERO).retained_ms(), Some(0));
    }

    #[test]
    fn retention_has_no_say_where_nothing_is_deleted() {
        let config = TopicConfig::default().retention_bytes(10).retention_time(Duration::ZERO);
        assert_eq!((config.retained_ms(), config.retained_bytes()), (Some(0), Some(10)));
        let compacted = config.cleanup(Cleanup::Compact);
        assert_eq!((compacted.retained_ms(), compacted.retained_bytes()), (None, None));
        assert_eq!(config.cleanup(Cleanup::CompactAndDelete).retained_bytes(), Some(10));
    }

    #[test]
    fn a_compacted_topic_seals_in_time_for_its_longest_lag() {
        let config = TopicConfig::default().max_compaction_lag(Duration::from_millis(5));
        assert_eq!(config.roll_ms(), 7 * DAY_MS);
        assert_eq!(config.cleanup(Cleanup::Compact).roll_ms(), 5);
    }
}
