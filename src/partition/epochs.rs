//! Which leader epoch began at which offset. Kafka's `leader-epoch-checkpoint`.
//!
//! ```text
//! epoch      0             2                  5
//! offset     0 ... 8       9 ... 22           23 ... end
//! ```
//!
//! A follower asks for the end of its last epoch, and cuts what the leader does not have. The answer must never be
//! too high; an epoch that is not known is therefore no answer, not a guess.
//!
//! Invariant: epochs and start offsets both strictly rise from entry to entry.

use crate::disk::checkpoint::{Malformed, entries_head, fields, parse_entries};
use crate::types::{LeaderEpoch, Offset};

/// The leader epochs of one partition, and where each began.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Epochs {
    entries: Vec<EpochStart>,
}

/// A leader epoch and the first offset written, or to be written, under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EpochStart {
    pub(crate) epoch: LeaderEpoch,
    pub(crate) start: Offset,
}

impl Epochs {
    /// Reads the text of the file.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut entries: Vec<EpochStart> = Vec::new();
        parse_entries(bytes, |line| {
            let [epoch, start] = fields(line).ok_or("not epoch and offset")?;
            let epoch = epoch.parse().ok().filter(|epoch| *epoch >= 0).ok_or("not an epoch")?;
            let start = start.parse().ok().and_then(Offset::from_wire).ok_or("not an offset")?;
            let entry = EpochStart { epoch: LeaderEpoch(epoch), start };
            if entries.last().is_some_and(|last| last.epoch >= entry.epoch || last.start >= entry.start) {
                return Err("epochs and offsets must rise");
            }
            entries.push(entry);
            Ok(())
        })?;
        Ok(Self { entries })
    }

    /// The text of the file.
    pub(crate) fn to_text(&self) -> String {
        let mut text = entries_head(self.entries.len());
        for EpochStart { epoch, start } in &self.entries {
            text.push_str(&format!("{epoch} {start}\n"));
        }
        text
    }

    /// Records that `epoch` begins at `start`, and says whether that is news: if so, the file is to be written before
    /// the first batch of the epoch. What contradicts it - later epochs, later starts - is dropped.
    ///
    /// Batches without an epoch change nothing.
    pub(crate) fn assign(&mut self, epoch: LeaderEpoch, start: Offset) -> bool {
        let is_known = |last: &EpochStart| last.epoch == epoch && last.start <= start;
        if epoch < LeaderEpoch(0) || self.entries.last().is_some_and(is_known) {
            return false;
        }
        self.drop_last_while(|last| last.epoch >= epoch || last.start >= start);
        self.entries.push(EpochStart { epoch, start });
        true
    }

    /// Drops the epochs that begin at `end` or above, after the log was cut there. Says whether there were any.
    pub(crate) fn truncate_from_end(&mut self, end: Offset) -> bool {
        self.drop_last_while(|last| last.start >= end)
    }

    /// Lets the first epoch begin at `start`, after the log before it was removed. Says whether anything changed.
    ///
    /// The epoch that holds `start` stays, even if no batch of it does.
    pub(crate) fn truncate_from_start(&mut self, start: Offset) -> bool {
        let Some(holder) = self.count_until(start).checked_sub(1) else { return false };
        let changed = holder > 0 || self.entries[holder].start < start;
        self.entries.drain(..holder);
        self.entries[0].start = start;
        changed
    }

    /// All epochs, the earliest first.
    pub(crate) fn entries(&self) -> &[EpochStart] {
        &self.entries
    }

    /// The latest epoch.
    pub(crate) fn latest(&self) -> Option<LeaderEpoch> {
        self.entries.last().map(|last| last.epoch)
    }

    /// How many epochs begin at `offset` or below.
    fn count_until(&self, offset: Offset) -> usize {
        self.entries.partition_point(|entry| entry.start <= offset)
    }

    fn drop_last_while(&mut self, drops: impl Fn(&EpochStart) -> bool) -> bool {
        let kept = self.entries.iter().rposition(|entry| !drops(entry)).map_or(0, |last| last + 1);
        let dropped = kept < self.entries.len();
        self.entries.truncate(kept);
        dropped
    }
}

/// What replication does with them.
impl Epochs {
    /// Where the batches of `epoch` end, in a log that ends at `log_end`, and which epoch that really is: the largest
    /// known one not above. `None` if that cannot be told.
    pub(crate) fn end_offset_for(&self, epoch: LeaderEpoch, log_end: Offset) -> Option<EpochEnd> {
        let latest = self.latest()?;
        if epoch < LeaderEpoch(0) || epoch > latest {
            return None;
        }
        if epoch == latest {
            return Some(EpochEnd { epoch, end: log_end });
        }
        let higher = self.entries.partition_point(|entry| entry.epoch <= epoch);
        let lower = higher.checked_sub(1).map_or(epoch, |lower| self.entries[lower].epoch);
        Some(EpochEnd { epoch: lower, end: self.entries.get(higher)?.start })
    }

    /// The epoch that `offset` was, or would be, written under.
    pub(crate) fn epoch_for(&self, offset: Offset) -> Option<LeaderEpoch> {
        let holder = self.count_until(offset).checked_sub(1)?;
        Some(self.entries[holder].epoch)
    }
}

