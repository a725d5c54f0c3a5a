//! One segment in the place of several: on disk so that a crash finds the old ones or the new one, in memory so that
//! nobody who reads notices.
//!
//! ```text
//! .cleaned, synced -> .swap, the .log last -> names synced          from here on the new one is found
//!     -> the list of segments has the new one -> old files removed -> names synced
//!     -> final names, the .log last -> names synced
//! ```
//!
//! Readers of old segments keep what they have opened, see [`SegmentData::pin`]; those of the new one have it by what
//! it was written through, until its names are final.
//!
//! What fails before the `.log` has its `.swap` name is given up. What fails behind that is gone on with, by the next who
//! needs names: [`Core::finish_swap`]. The partition takes appends and is read meanwhile; if the process dies, opening
//! finishes it.
//!
//! Invariants:
//! - Old files go after the names of the new ones are durable. Else a crash could leave neither.
//! - The new ones get their final names after the old names are durably gone. Else a crash could bring back a segment
//!   whose offsets the new one has, and with it values that were deleted.
//! - No `.cleaned` and no `.swap` is there when a new `.cleaned` is begun. One that was left would be finished beside it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};
use crate::partition::core::Core;
use crate::partition::writer::{remove_if_there, remove_segment_files};
use crate::probe;
use crate::segment::data::SegmentData;
use crate::segment::{FileKind, file_path, parse_file_name};
use crate::types::Offset;

/// Who needs the files of a partition to keep their names, and a swap that did not come to its end.
#[derive(Debug, Default)]
pub(crate) struct Names {
    holders: Mutex<u64>,
    freed: Condvar,
    pending: Mutex<Option<Swap>>,
}

/// Keeps the files of a partition under their names for as long as it lives.
#[derive(Debug)]
pub(crate) struct NamesHeld(Arc<Core>);

impl Drop for NamesHeld {
    fn drop(&mut self) {
        *self.0.names.holders.lock() -= 1;
        self.0.names.freed.notify_all();
    }
}

/// A segment that was written, and those whose place it takes.
#[derive(Debug)]
pub(super) struct Swap {
    new: Arc<SegmentData>,
    old: Vec<Arc<SegmentData>>,
    /// The files that were written.
    kinds: Vec<FileKind>,
    /// The abort markers that are no longer there.
    dropped_aborts: Vec<Offset>,
    /// Below here are tombstones that are no longer there because their time has passed.
    forgotten: Option<Offset>,
    stage: Stage,
}

/// What is done of a swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The new files are written.
    Written,
    /// They have their `.swap` names, which may be durable.
    Named,
    /// The names are durable.
    Committed,
    /// Readers have the new segment.
    Switched,
    /// The old names are durably gone.
    Cleared,
}

impl Swap {
    /// `kinds` were written as `.cleaned`, and are synced. `new` is read by what it was written through.
    pub(super) fn new(
        new: Arc<SegmentData>,
        old: Vec<Arc<SegmentData>>,
        kinds: Vec<FileKind>,
        dropped_aborts: Vec<Offset>,
        forgotten: Option<Offset>,
    ) -> Self {
        Self { new, old, kinds, dropped_aborts, forgotten, stage: Stage::Written }
    }

    /// The files, the `.log` last: it is the one that counts.
    fn files(&self) -> impl Iterator<Item = FileKind> {
        let derived = self.kinds.iter().copied().filter(|kind| *kind != FileKind::Log);
        derived.chain([FileKind::Log])
    }

    fn path(&self, core: &Core, kind: FileKind, suffix: &str) -> PathBuf {
        suffixed(&file_path(&core.dir, self.new.base(), kind), suffix)
    }
}

impl Core {
    /// Keeps the files under their names for as long as the result lives. For who has the lock of maintenance.
    ///
    /// # Errors
    ///
    /// Those of finishing a swap that failed before.
    pub(crate) fn hold_names(self: &Arc<Self>) -> Result<NamesHeld> {
        self.finish_swap()?;
        *self.names.holders.lock() += 1;
        Ok(NamesHeld(Arc::clone(self)))
    }

    /// Refuses if somebody needs the names as they are. For who has the lock of maintenance, which keeps others from it.
    ///
    /// # Errors
    ///
    /// Also those of finishing a swap that failed before.
    pub(crate) fn check_names(&self) -> Result<()> {
        self.finish_swap()?;
        match *self.names.holders.lock() {
            0 => Ok(()),
            _ => Err(Error::io("change the files of", &*self.dir)(ErrorKind::WouldBlock.into())),
        }
    }

    /// Waits until nobody needs the names as they are, or for `timeout`.
    pub(crate) fn wait_for_names(&self, timeout: Duration) {
        let mut holders = self.names.holders.lock();
        if *holders > 0 {
            self.names.freed.wait_for(&mut holders, timeout);
        }
    }

    /// Removes what is left of segments that did not come about, durably. No swap is pending.
    pub(super) fn clear_unfinished(&self) -> Result<()> {
        let disk = self.context.disk();
        let entries = disk.list(&self.dir).map_err(Error::io("list", &*self.dir))?;
        let mut has_any = false;
        for entry in entries.iter().filter(|entry| is_unfinished(&entry.name)) {
            remove_if_there(self, &self.dir.join(&entry.name))?;
            has_any = true;
        }
        if has_any {
            disk.sync_dir(&self.dir).map_err(Error::io("sync directory", &*self.dir))?;
        }
        Ok(())
    }

