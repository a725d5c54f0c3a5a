//! The crash explorer: after every call of a workload the power is cut and the process killed, and what is found is
//! recovered; inside that recovery, or what follows it, once more. Each state that is recovered and checked is one
//! crash point: about half of them lie inside a recovery.

use super::plan::{Plan, Step};
use super::run::Run;
use super::subject::{Subject, Verdict, Violation, World};
use super::{Budget, Tally};
use crate::sim::{Image, Moment, Record, Rng, mix};

/// Operations in a long workload, and in most of them: what happens early happens to small logs, which are recovered
/// sooner, so that more plans are run.
const LONG: usize = 150;
const SHORT: usize = 40;

/// Crash images taken after each call.
const CRASHES_A_CALL: u64 = 2;

/// Operations after a recovery: enough to write over what it left, and to sync that.
const OPS_AFTER: usize = 3;

/// Runs workload number `seed`. Where it fails, with the step.
pub(super) fn explore<S: Subject>(plan: &Plan<S>, tally: &Tally, budget: &Budget) -> Result<u64, (usize, Violation)> {
    let mut run = Run::new(plan, Record::All);
    let before = run.model.clone();
    run.open().map_err(|violation| (0, violation))?;
    attack_moments(&run, &before, plan.seed, tally).map_err(|violation| (0, violation))?;
    for (index, step) in plan.steps.iter().enumerate() {
        if budget.is_used_up(tally) {
            return Ok(run.digest());
        }
        let mut during = run.model.clone();
        if let Step::Do(op) = step {
            S::expect(&mut during, op);
        }
        let stepped = run.step(step);
        // What the calls left behind is looked at first: it is nearer to the cause.
        let attacked = attack_moments(&run, &during, mix(plan.seed ^ index as u64), tally);
        attacked.and(stepped).map_err(|violation| (index, violation))?;
    }
    Ok(run.digest())
}

pub(super) fn workload<S: Subject>(seed: u64) -> Plan<S> {
    Plan::workload(seed, if seed.is_multiple_of(8) { LONG } else { SHORT })
}

fn attack_moments<S: Subject>(run: &Run<S>, during: &S::Model, seed: u64, tally: &Tally) -> Verdict {
    for moment in run.world.disk.take_moments() {
        let seed = mix(seed ^ moment.call);
        let place = |what: &str| format!("{what} after call {} (seed {seed})", moment.call);
        if !moment.during {
            for seed in (0..CRASHES_A_CALL).map(|number| mix(seed ^ number)) {
                let mut model = during.clone();
                S::crashed(&mut model);
                tally.add_point();
                survive::<S>(moment.image.crash(seed), &run.world, &run.options, model, seed, tally)
                    .map_err(|violation| violation.within(place("crash")))?;
            }
        }
        let mut model = during.clone();
        // A kill, mostly; now and then one that nobody opens the log after before the machine is restarted, or the
        // directory copied.
        let (image, what) = match seed % 8 {
            0 => (moment.image.restart(), "restart"),
            1 => (moment.image.copy(), "copy"),
            _ => (moment.image.clone(), "kill"),
        };
        match what {
            "kill" => S::killed(&mut model),
            _ => S::restarted(&mut model),
        }
        tally.add_point();
        survive::<S>(image, &run.world, &run.options, model, seed, tally)
            .map_err(|violation| violation.within(place(what)))?;
    }
    Ok(())
}

/// Recovers `image`, goes on for a little, then crashes at any call of that, and recovers again.
pub(super) fn survive<S: Subject>(
    image: Image,
    world: &World,
    options: &S::Options,
    model: S::Model,
    seed: u64,
    tally: &Tally,
) -> Verdict {
    let mut rng = Rng::stream(seed, "survive");
    let mut run = Run::<S>::on(image, world, options, model, seed);
    run.world.disk.record(Record::One(rng.clone()));
    let mut held = None;
    let before = run.model.clone();
    let opened = run.open();
    hold(&run, &mut held, before);
    opened?;
    let mut ops = Vec::new();
    for _ in 0..OPS_AFTER {
        let op = S::operation(&run.options, &mut rng);
        ops.push(op.clone());
        let mut before = run.model.clone();
        S::expect(&mut before, &op);
        let applied = run.apply(&op);
        hold(&run, &mut held, before);
        applied.map_err(|violation| violation.within(format!("then {op:?}")))?;
    }
    if rng.chance(1, 4) {
        run.close().and_then(|()| run.open()).map_err(|violation| violation.within("closed, opened"))?;
    }
    match held {
        Some((moment, model)) => {
            tally.add_point();
            crash_again::<S>(&moment, &run, model, &mut rng)
                .map_err(|violation| violation.within(format!("then {ops:?}")))
        }
        None => Ok(()),
    }
}

/// Keeps the moment that was drawn last, with what the model says of it.
fn hold<S: Subject>(run: &Run<S>, held: &mut Option<(Moment, S::Model)>, before: S::Model) {
    if let Some(moment) = run.world.disk.take_moments().pop() {
        *held = Some((moment, before));
    }
}

fn crash_again<S: Subject>(moment: &Moment, run: &Run<S>, mut model: S::Model, rng: &mut Rng) -> Verdict {
    let (image, what) = match moment.during || rng.chance(1, 4) {
        true => {
            S::killed(&mut model);
            (moment.image.clone(), "kill")
        }
        false => {
            S::crashed(&mut model);
            (moment.image.crash(rng.draw()), "crash")
        }
    };
    let mut again = Run::<S>::on(image, &run.world, &run.options, model, rng.draw());
    let opened = again.open().and_then(|()| match rng.chance(1, 8) {
        true => again.close().and_then(|()| again.open()),
        false => Ok(()),
    });
    opened.map_err(|violation| violation.within(format!("second {what} after call {}", moment.call)))
}
