//! Chance that can be repeated.
//!
//! Workload, faults and scheduling each draw from a stream of their own, so that taking one operation away leaves
//! the others as they were.

/// A small generator: the same seed gives the same numbers, on every machine and for ever.
#[derive(Debug, Clone)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// A generator that starts from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: mix(seed ^ 0x5851_F42D_4C95_7F2D) }
    }

    /// The stream called `name` of the run that `seed` stands for, independent of its other streams.
    #[must_use]
    pub fn stream(seed: u64, name: &str) -> Self {
        let named = name.bytes().fold(seed, |state, byte| mix(state ^ u64::from(byte)));
        Self::new(named)
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.state)
    }

    /// A number below `end`; 0 if `end` is 0. The bias is below `end` in 2^64, and does not matter here.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(end)) >> 64) as u64
    }

    /// A number from `first` to `last`, both included. `first` may not be larger.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below((last - first).saturating_add(1))
    }

    /// `true` in `count` of `of` cases.
    pub fn chance(&mut self, count: u64, of: u64) -> bool {
        self.below(of) < count
    }

    /// One of `items`, of which there is at least one.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// An index of `weights`, drawn in proportion to them; the last one if all are 0.
    pub fn weighted(&mut self, weights: &[u32]) -> usize {
        let mut left = self.below(weights.iter().map(|weight| u64::from(*weight)).sum());
        for (index, weight) in weights.iter().enumerate() {
            match left.checked_sub(u64::from(*weight)) {
                Some(rest) => left = rest,
                None => return index,
            }
        }
        weights.len().saturating_sub(1)
    }
}

/// Spreads each bit of `bits` over all 64: close seeds give unlike streams. The finalizer of SplitMix64.
#[must_use]
pub fn mix(bits: u64) -> u64 {
    let bits = (bits ^ bits >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let bits = (bits ^ bits >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ bits >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_one_seed_differ_and_repeat() {
        let draw = |name| {
            let mut rng = Rng::stream(7, name);
            [rng.draw(), rng.draw(), rng.draw()]
        };
        assert_eq!(draw("faults"), draw("faults"));
        assert_ne!(draw("faults"), draw("workload"));
    }

    #[test]
    fn numbers_reach_both_ends_of_their_range_and_no_further() {
        let mut rng = Rng::new(1);
        let mut seen = [0_u32; 8];
        for _ in 0..1_000 {
            seen[rng.between(2, 5) as usize] += 1;
        }
        assert_eq!([seen[0], seen[1], seen[6], seen[7]], [0; 4]);
        assert!(seen[2..6].iter().all(|count| (150..350).contains(count)), "{seen:?}");
        assert_eq!(rng.below(0), 0);
    }

    #[test]
    fn weights_are_respected() {
        let mut rng = Rng::new(2);
        let mut seen = [0_u32; 3];
        for _ in 0..1_000 {
            seen[rng.weighted(&[1, 0, 3])] += 1;
        }
        assert!(seen[1] == 0 && seen[2] > 2 * seen[0], "{seen:?}");
    }
}