    /// Puts a segment in the place of others. `false` if somebody needs the names as they are: to be tried again.
    ///
    /// # Errors
    ///
    /// Nothing was changed, and the files that were written are of no use; or the swap is [pending](Self::finish_swap).
    /// [`Error::Closed`] also if a source was removed: nothing is wrong then.
    pub(super) fn begin_swap(&self, mut swap: Swap) -> Result<Option<Swap>> {
        debug_assert!(self.names.pending.lock().is_none(), "one after the other");
        // Kept until it is over: who comes for the names meanwhile waits.
        let holders = self.names.holders.lock();
        if *holders > 0 {
            probe::reached("compact.names_are_held");
            return Ok(Some(swap));
        }
        // Once it has its names, there is no way back.
        if swap.old.iter().any(|old| self.has_dropped(old)) {
            return Err(Error::Closed);
        }
        let prepared = self.pin_all(&swap.old).and_then(|()| self.name_swap(&swap));
        if let Err(error) = prepared {
            swap.old.iter().for_each(|old| old.unpin());
            return Err(error);
        }
        swap.stage = Stage::Named;
        let mut pending = self.names.pending.lock();
        let swap = pending.insert(swap);
        self.advance(swap)?;
        *pending = None;
        Ok(None)
    }

    /// Goes on with a swap that failed half way. For who has the lock of maintenance.
    pub(crate) fn finish_swap(&self) -> Result<()> {
        let mut pending = self.names.pending.lock();
        if let Some(swap) = &mut *pending {
            probe::reached("compact.swap_resumed");
            self.check()?;
            self.advance(swap)?;
            *pending = None;
        }
        Ok(())
    }

    /// Whether a swap failed half way.
    pub(crate) fn has_pending_swap(&self) -> bool {
        self.names.pending.lock().is_some()
    }

    fn pin_all(&self, old: &[Arc<SegmentData>]) -> Result<()> {
        if probe::planted("compact.not_pinned") {
            return Ok(());
        }
        old.iter().try_for_each(|old| old.pin())
    }

    fn name_swap(&self, swap: &Swap) -> Result<()> {
        for kind in swap.files() {
            let (from, to) = (swap.path(self, kind, CLEANED), swap.path(self, kind, SWAP));
            self.context.disk().rename(&from, &to).map_err(Error::io("rename", from))?;
        }
        Ok(())
    }

    fn advance(&self, swap: &mut Swap) -> Result<()> {
        loop {
            match swap.stage {
                Stage::Written | Stage::Named => {
                    if !probe::planted("compact.swap_not_synced") {
                        self.keep_names().map_err(|failure| self.fail(failure))?;
                    }
                    swap.stage = Stage::Committed;
                }
                Stage::Committed => {
                    self.switch(swap)?;
                    swap.stage = Stage::Switched;
                }
                Stage::Switched => {
                    self.remove_old(swap)?;
                    if !probe::planted("compact.removal_not_synced") {
                        self.keep_names().map_err(|failure| self.fail(failure))?;
                    }
                    swap.stage = Stage::Cleared;
                }
                Stage::Cleared => {
                    self.name_finally(swap)?;
                    self.keep_names().map_err(|failure| self.fail(failure))?;
                    swap.new.unpin();
                    // From here on it is loaded from its file when it is needed.
                    swap.new.set_index(None);
                    probe::reached("compact.swapped");
                    return Ok(());
                }
            }
        }
    }

    /// Lets readers have the new segment: a short hold of the append lock.
    fn switch(&self, swap: &Swap) -> Result<()> {
        let mut writer = self.lock();
        self.check()?;
        if let Some(end) = swap.forgotten {
            probe::reached("compact.forgot_tombstones");
            self.forget_tombstones(end);
        }
        if !self.replace_segments(&swap.old, &swap.new) {
            let reason = "a segment was removed while it was being compacted";
            return Err(Error::corrupt(swap.new.path(), 0, reason));
        }
        self.forget_aborted(&mut writer, &swap.dropped_aborts);
        Ok(())
    }

    fn remove_old(&self, swap: &Swap) -> Result<()> {
        let base = swap.new.base();
        for old in swap.old.iter().filter(|old| old.base() != base) {
            remove_segment_files(self, old.base())?;
        }
        // Its `.log` is replaced. The snapshot is of what lies below, and stays: it may say that a transaction is open whose
        // marker has gone from here. Who follows the log from it takes that one for open until the next marker of its
        // producer.
        let derived = [FileKind::Index, FileKind::TimeIndex, FileKind::TxnIndex, FileKind::Seal];
        for kind in derived.into_iter().filter(|_| !probe::planted("compact.old_seal_kept")) {
            remove_if_there(self, &file_path(&self.dir, base, kind))?;
        }
        Ok(())
    }

    fn name_finally(&self, swap: &Swap) -> Result<()> {
        for kind in swap.files() {
            let (from, to) = (swap.path(self, kind, SWAP), file_path(&self.dir, swap.new.base(), kind));
            match self.context.disk().rename(&from, &to) {
                // A try before this one came that far.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                renamed => renamed.map_err(Error::io("rename", from))?,
            }
        }
        Ok(())
    }
}

/// Whether a name in a partition directory is that of a file that compaction did not bring to its end.
pub(crate) fn is_unfinished(name: &str) -> bool {
    [CLEANED, SWAP].iter().any(|suffix| name.strip_suffix(suffix).is_some_and(|stem| parse_file_name(stem).is_some()))
}

/// The path of a file with another suffix behind it.
pub(crate) fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A file that is being written.
pub(crate) const CLEANED: &str = ".cleaned";
/// A file that is to take the place of others.
pub(crate) const SWAP: &str = ".swap";
