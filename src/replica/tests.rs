//! The machines by themselves: what comes out for what goes in. The failures that others had are named.

use std::time::Duration;

use super::*;
use crate::types::{LeaderEpoch, NodeId, Offset, TopicId};

const T0: Duration = Duration::from_secs(100);
const ID: PartitionId = PartitionId { topic: TopicId::from_bytes([7; 16]), partition: 0 };
const A: Member = member(1);
const B: Member = member(2);
const C: Member = member(3);

const fn member(node: u32) -> Member {
    Member { node: NodeId(node), incarnation: Incarnation(100 + node as u64) }
}

/// Led by A in epoch 7, all three in sync, two are enough.
fn assignment() -> Assignment {
    Assignment {
        id: ID,
        version: 5,
        replicas: vec![A.node, B.node, C.node],
        leader: Some(A),
        leader_epoch: LeaderEpoch(7),
        in_sync: vec![A, B, C],
        min_in_sync: 2,
        eligible: vec![],
        unclean_epoch: None,
    }
}

fn log(end: u64) -> LocalLog {
    LocalLog { start: Offset(0), end: Offset(end), held: Offset(end), last_epoch: Some(LeaderEpoch(7)) }
}

fn leader(end: u64, committed: u64) -> Leader {
    Leader::new(A, assignment(), ReplicaTiming::default(), log(end), Offset(committed), T0)
}

/// A question of `from` in its life, under epoch 7, for what comes at `next`.
fn fetch(from: Member, number: u64, next: u64) -> Fetch {
    let (leader_epoch, last_epoch) = (LeaderEpoch(7), Some(LeaderEpoch(7)));
    let (next, start, incarnation) = (Offset(next), Offset(0), from.incarnation);
    Fetch { id: ID, leader_epoch, incarnation, number, next, last_epoch, held: next, start, max_bytes: 100 }
}

/// What a leader does about a question, whose last epoch ends where its own log does.
fn ask(leader: &mut Leader, from: Member, fetch: Fetch, end: u64, now: Duration) -> Vec<LeaderAction> {
    let epoch_end = fetch.last_epoch.map(|epoch| EpochEnd { epoch, end: Offset(end) });
    leader.handle(LeaderEvent::Fetch { from: from.node, fetch, epoch_end }, now);
    std::iter::from_fn(|| leader.poll()).collect()
}

fn follower(log: LocalLog, committed: u64) -> Follower {
    Follower::new(B, assignment(), ReplicaTiming::default(), log, Offset(committed), T0)
}

fn drain(follower: &mut Follower) -> Vec<FollowerAction> {
    std::iter::from_fn(|| follower.poll()).collect()
}

fn answer(number: u64, answer: Answer) -> Fetched {
    Fetched { id: ID, leader_epoch: LeaderEpoch(7), incarnation: B.incarnation, number, answer }
}

fn batches(committed: u64, bytes: &'static str) -> Answer {
    let (committed, start, end) = (Offset(committed), Offset(0), Offset(99));
    Answer::Batches { committed, start, end, batches: Payload::new(bytes) }
}

fn tell(follower: &mut Follower, fetched: Fetched, epoch_end: Option<(i32, u64)>) -> Vec<FollowerAction> {
    let epoch_end = epoch_end.map(|(epoch, end)| EpochEnd { epoch: LeaderEpoch(epoch), end: Offset(end) });
    follower.handle(FollowerEvent::Fetched { from: A.node, fetched, epoch_end }, T0);
    drain(follower)
}

#[test]
fn what_is_committed_waits_for_the_slowest_in_sync_replica() {
    let mut leader = leader(10, 4);
    assert_eq!(ask(&mut leader, B, fetch(B, 1, 10), 10, T0), [], "C has not asked under this epoch");
    let actions = ask(&mut leader, C, fetch(C, 1, 7), 10, T0);
    assert_eq!(actions[0], LeaderAction::Commit(Offset(7)));
    assert!(matches!(&actions[1..], [LeaderAction::Read { to, is_catching_up: false, .. }] if *to == C.node));
    assert_eq!(ask(&mut leader, C, fetch(C, 2, 10), 10, T0), [LeaderAction::Commit(Offset(10))]);
}

