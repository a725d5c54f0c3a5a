//! When two states are the same: by a digest of all that what follows depends on.
//!
//! Numbers that only rise would make each state new. Versions, and the numbers of the questions of a life in an epoch, are
//! compared with one another and nothing else: each goes by how many lower ones there are in the state. Of times the machines
//! say what matters. The order of what is on its way does not.

use std::hash::{Hash, Hasher};

use super::world::{Sent, World};
use crate::replica::{Answer, Command, Incarnation, Message};
use crate::types::LeaderEpoch;

type Question = (LeaderEpoch, Incarnation, u64);

impl World {
    /// The digest.
    pub(super) fn shape(&self) -> u128 {
        let names = Names::of(self);
        let mut digest = Digest::default();
        self.controller.nodes_shape(&mut digest);
        for role in &self.roles {
            (names.version(role.version), role.leader, role.leader_epoch).hash(&mut digest);
            (&role.in_sync, &role.eligible, role.unclean_epoch, role.min_in_sync).hash(&mut digest);
        }
        for node in &self.nodes {
            let question = &mut |epoch, life, number| names.question((epoch, life, number));
            node.shape(&mut |version| names.version(version), question, &mut digest);
        }
        let mut net: Vec<u128> = self.net.iter().map(|sent| names.sent(sent)).collect();
        net.sort_unstable();
        (net, &self.acked, self.spent).hash(&mut digest);
        digest.whole()
    }
}

/// What versions and numbers are called in a state.
struct Names {
    versions: Vec<u64>,
    questions: Vec<Question>,
}

impl Names {
    fn of(world: &World) -> Self {
        let mut versions: Vec<u64> = world.roles.iter().map(|role| role.version).collect();
        let mut questions = Vec::with_capacity(16);
        for node in &world.nodes {
            versions.extend(node.version.filter(|_| node.follower().is_none()));
            if let Some(follower) = node.follower() {
                questions.push((follower.assignment().leader_epoch, node.member().incarnation, follower.number()));
            }
            if node.leader().is_some() {
                let mut note = |version| {
                    versions.push(version);
                    version
                };
                let mut ask = |epoch, life, number| {
                    questions.push((epoch, life, number));
                    number
                };
                node.shape(&mut note, &mut ask, &mut Nothing);
            }
        }
        for sent in &world.net {
            match sent {
                Sent::Message { message: Message::Fetch(fetch), .. } => {
                    questions.push((fetch.leader_epoch, fetch.incarnation, fetch.number));
                }
                Sent::Message { message: Message::Fetched(fetched), .. } => {
                    questions.push((fetched.leader_epoch, fetched.incarnation, fetched.number));
                }
                Sent::Command { command: Command::InSync(change), .. } => versions.push(change.version),
                Sent::Command { .. } => {}
            }
        }
        versions.sort_unstable();
        versions.dedup();
        questions.sort_unstable();
        questions.dedup();
        Self { versions, questions }
    }

    fn version(&self, version: u64) -> u64 {
        self.versions.partition_point(|known| *known < version) as u64
    }

    fn question(&self, question @ (epoch, life, number): Question) -> u64 {
        let lower = |bound| self.questions.partition_point(|known| *known < bound);
        // No question has the number 0.
        if number == 0 { 0 } else { 1 + (lower(question) - lower((epoch, life, 1))) as u64 }
    }

    fn sent(&self, sent: &Sent) -> u128 {
        let mut digest = Digest::default();
        let into = &mut digest;
        match sent {
            Sent::Message { from, to, message: Message::Fetch(fetch) } => {
                let number = self.question((fetch.leader_epoch, fetch.incarnation, fetch.number));
                (0, from, to, fetch.leader_epoch, fetch.incarnation, number).hash(into);
                (fetch.next, fetch.last_epoch, fetch.held).hash(into);
            }
            Sent::Message { from, to, message: Message::Fetched(fetched) } => {
                let number = self.question((fetched.leader_epoch, fetched.incarnation, fetched.number));
                (1, from, to, fetched.leader_epoch, fetched.incarnation, number).hash(into);
                match &fetched.answer {
                    Answer::Batches { committed, batches, .. } => (0, committed, batches.as_slice()).hash(into),
                    Answer::Diverging(end) => (1, end.epoch, end.end).hash(into),
                    Answer::OutOfRange { start, end } => (2, start, end).hash(into),
                    Answer::Refused(refusal) => (3, refusal).hash(into),
                }
            }
            Sent::Command { from, command } => match command {
                Command::NodeUp { member, continues, lost } => {
                    (2, from, member, continues, std::mem::discriminant(lost)).hash(into);
                }
                Command::InSync(change) => {
                    let version = self.version(change.version);
                    (3, from, change.leader, change.leader_epoch, version, &change.in_sync).hash(into);
                }
                Command::Lost { member, leader_epoch, .. } => (4, from, member, leader_epoch).hash(into),
                other => (5, from, format!("{other:?}")).hash(into),
            },
        }
        digest.whole()
    }
}

/// 128 bits, so that no two states of any run have the same by chance.
struct Digest {
    low: u64,
    high: u64,
}

impl Default for Digest {
    fn default() -> Self {
        Self { low: 0x243F_6A88_85A3_08D3, high: 0x1319_8A2E_0370_7344 }
    }
}

impl Digest {
    fn word(&mut self, word: u64) {
        let fold = |at: u64, by: u64| {
            let product = u128::from(at) * u128::from(by);
            product as u64 ^ (product >> 64) as u64
        };
        self.low = fold(self.low ^ word, 0x9E37_79B9_7F4A_7C15);
        self.high = fold(self.high.rotate_left(23) ^ word, 0xD6E8_FEB8_6659_FD93);
    }

    fn whole(&self) -> u128 {
        u128::from(crate::sim::mix(self.high)) << 64 | u128::from(crate::sim::mix(self.low))
    }
}

impl Hasher for Digest {
    fn finish(&self) -> u64 {
        self.low
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.word(word.into());
    }

    fn write_u32(&mut self, word: u32) {
        self.word(word.into());
    }

    fn write_u64(&mut self, word: u64) {
        self.word(word);
    }

    fn write_u128(&mut self, word: u128) {
        self.word(word as u64);
        self.word((word >> 64) as u64);
    }

    fn write_usize(&mut self, word: usize) {
        self.word(word as u64);
    }
}

/// Takes anything and keeps nothing.
struct Nothing;

impl Hasher for Nothing {
    fn finish(&self) -> u64 {
        0
    }

    fn write(&mut self, _: &[u8]) {}
}
