//! One of the waiters does the work for all.
//!
//! Ten threads want their appends synced; one sync serves them all. Who comes first takes the turn and works; the
//! others sleep until it is over, look whether what they wanted is done, and if not one of them takes the next turn.
//!
//! Invariants:
//! - At most one caller works at a time, and none of the locks here is held meanwhile.
//! - Whoever sleeps is woken by the end of a turn, also of one that ended in a panic.

use crate::sys::shim::{Condvar, Mutex, weakened};

/// The right to do the work, which goes round.
#[derive(Debug)]
pub(crate) struct Turn {
    is_taken: Mutex<bool>,
    ended: Condvar,
}

impl Turn {
    pub(crate) fn new() -> Self {
        Self { is_taken: Mutex::new(false), ended: Condvar::new() }
    }

    /// Returns what `done` finds, or what `work` returns, if it fell to this caller to work.
    ///
    /// `done` says whether there is nothing left to wait for. It is asked under a lock, so it only looks: it may
    /// neither block nor call back into this turn.
    pub(crate) fn run<R>(&self, done: impl Fn() -> Option<R>, work: impl FnOnce() -> R) -> R {
        match done().or_else(|| self.take(&done)) {
            Some(found) => found,
            None => {
                let _taken = Taken { turn: self };
                work()
            }
        }
    }

    /// Takes the turn, or returns what was done by another while it waited for that.
    fn take<R>(&self, done: impl Fn() -> Option<R>) -> Option<R> {
        let mut found = None;
        let mut is_taken = self.ended.wait_while(
            self.is_taken.lock(),
            |is_taken| {
                // After the turn of another, and before one of our own.
                found = done();
                found.is_none() && *is_taken
            },
            None,
        );
        *is_taken |= found.is_none();
        found
    }
}

struct Taken<'a> {
    turn: &'a Turn,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *self.turn.is_taken.lock() = false;
        // All of them: one that finds its work done would keep a single wake-up from who does not.
        match weakened("turn.wake_all") {
            true => self.turn.ended.notify_one(),
            false => self.turn.ended.notify_all(),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;

    #[test]
    fn what_is_done_already_is_not_done_again() {
        assert_eq!(Turn::new().run(|| Some(7), || unreachable!()), 7);
    }

    #[test]
    fn one_caller_works_for_all_that_came_before_it_began() {
        let (turn, written, synced) = (Turn::new(), AtomicU64::new(0), AtomicU64::new(0));
        let (is_working, work_count) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let mine = written.fetch_add(1, Ordering::SeqCst) + 1;
                        let end = turn.run(
                            || Some(synced.load(Ordering::SeqCst)).filter(|end| *end >= mine),
                            || {
                                assert!(!is_working.swap(true, Ordering::SeqCst), "two at once");
                                let end = written.load(Ordering::SeqCst);
                                std::thread::yield_now();
                                synced.store(end, Ordering::SeqCst);
                                work_count.fetch_add(1, Ordering::SeqCst);
                                assert!(is_working.swap(false, Ordering::SeqCst));
                                end
                            },
                        );
                        assert!(end >= mine);
                    }
                });
            }
        });
        assert!((1..=1600).contains(&work_count.load(Ordering::SeqCst)));
    }

    #[test]
    fn a_panic_while_working_gives_the_turn_to_the_next() {
        let turn = Turn::new();
        let begun = Barrier::new(2);
        std::thread::scope(|scope| {
            let next = scope.spawn(|| {
                begun.wait();
                turn.run(|| None, || "done")
            });
            let work = || -> &str {
                begun.wait();
                panic!("the work fails")
            };
            assert!(catch_unwind(AssertUnwindSafe(|| turn.run(|| None, work))).is_err());
            assert_eq!(next.join().unwrap(), "done");
        });
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use std::sync::Arc;
    // Not loom's: these count what happened, they are no part of the model.
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use loom::thread;

    use super::*;
    use crate::sys::shim::{ASLEEP, check_large, must_fail};

    #[test]
    fn everyone_is_served_by_one_worker_at_a_time() {
        check_large(three_want_a_sync);
    }

    #[test]
    fn waking_only_one_is_caught() {
        must_fail("turn.wake_all", ASLEEP, three_want_a_sync);
    }

    struct Shared {
        turn: Turn,
        written: AtomicU64,
        synced: AtomicU64,
        is_working: AtomicBool,
    }

    fn three_want_a_sync() {
        let shared = Arc::new(Shared {
            turn: Turn::new(),
            written: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            is_working: AtomicBool::new(false),
        });
        let others = [(); 2].map(|()| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || append_and_sync(&shared))
        });
        append_and_sync(&shared);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(shared.synced.load(Ordering::SeqCst), 3);
    }

    fn append_and_sync(shared: &Shared) {
        let mine = shared.written.fetch_add(1, Ordering::SeqCst) + 1;
        let synced = || Some(shared.synced.load(Ordering::SeqCst)).filter(|end| *end >= mine);
        let sync = || {
            assert!(!shared.is_working.swap(true, Ordering::SeqCst), "two at once");
            let end = shared.written.load(Ordering::SeqCst);
            thread::yield_now();
            shared.synced.store(end, Ordering::SeqCst);
            shared.is_working.store(false, Ordering::SeqCst);
            end
        };
        assert!(shared.turn.run(synced, sync) >= mine);
    }
}
