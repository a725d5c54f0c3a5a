//! What must be true of each state, and what must come of it once nothing goes wrong any more.

use std::sync::Arc;

use super::world::{Broken, Sent, Step, World};
use super::{Bounds, NODES};

impl World {
    /// What must be true at any time. Two records at one offset, two leaders in an epoch, a log that its machine cannot go on
    /// with and a halt were found when they came about.
    pub(super) fn check(&self) -> Result<(), Broken> {
        self.check_nodes()?;
        let Some(known) = self.assignment() else { return Ok(()) };
        for member in known.in_sync.iter().chain(&known.eligible) {
            let node = self.node(member.node);
            if !node.is_suspect && !node.log.starts_with(&self.acked) {
                let detail = format!("{member} has {:?} of {:?}: {known:?}", node.log, self.acked);
                return Err(("who may lead without loss has all that is committed", detail));
            }
        }
        // It leads in the last epoch, whatever the controller has not heard of.
        let leads = |member| self.node(member).leader().is_some_and(|leader| leader.epoch() == known.leader_epoch);
        if let Some(leader) = known.leader.filter(|leader| leads(leader.node)) {
            let node = self.node(leader.node);
            if node.member() != leader || !node.log.starts_with(&self.acked) {
                let detail = format!("{leader} leads with {:?} of {:?}", node.log, self.acked);
                return Err(("a later leader has all that is committed", detail));
            }
        }
        Ok(())
    }

    fn check_nodes(&self) -> Result<(), Broken> {
        for (at, node) in self.nodes.iter().enumerate() {
            let committed = node.log.get(..node.committed);
            if committed.is_none_or(|committed| !self.acked.starts_with(committed)) {
                let detail = format!("node {} has {} of {:?}", at + 1, node.committed, node.log);
                return Err(("what can be read is committed", format!("{detail}, where {:?} is", self.acked)));
            }
            for other in &self.nodes[at + 1..] {
                let pairs = node.log.iter().zip(&other.log);
                let last = pairs.clone().rposition(|(a, b)| a.epoch == b.epoch);
                let common = last.map_or(0, |last| last + 1);
                if node.log[..common] != other.log[..common] {
                    let detail = format!("{:?} and {:?}", node.log, other.log);
                    return Err(("equal epochs at an offset, equal logs up to it", detail));
                }
                let epochs = [node.leader(), other.leader()].map(|leader| leader.map(|leader| leader.epoch()));
                if epochs[0].is_some() && epochs[0] == epochs[1] {
                    return Err(("one leader per epoch", format!("two in {:?}", epochs[0])));
                }
            }
        }
        Ok(())
    }

    /// Nothing goes wrong any more: all come to hold the same. Whether they did; if not, nobody may lead without a loss.
    pub(super) fn heal(mut self, bounds: &Bounds) -> Result<bool, Broken> {
        for round in 0..ROUNDS {
            for at in 0..NODES as u8 {
                self.attend(at, round % 4 == 3, bounds)?;
            }
            self.arrive(bounds)?;
            self.check()?;
            if self.is_quiet() {
                return Ok(true);
            }
        }
        match self.assignment() {
            Some(known) if known.leader.is_none() && known.in_sync.is_empty() && known.eligible.is_empty() => {
                Ok(false)
            }
            _ => Err(("all come to hold the same", self.describe())),
        }
    }

    /// A node lives, says so, hears of its role, and does what is due.
    fn attend(&mut self, at: u8, has_passed: bool, bounds: &Bounds) -> Result<(), Broken> {
        if !self.nodes[usize::from(at)].is_up {
            self.step(Step::Start(at), bounds)?;
        }
        let node = &self.nodes[usize::from(at)];
        if !node.is_registered() || !self.controller.is_live(node.member()) {
            self.step(Step::Register(at), bounds)?;
        }
        self.arrive(bounds)?;
        if let Some(last) = self.roles.len().checked_sub(1) {
            self.step(Step::Hear(at, last as u8), bounds)?;
        }
        self.step(if has_passed { Step::Pass(at) } else { Step::Tick(at) }, bounds)
    }

    /// All that is on its way arrives, and what comes of it, in order.
    fn arrive(&mut self, bounds: &Bounds) -> Result<(), Broken> {
        for _ in 0..ARRIVALS {
            if self.net.is_empty() {
                return Ok(());
            }
            self.step(Step::Deliver(0), bounds)?;
        }
        Err(("nodes that have nothing new are silent", self.describe()))
    }

    fn is_quiet(&self) -> bool {
        let Some(known) = self.assignment().filter(|known| known.leader.is_some()) else { return false };
        let first = &self.nodes[0];
        let is_same = |node: &Arc<_>| {
            let node: &super::node::Node = node;
            node.log == first.log && node.committed == first.log.len() && node.version == Some(known.version)
        };
        known.in_sync.len() == NODES && self.nodes.iter().all(is_same) && self.net.is_empty()
    }

    /// The state, in a few lines.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("{:?}\nacknowledged {:?}, {:?}\n", self.assignment(), self.acked, self.spent);
        for node in &self.nodes {
            text.push_str(&format!("{}\n", node.describe()));
        }
        for sent in &self.net {
            text.push_str(&match sent {
                Sent::Message { from, to, message } => format!("{from} to {to}: {message:?}\n"),
                Sent::Command { command, .. } => format!("{command:?}\n"),
            });
        }
        text
    }
}

/// Within so many rounds all is quiet.
const ROUNDS: usize = 40;
const ARRIVALS: usize = 500;
