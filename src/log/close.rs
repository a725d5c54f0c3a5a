//! Closing a log: everything durable, files in order, and a mark that says so.

use std::sync::atomic::Ordering;

use super::clean::{self, Clean};
use super::open::{CLEAN_FILE, LOG_STARTS, RECOVERY_POINTS};
use super::{Inner, Opened};
use crate::error::{Error, Result};
use crate::partition::core::Halt;
use crate::probe;
use crate::types::TopicPartition;

impl Opened {
    /// Closes the log, once. A second call finds it closed.
    pub(super) fn close(&self) -> Result<()> {
        if self.inner.closed.swap(true, Ordering::AcqRel) {
            return Err(Error::Closed);
        }
        // Appends that are under way end; no other begins.
        self.inner.context.closing.store(true, Ordering::Release);
        drop(self.thread.lock().take());
        let closed = self.inner.close();
        self.inner.cores().iter().for_each(|core| core.fence(Halt::Closed));
        drop(self.inner.lock.lock().take());
        closed
    }
}

impl Inner {
    fn close(&self) -> Result<()> {
        let cores = self.cores();
        // Nothing was changed, so the mark that is there is still true; but it may not be about every partition.
        let is_unchanged = self.context.clean_mark.is_there() && cores.iter().all(|core| core.is_settled());
        if self.context.read_only || is_unchanged {
            return Ok(());
        }
        let settled: Vec<Result<()>> = cores.iter().map(|core| core.settle()).collect();
        self.checkpoint(&cores)?;
        self.checkpoint_ends(&cores)?;
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
        let path = self.dir.join(CLEAN_FILE);
        clean::store(self.context.disk(), &path, self.catalog.lock().log_id(), &clean)?;
        first_error.map_or(Ok(()), Err)
    }

    /// Takes partitions out of the checkpoints: what comes to have their names starts anew.
    pub(super) fn forget_checkpoints(&self, is_gone: impl Fn(&TopicPartition) -> bool) -> Result<()> {
        let mut checkpoints = self.checkpoints.lock();
        let disk = self.context.disk();
        let (mut points, mut starts) = (checkpoints.recovery_points.clone(), checkpoints.starts.clone());
        points.0.retain(|id, _| !is_gone(id));
        starts.0.retain(|id, _| !is_gone(id));
        if points.0 != checkpoints.recovery_points.0 {
            points.write(disk, &self.dir.join(RECOVERY_POINTS))?;
            checkpoints.recovery_points = points;
        }
        if starts.0 != checkpoints.starts.0 {
            starts.write(disk, &self.dir.join(LOG_STARTS))?;
            checkpoints.starts = starts;
        }
        Ok(())
    }
}
