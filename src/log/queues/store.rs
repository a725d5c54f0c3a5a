//! Where queues are kept: in `__share_group_state`, one record for each change of what is known of a partition. The last one
//! of a key holds, so that the topic is compacted.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{Cleanup, Compression, Durability, TopicConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::group::partition_for_group;
use crate::group::share::{MAX_OPEN, ShareKey, ShareState};
use crate::log::Inner;
use crate::log::names::QUEUES_TOPIC;
use crate::log::replay::{Entry, each_entry};
use crate::log::topic::Slot;
use crate::partition::core::{Core, Halt};
use crate::partition::{Admission, append_records};
use crate::probe;
use crate::record::{Record, Sender};
use crate::types::{Offset, TopicId};

impl Inner {
    /// Replays the topic, if there is one. A partition that cannot be read is damaged, and does not keep the others from it.
    pub(in crate::log) fn load_queues(&self) {
        let Some(topic) = self.topics.read().get(QUEUES_TOPIC).map(Arc::clone) else { return };
        let mut states = self.queues.states.lock();
        for slot in topic.partitions.write().iter_mut() {
            let Slot::Open(core) = slot else { continue };
            match replay(core) {
                Ok(found) => states.extend(found),
                Err(error) => {
                    let error = self.note_damage(&core.id, error);
                    if !self.context.read_only {
                        // Nothing may be added behind what was not understood.
                        *slot = Slot::Damaged(error);
                    }
                }
            }
        }
    }

    /// At an open: forgets of each partition what lies above its end. A power cut took the records, and those that come in
    /// their place are new. Before anything can be appended: once there is more, nobody can tell them apart. Nothing is
    /// appended to such a partition if the disk has no room for that, as after [`lower_offsets`](Self::lower_offsets).
    pub(in crate::log) fn lower_queues(&self) -> Result<()> {
        if probe::planted("queues.not_lowered") {
            return Ok(());
        }
        let topics = self.topics.read().clone();
        let states = self.queues.states.lock().clone();
        let above: Vec<_> = states
            .into_iter()
            .filter_map(|(key, mut state)| {
                let topic = topics.values().find(|topic| topic.id == key.topic)?;
                // What is damaged keeps its state, for when it is mended.
                let core = topic.core(key.partition).ok()?;
                state.cut(core.end()).then_some((core, key, state))
            })
            .collect();
        let store = |(_, key, state): &(_, ShareKey, ShareState)| {
            probe::reached("queues.lowered");
            self.store_if(Admission::Always, key, Some(state))
        };
        let stored: Result<Vec<_>> = above.iter().map(store).collect();
        match stored.and_then(|stored| stored.into_iter().try_for_each(|(core, end)| core.sync_to(end))) {
            Err(error) if error.kind() == ErrorKind::Full => {
                let reason: Arc<str> = NO_ROOM.into();
                above.iter().for_each(|(core, ..)| core.fence(Halt::Poisoned(Arc::clone(&reason))));
                Ok(())
            }
            lowered => lowered,
        }
    }

    /// Forgets the queues of a topic, or that of one group. That is durable when this returns. Whether there was any.
    pub(in crate::log) fn forget_queues(&self, topic: TopicId, group: Option<&str>) -> Result<bool> {
        if let (Some(_), Ok(kept_in)) = (group, self.find(QUEUES_TOPIC)) {
            // Nobody knows of what was to begin a queue and failed.
            let cores: Vec<_> = kept_in.partitions.read().iter().flat_map(Slot::core).map(Arc::clone).collect();
            cores.iter().try_for_each(|core| core.cut_what_failed())?;
        }
        let is_one = |key: &&ShareKey| key.topic == topic && group.is_none_or(|group| *key.group == *group);
        let keys: Vec<ShareKey> = self.queues.states.lock().keys().filter(is_one).cloned().collect();
        let mut stored = Vec::new();
        for key in &keys {
            stored.push(self.store_queue(key, None)?);
        }
        stored.into_iter().try_for_each(|(core, end)| core.sync_to(end))?;
        Ok(!keys.is_empty())
    }

    /// What is stored of a partition, for a queue.
    pub(super) fn queue_state(&self, key: &ShareKey) -> Result<Option<ShareState>> {
        // What cannot be read may have more than was read of it.
        self.core_of_queue(key)?;
        Ok(self.queues.states.lock().get(key).cloned())
    }

    /// Stores what is known of a partition, for a queue. Returns up to where which partition is to be synced for it.
    pub(super) fn store_queue(&self, key: &ShareKey, state: Option<&ShareState>) -> Result<(Arc<Core>, Offset)> {
        // What only removes frees space.
        let admission = if state.is_none() { Admission::Always } else { Admission::IfSpace };
        self.store_if(admission, key, state)
    }

    fn store_if(
        &self,
        admission: Admission,
        key: &ShareKey,
        state: Option<&ShareState>,
    ) -> Result<(Arc<Core>, Offset)> {
        let core = self.core_of_queue(key)?;
        let invalid =
            Error::InvalidRecord { reason: "the id of the group is too long, or the partition too large", index: 0 };
        let encoded = key.encode().ok_or(invalid)?;
        let value = state.map(|state| state.encode(self.context.clock.now()));
        let record = Record { key: Some(&encoded), value: value.as_deref(), ..Record::default() };
        let placed = append_records(&core, admission, Sender::NONE, None, [record])?;
        let mut states = self.queues.states.lock();
        match state {
            Some(state) => _ = states.insert(key.clone(), state.clone()),
            None => _ = states.remove(key),
        }
        drop(states);
        Ok((core, placed.last_offset + 1))
    }

    /// Where it is kept: in the partition that Kafka would choose.
    fn core_of_queue(&self, key: &ShareKey) -> Result<Arc<Core>> {
        let topic = self.find(QUEUES_TOPIC)?;
        let count = topic.partitions.read().len() as u32;
        topic.core(partition_for_group(&format!("{}:{}:{}", key.group, key.topic, key.partition), count))
    }
}

const NO_ROOM: &str = "the disk has no room to lower what a queue knows of above its end: free some, and open again";

fn replay(core: &Core) -> Result<BTreeMap<ShareKey, ShareState>> {
    let mut states = BTreeMap::new();
    each_entry(core, |entry| {
        let Entry::Record { record, .. } = entry else { return };
        // Of a newer broker, or an update, which is Kafka's alone: passed over. What it says was done is done again.
        let Some(Ok(Some(key))) = record.key.map(ShareKey::decode) else { return };
        match record.value.map(|value| ShareState::decode(value, MAX_OPEN)) {
            Some(Ok(state)) => _ = states.insert(key, state),
            Some(Err(_)) => probe::reached("queues.unreadable_record"),
            None => _ = states.remove(&key),
        }
    })?;
    Ok(states)
}

/// The settings of the topic. Kafka deletes old records by itself; here each says all, so that it can be compacted.
pub(in crate::log) fn queues_config() -> TopicConfig {
    TopicConfig::default()
        .cleanup(Cleanup::Compact)
        .compression(Compression::Uncompressed)
        // What is active is not compacted, and is read by each open.
        .segment_bytes(1 << 20)
        // What is decided waits for its sync itself; this makes the files those of a durable topic.
        .durability(Durability::Every { records: None, time: Some(std::time::Duration::from_secs(1)) })
}
