//! One pass over a partition, in steps as short as the caller likes.
//!
//! ```text
//! map the dirty records -> (the caller allows gaps, durably) -> for each group: rewrite, sync, swap
//! ```
//!
//! A group of one segment of which everything stays is left as it is, and nothing is written for it until something of
//! it goes.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::choice::{Dirty, Facts, groups};
use super::clean::{At, Cleaner};
use super::filter::{Fate, Filter, Rules};
use super::offset_map::OffsetMap;
use super::swap::{CLEANED, Swap, suffixed};
use crate::checksum::{Crc32, Digest};
use crate::config::TopicConfig;
use crate::disk::{DiskFile, Open, read_exact_at, write_all_at};
use crate::error::{Error, Result};
use crate::partition::core::Core;
use crate::partition::follow::encode_between;
use crate::probe;
use crate::record::{BatchHeader, BatchRef};
use crate::segment::data::SegmentData;
use crate::segment::index::IndexWriter;
use crate::segment::scan::Scan;
use crate::segment::seal::Seal;
use crate::segment::txn_index::AbortedTxn;
use crate::segment::{FileKind, file_path};
use crate::types::{Offset, Timestamp};

/// A partition that can be compacted, and what of it is dirty.
#[derive(Debug)]
pub(crate) struct Chosen {
    core: Arc<Core>,
    config: TopicConfig,
    segments: Vec<Arc<SegmentData>>,
    facts: Vec<Facts>,
    pub(crate) dirty: Dirty,
}

/// One pass.
#[derive(Debug)]
pub(crate) struct Round {
    core: Arc<Core>,
    config: TopicConfig,
    /// The sources, from the first segment of the log on.
    segments: Vec<Arc<SegmentData>>,
    facts: Vec<Facts>,
    dirty: Dirty,
    aborted: Arc<[AbortedTxn]>,
    cleaner: Cleaner,
    stage: Stage,
    groups: VecDeque<Range<usize>>,
    /// The list of segments as it was when the sources were last looked for in it.
    generation: u64,
    began: Duration,
    tally: Tally,
}

#[derive(Debug)]
enum Stage {
    Mapping {
        at: usize,
        reading: Option<Reading>,
    },
    /// Until gaps are allowed.
    Mapped,
    Rewriting(Option<Box<Output>>),
    /// Until nobody needs the names as they are.
    Swapping {
        swap: Option<Swap>,
        bytes: u64,
        /// The first of its sources.
        start: usize,
    },
}

/// What a step has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// There is more to do.
    More,
    /// Up to here the latest record of each key is known. Gaps below are to be [allowed](Round::rewrite) first.
    Mapped { covered: Offset },
    /// A segment has taken the place of others.
    Swapped,
    /// Somebody needs the files under their names: come again later.
    Waiting,
    /// That was all.
    Done,
}

/// How much may be read until something else has its turn.
#[derive(Debug)]
pub(crate) struct Budget {
    pub(crate) left: u64,
    /// How much was; more than there was left for, by a part of the last batch.
    pub(crate) read: u64,
}

impl Budget {
    pub(crate) fn new(bytes: u64) -> Self {
        Self { left: bytes, read: 0 }
    }

    fn take(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
        self.read += bytes;
    }
}

/// What a round came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Everything below was compacted.
    pub(crate) cleaned: Offset,
    /// Whether all that was dirty was: else there was no memory for all keys.
    pub(crate) is_all: bool,
    pub(crate) tally: Tally,
    pub(crate) duration: Duration,
}

/// What went in and what came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub(crate) segments_before: u64,
    pub(crate) segments_after: u64,
    pub(crate) bytes_before: u64,
    pub(crate) bytes_after: u64,
}

/// A source as far as it was read.
#[derive(Debug)]
struct Reading {
    file: Arc<dyn DiskFile>,
    position: u64,
    next: Offset,
}

