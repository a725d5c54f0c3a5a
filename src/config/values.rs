//! The settings that are a choice, not a number, and their Kafka names.

use std::time::Duration;

use super::{NEVER, to_ms};

/// When appended records are synced to the disk without anybody waiting for it.
///
/// Whatever is chosen, a record whose append returned survives the death of the process; this is about the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Durability {
    /// When the operating system does, somebody waits for `Ack::Synced`, or the log needs it: soon after a segment was
    /// begun or sealed, and when it is closed. Fastest.
    #[default]
    Os,
    /// When so many records, or so much time, have come since the last sync; whichever is first. Bounds what a power
    /// cut can take. Both `None` is [`Durability::Os`].
    Every {
        /// How many records: 1 or more.
        records: Option<u64>,
        /// How much time, in whole milliseconds.
        time: Option<Duration>,
    },
    /// Before each append returns. Concurrent appends share one sync.
    Each,
}

impl Durability {
    /// As Kafka's `flush.messages` and `flush.ms`.
    pub(super) fn to_flush(self) -> (i64, i64) {
        match self {
            Self::Os => (NEVER, NEVER),
            Self::Each => (1, NEVER),
            Self::Every { records, time } => (records.map_or(NEVER, super::saturate), time.map_or(NEVER, to_ms)),
        }
    }

    /// What Kafka's `flush.messages` and `flush.ms` ask for. A sync on each record leaves nothing for the clock.
    pub(super) fn from_flush(messages: i64, ms: i64) -> Self {
        let limit = |value: i64| if value == NEVER { None } else { u64::try_from(value).ok() };
        match (limit(messages), limit(ms)) {
            (None, None) => Self::Os,
            (Some(1), _) => Self::Each,
            (records, ms) => Self::Every { records, time: ms.map(Duration::from_millis) },
        }
    }
}

/// What happens to old records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Cleanup {
    /// Segments past the limits of age or size are deleted. Kafka: `delete`.
    #[default]
    Delete,
    /// The last record of each key is kept, earlier ones go; records without a key are refused. Kafka: `compact`. See
    /// [`guide::compaction`](crate::guide::compaction).
    Compact,
    /// Both: compacted, and deleted past the limits; records without a key are refused. Kafka: `compact,delete`.
    CompactAndDelete,
    /// Neither: everything is kept until deleted by hand. Kafka: the empty list.
    Keep,
}

impl Cleanup {
    /// Whether segments are deleted by age and size.
    #[must_use]
    pub fn deletes(self) -> bool {
        matches!(self, Self::Delete | Self::CompactAndDelete)
    }

    /// Whether earlier records of a key are removed.
    #[must_use]
    pub fn compacts(self) -> bool {
        matches!(self, Self::Compact | Self::CompactAndDelete)
    }

    pub(super) fn to_text(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Compact => "compact",
            Self::CompactAndDelete => "compact,delete",
            Self::Keep => "",
        }
    }

    /// A list in any order, as Kafka takes it.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        if text.trim().is_empty() {
            return Some(Self::Keep);
        }
        let (mut deletes, mut compacts) = (false, false);
        for policy in text.split(',') {
            match policy.trim() {
                "delete" => deletes = true,
                "compact" => compacts = true,
                _ => return None,
            }
        }
        Some(match (deletes, compacts) {
            (true, true) => Self::CompactAndDelete,
            (_, true) => Self::Compact,
            _ => Self::Delete,
        })
    }
}

/// Whose time a record carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TimestampType {
    /// The producer's, as given. Kafka: `CreateTime`.
    #[default]
    CreateTime,
    /// That of the append. Kafka: `LogAppendTime`.
    LogAppendTime,
}

impl TimestampType {
    pub(super) fn to_text(self) -> &'static str {
        match self {
            Self::CreateTime => "CreateTime",
            Self::LogAppendTime => "LogAppendTime",
        }
    }

    pub(super) fn from_text(text: &str) -> Option<Self> {
        [Self::CreateTime, Self::LogAppendTime].into_iter().find(|known| known.to_text() == text)
    }
}

/// How batches are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Compression {
    /// As their producer made them; records appended one by one are stored plain.
    #[default]
    Producer,
    /// Plain, whatever the producer did.
    Uncompressed,
    /// By gzip. Level 1, fast, to 9, small; -1 is the library's choice.
    Gzip {
        /// 1 to 9, or -1.
        level: i32,
    },
    /// By snappy.
    Snappy,
    /// By lz4. Kafka's level 1 to 17 is kept for Kafka, and has no effect: the encoder has one. Readers do not need it.
    Lz4 {
        /// 1 to 17.
        level: i32,
    },
    /// By zstd. Level -131072, fast, to 22, small.
    Zstd {
        /// -131072 to 22.
        level: i32,
    },
}

impl Compression {
    pub(super) fn to_type(self) -> CompressionType {
        match self {
            Self::Producer => CompressionType::Producer,
            Self::Uncompressed => CompressionType::Uncompressed,
            Self::Gzip { .. } => CompressionType::Gzip,
            Self::Snappy => CompressionType::Snappy,
            Self::Lz4 { .. } => CompressionType::Lz4,
            Self::Zstd { .. } => CompressionType::Zstd,
        }
    }

    pub(super) fn of(kind: CompressionType, gzip_level: i64, lz4_level: i64, zstd_level: i64) -> Self {
        // Every valid level fits; the others never get past validation.
        let level = |value: i64| i32::try_from(value).unwrap_or(0);
        match kind {
            CompressionType::Producer => Self::Producer,
            CompressionType::Uncompressed => Self::Uncompressed,
            CompressionType::Gzip => Self::Gzip { level: level(gzip_level) },
            CompressionType::Snappy => Self::Snappy,
            CompressionType::Lz4 => Self::Lz4 { level: level(lz4_level) },
            CompressionType::Zstd => Self::Zstd { level: level(zstd_level) },
        }
    }
}

/// Kafka's `compression.type`. Apart from the levels, because Kafka keeps the level of every codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CompressionType {
    Producer,
    Uncompressed,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl CompressionType {
    pub(super) fn to_text(self) -> &'static str {
        match self {
            Self::Producer => "producer",
            Self::Uncompressed => "uncompressed",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    pub(super) fn from_text(text: &str) -> Option<Self> {
        let all = [Self::Producer, Self::Uncompressed, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];
        all.into_iter().find(|known| known.to_text() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durability_survives_the_way_through_kafkas_two_keys() {
        let time = Some(Duration::from_millis(100));
        for durability in [
            Durability::Os,
            Durability::Each,
            Durability::Every { records: Some(2), time: None },
            Durability::Every { records: None, time },
            Durability::Every { records: Some(500), time },
        ] {
            let (messages, ms) = durability.to_flush();
            assert_eq!(Durability::from_flush(messages, ms), durability);
        }
        assert_eq!(Durability::from_flush(1, 1000), Durability::Each);
        assert_eq!(Durability::from_flush(NEVER, NEVER), Durability::Os);
    }

    #[test]
    fn a_cleanup_policy_is_a_list_in_any_order() {
        assert_eq!(Cleanup::from_text("delete, compact"), Some(Cleanup::CompactAndDelete));
        assert_eq!(Cleanup::from_text("compact"), Some(Cleanup::Compact));
        assert_eq!(Cleanup::from_text(""), Some(Cleanup::Keep));
        for other in ["Delete", "delete,", "compact;delete", "none"] {
            assert_eq!(Cleanup::from_text(other), None, "{other}");
        }
    }
}
