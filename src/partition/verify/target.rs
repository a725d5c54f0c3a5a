//! What is to be judged: the segments of a partition as they were published, and the files beside them.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::entries::EntryFile;
use super::finding::{Finding, FindingKind};
use super::is_cut;
use crate::disk::checkpoint::read_limited;
use crate::disk::{Disk, Open, read_file};
use crate::error::{Error, Result};
use crate::partition::compact::swap::NamesHeld;
use crate::partition::core::Core;
use crate::partition::epochs::Epochs;
use crate::partition::follow::{EPOCHS_FILE, MAX_SNAPSHOT};
use crate::partition::hints::CleanPartition;
use crate::segment::files::Files;
use crate::segment::seal::Seal;
use crate::segment::{FileKind, file_path, parse_file_name};
use crate::types::{Offset, TopicId, TopicPartition};
use crate::wire::Invalid;

/// One partition, as far as it was written when this was made.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) id: TopicPartition,
    pub(crate) topic: TopicId,
    pub(crate) dir: PathBuf,
    pub(crate) files: Arc<Files>,
    pub(crate) extents: Vec<Extent>,
    /// Why nobody knows what segments there are, of one that could not be opened.
    pub(super) unlisted: Option<Finding>,
    /// The first offset that is to be there.
    pub(crate) start: Offset,
    /// The log was written up to here, as something outside of the partition says.
    pub(crate) written: Offset,
    /// Whether offsets follow one another without gaps. Else those that are missing may have been compacted away.
    pub(crate) dense: bool,
    pub(crate) derived: Derived,
    /// None if it could not be opened.
    core: Option<Arc<Core>>,
    /// Files are opened by their names.
    _names: Option<NamesHeld>,
    epochs: OnceLock<Option<Epochs>>,
    listing: OnceLock<Listing>,
}

/// One segment: where it begins, and up to where it is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) base: Offset,
    /// Bytes of whole batches; of a partition that could not be opened, the length of the file.
    pub(crate) len: u64,
    /// The offset after the last record; none if nobody knows.
    pub(crate) end: Option<Offset>,
    /// Whether a broker's cleaner has not renamed it yet. What stands under the names of its indexes is of other segments.
    pub(crate) is_swap: bool,
}

/// Which of the files that follow from the batches are final.
#[derive(Debug, Clone)]
pub(crate) enum Derived {
    /// All: nobody writes the directory, and who wrote it kept all of them up to date. A broker's. `is_closed` says
    /// whether it was stopped in order.
    All {
        /// Whether the last segment was finished, too.
        is_closed: bool,
    },
    /// Those that a seal vouches for, and those of the last segment if an orderly close does.
    Vouched {
        /// What the mark of the close says, if it is there.
        clean: Option<CleanPartition>,
    },
}

/// The names in the directory that are no data file of the log.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Where snapshots are, in order.
    pub(super) snapshots: Vec<Offset>,
    /// Files of segments of which there is no data file.
    pub(super) orphans: Vec<(Offset, FileKind)>,
    /// Data files that are in the directory and not in the log.
    pub(super) strays: Vec<Offset>,
    /// Files that a broker's cleaner was about to put in place.
    pub(super) pending: Vec<String>,
}

/// The files of one segment, opened while nobody changed them.
#[derive(Debug)]
pub(crate) struct Gathered {
    /// The length of the data file; none if it is not there.
    pub(super) log_len: Option<u64>,
    pub(super) seal: Option<std::result::Result<Seal, Invalid>>,
    /// The index files, if they are final; none in there if they are missing.
    pub(super) derived: Option<DerivedFiles>,
    /// Whether nobody will write the partition before it is opened again.
    pub(super) is_at_rest: bool,
}

/// The files that follow from the data file of a segment.
#[derive(Debug)]
pub(super) struct DerivedFiles {
    pub(super) index: Option<EntryFile>,
    pub(super) time_index: Option<EntryFile>,
    pub(super) aborted: Option<EntryFile>,
    /// Where snapshots are: there may be any number, so each is read when the batches have come to it.
    pub(super) snapshots: Vec<Offset>,
    /// Whether they were brought to an end: closing entries are there, and a snapshot.
    pub(super) is_complete: bool,
}

