//! Three nodes that hold one topic, in one process: a node goes down and comes back, and nothing acknowledged is lost, nor what a
//! group has committed.
//!
//! ```text
//!   node 1: Log --message--> channel --> thread of node 2: log.receive
//!      ^   '--command--> channel --> thread of the controller
//!      '------- assignment: log.assume ------'
//! ```
//!
//! Channels stand for a network, and threads for machines. To begin with, copy it and replace [`Wire`]. What several
//! processes need besides, the example `cluster` shows: agreement on commands, and noticing who is silent.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use chiplog::replica::{Command, Controller, Message, PartitionId};
use chiplog::{Ack, ErrorKind, Group, Log, NodeId, Offset, Partition, Replicator, TopicConfig, TopicId};
use parking_lot::Mutex;

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
const TOPIC: &str = "payments";
/// The same on each node: draw one when a topic is made, and never use it again.
const ID: PartitionId = PartitionId { topic: TopicId::from_bytes(*b"payments, first."), partition: 0 };
/// Where groups are kept: a topic like the other.
const GROUPS: PartitionId = PartitionId { topic: TopicId::from_bytes(*b"groups of these."), partition: 0 };

/// The way from one node to all others. A message may be lost here, or late, or come twice.
#[derive(Debug)]
struct Wire {
    from: NodeId,
    inboxes: Arc<Inboxes>,
    commands: Sender<Command>,
}

type Inboxes = Mutex<BTreeMap<NodeId, Sender<(NodeId, Message)>>>;

impl Replicator for Wire {
    fn send(&self, to: NodeId, message: Message) {
        // Who is not there does not get it, and is asked again.
        if let Some(inbox) = self.inboxes.lock().get(&to) {
            let _ = inbox.send((self.from, message));
        }
    }

    fn command(&self, command: Command) {
        // Not applied here: what comes of it is told to this log, whose thread this may be.
        let _ = self.commands.send(command);
    }
}

struct Node {
    log: Log,
    thread: JoinHandle<()>,
}

/// The nodes that run.
struct Cluster<'d> {
    dir: &'d Path,
    nodes: Mutex<BTreeMap<NodeId, Node>>,
    inboxes: Arc<Inboxes>,
    commands: Sender<Command>,
    is_over: AtomicBool,
}

