//! What is behind the append lock: the active segment, and what comes next.
//!
//! Nothing is changed on disk before the first call that must: then [`Writer::begin`] carries out what recovery
//! planned, and notes that from here on only this process has written.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::append::AppendRules;
use super::core::Core;
use super::counters::{AppendCounter, AppendCounts};
use super::follow::Followed;
use super::producers::Placed;
use super::recover::{Plan, Torn, UnfinishedParts};
use super::report::Report;
use super::stage::{MAX_RELATIVE, Tail};
use crate::clock::Clock;
use crate::config::{Durability, TopicConfig};
use crate::disk::marks::Note;
use crate::disk::replace::{sync_parent, unshare};
use crate::disk::{Disk, DiskFile, Open, read_exact_at, write_all_at};
use crate::error::{Error, Result};
use crate::probe;
use crate::record::{BatchHeader, Compressor, OpenBatch, Record, Sender};
use crate::segment::active::{ActiveSegment, Failure, Found, Shape, SyncTarget, sync_as_found};
use crate::segment::data::SegmentData;
use crate::segment::index::IndexWriter;
use crate::segment::{FileKind, file_path};
use crate::types::{LeaderEpoch, Offset, Timestamp};

/// The one writer of a partition.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) config: TopicConfig,
    /// What of it concerns each append.
    pub(super) rules: AppendRules,
    pub(crate) end: Offset,
    pub(crate) epoch: LeaderEpoch,
    /// Whether this node appends; else it has what another one appends: see [`super::replicate`].
    pub(super) takes_appends: bool,
    pub(crate) followed: Followed,
    /// None until the first write of a partition without segments.
    pub(super) active: Option<ActiveSegment>,
    /// The last segment as recovery found it, until the first write.
    found: Option<Found>,
    plan: Plan,
    /// A segment that could not be made ready: something of it may be there, at an offset that others get now.
    stray: Option<Offset>,
    has_begun: bool,
    /// Segments that were rolled and not synced since, oldest first.
    rolled: Vec<SyncTarget>,
    /// Sealed segments whose indexes, snapshot and seal are still to be written.
    pub(crate) unfinished: VecDeque<Unfinished>,
    /// Segments taken from the list whose files are still to be removed, oldest first.
    pub(crate) condemned: VecDeque<Arc<SegmentData>>,
    stale_snapshots: Vec<Offset>,
    /// Whether an orderly close left the files, and nothing was changed since.
    is_clean: bool,
    /// Whether names were made in the directory since it was last synced.
    names_changed: bool,
    /// Whether a sync has taken that on itself since it was last known to be done.
    names_taken: bool,
    /// What recovery read and nobody has synced, segments and from which offset on: it is to be written again.
    unproven: Vec<(Arc<SegmentData>, Offset)>,
    noted_position: u64,
    jitter_ms: i64,
    pub(crate) unsynced_records: u64,
    pub(super) appended: Arc<AppendCounter>,
    pub(super) tail: Tail,
    pub(super) compressor: Compressor,
    /// Where a batch of one record is made.
    pub(super) buffer: Vec<u8>,
}

/// A sealed segment on its way to being an ordinary closed one.
#[derive(Debug)]
pub(crate) struct Unfinished {
    pub(crate) data: Arc<SegmentData>,
    /// What this process wrote it through, if it did.
    pub(crate) target: Option<SyncTarget>,
    pub(crate) end: Offset,
    pub(crate) index: IndexWriter,
    pub(crate) aborted: Vec<u8>,
    /// The state of producers at the end of the segment.
    pub(crate) snapshot: Vec<u8>,
}

/// What a sync does, taken under the append lock and carried out without it.
#[derive(Debug)]
pub(crate) struct SyncPlan {
    pub(crate) rolled: Vec<SyncTarget>,
    pub(crate) active: Option<SyncTarget>,
    pub(crate) names: bool,
    /// What is to be written again: segments, and from which offset on.
    pub(crate) unproven: Vec<(Arc<SegmentData>, Offset)>,
    unsynced_records: u64,
    pub(crate) end: Offset,
}

