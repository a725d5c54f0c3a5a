//! Partitions on their way to other nodes.

use super::*;

fn reassign<const N: usize>(replicas: [Member; N]) -> Command {
    Command::Reassign { id: ID, replicas: nodes(replicas) }
}

/// The target, who was added to it, and who is to go.
fn running<const T: usize, const A: usize, const R: usize>(
    target: [Member; T],
    adding: [Member; A],
    removing: [Member; R],
) -> Reassignment {
    Reassignment { target: nodes(target), adding: nodes(adding), removing: nodes(removing) }
}

#[test]
fn the_others_go_once_all_of_the_target_are_in_sync() {
    let mut controller = with([A, B], 1);
    controller.done(reassign([C, D]));
    assert_eq!(controller.now().replicas, nodes([C, D, A, B]));
    assert_eq!(controller.led(), (Some(A), 0, &[A, B][..]));
    assert_eq!(controller.reassignment(ID), Some(&running([C, D], [C, D], [A, B])));
    controller.done(controller.asks([A, B, C]));
    assert_eq!(controller.now().replicas.len(), 4);

    let before = controller.now().version;
    let outcome = controller.done(controller.asks([A, B, C, D]));
    assert_eq!(controller.now().replicas, nodes([C, D]));
    assert_eq!(controller.led(), (Some(C), 1, &[C, D][..]), "who led is no replica any more");
    assert_eq!((controller.reassignment(ID), controller.now().version), (None, before + 1));
    assert_eq!(outcome.changed.len(), 1);
}

#[test]
fn a_leader_that_is_to_stay_goes_on_under_another_epoch() {
    let mut controller = with([A, B], 1);
    controller.done(reassign([C, A]));
    controller.done(controller.asks([A, C]));
    assert_eq!(controller.led(), (Some(A), 1, &[A, C][..]));
    assert_eq!(controller.now().replicas, nodes([C, A]));
}

/// A replica had reported all records, was removed, deleted its copy, and was added again, all in one epoch. Its
/// report came late, and it was in sync without a record.
#[test]
fn what_was_reported_before_a_removal_counts_no_more() {
    let mut controller = with([A, B], 1);
    controller.done(reassign([A]));
    assert_eq!((controller.led(), controller.now().replicas.len()), ((Some(A), 1, &[A][..]), 1), "at once");
    controller.done(reassign([A, B]));
    assert_eq!(controller.led(), (Some(A), 1, &[A][..]));
}

#[test]
fn another_order_is_another_preferred_leader_and_no_more() {
    let mut controller = with([A, B], 1);
    controller.done(reassign([B, A]));
    assert_eq!((controller.reassignment(ID), &controller.now().replicas), (None, &nodes([B, A])));
    assert_eq!(controller.led(), (Some(A), 0, &[A, B][..]));
    assert_eq!(controller.done(reassign([B, A])), Outcome::default());
    controller.done(Command::ElectPreferred { id: ID });
    assert_eq!(controller.led().0, Some(B));
}

#[test]
fn a_partition_that_moves_can_be_sent_elsewhere_or_back() {
    let mut controller = with([A, B], 1);
    controller.done(reassign([C]));
    assert_eq!(controller.done(reassign([C])), Outcome::default(), "a second time");
    controller.done(reassign([D, A]));
    assert_eq!(controller.now().replicas, nodes([D, A, B]), "what was added and has little goes at once");
    assert_eq!(controller.reassignment(ID), Some(&running([D, A], [D], [B])));

    controller.done(reassign([A, B]));
    assert_eq!((controller.reassignment(ID), &controller.now().replicas), (None, &nodes([A, B])));
    assert_eq!(controller.led().2, [A, B]);
}

/// To send it back at once would leave nobody who has what was committed since.
#[test]
fn a_copy_that_may_be_needed_stays_when_the_partition_is_sent_back() {
    let mut controller = with([A], 1);
    controller.done(reassign([B, C]));
    controller.done(controller.asks([A, B]));
    controller.done(down(A));
    assert_eq!(controller.led(), (Some(B), 1, &[B][..]));
    controller.done(reassign([A]));
    assert_eq!(controller.now().replicas, nodes([A, B]));
    assert_eq!(controller.reassignment(ID), Some(&running([A], [], [B])));
    controller.done(up(A, &[], Loss::Nothing));
    controller.done(controller.asks([A, B]));
    assert_eq!((controller.led(), controller.reassignment(ID)), ((Some(A), 3, &[A][..]), None));
}

/// The one that is to stay is in sync, and dead. If it comes back without its records, the other one still has them.
#[test]
fn nobody_goes_while_there_is_no_leader() {
    let mut controller = with([A, B], 2);
    controller.done(down(B));
    controller.done(down(A));
    controller.done(reassign([A]));
    assert_eq!((controller.now().replicas.len(), controller.eligible(ID)), (2, &[B][..]));
    controller.done(up(in_life(0, 2), &[A], Loss::Everything));
    controller.done(up(B, &[], Loss::Nothing));
    assert_eq!(controller.led(), (Some(B), 2, &[B][..]));
}

#[test]
fn more_must_be_in_sync_while_more_hold_it() {
    let mut controller = with([A], 3);
    assert_eq!(controller.now().min_in_sync, 1);
    controller.done(reassign([A, B]));
    assert_eq!(controller.now().min_in_sync, 2);
    controller.done(reassign([C, D]));
    assert_eq!((controller.now().min_in_sync, controller.now().replicas.len()), (3, 3));
    controller.done(controller.asks([A, C]));
    assert_eq!(controller.eligible(ID), []);
    controller.done(controller.asks([A]));
    assert_eq!(controller.eligible(ID), [C]);
    controller.done(controller.asks([A, C, D]));
    assert_eq!((controller.now().min_in_sync, controller.led().2), (2, &[C, D][..]));
}

#[test]
fn an_eligible_replica_that_is_elected_may_be_all_of_the_target() {
    let mut controller = with([A, B], 2);
    controller.done(down(B));
    controller.done(down(A));
    controller.done(reassign([B]));
    controller.done(up(B, &[], Loss::Nothing));
    assert_eq!((controller.led(), controller.eligible(ID)), ((Some(B), 2, &[B][..]), &[][..]));
    assert_eq!((&controller.now().replicas, controller.reassignment(ID)), (&nodes([B]), None));
}

#[test]
fn what_cannot_be_a_target_is_refused() {
    let mut controller = with([A, B], 1);
    assert_eq!(controller.refuses(reassign([])), Refused::NoReplicas { id: ID });
    assert_eq!(controller.refuses(reassign([C, C])), Refused::Duplicate { id: ID, node: C.node });
    let many = Command::Reassign { id: ID, replicas: (10..264).map(NodeId).collect() };
    assert_eq!(controller.refuses(many), Refused::TooManyReplicas { id: ID, count: 256, limit: 255 });
    let other = PartitionId { partition: 1, ..ID };
    let unknown = Command::Reassign { id: other, replicas: nodes([A]) };
    assert_eq!(controller.refuses(unknown), Refused::UnknownPartition { id: other });
}
