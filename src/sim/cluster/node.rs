//! One node: a log on a simulated disk, and what it has to say.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{GROUPS, ID, Options, TOPIC, TOPIC_ID};
use crate::clock::Clock;
use crate::config::TopicConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::log::{Background, Log, Replicator, Topic};
use crate::partition::{Offsets, Partition};
use crate::replica::{Assignment, Command, Loss, Member, Message, PartitionId, ReplicaTiming};
use crate::segment::pool::Layout;
use crate::sim::{DiskOptions, Image, Rng, SimClock, SimDisk, SimEntropy};
use crate::types::{LeaderEpoch, NodeId};

/// Little slots and batches, so that their ends are near.
const LAYOUT: Layout = Layout { slot_len: 2048, slot_count: 4, batch_len: 300, stride: 256 };

pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) disk: Arc<SimDisk>,
    clock: Arc<SimClock>,
    pub(super) log: Option<Log>,
    pub(super) partition: Option<Partition>,
    /// Where a group's offsets are kept, if they are.
    pub(super) groups: Option<Partition>,
    pub(super) member: Option<Member>,
    outbox: Arc<Outbox>,
    is_registered: bool,
    /// Of each life another.
    entropy: Rng,
    pub(super) next_wake: Option<u64>,
    pub(super) wakes_at: Option<u64>,
    pub(super) paused_until: u64,
    /// How far its partitions were when they were looked at last.
    pub(super) seen: [Option<Offsets>; 2],
    /// An image of some time ago, to be put back.
    pub(super) old: Option<Image>,
    /// It stopped because of a failed disk, and is to be started again.
    pub(super) is_broken: bool,
    /// A fault of its disk waits for its call.
    pub(super) is_armed: bool,
    /// Its disk was full, in this life.
    pub(super) was_full: bool,
    /// Its disk failed, in this life.
    pub(super) has_failed: bool,
    /// It was killed, and nothing else, and had lost nothing before.
    has_all: bool,
}

#[derive(Debug, Default)]
struct Outbox {
    messages: Mutex<Vec<(NodeId, Message)>>,
    commands: Mutex<Vec<Command>>,
}

impl Replicator for Outbox {
    fn send(&self, to: NodeId, message: Message) {
        self.messages.lock().push((to, message));
    }

    fn command(&self, command: Command) {
        self.commands.lock().push(command);
    }
}

/// Makes the topic of groups, of little files.
fn groups_topic(log: &Log) -> Result<Topic> {
    let topic = log.create_topic_with_id(GROUPS.topic, "__consumer_offsets", TopicConfig::default())?;
    // A segment is full when its index is.
    let small = topic.config().segment_bytes(1 << 20).set("segment.index.bytes", "240")?;
    let small = small.set("index.interval.bytes", "100")?;
    if topic.config() != small {
        log.alter_topic("__consumer_offsets", small)?;
    }
    Ok(topic)
}

/// Short times, so that they pass often.
pub(super) const TIMING: ReplicaTiming = ReplicaTiming {
    lag_time: Duration::from_millis(400),
    fetch_wait: Duration::from_millis(40),
    commit_delay: Duration::from_millis(5),
    retry: Duration::from_millis(100),
    backoff: Duration::from_millis(20),
    max_bytes: 400,
};

impl Node {
    pub(super) fn new(id: NodeId, seed: u64, clock: &Arc<SimClock>) -> Self {
        let options = DiskOptions { blind: true, ..DiskOptions::default() };
        let image = SimDisk::new(options).image();
        Self {
            id,
            disk: SimDisk::on(image, Arc::clone(clock)),
            clock: Arc::clone(clock),
            log: None,
            partition: None,
            groups: None,
            member: None,
            outbox: Arc::default(),
            is_registered: false,
            entropy: Rng::stream(seed, &format!("node {id}")),
            next_wake: None,
            wakes_at: None,
            paused_until: 0,
            seen: [None; 2],
            old: None,
            is_broken: false,
            is_armed: false,
            was_full: false,
            has_failed: false,
            has_all: false,
        }
    }

    /// Opens the log, and makes the topics if they are not there. Whether that was possible.
    pub(super) fn open(&mut self, options: &Options) -> bool {
        let outbox = Arc::new(Outbox::default());
        let opened = Log::builder(Path::new("/log"))
            .disk(self.disk.clone())
            .clock(self.clock.clone())
            .entropy(Arc::new(SimEntropy::new(self.entropy.draw())))
            .process(7)
            .background(Background::Caller)
            .staging(options.staging())
            .layout(LAYOUT)
            .linger(Duration::from_millis(300))
            .checkpoint_interval(Duration::from_millis(500))
            .replicated(self.id, Arc::clone(&outbox) as Arc<dyn Replicator>)
            .replica_timing(TIMING)
            .open();
        let made = opened.and_then(|log| {
            let topic = log.create_topic_with_id(TOPIC_ID, TOPIC, options.topic())?;
            let groups = match options.has_groups {
                true => Some(groups_topic(&log)?),
                false => None,
            };
            Ok((log, topic.partition(0), groups.map(|groups| groups.partition(0))))
        });
        match made {
            Ok((log, partition, groups)) => {
                self.member = log.member();
                (self.partition, self.groups) = (partition.ok(), groups.and_then(Result::ok));
                self.log = Some(log);
                self.outbox = outbox;
                // Of its first life, until a later copy is kept.
                self.old.get_or_insert_with(|| self.disk.image());
                (self.is_registered, self.is_broken, self.seen) = (false, false, [None; 2]);
                true
            }
            Err(_) => false,
        }
    }

