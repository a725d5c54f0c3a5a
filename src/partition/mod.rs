//! One partition.

pub(crate) mod epochs;
#[cfg(test)]
mod fixture;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
pub(crate) mod producers;
#[cfg(test)]
mod producers_model;
pub(crate) mod snapshot;
pub(crate) mod transactions;
