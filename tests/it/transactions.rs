//! Producers that store once, and transactions that count as a whole: what a user of the crate sees of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use chiplog::record::{BatchBuilder, BatchOptions, Producer};
use chiplog::{
    Ack, Error, ErrorKind, GroupOffset, Isolation, Log, Offset, Partition, ProducerEpoch, ProducerId, ReadOptions,
    Record, Staging, Ticket, Timestamp, TopicConfig,
};

use crate::support::{ManualClock, by_hand, text, values};

/// The values of committed records, as text.
fn committed(log: &Log, topic: &str) -> Vec<String> {
    let partition = log.topic(topic).unwrap().partition(0).unwrap();
    committed_in(&partition)
}

fn committed_in(partition: &Partition) -> Vec<String> {
    let options = ReadOptions::default().isolation(Isolation::Committed);
    let (mut values, mut at) = (Vec::new(), partition.offsets().start);
    while at < partition.offsets().stable {
        let records = partition.read_with(at, options).unwrap();
        values.extend(records.iter().map(|record| text(record.value)));
        at = records.next_offset();
    }
    values
}

#[test]
fn a_transaction_is_seen_as_a_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let mut producer = log.producer().transactional("t").unwrap();
    for (number, ends_well) in [(1, true), (2, false), (3, true)] {
        let mut transaction = producer.begin().unwrap();
        for topic in ["a", "b", "a"] {
            transaction.send(Record::new(&*number.to_string()).to(topic)).unwrap();
        }
        let before = (committed(&log, "a"), committed(&log, "b"));
        assert!(!before.0.contains(&number.to_string()) && !before.1.contains(&number.to_string()));
        match ends_well {
            true => transaction.commit().unwrap(),
            false => transaction.abort().unwrap(),
        }
    }
    assert_eq!((committed(&log, "a"), committed(&log, "b")), (texts(&["1", "1", "3", "3"]), texts(&["1", "3"])));
    let all = values(&log.topic("a").unwrap().partition(0).unwrap());
    assert_eq!(all, ["1", "1", "2", "2", "3", "3"], "who does not ask for committed records sees all");
    drop(producer);
    log.close().unwrap();
    let log = Log::open(dir.path()).unwrap();
    assert_eq!((committed(&log, "a"), committed(&log, "b")), (texts(&["1", "1", "3", "3"]), texts(&["1", "3"])));
}

fn texts(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

#[test]
fn a_transaction_that_is_open_at_the_close_is_aborted_by_the_next_open() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let mut producer = log.producer().transactional("t").unwrap();
    let mut transaction = producer.begin().unwrap();
    transaction.send(Record::new("open").to("a")).unwrap();
    std::mem::forget(transaction);
    log.close().unwrap();
    let reader = Log::builder(dir.path()).read_only().open().unwrap();
    let offsets = reader.topic("a").unwrap().partition(0).unwrap().offsets();
    assert_eq!((offsets.stable, offsets.end), (Offset(0), Offset(1)), "who only reads changes nothing");
    assert!(matches!(reader.producer().transactional("t"), Err(Error::ReadOnly)));
    assert!(matches!(reader.producer().idempotent(), Err(Error::ReadOnly)));
    drop(reader);
    let log = Log::open(dir.path()).unwrap();
    let offsets = log.topic("a").unwrap().partition(0).unwrap().offsets();
    assert_eq!((offsets.stable, offsets.end), (Offset(2), Offset(2)));
    assert!(committed(&log, "a").is_empty());
    assert!(matches!(producer.begin(), Err(Error::Closed)), "of the log that was closed");
}

/// A foreign coordinator's transaction is not ours to end: whoever began it goes on after a restart.
#[test]
fn a_transaction_of_batches_that_others_encoded_stays_open_until_it_is_ended_by_call() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let partition = log.topic("a").unwrap().partition(0).unwrap();
    partition.append_raw(&transactional(ProducerId(7), 0)).unwrap();
    drop(partition);
    log.close().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let partition = log.topic("a").unwrap().partition(0).unwrap();
    assert_eq!(partition.offsets().stable, Offset(0));
    partition.append_raw(&transactional(ProducerId(7), 1)).unwrap();
    assert_eq!(partition.end_transaction(ProducerId(7), Offset(1), true).unwrap(), None, "there it did not begin");
    assert_eq!(partition.end_transaction(ProducerId(7), Offset(0), true).unwrap(), Some(Offset(2)));
    assert_eq!(partition.end_transaction(ProducerId(7), Offset(0), false).unwrap(), None, "it is over");
    assert_eq!(committed_in(&partition).len(), 2);
    let id = log.producer().idempotent().unwrap().id();
    assert!(id > ProducerId(7), "an id that others brought along is nobody else's: {id}");
}

