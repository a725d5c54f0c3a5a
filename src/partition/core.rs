//! The inside of a partition, shared by its handles: the marks, the segment list, the writer behind its lock.
//!
//! ```text
//! start <= stable <= committed <= end        synced <= end
//! ```
//!
//! Without replication `committed` is `end`; without open transactions `stable` is `committed`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use super::aborted::Undecided;
use super::append::stored_as;
use super::compact::swap::Names;
use super::context::Context;
use super::counters::{AppendCounter, AppendCounts, Counters};
use super::hints::Hints;
use super::recover::recover;
use super::replicate::Replicated;
use super::report::{Report, Reports};
use super::stage::Tail;
use super::writer::{Writer, WriterParts};
use crate::config::{Durability, TopicConfig};
use crate::error::{Error, Result, is_out_of_files};
use crate::observe::{Recovery, tell};
use crate::probe;
use crate::record::Compression;
use crate::segment::active::{Failure, Shape};
use crate::segment::data::SegmentData;
use crate::segment::files::Home;
use crate::segment::txn_index::AbortedTxns;
use crate::turn::Turn;
use crate::types::{INTERNAL_TOPICS, LeaderEpoch, Offset, TopicId, TopicPartition};
use crate::watermark::{Stop, Watermark};

/// One partition.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) id: TopicPartition,
    pub(crate) topic: TopicId,
    /// Whether all was there, when it was opened, that had been appended.
    pub(crate) was_whole: bool,
    pub(crate) dir: PathBuf,
    pub(crate) home: Arc<Home>,
    /// Only the log itself appends to it.
    pub(super) is_internal: bool,
    /// Whether small appends are staged, or something is that was left.
    pub(super) stages: bool,
    /// From here on offsets follow one another without gaps: see [`Hints::dense_from`].
    dense_from: AtomicU64,
    /// Everything below was compacted.
    cleaned: AtomicU64,
    pub(crate) context: Arc<Context>,
    start: AtomicU64,
    pub(crate) end: Arc<Watermark>,
    /// What every in-sync node has, if there are others; see [`super::replicate`].
    pub(crate) replicated: Replicated,
    pub(crate) synced: Arc<Watermark>,
    /// The first offset of the earliest transaction without an outcome; `u64::MAX` if there is none.
    first_unstable: AtomicU64,
    segments: RwLock<Arc<[Arc<SegmentData>]>>,
    /// Rises with each change of the segment list.
    generation: AtomicU64,
    cuts: AtomicU64,
    pub(super) aborted: RwLock<AbortedTxns>,
    /// Below this offset they are not known yet; 0: all are.
    pub(super) aborted_from: AtomicU64,
    pub(super) finding_aborted: Mutex<()>,
    /// Set when they are found, if damage keeps some from being known.
    pub(super) undecided: OnceLock<Undecided>,
    /// Who needs files to keep their names, and what is left of a swap: see [`super::compact::swap`].
    pub(super) names: Names,
    forgotten: Mutex<Forgotten>,
    /// Held by who erases a key, for as long as that takes.
    pub(crate) erasing: Mutex<()>,
    /// The latest leader epoch under which anything was appended.
    latest_epoch: AtomicI32,
    /// The topic's settings, for what happens outside the append lock.
    pub(crate) config: RwLock<TopicConfig>,
    pub(crate) writer: Mutex<Writer>,
    pub(crate) syncing: Turn,
    health: Health,
    pub(crate) reports: Reports,
    appended: Arc<AppendCounter>,
    pub(crate) counters: Counters,
}

/// Which tombstones compaction has removed because their time had passed, since the partition was opened. Who has read what
/// they delete, and not them, never will: see [`Table`](crate::Table).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Forgotten {
    /// Rises with each segment from which some were.
    pub(crate) times: u64,
    /// All of them were below.
    pub(crate) below: Offset,
}

/// Whether the partition goes on, and why not.
#[derive(Debug, Default)]
struct Health {
    has_stopped: AtomicBool,
    reason: Mutex<Option<Halt>>,
}

/// Why a partition stopped.
#[derive(Debug, Clone)]
pub(crate) enum Halt {
    Closed,
    Deleted,
    Poisoned(Arc<str>),
}

