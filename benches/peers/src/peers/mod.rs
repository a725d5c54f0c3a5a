//! The crates a user would pick instead, each as its documentation says to use it for this.

mod commitlog;
mod fjall;
mod okaywal;
mod raft_engine;
mod redb;
mod simple_wal;
mod sqlite;
mod walrus;

pub(crate) use commitlog::Commitlog;
pub(crate) use fjall::Fjall;
pub(crate) use okaywal::Okaywal;
pub(crate) use raft_engine::RaftEngine;
pub(crate) use redb::Redb;
pub(crate) use simple_wal::SimpleWal;
pub(crate) use sqlite::Sqlite;
pub(crate) use walrus::{WalrusRust, set_root};

/// Where a key-value store keeps record `at` of a log.
fn key(log: usize, at: u64) -> u64 {
    (log as u64) << 40 | at
}

/// How many databases to open where each has one writer at a time.
fn database_count(log_count: usize) -> usize {
    if log_count <= 8 { log_count } else { 1 }
}
