//! When what is compacted: the driver of `partition::compact`, and erasing a key.
//!
//! One partition at a time, the dirtiest first, a piece with each call of maintenance. Before the first record goes, it
//! is made durable that offsets may be missing up to where the round goes: the checkpoints say where, the catalog that
//! the topic is one of those where some are.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::checkpoints::Checkpoint;
use super::compacted;
use super::maintain::Maintained;
use super::topic::Topic;
use super::{FirstError, Inner};
use crate::error::{Error, Result};
use crate::observe::{Compacted, Quiet, RetentionReason, tell};
use crate::partition::append_one;
use crate::partition::compact::{Budget, Chosen, Outcome, Round, Step};
use crate::partition::core::Core;
use crate::probe;
use crate::record::{Record, Sender};
use crate::types::{Offset, TopicId};

/// How much is compacted, and how fast.
#[derive(Debug, Clone, Copy)]
pub(super) struct CompactionSettings {
    pub(super) interval: Duration,
    pub(super) memory: u64,
    /// In bytes per second; no limit if there is none.
    pub(super) rate: Option<u64>,
}

/// What is being compacted.
#[derive(Debug, Default)]
pub(super) struct Compaction {
    round: Option<Round>,
    /// When partitions are next looked at, by the monotonic clock.
    next_look: Duration,
    /// Until then nothing is read: the limit is used up, or something is in the way.
    resting_until: Duration,
    /// Of which a round had no memory for all keys: they are gone on with, however little is dirty.
    unfinished: HashSet<(TopicId, u32)>,
    /// Which cannot be compacted before the log is opened again.
    failed: HashSet<(TopicId, u32)>,
}

/// The tombstone by which a key was erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Erased {
    /// The number of the partition.
    pub partition: u32,
    /// The offset of the tombstone.
    pub offset: Offset,
}

impl Topic {
    /// Erases a key: appends a tombstone, and removes every older record of the key from the partition that the key leads
    /// to when this is called, before it returns. Durable when it does. Blocks for as long as it takes to read that
    /// partition, and to write the segments that hold such records anew; waits for a [backup](crate::Log::backup) or a
    /// [verification](crate::Log::verify) of that partition.
    ///
    /// What is left:
    ///
    /// - the tombstone, with the key itself, until it was compacted twice, with
    ///   [`delete_retention`](crate::TopicConfig::delete_retention) in between;
    /// - records of the key in other partitions, which are not looked at: those that were appended there by number, and those
    ///   from before the topic got more partitions, if the key leads elsewhere since;
    /// - records of the key that were appended while this ran;
    /// - results of reads that are still held, and files that a [`Reader`](crate::Reader) keeps open until it reads on;
    /// - files `*.cut` that a recovery put aside, and [backups](crate::Log::backup);
    /// - what was [staged](crate::Staging), in the file `staging`, until other records were, or the log is closed in order;
    /// - blocks of the disk that the file system has freed and not used again.
    ///
    /// The active segment is sealed for it, however short it is.
    ///
    /// # Errors
    ///
    /// The tombstone may be there; call again once what stands in the way is gone.
    ///
    /// - [`Error::NotCompacted`] if the topic is not compacted: nothing was appended, unless it was altered meanwhile.
    /// - [`Error::Undecided`] if a transaction without an end holds back records: wait for its end.
    /// - [`Error::InternalTopic`] for `__consumer_offsets`, whose groups are deleted instead, and `__transaction_state`.
    /// - [`Error::Corrupt`] if a segment is damaged: nothing is removed from it.
    /// - [`Error::LowSpace`], or [`Error::Io`] of kind [`Full`](crate::ErrorKind::Full), if there is no space for a segment
    ///   beside the one it replaces.
    /// - As for [`append`](Self::append); [`Error::Closed`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Cleanup, Log, Offset, Record, TopicConfig};
    ///
    /// let log = Log::open(dir.path())?;
    /// let customers = log.create_topic("customers", TopicConfig::default().cleanup(Cleanup::Compact))?;
    /// for (key, value) in [("ann", "12 Elm St"), ("bob", "7 Oak Rd"), ("ann", "3 Ash Ln")] {
    ///     customers.append(Record::new(value).key(key))?;
    /// }
    /// customers.erase("ann")?;
    ///
    /// let left = customers.partition(0)?.read(Offset::ZERO)?;
    /// let left: Vec<_> = left.iter().map(|record| (record.key.unwrap(), record.value)).collect();
    /// assert_eq!(left, [(&b"bob"[..], Some(&b"7 Oak Rd"[..])), (b"ann", None)]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn erase(&self, key: &(impl AsRef<[u8]> + ?Sized)) -> Result<Erased> {
        self.opened.inner.erase(self, key.as_ref())
    }
}

