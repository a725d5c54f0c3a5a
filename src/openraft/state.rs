//! What the records of a raft log amount to: where each entry is, and the latest of all else.
//!
//! ```text
//! offset      0   1   2   3   4   5    6   7    8
//! partition   V   E1  E2  E3  T2  E2'  C   E3'  P1
//!
//! state       first: 2, offsets: [5, 7]        E2 and E3 went by T2, E1 by P1
//! ```
//!
//! Replay may begin at any record that is not behind `keep_from` of the last purge, and amounts to the same. All that
//! is needed lies behind that. Of the entries that there were at some moment replay then sees the last ones: what comes
//! next follows them, or is the first that is seen; and a truncation or a purge from further back takes all of them.
//! The vote and the committed log id are those of the last record that says so, and each purge does.
//!
//! Invariants:
//! - Entries are consecutive: the one with the index `first + n` is at `offsets[n]`, and offsets rise.
//! - An index is not an offset, and offsets have gaps: of records that are no entries, and of entries that are gone.

use std::collections::VecDeque;
use std::ops::Range;

use openraft::{LogId, NodeId, Vote};

use crate::types::Offset;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct State<NID: NodeId> {
    pub(super) vote: Option<Vote<NID>>,
    pub(super) committed: Option<LogId<NID>>,
    /// The last entry that was purged.
    pub(super) purged: Option<LogId<NID>>,
    /// No record before is needed, by the last purge.
    pub(super) keep_from: Offset,
    /// The offset that the next record gets.
    pub(super) end: Offset,
    /// The index of the first entry, if there is one.
    first: u64,
    offsets: VecDeque<Offset>,
}

impl<NID: NodeId> State<NID> {
    /// That of a log that is read from `start` on.
    pub(super) fn new(start: Offset) -> Self {
        let (vote, committed, purged) = (None, None, None);
        Self { vote, committed, purged, keep_from: Offset::ZERO, end: start, first: 0, offsets: VecDeque::new() }
    }

    /// Takes in an entry; `false` if it does not follow the last one.
    pub(super) fn push(&mut self, index: u64, at: Offset) -> bool {
        if self.offsets.is_empty() {
            self.first = index;
        }
        // An index past which there is none could not be told from one that was never reached.
        if index != self.end_of_entries() || index == u64::MAX {
            return false;
        }
        self.offsets.push_back(at);
        true
    }

    /// Forgets the entries from an index on.
    pub(super) fn truncate(&mut self, from: u64) {
        self.offsets.truncate(self.place(from));
    }

    /// Forgets the entries up to an id.
    pub(super) fn purge(&mut self, purged: LogId<NID>, keep_from: Offset) {
        let next = purged.index.saturating_add(1);
        self.offsets.drain(..self.place(next));
        self.first = self.first.max(next);
        self.purged = Some(purged);
        self.keep_from = keep_from;
    }

    /// The index that the next entry must have; none if it may be any.
    pub(super) fn next_index(&self) -> Option<u64> {
        if self.offsets.is_empty() { self.purged_end() } else { Some(self.end_of_entries()) }
    }

    /// The indexes of the entries that are there.
    pub(super) fn indexes(&self) -> Range<u64> {
        self.first..self.end_of_entries()
    }

    /// Where the entry of an index is.
    pub(super) fn offset_of(&self, index: u64) -> Option<Offset> {
        let place = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.offsets.get(place).copied()
    }

    /// The entries that are there of a range: the index of the first of them, and where they are.
    pub(super) fn slice(&self, indexes: Range<u64>) -> (u64, Vec<Offset>) {
        let (from, to) = (self.place(indexes.start), self.place(indexes.end));
        (self.first + from as u64, self.offsets.range(from..to.max(from)).copied().collect())
    }

    /// Where the entries after `index` begin; `end` if there are none.
    pub(super) fn needed_after(&self, index: u64) -> Offset {
        self.offsets.get(self.place(index.saturating_add(1))).copied().unwrap_or(self.end)
    }

    /// The index behind the last entry.
    fn end_of_entries(&self) -> u64 {
        self.first.saturating_add(self.offsets.len() as u64)
    }

    fn purged_end(&self) -> Option<u64> {
        self.purged.as_ref().map(|purged| purged.index.saturating_add(1))
    }

    /// How many entries have lower indexes.
    fn place(&self, index: u64) -> usize {
        usize::try_from(index.saturating_sub(self.first)).unwrap_or(usize::MAX).min(self.offsets.len())
    }
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;
    use proptest::prelude::*;

    use super::*;

    fn id(index: u64) -> LogId<u64> {
        LogId::new(CommittedLeaderId::new(1, 1), index)
    }

    fn with(indexes: Range<u64>) -> State<u64> {
        let mut state = State::new(Offset::ZERO);
        assert!(indexes.into_iter().all(|index| state.push(index, Offset(index * 10))));
        state
    }

