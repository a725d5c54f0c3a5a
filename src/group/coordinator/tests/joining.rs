//! Joining: ids, limits, protocols, the first rebalance, the leader, static members.

use super::*;

#[test]
fn what_cannot_be_a_member_is_refused() {
    let mut desk = Desk::new();
    let mut ask = |change: fn(&mut JoinGroup)| {
        let mut join = new_member("a", 1);
        change(&mut join);
        desk.ask(1, Request::Join(join))
    };
    assert_eq!(ask(|join| join.group = "".into()), [refused(1, GroupError::InvalidGroupId)]);
    assert_eq!(ask(|join| join.group = "x".repeat(32_768).into()), [refused(1, GroupError::InvalidGroupId)]);
    let short = |join: &mut JoinGroup| join.session_timeout = Duration::from_millis(5_999);
    assert_eq!(ask(short), [refused(1, GroupError::InvalidSessionTimeout)]);
    let long = |join: &mut JoinGroup| join.session_timeout = Duration::from_secs(30 * 60 + 1);
    assert_eq!(ask(long), [refused(1, GroupError::InvalidSessionTimeout)]);
    assert_eq!(ask(|join| join.member_id = "who".into()), [refused(1, GroupError::UnknownMemberId)]);
    assert_eq!(ask(|join| join.protocols.clear()), [refused(1, GroupError::InconsistentGroupProtocol)]);
    assert_eq!(ask(|join| join.protocol_type = "".into()), [refused(1, GroupError::InconsistentGroupProtocol)]);
    assert_eq!(ask(|join| join.client_id = "x".repeat(32_001).into()), [refused(1, GroupError::InvalidRequest)]);
    assert_eq!(
        ask(|join| join.instance_id = Some("x".repeat(32_001).into())),
        [refused(1, GroupError::InvalidRequest)]
    );
    let many = |join: &mut JoinGroup| join.protocols = protocols(&["range"; 101]);
    assert_eq!(ask(many), [refused(1, GroupError::InvalidRequest)]);
    let large = |join: &mut JoinGroup| join.protocols[0].metadata = vec![0; (1 << 20) + 1].into();
    assert_eq!(ask(large), [refused(1, GroupError::InvalidRequest)]);
    let slow = |join: &mut JoinGroup| join.rebalance_timeout = Duration::from_secs(1 << 40);
    assert_eq!(ask(slow), [refused(1, GroupError::InvalidRequest)]);
    assert_eq!(desk.coordinator, Coordinator::new(GroupConfig::default()), "nothing is left of them");
}

/// KIP-394: without it, each attempt of a client that does not wait for the answer would be a member of its own.
#[test]
fn a_new_member_first_gets_an_id_and_joins_with_that() {
    let mut desk = Desk::new();
    let mut first = new_member("a", 1);
    first.needs_member_id = true;
    let required = Answer::MemberIdRequired { member_id: id("a", 1).into() };
    assert_eq!(desk.ask(1, Request::Join(first.clone())), [answer(1, Ok(required))]);
    assert_eq!((desk.state(), desk.due_in()), (GroupState::Empty, Some(10)));
    assert_eq!(
        desk.ask(2, Request::Join(first.clone())),
        [refused(2, GroupError::CoordinatorNotAvailable)],
        "the number again"
    );
    first.member_id = id("a", 1).into();
    assert_eq!(desk.ask(3, Request::Join(first)), []);
    assert_eq!((desk.state(), desk.due_in()), (GroupState::PreparingRebalance, Some(3)));
    let joined = told(desk.wait(3));
    assert_eq!((joined[0].0, &*joined[0].1.member_id), (3, &*id("a", 1)));
}

#[test]
fn an_id_that_is_not_joined_with_is_forgotten_after_a_session_and_the_group_with_it() {
    let mut desk = Desk::new();
    let mut first = new_member("a", 1);
    first.needs_member_id = true;
    assert_eq!(answers(desk.ask(1, Request::Join(first))).len(), 1);
    assert_eq!(desk.wait(10), []);
    assert_eq!(desk.ask(2, join_again(&id("a", 1))), [refused(2, GroupError::UnknownMemberId)]);
    assert_eq!(desk.ask(3, Request::Describe { group: "g".into() }), [refused(3, GroupError::GroupIdNotFound)]);
}

