//! Closing a log: everything durable, files in order, and a mark that says so.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::clean::{self, Clean};
use super::open::CLEAN_FILE;
use super::{Inner, Opened};
use crate::disk::FileId;
use crate::error::{Error, Result};
use crate::observe::Quiet;
use crate::partition::core::{Core, Halt};
use crate::probe;

impl Opened {
    /// Closes the log, once. A second call finds it closed.
    pub(super) fn close(&self) -> Result<()> {
        if !self.inner.closed.load(Ordering::Acquire) {
            self.inner.settle_clients();
        }
        if self.inner.closed.swap(true, Ordering::AcqRel) {
            return Err(Error::Closed);
        }
        // Appends that are under way end; no other begins.
        self.inner.context.closing.store(true, Ordering::Release);
        self.inner.context.doorbell.ring();
        // Clients that were made since, and what they took before they could know.
        self.inner.settle_clients();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            if thread.is_current() {
                thread.close_on_thread();
                return Ok(());
            }
            drop(thread);
        }
        self.inner.close()
    }
}

impl Inner {
    /// The log is closing. What is under way ends before this begins, and whatever comes after finds it closed: both
    /// look at that with one of these locks held.
    pub(super) fn close(&self) -> Result<()> {
        let (closed, told) = {
            let mut schedule = Quiet::lock(&self.schedule);
            schedule.compaction.give_up();
            let _catalog = Quiet::lock(&self.catalog);
            let closed = self.close_partitions();
            self.cores().iter().for_each(|core| core.fence(Halt::Closed));
            let told = self.resign();
            self.locks.lock().clear();
            (closed, told)
        };
        self.spread(told);
        closed
    }

    fn close_partitions(&self) -> Result<()> {
        let cores = self.cores();
        // Nothing was changed, so the mark that is there is still true; but it may not be about every partition.
        let is_unchanged = self.context.clean_mark.is_there() && cores.iter().all(|core| core.is_settled());
        if self.context.read_only || is_unchanged {
            return Ok(());
        }
        let settle =
            |core: &Arc<Core>| if probe::planted("log.closed_unsynced") { Ok(()) } else { core.settle(core.end()) };
        let settled: Vec<Result<()>> = cores.iter().map(settle).collect();
        self.checkpoint(&cores)?;
        self.write_kafka_checkpoints(&cores)?;
        let mut clean = Clean::new();
        let mut first_error = settled.into_iter().find_map(Result::err);
        for core in &cores {
            match core.close_files() {
                Ok(Some(entry)) => {
                    clean.insert((core.topic, core.id.partition), entry);
                }
                Ok(None) => probe::reached("close.not_clean"),
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        let pool = &self.context.pool;
        if !pool.is_idle() {
            // Records are staged that could not be written: a mark would say that nothing is left to be looked for.
            probe::reached("close.kept_arena");
            return first_error.map_or(Ok(()), Err);
        }
        // One that is named and gone would be missed, should the mark not come about. Left behind, it is in nobody's way.
        if self.context.notes.name_arena(self.context.disk(), self.context.boot, FileId::default()) {
            pool.remove(self.context.disk())?;
            self.context.disk().sync_dir(&self.dir).map_err(Error::io("sync directory", &*self.dir))?;
        }
        let path = self.dir.join(CLEAN_FILE);
        clean::store(self.context.disk(), &path, self.log_id, &clean)?;
        first_error.map_or(Ok(()), Err)
    }
}
