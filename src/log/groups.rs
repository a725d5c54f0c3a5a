//! The offsets of consumer groups: the records of `__consumer_offsets`, and the state that is their fold.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::names::OFFSETS_TOPIC;
use super::replay::each_batch;
use super::topic::{Slot, TopicState, again};
use super::{FirstError, Inner, Opened};
use crate::config::{Cleanup, Compression, Durability, GroupConfig, TopicConfig};
use crate::error::{Error, Result};
use crate::group::{Committed, GroupOffset, GroupRecord, LogRecord, Offsets, check_group_id, partition_for_group};
use crate::observe::{Quiet, tell};
use crate::partition::core::Core;
use crate::partition::{Admission, Ending, Placement, append_records};
use crate::probe;
use crate::record::{Control, Record, RecordIter, Sender};
use crate::types::{Offset, ProducerId, Timestamp, TopicPartition};

/// A consumer group, by its id: what it committed. Made by [`Log::group`](crate::Log::group).
///
/// A group need not be created: it is there while it has offsets. What it committed is forgotten after 7 days by
/// default, counted from the commit: one that only waits has to commit again now and then, or begins anew.
/// [`GroupConfig::offset_retention`] says otherwise.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use chiplog::{Log, Offset};
///
/// let log = Log::open(dir.path())?;
/// let billing = log.group("billing")?;
/// billing.commit("orders", 0, Offset(42))?;
/// assert_eq!(billing.committed("orders", 0)?.map(|committed| committed.offset), Some(Offset(42)));
/// assert_eq!(billing.committed("orders", 1)?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Group {
    id: Arc<str>,
    opened: Arc<Opened>,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("id", &self.id).finish()
    }
}

impl Group {
    pub(super) fn new(id: &str, opened: Arc<Opened>) -> Result<Self> {
        check_group_id(id)?;
        Ok(Self { id: id.into(), opened })
    }

    /// Refuses a group of another log than this.
    pub(super) fn check_of(&self, inner: &Inner) -> Result<()> {
        let found = &self.opened.inner;
        match std::ptr::eq(&**found, inner) {
            true => Ok(()),
            false => Err(Error::ForeignGroup {
                group: (*self.id).into(),
                found: (*found.dir).into(),
                expected: (*inner.dir).into(),
            }),
        }
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Commits the offset to go on from in one partition. Survives a power cut when this returns, and so do the records
    /// below the offset, if the partition is in this log: they are synced first, whatever the topic's
    /// [`Durability`] says. Committing once for many records costs one sync for all of them.
    ///
    /// The offset may go back, and may lie above the end: the topic may be in another log.
    ///
    /// # Errors
    ///
    /// As for [`commit_all`](Self::commit_all).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// let billing = log.group("billing")?;
    /// billing.commit("orders", 0, Offset(42))?;
    /// billing.commit("orders", 0, Offset(17))?; // go back
    /// assert_eq!(billing.committed("orders", 0)?.unwrap().offset, Offset(17));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn commit(&self, topic: &str, partition: u32, offset: Offset) -> Result<()> {
        self.commit_all(&[GroupOffset::new(topic, partition, offset)])
    }

