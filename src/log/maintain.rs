//! The work that nobody waits for: what is due now, and when to come again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::checkpoints::Checkpoint;
use super::open::{CHECKPOINTS_FILE, HIGH_WATERMARKS, LOG_STARTS, RECOVERY_POINTS};
use super::{Inner, Log};
use crate::config::Durability;
use crate::disk::checkpoint::OffsetCheckpoint;
use crate::error::{Error, Result};
use crate::observe::RetentionReason;
use crate::partition::core::Core;
use crate::probe;
use crate::types::{Offset, TopicId, TopicPartition};

/// What a call of [`Log::maintain`] did, and when the next one is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Maintained {
    /// How long until there may be something to do. Sooner if somebody waits for a sync.
    pub next: Duration,
    /// How many partitions were synced.
    pub synced: u64,
    /// How many sealed segments got their indexes and seals.
    pub finished: u64,
    /// How many segments were removed.
    pub removed: u64,
}

/// When what was done last, by the monotonic clock.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// When a partition was first seen with records that are not synced.
    unsynced_since: HashMap<TopicPartition, Duration>,
    next_retention: Duration,
    next_checkpoint: Duration,
    next_expiry: Duration,
}

impl Log {
    /// Does what is due: syncs that topics ask for by time and that futures wait for, finishing sealed segments,
    /// retention, expiry of group offsets. With [`Background::Caller`](crate::Background::Caller) the caller calls
    /// this, when the call before said so or after it was told to; a thread of the log's does otherwise.
    ///
    /// Every step is short of one segment; a call does all that are due.
    ///
    /// # Errors
    ///
    /// The first of what went wrong; the other partitions were served all the same. [`Error::Closed`](crate::Error).
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
    pub fn maintain(&self) -> Result<Maintained> {
        self.opened.inner.maintain()
    }
}

impl Inner {
    pub(super) fn maintain(&self) -> Result<Maintained> {
        self.check_open()?;
        if self.context.read_only {
            return Ok(Maintained { next: IDLE, synced: 0, finished: 0, removed: 0 });
        }
        let mut schedule = self.schedule.lock();
        let now = self.context.clock.monotonic();
        let mut done = Maintained { next: IDLE, synced: 0, finished: 0, removed: 0 };
        let mut first_error = None;
        let mut keep = |result: Result<()>| {
            if let Err(error) = result {
                first_error.get_or_insert(error);
            }
        };
        let cores = self.cores();
        for core in cores.iter().filter(|core| !core.has_stopped()) {
            keep(sync_if_due(core, &mut schedule, now, &mut done));
        }
        if now >= schedule.next_retention {
            schedule.next_retention = now + self.retention_interval;
            keep(self.retain(&cores, &mut done));
        }
        if now >= schedule.next_expiry {
            schedule.next_expiry = now + EXPIRY_INTERVAL;
            keep(self.expire_group_offsets());
        }
        let has_unfinished = cores.iter().any(|core| core.has_unfinished());
        if has_unfinished || now >= schedule.next_checkpoint {
            schedule.next_checkpoint = now + self.checkpoint_interval;
            keep(self.checkpoint(&cores));
            keep(self.finish_sealed(&cores, &mut done));
        }
        let deadlines = [schedule.next_retention, schedule.next_checkpoint, schedule.next_expiry];
        let due = deadlines.into_iter().map(|deadline| deadline.saturating_sub(now));
        done.next = due.chain([done.next]).min().unwrap_or(IDLE);
        first_error.map_or(Ok(done), Err)
    }

    /// Writes down how far each partition is synced, if that is news.
    pub(super) fn checkpoint(&self, cores: &[Arc<Core>]) -> Result<()> {
        let synced = |core: &Arc<Core>| Checkpoint { start: Offset::ZERO, synced: core.synced() };
        self.raise_checkpoints(cores.iter().map(|core| (core, synced(core))))
    }

    /// Writes down the starts of partitions that are about to rise.
    fn checkpoint_starts(&self, rising: &[(&Arc<Core>, Offset, RetentionReason)]) -> Result<()> {
        if probe::planted("log.start_not_durable") {
            return Ok(());
        }
        let start = |start| Checkpoint { start, synced: Offset::ZERO };
        self.raise_checkpoints(rising.iter().map(|(core, to, _)| (*core, start(*to))))
    }

