//! Topics are made, and changed: on the disk first, then in memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::RwLock;

use super::checkpoints::Checkpoint;
use super::names::{OFFSETS_TOPIC, QUEUES_TOPIC, TRANSACTIONS_TOPIC};
use super::topic::TopicState;
use super::{Inner, check_codec, own, partitioner};
use crate::config::{Durability, TopicConfig};
use crate::error::{Error, Result};
use crate::probe;
use crate::types::{Offset, TopicId};

impl Inner {
    pub(super) fn topic_or_create(&self, name: &str, config: TopicConfig) -> Result<Arc<TopicState>> {
        self.check_open()?;
        if let Some(topic) = self.topics.read().get(name) {
            return Ok(Arc::clone(topic));
        }
        let config = self.own_config(name).map_or(config, |(config, _)| config);
        match self.create_topic(name, config) {
            // Another thread was faster.
            Err(Error::TopicExists { topic }) if *topic == *name => match self.topics.read().get(name) {
                Some(topic) => Ok(Arc::clone(topic)),
                None => Err(Error::TopicExists { topic }),
            },
            created => created,
        }
    }

    pub(super) fn create_topic(&self, name: &str, config: TopicConfig) -> Result<Arc<TopicState>> {
        self.create_topic_of(name, config, || self.new_topic_id())
    }

    pub(super) fn create_topic_of(
        &self,
        name: &str,
        mut config: TopicConfig,
        id: impl FnMut() -> TopicId,
    ) -> Result<Arc<TopicState>> {
        if let Some((own, _)) = self.own_config(name) {
            config = own.partitions(config.partitions);
        }
        if name != OFFSETS_TOPIC {
            self.check_not_compacted(&config)?;
        }
        let mut catalog = self.lock_catalog_for(name)?;
        let mut with = (**catalog).clone();
        let id = with.create(id, name, config)?;
        check_codec(&config)?;
        self.context.before_change()?;
        let name: Arc<str> = name.into();
        // The directories first: a topic that the catalog names has its partitions.
        let named_first = probe::planted("log.named_before_made");
        if named_first {
            self.replace_catalog(&mut catalog, with.clone())?;
        }
        let partitions = self.make_partitions(id, &name, config, 0..config.partitions)?;
        if !named_first {
            self.replace_catalog(&mut catalog, with)?;
        }
        let state = Arc::new(TopicState {
            id,
            name: Arc::clone(&name),
            config: RwLock::new(config),
            partitions: RwLock::new(partitions),
            sticky: partitioner::Sticky::default(),
        });
        self.topics.write().insert(name, Arc::clone(&state));
        self.topics_version.fetch_add(1, Ordering::AcqRel);
        // It may ask for syncs sooner than the background work would look again.
        self.context.doorbell.ring();
        Ok(state)
    }

    pub(super) fn new_topic_id(&self) -> TopicId {
        let entropy = &self.context.entropy;
        let bits = u128::from(entropy.random()) << 64 | u128::from(entropy.random());
        // Kafka keeps the smallest ids for itself.
        TopicId::from_bytes((bits | 1 << 127).to_be_bytes())
    }

    /// A follower does not know yet where compaction has left gaps.
    pub(super) fn check_not_compacted(&self, config: &TopicConfig) -> Result<()> {
        if config.cleanup.compacts() {
            self.check_alone("a compacted topic of a log that is replicated")
        } else {
            Ok(())
        }
    }

    pub(super) fn alter_topic(&self, name: &str, config: TopicConfig) -> Result<()> {
        if name != OFFSETS_TOPIC {
            self.check_not_compacted(&config)?;
        }
        let mut catalog = self.lock_catalog()?;
        let mut with = (**catalog).clone();
        with.alter(name, config)?;
        let state = self.find(name)?;
        // One that it has already keeps nobody from altering the rest.
        if config.stored_as() != state.config.read().stored_as() {
            check_codec(&config)?;
        }
        let count = state.config.read().partitions;
        self.check_own_settings(name, count, &config)?;
        self.context.before_change()?;
        let count = state.partitions.read().len() as u32;
        let added = self.make_partitions(state.id, &state.name, config, count..config.partitions)?;
        if with.topics().iter().any(|topic| topic.id == state.id && topic.is_sparse) {
            // Of a topic that is known to have gaps, what is not said of a partition may be anywhere in it.
            let cores: Vec<_> = added.iter().filter_map(|slot| slot.core().ok()).collect();
            let none = Checkpoint { gaps: Some(Offset::ZERO), ..Checkpoint::default() };
            self.raise_checkpoints(cores.into_iter().map(|core| (core, none)))?;
        }
        let before = *state.config.read();
        let altered = self.sync_before_each(&state, &config).and_then(|()| self.replace_catalog(&mut catalog, with));
        altered.inspect_err(|_| state.cores().iter().for_each(|core| core.set_config(before)))?;
        *state.config.write() = config;
        state.partitions.write().extend(added);
        self.topics_version.fetch_add(1, Ordering::AcqRel);
        state.cores().iter().for_each(|core| core.set_config(config));
        self.context.doorbell.ring();
        Ok(())
    }

    /// A topic that is to be synced with each append is, from the first record on: of one that is replicated, a node answers
    /// after a power cut for all that was appended.
    pub(super) fn sync_before_each(&self, state: &TopicState, config: &TopicConfig) -> Result<()> {
        let before = *state.config.read();
        if !self.context.is_replicated || !is_each(config) || is_each(&before) {
            return Ok(());
        }
        // Of all that is to change only that.
        let synced = TopicConfig { flush_messages: config.flush_messages, flush_ms: config.flush_ms, ..before };
        for core in state.cores() {
            // What is appended meanwhile is synced already.
            core.set_config(synced);
            // What is cut off meanwhile needs no sync.
            while let Err(error) = core.sync_to(core.end()) {
                if !matches!(error, Error::Truncated { .. }) {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Refuses settings of a topic of the log's own that would lose what is in it. It has `count` partitions. Any other topic
    /// may have whatever is valid.
    pub(super) fn check_own_settings(&self, name: &str, count: u32, config: &TopicConfig) -> Result<()> {
        match self.own_config(name) {
            Some((required, words)) => own::check(&required.partitions(count), config, words),
            None => Ok(()),
        }
    }

    /// What a topic of the log's own is made like, and what is in it.
    pub(super) fn own_config(&self, name: &str) -> Option<(TopicConfig, &'static own::Words)> {
        match name {
            OFFSETS_TOPIC => Some((self.offsets_config, &own::OFFSETS)),
            TRANSACTIONS_TOPIC => Some((self.transactions_config, &own::TRANSACTIONS)),
            QUEUES_TOPIC => Some((self.queues_config, &own::QUEUES)),
            _ => None,
        }
    }
}

/// Whether nothing is acknowledged before it is synced.
fn is_each(config: &TopicConfig) -> bool {
    config.sync_rule() == Durability::Each
}
