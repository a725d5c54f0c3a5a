//! Nodes that come, go, and lose what they had.

use super::*;

#[test]
fn a_dead_leader_is_followed_by_the_first_replica_that_is_in_sync() {
    let mut controller = with([B, C, A], 1);
    assert_eq!(controller.led(), (Some(B), 0, &[A, B, C][..]));
    let outcome = controller.done(down(B));
    assert_eq!(controller.led(), (Some(C), 1, &[A, C][..]), "in the order of the replicas");
    assert_eq!((outcome.changed.len(), outcome.changed[0].version, outcome.is_unclean), (1, 1, false));
    assert!(!controller.is_live(B));

    assert_eq!(controller.done(down(B)), Outcome::default(), "a second time");
    assert_eq!(controller.done(up(B, &[], Loss::Nothing)), Outcome::default(), "alive, and out of sync");
    assert!(controller.is_live(B));
}

#[test]
fn a_follower_that_dies_leaves_and_the_epoch_stays() {
    let mut controller = with([A, B, C], 1);
    controller.done(down(C));
    assert_eq!(controller.led(), (Some(A), 0, &[A, B][..]));
    assert_eq!(controller.now().version, 1);
}

#[test]
fn the_last_in_sync_replica_stays_so_and_leads_again() {
    let mut controller = with([A, B], 1);
    controller.done(down(B));
    controller.done(down(A));
    assert_eq!(controller.led(), (None, 1, &[A][..]));
    controller.done(up(B, &[], Loss::Nothing));
    assert_eq!(controller.led(), (None, 1, &[A][..]), "the other may lack what was committed");
    controller.done(up(A, &[], Loss::Nothing));
    assert_eq!(controller.led(), (Some(A), 2, &[A][..]));
}

#[test]
fn who_leaves_below_the_minimum_is_eligible_and_may_lead() {
    let mut controller = with([A, B, C], 2);
    controller.done(down(C));
    assert_eq!(controller.eligible(ID), [], "two may commit without it");
    controller.done(down(B));
    assert_eq!((controller.led(), controller.eligible(ID)), ((Some(A), 0, &[A][..]), &[B][..]));
    controller.done(down(A));
    assert_eq!((controller.led(), controller.eligible(ID)), ((None, 1, &[A][..]), &[B][..]));

    controller.done(up(C, &[], Loss::Nothing));
    assert_eq!(controller.led().0, None);
    controller.done(up(B, &[], Loss::Nothing));
    assert_eq!((controller.led(), controller.eligible(ID)), ((Some(B), 2, &[B][..]), &[A][..]));
    controller.done(controller.asks([B, C]));
    assert_eq!(controller.eligible(ID), [], "enough are in sync");
}

#[test]
fn an_eligible_replica_takes_over_as_soon_as_the_last_one_dies() {
    let mut controller = with([A, B], 2);
    controller.done(down(B));
    controller.done(up(B, &[], Loss::Nothing));
    let outcome = controller.done(down(A));
    assert_eq!((controller.led(), controller.eligible(ID)), ((Some(B), 1, &[B][..]), &[A][..]));
    assert!(!outcome.is_unclean);
    assert_eq!(controller.now().unclean_epoch, None);
}

/// At the minimum a leader goes on alone, and commits what the other does not get.
#[test]
fn who_leaves_at_the_minimum_is_not_eligible() {
    let mut controller = with([A, B], 1);
    controller.done(controller.asks([A]));
    controller.done(down(A));
    assert_eq!((controller.led(), controller.eligible(ID)), ((None, 1, &[A][..]), &[][..]));
}

/// The leader could not commit any more; so whoever it sent away has all that was.
#[test]
fn a_leader_that_sent_all_others_away_and_dies_loses_nothing() {
    let mut controller = with([A, B, C], 2);
    controller.done(controller.asks([A]));
    assert_eq!(controller.eligible(ID), [B, C]);
    controller.done(down(A));
    assert_eq!((controller.led(), controller.eligible(ID)), ((Some(B), 1, &[B][..]), &[A, C][..]));
}

#[test]
fn a_new_life_takes_the_place_of_the_one_that_it_continues() {
    let mut controller = with([A, B, C], 2);
    let other = PartitionId { partition: 1, ..ID };
    controller.done(create(other, [C], 1));
    let b = in_life(1, 2);
    let outcome = controller.done(up(b, &[B], Loss::Nothing));
    assert_eq!(controller.led(), (Some(A), 0, &[A, b, C][..]));
    assert_eq!(outcome.changed.len(), 1, "it does not hold the other one");
    assert!(controller.is_live(b) && !controller.is_live(B));
    assert_eq!(controller.nodes().collect::<Vec<_>>(), [A, b, C, D]);
}

