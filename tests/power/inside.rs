//! What is done inside: rounds on all kinds, two at a time, and what came of them.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Result;
use super::expected::Cut;
use super::faults::FAULTS;
use super::kind::Kind;
use super::random::Random;
use super::round::{Done, Failed, Plan, check_image, run_round};
use super::workload::Lie;
use super::world::Mounted;

/// What was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) mode: Mode,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) seed: u64,
    pub(crate) goal: Option<u64>,
    pub(crate) threads: u64,
    /// The only fault, if not all of them.
    pub(crate) fault: Option<&'static str>,
    pub(crate) heals: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    /// So many power cuts.
    Cuts(u64),
    /// So many rounds on failing disks.
    Faults(u64),
    /// Mistakes that have to be found.
    SelfCheck,
    /// A check that failed, once more.
    Again(PathBuf),
}

/// How many cuts a mistake may take to be found.
const MOST_CUTS_A_LIE: u64 = 120;

/// Does what was asked for in the directory `dir`, which is covered by memory.
pub(crate) fn run(dir: &Path, asked: &Asked) -> Result<ExitCode> {
    let _memory = Mounted::memory(dir)?;
    let passed = match &asked.mode {
        Mode::Cuts(count) => many(dir, asked, *count, "power cuts", |_| None),
        Mode::Faults(count) => many(dir, asked, *count, "rounds with faults", |turn| Some(fault(asked, turn))),
        Mode::SelfCheck => self_check(dir, asked)?,
        Mode::Again(kept) => again(dir, kept)?,
    };
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn fault(asked: &Asked, turn: u64) -> &'static str {
    asked.fault.unwrap_or(FAULTS[(turn % FAULTS.len() as u64) as usize])
}

/// What was done on one kind.
#[derive(Debug, Default)]
struct Sum {
    rounds: u64,
    counted: u64,
    cuts: u64,
    acks: u64,
    records: u64,
    beyond: u64,
    pending: u64,
    kept: u64,
    faults: u64,
    refusals: u64,
    in_place: u64,
    time: Duration,
}

impl Sum {
    fn add(&mut self, done: &Done, time: Duration) {
        self.rounds += 1;
        self.cuts += done.cuts;
        self.acks += done.found.acks;
        self.records += done.found.records;
        self.beyond += done.found.beyond;
        self.pending += done.pending;
        self.kept += done.kept;
        self.faults += u64::from(done.faults > 0);
        self.refusals += done.refusals;
        self.in_place += done.in_place;
        self.time += time;
    }

    fn say(&self, kind: Kind) {
        println!(
            "{}: {} cuts of {} workloads, {:.1} s; {} promises, {} records, {} of them not promised; {} of {} sectors kept",
            kind.name(),
            self.cuts,
            self.rounds,
            self.time.as_secs_f64(),
            self.acks,
            self.records,
            self.beyond,
            self.kept,
            self.pending
        );
        if self.faults > 0 {
            println!(
                "{}: {} disks failed, {} partitions refused to go on, {} logs checked without a restart",
                kind.name(),
                self.faults,
                self.refusals,
                self.in_place
            );
        }
    }
}