impl Target {
    /// A partition that is open. The extents are those of this moment, and until this goes nothing is compacted. For who
    /// has the lock of maintenance.
    pub(crate) fn of(core: &Arc<Core>, written: Offset, derived: Derived) -> Self {
        // If a swap that failed cannot be finished, some are missing for now: then that is what is found.
        let names = core.hold_names().ok();
        let (extents, start) = {
            // The append lock: length and end of the last segment belong together under it.
            let _writer = core.lock();
            let segments = core.segments();
            let extents = segments.iter().map(|segment| Extent {
                base: segment.base(),
                len: segment.len(),
                end: Some(segment.end()),
                is_swap: segment.path().extension().is_some_and(|extension| extension == "swap"),
            });
            (extents.collect(), core.start())
        };
        Self {
            id: core.id.clone(),
            topic: core.topic,
            dir: core.dir.clone(),
            files: Arc::clone(&core.context.files),
            extents,
            unlisted: None,
            start,
            written,
            dense: core.is_dense(),
            derived,
            core: Some(Arc::clone(core)),
            _names: names,
            epochs: OnceLock::new(),
            listing: OnceLock::new(),
        }
    }

    /// A partition that could not be opened, by what is in its directory.
    pub(crate) fn in_directory(known: Known, files: &Arc<Files>) -> Self {
        let Known { id, topic, dir, start, written, dense, derived } = known;
        let (extents, unlisted) = match extents_in(&*files.disk, &dir) {
            Ok(extents) => (extents, None),
            Err(error) => (Vec::new(), Some(Finding::of_error(FindingKind::Unreadable, &dir, &error))),
        };
        let (epochs, listing, files) = (OnceLock::new(), OnceLock::new(), Arc::clone(files));
        Self {
            id,
            topic,
            dir,
            files,
            extents,
            unlisted,
            start,
            written,
            dense,
            derived,
            core: None,
            _names: None,
            epochs,
            listing,
        }
    }

    pub(super) fn disk(&self) -> &dyn Disk {
        &*self.files.disk
    }

    pub(super) fn is_open(&self) -> bool {
        self.core.is_some()
    }

    pub(super) fn is_last(&self, segment: usize) -> bool {
        segment + 1 == self.extents.len()
    }

    /// The bytes there are to judge from a segment on.
    pub(crate) fn len_from(&self, base: Offset) -> u64 {
        self.extents.iter().filter(|extent| extent.base >= base).map(|extent| extent.len).sum()
    }

    /// Whether the partition, or this segment of it, was removed or closed since. One that is poisoned is still there.
    pub(super) fn is_gone(&self, segment: usize) -> bool {
        let Some(core) = &self.core else {
            return matches!(self.disk().metadata(&self.dir), Err(error) if error.kind() == io::ErrorKind::NotFound);
        };
        let base = self.extents.get(segment).map(|extent| extent.base);
        let has_left = core.has_stopped() && !core.is_poisoned();
        has_left || base.is_some_and(|base| core.segments().iter().all(|kept| kept.base() != base))
    }

    /// Whether nothing in the directory was changed since it was opened, nor is there anybody who would.
    fn is_at_rest(&self) -> bool {
        self.core.as_ref().is_none_or(|core| core.context.read_only || !core.lock().has_begun())
    }

    /// What the mark of an orderly close says, as long as it is true.
    fn clean(&self) -> Option<&CleanPartition> {
        let Derived::Vouched { clean: Some(clean) } = &self.derived else { return None };
        let still = self.core.as_ref().is_none_or(|core| core.context.clean_mark.is_there());
        still.then_some(clean)
    }

    pub(super) fn is_closed(&self) -> bool {
        match self.derived {
            Derived::All { is_closed } => is_closed,
            Derived::Vouched { .. } => self.clean().is_some(),
        }
    }

