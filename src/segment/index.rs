//! The two sparse indexes of a segment together: grown beside the batches, written at the seal, loaded or rebuilt.

use std::path::Path;
use std::sync::Arc;

use super::files::Files;
use super::offset_index::{self, Near, OffsetEntry};
use super::scan::{self, Scan, frames_crc};
use super::seal::Seal;
use super::time_index::{self, TimeEntry};
use super::{FileKind, file_path};
use crate::checksum::Digest;
use crate::disk::{self, Disk, Open, Vouched, read_exact_at, write_all_at};
use crate::error::{Error, Result};
use crate::probe;
use crate::record::BatchHeader;
use crate::sys::{Region, RegionWriter};
use crate::types::{Offset, Timestamp};

/// Entries that may be searched without a lock.
#[derive(Debug)]
pub(crate) struct Index {
    offsets: Entries,
    times: Entries,
    trust: Trust,
}

/// How far an index is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// It was in the files: an offset is believed if the batch it leads to has it, a time is not.
    Found,
    /// The times were compared with the batches.
    TimesChecked,
    /// The times are wrong, and a batch is damaged, so that nothing says what they should be. There are none.
    TimesUnknown,
    /// A seal says that it is theirs, or it was made from the batches.
    Vouched,
}

#[derive(Debug)]
enum Entries {
    /// Being written: grows while it is read.
    Growing(Region),
    Loaded(Box<[u8]>),
}

impl Entries {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Growing(region) => region.readable(),
            Self::Loaded(bytes) => bytes,
        }
    }
}

/// A loaded index and what is known of the segment with it.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) index: Index,
    pub(crate) largest: Option<(Timestamp, Offset)>,
    pub(crate) source: Source,
    /// What the seal says of offsets, lengths and epochs, if it does.
    frames: Option<u32>,
}

/// Where an index came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// From its files, and a seal says that the whole segment is as this crate wrote it.
    Sealed,
    /// From its files.
    Found,
    /// From the batches: the files are missing, or wrong.
    Rebuilt,
}

impl Index {
    /// Where to begin looking for the batch that holds `target`: at it, or before.
    pub(crate) fn floor(&self, base: Offset, target: Offset) -> Near {
        offset_index::floor(self.offsets.bytes(), base, target)
    }

    /// An offset such that every record before it has a timestamp below `timestamp`, and some batch begins there or
    /// a little before.
    pub(crate) fn time_floor(&self, base: Offset, timestamp: Timestamp) -> Offset {
        // The entry says that the largest timestamp up to its offset is its own: below `timestamp`, all are.
        let below = Timestamp(timestamp.0.saturating_sub(1));
        time_index::floor(self.times.bytes(), base, below).map_or(base, |entry| entry.offset)
    }

    pub(crate) fn is_vouched(&self) -> bool {
        self.trust == Trust::Vouched
    }

    pub(crate) fn has_true_times(&self) -> bool {
        matches!(self.trust, Trust::TimesChecked | Trust::Vouched)
    }

    pub(crate) fn has_unchecked_times(&self) -> bool {
        self.trust == Trust::Found
    }

