//! A tour of the public interface, written by a new user from README and docs alone.
//!
//! Each test is one thing that a program wants from a log, and asserts what the documentation says of it.

use std::env;
use std::fs;
use std::future::Future;
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::process::{self, Command};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use chiplog::{
    Ack, Background, Clock, Durability, Error, ErrorKind, GroupOffset, Header, Log, Observer, Offset, Partition,
    Record, Recovery, Retained, RetentionReason, SegmentEvent, Synced, Timestamp, TopicConfig, TopicPartition,
};
use tempfile::tempdir;

type TestResult = Result<(), Box<dyn std::error::Error>>;

/// Longer than anything here takes, so that a wait that ends by it has failed.
const LONG: Duration = Duration::from_secs(60);

/// Where the child process finds its log. Not set in the parent.
const CHILD_DIR: &str = "CHIPLOG_NEW_USER_DIR";

/// How many records the child has acknowledged before it aborts.
const CHILD_RECORDS: u64 = 500;

/// Wakes the thread that waits in `block_on`.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor: it polls one future, and sleeps until it is woken.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// A clock that moves only when it is told to.
#[derive(Debug)]
struct HandClock(AtomicI64);

impl HandClock {
    fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(1_700_000_000_000)))
    }

    fn forward(&self, time: Duration) {
        self.0.fetch_add(time.as_millis() as i64, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst) as u64)
    }
}

/// The content of a lock, also if a thread panicked while it had it.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers what the log told it.
#[derive(Debug, Default)]
struct Diary {
    created: Mutex<Vec<Offset>>,
    sealed: Mutex<Vec<Offset>>,
    deleted: Mutex<Vec<Offset>>,
    synced: Mutex<Vec<(TopicPartition, Offset)>>,
    retained: Mutex<Vec<(Offset, u64, RetentionReason)>>,
    recovered: Mutex<Vec<(TopicPartition, Offset)>>,
    commits: Mutex<Vec<(String, usize)>>,
}

impl Observer for Diary {
    fn segment_created(&self, event: &SegmentEvent<'_>) {
        held(&self.created).push(event.base);
    }

    fn segment_sealed(&self, event: &SegmentEvent<'_>) {
        held(&self.sealed).push(event.base);
    }

    fn segment_deleted(&self, event: &SegmentEvent<'_>) {
        held(&self.deleted).push(event.base);
    }

    fn synced(&self, event: &Synced<'_>) {
        held(&self.synced).push((event.partition.clone(), event.offset));
    }

    fn recovered(&self, recovery: &Recovery<'_>) {
        held(&self.recovered).push((recovery.partition.clone(), recovery.end));
    }

    fn retention_deleted(&self, event: &Retained<'_>) {
        held(&self.retained).push((event.start, event.segments, event.reason));
    }

    fn offsets_committed(&self, group: &str, count: usize) {
        held(&self.commits).push((group.to_owned(), count));
    }
}

/// Every value of a partition from `from` on, as text.
fn values(partition: &Partition, mut from: Offset) -> chiplog::Result<Vec<String>> {
    let mut values = Vec::new();
    while from < partition.offsets().end {
        let records = partition.read(from)?;
        for record in &records {
            values.push(String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned());
        }
        from = records.next_offset();
    }
    Ok(values)
}

#[test]
fn topics_have_settings() -> TestResult {
    let dir = tempdir()?;
    let log = Log::open(dir.path())?;
    let config = TopicConfig::default()
        .partitions(3)
        .retention_time(Duration::from_secs(3600))
        .durability(Durability::Each)
        .set("segment.bytes", "1048576")?;
    let orders = log.create_topic("orders", config)?;
    assert_eq!(orders.name(), "orders");
    assert_eq!(orders.partition_count(), 3);
    assert_eq!(orders.config().get("retention.ms").as_deref(), Some("3600000"));
    assert_eq!(orders.config().get("segment.bytes").as_deref(), Some("1048576"));

    // A topic that is durable by itself needs no wait.
    let appended = orders.append(Record::new("paid").key("o-17"))?;
    let offsets = orders.partition(appended.partition())?.offsets();
    assert_eq!((offsets.synced, offsets.end), (Offset(1), Offset(1)));

    // Settings that make no sense are refused, and so is the same name again.
    let refused = log.create_topic("returns", TopicConfig::default().partitions(0)).unwrap_err();
    assert!(matches!(refused, Error::InvalidSetting { .. }));
    let refused = log.create_topic("orders", TopicConfig::default()).unwrap_err();
    assert!(matches!(&refused, Error::TopicExists { topic } if &**topic == "orders"));
    assert_eq!(refused.kind(), ErrorKind::Invalid);

    // The settings are kept with the topic.
    log.close()?;
    let log = Log::open(dir.path())?;
    let orders = log.find_topic("orders").expect("the topic was created");
    assert_eq!(orders.config(), config);
    Ok(log.close()?)
}

