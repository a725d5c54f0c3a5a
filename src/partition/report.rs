//! What is to be told to the outside once no lock is held: events for the observer, and who is to be woken.
//!
//! Both are calls into code that is not ours, which may call back. So whoever holds the append lock or has the turn to
//! sync only leaves a report; it is delivered when the lock is gone.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::core::Core;
use super::recover::Torn;
use super::writer::Writer;
use crate::observe::{Later, SegmentEvent, SyncFailed, Synced, TailCut, later, tell};
use crate::types::Offset;
use crate::watermark::{Watermark, Woken};

/// One thing to be told.
#[derive(Debug)]
pub(crate) enum Report {
    Created { base: Offset },
    Sealed { base: Offset, end: Offset, bytes: u64 },
    TailCut { torn: Torn, kept_in: PathBuf },
    Synced { offset: Offset, duration: Duration },
    SyncFailed { path: PathBuf, error: std::io::Error },
    Poisoned { reason: Arc<str> },
    Woken(Woken),
}

/// Reports that were not delivered yet, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    has_any: AtomicBool,
    queue: Mutex<Vec<Report>>,
}

impl Reports {
    pub(crate) fn push(&self, report: Report) {
        let mut queue = self.queue.lock();
        queue.push(report);
        self.has_any.store(true, Ordering::Release);
    }

    fn take(&self) -> Vec<Report> {
        if !self.has_any.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut queue = self.queue.lock();
        self.has_any.store(false, Ordering::Release);
        std::mem::take(&mut queue)
    }
}

/// The append lock. What was reported under it is delivered when it is gone.
#[derive(Debug)]
pub(crate) struct Locked<'a> {
    // Dropped in this order: first the lock, then what delivers.
    writer: MutexGuard<'a, Writer>,
    _deliver: Deliver<'a>,
    _later: Later,
}

impl Deref for Locked<'_> {
    type Target = Writer;
    fn deref(&self) -> &Writer {
        &self.writer
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Writer {
        &mut self.writer
    }
}

#[derive(Debug)]
struct Deliver<'a>(&'a Core);

impl Drop for Deliver<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.0.deliver();
        }
    }
}

/// Wakes threads at once, and tasks as an observer is told: that is a call into somebody's runtime.
pub(crate) fn wake(mut woken: Woken) {
    woken.wake_threads();
    if !woken.is_empty() {
        later(move || drop(woken));
    }
}

/// The end was raised, under the append lock. Who waits for it is woken when this is dropped, which is after the lock
/// was released.
#[derive(Debug)]
pub(super) struct Raised<'a> {
    mark: &'a Watermark,
    to: Offset,
}

impl Drop for Raised<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(woken) = self.mark.settle(self.to.0) {
            wake(woken);
        }
    }
}

impl Core {
    /// Makes known that the log ends at `to` now. The caller holds the append lock.
    #[inline]
    pub(super) fn raise_end(&self, to: Offset) -> Raised<'_> {
        self.end.advance(to.0);
        Raised { mark: &self.end, to }
    }

    /// Takes the append lock.
    pub(crate) fn lock(&self) -> Locked<'_> {
        let later = Later::begin();
        Locked { writer: self.writer.lock(), _deliver: Deliver(self), _later: later }
    }

    /// Tells what there is to tell. The caller holds no lock.
    pub(crate) fn deliver(&self) {
        for report in self.reports.take() {
            self.tell(report);
        }
    }

    fn tell(&self, report: Report) {
        let partition = self.id.clone();
        let observer = &self.context.observer;
        match report {
            Report::Created { base } => tell(observer, move |observer| {
                observer.segment_created(&SegmentEvent { partition: &partition, base, end: base, bytes: 0 });
            }),
            Report::Sealed { base, end, bytes } => tell(observer, move |observer| {
                observer.segment_sealed(&SegmentEvent { partition: &partition, base, end, bytes });
            }),
            Report::TailCut { torn, kept_in } => tell(observer, move |observer| {
                let Torn { path, from, to, .. } = &torn;
                let (partition, kept_in, from, bytes) = (&partition, &*kept_in, *from, to - from);
                observer.corrupt_tail_cut(&TailCut { partition, path, kept_in, from, bytes });
            }),
            Report::Synced { offset, duration } => tell(observer, move |observer| {
                observer.synced(&Synced { partition: &partition, offset, duration });
            }),
            Report::SyncFailed { path, error } => tell(observer, move |observer| {
                observer.sync_failed(&SyncFailed { partition: &partition, path: &path, error: &error });
            }),
            Report::Poisoned { reason } => tell(observer, move |observer| observer.poisoned(&partition, &reason)),
            Report::Woken(woken) => wake(woken),
        }
    }
}