    /// Looks at the times of an index that nobody vouches for, batch by batch.
    pub(crate) fn check_times(&self, base: Offset) -> TimesCheck<'_> {
        TimesCheck { entries: time_index::entries(self.times.bytes()), base, largest: None, is_good: true }
    }

    /// The same, now that its times were checked.
    pub(crate) fn with_true_times(&self) -> Self {
        let copy = |entries: &Entries| Entries::Loaded(entries.bytes().into());
        Self { offsets: copy(&self.offsets), times: copy(&self.times), trust: Trust::TimesChecked }
    }

    /// The same, after its times turned out to be wrong, and no others can be made.
    pub(crate) fn without_times(&self) -> Self {
        Self { times: Entries::Loaded(Box::default()), trust: Trust::TimesUnknown, ..self.with_true_times() }
    }

    /// Whether it can be dropped and loaded again.
    pub(crate) fn is_loaded(&self) -> bool {
        matches!(self.offsets, Entries::Loaded(_))
    }

    /// The index of a sealed segment: from its files if the seal vouches for them, else from its batches.
    pub(crate) fn load(files: &Arc<Files>, log: &Path, base: Offset, len: u64) -> Result<Loaded> {
        let dir = log.parent().unwrap_or(Path::new("."));
        if let Some(loaded) = Self::vouched(&*files.disk, dir, base, len) {
            if let Some(frames) = loaded.frames {
                check_frames(&*files.disk, log, len, frames)?;
            }
            return Ok(loaded);
        }
        match Self::found(&*files.disk, dir, base, len) {
            Some(index) => Ok(Loaded { index, largest: None, source: Source::Found, frames: None }),
            None => Self::rebuild(&*files.disk, log, base, len),
        }
    }

    /// What the files hold, if it can be an index of a segment of `len` bytes. Nobody says that it is this one's.
    fn found(disk: &dyn Disk, dir: &Path, base: Offset, len: u64) -> Option<Self> {
        let batches = len / BatchHeader::LEN as u64;
        let read = |kind, entry_len: usize| {
            let file = disk.open(&file_path(dir, base, kind), Open::Read).ok()?;
            let found = file.metadata().ok()?.len;
            if found % entry_len as u64 != 0 {
                return None;
            }
            // No more entries than batches: a broker reserves room for more, and leaves it as zeros when it is killed.
            let mut bytes = vec![0; found.min((batches + 1) * entry_len as u64) as usize];
            read_exact_at(&*file, &mut bytes, 0).ok()?;
            let used = scan::used(&bytes);
            bytes.truncate(used.next_multiple_of(entry_len));
            Some(Entries::Loaded(bytes.into()))
        };
        let offsets = read(FileKind::Index, OffsetEntry::LEN)?;
        let times = read(FileKind::TimeIndex, TimeEntry::LEN)?;
        probe::reached("index.found");
        Some(Self { offsets, times, trust: Trust::Found })
    }

    fn vouched(disk: &dyn Disk, dir: &Path, base: Offset, len: u64) -> Option<Loaded> {
        if probe::planted("segment.index_believed") {
            let read = |kind| disk::read_file(disk, &file_path(dir, base, kind), u64::MAX).map(Vec::into_boxed_slice);
            let (offsets, times) = (read(FileKind::Index).ok()?, read(FileKind::TimeIndex).ok()?);
            let index =
                Self { offsets: Entries::Loaded(offsets), times: Entries::Loaded(times), trust: Trust::Vouched };
            return Some(Loaded { index, largest: None, source: Source::Sealed, frames: None });
        }
        let seal = Seal::load(disk, dir, base, len)?;
        let offsets = disk::read_vouched(disk, &file_path(dir, base, FileKind::Index), seal.index)?;
        let times = disk::read_vouched(disk, &file_path(dir, base, FileKind::TimeIndex), seal.time_index)?;
        probe::reached("index.vouched");
        let index = Self { offsets: Entries::Loaded(offsets), times: Entries::Loaded(times), trust: Trust::Vouched };
        Some(Loaded { index, largest: seal.largest, source: Source::Sealed, frames: seal.frames })
    }

    /// Makes it anew from the batches.
    pub(crate) fn rebuild(disk: &dyn Disk, log: &Path, base: Offset, len: u64) -> Result<Loaded> {
        probe::reached("index.rebuilt");
        let file = disk.open(log, Open::Read).map_err(Error::io("open", log))?;
        // Room for an entry at every batch of the smallest size that makes one.
        let room = (len / u64::from(DEFAULT_INTERVAL) + 2) as usize * TimeEntry::LEN;
        let mut writer = IndexWriter::new(base, room, DEFAULT_INTERVAL)?;
        let mut scan = Scan::new(&*file, 0, len, base, false);
        loop {
            match scan.next().map_err(|error| cut_short(log, len, error))? {
                Ok(batch) => writer.push(&batch.header, batch.position, u64::from(batch.header.batch_len)),
                Err(stop) if stop.position == len => break,
                Err(stop) => return Err(Error::corrupt(log, stop.position, stop.reason)),
            }
        }
        writer.close();
        let loaded = |writer: &RegionWriter| Entries::Loaded(writer.region().readable().into());
        let index = Self { offsets: loaded(&writer.offsets), times: loaded(&writer.times), trust: Trust::Vouched };
        Ok(Loaded { index, largest: writer.largest, source: Source::Rebuilt, frames: None })
    }
}

