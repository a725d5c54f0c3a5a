//! Making what was appended durable: one of those who wait syncs for all.
//!
//! A sync covers the names made in the directory, the segments that were rolled since the last one, oldest first, and
//! the active segment; only then does `synced` rise, to where the log ended when it began. The first failure is final:
//! the system may have dropped the pages and forgotten the error, so a second sync would prove nothing.

use std::sync::Arc;
use std::time::Duration;

use super::core::Core;
use super::report::Report;
use super::writer::SyncPlan;
use crate::disk::replace::sync_parent;
use crate::error::{Error, Result, is_out_of_files};
use crate::observe::Later;
use crate::probe;
use crate::segment::active::{ActiveSegment, rewrite};
use crate::segment::data::SegmentData;
use crate::types::Offset;

impl Core {
    /// Returns once everything below `offset` is durable, syncing if nobody else does.
    ///
    /// # Errors
    ///
    /// [`Error::OffsetOutOfRange`] if `offset` is above the end, which is a mistake of the caller's: no sync would ever come
    /// so far. Of a log that is replicated, [`Error::Truncated`]: it may have been cut.
    pub(crate) fn sync_to(&self, offset: Offset) -> Result<()> {
        let end = self.end();
        if offset > end && self.context.is_replicated {
            // Cut off since the caller looked.
            return Err(Error::Truncated { end });
        }
        debug_assert!(offset <= end, "{offset} is above the end {end}");
        if offset > end {
            return Err(Error::OffsetOutOfRange { requested: offset, start: self.start(), end });
        }
        let _later = Later::begin();
        loop {
            let done = || {
                if self.synced() >= offset {
                    return Some(Ok(()));
                }
                self.check().err().map(Err)
            };
            let done = self.syncing.run_for_all(self.patience(), done, || self.sync_now(false));
            self.deliver();
            done?;
            if self.synced() >= offset {
                return Ok(());
            }
            // Cut off meanwhile: no sync comes so far.
            let end = self.end();
            if offset > end {
                return Err(Error::Truncated { end });
            }
        }
    }

    /// How long to wait, before a sync, for those whom it could serve with it: not so long that it costs them more than
    /// it saves. No time passes while a simulated disk syncs, so in a simulation nobody waits.
    fn patience(&self) -> Duration {
        (self.counters.last_sync() / 2).min(PATIENCE_MAX)
    }

    /// Syncs what was rolled, so that nothing but the active segment is left to lose. Returns whether there was any.
    pub(crate) fn sync_rolled(&self) -> Result<bool> {
        if !self.lock().has_rolled() {
            return Ok(false);
        }
        probe::reached("sync.rolled");
        let _later = Later::begin();
        let done = self.syncing.run(|| self.check().err().map(Err), || self.sync_now(true));
        self.deliver();
        done.map(|()| true)
    }

    /// Brings the mark on disk up to what is proven. Takes its turn: of two syncs of one file at once, the system
    /// tells only one that writing back has failed.
    pub(super) fn make_mark_exact(&self) -> Result<()> {
        let _later = Later::begin();
        let work = || {
            let target = self.writer.lock().active().map(ActiveSegment::sync_target);
            let now = self.context.clock.monotonic();
            target.map_or(Ok(()), |target| target.make_mark_exact(now)).inspect_err(|error| self.poison(error))
        };
        let done = self.syncing.run(|| self.check().err().map(Err), work);
        self.deliver();
        done
    }

    /// One sync. The caller has the turn, and delivers what is reported once it is over.
    fn sync_now(&self, rolled_only: bool) -> Result<()> {
        self.check()?;
        let began = self.context.clock.monotonic();
        let plan = {
            // Without delivering: the turn is held still.
            let mut writer = self.writer.lock();
            // Again: if the topic was deleted before the lock was taken, the files may be those of another.
            self.check()?;
            // What recovery found is settled first: a sync of a file that is still to be cut would prove its tail.
            writer.begin(self).map_err(|failure| self.fail(failure))?;
            if !rolled_only {
                writer.flush(self).map_err(|failure| self.fail(failure))?;
            }
            writer.plan_sync(rolled_only, self)
        };
        if probe::planted("partition.synced_before_sync") {
            drop(self.synced.raise(plan.end.0));
        }
        if let Err(error) = self.carry_out(&plan, began) {
            if is_out_of_files(&error) {
                // Nothing is in doubt: something could not be opened, and can be later.
                self.writer.lock().put_back(plan);
                return Err(error);
            }
            return Err(self.sync_failed(error));
        }
        let duration = self.context.clock.monotonic().saturating_sub(began);
        self.counters.synced(duration);
        self.reports.push(Report::Woken(self.synced.raise(plan.end.0)));
        self.reports.push(Report::Synced { offset: plan.end, duration });
        Ok(())
    }

    fn sync_failed(&self, error: Error) -> Error {
        // Its files went while they were being synced: that is no failure of the disk's.
        if let Err(deleted @ Error::TopicDeleted { .. }) = self.check() {
            return deleted;
        }
        if let Error::Io { path, source, .. } = &error {
            let copy = source.raw_os_error().map_or_else(|| source.kind().into(), std::io::Error::from_raw_os_error);
            self.reports.push(Report::SyncFailed { path: path.clone(), error: copy });
        }
        self.poison(&error);
        error
    }

