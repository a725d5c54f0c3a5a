//! What is removed: by request, by age. And what is told of groups.

use super::*;
use crate::types::{ProducerEpoch, ProducerId};

const DAY: u64 = 24 * 60 * 60;

impl Desk {
    fn committed(&mut self, topic: &str) {
        self.committed_by(Caller::none(), topic);
    }

    fn committed_by(&mut self, caller: Caller, topic: &str) {
        let (number, count) = append(&self.ask(0, Request::CommitOffsets(commit(caller, topic, 1))));
        assert_eq!(self.appended(number, count as u64), [committed(0)]);
    }

    fn expire(&mut self) -> Vec<Action> {
        self.tell(Event::ExpireOffsets)
    }

    fn delete_offset(&mut self, topic: &str) -> Vec<Action> {
        let delete = OffsetDelete { group: "g".into(), partitions: vec![(topic.into(), 0)] };
        self.ask(50, Request::DeleteOffsets(delete))
    }

    fn delete_group(&mut self) -> Vec<Action> {
        self.ask(60, Request::DeleteGroup { group: "g".into() })
    }

    fn list(&mut self, states: &[GroupState]) -> Vec<ListedGroup> {
        match self.ask(0, Request::List(ListGroups { states: states.to_vec() })).pop() {
            Some(Action::Answer { answer: Ok(Answer::Groups(groups)), .. }) => groups,
            other => panic!("{other:?}"),
        }
    }

    /// Both members of the stable group leave.
    fn emptied() -> Self {
        let mut desk = Self::stable();
        let (number, _) = append(&desk.ask(5, leave(&[(&id("a", 1), None), (&id("b", 2), None)])));
        assert_eq!(desk.appended(number, 1).len(), 1);
        desk
    }
}

fn deleted() -> Action {
    answer(60, Ok(Answer::GroupDeleted))
}

#[test]
fn a_group_without_members_is_deleted_with_its_offsets() {
    let mut desk = Desk::new();
    assert_eq!(desk.delete_group(), [refused(60, GroupError::GroupIdNotFound)]);
    let mut desk = Desk::stable();
    assert_eq!(desk.delete_group(), [refused(60, GroupError::NonEmptyGroup)]);
    let mut desk = Desk::emptied();
    desk.committed("t");
    let (number, count) = append(&desk.delete_group());
    assert_eq!(count, 2, "its offset and itself");
    assert_eq!(desk.list(&[])[0].state, Some(GroupState::Dead));
    assert_eq!(desk.ask(6, join("c", 3)), [refused(6, GroupError::CoordinatorNotAvailable)]);
    assert_eq!(desk.ask(7, heartbeat("who", 1)), [refused(7, GroupError::CoordinatorNotAvailable)]);
    assert_eq!(desk.ask(8, sync("who", 1, &[])), [refused(8, GroupError::CoordinatorNotAvailable)]);
    assert_eq!(desk.ask(9, leave(&[])), [refused(9, GroupError::CoordinatorNotAvailable)]);
    let late = Request::CommitOffsets(commit(Caller::none(), "t", 1));
    assert_eq!(desk.ask(10, late), [refused(10, GroupError::CoordinatorNotAvailable)]);
    assert_eq!(desk.delete_offset("t"), [refused(50, GroupError::GroupIdNotFound)]);
    assert_eq!(desk.delete_group(), [refused(60, GroupError::GroupIdNotFound)]);
    assert_eq!(desk.describe().state, Some(GroupState::Dead));
    assert_eq!(desk.appended(number, 2), [deleted()]);
    assert_eq!(desk.list(&[]), []);
    assert_eq!(desk.coordinator.folded().1.len(), 0);
}

#[test]
fn a_group_whose_deletion_could_not_be_stored_is_there() {
    let mut desk = Desk::emptied();
    let (number, _) = append(&desk.delete_group());
    assert_eq!(desk.failed(number), [refused(60, GroupError::CoordinatorNotAvailable)]);
    assert_eq!(desk.state(), GroupState::Empty);
}

