//! Reading what one names: order, limits, fairness, positions, waiting.

use std::thread;

use proptest::prelude::*;

use super::*;
use crate::config::{Cleanup, Compression};
use crate::error::ErrorKind;
use crate::group::GroupOffset;
use crate::partition::{Ack, Isolation};

fn reader(log: &Log) -> ConsumerBuilder {
    log.consumer("g").auto_offset_reset(AutoOffsetReset::Earliest)
}

fn fill(log: &Log, id: &TopicPartition, count: u64) {
    (0..count).for_each(|number| _ = append(log, id, &number.to_string()));
}

#[test]
fn a_poll_goes_on_where_the_last_one_ended() {
    let (log, _) = open();
    topic(&log, "t", 1);
    let t = id("t", 0);
    fill(&log, &t, 5);
    let mut consumer = reader(&log).max_poll_records(2).assign([t.clone()]).unwrap();
    assert_eq!(values(&poll(&mut consumer)), ["t-0:0=0", "t-0:1=1"]);
    assert_eq!(values(&poll(&mut consumer)), ["t-0:2=2", "t-0:3=3"]);
    assert_eq!((consumer.position(&t).unwrap(), consumer.lag(&t).unwrap()), (Offset(4), 1));
    assert_eq!(values(&poll(&mut consumer)), ["t-0:4=4"]);
    assert!(poll(&mut consumer).is_empty());
}

