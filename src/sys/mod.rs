//! The only unsafe code of the crate: memory that is read while it grows.
//!
//! [`Map`] and [`Region`] are the same idea, a run of bytes with a *bound* that only rises. Below the bound nothing ever
//! changes, so any number of threads may borrow it; above it one writer is at work. An [`Arena`] is written only: what
//! was stored to it survives the process.
//!
//! ```text
//! 0                         bound                        capacity
//! |---- final, borrowable ----|---- the writer's ----------|
//! ```
//!
//! What the rest of the crate may rely on:
//! - [`Map::readable`] and [`Region::readable`] never show a byte that was not there before the bound passed it.
//! - A slice they returned stays valid, with the same bytes, as long as the map or region lives.
//!
//! What this module relies on, and who provides it:
//! - `segment` raises a bound only after the positional write below it returned, and never writes below it again.
//! - A mapped file is never shortened below the bound (`segment`, `partition::truncate`: new files instead).
//! - No other process writes: the directory is locked. A user who edits the files of a running process is outside
//!   the contract; `Log::open` says so.

#![allow(unsafe_code)]

mod arena;
mod map;
mod region;
pub(crate) mod shim;

pub use arena::Arena;
#[cfg(any(test, feature = "sim"))]
pub(crate) use arena::Stores;
pub(crate) use arena::{Flag, Slot};
pub use map::Map;
#[cfg(feature = "sim")]
pub(crate) use map::MapWriter;
pub(crate) use map::{CHUNK, prefetch};
pub(crate) use region::{Region, RegionWriter};