    /// Ends the life of the process. What it would do from here on does not count.
    pub(super) fn die(&mut self, image: Image) {
        self.has_all = false;
        self.disk.power_off();
        (self.is_armed, self.was_full, self.has_failed) = (false, false, false);
        (self.log, self.partition, self.groups, self.member) = (None, None, None, None);
        (self.outbox, self.next_wake, self.seen) = (Arc::default(), None, [None; 2]);
        self.disk = SimDisk::on(image, Arc::clone(&self.clock));
    }

    /// As [`die`](Self::die), and the disk stays as it is.
    pub(super) fn die_alone(&mut self) {
        let registration = self.log.as_ref().and_then(Log::registration);
        let had_all = matches!(registration, Some(Command::NodeUp { lost: Loss::Nothing, .. }));
        // One that it has not heard of since it was started is not known to be as it was.
        let has_role = |id: &PartitionId| self.log.as_ref().and_then(|log| log.replication(*id)).is_some();
        let held = [ID, GROUPS].into_iter().filter(|id| self.partition_of(*id).is_some());
        let has_all = had_all && !self.was_full && !self.has_failed && held.into_iter().all(|id| has_role(&id));
        self.die(self.disk.image());
        self.has_all = has_all;
    }

    /// Whether it says that it has less than it acknowledged, though it was only killed.
    pub(super) fn lost_for_nothing(&self) -> bool {
        let registration = self.log.as_ref().and_then(Log::registration);
        self.has_all && matches!(registration, Some(Command::NodeUp { lost: Loss::Partitions(_), .. }))
    }

    pub(super) fn registration(&self) -> Option<Command> {
        self.log.as_ref().filter(|_| !self.is_registered).and_then(Log::registration)
    }

    /// Whether it has not been heard of yet.
    pub(super) fn says_who_it_is(&self) -> bool {
        self.log.is_none() || !self.is_registered
    }

    pub(super) fn forgotten(&mut self) {
        self.is_registered = false;
    }

    pub(super) fn registered(&mut self) {
        self.is_registered = self.log.as_ref().is_some_and(|log| log.registered().is_ok());
    }

    pub(super) fn receive(&mut self, from: NodeId, message: Message) {
        let received = self.log.as_ref().map(|log| log.receive(from, message));
        self.note(received);
        self.wake();
    }

    pub(super) fn assume(&mut self, assignment: &Assignment) {
        let assumed = self.log.as_ref().map(|log| log.assume(assignment));
        self.note(assumed);
        self.wake();
    }

    pub(super) fn wake(&mut self) {
        let Some(log) = &self.log else { return };
        let maintained = log.maintain();
        let next = maintained.as_ref().map_or(Duration::from_millis(50), |done| done.next);
        self.next_wake = Some((self.clock.monotonic() + next).as_millis() as u64 + 1);
        self.note(Some(maintained.map(drop)));
    }

    fn note(&mut self, result: Option<Result<()>>) {
        if let Some(Err(Error::Poisoned { .. })) = &result {
            self.is_broken = true;
        }
        if let Some(Err(error)) = &result
            && error.kind() == ErrorKind::Corrupt
        {
            self.is_broken = true;
        }
    }

    pub(super) fn take_outbox(&mut self) -> (Vec<(NodeId, Message)>, Vec<Command>) {
        (std::mem::take(&mut self.outbox.messages.lock()), std::mem::take(&mut self.outbox.commands.lock()))
    }

    /// Under which epoch it leads, if it does.
    pub(super) fn leads(&self, id: PartitionId) -> Option<LeaderEpoch> {
        let state = self.log.as_ref().and_then(|log| log.replication(id)).filter(|state| state.is_leader);
        state.map(|state| state.assignment.leader_epoch)
    }

    /// The partition of this id, if it is open.
    pub(super) fn partition_of(&self, id: PartitionId) -> Option<&Partition> {
        if id == ID { self.partition.as_ref() } else { self.groups.as_ref() }
    }

    pub(super) fn describe(&self) -> String {
        let mut text = format!("node {}: broken {}", self.id, self.is_broken);
        for id in [ID, GROUPS] {
            let Some(partition) = self.partition_of(id) else { continue };
            let state = self.log.as_ref().and_then(|log| log.replication(id));
            text.push_str(&format!("; {:?} {:?} {state:?}", partition.offsets(), partition.leader_epochs()));
        }
        text
    }
}
