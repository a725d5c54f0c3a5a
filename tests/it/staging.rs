//! The staged tail, as far as it can be seen from outside: small appends that are acknowledged and in no segment yet.
//!
//! All of it runs where staging is on: in the temporary directory if that is on ext4 or tmpfs, and in memory if there
//! is such a place. Without either the tests fail, for they would say nothing.

mod killed;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use chiplog::record::{BatchBuilder, BatchHeader, BatchOptions, BatchRef, Codec, Producer};
use chiplog::{
    Background, Durability, Error, Isolation, Log, LogBuilder, Offset, Partition, ProducerEpoch, ProducerId,
    ReadOptions, Record, Records, Staging, StagingStats, Timestamp, TimestampType, TopicConfig,
};
use tempfile::TempDir;

use crate::support::{ManualClock, append_numbers, by_hand, text, values};

type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// The directories that staging works in, at least one.
fn dirs() -> Vec<TempDir> {
    let made = [tempfile::tempdir(), tempfile::tempdir_in("/dev/shm")];
    let dirs: Vec<TempDir> = made.into_iter().flatten().filter(|dir| is_on(&dir.path().join("tried"))).collect();
    assert!(!dirs.is_empty(), "staging is off in the temporary directory and in /dev/shm: nothing can be tested");
    dirs
}

/// One of them, for what does not depend on the file system.
fn dir() -> TempDir {
    dirs().remove(0)
}

fn is_on(dir: &Path) -> bool {
    let log = Log::open(dir).unwrap();
    let is_on = matches!(log.stats().unwrap().staging, StagingStats::On { .. });
    drop(log);
    fs::remove_dir_all(dir).unwrap();
    is_on
}

/// A log that writes nothing of what is staged before it is told to, in an arena that is quickly copied and compared.
fn builder(dir: &Path) -> LogBuilder {
    by_hand(dir).staging_slots(8)
}

/// How much of a partition is in its files: what lies behind is staged.
fn in_files(partition: &Partition) -> Offset {
    partition.segments().last().map_or(Offset::ZERO, chiplog::Segment::end)
}

fn texts(records: &Records) -> Vec<String> {
    records.iter().map(|record| text(record.value)).collect()
}

