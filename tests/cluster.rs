//! The simulator of replication from the command line.
//!
//! ```text
//! cluster [planted [NAME]] [--seeds N] [--seed N] [--events N] [--threads N] [--trace 1]
//! cluster states [--limit N] [--world N] [--threads N]
//! ```
//!
//! With `planted` it is the other way round: each mistake, or that of the name, must be found within so many histories; and each
//! that is in the machines, among their states. With `states` it goes through the states of the machines, up to so many; in one
//! world only, if its number is given: 0 is the wide one. A limit of 0 is for all that there are, for which neither memory nor
//! time may be enough.
//!
//! Runs so many histories, from a seed on, each of so many events before all is mended; one in a hundred twice, which must
//! come to the same. Tells how many were run beside how many were asked for, and what happened in them; fails at the first
//! rule that was broken, with a line to run that history again.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use chiplog::sim::cluster::{self, Failure, Options, Report, faults, planted, states};
use chiplog::sim::explore;
use parking_lot::Mutex;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let (mut seed, mut seeds, mut events, mut threads, mut trace) = (0, 60, 2_000, 1, false);
    let (mut limit, mut world) = (WIDE_STATES, None);
    let mut words = std::env::args().skip(1).filter(|word| word.starts_with("--") || word.parse::<u64>().is_ok());
    while let Some(word) = words.next() {
        let value = words.next().and_then(|value| value.parse().ok());
        match (&*word, value) {
            ("--seed", Some(value)) => seed = value,
            ("--seeds", Some(value)) => seeds = value,
            ("--events", Some(value)) => events = value,
            ("--threads", Some(value)) => threads = value,
            ("--limit", Some(value)) => limit = value,
            ("--world", value) => world = value,
            ("--trace", Some(value)) => trace = value > 0,
            _ => {
                // What the test harness is called with.
                continue;
            }
        }
    }
    let is_called = |name: &str| std::env::args().any(|word| word == name);
    if is_called("states") {
        return explore_states(limit, threads.max(2) as usize, world);
    }
    if is_called("planted") {
        return find_planted(seed, seeds, events, threads);
    }
    let began = Instant::now();
    let (done, report, failed) = many(seed, seeds, events, threads, trace, None);
    println!(
        "cluster histories: {done} (goal {seeds}), {} events, {} acknowledged, {} unknown, {} leaders, {:.1} s",
        report.events,
        report.acknowledged,
        report.unknown,
        report.elections,
        began.elapsed().as_secs_f64()
    );
    let faults: Vec<String> =
        faults::NAMES.iter().zip(report.faults).map(|(name, count)| format!("{name} {count}")).collect();
    println!("  faults: {}", faults.join(", "));
    println!("count histories of a cluster {done} {seeds}");
    match failed {
        None => ExitCode::SUCCESS,
        Some((seed, failure)) => {
            println!("seed {seed}: {} after {} events: {}", failure.rule, failure.event, failure.detail);
            println!("again: cargo test --all-features --test cluster -- --seed {seed} --seeds 1 --events {events}");
            ExitCode::FAILURE
        }
    }
}

