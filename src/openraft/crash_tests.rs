//! Raft logs under power cuts, kills and errors at every call: what was acknowledged is there, and what is there was
//! told up to one moment.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests fail as tests do")]

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use openraft::storage::RaftLogStorage;

use super::model_tests::*;
use super::testing::*;
use super::*;
use crate::log::Staging;
use crate::sim::{DiskOptions, Errno, Fault, Image, Moment, Record as Recording, Rng, SimClock, SimDisk, Times};
use crate::types::Offset;

const SEEDS: u64 = 100;

/// One life of a raft log.
struct Played {
    steps: Vec<Step>,
    /// What it holds after as many steps.
    states: Vec<Model>,
    told: Vec<Told>,
    moments: Vec<Moment>,
    clock: Arc<SimClock>,
}

/// How many steps were begun, over and acknowledged before a call. Steps are acknowledged with all before them.
#[derive(Debug, Clone, Copy)]
struct Told {
    calls: u64,
    begun: usize,
    over: usize,
    acked: usize,
}

/// Begins what a future does, and does not wait for the disk.
async fn begin(future: impl Future<Output = Outcome<()>>) -> Outcome<()> {
    let mut future = pin!(future);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        _ => Poll::Ready(Ok(())),
    })
    .await
}

/// Plays steps until one fails. `next` gives each, and whether it is waited for.
fn play(disk: &Arc<SimDisk>, staging: Staging, mut next: impl FnMut(&Model) -> Option<(Step, bool)>) -> Played {
    let (log, mut raft_log) = open(disk, staging).unwrap();
    disk.record(Recording::All);
    let mut now = Told { calls: disk.calls(), begun: 0, over: 0, acked: 0 };
    let (mut steps, mut states, mut told) = (Vec::new(), vec![Model::default()], vec![now]);
    while let Some((step, waits)) = next(&states[now.over]) {
        now = Told { calls: disk.calls(), begun: now.begun + 1, ..now };
        told.push(now);
        let acted = run_while(&log, async {
            let act = step.act(&mut raft_log);
            if waits { act.await } else { begin(act).await }
        });
        let mut state = states[now.over].clone();
        step.apply(&mut state);
        states.push(state);
        steps.push(step);
        if !matches!(acted, Some(Ok(()))) {
            break;
        }
        // Of a commit nobody is told when it is durable.
        let is_acked = waits && !matches!(steps.last(), Some(Step::Commit(_)));
        now =
            Told { calls: disk.calls(), over: now.begun, acked: if is_acked { now.begun } else { now.acked }, ..now };
        told.push(now);
    }
    Played { steps, states, told, moments: disk.take_moments(), clock: disk.clock() }
}

impl Played {
    fn told(&self, moment: &Moment) -> Told {
        *self.told.iter().rfind(|told| told.calls <= moment.call).unwrap()
    }

    /// What a power cut may leave: all that was acknowledged, and of what was begun after it any part without a hole.
    fn after_cut(&self, told: Told) -> &[Model] {
        &self.states[told.acked..=told.begun]
    }

    fn after_kill(&self, told: Told) -> &[Model] {
        &self.states[told.over..=told.begun]
    }

    fn judge_cut(&self, moment: &Moment, seed: u64) -> Result<Found, String> {
        let context = |what| format!("call {}, power cut {seed}, steps {:?}: {what}", moment.call, self.steps);
        judge(moment.image.crash(seed), &self.clock, self.after_cut(self.told(moment))).map_err(context)
    }

    fn judge_kill(&self, moment: &Moment) -> Result<Found, String> {
        let context = |what| format!("call {}, kill, steps {:?}: {what}", moment.call, self.steps);
        judge(moment.image.clone(), &self.clock, self.after_kill(self.told(moment))).map_err(context)
    }
}

/// What was left.
#[derive(Debug, Clone, Copy)]
struct Found {
    /// Where the partition begins.
    start: Offset,
    /// How many steps more than had to.
    more: usize,
}

/// Opens what is left, which must be one of the states, and goes on from there.
fn judge(image: Image, clock: &SimClock, allowed: &[Model]) -> Result<Found, String> {
    let disk = SimDisk::on(image, clock.fork());
    let (log, mut raft_log) = open(&disk, Staging::On)?;
    let start = raft_log.partition().offsets().start;
    let mut found = seen(&log, &mut raft_log).map_err(|error| error.to_string())?;
    let Some(more) = allowed.iter().position(|state| *state == found) else {
        return Err(format!("{found:?} is none of {allowed:?}"));
    };
    // What was found is acknowledged with whatever comes after it.
    let vote = Vote::new_committed(99, 1);
    run(&log, raft_log.save_vote(&vote)).map_err(|error| error.to_string())?;
    found.vote = Some(vote);
    let disk = disk.crash(7);
    let (log, mut raft_log) = open(&disk, Staging::Off)?;
    let again = seen(&log, &mut raft_log).map_err(|error| error.to_string())?;
    if again == found { Ok(Found { start, more }) } else { Err(format!("then {again:?} is not {found:?}")) }
}

