//! The rules for one partition: who is in sync, who may be again, who leads, and when it has moved.
//!
//! A command changes it by one of the first functions; then [`settle`](Partition::settle) draws all conclusions.

use super::nodes::Nodes;
use super::{Reassignment, Refused};
use crate::probe;
use crate::replica::{Assignment, InSyncChange, Member, PartitionId};
use crate::types::{LeaderEpoch, NodeId};

/// A partition: what all nodes are told of it, and what only the controller has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) assignment: Assignment,
    /// How many in-sync replicas it was to need; it needs no more than it has replicas.
    pub(super) wanted_in_sync: u32,
    pub(super) reassignment: Option<Reassignment>,
}

/// What becomes of what replicas told their leader before this command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reports {
    /// It is still so.
    Hold,
    /// It may not be so any more.
    Void,
}

impl Partition {
    pub(super) fn new(
        id: PartitionId,
        replicas: &[NodeId],
        wanted_in_sync: u32,
        nodes: &Nodes,
    ) -> Result<Self, Refused> {
        check_replicas(id, replicas)?;
        check_minimum(id, wanted_in_sync)?;
        let mut in_sync: Vec<Member> = replicas.iter().filter_map(|node| nodes.live(*node)).collect();
        let leader = Some(*in_sync.first().ok_or(Refused::NoneLive { id })?);
        in_sync.sort_unstable();
        let assignment = Assignment {
            id,
            version: 0,
            replicas: replicas.to_vec(),
            leader,
            leader_epoch: LeaderEpoch(0),
            in_sync,
            eligible: Vec::new(),
            min_in_sync: wanted_in_sync.min(replicas.len() as u32),
            unclean_epoch: None,
        };
        Ok(Self { assignment, wanted_in_sync, reassignment: None })
    }

    pub(super) fn is_replica(&self, node: NodeId) -> bool {
        self.assignment.replicas.contains(&node)
    }

    /// A node begins another life with all that it had.
    pub(super) fn renew(&mut self, member: Member) {
        let known = self.assignment.in_sync.iter_mut().chain(&mut self.assignment.eligible);
        known.filter(|known| known.node == member.node).for_each(|known| *known = member);
    }

    /// A node does not have what it had.
    pub(super) fn lose(&mut self, node: NodeId) {
        self.assignment.in_sync.retain(|member| member.node != node);
        self.assignment.eligible.retain(|member| member.node != node);
    }

    /// A node has what it had, and gets no more. The last one stays in sync: if nobody else comes back, it can lead
    /// again.
    pub(super) fn fall_behind(&mut self, member: Member) {
        let in_sync = &mut self.assignment.in_sync;
        if in_sync.len() > 1 && in_sync.contains(&member) {
            in_sync.retain(|known| *known != member);
            self.assignment.eligible.push(member);
        }
    }

    /// The leader wants others to be in sync.
    pub(super) fn change_in_sync(&mut self, change: &InSyncChange, nodes: &Nodes) -> Result<(), Refused> {
        self.check_change(change)?;
        // Who may not join is left out, and the change is answered all the same: until it is, the leader waits for him.
        let may_join = |member: &&Member| self.check_live(member.node, nodes) == Ok(**member);
        let in_sync = change.in_sync.iter().filter(may_join).copied().collect();
        let before = std::mem::replace(&mut self.assignment.in_sync, in_sync);
        self.assignment.in_sync.sort_unstable();
        self.assignment.eligible.extend(before);
        // Even if the set is the same: what else was asked for in this version is out of date then.
        self.raise_version()
    }

    fn check_change(&self, change: &InSyncChange) -> Result<(), Refused> {
        let Assignment { id, version: current, leader, leader_epoch, .. } = self.assignment;
        let InSyncChange { leader: member, leader_epoch: epoch, version, .. } = *change;
        if leader != Some(member) {
            return Err(Refused::NotLeader { id, member, leader });
        }
        if epoch != leader_epoch {
            return Err(Refused::StaleEpoch { id, epoch, current: leader_epoch });
        }
        if version != current && !probe::planted("controller.any_version") {
            return Err(Refused::StaleVersion { id, version, current });
        }
        let named: Vec<NodeId> = change.in_sync.iter().map(|member| member.node).collect();
        check_distinct(id, &named)?;
        if change.in_sync.contains(&member) { Ok(()) } else { Err(Refused::LeaderLeftOut { id, leader: member }) }
    }

    /// The node in its life, if it is a replica that lives.
    fn check_live(&self, node: NodeId, nodes: &Nodes) -> Result<Member, Refused> {
        let id = self.assignment.id;
        if !self.is_replica(node) {
            return Err(Refused::NotReplica { id, node });
        }
        nodes.live(node).ok_or(Refused::NotLive { id, node })
    }

    pub(super) fn set_minimum(&mut self, wanted_in_sync: u32) -> Result<(), Refused> {
        check_minimum(self.assignment.id, wanted_in_sync)?;
        self.wanted_in_sync = wanted_in_sync;
        Ok(())
    }

