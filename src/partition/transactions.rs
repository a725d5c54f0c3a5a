//! The transactions of one partition, and the stable offset that follows from them.
//!
//! ```text
//! start            stable       committed                end
//! |--- decided, and ---|-- a transaction --|-- ... --|
//!      known to be         is open here, or its end
//!                          is not committed yet
//! ```
//!
//! A reader of committed data sees nothing of a transaction until its outcome is known *and* committed, so a
//! transaction keeps the stable offset down twice: while it is open, and while its marker is not committed.
//!
//! Invariants:
//! - The stable offset is at most the first offset of every open transaction, and at most the committed end.
//! - A transaction that began below the start of the log stays open; the stable offset is then the start.

use std::collections::BTreeSet;

use crate::types::{Offset, ProducerId};

/// The transactions that keep readers of committed data waiting.
#[derive(Debug, Clone, Default)]
pub(crate) struct Transactions {
    /// First offset and producer. The producer is part of the key: what a damaged snapshot says of two producers must
    /// not let the end of one end the other.
    open: BTreeSet<(Offset, ProducerId)>,
    /// First offset and marker of those that ended, but not below the committed end.
    ending: BTreeSet<(Offset, Offset)>,
}

impl Transactions {
    /// Registers that `producer` begins a transaction at `first`.
    pub(crate) fn begin(&mut self, first: Offset, producer: ProducerId) {
        self.open.insert((first, producer));
    }

    /// Ends the transaction of `producer` that began at `first`, and returns what the stable offset would be if all
    /// were committed: the first offset of the earliest one that is still open, else the one behind the marker.
    pub(crate) fn end(&mut self, first: Offset, producer: ProducerId, marker: Offset) -> Offset {
        self.open.remove(&(first, producer));
        self.ending.insert((first, marker));
        self.first_open().unwrap_or(marker + 1)
    }

    /// Follows the committed end: transactions whose marker is below it are over.
    pub(crate) fn committed_to(&mut self, end: Offset) {
        // Most appends come by here, and most find nothing.
        if !self.ending.is_empty() {
            self.ending.retain(|(_, marker)| *marker >= end);
        }
    }

    /// Where the earliest open transaction began.
    pub(crate) fn first_open(&self) -> Option<Offset> {
        self.open.first().map(|(first, _)| *first)
    }

    /// Where the earliest transaction began whose outcome is open or not committed.
    pub(crate) fn first_unstable(&self) -> Option<Offset> {
        let ending = self.ending.first().map(|(first, _)| *first);
        self.first_open().into_iter().chain(ending).min()
    }

    /// The stable offset of a log from `start` that is committed up to `committed`, as readers see it.
    #[cfg(test)]
    pub(crate) fn stable(&self, start: Offset, committed: Offset) -> Offset {
        self.first_unstable().map_or(committed, |first| first.max(start).min(committed))
    }

    #[cfg(any(fuzzing, test))]
    pub(crate) fn open_count(&self) -> usize {
        self.open.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ProducerId = ProducerId(1);
    const B: ProducerId = ProducerId(2);

    #[test]
    fn a_marker_counts_once_it_is_committed() {
        let mut transactions = Transactions::default();
        transactions.begin(Offset(3), A);
        assert_eq!(transactions.stable(Offset(0), Offset(2)), Offset(2), "what begins above does not matter");
        assert_eq!(transactions.stable(Offset(0), Offset(9)), Offset(3));
        transactions.end(Offset(3), A, Offset(6));
        transactions.committed_to(Offset(6));
        assert_eq!(transactions.stable(Offset(0), Offset(6)), Offset(3), "the marker itself is not below 6");
        transactions.committed_to(Offset(7));
        assert_eq!(transactions.stable(Offset(0), Offset(7)), Offset(7));
    }

    #[test]
    fn an_abort_records_the_stable_offset_it_leads_to() {
        let mut transactions = Transactions::default();
        transactions.begin(Offset(0), A);
        transactions.begin(Offset(1), B);
        assert_eq!(transactions.end(Offset(0), A, Offset(2)), Offset(1));
        assert_eq!(transactions.end(Offset(1), B, Offset(3)), Offset(4));
    }

    #[test]
    fn a_transaction_from_below_the_start_holds_the_stable_offset_at_the_start() {
        let mut transactions = Transactions::default();
        transactions.begin(Offset(2), A);
        assert_eq!(transactions.stable(Offset(5), Offset(9)), Offset(5));
        assert_eq!((transactions.first_unstable(), transactions.open_count()), (Some(Offset(2)), 1));
    }

    #[test]
    fn two_transactions_of_one_first_offset_end_one_by_one() {
        let mut transactions = Transactions::default();
        transactions.begin(Offset(4), A);
        transactions.begin(Offset(4), B);
        transactions.end(Offset(4), A, Offset(7));
        assert_eq!(transactions.first_open(), Some(Offset(4)));
    }
}
