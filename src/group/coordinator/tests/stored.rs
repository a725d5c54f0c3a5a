//! What is in the log: groups that are loaded, groups that are not understood, the end.

use super::*;
use crate::group::records::{GroupValue, group_key};
use crate::group::{GroupRecord, LogRecord};
use crate::wire::Invalid;

impl Desk {
    fn replay(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), Invalid> {
        let position = Offset(self.next_position);
        self.next_position += 1;
        self.coordinator.replay(LogRecord { position, key: Some(key), value, transaction: None })
    }

    fn stored(&self) -> Option<GroupValue> {
        self.coordinator.folded().1.get("g").copied().flatten().cloned()
    }

    /// The record that the last change of the only group wrote.
    fn record(&self) -> GroupRecord {
        GroupRecord { key: group_key("g").unwrap(), value: Some(self.stored().unwrap().encode().unwrap()) }
    }
}

#[test]
fn a_group_that_is_loaded_goes_on_where_it_was() {
    let before = Desk::stable();
    let GroupRecord { key, value } = before.record();
    let mut desk = Desk::new();
    assert_eq!(desk.replay(&key, value.as_deref()), Ok(()));
    assert_eq!(desk.coordinator.next_deadline(), Some(Duration::ZERO), "sessions are to begin");
    assert_eq!(desk.tell(Event::Tick), []);
    assert_eq!(desk.due_in(), Some(10));
    assert_eq!(desk.describe(), before.describe());
    assert_eq!(desk.ask(5, heartbeat(&id("a", 1), 1)), [alive(5)]);
    assert_eq!(desk.ask(6, sync(&id("b", 2), 1, &[])), [synced(6, b"B")]);
    assert_eq!(desk.ask(7, join_again(&id("b", 2))).len(), 1, "a follower, unchanged");
    assert_eq!(desk.ask(8, join("c", 3)), []);
    assert_eq!(desk.ask(9, join_again(&id("b", 2))), []);
    let joined = told(desk.ask(10, join_again(&id("a", 1))));
    assert_eq!((joined.len(), joined[0].1.generation), (3, Generation(2)));
    assert!(joined.iter().all(|(_, joined)| *joined.leader == *id("a", 1)));
}

#[test]
fn members_that_are_loaded_and_not_heard_of_are_out_after_their_session() {
    let GroupRecord { key, value } = Desk::stable().record();
    let mut desk = Desk::new();
    desk.replay(&key, value.as_deref()).unwrap();
    assert_eq!(desk.wait(1000), [], "sessions begin when they can");
    assert_eq!(append(&desk.wait(10)), (0, 1));
}

#[test]
fn a_group_that_is_loaded_and_too_large_rebalances() {
    let GroupRecord { key, value } = Desk::stable().record();
    let mut desk = Desk::with(GroupConfig::default().max_members(1));
    desk.replay(&key, value.as_deref()).unwrap();
    assert_eq!(desk.tell(Event::Tick), []);
    assert_eq!(desk.state(), GroupState::PreparingRebalance);
}

/// A rebalance is in memory alone. Whoever was in it has nothing yet, and joins again.
#[test]
fn a_crash_in_a_rebalance_returns_to_the_generation_before() {
    let mut desk = Desk::stable();
    let record = desk.record();
    assert_eq!(desk.ask(5, join_again(&id("a", 1))), []);
    assert_eq!(told(desk.ask(6, join_again(&id("b", 2)))).len(), 2);
    append(&desk.ask(7, sync(&id("a", 1), 2, &[])));
    assert_eq!(desk.record(), record);
    let mut after = Desk::new();
    after.replay(&record.key, record.value.as_deref()).unwrap();
    assert_eq!(after.ask(8, heartbeat(&id("a", 1), 2)), [refused(8, GroupError::IllegalGeneration)]);
}

#[test]
fn an_empty_group_that_is_loaded_keeps_its_generation() {
    let mut desk = Desk::stable();
    let (number, _) = append(&desk.ask(5, leave(&[(&id("a", 1), None), (&id("b", 2), None)])));
    desk.appended(number, 1);
    let GroupRecord { key, value } = desk.record();
    let mut desk = Desk::new();
    desk.replay(&key, value.as_deref()).unwrap();
    assert_eq!((desk.state(), desk.describe().generation), (GroupState::Empty, Generation(2)));
    assert_eq!(desk.ask(6, join("c", 3)), []);
    assert_eq!(told(desk.wait(3))[0].1.generation, Generation(3));
    desk.replay(&key, None).unwrap();
    assert_eq!(desk.coordinator.folded().1.len(), 0);
}

/// Another coordinator wrote, so this one is none.
#[test]
fn a_record_of_somebody_else_sends_away_who_waits() {
    let mut desk = Desk::stable();
    let GroupRecord { key, value } = desk.record();
    assert_eq!(desk.ask(5, join_again(&id("a", 1))), []);
    desk.replay(&key, value.as_deref()).unwrap();
    assert_eq!(desk.tell(Event::Tick), [refused(5, GroupError::NotCoordinator)]);
    assert_eq!((desk.state(), desk.due_in()), (GroupState::Stable, Some(10)));
}