#[test]
fn a_group_waits_for_ids_that_are_not_joined_with() {
    let mut desk = Desk::stable();
    let mut third = new_member("c", 3);
    third.needs_member_id = true;
    assert_eq!(answers(desk.ask(5, Request::Join(third))).len(), 1);
    assert_eq!(desk.ask(6, join_again(&id("a", 1))), [], "the leader asks for a rebalance");
    assert_eq!(desk.ask(7, join_again(&id("b", 2))), [], "all have joined but the one with a new id");
    assert_eq!(desk.ask(8, leave(&[(&id("c", 3), None)])).len(), 3, "it goes, and the others go on");
    assert_eq!(desk.state(), GroupState::CompletingRebalance);
}

#[test]
fn the_first_rebalance_is_prolonged_by_who_comes_up_to_the_rebalance_time_out() {
    let mut desk = Desk::new();
    let mut first = new_member("a", 1);
    first.rebalance_timeout = Duration::from_secs(8);
    assert_eq!(desk.ask(1, Request::Join(first)), []);
    for (token, wait, next) in [(2, 3, 3), (3, 3, 2)] {
        let mut more = new_member("b", token as u8);
        more.rebalance_timeout = Duration::from_secs(8);
        assert_eq!(desk.ask(token, Request::Join(more)), []);
        assert_eq!((desk.wait(wait), desk.due_in()), (vec![], Some(next)));
    }
    assert_eq!(desk.ask(4, join("d", 4)), []);
    let joined = told(desk.wait(2));
    assert_eq!(joined.len(), 4, "eight seconds are over, whoever came last");
    assert_eq!((desk.state(), joined[0].1.generation), (GroupState::CompletingRebalance, Generation(1)));
}

#[test]
fn nobody_came_so_the_first_rebalance_ends_after_one_delay() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask(1, join("a", 1)), []);
    let joined = told(desk.wait(3));
    let expected = Joined {
        member_id: id("a", 1).into(),
        generation: Generation(1),
        protocol_type: "consumer".into(),
        protocol: "range".into(),
        leader: id("a", 1).into(),
        members: vec![JoinedMember {
            member_id: id("a", 1).into(),
            instance_id: None,
            metadata: Arc::clone(&protocols(&["range"])[0].metadata),
        }],
        skip_assignment: false,
    };
    assert_eq!(joined, [(1, expected)]);
}

#[test]
fn a_full_group_takes_nobody_in() {
    let mut desk = Desk::with(GroupConfig::default().max_members(2));
    assert_eq!(desk.ask(1, join("a", 1)), []);
    assert_eq!(desk.ask(2, join("b", 2)), []);
    assert_eq!(desk.ask(3, join("c", 3)), [refused(3, GroupError::GroupMaxSizeReached)], "while it is made");
    desk.wait(3);
    assert_eq!(told(desk.wait(3)).len(), 2);
    assert_eq!(desk.ask(4, join("c", 4)), [refused(4, GroupError::GroupMaxSizeReached)], "and after");
    assert_eq!(told(desk.ask(5, join_again(&id("a", 1)))).len(), 1, "who is in may join again");
}

/// Of a group that became too large because the setting was lowered, those that join last are sent away.
#[test]
fn a_member_that_joins_last_leaves_a_group_that_is_too_large() {
    let mut full = Desk::stable();
    full.coordinator.config = full.coordinator.config.max_members(1);
    assert_eq!(full.ask(5, join_again(&id("a", 1))), []);
    let actions = answers(full.ask(6, join_again(&id("b", 2))));
    let [(5, Ok(Answer::Joined(joined))), (6, Err(GroupError::GroupMaxSizeReached))] = &actions[..] else {
        panic!("{actions:?}");
    };
    assert_eq!(joined.members.len(), 1);
}

#[test]
fn a_static_member_can_come_back_to_a_full_group() {
    let mut desk = Desk::with(GroupConfig::default().max_members(1));
    assert_eq!(desk.ask(1, Request::Join(static_member("s", 1))), []);
    assert_eq!(told(desk.wait(3)).len(), 1);
    assert_eq!(told(desk.ask(2, Request::Join(static_member("s", 2)))).len(), 1);
}