/// A segment that is being written.
#[derive(Debug)]
struct Output {
    group: Range<usize>,
    base: Offset,
    path: PathBuf,
    /// None while everything stays.
    file: Option<Arc<dyn DiskFile>>,
    /// What was not written yet, and where it belongs.
    buffer: Vec<u8>,
    position: u64,
    /// How much of it is not synced.
    unsynced: u64,
    /// What comes before the first batch that changes, as far as it is to be copied yet.
    prefix: Range<u64>,
    index: IndexWriter,
    crc: Crc32,
    frames: Crc32,
    dropped_aborts: Vec<Offset>,
    /// The end of the last batch that lost a tombstone because its time has passed.
    forgotten: Option<Offset>,
    source: usize,
    reading: Option<Reading>,
}

impl Chosen {
    /// What of a partition is dirty; none if nothing can be done about it.
    pub(crate) fn of(core: &Arc<Core>, now: Timestamp) -> Result<Option<Self>> {
        core.check()?;
        let config = *core.config.read();
        if !config.cleanup.compacts() || core.context.read_only || core.has_pending_swap() {
            return Ok(None);
        }
        let (segments, cleaned) = (core.settled_segments(), core.cleaned());
        let facts = segments.iter().map(|segment| facts(segment, cleaned, &config)).collect::<Result<Vec<_>>>()?;
        let stable = if probe::planted("compact.past_stable") { core.end() } else { core.stable() };
        let Some(dirty) = Dirty::of(&facts, cleaned, stable, now, &config) else { return Ok(None) };
        Ok(Some(Self { core: Arc::clone(core), config, segments, facts, dirty }))
    }

    /// Whether it is worth a pass.
    pub(crate) fn is_due(&self) -> bool {
        self.dirty.is_due(&self.config)
    }

    /// Begins a pass, with at most so much memory for keys.
    pub(crate) fn begin(mut self, memory: u64) -> Result<Round> {
        let Dirty { from, upper, .. } = self.dirty;
        // What comes after may be undecided: a record there says nothing of those before.
        let count = self.segments.iter().take_while(|segment| segment.end() <= upper).count();
        self.segments.truncate(count);
        self.facts.truncate(count);
        let context = &self.core.context;
        let latest = OffsetMap::new([context.entropy.random(), context.entropy.random()], memory, upper - from);
        let stage = Stage::Mapping { at: 0, reading: None };
        let now = context.clock.now();
        let delete_retention_ms =
            if probe::planted("compact.no_horizon") { i64::MIN } else { self.config.delete_retention_ms };
        let rules = Rules { covered: from, now, delete_retention_ms, erases: false };
        Round::new(self.core, self.config, self.segments, self.facts, self.dirty, rules, latest, stage)
    }
}

fn facts(segment: &Arc<SegmentData>, cleaned: Offset, config: &TopicConfig) -> Result<Facts> {
    // Of what is clean nobody asks how old it is.
    let is_dirty = segment.end() > cleaned;
    let largest = match is_dirty && config.min_compaction_lag_ms > 0 {
        true => segment.largest_timestamp()?.map(|(largest, _)| largest),
        false => None,
    };
    let first = match is_dirty && config.max_compaction_lag_ms < i64::MAX && segment.len() > 0 {
        true => Some(segment.header(&segment.view()?, 0, segment.len())?.max_timestamp),
        false => None,
    };
    Ok(Facts { base: segment.base(), end: segment.end(), len: segment.len(), largest, first })
}

impl Core {
    /// Seals the segment that holds `offset`, if it is the active one.
    pub(crate) fn seal_up_to(&self, offset: Offset) -> Result<()> {
        let mut writer = self.lock();
        self.check()?;
        writer.seal_up_to(self, offset).map_err(|failure| self.fail(failure))
    }

    /// The sealed segments that are finished and durable, the oldest first: nobody else does anything to these.
    pub(super) fn settled_segments(&self) -> Vec<Arc<SegmentData>> {
        let writer = self.lock();
        let (segments, start, synced) = (self.segments(), self.start(), self.synced());
        let unfinished = writer.unfinished.iter().map(|sealed| sealed.data.base()).min().unwrap_or(Offset::MAX);
        let sealed = &segments[..segments.len().saturating_sub(1)];
        let is_settled = |segment: &&Arc<SegmentData>| segment.end() <= synced && segment.base() < unfinished;
        sealed.iter().skip_while(|segment| segment.end() <= start).take_while(is_settled).cloned().collect()
    }
}