/// What a transaction is about to commit, and what is being appended, would come back.
#[test]
fn a_deleted_group_does_not_come_back_from_what_is_under_way() {
    let mut desk = Desk::new();
    let transaction = Some(TransactionProducer { id: ProducerId(7), epoch: ProducerEpoch(0) });
    let in_transaction = OffsetCommit { transaction, ..commit(Caller::none(), "t", 1) };
    let (number, _) = append(&desk.ask(0, Request::CommitOffsets(in_transaction)));
    assert_eq!(desk.appended(number, 1), [committed(0)]);
    append(&desk.ask(1, Request::CommitOffsets(commit(Caller::none(), "u", 1))));
    let (number, count) = append(&desk.delete_group());
    assert_eq!(count, 2);
    assert_eq!(desk.appended(1, 1), [committed(1)]);
    assert_eq!(desk.appended(number, 2), [deleted()]);
    desk.coordinator.end_transaction(ProducerId(7), true);
    assert_eq!(desk.list(&[]), []);
}

/// A batch has a limit, and a group may have more offsets than fit.
#[test]
fn many_offsets_are_deleted_in_several_batches_and_answered_once() {
    let mut desk = Desk::new();
    let topic = "x".repeat(10_000);
    let offset = |partition| OffsetToCommit { partition, ..to_commit(&topic, 1) };
    let request = OffsetCommit { offsets: (0..60).map(offset).collect(), ..commit(Caller::none(), "", 1) };
    let (number, _) = append(&desk.ask(0, Request::CommitOffsets(request)));
    assert_eq!(desk.appended(number, 60).len(), 1);
    let mut actions = desk.delete_group();
    let mut counts = Vec::new();
    while let [Action::Append { number, records, .. }] = &actions[..] {
        counts.push(records.len());
        actions = desk.appended(*number, records.len() as u64);
    }
    assert_eq!((counts, actions), (vec![26, 26, 8], vec![deleted()]));

    let mut desk = Desk::new();
    let request = OffsetCommit { offsets: (0..60).map(offset).collect(), ..commit(Caller::none(), "", 1) };
    let (number, _) = append(&desk.ask(0, Request::CommitOffsets(request)));
    assert_eq!(desk.appended(number, 60).len(), 1);
    append(&desk.delete_group());
    append(&desk.appended(1, 26));
    assert_eq!(desk.failed(2), [refused(60, GroupError::CoordinatorNotAvailable)], "deleted in part");
    assert_eq!(append(&desk.delete_group()), (3, 26));
}

#[test]
fn offsets_of_topics_that_members_read_are_not_deleted() {
    let mut desk = Desk::new();
    assert_eq!(desk.delete_offset("t"), [refused(50, GroupError::GroupIdNotFound)]);
    let mut desk = Desk::stable();
    desk.committed_by(caller(&id("a", 1), 1), "read");
    desk.committed_by(caller(&id("a", 1), 1), "other");
    let subscribed = Answer::OffsetsDeleted(vec![Err(GroupError::GroupSubscribedToTopic)]);
    assert_eq!(desk.delete_offset("read"), [answer(50, Ok(subscribed))]);
    let done = || answer(50, Ok(Answer::OffsetsDeleted(vec![Ok(())])));
    let (number, count) = append(&desk.delete_offset("other"));
    assert_eq!((count, desk.appended(number, 1)), (1, vec![done()]));
    assert_eq!(desk.delete_offset("other"), [done()], "there is none");
    let mut desk = Desk::emptied();
    desk.committed("read");
    append(&desk.delete_offset("read"));
}

#[test]
fn offsets_of_members_whose_subscriptions_mean_nothing_here_stay_while_there_are_any() {
    let mut desk = Desk::new();
    let mut other = new_member("a", 1);
    other.protocol_type = "connect".into();
    assert_eq!(desk.ask(1, Request::Join(other)), []);
    assert_eq!(told(desk.wait(3)).len(), 1);
    assert_eq!(desk.delete_offset("t"), [refused(50, GroupError::NonEmptyGroup)]);
    // Consumers of which one says what nobody understands.
    let mut desk = Desk::new();
    let mut strange = new_member("a", 1);
    strange.protocols[0].metadata = Arc::new([1]);
    assert_eq!(desk.ask(1, Request::Join(strange)), []);
    assert_eq!(told(desk.wait(3)).len(), 1);
    let subscribed = Answer::OffsetsDeleted(vec![Err(GroupError::GroupSubscribedToTopic)]);
    assert_eq!(desk.delete_offset("t"), [answer(50, Ok(subscribed))]);
}

