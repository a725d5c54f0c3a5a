//! What a node does about one partition: takes a role, tells its machine what happens, and does what that wants done.

use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use super::{Bell, MAX_ANSWER, Outbox, Replica, Replication, Role, is_synced_at_once, refusal};
use crate::error::{Error, Result};
use crate::log::Inner;
use crate::partition::core::Core;
use crate::partition::replicate::Standing;
use crate::probe;
use crate::replica::{
    Answer, Assignment, Command, EpochEnd, Follower, FollowerAction, FollowerEvent, Leader, LeaderAction,
    LeaderEvent, LocalLog, Member, Message, Payload, Refusal, ReplicaTiming,
};
use crate::segment::files::Bytes;
use crate::types::{LeaderEpoch, NodeId};

impl Replica {
    pub(super) fn assume(
        &mut self,
        inner: &Inner,
        replication: &Replication,
        assignment: &Assignment,
        outbox: &mut Outbox,
    ) -> Result<()> {
        if Some(assignment.version) <= self.version {
            probe::reached("replicate.late_role");
            return Ok(());
        }
        let (local, now) = (replication.member, inner.context.clock.monotonic());
        self.epoch = assignment.leader_epoch;
        let is_sound = !self.is_damaged && !self.core.is_poisoned();
        let begins_anew = |said| is_sound && assignment.unclean_epoch.is_some_and(|epoch| epoch > said);
        let is_heard = |said| self.epoch > said && (begins_anew(said) || !assignment.counts_on(local.node));
        if self.lost_in.is_some_and(is_heard) || self.lost_in.is_none() && !assignment.counts_on(local.node) {
            // The controller has heard. From here on what is acknowledged is there.
            self.lost_in = None;
            let has_another = assignment.leader.is_some_and(|leader| leader.node != local.node);
            if self.is_damaged && has_another && assignment.replicas.contains(&local.node) {
                self.step_down(inner, None, outbox);
                inner.renew(&self.core)?;
                replication.node.lock().set_damaged(inner.context.disk(), self.id, false)?;
                self.is_damaged = false;
            }
        } else if self.lost_in.is_some_and(|said| self.epoch > said) {
            self.lose(replication, now, outbox);
        }
        let is_mine = match assignment.leader {
            Some(leader) => leader.node == local.node,
            None => false,
        };
        let leads = is_mine && (assignment.leader == Some(local) || probe::planted("replica.role_of_other_life"));
        if leads && (self.lost_in.is_some() || self.is_damaged) {
            self.lose(replication, now, outbox);
            self.step_down(inner, None, outbox);
            return Err(Error::NotElectable { partition: self.core.id.clone() });
        }
        let done = match leads {
            true => self.lead(inner, replication, assignment, now, outbox),
            false => self.follow(inner, replication, assignment, now, outbox),
        };
        if done.is_err() && self.core.is_poisoned() {
            // Others may have it all, and are to be asked.
            self.lose(replication, now, outbox);
        }
        done?;
        self.version = Some(assignment.version);
        self.run(inner, replication, now, outbox);
        Ok(())
    }

    fn lead(
        &mut self,
        inner: &Inner,
        replication: &Replication,
        assignment: &Assignment,
        now: Duration,
        outbox: &mut Outbox,
    ) -> Result<()> {
        match &mut self.role {
            Role::Leader(leader) if leader.epoch() == assignment.leader_epoch => {
                leader.handle(LeaderEvent::Assigned(assignment.clone()), now);
            }
            _ => {
                self.step_down(inner, None, outbox);
                self.core.lead(assignment.leader_epoch)?;
                if is_synced_at_once(&self.core) {
                    // What a life before this one appended: it is to be held, and nobody waits for its sync any more.
                    self.core.sync_to(self.core.end())?;
                }
                let (log, committed) = (local_log(&self.core), self.core.committed());
                let leader =
                    Leader::new(replication.member, assignment.clone(), replication.timing, log, committed, now);
                self.role = Role::Leader(Box::new(leader));
                // All that there is: what is not committed yet will be, if this node leads on.
                if let Err(error) = inner.load_led(&self.core) {
                    if matches!(error, Error::Corrupt(_)) {
                        self.find_damage(inner, replication, now, outbox);
                    }
                    self.step_down(inner, None, outbox);
                    return Err(error);
                }
            }
        }
        self.stand(assignment, replication.member);
        Ok(())
    }

