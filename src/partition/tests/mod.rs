//! What a partition does as a whole, on a simulated disk.

mod appending;
mod reading;
mod recovery;
