//! What the time does.

use super::*;

#[test]
fn a_member_that_is_not_heard_of_is_out_after_its_session() {
    let mut desk = Desk::stable();
    assert_eq!(desk.wait(9), []);
    assert_eq!(desk.ask(5, heartbeat(&id("b", 2), 1)), [alive(5)]);
    assert_eq!(desk.wait(1), [], "the other is removed");
    assert_eq!(desk.state(), GroupState::PreparingRebalance);
    assert_eq!(desk.ask(6, heartbeat(&id("a", 1), 1)), [refused(6, GroupError::UnknownMemberId)]);
    assert_eq!(desk.ask(7, heartbeat(&id("b", 2), 1)), [refused(7, GroupError::RebalanceInProgress)]);
    assert_eq!(told(desk.ask(8, join_again(&id("b", 2)))).len(), 1);
}

#[test]
fn a_commit_is_a_sign_of_life() {
    let mut desk = Desk::stable();
    desk.seconds += 9;
    let request = Request::CommitOffsets(commit(caller(&id("a", 1), 1), "read", 1));
    assert_eq!(append(&desk.ask(5, request)), (1, 1));
    assert_eq!(desk.wait(1), [], "the other is removed");
    assert_eq!(desk.describe().members.len(), 1);
}

/// Requests that came in time are told of before the time is.
#[test]
fn a_heartbeat_that_is_told_of_late_counts_if_it_is_told_of_first() {
    let mut desk = Desk::stable();
    desk.seconds += 11;
    assert_eq!(desk.ask(5, heartbeat(&id("a", 1), 1)), [alive(5)]);
    assert_eq!(desk.ask(6, heartbeat(&id("b", 2), 1)), [alive(6)]);
    assert_eq!(desk.tell(Event::Tick), []);
    assert_eq!(desk.state(), GroupState::Stable);
}

#[test]
fn the_last_member_that_dies_leaves_an_empty_group() {
    let mut desk = Desk::stable();
    assert_eq!(append(&desk.wait(10)), (1, 1));
    assert_eq!(desk.appended(1, 1), []);
    assert_eq!((desk.state(), desk.due_in()), (GroupState::Empty, None));
}

/// The disk is full, say. It must not be asked again in a loop.
#[test]
fn what_the_time_caused_and_could_not_be_stored_is_tried_again_after_a_second() {
    let mut desk = Desk::stable();
    assert_eq!(append(&desk.wait(10)), (1, 1));
    assert_eq!(desk.failed(1), []);
    assert_eq!((desk.state(), desk.due_in()), (GroupState::Stable, Some(1)));
    assert_eq!(append(&desk.wait(1)), (2, 1));
    assert_eq!(desk.appended(2, 1), []);
    assert_eq!(desk.state(), GroupState::Empty);
}

#[test]
fn the_time_of_a_group_stands_still_while_it_waits_for_the_log() {
    let mut desk = Desk::stable();
    assert_eq!(desk.ask(5, join("c", 3)), []);
    assert_eq!(desk.ask(6, join_again(&id("a", 1))), []);
    assert_eq!(told(desk.ask(7, join_again(&id("b", 2)))).len(), 3);
    assert_eq!(append(&desk.ask(8, sync(&id("a", 1), 2, &[]))), (1, 1));
    assert_eq!(desk.due_in(), None);
    assert_eq!(desk.wait(100), []);
    assert_eq!(desk.ask(9, heartbeat(&id("b", 2), 2)), [], "it waits, too");
    assert_eq!(desk.appended(1, 1), [synced(8, b""), alive(9)]);
    assert_eq!((desk.state(), desk.due_in()), (GroupState::Stable, Some(10)));
}

#[test]
fn members_that_do_not_join_again_are_out_after_the_longest_rebalance_time_out() {
    let mut desk = Desk::stable();
    let mut slow = new_member("c", 3);
    slow.rebalance_timeout = Duration::from_secs(40);
    assert_eq!(desk.ask(5, Request::Join(slow)), []);
    for token in 10..15 {
        desk.seconds += 7;
        for member in [id("a", 1), id("b", 2)] {
            assert_eq!(desk.ask(token, heartbeat(&member, 1)), [refused(token, GroupError::RebalanceInProgress)]);
        }
        assert_eq!(desk.tell(Event::Tick), []);
    }
    let joined = told(desk.wait(5));
    assert_eq!((joined.len(), joined[0].1.members.len()), (1, 1));
}

#[test]
fn a_static_member_that_does_not_join_again_stays_until_its_session_ends() {
    let mut desk = Desk::new();
    let mut lasting = static_member("s", 1);
    lasting.session_timeout = Duration::from_secs(100);
    assert_eq!(desk.ask(1, Request::Join(lasting)), []);
    assert_eq!(told(desk.wait(3)).len(), 1);
    assert_eq!(desk.ask(2, join("b", 2)), []);
    let joined = told(desk.wait(30));
    assert_eq!((joined.len(), &*joined[0].1.leader), (1, &*id("b", 2)), "it joined, so it leads");
    assert_eq!(joined[0].1.members.len(), 2, "and assigns for both");
    assert_eq!(append(&desk.ask(3, sync(&id("b", 2), 2, &[(&id("s", 1), b"S")]))), (0, 1));
    assert_eq!(desk.appended(0, 1), [synced(3, b"")]);
    assert_eq!(desk.due_in(), Some(10));
}

