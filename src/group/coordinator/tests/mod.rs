//! Each rule by the exact list of actions it leads to, and all of them together in a small world.

mod commits;
mod forgetting;
mod joining;
mod property;
mod stored;
mod synced;
mod time;

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::types::{LeaderEpoch, Offset, Timestamp};

/// A coordinator, the time, and what it said last.
#[derive(Debug, Clone)]
struct Desk {
    coordinator: Coordinator,
    seconds: u64,
    next_position: u64,
}

type Answered = Result<Answer, GroupError>;

impl Desk {
    fn new() -> Self {
        Self::with(GroupConfig::default())
    }

    fn with(config: GroupConfig) -> Self {
        config.validate().unwrap();
        Self { coordinator: Coordinator::new(config), seconds: 100, next_position: 0 }
    }

    fn now(&self) -> Now {
        Now { monotonic: Duration::from_secs(self.seconds), wall: Timestamp(self.seconds as i64 * 1000) }
    }

    fn tell(&mut self, event: Event) -> Vec<Action> {
        self.coordinator.handle(event, self.now());
        self.coordinator.check().unwrap();
        std::iter::from_fn(|| self.coordinator.poll()).collect()
    }

    fn ask(&mut self, token: u64, request: Request) -> Vec<Action> {
        self.tell(Event::Request { token: Token(token), request })
    }

    fn wait(&mut self, seconds: u64) -> Vec<Action> {
        self.seconds += seconds;
        self.tell(Event::Tick)
    }

    /// Reports that an append of `count` records is in the log.
    fn appended(&mut self, number: u64, count: u64) -> Vec<Action> {
        let base = Offset(self.next_position);
        self.next_position += count;
        self.tell(Event::Appended { number, base })
    }

    fn failed(&mut self, number: u64) -> Vec<Action> {
        self.tell(Event::NotAppended { number, error: GroupError::CoordinatorNotAvailable })
    }

    /// The seconds until something is due.
    fn due_in(&self) -> Option<u64> {
        self.coordinator.next_deadline().map(|deadline| deadline.as_secs() - self.seconds)
    }

    fn describe(&self) -> DescribedGroup {
        let mut copy = self.clone();
        match copy.ask(0, Request::Describe { group: "g".into() }).pop() {
            Some(Action::Answer { answer: Ok(Answer::Described(described)), .. }) => described,
            other => panic!("{other:?}"),
        }
    }

    fn state(&self) -> GroupState {
        self.describe().state.unwrap()
    }

    /// A group in its first generation: `a-` leads `b-`, each has the assignment of its name.
    fn stable() -> Self {
        let mut desk = Self::new();
        assert_eq!(desk.ask(1, join("a", 1)), []);
        assert_eq!(desk.ask(2, join("b", 2)), []);
        // The second came while the first waited: once more.
        assert_eq!(desk.wait(3), []);
        assert_eq!(answers(desk.wait(3)).len(), 2);
        let (a, b) = (id("a", 1), id("b", 2));
        assert_eq!(desk.ask(3, sync(&b, 1, &[])), []);
        let [Action::Append { number: 0, .. }] = desk.ask(4, sync(&a, 1, &[(&a, b"A"), (&b, b"B")]))[..] else {
            panic!("it is stored");
        };
        assert_eq!(desk.appended(0, 1), [synced(4, b"A"), synced(3, b"B")]);
        desk
    }
}

/// The id that a member gets.
fn id(client: &str, uuid: u8) -> String {
    format!("{client}-00000000-0000-0000-0000-0000000000{uuid:02x}")
}

fn protocols(names: &[&str]) -> Vec<Protocol> {
    let subscription = b"\0\0\0\0\0\x01\0\x04read";
    names.iter().map(|name| Protocol { name: (*name).into(), metadata: Arc::new(*subscription) }).collect()
}

