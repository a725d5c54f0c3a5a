//! What a partition knows of the producers that wrote to it: enough to store a repeated batch once, to refuse one
//! whose predecessor is missing, and to tell a producer from its own former incarnation.
//!
//! Each producer numbers its records. A batch is accepted if it begins where the last one ended; it is a duplicate if
//! it equals one of the last five. A marker ends a transaction; one of a higher epoch also fences the producer.
//!
//! An append first checks, which changes nothing, then writes, then applies, which cannot fail. What is read back
//! from the log was checked when it was written: recovery only applies.
//!
//! Invariants:
//! - A producer is in a transaction exactly if [`Transactions`] has its first offset.
//! - A batch without a producer id leaves no trace, and costs one comparison.

use std::collections::BTreeMap;
use std::time::Duration;

use super::snapshot::{self, Entry, LastBatch};
use super::transactions::Transactions;
use crate::error::{Error, Result};
use crate::probe;
use crate::record::Sender;
use crate::types::{Offset, ProducerEpoch, ProducerId, Timestamp};

/// What a data batch says of its producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProducerBatch {
    /// [`ProducerId::NONE`] for a plain batch; the rest is then ignored.
    pub(crate) producer: ProducerId,
    pub(crate) epoch: ProducerEpoch,
    /// The sequence of the first record.
    pub(crate) base_sequence: i32,
    /// The sequence of the last record: see [`last_sequence`].
    pub(crate) last_sequence: i32,
    pub(crate) transactional: bool,
}

/// Where a batch was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) base_offset: Offset,
    pub(crate) last_offset: Offset,
    /// The largest of the batch.
    pub(crate) timestamp: Timestamp,
}

/// The end of a transaction, as a control batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) producer: ProducerId,
    pub(crate) epoch: ProducerEpoch,
    pub(crate) offset: Offset,
    pub(crate) timestamp: Timestamp,
    pub(crate) coordinator_epoch: i32,
    pub(crate) kind: MarkerKind,
}

/// What a marker decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MarkerKind {
    Commit,
    Abort,
}

/// Who appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A producer: all rules apply.
    Client,
    /// A producer in this process: the partition numbers its records, so that they follow.
    Local,
    /// A coordinator. Its batches carry no sequences to check.
    Coordinator,
    /// A leader, whose log is the truth: only what would contradict itself is refused.
    Replication,
}

/// What is to be done with a batch that breaks no rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checked {
    /// Store it, then [`apply`](Producers::apply) it.
    New,
    /// It is stored, here. Answer so, and change nothing.
    Duplicate(Placed),
}

/// A transaction that no marker has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenTransaction {
    pub(crate) producer: ProducerId,
    pub(crate) epoch: ProducerEpoch,
    /// Where it began.
    pub(crate) first: Offset,
    /// Of the last marker of the producer; -1 if there was none.
    pub(crate) coordinator_epoch: i32,
}

/// A transaction that a marker has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CompletedTxn {
    pub(crate) producer: ProducerId,
    pub(crate) first_offset: Offset,
    pub(crate) marker_offset: Offset,
    pub(crate) aborted: bool,
    /// For the index of aborted transactions: what the stable offset becomes once all this is committed.
    pub(crate) last_stable_offset: Offset,
}

/// All producers of a partition.
#[derive(Debug, Clone, Default)]
pub(crate) struct Producers {
    /// Ordered, so that the same appends give the same snapshot.
    known: BTreeMap<ProducerId, Producer>,
    transactions: Transactions,
}

impl Producers {
    /// The state of a snapshot, without the producers that expired since - but with those that are in a transaction,
    /// however old. Batches and markers above it are to be applied next.
    ///
    /// A snapshot knows one batch of each producer, so older duplicates are recognized only if they are replayed. It
    /// also does not know of transactions that ended below it: one taken above the committed end is of no use to a
    /// log whose markers are not committed yet.
    pub(crate) fn load(entries: &[Entry], now: Timestamp, expire_after: Duration) -> Self {
        let loaded = entries.iter().map(|entry| (entry.producer, Producer::load(entry)));
        let is_alive = |producer: &Producer| producer.open_since.is_some() || !producer.is_expired(now, expire_after);
        let known: BTreeMap<_, _> = loaded.filter(|(_, producer)| is_alive(producer)).collect();
        let mut transactions = Transactions::default();
        for (id, producer) in &known {
            if let Some(first) = producer.open_since {
                transactions.begin(first, *id);
            }
        }
        Self { known, transactions }
    }