#[test]
fn records_are_appended_and_read() -> TestResult {
    let dir = tempdir()?;
    let log = Log::open(dir.path())?;
    // The timestamps here are of 1970, so nothing may be deleted for its age.
    let orders = log.create_topic("orders", TopicConfig::default().retention_time(None))?.partition(0)?;

    // One record, with all that a record can have.
    let headers = [Header::new("trace", "4f1d"), Header { key: "flag", value: None }, Header::new("trace", "again")];
    let record = Record::new("paid").key("o-17").headers(&headers).timestamp(Timestamp(1_000));
    let appended = orders.append(record)?;
    assert_eq!((appended.offset(), appended.last_offset()), (Offset(0), Offset(0)));
    assert_eq!((appended.partition(), appended.timestamp()), (0, Timestamp(1_000)));

    // Several as one batch, at consecutive offsets.
    let batch = [
        Record::new("packed").key("o-17").timestamp(Timestamp(2_000)),
        Record::new("sent").key("o-17").timestamp(Timestamp(3_000)),
        Record::tombstone("o-16").timestamp(Timestamp(4_000)),
    ];
    let appended = orders.append_all(batch)?;
    assert_eq!((appended.offset(), appended.last_offset()), (Offset(1), Offset(3)));

    // Only if nobody came first.
    let end = orders.offsets().end;
    let last = Record::new("received").key("o-17").timestamp(Timestamp(5_000));
    assert_eq!(orders.append_if_end(end, [last])?.offset(), Offset(4));
    let late = orders.append_if_end(end, [last]).unwrap_err();
    assert!(matches!(late, Error::EndMismatch { expected: Offset(4), actual: Offset(5) }));
    assert_eq!(late.kind(), ErrorKind::Retry);
    assert_eq!(orders.offsets().end, Offset(5));

    // A batch that breaks a rule leaves nothing behind.
    let far = Timestamp(i64::MAX);
    let refused = orders.append_all([Record::new("good"), Record::new("bad").timestamp(far)]).unwrap_err();
    assert!(matches!(refused, Error::InvalidTimestamp { index: 1, timestamp, .. } if timestamp == far));
    assert!(matches!(orders.append_all([""; 0]), Err(Error::InvalidBatch { .. })));
    assert_eq!(orders.offsets().end, Offset(5));

    // Everything comes back as it was given.
    let records = orders.read(Offset::ZERO)?;
    let first = records.iter().next().expect("there are records");
    assert_eq!((first.offset, first.timestamp), (Offset(0), Timestamp(1_000)));
    assert_eq!((first.key, first.value), (Some(&b"o-17"[..]), Some(&b"paid"[..])));
    assert_eq!(first.headers().collect::<Vec<_>>(), headers);
    let removed = records.iter().nth(3).expect("there are five records");
    assert_eq!((removed.key, removed.value), (Some(&b"o-16"[..]), None));
    assert_eq!(records.next_offset(), Offset(5));

    // From the middle of a batch on; at the end there is nothing yet, which is no error.
    let records = orders.read(Offset(2))?;
    assert_eq!(records.iter().map(|record| record.offset).collect::<Vec<_>>(), [Offset(2), Offset(3), Offset(4)]);
    let none = orders.read(Offset(5))?;
    assert!(none.is_empty());
    assert_eq!(none.next_offset(), Offset(5));

    // The last ones, and more than there are.
    let last = orders.read_last(2)?;
    let offsets: Vec<_> = last.iter().flat_map(|records| records.iter()).map(|record| record.offset).collect();
    assert_eq!(offsets, [Offset(3), Offset(4)]);
    assert_eq!(orders.read_last(100)?.iter().map(|records| records.iter().count()).sum::<usize>(), 5);

    // By time.
    assert_eq!(orders.offset_at(Timestamp(0))?, Some(Offset(0)));
    assert_eq!(orders.offset_at(Timestamp(2_500))?, Some(Offset(2)));
    assert_eq!(orders.offset_at(Timestamp(5_001))?, None);
    Ok(log.close()?)
}

