//! The explorers: a subject's promises against everything the world may do.
//!
//! | Stage | What it does | Counts |
//! |---|---|---|
//! | `crash` | cuts the power and kills after every call of a workload, and again in the recovery | crash points |
//! | `enumerate` | every short sequence, every outcome of a crash in it | crash points |
//! | `errors` | fails every call of each scenario with every error, once and for ever | calls failed |
//! | `sequences` | random operations, faults, crashes, kills, rot, clock moves | sequences |
//!
//! A run is its plan: steps drawn from a seed, with no chance left in them. A failing plan is shrunk and printed.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::probe::registry;
use crate::sim::DiskOptions;

mod crash;
mod enumerate;
mod errors;
mod plan;
mod run;
mod sequences;
mod shrink;
mod subject;

pub use plan::{Plan, Step};
pub use subject::{End, Refusal, Scenario, Subject, Verdict, Violation, World};

/// How much of a stage to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The first seed; the next ones follow.
    pub seed: u64,
    /// How many seeds at most; `None` for as many as the goal takes.
    pub seeds: Option<u64>,
    /// How much to do, in what the stage counts.
    pub goal: u64,
    /// Stops here, goal or not.
    pub time_limit: Option<Duration>,
    /// Threads that share the seeds.
    pub threads: usize,
    /// The mistake to switch on.
    pub planted: Option<&'static str>,
    /// Whether the disk keeps no watch, so that only what is lost in the end shows a mistake.
    pub blind: bool,
    /// Whether each call of what failed, once it was shrunk, is told on the standard error stream.
    pub traced: bool,
}

impl Settings {
    fn watching<S: Subject>(&self, mut plan: Plan<S>) -> Plan<S> {
        plan.disk.blind = self.blind;
        plan
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 0,
            seeds: None,
            goal: 1_000,
            time_limit: None,
            threads: 1,
            planted: None,
            blind: false,
            traced: false,
        }
    }
}

/// What a stage did.
#[derive(Debug, Clone)]
pub struct Report {
    /// What it counts.
    pub unit: &'static str,
    /// How much it did.
    pub done: u64,
    /// How much it should do.
    pub goal: u64,
    /// How often each named rare state was reached.
    pub marks: BTreeMap<&'static str, u64>,
    /// The first violation.
    pub failure: Option<Failure>,
    /// How long it took.
    pub elapsed: Duration,
}

/// A violation, and how to see it again.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The broken invariant.
    pub violation: Violation,
    /// One line: where it was found.
    pub line: String,
    /// The shrunken plan, a step a line.
    pub plan: String,
}

impl Report {
    /// Whether it did what it should, and found nothing.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failure.is_none() && self.done >= self.goal
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        write!(f, "{}: {} (goal {}), {seconds:.1} s", self.unit, self.done, self.goal)?;
        match &self.failure {
            Some(failure) => write!(f, "\n{}\n{}", failure.line, failure.plan),
            None => Ok(()),
        }
    }
}

/// What all threads of a stage have done so far.
#[derive(Debug, Default)]
struct Tally {
    done: AtomicU64,
}

impl Tally {
    fn add_point(&self) {
        self.done.fetch_add(1, Relaxed);
    }

    fn add_failed(&self, calls: u64) {
        self.done.fetch_add(u64::from(calls > 0), Relaxed);
    }
}

/// When to stop.
#[derive(Debug)]
struct Budget {
    goal: u64,
    deadline: Option<Instant>,
    stopped: AtomicBool,
}

impl Budget {
    /// For what must run to its end: shrinking, say.
    fn endless() -> Self {
        Self { goal: u64::MAX, deadline: None, stopped: AtomicBool::new(false) }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }

    fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn is_used_up(&self, tally: &Tally) -> bool {
        self.is_stopped() || tally.done.load(Relaxed) >= self.goal || self.is_late()
    }
}

/// Crashes after every call of random workloads, until `goal` crash points were survived.
#[must_use]
pub fn crash<S: Subject>(settings: &Settings) -> Report {
    stage("crash points", settings, 0, |seed, tally, budget| {
        judge("crash", settings, crash::workload::<S>(seed), tally, budget, crash::explore)
    })
}

/// Runs every sequence of at most [`Subject::LONGEST`] operations of the alphabet, with a kill after each call and every outcome of a
/// crash. All of them, whatever the goal, if there is time.
#[must_use]
pub fn enumerate<S: Subject>(settings: &Settings) -> Report {
    stage("crash points, enumerated", settings, u64::MAX, |number, tally, budget| {
        let plan = enumerate::sequence::<S>(number - settings.seed, S::LONGEST);
        let Some(plan) = plan.filter(|_| !budget.is_late()) else {
            budget.stopped.store(true, Relaxed);
            return None;
        };
        judge("enumerate", settings, plan, tally, budget, enumerate::explore)
    })
}

