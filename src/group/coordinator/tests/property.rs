//! Random events against the invariants, all sequences of eight, and the mistakes that these must find.

use std::collections::HashSet;
use std::fmt::{self, Write};
use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use proptest::prelude::*;

use crate::group::world::{Op, World};

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Whatever happens to a group, no invariant breaks.
    #[test]
    fn no_sequence_of_events_breaks_an_invariant(bytes in prop::collection::vec(any::<u8>(), 1..240)) {
        World::run(&bytes).map_err(TestCaseError::fail)?;
    }
}

/// A dynamic member and a static one.
const MEMBERS: [usize; 2] = [0, 2];

/// What may come next, of which all sequences are tried.
fn steps() -> Vec<Op> {
    let [a, b] = MEMBERS;
    vec![
        Op::Proceed(a),
        Op::Proceed(b),
        Op::Leave(a),
        Op::Restart(b),
        Op::Report(true),
        Op::Report(false),
        Op::WaitUntilDue,
        Op::Crash(true),
    ]
}

/// No group, and two members with a partition each.
fn starts() -> [World; 2] {
    let empty = World::new(10, Duration::ZERO).forgetful();
    let mut stable = empty.clone();
    // Join, for the dynamic one with the id it got; sync, and store.
    let [a, b] = MEMBERS.map(Op::Proceed);
    for op in [a, b, a, Op::WaitUntilDue, a, b, Op::Report(true)] {
        stable.step(op).unwrap();
    }
    [empty, stable]
}

/// Tries all sequences of so many steps, each world once. Returns how many worlds there are.
fn explore(depth: usize) -> Result<usize, String> {
    let (mut seen, mut worlds) = (HashSet::new(), Vec::from(starts()));
    for events in 0..depth {
        // However it goes on, it must be able to end well.
        if events + 2 < depth {
            worlds.iter().cloned().try_for_each(|mut world| world.fall_silent())?;
        }
        let mut next = Vec::new();
        for world in &worlds {
            for op in steps() {
                let mut world = world.clone();
                world.step(op)?;
                if seen.insert(digest(&world)) {
                    next.push(world);
                }
            }
        }
        worlds = next;
    }
    Ok(seen.len())
}

fn digest(world: &World) -> u64 {
    struct Digest(DefaultHasher);
    impl Write for Digest {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.write(text.as_bytes());
            Ok(())
        }
    }
    let mut digest = Digest(DefaultHasher::new());
    write!(digest, "{world:?}").unwrap();
    digest.0.finish()
}

/// What a random run of the property found: a removal is in the log, and a commit that was appended before it is still
/// awaited, so that it has no effect yet.
#[test]
fn an_offset_that_is_being_removed_does_not_expire_meanwhile() {
    let mut world = World::new(10, Duration::ZERO);
    let [other, read] = [1, 0];
    let removed = [Op::CommitByHand(other), Op::Report(true), Op::CommitByHand(read), Op::DeleteOffset(other)];
    for op in removed.into_iter().chain([Op::ReportLast, Op::Wait(61), Op::Expire]) {
        world.step(op).unwrap();
    }
}

/// Two members, two partitions, eight events.
#[test]
fn no_invariant_breaks_within_eight_events() {
    let count = explore(8).unwrap();
    println!("{count} worlds within 8 events");
    assert!(count > 50_000, "{count} are not all");
}

/// A test that cannot fail is none.
#[cfg(feature = "planted-bugs")]
#[test]
fn each_planted_mistake_of_groups_is_found() {
    let random = || (0..2_000).try_for_each(|seed| World::run(&sequence(seed)));
    for bug in crate::sim::log::GROUP_COORDINATOR {
        crate::sim::explore::plant(Some(bug));
        let is_found = std::panic::catch_unwind(random).map_or(true, |found| found.is_err())
            || std::panic::catch_unwind(|| explore(5)).map_or(true, |found| found.is_err());
        crate::sim::explore::plant(None);
        assert!(is_found, "{bug}");
    }
    assert_eq!(random(), Ok(()), "and none is none");
}

/// The bytes of some events.
#[cfg(feature = "planted-bugs")]
fn sequence(seed: u64) -> Vec<u8> {
    let mut rng = crate::sim::Rng::new(seed);
    (0..241).map(|_| rng.draw() as u8).collect()
}
