//! Work sharing by example, against a naive model, and in its stored form.

use std::collections::BTreeMap;

use super::*;
use crate::types::{Timestamp, TopicId};
use proptest::prelude::*;

const LIMITS: ShareLimits = ShareLimits { lock: Duration::from_secs(30), max_deliveries: 3, max_in_flight: 6 };
const A: Worker = Worker(1);
const B: Worker = Worker(2);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn offsets(from: u64, to: u64) -> impl Iterator<Item = Offset> {
    (from..to).map(Offset)
}

fn taken(share: &mut SharePartition, worker: Worker, to: u64, count: usize, now: u64) -> Vec<(u64, u16)> {
    let (from, count) = share.wants(count);
    let taken = share.take(worker, from..Offset(to), offsets(from.0, to), count, at(now));
    taken.into_iter().map(|taken| (taken.offset.0, taken.deliveries)).collect()
}

/// Takes what was found in a part of the log.
fn take_found(share: &mut SharePartition, read: Range<u64>, found: &[u64]) -> Vec<u64> {
    let found = found.iter().copied().map(Offset);
    let taken = share.take(A, Offset(read.start)..Offset(read.end), found, 9, at(0));
    taken.into_iter().map(|taken| taken.offset.0).collect()
}

#[test]
fn a_record_is_with_one_worker_until_it_is_done() {
    let mut share = SharePartition::new(Offset(10), LIMITS);
    assert_eq!(taken(&mut share, A, 100, 2, 0), [(10, 1), (11, 1)]);
    assert_eq!(taken(&mut share, B, 100, 2, 0), [(12, 1), (13, 1)]);
    assert_eq!(share.decide(B, Offset(10), Verdict::Accept), Err(NotTaken));
    share.decide(A, Offset(11), Verdict::Accept).unwrap();
    assert_eq!((share.start(), share.next()), (Offset(10), Offset(14)));
    share.decide(A, Offset(10), Verdict::Accept).unwrap();
    assert_eq!(share.start(), Offset(12));
    assert_eq!(share.decide(A, Offset(10), Verdict::Accept), Err(NotTaken), "once is enough");
}

#[test]
fn what_is_released_goes_to_the_next_and_is_lost_after_its_last_delivery() {
    let mut share = SharePartition::new(Offset(0), LIMITS);
    for delivery in 1..=3 {
        assert_eq!(taken(&mut share, A, 1, 9, 0), [(0, delivery)]);
        share.decide(A, Offset(0), Verdict::Release).unwrap();
    }
    assert_eq!(taken(&mut share, A, 1, 9, 0), []);
    assert_eq!(share.lost().collect::<Vec<_>>(), [Taken { offset: Offset(0), deliveries: 3 }]);
    share.bury(Offset(0));
    assert_eq!((share.start(), share.lost().count()), (Offset(1), 0));
}

#[test]
fn a_lock_is_over_at_its_time_and_not_before() {
    let mut share = SharePartition::new(Offset(0), LIMITS);
    taken(&mut share, A, 2, 1, 0);
    taken(&mut share, B, 2, 1, 5);
    assert_eq!(share.next_deadline(), Some(at(30)));
    share.renew(A, Offset(0), at(20)).unwrap();
    assert_eq!(share.renew(A, Offset(1), at(20)), Err(NotTaken));
    assert!(!share.pass_time(at(34)));
    assert!(share.pass_time(at(35)));
    assert_eq!(share.decide(B, Offset(1), Verdict::Accept), Err(NotTaken), "it may be with somebody else by now");
    assert_eq!(taken(&mut share, A, 2, 9, 36), [(1, 2)]);
    assert!(share.release_all(A));
    assert_eq!((share.next_deadline(), share.wants(9).0), (None, Offset(0)));
}

#[test]
fn no_more_are_under_way_than_may_be() {
    let mut share = SharePartition::new(Offset(0), LIMITS);
    assert_eq!(taken(&mut share, A, 100, 50, 0).len(), 6);
    assert_eq!(share.wants(50).1, 0);
    // One that hangs at the front does not hold up what is behind it.
    for offset in 1..6 {
        share.decide(A, Offset(offset), Verdict::Accept).unwrap();
    }
    assert_eq!(taken(&mut share, B, 100, 50, 0).len(), 5);
    assert_eq!((share.start(), share.next(), share.in_flight()), (Offset(0), Offset(11), (6, 6)));
    assert_eq!(ShareState::decode(&share.to_state().encode(Timestamp(0)), 6), Ok(share.to_state()));
}

