//! A plan: everything that happens in a run, in a list, with no chance left in it.

use std::time::Duration;

use super::subject::Subject;
use crate::sim::{DiskOptions, Errno, Fault, Rng, Times};

/// What happens, in order.
#[derive(Debug)]
pub struct Plan<S: Subject> {
    /// The seed it was drawn from; seeds of crash images derive from it.
    pub seed: u64,
    /// How the disk behaves.
    pub disk: DiskOptions,
    /// The subject's limits and weights.
    pub options: S::Options,
    /// The steps.
    pub steps: Vec<Step<S::Op>>,
}

/// One thing that happens.
#[derive(Debug, Clone)]
pub enum Step<Op> {
    /// An operation.
    Do(Op),
    /// From now on, this many calls ahead, something goes wrong.
    Fault(u64, Fault, Times),
    /// Nothing goes wrong any more.
    Heal,
    /// Closing and opening.
    Reopen,
    /// A power cut, with this seed, and opening.
    Crash(u64),
    /// A kill, and opening.
    Kill,
    /// A kill, an orderly restart of the machine, and opening.
    Restart,
    /// A kill, and opening of a copy.
    Copy,
    /// The wall clock jumps by this many milliseconds.
    Jump(i64),
    /// Time passes.
    Wait(Duration),
    /// The cache is dropped.
    Evict,
    /// No more than this many bytes are left free.
    Full(u64),
    /// There is room again.
    Room,
    /// Closing, damage to some file as this seed has it, opening; then the damage is undone.
    Rot(u64),
}

impl<Op> Step<Op> {
    pub(super) fn is_trouble(&self) -> bool {
        !matches!(self, Self::Do(_))
    }
}

impl<S: Subject> Plan<S> {
    /// A workload for the crash explorer: operations, and now and then a fault. The crashes are its own.
    pub(super) fn workload(seed: u64, len: usize) -> Self {
        let mut swarm = Rng::stream(seed, "swarm");
        let faults = u32::from(swarm.chance(1, 2)) * 16;
        let full = u32::from(swarm.chance(1, 2)) * 12;
        Self::draw(seed, len, &[200, faults, faults / 2, 3, 0, 0, 0, 0, 0, full, full, 0, 0, 0])
    }

    /// A sequence of everything.
    pub(super) fn sequence(seed: u64, len: usize) -> Self {
        let mut swarm = Rng::stream(seed, "swarm");
        let mut weights = [0; 14];
        for weight in &mut weights[1..] {
            *weight = if swarm.chance(1, 2) { 1 + swarm.below(8) as u32 } else { 0 };
        }
        weights[0] = 150;
        // A full disk gets room again, and a broken one heals, or the rest of the plan is one refusal.
        weights[2] = weights[2].max(weights[1] / 2);
        weights[10] = weights[10].max(weights[9]);
        // Each takes as long as many of the others.
        weights[13] = weights[13].div_ceil(2);
        Self::draw(seed, len, &weights)
    }

    fn draw(seed: u64, len: usize, weights: &[u32]) -> Self {
        let mut schedule = Rng::stream(seed, "schedule");
        let mut workload = Rng::stream(seed, "workload");
        let mut faults = Rng::stream(seed, "faults");
        let options = S::options(&mut Rng::stream(seed, "options"));
        let disk = DiskOptions { kind: schedule.chance(1, 4), torn: schedule.chance(1, 2), ..DiskOptions::default() };
        // Pages that fail to be written and are dropped before anybody hears of it break the promise of a page
        // cache itself, not ours.
        let silent = schedule.chance(1, 2);
        let step = |_| match schedule.weighted(weights) {
            0 => Step::Do(S::operation(&options, &mut workload)),
            1 => draw_fault(&mut faults, silent, S::KNOWS_WHOLE_FAILURES),
            2 => Step::Heal,
            3 => Step::Reopen,
            4 => Step::Crash(schedule.draw()),
            5 => Step::Kill,
            6 => Step::Jump(schedule.between(0, 20_000) as i64 - 10_000),
            7 => Step::Wait(Duration::from_millis(schedule.below(10_000))),
            8 if silent => Step::Heal,
            8 => Step::Evict,
            9 => Step::Full(schedule.below(4_096)),
            10 => Step::Room,
            11 => Step::Restart,
            12 => Step::Copy,
            _ => Step::Rot(schedule.draw()),
        };
        let steps = (0..len).map(step).collect();
        Self { seed, disk, options, steps }
    }
}

fn draw_fault<Op>(rng: &mut Rng, silent: bool, whole: bool) -> Step<Op> {
    let fault = match rng.below(if whole { 9 } else { 8 }) {
        8 => return Step::Fault(rng.below(12), Fault::Partly(*rng.pick(&[30, usize::MAX])), Times::Next(2)),
        0..=3 => Fault::Error(*rng.pick(&Errno::ALL)),
        4 | 5 => Fault::Short(1 + rng.below(40) as usize),
        6 if silent => Fault::WriteBack,
        _ => Fault::Slow(Duration::from_secs(rng.below(3_600))),
    };
    let times = match rng.below(4) {
        0 if fault != Fault::Error(Errno::Interrupted) => Times::Sticky,
        1 => Times::Count(1 + rng.below(3) as u32),
        _ => Times::Once,
    };
    let fault = match (fault, times) {
        // Producers are forgotten after a day, which a few hundred calls must not take.
        (Fault::Slow(time), Times::Sticky) => Fault::Slow(time / 100),
        _ => fault,
    };
    Step::Fault(rng.below(12), fault, times)
}
