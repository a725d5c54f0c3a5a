//! What the tests of raft logs share: types, entries, a state machine in memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests fail as tests do")]

use std::future::{Future, poll_fn};
use std::io::Cursor;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{
    BasicNode, CommittedLeaderId, Entry, EntryPayload, LogId, OptionalSend, RaftSnapshotBuilder, SnapshotMeta,
    StorageError, StoredMembership,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::RaftLog;
use crate::Log;

openraft::declare_raft_types!(pub(crate) Types: D = String, R = ());

pub(super) type Stored = RaftLog<Types>;
pub(super) type Outcome<T> = Result<T, StorageError<u64>>;

pub(super) fn id(term: u64, index: u64) -> LogId<u64> {
    LogId::new(CommittedLeaderId::new(term, 1), index)
}

pub(super) fn entry(term: u64, index: u64) -> Entry<Types> {
    with_text(term, index, &format!("{term}/{index}"))
}

pub(super) fn with_text(term: u64, index: u64, text: &str) -> Entry<Types> {
    Entry { log_id: id(term, index), payload: EntryPayload::Normal(text.to_owned()) }
}

/// Runs a future on this thread, and the log's work whenever it waits.
pub(super) fn run<T>(log: &Log, future: impl Future<Output = T>) -> T {
    run_while(log, future).expect("it waits for ever")
}

/// As [`run`]. None if it goes on waiting, as on a full disk until there is space.
pub(super) fn run_while<T>(log: &Log, future: impl Future<Output = T>) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut future = pin!(future);
        let mut left = 100_u32;
        let polled = poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Some(output));
            }
            // What fails here fails who waits for it.
            drop(log.maintain());
            context.waker().wake_by_ref();
            left = left.saturating_sub(1);
            if left == 0 { Poll::Ready(None) } else { Poll::Pending }
        });
        polled.await
    })
}

/// Keeps what it was told, in memory. Its clones are one machine.
#[derive(Debug, Clone, Default)]
pub(super) struct Machine {
    pub(super) now: Arc<Mutex<Applied>>,
    snapshot: Arc<Mutex<Option<Taken>>>,
}

type Taken = (SnapshotMeta<u64, BasicNode>, Vec<u8>);

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Applied {
    last: Option<LogId<u64>>,
    membership: StoredMembership<u64, BasicNode>,
    pub(super) values: Vec<String>,
}

impl Machine {
    /// What the next life begins with: the last snapshot.
    pub(super) fn restart(&self) -> Self {
        let snapshot = self.snapshot.lock().clone();
        let now = snapshot.as_ref().map(|(_, bytes)| serde_json::from_slice(bytes).unwrap()).unwrap_or_default();
        Self { now: Arc::new(Mutex::new(now)), snapshot: Arc::new(Mutex::new(snapshot)) }
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Outcome<Snapshot<Types>> {
        let now = self.now.lock().clone();
        let bytes = serde_json::to_vec(&now).unwrap();
        let snapshot_id = format!("{:?}", now.last);
        let meta = SnapshotMeta { last_log_id: now.last, last_membership: now.membership, snapshot_id };
        *self.snapshot.lock() = Some((meta.clone(), bytes.clone()));
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Outcome<(Option<LogId<u64>>, StoredMembership<u64, BasicNode>)> {
        let now = self.now.lock();
        Ok((now.last, now.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Outcome<Vec<()>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut now = self.now.lock();
        let apply = |entry: Entry<Types>| {
            now.last = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(value) => now.values.push(value),
                EntryPayload::Membership(to) => now.membership = StoredMembership::new(Some(entry.log_id), to),
            }
        };
        Ok(entries.into_iter().map(apply).collect())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Outcome<Box<Cursor<Vec<u8>>>> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, BasicNode>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Outcome<()> {
        let bytes = snapshot.into_inner();
        *self.now.lock() = serde_json::from_slice(&bytes).unwrap();
        *self.snapshot.lock() = Some((meta.clone(), bytes));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Outcome<Option<Snapshot<Types>>> {
        let snapshot = self.snapshot.lock().clone();
        Ok(snapshot.map(|(meta, bytes)| Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) }))
    }
}
