//! The bytes of one data file, for one who goes from front to back and now and then looks further.
//!
//! Memory stays at one buffer, or a map: no length that the bytes claim makes it grow, and a batch longer than the buffer
//! is checksummed in pieces.

use std::ops::Range;
use std::path::Path;

use super::walk::Pace;
use crate::checksum::{Crc32, Crc32c, crc32c};
use crate::disk::marks::SyncMark;
use crate::disk::{DiskFile, Open, read_exact_at};
use crate::error::{Error, Result};
use crate::probe;
use crate::record::BatchHeader;
use crate::segment::files::{Files, View};
use crate::segment::scan::last_data;
use crate::types::Offset;

/// How much is looked at together.
const PIECE: usize = 1 << 20;

/// A data file up to where its batches end, or may end.
#[derive(Debug)]
pub(super) struct Source<'a> {
    files: &'a Files,
    path: &'a Path,
    view: View,
    limit: u64,
    /// How many bytes of what merely looks like batches are checksummed yet, in all.
    tries: u64,
    /// Whether a search was told to stop.
    is_stopped: bool,
    /// Without a map: what was read last, and where it begins.
    buffer: Vec<u8>,
    buffered_at: u64,
}

/// A batch behind damage.
#[derive(Debug, Clone, Copy)]
pub(super) struct Resumed {
    pub(super) position: u64,
    pub(super) offset: Offset,
}

impl<'a> Source<'a> {
    /// The first `limit` bytes of the file at `path`, which has them.
    pub(super) fn open(files: &'a Files, path: &'a Path, limit: u64) -> Result<Self> {
        let view = files.view(path, limit, limit)?;
        let tries = limit.saturating_mul(MOST_TRIED).saturating_add(LEAST_TRIED);
        Ok(Self { files, path, view, limit, tries, is_stopped: false, buffer: Vec::new(), buffered_at: 0 })
    }

    /// Whether a search was told to stop.
    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes from `position` on: at least `len`, which are no more than a piece and lie before the limit.
    #[inline]
    pub(super) fn at(&mut self, position: u64, len: usize) -> Result<&[u8]> {
        if let View::Map(_) = self.view {
            return self.view.window(position, len, self.limit, &mut [], self.path);
        }
        self.read(position, len)
    }

    fn read(&mut self, position: u64, len: usize) -> Result<&[u8]> {
        let View::File(file) = &self.view else { return Ok(&[]) };
        let have = self.buffered_at..self.buffered_at + self.buffer.len() as u64;
        if position < have.start || position + len as u64 > have.end {
            let want = (self.limit - position).min(PIECE as u64) as usize;
            self.buffer.resize(want, 0);
            self.buffered_at = position;
            let read = read_exact_at(&**file, &mut self.buffer, position);
            read.inspect_err(|_| self.buffer.clear()).map_err(Error::io("read", self.path))?;
        }
        Ok(&self.buffer[(position - self.buffered_at) as usize..])
    }

