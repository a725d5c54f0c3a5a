//! Which partition a record goes to: by its key, as Kafka's clients choose, or stuck to one for a while without.
//!
//! A key's partition is `murmur2(key) & 0x7fffffff` modulo the count: the same key, the same partition, from this
//! crate and from Kafka's Java client alike. The mask is not an absolute value, and an empty key is a key.
//!
//! Records without key stay with one partition until 16 KiB went there, so that batches fill, then move to another.

use std::sync::atomic::{AtomicU64, Ordering};

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
