//! Walks the batches of a segment file from a position on, verifying each.
//!
//! Used where nothing is known about the bytes yet: recovery, rebuilding of indexes, judging a file. Reads are
//! positional, so that a failing disk is an error and not a signal, and memory stays at one buffer: a batch longer
//! than that is checksummed in pieces, and its length is believed only as far as the file goes.

use std::io;

use crate::checksum::{Crc32, Crc32c};
use crate::disk::{DiskFile, read_exact_at};
use crate::probe;
use crate::record::BatchHeader;
use crate::types::{LeaderEpoch, Offset};

/// Batches up to this length are handed out with their bytes; control batches always are.
const BUFFER: usize = 256 << 10;

/// A batch that verified.
#[derive(Debug)]
pub(crate) struct Scanned<'a> {
    /// Where it begins.
    pub(crate) position: u64,
    pub(crate) header: BatchHeader,
    /// The whole batch, if it is short.
    pub(crate) bytes: Option<&'a [u8]>,
}

impl Scanned<'_> {
    /// Where the next batch begins.
    pub(crate) fn end(&self) -> u64 {
        self.position + u64::from(self.header.batch_len)
    }
}

/// Why a scan ended before its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stop {
    /// Where the bytes begin that are not a whole, valid batch that follows the one before.
    pub(crate) position: u64,
    /// What is wrong with them.
    pub(crate) reason: &'static str,
}

/// The walk itself.
#[derive(Debug)]
pub(crate) struct Scan<'f> {
    file: &'f dyn DiskFile,
    position: u64,
    limit: u64,
    /// Offsets must not fall below this.
    next_offset: Offset,
    /// A batch above this must begin exactly at `next_offset`: below, compaction may have left gaps.
    dense_from: Offset,
    /// Offsets must stay below this, if it is known.
    upper: Option<Offset>,
    /// Leader epochs must not fall below this.
    epoch: LeaderEpoch,
    buffer: Vec<u8>,
    /// The position of `buffer[0]`.
    buffered_at: u64,
}

impl<'f> Scan<'f> {
    /// Walks `file` from `position`, where the batch that holds or follows `next_offset` begins, to `limit`.
    pub(crate) fn new(file: &'f dyn DiskFile, position: u64, limit: u64, next_offset: Offset, dense: bool) -> Self {
        let (epoch, buffer) = (LeaderEpoch::NONE, Vec::new());
        let dense_from = if dense { Offset::ZERO } else { Offset::MAX };
        Self { file, position, limit, next_offset, dense_from, upper: None, epoch, buffer, buffered_at: position }
    }

    /// Allows gaps between offsets below `dense_from` only.
    pub(crate) fn dense_from(self, dense_from: Offset) -> Self {
        Self { dense_from, ..self }
    }

    /// Holds it to offsets below `upper`, where the next segment begins. Where offsets may be missing, nothing else tells
    /// that one was raised: no checksum covers it.
    pub(crate) fn below(self, upper: Option<Offset>) -> Self {
        Self { upper, ..self }
    }

    /// Holds it to leader epochs of at least `epoch`.
    pub(crate) fn after(self, epoch: LeaderEpoch) -> Self {
        Self { epoch, ..self }
    }

    /// Where the next batch is expected.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The offset after the last batch.
    pub(crate) fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// The largest leader epoch so far.
    pub(crate) fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// The next batch; `Ok(Err(stop))` where the valid ones end, at the limit too.
    pub(crate) fn next(&mut self) -> io::Result<Result<Scanned<'_>, Stop>> {
        if self.limit.saturating_sub(self.position) < BatchHeader::LEN as u64 {
            let reason = if self.position == self.limit { "end of the file" } else { "batch header cut short" };
            return Ok(Err(self.stop(reason)));
        }
        self.fill(BatchHeader::LEN)?;
        let header = match BatchHeader::read(self.buffered()) {
            Ok(header) => header,
            Err(invalid) => return Ok(Err(self.stop(invalid.what))),
        };
        if let Some(reason) = self.misplaced(&header) {
            return Ok(Err(self.stop(reason)));
        }
        let len = header.batch_len as usize;
        if header.crc != self.checksum(len)? && !probe::planted("segment.checksum_ignored") {
            return Ok(Err(self.stop("checksum does not match")));
        }
        let position = self.position;
        self.next_offset = header.next_offset();
        self.epoch = self.epoch.max(header.leader_epoch);
        self.position += len as u64;
        let from = (position - self.buffered_at) as usize;
        let bytes = (len <= BUFFER).then(|| &self.buffer[from..from + len]);
        Ok(Ok(Scanned { position, header, bytes }))
    }

    fn stop(&self, reason: &'static str) -> Stop {
        Stop { position: self.position, reason }
    }

    fn misplaced(&self, header: &BatchHeader) -> Option<&'static str> {
        if u64::from(header.batch_len) > self.limit - self.position {
            return Some("batch cut short");
        }
        if let Err(invalid) = header.check_range() {
            return Some(invalid.what);
        }
        // Under no checksum, as are length and offset; but along a log it never falls.
        if header.leader_epoch < self.epoch && header.leader_epoch != LeaderEpoch::NONE {
            return Some("leader epoch falls");
        }
        if self.upper.is_some_and(|upper| header.next_offset() > upper) {
            return Some("offsets reach into the next segment");
        }
        match header.base_offset.cmp(&self.next_offset) {
            std::cmp::Ordering::Less => Some("offset does not rise"),
            std::cmp::Ordering::Greater if header.base_offset > self.dense_from => {
                Some("offsets are missing before this batch")
            }
            _ => None,
        }
    }

    /// The checksum of the batch of `len` bytes at the current position.
    fn checksum(&mut self, len: usize) -> io::Result<u32> {
        let mut crc = Crc32c::new();
        if len <= BUFFER {
            self.fill(len)?;
            crc.update(&self.buffered()[BatchHeader::CRC_FROM..len]);
            return Ok(crc.finish());
        }
        let mut piece = vec![0; BUFFER];
        let (mut at, end) = (self.position + BatchHeader::CRC_FROM as u64, self.position + len as u64);
        while at < end {
            let step = (end - at).min(BUFFER as u64) as usize;
            read_exact_at(self.file, &mut piece[..step], at)?;
            crc.update(&piece[..step]);
            at += step as u64;
        }
        Ok(crc.finish())
    }

    fn buffered(&self) -> &[u8] {
        &self.buffer[(self.position - self.buffered_at) as usize..]
    }

    /// Makes at least `len` bytes at the current position available; the caller has checked them against `limit`.
    fn fill(&mut self, len: usize) -> io::Result<()> {
        let have = (self.buffered_at + self.buffer.len() as u64).saturating_sub(self.position);
        if have >= len as u64 && self.position >= self.buffered_at {
            return Ok(());
        }
        let want = (self.limit - self.position).min(BUFFER as u64) as usize;
        self.buffer.resize(want, 0);
        self.buffered_at = self.position;
        read_exact_at(self.file, &mut self.buffer, self.position).inspect_err(|_| self.buffer.clear())
    }
}

