//! The same by an iterator, in order of time, and as a future.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::types::Timestamp;

/// Counts how often it is woken.
#[derive(Default)]
pub(super) struct Count(AtomicUsize);

impl Count {
    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.add();
    }
}

fn reader(log: &Log, partitions: u32) -> Consumer {
    let builder = log.consumer("g").auto_offset_reset(AutoOffsetReset::Earliest);
    builder.assign((0..partitions).map(|number| id("t", number))).unwrap()
}

#[test]
fn an_iterator_that_is_left_has_taken_what_it_returned() {
    let (log, _) = open();
    topic(&log, "t", 1);
    let t = id("t", 0);
    (0..9).for_each(|number| _ = append(&log, &t, &number.to_string()));
    let mut consumer = reader(&log, 1);
    let taken: Vec<_> = consumer.iter().take(4).map(|consumed| text(consumed.unwrap().record().value)).collect();
    assert_eq!((taken.concat(), consumer.position(&t).unwrap()), ("0123".into(), Offset(4)));
    assert_eq!(values(&poll(&mut consumer)).len(), 5);
    let waker = consumer.waker();
    let rest = thread::scope(|scope| {
        let waiting = scope.spawn(|| consumer.iter().count());
        waker.wake();
        waiting.join().unwrap()
    });
    assert_eq!(rest, 0);
    log.close().unwrap();
    let ended: Vec<_> = consumer.iter().collect();
    assert!(matches!(ended[..], [Err(Error::Closed)]), "{ended:?}");
}

#[test]
fn a_future_is_woken_by_a_record_and_only_then() {
    let (log, _) = open();
    topic(&log, "t", 2);
    let mut consumer = reader(&log, 2);
    for round in 0..6_u32 {
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        let mut next = pin!(consumer.next_records());
        assert!(next.as_mut().poll(&mut context).is_pending());
        assert!(next.as_mut().poll(&mut context).is_pending());
        assert_eq!(count.get(), 0);
        append(&log, &id("t", round % 2), "x");
        assert_eq!(count.get(), 1);
        let Poll::Ready(Ok(polled)) = next.as_mut().poll(&mut context) else { panic!("there is one") };
        assert_eq!(polled.iter().count(), 1);
    }
}

/// A task that moved left its old waker where it had waited, and slept for ever.
#[test]
fn a_task_that_moved_is_woken_where_it_is_now() {
    let (log, _) = open();
    topic(&log, "t", 2);
    let mut consumer = reader(&log, 2);
    let counts = [0, 1].map(|_| Arc::new(Count::default()));
    for count in &counts {
        let waker = Waker::from(Arc::clone(count));
        assert!(consumer.poll_records(&mut Context::from_waker(&waker)).is_pending());
    }
    append(&log, &id("t", 1), "x");
    assert_eq!(counts.map(|count| count.get()), [0, 1]);
}

#[cfg(feature = "futures")]
#[test]
fn a_stream_ends_behind_the_error_that_the_log_is_closed() {
    use futures_core::Stream;

    let (log, _) = open();
    topic(&log, "t", 1);
    append(&log, &id("t", 0), "x");
    let mut consumer = reader(&log, 1);
    let mut context = Context::from_waker(Waker::noop());
    let mut next = || std::pin::Pin::new(&mut consumer).poll_next(&mut context);
    assert!(matches!(next(), Poll::Ready(Some(Ok(polled))) if polled.iter().count() == 1));
    assert!(next().is_pending());
    log.close().unwrap();
    assert!(matches!(next(), Poll::Ready(Some(Err(Error::Closed)))));
    assert!(matches!(next(), Poll::Ready(None)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Merging gives every record once, each partition in its order, and all in order of time if each partition is.
    #[test]
    fn merged_partitions_are_in_order_of_time(
        mut times in prop::collection::vec(prop::collection::vec(0..50_i64, 0..20), 1..4),
        sorted: bool,
    ) {
        let (log, _) = open();
        topic(&log, "t", times.len() as u32);
        for (number, times) in (0..).zip(&mut times) {
            if sorted {
                times.sort_unstable();
            }
            let partition = log.topic("t").unwrap().partition(number).unwrap();
            for time in &*times {
                let _ = partition.append(Record::new("x").timestamp(Timestamp(*time))).unwrap();
            }
        }
        let mut consumer = reader(&log, times.len() as u32);
        let mut merged = consumer.merge_by_time();
        let mut found: Vec<Vec<i64>> = vec![Vec::new(); times.len()];
        let mut all = Vec::new();
        while let Some(consumed) = merged.next(Duration::ZERO).unwrap() {
            let time = consumed.record().timestamp.0;
            found[consumed.partition().partition as usize].push(time);
            all.push(time);
        }
        prop_assert_eq!(&found, &times);
        prop_assert!(!sorted || all.is_sorted());
    }
}
