//! One segment of a partition.

pub(crate) mod offset_index;
pub(crate) mod time_index;
pub(crate) mod txn_index;
