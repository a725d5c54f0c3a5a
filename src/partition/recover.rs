//! Opens a partition directory: finds where the log ends, and what is known about it, without changing a byte.
//!
//! ```text
//!            proven                 noted                    end
//! |-- synced ---|-- written, kept by the system --|-- looked at --|-- torn, if anything --|
//! ```
//!
//! Below *proven*, a sync said that the bytes are on the disk: damage there is an error. Below *noted*, this boot's
//! system has them whole: only looked at if something else needs it. From there on each batch is verified, and the
//! first that does not verify ends the log. What lies behind it is a torn tail if the machine was restarted since; if
//! it was not, only the very last write can have been cut short, and anything else is damage.
//!
//! Everything that must change because of what was found (cutting a tail, removing files) is returned as a plan and
//! carried out before the first write, so that a read-only open and an open on a full disk find the same log.

mod adopt;
mod broker;
mod leftovers;
mod search;
mod walk;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::leftovers::{Leftovers, Whose, finish_ours, forget_frames};
pub(super) use self::search::hides_batch;

use self::adopt::Adopted;
use self::leftovers::Listing;
use self::search::holds_batch;
use self::walk::{End, Progress, Walk};
use super::context::{Context, RecoveryMode};
use super::follow::Followed;
use super::hints::{CleanPartition, Hints};
use super::stage::packed_bound;
use crate::checksum::Digest;
use crate::disk::marks::{Note, SyncMark};
use crate::disk::{Disk, DiskFile, FileId, Open, read_exact_at, read_file};
use crate::error::{Error, Result};
use crate::probe;
use crate::record::BatchHeader;
use crate::segment::active::{Found, Shape};
use crate::segment::data::SegmentData;
use crate::segment::files::Home;
use crate::segment::index::{Grown, IndexWriter};
use crate::segment::scan::{Scan, Scanned, last_data};
use crate::segment::seal::Seal;
use crate::segment::txn_index::AbortedTxn;
use crate::segment::{FileKind, file_path};
use crate::types::Offset;

/// What a directory holds, and what to do before it is first changed.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) segments: Vec<Arc<SegmentData>>,
    /// What the writer of the last segment needs; none if there is no segment, or a new one is to be begun at `end`.
    pub(crate) active: Option<Found>,
    pub(crate) start: Offset,
    pub(crate) end: Offset,
    /// Everything below is known to be on the disk. It may lie below `start`, inside a segment: what is above it there
    /// is written again all the same, for the segment is read from its beginning.
    pub(crate) proven: Offset,
    pub(crate) followed: Followed,
    pub(crate) plan: Plan,
    /// Whether the names in the directory are known to be on the disk.
    pub(crate) names_are_durable: bool,
    pub(crate) scanned_bytes: u64,
    /// Sealed segments that the process before did not get to finish, oldest first.
    pub(crate) unfinished: Vec<UnfinishedParts>,
    /// Snapshots at no segment's base: of no use once the log goes on.
    pub(crate) stale_snapshots: Vec<Offset>,
    /// Whether an orderly close left it, and nothing differs.
    pub(crate) is_clean: bool,
    /// Whether all is there that was appended: an orderly close says so, or the machine was not restarted since.
    pub(crate) is_whole: bool,
    /// What the process before had staged, and goes on from where the files end.
    pub(crate) staged: Option<Adopted>,
    /// From here on the aborted transactions are known, by their markers. Below, they are in the batches.
    pub(crate) aborted_from: Offset,
}

impl Recovered {
    /// A log without a record, and nothing to do about it.
    fn empty(start: Offset, followed: Followed) -> Self {
        Self {
            segments: Vec::new(),
            active: None,
            start,
            end: start,
            proven: start,
            followed,
            plan: Plan::default(),
            names_are_durable: false,
            scanned_bytes: 0,
            unfinished: Vec::new(),
            stale_snapshots: Vec::new(),
            is_clean: false,
            is_whole: false,
            staged: None,
            aborted_from: Offset::ZERO,
        }
    }
}

/// What is needed to finish a sealed segment.
#[derive(Debug)]
pub(crate) struct UnfinishedParts {
    pub(crate) base: Offset,
    pub(crate) end: Offset,
    pub(crate) index: IndexWriter,
    pub(crate) aborted: Vec<u8>,
    pub(crate) snapshot: Vec<u8>,
}

