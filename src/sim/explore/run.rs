//! Running a plan, step by step.

use std::path::Path;

use super::plan::{Plan, Step};
use super::subject::{Refusal, Subject, Verdict, Violation, World};
use crate::clock::Clock;
use crate::sim::{Image, Record, Rng, Rot, SimDisk, mix};

/// No step makes this many calls, not even one that reads byte by byte: one that does loops.
const CALLS_A_STEP: u64 = 500_000;

/// Operations refused before a user opens again.
const PATIENCE: u32 = 3;

/// A subject in its world, and what the model says of it.
pub(super) struct Run<S: Subject> {
    pub(super) world: World,
    pub(super) options: S::Options,
    pub(super) model: S::Model,
    subject: Option<S>,
    record: Record,
    seed: u64,
    /// Operations that a stuck subject was asked for.
    refused: u32,
    /// Over the machines of this run that are gone.
    digest: u64,
}

impl<S: Subject> Run<S> {
    /// An empty disk, nothing open yet.
    pub(super) fn new(plan: &Plan<S>, record: Record) -> Self {
        let disk = SimDisk::new(plan.disk);
        disk.record(record.clone());
        Self {
            world: World::on(disk, plan.seed),
            options: plan.options.clone(),
            model: S::model(&plan.options),
            subject: None,
            record,
            seed: plan.seed,
            refused: 0,
            digest: 0,
        }
    }

    /// A machine that starts on `image`, of which `model` allows several futures. Its chance must be another than that
    /// of the machines before, or it draws the ids once more that they drew: `seed` is new, too.
    pub(super) fn on(image: Image, world: &World, options: &S::Options, model: S::Model, seed: u64) -> Self {
        Self {
            world: World::on(SimDisk::on(image, world.clock.fork()), seed),
            options: options.clone(),
            model,
            subject: None,
            record: Record::Nothing,
            seed,
            refused: 0,
            digest: 0,
        }
    }

    /// Opens on a disk without faults, and looks.
    pub(super) fn open(&mut self) -> Verdict {
        self.world.disk.heal();
        match self.try_open()? {
            // There is nothing to go on with: it stays refused until a crash leaves less.
            None | Some(Refusal::Dropped(_)) => Ok(()),
            Some(refusal) => Err(Violation::new("open", refusal.to_string())),
        }
    }

    /// Opens, and takes no loss for an excuse.
    pub(super) fn open_whole(&mut self) -> Verdict {
        self.world.disk.heal();
        match self.try_open()? {
            None => Ok(()),
            Some(refusal) => Err(Violation::new("open", refusal.to_string())),
        }
    }

    /// Opens with faults waiting. A refusal for want of a call is no violation.
    pub(super) fn try_open(&mut self) -> Result<Option<Refusal>, Violation> {
        self.limit_calls();
        match S::open(&self.world, &self.options) {
            Err(refusal) => {
                self.audited()?;
                Ok(Some(refusal))
            }
            Ok(mut subject) => {
                self.world.disk.pause_faults(true);
                let settled = subject.settle(&mut self.model);
                self.world.disk.pause_faults(false);
                self.subject = Some(subject);
                self.audited()?;
                settled.map(|()| None)
            }
        }
    }

    pub(super) fn apply(&mut self, op: &S::Op) -> Verdict {
        if self.subject.is_none() {
            self.open()?;
        }
        self.limit_calls();
        S::expect(&mut self.model, op);
        let applied = match &mut self.subject {
            Some(subject) => subject.apply(op, &mut self.model),
            None => Ok(()),
        };
        self.audited()?;
        applied
    }

    /// Closes what is open. After this it may be opened again as after a kill.
    pub(super) fn close(&mut self) -> Verdict {
        self.limit_calls();
        let closed = match self.subject.take() {
            Some(subject) => subject.close(&mut self.model),
            None => Ok(()),
        };
        self.world.disk.audit_closed();
        self.audited()?;
        S::killed(&mut self.model);
        closed
    }

    pub(super) fn step(&mut self, step: &Step<S::Op>) -> Verdict {
        let disk = &self.world.disk;
        if disk.is_traced() {
            eprintln!("== {step:?}");
        }
        match step {
            Step::Do(op) => {
                self.reopen_if_stuck()?;
                self.apply(op)
            }
            Step::Fault(ahead, fault, times) => {
                disk.inject(disk.calls() + ahead, *fault, *times);
                Ok(())
            }
            Step::Heal => {
                disk.heal();
                Ok(())
            }
            Step::Reopen => self.reopen(),
            Step::Crash(seed) => {
                S::crashed(&mut self.model);
                let found = disk.image().crash(*seed);
                self.restart(found)
            }
            Step::Kill => {
                S::killed(&mut self.model);
                let found = disk.image();
                self.restart(found)
            }
            Step::Restart => {
                S::restarted(&mut self.model);
                let found = disk.image().restart();
                self.restart(found)
            }
            Step::Copy => {
                S::restarted(&mut self.model);
                let found = disk.image().copy();
                self.restart(found)
            }
            Step::Jump(ms) => {
                self.world.clock.jump(*ms);
                Ok(())
            }
            Step::Wait(time) => {
                self.world.clock.advance(*time);
                Ok(())
            }
            Step::Evict => {
                disk.evict();
                Ok(())
            }
            Step::Full(free) => {
                disk.set_free(Some(*free));
                Ok(())
            }
            Step::Room => {
                disk.set_free(None);
                Ok(())
            }
            Step::Rot(seed) => self.rot(*seed),
        }
    }

