//! Queues: one group that shares the records of one topic, record by record. Drives a [`SharePartition`] for each partition.
//!
//! ```text
//! take    lock: what it wants -> read -> take ----> store -> to the worker
//! decide  lock: accept, reject, release ----------> store -> sync, if it is to be durable
//! bury    lock: what nobody can do -> its letter -> sync -> store
//! ```
//!
//! A change counts once it is stored: what could not be is as it was. Releasing stores nothing, as what is stored knows no
//! locks.
//!
//! Invariants:
//! - What is stored as done was accepted, has its letter on the disk, or has no record.
//! - Nothing that is stored lies above the end of its partition once a log is open: see [`Inner::lower_queues`].

mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;

pub(super) use self::store::queues_config;
use super::clients::Tended;
use super::names::{INTERNAL_TOPICS, QUEUES_TOPIC};
use super::{Inner, Log, TopicState};
use crate::error::{Error, ErrorKind, GroupError, Result};
use crate::group::share::{NotTaken, ShareKey, ShareLimits, SharePartition, ShareState, Taken, Verdict, Worker};
use crate::observe::Quiet;
use crate::partition::core::Core;
use crate::partition::{Ack, Appended, Partition, ReadOptions, Records};
use crate::probe;
use crate::record::{Header, Record};
use crate::types::{Offset, TopicPartition};

/// The queues of a log.
#[derive(Debug, Default)]
pub(super) struct Queues {
    /// What is stored of each.
    states: Mutex<BTreeMap<ShareKey, ShareState>>,
    /// Those that somebody has open. Locked before their own locks.
    open: Mutex<Vec<Weak<SharedQueue>>>,
}

/// How a queue works, for all who have it open.
#[derive(Debug, Clone)]
pub(crate) struct QueueSettings {
    pub(crate) limits: ShareLimits,
    /// Where records go that nobody can do.
    pub(crate) dead_letters: Option<Box<str>>,
    /// Whether a new queue passes over what is there already.
    pub(crate) skips_present: bool,
}

/// What all who have a queue open share. It does not keep the log open.
#[derive(Debug)]
pub(crate) struct SharedQueue {
    inner: Arc<Inner>,
    group: Box<str>,
    topic: Arc<TopicState>,
    sharing: Mutex<Sharing>,
    bell: Bell,
    next_worker: AtomicU64,
}

#[derive(Debug)]
struct Sharing {
    settings: QueueSettings,
    parts: Vec<Part>,
}

/// One partition of the topic.
#[derive(Debug)]
struct Part {
    key: ShareKey,
    core: Arc<Core>,
    share: SharePartition,
    /// What was stored last: in which partition, and up to where that is to be synced for it.
    stored: Option<(Arc<Core>, Offset)>,
    /// The records that are lost and have their letter, on the disk, so that no other try makes a second one.
    lettered: BTreeSet<Offset>,
}

/// A record that was handed out.
#[derive(Debug)]
pub(crate) struct Handed {
    /// Exactly one.
    pub(crate) records: Records,
    pub(crate) offset: Offset,
    pub(crate) deliveries: u16,
}

/// How far a queue is with one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) start: Offset,
    pub(crate) next: Offset,
    pub(crate) end: Offset,
    pub(crate) taken: usize,
    pub(crate) open: usize,
}

type ByPartition = Vec<(TopicPartition, Progress)>;

impl Part {
    /// Makes durable what was stored last.
    fn sync(&self) -> Result<()> {
        self.stored.as_ref().map_or(Ok(()), |(core, end)| core.sync_to(*end))
    }

    /// Lets a change count, once it is stored. What was deleted is not stored anew.
    fn change(&mut self, inner: &Inner, share: SharePartition) -> Result<()> {
        if let Err(error @ Error::TopicDeleted { .. }) = self.core.check_open() {
            return Err(error);
        }
        self.stored = Some(inner.store_queue(&self.key, Some(&share.to_state()))?);
        self.share = share;
        Ok(())
    }
}

impl Log {
    /// Opens a queue.
    pub(crate) fn shared_queue(&self, group: &str, topic: &str, settings: QueueSettings) -> Result<Arc<SharedQueue>> {
        let inner = &self.opened.inner;
        inner.check_alone("a queue of a log that is replicated")?;
        let shared = inner.open_queue(group, topic, settings)?;
        let weak: Weak<SharedQueue> = Arc::downgrade(&shared);
        self.look_after(weak);
        Ok(shared)
    }

