//! Assignments, heartbeats, leaving.

use super::*;

#[test]
fn members_get_what_the_leader_gave_them_and_who_was_left_out_gets_nothing() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask(1, join("a", 1)), []);
    assert_eq!(desk.ask(2, join("b", 2)), []);
    desk.wait(3);
    assert_eq!(told(desk.wait(3)).len(), 2);
    assert_eq!(desk.ask(3, sync(&id("a", 1), 1, &[(&id("a", 1), b"all"), ("who", b"none")])).len(), 1);
    assert_eq!(desk.state(), GroupState::CompletingRebalance, "until it is stored");
    assert_eq!(desk.ask(4, sync(&id("b", 2), 1, &[])), [], "and until then all wait");
    assert_eq!(desk.appended(0, 1), [synced(3, b"all"), synced(4, b"")]);
    assert_eq!(desk.ask(5, sync(&id("a", 1), 1, &[])), [synced(5, b"all")], "as often as they ask");
}

#[test]
fn a_follower_waits_for_the_leader_and_what_it_assigns_is_nothing() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask(1, join("a", 1)), []);
    assert_eq!(desk.ask(2, join("b", 2)), []);
    desk.wait(3);
    assert_eq!(told(desk.wait(3)).len(), 2);
    assert_eq!(desk.ask(3, sync(&id("b", 2), 1, &[(&id("b", 2), b"mine")])), []);
    assert_eq!(desk.ask(4, sync(&id("b", 2), 1, &[])), [refused(3, GroupError::RebalanceInProgress)], "asked twice");
    assert_eq!(append(&desk.ask(5, sync(&id("a", 1), 1, &[]))), (0, 1));
    assert_eq!(desk.appended(0, 1), [synced(5, b""), synced(4, b"")]);
}

#[test]
fn a_sync_is_checked_in_kafkas_order() {
    let mut desk = Desk::stable();
    let ask = |desk: &mut Desk, change: fn(&mut SyncGroup)| {
        let Request::Sync(mut request) = sync(&id("b", 2), 1, &[]) else { unreachable!() };
        change(&mut request);
        desk.ask(5, Request::Sync(request))
    };
    let unknown = |sync: &mut SyncGroup| sync.caller = caller("who", 7);
    assert_eq!(ask(&mut desk, unknown), [refused(5, GroupError::UnknownMemberId)]);
    let instance = |sync: &mut SyncGroup| (sync.caller.instance_id, sync.caller.generation.0) = (Some("s".into()), 7);
    assert_eq!(ask(&mut desk, instance), [refused(5, GroupError::UnknownMemberId)]);
    let old = |sync: &mut SyncGroup| (sync.caller.generation.0, sync.protocol) = (0, Some("no".into()));
    assert_eq!(ask(&mut desk, old), [refused(5, GroupError::IllegalGeneration)]);
    let protocol = |sync: &mut SyncGroup| sync.protocol = Some("sticky".into());
    assert_eq!(ask(&mut desk, protocol), [refused(5, GroupError::InconsistentGroupProtocol)]);
    let type_ = |sync: &mut SyncGroup| sync.protocol_type = Some("connect".into());
    assert_eq!(ask(&mut desk, type_), [refused(5, GroupError::InconsistentGroupProtocol)]);
    let right = |sync: &mut SyncGroup| {
        (sync.protocol_type, sync.protocol) = (Some("consumer".into()), Some("range".into()));
    };
    assert_eq!(ask(&mut desk, right), [synced(5, b"B")]);
    let large = |sync: &mut SyncGroup| sync.assignments = vec![("x".into(), vec![0; (1 << 20) + 1].into())];
    assert_eq!(ask(&mut desk, large), [refused(5, GroupError::InvalidRequest)]);
    let other = |sync: &mut SyncGroup| sync.group = "other".into();
    assert_eq!(ask(&mut desk, other), [refused(5, GroupError::UnknownMemberId)]);
    assert_eq!(desk.ask(6, join("c", 3)), []);
    assert_eq!(ask(&mut desk, right), [refused(5, GroupError::RebalanceInProgress)]);
}

#[test]
fn a_heartbeat_is_answered_by_the_state_of_the_group() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask(1, heartbeat("who", 1)), [refused(1, GroupError::UnknownMemberId)]);
    assert_eq!(desk.ask(1, join("a", 1)), []);
    assert_eq!(told(desk.wait(3)).len(), 1);
    assert_eq!(desk.ask(2, heartbeat(&id("a", 1), 1)), [alive(2)], "while the leader is to assign");
    assert_eq!(desk.ask(3, heartbeat(&id("a", 1), 0)), [refused(3, GroupError::IllegalGeneration)]);
    assert_eq!(desk.ask(4, heartbeat("who", 1)), [refused(4, GroupError::UnknownMemberId)]);
    assert_eq!(desk.ask(5, join("b", 2)), []);
    assert_eq!(desk.ask(6, heartbeat(&id("a", 1), 1)), [refused(6, GroupError::RebalanceInProgress)]);
}

