//! What is made, deleted, set and elected by hand.

use super::*;

#[test]
fn a_new_partition_is_led_by_its_first_replica_that_lives() {
    let mut controller = with([A], 1);
    controller.done(down(C));
    let id = PartitionId { partition: 4, ..ID };
    let outcome = controller.done(create(id, [C, B, A], 2));
    let made = Assignment {
        id,
        version: 0,
        replicas: nodes([C, B, A]),
        leader: Some(B),
        leader_epoch: LeaderEpoch(0),
        in_sync: vec![A, B],
        min_in_sync: 2,
        eligible: vec![],
        unclean_epoch: None,
    };
    assert_eq!((controller.assignment(id), outcome.changed), (Some(&made), vec![made.clone()]));
    assert_eq!(controller.assignments().map(|known| known.id).collect::<Vec<_>>(), [ID, id]);
    assert_eq!(controller.refuses(create(id, [C, B, A], 2)), Refused::Exists { id });
}

#[test]
fn what_cannot_be_made_is_refused() {
    let id = PartitionId { partition: 4, ..ID };
    let mut controller = with([A], 1);
    assert_eq!(controller.refuses(create(id, [], 1)), Refused::NoReplicas { id });
    assert_eq!(controller.refuses(create(id, [A, B, A], 1)), Refused::Duplicate { id, node: A.node });
    assert_eq!(controller.refuses(create(id, [A], 0)), Refused::ZeroMinimum { id });
    assert_eq!(controller.refuses(create(id, [member(9)], 1)), Refused::NoneLive { id });
    let many = Command::Create { id, replicas: (0..256).map(NodeId).collect(), min_in_sync: 1 };
    assert_eq!(controller.refuses(many), Refused::TooManyReplicas { id, count: 256, limit: 255 });
    controller.done(down(A));
    assert_eq!(controller.refuses(create(id, [A], 1)), Refused::NoneLive { id });
}

#[test]
fn a_topic_goes_with_all_its_partitions() {
    let mut controller = with([A], 1);
    let other = PartitionId { topic: TopicId::from_bytes([8; 16]), partition: 0 };
    let last = PartitionId { partition: u32::MAX, ..ID };
    controller.done(create(last, [B], 1));
    controller.done(create(other, [A], 1));
    let outcome = controller.done(Command::Delete { topic: ID.topic });
    assert_eq!(outcome, Outcome { deleted: vec![ID, last], ..Outcome::default() });
    assert_eq!(controller.assignments().map(|known| known.id).collect::<Vec<_>>(), [other]);
    assert_eq!(controller.done(Command::Delete { topic: ID.topic }), Outcome::default());
    assert_eq!(controller.refuses(Command::ElectPreferred { id: ID }), Refused::UnknownPartition { id: ID });
    assert_eq!((controller.eligible(ID), controller.reassignment(ID)), (&[][..], None));
}

/// Those who left did so when the leader could commit without them.
#[test]
fn raising_the_minimum_makes_nobody_eligible() {
    let mut controller = with([A, B], 1);
    controller.done(controller.asks([A]));
    controller.done(Command::SetMinInSync { id: ID, min_in_sync: 2 });
    assert_eq!((controller.now().min_in_sync, controller.eligible(ID)), (2, &[][..]));
    controller.done(down(A));
    assert_eq!(controller.led(), (None, 1, &[A][..]));
}

#[test]
fn lowering_the_minimum_forgets_who_is_eligible() {
    let mut controller = with([A, B, C], 3);
    controller.done(controller.asks([A, B]));
    assert_eq!(controller.eligible(ID), [C]);
    let outcome = controller.done(Command::SetMinInSync { id: ID, min_in_sync: 2 });
    assert_eq!((controller.eligible(ID), outcome.changed.len()), (&[][..], 1));
    controller.done(Command::SetMinInSync { id: ID, min_in_sync: 3 });
    assert_eq!(controller.eligible(ID), [], "it may lack what two committed meanwhile");
    let refused = controller.refuses(Command::SetMinInSync { id: ID, min_in_sync: 0 });
    assert_eq!(refused, Refused::ZeroMinimum { id: ID });
}

#[test]
fn the_minimum_is_at_most_all_replicas() {
    let mut controller = with([A, B], 5);
    assert_eq!(controller.now().min_in_sync, 2);
    let outcome = controller.done(Command::SetMinInSync { id: ID, min_in_sync: 4 });
    assert_eq!((controller.now().min_in_sync, outcome), (2, Outcome::default()));
    controller.done(Command::Reassign { id: ID, replicas: nodes([A, B, C]) });
    assert_eq!(controller.now().min_in_sync, 3);
}

