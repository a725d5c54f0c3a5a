//! The machine alone: each rule by the steps it leads to.

use super::super::member::{By, Member, MemberSettings, Step};
use super::*;
use crate::error::GroupError;
use crate::group::assign::protocol::{MemberAssignment, Version};
use crate::group::{Answer, Generation, Joined, Request, Synced};

/// A member, and the time in seconds.
struct Desk {
    member: Member,
    seconds: u64,
}

impl Desk {
    fn new(is_cooperative: bool) -> Self {
        Self::with(is_cooperative, None)
    }

    fn with(is_cooperative: bool, instance_id: Option<&str>) -> Self {
        let settings = MemberSettings {
            group: "g".into(),
            client_id: "c".into(),
            instance_id: instance_id.map(Into::into),
            session_timeout: 45 * SECOND,
            rebalance_timeout: 300 * SECOND,
            heartbeat_interval: 3 * SECOND,
            max_poll_interval: 300 * SECOND,
            is_cooperative,
        };
        Self { member: Member::new(settings, Duration::ZERO), seconds: 0 }
    }

    fn now(&self) -> Duration {
        self.seconds as u32 * SECOND
    }

    /// What a poll does, in short.
    fn poll(&mut self) -> Vec<String> {
        self.member.polled(self.now());
        self.steps(By::Poll)
    }

    fn maintain(&mut self) -> Vec<String> {
        self.steps(By::Maintenance)
    }

    fn steps(&mut self, by: By) -> Vec<String> {
        let mut steps = Vec::new();
        // One that is to assign is asked for until it has.
        while let Some(step) = self.member.next(by, self.now()) {
            let assigns = matches!(step, Step::Assign(_));
            steps.push(describe(&step));
            if assigns {
                break;
            }
        }
        steps
    }

    fn answer(&mut self, number: u64, answer: Result<Answer, GroupError>) -> Option<GroupError> {
        let now = self.now();
        self.member.answer(number, answer, now)
    }

    fn joined(&mut self, number: u64, generation: i32, leader: &str) -> Option<GroupError> {
        self.answer(number, Ok(joined("m", generation, leader)))
    }

    fn synced(&mut self, number: u64, partitions: &[u32]) -> Option<GroupError> {
        let assignment = MemberAssignment::new(partitions.iter().map(|number| id("t", *number)));
        let assignment = assignment.encode(Version::V3).unwrap().into();
        let synced = Synced { protocol_type: "consumer".into(), protocol: "range".into(), assignment };
        self.answer(number, Ok(Answer::Synced(synced)))
    }

    /// A member of generation 1 that has partitions 0 and 1.
    fn stable(is_cooperative: bool) -> Self {
        let mut desk = Self::new(is_cooperative);
        desk.poll();
        desk.joined(1, 1, "other");
        desk.poll();
        desk.synced(2, &[0, 1]);
        assert_eq!(desk.poll(), ["assigned 0 1"]);
        desk
    }
}

fn joined(member: &str, generation: i32, leader: &str) -> Answer {
    Answer::Joined(Joined {
        member_id: member.into(),
        generation: Generation(generation),
        protocol_type: "consumer".into(),
        protocol: "range".into(),
        leader: leader.into(),
        members: Vec::new(),
        skip_assignment: false,
    })
}

fn describe(step: &Step) -> String {
    let numbers = |word: &str, ids: &BTreeSet<TopicPartition>| {
        ids.iter().fold(word.to_owned(), |text, id| format!("{text} {}", id.partition))
    };
    match step {
        Step::Join { number, request } => format!("{number}: join as {:?}", request.member_id),
        Step::Assign(_) => "assign".to_owned(),
        Step::Ask { number, request: Request::Sync(sync) } => {
            format!("{number}: sync {} of generation {}", sync.assignments.len(), sync.caller.generation)
        }
        Step::Ask { number, request: Request::Heartbeat(beat) } => {
            format!("{number}: heartbeat of generation {}", beat.caller.generation)
        }
        Step::Ask { request, .. } => format!("{request:?}"),
        Step::Leave(leave) => format!("leave as {:?}", leave.members[0].member_id),
        Step::Revoked(ids) => numbers("revoked", ids),
        Step::Lost(ids) => numbers("lost", ids),
        Step::Assigned(ids) => numbers("assigned", ids),
    }
}

#[test]
fn a_new_member_joins_with_the_id_that_it_is_given() {
    let mut desk = Desk::new(false);
    assert_eq!(desk.maintain(), [""; 0], "the application is asked first");
    assert_eq!(desk.poll(), ["1: join as \"\""]);
    assert_eq!(desk.poll(), [""; 0], "it waits");
    desk.answer(1, Ok(Answer::MemberIdRequired { member_id: "m".into() }));
    assert_eq!(desk.poll(), ["2: join as \"m\""]);
    desk.joined(2, 7, "other");
    assert_eq!(desk.maintain(), ["3: sync 0 of generation 7"], "the others wait for it");
    desk.synced(3, &[0, 2]);
    assert_eq!(desk.maintain(), [""; 0]);
    assert_eq!(desk.poll(), ["assigned 0 2"]);
}

