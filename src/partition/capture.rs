//! A partition as it is at one moment, and a copy of that in another directory, made while the partition goes on.
//!
//! ```text
//! here      |-- sealed, finished --|-- sealed --|-- the last file --|-- staged --|
//! copy          hard links             copied        copied, with what is staged behind it
//! ```
//!
//! The moment is one hold of the append lock. It takes down lengths and names, opens the last file, and copies what is
//! staged, at most one slot. The bytes come later: below a length that was published no byte ever changes.
//!
//! A finished segment is linked: nobody writes to its files any more, here or there. Whoever makes such a file anew
//! removes its name first, and whoever has to go on writing an old one gives it contents of its own
//! ([`unshare`](crate::disk::replace::unshare)). What is not finished is copied, and its batches are verified in the
//! copy: that yields the indexes and the seal that it lacks, and whoever opens the copy finds it closed in order.
//!
//! Retention may take segments away meanwhile, the oldest first. Then the copy begins with the first that was there:
//! still a part of the partition of that moment, without a gap.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::compact::swap::NamesHeld;
use super::core::Core;
use super::follow::{EPOCHS_FILE, encode_between};
use super::hints::CleanPartition;
use crate::checksum::{Crc32, Digest};
use crate::disk::{Disk, DiskFile, Open, read_exact_at, write_all_at};
use crate::error::{Error, Result};
use crate::probe;
use crate::segment::data::SegmentData;
use crate::segment::index::IndexWriter;
use crate::segment::scan::Scan;
use crate::segment::seal::Seal;
use crate::segment::txn_index::AbortedTxn;
use crate::segment::{FileKind, file_path};
use crate::types::{Offset, Timestamp};

/// What a partition holds at one moment.
#[derive(Debug)]
pub(crate) struct Captured {
    core: Arc<Core>,
    /// Files are linked and copied by their names.
    _names: NamesHeld,
    start: Offset,
    end: Offset,
    segments: Arc<[Arc<SegmentData>]>,
    /// Sealed segments that are not finished, and the state of producers at the end of each.
    unfinished: BTreeMap<Offset, Vec<u8>>,
    last: Option<Last>,
    aborted: Arc<[AbortedTxn]>,
    has_producers: bool,
    /// The state of producers at the end.
    snapshot: Vec<u8>,
    epochs: String,
}

/// The last segment, which others append to meanwhile.
#[derive(Debug)]
struct Last {
    data: Arc<SegmentData>,
    file: Arc<dyn DiskFile>,
    len: u64,
    /// Batches that belong behind it.
    staged: Vec<u8>,
}

/// How a copy came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub(crate) linked: u64,
    pub(crate) copied: u64,
    pub(crate) copied_bytes: u64,
}

/// What a copy holds.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) start: Offset,
    pub(crate) end: Offset,
    /// Where the first segment begins, if there is one.
    pub(crate) first_base: Option<Offset>,
    /// What the mark of an orderly close says about the copy; none if it cannot be opened by one.
    pub(crate) clean: Option<CleanPartition>,
}

impl Core {
    /// Takes down what the partition holds now. No segment is being finished meanwhile: the caller sees to that.
    pub(crate) fn capture(self: &Arc<Self>) -> Result<Captured> {
        let names = self.hold_names()?;
        let mut writer = self.lock();
        self.check()?;
        let end = writer.end;
        // First: on a topic with a codec this may write what is staged.
        let staged = writer.read_tail(self, Offset::ZERO, end, usize::MAX)?;
        let start = self.start();
        let segments = self.segments();
        let last = match segments.last() {
            Some(data) => {
                let file = self.context.disk().open(data.path(), Open::Read);
                let file = file.map_err(Error::io("open", data.path()))?;
                let staged = staged.map_or_else(Vec::new, |piece| piece.bytes.as_slice().to_vec());
                Some(Last { data: Arc::clone(data), file, len: data.len(), staged })
            }
            None => None,
        };
        let unfinished = writer.unfinished.iter().map(|sealed| (sealed.data.base(), sealed.snapshot.clone()));
        Ok(Captured {
            core: Arc::clone(self),
            _names: names,
            start,
            end,
            unfinished: unfinished.collect(),
            segments,
            last,
            aborted: self.aborted()?,
            has_producers: writer.followed.producers.count() > 0,
            snapshot: writer.followed.producers.snapshot(),
            epochs: writer.followed.epochs.to_text(),
        })
    }
}

