//! Batches of format v2, by hand.
//!
//! | Byte | Size | Field            | Byte | Size | Field           |
//! |-----:|-----:|------------------|-----:|-----:|-----------------|
//! |    0 |    8 | base offset      |   27 |    8 | base timestamp  |
//! |    8 |    4 | length behind it |   35 |    8 | max timestamp   |
//! |   12 |    4 | leader epoch     |   43 |    8 | producer id     |
//! |   16 |    1 | magic: 2         |   51 |    2 | producer epoch  |
//! |   17 |    4 | CRC-32C from 21  |   53 |    4 | base sequence   |
//! |   21 |    2 | attributes       |   57 |    4 | record count    |
//! |   23 |    4 | last delta       |   61 |      | records         |

use std::io;

use crc_fast::{CrcAlgorithm, checksum};

pub(crate) const HEADER_LEN: usize = 61;

/// The most that a record takes besides its value.
const OVERHEAD: usize = 40;

/// The batch that takes records, somewhere in a buffer.
#[derive(Clone, Copy, Default)]
pub(crate) struct OpenBatch {
    start: usize,
    end: usize,
    base_offset: u64,
    count: u64,
    base_ms: u64,
    max_ms: u64,
}

impl OpenBatch {
    pub(crate) fn begin(start: usize, base_offset: u64, now_ms: u64) -> Self {
        let end = start + HEADER_LEN;
        Self { start, end, base_offset, count: 0, base_ms: now_ms, max_ms: now_ms }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn next_offset(&self) -> u64 {
        self.base_offset + self.count
    }

    pub(crate) fn end(&self) -> usize {
        self.end
    }

    /// How long it may be with one more value of `value_len`.
    pub(crate) fn len_with(&self, value_len: usize) -> usize {
        self.end - self.start + OVERHEAD + value_len
    }

    /// Encodes a record behind the last one.
    #[inline]
    pub(crate) fn join(&mut self, buffer: &mut [u8], value: &[u8], now_ms: u64) {
        let now_ms = now_ms.max(self.base_ms);
        let (time_delta, delta) = (now_ms - self.base_ms, self.count);
        let value_len = value.len() as u64;
        let body_len = 4 + varint_len(time_delta) + varint_len(delta) + varint_len(value_len) + value.len() - 1;
        let into = &mut buffer[self.end..self.end + OVERHEAD + value.len()];
        let mut at = put_varint(into, 0, body_len as u64);
        into[at] = 0; // attributes
        at = put_varint(into, at + 1, time_delta);
        at = put_varint(into, at, delta);
        into[at] = 1; // a key of length -1
        at = put_varint(into, at + 1, value_len);
        into[at..at + value.len()].copy_from_slice(value);
        at += value.len();
        into[at] = 0; // no headers
        self.end += at + 1;
        self.count += 1;
        self.max_ms = self.max_ms.max(now_ms);
    }

    /// Writes the header, the checksum last. The batch is final then.
    pub(crate) fn seal(&self, buffer: &mut [u8]) {
        let batch = &mut buffer[self.start..self.end];
        let len_behind = (batch.len() - 12) as u32;
        batch[..HEADER_LEN].fill(0);
        batch[0..8].copy_from_slice(&self.base_offset.to_be_bytes());
        batch[8..12].copy_from_slice(&len_behind.to_be_bytes());
        batch[16] = 2;
        batch[23..27].copy_from_slice(&(self.count as u32 - 1).to_be_bytes());
        batch[27..35].copy_from_slice(&self.base_ms.to_be_bytes());
        batch[35..43].copy_from_slice(&self.max_ms.to_be_bytes());
        batch[43..57].fill(0xFF); // no producer
        batch[57..61].copy_from_slice(&(self.count as u32).to_be_bytes());
        let crc = checksum(CrcAlgorithm::Crc32Iscsi, &batch[21..]) as u32;
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
    }
}

/// The most that values of one length take in one batch.
pub(crate) fn len_at_most(values: &[&[u8]]) -> usize {
    HEADER_LEN + values.iter().map(|value| OVERHEAD + value.len()).sum::<usize>()
}

/// One whole batch, verified.
pub(crate) struct Batch<'a> {
    pub(crate) bytes: &'a [u8],
}

impl<'a> Batch<'a> {
    /// The first batch of `bytes`; `None` at the end, or where zeros begin.
    pub(crate) fn first(bytes: &'a [u8]) -> io::Result<Option<Self>> {
        let Some(len) = len_of(bytes).filter(|len| *len > 12) else { return Ok(None) };
        let bytes = bytes.get(..len).ok_or_else(|| damaged("a batch is cut short"))?;
        let header = bytes.first_chunk::<HEADER_LEN>().ok_or_else(|| damaged("a header is cut short"))?;
        let crc = u32::from_be_bytes([header[17], header[18], header[19], header[20]]);
        if checksum(CrcAlgorithm::Crc32Iscsi, &bytes[21..]) as u32 != crc {
            return Err(damaged("a checksum does not match"));
        }
        Ok(Some(Self { bytes }))
    }

    /// Hands each value to `each`.
    #[inline]
    pub(crate) fn values(&self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut records = &self.bytes[HEADER_LEN..];
        while !records.is_empty() {
            let len = take_varint(&mut records)? as usize;
            let (mut record, behind) =
                records.split_at_checked(len).ok_or_else(|| damaged("a record is cut short"))?;
            records = behind;
            record = record.get(1..).ok_or_else(|| damaged("a record is empty"))?;
            take_varint(&mut record)?; // timestamp delta
            take_varint(&mut record)?; // offset delta
            let key_len = take_varint(&mut record)?.max(0) as usize;
            record = record.get(key_len..).ok_or_else(|| damaged("a key is cut short"))?;
            let value_len = take_varint(&mut record)?.max(0) as usize;
            each(record.get(..value_len).ok_or_else(|| damaged("a value is cut short"))?);
        }
        Ok(())
    }
}

/// The length of the batch that begins `bytes`, not verified.
#[inline]
pub(crate) fn len_of(bytes: &[u8]) -> Option<usize> {
    let header = bytes.first_chunk::<12>()?;
    Some(12 + u32::from_be_bytes([header[8], header[9], header[10], header[11]]) as usize)
}

/// The offset of the first record of the batch that begins `bytes`.
#[inline]
pub(crate) fn base_offset_of(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk::<8>().map(|offset| u64::from_be_bytes(*offset))
}

/// Zigzag: a number that is not negative is written doubled. Returns the place behind it.
#[inline]
fn put_varint(into: &mut [u8], mut at: usize, value: u64) -> usize {
    let mut rest = value << 1;
    while rest >= 0x80 {
        into[at] = rest as u8 | 0x80;
        rest >>= 7;
        at += 1;
    }
    into[at] = rest as u8;
    at + 1
}

#[inline]
fn varint_len(value: u64) -> usize {
    (64 - (value << 1 | 1).leading_zeros() as usize).div_ceil(7)
}

#[inline]
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

pub(crate) fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
