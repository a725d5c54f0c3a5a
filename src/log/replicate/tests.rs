//! Logs on simulated disks, with a network that loses nothing, step by step.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests fail as tests do")]

mod groups;
mod losses;

use std::path::Path;

use super::*;
use crate::config::{Durability, TopicConfig};
use crate::log::{Background, LogBuilder, Staging};
use crate::partition::{Ack, Ending, Partition, ReadOptions};
use crate::record::{BatchBuilder, BatchOptions, Producer, Record};
use crate::replica::Controller;
use crate::sim::{DiskOptions, Image, Rot, SimClock, SimDisk, SimEntropy};
use crate::types::{Offset, ProducerEpoch, ProducerId, Timestamp, TopicId};

const TOPIC: TopicId = TopicId::from_bytes(*b"a topic of tests");
const ID: PartitionId = PartitionId { topic: TOPIC, partition: 0 };
/// Where groups are kept, if they are.
const GROUPS: PartitionId = PartitionId { topic: TopicId::from_bytes(*b"groups for tests"), partition: 0 };

#[derive(Debug, Default)]
struct Outbox(Mutex<Vec<(NodeId, Message)>>, Mutex<Vec<Command>>);

impl Replicator for Outbox {
    fn send(&self, to: NodeId, message: Message) {
        self.0.lock().push((to, message));
    }

    fn command(&self, command: Command) {
        self.1.lock().push(command);
    }
}

struct Node {
    disk: Arc<SimDisk>,
    log: Option<Log>,
    outbox: Arc<Outbox>,
    lives: u64,
}

/// Three nodes, and who decides.
struct Trio {
    nodes: BTreeMap<NodeId, Node>,
    controller: Controller,
    clock: Arc<SimClock>,
    config: TopicConfig,
    has_groups: bool,
    /// Neither sends nor hears.
    cut_off: Vec<NodeId>,
    /// The controller does not hear it.
    muted: Option<NodeId>,
}

fn builder(node: &Node, id: NodeId, clock: &Arc<SimClock>) -> LogBuilder {
    Log::builder(Path::new("/log"))
        .disk(node.disk.clone())
        .clock(clock.clone())
        .entropy(Arc::new(SimEntropy::new(u64::from(id.0) * 1_000 + node.lives)))
        .process(7)
        .background(Background::Caller)
        .staging(Staging::Off)
        .replicated(id, Arc::clone(&node.outbox) as Arc<dyn Replicator>)
}

impl Trio {
    fn new(config: TopicConfig) -> Self {
        let clock = Arc::new(SimClock::new(Timestamp(1_700_000_000_000)));
        let node = |_| {
            let disk = SimDisk::on(SimDisk::new(DiskOptions::default()).image(), clock.clone());
            Node { disk, log: None, outbox: Arc::default(), lives: 0 }
        };
        let nodes = (1..=3).map(|id| (NodeId(id), node(id))).collect();
        let (controller, cut_off) = (Controller::default(), Vec::new());
        let mut trio =
            Self { nodes, controller, clock: clock.clone(), config, has_groups: false, cut_off, muted: None };
        for id in 1..=3 {
            trio.start(id);
        }
        let replicas = vec![NodeId(1), NodeId(2), NodeId(3)];
        trio.apply(&Command::Create { id: ID, replicas, min_in_sync: 2 });
        trio.settle();
        trio
    }

    fn start(&mut self, id: u32) {
        let node = self.nodes.get_mut(&NodeId(id)).unwrap();
        node.lives += 1;
        node.outbox = Arc::default();
        let log = builder(node, NodeId(id), &self.clock).open().unwrap();
        log.create_topic_with_id(TOPIC, "t", self.config).unwrap();
        if self.has_groups {
            log.create_topic_with_id(GROUPS.topic, "__consumer_offsets", TopicConfig::default()).unwrap();
        }
        let registration = log.registration().unwrap();
        node.log = Some(log.clone());
        self.apply(&registration);
        log.registered().unwrap();
        for id in [ID, GROUPS] {
            let known = self.controller.assignment(id).cloned();
            known.into_iter().for_each(|known| drop(log.assume(&known)));
        }
    }

