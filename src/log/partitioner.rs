//! Which partition a record goes to: by its key, as Kafka's clients choose, or stuck to one for a while without.
//!
//! A key's partition is `murmur2(key) & 0x7fffffff` modulo the count: the same key, the same partition, from this
//! crate and from Kafka's Java client alike. The mask is not an absolute value, and an empty key is a key.
//!
//! Records without key stay with one partition until 16 KiB went there, so that batches fill, then move to another. A
//! [`Producer`](crate::Producer) sees its batches fill, and moves on when one is full; how it chooses is its own setting,
//! [`Partitioning`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::checksum::crc32;

/// Which partition a [`Producer`](crate::Producer) sends a record to, if the caller does not say.
///
/// All partitions count for a key, also those that cannot be used: the same key goes to the same partition, or nowhere.
/// More partitions are other partitions for most keys.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use chiplog::{Log, Partitioning, Record, TopicConfig};
///
/// let log = Log::open(dir.path())?;
/// log.create_topic("orders", TopicConfig::default().partitions(10))?;
/// let java = log.producer().build()?;
/// assert_eq!(java.send(Record::new("paid").key("foobar").to("orders"))?.partition(), 6);
///
/// let librdkafka = log.producer().partitioner(Partitioning::Crc32).build()?;
/// assert_eq!(librdkafka.send(Record::new("paid").key("foobar").to("orders"))?.partition(), 9);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Partitioning {
    /// By Kafka's murmur2 of the key; [`Sticky`](Self::Sticky) without one. As Kafka's Java clients choose.
    #[default]
    Murmur2,
    /// By CRC-32 of the key; at random without one, or if it is empty. As librdkafka's `consistent_random` chooses.
    Crc32,
    /// Each in turn, whatever the key.
    RoundRobin,
    /// One at random until a batch of it is full, then another, whatever the key: the fewest and fullest batches. Kafka:
    /// `partitioner.ignore.keys=true`.
    Sticky,
    /// As the application says.
    Custom(Arc<dyn Partitioner>),
}

impl fmt::Debug for Partitioning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Murmur2 => "Murmur2",
            Self::Crc32 => "Crc32",
            Self::RoundRobin => "RoundRobin",
            Self::Sticky => "Sticky",
            Self::Custom(_) => "Custom",
        })
    }
}

/// Chooses partitions in the place of the ways that are built in. Called by each
/// [`send`](crate::Producer::send), on its thread, with no lock held.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use std::sync::Arc;
/// use chiplog::{Log, Partitioner, Partitioning, Record, TopicConfig, Unplaced};
///
/// /// The first byte of a key is the number.
/// struct ByFirstByte;
///
/// impl Partitioner for ByFirstByte {
///     fn partition(&self, record: &Unplaced<'_>) -> u32 {
///         record.key().and_then(|key| key.first()).map_or(0, |byte| u32::from(*byte) % record.partition_count())
///     }
/// }
///
/// let log = Log::open(dir.path())?;
/// log.create_topic("orders", TopicConfig::default().partitions(4))?;
/// let producer = log.producer().partitioner(Partitioning::Custom(Arc::new(ByFirstByte))).build()?;
/// assert_eq!(producer.send(Record::new("paid").key(&[7]).to("orders"))?.partition(), 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Partitioner: Send + Sync {
    /// The number of the partition, below [`Unplaced::partition_count`]; any other refuses the record by
    /// [`Error::PartitionNotFound`](crate::Error::PartitionNotFound).
    fn partition(&self, record: &Unplaced<'_>) -> u32;
}

/// A record that has no partition yet: what a [`Partitioner`] is told of it.
#[derive(Clone, Copy)]
pub struct Unplaced<'a> {
    pub(crate) topic: &'a str,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value_len: usize,
    pub(crate) count: u32,
    pub(crate) is_usable: &'a dyn Fn(u32) -> bool,
}

impl fmt::Debug for Unplaced<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key belongs to the application: it is not printed by accident.
        write!(f, "Unplaced {{ topic: {:?}, partition_count: {} }}", self.topic, self.count)
    }
}

