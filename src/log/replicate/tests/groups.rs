//! Groups that are kept by whoever leads.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::group::{Answer, Caller, GroupState, Heartbeat, JoinGroup, Joined, Protocol, Request, SyncGroup};
use crate::log::Reply;
use crate::log::coordinate::enter;
use crate::sim::cluster::groups::{commit, fetch};
use crate::sim::{Errno, Fault, Times};

impl Trio {
    fn with_groups() -> Self {
        let mut trio = Self::new(small());
        trio.has_groups = true;
        for id in 1..=3 {
            let created =
                trio.log(id).create_topic_with_id(GROUPS.topic, "__consumer_offsets", TopicConfig::default());
            assert_eq!(created.unwrap().partition_count(), 1);
        }
        let replicas = vec![NodeId(1), NodeId(2), NodeId(3)];
        trio.apply(&Command::Create { id: GROUPS, replicas, min_in_sync: 2 });
        trio.settle();
        trio
    }

    fn ask(&self, id: u32, request: Request) -> Reply {
        self.log(id).ask_coordinator(request)
    }

    fn told(&self, id: u32, request: Request) -> Result<Answer> {
        now(&mut self.ask(id, request)).expect("it is known at once")
    }

    /// What node `id` says that the group has committed.
    fn committed(&self, id: u32) -> Result<Option<Offset>> {
        match self.told(id, fetch())? {
            Answer::Offsets(offsets) => {
                Ok(offsets[0].committed.as_ref().unwrap().as_ref().map(|committed| committed.offset))
            }
            other => panic!("{other:?}"),
        }
    }

    /// Who leads the groups.
    fn coordinator(&self) -> u32 {
        self.controller.assignment(GROUPS).unwrap().leader.unwrap().node.0
    }
}