/// Runs `goal` sequences.
#[must_use]
pub fn sequences<S: Subject>(settings: &Settings) -> Report {
    stage("operation sequences", settings, 0, |seed, tally, budget| {
        judge("sequences", settings, sequences::sequence::<S>(seed), tally, budget, sequences::explore)
    })
}

/// Fails the calls of each scenario, once round at least, and again with other crash seeds until `goal` calls failed.
#[must_use]
pub fn errors<S: Subject>(settings: &Settings) -> Report {
    let scenarios = S::scenarios();
    // The faults that tell most come first, for all scenarios.
    let faults = errors::faults::<S>();
    let round = (scenarios.len() * faults.len()) as u64;
    stage("calls failed", settings, round, |number, tally, budget| {
        let number = number - settings.seed;
        let is_first = number < round;
        let scenario = &scenarios[number as usize % scenarios.len()];
        let faults = &faults[number as usize / scenarios.len() % faults.len()];
        let name = scenario.name;
        let failure = |at: String, violation: Violation| Failure {
            line: format!("FAILED errors {} scenario {name:?} {at}: {violation}", S::NAME),
            plan: format!("{:?}\n{:?}\n{:?}", scenario.setup, scenario.end, scenario.ops),
            violation,
        };
        let prepared = guarded(|| errors::prepare(scenario, settings.blind).map_err(|violation| (0, violation)));
        let stage = match prepared {
            Ok(stage) => stage,
            Err((_, violation)) => return Some(failure("without faults".to_owned(), violation)),
        };
        // Those that tell most at each call, the others at every third, and at the rest the next times round.
        let is_telling = (number as usize / scenarios.len()).is_multiple_of(2);
        let (skip, step) = if is_telling { (0, 1) } else { ((number / round) as usize % 3, 3) };
        for call in stage.calls.iter().skip(skip).step_by(step) {
            for (fault, times) in faults {
                if budget.is_stopped() || budget.is_late() || (!is_first && budget.is_used_up(tally)) {
                    return None;
                }
                let failed = || {
                    stage
                        .fail(*call, *fault, *times, settings.seed + number, tally)
                        .map_err(|violation| (0, violation))
                };
                if let Err((_, violation)) = guarded(failed) {
                    return Some(failure(format!("call {call} {fault:?} {times:?}"), violation));
                }
            }
        }
        None
    })
}

/// Shares the seeds out among threads, `at_least` of them whatever the goal, and brings together what they found.
fn stage(
    unit: &'static str,
    settings: &Settings,
    at_least: u64,
    each: impl Fn(u64, &Tally, &Budget) -> Option<Failure> + Sync,
) -> Report {
    let started = Instant::now();
    let tally = Tally::default();
    let budget = Budget {
        goal: settings.goal,
        deadline: settings.time_limit.map(|limit| started + limit),
        stopped: AtomicBool::new(false),
    };
    let next = AtomicU64::new(0);
    let (marks, failure) = (Mutex::new(BTreeMap::new()), Mutex::new(None));
    let work = || {
        plant(settings.planted);
        drop(registry::take_marks());
        loop {
            let number = next.fetch_add(1, Relaxed);
            let enough = number >= at_least && budget.is_used_up(&tally);
            if enough || budget.is_stopped() || settings.seeds.is_some_and(|seeds| number >= seeds) {
                break;
            }
            if let Some(found) = each(settings.seed + number, &tally, &budget) {
                budget.stopped.store(true, Relaxed);
                failure.lock().get_or_insert(found);
            }
        }
        plant(None);
        let mut all = marks.lock();
        for (mark, count) in registry::take_marks() {
            *all.entry(mark).or_default() += count;
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..settings.threads.max(1) {
            scope.spawn(work);
        }
        work();
    });
    Report {
        unit,
        done: tally.done.into_inner(),
        goal: settings.goal,
        marks: marks.into_inner(),
        failure: failure.into_inner(),
        elapsed: started.elapsed(),
    }
}

/// Switches one planted mistake on for this thread, or all off. Nothing without the feature `planted-bugs`.
#[cfg(feature = "planted-bugs")]
pub fn plant(name: Option<&'static str>) {
    registry::plant(name);
}