    /// Whether the files beside the data files are ours, and so have seals.
    pub(super) fn has_seals(&self) -> bool {
        matches!(self.derived, Derived::Vouched { .. })
    }

    /// The checkpoint of leader epochs, as it was when first asked for; none if it cannot be read.
    pub(super) fn epochs(&self) -> Option<&Epochs> {
        let read = || {
            let text = read_limited(self.disk(), &self.dir.join(EPOCHS_FILE)).ok()??;
            Epochs::parse(&text).ok()
        };
        self.epochs.get_or_init(read).as_ref()
    }

    pub(super) fn listing(&self) -> &Listing {
        self.listing.get_or_init(|| self.list().unwrap_or_default())
    }

    /// Looks at the names. For who keeps others from removing files; a directory that cannot be listed has none.
    fn list(&self) -> io::Result<Listing> {
        let entries = self.disk().list(&self.dir)?;
        let mut files: Vec<_> = entries.iter().filter_map(|entry| parse_file_name(&entry.name)).collect();
        files.sort_unstable();
        let of = |wanted: FileKind| files.iter().filter(move |(_, kind)| *kind == wanted).map(|(base, _)| *base);
        let logs: BTreeSet<Offset> = of(FileKind::Log).collect();
        let known: BTreeSet<Offset> = match &self.core {
            // Now, not when this began: a file of one that was removed since is gone with it.
            Some(core) => core.segments().iter().map(|segment| segment.base()).collect(),
            None => logs.clone(),
        };
        let is_orphan = |(base, kind): &(Offset, FileKind)| *kind != FileKind::Snapshot && !logs.contains(base);
        // Of one that is open for writing they are being written.
        let is_written = self.core.as_ref().is_some_and(|core| !core.context.read_only);
        let is_pending = |name: &str| !is_written && (name.ends_with(".swap") || name.ends_with(".cleaned"));
        Ok(Listing {
            snapshots: of(FileKind::Snapshot).collect(),
            orphans: files.iter().filter(|file| is_orphan(file)).copied().collect(),
            strays: logs.difference(&known).copied().collect(),
            pending: entries.into_iter().map(|entry| entry.name).filter(|name| is_pending(name)).collect(),
        })
    }

    /// The data file of a segment.
    pub(crate) fn log_path(&self, segment: usize) -> PathBuf {
        let Extent { base, is_swap, .. } = self.extents[segment];
        let path = file_path(&self.dir, base, FileKind::Log);
        if is_swap { path.with_extension("log.swap") } else { path }
    }

