//! The work that nobody waits for: what is due now, and when to come again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::broker::CLEANED;
use super::checkpoints::Checkpoint;
use super::compact::Compaction;
use super::open::{CHECKPOINTS_FILE, HIGH_WATERMARKS, LOG_STARTS, RECOVERY_POINTS};
use super::{FirstError, Inner, Log, delete};
use crate::config::Durability;
use crate::disk::checkpoint::OffsetCheckpoint;
use crate::error::{Error, Result};
use crate::observe::{Quiet, RetentionReason};
use crate::partition::core::Core;
use crate::probe;
use crate::types::{Offset, TopicId};

/// What a call of [`Log::maintain`] did, and when the next one is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Maintained {
    /// How long until there may be something to do. Sooner if somebody begins to wait for a sync meanwhile, which
    /// [`Log::wait_due`] tells.
    pub next: Duration,
    /// How many partitions were synced.
    pub synced: u64,
    /// How many sealed segments got their indexes and seals.
    pub finished: u64,
    /// How many segments were removed.
    pub removed: u64,
    /// How many partitions were compacted: by the last piece of it.
    pub compacted: u64,
}

/// When what was done last, by the monotonic clock.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    next_retention: Duration,
    next_checkpoint: Duration,
    next_finish: Duration,
    next_expiry: Duration,
    pub(super) compaction: Compaction,
}

/// When a partition was first seen with records that are not synced, by the monotonic clock.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    since: HashMap<(TopicId, u32), Duration>,
}

impl Log {
    /// Does what is due: syncs that topics ask for by time and that futures wait for, aborting transactions that took longer
    /// than their time-outs, removing members of groups that are heard of no more, finishing sealed segments, retention,
    /// [compaction](crate::guide::compaction), expiry of group offsets. With
    /// [`Background::Caller`](crate::Background::Caller) the caller calls this, when the call before said so or when
    /// [`wait_due`](Self::wait_due) returns; a thread of the log's does otherwise.
    ///
    /// The first call looks for segments that retention removes, then one every
    /// [`retention_interval`](crate::LogBuilder::retention_interval), 5 minutes by default; other calls leave them. Group
    /// offsets expire every 10 minutes, for the first time 10 minutes after the log was opened.
    /// Every step is short of one segment, and a call goes on with sealed segments for a tenth of a second, and with a
    /// compaction for 32 MiB; it blocks meanwhile.
    ///
    /// # Errors
    ///
    /// The first of what went wrong; the other partitions were served all the same, so call again within a second.
    /// [`Error::Closed`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::{Background, Durability, Log, TopicConfig};
    ///
    /// let log = Log::builder(dir.path()).background(Background::Caller).open()?;
    /// let each_second = Durability::Every { records: None, time: Some(Duration::from_secs(1)) };
    /// log.create_topic("orders", TopicConfig::default().durability(each_second))?;
    /// let maintained = log.maintain()?;
    /// assert!(maintained.next <= Duration::from_secs(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Retention by age and size:
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::{Background, Log, TopicConfig};
    ///
    /// let log = Log::builder(dir.path()).background(Background::Caller).open()?;
    /// let config = TopicConfig::default()
    ///     .retention_time(Duration::from_secs(86_400)) // a day,
    ///     .retention_bytes(4_096) // and of that 4 KiB in each partition,
    ///     .segment_bytes(1_024); // or up to a segment more
    /// let orders = log.create_topic("orders", config)?.partition(0)?;
    /// for _ in 0..100 {
    ///     orders.append(&[0; 100])?;
    /// }
    /// assert!(log.maintain()?.removed > 0);
    /// let kept: u64 = orders.segments().iter().map(|segment| segment.len()).sum();
    /// assert!((4_096..4_096 + 1_024).contains(&kept));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn maintain(&self) -> Result<Maintained> {
        self.opened.inner.maintain()
    }

    /// Blocks until somebody waits for what [`maintain`](Self::maintain) does, or until `timeout` has passed; `false` in
    /// that case. For callers with a loop of their own for it; may return early, so that one call more is made than
    /// needed. Takes nothing from a thread of the log's.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], also if the log is closed meanwhile.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::{Background, Error, Log};
    ///
    /// let log = Log::builder(dir.path()).background(Background::Caller).open()?;
    /// let ours = log.clone();
    /// let upkeep = std::thread::spawn(move || {
    ///     loop {
    ///         let next = match ours.maintain() {
    ///             Ok(maintained) => maintained.next,
    ///             Err(Error::Closed) => break,
    ///             Err(_) => Duration::from_secs(1), // of one partition: the others were served
    ///         };
    ///         if ours.wait_due(next).is_err() {
    ///             break;
    ///         }
    ///     }
    /// });
    /// log.topic("orders")?.append("paid")?;
    /// log.close()?; // ends the loop
    /// upkeep.join().unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_due(&self, timeout: Duration) -> Result<bool> {
        let inner = &self.opened.inner;
        inner.check_open()?;
        let heard = inner.heard.load(Ordering::Acquire);
        let rings = inner.context.doorbell.wait(heard, timeout);
        inner.heard.fetch_max(rings, Ordering::AcqRel);
        inner.check_open()?;
        Ok(rings > heard)
    }
}

