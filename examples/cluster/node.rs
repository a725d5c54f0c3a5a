//! A process of the cluster: a replicated log, its part in the agreement, and who asks for something over TCP.
//!
//! ```text
//!  other nodes --Message--> Log --Message--> queues of the transport --> other nodes
//!                           ^ |
//!                  assume   | | command
//!                           | v
//!  other nodes --Rpc-----> Agreement (a Controller on each node) --Rpc--> other nodes
//!  a client --Append--> Partition, if it is led here
//! ```

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{self as sync, RecvTimeoutError};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use chiplog::record::{BatchBuilder, BatchOptions, Producer, Record};
use chiplog::replica::{Command, Message, PartitionId};
use chiplog::{
    Ack, Error, Log, NodeId, Offset, Partition, ProducerEpoch, ProducerId, Replicator, Timestamp, TopicConfig,
    TopicId,
};
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::block_in_place;
use tokio::time::sleep;

use crate::Result;
use crate::raft::{Agreement, News};
use crate::wire::{self, Answer, Frame, Place, Request, Status};

pub(crate) const TOPIC: &str = "lines";
const ID: PartitionId = PartitionId { topic: TopicId::from_bytes(*b"lines of a file."), partition: 0 };

type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

struct Node {
    place: Arc<Place>,
    log: Log,
    partition: Partition,
    agreement: Agreement,
}

/// Hands messages to the tasks that send them, and commands to the one that has them agreed on.
#[derive(Debug)]
struct Transport {
    peers: BTreeMap<NodeId, mpsc::Sender<Message>>,
    commands: mpsc::UnboundedSender<Command>,
}

impl Replicator for Transport {
    fn send(&self, to: NodeId, message: Message) {
        // What does not go into the queue is lost, and asked for again.
        let _ = self.peers.get(&to).map(|peer| peer.try_send(message));
    }

    fn command(&self, command: Command) {
        let _ = self.commands.send(command);
    }
}

/// Lives until it is killed, or something fails that no other try mends.
pub(crate) async fn run(place: Place) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", place.ports[&place.id])).await?;
    let (place, mut peers) = (Arc::new(place), BTreeMap::new());
    for (id, port) in place.ports.iter().filter(|(id, _)| **id != place.id) {
        let (peer, queue) = mpsc::channel(256);
        peers.insert(NodeId(*id), peer);
        tokio::spawn(send_all(Arc::clone(&place), *port, queue));
    }
    let (commands, mut to_agree) = mpsc::unbounded_channel();
    let transport = Arc::new(Transport { peers, commands });
    let log = Log::builder(place.dir.join("data")).replicated(NodeId(place.id), transport).open()?;
    let config = TopicConfig::default().retention_time(None).segment_bytes(16 << 20);
    let partition = log.create_topic_with_id(ID.topic, TOPIC, config)?.partition(0)?;
    let (changed, changes) = sync::channel();
    let agreement = Agreement::start(&place, changed).await?;

    let node = Arc::new(Node { place, log, partition, agreement });
    let (accepting, assuming, agreeing) = (Arc::clone(&node), Arc::clone(&node), Arc::clone(&node));
    thread::spawn(move || assuming.assume_all(&changes));
    tokio::spawn(async move {
        while let Some(command) = to_agree.recv().await {
            let node = Arc::clone(&agreeing);
            tokio::spawn(async move { node.agreement.propose(&command).await });
        }
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A connection ends when the other side ends it, or sends what nobody understands.
            tokio::spawn(Arc::clone(&accepting).serve(stream));
        }
    });
    loop {
        node.agreement.check()?;
        node.tend().await?;
        sleep(Duration::from_millis(100)).await;
    }
}

/// Sends what comes into the queue, on a connection that is made anew when it breaks.
async fn send_all(place: Arc<Place>, port: u16, mut queue: mpsc::Receiver<Message>) {
    // Nothing comes back on it but its end. What is written behind that is lost, and asked for again only in a second.
    let is_open = |stream: &TcpStream| stream.try_read(&mut [0]).is_err_and(|no| no.kind() == ErrorKind::WouldBlock);
    let mut stream = None;
    while let Some(message) = queue.recv().await {
        if !stream.as_ref().is_some_and(is_open) {
            stream = wire::connect(port).await.ok();
        }
        if let Some(connected) = stream.as_mut().filter(|_| !place.is_cut())
            && wire::write(connected, &Frame::Message(place.id, message)).await.is_err()
        {
            stream = None;
        }
    }
}

impl Node {
    /// Takes what was decided, whenever something was, and all of it again each second.
    fn assume_all(&self, changes: &sync::Receiver<News>) {
        loop {
            let first = match changes.recv_timeout(Duration::from_secs(1)) {
                Err(RecvTimeoutError::Disconnected) => return,
                news => news.ok(),
            };
            // Those that are lost in a crash are asked for anew; those of other nodes are passed over.
            for reserved in first.into_iter().chain(changes.try_iter()).flatten() {
                if let Err(error) = self.log.take_producer_ids(&reserved) {
                    eprintln!("node {}: {error}", self.place.id);
                }
            }
            for assignment in self.agreement.controller().assignments() {
                if let Err(error) = self.log.assume(assignment) {
                    eprintln!("node {}: {error}", self.place.id);
                }
            }
        }
    }

