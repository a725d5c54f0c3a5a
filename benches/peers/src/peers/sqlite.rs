//! SQLite, by rusqlite, with its write-ahead log: the key is log and number, the transaction an append. One writer at a
//! time. Unsynced (`synchronous = off`), each transaction reaches the page cache.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::{Connection, params};

use super::{database_count, key};
use crate::suite::system::{Lookup, Setup, System, Writer};

pub(crate) struct Sqlite {
    dir: PathBuf,
    setup: Setup,
    next: Vec<Arc<AtomicU64>>,
    reader: Option<Connection>,
}

impl Sqlite {
    fn connect(&self, log: usize) -> io::Result<Connection> {
        // One database for each log if they are few: they have writers of their own.
        let at = log % database_count(self.setup.log_count);
        let connection = Connection::open(self.dir.join(format!("{at}.sqlite"))).map_err(io::Error::other)?;
        let synchronous = if self.setup.is_synced { "full" } else { "off" };
        let settings = format!(
            "pragma journal_mode = wal; pragma synchronous = {synchronous};
             create table if not exists records (at integer primary key, value blob not null);"
        );
        connection.busy_timeout(Duration::from_secs(60)).map_err(io::Error::other)?;
        connection.execute_batch(&settings).map_err(io::Error::other)?;
        Ok(connection)
    }
}

impl System for Sqlite {
    type Writer = SqliteWriter;

    fn open(dir: &Path, setup: Setup) -> io::Result<Self> {
        let next = (0..setup.log_count).map(|_| Arc::default()).collect();
        Ok(Self { dir: dir.to_owned(), setup, next, reader: None })
    }

    fn writer(&self, log: usize) -> io::Result<SqliteWriter> {
        Ok(SqliteWriter { connection: self.connect(log)?, log, next: Arc::clone(&self.next[log]) })
    }

    fn scan(&self, log: usize, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let connection = self.connect(log)?;
        let query = "select value from records where at >= ?1 and at < ?2 order by at";
        let mut statement = connection.prepare(query).map_err(io::Error::other)?;
        let bounds = params![key(log, 0) as i64, key(log + 1, 0) as i64];
        let mut rows = statement.query(bounds).map_err(io::Error::other)?;
        while let Some(row) = rows.next().map_err(io::Error::other)? {
            each(row.get_ref(0).map_err(io::Error::other)?.as_blob().map_err(io::Error::other)?);
        }
        Ok(())
    }
}

impl Lookup for Sqlite {
    fn lookup(&mut self, at: u64, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        if self.reader.is_none() {
            self.reader = Some(self.connect(0)?);
        }
        let reader = self.reader.as_ref().ok_or_else(|| io::Error::other("not open"))?;
        let query = "select value from records where at = ?1";
        let mut statement = reader.prepare_cached(query).map_err(io::Error::other)?;
        let found = statement.query_row([key(0, at) as i64], |row| {
            each(row.get_ref(0)?.as_blob()?);
            Ok(())
        });
        found.map_err(io::Error::other)
    }
}

pub(crate) struct SqliteWriter {
    connection: Connection,
    log: usize,
    next: Arc<AtomicU64>,
}

impl SqliteWriter {
    fn insert(&self, value: &[u8]) -> rusqlite::Result<()> {
        let key = key(self.log, self.next.fetch_add(1, Ordering::Relaxed)) as i64;
        let mut statement = self.connection.prepare_cached("insert into records values (?1, ?2)")?;
        statement.execute(params![key, value]).map(|_| ())
    }
}

impl Writer for SqliteWriter {
    fn append(&mut self, value: &[u8]) -> io::Result<()> {
        self.insert(value).map_err(io::Error::other)
    }

    fn append_all(&mut self, values: &[&[u8]]) -> io::Result<()> {
        let transaction = self.connection.unchecked_transaction().map_err(io::Error::other)?;
        values.iter().try_for_each(|value| self.insert(value)).map_err(io::Error::other)?;
        transaction.commit().map_err(io::Error::other)
    }
}
