//! Cutting a partition, and beginning it anew: the part of it that concerns the whole log.

use std::sync::Arc;

use crate::error::Result;
use crate::log::checkpoints::Checkpoints;
use crate::log::open::CHECKPOINTS_FILE;
use crate::log::{Inner, compacted};
use crate::observe::{Quiet, tell};
use crate::partition::core::Core;
use crate::probe;
use crate::replica::Halt;
use crate::types::Offset;

impl Inner {
    /// Cuts a partition, so that it ends at `to` or at the start of the batch that holds it.
    pub(super) fn truncate(&self, core: &Arc<Core>, to: Offset) -> Result<()> {
        // Not beside a retention, a compaction or a backup of the same files.
        let _schedule = Quiet::lock(&self.schedule);
        core.check_names()?;
        let cut = core.find_cut(to)?;
        if !probe::planted("truncate.checkpoint_kept") {
            self.change_checkpoints(core, |checkpoints| {
                checkpoints.cut(core.topic, core.id.partition, cut.at);
            })?;
        }
        core.cut(&cut)
    }

    /// Removes all that a partition holds, and lets it go on at `to`.
    pub(super) fn reset(&self, core: &Arc<Core>, to: Offset) -> Result<()> {
        self.begin_anew(core, to, false)
    }

    /// Puts all files of a damaged partition aside, and lets it begin anew, as one that holds nothing.
    pub(super) fn renew(&self, core: &Arc<Core>) -> Result<()> {
        self.begin_anew(core, Offset::ZERO, true)
    }

    fn begin_anew(&self, core: &Arc<Core>, to: Offset, keeps: bool) -> Result<()> {
        let _schedule = Quiet::lock(&self.schedule);
        core.check_names()?;
        core.reset(to, keeps, |at, is_empty| {
            self.change_checkpoints(core, |checkpoints| match is_empty {
                true => checkpoints.restart(core.topic, core.id.partition, at),
                false => {
                    checkpoints.cut(core.topic, core.id.partition, at);
                }
            })
        })
    }

    /// Changes what is known of a partition, durably.
    fn change_checkpoints(&self, core: &Core, change: impl Fn(&mut Checkpoints)) -> Result<()> {
        self.context.before_change()?;
        // Of what is cut, too.
        compacted::remove(self.context.disk(), &core.dir)?;
        let mut checkpoints = self.checkpoints.lock();
        let mut next = checkpoints.clone();
        change(&mut next);
        if next == *checkpoints && !checkpoints.is_in_doubt {
            return Ok(());
        }
        checkpoints.is_in_doubt = true;
        next.is_in_doubt = false;
        next.store(self.context.disk(), &self.dir.join(CHECKPOINTS_FILE), self.log_id)?;
        *checkpoints = next;
        Ok(())
    }

    pub(super) fn tell_halted(&self, core: &Core, halt: Halt) {
        let (partition, reason) = (core.id.clone(), halt.to_string());
        tell(&self.context.observer, move |observer| observer.partition_damaged(&partition, &reason));
    }
}