    /// The power of a node is cut.
    fn crash(&mut self, id: u32, seed: u64) {
        let image = self.nodes[&NodeId(id)].disk.image().crash(seed);
        self.end(id, image);
    }

    /// The process of a node is killed.
    fn kill(&mut self, id: u32) {
        let image = self.nodes[&NodeId(id)].disk.image();
        self.end(id, image);
    }

    fn end(&mut self, id: u32, image: Image) {
        let node = self.nodes.get_mut(&NodeId(id)).unwrap();
        let member = node.log.as_ref().and_then(Log::member).unwrap();
        node.disk.power_off();
        node.log = None;
        node.disk = SimDisk::on(image, self.clock.clone());
        self.apply(&Command::NodeDown { member });
    }

    fn log(&self, id: u32) -> &Log {
        self.nodes[&NodeId(id)].log.as_ref().unwrap()
    }

    fn partition(&self, id: u32) -> Partition {
        self.log(id).topic("t").unwrap().partition(0).unwrap()
    }

    fn apply(&mut self, command: &Command) {
        let Ok(outcome) = self.controller.apply(command) else { return };
        if let Some(reserved) = outcome.reserved {
            let logs = self.nodes.values().filter_map(|node| node.log.as_ref());
            logs.for_each(|log| log.take_producer_ids(&reserved).unwrap());
        }
        for assignment in outcome.changed {
            for (id, node) in self.nodes.iter().filter(|(id, _)| !self.cut_off.contains(id)) {
                let _ = (id, node.log.as_ref().map(|log| log.assume(&assignment)));
            }
        }
    }

    /// Delivers until there is nothing to deliver.
    fn settle(&mut self) {
        loop {
            let mut messages = Vec::new();
            let mut commands = Vec::new();
            for (id, node) in &self.nodes {
                let _ = node.log.as_ref().map(Log::maintain);
                messages.extend(node.outbox.0.lock().drain(..).map(|(to, message)| (*id, to, message)));
                commands.extend(node.outbox.1.lock().drain(..).filter(|_| self.muted != Some(*id)));
            }
            if messages.is_empty() && commands.is_empty() {
                return;
            }
            commands.iter().for_each(|command| self.apply(command));
            for (from, to, message) in messages {
                let is_cut = self.cut_off.contains(&from) || self.cut_off.contains(&to);
                if let Some(log) = self.nodes[&to].log.as_ref().filter(|_| !is_cut) {
                    let _ = log.receive(from, message);
                }
            }
        }
    }

    /// Lets time pass, so that what waits for it comes.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 50 {
            self.clock.advance(Duration::from_millis(50));
            self.settle();
        }
    }

    fn append(&mut self, id: u32, values: &[&str]) {
        for value in values {
            self.partition(id).append(*value).unwrap();
        }
        self.settle();
    }

    fn values(&self, id: u32) -> Vec<String> {
        let (partition, mut values) = (self.partition(id), Vec::new());
        let mut from = partition.offsets().start;
        loop {
            let records = partition.read(from).unwrap();
            values.extend(records.iter().map(|record| String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
            if records.next_offset() == from {
                return values;
            }
            from = records.next_offset();
        }
    }

    fn ends(&self) -> Vec<u64> {
        (1..=3).map(|id| self.partition(id).offsets().end.0).collect()
    }
}

fn small() -> TopicConfig {
    TopicConfig::default().segment_bytes(8_192)
}

fn each() -> TopicConfig {
    small().durability(Durability::Each)
}

#[test]
fn what_is_appended_comes_to_all_and_is_committed() {
    let mut trio = Trio::new(small());
    let partition = trio.partition(1);
    let appended = partition.append("one").unwrap();
    assert_eq!(partition.offsets().committed, Offset(0));
    assert!(!partition.wait_readable(Offset(0), Duration::ZERO).unwrap(), "nobody sees it yet");
    trio.settle();
    appended.wait(Ack::Replicated).unwrap();
    trio.pass(100);
    for id in 1..=3 {
        assert_eq!(trio.values(id), ["one"], "node {id}");
    }
    let refused = trio.partition(2).append("two").unwrap_err();
    assert!(matches!(refused, Error::NotLeader { leader: Some(NodeId(1)), .. }), "{refused}");
    assert_eq!(refused.to_string(), "this node does not lead t-0: node 1 does");
}

#[test]
fn in_a_log_of_one_node_it_is_replicated_when_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    log.topic("t").unwrap().append("one").unwrap().wait(Ack::Replicated).unwrap();
    assert_eq!((log.member(), log.registration()), (None, None));
    let unknown = log.assume(&Assignment {
        id: ID,
        version: 0,
        replicas: Vec::new(),
        leader: None,
        leader_epoch: LeaderEpoch(0),
        in_sync: Vec::new(),
        min_in_sync: 1,
        eligible: vec![],
        unclean_epoch: None,
    });
    assert!(matches!(unknown, Err(Error::Unsupported { .. })));
}

