//! A number that only rises, and those who wait for it: threads and futures, on any runtime.
//!
//! Everything that waits in this crate waits on one of these. Raising one that nobody waits for is a store, a fence
//! and a load:
//!
//! ```text
//! raise                          wait
//!   value  = 7                     lowest = 7, under the lock
//!   fence                          fence
//!   lowest <= 7 ? lock, wake       value >= 7 ? done : sleep
//! ```
//!
//! Of two threads that each store and then look, at least one sees the other's store; the fences see to it. So either
//! the raiser finds the waiter or the waiter finds the value.
//!
//! Invariants:
//! - `lowest` is at most the lowest value that anybody waits for. It is stored under the lock only.
//! - Who waits is in `waiting` until the outcome is known, then in `settled` until it was taken, and in neither after.
//! - One thread at a time raises or lowers; the locks of the partition see to it. Waiting and stopping are free.

use std::collections::BTreeMap;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::sys::shim::{AtomicU64, Condvar, Mutex, MutexGuard, Ordering, fence, ordering, weakened};

/// A counter that rises, with blocking and async waiters.
#[derive(Debug)]
pub(crate) struct Watermark {
    value: AtomicU64,
    /// The lowest value that is waited for; `u64::MAX` if none is.
    lowest: AtomicU64,
    waiters: Mutex<Waiters>,
}

/// Why a value will not be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The log was closed.
    Closed,
    /// The topic was deleted.
    Deleted,
    /// The partition is poisoned.
    Poisoned,
    /// The watermark was lowered, to this.
    Truncated(u64),
    /// Another node leads the partition.
    NotLeader,
    /// Fewer nodes are in sync than must be.
    NotEnough,
}

impl Watermark {
    pub(crate) fn new(value: u64) -> Self {
        let waiters = Mutex::new(Waiters::default());
        Self { value: AtomicU64::new(value), lowest: AtomicU64::new(u64::MAX), waiters }
    }