impl<'a> Unplaced<'a> {
    /// The topic it is sent to.
    #[must_use]
    pub fn topic(&self) -> &'a str {
        self.topic
    }

    /// Its key, if it has one.
    #[must_use]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.key
    }

    /// How long its value is, in bytes; 0 if it has none.
    #[must_use]
    pub fn value_len(&self) -> usize {
        self.value_len
    }

    /// How many partitions the topic has: at least 1.
    #[must_use]
    pub fn partition_count(&self) -> u32 {
        self.count
    }

    /// Whether a partition takes records, as far as the producer knows: it is not damaged, and did not fail.
    #[must_use]
    pub fn is_usable(&self, partition: u32) -> bool {
        partition < self.count && (self.is_usable)(partition)
    }

    /// The partition, or if that cannot be used the next that can.
    fn usable_from(&self, chosen: u32) -> u32 {
        (chosen..self.count).chain(0..chosen).find(|number| (self.is_usable)(*number)).unwrap_or(chosen)
    }
}

/// Where a record goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) partition: u32,
    /// Any other would do: if no more fits into the batch there, it goes to another.
    pub(crate) is_sticky: bool,
}

impl Partitioning {
    /// The partition of a record. `random` is asked only where chance decides.
    #[inline]
    pub(crate) fn choose(&self, record: &Unplaced<'_>, turns: &Turns, random: impl FnOnce() -> u64) -> Choice {
        debug_assert!(record.count > 0);
        let count = record.count;
        let (partition, is_sticky) = match (self, record.key) {
            (Self::Murmur2, Some(key)) => (if count == 1 { 0 } else { partition_for_key(key, count) }, false),
            (Self::Murmur2, None) | (Self::Sticky, _) => (turns.current(record, random), true),
            (Self::Crc32, Some(key)) if !key.is_empty() => (crc32(key).checked_rem(count).unwrap_or(0), false),
            (Self::Crc32, _) => (record.usable_from(below(count, random())), false),
            (Self::RoundRobin, _) => {
                let turn = turns.next.fetch_add(1, Ordering::Relaxed);
                (record.usable_from(turn.checked_rem(count).unwrap_or(0)), false)
            }
            (Self::Custom(partitioner), _) => (partitioner.partition(record), false),
        };
        Choice { partition, is_sticky }
    }
}

/// Whose turn it is among the partitions of a topic, for one producer.
#[derive(Debug)]
pub(crate) struct Turns {
    /// Where records stick; with [`LEFT`](Self::LEFT), where they did, and go to another now.
    current: AtomicU32,
    /// Of those that go round.
    next: AtomicU32,
}

impl Turns {
    const LEFT: u32 = 1 << 31;

    pub(crate) fn new() -> Self {
        Self { current: AtomicU32::new(u32::MAX), next: AtomicU32::new(0) }
    }

    #[inline]
    fn current(&self, record: &Unplaced<'_>, random: impl FnOnce() -> u64) -> u32 {
        match self.current.load(Ordering::Relaxed) {
            current if current < record.count.min(Self::LEFT) => current,
            left => self.turn(left, record, random()),
        }
    }

    #[cold]
    fn turn(&self, left: u32, record: &Unplaced<'_>, random: u64) -> u32 {
        let next = record.usable_from(another(record.count, Some(left & !Self::LEFT), random));
        // Another thread may have been faster: then all go where that one does.
        match self.current.compare_exchange(left, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => next,
            Err(current) if current < record.count.min(Self::LEFT) => current,
            Err(_) => next,
        }
    }