impl Captured {
    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// Makes the directory `into`, and in it a copy of what was captured. Its files and their names are durable when
    /// this returns; the name of the directory is not.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], [`Error::TopicDeleted`]; [`Error::Corrupt`] if what is not finished does not verify;
    /// [`Error::Io`]. What was made by then is left.
    pub(crate) fn store(&self, into: &Path, tally: &mut Tally) -> Result<Stored> {
        let disk = self.core.context.disk();
        disk.create_dir(into).map_err(Error::io("create directory", into))?;
        let (names, segments) = (Vec::new(), Vec::new());
        let mut copying = Copying { of: self, disk, into, tally: Tally::default(), names, segments };
        for at in 0..self.segments.len().saturating_sub(1) {
            copying.sealed(at)?;
        }
        let walked = self.last.as_ref().map(|last| copying.last(last)).transpose()?;
        if self.last.is_none() && self.end > Offset::ZERO {
            // The name of a segment says where the log goes on.
            copying.put_derived(self.end, FileKind::Log, &[])?;
            copying.segments.push((self.end, 0));
        }
        if walked.is_some() || self.end > Offset::ZERO {
            copying.put_new(&into.join(EPOCHS_FILE), self.epochs.as_bytes())?;
        }
        disk.sync_dir(into).map_err(Error::io("sync directory", into))?;
        let Copying { tally: done, segments, .. } = copying;
        tally.linked += done.linked;
        tally.copied += done.copied;
        tally.copied_bytes += done.copied_bytes;
        let first_base = segments.first().map(|(base, _)| *base);
        let start = self.start.max(first_base.unwrap_or_default());
        let clean = walked.and_then(|walked| self.clean(start, segments, walked));
        Ok(Stored { start, end: self.end, first_base, clean })
    }

    fn clean(&self, start: Offset, segments: Vec<(Offset, u64)>, walked: Walked) -> Option<CleanPartition> {
        // In an index without room something may be missing.
        if walked.index.is_full() {
            return None;
        }
        let [offsets, times] = walked.index.regions().map(|(_, region)| Digest::of(region.readable()));
        Some(CleanPartition {
            segments,
            start,
            end: self.end,
            last_batch: walked.last_batch,
            index: offsets,
            time_index: times,
            grown: walked.index.grown(),
            first_timestamp: walked.first_timestamp,
            has_producers: self.has_producers,
            has_aborted: !self.aborted.is_empty(),
        })
    }

    /// The state of producers at the end of a segment that is not finished.
    fn unfinished(&self, base: Offset) -> Option<&[u8]> {
        self.unfinished.get(&base).map(|snapshot| &snapshot[..])
    }

    /// Refuses what was reached by its name, if the name may lead to somebody else's file by now.
    fn check_ours(&self) -> Result<()> {
        self.core.home.check().map_err(|_| self.core.halted())
    }
}

/// A copy that is being made.
struct Copying<'a> {
    of: &'a Captured,
    disk: &'a dyn Disk,
    into: &'a Path,
    tally: Tally,
    /// The names made so far, all of sealed segments.
    names: Vec<(Offset, FileKind)>,
    /// Base offset and length of each segment in the copy.
    segments: Vec<(Offset, u64)>,
}

/// What the batches of a segment say.
struct Walked {
    index: IndexWriter,
    first_timestamp: Option<Timestamp>,
    /// Position and checksum.
    last_batch: Option<(u64, u32)>,
}