impl Inner {
    pub(super) fn maintain(&self) -> Result<Maintained> {
        let (done, first_error) = self.serve()?;
        first_error.map_or(Ok(done), Err)
    }

    /// What was done, and the first of what went wrong. Fails only if the log is closing.
    pub(super) fn serve(&self) -> Result<(Maintained, Option<Error>)> {
        self.check_open()?;
        let mut done = Maintained::none();
        if self.context.read_only {
            return Ok((done, None));
        }
        let mut errors = FirstError::default();
        // First: a follower waits for it, and whoever appended for the follower.
        self.serve_grown();
        let now = self.context.clock.monotonic();
        if let Some(next) = self.tend_replicas(now) {
            done.next = done.next.min(next.saturating_sub(now));
        }
        // Whoever is woken by a sync may call this: then somebody is at it, and has passed what is due since, perhaps.
        match self.unsynced.try_lock() {
            Some(mut unsynced) => unsynced.sync_due(&self.cores(), now, &mut done, &mut errors),
            None => done.next = SHORTEST,
        }
        for core in self.cores().iter().filter(|core| !core.has_stopped()) {
            let tended = core.tend_staging(now, self.context.linger);
            // What could not be written is tried again when it would have been due next.
            let again = tended.as_ref().map_or(Some(self.context.linger), |next| *next);
            done.next = done.next.min(again.unwrap_or(IDLE).max(SHORTEST));
            errors.keep(tended.map(drop));
        }
        // Whoever begins one from here on says so himself.
        self.will_look_at(Duration::MAX);
        let (next, tended) = self.tend_transactions();
        done.next = done.next.min(next.unwrap_or(IDLE).max(SHORTEST));
        errors.keep(tended);
        let (next, tended) = self.tend_groups(now);
        errors.keep(tended);
        let next = next.into_iter().chain(self.tend_clients(now)).min();
        let next = next.map(|next| next.saturating_sub(now));
        done.next = done.next.min(next.unwrap_or(IDLE).max(SHORTEST));
        let mut schedule = Quiet::lock(&self.schedule);
        self.check_open()?;
        let cores = self.cores();
        if now >= schedule.next_retention {
            schedule.next_retention = now.saturating_add(self.retention_interval);
            errors.keep(self.retain(&cores, &mut done));
            errors.keep(self.finish_deletes_left());
            errors.keep(self.settle_left().and_then(|()| self.abort_open()));
        }
        if now >= schedule.next_expiry {
            schedule.next_expiry = now.saturating_add(EXPIRY_INTERVAL);
            errors.keep(self.expire_group_offsets());
            cores.iter().filter(|core| !core.has_stopped()).for_each(|core| core.expire_producers());
        }
        let is_unfinished = |core: &Arc<Core>| !core.has_stopped() && core.has_unfinished();
        let is_due = now >= schedule.next_finish && cores.iter().any(is_unfinished);
        if is_due || now >= schedule.next_checkpoint {
            schedule.next_checkpoint = now.saturating_add(self.checkpoint_interval);
            let finished = self.checkpoint(&cores).and_then(|()| self.finish_sealed(&cores, &mut done));
            schedule.next_finish = now + if finished.is_ok() { checkpoint_spacing(cores.len()) } else { RETRY };
            errors.keep(finished);
        }
        errors.keep(self.compact(&mut schedule.compaction, &cores, now, &mut done));
        let next_compaction = match cores.iter().any(|core| core.config.read().cleanup.compacts()) {
            true => self.next_compaction(&schedule.compaction, now),
            false => Duration::MAX,
        };
        let next_finish = if cores.iter().any(is_unfinished) { schedule.next_finish } else { Duration::MAX };
        let due = [schedule.next_retention, schedule.next_checkpoint, schedule.next_expiry];
        let deadlines = due.into_iter().chain([next_finish, next_compaction]);
        let due = deadlines.map(|deadline| deadline.saturating_sub(now).max(SHORTEST));
        done.next = due.chain([done.next]).min().unwrap_or(IDLE);
        self.will_look_at(now.saturating_add(done.next));
        Ok((done, errors.0))
    }

