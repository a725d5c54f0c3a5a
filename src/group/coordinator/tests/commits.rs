//! Who may commit, and what is told of it.

use super::*;
use crate::types::{ProducerEpoch, ProducerId};

const PRODUCER: TransactionProducer = TransactionProducer { id: ProducerId(7), epoch: ProducerEpoch(3) };

impl Desk {
    fn commit(&mut self, token: u64, commit: OffsetCommit) -> Vec<Action> {
        self.ask(token, Request::CommitOffsets(commit))
    }

    fn fetch(&self, partitions: Option<&[(&str, u32)]>, require_stable: bool) -> Vec<FetchedOffset> {
        let partitions =
            partitions.map(|all| all.iter().map(|(topic, partition)| ((*topic).into(), *partition)).collect());
        let fetch = OffsetFetch { group: "g".into(), partitions, require_stable };
        match self.clone().ask(0, Request::FetchOffsets(fetch)).pop() {
            Some(Action::Answer { answer: Ok(Answer::Offsets(offsets)), .. }) => offsets,
            other => panic!("{other:?}"),
        }
    }

    /// The offset of the partition that tests commit; none if there is none.
    fn offset(&self, topic: &str) -> Option<u64> {
        self.fetch(Some(&[(topic, 0)]), false)[0].committed.clone().unwrap().map(|committed| committed.offset.0)
    }
}

#[test]
fn who_is_no_member_commits_while_there_are_none() {
    let mut desk = Desk::new();
    assert_eq!(desk.offset("t"), None);
    assert_eq!(append(&desk.commit(1, commit(Caller::none(), "t", 5))), (0, 1));
    assert_eq!(desk.offset("t"), None, "not in the log yet");
    assert_eq!(desk.appended(0, 1), [committed(1)]);
    assert_eq!((desk.offset("t"), desk.state()), (Some(5), GroupState::Empty));
    assert_eq!(append(&desk.commit(2, commit(Caller::none(), "t", 3))), (1, 1));
    assert_eq!(desk.appended(1, 1), [committed(2)]);
    assert_eq!(desk.offset("t"), Some(3), "it may go back");
    assert_eq!(append(&desk.commit(3, commit(Caller::none(), "t", 9))), (2, 1));
    assert_eq!(desk.failed(2), [refused(3, GroupError::CoordinatorNotAvailable)]);
    assert_eq!(desk.offset("t"), Some(3));
}

#[test]
fn a_commit_to_a_group_that_is_not_there_has_no_generation() {
    let mut desk = Desk::new();
    let who = commit(caller("who", 1), "t", 5);
    assert_eq!(desk.commit(1, who.clone()), [refused(1, GroupError::GroupIdNotFound)]);
    let in_transaction = OffsetCommit { transaction: Some(PRODUCER), ..who };
    assert_eq!(desk.commit(2, in_transaction), [refused(2, GroupError::IllegalGeneration)]);
    assert_eq!(append(&desk.commit(3, commit(caller("who", -1), "t", 5))), (0, 1), "else it is somebody by itself");
    desk.appended(0, 1);
    assert_eq!(desk.commit(4, commit(caller("who", 1), "t", 6)), [refused(4, GroupError::UnknownMemberId)]);
}

#[test]
fn a_commit_to_a_group_with_members_is_checked() {
    let mut desk = Desk::stable();
    let ask = |desk: &mut Desk, caller: Caller| desk.commit(5, commit(caller, "t", 1));
    assert_eq!(ask(&mut desk, Caller::none()), [refused(5, GroupError::UnknownMemberId)]);
    assert_eq!(ask(&mut desk, caller("who", 1)), [refused(5, GroupError::UnknownMemberId)]);
    assert_eq!(ask(&mut desk, caller(&id("a", 1), 0)), [refused(5, GroupError::IllegalGeneration)]);
    assert_eq!(ask(&mut desk, caller(&id("a", 1), 2)), [refused(5, GroupError::IllegalGeneration)]);
    assert_eq!(ask(&mut desk, caller(&id("a", 1), -1)), [refused(5, GroupError::IllegalGeneration)]);
    let instance = Caller { instance_id: Some("s".into()), ..Caller::none() };
    assert_eq!(ask(&mut desk, instance), [refused(5, GroupError::UnknownMemberId)]);
    let (number, _) = append(&ask(&mut desk, caller(&id("a", 1), 1)));
    assert_eq!(desk.appended(number, 1), [committed(5)]);
}

