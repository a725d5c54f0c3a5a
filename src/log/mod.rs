//! The facade and its drivers.

mod catalog;
mod names;
mod partitioner;
