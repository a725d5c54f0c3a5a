//! Cutting the tail off: what a follower does with records that its leader does not have.
//!
//! ```text
//! checkpoints lowered, durably -> staged tail emptied -> later segments removed, the newest first, each durably
//!     -> the segment that is cut is copied up to there, synced, and takes the name of the old one, durably
//!     -> the directory is recovered anew
//! ```
//!
//! A published byte never changes, so nothing is cut in place: who reads the old file keeps it. Wherever a crash comes, the
//! directory holds what it held, or less of the end of it: the log is a prefix of what it was, never shorter than it is to
//! be, and the next truncation goes on from there. When the call returns, nothing that was cut comes back.
//!
//! What is known about the log is not taken back piece by piece. The directory is opened again, by the same code that opens
//! it after a crash, behind the append lock.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::compact::swap::{CLEANED, suffixed};
use super::context::Context;
use super::core::Core;
use super::follow::Followed;
use super::hints::Hints;
use super::recover::{Torn, recover};
use super::report::wake;
use super::stage::{Tail, headers};
use super::writer::{Writer, WriterParts, copy_torn, remove_if_there, remove_segment_files, set_aside};
use crate::disk::Open;
use crate::error::{Error, Result};
use crate::probe;
use crate::segment::data::SegmentData;
use crate::segment::{FileKind, file_path};
use crate::types::Offset;

/// Where a log is to be cut.
#[derive(Debug, Clone)]
pub(crate) struct Cut {
    /// Nothing at or above stays.
    pub(crate) at: Offset,
    /// The segment that is cut, and where in its file; none if what goes is staged.
    place: Option<(Arc<SegmentData>, u64)>,
}

impl Core {
    /// Where the log is cut so that it ends at `to`, or at the start of the batch that holds it.
    ///
    /// # Errors
    ///
    /// Those of reading the segment.
    pub(crate) fn find_cut(&self, to: Offset) -> Result<Cut> {
        let mut writer = self.lock();
        self.check_open()?;
        writer.begin(self).map_err(|failure| self.fail(failure))?;
        writer.complete();
        if to >= writer.end {
            return Ok(Cut { at: to, place: None });
        }
        let segments = self.segments();
        if to >= writer.written(self) {
            let staged = writer.tail.batches().map(|staged| headers(staged).collect::<Vec<_>>()).unwrap_or_default();
            let holds = staged.iter().find(|(_, header)| header.next_offset() > to);
            let at = holds.map_or(to, |(_, header)| header.base_offset.min(to));
            if at > writer.written(self) {
                // What stays of it is written: then it lies in a file, and is cut there.
                writer.flush(self).map_err(|failure| self.fail(failure))?;
                drop(writer);
                return self.find_cut(at);
            }
            return Ok(Cut { at, place: None });
        }
        drop(writer);
        let holds = segments.partition_point(|segment| segment.base() <= to).saturating_sub(1);
        let Some(segment) = segments.get(holds) else { return Ok(Cut { at: to, place: None }) };
        let Some(position) = segment.locate(to)? else {
            return Ok(Cut { at: to, place: Some((Arc::clone(segment), segment.len())) });
        };
        let header = segment.header(&segment.view()?, position, segment.len())?;
        Ok(Cut { at: header.base_offset.min(to), place: Some((Arc::clone(segment), position)) })
    }

    /// Cuts the log. The caller keeps maintenance away, and has lowered, durably, what is said of the log above the cut.
    ///
    /// # Errors
    ///
    /// Those of the disk. The log then ends where it did, or lower, not below the cut; or the partition is poisoned.
    pub(crate) fn cut(&self, cut: &Cut) -> Result<()> {
        let check = || self.check().err().map(Err);
        let done = self.syncing.run(check, || {
            let mut writer = self.writer.lock();
            self.check()?;
            self.context.before_change()?;
            if cut.place.is_none() && cut.at >= writer.end {
                // A leader that wrote nothing: its epoch goes.
                let end = writer.end;
                writer.followed.epochs.truncate_from_end(end);
                return writer.followed.store_epochs(&self.context, &self.dir);
            }
            probe::reached("truncate.cut");
            // Nothing that vouched for what goes may vouch for what comes in its place.
            self.forget_vouched(&mut writer);
            let removed = self.cut_files(cut);
            // Whatever was removed: the log is what is there.
            self.reload(&mut writer, cut.at, self.start()).inspect_err(|error| self.poison(error))?;
            removed.and_then(|()| self.vouch(&mut writer))
        });
        self.deliver();
        done
    }

