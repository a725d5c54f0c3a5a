//! fjall: a key-value store; the key is log and number. Unsynced, each insert reaches the page cache.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::key;
use crate::suite::system::{Lookup, Setup, System, Writer};

pub(crate) struct Fjall {
    database: Database,
    records: Keyspace,
    /// The number of the next record of each log. Nothing is appended to what was opened again.
    next: Vec<Arc<AtomicU64>>,
    is_synced: bool,
}

impl System for Fjall {
    type Writer = FjallWriter;

    fn open(dir: &Path, setup: Setup) -> io::Result<Self> {
        let database = Database::builder(dir).open().map_err(io::Error::other)?;
        let records = database.keyspace("records", KeyspaceCreateOptions::default).map_err(io::Error::other)?;
        let next = (0..setup.log_count).map(|_| Arc::default()).collect();
        Ok(Self { database, records, next, is_synced: setup.is_synced })
    }

    fn writer(&self, log: usize) -> io::Result<FjallWriter> {
        Ok(FjallWriter {
            database: self.database.clone(),
            records: self.records.clone(),
            log,
            next: Arc::clone(&self.next[log]),
            is_synced: self.is_synced,
        })
    }

    fn scan(&self, log: usize, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        for record in self.records.range(key(log, 0).to_be_bytes()..key(log + 1, 0).to_be_bytes()) {
            each(&record.value().map_err(io::Error::other)?);
        }
        Ok(())
    }
}

impl Lookup for Fjall {
    fn lookup(&mut self, at: u64, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let value = self.records.get(key(0, at).to_be_bytes()).map_err(io::Error::other)?;
        value.iter().for_each(|value| each(value));
        Ok(())
    }
}

pub(crate) struct FjallWriter {
    database: Database,
    records: Keyspace,
    log: usize,
    next: Arc<AtomicU64>,
    is_synced: bool,
}

impl FjallWriter {
    fn next_key(&self) -> [u8; 8] {
        key(self.log, self.next.fetch_add(1, Ordering::Relaxed)).to_be_bytes()
    }

    fn sync(&self) -> io::Result<()> {
        if self.is_synced { self.database.persist(PersistMode::SyncData).map_err(io::Error::other) } else { Ok(()) }
    }
}

impl Writer for FjallWriter {
    fn append(&mut self, value: &[u8]) -> io::Result<()> {
        self.records.insert(self.next_key(), value).map_err(io::Error::other)?;
        self.sync()
    }

    fn append_all(&mut self, values: &[&[u8]]) -> io::Result<()> {
        let mut batch = self.database.batch();
        values.iter().for_each(|value| batch.insert(&self.records, self.next_key(), *value));
        batch.commit().map_err(io::Error::other)?;
        self.sync()
    }
}
