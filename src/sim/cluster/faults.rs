//! What goes wrong, and how it is mended.

use std::time::Duration;

use super::{Cluster, Event};
use crate::replica::{Command, Member, PartitionId};
use crate::sim::{DiskOptions, Errno, Fault, SimDisk, Times};
use crate::types::NodeId;

/// How many kinds of faults there are.
pub const KINDS: usize = 14;

/// What each kind is, in the order of their numbers.
pub const NAMES: [&str; KINDS] = [
    "kill",
    "power cut",
    "pause",
    "one-way cut",
    "cut off",
    "full disk",
    "slow disk",
    "failed sync",
    "wipe",
    "old copy",
    "false alarm",
    "keep a copy",
    "orderly stop",
    "preferred leader",
];

/// Something to be mended.
#[derive(Debug, Clone)]
pub(super) enum Mend {
    Way(NodeId, NodeId),
    Space(NodeId),
}

impl Cluster {
    pub(super) fn fault(&mut self) {
        if self.is_mended {
            return;
        }
        let every = self.options.fault_every_ms;
        let next = self.chaos.between(1, every * 2);
        self.later(next, Event::Fault);
        let kind = self.chaos.weighted(&self.options.faults);
        if self.options.faults[kind] == 0 {
            return;
        }
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        let (node, other) = (*self.chaos.pick(&ids), *self.chaos.pick(&ids));
        let for_ms = self.chaos.between(10, 1_500);
        if self.strike(kind, node, other, for_ms) {
            if self.is_traced {
                eprintln!("       {} at node {node} for {for_ms} ms", NAMES[kind]);
            }
            self.report.faults[kind] += 1;
        }
    }

    fn strike(&mut self, kind: usize, node: NodeId, other: NodeId, for_ms: u64) -> bool {
        let seed = self.chaos.draw();
        let now = self.now();
        // What a group commits is not synced with each append.
        let is_synced = self.options.is_synced && !self.options.has_groups;
        let is_spared = self.is_last_copy(node);
        let Some(struck) = self.nodes.get_mut(&node) else { return false };
        let is_up = struck.log.is_some();
        match kind {
            // A node whose disk was full may not have got to write down that it was there, and writes it no more in this life:
            // then it is taken to have lost something.
            0 | 12 if is_spared && struck.was_full => return false,
            0 if is_up => self.kill(node, for_ms),
            // A power cut takes what was not synced.
            1 if is_up && (is_synced || !is_spared) => {
                let image = struck.disk.image().crash(seed);
                self.end(node, image, for_ms);
            }
            2 if is_up => struck.paused_until = now + for_ms,
            3 if node != other => {
                self.net.cut(node, other);
                self.later(for_ms, Event::Mend(Mend::Way(node, other)));
            }
            4 => {
                for peer in self.nodes.keys().copied().filter(|peer| *peer != node).collect::<Vec<_>>() {
                    for (from, to) in [(node, peer), (peer, node)] {
                        self.net.cut(from, to);
                        self.later(for_ms, Event::Mend(Mend::Way(from, to)));
                    }
                }
            }
            5 if is_up => {
                struck.disk.set_capacity(Some(0));
                struck.was_full = true;
                self.later(for_ms, Event::Mend(Mend::Space(node)));
            }
            6 if is_up => {
                let call = struck.disk.calls() + seed % 20;
                struck.disk.inject(call, Fault::Slow(Duration::from_millis(for_ms)), Times::Once);
            }
            7 if is_up && !is_spared => {
                let call = struck.disk.calls() + seed % 30;
                struck.disk.inject(call, Fault::Error(Errno::Io), Times::Once);
                (struck.is_armed, struck.has_failed) = (true, true);
            }
            8 if !is_spared => {
                let image = SimDisk::new(DiskOptions { blind: true, ..DiskOptions::default() }).image();
                self.end(node, image, for_ms);
            }
            9 if !is_spared && struck.old.is_some() => {
                let image =
                    struck.old.as_ref().map(|old| old.copy().crash(seed)).unwrap_or_else(|| struck.disk.image());
                self.end(node, image, for_ms);
            }
            10 if !is_spared => {
                if let Some(member) = struck.member {
                    self.apply(&Command::NodeDown { member });
                }
            }
            12 if is_up => {
                let closed = struck.log.as_ref().is_some_and(|log| log.clone().close().is_ok());
                let image = struck.disk.image();
                // One that could not be closed was killed; of the other the machine is restarted.
                let image = if closed && seed.is_multiple_of(2) { image.crash(seed) } else { image };
                self.end(node, image, for_ms);
            }
            13 => self.options.ids().iter().for_each(|id| self.apply(&Command::ElectPreferred { id: *id })),
            11 => struck.old = Some(struck.disk.image()),
            _ => return false,
        }
        true
    }

