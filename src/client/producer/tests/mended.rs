//! What went wrong once, and the ways that nobody had gone.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::client::Delivered;
use crate::group::{JoinGroup, Protocol, Request};

/// Longer than anything takes that happens at all.
const PATIENCE: Duration = Duration::from_secs(60);

/// What callbacks were told, in order.
type Told = Arc<Mutex<Vec<(&'static str, Option<u64>)>>>;

/// A callback that writes down what it is told, and panics then if its name says so.
fn note(told: &Told, name: &'static str) -> impl FnOnce(crate::Result<Delivered>) + Send + 'static {
    let told = Arc::clone(told);
    move |delivered| {
        told.lock().push((name, delivered.ok().map(|delivered| delivered.offset.0)));
        assert!(!name.starts_with("panics"), "a mistake in a callback");
    }
}

fn send_with(producer: &Producer, topic: &str, told: &Told, name: &'static str) {
    producer.send_with(Record::new(name).to(topic), note(told, name)).unwrap();
}

fn panics(what: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(what)).is_err()
}

/// Wakes whoever receives.
struct Notify(mpsc::Sender<()>);

impl Wake for Notify {
    fn wake(self: Arc<Self>) {
        let _ = self.0.send(());
    }
}

/// A batch that there was no space for was to be tried again, and maintenance was not told when: without linger it came when it
/// came for something else.
#[test]
fn a_full_disk_without_linger_is_tried_again_when_maintenance_is_told() {
    let (disk, log) = log();
    let producer = log.producer().linger(Duration::ZERO).build().unwrap();
    log.maintain().unwrap();
    while log.wait_due(Duration::ZERO).unwrap() {}
    disk.set_free(Some(0));
    let sent = send(&producer, "value");
    assert!(sent.told().is_none(), "{:?}", sent.told());
    assert!(log.wait_due(Duration::ZERO).unwrap(), "who maintains is told");
    disk.set_free(None);
    assert!(log.maintain().unwrap().next <= AGAIN);
    assert!(sent.told().is_none(), "it is not due yet");
    disk.clock().advance(AGAIN);
    log.maintain().unwrap();
    assert_eq!(sent.told().unwrap().unwrap().offset, Offset(0));
}

/// The same of a record that is too long for a batch, which is appended by its send.
#[test]
fn a_full_disk_is_tried_again_for_a_long_record_too() {
    let (disk, log) = log();
    let producer = small(&log).linger(LONG).build().unwrap();
    log.maintain().unwrap();
    while log.wait_due(Duration::ZERO).unwrap() {}
    disk.set_free(Some(0));
    let sent = send(&producer, &"x".repeat(500));
    disk.set_free(None);
    assert!(sent.told().is_none() && log.wait_due(Duration::ZERO).unwrap());
    disk.clock().advance(AGAIN);
    log.maintain().unwrap();
    assert!(sent.told().unwrap().is_ok());
}

/// Tasks were woken only by the thread that called callbacks. One that waited for a task's record waited for itself.
#[test]
fn a_callback_may_wait_for_a_record_of_its_partition_as_a_task() {
    let (disk, log) = log();
    let producer = log.producer().build().unwrap();
    let (sender, (begin, begun)) = (producer.clone(), mpsc::channel());
    let wait = move |_: crate::Result<Delivered>| {
        let (wake, woken) = mpsc::channel();
        let waker = Waker::from(Arc::new(Notify(wake)));
        let mut sent = sender.send(Record::new("two").to("t")).unwrap();
        assert!(Pin::new(&mut sent).poll(&mut Context::from_waker(&waker)).is_pending());
        begin.send(()).unwrap();
        woken.recv_timeout(PATIENCE).expect("the task is woken");
        assert_eq!(sent.told().unwrap().unwrap().offset, Offset(1));
    };
    producer.send_with(Record::new("one").to("t"), wait).unwrap();
    thread::scope(|scope| {
        let flushing = scope.spawn(|| producer.flush().unwrap());
        begun.recv_timeout(PATIENCE).unwrap();
        disk.clock().advance(LINGER);
        log.maintain().unwrap();
        flushing.join().unwrap();
    });
}

/// One that panicked took those behind it with it, of its batch and of the next ones.
#[test]
fn a_callback_that_panics_keeps_nobody_from_being_told() {
    let (_disk, log) = log();
    let producer = log.producer().build().unwrap();
    let told = Told::default();
    for name in ["one", "panics", "three"] {
        send_with(&producer, "t", &told, name);
    }
    let mut task = send(&producer, "task");
    let (wake, woken) = mpsc::channel();
    let waker = Waker::from(Arc::new(Notify(wake)));
    assert!(Pin::new(&mut task).poll(&mut Context::from_waker(&waker)).is_pending());
    assert!(panics(|| drop(producer.flush())), "who appends hears of it");
    assert_eq!(*told.lock(), [("one", Some(0)), ("panics", Some(1)), ("three", Some(2))]);
    woken.try_recv().unwrap();
    send_with(&producer, "t", &told, "next");
    producer.flush().unwrap();
    assert_eq!(told.lock().last(), Some(&("next", Some(4))));
}

/// It also kept the log from closing, and partitions behind it from being appended to.
#[test]
fn a_callback_that_panics_at_the_end_keeps_nothing_from_it() {
    type Act = fn(Log, Producer);
    let ends: [Act; 2] = [|log, _producer| log.close().unwrap(), |_log, producer| drop(producer)];
    for end in ends {
        let (disk, log) = log();
        log.create_topic("u", TopicConfig::default()).unwrap();
        let producer = log.producer().build().unwrap();
        let told = Told::default();
        for (topic, name) in [("t", "panics"), ("u", "panics, too"), ("u", "last")] {
            send_with(&producer, topic, &told, name);
        }
        end(log, producer);
        assert_eq!(*told.lock(), [("panics", Some(0)), ("panics, too", Some(0)), ("last", Some(1))]);
        assert!(builder(&disk, Staging::Off).open().is_ok(), "it is closed");
    }
}

/// When the log's own thread ended so, nobody was left to append what lingered: who waited for that, or for an answer of a
/// group's coordinator, waited for ever. Real threads, disk and clock.
#[test]
fn a_panic_on_the_thread_of_the_log_is_told_to_all_who_wait() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    log.topic("t").unwrap();
    let mut join = JoinGroup::new("billing", 7);
    join.needs_member_id = false;
    join.protocols = vec![Protocol { name: "range".into(), metadata: (*b"t").into() }];
    let mut joined = log.ask_coordinator(Request::Join(join));
    let (tell, told) = mpsc::channel();
    let patient = log.producer().linger(LONG).build().unwrap();
    let tell_it = move |delivered: crate::Result<Delivered>| tell.send(delivered).unwrap();
    patient.send_with(Record::new("kept").to("t"), tell_it).unwrap();
    let producer = log.producer().build().unwrap();
    send_with(&producer, "t", &Told::default(), "panics");
    let told = told.recv_timeout(PATIENCE).expect("it is told");
    assert!(matches!(told, Err(Error::Poisoned { .. })), "{told:?}");
    let joined = joined.wait_for(PATIENCE);
    assert!(matches!(joined, Some(Err(Error::Closed))), "{joined:?}");
    assert!(matches!(patient.send(Record::new("late").to("t")), Err(Error::Closed)));
}