fn transactional(id: ProducerId, base_sequence: i32) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    let producer = Producer { id, epoch: ProducerEpoch(0), base_sequence, is_transactional: true };
    builder.begin(BatchOptions::default().producer(producer));
    builder.push(&Record::new("raw"), Timestamp(1_700_000_000_000)).unwrap();
    builder.finish().unwrap().to_vec()
}

#[test]
fn offsets_of_a_group_count_with_the_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let group = log.group("g").unwrap();
    let of = |log: &Log| {
        let found = log.group("g").unwrap().committed("orders", 0).unwrap();
        found.map(|committed| committed.offset.0)
    };
    let mut producer = log.producer().transactional("t").unwrap();
    for (offset, ends_well) in [(1, false), (2, true), (3, false)] {
        let mut transaction = producer.begin().unwrap();
        transaction.commit_offsets(&group, &[GroupOffset::new("orders", 0, Offset(offset))]).unwrap();
        let before = of(&log);
        match ends_well {
            true => transaction.commit_with(Ack::Written).unwrap(),
            false => drop(transaction),
        }
        let after = if ends_well { Some(offset) } else { before };
        assert_eq!(of(&log), after);
    }
    // One that is open, and a plain commit that comes behind it.
    let mut transaction = producer.begin().unwrap();
    transaction.commit_offsets(&group, &[GroupOffset::new("orders", 0, Offset(9))]).unwrap();
    group.commit("orders", 0, Offset(4)).unwrap();
    transaction.commit().unwrap();
    assert_eq!(of(&log), Some(4), "the one that is higher in the log holds");
    drop((producer, group));
    log.close().unwrap();
    assert_eq!(of(&Log::open(dir.path()).unwrap()), Some(4));
}

#[test]
fn a_producer_numbers_its_records_and_a_batch_of_them_is_one() {
    for staging in [Staging::On, Staging::Off] {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::builder(dir.path()).staging(staging).open().unwrap();
        let partition = log.topic("a").unwrap().partition(0).unwrap();
        let (mut one, mut other) = (log.producer().idempotent().unwrap(), log.producer().idempotent().unwrap());
        for _ in 0..3 {
            one.append(&partition, "one").unwrap();
            one.append(&partition, "one").unwrap();
            other.append(&partition, "other").unwrap();
            partition.append("plain").unwrap();
        }
        assert!(one.append(&partition, Record::new("far too old").timestamp(Timestamp(-7))).is_err());
        let long = vec![b'x'; 300_000];
        one.append(&partition, &long[..]).unwrap();
        one.append(&partition, "one").unwrap();
        let known: Vec<_> =
            partition.producers().iter().map(|known| (known.producer_id, known.last_sequence)).collect();
        assert_eq!(known, [(one.id(), Some(7)), (other.id(), Some(2))], "a refused record has no number");
        let records = partition.read_with(Offset(0), ReadOptions::default().max_bytes(1 << 20)).unwrap();
        let mut next = std::collections::BTreeMap::new();
        for batch in records.batches() {
            let header = *batch.header();
            if header.producer_id.is_some() {
                assert_eq!(*next.entry(header.producer_id).or_insert(0), header.base_sequence);
                next.insert(header.producer_id, header.base_sequence + header.record_count);
            }
        }
        drop((one, other, partition, records));
        log.close().unwrap();
        let log = Log::open(dir.path()).unwrap();
        let again = log.topic("a").unwrap().partition(0).unwrap();
        let after: Vec<_> = again.producers().iter().map(|known| (known.producer_id, known.last_sequence)).collect();
        assert_eq!(after, known);
        assert_eq!(again.offsets().end, Offset(14));
        let report = log.verify(&chiplog::VerifyOptions::default()).unwrap();
        assert!(report.findings().is_empty(), "{report:?}");
    }
}

#[test]
fn a_record_of_a_codec_is_numbered_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let config = TopicConfig::default().set("compression.type", "lz4").unwrap();
    let Ok(topic) = log.create_topic("a", config) else { return };
    let partition = topic.partition(0).unwrap();
    let mut producer = log.producer().transactional("t").unwrap();
    for number in 0..3 {
        let mut transaction = producer.begin().unwrap();
        for _ in 0..5 {
            transaction.append(&partition, "0123456789012345678901234567890123456789").unwrap();
        }
        match number {
            1 => transaction.abort().unwrap(),
            _ => transaction.commit().unwrap(),
        }
    }
    assert_eq!(committed_in(&partition).len(), 10);
    assert_eq!(partition.producers()[0].last_sequence, Some(14));
}