/// An ack counted under an old epoch: a report that a follower made to a former leader came to its successor, and records
/// were committed that the follower had cut off since.
#[test]
fn a_report_under_another_epoch_does_not_count() {
    let mut leader = leader(10, 4);
    ask(&mut leader, C, fetch(C, 1, 10), 10, T0);
    for epoch in [6, 8] {
        let late = Fetch { leader_epoch: LeaderEpoch(epoch), ..fetch(B, 9, 10) };
        let refusal = if epoch == 6 { Refusal::Fenced } else { Refusal::Unknown };
        let refused = ask(&mut leader, B, late, 10, T0);
        assert!(
            matches!(&refused[..], [LeaderAction::Answer { answer, .. }] if answer.answer == Answer::Refused(refusal))
        );
    }
    assert_eq!(leader.committed(), Offset(4));
}

#[test]
fn neither_another_life_nor_a_late_question_counts() {
    let mut leader = leader(10, 4);
    ask(&mut leader, C, fetch(C, 1, 10), 10, T0);
    let other = Member { incarnation: Incarnation(9), ..B };
    let refused = ask(&mut leader, other, fetch(other, 1, 10), 10, T0);
    assert!(
        matches!(&refused[..], [LeaderAction::Answer { answer, .. }] if answer.answer == Answer::Refused(Refusal::NotReplica))
    );
    ask(&mut leader, B, fetch(B, 5, 6), 10, T0);
    assert_eq!(ask(&mut leader, B, fetch(B, 4, 10), 10, T0), []);
    assert_eq!(leader.committed(), Offset(6));
}

/// The other half of KIP-966: below the minimum nothing is committed, so those who left hold all that was.
#[test]
fn nothing_is_committed_below_the_minimum() {
    let mut leader = leader(10, 4);
    let alone = Assignment { version: 6, in_sync: vec![A], ..assignment() };
    leader.handle(LeaderEvent::Assigned(alone), T0);
    leader.handle(LeaderEvent::Log(log(12)), T0);
    assert_eq!((leader.poll(), leader.committed()), (None, Offset(4)));
}

#[test]
fn one_that_is_to_join_is_waited_for_from_the_moment_it_is_asked_for() {
    let mut leader = leader(10, 4);
    leader.handle(LeaderEvent::Assigned(Assignment { version: 6, in_sync: vec![A, B], ..assignment() }), T0);
    ask(&mut leader, B, fetch(B, 1, 10), 10, T0);
    let joins = ask(&mut leader, C, fetch(C, 1, 10), 10, T0);
    let proposed = joins.iter().find_map(|action| match action {
        LeaderAction::Propose(change) => Some(change.clone()),
        _ => None,
    });
    assert_eq!(proposed.map(|change| (change.version, change.in_sync)), Some((6, vec![A, B, C])));
    leader.handle(LeaderEvent::Log(log(12)), T0);
    ask(&mut leader, B, fetch(B, 2, 12), 12, T0);
    // Also when it has been silent for so long that nobody would wait for it else.
    leader.handle(LeaderEvent::Tick, T0 + Duration::from_secs(9));
    assert_eq!(leader.committed(), Offset(10));
}

/// A replica joined as soon as it had what was committed when the leader was elected. What its leader's predecessor had
/// committed, and told nobody, was missing from it.
#[test]
fn nobody_joins_before_it_has_all_from_before_the_epoch() {
    let mut leader = leader(10, 4);
    leader.handle(LeaderEvent::Assigned(Assignment { version: 6, in_sync: vec![A, B], ..assignment() }), T0);
    let early = ask(&mut leader, C, fetch(C, 1, 9), 10, T0);
    assert!(early.iter().all(|action| !matches!(action, LeaderAction::Propose(_))));
}

