//! Atomics and locks: the real ones, or loom's when a model is checked (`--cfg loom`).
//!
//! A model is only believed if it fails when the code is wrong. [`weakened`] names the places where a model's twin
//! takes one ordering, or one wake-up, away; outside of loom it is `false` at compile time.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

#[cfg(loom)]
pub(crate) use modelled::{Condvar, Monitor, Mutex, MutexGuard, Patience, Witness, weakened};
#[cfg(not(loom))]
pub(crate) use real::{Condvar, Monitor, Mutex, MutexGuard, Patience, Witness, weakened};

/// The ordering `strong`, or `Relaxed` while the place `name` is weakened.
#[inline(always)]
pub(crate) fn ordering(name: &'static str, strong: Ordering) -> Ordering {
    if weakened(name) { Ordering::Relaxed } else { strong }
}

#[cfg(not(loom))]
mod real {
    use std::ops::Range;
    use std::sync::PoisonError;
    use std::time::{Duration, Instant};

    pub(crate) use parking_lot::{Mutex, MutexGuard};

    /// Whether a model's twin has switched off the place `name`.
    #[inline(always)]
    pub(crate) const fn weakened(_name: &'static str) -> bool {
        false
    }

    /// Where threads sleep until a condition on the locked value changes.
    #[derive(Debug, Default)]
    pub(crate) struct Condvar(parking_lot::Condvar);

    impl Condvar {
        pub(crate) fn new() -> Self {
            Self::default()
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }

        /// Sleeps while `condition` holds, at most for `timeout`; forever without one.
        pub(crate) fn wait_while<'a, T>(
            &self,
            mut guard: MutexGuard<'a, T>,
            condition: impl FnMut(&mut T) -> bool,
            timeout: Option<Duration>,
        ) -> MutexGuard<'a, T> {
            match timeout {
                Some(timeout) => drop(self.0.wait_while_for(&mut guard, condition, timeout)),
                None => self.0.wait_while(&mut guard, condition),
            }
            guard
        }
    }

    /// A locked value, and many threads that sleep until it changes: all are woken by one call of the system. The
    /// [`Condvar`] wakes one, which wakes the next when it lets go of the lock; 32 threads were a tenth slower by it.
    #[derive(Debug, Default)]
    pub(crate) struct Monitor<T> {
        value: std::sync::Mutex<T>,
        changed: std::sync::Condvar,
    }

    impl<T> Monitor<T> {
        pub(crate) fn new(value: T) -> Self {
            Self { value: std::sync::Mutex::new(value), changed: std::sync::Condvar::new() }
        }

        pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, T> {
            self.value.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// Sleeps while `condition` holds.
        pub(crate) fn wait_while<'a>(
            &self,
            guard: std::sync::MutexGuard<'a, T>,
            condition: impl FnMut(&mut T) -> bool,
        ) -> std::sync::MutexGuard<'a, T> {
            self.changed.wait_while(guard, condition).unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn notify_one(&self) {
            self.changed.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.changed.notify_all();
        }
    }

    /// A wait too short to sleep: a timer is 50 us late.
    #[derive(Debug)]
    pub(crate) struct Patience {
        limit: Duration,
        began: Option<Instant>,
    }

    impl Patience {
        pub(crate) fn new(limit: Duration) -> Self {
            Self { limit, began: None }
        }

        /// Whether the limit has passed since this was first asked.
        pub(crate) fn is_over(&mut self) -> bool {
            self.limit.is_zero() || self.began.get_or_insert_with(Instant::now).elapsed() >= self.limit
        }

        /// Lets others have the processor, if any wants it.
        pub(crate) fn pause(&mut self) {
            std::thread::yield_now();
        }
    }

    /// Says to loom who touched which bytes of raw memory, which it cannot see by itself. Nothing otherwise.
    #[derive(Debug)]
    pub(crate) struct Witness;

    impl Witness {
        #[inline(always)]
        pub(crate) const fn new(_len: usize) -> Self {
            Self
        }

        #[inline(always)]
        pub(crate) const fn write(&self, _range: Range<usize>) {}

        #[inline(always)]
        pub(crate) const fn read(&self, _range: Range<usize>) {}
    }
}

