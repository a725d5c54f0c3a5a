//! The staged loop: records are encoded into a resident mapped buffer, which is written when it is full.
//!
//! One append is one lock, one reading of the coarse clock, the varints and the copy of the record, and one Release
//! store of how far the buffer is filled; every 16 KiB a header and a checksum; once a buffer one `pwrite` of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::{MmapMut, MmapOptions};
use parking_lot::Mutex;

use super::batch::OpenBatch;
use super::walk::scan_file;
use super::{coarse_ms, log_path, open_file};
use crate::suite::system::{Setup, System, Writer};

/// With a buffer of `LEN` bytes for each log.
pub(crate) struct Staged<const LEN: usize> {
    dir: PathBuf,
    arena: File,
}

impl<const LEN: usize> System for Staged<LEN> {
    type Writer = Locked;

    fn open(dir: &Path, setup: Setup) -> io::Result<Self> {
        let arena = open_file(&dir.join("arena"), 0)?;
        let zeros = vec![0; LEN];
        for log in 0..setup.log_count {
            arena.write_all_at(&zeros, (log * LEN) as u64)?;
        }
        Ok(Self { dir: dir.to_owned(), arena })
    }

    fn writer(&self, log: usize) -> io::Result<Locked> {
        let mut options = MmapOptions::new();
        options.offset((log * LEN) as u64).len(LEN).populate();
        // SAFETY: this writer alone uses this part of a file that nobody else knows, and the file is as long.
        let buffer = unsafe { options.map_mut(&self.arena)? };
        let file = open_file(&log_path(&self.dir, log), 0)?;
        let tail = Tail { buffer, file, position: 0, open: OpenBatch::begin(0, 0, coarse_ms()) };
        Ok(Locked { tail: Mutex::new(tail), published: AtomicUsize::new(0) })
    }

    fn scan(&self, log: usize, each: impl FnMut(&[u8])) -> io::Result<()> {
        scan_file(&log_path(&self.dir, log), each)
    }
}

/// As every log with more than one handle has it.
pub(crate) struct Locked {
    tail: Mutex<Tail>,
    published: AtomicUsize,
}

struct Tail {
    buffer: MmapMut,
    file: File,
    position: u64,
    open: OpenBatch,
}

impl Writer for Locked {
    #[inline]
    fn append(&mut self, value: &[u8]) -> io::Result<()> {
        let mut tail = self.tail.lock();
        let now_ms = coarse_ms();
        let Tail { buffer, open, .. } = &mut *tail;
        if open.len_with(value.len()) > BATCH_LEN || open.end() + value.len() + ROOM > buffer.len() {
            tail.make_room(value.len(), now_ms)?;
        }
        let Tail { buffer, open, .. } = &mut *tail;
        open.join(buffer, value, now_ms);
        self.published.store(open.end(), Ordering::Release);
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.tail.lock().write()
    }
}

impl Tail {
    /// Seals the open batch, writes the buffer if it is full, and begins the next batch.
    fn make_room(&mut self, value_len: usize, now_ms: u64) -> io::Result<()> {
        if !self.open.is_empty() {
            self.open.seal(&mut self.buffer);
            self.open = OpenBatch::begin(self.open.end(), self.open.next_offset(), now_ms);
        }
        if self.open.end() + BATCH_LEN.max(value_len + ROOM) > self.buffer.len() {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        if !self.open.is_empty() {
            self.open.seal(&mut self.buffer);
            self.open = OpenBatch::begin(self.open.end(), self.open.next_offset(), coarse_ms());
        }
        let sealed = self.open.end() - super::batch::HEADER_LEN;
        self.file.write_all_at(&self.buffer[..sealed], self.position)?;
        self.position += sealed as u64;
        self.open = OpenBatch::begin(0, self.open.next_offset(), coarse_ms());
        Ok(())
    }
}

/// What a batch is sealed at, unless one record is longer.
const BATCH_LEN: usize = 16 << 10;

/// What a record and the header of the next batch take besides the value.
const ROOM: usize = 128;
