//! What the explorers explore: something that stores data on a simulated disk, and a model of what it must keep.

use std::fmt;
use std::sync::Arc;

use crate::sim::{Rng, SimClock, SimDisk, SimEntropy};

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which one, by its short name: `D1`, say.
    pub invariant: &'static str,
    /// What was seen instead.
    pub detail: String,
}

/// The outcome of a check.
pub type Verdict = Result<(), Violation>;

impl Violation {
    /// `invariant` does not hold, as `detail` tells.
    pub fn new(invariant: &'static str, detail: impl Into<String>) -> Self {
        Self { invariant, detail: detail.into() }
    }

    /// Says where it was seen.
    #[must_use]
    pub(super) fn within(mut self, place: impl fmt::Display) -> Self {
        self.detail = format!("{place}: {}", self.detail);
        self
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

/// Why a subject did not open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It found bytes that it cannot explain, and changed nothing.
    Corrupt(String),
    /// A call failed.
    Failed(String),
    /// It found gone what the system dropped, after it had said that it could not write it. Nobody was promised that.
    Dropped(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt(why) => write!(f, "corrupt: {why}"),
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::Dropped(why) => write!(f, "dropped: {why}"),
        }
    }
}

/// What a subject lives in.
#[derive(Debug, Clone)]
pub struct World {
    /// The disk.
    pub disk: Arc<SimDisk>,
    /// The time.
    pub clock: Arc<SimClock>,
    /// The chance.
    pub entropy: Arc<SimEntropy>,
}

impl World {
    pub(super) fn on(disk: Arc<SimDisk>, seed: u64) -> Self {
        Self { clock: disk.clock(), disk, entropy: Arc::new(SimEntropy::new(seed)) }
    }
}

/// Something to explore.
///
/// Its model is a plain value that holds, between a crash and the first look, a *set* of allowed futures;
/// [`Subject::settle`] picks the one that came true. Operations carry all they need: leaving one out of a plan must
/// not change the others.
pub trait Subject: Sized {
    /// Its name on the command line.
    const NAME: &'static str;
    /// The mistakes planted in it.
    const PLANTED: &'static [&'static str];
    /// The rare states that a full run must reach.
    const MARKS: &'static [&'static str];
    /// Whether its model knows that a write can be whole and fail.
    const KNOWS_WHOLE_FAILURES: bool = false;
    /// The longest sequences of which all are run.
    const LONGEST: u32 = 4;
    /// Beyond this many pending pieces not all outcomes of a crash are run.
    const MOST_BITS: u32 = 12;
    /// One call of a user.
    type Op: Clone + fmt::Debug + Send + Sync;
    /// Limits and weights, drawn anew for each plan: a random part of the kinds of operations is off (*swarm*).
    type Options: Clone + fmt::Debug + Send + Sync;
    /// What it must hold.
    type Model: Clone;

    /// Draws the options of one plan.
    fn options(rng: &mut Rng) -> Self::Options;

    /// Draws one operation.
    fn operation(options: &Self::Options, rng: &mut Rng) -> Self::Op;

    /// At most eight operations, of each kind one, whose every sequence is run; and options that keep limits near. Each
    /// alphabet has as many.
    fn alphabets() -> Vec<(Self::Options, Vec<Self::Op>)>;

    /// The scenarios in which every call is failed.
    fn scenarios() -> Vec<Scenario<Self>>;

    /// The model of an empty disk.
    fn model(options: &Self::Options) -> Self::Model;

    /// Opens, and recovers what there is.
    ///
    /// # Errors
    ///
    /// Why it cannot. On a disk without faults or rot there is no reason.
    fn open(world: &World, options: &Self::Options) -> Result<Self, Refusal>;

    /// Looks at everything, picks the future that came true, and checks all invariants.
    ///
    /// # Errors
    ///
    /// The invariant that does not hold.
    fn settle(&mut self, model: &mut Self::Model) -> Verdict;

    /// Judges what is on the disk, which nobody has damaged.
    ///
    /// # Errors
    ///
    /// The invariant that does not hold.
    fn judge(&mut self) -> Verdict {
        Ok(())
    }

    /// Takes into the model that `op` is under way: it may happen, or not.
    fn expect(model: &mut Self::Model, op: &Self::Op);

    /// Runs `op`, which [`expect`](Self::expect) announced, takes its outcome into the model, and checks what is
    /// cheap to check. An error of the disk is an outcome, no violation.
    ///
    /// # Errors
    ///
    /// The invariant that does not hold.
    fn apply(&mut self, op: &Self::Op, model: &mut Self::Model) -> Verdict;

    /// Whether it refuses to go on until it is opened again.
    fn is_stuck(&self) -> bool;

    /// Closes in good order, as far as the disk lets it.
    ///
    /// # Errors
    ///
    /// The invariant that does not hold.
    fn close(self, model: &mut Self::Model) -> Verdict;

    /// Takes a power cut into the model.
    fn crashed(model: &mut Self::Model);

    /// Takes a kill into the model after which the machine was restarted in good order, or the files were copied: what
    /// the process had handed to the system is there, and nothing that it kept in memory of its own boot and files.
    fn restarted(model: &mut Self::Model) {
        Self::crashed(model);
    }

    /// Takes a kill into the model. Closing and opening again is no worse.
    fn killed(model: &mut Self::Model);
}

/// A short run in which each call is failed in turn.
#[derive(Debug)]
pub struct Scenario<S: Subject> {
    /// Its name, for people.
    pub name: &'static str,
    /// Limits and weights.
    pub options: S::Options,
    /// What happens before, without faults.
    pub setup: Vec<S::Op>,
    /// How that ends.
    pub end: End,
    /// What happens after opening again. Faults strike in the opening, in here and in the closing.
    pub ops: Vec<S::Op>,
}

/// How the first part of a scenario ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In good order.
    Close,
    /// By a kill.
    Kill,
    /// By a power cut, with this seed.
    Crash(u64),
}
