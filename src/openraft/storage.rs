//! What openraft tells its storage, as appends.
//!
//! ```text
//! record in the partition -> state in memory -> [sync, by the log's thread] -> callback, or return
//! ```
//!
//! Only the raft log appends, and one call at a time: records are in the order of the calls.

use std::io;

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{
    AsyncRuntime, DefensiveError, ErrorSubject, ErrorVerb, LogId, LogState, OptionalSend, RaftLogId, RaftTypeConfig,
    StorageError, Violation, Vote,
};

use super::error::RaftLogError;
use super::record::Part;
use super::shared::{Encoded, Synced};
use super::{RaftCodec, RaftLog, RaftReader};
use crate::error::Error;

impl<C: RaftTypeConfig, K: RaftCodec<C>> RaftLogStorage<C> for RaftLog<C, K> {
    type LogReader = RaftReader<C, K>;

    async fn get_log_state(&mut self) -> Result<LogState<C>, StorageError<C::NodeId>> {
        let last_purged_log_id = self.shared.state.read().purged.clone();
        Ok(LogState { last_purged_log_id, last_log_id: self.last.clone() })
    }

    async fn get_log_reader(&mut self) -> RaftReader<C, K> {
        RaftReader::new(&self.shared)
    }

    async fn save_vote(&mut self, vote: &Vote<C::NodeId>) -> Result<(), StorageError<C::NodeId>> {
        let failed = |error: RaftLogError| error.when(ErrorVerb::Write, ErrorSubject::Vote);
        self.put_vote(vote).map_err(failed)?.await.map_err(failed)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<C::NodeId>>, StorageError<C::NodeId>> {
        Ok(self.shared.state.read().vote.clone())
    }

    async fn save_committed(&mut self, committed: Option<LogId<C::NodeId>>) -> Result<(), StorageError<C::NodeId>> {
        // Not awaited: the next record that is syncs it, and openraft takes an earlier one as well.
        let put = self.put_committed(committed).map(drop);
        put.map_err(|error| error.when(ErrorVerb::Write, ErrorSubject::Store))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId<C::NodeId>>, StorageError<C::NodeId>> {
        Ok(self.shared.state.read().committed.clone())
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<C>) -> Result<(), StorageError<C::NodeId>>
    where
        I: IntoIterator<Item = C::Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let Some(synced) = self.put_entries(entries)? else {
            callback.log_io_completed(Ok(()));
            return Ok(());
        };
        drop(C::AsyncRuntime::spawn(async move {
            callback.log_io_completed(synced.await.map_err(io::Error::other));
        }));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId<C::NodeId>) -> Result<(), StorageError<C::NodeId>> {
        match self.put_truncation(log_id)? {
            Some(synced) => synced.await.map_err(|error| error.when(ErrorVerb::Delete, ErrorSubject::Logs)),
            None => Ok(()),
        }
    }

    async fn purge(&mut self, log_id: LogId<C::NodeId>) -> Result<(), StorageError<C::NodeId>> {
        let failed = |error: RaftLogError| error.when(ErrorVerb::Delete, ErrorSubject::Logs);
        let Some(synced) = self.put_purge(log_id).map_err(failed)? else { return Ok(()) };
        synced.await.map_err(failed)?;
        self.shared.remove_files().map_err(failed)
    }
}

impl<C: RaftTypeConfig, K: RaftCodec<C>> RaftLog<C, K> {
    fn put_vote(&self, vote: &Vote<C::NodeId>) -> Result<Synced, RaftLogError> {
        let bytes = self.shared.encode("vote", vote)?;
        self.shared.tell(Part::Vote(&bytes), |state| state.vote = Some(vote.clone()))
    }

    fn put_committed(&self, committed: Option<LogId<C::NodeId>>) -> Result<Synced, RaftLogError> {
        let bytes = committed.as_ref().map(|log_id| self.shared.encode("log id", log_id)).transpose()?;
        self.shared.tell(Part::Committed(bytes.as_deref()), |state| state.committed = committed)
    }

