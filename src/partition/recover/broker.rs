//! What differs when a broker wrote the directory: what its cleaner left half done, and how a clean stop is believed.
//!
//! Kafka finishes or undoes what it finds half done, by renaming and removing. Here nothing is changed, so the same is
//! done in the mind:
//!
//! | File        | Means                                              | Here                                     |
//! |-------------|----------------------------------------------------|------------------------------------------|
//! | `*.deleted` | removed, and soon gone                             | not there                                |
//! | `*.cleaned` | the cleaner had not come to the end                | not there                                |
//! | `*.swap`    | compacted, takes the place of the files it is from | there, and those are not                 |
//!
//! A `.swap` at or above the lowest `.cleaned` is from a split that did not come to the end: not there. (Kafka's
//! `LogLoader`, KAFKA-6264.)
//!
//! A `.swap` that is damaged replaces nothing: it is an error, and to a salvage not there if what it was made of is, nor
//! are the others that were made of the same.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::walk::End;
use super::{Candidate, Plan, Recovered, Recovery};
use crate::disk::{DirEntry, Disk, Open, read_file};
use crate::error::{Error, Result};
use crate::partition::context::RecoveryMode;
use crate::partition::follow::Followed;
use crate::partition::hints::Stopped;
use crate::probe;
use crate::record::BatchHeader;
use crate::segment::data::SegmentData;
use crate::segment::offset_index::{self, OffsetEntry};
use crate::segment::scan::Scan;
use crate::segment::{FileKind, file_path, parse_file_name};
use crate::types::Offset;

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
    counting: Listing,
}

