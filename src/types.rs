//! The small values everything else is made of: offsets, timestamps, epochs, ids.
//!
//! Each is a newtype, so that two integers of different meaning cannot be exchanged by accident. The inner
//! value is public: these types name a number, they do not guard it.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::Arc;
use std::time::Duration;

/// The logical number of a record in a partition, from 0 up. Not a byte position.
///
/// Kafka stores offsets as signed 64-bit numbers, so [`Offset::MAX`] is the largest that can be stored.
///
/// ```
/// use chiplog::Offset;
///
/// let next = Offset(41) + 1;
/// assert_eq!(next, Offset(42));
/// assert_eq!(next - Offset(40), 2);
/// assert_eq!(next.to_string(), "42");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(pub u64);

impl Offset {
    /// The first offset of a new partition.
    pub const ZERO: Self = Self(0);
    /// The largest offset the format can hold: 2^63 - 1.
    pub const MAX: Self = Self(i64::MAX as u64);

    /// Reads an offset from its stored form; `None` if it is negative.
    #[must_use]
    pub fn from_wire(value: i64) -> Option<Self> {
        u64::try_from(value).ok().map(Self)
    }

    /// The stored form. Offsets above [`Offset::MAX`] do not occur in stored data.
    #[must_use]
    pub fn to_wire(self) -> i64 {
        debug_assert!(self <= Self::MAX);
        self.0 as i64
    }

    /// This offset plus `count`, or `None` past [`Offset::MAX`].
    #[must_use]
    #[inline]
    pub fn checked_add(self, count: u64) -> Option<Self> {
        self.0.checked_add(count).map(Self).filter(|sum| *sum <= Self::MAX)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<u64> for Offset {
    fn from(value: u64) -> Self {
        Self(value)
    }
}

impl Add<u64> for Offset {
    type Output = Self;
    fn add(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}

impl Sub for Offset {
    type Output = u64;
    fn sub(self, earlier: Self) -> u64 {
        self.0 - earlier.0
    }
}

/// Milliseconds since 1970, or [`Timestamp::NONE`].
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use chiplog::Timestamp;
///
/// let now = Timestamp::from(SystemTime::now());
/// assert!(now.is_some());
/// assert_eq!(Timestamp(90_000) - Duration::from_secs(60), Timestamp(30_000)); // a minute earlier
/// assert_eq!(Timestamp(90_000) + Duration::from_millis(5), Timestamp(90_005));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// No timestamp: stored as -1.
    pub const NONE: Self = Self(-1);

    /// Whether there is one. Anything negative counts as none.
    #[must_use]
    pub fn is_some(self) -> bool {
        self.0 >= 0
    }
}

/// Later by whole milliseconds; what is less is dropped. Stays within 64 bits.
impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(whole_ms(time)))
    }
}

/// Earlier by whole milliseconds; what is less is dropped. Never before 1970: 0 is the earliest.
impl Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(whole_ms(time)).max(self.0.min(0)))
    }
}

fn whole_ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The term of a leader, stamped into each batch. A log that was never replicated stays at 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LeaderEpoch(pub i32);

impl LeaderEpoch {
    /// No epoch: what clients send, and what very old logs hold.
    pub const NONE: Self = Self(-1);
}

impl fmt::Display for LeaderEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A node of those that replicate a log. Chosen by the application; Kafka: `broker.id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The identity of an idempotent or transactional producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerId(pub i64);

impl ProducerId {
    /// No producer id: a plain batch.
    pub const NONE: Self = Self(-1);

    /// Whether there is one. Anything negative counts as none.
    #[must_use]
    pub fn is_some(self) -> bool {
        self.0 >= 0
    }
}

impl fmt::Display for ProducerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The incarnation of a producer id. A higher one fences the lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerEpoch(pub i16);

impl ProducerEpoch {
    /// No epoch: a plain batch.
    pub const NONE: Self = Self(-1);
}

impl fmt::Display for ProducerEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The identity of a topic: a new topic of an old name gets another one.
///
/// Displayed as Kafka does, in 22 characters of URL-safe base64.
///
/// ```
/// use chiplog::TopicId;
///
/// let id = TopicId::from_bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
/// assert_eq!(id.to_string(), "AAECAwQFBgcICQoLDA0ODw");
/// assert_eq!("AAECAwQFBgcICQoLDA0ODw".parse(), Ok(id));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId([u8; 16]);

impl TopicId {
    /// An id from its 16 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes of the id.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(22);
        for chunk in self.0.chunks(3) {
            let mut group = [0; 3];
            group[..chunk.len()].copy_from_slice(chunk);
            let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
            for digit in 0..=chunk.len() {
                text.push(BASE64_URL[(bits >> (18 - 6 * digit)) as usize & 0x3F] as char);
            }
        }
        f.pad(&text)
    }
}

