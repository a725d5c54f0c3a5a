//! Agreement on commands: a raft group of the same nodes, whose log is chiplog's, and whose state is a [`Controller`].

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Cursor, ErrorKind};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use chiplog::Log;
use chiplog::openraft::RaftLog;
use chiplog::replica::{Command, Controller, ReservedIds};
use openraft::error::{Infallible, InstallSnapshotError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{
    AnyError, BasicNode, Config, Entry, EntryPayload, LogId, OptionalSend, Raft, RaftSnapshotBuilder, SnapshotMeta,
    SnapshotPolicy, StorageError, StorageIOError, StoredMembership,
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::Result;
use crate::wire::{self, Answer, Place, Request, Rpc};

// What is agreed on is a command, in bytes.
openraft::declare_raft_types!(pub(crate) Types: D = Vec<u8>, R = (), NodeId = u32);

type Stored<T> = Result<T, StorageError<u32>>;
type Called<T, E = Infallible> = Result<T, RPCError<u32, BasicNode, RaftError<u32, E>>>;
type Meta = SnapshotMeta<u32, BasicNode>;

/// A node's part in the agreement.
/// Something was decided; it may be that a node may give out some producer ids.
pub(crate) type News = Option<ReservedIds>;

pub(crate) struct Agreement {
    place: Arc<Place>,
    raft: Raft<Types>,
    machine: Machine,
}

impl Agreement {
    /// Takes part. Says by `changed` what was decided.
    pub(crate) async fn start(place: &Arc<Place>, changed: Sender<News>) -> Result<Self> {
        let config = Config {
            heartbeat_interval: 100,
            election_timeout_min: 300,
            election_timeout_max: 600,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(100),
            max_in_snapshot_log_to_keep: 20,
            ..Config::default()
        };
        // A log of its own, that is not replicated. Openraft keeps it open.
        let log = RaftLog::open(&Log::open(place.dir.join("raft"))?, "raft", 0)?;
        let machine = Machine::open(place, changed)?;
        let ways = Ways(Arc::clone(place));
        let raft = Raft::new(place.id, Arc::new(config.validate()?), ways, log, machine.clone()).await?;
        if place.id == 1 && !raft.is_initialized().await? {
            let nodes = place.ports.keys().map(|id| (*id, BasicNode::default()));
            raft.initialize(nodes.collect::<BTreeMap<_, _>>()).await?;
        }
        Ok(Self { place: Arc::clone(place), raft, machine })
    }

    /// What was decided, as far as it is known here.
    pub(crate) fn controller(&self) -> Controller {
        self.machine.now.lock().controller.clone()
    }

    /// The node that leads the agreement. It has nothing to do with who leads a partition.
    pub(crate) fn leader(&self) -> Option<u32> {
        self.raft.metrics().borrow().current_leader
    }

    /// That openraft goes on. It does not when its storage has failed.
    pub(crate) fn check(&self) -> Result<()> {
        Ok(self.raft.metrics().borrow().running_state.clone()?)
    }

    /// Has a command agreed on, wherever the leader is. Gives up after a while: what matters is said again.
    pub(crate) async fn propose(&self, command: &Command) {
        for _ in 0..10 {
            let answer = match self.leader() {
                Some(leader) if leader == self.place.id => Ok(self.write(command.encode()).await),
                Some(leader) if !self.place.is_cut() => {
                    wire::ask(self.place.ports[&leader], Request::Propose(command.encode())).await
                }
                _ => Err(ErrorKind::NotFound.into()),
            };
            if matches!(answer, Ok(Answer::Done)) {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Writes a command into the log of the agreement, as its leader.
    pub(crate) async fn write(&self, command: Vec<u8>) -> Answer {
        // A leader that is cut off does not come to an end with it.
        match timeout(Duration::from_secs(1), self.raft.client_write(command)).await {
            Ok(Ok(_)) => Answer::Done,
            _ => Answer::NotLeader(None),
        }
    }

    pub(crate) async fn receive(&self, from: u32, rpc: Rpc) -> Answer {
        self.place.hear(from);
        let answer = match rpc {
            Rpc::Append(rpc) => serde_json::to_value(self.raft.append_entries(rpc).await),
            Rpc::Vote(rpc) => serde_json::to_value(self.raft.vote(rpc).await),
            Rpc::Snapshot(rpc) => serde_json::to_value(self.raft.install_snapshot(rpc).await),
        };
        answer.map_or_else(|error| Answer::Failed(error.to_string()), Answer::Raft)
    }
}

/// The ways to all nodes.
struct Ways(Arc<Place>);

/// The way to one of them.
struct Way {
    place: Arc<Place>,
    to: u32,
    stream: Option<TcpStream>,
}

impl RaftNetworkFactory<Types> for Ways {
    type Network = Way;

    async fn new_client(&mut self, to: u32, _: &BasicNode) -> Way {
        Way { place: Arc::clone(&self.0), to, stream: None }
    }
}

impl Way {
    async fn call<T, E>(&mut self, rpc: Rpc, option: RPCOption) -> Called<T, E>
    where
        T: DeserializeOwned,
        E: std::error::Error + DeserializeOwned,
    {
        let answered = timeout(option.soft_ttl(), self.exchange(rpc)).await.unwrap_or_else(|late| Err(late.into()));
        let answer: Result<T, _> = answered.map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))?;
        answer.map_err(|error: RaftError<u32, E>| RPCError::RemoteError(RemoteError::new(self.to, error)))
    }

    async fn exchange<T: DeserializeOwned>(&mut self, rpc: Rpc) -> io::Result<T> {
        if self.place.is_cut() {
            return Err(ErrorKind::NetworkUnreachable.into());
        }
        // Taken out: if this ends early, what is left of the answer is not taken for the next one.
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => wire::connect(self.place.ports[&self.to]).await?,
        };
        let Answer::Raft(answer) = wire::exchange(&mut stream, Request::Raft(self.place.id, rpc)).await? else {
            return Err(wire::invalid("an answer to something else"));
        };
        self.stream = Some(stream);
        self.place.hear(self.to);
        Ok(serde_json::from_value(answer)?)
    }
}

impl RaftNetwork<Types> for Way {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Called<AppendEntriesResponse<u32>> {
        self.call(Rpc::Append(rpc), option).await
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<Types>,
        option: RPCOption,
    ) -> Called<InstallSnapshotResponse<u32>, InstallSnapshotError> {
        self.call(Rpc::Snapshot(rpc), option).await
    }

    async fn vote(&mut self, rpc: VoteRequest<u32>, option: RPCOption) -> Called<VoteResponse<u32>> {
        self.call(Rpc::Vote(rpc), option).await
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(Duration::from_millis(100)))
    }
}

/// The controller of this node, as far as commands are applied here. Its clones are one machine.
#[derive(Clone)]
struct Machine {
    place: Arc<Place>,
    now: Arc<Mutex<Applied>>,
    changed: Sender<News>,
}

#[derive(Default)]
struct Applied {
    meta: Meta,
    controller: Controller,
}

impl Machine {
    /// Begins with the last snapshot: what came after it is in the raft log.
    fn open(place: &Arc<Place>, changed: Sender<News>) -> Result<Self> {
        let machine = Self { place: Arc::clone(place), now: Arc::default(), changed };
        if let Some((meta, bytes)) = machine.snapshot()? {
            *machine.now.lock() = Applied { meta, controller: Controller::decode(&bytes)? };
        }
        Ok(machine)
    }

    fn snapshot(&self) -> io::Result<Option<(Meta, Vec<u8>)>> {
        match fs::read(self.place.dir.join("snapshot")) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps a snapshot. Durable when this returns: the raft log gives up what is in it.
    fn keep(&self, meta: &Meta, bytes: &[u8]) -> io::Result<()> {
        let [new, path] = ["snapshot.new", "snapshot"].map(|name| self.place.dir.join(name));
        fs::write(&new, serde_json::to_vec(&(meta, bytes))?)?;
        File::open(&new)?.sync_all()?;
        fs::rename(&new, path)?;
        File::open(&self.place.dir)?.sync_all()
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Stored<Snapshot<Types>> {
        // Locked to the end, so that the file gets no older.
        let mut now = self.now.lock();
        now.meta.snapshot_id = now.meta.last_log_id.map(|last| last.to_string()).unwrap_or_default();
        let (meta, bytes) = (now.meta.clone(), now.controller.encode());
        self.keep(&meta, &bytes).map_err(|error| StorageIOError::write_snapshot(None, &error))?;
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Stored<(Option<LogId<u32>>, StoredMembership<u32, BasicNode>)> {
        let meta = &self.now.lock().meta;
        Ok((meta.last_log_id, meta.last_membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Stored<Vec<()>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (mut now, mut done) = (self.now.lock(), Vec::new());
        for Entry { log_id, payload } in entries {
            match payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(bytes) => {
                    let command = Command::decode(&bytes).map_err(|error| StorageIOError::apply(log_id, &error))?;
                    // Refused is what is late. Who still wants it looks at the assignment, and asks anew.
                    let outcome = now.controller.apply(&command).unwrap_or_default();
                    let _ = self.changed.send(outcome.reserved);
                }
                EntryPayload::Membership(to) => now.meta.last_membership = StoredMembership::new(Some(log_id), to),
            }
            now.meta.last_log_id = Some(log_id);
            done.push(());
        }
        Ok(done)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Stored<Box<Cursor<Vec<u8>>>> {
        Ok(Box::default())
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: Box<Cursor<Vec<u8>>>) -> Stored<()> {
        let failed = |error: AnyError| StorageIOError::write_snapshot(Some(meta.signature()), error);
        let (bytes, mut now) = (snapshot.into_inner(), self.now.lock());
        let controller = Controller::decode(&bytes).map_err(|error| failed(AnyError::new(&error)))?;
        self.keep(meta, &bytes).map_err(|error| failed(AnyError::new(&error)))?;
        *now = Applied { meta: meta.clone(), controller };
        let _ = self.changed.send(None);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Stored<Option<Snapshot<Types>>> {
        let kept = self.snapshot().map_err(|error| StorageIOError::read_snapshot(None, &error))?;
        Ok(kept.map(|(meta, bytes)| Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) }))
    }
}
