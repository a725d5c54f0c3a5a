//! Sequences of everything a user, a disk and a clock can do, against the model.

use super::plan::Plan;
use super::run::Run;
use super::subject::{Subject, Violation};
use super::{Budget, Tally};
use crate::sim::Record;

/// Steps in one sequence.
const STEPS: usize = 500;

pub(super) fn sequence<S: Subject>(seed: u64) -> Plan<S> {
    Plan::sequence(seed, STEPS)
}

/// Runs a sequence to its end. Where it fails, with the step.
pub(super) fn explore<S: Subject>(plan: &Plan<S>, tally: &Tally, _: &Budget) -> Result<u64, (usize, Violation)> {
    let mut run = Run::new(plan, Record::Nothing);
    run.open().map_err(|violation| (0, violation))?;
    for (index, step) in plan.steps.iter().enumerate() {
        run.step(step).map_err(|violation| (index, violation.within(format!("{step:?}"))))?;
    }
    let last = plan.steps.len();
    run.world.disk.heal();
    run.world.disk.set_free(None);
    run.close().and_then(|()| run.open()).and_then(|()| run.close()).map_err(|violation| (last, violation))?;
    tally.add_point();
    Ok(run.digest())
}