/// A producer kept the files of a deleted topic open, and its lanes for each time that it was made again.
#[test]
fn a_topic_that_is_deleted_is_let_go_of() {
    let config = TopicConfig::default().partitions(3);
    let (_disk, log) = log_with(config);
    let producer = log.producer().build().unwrap();
    for _ in 0..5 {
        send(&producer, "value").wait().unwrap();
        let cores: Vec<_> = (0..3)
            .map(|number| Arc::downgrade(&log.find_topic("t").unwrap().partition(number).unwrap().core))
            .collect();
        log.delete_topic("t").unwrap();
        assert!(cores.iter().all(|core| core.upgrade().is_none()));
        log.create_topic("t", config).unwrap();
    }
    send(&producer, "value").wait().unwrap();
    assert_eq!(producer.owner.shared.topics.lanes().len(), 3);
    assert_eq!(producer.kept_bytes(), 0);
}

#[test]
fn a_topic_that_is_deleted_tells_records_that_are_not_synced() {
    let (_disk, log) = log();
    let producer = log.producer().batch_bytes(0).acks(Ack::Synced).build().unwrap();
    let sent = send(&producer, "value");
    assert_eq!((end(&log), sent.told().is_none()), (1, true));
    log.delete_topic("t").unwrap();
    log.maintain().unwrap();
    assert!(matches!(sent.told(), Some(Err(Error::TopicDeleted { .. }))), "{:?}", sent.told());
}