impl Writer {
    pub(crate) fn new(config: TopicConfig, recovered: WriterParts, segments: &[Arc<SegmentData>]) -> Self {
        let data_of = |base| segments.iter().find(|segment| segment.base() == base);
        let unfinished = recovered.unfinished.into_iter().filter_map(|parts| {
            let data = Arc::clone(data_of(parts.base)?);
            let UnfinishedParts { end, index, aborted, snapshot, .. } = parts;
            Some(Unfinished { data, target: None, end, index, aborted, snapshot })
        });
        let epoch = recovered.followed.epochs.latest().unwrap_or_default();
        let (proven, end) = (recovered.proven, recovered.end);
        let unproven = segments.iter().filter(|segment| segment.base() < end && segment.end() > proven);
        let unproven = unproven.map(|segment| (Arc::clone(segment), proven.max(segment.base())));
        Self {
            config,
            rules: AppendRules::of(&config),
            end: recovered.end,
            epoch,
            takes_appends: recovered.takes_appends,
            followed: recovered.followed,
            active: None,
            found: recovered.found,
            plan: recovered.plan,
            stray: None,
            has_begun: false,
            rolled: Vec::new(),
            unfinished: unfinished.collect(),
            condemned: VecDeque::new(),
            stale_snapshots: recovered.stale_snapshots,
            is_clean: recovered.is_clean,
            names_changed: !recovered.names_are_durable,
            names_taken: false,
            unproven: unproven.collect(),
            noted_position: 0,
            jitter_ms: 0,
            unsynced_records: 0,
            appended: Arc::default(),
            tail: recovered.tail,
            compressor: Compressor::default(),
            buffer: Vec::new(),
        }
    }

    /// Makes the partition ready to be written, once: carries out what recovery planned, takes over the last segment
    /// or makes the first one, and notes that this boot is writing it.
    pub(crate) fn begin(&mut self, core: &Core) -> Result<(), Failure> {
        if self.has_begun {
            return self.remove_stray(core).map_err(Failure::Refused);
        }
        core.context.before_change().map_err(Failure::Refused)?;
        self.is_clean = false;
        self.remove_stray(core).map_err(Failure::Refused)?;
        let is_torn = self.found.as_ref().is_some_and(|found| found.has_bytes_behind);
        if (!self.plan.is_empty() || is_torn) && !probe::planted("partition.note_kept_while_cutting") {
            // A kill half way through the cutting leaves what no single write leaves: whoever finds it must not take
            // this for the boot and the file that a note speaks of.
            core.context.notes.erase(core.context.disk(), core.topic, core.id.partition);
            core.context.pool.void(core.key());
        }
        self.carry_out_plan(core)?;
        if self.active.is_none() {
            self.active = Some(self.first_segment(core).map_err(Failure::Refused)?);
        }
        let (shape, origin) = (self.shape(), core.context.origin());
        let Some(active) = &mut self.active else { return Ok(()) };
        active.cut()?;
        active.lower_mark()?;
        // The first segment's name must outlive those of later ones: without it nobody could tell that records are
        // missing at the front. And what a killed process made is in memory only, as far as anybody knows.
        self.sync_names(core)?;
        let Some(active) = &mut self.active else { return Ok(()) };
        if shape.durable && !active.is_reserved() {
            // What is staged was staged for this file, and goes before its page of marks.
            let staged = active.position() + self.tail.pending_bound();
            active.extend(Shape { segment_bytes: shape.segment_bytes.max(staged), ..shape }, origin)?;
        }
        for at in self.stale_snapshots.drain(..) {
            // In nobody's way but for the space they take.
            let _ = core.context.disk().remove_file(&file_path(&core.dir, at, FileKind::Snapshot));
        }
        self.has_begun = true;
        self.note(core);
        // What was staged was judged by what recovery read, whatever failed before.
        core.context.pool.vouch(core.key());
        if core.has_stopped() {
            core.context.pool.void(core.key());
        }
        Ok(())
    }