#[test]
fn an_eligible_replica_stays_so_in_its_next_life() {
    let mut controller = with([A, B], 2);
    controller.done(down(B));
    let b = in_life(1, 2);
    let outcome = controller.done(up(b, &[B], Loss::Nothing));
    assert_eq!(controller.eligible(ID), [b]);
    assert_eq!(outcome.changed[0].eligible, [b], "and hears that somebody counts on it");
}

/// What it led in its former life it must not go on to lead: it does not know what became of what it had not synced.
#[test]
fn a_leader_that_begins_a_new_life_is_elected_anew() {
    let mut controller = with([A, B], 1);
    let a = in_life(0, 2);
    controller.done(up(a, &[A], Loss::Nothing));
    assert_eq!(controller.led(), (Some(a), 1, &[a, B][..]));
}

#[test]
fn a_life_that_does_not_continue_the_last_one_lost_everything() {
    let mut controller = with([A, B], 2);
    controller.done(down(B));
    controller.done(up(in_life(1, 2), &[], Loss::Nothing));
    assert_eq!(controller.eligible(ID), [], "a new disk");

    let mut controller = with([A, B], 2);
    let (b2, b3) = (in_life(1, 2), in_life(1, 3));
    controller.done(up(b2, &[B], Loss::Nothing));
    controller.done(up(b3, &[B], Loss::Nothing));
    assert_eq!(controller.led(), (Some(A), 0, &[A][..]), "an old copy");
}

#[test]
fn lives_of_which_nobody_heard_may_lie_between() {
    let mut controller = with([A, B], 2);
    let b = in_life(1, 5);
    controller.done(up(b, &[B, in_life(1, 3), in_life(1, 4)], Loss::Nothing));
    assert_eq!(controller.led(), (Some(A), 0, &[A, b][..]));
    let refused = controller.refuses(up(in_life(1, 4), &[B], Loss::Nothing));
    assert_eq!(refused, Refused::FormerLife { member: in_life(1, 4), known: b.incarnation }, "late");
}

#[test]
fn a_life_is_out_of_sync_with_what_it_lost_and_with_nothing_else() {
    let mut controller = with([A, B], 2);
    let other = PartitionId { partition: 1, ..ID };
    controller.done(create(other, [A, B], 1));
    let a = in_life(0, 2);
    controller.done(up(a, &[A], Loss::Partitions(vec![ID])));
    assert_eq!((controller.led(), controller.eligible(ID)), ((Some(B), 1, &[B][..]), &[][..]));
    assert_eq!(controller.assignment(other).unwrap().in_sync, [a, B]);

    controller.done(up(in_life(1, 2), &[B], Loss::Everything));
    assert_eq!(controller.led(), (None, 2, &[][..]), "nobody is left who has it");
    assert_eq!(controller.assignment(other).unwrap().in_sync, [a]);
}

#[test]
fn a_loss_found_late_is_as_one_found_at_the_start() {
    let mut controller = with([A, B, C], 2);
    controller.done(controller.loses(A));
    assert_eq!(controller.led(), (Some(B), 1, &[B, C][..]));
    controller.done(down(C));
    assert_eq!(controller.eligible(ID), [C]);
    controller.done(controller.loses(C));
    assert_eq!(controller.eligible(ID), [], "it died, and still it said so");
    controller.done(controller.loses(B));
    assert_eq!(controller.led(), (None, 3, &[][..]), "nobody is left who has it");
}

/// A follower had reported all records, lost them, and said so. Its report came to the leader after that, and the
/// leader asked for it to be in sync again: nothing told the report from a later one, so a node without records could
/// be elected.
#[test]
fn what_was_reported_before_a_loss_counts_no_more() {
    let mut controller = with([A, B, C], 1);
    controller.done(controller.asks([A, B]));
    let asked_before = controller.asks([A, B, C]);
    controller.done(controller.loses(C));
    assert_eq!(controller.led(), (Some(A), 1, &[A, B][..]), "another term of the same leader");
    let stale = Refused::StaleEpoch { id: ID, epoch: LeaderEpoch(0), current: LeaderEpoch(1) };
    assert_eq!(controller.refuses(asked_before), stale);
}

/// A node said what it had lost until it was heard, and was in sync again, alone, when that came once more.
#[test]
fn a_loss_that_was_heard_counts_no_more_when_it_comes_late() {
    let mut controller = with([A, B], 1);
    let late = controller.loses(B);
    controller.done(late.clone());
    assert_eq!(controller.led(), (Some(A), 1, &[A][..]));
    controller.done(controller.asks([A, B]));
    controller.done(down(A));
    assert_eq!(controller.led(), (Some(B), 2, &[B][..]));
    assert_eq!(controller.done(late), Outcome::default());
    assert_eq!(controller.led(), (Some(B), 2, &[B][..]));
    controller.done(controller.loses(B));
    assert_eq!(controller.led(), (None, 3, &[][..]), "it lost something again");
}