    /// The partition had its share: whoever sticks to it goes to another.
    pub(crate) fn leave(&self, partition: u32) {
        let left = partition | Self::LEFT;
        let _ = self.current.compare_exchange(partition, left, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// The partition, of `count`, that a key belongs to.
pub(crate) fn partition_for_key(key: &[u8], count: u32) -> u32 {
    debug_assert!(count > 0);
    (murmur2(key) & 0x7FFF_FFFF).checked_rem(count).unwrap_or(0)
}

/// Kafka's hash of keys. All arithmetic wraps.
pub(crate) fn murmur2(bytes: &[u8]) -> u32 {
    let mut hash = SEED ^ bytes.len() as u32;
    let (words, tail) = bytes.as_chunks::<4>();
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(M);
        word ^= word >> 24;
        hash = hash.wrapping_mul(M) ^ word.wrapping_mul(M);
    }
    if !tail.is_empty() {
        let rest = tail.iter().rev().fold(0, |rest, byte| rest << 8 | u32::from(*byte));
        hash = (hash ^ rest).wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

/// The partition that records without key go to for now. Shared by all threads that append to a topic.
///
/// One word holds both halves of the state, so that they change together without a lock:
///
/// ```text
/// 63                     32 31                      0
/// |--- partition + 1 ------|--- bytes given to it ---|     0: none chosen yet
/// ```
#[derive(Debug, Default)]
pub(crate) struct Sticky {
    state: AtomicU64,
}

impl Sticky {
    /// The partition, of `count`, for a record that takes `bytes`. `random` is asked only when one is chosen.
    pub(crate) fn choose(&self, count: u32, bytes: usize, mut random: impl FnMut() -> u64) -> u32 {
        debug_assert!(count > 0);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let mut seen = self.state.load(Ordering::Relaxed);
        loop {
            let (current, given) = unpack(seen);
            let (partition, given) = match current {
                Some(current) if current < count && given < SWITCH_BYTES => (current, given.saturating_add(bytes)),
                current => (another(count, current, random()), bytes),
            };
            match self.state.compare_exchange_weak(seen, pack(partition, given), Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return partition,
                Err(newer) => seen = newer,
            }
        }
    }
}

/// One of `count` partitions, each as likely, but not `current`, unless it is the only one.
fn another(count: u32, current: Option<u32>, random: u64) -> u32 {
    match current {
        Some(current) if current < count && count > 1 => {
            let other = below(count - 1, random);
            other + u32::from(other >= current)
        }
        _ => below(count, random),
    }
}

/// A number below `bound`, each as likely to within 2^-32: the high half of a product, where a remainder would
/// favour the small ones.
fn below(bound: u32, random: u64) -> u32 {
    ((u128::from(random) * u128::from(bound)) >> 64) as u32
}

fn pack(partition: u32, bytes: u32) -> u64 {
    (u64::from(partition) + 1) << 32 | u64::from(bytes)
}

fn unpack(state: u64) -> (Option<u32>, u32) {
    (((state >> 32) as u32).checked_sub(1), state as u32)
}

const SEED: u32 = 0x9747_B28C;
const M: u32 = 0x5BD1_E995;

/// Kafka's default batch size: what a partition gets before the next one is chosen.
const SWITCH_BYTES: u32 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Each row of the fixture: hashes that Kafka's own classes gave.
    #[test]
    fn keys_go_where_kafka_sends_them() {
        let text = include_str!("../../tests/fixtures/scenarios/murmur2.json");
        let scenario: serde_json::Value = serde_json::from_str(text).unwrap();
        let rows = scenario["vectors"].as_array().unwrap();
        assert_eq!(rows.len(), 13);
        for row in rows {
            let key = from_hex(row["key_hex"].as_str().unwrap());
            let number = |field: &str| row[field].as_i64().unwrap();
            assert_eq!(i64::from(murmur2(&key)), number("murmur2_unsigned"), "{row}");
            assert_eq!(i64::from(murmur2(&key) as i32), number("murmur2_signed"), "{row}");
            for (count, field) in [(3, "mod_3"), (10, "mod_10"), (50, "mod_50")] {
                assert_eq!(i64::from(partition_for_key(&key, count)), number(field), "{row}");
            }
        }
    }

    /// What the fixture lacks: the empty key, bytes that are all ones, a long key, and two of one letter's difference.
    #[test]
    fn an_empty_key_is_hashed_like_any_other() {
        for (key, hash, of_50) in [
            (&b""[..], 275_646_681, 31),
            (&[0xFF; 4], 644_171_429, 29),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", 4_236_069_325, 27),
            (b"key-0", 29_210_041, 41),
            (b"key-1", 193_331_640, 40),
        ] {
            assert_eq!((murmur2(key), partition_for_key(key, 50)), (hash, of_50), "{key:?}");
        }
    }

    /// zlib's CRC-32, which librdkafka takes: of the digits 1 to 9 it is 0xCBF43926, as every description of it says.
    #[test]
    fn keys_go_where_librdkafka_sends_them() {
        let of = |key: &[u8], count| chosen(&Partitioning::Crc32, Some(key), count, &|_| true, &Turns::new(), 0);
        assert_eq!(of(b"123456789", 1_000), 0xCBF4_3926 % 1_000);
        let random = |key, random| chosen(&Partitioning::Crc32, key, 4, &|_| true, &Turns::new(), random);
        for (drawn, partition) in [(0, 0), (u64::MAX / 2, 1), (u64::MAX, 3)] {
            assert_eq!((random(None, drawn), random(Some(&b""[..]), drawn)), (partition, partition));
        }
    }

    #[test]
    fn a_round_goes_to_each_partition_that_can_be_used() {
        let turns = Turns::new();
        let next = || chosen(&Partitioning::RoundRobin, Some(b"k"), 4, &|number| number != 2, &turns, 0);
        assert_eq!([next(), next(), next(), next(), next()], [0, 1, 3, 3, 0]);
    }

    #[test]
    fn who_sticks_leaves_only_where_it_is_told_to() {
        let turns = Turns::new();
        let next = |drawn| chosen(&Partitioning::Murmur2, None, 4, &|number| number != 3, &turns, drawn);
        assert_eq!((next(u64::MAX / 2), next(u64::MAX)), (1, 1), "chance decides once");
        turns.leave(0);
        assert_eq!(next(0), 1, "another is left");
        turns.leave(1);
        assert_eq!(next(u64::MAX), 0, "3 cannot be used, so the next that can");
        turns.leave(0);
        assert_ne!(next(0), 0);
    }

    /// With no partition that can be used, the one that was chosen says what is wrong.
    #[test]
    fn some_partition_is_always_chosen() {
        for way in [Partitioning::Murmur2, Partitioning::Crc32, Partitioning::RoundRobin, Partitioning::Sticky] {
            assert!(chosen(&way, None, 3, &|_| false, &Turns::new(), u64::MAX) < 3, "{way:?}");
        }
    }

    fn chosen(
        way: &Partitioning,
        key: Option<&[u8]>,
        count: u32,
        is_usable: &dyn Fn(u32) -> bool,
        turns: &Turns,
        random: u64,
    ) -> u32 {
        let record = Unplaced { topic: "t", key, value_len: 0, count, is_usable };
        way.choose(&record, turns, || random).partition
    }

    #[test]
    fn a_partition_is_kept_until_sixteen_kibibytes_went_there() {
        let sticky = Sticky::default();
        let mut draws = 0;
        let mut choose = |bytes| sticky.choose(4, bytes, || (draws += 1, u64::MAX / 2).1);
        let first = choose(16_000);
        assert_eq!(choose(384), first, "16,000 bytes are not enough to move on");
        let second = choose(1);
        assert_ne!(second, first);
        assert_eq!(choose(16_383), second);
        assert_ne!(choose(1), second);
        assert_eq!(draws, 3);
    }

    #[test]
    fn the_only_partition_is_chosen_again() {
        let sticky = Sticky::default();
        for _ in 0..5 {
            assert_eq!(sticky.choose(1, 1 << 20, || u64::MAX), 0);
        }
    }

    #[test]
    fn threads_together_give_each_partition_its_share() {
        let sticky = Sticky::default();
        let chosen: Vec<AtomicU64> = (0..8).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (sticky, chosen) = (&sticky, &chosen);
                scope.spawn(move || {
                    let mut seed = thread + 1;
                    for _ in 0..20_000 {
                        let random = || (seed = next(seed), seed).1;
                        let partition = sticky.choose(8, 4096, random);
                        chosen[partition as usize].fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        for count in chosen {
            let count = count.into_inner();
            assert!((8_000..12_000).contains(&count), "{count} of 80,000, 10,000 expected");
        }
    }

    proptest! {
        /// Whatever is drawn, the next partition exists and is another one, and each can be drawn.
        #[test]
        fn the_next_partition_is_another_one(count in 2..200_u32, current in 0..200_u32, random: u64) {
            let next = another(count, Some(current), random);
            prop_assert!(next < count && next != current);
            let step = u64::MAX / u64::from(count - 1);
            let all: std::collections::BTreeSet<u32> =
                (0..u64::from(count - 1)).map(|i| another(count, Some(current % count), i * step + step / 2)).collect();
            prop_assert_eq!(all.len() as u32, count - 1);
        }

        #[test]
        fn a_key_always_has_a_partition(key: Vec<u8>, count in 1..u32::MAX) {
            prop_assert!(partition_for_key(&key, count) < count);
        }
    }

    fn next(seed: u64) -> u64 {
        // Weyl sequence through a mixer: a test needs numbers that differ, not good ones.
        let mixed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        (mixed ^ mixed >> 31).wrapping_mul(0xD6E8_FEB8_6659_FD93)
    }

    fn from_hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }
}