    /// Removes all that is stored, or puts it aside if it `keeps` it, and lets the log go on at `to`. The caller keeps maintenance away. `note` lowers,
    /// durably, what is said of the log, to its start; and is called once more, for a log that holds nothing and starts at `to`.
    ///
    /// # Errors
    ///
    /// Those of the disk: the log may have lost some of its end, or all.
    pub(crate) fn reset(&self, to: Offset, keeps: bool, note: impl Fn(Offset, bool) -> Result<()>) -> Result<()> {
        let (start, check) = (self.start(), || self.check().err().map(Err));
        note(start, false)?;
        let done = self.syncing.run(check, || {
            let mut writer = self.writer.lock();
            self.check()?;
            self.context.before_change()?;
            writer.begin(self).map_err(|failure| self.fail(failure))?;
            probe::reached("truncate.reset");
            self.forget_vouched(&mut writer);
            let removed = if keeps { self.put_aside() } else { self.remove_from(Offset::ZERO) };
            // No epoch is known of a log that holds nothing.
            let removed = removed.and_then(|()| Followed::default().store_epochs(&self.context, &self.dir));
            let removed = removed.and_then(|()| note(to, true));
            let at = if removed.is_ok() { to } else { start };
            self.reload(&mut writer, at, at).inspect_err(|error| self.poison(error))?;
            if removed.is_ok() {
                // What lies below was committed, and deleted.
                self.lower_committed(to);
                self.raise_committed(to);
            }
            removed.and_then(|()| self.vouch(&mut writer))
        });
        self.deliver();
        done
    }

    /// Notes what there is now: who is killed before the next append is to be known to have lost nothing.
    fn vouch(&self, writer: &mut Writer) -> Result<()> {
        match probe::planted("truncate.not_noted") {
            true => Ok(()),
            false => writer.begin(self).map_err(|failure| self.fail(failure)),
        }
    }

    fn forget_vouched(&self, writer: &mut Writer) {
        self.context.notes.erase(self.context.disk(), self.topic, self.id.partition);
        self.context.pool.void(self.key());
        if let Some(mut staged) = writer.tail.take_slot() {
            staged.clear();
            self.context.pool.give(self.key(), staged);
        }
    }

    fn cut_files(&self, cut: &Cut) -> Result<()> {
        let Some((segment, position)) = &cut.place else { return Ok(()) };
        let is_first = self.segments().first().is_some_and(|first| first.base() == segment.base());
        if *position == 0 && !is_first {
            return self.remove_from(segment.base());
        }
        self.remove_from(segment.base() + 1)?;
        if *position < segment.len() || self.has_more(segment)? {
            return self.shorten(segment, *position);
        }
        Ok(())
    }

    /// Whether the file is longer than what was appended: a failed write may be in it, or room for what was to come.
    fn has_more(&self, segment: &SegmentData) -> Result<bool> {
        let metadata = self.context.disk().metadata(segment.path()).map_err(Error::io("describe", segment.path()))?;
        Ok(metadata.len > segment.len())
    }

    /// Removes the segments that begin at `base` or above, the newest first, each durably: whatever a crash leaves of them
    /// follows what is before.
    fn remove_from(&self, base: Offset) -> Result<()> {
        for segment in self.segments().iter().rev().take_while(|segment| segment.base() >= base) {
            // Who reads it keeps it.
            segment.pin()?;
            remove_segment_files(self, segment.base())?;
            self.context.disk().sync_dir(&self.dir).map_err(Error::io("sync directory", &*self.dir))?;
        }
        Ok(())
    }