/// A node said what it had lost until it was heard, and was in sync again when it was said once more.
#[test]
fn what_was_lost_before_a_life_counts_once() {
    let mut controller = with([A, B], 1);
    let b = in_life(1, 2);
    let said = up(b, &[B], Loss::Partitions(vec![ID]));
    controller.done(said.clone());
    controller.done(controller.asks([A, b]));
    for repeated in [said, up(b, &[], Loss::Everything)] {
        assert_eq!(controller.done(repeated), Outcome::default());
    }
    assert_eq!(controller.led(), (Some(A), 0, &[A, b][..]));
}

/// Another life is told from the one before by its name.
#[test]
fn a_loss_between_two_lives_of_a_follower_leaves_the_epoch() {
    let mut controller = with([A, B], 1);
    controller.done(up(in_life(1, 2), &[B], Loss::Everything));
    assert_eq!(controller.led(), (Some(A), 0, &[A][..]));
}

#[test]
fn what_a_former_life_says_has_no_effect() {
    let mut controller = with([A, B], 1);
    controller.done(up(in_life(1, 2), &[B], Loss::Nothing));
    let before = controller.clone();
    for late in [down(B), controller.loses(B)] {
        assert_eq!(controller.done(late), Outcome::default());
    }
    assert_eq!(controller, before);
    let known = in_life(1, 2).incarnation;
    assert_eq!(controller.refuses(up(B, &[], Loss::Everything)), Refused::FormerLife { member: B, known });
}

/// It may have come before what says that the life began, which says nothing of the loss.
#[test]
fn a_loss_in_a_life_that_is_not_known_is_refused() {
    let mut controller = with([A, B], 1);
    let b = in_life(1, 2);
    let known = Some(B.incarnation);
    assert_eq!(controller.refuses(controller.loses(b)), Refused::UnknownLife { member: b, known });
    let e = member(9);
    let refused = controller.refuses(controller.loses(e));
    assert_eq!(refused, Refused::UnknownLife { member: e, known: None });
    assert_eq!(controller.done(down(e)), Outcome::default());
    assert_eq!(controller.done(down(b)), Outcome::default(), "said of a life that is not known yet");
}

#[test]
fn a_loss_of_what_a_node_does_not_hold_is_none() {
    let mut controller = with([A, B], 1);
    let other = PartitionId { partition: 1, ..ID };
    for (member, id) in [(C, ID), (A, other)] {
        assert_eq!(controller.done(Command::Lost { member, id, leader_epoch: LeaderEpoch(0) }), Outcome::default());
    }
    assert_eq!(controller.done(up(C, &[], Loss::Partitions(vec![ID, other]))), Outcome::default());
}

#[test]
fn only_so_many_former_lives_are_remembered() {
    let mut controller = with([A], 1);
    for life in 2..100 {
        controller.done(up(in_life(0, life), &[in_life(0, life - 1)], Loss::Nothing));
    }
    assert_eq!(controller.led(), (Some(in_life(0, 99)), 98, &[in_life(0, 99)][..]));
    let many: Vec<_> = (0..1_000).map(|life| in_life(1, life)).collect();
    controller.done(up(in_life(1, 1_000), &many, Loss::Nothing));
    assert!(matches!(controller.refuses(up(many[999], &[], Loss::Nothing)), Refused::FormerLife { .. }));
    assert!(controller.encode().len() < 2_000);
}

#[test]
fn no_producer_id_is_reserved_twice() {
    let mut controller = with([A, B], 1);
    let asks_above = |member, above| Command::ReserveProducerIds { member, above: ProducerId(above) };
    let asks = |member| asks_above(member, -1);
    let reserved = [A, B, A].map(|member| controller.done(asks(member)).reserved.unwrap());
    assert_eq!(reserved.map(|ids| ids.member), [A, B, A]);
    let ends = reserved.map(|ids| (ids.first.0, ids.first.0 + i64::from(ids.count)));
    assert!(ends.windows(2).all(|pair| pair[0].1 == pair[1].0), "{ends:?}");
    // A log that was alone had given out some; and somebody made one up.
    let first = |controller: &mut Controller, above| controller.done(asks_above(B, above)).reserved.unwrap().first.0;
    let known = ends[2].1 + 12_345;
    assert!((known + 1..=known + 1_000).contains(&first(&mut controller, known)));
    let next = first(&mut controller, ends[0].0);
    assert_eq!(first(&mut controller, i64::MAX), next + 1_000);
    controller.done(up(in_life(0, 2), &[A], Loss::Nothing));
    assert_eq!(controller.done(asks(A)), Outcome::default(), "it has no use for them any more");
    let e = member(9);
    assert_eq!(controller.refuses(asks(e)), Refused::UnknownLife { member: e, known: None });
    controller.next_producer = i64::MAX;
    assert_eq!(controller.apply(&asks(B)), Err(Refused::NoMoreProducerIds { first: ProducerId(i64::MAX) }));
}