#[test]
fn offsets_without_a_record_are_done_by_themselves() {
    let mut share = SharePartition::new(Offset(0), LIMITS);
    assert_eq!(take_found(&mut share, 0..1_000_000_007, &[]), [0; 0], "however many there are");
    assert_eq!((share.start(), share.next()), (Offset(1_000_000_007), Offset(1_000_000_007)));

    let mut share = SharePartition::new(Offset(0), LIMITS);
    assert_eq!(take_found(&mut share, 0..7, &[2, 5]), [2, 5], "before, between, behind");
    assert_eq!(take_found(&mut share, 8..9, &[8]), [0; 0], "nobody looked at 7");
    assert_eq!((share.start(), share.next()), (Offset(2), Offset(7)));
    share.decide(A, Offset(2), Verdict::Release).unwrap();
    // It is gone since: a transaction that was aborted, say. What is with somebody stays with him.
    assert_eq!(share.wants(9).0, Offset(2));
    assert_eq!(take_found(&mut share, 2..7, &[]), [0; 0]);
    assert_eq!((share.start(), share.next()), (Offset(5), Offset(7)));
    share.decide(A, Offset(5), Verdict::Accept).unwrap();
    assert_eq!(share.start(), Offset(7));
    // Retention took the rest.
    assert!(share.raise_start(Offset(9)));
    assert_eq!((share.start(), share.next()), (Offset(9), Offset(9)));
    assert!(!share.raise_start(Offset(9)));
}

#[test]
fn what_a_power_cut_took_is_handed_out_when_it_comes_anew() {
    let mut share = SharePartition::new(Offset(0), LIMITS);
    taken(&mut share, A, 5, 5, 0);
    (0..4).for_each(|offset| share.decide(A, Offset(offset), Verdict::Accept).unwrap());
    assert_eq!((share.start(), share.next()), (Offset(4), Offset(5)));
    let mut state = share.to_state();
    assert!(!state.cut(Offset(5)));
    assert!(state.cut(Offset(2)));
    share = SharePartition::from_state(&state, LIMITS);
    assert_eq!((share.start(), share.next()), (Offset(2), Offset(2)));
    assert_eq!(taken(&mut share, B, 4, 5, 0), [(2, 1), (3, 1)]);
}

#[test]
fn a_record_that_kills_whoever_takes_it_is_lost_at_last() {
    let mut share = SharePartition::new(Offset(0), LIMITS);
    for delivery in 1..=3 {
        assert_eq!(taken(&mut share, A, 1, 1, 0), [(0, delivery)]);
        share = SharePartition::from_state(&share.to_state(), LIMITS);
    }
    assert_eq!(share.lost().count(), 1);
}

#[test]
fn what_compaction_took_between_two_records_is_passed_over_with_them() {
    let mut share = SharePartition::new(Offset(0), LIMITS);
    assert_eq!(taken(&mut share, A, 4, 9, 0).len(), 4);
    share.release_all(A);
    assert_eq!(take_found(&mut share, 0..4, &[0, 3]), [0, 3]);
    assert_eq!((share.wants(9).0, share.in_flight()), (Offset(4), (2, 2)));
    // No more than was asked for, and all up to the next record.
    let mut share = SharePartition::new(Offset(0), LIMITS);
    let taken = share.take(A, Offset(0)..Offset(9), [0, 5].map(Offset), 1, at(0));
    assert_eq!((taken.len(), share.next()), (1, Offset(5)));
}