#[test]
fn a_record_that_is_refused_leaves_the_transaction_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let topic = log.create_topic("a", TopicConfig::default().set("max.message.bytes", "1000").unwrap()).unwrap();
    let mut producer = log.producer().transactional("t").unwrap();
    let mut transaction = producer.begin().unwrap();
    let long = vec![0; 2_000];
    for value in [&b"one"[..], &long, b"two", &long] {
        let sent = transaction.send(Record::new(value).to("a"));
        assert_eq!(sent.is_ok(), value.len() < 1_000);
    }
    assert!(matches!(transaction.send(Record::new("x").to("__consumer_offsets")), Err(Error::InternalTopic { .. })));
    transaction.commit().unwrap();
    assert_eq!(committed(&log, "a"), ["one", "two"]);
    let known = topic.partition(0).unwrap().producers()[0];
    assert_eq!(known.last_sequence, Some(1), "a refused record has no number");
}

/// Each would have taken the other log's partition for one of its own.
#[test]
fn a_partition_of_another_log_is_refused() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (log, other) = (Log::open(dir.path()).unwrap(), Log::open(other.path()).unwrap());
    let foreign = other.topic("a").unwrap().partition(0).unwrap();
    let mut producer = log.producer().transactional("t").unwrap();
    let mut transaction = producer.begin().unwrap();
    assert!(matches!(transaction.append(&foreign, "x"), Err(Error::TopicNotFound { .. })));
    transaction.commit().unwrap();
    let refused = log.producer().idempotent().unwrap().append(&foreign, "x").map(|appended| appended.offset());
    assert!(matches!(refused, Err(Error::TopicNotFound { .. })));
    assert_eq!(foreign.offsets().end, Offset(0));
}

#[test]
fn whoever_takes_an_id_ends_what_its_holder_had_begun() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let mut old = log.producer().transactional("t").unwrap();
    let mut transaction = old.begin().unwrap();
    transaction.send(Record::new("old").to("a")).unwrap();
    let mut new = log.producer().transactional("t").unwrap();
    assert_eq!(new.epoch(), ProducerEpoch(1));
    let refused = transaction.send(Record::new("old").to("a")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Fenced);
    assert!(matches!(transaction.commit(), Err(Error::ProducerFenced { current: ProducerEpoch(1), .. })));
    let mut transaction = new.begin().unwrap();
    transaction.send(Record::new("new").to("a")).unwrap();
    transaction.commit().unwrap();
    assert_eq!(committed(&log, "a"), ["new"]);
    assert!(matches!(log.producer().transactional(""), Err(Error::InvalidTransactionalId { .. })));
    let endless = log.producer().transaction_timeout(Duration::ZERO).transactional("t");
    assert!(matches!(endless, Err(Error::InvalidSetting { .. })));
    assert_eq!(log.delete_topic("__transaction_state").unwrap_err().kind(), ErrorKind::Invalid);
}

/// The background thread slept for up to a minute, and a transaction with a shorter time-out stayed open for as long.
#[test]
fn the_background_thread_comes_by_when_a_transaction_is_due() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let partition = log.topic("a").unwrap().partition(0).unwrap();
    log.sync().unwrap();
    thread::sleep(Duration::from_millis(50));
    let builder = log.producer().transaction_timeout(Duration::from_millis(20));
    let mut producer = builder.transactional("t").unwrap();
    let mut transaction = producer.begin().unwrap();
    transaction.append(&partition, "x").unwrap();
    assert!(partition.wait_readable(Offset(1), Duration::from_secs(30)).unwrap(), "no marker came");
    assert!(matches!(transaction.commit(), Err(Error::InvalidTransaction { .. })));
}

