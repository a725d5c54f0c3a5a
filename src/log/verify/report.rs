//! What a verification came to, and where it goes on.

use std::fmt;
use std::str::FromStr;

use crate::partition::verify::{Finding, Verdict};
use crate::types::{Offset, TopicPartition};

/// What [`Log::verify`](crate::Log::verify) judged and found.
#[derive(Debug, Default)]
pub struct VerifyReport {
    findings: Vec<Finding>,
    stopped_at: Option<VerifyPosition>,
    batches: u64,
    records: u64,
    bytes: u64,
}

impl VerifyReport {
    /// What is not as it should be, in the order of partitions, segments and positions. None if all is well.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Whether records may be lost; findings that are not [damage](Finding::is_damage) do not count.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.findings.iter().any(Finding::is_damage)
    }

    /// Where to go on, if it was stopped. The report is about what comes before: give this to
    /// [`VerifyOptions::from`](crate::VerifyOptions::from) for the rest.
    #[must_use]
    pub fn stopped_at(&self) -> Option<&VerifyPosition> {
        self.stopped_at.as_ref()
    }

    /// How many batches verified.
    #[must_use]
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// How many records those batches hold.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// How long those batches are together, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn add(&mut self, verdict: Verdict) {
        let Verdict { mut findings, batches, records, bytes } = verdict;
        findings.sort_by(|one, other| (&one.path, one.position).cmp(&(&other.path, other.position)));
        self.findings.append(&mut findings);
        self.batches += batches;
        self.records += records;
        self.bytes += bytes;
    }

    pub(super) fn stop(&mut self, at: VerifyPosition) {
        self.stopped_at = Some(at);
    }
}

/// Where a verification goes on: before a partition, or before one of its segments.
///
/// Its text is `topic-partition`, or `topic-partition@offset`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerifyPosition {
    pub(super) partition: Option<TopicPartition>,
    /// The base of the segment; none: all of the partition.
    pub(super) base: Option<Offset>,
}

impl fmt::Display for VerifyPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.partition, self.base) {
            (None, _) => f.write_str(BEGINNING),
            (Some(partition), None) => partition.fmt(f),
            (Some(partition), Some(base)) => write!(f, "{partition}@{base}"),
        }
    }
}

impl FromStr for VerifyPosition {
    type Err = InvalidVerifyPosition;

    fn from_str(text: &str) -> Result<Self, InvalidVerifyPosition> {
        if text == BEGINNING {
            return Ok(Self { partition: None, base: None });
        }
        let (partition, base) = match text.split_once('@') {
            None => (text, None),
            Some((partition, base)) => {
                let number: u64 = base.parse().map_err(|_| InvalidVerifyPosition)?;
                let base = Offset(number);
                if number.to_string() != text[partition.len() + 1..] || base > Offset::MAX {
                    return Err(InvalidVerifyPosition);
                }
                (partition, Some(base))
            }
        };
        let partition = TopicPartition::from_dir_name(partition).ok_or(InvalidVerifyPosition)?;
        Ok(Self { partition: Some(partition), base })
    }
}

/// Before everything. No topic has a name like that.
const BEGINNING: &str = "@";

/// A text that is not a [`VerifyPosition`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a position of a verification: expected topic-partition, or topic-partition@offset")]
pub struct InvalidVerifyPosition;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_back_from_its_text() {
        for text in ["@", "orders-0", "orders-0@0", "a-1-b-7@4711", "--0@9223372036854775807"] {
            assert_eq!(text.parse::<VerifyPosition>().unwrap().to_string(), text);
        }
        for other in ["", "orders", "orders-0@", "orders-0@x", "orders-0@01", "orders-0@-1", "orders-0@1@2", "@1"] {
            assert_eq!(other.parse::<VerifyPosition>(), Err(InvalidVerifyPosition), "{other}");
        }
        assert_eq!("orders-0@9223372036854775808".parse::<VerifyPosition>(), Err(InvalidVerifyPosition));
    }

    #[test]
    fn positions_are_in_the_order_of_the_work() {
        let texts = ["@", "a-0", "a-0@0", "a-0@10", "a-1", "b-0"];
        let positions: Vec<VerifyPosition> = texts.iter().map(|text| text.parse().unwrap()).collect();
        assert!(positions.is_sorted());
    }
}
