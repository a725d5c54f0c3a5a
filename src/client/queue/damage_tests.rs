//! Queues of topics that cannot be read, or not all of it; and of a log that stores some of what is decided.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests fail as tests do")]

use std::path::{Path, PathBuf};

use super::tests::*;
use super::*;
use crate::config::TopicConfig;
use crate::disk::{Disk, Open, write_all_at};
use crate::error::Error;
use crate::log::Staging;
use crate::record::BatchHeader;
use crate::sim::{DiskOptions, Errno, Fault, SimDisk, Times};

/// A log of topics with two partitions, whose batches hold one record each.
fn two_partitions(disk: &Arc<SimDisk>) -> Log {
    builder(disk, Staging::Off).default_config(TopicConfig::default().partitions(2)).open().unwrap()
}

fn append_to(log: &Log, partition: u32, value: &str) {
    drop(log.topic("a").unwrap().partition(partition).unwrap().append(value).unwrap());
}

fn segment(partition: u32) -> PathBuf {
    Path::new("/log").join(format!("a-{partition}")).join("00000000000000000000.log")
}

/// Turns a bit in the value of the batch at this place.
fn rot(disk: &SimDisk, partition: u32, number: usize) {
    let path = segment(partition);
    let file = disk.open(&path, Open::Write).unwrap();
    let bytes = disk.image().files().remove(&path).unwrap();
    let mut at = 0;
    for _ in 0..number {
        at += BatchHeader::read(&bytes[at..]).unwrap().batch_len as usize;
    }
    let at = at + BatchHeader::LEN + 6;
    write_all_at(&*file, &[bytes[at] ^ 1], at as u64).unwrap();
}

#[test]
fn what_was_taken_before_damage_is_handed_out_and_the_damage_is_told_next() {
    let disk = SimDisk::new(DiskOptions::default());
    let log = builder(&disk, Staging::Off).open().unwrap();
    append(&log, &["1", "2", "3"]);
    rot(&disk, 0, 1);
    let mut queue = queue(&log);
    let tasks = queue.take_many(100, NOW).unwrap();
    assert_eq!(tasks.iter().map(value).collect::<Vec<_>>(), ["1"]);
    let refused = queue.take_many(100, NOW).unwrap_err();
    assert!(matches!(refused, Error::Corrupt(_)), "{refused}");
    queue.accept_all(tasks).unwrap();
    assert_eq!(queue.progress()[0].start, Offset(1), "nothing is passed over");
}

#[test]
fn a_letter_of_a_record_that_cannot_be_read_says_where_it_is() {
    let disk = SimDisk::new(DiskOptions::default());
    let log = builder(&disk, Staging::Off).open().unwrap();
    append(&log, &["1", "2"]);
    let once = |log: &Log| log.queue("g", "a").max_deliveries(1).dead_letters("dead").open().unwrap();
    let mut queue = once(&log);
    let tasks = (take(&mut queue), take(&mut queue));
    // It is closed while they are with a worker, and each was tried as often as it may be.
    log.close().unwrap();
    drop((tasks, queue));
    rot(&disk, 0, 0);
    let log = builder(&disk, Staging::Off).open().unwrap();
    let mut queue = once(&log);
    assert!(queue.take(NOW).unwrap().is_none());
    let letters = letters(&log);
    let values: Vec<_> = letters.iter().map(|(value, _)| value.as_deref()).collect();
    assert_eq!(values, [None, Some("2")]);
    assert!(letters[0].1.contains(&"__dlq.errors.offset=0".into()), "{letters:?}");
    let records = log.topic("dead").unwrap().partition(0).unwrap().read(Offset::ZERO).unwrap();
    assert_eq!(records.iter().next().unwrap().key, Some(&b"a-0:0"[..]));
    assert_eq!(queue.backlog(), 0, "both are done");
}

#[test]
fn queues_are_listed_beside_a_partition_that_is_damaged_and_while_they_are_open() {
    let disk = SimDisk::new(DiskOptions::default());
    let log = two_partitions(&disk);
    (0..2).for_each(|partition| append_to(&log, partition, "1"));
    (0..2).for_each(|partition| append_to(&log, partition, "2"));
    let mut queue = queue(&log);
    let tasks = drain(&mut queue);
    assert_eq!(tasks.len(), 4);
    let listed = log.list_queues().unwrap();
    let of_open = |listed: &[crate::ListedQueue]| {
        let progress = listed[0].partitions.iter().map(|part| (part.start.0, part.next.0, part.end.0, part.taken));
        progress.collect::<Vec<_>>()
    };
    assert_eq!(of_open(&listed), [(0, 2, 2, 2), (0, 2, 2, 2)]);
    tasks.into_iter().for_each(|task| task.accept().unwrap());
    assert_eq!(of_open(&log.list_queues().unwrap()), [(2, 2, 2, 0), (2, 2, 2, 0)]);
    drop(queue);
    (0..2).for_each(|partition| append_to(&log, partition, "3"));
    log.close().unwrap();

    // Its first segment is no more where it was.
    disk.rename(&segment(0), &segment(0).with_extension("lost")).unwrap();
    let log = two_partitions(&disk);
    assert!(log.topic("a").unwrap().partition(0).is_err(), "it is damaged");
    let listed = log.list_queues().unwrap();
    assert_eq!(of_open(&listed), [(2, 2, 2, 0), (2, 2, 3, 0)], "of what is damaged nobody knows the end");
}

#[test]
fn what_could_not_be_stored_is_told_and_all_else_is_accepted() {
    let mut halves = 0;
    for call in 0.. {
        let disk = SimDisk::new(DiskOptions::default());
        let log = two_partitions(&disk);
        (0..2).for_each(|partition| append_to(&log, partition, "1"));
        let mut workers = queue(&log);
        let tasks = drain(&mut workers);
        disk.inject(disk.calls() + call, Fault::Error(Errno::Full), Times::Once);
        let accepted = workers.accept_all(tasks);
        let has_failed = disk.struck() > 0;
        assert_eq!(accepted.is_err(), has_failed, "call {call}: {accepted:?}");
        disk.heal();
        let open: Vec<_> = workers.progress().iter().map(|part| part.in_flight).collect();
        assert!(open.iter().sum::<usize>() <= 1, "one call failed: {open:?}");
        halves += u64::from(open.iter().sum::<usize>() == 1);
        // What was not stored is with its worker still, and is given back with him.
        drop(workers);
        let mut workers = queue(&log);
        let again: Vec<_> = drain(&mut workers).iter().map(|task| task.partition().partition as usize).collect();
        let left: Vec<_> = (0..2).filter(|partition| open[*partition] > 0).collect();
        assert_eq!(again, left, "call {call}");
        drop(workers);
        drop(log);
        let mut workers = queue(&two_partitions(&disk.kill()));
        let again: Vec<_> = drain(&mut workers).iter().map(|task| task.partition().partition as usize).collect();
        assert_eq!(again, left, "call {call}, by the next process");
        if !has_failed {
            break;
        }
    }
    assert!(halves > 0, "one of two was stored");
}