    /// Follows a data batch that was stored.
    #[inline]
    pub(crate) fn apply(&mut self, batch: &ProducerBatch, placed: Placed) {
        if batch.producer.is_some() {
            self.apply_known(batch, placed);
        }
    }

    /// Follows a batch that got longer since it was [applied](Self::apply).
    pub(crate) fn grow(&mut self, batch: &ProducerBatch, placed: Placed) {
        let known = self.known.get_mut(&batch.producer);
        let newest = known.and_then(|producer| {
            producer.last_timestamp = placed.timestamp;
            producer.window.last_mut()
        });
        match newest.filter(|newest| newest.placed.base_offset == placed.base_offset) {
            Some(newest) => {
                *newest = Kept { placed, base_sequence: batch.base_sequence, last_sequence: batch.last_sequence };
            }
            // It was forgotten meanwhile.
            None => self.apply(batch, placed),
        }
    }

    /// Follows a marker that was stored. Returns the transaction it ended; a marker may also end none.
    pub(crate) fn apply_marker(&mut self, marker: &Marker) -> Option<CompletedTxn> {
        if !marker.producer.is_some() {
            return None;
        }
        let producer = self.known.entry(marker.producer).or_insert_with(|| Producer::new(marker.epoch));
        producer.enter(marker.epoch);
        producer.coordinator_epoch = marker.coordinator_epoch;
        producer.last_timestamp = marker.timestamp;
        let first_offset = producer.open_since.take()?;
        let last_stable_offset = self.transactions.end(first_offset, marker.producer, marker.offset);
        Some(CompletedTxn {
            producer: marker.producer,
            first_offset,
            marker_offset: marker.offset,
            aborted: marker.kind == MarkerKind::Abort,
            last_stable_offset,
        })
    }

    /// Follows the committed end. To be called after replay too: markers below it are old news then.
    #[inline]
    pub(crate) fn committed_to(&mut self, end: Offset) {
        self.transactions.committed_to(end);
    }

    /// Forgets producers that wrote nothing for `after`, by the timestamps of their batches. One in a transaction
    /// stays. Returns how many went; a retry of theirs would be stored again.
    pub(crate) fn expire(&mut self, now: Timestamp, after: Duration) -> usize {
        let before = self.known.len();
        self.known.retain(|_, producer| producer.open_since.is_some() || !producer.is_expired(now, after));
        let expired = before - self.known.len();
        if expired > 0 {
            probe::reached("producers.expired");
        }
        expired
    }

    /// Decides what to do with a data batch, and changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::ProducerFenced`], [`Error::OutOfOrderSequence`] or [`Error::InvalidTransaction`].
    #[inline]
    pub(crate) fn check(&self, batch: &ProducerBatch, origin: Origin) -> Result<Checked> {
        if !batch.producer.is_some() {
            return Ok(Checked::New);
        }
        // An unknown producer may begin anywhere: its state may have expired.
        let Some(known) = self.known.get(&batch.producer) else { return Ok(Checked::New) };
        known.check(batch, origin)
    }

    /// The number of the next record of a producer in this process, whose records are numbered here; -1 for a plain one.
    ///
    /// # Errors
    ///
    /// [`Error::ProducerFenced`] or [`Error::InvalidTransaction`].
    pub(crate) fn next_sequence(&self, sender: Sender) -> Result<i32> {
        if !sender.is_some() {
            return Ok(-1);
        }
        let Some(known) = self.known.get(&sender.producer) else { return Ok(0) };
        known.check_epoch(sender.producer, sender.epoch, Origin::Local)?;
        known.check_transaction(sender.producer, sender.is_transactional)?;
        Ok(next_sequence(known.last_sequence(sender.epoch)))
    }

