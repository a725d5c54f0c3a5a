//! What clients do, and what must be true of it.
//!
//! A log is simpler than a register, so the history is judged in one pass: one value per offset, over all nodes and all time;
//! one offset per value that was acknowledged; what was acknowledged before another was sent lies before it; nothing that was
//! acknowledged is missing at the end. One client numbers what it sends, and sends it again to whoever leads until it is
//! acknowledged: that is there once.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::node::Node;
use super::{Cluster, Event, Failure, ID};
use crate::clock::Clock;
use crate::error::Result;
use crate::partition::{Ack, Partition, ReadOptions};
use crate::record::{BatchBuilder, BatchOptions, Producer, Record};
use crate::replica::PartitionId;
use crate::types::{NodeId, Offset, ProducerEpoch, ProducerId};

/// Values, and where they are.
type Values = Vec<(Offset, u64)>;
type Acked = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

#[derive(Default)]
pub(super) struct History {
    next_value: u64,
    pending: Vec<Pending>,
    /// Where values were acknowledged.
    pub(super) acked: BTreeMap<u64, Offset>,
    /// The highest offset that was acknowledged.
    highest: Option<Offset>,
    numbered: Option<Numbered>,
    /// The sequence of the next batch that is numbered.
    next_sequence: i32,
    /// What was read as committed.
    pub(super) committed: BTreeMap<Offset, u64>,
}

/// A batch that is sent until it is acknowledged.
struct Numbered {
    value: u64,
    after: Option<Offset>,
    batch: Vec<u8>,
}

struct Pending {
    value: u64,
    offset: Offset,
    /// The highest offset that had been acknowledged when it was sent.
    after: Option<Offset>,
    acked: Acked,
}

impl Cluster {
    /// A client appends, or reads.
    pub(super) fn act(&mut self) -> std::result::Result<(), Failure> {
        if !self.is_mended {
            let next = self.rng.between(1, 30);
            self.later(next, Event::Act);
        }
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        if self.rng.chance(1, 4) {
            let node = *self.rng.pick(&ids);
            return self.read(node);
        }
        // Some ask whoever they find.
        let asks_any = self.rng.chance(1, 10);
        if self.options.has_groups && self.rng.chance(1, 4) {
            return self.act_for_group(asks_any);
        }
        let leads = |id: &NodeId| self.nodes[id].leads(ID).is_some();
        let leaders: Vec<NodeId> = ids.into_iter().filter(|id| asks_any || leads(id)).collect();
        if leaders.is_empty() {
            return Ok(());
        }
        let leader = *self.rng.pick(&leaders);
        if self.nodes[&leader].paused_until > self.now() {
            return Ok(());
        }
        let is_down = self.nodes[&leader].log.is_none();
        if self.rng.chance(1, 3) {
            self.send_numbered(leader);
        }
        for _ in 0..self.rng.between(0, 4) {
            self.append(leader);
        }
        if is_down {
            return Ok(());
        }
        self.wake_at(leader, self.now());
        Ok(())
    }

    /// The next value, and what is sent of it.
    fn next_value(&mut self) -> (u64, String) {
        let value = self.history.next_value;
        self.history.next_value += 1;
        let len = self.rng.between(1, 60) as usize;
        (value, format!("{value:0>len$}"))
    }

    /// Sends what was not acknowledged once more, whatever came of it before; or the next.
    fn send_numbered(&mut self, node: NodeId) {
        if self.history.numbered.is_none() {
            let (value, text) = self.next_value();
            let producer = Producer {
                id: ProducerId(7),
                epoch: ProducerEpoch(0),
                base_sequence: self.history.next_sequence,
                is_transactional: false,
            };
            let mut builder = BatchBuilder::new();
            builder.begin(BatchOptions::default().producer(producer));
            let built = builder.push(&Record::new(&*text), self.clock.now()).and_then(|_| builder.finish());
            let Ok(batch) = built.map(|batch| batch.to_vec()) else { return };
            self.history.next_sequence += 1;
            self.history.numbered = Some(Numbered { value, after: self.history.highest, batch });
        }
        let Some(partition) = self.nodes.get(&node).and_then(|node| node.partition.clone()) else { return };
        let Some(Numbered { value, after, batch }) = &self.history.numbered else { return };
        match partition.append_raw(batch) {
            Ok(appended) => {
                let (offset, acked) = (appended.offset(), Box::pin(appended.acked(Ack::Replicated)));
                self.history.pending.push(Pending { value: *value, offset, after: *after, acked });
            }
            Err(_) => self.report.unknown += 1,
        };
    }

