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
use crate::observe::{Observer, tell};
use crate::probe;
use crate::segment::active::Origin;
use crate::segment::files::Files;
use crate::segment::pool::Pool;

/// What to do with damage that a crash does not explain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RecoveryMode {
    /// Report it as [`Error::Corrupt`], change nothing.
    #[default]
    Report,
    /// Keep every batch that verifies, put the rest aside in files named `*.cut`, and go on. The offset and the leader epoch of
    /// a batch are under no checksum: if one is wrong and the batches around it say what is right, it is set right; a
    /// batch whose offset nothing tells, where others are missing, is put aside, too. Where records are lost in
    /// the middle of a partition, their offsets are missing, and readers pass over them. All segments are read for it. A
    /// log that is [read-only](crate::LogBuilder::read_only) ends at the first damage instead.
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
    pub(crate) pool: Pool,
    /// How long a staged record waits at most, if maintenance comes by.
    pub(crate) linger: Duration,
    /// How long a producer is remembered that writes nothing.
    pub(crate) producer_expiry: Duration,
    pub(crate) recovery: RecoveryMode,
    pub(crate) read_only: bool,
    /// Whether other nodes hold the partitions, too: then who leads one is told, and what is committed is found out.
    pub(crate) is_replicated: bool,
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

    /// Whether nothing was changed since a close that left the mark. Waits for who is erasing it: between the removal of the file
    /// and the end of that neither answer would be right.
    pub(crate) fn is_there(&self) -> bool {
        let _erasing = self.erasing.lock();
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

    /// Whether too little was free when somebody last looked.
    #[inline]
    pub(crate) fn is_low(&self) -> bool {
        self.is_low.load(Ordering::Relaxed)
    }

    /// Refuses an append of `len` bytes if less than the limit is free. Looks every 16 MiB, and at each call while
    /// space is low, so that appends go on as soon as some is freed.
    pub(crate) fn admit(&self, disk: &dyn Disk, observer: &Arc<dyn Observer>, len: u64) -> Result<()> {
        if self.limit == 0 {
            return Ok(());
        }
        let written = self.written_since.fetch_add(len, Ordering::Relaxed) + len;
        if written < LOOK_EVERY && !self.is_low.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.look(disk, observer)
    }

    /// Refuses to write so many bytes if less than the limit were free then. Looks each time.
    pub(crate) fn admit_beside(&self, disk: &dyn Disk, len: u64) -> Result<()> {
        if self.limit == 0 {
            return Ok(());
        }
        let free = disk.volume(&self.dir).map_err(Error::io("describe", &*self.dir))?.free_bytes;
        match self.limit.saturating_add(len) {
            limit if free < limit => Err(Error::LowSpace { free, limit }),
            _ => Ok(()),
        }
    }

    fn look(&self, disk: &dyn Disk, observer: &Arc<dyn Observer>) -> Result<()> {
        self.written_since.store(0, Ordering::Relaxed);
        let free = disk.volume(&self.dir).map_err(Error::io("describe", &*self.dir))?.free_bytes;
        let (limit, is_low) = (self.limit, free < self.limit);
        // Of the appends that find it changed, one tells.
        match (self.is_low.swap(is_low, Ordering::Relaxed), is_low) {
            (false, true) => tell(observer, move |observer| observer.space_low(free, limit)),
            (true, false) => tell(observer, move |observer| observer.space_recovered(free)),
            _ => {}
        }
        if is_low {
            probe::reached("space.low");
            return Err(Error::LowSpace { free, limit });
        }
        Ok(())
    }
}

const LOOK_EVERY: u64 = 16 << 20;

/// Wakes whoever does the background work: somebody waits for something only that can bring about.
#[derive(Debug, Default)]
pub(crate) struct Doorbell {
    rings: Mutex<Rings>,
    wake: Condvar,
}

/// How often it was rung.
#[derive(Debug, Clone, Copy, Default)]
struct Rings {
    all: u64,
    /// Those by which a partition grew that a follower waits for, and nothing else is due.
    light: u64,
}

impl Doorbell {
    pub(crate) fn ring(&self) {
        self.rings.lock().all += 1;
        self.wake.notify_all();
    }

    /// As [`ring`](Self::ring), only because a partition grew: maintenance need not look at all the others.
    pub(crate) fn ring_lightly(&self) {
        let mut rings = self.rings.lock();
        (rings.all, rings.light) = (rings.all + 1, rings.light + 1);
        drop(rings);
        self.wake.notify_all();
    }

    /// How often there was something due.
    pub(crate) fn heavy(&self) -> u64 {
        let Rings { all, light } = *self.rings.lock();
        all - light
    }

    /// Waits until the bell was rung more than `heard` times, at most for `timeout`. Returns how often it was rung.
    pub(crate) fn wait(&self, heard: u64, timeout: Duration) -> u64 {
        let mut rings = self.rings.lock();
        self.wake.wait_while_for(&mut rings, |rings| rings.all <= heard, timeout);
        rings.all
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use super::*;
    use crate::sim::SimDisk;

    #[derive(Debug, Default)]
    struct Notes(Mutex<Vec<String>>);

    impl Observer for Notes {
        fn space_low(&self, free_bytes: u64, limit_bytes: u64) {
            self.0.lock().push(format!("low: {} of {limit_bytes}", free_bytes < limit_bytes));
        }

        fn space_recovered(&self, free_bytes: u64) {
            self.0.lock().push(format!("recovered: {}", free_bytes > 0));
        }
    }

    #[test]
    fn an_observer_is_told_once_that_space_is_low_and_once_that_it_is_not() {
        let disk = SimDisk::new(crate::sim::DiskOptions::default());
        let notes = Arc::new(Notes::default());
        let observer: Arc<dyn Observer> = notes.clone();
        let space = Space::new("/".into(), 1 << 20);
        let admit = || space.admit(&*disk, &observer, LOOK_EVERY);
        assert!(admit().is_ok());
        disk.set_capacity(Some(1 << 10));
        assert!(matches!(admit(), Err(Error::LowSpace { .. })));
        assert!(admit().is_err());
        disk.set_capacity(None);
        assert!(admit().is_ok() && admit().is_ok());
        assert_eq!(*notes.0.lock(), ["low: true of 1048576", "recovered: true"]);
    }

    /// A verification found no file, and was told that it is there: it called the mark damaged.
    #[test]
    fn who_asks_for_the_clean_mark_waits_for_who_erases_it() {
        for _ in 0..200 {
            let mark = CleanMark::new("clean".into(), true);
            let erasing = mark.erasing.lock();
            std::thread::scope(|scope| {
                let asked = scope.spawn(|| mark.is_there());
                std::thread::yield_now();
                mark.is_gone.store(true, Ordering::Release);
                drop(erasing);
                assert!(!asked.join().is_ok_and(|is_there| is_there));
            });
        }
    }
}
