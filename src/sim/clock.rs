//! Time and chance as the test wants them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::rng::mix;
use crate::clock::{Clock, Entropy};
use crate::types::Timestamp;

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct SimClock {
    now_ms: AtomicI64,
    /// The same, had it never been set back.
    forward_ms: AtomicI64,
    monotonic_ms: AtomicU64,
}

impl SimClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        let (now_ms, forward_ms) = (AtomicI64::new(now.0), AtomicI64::new(now.0));
        Self { now_ms, forward_ms, monotonic_ms: AtomicU64::new(0) }
    }

    /// Another clock that shows the same and goes on by itself.
    #[must_use]
    pub fn fork(&self) -> Arc<Self> {
        Arc::new(Self {
            now_ms: AtomicI64::new(self.now_ms.load(Ordering::Relaxed)),
            forward_ms: AtomicI64::new(self.forward_ms.load(Ordering::Relaxed)),
            monotonic_ms: AtomicU64::new(self.monotonic_ms.load(Ordering::Relaxed)),
        })
    }

    /// Lets time pass, on both readings.
    pub fn advance(&self, time: Duration) {
        let ms = time.as_millis() as u64;
        self.monotonic_ms.fetch_add(ms, Ordering::Relaxed);
        self.jump(ms as i64);
    }

    /// Sets the wall clock forward or back by `ms` milliseconds, as an administrator would: no time passes.
    pub fn jump(&self, ms: i64) {
        let moved = self.now_ms.load(Ordering::Relaxed).saturating_add(ms).max(0);
        self.now_ms.store(moved, Ordering::Relaxed);
        self.forward_ms.fetch_add(ms.max(0), Ordering::Relaxed);
    }

    /// What the wall clock would show had it never been set back: an age that is counted by this is no less than any that
    /// was counted by [`now`](Clock::now).
    #[must_use]
    pub fn forward(&self) -> Timestamp {
        Timestamp(self.forward_ms.load(Ordering::Relaxed))
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.now_ms.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.monotonic_ms.load(Ordering::Relaxed))
    }
}

/// Entropy that repeats: the same seed gives the same numbers.
#[derive(Debug)]
pub struct SimEntropy {
    state: AtomicU64,
}

impl SimEntropy {
    /// Entropy that starts from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: AtomicU64::new(mix(seed)) }
    }
}

impl Entropy for SimEntropy {
    fn random(&self) -> u64 {
        mix(self.state.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_moves_the_wall_clock_only() {
        let clock = SimClock::new(Timestamp(1_000));
        clock.advance(Duration::from_secs(2));
        clock.jump(-10_000);
        assert_eq!(clock.now(), Timestamp(0), "never before 1970");
        assert_eq!((clock.monotonic(), clock.forward()), (Duration::from_secs(2), Timestamp(3_000)));
        let fork = clock.fork();
        clock.jump(5);
        assert_eq!((fork.now(), clock.now()), (Timestamp(0), Timestamp(5)));
    }

    #[test]
    fn entropy_repeats_and_does_not_stand_still() {
        let (a, b) = (SimEntropy::new(3), SimEntropy::new(3));
        let first = a.random();
        assert_eq!(first, b.random());
        assert_ne!(first, a.random());
    }
}