impl Core {
    /// Opens the partition in `dir`, recovering it if need be.
    pub(crate) fn open(context: &Arc<Context>, dir: PathBuf, config: TopicConfig, hints: &Hints) -> Result<Self> {
        let began = context.clock.monotonic();
        let shape = Shape {
            segment_bytes: config.segment_bytes as u64,
            index_bytes: config.segment_index_bytes as usize,
            index_interval: config.index_interval_bytes as u32,
            durable: config.sync_rule() != Durability::Os,
        };
        let home = Home::new(&context.files, &dir);
        let recovered = recover(context, &home, shape, hints)?;
        let duration = context.clock.monotonic().saturating_sub(began);
        // A partition in which nothing was ever written has nothing to recover.
        let is_new = recovered.segments.is_empty() && recovered.plan.is_empty();
        if !recovered.is_clean && !is_new {
            let (partition, end, bytes) = (hints.id.clone(), recovered.end, recovered.scanned_bytes);
            tell(&context.observer, move |observer| {
                let (scanned_bytes, total_bytes) = (bytes, bytes);
                observer.recovered(&Recovery { partition: &partition, end, scanned_bytes, total_bytes, duration });
            });
        }
        let latest_epoch = recovered.followed.epochs.latest().unwrap_or_default();
        let unstable = recovered.followed.producers.transactions().first_unstable();
        let aborted = recovered.followed.aborted.clone();
        let key = (hints.topic, hints.id.partition);
        let has_codec = stored_as(&config).is_some_and(|compression| compression != Compression::NONE);
        let staged = recovered
            .staged
            .as_ref()
            .and_then(|adopted| Some(context.pool.take_left(key)?.adopt(&adopted.replayed, adopted.done, has_codec)));
        let parts = WriterParts {
            end: recovered.end,
            proven: recovered.proven,
            followed: recovered.followed,
            found: recovered.active,
            plan: recovered.plan,
            unfinished: recovered.unfinished,
            stale_snapshots: recovered.stale_snapshots,
            is_clean: recovered.is_clean,
            names_are_durable: recovered.names_are_durable,
            tail: Tail::adopted(staged, context.clock.monotonic()),
            takes_appends: !context.is_replicated,
        };
        let writer = Writer::new(config, parts, &recovered.segments);
        let appended = Arc::clone(&writer.appended);
        let is_internal = INTERNAL_TOPICS.contains(&&*hints.id.topic);
        Ok(Self {
            id: hints.id.clone(),
            topic: hints.topic,
            was_whole: recovered.is_whole,
            dir,
            home,
            is_internal,
            stages: !is_internal && (context.pool.refused().is_none() || writer.tail.has_slot()),
            dense_from: AtomicU64::new(hints.dense_from.0),
            // One above the end is of a log that was longer.
            cleaned: AtomicU64::new(
                Some(hints.cleaned).filter(|cleaned| *cleaned <= recovered.end).map_or(0, |at| at.0),
            ),
            context: Arc::clone(context),
            start: AtomicU64::new(recovered.start.0),
            end: Arc::new(Watermark::new(recovered.end.0)),
            replicated: Replicated::new(
                hints.committed.unwrap_or(recovered.start).clamp(recovered.start, recovered.end),
            ),
            synced: Arc::new(Watermark::new(recovered.proven.0)),
            first_unstable: AtomicU64::new(unstable.map_or(u64::MAX, |offset| offset.0)),
            segments: RwLock::new(recovered.segments.into()),
            generation: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
            aborted: RwLock::new(aborted),
            aborted_from: AtomicU64::new(recovered.aborted_from.0),
            finding_aborted: Mutex::new(()),
            undecided: OnceLock::new(),
            names: Names::default(),
            forgotten: Mutex::default(),
            erasing: Mutex::new(()),
            latest_epoch: AtomicI32::new(latest_epoch.0),
            config: RwLock::new(config),
            writer: Mutex::new(writer),
            syncing: Turn::new(),
            health: Health::default(),
            reports: Reports::default(),
            appended,
            counters: Counters::default(),
        })
    }

    pub(crate) fn start(&self) -> Offset {
        Offset(self.start.load(Ordering::Acquire))
    }

    pub(crate) fn end(&self) -> Offset {
        Offset(self.end.get())
    }

    pub(crate) fn committed(&self) -> Offset {
        match self.context.is_replicated {
            true if probe::planted("replica.reads_uncommitted") => self.end(),
            true => self.replicated.committed(),
            false => self.end(),
        }
    }

    pub(crate) fn synced(&self) -> Offset {
        Offset(self.synced.get())
    }

    /// The first offset whose outcome is open.
    pub(crate) fn stable(&self) -> Offset {
        // The end first: a transaction that begins is counted in before the end rises over it.
        let committed = self.committed();
        let unstable = Offset(self.first_unstable.load(Ordering::Acquire));
        unstable.max(self.start()).min(committed)
    }