impl Round {
    /// A pass that removes from the segments below `upto` what is older of `key` than the record at `latest`, and nothing
    /// else that is not due at once.
    ///
    /// `None` if those segments are not all sealed, finished and durable, or not decided.
    pub(crate) fn erase(core: &Arc<Core>, key: &[u8], latest: Offset) -> Result<Option<Self>> {
        core.check()?;
        core.finish_swap()?;
        let config = *core.config.read();
        let segments = core.settled_segments();
        let count = segments.iter().take_while(|segment| segment.base() <= latest).count();
        let covered = latest + 1;
        let is_reached =
            segments[..count].last().is_some_and(|last| last.end() >= covered) && core.stable() >= covered;
        if !is_reached {
            return Ok(None);
        }
        let segments = segments[..count].to_vec();
        let facts =
            segments.iter().map(|segment| facts(segment, Offset::MAX, &config)).collect::<Result<Vec<_>>>()?;
        let context = &core.context;
        let mut map = OffsetMap::new([context.entropy.random(), context.entropy.random()], 0, 1);
        let _ = map.put(key, latest);
        let rules = Rules {
            covered,
            now: context.clock.now(),
            delete_retention_ms: config.delete_retention_ms,
            erases: true,
        };
        let dirty = Dirty { from: covered, upper: covered, ratio: 0.0, is_overdue: false };
        Self::new(Arc::clone(core), config, segments, facts, dirty, rules, map, Stage::Mapped).map(Some)
    }

