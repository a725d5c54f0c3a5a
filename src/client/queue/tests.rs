//! Queues on a simulated disk, with a clock that the test moves; and what they do in threads.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests fail as tests do")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Wake;
use std::time::Duration;

use super::*;
use crate::config::TopicConfig;
use crate::error::{Error, GroupError};
use crate::log::{Background, LogBuilder, Staging};
use crate::partition::Isolation;
use crate::record::{Header, Record};
use crate::sim::{DiskOptions, SimDisk, SimEntropy};
use crate::types::QUEUES_TOPIC;

pub(super) const NOW: Duration = Duration::ZERO;
pub(super) const LONG: Duration = Duration::from_secs(3600);

/// Two lives of a log must not draw the same ids.
static OPENED: AtomicU64 = AtomicU64::new(1);

pub(super) fn builder(disk: &Arc<SimDisk>, staging: Staging) -> LogBuilder {
    Log::builder("/log")
        .disk(Arc::<SimDisk>::clone(disk))
        .clock(disk.clock())
        .entropy(Arc::new(SimEntropy::new(OPENED.fetch_add(1, Ordering::Relaxed))))
        .background(Background::Caller)
        .staging(staging)
}

pub(super) fn open() -> (Log, Arc<SimDisk>) {
    let disk = SimDisk::new(DiskOptions::default());
    (builder(&disk, Staging::On).open().unwrap(), disk)
}

pub(super) fn queue(log: &Log) -> Queue {
    log.queue("g", "a").max_deliveries(3).dead_letters("dead").open().unwrap()
}

pub(super) fn append(log: &Log, values: &[&str]) {
    values.iter().for_each(|value| drop(log.append(Record::new(value).to("a")).unwrap()));
}

pub(super) fn value(task: &Task) -> String {
    String::from_utf8(task.record().value.unwrap_or_default().to_vec()).unwrap()
}

/// Takes one that is there.
pub(super) fn take(queue: &mut Queue) -> Task {
    queue.take(NOW).unwrap().expect("there is one")
}

/// Takes all that is there.
pub(super) fn drain(queue: &mut Queue) -> Vec<Task> {
    let take = || queue.take_many(100, NOW).unwrap();
    std::iter::repeat_with(take).take_while(|tasks| !tasks.is_empty()).flatten().collect()
}

/// What is there to be taken, with how often it was handed out.
pub(super) fn taken(queue: &mut Queue) -> (Vec<Task>, Vec<(String, u16)>) {
    let tasks = drain(queue);
    let values = tasks.iter().map(|task| (value(task), task.deliveries())).collect();
    (tasks, values)
}

pub(super) fn values(queue: &mut Queue) -> Vec<(String, u16)> {
    taken(queue).1
}

pub(super) fn of<const N: usize>(values: [(&str, u16); N]) -> Vec<(String, u16)> {
    values.map(|(value, deliveries)| (value.to_owned(), deliveries)).into()
}

pub(super) fn is_expired<T: std::fmt::Debug>(result: Result<T>) -> bool {
    matches!(result, Err(Error::LockExpired { .. }))
}

#[test]
fn workers_share_records_and_each_is_done_once() {
    let (log, _) = open();
    append(&log, &["1", "2", "3"]);
    let (mut one, mut two) = (queue(&log), queue(&log));
    let (first, second) = (take(&mut one), take(&mut two));
    assert_eq!((value(&first), value(&second)), ("1".into(), "2".into()));
    second.accept().unwrap();
    let third = take(&mut two);
    assert_eq!((value(&third), two.backlog()), ("3".into(), 2));
    assert!(one.take(NOW).unwrap().is_none());
    let progress = &one.progress()[0];
    assert_eq!((progress.start, progress.next, progress.end), (Offset(0), Offset(3), Offset(3)));
    assert_eq!((progress.taken, progress.in_flight), (2, 2));
    one.accept_all([first, third]).unwrap();
    assert_eq!((one.backlog(), one.progress()[0].start), (0, Offset(3)), "also of another worker");
}