    /// From here on offsets follow one another without gaps.
    pub(crate) fn dense_from(&self) -> Offset {
        Offset(self.dense_from.load(Ordering::Acquire))
    }

    /// Whether offsets follow one another everywhere.
    pub(crate) fn is_dense(&self) -> bool {
        self.dense_from() == Offset::ZERO
    }

    /// Lets offsets below `upto` be missing. The caller has made it durable.
    pub(crate) fn allow_gaps(&self, upto: Offset) {
        self.dense_from.fetch_max(upto.0, Ordering::AcqRel);
    }

    /// Below which offset some may be missing, as a checkpoint is to say it: of a partition that is compacted, if that is
    /// known.
    pub(crate) fn known_gaps(&self) -> Option<Offset> {
        let (dense_from, is_compacted) = (self.dense_from(), self.config.read().cleanup.compacts());
        (dense_from < Offset::MAX && (is_compacted || dense_from > Offset::ZERO)).then_some(dense_from)
    }

    /// Everything below was compacted.
    pub(crate) fn cleaned(&self) -> Offset {
        Offset(self.cleaned.load(Ordering::Acquire))
    }

    pub(crate) fn raise_cleaned(&self, to: Offset) {
        self.cleaned.fetch_max(to.0, Ordering::AcqRel);
    }

    pub(crate) fn forgotten(&self) -> Forgotten {
        *self.forgotten.lock()
    }

    /// Notes that tombstones below `end` go. Before readers get the segment without them: who asks after a read hears of all
    /// that it did not see.
    pub(crate) fn forget_tombstones(&self, end: Offset) {
        let mut forgotten = self.forgotten.lock();
        *forgotten = Forgotten { times: forgotten.times + 1, below: forgotten.below.max(end) };
    }

    /// Raises the start; a lower one changes nothing. The caller has made it durable.
    pub(crate) fn raise_start(&self, to: Offset) {
        self.start.fetch_max(to.0, Ordering::AcqRel);
    }

    /// Brings what readers see of transactions up to date. Under the append lock, before the end rises.
    pub(crate) fn publish_transactions(&self, writer: &Writer) {
        let known = self.aborted.read().entries().last().map_or(Offset::ZERO, |last| last.last_offset + 1);
        let new = writer.followed.aborted.ended_from(known);
        if !new.is_empty() {
            let mut aborted = self.aborted.write();
            for entry in new {
                // They end later than those that are there.
                let _ = aborted.append(*entry);
            }
        }
        let unstable = writer.followed.producers.transactions().first_unstable();
        self.first_unstable.store(unstable.map_or(u64::MAX, |offset| offset.0), Ordering::Release);
    }

    /// Forgets aborted transactions whose markers were at these offsets. Under the append lock.
    pub(crate) fn forget_aborted(&self, writer: &mut Writer, markers: &[Offset]) {
        writer.followed.aborted.remove(markers);
        self.aborted.write().remove(markers);
    }

    /// Forgets those that ended below `start`, which was raised before: see [`aborted_within`](Self::aborted_within). Under
    /// the append lock.
    pub(crate) fn forget_aborted_below(&self, writer: &mut Writer, start: Offset) {
        writer.followed.aborted.forget_below(start);
        self.aborted.write().forget_below(start);
    }

    pub(crate) fn latest_epoch(&self) -> LeaderEpoch {
        LeaderEpoch(self.latest_epoch.load(Ordering::Acquire))
    }

    /// Notes that batches of `epoch` follow. Under the append lock, before the end rises.
    pub(crate) fn publish_epoch(&self, epoch: LeaderEpoch) {
        self.latest_epoch.fetch_max(epoch.0, Ordering::AcqRel);
    }

    pub(crate) fn segments(&self) -> Arc<[Arc<SegmentData>]> {
        Arc::clone(&self.segments.read())
    }

