//! What was lost or delivered twice, and how, by the consumers before this one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread;

use super::faces::Count;
use super::group::HandOver;
use super::*;
use crate::error::{ErrorKind, GroupError};
use crate::group::{Answer, DescribedGroup, GroupOffset, Request};
use crate::partition::{Isolation, ReadOptions};
use crate::sim::{Errno, Fault, Times};

fn fill(log: &Log, topic: &str, values: std::ops::Range<u32>) {
    values.for_each(|value| _ = append(log, &id(topic, 0), &value.to_string()));
}

fn committed(log: &Log, topic: &str) -> Option<Offset> {
    log.group("g").unwrap().committed(topic, 0).unwrap().map(|committed| committed.offset)
}

fn describe(log: &Log) -> DescribedGroup {
    match log.ask_coordinator(Request::Describe { group: "g".into() }).wait().unwrap() {
        Answer::Described(described) => described,
        other => panic!("{other:?}"),
    }
}

fn by_hand(log: &Log) -> ConsumerBuilder {
    log.consumer("g").auto_offset_reset(AutoOffsetReset::Earliest)
}

/// A topic was deleted, and what groups had committed for it forgotten; then a member that had read it gave it up, and
/// committed. The next topic of that name was read from there on.
#[test]
fn a_member_that_gives_up_a_deleted_topic_commits_nothing_for_the_next_of_its_name() {
    for commits_by_itself in [false, true] {
        let (log, clock) = open();
        topic(&log, "t", 1);
        fill(&log, "t", 0..3);
        let builder = member(&log, &["t"], eager());
        let mut consumer = match commits_by_itself {
            true => builder.auto_commit(3600 * SECOND).join(),
            false => builder.listener(HandOver::default()).join(),
        };
        let consumer = consumer.as_mut().unwrap();
        settle(&log, &clock, &mut [&mut *consumer]);
        log.delete_topic("t").unwrap();
        settle(&log, &clock, &mut [&mut *consumer]);
        topic(&log, "t", 1);
        assert_eq!(committed(&log, "t"), None);
        fill(&log, "t", 10..15);
        let mut found = Vec::new();
        settle_with(&log, &clock, &mut [consumer], |_, _, polled| found.extend(values(&polled)));
        assert_eq!(found, ["t-0:0=10", "t-0:1=11", "t-0:2=12", "t-0:3=13", "t-0:4=14"]);
    }
}

/// The same by who commits whenever it likes, also behind the creation of the next topic.
#[test]
fn nothing_is_committed_for_a_topic_that_was_not_the_one_that_was_read() {
    let (log, _) = open();
    ["t", "u"].iter().for_each(|name| topic(&log, name, 1));
    ["t", "u"].iter().for_each(|name| fill(&log, name, 0..3));
    let mut consumer = by_hand(&log).assign([id("t", 0), id("u", 0)]).unwrap();
    poll(&mut consumer);
    let positions = consumer.positions();
    log.delete_topic("t").unwrap();
    let mut producer = log.producer().transactional("p").unwrap();
    for is_made_again in [false, true] {
        if is_made_again {
            topic(&log, "t", 1);
        }
        assert_eq!(consumer.positions(), [(id("u", 0), Offset(3))]);
        consumer.commit().unwrap();
        // Found out before the topic was deleted, and committed only now.
        let found = positions.iter().map(|(id, offset)| GroupOffset::new(&id.topic, id.partition, *offset));
        consumer.commit_offsets(&found.collect::<Vec<_>>()).unwrap();
        let mut transaction = producer.begin().unwrap();
        transaction.commit_positions(&consumer).unwrap();
        transaction.commit().unwrap();
        assert_eq!((committed(&log, "t"), committed(&log, "u")), (None, Some(Offset(3))));
    }
    let mut transaction = producer.begin().unwrap();
    let only = by_hand(&log).assign([]).unwrap();
    transaction.commit_positions(&only).unwrap();
    transaction.commit().unwrap();
}