/// The answer, if it is there.
fn now(reply: &mut Reply) -> Option<Result<Answer>> {
    match pin!(reply).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

fn is_not_leader<T>(result: &Result<T>, of: Option<u32>) -> bool {
    matches!(result, Err(Error::NotLeader { leader, partition })
        if *leader == of.map(NodeId) && partition.to_string() == "__consumer_offsets-0")
}

#[test]
fn a_commit_is_told_once_it_is_committed_and_survives_a_change_of_leader() {
    let mut trio = Trio::with_groups();
    assert_eq!(trio.coordinator(), 1);
    assert_eq!(trio.committed(1).unwrap(), None);
    let mut reply = trio.ask(1, commit(5));
    assert!(now(&mut reply).is_none(), "no other node has it");
    let mut early = trio.ask(1, fetch());
    assert!(now(&mut early).is_none(), "what could be lost yet is told to nobody");
    trio.settle();
    assert!(matches!(now(&mut reply), Some(Ok(Answer::Committed(_)))));
    assert!(matches!(now(&mut early), Some(Ok(Answer::Offsets(_)))));
    assert!(is_not_leader(&trio.committed(2), Some(1)));
    assert_eq!(trio.log(2).coordinator_of("g").unwrap().to_string(), "__consumer_offsets-0");

    trio.crash(1, 3);
    trio.pass(200);
    let next = trio.coordinator();
    assert_eq!((next, trio.committed(next).unwrap()), (2, Some(Offset(5))));
    assert!(is_not_leader(&trio.committed(3), Some(2)));
    let mut reply = trio.ask(2, commit(9));
    trio.settle();
    assert!(matches!(now(&mut reply), Some(Ok(Answer::Committed(_)))));
    trio.start(1);
    trio.pass(500);
    trio.kill(2);
    trio.pass(500);
    let next = trio.coordinator();
    assert_eq!((next == 2, trio.committed(next).unwrap()), (false, Some(Offset(9))));
    assert_eq!(trio.log(next).groups().unwrap(), ["g"]);
    let other = 4 - next;
    assert!(trio.log(other).groups().unwrap().is_empty(), "those that it leads");
}

#[test]
fn a_commit_that_is_cut_off_is_told_to_nobody() {
    let mut trio = Trio::with_groups();
    let mut first = trio.ask(1, commit(5));
    trio.settle();
    assert!(matches!(now(&mut first), Some(Ok(Answer::Committed(_)))));
    trio.cut_off = vec![NodeId(1)];
    let (mut lost, mut looked, mut late) = (trio.ask(1, commit(6)), trio.ask(1, fetch()), trio.ask(1, fetch()));
    trio.settle();
    assert!(now(&mut lost).is_none() && now(&mut looked).is_none());
    let member = trio.log(1).member().unwrap();
    trio.apply(&Command::NodeDown { member });
    trio.settle();
    let next = trio.coordinator();
    assert_eq!((next, trio.committed(next).unwrap()), (2, Some(Offset(5))));
    let mut reply = trio.ask(2, commit(7));
    trio.settle();
    assert!(matches!(now(&mut reply), Some(Ok(Answer::Committed(_)))));
    // It hears of it.
    trio.cut_off.clear();
    trio.apply(&trio.log(1).registration().unwrap());
    trio.log(1).registered().unwrap();
    trio.log(1).assume(trio.controller.assignment(GROUPS).unwrap()).unwrap();
    assert!(is_not_leader(&now(&mut lost).unwrap(), Some(2)));
    assert!(is_not_leader(&now(&mut looked).unwrap(), Some(2)));
    for again in 0..3 {
        assert!(now(&mut trio.ask(2, commit(7))).is_none(), "{again}");
        trio.pass(500);
    }
    assert_eq!(trio.committed(2).unwrap(), Some(Offset(7)));
    // Where it was, there is something else by now.
    assert!(trio.log(1).topic("__consumer_offsets").unwrap().partition(0).unwrap().offsets().committed > Offset(2));
    assert!(matches!(now(&mut late), Some(Err(Error::Truncated { .. }))));
    trio.kill(2);
    trio.pass(500);
    assert_eq!(trio.committed(trio.coordinator()).unwrap(), Some(Offset(7)));
}

fn join(uuid: u128) -> Request {
    let mut join = JoinGroup::new("g", uuid);
    join.needs_member_id = false;
    join.protocols = vec![Protocol { name: "range".into(), metadata: (*b"t").into() }];
    Request::Join(join)
}

fn joined(answer: Option<Result<Answer>>) -> Joined {
    match answer {
        Some(Ok(Answer::Joined(joined))) => joined,
        other => panic!("{other:?}"),
    }
}

/// Its members need not join again, and who waits to join is told whom to ask.
#[test]
fn a_group_goes_on_with_its_members_under_the_next_leader() {
    let mut trio = Trio::with_groups();
    let mut reply = trio.ask(1, join(7));
    trio.pass(3_000);
    let first = joined(now(&mut reply));
    let caller = Caller { member_id: first.member_id.clone(), instance_id: None, generation: first.generation };
    let sync = SyncGroup {
        group: "g".into(),
        caller: caller.clone(),
        protocol_type: None,
        protocol: None,
        assignments: vec![(first.member_id, (*b"all").into())],
    };
    let mut synced = trio.ask(1, Request::Sync(sync));
    assert!(now(&mut synced).is_none(), "its assignment is not committed yet");
    trio.settle();
    assert!(matches!(now(&mut synced), Some(Ok(Answer::Synced(_)))));
    let mut waits = trio.ask(1, join(8));
    assert!(now(&mut waits).is_none(), "the first one has to join again");

    let member = trio.log(1).member().unwrap();
    trio.apply(&Command::NodeDown { member });
    assert!(is_not_leader(&now(&mut waits).unwrap(), Some(2)));
    trio.settle();
    let heartbeat = || Request::Heartbeat(Heartbeat { group: "g".into(), caller: caller.clone() });
    assert!(is_not_leader(&trio.told(1, heartbeat()), Some(2)));
    assert_eq!(trio.told(2, heartbeat()).unwrap(), Answer::Alive);
    // From then on it has a session there, that ends.
    trio.pass(60_000);
    let Answer::Described(described) = trio.told(2, Request::Describe { group: "g".into() }).unwrap() else {
        panic!()
    };
    assert_eq!((described.state, described.members.len()), (Some(GroupState::Empty), 0));
}

/// Whoever looked for a group while the node led may come to ask when it does no more, or again.
#[test]
fn what_a_node_knew_when_it_led_is_nothing_that_it_tells_later() {
    let mut trio = Trio::with_groups();
    let shard = trio.log(1).opened.inner.shard("g").unwrap().unwrap();
    assert!(enter(&shard).is_ok());
    let member = trio.log(1).member().unwrap();
    trio.apply(&Command::NodeDown { member });
    assert!(is_not_leader(&enter(&shard).map(drop), Some(2)));
    trio.apply(&trio.log(1).registration().unwrap());
    trio.pass(500);
    trio.apply(&Command::ElectPreferred { id: GROUPS });
    trio.pass(500);
    assert_eq!(trio.coordinator(), 1);
    assert!(enter(&shard).is_err() && trio.committed(1).is_ok());
}

/// To wait for others with what they need to answer would be for ever.
#[test]
fn a_topic_is_deleted_without_waiting_for_others() {
    let mut trio = Trio::with_groups();
    let mut reply = trio.ask(1, commit(5));
    trio.settle();
    assert!(matches!(now(&mut reply), Some(Ok(Answer::Committed(_)))));
    trio.cut_off = vec![NodeId(2), NodeId(3)];
    trio.log(1).delete_topic("t").unwrap();
    trio.cut_off.clear();
    trio.settle();
    assert_eq!(trio.committed(1).unwrap(), None);
}

#[test]
fn what_was_committed_for_a_topic_that_is_being_deleted_is_not_told_by_who_leads_again() {
    let mut unfinished = 0;
    for at in 0..40 {
        let mut trio = Trio::with_groups();
        let mut reply = trio.ask(1, commit(5));
        trio.settle();
        assert!(matches!(now(&mut reply), Some(Ok(Answer::Committed(_)))));
        let disk = Arc::clone(&trio.nodes[&NodeId(1)].disk);
        disk.inject(disk.calls() + at, Fault::Error(Errno::Full), Times::Next(1_000));
        let deleted = trio.log(1).delete_topic("t");
        if deleted.is_ok() || trio.log(1).find_topic("t").is_some() {
            continue;
        }
        unfinished += 1;
        let member = trio.log(1).member().unwrap();
        trio.apply(&Command::NodeDown { member });
        disk.heal();
        trio.apply(&trio.log(1).registration().unwrap());
        trio.pass(500);
        trio.apply(&Command::ElectPreferred { id: GROUPS });
        trio.pass(500);
        if trio.coordinator() == 1 {
            assert_eq!(trio.committed(1).unwrap(), None, "call {at}");
        }
    }
    assert!(unfinished > 3, "{unfinished}");
}

/// Groups that cannot be read are nobody's to tell: another node that has them whole is to lead.
#[test]
fn a_node_that_cannot_read_its_groups_does_not_lead_and_says_that_it_is_damaged() {
    let mut trio = Trio::with_groups();
    for offset in [5, 6] {
        let mut reply = trio.ask(1, commit(offset));
        trio.pass(200);
        assert!(matches!(now(&mut reply), Some(Ok(Answer::Committed(_)))));
    }
    trio.log(2).clone().close().unwrap();
    let mut image = trio.nodes[&NodeId(2)].disk.image();
    let path = Path::new("/log/__consumer_offsets-0/00000000000000000000.log");
    assert!(image.rot(path, &Rot::FlipBit { position: 80, bit: 3 }));
    trio.end(2, image);
    trio.start(2);
    trio.pass(500);
    let to_lead = |trio: &Trio| {
        let mut next = trio.controller.assignment(GROUPS).unwrap().clone();
        (next.version, next.leader_epoch) = (next.version + 1, LeaderEpoch(next.leader_epoch.0 + 1));
        next.leader = trio.log(2).member();
        next
    };
    let refused = trio.log(2).assume(&to_lead(&trio)).unwrap_err();
    assert!(matches!(refused, Error::Corrupt(_)), "{refused}");
    assert!(is_not_leader(&trio.committed(2), None));
    let said: Vec<_> = trio.nodes[&NodeId(2)].outbox.1.lock().drain(..).collect();
    let member = trio.log(2).member().unwrap();
    assert!(
        said.iter().any(|said| matches!(said, Command::Lost { member: of, id: GROUPS, .. } if *of == member)),
        "{said:?}"
    );
    let again = trio.log(2).assume(&to_lead(&trio)).unwrap_err();
    assert!(matches!(again, Error::NotElectable { .. }), "{again}");
    assert_eq!(trio.committed(1).unwrap(), Some(Offset(6)), "the others go on");
}

#[test]
fn a_topic_is_forgotten_once_that_is_committed() {
    let mut trio = Trio::with_groups();
    let mut reply = trio.ask(1, commit(5));
    trio.settle();
    assert!(matches!(now(&mut reply), Some(Ok(Answer::Committed(_)))));
    let mut reply = trio.ask(1, Request::ForgetTopic { topic: "t".into() });
    assert!(now(&mut reply).is_none() && reply.wait_for(Duration::ZERO).is_none(), "no other node has it");
    trio.settle();
    assert!(matches!(now(&mut reply), Some(Ok(Answer::TopicForgotten))));
    trio.kill(1);
    trio.pass(500);
    assert_eq!(trio.committed(trio.coordinator()).unwrap(), None);
}

#[test]
fn with_too_few_in_sync_who_commits_is_told() {
    let mut trio = Trio::with_groups();
    trio.cut_off = vec![NodeId(2), NodeId(3)];
    let mut reply = trio.ask(1, commit(5));
    trio.pass(60_000);
    let told = reply.wait_for(Duration::ZERO).unwrap();
    assert!(matches!(told, Err(Error::NotEnoughReplicas { in_sync: 1, needed: 2, .. })), "{told:?}");
}