#[test]
fn what_is_given_back_goes_to_who_asks_next_and_the_delivery_counts() {
    let (log, disk) = open();
    append(&log, &["1", "2", "3", "4"]);
    let (mut one, mut two) = (queue(&log), queue(&log));
    take(&mut one).release().unwrap();
    drop(take(&mut one));
    let late = take(&mut one);
    assert_eq!((value(&late), late.deliveries()), ("1".into(), 3));
    let kept = take(&mut one);
    drop(one);
    assert_eq!(values(&mut two), of([("2", 2), ("3", 1), ("4", 1)]), "1 was tried as often as it may be");
    assert!(is_expired(kept.accept()), "its queue is gone");
    // Longer than its lock.
    let task = take(&mut two);
    disk.clock().advance(Duration::from_secs(29));
    task.renew().unwrap();
    disk.clock().advance(Duration::from_secs(29));
    let mut three = queue(&log);
    assert!(value(&task) == "2" && values(&mut three).iter().all(|(value, _)| value != "2"));
    disk.clock().advance(Duration::from_secs(1));
    assert_eq!(values(&mut three), of([("3", 3), ("4", 3)]), "2 was tried as often as it may be");
    assert!(is_expired(task.renew()));
    assert!(is_expired(late.accept()));
    log.maintain().unwrap();
    assert_eq!(letters(&log).len(), 4, "at last all of them");
}

#[test]
fn what_is_accepted_late_counts_if_nobody_else_has_it() {
    let (log, disk) = open();
    append(&log, &["1", "2"]);
    let (mut one, mut two) = (queue(&log), queue(&log));
    let (first, second) = (take(&mut one), take(&mut one));
    disk.clock().advance(LONG);
    first.accept().unwrap();
    assert_eq!(values(&mut two), of([("2", 2)]));
    assert!(is_expired(second.accept()));
}

/// Each letter: the value, and the headers that say where it is from.
pub(super) fn letters(log: &Log) -> Vec<(Option<String>, Vec<String>)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let records = log.topic("dead").unwrap().partition(0).unwrap().read(Offset::ZERO).unwrap();
    let headers = |record: &crate::record::RecordRef<'_>| {
        record.headers().map(|header| format!("{}={}", header.key, text(header.value.unwrap()))).collect()
    };
    records.iter().map(|record| (record.value.map(text), headers(&record))).collect()
}

#[test]
fn a_dead_letter_says_where_it_is_from_and_why() {
    let (log, _) = open();
    log.append(Record::new("1").headers(&[Header::new("trace", "4f")]).to("a")).unwrap();
    append(&log, &["2"]);
    let mut queue = queue(&log);
    take(&mut queue).reject().unwrap();
    for _ in 0..3 {
        take(&mut queue).release().unwrap();
    }
    let (task, deliveries) = (queue.take(NOW).unwrap(), queue.backlog());
    assert!(task.is_none() && deliveries == 0);
    let from = |offset: u64, count: u16, why: &str| {
        let of = |name: &str, value: &str| format!("__dlq.errors.{name}={value}");
        vec![
            of("topic", "a"),
            of("partition", "0"),
            of("offset", &offset.to_string()),
            of("group", "g"),
            of("delivery.count", &count.to_string()),
            of("message", why),
        ]
    };
    let mut first = vec!["trace=4f".to_owned()];
    first.extend(from(0, 1, "rejected"));
    let second = from(1, 3, "delivered 3 times, of 3");
    assert_eq!(letters(&log), [(Some("1".to_owned()), first), (Some("2".to_owned()), second)]);
}

#[test]
fn a_letter_that_would_be_too_large_says_where_the_record_is() {
    let (log, _) = open();
    log.create_topic("dead", TopicConfig::default().max_message_bytes(400)).unwrap();
    append(&log, &[&"x".repeat(300)]);
    take(&mut queue(&log)).reject().unwrap();
    let letters = letters(&log);
    assert_eq!((letters.len(), &letters[0].0, letters[0].1.len()), (1, &None, 6));
}

#[test]
fn without_a_topic_of_letters_a_record_is_dropped() {
    let (log, _) = open();
    append(&log, &["1", "2"]);
    let mut queue = log.queue("g", "a").open().unwrap();
    take(&mut queue).reject().unwrap();
    assert_eq!((value(&take(&mut queue)), queue.progress()[0].start), ("2".into(), Offset(1)));
}

