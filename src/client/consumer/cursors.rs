//! The partitions of one consumer: who is read next, and how one waits for all of them.
//!
//! Invariants:
//! - Sorted by partition, none twice.
//! - Each poll begins behind the partition that was served last: none that has records is passed over for ever.
//! - All that wait, wait with the waker that is remembered.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::builder::Settings;
use super::cursor::{Cursor, Policy};
use super::polled::{Consumed, Polled, Reset};
use crate::error::{Error, Result};
use crate::log::TopicRead;
use crate::partition::Front;
use crate::probe;
use crate::types::{Offset, TopicPartition};

#[derive(Debug)]
pub(super) struct Cursors {
    all: Vec<Cursor>,
    /// Who is served first.
    first: usize,
    /// How many records were taken of that one, one by one.
    in_turn: usize,
    /// A topic that is gone is no error to a member: its group divides what is left.
    skips_deleted: bool,
    waker: Option<Waker>,
    resets: Vec<Reset>,
}

impl Cursors {
    pub(super) fn new(skips_deleted: bool) -> Self {
        Self { all: Vec::new(), first: 0, in_turn: 0, skips_deleted, waker: None, resets: Vec::new() }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Cursor> {
        self.all.iter()
    }

    /// Those for which it is not known where to go on.
    pub(super) fn unknown(&mut self) -> impl Iterator<Item = &mut Cursor> {
        self.all.iter_mut().filter(|cursor| cursor.position().is_none())
    }

    pub(super) fn get(&self, id: &TopicPartition) -> Result<&Cursor> {
        self.find(id).map(|at| &self.all[at])
    }

    pub(super) fn get_mut(&mut self, id: &TopicPartition) -> Result<&mut Cursor> {
        self.find(id).map(|at| &mut self.all[at])
    }

    fn find(&self, id: &TopicPartition) -> Result<usize> {
        let found = self.all.binary_search_by(|cursor| cursor.id.cmp(id));
        found.map_err(|_| Error::NotAssigned { partition: id.clone() })
    }

    /// Adds one, unless it is there.
    pub(super) fn insert(&mut self, cursor: Cursor) {
        if let Err(at) = self.all.binary_search_by(|known| known.id.cmp(&cursor.id)) {
            self.all.insert(at, cursor);
        }
    }

    /// Puts one in the place of another of its name, which is of a topic that is gone.
    pub(super) fn replace(&mut self, mut cursor: Cursor) {
        if let Ok(at) = self.find(&cursor.id) {
            cursor.set_paused(self.all[at].is_paused());
            self.all[at] = cursor;
        }
    }

    pub(super) fn remove(&mut self, ids: &BTreeSet<TopicPartition>) {
        if probe::planted("consumer.revoked_still_read") {
            return;
        }
        self.all.retain(|cursor| !ids.contains(&cursor.id));
        (self.first, self.in_turn) = (0, 0);
    }

    /// Those that are asked for, or all if none is named.
    pub(super) fn named(&mut self, ids: &[TopicPartition]) -> Result<Vec<&mut Cursor>> {
        if let Some(missing) = ids.iter().find(|id| self.find(id).is_err()) {
            return Err(Error::NotAssigned { partition: missing.clone() });
        }
        Ok(self.all.iter_mut().filter(|cursor| ids.is_empty() || ids.contains(&cursor.id)).collect())
    }
}

/// Reading.
impl Cursors {
    /// The next records, within the limits of a poll; none if there are none now.
    ///
    /// An error of one partition ends the poll that comes to it first: what others have is returned before, and after.
    pub(super) fn take(&mut self, settings: &Settings, policy: Policy) -> Result<Option<Polled>> {
        let (mut parts, mut left, mut bytes) = (Vec::new(), settings.max_poll_records, 0);
        let begin = self.first;
        for step in 0..self.all.len() {
            let at = (begin + step) % self.all.len();
            let taken = self.take_of(at, left, policy);
            let front = match taken {
                Ok(Some(front)) => front,
                Ok(None) => continue,
                Err(_) if !parts.is_empty() => {
                    // It fails again, first of all.
                    self.first = at;
                    break;
                }
                Err(error) => {
                    self.first = at + 1;
                    return Err(error);
                }
            };
            self.first = at + 1;
            bytes += front.bytes;
            left -= front.count.min(left);
            parts.push((self.all[at].id.clone(), front.records));
            if left == 0 || bytes >= settings.max_bytes {
                break;
            }
        }
        if probe::planted("consumer.no_rotation") {
            self.first = 0;
        }
        let resets = std::mem::take(&mut self.resets);
        let is_nothing = parts.is_empty() && resets.is_empty();
        Ok((!is_nothing).then_some(Polled { parts, resets, is_woken: false }))
    }