#[test]
fn what_needs_a_coordinator_is_refused() {
    let trio = Trio::new(small());
    let log = trio.log(1);
    let refused = [
        log.group("g").unwrap().commit("t", 0, Offset(0)).unwrap_err(),
        log.coordinator_of("g").unwrap_err(),
        log.producer().idempotent().unwrap_err(),
        log.producer().transactional("id").unwrap_err(),
        log.queue("g", "t").open().unwrap_err(),
    ];
    for error in refused {
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains("of a log that is replicated"), "{error}");
    }
}

#[test]
fn below_the_minimum_nothing_is_committed_and_who_waits_is_told() {
    let mut trio = Trio::new(small());
    trio.cut_off = vec![NodeId(2), NodeId(3)];
    let appended = trio.partition(1);
    let appended = appended.append("one").unwrap();
    trio.pass(31_000);
    trio.pass(31_000);
    let told = appended.wait(Ack::Replicated).unwrap_err();
    assert!(matches!(told, Error::NotEnoughReplicas { in_sync: 1, needed: 2, .. }), "{told}");
    assert_eq!(trio.partition(1).offsets().committed, Offset(0));
    trio.cut_off.clear();
    trio.pass(3_000);
    appended.wait(Ack::Replicated).unwrap();
}

/// What a deposed leader had appended was cut off, and others have its offset: who still waits for it must not hear of theirs.
#[test]
fn an_append_that_was_cut_off_is_never_acknowledged() {
    let mut trio = Trio::new(each());
    trio.append(1, &["kept"]);
    trio.pass(100);
    trio.cut_off = vec![NodeId(1)];
    let old = trio.partition(1);
    let lost = old.append("lost").unwrap();
    let member = trio.log(1).member().unwrap();
    trio.apply(&Command::NodeDown { member });
    trio.settle();
    trio.append(2, &["won"]);
    trio.pass(200);
    trio.cut_off.clear();
    let known = trio.controller.assignment(ID).cloned().unwrap();
    trio.log(1).assume(&known).unwrap();
    trio.pass(2_000);
    assert_eq!(trio.values(1), ["kept", "won"]);
    assert_eq!(trio.values(3), ["kept", "won"]);
    assert!(matches!(lost.wait(Ack::Replicated), Err(Error::Truncated { .. })));
    assert!(matches!(lost.wait(Ack::Synced), Err(Error::Truncated { .. })));
}

/// A damaged node elected: it had lost acknowledged records in a power cut, and led with less than the others had.
#[test]
fn a_node_that_lost_something_is_not_elected_before_it_has_caught_up() {
    let mut found = 0;
    for seed in 0..20 {
        let mut trio = Trio::new(small());
        trio.append(1, &["one", "two"]);
        trio.pass(100);
        trio.crash(2, seed);
        trio.start(2);
        let known = trio.controller.assignment(ID).unwrap();
        assert!(known.in_sync.iter().all(|member| member.node != NodeId(2)), "it says that it may have less");
        found += u64::from(trio.partition(2).offsets().end < Offset(2));
        trio.pass(200);
        let known = trio.controller.assignment(ID).unwrap();
        assert_eq!((known.in_sync.len(), trio.ends()), (3, vec![2, 2, 2]));
    }
    assert!(found > 3, "{found} of 20 lost something");
}