fn numbers(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// The headers of all stored batches.
fn batches(partition: &Partition) -> Vec<BatchHeader> {
    let (mut headers, mut at) = (Vec::new(), partition.offsets().start);
    while at < partition.offsets().end {
        let stored = partition.fetch(at, ReadOptions::default()).unwrap();
        let mut rest = stored.bytes();
        while !rest.is_empty() {
            let len = 12 + u32::from_be_bytes(rest[8..12].try_into().unwrap()) as usize;
            headers.push(*BatchRef::verify(&rest[..len]).unwrap().header());
            rest = &rest[len..];
        }
        at = stored.next_offset();
    }
    headers
}

/// One append of any kind: what it is, and the values in it.
#[derive(Debug)]
struct Step {
    kind: &'static str,
    values: Vec<String>,
}

/// Appends of all kinds, small and large, in a fixed order.
fn steps(count: u64) -> Vec<Step> {
    let step = |number: u64| {
        let (kind, values, len) = match number % 11 {
            0 => ("all", 3, 10),
            2 => ("raw", 2, 20),
            4 => ("producer", 2, 20),
            6 => ("all", 40, 200),
            8 => ("if end", 1, 30),
            9 if number.is_multiple_of(3) => ("one", 1, 20_000),
            _ => ("one", 1, 10 + number as usize * 37 % 300),
        };
        Step { kind, values: (0..values).map(|at| format!("{number} {at} {}", "x".repeat(len))).collect() }
    };
    (0..count).map(step).collect()
}

/// Carries out `steps`, each of which gets the next offset.
fn append_steps(partition: &Partition, steps: &[Step]) -> Result {
    let mut sequence = 0;
    for step in steps {
        let end = partition.offsets().end;
        let records = step.values.iter().map(Record::new);
        let appended = match step.kind {
            "one" => partition.append(&*step.values[0])?,
            "all" => partition.append_all(records)?,
            "if end" => partition.append_if_end(end, records)?,
            kind => {
                let producer = Producer {
                    id: ProducerId(7),
                    epoch: ProducerEpoch(0),
                    base_sequence: sequence,
                    is_transactional: false,
                };
                let options = BatchOptions::default();
                let is_of_producer = kind == "producer";
                let mut builder = BatchBuilder::new();
                builder.begin(if is_of_producer { options.producer(producer) } else { options });
                for record in records {
                    builder.push(&record, Timestamp(1_700_000_000_000))?;
                }
                if is_of_producer {
                    sequence += step.values.len() as i32;
                }
                let batch = builder.finish()?;
                let appended = partition.append_raw(batch)?;
                if is_of_producer {
                    assert!(partition.append_raw(batch)?.is_duplicate(), "{step:?} is stored twice");
                }
                appended
            }
        };
        assert_eq!(appended.offset(), end, "{step:?}");
        assert_eq!(partition.offsets().end, end + step.values.len() as u64, "{step:?}");
    }
    Ok(())
}

fn values_of(steps: &[Step]) -> Vec<String> {
    steps.iter().flat_map(|step| step.values.clone()).collect()
}

#[test]
fn what_is_staged_is_read_at_once() -> Result {
    for dir in dirs() {
        let log = builder(dir.path()).open()?;
        let partition = log.topic("orders")?.partition(0)?;
        let mut reader = partition.reader();
        let time = |number: u64| Timestamp(1_000 + 10 * number as i64);
        for number in 0..60 {
            assert!(!partition.wait_readable(Offset(number), Duration::ZERO)?);
            let value = number.to_string();
            let appended = partition.append(Record::new(&value).timestamp(time(number)))?;
            assert_eq!((appended.offset(), appended.timestamp()), (Offset(number), time(number)));
            assert!(partition.wait_readable(Offset(number), Duration::ZERO)?);
            // Looked up before it is read, and after: a reader completes the batch that was open.
            for _ in 0..2 {
                assert_eq!(partition.offset_at(time(number))?, Some(Offset(number)));
                assert_eq!(partition.offset_at(Timestamp(time(number).0 + 1))?, None);
                assert_eq!(partition.largest_timestamp()?, Some((Offset(number), time(number))));
                let committed = ReadOptions::default().isolation(Isolation::Committed);
                for records in [
                    partition.read(Offset(number))?,
                    partition.read_with(Offset(number), committed)?,
                    reader.read(Offset(number))?,
                    partition.read_last(1)?.remove(0),
                ] {
                    assert_eq!(texts(&records), [&*value]);
                    assert_eq!(records.next_offset(), Offset(number + 1));
                }
                let stored = partition.fetch(Offset(number), ReadOptions::default())?;
                assert_eq!(stored.next_offset(), Offset(number + 1));
                assert!(stored.file_range().is_none(), "it is in no file");
            }
        }
        assert_eq!(in_files(&partition), Offset::ZERO, "nothing was staged at all");
        assert_eq!(values(&partition), numbers(0..60));

        // Several in one open batch: from the midst of it, by offset and by time.
        for number in 60..100 {
            partition.append(Record::new(&number.to_string()).timestamp(time(number)))?;
        }
        assert_eq!(partition.offset_at(Timestamp(time(77).0 - 9))?, Some(Offset(77)));
        assert_eq!(texts(&partition.read(Offset(77))?), numbers(77..100));
        assert_eq!(partition.read_last(5)?.iter().flat_map(texts).collect::<Vec<_>>(), numbers(95..100));
        assert_eq!(in_files(&partition), Offset::ZERO);
    }
    Ok(())
}

/// One part lies in the files, one is staged: neither hides the other.
#[test]
fn reads_go_on_from_the_files_into_what_is_staged() -> Result {
    let dir = dir();
    let log = builder(dir.path()).open()?;
    let partition = log.topic("orders")?.partition(0)?;
    let time = |number: u64| Timestamp(1_000 + number as i64);
    for number in 0..100 {
        partition.append(Record::new(&number.to_string()).timestamp(time(number)))?;
        if number == 49 {
            partition.sync()?;
        }
    }
    assert_eq!(in_files(&partition), Offset(50));
    assert_eq!(values(&partition), numbers(0..100));
    for number in [0, 49, 50, 99] {
        assert_eq!(partition.offset_at(time(number))?, Some(Offset(number)));
    }
    assert_eq!(partition.largest_timestamp()?, Some((Offset(99), time(99))));
    assert_eq!(partition.read_last(70)?.iter().flat_map(texts).collect::<Vec<_>>(), numbers(30..100));
    assert_eq!(in_files(&partition), Offset(50), "reading wrote something");
    let synced = partition.offsets().synced;
    assert_eq!(synced, Offset(50), "what is staged does not count as synced");
    partition.sync()?;
    assert_eq!((in_files(&partition), partition.offsets().synced), (Offset(100), Offset(100)));
    assert_eq!(values(&partition), numbers(0..100));
    Ok(())
}

#[test]
fn who_waits_is_woken_by_a_staged_record() -> Result {
    let dir = dir();
    let log = builder(dir.path()).open()?;
    let partition = log.topic("orders")?.partition(0)?;
    let waiting = partition.clone();
    let waiter = thread::spawn(move || {
        let mut seen = Vec::new();
        while seen.len() < 200 {
            let at = Offset(seen.len() as u64);
            assert!(waiting.wait_readable(at, Duration::from_secs(60)).unwrap(), "nobody woke the reader at {at}");
            seen.extend(texts(&waiting.read(at).unwrap()));
        }
        seen
    });
    append_numbers(&partition, 0..200);
    assert_eq!(waiter.join().unwrap(), numbers(0..200));
    Ok(())
}

/// A read took the end, waited for the tail, and found it written: in a batch that others had joined meanwhile, past
/// that end. It looked for the record for ever, and a look-up by time passed it over.
#[test]
fn a_record_is_found_while_others_join_its_batch_and_it_is_written() -> Result {
    const EACH: i64 = 1_500;
    // In memory if there is such a place: a third of the appends is synced.
    let dir = dirs().pop().ok_or("no directory")?;
    let log = builder(dir.path()).open()?;
    let partition = log.topic("orders")?.partition(0)?;
    thread::scope(|scope| {
        for thread in 0..4 {
            let partition = &partition;
            scope.spawn(move || {
                for number in 0..EACH {
                    let at = Timestamp(1_000 + number * 4 + thread);
                    let value = at.0.to_string();
                    let offset = partition.append(Record::new(&value).timestamp(at)).unwrap().offset();
                    let found = partition.read(offset).unwrap();
                    assert_eq!(texts(&found)[0], value);
                    let stored = partition.fetch(offset, ReadOptions::default()).unwrap();
                    assert!(!stored.bytes().is_empty(), "there is no batch at {offset}");
                    // Others may have the time already, at an offset before.
                    let by_time = partition.offset_at(at).unwrap();
                    assert!(by_time.is_some_and(|found| found <= offset), "{by_time:?}, and it is at {offset}");
                    let largest = partition.largest_timestamp().unwrap();
                    assert!(largest.is_some_and(|(_, largest)| largest >= at), "{largest:?}");
                    if number % 3 == thread {
                        partition.sync().unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(values(&partition).len() as i64, 4 * EACH);
    Ok(())
}

#[test]
fn appends_of_all_kinds_keep_their_order() -> Result {
    let steps = steps(400);
    for durability in [Durability::Os, Durability::Every { records: Some(50), time: None }] {
        let dir = dir();
        let log = builder(dir.path()).open()?;
        let config = TopicConfig::default().segment_bytes(300_000).durability(durability);
        let partition = log.create_topic("orders", config)?.partition(0)?;
        append_steps(&partition, &steps)?;
        assert_eq!(values(&partition), values_of(&steps));
        assert!(partition.segments().len() > 1, "no segment was sealed");
        drop(partition);
        log.close()?;

        let log = builder(dir.path()).strict().open()?;
        let partition = log.topic("orders")?.partition(0)?;
        assert_eq!(values(&partition), values_of(&steps));
        assert_eq!(in_files(&partition), partition.offsets().end);
    }
    Ok(())
}

#[test]
fn records_appended_alone_take_hardly_more_than_their_bytes() -> Result {
    for dir in dirs() {
        let log = Log::open(dir.path())?;
        let partition = log.topic("orders")?.partition(0)?;
        let value = [0xA5; 100];
        let count = 20_000;
        for _ in 0..count {
            partition.append(&value[..])?;
        }
        drop(partition);
        log.close()?;
        let on_disk = segment_bytes(dir.path(), "orders-0");
        assert!(on_disk <= 111 * count, "{} bytes a record", on_disk as f64 / count as f64);
    }
    Ok(())
}

/// The length of all segment files of a partition.
fn segment_bytes(dir: &Path, partition: &str) -> u64 {
    let entries = fs::read_dir(dir.join(partition)).unwrap().map(|entry| entry.unwrap());
    entries
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".log"))
        .map(|entry| entry.metadata().unwrap().len())
        .sum()
}

#[test]
fn when_slots_run_out_the_other_partitions_write_each_append() -> Result {
    for dir in dirs() {
        let log = by_hand(dir.path()).staging_slots(1).linger(Duration::from_millis(1)).open()?;
        let topic = log.create_topic("orders", TopicConfig::default().partitions(2))?;
        let (first, second) = (topic.partition(0)?, topic.partition(1)?);
        for number in 0..50 {
            append_numbers(&first, number..number + 1);
            append_numbers(&second, number..number + 1);
        }
        assert_eq!(log.stats()?.staging, StagingStats::On { slots: 1, in_use: 1 });
        assert_eq!((in_files(&first), in_files(&second)), (Offset(0), Offset(50)));
        for partition in [&first, &second] {
            assert_eq!(values(partition), numbers(0..50));
        }

        // Given back, the slot serves the other one.
        first.sync()?;
        let deadline = Instant::now() + Duration::from_secs(60);
        while log.stats()?.staging != (StagingStats::On { slots: 1, in_use: 0 }) {
            assert!(Instant::now() < deadline, "an idle partition keeps its slot");
            thread::sleep(Duration::from_millis(2));
            log.maintain()?;
        }
        append_numbers(&second, 50..60);
        assert_eq!(in_files(&second), Offset(50));
        drop((first, second, topic));
        log.close()?;
        let topic = Log::open(dir.path())?.topic("orders")?;
        assert_eq!(values(&topic.partition(0)?), numbers(0..50));
        assert_eq!(values(&topic.partition(1)?), numbers(0..60));
    }
    Ok(())
}

#[test]
fn settings_of_staging_have_a_range() {
    let dir = dir();
    for slots in [0, 65_537] {
        let told = Log::builder(dir.path()).staging_slots(slots).open().unwrap_err();
        assert!(matches!(told, Error::InvalidSetting { .. }), "{told}");
        assert!(told.to_string().contains(&slots.to_string()), "{told}");
    }
    let told = Log::builder(dir.path()).linger(Duration::ZERO).open().unwrap_err();
    assert!(matches!(told, Error::InvalidSetting { .. }), "{told}");
    for slots in [1, 65_536] {
        let log = Log::builder(dir.path()).staging_slots(slots).open().unwrap();
        log.topic("orders").unwrap().append("paid").unwrap();
        assert_eq!(log.stats().unwrap().staging, StagingStats::On { slots: slots.into(), in_use: 1 });
    }
}

#[test]
fn stats_say_whether_staging_is_on_and_why_not() -> Result {
    for dir in dirs() {
        let why = |log: &Log| match log.stats().unwrap().staging {
            StagingStats::Off { why } => Some(why),
            _ => None,
        };
        let log = builder(dir.path()).open()?;
        assert_eq!(log.stats()?.staging, StagingStats::On { slots: 8, in_use: 0 });
        let topic = log.create_topic("orders", TopicConfig::default().partitions(3))?;
        topic.partition(0)?.append("paid")?;
        topic.partition(2)?.append("paid")?;
        assert_eq!(log.stats()?.staging, StagingStats::On { slots: 8, in_use: 2 });
        drop(topic);
        log.close()?;

        let log = builder(dir.path()).staging(Staging::Off).open()?;
        assert_eq!(why(&log), Some("it was switched off"));
        let partition = log.topic("orders")?.partition(0)?;
        partition.append("sent")?;
        assert_eq!(in_files(&partition), Offset(2));
        assert!(!dir.path().join("staging").exists());
        drop(partition);
        log.close()?;
        let log = builder(dir.path()).read_only().open()?;
        assert_eq!(why(&log), Some("the log is read-only"));
    }
    Ok(())
}

#[test]
fn an_orderly_close_leaves_no_arena() -> Result {
    for dir in dirs() {
        let log = builder(dir.path()).open()?;
        let path = dir.path().join("staging");
        assert!(!path.exists(), "nothing was appended yet");
        let partition = log.topic("orders")?.partition(0)?;
        append_numbers(&partition, 0..10);
        assert!(path.exists(), "nothing is staged");
        drop(partition);
        log.close()?;
        assert!(!path.exists());
        assert!(dir.path().join("clean").exists());
        assert!(!dir.path().join("staging.tmp").exists());

        // Dropped, the same.
        let log = builder(dir.path()).open()?;
        append_numbers(&log.topic("orders")?.partition(0)?, 10..20);
        assert!(path.exists());
        drop(log);
        assert!(!path.exists());
        assert_eq!(values(&Log::open(dir.path())?.topic("orders")?.partition(0)?), numbers(0..20));
    }
    Ok(())
}

/// Nobody syncs, reads or closes: the background thread writes it.
#[test]
fn after_the_linger_time_the_file_has_the_records() -> Result {
    for dir in dirs() {
        let short = Duration::from_millis(20);
        let log = Log::builder(dir.path()).background(Background::Thread).linger(short).open()?;
        let partition = log.topic("orders")?.partition(0)?;
        for round in 0..3 {
            append_numbers(&partition, round * 10..round * 10 + 10);
            let deadline = Instant::now() + Duration::from_secs(60);
            while in_files(&partition) < Offset(round * 10 + 10) {
                assert!(Instant::now() < deadline, "nobody writes what lingers");
                thread::sleep(Duration::from_millis(5));
            }
        }
        let file = fs::read(partition.segments()[0].path())?;
        let has = |number: u64| file.windows(4).any(|window| window[2..] == *number.to_string().as_bytes());
        assert!((10..30).all(has), "the file lacks records");
        // Written is not synced.
        assert_eq!(log.stats()?.total().syncs.count(), 0);
    }
    Ok(())
}

#[test]
fn a_deleted_topic_gives_its_slots_back() -> Result {
    let dir = dir();
    let log = builder(dir.path()).open()?;
    // More topics than there are slots: each has to give back its own.
    for round in 0..20 {
        let topic = log.create_topic("orders", TopicConfig::default().partitions(4))?;
        for number in 0..4 {
            append_numbers(&topic.partition(number)?, 0..5);
            assert_eq!(in_files(&topic.partition(number)?), Offset(0), "round {round}: it got no slot");
        }
        assert_eq!(log.stats()?.staging, StagingStats::On { slots: 8, in_use: 4 });
        log.delete_topic("orders")?;
        assert_eq!(log.stats()?.staging, StagingStats::On { slots: 8, in_use: 0 });
    }
    Ok(())
}

#[test]
fn records_below_a_raised_start_go_also_if_they_are_staged() -> Result {
    let dir = dir();
    let log = builder(dir.path()).open()?;
    let partition = log.topic("orders")?.partition(0)?;
    append_numbers(&partition, 0..20);
    log.delete_before("orders", 0, Offset(7))?;
    assert_eq!(values(&partition), numbers(7..20));
    append_numbers(&partition, 20..30);
    assert_eq!(values(&partition), numbers(7..30));
    // All of it, and on from there.
    log.delete_before("orders", 0, Offset(30))?;
    assert_eq!(values(&partition), numbers(0..0));
    append_numbers(&partition, 30..35);
    assert_eq!(values(&partition), numbers(30..35));
    drop(partition);
    log.close()?;
    let partition = Log::open(dir.path())?.topic("orders")?.partition(0)?;
    assert_eq!((partition.offsets().start, values(&partition)), (Offset(30), numbers(30..35)));
    Ok(())
}

/// Each setting that concerns a batch, changed while one is open.
#[test]
fn what_is_staged_keeps_the_settings_it_was_appended_under() -> Result {
    let dir = dir();
    let log = builder(dir.path()).open()?;
    let topic = log.topic("orders")?;
    let partition = topic.partition(0)?;
    let plain = topic.config();
    append_numbers(&partition, 0..10);
    log.alter_topic("orders", plain.timestamp_type(TimestampType::LogAppendTime))?;
    append_numbers(&partition, 10..20);
    log.alter_topic("orders", plain.segment_bytes(2_000))?;
    append_numbers(&partition, 20..30);
    log.alter_topic("orders", plain.segment_bytes(1_000).max_message_bytes(500))?;
    append_numbers(&partition, 30..80);
    assert!(matches!(partition.append(&*"x".repeat(600)), Err(Error::BatchTooLarge { .. })));
    log.alter_topic("orders", plain)?;
    append_numbers(&partition, 80..90);
    let check = |partition: &Partition| {
        assert_eq!(values(partition), numbers(0..90));
        for header in batches(partition) {
            let is_of_second = (10..20).contains(&header.base_offset.0);
            let kind = header.attributes.timestamp_type();
            assert_eq!(kind == TimestampType::LogAppendTime, is_of_second, "{header:?}");
            assert!(header.base_offset.0 >= 80 || header.base_offset.0 < 30 || header.batch_len <= 500);
        }
    };
    check(&partition);
    partition.sync()?;
    check(&partition);
    assert!(partition.segments().len() > 1);
    Ok(())
}

#[test]
fn with_log_append_time_a_batch_ends_when_the_millisecond_does() -> Result {
    let dir = dir();
    let clock = ManualClock::new();
    let log = builder(dir.path()).clock(clock.clone()).open()?;
    let config = TopicConfig::default().timestamp_type(TimestampType::LogAppendTime);
    let partition = log.create_topic("orders", config)?.partition(0)?;
    let mut times = BTreeMap::new();
    for number in 0..30_u64 {
        let appended = partition.append(Record::new(&number.to_string()).timestamp(Timestamp(5)))?;
        assert_ne!(appended.timestamp(), Timestamp(5), "the record's own time counts for nothing");
        times.insert(number, appended.timestamp());
        if number % 10 == 9 {
            clock.advance(Duration::from_millis(1));
        }
    }
    let check = |partition: &Partition| -> Result {
        let headers = batches(partition);
        assert_eq!(headers.iter().map(|header| header.record_count).collect::<Vec<_>>(), [10; 3]);
        for header in headers {
            assert_eq!(header.attributes.timestamp_type(), TimestampType::LogAppendTime);
            assert_eq!(header.max_timestamp, times[&header.base_offset.0]);
        }
        for record in &partition.read(Offset(0))? {
            assert_eq!(record.timestamp, times[&record.offset.0]);
        }
        assert_eq!(partition.offset_at(times[&10])?, Some(Offset(10)));
        Ok(())
    };
    check(&partition)?;
    partition.sync()?;
    check(&partition)
}

#[test]
fn topic_codecs_compress_what_was_appended_one_by_one() -> Result {
    let dir = dir();
    let log = builder(dir.path()).open()?;
    for (codec, name) in codecs() {
        let config = TopicConfig::default().set("compression.type", name)?;
        let partition = log.create_topic(name, config)?.partition(0)?;
        let value = |number: u64| format!("{number} {}", "the same again ".repeat(10));
        for number in 0..300 {
            partition.append(&value(number))?;
        }
        partition.sync()?;
        let check = |partition: &Partition| {
            let headers = batches(partition);
            assert!(headers.len() < 30, "{name}: {} batches", headers.len());
            for header in &headers {
                assert_eq!(header.attributes.codec(), Some(codec));
                assert!(header.record_count > 1, "{name}: a batch of one");
            }
            assert_eq!(values(partition), (0..300).map(value).collect::<Vec<_>>());
            headers.iter().map(|header| u64::from(header.batch_len)).sum::<u64>()
        };
        let bytes = check(&partition);
        assert!(codec == Codec::None || bytes < 300 * 150 / 3, "{name}: {bytes} bytes");
        // Read at the tail, one by one, each batch is one record: still under the codec.
        for number in 300..310 {
            partition.append(&value(number))?;
            assert_eq!(texts(&partition.read(Offset(number))?), [value(number)]);
        }
        assert!(batches(&partition).iter().all(|header| header.attributes.codec() == Some(codec)));
    }
    log.close()?;
    let log = Log::builder(dir.path()).strict().open()?;
    for (_, name) in codecs() {
        assert_eq!(values(&log.topic(name)?.partition(0)?).len(), 310);
    }
    Ok(())
}

/// The codecs of this build, and their names in the settings of a topic.
fn codecs() -> Vec<(Codec, &'static str)> {
    let all = [Codec::None, Codec::Lz4, Codec::Snappy, Codec::Gzip, Codec::Zstd];
    let name = |codec: Codec| if codec == Codec::None { "uncompressed" } else { codec.name() };
    all.into_iter().filter(|codec| codec.is_supported()).map(|codec| (codec, name(codec))).collect()
}

#[test]
fn stats_count_what_is_staged() -> Result {
    let dir = dir();
    let log = builder(dir.path()).open()?;
    let partition = log.topic("orders")?.partition(0)?;
    for number in 10..30 {
        partition.append(Record::new(&number.to_string()).key("k"))?;
    }
    let stats = log.stats()?.total();
    assert_eq!((stats.appended_batches, stats.appended_records), (20, 20));
    assert_eq!((stats.bytes, stats.segments, stats.syncs.count()), (0, 1, 0), "nothing is in a file");
    let appended_bytes = stats.appended_bytes;
    partition.sync()?;
    let stats = log.stats()?.total();
    assert_eq!((stats.appended_batches, stats.appended_records, stats.appended_bytes), (20, 20, appended_bytes));
    assert_eq!((stats.bytes, stats.syncs.count()), (appended_bytes, 1));
    assert_eq!(appended_bytes, u64::from(batches(&partition)[0].batch_len));
    Ok(())
}

/// Two logs of one process have an arena each.
#[test]
fn two_logs_stage_apart() -> Result {
    let (one, other) = (dir(), dir());
    let logs = [builder(one.path()).open()?, builder(other.path()).open()?];
    for number in 0..50 {
        for (at, log) in logs.iter().enumerate() {
            log.topic("orders")?.append(&format!("{at} {number}"))?;
        }
    }
    for (at, log) in logs.iter().enumerate() {
        let partition = log.topic("orders")?.partition(0)?;
        assert_eq!(in_files(&partition), Offset(0));
        assert_eq!(values(&partition), (0..50).map(|number| format!("{at} {number}")).collect::<Vec<_>>());
    }
    Ok(())
}