#[test]
fn a_deleted_topic_is_forgotten_by_all_groups() {
    let mut desk = Desk::new();
    for group in ["g", "h"] {
        let request = OffsetCommit { group: group.into(), ..commit(Caller::none(), "t", 1) };
        let (number, _) = append(&desk.ask(0, Request::CommitOffsets(request)));
        desk.appended(number, 1);
    }
    append(&desk.ask(1, Request::CommitOffsets(commit(Caller::none(), "t", 2))));
    let (number, count) = append(&desk.ask(2, Request::ForgetTopic { topic: "t".into() }));
    assert_eq!(count, 2);
    desk.appended(2, 1);
    assert_eq!(desk.appended(number, 2), [answer(2, Ok(Answer::TopicForgotten))]);
    assert_eq!(desk.list(&[]), []);
    assert_eq!(desk.ask(3, Request::ForgetTopic { topic: "t".into() }), [answer(3, Ok(Answer::TopicForgotten))]);
}

fn expired(count: usize) -> Action {
    Action::Expired { group: "g".into(), count }
}

#[test]
fn offsets_of_who_never_had_members_expire_one_retention_after_their_commit() {
    let mut desk = Desk::new();
    desk.committed("t");
    desk.seconds += 7 * DAY - 1;
    assert_eq!(desk.expire(), []);
    desk.committed("u");
    desk.seconds += 1;
    let (number, count) = append(&desk.expire());
    assert_eq!((count, desk.appended(number, 1)), (1, vec![expired(1)]));
    assert_eq!(desk.list(&[]).len(), 1, "one is left");
    assert_eq!(desk.expire(), []);
}

/// Before KIP-211 they counted from the commit, and a group that only waited began anew.
#[test]
fn offsets_of_a_group_that_is_empty_expire_one_retention_after_it_became_so() {
    let mut desk = Desk::stable();
    desk.committed_by(caller(&id("a", 1), 1), "read");
    desk.seconds += 6 * DAY;
    for member in [id("a", 1), id("b", 2)] {
        assert_eq!(desk.ask(5, heartbeat(&member, 1)), [alive(5)]);
    }
    let (number, _) = append(&desk.ask(5, leave(&[(&id("a", 1), None), (&id("b", 2), None)])));
    desk.appended(number, 1);
    desk.seconds += 7 * DAY - 1;
    assert_eq!(desk.expire(), []);
    desk.seconds += 1;
    let (number, count) = append(&desk.expire());
    assert_eq!(count, 2, "the group goes with its last offset");
    assert_eq!(desk.list(&[])[0].state, Some(GroupState::Dead));
    assert_eq!(desk.appended(number, 2), [expired(1)]);
    assert_eq!(desk.list(&[]), []);
}

/// A broker removes what was set by hand in a group that is empty for long, minutes after.
#[test]
fn an_offset_that_is_committed_to_a_group_that_is_empty_for_long_stays_as_long_as_any() {
    let mut desk = Desk::emptied();
    desk.committed("t");
    desk.seconds += 8 * DAY;
    desk.committed("u");
    assert_eq!(append(&desk.expire()).1, 1, "the first alone");
}

#[test]
fn of_a_stable_group_only_offsets_of_topics_that_nobody_reads_expire() {
    let mut desk = Desk::stable();
    desk.committed_by(caller(&id("a", 1), 1), "read");
    desk.committed_by(caller(&id("a", 1), 1), "other");
    desk.seconds += 8 * DAY;
    for member in [id("a", 1), id("b", 2)] {
        assert_eq!(desk.ask(5, heartbeat(&member, 1)), [alive(5)]);
    }
    let (number, count) = append(&desk.expire());
    assert_eq!((count, desk.appended(number, 1)), (1, vec![expired(1)]));
    assert_eq!(desk.expire(), []);
    assert_eq!(desk.delete_offset("other"), [answer(50, Ok(Answer::OffsetsDeleted(vec![Ok(())])))], "it is gone");
}

#[test]
fn while_a_group_rebalances_nothing_expires() {
    let mut desk = Desk::stable();
    desk.committed_by(caller(&id("a", 1), 1), "other");
    desk.seconds += 8 * DAY;
    assert_eq!(desk.ask(5, join_again(&id("a", 1))), []);
    assert_eq!(desk.expire(), []);
}

