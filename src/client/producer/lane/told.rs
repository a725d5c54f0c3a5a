//! Telling senders what became of their records: tasks are woken, and callbacks called. Both is code that is not ours: no lock is
//! held meanwhile, and what panics there keeps nobody from being told.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::task::Waker;

use super::{Call, Lane};
use crate::client::producer::sent::{Fate, Outcome, Place};
use crate::probe;

/// A batch whose fate is known, and what is to be called.
type ToCall = (Arc<Fate>, Vec<(Place, Call)>);

/// Who is to be told.
#[derive(Default)]
pub(super) struct Untold {
    /// Woken by whoever comes first. A callback may be waiting for one of them.
    tasks: Vec<Waker>,
    /// Called by one thread at a time, in the order of the batches.
    calls: VecDeque<ToCall>,
    is_calling: bool,
}

impl Untold {
    /// Makes known what became of a batch. Threads that wait for it go on; the others are told once no lock is held.
    pub(super) fn settle(&mut self, fate: Arc<Fate>, outcome: Outcome, calls: Vec<(Place, Call)>) {
        self.tasks.extend(fate.settle(outcome).into_values());
        if !calls.is_empty() {
            self.calls.push_back((fate, calls));
        }
    }

    /// The next to be called. With the last of them the right to call is gone, under the same lock: who comes after finds it
    /// free.
    fn next(&mut self) -> Option<ToCall> {
        let next = self.calls.pop_front();
        self.is_calling = next.is_some();
        next
    }
}

impl Lane {
    /// Wakes and calls who is to be told. If one of them panics, so does this, after the rest.
    pub(super) fn tell(&self) {
        let (tasks, mut next) = {
            let mut state = self.state.lock();
            let tasks = std::mem::take(&mut state.untold.tasks);
            (tasks, if state.untold.is_calling { None } else { state.untold.next() })
        };
        let mut panic = FirstPanic::default();
        tasks.into_iter().for_each(|task| panic.caught(|| task.wake()));
        while let Some((fate, calls)) = next {
            for (place, call) in calls {
                panic.caught(|| {
                    if let Some(told) = fate.told(place) {
                        call(told);
                    }
                });
                if probe::planted("batching.called_once_a_batch") {
                    break;
                }
            }
            next = self.state.lock().untold.next();
        }
        panic.resume();
    }
}

/// The first panic of several calls, kept until all were made.
#[derive(Default)]
pub(in crate::client::producer) struct FirstPanic(Option<Box<dyn Any + Send>>);

impl FirstPanic {
    pub(in crate::client::producer) fn caught(&mut self, call: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
            self.0.get_or_insert(panic);
        }
    }

    pub(in crate::client::producer) fn resume(self) {
        if let Some(panic) = self.0 {
            resume_unwind(panic);
        }
    }
}