impl std::str::FromStr for TopicId {
    type Err = InvalidTopicId;

    fn from_str(text: &str) -> Result<Self, InvalidTopicId> {
        if text.len() != 22 {
            return Err(InvalidTopicId);
        }
        let mut bits = 0_u128;
        for (at, digit) in text.bytes().enumerate() {
            let value = BASE64_URL.iter().position(|known| *known == digit).ok_or(InvalidTopicId)? as u128;
            if at == 21 {
                // 22 digits are 132 bits: the last four must be zero, or two texts would mean one id.
                if value & 0x0F != 0 {
                    return Err(InvalidTopicId);
                }
                bits = bits << 2 | value >> 4;
            } else {
                bits = bits << 6 | value;
            }
        }
        Ok(Self(bits.to_be_bytes()))
    }
}

const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A text that is not a topic id: 22 characters of URL-safe base64 are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a topic id: 22 characters of URL-safe base64 are")]
pub struct InvalidTopicId;

/// The topic of consumer groups: their offsets and members. Only the log itself appends to it.
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// The topic of transactional ids: what is decided of their transactions.
pub(crate) const TRANSACTIONS_TOPIC: &str = "__transaction_state";
/// What is known of queues, as of Kafka's share groups (KIP-932).
pub(crate) const QUEUES_TOPIC: &str = "__share_group_state";
/// The topics whose records have a meaning to a log, or to the broker that wrote it.
pub(crate) const INTERNAL_TOPICS: [&str; 3] = [OFFSETS_TOPIC, TRANSACTIONS_TOPIC, QUEUES_TOPIC];

/// A partition of a topic, by name. Displayed as `topic-partition`, like its directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The name of the topic.
    pub topic: Arc<str>,
    /// The number of the partition, from 0.
    pub partition: u32,
}

impl TopicPartition {
    /// Names partition `partition` of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: u32) -> Self {
        Self { topic: topic.into(), partition }
    }

    /// The partition that a directory name stands for, split at the last `-`; `None` if it stands for none.
    #[must_use]
    pub fn from_dir_name(name: &str) -> Option<Self> {
        let (topic, partition) = name.rsplit_once('-')?;
        let is_number = !partition.is_empty() && partition.bytes().all(|byte| byte.is_ascii_digit());
        // A leading zero would give one partition two directories.
        if topic.is_empty() || !is_number || (partition.len() > 1 && partition.starts_with('0')) {
            return None;
        }
        Some(Self::new(topic, partition.parse().ok()?))
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_id_reads_back_from_its_text() {
        for seed in 0..200_u64 {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
            bytes[8..].copy_from_slice(&seed.wrapping_mul(0xD1B5_4A32_D192_ED03).to_le_bytes());
            let id = TopicId::from_bytes(bytes);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn a_topic_id_has_one_text_only() {
        // The last digit carries two bits; `x` differs from `w` in the four that must be zero.
        assert_eq!("AAECAwQFBgcICQoLDA0ODx".parse::<TopicId>(), Err(InvalidTopicId));
        assert_eq!("AAECAwQFBgcICQoLDA0OD".parse::<TopicId>(), Err(InvalidTopicId));
        assert_eq!("AAECAwQFBgcICQoLDA0OD/".parse::<TopicId>(), Err(InvalidTopicId));
    }

    #[test]
    fn a_timestamp_moves_by_whole_milliseconds_and_stays_in_range() {
        let at = Timestamp(1_000);
        assert_eq!(at + Duration::from_micros(1_999), Timestamp(1_001));
        assert_eq!(at - Duration::from_micros(1_999), Timestamp(999));
        assert_eq!(at + Duration::MAX, Timestamp(i64::MAX));
        assert_eq!(at - Duration::MAX, Timestamp(0), "no time is not an early time");
        assert_eq!(Timestamp::NONE - Duration::from_secs(1), Timestamp::NONE);
    }

    #[test]
    fn a_directory_name_splits_at_the_last_dash() {
        assert_eq!(TopicPartition::from_dir_name("a-1-0"), Some(TopicPartition::new("a-1", 0)));
        assert_eq!(TopicPartition::from_dir_name("--0"), Some(TopicPartition::new("-", 0)));
        for other in ["orders", "orders-", "-0", "orders-01", "orders-x", "orders-4294967296", "orders-+1"] {
            assert_eq!(TopicPartition::from_dir_name(other), None, "{other}");
        }
    }
}
