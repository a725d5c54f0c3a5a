//! Kafka's log as a library.

#![deny(unsafe_code)]

pub mod disk;
#[cfg(feature = "sim")]
#[doc(hidden)]
pub mod sim;

mod checksum;
mod clock;
mod error;
mod probe;
mod sys;
mod types;
mod wire;

pub use clock::{Clock, Entropy, SystemClock, SystemEntropy};
pub use error::{Corruption, Error, ErrorKind, Result};
pub use types::{InvalidTopicId, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp, TopicId, TopicPartition};
