//! What applications use in the place of partitions: producers, tables of the latest values, topics of typed values.

mod producer;
mod table;
mod transaction;
pub mod typed;

pub use producer::{Producer, ProducerBuilder};
pub use table::Table;
pub use transaction::{Transaction, TransactionalProducer};