    /// Sees to it that this node counts as alive; and, if it leads the agreement, that those which are silent do not.
    async fn tend(&self) -> Result<()> {
        let controller = self.agreement.controller();
        let (Some(member), Some(registration)) = (self.log.member(), self.log.registration()) else { return Ok(()) };
        if controller.is_live(member) {
            // It is known to be applied: lives before this one may be forgotten.
            block_in_place(|| self.log.registered())?;
        } else {
            // Refused is a life that is over. Who is started again begins another one.
            controller.clone().apply(&registration)?;
            self.agreement.propose(&registration).await;
        }
        if self.agreement.leader() != Some(self.place.id) || self.place.is_cut() {
            return Ok(());
        }
        let live: Vec<_> = controller.nodes().filter(|member| controller.is_live(*member)).collect();
        for member in live.iter().filter(|member| member.node.0 != self.place.id) {
            if self.place.silence(member.node.0) > SILENCE {
                self.agreement.propose(&Command::NodeDown { member: *member }).await;
            }
        }
        if controller.assignment(ID).is_none() && live.len() == self.place.ports.len() {
            let replicas = live.iter().map(|member| member.node).collect();
            self.agreement.propose(&Command::Create { id: ID, replicas, min_in_sync: 2 }).await;
        }
        Ok(())
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let (reader, mut writer) = stream.into_split();
        let (mut reader, (answers, mut queue)) = (BufReader::new(reader), mpsc::channel(1_024));
        tokio::spawn(async move {
            while let Some((number, answer)) = queue.recv().await {
                wire::write(&mut writer, &Frame::Answer(number, answer)).await?;
            }
            io::Result::Ok(())
        });
        loop {
            let frame = wire::read(&mut reader).await?;
            let is_control = matches!(frame, Frame::Request(_, Request::Status | Request::Cut(_)));
            match frame {
                _ if self.place.is_cut() && !is_control => {}
                Frame::Message(from, message) => {
                    self.place.hear(from);
                    // One for a partition in which no role was assumed yet is said again.
                    let _ = block_in_place(|| self.log.receive(NodeId(from), message));
                }
                Frame::Request(number, request) => {
                    let (place, answers) = (Arc::clone(&self.place), answers.clone());
                    let answer = Arc::clone(&self).answer(request);
                    tokio::spawn(async move {
                        let answer = answer.await;
                        if is_control || !place.is_cut() {
                            let _ = answers.send((number, answer)).await;
                        }
                    });
                }
                Frame::Answer(..) => return Err(wire::invalid("an answer to nothing")),
            }
        }
    }

    /// Appends at once, so that lines keep their order. What has to be waited for comes of the future.
    fn answer(self: Arc<Self>, request: Request) -> Later<Answer> {
        match request {
            Request::NewProducer => {
                let id = self.log.new_producer_id();
                Box::pin(async move {
                    id.map_or_else(|error| Answer::Failed(error.to_string()), |id| Answer::Producer(id.0))
                })
            }
            Request::Append(producer, sequence, lines) => {
                let appended = block_in_place(|| self.append(producer, sequence, &lines));
                Box::pin(async move {
                    let acked = match appended {
                        Ok((offset, acked)) => acked.await.map(|()| offset),
                        Err(error) => Err(error),
                    };
                    match acked {
                        Ok(offset) => Answer::Acked(offset.0),
                        Err(Error::NotLeader { leader, .. }) => Answer::NotLeader(leader.map(|leader| leader.0)),
                        Err(error) => Answer::Failed(error.to_string()),
                    }
                })
            }
            Request::Propose(command) => Box::pin(async move { self.agreement.write(command).await }),
            Request::Raft(from, rpc) => Box::pin(async move { self.agreement.receive(from, rpc).await }),
            Request::Status => Box::pin(async move { Answer::Status(self.status()) }),
            Request::Cut(ms) => Box::pin(async move {
                self.place.cut(Duration::from_millis(ms));
                Answer::Done
            }),
        }
    }

    /// Appends one batch, if it is not there already.
    fn append(
        &self,
        id: i64,
        base_sequence: i32,
        lines: &[String],
    ) -> Result<(Offset, Later<Result<(), Error>>), Error> {
        let (id, epoch) = (ProducerId(id), ProducerEpoch(0));
        let producer = Producer { id, epoch, base_sequence, is_transactional: false };
        let now = UNIX_EPOCH.elapsed().unwrap_or_default().as_millis() as i64;
        let mut builder = BatchBuilder::new();
        builder.begin(BatchOptions::default().producer(producer));
        for line in lines {
            builder.push(&Record::new(&**line), Timestamp(now))?;
        }
        let appended = self.partition.append_raw(builder.finish()?)?;
        Ok((appended.offset(), Box::pin(appended.acked(Ack::Replicated))))
    }

    fn status(&self) -> Status {
        let (offsets, state) = (self.partition.offsets(), self.log.replication(ID));
        let assignment = state.as_ref().map(|state| &state.assignment);
        Status {
            leader: assignment.and_then(|known| known.leader).map(|leader| leader.node.0),
            in_sync: assignment.map_or(0, |known| known.in_sync.len()),
            committed: offsets.committed.0,
            end: offsets.end.0,
            halted: state.and_then(|state| state.halted).map(|halt| format!("{halt:?}")),
        }
    }
}

/// After which time a node of which nothing is heard is taken for dead. A false alarm costs an election.
const SILENCE: Duration = Duration::from_millis(500);