impl Inner {
    /// Compacts a piece of what is due. Returns when to come again.
    pub(super) fn compact(
        &self,
        state: &mut Compaction,
        cores: &[Arc<Core>],
        now: Duration,
        done: &mut Maintained,
    ) -> Result<()> {
        if now < state.resting_until {
            return Ok(());
        }
        if state.round.is_none() && now >= state.next_look {
            state.next_look = now.saturating_add(self.compaction.interval);
            let mut errors = FirstError::default();
            state.round = self.choose(state, cores, &mut errors);
            errors.into_result()?;
        }
        let Some(mut round) = state.round.take() else { return Ok(()) };
        let most = self.compaction.rate.map_or(PIECE, |rate| (rate / 10).clamp(1, PIECE));
        let mut budget = Budget::new(most);
        let stepped = self.step(&mut round, &mut budget);
        if let Some(rate) = self.compaction.rate {
            state.resting_until = now.saturating_add(Duration::from_secs_f64(budget.read as f64 / rate as f64));
        }
        let key = (round.core().topic, round.core().id.partition);
        match stepped {
            Ok(Step::Done) => {
                let outcome = round.outcome();
                state.next_look = now;
                match outcome.is_all {
                    true => state.unfinished.remove(&key),
                    false => state.unfinished.insert(key),
                };
                done.compacted += 1;
                self.finish_round(round.core(), &outcome)
            }
            Ok(Step::Waiting) => {
                state.resting_until = now.saturating_add(WAIT);
                state.round = Some(round);
                Ok(())
            }
            Ok(_) => {
                state.round = Some(round);
                Ok(())
            }
            // The topic was deleted or altered, a source was removed: nothing is wrong, and there may be less to do.
            Err(Error::Closed | Error::TopicDeleted { .. }) => {
                round.give_up();
                Ok(())
            }
            // What is known of the keys is good for as long as that lasts.
            Err(Error::LowSpace { .. }) => {
                probe::reached("compact.space_low");
                state.resting_until = now.saturating_add(RETRY);
                state.round = Some(round);
                Ok(())
            }
            Err(error) => {
                self.note_failure(state, round.core(), &error);
                round.give_up();
                state.resting_until = now.saturating_add(RETRY);
                Err(error)
            }
        }
    }

    /// When there is something to compact next.
    pub(super) fn next_compaction(&self, state: &Compaction, now: Duration) -> Duration {
        let due = if state.round.is_some() { now } else { state.next_look };
        due.max(state.resting_until)
    }

    /// If it cannot get better by itself, the partition is left alone from now on.
    fn note_failure(&self, state: &mut Compaction, core: &Core, error: &Error) {
        if matches!(error, Error::Io { .. } | Error::Poisoned { .. } | Error::Closed | Error::TopicDeleted { .. }) {
            return;
        }
        state.failed.insert((core.topic, core.id.partition));
        let (partition, reason) = (core.id.clone(), error.to_string());
        tell(&self.context.observer, move |observer| observer.compaction_failed(&partition, &reason));
    }

