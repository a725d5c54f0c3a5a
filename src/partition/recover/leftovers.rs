//! What a compaction left half done, a broker's or ours: found, and finished or undone.
//!
//! Kafka finishes or undoes it at once, by renaming and removing. So does an open for writing of ours. A read-only one
//! changes nothing, and does the same in the mind:
//!
//! | File        | Means                                              | Here                                     |
//! |-------------|----------------------------------------------------|------------------------------------------|
//! | `*.deleted` | removed, and soon gone; a broker's only            | not there                                |
//! | `*.cleaned` | the cleaner had not come to the end                | not there                                |
//! | `*.swap`    | compacted, takes the place of the files it is from | there, and those are not                 |
//!
//! A broker's `.swap` at or above the lowest `.cleaned` is from a split that did not come to the end: not there. (Kafka's
//! `LogLoader`, KAFKA-6264.) Ours is whole from when it has that name, whatever else is there; its index files count if
//! its `.log` does.
//!
//! A `.swap` that is damaged replaces nothing: it is an error, and to a salvage not there if what it was made of is, nor
//! are the others that were made of the same.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};
use std::path::{Path, PathBuf};

use super::Recovery;
use crate::disk::{DirEntry, Disk, Open};
use crate::error::{Error, Result};
use crate::partition::compact::swap::{CLEANED, SWAP, is_unfinished, suffixed};
use crate::partition::context::{Context, RecoveryMode};
use crate::probe;
use crate::segment::scan::{Scan, frames_crc};
use crate::segment::seal::Seal;
use crate::segment::{FileKind, file_path, parse_file_name};
use crate::types::Offset;

/// Who compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    Broker,
    Ours,
}

/// The files of a partition, and those that are under another name yet.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) files: Vec<(Offset, FileKind)>,
    /// Segments whose `.log` is to be renamed.
    pub(super) swapped: BTreeMap<Offset, PathBuf>,
}

/// What a broker left half done, and how it is to be finished: first the removals.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    /// Of a split that did not come to the end. These go before the `.cleaned`, which tell that it did not.
    pub(crate) undone: Vec<PathBuf>,
    pub(crate) removed: Vec<PathBuf>,
    pub(crate) renamed: Vec<(PathBuf, PathBuf)>,
    pub(super) counting: Listing,
}

impl Leftovers {
    /// Those in `dir`, of these entries.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if a `.swap` is not whole; `recovery` says what a salvage makes of it.
    pub(crate) fn find(
        disk: &dyn Disk,
        dir: &Path,
        entries: &[DirEntry],
        recovery: RecoveryMode,
        whose: Whose,
    ) -> Result<Self> {
        let with_suffix = |suffix: &'static str| {
            let stems = entries.iter().filter_map(move |entry| entry.name.strip_suffix(suffix));
            stems.filter_map(parse_file_name)
        };
        let cleaned = with_suffix(CLEANED).map(|(base, _)| base).min();
        let is_done = |base: Offset| whose == Whose::Ours || cleaned.is_none_or(|cleaned| base < cleaned);
        let path = |base, kind, suffix| suffixed(&file_path(dir, base, kind), suffix);
        let mut left = Self::default();
        let logs: BTreeSet<Offset> = entries
            .iter()
            .filter_map(|entry| parse_file_name(&entry.name))
            .filter(|(_, kind)| *kind == FileKind::Log)
            .map(|(base, _)| base)
            .collect();
        let mut swaps: Vec<_> = with_suffix(SWAP).collect();
        // Upwards, the `.log` of a segment first.
        swaps.sort_unstable();
        // The offsets of the file that a `.swap` was made of, if that is there: a split makes several of one.
        let original = |base: Offset| {
            let from = *logs.range(..=base).next_back()?;
            let is_made_of = from == base || swaps.binary_search(&(from, FileKind::Log)).is_ok();
            let next = logs.range((Bound::Excluded(from), Bound::Unbounded)).next();
            is_made_of.then(|| from..next.copied().unwrap_or(Offset::MAX))
        };
        let mut replaced = Vec::new();
        let mut spoiled: Vec<Range<Offset>> = Vec::new();
        for (base, _) in swaps.iter().copied().filter(|(base, kind)| *kind == FileKind::Log && is_done(*base)) {
            probe::reached("recover.swap");
            match end_of(disk, &path(base, FileKind::Log, SWAP), base) {
                Err(Error::Corrupt { .. }) if recovery == RecoveryMode::Salvage => match original(base) {
                    Some(offsets) => spoiled.push(offsets),
                    // Nothing else is left of these records.
                    None => replaced.push((base, base)),
                },
                end => replaced.push((base, end?)),
            }
        }
        let is_spoiled = |base: Offset| spoiled.iter().any(|offsets| offsets.contains(&base));
        replaced.retain(|(base, _)| !is_spoiled(*base));
        for (base, kind) in swaps.iter().copied() {
            let swap = path(base, kind, SWAP);
            let is_nobodys = whose == Whose::Ours && swaps.binary_search(&(base, FileKind::Log)).is_err();
            if !is_done(base) || is_spoiled(base) || is_nobodys {
                left.undone.push(swap);
                continue;
            }
            if kind == FileKind::Log {
                left.counting.swapped.insert(base, swap.clone());
            }
            left.renamed.push((swap, file_path(dir, base, kind)));
        }
        // A snapshot is of what lies below its segment.
        let is_replaced = |base: Offset, kind| {
            let is_within = |(from, to): &(Offset, Offset)| *from == base || (*from..*to).contains(&base);
            kind != FileKind::Snapshot && replaced.iter().any(is_within)
        };
        left.removed.extend(with_suffix(CLEANED).map(|(base, kind)| path(base, kind, CLEANED)));
        if whose == Whose::Broker {
            left.removed.extend(with_suffix(".deleted").map(|(base, kind)| path(base, kind, ".deleted")));
        }
        let files = &mut left.counting.files;
        for (base, kind) in entries.iter().filter_map(|entry| parse_file_name(&entry.name)) {
            match is_replaced(base, kind) {
                true => left.removed.push(file_path(dir, base, kind)),
                false => files.push((base, kind)),
            }
        }
        files.extend(left.counting.swapped.keys().map(|base| (*base, FileKind::Log)));
        files.sort_unstable();
        files.dedup();
        Ok(left)
    }

    /// Finishes it. Durable when this returns; a broker may still load the directory if it does not.
    pub(crate) fn finish(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        // Step by step: a crash could keep any of what was not synced. A name that was replaced would stay, or a `.cleaned`
        // be gone that tells what a `.swap` is.
        for paths in [&self.undone, &self.removed].into_iter().filter(|paths| !paths.is_empty()) {
            for path in paths {
                disk.remove_file(path).map_err(Error::io("remove", &**path))?;
            }
            if !probe::planted("adopt.leftovers_unsynced") {
                disk.sync_dir(dir).map_err(Error::io("sync directory", dir))?;
            }
        }
        // Upwards, and one after the other: Kafka removes all that lies between the first and the last `.swap` that it finds.
        for (from, to) in &self.renamed {
            disk.rename(from, to).map_err(Error::io("rename", &**from))?;
            disk.sync_dir(dir).map_err(Error::io("sync directory", dir))?;
        }
        Ok(())
    }
}