/// Compares the times of an index with the headers of its segment, of the first batch on.
#[derive(Debug)]
pub(crate) struct TimesCheck<'i> {
    /// Those of batches to come.
    entries: &'i [[u8; TimeEntry::LEN]],
    base: Offset,
    largest: Option<(Timestamp, Offset)>,
    is_good: bool,
}

impl TimesCheck<'_> {
    /// The next batch.
    pub(crate) fn push(&mut self, header: &BatchHeader) {
        let (timestamp, last) = (header.max_timestamp, header.last_offset());
        while let Some((entry, rest)) = self.entries.split_first() {
            let entry = TimeEntry::decode(entry, self.base);
            if entry.offset > last {
                break;
            }
            // An older broker notes the offset of the very record, a newer one that of the last in its batch.
            let is_of_this = entry.offset >= header.base_offset && entry.timestamp == timestamp;
            self.is_good &= is_of_this && self.largest.is_none_or(|(largest, _)| largest < timestamp);
            self.entries = rest;
        }
        if timestamp.is_some() && self.largest.is_none_or(|(largest, _)| timestamp > largest) {
            self.largest = Some((timestamp, last));
        }
    }

    /// After the last one: whether every entry is true, and the largest timestamp with the last offset of its batch.
    pub(crate) fn finish(self) -> (bool, Option<(Timestamp, Offset)>) {
        (self.is_good && self.entries.is_empty(), self.largest)
    }
}

/// Refuses a segment in which the offset, length or leader epoch of a batch is not what the seal says.
fn check_frames(disk: &dyn Disk, log: &Path, len: u64, expected: u32) -> Result<()> {
    let file = disk.open(log, Open::Read).map_err(Error::io("open", log))?;
    match frames_crc(&*file, len).map_err(|error| cut_short(log, len, error))? {
        Some(found) if found == expected => Ok(()),
        _ => {
            probe::reached("index.frames_differ");
            Err(Error::corrupt(log, 0, "offset, length or epoch of a batch is not what was written"))
        }
    }
}

fn cut_short(log: &Path, len: u64, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::corrupt(log, len, "the file ends before this"),
        _ => Error::io("read", log)(error),
    }
}

/// Grows the indexes of the active segment, by Kafka's rule: an entry before the batch that follows more than
/// `interval` bytes without one; the first batch never has one.
#[derive(Debug)]
pub(crate) struct IndexWriter {
    base: Offset,
    interval: u32,
    since_last: u64,
    offsets: RegionWriter,
    times: RegionWriter,
    largest: Option<(Timestamp, Offset)>,
    last_time: Option<Timestamp>,
    /// How much of each is in its file.
    persisted: [usize; 2],
}

impl IndexWriter {
    pub(crate) fn new(base: Offset, bytes: usize, interval: u32) -> Result<Self> {
        let region = |entry: usize| {
            let room = (bytes / entry).max(2) * entry;
            RegionWriter::new(room).ok_or(Error::Unsupported { what: "an index of this size in this memory" })
        };
        Ok(Self {
            base,
            interval,
            since_last: 0,
            offsets: region(OffsetEntry::LEN)?,
            times: region(TimeEntry::LEN)?,
            largest: None,
            last_time: None,
            persisted: [0; 2],
        })
    }

    pub(crate) fn reader(&self) -> Index {
        let growing = |writer: &RegionWriter| Entries::Growing(writer.region());
        Index { offsets: growing(&self.offsets), times: growing(&self.times), trust: Trust::Vouched }
    }

    /// The largest timestamp so far and the last offset of the batch that holds it.
    pub(crate) fn largest(&self) -> Option<(Timestamp, Offset)> {
        self.largest
    }

    /// Takes note of `len` bytes of batches written at `position`, `header` being the last one's.
    pub(crate) fn push(&mut self, header: &BatchHeader, position: u64, len: u64) {
        let (timestamp, last) = (header.max_timestamp, header.last_offset());
        if timestamp.is_some() && self.largest.is_none_or(|(largest, _)| timestamp > largest) {
            self.largest = Some((timestamp, last));
        }
        if self.since_last > u64::from(self.interval) {
            if let Some(entry) = OffsetEntry::at(last, position).and_then(|entry| entry.encode(self.base)) {
                let _ = self.offsets.push(&entry);
            }
            self.push_time();
            self.since_last = 0;
        }
        self.since_last += len;
    }