#[test]
fn a_prepared_transaction_waits_for_its_outcome_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new();
    let open = || by_hand(dir.path()).clock(clock.clone()).open().unwrap();
    let log = open();
    let mut tickets = Vec::new();
    for id in ["one", "two"] {
        let mut producer = log.producer().transactional(id).unwrap();
        let mut transaction = producer.begin().unwrap();
        transaction.send(Record::new(id).to("a")).unwrap();
        let group = log.group("g").unwrap();
        transaction.commit_offsets(&group, &[GroupOffset::new(id, 0, Offset(5))]).unwrap();
        tickets.push(transaction.prepare().unwrap());
        assert!(matches!(producer.begin(), Err(Error::InvalidTransaction { .. })));
        assert!(matches!(log.producer().transactional(id), Err(Error::InvalidTransaction { .. })));
    }
    clock.advance(Duration::from_secs(1_000_000));
    log.maintain().unwrap();
    assert!(committed(&log, "a").is_empty());
    log.close().unwrap();
    let log = open();
    assert_eq!(log.prepared().unwrap(), tickets);
    let of_text: Ticket = tickets[0].to_string().parse().unwrap();
    log.commit_prepared(&of_text).unwrap();
    log.abort_prepared(&tickets[1]).unwrap();
    log.commit_prepared(&of_text).unwrap();
    for wrong in [log.abort_prepared(&of_text), log.commit_prepared(&tickets[1])] {
        assert!(matches!(wrong, Err(Error::NotPrepared { .. })), "{wrong:?}");
    }
    let check = |log: &Log| {
        assert_eq!(committed(log, "a"), ["one"]);
        let group = log.group("g").unwrap();
        let offsets: Vec<_> =
            group.offsets().unwrap().into_iter().map(|(partition, _)| partition.to_string()).collect();
        assert_eq!(offsets, ["one-0"]);
    };
    check(&log);
    assert!(log.producer().transactional("two").unwrap().begin().is_ok());
    log.close().unwrap();
    check(&open());
}

#[test]
fn a_topic_that_is_deleted_takes_its_part_of_a_transaction_along() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let mut producer = log.producer().transactional("t").unwrap();
    let mut transaction = producer.begin().unwrap();
    for topic in ["a", "b"] {
        transaction.send(Record::new("x").to(topic)).unwrap();
    }
    log.delete_topic("a").unwrap();
    transaction.commit().unwrap();
    assert_eq!(committed(&log, "b"), ["x"]);
    let mut transaction = producer.begin().unwrap();
    transaction.send(Record::new("y").to("a")).unwrap();
    transaction.commit().unwrap();
    drop(producer);
    log.close().unwrap();
    let log = Log::open(dir.path()).unwrap();
    assert_eq!((committed(&log, "a"), committed(&log, "b")), (texts(&["y"]), texts(&["x"])));
}

/// What a partition of naive make holds: every record, whose it is, and what became of that.
#[derive(Debug, Default)]
struct Naive {
    /// The value, and the transaction it is of.
    records: Vec<(Option<String>, Option<usize>)>,
    /// Where each began, and how it ended.
    transactions: Vec<(u64, Option<bool>)>,
    /// The one that each producer has open, and its next number.
    producers: [(Option<usize>, i32); 3],
}

impl Naive {
    fn stable(&self) -> u64 {
        let open = self.transactions.iter().filter(|(_, outcome)| outcome.is_none());
        open.map(|(first, _)| *first).min().unwrap_or(self.records.len() as u64)
    }

