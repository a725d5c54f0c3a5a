//! Reading entries, beside the raft log.

use std::fmt;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use openraft::{
    DefensiveError, ErrorSubject, ErrorVerb, OptionalSend, RaftLogId, RaftLogReader, RaftTypeConfig, StorageError,
    Violation,
};

use super::shared::{Amount, Shared};
use super::{RaftCodec, RaftLog};
use crate::client::typed::Json;

/// Reads the entries of a [`RaftLog`], for openraft's replication: made by its `get_log_reader`. Sees what the raft log
/// has appended as soon as the append returned.
pub struct RaftReader<C: RaftTypeConfig, K = Json> {
    shared: Arc<Shared<C, K>>,
}

impl<C: RaftTypeConfig, K> Clone for RaftReader<C, K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<C: RaftTypeConfig, K> fmt::Debug for RaftReader<C, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RaftReader {{ {} }}", self.shared.id)
    }
}

impl<C: RaftTypeConfig, K> RaftReader<C, K> {
    pub(super) fn new(shared: &Arc<Shared<C, K>>) -> Self {
        Self { shared: Arc::clone(shared) }
    }
}

impl<C: RaftTypeConfig, K: RaftCodec<C>> RaftLogReader<C> for RaftReader<C, K> {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + fmt::Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<C::Entry>, StorageError<C::NodeId>> {
        read(&self.shared, indexes(&range), Amount::All)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<C::Entry>, StorageError<C::NodeId>> {
        read_first(&self.shared, start..end)
    }
}

impl<C: RaftTypeConfig, K: RaftCodec<C>> RaftLogReader<C> for RaftLog<C, K> {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + fmt::Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<C::Entry>, StorageError<C::NodeId>> {
        read(&self.shared, indexes(&range), Amount::All)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<C::Entry>, StorageError<C::NodeId>> {
        read_first(&self.shared, start..end)
    }
}

fn read<C: RaftTypeConfig, K: RaftCodec<C>>(
    shared: &Shared<C, K>,
    indexes: Range<u64>,
    amount: Amount,
) -> Result<Vec<C::Entry>, StorageError<C::NodeId>> {
    shared.entries(indexes, amount).map_err(|error| error.when(ErrorVerb::Read, ErrorSubject::Logs))
}

/// The first entries of a range, at least one. What begins elsewhere would be sent to a follower as if it began there.
fn read_first<C: RaftTypeConfig, K: RaftCodec<C>>(
    shared: &Shared<C, K>,
    indexes: Range<u64>,
) -> Result<Vec<C::Entry>, StorageError<C::NodeId>> {
    let (want, is_empty) = (indexes.start, indexes.is_empty());
    let entries = read(shared, indexes, Amount::Some)?;
    let got = entries.first().map(|entry| entry.get_log_id().index);
    if is_empty || got == Some(want) {
        return Ok(entries);
    }
    Err(DefensiveError::new(ErrorSubject::LogIndex(want), Violation::LogIndexNotFound { want, got }).into())
}

/// No entry has the last index there is: what goes up to it goes to the end.
fn indexes(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_every_kind_are_a_range() {
        assert_eq!((indexes(&(3..5)), indexes(&(3..=5)), indexes(&(..))), (3..5, 3..6, 0..u64::MAX));
        assert_eq!(indexes(&(Bound::Excluded(3), Bound::Included(u64::MAX))), 4..u64::MAX);
        assert_eq!(indexes(&(Bound::Excluded(u64::MAX), Bound::Unbounded)), u64::MAX..u64::MAX);
    }
}
