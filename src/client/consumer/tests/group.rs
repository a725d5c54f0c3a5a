//! Members of one group, in one log: they divide the partitions, hand them over, and die.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Mutex;

use super::*;
use crate::error::{ErrorKind, GroupError};

#[test]
fn a_member_gets_all_partitions_and_reads_them() {
    let (log, clock) = open();
    topic(&log, "t", 2);
    append(&log, &id("t", 1), "x");
    let mut consumer = member(&log, &["t"], eager()).join().unwrap();
    assert_eq!(values(&admit(&mut consumer)), ["t-1:0=x"]);
    assert_eq!(consumer.assignment(), [id("t", 0), id("t", 1)]);
    assert!(consumer.member_id().unwrap().starts_with("consumer-"));
    settle(&log, &clock, &mut [&mut consumer]);
}

#[test]
fn members_divide_the_partitions_and_take_over_from_who_leaves() {
    for assignors in [eager(), cooperative()] {
        let (log, clock) = open();
        topic(&log, "t", 4);
        let mut a = member(&log, &["t"], assignors.clone()).join().unwrap();
        settle(&log, &clock, &mut [&mut a]);
        let mut b = member(&log, &["t"], assignors).join().unwrap();
        settle(&log, &clock, &mut [&mut a, &mut b]);
        let owned = owners(&[&a, &b]);
        assert_eq!(owned.len(), 4);
        assert_eq!((a.assignment().len(), b.assignment().len()), (2, 2));
        a.close().unwrap();
        settle(&log, &clock, &mut [&mut b]);
        assert_eq!(owners(&[&b]).len(), 4);
        drop(b);
        let mut c = member(&log, &["t"], eager()).join().unwrap();
        admit(&mut c);
        assert_eq!(owners(&[&c]).len(), 4, "who is dropped leaves, too");
    }
}

#[test]
pub(super) fn what_a_member_leaves_is_anothers_at_once() {
    let (log, clock) = open();
    topic(&log, "t", 4);
    let mut a = member(&log, &["t"], eager()).join().unwrap();
    let mut b = member(&log, &["t"], eager()).join().unwrap();
    settle(&log, &clock, &mut [&mut a, &mut b]);
    let mut context = Context::from_waker(Waker::noop());
    assert!(a.poll_records(&mut context).is_pending());
    b.close().unwrap();
    // The clock stands still.
    for _ in 0..3 {
        log.maintain().unwrap();
        poll(&mut a);
    }
    assert_eq!(a.assignment().len(), 4);
}

#[test]
fn members_of_a_process_that_died_are_not_waited_for() {
    let disk = SimDisk::new(DiskOptions::default());
    let log = builder(&disk).open().unwrap();
    topic(&log, "t", 2);
    let mut a = member(&log, &["t"], eager()).join().unwrap();
    let mut b = member(&log, &["t"], eager()).instance_id("static").join().unwrap();
    settle(&log, &disk.clock(), &mut [&mut a, &mut b]);
    let disk = disk.crash(1);
    let log = builder(&disk).open().unwrap();
    let mut c = member(&log, &["t"], eager()).join().unwrap();
    // The clock stands still.
    admit(&mut c);
    assert_eq!(c.assignment().len(), 2);
}

/// Commits what was processed when it has to give it up, and writes down what it is told.
#[derive(Clone, Default)]
pub(super) struct HandOver(Arc<Mutex<Vec<String>>>);

impl HandOver {
    fn note(&self, word: &str, partitions: &[TopicPartition]) {
        let mut told = self.0.lock().unwrap();
        told.extend(partitions.iter().map(|id| format!("{word}{}", id.partition)));
    }

    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl RebalanceListener for HandOver {
    fn assigned(&mut self, _: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
        self.note("+", partitions);
        Ok(())
    }

    fn revoked(&mut self, consumer: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
        assert!(poll(consumer).is_empty(), "nothing while it is told");
        self.note("-", partitions);
        consumer.commit()
    }

    fn lost(&mut self, consumer: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
        self.note("!", partitions);
        let refused = consumer.commit().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Fenced);
        Ok(())
    }
}