    /// Nodes are to hold it beside those that do.
    pub(super) fn reassign(&mut self, target: &[NodeId]) -> Result<(), Refused> {
        check_replicas(self.assignment.id, target)?;
        let was_added =
            |node: &NodeId| self.reassignment.as_ref().is_some_and(|running| running.adding.contains(node));
        let has_all = |node: NodeId| self.has_all().any(|member| member.node == node);
        let replicas = &self.assignment.replicas;
        let originals: Vec<NodeId> = replicas.iter().filter(|node| !was_added(node)).copied().collect();
        // A copy that may be needed stays until there are enough others, whoever asked for it.
        let stays = |node: &&NodeId| !target.contains(node) && (originals.contains(node) || has_all(**node));
        let removing: Vec<NodeId> = replicas.iter().filter(stays).copied().collect();
        let adding: Vec<NodeId> = target.iter().filter(|node| !originals.contains(node)).copied().collect();
        let union = [target, &removing].concat();
        check_replicas(self.assignment.id, &union)?;
        self.assignment.replicas = union;
        let is_done = adding.is_empty() && removing.is_empty();
        self.reassignment = (!is_done).then(|| Reassignment { target: target.to_vec(), adding, removing });
        Ok(())
    }

    /// The first replica is to lead.
    pub(super) fn elect_preferred(&mut self, nodes: &Nodes) -> Result<(), Refused> {
        let id = self.assignment.id;
        let node = *self.assignment.replicas.first().ok_or(Refused::NoReplicas { id })?;
        let preferred = nodes.live(node).filter(|member| self.assignment.is_in_sync(*member));
        self.assignment.leader = Some(preferred.ok_or(Refused::PreferredNotInSync { id, node })?);
        Ok(())
    }

    /// A replica is to lead of which nobody knows what it has.
    pub(super) fn elect_unclean(&mut self, node: NodeId, nodes: &Nodes) -> Result<(), Refused> {
        let member = self.check_live(node, nodes)?;
        if let Some(leader) = self.assignment.leader {
            return Err(Refused::HasLeader { id: self.assignment.id, leader });
        }
        self.assignment.leader = Some(member);
        self.assignment.in_sync = vec![member];
        self.assignment.eligible.clear();
        self.assignment.unclean_epoch = Some(self.next_epoch()?);
        Ok(())
    }

    /// Draws the conclusions from what a command changed since `before`: moves, elects, counts.
    ///
    /// # Errors
    ///
    /// [`Refused::Exhausted`].
    pub(super) fn settle(&mut self, before: &Assignment, nodes: &Nodes, reports: Reports) -> Result<(), Refused> {
        self.elect(nodes);
        if self.finish_reassignment() {
            self.elect(nodes);
        }
        self.assignment.min_in_sync = self.wanted_in_sync.min(self.assignment.replicas.len() as u32);
        self.review_eligible();
        let has_removed = before.replicas.iter().any(|node| !self.is_replica(*node));
        let is_void = reports == Reports::Void || has_removed;
        let is_other = self.assignment.leader != before.leader && !probe::planted("controller.epoch_kept");
        if is_other || is_void && self.assignment.leader.is_some() {
            self.assignment.leader_epoch = self.next_epoch()?;
        }
        if self.assignment.version == before.version && self.assignment != *before {
            self.raise_version()?;
        }
        Ok(())
    }

    /// Sees to it that whoever can lead without loss does: who leads already, else the first replica that is in sync,
    /// else the first that is eligible.
    fn elect(&mut self, nodes: &Nodes) {
        let can_lead = |member: &Member| nodes.is_live(*member);
        let first = |among: &[Member]| {
            let among = among.iter().filter(|member| can_lead(member));
            among.min_by_key(|member| self.assignment.replicas.iter().position(|node| *node == member.node)).copied()
        };
        let leader = self.assignment.leader.filter(|member| can_lead(member) && self.assignment.is_in_sync(*member));
        let in_sync = leader.or_else(|| first(&self.assignment.in_sync));
        let eligible = first(&self.assignment.eligible);
        self.assignment.leader = in_sync.or(eligible);
        if let (None, Some(member)) = (in_sync, eligible) {
            let before = std::mem::replace(&mut self.assignment.in_sync, vec![member]);
            self.assignment.eligible.extend(before);
        }
    }

    /// Lets the nodes go that are to, if all that are to stay are in sync, and live.
    fn finish_reassignment(&mut self) -> bool {
        let is_in_sync = |node: &NodeId| self.assignment.in_sync.iter().any(|member| member.node == *node);
        // Without a leader the one that is in sync does not live: who is to go may be needed yet.
        let has_leader = self.assignment.leader.is_some();
        let is_complete = |running: &mut Reassignment| has_leader && running.target.iter().all(is_in_sync);
        let Some(done) = self.reassignment.take_if(is_complete) else { return false };
        let stays = |member: &Member| done.target.contains(&member.node);
        self.assignment.in_sync.retain(stays);
        self.assignment.eligible.retain(stays);
        self.assignment.replicas = done.target;
        true
    }

