//! What a producer promises, one thing at a time, on a simulated disk and clock.

#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers of tests fail as tests do")]

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use super::sent::AGAIN;
use super::{Producer, ProducerBuilder};
use crate::client::Sent;
use crate::config::{Cleanup, Compression as TopicCompression, TimestampType, TopicConfig};
use crate::error::{Error, ErrorKind};
use crate::log::{Background, Log, LogBuilder, Partitioner, Partitioning, Staging, Unplaced};
use crate::partition::{Ack, Partition, ReadOptions};
use crate::record::{BatchHeader, Codec, Compression, Record};
use crate::segment::pool::Layout;
use crate::sim::{DiskOptions, Errno, Fault, SimDisk, SimEntropy, Times};
use crate::types::Offset;

mod mended;
mod random;

/// Little slots, so that they are full.
const LAYOUT: Layout = Layout { slot_len: 2048, slot_count: 4, batch_len: 300, stride: 256 };
/// Two lives of a log must not draw the same ids.
static OPENED: AtomicU64 = AtomicU64::new(1);
const LINGER: Duration = Duration::from_millis(5);
const LONG: Duration = Duration::from_secs(600);

fn builder(disk: &Arc<SimDisk>, staging: Staging) -> LogBuilder {
    let (clock, disk) = (disk.clock(), Arc::clone(disk));
    let entropy = Arc::new(SimEntropy::new(OPENED.fetch_add(1, Ordering::Relaxed)));
    let builder = Log::builder("/log").disk(disk).clock(clock).entropy(entropy);
    builder.background(Background::Caller).staging(staging).layout(LAYOUT)
}

/// A log with the topic `t` of so many partitions.
fn log_with(config: TopicConfig) -> (Arc<SimDisk>, Log) {
    let disk = SimDisk::new(DiskOptions::default());
    let log = builder(&disk, Staging::Off).open().unwrap();
    log.create_topic("t", config).unwrap();
    (disk, log)
}

fn log() -> (Arc<SimDisk>, Log) {
    log_with(TopicConfig::default())
}

fn partition(log: &Log) -> Partition {
    log.find_topic("t").unwrap().partition(0).unwrap()
}

fn end(log: &Log) -> u64 {
    partition(log).offsets().end.0
}

fn send(producer: &Producer, value: &str) -> Sent {
    producer.send(Record::new(value).to("t")).unwrap()
}

/// Small batches, so that their ends are near.
fn small(log: &Log) -> ProducerBuilder {
    log.producer().batch_bytes(200).buffer_bytes(1_000).max_block(Duration::ZERO)
}

/// All records of a partition.
fn values(partition: &Partition) -> Vec<(Offset, Option<String>, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (mut found, mut from) = (Vec::new(), partition.offsets().start);
    while from < partition.offsets().end {
        let records = partition.read(from).unwrap();
        found.extend(
            records
                .iter()
                .map(|record| (record.offset, record.key.map(text), text(record.value.unwrap_or_default()))),
        );
        from = records.next_offset();
    }
    found
}

fn texts(log: &Log) -> Vec<String> {
    values(&partition(log)).into_iter().map(|(_, _, value)| value).collect()
}

/// The headers of the batches of a partition.
fn batches(partition: &Partition) -> Vec<BatchHeader> {
    let (mut found, mut from) = (Vec::new(), Offset::ZERO);
    while from < partition.offsets().end {
        let batches = partition.fetch(from, ReadOptions::default()).unwrap();
        let mut bytes = batches.bytes();
        while !bytes.is_empty() {
            let header = BatchHeader::read(bytes).unwrap();
            bytes = &bytes[header.batch_len as usize..];
            from = header.next_offset();
            found.push(header);
        }
    }
    found
}