    /// How far each queue is: by group and topic, its partitions.
    pub(crate) fn queue_progress(&self) -> BTreeMap<(Box<str>, Arc<str>), ByPartition> {
        let inner = &self.opened.inner;
        let topics = inner.topics.read().clone();
        let mut found = BTreeMap::<_, ByPartition>::new();
        for (key, state) in inner.queues.states.lock().iter() {
            let Some(topic) = topics.values().find(|topic| topic.id == key.topic) else { continue };
            let (next, open) = state.progress();
            // Of a partition that is damaged nobody knows where it ends.
            let end = topic.core(key.partition).map_or(next, |core| core.end());
            let id = TopicPartition::new(Arc::clone(&topic.name), key.partition);
            let progress = Progress { start: state.start, next, end, taken: 0, open };
            found.entry((key.group.clone(), Arc::clone(&topic.name))).or_default().push((id, progress));
        }
        let living: Vec<_> = Quiet::lock(&inner.queues.open).iter().filter_map(Weak::upgrade).collect();
        for queue in living {
            if let Some(known) = found.get_mut(&(queue.group.clone(), Arc::clone(&queue.topic.name))) {
                *known = queue.progress();
            }
        }
        found
    }

    /// Forgets what is known of a [queue](Self::queue): who opens it later begins anew. That is durable when this returns. The
    /// records stay, and so do dead letters. [Deleting](Self::delete_topic) the topic forgets its queues, too.
    ///
    /// # Errors
    ///
    /// - [`Error::GroupRefused`]: with [`GroupError::NonEmptyGroup`] while a worker has it open or a [`Task`](crate::Task) of it is
    ///   there, with [`GroupError::GroupIdNotFound`] if there is no such queue.
    /// - [`Error::TopicNotFound`]; [`Error::Io`], [`Error::Poisoned`], [`Error::ReadOnly`], [`Error::Closed`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::{Log, Record};
    ///
    /// let log = Log::open(dir.path())?;
    /// log.append(Record::new("to ada").to("mails"))?;
    /// let mut queue = log.queue("senders", "mails").open()?;
    /// queue.take(Duration::ZERO)?.unwrap().accept()?;
    /// drop(queue);
    /// log.delete_queue("senders", "mails")?;
    /// assert!(log.queue("senders", "mails").open()?.take(Duration::ZERO)?.is_some()); // once more
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn delete_queue(&self, group: &str, topic: &str) -> Result<()> {
        let inner = &self.opened.inner;
        inner.check_open()?;
        if inner.context.read_only {
            return Err(Error::ReadOnly);
        }
        let topic = inner.find(topic)?;
        let refuse = |reason| Err(Error::GroupRefused { group: group.into(), reason });
        let open = Quiet::lock(&inner.queues.open);
        let is_this = |queue: &Arc<SharedQueue>| *queue.group == *group && queue.topic.id == topic.id;
        if open.iter().filter_map(Weak::upgrade).any(|queue| is_this(&queue)) {
            return refuse(GroupError::NonEmptyGroup);
        }
        match inner.forget_queues(topic.id, Some(group))? {
            true => Ok(()),
            false => refuse(GroupError::GroupIdNotFound),
        }
    }
}