/// Changes that recovery found necessary, in the order they are made.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// A tail to be cut: these bytes of this file are kept in a `.cut` file first.
    pub(crate) torn: Option<Torn>,
    /// Segments behind a torn tail: renamed, newest first.
    pub(crate) set_aside: Vec<Offset>,
    /// Segments below the start: removed.
    pub(crate) expired: Vec<Offset>,
    /// Staged records that do not follow what is in the files: kept in a `.cut` file.
    pub(crate) drops_staged: bool,
    /// Where the last byte behind the end of the log is that is not zero.
    behind: u64,
}

impl Plan {
    pub(crate) fn is_empty(&self) -> bool {
        self.torn.is_none() && self.set_aside.is_empty() && self.expired.is_empty() && !self.drops_staged
    }
}

/// Bytes behind the end of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Torn {
    pub(crate) path: PathBuf,
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// The first offset that is not in the log any more.
    pub(crate) offset: Offset,
}

/// A segment file as it was found.
#[derive(Debug)]
struct Candidate {
    base: Offset,
    path: PathBuf,
    id: FileId,
    /// Where batches end at the latest: the end of the file, or the page of marks once it is known to be one.
    limit: u64,
    page: Option<MarkPage>,
}

/// What looks like the page of sync marks at the end of a file.
#[derive(Debug)]
struct MarkPage {
    at: u64,
    /// The best mark of this very file; or the version of one that cannot be read.
    mark: Result<Option<SyncMark>, u32>,
}

/// Where to begin looking: a batch boundary.
#[derive(Debug, Clone, Copy)]
struct From {
    segment: usize,
    position: u64,
    offset: Offset,
}

/// Opens the partition in `dir`.
pub(crate) fn recover(context: &Context, home: &Arc<Home>, shape: Shape, hints: &Hints) -> Result<Recovered> {
    let began = context.clock.monotonic();
    let recovered = Recovery { context, home, dir: &home.dir, shape, hints, began }.run()?;
    let is_all_below = recovered.segments.is_empty() && !recovered.plan.expired.is_empty();
    if hints.broker.is_none() || !is_all_below {
        return Ok(recovered);
    }
    // Not more than a number in a file without a checksum says so, and all records would go.
    probe::reached("recover.broker_all_below_start");
    if context.recovery == RecoveryMode::Salvage {
        let hints = Hints { start: None, ..hints.clone() };
        return Recovery { context, home, dir: &home.dir, shape, hints: &hints, began }.run();
    }
    let reason = format!("the broker says that the log starts at {}, and no record is as high", recovered.start);
    Err(Error::corrupt(&home.dir, 0, reason))
}

struct Recovery<'a> {
    context: &'a Context,
    home: &'a Arc<Home>,
    dir: &'a Path,
    shape: Shape,
    hints: &'a Hints,
    began: Duration,
}