#[test]
fn protocols_must_fit_those_of_all_others() {
    let mut desk = Desk::new();
    let with = |client, uuid, names: &[&str]| {
        let mut join = new_member(client, uuid);
        join.protocols = protocols(names);
        join
    };
    assert_eq!(desk.ask(1, Request::Join(with("a", 1, &["range", "sticky"]))), []);
    assert_eq!(desk.ask(2, Request::Join(with("b", 2, &["rr", "sticky"]))), []);
    assert_eq!(
        desk.ask(3, Request::Join(with("c", 3, &["range", "rr"]))),
        [refused(3, GroupError::InconsistentGroupProtocol)],
        "each is supported by one of two"
    );
    let mut other = with("d", 4, &["sticky"]);
    other.protocol_type = "connect".into();
    assert_eq!(desk.ask(4, Request::Join(other)), [refused(4, GroupError::InconsistentGroupProtocol)]);
    desk.wait(3);
    let joined = told(desk.wait(3));
    assert!(joined.iter().all(|(_, joined)| &*joined.protocol == "sticky"), "the only one that both support");
    let alone = with("", 0, &["rr"]);
    let again = JoinGroup { member_id: id("b", 2).into(), ..alone };
    assert_eq!(desk.ask(5, Request::Join(again)), [refused(5, GroupError::InconsistentGroupProtocol)]);
}

#[test]
fn the_protocol_is_the_favourite_of_most_and_of_several_that_of_the_oldest_member() {
    let choose = |lists: &[&[&str]]| {
        let mut desk = Desk::new();
        for (index, names) in lists.iter().enumerate() {
            let mut join = new_member("a", index as u8);
            join.protocols = protocols(names);
            assert_eq!(desk.ask(index as u64, Request::Join(join)), []);
        }
        desk.wait(3);
        told(desk.wait(3))[0].1.protocol.clone()
    };
    assert_eq!(&*choose(&[&["x", "y"], &["y", "x"], &["y", "x"]]), "y");
    assert_eq!(&*choose(&[&["y", "x"], &["x", "y"]]), "y", "one vote each");
    assert_eq!(&*choose(&[&["z", "x", "y"], &["y", "x"], &["y", "x"]]), "y", "the favourite of one is no candidate");
}

#[test]
fn a_group_that_became_empty_may_speak_another_protocol() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask(1, join("a", 1)), []);
    assert_eq!(told(desk.wait(3)).len(), 1);
    assert_eq!(append(&desk.ask(2, leave(&[(&id("a", 1), None)]))), (0, 1));
    assert_eq!(desk.appended(0, 1), [left(2, &[Ok(())])]);
    let mut other = new_member("b", 2);
    other.protocol_type = "connect".into();
    assert_eq!(desk.ask(3, Request::Join(other)), []);
    let joined = told(desk.wait(3));
    assert_eq!((&*joined[0].1.protocol_type, joined[0].1.generation), ("connect", Generation(3)));
}

#[test]
fn the_first_member_leads_and_alone_is_told_of_all() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask(1, join("b", 1)), []);
    assert_eq!(desk.ask(2, join("a", 2)), []);
    desk.wait(3);
    let joined = told(desk.wait(3));
    let of = |token| &joined.iter().find(|(answered, _)| *answered == token).unwrap().1;
    let listed: Vec<_> = of(1).members.iter().map(|member| &*member.member_id).collect();
    assert_eq!(listed, [id("b", 1), id("a", 2)], "by seniority");
    assert_eq!((&of(2).members.len(), &*of(2).leader), (&0, &*id("b", 1)));
}

#[test]
fn a_leader_that_does_not_join_again_is_followed_by_the_oldest_that_does() {
    let mut desk = Desk::stable();
    assert_eq!(desk.ask(5, join("c", 3)), []);
    assert_eq!(desk.ask(6, join_again(&id("b", 2))), []);
    // Heartbeats keep the leader alive, but it does not join.
    for token in 0..4 {
        desk.seconds += 7;
        let error = GroupError::RebalanceInProgress;
        assert_eq!(desk.ask(token, heartbeat(&id("a", 1), 1)), [refused(token, error)]);
        assert_eq!(desk.tell(Event::Tick), []);
    }
    let joined = told(desk.wait(2));
    assert_eq!(joined.len(), 2);
    assert!(joined.iter().all(|(_, joined)| *joined.leader == *id("b", 2) && joined.generation == Generation(2)));
    assert_eq!(desk.ask(9, heartbeat(&id("a", 1), 1)), [refused(9, GroupError::UnknownMemberId)]);
}