    /// Renames all segments, the newest first.
    fn put_aside(&self) -> Result<()> {
        for segment in self.segments().iter().rev() {
            set_aside(self, segment.base()).map_err(|failure| self.fail(failure))?;
            self.context.disk().sync_dir(&self.dir).map_err(Error::io("sync directory", &*self.dir))?;
        }
        Ok(())
    }

    /// Puts a copy of the first bytes of a segment in its place.
    fn shorten(&self, segment: &Arc<SegmentData>, len: u64) -> Result<()> {
        let disk = self.context.disk();
        let path = file_path(&self.dir, segment.base(), FileKind::Log);
        let copy = suffixed(&path, CLEANED);
        segment.pin()?;
        remove_if_there(self, &copy)?;
        let (source, file) = (
            disk.open(&path, Open::Read).map_err(Error::io("open", &*path))?,
            disk.open(&copy, Open::CreateNew).map_err(Error::io("create", &*copy))?,
        );
        let kept = Torn { path: path.clone(), from: 0, to: len, offset: segment.base() };
        copy_torn(&*source, &kept, &*file, &copy)?;
        drop(file);
        // Before: what was derived from the longer file must not be found beside the shorter one.
        // The snapshot is of what lies before the segment, and stays.
        for kind in [FileKind::Index, FileKind::TimeIndex, FileKind::TxnIndex, FileKind::Seal] {
            remove_if_there(self, &file_path(&self.dir, segment.base(), kind))?;
        }
        disk.rename(&copy, &path).map_err(Error::io("rename", &*copy))?;
        disk.sync_dir(&self.dir).map_err(Error::io("sync directory", &*self.dir))
    }

    /// Takes the directory for what it is now, of which at least everything below `proven` was synced if it is there.
    fn reload(&self, writer: &mut Writer, proven: Offset, start: Offset) -> Result<()> {
        let context: &Context = &self.context;
        let hints = Hints {
            id: self.id.clone(),
            topic: self.topic,
            dense_from: self.dense_from(),
            cleaned: self.cleaned().min(proven),
            start: Some(start),
            recovery_point: Some(self.synced().min(proven)),
            committed: Some(self.committed().min(proven)),
            clean: None,
            broker: None,
        };
        let recovered = recover(context, &self.home, writer.shape(), &hints)?;
        let (end, proven) = (recovered.end, recovered.proven);
        let unstable = recovered.followed.producers.transactions().first_unstable();
        let (aborted, segments) = (recovered.followed.aborted.clone(), recovered.segments);
        let parts = WriterParts {
            end,
            proven,
            followed: recovered.followed,
            found: recovered.active,
            plan: recovered.plan,
            unfinished: recovered.unfinished,
            stale_snapshots: recovered.stale_snapshots,
            is_clean: false,
            names_are_durable: recovered.names_are_durable,
            tail: Tail::adopted(None, context.clock.monotonic()),
            takes_appends: writer.takes_appends,
        };
        writer.replace(Writer::new(writer.config, parts, &segments));
        writer.followed.store_epochs(context, &self.dir)?;
        self.set_segments(segments);
        *self.aborted.write() = aborted;
        self.aborted_from.store(recovered.aborted_from.0, Ordering::Release);
        self.set_first_unstable(unstable);
        self.set_latest_epoch(writer.followed.epochs.latest().unwrap_or_default());
        self.count_cut();
        if start != self.start() {
            self.set_start(start);
        }
        self.lower_cleaned(hints.cleaned);
        self.lower_committed(end);
        for (mark, to) in [(&self.synced, proven), (&self.end, end)] {
            wake(mark.lower(to.0));
            // Of a log that was reset, it may lie above.
            wake(mark.raise(to.0));
        }
        Ok(())
    }
}
