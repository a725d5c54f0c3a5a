//! What applications use in the place of partitions: producers, consumers, queues, tables of the latest values, topics of typed
//! values.

mod consumer;
mod idempotent;
mod producer;
mod queue;
mod signal;
mod table;
mod transaction;
pub mod typed;

pub use consumer::{
    AutoOffsetReset, Consumed, Consumer, ConsumerBuilder, ConsumerIter, ConsumerWaker, MergedByTime, Polled,
    PolledIter, RebalanceListener, Reset,
};
pub use idempotent::IdempotentProducer;
pub use producer::{Delivered, Producer, ProducerBuilder, Sent};
pub use queue::{ListedQueue, Queue, QueueBuilder, QueueProgress, Task};
pub use table::Table;
pub use transaction::{Transaction, TransactionalProducer};
