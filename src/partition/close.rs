//! Turning sealed segments into ordinary closed ones, and the whole partition at the end.
//!
//! A closed directory is byte for byte an ordinary Kafka directory: data files cut to their batches, indexes written,
//! a snapshot of producers at the end.

use std::sync::Arc;

use super::core::Core;
use super::hints::CleanPartition;
use super::read::last_batch;
use super::writer::{Unfinished, remove_derived, remove_if_there};
use crate::checksum::{Crc32, Digest};
use crate::disk::{DiskFile, Open, read_exact_at, write_all_at};
use crate::error::{Error, Result};
use crate::probe;
use crate::segment::active::{Failure, trim};
use crate::segment::data::SegmentData;
use crate::segment::scan::frames_crc;
use crate::segment::seal::Seal;
use crate::segment::{FileKind, file_path};
use crate::types::Offset;

impl Core {
    /// Whether a sealed segment still lacks its index files, its seal, or its proper length.
    pub(crate) fn has_unfinished(&self) -> bool {
        !self.lock().unfinished.is_empty()
    }

    /// Finishes the oldest sealed segment that a durable checkpoint covers: its end is at most `checkpointed`. Returns
    /// whether there was one. An error leaves it for the next call; nothing depends on it.
    pub(crate) fn finish_one(&self, checkpointed: Offset) -> Result<bool> {
        self.check()?;
        let unfinished = {
            let mut writer = self.lock();
            self.check()?;
            if writer.unfinished.front().is_none_or(|first| first.end > checkpointed) {
                return Ok(false);
            }
            writer.begin(self).map_err(|failure| self.fail(failure))?;
            writer.unfinished.pop_front()
        };
        let Some(mut unfinished) = unfinished else { return Ok(false) };
        let finished = self.finish(&mut unfinished).map_err(|failure| self.fail(failure));
        self.deliver();
        let base = unfinished.data.base();
        if !self.segments().iter().any(|kept| kept.base() == base) {
            // It was removed meanwhile: what was just made beside it is nobody's.
            remove_derived(self, base)?;
        } else if finished.is_err() {
            self.lock().unfinished.push_front(unfinished);
        }
        finished.map(|()| true)
    }

    fn finish(&self, sealed: &mut Unfinished) -> Result<(), Failure> {
        match &sealed.target {
            Some(target) => target.trim()?,
            None => trim(&sealed.data)?,
        }
        self.describe(sealed).map_err(Failure::Refused)
    }

    /// Writes what goes with a sealed segment, the seal last: it vouches for the rest.
    fn describe(&self, sealed: &mut Unfinished) -> Result<()> {
        let data = &sealed.data;
        sealed.index.persist(self.context.disk(), &self.dir)?;
        self.write_aborted(data.base(), &sealed.aborted)?;
        self.write_new(sealed.end, FileKind::Snapshot, &sealed.snapshot)?;
        let [index, time_index] = sealed.index.digests();
        let seal = Seal {
            base: data.base(),
            end: sealed.end,
            log_len: data.len(),
            largest: sealed.index.largest(),
            log_crc: self.log_crc(data)?,
            index,
            time_index,
            txn_index: Digest::of(&sealed.aborted),
            frames: self.frames_of(&*self.open_log(data)?, data)?,
        };
        self.write_new(data.base(), FileKind::Seal, &seal.encode())?;
        // From here on the index is loaded from its files when it is needed.
        data.set_index(None);
        probe::reached("close.finished_segment");
        Ok(())
    }

    /// What the seal is to say of offsets, lengths and epochs, if offsets are missing or will be: see [`Seal::frames`].
    pub(super) fn frames_of(&self, file: &dyn DiskFile, data: &SegmentData) -> Result<Option<u32>> {
        if !self.config.read().cleanup.compacts() && data.base() >= self.dense_from() {
            return Ok(None);
        }
        frames_crc(file, data.len()).map_err(Error::io("read", data.path()))
    }

    fn open_log(&self, data: &SegmentData) -> Result<Arc<dyn DiskFile>> {
        self.context.disk().open(data.path(), Open::Read).map_err(Error::io("open", data.path()))
    }

    fn log_crc(&self, data: &SegmentData) -> Result<u32> {
        let file = self.open_log(data)?;
        let (mut crc, mut at, len) = (Crc32::new(), 0, data.len());
        let mut piece = vec![0; len.min(1 << 20) as usize];
        while at < len {
            let bytes = &mut piece[..(len - at).min(1 << 20) as usize];
            read_exact_at(&*file, bytes, at).map_err(Error::io("read", data.path()))?;
            crc.update(bytes);
            at += bytes.len() as u64;
        }
        Ok(crc.finish())
    }

