//! The network: which way is cut, what is lost, how long it takes.

use std::collections::BTreeSet;

use crate::replica::Message;
use crate::sim::Rng;
use crate::types::NodeId;

#[derive(Debug)]
pub(super) struct Net {
    rng: Rng,
    cuts: BTreeSet<(NodeId, NodeId)>,
}

impl Net {
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: Rng::stream(seed, "network"), cuts: BTreeSet::new() }
    }

    pub(super) fn delay(&mut self, longest_ms: u64) -> u64 {
        // Most are quick, some are late, and few come when they are forgotten.
        if self.rng.chance(1, 100) {
            return self.rng.between(1, 4_000);
        }
        if self.rng.chance(1, 20) { self.rng.between(1, longest_ms * 10) } else { self.rng.between(0, longest_ms) }
    }

    /// Whether chance takes one, of which it takes so many of 1,000.
    pub(super) fn is_lost(&mut self, of_1000: u64) -> bool {
        self.rng.chance(of_1000, 1_000)
    }

    pub(super) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cuts.contains(&(from, to))
    }

    pub(super) fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cuts.insert((from, to));
    }

    pub(super) fn mend(&mut self, from: NodeId, to: NodeId) {
        self.cuts.remove(&(from, to));
    }

    pub(super) fn mend_all(&mut self) {
        self.cuts.clear();
    }
}

/// The message as it arrives: in bytes, which hold nothing of the node that sent it.
pub(super) fn carried(message: &Message) -> Option<Message> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    Message::decode(&bytes).ok().filter(|arrived| arrived == message)
}