/// The CRC-32 of what no checksum of their own covers in the batches of a file of `len` bytes: the first 21 bytes of each.
/// `None` if their lengths do not lead to its end. A batch that is longer than a buffer is passed over without being read.
pub(crate) fn frames_crc(file: &dyn DiskFile, len: u64) -> io::Result<Option<u32>> {
    let (mut crc, mut buffer, mut buffered_at, mut position) = (Crc32::new(), Vec::new(), 0, 0);
    while position < len {
        if len - position < BatchHeader::LEN as u64 {
            return Ok(None);
        }
        if position + BatchHeader::CRC_FROM as u64 > buffered_at + buffer.len() as u64 {
            buffer.resize((len - position).min(WINDOW as u64) as usize, 0);
            read_exact_at(file, &mut buffer, position)?;
            buffered_at = position;
        }
        let from = (position - buffered_at) as usize;
        let frame = &buffer[from..from + BatchHeader::CRC_FROM];
        crc.update(frame);
        let batch_len = 12 + u64::from(u32::from_be_bytes([frame[8], frame[9], frame[10], frame[11]]));
        if batch_len < BatchHeader::LEN as u64 || batch_len > len - position {
            return Ok(None);
        }
        position += batch_len;
    }
    Ok(Some(crc.finish()))
}

const WINDOW: usize = 64 << 10;

/// The position after the last byte in `from..to` of `file` that is not zero; `from` if all are. Holes are not read: a
/// segment that has its length from the start is a gigabyte of one.
pub(crate) fn last_data(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<u64> {
    let (mut at, mut last) = (from, from);
    while at < to {
        let Some(start) = file.next_data(at)?.filter(|start| *start < to) else { break };
        let end = file.next_hole(start)?.clamp(start + 1, to);
        let found = last_byte(file, start, end)?;
        last = if found > start { found } else { last };
        at = end;
    }
    Ok(last)
}

fn last_byte(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<u64> {
    let mut piece = vec![0; BUFFER.min((to - from) as usize)];
    let mut end = to;
    while end > from {
        let start = end.saturating_sub(piece.len() as u64).max(from);
        let bytes = &mut piece[..(end - start) as usize];
        read_exact_at(file, bytes, start)?;
        match used(bytes) {
            0 => end = start,
            used => return Ok(start + used as u64),
        }
    }
    Ok(from)
}

/// How many bytes there are up to the last that is not zero. Most are: they are compared many at once.
pub(super) fn used(bytes: &[u8]) -> usize {
    const ZEROS: [u8; 1 << 10] = [0; 1 << 10];
    let blank = bytes.rchunks(ZEROS.len()).take_while(|chunk| **chunk == ZEROS[..chunk.len()]).map(<[u8]>::len).sum();
    let bytes = &bytes[..bytes.len().saturating_sub(blank)];
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, Open, RealDisk};

    #[test]
    fn what_is_used_ends_behind_the_last_byte_that_is_not_zero() {
        for len in [0, 1, 1_023, 1_024, 1_025, 5_000] {
            let mut bytes = vec![0; len];
            assert_eq!(used(&bytes), 0);
            for at in (0..len).filter(|at| at % 331 == 0 || at % 1_024 < 2 || len - at < 3) {
                bytes[at] = 1;
                assert_eq!(used(&bytes), at + 1, "of {len}");
            }
        }
    }

    /// Opening after a kill read the whole of each segment that has its length from the start.
    #[test]
    fn the_last_data_is_found_without_reading_holes() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.open(&dir.path().join("f"), Open::CreateNew).unwrap();
        // To read it all would take an hour.
        let len = 1 << 42;
        file.set_len(len).unwrap();
        assert_eq!(last_data(&*file, 5, len).unwrap(), 5);
        for at in [10, len / 2, len - 1] {
            file.write_at(&[1], at).unwrap();
            assert_eq!(last_data(&*file, 5, len).unwrap(), at + 1);
            assert_eq!(last_data(&*file, 5, 11).unwrap(), 11);
        }
        assert_eq!(last_data(&*file, 11, len / 2).unwrap(), 11);
    }
}