    /// Writes the index of aborted transactions; none if there are none. A broker's may name some whose records compaction
    /// has removed.
    fn write_aborted(&self, base: Offset, aborted: &[u8]) -> Result<()> {
        match aborted.is_empty() {
            false => self.write_new(base, FileKind::TxnIndex, aborted),
            true => remove_if_there(self, &file_path(&self.dir, base, FileKind::TxnIndex)),
        }
    }

    /// Writes a derived file anew. It is not synced: who finds it torn does without it.
    fn write_new(&self, base: Offset, kind: FileKind, bytes: &[u8]) -> Result<()> {
        let (disk, path) = (self.context.disk(), file_path(&self.dir, base, kind));
        match disk.remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", path)(error));
            }
            _ => {}
        }
        let file = disk.open(&path, Open::CreateNew).map_err(Error::io("create", &*path))?;
        write_all_at(&*file, bytes, 0).map_err(Error::io("write", &*path))
    }

    /// Whether nothing that recovery found is left to be done.
    pub(crate) fn is_settled(&self) -> bool {
        self.writer.lock().is_settled()
    }

    /// Makes everything below `end` durable, and the marks of it exact.
    pub(crate) fn settle(&self, end: Offset) -> Result<()> {
        self.check()?;
        let is_settled = {
            let writer = self.lock();
            !writer.has_begun() && writer.is_settled()
        };
        if is_settled {
            return Ok(());
        }
        self.sync_to(end)?;
        self.make_mark_exact()
    }

    /// Brings the files of the active segment into the form of a closed one. Everything is synced, and a checkpoint
    /// that says so is durable. Returns what the mark of an orderly close says about this partition; none if nothing
    /// was ever read or written that such a mark could vouch for.
    pub(crate) fn close_files(&self) -> Result<Option<CleanPartition>> {
        self.check()?;
        if self.context.read_only {
            return Ok(None);
        }
        self.finish_swap()?;
        while self.finish_one(self.synced())? {}
        let mut writer = self.lock();
        self.check()?;
        let start = self.start();
        let has_records_removed = start > Offset::ZERO;
        if !writer.is_clean() && (self.last_segment().is_some() || has_records_removed || !writer.is_settled()) {
            // Left by a process that did not close it: it takes a change to make it an ordinary directory. If no segment
            // is left, the name of the next one says where the log goes on.
            writer.begin(self).map_err(|failure| self.fail(failure))?;
        }
        if self.synced() < writer.end && !probe::planted("partition.unsynced_called_clean") {
            // Its sync failed: what is there is for a recovery to judge.
            return Ok(None);
        }
        writer.give_slot_back(self);
        let has_begun = writer.has_begun();
        let segments = self.segments();
        let Some(last) = segments.last() else { return Ok(None) };
        if has_begun {
            let snapshot = writer.followed.producers.snapshot();
            let aborted = writer.followed.aborted_between(last.base(), writer.end);
            let Some(active) = writer.active_mut() else { return Ok(None) };
            active.cut().and_then(|()| active.sync_target().trim()).map_err(|failure| self.fail(failure))?;
            active.index_mut().close();
            active.index_mut().persist(self.context.disk(), &self.dir)?;
            self.write_aborted(last.base(), &aborted)?;
            self.write_new(self.end(), FileKind::Snapshot, &snapshot)?;
            if start < writer.end {
                // Kafka's file begins where the log does, and is written anew by whoever finds that it does not.
                writer.followed.epochs.truncate_from_start(start);
            }
            writer.followed.store_epochs(&self.context, &self.dir)?;
        }
        let index = match (writer.active(), writer.found()) {
            (Some(active), _) => active.index(),
            (None, Some(found)) => &found.index,
            (None, None) => return Ok(None),
        };
        if !index.is_persisted() {
            return Ok(None);
        }
        let [offsets, times] = index.digests();
        Ok(Some(CleanPartition {
            segments: segments.iter().map(|segment| (segment.base(), segment.len())).collect(),
            start,
            end: writer.end,
            last_batch: last_batch(last)?,
            index: offsets,
            time_index: times,
            grown: index.grown(),
            first_timestamp: writer.first_timestamp(),
            has_producers: writer.followed.producers.count() > 0,
            has_aborted: !writer.followed.aborted.entries().is_empty(),
        }))
    }
}
