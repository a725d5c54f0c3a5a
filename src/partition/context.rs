//! What the partitions of one log share: the disk, the clock, and what is known of the machine they run on.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::notes::Notes;
use crate::clock::{Clock, Entropy};
use crate::disk::replace::sync_parent;
use crate::disk::{BootId, Disk};
use crate::error::{Error, Result};
use crate::observe::Observer;
use crate::probe;
use crate::segment::active::Origin;
use crate::segment::files::Files;

/// What to do with damage that a crash does not explain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RecoveryMode {
    /// Report it as [`Error::Corrupt`], change nothing.
    #[default]
    Report,
    /// Keep what comes before it, put what follows aside in files named `*.cut`, and go on.
    Salvage,
}

/// The surroundings of all partitions of a log.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) files: Arc<Files>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) boot: Option<BootId>,
    pub(crate) notes: Notes,
    pub(crate) recovery: RecoveryMode,
    pub(crate) read_only: bool,
    pub(crate) clean_mark: CleanMark,
    pub(crate) space: Space,
    pub(crate) doorbell: Doorbell,
    /// The log is closing: no append begins any more.
    pub(crate) closing: AtomicBool,
}

impl Context {
    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.files.disk
    }

    pub(crate) fn origin(&self) -> Origin {
        Origin { now: self.clock.now(), boot: self.boot }
    }

    /// Refuses if the log is read-only; else sees to it that no file says the log was closed in order.
    pub(crate) fn before_change(&self) -> Result<()> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        self.clean_mark.erase(self.disk())
    }
}

/// The file that says the log was closed in order: gone, durably, before anything changes.
#[derive(Debug)]
pub(crate) struct CleanMark {
    path: PathBuf,
    is_gone: AtomicBool,
    erasing: Mutex<()>,
}

impl CleanMark {
    pub(crate) fn new(path: PathBuf, is_there: bool) -> Self {
        Self { path, is_gone: AtomicBool::new(!is_there), erasing: Mutex::new(()) }
    }

    /// Whether nothing was changed since a close that left the mark.
    pub(crate) fn is_there(&self) -> bool {
        !self.is_gone.load(Ordering::Acquire)
    }

    fn erase(&self, disk: &dyn Disk) -> Result<()> {
        if self.is_gone.load(Ordering::Acquire) {
            return Ok(());
        }
        let _erasing = self.erasing.lock();
        if self.is_gone.load(Ordering::Acquire) {
            return Ok(());
        }
        if !probe::planted("log.clean_mark_left") {
            match disk.remove_file(&self.path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", &*self.path)(error));
                }
                _ => sync_parent(disk, &self.path)?,
            }
        }
        self.is_gone.store(true, Ordering::Release);
        Ok(())
    }
}

/// How much space there is, and whether it is too little to take more.
#[derive(Debug)]
pub(crate) struct Space {
    dir: PathBuf,
    /// Bytes to leave free; 0: no limit.
    limit: u64,
    is_low: AtomicBool,
    written_since: AtomicU64,
}

impl Space {
    pub(crate) fn new(dir: PathBuf, limit: u64) -> Self {
        // The first append looks for itself.
        Self { dir, limit, is_low: AtomicBool::new(false), written_since: AtomicU64::new(LOOK_EVERY) }
    }

    /// Refuses an append of `len` bytes if less than the limit is free. Looks every 16 MiB, and at each call while
    /// space is low, so that appends go on as soon as some is freed.
    pub(crate) fn admit(&self, disk: &dyn Disk, len: u64) -> Result<()> {
        if self.limit == 0 {
            return Ok(());
        }
        let written = self.written_since.fetch_add(len, Ordering::Relaxed) + len;
        if written < LOOK_EVERY && !self.is_low.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.look(disk)
    }

    fn look(&self, disk: &dyn Disk) -> Result<()> {
        self.written_since.store(0, Ordering::Relaxed);
        let free = disk.volume(&self.dir).map_err(Error::io("describe", &*self.dir))?.free_bytes;
        let is_low = free < self.limit;
        self.is_low.store(is_low, Ordering::Relaxed);
        if is_low {
            probe::reached("space.low");
            return Err(Error::LowSpace { free, limit: self.limit });
        }
        Ok(())
    }
}

const LOOK_EVERY: u64 = 16 << 20;

/// Wakes whoever does the background work: somebody waits for something only that can bring about.
#[derive(Debug, Default)]
pub(crate) struct Doorbell {
    rung: Mutex<bool>,
    wake: Condvar,
}

impl Doorbell {
    pub(crate) fn ring(&self) {
        *self.rung.lock() = true;
        self.wake.notify_one();
    }

    /// Waits until the bell was rung since the last wait ended, at most for `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) {
        let mut rung = self.rung.lock();
        if !*rung {
            self.wake.wait_for(&mut rung, timeout);
        }
        *rung = false;
    }
}
