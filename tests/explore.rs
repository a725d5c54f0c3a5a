//! The explorers from the command line.
//!
//! ```text
//! explore all [--subject NAME] [--crash N] [--enumerate N] [--errors N] [--sequences N] [--threads N]
//! explore [STAGE] [--subject NAME] [--goal N] [--seed N] [--seeds N] [--threads N] [--seconds N] [--bug NAME]
//!         [--blind 1] [--trace 1]
//! ```
//!
//! Stages: `crash`, `enumerate`, `errors`, `sequences`, `planted`; without one, each with a small goal. `--points` and
//! `--count` are other words for `--goal`. One line a stage tells how much was done beside the goal; the process fails
//! if it was less, or something was found. `all` runs those that have a goal, and then demands that together they came to
//! each rare state of the subject a hundred times. `planted` is the other way round: each mistake must be found,
//! or the one that is named; other stages run with that one. With `--blind` the disk's audit is off: only what is lost in the end counts. With
//! `--trace` each call to it is told, of the smallest plan that fails.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use chiplog::sim::explore::{self, Report, Settings, Subject};
use chiplog::sim::log::Explored;
use chiplog::sim::toy::Toy;
use parking_lot::Mutex;

/// Half of the time goes into small pieces of memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Stage = fn(&Settings) -> Report;

/// What every subject can do, whatever its type.
struct Entry {
    name: &'static str,
    planted: &'static [&'static str],
    marks: &'static [&'static str],
    /// The stages that run when nothing is asked for.
    held: &'static [(&'static str, u64)],
    stages: [(&'static str, Stage); 4],
}

impl Entry {
    fn of<S: Subject>(held: &'static [(&'static str, u64)]) -> Self {
        Self {
            name: S::NAME,
            planted: S::PLANTED,
            marks: S::MARKS,
            held,
            stages: [
                ("crash", explore::crash::<S>),
                ("errors", explore::errors::<S>),
                ("sequences", explore::sequences::<S>),
                ("enumerate", explore::enumerate::<S>),
            ],
        }
    }
}

fn subjects() -> Vec<Entry> {
    vec![Entry::of::<Explored>(&LOG), Entry::of::<Toy>(&TOY)]
}

/// What to do with the log when nothing is asked for: seconds, not minutes.
const LOG: [(&str, u64); 2] = [("crash", 10_000), ("sequences", 50)];

/// What to do with the toy, which shows that the explorers bite.
const TOY: [(&str, u64); 4] = [("crash", 20_000), ("sequences", 200), ("errors", 1_000), ("enumerate", 5_000)];

/// The most that finding one planted mistake may take, in each stage. Each is given a little first: most mistakes are
/// found by one stage or another in no time.
const MOST_POINTS: u64 = 100_000;
const TIMES: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(4), Duration::from_secs(60)];

/// The stage that finds a mistake, where that is not to be seen in no time.
const FOUND_BY: &[(&str, &str)] = &[
    ("compact.aborted_counts", "sequences"),
    ("compact.marker_dropped", "sequences"),
    ("groups.waiting_not_removed", "crash"),
    ("log.failed_store_forgotten", "errors"),
    ("partition.damage_cut_off", "sequences"),
    ("partition.first_name_not_synced", "crash"),
    ("partition.front_not_missed", "sequences"),
    ("partition.note_after_error", "errors"),
    ("partition.roll_without_cut", "errors"),
    ("partition.unsynced_called_clean", "errors"),
    ("segment.half_write_forgotten", "errors"),
    ("staging.gap_accepted", "errors"),
    ("staging.header_before_word", "crash"),
    ("staging.no_cut", "errors"),
    ("staging.retry_with_other_bytes", "errors"),
    ("staging.start_raised_over_staged", "errors"),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // What `cargo test` passes to every test binary is not for us.
    let stage = arguments.first().filter(|first| !first.starts_with("--")).map(String::as_str);
    let options = match stage.map(|_| parse(&arguments[1..])).transpose() {
        Ok(options) => options.unwrap_or_default(),
        Err(wrong) => {
            eprintln!("{wrong}");
            return ExitCode::from(2);
        }
    };
    let mut outcomes = Vec::new();
    for subject in
        subjects().iter().filter(|subject| options.subject.as_ref().is_none_or(|name| *name == subject.name))
    {
        match stage {
            None => {
                for (stage, goal) in subject.held {
                    let settings = Settings { goal: *goal, threads: 2, ..Settings::default() };
                    outcomes.extend(run(subject, stage, &settings));
                }
                for blind in [false, true].into_iter().filter(|_| subject.name == Toy::NAME) {
                    outcomes.extend(find_planted(subject, &Settings { blind, ..Settings::default() }));
                }
            }
            Some("all") => outcomes.extend(run_all(subject, &options)),
            Some("planted") => match &options.bug {
                Some(bug) => outcomes.push(is_found(subject, bug, &options.settings)),
                None => outcomes.extend(find_planted(subject, &options.settings)),
            },
            Some(stage) => outcomes.extend(run(subject, stage, &options.settings)),
        }
    }
    let failed = outcomes.iter().filter(|passed| !**passed).count();
    println!("{} passed, {failed} failed", outcomes.len() - failed);
    match failed == 0 && !outcomes.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Runs each stage that has a goal, and counts what all of them came by.
fn run_all(subject: &Entry, options: &Options) -> Vec<bool> {
    let mut outcomes = Vec::new();
    let mut marks = BTreeMap::new();
    for (stage, goal) in &options.goals {
        let settings = Settings { goal: *goal, ..options.settings.clone() };
        let Some(report) = report_of(subject, stage, &settings) else { continue };
        println!("count {} in {stage} {} {goal}", report.unit, report.done);
        outcomes.push(report.passed());
        for (mark, count) in report.marks {
            *marks.entry(mark).or_insert(0) += count;
        }
    }
    print_marks(&marks);
    let is_rare = |mark: &&&str| marks.get(**mark).copied().unwrap_or(0) < MARK_GOAL;
    let rare: Vec<_> = subject.marks.iter().filter(is_rare).collect();
    if !rare.is_empty() {
        println!("reached less than {MARK_GOAL} times: {rare:?}");
    }
    println!("count states reached {MARK_GOAL} times {} {}", subject.marks.len() - rare.len(), subject.marks.len());
    outcomes.push(rare.is_empty());
    outcomes
}

/// A state that was reached less often gives false comfort.
const MARK_GOAL: u64 = 100;

fn report_of(subject: &Entry, stage: &str, settings: &Settings) -> Option<Report> {
    let (_, run) = subject.stages.iter().find(|(name, _)| *name == stage)?;
    let report = run(settings);
    println!("{} {report}", subject.name);
    keep_plan(subject.name, stage, &report);
    Some(report)
}

fn run(subject: &Entry, stage: &str, settings: &Settings) -> Option<bool> {
    let report = report_of(subject, stage, settings)?;
    print_marks(&report.marks);
    // Who asks for certain seeds wants to see what they find, however much that is.
    Some(report.passed() || (settings.seeds.is_some() && report.failure.is_none()))
}

fn print_marks(marks: &BTreeMap<&str, u64>) {
    let marks: Vec<_> = marks.iter().map(|(mark, count)| format!("{mark} {count}")).collect();
    if !marks.is_empty() {
        println!("  reached: {}", marks.join(", "));
    }
}

/// A failing plan is worth keeping: it becomes a test.
fn keep_plan(subject: &str, stage: &str, report: &Report) {
    if let Some(failure) = &report.failure {
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{subject}-{stage}.plan"));
        if std::fs::write(&path, format!("{}\n{}", failure.line, failure.plan)).is_ok() {
            println!("plan kept in {}", path.display());
        }
    }
}

/// Switches on each planted mistake, and looks for it until a stage finds it. As many at once as there are threads.
fn find_planted(subject: &Entry, settings: &Settings) -> Vec<bool> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    let work = || {
        while let Some(bug) = subject.planted.get(next.fetch_add(1, Relaxed)) {
            let is_found = is_found(subject, bug, settings);
            outcomes.lock().push(is_found);
        }
    };
    std::thread::scope(|scope| {
        (0..settings.threads.max(1)).for_each(|_| drop(scope.spawn(work)));
    });
    let outcomes = outcomes.into_inner();
    let found = outcomes.iter().filter(|found| **found).count();
    let goal = settings.seeds.unwrap_or(subject.planted.len() as u64);
    println!("count planted mistakes of the {}, of {}, found {found} {goal}", subject.name, subject.planted.len());
    if found as u64 >= goal { vec![true] } else { outcomes }
}

