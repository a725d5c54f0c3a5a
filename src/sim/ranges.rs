//! A set of bytes of a file, as ranges.

use std::ops::Range;

/// Ranges that may overlap; there are few, so nothing keeps them in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<Range<u64>>);

impl Ranges {
    pub(super) fn add(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.remove(range.clone());
        self.0.push(range);
    }

    pub(super) fn remove(&mut self, range: Range<u64>) {
        if self.0.is_empty() {
            return;
        }
        let mut left = Vec::with_capacity(self.0.len() + 1);
        for have in self.0.drain(..) {
            let below = have.start..have.end.min(range.start);
            let above = have.start.max(range.end)..have.end;
            left.extend([below, above].into_iter().filter(|part| !part.is_empty()));
        }
        self.0 = left;
    }

    /// The lowest range that reaches below `end`.
    pub(super) fn below(&self, end: u64) -> Option<Range<u64>> {
        self.0.iter().filter(|range| range.start < end).min_by_key(|range| range.start).cloned()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().cloned()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taking_a_range_out_leaves_both_sides() {
        let mut ranges = Ranges::default();
        ranges.add(0..10);
        ranges.add(5..20);
        ranges.remove(8..12);
        assert_eq!(ranges.below(5), Some(0..5));
        assert_eq!(ranges.iter().map(|range| range.end - range.start).sum::<u64>(), 16);
        ranges.remove(0..100);
        assert!(ranges.is_empty() && ranges.below(u64::MAX).is_none());
    }
}
