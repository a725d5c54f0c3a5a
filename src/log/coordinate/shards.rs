//! Where groups are kept: one coordinator a partition of `__consumer_offsets`, read from it at open.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Shard, ShardSlot, Spread};
use crate::config::{Cleanup, Compression, Durability, GroupConfig, TopicConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::group::{Coordinator, GroupRecord, LogRecord, batches, partition_for_group};
use crate::log::Inner;
use crate::log::names::OFFSETS_TOPIC;
use crate::log::replay::{Entry, each_entry};
use crate::log::topic::{Slot, TopicState, again};
use crate::observe::Quiet;
use crate::partition::core::{Core, Halt};
use crate::partition::{Ack, Admission};
use crate::probe;
use crate::record::{Header, Sender};
use crate::types::{NodeId, Offset, TopicPartition};

/// Where groups are kept.
impl Inner {
    /// Replays the topic, if there is one. A partition that cannot be read is damaged, and does not keep the others
    /// from it. Of a log that is open read-only it stays open: what lies before the damage can be read.
    pub(in crate::log) fn load_groups(&self) {
        let topic = self.topics.read().get(OFFSETS_TOPIC).map(Arc::clone);
        if let Some(topic) = topic {
            let mut shards = Quiet::lock(&self.coordinators.partitions);
            *shards = self.load(&topic);
        }
    }

    fn load(&self, topic: &TopicState) -> Vec<ShardSlot> {
        let mut slots = topic.partitions.write();
        slots.iter_mut().map(|slot| self.load_shard(slot)).collect()
    }

    /// This node leads a partition now: if groups are kept in it, they are read from it.
    ///
    /// # Errors
    ///
    /// Those of reading it: nobody can ask for its groups.
    pub(in crate::log) fn load_led(&self, core: &Arc<Core>) -> Result<()> {
        if *core.id.topic != *OFFSETS_TOPIC {
            return Ok(());
        }
        let known = self.coordinators.partitions.lock().get(core.id.partition as usize).cloned();
        if matches!(known, Some(Ok(_))) && probe::planted("replica.group_kept") {
            return Ok(());
        }
        probe::reached("groups.loaded_by_leader");
        let mut shard = replay(Arc::clone(core), self.group_config)?;
        let next = shard.coordinator.next_deadline();
        // Until it is in its place: whoever begins to delete a topic hides it in those that are.
        let catalog = self.catalog.lock();
        let deleting = catalog.topics().iter().filter(|topic| catalog.is_deleting(&topic.name));
        for topic in deleting.filter(|topic| catalog.find(&topic.name).is_none()) {
            shard.coordinator.hide_topic(&topic.name);
        }
        self.put(core, Ok(Arc::new(Mutex::new(shard))));
        next.into_iter().for_each(|next| self.expect_by(next));
        Ok(())
    }

    /// This node leads a partition no more: its groups are not for it to tell. What is to be told to those who wait for an answer
    /// of one is added to `told`, for when no lock is held.
    pub(in crate::log) fn unload_led(&self, core: &Core, leader: Option<NodeId>, told: &mut Spread) {
        if *core.id.topic == *OFFSETS_TOPIC && !probe::planted("replica.group_kept") {
            let why = not_led(core.id.partition, leader);
            if let Some(Ok(shard)) = self.put(core, Err(Arc::clone(&why))) {
                probe::reached("groups.led_no_more");
                Quiet::lock(&shard).dismiss(&why, told);
            }
        }
    }

    /// Puts what is known of the groups of a partition in its place; what was there before.
    fn put(&self, core: &Core, slot: ShardSlot) -> Option<ShardSlot> {
        let mut shards = Quiet::lock(&self.coordinators.partitions);
        let number = core.id.partition as usize;
        for missing in shards.len()..=number {
            shards.push(Err(not_led(missing as u32, None)));
        }
        shards.get_mut(number).map(|place| std::mem::replace(place, slot))
    }

    /// Which partition a group of a replicated log belongs to, whoever leads it.
    pub(super) fn coordinated_by(&self, group: &str) -> Result<TopicPartition> {
        self.check_open()?;
        let topic = self.find(OFFSETS_TOPIC).map_err(|_| NO_TOPIC)?;
        let count = topic.partitions.read().len() as u32;
        Ok(TopicPartition::new(OFFSETS_TOPIC, partition_for_group(group, count)))
    }

    fn load_shard(&self, slot: &mut Slot) -> ShardSlot {
        let core = match slot {
            Slot::Open(core) => Arc::clone(core),
            Slot::Damaged(error) => return Err(Arc::clone(error)),
        };
        replay(Arc::clone(&core), self.group_config).map(Mutex::new).map(Arc::new).map_err(|error| {
            let error = self.note_damage(&core.id, error);
            if !self.context.read_only {
                // Nothing may be added behind what was not understood.
                *slot = Slot::Damaged(Arc::clone(&error));
            }
            error
        })
    }

    /// At an open: lowers each offset that lies above the end of its partition to there. It was committed
    /// without a sync, and what lay below it is lost: what is appended in its place must not be passed over.
    ///
    /// Nothing is appended to such a partition if the disk has no room for that: it takes records again once another open has
    /// lowered the offset.
    pub(in crate::log) fn lower_offsets(&self) -> Result<()> {
        if probe::planted("groups.not_lowered") {
            return Ok(());
        }
        self.shards().into_iter().flatten().try_for_each(|shard| {
            let mut shard = Quiet::lock(&shard);
            let above = self.above_the_end(&mut shard);
            match shard.lower(&above) {
                Err(error) if error.kind() == ErrorKind::Full => {
                    probe::reached("groups.no_room_to_lower");
                    let reason: Arc<str> = NO_ROOM.into();
                    above.iter().for_each(|(core, _)| core.fence(Halt::Poisoned(Arc::clone(&reason))));
                    Ok(())
                }
                lowered => lowered,
            }
        })
    }

    /// What was committed without a sync and lies above the end: in which partition, and the record that lowers it.
    fn above_the_end(&self, shard: &mut Shard) -> Vec<(Arc<Core>, GroupRecord)> {
        let unsynced = std::mem::take(&mut shard.unsynced);
        let groups = shard.coordinator.groups();
        let offsets = groups.flat_map(|group| {
            let offsets = shard.coordinator.offsets().offsets(group);
            offsets.map(move |(topic, partition, committed)| (group, topic, partition, committed))
        });
        let above = offsets.filter_map(|(group, topic, partition, committed)| {
            let core = self.find(topic).and_then(|topic| topic.core(partition)).ok()?;
            let end = core.end();
            let record = (committed.offset > end).then(|| committed.lowered(group, topic, partition, end))??;
            (unsynced.get(&record.key) == Some(&committed.position)).then_some((core, record))
        });
        above.collect()
    }

    /// Of a broker's topic, only some partitions may be here. How many there are is then not known, nor which of them an
    /// id leads to: a group is where it is found.
    pub(super) fn shard_that_knows(&self, group: &str) -> Result<Option<Arc<Mutex<Shard>>>> {
        let knows = |shard: &Arc<Mutex<Shard>>| Quiet::lock(shard).coordinator.groups().any(|known| known == group);
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
    pub(in crate::log) fn shard(&self, group: &str) -> Result<Option<Arc<Mutex<Shard>>>> {
        if self.context.is_replicated && !self.context.read_only {
            return self.shard_led(group).map(Some);
        }
        let shards = self.coordinators.partitions.lock();
        let count = shards.len() as u32;
        if count == 0 {
            return Ok(None);
        }
        match &shards[partition_for_group(group, count) as usize] {
            Ok(shard) => Ok(Some(Arc::clone(shard))),
            Err(error) => Err(again(error)),
        }
    }

    fn shard_led(&self, group: &str) -> Result<Arc<Mutex<Shard>>> {
        let partition = self.coordinated_by(group)?;
        match self.coordinators.partitions.lock().get(partition.partition as usize) {
            Some(Ok(shard)) => Ok(Arc::clone(shard)),
            Some(Err(error)) => Err(again(error)),
            // Not before this node has heard who leads.
            None => Err(Error::NotLeader { partition, leader: None }),
        }
    }

    /// Each of them, or why it could not be read.
    pub(super) fn shards(&self) -> Vec<Result<Arc<Mutex<Shard>>>> {
        let again = |slot: &ShardSlot| slot.as_ref().map(Arc::clone).map_err(|error| again(error));
        self.coordinators.partitions.lock().iter().map(again).collect()
    }

    /// Where the group is to be kept.
    pub(super) fn shard_or_create(&self, group: &str) -> Result<Arc<Mutex<Shard>>> {
        self.check_open()?;
        if let Some(shard) = self.shard(group)? {
            return Ok(shard);
        }
        let topic = self.topic_or_create(OFFSETS_TOPIC, self.offsets_config)?;
        {
            let mut shards = Quiet::lock(&self.coordinators.partitions);
            if shards.is_empty() {
                *shards = self.load(&topic);
            }
        }
        self.shard(group)?.ok_or(Error::Closed)
    }

    /// The topics that are being deleted, so that what groups committed for them is there, and not told.
    #[cfg(feature = "sim")]
    pub(in crate::log) fn hidden_topics(&self) -> std::collections::BTreeSet<String> {
        let mut hidden = std::collections::BTreeSet::new();
        for shard in self.shards().into_iter().flatten() {
            hidden.extend(Quiet::lock(&shard).coordinator.offsets().hidden_topics().map(str::to_owned));
        }
        hidden
    }
}

impl Shard {
    /// Lowers offsets, durably: before anything can be appended below those that were. They still count as committed without a
    /// sync, for what is left of the partition need not be durable either.
    fn lower(&mut self, above: &[(Arc<Core>, GroupRecord)]) -> Result<()> {
        if above.is_empty() {
            return Ok(());
        }
        probe::reached("groups.lowered");
        let records: Vec<_> = above.iter().map(|(_, record)| record.clone()).collect();
        for batch in batches(&records) {
            let placed = self.append_if(Admission::Always, batch, Sender::NONE, Ack::Written)?;
            for (record, position) in batch.iter().zip(placed.offset.0..) {
                let (key, value) = (Some(&*record.key), record.value.as_deref());
                let replayed =
                    self.coordinator.replay(LogRecord { position: Offset(position), key, value, transaction: None });
                debug_assert!(replayed.is_ok(), "what we wrote reads back");
            }
        }
        self.core.sync_to(self.end)
    }
}

/// Why groups of a partition are not for this node to tell.
fn not_led(partition: u32, leader: Option<NodeId>) -> Arc<Error> {
    Arc::new(Error::NotLeader { partition: TopicPartition::new(OFFSETS_TOPIC, partition), leader })
}

const NO_TOPIC: Error = Error::Unsupported {
    what: "a group of a log that is replicated, before the topic __consumer_offsets was created on each node,",
};

const NO_ROOM: &str =
    "the disk has no room to lower an offset that a group committed above its end: free some, and open again";

/// Kafka reads past it.
pub(super) const UNSYNCED: Header<'_> = Header { key: "unsynced", value: None };

/// The settings of the topic, as Kafka's coordinator chooses them.
pub(in crate::log) fn offsets_config(groups: &GroupConfig) -> TopicConfig {
    TopicConfig::default()
        .partitions(groups.offsets_partitions)
        .cleanup(Cleanup::Compact)
        .compression(Compression::Uncompressed)
        .segment_bytes(100 << 20)
        // Commits wait for their sync themselves; this makes the files those of a durable topic.
        .durability(Durability::Every { records: None, time: Some(Duration::from_secs(1)) })
}

/// Reads a whole partition of the topic into its state.
fn replay(core: Arc<Core>, config: GroupConfig) -> Result<Shard> {
    let cuts = core.cuts();
    let (mut coordinator, mut unsynced) = (Coordinator::new(config), BTreeMap::new());
    let end = each_entry(&core, |entry| match entry {
        Entry::Marker { is_commit: true, .. } if probe::planted("groups.marker_passed_over") => {}
        Entry::Marker { producer, is_commit } => coordinator.end_transaction(producer, is_commit),
        Entry::Record { record, transaction } => {
            let (position, key, value) = (record.offset, record.key, record.value);
            // Of a newer broker, or damaged before it was written: kept in the log, passed over here.
            if coordinator.replay(LogRecord { position, key, value, transaction }).is_err() {
                probe::reached("groups.unreadable_record");
            }
            // Also if another comes behind it: one in a transaction may never count.
            if let Some(key) = key
                && record.headers().any(|header| header.key == UNSYNCED.key)
            {
                unsynced.insert(key.to_vec(), position);
            }
        }
    })?;
    Ok(Shard { core, coordinator, end, next_token: 0, asked: BTreeMap::new(), cuts, gone: None, unsynced })
}