impl Recovery<'_> {
    fn run(&self) -> Result<Recovered> {
        let Listing { files: listing, swapped } = self.list()?;
        if let Some(clean) = &self.hints.clean
            && let Some(recovered) = self.open_clean(clean, &listing)?
        {
            probe::reached("recover.clean");
            return Ok(recovered);
        }
        let mut bases: Vec<Offset> = listing.iter().filter(|(_, kind)| *kind == FileKind::Log).map(|f| f.0).collect();
        bases.sort_unstable();
        let path = |base| match swapped.get(&base) {
            Some(path) => path.clone(),
            None => file_path(self.dir, base, FileKind::Log),
        };
        let candidates =
            bases.into_iter().map(|base| self.candidate(base, path(base))).collect::<Result<Vec<_>>>()?;
        let start = self.hints.start.unwrap_or(Offset::ZERO);
        if candidates.is_empty() {
            return self.empty(start);
        }
        if let Some(recovered) = self.open_stopped(&candidates, &listing)? {
            return Ok(recovered);
        }
        self.open_unclean(candidates, &listing)
    }

    fn empty(&self, start: Offset) -> Result<Recovered> {
        probe::reached("recover.empty");
        let drops_staged = self.left()?.is_some();
        if drops_staged && self.context.recovery != RecoveryMode::Salvage {
            return Err(Error::corrupt(self.dir, 0, "no segment is left of a log that has staged records"));
        }
        let is_lost = self.hints.recovery_point.is_some_and(|point| point > start);
        if is_lost && self.context.recovery != RecoveryMode::Salvage {
            let reason = format!("no segment is left of a log that was synced to {}", self.proven_hint());
            return Err(Error::corrupt(self.dir, 0, reason));
        }
        let followed = Followed::load(self.context, self.dir, Vec::new(), start)?;
        // A node that has a role in a partition has a segment of it, under a durable name: this one never had.
        let is_whole = self.context.recovery != RecoveryMode::Salvage;
        let plan = Plan { drops_staged, ..Plan::default() };
        Ok(Recovered { plan, is_whole, ..Recovered::empty(start, followed) })
    }

    fn proven_hint(&self) -> Offset {
        self.hints.recovery_point.unwrap_or_default()
    }

    fn candidate(&self, base: Offset, path: PathBuf) -> Result<Candidate> {
        // Described by name: a log has more segments than a process may have files open.
        let metadata = self.context.disk().metadata(&path).map_err(Error::io("describe", &path))?;
        let mut candidate = Candidate { base, path, id: metadata.id, limit: metadata.len, page: None };
        let page_len = SyncMark::PAGE_LEN as u64;
        let may_have_page = self.hints.broker.is_none() && metadata.len >= page_len && metadata.len % page_len == 0;
        if !may_have_page {
            return Ok(candidate);
        }
        let mut page = vec![0; SyncMark::PAGE_LEN];
        let at = metadata.len - page_len;
        let file = candidate.open(self.context.disk())?;
        read_exact_at(&*file, &mut page, at).map_err(Error::io("read", &candidate.path))?;
        let mark = match SyncMark::best(&page) {
            // The file was being made: its first mark is there in part, and nothing else is.
            Ok(None) if SyncMark::is_begun(&page) => {
                probe::reached("recover.cut_mark");
                Ok(None)
            }
            Ok(None) => return Ok(candidate),
            Ok(Some(mark)) if mark.segment_base != base => return Ok(candidate),
            // A copy of the file has other sectors than those the mark speaks of. The number of a device may change
            // with each boot; the rest of a file's identity does not.
            Ok(Some(mark)) => {
                let is_of_this_file = (mark.file.inode, mark.file.born) == (metadata.id.inode, metadata.id.born);
                Ok(Some(mark).filter(|_| is_of_this_file))
            }
            Err(version) => Err(version.0),
        };
        candidate.page = Some(MarkPage { at, mark });
        Ok(candidate)
    }

    /// The note of the process before this one, if nothing came between.
    fn note(&self, candidates: &[Candidate]) -> Option<(usize, Note)> {
        if self.hints.clean.is_some() {
            // The files are not as an orderly close left them, and nobody changed them since: that is damage.
            probe::reached("recover.note_beside_mark");
            return None;
        }
        let note = *self.context.notes.found(self.hints.topic, self.hints.id.partition)?;
        if self.context.boot != Some(note.boot) && !probe::planted("partition.note_of_other_boot") {
            probe::reached("recover.note_of_other_boot");
            return None;
        }
        let segment = candidates.iter().position(|candidate| candidate.base == note.segment_base)?;
        (candidates[segment].id == note.file).then_some((segment, note))
    }

    /// Up to where a sync is known to have come: by the checkpoint, or the latest mark.
    fn proven(&self, candidates: &[Candidate]) -> Offset {
        // A mark at the start of its file was written when the file was made, and proves nothing of what came before.
        let marks = candidates.iter().rev().filter_map(Candidate::mark);
        let mark = marks.into_iter().find(|mark| mark.position > 0 || probe::planted("partition.new_mark_believed"));
        let proven = self.hints.recovery_point.into_iter().chain(mark.map(|mark| mark.offset)).max();
        proven.unwrap_or(candidates[0].base).max(candidates[0].base)
    }

    fn open_unclean(&self, mut candidates: Vec<Candidate>, listing: &[(Offset, FileKind)]) -> Result<Recovered> {
        // What lies wholly below the start is gone, even if a crash brought its file back: it is never read.
        let start = self.hints.start.unwrap_or_default();
        let below = candidates.iter().skip(1).take_while(|candidate| candidate.base <= start).count();
        if below > 0 {
            probe::reached("recover.below_start");
        }
        let expired: Vec<Offset> = candidates.drain(..below).map(|candidate| candidate.base).collect();
        self.check_front(start, &candidates[0])?;
        let note = self.note(&candidates);
        let lap = self.lap(&candidates);
        let left = self.left()?;
        let (from, followed, restored) = self.begin(&candidates, note, self.proven(&candidates), listing)?;
        let progress = Progress::new(candidates[from.segment..].iter().map(|c| c.limit).sum::<u64>() - from.position);
        let is_foreign = self.hints.broker.is_some();
        let unfinished = Vec::new();
        let mut walk = Walk { recovery: self, candidates: &candidates, followed, restored, progress, unfinished };
        let found = walk.run(from)?;
        let Walk { mut followed, progress: Progress { scanned, .. }, unfinished, .. } = walk;
        let committed = |end: Offset| self.hints.committed.map_or(end, |committed| committed.min(end));
        followed.producers.committed_to(committed(found.offset));
        for (at, candidate) in candidates.iter_mut().enumerate() {
            match found.ends.iter().find(|(base, _)| *base == candidate.base) {
                Some((_, end)) => candidate.believe_page(*end)?,
                // Sealed, and cut to its batches as its seal says.
                None if at < from.segment => candidate.page = None,
                None => candidate.believe_page(0)?,
            }
        }
        let proven = self.proven(&candidates);
        let noted = note.map(|(_, note)| note.offset).max(lap.map(|lap| lap.end_before));
        let known = Known { start, written: proven.max(noted.unwrap_or(proven)), same_boot: noted.is_some() };
        let mut plan = self.judge(&candidates, &found, known, left.is_some())?;
        let staged = match &left {
            Some(left) => self.judge_left(&candidates, &found, left, &followed.epochs)?,
            None => None,
        };
        plan.drops_staged = left.is_some() && staged.is_none();
        if plan.drops_staged {
            probe::reached("recover.drops_staged");
        }
        if staged.is_some() {
            // A write of the lap that was cut short is done again, with the same bytes.
            plan.torn = None;
        }
        // The last batch may get longer yet: what is compressed in vain does.
        let lap_end =
            left.as_ref().map_or(0, |left| left.lap.position.saturating_add(packed_bound(left.bytes.len()) as u64));
        let mut recovered = self.assemble(candidates, followed, scanned, found, proven, plan)?;
        if let (Some(left), Some(staged)) = (&left, &staged) {
            // It was staged for this file, whatever its length is to be by now.
            recovered.segments.last().into_iter().for_each(|last| last.widen(lap_end));
            for (at, header) in staged.replayed.batches.iter().filter(|(at, _)| *at >= staged.done) {
                recovered.followed.replay(header, left.bytes.get(*at..));
            }
            recovered.followed.producers.committed_to(committed(staged.replayed.end));
        }
        let recovered = Recovered {
            end: staged.as_ref().map_or(recovered.end, |staged| staged.replayed.end),
            staged,
            ..recovered
        };
        let bases = |base: &Offset| recovered.segments.iter().any(|segment| segment.base() == *base);
        let snapshots = listing.iter().filter(|(_, kind)| *kind == FileKind::Snapshot).map(|(base, _)| *base);
        Ok(Recovered {
            is_whole: (known.same_boot || self.hints.clean.as_ref().is_some_and(|clean| clean.end == recovered.end))
                && self.context.recovery != RecoveryMode::Salvage,
            plan: Plan { expired: expired.into_iter().chain(recovered.plan.expired).collect(), ..recovered.plan },
            stale_snapshots: snapshots.filter(|base| !bases(base)).collect(),
            aborted_from: if is_foreign && from.segment > 0 { from.offset } else { Offset::ZERO },
            unfinished: unfinished.into_iter().filter(|sealed| bases(&sealed.base)).collect(),
            ..recovered
        })
    }

    /// A start is stored before anything below it goes: if it is known, and the first segment begins after it, somebody
    /// else has removed records.
    fn check_front(&self, start: Offset, first: &Candidate) -> Result<()> {
        // A broker notes the start when it comes to it, and may have removed segments since.
        let is_exact = self.hints.start.is_some() && self.hints.broker.is_none();
        let is_known = is_exact && self.context.recovery != RecoveryMode::Salvage;
        if is_known && first.base > start && !probe::planted("partition.front_not_missed") {
            let reason = format!("the log starts at {start}, and no segment before this one is there");
            return Err(Error::corrupt(&first.path, 0, reason));
        }
        Ok(())
    }

    /// Where to begin, and what is known of the batches before: no later than the batch that anything unknown comes
    /// after.
    fn begin(
        &self,
        candidates: &[Candidate],
        note: Option<(usize, Note)>,
        proven: Offset,
        listing: &[(Offset, FileKind)],
    ) -> Result<(From, Followed, Option<IndexWriter>)> {
        let last = candidates.len() - 1;
        // No seal vouches for what a broker wrote. It was flushed; the aborted transactions in it are found when asked for.
        let is_foreign = self.hints.broker.is_some();
        let (settled, aborted) = if is_foreign { (last, Vec::new()) } else { self.settled(candidates) };
        // Epochs come from a file or from the batches, and appends go on under the latest: they must not fall.
        let has_epochs =
            Followed::has_epochs(self.context, self.dir) && (!is_foreign || self.epochs_agree(&candidates[last])?);
        if let Some((segment, note)) = note
            && segment == last
            && note.position <= candidates[last].limit
            && settled == last
            && has_epochs
            && !note.has_producers
            && note.offset >= proven
            && let Some(index) = self.restore_index(
                candidates[last].base,
                note.index,
                note.time_index,
                Grown { largest: note.largest, since_last: note.since_last },
            )
        {
            probe::reached("recover.from_note");
            let followed = Followed::load(self.context, self.dir, Vec::new(), note.offset)?.with_aborted(aborted);
            return Ok((From { segment, position: note.position, offset: note.offset }, followed, Some(index)));
        }
        if is_foreign && !has_epochs {
            self.context.files.tell_state_rebuilt(Followed::epochs_path(self.dir));
        }
        // Everything else needs the last segment from its start, for its index; what is above proven; and what no
        // seal vouches for, for its length and its aborted transactions.
        let holds = |offset: Offset| candidates.iter().rposition(|candidate| candidate.base <= offset).unwrap_or(0);
        let mut segment = if has_epochs { last.min(holds(proven)).min(settled) } else { 0 };
        // Producers need a snapshot at exactly the offset from where on batches are read.
        let snapshot = loop {
            let base = candidates[segment].base;
            let snapshot = match listing.binary_search(&(base, FileKind::Snapshot)) {
                Ok(_) => Followed::snapshot(self.context, self.dir, base)?,
                Err(_) => None,
            };
            if is_foreign && snapshot.is_none() && segment > 0 {
                self.context.files.tell_state_rebuilt(file_path(self.dir, base, FileKind::Snapshot));
            }
            match snapshot {
                Some(entries) => break entries,
                None if segment == 0 => break Vec::new(),
                None => segment -= 1,
            }
            probe::reached("recover.earlier_segment");
        };
        let offset = candidates[segment].base;
        let aborted = aborted.into_iter().filter(|entry| entry.last_offset < offset).collect();
        let followed = Followed::load(self.context, self.dir, snapshot, offset)?.with_aborted(aborted);
        Ok((From { segment, position: 0, offset }, followed, None))
    }

    /// Whether a broker's checkpoint of epochs, which has no checksum, says of the first batch of a segment what it says
    /// itself.
    fn epochs_agree(&self, candidate: &Candidate) -> Result<bool> {
        let file = candidate.open(self.context.disk())?;
        let mut scan = Scan::new(&*file, 0, candidate.limit, candidate.base, false);
        let Ok(batch) = scan.next().map_err(Error::io("read", &candidate.path))? else { return Ok(true) };
        let agree = Followed::epochs_say(self.context, self.dir, &batch.header);
        if !agree {
            probe::reached("recover.epochs_disagree");
        }
        Ok(agree)
    }

    /// How many segments, from the first one on, are as their seals say, and the transactions aborted in them.
    fn settled(&self, candidates: &[Candidate]) -> (usize, Vec<AbortedTxn>) {
        let mut all = Vec::new();
        for (at, pair) in candidates.windows(2).enumerate() {
            let (before, base) = (&pair[0], pair[1].base);
            let seal = Seal::load(self.context.disk(), self.dir, before.base, before.limit);
            let Some(seal) = seal.filter(|seal| seal.end == base) else { return (at, all) };
            match Followed::aborted_of(self.context, self.dir, before.base, seal.txn_index) {
                Some(aborted) => all.extend_from_slice(aborted.entries()),
                None => return (at, all),
            }
        }
        (candidates.len() - 1, all)
    }

    /// The indexes of the last segment from their files, if these are what the digests were made of.
    fn restore_index(&self, base: Offset, index: Digest, time_index: Digest, grown: Grown) -> Option<IndexWriter> {
        let mut writer = IndexWriter::new(base, self.shape.index_bytes, self.shape.index_interval).ok()?;
        writer.restore(self.context.disk(), self.dir, [index, time_index], grown).then_some(writer)
    }

    /// Decides what the end that was found means, and so what is to be done about what lies behind it.
    fn judge(&self, candidates: &[Candidate], found: &End, known: Known, has_staged: bool) -> Result<Plan> {
        let at = &candidates[found.segment];
        let file = at.open(self.context.disk())?;
        let behind = last_data(&*file, found.position, at.limit).map_err(Error::io("read", &at.path))?;
        let later = &candidates[found.segment + 1..];
        let is_torn = behind > found.position || !later.is_empty();
        let corrupt = |reason: &str| Error::corrupt(&at.path, found.position, reason);
        let salvage = self.context.recovery == RecoveryMode::Salvage;
        let is_lost = found.offset < known.written && known.start < known.written;
        if is_lost && !salvage && !probe::planted("partition.damage_cut_off") {
            return Err(corrupt(&format!(
                "{}, and the log is known to reach offset {}",
                found.reason, known.written
            )));
        }
        if is_torn && known.same_boot && !salvage && !self.is_one_write(&*file, at, found, behind, later)? {
            return Err(corrupt(&format!("{}, and more than the last write lies behind", found.reason)));
        }
        if !salvage && let Some(reason) = self.unlike_a_broker(found, behind, later) {
            return Err(corrupt(&reason));
        }
        if !salvage && is_torn && !self.hints.is_dense() && self.is_lower(&*file, at, found)? {
            return Err(corrupt("a whole batch of a lower offset: that of the one before it was raised"));
        }
        let mut plan = Plan { behind, ..Plan::default() };
        if is_torn {
            probe::reached("recover.torn_tail");
            let path = at.path.clone();
            let torn = Torn { path, from: found.position, to: behind, offset: found.offset };
            plan.torn = (behind > found.position).then_some(torn);
            if has_staged {
                probe::reached("staging.cut_write");
            }
            if !later.is_empty() {
                probe::reached("recover.later_segments");
            }
            plan.set_aside = later
                .iter()
                .filter(|_| !probe::planted("partition.later_segments_kept"))
                .map(|candidate| candidate.base)
                .collect();
        }
        Ok(plan)
    }

    /// Whether the log ends before a batch that is whole, and lower than where it ends. It was written after the one before
    /// it, so that one has a wrong offset, which may be where offsets are missing.
    fn is_lower(&self, file: &dyn DiskFile, at: &Candidate, found: &End) -> Result<bool> {
        let mut scan = Scan::new(file, found.position, at.limit, at.base, false);
        let next = scan.next().map_err(Error::io("read", &at.path))?;
        Ok(next.is_ok_and(|batch| batch.header.base_offset < found.offset))
    }

    /// Whether what lies behind the end can be one write that a kill cut short: part of one batch, then nothing.
    fn is_one_write(
        &self,
        file: &dyn DiskFile,
        at: &Candidate,
        found: &End,
        behind: u64,
        later: &[Candidate],
    ) -> Result<bool> {
        // A roll leaves an empty file at the end of the log, and the walk goes on into it: this is another.
        if !later.is_empty() {
            return Ok(false);
        }
        if behind == found.position {
            return Ok(true);
        }
        probe::reached("recover.cut_write");
        let mut head = [0; BatchHeader::LEN];
        let have = (at.limit - found.position).min(head.len() as u64) as usize;
        read_exact_at(file, &mut head[..have], found.position).map_err(Error::io("read", &at.path))?;
        if behind - found.position < 12 {
            return Ok(true);
        }
        // The whole of the batch is there and does not verify: that is damage, for a write is cut at its end only.
        let claimed = 12 + u64::from(u32::from_be_bytes([head[8], head[9], head[10], head[11]]));
        if behind >= found.position.saturating_add(claimed) {
            return Ok(false);
        }
        // The length is under no checksum: if it is what was damaged, the batch that comes next lies behind it. One of
        // another offset may be what the record itself holds.
        let last = u32::from_be_bytes([head[23], head[24], head[25], head[26]]);
        let next = found.offset.0.saturating_add(u64::from(last)).saturating_add(1);
        holds_batch(file, found.position + 1, behind, Offset(next))
            .map(|holds| !holds)
            .map_err(Error::io("read", &at.path))
    }

    fn assemble(
        &self,
        mut candidates: Vec<Candidate>,
        mut followed: Followed,
        scanned_bytes: u64,
        found: End,
        proven: Offset,
        mut plan: Plan,
    ) -> Result<Recovered> {
        candidates.truncate(found.segment + 1);
        followed.epochs.truncate_from_end(found.offset);
        let start = self.hints.start.unwrap_or(candidates[0].base).max(candidates[0].base);
        if start > found.offset {
            // What is left lies below the start: the log goes on, empty, in a new segment.
            probe::reached("recover.end_below_start");
            plan.expired = candidates.iter().map(|candidate| candidate.base).collect();
            let followed = Followed::load(self.context, self.dir, Vec::new(), start)?;
            return Ok(Recovered { plan, scanned_bytes, ..Recovered::empty(start, followed) });
        }
        let segments = self.segments(&candidates, &found);
        publish(&segments, &found.index);
        let mark = candidates.last().and_then(|last| last.mark().map(|mark| (last.limit, mark)));
        let active = Found {
            // A file that grows is cut at its end, whatever is in there.
            touched: if mark.is_some() { plan.behind } else { candidates.last().map_or(0, |last| last.limit) },
            has_bytes_behind: plan.behind > found.position,
            is_closed: false,
            first_timestamp: found.first_timestamp,
            index: found.index,
            mark,
        };
        Ok(Recovered {
            segments,
            active: Some(active),
            end: found.offset,
            proven: proven.min(found.offset),
            plan,
            scanned_bytes,
            ..Recovered::empty(start, followed)
        })
    }

    fn segments(&self, candidates: &[Candidate], found: &End) -> Vec<Arc<SegmentData>> {
        let mut segments = Vec::with_capacity(candidates.len());
        for (at, candidate) in candidates.iter().enumerate() {
            let next = candidates.get(at + 1);
            let end = next.map_or(found.offset, |next| next.base);
            let ended = found.ends.iter().find(|(base, _)| *base == candidate.base).map(|(_, len)| *len);
            let len = ended.unwrap_or(candidate.limit);
            let capacity = if next.is_none() { self.shape.segment_bytes.max(candidate.limit) } else { len };
            segments.push(Arc::new(self.data(candidate, len, end, capacity)));
        }
        segments
    }

    fn data(&self, candidate: &Candidate, len: u64, end: Offset, capacity: u64) -> SegmentData {
        SegmentData::new(self.home, candidate.base, len, end, capacity).at(&candidate.path)
    }

    /// Opens by the mark that an orderly close left; `None` if the directory differs from it.
    fn open_clean(&self, clean: &CleanPartition, listing: &[(Offset, FileKind)]) -> Result<Option<Recovered>> {
        let logs = listing.iter().filter(|(_, kind)| *kind == FileKind::Log).map(|(base, _)| *base);
        if !logs.eq(clean.segments.iter().map(|(base, _)| *base)) {
            return Ok(None);
        }
        for (base, len) in &clean.segments {
            let path = file_path(self.dir, *base, FileKind::Log);
            if self.context.disk().metadata(&path).map_err(Error::io("describe", &path))?.len != *len {
                return Ok(None);
            }
        }
        let Some((last_base, last_len)) = clean.segments.last().copied() else { return Ok(None) };
        let Some(last) = self.last_batch(clean, last_base, last_len)? else { return Ok(None) };
        let Some(index) = self.restore_index(last_base, clean.index, clean.time_index, clean.grown) else {
            return Ok(None);
        };
        // The mark does not vouch for indexes of aborted transactions.
        if clean.has_aborted {
            return Ok(None);
        }
        let has_epochs = match &last {
            Some(header) => Followed::epochs_say(self.context, self.dir, header),
            None => clean.end == Offset::ZERO || Followed::has_epochs(self.context, self.dir),
        };
        if !has_epochs {
            return Ok(None);
        }
        let snapshot = match listing.binary_search(&(clean.end, FileKind::Snapshot)) {
            Ok(_) => Followed::snapshot(self.context, self.dir, clean.end)?,
            Err(_) => None,
        };
        if snapshot.is_none() && clean.has_producers {
            return Ok(None);
        }
        let followed = Followed::load(self.context, self.dir, snapshot.unwrap_or_default(), clean.end)?;
        let ends = clean.segments.iter().enumerate().map(|(at, (base, len))| {
            let end = clean.segments.get(at + 1).map_or(clean.end, |(next, _)| *next);
            let is_last = *base == last_base;
            let capacity = if is_last { self.shape.segment_bytes.max(*len) } else { *len };
            let data = SegmentData::new(self.home, *base, *len, end, capacity);
            data.vouch(if is_last { *len } else { 0 });
            Arc::new(data)
        });
        let segments: Vec<_> = ends.collect();
        publish(&segments, &index);
        let first_timestamp = clean.first_timestamp;
        let found =
            Found { touched: last_len, has_bytes_behind: false, is_closed: true, first_timestamp, index, mark: None };
        Ok(Some(Recovered {
            segments,
            active: Some(found),
            end: clean.end,
            proven: clean.end,
            names_are_durable: true,
            stale_snapshots: listing
                .iter()
                .filter(|(base, kind)| {
                    *kind == FileKind::Snapshot && clean.segments.iter().all(|(kept, _)| kept != base)
                })
                .map(|(base, _)| *base)
                .collect(),
            is_clean: true,
            is_whole: true,
            ..Recovered::empty(clean.start, followed)
        }))
    }

    /// The last batch, or that there is none, if it is as an orderly close left it.
    fn last_batch(&self, clean: &CleanPartition, base: Offset, len: u64) -> Result<Option<Option<BatchHeader>>> {
        let Some((position, crc)) = clean.last_batch else { return Ok((len == 0).then_some(None)) };
        let path = file_path(self.dir, base, FileKind::Log);
        let file = self.context.disk().open(&path, Open::Read).map_err(Error::io("open", &path))?;
        let mut scan = Scan::new(&*file, position.min(len), len, base, false);
        let batch = scan.next().map_err(Error::io("read", &path))?.ok();
        let is_same = |batch: &Scanned<'_>| {
            batch.header.crc == crc && batch.header.next_offset() == clean.end && batch.end() == len
        };
        Ok(batch.filter(is_same).map(|batch| Some(batch.header)))
    }
}

