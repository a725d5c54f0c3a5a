//! The bare loops: the least code that puts the same bytes on disk, or takes them off.
//!
//! Nothing here comes from the crate: the batches are encoded by hand, so that a mistake of ours cannot be shared by
//! what it is measured against.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crc_fast::{CrcAlgorithm, checksum};

use crate::runner::{Contender, Work};

/// What a batch holds: so many values of one length.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) values: usize,
    pub(crate) len: usize,
}

impl Shape {
    /// The values of one batch, one after the other.
    pub(crate) fn payload(self) -> Vec<u8> {
        (0..self.values * self.len).map(|at| (at * 31 + at / 251) as u8).collect()
    }

    /// What the bytes of `batch_count` batches sum up to.
    pub(crate) fn sum(self, batch_count: u64) -> u64 {
        self.payload().iter().map(|byte| u64::from(*byte)).sum::<u64>() * batch_count
    }

    /// About the length of `batch_count` batches on disk.
    pub(crate) fn disk_bytes(self, batch_count: u64) -> u64 {
        (HEADER_LEN + self.values * (self.len + 10)) as u64 * batch_count
    }
}

/// One batch a call, one `pwrite` each, nothing synced.
pub(crate) struct Append {
    shape: Shape,
    batch_count: u64,
    file: Option<File>,
}

impl Append {
    pub(crate) fn boxed(shape: Shape, batch_count: u64) -> Box<dyn Contender> {
        Box::new(Self { shape, batch_count, file: None })
    }
}

impl Contender for Append {
    fn prepare(&mut self, dir: &Path) -> io::Result<Work> {
        self.file = Some(create(&dir.join("bare.log"))?);
        Ok(Work::of(self.shape, self.batch_count))
    }

    fn run(&mut self) -> io::Result<()> {
        let file = opened(&self.file)?;
        write_batches(self.shape, self.batch_count, |batch, position| file.write_all_at(batch, position))
    }

    fn verify(&mut self) -> io::Result<u64> {
        walk(opened(&self.file)?)
    }
}

/// As [`Append`], and `fdatasync` after each, into blocks that were written and synced before: a sync then carries the
/// bytes and no change of the file system's own books.
pub(crate) struct Synced {
    shape: Shape,
    batch_count: u64,
    file: Option<File>,
}

impl Synced {
    pub(crate) fn boxed(shape: Shape, batch_count: u64) -> Box<dyn Contender> {
        Box::new(Self { shape, batch_count, file: None })
    }
}

impl Contender for Synced {
    fn prepare(&mut self, dir: &Path) -> io::Result<Work> {
        let file = create(&dir.join("bare.log"))?;
        let len = self.shape.disk_bytes(self.batch_count).next_multiple_of(MIB as u64);
        let zeros = vec![0; MIB];
        for position in (0..len).step_by(MIB) {
            file.write_all_at(&zeros, position)?;
        }
        file.sync_all()?;
        self.file = Some(file);
        Ok(Work { is_synced: true, ..Work::of(self.shape, self.batch_count) })
    }

    fn run(&mut self) -> io::Result<()> {
        let file = opened(&self.file)?;
        write_batches(self.shape, self.batch_count, |batch, position| {
            file.write_all_at(batch, position)?;
            file.sync_data()
        })
    }

    fn verify(&mut self) -> io::Result<u64> {
        walk(opened(&self.file)?)
    }
}

/// Maps a file afresh, checks the CRC of each batch, finds each record and sums every byte of every value.
pub(crate) struct Walk {
    shape: Shape,
    batch_count: u64,
    make: Make,
    path: PathBuf,
    sum: u64,
}

/// Makes a file of so many batches of one shape in a directory, and says which it is.
pub(crate) type Make = fn(&Path, Shape, u64) -> io::Result<PathBuf>;

impl Walk {
    /// Walks what `make` makes: both sides of a race are given the same file.
    pub(crate) fn boxed(shape: Shape, batch_count: u64, make: Make) -> Box<dyn Contender> {
        Box::new(Self { shape, batch_count, make, path: PathBuf::new(), sum: 0 })
    }
}

impl Contender for Walk {
    fn prepare(&mut self, dir: &Path) -> io::Result<Work> {
        self.path = (self.make)(dir, self.shape, self.batch_count)?;
        Ok(Work::of(self.shape, self.batch_count))
    }

    fn run(&mut self) -> io::Result<()> {
        self.sum = walk(&File::open(&self.path)?)?;
        Ok(())
    }

    fn verify(&mut self) -> io::Result<u64> {
        Ok(self.sum)
    }
}