    /// Whether the subject refuses what it is asked for until it is opened again.
    pub(super) fn is_stuck(&self) -> bool {
        self.subject.as_ref().is_some_and(S::is_stuck)
    }

    /// A user opens again, once refused often enough; what is left of the plan would be refusals.
    fn reopen_if_stuck(&mut self) -> Verdict {
        if !self.is_stuck() {
            return Ok(());
        }
        self.refused += 1;
        match self.refused % PATIENCE {
            0 => self.reopen(),
            _ => Ok(()),
        }
    }

    fn reopen(&mut self) -> Verdict {
        self.close()?;
        match self.try_open()? {
            None => self.judge(),
            Some(Refusal::Dropped(_)) => Ok(()),
            Some(Refusal::Corrupt(why)) => Err(Violation::new("D8", format!("nothing is damaged, but {why}"))),
            Some(Refusal::Failed(_)) => {
                // What a failed opening left is opened again, as after a kill; a full disk may stand in the way.
                S::killed(&mut self.model);
                self.world.disk.set_free(None);
                self.open()
            }
        }
    }

    fn restart(&mut self, found: Image) -> Verdict {
        self.digest = self.digest();
        let successor = self.successor(found);
        let before = std::mem::replace(&mut self.world, successor);
        // The old process must not touch the new world; what it does while it dies, it does to the old one.
        self.subject = None;
        drop(before);
        self.world.disk.set_free(None);
        self.open()?;
        self.judge()
    }

    fn judge(&mut self) -> Verdict {
        // As long as all the rest takes: one run in so many is enough.
        if !self.seed.is_multiple_of(JUDGE_EVERY) {
            return Ok(());
        }
        self.limit_calls();
        self.world.disk.pause_faults(true);
        let judged = self.subject.as_mut().map_or(Ok(()), S::judge);
        self.world.disk.pause_faults(false);
        self.audited()?;
        judged
    }

    fn successor(&self, image: Image) -> World {
        let disk = SimDisk::on(image, self.world.clock.fork());
        disk.record(self.record.clone());
        World::on(disk, mix(self.seed ^ self.digest))
    }

    /// Damages one file of a closed subject, and demands that it is noticed or does not matter.
    fn rot(&mut self, seed: u64) -> Verdict {
        self.world.disk.heal();
        self.world.disk.set_free(None);
        // What a poisoned subject leaves is not proven: damage there is a torn tail, rightly.
        self.close()?;
        self.open()?;
        self.close()?;
        let whole = self.world.disk.image();
        let mut rng = Rng::stream(seed, "rot");
        let mut files: Vec<_> = whole.lens().into_iter().filter(|(_, len)| *len > 0).collect();
        let is_log = |path: &Path| path.extension().is_some_and(|extension| extension == "log");
        // There are a dozen small files beside each that matters.
        if rng.chance(1, 2) && files.iter().any(|(path, _)| is_log(path)) {
            files.retain(|(path, _)| is_log(path));
        }
        if !files.is_empty() {
            let (path, len) = rng.pick(&files);
            let mut how = Rng::stream(seed, "how");
            let rot = match how.chance(1, 4) {
                true => Rot::Delete,
                false => Rot::draw(&mut how, *len),
            };
            let mut damaged = whole.clone();
            damaged.rot(path, &rot);
            self.outlives(damaged).map_err(|violation| violation.within(format!("{} {rot:?}", path.display())))?;
        }
        self.open()
    }

    fn outlives(&self, damaged: Image) -> Verdict {
        let before = damaged.digest();
        let mut run = Self::on(damaged, &self.world, &self.options, self.model.clone(), self.seed);
        match run.try_open()? {
            None => run.close(),
            Some(Refusal::Failed(why)) => Err(Violation::new("D8", format!("damage is not a failed call: {why}"))),
            Some(Refusal::Corrupt(_) | Refusal::Dropped(_)) if run.world.disk.image().digest() == before => Ok(()),
            Some(Refusal::Corrupt(why) | Refusal::Dropped(why)) => {
                Err(Violation::new("D8", format!("files were changed, then {why}")))
            }
        }
    }

    fn audited(&self) -> Verdict {
        match self.world.disk.audit() {
            None => Ok(()),
            Some(audit) => Err(Violation::new(audit.rule, format!("call {}: {}", audit.call, audit.detail))),
        }
    }

    fn limit_calls(&self) {
        self.world.disk.set_call_limit(self.world.disk.calls() + CALLS_A_STEP);
    }

    /// Over every call so far, and the time that passed.
    pub(super) fn digest(&self) -> u64 {
        mix(self.digest ^ self.world.disk.digest() ^ self.world.clock.now().0 as u64)
    }
}

const JUDGE_EVERY: u64 = 16;