/// `acks` and others were taken, and nothing came of them.
#[test]
fn settings_that_a_producer_has_no_use_for_are_refused() {
    let (_disk, log) = log();
    let of_batches: [fn(ProducerBuilder) -> ProducerBuilder; 9] = [
        |builder| builder.linger(Duration::ZERO),
        |builder| builder.batch_bytes(1),
        |builder| builder.buffer_bytes(1 << 20),
        |builder| builder.max_block(Duration::ZERO),
        |builder| builder.delivery_timeout(Duration::ZERO),
        |builder| builder.acks(Ack::Synced),
        |builder| builder.partitioner(Partitioning::Crc32),
        |builder| builder.compression(Compression::new(Codec::Lz4)),
        |builder| builder.numbered(false),
    ];
    let mut keys = std::collections::BTreeSet::new();
    for set in of_batches {
        for refused in [set(log.producer()).idempotent().map(drop), set(log.producer()).transactional("id").map(drop)]
        {
            let Err(Error::InvalidSetting { key, allowed, .. }) = refused else { panic!("{refused:?}") };
            assert!(allowed.contains("gathers records"), "{allowed}");
            keys.insert(key);
        }
    }
    assert_eq!(keys.len(), of_batches.len());
    let timed = || log.producer().transaction_timeout(Duration::from_secs(1));
    assert!(matches!(timed().idempotent(), Err(Error::InvalidSetting { .. })));
    assert!(matches!(timed().build(), Err(Error::InvalidSetting { .. })));
    assert!(timed().transactional("id").is_ok());
}

/// The buffer of such a batch could not be allocated, and the process was aborted.
#[test]
fn a_batch_is_no_longer_than_any_batch_can_be() {
    let (_disk, log) = log();
    let huge = log.producer().buffer_bytes(1 << 41).batch_bytes(1 << 40);
    let refused = huge.build();
    assert!(matches!(&refused, Err(Error::InvalidSetting { key, .. }) if &**key == "batch.size"), "{refused:?}");
}

/// The partition is the first byte of the key.
struct ByKey;

impl Partitioner for ByKey {
    fn partition(&self, record: &Unplaced<'_>) -> u32 {
        u32::from(record.key().unwrap()[0])
    }
}

/// A thread that had got memory for a batch lost it if a callback panicked before it began one.
#[test]
fn memory_is_given_back_when_a_callback_panics() {
    let (_disk, log) = log_with(TopicConfig::default().partitions(8));
    let by_key = Partitioning::Custom(Arc::new(ByKey));
    let producer = small(&log).linger(LONG).partitioner(by_key).build().unwrap();
    let value = "x".repeat(100);
    let sender = producer.clone();
    let inner = value.clone();
    // The first of those that go to make room: it takes some of that for a batch where the sender wants to begin one.
    let meddle = move |_: crate::Result<Delivered>| {
        let panics = |_: crate::Result<Delivered>| panic!("a mistake in a callback");
        sender.send_with(Record::new(&*inner).key(&[0]).to("t"), panics).unwrap();
    };
    producer.send_with(Record::new(&*value).key(&[1]).to("t"), meddle).unwrap();
    for partition in 2..=5 {
        producer.send(Record::new(&*value).key(&[partition]).to("t")).unwrap();
    }
    assert_eq!(producer.kept_bytes(), 1_000);
    assert!(panics(|| drop(producer.send(Record::new(&*value).key(&[0]).to("t")))));
    producer.flush().unwrap();
    assert_eq!(producer.kept_bytes(), 0);
}

/// A close appends what clients kept, and then takes no more. What a producer took in between, that was made in between, was
/// never told.
#[test]
fn a_producer_that_is_made_while_the_log_closes_is_told() {
    let (_disk, log) = log();
    let producer = log.producer().build().unwrap();
    let (keep, kept) = mpsc::channel();
    let ours = log.clone();
    let late = move |_: crate::Result<Delivered>| {
        let late = ours.producer().linger(LONG).build().unwrap();
        let sent = late.send(Record::new("late").to("t")).unwrap();
        keep.send((late, sent)).unwrap();
    };
    producer.send_with(Record::new("kept").to("t"), late).unwrap();
    log.close().unwrap();
    let (_late, sent) = kept.try_recv().unwrap();
    assert!(matches!(sent.told(), Some(Err(Error::Closed))), "{:?}", sent.told());
}