    /// The current value. What was written before it was raised to this is visible to who sees it.
    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.value.load(ordering("watermark.get", Ordering::Acquire))
    }

    /// Raises the value; a lower one than before changes nothing.
    ///
    /// Dropping the result wakes those who waited for it. Who holds a lock keeps the result until the lock is
    /// released: waking a task is a call into somebody's runtime.
    #[inline]
    pub(crate) fn raise(&self, value: u64) -> Woken {
        if !self.advance(value) {
            return Woken::default();
        }
        if !weakened("watermark.raise.fence") {
            fence(Ordering::SeqCst);
        }
        self.reached_by(value)
    }

    /// The first half of [`raise`](Self::raise), under the lock of whoever raises; whether the value is a new one. Who
    /// waits is woken by [`settle`](Self::settle).
    #[inline]
    pub(crate) fn advance(&self, value: u64) -> bool {
        if value <= self.value.load(Ordering::Relaxed) {
            return false;
        }
        self.value.store(value, ordering("watermark.raise", Ordering::Release));
        true
    }

    /// The second half, once the mutex was released under which the value was raised: whom to wake, as by
    /// [`raise`](Self::raise), if anybody waits for it.
    ///
    /// Between the store and the look at `lowest` there must be a full barrier. Where releasing a mutex is one, as a
    /// locked instruction is, no second one is paid for.
    #[inline]
    pub(crate) fn settle(&self, value: u64) -> Option<Woken> {
        #[cfg(all(target_arch = "x86_64", not(loom)))]
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
        #[cfg(not(all(target_arch = "x86_64", not(loom))))]
        if !weakened("watermark.raise.fence") {
            fence(Ordering::SeqCst);
        }
        (value >= self.lowest.load(Ordering::Relaxed)).then(|| self.settle_up_to(value))
    }

    #[inline]
    fn reached_by(&self, value: u64) -> Woken {
        if value < self.lowest.load(Ordering::Relaxed) {
            return Woken::default();
        }
        self.settle_up_to(value)
    }

    /// Lowers the value, after a truncation, and fails those who wait for more; a higher one changes nothing. As with
    /// [`raise`](Self::raise), dropping the result wakes them.
    pub(crate) fn lower(&self, value: u64) -> Woken {
        let mut waiters = self.waiters.lock();
        if value >= self.value.load(Ordering::Relaxed) {
            return Woken::default();
        }
        self.value.store(value, Ordering::Release);
        let above = waiters.waiting.split_off(&(value + 1, 0));
        let woken = waiters.settle(above, |_| Err(Stop::Truncated(value)));
        self.note_lowest(&waiters);
        woken
    }

    /// Fails everyone who waits for more than the current value, now and until [`unbar`](Self::unbar). As with
    /// [`raise`](Self::raise), dropping the result wakes them.
    pub(crate) fn bar(&self, reason: Stop) -> Woken {
        let mut waiters = self.waiters.lock();
        waiters.barred = Some(reason);
        self.fail_all(&mut waiters, reason)
    }

    /// Lets everyone wait again.
    pub(crate) fn unbar(&self) {
        self.waiters.lock().barred = None;
    }

    /// Fails everyone, now and later, who waits for more than the current value. The first reason stays. As with
    /// [`raise`](Self::raise), dropping the result wakes them.
    pub(crate) fn stop(&self, reason: Stop) -> Woken {
        let mut waiters = self.waiters.lock();
        let reason = *waiters.stopped.get_or_insert(reason);
        self.fail_all(&mut waiters, reason)
    }

    fn fail_all(&self, waiters: &mut Waiters, reason: Stop) -> Woken {
        let all = mem::take(&mut waiters.waiting);
        // A thread that is just raising the value may not have come to the lock yet.
        let value = self.get();
        let woken = waiters.settle(all, |at_least| if at_least <= value { Ok(()) } else { Err(reason) });
        self.note_lowest(waiters);
        woken
    }

    /// Waits until the value is `at_least`, at most for `timeout`, or without end. `false` if the time ran out.
    pub(crate) fn wait(&self, at_least: u64, timeout: Option<Duration>) -> Result<bool, Stop> {
        if self.get() >= at_least {
            return Ok(true);
        }
        let condvar = Arc::new(Condvar::new());
        let mut waiters = self.waiters.lock();
        let ticket = match self.enter(&mut waiters, at_least, Wake::Thread(Arc::clone(&condvar))) {
            Entered::Waiting(ticket) => ticket,
            Entered::Known(outcome, _) => return outcome.map(|()| true),
        };
        waiters = condvar.wait_while(waiters, |waiters| !waiters.settled.contains_key(&ticket), timeout);
        match waiters.settled.remove(&ticket) {
            Some(outcome) => outcome.map(|()| true),
            None => {
                self.leave(waiters, at_least, ticket);
                Ok(false)
            }
        }
    }

    /// A future that is ready when the value is `at_least`. Dropping it ends the wait.
    pub(crate) fn reached(self: &Arc<Self>, at_least: u64) -> Reached {
        Reached { watermark: Arc::clone(self), at_least, ticket: None }
    }

    /// The highest value that anybody waits for, if anybody does.
    pub(crate) fn demand(&self) -> Option<u64> {
        self.waiters.lock().waiting.keys().next_back().map(|(at_least, _)| *at_least)
    }

    #[cold]
    fn settle_up_to(&self, value: u64) -> Woken {
        let mut waiters = self.waiters.lock();
        let above = match value.checked_add(1) {
            Some(next) => waiters.waiting.split_off(&(next, 0)),
            None => BTreeMap::new(),
        };
        let reached = mem::replace(&mut waiters.waiting, above);
        let woken = waiters.settle(reached, |_| Ok(()));
        self.note_lowest(&waiters);
        woken
    }

    /// Puts a waiter on the list, unless its outcome is known already.
    fn enter(&self, waiters: &mut Waiters, at_least: u64, wake: Wake) -> Entered {
        let ticket = waiters.next_ticket;
        waiters.next_ticket += 1;
        waiters.waiting.insert((at_least, ticket), wake);
        self.note_lowest(waiters);
        if !weakened("watermark.wait.fence") {
            fence(Ordering::SeqCst);
        }
        let known = match waiters.stopped.or(waiters.barred) {
            _ if self.get() >= at_least => Ok(()),
            Some(reason) if !weakened("watermark.wait.stopped") => Err(reason),
            _ => return Entered::Waiting(ticket),
        };
        let wake = waiters.waiting.remove(&(at_least, ticket));
        self.note_lowest(waiters);
        Entered::Known(known, wake)
    }

    /// Takes a waiter off the list that waits no longer.
    fn leave(&self, mut waiters: MutexGuard<'_, Waiters>, at_least: u64, ticket: u64) {
        let wake = waiters.waiting.remove(&(at_least, ticket));
        waiters.settled.remove(&ticket);
        self.note_lowest(&waiters);
        drop(waiters);
        // Not before: dropping a task's waker may run code of its runtime.
        drop(wake);
    }

    fn note_lowest(&self, waiters: &Waiters) {
        let lowest = waiters.waiting.keys().next().map_or(u64::MAX, |(at_least, _)| *at_least);
        self.lowest.store(lowest, Ordering::Relaxed);
    }
}