    /// Decides whether a marker may be stored, and changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::ProducerFenced`] or [`Error::CoordinatorFenced`].
    pub(crate) fn check_marker(&self, marker: &Marker, origin: Origin) -> Result<()> {
        let Some(known) = self.known.get(&marker.producer) else { return Ok(()) };
        known.check_epoch(marker.producer, marker.epoch, origin)?;
        if marker.coordinator_epoch < known.coordinator_epoch && origin != Origin::Replication {
            return Err(Error::CoordinatorFenced {
                producer: marker.producer,
                epoch: marker.coordinator_epoch,
                current: known.coordinator_epoch,
            });
        }
        Ok(())
    }

    /// The transaction that a producer has open, if one is.
    pub(crate) fn open_of(&self, producer: ProducerId) -> Option<OpenTransaction> {
        let known = self.known.get(&producer)?;
        let (epoch, coordinator_epoch) = (known.epoch, known.coordinator_epoch);
        Some(OpenTransaction { producer, epoch, first: known.open_since?, coordinator_epoch })
    }

    /// The largest id below another that is known.
    pub(crate) fn last_id(&self, below: ProducerId) -> Option<ProducerId> {
        self.known.range(..below).next_back().map(|(id, _)| *id)
    }

    /// Who has a transaction open, by the earliest.
    pub(crate) fn open(&self) -> Vec<OpenTransaction> {
        let open = self.known.iter().filter_map(|(id, producer)| {
            let (first, epoch) = (producer.open_since?, producer.epoch);
            Some(OpenTransaction { producer: *id, epoch, first, coordinator_epoch: producer.coordinator_epoch })
        });
        let mut open: Vec<_> = open.collect();
        open.sort_unstable_by_key(|open| open.first);
        open
    }

    /// The transactions in progress.
    pub(crate) fn transactions(&self) -> &Transactions {
        &self.transactions
    }

    /// How many producers are known.
    pub(crate) fn count(&self) -> usize {
        self.known.len()
    }

    /// What a snapshot keeps, by ascending id.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        self.known.iter().map(|(id, producer)| producer.entry(*id))
    }

    /// The bytes of a snapshot at the end of the log.
    pub(crate) fn snapshot(&self) -> Vec<u8> {
        snapshot::encode(self.entries())
    }

    fn apply_known(&mut self, batch: &ProducerBatch, placed: Placed) {
        let producer = self.known.entry(batch.producer).or_insert_with(|| Producer::new(batch.epoch));
        producer.enter(batch.epoch);
        producer.window.push(Kept { placed, base_sequence: batch.base_sequence, last_sequence: batch.last_sequence });
        producer.last_timestamp = placed.timestamp;
        if batch.transactional && producer.open_since.is_none() {
            producer.open_since = Some(placed.base_offset);
            self.transactions.begin(placed.base_offset, batch.producer);
        }
    }
}

/// The sequence of the last of several records. Sequences go from 0 to 2^31 - 1 and begin again at 0; -1 is none.
#[inline]
pub(crate) fn last_sequence(base_sequence: i32, last_offset_delta: i32) -> i32 {
    if base_sequence < 0 {
        return base_sequence;
    }
    (base_sequence.wrapping_add(last_offset_delta)) & i32::MAX
}

/// The sequence after this one.
fn next_sequence(last: i32) -> i32 {
    if last == i32::MAX { 0 } else { last + 1 }
}

/// One producer.
#[derive(Debug, Clone)]
struct Producer {
    epoch: ProducerEpoch,
    /// -1 if no marker was seen.
    coordinator_epoch: i32,
    /// Of the last batch or marker.
    last_timestamp: Timestamp,
    /// Where its open transaction began.
    open_since: Option<Offset>,
    /// Its last batches under this epoch.
    window: Window,
}

impl Producer {
    fn new(epoch: ProducerEpoch) -> Self {
        Self {
            epoch,
            coordinator_epoch: -1,
            last_timestamp: Timestamp::NONE,
            open_since: None,
            window: Window::EMPTY,
        }
    }