/// Another had the name, and as many partitions, at the next poll: the group had nothing to divide anew, and the member went on
/// with the partition of the topic that was gone.
#[test]
fn a_topic_that_was_made_again_between_two_polls_is_read() {
    for is_waiting in [false, true] {
        let (log, clock) = open();
        topic(&log, "t", 1);
        fill(&log, "t", 0..3);
        let mut consumer = member(&log, &["t"], cooperative()).join().unwrap();
        settle(&log, &clock, &mut [&mut consumer]);
        consumer.commit().unwrap();
        consumer.pause(&[id("t", 0)]).unwrap();
        if is_waiting {
            assert!(consumer.poll_records(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        log.delete_topic("t").unwrap();
        topic(&log, "t", 1);
        fill(&log, "t", 10..15);
        assert!(poll(&mut consumer).is_empty());
        assert_eq!(consumer.paused(), [id("t", 0)]);
        consumer.resume(&[]).unwrap();
        assert_eq!(values(&poll(&mut consumer)).len(), 5);
        consumer.commit().unwrap();
        assert_eq!(committed(&log, "t"), Some(Offset(5)));
    }
}

/// A member took longer than it may, and others went on from where it began. What it had worked out, it committed all the same:
/// everything twice, and the group back.
#[test]
fn a_transaction_does_not_commit_positions_of_a_member_that_is_out() {
    for is_told in [true, false] {
        let (log, clock) = open();
        topic(&log, "t", 1);
        fill(&log, "t", 0..50);
        let mut a = member(&log, &["t"], eager()).max_poll_interval(20 * SECOND).max_poll_records(10).join().unwrap();
        let mut producer = log.producer().transactional("a").unwrap();
        let mut transaction = producer.begin().unwrap();
        for (_, record) in &admit(&mut a) {
            let _ = transaction.send(Record::new(record.value.unwrap()).to("done")).unwrap();
        }
        let mut b = member(&log, &["t"], eager()).join().unwrap();
        // Its time between polls runs out, or that of its session, of which it does not know.
        let mut read = 0;
        for _ in 0..15 {
            read += poll(&mut b).iter().count();
            clock.advance(if is_told { 2 * SECOND } else { 7 * SECOND });
            if is_told {
                log.maintain().unwrap();
            }
            read += poll(&mut b).iter().count();
        }
        log.maintain().unwrap();
        read += poll(&mut b).iter().count();
        assert_eq!(read, 50);
        b.commit().unwrap();

        let refused = transaction.commit_positions(&a).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Fenced, "{refused}");
        let refused = transaction.commit().unwrap_err();
        assert!(matches!(refused, Error::InvalidTransaction { .. }), "{refused}");
        assert_eq!(committed(&log, "t"), Some(Offset(50)));
        let is_committed = ReadOptions::default().isolation(Isolation::Committed);
        let done = log.topic("done").unwrap().partition(0).unwrap();
        assert_eq!(done.read_with(Offset::ZERO, is_committed).unwrap().iter().count(), 0);
        // The producer goes on.
        poll(&mut a);
        producer.begin().unwrap().commit().unwrap();
    }
}

#[test]
fn a_transaction_commits_positions_of_a_member_and_of_who_is_none() {
    let (log, clock) = open();
    topic(&log, "t", 1);
    fill(&log, "t", 0..3);
    let mut producer = log.producer().transactional("p").unwrap();
    let mut a = member(&log, &["t"], eager()).join().unwrap();
    settle(&log, &clock, &mut [&mut a]);
    let mut transaction = producer.begin().unwrap();
    transaction.commit_positions(&a).unwrap();
    transaction.abort().unwrap();
    assert_eq!(committed(&log, "t"), None);
    let mut transaction = producer.begin().unwrap();
    transaction.commit_positions(&a).unwrap();
    let ticket = transaction.prepare().unwrap();
    log.commit_prepared(&ticket).unwrap();
    assert_eq!(committed(&log, "t"), Some(Offset(3)));
    a.close().unwrap();
    fill(&log, "t", 3..5);
    let mut by_hand = by_hand(&log).assign([id("t", 0)]).unwrap();
    poll(&mut by_hand);
    let mut transaction = producer.begin().unwrap();
    transaction.commit_positions(&by_hand).unwrap();
    transaction.commit().unwrap();
    assert_eq!(committed(&log, "t"), Some(Offset(5)));
}

/// While a partition was paused the others learned of a task's new waker, and it counted as one that knew it, too.
#[test]
fn a_partition_that_was_paused_wakes_the_task_where_it_is_now() {
    let (log, _) = open();
    topic(&log, "t", 2);
    let mut consumer = by_hand(&log).assign([id("t", 0), id("t", 1)]).unwrap();
    let counts = [0, 1].map(|_| Arc::new(Count::default()));
    let poll = |consumer: &mut Consumer, at: usize| {
        let waker = Waker::from(Arc::clone(&counts[at]));
        assert!(consumer.poll_records(&mut Context::from_waker(&waker)).is_pending());
    };
    poll(&mut consumer, 0);
    consumer.pause(&[id("t", 1)]).unwrap();
    poll(&mut consumer, 1);
    consumer.resume(&[]).unwrap();
    poll(&mut consumer, 1);
    append(&log, &id("t", 1), "x");
    assert_eq!(counts.map(|count| count.get()), [0, 1]);
}

#[test]
fn a_partition_without_a_position_keeps_no_other_from_being_read() {
    let (log, clock) = open();
    topic(&log, "t", 2);
    let ids = [0, 1].map(|number| id("t", number));
    ids.iter().for_each(|id| _ = append(&log, id, "x"));
    log.group("g").unwrap().commit("t", 1, Offset(0)).unwrap();
    let none = || log.consumer("g").auto_offset_reset(AutoOffsetReset::None);
    let mut consumer = none().assign(ids.clone()).unwrap();
    assert_eq!(values(&poll(&mut consumer)), ["t-1:0=x"]);
    assert!(matches!(consumer.poll(Duration::ZERO), Err(Error::NoPosition { .. })));
    append(&log, &ids[1], "y");
    assert_eq!(values(&poll(&mut consumer)), ["t-1:1=y"]);
    consumer.seek(&ids[0], Offset(0)).unwrap();
    assert_eq!(values(&poll(&mut consumer)), ["t-0:0=x"]);

    let mut consumer = none().topics(["t"]).assignors(eager()).join().unwrap();
    assert_eq!(values(&poll(&mut consumer)), ["t-1:0=x", "t-1:1=y"]);
    assert!(matches!(consumer.poll(Duration::ZERO), Err(Error::NoPosition { .. })));
    drop(clock);
}

/// Who began below an offset that was about to be committed did the work of that transaction again. So did those who read what
/// they name: they asked in another way.
#[test]
fn who_reads_by_hand_waits_for_an_offset_that_a_transaction_is_about_to_commit() {
    let (log, clock) = open();
    topic(&log, "t", 2);
    let ids = [0, 1].map(|number| id("t", number));
    (0..3).for_each(|_| ids.iter().for_each(|id| _ = append(&log, id, "x")));
    let mut producer = log.producer().transactional("p").unwrap();
    let mut transaction = producer.begin().unwrap();
    let group = log.group("g").unwrap();
    transaction.commit_offsets(&group, &[GroupOffset::new("t", 0, Offset(2))]).unwrap();
    let mut consumer = by_hand(&log).assign(ids.clone()).unwrap();
    assert_eq!(values(&poll(&mut consumer)).len(), 3, "the other is read");
    for _ in 0..3 {
        assert!(poll(&mut consumer).is_empty());
        assert_eq!(consumer.position(&ids[0]).unwrap_err().kind(), ErrorKind::Retry);
        // It does not spin until maintenance comes by: nobody does that here.
        assert!(consumer.next_due() > Some(log.clock().monotonic()));
        clock.advance(SECOND);
    }
    // Nor once there is nothing to be found out any more.
    let mut moved = by_hand(&log).assign([ids[0].clone()]).unwrap();
    assert!(poll(&mut moved).is_empty() && moved.next_due().is_some());
    moved.seek(&ids[0], Offset(3)).unwrap();
    assert!(poll(&mut moved).is_empty() && moved.next_due().is_none());
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    assert!(consumer.poll_records(&mut Context::from_waker(&waker)).is_pending());
    transaction.commit().unwrap();
    let before = count.get();
    clock.advance(SECOND);
    log.maintain().unwrap();
    assert!(count.get() > before, "a task hears of it");
    assert_eq!(values(&poll(&mut consumer)), ["t-0:2=x"]);
}

/// Who only reads left a topic for offsets behind.
#[test]
fn who_commits_nothing_leaves_nothing_behind() {
    let (log, _) = open();
    topic(&log, "t", 1);
    fill(&log, "t", 0..3);
    let mut consumer = by_hand(&log).assign([id("t", 0)]).unwrap();
    assert_eq!(values(&poll(&mut consumer)).len(), 3);
    assert_eq!(log.topics().len(), 1);
}

/// A poll that failed before it came to its group left it waiting for ever, though the application was at work, or gone.
#[test]
fn who_was_told_of_an_error_does_not_count_as_waiting() {
    let disk = SimDisk::new(DiskOptions::default());
    let (log, clock) = (builder(&disk).open().unwrap(), disk.clock());
    topic(&log, "t", 1);
    fill(&log, "t", 0..3);
    let builder = member(&log, &["t"], eager()).auto_commit(5 * SECOND).max_poll_interval(20 * SECOND);
    let mut consumer = builder.join().unwrap();
    settle(&log, &clock, &mut [&mut consumer]);
    fill(&log, "t", 3..5);
    poll(&mut consumer);
    assert!(consumer.poll_records(&mut Context::from_waker(Waker::noop())).is_pending());
    clock.advance(5 * SECOND);
    disk.inject(disk.calls(), Fault::Error(Errno::Io), Times::Once);
    assert!(matches!(consumer.poll_records(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_))));
    disk.heal();
    assert_eq!(describe(&log).members.len(), 1);
    for _ in 0..10 {
        clock.advance(3 * SECOND);
        let _ = log.maintain();
    }
    assert_eq!(describe(&log).members.len(), 0);
}

#[test]
fn a_task_that_waits_commits_by_itself() {
    let (log, clock) = open();
    topic(&log, "t", 1);
    fill(&log, "t", 0..3);
    for is_member in [false, true] {
        let (group, count) = (if is_member { "m" } else { "g" }, Arc::new(Count::default()));
        let builder = log.consumer(group).auto_offset_reset(AutoOffsetReset::Earliest).auto_commit(5 * SECOND);
        let joined = if is_member { builder.topics(["t"]).join() } else { builder.assign([id("t", 0)]) };
        let mut consumer = joined.unwrap();
        assert_eq!(poll(&mut consumer).iter().count(), 3);
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        assert!(consumer.poll_records(&mut context).is_pending());
        clock.advance(5 * SECOND);
        let next = log.maintain().unwrap().next;
        assert!(count.get() > 0 && next > Duration::ZERO);
        assert!(consumer.poll_records(&mut context).is_pending());
        assert_eq!(consumer.committed(&id("t", 0)).unwrap().unwrap().offset, Offset(3));
    }
}

#[test]
fn who_waits_for_no_partition_hears_that_the_log_is_closed() {
    for is_paused in [false, true] {
        let (log, _) = open();
        topic(&log, "t", 1);
        let ids = [id("t", 0)];
        let mut consumer = by_hand(&log).assign(ids.iter().take(usize::from(is_paused)).cloned()).unwrap();
        consumer.pause(&[]).unwrap();
        let closed = thread::scope(|scope| {
            let waiting = scope.spawn(|| consumer.poll(Duration::from_secs(600)));
            log.clone().close().unwrap();
            waiting.join().unwrap()
        });
        assert!(matches!(closed, Err(Error::Closed)));
        assert!(matches!(consumer.poll(Duration::ZERO), Err(Error::Closed)));
        assert!(matches!(log.consumer("g").assign([]), Err(Error::Closed)));
    }
}

/// It was told that it gives up what others had by then.
#[test]
fn a_member_that_is_out_loses_what_it_had_when_it_is_closed() {
    let (log, clock) = open();
    topic(&log, "t", 1);
    let told = HandOver::default();
    let builder = member(&log, &["t"], eager()).max_poll_interval(5 * SECOND).listener(told.clone());
    let mut consumer = builder.join().unwrap();
    settle(&log, &clock, &mut [&mut consumer]);
    told.take();
    for _ in 0..3 {
        clock.advance(3 * SECOND);
        log.maintain().unwrap();
    }
    consumer.close().unwrap();
    assert_eq!(told.take(), ["!0"]);
}

/// Panics when something is taken away.
struct Panics(Arc<Mutex<Vec<BTreeSet<TopicPartition>>>>);

impl RebalanceListener for Panics {
    fn assigned(&mut self, _: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
        self.0.lock().unwrap().push(partitions.iter().cloned().collect());
        Ok(())
    }

    fn revoked(&mut self, _: &mut Consumer, _: &[TopicPartition]) -> Result<()> {
        panic!("of its own");
    }
}

/// Polls returned nothing from then on, and what others read by then was read on.
#[test]
fn a_listener_that_panics_leaves_a_consumer_that_goes_on() {
    let (log, clock) = open();
    topic(&log, "t", 2);
    let told: Arc<Mutex<Vec<_>>> = Arc::default();
    let mut a = member(&log, &["t"], eager()).listener(Panics(Arc::clone(&told))).join().unwrap();
    settle(&log, &clock, &mut [&mut a]);
    let mut b = member(&log, &["t"], eager()).join().unwrap();
    let mut panics = 0;
    for _ in 0..12 {
        panics += usize::from(catch_unwind(AssertUnwindSafe(|| poll(&mut a))).is_err());
        poll(&mut b);
        owners(&[&a, &b]);
        clock.advance(SECOND);
        log.maintain().unwrap();
    }
    assert_eq!((panics, told.lock().unwrap().len()), (1, 2), "it is told as before");
    assert_eq!(owners(&[&a, &b]).len(), 2);
    fill(&log, "t", 0..1);
    append(&log, &id("t", 1), "x");
    assert_eq!(values(&poll(&mut a)).len() + values(&poll(&mut b)).len(), 2);
}

/// A loop that only looks at records went round for ever.
#[test]
fn an_iterator_ends_where_another_took_the_place() {
    let (log, clock) = open();
    topic(&log, "t", 1);
    let join = || member(&log, &["t"], eager()).instance_id("i").join().unwrap();
    let mut first = join();
    settle(&log, &clock, &mut [&mut first]);
    let mut second = join();
    settle(&log, &clock, &mut [&mut second]);
    clock.advance(5 * SECOND);
    log.maintain().unwrap();
    let ended: Vec<_> = first.iter().take(3).collect();
    let is_fenced = |ended: &Result<Consumed>| {
        matches!(ended, Err(Error::GroupRefused { reason: GroupError::FencedInstanceId, .. }))
    };
    assert!(ended.len() == 1 && is_fenced(&ended[0]), "{ended:?}");
}

/// A topic that grows reaches who waits without a heartbeat, which is 40 seconds away.
#[test]
fn a_member_that_waits_hears_of_new_partitions_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let groups = GroupConfig::default().initial_rebalance_delay(Duration::ZERO);
    let log = Log::builder(dir.path()).groups(groups).open().unwrap();
    topic(&log, "t", 1);
    let mut consumer = member(&log, &["t"], cooperative()).heartbeat_interval(40 * SECOND).join().unwrap();
    poll(&mut consumer);
    let polled = thread::scope(|scope| {
        let waiting = scope.spawn(|| consumer.poll(30 * SECOND).unwrap());
        log.alter_topic("t", TopicConfig::default().partitions(2)).unwrap();
        append(&log, &id("t", 1), "x");
        waiting.join().unwrap()
    });
    assert_eq!(values(&polled), ["t-1:0=x"]);
}