/// The future of [`Watermark::reached`].
#[derive(Debug)]
pub(crate) struct Reached {
    watermark: Arc<Watermark>,
    at_least: u64,
    ticket: Option<u64>,
}

impl Future for Reached {
    type Output = Result<(), Stop>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.ticket.is_none() && this.watermark.get() >= this.at_least {
            return Poll::Ready(Ok(()));
        }
        // Cloned before the lock is taken and dropped after: both may run code of the task's runtime.
        let mut wake = Wake::Task(context.waker().clone());
        let mut waiters = this.watermark.waiters.lock();
        let Some(ticket) = this.ticket else {
            return match this.watermark.enter(&mut waiters, this.at_least, wake) {
                Entered::Known(outcome, wake) => {
                    drop(waiters);
                    drop(wake);
                    Poll::Ready(outcome)
                }
                Entered::Waiting(ticket) => {
                    this.ticket = Some(ticket);
                    Poll::Pending
                }
            };
        };
        if let Some(outcome) = waiters.settled.remove(&ticket) {
            this.ticket = None;
            drop(waiters);
            return Poll::Ready(outcome);
        }
        // The task may have moved to another executor since.
        if let Some(known) = waiters.waiting.get_mut(&(this.at_least, ticket)) {
            mem::swap(known, &mut wake);
        }
        drop(waiters);
        Poll::Pending
    }
}

impl Drop for Reached {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.watermark.leave(self.watermark.waiters.lock(), self.at_least, ticket);
        }
    }
}

/// Those whose wait is over. Dropping it wakes them.
#[derive(Debug, Default)]
pub(crate) struct Woken(Vec<Wake>);

impl Woken {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Wakes the threads among them, which runs no code of theirs here. Tasks are left.
    pub(crate) fn wake_threads(&mut self) {
        self.0.retain(|wake| match wake {
            Wake::Thread(condvar) => {
                condvar.notify_one();
                false
            }
            Wake::Task(_) => true,
        });
    }
}

impl Drop for Woken {
    fn drop(&mut self) {
        for wake in self.0.drain(..) {
            match wake {
                Wake::Thread(condvar) => condvar.notify_one(),
                Wake::Task(waker) => waker.wake(),
            }
        }
    }
}

#[derive(Debug)]
enum Wake {
    Thread(Arc<Condvar>),
    Task(Waker),
}

enum Entered {
    Waiting(u64),
    /// With what was to be woken: dropping it may run code of a runtime, so not under the lock.
    Known(Result<(), Stop>, Option<Wake>),
}

#[derive(Debug, Default)]
struct Waiters {
    /// By what is waited for, then by ticket.
    waiting: BTreeMap<(u64, u64), Wake>,
    /// Outcomes, by ticket, that the waiter has not taken yet.
    settled: BTreeMap<u64, Result<(), Stop>>,
    next_ticket: u64,
    stopped: Option<Stop>,
    /// The same, for a while.
    barred: Option<Stop>,
}

