//! All states that the machines of replication can come to in a small world, one after the other, each once.
//!
//! ```text
//! state --- every step that can be next ---> states; those that were not met yet are checked, and gone on from
//!             append, arrive, hear, wait, kill, cut, wipe, start, ...
//! ```
//!
//! Three nodes hold a partition of a few records; a client appends to whoever leads. The machines are the real ones, and so is
//! the memory of epochs; the log, and what drives the machines, is in `node`. Messages arrive in any order, or never. What
//! may happen only so often is in [`Bounds`]. States are gone through by breadth, so that what is found first is as short as
//! can be; a state is known by a digest of what matters of it, see `shape`.
//!
//! What there is less of than in the world outside:
//! - Of times it counts whether they are this moment's, a little ago, or long ago: see `node`. Each node has a clock of its own.
//! - Of a kind of message between two nodes only the latest few are on their way; the others are lost.
//! - A question that would be refused is lost, and so are refusals. Who is refused waits, and asks again; so does who hears
//!   nothing.
//! - A node hears of what was decided last, or of the few before ([`Bounds::late`]).
//! - An answer brings all the leader has. What an append, or an answer, makes a node do is done in one step, syncs included.
//! - No election is unclean, nothing is deleted at the start of a log, and no node loses something within a life.
//!
//! Of some states it is tried what comes of them once nothing goes wrong any more: all must come to hold the same. Where the
//! limit ends it before all states were met, it walks on at random for a while from those that were met last.
//!
//! All that [`WIDE`] allows is more than can be gone through: of a million states each is at most eight steps from the first,
//! and with each step more there are four times as many. In [`NARROW`] worlds less happens, so that as many steps lead farther;
//! in [`WHOLE`] ones so little that all states are met, up to 25 steps from the first.

mod check;
mod node;
mod shape;
mod world;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::ScopedJoinHandle;

use parking_lot::Mutex;

use self::world::{Broken, Step, World};
use super::{Failure, ID};
use crate::sim::Rng;

/// How much may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// How many records clients append.
    pub records: u8,
    /// How often a process is killed, or the power fails.
    pub crashes: u8,
    /// How often a disk is replaced by an empty one.
    pub wipes: u8,
    /// How often a node is taken for dead that lives.
    pub alarms: u8,
    /// How often something arrives twice.
    pub repeats: u8,
    /// How often something that arrives at once, or never, does not.
    pub losses: u8,
    /// How many leader epochs there are.
    pub epochs: u8,
    /// How many messages of a kind are on their way from one node to another, at most.
    pub messages: usize,
    /// How many commands of a kind are on their way from a node to the controller, at most.
    pub commands: usize,
    /// How many decisions but the last a node may yet hear of.
    pub late: usize,
    /// How many replicas must be in sync for a record to be committed.
    pub min_in_sync: u32,
    /// Whether each append is synced, so that a power cut takes nothing that a node answers for.
    pub is_synced: bool,
    /// Whether answers may be on their way for long. Else they arrive at once, or never.
    pub has_slow_answers: bool,
    /// Whether commands may.
    pub has_slow_commands: bool,
    /// Whether a change of the in-sync set that comes too late is on its way until it arrives: it does nothing then, unless a
    /// mistake is planted.
    pub keeps_late: bool,
}

/// As many of each thing as there should be at least; and besides one leader that is alive when another is elected, and one
/// answer or command that is lost.
pub const WIDE: Bounds = Bounds {
    records: 4,
    crashes: 2,
    wipes: 1,
    alarms: 1,
    repeats: 0,
    losses: 1,
    epochs: 2,
    messages: 1,
    commands: 1,
    late: 0,
    min_in_sync: 2,
    is_synced: false,
    has_slow_answers: false,
    has_slow_commands: false,
    keeps_late: false,
};

/// So little that all states can be met.
pub const WHOLE: [(&str, Bounds); 3] = [
    ("one record", Bounds { records: 1, alarms: 0, ..QUIET }),
    ("one alarm", Bounds { records: 1, ..QUIET }),
    ("one crash", Bounds { records: 1, alarms: 0, crashes: 1, ..QUIET }),
];