    #[expect(clippy::too_many_arguments, reason = "private, and of two callers")]
    fn new(
        core: Arc<Core>,
        config: TopicConfig,
        segments: Vec<Arc<SegmentData>>,
        facts: Vec<Facts>,
        dirty: Dirty,
        rules: Rules,
        latest: OffsetMap,
        stage: Stage,
    ) -> Result<Self> {
        // All of them: a marker that is met must find its transaction.
        let aborted = core.aborted()?;
        let producers: Vec<_> = {
            let mut writer = core.lock();
            core.check()?;
            // What recovery found is settled first.
            writer.begin(&core).map_err(|failure| core.fail(failure))?;
            writer.followed.producers.entries().collect()
        };
        let producers = producers.into_iter().filter(|_| !probe::planted("compact.producers_forgotten"));
        let filter = Filter::new(rules, producers, &aborted);
        let cleaner = Cleaner::new(filter, latest, &config);
        let (generation, began) = (core.generation(), core.context.clock.monotonic());
        let (groups, tally) = (VecDeque::new(), Tally::default());
        Ok(Self { core, config, segments, facts, dirty, aborted, cleaner, stage, groups, generation, began, tally })
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Goes on, until `budget` bytes were read; that is lowered by what was. Returns what there is to do next.
    ///
    /// # Errors
    ///
    /// [`Error::LowSpace`] if the next segment would take space that is to be left free: the round can go on once there is
    /// some. With others it is to be [given up](Self::give_up). [`Error::Closed`] also if a source was removed, or the topic
    /// is not compacted any more: nothing is wrong then.
    pub(crate) fn step(&mut self, budget: &mut Budget) -> Result<Step> {
        self.core.check()?;
        if !self.core.config.read().cleanup.compacts() {
            return Err(Error::Closed);
        }
        let step = match &self.stage {
            Stage::Mapping { .. } => self.map(budget),
            Stage::Mapped => self.keep_tail().map(|()| Step::Mapped { covered: self.covered() }),
            Stage::Rewriting(_) => self.rewrite_some(budget),
            Stage::Swapping { .. } => self.swap(),
        };
        self.core.deliver();
        step
    }

    /// Goes on after [`Step::Mapped`]: gaps below are allowed, durably.
    pub(crate) fn rewrite(&mut self) {
        let kept = self.core.segments();
        let is_removed = |source: &&Arc<SegmentData>| !kept.iter().any(|kept| Arc::ptr_eq(kept, source));
        let removed = self.segments.iter().take_while(is_removed).count();
        self.segments.drain(..removed);
        self.facts.drain(..removed);
        let covered = self.covered();
        let count = self.segments.iter().take_while(|segment| segment.base() < covered).count();
        self.segments.truncate(count);
        self.facts.truncate(count);
        let erases = self.cleaner.filter.rules().erases;
        self.groups = groups(&self.facts, &self.config, erases).into();
        self.stage = Stage::Rewriting(None);
    }

    /// What it came to, once it is done.
    pub(crate) fn outcome(&self) -> Outcome {
        let cleaned = self.covered();
        let duration = self.core.context.clock.monotonic().saturating_sub(self.began);
        Outcome { cleaned, is_all: cleaned >= self.dirty.upper, tally: self.tally, duration }
    }

    /// Removes what was written and has no place yet, as far as that goes: who compacts next removes the rest.
    pub(crate) fn give_up(self) {
        if !self.core.has_stopped() && !self.core.has_pending_swap() {
            probe::reached("compact.given_up");
            let _ = self.core.clear_unfinished();
        }
    }

    fn covered(&self) -> Offset {
        self.cleaner.filter.rules().covered
    }

    fn map(&mut self, budget: &mut Budget) -> Result<Step> {
        // What is clean is read later, and may go until then.
        self.check_sources(self.segments.partition_point(|segment| segment.end() <= self.dirty.from))?;
        let Self { core, segments, cleaner, stage, dirty, .. } = self;
        let Stage::Mapping { at, reading } = stage else { return Ok(Step::More) };
        let Some(segment) = segments.get(*at) else {
            cleaner.filter.cover(dirty.upper);
            self.stage = Stage::Mapped;
            return Ok(Step::More);
        };
        if segment.end() <= dirty.from {
            *at += 1;
            return Ok(Step::More);
        }
        let reading = match reading {
            Some(reading) => reading,
            None => {
                let position = segment.locate(dirty.from)?.unwrap_or(segment.len());
                reading.insert(Reading::new(core, segment, position)?)
            }
        };
        let mut full = None;
        // Gaps are judged when the batches are rewritten.
        let is_at_end = reading.each(segment, Offset::MAX, budget, |batch, place, _| {
            full = cleaner.map(batch, dirty.from, place)?;
            Ok(full.is_none())
        })?;
        if let Some(first) = full {
            // There is room for one key at least, so this is above where it began.
            probe::reached("compact.map_full");
            let covered = if probe::planted("compact.covers_all") { dirty.upper } else { first };
            cleaner.filter.cover(covered);
            self.stage = Stage::Mapped;
        } else if is_at_end {
            self.stage = Stage::Mapping { at: *at + 1, reading: None };
        }
        Ok(Step::More)
    }

    /// Makes durable what this goes by and may lie above the sources: the outcomes of transactions, the last batches of
    /// producers. Else a power cut could take a marker, and what the records of its transaction superseded would be gone with
    /// them; or the last batch of a producer, and the one before it, by which it was known, would be gone as well.
    fn keep_tail(&self) -> Result<()> {
        let goes_by_tail = self.cleaner.maps_transactions || self.cleaner.filter.knows_producers();
        match goes_by_tail && !probe::planted("compact.outcome_not_synced") {
            true => self.core.sync_to(self.core.end()),
            false => Ok(()),
        }
    }

    fn rewrite_some(&mut self, budget: &mut Budget) -> Result<Step> {
        let Stage::Rewriting(output) = &mut self.stage else { return Ok(Step::More) };
        let mut output = match output.take() {
            Some(output) => output,
            None => match self.groups.front().cloned() {
                Some(group) => {
                    // It is written before those that it replaces go.
                    let len = self.facts[group.clone()].iter().map(|source| source.len).sum();
                    self.core.context.space.admit_beside(self.core.context.disk(), len)?;
                    self.groups.pop_front();
                    // What failed before may have left something, and what is left would be finished with the next.
                    if !probe::planted("compact.leftovers_kept") {
                        self.core.clear_unfinished()?;
                    }
                    // A pass that a limit slows down leaves readers their time all the same.
                    self.cleaner.filter.set_now(self.core.context.clock.now());
                    Box::new(self.begin_output(group)?)
                }
                None => return Ok(Step::Done),
            },
        };
        self.check_sources(output.group.start)?;
        let is_complete = self.fill(&mut output, budget)?;
        self.stage = match is_complete {
            false => Stage::Rewriting(Some(output)),
            true => self.finish(*output)?,
        };
        Ok(Step::More)
    }

    fn begin_output(&self, group: Range<usize>) -> Result<Output> {
        let base = self.segments[group.start].base();
        let sources = &self.facts[group.clone()];
        let len: u64 = sources.iter().map(|source| source.len).sum();
        let interval = self.config.index_interval_bytes as u32;
        let room = (len / u64::from(interval).max(BatchHeader::LEN as u64) + 2).saturating_mul(12);
        let path = suffixed(&file_path(&self.core.dir, base, FileKind::Log), CLEANED);
        let mut output = Output {
            source: group.start,
            group,
            base,
            path,
            file: None,
            buffer: Vec::new(),
            position: 0,
            unsynced: 0,
            prefix: 0..0,
            index: IndexWriter::new(base, usize::try_from(room).unwrap_or(usize::MAX), interval)?,
            crc: Crc32::new(),
            frames: Crc32::new(),
            dropped_aborts: Vec::new(),
            forgotten: None,
            reading: None,
        };
        if output.group.len() > 1 {
            output.create(&self.core)?;
        }
        Ok(output)
    }

    /// Writes what is left of the sources, as far as the budget goes; `true` once that is all.
    fn fill(&mut self, output: &mut Output, budget: &mut Budget) -> Result<bool> {
        while output.source < output.group.end && budget.left > 0 {
            let segment = &self.segments[output.source];
            let mut reading = match output.reading.take() {
                Some(reading) => reading,
                None => Reading::new(&self.core, segment, 0)?,
            };
            if !output.prefix.is_empty() {
                output.copy_some(&reading, segment, budget)?;
                output.reading = Some(reading);
                continue;
            }
            // A broker leaves sealed segments without a batch: what comes before them has the last one.
            let behind = &self.facts[output.source + 1..output.group.end];
            let is_last_source = behind.iter().all(|source| source.len == 0);
            let (core, cleaner) = (&self.core, &mut self.cleaner);
            let is_at_end = reading.each(segment, core.dense_from(), budget, |batch, place, is_end| {
                let from = output.buffer.len();
                let cleaned = cleaner.clean(batch, is_end && is_last_source, place, &mut output.buffer)?;
                if cleaned.drops_abort {
                    output.dropped_aborts.push(batch.header().base_offset);
                }
                if cleaned.forgets {
                    output.forgotten = Some(batch.header().next_offset());
                }
                if cleaned.fate != Fate::Copied && output.file.is_none() {
                    output.begin_change(core, from, place.position)?;
                }
                output.took(from);
                if output.buffer.len() >= WRITE_AT {
                    output.flush()?;
                }
                Ok(output.prefix.is_empty())
            })?;
            match is_at_end {
                true => output.source += 1,
                false => output.reading = Some(reading),
            }
        }
        Ok(output.source == output.group.end)
    }

    /// Makes a whole segment of what was written, durable under its `.cleaned` names.
    fn finish(&mut self, mut output: Output) -> Result<Stage> {
        output.flush()?;
        let sources = &self.segments[output.group.clone()];
        let bytes: u64 = sources.iter().map(|source| source.len()).sum();
        self.tally.segments_before += sources.len() as u64;
        self.tally.bytes_before += bytes;
        let is_written = output.position > 0;
        let Some(file) = output.file.take().filter(|_| is_written || bytes > 0) else {
            // Everything stays: all of a segment, or there was no batch in any.
            self.tally.segments_after += sources.len() as u64;
            self.tally.bytes_after += bytes;
            if output.group.len() > 1 {
                self.core.clear_unfinished()?;
            }
            return Ok(Stage::Rewriting(None));
        };
        if !is_written {
            return Err(Error::corrupt(&output.path, 0, "nothing is left of segments with batches"));
        }
        let core = &self.core;
        let end = sources.last().map_or(output.base, |last| last.end());
        output.index.close();
        let aborted: Vec<AbortedTxn> = self
            .aborted
            .iter()
            .filter(|entry| output.dropped_aborts.binary_search(&entry.last_offset).is_err())
            .copied()
            .collect();
        let aborted = encode_between(&aborted, output.base, end);
        let mut kinds = vec![FileKind::Log];
        let mut digests = [Digest::default(); 2];
        for (digest, (kind, region)) in digests.iter_mut().zip(output.index.regions()) {
            *digest = Digest::of(region.readable());
            write_cleaned(core, output.base, kind, region.readable())?;
            kinds.push(kind);
        }
        if !aborted.is_empty() {
            write_cleaned(core, output.base, FileKind::TxnIndex, &aborted)?;
            kinds.push(FileKind::TxnIndex);
        }
        let seal = Seal {
            base: output.base,
            end,
            log_len: output.position,
            largest: output.index.largest(),
            log_crc: output.crc.finish(),
            index: digests[0],
            time_index: digests[1],
            txn_index: Digest::of(&aborted),
            frames: Some(output.frames.finish()),
        };
        write_cleaned(core, output.base, FileKind::Seal, &seal.encode())?;
        kinds.push(FileKind::Seal);
        if !probe::planted("compact.output_not_synced") {
            file.sync().map_err(Error::io("sync", &*output.path))?;
        }
        let view = core.context.files.view(&output.path, output.position, 0)?;
        let new = SegmentData::new(&core.home, output.base, output.position, end, output.position);
        // All its records were checked on the way.
        new.vouch(output.position);
        if let Some((timestamp, offset)) = output.index.largest() {
            new.note_largest(timestamp, offset);
        }
        let new = new.pinned_to(view, output.index.reader());
        let swap = Swap::new(new, sources.to_vec(), kinds, output.dropped_aborts, output.forgotten);
        Ok(Stage::Swapping { swap: Some(swap), bytes: output.position, start: output.group.start })
    }

    fn swap(&mut self) -> Result<Step> {
        let Stage::Swapping { start, .. } = self.stage else { return Ok(Step::More) };
        // While it waited for the names, retention may have been there.
        self.check_sources(start)?;
        let Stage::Swapping { swap, bytes, .. } = &mut self.stage else { return Ok(Step::More) };
        if let Some(ready) = swap.take()
            && let Some(postponed) = self.core.begin_swap(ready)?
        {
            *swap = Some(postponed);
            return Ok(Step::Waiting);
        }
        self.tally.segments_after += 1;
        self.tally.bytes_after += *bytes;
        self.stage = Stage::Rewriting(None);
        Ok(Step::Swapped)
    }

    /// Refuses to go on if a source of what is still to be done is not in the partition any more.
    fn check_sources(&mut self, from: usize) -> Result<()> {
        let generation = self.core.generation();
        if generation == self.generation {
            return Ok(());
        }
        let segments = self.core.segments();
        let mut kept = segments.iter();
        // Both are in order.
        let are_there = |source: &Arc<SegmentData>| kept.any(|kept| Arc::ptr_eq(kept, source));
        if !self.segments[from.min(self.segments.len())..].iter().all(are_there) {
            probe::reached("compact.source_removed");
            return Err(Error::Closed);
        }
        self.generation = generation;
        Ok(())
    }
}

impl Reading {
    fn new(core: &Core, segment: &SegmentData, position: u64) -> Result<Self> {
        let path = segment.path();
        let file = core.context.disk().open(path, Open::Read).map_err(Error::io("open", path))?;
        Ok(Self { file, position, next: segment.base() })
    }