/// Who began with the first partition each time read nothing else while that one had records.
#[test]
pub(super) fn no_partition_with_records_is_passed_over_for_long() {
    let (log, _) = open();
    topic(&log, "t", 3);
    let ids = [0, 1, 2].map(|number| id("t", number));
    ids.iter().for_each(|id| fill(&log, id, 40));
    let mut consumer = reader(&log).max_poll_records(4).assign(ids.clone()).unwrap();
    for round in 1..=10_u64 {
        (0..3).for_each(|_| _ = poll(&mut consumer));
        for id in &ids {
            assert_eq!(consumer.position(id).unwrap(), Offset(4 * round), "{id}");
        }
    }
    consumer.seek_to_beginning(&[]).unwrap();
    let first: Vec<_> = consumer.iter().take(12).map(|consumed| consumed.unwrap().partition().partition).collect();
    assert_eq!(first, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
}

#[test]
fn a_record_larger_than_all_limits_is_returned() {
    let (log, _) = open();
    topic(&log, "t", 1);
    let t = id("t", 0);
    append(&log, &t, &"x".repeat(10_000));
    append(&log, &t, "y");
    let builder = reader(&log).max_partition_bytes(100).max_bytes(1).max_poll_records(1);
    let mut consumer = builder.assign([t]).unwrap();
    assert_eq!(poll(&mut consumer).iter().next().unwrap().1.value.unwrap().len(), 10_000);
    assert_eq!(values(&poll(&mut consumer)), ["t-0:1=y"]);
}

#[test]
fn a_poll_ends_with_the_partition_that_reaches_the_limit_of_bytes() {
    let (log, _) = open();
    topic(&log, "t", 2);
    let ids = [0, 1].map(|number| id("t", number));
    ids.iter().for_each(|id| fill(&log, id, 3));
    let mut consumer = reader(&log).max_bytes(1).assign(ids.clone()).unwrap();
    assert_eq!(poll(&mut consumer).partitions().count(), 1);
    let mut consumer = reader(&log).assign(ids).unwrap();
    assert_eq!(poll(&mut consumer).partitions().count(), 2);
}

#[test]
fn a_seek_lets_go_of_what_was_read_ahead() {
    let (log, _) = open();
    topic(&log, "t", 1);
    let t = id("t", 0);
    fill(&log, &t, 9);
    let mut consumer = reader(&log).max_poll_records(1).assign([t.clone()]).unwrap();
    assert_eq!(values(&poll(&mut consumer)), ["t-0:0=0"]);
    consumer.seek(&t, Offset(7)).unwrap();
    assert_eq!(values(&poll(&mut consumer)), ["t-0:7=7"]);
    consumer.seek(&t, Offset(2)).unwrap();
    assert_eq!(values(&poll(&mut consumer)), ["t-0:2=2"]);
    consumer.seek_to_end(&[]).unwrap();
    assert!(poll(&mut consumer).is_empty());
    let other = id("t", 1);
    assert!(matches!(consumer.seek(&other, Offset(0)), Err(Error::NotAssigned { partition }) if partition == other));
}

#[test]
fn who_goes_back_to_what_was_committed_reads_that_again_and_commits_nothing_meanwhile() {
    let (log, _) = open();
    topic(&log, "t", 2);
    let ids = [0, 1].map(|number| id("t", number));
    ids.iter().for_each(|id| fill(&log, id, 3));
    let mut consumer = reader(&log).max_poll_records(2).assign(ids.clone()).unwrap();
    assert_eq!(values(&poll(&mut consumer)), ["t-0:0=0", "t-0:1=1"]);
    consumer.commit_offsets(&[GroupOffset::new("t", 0, Offset(1))]).unwrap();
    assert_eq!(values(&poll(&mut consumer)), ["t-1:0=0", "t-1:1=1"]);

    // The rest of both was read ahead: it is let go of.
    consumer.seek_to_committed(&[]).unwrap();
    assert_eq!(consumer.positions(), []);
    consumer.commit().unwrap();
    assert_eq!(consumer.committed(&ids[0]).unwrap().unwrap().offset, Offset(1));
    assert_eq!(values(&poll(&mut consumer)), ["t-0:1=1", "t-0:2=2"], "behind what was committed");
    assert_eq!(values(&poll(&mut consumer)), ["t-1:0=0", "t-1:1=1"], "where the policy says");

    consumer.seek_to_committed(&ids[..1]).unwrap();
    assert_eq!(consumer.position(&ids[0]).unwrap(), Offset(1));
    assert_eq!(consumer.position(&ids[1]).unwrap(), Offset(2), "it was not named");
    let other = [ids[0].clone(), id("t", 2)];
    assert!(
        matches!(consumer.seek_to_committed(&other), Err(Error::NotAssigned { partition }) if partition == other[1])
    );
    assert_eq!(consumer.position(&ids[0]).unwrap(), Offset(1));
}

/// An answer that was asked for before the last commit led back to where the group had been then.
#[test]
fn who_goes_back_is_not_led_by_an_answer_of_before() {
    let (log, _) = open();
    topic(&log, "t", 1);
    let t = id("t", 0);
    fill(&log, &t, 3);
    log.group("g").unwrap().commit("t", 0, Offset(1)).unwrap();
    let mut consumer = reader(&log).assign([t.clone()]).unwrap();
    // Asked, and not looked at any more.
    consumer.fetch.ask_ahead(vec![t.clone()]);
    consumer.seek(&t, Offset(2)).unwrap();
    consumer.commit().unwrap();
    consumer.seek_to_committed(&[]).unwrap();
    assert_eq!(values(&poll(&mut consumer)), ["t-0:2=2"]);
}

#[test]
fn what_is_paused_keeps_its_place() {
    let (log, _) = open();
    topic(&log, "t", 2);
    let ids = [0, 1].map(|number| id("t", number));
    ids.iter().for_each(|id| fill(&log, id, 2));
    let mut consumer = reader(&log).max_poll_records(1).assign(ids.clone()).unwrap();
    consumer.pause(&ids[..1]).unwrap();
    assert_eq!(values(&poll(&mut consumer)), ["t-1:0=0"]);
    assert_eq!(values(&poll(&mut consumer)), ["t-1:1=1"]);
    assert!(poll(&mut consumer).is_empty());
    consumer.resume(&ids[..1]).unwrap();
    assert_eq!(values(&poll(&mut consumer)), ["t-0:0=0"]);
}

#[test]
fn where_nothing_was_committed_the_policy_says_where_to_begin() {
    let (log, clock) = open();
    topic(&log, "t", 1);
    let t = id("t", 0);
    fill(&log, &t, 2);
    clock.advance(10 * SECOND);
    append(&log, &t, "new");
    let begin = |reset| {
        let mut consumer = log.consumer("new").auto_offset_reset(reset).assign([t.clone()]).unwrap();
        consumer.position(&t)
    };
    assert_eq!(begin(AutoOffsetReset::Earliest).unwrap(), Offset(0));
    assert_eq!(begin(AutoOffsetReset::Latest).unwrap(), Offset(3));
    assert_eq!(begin(AutoOffsetReset::ByAge(5 * SECOND)).unwrap(), Offset(2));
    assert_eq!(begin(AutoOffsetReset::ByAge(20 * SECOND)).unwrap(), Offset(0));
    let error = begin(AutoOffsetReset::None).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string()),
        (ErrorKind::OutOfRange, "no offset is known to read t-0 from".into())
    );
    clock.advance(20 * SECOND);
    assert_eq!(begin(AutoOffsetReset::ByAge(5 * SECOND)).unwrap(), Offset(3), "all are older");
}