    fn append(&mut self, node: NodeId) {
        let (value, text) = self.next_value();
        let after = self.history.highest;
        let Some(partition) = self.nodes.get(&node).and_then(|node| node.partition.clone()) else { return };
        match partition.append(text.as_str()) {
            Ok(appended) => {
                let (offset, acked) = (appended.offset(), Box::pin(appended.acked(Ack::Replicated)));
                self.history.pending.push(Pending { value, offset, after, acked });
            }
            Err(_) => self.report.unknown += 1,
        };
    }

    /// Hears of what was acknowledged since.
    pub(super) fn settle_appends(&mut self) -> std::result::Result<(), Failure> {
        let mut context = Context::from_waker(Waker::noop());
        let mut settled = Vec::new();
        self.history.pending.retain_mut(|pending| match pending.acked.as_mut().poll(&mut context) {
            Poll::Pending => true,
            Poll::Ready(outcome) => {
                settled.push((pending.value, pending.offset, pending.after, outcome));
                false
            }
        });
        for (value, offset, after, outcome) in settled {
            if outcome.is_err() {
                self.report.unknown += 1;
                continue;
            }
            self.report.acknowledged += 1;
            if let Some(other) = self.history.committed.insert(offset, value).filter(|other| *other != value) {
                let detail = format!("offset {offset}: {value} was acknowledged, and {other} before");
                return Err(self.failure("one value per offset", detail));
            }
            if after.is_some_and(|after| offset <= after) {
                let detail = format!("{value} at {offset} was sent when {after:?} was acknowledged");
                return Err(self.failure("acknowledged before sent", detail));
            }
            if let Some(other) = self.history.acked.insert(value, offset).filter(|other| *other != offset) {
                let detail = format!("{value} was acknowledged at {offset}, and at {other} before");
                return Err(self.failure("one offset per value", detail));
            }
            self.history.numbered.take_if(|numbered| numbered.value == value);
            self.history.highest = self.history.highest.max(Some(offset));
        }
        Ok(())
    }

    fn read(&mut self, node: NodeId) -> std::result::Result<(), Failure> {
        let Some(partition) = self.nodes.get(&node).and_then(|node| node.partition.clone()) else { return Ok(()) };
        let offsets = partition.offsets();
        let back = self.rng.below(40);
        let mut from = Offset(offsets.committed.0.saturating_sub(back)).max(offsets.start);
        while let Ok(records) = partition.read(from) {
            for record in &records {
                let value = value_of(record.value);
                if let Some(other) =
                    self.history.committed.insert(record.offset, value).filter(|other| *other != value)
                {
                    let detail = format!("node {node} has {value} at {}, and {other} was there", record.offset);
                    return Err(self.failure("one value per offset", detail));
                }
            }
            if records.next_offset() == from {
                break;
            }
            from = records.next_offset();
        }
        Ok(())
    }

    /// What must be true of each node at any time.
    pub(super) fn check_marks(&mut self) -> std::result::Result<(), Failure> {
        let ids = self.options.ids();
        let is_damaged = |node: &Node| node.log.is_some() && ids.iter().any(|id| node.partition_of(*id).is_none());
        if let Some(node) = self.nodes.values().find(|node| is_damaged(node)) {
            let detail = format!("node {}: {:?}", node.id, node.log.as_ref().map(crate::log::Log::damaged));
            return Err(self.failure("what nobody damaged can be opened", detail));
        }
        let mut found = None;
        for node in self.nodes.values_mut() {
            for (partition, seen) in [&node.partition, &node.groups].into_iter().zip(&mut node.seen) {
                let Some(partition) = partition else { continue };
                let now = partition.offsets();
                let in_order = now.start <= now.committed && now.committed <= now.end;
                let risen = seen.is_none_or(|seen| seen.committed <= now.committed && seen.start <= now.start);
                if (!in_order || !risen) && !partition.core.has_stopped() {
                    found = Some(format!("node {}: {seen:?}, then {now:?}", node.id));
                }
                *seen = Some(now);
            }
        }
        found.map_or(Ok(()), |detail| Err(self.failure("marks are in order, and rise", detail)))
    }