#[test]
fn a_thread_follows_the_tail() -> TestResult {
    let dir = tempdir()?;
    let log = Log::open(dir.path())?;
    let orders = log.topic("orders")?.partition(0)?;
    assert!(!orders.wait_readable(Offset::ZERO, Duration::from_millis(10))?);

    // One thread waits, another polls a future; both see all records in order.
    let mut reader = orders.reader();
    let blocking = thread::spawn(move || -> chiplog::Result<Vec<Vec<u8>>> {
        let mut seen = Vec::new();
        let mut next = Offset::ZERO;
        while next < Offset(100) {
            assert!(reader.partition().wait_readable(next, LONG)?);
            let records = reader.read(next)?;
            seen.extend(records.iter().filter_map(|record| record.value).map(<[u8]>::to_vec));
            next = records.next_offset();
        }
        Ok(seen)
    });
    let followed = orders.clone();
    let polling = thread::spawn(move || {
        block_on(async move {
            let mut seen = Vec::new();
            let mut next = Offset::ZERO;
            while next < Offset(100) {
                followed.readable(next).await?;
                let records = followed.read(next)?;
                seen.extend(records.iter().filter_map(|record| record.value).map(<[u8]>::to_vec));
                next = records.next_offset();
            }
            Ok::<_, Error>(seen)
        })
    });

    let mut expected = Vec::new();
    for number in 0..100 {
        let value = format!("order {number}");
        orders.append(&value)?;
        expected.push(value.into_bytes());
        if number % 10 == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    assert_eq!(blocking.join().expect("the thread does not panic")?, expected);
    assert_eq!(polling.join().expect("the thread does not panic")?, expected);
    Ok(log.close()?)
}

#[test]
fn a_sync_can_be_waited_for() -> TestResult {
    let dir = tempdir()?;
    let log = Log::open(dir.path())?;
    let orders = log.topic("orders")?.partition(0)?;

    // Written is true at once, synced has to be waited for.
    let appended = orders.append("paid")?;
    appended.wait(Ack::Written)?;
    appended.wait(Ack::Synced)?;
    assert_eq!(orders.offsets().synced, Offset(1));

    // As a future, the log's own thread does the sync.
    block_on(orders.append("packed")?.acked(Ack::Written))?;
    block_on(orders.append("sent")?.acked(Ack::Synced))?;
    assert_eq!(orders.offsets().synced, Offset(3));
    log.close()?;

    // Without that thread, the next maintenance does it.
    let log = Log::builder(dir.path()).background(Background::Caller).open()?;
    let orders = log.topic("orders")?.partition(0)?;
    let acked = orders.append("received")?.acked(Ack::Synced);
    assert_eq!(orders.offsets().synced, Offset(3));
    let waiting = thread::spawn(move || block_on(acked));
    while orders.offsets().synced < Offset(4) {
        let next = log.maintain()?.next;
        if orders.offsets().synced < Offset(4) {
            assert!(log.wait_due(next.max(LONG))?, "who waits does not ring");
        }
    }
    waiting.join().expect("the thread does not panic")?;
    assert_eq!(orders.offsets().synced, Offset(4));
    Ok(log.close()?)
}

#[test]
fn a_group_goes_on_where_it_was() -> TestResult {
    let dir = tempdir()?;
    let log = Log::open(dir.path())?;
    let orders = log.create_topic("orders", TopicConfig::default().partitions(2))?;
    for number in 0..2 {
        orders.partition(number)?.append_all([Record::new("one"), Record::new("two"), Record::new("three")])?;
    }
    let billing = log.group("billing")?;
    assert_eq!(billing.committed("orders", 0)?, None);
    billing.commit("orders", 0, Offset(3))?;
    billing.commit_all(&[
        GroupOffset::new("orders", 0, Offset(1)).metadata("by worker 7"),
        GroupOffset::new("orders", 1, Offset(2)),
    ])?;

    // Metadata that is too long is refused, and changes nothing.
    let long = "x".repeat(5_000);
    let refused = billing.commit_all(&[GroupOffset::new("orders", 0, Offset(3)).metadata(&long)]).unwrap_err();
    assert!(matches!(refused, Error::TooLong { len: 5_000, limit: 4_096, .. }));
    log.close()?;

    let log = Log::open(dir.path())?;
    assert_eq!(log.groups()?, ["billing"]);
    let billing = log.group("billing")?;
    let committed = billing.committed("orders", 0)?.expect("an offset was committed");
    assert_eq!((committed.offset, &*committed.metadata), (Offset(1), "by worker 7"));
    assert!(committed.commit_timestamp.is_some());
    let orders = log.topic("orders")?;
    let mut rest = Vec::new();
    for (at, committed) in billing.offsets()? {
        assert_eq!(&*at.topic, "orders");
        rest.push(values(&orders.partition(at.partition)?, committed.offset)?);
    }
    assert_eq!(rest, [vec!["two", "three"], vec!["three"]]);

    billing.delete()?;
    assert!(log.groups()?.is_empty());
    Ok(log.close()?)
}

#[test]
fn old_records_go_by_size() -> TestResult {
    let dir = tempdir()?;
    let clock = HandClock::new();
    let diary = Arc::new(Diary::default());
    let log = Log::builder(dir.path())
        .background(Background::Caller)
        .retention_interval(Duration::from_secs(1))
        .clock(clock.clone())
        .observer(diary.clone())
        .open()?;
    let config = TopicConfig::default().segment_bytes(1_024).retention_bytes(4_096);
    let orders = log.create_topic("orders", config)?.partition(0)?;
    for number in 0..100 {
        orders.append(&format!("{number:0100}"))?;
    }
    let before = orders.segments();
    let oldest = before[0].path().to_owned();
    assert!(before.iter().map(|segment| segment.len()).sum::<u64>() > 10_000);
    assert!(oldest.exists());

    clock.forward(Duration::from_secs(2));
    let maintained = log.maintain()?;
    let after = orders.segments();
    assert!(maintained.removed > 0);
    assert_eq!(before.len() - after.len(), maintained.removed as usize);

    // The limit is kept, and at most one segment more.
    let kept: u64 = after.iter().map(|segment| segment.len()).sum();
    assert!((4_096..4_096 + 1_024).contains(&kept), "{kept} bytes are left");
    let offsets = orders.offsets();
    assert_eq!(offsets.start, after[0].base());
    assert_eq!(offsets.end, Offset(100));
    assert!(!oldest.exists());

    // Whoever comes for the old ones learns both bounds, and can go on.
    let Err(Error::OffsetOutOfRange { requested, start, end }) = orders.read(Offset::ZERO) else {
        panic!("the first record was removed");
    };
    assert_eq!((requested, start, end), (Offset(0), offsets.start, Offset(100)));
    let left = values(&orders, start)?;
    assert_eq!(left.len() as u64, end - start);
    assert_eq!(left[0], format!("{:0100}", start.0));

    let retained = held(&diary.retained);
    assert_eq!(retained.last(), Some(&(offsets.start, maintained.removed, RetentionReason::Size)));
    assert_eq!(held(&diary.deleted).len() as u64, maintained.removed);
    Ok(log.close()?)
}

#[test]
fn old_records_go_by_age() -> TestResult {
    let dir = tempdir()?;
    let clock = HandClock::new();
    let diary = Arc::new(Diary::default());
    let log = Log::builder(dir.path())
        .background(Background::Caller)
        .retention_interval(Duration::from_secs(1))
        .clock(clock.clone())
        .observer(diary.clone())
        .open()?;
    let hour = Duration::from_secs(3_600);
    let config = TopicConfig::default().segment_bytes(1_024).retention_time(hour);
    let orders = log.create_topic("orders", config)?.partition(0)?;
    for number in 0..20 {
        orders.append(&format!("{number:0100}"))?;
    }

    // Half an hour is not too old.
    clock.forward(hour / 2);
    assert_eq!(log.maintain()?.removed, 0);
    assert_eq!(orders.offsets().start, Offset(0));

    // One and a half is, and even the segment that is being written goes.
    clock.forward(hour);
    assert!(log.maintain()?.removed > 0);
    let offsets = orders.offsets();
    assert_eq!((offsets.start, offsets.end), (Offset(20), Offset(20)));
    assert!(matches!(
        orders.read(Offset(19)),
        Err(Error::OffsetOutOfRange { requested: Offset(19), start: Offset(20), end: Offset(20) })
    ));
    assert!(held(&diary.retained).iter().all(|(_, _, reason)| *reason == RetentionReason::Age));

    // Offsets go on from where they were.
    assert_eq!(orders.append("new")?.offset(), Offset(20));
    assert_eq!(values(&orders, Offset(20))?, ["new"]);
    Ok(log.close()?)
}

#[test]
fn the_start_can_be_raised() -> TestResult {
    let dir = tempdir()?;
    let log = Log::open(dir.path())?;
    let orders = log.topic("orders")?.partition(0)?;
    for number in 0..10 {
        orders.append(&number.to_string())?;
    }
    let kept = orders.read(Offset::ZERO)?;
    log.delete_before("orders", 0, Offset(5))?;
    log.delete_before("orders", 0, Offset(3))?;
    assert_eq!(orders.offsets().start, Offset(5));
    assert_eq!(values(&orders, Offset(5))?, ["5", "6", "7", "8", "9"]);
    assert_eq!(kept.iter().count(), 10);

    // Below the start, above the end, and the same for a start that does not exist yet.
    let below = orders.read(Offset(4)).unwrap_err();
    assert!(matches!(below, Error::OffsetOutOfRange { requested: Offset(4), start: Offset(5), end: Offset(10) }));
    assert_eq!(below.kind(), ErrorKind::OutOfRange);
    let above = orders.read(Offset(11)).unwrap_err();
    assert!(matches!(above, Error::OffsetOutOfRange { requested: Offset(11), start: Offset(5), end: Offset(10) }));
    let above = log.delete_before("orders", 0, Offset(11)).unwrap_err();
    assert!(matches!(above, Error::OffsetOutOfRange { requested: Offset(11), .. }));

    // It survives.
    log.close()?;
    let log = Log::open(dir.path())?;
    assert_eq!(log.topic("orders")?.partition(0)?.offsets().start, Offset(5));
    Ok(log.close()?)
}

/// Not a test of its own: what the child process of the next one runs. It ends without closing anything.
#[test]
fn child_that_aborts() -> TestResult {
    let Some(dir) = env::var_os(CHILD_DIR) else {
        return Ok(());
    };
    let log = Log::open(dir)?;
    let orders = log.topic_with("orders", TopicConfig::default().segment_bytes(16 << 10))?.partition(0)?;
    for number in 0..CHILD_RECORDS {
        let appended = orders.append(&format!("order {number}"))?;
        if number == CHILD_RECORDS / 2 {
            appended.wait(Ack::Synced)?;
        }
    }
    let committed = GroupOffset::new("orders", 0, Offset(CHILD_RECORDS - 2)).metadata("before the end");
    log.group("billing")?.commit_all(&[committed])?;
    process::abort();
}

#[test]
fn what_was_acknowledged_survives_an_abort() -> TestResult {
    let dir = tempdir()?;
    let data = dir.path().join("log");
    let status = Command::new(env::current_exe()?)
        .args(["--exact", "new_user::child_that_aborts"])
        .env(CHILD_DIR, &data)
        .output()?
        .status;
    assert_eq!(status.signal(), Some(6), "the child has to end by SIGABRT");

    let diary = Arc::new(Diary::default());
    let log = Log::builder(&data).observer(diary.clone()).strict().open()?;
    assert!(log.damaged().is_empty());
    let orders = log.topic("orders")?.partition(0)?;
    assert_eq!(orders.offsets().end, Offset(CHILD_RECORDS));
    let expected: Vec<_> = (0..CHILD_RECORDS).map(|number| format!("order {number}")).collect();
    assert_eq!(values(&orders, Offset::ZERO)?, expected);
    let committed = log.group("billing")?.committed("orders", 0)?.expect("an offset was committed");
    assert_eq!((committed.offset, &*committed.metadata), (Offset(CHILD_RECORDS - 2), "before the end"));
    let recovered = (TopicPartition::new("orders", 0), Offset(CHILD_RECORDS));
    assert!(held(&diary.recovered).contains(&recovered));

    // The log goes on, and an orderly close leaves its mark.
    assert_eq!(orders.append("one more")?.offset(), Offset(CHILD_RECORDS));
    assert!(!fs::exists(data.join("clean"))?);
    log.close()?;
    assert!(fs::exists(data.join("clean"))?);
    held(&diary.recovered).clear();
    let log = Log::builder(&data).observer(diary.clone()).strict().open()?;
    assert!(held(&diary.recovered).is_empty());
    assert_eq!(values(&log.topic("orders")?.partition(0)?, Offset(CHILD_RECORDS))?, ["one more"]);
    Ok(log.close()?)
}

#[test]
fn the_log_can_be_watched() -> TestResult {
    let dir = tempdir()?;
    let diary = Arc::new(Diary::default());
    let log = Log::builder(dir.path()).background(Background::Caller).observer(diary.clone()).open()?;
    let orders = log.create_topic("orders", TopicConfig::default().segment_bytes(1_024))?.partition(0)?;
    for number in 0..20 {
        // A batch of its own: small records that are appended alone may share one.
        orders.append_all([&*format!("{number:0100}")])?;
    }
    orders.append_all([Record::new("one"), Record::new("two")])?;
    log.sync()?;
    log.group("billing")?.commit("orders", 0, Offset(7))?;

    let stats = log.stats()?;
    let topic = stats.topics.iter().find(|topic| topic.name == "orders").expect("the topic is listed");
    let counts = &topic.partitions[0];
    assert_eq!((counts.appended_batches, counts.appended_records), (21, 22));
    assert_eq!((counts.start, counts.synced, counts.end), (Offset(0), Offset(22), Offset(22)));
    assert_eq!(counts.segments as usize, orders.segments().len());
    assert_eq!(counts.bytes, orders.segments().iter().map(|segment| segment.len()).sum::<u64>());
    assert_eq!(counts.appended_bytes, counts.bytes);
    assert_eq!(counts.syncs.count(), 1);
    assert!(counts.syncs.max() >= counts.syncs.mean());
    assert!(stats.free_bytes > 0);
    assert_eq!(stats.damaged_partitions, 0);

    let created: Vec<_> = orders.segments().iter().map(|segment| segment.base()).collect();
    assert!(created.len() > 1);
    let sealed = held(&diary.sealed);
    assert_eq!(*sealed, created[..created.len() - 1]);
    for base in created {
        assert!(held(&diary.created).contains(&base));
    }
    assert!(held(&diary.synced).contains(&(TopicPartition::new("orders", 0), Offset(22))));
    assert_eq!(*held(&diary.commits), [("billing".to_owned(), 1)]);
    Ok(log.close()?)
}

#[test]
fn a_closed_log_refuses() -> TestResult {
    let dir = tempdir()?;
    let log = Log::open(dir.path())?;
    let handle = log.clone();
    let topic = log.topic("orders")?;
    let orders = topic.partition(0)?;
    let billing = log.group("billing")?;
    orders.append("paid")?;
    let kept = orders.read(Offset::ZERO)?;
    assert!(matches!(Log::open(dir.path()), Err(Error::Locked { .. })));

    // Who waits for more is told.
    let waiting = orders.clone();
    let waiting = thread::spawn(move || waiting.wait_readable(Offset(1), LONG));
    let polling = orders.readable(Offset(1));
    let polling = thread::spawn(move || block_on(polling));
    log.close()?;
    assert!(matches!(waiting.join().expect("the thread does not panic"), Err(Error::Closed)));
    assert!(matches!(polling.join().expect("the thread does not panic"), Err(Error::Closed)));

    let refused = orders.append("sent").unwrap_err();
    assert!(matches!(refused, Error::Closed));
    assert_eq!(refused.kind(), ErrorKind::Closed);
    assert!(matches!(topic.append("sent"), Err(Error::Closed)));
    assert!(matches!(orders.read(Offset::ZERO), Err(Error::Closed)));
    assert!(matches!(orders.wait_readable(Offset(1), LONG), Err(Error::Closed)));
    assert!(matches!(billing.commit("orders", 0, Offset(1)), Err(Error::Closed)));
    assert!(matches!(billing.committed("orders", 0), Err(Error::Closed)));
    assert!(matches!(handle.topic("orders"), Err(Error::Closed)));
    assert!(matches!(handle.create_topic("returns", TopicConfig::default()), Err(Error::Closed)));
    assert!(matches!(handle.delete_before("orders", 0, Offset(1)), Err(Error::Closed)));
    assert!(matches!(orders.sync(), Err(Error::Closed)));
    assert!(matches!(handle.sync(), Err(Error::Closed)));
    assert!(matches!(handle.maintain(), Err(Error::Closed)));
    assert!(matches!(handle.stats(), Err(Error::Closed)));
    assert!(matches!(handle.groups(), Err(Error::Closed)));
    assert!(matches!(handle.close(), Err(Error::Closed)));

    // What was read stays, and the directory can be opened again beside the old handles.
    assert_eq!(kept.iter().next().expect("it was read before").value, Some(&b"paid"[..]));
    let log = Log::open(dir.path())?;
    assert_eq!(values(&log.topic("orders")?.partition(0)?, Offset::ZERO)?, ["paid"]);
    Ok(log.close()?)
}
