//! What wakes a consumer that waits though nothing comes: its own time, and the end of the log.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::wait::Alarm;
use crate::log::{Log, LogInside, Tended};

/// Rings the alarm of a consumer. A thread that waits wakes by itself; a task has nobody else who knows the time.
#[derive(Debug)]
pub(super) struct Timer {
    log: LogInside,
    alarm: Arc<Alarm>,
    /// When to ring next, by the monotonic clock.
    due: Mutex<Option<Duration>>,
    is_closed: AtomicBool,
}

impl Timer {
    pub(super) fn new(log: &Log, alarm: Arc<Alarm>) -> Arc<Self> {
        let timer = Self { log: log.inside(), alarm, due: Mutex::new(None), is_closed: AtomicBool::new(false) };
        let timer = Arc::new(timer);
        let tended: Weak<Self> = Arc::downgrade(&timer);
        log.look_after(tended);
        timer
    }

    /// Rings at `due`, once, and not at the time that was set before.
    pub(super) fn set(&self, due: Option<Duration>) {
        let is_news = std::mem::replace(&mut *self.due.lock(), due) != due;
        if let Some(due) = due.filter(|_| is_news) {
            self.log.expect_by(due);
        }
    }

    /// Whether the log is closed, or about to be.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire) || self.log.is_closed()
    }
}

impl Tended for Timer {
    fn tend(&self, now: Duration) -> Option<Duration> {
        let mut due = self.due.lock();
        if due.is_some_and(|due| due <= now) {
            *due = None;
            drop(due);
            self.alarm.ring();
            return None;
        }
        *due
    }

    /// One without a partition that it waits for would not hear of it.
    fn before_close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.alarm.ring();
    }
}