    /// Hands out verified batches until the budget is used up or `visit` returns `false`; `true` once the segment is at
    /// its end. `visit` is told whether a batch is the last one.
    fn each(
        &mut self,
        segment: &SegmentData,
        dense_from: Offset,
        budget: &mut Budget,
        mut visit: impl FnMut(&BatchRef<'_>, At<'_>, bool) -> Result<bool>,
    ) -> Result<bool> {
        let (path, len) = (segment.path(), segment.len());
        let scan = Scan::new(&*self.file, self.position, len, self.next, false);
        let mut scan = scan.dense_from(dense_from).below(Some(segment.end()));
        while budget.left > 0 {
            let place = At { path, position: scan.position() };
            let corrupt = |what: &'static str| Error::corrupt(path, place.position, what);
            let (header, end, goes_on) = match scan.next().map_err(Error::io("read", path))? {
                Ok(batch) => {
                    let (header, end) = (batch.header, batch.end());
                    let mut long = Vec::new();
                    let verified = match batch.bytes {
                        Some(bytes) => BatchRef::framed(bytes),
                        None => {
                            long.resize(header.batch_len as usize, 0);
                            read_exact_at(&*self.file, &mut long, place.position).map_err(Error::io("read", path))?;
                            BatchRef::verify(&long)
                        }
                    };
                    let batch = verified.map_err(|invalid| corrupt(invalid.what))?;
                    (header, end, visit(&batch, place, end == len)?)
                }
                Err(stop) if stop.position == len => return Ok(true),
                Err(stop) => return Err(Error::corrupt(path, stop.position, stop.reason)),
            };
            budget.take(u64::from(header.batch_len));
            (self.position, self.next) = (end, header.next_offset());
            if !goes_on {
                return Ok(false);
            }
        }
        Ok(self.position == len)
    }
}

impl Output {
    fn create(&mut self, core: &Core) -> Result<()> {
        let file = core.context.disk().open(&self.path, Open::CreateNew).map_err(Error::io("create", &*self.path))?;
        self.file = Some(file);
        Ok(())
    }

