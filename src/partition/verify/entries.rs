//! The index files of a segment, entry by entry beside the batches they speak of.
//!
//! A judge is shown every batch in order, and takes the entries that are due. So each index is read once, from front to
//! back, in small pieces. Of the entries that are wrong only the first is told, with how many there are: one mistake of a
//! writer makes all of them wrong.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::finding::{Advice, Finding, FindingKind};
use crate::disk::{DiskFile, read_exact_at};
use crate::error::{Error, Result};
use crate::record::BatchHeader;
use crate::segment::offset_index::OffsetEntry;
use crate::segment::scan::last_data;
use crate::segment::time_index::TimeEntry;
use crate::types::{Offset, Timestamp};

/// An open file of entries.
#[derive(Debug, Clone)]
pub(super) struct EntryFile {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) len: u64,
}

/// The entries of a file, one after the other.
#[derive(Debug)]
pub(super) struct Entries<const N: usize> {
    source: Option<EntryFile>,
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    buffered_at: u64,
}

impl<const N: usize> Entries<N> {
    /// The whole entries of a file; of one that is not there, none.
    pub(super) fn new(source: Option<EntryFile>) -> Self {
        let end = source.as_ref().map_or(0, |source| source.len / N as u64 * N as u64);
        Self { source, at: 0, end, buffer: Vec::new(), buffered_at: 0 }
    }

    /// Leaves out the zeros at the end, where nothing was written yet.
    pub(super) fn without_blank(mut self) -> Result<Self> {
        if let Some(source) = self.source.as_ref().filter(|source| source.len > 0) {
            let used = last_data(&*source.file, 0, source.len).map_err(Error::io("read", &*source.path))?;
            self.end = self.end.min(used.next_multiple_of(N as u64));
        }
        Ok(self)
    }

    /// Where the next entry is.
    pub(super) fn position(&self) -> u64 {
        self.at
    }

    /// The next entry.
    #[inline]
    pub(super) fn peek(&mut self) -> Result<Option<&[u8; N]>> {
        if self.at >= self.end {
            return Ok(None);
        }
        if self.at >= self.buffered_at + self.buffer.len() as u64 || self.at < self.buffered_at {
            self.fill()?;
        }
        let from = (self.at - self.buffered_at) as usize;
        Ok(self.buffer[from..].first_chunk())
    }

    pub(super) fn pass(&mut self) {
        self.at += N as u64;
    }

    fn fill(&mut self) -> Result<()> {
        let Some(source) = &self.source else { return Ok(()) };
        let want = (self.end - self.at).min((PIECE / N * N) as u64) as usize;
        self.buffer.resize(want, 0);
        self.buffered_at = self.at;
        let read = read_exact_at(&*source.file, &mut self.buffer, self.at);
        read.inspect_err(|_| self.buffer.clear()).map_err(Error::io("read", &*source.path))
    }
}

const PIECE: usize = 16 << 10;

/// What is wrong with a file: the first place, and how many there are.
#[derive(Debug, Default)]
pub(super) struct Flaw {
    first: Option<(u64, String)>,
    count: u64,
    /// Whether batches are missing that nothing else speaks of.
    tells_of_more: bool,
}

impl Flaw {
    #[cold]
    pub(super) fn add(&mut self, position: u64, what: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.is_none() {
            self.first = Some((position, what()));
        }
    }

    pub(super) fn finding(self, path: &Path, kind: FindingKind) -> Option<Finding> {
        let (position, what) = self.first?;
        let message = match self.count {
            1 => what,
            count => format!("{what}; {} more entries are wrong", count - 1),
        };
        let finding = Finding::new(path, position, kind, message);
        Some(if self.tells_of_more { finding.advice(Advice::Restore) } else { finding })
    }
}

/// How files of entries are judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub(super) base: Offset,
    /// Whether it ends with the last entry that is due: it was closed.
    pub(super) is_complete: bool,
    /// Whether a file of a fixed length may end in zeros.
    pub(super) may_be_blank: bool,
    /// Whether nothing else says where the batches end: offsets may be missing.
    pub(super) tells_end: bool,
}

