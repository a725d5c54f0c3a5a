//! Three nodes that hold one partition, in one process. Channels stand for a network: what is timed is replication itself.
//!
//! ```text
//! node 1: Log --message--> channel --> thread of node 2: Log::receive
//!   ^      '-----command--> controller, applied in place
//!   '---- assignment: Log::assume of each ----'
//! ```

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use chiplog::replica::{Assignment, Command, Controller, Message, PartitionId};
use chiplog::{Log, NodeId, Offset, Partition, Replicator, TopicConfig, TopicId};
use parking_lot::Mutex;

use super::TOPIC;
use crate::suite::system::Sum;
use crate::suite::work::unprepared;

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
const ID: PartitionId = PartitionId { topic: TopicId::from_bytes(*b"a topic of bench"), partition: 0 };

/// Those of the three nodes that are open. The first one leads; what it has is committed once all that are in sync have it,
/// which have to be two at least. Nothing is synced.
pub(super) struct Nodes {
    dir: PathBuf,
    shared: Arc<Shared>,
    /// Of those that are not open yet.
    inboxes: VecDeque<Receiver<Sent>>,
    open: Vec<Node>,
}

struct Node {
    log: Log,
    thread: JoinHandle<()>,
}

/// A message, and who sent it; or nothing, which ends the thread that takes them.
type Sent = Option<(NodeId, Message)>;

/// What every node reaches.
#[derive(Debug)]
struct Shared {
    controller: Mutex<Controller>,
    /// Those that are told what is decided.
    logs: Mutex<Vec<Log>>,
    senders: Vec<Sender<Sent>>,
}

#[derive(Debug)]
struct Wire {
    from: NodeId,
    shared: Arc<Shared>,
}

impl Replicator for Wire {
    fn send(&self, to: NodeId, message: Message) {
        if let Some(at) = NODES.iter().position(|node| *node == to) {
            let _ = self.shared.senders[at].send(Some((self.from, message)));
        }
    }

    fn command(&self, command: Command) {
        self.shared.apply(&command);
    }
}

impl Shared {
    fn apply(&self, command: &Command) {
        // A refusal needs no answer: who asked looks at the next assignment, and asks again.
        let _ = self.controller.lock().apply(command);
        self.tell();
    }

    /// Tells all of what was decided. What they know already changes nothing.
    fn tell(&self) {
        let assignments: Vec<Assignment> = self.controller.lock().assignments().cloned().collect();
        let logs = self.logs.lock().clone();
        for log in &logs {
            assignments.iter().for_each(|assignment| drop(log.assume(assignment)));
        }
    }
}

impl Nodes {
    /// Opens the first `count` of them, which are in sync from the start.
    pub(super) fn start(dir: &Path, count: usize) -> io::Result<Self> {
        let (senders, inboxes) = NODES.iter().map(|_| channel()).unzip();
        let shared = Arc::new(Shared { controller: Mutex::default(), logs: Mutex::default(), senders });
        let mut nodes = Self { dir: dir.to_owned(), shared, inboxes, open: Vec::new() };
        for _ in 0..count {
            nodes.open_next()?;
            nodes.join_last();
        }
        nodes.shared.apply(&Command::Create { id: ID, replicas: NODES.to_vec(), min_in_sync: 2 });
        Ok(nodes)
    }

    /// Opens another one, of which the controller knows, and which has no role yet.
    pub(super) fn open_next(&mut self) -> io::Result<()> {
        let number = self.open.len();
        let inbox = self.inboxes.pop_front().ok_or_else(unprepared)?;
        let wire = Wire { from: NODES[number], shared: Arc::clone(&self.shared) };
        let builder = Log::builder(node_dir(&self.dir, number)).replicated(NODES[number], Arc::new(wire));
        let log = builder.open().map_err(io::Error::other)?;
        log.create_topic_with_id(ID.topic, TOPIC, TopicConfig::default()).map_err(io::Error::other)?;
        self.shared.apply(&log.registration().ok_or_else(unprepared)?);
        log.registered().map_err(io::Error::other)?;
        let of_thread = log.clone();
        let thread = thread::spawn(move || {
            while let Ok(Some((from, message))) = inbox.recv() {
                // It fails where no role was assumed yet: the sender says it again.
                let _ = of_thread.receive(from, message);
            }
        });
        self.open.push(Node { log, thread });
        Ok(())
    }

    /// Tells the one that was opened last of its role, now and from now on.
    pub(super) fn join_last(&self) {
        self.shared.logs.lock().extend(self.open.last().map(|node| node.log.clone()));
        self.shared.tell();
    }

    /// The partition on one of them, counted from 0.
    pub(super) fn partition(&self, number: usize) -> io::Result<Partition> {
        let topic = self.open[number].log.topic(TOPIC).map_err(io::Error::other)?;
        topic.partition(0).map_err(io::Error::other)
    }

    /// Closes all, and reads what each of them has.
    pub(super) fn close_and_read(self) -> io::Result<Vec<Sum>> {
        let Self { dir, shared, open, .. } = self;
        let count = open.len();
        shared.logs.lock().clear();
        shared.senders.iter().for_each(|sender| drop(sender.send(None)));
        for Node { log, thread } in open {
            thread.join().map_err(|_| io::Error::other("a panic"))?;
            log.close().map_err(io::Error::other)?;
        }
        (0..count).map(|number| read(&node_dir(&dir, number)).map_err(io::Error::other)).collect()
    }
}

fn node_dir(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("node-{}", NODES[number]))
}

/// All that a node holds, committed or not.
fn read(dir: &Path) -> chiplog::Result<Sum> {
    let log = Log::builder(dir).read_only().open()?;
    let partition = log.topic(TOPIC)?.partition(0)?;
    let (mut reader, mut at, mut sum) = (partition.reader(), Offset::ZERO, Sum::default());
    while at < partition.offsets().end {
        let records = reader.read(at)?;
        records.iter().for_each(|record| sum.add(record.value.unwrap_or_default()));
        at = records.next_offset();
    }
    log.close()?;
    Ok(sum)
}
