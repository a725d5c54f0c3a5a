//! walrus-rust: a topic for each log, by descriptors. It reads forward only, so it has no place in random reads.
//!
//! It keeps its files in a directory that the environment names, below it in one for each key: see [`set_root`].

use std::env;
use std::io;
use std::path::Path;
use std::sync::Arc;

use walrus_rust::{FsyncSchedule, ReadConsistency, Walrus, enable_fd_backend};

use crate::suite::system::{Setup, System, Writer};

/// Tells it the directory that contains those of the contenders. Call it before there is a second thread.
pub(crate) fn set_root(dir: &Path) {
    // SAFETY: `main` calls this first thing: there is no other thread that could read the environment meanwhile.
    unsafe {
        env::set_var("WALRUS_DATA_DIR", dir);
        env::set_var("WALRUS_QUIET", "1");
    }
}

pub(crate) struct WalrusRust(Arc<Walrus>);

impl System for WalrusRust {
    type Writer = WalrusWriter;

    fn open(dir: &Path, setup: Setup) -> io::Result<Self> {
        enable_fd_backend();
        let key = dir.file_name().and_then(|name| name.to_str()).ok_or_else(|| io::Error::other("no name"))?;
        let schedule = if setup.is_synced { FsyncSchedule::SyncEach } else { FsyncSchedule::NoFsync };
        // Where its readers are is not written down: each scan begins at the start.
        let places = ReadConsistency::AtLeastOnce { persist_every: u32::MAX };
        let walrus = Walrus::with_consistency_and_schedule_for_key(key, places, schedule)?;
        Ok(Self(Arc::new(walrus)))
    }

    fn writer(&self, log: usize) -> io::Result<WalrusWriter> {
        Ok(WalrusWriter { walrus: Arc::clone(&self.0), topic: topic(log) })
    }

    fn scan(&self, log: usize, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let topic = topic(log);
        loop {
            let entries = self.0.batch_read_for_topic(&topic, 1 << 20, true)?;
            if entries.is_empty() {
                return Ok(());
            }
            entries.iter().for_each(|entry| each(&entry.data));
        }
    }
}

fn topic(log: usize) -> String {
    format!("log-{log}")
}

pub(crate) struct WalrusWriter {
    walrus: Arc<Walrus>,
    topic: String,
}

impl Writer for WalrusWriter {
    fn append(&mut self, value: &[u8]) -> io::Result<()> {
        self.walrus.append_for_topic(&self.topic, value)
    }

    fn append_all(&mut self, values: &[&[u8]]) -> io::Result<()> {
        self.walrus.batch_append_for_topic(&self.topic, values)
    }
}
