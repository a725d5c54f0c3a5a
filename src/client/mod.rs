//! Producers: what writes to a log in its own name.

mod producer;
mod transaction;

pub use producer::{Producer, ProducerBuilder};
pub use transaction::{Transaction, TransactionalProducer};