/// KIP-429: what a member keeps in a rebalance, it goes on with until it joins.
#[test]
fn a_member_commits_while_the_others_join_and_not_while_the_leader_is_to_assign() {
    let mut desk = Desk::stable();
    assert_eq!(desk.ask(5, join("c", 3)), []);
    let (number, _) = append(&desk.commit(6, commit(caller(&id("a", 1), 1), "t", 1)));
    assert_eq!(desk.appended(number, 1), [committed(6)]);
    assert_eq!(desk.ask(7, join_again(&id("a", 1))), []);
    assert_eq!(told(desk.ask(8, join_again(&id("b", 2)))).len(), 3);
    let current = commit(caller(&id("a", 1), 2), "t", 2);
    assert_eq!(desk.commit(9, current.clone()), [refused(9, GroupError::RebalanceInProgress)]);
    assert_eq!(desk.commit(10, commit(caller(&id("a", 1), 1), "t", 2)), [refused(10, GroupError::IllegalGeneration)]);
    append(&desk.commit(11, OffsetCommit { transaction: Some(PRODUCER), ..current }));
}

#[test]
fn a_commit_that_comes_while_an_assignment_is_stored_is_judged_by_what_comes_of_it() {
    let mut desk = Desk::stable();
    assert_eq!(desk.ask(5, join_again(&id("a", 1))), []);
    assert_eq!(told(desk.ask(6, join_again(&id("b", 2)))).len(), 2);
    let (number, _) = append(&desk.ask(7, sync(&id("a", 1), 2, &[])));
    assert_eq!(desk.commit(8, commit(caller(&id("b", 2), 2), "t", 2)), []);
    let actions = desk.appended(number, 1);
    assert!(matches!(actions[..], [Action::Answer { token: Token(7), .. }, Action::Append { .. }]), "{actions:?}");
}

#[test]
fn what_is_too_long_does_not_keep_the_rest_from_being_committed() {
    let mut desk = Desk::new();
    let mut request = commit(Caller::none(), "t", 1);
    let mut long = to_commit("u", 2);
    long.metadata = "x".repeat(4097).into();
    let mut wide = to_commit("v", 3);
    // Two UTF-16 units each.
    wide.metadata = "\u{1F600}".repeat(2048).into();
    let mut large = to_commit("w", 4);
    large.partition = 1 << 31;
    request.offsets.extend([long.clone(), wide, large]);
    assert_eq!(append(&desk.commit(1, request)), (0, 2));
    let done = vec![Ok(()), Err(GroupError::OffsetMetadataTooLarge), Ok(()), Err(GroupError::InvalidRequest)];
    assert_eq!(desk.appended(0, 2), [answer(1, Ok(Answer::Committed(done)))]);
    assert_eq!((desk.offset("t"), desk.offset("u"), desk.offset("v")), (Some(1), None, Some(3)));
    let nothing = OffsetCommit { offsets: vec![long], ..commit(Caller::none(), "t", 1) };
    let done = vec![Err(GroupError::OffsetMetadataTooLarge)];
    assert_eq!(desk.commit(2, nothing), [answer(2, Ok(Answer::Committed(done)))], "nothing to append");
}