    /// Lets nobody have the list of segments for as long as the result lives.
    #[cfg(all(test, feature = "sim"))]
    pub(crate) fn hold_segments(&self) -> impl Sized + '_ {
        self.segments.write()
    }

    /// Rises with each change of the segment list: a cached list of the same generation is good.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn last_segment(&self) -> Option<Arc<SegmentData>> {
        self.segments.read().last().map(Arc::clone)
    }

    /// Adds a new last segment. Under the append lock.
    pub(crate) fn push_segment(&self, segment: Arc<SegmentData>) {
        let mut segments = self.segments.write();
        *segments = segments.iter().cloned().chain([segment]).collect();
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes the segments below `base` from the list, and returns them. Under the append lock.
    pub(crate) fn drop_segments_below(&self, base: Offset) -> Vec<Arc<SegmentData>> {
        let mut segments = self.segments.write();
        let (dropped, kept): (Vec<_>, Vec<_>) = segments.iter().cloned().partition(|segment| segment.base() < base);
        *segments = kept.into();
        self.generation.fetch_add(1, Ordering::AcqRel);
        dropped
    }

    /// Puts one segment in the place of several that follow one another, or changes nothing if one of these is gone.
    /// Returns whether it did. Under the append lock.
    pub(crate) fn replace_segments(&self, old: &[Arc<SegmentData>], new: &Arc<SegmentData>) -> bool {
        let mut segments = self.segments.write();
        let Some(first) = old.first() else { return false };
        let Some(at) = segments.iter().position(|kept| Arc::ptr_eq(kept, first)) else { return false };
        let replaced = segments.get(at..at + old.len()).unwrap_or_default();
        if replaced.len() != old.len() || !replaced.iter().zip(old).all(|(kept, old)| Arc::ptr_eq(kept, old)) {
            return false;
        }
        let (before, behind) = (&segments[..at], &segments[at + old.len()..]);
        *segments = before.iter().chain([new]).chain(behind).cloned().collect();
        self.generation.fetch_add(1, Ordering::AcqRel);
        true
    }

    /// Takes other segments for those there are, after the log was cut. Under the append lock.
    pub(super) fn set_segments(&self, segments: Vec<Arc<SegmentData>>) {
        *self.segments.write() = segments.into();
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// As [`publish_transactions`](Self::publish_transactions), after the log was cut.
    pub(super) fn set_first_unstable(&self, unstable: Option<Offset>) {
        self.first_unstable.store(unstable.map_or(u64::MAX, |offset| offset.0), Ordering::Release);
    }

    /// As [`publish_epoch`](Self::publish_epoch), after the log was cut.
    pub(super) fn set_latest_epoch(&self, epoch: LeaderEpoch) {
        self.latest_epoch.store(epoch.0, Ordering::Release);
    }

    /// Lets the log start elsewhere, after all of it was removed. The caller has made it durable.
    pub(super) fn set_start(&self, to: Offset) {
        self.start.store(to.0, Ordering::Release);
    }

    pub(super) fn lower_cleaned(&self, to: Offset) {
        self.cleaned.fetch_min(to.0, Ordering::AcqRel);
    }

    /// How often the log was cut: what was appended before may be gone, and others have its offsets.
    #[inline]
    pub(crate) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Acquire)
    }

    pub(super) fn count_cut(&self) {
        self.cuts.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether `segment` is no longer in the list: its files go, or are gone.
    pub(crate) fn has_dropped(&self, segment: &SegmentData) -> bool {
        !self.segments.read().iter().any(|kept| std::ptr::eq(&**kept, segment))
    }

    /// Gives the partition other settings, for all appends to come.
    pub(crate) fn set_config(&self, config: TopicConfig) {
        self.lock().set_config(config);
        *self.config.write() = config;
    }

    /// What was appended since the partition was opened; while another thread holds the partition for long, without what
    /// has joined a batch that is not complete.
    pub(crate) fn appended(&self) -> AppendCounts {
        let joined = self.writer.try_lock_for(AT_WORK).map(|writer| self.appended.with(writer.tail.joined()));
        joined.unwrap_or_else(|| self.appended.with(AppendCounts::default()))
    }

    /// Refuses if the partition stopped.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        if !self.health.has_stopped.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(self.halted())
    }

    /// Refuses if a transaction without an end has records below `upto`.
    pub(crate) fn check_decided(&self, upto: Offset) -> Result<()> {
        let open = self.open_transactions().into_iter().find(|open| open.first < upto);
        open.map_or(Ok(()), |open| {
            let (partition, producer, first) = (self.id.clone(), open.producer, open.first);
            Err(Error::Undecided { partition, producer, first })
        })
    }

    /// Refuses appends and removals of the application's to a topic whose records have a meaning to the log.
    #[inline]
    pub(crate) fn check_external(&self) -> Result<()> {
        match self.is_internal {
            true => Err(Error::InternalTopic { topic: (*self.id.topic).into() }),
            false => Ok(()),
        }
    }

    /// Why the partition stopped, as an error.
    pub(crate) fn halted(&self) -> Error {
        match &*self.health.reason.lock() {
            Some(Halt::Poisoned(reason)) => {
                Error::Poisoned { partition: self.id.clone(), reason: Arc::clone(reason) }
            }
            Some(Halt::Deleted) => Error::TopicDeleted { topic: (*self.id.topic).into() },
            Some(Halt::Closed) | None => Error::Closed,
        }
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.health.has_stopped.load(Ordering::Acquire)
            && matches!(&*self.health.reason.lock(), Some(Halt::Poisoned(_)))
    }

    pub(crate) fn has_stopped(&self) -> bool {
        self.health.has_stopped.load(Ordering::Acquire)
    }

    /// Stops the partition: all that waits and all that comes later fails. Only the first reason counts, except that
    /// a poisoned partition can still be closed or deleted. Those who wait are woken with the next delivery.
    fn halt(&self, halt: Halt) {
        let stop = match halt {
            Halt::Closed => Stop::Closed,
            Halt::Deleted => Stop::Deleted,
            Halt::Poisoned(_) => Stop::Poisoned,
        };
        let leaves = !matches!(halt, Halt::Poisoned(_));
        let mut reason = self.health.reason.lock();
        if reason.is_none() || leaves {
            *reason = Some(halt);
        }
        self.health.has_stopped.store(true, Ordering::Release);
        drop(reason);
        if leaves {
            // After the reason is known: who finds the directory left asks for it.
            self.home.leave();
        }
        for waiters in [&self.synced, &self.end, &self.replicated.committed, &self.replicated.acked] {
            self.reports.push(Report::Woken(waiters.stop(stop)));
        }
    }

    /// Sees to it that no append that failed comes back, as it may once the log is opened again, nor one of a process before
    /// whose cut may be in memory only. What is done next may go by its not being there.
    pub(crate) fn cut_what_failed(&self) -> Result<()> {
        let mut writer = self.lock();
        if !writer.needs_cut() {
            return Ok(());
        }
        self.check_open()?;
        writer.cut_what_failed(self).map_err(|failure| self.fail(failure))
    }

    /// Refuses everything from here on.
    pub(crate) fn fence(&self, halt: Halt) {
        // Under the append lock, so that no append is half way through.
        let mut writer = self.lock();
        if matches!(halt, Halt::Deleted)
            && let Some(staged) = writer.tail.take_slot()
        {
            self.context.pool.doom(self.key(), staged);
        }
        if let Halt::Poisoned(reason) = &halt {
            self.reports.push(Report::Poisoned { reason: Arc::clone(reason) });
        }
        self.halt(halt);
    }

    /// Turns a failure into the caller's error, and poisons the partition if what is on disk is unknown now.
    pub(crate) fn fail(&self, failure: Failure) -> Error {
        match failure {
            Failure::Refused(error) => error,
            Failure::Fatal(error) => {
                self.poison(&error);
                error
            }
        }
    }

    /// Makes the names in the directory durable, or fails: for good if the system may have dropped them.
    pub(crate) fn keep_names(&self) -> Result<(), Failure> {
        self.sync_names().map_err(|error| match is_out_of_files(&error) {
            true => Failure::Refused(error),
            false => Failure::Fatal(error),
        })
    }

    /// Stops the partition because what is on disk is unknown. Whoever calls this delivers reports once it may.
    pub(crate) fn poison(&self, error: &Error) {
        probe::reached("partition.poisoned");
        if probe::planted("partition.failed_sync_retried") {
            return;
        }
        let reason: Arc<str> = match error {
            Error::Io { source, .. } => format!("{error}: {source}").into(),
            other => other.to_string().into(),
        };
        // In this order: an append that writes a note meanwhile sees that, and takes the note back.
        self.halt(Halt::Poisoned(Arc::clone(&reason)));
        self.context.notes.erase(self.context.disk(), self.topic, self.id.partition);
        self.context.pool.void(self.key());
        self.reports.push(Report::Poisoned { reason });
    }

    /// The error for a wait that will not end well.
    pub(crate) fn stopped(&self, stop: Stop) -> Error {
        match stop {
            Stop::Truncated(end) => Error::Truncated { end: Offset(end) },
            Stop::Closed => Error::Closed,
            Stop::Deleted => Error::TopicDeleted { topic: (*self.id.topic).into() },
            Stop::Poisoned => self.halted(),
            Stop::NotLeader => self.not_leader(),
            Stop::NotEnough => self.not_enough(),
        }
    }
}

/// How long a statistic waits for who appends. A disk may keep them for longer.
const AT_WORK: Duration = Duration::from_millis(10);