/// All are static, and none joined: without an end to the wait nothing would ever happen again.
#[test]
fn if_nobody_joins_at_all_the_group_waits_once_more() {
    let mut desk = Desk::new();
    for (token, instance) in [(1, "s"), (2, "t")] {
        let mut lasting = static_member(instance, token);
        (lasting.session_timeout, lasting.rebalance_timeout) = (Duration::from_secs(100), Duration::ZERO);
        assert_eq!(desk.ask(token.into(), Request::Join(lasting)), []);
    }
    // Their first rebalance cannot be prolonged: they wait no longer than this.
    assert_eq!(told(desk.wait(3)).len(), 2);
    assert_eq!(desk.due_in(), Some(0), "nobody synced in no time");
    assert_eq!(append(&desk.wait(0)), (0, 1), "and both are out");

    let mut desk = Desk::new();
    let mut lasting = static_member("s", 1);
    lasting.session_timeout = Duration::from_secs(100);
    lasting.rebalance_timeout = Duration::from_secs(20);
    assert_eq!(desk.ask(1, Request::Join(lasting)), []);
    assert_eq!(desk.ask(2, join("b", 2)), []);
    desk.wait(3);
    assert_eq!(told(desk.wait(3)).len(), 2);
    assert_eq!(desk.ask(3, leave(&[(&id("b", 2), None)])), [left(3, &[Ok(())])]);
    assert_eq!((desk.wait(20), desk.due_in()), (vec![], Some(20)));
    assert_eq!((desk.wait(20), desk.state()), (vec![], GroupState::PreparingRebalance));
    let mut seconds = 40;
    let number = loop {
        let wait = desk.due_in().unwrap();
        seconds += wait;
        let actions = desk.wait(wait);
        if !actions.is_empty() {
            break append(&actions).0;
        }
    };
    assert_eq!(seconds, 100, "its session ended");
    assert_eq!(desk.appended(number, 1), []);
    assert_eq!(desk.state(), GroupState::Empty);
}

#[test]
fn a_new_member_that_waits_is_given_up_after_five_minutes() {
    let mut desk = Desk::stable();
    let mut patient = new_member("", 0);
    patient.member_id = id("a", 1).into();
    patient.rebalance_timeout = Duration::from_secs(1000);
    assert_eq!(desk.ask(5, Request::Join(patient)), []);
    assert_eq!(desk.ask(6, join("c", 3)), []);
    let mut waited = 0;
    let actions = loop {
        waited += 9;
        desk.seconds += 9;
        assert_eq!(desk.ask(7, heartbeat(&id("b", 2), 1)), [refused(7, GroupError::RebalanceInProgress)]);
        let actions = desk.tell(Event::Tick);
        if !actions.is_empty() {
            break actions;
        }
    };
    assert_eq!(actions, [refused(6, GroupError::UnknownMemberId)]);
    assert_eq!(waited, 306, "and the other, which waits as well, is not");
    assert_eq!(told(desk.ask(8, join_again(&id("b", 2)))).len(), 2);
}

#[test]
fn members_that_do_not_ask_for_their_assignment_are_out_after_the_rebalance_time_out() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask(1, join("a", 1)), []);
    assert_eq!(desk.ask(2, join("b", 2)), []);
    desk.wait(3);
    assert_eq!(told(desk.wait(3)).len(), 2);
    assert_eq!(append(&desk.ask(3, sync(&id("a", 1), 1, &[]))), (0, 1));
    assert_eq!(desk.appended(0, 1).len(), 1);
    for token in 10..13 {
        desk.seconds += 9;
        assert_eq!(desk.ask(token, heartbeat(&id("a", 1), 1)), [alive(token)]);
        assert_eq!(desk.ask(token, heartbeat(&id("b", 2), 1)), [alive(token)]);
        assert_eq!(desk.tell(Event::Tick), []);
    }
    assert_eq!(desk.wait(3), [], "30 seconds after they joined");
    assert_eq!(desk.ask(20, heartbeat(&id("b", 2), 1)), [refused(20, GroupError::UnknownMemberId)]);
    assert_eq!(desk.ask(21, heartbeat(&id("a", 1), 1)), [refused(21, GroupError::RebalanceInProgress)]);
}

#[test]
fn who_waits_for_its_assignment_is_alive() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask(1, join("a", 1)), []);
    assert_eq!(desk.ask(2, join("b", 2)), []);
    desk.wait(3);
    assert_eq!(told(desk.wait(3)).len(), 2);
    assert_eq!(desk.ask(3, sync(&id("b", 2), 1, &[])), []);
    assert_eq!(desk.wait(10), [refused(3, GroupError::RebalanceInProgress)], "the leader died");
    assert_eq!(desk.due_in(), Some(10), "and the other has a session anew");
}

#[test]
fn after_the_last_generation_comes_the_first() {
    assert_eq!(Generation(i32::MAX).next(), Generation(0));
    assert_eq!(Generation(6).next(), Generation(7));
    assert_eq!(Generation::NONE.next(), Generation(1));
}