#[test]
fn what_is_synced_with_each_append_is_not_lost_with_the_power() {
    for seed in 0..20 {
        let mut trio = Trio::new(each());
        trio.append(1, &["one", "two"]);
        trio.pass(100);
        let version = trio.controller.assignment(ID).unwrap().version;
        trio.crash(2, seed);
        trio.start(2);
        assert_eq!(trio.partition(2).offsets().end, Offset(2));
        trio.pass(200);
        assert!(trio.controller.assignment(ID).unwrap().version > version);
        assert_eq!(trio.controller.assignment(ID).unwrap().in_sync.len(), 3);
    }
}

/// Three nodes that should hold these values. The first segment of node 1, which leads, rots; node 3 is new, and is to be
/// started.
fn damaged_leader() -> (Trio, Vec<String>) {
    let mut trio = Trio::new(each().segment_bytes(200));
    let values: Vec<String> = (0..12).map(|value| format!("a value, not too short: {value}")).collect();
    trio.append(1, &values.iter().map(String::as_str).collect::<Vec<_>>());
    trio.pass(100);
    // Node 3 is new: it has to read all. The leader's first segment rots meanwhile.
    trio.crash(3, 1);
    trio.nodes.get_mut(&NodeId(3)).unwrap().disk =
        SimDisk::on(SimDisk::new(DiskOptions::default()).image(), trio.clock.clone());
    let node = trio.nodes.get_mut(&NodeId(1)).unwrap();
    let mut image = node.disk.image();
    let member = node.log.as_ref().and_then(Log::member).unwrap();
    node.log.take().unwrap().close().unwrap();
    image = if image.digest() == node.disk.image().digest() { image } else { node.disk.image() };
    assert!(image.rot(Path::new("/log/t-0/00000000000000000000.log"), &Rot::FlipBit { position: 80, bit: 3 }));
    node.disk = SimDisk::on(image, trio.clock.clone());
    trio.apply(&Command::NodeDown { member });
    trio.start(1);
    trio.pass(200);
    trio.apply(&Command::ElectPreferred { id: ID });
    trio.settle();
    assert_eq!(trio.controller.assignment(ID).unwrap().leader.map(|leader| leader.node), Some(NodeId(1)));
    (trio, values)
}

/// Corruption spread to healthy replicas: a leader sent what its disk had made of a batch, or made others cut theirs.
#[test]
fn a_damaged_batch_is_not_sent_and_the_leader_steps_down() {
    let (mut trio, values) = damaged_leader();
    trio.start(3);
    trio.pass(2_000);
    let known = trio.controller.assignment(ID).unwrap();
    assert_eq!(known.leader.map(|leader| leader.node), Some(NodeId(2)), "the one that noticed leads no more");
    // It has it all anew from the others, and what was damaged lies beside it.
    assert_eq!((trio.values(1), trio.values(2), trio.values(3)), (values.clone(), values.clone(), values));
    assert_eq!(known.in_sync.len(), 3);
    let aside = "/log/t-0/00000000000000000000.log.cut";
    assert!(trio.nodes[&NodeId(1)].disk.image().files().contains_key(Path::new(aside)));
}