/// A leader epoch and where its batches end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EpochEnd {
    pub(crate) epoch: LeaderEpoch,
    pub(crate) end: Offset,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    /// What Kafka's own class answered.
    #[test]
    fn every_scenario_of_kafka_holds() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/scenarios/leader-epoch-cache.json");
        let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let scenarios = file["scenarios"].as_array().unwrap();
        scenarios.iter().for_each(check);
        assert_eq!(scenarios.len(), 22);
    }

    fn check(scenario: &Value) {
        let offset = || Offset(scenario["offset"].as_u64().unwrap());
        match scenario["op"].as_str().unwrap() {
            "assign" => assert_eq!(pairs(&assigned(scenario)), scenario["entries"], "{scenario}"),
            "endOffsetFor" => {
                let epochs = assigned(scenario);
                assert_eq!(pairs(&epochs), scenario["entries"], "{scenario}");
                let requested = LeaderEpoch(scenario["requestedEpoch"].as_i64().unwrap() as i32);
                let log_end = Offset(scenario["logEndOffset"].as_u64().unwrap());
                let found = epochs.end_offset_for(requested, log_end);
                let found = found.map_or((-1, -1), |found| (found.epoch.0, found.end.to_wire()));
                assert_eq!(found.0, scenario["epoch"], "{scenario}");
                assert_eq!(found.1, scenario["endOffset"], "{scenario}");
            }
            "truncateFromEnd" => {
                let mut epochs = listed(&scenario["entries"]);
                epochs.truncate_from_end(offset());
                assert_eq!(pairs(&epochs), scenario["result"], "{scenario}");
            }
            "truncateFromStart" => {
                let mut epochs = listed(&scenario["entries"]);
                epochs.truncate_from_start(offset());
                assert_eq!(pairs(&epochs), scenario["result"], "{scenario}");
            }
            other => panic!("unknown operation {other}"),
        }
    }

    fn assigned(scenario: &Value) -> Epochs {
        let mut epochs = Epochs::default();
        for pair in scenario["assigned"].as_array().unwrap().chunks(2) {
            epochs.assign(LeaderEpoch(pair[0].as_i64().unwrap() as i32), Offset(pair[1].as_u64().unwrap()));
        }
        epochs
    }

    fn listed(entries: &Value) -> Epochs {
        let mut epochs = Epochs::default();
        for pair in entries.as_array().unwrap() {
            assert!(epochs.assign(LeaderEpoch(pair[0].as_i64().unwrap() as i32), Offset(pair[1].as_u64().unwrap())));
        }
        epochs
    }

    fn pairs(epochs: &Epochs) -> Value {
        epochs.entries().iter().map(|entry| serde_json::json!([entry.epoch.0, entry.start.0])).collect()
    }

    #[test]
    fn a_change_is_reported_and_nothing_else_is() {
        let mut epochs = Epochs::default();
        assert!(!epochs.truncate_from_start(Offset(5)) && !epochs.truncate_from_end(Offset(0)));
        assert!(!epochs.assign(LeaderEpoch::NONE, Offset(0)));
        assert!(epochs.assign(LeaderEpoch(1), Offset(5)));
        assert!(!epochs.assign(LeaderEpoch(1), Offset(9)), "the first offset of an epoch stays");
        assert!(epochs.assign(LeaderEpoch(1), Offset(4)), "an earlier one replaces it");
        assert!(!epochs.truncate_from_start(Offset(4)) && !epochs.truncate_from_end(Offset(5)));
        assert!(epochs.truncate_from_start(Offset(6)) && epochs.truncate_from_end(Offset(6)));
        assert_eq!(epochs.latest(), None);
    }

    #[test]
    fn a_malformed_file_is_named_with_its_line() {
        for (text, problem) in [
            ("0\n1\n0\n", "line 3: not epoch and offset"),
            ("0\n1\n-1 0\n", "line 3: not an epoch"),
            ("0\n1\n0 -1\n", "line 3: not an offset"),
            ("0\n2\n1 0\n1 5\n", "line 4: epochs and offsets must rise"),
            ("0\n2\n1 5\n2 5\n", "line 4: epochs and offsets must rise"),
            ("0\n2\n1 5\n", "line 4: missing: the count promises more"),
        ] {
            assert_eq!(Epochs::parse(text.as_bytes()).unwrap_err().to_string(), problem, "{text:?}");
        }
    }

    proptest! {
        /// Each offset of a log is written under some epoch. The history knows which, and where each one ends, after
        /// both ends of the log were cut.
        #[test]
        fn the_history_answers_as_the_log_itself(
            steps in prop::collection::vec((0..3_i32, 0..4_usize), 1..12), cut in 0..40_usize, start in 0..40_usize,
        ) {
            let (mut epochs, mut log, mut epoch) = (Epochs::default(), Vec::new(), 0);
            for (rise, count) in steps {
                epoch += rise;
                epochs.assign(LeaderEpoch(epoch), Offset(log.len() as u64));
                log.extend(std::iter::repeat_n(epoch, count));
            }
            if cut < log.len() {
                log.truncate(cut);
                epochs.truncate_from_end(Offset(cut as u64));
            }
            let start = start.min(log.len());
            epochs.truncate_from_start(Offset(start as u64));

            prop_assert!(epochs.entries().is_sorted_by(|a, b| a.epoch < b.epoch && a.start < b.start));
            for (offset, epoch) in log.iter().enumerate().skip(start) {
                prop_assert_eq!(epochs.epoch_for(Offset(offset as u64)), Some(LeaderEpoch(*epoch)));
            }
            let end = Offset(log.len() as u64);
            for (asked, _) in epochs.latest().iter().flat_map(|latest| (0..=latest.0).zip(0..)) {
                let found = epochs.end_offset_for(LeaderEpoch(asked), end).unwrap();
                prop_assert!(found.epoch.0 <= asked);
                let behind = log.iter().position(|epoch| *epoch > asked).unwrap_or(log.len()).max(start);
                prop_assert_eq!(found.end, Offset(behind as u64), "epoch {}", asked);
            }
            prop_assert_eq!(Epochs::parse(epochs.to_text().as_bytes()), Ok(epochs));
        }
    }
}