    /// Deletions of topics that an error or a crash cut short.
    fn finish_deletes_left(&self) -> Result<()> {
        let mut catalog = self.lock_catalog()?;
        delete::finish(self, &mut catalog)
    }

    /// Writes down where each partition starts and how far it is synced, if that is news.
    pub(super) fn checkpoint(&self, cores: &[Arc<Core>]) -> Result<()> {
        let synced = |core: &Core| if probe::planted("log.checkpoint_ahead") { core.end() } else { core.synced() };
        let reached = |core: &Arc<Core>| Checkpoint {
            cleaned: core.cleaned(),
            gaps: core.known_gaps(),
            committed: if core.context.is_replicated { core.committed() } else { Offset::ZERO },
            ..Checkpoint::new(core.start(), synced(core))
        };
        self.raise_checkpoints(cores.iter().map(|core| (core, reached(core))))
    }

    /// Writes down the starts of partitions that are about to rise.
    fn checkpoint_starts(&self, rising: &[(&Arc<Core>, Offset, RetentionReason)]) -> Result<()> {
        if probe::planted("log.start_not_durable") {
            return Ok(());
        }
        let start = |start| Checkpoint::new(start, Offset::ZERO);
        self.raise_checkpoints(rising.iter().map(|(core, to, _)| (*core, start(*to))))
    }

    pub(super) fn raise_checkpoints<'c>(
        &self,
        raised: impl Iterator<Item = (&'c Arc<Core>, Checkpoint)>,
    ) -> Result<()> {
        let mut checkpoints = self.checkpoints.lock();
        let mut next = checkpoints.clone();
        for (core, to) in raised {
            next.raise(core.topic, core.id.partition, to);
        }
        if next == *checkpoints && !checkpoints.is_in_doubt {
            return Ok(());
        }
        checkpoints.is_in_doubt = true;
        next.is_in_doubt = false;
        let live: HashSet<TopicId> = self.topics.read().values().map(|topic| topic.id).collect();
        next.retain(|topic| live.contains(&topic));
        next.store(self.context.disk(), &self.dir.join(CHECKPOINTS_FILE), self.log_id)?;
        *checkpoints = next;
        Ok(())
    }

    /// Writes the checkpoints that Kafka would, for it to find: recovery points, starts, high watermarks.
    pub(super) fn write_kafka_checkpoints(&self, cores: &[Arc<Core>]) -> Result<()> {
        let write = |name, offset: fn(&Core) -> Offset, is_listed: fn(&Core) -> bool| {
            let listed = cores.iter().filter(|core| is_listed(core));
            let offsets = listed.map(|core| (core.id.clone(), offset(core))).collect();
            OffsetCheckpoint(offsets).write(self.context.disk(), &self.dir.join(name))
        };
        // Kafka lists a start only if it lies past the first segment's base.
        let starts_late = |core: &Core| core.segments().first().is_some_and(|first| first.base() < core.start());
        write(RECOVERY_POINTS, Core::synced, |_| true)?;
        write(LOG_STARTS, Core::start, starts_late)?;
        let is_compacted = |core: &Core| core.cleaned() > Offset::ZERO;
        let is_there = || self.context.disk().metadata(&self.dir.join(CLEANED)).is_ok();
        if cores.iter().any(|core| is_compacted(core)) || is_there() {
            write(CLEANED, Core::cleaned, is_compacted)?;
        }
        write(HIGH_WATERMARKS, Core::committed, |_| true)
    }

    fn retain(&self, cores: &[Arc<Core>], done: &mut Maintained) -> Result<()> {
        let now = self.context.clock.now();
        let mut due = Vec::new();
        let mut errors = FirstError::default();
        for core in cores.iter().filter(|core| !core.has_stopped()) {
            match errors.keep(core.retention_due(now)) {
                Some((start, reason)) => due.push((core, start, reason)),
                None if core.has_files_below_start() => due.push((core, core.start(), RetentionReason::Start)),
                None => {}
            }
        }
        if !due.is_empty() {
            errors.keep(self.remove(due, done));
        }
        errors.into_result()
    }

    /// Raises starts durably, then removes what lies below them. A partition where that fails does not keep others.
    fn remove(&self, mut due: Vec<(&Arc<Core>, Offset, RetentionReason)>, done: &mut Maintained) -> Result<()> {
        self.context.before_change()?;
        let mut errors = FirstError::default();
        due.retain(|(core, start, _)| errors.keep(core.roll_if_expired(*start).map(|()| true)));
        self.checkpoint_starts(&due)?;
        for (core, start, reason) in due {
            core.raise_start(start);
            done.removed += errors.keep(core.remove_below_start(reason));
        }
        errors.into_result()
    }