/// Runs rounds until each kind has its part of `count`. Whether nothing was found wrong and every goal reached.
fn many(
    dir: &Path,
    asked: &Asked,
    count: u64,
    what: &str,
    fault: impl Fn(u64) -> Option<&'static str> + Sync,
) -> bool {
    let kinds = &asked.kinds;
    let part = count.div_ceil(kinds.len() as u64);
    let goal = asked.goal.map_or(part, |goal| goal.div_ceil(kinds.len() as u64));
    let sums: Mutex<HashMap<&str, Sum>> = Mutex::new(HashMap::new());
    let (turns, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let one_thread = || {
        while !is_over.load(Ordering::Relaxed) {
            let turn = turns.fetch_add(1, Ordering::Relaxed);
            let kind = kinds[(turn % kinds.len() as u64) as usize];
            let fault = fault(turn / kinds.len() as u64);
            let missing = {
                let sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
                let counted = |kind: &Kind| sums.get(kind.name()).map_or(0, |sum| sum.counted);
                if kinds.iter().all(|kind| counted(kind) >= part) {
                    return;
                }
                part.saturating_sub(counted(&kind))
            };
            if missing == 0 {
                continue;
            }
            // A round with a fault counts as one, however many cuts it takes.
            let most_cuts = if fault.is_some() { 3 } else { missing };
            let seed = Random(asked.seed ^ turn << 32).next();
            let plan = Plan { kind, seed, lie: Lie::None, fault, heals: asked.heals, most_cuts };
            let began = Instant::now();
            match in_new_dir(dir, turn, plan) {
                Ok(done) => {
                    let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
                    let sum = sums.entry(kind.name()).or_default();
                    sum.add(&done, began.elapsed());
                    sum.counted += if fault.is_some() { u64::from(done.faults > 0) } else { done.cuts };
                }
                Err(failed) => {
                    is_over.store(true, Ordering::Relaxed);
                    report(&failed, plan, asked.seed, turn);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..asked.threads {
            scope.spawn(one_thread);
        }
    });
    let sums = sums.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut reached = true;
    for kind in kinds {
        let unknown = Sum::default();
        let sum = sums.get(kind.name()).unwrap_or(&unknown);
        sum.say(*kind);
        println!("count {what} on {} {} {goal}", kind.name(), sum.counted);
        reached &= sum.counted >= goal;
    }
    println!("seed {}", asked.seed);
    reached && !is_over.load(Ordering::Relaxed)
}

fn in_new_dir(dir: &Path, turn: u64, plan: Plan) -> Result<Done, Failed> {
    let dir = dir.join(turn.to_string());
    fs::create_dir(&dir)?;
    let done = run_round(&dir, plan);
    if done.is_ok() {
        fs::remove_dir_all(&dir)?;
    }
    done
}

/// Says what failed, and keeps what is needed to see it again, where it outlives this world.
fn report(failed: &Failed, plan: Plan, seed: u64, turn: u64) {
    println!("FAILED: {}: {}", plan.kind.name(), failed.error);
    println!("  {plan:?}; seed {seed}, round {turn}");
    if let Some(again) = &failed.again {
        let kept = std::env::temp_dir().join(format!("power-failed-{}-{}", plan.kind.name(), plan.seed));
        let arguments = format!("{} {} {} {}", plan.kind.name(), again.cut.at, again.cut.held, again.seed);
        let is_kept = fs::create_dir_all(&kept)
            .and_then(|()| copy_sparse(&again.image, &kept.join("image")))
            .and_then(|()| fs::write(kept.join("said"), &again.said))
            .and_then(|()| fs::write(kept.join("arguments"), arguments));
        match is_kept {
            Ok(()) => println!("  kept; again: cargo test --test power -- --again {}", kept.display()),
            Err(error) => println!("  not kept: {error}"),
        }
    }
}

fn copy_sparse(from: &Path, to: &Path) -> std::io::Result<()> {
    let _ = fs::remove_file(to);
    super::image::Bytes::load(from)?.store(to)
}

/// Makes a check again, on a copy of what was kept.
fn again(dir: &Path, kept: &Path) -> Result<bool> {
    let arguments = fs::read_to_string(kept.join("arguments"))?;
    let [kind, at, held, seed] = arguments.split(' ').collect::<Vec<_>>()[..] else {
        return Err(format!("not the arguments of a check: {arguments}").into());
    };
    let image = dir.join("cut");
    copy_sparse(&kept.join("image"), &image)?;
    let said = fs::read_to_string(kept.join("said"))?;
    let cut = Cut { at: at.parse()?, held: held.parse()? };
    match check_image(&image, &dir.join("mounted"), Kind::named(kind)?, &said, cut, seed.parse()?) {
        Ok(found) => println!("nothing is wrong: {found:?}"),
        Err(error) => {
            println!("FAILED: {error}");
            return Ok(false);
        }
    }
    Ok(true)
}

/// A test that cannot fail is none: a workload that says too much, and a sync that does too little, must be found.
fn self_check(dir: &Path, asked: &Asked) -> Result<bool> {
    let mut passed = true;
    let mut random = Random(asked.seed);
    let mut turn = 0;
    for (lie, name) in Lie::ALL.into_iter().filter(|(lie, _)| *lie != Lie::None) {
        for kind in &asked.kinds {
            let (mut cuts, mut found) = (0, None);
            while found.is_none() && cuts < MOST_CUTS_A_LIE {
                let plan =
                    Plan { kind: *kind, seed: random.next(), lie, fault: None, heals: false, most_cuts: u64::MAX };
                turn += 1;
                match in_new_dir(dir, turn, plan) {
                    Ok(done) => cuts += done.cuts.max(1),
                    Err(Failed { error, again: Some(_) }) => found = Some(error),
                    // Not a cut that found something, but a test that does not work.
                    Err(failed) => {
                        report(&failed, plan, asked.seed, turn);
                        return Ok(false);
                    }
                }
            }
            let is_found = u64::from(found.is_some());
            println!("planted {name} on {}: after {cuts} sound cuts: {}", kind.name(), found.unwrap_or_default());
            println!("count planted {name} found on {} {is_found} 1", kind.name());
            passed &= is_found == 1;
        }
    }
    Ok(passed)
}
