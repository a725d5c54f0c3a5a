//! Everything, up to a length: each sequence of a few operations, and after each call each outcome of a crash.

use super::plan::{Plan, Step};
use super::run::Run;
use super::subject::{Subject, Violation};
use super::{Budget, Tally};
use crate::sim::{DiskOptions, Image, Record};

/// The sequence number `number` of all, of each alphabet in turn, shorter ones first; `None` past the last of `longest`
/// operations.
pub(super) fn sequence<S: Subject>(number: u64, longest: u32) -> Option<Plan<S>> {
    let mut alphabets = S::alphabets();
    let (mut number, which) = (number / alphabets.len() as u64, number as usize % alphabets.len());
    let (options, alphabet) = alphabets.swap_remove(which);
    let kinds = alphabet.len() as u64;
    let len = (1..=longest).find(|len| {
        let count = kinds.pow(*len);
        let found = number < count;
        number -= if found { 0 } else { count };
        found
    })?;
    let mut steps = Vec::new();
    for _ in 0..len {
        steps.push(Step::Do(alphabet[(number % kinds) as usize].clone()));
        number /= kinds;
    }
    Some(Plan { seed: 0, disk: DiskOptions::default(), options, steps })
}

/// Runs a sequence, and every crash in its last operation: those before are the shorter sequences' business.
pub(super) fn explore<S: Subject>(plan: &Plan<S>, tally: &Tally, budget: &Budget) -> Result<u64, (usize, Violation)> {
    let mut run = Run::new(plan, Record::All);
    run.open().map_err(|violation| (0, violation))?;
    for (index, step) in plan.steps.iter().enumerate() {
        let mut during = run.model.clone();
        if let Step::Do(op) = step {
            S::expect(&mut during, op);
        }
        run.world.disk.record(Record::All);
        run.step(step).map_err(|violation| (index, violation))?;
        if index + 1 < plan.steps.len() {
            continue;
        }
        for moment in run.world.disk.take_moments() {
            if budget.is_stopped() {
                return Ok(run.digest());
            }
            let place = |violation: Violation, what: &str| {
                (index, violation.within(format!("{what} after call {}", moment.call)))
            };
            let find = |image: Image, model: &S::Model| {
                tally.add_point();
                Run::<S>::on(image, &run.world, &run.options, model.clone(), 1).open()
            };
            let (mut killed, mut crashed, mut restarted) = (during.clone(), during.clone(), during.clone());
            S::killed(&mut killed);
            S::crashed(&mut crashed);
            S::restarted(&mut restarted);
            find(moment.image.restart(), &restarted).map_err(|violation| place(violation, "restart"))?;
            find(moment.image.clone(), &killed).map_err(|violation| place(violation, "kill"))?;
            let outcomes = if moment.during { 0 } else { 1 << moment.image.crash_bits().min(S::MOST_BITS) };
            for bits in 0..outcomes {
                find(moment.image.crash_outcome(bits), &crashed)
                    .map_err(|violation| place(violation, &format!("crash outcome {bits:#b}")))?;
            }
        }
    }
    Ok(run.digest())
}
