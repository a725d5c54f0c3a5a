//! Which nodes there are, which life each lives, and whether it does.

use std::collections::BTreeMap;

use super::Refused;
use crate::replica::{Incarnation, Member};
use crate::types::NodeId;

/// All nodes that were ever up.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Nodes(BTreeMap<NodeId, Node>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Node {
    /// The last one that is known.
    pub(super) life: Incarnation,
    pub(super) is_live: bool,
    /// Lives that are over, the latest last, at most [`MAX_FORMER`] of them: a command from one of them is late.
    pub(super) former: Vec<Incarnation>,
}

/// What is known of a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// It is the node's last one.
    Current,
    /// It is over.
    Former(Incarnation),
    /// Nothing, or no more. The node's last one is this.
    Unknown(Option<Incarnation>),
}

impl Nodes {
    /// A life begins, or goes on.
    ///
    /// # Errors
    ///
    /// [`Refused::FormerLife`].
    pub(super) fn up(&mut self, member: Member, continues: &[Incarnation]) -> Result<(), Refused> {
        if let Life::Former(known) = self.life(member) {
            return Err(Refused::FormerLife { member, known });
        }
        let Member { node, incarnation } = member;
        let fresh = || Node { life: incarnation, is_live: true, former: Vec::new() };
        let known = self.0.entry(node).or_insert_with(fresh);
        let before = std::mem::replace(&mut known.life, incarnation);
        known.is_live = true;
        let latest = &continues[continues.len().saturating_sub(MAX_FORMER)..];
        for life in latest.iter().copied().chain([before]).filter(|life| *life != incarnation) {
            if !known.former.contains(&life) {
                known.former.push(life);
            }
        }
        let excess = known.former.len().saturating_sub(MAX_FORMER);
        known.former.drain(..excess);
        Ok(())
    }

    /// A life is over; `false` if it is not the node's last one.
    pub(super) fn down(&mut self, member: Member) -> bool {
        match self.0.get_mut(&member.node) {
            Some(node) if node.life == member.incarnation => {
                node.is_live = false;
                true
            }
            _ => false,
        }
    }

    /// The node in its last life, if it lives.
    pub(super) fn live(&self, node: NodeId) -> Option<Member> {
        self.last(node).filter(|member| self.is_live(*member))
    }

    /// The node in its last life.
    pub(super) fn last(&self, node: NodeId) -> Option<Member> {
        self.0.get(&node).map(|known| Member { node, incarnation: known.life })
    }

    pub(super) fn is_live(&self, member: Member) -> bool {
        self.0.get(&member.node).is_some_and(|node| node.is_live && node.life == member.incarnation)
    }

    pub(super) fn life(&self, member: Member) -> Life {
        match self.0.get(&member.node) {
            Some(node) if node.life == member.incarnation => Life::Current,
            Some(node) if node.former.contains(&member.incarnation) => Life::Former(node.life),
            node => Life::Unknown(node.map(|node| node.life)),
        }
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (NodeId, &Node)> {
        self.0.iter().map(|(id, node)| (*id, node))
    }

    /// A node as it was stored; `false` if one of its id is there, or of a later one.
    pub(super) fn push(&mut self, id: NodeId, node: Node) -> bool {
        let is_next = self.0.last_key_value().is_none_or(|(last, _)| *last < id);
        self.0.insert(id, node);
        is_next
    }
}

impl Node {
    /// Says what cannot be, if it is.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let is_twice = |(at, life): (usize, &Incarnation)| self.former[..at].contains(life);
        match self {
            _ if self.former.len() > MAX_FORMER => Err("too many former lives"),
            _ if self.former.contains(&self.life) => Err("the life of a node is over"),
            _ if self.former.iter().enumerate().any(is_twice) => Err("former life of a node twice"),
            _ => Ok(()),
        }
    }
}

/// How many of the lives of a node are remembered when they are over.
const MAX_FORMER: usize = 64;