    /// Appends entries, in as few batches as the topic allows. None if there is no entry.
    fn put_entries(
        &mut self,
        entries: impl IntoIterator<Item = C::Entry>,
    ) -> Result<Option<Synced>, StorageError<C::NodeId>> {
        let encoded = self.encode_all(entries)?;
        let mut rest = &encoded[..];
        let mut max = rest.len();
        let mut synced = None;
        while !rest.is_empty() {
            let (batch, behind) = rest.split_at(max.min(rest.len()));
            match self.shared.append(batch) {
                Ok(appended) => {
                    synced = Some(appended);
                    self.last = batch.last().map(|last| last.log_id.clone());
                    rest = behind;
                }
                Err(RaftLogError::Log { source: Error::BatchTooLarge { .. }, .. }) => max = batch.len().div_ceil(2),
                Err(error) => return Err(error.when(ErrorVerb::Write, ErrorSubject::Logs)),
            }
        }
        Ok(synced)
    }

    /// Refuses entries that leave a hole, or come twice: openraft truncates before it appends others. Those that are
    /// purged already are passed over: their time is past.
    fn encode_all(
        &self,
        entries: impl IntoIterator<Item = C::Entry>,
    ) -> Result<Vec<Encoded<C>>, StorageError<C::NodeId>> {
        let (purged, mut next) = {
            let state = self.shared.state.read();
            (state.purged.as_ref().map(|purged| purged.index), state.next_index())
        };
        let mut prev = self.last.clone();
        let (mut encoded, mut scratch) = (Vec::new(), Vec::new());
        for entry in entries {
            let log_id = entry.get_log_id().clone();
            if purged.is_some_and(|purged| log_id.index <= purged) {
                continue;
            }
            let subject = ErrorSubject::Log(log_id.clone());
            if next.is_some_and(|next| next != log_id.index) || log_id.index == u64::MAX {
                return Err(DefensiveError::new(subject, Violation::LogsNonConsecutive { prev, next: log_id }).into());
            }
            let put = self.shared.encode_entry(&entry, &mut scratch);
            encoded.push(put.map_err(|error| error.when(ErrorVerb::Write, subject))?);
            (prev, next) = (Some(log_id.clone()), Some(log_id.index + 1));
        }
        Ok(encoded)
    }

    /// None if there is nothing to truncate.
    fn put_truncation(&mut self, log_id: LogId<C::NodeId>) -> Result<Option<Synced>, StorageError<C::NodeId>> {
        let from = log_id.index;
        let (purged, indexes) = {
            let state = self.shared.state.read();
            (state.purged.clone(), state.indexes())
        };
        if purged.as_ref().is_some_and(|purged| from <= purged.index) {
            let violation = Violation::AppliedWontConflict { last_applied: purged, first_conflict_log_id: log_id };
            return Err(DefensiveError::new(ErrorSubject::Logs, violation).into());
        }
        if from >= indexes.end {
            return Ok(None);
        }
        let failed = |error: RaftLogError| error.when(ErrorVerb::Delete, ErrorSubject::Logs);
        // Looked up before, so that nothing is truncated if that fails.
        let last = if from > indexes.start { self.shared.log_id(from - 1).map_err(failed)? } else { purged };
        let put = self.shared.tell(Part::Truncate { from }, |state| state.truncate(from));
        let synced = put.map_err(failed)?;
        self.last = last;
        Ok(Some(synced))
    }

    /// None if all that is purged already.
    fn put_purge(&mut self, log_id: LogId<C::NodeId>) -> Result<Option<Synced>, RaftLogError> {
        let is_done = |purged: &LogId<C::NodeId>| log_id.index <= purged.index;
        if self.shared.state.read().purged.as_ref().is_some_and(is_done) {
            return Ok(None);
        }
        let synced = self.shared.purge(&log_id)?;
        if self.shared.state.read().indexes().is_empty() {
            self.last = Some(log_id);
        }
        Ok(Some(synced))
    }
}