#[test]
fn an_orderly_hand_over_delivers_nothing_twice_and_leaves_nothing_out() {
    for assignors in [eager(), cooperative()] {
        let (log, clock) = open();
        topic(&log, "t", 3);
        let found: Rc<RefCell<BTreeMap<String, u32>>> = Rc::default();
        let next = std::cell::Cell::new(0);
        let round = |consumers: &mut [&mut Consumer]| {
            let found = Rc::clone(&found);
            settle_with(&log, &clock, consumers, |_, _, polled| {
                for value in polled.iter().map(|(_, record)| text(record.value)) {
                    *found.borrow_mut().entry(value).or_default() += 1;
                }
                append(&log, &id("t", next.get() % 3), &next.get().to_string());
                next.set(next.get() + 1);
            });
        };
        let join =
            || member(&log, &["t"], assignors.clone()).max_poll_records(2).listener(HandOver::default()).join();
        let mut a = join().unwrap();
        round(&mut [&mut a]);
        let mut b = join().unwrap();
        round(&mut [&mut a, &mut b]);
        let mut c = join().unwrap();
        round(&mut [&mut a, &mut b, &mut c]);
        b.close().unwrap();
        round(&mut [&mut a, &mut c]);
        for _ in 0..3 {
            settle_with(&log, &clock, &mut [&mut a, &mut c], |_, _, polled| {
                for value in polled.iter().map(|(_, record)| text(record.value)) {
                    *found.borrow_mut().entry(value).or_default() += 1;
                }
            });
        }
        let expected: BTreeMap<_, _> = (0..next.get()).map(|number| (number.to_string(), 1)).collect();
        assert_eq!(*found.borrow(), expected);
    }
}

#[test]
fn a_cooperative_member_reads_on_what_stays_with_it() {
    let (log, clock) = open();
    topic(&log, "t", 4);
    let (of_a, of_b) = (HandOver::default(), HandOver::default());
    let mut a = member(&log, &["t"], cooperative()).listener(of_a.clone()).join().unwrap();
    settle(&log, &clock, &mut [&mut a]);
    assert_eq!(of_a.take(), ["+0", "+1", "+2", "+3"]);
    let mut b = member(&log, &["t"], cooperative()).listener(of_b.clone()).join().unwrap();
    settle_with(&log, &clock, &mut [&mut a, &mut b], |at, consumer, _| {
        assert!(at == 1 || consumer.assignment().len() >= 2, "it stopped reading what stays");
    });
    assert_eq!((of_a.take(), of_b.take()), (vec!["-2".into(), "-3".into()], vec!["+2".into(), "+3".into()]));
}

#[test]
fn who_was_not_heard_of_loses_what_it_had_and_cannot_commit() {
    let (log, clock) = open();
    topic(&log, "t", 2);
    append(&log, &id("t", 0), "x");
    let told = HandOver::default();
    let mut a = member(&log, &["t"], eager()).listener(told.clone()).join().unwrap();
    let mut b = member(&log, &["t"], eager()).join().unwrap();
    settle(&log, &clock, &mut [&mut a, &mut b]);
    told.take();
    // The process stood still, and `b` was the first to go on.
    clock.advance(60 * SECOND);
    poll(&mut b);
    log.maintain().unwrap();
    let refused = a.commit().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Fenced, "{refused}");
    settle(&log, &clock, &mut [&mut b]);
    assert_eq!(b.assignment().len(), 2);
    assert_eq!(a.assignment().len(), 1, "it was not told yet");
    settle(&log, &clock, &mut [&mut a, &mut b]);
    assert!(told.take()[0].starts_with("!"));
    assert_eq!(owners(&[&a, &b]).len(), 2);
}