/// Goes through the states of the machines: in the wide world, up to a limit, in some all that there are, and in narrow ones up
/// to a part of the limit.
fn explore_states(limit: u64, threads: usize, world: Option<u64>) -> ExitCode {
    let goal = if limit == 0 { WIDE_STATES } else { limit };
    let wide = [("wide", states::WIDE)];
    let (mut found, mut narrow, mut whole, mut has_failed) = (0, 0, 0, false);
    for (number, (name, bounds)) in (0..).zip(wide.into_iter().chain(states::WHOLE).chain(states::NARROW)) {
        let is_wide = name == "wide";
        let is_to_be_whole = states::WHOLE.iter().any(|(other, _)| *other == name);
        if world.is_some_and(|world| world != number) {
            continue;
        }
        let limit = match limit {
            _ if is_to_be_whole => u64::MAX,
            0 => u64::MAX,
            limit if is_wide || world.is_some() => limit,
            limit => limit / NARROW_PART,
        };
        let began = Instant::now();
        let tell = |so_far: &states::Explored| {
            if is_wide {
                println!(
                    "  depth {}: {} states, {:.1} s",
                    so_far.depth,
                    so_far.states,
                    began.elapsed().as_secs_f64()
                );
            }
        };
        let done = states::explore(&bounds, limit, threads, None, tell);
        println!(
            "states of the machines, {name}: {}{}, depth {}, {} steps, {} healed ({} without a leader), {} walked beyond, {:.1} s",
            done.states,
            if done.is_whole { ", which are all" } else { "" },
            done.depth,
            done.steps,
            done.healed,
            done.leaderless,
            done.walked,
            began.elapsed().as_secs_f64()
        );
        *(if is_wide { &mut found } else { &mut narrow }) += done.states;
        whole += u32::from(is_to_be_whole && done.is_whole);
        if let Some(failure) = done.failure {
            has_failed = true;
            println!("{}: {} after {} steps: {}", name, failure.rule, failure.event, failure.detail);
        }
    }
    println!("  {narrow} in narrow worlds");
    if world.is_none() {
        println!("count states of the machines {found} {goal}");
        println!("count worlds of which all states were met {whole} {}", states::WHOLE.len());
    }
    if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Looks for each planted mistake that is in the machines among their states. How many were not found.
fn find_planted_in_states(threads: usize) -> usize {
    let mut missed = 0;
    for (bug, world) in states::PLANTED {
        let Some((_, bounds)) = states::NARROW.iter().find(|(name, _)| *name == world) else { continue };
        let began = Instant::now();
        let done = states::explore(bounds, PLANTED_LIMIT, threads, Some(bug), |_| {});
        let seconds = began.elapsed().as_secs_f64();
        let states = done.states;
        match done.failure {
            Some(Failure { rule, event, .. }) => {
                println!("{bug}: found after {event} steps, {states} states, {seconds:.1} s: {rule}");
            }
            None => {
                missed += 1;
                println!("{bug}: NOT found in {states} states, {seconds:.1} s");
            }
        }
    }
    let count = states::PLANTED.len();
    println!("count planted mistakes of the machines, of {count}, found {} {count}", count - missed);
    missed
}

/// Runs histories until one fails, or there are enough. Returns how many were run, what happened, and which failed.
fn many(
    seed: u64,
    seeds: u64,
    events: u64,
    threads: u64,
    trace: bool,
    bug: Option<&'static str>,
) -> (u64, Report, Option<(u64, Failure)>) {
    let (next, failed) = (AtomicU64::new(seed), Mutex::new(None::<(u64, Failure)>));
    let total = Mutex::new((0_u64, Report::default()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                explore::plant(bug);
                loop {
                    let this = next.fetch_add(1, Relaxed);
                    if this >= seed + seeds || failed.lock().is_some() {
                        return;
                    }
                    match once(this, events, trace) {
                        Ok(report) => add(&mut total.lock(), &report),
                        Err(failure) => {
                            failed.lock().get_or_insert((this, failure));
                        }
                    }
                }
            });
        }
    });
    let (done, report) = total.into_inner();
    (done, report, failed.into_inner())
}

/// Looks for each planted mistake.
fn find_planted(seed: u64, seeds: u64, events: u64, threads: u64) -> ExitCode {
    let mut missed = 0;
    let named = |bug: &&&str| std::env::args().any(|word| word == **bug);
    let is_named = planted::PLANTED.iter().any(|bug| named(&bug));
    for bug in planted::PLANTED.iter().filter(|bug| !is_named || named(bug)) {
        let began = Instant::now();
        let (done, _, failed) = many(seed, seeds, events, threads, false, Some(bug));
        let seconds = began.elapsed().as_secs_f64();
        match failed {
            Some((seed, failure)) => {
                println!("{bug}: found after {done} histories (seed {seed}), {seconds:.1} s: {}", failure.rule);
            }
            None => {
                missed += 1;
                println!("{bug}: NOT found in {done} histories, {seconds:.1} s");
            }
        }
    }
    let count = if is_named { 1 } else { planted::PLANTED.len() };
    println!("count planted mistakes of the cluster, of {count}, found {} {count}", count - missed);
    if !is_named {
        missed += find_planted_in_states(threads as usize);
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn once(seed: u64, events: u64, trace: bool) -> Result<Report, Failure> {
    let report = cluster::run(seed, Options::draw(seed), events, trace)?;
    if seed.is_multiple_of(100) {
        let again = cluster::run(seed, Options::draw(seed), events, false)?;
        if again.digest != report.digest {
            let detail = format!("{:x} and {:x}", report.digest, again.digest);
            return Err(Failure { rule: "the same seed, the same history", detail, event: report.events });
        }
    }
    Ok(report)
}

fn add((done, total): &mut (u64, Report), report: &Report) {
    *done += 1;
    total.events += report.events;
    total.acknowledged += report.acknowledged;
    total.unknown += report.unknown;
    total.elections += report.elections;
    for (total, count) in total.faults.iter_mut().zip(report.faults) {
        *total += count;
    }
}

/// So many states of the wide world are gone through, if nothing else is said.
const WIDE_STATES: u64 = 1_000_000;
/// Of each narrow world it is that part.
const NARROW_PART: u64 = 20;
/// Among so many states each planted mistake must be found.
const PLANTED_LIMIT: u64 = 400_000;