impl Waiters {
    fn settle(&mut self, which: BTreeMap<(u64, u64), Wake>, outcome: impl Fn(u64) -> Result<(), Stop>) -> Woken {
        let mut woken = Vec::with_capacity(which.len());
        for ((at_least, ticket), wake) in which {
            self.settled.insert(ticket, outcome(at_least));
            woken.push(wake);
        }
        Woken(woken)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use proptest::prelude::*;

    use super::*;

    const SOON: Option<Duration> = Some(Duration::ZERO);

    #[test]
    fn it_rises_and_does_not_fall_by_raising() {
        let mark = Watermark::new(3);
        drop(mark.raise(5));
        drop(mark.raise(4));
        assert_eq!(mark.get(), 5);
        assert_eq!((mark.wait(5, None), mark.wait(6, SOON)), (Ok(true), Ok(false)));
    }

    #[test]
    fn a_thread_wakes_when_its_value_is_reached_and_not_before() {
        let mark = Watermark::new(0);
        std::thread::scope(|scope| {
            let waiting: Vec<_> = (1..=8)
                .map(|at| {
                    (
                        at,
                        scope.spawn({
                            let mark = &mark;
                            move || mark.wait(at, None).map(|_| mark.get())
                        }),
                    )
                })
                .collect();
            for value in 1..=8 {
                drop(mark.raise(value));
            }
            for (at, thread) in waiting {
                assert!(thread.join().unwrap().unwrap() >= at);
            }
        });
        assert_eq!(mark.demand(), None);
    }

    #[test]
    fn a_wait_that_ran_out_of_time_leaves_nothing_behind() {
        let mark = Watermark::new(0);
        assert_eq!(mark.wait(1, Some(Duration::from_millis(1))), Ok(false));
        assert_eq!(mark.demand(), None);
        assert!(mark.raise(1).0.is_empty());
    }

    #[test]
    fn tasks_are_woken_when_the_result_of_raising_is_dropped() {
        let mark = Arc::new(Watermark::new(0));
        let (count, waker) = counting_waker();
        let mut waiting = mark.reached(2);
        assert_eq!(poll(&mut waiting, &waker), Poll::Pending);
        drop(mark.raise(1));
        let woken = mark.raise(2);
        assert_eq!(count.0.load(Ordering::Relaxed), 0, "the raiser may hold a lock");
        drop(woken);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(poll(&mut waiting, &waker), Poll::Ready(Ok(())));
    }

    #[test]
    fn a_task_that_moved_is_woken_where_it_is_now() {
        let mark = Arc::new(Watermark::new(0));
        let ((before, old), (after, new)) = (counting_waker(), counting_waker());
        let mut waiting = mark.reached(1);
        assert!(poll(&mut waiting, &old).is_pending() && poll(&mut waiting, &new).is_pending());
        drop(mark.raise(1));
        assert_eq!((before.0.load(Ordering::Relaxed), after.0.load(Ordering::Relaxed)), (0, 1));
    }

    #[test]
    fn a_dropped_future_waits_no_longer() {
        let mark = Arc::new(Watermark::new(0));
        let (count, waker) = counting_waker();
        let (mut near, mut far) = (mark.reached(3), mark.reached(9));
        assert!(poll(&mut near, &waker).is_pending() && poll(&mut far, &waker).is_pending());
        assert_eq!(mark.demand(), Some(9));
        drop(far);
        assert_eq!(mark.demand(), Some(3));
        drop(near);
        drop(mark.raise(10));
        assert_eq!((mark.demand(), count.0.load(Ordering::Relaxed)), (None, 0));
        assert_eq!(Arc::strong_count(&mark), 1);
    }

    #[test]
    fn stopping_fails_only_what_is_not_reached_and_its_first_reason_stays() {
        let mark = Arc::new(Watermark::new(0));
        let mut waiting = mark.reached(5);
        assert!(poll(&mut waiting, Waker::noop()).is_pending());
        drop(mark.raise(4));
        drop(mark.stop(Stop::Poisoned));
        drop(mark.stop(Stop::Closed));
        assert_eq!(poll(&mut waiting, Waker::noop()), Poll::Ready(Err(Stop::Poisoned)));
        assert_eq!((mark.wait(4, None), mark.wait(5, None)), (Ok(true), Err(Stop::Poisoned)));
        assert_eq!(poll(&mut mark.reached(5), Waker::noop()), Poll::Ready(Err(Stop::Poisoned)));
    }

    #[test]
    fn truncation_fails_who_waits_above_it_once() {
        let mark = Arc::new(Watermark::new(9));
        let mut waiting = mark.reached(12);
        assert!(poll(&mut waiting, Waker::noop()).is_pending());
        drop(mark.lower(6));
        assert_eq!(mark.get(), 6);
        assert_eq!(poll(&mut waiting, Waker::noop()), Poll::Ready(Err(Stop::Truncated(6))));
        assert_eq!(mark.wait(12, SOON), Ok(false), "who comes later waits for what comes later");
        drop(mark.lower(8));
        assert_eq!(mark.get(), 6);
    }

    #[test]
    fn what_was_reached_stays_reached_though_it_is_truncated_before_the_task_looks() {
        let mark = Arc::new(Watermark::new(0));
        let mut waiting = mark.reached(3);
        assert!(poll(&mut waiting, Waker::noop()).is_pending());
        drop(mark.raise(3));
        drop(mark.lower(1));
        assert_eq!(poll(&mut waiting, Waker::noop()), Poll::Ready(Ok(())));
    }

    #[test]
    fn the_largest_value_can_be_waited_for() {
        let mark = Arc::new(Watermark::new(0));
        let mut waiting = mark.reached(u64::MAX);
        assert!(poll(&mut waiting, Waker::noop()).is_pending());
        drop(mark.raise(u64::MAX));
        assert_eq!(poll(&mut waiting, Waker::noop()), Poll::Ready(Ok(())));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Raise(u64),
        Lower(u64),
        Wait(u64),
        Give(usize),
        Stop,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..12_u64).prop_map(Step::Raise),
            1 => (0..12_u64).prop_map(Step::Lower),
            5 => (0..14_u64).prop_map(Step::Wait),
            1 => (0..8_usize).prop_map(Step::Give),
            1 => Just(Step::Stop),
        ]
    }

    proptest! {
        /// Whatever happens, each future has the outcome that its own history gives it, and nothing is left behind.
        #[test]
        fn futures_agree_with_their_history(steps in prop::collection::vec(any_step(), 0..40)) {
            let mark = Arc::new(Watermark::new(0));
            let mut value = 0;
            let mut stopped = false;
            let mut open: Vec<(u64, Reached)> = Vec::new();
            for step in steps {
                let mut failed = None;
                match step {
                    Step::Raise(to) => { drop(mark.raise(to)); value = value.max(to); }
                    Step::Lower(to) => {
                        drop(mark.lower(to));
                        failed = (to < value).then_some(Stop::Truncated(to));
                        value = value.min(to);
                    }
                    Step::Wait(at_least) => open.push((at_least, mark.reached(at_least))),
                    Step::Give(at) => drop((at < open.len()).then(|| open.swap_remove(at))),
                    Step::Stop => { drop(mark.stop(Stop::Closed)); stopped = true; }
                }
                let failed = failed.filter(|_| !stopped).or(stopped.then_some(Stop::Closed));
                let mut waiting = Vec::new();
                for (at_least, mut future) in open.drain(..) {
                    let expected = match failed {
                        _ if at_least <= value => Poll::Ready(Ok(())),
                        Some(reason) => Poll::Ready(Err(reason)),
                        None => Poll::Pending,
                    };
                    prop_assert_eq!(poll(&mut future, Waker::noop()), expected);
                    if expected.is_pending() {
                        waiting.push((at_least, future));
                    }
                }
                open = waiting;
                prop_assert_eq!((mark.get(), mark.demand()), (value, open.iter().map(|(at_least, _)| *at_least).max()));
            }
            prop_assert!(mark.waiters.lock().settled.is_empty());
        }
    }

    fn poll(future: &mut Reached, waker: &Waker) -> Poll<Result<(), Stop>> {
        Pin::new(future).poll(&mut Context::from_waker(waker))
    }

    #[derive(Debug, Default)]
    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counting_waker() -> (Arc<Count>, Waker) {
        let count = Arc::new(Count::default());
        (Arc::clone(&count), Waker::from(count))
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use loom::future::block_on;
    use loom::thread;

    use super::*;
    use crate::sys::shim::{ASLEEP, RACE, Witness, check, check_large, must_fail};

    #[test]
    fn a_thread_is_woken_and_sees_what_was_written_before() {
        check(|| raise_against(|mark| mark.wait(1, None)));
    }

    #[test]
    fn a_task_is_woken_and_sees_what_was_written_before() {
        check(|| raise_against(|mark| block_on(mark.reached(1)).map(|()| true)));
    }

    #[test]
    fn a_relaxed_raise_is_caught() {
        must_fail("watermark.raise", RACE, || raise_against(|mark| mark.wait(1, None)));
    }

    #[test]
    fn a_relaxed_look_is_caught() {
        must_fail("watermark.get", RACE, || raise_against(|mark| mark.wait(1, None)));
    }

    #[test]
    fn a_raise_without_fence_is_caught() {
        must_fail("watermark.raise.fence", ASLEEP, || raise_against(|mark| mark.wait(1, None)));
    }

    #[test]
    fn a_wait_without_fence_is_caught() {
        must_fail("watermark.wait.fence", ASLEEP, || raise_against(|mark| mark.wait(1, None)));
    }

    /// One raises, after writing; one waits, then reads.
    fn raise_against(wait: impl FnOnce(&Arc<Watermark>) -> Result<bool, Stop>) {
        let shared = Arc::new((Arc::new(Watermark::new(0)), Witness::new(1)));
        let raiser = Arc::clone(&shared);
        let raising = thread::spawn(move || {
            raiser.1.write(0..1);
            drop(raiser.0.raise(1));
        });
        assert_eq!(wait(&shared.0), Ok(true));
        shared.1.read(0..1);
        raising.join().unwrap();
    }

    #[test]
    fn two_waiters_are_woken_by_the_raise_that_is_theirs() {
        check_large(|| {
            let mark = Arc::new(Watermark::new(0));
            let waiting: Vec<_> = [1, 2]
                .map(|at_least| {
                    let mark = Arc::clone(&mark);
                    thread::spawn(move || mark.wait(at_least, None))
                })
                .into();
            drop(mark.raise(1));
            drop(mark.raise(2));
            for thread in waiting {
                assert_eq!(thread.join().unwrap(), Ok(true));
            }
            assert_eq!(mark.demand(), None);
        });
    }

    #[test]
    fn stopping_reaches_who_is_just_beginning_to_wait() {
        check(stop_against_wait);
    }

    #[test]
    fn a_wait_that_does_not_look_for_a_stop_is_caught() {
        must_fail("watermark.wait.stopped", ASLEEP, stop_against_wait);
    }

    fn stop_against_wait() {
        let mark = Arc::new(Watermark::new(0));
        let stopper = Arc::clone(&mark);
        let stopping = thread::spawn(move || drop(stopper.stop(Stop::Closed)));
        assert_eq!(mark.wait(1, None), Err(Stop::Closed));
        stopping.join().unwrap();
    }

    /// Of a raise and a stop that meet, either may win; the waiter is told, and told the truth.
    #[test]
    fn a_stop_does_not_undo_what_was_reached() {
        check_large(|| {
            let mark = Arc::new(Watermark::new(0));
            let (raiser, stopper) = (Arc::clone(&mark), Arc::clone(&mark));
            let raising = thread::spawn(move || drop(raiser.raise(1)));
            let stopping = thread::spawn(move || drop(stopper.stop(Stop::Poisoned)));
            let outcome = mark.wait(1, None);
            assert!(matches!(outcome, Ok(true) | Err(Stop::Poisoned)));
            raising.join().unwrap();
            stopping.join().unwrap();
            assert_eq!(mark.wait(1, None), Ok(true));
        });
    }

    #[test]
    fn a_future_dropped_while_it_is_reached_leaves_nothing_behind() {
        check(|| {
            let mark = Arc::new(Watermark::new(0));
            let raiser = Arc::clone(&mark);
            let mut waiting = mark.reached(1);
            let first = Pin::new(&mut waiting).poll(&mut Context::from_waker(Waker::noop()));
            let raising = thread::spawn(move || drop(raiser.raise(1)));
            assert!(first.is_pending());
            drop(waiting);
            raising.join().unwrap();
            let waiters = mark.waiters.lock();
            assert!(waiters.waiting.is_empty() && waiters.settled.is_empty());
        });
    }
}
