//! A node that holds the partition, in its simplest form.

use std::collections::BTreeMap;

use super::common_len;
use crate::replica::{Assignment, InSyncChange, Incarnation, Member};
use crate::types::{LeaderEpoch, NodeId};

/// A record, of which no other has the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    epoch: LeaderEpoch,
    value: u32,
}

/// A follower says that it holds so many records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) to: NodeId,
    from: Member,
    epoch: LeaderEpoch,
    number: u64,
    held: usize,
}

/// What is on a node's disk.
#[derive(Debug, Clone, Default)]
struct Saved {
    log: Vec<Entry>,
    /// Lives of which it has all, the one that goes on not included.
    lives: Vec<Incarnation>,
    view: Option<Assignment>,
    has_lost: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    id: NodeId,
    life: Incarnation,
    /// Those that its disk knows of, this one included.
    lives: Vec<Incarnation>,
    next_life: u64,
    pub(super) is_running: bool,
    pub(super) log: Vec<Entry>,
    /// So many of them survive a crash.
    pub(super) held: usize,
    /// What it has heard of last.
    pub(super) view: Option<Assignment>,
    /// As a leader: how many records there were when its epoch began, and are committed as it knows.
    epoch_start: usize,
    committed: usize,
    /// The number of the last report of each, and what that said.
    progress: BTreeMap<Member, (u64, usize)>,
    /// What it asked for in the version that it knows: each may come about.
    pub(super) pending: Vec<InSyncChange>,
    /// The number of its last report.
    number: u64,
    /// The epoch of the leader whose log its own is the beginning of: it has compared them.
    compared: Option<LeaderEpoch>,
    /// It has less than it reported, and does not know yet that the controller has heard so.
    pub(super) has_lost: bool,
    /// The controller has.
    is_heard: bool,
    /// The version by which it had, if it was told at the beginning of a life.
    heard_at: Option<u64>,
    /// The last epoch in which it said so in this life.
    lost_in: Option<LeaderEpoch>,
    /// It has less than it reported and does not know it, because its disk is another one.
    is_other: bool,
    saved: Saved,
}

impl Node {
    pub(super) fn new(id: usize) -> Self {
        let id = NodeId(id as u32);
        let life = Incarnation(u64::from(id.0) * 1_000);
        Self {
            id,
            life,
            lives: vec![life],
            next_life: life.0 + 1,
            is_running: true,
            log: Vec::new(),
            held: 0,
            view: None,
            epoch_start: 0,
            committed: 0,
            progress: BTreeMap::new(),
            pending: Vec::new(),
            number: 0,
            compared: None,
            has_lost: false,
            is_heard: false,
            heard_at: None,
            lost_in: None,
            is_other: false,
            saved: Saved::default(),
        }
    }

    pub(super) fn member(&self) -> Member {
        Member { node: self.id, incarnation: self.life }
    }

    pub(super) fn continues(&self) -> Vec<Incarnation> {
        self.lives.iter().filter(|life| **life != self.life).copied().collect()
    }

    /// Whether it lost something of which the controller has not heard.
    pub(super) fn is_suspect(&self) -> bool {
        self.is_other || self.has_lost && !self.is_heard
    }

    /// Whether it acts as the leader.
    pub(super) fn leads(&self) -> bool {
        let is_elected = self.view.as_ref().is_some_and(|view| view.leader == Some(self.member()));
        is_elected && self.is_running && !self.has_lost
    }

    pub(super) fn leads_in(&self, epoch: LeaderEpoch) -> bool {
        self.leads() && self.view.as_ref().is_some_and(|view| view.leader_epoch == epoch)
    }

    /// The leader that it follows, and in which epoch.
    pub(super) fn follows(&self) -> Option<(Member, LeaderEpoch)> {
        let view = self.view.as_ref().filter(|view| self.is_running && view.replicas.contains(&self.id))?;
        view.leader.filter(|leader| leader.node != self.id).map(|leader| (leader, view.leader_epoch))
    }

    pub(super) fn append(&mut self, value: u32) -> bool {
        let Some(epoch) = self.view.as_ref().map(|view| view.leader_epoch).filter(|_| self.leads()) else {
            return false;
        };
        self.log.push(Entry { epoch, value });
        true
    }

    /// What is committed, as a leader knows, and in which epoch it says so.
    pub(super) fn commit(&mut self) -> Option<(LeaderEpoch, Vec<Entry>)> {
        self.sync();
        let view = self.view.as_ref().filter(|view| self.leads() && view.has_enough())?;
        let pending = self.pending.iter().flat_map(|change| &change.in_sync);
        let others = view.in_sync.iter().chain(pending).filter(|member| **member != self.member());
        let held = others.map(|member| self.progress.get(member).map_or(0, |(_, held)| *held));
        let least = held.fold(self.held, usize::min);
        self.committed = self.committed.max(least);
        Some((view.leader_epoch, self.log[..self.committed].to_vec()))
    }

    /// Replicas that may be in sync, and are not.
    pub(super) fn caught_up(&self) -> Vec<Member> {
        let Some(view) = &self.view else { return Vec::new() };
        let least = self.committed.max(self.epoch_start);
        let has_all = |(member, (_, held)): (&Member, &(u64, usize))| (*held >= least).then_some(*member);
        let is_new = |member: &Member| {
            view.replicas.contains(&member.node) && !view.in_sync.iter().any(|known| known.node == member.node)
        };
        let mut new: Vec<Member> = self.progress.iter().filter_map(has_all).filter(is_new).collect();
        // Of several lives the last.
        new.reverse();
        new.dedup_by_key(|member| member.node);
        new
    }