#[test]
fn a_replica_leaves_that_has_not_caught_up_for_the_lag_time_and_an_idle_one_stays() {
    let mut leader = leader(10, 4);
    ask(&mut leader, C, fetch(C, 1, 10), 10, T0);
    ask(&mut leader, B, fetch(B, 1, 4), 10, T0);
    leader.handle(LeaderEvent::Tick, T0 + Duration::from_secs(31));
    let proposed = std::iter::from_fn(|| leader.poll()).find_map(|action| match action {
        LeaderAction::Propose(change) => Some(change.in_sync),
        _ => None,
    });
    assert_eq!(proposed, Some(vec![A, C]));
}

/// A node that was not registered was proposed with each of its questions, and left out each time; and while that was
/// pending nobody who was late could leave.
#[test]
fn who_was_left_out_is_not_proposed_again_at_once() {
    let mut leader = leader(10, 4);
    let proposes =
        |actions: Vec<LeaderAction>| actions.iter().any(|action| matches!(action, LeaderAction::Propose(_)));
    let alone = |version| Assignment { version, in_sync: vec![A, B], ..assignment() };
    leader.handle(LeaderEvent::Assigned(alone(6)), T0);
    assert!(proposes(ask(&mut leader, C, fetch(C, 1, 10), 10, T0)));
    leader.handle(LeaderEvent::Assigned(alone(7)), T0);
    assert!(!proposes(ask(&mut leader, C, fetch(C, 2, 10), 10, T0)));
    assert!(proposes(ask(&mut leader, C, fetch(C, 3, 10), 10, T0 + ReplicaTiming::default().retry)));
}

/// A directory was put back from a copy, and its node said that it went on from the life before.
#[test]
fn of_a_life_that_has_less_than_the_one_before_the_controller_is_told() {
    let mut leader = leader(10, 4);
    ask(&mut leader, B, fetch(B, 1, 10), 10, T0);
    let again = Member { incarnation: Incarnation(77), ..B };
    let renewed = Assignment { version: 6, in_sync: vec![A, again, C], ..assignment() };
    leader.handle(LeaderEvent::Assigned(renewed), T0);
    let actions = ask(&mut leader, again, fetch(again, 1, 6), 10, T0);
    assert!(actions.contains(&LeaderAction::Lost(again)));
}

/// Unseen truncation by a fetcher (KIP-320): a follower asked for the offset behind records that the leader does not have, and
/// got those that the leader has there.
#[test]
fn a_follower_whose_last_epoch_ends_earlier_here_gets_no_batches() {
    let mut leader = leader(20, 4);
    let strayed = Fetch { last_epoch: Some(LeaderEpoch(6)), ..fetch(B, 1, 15) };
    let epoch_end = Some(EpochEnd { epoch: LeaderEpoch(6), end: Offset(12) });
    leader.handle(LeaderEvent::Fetch { from: B.node, fetch: strayed, epoch_end }, T0);
    let told = leader.poll();
    let parts = Answer::Diverging(EpochEnd { epoch: LeaderEpoch(6), end: Offset(12) });
    assert!(matches!(told, Some(LeaderAction::Answer { answer, .. }) if answer.answer == parts));
    assert_eq!(leader.followers(T0).map(|known| known.held).collect::<Vec<_>>(), [None, None]);
}

/// Truncation by the high watermark (KIP-101): a follower that was restarted cut its log to what it knew to be committed, was
/// elected before it had fetched the rest again, and records that had been acknowledged were gone.
#[test]
fn a_follower_keeps_what_lies_above_what_it_knows_to_be_committed() {
    let mut follower = follower(log(10), 3);
    let asked = drain(&mut follower);
    assert!(matches!(&asked[..], [FollowerAction::Send { fetch, .. }] if fetch.next == Offset(10)));
}