    fn load(entry: &Entry) -> Self {
        let mut window = Window::EMPTY;
        if let Some(LastBatch { last_sequence, base_offset, last_offset }) = entry.last_batch {
            let delta = last_offset.0.saturating_sub(base_offset.0) as i32;
            let base_sequence = last_sequence.wrapping_sub(delta) & i32::MAX;
            let placed = Placed { base_offset, last_offset, timestamp: entry.timestamp };
            window.push(Kept { placed, base_sequence, last_sequence });
        }
        Self {
            epoch: entry.epoch,
            coordinator_epoch: entry.coordinator_epoch,
            last_timestamp: entry.timestamp,
            open_since: entry.open_since,
            window,
        }
    }

    fn entry(&self, producer: ProducerId) -> Entry {
        let last_batch = self.window.last().map(|kept| LastBatch {
            last_sequence: kept.last_sequence,
            base_offset: kept.placed.base_offset,
            last_offset: kept.placed.last_offset,
        });
        Entry {
            producer,
            epoch: self.epoch,
            last_batch,
            timestamp: self.last_timestamp,
            coordinator_epoch: self.coordinator_epoch,
            open_since: self.open_since,
        }
    }

    /// Goes on under `epoch`. Another one numbers its records anew.
    fn enter(&mut self, epoch: ProducerEpoch) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.window = Window::EMPTY;
        }
    }

    fn check(&self, batch: &ProducerBatch, origin: Origin) -> Result<Checked> {
        if origin == Origin::Client
            && let Some(placed) = self.duplicate_of(batch)
        {
            probe::reached("producers.duplicate");
            return Ok(Checked::Duplicate(placed));
        }
        self.check_epoch(batch.producer, batch.epoch, origin)?;
        if origin == Origin::Client {
            self.check_sequence(batch)?;
        }
        self.check_transaction(batch.producer, batch.transactional)?;
        Ok(Checked::New)
    }

    fn check_transaction(&self, producer: ProducerId, is_transactional: bool) -> Result<()> {
        if self.open_since.is_some() && !is_transactional {
            let reason = "a batch outside of the transaction that is open";
            return Err(Error::InvalidTransaction { producer, reason });
        }
        Ok(())
    }

    /// The number of the last record under this epoch; -1 if there is none.
    fn last_sequence(&self, epoch: ProducerEpoch) -> i32 {
        self.window.last().filter(|_| epoch == self.epoch).map_or(-1, |kept| kept.last_sequence)
    }

    fn duplicate_of(&self, batch: &ProducerBatch) -> Option<Placed> {
        let kept = self.window.find(batch.base_sequence, batch.last_sequence)?;
        (self.epoch == batch.epoch).then_some(kept.placed)
    }

    fn check_epoch(&self, producer: ProducerId, epoch: ProducerEpoch, origin: Origin) -> Result<()> {
        if epoch < self.epoch && origin != Origin::Replication {
            probe::reached("producers.fenced");
            return Err(Error::ProducerFenced { producer, epoch, current: self.epoch });
        }
        Ok(())
    }

    fn check_sequence(&self, batch: &ProducerBatch) -> Result<()> {
        if self.epoch == ProducerEpoch::NONE {
            return Ok(());
        }
        let last = self.last_sequence(batch.epoch);
        if batch.base_sequence == next_sequence(last) {
            return Ok(());
        }
        probe::reached("producers.out_of_order");
        Err(Error::OutOfOrderSequence { producer: batch.producer, sequence: batch.base_sequence, last })
    }

    fn is_expired(&self, now: Timestamp, after: Duration) -> bool {
        let age_ms = i128::from(now.0) - i128::from(self.last_timestamp.0);
        age_ms >= 0 && age_ms as u128 >= after.as_millis()
    }
}

/// The last batches of a producer, the newest last.
#[derive(Debug, Clone)]
struct Window {
    kept: [Kept; WINDOW],
    count: usize,
}

/// A batch that would be recognized if it came again.
#[derive(Debug, Clone, Copy)]
struct Kept {
    placed: Placed,
    base_sequence: i32,
    last_sequence: i32,
}

impl Window {
    const EMPTY: Self = {
        let placed = Placed { base_offset: Offset::ZERO, last_offset: Offset::ZERO, timestamp: Timestamp::NONE };
        Self { kept: [Kept { placed, base_sequence: -1, last_sequence: -1 }; WINDOW], count: 0 }
    };

