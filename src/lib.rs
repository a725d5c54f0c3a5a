//! Kafka's log as a library: topics, partitions, segments, offsets and retention, in your own process and in Kafka's
//! own bytes on disk. No server, no network, no async runtime.
//!
//! A record goes to a topic, by its key to one of the topic's partitions, and gets the next offset there. It stays
//! until retention removes it, and any number of readers read it, each at a place of its own. What is acknowledged
//! survives: the death of the process as soon as [`append`](Topic::append) returns, a power cut once you waited for
//! [`Ack::Synced`].
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! use std::time::Duration;
//! use chiplog::{Ack, Log, Offset, Record, TopicConfig};
//!
//! // Open: creates the directory, locks it, recovers what a crash left.
//! let log = Log::open(dir.path())?;
//! let orders = log.create_topic("orders", TopicConfig::default().partitions(3))?;
//!
//! // Append: the key chooses the partition, as in Kafka. The offset is known at once.
//! let appended = orders.append(Record::new("paid").key("o-17"))?;
//! assert_eq!(appended.offset(), Offset(0));
//! appended.wait(Ack::Synced)?; // from here on a power cut does not take it
//!
//! // Read: records borrow the stored bytes.
//! let partition = orders.partition(appended.partition())?;
//! let records = partition.read(Offset::ZERO)?;
//! let paid = records.iter().next().unwrap();
//! assert_eq!((paid.key, paid.value), (Some(&b"o-17"[..]), Some(&b"paid"[..])));
//!
//! // Tail: wait for what comes next, in another thread here.
//! let mut reader = partition.reader();
//! let next = records.next_offset();
//! let tail = std::thread::spawn(move || {
//!     assert!(reader.partition().wait_readable(next, Duration::from_secs(60))?);
//!     let records = reader.read(next)?;
//!     Ok::<_, chiplog::Error>(records.iter().next().unwrap().value.unwrap().to_vec())
//! });
//! orders.append(Record::new("sent").key("o-17"))?;
//! assert_eq!(tail.join().unwrap()?, b"sent");
//!
//! // Commit: a group remembers where to go on.
//! let billing = log.group("billing")?;
//! billing.commit("orders", partition.number(), next)?;
//!
//! // Close and reopen: everything is there.
//! let number = partition.number();
//! log.close()?;
//! drop((orders, partition, billing));
//! let log = Log::open(dir.path())?;
//! let from = log.group("billing")?.committed("orders", number)?.unwrap().offset;
//! let records = log.topic("orders")?.partition(number)?.read(from)?;
//! assert_eq!(records.iter().next().unwrap().value, Some(&b"sent"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A topic keeps its records for 7 days by default, by their own timestamps; [`TopicConfig::retention_time`] sets another
//! time, or `None` to keep them. What a group committed is forgotten after 7 days, too: [`GroupConfig::offset_retention`].
//!
//! # What is promised
//!
//! | After `append` returned, and | the process is killed | power is lost |
//! |---|---|---|
//! | nothing more ([`Ack::Written`]) | kept | may be lost; what remains of each partition is a prefix |
//! | [`Ack::Synced`] was waited for, or the topic has [`Durability::Each`] | kept | kept |
//! | [`Ack::Replicated`] was waited for, on several nodes | kept | see [`guide::replication`] |
//!
//! If the process is killed and then, before the log is opened again, the machine restarted or the directory copied, all
//! is kept but what was appended within the last second ([`LogBuilder::linger`]) and not synced.
//!
//! Partitions are synced each on its own: one may keep a record that came after one which another lost. Every batch is
//! verified before it is read. Damage is an error that names file and position. [`guide::durability`] has the rest.
//!
//! # Where to look
//!
//! | To | See |
//! |---|---|
//! | open with settings | [`Log::builder`], [`LogBuilder`] |
//! | set up topics | [`Log::topic_with`], [`Log::create_topic`], [`TopicConfig`] |
//! | write | [`Topic::append`], [`Partition::append_all`], [`Partition::append_if_end`], [`Partition::append_raw`] |
//! | write much, in batches | [`Log::producer`], [`Producer`], [`Partitioning`] |
//! | write once, write all or nothing | [`IdempotentProducer`], [`TransactionalProducer`] |
//! | read | [`Partition::read`], [`Partition::fetch`], [`Partition::read_last`], [`Partition::offset_at`] |
//! | follow | [`Partition::reader`], [`Partition::wait_readable`], [`Partition::readable`] |
//! | read in a group, whose members share the partitions | [`Log::consumer`], [`Consumer`] |
//! | share single records among workers | [`Log::queue`], [`Queue`], [`Task`] |
//! | remember places | [`Log::group`], [`Group`] |
//! | see how far behind groups are, move their places | [`Group::lag`], [`Group::plan_reset`], [`Log::list_groups`] |
//! | coordinate groups for a protocol server | [`Log::ask_coordinator`], [`group::Coordinator`] |
//! | keep the latest of each key | [`Cleanup::Compact`], [`Topic::table`], [`Topic::erase`] |
//! | remove | [`TopicConfig::retention_time`], [`Log::delete_before`], [`Log::delete_topic`] |
//! | read and write values | [`Topic::typed`], [`typed`] |
//! | hold it on several nodes | [`LogBuilder::replicated`], [`Replicator`], [`Log::assume`], [`Log::receive`], [`replica`] |
//! | back up | [`Log::backup`] |
//! | watch | [`Log::stats`], [`Observer`], [`Log::damaged`] |
//! | judge what is on disk | [`Log::verify`], [`Finding`] |
//! | handle errors | [`Error::kind`] |
//! | divide partitions among the members of a group | [`group::assign`], [`Assignor`] |
//! | encode and decode batches | [`record`] |
//! | replace the disk | [`disk`] |
//! | keep the log of a raft node | the module `openraft`, under the feature of that name |
//! | do the background work yourself | [`Background::Caller`], [`Log::maintain`], [`Log::wait_due`] |
//! | know how it works | [`guide`] |
//!
//! # Features
//!
//! | Feature | Adds |
//! |---|---|
//! | `lz4` (default) | lz4 batches |
//! | `snappy`, `gzip`, `zstd` | batches of these codecs; `zstd` compiles C |
//! | `json`, `avro`, `protobuf` | codecs of [typed] topics |
//! | `futures` | [`Consumer`] as a `Stream`, on any runtime |
//! | `openraft` | the log storage of openraft 0.9 |
//! | `sim` | the simulated disk and the explorers that the crate is tested with; unstable |
//! | `planted-bugs` | our own deliberate mistakes, for the explorers to find; never for use |
//!
//! Without its feature, a codec's batches are stored and fetched as they are; reading their records is
//! [`Error::Unsupported`]. A feature changes no format.

