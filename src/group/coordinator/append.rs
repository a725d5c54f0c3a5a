//! What is to be appended, and what follows once it is, or is not.
//!
//! Appends are numbered, and take effect in that order, whatever the order of their reports: a tombstone that was appended
//! after a commit must not be forgotten because it was reported first. A record, or the end of a transaction, that the
//! caller tells of meanwhile stands in the same line.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::action::Action;
use super::group::{Group, Reply};
use super::request::{Now, Token, TransactionProducer};
use super::{Coordinator, Wait};
use crate::error::GroupError;
use crate::group::offsets::{GroupRecord, LogRecord};
use crate::group::records::{Key, group_key};
use crate::probe;
use crate::types::{Offset, ProducerId};

/// What has no effect yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outstanding {
    Append(Append),
    /// A record of somebody else.
    Record {
        position: Offset,
        record: GroupRecord,
        transaction: Option<ProducerId>,
    },
    Marker {
        producer: ProducerId,
        is_committed: bool,
    },
}

/// Records whose report is awaited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Append {
    pub(super) number: u64,
    pub(super) records: Arc<[GroupRecord]>,
    pub(super) transaction: Option<TransactionProducer>,
    /// What was reported; earlier ones may still be awaited.
    outcome: Option<Result<Offset, GroupError>>,
    then: Then,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Then {
    /// What is to be appended next, for the same purpose. All else follows when none is left.
    pub(super) rest: VecDeque<GroupRecord>,
    pub(super) replies: Vec<Reply>,
    /// The request that is refused if it is not appended; none if it was the time that caused it.
    pub(super) cause: Option<Token>,
    /// The group that waits.
    pub(super) group: Option<Waiting>,
    /// How many offsets of a group expired.
    pub(super) expired: Option<(Box<str>, usize)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) name: Box<str>,
    /// What the group is then.
    pub(super) next: Box<Group>,
    /// Since when its time stands still.
    pub(super) since: Duration,
}

impl Outstanding {
    pub(super) fn record(record: LogRecord<'_>) -> Self {
        // One without a key was told of as wrong, and has no effect with an empty one either.
        let key = record.key.unwrap_or_default().to_vec();
        Self::Record {
            position: record.position,
            record: GroupRecord { key, value: record.value.map(<[u8]>::to_vec) },
            transaction: record.transaction,
        }
    }
}

impl Coordinator {
    /// Stores a change of a group, which waits for it.
    pub(super) fn store(&mut self, name: &str, next: Group, replies: Vec<Reply>, cause: Option<Token>, now: Now) {
        let value = next.to_value().encode();
        let Some(record) = group_key(name).zip(value).map(|(key, value)| GroupRecord { key, value: Some(value) })
        else {
            // All that goes in was checked to fit.
            return cause.into_iter().for_each(|token| self.reply(token, Err(GroupError::UnknownServerError)));
        };
        let group = Waiting { name: name.into(), next: Box::new(next), since: now.monotonic };
        self.wait(name, Wait::Change);
        self.append([record], None, Then { replies, cause, group: Some(group), ..Then::default() });
    }

    pub(super) fn wait(&mut self, name: &str, wait: Wait) {
        self.groups.entry(name.into()).or_default().wait = wait;
        self.settle(name);
    }

    /// Appends records, and then does what follows.
    pub(super) fn append(
        &mut self,
        records: impl Into<Arc<[GroupRecord]>>,
        transaction: Option<TransactionProducer>,
        mut then: Then,
    ) {
        if probe::planted("group.answered_too_early") {
            self.reply_all(std::mem::take(&mut then.replies));
        }
        let (number, records) = (self.next_number, records.into());
        self.next_number += 1;
        self.actions.push_back(Action::Append { number, records: Arc::clone(&records), transaction });
        let append = Append { number, records, transaction, outcome: None, then };
        self.outstanding.push_back(Outstanding::Append(append));
    }

    /// Appends tombstones, as many at a time as make a batch that is short of every limit.
    pub(super) fn append_tombstones(&mut self, records: impl IntoIterator<Item = GroupRecord>, mut then: Then) {
        then.rest = records.into_iter().collect();
        self.append_rest(then);
    }

    fn append_rest(&mut self, mut then: Then) {
        let count = batch_count(then.rest.make_contiguous());
        let records: Vec<_> = then.rest.drain(..count).collect();
        self.append(records, None, then);
    }

    /// Takes in what became of an append. One that is not awaited is nobody's.
    pub(super) fn report(&mut self, number: u64, outcome: Result<Offset, GroupError>, now: Now) {
        let awaited = self.outstanding.iter_mut().find_map(|outstanding| match outstanding {
            Outstanding::Append(append) if append.number == number => Some(append),
            _ => None,
        });
        if let Some(append) = awaited {
            append.outcome.get_or_insert(outcome);
        }
        loop {
            match self.outstanding.pop_front() {
                Some(Outstanding::Append(append)) => match append.outcome {
                    Some(outcome) => self.conclude(append, outcome, now),
                    None => return self.outstanding.push_front(Outstanding::Append(append)),
                },
                Some(Outstanding::Record { position, record, transaction }) => {
                    let (key, value) = (Some(&*record.key), record.value.as_deref());
                    // What is wrong with it was told.
                    let _ = self.replay_now(LogRecord { position, key, value, transaction });
                }
                Some(Outstanding::Marker { producer, is_committed }) => {
                    self.offsets.end_transaction(producer, is_committed);
                }
                None => return,
            }
        }
    }