    /// Begins with the partition of which the largest share is dirty, of those where that is worth it. One that is in
    /// trouble does not keep others from it.
    fn choose(&self, state: &mut Compaction, cores: &[Arc<Core>], errors: &mut FirstError) -> Option<Round> {
        let wall = self.context.clock.now();
        let mut best: Option<Chosen> = None;
        // A follower does not know yet where compaction has left gaps.
        if self.context.is_replicated {
            return None;
        }
        for core in cores.iter().filter(|core| !core.has_stopped()) {
            let key = (core.topic, core.id.partition);
            if state.failed.contains(&key) || core.erasing.is_locked() {
                continue;
            }
            // A swap that failed half way comes first.
            let chosen = core.finish_swap().and_then(|()| Chosen::of(core, wall));
            let chosen = chosen.inspect_err(|error| self.note_failure(state, core, error));
            let Some(chosen) = errors.keep(chosen) else { continue };
            let is_due = chosen.is_due() || state.unfinished.contains(&key);
            if is_due && best.as_ref().is_none_or(|best| chosen.dirty.ratio > best.dirty.ratio) {
                best = Some(chosen);
            }
        }
        let begun = best.map(|chosen| {
            probe::reached("compact.begun");
            self.context.before_change()?;
            chosen.begin(self.compaction.memory)
        });
        errors.keep(begun.transpose())
    }

    /// Goes on with a round until so many bytes were read, or a segment was put in place.
    fn step(&self, round: &mut Round, budget: &mut Budget) -> Result<Step> {
        while budget.left > 0 {
            match round.step(budget)? {
                Step::More => {}
                Step::Mapped { covered } => {
                    let core = Arc::clone(round.core());
                    self.allow_gaps(&core, covered)?;
                    round.rewrite();
                }
                step => return Ok(step),
            }
        }
        Ok(Step::More)
    }

    /// Makes it durable that offsets below `upto` may be missing. For who has the lock of maintenance.
    fn allow_gaps(&self, core: &Arc<Core>, upto: Offset) -> Result<()> {
        if core.dense_from() >= upto {
            return Ok(());
        }
        if probe::planted("compact.gaps_not_noted") {
            core.allow_gaps(upto);
            return Ok(());
        }
        let mut catalog = self.lock_catalog()?;
        let gone = || Error::TopicDeleted { topic: (*core.id.topic).into() };
        let topic = self.find(&core.id.topic).map_err(|_| gone())?;
        if topic.id != core.topic {
            return Err(gone());
        }
        // Of the other partitions too: once the topic is known to have gaps, what is not said of one may be anywhere.
        let cores = topic.cores();
        let known = |other: &Arc<Core>| {
            let gaps = if Arc::ptr_eq(other, core) { other.known_gaps().max(Some(upto)) } else { other.known_gaps() };
            Checkpoint { gaps, ..Checkpoint::default() }
        };
        self.raise_checkpoints(cores.iter().map(|other| (other, known(other))))?;
        let mut with = (**catalog).clone();
        with.topics_mut().filter(|other| other.id == core.topic).for_each(|topic| topic.is_sparse = true);
        if with != **catalog {
            self.replace_catalog(&mut catalog, with)?;
        }
        core.allow_gaps(upto);
        Ok(())
    }

    /// Notes how far a partition is compacted, and tells.
    fn finish_round(&self, core: &Arc<Core>, outcome: &Outcome) -> Result<()> {
        probe::reached("compact.done");
        core.raise_cleaned(outcome.cleaned);
        let (partition, Outcome { cleaned, tally, duration, .. }) = (core.id.clone(), *outcome);
        tell(&self.context.observer, move |observer| {
            observer.compacted(&Compacted {
                partition: &partition,
                end: cleaned,
                segments_before: tally.segments_before,
                segments_after: tally.segments_after,
                bytes_before: tally.bytes_before,
                bytes_after: tally.bytes_after,
                duration,
            });
        });
        compacted::store(self.context.disk(), &core.dir, self.log_id, cleaned)?;
        self.checkpoint(std::slice::from_ref(core))
    }

