//! The smallest log worth crashing: one file of checksummed records after another, and a checkpoint. It follows the
//! rules of the real one, and has mistakes planted in it that the explorers must find, to show that they bite.
//!
//! ```text
//! /toy/checkpoint            base and position that are synced, number of records below, CRC
//! /toy/<first record>.log    records: len u32 | crc u32 | number u64 | id u64 | bytes derived from the id
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::SimDisk;
use crate::checksum::crc32;
use crate::disk::replace::{replace, sync_parent};
use crate::disk::{Disk, DiskFile, DiskLock, Lock, Open, read_exact_at, read_file, write_all_at};
use crate::error::Error;
use crate::probe::{planted, reached};

mod subject;

const DIR: &str = "/toy";
const CHECKPOINT: &str = "/toy/checkpoint";
const CHECKPOINT_LEN: usize = 28;
const HEADER_LEN: usize = 24;
const LONGEST_RECORD: usize = 255;

/// A toy log.
#[derive(Debug)]
pub struct Toy {
    disk: Arc<SimDisk>,
    segments: Vec<Segment>,
    segment_len: u64,
    /// How many records there are.
    end: u64,
    synced: Synced,
    /// A failed write may have left bytes above `written`.
    is_dirty: bool,
    is_poisoned: bool,
    _lock: Box<dyn DiskLock>,
}

#[derive(Debug)]
struct Segment {
    base: u64,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    written: u64,
}

/// How far the log is on the disk for sure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Synced {
    base: u64,
    position: u64,
    end: u64,
}

/// Why the toy did not do what it was asked for.
#[derive(Debug)]
enum ToyError {
    Corrupt(String),
    Disk(String),
    Poisoned,
}

impl From<io::Error> for ToyError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error.to_string())
    }
}

impl From<Error> for ToyError {
    fn from(error: Error) -> Self {
        Self::Disk(error.to_string())
    }
}

type Result<T> = std::result::Result<T, ToyError>;

impl Toy {
    fn open(disk: &Arc<SimDisk>, segment_len: u64) -> Result<Self> {
        let dir = Path::new(DIR);
        match disk.create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => disk.sync_dir(Path::new("/"))?,
        }
        let lock = disk.lock(&dir.join("LOCK"), Lock::Exclusive)?;
        let lock = lock.ok_or_else(|| ToyError::Disk("locked".into()))?;
        let mut toy = Self {
            disk: Arc::clone(disk),
            segments: Vec::new(),
            segment_len,
            end: 0,
            synced: Synced::default(),
            is_dirty: false,
            is_poisoned: false,
            _lock: lock,
        };
        toy.recover()?;
        Ok(toy)
    }

    fn append(&mut self, id: u64) -> Result<()> {
        self.check_poison()?;
        let record = encode(self.end, id);
        if self.last()?.written + record.len() as u64 > self.segment_len {
            self.roll()?;
        }
        self.cut_if_dirty()?;
        let last = self.last()?;
        if let Err(error) = write_all_at(&*last.file, &record, last.written) {
            self.is_dirty = true;
            return Err(error.into());
        }
        last.written += record.len() as u64;
        self.end += 1;
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.check_poison()?;
        self.sync_last()?;
        self.advance_synced()
    }

    fn checkpoint(&mut self) -> Result<()> {
        self.check_poison()?;
        let mut synced = self.synced;
        if planted("toy.checkpoint_ahead") {
            let end = self.end;
            let last = self.last()?;
            synced = Synced { base: last.base, position: last.written, end };
        }
        Ok(replace(&*self.disk, Path::new(CHECKPOINT), &synced.encode())?)
    }

    fn close(mut self) -> Result<()> {
        self.sync()?;
        self.checkpoint()
    }

    /// Begins the next segment. The old one is synced by the handle that wrote it.
    fn roll(&mut self) -> Result<()> {
        if !planted("toy.roll_without_cut") {
            self.cut_if_dirty()?;
        }
        self.is_dirty = false;
        if !planted("toy.roll_without_sync") {
            self.sync_last()?;
        }
        self.advance_synced()?;
        let segment = Segment::create(&self.disk, self.end).inspect_err(|_| self.is_poisoned = true)?;
        self.segments.push(segment);
        reached("toy.rolled");
        self.advance_synced()
    }

    fn sync_last(&mut self) -> Result<()> {
        if planted("toy.ack_before_sync") {
            return Ok(());
        }
        let file = Arc::clone(&self.last()?.file);
        let mut done = file.sync();
        if done.is_err() && planted("toy.failed_sync_retried") {
            done = file.sync();
        }
        self.poison_unless(done)
    }

    fn advance_synced(&mut self) -> Result<()> {
        let end = self.end;
        let last = self.last()?;
        self.synced = Synced { base: last.base, position: last.written, end };
        Ok(())
    }

    /// Before other bytes go where a failed write may have left some, the file is cut, and the cut is synced.
    fn cut_if_dirty(&mut self) -> Result<()> {
        if !self.is_dirty {
            return Ok(());
        }
        let last = self.last()?;
        let (file, written) = (Arc::clone(&last.file), last.written);
        self.poison_unless(file.set_len(written).and_then(|()| file.sync()))?;
        self.is_dirty = false;
        reached("toy.cut_failed_write");
        Ok(())
    }

    fn poison_unless(&mut self, done: io::Result<()>) -> Result<()> {
        if done.is_err() {
            self.is_poisoned = true;
            reached("toy.poisoned");
        }
        Ok(done?)
    }

    fn check_poison(&self) -> Result<()> {
        match self.is_poisoned {
            true => Err(ToyError::Poisoned),
            false => Ok(()),
        }
    }

    fn last(&mut self) -> Result<&mut Segment> {
        self.segments.last_mut().ok_or_else(|| ToyError::Corrupt("no segment".into()))
    }

    /// The ids of all records, each read from the disk.
    fn read_all(&self) -> Result<Vec<u64>> {
        let mut ids = Vec::new();
        for segment in &self.segments {
            let bytes = segment.read()?;
            let mut at = 0;
            while at < bytes.len() {
                let record = Record::parse(&bytes[at..]);
                let record =
                    record.ok_or_else(|| ToyError::Corrupt(format!("{} at {at}", segment.path.display())))?;
                ids.push(record.id);
                at += record.len;
            }
        }
        Ok(ids)
    }
}