#[test]
fn the_preferred_replica_leads_if_it_is_in_sync() {
    let mut controller = with([A, B], 1);
    assert_eq!(controller.done(Command::ElectPreferred { id: ID }), Outcome::default(), "it does");
    controller.done(down(A));
    let not_in_sync = Refused::PreferredNotInSync { id: ID, node: A.node };
    assert_eq!(controller.refuses(Command::ElectPreferred { id: ID }), not_in_sync);
    controller.done(up(A, &[], Loss::Nothing));
    assert_eq!(controller.refuses(Command::ElectPreferred { id: ID }), not_in_sync);
    controller.done(controller.asks([A, B]));
    controller.done(Command::ElectPreferred { id: ID });
    assert_eq!(controller.led(), (Some(A), 2, &[A, B][..]));
}

#[test]
fn an_unclean_election_is_refused_while_nothing_has_to_be_lost() {
    let mut controller = with([A, B], 1);
    let elect = |member: Member| Command::ElectUnclean { id: ID, node: member.node };
    controller.done(down(B));
    controller.done(up(B, &[], Loss::Nothing));
    assert_eq!(controller.refuses(elect(B)), Refused::HasLeader { id: ID, leader: A });
    controller.done(down(A));
    assert_eq!(controller.refuses(elect(C)), Refused::NotReplica { id: ID, node: C.node });
    assert_eq!(controller.refuses(elect(A)), Refused::NotLive { id: ID, node: A.node });
    let outcome = controller.done(elect(B));
    assert!(outcome.is_unclean);
    assert_eq!(controller.led(), (Some(B), 2, &[B][..]));
    assert_eq!(controller.now().unclean_epoch, Some(LeaderEpoch(2)));
    assert_eq!(controller.refuses(elect(B)), Refused::HasLeader { id: ID, leader: B }, "a second time");

    controller.done(up(in_life(0, 2), &[A], Loss::Nothing));
    assert_eq!(controller.led(), (Some(B), 2, &[B][..]), "what it had counts no more");
    controller.done(down(B));
    controller.done(up(B, &[], Loss::Nothing));
    assert_eq!((controller.led().1, controller.now().unclean_epoch), (4, Some(LeaderEpoch(2))));
}

#[test]
fn nobody_is_eligible_after_an_unclean_election() {
    let mut controller = with([A, B, C], 2);
    controller.done(controller.asks([A, B]));
    controller.done(down(B));
    controller.done(down(A));
    assert_eq!((controller.led().0, controller.eligible(ID)), (None, &[B][..]));
    controller.done(Command::ElectUnclean { id: ID, node: C.node });
    assert_eq!((controller.led(), controller.eligible(ID)), ((Some(C), 2, &[C][..]), &[][..]));
}

#[test]
fn all_that_changed_is_told_in_order() {
    let mut controller = with([A, B], 1);
    let ids = [3, 1, 2].map(|partition| PartitionId { partition, ..ID });
    for id in ids {
        controller.done(create(id, [B, A], 1));
    }
    controller.done(create(PartitionId { partition: 9, ..ID }, [C], 1));
    let changed = controller.done(down(B)).changed;
    assert_eq!(changed.iter().map(|known| known.id.partition).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert!(changed.iter().all(|known| known.leader == Some(A) && known.in_sync == [A]));
}

/// One of the partitions of a node cannot have another epoch: the node is not taken for dead in the others either.
#[test]
fn what_cannot_be_counted_is_refused_as_a_whole() {
    let mut controller = with([B, A], 1);
    let last = PartitionId { partition: 1, ..ID };
    controller.done(create(last, [B, A], 1));
    controller.partitions.get_mut(&last).unwrap().assignment.leader_epoch = LeaderEpoch(i32::MAX);
    let exhausted = Refused::Exhausted { id: last, epoch: LeaderEpoch(i32::MAX), version: 0 };
    assert_eq!(controller.refuses(down(B)), exhausted);
    controller.partitions.get_mut(&ID).unwrap().assignment.version = u64::MAX;
    let asked = controller.asks([B]);
    assert_eq!(controller.refuses(asked), Refused::Exhausted { id: ID, epoch: LeaderEpoch(0), version: u64::MAX });
}