impl Inner {
    fn open_queue(self: &Arc<Self>, group: &str, topic: &str, settings: QueueSettings) -> Result<Arc<SharedQueue>> {
        self.check_open()?;
        if self.context.read_only {
            return Err(Error::ReadOnly);
        }
        crate::group::check_group_id(group)?;
        let named = [Some(topic), settings.dead_letters.as_deref()];
        if let Some(internal) = named.into_iter().flatten().find(|name| INTERNAL_TOPICS.contains(name)) {
            return Err(Error::InternalTopic { topic: internal.into() });
        }
        let topic = self.topic_or_create(topic, self.default_config)?;
        if let Some(letters) = &settings.dead_letters {
            if **letters == *topic.name {
                let allowed = format!("another topic than {}: else each letter is a record of the queue", topic.name);
                let key = "dead_letters".into();
                return Err(Error::InvalidSetting { key, value: letters.clone(), allowed: allowed.into() });
            }
            self.topic_or_create(letters, self.default_config)?;
        }
        // Now, as later there are locks that come behind that of the catalog.
        self.topic_or_create(QUEUES_TOPIC, self.default_config)?;
        let mut open = Quiet::lock(&self.queues.open);
        open.retain(|queue| queue.strong_count() > 0);
        let is_this = |queue: &Arc<SharedQueue>| *queue.group == *group && queue.topic.id == topic.id;
        if let Some(found) = open.iter().filter_map(Weak::upgrade).find(is_this) {
            found.settle(settings);
            return Ok(found);
        }
        let queue = Arc::new(SharedQueue {
            inner: Arc::clone(self),
            group: group.into(),
            sharing: Mutex::new(Sharing { settings, parts: Vec::new() }),
            topic,
            bell: Bell::default(),
            next_worker: AtomicU64::new(0),
        });
        queue.grow()?;
        open.push(Arc::downgrade(&queue));
        Ok(queue)
    }
}

impl SharedQueue {
    pub(crate) fn group(&self) -> &str {
        &self.group
    }

    pub(crate) fn new_worker(&self) -> Worker {
        Worker(self.next_worker.fetch_add(1, Ordering::Relaxed))
    }

    /// From now on these settings hold, for all.
    fn settle(&self, settings: QueueSettings) {
        let mut sharing = Quiet::lock(&self.sharing);
        sharing.parts.iter_mut().for_each(|part| part.share.limit(settings.limits));
        sharing.settings = settings;
    }

    /// Takes in partitions that the topic got. Returns them all. Where each begins is durable then.
    pub(crate) fn grow(&self) -> Result<Vec<Arc<Core>>> {
        let mut sharing = Quiet::lock(&self.sharing);
        let (known, count) = (sharing.parts.len(), self.topic.partitions.read().len());
        if known < count {
            let added = self.begin(known..count, &sharing.settings)?;
            sharing.parts.extend(added);
        }
        Ok(sharing.parts.iter().map(|part| Arc::clone(&part.core)).collect())
    }

    /// What is known of these partitions, or where to begin with them.
    fn begin(&self, numbers: Range<usize>, settings: &QueueSettings) -> Result<Vec<Part>> {
        let is_new = numbers.start == 0 && self.inner.queue_state(&self.key(0))?.is_none();
        let mut added = Vec::new();
        // As long as nothing is stored of the first partition the queue is new: it comes last, after a sync of the others.
        for number in numbers.rev() {
            let (core, key) = (self.topic.core(number as u32)?, self.key(number as u32));
            let (share, stored) = match self.inner.queue_state(&key)? {
                Some(state) => (SharePartition::from_state(&state, settings.limits), None),
                None => {
                    let start = if is_new && settings.skips_present { core.end() } else { core.start() };
                    let share = SharePartition::new(start, settings.limits);
                    if number == 0 {
                        added.iter().try_for_each(Part::sync)?;
                    }
                    let stored = self.inner.store_queue(&key, Some(&share.to_state()))?;
                    (share, Some(stored))
                }
            };
            added.push(Part { key, core, share, stored, lettered: BTreeSet::new() });
        }
        added.iter().try_for_each(Part::sync)?;
        added.reverse();
        Ok(added)
    }

    fn key(&self, partition: u32) -> ShareKey {
        ShareKey { group: self.group.clone(), topic: self.topic.id, partition }
    }