    fn committed_from(&self, from: u64) -> Vec<(u64, String)> {
        let counts = |owner: Option<usize>| owner.is_none_or(|owner| self.transactions[owner].1 == Some(true));
        let stable = (0..).zip(&self.records).take(self.stable() as usize).skip(from as usize);
        stable
            .filter(|(_, (_, owner))| counts(*owner))
            .filter_map(|(at, (value, _))| Some((at, value.clone()?)))
            .collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Readers of committed data see what a naive reader sees who knows how everything ended, whatever the limits of their
    /// reads, over segments and restarts.
    #[test]
    fn committed_reads_are_those_of_a_naive_reader(
        steps in prop::collection::vec((0..12_u8, 0..3_usize), 0..60),
        max_bytes in 1..400_usize,
        from: prop::sample::Index,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let open = || by_hand(dir.path()).default_config(TopicConfig::default().segment_bytes(400)).open().unwrap();
        let (mut log, mut naive) = (open(), Naive::default());
        let partition = |log: &Log| log.topic("a").unwrap().partition(0).unwrap();
        for (step, at) in steps {
            let here = partition(&log);
            let (id, end) = (ProducerId(7 + at as i64), naive.records.len() as u64);
            let (open_now, sequence) = naive.producers[at];
            match (step, open_now) {
                (0..=4, _) => {
                    let owner = open_now.unwrap_or_else(|| {
                        naive.transactions.push((end, None));
                        naive.transactions.len() - 1
                    });
                    prop_assert_eq!(here.append_raw(&transactional(id, sequence)).unwrap().offset(), Offset(end));
                    naive.producers[at] = (Some(owner), sequence + 1);
                    naive.records.push((Some("raw".to_owned()), Some(owner)));
                }
                (5..=8, Some(owner)) => {
                    let (first, outcome) = &mut naive.transactions[owner];
                    let marker = here.end_transaction(id, Offset(*first), step < 7).unwrap();
                    prop_assert_eq!(marker, Some(Offset(end)));
                    (*outcome, naive.producers[at].0) = (Some(step < 7), None);
                    naive.records.push((None, None));
                }
                (5..=8, None) => prop_assert_eq!(here.end_transaction(id, Offset(end), true).unwrap(), None),
                (9 | 10, _) => {
                    let value = format!("plain {end}");
                    here.append(&*value).unwrap();
                    naive.records.push((Some(value), None));
                }
                _ => {
                    drop(here);
                    log.close().unwrap();
                    log = open();
                }
            }
            prop_assert_eq!(partition(&log).offsets().stable, Offset(naive.stable()));
        }
        let here = partition(&log);
        let from = from.index(naive.stable() as usize + 1) as u64;
        let options = ReadOptions::default().isolation(Isolation::Committed).max_bytes(max_bytes);
        let (mut seen, mut at) = (Vec::new(), Offset(from));
        while at < here.offsets().stable {
            let records = here.read_with(at, options).unwrap();
            seen.extend(records.iter().map(|record| (record.offset.0, text(record.value))));
            prop_assert!(records.next_offset() > at);
            at = records.next_offset();
        }
        prop_assert_eq!(seen, naive.committed_from(from));
    }
}

/// A backup has each transaction as a whole or not at all, whatever goes on meanwhile.
#[test]
fn a_backup_beside_transactions_has_none_in_part() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path().join("log")).unwrap();
    let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writer = {
        let (log, is_over) = (log.clone(), Arc::clone(&is_over));
        let mut producer = log.producer().transactional("t").unwrap();
        thread::spawn(move || {
            for number in 0_u64.. {
                if is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                let mut transaction = producer.begin().unwrap();
                for topic in ["a", "b", "c"] {
                    transaction.send(Record::new(&*number.to_string()).to(topic)).unwrap();
                }
                let done = GroupOffset::new("a", 0, Offset(number + 1));
                transaction.commit_offsets(&log.group("g").unwrap(), &[done]).unwrap();
                transaction.commit_with(Ack::Written).unwrap();
            }
        })
    };
    for number in 0..5 {
        let target = dir.path().join(format!("backup-{number}"));
        log.backup(&target).unwrap();
        let backup = Log::open(&target).unwrap();
        assert!(backup.damaged().is_empty());
        let [a, b, c] = ["a", "b", "c"].map(|topic| committed(&backup, topic));
        assert!(a == b && b == c, "{} in a, {} in b, {} in c", a.len(), b.len(), c.len());
        let group = backup.group("g").unwrap().committed("a", 0).unwrap();
        assert_eq!(group.map_or(0, |committed| committed.offset.0), a.len() as u64);
    }
    is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();
}

/// Money moves between accounts from four threads, and a reader of committed data sees none appear or vanish.
#[test]
fn transactions_of_several_threads_do_not_mix() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let topic = log.create_topic("accounts", TopicConfig::default().partitions(3)).unwrap();
    let partitions: Arc<Vec<Partition>> = Arc::new((0..3).map(|at| topic.partition(at).unwrap()).collect());
    let threads = (0..4_usize).map(|thread| {
        let (log, partitions) = (log.clone(), Arc::clone(&partitions));
        thread::spawn(move || {
            let mut producer = log.producer().transactional(&format!("t{thread}")).unwrap();
            for number in 0..200_usize {
                let mut transaction = producer.begin().unwrap();
                let value = format!("{thread}.{number}");
                transaction.append(&partitions[number % 3], &*value).unwrap();
                transaction.append(&partitions[(number + 1 + thread) % 3], &*value).unwrap();
                match number % 5 {
                    0 => drop(transaction),
                    _ => transaction.commit_with(Ack::Written).unwrap(),
                }
            }
        })
    });
    let threads: Vec<_> = threads.collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let mut seen = std::collections::BTreeMap::new();
    for partition in partitions.iter() {
        assert_eq!(partition.offsets().stable, partition.offsets().end);
        committed_in(partition).into_iter().for_each(|value| *seen.entry(value).or_insert(0) += 1);
    }
    let whole: BTreeSet<_> = seen.iter().filter(|(_, count)| **count == 2).map(|(value, _)| value).collect();
    assert_eq!((whole.len(), seen.len()), (4 * 160, 4 * 160));
}