fn is_append(step: &Step) -> bool {
    matches!(step, Step::Append(_))
}

fn staging_of(seed: u64) -> Staging {
    if seed.is_multiple_of(2) { Staging::On } else { Staging::Off }
}

#[test]
fn a_power_cut_leaves_what_was_acknowledged_and_what_came_after_without_a_hole() {
    // Cuts that had to leave something of the kind; and that took something that was over, or left more than they had
    // to.
    let (mut votes, mut appends, mut replaced, mut purges) = (0, 0, 0, 0);
    let (mut took, mut left) = (0, 0);
    for seed in 0..SEEDS {
        let (mut rng, mut term, mut count) = (Rng::stream(seed, "steps"), 1, 0);
        let played = play(&SimDisk::new(DiskOptions::default()), staging_of(seed), |model| {
            count += 1;
            let choice = (rng.below(Step::KINDS.into()) as u8, rng.draw());
            (count < 25).then(|| (Step::of(choice, model, &mut term), rng.chance(1, 2)))
        });
        let mut rng = Rng::stream(seed, "cuts");
        for _ in 0..12 {
            let moment = rng.pick(&played.moments);
            played.judge_kill(moment).unwrap();
            if moment.during {
                continue;
            }
            let found = played.judge_cut(moment, rng.draw()).unwrap();
            let told = played.told(moment);
            let acked = &played.steps[..told.acked];
            votes += usize::from(acked.iter().any(|step| matches!(step, Step::Vote(_))));
            appends += usize::from(acked.iter().any(is_append));
            purges += usize::from(acked.iter().any(|step| matches!(step, Step::Purge(_))));
            let truncation = acked.iter().position(|step| matches!(step, Step::Truncate(_)));
            replaced += usize::from(truncation.is_some_and(|at| acked[at..].iter().any(is_append)));
            took += usize::from(told.acked + found.more < told.over);
            left += usize::from(found.more > 0);
        }
    }
    let counts = [votes, appends, replaced, purges, took, left];
    assert!(counts.iter().all(|count| *count > 100), "{counts:?}");
}

#[test]
fn a_vote_that_was_saved_survives_a_power_cut() {
    for seed in 0..SEEDS {
        let disk = SimDisk::new(DiskOptions::default());
        let (log, mut raft_log) = open(&disk, staging_of(seed)).unwrap();
        for term in 1..=1 + seed % 3 {
            run(&log, raft_log.save_vote(&Vote::new(term, 7))).unwrap();
            let crashed = disk.crash(seed);
            let (log, mut raft_log) = open(&crashed, Staging::On).unwrap();
            assert_eq!(run(&log, raft_log.read_vote()).unwrap(), Some(Vote::new(term, 7)), "seed {seed}");
        }
    }
}

#[test]
fn entries_whose_callback_was_called_survive_a_power_cut() {
    let mut more = 0;
    for seed in 0..SEEDS {
        let disk = SimDisk::new(DiskOptions::default());
        let (log, mut raft_log) = open(&disk, staging_of(seed)).unwrap();
        let append = |from, to| Step::Append((from..to).map(|index| id(1, index)).collect());
        run(&log, append(0, 3).act(&mut raft_log)).unwrap();
        run(&log, append(3, 5).act(&mut raft_log)).unwrap();
        run(&log, begin(append(5, 9).act(&mut raft_log))).unwrap();
        let crashed = disk.crash(seed);
        let (log, mut raft_log) = open(&crashed, Staging::On).unwrap();
        let count = seen(&log, &mut raft_log).unwrap().entries.len();
        assert!([5, 9].contains(&count), "seed {seed}: {count}");
        more += usize::from(count == 9);
    }
    assert!(more < SEEDS as usize, "the power cut took nothing in {more} of {SEEDS}");
}

