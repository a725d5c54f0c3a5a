//! redb: a key-value store; the key is log and number, the transaction an append. One writer at a time.
//!
//! Unsynced, its commits stay in the process: a kill loses them.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, TableDefinition, WriteTransaction};

use super::key;
use crate::suite::system::{Lookup, Setup, System, Writer};

const RECORDS: TableDefinition<u64, &[u8]> = TableDefinition::new("records");

pub(crate) struct Redb {
    /// One for each log if they are few: they have writers of their own.
    databases: Vec<Arc<Database>>,
    next: Vec<Arc<AtomicU64>>,
    table: Option<ReadOnlyTable<u64, &'static [u8]>>,
    is_synced: bool,
}

impl Redb {
    fn database(&self, log: usize) -> &Arc<Database> {
        &self.databases[log % self.databases.len()]
    }

    fn table(&self, log: usize) -> io::Result<ReadOnlyTable<u64, &'static [u8]>> {
        let transaction = self.database(log).begin_read().map_err(io::Error::other)?;
        transaction.open_table(RECORDS).map_err(io::Error::other)
    }
}

impl System for Redb {
    type Writer = RedbWriter;

    fn open(dir: &Path, setup: Setup) -> io::Result<Self> {
        let count = super::database_count(setup.log_count);
        let open = |at: usize| Database::create(dir.join(format!("{at}.redb"))).map(Arc::new);
        let databases = (0..count).map(open).collect::<Result<_, _>>().map_err(io::Error::other)?;
        let next = (0..setup.log_count).map(|_| Arc::default()).collect();
        Ok(Self { databases, next, table: None, is_synced: setup.is_synced })
    }

    fn writer(&self, log: usize) -> io::Result<RedbWriter> {
        let (database, next) = (Arc::clone(self.database(log)), Arc::clone(&self.next[log]));
        Ok(RedbWriter { database, log, next, is_synced: self.is_synced })
    }

    fn scan(&self, log: usize, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let table = self.table(log)?;
        for record in table.range(key(log, 0)..key(log + 1, 0)).map_err(io::Error::other)? {
            each(record.map_err(io::Error::other)?.1.value());
        }
        Ok(())
    }
}

impl Lookup for Redb {
    fn lookup(&mut self, at: u64, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        if self.table.is_none() {
            self.table = Some(self.table(0)?);
        }
        let table = self.table.as_ref().ok_or_else(|| io::Error::other("not open"))?;
        let value = table.get(key(0, at)).map_err(io::Error::other)?;
        value.iter().for_each(|value| each(value.value()));
        Ok(())
    }
}

pub(crate) struct RedbWriter {
    database: Arc<Database>,
    log: usize,
    next: Arc<AtomicU64>,
    is_synced: bool,
}

impl RedbWriter {
    fn begin(&self) -> io::Result<WriteTransaction> {
        let mut transaction = self.database.begin_write().map_err(io::Error::other)?;
        let durability = if self.is_synced { Durability::Immediate } else { Durability::None };
        transaction.set_durability(durability).map_err(io::Error::other)?;
        Ok(transaction)
    }
}

impl Writer for RedbWriter {
    fn append(&mut self, value: &[u8]) -> io::Result<()> {
        self.append_all(&[value])
    }

    fn append_all(&mut self, values: &[&[u8]]) -> io::Result<()> {
        let transaction = self.begin()?;
        {
            let mut table = transaction.open_table(RECORDS).map_err(io::Error::other)?;
            for value in values {
                let key = key(self.log, self.next.fetch_add(1, Ordering::Relaxed));
                table.insert(key, *value).map_err(io::Error::other)?;
            }
        }
        transaction.commit().map_err(io::Error::other)
    }

    /// What was not durable becomes so with the next commit that is.
    fn finish(&mut self) -> io::Result<()> {
        self.database.begin_write().map_err(io::Error::other)?.commit().map_err(io::Error::other)
    }
}
