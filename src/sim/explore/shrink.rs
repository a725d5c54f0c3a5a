//! Making a failing plan small: faults go first, then operations, while the same invariant fails.

use std::time::{Duration, Instant};

use super::plan::Plan;
use super::subject::{Subject, Violation};

/// A shrunken plan is worth this much waiting.
const PATIENCE: Duration = Duration::from_secs(10);

/// The smallest plan found that still breaks `violation`'s invariant, with the violation it shows.
pub(super) fn shrink<S: Subject>(
    mut plan: Plan<S>,
    mut violation: Violation,
    fails: impl Fn(&Plan<S>) -> Option<Violation>,
) -> (Plan<S>, Violation) {
    let started = Instant::now();
    let mut attempt = |steps: Vec<_>, plan: &mut Plan<S>| -> bool {
        let smaller = Plan { steps, seed: plan.seed, disk: plan.disk, options: plan.options.clone() };
        match fails(&smaller).filter(|seen| seen.invariant == violation.invariant) {
            Some(seen) => {
                violation = seen;
                *plan = smaller;
                true
            }
            None => false,
        }
    };
    let healthy = plan.steps.iter().filter(|step| !step.is_trouble()).cloned().collect();
    attempt(healthy, &mut plan);
    let mut chunk = plan.steps.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let before = plan.steps.len();
        while at < plan.steps.len() && started.elapsed() < PATIENCE {
            let mut steps = plan.steps.clone();
            steps.drain(at..(at + chunk).min(steps.len()));
            if !attempt(steps, &mut plan) {
                at += chunk;
            }
        }
        if started.elapsed() >= PATIENCE || (chunk == 1 && plan.steps.len() == before) {
            break;
        }
        chunk = (chunk / 2).max(1);
    }
    (plan, violation)
}