#[test]
fn a_follower_that_joins_again_unchanged_is_told_what_holds() {
    let mut desk = Desk::stable();
    let joined = told(desk.ask(5, join_again(&id("b", 2))));
    assert_eq!((joined[0].1.generation, joined[0].1.members.len()), (Generation(1), 0));
    assert_eq!(desk.state(), GroupState::Stable);
    assert_eq!(desk.ask(6, sync(&id("b", 2), 1, &[])), [synced(6, b"B")]);
    let mut changed = new_member("", 0);
    changed.member_id = id("b", 2).into();
    changed.protocols[0].metadata = Arc::new([]);
    assert_eq!(desk.ask(7, Request::Join(changed)), []);
    assert_eq!(desk.state(), GroupState::PreparingRebalance);
}

#[test]
fn a_leader_that_joins_again_asks_for_a_rebalance() {
    let mut desk = Desk::stable();
    assert_eq!(desk.ask(5, join_again(&id("a", 1))), []);
    assert_eq!((desk.state(), desk.due_in()), (GroupState::PreparingRebalance, Some(10)));
    assert_eq!(desk.ask(6, heartbeat(&id("b", 2), 1)), [refused(6, GroupError::RebalanceInProgress)]);
    assert_eq!(told(desk.ask(7, join_again(&id("b", 2)))).len(), 2);
}

/// The answer to a join may be lost, so the client asks again.
#[test]
fn a_member_that_joins_again_before_the_assignment_gets_the_answer_again_unless_it_changed() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask(1, join("a", 1)), []);
    let first = told(desk.wait(3))[0].1.clone();
    assert_eq!(told(desk.ask(2, join_again(&id("a", 1)))), [(2, first)]);
    let mut changed = new_member("", 0);
    changed.member_id = id("a", 1).into();
    changed.protocols = protocols(&["range", "sticky"]);
    assert_eq!(told(desk.ask(3, Request::Join(changed)))[0].1.generation, Generation(2));
}

#[test]
fn a_join_that_is_asked_for_twice_is_answered_twice() {
    let mut desk = Desk::stable();
    assert_eq!(desk.ask(5, join_again(&id("a", 1))), []);
    assert_eq!(desk.ask(6, join_again(&id("a", 1))), [refused(5, GroupError::RebalanceInProgress)]);
}

fn static_group() -> Desk {
    let mut desk = Desk::new();
    assert_eq!(desk.ask(1, Request::Join(static_member("s", 1))), []);
    assert_eq!(desk.ask(2, join("b", 2)), []);
    desk.wait(3);
    assert_eq!(told(desk.wait(3)).len(), 2);
    let (s, b) = (id("s", 1), id("b", 2));
    assert_eq!(desk.ask(3, sync(&b, 1, &[])), []);
    assert_eq!(append(&desk.ask(4, sync(&s, 1, &[(&s, b"S"), (&b, b"B")]))), (0, 1));
    assert_eq!(desk.appended(0, 1).len(), 2);
    desk
}

/// KIP-345.
#[test]
fn a_static_member_that_comes_back_keeps_what_it_has_and_nobody_else_notices() {
    let mut desk = static_group();
    assert_eq!(append(&desk.ask(5, Request::Join(static_member("s", 9)))), (1, 1));
    assert_eq!(desk.ask(6, heartbeat(&id("s", 1), 1)), [], "what holds is known once it is stored");
    let actions = answers(desk.appended(1, 1));
    let [(5, Ok(Answer::Joined(joined))), (6, Err(GroupError::UnknownMemberId))] = &actions[..] else {
        panic!("{actions:?}");
    };
    assert_eq!((&*joined.member_id, joined.generation), (&*id("s", 9), Generation(1)));
    assert_eq!((joined.leader == joined.member_id, joined.skip_assignment, joined.members.len()), (true, true, 2));
    assert_eq!(desk.state(), GroupState::Stable);
    assert_eq!(desk.ask(7, sync(&id("s", 9), 1, &[])), [synced(7, b"S")]);
    let mut old = caller(&id("s", 1), 1);
    old.instance_id = Some("s".into());
    let fenced = Request::Heartbeat(Heartbeat { group: "g".into(), caller: old.clone() });
    assert_eq!(desk.ask(8, fenced), [refused(8, GroupError::FencedInstanceId)]);
    let fenced = Request::CommitOffsets(commit(old, "read", 1));
    assert_eq!(desk.ask(9, fenced), [refused(9, GroupError::FencedInstanceId)]);
    let mut again = static_member("s", 0);
    again.member_id = id("s", 1).into();
    assert_eq!(desk.ask(10, Request::Join(again)), [refused(10, GroupError::FencedInstanceId)]);
    let mut unknown = static_member("t", 0);
    unknown.member_id = id("s", 9).into();
    assert_eq!(desk.ask(11, Request::Join(unknown)), [refused(11, GroupError::UnknownMemberId)]);
}

