//! Time and chance, the two effects that are not a disk. Both enter through a trait given to the builder.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

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
///
/// [`now`](Clock::now) is its coarse reading, up to one timer tick behind: at most 10 ms, on most kernels 4. It is read
/// at every append, and costs less than the exact one. So a record may carry a time a little before that of a
/// [`SystemTime`] taken ahead of its append.
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
        let time = clock_gettime(ClockId::RealtimeCoarse);
        // A clock set before 1970 reads as 1970: records then carry 0, which retention never acts on.
        Timestamp((time.tv_sec.saturating_mul(1000) + time.tv_nsec / 1_000_000).max(0))
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// In whole milliseconds; a time before 1970 counts as 1970.
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        Self(0) + time.duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// Gives random numbers: topic ids, the choice of a partition for records without key, jitter.
///
/// Nothing here needs to be secret; it needs to differ between two processes, and not to repeat: topics with ids of one
/// source are told from each other by them.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coarse_clock_is_a_few_ticks_from_the_exact_one() {
        let exact = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
        let clock = SystemClock::new();
        let (before, now, after) = (exact(), clock.now().0, exact());
        assert!((before - 20..=after).contains(&now), "{before} <= {now} <= {after}");
    }

    #[test]
    fn a_system_time_is_a_timestamp() {
        assert_eq!(Timestamp::from(UNIX_EPOCH + Duration::from_micros(1_500)), Timestamp(1));
        assert_eq!(Timestamp::from(UNIX_EPOCH - Duration::from_secs(1)), Timestamp(0));
    }

    #[test]
    fn two_sources_of_entropy_differ_and_one_does_not_repeat() {
        let (one, other) = (SystemEntropy::default(), SystemEntropy::default());
        let drawn: std::collections::HashSet<u64> = (0..1000).flat_map(|_| [one.random(), other.random()]).collect();
        assert_eq!(drawn.len(), 2000);
    }
}