    fn conclude(&mut self, append: Append, outcome: Result<Offset, GroupError>, now: Now) {
        let Append { records, transaction, then, .. } = append;
        let mut error = outcome.err();
        if let Ok(base) = outcome {
            for (record, position) in records.iter().zip(base.0..) {
                let (key, value) = (Some(&*record.key), record.value.as_deref());
                let transaction = transaction.map(|producer| producer.id);
                let transaction = transaction.filter(|_| !probe::planted("groups.counts_at_once"));
                let folded = self.fold(LogRecord { position: Offset(position), key, value, transaction });
                debug_assert!(folded.is_ok(), "what we wrote reads back");
            }
            if !then.rest.is_empty() && !self.has_resigned {
                return self.append_rest(then);
            }
            error = (!then.rest.is_empty()).then_some(GroupError::NotCoordinator);
        }
        match error {
            None => self.reply_all(then.replies),
            Some(error) => then.cause.into_iter().for_each(|token| self.reply(token, Err(error))),
        }
        if let Some((group, count)) = then.expired.filter(|_| error.is_none()) {
            self.actions.push_back(Action::Expired { group, count });
        }
        if let Some(waiting) = then.group {
            self.resume(waiting, error.is_none(), then.cause.is_none(), now);
        }
    }

    /// Lets a group go on: as what it is to be, if that is stored, and else as what it was.
    fn resume(&mut self, waiting: Waiting, is_stored: bool, is_by_time: bool, now: Now) {
        let Some(entry) = self.groups.get_mut(&waiting.name) else { return };
        entry.wait = Wait::No;
        let mut stood_still = now.monotonic.saturating_sub(waiting.since);
        if is_stored || probe::planted("group.failed_append_kept") {
            entry.group = *waiting.next;
        } else if is_by_time {
            // What is due is due still: try it again, but not at once.
            stood_still = stood_still.saturating_add(RETRY_AFTER);
        }
        entry.group.shift(stood_still);
        if self.has_resigned {
            let mut replies = Vec::new();
            entry.group.refuse_all(GroupError::NotCoordinator, &mut replies);
            return self.reply_all(replies);
        }
        self.settle(&waiting.name);
        self.serve_queue(&waiting.name, now);
    }

    /// Serves what waited, until the group waits again.
    fn serve_queue(&mut self, name: &str, now: Now) {
        while let Some(entry) = self.groups.get_mut(name).filter(|entry| entry.wait == Wait::No)
            && let Some((token, request)) = entry.queue.pop_front()
        {
            self.serve(token, request, now);
        }
        self.settle(name);
    }

    /// The commits of offsets that have no effect yet: group, topic, partition of each.
    pub(super) fn outstanding_commits(&self) -> impl Iterator<Item = (&str, &str, u32)> {
        self.outstanding_offsets().filter_map(|(slot, is_commit)| is_commit.then_some(slot))
    }

    /// The commits and removals of offsets that have no effect yet: group, topic, partition of each, and whether it is a
    /// commit.
    pub(super) fn outstanding_offsets(&self) -> impl Iterator<Item = ((&str, &str, u32), bool)> {
        let records = self.outstanding.iter().flat_map(|outstanding| match outstanding {
            Outstanding::Append(append) => &append.records[..],
            Outstanding::Record { record, .. } => std::slice::from_ref(record),
            Outstanding::Marker { .. } => &[],
        });
        records.filter_map(|record| match Key::decode(&record.key) {
            Ok(Key::Offset { group, topic, partition }) => Some(((group, topic, partition), record.value.is_some())),
            _ => None,
        })
    }
}

/// How many of the records make one batch: one at least, if there is one.
pub(super) fn batch_count(records: &[GroupRecord]) -> usize {
    let mut bytes = 0;
    let fitting = records.iter().take_while(|record| {
        bytes += record.key.len() + record.value.as_ref().map_or(0, Vec::len) + RECORD_OVERHEAD;
        bytes <= MAX_BATCH_BYTES
    });
    fitting.count().max(1).min(records.len())
}

/// The records in batches that are short of every limit.
pub(crate) fn batches(mut records: &[GroupRecord]) -> impl Iterator<Item = &[GroupRecord]> {
    std::iter::from_fn(move || {
        let (batch, rest) = records.split_at(batch_count(records));
        records = rest;
        (!batch.is_empty()).then_some(batch)
    })
}

/// What a record takes beside its key and value, at most.
const RECORD_OVERHEAD: usize = 32;
const MAX_BATCH_BYTES: usize = 256 << 10;
/// How long what the time caused, and could not be stored, waits before it is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