    /// Commits several offsets, all of them or none. They survive a power cut when this returns, and so do the records
    /// below them, as [`commit`](Self::commit) says.
    ///
    /// # Errors
    ///
    /// Nothing was committed after
    ///
    /// - [`Error::TooLong`] if a metadata text is too long, [`Error::InvalidRecord`] if a name or number is too large,
    ///   [`Error::BatchTooLarge`] if there are too many.
    /// - [`Error::LowSpace`], and [`Error::Io`] of a full disk: commit again once space is freed.
    /// - [`Error::Corrupt`] if the group's offsets could not be read when the log was opened.
    /// - [`Error::ReadOnly`], [`Error::Closed`].
    ///
    /// [`Error::Io`] and [`Error::Poisoned`] leave it open if the sync of the commit failed: it may be there when the
    /// log is reopened. Both are of the partition whose records the offset points past, too, if those could not be
    /// synced; nothing was committed then.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{GroupOffset, Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// let billing = log.group("billing")?;
    /// billing.commit_all(&[
    ///     GroupOffset::new("orders", 0, Offset(42)).metadata("by worker 7"),
    ///     GroupOffset::new("orders", 1, Offset(17)),
    /// ])?;
    /// assert_eq!(billing.offsets()?.len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn commit_all(&self, offsets: &[GroupOffset<'_>]) -> Result<()> {
        if offsets.is_empty() {
            return Ok(());
        }
        let inner = &self.opened.inner;
        let now = inner.context.clock.now();
        let records = Offsets::commit(&self.id, offsets, now, &inner.group_config)?;
        inner.sync_below(offsets)?;
        let shard = inner.shard_or_create(&self.id)?;
        write(&shard, |shard| shard.append(&records, Admission::IfSpace, Sender::NONE).map(drop))?;
        let (id, count) = (Arc::clone(&self.id), offsets.len());
        tell(&inner.context.observer, move |observer| observer.offsets_committed(&id, count));
        Ok(())
    }

    /// What the group committed for a partition; `None` if nothing, or so long ago that it was forgotten.
    ///
    /// Only what survives a power cut: waits for a commit that is under way, and syncs what a process that was killed
    /// may have left unsynced. A log that is open read-only tells what is there.
    ///
    /// # Errors
    ///
    /// - [`Error::Corrupt`], [`Error::Io`] if the offsets could not be read when the log was opened; `Io` also if what
    ///   was found then could not be synced now: of kind [`Full`](crate::ErrorKind::Full), ask again once space is freed.
    /// - [`Error::Poisoned`] if a sync of what is committed failed: what is stored is known when the log is reopened.
    /// - [`Error::Closed`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{GroupOffset, Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// let billing = log.group("billing")?;
    /// assert!(billing.committed("orders", 0)?.is_none());
    /// billing.commit_all(&[GroupOffset::new("orders", 0, Offset(42)).metadata("by worker 7")])?;
    /// let committed = billing.committed("orders", 0)?.unwrap();
    /// assert_eq!((committed.offset, &*committed.metadata), (Offset(42), "by worker 7"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn committed(&self, topic: &str, partition: u32) -> Result<Option<Committed>> {
        let found = self
            .opened
            .inner
            .with_group(&self.id, |offsets| offsets.committed(&self.id, topic, partition).cloned())?;
        Ok(found.flatten())
    }

    /// Everything the group committed, by topic and partition.
    ///
    /// # Errors
    ///
    /// As for [`committed`](Self::committed).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// let billing = log.group("billing")?;
    /// billing.commit("orders", 3, Offset(42))?;
    /// let offsets = billing.offsets()?;
    /// assert_eq!((offsets[0].0.to_string(), offsets[0].1.offset), ("orders-3".into(), Offset(42)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn offsets(&self) -> Result<Vec<(TopicPartition, Committed)>> {
        let found = self.opened.inner.with_group(&self.id, |offsets| {
            let all = offsets.offsets(&self.id);
            all.map(|(topic, partition, committed)| (TopicPartition::new(topic, partition), committed.clone()))
                .collect()
        })?;
        Ok(found.unwrap_or_default())
    }

    /// Forgets everything the group committed. Survives a power cut when this returns.
    ///
    /// # Errors
    ///
    /// As for [`Partition::append`](crate::Partition::append); [`Error::Corrupt`] also if the offsets could not be read
    /// when the log was opened.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// let billing = log.group("billing")?;
    /// billing.commit("orders", 0, Offset(42))?;
    /// billing.delete()?;
    /// assert!(billing.offsets()?.is_empty());
    /// assert!(log.groups()?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn delete(&self) -> Result<()> {
        let inner = &self.opened.inner;
        inner.check_open()?;
        let Some(shard) = inner.shard(&self.id)? else { return Ok(()) };
        write(&shard, |shard| {
            let records = shard.offsets.delete_group(&self.id);
            shard.append_each(&records)
        })
    }
}

#[cfg(feature = "sim")]
impl crate::log::Log {
    /// The topics that are being deleted, so that what groups committed for them is there, and not told.
    pub(crate) fn hidden_topics(&self) -> BTreeSet<String> {
        let mut hidden = BTreeSet::new();
        for shard in self.opened.inner.shards().into_iter().flatten() {
            hidden.extend(Quiet::lock(&shard).offsets.hidden_topics().map(str::to_owned));
        }
        hidden
    }
}

/// The state of all groups, one fold a partition of the topic; none until the topic is there.
#[derive(Debug, Default)]
pub(super) struct Coordinator {
    partitions: Mutex<Vec<ShardSlot>>,
}

/// The groups of one partition, or why they could not be read.
type ShardSlot = Result<Arc<Mutex<Shard>>, Arc<Error>>;

/// The groups of one partition.
#[derive(Debug)]
struct Shard {
    core: Arc<Core>,
    offsets: Offsets,
    /// The offset after the last record that was taken in: what is told of the groups must be synced up to it.
    end: Offset,
}

