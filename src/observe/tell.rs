//! When an observer is told: once its thread holds no lock of the log, so that it may call the log.
//!
//! ```text
//! lock (Later)                          unlock
//!   |-- event, event: kept by the thread --|-- told, in order
//! ```
//!
//! Invariants:
//! - Whoever holds a lock that a call of the log may wait for has a [`Later`], too, which is dropped after the lock.
//! - What one thread has to tell is told on this thread, in its order, by the time its call of the log returns. What
//!   an observer brings about itself is told when it has returned: on one thread, it is never called within itself.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::Observer;

/// Tells the observer, now or when the last [`Later`] of this thread goes.
pub(crate) fn tell(observer: &Arc<dyn Observer>, call: impl FnOnce(&dyn Observer) + 'static) {
    let observer = Arc::clone(observer);
    later(move || call(&*observer));
}

/// Calls into code that is not ours, now or when the last [`Later`] of this thread goes.
pub(crate) fn later(call: impl FnOnce() + 'static) {
    let _later = Later::begin();
    // A thread that is ending has nobody left to tell.
    let _ = WAITING.try_with(|waiting| waiting.borrow_mut().push_back(Box::new(call)));
}

/// While one of these lives, what its thread has to tell waits.
#[derive(Debug)]
pub(crate) struct Later(());

impl Later {
    pub(crate) fn begin() -> Self {
        LATER_COUNT.set(LATER_COUNT.get() + 1);
        Self(())
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        LATER_COUNT.set(LATER_COUNT.get() - 1);
        if LATER_COUNT.get() == 0 && !std::thread::panicking() {
            tell_all();
        }
    }
}

fn tell_all() {
    // One at a time, and nothing borrowed meanwhile: the observer may call the log, which adds to them.
    while let Ok(Some(call)) = WAITING.try_with(|waiting| waiting.borrow_mut().pop_front()) {
        let _telling = Telling::begin();
        call();
    }
}

/// Counts as a [`Later`], but tells nothing when it goes: it is dropped by who tells the rest, or by a panic.
struct Telling(());

impl Telling {
    fn begin() -> Self {
        LATER_COUNT.set(LATER_COUNT.get() + 1);
        Self(())
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        LATER_COUNT.set(LATER_COUNT.get() - 1);
    }
}

/// A lock under which nobody is told anything.
pub(crate) struct Quiet<'a, T> {
    // Dropped in this order: first the lock, then what tells.
    guard: MutexGuard<'a, T>,
    _later: Later,
}

impl<'a, T> Quiet<'a, T> {
    pub(crate) fn lock(mutex: &'a Mutex<T>) -> Self {
        let later = Later::begin();
        Self { guard: mutex.lock(), _later: later }
    }
}

impl<T> Deref for Quiet<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for Quiet<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T: fmt::Debug> fmt::Debug for Quiet<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

type Call = Box<dyn FnOnce()>;

thread_local! {
    static LATER_COUNT: Cell<usize> = const { Cell::new(0) };
    static WAITING: RefCell<VecDeque<Call>> = const { RefCell::new(VecDeque::new()) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TopicPartition;

    /// Locks what whoever tells it has locked.
    #[derive(Debug)]
    struct Locks {
        mutex: Arc<Mutex<u64>>,
        told: Mutex<Vec<u64>>,
    }

    impl Observer for Locks {
        fn poisoned(&self, _: &TopicPartition, _: &str) {
            let value = *Quiet::lock(&self.mutex);
            self.told.lock().push(value);
        }
    }

    /// Tells another of each event, and says when it is called and when it returns.
    #[derive(Debug)]
    struct Passes {
        to: Arc<dyn Observer>,
        said: Arc<Mutex<Vec<&'static str>>>,
    }

    impl Observer for Passes {
        fn poisoned(&self, _: &TopicPartition, _: &str) {
            self.said.lock().push("called");
            tell(&self.to, |other| other.space_recovered(0));
            self.said.lock().push("returned");
        }
    }

    #[derive(Debug)]
    struct Says(Arc<Mutex<Vec<&'static str>>>);

    impl Observer for Says {
        fn space_recovered(&self, _: u64) {
            self.0.lock().push("told");
        }
    }

    #[test]
    fn what_an_observer_brings_about_is_told_when_it_has_returned() {
        let said = Arc::new(Mutex::default());
        let observer: Arc<dyn Observer> =
            Arc::new(Passes { to: Arc::new(Says(Arc::clone(&said))), said: Arc::clone(&said) });
        tell(&observer, |observer| observer.poisoned(&TopicPartition::new("orders", 0), ""));
        assert_eq!(*said.lock(), ["called", "returned", "told"]);
    }

    #[test]
    fn nobody_is_told_before_the_last_lock_is_gone() {
        let mutex = Arc::new(Mutex::new(0));
        let locks = Arc::new(Locks { mutex: Arc::clone(&mutex), told: Mutex::default() });
        let observer: Arc<dyn Observer> = locks.clone();
        let poison = || tell(&observer, |observer| observer.poisoned(&TopicPartition::new("orders", 0), ""));
        {
            let _outer = Later::begin();
            {
                let mut value = Quiet::lock(&mutex);
                *value = 7;
                poison();
            }
            poison();
            assert!(locks.told.lock().is_empty());
        }
        poison();
        assert_eq!(*locks.told.lock(), [7, 7, 7]);
    }
}