    /// Hands out up to `max` records of one partition, which `read` reads: from an offset on, so many of them. One that is
    /// handed out for the last time comes alone: not at all if there are `others` from elsewhere.
    pub(crate) fn take(
        &self,
        at: usize,
        worker: Worker,
        max: usize,
        others: bool,
        mut read: impl FnMut(Offset, usize) -> Result<Records>,
    ) -> Result<Vec<Handed>> {
        let now = self.inner.context.clock.monotonic();
        let mut sharing = Quiet::lock(&self.sharing);
        let Some(part) = sharing.parts.get_mut(at) else { return Ok(Vec::new()) };
        let is_over = part.share.pass_time(now);
        let mut share = part.share.clone();
        share.raise_start(part.core.start());
        let mut handed = Vec::new();
        let result = loop {
            let (from, count) = share.wants(max - handed.len());
            let is_alone = share.is_last_chance(from) && (others || !handed.is_empty());
            if count == 0 || from >= part.core.end() || is_alone {
                break Ok(());
            }
            let mut records = match read(from, count) {
                Ok(records) => records,
                Err(Error::OffsetOutOfRange { .. }) if share.raise_start(part.core.start()) => continue,
                // The next call comes to it, once these are dealt with.
                Err(_) if !handed.is_empty() => break Ok(()),
                Err(error) => break Err(error),
            };
            let end = records.next_offset().max(from);
            let found: Vec<Offset> = records.iter().map(|record| record.offset).collect();
            let is_last = share.is_last_chance(from);
            for taken in share.take(worker, from..end, found, count, now) {
                handed.extend(single(&mut records, taken));
            }
            if is_last && !handed.is_empty() {
                break Ok(());
            }
            if share.wants(1).0 == from {
                // It is there, and may not be seen yet.
                break Ok(());
            }
        };
        let deadline = share.next_deadline();
        let result = result.and_then(|()| match share.to_state() == part.share.to_state() {
            _ if probe::planted("queues.take_not_stored") => {
                part.share = share;
                Ok(())
            }
            true => Ok(()),
            false => part.change(&self.inner, share),
        });
        drop(sharing);
        if is_over {
            self.bell.ring();
        }
        deadline.into_iter().for_each(|deadline| self.inner.expect_by(deadline));
        result.map(|()| handed)
    }

    /// Takes a worker's word for records that are with it, in any of the partitions. What goes wrong with some of them is told
    /// once the others are dealt with.
    pub(crate) fn decide(
        &self,
        worker: Worker,
        records: &BTreeMap<u32, Vec<Offset>>,
        verdict: Verdict,
        ack: Ack,
    ) -> Result<()> {
        let (mut result, mut is_lost) = (Ok(()), false);
        {
            let mut sharing = Quiet::lock(&self.sharing);
            for (partition, offsets) in records {
                let Some(part) = sharing.parts.get_mut(*partition as usize) else { continue };
                let mut share = part.share.clone();
                for offset in offsets {
                    if let Err(NotTaken) = share.decide(worker, *offset, verdict) {
                        let partition = part.core.id.clone();
                        result = result.and(Err(Error::LockExpired { partition, offset: *offset }));
                    }
                }
                // What is rejected is stored with its letter.
                if verdict == Verdict::Accept && share.to_state() != part.share.to_state() {
                    result = result.and(part.change(&self.inner, share));
                } else {
                    part.share = share;
                }
                is_lost |= part.share.lost().next().is_some();
            }
        }
        self.bell.ring();
        if is_lost {
            result = result.and(self.bury());
        }
        // What is given back is stored nowhere: what is stored knows no locks.
        if ack == Ack::Synced
            && (is_lost || verdict == Verdict::Accept)
            && !probe::planted("queues.accept_not_synced")
        {
            result = result.and(self.sync(records.keys()));
        }
        result
    }