/// The truncation is not waited for: that of the entries in the place of those is enough.
#[test]
fn truncated_entries_do_not_come_back_once_others_were_acknowledged_in_their_place() {
    let mut came_back = 0;
    for seed in 0..SEEDS {
        let disk = SimDisk::new(DiskOptions::default());
        let (log, mut raft_log) = open(&disk, staging_of(seed)).unwrap();
        let append = |term, from, to| Step::Append((from..to).map(|index| id(term, index)).collect());
        run(&log, append(1, 0, 6).act(&mut raft_log)).unwrap();
        run(&log, begin(raft_log.truncate(id(1, 2)))).unwrap();
        let crashed = disk.crash(seed);
        let (cut, mut before) = open(&crashed, Staging::On).unwrap();
        came_back += usize::from(seen(&cut, &mut before).unwrap().entries.len() == 6);

        run(&log, append(2, 2, 4).act(&mut raft_log)).unwrap();
        let crashed = disk.crash(seed);
        let (log, mut raft_log) = open(&crashed, Staging::On).unwrap();
        let ids: Vec<_> = seen(&log, &mut raft_log).unwrap().entries.into_values().collect();
        assert_eq!(ids, [id(1, 0), id(1, 1), id(2, 2), id(2, 3)], "seed {seed}");
    }
    assert!(came_back > 0, "the truncation was durable before it was waited for");
}

/// Votes and entries in some files, and purges that remove them, the last one of all.
fn purging() -> impl FnMut(&Model) -> Option<(Step, bool)> {
    let append = |from: u64, to: u64| Step::Append((from..to).map(|index| id(1, index)).collect());
    let mut steps = vec![Step::Vote(Vote::new(1, 1)), Step::Commit(Some(id(1, 3)))];
    steps.extend((0..24).step_by(3).map(|from| append(from, from + 3)));
    steps.extend([Step::Purge(id(1, 15)), Step::Truncate(id(1, 20)), Step::Vote(Vote::new(2, 1))]);
    steps.extend([Step::Purge(id(1, 17)), append(20, 24), Step::Purge(id(1, 30)), append(31, 33)]);
    let mut steps = steps.into_iter();
    move |_| steps.next().map(|step| (step, true))
}

#[test]
fn a_crash_at_any_call_of_a_purge_leaves_what_was_before_it_or_after_it() {
    for staging in [Staging::Off, Staging::On] {
        let (mut judged, mut starts) = (0, std::collections::BTreeSet::new());
        let played = play(&SimDisk::new(DiskOptions::default()), staging, purging());
        for moment in &played.moments {
            let told = played.told(moment);
            let is_purge = told.over < told.begun && matches!(played.steps[told.over], Step::Purge(_));
            starts.insert(played.judge_kill(moment).unwrap().start);
            if !moment.during {
                let seeds = if is_purge { 0..8 } else { 0..1 };
                for seed in seeds {
                    starts.insert(played.judge_cut(moment, seed).unwrap().start);
                    judged += usize::from(is_purge);
                }
            }
        }
        assert!(judged > 100, "{judged}");
        assert!(starts.len() > 2, "no file was removed: {starts:?}");
    }
}

#[test]
fn an_error_at_any_call_loses_nothing_that_was_acknowledged() {
    let calls = |staging| {
        let disk = SimDisk::new(DiskOptions::default());
        drop(open(&disk, staging).unwrap());
        let from = disk.calls();
        play(&disk.kill(), staging, purging());
        let disk = SimDisk::new(DiskOptions::default());
        play(&disk, staging, purging());
        from..disk.calls()
    };
    for (errno, times, staging) in [
        (Errno::Io, Times::Once, Staging::Off),
        (Errno::Io, Times::Once, Staging::On),
        (Errno::Full, Times::Dead, Staging::On),
        (Errno::Io, Times::Dead, Staging::Off),
    ] {
        let mut failed = 0;
        for call in calls(staging) {
            let disk = SimDisk::new(DiskOptions::default());
            let mut next = purging();
            let mut is_armed = false;
            let played = play(&disk, staging, |model| {
                // Not while it is opened.
                if !std::mem::replace(&mut is_armed, true) {
                    disk.inject(call, Fault::Error(errno), times);
                }
                next(model)
            });
            disk.heal();
            let told = *played.told.last().unwrap();
            failed += usize::from(told.over < told.begun);
            let context = |what| format!("{errno:?} {times:?} {staging:?} at call {call}: {what}");
            judge(disk.image(), &played.clock, played.after_kill(told)).map_err(context).unwrap();
            for seed in 0..2 {
                judge(disk.image().crash(seed), &played.clock, played.after_cut(told)).map_err(context).unwrap();
            }
            assert!(disk.audit().is_none(), "{:?}", disk.audit());
        }
        assert!(failed > 10, "{errno:?} {times:?} {staging:?}: {failed}");
    }
}
