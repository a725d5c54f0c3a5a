//! Kafka's log as a library.

#![deny(unsafe_code)]

pub mod disk;

mod checksum;
mod clock;
mod error;
mod partition;
mod probe;
mod segment;
mod sys;
mod types;
mod wire;

pub use clock::{Clock, Entropy, SystemClock, SystemEntropy};
pub use error::{Corruption, Error, ErrorKind, Result};
pub use types::{InvalidTopicId, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp, TopicId, TopicPartition};

#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub use partition::fuzzing as partition_fuzzing;