    /// Makes durable what was stored of these partitions, also by others.
    fn sync<'p>(&self, partitions: impl Iterator<Item = &'p u32>) -> Result<()> {
        let stored: Vec<_> = {
            let sharing = Quiet::lock(&self.sharing);
            partitions.filter_map(|partition| sharing.parts.get(*partition as usize)?.stored.clone()).collect()
        };
        // Without the lock: who decides at the same time shares the sync.
        stored.into_iter().try_for_each(|(core, end)| core.sync_to(end))
    }

    /// Prolongs the lock of a record.
    pub(crate) fn renew(&self, worker: Worker, partition: u32, offset: Offset) -> Result<()> {
        let now = self.inner.context.clock.monotonic();
        let mut sharing = Quiet::lock(&self.sharing);
        let Some(part) = sharing.parts.get_mut(partition as usize) else { return Ok(()) };
        let id = part.core.id.clone();
        part.share.renew(worker, offset, now).map_err(|NotTaken| Error::LockExpired { partition: id, offset })
    }

    /// Gives back what a worker has, without a word that it failed: the delivery counts.
    pub(crate) fn release(&self, worker: Worker, record: Option<(u32, Offset)>) {
        let is_lost = {
            let mut sharing = Quiet::lock(&self.sharing);
            for part in &mut sharing.parts {
                match record {
                    None => _ = part.share.release_all(worker),
                    // It may be with another by now.
                    Some((partition, offset)) if part.core.id.partition == partition => {
                        _ = part.share.decide(worker, offset, Verdict::Release);
                    }
                    Some(_) => {}
                }
            }
            sharing.parts.iter().any(|part| part.share.lost().next().is_some())
        };
        self.bell.ring();
        if is_lost {
            // For its letter.
            self.inner.expect_by(self.inner.context.clock.monotonic());
        }
    }

    /// Sees to the records that nobody can do: copies them to the topic of dead letters, and then they are done.
    pub(crate) fn bury(&self) -> Result<()> {
        let letters = {
            let sharing = Quiet::lock(&self.sharing);
            if sharing.parts.iter().all(|part| part.share.lost().next().is_none()) {
                return Ok(());
            }
            sharing.settings.dead_letters.clone()
        };
        // Not below the lock: it may be gone, and is made anew.
        let letters = letters.map(|name| self.inner.topic_or_create(&name, self.inner.default_config)).transpose()?;
        let mut result = Ok(());
        {
            let mut sharing = Quiet::lock(&self.sharing);
            let max_deliveries = sharing.settings.limits.max_deliveries;
            for part in &mut sharing.parts {
                let mut lost: Vec<Taken> = part.share.lost().collect();
                if let Some(letters) = &letters {
                    result = result.and(self.send_letters(part, &lost, max_deliveries, letters));
                    lost.retain(|lost| part.lettered.contains(&lost.offset));
                }
                if lost.is_empty() {
                    continue;
                }
                probe::reached("queues.buried");
                let mut share = part.share.clone();
                lost.iter().for_each(|lost| share.bury(lost.offset));
                let stored = part.change(&self.inner, share);
                if stored.is_ok() {
                    lost.iter().for_each(|lost| _ = part.lettered.remove(&lost.offset));
                }
                result = result.and(stored);
            }
        }
        self.bell.ring();
        result
    }

    /// Copies records to the topic of dead letters, those that it can. They are on the disk before they count as copied: what
    /// is said to be done must not be nowhere after a power cut.
    fn send_letters(&self, part: &mut Part, lost: &[Taken], max_deliveries: u16, letters: &TopicState) -> Result<()> {
        let (mut result, mut sent) = (Ok(()), Vec::new());
        for lost in lost.iter().filter(|lost| !part.lettered.contains(&lost.offset)) {
            match self.send_letter(part, lost, max_deliveries, letters) {
                Ok(letter) => sent.push((lost.offset, letter)),
                Err(error) => result = result.and(Err(error)),
            }
        }
        for (offset, letter) in sent {
            let synced = match letter {
                Some(letter) if !probe::planted("queues.letter_not_synced") => letter.wait(Ack::Synced),
                _ => Ok(()),
            };
            if synced.is_ok() {
                part.lettered.insert(offset);
            }
            result = result.and(synced);
        }
        result
    }

    /// Appends a letter; none if the record is gone.
    fn send_letter(
        &self,
        part: &Part,
        lost: &Taken,
        max_deliveries: u16,
        letters: &TopicState,
    ) -> Result<Option<Appended<'static>>> {
        // It is for this call only, and keeps nothing open.
        let partition = Partition::new(Arc::clone(&part.core), Arc::new(()));
        let place = format!("{}:{}", part.core.id, lost.offset);
        let why = match lost.deliveries >= max_deliveries {
            true => format!("delivered {} times, of {max_deliveries}", lost.deliveries),
            false => "rejected".to_owned(),
        };
        let origin = [
            ("__dlq.errors.topic", self.topic.name.to_string()),
            ("__dlq.errors.partition", part.core.id.partition.to_string()),
            ("__dlq.errors.offset", lost.offset.to_string()),
            ("__dlq.errors.group", self.group.to_string()),
            ("__dlq.errors.delivery.count", lost.deliveries.to_string()),
            ("__dlq.errors.message", why),
        ];
        let origin: Vec<Header<'_>> = origin.iter().map(|(key, value)| Header::new(key, value)).collect();
        // With what is added to it it may be too large, or what it is to be read from is damaged, or a compacted topic wants a
        // key: then the letter says where the record is.
        let in_short =
            || letters.append(Record { key: Some(place.as_bytes()), headers: &origin, ..Record::default() });
        let records = match partition.read_with(lost.offset, ReadOptions::default().max_records(1)) {
            Err(Error::OffsetOutOfRange { .. }) => return Ok(None),
            Err(Error::Corrupt(_)) => return in_short().map(Some),
            records => records?,
        };
        let Some(record) = records.iter().next().filter(|record| record.offset == lost.offset) else {
            return Ok(None);
        };
        let headers: Vec<Header<'_>> = record.headers().chain(origin.iter().copied()).collect();
        let letter = Record { key: record.key, value: record.value, headers: &headers, ..Record::default() };
        match letters.append(letter) {
            Err(error) if error.kind() == ErrorKind::Invalid => in_short().map(Some),
            appended => appended.map(Some),
        }
    }

    /// Whether a record that was handed out so often is handed out no more.
    pub(crate) fn was_last_chance(&self, deliveries: u16) -> bool {
        let max = Quiet::lock(&self.sharing).settings.limits.max_deliveries;
        max > 1 && deliveries >= max
    }

    /// When the next lock is over.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let sharing = Quiet::lock(&self.sharing);
        sharing.parts.iter().filter_map(|part| part.share.next_deadline()).min()
    }

    /// How far it is, by partition.
    pub(crate) fn progress(&self) -> ByPartition {
        let now = self.inner.context.clock.monotonic();
        let mut sharing = Quiet::lock(&self.sharing);
        let mut is_over = false;
        let progress = sharing.parts.iter_mut().map(|part| {
            is_over |= part.share.pass_time(now);
            part.share.raise_start(part.core.start());
            let (taken, open) = part.share.in_flight();
            let (start, next) = (part.share.start(), part.share.next());
            (part.core.id.clone(), Progress { start, next, end: part.core.end(), taken, open })
        });
        let progress = progress.collect();
        drop(sharing);
        if is_over {
            self.bell.ring();
        }
        progress
    }

    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }
}