fn is_found(subject: &Entry, bug: &'static str, settings: &Settings) -> bool {
    let planted = Some(bug);
    let blind = if settings.blind { " (blind)" } else { "" };
    let began = Instant::now();
    let known = FOUND_BY.iter().find(|(name, _)| *name == bug).map(|(_, stage)| *stage);
    let first = known.map(|stage| (TIMES[2], Some(stage)));
    for (time, only) in first.into_iter().chain(TIMES.map(|time| (time, None))) {
        let time_limit = Some(time);
        // A stage that is known to find it may take longer: half of its plans stage, and half do not.
        let goal = if only.is_some() { 4 * MOST_POINTS } else { MOST_POINTS };
        let settings = Settings { goal, seeds: None, time_limit, planted, threads: 1, ..settings.clone() };
        for (stage, run) in subject.stages.iter().filter(|(stage, _)| only.is_none_or(|only| only == *stage)) {
            let report = run(&settings);
            if let Some(failure) = report.failure {
                let (done, unit, seconds) = (report.done, report.unit, began.elapsed().as_secs_f64());
                let violation: String = failure.violation.to_string().chars().take(100).collect();
                println!(
                    "{} planted {bug}{blind}: {stage}, {done} {unit}, {seconds:.1} s: {violation}",
                    subject.name
                );
                return true;
            }
        }
    }
    println!("{} planted {bug}{blind}: not found", subject.name);
    false
}

#[derive(Debug, Default)]
struct Options {
    subject: Option<String>,
    settings: Settings,
    /// The one mistake to switch on.
    bug: Option<&'static str>,
    /// What `all` is to do.
    goals: Vec<(String, u64)>,
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options::default();
    for pair in arguments.chunks(2) {
        let [name, value] = pair else { return Err(format!("{} wants a value", pair[0])) };
        let number = || value.parse::<u64>().map_err(|error| format!("{name} {value}: {error}"));
        let settings = &mut options.settings;
        match name.as_str() {
            "--subject" => options.subject = Some(value.clone()),
            "--goal" | "--points" | "--count" => settings.goal = number()?,
            "--crash" | "--enumerate" | "--errors" | "--sequences" => {
                options.goals.push((name[2..].to_owned(), number()?));
            }
            "--bug" => {
                settings.planted = Some(value.clone().leak());
                options.bug = settings.planted;
            }
            "--seed" => settings.seed = number()?,
            "--seeds" => (settings.seeds, settings.goal) = (Some(number()?), u64::MAX),
            "--threads" => settings.threads = number()? as usize,
            "--blind" => settings.blind = number()? != 0,
            "--trace" => settings.traced = number()? != 0,
            "--seconds" => settings.time_limit = Some(Duration::from_secs(number()?)),
            _ => return Err(format!("there is no option {name}")),
        }
    }
    Ok(options)
}