/// The offset after the last batch of a whole segment file.
fn end_of(disk: &dyn Disk, path: &Path, base: Offset) -> Result<Offset> {
    let file = disk.open(path, Open::Read).map_err(Error::io("open", path))?;
    let len = file.metadata().map_err(Error::io("describe", path))?.len;
    let mut scan = Scan::new(&*file, 0, len, base, false);
    let stop = loop {
        match scan.next().map_err(Error::io("read", path))? {
            // An index could not tell where it is.
            Ok(batch) if batch.header.last_offset().0.saturating_sub(base.0) > i32::MAX as u64 => {
                let reason = "its offset is too far above that in the name of the file";
                return Err(Error::corrupt(path, batch.position, reason));
            }
            Ok(_) => {}
            Err(stop) => break stop,
        }
    };
    match stop.position == len {
        true => Ok(scan.next_offset()),
        false => Err(Error::corrupt(path, stop.position, stop.reason)),
    }
}

/// Finishes or undoes what a process of ours left half done in a partition directory. Nothing is changed if there is none.
pub(crate) fn finish_ours(context: &Context, dir: &Path) -> Result<bool> {
    let disk = context.disk();
    let entries = disk.list(dir).map_err(Error::io("list", dir))?;
    if !entries.iter().any(|entry| is_unfinished(&entry.name)) {
        return Ok(false);
    }
    let left = Leftovers::find(disk, dir, &entries, context.recovery, Whose::Ours)?;
    probe::reached("recover.unfinished_compaction");
    context.before_change()?;
    left.finish(disk, dir)?;
    Ok(true)
}

/// Removes the seals of segments in which the offset, length or epoch of a batch is not what the seal says: a salvage goes
/// by the batches from then on.
pub(crate) fn forget_frames(context: &Context, dir: &Path) -> Result<()> {
    let disk = context.disk();
    let entries = disk.list(dir).map_err(Error::io("list", dir))?;
    let files = entries.iter().filter_map(|entry| parse_file_name(&entry.name));
    for (base, _) in files.filter(|(_, kind)| *kind == FileKind::Seal) {
        let Some(Seal { frames: Some(frames), log_len, .. }) = Seal::read(disk, dir, base) else { continue };
        let path = file_path(dir, base, FileKind::Log);
        let found = match disk.open(&path, Open::Read).and_then(|file| frames_crc(&*file, log_len)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            // Shorter than it was.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => None,
            found => found.map_err(Error::io("read", path))?,
        };
        if found == Some(frames) {
            continue;
        }
        probe::reached("recover.frames_differ");
        context.before_change()?;
        let seal = file_path(dir, base, FileKind::Seal);
        disk.remove_file(&seal).map_err(Error::io("remove", &*seal))?;
        disk.sync_dir(dir).map_err(Error::io("sync directory", dir))?;
    }
    Ok(())
}

impl Recovery<'_> {
    /// The files that count, of all there are in the directory.
    pub(super) fn list(&self) -> Result<Listing> {
        let disk = self.context.disk();
        let is_foreign = self.hints.broker.is_some();
        if !self.context.read_only && !is_foreign {
            finish_ours(self.context, self.dir)?;
        }
        let entries = disk.list(self.dir).map_err(Error::io("list", self.dir))?;
        if is_foreign || entries.iter().any(|entry| is_unfinished(&entry.name)) {
            let whose = if is_foreign { Whose::Broker } else { Whose::Ours };
            return Ok(Leftovers::find(disk, self.dir, &entries, self.context.recovery, whose)?.counting);
        }
        let mut files: Vec<_> = entries.iter().filter_map(|entry| parse_file_name(&entry.name)).collect();
        files.sort_unstable();
        Ok(Listing { files, ..Listing::default() })
    }
}