    fn push_time(&mut self) {
        let Some((timestamp, offset)) = self.largest else { return };
        if self.last_time.is_some_and(|last| timestamp <= last) {
            return;
        }
        if let Some(entry) = (TimeEntry { timestamp, offset }).encode(self.base)
            && self.times.push(&entry)
        {
            self.last_time = Some(timestamp);
        }
    }

    /// Adds the closing entry: the largest timestamp of the whole segment.
    pub(crate) fn close(&mut self) {
        self.push_time();
    }

    /// Whether either index has no room for another entry beside the closing one.
    pub(crate) fn is_full(&self) -> bool {
        self.room() == 0
    }

    /// How many entries there is room for, beside the closing one.
    pub(crate) fn room(&self) -> usize {
        let left = |writer: &RegionWriter, entry: usize| (writer.capacity() - writer.len()) / entry;
        left(&self.offsets, OffsetEntry::LEN).min(left(&self.times, TimeEntry::LEN).saturating_sub(1))
    }

    /// Brings the files of the indexes up to date. They follow the data, and are not synced: nobody believes them
    /// without a seal or a note.
    pub(crate) fn persist(&mut self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        for (at, (kind, region)) in self.regions().into_iter().enumerate() {
            let bytes = region.readable();
            let path = file_path(dir, self.base, kind);
            write_from(disk, &path, bytes, self.persisted[at])?;
            self.persisted[at] = bytes.len();
        }
        Ok(())
    }

    /// What each of the two files holds once every entry is in it.
    pub(crate) fn regions(&self) -> [(FileKind, Region); 2] {
        [(FileKind::Index, self.offsets.region()), (FileKind::TimeIndex, self.times.region())]
    }

    /// Whether the files of the indexes hold every entry.
    pub(crate) fn is_persisted(&self) -> bool {
        self.persisted == [self.offsets.len(), self.times.len()]
    }

    /// What the files of the indexes hold once persisted.
    pub(crate) fn digests(&self) -> [Digest; 2] {
        let digest = |writer: &RegionWriter, len: usize| Digest::of(&writer.region().readable()[..len]);
        [digest(&self.offsets, self.persisted[0]), digest(&self.times, self.persisted[1])]
    }

    /// Takes over the entries in the files of `dir`, if they are what the digests were made of, and goes on after them;
    /// `false` if they are not. `state` is what it was when they were persisted.
    pub(crate) fn restore(&mut self, disk: &dyn Disk, dir: &Path, digests: [Digest; 2], state: Grown) -> bool {
        let kinds = [(&mut self.offsets, FileKind::Index), (&mut self.times, FileKind::TimeIndex)];
        for ((region, kind), digest) in kinds.into_iter().zip(digests).filter(|(_, digest)| digest.len > 0) {
            let vouched = Vouched::open(disk, &file_path(dir, self.base, kind), digest);
            // Read where they belong: pages of memory are dear, and these are the most that opening needs.
            let read =
                vouched.is_some_and(|vouched| region.push_with(digest.len as usize, |bytes| vouched.read(bytes)));
            if !read {
                return false;
            }
        }
        self.persisted = digests.map(|digest| digest.len as usize);
        self.largest = state.largest;
        self.since_last = state.since_last;
        self.last_time = time_index::last(self.times.region().readable(), self.base).map(|entry| entry.timestamp);
        true
    }

    /// What [`restore`](Self::restore) needs beside the entries.
    pub(crate) fn grown(&self) -> Grown {
        Grown { largest: self.largest, since_last: self.since_last }
    }
}

/// The state of a growing index beside its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Grown {
    pub(crate) largest: Option<(Timestamp, Offset)>,
    pub(crate) since_last: u64,
}

