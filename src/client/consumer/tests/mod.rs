//! Consumers on a simulated disk, with a clock that the test moves; and what they do in threads.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests fail as tests do")]

mod by_hand;
mod faces;
mod group;
mod member;
mod mended;
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::config::{GroupConfig, TopicConfig};
use crate::group::assign::{Assignor, CooperativeSticky, Range};
use crate::log::{Background, LogBuilder};
use crate::record::Record;
use crate::sim::{DiskOptions, SimClock, SimDisk, SimEntropy};
use crate::types::Offset;

const SECOND: Duration = Duration::from_secs(1);

/// A log on a simulated disk, whose maintenance the test does.
fn builder(disk: &Arc<SimDisk>) -> LogBuilder {
    Log::builder("/log")
        .disk(Arc::<SimDisk>::clone(disk))
        .clock(disk.clock())
        .entropy(Arc::new(SimEntropy::new(7)))
        .background(Background::Caller)
        .groups(GroupConfig::default().initial_rebalance_delay(Duration::ZERO))
}

fn open() -> (Log, Arc<SimClock>) {
    let disk = SimDisk::new(DiskOptions::default());
    (builder(&disk).open().unwrap(), disk.clock())
}

fn topic(log: &Log, name: &str, partitions: u32) {
    log.create_topic(name, TopicConfig::default().partitions(partitions)).unwrap();
}

/// Appends a record to one partition.
fn append(log: &Log, id: &TopicPartition, value: &str) -> Offset {
    let partition = log.find_topic(&id.topic).unwrap().partition(id.partition).unwrap();
    partition.append(value).unwrap().offset()
}

fn id(topic: &str, partition: u32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

fn poll(consumer: &mut Consumer) -> Polled {
    consumer.poll(Duration::ZERO).unwrap()
}

/// What a poll returns, as text.
fn values(polled: &Polled) -> Vec<String> {
    polled.iter().map(|(id, record)| format!("{id}:{}={}", record.offset, text(record.value))).collect()
}

fn text(value: Option<&[u8]>) -> String {
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}

fn cooperative() -> [Arc<dyn Assignor>; 1] {
    [Arc::new(CooperativeSticky)]
}

fn eager() -> [Arc<dyn Assignor>; 1] {
    [Arc::new(Range)]
}

/// A member that begins at the start.
fn member(log: &Log, topics: &[&str], assignors: [Arc<dyn Assignor>; 1]) -> ConsumerBuilder {
    let builder = log.consumer("g").topics(topics.iter().copied());
    builder.auto_offset_reset(AutoOffsetReset::Earliest).assignors(assignors)
}

/// Lets a member join a group in which nobody else has a say: that takes one poll.
fn admit(consumer: &mut Consumer) -> Polled {
    poll(consumer)
}

/// Lets time pass, and all of them poll, until nothing changes any more. What they read goes to `each`.
fn settle_with(
    log: &Log,
    clock: &SimClock,
    consumers: &mut [&mut Consumer],
    mut each: impl FnMut(usize, &mut Consumer, Polled),
) {
    for _ in 0..12 {
        for (at, consumer) in consumers.iter_mut().enumerate() {
            let polled = poll(consumer);
            each(at, consumer, polled);
        }
        clock.advance(SECOND);
        log.maintain().unwrap();
    }
}

fn settle(log: &Log, clock: &SimClock, consumers: &mut [&mut Consumer]) {
    settle_with(log, clock, consumers, |_, _, _| {});
}

/// Who has which partition; none is anybody's twice.
fn owners(consumers: &[&Consumer]) -> BTreeMap<TopicPartition, usize> {
    let mut owners = BTreeMap::new();
    for (at, consumer) in consumers.iter().enumerate() {
        for id in consumer.assignment() {
            assert_eq!(owners.insert(id.clone(), at), None, "{id} has two owners");
        }
    }
    owners
}
