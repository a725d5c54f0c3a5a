//! The producers of a partition against the naive form of the same: a model that keeps every batch of an epoch, and
//! every transaction there ever was.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::producers::{Checked, Marker, MarkerKind, Origin, Placed, ProducerBatch, Producers};
use super::snapshot;
use crate::error::Error;
use crate::types::{Offset, ProducerEpoch, ProducerId, Timestamp};

proptest! {
    /// Repeated batches are answered with their place, gaps and old epochs are refused without effect, and nothing of
    /// an undecided transaction is stable - also behind reloads, which keep one batch of each producer.
    #[test]
    fn producers_do_what_the_naive_model_does(steps in prop::collection::vec(any_step(), 0..120)) {
        let mut pair = Pair::default();
        for step in steps {
            pair.take(step);
            let stable = pair.real.transactions().stable(Offset::ZERO, Offset(pair.model.committed));
            assert_eq!(stable.0, pair.model.stable());
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// A batch whose epoch and first sequence are so far away from what they should be.
    Batch {
        id: i64,
        raise: i16,
        shift: i32,
        count: i32,
        txn: bool,
    },
    /// The batch before the last `back` ones, again.
    Repeat {
        id: i64,
        back: usize,
        txn: bool,
    },
    Marker {
        id: i64,
        raise: i16,
        coordinator: i32,
        abort: bool,
    },
    Commit {
        count: u64,
    },
    Reload,
}

fn any_step() -> impl Strategy<Value = Step> {
    let raise = || prop_oneof![16 => Just(0), 1 => Just(1), 1 => Just(-1)];
    let shift = prop_oneof![16 => Just(0), 1 => -3..0, 1 => 1..3];
    let coordinator = prop_oneof![8 => Just(1), 1 => 0..3];
    prop_oneof![
        30 => (0..3_i64, raise(), shift, 1..4, any::<bool>())
            .prop_map(|(id, raise, shift, count, txn)| Step::Batch { id, raise, shift, count, txn }),
        15 => (0..3_i64, 0..8_usize, any::<bool>()).prop_map(|(id, back, txn)| Step::Repeat { id, back, txn }),
        6 => (0..3_i64, raise(), coordinator, any::<bool>())
            .prop_map(|(id, raise, coordinator, abort)| Step::Marker { id, raise, coordinator, abort }),
        6 => (0..9_u64).prop_map(|count| Step::Commit { count }),
        1 => Just(Step::Reload),
    ]
}

/// The real thing and the model, which are to agree on every answer.
#[derive(Default)]
struct Pair {
    real: Producers,
    model: Model,
}

impl Pair {
    fn take(&mut self, step: Step) {
        match step {
            Step::Batch { id, raise, shift, count, txn } => {
                let epoch = self.model.epoch(id) + raise;
                let first = (self.model.next_sequence(id, epoch) + shift).max(0);
                self.batch(id, epoch, first, first + count - 1, txn);
            }
            Step::Repeat { id, back, txn } => {
                let Some(known) = self.model.known.get(&id) else { return };
                let Some(batch) = known.batches.iter().rev().nth(back) else { return };
                self.batch(id, known.epoch, batch.first, batch.last, txn);
            }
            Step::Marker { id, raise, coordinator, abort } => {
                self.marker(id, self.model.epoch(id) + raise, coordinator, abort);
            }
            Step::Commit { count } => {
                self.model.committed = (self.model.committed + count).min(self.model.end);
                self.real.committed_to(Offset(self.model.committed));
            }
            Step::Reload => self.reload(),
        }
    }

    fn batch(&mut self, id: i64, epoch: i16, first: i32, last: i32, transactional: bool) {
        let batch = ProducerBatch {
            producer: ProducerId(id),
            epoch: ProducerEpoch(epoch),
            base_sequence: first,
            last_sequence: last,
            transactional,
        };
        let before = self.real.snapshot();
        let expected = self.model.judge(id, epoch, first, last, transactional);
        match self.real.check(&batch, Origin::Client) {
            Ok(Checked::New) => {
                assert_eq!(expected, Verdict::New);
                let base_offset = Offset(self.model.end);
                let last_offset = base_offset + (last - first) as u64;
                self.real.apply(&batch, Placed { base_offset, last_offset, timestamp: NOW });
                self.model.store(id, epoch, first, last, transactional);
            }
            Ok(Checked::Duplicate(at)) => assert_eq!(expected, Verdict::StoredAt(at.base_offset.0)),
            Err(error) => {
                let refused = match error {
                    Error::ProducerFenced { .. } => Verdict::Fenced,
                    Error::OutOfOrderSequence { .. } => Verdict::Gap,
                    _ => Verdict::OutsideTransaction,
                };
                assert_eq!(expected, refused);
                assert_eq!(self.real.snapshot(), before);
            }
        }
    }

    fn marker(&mut self, id: i64, epoch: i16, coordinator: i32, abort: bool) {
        let offset = self.model.end;
        let marker = Marker {
            producer: ProducerId(id),
            epoch: ProducerEpoch(epoch),
            offset: Offset(offset),
            timestamp: NOW,
            coordinator_epoch: coordinator,
            kind: if abort { MarkerKind::Abort } else { MarkerKind::Commit },
        };
        let known = self.model.known.get(&id);
        let allowed = known.is_none_or(|known| epoch >= known.epoch && coordinator >= known.coordinator);
        assert_eq!(self.real.check_marker(&marker, Origin::Coordinator).is_ok(), allowed);
        if !allowed {
            return;
        }
        let completed = self.real.apply_marker(&marker);
        let first = self.model.end_transaction(id, epoch, coordinator);
        assert_eq!(completed.map(|txn| txn.first_offset.0), first);
        if let Some(txn) = completed {
            assert_eq!((txn.aborted, txn.marker_offset.0), (abort, offset));
            assert_eq!(txn.last_stable_offset.0, self.model.first_open().unwrap_or(offset + 1));
        }
    }

    fn reload(&mut self) {
        // A snapshot is for a log that is committed as far: it has forgotten the transactions that ended.
        self.model.committed = self.model.end;
        let entries = snapshot::decode(&self.real.snapshot(), Offset(self.model.end)).unwrap();
        self.real = Producers::load(&entries, NOW, Duration::from_secs(1));
        for known in self.model.known.values_mut() {
            known.batches.drain(..known.batches.len().saturating_sub(1));
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    New,
    StoredAt(u64),
    Fenced,
    Gap,
    OutsideTransaction,
}

#[derive(Default)]
struct Model {
    known: BTreeMap<i64, Known>,
    txns: Vec<Txn>,
    end: u64,
    committed: u64,
}

struct Known {
    epoch: i16,
    coordinator: i32,
    batches: Vec<Batch>,
}

struct Batch {
    first: i32,
    last: i32,
    base_offset: u64,
}

struct Txn {
    id: i64,
    first_offset: u64,
    marker: Option<u64>,
}

impl Model {
    fn epoch(&self, id: i64) -> i16 {
        self.known.get(&id).map_or(7, |known| known.epoch)
    }

    fn next_sequence(&self, id: i64, epoch: i16) -> i32 {
        let known = self.known.get(&id).filter(|known| known.epoch == epoch);
        known.and_then(|known| known.batches.last()).map_or(0, |batch| batch.last + 1)
    }

    fn judge(&self, id: i64, epoch: i16, first: i32, last: i32, transactional: bool) -> Verdict {
        let Some(known) = self.known.get(&id) else { return Verdict::New };
        let repeated = known.batches.iter().rev().take(5).find(|batch| (batch.first, batch.last) == (first, last));
        if let Some(batch) = repeated.filter(|_| known.epoch == epoch) {
            Verdict::StoredAt(batch.base_offset)
        } else if epoch < known.epoch {
            Verdict::Fenced
        } else if first != self.next_sequence(id, epoch) {
            Verdict::Gap
        } else if !transactional && self.txns.iter().any(|txn| txn.id == id && txn.marker.is_none()) {
            Verdict::OutsideTransaction
        } else {
            Verdict::New
        }
    }

    fn store(&mut self, id: i64, epoch: i16, first: i32, last: i32, transactional: bool) {
        let base_offset = self.end;
        self.enter(id, epoch).batches.push(Batch { first, last, base_offset });
        if transactional && !self.txns.iter().any(|txn| txn.id == id && txn.marker.is_none()) {
            self.txns.push(Txn { id, first_offset: base_offset, marker: None });
        }
        self.end += (last - first) as u64 + 1;
    }

    /// Stores a marker, and returns where the transaction began that it ends.
    fn end_transaction(&mut self, id: i64, epoch: i16, coordinator: i32) -> Option<u64> {
        self.enter(id, epoch).coordinator = coordinator;
        let marker = self.end;
        self.end += 1;
        let txn = self.txns.iter_mut().find(|txn| txn.id == id && txn.marker.is_none())?;
        txn.marker = Some(marker);
        Some(txn.first_offset)
    }

    fn enter(&mut self, id: i64, epoch: i16) -> &mut Known {
        let known = self.known.entry(id).or_insert(Known { epoch, coordinator: -1, batches: Vec::new() });
        if known.epoch != epoch {
            (known.epoch, known.batches) = (epoch, Vec::new());
        }
        known
    }

    fn first_open(&self) -> Option<u64> {
        self.txns.iter().filter(|txn| txn.marker.is_none()).map(|txn| txn.first_offset).min()
    }

    fn stable(&self) -> u64 {
        let hidden = self.txns.iter().filter(|txn| txn.marker.is_none_or(|marker| marker >= self.committed));
        hidden.map(|txn| txn.first_offset).min().unwrap_or(u64::MAX).min(self.committed)
    }
}

const NOW: Timestamp = Timestamp(1_700_000_000_000);