/// Less of most things, so that it comes farther; and more of some.
pub const NARROW: [(&str, Bounds); 7] = [
    ("fail-over", Bounds { epochs: 3, ..QUIET }),
    ("loss", Bounds { crashes: 1, wipes: 1, alarms: 0, ..QUIET }),
    ("two crashes", Bounds { crashes: 2, records: 1, epochs: 3, ..QUIET }),
    ("synced", Bounds { crashes: 1, is_synced: true, ..QUIET }),
    ("slow", Bounds { has_slow_answers: true, messages: 2, late: 1, ..QUIET }),
    (
        "late",
        Bounds {
            records: 1,
            alarms: 0,
            repeats: 1,
            losses: 1,
            has_slow_commands: true,
            commands: 2,
            keeps_late: true,
            ..QUIET
        },
    ),
    ("one is enough", Bounds { crashes: 1, min_in_sync: 1, ..QUIET }),
];

const QUIET: Bounds = Bounds { records: 2, crashes: 0, wipes: 0, losses: 0, ..WIDE };

/// Mistakes in the machines, and the narrow world in which each is found soonest.
pub const PLANTED: [(&str, &str); 8] = [
    ("controller.any_version", "late"),
    ("controller.epoch_kept", "fail-over"),
    ("controller.loss_ignored", "loss"),
    ("replica.acked_by_one", "fail-over"),
    ("replica.asks_before_sync", "synced"),
    ("replica.commits_below_minimum", "fail-over"),
    ("replica.cuts_to_committed", "fail-over"),
    ("replica.joins_behind", "loss"),
];

impl Default for Bounds {
    /// The wide ones.
    fn default() -> Self {
        WIDE
    }
}

/// How far it has come.
#[derive(Debug, Clone, Default)]
pub struct Explored {
    /// How many states there were.
    pub states: u64,
    /// How many steps were tried.
    pub steps: u64,
    /// How many steps away from the first the farthest state is.
    pub depth: u32,
    /// Whether these are all.
    pub is_whole: bool,
    /// How many states were healed.
    pub healed: u64,
    /// In how many of these nobody may lead without a loss.
    pub leaderless: u64,
    /// How many steps were walked beyond.
    pub walked: u64,
    /// What was found to be wrong; the event is the number of the last step.
    pub failure: Option<Failure>,
}

/// Goes through all states within `bounds`, or the first `limit`, and tells how far it has come after each depth.
pub fn explore(
    bounds: &Bounds,
    limit: u64,
    threads: usize,
    bug: Option<&'static str>,
    mut tell: impl FnMut(&Explored),
) -> Explored {
    crate::sim::explore::plant(bug);
    let explorer =
        Explorer { bounds, seen: Seen::default(), twins: Mutex::default(), count: AtomicU64::new(1), limit };
    let found = explorer.run(threads, bug, &mut tell);
    crate::sim::explore::plant(None);
    found
}

struct Explorer<'a> {
    bounds: &'a Bounds,
    seen: Seen,
    /// Of some states, what comes next.
    twins: Mutex<HashMap<u128, Vec<u128>>>,
    /// How many states were met.
    count: AtomicU64,
    limit: u64,
}

/// A state: its number, and how it comes of the one before, which several have in common. It is large, and that is not.
struct Place {
    number: u32,
    before: Arc<World>,
    way: Option<Link>,
}

impl Place {
    fn world(&self, bounds: &Bounds) -> Result<World, Broken> {
        let mut world = World::clone(&self.before);
        if let Some(Link { step, loses, .. }) = self.way {
            world.take(step, loses, bounds)?;
        }
        Ok(world)
    }
}

/// What one thread has found.
#[derive(Default)]
struct Found {
    next: Vec<(Link, Arc<World>)>,
    steps: u64,
    healed: u64,
    leaderless: u64,
    failure: Option<(Link, Broken)>,
}

/// How far one thread has walked; and what is wrong, from which state on, and by which steps.
#[derive(Default)]
struct Walked {
    steps: u64,
    failure: Option<(u32, Vec<Link>, Broken)>,
}

/// How a state came about: the number of the one before, the step, and what of the things that came of it was lost.
#[derive(Debug, Clone, Copy)]
struct Link {
    before: u32,
    step: Step,
    loses: Option<u8>,
}

