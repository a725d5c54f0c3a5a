//! Where groups are kept: one coordinator a partition of `__consumer_offsets`, read from it at open.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Shard, ShardSlot};
use crate::config::{Cleanup, Compression, Durability, GroupConfig, TopicConfig};
use crate::error::{Error, Result};
use crate::group::{Coordinator, LogRecord, batches, partition_for_group};
use crate::log::Inner;
use crate::log::names::OFFSETS_TOPIC;
use crate::log::replay::each_batch;
use crate::log::topic::{Slot, TopicState, again};
use crate::observe::Quiet;
use crate::partition::Ack;
use crate::partition::core::Core;
use crate::probe;
use crate::record::{Control, Header, RecordIter, Sender};
use crate::types::{Offset, ProducerId};

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
    pub(in crate::log) fn lower_offsets(&self) -> Result<()> {
        if probe::planted("groups.not_lowered") {
            return Ok(());
        }
        self.shards().into_iter().flatten().try_for_each(|shard| self.lower_in(&mut Quiet::lock(&shard)))
    }

    fn lower_in(&self, shard: &mut Shard) -> Result<()> {
        let groups = shard.coordinator.groups();
        let offsets = groups.flat_map(|group| {
            let offsets = shard.coordinator.offsets().offsets(group);
            offsets.map(move |(topic, partition, committed)| (group, topic, partition, committed))
        });
        let lowered = offsets.filter_map(|(group, topic, partition, committed)| {
            let end = self.find(topic).and_then(|topic| topic.core(partition)).ok()?.end();
            (committed.offset > end).then(|| committed.lowered(group, topic, partition, end))?
        });
        let lowered: Vec<_> = lowered.filter(|record| shard.unsynced.contains(&record.key)).collect();
        shard.unsynced.clear();
        if lowered.is_empty() {
            return Ok(());
        }
        for batch in batches(&lowered) {
            let placed = shard.append(batch, Sender::NONE, Ack::Synced)?;
            for (record, position) in batch.iter().zip(placed.offset.0..) {
                let (key, value) = (Some(&*record.key), record.value.as_deref());
                let replayed =
                    shard.coordinator.replay(LogRecord { position: Offset(position), key, value, transaction: None });
                debug_assert!(replayed.is_ok(), "what we wrote reads back");
            }
        }
        // Before anything can be appended below the offsets that were.
        shard.core.sync_to(shard.end)
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
    pub(in crate::log) fn hidden_topics(&self) -> BTreeSet<String> {
        let mut hidden = BTreeSet::new();
        for shard in self.shards().into_iter().flatten() {
            hidden.extend(Quiet::lock(&shard).coordinator.offsets().hidden_topics().map(str::to_owned));
        }
        hidden
    }
}

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
    let (mut coordinator, mut scratch) = (Coordinator::new(config), Vec::new());
    let mut unsynced = BTreeSet::new();
    let limit = core.config.read().max_decompressed_bytes as usize;
    let end = each_batch(&core, |batch, place| {
        let header = *batch.header();
        if header.attributes.is_control() {
            match batch.control() {
                Ok(Some(Control::Commit { .. })) if probe::planted("groups.marker_passed_over") => {}
                Ok(Some(Control::Commit { .. })) => coordinator.end_transaction(header.producer_id, true),
                Ok(Some(Control::Abort { .. })) => coordinator.end_transaction(header.producer_id, false),
                _ => {}
            }
            return Ok(());
        }
        let records = batch.records(limit, &mut scratch).map_err(|error| error.at(place.path, place.position))?;
        let transaction = header.attributes.is_transactional().then_some(header.producer_id);
        replay_batch(&mut coordinator, &mut unsynced, records, transaction, core.start());
        Ok(())
    })?;
    Ok(Shard { core, coordinator, end, next_token: 0, asked: BTreeMap::new(), unsynced })
}

fn replay_batch(
    coordinator: &mut Coordinator,
    unsynced: &mut BTreeSet<Vec<u8>>,
    records: RecordIter<'_>,
    transaction: Option<ProducerId>,
    start: Offset,
) {
    for record in records.filter(|record| record.offset >= start) {
        // Of a newer broker, or damaged before it was written: kept in the log, passed over here.
        let replayed = coordinator.replay(LogRecord {
            position: record.offset,
            key: record.key,
            value: record.value,
            transaction,
        });
        if replayed.is_err() {
            probe::reached("groups.unreadable_record");
        }
        let Some(key) = record.key else { continue };
        if record.headers().any(|header| header.key == UNSYNCED.key) {
            unsynced.insert(key.to_vec());
        } else {
            unsynced.remove(key);
        }
    }
}
