//! One of the waiters does the work for all.
//!
//! Ten threads want their appends synced; one sync serves them all. Who comes first takes the turn and works; the
//! others sleep until it is over, look whether what they wanted is done, and if not one of them takes the next turn.
//!
//! ```text
//! A  work for A, B |- back after 5 us: takes the turn ... waits for B --- work for A, B
//! B  asleep -------|- woken ------- back after 20 us: asleep --------------------------
//! ```
//!
//! Those that one turn served come back one by one with more to do. Who is back first would work for itself alone,
//! and let all others wait for two turns, so it waits a moment for them first.
//!
//! Invariants:
//! - At most one caller works at a time, and none of the locks here is held meanwhile, nor while it waits for others.
//! - Whoever sleeps is woken by the end of a turn, also of one that ended in a panic.
//! - A caller that nobody waited with does not wait: one thread by itself never does.

use std::mem;
use std::time::Duration;

use crate::sys::shim::{Monitor, Patience, weakened};

/// The right to do the work, which goes round.
#[derive(Debug)]
pub(crate) struct Turn {
    state: Monitor<State>,
}

#[derive(Debug, Default)]
struct State {
    is_taken: bool,
    /// How often work for all has begun.
    lap: u64,
    /// How many sleep who came since then.
    waiting: usize,
    /// How many would be here if all came back that the last work for all served: a guess, by which nothing but time
    /// is lost or won.
    expected: usize,
}

impl Turn {
    pub(crate) fn new() -> Self {
        Self { state: Monitor::new(State::default()) }
    }

    /// Returns what `done` finds, or what `work` returns, if it fell to this caller to work.
    ///
    /// `done` says whether there is nothing left to wait for. It is asked under a lock, so it only looks: it may
    /// neither block nor call back into this turn.
    pub(crate) fn run<R>(&self, done: impl Fn() -> Option<R>, work: impl FnOnce() -> R) -> R {
        match done().or_else(|| self.take(&done, false)) {
            Some(found) => found,
            None => {
                let _taken = Taken { turn: self, served: None };
                work()
            }
        }
    }

    /// As [`run`](Self::run), for work that serves all who came before it begins: waits before it, at most for
    /// `patience`, until those are back whom the last such work served.
    pub(crate) fn run_for_all<R>(
        &self,
        patience: Duration,
        done: impl Fn() -> Option<R>,
        work: impl FnOnce() -> R,
    ) -> R {
        match done().or_else(|| self.take(&done, true)) {
            Some(found) => found,
            None => {
                let mut taken = Taken { turn: self, served: None };
                taken.served = Some(self.gather(patience));
                work()
            }
        }
    }

    /// Takes the turn, or returns what was done by another while it waited for that.
    fn take<R>(&self, done: impl Fn() -> Option<R>, counts: bool) -> Option<R> {
        let (mut found, mut counted) = (None, None);
        let mut state = self.state.wait_while(self.state.lock(), |state| {
            // After the turn of another, and before one of our own.
            found = done();
            let sleeps = found.is_none() && state.is_taken;
            if sleeps && counts && counted.is_none() {
                counted = Some(state.lap);
                state.waiting += 1;
            }
            sleeps
        });
        // Those who came before the work began were taken off the count by it.
        if counted == Some(state.lap) || (counted.is_some() && weakened("turn.lap")) {
            state.waiting -= 1;
        }
        state.is_taken |= found.is_none();
        found
    }

    /// Waits for those who are expected, and says how many the work that now begins will serve.
    fn gather(&self, patience: Duration) -> usize {
        let mut patience = Patience::new(patience);
        let mut state = self.state.lock();
        while state.waiting + 1 < state.expected && !patience.is_over() {
            drop(state);
            patience.pause();
            state = self.state.lock();
        }
        state.lap += 1;
        mem::take(&mut state.waiting) + 1
    }
}