    fn first_segment(&mut self, core: &Core) -> Result<ActiveSegment> {
        let (shape, origin) = (self.shape(), core.context.origin());
        if let (Some(found), Some(last)) = (&mut self.found, core.last_segment()) {
            // What is staged was staged for this very file.
            if !self.tail.has_slot() {
                unshare_files(core, &last)?;
            }
            let active = ActiveSegment::resume(last, shape, origin, found)?;
            self.found = None;
            return Ok(active);
        }
        let active = self.create_segment(core, self.end)?;
        core.push_segment(Arc::clone(active.data()));
        Ok(active)
    }

    /// Takes what was recovered anew for what there is.
    pub(super) fn replace(&mut self, recovered: Self) {
        let appended = Arc::clone(&self.appended);
        *self = Self { appended, ..recovered };
    }

    /// Lets a log that holds nothing go on at `base`, which lies below its start: in a segment of that base.
    pub(super) fn restart(&mut self, core: &Core, base: Offset) -> Result<(), Failure> {
        // A crash finds no segment, or one that ends below the start: the log goes on at its start then.
        if let Some(empty) = self.active.take() {
            let of = empty.data().base();
            core.drop_segments_below(Offset(u64::MAX));
            self.forget_below(Offset(u64::MAX));
            remove_segment_files(core, of).map_err(Failure::Refused)?;
            core.keep_names()?;
        }
        let active = self.create_segment(core, base).map_err(Failure::Refused)?;
        core.push_segment(Arc::clone(active.data()));
        (self.active, self.end) = (Some(active), base);
        self.sync_names(core)
    }

    /// Removes what is left of a segment that could not be made ready. Until it is gone nothing is appended: whoever
    /// opens next would take it for a part of the log.
    fn remove_stray(&mut self, core: &Core) -> Result<()> {
        if let Some(base) = self.stray {
            probe::reached("writer.stray_segment");
            remove_segment_files(core, base)?;
            self.stray = None;
            self.names_changed = true;
        }
        Ok(())
    }

    pub(super) fn shape(&self) -> Shape {
        Shape {
            segment_bytes: self.config.segment_bytes as u64,
            index_bytes: self.config.segment_index_bytes as usize,
            index_interval: self.config.index_interval_bytes as u32,
            durable: self.config.sync_rule() != Durability::Os,
        }
    }