#[test]
fn a_letter_that_cannot_be_written_is_written_later_and_nobody_gets_the_record() {
    let (log, disk) = open();
    append(&log, &["1", "2"]);
    let mut queue = queue(&log);
    let task = take(&mut queue);
    disk.set_free(Some(0));
    assert!(task.reject().unwrap_err().kind() == crate::ErrorKind::Full);
    let task = take(&mut queue);
    assert_eq!(value(&task), "2", "it keeps nobody from the rest");
    assert!(queue.take(NOW).is_err(), "that is told where there is nothing else");
    disk.set_free(None);
    assert!(queue.take(NOW).unwrap().is_none());
    assert_eq!(letters(&log).len(), 1);
    drop(task);
}

#[test]
fn records_of_transactions_are_handed_out_once_they_are_committed() {
    let (log, _) = open();
    let mut queue = queue(&log);
    let mut producer = log.producer().transactional("t").unwrap();
    let mut transaction = producer.begin().unwrap();
    transaction.send(Record::new("aborted").to("a")).unwrap();
    append(&log, &["plain"]);
    assert!(queue.take(NOW).unwrap().is_none(), "behind an open transaction");
    transaction.abort().unwrap();
    let mut transaction = producer.begin().unwrap();
    transaction.send(Record::new("committed").to("a")).unwrap();
    transaction.commit().unwrap();
    let (tasks, values) = taken(&mut queue);
    assert_eq!(values, of([("plain", 1), ("committed", 1)]));
    queue.accept_all(tasks).unwrap();
    assert!(queue.take(NOW).unwrap().is_none());
    assert_eq!(queue.backlog(), 0, "markers are passed over");
    let mut all = log.queue("all", "a").isolation(Isolation::Uncommitted).open().unwrap();
    assert_eq!(self::values(&mut all).len(), 3);
}

#[test]
fn each_group_has_a_queue_of_its_own_and_may_begin_at_the_end() {
    let (log, disk) = open();
    append(&log, &["1"]);
    let mut new = log.queue("new", "a").skip_present().open().unwrap();
    let (mut one, mut two) = (queue(&log), log.queue("h", "a").open().unwrap());
    assert_eq!((values(&mut one), values(&mut two)), (of([("1", 1)]), of([("1", 1)])));
    assert!(new.take(NOW).unwrap().is_none());
    drop((one, two, new));
    drop(log);
    let log = builder(&disk.crash(1), Staging::On).open().unwrap();
    log.topic("a").unwrap();
    append(&log, &["2"]);
    let mut new = log.queue("new", "a").skip_present().open().unwrap();
    let last = values(&mut new).pop().unwrap().0;
    assert_eq!(last, "2", "where it begins was durable when it was opened");
}

#[test]
fn partitions_that_come_later_are_shared_too() {
    let (log, _) = open();
    log.create_topic("a", TopicConfig::default().partitions(2)).unwrap();
    let mut queue = queue(&log);
    assert!(queue.take(NOW).unwrap().is_none());
    log.alter_topic("a", TopicConfig::default().partitions(3)).unwrap();
    let topic = log.topic("a").unwrap();
    for number in 0..3 {
        topic.partition(number).unwrap().append_all(["x", "y"]).unwrap();
    }
    let (tasks, _) = taken(&mut queue);
    let mut partitions: Vec<u32> = tasks.iter().map(|task| task.partition().partition).collect();
    partitions.sort_unstable();
    assert_eq!(partitions, [0, 0, 1, 1, 2, 2]);
    drop(tasks);
    // One by one they take turns.
    let tasks: Vec<_> = (0..3).map(|_| take(&mut queue)).collect();
    let mut partitions: Vec<u32> = tasks.iter().map(|task| task.partition().partition).collect();
    partitions.sort_unstable();
    assert_eq!(partitions, [0, 1, 2]);
}

#[test]
fn what_retention_takes_is_not_waited_for() {
    let (log, _) = open();
    append(&log, &["1", "2", "3"]);
    let mut queue = queue(&log);
    let task = take(&mut queue);
    log.delete_before("a", 0, Offset(2)).unwrap();
    assert_eq!(values(&mut queue), of([("3", 1)]));
    assert!(is_expired(task.accept()), "nobody asks any more");
}