#[cfg(loom)]
mod modelled {
    use std::cell::Cell;
    use std::ops::Range;
    use std::sync::PoisonError;
    use std::time::Duration;

    pub(crate) use loom::sync::MutexGuard;

    thread_local! {
        // The threads of a model are coroutines of the one thread that runs its test.
        static WEAKENED: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    pub(crate) fn weakened(name: &'static str) -> bool {
        WEAKENED.get() == Some(name)
    }

    /// Runs every interleaving of `model`.
    #[cfg(test)]
    pub(crate) fn check(model: impl Fn() + Send + Sync + 'static) {
        loom::model(model);
    }

    /// Runs the interleavings of `model` that interrupt a thread at most three times; all of three threads are too many.
    #[cfg(test)]
    pub(crate) fn check_large(model: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(model);
    }

    /// Runs `model` with the place `name` weakened, and fails unless loom stops it with `finding`.
    #[cfg(test)]
    pub(crate) fn must_fail(name: &'static str, finding: &str, model: impl Fn() + Send + Sync + 'static) {
        WEAKENED.set(Some(name));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check_large(model)));
        WEAKENED.set(None);
        let panic = outcome.expect_err("the model holds without it, so it proves nothing");
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        assert!(text.is_some_and(|text| text.contains(finding)), "not {finding:?} but {text:?}");
    }

    /// What loom says of bytes that one thread writes while another may read them.
    #[cfg(test)]
    pub(crate) const RACE: &str = "Causality violation";
    /// What loom says when every thread left is asleep: a wake-up was lost.
    #[cfg(test)]
    pub(crate) const ASLEEP: &str = "deadlock";

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    #[derive(Debug)]
    pub(crate) struct Condvar(loom::sync::Condvar);

    impl Condvar {
        pub(crate) fn new() -> Self {
            Self(loom::sync::Condvar::new())
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }

        /// Time does not pass in a model: a timeout is only ever zero or never.
        pub(crate) fn wait_while<'a, T>(
            &self,
            mut guard: MutexGuard<'a, T>,
            mut condition: impl FnMut(&mut T) -> bool,
            timeout: Option<Duration>,
        ) -> MutexGuard<'a, T> {
            while condition(&mut guard) && timeout != Some(Duration::ZERO) {
                guard = self.0.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            guard
        }
    }

    #[derive(Debug)]
    pub(crate) struct Monitor<T> {
        value: Mutex<T>,
        changed: Condvar,
    }

    impl<T> Monitor<T> {
        pub(crate) fn new(value: T) -> Self {
            Self { value: Mutex::new(value), changed: Condvar::new() }
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.value.lock()
        }

        pub(crate) fn wait_while<'a>(
            &self,
            guard: MutexGuard<'a, T>,
            condition: impl FnMut(&mut T) -> bool,
        ) -> MutexGuard<'a, T> {
            self.changed.wait_while(guard, condition, None)
        }

        pub(crate) fn notify_one(&self) {
            self.changed.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.changed.notify_all();
        }
    }

    /// Time does not pass in a model: a limit is so many pauses.
    #[derive(Debug)]
    pub(crate) struct Patience(u32);

    impl Patience {
        pub(crate) fn new(limit: Duration) -> Self {
            Self(if limit.is_zero() { 0 } else { 2 })
        }

        pub(crate) fn is_over(&mut self) -> bool {
            self.0 == 0
        }

        pub(crate) fn pause(&mut self) {
            self.0 -= 1;
            loom::thread::yield_now();
        }
    }

    /// One cell a byte, whose accesses loom checks for races.
    #[derive(Debug)]
    pub(crate) struct Witness(Box<[loom::cell::UnsafeCell<()>]>);

    impl Witness {
        pub(crate) fn new(len: usize) -> Self {
            Self((0..len).map(|_| loom::cell::UnsafeCell::new(())).collect())
        }

        pub(crate) fn write(&self, range: Range<usize>) {
            self.0[range].iter().for_each(|cell| cell.with_mut(|_| ()));
        }

        pub(crate) fn read(&self, range: Range<usize>) {
            self.0[range].iter().for_each(|cell| cell.with(|_| ()));
        }
    }
}

#[cfg(all(test, loom))]
pub(crate) use modelled::{ASLEEP, RACE, check, check_large, must_fail};