    fn follow(
        &mut self,
        inner: &Inner,
        replication: &Replication,
        assignment: &Assignment,
        now: Duration,
        outbox: &mut Outbox,
    ) -> Result<()> {
        let local = replication.member;
        if let Role::Follower(follower) = &mut self.role {
            let known = follower.assignment();
            if (known.leader, known.leader_epoch) == (assignment.leader, assignment.leader_epoch) {
                follower.handle(FollowerEvent::Assigned(assignment.clone()), now);
                return Ok(());
            }
        }
        let leader = assignment.leader.filter(|leader| leader.node != local.node);
        self.step_down(inner, leader.map(|leader| leader.node), outbox);
        if leader.is_none() || !assignment.replicas.contains(&local.node) {
            return Ok(());
        }
        self.core.settle_in()?;
        let (log, committed) = (local_log(&self.core), self.core.committed());
        let follower = Follower::new(local, assignment.clone(), replication.timing, log, committed, now);
        self.role = Role::Follower(Box::new(follower));
        Ok(())
    }

    fn step_down(&mut self, inner: &Inner, leader: Option<NodeId>, outbox: &mut Outbox) {
        self.core.stand_back(leader);
        inner.unload_led(&self.core, leader, &mut outbox.told);
        (self.role, self.watch, self.halted, self.last_error) = (Role::None, None, None, None);
    }

    fn stand(&self, assignment: &Assignment, local: Member) {
        self.core.set_standing(Standing {
            is_leader: true,
            leader: Some(local.node),
            in_sync: assignment.in_sync.len() as u32,
            needed: assignment.min_in_sync,
        });
    }

    pub(super) fn receive(
        &mut self,
        inner: &Inner,
        replication: &Replication,
        from: NodeId,
        message: Message,
        outbox: &mut Outbox,
    ) {
        let now = inner.context.clock.monotonic();
        match (&mut self.role, message) {
            (Role::Leader(leader), Message::Fetch(fetch)) => {
                let log = leaders_log(&self.core, leader.epoch());
                leader.handle(LeaderEvent::Log(log), now);
                let epoch_end = fetch.last_epoch.and_then(|epoch| match epoch == leader.epoch() {
                    true => Some(EpochEnd { epoch, end: log.end }),
                    false => epoch_end(&self.core, epoch),
                });
                leader.handle(LeaderEvent::Fetch { from, fetch, epoch_end }, now);
            }
            (Role::Follower(follower), Message::Fetched(fetched)) => {
                let epoch_end = match &fetched.answer {
                    Answer::Diverging(leaders) => epoch_end(&self.core, leaders.epoch),
                    _ => None,
                };
                follower.handle(FollowerEvent::Fetched { from, fetched, epoch_end }, now);
            }
            (_, Message::Fetch(fetch)) => outbox.messages.push((from, refusal(&fetch, Refusal::NotLeader))),
            (_, Message::Fetched(_)) => probe::reached("replicate.late_answer"),
        }
        self.run(inner, replication, now, outbox);
    }

