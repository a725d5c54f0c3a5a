//! What of a partition is dirty, whether that is worth a pass, and which segments become one. Values only.
//!
//! ```text
//! start           first dirty                      upper             active
//! |-- clean segments --|-- dirty: to be mapped ------|-- too young, undecided --|-- never --|
//! ```

use std::ops::Range;

use crate::config::TopicConfig;
use crate::types::{Offset, Timestamp};

/// A sealed segment, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) base: Offset,
    /// Where the next one begins.
    pub(crate) end: Offset,
    pub(crate) len: u64,
    /// The largest timestamp; only looked at if records must have an age.
    pub(crate) largest: Option<Timestamp>,
    /// That of its first batch; only looked at if records may not pass an age.
    pub(crate) first: Option<Timestamp>,
}

/// What can be compacted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Dirty {
    /// Everything below was compacted.
    pub(crate) from: Offset,
    /// Where the last segment ends that can be.
    pub(crate) upper: Offset,
    /// The share of dirty bytes.
    pub(crate) ratio: f64,
    /// Whether something has waited for as long as it may.
    pub(crate) is_overdue: bool,
}

impl Dirty {
    /// What of these segments is dirty, in the order of the log; none if nothing can be done. Everything below `cleaned`
    /// was compacted, everything below `stable` is decided.
    pub(crate) fn of(
        segments: &[Facts],
        cleaned: Offset,
        stable: Offset,
        now: Timestamp,
        config: &TopicConfig,
    ) -> Option<Self> {
        let from = cleaned.max(segments.first()?.base);
        let is_young = |segment: &&Facts| {
            let age = |largest: Timestamp| now.0.saturating_sub(largest.0);
            let lag = config.min_compaction_lag_ms;
            segment.end > from && lag > 0 && segment.largest.is_some_and(|largest| age(largest) < lag)
        };
        let within = segments.iter().take_while(|segment| segment.end <= stable && !is_young(segment));
        let (mut clean, mut dirty, mut upper, mut is_overdue) = (0, 0, from, false);
        for segment in within {
            if segment.end <= from {
                clean += segment.len;
                continue;
            }
            dirty += segment.len;
            upper = segment.end;
            let waited = |first: Timestamp| now.0.saturating_sub(first.0) > config.max_compaction_lag_ms;
            is_overdue |= segment.first.is_some_and(|first| first.0 > 0 && waited(first));
        }
        (dirty > 0).then(|| Self { from, upper, ratio: dirty as f64 / (clean + dirty) as f64, is_overdue })
    }

    /// Whether it is worth a pass.
    pub(crate) fn is_due(&self, config: &TopicConfig) -> bool {
        self.is_overdue || self.ratio > config.min_cleanable_dirty_ratio
    }
}

/// Which segments become one: as many that follow one another as fit, by length, index and offsets. Each stays by itself
/// if a key is erased: most hold nothing of it.
pub(crate) fn groups(segments: &[Facts], config: &TopicConfig, erases: bool) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut len = 0;
    for (at, segment) in segments.iter().enumerate() {
        let joins = groups.last().is_some_and(|group| {
            let base = segments[group.start].base;
            !erases
                && group.len() < MOST
                && fits(len + segment.len, config)
                && segment.end.0.saturating_sub(base.0) <= MAX_RELATIVE
        });
        match groups.last_mut() {
            Some(group) if joins => {
                group.end = at + 1;
                len += segment.len;
            }
            _ => {
                groups.push(at..at + 1);
                len = segment.len;
            }
        }
    }
    groups
}

fn fits(len: u64, config: &TopicConfig) -> bool {
    // An entry of the larger index takes 12 bytes, and there is one after so many bytes of batches at most.
    let interval = config.index_interval_bytes.unsigned_abs().max(SMALLEST_BATCH);
    let index = (len / interval + 1).saturating_mul(12);
    len <= config.segment_bytes.unsigned_abs() && index <= config.segment_index_bytes.unsigned_abs()
}

