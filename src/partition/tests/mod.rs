//! What a partition does as a whole, on a simulated disk.

mod appending;
mod found;
mod reading;
mod recovery;