/// A leader found damage, and was taken for dead before it was heard: below the minimum it is eligible then, and somebody
/// counts on what it has. It took that it was not in sync for the sign that it was heard, and began anew with nothing.
#[test]
fn a_damaged_node_keeps_what_it_has_while_somebody_counts_on_it() {
    let (mut trio, values) = damaged_leader();
    trio.muted = Some(NodeId(1));
    trio.start(3);
    trio.pass(100);
    let state = |trio: &Trio| trio.log(1).replication(ID).unwrap();
    assert!(state(&trio).has_lost, "it had to read all of it for node 3");
    trio.apply(&Command::SetMinInSync { id: ID, min_in_sync: 3 });
    let member = trio.log(1).member().unwrap();
    trio.apply(&Command::NodeDown { member });
    let known = trio.controller.assignment(ID).unwrap();
    assert_eq!((known.leader.map(|leader| leader.node), &known.eligible[..]), (Some(NodeId(2)), &[member][..]));
    trio.pass(2_000);
    let aside = Path::new("/log/t-0/00000000000000000000.log.cut");
    let is_aside = |trio: &Trio| trio.nodes[&NodeId(1)].disk.image().files().contains_key(aside);
    assert!(state(&trio).has_lost && !is_aside(&trio));

    // It is alive, and heard.
    trio.apply(&trio.log(1).registration().unwrap());
    trio.muted = None;
    trio.pass(5_000);
    let known = trio.controller.assignment(ID).unwrap();
    assert_eq!((known.in_sync.len(), &known.eligible[..], state(&trio).has_lost), (3, &[][..], false));
    assert!(is_aside(&trio));
    assert_eq!((trio.values(1), trio.values(2), trio.values(3)), (values.clone(), values.clone(), values));
}

#[test]
fn a_new_node_begins_where_the_leader_does_within_a_batch_too() {
    let mut trio = Trio::new(small());
    trio.partition(1).append_all(["one", "two", "three", "four"]).unwrap();
    trio.settle();
    trio.pass(100);
    trio.log(1).delete_before("t", 0, Offset(2)).unwrap();
    trio.crash(3, 1);
    trio.nodes.get_mut(&NodeId(3)).unwrap().disk =
        SimDisk::on(SimDisk::new(DiskOptions::default()).image(), trio.clock.clone());
    trio.start(3);
    trio.pass(1_000);
    let offsets = trio.partition(3).offsets();
    assert_eq!((offsets.start, offsets.committed, offsets.end), (Offset(2), Offset(4), Offset(4)));
    assert_eq!(trio.values(3), ["three", "four"]);
    trio.crash(3, 2);
    trio.start(3);
    trio.pass(1_000);
    assert_eq!(trio.values(3), ["three", "four"]);
}

/// Each point of a truncation at which the power may be cut: what comes before the cut stays, and once the call has returned,
/// what comes after it is gone for good.
#[test]
fn a_truncation_may_be_cut_short_anywhere() {
    let (mut points, mut shortened) = (0, 0);
    for (config, seed) in [(small(), 1), (each(), 2), (each().segment_bytes(200), 3)] {
        let mut trio = Trio::new(config);
        let values: Vec<String> = (0..9).map(|value| format!("a value, not too short: {value}")).collect();
        trio.append(1, &values.iter().map(String::as_str).collect::<Vec<_>>());
        trio.pass(100);
        trio.partition(2).sync().unwrap();
        let node = &trio.nodes[&NodeId(2)];
        let (log, disk) = (node.log.clone().unwrap(), node.disk.clone());
        let core = Arc::clone(&trio.partition(2).core);
        disk.record(crate::sim::Record::All);
        log.opened.inner.truncate(&core, Offset(4)).unwrap();
        assert_eq!(core.end(), Offset(4));
        let moments = disk.take_moments();
        let last = disk.image();
        let images = moments.into_iter().map(|moment| (moment.image, false)).chain([(last, true)]);
        for (image, has_returned) in images {
            for crash in 0..4 {
                let disk = SimDisk::on(image.crash(seed * 100 + crash), trio.clock.clone());
                let node = Node { disk, log: None, outbox: Arc::default(), lives: 50 };
                let log = builder(&node, NodeId(2), &trio.clock).strict().open().unwrap();
                let partition = log.topic("t").unwrap().partition(0).unwrap();
                let end = partition.offsets().end;
                assert!(end >= Offset(4) && (!has_returned || end == Offset(4)), "{end}");
                let mut from = Offset(0);
                while from < end {
                    from = partition.core.fetch(from, ReadOptions::default().to_end()).unwrap().next_offset();
                }
                points += 1;
                shortened += u64::from(end == Offset(4));
            }
        }
    }
    assert!(points > 150 && shortened > 25, "{points} points, {shortened} cut");
}

