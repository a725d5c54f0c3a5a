//! A world that can be made to fail, and the explorers that make it. Unstable: for testing this crate.
//!
//! ```text
//! explore    runs a subject through crashes, kills, errors and rot; shrinks what fails
//! log        the log itself, with a model of what it must hold
//! toy        the smallest log worth crashing, with mistakes to find
//! disk       SimDisk: the seam in memory     machine   one run on it     image   what outlives a run
//! ```

mod choice;
mod clock;
// To instrument what looks for mistakes by itself takes long, and finds none.
#[cfg(not(any(loom, fuzzing)))]
pub mod cluster;
mod contents;
mod disk;
#[cfg(not(fuzzing))]
pub mod explore;
mod fault;
mod file;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod image;
#[cfg(not(fuzzing))]
pub mod log;
mod machine;
mod ranges;
mod rng;
mod rot;
#[cfg(test)]
mod tests;
#[cfg(not(fuzzing))]
pub mod toy;
mod trace;
mod tree;

pub use clock::{SimClock, SimEntropy};
pub use disk::SimDisk;
pub use fault::{Errno, Fault, Kind, Times};
pub use image::{DiskOptions, Image};
pub use machine::{Audit, Moment, Record};
pub use rng::{Rng, mix};
pub use rot::Rot;
pub(crate) use trace::digest;