#[test]
fn a_leader_syncs_once_it_has_assigned() {
    let mut desk = Desk::new(false);
    desk.poll();
    desk.joined(1, 1, "m");
    assert_eq!((desk.maintain(), desk.poll()), (vec![], vec!["assign".to_owned()]));
    assert_eq!(desk.poll(), ["assign"], "its assignor failed");
    desk.member.assign(vec![("m".into(), Arc::default()), ("n".into(), Arc::default())]);
    assert_eq!(desk.poll(), ["2: sync 2 of generation 1"]);
}

#[test]
fn heartbeats_are_sent_while_the_application_is_at_work() {
    let mut desk = Desk::stable(false);
    desk.seconds = 2;
    assert_eq!(desk.maintain(), [""; 0]);
    assert_eq!(desk.member.next_deadline(), Some(3 * SECOND));
    desk.seconds = 3;
    assert_eq!(desk.maintain(), ["3: heartbeat of generation 1"]);
    assert_eq!(desk.maintain(), [""; 0], "one at a time");
    desk.answer(3, Ok(Answer::Alive));
    assert_eq!(desk.member.next_deadline(), Some(6 * SECOND));
}

#[test]
fn an_eager_member_gives_up_everything_before_it_joins_again() {
    let mut desk = Desk::stable(false);
    desk.seconds = 3;
    desk.poll();
    desk.answer(3, Err(GroupError::RebalanceInProgress));
    assert!(desk.member.needs_poll(desk.now()));
    assert_eq!(desk.maintain(), [""; 0], "that is for the application");
    assert_eq!(desk.poll(), ["revoked 0 1", "4: join as \"m\""]);
    desk.joined(4, 2, "other");
    assert_eq!(desk.poll(), ["5: sync 0 of generation 2"]);
    desk.synced(5, &[1]);
    assert_eq!(desk.poll(), ["assigned 1"]);
}

#[test]
fn a_cooperative_member_gives_up_what_moves_and_joins_again_for_it() {
    let mut desk = Desk::stable(true);
    desk.seconds = 3;
    desk.poll();
    desk.answer(3, Err(GroupError::RebalanceInProgress));
    assert_eq!(desk.poll(), ["4: join as \"m\""]);
    assert_eq!(desk.member.owned().len(), 2, "it reads on");
    desk.joined(4, 2, "other");
    desk.poll();
    desk.synced(5, &[1, 5]);
    assert_eq!(desk.poll(), ["revoked 0", "assigned 5", "6: join as \"m\""]);
    desk.joined(6, 3, "other");
    desk.poll();
    desk.synced(7, &[1, 5]);
    assert_eq!(desk.poll(), ["assigned"], "nothing more, and nobody joins again");
}

#[test]
fn what_a_member_had_is_lost_if_the_group_does_not_know_it() {
    for (error, id) in [(GroupError::UnknownMemberId, ""), (GroupError::IllegalGeneration, "m")] {
        let mut desk = Desk::stable(true);
        desk.seconds = 3;
        desk.poll();
        desk.answer(3, Err(error));
        assert_eq!(desk.poll(), ["lost 0 1".to_owned(), format!("4: join as {id:?}")]);
        assert!(!desk.member.generation().is_some());
    }
}

/// What was assigned, and the application had not heard of, was told as lost: it never had it.
#[test]
fn what_the_application_never_had_is_not_lost_to_it() {
    let mut desk = Desk::stable(true);
    desk.member.rejoin();
    desk.poll();
    desk.joined(3, 2, "other");
    desk.poll();
    desk.synced(4, &[1, 5]);
    desk.member.refused(GroupError::UnknownMemberId, Generation(2), desk.now());
    assert_eq!(desk.poll(), ["lost 0 1", "5: join as \"\""]);
}

#[test]
fn a_commit_that_is_refused_says_that_it_is_no_member() {
    let mut desk = Desk::stable(false);
    desk.member.refused(GroupError::RebalanceInProgress, Generation(1), desk.now());
    assert_eq!(desk.poll(), ["revoked 0 1", "3: join as \"m\""]);
    let mut desk = Desk::stable(false);
    desk.member.refused(GroupError::IllegalGeneration, Generation(1), desk.now());
    assert_eq!(desk.poll(), ["lost 0 1", "3: join as \"m\""]);
}

