//! Kafka's log as a library.

#![deny(unsafe_code)]

pub mod disk;
pub mod record;
#[cfg(feature = "sim")]
#[doc(hidden)]
pub mod sim;

mod checksum;
mod clock;
mod config;
mod error;
mod group;
mod log;
mod observe;
mod partition;
mod probe;
mod segment;
mod sys;
mod turn;
mod types;
mod watermark;
mod wire;

#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub use partition::fuzzing as partition_fuzzing;

pub use clock::{Clock, Entropy, SystemClock, SystemEntropy};
pub use config::{Cleanup, Compression, Durability, GroupConfig, TimestampType, TopicConfig};
pub use error::{Corruption, Error, ErrorKind, Result};
pub use group::{Committed, GroupOffset};
pub use log::{Background, Damage, Group, Log, LogBuilder, Maintained, Topic};
pub use observe::{
    Latencies, Observer, PartitionStats, Recovery, Retained, RetentionReason, SegmentEvent, Stats, SyncFailed,
    Synced, TailCut, TopicStats,
};
pub use partition::{
    Aborted, Ack, Appended, Batches, FileRange, Isolation, Offsets, Partition, ReadOptions, Reader, Records,
    RecoveryMode, Segment,
};
pub use record::{Header, Headers, Record, RecordRef, TopicRecord};
pub use segment::ReadPath;
pub use types::{InvalidTopicId, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp, TopicId, TopicPartition};
