//! What applications use in the place of partitions: producers, and tables of the latest values.

mod producer;
mod table;
mod transaction;

pub use producer::{Producer, ProducerBuilder};
pub use table::Table;
pub use transaction::{Transaction, TransactionalProducer};