#[test]
fn a_record_that_comes_while_one_is_awaited_counts_after_it() {
    let mut desk = Desk::new();
    append(&desk.ask(1, Request::CommitOffsets(commit(Caller::none(), "t", 1))));
    let tombstone = crate::group::records::offset_key("g", "t", 0).unwrap();
    desk.next_position = 1;
    assert_eq!(desk.replay(&tombstone, None), Ok(()));
    assert!(desk.replay(&[0], None).is_err(), "what is wrong with it is told at once");
    assert_eq!(desk.tell(Event::Appended { number: 0, base: Offset(0) }), [committed(1)]);
    assert_eq!(desk.ask(2, Request::Describe { group: "g".into() }), [refused(2, GroupError::GroupIdNotFound)]);
}

/// A newer broker's form of a group, and groups of other kinds: they are theirs.
#[test]
fn a_group_that_is_not_understood_is_kept_and_cannot_be_joined() {
    let newer = [0, 4, 9, b'c', b'o', b'n', b's', b'u', b'm', b'e', b'r'];
    let of_consumers = b"\0\x03\0\x01g";
    for (key, is_understood) in [(&group_key("g").unwrap()[..], false), (of_consumers, true)] {
        let mut desk = Desk::new();
        assert_eq!(desk.replay(key, Some(&newer)).is_ok(), is_understood);
        assert_eq!(desk.describe().state, None);
        assert_eq!(desk.ask(1, join("a", 1)), [refused(1, GroupError::InconsistentGroupProtocol)]);
        assert_eq!(desk.ask(2, heartbeat("who", 1)), [refused(2, GroupError::UnknownMemberId)]);
        let delete = Request::DeleteGroup { group: "g".into() };
        assert_eq!(desk.ask(3, delete.clone()), [refused(3, GroupError::NonEmptyGroup)]);
        let (number, _) = append(&desk.ask(4, Request::CommitOffsets(commit(Caller::none(), "t", 1))));
        assert_eq!(desk.appended(number, 1), [committed(4)], "nobody is there who could");
        desk.seconds += 1_000_000;
        assert_eq!(desk.tell(Event::ExpireOffsets), []);
        desk.replay(key, None).unwrap();
        append(&desk.ask(5, delete));
    }
}

#[test]
fn a_group_without_a_leader_or_with_one_that_is_no_member_is_led_by_the_first() {
    let mut value = Desk::stable().stored().unwrap();
    for leader in [None, Some("who".into())] {
        value.leader = leader;
        let mut desk = Desk::new();
        let key = group_key("g").unwrap();
        desk.replay(&key, value.encode().as_deref()).unwrap();
        desk.coordinator.start_sessions(desk.now());
        assert_eq!(desk.coordinator.groups["g"].group.leader.as_deref(), Some(&*id("a", 1)));
    }
}

#[test]
fn whoever_waits_is_sent_away_when_the_groups_go_elsewhere() {
    let mut desk = Desk::stable();
    assert_eq!(desk.ask(5, join_again(&id("a", 1))), []);
    let mut other = new_member("x", 9);
    other.group = "h".into();
    assert_eq!(desk.ask(6, Request::Join(other)), []);
    let elsewhere = |token| refused(token, GroupError::NotCoordinator);
    assert_eq!(desk.tell(Event::Resign), [elsewhere(5), elsewhere(6)]);
    assert_eq!(desk.ask(7, heartbeat(&id("b", 2), 1)), [elsewhere(7)]);
    assert_eq!(desk.ask(8, Request::List(ListGroups::default())), [elsewhere(8)]);
    assert_eq!(desk.due_in(), None);

    let mut desk = Desk::stable();
    let (number, _) = append(&desk.ask(5, leave(&[(&id("a", 1), None), (&id("b", 2), None)])));
    assert_eq!(desk.ask(6, heartbeat(&id("b", 2), 1)), []);
    assert_eq!(desk.tell(Event::Resign), [elsewhere(6)]);
    assert_eq!(desk.appended(number, 1), [left(5, &[Ok(()), Ok(())])], "what was written is told");
}

#[test]
fn each_error_has_the_number_that_kafka_gives_it() {
    use GroupError::*;
    let codes = [
        (UnknownServerError, -1),
        (OffsetMetadataTooLarge, 12),
        (CoordinatorLoadInProgress, 14),
        (CoordinatorNotAvailable, 15),
        (NotCoordinator, 16),
        (IllegalGeneration, 22),
        (InconsistentGroupProtocol, 23),
        (InvalidGroupId, 24),
        (UnknownMemberId, 25),
        (InvalidSessionTimeout, 26),
        (RebalanceInProgress, 27),
        (InvalidRequest, 42),
        (InvalidProducerEpoch, 47),
        (NonEmptyGroup, 68),
        (GroupIdNotFound, 69),
        (MemberIdRequired, 79),
        (GroupMaxSizeReached, 81),
        (FencedInstanceId, 82),
        (GroupSubscribedToTopic, 86),
        (UnstableOffsetCommit, 88),
    ];
    for (error, code) in codes {
        assert_eq!(error.code(), code, "{error}");
    }
}