#[test]
fn who_catches_up_is_sent_no_more_than_the_rate() {
    let mut throttle = Throttle { rate: Some(1_000), paid_at: Duration::ZERO };
    let now = Duration::from_secs(5);
    assert_eq!(throttle.wait(now), None);
    throttle.spend(500, now);
    assert_eq!(throttle.wait(now), Some(Duration::from_millis(5_500)));
    assert_eq!(throttle.wait(Duration::from_millis(5_500)), None);
}

/// What was not synced when a topic came to be synced with each append was taken for synced after a power cut.
#[test]
fn a_topic_that_is_to_be_synced_with_each_append_is_synced_first() {
    let mut trio = Trio::new(small());
    trio.append(1, &["a", "b"]);
    let unsynced = trio.partition(1).offsets();
    assert_eq!((unsynced.synced, unsynced.end), (Offset(0), Offset(2)));
    for id in 1..=3 {
        trio.log(id).alter_topic("t", each()).unwrap();
        assert_eq!(trio.partition(id).offsets().synced, Offset(2));
    }
    trio.pass(200);
    trio.config = each();
    (1..=3).for_each(|id| trio.crash(id, 5));
    (1..=3).for_each(|id| trio.start(id));
    trio.pass(3_000);
    assert_eq!((trio.ends(), trio.values(2)), (vec![2; 3], vec!["a".to_owned(), "b".to_owned()]));
}

#[test]
fn a_topic_that_is_deleted_has_no_roles_any_more() {
    let trio = Trio::new(small());
    assert!(trio.log(2).replication(ID).is_some());
    trio.log(2).delete_topic("t").unwrap();
    assert_eq!(trio.log(2).replication(ID), None);
    let late = trio.controller.assignment(ID).unwrap();
    assert!(matches!(trio.log(2).assume(late), Err(Error::UnknownPartition { .. })));
}

/// A batch that a leader had stored, and not answered before it died, was sent to the next one, and was there twice.
#[test]
fn a_numbered_batch_that_is_sent_again_to_the_next_leader_is_stored_once() {
    let mut trio = Trio::new(small());
    let new_id = |trio: &mut Trio, id: u32| {
        assert!(matches!(trio.log(id).new_producer_id(), Err(Error::NoProducerIds)), "it has to ask first");
        trio.settle();
        trio.log(id).new_producer_id().unwrap()
    };
    let (id, other) = (new_id(&mut trio, 1), new_id(&mut trio, 2));
    assert_ne!(id, other);
    let batch = |base_sequence: i32| {
        let producer = Producer { id, epoch: ProducerEpoch(0), base_sequence, is_transactional: false };
        let mut builder = BatchBuilder::new();
        builder.begin(BatchOptions::default().producer(producer));
        builder.push(&Record::new(&*base_sequence.to_string()), Timestamp(1_700_000_000_000)).unwrap();
        builder.finish().unwrap().to_vec()
    };
    for sequence in 0..3 {
        assert_eq!(trio.partition(1).append_raw(&batch(sequence)).unwrap().offset(), Offset(sequence as u64));
        trio.settle();
    }
    trio.crash(1, 1);
    trio.pass(200);
    let next = trio.partition(2);
    for again in [1, 2] {
        assert_eq!(next.append_raw(&batch(again)).unwrap().offset(), Offset(again as u64));
    }
    assert!(matches!(next.append_raw(&batch(4)), Err(Error::OutOfOrderSequence { .. })));
    assert_eq!(next.append_raw(&batch(3)).unwrap().offset(), Offset(3));
    trio.start(1);
    trio.pass(500);
    let stored = ["0", "1", "2", "3"].map(str::to_owned);
    assert_eq!((trio.values(1), trio.values(2), trio.values(3)), (stored.to_vec(), stored.to_vec(), stored.to_vec()));
    let states = [1, 2, 3].map(|id| trio.partition(id).producers());
    assert!(states.iter().all(|state| *state == states[0]) && states[0].len() == 1, "{states:?}");
}