struct Taken<'a> {
    turn: &'a Turn,
    /// How many are served by this turn, if its work is for all.
    served: Option<usize>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut state = self.turn.state.lock();
        state.is_taken = false;
        if let Some(served) = self.served {
            state.expected = state.waiting + served;
        }
        drop(state);
        // All of them: one that finds its work done would keep a single wake-up from who does not.
        match weakened("turn.wake_all") {
            true => self.turn.state.notify_one(),
            false => self.turn.state.notify_all(),
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

    /// Whoever was back first would have worked for itself alone, and the other after it.
    #[test]
    fn those_who_met_are_served_together_from_then_on() {
        let (turn, written, synced) = (Turn::new(), AtomicU64::new(0), AtomicU64::new(0));
        let (begun, work_count) = (Barrier::new(2), AtomicU64::new(0));
        let append_and_sync = |meet: &dyn Fn()| {
            let mine = written.fetch_add(1, Ordering::SeqCst) + 1;
            let done = || Some(()).filter(|()| synced.load(Ordering::SeqCst) >= mine);
            turn.run_for_all(Duration::from_secs(600), done, || {
                let end = written.load(Ordering::SeqCst);
                meet();
                synced.store(end, Ordering::SeqCst);
                work_count.fetch_add(1, Ordering::SeqCst);
            });
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                begun.wait();
                (0..50).for_each(|_| append_and_sync(&|| {}));
            });
            append_and_sync(&|| {
                begun.wait();
                while turn.state.lock().waiting == 0 {
                    std::thread::yield_now();
                }
            });
            (0..50).for_each(|_| append_and_sync(&|| {}));
        });
        assert_eq!(work_count.load(Ordering::SeqCst), 51);
    }

    #[test]
    fn nobody_waits_who_was_served_alone() {
        let turn = Turn::new();
        for _ in 0..3 {
            // Forever, if it did.
            assert_eq!(turn.run_for_all(Duration::MAX, || None, || 7), 7);
        }
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

    #[test]
    fn two_that_wait_for_each_other_are_served_each_time() {
        check_large(two_want_two_syncs);
    }

    #[test]
    fn counting_out_who_is_not_counted_in_is_caught() {
        must_fail("turn.lap", "subtract with overflow", two_want_two_syncs);
    }

    struct Shared {
        turn: Turn,
        written: AtomicU64,
        synced: AtomicU64,
        is_working: AtomicBool,
    }

    impl Shared {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                turn: Turn::new(),
                written: AtomicU64::new(0),
                synced: AtomicU64::new(0),
                is_working: AtomicBool::new(false),
            })
        }

        fn append_and_sync(&self, patience: Duration) {
            let mine = self.written.fetch_add(1, Ordering::SeqCst) + 1;
            let synced = || Some(self.synced.load(Ordering::SeqCst)).filter(|end| *end >= mine);
            let sync = || {
                assert!(!self.is_working.swap(true, Ordering::SeqCst), "two at once");
                let end = self.written.load(Ordering::SeqCst);
                thread::yield_now();
                self.synced.store(end, Ordering::SeqCst);
                self.is_working.store(false, Ordering::SeqCst);
                end
            };
            assert!(self.turn.run_for_all(patience, synced, sync) >= mine);
        }
    }

    fn three_want_a_sync() {
        let shared = Shared::new();
        let others = [(); 2].map(|()| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.append_and_sync(Duration::ZERO))
        });
        shared.append_and_sync(Duration::ZERO);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(shared.synced.load(Ordering::SeqCst), 3);
    }

    fn two_want_two_syncs() {
        let shared = Shared::new();
        let both = || (0..2).for_each(|_| shared.append_and_sync(Duration::MAX));
        let other = Arc::clone(&shared);
        let other = thread::spawn(move || (0..2).for_each(|_| other.append_and_sync(Duration::MAX)));
        both();
        other.join().unwrap();
        assert_eq!(shared.synced.load(Ordering::SeqCst), 4);
        assert_eq!(shared.turn.state.lock().waiting, 0);
    }
}
