//! Making what was appended durable: one of those who wait syncs for all.
//!
//! A sync covers the segments that were rolled since the last one, oldest first, the names made in the directory, and
//! the active segment; only then does `synced` rise, to where the log ended when it began. The first failure is final:
//! the system may have dropped the pages and forgotten the error, so a second sync would prove nothing.

use std::time::Duration;

use super::core::Core;
use super::writer::SyncPlan;
use crate::error::{Error, Result};
use crate::observe::{SyncFailed, Synced};
use crate::probe;
use crate::segment::active::rewrite;
use crate::types::Offset;

impl Core {
    /// Returns once everything below `offset` is durable, syncing if nobody else does.
    pub(crate) fn sync_to(&self, offset: Offset) -> Result<()> {
        loop {
            let done = || {
                if self.synced() >= offset {
                    return Some(Ok(()));
                }
                self.check().err().map(Err)
            };
            self.syncing.run(done, || self.sync_now(false))?;
            if self.synced() >= offset {
                return Ok(());
            }
        }
    }

    /// Syncs what was rolled, so that nothing but the active segment is left to lose. Returns whether there was any.
    pub(crate) fn sync_rolled(&self) -> Result<bool> {
        if !self.writer.lock().has_rolled() {
            return Ok(false);
        }
        self.syncing.run(|| self.check().err().map(Err), || self.sync_now(true))?;
        Ok(true)
    }

    /// One sync. The caller has the turn.
    fn sync_now(&self, rolled_only: bool) -> Result<()> {
        self.check()?;
        let began = self.context.clock.monotonic();
        let plan = {
            let mut writer = self.writer.lock();
            // What recovery found is settled first: a sync of a file that is still to be cut would prove its tail.
            writer.begin(self).map_err(|failure| self.fail(failure))?;
            writer.plan_sync(rolled_only)
        };
        if probe::planted("partition.synced_before_sync") {
            drop(self.synced.raise(plan.end.0));
        }
        self.carry_out(&plan, began).inspect_err(|error| {
            if let Error::Io { path, source, .. } = error {
                self.context.observer.sync_failed(&SyncFailed { partition: &self.id, path, error: source });
            }
            self.poison(error);
        })?;
        let duration = self.context.clock.monotonic().saturating_sub(began);
        self.counters.syncs.record(duration);
        drop(self.synced.raise(plan.end.0));
        self.context.observer.synced(&Synced { partition: &self.id, offset: plan.end, duration });
        Ok(())
    }

    fn carry_out(&self, plan: &SyncPlan, now: Duration) -> Result<()> {
        if let Some((from, to)) = plan.unproven
            && !probe::planted("partition.recovered_not_rewritten")
        {
            self.rewrite(from, to)?;
        }
        for target in &plan.rolled {
            target.sync(now)?;
        }
        if plan.names && !probe::planted("partition.no_dir_sync") {
            self.context.disk().sync_dir(&self.dir).map_err(Error::io("sync directory", &*self.dir))?;
        }
        plan.active.as_ref().map_or(Ok(()), |target| target.sync(now))
    }

    /// Writes again what recovery read above the proven offset, and syncs it through the same handles.
    fn rewrite(&self, from: Offset, to: Offset) -> Result<()> {
        probe::reached("sync.rewrite");
        for segment in self.segments().iter().filter(|segment| segment.base() < to && segment.end() > from) {
            let position = segment.locate(from.max(segment.base()))?.unwrap_or(segment.len());
            rewrite(segment, position)?;
        }
        // Their names too: the process before may have died before it synced the directory.
        self.context.disk().sync_dir(&self.dir).map_err(Error::io("sync directory", &*self.dir))
    }
}
