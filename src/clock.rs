//! Time and chance, the two effects that are not a disk. Both enter through a trait given to the builder.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::types::Timestamp;

/// Tells the time.
///
/// The two readings are separate because they answer different questions: `now` may be set back or jump, so it
/// only ever labels records and ages; every deadline is measured with `monotonic`.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Milliseconds since 1970, as far as this machine knows.
    fn now(&self) -> Timestamp;

    /// Time since some fixed moment. Never goes back.
    fn monotonic(&self) -> Duration;
}

/// The clock of the operating system.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// A clock whose [`monotonic`](Clock::monotonic) reading starts at zero now.
    #[must_use]
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        // A clock set before 1970 reads as 1970: records then carry 0, which retention never acts on.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Gives random numbers: topic ids, the choice of a partition for records without key, jitter.
///
/// Nothing here needs to be secret; it needs to differ between two processes.
pub trait Entropy: fmt::Debug + Send + Sync + 'static {
    /// 64 bits nobody can foresee well enough to collide with by accident.
    fn random(&self) -> u64;
}

/// Entropy from the operating system, by way of the seeds of the standard library's hasher.
#[derive(Debug, Default)]
pub struct SystemEntropy {
    seeds: RandomState,
    drawn: std::sync::atomic::AtomicU64,
}

impl Entropy for SystemEntropy {
    fn random(&self) -> u64 {
        let mut hasher = self.seeds.build_hasher();
        hasher.write_u64(self.drawn.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        // A second, freshly seeded hasher: two logs in one process must not draw the same ids.
        hasher.write_u64(RandomState::new().build_hasher().finish());
        hasher.finish()
    }
}
