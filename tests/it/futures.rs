//! Waiting without blocking, on no runtime at all.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use chiplog::{Ack, ErrorKind, Log, Offset};

use crate::support::by_hand;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let (mut context, mut future) = (Context::from_waker(&waker), pin!(future));
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn a_record_is_acknowledged_once_the_background_thread_synced_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let partition = log.topic("orders").unwrap().partition(0).unwrap();
    for _ in 0..10 {
        let appended = partition.append("paid").unwrap();
        block_on(appended.acked(Ack::Written)).unwrap();
        block_on(appended.acked(Ack::Synced)).unwrap();
        assert!(partition.offsets().synced > appended.offset());
    }
}

#[test]
fn with_no_thread_the_caller_brings_it_about() {
    let dir = tempfile::tempdir().unwrap();
    let log = by_hand(dir.path()).open().unwrap();
    let partition = log.topic("orders").unwrap().partition(0).unwrap();
    let mut acked = pin!(partition.append("paid").unwrap().acked(Ack::Synced));
    let mut context = Context::from_waker(Waker::noop());
    assert!(acked.as_mut().poll(&mut context).is_pending());
    assert_eq!(log.maintain().unwrap().synced, 1);
    assert!(matches!(acked.as_mut().poll(&mut context), Poll::Ready(Ok(()))));
}

/// A caller that does the background work could not learn that somebody had begun to wait.
#[test]
fn a_caller_with_its_own_loop_is_told_that_somebody_waits() {
    let dir = tempfile::tempdir().unwrap();
    let log = by_hand(dir.path()).open().unwrap();
    let partition = log.topic("orders").unwrap().partition(0).unwrap();
    let ours = log.clone();
    let upkeep = thread::spawn(move || {
        loop {
            let Ok(_) = ours.maintain() else { return };
            // Far longer than the test may take: only the bell ends it.
            let Ok(is_rung) = ours.wait_due(Duration::from_secs(600)) else { return };
            assert!(is_rung);
        }
    });
    for _ in 0..10 {
        block_on(partition.append("paid").unwrap().acked(Ack::Synced)).unwrap();
    }
    log.close().unwrap();
    upkeep.join().unwrap();
}

#[test]
fn a_wait_for_work_ends_with_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let log = by_hand(dir.path()).open().unwrap();
    assert!(!log.wait_due(Duration::from_millis(1)).unwrap());
    log.topic("orders").unwrap();
    assert!(log.wait_due(Duration::from_secs(600)).unwrap(), "a topic was created");
    assert!(!log.wait_due(Duration::ZERO).unwrap());
}

#[test]
fn a_reader_wakes_when_its_record_comes() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let partition = log.topic("orders").unwrap().partition(0).unwrap();
    let waiting = thread::spawn({
        let partition = partition.clone();
        move || {
            block_on(partition.readable(Offset(2))).unwrap();
            partition.read(Offset(2)).unwrap().iter().count()
        }
    });
    for value in ["a", "b", "c"] {
        let _ = partition.append(value).unwrap();
    }
    assert_eq!(waiting.join().unwrap(), 1);
}

#[test]
fn who_waits_in_vain_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let wait = |topic: &str| {
        let readable = log.topic(topic).unwrap().partition(0).unwrap().readable(Offset(0));
        thread::spawn(move || block_on(readable).unwrap_err().kind())
    };
    let (deleted, closed) = (wait("deleted"), wait("closed"));
    log.delete_topic("deleted").unwrap();
    assert_eq!(deleted.join().unwrap(), ErrorKind::Closed);
    log.close().unwrap();
    assert_eq!(closed.join().unwrap(), ErrorKind::Closed);
}