    pub(super) fn carry_out(&self, plan: &SyncPlan, now: Duration) -> Result<()> {
        if !plan.unproven.is_empty() && !probe::planted("partition.recovered_not_rewritten") {
            self.rewrite(&plan.unproven)?;
        }
        // First: when one file follows another quickly, the name of a rolled one may be new, too.
        if plan.names && !probe::planted("partition.no_dir_sync") {
            self.sync_names()?;
        }
        for target in &plan.rolled {
            target.sync(now)?;
        }
        plan.active.as_ref().map_or(Ok(()), |target| target.sync(now))
    }

    /// Writes again what recovery read above the proven offset, and syncs it through the same handles.
    fn rewrite(&self, unproven: &[(Arc<SegmentData>, Offset)]) -> Result<()> {
        probe::reached("sync.rewrite");
        for (segment, from) in unproven {
            let position = segment.locate(*from).map(|position| position.unwrap_or(segment.len()));
            let rewritten = position.and_then(|position| rewrite(segment, position));
            // What retention has removed meanwhile lies below a durable start: nobody needs it.
            if rewritten.is_err() && self.has_dropped(segment) {
                probe::reached("sync.rewrite_of_removed");
                continue;
            }
            rewritten?;
        }
        // Their names too: the process before may have died before it synced the directory.
        self.sync_names()
    }

    /// Makes the names in the directory durable, and its own: nothing is synced that cannot be found again.
    pub(crate) fn sync_names(&self) -> Result<()> {
        self.context.disk().sync_dir(&self.dir).map_err(Error::io("sync directory", &*self.dir))?;
        sync_parent(self.context.disk(), &self.dir)
    }
}

/// Threads that were woken together are back within this, or have something else to do.
const PATIENCE_MAX: Duration = Duration::from_micros(60);

#[cfg(all(test, loom))]
mod loom_models {
    //! The order of a partition's two locks: first the turn to sync, then the append lock.

    use std::sync::Arc;
    // Not loom's: this says what happened, it is no part of the model.
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use loom::thread;

    use crate::sys::shim::{ASLEEP, Mutex, check_large, must_fail, weakened};
    use crate::turn::Turn;

    #[test]
    fn a_sync_beside_appends_that_roll_covers_what_was_staged_before_it() {
        check_large(one_syncs_and_one_rolls);
    }

    /// A planted bug: deadlock of sync against roll, found by loom. Whoever syncs has the turn and waits for the append
    /// lock, to write the tail; a roll that syncs the file it seals has the lock and waits for the turn.
    #[test]
    fn a_roll_that_asks_for_the_turn_under_the_append_lock_is_caught() {
        must_fail("sync.turn_under_lock", ASLEEP, one_syncs_and_one_rolls);
    }

    /// A partition, as far as its locks are concerned.
    struct Shared {
        syncing: Turn,
        writer: Mutex<Writer>,
        synced: AtomicU64,
    }

    /// Up to where there are records, and up to where they are in the files: what lies between is staged.
    #[derive(Default)]
    struct Writer {
        end: u64,
        written: u64,
        /// The end of a sealed file that no sync has taken over.
        rolled: Option<u64>,
    }

    /// So many records fill a segment.
    const FULL: u64 = 2;

    impl Shared {
        fn append(&self) -> u64 {
            let mut writer = self.writer.lock();
            writer.end += 1;
            if writer.end.is_multiple_of(FULL) {
                writer.written = writer.end;
                writer.rolled = Some(writer.end);
                if weakened("sync.turn_under_lock") {
                    self.syncing.run(|| None, || writer.rolled = None);
                }
            }
            writer.end
        }

        fn sync_to(&self, end: u64) {
            let done = || Some(()).filter(|()| self.synced.load(Ordering::SeqCst) >= end);
            self.syncing.run_for_all(Duration::ZERO, done, || {
                let plan = {
                    let mut writer = self.writer.lock();
                    writer.written = writer.end;
                    writer.rolled = None;
                    writer.written
                };
                // The disk works, and appends go on.
                thread::yield_now();
                self.synced.store(plan, Ordering::SeqCst);
            });
        }
    }

    fn one_syncs_and_one_rolls() {
        let (syncing, writer) = (Turn::new(), Mutex::new(Writer::default()));
        let shared = Arc::new(Shared { syncing, writer, synced: AtomicU64::new(0) });
        let other = Arc::clone(&shared);
        let other = thread::spawn(move || (0..FULL).for_each(|_| drop(other.append())));
        let end = shared.append();
        shared.sync_to(end);
        let synced = shared.synced.load(Ordering::SeqCst);
        assert!(synced >= end);
        other.join().unwrap();
        let writer = shared.writer.lock();
        assert!(synced <= writer.written && writer.written <= writer.end);
        // A file that was sealed after the sync is left to the next one.
        assert!(writer.rolled.is_none_or(|rolled| rolled > synced));
    }
}