/// A new member that needs no id first. Session 10 s, rebalance 30 s.
fn new_member(client: &str, uuid: u8) -> JoinGroup {
    let mut join = JoinGroup::new("g", uuid.into());
    join.client_id = client.into();
    join.client_host = "here".into();
    join.session_timeout = Duration::from_secs(10);
    join.rebalance_timeout = Duration::from_secs(30);
    join.protocols = protocols(&["range"]);
    join.needs_member_id = false;
    join
}

fn join(client: &str, uuid: u8) -> Request {
    Request::Join(new_member(client, uuid))
}

fn join_again(member: &str) -> Request {
    let mut join = new_member("", 0);
    join.member_id = member.into();
    Request::Join(join)
}

fn static_member(instance: &str, uuid: u8) -> JoinGroup {
    let mut join = new_member("client", uuid);
    join.instance_id = Some(instance.into());
    join
}

fn caller(member: &str, generation: i32) -> Caller {
    Caller { member_id: member.into(), instance_id: None, generation: Generation(generation) }
}

fn sync(member: &str, generation: i32, assignments: &[(&str, &[u8])]) -> Request {
    Request::Sync(SyncGroup {
        group: "g".into(),
        caller: caller(member, generation),
        protocol_type: None,
        protocol: None,
        assignments: assignments.iter().map(|(member, bytes)| ((*member).into(), (*bytes).into())).collect(),
    })
}

fn heartbeat(member: &str, generation: i32) -> Request {
    Request::Heartbeat(Heartbeat { group: "g".into(), caller: caller(member, generation) })
}

fn leave(members: &[(&str, Option<&str>)]) -> Request {
    let leaving = |(member, instance): &(&str, Option<&str>)| LeavingMember {
        member_id: (*member).into(),
        instance_id: instance.map(Into::into),
    };
    Request::Leave(LeaveGroup { group: "g".into(), members: members.iter().map(leaving).collect() })
}

fn to_commit(topic: &str, offset: u64) -> OffsetToCommit {
    OffsetToCommit {
        topic: topic.into(),
        partition: 0,
        offset: Offset(offset),
        leader_epoch: LeaderEpoch::NONE,
        metadata: "".into(),
    }
}

fn commit(caller: Caller, topic: &str, offset: u64) -> OffsetCommit {
    let offsets = vec![to_commit(topic, offset)];
    OffsetCommit { group: "g".into(), caller, transaction: None, retention: None, offsets }
}

fn answer(token: u64, answer: Answered) -> Action {
    Action::Answer { token: Token(token), answer }
}

fn refused(token: u64, error: GroupError) -> Action {
    answer(token, Err(error))
}

fn alive(token: u64) -> Action {
    answer(token, Ok(Answer::Alive))
}

fn left(token: u64, left: &[Result<(), GroupError>]) -> Action {
    answer(token, Ok(Answer::Left(left.to_vec())))
}

fn synced(token: u64, assignment: &[u8]) -> Action {
    let (protocol_type, protocol) = ("consumer".into(), "range".into());
    answer(token, Ok(Answer::Synced(Synced { protocol_type, protocol, assignment: assignment.into() })))
}

fn committed(token: u64) -> Action {
    answer(token, Ok(Answer::Committed(vec![Ok(())])))
}

/// The answers, in order, if there is nothing else.
fn answers(actions: Vec<Action>) -> Vec<(u64, Answered)> {
    let answered = actions.into_iter().map(|action| match action {
        Action::Answer { token, answer } => (token.0, answer),
        other => panic!("no answer: {other:?}"),
    });
    answered.collect()
}

/// What members are told that joined, in order, if nothing else is said.
fn told(actions: Vec<Action>) -> Vec<(u64, Joined)> {
    let told = answers(actions).into_iter().map(|(token, answer)| match answer {
        Ok(Answer::Joined(joined)) => (token, joined),
        other => panic!("{token} did not join: {other:?}"),
    });
    told.collect()
}

/// The number of the only action, an append, and how many records it has.
fn append(actions: &[Action]) -> (u64, usize) {
    match actions {
        [Action::Append { number, records, .. }] => (*number, records.len()),
        other => panic!("no append alone: {other:?}"),
    }
}