/// Switches one planted mistake on for this thread, or all off. Nothing without the feature `planted-bugs`.
#[cfg(not(feature = "planted-bugs"))]
pub fn plant(_: Option<&'static str>) {}

/// Runs a plan, gives its digest, or the step at which it fails.
type Explore<S> = fn(&Plan<S>, &Tally, &Budget) -> Result<u64, (usize, Violation)>;

/// Runs a plan, one in a hundred twice, and shrinks it if it fails.
fn judge<S: Subject>(
    stage: &str,
    settings: &Settings,
    plan: Plan<S>,
    tally: &Tally,
    budget: &Budget,
    explore: Explore<S>,
) -> Option<Failure> {
    let to_its_end = |plan: &Plan<S>| guarded(|| explore(plan, &Tally::default(), &Budget::endless()));
    let plan = settings.watching(plan);
    let seed = plan.seed;
    let (step, violation) = match guarded(|| explore(&plan, tally, budget)) {
        Err(failed) => failed,
        // A run that was cut short has no digest to compare.
        Ok(_) if !seed.is_multiple_of(100) || budget.is_used_up(tally) => return None,
        Ok(digest) => match to_its_end(&plan) {
            Err(failed) => failed,
            Ok(again) if again == digest => return None,
            Ok(again) => (0, Violation::new("L7", format!("digests {digest:x}, then {again:x}"))),
        },
    };
    let line = format!(
        "FAILED {stage} {} seed {seed} step {step} {violation}; disk {:?}, options {:?}; again: {stage} --subject {} --seed {seed} --seeds 1",
        S::NAME,
        plan.disk,
        plan.options,
        S::NAME
    );
    let steps = plan.steps[..plan.steps.len().min(step + 1)].to_vec();
    let (plan, violation) = shrink::shrink(Plan { steps, ..plan }, violation, |plan| Some(to_its_end(plan).err()?.1));
    if settings.traced {
        let disk = DiskOptions { traced: true, ..plan.disk };
        drop(to_its_end(&Plan { disk, steps: plan.steps.clone(), options: plan.options.clone(), seed }));
    }
    let steps: Vec<_> = plan.steps.iter().map(|step| format!("    {step:?},\n")).collect();
    Some(Failure { line, plan: format!("shrunk to {violation}\n{}", steps.concat()), violation })
}

/// Turns a panic, which no promise allows, into a violation.
fn guarded<T>(run: impl FnOnce() -> Result<T, (usize, Violation)>) -> Result<T, (usize, Violation)> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err((usize::MAX - 1, Violation::new("panic", text.unwrap_or_default())))
    })
}

#[cfg(all(test, feature = "planted-bugs"))]
mod tests {
    use super::*;
    use crate::sim::toy::Toy;

    fn settings(goal: u64) -> Settings {
        Settings { goal, threads: 2, ..Settings::default() }
    }

    #[test]
    fn a_right_log_survives_every_stage() {
        for report in [
            crash::<Toy>(&settings(5_000)),
            enumerate::<Toy>(&settings(5_000)),
            errors::<Toy>(&settings(1_000)),
            sequences::<Toy>(&settings(100)),
        ] {
            assert!(report.passed(), "{report}");
        }
    }

    #[test]
    fn a_stage_that_did_too_little_fails() {
        let report = crash::<Toy>(&Settings { seeds: Some(1), ..settings(u64::MAX) });
        assert!(report.failure.is_none() && report.done > 0 && !report.passed());
    }

    #[test]
    fn each_planted_mistake_is_found_even_by_a_disk_that_keeps_no_watch() {
        for blind in [false, true] {
            for planted in Toy::PLANTED {
                let settings = Settings { planted: Some(planted), blind, ..settings(100_000) };
                let found = crash::<Toy>(&settings).failure.or_else(|| sequences::<Toy>(&settings).failure);
                assert!(found.is_some(), "{planted}, blind: {blind}");
            }
        }
    }

    #[test]
    fn a_failing_plan_is_shrunk_to_the_steps_that_matter() {
        let settings = Settings { planted: Some("toy.ack_before_sync"), blind: true, ..settings(100_000) };
        let failure = crash::<Toy>(&settings).failure.unwrap();
        assert_eq!(failure.violation.invariant, "D1");
        assert!(failure.plan.lines().count() <= 6, "{}", failure.plan);
        assert!(failure.line.contains("--seed"), "{}", failure.line);
    }

    #[test]
    fn a_plan_is_the_same_each_time_and_faults_do_not_change_its_operations() {
        let steps = |seed| format!("{:?}", Plan::<Toy>::workload(seed, 50).steps);
        assert_eq!(steps(7), steps(7));
        assert_ne!(steps(7), steps(8));
    }
}