#![deny(unsafe_code)]
#![cfg_attr(loom, allow(dead_code, reason = "models need a part of it"))]
#![cfg_attr(fuzzing, allow(dead_code, unused_imports, reason = "the explorers, which use it, are left out"))]

pub mod disk;
pub mod group;
pub mod guide;
#[cfg(feature = "openraft")]
pub mod openraft;
pub mod record;
pub mod replica;
#[cfg(feature = "sim")]
#[doc(hidden)]
pub mod sim;

mod checksum;
mod client;
mod clock;
mod config;
mod error;
mod log;
mod observe;
mod partition;
mod probe;
mod segment;
mod sys;
mod turn;
mod txn;
mod types;
mod watermark;
mod wire;

#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub use partition::fuzzing as partition_fuzzing;

pub use client::typed;
pub use client::{
    AutoOffsetReset, Consumed, Consumer, ConsumerBuilder, ConsumerIter, ConsumerWaker, Delivered, IdempotentProducer,
    ListedQueue, MergedByTime, Polled, PolledIter, Producer, ProducerBuilder, Queue, QueueBuilder, QueueProgress,
    RebalanceListener, Reset, Sent, Table, Task, Transaction, TransactionalProducer,
};
pub use clock::{Clock, Entropy, SystemClock, SystemEntropy};
pub use config::{Cleanup, Compression, Durability, GroupConfig, TimestampType, TopicConfig};
pub use error::{Corruption, Error, ErrorKind, Result};
pub use group::assign::Assignor;
pub use group::{Committed, GroupOffset};
pub use log::{
    Adoption, BackedUp, Background, Backup, Damage, Erased, Group, GroupLag, InvalidVerifyPosition, Log, LogBuilder,
    Maintained, OffsetMove, OffsetTarget, Partitioner, Partitioning, ReplicationState, Replicator, Reply, ResetPlan,
    Staging, Topic, Unplaced, VerifyOptions, VerifyPosition, VerifyProgress, VerifyReport,
};
pub use observe::{
    BatchMended, Compacted, DamageCut, Latencies, Observer, PartitionStats, Recovery, Retained, RetentionReason,
    SegmentEvent, StagingStats, Stats, SyncFailed, Synced, TailCut, TopicStats,
};
pub use partition::verify::{Advice, Finding, FindingKind};
pub use partition::{
    Aborted, Ack, Appended, Batches, FileRange, Isolation, Offsets, Partition, ProducerState, ReadOptions, Reader,
    RecordBatch, Records, RecordsIter, RecoveryMode, Segment, TornTail,
};
pub use record::{Header, Headers, Record, RecordRef, TopicRecord};
pub use segment::ReadPath;
pub use txn::{InvalidTicket, Ticket};
pub use types::{
    InvalidTopicId, LeaderEpoch, NodeId, Offset, ProducerEpoch, ProducerId, Timestamp, TopicId, TopicPartition,
};