    pub(super) fn tick(&mut self, inner: &Inner, replication: &Replication, now: Duration, outbox: &mut Outbox) {
        if self.lost_in.is_some() && self.next_deadline().is_none_or(|at| now >= at) {
            // Until an assignment shows that it was heard.
            self.lose(replication, now, outbox);
        }
        if self.core.has_stopped() {
            return self.notice_stop(inner, replication, now, outbox);
        }
        match &mut self.role {
            Role::None => {}
            Role::Leader(leader) => {
                leader.handle(LeaderEvent::Log(leaders_log(&self.core, leader.epoch())), now);
                leader.handle(LeaderEvent::Tick, now);
            }
            Role::Follower(follower) => follower.handle(FollowerEvent::Tick, now),
        }
        self.run(inner, replication, now, outbox);
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let tells = self.told_at.filter(|_| self.lost_in.is_some()).map(|at| at + ReplicaTiming::default().retry);
        let next = match &self.role {
            Role::None => None,
            Role::Leader(leader) => Some(leader.next_deadline()),
            Role::Follower(follower) => follower.next_deadline(),
        };
        next.into_iter().chain(tells).min()
    }

    /// Does all that the machine wants done.
    fn run(&mut self, inner: &Inner, replication: &Replication, now: Duration, outbox: &mut Outbox) {
        loop {
            let is_done = match &mut self.role {
                Role::None => true,
                Role::Leader(leader) => match leader.poll() {
                    Some(action) => {
                        self.lead_on(inner, replication, action, now, outbox);
                        false
                    }
                    None => true,
                },
                Role::Follower(follower) => match follower.poll() {
                    Some(action) => {
                        self.follow_on(inner, replication, action, now, outbox);
                        false
                    }
                    None => true,
                },
            };
            if is_done && !self.has_grown_meanwhile(replication, now) {
                return;
            }
        }
    }

    /// Has the bell rung by the next append, if a follower waits for one; whether one came meanwhile.
    fn has_grown_meanwhile(&mut self, replication: &Replication, now: Duration) -> bool {
        let Role::Leader(leader) = &mut self.role else { return false };
        if !leader.has_parked() {
            self.watch = None;
            return false;
        }
        let bell = Bell { id: self.id, rung: Arc::clone(&replication.rung) };
        let waker = Waker::from(Arc::new(bell));
        // From what the machine knows: what came since has come meanwhile.
        let mut watch = Box::pin(self.core.end.reached(leader.log_end().0.saturating_add(1)));
        let has_grown = watch.as_mut().poll(&mut TaskContext::from_waker(&waker)) != Poll::Pending;
        self.watch = Some(watch);
        if has_grown && !self.core.has_stopped() {
            leader.handle(LeaderEvent::Log(leaders_log(&self.core, leader.epoch())), now);
            return true;
        }
        false
    }

    fn lead_on(
        &mut self,
        inner: &Inner,
        replication: &Replication,
        action: LeaderAction,
        now: Duration,
        outbox: &mut Outbox,
    ) {
        let Role::Leader(leader) = &mut self.role else { return };
        match action {
            LeaderAction::Read { to, fetch, is_catching_up } => {
                if is_catching_up && let Some(until) = replication.throttle.lock().wait(now) {
                    return leader.postpone(to, fetch, until);
                }
                // Of an answer the head comes on top; a batch that is larger comes whole.
                let max_bytes = (fetch.max_bytes as usize).min(MAX_ANSWER);
                let answer = match self.core.fetch_to_end(fetch.next, max_bytes) {
                    Ok(batches) => {
                        if is_catching_up {
                            replication.throttle.lock().spend(batches.as_slice().len() as u64, now);
                        }
                        leader.batches(to, &fetch, Payload::new(Stored(batches)))
                    }
                    Err(error) => {
                        let is_damaged = matches!(error, Error::Corrupt(_));
                        let answer = leader.answer(
                            &fetch,
                            Answer::Refused(if is_damaged { Refusal::Damaged } else { Refusal::Failed }),
                        );
                        if is_damaged {
                            self.find_damage(inner, replication, now, outbox);
                        }
                        answer
                    }
                };
                outbox.messages.push((to, Message::Fetched(answer)));
            }
            LeaderAction::Answer { to, answer } => outbox.messages.push((to, Message::Fetched(answer))),
            LeaderAction::Commit(to) => self.core.commit_to(to),
            LeaderAction::Propose(change) => outbox.commands.push(Command::InSync(change)),
            LeaderAction::Lost(member) => {
                outbox.commands.push(Command::Lost { member, id: self.id, leader_epoch: self.epoch });
            }
        }
    }

