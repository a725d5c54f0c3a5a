//! The topics of the log's own, whose fold is what it knows of groups and transactional ids: what their settings must be.

use super::names::{OFFSETS_TOPIC, QUEUES_TOPIC, TRANSACTIONS_TOPIC};
use crate::config::TopicConfig;
use crate::error::{Error, Result};

/// What is in such a topic, for who asks for settings that it cannot have.
pub(super) struct Words {
    /// What leads to one of its partitions.
    id: &'static str,
    record: &'static str,
    all: &'static str,
}

pub(super) const OFFSETS: Words = Words { id: "a group", record: "a commit", all: "the offsets of groups" };
pub(super) const TRANSACTIONS: Words =
    Words { id: "a transactional id", record: "a decision", all: "the decisions on transactions" };

pub(super) const QUEUES: Words = Words { id: "a queue", record: "what is known of a queue", all: "queues" };

/// Whether the log's own state is the fold of a topic of this name.
pub(super) fn is_own(topic: &str) -> bool {
    matches!(topic, OFFSETS_TOPIC | TRANSACTIONS_TOPIC | QUEUES_TOPIC)
}

/// Refuses settings under which what is in the topic would be lost, or nothing could be added to it: all but those that say
/// how its files are cut are as `required`.
pub(super) fn check(required: &TopicConfig, to: &TopicConfig, words: &Words) -> Result<()> {
    let refuse = |key: &str, value: String, allowed: String| {
        Err(Error::InvalidSetting { key: key.into(), value: value.into(), allowed: allowed.into() })
    };
    if to.partitions != required.partitions {
        let allowed = format!("{}: {} is found by it", required.partitions, words.id);
        return refuse("partitions", to.partitions.to_string(), allowed);
    }
    for ((key, value), (_, required)) in to.entries().zip(required.entries()) {
        if value != required && !MAY_DIFFER.contains(&key) {
            return refuse(key, value, format!("{required}: {} depend on it", words.all));
        }
    }
    if to.segment_bytes < LEAST_SEGMENT_BYTES {
        let allowed = format!("{LEAST_SEGMENT_BYTES} or more: {} must fit a segment", words.record);
        return refuse("segment.bytes", to.segment_bytes.to_string(), allowed);
    }
    Ok(())
}

/// The settings that may be changed.
const MAY_DIFFER: [&str; 11] = [
    "delete.retention.ms",
    "file.delete.delay.ms",
    "index.interval.bytes",
    "max.compaction.lag.ms",
    "min.cleanable.dirty.ratio",
    "min.compaction.lag.ms",
    "preallocate",
    "segment.bytes",
    "segment.index.bytes",
    "segment.jitter.ms",
    "segment.ms",
];
const LEAST_SEGMENT_BYTES: i64 = 1 << 20;