#[test]
fn who_was_overtaken_by_retention_is_told() {
    let (log, _) = open();
    topic(&log, "t", 1);
    let t = id("t", 0);
    fill(&log, &t, 6);
    let read = |reset| log.consumer("g").auto_offset_reset(reset).assign([t.clone()]).unwrap();
    log.group("g").unwrap().commit("t", 0, Offset(1)).unwrap();
    log.delete_before("t", 0, Offset(4)).unwrap();
    let mut consumer = read(AutoOffsetReset::Earliest);
    let polled = poll(&mut consumer);
    assert_eq!(values(&polled), ["t-0:4=4", "t-0:5=5"]);
    assert_eq!(polled.resets(), [Reset { partition: t.clone(), wanted: Offset(1), resumed: Offset(4) }]);
    assert!(poll(&mut consumer).resets().is_empty(), "once");

    let polled = poll(&mut read(AutoOffsetReset::Latest));
    assert!(polled.is_empty() && polled.resets()[0].resumed == Offset(6));
    let error = read(AutoOffsetReset::None).poll(Duration::ZERO).unwrap_err();
    assert_eq!(error.to_string(), "no offset is known to read t-0 from: there is no 1");
}

#[test]
fn a_reader_of_committed_data_waits_for_the_end_of_the_transaction() {
    let (log, _) = open();
    topic(&log, "t", 1);
    let t = id("t", 0);
    let builder = reader(&log).isolation(Isolation::Committed);
    let mut consumer = builder.assign([t.clone()]).unwrap();
    let mut producer = log.producer().transactional("p").unwrap();
    for commits in [true, false] {
        let mut transaction = producer.begin().unwrap();
        transaction.send(Record::new("inside").to("t")).unwrap();
        append(&log, &t, "behind");
        assert!(poll(&mut consumer).is_empty());
        let waiting = thread::scope(|scope| {
            let waiting = scope.spawn(|| consumer.poll(Duration::from_secs(600)).unwrap());
            let ended = if commits { transaction.commit() } else { transaction.abort() };
            ended.unwrap();
            waiting.join().unwrap()
        });
        let expected: &[&str] = if commits { &["t-0:0=inside", "t-0:1=behind"] } else { &["t-0:4=behind"] };
        assert_eq!(values(&waiting), expected);
    }
    assert_eq!((consumer.position(&t).unwrap(), consumer.lag(&t).unwrap()), (Offset(6), 0), "behind the marker");
    assert!(poll(&mut consumer).is_empty());
}

#[test]
fn who_waits_is_woken_by_a_record_in_any_of_its_partitions() {
    let (log, _) = open();
    topic(&log, "t", 3);
    let ids = [0, 1, 2].map(|number| id("t", number));
    let mut consumer = reader(&log).assign(ids.clone()).unwrap();
    for round in 0..30_u32 {
        let at = &ids[round as usize % 3];
        let polled = thread::scope(|scope| {
            let waiting = scope.spawn(|| consumer.poll(Duration::from_secs(600)).unwrap());
            append(&log, at, &round.to_string());
            waiting.join().unwrap()
        });
        assert_eq!(values(&polled), [format!("{at}:{}={round}", round / 3)]);
    }
}

#[test]
fn a_waker_ends_a_wait_once() {
    let (log, _) = open();
    topic(&log, "t", 1);
    let t = id("t", 0);
    let mut consumer = reader(&log).assign([t.clone()]).unwrap();
    let waker = consumer.waker();
    let polled = thread::scope(|scope| {
        let waiting = scope.spawn(|| consumer.poll(Duration::from_secs(600)).unwrap());
        waker.wake();
        waiting.join().unwrap()
    });
    assert!(polled.was_woken() && polled.is_empty());
    append(&log, &t, "x");
    waker.wake();
    waker.wake();
    assert!(poll(&mut consumer).was_woken(), "also if there is a record");
    let polled = poll(&mut consumer);
    assert!(!polled.was_woken() && !polled.is_empty());
}

#[test]
fn a_wait_without_records_ends_with_its_time() {
    let (log, _) = open();
    topic(&log, "t", 1);
    let mut consumer = reader(&log).assign([id("t", 0)]).unwrap();
    assert!(consumer.poll(Duration::from_millis(5)).unwrap().is_empty(), "though the clock of the log stands still");
}

