//! The topics that a producer has sent to, found without a lock: what each record passes is read by all threads and written by
//! none.
//!
//! ```text
//! buckets   |  |--|  |  |--|     by a hash of the name
//!              |        entry -> entry     never taken out; one that is stale is passed over
//! ```
//!
//! A topic that was deleted, or has more partitions now, is stale: another entry takes its place, with the lanes that stay. What
//! it leaves for as long as the producer lives is the entry and its lanes, about half a KiB a partition, and no file.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::lane::Lane;
use super::shared::Common;
use crate::error::{Error, Result};
use crate::log::{Log, TopicState, Turns};
use crate::observe::Quiet;
use crate::types::{TopicId, TopicPartition};

/// More than most have topics; 4 KiB.
const BUCKETS: usize = 256;

pub(super) struct Topics {
    buckets: Box<[OnceLock<Box<Entry>>]>,
    /// Held by who adds an entry.
    adding: Mutex<()>,
    /// All that may have something to do.
    lanes: Mutex<Vec<Arc<Lane>>>,
}

impl fmt::Debug for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topics").finish_non_exhaustive()
    }
}

struct Entry {
    hash: u64,
    topic: TopicLanes,
    next: OnceLock<Box<Entry>>,
}

/// A topic, as a producer sees it.
pub(super) struct TopicLanes {
    pub(super) id: TopicId,
    pub(super) turns: Arc<Turns>,
    /// One for each partition; at least one.
    pub(super) lanes: Box<[Arc<Lane>]>,
    name: Arc<str>,
    /// Weak: a topic that is deleted holds files.
    state: Weak<TopicState>,
    is_stale: AtomicBool,
}

impl Topics {
    pub(super) fn new() -> Self {
        let buckets = (0..BUCKETS).map(|_| OnceLock::new()).collect();
        Self { buckets, adding: Mutex::new(()), lanes: Mutex::default() }
    }

    /// The topic of this name, if it is known.
    #[inline]
    pub(super) fn find(&self, name: &str) -> Option<&TopicLanes> {
        let hash = hash(name);
        let mut at = self.bucket(hash).get();
        while let Some(entry) = at {
            if entry.hash == hash && *entry.topic.name == *name && !entry.topic.is_stale.load(Ordering::Relaxed) {
                return Some(&entry.topic);
            }
            at = entry.next.get();
        }
        None
    }

    /// The topic of this name, which is created if there is none.
    pub(super) fn find_or_add(&self, name: &str, log: &Log, common: &Arc<Common>) -> Result<&TopicLanes> {
        if let Some(found) = self.find(name) {
            return Ok(found);
        }
        let _adding = Quiet::lock(&self.adding);
        if let Some(found) = self.find(name) {
            return Ok(found);
        }
        let state = log.topic_state(name)?;
        let hash = hash(name);
        let (mut before, mut slot) = (None, self.bucket(hash));
        while let Some(entry) = slot.get() {
            if entry.hash == hash && *entry.topic.name == *name {
                before = Some(&entry.topic);
            }
            slot = &entry.next;
        }
        let topic = self.lanes_of(&state, before, common);
        Ok(&slot.get_or_init(|| Box::new(Entry { hash, topic, next: OnceLock::new() })).topic)
    }

    /// Makes the lanes of a topic, but for those that it had.
    fn lanes_of(&self, state: &Arc<TopicState>, before: Option<&TopicLanes>, common: &Arc<Common>) -> TopicLanes {
        let before = before.filter(|before| before.id == state.id);
        let turns = before.map_or_else(|| Arc::new(Turns::new()), |before| Arc::clone(&before.turns));
        let had = before.map_or(&[][..], |before| &*before.lanes);
        let partitions = state.partitions.read();
        let added: Vec<_> = (0..)
            .zip(&*partitions)
            .skip(had.len())
            .map(|(number, slot)| {
                let id = TopicPartition::new(Arc::clone(&state.name), number);
                Lane::new(id, slot.core().ok(), &turns, common)
            })
            .collect();
        drop(partitions);
        let mut all = self.lanes.lock();
        // Those of topics that are gone have nothing left to do.
        all.retain(|lane| !lane.is_over());
        all.extend(added.iter().cloned());
        drop(all);
        TopicLanes {
            id: state.id,
            turns,
            lanes: had.iter().cloned().chain(added).collect(),
            name: Arc::clone(&state.name),
            state: Arc::downgrade(state),
            is_stale: AtomicBool::new(false),
        }
    }

    /// All lanes.
    pub(super) fn lanes(&self) -> Vec<Arc<Lane>> {
        self.lanes.lock().clone()
    }

    /// The lanes with something to do at `now`, and when others will have.
    pub(super) fn due(&self, now: Duration) -> (Vec<Arc<Lane>>, Option<Duration>) {
        let (mut due, mut next) = (Vec::new(), Duration::MAX);
        for lane in &*self.lanes.lock() {
            match lane.due() {
                Some(at) if at <= now => due.push(Arc::clone(lane)),
                Some(at) => next = next.min(at),
                None => {}
            }
        }
        (due, Some(next).filter(|next| *next < Duration::MAX))
    }

    fn bucket(&self, hash: u64) -> &OnceLock<Box<Entry>> {
        &self.buckets[(hash >> 32) as usize % BUCKETS]
    }
}

impl TopicLanes {
    pub(super) fn lane(&self, partition: u32) -> Result<&Arc<Lane>> {
        self.lanes.get(partition as usize).ok_or_else(|| Error::PartitionNotFound {
            topic: (*self.name).into(),
            partition,
            count: self.lanes.len() as u32,
        })
    }

    /// What is wrong with a partition that has no lane to go on with.
    pub(super) fn error_of(&self, partition: u32) -> Error {
        let deleted = || Error::TopicDeleted { topic: (*self.name).into() };
        let found = self.state.upgrade().map(|state| state.core(partition));
        found.and_then(Result::err).unwrap_or_else(deleted)
    }

    /// Lets another entry take the place of this one if the topic has more partitions now, or is gone. Returns whether it does.
    pub(super) fn refresh(&self) -> bool {
        let is_stale = self.state.upgrade().is_none_or(|state| state.partitions.read().len() != self.lanes.len());
        if is_stale {
            self.replace();
        }
        is_stale
    }

    /// Lets another entry take the place of this one.
    pub(super) fn replace(&self) {
        self.is_stale.store(true, Ordering::Relaxed);
    }
}

/// Of the first and the last eight bytes, and the length: names of one length that differ only in between share a bucket.
#[inline]
fn hash(name: &str) -> u64 {
    let bytes = name.as_bytes();
    let (first, last) = match (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
        _ => (bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)), 0),
    };
    let mixed = (first ^ last.rotate_left(29) ^ bytes.len() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^ mixed >> 29
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_numbered_topics_spread() {
        let names = (0..1_000).map(|number| format!("topic-{number:04}"));
        let buckets: std::collections::BTreeSet<_> =
            names.map(|name| (hash(&name) >> 32) as usize % BUCKETS).collect();
        assert!(buckets.len() > 200, "{}", buckets.len());
        assert_ne!(hash(""), hash("\0"));
    }
}