    fn push(&mut self, newest: Kept) {
        if self.count == WINDOW {
            self.kept.copy_within(1.., 0);
            self.count -= 1;
        }
        self.kept[self.count] = newest;
        self.count += 1;
    }

    fn find(&self, base_sequence: i32, last_sequence: i32) -> Option<&Kept> {
        let mut kept = self.kept[..self.count].iter();
        kept.find(|kept| kept.base_sequence == base_sequence && kept.last_sequence == last_sequence)
    }

    fn last(&self) -> Option<&Kept> {
        self.kept[..self.count].last()
    }

    fn last_mut(&mut self) -> Option<&mut Kept> {
        self.kept[..self.count].last_mut()
    }
}

/// How many batches of a producer are recognized if they come again. A producer has no more of them in flight.
const WINDOW: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// What Kafka's own classes answered, step by step.
    #[test]
    fn every_scenario_of_kafka_holds() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/scenarios/producer-state.json");
        let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let scenarios = file["scenarios"].as_array().unwrap();
        for scenario in scenarios {
            let mut producers = Producers::default();
            for step in scenario["steps"].as_array().unwrap() {
                let context = format!("{}: {step}", scenario["name"]);
                if step["op"] == "data" {
                    data_step(&mut producers, step, &context);
                } else {
                    marker_step(&mut producers, step, &context);
                }
                let first = |offset: Option<Offset>| offset.map_or(Value::Null, |offset| offset.0.into());
                assert_eq!(first(producers.transactions.first_open()), step["firstUndecided"], "{context}");
                assert_eq!(first(producers.transactions.first_unstable()), step["firstUnstable"], "{context}");
            }
            final_producers(&producers, scenario);
        }
        assert_eq!(scenarios.len(), 12);
    }

    fn data_step(producers: &mut Producers, step: &Value, context: &str) {
        let count = number(step, "count");
        let batch = ProducerBatch {
            producer: ProducerId(number(step, "pid")),
            epoch: ProducerEpoch(number(step, "epoch") as i16),
            base_sequence: number(step, "firstSeq") as i32,
            last_sequence: last_sequence(number(step, "firstSeq") as i32, count as i32 - 1),
            transactional: step["txn"].as_bool().unwrap(),
        };
        let at = Offset(number(step, "atOffset") as u64);
        match producers.check(&batch, origin(step)) {
            Ok(Checked::New) => {
                assert_eq!(step["result"], "OK", "{context}");
                producers.apply(&batch, placed(at.0, count as u64));
            }
            Ok(Checked::Duplicate(placed)) => {
                assert_eq!(step["result"], "DUPLICATE", "{context}");
                assert_eq!(placed.base_offset.0, step["firstOffset"], "{context}");
                assert_eq!(placed.last_offset.0, step["lastOffset"], "{context}");
            }
            Err(error) => assert_eq!(step["result"], kafka_name(&error), "{context}"),
        }
    }

    fn marker_step(producers: &mut Producers, step: &Value, context: &str) {
        let marker = Marker {
            producer: ProducerId(number(step, "pid")),
            epoch: ProducerEpoch(number(step, "epoch") as i16),
            offset: Offset(number(step, "atOffset") as u64),
            timestamp: NOW,
            coordinator_epoch: number(step, "coordinatorEpoch") as i32,
            kind: if step["type"] == "ABORT" { MarkerKind::Abort } else { MarkerKind::Commit },
        };
        if let Err(error) = producers.check_marker(&marker, origin(step)) {
            assert_eq!(step["result"], kafka_name(&error), "{context}");
            return;
        }
        assert_eq!(step["result"], "OK", "{context}");
        let completed = producers.apply_marker(&marker);
        assert_eq!(completed.is_some(), step["completed"].is_object(), "{context}");
        if let Some(txn) = completed {
            let expected = &step["completed"];
            assert_eq!(txn.first_offset.0, expected["firstOffset"], "{context}");
            assert_eq!(txn.marker_offset.0, expected["lastOffset"], "{context}");
            assert_eq!(txn.aborted, expected["aborted"], "{context}");
            assert_eq!(txn.last_stable_offset.0, expected["lastStableOffset"], "{context}");
        }
    }

    fn final_producers(producers: &Producers, scenario: &Value) {
        let expected = scenario["finalProducers"].as_array().unwrap();
        assert_eq!(producers.count(), expected.len(), "{}", scenario["name"]);
        for (entry, expected) in producers.entries().zip(expected) {
            let last = entry.last_batch;
            assert_eq!(entry.producer.0, expected["pid"]);
            assert_eq!(entry.epoch.0, expected["epoch"]);
            assert_eq!(last.map_or(-1, |last| last.last_sequence), expected["lastSeq"]);
            assert_eq!(last.map_or(-1, |last| last.last_offset.to_wire()), expected["lastDataOffset"]);
            assert_eq!(producers.known[&entry.producer].window.count, expected["cachedBatches"]);
            assert_eq!(entry.open_since.map_or(-1, Offset::to_wire), expected["currentTxnFirstOffset"]);
            assert_eq!(entry.coordinator_epoch, expected["coordinatorEpoch"]);
        }
    }

    #[test]
    fn a_plain_batch_leaves_no_trace() {
        let mut producers = Producers::default();
        let plain = ProducerBatch { producer: ProducerId::NONE, ..batch(0, 0, 1) };
        assert_eq!(producers.check(&plain, Origin::Client).unwrap(), Checked::New);
        producers.apply(&plain, placed(0, 1));
        assert_eq!((producers.count(), producers.transactions.open_count()), (0, 0));
        assert_eq!(producers.apply_marker(&Marker { producer: ProducerId::NONE, ..marker(0, 1) }), None);
        assert_eq!(producers.count(), 0);
    }

    #[test]
    fn sequences_go_round_past_the_largest() {
        assert_eq!(last_sequence(i32::MAX, 0), i32::MAX);
        assert_eq!(last_sequence(i32::MAX, 1), 0);
        assert_eq!(last_sequence(i32::MAX - 1, 2), 0);
        assert_eq!(last_sequence(5, i32::MAX), 4);
        assert_eq!(last_sequence(-1, 7), -1);

        // A batch across the end is recognized after a reload, where its first sequence is computed again.
        let across = ProducerBatch { last_sequence: 0, ..batch(0, i32::MAX - 1, 3) };
        let mut producers = Producers::default();
        producers.apply(&across, placed(40, 3));
        let entries: Vec<_> = producers.entries().collect();
        let loaded = Producers::load(&entries, NOW, Duration::from_secs(1));
        assert_eq!(loaded.check(&across, Origin::Client).unwrap(), Checked::Duplicate(placed(40, 3)));
    }

    /// Numbers go to records that are there, whoever asks for one: a failed append uses none up.
    #[test]
    fn the_next_number_follows_the_last_record() {
        let sender = Sender { producer: ProducerId(1), epoch: ProducerEpoch(0), is_transactional: false };
        let mut producers = Producers::default();
        assert_eq!(producers.next_sequence(sender).unwrap(), 0);
        assert_eq!(producers.next_sequence(Sender::NONE).unwrap(), -1);
        producers.apply(&batch(0, 0, 1), placed(10, 1));
        producers.grow(&batch(0, 0, 4), placed(10, 4));
        assert_eq!(producers.next_sequence(sender).unwrap(), 4);
        assert_eq!(producers.check(&batch(0, 0, 4), Origin::Client).unwrap(), Checked::Duplicate(placed(10, 4)));
        producers.apply(&batch(0, i32::MAX - 1, 2), placed(20, 2));
        assert_eq!(producers.next_sequence(sender).unwrap(), 0);
        let next = Sender { epoch: ProducerEpoch(1), ..sender };
        assert_eq!(producers.next_sequence(next).unwrap(), 0);
        // It grows after it was forgotten: then it is what is known of the producer.
        assert_eq!(producers.expire(Timestamp(i64::MAX), Duration::ZERO), 1);
        producers.grow(&batch(0, 7, 2), placed(30, 2));
        assert_eq!(producers.next_sequence(sender).unwrap(), 9);
        producers.apply(&ProducerBatch { transactional: true, ..batch(1, 0, 1) }, placed(32, 1));
        assert!(matches!(producers.next_sequence(sender), Err(Error::ProducerFenced { .. })));
        assert!(matches!(producers.next_sequence(next), Err(Error::InvalidTransaction { .. })));
        assert_eq!(producers.open_of(ProducerId(1)).map(|open| open.first), Some(Offset(32)));
    }

    #[test]
    fn an_idle_producer_expires_unless_its_transaction_is_open() {
        let mut producers = Producers::default();
        producers.apply(&batch(0, 0, 1), placed(0, 1));
        let open = ProducerBatch { producer: ProducerId(2), transactional: true, ..batch(0, 0, 1) };
        producers.apply(&open, placed(1, 1));
        let day = Duration::from_millis(1000);
        let entries: Vec<_> = producers.entries().collect();

        let just_before = Timestamp(NOW.0 + 999);
        assert_eq!(producers.expire(just_before, day), 0);
        assert_eq!(Producers::load(&entries, just_before, day).count(), 2);
        let then = Timestamp(NOW.0 + 1000);
        assert_eq!(producers.expire(then, day), 1);
        assert_eq!((producers.count(), producers.transactions.open_count()), (1, 1));
        let loaded = Producers::load(&entries, then, day);
        assert_eq!((loaded.count(), loaded.transactions.first_open()), (1, Some(Offset(1))));

        // The forgotten one may begin anywhere; a clock that was set back forgets nobody.
        assert_eq!(producers.check(&batch(0, 77, 1), Origin::Client).unwrap(), Checked::New);
        assert_eq!(producers.expire(Timestamp(i64::MIN), day), 0);
    }

    #[test]
    fn replication_takes_what_a_leader_has_taken() {
        let mut producers = Producers::default();
        producers.apply(&batch(3, 0, 1), placed(0, 1));
        for foreign in [batch(2, 9, 1), batch(3, 7, 2), batch(3, 0, 1)] {
            assert_eq!(producers.check(&foreign, Origin::Replication).unwrap(), Checked::New);
        }
        assert!(matches!(
            producers.check(&batch(2, 9, 1), Origin::Coordinator),
            Err(Error::ProducerFenced { epoch: ProducerEpoch(2), current: ProducerEpoch(3), .. })
        ));
        assert!(producers.check(&batch(3, 9, 1), Origin::Coordinator).is_ok(), "no sequences to check");
    }

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn batch(epoch: i16, base_sequence: i32, count: i32) -> ProducerBatch {
        ProducerBatch {
            producer: ProducerId(1),
            epoch: ProducerEpoch(epoch),
            base_sequence,
            last_sequence: last_sequence(base_sequence, count - 1),
            transactional: false,
        }
    }

    fn placed(at: u64, count: u64) -> Placed {
        Placed { base_offset: Offset(at), last_offset: Offset(at + count - 1), timestamp: NOW }
    }

    fn marker(epoch: i16, at: u64) -> Marker {
        Marker {
            producer: ProducerId(1),
            epoch: ProducerEpoch(epoch),
            offset: Offset(at),
            timestamp: NOW,
            coordinator_epoch: 0,
            kind: MarkerKind::Commit,
        }
    }

    fn number(step: &Value, name: &str) -> i64 {
        step[name].as_i64().unwrap()
    }

    fn origin(step: &Value) -> Origin {
        match step["origin"].as_str().unwrap() {
            "CLIENT" => Origin::Client,
            "COORDINATOR" => Origin::Coordinator,
            _ => Origin::Replication,
        }
    }

    fn kafka_name(error: &Error) -> &'static str {
        match error {
            Error::OutOfOrderSequence { .. } => "OUT_OF_ORDER_SEQUENCE_NUMBER",
            Error::ProducerFenced { .. } => "INVALID_PRODUCER_EPOCH",
            Error::InvalidTransaction { .. } => "INVALID_TXN_STATE",
            Error::CoordinatorFenced { .. } => "TRANSACTION_COORDINATOR_FENCED",
            _ => "another error",
        }
    }
}
