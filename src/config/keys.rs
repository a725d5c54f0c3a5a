//! Kafka's keys: one row for each setting, with its range, its text form and its field.
//!
//! Everything that has to know all settings is a walk over [`ROWS`]: setting one by its key, listing them, checking
//! them, suggesting the nearest key for one that does not exist.

use super::values::{Cleanup, CompressionType, TimestampType};
use super::{MAX_I32, NEVER, TopicConfig, UNLIMITED};
use crate::error::{Error, Result};

impl TopicConfig {
    /// Sets one setting by Kafka's key and text form.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`], naming key, value and
    ///
    /// - the range, if the value is outside it or not of its kind;
    /// - the nearest key, if there is none of this name;
    /// - that it is not supported, for Kafka's settings of tiered storage and replication.
    ///
    /// # Example
    ///
    /// ```
    /// let error = chiplog::TopicConfig::default().set("segment.bytes", "13").unwrap_err();
    /// assert_eq!(error.to_string(), r#"setting segment.bytes cannot be "13": 14 to 2147483647"#);
    /// ```
    pub fn set(mut self, key: &str, value: &str) -> Result<Self> {
        let row = find(key).ok_or_else(|| no_such_key(key, value))?;
        if row.write(&mut self, value) { Ok(self) } else { Err(out_of_range(row, value)) }
    }

    /// The text form of one setting, by Kafka's key; `None` if there is no such key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<String> {
        find(key).map(|row| row.read(self))
    }

    /// Every setting as Kafka writes it, by key in ascending order. The partition count is none of them.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, String)> + use<> {
        let config = *self;
        ROWS.iter().map(move |row| (row.key, row.read(&config)))
    }

    /// The settings that differ from the default, as [`entries`](Self::entries) gives them.
    pub fn changed_entries(&self) -> impl Iterator<Item = (&'static str, String)> + use<> {
        let (config, default) = (*self, Self::default());
        ROWS.iter().filter_map(move |row| {
            let value = row.read(&config);
            (value != row.read(&default)).then_some((row.key, value))
        })
    }

    /// Checks every setting, and those that have to agree with each other.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] for the first that is wrong, with its key, its value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        if !(1..=MAX_PARTITIONS).contains(&self.partitions) {
            return Err(invalid("partitions", &self.partitions.to_string(), format!("1 to {MAX_PARTITIONS}")));
        }
        // Each topic of a log is looked at when it is opened: by numbers, not by texts.
        if let Some(row) = ROWS.iter().find(|row| !row.holds(self)) {
            return Err(out_of_range(row, &row.read(self)));
        }
        if self.min_compaction_lag_ms > self.max_compaction_lag_ms {
            let allowed = format!("0 to {} (max.compaction.lag.ms)", self.max_compaction_lag_ms);
            return Err(invalid("min.compaction.lag.ms", &self.min_compaction_lag_ms.to_string(), allowed));
        }
        Ok(())
    }
}

/// One setting.
struct Row {
    key: &'static str,
    kind: Kind,
}

/// Where a setting is kept, and what it may be.
enum Kind {
    Integer {
        from: i64,
        to: i64,
        field: fn(&mut TopicConfig) -> &mut i64,
    },
    /// `compression.gzip.level`: 1 to 9, or -1 for the library's choice.
    GzipLevel,
    /// `min.cleanable.dirty.ratio`: 0 to 1.
    Ratio,
    Flag,
    Cleanup,
    Compression,
    TimestampType,
}

impl Row {
    const fn integer(key: &'static str, from: i64, to: i64, field: fn(&mut TopicConfig) -> &mut i64) -> Self {
        Self { key, kind: Kind::Integer { from, to, field } }
    }

    fn read(&self, config: &TopicConfig) -> String {
        // The one accessor of an integer field borrows mutably; the copy is a few words.
        let mut config = *config;
        match self.kind {
            Kind::Integer { field, .. } => field(&mut config).to_string(),
            Kind::GzipLevel => config.gzip_level.to_string(),
            Kind::Ratio => format!("{:?}", config.min_cleanable_dirty_ratio),
            Kind::Flag => config.preallocate.to_string(),
            Kind::Cleanup => config.cleanup.to_text().to_owned(),
            Kind::Compression => config.compression.to_text().to_owned(),
            Kind::TimestampType => config.timestamp_type.to_text().to_owned(),
        }
    }

    /// Whether the setting is in its range.
    fn holds(&self, config: &TopicConfig) -> bool {
        match self.kind {
            Kind::Integer { from, to, field } => (from..=to).contains(field(&mut { *config })),
            Kind::GzipLevel => is_gzip_level(config.gzip_level),
            Kind::Ratio => is_ratio(config.min_cleanable_dirty_ratio),
            Kind::Flag | Kind::Cleanup | Kind::Compression | Kind::TimestampType => true,
        }
    }