impl Inner {
    /// Replays the topic, if there is one. A partition that cannot be read is damaged, and does not keep the others
    /// from it. Of a log that is open read-only it stays open: what lies before the damage can be read.
    pub(super) fn load_groups(&self) {
        let topic = self.topics.read().get(OFFSETS_TOPIC).map(Arc::clone);
        if let Some(topic) = topic {
            let mut shards = Quiet::lock(&self.coordinator.partitions);
            *shards = self.load(&topic);
        }
    }

    fn load(&self, topic: &TopicState) -> Vec<ShardSlot> {
        let mut slots = topic.partitions.write();
        slots.iter_mut().map(|slot| self.load_shard(slot)).collect()
    }

    fn load_shard(&self, slot: &mut Slot) -> ShardSlot {
        let core = match slot {
            Slot::Open(core) => Arc::clone(core),
            Slot::Damaged(error) => return Err(Arc::clone(error)),
        };
        replay(Arc::clone(&core)).map(Mutex::new).map(Arc::new).map_err(|error| {
            let error = self.note_damage(&core.id, error);
            if !self.context.read_only {
                // Nothing may be added behind what was not understood.
                *slot = Slot::Damaged(Arc::clone(&error));
            }
            error
        })
    }

    /// Every group. Of a log that is open read-only those that can be told: what keeps the others from it is among what
    /// is damaged.
    pub(super) fn group_ids(&self) -> Result<Vec<String>> {
        self.check_open()?;
        let mut ids = BTreeSet::new();
        for shard in self.shards() {
            match shard {
                // Its groups are another broker's, and in no file here.
                Err(Error::PartitionElsewhere { .. }) => {}
                Err(_) if self.context.read_only => {}
                shard => look(&*shard?, |offsets| ids.extend(offsets.groups().map(str::to_owned)))?,
            }
        }
        Ok(ids.into_iter().collect())
    }

    /// Why the groups of this partition of the topic cannot be told, if they cannot.
    pub(super) fn damage_of_groups(&self, partition: u32) -> Option<Arc<Error>> {
        let shards = self.coordinator.partitions.lock();
        shards.get(partition as usize).and_then(|shard| shard.as_ref().err().map(Arc::clone))
    }

    fn with_group<R>(&self, group: &str, tell: impl FnOnce(&Offsets) -> R) -> Result<Option<R>> {
        self.check_open()?;
        let shard = if self.context.read_only { self.shard_that_knows(group) } else { self.shard(group) };
        shard?.map(|shard| look(&shard, tell)).transpose()
    }

    /// Of a broker's topic, only some partitions may be here. How many there are is then not known, nor which of them an
    /// id leads to: a group is where it is found.
    fn shard_that_knows(&self, group: &str) -> Result<Option<Arc<Mutex<Shard>>>> {
        let knows = |shard: &Arc<Mutex<Shard>>| Quiet::lock(shard).offsets.groups().any(|known| known == group);
        let expected = self.shard(group);
        if let Ok(Some(shard)) = &expected
            && knows(shard)
        {
            return expected;
        }
        let mut others = self.shards().into_iter().flatten();
        others.find(knows).map_or(expected, |found| Ok(Some(found)))
    }

    /// Where the group is kept; `None` if there is no topic for it yet.
    fn shard(&self, group: &str) -> Result<Option<Arc<Mutex<Shard>>>> {
        let shards = self.coordinator.partitions.lock();
        let count = shards.len() as u32;
        if count == 0 {
            return Ok(None);
        }
        match &shards[partition_for_group(group, count) as usize] {
            Ok(shard) => Ok(Some(Arc::clone(shard))),
            Err(error) => Err(again(error)),
        }
    }

    /// Each of them, or why it could not be read.
    fn shards(&self) -> Vec<Result<Arc<Mutex<Shard>>>> {
        let again = |slot: &ShardSlot| slot.as_ref().map(Arc::clone).map_err(|error| again(error));
        self.coordinator.partitions.lock().iter().map(again).collect()
    }

