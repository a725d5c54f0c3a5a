//! Every call of a scenario fails, once and for ever, with every error: the outcome is an error or a success, never
//! a wrong answer, and what is on the disk afterwards opens.

use super::Tally;
use super::plan::Plan;
use super::run::Run;
use super::subject::{End, Refusal, Scenario, Subject, Verdict, Violation};
use crate::sim::{DiskOptions, Errno, Fault, Image, Record, Times, mix};

/// One scenario up to where faults begin, and how many calls there are to fail.
pub(super) struct Stage<'a, S: Subject> {
    scenario: &'a Scenario<S>,
    run: Run<S>,
    image: Image,
    /// The calls that can fail.
    pub(super) calls: Vec<u64>,
}

/// Runs a scenario without faults.
pub(super) fn prepare<S: Subject>(scenario: &Scenario<S>, blind: bool) -> Result<Stage<'_, S>, Violation> {
    let options = scenario.options.clone();
    let plan = Plan { seed: 1, disk: DiskOptions { blind, ..DiskOptions::default() }, options, steps: Vec::new() };
    let mut run = Run::<S>::new(&plan, Record::Nothing);
    run.open()?;
    for op in &scenario.setup {
        run.apply(op)?;
    }
    let image = match scenario.end {
        End::Close => {
            run.close()?;
            run.world.disk.image()
        }
        End::Kill => {
            S::killed(&mut run.model);
            run.world.disk.image()
        }
        End::Crash(seed) => {
            S::crashed(&mut run.model);
            run.world.disk.image().crash(seed)
        }
    };
    let mut stage = Stage { scenario, run, image, calls: Vec::new() };
    let mut healthy = stage.start();
    healthy.open()?;
    for op in &stage.scenario.ops {
        healthy.apply(op)?;
    }
    healthy.close()?;
    let stores = healthy.world.disk.stores();
    stage.calls = (0..healthy.world.disk.calls()).filter(|call| stores.binary_search(call).is_err()).collect();
    Ok(stage)
}

/// The faults tried at each call, those first that most mistakes show under.
pub(super) fn faults<S: Subject>() -> [Vec<(Fault, Times)>; 2] {
    // A quota is a full disk, and a file system that may only be read is one where nothing is allowed.
    let others = Errno::ALL.into_iter().filter(|errno| !matches!(errno, Errno::Quota | Errno::ReadOnly));
    let errors = others.map(Fault::Error);
    let mut all: Vec<_> = errors.flat_map(|fault| [(fault, Times::Once), (fault, Times::Sticky)]).collect();
    // A call that is interrupted for ever is repeated for ever, rightly.
    all.retain(|fault| *fault != (Fault::Error(Errno::Interrupted), Times::Sticky));
    all.push((Fault::Error(Errno::Io), Times::Dead));
    // What is to be cut off after a failed write cannot be, at once.
    if S::KNOWS_WHOLE_FAILURES {
        all.extend([(Fault::Partly(usize::MAX), Times::Next(2)), (Fault::Partly(30), Times::Next(2))]);
    }
    all.extend([(Fault::Short(1), Times::Once), (Fault::Short(7), Times::Sticky), (Fault::WriteBack, Times::Once)]);
    let (telling, others) = all.into_iter().partition(|(fault, times)| match fault {
        Fault::Error(errno) => *errno == Errno::Io && *times != Times::Dead,
        other => matches!(other, Fault::Partly(_) | Fault::Short(1)),
    });
    [telling, others]
}

impl<S: Subject> Stage<'_, S> {
    fn start(&self) -> Run<S> {
        Run::on(self.image.clone(), &self.run.world, &self.run.options, self.run.model.clone(), mix(2))
    }

    /// Fails call number `call`.
    pub(super) fn fail(&self, call: u64, fault: Fault, times: Times, seed: u64, tally: &Tally) -> Verdict {
        let mut run = self.start();
        run.world.disk.set_luck(seed);
        run.world.disk.inject(call, fault, times);
        self.go_on(&mut run, fault, times)?;
        tally.add_failed(run.world.disk.struck());
        run.world.disk.heal();

        let mut model = run.model.clone();
        S::crashed(&mut model);
        let found = run.world.disk.image().crash(mix(call ^ seed));
        let mut crashed = Run::<S>::on(found, &run.world, &run.options, model, mix(3));
        crashed.open().map_err(|violation| violation.within("crash after it"))?;
        run.open().map_err(|violation| violation.within("opened after it"))?;
        run.close().map_err(|violation| violation.within("closed after it"))
    }

    fn go_on(&self, run: &mut Run<S>, fault: Fault, times: Times) -> Verdict {
        match run.try_open()? {
            Some(Refusal::Corrupt(why) | Refusal::Dropped(why)) => {
                return Err(Violation::new("R8", format!("a failed call is no damage: {why}")));
            }
            Some(Refusal::Failed(why)) if matches!(fault, Fault::Short(_)) => {
                return Err(Violation::new("open", format!("a short read or write is no error: {why}")));
            }
            Some(Refusal::Failed(_)) => {
                S::killed(&mut run.model);
                run.world.disk.audit_closed();
                return Ok(());
            }
            None => {}
        }
        for op in &self.scenario.ops {
            run.apply(op)?;
        }
        // Closing mends much of what went wrong.
        let mut model = run.model.clone();
        S::killed(&mut model);
        let image = run.world.disk.image();
        if fault == Fault::Error(Errno::Io) && times != Times::Dead && run.is_stuck() {
            // Pages that a sync reported as failed may be dropped before anybody looks. On a disk that does nothing any
            // more nobody can take back what was noted; who opens it later is told of damage.
            let mut evicted = Run::<S>::on(image.clone(), &run.world, &run.options, model.clone(), mix(5));
            evicted.world.disk.evict();
            evicted.open_whole().map_err(|violation| violation.within("killed and evicted after it"))?;
        }
        let mut killed = Run::<S>::on(image, &run.world, &run.options, model, mix(4));
        killed.open().map_err(|violation| violation.within("killed after it"))?;
        run.close()
    }
}