    #[test]
    fn an_entry_follows_the_last_one_or_nothing() {
        let mut state = with(3..5);
        assert!(!state.push(4, Offset(99)) && !state.push(6, Offset(99)));
        assert_eq!((state.indexes(), state.next_index()), (3..5, Some(5)));
        assert_eq!((state.offset_of(2), state.offset_of(4), state.offset_of(5)), (None, Some(Offset(40)), None));
        assert_eq!(State::<u64>::new(Offset::ZERO).next_index(), None);
        assert!(!State::<u64>::new(Offset::ZERO).push(u64::MAX, Offset::ZERO));
    }

    #[test]
    fn a_truncation_ends_the_log_where_the_next_entry_goes() {
        let mut state = with(3..9);
        state.truncate(9);
        assert_eq!(state.indexes(), 3..9);
        state.truncate(5);
        assert_eq!((state.indexes(), state.next_index()), (3..5, Some(5)));
        state.truncate(0);
        assert_eq!((state.indexes().is_empty(), state.next_index()), (true, None));
        assert!(state.push(7, Offset(70)));
    }

    #[test]
    fn a_purge_past_the_end_takes_all_and_moves_what_comes_next() {
        let mut state = with(3..9);
        assert_eq!((state.needed_after(4), state.needed_after(8)), (Offset(50), state.end));
        state.purge(id(4), Offset(50));
        assert_eq!(state.indexes(), 5..9);
        state.purge(id(20), Offset(99));
        assert_eq!((state.indexes().is_empty(), state.next_index(), state.purged), (true, Some(21), Some(id(20))));
    }

    #[test]
    fn a_slice_is_what_is_there_of_a_range() {
        let state = with(3..6);
        let offsets = |range| state.slice(range);
        assert_eq!(offsets(0..100), (3, vec![Offset(30), Offset(40), Offset(50)]));
        assert_eq!(offsets(4..5), (4, vec![Offset(40)]));
        assert_eq!((offsets(4..4).1, offsets(7..9).1, offsets(0..2).1), (vec![], vec![], vec![]));
        #[allow(clippy::reversed_empty_ranges)]
        let reversed = offsets(5..3);
        assert_eq!(reversed.1, []);
        assert_eq!(offsets(0..u64::MAX).1.len(), 3);
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Push(u64),
        Truncate(u64),
        Purge(u64),
    }

    /// Steps that a raft takes: nothing is truncated that is purged, nothing is purged twice.
    fn any_history() -> impl Strategy<Value = Vec<Step>> {
        let choices = prop::collection::vec((0..8_u8, any::<prop::sample::Index>()), 0..60);
        choices.prop_map(|choices| {
            let (mut purged, mut next) = (0, 1);
            let mut steps = Vec::new();
            for (kind, at) in choices {
                let among = (next - purged) as usize;
                match kind {
                    0 if among > 1 => {
                        next = purged + 1 + at.index(among - 1) as u64;
                        steps.push(Step::Truncate(next));
                    }
                    1 => {
                        purged += 1 + at.index(among + 1) as u64;
                        next = next.max(purged + 1);
                        steps.push(Step::Purge(purged));
                    }
                    _ => {
                        steps.push(Step::Push(next));
                        next += 1;
                    }
                }
            }
            steps
        })
    }

    /// Takes in a step, and what its record says of where the needed ones begin.
    fn take(state: &mut State<u64>, at: u64, step: Step, keep_from: Offset) {
        match step {
            Step::Push(index) => assert!(state.push(index, Offset(at)), "{index} does not follow"),
            Step::Truncate(from) => state.truncate(from),
            Step::Purge(index) => state.purge(id(index), keep_from),
        }
        state.end = Offset(at + 1);
    }

    proptest! {
        /// Retention removes whole files, and a crash may bring some back: replay begins anywhere before what is
        /// needed.
        #[test]
        fn replay_from_any_place_that_keeps_what_is_needed_is_the_same(steps in any_history()) {
            let mut whole = State::new(Offset::ZERO);
            let mut records = Vec::new();
            for (at, step) in (0..).zip(steps) {
                let keep_from = match step {
                    Step::Purge(index) => whole.needed_after(index),
                    _ => Offset::ZERO,
                };
                take(&mut whole, at, step, keep_from);
                records.push((at, step, keep_from));
            }
            for start in 0..=whole.keep_from.0 {
                let mut part = State::new(Offset(start));
                let rest = records.iter().skip(start as usize);
                rest.for_each(|(at, step, keep_from)| take(&mut part, *at, *step, *keep_from));
                let seen = |state: &State<u64>| (state.purged, state.next_index(), state.keep_from, state.end);
                prop_assert_eq!(seen(&part), seen(&whole));
                prop_assert_eq!(part.slice(0..u64::MAX).1, whole.slice(0..u64::MAX).1);
            }
        }
    }
}