    /// Whether the text is a value of this setting; if so, it is set. Space around a number is allowed, as in Kafka.
    fn write(&self, config: &mut TopicConfig, text: &str) -> bool {
        let text = text.trim();
        match self.kind {
            Kind::Integer { from, to, field } => {
                let number = text.parse().ok().filter(|number| (from..=to).contains(number));
                assign(field(config), number)
            }
            Kind::GzipLevel => {
                let level = text.parse().ok().filter(|level| is_gzip_level(*level));
                assign(&mut config.gzip_level, level)
            }
            Kind::Ratio => {
                let ratio = text.parse().ok().filter(|ratio| is_ratio(*ratio));
                assign(&mut config.min_cleanable_dirty_ratio, ratio)
            }
            Kind::Flag => assign(&mut config.preallocate, text.to_ascii_lowercase().parse().ok()),
            Kind::Cleanup => assign(&mut config.cleanup, Cleanup::from_text(text)),
            Kind::Compression => assign(&mut config.compression, CompressionType::from_text(text)),
            Kind::TimestampType => assign(&mut config.timestamp_type, TimestampType::from_text(text)),
        }
    }

    fn allowed(&self) -> String {
        match self.kind {
            Kind::Integer { from, to: NEVER, .. } => format!("{from} or more"),
            Kind::Integer { from, to, .. } => format!("{from} to {to}"),
            Kind::GzipLevel => "1 to 9, or -1".to_owned(),
            Kind::Ratio => "0 to 1".to_owned(),
            Kind::Flag => "true or false".to_owned(),
            Kind::Cleanup => "a list of delete and compact".to_owned(),
            Kind::Compression => "producer, uncompressed, gzip, snappy, lz4 or zstd".to_owned(),
            Kind::TimestampType => "CreateTime or LogAppendTime".to_owned(),
        }
    }
}

/// -1 is the library's choice.
fn is_gzip_level(level: i64) -> bool {
    level == -1 || (1..=9).contains(&level)
}

fn is_ratio(ratio: f64) -> bool {
    (0.0..=1.0).contains(&ratio)
}

fn assign<T>(field: &mut T, value: Option<T>) -> bool {
    let is_valid = value.is_some();
    if let Some(value) = value {
        *field = value;
    }
    is_valid
}

fn find(key: &str) -> Option<&'static Row> {
    ROWS.binary_search_by(|row| row.key.cmp(key)).ok().and_then(|at| ROWS.get(at))
}

fn out_of_range(row: &Row, value: &str) -> Error {
    invalid(row.key, value, row.allowed())
}

fn no_such_key(key: &str, value: &str) -> Error {
    if UNSUPPORTED.contains(&key) {
        return invalid(
            key,
            value,
            "not supported: there is no tiered storage, replication or old format here".into(),
        );
    }
    invalid(key, value, format!("there is no such key, the nearest is {}", nearest(key)))
}

fn invalid(key: &str, value: &str, allowed: String) -> Error {
    Error::InvalidSetting { key: key.into(), value: value.into(), allowed: allowed.into() }
}

/// The key that takes the fewest changes of one letter. A broker's name for a topic's setting begins with `log.`.
fn nearest(key: &str) -> &'static str {
    // What is longer than any key by half is no slip of the finger, and comparing it would take its length.
    let key: String = key.strip_prefix("log.").unwrap_or(key).chars().take(64).collect();
    ROWS.iter().map(|row| row.key).min_by_key(|known| distance(known, &key)).unwrap_or("")
}