/// A producer with a sync that could not begin did not know the time of its record, and told none.
#[test]
fn the_time_of_a_record_that_was_not_synced_is_told_when_it_is_sent_again() {
    let mut found = 0;
    for call in 0..30 {
        // A roll comes before the sync, so that there is a directory to be opened.
        let config = TopicConfig::default().segment_bytes(300).set("flush.messages", "9").unwrap();
        let (disk, log) = log_with(config);
        let mut producer = log.producer().idempotent().unwrap();
        (0..8).for_each(|_| drop(partition(&log).append("before").unwrap()));
        disk.inject(disk.calls() + call, Fault::Error(Errno::TooManyFiles), Times::Once);
        let refused = producer.send(Record::new("value").to("t")).map(drop);
        disk.heal();
        if !matches!(refused, Err(Error::NotSynced { .. })) || partition(&log).append("behind").is_err() {
            continue;
        }
        found += 1;
        let again = producer.retry(Record::new("value").to("t")).unwrap();
        let stored = partition(&log).read(Offset(8)).unwrap().iter().next().unwrap().timestamp;
        assert_eq!((again.offset(), again.is_duplicate(), again.timestamp()), (Offset(8), true, stored));
        assert!(stored.is_some());
    }
    assert!(found > 0, "no sync failed before it began");
}

/// Each partition was synced before the next one was appended to.
#[test]
fn a_flush_appends_all_before_it_syncs_any() {
    let (_disk, log) = log();
    log.create_topic("u", TopicConfig::default()).unwrap();
    let producer = log.producer().acks(Ack::Synced).build().unwrap();
    let ends = Arc::new(Mutex::new(Vec::new()));
    for (topic, other) in [("t", "u"), ("u", "t")] {
        let (ends, other) = (Arc::clone(&ends), log.find_topic(other).unwrap().partition(0).unwrap());
        let note = move |_: crate::Result<Delivered>| ends.lock().push(other.offsets().end.0);
        producer.send_with(Record::new("value").to(topic), note).unwrap();
    }
    producer.flush().unwrap();
    assert_eq!(*ends.lock(), [1, 1]);
}

#[test]
fn callbacks_may_flush_close_and_drop_the_producer() {
    let acts: [fn(Producer); 3] = [|it| it.flush().unwrap(), |it| it.close().unwrap(), drop];
    for act in acts {
        let (disk, log) = log();
        let producer = log.producer().build().unwrap();
        let slot = Arc::new(Mutex::new(None::<Producer>));
        let (taken, (tell, told)) = (Arc::clone(&slot), mpsc::channel());
        let callback = move |delivered: crate::Result<Delivered>| {
            let producer = taken.lock().take().unwrap();
            act(producer);
            tell.send(delivered.unwrap().offset).unwrap();
        };
        producer.send_with(Record::new("one").to("t"), callback).unwrap();
        let of_batch = send(&producer, "two");
        let elsewhere = producer.send(Record::new("three").to("u")).unwrap();
        *slot.lock() = Some(producer);
        disk.clock().advance(LINGER);
        log.maintain().unwrap();
        assert_eq!(told.try_recv().unwrap(), Offset(0));
        assert_eq!(of_batch.told().unwrap().unwrap().offset, Offset(1));
        assert_eq!(elsewhere.told().unwrap().unwrap().offset, Offset(0));
    }
}

/// Real threads: one waits for memory until its time is over, by the log's clock.
#[test]
fn a_thread_that_waits_for_memory_gives_up_after_max_block() {
    let (disk, log) = log();
    let producer = small(&log).max_block(LONG).delivery_timeout(Duration::MAX).build().unwrap();
    disk.set_free(Some(0));
    (0..5).for_each(|_| drop(send(&producer, &"x".repeat(100))));
    assert_eq!(producer.kept_bytes(), 1_000);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| producer.send(Record::new(&"x".repeat(100)).to("t")).map(drop));
        while !waiting.is_finished() {
            disk.clock().advance(LONG / 1_000);
            thread::yield_now();
        }
        let refused = waiting.join().unwrap();
        assert!(matches!(refused, Err(Error::BufferFull { limit: 1_000, .. })), "{refused:?}");
    });
    disk.set_free(None);
    producer.flush().unwrap();
    assert_eq!(end(&log), 5);
}

/// Documented, for want of a way to tell them apart at a price that each batch would not pay.
#[test]
fn a_batch_fails_whole_if_a_rule_changed_that_one_of_its_records_breaks() {
    let (_disk, log) = log();
    let producer = log.producer().build().unwrap();
    let right = producer.send(Record::new("right").key("k").to("t")).unwrap();
    let wrong = send(&producer, "without a key");
    log.alter_topic("t", TopicConfig::default().cleanup(Cleanup::Compact)).unwrap();
    for sent in [right, wrong] {
        assert!(matches!(sent.wait(), Err(Error::InvalidRecord { index: 1, .. })), "{:?}", sent.told());
    }
    assert_eq!(end(&log), 0);
}