    /// Raises the start of one partition, durably.
    pub(super) fn delete_before(&self, core: &Arc<Core>, offset: Offset) -> Result<()> {
        // Not beside a retention or a finishing of the same segments.
        let _schedule = Quiet::lock(&self.schedule);
        self.check_open()?;
        let (start, end) = (core.start(), core.committed());
        if offset > end {
            return Err(Error::OffsetOutOfRange { requested: offset, start, end });
        }
        if offset <= start {
            return Ok(());
        }
        let mut done = Maintained::none();
        self.remove(vec![(core, offset, RetentionReason::Start)], &mut done)
    }

    fn finish_sealed(&self, cores: &[Arc<Core>], done: &mut Maintained) -> Result<()> {
        let began = self.context.clock.monotonic();
        let checkpointed = self.checkpoints.lock().clone();
        let mut errors = FirstError::default();
        for core in cores.iter().filter(|core| core.has_unfinished() && !core.has_stopped()) {
            let covered = checkpointed.get(core.topic, core.id.partition).unwrap_or_default().synced;
            while errors.keep(core.finish_one(covered)) {
                done.finished += 1;
                // Each reads a whole segment, and others wait: for a sync that is due, or to close.
                let is_late = self.context.clock.monotonic().saturating_sub(began) > SLICE;
                if is_late || self.context.closing.load(Ordering::Acquire) {
                    return errors.into_result();
                }
            }
        }
        errors.into_result()
    }
}

impl Maintained {
    fn none() -> Self {
        Self { next: IDLE, synced: 0, finished: 0, removed: 0, compacted: 0 }
    }
}

impl Schedule {
    /// For a log that is opened `now`. Offsets do not expire yet: who comes back after a long time can commit again.
    pub(super) fn new(now: Duration) -> Self {
        Self { next_expiry: now.saturating_add(EXPIRY_INTERVAL), ..Self::default() }
    }
}

impl Unsynced {
    fn sync_due(&mut self, cores: &[Arc<Core>], now: Duration, done: &mut Maintained, errors: &mut FirstError) {
        let seen = std::mem::take(&mut self.since);
        for core in cores.iter().filter(|core| !core.has_stopped()) {
            let key = (core.topic, core.id.partition);
            let since = seen.get(&key).copied().unwrap_or(now);
            if errors.keep(sync_if_due(core, now.saturating_sub(since), done)) {
                self.since.insert(key, since);
            }
        }
    }
}

/// Syncs a partition if somebody waits for it, its topic asks for it, or a segment was rolled. `waited` is how long it
/// has been seen with records that are not synced. Returns whether such are left, of a topic that limits their time.
fn sync_if_due(core: &Core, waited: Duration, done: &mut Maintained) -> Result<bool> {
    let interval = match core.config.read().sync_rule() {
        Durability::Every { time, .. } => time,
        _ => None,
    };
    // Half of the time may have passed before they were first seen.
    let half = interval.map(|interval| (interval / 2).max(SHORTEST));
    done.next = done.next.min(half.unwrap_or(IDLE));
    let is_demanded = core.synced.demand().is_some_and(|offset| offset <= core.end().0);
    let end = core.end();
    let is_behind = core.synced() < end;
    let is_late = is_behind && half.is_some_and(|half| waited >= half);
    if is_demanded || is_late {
        core.sync_to(core.end())?;
        done.synced += 1;
        return Ok(false);
    }
    if core.sync_rolled()? {
        done.synced += 1;
    } else if !is_behind {
        // Up to there only: nobody has asked for a sync of what came since.
        core.settle(end)?;
    }
    Ok(is_behind && half.is_some())
}

/// The checkpoints are one file of all partitions: the more there are, the less often it is written because of a
/// sealed segment.
fn checkpoint_spacing(partitions: usize) -> Duration {
    Duration::from_millis(partitions as u64 / 16)
}

/// How long to sleep when nothing is due.
const IDLE: Duration = Duration::from_secs(60);
/// How long to sleep at least, unless somebody rings.
const SHORTEST: Duration = Duration::from_millis(1);
/// How long to finish sealed segments before something else has its turn.
const SLICE: Duration = Duration::from_millis(100);
/// How long to wait after a sealed segment could not be finished: the disk is full, perhaps.
const RETRY: Duration = Duration::from_secs(10);
/// Kafka: `offsets.retention.check.interval.ms`.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(600);
