//! What a topic asks of what is appended to it.

use crate::config::{self, TopicConfig};
use crate::error::{Error, Result};
use crate::record::{
    BatchBuilder, BatchHeader, BatchOptions, BatchOrigin, Codec, Compression, Producer, Record, Rules, Sender,
    TimestampType,
};
use crate::types::Timestamp;

/// The topic's settings that concern an append, copied so that no lock is held while encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AppendRules {
    is_compacted: bool,
    pub(in crate::partition) timestamp_type: TimestampType,
    before_max_ms: i64,
    after_max_ms: i64,
    pub(in crate::partition) compression: Option<Compression>,
    /// The largest batch that is both allowed and fits in a segment.
    pub(super) max_batch_bytes: u64,
    decoded_limit: usize,
}

impl AppendRules {
    pub(in crate::partition) fn of(config: &TopicConfig) -> Self {
        Self {
            is_compacted: config.cleanup.compacts(),
            timestamp_type: config.timestamp_type,
            before_max_ms: config.timestamp_before_max_ms,
            after_max_ms: config.timestamp_after_max_ms,
            compression: stored_as(config),
            max_batch_bytes: config.max_batch_bytes(),
            decoded_limit: config.max_decompressed_bytes as usize,
        }
    }

    pub(super) fn for_foreign(&self, origin: BatchOrigin) -> Rules {
        Rules {
            origin,
            is_compacted: self.is_compacted,
            timestamp_type: self.timestamp_type,
            before_max_ms: distance(self.before_max_ms),
            after_max_ms: distance(self.after_max_ms),
            compression: self.compression,
            max_message_bytes: self.max_batch_bytes as usize,
            decoded_limit: self.decoded_limit,
        }
    }

    /// What a batch of these records begins with; `compression` is that of a topic which leaves it to the producer. Its number
    /// it gets with its offset.
    pub(crate) fn options(&self, sender: Sender, compression: Compression) -> BatchOptions {
        let compression = self.compression.unwrap_or(compression);
        let options = BatchOptions::default().timestamp_type(self.timestamp_type).compression(compression);
        let Sender { producer: id, epoch, is_transactional } = sender;
        match sender.is_some() {
            true => options.producer(Producer { id, epoch, base_sequence: 0, is_transactional }),
            false => options,
        }
    }

    /// Refuses a batch that nobody could read, as its records would not be unpacked.
    pub(crate) fn check_decoded(&self, builder: &BatchBuilder) -> Result<()> {
        let decoded = builder.len() - BatchHeader::LEN;
        if builder.is_compressed() && decoded > self.decoded_limit {
            let (what, limit) = ("decompressed batch", self.decoded_limit);
            return Err(Error::TooLong { what, len: decoded as u64, limit: limit as u64 });
        }
        Ok(())
    }

    pub(crate) fn check_len(&self, len: usize) -> Result<()> {
        let (len, limit) = (len as u64, self.max_batch_bytes);
        if len > limit { Err(Error::BatchTooLarge { len, limit }) } else { Ok(()) }
    }

    /// The time a record is stored with.
    #[inline]
    pub(crate) fn time_of(&self, record: &Record<'_>, now: Timestamp) -> Timestamp {
        match self.timestamp_type {
            TimestampType::CreateTime => record.timestamp.unwrap_or(now),
            TimestampType::LogAppendTime => now,
        }
    }

    /// Refuses a record that the topic does not take.
    #[inline]
    pub(crate) fn check(&self, record: &Record<'_>, index: usize, now: Timestamp) -> Result<()> {
        if self.is_compacted && record.key.is_none() {
            return Err(Error::InvalidRecord { index, reason: "a compacted topic needs keys" });
        }
        let Some(timestamp) = record.timestamp else { return Ok(()) };
        if !timestamp.is_some() && timestamp != Timestamp::NONE {
            return Err(Error::InvalidRecord { index, reason: "negative timestamp" });
        }
        let earliest = Timestamp(now.0.saturating_sub(self.before_max_ms));
        let latest = Timestamp(now.0.saturating_add(self.after_max_ms));
        let is_checked = self.timestamp_type == TimestampType::CreateTime && timestamp.is_some();
        if is_checked && !(earliest..=latest).contains(&timestamp) {
            return Err(Error::InvalidTimestamp { index, timestamp, earliest, latest });
        }
        Ok(())
    }

    /// Whether batches are compressed, if the producer's are by `compression`.
    pub(crate) fn compresses(&self, compression: Compression) -> bool {
        self.compression.unwrap_or(compression).codec() != Codec::None
    }

    /// How long a batch may be before compression, in bytes, so that it is taken whatever `compression` makes of it.
    pub(crate) fn plain_limit(&self, compression: Compression) -> usize {
        let most = usize::try_from(self.max_batch_bytes).unwrap_or(usize::MAX);
        match self.compresses(compression) {
            false => most,
            // What cannot be made shorter becomes longer, by a sixth at most.
            true => (most / 4 * 3).min(BatchHeader::LEN.saturating_add(self.decoded_limit)),
        }
    }
}

/// The codec a topic stores its batches with; none to keep what the producer chose.
pub(crate) fn stored_as(config: &TopicConfig) -> Option<Compression> {
    // Levels were checked with the settings.
    let with_level = |codec, level| Compression::new(codec).level(level).unwrap_or(Compression::new(codec));
    match config.stored_as() {
        config::Compression::Producer => None,
        config::Compression::Uncompressed => Some(Compression::NONE),
        config::Compression::Gzip { level } => Some(with_level(Codec::Gzip, level)),
        config::Compression::Snappy => Some(Compression::new(Codec::Snappy)),
        config::Compression::Lz4 { level } => Some(with_level(Codec::Lz4, level)),
        config::Compression::Zstd { level } => Some(with_level(Codec::Zstd, level)),
    }
}

/// The largest setting means any distance.
fn distance(ms: i64) -> u64 {
    if ms == i64::MAX { u64::MAX } else { ms as u64 }
}