#[test]
fn a_record_that_is_handed_out_for_the_last_time_comes_alone() {
    let mut share = SharePartition::new(Offset(0), LIMITS);
    for delivery in 1..=2 {
        assert_eq!(taken(&mut share, A, 3, 9, 0), [(0, delivery), (1, delivery), (2, delivery)]);
        share.release_all(A);
    }
    // One that is new does not come with them either.
    for offset in 0..3 {
        assert!(share.is_last_chance(Offset(offset)));
        assert_eq!(taken(&mut share, A, 4, 9, 0), [(offset, 3)]);
    }
    assert_eq!(taken(&mut share, A, 4, 9, 0), [(3, 1)]);
    share.release_all(A);
    assert_eq!(taken(&mut share, A, 5, 9, 0), [(3, 2), (4, 1)]);
    share.release_all(A);
    share.decide(A, Offset(3), Verdict::Accept).unwrap_err();
    assert_eq!(taken(&mut share, A, 5, 9, 0), [(3, 3)]);
    assert_eq!(taken(&mut share, A, 6, 9, 0), [(4, 2), (5, 1)]);
    share.release_all(A);
    assert_eq!(taken(&mut share, A, 6, 1, 0), [(4, 3)]);
    // Not behind one that has more chances, nor before one.
    let mut share = SharePartition::new(Offset(0), LIMITS);
    assert_eq!(taken(&mut share, A, 3, 9, 0), [(0, 1), (1, 1), (2, 1)]);
    share.decide(A, Offset(1), Verdict::Release).unwrap();
    assert_eq!(taken(&mut share, A, 2, 9, 0), [(1, 2)]);
    share.release_all(A);
    assert_eq!(taken(&mut share, A, 3, 9, 0), [(0, 2)]);
    assert_eq!(taken(&mut share, A, 3, 9, 0), [(1, 3)]);
    assert_eq!(taken(&mut share, A, 3, 9, 0), [(2, 2)]);
    let once = ShareLimits { max_deliveries: 1, ..LIMITS };
    let mut share = SharePartition::new(Offset(0), once);
    assert_eq!(taken(&mut share, A, 3, 9, 0).len(), 3, "where each is the last, all are");
}

#[test]
fn a_state_whose_ranges_are_out_of_order_is_refused() {
    let decode = |ranges: &[(u64, u64)]| {
        let batches = ranges.iter().map(|(first, last)| StateBatch::new(Offset(*first), Offset(*last), true, 0));
        let state = ShareState { start: Offset(5), batches: batches.collect() };
        ShareState::decode(&state.encode(Timestamp(0)), 10).map(|state| state.batches.len())
    };
    assert_eq!(decode(&[(5, 6), (7, 9)]), Ok(2));
    assert_eq!(decode(&[(5, 6), (9, 9)]), Ok(3), "what lies between was not handed out yet");
    for ranges in [&[(4, 6)][..], &[(7, 6)], &[(5, 7), (7, 9)], &[(7, 9), (5, 6)]] {
        assert!(decode(ranges).is_err(), "{ranges:?}");
    }
}

/// These bytes are what `ShareSnapshotValue` and `ShareSnapshotKey` of Kafka 4.3.1 make of these fields.
#[test]
fn a_state_is_stored_as_kafka_stores_it() {
    let batches =
        vec![StateBatch::new(Offset(5), Offset(6), false, 2), StateBatch::new(Offset(7), Offset(7), true, 0)];
    let state = ShareState { start: Offset(5), batches };
    let bytes = state.encode(Timestamp(0x0102_0304));
    let expected = "0000 00000000 00000000 00000000 0000000000000005 0000000001020304 0000000001020304 03
        0000000000000005 0000000000000006 00 0002 00 0000000000000007 0000000000000007 02 0000 00 00";
    let expected: String = expected.split_whitespace().collect();
    assert_eq!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), expected);
    assert_eq!(ShareState::decode(&bytes, 100).as_ref(), Ok(&state));
    assert!(ShareState::decode(&bytes, 1).is_err(), "more than there may be");
    for len in 0..bytes.len() {
        assert!(ShareState::decode(&bytes[..len], 100).is_err(), "cut at {len}");
    }
    // Fields that a newer broker added, behind a batch and at the end.
    let tagged = |at: usize, rest: &[u8]| [&bytes[..at], &[1, 9, 2, 7, 7], rest].concat();
    let behind_first = bytes.len() - 1 - 20 - 1;
    for tagged in [tagged(bytes.len() - 1, &[]), tagged(behind_first, &bytes[behind_first + 1..])] {
        assert_eq!(ShareState::decode(&tagged, 100).as_ref(), Ok(&state));
        assert!(ShareState::decode(&tagged[..tagged.len() - 1], 100).is_err());
    }
    let key = ShareKey { group: "g".into(), topic: TopicId::from_bytes([7; 16]), partition: 3 };
    assert_eq!(key.encode().unwrap(), [&b"\0\0\0\x01g"[..], &[7; 16], &[0, 0, 0, 3]].concat());
    assert_eq!(ShareKey::decode(&key.encode().unwrap()), Ok(Some(key)));
    assert_eq!(ShareKey::decode(&[0, 1, 9]), Ok(None), "an update");
}