impl Toy {
    /// Finds the end by verifying, makes sure that everything below it is on the disk, and cuts what is above.
    fn recover(&mut self) -> Result<()> {
        let proven = self.read_checkpoint()?;
        let mut later = Vec::new();
        let mut is_torn = false;
        for base in self.bases()? {
            is_torn |= base != self.end;
            if is_torn {
                later.push(base);
                continue;
            }
            let mut segment = Segment::open(&self.disk, base)?;
            is_torn = !self.walk(&mut segment)?;
            self.segments.push(segment);
        }
        if self.end < proven.end {
            return Err(ToyError::Corrupt(format!("{} records, but {} were synced", self.end, proven.end)));
        }
        self.make_durable(proven, &later)
    }

    /// Newest first go the segments behind the tear; what is left is written again, synced and cut.
    fn make_durable(&mut self, proven: Synced, later: &[u64]) -> Result<()> {
        for base in later.iter().rev() {
            self.disk.remove_file(&Segment::path(*base))?;
            reached("toy.dropped_segment");
        }
        for segment in self.segments.iter().filter(|segment| segment.base >= proven.base) {
            let from = if segment.base == proven.base { proven.position } else { 0 };
            segment.rewrite(from.min(segment.written))?;
            segment.cut()?;
        }
        if self.segments.is_empty() {
            self.segments.push(Segment::create(&self.disk, 0)?);
        }
        sync_parent(&*self.disk, Path::new(CHECKPOINT))?;
        self.advance_synced()?;
        match self.disk.remove_file(Path::new("/toy/checkpoint.tmp")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Counts the records of a segment, up to the first that is not whole. `false` if something follows there.
    fn walk(&mut self, segment: &mut Segment) -> Result<bool> {
        let mut bytes = vec![0; segment.file.metadata()?.len as usize];
        read_exact_at(&*segment.file, &mut bytes, 0)?;
        let mut at = 0;
        while at < bytes.len() {
            match Record::parse(&bytes[at..]) {
                Some(record) if record.number == self.end || planted("toy.hole_skipped") => {
                    at += record.len;
                    self.end += 1;
                    segment.written = at as u64;
                }
                _ if planted("toy.hole_skipped") => at += 1,
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    fn read_checkpoint(&self) -> Result<Synced> {
        match read_file(&*self.disk, Path::new(CHECKPOINT), 1 << 10) {
            Ok(bytes) => Synced::decode(&bytes).ok_or_else(|| ToyError::Corrupt("checkpoint".into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Synced::default()),
            Err(error) => Err(error.into()),
        }
    }

    fn bases(&self) -> Result<Vec<u64>> {
        let names = self.disk.list(Path::new(DIR))?;
        let bases = names.iter().filter_map(|entry| entry.name.strip_suffix(".log")?.parse().ok());
        let mut bases: Vec<u64> = bases.collect();
        bases.sort_unstable();
        Ok(bases)
    }
}

impl Segment {
    fn path(base: u64) -> PathBuf {
        Path::new(DIR).join(format!("{base:08}.log"))
    }

    fn create(disk: &Arc<SimDisk>, base: u64) -> Result<Self> {
        let path = Self::path(base);
        let file = disk.open(&path, Open::CreateNew)?;
        sync_parent(&**disk, &path)?;
        Ok(Self { base, path, file, written: 0 })
    }

    fn open(disk: &Arc<SimDisk>, base: u64) -> Result<Self> {
        let path = Self::path(base);
        let file = disk.open(&path, Open::Write)?;
        Ok(Self { base, path, file, written: 0 })
    }

    fn read(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.written as usize];
        read_exact_at(&*self.file, &mut bytes, 0)?;
        Ok(bytes)
    }

    /// Writes what was read again, and syncs it: a sync through this handle says nothing about older writes.
    fn rewrite(&self, from: u64) -> Result<()> {
        let bytes = self.read()?;
        if planted("toy.rewrite_by_cutting") {
            self.file.set_len(from)?;
        }
        if !planted("toy.tail_not_rewritten") {
            write_all_at(&*self.file, &bytes[from as usize..], from)?;
        }
        Ok(self.file.sync()?)
    }

    fn cut(&self) -> Result<()> {
        if self.file.metadata()?.len <= self.written {
            return Ok(());
        }
        reached("toy.cut_tail");
        self.file.set_len(self.written)?;
        if planted("toy.cut_not_synced") {
            return Ok(());
        }
        Ok(self.file.sync()?)
    }
}

impl Synced {
    fn encode(self) -> Vec<u8> {
        let mut bytes = [self.base, self.position, self.end].map(u64::to_be_bytes).concat();
        bytes.extend(crc32(&bytes).to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (fields, crc) = bytes.split_last_chunk::<4>()?;
        if bytes.len() != CHECKPOINT_LEN || crc32(fields) != u32::from_be_bytes(*crc) {
            return None;
        }
        Some(Self { base: word(fields, 0)?, position: word(fields, 8)?, end: word(fields, 16)? })
    }
}

struct Record {
    len: usize,
    number: u64,
    id: u64,
}

impl Record {
    /// The record at the start of `bytes`, if it is whole.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let len = u32::from_be_bytes(*bytes.first_chunk()?) as usize;
        if !(HEADER_LEN..=LONGEST_RECORD).contains(&len) {
            return None;
        }
        let record = bytes.get(..len)?;
        let crc = u32::from_be_bytes(*record.get(4..)?.first_chunk()?);
        if crc32(&record[8..]) != crc && !planted("toy.length_trusted") {
            return None;
        }
        Some(Self { len, number: word(record, 8)?, id: word(record, 16)? })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Record `number`. The low byte of the id is its length.
fn encode(number: u64, id: u64) -> Vec<u8> {
    let len = (id & 0xFF).max(HEADER_LEN as u64);
    let mut body = [number, id].map(u64::to_be_bytes).concat();
    body.resize(len as usize - 8, (id >> 8) as u8);
    let mut record = (len as u32).to_be_bytes().to_vec();
    record.extend(crc32(&body).to_be_bytes());
    record.extend(body);
    record
}
