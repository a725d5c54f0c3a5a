//! The facade and its drivers.

mod catalog;
mod names;
mod partitioner;

pub(crate) use catalog::Catalog;