#[test]
fn a_leader_that_comes_back_and_cannot_skip_the_assignment_is_not_told_that_it_leads() {
    let mut desk = static_group();
    let mut old_client = static_member("s", 9);
    old_client.can_skip_assignment = false;
    assert_eq!(append(&desk.ask(5, Request::Join(old_client))), (1, 1));
    let joined = told(desk.appended(1, 1)).remove(0).1;
    assert_eq!((&*joined.leader, joined.skip_assignment, joined.members.len()), (&*id("s", 1), false, 0));
}

#[test]
fn a_static_member_that_could_not_be_stored_did_not_come_back() {
    let mut desk = static_group();
    let before = desk.coordinator.folded().1["g"].cloned();
    assert_eq!(append(&desk.ask(5, Request::Join(static_member("s", 9)))), (1, 1));
    assert_eq!(desk.failed(1), [refused(5, GroupError::CoordinatorNotAvailable)]);
    assert_eq!(desk.ask(6, heartbeat(&id("s", 1), 1)), [alive(6)]);
    assert_eq!(desk.coordinator.folded().1["g"].cloned(), before);
}

#[test]
fn a_static_member_that_changes_the_protocol_or_comes_amid_a_rebalance_leads_to_the_next_one() {
    let mut desk = static_group();
    let mut changed = static_member("s", 9);
    changed.protocols = protocols(&["sticky", "range"]);
    assert_eq!(append(&desk.ask(5, Request::Join(changed))), (1, 1), "the other supports one only");

    let mut desk = static_group();
    assert_eq!(desk.ask(5, leave(&[(&id("b", 2), None)])), [left(5, &[Ok(())])]);
    let mut changed = static_member("s", 8);
    changed.protocols = protocols(&["sticky", "range"]);
    let joined = told(desk.ask(6, Request::Join(changed.clone())));
    assert_eq!((joined[0].1.generation, &*joined[0].1.protocol), (Generation(2), "sticky"));
    assert_eq!(desk.ask(7, sync(&id("s", 8), 2, &[])).len(), 1);
    desk.appended(1, 1);
    (changed.uuid, changed.protocols) = (7, protocols(&["range"]));
    let joined = told(desk.ask(8, Request::Join(changed)));
    assert_eq!((joined[0].1.generation, &*joined[0].1.protocol), (Generation(3), "range"));
    // While the leader is to assign: it may do so for who is gone.
    let joined = told(desk.ask(9, Request::Join(static_member("s", 6))));
    assert_eq!(joined[0].1.generation, Generation(4));
}

#[test]
fn what_a_static_member_waited_for_is_fenced_when_another_takes_its_place() {
    let mut desk = static_group();
    let mut again = static_member("s", 0);
    again.member_id = id("s", 1).into();
    assert_eq!(desk.ask(5, Request::Join(again)), []);
    assert_eq!(desk.ask(6, Request::Join(static_member("s", 9))), [refused(5, GroupError::FencedInstanceId)]);
    let joined = told(desk.ask(7, join_again(&id("b", 2))));
    assert_eq!(joined.len(), 2);
    let mut sync_of_s = match sync(&id("s", 9), 2, &[]) {
        Request::Sync(sync) => sync,
        _ => unreachable!(),
    };
    sync_of_s.assignments.clear();
    assert_eq!(desk.ask(8, sync(&id("b", 2), 2, &[])), []);
    let actions = desk.ask(9, Request::Join(static_member("s", 10)));
    assert_eq!(actions, [refused(8, GroupError::RebalanceInProgress)], "all join again");
}

/// Its observer hears of it, and need not of members that a new group waits for.
#[test]
fn a_group_that_was_stable_and_rebalances_is_told_of_once() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask(1, join("a", 1)), []);
    assert!(desk.coordinator.take_rebalancing().is_empty(), "it is new");
    let mut desk = Desk::stable();
    desk.coordinator.take_rebalancing();
    assert_eq!(desk.ask(5, join("c", 3)), []);
    assert_eq!(desk.ask(6, join_again(&id("a", 1))), []);
    assert_eq!(desk.coordinator.take_rebalancing().into_iter().collect::<Vec<_>>(), ["g".into()]);
    assert_eq!(told(desk.ask(7, join_again(&id("b", 2)))).len(), 3);
    assert!(desk.coordinator.take_rebalancing().is_empty(), "once");
}
