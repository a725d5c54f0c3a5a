//! One partition as a consumer reads it: where it goes on, and what was read ahead.
//!
//! A read brings up to a limit of bytes, and a poll hands out a limit of records. What lies between them is held: nothing is
//! looked up, verified or decompressed twice.
//!
//! ```text
//!      position                        end of what was read          end
//! ---------|------------- held -------------|-------- in the log -----|
//!  handed   <- take_front, at a poll
//! ```
//!
//! Invariants:
//! - What is held begins at the position. Who moves the position otherwise than by handing out lets go of it.
//! - A waiter is on the list of the partition only where nothing could be read.

use std::pin::Pin;
use std::task::{Context, Poll};

use super::builder::AutoOffsetReset;
use super::polled::Reset;
use crate::error::{Error, Result};
use crate::partition::{Front, Isolation, Partition, ReadOptions, Reader, Records};
use crate::probe;
use crate::types::{Offset, Timestamp, TopicId, TopicPartition};
use crate::watermark::Reached;

/// A partition that is read.
#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) id: TopicPartition,
    reader: Reader,
    isolation: Isolation,
    /// None while it is not known what was committed, or where else to begin.
    position: Option<Offset>,
    held: Option<Records>,
    /// The time of the first record that is held, if somebody asked for it.
    head: Option<Timestamp>,
    is_paused: bool,
    /// Where the partition ended before the last read that found nothing.
    seen: Offset,
    waiting: Option<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    at_least: Offset,
    reached: Reached,
}

/// What is done where there is nowhere to go on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    pub(super) reset: AutoOffsetReset,
    pub(super) now: Timestamp,
}

impl Cursor {
    pub(super) fn new(id: TopicPartition, partition: &Partition, options: ReadOptions, isolation: Isolation) -> Self {
        Self {
            id,
            reader: partition.reader().options(options.isolation(isolation)),
            isolation,
            position: None,
            held: None,
            head: None,
            is_paused: false,
            seen: Offset::ZERO,
            waiting: None,
        }
    }

    pub(super) fn partition(&self) -> &Partition {
        self.reader.partition()
    }

    pub(super) fn position(&self) -> Option<Offset> {
        self.position
    }

    /// The id of its topic: a new topic of an old name has another one.
    pub(super) fn topic_id(&self) -> TopicId {
        self.partition().core.topic
    }

    /// Whether its topic is gone, so that what was read of it says nothing of one that has its name by now.
    pub(super) fn is_deleted(&self) -> bool {
        matches!(self.partition().core.check(), Err(Error::TopicDeleted { .. }))
    }

    pub(super) fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Passed over from here on, or not any more.
    pub(super) fn set_paused(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
        // While it is passed over others learn of a new waker, and it does not.
        self.waiting = None;
    }

    /// Up to where it can read now.
    pub(super) fn end(&self) -> Offset {
        let offsets = self.partition().offsets();
        match self.isolation {
            Isolation::Uncommitted => offsets.committed,
            Isolation::Committed => offsets.stable,
        }
    }

    /// Goes on at `offset`, wherever that is.
    pub(super) fn seek(&mut self, offset: Offset) {
        self.position = Some(offset);
        if !probe::planted("consumer.held_after_seek") {
            self.held = None;
        }
        (self.head, self.waiting) = (None, None);
    }

    /// Goes on where the group is, which is to be found out.
    pub(super) fn unknow(&mut self) {
        (self.position, self.held, self.head, self.waiting) = (None, None, None, None);
    }

    /// Begins where the group is, or where the policy says if it is nowhere.
    pub(super) fn begin(&mut self, committed: Option<Offset>, policy: Policy) -> Result<()> {
        let committed = committed.filter(|_| !probe::planted("consumer.committed_ignored"));
        let offset = committed.map_or_else(|| self.choose(policy, None), Ok)?;
        self.seek(offset);
        Ok(())
    }

