//! What a thread sleeps on that waits for a client.

use std::sync::Arc;
use std::task::Wake;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// A waker for a thread that blocks. What is told before the wait is not lost.
#[derive(Debug, Default)]
pub(super) struct Signal {
    is_set: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    /// Forgets what was told.
    pub(super) fn reset(&self) {
        *self.is_set.lock() = false;
    }

    /// Sleeps until it is told, at most for `timeout`. Whether it was.
    pub(super) fn wait(&self, timeout: Duration) -> bool {
        let mut is_set = self.is_set.lock();
        self.changed.wait_while_for(&mut is_set, |is_set| !*is_set, timeout);
        *is_set
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        *self.is_set.lock() = true;
        self.changed.notify_one();
    }
}

/// Not shorter than the tick of a coarse clock, by which nothing would have changed.
pub(super) const SHORTEST: Duration = Duration::from_millis(1);

/// What a condition variable can be asked to wait for on every system.
pub(super) const LONGEST: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn what_is_told_before_the_wait_is_not_lost() {
        let signal = Arc::new(Signal::default());
        assert!(!signal.wait(Duration::ZERO));
        Waker::from(Arc::clone(&signal)).wake();
        assert!(signal.wait(LONGEST) && signal.wait(LONGEST));
        signal.reset();
        assert!(!signal.wait(Duration::ZERO));
    }
}
