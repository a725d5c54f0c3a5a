//! How a consumer waits for all that is not a partition.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use parking_lot::Mutex;

/// Wakes whoever polls a consumer, for reasons beside records: answers, maintenance, another thread of the application's.
///
/// ```text
/// poll                           other
///   has_rung = false               has_rung = true
///   looks at everything            takes the waker, wakes
///   keeps its waker
///   has_rung ? looks again
/// ```
#[derive(Default)]
pub(super) struct Alarm {
    has_rung: AtomicBool,
    is_woken: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alarm").field("is_woken", &self.is_woken).finish()
    }
}

impl Alarm {
    pub(super) fn ring(&self) {
        self.has_rung.store(true, Ordering::SeqCst);
        // Woken when the lock is gone: that may run code of a runtime.
        let waker = self.waker.lock().take();
        waker.into_iter().for_each(Waker::wake);
    }

    /// Forgets earlier rings: all that they were about is looked at now.
    pub(super) fn begin(&self) {
        // Not stored each time: the line is shared with other threads.
        if self.has_rung.load(Ordering::SeqCst) {
            self.has_rung.store(false, Ordering::SeqCst);
        }
    }

    /// Keeps the waker for the next ring. Whether there was one since [`begin`](Self::begin): then look again.
    pub(super) fn keep(&self, waker: &Waker) -> bool {
        let is_known = self.waker.lock().as_ref().is_some_and(|kept| kept.will_wake(waker));
        if !is_known {
            // Cloned before the lock is taken and the old one dropped after: both may run code of a runtime.
            let waker = waker.clone();
            let old = self.waker.lock().replace(waker);
            drop(old);
        }
        self.has_rung.load(Ordering::SeqCst)
    }

    /// Whether the application wants the poll to end, once.
    pub(super) fn take_woken(&self) -> bool {
        self.is_woken.load(Ordering::Acquire) && self.is_woken.swap(false, Ordering::AcqRel)
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

/// Ends a poll early, from any thread. Made by [`Consumer::waker`](crate::Consumer::waker); clones are for the same
/// consumer, which they do not keep. Kafka: `wakeup`.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use std::time::Duration;
/// use chiplog::{Log, TopicPartition};
///
/// let log = Log::open(dir.path())?;
/// log.topic("orders")?;
/// let mut consumer = log.consumer("billing").assign([TopicPartition::new("orders", 0)])?;
/// let waker = consumer.waker();
/// std::thread::spawn(move || waker.wake());
/// let polled = consumer.poll(Duration::from_secs(60))?; // there will be no record
/// assert!(polled.is_empty() && polled.was_woken());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct ConsumerWaker(pub(super) Arc<Alarm>);

impl ConsumerWaker {
    /// Lets the poll that is under way, or else the next one, return at once, without records. Several calls before that
    /// are one.
    pub fn wake(&self) {
        self.0.is_woken.store(true, Ordering::Release);
        self.0.ring();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::client::signal::{LONGEST, Signal};

    #[test]
    fn a_ring_between_the_look_and_the_wait_is_seen() {
        let (alarm, signal) = (Alarm::default(), Arc::new(Signal::default()));
        let waker = Waker::from(Arc::clone(&signal));
        alarm.begin();
        alarm.ring();
        assert!(alarm.keep(&waker), "it looks again");
        alarm.begin();
        assert!(!alarm.keep(&waker) && !signal.wait(Duration::ZERO));
        alarm.ring();
        assert!(signal.wait(LONGEST));
    }
}
