//! The one thread that a log owns.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Inner;
use crate::error::{Error, Result};
use crate::partition::core::Halt;

/// A thread that calls `maintain` when it is due, or somebody rings.
#[derive(Debug)]
pub(super) struct Background {
    inner: Arc<Inner>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    pub(super) fn start(inner: &Arc<Inner>) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (theirs, stopped) = (Arc::clone(inner), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("chiplog".into())
            .spawn(move || run(&theirs, &stopped))
            .map_err(Error::io("start a thread for", &*inner.dir))?;
        Ok(Self { inner: Arc::clone(inner), stop, thread: Some(thread) })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.inner.context.doorbell.ring();
        if let Some(thread) = self.thread.take()
            // The last handle may go on the thread itself, out of an observer: it cannot wait for itself.
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

fn run(inner: &Inner, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        // Its errors are the partitions' own: they are poisoned, or it is tried again.
        let maintained = catch_unwind(AssertUnwindSafe(|| inner.maintain()));
        let next = match maintained {
            Ok(Ok(maintained)) => maintained.next,
            Ok(Err(_)) => RETRY,
            Err(_) => {
                // Our mistake, or an observer's. What it left half done is unknown, so nobody goes on.
                let reason: Arc<str> = "the background thread panicked".into();
                inner.cores().iter().for_each(|core| core.fence(Halt::Poisoned(Arc::clone(&reason))));
                return;
            }
        };
        inner.context.doorbell.wait(next);
    }
}

const RETRY: Duration = Duration::from_secs(1);
