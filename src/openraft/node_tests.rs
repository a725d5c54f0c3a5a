//! Raft logs under openraft: its own suite, and nodes that agree.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{InstallSnapshotError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{BasicNode, Config, Raft, SnapshotPolicy};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::testing::*;
use super::*;

struct Fresh;

impl StoreBuilder<Types, Stored, Machine, (TempDir, Log)> for Fresh {
    async fn build(&self) -> Outcome<((TempDir, Log), Stored, Machine)> {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path()).unwrap();
        let raft_log = RaftLog::open(&log, "raft", 0).unwrap();
        Ok(((dir, log), raft_log, Machine::default()))
    }
}

#[test]
fn the_suite_of_openraft_passes() {
    Suite::test_all(Fresh).unwrap();
}

/// Three nodes, each with a raft log in a partition of one log.
#[derive(Clone, Default)]
struct Nodes {
    running: Arc<Mutex<BTreeMap<u64, Raft<Types>>>>,
}

/// The way to one of them.
struct Way {
    nodes: Nodes,
    to: u64,
}

type Failed<E = openraft::error::Infallible> = RPCError<u64, BasicNode, RaftError<u64, E>>;

impl Way {
    fn node<E: std::error::Error>(&self) -> Result<Raft<Types>, Failed<E>> {
        let unreachable = || RPCError::Unreachable(Unreachable::new(&std::io::Error::other("it is not running")));
        self.nodes.running.lock().get(&self.to).cloned().ok_or_else(unreachable)
    }

    fn failed<E: std::error::Error>(&self, error: RaftError<u64, E>) -> Failed<E> {
        RPCError::RemoteError(RemoteError::new(self.to, error))
    }
}

impl RaftNetworkFactory<Types> for Nodes {
    type Network = Way;

    async fn new_client(&mut self, to: u64, _: &BasicNode) -> Way {
        Way { nodes: self.clone(), to }
    }
}

impl RaftNetwork<Types> for Way {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failed> {
        self.node()?.append_entries(rpc).await.map_err(|error| self.failed(error))
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<Types>,
        _: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failed<InstallSnapshotError>> {
        self.node()?.install_snapshot(rpc).await.map_err(|error| self.failed(error))
    }

    async fn vote(&mut self, rpc: VoteRequest<u64>, _: RPCOption) -> Result<VoteResponse<u64>, Failed> {
        self.node()?.vote(rpc).await.map_err(|error| self.failed(error))
    }
}

impl Nodes {
    const IDS: [u64; 3] = [1, 2, 3];

    async fn start(&self, log: &Log, machines: &BTreeMap<u64, Machine>) {
        let config = Config {
            snapshot_policy: SnapshotPolicy::LogsSinceLast(20),
            max_in_snapshot_log_to_keep: 5,
            purge_batch_size: 1,
            // Slow machines run this beside others.
            heartbeat_interval: 200,
            election_timeout_min: 1_000,
            election_timeout_max: 2_000,
            ..Config::default()
        };
        let config = Arc::new(config.validate().unwrap());
        for (id, machine) in machines {
            let raft_log = Stored::open(log, "raft", u32::try_from(*id).unwrap() - 1).unwrap();
            let raft = Raft::new(*id, Arc::clone(&config), self.clone(), raft_log, machine.clone()).await.unwrap();
            self.running.lock().insert(*id, raft);
        }
    }

    fn raft(&self, id: u64) -> Raft<Types> {
        self.running.lock()[&id].clone()
    }

    async fn leader(&self) -> Raft<Types> {
        let is_there = |metrics: &openraft::RaftMetrics<u64, BasicNode>| metrics.current_leader.is_some();
        let metrics = self.raft(1).wait(PATIENCE).metrics(is_there, "a leader").await.unwrap();
        self.raft(metrics.current_leader.unwrap())
    }

    /// Waits until all have applied all, and have purged.
    async fn settle(&self) -> u64 {
        let last = self.leader().await.metrics().borrow().last_log_index;
        for id in Self::IDS {
            self.raft(id).wait(PATIENCE).applied_index(last, "applied").await.unwrap();
            let has_purged = |metrics: &openraft::RaftMetrics<u64, BasicNode>| metrics.purged.is_some();
            self.raft(id).wait(PATIENCE).metrics(has_purged, "purged").await.unwrap();
        }
        last.unwrap()
    }

    async fn stop(&self) {
        let running = std::mem::take(&mut *self.running.lock());
        for raft in running.into_values() {
            raft.shutdown().await.unwrap();
        }
    }
}

const PATIENCE: Option<Duration> = Some(Duration::from_secs(60));

/// The state machines keep snapshots only: what came after is in the raft logs, and the committed log id says how far.
#[test]
fn nodes_go_on_where_they_were_with_what_they_applied() {
    let dir = tempfile::tempdir().unwrap();
    let mut machines: BTreeMap<u64, Machine> = Nodes::IDS.map(|id| (id, Machine::default())).into();
    let mut expected = Vec::new();
    for life in 0..3 {
        let log = Log::open(dir.path()).unwrap();
        // Little segments, so that purges remove some.
        log.topic_with("raft", topic_config().partitions(3).segment_bytes(4096)).unwrap();
        Runtime::new().unwrap().block_on(async {
            let nodes = Nodes::default();
            nodes.start(&log, &machines).await;
            if life == 0 {
                let members = Nodes::IDS.map(|id| (id, BasicNode::default()));
                nodes.raft(1).initialize(BTreeMap::from(members)).await.unwrap();
            }
            let leader = nodes.leader().await;
            for number in 0..50 {
                let value = format!("{life}.{number}");
                leader.client_write(value.clone()).await.unwrap();
                expected.push(value);
            }
            nodes.settle().await;
            for machine in machines.values() {
                assert_eq!(machine.now.lock().values, expected, "life {life}");
            }
            nodes.stop().await;
        });
        let starts = (0..3).map(|number| log.topic("raft").unwrap().partition(number).unwrap().offsets().start);
        assert!(life == 0 || starts.min().unwrap() > crate::Offset::ZERO, "purges removed nothing");
        log.close().unwrap();
        machines.values_mut().for_each(|machine| *machine = machine.restart());
        let kept = machines.values().map(|machine| machine.now.lock().values.len()).max().unwrap();
        assert!(kept < expected.len() && kept > 0, "{kept} of {}: the raft log is not needed", expected.len());
    }
}
