//! What a crash keeps: drawn by chance, or told bit by bit so that every outcome can be run through.

use super::rng::Rng;

/// Decides the fate of each pending piece of a crashing disk, in a fixed order.
#[derive(Debug)]
pub(super) enum Choice {
    Chance { rng: Rng, eighths: u64, torn: bool },
    Mask { bits: u64, asked: u32 },
}

impl Choice {
    /// One keep-probability for the whole crash: all kept and all lost are as likely as anything between, because
    /// that is where the bugs are.
    pub(super) fn chance(seed: u64, torn: bool) -> Self {
        let mut rng = Rng::stream(seed, "crash");
        let eighths = *rng.pick(&[0, 2, 4, 7, 8]);
        Self::Chance { rng, eighths, torn }
    }

    /// The outcome number `bits` of all outcomes.
    pub(super) fn mask(bits: u64) -> Self {
        Self::Mask { bits, asked: 0 }
    }

    pub(super) fn keep(&mut self) -> bool {
        match self {
            Self::Chance { rng, eighths, .. } => rng.chance(*eighths, 8),
            Self::Mask { bits, asked } => {
                let bit = bits.checked_shr(*asked).unwrap_or(0) & 1;
                *asked += 1;
                bit == 1
            }
        }
    }

    /// The length that is found where a file had `durable` and would have had `cached`.
    pub(super) fn len(&mut self, durable: u64, cached: u64) -> u64 {
        if durable == cached {
            return cached;
        }
        match self {
            Self::Mask { .. } => [durable, cached][usize::from(self.keep())],
            Self::Chance { rng, .. } => match rng.below(4) {
                0 => durable,
                1 => rng.between(durable.min(cached), durable.max(cached)),
                _ => cached,
            },
        }
    }

    /// Which bytes of a kept part of `len` bytes reached the disk: all, or one side of a torn sector.
    pub(super) fn torn(&mut self, len: usize) -> std::ops::Range<usize> {
        match self {
            Self::Chance { rng, torn: true, .. } => {
                let cut = rng.below(len as u64) as usize;
                match rng.below(8) {
                    0 => 0..cut,
                    1 => cut..len,
                    _ => 0..len,
                }
            }
            _ => 0..len,
        }
    }

    /// How many bits a mask needs to name this outcome.
    pub(super) fn asked(&self) -> u32 {
        match self {
            Self::Chance { .. } => 0,
            Self::Mask { asked, .. } => *asked,
        }
    }
}