    fn create_segment(&mut self, core: &Core, base: Offset) -> Result<ActiveSegment> {
        self.remove_stray(core)?;
        // A seal of another segment of this base, which was put aside: it must not vouch for this one.
        remove_if_there(core, &file_path(&core.dir, base, FileKind::Seal))?;
        let created = ActiveSegment::create(&core.home, base, self.shape(), core.context.origin());
        let active = created.inspect_err(|error| {
            // One that was there before is not ours to remove.
            let was_there =
                matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists);
            self.stray = (!was_there).then_some(base);
        })?;
        self.names_changed = true;
        let jitter = self.config.segment_jitter_ms.min(self.config.segment_ms).max(0) as u64;
        self.jitter_ms = if jitter == 0 { 0 } else { (core.context.entropy.random() % jitter) as i64 };
        core.reports.push(Report::Created { base });
        Ok(active)
    }

    /// Whether there may be something of an append that failed.
    pub(super) fn needs_cut(&self) -> bool {
        match (&self.active, &self.found) {
            (Some(active), _) => active.needs_cut(),
            (None, Some(found)) => !found.is_closed,
            (None, None) => false,
        }
    }

    /// Cuts that off, and syncs the cut.
    pub(super) fn cut_what_failed(&mut self, core: &Core) -> Result<(), Failure> {
        let Some(active) = &mut self.active else {
            // What recovery did not find is not in memory either: that has to be so on the disk.
            return core.last_segment().map_or(Ok(()), |last| sync_as_found(&last));
        };
        active.cut()
    }

    /// What recovery planned and is not carried out yet.
    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Puts aside what lies behind the log's end, and removes what lies before its start.
    fn carry_out_plan(&mut self, core: &Core) -> Result<(), Failure> {
        if self.plan.is_empty() {
            return Ok(());
        }
        if let Some(torn) = &self.plan.torn {
            let kept_in = keep_torn(core, torn).map_err(Failure::Refused)?;
            core.reports.push(Report::TailCut { torn: torn.clone(), kept_in });
            self.plan.torn = None;
        }
        if self.plan.drops_staged {
            keep_staged(core).map_err(Failure::Refused)?;
            self.plan.drops_staged = false;
        }
        // Newest first: whatever a crash leaves of them still lies behind the end.
        while let Some(base) = self.plan.set_aside.last().copied() {
            set_aside(core, base)?;
            self.plan.set_aside.pop();
        }
        // Durably, before what lies below the start goes: it shows that they lie behind the end.
        core.keep_names()?;
        while let Some(base) = self.plan.expired.first().copied() {
            remove_segment_files(core, base).map_err(Failure::Refused)?;
            self.plan.expired.remove(0);
        }
        core.keep_names()?;
        probe::reached("writer.plan_carried_out");
        Ok(())
    }

    /// Writes down how far the partition has come, and brings the index files along so that the note can vouch for
    /// them.
    pub(super) fn note(&mut self, core: &Core) {
        let Some(active) = &mut self.active else { return };
        let Some(boot) = core.context.boot else { return };
        let position = active.position();
        let persisted = active.index_mut().persist(core.context.disk(), &core.dir);
        let (Ok(()), Ok(file)) = (persisted, active.file_id()) else { return };
        let [index, time_index] = active.index().digests();
        let grown = active.index().grown();
        let note = Note {
            sequence: 0,
            topic: core.topic,
            partition: core.id.partition,
            boot,
            file,
            segment_base: active.data().base(),
            position,
            offset: active.data().end(),
            has_producers: self.followed.producers.count() > 0 || !self.followed.aborted.entries().is_empty(),
            index,
            time_index,
            largest: grown.largest,
            since_last: grown.since_last,
        };
        core.context.notes.write(core.context.disk(), note);
        if core.has_stopped() {
            // A sync failed meanwhile: what is noted here may be dropped.
            core.context.notes.erase(core.context.disk(), core.topic, core.id.partition);
        }
        self.noted_position = position;
    }

    /// Rolls if a batch of `len` bytes with this last offset and largest timestamp does not belong into the active
    /// segment. Nothing is staged.
    pub(super) fn make_room(
        &mut self,
        core: &Core,
        len: u64,
        last_offset: Offset,
        timestamp: Timestamp,
    ) -> Result<(), Failure> {
        let (shape, origin) = (self.shape(), core.context.origin());
        let Some(active) = &mut self.active else { return Ok(()) };
        if active.position() == 0 && last_offset - active.data().base() <= MAX_RELATIVE {
            // It was made under other settings, and another one of this base cannot be made.
            return if active.has_room(len) { Ok(()) } else { active.widen(shape, origin) };
        }
        if self.must_roll(core, len, last_offset, timestamp) {
            self.roll(core)?;
        }
        let limit = self.config.max_batch_bytes();
        match &self.active {
            Some(active) if !active.has_room(len) => Err(Failure::Refused(Error::BatchTooLarge { len, limit })),
            _ => Ok(()),
        }
    }

    /// Whether the next batch begins another segment, if `len` bytes are added to the active one with it.
    pub(super) fn must_roll(&self, core: &Core, len: u64, last_offset: Offset, timestamp: Timestamp) -> bool {
        let Some(active) = &self.active else { return false };
        let config = &self.config;
        let by_size = active.position() + len > config.segment_bytes as u64 || !active.has_room(len);
        let by_index = active.index().is_full();
        let by_offset = last_offset - active.data().base() > MAX_RELATIVE;
        let by_age = self.is_old(active, timestamp, &*core.context.clock);
        if by_index {
            probe::reached("roll.by_index");
        }
        by_size || by_index || by_offset || by_age
    }

    /// Whether the segment spans more than `segment.ms`: between the timestamps of its first batch and this one.
    fn is_old(&self, active: &ActiveSegment, timestamp: Timestamp, clock: &dyn Clock) -> bool {
        let (first, created) = active.age_from();
        let waited = match first.or(self.tail.first_timestamp()) {
            Some(first) if first.is_some() => timestamp.0.saturating_sub(first.0),
            _ => clock.now().0.saturating_sub(created.0),
        };
        waited > self.roll_ms()
    }

    /// How long a segment may span, in milliseconds.
    pub(super) fn roll_ms(&self) -> i64 {
        self.config.roll_ms().saturating_sub(self.jitter_ms)
    }

    /// Seals the active segment and begins the next one at `end`. Nothing is synced here: the old file is handed to
    /// the next sync.
    pub(crate) fn roll(&mut self, core: &Core) -> Result<(), Failure> {
        self.flush(core)?;
        probe::reached("writer.roll");
        // A failed write must not be left behind in a file that nobody cuts any more.
        if let Some(active) = &mut self.active
            && !probe::planted("partition.roll_without_cut")
        {
            active.cut()?;
        }
        let next = self.create_segment(core, self.end).map_err(Failure::Refused)?;
        core.push_segment(Arc::clone(next.data()));
        let Some(sealed) = self.active.replace(next) else { return Ok(()) };
        let data = Arc::clone(sealed.data());
        let target = sealed.sync_target();
        let aborted = self.followed.aborted_between(data.base(), self.end);
        let mut index = sealed.into_index();
        index.close();
        data.set_index(Some(index.reader()));
        if !probe::planted("partition.rolled_not_synced") {
            self.rolled.push(target.clone());
        }
        let snapshot = self.followed.producers.snapshot();
        let (end, target) = (self.end, Some(target));
        let data_of = Arc::clone(&data);
        self.unfinished.push_back(Unfinished { data: data_of, target, end, index, aborted, snapshot });
        core.reports.push(Report::Sealed { base: data.base(), end: self.end, bytes: data.len() });
        self.noted_position = 0;
        self.note(core);
        core.context.doorbell.ring();
        Ok(())
    }

    /// Rolls if the active segment holds `offset`, or will.
    pub(crate) fn seal_up_to(&mut self, core: &Core, offset: Offset) -> Result<(), Failure> {
        self.begin(core)?;
        self.flush(core)?;
        let holds = |active: &ActiveSegment| active.data().base() <= offset && active.position() > 0;
        if self.active.as_ref().is_some_and(holds) { self.roll(core) } else { Ok(()) }
    }

    /// Writes a batch that was stamped with `end`, and counts it in.
    fn write(&mut self, core: &Core, batch: &[u8], header: &BatchHeader) -> Result<(), Failure> {
        let Some(active) = &mut self.active else { return Ok(()) };
        active.write(batch)?;
        self.end = header.next_offset();
        self.count_in(header, 1);
        self.note_if_due(core);
        Ok(())
    }

    /// Counts a batch that came by so many appends.
    pub(super) fn count_in(&mut self, header: &BatchHeader, batches: u64) {
        let (records, bytes) = (header.record_count.max(0) as u64, u64::from(header.batch_len));
        self.unsynced_records += records;
        self.appended.add(AppendCounts { batches, records, bytes });
    }

    /// Writes a record as a batch of its own; `false` if it is to be compressed, or too long to be encoded under the lock.
    pub(super) fn write_record(
        &mut self,
        core: &Core,
        record: &Record<'_>,
        sender: Sender,
        at: Timestamp,
    ) -> Result<bool, Failure> {
        if self.codec().is_some() {
            return Ok(false);
        }
        let (offset, sequence) = (self.end, self.followed.producers.next_sequence(sender).map_err(Failure::Refused)?);
        let mut batch = OpenBatch::new(offset, self.epoch, self.rules.timestamp_type, at).of(sender, sequence);
        let record_len = batch.len_of(record, at).map_err(Failure::Refused)?;
        let len = BatchHeader::LEN + record_len.whole;
        if len > MAX_ALONE || len as u64 > self.config.max_batch_bytes() {
            return Ok(false);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(len, 0);
        batch.push(record, at, record_len, &mut buffer[BatchHeader::LEN..]);
        let header = batch.seal(&mut buffer);
        let written = self.write_alone(core, &buffer, &header);
        self.buffer = buffer;
        written?;
        self.follow_sender(
            core,
            sender,
            sequence,
            Placed { base_offset: offset, last_offset: offset, timestamp: at },
        );
        Ok(true)
    }

    /// Writes a batch behind what is staged.
    pub(super) fn write_alone(&mut self, core: &Core, batch: &[u8], header: &BatchHeader) -> Result<(), Failure> {
        if !probe::planted("staging.written_past_slot") {
            self.flush(core)?;
        }
        self.make_room(core, batch.len() as u64, header.last_offset(), header.max_timestamp)?;
        self.write(core, batch, header)
    }

    pub(super) fn note_if_due(&mut self, core: &Core) {
        let position = self.active.as_ref().map_or(0, ActiveSegment::position);
        if position.saturating_sub(self.noted_position) >= NOTE_EVERY {
            self.note(core);
        }
    }

    /// The end of what is in the segment files.
    pub(crate) fn written(&self, core: &Core) -> Offset {
        core.last_segment().map_or(self.end, |last| last.end())
    }

    /// Everything a sync of all that was written so far has to do.
    pub(crate) fn plan_sync(&mut self, rolled_only: bool, core: &Core) -> SyncPlan {
        let rolled = std::mem::take(&mut self.rolled);
        let end =
            if rolled_only { rolled.last().map_or(core.synced(), |target| target.end) } else { self.written(core) };
        let unsynced_records = if rolled_only { 0 } else { std::mem::take(&mut self.unsynced_records) };
        SyncPlan {
            rolled,
            active: if rolled_only { None } else { self.active.as_ref().map(ActiveSegment::sync_target) },
            names: self.take_names(),
            unproven: std::mem::take(&mut self.unproven),
            unsynced_records,
            end,
        }
    }

    fn take_names(&mut self) -> bool {
        let names = std::mem::take(&mut self.names_changed);
        self.names_taken |= names;
        names
    }

    /// Takes back a plan that was not carried out, in part or at all: the next sync does it.
    pub(crate) fn put_back(&mut self, plan: SyncPlan) {
        let SyncPlan { rolled, names, unproven, unsynced_records, .. } = plan;
        // A batch that was begun since then counted on their being synced.
        self.complete();
        self.unsynced_records += unsynced_records;
        self.rolled.splice(0..0, rolled);
        self.names_changed |= names;
        self.unproven.splice(0..0, unproven);
    }

    /// Makes the names of new segments durable.
    fn sync_names(&mut self, core: &Core) -> Result<(), Failure> {
        if self.names_changed && !probe::planted("partition.first_name_not_synced") {
            core.keep_names()?;
            self.names_changed = false;
        }
        Ok(())
    }

    /// As [`sync_names`](Self::sync_names), also if a sync has taken that on itself: it may not have come to it yet.
    pub(crate) fn sync_all_names(&mut self, core: &Core) -> Result<(), Failure> {
        self.names_changed |= std::mem::take(&mut self.names_taken);
        self.sync_names(core)
    }

    pub(crate) fn has_rolled(&self) -> bool {
        !self.rolled.is_empty()
    }

    pub(crate) fn active(&self) -> Option<&ActiveSegment> {
        self.active.as_ref()
    }

    pub(crate) fn active_mut(&mut self) -> Option<&mut ActiveSegment> {
        self.active.as_mut()
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Takes other settings, for all appends to come.
    pub(super) fn set_config(&mut self, config: TopicConfig) {
        // What has joined a batch joined it under the settings of then.
        self.complete();
        self.config = config;
        self.rules = AppendRules::of(&config);
    }

    /// The largest timestamp of the first batch in the active segment.
    pub(crate) fn first_timestamp(&self) -> Option<Timestamp> {
        match (&self.active, &self.found) {
            (Some(active), _) => active.age_from().0,
            (None, Some(found)) => found.first_timestamp,
            (None, None) => None,
        }
    }

    /// Lets go of what was still to be done for segments below `base`: they are being removed.
    pub(crate) fn forget_below(&mut self, base: Offset) {
        self.rolled.retain(|target| target.data().base() >= base);
        self.unproven.retain(|(segment, _)| segment.base() >= base);
        self.unfinished.retain(|sealed| sealed.data.base() >= base);
    }

    /// Whether what recovery found needs no further look: nothing to cut, nothing unproven.
    pub(crate) fn is_settled(&self) -> bool {
        self.plan.is_empty() && self.unproven.is_empty() && self.tail.is_empty()
    }

    /// Whether the files are as an orderly close left them.
    pub(crate) fn is_clean(&self) -> bool {
        self.is_clean
    }

    /// The position and checksum of the last batch in the active segment is found from here.
    pub(crate) fn found(&self) -> Option<&Found> {
        self.found.as_ref()
    }
}

/// What recovery hands to the writer.
#[derive(Debug)]
pub(crate) struct WriterParts {
    pub(crate) end: Offset,
    pub(crate) proven: Offset,
    pub(crate) followed: Followed,
    pub(crate) found: Option<Found>,
    pub(crate) plan: Plan,
    pub(crate) unfinished: Vec<UnfinishedParts>,
    pub(crate) stale_snapshots: Vec<Offset>,
    pub(crate) is_clean: bool,
    pub(crate) names_are_durable: bool,
    pub(crate) tail: Tail,
    pub(crate) takes_appends: bool,
}

/// Takes the files of a segment that is to be written on away from whoever has them under other names: a backup, if this
/// was a sealed one before a salvage.
fn unshare_files(core: &Core, last: &SegmentData) -> Result<()> {
    let disk = core.context.disk();
    if disk.metadata(last.path()).map_err(Error::io("describe", last.path()))?.links < 2 {
        return Ok(());
    }
    // The data file last: a crash before it is found again by it.
    for kind in [FileKind::Index, FileKind::TimeIndex, FileKind::Log] {
        unshare(disk, &file_path(&core.dir, last.base(), kind))?;
    }
    // Readers are to see what is appended to the new one.
    last.drop_view();
    Ok(())
}

/// Copies the bytes of a torn tail into a file of their own, durably, before they are cut off.
fn keep_torn(core: &Core, torn: &Torn) -> Result<PathBuf> {
    let disk = core.context.disk();
    let source = disk.open(&torn.path, Open::Read).map_err(Error::io("open", &*torn.path))?;
    let kept_in = unused_name(core.context.disk(), &core.dir, &format!("{:020}", torn.offset.0))?;
    let file = disk.open(&kept_in, Open::CreateNew).map_err(Error::io("create", &*kept_in))?;
    copy_torn(&*source, torn, &*file, &kept_in).inspect_err(|_| {
        // In part it is of no use, and the next try makes another.
        let _ = disk.remove_file(&kept_in);
    })?;
    sync_parent(disk, &kept_in)?;
    probe::reached("writer.kept_torn_tail");
    Ok(kept_in)
}

/// Keeps the records that were staged and have no place in the log any more, then gives their slot back.
fn keep_staged(core: &Core) -> Result<()> {
    let disk = core.context.disk();
    let Some(left) = core.context.pool.take_left(core.key()) else { return Ok(()) };
    let kept_in = unused_name(core.context.disk(), &core.dir, &format!("{:020}.staged", left.lap.end_before.0))?;
    let keep = || {
        let file = disk.open(&kept_in, Open::CreateNew).map_err(Error::io("create", &*kept_in))?;
        write_all_at(&*file, left.bytes(), 0).map_err(Error::io("write", &*kept_in))?;
        file.sync().map_err(Error::io("sync", &*kept_in))
    };
    if let Err(error) = keep() {
        let _ = disk.remove_file(&kept_in);
        core.context.pool.put_back(core.key(), left);
        return Err(error);
    }
    core.context.pool.discard(core.key(), left);
    Ok(())
}

pub(super) fn copy_torn(source: &dyn DiskFile, torn: &Torn, file: &dyn DiskFile, kept_in: &Path) -> Result<()> {
    let mut piece = vec![0; (torn.to - torn.from).min(1 << 20) as usize];
    let mut at = torn.from;
    while at < torn.to {
        let bytes = &mut piece[..((torn.to - at) as usize).min(1 << 20)];
        read_exact_at(source, bytes, at).map_err(Error::io("read", &*torn.path))?;
        write_all_at(file, bytes, at - torn.from).map_err(Error::io("write", kept_in))?;
        at += bytes.len() as u64;
    }
    file.sync().map_err(Error::io("sync", kept_in))
}

/// A name for bytes put aside that is not taken: `<what>.cut`, or with a number.
pub(super) fn unused_name(disk: &dyn Disk, dir: &Path, what: &str) -> Result<PathBuf> {
    for number in 0..u32::MAX {
        let name = if number == 0 { format!("{what}.cut") } else { format!("{what}.{number}.cut") };
        let path = dir.join(name);
        match disk.metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(path),
            Err(error) => return Err(Error::io("describe", path)(error)),
            Ok(_) => {}
        }
    }
    Err(Error::Unsupported { what: "so many files put aside" })
}