#[derive(Debug, Clone)]
enum Op {
    Take(u64, usize),
    Decide(u64, u64, u8),
    Time(u64),
    Leave(u64),
    Bury,
    Restart,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (0..3_u64, 1..4_usize).prop_map(|(worker, count)| Op::Take(worker, count)),
        6 => (0..3_u64, 0..12_u64, 0..3_u8).prop_map(|(worker, offset, verdict)| Op::Decide(worker, offset, verdict)),
        1 => (1..20_u64).prop_map(Op::Time),
        1 => (0..3_u64).prop_map(Op::Leave),
        1 => Just(Op::Bury),
        1 => Just(Op::Restart),
    ];
    prop::collection::vec(op, 1..60)
}

proptest! {
    /// Each record is with one worker, as often as it may be, and in the end done once.
    #[test]
    fn every_record_is_done_once_or_lost_and_with_one_worker_at_a_time(ops in ops()) {
        const END: u64 = 12;
        // Odd offsets from 5 on hold no record.
        let has_record = |offset: &u64| *offset < 5 || offset.is_multiple_of(2);
        let mut share = SharePartition::new(Offset(0), LIMITS);
        let mut now = 0;
        let mut with = BTreeMap::<u64, (u64, u64)>::new();
        let mut tries = BTreeMap::<u64, u16>::new();
        let mut done = std::collections::BTreeSet::new();
        let mut lost = std::collections::BTreeSet::new();
        for op in ops {
            match op {
                Op::Take(worker, count) => {
                    let (from, count) = share.wants(count);
                    let found = (from.0..END).filter(has_record).map(Offset);
                    let taken = share.take(Worker(worker), from..Offset(END), found, count, at(now));
                    prop_assert!(taken.len() <= count);
                    for Taken { offset, deliveries } in taken {
                        prop_assert!(has_record(&offset.0) && !done.contains(&offset.0) && !lost.contains(&offset.0));
                        prop_assert!(with.insert(offset.0, (worker, now + 30)).is_none());
                        let tried = tries.entry(offset.0).or_default();
                        *tried += 1;
                        prop_assert_eq!(*tried, deliveries);
                        prop_assert!(deliveries <= LIMITS.max_deliveries);
                    }
                }
                Op::Decide(worker, offset, verdict) => {
                    let verdict = [Verdict::Accept, Verdict::Release, Verdict::Reject][verdict as usize];
                    let is_with = with.get(&offset).is_some_and(|(holder, _)| *holder == worker);
                    prop_assert_eq!(share.decide(Worker(worker), Offset(offset), verdict).is_ok(), is_with);
                    if is_with {
                        with.remove(&offset);
                        let is_last = tries[&offset] == LIMITS.max_deliveries;
                        match verdict {
                            Verdict::Accept => _ = done.insert(offset),
                            Verdict::Reject => _ = lost.insert(offset),
                            Verdict::Release => if is_last { lost.insert(offset); },
                        }
                    }
                }
                Op::Time(seconds) => {
                    now += seconds;
                    share.pass_time(at(now));
                    with.retain(|offset, (_, until)| {
                        if *until <= now && tries[offset] == LIMITS.max_deliveries { lost.insert(*offset); }
                        *until > now
                    });
                }
                Op::Leave(worker) => {
                    share.release_all(Worker(worker));
                    with.retain(|offset, (holder, _)| {
                        if *holder == worker && tries[offset] == LIMITS.max_deliveries { lost.insert(*offset); }
                        *holder != worker
                    });
                }
                Op::Bury => {
                    let all: Vec<_> = share.lost().map(|lost| lost.offset).collect();
                    prop_assert_eq!(all.iter().map(|offset| offset.0).collect::<Vec<_>>(),
                        lost.iter().copied().filter(|offset| !done.contains(offset)).collect::<Vec<_>>());
                    all.into_iter().for_each(|offset| { share.bury(offset); done.insert(offset.0); });
                }
                Op::Restart => {
                    let state = share.to_state();
                    let bytes = state.encode(Timestamp(0));
                    prop_assert_eq!(ShareState::decode(&bytes, 1000), Ok(state.clone()));
                    share = SharePartition::from_state(&state, LIMITS);
                    for offset in with.keys().filter(|offset| tries[*offset] == LIMITS.max_deliveries) { lost.insert(*offset); }
                    with.clear();
                }
            }
            let first_open = (0..END).find(|offset| has_record(offset) && !done.contains(offset)).unwrap_or(END);
            prop_assert!(share.start().0 <= first_open);
            prop_assert!(share.in_flight().1 <= LIMITS.max_in_flight as usize);
        }
    }
}