impl Cluster<'_> {
    /// Starts a node, for the first time or again: its directory remembers who it was.
    fn start(&self, id: NodeId) -> Result<()> {
        let wire = Wire { from: id, inboxes: Arc::clone(&self.inboxes), commands: self.commands.clone() };
        let log = Log::builder(self.dir.join(format!("node-{id}"))).replicated(id, Arc::new(wire)).open()?;
        log.create_topic_with_id(ID.topic, TOPIC, TopicConfig::default().retention_time(None))?;
        log.create_topic_with_id(GROUPS.topic, "__consumer_offsets", TopicConfig::default())?;
        let (inbox, messages) = channel();
        let of_thread = log.clone();
        let thread = thread::spawn(move || {
            for (from, message) in messages {
                // It fails for a partition in which no role was assumed yet: the sender says it again.
                let _ = of_thread.receive(from, message);
            }
        });
        self.inboxes.lock().insert(id, inbox);
        self.nodes.lock().insert(id, Node { log, thread });
        Ok(())
    }

    /// Takes a node away, without a word to the others. Its log is dropped, which closes it: in a process that goes on,
    /// nothing less gives its directory free.
    fn kill(&self, id: NodeId) -> Result<()> {
        self.inboxes.lock().remove(&id);
        let Some(Node { log, thread }) = self.nodes.lock().remove(&id) else { return Ok(()) };
        let member = log.member().ok_or("a log without a node")?;
        thread.join().map_err(|_| "a node panicked")?;
        drop(log);
        // Somebody has to notice. Elsewhere it is silence that tells; a false alarm costs an election.
        Ok(self.commands.send(Command::NodeDown { member })?)
    }

    /// The partition on the node that leads it, which alone takes appends.
    fn leader(&self) -> Result<(NodeId, Partition)> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            for (id, Node { log, .. }) in &*self.nodes.lock() {
                if log.replication(ID).is_some_and(|state| state.is_leader) {
                    return Ok((*id, log.topic(TOPIC)?.partition(0)?));
                }
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err("nobody leads".into())
    }

    /// Asks the node that coordinates a group, whichever that is.
    fn coordinated<R>(&self, ask: impl Fn(&Group) -> chiplog::Result<R>) -> Result<(NodeId, R)> {
        let began = Instant::now();
        loop {
            let groups: chiplog::Result<Vec<_>> =
                self.nodes.lock().iter().map(|(id, node)| Ok((*id, node.log.group("billing")?))).collect();
            for (id, group) in groups? {
                match ask(&group) {
                    Ok(answer) => return Ok((id, answer)),
                    // It leads no more, or not yet, or too few are in sync.
                    Err(error) if error.kind() == ErrorKind::Retry && began.elapsed() < PATIENCE => {}
                    Err(error) => return Err(error.into()),
                }
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until all nodes are in sync, and hold and know the same. Returns where their logs end.
    fn settle(&self) -> Result<Offset> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let (mut ends, mut in_sync) = (Vec::new(), 0);
            for Node { log, .. } in self.nodes.lock().values() {
                let offsets = log.topic(TOPIC)?.partition(0)?.offsets();
                ends.extend([offsets.committed, offsets.end]);
                in_sync = log.replication(ID).map_or(0, |state| state.assignment.in_sync.len());
            }
            if in_sync == NODES.len() && ends.iter().all(|end| *end == ends[0]) {
                return Ok(ends[0]);
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err("the nodes do not come to hold the same".into())
    }
}

/// Applies commands, one after the other, and tells the nodes what comes of them.
fn control(mut controller: Controller, cluster: &Cluster<'_>, commands: &Receiver<Command>) {
    while !cluster.is_over.load(Ordering::Relaxed) {
        let changed = match commands.recv_timeout(AGAIN) {
            // A refusal needs no answer: who asked looks at the next assignment, and asks again.
            Ok(command) => controller.apply(&command).map(|outcome| outcome.changed).unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        let nodes = cluster.nodes.lock();
        nodes.values().for_each(|node| register(&mut controller, &node.log));
        // The latest of each partition must come to each node in the end: what changed at once, and all from time to
        // time.
        let all = if changed.is_empty() { controller.assignments().cloned().collect() } else { changed };
        for (node, assignment) in nodes.values().flat_map(|node| all.iter().map(move |assignment| (node, assignment)))
        {
            // One that is not taken is said again.
            let _ = node.log.assume(assignment);
        }
    }
}

/// Sees to it that a node which runs counts as alive, in the life that it lives. It may be new, or back, or was taken
/// for dead.
fn register(controller: &mut Controller, log: &Log) {
    let (Some(member), Some(registration)) = (log.member(), log.registration()) else { return };
    if !controller.is_live(member) {
        let _ = controller.apply(&registration);
    } else if let Err(error) = log.registered() {
        // Nothing was lost; it is tried again. Only now that it is known to be applied, former lives are forgotten.
        eprintln!("node {}: {error}", member.node);
    }
}

/// Appends values until all are acknowledged, on whichever node leads. What was under way when a leader went is
/// appended again, and may be there twice.
fn append(cluster: &Cluster<'_>, values: std::ops::Range<u64>, acked: &mut Vec<(Offset, String)>) -> Result<()> {
    let values: Vec<_> = values.map(|number| format!("payment {number}")).collect();
    for some in values.chunks(100) {
        let began = Instant::now();
        loop {
            let (_, partition) = cluster.leader()?;
            // All are appended before one is waited for: so they travel together.
            let appended: Result<Vec<_>, _> = some.iter().map(|value| partition.append(&**value)).collect();
            let waited = appended.and_then(|appended| {
                // Without a limit of time. On a machine that may be cut off from all others, await `acked` under one.
                appended.iter().try_for_each(|one| one.wait(Ack::Replicated))?;
                Ok(appended.iter().map(|one| one.offset()).collect::<Vec<_>>())
            });
            match waited {
                Ok(offsets) => break acked.extend(offsets.into_iter().zip(some.iter().cloned())),
                // Another one leads, or will; or too few are in sync.
                Err(_) if began.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(5)),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// All that is committed on a node.
fn values(log: &Log) -> Result<BTreeMap<Offset, String>> {
    let partition = log.topic(TOPIC)?.partition(0)?;
    let (mut values, mut at) = (BTreeMap::new(), partition.offsets().start);
    while at < partition.offsets().committed {
        let records = partition.read(at)?;
        for record in &records {
            values.insert(record.offset, String::from_utf8(record.value.unwrap_or_default().to_vec())?);
        }
        at = records.next_offset();
    }
    Ok(values)
}

fn main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (sender, commands) = channel();
    let (nodes, inboxes, is_over) = (Mutex::default(), Arc::default(), AtomicBool::new(false));
    let cluster = Cluster { dir: dir.path(), nodes, inboxes, commands: sender, is_over };
    let mut controller = Controller::default();
    for id in NODES {
        cluster.start(id)?;
    }
    cluster.nodes.lock().values().for_each(|node| register(&mut controller, &node.log));
    // With two of three in sync, records are still committed; and each of these is on two nodes at least.
    for id in [ID, GROUPS] {
        controller.apply(&Command::Create { id, replicas: NODES.to_vec(), min_in_sync: 2 })?;
    }

    let cluster = &cluster;
    thread::scope(|scope| {
        scope.spawn(move || control(controller, cluster, &commands));
        let done = play(cluster);
        cluster.is_over.store(true, Ordering::Relaxed);
        done
    })
}

fn play(cluster: &Cluster<'_>) -> Result<()> {
    let mut acked = Vec::new();
    append(cluster, 0..2_000, &mut acked)?;
    let (first, partition) = cluster.leader()?;
    println!("node {first} leads; {} records are acknowledged", acked.len());
    let (coordinator, ()) = cluster.coordinated(|group| group.commit(TOPIC, 0, Offset(1_500)))?;
    println!("a group has committed offset 1500 at node {coordinator}");

    // These nobody waits for: whether they stay is open.
    (2_000..2_050).try_for_each(|number| partition.append(&*format!("payment {number}")).map(drop))?;
    drop(partition);
    cluster.kill(first)?;
    let went = Instant::now();
    append(cluster, 2_000..2_001, &mut acked)?;
    println!("node {first} is gone; node {} leads, after {:?}", cluster.leader()?.0, went.elapsed());
    let (next, committed) = cluster.coordinated(|group| group.committed(TOPIC, 0))?;
    if committed.map(|committed| committed.offset) != Some(Offset(1_500)) {
        return Err("what the group has committed is gone".into());
    }
    println!("node {next} coordinates the group, which goes on from there");
    append(cluster, 2_001..4_000, &mut acked)?;

    cluster.start(first)?;
    append(cluster, 4_000..5_000, &mut acked)?;
    let end = cluster.settle()?;
    println!("node {first} is back, and in sync again; {} records are acknowledged", acked.len());

    let stored = cluster.nodes.lock().values().map(|node| values(&node.log)).collect::<Result<Vec<_>>>()?;
    if stored.iter().any(|values| *values != stored[0]) {
        return Err("the nodes differ".into());
    }
    if let Some((offset, value)) = acked.iter().find(|(offset, value)| stored[0].get(offset) != Some(value)) {
        return Err(format!("{value} was acknowledged at offset {offset}, and is not there").into());
    }
    println!(
        "all nodes hold the same {end} records: all that is acknowledged, and {} twice",
        stored[0].len() - acked.len()
    );
    NODES.iter().try_for_each(|id| cluster.kill(*id))
}

/// How often what was decided is said again.
const AGAIN: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(30);