    /// Where the policy lets it begin; `wanted` is what the log does not have, if there was such.
    fn choose(&self, policy: Policy, wanted: Option<Offset>) -> Result<Offset> {
        match policy.reset {
            AutoOffsetReset::Earliest => Ok(self.partition().offsets().start),
            AutoOffsetReset::Latest => Ok(self.end()),
            AutoOffsetReset::ByAge(age) => self.offset_at(policy.now - age),
            AutoOffsetReset::None => Err(Error::NoPosition { partition: self.id.clone(), wanted }),
        }
    }

    /// The first record of this time or later; the end if there is none.
    pub(super) fn offset_at(&self, time: Timestamp) -> Result<Offset> {
        // Before 1970 are Kafka's special times, which are not meant.
        let found = self.partition().offset_at(Timestamp(time.0.max(0)))?;
        Ok(found.unwrap_or_else(|| self.end()))
    }

    /// Hands out the next records, `max` of them at most; none if there are none now.
    pub(super) fn take(&mut self, max: usize, policy: Policy, resets: &mut Vec<Reset>) -> Result<Option<Front>> {
        loop {
            if let Some(front) = self.held.as_mut().and_then(|held| held.take_front(max)) {
                let next = front.records.next_offset();
                self.position = Some(if probe::planted("consumer.position_ahead") { next + 1 } else { next });
                self.head = None;
                return Ok(Some(front));
            }
            if !self.read_on(policy, resets)? {
                return Ok(None);
            }
        }
    }

    /// The time of the next record, if there is one now.
    pub(super) fn head(&mut self, policy: Policy, resets: &mut Vec<Reset>) -> Result<Option<Timestamp>> {
        while self.head.is_none() {
            self.head = self.held.as_ref().and_then(|held| held.iter().next()).map(|record| record.timestamp);
            if self.head.is_none() && !self.read_on(policy, resets)? {
                break;
            }
        }
        Ok(self.head)
    }

    /// Reads on, now that nothing that is held is left. Whether there was something.
    fn read_on(&mut self, policy: Policy, resets: &mut Vec<Reset>) -> Result<bool> {
        let Some(mut position) = self.position else { return Ok(false) };
        if let Some(held) = self.held.take() {
            // Behind the last record there may have been markers.
            position = position.max(held.next_offset());
            self.position = Some(position);
        }
        loop {
            let end = self.partition().core.end();
            if self.reader.is_idle(position, end) {
                self.seen = end;
                return Ok(false);
            }
            match self.reader.read(position) {
                Ok(records) if records.is_empty() => {
                    self.position = Some(position.max(records.next_offset()));
                    self.seen = end;
                    return Ok(false);
                }
                Ok(records) => {
                    self.held = Some(records);
                    return Ok(true);
                }
                Err(Error::OffsetOutOfRange { requested, .. }) => {
                    let resumed = self.choose(policy, Some(requested))?;
                    resets.push(Reset { partition: self.id.clone(), wanted: requested, resumed });
                    self.seek(resumed);
                    position = resumed;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Ready once it may be worth to read again. Nothing could be read at the last attempt. `is_known` says that this waker
    /// is the one that waits already.
    pub(super) fn poll_readable(&mut self, context: &mut Context<'_>, is_known: bool) -> Poll<Result<()>> {
        let at_least = self.seen + 1;
        let core = &self.reader.partition().core;
        let waiting = match &mut self.waiting {
            Some(waiting) if waiting.at_least == at_least => {
                // On the list already: whether that is over shows without a look at the list.
                if is_known && core.end() < at_least && !core.has_stopped() {
                    return Poll::Pending;
                }
                waiting
            }
            waiting => waiting.insert(Waiting { at_least, reached: core.end.reached(at_least.0) }),
        };
        let Poll::Ready(outcome) = Pin::new(&mut waiting.reached).poll(context) else { return Poll::Pending };
        self.waiting = None;
        let core = &self.reader.partition().core;
        Poll::Ready(outcome.map_err(|stop| core.stopped(stop)))
    }
}