    /// Whoever left has everything committed only as long as nothing can be, which is below the minimum.
    fn review_eligible(&mut self) {
        if self.assignment.has_enough() {
            self.assignment.eligible.clear();
        }
        self.assignment.eligible.retain(|member| !self.assignment.in_sync.contains(member));
        self.assignment.eligible.sort_unstable();
        self.assignment.eligible.dedup();
    }

    /// All of whom it is known that they have everything committed.
    fn has_all(&self) -> impl Iterator<Item = Member> {
        self.assignment.in_sync.iter().chain(&self.assignment.eligible).copied()
    }

    fn next_epoch(&self) -> Result<LeaderEpoch, Refused> {
        self.assignment.leader_epoch.0.checked_add(1).map(LeaderEpoch).ok_or_else(|| self.exhausted())
    }

    fn raise_version(&mut self) -> Result<(), Refused> {
        self.assignment.version = self.assignment.version.checked_add(1).ok_or_else(|| self.exhausted())?;
        Ok(())
    }

    fn exhausted(&self) -> Refused {
        let Assignment { id, leader_epoch: epoch, version, .. } = self.assignment;
        Refused::Exhausted { id, epoch, version }
    }

    /// Says which invariant does not hold, if one does not. What was decoded is checked by it.
    pub(super) fn check(&self, nodes: &Nodes) -> Result<(), &'static str> {
        let Assignment { id, ref replicas, leader, ref in_sync, min_in_sync, .. } = self.assignment;
        let is_known = |member: Member| self.is_replica(member.node) && nodes.last(member.node) == Some(member);
        let is_sorted = |members: &[Member]| members.is_sorted_by(|a, b| a.node < b.node);
        let (epoch, unclean) = (self.assignment.leader_epoch, self.assignment.unclean_epoch);
        let holds = [
            (check_replicas(id, replicas).is_ok(), "no replicas, or one twice"),
            (self.has_all().all(is_known), "in sync or eligible in no life of a replica"),
            (is_sorted(in_sync) && is_sorted(&self.assignment.eligible), "members out of order"),
            (!self.assignment.eligible.iter().any(|member| in_sync.contains(member)), "both in sync and eligible"),
            (self.wanted_in_sync > 0, "minimum of 0"),
            (min_in_sync == self.wanted_in_sync.min(replicas.len() as u32), "other minimum than wanted"),
            (self.assignment.eligible.is_empty() || !self.assignment.has_enough(), "eligible beside enough in sync"),
            (leader.is_none_or(|leader| in_sync.contains(&leader)), "leader out of sync"),
            (leader.is_none() || in_sync.iter().all(|member| nodes.is_live(*member)), "in sync and not alive"),
            (leader.is_some() || in_sync.len() < 2, "two in sync, and none leads"),
            (leader.is_some() || !self.has_all().any(|member| nodes.is_live(member)), "one can lead, and does not"),
            (
                epoch.0 >= 0 && unclean.is_none_or(|unclean| (1..=epoch.0).contains(&unclean.0)),
                "epoch of no election",
            ),
            (self.is_moving_well(), "reassignment of other nodes, or complete"),
        ];
        holds.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, what)| Err(what))
    }

    fn is_moving_well(&self) -> bool {
        let Some(Reassignment { target, adding, removing }) = &self.reassignment else { return true };
        let in_sync = &self.assignment.in_sync;
        let is_complete = target.iter().all(|node| in_sync.iter().any(|member| member.node == *node));
        let is_part_of_target = target.iter().filter(|node| adding.contains(node)).eq(adding);
        let is_any = !adding.is_empty() || !removing.is_empty();
        is_any
            && !target.is_empty()
            && is_part_of_target
            && [&target[..], removing].concat() == self.assignment.replicas
            && !(is_complete && self.assignment.leader.is_some())
    }
}

fn check_replicas(id: PartitionId, replicas: &[NodeId]) -> Result<(), Refused> {
    match replicas.len() {
        0 => Err(Refused::NoReplicas { id }),
        count if count > MAX_REPLICAS => Err(Refused::TooManyReplicas { id, count, limit: MAX_REPLICAS }),
        _ => check_distinct(id, replicas),
    }
}

fn check_distinct(id: PartitionId, nodes: &[NodeId]) -> Result<(), Refused> {
    let mut sorted = nodes.to_vec();
    sorted.sort_unstable();
    let twice = sorted.windows(2).find(|pair| pair[0] == pair[1]);
    twice.map_or(Ok(()), |pair| Err(Refused::Duplicate { id, node: pair[0] }))
}

fn check_minimum(id: PartitionId, min_in_sync: u32) -> Result<(), Refused> {
    if min_in_sync == 0 { Err(Refused::ZeroMinimum { id }) } else { Ok(()) }
}

/// Of one partition, those that come and those that go included.
const MAX_REPLICAS: usize = 255;