    fn follow_on(
        &mut self,
        inner: &Inner,
        replication: &Replication,
        action: FollowerAction,
        now: Duration,
        outbox: &mut Outbox,
    ) {
        let core = &self.core;
        let done = match action {
            FollowerAction::Send { to, fetch } => {
                // One that has less than it said is silent, until the controller has heard.
                if self.lost_in.is_none() {
                    outbox.messages.push((to, Message::Fetch(fetch)));
                }
                return;
            }
            FollowerAction::Commit(to) => return core.commit_to(to),
            FollowerAction::Halt(halt) => {
                self.halted = Some(halt);
                return inner.tell_halted(core, halt);
            }
            FollowerAction::Append(batches) => core.append_replicated(batches.as_slice()),
            FollowerAction::Sync => core.sync_to(core.end()),
            FollowerAction::Truncate(to) => inner.truncate(core, to),
            FollowerAction::Reset(to) => inner.reset(core, to),
            FollowerAction::RaiseStart(to) => inner.delete_before(core, to),
        };
        self.last_error = done.as_ref().err().map(Error::to_string);
        let Role::Follower(follower) = &mut self.role else { return };
        let log = local_log(&self.core);
        let event = if done.is_ok() { FollowerEvent::Done(log) } else { FollowerEvent::Failed(log) };
        follower.handle(event, now);
        if self.core.has_stopped() {
            self.notice_stop(inner, replication, now, outbox);
        }
    }

    /// What this node has cannot be read.
    fn find_damage(&mut self, inner: &Inner, replication: &Replication, now: Duration, outbox: &mut Outbox) {
        self.is_damaged = true;
        // If it cannot be written, a later life that sees the damage says it again.
        let _ = replication.node.lock().set_damaged(inner.context.disk(), self.id, true);
        self.lose(replication, now, outbox);
    }

    /// A poisoned partition may not have what it acknowledged.
    fn notice_stop(&mut self, inner: &Inner, replication: &Replication, now: Duration, outbox: &mut Outbox) {
        if self.core.is_poisoned() && !matches!(self.role, Role::None) {
            self.lose(replication, now, outbox);
        }
        (self.role, self.watch) = (Role::None, None);
        inner.unload_led(&self.core, None, &mut outbox.told);
    }

    /// Says that this node has less than it acknowledged.
    fn lose(&mut self, replication: &Replication, now: Duration, outbox: &mut Outbox) {
        probe::reached("replicate.lost");
        (self.lost_in, self.told_at) = (Some(self.epoch), Some(now));
        let (member, leader_epoch) = (replication.member, self.epoch);
        outbox.commands.push(Command::Lost { member, id: self.id, leader_epoch });
    }
}

/// Batches as they are stored, for as long as a message lives.
struct Stored(Bytes);

impl AsRef<[u8]> for Stored {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

/// What the machines must know of a partition.
fn local_log(core: &Core) -> LocalLog {
    log_under(core, core.last_epoch())
}

/// The same of one that this node leads: its own epoch is the latest that the log knows. Takes no lock that appends take.
fn leaders_log(core: &Core, epoch: LeaderEpoch) -> LocalLog {
    log_under(core, Some(epoch))
}

fn log_under(core: &Core, last_epoch: Option<LeaderEpoch>) -> LocalLog {
    let synced = core.synced();
    let end = core.end();
    let held = if is_synced_at_once(core) { end.min(synced) } else { end };
    LocalLog { start: core.start().min(end), end, held, last_epoch }
}

fn epoch_end(core: &Core, epoch: LeaderEpoch) -> Option<EpochEnd> {
    core.epoch_end(epoch).map(|(epoch, end)| EpochEnd { epoch, end })
}