#[test]
fn producer_ids_are_asked_for_anew_and_taken_once() {
    let mut trio = Trio::new(small());
    let log = trio.log(1).clone();
    let mut given = Vec::new();
    while given.len() < 2_500 {
        match log.new_producer_id() {
            Ok(id) => given.push(id),
            Err(Error::NoProducerIds) => trio.pass(50),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(given.is_sorted_by(|a, b| a < b), "none twice");
    let before = ReservedIds { member: log.member().unwrap(), first: given[0], count: 1_000 };
    log.take_producer_ids(&before).unwrap();
    let of_another = ReservedIds { member: trio.log(2).member().unwrap(), first: ProducerId(1 << 50), count: 1_000 };
    log.take_producer_ids(&of_another).unwrap();
    assert_eq!(log.new_producer_id().unwrap(), ProducerId(given[2_499].0 + 1));
}

/// A follower cut its tail, and was killed before anything was appended: what it had noted was of the longer file, so that it
/// was taken to have lost something. Alone in sync it was, and nobody was left to lead. A history found that, of seed 1209 then.
#[test]
fn a_node_that_is_killed_after_it_has_cut_its_log_has_lost_nothing() {
    let mut trio = Trio::new(small());
    trio.append(1, &["a", "b"]);
    trio.cut_off = vec![NodeId(2), NodeId(3)];
    trio.append(1, &["never committed"]);
    let member = trio.log(1).member().unwrap();
    trio.cut_off = vec![NodeId(1)];
    trio.apply(&Command::NodeDown { member });
    trio.cut_off = vec![];
    trio.apply(&trio.log(1).registration().unwrap());
    let known = trio.controller.assignment(ID).unwrap().clone();
    trio.log(1).assume(&known).unwrap();
    trio.pass(200);
    assert_eq!((known.leader.map(|leader| leader.node), trio.ends()), (Some(NodeId(2)), vec![2; 3]));
    trio.kill(1);
    trio.start(1);
    let registration = trio.log(1).registration();
    assert!(matches!(registration, Some(Command::NodeUp { lost: Loss::Nothing, .. })), "{registration:?}");
}

/// What a message made due sooner than the log's thread knew came when that woke by itself, up to a minute later: a follower
/// whose question was lost did not ask again, and heard seconds late of what was committed.
#[test]
fn what_is_due_sooner_wakes_whoever_calls_maintenance() {
    let mut trio = Trio::new(small());
    trio.pass(200);
    let is_rung = |trio: &Trio| trio.log(1).wait_due(Duration::ZERO).unwrap();
    trio.partition(1).append("a").unwrap();
    let carry = |trio: &Trio, from: u32, to: u32| {
        let messages: Vec<_> = trio.nodes[&NodeId(from)].outbox.0.lock().drain(..).collect();
        for (_, message) in messages.into_iter().filter(|(node, _)| *node == NodeId(to)) {
            trio.log(to).receive(NodeId(from), message).unwrap();
        }
    };
    let next = trio.log(1).maintain().unwrap().next;
    assert!(next > Duration::from_millis(50), "{next:?}: nothing is due soon");
    while is_rung(&trio) {}
    let to_both: Vec<_> = trio.nodes[&NodeId(1)].outbox.0.lock().drain(..).collect();
    for (to, message) in to_both {
        trio.log(to.0).receive(NodeId(1), message).unwrap();
    }
    carry(&trio, 2, 1);
    // It waits for news: until then, and that is known now.
    while is_rung(&trio) {}
    carry(&trio, 3, 1);
    assert_eq!(trio.partition(1).offsets().committed, Offset(1));
    assert!(is_rung(&trio), "the others are to hear of it soon");
    let next = trio.log(1).maintain().unwrap().next;
    assert!(next <= ReplicaTiming::default().commit_delay, "{next:?}");
}

/// Each append rings the thread, which serves the follower and nothing else: until something else is due.
#[test]
fn maintenance_goes_on_while_a_follower_waits_for_each_append() {
    let (dir, outbox) = (tempfile::tempdir().unwrap(), Arc::new(Outbox::default()));
    let log = Log::builder(dir.path()).replicated(NodeId(1), Arc::clone(&outbox) as Arc<dyn Replicator>);
    let log = log.open().unwrap();
    let durability = Durability::Every { records: None, time: Some(Duration::from_millis(2)) };
    let topic = log.create_topic_with_id(TOPIC, "t", TopicConfig::default().durability(durability)).unwrap();
    let follower = Member { node: NodeId(2), incarnation: Incarnation(2) };
    let mut controller = Controller::default();
    controller.apply(&log.registration().unwrap()).unwrap();
    controller.apply(&Command::NodeUp { member: follower, continues: vec![], lost: Loss::Nothing }).unwrap();
    let create = Command::Create { id: ID, replicas: vec![NodeId(1), follower.node], min_in_sync: 1 };
    log.assume(&controller.apply(&create).unwrap().changed[0]).unwrap();
    let partition = topic.partition(0).unwrap();
    let (mut synced, mut syncs) = (Offset(0), 0);
    for number in 1..=200_000 {
        let next = partition.offsets().end;
        let fetch = Fetch {
            id: ID,
            leader_epoch: LeaderEpoch(0),
            incarnation: follower.incarnation,
            number,
            next,
            last_epoch: Some(LeaderEpoch(0)),
            held: next,
            start: Offset(0),
            max_bytes: 1 << 20,
        };
        log.receive(follower.node, Message::Fetch(fetch)).unwrap();
        partition.append("one more").unwrap();
        outbox.0.lock().clear();
        syncs += usize::from(partition.offsets().synced > synced);
        synced = partition.offsets().synced;
        if syncs == 20 {
            return;
        }
    }
    panic!("only {syncs} syncs");
}

/// A batch of a transaction of producer 9, and how such a transaction is aborted.
fn in_transaction() -> (Vec<u8>, Ending) {
    let producer = Producer { id: ProducerId(9), epoch: ProducerEpoch(0), base_sequence: 0, is_transactional: true };
    let mut builder = BatchBuilder::new();
    builder.begin(BatchOptions::default().producer(producer));
    builder.push(&Record::new("in a transaction"), Timestamp(1_700_000_000_000)).unwrap();
    let ending = Ending { producer: ProducerId(9), first: Offset(0), is_commit: false, fences: false };
    (builder.finish().unwrap().to_vec(), ending)
}

/// If it did, readers of committed data would see what may yet be cut off, or, if it waited for an outcome that is known and
/// committed, nothing more until the next append.
#[test]
fn a_transaction_keeps_readers_waiting_until_its_outcome_is_committed_also_over_a_restart() {
    for is_committed in [false, true] {
        let mut trio = Trio::new(small());
        let (batch, ending) = in_transaction();
        trio.partition(1).append_raw(&batch).unwrap();
        trio.append(1, &["behind it"]);
        trio.pass(200);
        let stable = |trio: &Trio| (trio.partition(1).offsets().stable, trio.partition(1).offsets().committed);
        assert_eq!(stable(&trio), (Offset(0), Offset(2)));
        if !is_committed {
            trio.cut_off = vec![NodeId(2), NodeId(3)];
        }
        assert_eq!(trio.partition(1).core.end_transaction(&ending).unwrap(), Some(Offset(2)));
        trio.pass(200);
        let expected = if is_committed { (Offset(3), Offset(3)) } else { (Offset(0), Offset(2)) };
        assert_eq!(stable(&trio), expected);
        trio.clock.advance(Duration::from_secs(3_600));
        trio.log(1).maintain().unwrap();
        trio.kill(1);
        trio.cut_off = vec![];
        trio.start(1);
        assert_eq!(stable(&trio), expected, "committed: {is_committed}");
    }
}

#[test]
fn who_does_not_lead_ends_no_transaction() {
    let mut trio = Trio::new(small());
    let (batch, ending) = in_transaction();
    trio.partition(1).append_raw(&batch).unwrap();
    trio.settle();
    let refused = trio.partition(2).core.end_transaction(&ending);
    assert!(matches!(refused, Err(Error::NotLeader { .. })), "{refused:?}");
    assert_eq!((trio.ends(), trio.partition(2).core.open_transactions().len()), (vec![1; 3], 1));
}
