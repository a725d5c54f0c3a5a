//! What the group committed for partitions that are new: asked for in polls, which do not wait for the answer.
//!
//! Invariants:
//! - Offsets that a transaction may be about to change are waited for (KIP-447): who began below them would do its work again.
//!   They keep no other partition from being begun.
//! - What is told was asked for these partitions, since they are new: who replaces one, or sends it back, has it forgotten.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::error::{Error, GroupError, Result};
use crate::group::{Answer, FetchedOffset, OffsetFetch, Request};
use crate::log::{Log, LogInside, Reply};
use crate::types::{Offset, TopicPartition};

/// Asks where to begin.
pub(super) struct Fetch {
    log: LogInside,
    group: Box<str>,
    /// Of who is to look for the answer.
    waker: Waker,
    asked: Option<Asked>,
    /// Not before that is asked again.
    retry_at: Option<Duration>,
}

struct Asked {
    ids: Vec<TopicPartition>,
    reply: Reply,
}

/// A partition, and the offset to go on from, if the group committed one.
pub(super) type Fetched = (TopicPartition, Option<Offset>);

impl fmt::Debug for Fetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetch").field("group", &self.group).field("is_asked", &self.asked.is_some()).finish()
    }
}

impl Fetch {
    pub(super) fn new(log: &Log, group: &str, waker: Waker) -> Self {
        Self { log: log.inside(), group: group.into(), waker, asked: None, retry_at: None }
    }

    /// When to ask again, though nothing happens.
    pub(super) fn retry_at(&self) -> Option<Duration> {
        self.retry_at
    }

    /// Whether nothing was asked, or is to be asked again.
    pub(super) fn is_idle(&self) -> bool {
        self.asked.is_none() && self.retry_at.is_none()
    }

    /// Lets go of what was asked: it may be about partitions that are others by now.
    pub(super) fn forget(&mut self) {
        (self.asked, self.retry_at) = (None, None);
    }

    /// What the group committed for these, as far as it is known yet.
    pub(super) fn poll(&mut self, ids: Vec<TopicPartition>, now: Duration) -> Result<Vec<Fetched>> {
        if ids.is_empty() {
            self.forget();
            return Ok(Vec::new());
        }
        if self.retry_at.is_some_and(|at| at > now) {
            return Ok(Vec::new());
        }
        self.retry_at = None;
        let asked = self.asked.take().filter(|asked| asked.ids == ids);
        let mut asked = asked.unwrap_or_else(|| Asked { reply: self.ask(&ids), ids });
        let Some(answer) = look_for(&mut asked.reply, &self.waker) else {
            self.asked = Some(asked);
            return Ok(Vec::new());
        };
        let mut known = Vec::new();
        for answered in each(answer, &self.group) {
            match answered {
                Ok(fetched) => known.push(fetched),
                Err(Error::GroupRefused { reason, .. }) if is_passing(reason) => {
                    self.retry_at = Some(now.saturating_add(RETRY));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(known)
    }

    /// What the group committed for one. Waits for it.
    pub(super) fn now(&self, id: &TopicPartition) -> Result<Option<Offset>> {
        let answer = self.ask(std::slice::from_ref(id)).wait();
        let mut answered = each(answer, &self.group).into_iter();
        answered.next().map_or(Ok(None), |fetched| fetched.map(|(_, committed)| committed))
    }

    /// Asks, and leaves the answer for a later poll.
    #[cfg(all(test, feature = "sim"))]
    pub(super) fn ask_ahead(&mut self, ids: Vec<TopicPartition>) {
        self.asked = Some(Asked { reply: self.ask(&ids), ids });
    }

    fn ask(&self, ids: &[TopicPartition]) -> Reply {
        let partitions = ids.iter().map(|id| ((*id.topic).into(), id.partition)).collect();
        let fetch = OffsetFetch { group: self.group.clone(), partitions: Some(partitions), require_stable: true };
        self.log.ask_coordinator(Request::FetchOffsets(fetch))
    }
}

/// The answer, if it is there. A poll can wait for a disk: for a sync that else, with a log whose caller does its maintenance,
/// nobody might do.
pub(super) fn look_for(reply: &mut Reply, waker: &Waker) -> Option<Result<Answer>> {
    match Pin::new(&mut *reply).poll(&mut Context::from_waker(waker)) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => reply.wait_for(Duration::ZERO),
    }
}

/// What is answered for each partition.
fn each(answer: Result<Answer>, group: &str) -> Vec<Result<Fetched>> {
    let one = |fetched: FetchedOffset| match fetched.committed {
        Ok(committed) => {
            let id = TopicPartition::new(&*fetched.topic, fetched.partition);
            Ok((id, committed.map(|committed| committed.offset)))
        }
        Err(reason) => Err(Error::GroupRefused { group: group.into(), reason }),
    };
    match answer {
        Ok(Answer::Offsets(offsets)) => offsets.into_iter().map(one).collect(),
        Ok(_) => Vec::new(),
        Err(error) => vec![Err(error)],
    }
}

/// Whether asking again later helps.
fn is_passing(reason: GroupError) -> bool {
    matches!(
        reason,
        GroupError::UnstableOffsetCommit
            | GroupError::CoordinatorLoadInProgress
            | GroupError::CoordinatorNotAvailable
            | GroupError::NotCoordinator
    )
}

/// How long it waits before it asks again. Kafka: `retry.backoff.ms`.
const RETRY: Duration = Duration::from_millis(100);