/// Makes the file at `path` hold `bytes`, of which the first `have` are there already. If none are, it is made anew: one
/// that is there may be the file of a backup, too.
fn write_from(disk: &dyn Disk, path: &Path, bytes: &[u8], have: usize) -> Result<()> {
    let is_missing = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    let opened = match have {
        0 => match disk.remove_file(path) {
            Err(error) if !is_missing(&error) => return Err(Error::io("remove", path)(error)),
            _ => None,
        },
        _ => match disk.open(path, Open::Write) {
            Err(error) if !is_missing(&error) => return Err(Error::io("open", path)(error)),
            opened => opened.ok(),
        },
    };
    let file = match opened {
        Some(file) => file,
        None => disk.open(path, Open::CreateNew).map_err(Error::io("create", path))?,
    };
    write_all_at(&*file, &bytes[have..], have as u64).map_err(Error::io("write", path))?;
    let len = file.metadata().map_err(Error::io("describe", path))?.len;
    if len > bytes.len() as u64 {
        file.set_len(bytes.len() as u64).map_err(Error::io("trim", path))?;
    }
    Ok(())
}

/// Kafka's default for `index.interval.bytes`.
const DEFAULT_INTERVAL: u32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Attributes;
    use crate::types::{LeaderEpoch, ProducerEpoch, ProducerId};
    use proptest::prelude::*;

    const BASE: Offset = Offset(17);

    /// A batch of one record.
    fn header(offset: u64, timestamp: i64) -> BatchHeader {
        BatchHeader {
            base_offset: BASE + offset,
            batch_len: BatchHeader::LEN as u32,
            leader_epoch: LeaderEpoch::NONE,
            crc: 0,
            attributes: Attributes::default(),
            last_offset_delta: 0,
            base_timestamp: Timestamp(timestamp),
            max_timestamp: Timestamp(timestamp),
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch::NONE,
            base_sequence: -1,
            record_count: 1,
        }
    }

    fn writer(interval: u32) -> IndexWriter {
        IndexWriter::new(BASE, 4096, interval).unwrap()
    }

    fn times(writer: &IndexWriter) -> Vec<(i64, u64)> {
        let region = writer.times.region();
        let entries = region.readable().as_chunks().0.iter().map(|bytes| TimeEntry::decode(bytes, BASE));
        entries.map(|entry| (entry.timestamp.0, entry.offset - BASE)).collect()
    }

    /// For each batch of such a length, whether it gets an entry.
    fn admitted(interval: u32, lens: &[u64]) -> Vec<bool> {
        let mut writer = writer(interval);
        let mut position = 0;
        let admitted = lens.iter().enumerate().map(|(offset, len)| {
            let before = writer.offsets.len();
            writer.push(&header(offset as u64, 0), position, *len);
            position += len;
            writer.offsets.len() > before
        });
        admitted.collect()
    }

    #[test]
    fn an_entry_is_due_after_more_than_the_interval() {
        // 0, 91, 200 -> entry, 91, 183 -> entry, 78, 169 -> entry: the fixture's first segment.
        let lens = [91, 109, 91, 92, 78, 91, 78];
        assert_eq!(admitted(150, &lens), [false, false, true, false, true, false, true]);
        assert_eq!(admitted(100, &[100, 1, 1]), [false, false, true], "100 bytes are not more than 100");
        assert_eq!(admitted(0, &[61, 61]), [false, true], "never the first batch");
    }

    #[test]
    fn a_lower_or_equal_timestamp_adds_nothing() {
        let mut writer = writer(0);
        for (offset, timestamp) in [-1, -1, 5, 5, 4].into_iter().enumerate() {
            writer.push(&header(offset as u64, timestamp), 0, 61);
        }
        assert_eq!(times(&writer), [(5, 2)], "no timestamp is none to index");
        writer.close();
        assert_eq!((times(&writer), writer.largest()), (vec![(5, 2)], Some((Timestamp(5), BASE + 2))));
    }

    proptest! {
        /// What is added is sorted, and tells the largest timestamp of all batches once the segment is closed.
        #[test]
        fn time_entries_rise_and_end_with_the_largest(
            batches in prop::collection::vec((-1..9_i64, 1..200_u64), 0..30),
        ) {
            let mut writer = writer(150);
            for (offset, (timestamp, len)) in batches.iter().enumerate() {
                writer.push(&header(offset as u64, *timestamp), 0, *len);
            }
            writer.close();
            let added = times(&writer);
            prop_assert!(added.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1));

            let largest = batches.iter().map(|(timestamp, _)| *timestamp).max().filter(|largest| *largest >= 0);
            let holder = batches.iter().position(|(timestamp, _)| Some(*timestamp) == largest);
            prop_assert_eq!(added.last().copied(), largest.zip(holder.map(|holder| holder as u64)));
        }
    }
}