#[test]
fn a_deleted_topic_ends_its_queues_and_a_new_one_of_the_name_begins_anew() {
    let (log, disk) = open();
    append(&log, &["1"]);
    let mut old = queue(&log);
    take(&mut old).accept().unwrap();
    log.delete_topic("a").unwrap();
    assert!(matches!(old.take(LONG), Err(Error::TopicDeleted { .. })));
    append(&log, &["2"]);
    assert_eq!(values(&mut queue(&log)), of([("2", 1)]));
    drop((old, log));
    let log = builder(&disk.crash(3), Staging::On).open().unwrap();
    let states = log.topic(QUEUES_TOPIC).unwrap().partition(0).unwrap();
    let records = states.read(Offset::ZERO).unwrap();
    assert!(records.iter().any(|record| record.value.is_none()), "it is forgotten");
}

#[test]
fn a_task_that_outlives_its_topic_leaves_nothing_behind() {
    let (log, _) = open();
    append(&log, &["1", "2"]);
    let mut queue = queue(&log);
    let (one, two) = (take(&mut queue), take(&mut queue));
    log.delete_topic("a").unwrap();
    let accepted = one.accept();
    assert!(matches!(accepted, Err(Error::TopicDeleted { .. })), "{accepted:?}");
    drop(two);
    drop(queue);
    let states = log.topic(QUEUES_TOPIC).unwrap().partition(0).unwrap().read(Offset::ZERO).unwrap();
    assert_eq!(states.iter().last().unwrap().value, None, "it is forgotten, and stays so");
}

