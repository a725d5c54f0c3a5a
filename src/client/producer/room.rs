//! The memory that a producer's batches may take. It is asked for once a batch, not once a record.
//!
//! ```text
//! |-- batches that are filled, or wait --|-- spare --|-- free --|     limit
//!  \ taken                                         /
//! ```
//!
//! Invariants:
//! - What is taken is never above the limit, and covers the buffers of all batches, also of those that are spare.
//! - Of a standard length are all spares. They go before anybody is refused.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::probe;
use crate::record::BatchBuilder;

/// So many buffers are kept for the next batches, at most.
const SPARES_MAX: usize = 16;

#[derive(Debug)]
pub(super) struct Room {
    limit: usize,
    /// How long the buffer of a batch is, unless one record needs more.
    standard: usize,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    spares: Vec<BatchBuilder>,
    waiting: usize,
    /// Whether nobody is to wait any more.
    is_closed: bool,
}

/// The buffer of a batch, which is [given back](Room::give_back) when the batch is over.
#[derive(Debug)]
pub(super) struct Buffer {
    pub(super) builder: BatchBuilder,
    /// What it takes of the room.
    bytes: usize,
}

impl Buffer {
    /// Whether a batch of `len` bytes fits.
    pub(super) fn holds(&self, len: usize) -> bool {
        len <= self.bytes
    }
}

impl Room {
    pub(super) fn new(limit: usize, standard: usize) -> Self {
        Self { limit, standard, state: Mutex::default(), freed: Condvar::new() }
    }

    /// The buffer of a batch that is at most `needed` bytes long, if there is room.
    pub(super) fn take(&self, needed: usize) -> Option<Buffer> {
        let bytes = needed.max(self.standard);
        let mut state = self.state.lock();
        if bytes == self.standard
            && let Some(builder) = state.spares.pop()
        {
            return Some(Buffer { builder, bytes });
        }
        while state.taken + bytes > self.limit && state.spares.pop().is_some() {
            state.taken -= self.standard;
        }
        if state.taken + bytes > self.limit {
            return None;
        }
        state.taken += bytes;
        drop(state);
        Some(Buffer { builder: BatchBuilder::with_room(bytes), bytes })
    }

    pub(super) fn give_back(&self, buffer: Buffer) {
        if probe::planted("batching.room_not_given_back") {
            return;
        }
        let Buffer { mut builder, bytes } = buffer;
        builder.shed();
        let mut state = self.state.lock();
        if bytes == self.standard && state.spares.len() < SPARES_MAX {
            state.spares.push(builder);
        } else {
            state.taken -= bytes;
        }
        let is_waited_for = state.waiting > 0;
        drop(state);
        if is_waited_for {
            self.freed.notify_all();
        }
    }

    /// Waits until something was given back, at most for `timeout`; not at all once it is closed.
    pub(super) fn wait(&self, needed: usize, timeout: Duration) {
        let bytes = needed.max(self.standard);
        let mut state = self.state.lock();
        state.waiting += 1;
        let waits = |state: &mut State| {
            !state.is_closed && state.taken - state.spares.len() * self.standard + bytes > self.limit
        };
        self.freed.wait_while_for(&mut state, waits, timeout);
        state.waiting -= 1;
    }

    /// Lets all who wait go on, and nobody wait any more.
    pub(super) fn close(&self) {
        self.state.lock().is_closed = true;
        self.freed.notify_all();
    }

    /// How much the batches take that are not over.
    pub(super) fn kept(&self) -> usize {
        let state = self.state.lock();
        state.taken - state.spares.len() * self.standard
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_given_than_there_is() {
        let room = Room::new(1_000, 300);
        let buffers: Vec<_> = (0..3).map(|_| room.take(300).unwrap()).collect();
        assert!(room.take(1).is_none(), "a short one takes as much as any other");
        assert_eq!(room.kept(), 900);
        buffers.into_iter().for_each(|buffer| room.give_back(buffer));
        assert_eq!(room.kept(), 0);
        let long = room.take(1_000).unwrap();
        assert!(long.builder.capacity() <= 1_000, "spares went for it");
        assert!(room.take(1).is_none());
        room.give_back(long);
        assert_eq!(room.kept(), 0);
        assert!(room.take(1_001).is_none());
    }

    #[test]
    fn a_spare_is_used_again() {
        let room = Room::new(1_000, 600);
        room.give_back(room.take(10).unwrap());
        assert_eq!(room.state.lock().taken, 600);
        let _again = room.take(600).unwrap();
        assert_eq!(room.state.lock().taken, 600);
        assert_eq!(room.kept(), 600);
    }

    #[test]
    fn who_waits_is_woken_by_what_is_given_back() {
        let room = Room::new(600, 600);
        let buffer = room.take(600).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                room.wait(600, Duration::from_secs(600));
                room.take(600).is_some()
            });
            while room.state.lock().waiting == 0 {
                std::thread::yield_now();
            }
            room.give_back(buffer);
            assert!(waiting.join().unwrap());
        });
    }

    /// Who waited was woken by a close, saw that nothing had come free, and slept on.
    #[test]
    fn who_waits_is_woken_by_a_close() {
        let room = Room::new(600, 600);
        let _buffer = room.take(600).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| room.wait(600, Duration::from_secs(600)));
            while room.state.lock().waiting == 0 {
                std::thread::yield_now();
            }
            room.close();
            waiting.join().unwrap();
        });
        room.wait(600, Duration::from_secs(600));
    }
}
