//! A raft log beside a naive one: whatever is done, and however often it is opened anew, both are the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use proptest::prelude::*;

use super::testing::*;
use super::*;
use crate::log::{Background, LogBuilder, Staging};
use crate::segment::pool::Layout;
use crate::sim::{DiskOptions, SimDisk, SimEntropy};

/// Little slots and batches, so that their ends are near.
const LAYOUT: Layout = Layout { slot_len: 2048, slot_count: 4, batch_len: 300, stride: 256 };

/// Two lives of a log must not draw the same ids.
static OPENED: AtomicU64 = AtomicU64::new(1);

pub(super) fn builder(disk: &Arc<SimDisk>, staging: Staging) -> LogBuilder {
    Log::builder("/log")
        .disk(Arc::<SimDisk>::clone(disk))
        .clock(disk.clock())
        .entropy(Arc::new(SimEntropy::new(OPENED.fetch_add(1, Ordering::Relaxed))))
        .background(Background::Caller)
        .staging(staging)
        .layout(LAYOUT)
        .strict()
}

/// Opens a raft log of little segments, so that a purge removes some.
pub(super) fn open(disk: &Arc<SimDisk>, staging: Staging) -> Result<(Log, Stored), String> {
    let log = builder(disk, staging).open().map_err(|error| format!("no log: {error}"))?;
    let config = topic_config().segment_bytes(700).max_message_bytes(600);
    log.topic_with("raft", config).map_err(|error| format!("no topic: {error}"))?;
    let raft_log = RaftLog::open(&log, "raft", 0).map_err(|error| format!("no raft log: {error:?}"))?;
    Ok((log, raft_log))
}

/// What a raft log must hold.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Model {
    pub(super) vote: Option<Vote<u64>>,
    committed: Option<LogId<u64>>,
    purged: Option<LogId<u64>>,
    pub(super) entries: BTreeMap<u64, LogId<u64>>,
}

/// What openraft asks for, as long as it keeps its own rules.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    Vote(Vote<u64>),
    Append(Vec<LogId<u64>>),
    Commit(Option<LogId<u64>>),
    Truncate(LogId<u64>),
    Purge(LogId<u64>),
}

impl Step {
    pub(super) const KINDS: u8 = 9;

    /// The step that a choice stands for, which is possible here. Each truncation begins a term: what comes in the
    /// place of an entry is another one.
    pub(super) fn of((kind, at): (u8, u64), model: &Model, term: &mut u64) -> Self {
        let (first, next) = model.range();
        let count = next - first;
        let id_of = |index: u64, term: u64| model.entries.get(&index).copied().unwrap_or_else(|| id(term, index));
        match kind % Self::KINDS {
            0 => {
                *term += at % 2;
                Self::Vote(Vote::new(*term, at % 3))
            }
            1 => Self::Commit((at % 5 > 0).then(|| id_of(first + at % (count + 1), *term))),
            2 if count > 0 => {
                *term += 1;
                Self::Truncate(id_of(first + at % count, *term))
            }
            3 => Self::Purge(id_of(first + at % (count + 2), *term)),
            _ => Self::Append((next..=next + at % 4).map(|index| id(*term, index)).collect()),
        }
    }

    pub(super) async fn act(&self, raft_log: &mut Stored) -> Outcome<()> {
        match self {
            Self::Vote(vote) => raft_log.save_vote(vote).await,
            Self::Commit(committed) => raft_log.save_committed(*committed).await,
            Self::Truncate(from) => raft_log.truncate(*from).await,
            Self::Purge(to) => raft_log.purge(*to).await,
            Self::Append(ids) => {
                let entries: Vec<_> = ids.iter().map(|id| entry(id.leader_id.term, id.index)).collect();
                raft_log.blocking_append(entries).await
            }
        }
    }

    pub(super) fn apply(&self, to: &mut Model) {
        match self {
            Self::Vote(vote) => to.vote = Some(*vote),
            Self::Commit(committed) => to.committed = *committed,
            Self::Append(ids) => to.entries.extend(ids.iter().map(|id| (id.index, *id))),
            Self::Truncate(from) => drop(to.entries.split_off(&from.index)),
            Self::Purge(id) => {
                to.purged = Some(*id);
                to.entries = to.entries.split_off(&(id.index + 1));
            }
        }
    }
}

impl Model {
    /// The indexes of the entries that there are.
    fn range(&self) -> (u64, u64) {
        let first = self.purged.map_or(0, |purged| purged.index + 1);
        (first, self.entries.keys().next_back().map_or(first, |last| last + 1))
    }
}

/// What a raft log says that it holds, in all the ways in which it can be asked.
pub(super) fn seen(log: &Log, raft_log: &mut Stored) -> Outcome<Model> {
    run(log, async {
        let mut reader = raft_log.get_log_reader().await;
        let entries = reader.try_get_log_entries(..).await?;
        for entry in &entries {
            assert_eq!(*entry, self::entry(entry.log_id.leader_id.term, entry.log_id.index), "another text");
        }
        let state = raft_log.get_log_state().await?;
        let last = entries.last().map(|entry| entry.log_id);
        assert_eq!(state.last_log_id, last.or(state.last_purged_log_id));
        if let [first, .., last] = &entries[..] {
            let (first, last) = (first.log_id.index, last.log_id.index);
            let inner = raft_log.try_get_log_entries(first + 1..last).await?;
            assert_eq!(inner, entries[1..entries.len() - 1]);
            assert_eq!(raft_log.limited_get_log_entries(last, last + 5).await?, entries[entries.len() - 1..]);
        }
        Ok(Model {
            vote: raft_log.read_vote().await?,
            committed: raft_log.read_committed().await?,
            purged: state.last_purged_log_id,
            entries: entries.iter().map(|entry| (entry.log_id.index, entry.log_id)).collect(),
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_raft_log_is_what_a_naive_one_is(
        choices in prop::collection::vec((0..Step::KINDS + 3, any::<u64>()), 1..80),
        is_staged in any::<bool>(),
    ) {
        let staging = if is_staged { Staging::On } else { Staging::Off };
        let mut disk = SimDisk::new(DiskOptions::default());
        let (mut log, mut raft_log) = open(&disk, staging).unwrap();
        let (mut model, mut term) = (Model::default(), 1);
        for (kind, at) in choices {
            match kind.checked_sub(Step::KINDS) {
                None => {
                    let step = Step::of((kind, at), &model, &mut term);
                    run(&log, step.act(&mut raft_log)).unwrap();
                    step.apply(&mut model);
                }
                Some(2) => drop(log.maintain().unwrap()),
                Some(how) => {
                    drop(raft_log);
                    if how == 0 {
                        log.close().unwrap();
                    }
                    disk = disk.kill();
                    (log, raft_log) = open(&disk, staging).unwrap();
                }
            }
            prop_assert_eq!(seen(&log, &mut raft_log).unwrap(), model.clone());
        }
        prop_assert!(disk.audit().is_none(), "{:?}", disk.audit());
    }
}