/// Renames the data file of a segment out of the way, and removes what was derived from it.
pub(super) fn set_aside(core: &Core, base: Offset) -> Result<(), Failure> {
    let path = file_path(&core.dir, base, FileKind::Log);
    let refused = Failure::Refused;
    let aside = unused_name(core.context.disk(), &core.dir, &format!("{:020}.log", base.0)).map_err(refused)?;
    // Synced first: the name must not become durable before the bytes.
    let file = match core.context.disk().open(&path, Open::Write) {
        // A try before this one came that far.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return remove_derived(core, base).map_err(refused);
        }
        opened => opened.map_err(Error::io("open", &*path)).map_err(refused)?,
    };
    file.sync().map_err(Error::io("sync", &*path)).map_err(Failure::Fatal)?;
    core.context.disk().rename(&path, &aside).map_err(Error::io("rename", &*path)).map_err(refused)?;
    remove_derived(core, base).map_err(refused)
}

/// Removes all files of a segment, the data file first: what is derived from nothing is harmless.
pub(crate) fn remove_segment_files(core: &Core, base: Offset) -> Result<()> {
    remove_if_there(core, &file_path(&core.dir, base, FileKind::Log))?;
    remove_derived(core, base)
}

/// Removes what was derived from a segment that is gone.
pub(crate) fn remove_derived(core: &Core, base: Offset) -> Result<()> {
    let derived = FileKind::ALL.into_iter().filter(|kind| *kind != FileKind::Log);
    derived.map(|kind| file_path(&core.dir, base, kind)).try_for_each(|path| remove_if_there(core, &path))
}

pub(super) fn remove_if_there(core: &Core, path: &Path) -> Result<()> {
    match core.context.disk().remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

const NOTE_EVERY: u64 = 8 << 20;
/// The longest batch that is made under the append lock, in a buffer that the partition keeps.
const MAX_ALONE: usize = 4 << 10;