#[test]
fn a_rebalance_sends_away_who_waits_for_an_assignment() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask(1, join("a", 1)), []);
    assert_eq!(desk.ask(2, join("b", 2)), []);
    desk.wait(3);
    assert_eq!(told(desk.wait(3)).len(), 2);
    assert_eq!(desk.ask(3, sync(&id("b", 2), 1, &[])), []);
    assert_eq!(desk.ask(4, join("c", 3)), [refused(3, GroupError::RebalanceInProgress)]);
}

#[test]
fn several_leave_at_once_by_id_or_by_instance() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask(1, join("a", 1)), []);
    assert_eq!(desk.ask(2, Request::Join(static_member("s", 2))), []);
    assert_eq!(desk.ask(3, Request::Join(static_member("t", 3))), []);
    desk.wait(3);
    assert_eq!(told(desk.wait(3)).len(), 3);
    let (a, s, t) = (id("a", 1), id("s", 2), id("t", 3));
    let leaving = [
        ("who", None),
        ("", Some("u")),
        ("", None),
        (&*a, Some("s")),
        (&*t, Some("s")),
        ("", Some("s")),
        (&*s, None),
        (&*t, Some("t")),
    ];
    let gone = Err(GroupError::UnknownMemberId);
    let fenced = Err(GroupError::FencedInstanceId);
    let expected = left(4, &[gone, gone, gone, fenced, fenced, Ok(()), gone, Ok(())]);
    assert_eq!(desk.ask(4, leave(&leaving)), [expected]);
    assert_eq!(desk.state(), GroupState::PreparingRebalance);
    assert_eq!(told(desk.ask(5, join_again(&a))).len(), 1);
    assert_eq!(desk.ask(6, leave(&[("who", None)])), [left(6, &[gone])]);
    assert_eq!(desk.state(), GroupState::CompletingRebalance, "nobody left");
}

#[test]
fn who_leaves_while_it_waits_is_told_that_it_is_no_member() {
    let mut desk = Desk::stable();
    assert_eq!(desk.ask(5, join_again(&id("a", 1))), []);
    let actions = desk.ask(6, leave(&[(&id("a", 1), None)]));
    assert_eq!(actions, [refused(5, GroupError::UnknownMemberId), left(6, &[Ok(())])]);
    let joined = told(desk.ask(7, join_again(&id("b", 2))));
    assert_eq!((joined[0].1.generation, &*joined[0].1.leader), (Generation(2), &*id("b", 2)));
    // One that waits for its assignment.
    assert_eq!(desk.ask(8, join("c", 3)), []);
    assert_eq!(told(desk.ask(9, join_again(&id("b", 2)))).len(), 2);
    assert_eq!(desk.ask(10, sync(&id("c", 3), 3, &[])), []);
    let actions = desk.ask(11, leave(&[(&id("c", 3), None)]));
    assert_eq!(actions, [refused(10, GroupError::UnknownMemberId), left(11, &[Ok(())])]);
}

#[test]
fn the_last_one_to_leave_is_told_once_that_is_stored() {
    let mut desk = Desk::stable();
    let all = [(&*id("a", 1), None), (&*id("b", 2), None)];
    assert_eq!(append(&desk.ask(5, leave(&all))), (1, 1));
    assert_eq!(desk.state(), GroupState::Stable);
    assert_eq!(desk.failed(1), [refused(5, GroupError::CoordinatorNotAvailable)]);
    assert_eq!(desk.ask(6, heartbeat(&id("a", 1), 1)), [alive(6)], "nobody left");
    assert_eq!(append(&desk.ask(7, leave(&all))), (2, 1));
    assert_eq!(desk.appended(2, 1), [left(7, &[Ok(()), Ok(())])]);
    let described = desk.describe();
    assert_eq!((described.state, described.generation), (Some(GroupState::Empty), Generation(2)));
    assert_eq!(desk.due_in(), None);
    assert_eq!(desk.ask(8, heartbeat(&id("a", 1), 1)), [refused(8, GroupError::UnknownMemberId)]);
    assert_eq!(desk.ask(9, join_again(&id("a", 1))), [refused(9, GroupError::UnknownMemberId)]);
    let who = [Err(GroupError::UnknownMemberId)];
    assert_eq!(desk.ask(10, leave(&[("who", None)])), [left(10, &who)]);
}

#[test]
fn an_assignment_that_could_not_be_stored_was_not_made() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask(1, join("a", 1)), []);
    assert_eq!(desk.ask(2, join("b", 2)), []);
    desk.wait(3);
    assert_eq!(told(desk.wait(3)).len(), 2);
    assert_eq!(desk.ask(3, sync(&id("b", 2), 1, &[])), []);
    assert_eq!(append(&desk.ask(4, sync(&id("a", 1), 1, &[(&id("b", 2), b"B")]))), (0, 1));
    assert_eq!(desk.failed(0), [refused(4, GroupError::CoordinatorNotAvailable)]);
    assert_eq!(desk.state(), GroupState::CompletingRebalance, "and the leader may assign again");
    assert_eq!(told(desk.ask(5, join_again(&id("a", 1)))).len(), 1);
    assert_eq!(append(&desk.ask(6, sync(&id("a", 1), 1, &[(&id("b", 2), b"B")]))), (1, 1));
    assert_eq!(desk.appended(1, 1), [synced(6, b""), synced(3, b"B")]);
}