#[test]
fn what_is_about_to_be_replaced_does_not_expire() {
    let mut desk = Desk::new();
    desk.committed("t");
    desk.seconds += 8 * DAY;
    append(&desk.ask(1, Request::CommitOffsets(commit(Caller::none(), "t", 2))));
    assert_eq!(desk.expire(), [], "a tombstone would come behind the commit");
    assert_eq!(desk.appended(1, 1), [committed(1)]);
    desk.seconds += 8 * DAY;
    let transaction = Some(TransactionProducer { id: ProducerId(7), epoch: ProducerEpoch(0) });
    let request = OffsetCommit { transaction, ..commit(Caller::none(), "t", 3) };
    append(&desk.ask(2, Request::CommitOffsets(request)));
    assert_eq!(desk.appended(2, 1), [committed(2)]);
    assert_eq!(desk.expire(), []);
    desk.coordinator.end_transaction(ProducerId(7), false);
    assert_eq!(append(&desk.expire()), (3, 1));
}

/// It would be there again, without what it was.
#[test]
fn a_group_is_not_forgotten_while_it_is_committed_to() {
    let mut desk = Desk::emptied();
    desk.committed("t");
    desk.seconds += 8 * DAY;
    append(&desk.ask(1, Request::CommitOffsets(commit(Caller::none(), "u", 1))));
    let (number, count) = append(&desk.expire());
    assert_eq!(count, 1, "the offset that is due, alone");
    desk.appended(number - 1, 1);
    assert_eq!(desk.appended(number, 1), [expired(1)]);
    assert_eq!(desk.state(), GroupState::Empty);
    desk.seconds += 8 * DAY;
    assert_eq!(append(&desk.expire()).1, 2, "now it goes with its last offset");
}

#[test]
fn an_empty_group_without_offsets_is_forgotten_unless_somebody_is_about_to_join() {
    let mut desk = Desk::emptied();
    let mut third = new_member("c", 3);
    third.needs_member_id = true;
    assert_eq!(answers(desk.ask(6, Request::Join(third))).len(), 1);
    assert_eq!(desk.expire(), []);
    assert_eq!(desk.wait(10), []);
    let (number, count) = append(&desk.expire());
    assert_eq!((count, desk.appended(number, 1)), (1, vec![]));
    assert_eq!(desk.list(&[]), []);
}

#[test]
fn groups_are_listed_by_state() {
    let mut desk = Desk::stable();
    let request = OffsetCommit { group: "alone".into(), ..commit(Caller::none(), "t", 1) };
    let (number, _) = append(&desk.ask(1, Request::CommitOffsets(request)));
    desk.appended(number, 1);
    let group = |group: &str, protocol_type: &str, state| ListedGroup {
        group: group.into(),
        protocol_type: protocol_type.into(),
        state: Some(state),
    };
    let (alone, g) = (group("alone", "", GroupState::Empty), group("g", "consumer", GroupState::Stable));
    assert_eq!(desk.list(&[]), [alone.clone(), g.clone()]);
    assert_eq!(desk.list(&[GroupState::Stable, GroupState::Dead]), [g]);
    assert_eq!(desk.list(&[GroupState::Empty]), [alone]);
    assert_eq!(desk.list(&[GroupState::PreparingRebalance]), []);
}

#[test]
fn a_group_is_described_with_what_its_members_have_if_it_is_stable() {
    let mut desk = Desk::stable();
    let described = desk.describe();
    assert_eq!((described.state, described.generation), (Some(GroupState::Stable), Generation(1)));
    assert_eq!((&*described.protocol_type, &*described.protocol), ("consumer", "range"));
    let b = DescribedMember {
        member_id: id("b", 2).into(),
        instance_id: None,
        client_id: "b".into(),
        client_host: "here".into(),
        metadata: Arc::clone(&protocols(&["range"])[0].metadata),
        assignment: (*b"B").into(),
    };
    assert_eq!(described.members[1], b);
    assert_eq!(desk.ask(5, join_again(&id("a", 1))), []);
    let described = desk.describe();
    assert_eq!((described.state, &*described.protocol), (Some(GroupState::PreparingRebalance), ""));
    let nothing = DescribedMember { metadata: Arc::default(), assignment: Arc::default(), ..b };
    assert_eq!(described.members[1], nothing);
    assert_eq!(desk.ask(6, Request::Describe { group: "h".into() }), [refused(6, GroupError::GroupIdNotFound)]);
}
