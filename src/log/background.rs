//! The one thread that a log owns.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Inner;
use crate::error::{Error, Result};
use crate::partition::core::Halt;

/// A thread that calls `maintain` when it is due, or somebody rings. Dropping this stops it and waits for its end.
#[derive(Debug)]
pub(super) struct Background {
    inner: Arc<Inner>,
    orders: Arc<Orders>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Orders {
    stop: AtomicBool,
    /// The thread closes the log when it has stopped.
    close: AtomicBool,
}

impl Background {
    pub(super) fn start(inner: &Arc<Inner>) -> Result<Self> {
        let orders = Arc::new(Orders::default());
        let (theirs, heard) = (Arc::clone(inner), Arc::clone(&orders));
        let thread = std::thread::Builder::new()
            .name("chiplog".into())
            .spawn(move || run(&theirs, &heard))
            .map_err(Error::io("start a thread for", &*inner.dir))?;
        Ok(Self { inner: Arc::clone(inner), orders, thread: Some(thread) })
    }

    /// Whether the caller is an observer, called on the thread.
    pub(super) fn is_current(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| thread.thread().id() == std::thread::current().id())
    }

    /// Leaves the closing of the log to the thread, for a caller on it: it cannot wait for itself, and is in the
    /// middle of something.
    pub(super) fn close_on_thread(mut self) {
        self.thread = None;
        self.orders.close.store(true, Ordering::Release);
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.orders.stop.store(true, Ordering::Release);
        self.inner.context.doorbell.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(inner: &Inner, orders: &Orders) {
    let mut heard = 0;
    while !orders.stop.load(Ordering::Acquire) {
        match catch_unwind(AssertUnwindSafe(|| serve(inner, heard))) {
            Ok(rings) => heard = rings,
            Err(_) => {
                halt(inner);
                break;
            }
        }
    }
    if orders.close.load(Ordering::Acquire) {
        // There is nobody to tell.
        let _ = inner.close();
    }
}

/// Does all that is due, and waits until something is again. Returns how often the bell was rung.
fn serve(inner: &Inner, mut heard: u64) -> u64 {
    let (doorbell, clock) = (&inner.context.doorbell, &inner.context.clock);
    let heavy = doorbell.heavy();
    // Errors are the partitions' own: they are poisoned, or it is tried again.
    let next = match inner.serve() {
        Ok((done, _)) => done.next,
        // Closing: the order to stop is on its way.
        Err(_) => CLOSING,
    };
    let until = clock.monotonic().saturating_add(next);
    loop {
        let left = until.saturating_sub(clock.monotonic());
        let rings = doorbell.wait(heard, left);
        // It may be rung so often that the wait is never one for the time.
        let is_over = rings == heard || left.is_zero();
        heard = rings;
        if is_over || doorbell.heavy() > heavy {
            return heard;
        }
        // With each append that a follower waits for: all there is to do then.
        inner.serve_grown();
    }
}

/// Our mistake, or one in a callback or an observer. What it left half done is unknown, so nobody goes on; nor waits for
/// somebody who does not. Each step calls code that is not ours, and another panic there keeps nothing from the next.
fn halt(inner: &Inner) {
    let reason: Arc<str> = "the background thread panicked".into();
    inner.context.closing.store(true, Ordering::Release);
    for core in inner.cores() {
        let _ = catch_unwind(AssertUnwindSafe(|| core.fence(Halt::Poisoned(Arc::clone(&reason)))));
    }
    let _ = catch_unwind(AssertUnwindSafe(|| inner.settle_clients()));
    let _ = catch_unwind(AssertUnwindSafe(|| inner.spread(inner.resign())));
}

const CLOSING: Duration = Duration::from_millis(100);
