//! What leaders ask for, and when it is refused.

use super::*;

#[test]
fn a_leader_adds_and_removes_who_is_in_sync() {
    let mut controller = with([A, B, C], 1);
    controller.done(controller.asks([A]));
    assert_eq!(controller.led(), (Some(A), 0, &[A][..]));
    controller.done(controller.asks([C, A]));
    assert_eq!(controller.led(), (Some(A), 0, &[A, C][..]), "in the order of the nodes");
    assert_eq!(controller.now().version, 2);
}

#[test]
fn a_change_is_refused_unless_it_is_of_the_present_state() {
    let mut controller = with([A, B], 1);
    let Command::InSync(change) = controller.asks([A]) else { unreachable!() };
    let mut refused = |change: InSyncChange| controller.refuses(Command::InSync(change));
    let other = PartitionId { partition: 1, ..ID };
    assert_eq!(refused(InSyncChange { id: other, ..change.clone() }), Refused::UnknownPartition { id: other });
    for leader in [B, in_life(0, 2)] {
        let not_leader = Refused::NotLeader { id: ID, member: leader, leader: Some(A) };
        assert_eq!(refused(InSyncChange { leader, ..change.clone() }), not_leader);
    }
    let epoch = LeaderEpoch(1);
    let stale = Refused::StaleEpoch { id: ID, epoch, current: LeaderEpoch(0) };
    assert_eq!(refused(InSyncChange { leader_epoch: epoch, ..change.clone() }), stale);
    let stale = Refused::StaleVersion { id: ID, version: 3, current: 0 };
    assert_eq!(refused(InSyncChange { version: 3, ..change }), stale);

    controller.done(down(B));
    controller.done(down(A));
    let Command::InSync(change) = with([A, B], 1).asks([A]) else { unreachable!() };
    let not_leader = Refused::NotLeader { id: ID, member: A, leader: None };
    assert_eq!(controller.refuses(Command::InSync(change)), not_leader);
    assert_eq!(
        not_leader.to_string(),
        format!("0/{} asks as the leader of {ID}, which is led by nobody", A.incarnation)
    );
}

/// A leader waits for those that it asked to add until it is answered: so it is, whoever they are.
#[test]
fn only_live_replicas_in_their_last_lives_are_added_and_the_others_left_out() {
    let mut controller = with([A, B, C], 1);
    controller.done(controller.asks([A]));
    controller.done(down(C));
    for (version, other) in [D, in_life(1, 2), C].into_iter().enumerate() {
        let outcome = controller.done(controller.asks([A, other]));
        assert_eq!((controller.led(), outcome.changed.len()), ((Some(A), 0, &[A][..]), 1), "{other}");
        assert_eq!(controller.now().version, version as u64 + 2);
    }
    controller.done(controller.asks([A, C, B]));
    assert_eq!(controller.led().2, [A, B]);
}

#[test]
fn a_change_names_each_node_once_and_its_leader() {
    let mut controller = with([A, B, C], 1);
    for twice in [A, in_life(0, 2)] {
        let asked = controller.asks([A, twice]);
        assert_eq!(controller.refuses(asked), Refused::Duplicate { id: ID, node: A.node });
    }
    for asked in [controller.asks([C]), controller.asks([])] {
        assert_eq!(controller.refuses(asked), Refused::LeaderLeftOut { id: ID, leader: A });
    }
}

/// A leader asked for a replica to be added, and was refused. It gave that up; then the same command came again, and
/// was applied.
#[test]
fn of_what_is_asked_for_in_one_version_at_most_one_comes_about() {
    let mut controller = with([A, B], 1);
    controller.done(controller.asks([A]));
    controller.done(down(B));
    let asked = controller.asks([A, B]);
    controller.done(asked.clone());
    assert_eq!(controller.led().2, [A]);
    controller.done(up(B, &[], Loss::Nothing));
    assert_eq!(controller.refuses(asked), Refused::StaleVersion { id: ID, version: 1, current: 2 });

    let (asked, same) = (controller.asks([A, B]), controller.asks([A]));
    let outcome = controller.done(same);
    assert_eq!((outcome.changed.len(), controller.now().version), (1, 3), "nothing else changed");
    assert_eq!(controller.refuses(asked), Refused::StaleVersion { id: ID, version: 2, current: 3 });
}

#[test]
fn a_member_that_is_exchanged_below_the_minimum_is_eligible() {
    let mut controller = with([A, B, C], 3);
    controller.done(controller.asks([A, B]));
    assert_eq!(controller.eligible(ID), [C]);
    controller.done(controller.asks([A, C]));
    assert_eq!(controller.eligible(ID), [B]);
    controller.done(controller.asks([A, B, C]));
    assert_eq!(controller.eligible(ID), []);
}