    /// Whether there is no other whole copy of what is committed, so that this one must not be harmed.
    fn is_last_copy(&self, node: NodeId) -> bool {
        self.options.ids().iter().any(|id| self.is_last_copy_of(*id, node))
    }

    fn is_last_copy_of(&self, id: PartitionId, node: NodeId) -> bool {
        let Some(known) = self.controller.assignment(id) else { return true };
        // What is committed by the minimum of one is where the leader is, and nowhere else.
        if self.options.min_in_sync < 2 {
            return true;
        }
        let mut others = known.in_sync.iter().filter(|member| member.node != node).peekable();
        // All that are in sync are: up, in the life that is, not in trouble, nor about to leave by what a leader said.
        let is_whole = |member: &Member| {
            let is_leaving = self.events.values().any(|event| match event {
                Event::Command(Command::InSync(change)) => change.id == id && !change.in_sync.contains(member),
                _ => false,
            });
            let other = self.nodes.get(&member.node);
            other.is_some_and(|other| other.member == Some(*member) && !other.is_broken) && !is_leaving
        };
        others.peek().is_none() || !others.all(is_whole)
    }

    /// A fault that waits for its call does not strike the last whole copy.
    pub(super) fn disarm(&mut self) {
        let armed: Vec<NodeId> = self.nodes.values().filter(|node| node.is_armed).map(|node| node.id).collect();
        for id in armed {
            let is_last = self.is_last_copy(id);
            if let Some(node) = self.nodes.get_mut(&id).filter(|_| is_last) {
                node.disk.heal();
                node.is_armed = false;
            }
        }
    }

    pub(super) fn kill(&mut self, node: NodeId, for_ms: u64) {
        let Some(struck) = self.nodes.get_mut(&node) else { return };
        let member = struck.member;
        struck.die_alone();
        self.bury(node, member, for_ms);
    }

    fn end(&mut self, node: NodeId, image: crate::sim::Image, for_ms: u64) {
        let Some(struck) = self.nodes.get_mut(&node) else { return };
        let member = struck.member;
        struck.die(image);
        self.bury(node, member, for_ms);
    }

    /// Has it noticed that a node is gone, and started again.
    fn bury(&mut self, node: NodeId, member: Option<Member>, for_ms: u64) {
        if let Some(member) = member {
            self.later(for_ms / 2 + 1, Event::Detect(member));
        }
        self.later(for_ms, Event::Start(node));
    }

    /// A node whose disk failed is started again, as an operator would.
    pub(super) fn look_after(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(&id) else { return };
        let partitions = [&node.partition, &node.groups];
        if !partitions.into_iter().flatten().any(|partition| partition.core.is_poisoned()) {
            return;
        }
        // Said before it goes: it may have less than it acknowledged.
        let image = node.disk.image().crash(self.chaos.draw());
        self.end(id, image, 20);
    }

    pub(super) fn mend_one(&mut self, mend: &Mend) {
        match mend {
            Mend::Way(from, to) => self.net.mend(*from, *to),
            Mend::Space(node) => {
                if let Some(node) = self.nodes.get_mut(node) {
                    node.disk.set_capacity(None);
                }
            }
        }
    }

    /// Mends all, for good.
    pub(super) fn mend(&mut self) {
        self.is_mended = true;
        self.net.mend_all();
        for node in self.nodes.values_mut() {
            node.disk.set_capacity(None);
            node.disk.heal();
            node.paused_until = 0;
        }
    }
}