/// Segments that become one at most: so many files are open at once.
const MOST: usize = 32;
/// Offsets in an index count from the base, in 31 bits.
const MAX_RELATIVE: u64 = i32::MAX as u64;
const SMALLEST_BATCH: u64 = 61;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn segment(base: u64, end: u64, len: u64) -> Facts {
        Facts { base: Offset(base), end: Offset(end), len, largest: None, first: None }
    }

    fn dirty(segments: &[Facts], cleaned: u64, stable: u64, config: &TopicConfig) -> Option<(u64, u64, f64, bool)> {
        let found = Dirty::of(segments, Offset(cleaned), Offset(stable), NOW, config)?;
        Some((found.from.0, found.upper.0, found.ratio, found.is_due(config)))
    }

    #[test]
    fn whole_segments_below_the_stable_offset_are_dirty_from_where_the_last_pass_ended() {
        let (segments, config) =
            ([segment(0, 10, 300), segment(10, 20, 100), segment(20, 30, 200)], TopicConfig::default());
        assert_eq!(dirty(&segments, 0, 30, &config), Some((0, 30, 1.0, true)));
        assert_eq!(dirty(&segments, 0, 29, &config), Some((0, 20, 1.0, true)));
        assert_eq!(dirty(&segments, 10, 30, &config), Some((10, 30, 0.5, false)), "half is not more than half");
        assert_eq!(dirty(&segments, 15, 20, &config), Some((15, 20, 0.25, false)), "a part of a segment");
        assert_eq!(dirty(&segments, 20, 29, &config), None);
        assert_eq!(dirty(&segments, 30, 99, &config), None);
        assert_eq!(dirty(&[], 0, 99, &config), None);
        assert_eq!(dirty(&segments[1..], 0, 30, &config), Some((10, 30, 1.0, true)), "not below the start");
    }

    #[test]
    fn what_is_too_young_stops_a_pass_and_what_is_too_old_forces_one() {
        let second = Duration::from_secs(1);
        let lag = TopicConfig::default().min_compaction_lag(second);
        let at = |time| Some(Timestamp(NOW.0 - time));
        let aged = |largest| [segment(0, 10, 100), Facts { largest, ..segment(10, 20, 100) }];
        assert_eq!(dirty(&aged(at(1_000)), 0, 99, &lag), Some((0, 20, 1.0, true)));
        assert_eq!(dirty(&aged(at(999)), 0, 99, &lag), Some((0, 10, 1.0, true)));
        assert_eq!(dirty(&aged(at(999)), 0, 99, &TopicConfig::default()), Some((0, 20, 1.0, true)));
        let forced = TopicConfig::default().max_compaction_lag(second);
        let begun = |first| [segment(0, 10, 900), Facts { first, ..segment(10, 20, 100) }];
        assert_eq!(dirty(&begun(at(1_001)), 10, 99, &forced), Some((10, 20, 0.1, true)));
        assert_eq!(dirty(&begun(at(1_000)), 10, 99, &forced), Some((10, 20, 0.1, false)));
        assert_eq!(dirty(&begun(Some(Timestamp(0))), 10, 99, &forced), Some((10, 20, 0.1, false)), "no time");
    }

    #[test]
    fn segments_are_joined_as_long_as_they_fit() {
        let config = TopicConfig::default().segment_bytes(1_000);
        let all = [segment(0, 10, 400), segment(10, 20, 600), segment(20, 30, 1), segment(30, 40, 999)];
        assert_eq!(groups(&all, &config, false), [0..2, 2..4]);
        assert_eq!(groups(&all, &config, true), [0..1, 1..2, 2..3, 3..4]);
        let far = [segment(0, 10, 1), segment(10, 1 << 31, 1), segment(1 << 31, 1 + (1 << 31), 1)];
        assert_eq!(groups(&far, &config, false), [0..1, 1..3], "an offset is at most 2^31 - 1 above the base");
        let many = [segment(0, 1, 0); 40];
        assert_eq!(groups(&many, &config, false), [0..32, 32..40]);
        let large = TopicConfig::default().segment_bytes(1 << 20);
        let indexed = TopicConfig { segment_index_bytes: 24, ..large };
        assert_eq!(groups(&[segment(0, 1, 5_000); 3], &indexed, false), [0..1, 1..2, 2..3]);
    }
}