#[test]
fn a_queue_is_deleted_once_nobody_has_it_open() {
    let (log, disk) = open();
    append(&log, &["1"]);
    let refusal = |log: &Log| match log.delete_queue("g", "a") {
        Err(Error::GroupRefused { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal(&log), GroupError::GroupIdNotFound);
    let mut queue = queue(&log);
    let task = take(&mut queue);
    drop(queue);
    assert_eq!(refusal(&log), GroupError::NonEmptyGroup, "there is a task");
    drop(task);
    log.delete_queue("g", "a").unwrap();
    assert_eq!(refusal(&log), GroupError::GroupIdNotFound);
    let log = builder(&disk.crash(1), Staging::On).open().unwrap();
    assert_eq!(refusal(&log), GroupError::GroupIdNotFound);
}

#[test]
fn a_letter_for_a_compacted_topic_has_a_key() {
    let (log, _) = open();
    log.create_topic("dead", TopicConfig::default().cleanup(crate::Cleanup::Compact)).unwrap();
    append(&log, &["1"]);
    take(&mut queue(&log)).reject().unwrap();
    let letters = log.topic("dead").unwrap().partition(0).unwrap().read(Offset::ZERO).unwrap();
    let letter = letters.iter().next().unwrap();
    assert_eq!((letter.key, letter.headers().count()), (Some(&b"a-0:0"[..]), 6));
}

#[test]
fn settings_are_refused_that_make_no_queue() {
    let (log, disk) = open();
    let refused = |builder: QueueBuilder, setting: &str| match builder.open() {
        Err(Error::InvalidSetting { key, .. }) => assert_eq!(*key, *setting),
        other => panic!("{setting}: {other:?}"),
    };
    let builder = || log.queue("g", "a");
    refused(builder().lock(Duration::ZERO), "lock");
    refused(builder().lock(Duration::MAX), "lock");
    refused(builder().max_deliveries(0), "max_deliveries");
    refused(builder().max_deliveries(1001), "max_deliveries");
    refused(builder().max_in_flight(0), "max_in_flight");
    refused(builder().max_in_flight(10_001), "max_in_flight");
    refused(builder().dead_letters("a"), "dead_letters");
    assert!(matches!(log.queue("g", QUEUES_TOPIC).open(), Err(Error::InternalTopic { .. })));
    assert!(matches!(builder().dead_letters("__consumer_offsets").open(), Err(Error::InternalTopic { .. })));
    assert!(matches!(log.queue("", "a").open(), Err(Error::InvalidGroupId { .. })));
    assert!(matches!(log.queue("g", "a/b").open(), Err(Error::InvalidTopicName { .. })));
    assert!(matches!(log.delete_topic(QUEUES_TOPIC), Err(Error::InternalTopic { .. })));
    let own = TopicConfig::default().partitions(5).retention_time(LONG);
    let config = log.create_topic(QUEUES_TOPIC, own).unwrap().config();
    let (other, _) = open();
    drop(other.queue("g", "a").open().unwrap());
    assert_eq!(config, other.topic(QUEUES_TOPIC).unwrap().config().partitions(5), "its own");
    assert!(matches!(log.alter_topic(QUEUES_TOPIC, own), Err(Error::InvalidSetting { .. })));
    let mut queue = builder().open().unwrap();
    append(&log, &["1"]);
    take(&mut queue).accept().unwrap();
    drop(queue);
    log.close().unwrap();
    let log = self::builder(&disk, Staging::On).read_only().open().unwrap();
    assert!(matches!(log.queue("g", "a").open(), Err(Error::ReadOnly)));
}

#[test]
fn the_settings_of_who_came_last_hold() {
    let (log, _) = open();
    append(&log, &["1", "2", "3"]);
    let mut one = log.queue("g", "a").max_in_flight(1).open().unwrap();
    assert_eq!(values(&mut one).len(), 1);
    assert_eq!(one.take_many(0, LONG).unwrap().len(), 0);
    let task = take(&mut one);
    assert!(one.take(NOW).unwrap().is_none());
    let mut two = log.queue("g", "a").max_in_flight(2).max_deliveries(2).open().unwrap();
    assert_eq!(values(&mut two).len(), 1);
    drop(task);
    assert_eq!(values(&mut two), of([("2", 2), ("3", 1)]), "1 was handed out twice");
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicU64);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_task_is_woken_by_records_by_what_is_given_back_and_by_time() {
    let (log, disk) = open();
    let (mut one, mut two) = (queue(&log), queue(&log));
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    let mut expected = 0;
    let mut poll = |queue: &mut Queue| queue.poll_tasks(1, &mut context);
    let mut check = |count: u64| {
        expected += count;
        assert!(woken.0.load(Ordering::SeqCst) >= expected, "woken {woken:?}, not {expected} times", woken = woken.0);
    };
    assert!(poll(&mut one).is_pending());
    append(&log, &["1"]);
    check(1);
    let Poll::Ready(Ok(tasks)) = poll(&mut one) else { panic!() };
    assert!(poll(&mut two).is_pending());
    drop(tasks);
    check(1);
    let Poll::Ready(Ok(tasks)) = poll(&mut two) else { panic!() };
    assert!(poll(&mut one).is_pending());
    disk.clock().advance(Duration::from_secs(31));
    log.maintain().unwrap();
    check(1);
    let Poll::Ready(Ok(again)) = poll(&mut one) else { panic!() };
    assert_eq!(again[0].deliveries(), 3);
    assert!(poll(&mut two).is_pending());
    drop((tasks, again));
    log.maintain().unwrap();
    assert_eq!(letters(&log).len(), 1);
    // The topic grows.
    assert!(poll(&mut two).is_pending());
    log.alter_topic("a", TopicConfig::default().partitions(2)).unwrap();
    log.maintain().unwrap();
    check(1);
    assert!(poll(&mut two).is_pending());
    log.close().unwrap();
    check(1);
    assert!(matches!(poll(&mut two), Poll::Ready(Err(Error::Closed))));
}

#[test]
fn threads_do_everything_once_and_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let done = parking_lot::Mutex::new(Vec::new());
    let work = |number: u64| {
        let mut queue = log.queue("g", "a").ack(Ack::Written).open().unwrap();
        while let Some(task) = queue.take(LONG).unwrap() {
            let value = value(&task);
            if value == "end" {
                return;
            }
            // Some are for another.
            match (task.offset().0 + number).is_multiple_of(3) && task.deliveries() < 3 {
                true => drop(task),
                false => {
                    task.accept().unwrap();
                    done.lock().push(value.parse::<u64>().unwrap());
                }
            }
        }
    };
    std::thread::scope(|scope| {
        (0..3).for_each(|number| _ = scope.spawn(move || work(number)));
        for number in 0..200_u64 {
            append(&log, &[&number.to_string()]);
        }
        // A worker that ends gives this one back.
        append(&log, &["end"]);
    });
    let mut done = done.into_inner();
    done.sort_unstable();
    assert_eq!(done, (0..200).collect::<Vec<_>>());
}