    fn raise_checkpoints<'c>(&self, raised: impl Iterator<Item = (&'c Arc<Core>, Checkpoint)>) -> Result<()> {
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
        write(HIGH_WATERMARKS, Core::committed, |_| true)
    }

    fn retain(&self, cores: &[Arc<Core>], done: &mut Maintained) -> Result<()> {
        let now = self.context.clock.now();
        let mut due = Vec::new();
        let mut first_error = None;
        for core in cores.iter().filter(|core| !core.has_stopped()) {
            match core.retention_due(now) {
                Ok(Some((start, reason))) => due.push((core, start, reason)),
                Ok(None) if core.has_files_below_start() => due.push((core, core.start(), RetentionReason::Start)),
                Ok(None) => {}
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        if !due.is_empty() {
            self.remove(&due, done)?;
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Raises starts durably, then removes what lies below them.
    fn remove(&self, due: &[(&Arc<Core>, Offset, RetentionReason)], done: &mut Maintained) -> Result<()> {
        self.context.before_change()?;
        for (core, start, _) in due {
            core.roll_if_expired(*start)?;
        }
        self.checkpoint_starts(due)?;
        for (core, start, reason) in due {
            core.raise_start(*start);
            done.removed += core.remove_below_start(*reason)?;
        }
        Ok(())
    }

    /// Raises the start of one partition, durably.
    pub(super) fn delete_before(&self, core: &Arc<Core>, offset: Offset) -> Result<()> {
        let (start, end) = (core.start(), core.end());
        if offset > end {
            return Err(Error::OffsetOutOfRange { requested: offset, start, end });
        }
        if offset <= start {
            return Ok(());
        }
        // Not beside a retention or a finishing of the same segments.
        let _schedule = self.schedule.lock();
        let mut done = Maintained { next: IDLE, synced: 0, finished: 0, removed: 0 };
        self.remove(&[(core, offset, RetentionReason::Start)], &mut done)
    }

    fn finish_sealed(&self, cores: &[Arc<Core>], done: &mut Maintained) -> Result<()> {
        let checkpointed = self.checkpoints.lock().clone();
        let mut first_error = None;
        for core in cores.iter().filter(|core| core.has_unfinished() && !core.has_stopped()) {
            let covered = checkpointed.get(core.topic, core.id.partition).unwrap_or_default().synced;
            loop {
                match core.finish_one(covered) {
                    Ok(true) => done.finished += 1,
                    Ok(false) => break,
                    Err(error) => {
                        first_error.get_or_insert(error);
                        break;
                    }
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }
}

/// Syncs a partition if somebody waits for it, its topic asks for it, or a segment was rolled.
fn sync_if_due(core: &Core, schedule: &mut Schedule, now: Duration, done: &mut Maintained) -> Result<()> {
    let is_demanded = core.synced.demand().is_some_and(|offset| offset <= core.end().0);
    let interval = match core.config.read().sync_rule() {
        Durability::Every { time, .. } => time,
        _ => None,
    };
    let is_behind = core.synced() < core.end();
    if !is_behind {
        schedule.unsynced_since.remove(&core.id);
    }
    let is_late = interval.filter(|_| is_behind).is_some_and(|interval| {
        let since = *schedule.unsynced_since.entry(core.id.clone()).or_insert(now);
        // Half of it may have passed before this was first seen.
        now.saturating_sub(since) >= interval / 2
    });
    if let Some(interval) = interval {
        done.next = done.next.min(interval / 2);
    }
    if is_demanded || is_late {
        core.sync_to(core.end())?;
        schedule.unsynced_since.remove(&core.id);
        done.synced += 1;
    } else if core.sync_rolled()? {
        done.synced += 1;
    } else if !is_behind {
        core.settle()?;
    }
    Ok(())
}

/// How long to sleep when nothing is due.
const IDLE: Duration = Duration::from_secs(60);
/// Kafka: `offsets.retention.check.interval.ms`.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(600);
