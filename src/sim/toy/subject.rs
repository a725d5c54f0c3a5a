//! The toy log as the explorers see it, and the model of what it must hold.

use super::{Toy, ToyError};
use crate::sim::Rng;
use crate::sim::explore::{End, Refusal, Scenario, Subject, Verdict, Violation, World};

/// One call of the toy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Append the record with this id.
    Append(u64),
    /// Make all of it durable.
    Sync,
    /// Note how far it is.
    Checkpoint,
}

/// Limits and weights of one plan.
#[derive(Debug, Clone)]
pub struct Options {
    segment_len: u64,
    weights: [u32; 3],
    lens: Vec<u64>,
}

/// The ids appended, and how many of them must be there.
#[derive(Debug, Clone, Default)]
pub struct Model {
    records: Vec<u64>,
    /// The append that is under way.
    maybe: Option<u64>,
    synced: usize,
    /// How many a kill may not take.
    acknowledged: usize,
    /// How many must be found; before the first look.
    floor: Option<usize>,
}

impl Subject for Toy {
    const NAME: &'static str = "toy";
    const MARKS: &'static [&'static str] =
        &["toy.cut_failed_write", "toy.cut_tail", "toy.dropped_segment", "toy.poisoned", "toy.rolled"];
    const PLANTED: &'static [&'static str] = &[
        "disk.rename_before_sync",
        "disk.no_dir_sync",
        "toy.ack_before_sync",
        "toy.failed_sync_retried",
        "toy.length_trusted",
        "toy.hole_skipped",
        "toy.roll_without_cut",
        "toy.roll_without_sync",
        "toy.checkpoint_ahead",
        "toy.cut_not_synced",
        "toy.rewrite_by_cutting",
        "toy.tail_not_rewritten",
    ];

    type Op = Op;
    type Options = Options;
    type Model = Model;

    fn options(rng: &mut Rng) -> Options {
        let sync = rng.below(4) as u32;
        let checkpoint = rng.below(3) as u32;
        let lens = (0..1 + rng.below(3)).map(|_| *rng.pick(&[24, 40, 100, 255])).collect();
        Options { segment_len: *rng.pick(&[256, 600, 1_100, 4_096]), weights: [6, sync, checkpoint], lens }
    }

    fn operation(options: &Options, rng: &mut Rng) -> Op {
        match rng.weighted(&options.weights) {
            0 => Op::Append(rng.draw() << 8 | rng.pick(&options.lens)),
            1 => Op::Sync,
            _ => Op::Checkpoint,
        }
    }

    fn alphabets() -> Vec<(Options, Vec<Op>)> {
        let options = Options { segment_len: 300, weights: [4, 1, 1], lens: vec![40] };
        vec![(options, vec![Op::Append(1 << 8 | 40), Op::Append(2 << 8 | 255), Op::Sync, Op::Checkpoint])]
    }

    fn scenarios() -> Vec<Scenario<Self>> {
        let options = Options { segment_len: 256, weights: [4, 1, 1], lens: vec![40] };
        let append = |from: u64, count: u64| (from..from + count).map(|number| Op::Append(number << 8 | 40));
        let setup: Vec<_> = append(1, 8).chain([Op::Sync, Op::Checkpoint]).chain(append(10, 7)).collect();
        let ops: Vec<_> = append(20, 9).chain([Op::Sync, Op::Checkpoint]).chain(append(30, 3)).collect();
        let scenario = |name, setup: &[Op], end| Scenario {
            name,
            options: options.clone(),
            setup: setup.to_vec(),
            end,
            ops: ops.clone(),
        };
        vec![
            scenario("first open", &[], End::Close),
            scenario("after close", &setup, End::Close),
            scenario("after kill", &setup, End::Kill),
            scenario("after crash", &setup, End::Crash(1)),
            scenario("after another crash", &setup, End::Crash(2)),
        ]
    }

    fn model(_: &Options) -> Model {
        Model::default()
    }

    fn open(world: &World, options: &Options) -> Result<Self, Refusal> {
        Self::open(&world.disk, options.segment_len).map_err(|error| match error {
            ToyError::Corrupt(why) => Refusal::Corrupt(why),
            ToyError::Disk(why) => Refusal::Failed(why),
            ToyError::Poisoned => Refusal::Failed("poisoned".into()),
        })
    }

    fn settle(&mut self, model: &mut Model) -> Verdict {
        let found = self.read_all().map_err(|error| Violation::new("R3", format!("{error:?}")))?;
        let allowed: Vec<_> = model.records.iter().copied().chain(model.maybe.take()).collect();
        if !allowed.starts_with(&found) {
            return Err(Violation::new("D3", format!("found {found:x?}, where {allowed:x?} were appended")));
        }
        let floor = model.floor.take().unwrap_or(model.acknowledged);
        if found.len() < floor {
            return Err(Violation::new("D1", format!("found {} of {floor} records", found.len())));
        }
        model.acknowledged = found.len();
        model.records = found;
        self.check(model)?;
        self.claim(model)
    }

    fn expect(model: &mut Model, op: &Op) {
        if let Op::Append(id) = op {
            model.maybe = Some(*id);
        }
    }

    fn apply(&mut self, op: &Op, model: &mut Model) -> Verdict {
        let outcome = match op {
            Op::Append(id) => self.append(*id).map(|()| {
                model.records.push(*id);
                model.acknowledged = model.records.len();
            }),
            Op::Sync => self.sync(),
            Op::Checkpoint => self.checkpoint(),
        };
        model.maybe = None;
        if matches!(outcome, Err(ToyError::Corrupt(_))) {
            return Err(Violation::new("R3", format!("{outcome:?}")));
        }
        if self.is_poisoned {
            // Pages whose sync failed may be dropped from the cache at any time.
            model.acknowledged = model.acknowledged.min(model.synced.max(self.synced.end as usize));
        }
        self.check(model)?;
        self.claim(model)
    }

    fn is_stuck(&self) -> bool {
        self.is_poisoned
    }

    fn close(self, model: &mut Model) -> Verdict {
        let disk = std::sync::Arc::clone(&self.disk);
        let (segments, synced) = (self.claims(), self.end as usize);
        if self.close().is_ok() {
            model.synced = synced;
            for (path, written) in segments {
                // A file that is gone is found by the next opening.
                let _ = disk.claim_synced(&path, written);
            }
        } else {
            model.acknowledged = model.acknowledged.min(model.synced);
        }
        Ok(())
    }

    fn crashed(model: &mut Model) {
        model.floor = Some(model.synced);
    }

    fn killed(model: &mut Model) {
        model.floor.get_or_insert(model.acknowledged);
    }
}

impl Toy {
    /// What a closer look would only confirm.
    fn check(&self, model: &Model) -> Verdict {
        if self.end != model.records.len() as u64 {
            return Err(Violation::new("A2", format!("{} records, not {}", self.end, model.records.len())));
        }
        if (self.synced.end as usize) < model.synced || self.synced.end > self.end {
            return Err(Violation::new("D13", format!("{} synced, after {}", self.synced.end, model.synced)));
        }
        Ok(())
    }

    /// Tells the disk what is promised, for its audit.
    fn claim(&self, model: &mut Model) -> Verdict {
        if model.synced == self.synced.end as usize {
            return Ok(());
        }
        model.synced = self.synced.end as usize;
        for (path, written) in self.claims() {
            self.disk.claim_synced(&path, written).map_err(|error| Violation::new("D1", error.to_string()))?;
        }
        Ok(())
    }

    fn claims(&self) -> Vec<(std::path::PathBuf, u64)> {
        let below = |base: u64, written| match base == self.synced.base {
            true => self.synced.position,
            false => written,
        };
        let synced = self.segments.iter().filter(|segment| segment.base <= self.synced.base);
        synced.map(|segment| (segment.path.clone(), below(segment.base, segment.written))).collect()
    }
}