    /// The header of the batch at `position`, if that is whole and verifies; else what is wrong with it.
    #[inline]
    pub(super) fn verified(&mut self, position: u64) -> Result<Result<BatchHeader, &'static str>> {
        let left = self.limit - position;
        if left < BatchHeader::LEN as u64 {
            return Ok(Err("batch header cut short"));
        }
        let bytes = self.at(position, BatchHeader::LEN)?;
        let header = match BatchHeader::read(bytes) {
            Ok(header) => header,
            Err(invalid) => return Ok(Err(invalid.what)),
        };
        if u64::from(header.batch_len) > left {
            return Ok(Err("batch cut short"));
        }
        let crc = match bytes.get(BatchHeader::CRC_FROM..header.batch_len as usize) {
            Some(covered) => crc32c(covered),
            None => self.checksum(position, header.batch_len)?,
        };
        if crc != header.crc && !probe::planted("verify.checksum_ignored") {
            return Ok(Err("checksum does not match"));
        }
        Ok(header.check_range().map(|()| header).map_err(|invalid| invalid.what))
    }

    /// The checksum of a batch that is not at hand as a whole.
    fn checksum(&mut self, position: u64, len: u32) -> Result<u32> {
        let (mut crc, mut at, end) =
            (Crc32c::new(), position + BatchHeader::CRC_FROM as u64, position + u64::from(len));
        while at < end {
            let step = (end - at).min(PIECE as u64) as usize;
            crc.update(&self.at(at, step)?[..step]);
            at += step as u64;
        }
        Ok(crc.finish())
    }

    /// The header at `position`, which need not verify; `None` if there is none, or the batches end there.
    pub(super) fn header(&mut self, position: u64) -> Result<Option<BatchHeader>> {
        if self.limit.saturating_sub(position) < BatchHeader::LEN as u64 {
            return Ok(None);
        }
        let header = BatchHeader::read(self.at(position, BatchHeader::LEN)?).ok();
        Ok(header.filter(|header| u64::from(header.batch_len) <= self.limit - position))
    }

    /// The bytes of a batch that is as short as those of Kafka's own markers are.
    pub(super) fn short_batch(&mut self, position: u64, header: &BatchHeader) -> Result<Option<&[u8]>> {
        let len = header.batch_len as usize;
        if len > PIECE {
            return Ok(None);
        }
        Ok(Some(&self.at(position, len)?[..len]))
    }

    /// The CRC-32 of all of it: what a seal has.
    pub(super) fn crc32(&mut self) -> Result<u32> {
        let (mut crc, mut at) = (Crc32::new(), 0);
        while at < self.limit {
            let step = (self.limit - at).min(PIECE as u64) as usize;
            crc.update(&self.at(at, step)?[..step]);
            at += step as u64;
        }
        Ok(crc.finish())
    }

    /// The next batch behind `position`, where none verifies: one that does, whose offsets are among `offsets`, and
    /// which is near or after which another begins.
    ///
    /// The file may be made to look like many long batches that overlap. What is checksummed in vain is bounded, for the
    /// whole file, so that this ends.
    pub(super) fn resume(
        &mut self,
        position: u64,
        offsets: &Range<Offset>,
        pace: &mut Pace<'_>,
    ) -> Result<Option<Resumed>> {
        // Mostly the length is right, and only what it spans is wrong.
        if let Some(end) = self.claimed_end(position)? {
            if end == self.limit {
                return Ok(None);
            }
            if let Some(resumed) = self.follows(end, offsets, end - position)? {
                return Ok(Some(resumed));
            }
        }
        let (mut at, mut asked) = (position + 1, position);
        while self.limit.saturating_sub(at) >= BatchHeader::LEN as u64 {
            if at - asked >= PIECE as u64 {
                asked = at;
                self.is_stopped = pace(0).is_break();
                if self.is_stopped {
                    return Ok(None);
                }
            }
            let left = self.limit - at;
            let bytes = self.at(at, BatchHeader::LEN)?;
            let mut heads = bytes.windows(BatchHeader::LEN).enumerate();
            let found = heads.find_map(|(skip, head)| Some((skip, candidate(head, offsets, left - skip as u64)?)));
            let Some((skip, len)) = found else {
                at += (bytes.len() - (BatchHeader::LEN - 1)) as u64;
                continue;
            };
            at += skip as u64;
            self.tries = match self.tries.checked_sub(u64::from(len)) {
                Some(tries) => tries,
                None => return Ok(None),
            };
            if let Some(resumed) = self.follows(at, offsets, at - position)? {
                return Ok(Some(resumed));
            }
            at += 1;
        }
        Ok(None)
    }

    /// Where the batch at `position` would end by its length, if that is possible.
    fn claimed_end(&mut self, position: u64) -> Result<Option<u64>> {
        if self.limit - position < BatchHeader::LEN as u64 {
            return Ok(None);
        }
        let head = self.at(position, BatchHeader::LEN)?;
        let len = 12 + u64::from(u32::from_be_bytes([head[8], head[9], head[10], head[11]]));
        Ok(Some(position + len).filter(|end| len >= BatchHeader::LEN as u64 && *end <= self.limit))
    }

    fn follows(&mut self, position: u64, offsets: &Range<Offset>, skipped: u64) -> Result<Option<Resumed>> {
        let Ok(header) = self.verified(position)? else { return Ok(None) };
        if header.base_offset < offsets.start || header.next_offset() > offsets.end {
            return Ok(None);
        }
        let end = position + u64::from(header.batch_len);
        // A record may hold a batch. One of the log has an offset that what was skipped explains, or others behind it.
        let is_one = header.base_offset - offsets.start <= skipped / LEAST_RECORD
            || end == self.limit
            || self.header(end)?.is_some_and(|next| next.base_offset >= header.next_offset())
            || self.begins_with_zeros(end)?;
        Ok(is_one.then_some(Resumed { position, offset: header.base_offset }))
    }

    /// Whether no batch was ever written at `position`.
    fn begins_with_zeros(&mut self, position: u64) -> Result<bool> {
        let len = (self.limit - position).min(BatchHeader::LEN as u64) as usize;
        Ok(self.at(position, len)?[..len].iter().all(|byte| *byte == 0))
    }

    /// Whether nothing but zeros is left from `position` on, and a page of sync marks perhaps: the rest of a file that had
    /// its length from the start.
    pub(super) fn is_blank(&self, position: u64) -> Result<bool> {
        let file = self.files.disk.open(self.path, Open::Read).map_err(Error::io("open", self.path))?;
        is_blank(&*file, position, self.limit).map_err(Error::io("read", self.path))
    }
}

/// Whether bytes from `from` to `to`, the end of the file, are zeros, or a page of sync marks behind them.
pub(in crate::partition) fn is_blank(file: &dyn DiskFile, from: u64, to: u64) -> std::io::Result<bool> {
    let page_len = SyncMark::PAGE_LEN as u64;
    let at = to.saturating_sub(page_len);
    let mut end = to;
    if to.is_multiple_of(page_len) && at >= from && to >= page_len {
        let mut page = vec![0; SyncMark::PAGE_LEN];
        read_exact_at(file, &mut page, at)?;
        if !matches!(SyncMark::best(&page), Ok(None)) || SyncMark::is_begun(&page) {
            end = at;
        }
    }
    Ok(last_data(file, from, end)? == from)
}

/// The length of the batch that begins with `head`, if one with such offsets may begin there, with so many bytes left.
#[inline]
fn candidate(head: &[u8], offsets: &Range<Offset>, left: u64) -> Option<u32> {
    // Of all bytes, one in 256 gets further.
    if head[MAGIC_AT] != 2 {
        return None;
    }
    let header = BatchHeader::read(head).ok()?;
    let fits = u64::from(header.batch_len) <= left && header.check_range().is_ok() && header.codec().is_ok();
    let is_among = header.base_offset >= offsets.start && header.next_offset() <= offsets.end;
    (fits && is_among).then_some(header.batch_len)
}

const MAGIC_AT: usize = 16;

/// How many times the length of a file is checksummed at most in search of batches, and how many bytes of a small one.
const MOST_TRIED: u64 = 4;
const LEAST_TRIED: u64 = 64 << 20;

/// The length of a record without a key and a value, in bytes.
const LEAST_RECORD: u64 = 7;