#[test]
fn offsets_committed_in_a_transaction_count_once_it_is_committed() {
    let mut desk = Desk::new();
    append_and_report(&mut desk, commit(Caller::none(), "t", 1));
    let in_transaction = OffsetCommit { transaction: Some(PRODUCER), ..commit(Caller::none(), "t", 2) };
    let actions = desk.commit(2, in_transaction.clone());
    let [Action::Append { number, transaction: Some(PRODUCER), .. }] = actions[..] else { panic!("{actions:?}") };
    assert_eq!(desk.appended(number, 1), [committed(2)]);
    assert_eq!(desk.offset("t"), Some(1));
    let unstable = desk.fetch(Some(&[("t", 0), ("u", 0)]), true);
    assert_eq!(unstable[0].committed, Err(GroupError::UnstableOffsetCommit));
    assert_eq!(unstable[1].committed, Ok(None));
    desk.coordinator.end_transaction(PRODUCER.id, false);
    assert_eq!(desk.offset("t"), Some(1));
    append_and_report(&mut desk, in_transaction);
    // A commit above it in the log stays, whenever the transaction ends.
    append_and_report(&mut desk, commit(Caller::none(), "t", 3));
    desk.coordinator.end_transaction(PRODUCER.id, true);
    assert_eq!(desk.offset("t"), Some(3));
}

fn append_and_report(desk: &mut Desk, commit: OffsetCommit) {
    let (number, count) = append(&desk.commit(9, commit));
    assert_eq!(desk.appended(number, count as u64), [committed(9)]);
}

/// Who waits until all is stable would else take a partition for one without an offset, and begin anew.
#[test]
fn who_asks_for_all_stable_offsets_hears_of_those_that_are_only_in_a_transaction() {
    let mut desk = Desk::new();
    append_and_report(&mut desk, OffsetCommit { transaction: Some(PRODUCER), ..commit(Caller::none(), "t", 2) });
    assert_eq!(desk.fetch(None, false), []);
    let told = desk.fetch(None, true);
    assert_eq!((&*told[0].topic, &told[0].committed), ("t", &Err(GroupError::UnstableOffsetCommit)));
}

#[test]
fn the_end_of_a_transaction_takes_its_place_behind_what_is_not_reported_yet() {
    let mut desk = Desk::new();
    let (number, _) =
        append(&desk.commit(1, OffsetCommit { transaction: Some(PRODUCER), ..commit(Caller::none(), "t", 2) }));
    desk.coordinator.end_transaction(PRODUCER.id, true);
    assert_eq!(desk.offset("t"), None);
    assert_eq!(desk.appended(number, 1), [committed(1)]);
    assert_eq!(desk.offset("t"), Some(2));
}

#[test]
fn appends_take_effect_in_their_order_whatever_the_order_of_their_reports() {
    let mut desk = Desk::new();
    assert_eq!(append(&desk.commit(1, commit(Caller::none(), "t", 1))), (0, 1));
    assert_eq!(append(&desk.commit(2, commit(Caller::none(), "t", 2))), (1, 1));
    let delete = OffsetDelete { group: "g".into(), partitions: vec![("t".into(), 0)] };
    assert_eq!(append(&desk.ask(3, Request::DeleteOffsets(delete))), (2, 1), "of what is not even reported");
    assert_eq!(desk.tell(Event::Appended { number: 2, base: Offset(2) }), []);
    assert_eq!(desk.tell(Event::Appended { number: 1, base: Offset(1) }), []);
    let deleted = answer(3, Ok(Answer::OffsetsDeleted(vec![Ok(())])));
    assert_eq!(desk.tell(Event::Appended { number: 0, base: Offset(0) }), [committed(1), committed(2), deleted]);
    assert_eq!(desk.offset("t"), None);
    assert_eq!(desk.tell(Event::Appended { number: 0, base: Offset(0) }), [], "once is enough");
    assert_eq!(desk.failed(77), []);
}

#[test]
fn a_commit_may_say_how_long_it_holds() {
    let mut desk = Desk::new();
    let short = OffsetCommit { retention: Some(Duration::from_secs(60)), ..commit(Caller::none(), "t", 1) };
    append_and_report(&mut desk, short);
    desk.seconds += 59;
    assert_eq!(desk.tell(Event::ExpireOffsets), []);
    desk.seconds += 1;
    assert_eq!(append(&desk.tell(Event::ExpireOffsets)), (1, 1));
}
