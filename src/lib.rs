//! Kafka's log as a library.

#![deny(unsafe_code)]

pub mod disk;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;

mod checksum;
mod clock;
mod config;
mod error;
mod group;
mod log;
mod observe;
mod probe;
mod sys;
mod types;
mod wire;

pub use clock::{Clock, Entropy, SystemClock, SystemEntropy};
pub use config::{Cleanup, Compression, Durability, GroupConfig, TimestampType, TopicConfig};
pub use error::{Corruption, Error, ErrorKind, Result};
pub use group::Committed;
pub use observe::{
    Latencies, Observer, PartitionStats, Recovery, Retained, RetentionReason, SegmentEvent, Stats, SyncFailed,
    Synced, TailCut, TopicStats,
};
pub use types::{InvalidTopicId, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp, TopicId, TopicPartition};
