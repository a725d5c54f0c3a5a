//! A group that commits to whoever coordinates it.
//!
//! What it commits only rises, so that its history is judged as it happens: who leads tells at least what was acknowledged, or
//! told, before it was asked, and nothing that was never sent.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::check::stored;
use super::{Cluster, Failure, GROUPS};
use crate::error::Result;
use crate::group::{Answer, Caller, OffsetCommit, OffsetFetch, OffsetToCommit, Request};
use crate::log::Reply;
use crate::types::{LeaderEpoch, NodeId, Offset};

#[derive(Default)]
pub(super) struct Groups {
    /// The highest offset that was sent.
    sent: u64,
    /// The highest that was acknowledged, or told.
    known: u64,
    commits: Vec<(u64, Reply)>,
    /// With what has to be told at least.
    fetches: Vec<(u64, Reply)>,
}

impl Groups {
    pub(super) fn is_quiet(&self) -> bool {
        self.commits.is_empty() && self.fetches.is_empty()
    }
}

impl Cluster {
    /// Commits, or asks what is committed.
    pub(super) fn act_for_group(&mut self, asks_any: bool) -> std::result::Result<(), Failure> {
        let asked: Vec<NodeId> =
            self.nodes.values().filter(|node| asks_any || node.leads(GROUPS).is_some()).map(|node| node.id).collect();
        if asked.is_empty() {
            return Ok(());
        }
        let id = *self.rng.pick(&asked);
        if self.nodes[&id].paused_until > self.now() {
            return Ok(());
        }
        let Some(log) = self.nodes[&id].log.clone() else { return Ok(()) };
        if self.rng.chance(1, 3) {
            // One that leads no more, and has not heard of it, may tell what was.
            let epoch = self.controller.assignment(GROUPS).map(|known| known.leader_epoch);
            let leads = self.nodes[&id].leads(GROUPS).is_some_and(|leads| Some(leads) == epoch);
            let least = if leads { self.groups.known } else { 0 };
            self.groups.fetches.push((least, log.ask_coordinator(fetch())));
        } else {
            self.groups.sent += 1;
            self.groups.commits.push((self.groups.sent, log.ask_coordinator(commit(self.groups.sent))));
        }
        self.wake_at(id, self.now());
        self.settle_groups()
    }

    /// Hears of what was answered since.
    pub(super) fn settle_groups(&mut self) -> std::result::Result<(), Failure> {
        let (mut acknowledged, mut told) = (Vec::new(), Vec::new());
        self.groups.commits.retain_mut(|(sent, reply)| {
            let answer = answer(reply);
            acknowledged.extend(answer.as_ref().map(|answer| (*sent, is_committed(answer))));
            answer.is_none()
        });
        self.groups.fetches.retain_mut(|(least, reply)| {
            let answer = answer(reply);
            told.extend(answer.as_ref().map(|answer| (*least, offset_in(answer))));
            answer.is_none()
        });
        for (sent, is_acknowledged) in acknowledged {
            if is_acknowledged {
                self.report.acknowledged += 1;
                self.groups.known = self.groups.known.max(sent);
            } else {
                self.report.unknown += 1;
            }
        }
        for (least, found) in told {
            let Some(found) = found else { continue };
            self.check_told(least, found)?;
            self.groups.known = self.groups.known.max(found);
        }
        Ok(())
    }

    fn check_told(&self, least: u64, found: u64) -> std::result::Result<(), Failure> {
        if found < least || found > self.groups.sent {
            let detail = format!("{found} is told, after {least} was, and {} was sent", self.groups.sent);
            return Err(self.failure("what a group committed is told", detail));
        }
        Ok(())
    }

    /// What must be true when all is quiet.
    pub(super) fn check_groups(&mut self) -> std::result::Result<(), Failure> {
        let Some(known) = self.controller.assignment(GROUPS).cloned() else { return Ok(()) };
        let mut bytes: Option<Vec<u8>> = None;
        for id in &known.replicas {
            let Some(partition) = self.nodes.get(id).and_then(|node| node.groups.as_ref()) else { continue };
            match stored(partition) {
                Ok(stored) if bytes.get_or_insert_with(|| stored.clone()) == &stored => {}
                Ok(_) => return Err(self.failure("all hold the same of groups", format!("node {id}"))),
                Err(error) => return Err(self.failure("groups can be read", format!("node {id}: {error}"))),
            }
        }
        let leader = self.nodes.values().find(|node| node.leads(GROUPS) == Some(known.leader_epoch));
        let log = leader.and_then(|leader| leader.log.clone());
        let found = log.and_then(|log| answer(&mut log.ask_coordinator(fetch())));
        match found.as_ref().and_then(offset_in) {
            Some(found) => self.check_told(self.groups.known, found),
            None => Err(self.failure("who leads tells what a group committed", format!("{found:?}"))),
        }
    }
}

/// The answer, if it is there.
fn answer(reply: &mut Reply) -> Option<Result<Answer>> {
    match pin!(reply).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

fn is_committed(answer: &Result<Answer>) -> bool {
    matches!(answer, Ok(Answer::Committed(done)) if done.iter().all(std::result::Result::is_ok))
}

/// The offset that is told, 0 if there is none; `None` if nothing is told.
fn offset_in(answer: &Result<Answer>) -> Option<u64> {
    let Ok(Answer::Offsets(offsets)) = answer else { return None };
    let committed = offsets.first()?.committed.as_ref().ok()?;
    Some(committed.as_ref().map_or(0, |committed| committed.offset.0))
}

pub(crate) fn commit(offset: u64) -> Request {
    let (leader_epoch, metadata) = (LeaderEpoch::NONE, "".into());
    let offset = OffsetToCommit { topic: "t".into(), partition: 0, offset: Offset(offset), leader_epoch, metadata };
    let (group, caller) = ("g".into(), Caller::none());
    Request::CommitOffsets(OffsetCommit { group, caller, transaction: None, retention: None, offsets: vec![offset] })
}

pub(crate) fn fetch() -> Request {
    let partitions = Some(vec![("t".into(), 0)]);
    Request::FetchOffsets(OffsetFetch { group: "g".into(), partitions, require_stable: false })
}