/// Judges an `.index`.
#[derive(Debug)]
pub(super) struct OffsetJudge {
    entries: Entries<{ OffsetEntry::LEN }>,
    base: Offset,
    tells_end: bool,
    last: Option<OffsetEntry>,
    /// The offset of an entry that was made for several batches: one of the next ones ends with it.
    group: Option<(u64, Offset)>,
    flaw: Flaw,
}

impl OffsetJudge {
    pub(super) fn new(source: Option<EntryFile>, manner: Manner) -> Result<Self> {
        let flaw = length_flaw(source.as_ref(), OffsetEntry::LEN);
        let entries = Entries::new(source);
        // No entry is all zeros: the first batch has none.
        let entries = if manner.may_be_blank { entries.without_blank()? } else { entries };
        let Manner { base, tells_end, .. } = manner;
        Ok(Self { entries, base, tells_end, last: None, group: None, flaw })
    }

    /// Takes the entries up to the batch at `position`.
    #[inline]
    pub(super) fn batch(&mut self, header: &BatchHeader, position: u64) -> Result<()> {
        let last_offset = header.last_offset();
        if let Some((at, offset)) = self.group.filter(|(_, offset)| *offset <= last_offset) {
            if offset != last_offset {
                self.flaw.add(at, || format!("no batch ends with offset {offset}"));
            }
            self.group = None;
        }
        while let Some(bytes) = self.entries.peek()? {
            let entry = OffsetEntry::decode(bytes, self.base);
            if u64::from(entry.position) > position {
                break;
            }
            let at = self.entries.position();
            self.entries.pass();
            self.judge(at, entry, position, last_offset);
            self.last = Some(entry);
        }
        Ok(())
    }

    fn judge(&mut self, at: u64, entry: OffsetEntry, position: u64, last_offset: Offset) {
        let OffsetEntry { offset, position: led } = entry;
        let rises = self.last.is_none_or(|last| last.offset < offset && last.position < led);
        if let Some((group_at, group)) = self.group.take() {
            self.flaw.add(group_at, || format!("no batch before the next entry ends with offset {group}"));
        }
        if !rises {
            self.flaw.add(at, || format!("offset {offset} at byte {led} does not rise"));
        } else if u64::from(led) < position {
            self.flaw.add(at, || format!("it leads to byte {led}, where no batch begins"));
        } else if offset > last_offset {
            // Brokers before 4.0 made one entry for all batches of an append: the end of the last, the place of the first.
            self.group = Some((at, offset));
        } else if offset < last_offset {
            self.flaw.add(at, || format!("the batch at byte {led} ends with offset {last_offset}, not {offset}"));
        }
    }

    /// Passes over the entries of bytes that could not be judged.
    pub(super) fn skip_to(&mut self, position: u64) -> Result<()> {
        self.group = None;
        while let Some(bytes) = self.entries.peek()? {
            let entry = OffsetEntry::decode(bytes, self.base);
            if u64::from(entry.position) >= position {
                break;
            }
            self.entries.pass();
        }
        Ok(())
    }

    /// There are no more batches: what is wrong with the file. They end at byte `limit`, where offset `next` is due.
    pub(super) fn end(mut self, path: &Path, limit: u64, next: Offset) -> Result<Option<Finding>> {
        if let Some((at, offset)) = self.group.take() {
            self.flaw.add(at, || format!("no batch ends with offset {offset}"));
        }
        while let Some(bytes) = self.entries.peek()? {
            let OffsetEntry { offset, position } = OffsetEntry::decode(bytes, self.base);
            let at = self.entries.position();
            self.flaw.add(at, || {
                format!("offset {offset} at byte {position}, where the batches end at byte {limit} or before")
            });
            // Both are past the end: no single damage of the index makes that of an entry for a batch that is there.
            self.flaw.tells_of_more |= self.tells_end && offset >= next && u64::from(position) >= limit;
            self.entries.pass();
        }
        Ok(self.flaw.finding(path, FindingKind::Index))
    }
}

/// Judges a `.timeindex`.
#[derive(Debug)]
pub(super) struct TimeJudge {
    entries: Entries<{ TimeEntry::LEN }>,
    manner: Manner,
    last: Option<TimeEntry>,
    largest: Option<TimeEntry>,
    /// Whether nothing before was passed over.
    is_whole: bool,
    flaw: Flaw,
}