/// The others had joined, so that the generation had begun, and the answer that says so was not looked at yet. The member
/// took itself for expelled.
#[test]
fn a_commit_while_the_next_generation_begins_loses_nothing() {
    let mut desk = Desk::stable(true);
    desk.member.rejoin();
    assert_eq!(desk.poll(), ["3: join as \"m\""]);
    let told = desk.member.refused(GroupError::IllegalGeneration, Generation(1), desk.now());
    assert_eq!((told, desk.poll()), (GroupError::RebalanceInProgress, vec![]));
}

/// Maintenance had taken in, meanwhile, that it is of the next generation: the member took itself for expelled from that one.
#[test]
fn a_commit_of_the_generation_before_loses_nothing() {
    let mut desk = Desk::stable(true);
    desk.member.rejoin();
    assert_eq!(desk.poll(), ["3: join as \"m\""]);
    desk.joined(3, 2, "other");
    assert_eq!(desk.maintain(), ["4: sync 0 of generation 2"]);
    let told = desk.member.refused(GroupError::IllegalGeneration, Generation(1), desk.now());
    assert_eq!((told, desk.poll(), desk.member.owned().len()), (GroupError::RebalanceInProgress, vec![], 2));
    // One that is out already is not put out again, though it joins by now.
    let mut desk = Desk::stable(true);
    desk.seconds = 3;
    desk.poll();
    desk.answer(3, Err(GroupError::UnknownMemberId));
    assert_eq!(desk.poll(), ["lost 0 1", "4: join as \"\""]);
    let told = desk.member.refused(GroupError::UnknownMemberId, Generation(1), desk.now());
    assert_eq!((told, desk.poll()), (GroupError::UnknownMemberId, vec![]));
}

#[test]
fn a_fenced_member_does_nothing_any_more() {
    let mut desk = Desk::stable(false);
    desk.seconds = 3;
    desk.poll();
    desk.answer(3, Err(GroupError::FencedInstanceId));
    assert_eq!(desk.poll(), ["lost 0 1"]);
    assert!(desk.member.is_fenced());
    desk.seconds = 1_000;
    assert_eq!((desk.poll(), desk.maintain(), desk.member.leave()), (vec![], vec![], None));
}

#[test]
fn an_application_that_does_not_poll_gives_its_place_up() {
    let mut desk = Desk::stable(false);
    for second in (3..300).step_by(3) {
        desk.seconds = second;
        let number = 2 + second / 3;
        assert_eq!(desk.maintain(), [format!("{number}: heartbeat of generation 1")]);
        desk.answer(number, Ok(Answer::Alive));
    }
    desk.seconds = 300;
    assert_eq!(desk.maintain(), ["leave as \"m\""]);
    assert_eq!((desk.maintain(), desk.member.next_deadline()), (vec![], None));
    assert_eq!(desk.poll(), ["lost 0 1", "102: join as \"\""]);
}

#[test]
fn one_that_waits_in_a_poll_may_wait_for_long() {
    let mut desk = Desk::stable(false);
    desk.member.waits();
    desk.seconds = 1_000;
    assert_eq!(desk.maintain(), ["3: heartbeat of generation 1"]);
}

#[test]
fn a_static_member_is_silent_and_does_not_leave() {
    let mut desk = Desk::with(false, Some("i"));
    desk.poll();
    desk.joined(1, 1, "other");
    desk.poll();
    desk.synced(2, &[0]);
    desk.poll();
    desk.seconds = 300;
    assert_eq!(desk.maintain(), [""; 0]);
    assert_eq!(desk.poll(), ["lost 0", "3: join as \"m\""]);
    assert_eq!(desk.member.leave(), None);
}

#[test]
fn what_passes_is_tried_again_and_what_stays_is_told() {
    let mut desk = Desk::new(false);
    desk.poll();
    assert_eq!(desk.answer(1, Err(GroupError::CoordinatorNotAvailable)), None);
    assert_eq!(desk.poll(), [""; 0]);
    desk.seconds = 1;
    assert_eq!(desk.poll(), ["2: join as \"\""]);
    assert_eq!(desk.answer(2, Err(GroupError::GroupMaxSizeReached)), Some(GroupError::GroupMaxSizeReached));
    desk.seconds = 2;
    assert_eq!(desk.poll(), ["3: join as \"\""]);
}

#[test]
fn answers_of_an_earlier_time_change_nothing() {
    let mut desk = Desk::stable(false);
    desk.seconds = 3;
    desk.poll();
    desk.member.rejoin();
    assert_eq!(desk.poll(), ["revoked 0 1", "4: join as \"m\""]);
    for number in [1, 2, 3] {
        desk.answer(number, Err(GroupError::UnknownMemberId));
    }
    assert_eq!(desk.poll(), [""; 0]);
    desk.joined(4, 2, "other");
    desk.joined(4, 9, "other");
    assert_eq!(desk.poll(), ["5: sync 0 of generation 2"]);
}