impl Candidate {
    /// The best mark, as long as nothing speaks against the page.
    fn mark(&self) -> Option<SyncMark> {
        self.page.as_ref().and_then(|page| page.mark.ok().flatten())
    }

    /// Takes what looks like a page of marks for one if the batches, which end at `end`, do not reach into it: the bytes
    /// of a mark may be those of a record.
    fn believe_page(&mut self, end: u64) -> Result<()> {
        self.page = self.page.take().filter(|page| end <= page.at);
        match &self.page {
            None => Ok(()),
            Some(MarkPage { mark: Err(found), .. }) => {
                let supported = crate::disk::marks::VERSION;
                Err(Error::NewerVersion { path: self.path.clone(), found: *found, supported })
            }
            Some(page) => {
                self.limit = page.at;
                Ok(())
            }
        }
    }

    fn open(&self, disk: &dyn Disk) -> Result<Arc<dyn DiskFile>> {
        disk.open(&self.path, Open::Read).map_err(Error::io("open", &*self.path))
    }
}

/// Lets readers use the index of the last segment, as recovery has it: nobody else vouches for its files.
fn publish(segments: &[Arc<SegmentData>], index: &IndexWriter) {
    if let Some(last) = segments.last() {
        last.set_index(Some(index.reader()));
        if let Some((timestamp, offset)) = index.largest() {
            last.note_largest(timestamp, offset);
        }
    }
}

/// What is known of the log's end beforehand.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// Nothing below is kept, so nothing there can be lost.
    start: Offset,
    /// Everything below was written, in this boot or on the disk.
    written: Offset,
    same_boot: bool,
}

/// Reads a small file of a partition directory; `None` if it is not there.
pub(crate) fn read_if_there(context: &Context, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    use std::io::ErrorKind::{FileTooLarge, InvalidData, NotFound, UnexpectedEof};
    match read_file(context.disk(), path, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        // Longer than it can be, or cut while it was read: damaged, and as good as none.
        Err(error) if matches!(error.kind(), NotFound | FileTooLarge | InvalidData | UnexpectedEof) => Ok(None),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}