#[test]
fn a_closed_log_and_a_deleted_topic_are_errors() {
    let (log, _) = open();
    ["t", "u"].iter().for_each(|name| topic(&log, name, 1));
    append(&log, &id("t", 0), "x");
    let ids = [id("t", 0), id("u", 0)];
    let mut consumer = reader(&log).assign(ids.clone()).unwrap();
    log.delete_topic("u").unwrap();
    assert_eq!(values(&poll(&mut consumer)), ["t-0:0=x"], "what others have comes all the same");
    assert!(matches!(consumer.poll(Duration::ZERO), Err(Error::TopicDeleted { .. })));

    let mut consumer = reader(&log).assign([ids[0].clone()]).unwrap();
    poll(&mut consumer);
    let closed = thread::scope(|scope| {
        let waiting = scope.spawn(|| consumer.poll(Duration::from_secs(600)));
        log.clone().close().unwrap();
        waiting.join().unwrap()
    });
    assert!(matches!(closed, Err(Error::Closed)));
    assert!(matches!(consumer.poll(Duration::ZERO), Err(Error::Closed)));
}

#[test]
fn commits_are_the_positions_or_what_is_said() {
    let (log, _) = open();
    topic(&log, "t", 2);
    let ids = [0, 1].map(|number| id("t", number));
    ids.iter().for_each(|id| fill(&log, id, 3));
    let mut consumer = reader(&log).max_poll_records(2).assign(ids.clone()).unwrap();
    poll(&mut consumer);
    consumer.commit().unwrap();
    let committed = |at: usize| log.group("g").unwrap().committed("t", at as u32).unwrap().map(|found| found.offset);
    assert_eq!((committed(0), committed(1)), (Some(Offset(2)), Some(Offset(0))));
    let partition = log.topic("t").unwrap().partition(0).unwrap();
    assert!(partition.offsets().synced >= Offset(2));
    consumer.commit_offsets(&[GroupOffset::new("t", 1, Offset(1)).metadata("m")]).unwrap();
    assert_eq!(&*consumer.committed(&ids[1]).unwrap().unwrap().metadata, "m");
    poll(&mut consumer);
    consumer.commit_with(Ack::Written).unwrap();
    assert_eq!((committed(0), committed(1)), (Some(Offset(2)), Some(Offset(2))));
}

#[test]
fn what_the_last_poll_returned_is_not_committed_by_itself() {
    let (log, clock) = open();
    topic(&log, "t", 1);
    let t = id("t", 0);
    fill(&log, &t, 6);
    let builder = reader(&log).max_poll_records(2).auto_commit(5 * SECOND);
    let mut consumer = builder.assign([t.clone()]).unwrap();
    poll(&mut consumer);
    assert_eq!(consumer.committed(&t).unwrap(), None);
    clock.advance(5 * SECOND);
    poll(&mut consumer);
    assert_eq!(consumer.committed(&t).unwrap().unwrap().offset, Offset(2));
    poll(&mut consumer);
    assert_eq!(consumer.committed(&t).unwrap().unwrap().offset, Offset(2), "not yet again");
    consumer.close().unwrap();
    assert_eq!(log.group("g").unwrap().committed("t", 0).unwrap().unwrap().offset, Offset(6));
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let (log, _) = open();
    topic(&log, "t", 1);
    let refused = [
        log.consumer("g").join().unwrap_err(),
        log.consumer("g").topics(["t"]).assignors([]).join().unwrap_err(),
        log.consumer("g").max_poll_records(0).assign([id("t", 0)]).unwrap_err(),
        log.consumer("g").topics(["t"]).heartbeat_interval(60 * SECOND).join().unwrap_err(),
        log.consumer("g").topics(["t"]).max_poll_interval(Duration::MAX).join().unwrap_err(),
        log.consumer("g").auto_commit(Duration::ZERO).assign([]).unwrap_err(),
        log.consumer("g").topics(["t"]).rebalance_timeout(Duration::ZERO).join().unwrap_err(),
        log.consumer("g").topics(["t"]).client_id(&"c".repeat(31_964)).join().unwrap_err(),
        log.consumer("g").topics(["t"]).instance_id(&"c".repeat(31_964)).join().unwrap_err(),
        log.consumer("g").topics(["t"]).instance_id("").join().unwrap_err(),
    ];
    assert!(refused.iter().all(|error| matches!(error, Error::InvalidSetting { .. })), "{refused:?}");
    let mut long = log.consumer("g").topics(["t"]).client_id(&"c".repeat(31_963)).join().unwrap();
    poll(&mut long);
    assert_eq!(long.assignment().len(), 1);
    assert!(matches!(log.consumer("").assign([]), Err(Error::InvalidGroupId { .. })));
    assert!(matches!(log.consumer("g").assign([id("u", 0)]), Err(Error::TopicNotFound { .. })));
    assert!(matches!(log.consumer("g").assign([id("t", 1)]), Err(Error::PartitionNotFound { .. })));
}