fn write_batches(
    shape: Shape,
    batch_count: u64,
    mut write: impl FnMut(&[u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    let payload = shape.payload();
    let mut batch = Vec::new();
    let mut position = 0;
    for index in 0..batch_count {
        encode(&mut batch, index * shape.values as u64, payload.chunks_exact(shape.len));
        write(&batch, position)?;
        position += batch.len() as u64;
    }
    Ok(())
}

/// Puts one batch of format v2 in place of what is in `batch`.
///
/// | Byte | Size | Field            | Byte | Size | Field           |
/// |-----:|-----:|------------------|-----:|-----:|-----------------|
/// |    0 |    8 | base offset      |   27 |    8 | base timestamp  |
/// |    8 |    4 | length behind it |   35 |    8 | max timestamp   |
/// |   12 |    4 | leader epoch     |   43 |    8 | producer id     |
/// |   16 |    1 | magic: 2         |   51 |    2 | producer epoch  |
/// |   17 |    4 | CRC-32C from 21  |   53 |    4 | base sequence   |
/// |   21 |    2 | attributes       |   57 |    4 | record count    |
/// |   23 |    4 | last delta       |   61 |      | records         |
fn encode<'a>(batch: &mut Vec<u8>, base_offset: u64, values: impl ExactSizeIterator<Item = &'a [u8]>) {
    let count = values.len() as u32;
    batch.clear();
    batch.extend_from_slice(&[0; HEADER_LEN]);
    for (delta, value) in values.enumerate() {
        let body_len = 1 + 1 + varint_len(delta as u64) + 1 + varint_len(value.len() as u64) + value.len() + 1;
        put_varint(batch, body_len as u64);
        batch.extend_from_slice(&[0, 0]); // attributes, timestamp delta
        put_varint(batch, delta as u64);
        batch.push(1); // key of length -1
        put_varint(batch, value.len() as u64);
        batch.extend_from_slice(value);
        batch.push(0); // no headers
    }
    let len_behind = (batch.len() - 12) as u32;
    batch[0..8].copy_from_slice(&base_offset.to_be_bytes());
    batch[8..12].copy_from_slice(&len_behind.to_be_bytes());
    batch[16] = 2;
    batch[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    batch[27..35].copy_from_slice(&TIMESTAMP.to_be_bytes());
    batch[35..43].copy_from_slice(&TIMESTAMP.to_be_bytes());
    batch[43..57].fill(0xFF); // no producer
    batch[57..61].copy_from_slice(&count.to_be_bytes());
    let crc = checksum(CrcAlgorithm::Crc32Iscsi, &batch[21..]) as u32;
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// The sum of all bytes of all values in a file of batches, each verified. Ends at the end of the file or at zeros.
pub(crate) fn walk(file: &File) -> io::Result<u64> {
    // SAFETY: this process alone knows the file, and writes nothing to it while it is mapped.
    let map = unsafe { memmap2::Mmap::map(file)? };
    let mut rest = &map[..];
    let mut sum = 0;
    while let Some(header) = rest.first_chunk::<HEADER_LEN>() {
        let len = 12 + u32::from_be_bytes([header[8], header[9], header[10], header[11]]) as usize;
        if len == 12 {
            break;
        }
        let batch = rest.get(..len).ok_or_else(|| damaged("a batch is cut short"))?;
        let crc = u32::from_be_bytes([header[17], header[18], header[19], header[20]]);
        if checksum(CrcAlgorithm::Crc32Iscsi, &batch[21..]) as u32 != crc {
            return Err(damaged("a checksum does not match"));
        }
        sum += sum_values(&batch[HEADER_LEN..])?;
        rest = &rest[len..];
    }
    Ok(sum)
}

fn sum_values(mut records: &[u8]) -> io::Result<u64> {
    let mut sum = 0;
    while !records.is_empty() {
        let len = take_varint(&mut records)? as usize;
        let (mut record, behind) = records.split_at_checked(len).ok_or_else(|| damaged("a record is cut short"))?;
        records = behind;
        record = record.get(1..).ok_or_else(|| damaged("a record is empty"))?;
        take_varint(&mut record)?; // timestamp delta
        take_varint(&mut record)?; // offset delta
        let key_len = take_varint(&mut record)?.max(0) as usize;
        record = record.get(key_len..).ok_or_else(|| damaged("a key is cut short"))?;
        let value_len = take_varint(&mut record)?.max(0) as usize;
        let value = record.get(..value_len).ok_or_else(|| damaged("a value is cut short"))?;
        sum += value.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    }
    Ok(sum)
}

/// Zigzag: a number that is not negative is written doubled.
fn put_varint(into: &mut Vec<u8>, value: u64) {
    let mut rest = value << 1;
    while rest >= 0x80 {
        into.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    into.push(rest as u8);
}

fn varint_len(value: u64) -> usize {
    (64 - (value << 1 | 1).leading_zeros() as usize).div_ceil(7)
}

fn take_varint(bytes: &mut &[u8]) -> io::Result<i64> {
    let mut bits = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or_else(|| damaged("a number is cut short"))?;
        *bytes = rest;
        bits |= u64::from(byte & 0x7F) << shift;
        if *byte < 0x80 {
            return Ok((bits >> 1) as i64 ^ -((bits & 1) as i64));
        }
    }
    Err(damaged("a number is too long"))
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).open(path)
}

fn opened(file: &Option<File>) -> io::Result<&File> {
    file.as_ref().ok_or_else(|| io::Error::other("run before it was prepared"))
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

const HEADER_LEN: usize = 61;
const TIMESTAMP: u64 = 1_700_000_000_000;
const MIB: usize = 1 << 20;
