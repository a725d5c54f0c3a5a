//! Compaction: of each key the latest record stays, at its offset; what came before goes.
//!
//! ```text
//! choice      what is dirty, which segments become one                          values
//! offset_map  the latest offset of each key, in memory of a fixed size          values
//! filter      which records and batches stay                                    values
//! clean       a batch through the map, and through the filter                   bytes
//! round       one pass over a partition, in short steps                         reads, and writes `.cleaned` files
//! swap        one segment in the place of several, whatever fails               renames and removes
//! ```
//!
//! A round maps the dirty records, as many keys as there is memory for, then rewrites every segment up to there, one
//! group after the other. The part that takes time holds no lock that an append or a read needs. Between two steps
//! anything may happen to the partition: a round that finds a source of its gone is given up.
//!
//! Who calls holds the lock of maintenance: retention, finishing of segments and deletion of topics wait for a step.

mod choice;
mod clean;
mod filter;
mod offset_map;
mod round;
pub(crate) mod swap;

#[cfg(any(test, fuzzing))]
pub(in crate::partition) mod reference;

pub(crate) use self::round::{Budget, Chosen, Outcome, Round, Step};
