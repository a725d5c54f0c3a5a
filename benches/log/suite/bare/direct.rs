//! Without staging: one batch a call, written at once, synced if asked; or gathered by the caller into large writes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::batch::{OpenBatch, len_at_most};
use super::walk::scan_file;
use super::{MIB, coarse_ms, log_path, open_file};
use crate::suite::system::{Setup, System, Writer};

/// One batch a call, one `pwrite` each; `fdatasync` after it in a synced setup, into blocks written before.
pub(crate) struct Positional {
    dir: PathBuf,
    setup: Setup,
}

impl System for Positional {
    type Writer = PositionalWriter;

    fn open(dir: &Path, setup: Setup) -> io::Result<Self> {
        Ok(Self { dir: dir.to_owned(), setup })
    }

    fn writer(&self, log: usize) -> io::Result<PositionalWriter> {
        let is_synced = self.setup.is_synced;
        let file = open_file(&log_path(&self.dir, log), if is_synced { self.setup.room } else { 0 })?;
        Ok(PositionalWriter { file, is_synced, batches: Batches::default(), position: 0 })
    }

    fn scan(&self, log: usize, each: impl FnMut(&[u8])) -> io::Result<()> {
        scan_file(&log_path(&self.dir, log), each)
    }
}

pub(crate) struct PositionalWriter {
    file: File,
    is_synced: bool,
    batches: Batches,
    position: u64,
}

impl Writer for PositionalWriter {
    fn append(&mut self, value: &[u8]) -> io::Result<()> {
        self.append_all(&[value])
    }

    fn append_all(&mut self, values: &[&[u8]]) -> io::Result<()> {
        self.batches.encode(values);
        self.file.write_all_at(self.batches.bytes(), self.position)?;
        self.position += self.batches.bytes().len() as u64;
        self.batches.clear();
        if self.is_synced { self.file.sync_data() } else { Ok(()) }
    }
}

/// Buffered batches: one batch a call, one `pwrite` for 1 MiB of them.
pub(crate) struct Buffered {
    dir: PathBuf,
}

impl System for Buffered {
    type Writer = BufferedWriter;

    fn open(dir: &Path, _: Setup) -> io::Result<Self> {
        Ok(Self { dir: dir.to_owned() })
    }

    fn writer(&self, log: usize) -> io::Result<BufferedWriter> {
        let file = open_file(&log_path(&self.dir, log), 0)?;
        Ok(BufferedWriter { file, batches: Batches::default(), position: 0 })
    }

    fn scan(&self, log: usize, each: impl FnMut(&[u8])) -> io::Result<()> {
        scan_file(&log_path(&self.dir, log), each)
    }
}

pub(crate) struct BufferedWriter {
    file: File,
    batches: Batches,
    position: u64,
}

impl Writer for BufferedWriter {
    fn append(&mut self, value: &[u8]) -> io::Result<()> {
        self.append_all(&[value])
    }

    fn append_all(&mut self, values: &[&[u8]]) -> io::Result<()> {
        if self.batches.bytes().len() + len_at_most(values) > MIB {
            self.finish()?;
        }
        self.batches.encode(values);
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.file.write_all_at(self.batches.bytes(), self.position)?;
        self.position += self.batches.bytes().len() as u64;
        self.batches.clear();
        Ok(())
    }
}

/// Encoded batches that are not written yet.
#[derive(Default)]
struct Batches {
    buffer: Vec<u8>,
    len: usize,
    next_offset: u64,
}

impl Batches {
    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    fn encode(&mut self, values: &[&[u8]]) {
        let needed = self.len + len_at_most(values);
        if needed > self.buffer.len() {
            self.buffer.resize(needed.max(MIB), 0);
        }
        let now_ms = coarse_ms();
        let mut batch = OpenBatch::begin(self.len, self.next_offset, now_ms);
        values.iter().for_each(|value| batch.join(&mut self.buffer, value, now_ms));
        batch.seal(&mut self.buffer);
        (self.len, self.next_offset) = (batch.end(), batch.next_offset());
    }

    fn clear(&mut self) {
        self.len = 0;
    }
}