/// A fast double fail-over (KIP-279): the leader answered with an epoch that the follower does not have. To cut where that
/// ends left records of a third epoch in place.
#[test]
fn where_the_epochs_differ_the_log_is_cut_to_where_the_lower_one_ends() {
    let mut follower = follower(log(20), 5);
    drain(&mut follower);
    // The leader has epoch 5 up to 18; ours has 4 up to 11, and then later ones.
    let parts = Answer::Diverging(EpochEnd { epoch: LeaderEpoch(5), end: Offset(18) });
    assert_eq!(tell(&mut follower, answer(1, parts), Some((4, 11))), [FollowerAction::Truncate(Offset(11))]);
    // And it is asked again from there.
    let cut = LocalLog { last_epoch: Some(LeaderEpoch(4)), ..log(11) };
    follower.handle(FollowerEvent::Done(cut), T0);
    let asked = drain(&mut follower);
    assert!(matches!(&asked[..], [FollowerAction::Send { fetch, .. }] if fetch.last_epoch == Some(LeaderEpoch(4))));
}

/// Last replica standing: a leader that had lost its tail was elected, and all others cut theirs to match.
#[test]
fn what_is_committed_is_not_cut_unless_an_unclean_election_says_so() {
    let mut follower = follower(log(20), 15);
    drain(&mut follower);
    let parts = Answer::Diverging(EpochEnd { epoch: LeaderEpoch(7), end: Offset(12) });
    let halt = Halt::Diverged { at: Offset(12), committed: Offset(15) };
    assert_eq!(tell(&mut follower, answer(1, parts.clone()), Some((7, 20))), [FollowerAction::Halt(halt)]);
    assert!(follower.is_halted());
    assert_eq!(follower.next_deadline(), None);

    let unclean = Assignment { unclean_epoch: Some(LeaderEpoch(7)), ..assignment() };
    let before = LocalLog { last_epoch: Some(LeaderEpoch(6)), ..log(20) };
    let mut follower = Follower::new(B, unclean, ReplicaTiming::default(), before, Offset(15), T0);
    drain(&mut follower);
    assert_eq!(tell(&mut follower, answer(1, parts), Some((6, 20))), [FollowerAction::Truncate(Offset(20))]);
}

#[test]
fn batches_are_stored_then_committed_then_more_is_asked_for() {
    let mut follower = follower(log(10), 3);
    drain(&mut follower);
    let stored = tell(&mut follower, answer(1, batches(11, "a batch")), None);
    assert_eq!(stored, [FollowerAction::Append(Payload::new("a batch"))]);
    follower.handle(FollowerEvent::Done(log(12)), T0);
    let then = drain(&mut follower);
    assert_eq!(then[0], FollowerAction::Commit(Offset(11)));
    assert!(
        matches!(&then[1..], [FollowerAction::Send { fetch, .. }] if (fetch.number, fetch.next) == (2, Offset(12)))
    );
}

#[test]
fn what_is_synced_with_each_append_is_synced_before_more_is_asked_for() {
    let unsynced = LocalLog { held: Offset(8), ..log(10) };
    let mut follower = follower(unsynced, 3);
    assert_eq!(drain(&mut follower), [FollowerAction::Sync]);
    follower.handle(FollowerEvent::Done(log(10)), T0);
    assert!(matches!(&drain(&mut follower)[..], [FollowerAction::Send { fetch, .. }] if fetch.held == Offset(10)));
}

/// Each life counts its questions from one. The answer to a question of the life before came late, with a number that this
/// life had just come to, and was taken for what comes first in an empty log.
#[test]
fn an_answer_to_another_life_or_question_or_epoch_is_dropped() {
    let mut follower = follower(log(10), 3);
    drain(&mut follower);
    let right = answer(1, batches(11, "a batch"));
    for wrong in [
        Fetched { incarnation: Incarnation(9), ..right.clone() },
        Fetched { number: 2, ..right.clone() },
        Fetched { leader_epoch: LeaderEpoch(6), ..right.clone() },
    ] {
        assert_eq!(tell(&mut follower, wrong, None), []);
    }
    follower.handle(FollowerEvent::Fetched { from: C.node, fetched: right.clone(), epoch_end: None }, T0);
    assert_eq!(drain(&mut follower), []);
    assert_eq!(tell(&mut follower, right.clone(), None).len(), 1);
    assert_eq!(tell(&mut follower, right, None), [], "once");
}