#[test]
fn who_never_polls_again_is_out_after_the_longest_time_between_polls() {
    let (log, clock) = open();
    topic(&log, "t", 2);
    let forgotten = member(&log, &["t"], eager()).max_poll_interval(20 * SECOND).join().unwrap();
    let mut b = member(&log, &["t"], eager()).join().unwrap();
    let mut forgotten = std::mem::ManuallyDrop::new(forgotten);
    settle(&log, &clock, &mut [&mut *forgotten, &mut b]);
    assert_eq!(b.assignment().len(), 1);
    settle(&log, &clock, &mut [&mut b]);
    assert_eq!(b.assignment().len(), 1, "12 seconds");
    settle(&log, &clock, &mut [&mut b]);
    assert_eq!(b.assignment().len(), 2, "24 seconds");
}

#[test]
fn a_static_member_comes_back_to_what_it_had() {
    let (log, clock) = open();
    topic(&log, "t", 4);
    let told = HandOver::default();
    let mut a = member(&log, &["t"], eager()).listener(told.clone()).join().unwrap();
    let b = || member(&log, &["t"], eager()).instance_id("b").join().unwrap();
    let mut first = b();
    settle(&log, &clock, &mut [&mut a, &mut first]);
    let had = first.assignment();
    first.close().unwrap();
    told.take();
    let mut second = b();
    settle(&log, &clock, &mut [&mut a, &mut second]);
    assert_eq!((second.assignment(), told.take()), (had, vec![]), "nobody else noticed");
    let mut third = b();
    settle(&log, &clock, &mut [&mut a, &mut third]);
    for _ in 0..2 {
        let fenced = second.poll(Duration::ZERO).unwrap_err();
        assert!(matches!(fenced, Error::GroupRefused { reason: GroupError::FencedInstanceId, .. }), "{fenced}");
        assert!(second.assignment().is_empty());
    }
}

#[test]
fn new_partitions_and_new_topics_are_noticed() {
    let (log, clock) = open();
    topic(&log, "a", 1);
    let builder = log.consumer("g").pattern(|name| name.len() == 1).assignors(cooperative());
    let mut consumer = builder.auto_offset_reset(AutoOffsetReset::Earliest).join().unwrap();
    admit(&mut consumer);
    assert_eq!(consumer.assignment(), [id("a", 0)]);
    topic(&log, "b", 1);
    topic(&log, "long", 1);
    let config = log.topic("a").unwrap().config();
    log.alter_topic("a", config.partitions(2)).unwrap();
    settle(&log, &clock, &mut [&mut consumer]);
    assert_eq!(consumer.assignment(), [id("a", 0), id("a", 1), id("b", 0)]);
    log.delete_topic("a").unwrap();
    settle(&log, &clock, &mut [&mut consumer]);
    assert_eq!(consumer.assignment(), [id("b", 0)]);
    // One that does not lead is given its part, too.
    let mut other = log.consumer("g").pattern(|name| name.len() == 1).assignors(cooperative()).join().unwrap();
    settle(&log, &clock, &mut [&mut consumer, &mut other]);
    topic(&log, "c", 3);
    settle(&log, &clock, &mut [&mut consumer, &mut other]);
    assert_eq!(owners(&[&consumer, &other]).len(), 4);
}

#[test]
fn a_topic_that_comes_later_is_read_then() {
    let (log, clock) = open();
    let mut consumer = member(&log, &["t"], eager()).join().unwrap();
    settle(&log, &clock, &mut [&mut consumer]);
    assert!(consumer.assignment().is_empty());
    topic(&log, "t", 1);
    append(&log, &id("t", 0), "x");
    let mut found = Vec::new();
    settle_with(&log, &clock, &mut [&mut consumer], |_, _, polled| found.extend(values(&polled)));
    assert_eq!(found, ["t-0:0=x"]);
}