impl TimeJudge {
    pub(super) fn new(source: Option<EntryFile>, manner: Manner) -> Result<Self> {
        let flaw = length_flaw(source.as_ref(), TimeEntry::LEN);
        let entries = Entries::new(source);
        let entries = if manner.may_be_blank { entries.without_blank()? } else { entries };
        Ok(Self { entries, manner, last: None, largest: None, is_whole: true, flaw })
    }

    /// Takes the entries up to this batch.
    #[inline]
    pub(super) fn batch(&mut self, header: &BatchHeader) -> Result<()> {
        let (timestamp, offset) = (header.max_timestamp, header.last_offset());
        if timestamp.is_some() && self.largest.is_none_or(|largest| timestamp > largest.timestamp) {
            self.largest = Some(TimeEntry { timestamp, offset });
        }
        while let Some(bytes) = self.entries.peek()? {
            let entry = TimeEntry::decode(bytes, self.manner.base);
            if entry.offset > offset {
                break;
            }
            let at = self.entries.position();
            self.entries.pass();
            self.judge(at, entry);
            self.last = Some(entry);
        }
        Ok(())
    }

    fn judge(&mut self, at: u64, entry: TimeEntry) {
        let TimeEntry { timestamp, offset } = entry;
        let rises = self.last.is_none_or(|last| last.timestamp < timestamp && last.offset < offset);
        let largest = self.largest.map_or(Timestamp::NONE, |largest| largest.timestamp);
        if !rises {
            self.flaw.add(at, || format!("time {timestamp} up to offset {offset} does not rise"));
        } else if timestamp != largest && (self.is_whole || timestamp < largest) {
            self.flaw.add(at, || format!("the largest time up to offset {offset} is {largest}, not {timestamp}"));
        }
    }

    /// Passes over the entries of batches that could not be judged.
    pub(super) fn skip_to(&mut self, offset: Offset) -> Result<()> {
        self.is_whole = false;
        while let Some(bytes) = self.entries.peek()? {
            let entry = TimeEntry::decode(bytes, self.manner.base);
            if entry.offset >= offset {
                break;
            }
            self.last = Some(entry);
            self.entries.pass();
        }
        Ok(())
    }

    /// The largest time, and the last offset of the batch that has it; `None` if not all batches were seen.
    pub(super) fn largest(&self) -> Option<Option<(Timestamp, Offset)>> {
        self.is_whole.then(|| self.largest.map(|largest| (largest.timestamp, largest.offset)))
    }

    /// There are no more batches: what is wrong with the file.
    pub(super) fn end(mut self, path: &Path, next: Offset) -> Result<Option<Finding>> {
        while let Some(bytes) = self.entries.peek()? {
            let TimeEntry { timestamp, offset } = TimeEntry::decode(bytes, self.manner.base);
            let at = self.entries.position();
            self.flaw.add(at, || format!("time {timestamp} up to offset {offset}, where offset {next} comes next"));
            // An entry for a batch that is there has no later time than they all.
            let is_later = self.largest.is_none_or(|largest| timestamp > largest.timestamp);
            self.flaw.tells_of_more |= self.manner.tells_end && self.is_whole && offset >= next && is_later;
            self.entries.pass();
        }
        let last = self.last.map_or(Timestamp::NONE, |last| last.timestamp);
        if let Some(largest) = self.largest.filter(|largest| largest.timestamp > last)
            && self.manner.is_complete
            && self.is_whole
        {
            let at = self.entries.position();
            let time = largest.timestamp;
            self.flaw.add(at, || format!("its last time is {last}, and the largest of the segment is {time}"));
        }
        Ok(self.flaw.finding(path, FindingKind::TimeIndex))
    }
}

/// Entries are whole.
pub(super) fn length_flaw(source: Option<&EntryFile>, entry_len: usize) -> Flaw {
    let mut flaw = Flaw::default();
    if let Some(len) = source.map(|source| source.len).filter(|len| len % entry_len as u64 != 0) {
        let at = len / entry_len as u64 * entry_len as u64;
        flaw.add(at, || format!("a length of {len} bytes is not one of whole entries of {entry_len}"));
    }
    flaw
}