    /// The first batch of the segment changes, at this position: what comes before is to be copied as it is. Of the buffer,
    /// that is what comes before `from`, and is written with what follows.
    fn begin_change(&mut self, core: &Core, from: usize, position: u64) -> Result<()> {
        debug_assert_eq!(self.position + from as u64, position, "all of it stayed");
        self.create(core)?;
        self.prefix = 0..self.position;
        Ok(())
    }

    /// Copies of what comes before the first change as much as the budget lets.
    fn copy_some(&mut self, reading: &Reading, source: &SegmentData, budget: &mut Budget) -> Result<()> {
        let Some(file) = self.file.clone() else { return Ok(()) };
        let mut piece = vec![0; (self.prefix.end - self.prefix.start).min(WRITE_AT as u64) as usize];
        while !self.prefix.is_empty() && budget.left > 0 {
            let at = self.prefix.start;
            let bytes = &mut piece[..(self.prefix.end - at).min(WRITE_AT as u64) as usize];
            read_exact_at(&*reading.file, bytes, at).map_err(Error::io("read", source.path()))?;
            write_all_at(&*file, bytes, at).map_err(Error::io("write", &*self.path))?;
            let len = bytes.len() as u64;
            self.prefix.start += len;
            budget.take(len);
            self.wrote(&*file, len)?;
        }
        Ok(())
    }