/// How many letters have to be added, removed or replaced to make one text of the other.
fn distance(one: &str, other: &str) -> usize {
    // `row[i]` is the distance of the first `i` letters of `one` to what was read of `other` so far.
    let mut row: Vec<usize> = (0..=one.chars().count()).collect();
    for (read, letter) in other.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], read + 1);
        for (at, known) in one.chars().enumerate() {
            let replaced = diagonal + usize::from(known != letter);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(diagonal + 1).min(row[at] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

/// With more, `<topic>-<partition>` could pass the 255 bytes of a file name: 249 + 1 + 5.
pub(super) const MAX_PARTITIONS: u32 = 100_000;

/// Two entries of the longer index: one, and the one that is written when the segment is sealed.
const MIN_INDEX_BYTES: i64 = 2 * 12;

/// All settings, sorted by key.
const ROWS: &[Row] = &[
    Row { key: "cleanup.policy", kind: Kind::Cleanup },
    Row { key: "compression.gzip.level", kind: Kind::GzipLevel },
    Row::integer("compression.lz4.level", 1, 17, |config| &mut config.lz4_level),
    Row { key: "compression.type", kind: Kind::Compression },
    Row::integer("compression.zstd.level", -131_072, 22, |config| &mut config.zstd_level),
    Row::integer("delete.retention.ms", 0, NEVER, |config| &mut config.delete_retention_ms),
    Row::integer("file.delete.delay.ms", 0, NEVER, |config| &mut config.file_delete_delay_ms),
    Row::integer("flush.messages", 1, NEVER, |config| &mut config.flush_messages),
    Row::integer("flush.ms", 0, NEVER, |config| &mut config.flush_ms),
    Row::integer("index.interval.bytes", 0, MAX_I32, |config| &mut config.index_interval_bytes),
    Row::integer("max.compaction.lag.ms", 1, NEVER, |config| &mut config.max_compaction_lag_ms),
    Row::integer("max.decompressed.message.bytes", 1, MAX_I32, |config| &mut config.max_decompressed_bytes),
    Row::integer("max.message.bytes", 0, MAX_I32, |config| &mut config.max_message_bytes),
    Row::integer("message.timestamp.after.max.ms", 0, NEVER, |config| &mut config.timestamp_after_max_ms),
    Row::integer("message.timestamp.before.max.ms", 0, NEVER, |config| &mut config.timestamp_before_max_ms),
    Row { key: "message.timestamp.type", kind: Kind::TimestampType },
    Row { key: "min.cleanable.dirty.ratio", kind: Kind::Ratio },
    Row::integer("min.compaction.lag.ms", 0, NEVER, |config| &mut config.min_compaction_lag_ms),
    Row { key: "preallocate", kind: Kind::Flag },
    Row::integer("retention.bytes", UNLIMITED, NEVER, |config| &mut config.retention_bytes),
    Row::integer("retention.ms", UNLIMITED, NEVER, |config| &mut config.retention_ms),
    Row::integer("segment.bytes", 14, MAX_I32, |config| &mut config.segment_bytes),
    Row::integer("segment.index.bytes", MIN_INDEX_BYTES, MAX_I32, |config| &mut config.segment_index_bytes),
    Row::integer("segment.jitter.ms", 0, NEVER, |config| &mut config.segment_jitter_ms),
    Row::integer("segment.ms", 1, NEVER, |config| &mut config.segment_ms),
];

/// Kafka's settings of a topic that mean nothing here. Accepting one would promise what nobody keeps.
const UNSUPPORTED: &[&str] = &[
    "follower.replication.throttled.replicas",
    "leader.replication.throttled.replicas",
    "local.retention.bytes",
    "local.retention.ms",
    "message.downconversion.enable",
    "message.format.version",
    "message.timestamp.difference.max.ms",
    "min.insync.replicas",
    "remote.copy.lag.bytes",
    "remote.copy.lag.ms",
    "remote.log.copy.disable",
    "remote.log.delete.on.disable",
    "remote.storage.enable",
    "unclean.leader.election.enable",
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use proptest::prelude::*;

    fn refusal(key: &str, value: &str) -> String {
        TopicConfig::default().set(key, value).unwrap_err().to_string()
    }

    #[test]
    fn keys_are_sorted_and_every_default_is_valid() {
        assert!(ROWS.is_sorted_by_key(|row| row.key));
        TopicConfig::default().validate().unwrap();
        assert_eq!(TopicConfig::default().changed_entries().count(), 0);
        assert_eq!(TopicConfig::default().entries().count(), 25);
    }

    /// The defaults of Kafka 4, by its own names.
    #[test]
    fn defaults_are_kafkas() {
        let config = TopicConfig::default();
        for (key, value) in [
            ("cleanup.policy", "delete"),
            ("compression.type", "producer"),
            ("compression.gzip.level", "-1"),
            ("compression.lz4.level", "9"),
            ("compression.zstd.level", "3"),
            ("delete.retention.ms", "86400000"),
            ("flush.messages", "9223372036854775807"),
            ("max.message.bytes", "1048588"),
            ("max.decompressed.message.bytes", "2147483639"),
            ("message.timestamp.after.max.ms", "3600000"),
            ("min.cleanable.dirty.ratio", "0.5"),
            ("retention.bytes", "-1"),
            ("retention.ms", "604800000"),
            ("segment.bytes", "1073741824"),
            ("segment.index.bytes", "10485760"),
        ] {
            assert_eq!(config.get(key).as_deref(), Some(value), "{key}");
        }
    }

    #[test]
    fn both_ways_in_reach_the_same_setting() {
        let typed = TopicConfig::default().segment_bytes(1 << 20).retention_time(None).cleanup(Cleanup::Compact);
        let text = [("segment.bytes", "1048576"), ("retention.ms", "-1"), ("cleanup.policy", "compact")];
        let spelled =
            text.iter().fold(TopicConfig::default(), |config, (key, value)| config.set(key, value).unwrap());
        assert_eq!(spelled, typed);
        let durable = TopicConfig::default().durability(crate::config::Durability::Each);
        assert_eq!(TopicConfig::default().set("flush.messages", "1").unwrap(), durable);
    }

    #[test]
    fn each_end_of_a_range_is_inside_it_and_one_step_on_is_not() {
        for row in ROWS {
            let Kind::Integer { from, to, .. } = row.kind else { continue };
            for inside in [from, to] {
                assert!(TopicConfig::default().set(row.key, &inside.to_string()).is_ok(), "{} {inside}", row.key);
            }
            for outside in [i128::from(from) - 1, i128::from(to) + 1] {
                let refusal = refusal(row.key, &outside.to_string());
                assert!(refusal.contains(row.key) && refusal.contains(&row.allowed()), "{refusal}");
            }
        }
    }

    #[test]
    fn what_is_not_a_value_is_refused() {
        for (key, value) in [
            ("retention.ms", ""),
            ("retention.ms", "7 days"),
            ("segment.bytes", "1e6"),
            ("min.cleanable.dirty.ratio", "NaN"),
            ("min.cleanable.dirty.ratio", "1.01"),
            ("compression.gzip.level", "0"),
            ("compression.type", "none"),
            ("cleanup.policy", "drop"),
            ("message.timestamp.type", "createtime"),
            ("preallocate", "yes"),
        ] {
            assert!(
                refusal(key, value).starts_with(&format!("setting {key} cannot be {value:?}: ")),
                "{key} {value}"
            );
        }
    }

    #[test]
    fn an_unknown_key_is_answered_with_the_nearest() {
        for (wrong, right) in [
            ("retention", "retention.ms"),
            ("segment.byte", "segment.bytes"),
            ("log.retention.bytes", "retention.bytes"),
            ("compresion.typ", "compression.type"),
            ("cleanup_policy", "cleanup.policy"),
            ("max.message.size", "max.message.bytes"),
        ] {
            assert!(refusal(wrong, "1").ends_with(&format!("the nearest is {right}")), "{}", refusal(wrong, "1"));
        }
    }

    #[test]
    fn a_setting_without_meaning_here_is_not_pretended() {
        for key in UNSUPPORTED {
            assert!(refusal(key, "1").contains("not supported"), "{key}");
        }
    }

    #[test]
    fn validation_sees_what_setters_took() {
        let wrong = [
            (TopicConfig::default().partitions(0), "partitions"),
            (TopicConfig::default().partitions(100_001), "partitions"),
            (TopicConfig::default().segment_bytes(13), "segment.bytes"),
            (TopicConfig::default().segment_bytes(1 << 31), "segment.bytes"),
            (TopicConfig::default().min_cleanable_dirty_ratio(f64::NAN), "min.cleanable.dirty.ratio"),
            (TopicConfig::default().segment_time(Duration::ZERO), "segment.ms"),
            (TopicConfig::default().max_compaction_lag(Duration::ZERO), "max.compaction.lag.ms"),
        ];
        for (config, key) in wrong {
            assert!(
                config.validate().unwrap_err().to_string().starts_with(&format!("setting {key} cannot")),
                "{key}"
            );
        }
    }

    #[test]
    fn the_least_lag_may_not_pass_the_longest() {
        let config = TopicConfig::default().min_compaction_lag(Duration::from_millis(6));
        assert!(config.validate().is_ok());
        let error = config.max_compaction_lag(Duration::from_millis(5)).validate().unwrap_err();
        let expected = r#"setting min.compaction.lag.ms cannot be "6": 0 to 5 (max.compaction.lag.ms)"#;
        assert_eq!(error.to_string(), expected);
    }

    proptest! {
        /// Whatever the strings, what is accepted is valid by itself and comes back from its own text.
        #[test]
        fn accepted_text_reads_back(row in 0..ROWS.len(), number: i64, small in -5..30_i64, ratio: f64, word in ".{0,12}") {
            let key = ROWS[row].key;
            for text in [number.to_string(), small.to_string(), ratio.to_string(), word.clone(), "true".into()] {
                if let Ok(config) = TopicConfig::default().set(key, &text) {
                    let again = TopicConfig::default().set(key, &config.get(key).unwrap()).unwrap();
                    prop_assert_eq!(again, config);
                }
            }
            let no_key = word + "x";
            prop_assert!(TopicConfig::default().set(&no_key, "1").is_err());
        }

        #[test]
        fn the_distance_of_keys_is_a_metric(one in "[a-c]{0,6}", other in "[a-c]{0,6}", third in "[a-c]{0,6}") {
            prop_assert_eq!(distance(&one, &other), distance(&other, &one));
            prop_assert_eq!(distance(&one, &other) == 0, one == other);
            prop_assert!(distance(&one, &third) <= distance(&one, &other) + distance(&other, &third));
        }
    }
}