    /// Opens the files of a segment. For who keeps maintenance from finishing or removing it meanwhile.
    pub(crate) fn gather(&self, segment: usize) -> Result<Gathered> {
        let Extent { base, len, end, is_swap } = self.extents[segment];
        self.listing();
        let path = self.log_path(segment);
        let log_len = match self.disk().metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            found => Some(found.map_err(Error::io("describe", &*path))?.len),
        };
        let seal = if self.has_seals() { self.seal(base)? } else { None };
        let is_stale = matches!(&seal, Some(Ok(seal)) if seal.base != base || seal.log_len != len);
        // One from before a salvage, which may have been gone on with, ends elsewhere.
        let is_of_more = matches!(&seal, Some(Ok(seal)) if is_cut(seal, base, len) && Some(seal.end) == end);
        let is_closed = self.is_closed();
        let (is_final, is_complete) = match self.derived {
            Derived::All { .. } => (!is_swap, !self.is_last(segment) || is_closed),
            // The seal of the last segment is one from before it was gone on with.
            Derived::Vouched { .. } if self.is_last(segment) => (is_closed, is_closed),
            Derived::Vouched { .. } => (seal.is_some() && !is_stale, true),
        };
        let derived = if is_final { Some(self.derived_files(base, end, is_complete)?) } else { None };
        // What was read of the last segment counts only if the mark was there until then.
        let is_changed = self.has_seals() && self.is_last(segment) && is_final && self.clean().is_none();
        Ok(Gathered {
            log_len,
            seal: seal.filter(|_| !self.is_last(segment) && (!is_stale || is_closed || is_of_more)),
            derived: derived.filter(|_| !is_changed),
            is_at_rest: self.is_at_rest(),
        })
    }

    fn seal(&self, base: Offset) -> Result<Option<std::result::Result<Seal, Invalid>>> {
        let path = file_path(&self.dir, base, FileKind::Seal);
        match read_file(self.disk(), &path, MAX_SEAL) {
            Ok(bytes) => Ok(Some(Seal::decode(&bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Ok(Some(Err(Invalid { at: 0, what: "not a seal" })))
            }
            Err(error) => Err(Error::io("read", path)(error)),
        }
    }

    fn derived_files(&self, base: Offset, end: Option<Offset>, is_complete: bool) -> Result<DerivedFiles> {
        let open = |kind| self.entry_file(file_path(&self.dir, base, kind));
        let is_within = |at: &Offset| *at > base && end.is_none_or(|end| *at <= end);
        // Not by the listing: maintenance may have written one since.
        let entries = self.disk().list(&self.dir).map_err(Error::io("list", &*self.dir))?;
        let files = entries.iter().filter_map(|entry| parse_file_name(&entry.name));
        let mut snapshots: Vec<Offset> =
            files.filter(|(at, kind)| *kind == FileKind::Snapshot && is_within(at)).map(|(at, _)| at).collect();
        snapshots.sort_unstable();
        Ok(DerivedFiles {
            index: open(FileKind::Index)?,
            time_index: open(FileKind::TimeIndex)?,
            aborted: open(FileKind::TxnIndex)?,
            snapshots,
            is_complete,
        })
    }

    fn entry_file(&self, path: PathBuf) -> Result<Option<EntryFile>> {
        let file = match self.disk().open(&path, Open::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(Error::io("open", &*path))?,
        };
        let len = file.metadata().map_err(Error::io("describe", &*path))?.len;
        Ok(Some(EntryFile { path, file, len }))
    }

    /// The mark of an orderly close, if it speaks of the segment: only the last one has more than a length there.
    pub(super) fn clean_of(&self, segment: usize) -> Option<&CleanPartition> {
        self.clean().filter(|_| self.is_last(segment))
    }
}

/// The segments in a directory, each to the end of its file.
fn extents_in(disk: &dyn Disk, dir: &Path) -> Result<Vec<Extent>> {
    let is_missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let mut files = Vec::new();
    let entries = match disk.list(dir) {
        Err(error) if is_missing(&error) => Vec::new(),
        listed => listed.map_err(Error::io("list", dir))?,
    };
    let names = entries.iter().filter_map(|entry| parse_file_name(&entry.name));
    for (base, _) in names.filter(|(_, kind)| *kind == FileKind::Log) {
        let path = file_path(dir, base, FileKind::Log);
        match disk.metadata(&path) {
            // Removed meanwhile.
            Err(error) if is_missing(&error) => {}
            found => files.push((base, found.map_err(Error::io("describe", &*path))?.len)),
        }
    }
    files.sort_unstable();
    let ends = files.iter().skip(1).map(|(next, _)| Some(*next)).chain([None]);
    let extents =
        files.iter().zip(ends).map(|((base, len), end)| Extent { base: *base, len: *len, end, is_swap: false });
    Ok(extents.collect())
}

/// What is known of a partition that could not be opened.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) id: TopicPartition,
    pub(crate) topic: TopicId,
    pub(crate) dir: PathBuf,
    pub(crate) start: Offset,
    pub(crate) written: Offset,
    pub(crate) dense: bool,
    pub(crate) derived: Derived,
}

/// The bytes of a snapshot; none if it is not there. One that is longer than it can be is cut, and does not decode.
pub(super) fn read_snapshot(target: &Target, at: Offset) -> Result<Option<Vec<u8>>> {
    let path = file_path(&target.dir, at, FileKind::Snapshot);
    match read_file(target.disk(), &path, MAX_SNAPSHOT) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
            Ok(Some(Vec::new()))
        }
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// More than a seal of any version will be.
const MAX_SEAL: u64 = 4096;