#[test]
fn what_is_committed_in_an_open_transaction_is_waited_for() {
    let (log, clock) = open();
    topic(&log, "t", 1);
    ["0", "1", "2"].iter().for_each(|value| _ = append(&log, &id("t", 0), value));
    let group = log.group("g").unwrap();
    let mut producer = log.producer().transactional("p").unwrap();
    let mut transaction = producer.begin().unwrap();
    transaction.commit_offsets(&group, &[crate::group::GroupOffset::new("t", 0, Offset(2))]).unwrap();
    let mut consumer = member(&log, &["t"], eager()).join().unwrap();
    let mut found = Vec::new();
    settle_with(&log, &clock, &mut [&mut consumer], |_, _, polled| found.extend(values(&polled)));
    assert!(found.is_empty() && consumer.assignment().len() == 1);
    transaction.commit().unwrap();
    settle_with(&log, &clock, &mut [&mut consumer], |_, _, polled| found.extend(values(&polled)));
    assert_eq!(found, ["t-0:2=2"]);
}

#[test]
fn a_poll_commits_by_itself_before_it_gives_up() {
    let (log, clock) = open();
    topic(&log, "t", 2);
    for number in 0..2 {
        append(&log, &id("t", number), "x");
    }
    let mut a = member(&log, &["t"], eager()).auto_commit(3600 * SECOND).join().unwrap();
    settle(&log, &clock, &mut [&mut a]);
    let mut b = member(&log, &["t"], eager()).join().unwrap();
    let mut found = Vec::new();
    settle_with(&log, &clock, &mut [&mut a, &mut b], |_, _, polled| found.extend(values(&polled)));
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(owners(&[&a, &b]).len(), 2);
}

#[test]
fn a_log_that_closes_lets_its_members_leave() {
    let disk = SimDisk::new(DiskOptions::default());
    let log = builder(&disk).open().unwrap();
    topic(&log, "t", 1);
    let mut consumer = member(&log, &["t"], eager()).join().unwrap();
    admit(&mut consumer);
    log.close().unwrap();
    assert!(matches!(consumer.poll(Duration::ZERO), Err(Error::Closed)));
    drop(consumer);
    let log = builder(&disk).open().unwrap();
    let mut consumer = member(&log, &["t"], eager()).join().unwrap();
    admit(&mut consumer);
    assert_eq!(consumer.assignment().len(), 1, "without waiting for a session to end");
}

#[test]
fn a_member_that_waits_is_woken_by_its_group() {
    let dir = tempfile::tempdir().unwrap();
    let groups = GroupConfig::default().initial_rebalance_delay(Duration::from_millis(1));
    let log = Log::builder(dir.path()).groups(groups).open().unwrap();
    topic(&log, "t", 2);
    let join = || member(&log, &["t"], cooperative()).heartbeat_interval(Duration::from_millis(20)).join().unwrap();
    let (mut a, mut b) = (join(), join());
    append(&log, &id("t", 0), "x");
    append(&log, &id("t", 1), "y");
    let total = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for consumer in [&mut a, &mut b] {
            let total = &total;
            scope.spawn(move || {
                // Each ends with the record that is its own, or was read by the other before it came.
                while total.load(std::sync::atomic::Ordering::SeqCst) < 2 {
                    let polled = consumer.poll(Duration::from_millis(100)).unwrap();
                    total.fetch_add(polled.iter().count(), std::sync::atomic::Ordering::SeqCst);
                    if !polled.is_empty() {
                        consumer.commit().unwrap_or_default();
                    }
                }
            });
        }
    });
    a.close().unwrap();
    while b.assignment().len() < 2 {
        b.poll(Duration::from_secs(5)).unwrap();
    }
}

/// Maintenance holds a member for a moment. When that kept the log open, it was still in use after its last handle had gone.
#[test]
fn maintenance_keeps_no_log_open() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..40 {
        let log = Log::open(dir.path()).unwrap();
        let member = member(&log, &["t"], eager()).heartbeat_interval(Duration::from_millis(1));
        let mut consumer = member.join().unwrap();
        poll(&mut consumer);
        consumer.poll(Duration::from_millis(3)).unwrap();
        drop((consumer, log));
    }
}