    fn take_of(&mut self, at: usize, max: usize, policy: Policy) -> Result<Option<Front>> {
        let cursor = &mut self.all[at];
        if cursor.is_paused() {
            return Ok(None);
        }
        match cursor.take(max, policy, &mut self.resets) {
            Err(Error::TopicDeleted { .. }) if self.skips_deleted => Ok(None),
            taken => taken,
        }
    }

    /// The next record. A partition is followed for as many records as a poll returns, then it is another's turn.
    pub(super) fn take_one(&mut self, settings: &Settings, policy: Policy) -> Result<Option<Consumed>> {
        self.resets.clear();
        if self.in_turn >= settings.max_poll_records {
            (self.first, self.in_turn) = (self.first + 1, 0);
        }
        let begin = self.first;
        for step in 0..self.all.len() {
            let at = (begin + step) % self.all.len();
            if step > 0 {
                (self.first, self.in_turn) = (at, 0);
            }
            match self.take_of(at, 1, policy) {
                Ok(Some(front)) => {
                    self.in_turn += 1;
                    return Ok(Some(Consumed { partition: self.all[at].id.clone(), records: front.records }));
                }
                Ok(None) => {}
                Err(error) => {
                    (self.first, self.in_turn) = (at + 1, 0);
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// The record with the earliest time, of those that come next in each partition; of equal ones that of the first
    /// partition.
    pub(super) fn take_earliest(&mut self, policy: Policy) -> Result<Option<Consumed>> {
        self.resets.clear();
        let mut earliest = None;
        for (at, cursor) in self.all.iter_mut().enumerate().filter(|(_, cursor)| !cursor.is_paused()) {
            let head = match cursor.head(policy, &mut self.resets) {
                Err(Error::TopicDeleted { .. }) if self.skips_deleted => None,
                head => head?,
            };
            if let Some(time) = head
                && earliest.is_none_or(|(known, _)| time < known)
            {
                earliest = Some((time, at));
            }
        }
        let Some((_, at)) = earliest else { return Ok(None) };
        let front = self.take_of(at, 1, policy)?;
        Ok(front.map(|front| Consumed { partition: self.all[at].id.clone(), records: front.records }))
    }

    /// Ready once it may be worth to look again: there was nothing in any of them.
    pub(super) fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        let is_known = self.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker()));
        if !is_known {
            self.waker = Some(context.waker().clone());
        }
        let (mut is_ready, mut failed) = (false, None);
        // All of them, also behind one that is ready: from here on this waker counts as known to each.
        for cursor in self.all.iter_mut().filter(|cursor| !cursor.is_paused() && cursor.position().is_some()) {
            match cursor.poll_readable(context, is_known) {
                Poll::Ready(Ok(())) => is_ready = true,
                Poll::Ready(Err(Error::TopicDeleted { .. })) if self.skips_deleted => {}
                Poll::Ready(Err(error)) => failed = failed.or(Some(error)),
                Poll::Pending => {}
            }
        }
        match failed {
            Some(error) => Poll::Ready(Err(error)),
            None if is_ready => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    }

    /// The position of each that is known, but of topics that are gone.
    pub(super) fn positions(&self) -> impl Iterator<Item = (&TopicPartition, Offset)> {
        let there = self.all.iter().filter(|cursor| !cursor.is_deleted());
        there.filter_map(|cursor| Some((&cursor.id, cursor.position()?)))
    }

    /// The topics that are read, in order.
    pub(super) fn topics(&self) -> Vec<TopicRead> {
        let mut topics: Vec<TopicRead> = Vec::new();
        for cursor in &self.all {
            if topics.last().is_none_or(|(name, _)| *name != cursor.id.topic) {
                topics.push((Arc::clone(&cursor.id.topic), cursor.topic_id()));
            }
        }
        topics
    }
}
