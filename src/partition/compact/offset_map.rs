//! The latest offset of each key, in memory of a fixed size.
//!
//! A key is known by 128 bits of a keyed hash, so that nobody who does not know the secret can make two keys that are
//! taken for one. Open addressing: a slot is looked for from where the hash points, and on from there to the first that
//! is free.
//!
//! Invariants:
//! - At least one slot in ten is free, so that every search ends, and soon.
//! - An offset never falls: who puts keys in goes through the log upwards.

use siphasher::sip128::SipHasher13;

use crate::types::Offset;

/// What is known of keys.
#[derive(Debug)]
pub(crate) struct OffsetMap {
    hasher: SipHasher13,
    slots: Box<[Slot]>,
    count: usize,
    /// How many keys there is room for.
    room: usize,
}

/// A key's place: 24 bytes.
#[derive(Debug, Clone, Copy)]
struct Slot {
    hash: [u64; 2],
    offset: u64,
}

impl Slot {
    const LEN: u64 = size_of::<Self>() as u64;
    /// No record has this offset.
    const FREE: Self = Self { hash: [0; 2], offset: u64::MAX };
}

impl OffsetMap {
    /// A map of at most `bytes` of memory, and of no more than `keys` need. There is room for one key, whatever that takes.
    pub(crate) fn new(secret: [u64; 2], bytes: u64, keys: u64) -> Self {
        let most = (bytes / Slot::LEN).max(2);
        let wanted = keys.saturating_add(keys / 9).saturating_add(2);
        let count = usize::try_from(most.min(wanted)).unwrap_or(usize::MAX / size_of::<Slot>());
        Self {
            hasher: SipHasher13::new_with_keys(secret[0], secret[1]),
            slots: vec![Slot::FREE; count].into_boxed_slice(),
            count: 0,
            room: (count - count.div_ceil(10)).max(1),
        }
    }

    /// Notes that `key` has a record at `offset`, which is above those noted before; `false`, and nothing is noted, if
    /// there is no room for another key.
    #[must_use]
    pub(crate) fn put(&mut self, key: &[u8], offset: Offset) -> bool {
        let hash = self.hash(key);
        let at = self.find(hash);
        let slot = &mut self.slots[at];
        if slot.offset == u64::MAX {
            if self.count == self.room {
                return false;
            }
            self.count += 1;
            slot.hash = hash;
        }
        slot.offset = offset.0;
        true
    }

    /// The latest offset that was noted of `key`.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Offset> {
        let slot = self.slots[self.find(self.hash(key))];
        (slot.offset != u64::MAX).then_some(Offset(slot.offset))
    }

    /// How many keys are known.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    fn hash(&self, key: &[u8]) -> [u64; 2] {
        let hash = self.hasher.hash(key);
        [hash.h1, hash.h2]
    }

    /// The slot of this hash, or the free one where it belongs.
    fn find(&self, hash: [u64; 2]) -> usize {
        // The upper bits of a product say where in the table it is, without a division.
        let mut at = ((u128::from(hash[0]) * self.slots.len() as u128) >> 64) as usize;
        loop {
            let slot = &self.slots[at];
            if slot.offset == u64::MAX || slot.hash == hash {
                return at;
            }
            at = if at + 1 == self.slots.len() { 0 } else { at + 1 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn memory_and_need_bound_the_map_and_there_is_room_for_a_key() {
        let slots = |bytes, keys| OffsetMap::new([1, 2], bytes, keys).slots.len();
        assert_eq!((slots(0, 1_000), slots(240, 1_000), slots(1 << 40, 9)), (2, 10, 12));
        for bytes in [0, 24, 48, 72] {
            let mut map = OffsetMap::new([1, 2], bytes, 100);
            assert!(map.put(b"a", Offset(1)) && !map.put(b"b", Offset(2)) || map.room > 1, "{bytes}");
            assert!(map.put(b"a", Offset(3)));
            assert_eq!((map.get(b"a"), map.get(b"c")), (Some(Offset(3)), None));
        }
        let mut exact = OffsetMap::new([1, 2], 1 << 20, 500);
        assert!((0..500_u64).all(|key| exact.put(&key.to_be_bytes(), Offset(key))), "as many as were said");
    }

    #[test]
    fn another_secret_is_another_order() {
        let first = |secret| OffsetMap::new(secret, 1 << 20, 1_000).hash(b"key");
        assert_ne!(first([1, 2]), first([1, 3]));
    }

    proptest! {
        /// As long as there is room, the map says of every key what an ordered map does; then it takes known keys only.
        #[test]
        fn it_answers_as_an_ordered_map_does(keys in prop::collection::vec(0..60_u8, 1..200), slots in 2..80_u64) {
            let mut map = OffsetMap::new([7, 9], slots * Slot::LEN, u64::MAX);
            let mut expected = BTreeMap::new();
            for (offset, key) in keys.iter().enumerate() {
                let offset = Offset(offset as u64);
                let is_taken = map.put(&[*key], offset);
                prop_assert_eq!(is_taken, expected.contains_key(key) || expected.len() < map.room);
                if is_taken {
                    expected.insert(*key, offset);
                }
            }
            prop_assert_eq!(map.len(), expected.len());
            for key in 0..60 {
                prop_assert_eq!(map.get(&[key]), expected.get(&key).copied());
            }
        }
    }
}
