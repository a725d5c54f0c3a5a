//! The records of `__share_group_state`, in Kafka's form: one a group and partition, of which the last one holds.
//!
//! ```text
//! key    version i16 = 0 (a snapshot), group str, topic id 16 bytes, partition i32
//! value  version i16 = 0, snapshot epoch i32, state epoch i32, leader epoch i32, start offset i64,
//!        created i64, written i64 (ms since 1970), batches[], tagged fields
//! batch  first offset i64, last offset i64, state i8 (0 ready, 2 done, 4 given up), deliveries i16, tagged fields
//! ```
//!
//! A string is an i16 length and UTF-8. The value is of the flexible form: a count is an unsigned varint of itself + 1, and
//! tagged fields follow each structure. Kafka writes updates (keys of version 1) between snapshots; there are none here, so
//! that the topic can be compacted.

use crate::types::{Offset, Timestamp, TopicId};
use crate::wire::{Invalid, Reader, put_str, put_unsigned_varint};

/// What a record is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ShareKey {
    pub(crate) group: Box<str>,
    pub(crate) topic: TopicId,
    pub(crate) partition: u32,
}

/// What is stored of a partition, for one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShareState {
    /// All below is done.
    pub(crate) start: Offset,
    /// What lies behind it, as far as it was handed out: without gaps, in order.
    pub(crate) batches: Vec<StateBatch>,
}

/// Offsets of one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StateBatch {
    pub(crate) first: Offset,
    pub(crate) last: Offset,
    pub(crate) is_done: bool,
    pub(crate) deliveries: u16,
}

impl StateBatch {
    pub(super) fn new(first: Offset, last: Offset, is_done: bool, deliveries: u16) -> Self {
        Self { first, last, is_done, deliveries }
    }
}

impl ShareKey {
    /// `None` if it is too long, or too large, to be stored.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let mut bytes = SNAPSHOT.to_be_bytes().to_vec();
        let partition = i32::try_from(self.partition).ok()?;
        put_str(&mut bytes, &self.group).then_some(())?;
        bytes.extend(self.topic.as_bytes());
        bytes.extend(partition.to_be_bytes());
        Some(bytes)
    }

    /// The key; `None` for one of another kind.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Option<Self>, Invalid> {
        let mut reader = Reader::new(bytes);
        if reader.i16()? != SNAPSHOT {
            return Ok(None);
        }
        let group = reader.str()?.into();
        let id = reader.take(16)?.first_chunk().copied().ok_or(reader.invalid("no topic id"))?;
        let partition = u32::try_from(reader.i32()?).map_err(|_| reader.invalid("negative partition"))?;
        match reader.is_empty() {
            true => Ok(Some(Self { group, topic: TopicId::from_bytes(id), partition })),
            false => Err(reader.invalid("bytes behind a key")),
        }
    }
}

impl ShareState {
    /// Nothing from here on was handed out; and how many records below are not done.
    pub(crate) fn progress(&self) -> (Offset, usize) {
        let open = self
            .batches
            .iter()
            .filter(|batch| !batch.is_done)
            .map(|batch| (batch.last.0 - batch.first.0 + 1) as usize);
        (self.batches.last().map_or(self.start, |batch| batch.last + 1), open.sum())
    }

    /// Forgets what lies from `end` on: a power cut took the records, and what comes in their place is new. Whether there was
    /// any.
    pub(crate) fn cut(&mut self, end: Offset) -> bool {
        if self.progress().0 <= end {
            return false;
        }
        self.start = self.start.min(end);
        self.batches.retain(|batch| batch.first < end);
        if let Some(last) = self.batches.last_mut() {
            last.last = last.last.min(Offset(end.0.saturating_sub(1)));
        }
        true
    }

    pub(crate) fn encode(&self, now: Timestamp) -> Vec<u8> {
        let mut bytes = VALUE_VERSION.to_be_bytes().to_vec();
        // Epochs: of snapshots among updates, of the state, of the leader. There is one of each here.
        (0..3).for_each(|_| bytes.extend(0_i32.to_be_bytes()));
        bytes.extend(self.start.to_wire().to_be_bytes());
        bytes.extend(now.0.to_be_bytes());
        bytes.extend(now.0.to_be_bytes());
        put_unsigned_varint(&mut bytes, self.batches.len() as u32 + 1);
        for batch in &self.batches {
            bytes.extend(batch.first.to_wire().to_be_bytes());
            bytes.extend(batch.last.to_wire().to_be_bytes());
            bytes.push(if batch.is_done { DONE } else { READY });
            bytes.extend((batch.deliveries.min(i16::MAX as u16)).to_be_bytes());
            bytes.push(NO_TAGS);
        }
        bytes.push(NO_TAGS);
        bytes
    }

    /// Reads what somebody may have written: the batches lie behind each other and behind the start, and no more than
    /// `max_open` offsets are not done.
    pub(crate) fn decode(bytes: &[u8], max_open: u32) -> Result<Self, Invalid> {
        let mut reader = Reader::new(bytes);
        if reader.i16()? != VALUE_VERSION {
            return Err(reader.invalid("unknown version of a share state"));
        }
        reader.take(3 * 4)?;
        let start = offset(&mut reader)?;
        reader.take(2 * 8)?;
        let count = reader.unsigned_varint()?.checked_sub(1).ok_or(reader.invalid("no batches"))?;
        let (mut batches, mut next, mut open) = (Vec::new(), start, 0_u64);
        for _ in 0..count {
            let (first, last) = (offset(&mut reader)?, offset(&mut reader)?);
            let state = reader.u8()?;
            let deliveries = u16::try_from(reader.i16()?).map_err(|_| reader.invalid("negative deliveries"))?;
            reader.skip_tags()?;
            if first < next || last < first {
                return Err(reader.invalid("a batch out of order"));
            }
            let is_done = matches!(state, DONE | GIVEN_UP);
            // Kafka leaves out what was never handed out.
            let left_out = first.0 - next.0;
            open = open.saturating_add(left_out).saturating_add(if is_done { 0 } else { last.0 - first.0 + 1 });
            if open > u64::from(max_open) {
                return Err(reader.invalid("more records are under way than there may be"));
            }
            if left_out > 0 {
                batches.push(StateBatch::new(next, Offset(first.0 - 1), false, 0));
            }
            batches.push(StateBatch::new(first, last, is_done, deliveries));
            next = last + 1;
        }
        reader.skip_tags()?;
        match reader.is_empty() {
            true => Ok(Self { start, batches }),
            false => Err(reader.invalid("bytes behind a share state")),
        }
    }
}

fn offset(reader: &mut Reader<'_>) -> Result<Offset, Invalid> {
    let wire = reader.i64()?;
    Offset::from_wire(wire).ok_or(reader.invalid("negative offset"))
}

const SNAPSHOT: i16 = 0;
const VALUE_VERSION: i16 = 0;
const READY: u8 = 0;
const DONE: u8 = 2;
const GIVEN_UP: u8 = 4;
const NO_TAGS: u8 = 0;