    pub(super) fn hear_report(&mut self, report: Report) {
        let Some(view) = self.view.as_ref().filter(|view| self.leads_in(view.leader_epoch)) else { return };
        let in_sync = view.in_sync.iter().find(|member| member.node == report.from.node);
        let is_of_life = in_sync.is_none_or(|member| *member == report.from);
        if report.epoch != view.leader_epoch || !view.replicas.contains(&report.from.node) || !is_of_life {
            return;
        }
        let known = self.progress.entry(report.from).or_default();
        if report.number > known.0 {
            *known = (report.number, report.held);
        }
    }

    /// Gets records of its leader, after it has cut what is not there.
    pub(super) fn take(&mut self, leaders: &[Entry], count: usize) {
        let common = common_len(&self.log, leaders);
        self.log.truncate(common);
        self.held = self.held.min(common);
        self.log.extend(leaders[common..].iter().take(count));
        self.compared = self.view.as_ref().map(|view| view.leader_epoch);
    }

    pub(super) fn sync(&mut self) {
        if self.is_running {
            self.held = self.log.len();
        }
    }

    pub(super) fn report(&mut self) -> Option<Report> {
        let (leader, epoch) = self.follows().filter(|(_, epoch)| self.compared == Some(*epoch))?;
        self.number += 1;
        Some(Report { to: leader.node, from: self.member(), epoch, number: self.number, held: self.held })
    }

    /// An assignment of a later version.
    pub(super) fn hear(&mut self, assignment: Assignment) {
        if !self.is_running {
            return;
        }
        let is_new_epoch = self.view.as_ref().is_none_or(|view| view.leader_epoch != assignment.leader_epoch);
        if is_new_epoch {
            self.progress.clear();
            (self.epoch_start, self.committed) = (self.log.len(), 0);
        }
        self.pending.retain(|change| !is_new_epoch && change.version >= assignment.version);
        let is_known_to_be_heard = match self.lost_in {
            Some(said) => {
                let begins_anew = assignment.unclean_epoch.is_some_and(|epoch| epoch > said);
                assignment.leader_epoch > said && (begins_anew || !assignment.counts_on(self.id))
            }
            None => self.heard_at.is_some_and(|version| version <= assignment.version),
        };
        if is_known_to_be_heard {
            self.forget_loss();
        }
        if !assignment.replicas.contains(&self.id) {
            // It deletes its copy.
            self.log.clear();
            self.held = 0;
            self.forget_loss();
        }
        self.view = Some(assignment);
    }

    fn forget_loss(&mut self) {
        (self.has_lost, self.is_heard, self.heard_at, self.lost_in) = (false, false, None, None);
    }

    /// In which epoch it says that it lost something, if it did.
    pub(super) fn says_lost(&mut self) -> Option<LeaderEpoch> {
        let view = self.view.as_ref().filter(|_| self.is_running && self.has_lost)?;
        self.lost_in = Some(view.leader_epoch);
        self.lost_in
    }

    pub(super) fn crash(&mut self, losing: usize) {
        if self.is_running {
            self.is_running = false;
            let left = self.log.len().saturating_sub(losing % 4).max(self.held);
            self.log.truncate(left);
            self.progress.clear();
            self.pending.clear();
        }
    }

    pub(super) fn restart(&mut self) -> bool {
        if self.is_running {
            return false;
        }
        self.is_running = true;
        self.begin_life();
        self.lives.push(self.life);
        self.held = self.log.len();
        true
    }

    fn begin_life(&mut self) {
        self.life = Incarnation(self.next_life);
        self.next_life += 1;
        (self.number, self.compared, self.lost_in) = (0, None, None);
    }

    pub(super) fn lose(&mut self, len: usize) {
        if len < self.log.len() {
            self.log.truncate(len);
            self.held = self.held.min(len);
            (self.has_lost, self.is_heard, self.heard_at) = (true, false, None);
            self.lost_in = Some(self.view.as_ref().map_or(LeaderEpoch::NONE, |view| view.leader_epoch));
        }
    }

    pub(super) fn wipe(&mut self) {
        self.replace(Saved::default());
    }

    /// A copy does not continue the life that goes on.
    pub(super) fn save(&mut self) {
        let lives = if self.is_running { self.continues() } else { self.lives.clone() };
        let log = self.log[..self.held].to_vec();
        self.saved = Saved { log, lives, view: self.view.clone(), has_lost: self.has_lost };
    }

    pub(super) fn restore(&mut self) {
        self.replace(self.saved.clone());
    }

    fn replace(&mut self, disk: Saved) {
        self.crash(0);
        self.begin_life();
        (self.log, self.lives, self.view, self.has_lost) = (disk.log, disk.lives, disk.view, disk.has_lost);
        self.held = self.log.len();
        (self.heard_at, self.is_other) = (None, true);
    }

    /// The controller has heard of its loss, or of its life, and whether that lost something.
    pub(super) fn heard_of(&mut self, version: u64, registered: Option<bool>) {
        self.is_other = false;
        if registered != Some(false) && self.has_lost {
            self.is_heard = true;
            self.heard_at = registered.map(|_| version);
        }
    }
}
