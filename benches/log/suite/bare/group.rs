//! The best group sync that can be written by hand: many threads append to one log, and share the waits for the disk.
//!
//! ```text
//! join the batch -> lead, if nobody does: wait for those the last sync released, seal, write, sync, wake all
//!                -> or sleep until somebody has synced past the record, or leads no longer
//! ```
//!
//! The leader waits up to 60 us for as many threads as the last sync released: they are about to append again, and
//! without them the sync would carry half as many records. One call wakes all of them.

use std::fs::File;
use std::io;
use std::mem;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::thread::futex;

use super::batch::{HEADER_LEN, OpenBatch};
use super::walk::scan_file;
use super::{coarse_ms, log_path, open_file};
use crate::suite::system::{Setup, System, Writer};

pub(crate) struct Group {
    path: PathBuf,
    shared: Arc<Shared>,
}

struct Shared {
    joined: Mutex<Joined>,
    file: File,
    /// How many threads have joined since the last batch was taken away.
    arrived: AtomicU32,
    /// How many the last sync released.
    released: AtomicU32,
    is_led: AtomicBool,
    /// All records below this are durable.
    durable: AtomicU64,
    /// Raised when there is something new to see: what threads sleep on.
    round: AtomicU32,
}

/// The batch that takes records, and where it will go.
struct Joined {
    buffer: Vec<u8>,
    spare: Vec<u8>,
    open: OpenBatch,
    position: u64,
}

impl System for Group {
    type Writer = GroupWriter;

    fn open(dir: &Path, setup: Setup) -> io::Result<Self> {
        let path = log_path(dir, 0);
        let joined = Joined {
            buffer: vec![0; BUFFER_LEN],
            spare: vec![0; BUFFER_LEN],
            open: OpenBatch::begin(0, 0, coarse_ms()),
            position: 0,
        };
        let shared = Shared {
            joined: Mutex::new(joined),
            file: open_file(&path, setup.room)?,
            arrived: AtomicU32::new(0),
            released: AtomicU32::new(0),
            is_led: AtomicBool::new(false),
            durable: AtomicU64::new(0),
            round: AtomicU32::new(0),
        };
        Ok(Self { path, shared: Arc::new(shared) })
    }

    fn writer(&self, _: usize) -> io::Result<GroupWriter> {
        Ok(GroupWriter { shared: Arc::clone(&self.shared) })
    }

    fn scan(&self, _: usize, each: impl FnMut(&[u8])) -> io::Result<()> {
        scan_file(&self.path, each)
    }
}

pub(crate) struct GroupWriter {
    shared: Arc<Shared>,
}

impl Writer for GroupWriter {
    fn append(&mut self, value: &[u8]) -> io::Result<()> {
        let shared = &*self.shared;
        let end = shared.join(value);
        loop {
            let round = shared.round.load(Ordering::Acquire);
            if shared.durable.load(Ordering::Acquire) >= end {
                return Ok(());
            }
            if shared.is_led.swap(true, Ordering::AcqRel) {
                sleep(&shared.round, round)?;
                continue;
            }
            let led = if shared.durable.load(Ordering::Acquire) < end { shared.lead() } else { Ok(()) };
            shared.is_led.store(false, Ordering::Release);
            shared.round.fetch_add(1, Ordering::AcqRel);
            futex::wake(&shared.round, futex::Flags::PRIVATE, i32::MAX as u32)?;
            led?;
        }
    }
}

impl Shared {
    /// Returns the end of the log with this record.
    fn join(&self, value: &[u8]) -> u64 {
        let mut joined = self.joined.lock();
        let Joined { buffer, open, .. } = &mut *joined;
        // A thread has one record at a time in here: with buffers for the most threads it always fits.
        open.join(buffer, value, coarse_ms());
        let end = open.next_offset();
        self.arrived.fetch_add(1, Ordering::AcqRel);
        end
    }

    fn lead(&self) -> io::Result<()> {
        let (released, began) = (self.released.load(Ordering::Acquire), Instant::now());
        while self.arrived.load(Ordering::Acquire) < released && began.elapsed() < PATIENCE {
            thread::yield_now();
        }
        let (bytes, len, position, end) = self.take();
        self.file.write_all_at(&bytes[..len], position)?;
        self.file.sync_data()?;
        self.joined.lock().spare = bytes;
        self.durable.store(end, Ordering::Release);
        Ok(())
    }

    /// Takes the batch away, sealed; the next one begins in the other buffer.
    fn take(&self) -> (Vec<u8>, usize, u64, u64) {
        let mut joined = self.joined.lock();
        self.released.store(self.arrived.swap(0, Ordering::AcqRel), Ordering::Release);
        let Joined { buffer, spare, open, position } = &mut *joined;
        open.seal(buffer);
        let (len, end, at) = (open.end(), open.next_offset(), *position);
        *open = OpenBatch::begin(0, end, coarse_ms());
        *position += len as u64;
        (mem::replace(buffer, mem::take(spare)), len, at, end)
    }
}

/// Sleeps while `word` is as it was.
fn sleep(word: &AtomicU32, was: u32) -> io::Result<()> {
    match futex::wait(word, futex::Flags::PRIVATE, was, None) {
        Ok(()) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

const PATIENCE: Duration = Duration::from_micros(60);

/// For a record of each of 64 threads.
const BUFFER_LEN: usize = HEADER_LEN + 64 * (1 << 10);