impl Leftovers {
    /// Those in `dir`, of these entries.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if a `.swap` is not whole; `recovery` says what a salvage makes of it.
    pub(crate) fn find(disk: &dyn Disk, dir: &Path, entries: &[DirEntry], recovery: RecoveryMode) -> Result<Self> {
        let with_suffix = |suffix: &'static str| {
            let stems = entries.iter().filter_map(move |entry| entry.name.strip_suffix(suffix));
            stems.filter_map(parse_file_name)
        };
        let cleaned = with_suffix(".cleaned").map(|(base, _)| base).min();
        let is_done = |base: Offset| cleaned.is_none_or(|cleaned| base < cleaned);
        let path = |base, kind, suffix| suffixed(&file_path(dir, base, kind), suffix);
        let mut left = Self::default();
        let logs: BTreeSet<Offset> = entries
            .iter()
            .filter_map(|entry| parse_file_name(&entry.name))
            .filter(|(_, kind)| *kind == FileKind::Log)
            .map(|(base, _)| base)
            .collect();
        let mut swaps: Vec<_> = with_suffix(".swap").collect();
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
            match end_of(disk, &path(base, FileKind::Log, ".swap"), base) {
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
            let swap = path(base, kind, ".swap");
            if !is_done(base) || is_spoiled(base) {
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
        left.removed.extend(with_suffix(".cleaned").map(|(base, kind)| path(base, kind, ".cleaned")));
        left.removed.extend(with_suffix(".deleted").map(|(base, kind)| path(base, kind, ".deleted")));
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

impl Recovery<'_> {
    /// The files that count, of all there are in a broker's directory.
    pub(super) fn list_of_broker(&self, entries: &[DirEntry]) -> Result<Listing> {
        Ok(Leftovers::find(self.context.disk(), self.dir, entries, self.context.recovery)?.counting)
    }

    /// Opens a partition that a broker closed in order, from its last batches alone; `None` if anything there is not as
    /// a close leaves it, or is missing.
    pub(super) fn open_stopped(
        &self,
        candidates: &[Candidate],
        listing: &[(Offset, FileKind)],
    ) -> Result<Option<Recovered>> {
        // To write takes more: the index of the last segment, and a seal for each that is closed.
        if self.hints.broker != Some(Stopped::InOrder) || !self.context.read_only {
            return Ok(None);
        }
        let Some(last) = candidates.last() else { return Ok(None) };
        let Some((end, header)) = self.whole_to_its_end(last)? else { return Ok(None) };
        let is_short = self.hints.recovery_point.is_some_and(|point| point > end);
        let has_epochs = match header {
            Some(header) => Followed::epochs_say(self.context, self.dir, &header),
            None => end == Offset::ZERO || Followed::has_epochs(self.context, self.dir),
        };
        if is_short || !has_epochs {
            return Ok(None);
        }
        // Kafka has none where the log begins.
        let snapshot = match listing.binary_search(&(end, FileKind::Snapshot)) {
            Ok(_) => Followed::snapshot(self.context, self.dir, end)?,
            Err(_) => (end == candidates[0].base).then(Vec::new),
        };
        let Some(snapshot) = snapshot else {
            self.context.files.tell_state_rebuilt(file_path(self.dir, end, FileKind::Snapshot));
            return Ok(None);
        };
        let start = self.hints.start.unwrap_or_default().max(candidates[0].base);
        if start > end {
            return Ok(None);
        }
        let followed = Followed::load(self.context, self.dir, snapshot, end)?;
        let ends = candidates.iter().skip(1).map(|next| next.base).chain([end]);
        let segment =
            |(candidate, end): (&Candidate, Offset)| Arc::new(self.data(candidate, candidate.limit, end, 0));
        let segments: Vec<Arc<SegmentData>> = candidates.iter().zip(ends).map(segment).collect();
        probe::reached("recover.stopped_broker");
        Ok(Some(Recovered {
            segments,
            end,
            proven: end,
            plan: Plan::default(),
            names_are_durable: true,
            is_clean: true,
            aborted_from: end,
            ..Recovered::empty(start, followed)
        }))
    }

    /// Why what was found cannot be what a broker left, if it is one that wrote it: what lies behind the end was not
    /// there when it closed the file, or a segment is missing.
    pub(super) fn unlike_a_broker(&self, found: &End, behind: u64, later: &[Candidate]) -> Option<String> {
        let has_bytes_behind = behind > found.position;
        match (self.hints.broker?, later.first()) {
            (Stopped::InOrder, _) if has_bytes_behind => {
                Some(format!("{}, and the broker had closed it", found.reason))
            }
            // Whole to the end of its file, and the next file does not begin there.
            (_, Some(next)) if !has_bytes_behind && next.base > found.offset => {
                Some(format!("records {}..{} are missing behind it", found.offset, next.base))
            }
            (Stopped::InOrder, Some(_)) => Some(format!("{}, and segments follow", found.reason)),
            _ => None,
        }
    }

    /// The end of the last segment and its last batch, if all its bytes from the last batch on that its index leads to are
    /// whole batches.
    fn whole_to_its_end(&self, last: &Candidate) -> Result<Option<(Offset, Option<BatchHeader>)>> {
        let file = last.open(self.context.disk())?;
        let path = file_path(self.dir, last.base, FileKind::Index);
        let index = read_file(self.context.disk(), &path, last.limit).unwrap_or_default();
        let entry = offset_index::floor(&index, last.base, Offset::MAX).entry;
        let from = entry.filter(|entry| u64::from(entry.position) < last.limit);
        let (position, first) =
            from.map_or((0, last.base), |entry: OffsetEntry| (u64::from(entry.position), last.base));
        let mut scan = Scan::new(&*file, position, last.limit, first, false);
        let mut header = None;
        let stop = loop {
            match scan.next().map_err(Error::io("read", &last.path))? {
                // An entry leads to the batch of its offset, or to one that was appended together with it.
                Ok(batch)
                    if header.is_none() && from.is_some_and(|entry| batch.header.base_offset > entry.offset) =>
                {
                    return Ok(None);
                }
                Ok(batch) => header = Some(batch.header),
                Err(stop) => break stop,
            }
        };
        Ok((stop.position == last.limit).then(|| (scan.next_offset(), header)))
    }
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