/// What a partition is filled with.
#[derive(Debug, Clone)]
enum Part {
    /// A batch of so many records.
    Batch(usize),
    /// A transaction of so many, and whether it is committed.
    Transaction(usize, bool),
    /// Compaction, which leaves gaps.
    Compaction,
}

fn any_part() -> impl Strategy<Value = Part> {
    prop_oneof![
        4 => (1..40_usize).prop_map(Part::Batch),
        2 => ((1..6_usize), any::<bool>()).prop_map(|(count, commits)| Part::Transaction(count, commits)),
        1 => Just(Part::Compaction),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, ..ProptestConfig::default() })]

    /// However many records a poll may return, and however they are stored, all polls together return what a scan does.
    #[test]
    fn polls_return_what_a_scan_does(
        parts in prop::collection::vec(any_part(), 1..14),
        max_records in 1..30_usize,
        committed: bool,
        compressed: bool,
        one_by_one: bool,
    ) {
        let (log, clock) = open();
        let config = TopicConfig::default().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.0).segment_bytes(2_000);
        let is_compressed = compressed && cfg!(feature = "lz4");
        let codec = if is_compressed { Compression::Lz4 { level: 9 } } else { Compression::Uncompressed };
        let t = log.create_topic("t", config.compression(codec)).unwrap();
        let partition = t.partition(0).unwrap();
        let mut producer = log.producer().transactional("p").unwrap();
        let keys: Vec<String> = (0..12).map(|key| key.to_string()).collect();
        let mut next = 0;
        let mut record = || {
            next += 1;
            Record::new("v").key(&keys[next * 7 % keys.len()])
        };
        for part in &parts {
            match part {
                Part::Batch(count) => {
                    let records: Vec<_> = (0..*count).map(|_| record()).collect();
                    let _ = partition.append_all(records).unwrap();
                }
                Part::Transaction(count, commits) => {
                    let mut transaction = producer.begin().unwrap();
                    (0..*count).for_each(|_| _ = transaction.append(&partition, record()).unwrap());
                    let ended = if *commits { transaction.commit() } else { transaction.abort() };
                    ended.unwrap();
                }
                Part::Compaction => {
                    log.sync().unwrap();
                    for _ in 0..40 {
                        clock.advance(20 * SECOND);
                        log.maintain().unwrap();
                    }
                }
            }
        }
        let isolation = if committed { Isolation::Committed } else { Isolation::Uncommitted };
        let options = crate::partition::ReadOptions::default().isolation(isolation);
        let (mut expected, mut at) = (Vec::new(), Offset::ZERO);
        loop {
            let records = partition.read_with(at, options).unwrap();
            expected.extend(records.iter().map(|record| record.offset));
            if records.next_offset() == at {
                break;
            }
            at = records.next_offset();
        }
        let builder = log.consumer("g").isolation(isolation).max_poll_records(max_records);
        let builder = builder.auto_offset_reset(AutoOffsetReset::Earliest).max_partition_bytes(700);
        let mut consumer = builder.assign([id("t", 0)]).unwrap();
        let mut found = Vec::new();
        while found.len() < expected.len() {
            if one_by_one {
                let consumed = consumer.iter().next().unwrap().unwrap();
                found.push(consumed.record().offset);
            } else {
                let polled = poll(&mut consumer);
                let count = polled.iter().count();
                prop_assert!((1..=max_records).contains(&count));
                let by_batch = polled.partitions().flat_map(|(_, records)| records.batches()).flatten();
                prop_assert_eq!(by_batch.count(), count);
                found.extend(polled.iter().map(|(_, record)| record.offset));
            }
        }
        prop_assert_eq!(found, expected);
        prop_assert!(poll(&mut consumer).is_empty());
        prop_assert_eq!(consumer.lag(&id("t", 0)).unwrap(), 0);
    }
}