    /// Makes durable what lies below the offsets, as far as it is in this log. Else a power cut could take the records
    /// and leave the offsets, and a group would pass over what is appended in their place.
    fn sync_below(&self, offsets: &[GroupOffset<'_>]) -> Result<()> {
        if probe::planted("log.commit_ahead") {
            return Ok(());
        }
        let mut errors = FirstError::default();
        self.cores_below(offsets).iter().for_each(|(core, end)| errors.keep(core.sync_to(*end)));
        errors.into_result()
    }

    /// Which partitions of this log lie below the offsets, and up to where.
    pub(super) fn cores_below(&self, offsets: &[GroupOffset<'_>]) -> Vec<(Arc<Core>, Offset)> {
        let below = offsets.iter().filter_map(|commit| {
            let core = self.find(commit.topic).and_then(|topic| topic.core(commit.partition)).ok()?;
            let end = commit.offset.min(core.end());
            Some((core, end))
        });
        below.collect()
    }

    /// Appends offsets that a group commits in a transaction: they count once that is committed.
    pub(super) fn append_group_offsets(
        &self,
        group: &str,
        offsets: &[GroupOffset<'_>],
        sender: Sender,
    ) -> Result<(Arc<Core>, Placement)> {
        let records = Offsets::commit(group, offsets, self.context.clock.now(), &self.group_config)?;
        let shard = self.shard_or_create(group)?;
        let mut shard = Quiet::lock(&shard);
        let placed = shard.append(&records, Admission::IfSpace, sender)?;
        Ok((Arc::clone(&shard.core), placed))
    }

    /// Ends a transaction in a partition of the topic.
    pub(super) fn end_in_groups(&self, core: &Arc<Core>, ending: &Ending) -> Result<Option<Offset>> {
        let shard = self.coordinator.partitions.lock().get(core.id.partition as usize).cloned();
        let Some(Ok(shard)) = shard else {
            // At open: what is found there is replayed with its markers later.
            return core.end_transaction(ending);
        };
        let mut shard = Quiet::lock(&shard);
        let marker = core.end_transaction(ending)?;
        if let Some(marker) = marker {
            let is_commit = ending.is_commit || probe::planted("groups.aborted_counts");
            shard.offsets.end_transaction(ending.producer, is_commit);
            shard.end = marker + 1;
        }
        Ok(marker)
    }

    /// Where the group is to be kept.
    fn shard_or_create(&self, group: &str) -> Result<Arc<Mutex<Shard>>> {
        self.check_open()?;
        if let Some(shard) = self.shard(group)? {
            return Ok(shard);
        }
        self.make_offsets_topic()?;
        self.shard(group)?.ok_or(Error::Closed)
    }

    fn make_offsets_topic(&self) -> Result<()> {
        let topic = self.topic_or_create(OFFSETS_TOPIC, self.offsets_config)?;
        let mut shards = Quiet::lock(&self.coordinator.partitions);
        if shards.is_empty() {
            *shards = self.load(&topic);
        }
        Ok(())
    }

    /// Removes what any group committed for a deleted topic, durably: a new one of its name must not find it.
    pub(super) fn forget_topic_offsets(&self, topic: &str) -> Result<()> {
        let mut errors = FirstError::default();
        for shard in self.shards() {
            let forgotten = shard.and_then(|shard| {
                write(&shard, |shard| {
                    let records = shard.offsets.delete_topic(topic);
                    shard.append_each(&records)
                })
            });
            errors.keep(forgotten);
        }
        errors.into_result()
    }

    /// Tells again what groups commit for a topic of this name: from now on it is one elsewhere, or a new one.
    pub(super) fn show_topic_offsets(&self, topic: &str) {
        for shard in self.shards().into_iter().flatten() {
            Quiet::lock(&shard).offsets.show_topic(topic);
        }
    }

    /// Tells nobody what groups committed for a topic that is being deleted, until it is removed.
    pub(super) fn hide_topic_offsets(&self, topic: &str) {
        for shard in self.shards().into_iter().flatten() {
            Quiet::lock(&shard).offsets.hide_topic(topic);
        }
    }

    /// Removes offsets that are past their retention.
    pub(super) fn expire_group_offsets(&self) -> Result<()> {
        let now = self.context.clock.now();
        let mut errors = FirstError::default();
        // Those that cannot be read are damaged partitions, which was told.
        for shard in self.shards().into_iter().flatten() {
            let expired = Quiet::lock(&shard).expire(now, &self.group_config);
            for (group, count) in errors.keep(expired) {
                tell(&self.context.observer, move |observer| observer.offsets_expired(&group, count));
            }
        }
        errors.into_result()
    }
}

/// Tells what is there, once it is durable: what is told must still be so after a power cut.
fn look<R>(shard: &Mutex<Shard>, tell: impl FnOnce(&Offsets) -> R) -> Result<R> {
    let (found, core, end) = {
        let shard = Quiet::lock(shard);
        (tell(&shard.offsets), Arc::clone(&shard.core), shard.end)
    };
    if !core.context.read_only {
        core.sync_to(end)?;
    }
    Ok(found)
}

/// Appends to where a group is kept, and waits until all that is there is durable: concurrent commits share one sync.
fn write(shard: &Mutex<Shard>, append: impl FnOnce(&mut Shard) -> Result<()>) -> Result<()> {
    let core = {
        let mut shard = Quiet::lock(shard);
        append(&mut shard)?;
        Arc::clone(&shard.core)
    };
    if probe::planted("log.commit_before_sync") {
        return Ok(());
    }
    // Also if there was nothing to append: that may be so because of records that are not synced yet, of this process
    // or of one before it.
    core.sync_to(core.end())
}

impl Shard {
    /// Removes offsets that are past their retention. Returns how many, by group.
    fn expire(&mut self, now: Timestamp, config: &GroupConfig) -> Result<Vec<(String, usize)>> {
        let due = self.offsets.expired(now, config);
        let due: Vec<_> = due.into_iter().map(|(group, records)| (group.to_owned(), records)).collect();
        let mut expired = Vec::with_capacity(due.len());
        for (group, records) in due {
            probe::reached("groups.expired");
            self.append_each(&records)?;
            expired.push((group, records.len()));
        }
        Ok(expired)
    }

    /// Appends any number of tombstones, in batches that are short of every limit, and replays them.
    fn append_each(&mut self, mut records: &[GroupRecord]) -> Result<()> {
        while !records.is_empty() {
            let mut bytes = 0;
            let count = records.iter().take_while(|record| {
                bytes += record.key.len() + record.value.as_ref().map_or(0, Vec::len) + RECORD_OVERHEAD;
                bytes <= MAX_BATCH_BYTES
            });
            let (batch, rest) = records.split_at(count.count().max(1));
            self.append(batch, Admission::Always, Sender::NONE)?;
            records = rest;
        }
        Ok(())
    }

    /// Appends records as one batch and replays them.
    fn append(&mut self, records: &[GroupRecord], admission: Admission, sender: Sender) -> Result<Placement> {
        let encoded = records.iter().map(|record| Record {
            key: Some(&record.key),
            value: record.value.as_deref(),
            ..Record::default()
        });
        let placed = append_records(&self.core, admission, sender, None, encoded)?;
        let waits = !probe::planted("groups.counts_at_once");
        for (record, position) in records.iter().zip(placed.offset.0..) {
            let replayed = self.offsets.replay(LogRecord {
                position: Offset(position),
                key: Some(&record.key),
                value: record.value.as_deref(),
                transaction: sender.is_transactional.then_some(sender.producer).filter(|_| waits),
            });
            debug_assert!(replayed.is_ok(), "what we wrote reads back");
        }
        self.end = placed.last_offset + 1;
        Ok(placed)
    }
}

/// What a record takes beside its key and value, at most.
const RECORD_OVERHEAD: usize = 32;
const MAX_BATCH_BYTES: usize = 256 << 10;

/// The settings of the topic, as Kafka's coordinator chooses them.
pub(super) fn offsets_config(groups: &GroupConfig) -> TopicConfig {
    TopicConfig::default()
        .partitions(groups.offsets_partitions)
        .cleanup(Cleanup::Compact)
        .compression(Compression::Uncompressed)
        .segment_bytes(100 << 20)
        // Commits wait for their sync themselves; this makes the files those of a durable topic.
        .durability(Durability::Every { records: None, time: Some(std::time::Duration::from_secs(1)) })
}

/// Reads a whole partition of the topic into its state.
fn replay(core: Arc<Core>) -> Result<Shard> {
    let (mut offsets, mut scratch) = (Offsets::default(), Vec::new());
    let limit = core.config.read().max_decompressed_bytes as usize;
    let end = each_batch(&core, |batch, place| {
        let header = *batch.header();
        if header.attributes.is_control() {
            match batch.control() {
                Ok(Some(Control::Commit { .. })) if probe::planted("groups.marker_passed_over") => {}
                Ok(Some(Control::Commit { .. })) => offsets.end_transaction(header.producer_id, true),
                Ok(Some(Control::Abort { .. })) => offsets.end_transaction(header.producer_id, false),
                _ => {}
            }
            return Ok(());
        }
        let records = batch.records(limit, &mut scratch).map_err(|error| error.at(place.path, place.position))?;
        let transaction = header.attributes.is_transactional().then_some(header.producer_id);
        replay_batch(&mut offsets, records, transaction, core.start());
        Ok(())
    })?;
    Ok(Shard { core, offsets, end })
}

fn replay_batch(offsets: &mut Offsets, records: RecordIter<'_>, transaction: Option<ProducerId>, start: Offset) {
    for record in records.filter(|record| record.offset >= start) {
        // Of a newer broker, or damaged before it was written: kept in the log, passed over here.
        let replayed =
            offsets.replay(LogRecord { position: record.offset, key: record.key, value: record.value, transaction });
        if replayed.is_err() {
            probe::reached("groups.unreadable_record");
        }
    }
}