impl Explorer<'_> {
    fn run(&self, threads: usize, bug: Option<&'static str>, tell: &mut dyn FnMut(&Explored)) -> Explored {
        let mut done = Explored { states: 1, ..Explored::default() };
        let first = match World::new(self.bounds) {
            Ok(first) => first,
            Err(broken) => return Explored { failure: Some(self.failure(&[], None, &[], broken)), ..done },
        };
        self.seen.insert(first.shape());
        // Of the first state there is no step: its own is never looked at.
        let mut links = vec![Link { before: 0, step: Step::Tick(0), loses: None }];
        let mut layer = vec![Place { number: 0, before: Arc::new(first), way: None }];
        while !layer.is_empty() && self.has_room() {
            let found = self.expand(layer, threads, bug);
            layer = Vec::new();
            for part in found {
                (done.steps, done.healed) = (done.steps + part.steps, done.healed + part.healed);
                done.leaderless += part.leaderless;
                if let Some((link, broken)) = part.failure
                    && done.failure.is_none()
                {
                    done.failure = Some(self.failure(&links, Some(link), &[], broken));
                }
                for (link, before) in part.next {
                    layer.push(Place { number: links.len() as u32, before, way: Some(link) });
                    links.push(link);
                }
            }
            done.states = links.len() as u64;
            done.depth += u32::from(!layer.is_empty());
            tell(&done);
            if done.failure.is_some() {
                return done;
            }
        }
        done.is_whole = layer.is_empty() && self.has_room();
        for walked in self.walk_on(&layer, threads, bug) {
            done.walked += walked.steps;
            if let Some((number, tail, broken)) = walked.failure {
                let last = links.get(number as usize).copied().filter(|_| number > 0);
                done.failure.get_or_insert_with(|| self.failure(&links, last, &tail, broken));
            }
        }
        done
    }

    fn has_room(&self) -> bool {
        self.count.load(Relaxed) < self.limit
    }

    /// What comes of the states of one depth.
    fn expand(&self, layer: Vec<Place>, threads: usize, bug: Option<&'static str>) -> Vec<Found> {
        // For a few it is not worth it.
        let threads = if layer.len() < 100 { 1 } else { threads.max(1) };
        let queue = Mutex::new(layer.into_iter());
        std::thread::scope(|scope| {
            let begin = || {
                crate::sim::explore::plant(bug);
                let mut found = Found::default();
                loop {
                    let some: Vec<Place> = queue.lock().by_ref().take(64).collect();
                    if some.is_empty() || !self.expand_some(some, &mut found) {
                        return found;
                    }
                }
            };
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(begin)).collect();
            let own = begin();
            let others = others.into_iter().map(joined);
            others.chain([own]).collect()
        })
    }

    /// Whether to go on: nothing is wrong, and there is room.
    fn expand_some(&self, some: Vec<Place>, found: &mut Found) -> bool {
        for place in some {
            let number = place.number;
            let Ok(world) = place.world(self.bounds).map(Arc::new) else { continue };
            for step in world.steps(self.bounds) {
                if !self.has_room() {
                    return false;
                }
                let mut link = Link { before: number, step, loses: None };
                let mut may_lose = 0;
                for loses in [None, Some(0), Some(1), Some(2), Some(3)] {
                    // What did not arrive in the first place cannot be lost.
                    if loses.is_some_and(|which| may_lose >> which & 1 == 0) {
                        continue;
                    }
                    link.loses = loses;
                    match self.go(&world, link, found) {
                        Ok(arrived) if loses.is_none() => may_lose = arrived,
                        Ok(_) => {}
                        Err(broken) => {
                            found.failure = Some((link, broken));
                            return false;
                        }
                    }
                }
            }
        }
        true
    }

    /// Takes a step; a bit for each thing that came of it and could be lost.
    fn go(&self, world: &Arc<World>, link: Link, found: &mut Found) -> Result<u8, Broken> {
        let mut next = World::clone(world);
        let arrived = next.take(link.step, link.loses, self.bounds)?;
        found.steps += 1;
        let arrived = if next.may_lose(self.bounds) { arrived } else { 0 };
        // To wait for long, so that nobody is late, changes nothing.
        let is_idle = matches!(link.step, Step::Pass(_)) && !next.has_proposed();
        if is_idle || !next.is_within(self.bounds) {
            return Ok(arrived);
        }
        let shape = next.shape();
        let is_new = self.seen.insert(shape);
        if shape.is_multiple_of(COMPARED_ONE_IN) {
            self.compare(shape, &next)?;
        }
        if !is_new {
            return Ok(arrived);
        }
        self.count.fetch_add(1, Relaxed);
        next.check()?;
        if shape.is_multiple_of(HEALED_ONE_IN) {
            found.healed += 1;
            found.leaderless += u64::from(!next.clone().heal(self.bounds)?);
        }
        found.next.push((link, Arc::clone(world)));
        Ok(arrived)
    }

    /// States of one digest go on alike: else it leaves out something that matters.
    fn compare(&self, shape: u128, world: &World) -> Result<(), Broken> {
        let mut after: Vec<u128> = Vec::new();
        for step in world.steps(self.bounds) {
            let mut next = world.clone();
            after.push(next.take(step, None, self.bounds).map_or(0, |_| next.shape()));
        }
        after.sort_unstable();
        after.dedup();
        match *self.twins.lock().entry(shape).or_insert_with(|| after.clone()) == after {
            true => Ok(()),
            false => Err(("states of one digest go on alike", world.describe())),
        }
    }

    /// Walks on at random from states of the last depth, and lets all come to rest after each walk.
    fn walk_on(&self, layer: &[Place], threads: usize, bug: Option<&'static str>) -> Vec<Walked> {
        if layer.is_empty() {
            return Vec::new();
        }
        let threads = threads.max(1) as u64;
        let walks = (self.limit / WALK_ONE_IN).min(MOST_WALKS) / threads;
        std::thread::scope(|scope| {
            let begin = |seed| {
                crate::sim::explore::plant(bug);
                let (mut walked, mut rng) = (Walked::default(), Rng::new(seed));
                for _ in 0..walks {
                    let place = rng.pick(layer);
                    let mut tail = Vec::new();
                    let world = place.world(self.bounds);
                    if let Err(broken) = world.and_then(|world| self.walk(world, &mut rng, &mut tail)) {
                        walked.failure = Some((place.number, tail, broken));
                        break;
                    }
                    walked.steps += tail.len() as u64;
                }
                walked
            };
            let others: Vec<_> = (1..threads).map(|seed| scope.spawn(move || begin(seed))).collect();
            let own = begin(0);
            others.into_iter().map(joined).chain([own]).collect()
        })
    }

    fn walk(&self, mut world: World, rng: &mut Rng, tail: &mut Vec<Link>) -> Result<(), Broken> {
        while tail.len() < WALK_STEPS {
            let steps = world.steps(self.bounds);
            if steps.is_empty() {
                break;
            }
            let step = *rng.pick(&steps);
            let loses = (world.may_lose(self.bounds) && rng.chance(1, 10)).then(|| rng.below(4) as u8);
            let mut next = world.clone();
            tail.push(Link { before: 0, step, loses });
            next.take(step, loses, self.bounds)?;
            if next.is_within(self.bounds) {
                next.check()?;
                world = next;
            } else {
                tail.pop();
            }
            if rng.chance(1, WALK_STEPS as u64) {
                break;
            }
        }
        world.heal(self.bounds).map(drop)
    }

    /// The way to what is wrong: the steps from the first state on, and the state before the last.
    fn failure(&self, links: &[Link], last: Option<Link>, tail: &[Link], (rule, detail): Broken) -> Failure {
        let mut steps = Vec::new();
        let mut at = last;
        while let Some(link) = at {
            steps.push(link);
            at = links.get(link.before as usize).copied().filter(|_| link.before > 0);
        }
        steps.reverse();
        steps.extend_from_slice(tail);
        let mut text = detail;
        if let Ok(mut world) = World::new(self.bounds) {
            text.push_str(&format!("\n{}", world.describe()));
            for Link { step, loses, .. } in &steps {
                let what = world.name(*step);
                let done = world.take(*step, *loses, self.bounds);
                text.push_str(&format!("--- {what}, loses {loses:?}\n{}", world.describe()));
                if done.is_err() {
                    break;
                }
            }
        }
        Failure { rule, detail: text, event: steps.len() as u64 }
    }
}

/// What a thread has found. If it panicked, so does this one.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The digests of all states that were met, in parts, so that threads seldom wait for each other.
struct Seen(Vec<Mutex<HashSet<u128, BuildHasherDefault<Taken>>>>);

impl Default for Seen {
    fn default() -> Self {
        Self((0..PARTS).map(|_| Mutex::default()).collect())
    }
}

impl Seen {
    /// Whether it is new.
    fn insert(&self, shape: u128) -> bool {
        self.0[shape as usize % PARTS].lock().insert(shape)
    }
}

/// A digest is a hash already.
#[derive(Default)]
struct Taken(u64);

impl Hasher for Taken {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u128(&mut self, shape: u128) {
        self.0 = (shape >> 64) as u64;
    }
}

const NODES: usize = 3;
const PARTS: usize = 64;
const HEALED_ONE_IN: u128 = 100;
const COMPARED_ONE_IN: u128 = 500;
/// So many walks there are, by the limit of states, and so many at most; and so long they are.
const WALK_ONE_IN: u64 = 100;
const MOST_WALKS: u64 = 100_000;
const WALK_STEPS: usize = 60;