fn is_pending(sent: &mut Sent) -> bool {
    Pin::new(sent).poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

#[test]
fn records_wait_for_others_until_one_does_not_fit() {
    let (_disk, log) = log();
    let producer = small(&log).build().unwrap();
    let sent: Vec<_> = (0..3).map(|_| send(&producer, &"x".repeat(50))).collect();
    assert_eq!((end(&log), sent[1].told().is_some()), (2, true), "two of 57 bytes, and a header of 61");
    assert!(sent[2].told().is_none());
    assert_eq!(producer.kept_bytes(), 200);
    producer.flush().unwrap();
    assert_eq!((end(&log), producer.kept_bytes()), (3, 0));
    assert_eq!(batches(&partition(&log)).len(), 2);
    let offsets: Vec<_> = sent.iter().map(|sent| sent.wait().unwrap().offset.0).collect();
    assert_eq!(offsets, [0, 1, 2]);
}

#[test]
fn a_batch_lingers_no_longer_than_it_may() {
    let (disk, log) = log();
    let producer = log.producer().build().unwrap();
    log.maintain().unwrap();
    while log.wait_due(Duration::ZERO).unwrap() {}
    let mut first = send(&producer, "one");
    assert!(log.wait_due(Duration::ZERO).unwrap(), "who maintains is told of the first record");
    disk.clock().advance(Duration::from_millis(4));
    assert!(log.maintain().unwrap().next <= Duration::from_millis(1));
    drop(send(&producer, "two"));
    assert!(!log.wait_due(Duration::ZERO).unwrap(), "and not of the next");
    assert!(is_pending(&mut first));
    assert_eq!(end(&log), 0);
    disk.clock().advance(Duration::from_millis(1));
    log.maintain().unwrap();
    assert_eq!((end(&log), batches(&partition(&log)).len()), (2, 1));
    assert!(!is_pending(&mut first));
}

#[test]
fn without_linger_each_record_is_appended_by_its_send() {
    let (_disk, log) = log();
    let producer = log.producer().linger(Duration::ZERO).build().unwrap();
    for offset in 0..3 {
        assert_eq!(send(&producer, "value").told().unwrap().unwrap().offset, Offset(offset));
    }
    assert_eq!(producer.kept_bytes(), 0);
}

/// A thread that waits with nobody to maintain the log would wait for ever.
#[test]
fn who_waits_appends_the_batch_himself() {
    let (_disk, log) = log();
    let producer = log.producer().linger(LONG).build().unwrap();
    let (one, two) = (send(&producer, "one"), send(&producer, "two"));
    assert_eq!(one.wait().unwrap().offset, Offset(0));
    assert_eq!(two.told().unwrap().unwrap().offset, Offset(1));
}

#[test]
fn what_is_synced_is_told_when_it_is_and_not_before() {
    let (disk, log) = log();
    let producer = log.producer().acks(Ack::Synced).build().unwrap();
    let (told, tell) = (Arc::new(Mutex::new(Vec::new())), partition(&log));
    let note = Arc::clone(&told);
    let mut sent = send(&producer, "one");
    let note = move |delivered: crate::Result<crate::Delivered>| {
        note.lock().push((delivered.unwrap().offset, tell.offsets().synced));
    };
    producer.send_with(Record::new("two").to("t"), note).unwrap();
    assert!(is_pending(&mut sent));
    disk.clock().advance(LINGER);
    log.maintain().unwrap();
    assert!(!is_pending(&mut sent));
    assert_eq!(*told.lock(), [(Offset(1), Offset(2))]);

    // One that is full is appended at once, and told after the next sync.
    let full = send(&small(&log).acks(Ack::Synced).batch_bytes(0).build().unwrap(), "three");
    assert_eq!(full.told().unwrap().unwrap().offset, Offset(2), "the last clone is gone");
}

#[test]
fn a_failed_sync_is_told_to_those_it_was_for() {
    let (disk, log) = log();
    let producer = log.producer().acks(Ack::Synced).build().unwrap();
    let sent = send(&producer, "one");
    sent.wait().unwrap();
    let sent = send(&producer, "two");
    let calls = disk.calls();
    // The write, and then the sync.
    disk.inject(calls + 1, Fault::Error(Errno::Io), Times::Once);
    assert!(matches!(sent.wait(), Err(Error::NotSynced { offset: Offset(1), .. })), "{:?}", sent.told());
    let refused = producer.send(Record::new("three").to("t"));
    assert!(matches!(refused, Err(Error::Poisoned { .. })), "{refused:?}");
}

#[test]
fn records_wait_for_space_in_order_and_take_no_more_memory_than_they_may() {
    let (disk, log) = log();
    let producer = small(&log).build().unwrap();
    send(&producer, "first").wait().unwrap();
    disk.set_free(Some(0));
    let mut sent = Vec::new();
    let refused = loop {
        match producer.send(Record::new(&format!("{:050}", sent.len())).to("t")) {
            Ok(one) => sent.push(one),
            Err(error) => break error,
        }
        assert!(producer.kept_bytes() <= 1_000);
    };
    assert!(matches!(refused, Error::BufferFull { limit: 1_000, .. }), "{refused:?}");
    assert_eq!(refused.kind(), ErrorKind::Retry);
    // Some room is left in the file.
    let written = sent.iter().filter(|sent| sent.told().is_some()).count();
    assert_eq!(sent.len() - written, 10, "five batches of two");
    assert!(sent[written..].iter().all(|sent| sent.told().is_none()));

    disk.set_free(None);
    disk.clock().advance(AGAIN);
    log.maintain().unwrap();
    let offsets: Vec<_> = sent.iter().map(|sent| sent.wait().unwrap().offset.0).collect();
    assert!(offsets.iter().copied().eq(1..=sent.len() as u64), "{offsets:?}");
    let values: Vec<_> = (0..sent.len()).map(|number| format!("{number:050}")).collect();
    assert_eq!(texts(&log)[1..], values);
}

#[test]
fn a_batch_that_is_never_appended_is_given_up_and_those_behind_it_are_not() {
    let (disk, log) = log();
    let producer = small(&log).delivery_timeout(Duration::from_secs(1)).build().unwrap();
    disk.set_free(Some(0));
    let old = send(&producer, "old");
    let maintain_after = |time| {
        disk.clock().advance(time);
        // What else it does fails, too.
        let _ = log.maintain();
    };
    maintain_after(Duration::from_millis(900));
    let young = send(&producer, "young");
    maintain_after(AGAIN);
    assert_eq!(old.told().unwrap().unwrap_err().kind(), ErrorKind::Full);
    assert!(young.told().is_none());
    disk.set_free(None);
    assert_eq!(young.wait().unwrap().offset, Offset(0));
    assert_eq!(texts(&log), ["young"]);
}

/// Real threads: one blocks for space, and goes on when there is some.
#[test]
fn a_thread_that_waits_for_memory_goes_on_when_there_is_some() {
    let (disk, log) = log();
    let producer = small(&log).max_block(LONG).delivery_timeout(LONG * 2).build().unwrap();
    send(&producer, "first").wait().unwrap();
    disk.set_free(Some(0));
    let (progress, made) = mpsc::channel();
    thread::scope(|scope| {
        let sender = producer.clone();
        scope.spawn(move || {
            for number in 0..12 {
                sender.send(Record::new(&format!("{number:050}")).to("t")).unwrap();
                progress.send(number).unwrap();
            }
        });
        assert!(made.iter().take(10).eq(0..10));
        disk.set_free(None);
        disk.clock().advance(AGAIN);
        assert!(made.iter().eq(10..12));
    });
    producer.flush().unwrap();
    assert_eq!(end(&log), 13);
}

#[test]
fn a_record_that_breaks_a_rule_is_refused_alone() {
    let (_disk, log) =
        log_with(TopicConfig::default().cleanup(Cleanup::Compact).set("max.message.bytes", "300").unwrap());
    let producer = log.producer().buffer_bytes(16 << 10).build().unwrap();
    let send = |record: Record<'_>| producer.send(record.to("t"));
    let one = send(Record::new("one").key("k")).unwrap();
    assert!(matches!(send(Record::new("no key")), Err(Error::InvalidRecord { .. })));
    let long = "x".repeat(300);
    assert!(matches!(send(Record::new(&*long).key("k")), Err(Error::BatchTooLarge { limit: 300, .. })));
    let late = Record::new("late").key("k").timestamp(crate::Timestamp(-7));
    assert!(matches!(send(late), Err(Error::InvalidRecord { .. })));
    let two = send(Record::new("two").key("k")).unwrap();
    producer.flush().unwrap();
    assert_eq!((one.wait().unwrap().offset, two.wait().unwrap().offset), (Offset(0), Offset(1)));
    assert_eq!(batches(&partition(&log)).len(), 2, "the long one ended the batch");
    assert!(matches!(producer.send(Record::new("v").to("__consumer_offsets")), Err(Error::InternalTopic { .. })));
}

#[test]
fn a_record_needs_no_more_memory_than_there_is() {
    let (_disk, log) = log();
    let producer = small(&log).build().unwrap();
    let refused = producer.send(Record::new(&"x".repeat(2_000)).to("t"));
    assert!(matches!(refused, Err(Error::BatchTooLarge { limit: 1_000, .. })), "{refused:?}");
    let alone = send(&producer, &"x".repeat(900));
    assert_eq!(alone.told().unwrap().unwrap().offset, Offset(0), "appended at once: no other fits");
}

/// What lingers in one partition must not keep records from another.
#[test]
fn memory_that_lingers_is_freed_for_other_partitions() {
    let (_disk, log) = log_with(TopicConfig::default().partitions(8));
    let producer = small(&log).linger(LONG).build().unwrap();
    let topic = log.find_topic("t").unwrap();
    for number in 0..8 {
        producer.send_to(&topic.partition(number).unwrap(), "value").unwrap();
        assert!(producer.kept_bytes() <= 1_000);
    }
}

#[test]
fn a_topic_that_is_deleted_tells_its_records_and_is_made_again_by_the_next() {
    let (_disk, log) = log();
    let producer = log.producer().build().unwrap();
    let lost = send(&producer, "lost");
    let old = partition(&log);
    log.delete_topic("t").unwrap();
    assert!(matches!(lost.wait(), Err(Error::TopicDeleted { .. })));
    assert!(matches!(producer.send_to(&old, "lost"), Err(Error::TopicDeleted { .. })));
    assert_eq!(send(&producer, "kept").wait().unwrap().offset, Offset(0));
    assert_eq!(texts(&log), ["kept"]);
    let sent = producer.send_to(&partition(&log), "kept, too").unwrap();
    assert_eq!(sent.wait().unwrap().offset, Offset(1));
}

#[test]
fn partitions_that_are_added_are_seen_by_the_next_batch() {
    let (_disk, log) = log();
    let producer = log.producer().partitioner(Partitioning::RoundRobin).linger(Duration::ZERO).build().unwrap();
    drop(send(&producer, "one"));
    let topic = log.find_topic("t").unwrap();
    log.alter_topic("t", topic.config().partitions(3)).unwrap();
    let sent = producer.send_to(&topic.partition(2).unwrap(), "three").unwrap();
    assert_eq!(sent.wait().unwrap().partition.partition, 2);
    let numbers: std::collections::BTreeSet<_> = (0..3).map(|_| send(&producer, "more").partition()).collect();
    assert_eq!(numbers.len(), 3);
}

#[test]
fn records_without_key_move_on_when_a_batch_is_full() {
    let (_disk, log) = log_with(TopicConfig::default().partitions(8));
    let producer = small(&log).buffer_bytes(10_000).build().unwrap();
    let numbers: Vec<_> = (0..9).map(|_| send(&producer, &"x".repeat(50)).partition()).collect();
    for pair in numbers.chunks_exact(2) {
        assert_eq!(pair[0], pair[1]);
    }
    assert!(numbers.windows(3).all(|three| three[0] != three[2]), "{numbers:?}");
    assert_eq!(producer.kept_bytes(), 200, "full batches went, none was left behind half full");
}

struct Always(u32);

impl Partitioner for Always {
    fn partition(&self, record: &Unplaced<'_>) -> u32 {
        assert_eq!((record.topic(), record.key(), record.value_len()), ("t", Some(&b"k"[..]), 5));
        assert!(record.is_usable(0) && !record.is_usable(record.partition_count()));
        self.0
    }
}

#[test]
fn a_partitioner_of_ones_own_is_asked_and_held_to_what_is_there() {
    let (_disk, log) = log_with(TopicConfig::default().partitions(3));
    for number in [0, 2, 3] {
        let own = Partitioning::Custom(Arc::new(Always(number)));
        let producer = log.producer().partitioner(own).build().unwrap();
        match producer.send(Record::new("value").key("k").to("t")) {
            Ok(sent) => assert_eq!(sent.partition(), number),
            Err(Error::PartitionNotFound { partition, count, .. }) => {
                assert_eq!((number, partition, count), (3, 3, 3))
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn callbacks_may_send_and_come_in_order() {
    let (_disk, log) = log();
    let producer = small(&log).build().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    for number in 0..20 {
        let (sender, note) = (producer.clone(), Arc::clone(&told));
        let callback = move |delivered: crate::Result<crate::Delivered>| {
            note.lock().push(delivered.unwrap().offset.0);
            if number == 3 {
                let sent = sender.send(Record::new("from a callback").to("t")).unwrap();
                assert!(sent.wait().is_ok());
            }
        };
        producer.send_with(Record::new(&format!("{number:030}")).to("t"), callback).unwrap();
    }
    producer.flush().unwrap();
    let told = told.lock();
    assert!(told.is_sorted() && told.len() == 20, "{told:?}");
}

#[test]
fn a_log_that_closes_appends_what_is_kept() {
    let (disk, log) = log();
    let producer = log.producer().acks(Ack::Synced).build().unwrap();
    let sent = send(&producer, "kept");
    log.clone().close().unwrap();
    assert_eq!(sent.wait().unwrap().offset, Offset(0));
    assert!(matches!(producer.send(Record::new("late").to("t")), Err(Error::Closed)));
    assert!(matches!(producer.close(), Err(Error::Closed)));
    let log = builder(&disk.crash(1), Staging::Off).open().unwrap();
    assert_eq!(texts(&log), ["kept"]);
}

#[test]
fn what_cannot_be_appended_any_more_is_told_at_the_end() {
    let (disk, log) = log();
    let producer = log.producer().build().unwrap();
    let (one, other) = (send(&producer, "one"), producer.clone());
    drop(producer);
    assert!(one.told().is_none(), "there is a clone");
    disk.set_free(Some(0));
    drop(other);
    assert_eq!(one.told().unwrap().unwrap_err().kind(), ErrorKind::Full);
}

#[test]
fn a_producer_keeps_the_log_open_and_what_was_sent_does_not() {
    let (disk, log) = log();
    let producer = log.producer().build().unwrap();
    drop(log);
    let sent = producer.send(Record::new("value").to("t")).unwrap();
    drop(producer);
    assert_eq!(sent.wait().unwrap().offset, Offset(0));
    assert!(builder(&disk, Staging::Off).open().is_ok(), "it is closed");
}

#[test]
fn batches_are_numbered_unless_told_otherwise() {
    let (_disk, log) = log();
    let numbered = small(&log).build().unwrap();
    for _ in 0..5 {
        drop(send(&numbered, &"x".repeat(50)));
    }
    numbered.flush().unwrap();
    let known = partition(&log).producers();
    assert_eq!((Some(known[0].producer_id), known[0].last_sequence), (numbered.id(), Some(4)));
    let plain = small(&log).numbered(false).build().unwrap();
    assert_eq!(plain.id(), None);
    send(&plain, "plain").wait().unwrap();
    let headers = batches(&partition(&log));
    let numbers: Vec<_> = headers.iter().map(|header| header.base_sequence).collect();
    assert_eq!(numbers, [0, 2, 4, -1]);
}

#[test]
fn the_time_of_a_record_is_told_as_it_is_stored() {
    for kind in [TimestampType::CreateTime, TimestampType::LogAppendTime] {
        let (disk, log) = log_with(TopicConfig::default().timestamp_type(kind));
        let producer = log.producer().build().unwrap();
        let sent = [
            send(&producer, "own"),
            producer.send(Record::new("given").timestamp(crate::Timestamp(5)).to("t")).unwrap(),
        ];
        disk.clock().advance(LINGER);
        log.maintain().unwrap();
        let records = partition(&log).read(Offset::ZERO).unwrap();
        for (sent, record) in sent.iter().zip(&records) {
            assert_eq!(sent.wait().unwrap().timestamp, record.timestamp, "{kind:?}");
        }
    }
}

#[test]
fn batches_have_the_codec_of_the_topic_or_else_of_the_producer() {
    if !Codec::Lz4.is_supported() {
        return;
    }
    let lz4 = Compression::new(Codec::Lz4);
    for (topic, codec) in [(TopicCompression::Producer, Codec::Lz4), (TopicCompression::Uncompressed, Codec::None)] {
        let (_disk, log) =
            log_with(TopicConfig::default().compression(topic).set("max.message.bytes", "400").unwrap());
        let producer = small(&log).buffer_bytes(4_000).compression(lz4).build().unwrap();
        (0..10).for_each(|_| drop(send(&producer, &"x".repeat(50))));
        producer.flush().unwrap();
        // One that is too long for the topic, but for the codec.
        let long = producer.send(Record::new(&"x".repeat(1_000)).to("t"));
        assert_eq!(long.is_ok(), codec == Codec::Lz4, "{long:?}");
        let headers = batches(&partition(&log));
        assert!(headers.iter().all(|header| header.attributes.codec().unwrap() == codec), "{headers:?}");
        assert_eq!(texts(&log).len(), 10 + usize::from(long.is_ok()));
    }
}

/// A record is right for the topic when it is sent, and not any more when its batch is appended.
#[test]
fn rules_that_change_while_a_batch_lingers_are_kept() {
    let (_disk, log) = log();
    let producer = log.producer().build().unwrap();
    let alter = |config: TopicConfig| log.alter_topic("t", config).unwrap();
    let right = send(&producer, "right");
    alter(TopicConfig::default().timestamp_type(TimestampType::LogAppendTime));
    assert_eq!(
        right.wait().unwrap().timestamp,
        partition(&log).read(Offset::ZERO).unwrap().iter().next().unwrap().timestamp
    );
    let wrong = send(&producer, "without a key");
    alter(TopicConfig::default().cleanup(Cleanup::Compact));
    assert!(matches!(wrong.wait(), Err(Error::InvalidRecord { .. })), "{:?}", wrong.told());
    assert_eq!(end(&log), 1);
    assert_eq!(partition(&log).producers()[0].last_sequence, Some(0));
}

/// Threads share producers, and tasks move with what they wait for.
#[test]
fn handles_go_to_any_thread() {
    fn goes<T: Send + Sync + 'static>() {}
    goes::<Producer>();
    goes::<Sent>();
}

#[test]
fn settings_are_checked() {
    let (_disk, log) = log();
    for wrong in [
        log.producer().buffer_bytes(0),
        log.producer().batch_bytes(2_000).buffer_bytes(1_000),
        log.producer().linger(Duration::from_secs(3_000_000)),
    ] {
        assert!(matches!(wrong.build(), Err(Error::InvalidSetting { .. })));
    }
    let codecs = Codec::ALL.into_iter().filter(|codec| !codec.is_supported());
    for codec in codecs {
        let built = log.producer().compression(Compression::new(codec)).build();
        assert!(matches!(built, Err(Error::Unsupported { .. })), "{built:?}");
    }
}

#[test]
fn a_future_that_is_dropped_is_forgotten() {
    let (disk, log) = log();
    let producer = log.producer().build().unwrap();
    let mut sent = send(&producer, "one");
    assert!(is_pending(&mut sent));
    drop(sent);
    let mut two = pin!(send(&producer, "two"));
    let mut context = Context::from_waker(Waker::noop());
    assert!(two.as_mut().poll(&mut context).is_pending());
    disk.clock().advance(LINGER);
    log.maintain().unwrap();
    let Poll::Ready(told) = two.as_mut().poll(&mut context) else { panic!("it is not told") };
    assert_eq!(told.unwrap().offset, Offset(1));
}

/// Records without key go past a partition that cannot be used; a key's records have no other.
#[test]
fn a_damaged_partition_takes_no_records_and_keeps_none_from_others() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    log.create_topic("t", TopicConfig::default().partitions(2)).unwrap();
    log.close().unwrap();
    std::fs::remove_file(dir.path().join("t-0/partition.metadata")).unwrap();
    let log = Log::open(dir.path()).unwrap();
    for way in [Partitioning::Murmur2, Partitioning::RoundRobin, Partitioning::Crc32] {
        let producer = log.producer().linger(Duration::ZERO).partitioner(way).build().unwrap();
        assert!((0..10).all(|_| send(&producer, "value").partition() == 1));
    }
    let producer = log.producer().build().unwrap();
    let of_0 = producer.send(Record::new("value").key("foobar").to("t"));
    assert_eq!(of_0.unwrap_err().kind(), ErrorKind::Corrupt);
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Real threads, disk and clock: nobody but the log's own thread appends and syncs what lingers.
#[test]
fn a_task_is_woken_by_the_thread_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    for acks in [Ack::Written, Ack::Synced] {
        let producer = log.producer().acks(acks).build().unwrap();
        for _ in 0..3 {
            let mut sent = pin!(send(&producer, "value"));
            let delivered = loop {
                match sent.as_mut().poll(&mut Context::from_waker(&waker)) {
                    Poll::Ready(delivered) => break delivered.unwrap(),
                    Poll::Pending => thread::park(),
                }
            };
            assert!(acks == Ack::Written || partition(&log).offsets().synced > delivered.offset);
        }
    }
}

/// Real threads, disk and clock: several senders, some to the same partition.
#[test]
fn threads_keep_their_order_and_lose_nothing() {
    const EACH: u32 = 3_000;
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let topic = log.create_topic("t", TopicConfig::default().partitions(2)).unwrap();
    let producer =
        log.producer().batch_bytes(500).buffer_bytes(4_000).linger(Duration::from_millis(1)).build().unwrap();
    let called = Arc::new(AtomicU64::new(0));
    thread::scope(|scope| {
        for name in 0..4_u32 {
            let (producer, called, partition) = (&producer, &called, topic.partition(name % 2).unwrap());
            scope.spawn(move || {
                for number in 0..EACH {
                    let value = format!("{name} {number}");
                    let called = Arc::clone(called);
                    let record = Record::new(&*value).key(if name < 3 { "a" } else { "b" });
                    let count = move |told: crate::Result<crate::Delivered>| {
                        called.fetch_add(u64::from(told.is_ok()), Ordering::Relaxed);
                    };
                    match number % 3 {
                        0 => producer.send_with(record.to("t"), count).unwrap(),
                        _ => drop(producer.send_to(&partition, record).unwrap()),
                    }
                }
            });
        }
    });
    producer.close().unwrap();
    let mut last = std::collections::BTreeMap::new();
    let mut count = 0;
    for number in 0..2 {
        for (_, _, value) in values(&topic.partition(number).unwrap()) {
            let (name, at) = value.split_once(' ').unwrap();
            let (name, at): (u32, u32) = (name.parse().unwrap(), at.parse().unwrap());
            let before = last.insert((number, name), at);
            assert!(before.is_none_or(|before| before < at), "{name} sent {at} before {before:?}");
            count += 1;
        }
    }
    assert_eq!((count, called.load(Ordering::Relaxed)), (4 * EACH, u64::from(4 * EACH / 3)));
}
