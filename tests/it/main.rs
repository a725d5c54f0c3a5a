//! What the log does, through its public API, on the real file system. A module a subject.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "the helpers of tests fail as tests do")]

#[cfg(feature = "sim")]
mod adoption;
mod backup;
mod closed;
mod compaction;
mod damage;
mod futures;
mod groups;
mod handles;
mod locking;
mod many;
mod new_user;
mod observers;
mod read_only;
mod reading;
mod readme;
mod retention;
mod settings;
mod staging;
mod support;
mod threads;
mod topics;
mod transactions;
mod verify;
mod watching;
