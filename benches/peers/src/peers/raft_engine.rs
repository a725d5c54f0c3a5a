//! raft-engine: a log for each group. Writers of one log would have to agree on numbers, so each has a group of its
//! own, and they share what it shares: the file, the writes and the syncs.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

use crate::suite::system::{Lookup, Setup, System, Writer};

pub(crate) struct RaftEngine {
    engine: Arc<Engine>,
    /// How many writers each log had.
    writers: Vec<AtomicU64>,
    is_synced: bool,
}

/// Entries are messages that know their number: it goes before the value.
struct Numbered;

impl MessageExt for Numbered {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        entry.value.first_chunk().map_or(0, |number| u64::from_le_bytes(*number))
    }
}

fn entry(number: u64, value: &[u8]) -> BytesValue {
    let mut entry = BytesValue::default();
    entry.value.reserve(8 + value.len());
    entry.value.extend_from_slice(&number.to_le_bytes());
    entry.value.extend_from_slice(value);
    entry
}

fn value(entry: &BytesValue) -> &[u8] {
    entry.value.get(8..).unwrap_or_default()
}

/// Of a writer of a log; 0 is not for use.
fn group(log: usize, writer: u64) -> u64 {
    (log as u64) << 20 | (writer + 1)
}

impl System for RaftEngine {
    type Writer = RaftWriter;

    fn open(dir: &Path, setup: Setup) -> io::Result<Self> {
        let dir = dir.to_str().ok_or_else(|| io::Error::other("no name"))?.to_owned();
        // Like the others it stores what it is given.
        let config = Config { dir, batch_compression_threshold: ReadableSize(0), ..Config::default() };
        let engine = Arc::new(Engine::open(config).map_err(io::Error::other)?);
        let writers = (0..setup.log_count).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { engine, writers, is_synced: setup.is_synced })
    }

    fn writer(&self, log: usize) -> io::Result<RaftWriter> {
        let group = group(log, self.writers[log].fetch_add(1, Ordering::Relaxed));
        let batch = LogBatch::default();
        Ok(RaftWriter { engine: Arc::clone(&self.engine), group, next: 1, batch, is_synced: self.is_synced })
    }

    fn scan(&self, log: usize, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let groups = (0..).map(|writer| group(log, writer));
        for (group, last) in groups.map_while(|group| Some((group, self.engine.last_index(group)?))) {
            let mut at = 1;
            while at <= last {
                let mut entries = Vec::new();
                let fetched =
                    self.engine.fetch_entries_to::<Numbered>(group, at, last + 1, Some(1 << 20), &mut entries);
                at += fetched.map_err(io::Error::other)? as u64;
                entries.iter().for_each(|entry| each(value(entry)));
            }
        }
        Ok(())
    }
}

impl Lookup for RaftEngine {
    fn lookup(&mut self, at: u64, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let entry = self.engine.get_entry::<Numbered>(group(0, 0), at + 1).map_err(io::Error::other)?;
        entry.iter().for_each(|entry| each(value(entry)));
        Ok(())
    }
}

pub(crate) struct RaftWriter {
    engine: Arc<Engine>,
    group: u64,
    next: u64,
    batch: LogBatch,
    is_synced: bool,
}

impl Writer for RaftWriter {
    fn append(&mut self, value: &[u8]) -> io::Result<()> {
        self.append_all(&[value])
    }

    fn append_all(&mut self, values: &[&[u8]]) -> io::Result<()> {
        let entries: Vec<_> = (self.next..).zip(values).map(|(number, value)| entry(number, value)).collect();
        self.next += entries.len() as u64;
        self.batch.add_entries::<Numbered>(self.group, &entries).map_err(io::Error::other)?;
        self.engine.write(&mut self.batch, self.is_synced).map(|_| ()).map_err(io::Error::other)
    }
}
