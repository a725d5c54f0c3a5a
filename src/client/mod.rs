//! What applications use in the place of partitions: producers, consumers, tables of the latest values, topics of typed
//! values.

mod consumer;
mod idempotent;
mod producer;
mod table;
mod transaction;
pub mod typed;

pub use consumer::{
    AutoOffsetReset, Consumed, Consumer, ConsumerBuilder, ConsumerIter, ConsumerWaker, MergedByTime, Polled,
    PolledIter, RebalanceListener, Reset,
};
pub use idempotent::IdempotentProducer;
pub use producer::{Delivered, Producer, ProducerBuilder, Sent};
pub use table::Table;
pub use transaction::{Transaction, TransactionalProducer};