    /// Whether all nodes that hold a partition are there, and hold as much.
    pub(super) fn is_quiet(&self) -> bool {
        self.history.pending.is_empty()
            && self.groups.is_quiet()
            && self.options.ids().iter().all(|id| self.is_equal(*id))
    }

    fn is_equal(&self, id: PartitionId) -> bool {
        let Some(known) = self.controller.assignment(id) else { return false };
        let mut ends = Vec::new();
        for node in &known.replicas {
            let Some(partition) = self.nodes.get(node).and_then(|node| node.partition_of(id)) else { return false };
            let offsets = partition.offsets();
            ends.push((offsets.end, offsets.committed));
        }
        let (end, committed) = ends[0];
        let is_same = ends.iter().all(|other| *other == (end, committed));
        is_same && end == committed && known.in_sync.len() == known.replicas.len()
    }

    /// What must be true when all is quiet.
    pub(super) fn check_end(&mut self) -> std::result::Result<(), Failure> {
        let Some(known) = self.controller.assignment(ID).cloned() else { return Ok(()) };
        self.check_groups()?;
        let mut all: Option<Values> = None;
        let mut bytes: Option<Vec<u8>> = None;
        for id in &known.replicas {
            let Some(partition) = self.nodes.get(id).and_then(|node| node.partition.clone()) else { continue };
            let (stored, values) = match contents(&partition) {
                Ok(contents) => contents,
                Err(error) => return Err(self.failure("all can be read", format!("node {id}: {error}"))),
            };
            if all.get_or_insert_with(|| values.clone()) != &values {
                let detail = format!("node {id}: {values:?}, others {all:?}");
                return Err(self.failure("all hold the same records", detail));
            }
            if bytes.get_or_insert_with(|| stored.clone()) != &stored {
                return Err(self.failure("all hold the same bytes", format!("node {id}")));
            }
        }
        let found: BTreeMap<Offset, u64> = all.unwrap_or_default().into_iter().collect();
        for (value, offset) in &self.history.acked {
            if found.get(offset) != Some(value) {
                let detail = format!("{value} at {offset}, where {:?} is", found.get(offset));
                return Err(self.failure("what was acknowledged is there", detail));
            }
        }
        for (offset, value) in &self.history.committed {
            if found.get(offset) != Some(value) {
                let detail = format!("{value} at {offset}, where {:?} is", found.get(offset));
                return Err(self.failure("what was read as committed is there", detail));
            }
        }
        let mut values: Vec<u64> = found.values().copied().collect();
        values.sort_unstable();
        values.dedup();
        match values.len() == found.len() {
            true => Ok(()),
            false => Err(self.failure("no value is there twice", format!("{found:?}"))),
        }
    }
}

/// All batches, and all records.
fn contents(partition: &Partition) -> Result<(Vec<u8>, Values)> {
    let (bytes, mut values) = (stored(partition)?, Vec::new());
    let mut from = partition.offsets().start;
    loop {
        let records = partition.read(from)?;
        values.extend(records.iter().map(|record| (record.offset, value_of(record.value))));
        if records.next_offset() == from {
            return Ok((bytes, values));
        }
        from = records.next_offset();
    }
}

/// All batches.
pub(super) fn stored(partition: &Partition) -> Result<Vec<u8>> {
    let (mut bytes, mut from) = (Vec::new(), partition.offsets().start);
    loop {
        let batches = partition.fetch(from, ReadOptions::default().to_end())?;
        bytes.extend_from_slice(batches.bytes());
        if batches.next_offset() == from {
            return Ok(bytes);
        }
        from = batches.next_offset();
    }
}

fn value_of(bytes: Option<&[u8]>) -> u64 {
    bytes.and_then(|bytes| std::str::from_utf8(bytes).ok()).and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
}