    /// Syncs what was written piece by piece: others wait for the one who syncs all of it.
    fn wrote(&mut self, file: &dyn DiskFile, len: u64) -> Result<()> {
        self.unsynced += len;
        if self.unsynced >= SYNC_AT && !probe::planted("compact.output_not_synced") {
            file.sync().map_err(Error::io("sync", &*self.path))?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Takes note of the batch that was put into the buffer, if one was.
    fn took(&mut self, from: usize) {
        if let Ok(header) = BatchHeader::read(&self.buffer[from..]) {
            self.index.push(&header, self.position + from as u64, u64::from(header.batch_len));
            self.frames.update(&self.buffer[from..from + BatchHeader::CRC_FROM]);
        }
    }

    fn flush(&mut self) -> Result<()> {
        if let Some(file) = self.file.clone() {
            write_all_at(&*file, &self.buffer, self.position).map_err(Error::io("write", &*self.path))?;
            self.wrote(&*file, self.buffer.len() as u64)?;
        }
        self.crc.update(&self.buffer);
        self.position += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// Writes a small file of a segment as `.cleaned`, and syncs it.
fn write_cleaned(core: &Core, base: Offset, kind: FileKind, bytes: &[u8]) -> Result<()> {
    let path = suffixed(&file_path(&core.dir, base, kind), CLEANED);
    let path: &Path = &path;
    let file = core.context.disk().open(path, Open::CreateNew).map_err(Error::io("create", path))?;
    write_all_at(&*file, bytes, 0).map_err(Error::io("write", path))?;
    file.sync().map_err(Error::io("sync", path))
}

/// Bytes written at once.
const WRITE_AT: usize = if cfg!(test) { 1 << 9 } else { 1 << 20 };
/// Bytes written before they are synced.
const SYNC_AT: u64 = if cfg!(test) { 1 << 10 } else { 32 << 20 };