    fn erase(&self, topic: &Topic, key: &[u8]) -> Result<Erased> {
        self.check_open()?;
        let core = topic.state.core_of_key(key)?;
        core.check_external()?;
        check_compacts(&core)?;
        // One at a time, and none beside a round. What an observer is told may have it erase here, too: once this is over.
        let _erasing = Quiet::lock(&core.erasing);
        core.check_decided(core.end())?;
        // To this one, also if the topic got more partitions while this waited, and the key leads elsewhere by now.
        let appended = append_one(&core, &Record::tombstone(key), Sender::NONE)?;
        let erased = Erased { partition: core.id.partition, offset: appended.offset };
        core.sync_to(erased.offset + 1)?;
        let Some(mut round) = self.begin_erasing(&core, key, erased.offset)? else { return Ok(erased) };
        loop {
            match self.erase_some(&mut round) {
                Ok(Step::Done) => return Ok(erased),
                Ok(Step::Waiting) => core.wait_for_names(WAIT),
                Ok(_) => {}
                // Retention took a segment: what is left is begun with anew.
                Err(Error::Closed) if !core.has_stopped() && self.check_open().is_ok() => {
                    let _schedule = Quiet::lock(&self.schedule);
                    round.give_up();
                    drop(_schedule);
                    let Some(next) = self.begin_erasing(&core, key, erased.offset)? else { return Ok(erased) };
                    round = next;
                }
                Err(error) => {
                    let _schedule = Quiet::lock(&self.schedule);
                    round.give_up();
                    return Err(error);
                }
            }
        }
    }

    /// Has everything up to the tombstone in finished segments. `None` if these are gone, and the key with them.
    fn begin_erasing(&self, core: &Arc<Core>, key: &[u8], tombstone: Offset) -> Result<Option<Round>> {
        let mut schedule = Quiet::lock(&self.schedule);
        self.check_open()?;
        let state = &mut schedule.compaction;
        if let Some(round) = state.round.take_if(|round| Arc::ptr_eq(round.core(), core)) {
            round.give_up();
        }
        core.check()?;
        // It may have been altered while this waited, or between two pieces.
        check_compacts(core)?;
        core.check_decided(tombstone + 1)?;
        core.seal_up_to(tombstone)?;
        core.sync_rolled()?;
        let synced = core.synced();
        self.checkpoint(std::slice::from_ref(core))?;
        while core.finish_one(synced)? {}
        if core.has_files_below_start() {
            core.remove_below_start(RetentionReason::Start)?;
        }
        if core.segments().first().is_some_and(|first| first.base() > tombstone) {
            probe::reached("compact.erased_by_retention");
            return Ok(None);
        }
        self.context.before_change()?;
        match Round::erase(core, key, tombstone)? {
            Some(round) => Ok(Some(round)),
            // Somebody has begun a transaction in between.
            None => core.check_decided(tombstone + 1).and(Err(Error::Closed)),
        }
    }

    fn erase_some(&self, round: &mut Round) -> Result<Step> {
        let _schedule = Quiet::lock(&self.schedule);
        self.check_open()?;
        let mut budget = Budget::new(PIECE);
        self.step(round, &mut budget)
    }
}

impl Compaction {
    /// Lets go of what is under way: the log is closing. For who has the lock of maintenance.
    pub(super) fn give_up(&mut self) {
        if let Some(round) = self.round.take() {
            round.give_up();
        }
    }
}

/// Refuses a topic that keeps all records of a key.
fn check_compacts(core: &Core) -> Result<()> {
    match core.config.read().cleanup.compacts() {
        true => Ok(()),
        false => Err(Error::NotCompacted { topic: (*core.id.topic).into() }),
    }
}

/// How much is read before something else has its turn.
const PIECE: u64 = if cfg!(test) { 2 << 10 } else { 32 << 20 };
/// How long to wait for those who need files under their names: a backup, a verification.
const WAIT: Duration = Duration::from_secs(1);
/// How long to wait after something failed, or while space is low: on a full disk, much may be written in vain.
const RETRY: Duration = Duration::from_secs(60);