impl Tended for SharedQueue {
    fn tend(&self, now: Duration) -> Option<Duration> {
        let (mut is_over, mut next) = (false, None::<Duration>);
        {
            let mut sharing = Quiet::lock(&self.sharing);
            for part in &mut sharing.parts {
                is_over |= part.share.pass_time(now);
                next = next.into_iter().chain(part.share.next_deadline()).min();
            }
            is_over |= sharing.parts.len() < self.topic.partitions.read().len();
        }
        if is_over {
            self.bell.ring();
        }
        match self.bury() {
            Ok(()) => next,
            // Who takes from the queue is told.
            Err(_) => next.into_iter().chain([now.saturating_add(RETRY)]).min(),
        }
    }
}

/// The record at an offset, out of records that are passed over up to there.
fn single(records: &mut Records, taken: Taken) -> Option<Handed> {
    loop {
        let front = records.take_front(1)?;
        let offset = front.records.iter().next()?.offset;
        if offset == taken.offset {
            return Some(Handed { records: front.records, offset, deliveries: taken.deliveries });
        }
    }
}

/// Wakes those who wait for a queue, for what is no news of a partition: something was given back, or there is room.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: AtomicU64,
    /// One a worker.
    wakers: Mutex<BTreeMap<Worker, Waker>>,
}

impl Bell {
    /// How often it has rung.
    pub(crate) fn count(&self) -> u64 {
        self.rung.load(Ordering::SeqCst)
    }

    /// Wakes this worker when it rings next. Whether it has rung since it had `count`: then look again.
    pub(crate) fn keep(&self, worker: Worker, waker: &Waker, count: u64) -> bool {
        // Cloned before the lock is taken, and the old one dropped after: both may run code of a runtime.
        let waker = waker.clone();
        let old = self.wakers.lock().insert(worker, waker);
        drop(old);
        self.count() != count
    }

    fn ring(&self) {
        self.rung.fetch_add(1, Ordering::SeqCst);
        // Woken when the lock is gone, for the same reason.
        let wakers = std::mem::take(&mut *self.wakers.lock());
        wakers.into_values().for_each(Waker::wake);
    }
}

/// When records that could not be buried are tried again.
const RETRY: Duration = Duration::from_secs(1);