impl Copying<'_> {
    /// Takes over the sealed segment number `at`, unless it was removed meanwhile: then all before it was, too.
    fn sealed(&mut self, at: usize) -> Result<()> {
        let segment = &self.of.segments[at];
        let put = self.put_sealed(at);
        // Before anything that it may have led to.
        self.of.check_ours()?;
        if self.of.core.has_dropped(segment) {
            probe::reached("backup.removed_meanwhile");
            return self.begin_anew();
        }
        put
    }

    fn put_sealed(&mut self, at: usize) -> Result<()> {
        let (segment, next) = (&self.of.segments[at], self.of.segments[at + 1].base());
        let (base, len) = (segment.base(), segment.len());
        self.put_snapshot(at)?;
        let is_finished = self.of.unfinished(base).is_none()
            && Seal::load(self.disk, &self.of.core.dir, base, len).is_some_and(|seal| seal.end == next);
        if is_finished {
            self.bring(base, FileKind::Log, true)?;
            // The seal last: it vouches for the rest.
            for kind in [FileKind::Index, FileKind::TimeIndex, FileKind::TxnIndex, FileKind::Seal] {
                self.bring(base, kind, false)?;
            }
        } else {
            self.copy_and_finish(segment, next)?;
        }
        self.segments.push((base, len));
        Ok(())
    }

    /// Forgets the segments so far: they lie below the start of what is left.
    fn begin_anew(&mut self) -> Result<()> {
        for (base, kind) in std::mem::take(&mut self.names) {
            let path = file_path(self.into, base, kind);
            match self.disk.remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", path)(error));
                }
                _ => {}
            }
        }
        self.tally = Tally::default();
        self.segments.clear();
        Ok(())
    }

    /// The state of producers at the beginning of a segment: its file is written when the segment before is finished.
    fn put_snapshot(&mut self, at: usize) -> Result<()> {
        let base = self.of.segments[at].base();
        let before = at.checked_sub(1).and_then(|before| self.of.unfinished(self.of.segments[before].base()));
        match before {
            Some(snapshot) => self.put_derived(base, FileKind::Snapshot, snapshot),
            None => self.bring(base, FileKind::Snapshot, false),
        }
    }

    /// Copies a sealed segment, and makes what it lacks.
    fn copy_and_finish(&mut self, segment: &SegmentData, next: Offset) -> Result<()> {
        let (base, len) = (segment.base(), segment.len());
        let source = self.disk.open(segment.path(), Open::Read).map_err(Error::io("open", segment.path()))?;
        let (file, log_crc) = self.copy_log(&*source, segment, len, &[])?;
        // Room for an entry after as many bytes as one takes at least.
        let room = (len / u64::from(INTERVAL) + 2).saturating_mul(12);
        let index = IndexWriter::new(base, usize::try_from(room).unwrap_or(usize::MAX), INTERVAL)?;
        let walked = self.walk(&*file, segment, len, next, index)?;
        let [index, time_index] = self.put_indexes(base, &walked.index)?;
        let txn_index = self.put_aborted(base, next)?;
        let largest = walked.index.largest();
        let frames = self.of.core.frames_of(&*file, segment)?;
        let seal = Seal { base, end: next, log_len: len, largest, log_crc, index, time_index, txn_index, frames };
        self.put_derived(base, FileKind::Seal, &seal.encode())
    }

    /// Copies the last segment, and makes what goes with it after an orderly close.
    fn last(&mut self, last: &Last) -> Result<Walked> {
        let (base, end) = (last.data.base(), self.of.end);
        if end > base {
            self.put_snapshot(self.of.segments.len() - 1)?;
        }
        self.put_derived(end, FileKind::Snapshot, &self.of.snapshot)?;
        let (file, _) = self.copy_log(&*last.file, &last.data, last.len, &last.staged)?;
        let len = last.len + last.staged.len() as u64;
        let config = *self.of.core.config.read();
        let (room, interval) = (config.segment_index_bytes as usize, config.index_interval_bytes as u32);
        let walked = self.walk(&*file, &last.data, len, end, IndexWriter::new(base, room, interval)?)?;
        self.put_indexes(base, &walked.index)?;
        self.put_aborted(base, end)?;
        self.segments.push((base, len));
        // A name that was ours when it was opened leads to a file that stays ours, but a snapshot was linked.
        self.of.check_ours()?;
        Ok(walked)
    }

    /// Verifies the copy of a segment, whose batches end at `end`.
    fn walk(
        &self,
        file: &dyn DiskFile,
        segment: &SegmentData,
        len: u64,
        end: Offset,
        mut index: IndexWriter,
    ) -> Result<Walked> {
        let dense_from = self.of.core.dense_from();
        let mut scan = Scan::new(file, 0, len, segment.base(), false).dense_from(dense_from);
        let (mut first_timestamp, mut last_batch) = (None, None);
        let stop = loop {
            match scan.next().map_err(Error::io("read", segment.path()))? {
                Ok(batch) => {
                    first_timestamp = first_timestamp.or(Some(batch.header.max_timestamp));
                    last_batch = Some((batch.position, batch.header.crc));
                    index.push(&batch.header, batch.position, u64::from(batch.header.batch_len));
                }
                Err(stop) => break stop,
            }
        };
        let is_at_end = if end > dense_from { scan.next_offset() == end } else { scan.next_offset() <= end };
        if stop.position < len || !is_at_end {
            // What a sync failed to bring to the disk may be gone from memory, too.
            self.of.core.check()?;
            return Err(segment.corrupt(stop.position, stop.reason));
        }
        index.close();
        Ok(Walked { index, first_timestamp, last_batch })
    }

    fn put_indexes(&mut self, base: Offset, index: &IndexWriter) -> Result<[Digest; 2]> {
        let mut digests = [Digest::default(); 2];
        for (digest, (kind, region)) in digests.iter_mut().zip(index.regions()) {
            *digest = Digest::of(region.readable());
            self.put_derived(base, kind, region.readable())?;
        }
        Ok(digests)
    }

    fn put_aborted(&mut self, base: Offset, end: Offset) -> Result<Digest> {
        let aborted = encode_between(&self.of.aborted, base, end);
        if !aborted.is_empty() {
            self.put_derived(base, FileKind::TxnIndex, &aborted)?;
        }
        Ok(Digest::of(&aborted))
    }

    /// Copies the first `len` bytes of a data file, and `behind` after them. Returns the copy and its checksum.
    fn copy_log(
        &mut self,
        source: &dyn DiskFile,
        segment: &SegmentData,
        len: u64,
        behind: &[u8],
    ) -> Result<(Arc<dyn DiskFile>, u32)> {
        let path = self.named(segment.base(), FileKind::Log);
        let file = self.disk.open(&path, Open::CreateNew).map_err(Error::io("create", &*path))?;
        let mut crc = Crc32::new();
        copy_bytes(source, segment.path(), &*file, &path, len, |bytes| crc.update(bytes))?;
        crc.update(behind);
        write_all_at(&*file, behind, len).map_err(Error::io("write", &*path))?;
        file.sync().map_err(Error::io("sync", &*path))?;
        self.count_copied(len + behind.len() as u64);
        Ok((file, crc.finish()))
    }

    /// Gives a file that nobody writes to any more a second name in the copy, or copies it where that cannot be. One that
    /// is not there is passed over, unless the segment `needs` it.
    fn bring(&mut self, base: Offset, kind: FileKind, needs: bool) -> Result<()> {
        let (from, to) = (file_path(&self.of.core.dir, base, kind), file_path(self.into, base, kind));
        let done = match self.disk.link(&from, &to) {
            Ok(()) => {
                self.names.push((base, kind));
                self.tally.linked += 1;
                // The batches were synced before their segment was finished. What is derived from them never was.
                if kind == FileKind::Log {
                    return Ok(());
                }
                let file = self.disk.open(&to, Open::Read).map_err(Error::io("open", &*to))?;
                return file.sync().map_err(Error::io("sync", to));
            }
            Err(error) if refuses_links(&error) => self.copy_whole(&from, base, kind),
            Err(error) => Err(Error::io("link", &*from)(error)),
        };
        match done {
            Err(Error::Io { source, .. }) if !needs && source.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    fn copy_whole(&mut self, from: &Path, base: Offset, kind: FileKind) -> Result<()> {
        probe::reached("backup.copied_for_want_of_links");
        let source = self.disk.open(from, Open::Read).map_err(Error::io("open", from))?;
        let len = source.metadata().map_err(Error::io("describe", from))?.len;
        let path = self.named(base, kind);
        let file = self.disk.open(&path, Open::CreateNew).map_err(Error::io("create", &*path))?;
        copy_bytes(&*source, from, &*file, &path, len, |_| ())?;
        file.sync().map_err(Error::io("sync", path))?;
        self.count_copied(len);
        Ok(())
    }

    fn put_derived(&mut self, base: Offset, kind: FileKind, bytes: &[u8]) -> Result<()> {
        let path = self.named(base, kind);
        self.put_new(&path, bytes)
    }

    fn put_new(&mut self, path: &Path, bytes: &[u8]) -> Result<()> {
        let file = self.disk.open(path, Open::CreateNew).map_err(Error::io("create", path))?;
        write_all_at(&*file, bytes, 0).map_err(Error::io("write", path))?;
        file.sync().map_err(Error::io("sync", path))?;
        self.count_copied(bytes.len() as u64);
        Ok(())
    }

    /// The path of a file that is about to be made.
    fn named(&mut self, base: Offset, kind: FileKind) -> PathBuf {
        self.names.push((base, kind));
        file_path(self.into, base, kind)
    }

    fn count_copied(&mut self, len: u64) {
        self.tally.copied += 1;
        self.tally.copied_bytes += len;
    }
}

/// Copies the first `len` bytes of a file, and shows them to `each`.
fn copy_bytes(
    source: &dyn DiskFile,
    from: &Path,
    file: &dyn DiskFile,
    to: &Path,
    len: u64,
    mut each: impl FnMut(&[u8]),
) -> Result<()> {
    let mut piece = vec![0; len.min(PIECE) as usize];
    let mut at = 0;
    while at < len {
        let bytes = &mut piece[..(len - at).min(PIECE) as usize];
        read_exact_at(source, bytes, at).map_err(Error::io("read", from))?;
        write_all_at(file, bytes, at).map_err(Error::io("write", to))?;
        each(bytes);
        at += bytes.len() as u64;
    }
    Ok(())
}

/// Whether a file cannot have a second name there, but a copy: on another file system, on one that has no links, or
/// because it has as many as it may.
fn refuses_links(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, TooManyLinks, Unsupported};
    matches!(error.kind(), CrossesDevices | PermissionDenied | TooManyLinks | Unsupported)
}

const PIECE: u64 = 1 << 20;
/// Kafka's default for `index.interval.bytes`.
const INTERVAL: u32 = 4096;