#[test]
fn a_log_that_lies_below_the_leaders_start_is_begun_anew_there() {
    let mut follower = follower(log(10), 3);
    drain(&mut follower);
    let gone = Answer::OutOfRange { start: Offset(50), end: Offset(60) };
    assert_eq!(tell(&mut follower, answer(1, gone), None), [FollowerAction::Reset(Offset(50))]);
}

#[test]
fn who_is_refused_or_hears_nothing_asks_again_later() {
    let mut follower = follower(log(10), 3);
    drain(&mut follower);
    assert_eq!(tell(&mut follower, answer(1, Answer::Refused(Refusal::NotLeader)), None), []);
    let soon = T0 + Duration::from_millis(100);
    assert_eq!(follower.next_deadline(), Some(soon));
    follower.handle(FollowerEvent::Tick, soon);
    assert!(matches!(&drain(&mut follower)[..], [FollowerAction::Send { fetch, .. }] if fetch.number == 2));
    follower.handle(FollowerEvent::Tick, soon + Duration::from_secs(1));
    assert!(matches!(&drain(&mut follower)[..], [FollowerAction::Send { fetch, .. }] if fetch.number == 3));
}

#[test]
fn a_question_waits_for_news_and_is_answered_when_the_log_grows() {
    let mut leader = leader(10, 4);
    assert_eq!(ask(&mut leader, B, fetch(B, 1, 10), 10, T0), []);
    assert!(leader.has_parked());
    leader.handle(LeaderEvent::Log(log(11)), T0);
    assert!(matches!(leader.poll(), Some(LeaderAction::Read { to, .. }) if to == B.node));
    assert!(!leader.has_parked());
    ask(&mut leader, B, fetch(B, 2, 11), 11, T0);
    leader.handle(LeaderEvent::Tick, T0 + Duration::from_millis(500));
    assert!(matches!(leader.poll(), Some(LeaderAction::Read { to, .. }) if to == B.node), "or when it has waited");
}

/// On a link over which an answer takes longer than a question is waited for, each came after the next question, and none
/// counted.
#[test]
fn an_answer_to_an_earlier_question_counts_while_the_log_is_the_same() {
    let mut follower = follower(log(5), 5);
    let asked = |actions: &[FollowerAction]| match actions {
        [FollowerAction::Send { fetch, .. }] => fetch.number,
        other => panic!("{other:?}"),
    };
    let first = asked(&drain(&mut follower));
    let mut now = T0;
    for times in [1, 2, 4, 8, 8] {
        let deadline = follower.next_deadline().unwrap();
        assert_eq!(deadline - now, ReplicaTiming::default().retry * times, "it asks less and less often");
        now = deadline;
        follower.handle(FollowerEvent::Tick, now);
        assert!(follower.poll().is_some());
    }
    // Nothing new is an answer, too: the next question is waited for no longer than the first.
    for _ in 0..4 {
        let empty = answer(follower.number(), batches(5, ""));
        let last = asked(&tell(&mut follower, empty, None));
        assert_eq!(
            (follower.next_deadline().unwrap() - T0, last),
            (ReplicaTiming::default().retry, follower.number())
        );
    }
    let append = FollowerAction::Append(Payload::new("three"));
    assert_eq!(tell(&mut follower, answer(first, batches(5, "three")), None), [append]);
    // What answers a question about a log that is no more does not count.
    follower.handle(FollowerEvent::Done(log(8)), now);
    let last = asked(&drain(&mut follower));
    assert_eq!(tell(&mut follower, answer(last - 1, batches(8, "three")), None), []);
    assert!(!tell(&mut follower, answer(last, batches(8, "four")), None).is_empty());
}

/// The leader's log ended below where the follower's began; it was to be cut there, which left it as it was, for ever.
#[test]
fn a_log_that_begins_above_where_it_is_to_be_cut_begins_anew() {
    let start = LocalLog { start: Offset(6), ..log(9) };
    let mut follower = follower(start, 0);
    drain(&mut follower);
    let ends = EpochEnd { epoch: LeaderEpoch(7), end: Offset(4) };
    let diverging = answer(1, Answer::Diverging(ends));
    assert_eq!(tell(&mut follower, diverging, Some((7, 9))), [FollowerAction::Reset(Offset(4))]);
}
