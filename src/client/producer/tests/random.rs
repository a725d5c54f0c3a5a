//! Random sends, waits, time, and disks that are full for a while; then an end in order, a kill or a power cut. What was told is
//! held against what the log has.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use super::super::sent::AGAIN;
use super::{builder, values};
use crate::client::{Delivered, Producer, Sent};
use crate::clock::Clock;
use crate::config::{Durability, TopicConfig};
use crate::error::{Error, ErrorKind, Result as Told};
use crate::log::{Log, Partitioning, Staging};
use crate::partition::Ack;
use crate::partition::core::Core;
use crate::record::{Codec, Compression, Record};
use crate::sim::{DiskOptions, Rng, SimDisk};
use crate::types::TopicPartition;

/// More partitions than are there at first.
const TOPICS: [(&str, u32); 2] = [("a", 3), ("b", 1)];
const PARTITIONS_MAX: u32 = 5;

/// What a callback was told, and whether that was durable then.
type Book = Arc<Mutex<Vec<(usize, Told<Delivered>, bool)>>>;
type Cores = Arc<Mutex<BTreeMap<TopicPartition, Arc<Core>>>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Flush,
    Close,
    Drop,
    CloseLog,
    Kill,
    PowerCut,
}

/// A record that was accepted.
struct Entry {
    key: Option<String>,
    at: Duration,
    sent: Option<Sent>,
    /// Set when the task that waits for it was woken.
    woken: Option<Arc<Flag>>,
    told: Option<Told<Delivered>>,
}

#[derive(Debug, Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct World {
    rng: Rng,
    disk: Arc<SimDisk>,
    log: Log,
    producer: Option<Producer>,
    linger: Duration,
    delivery_timeout: Duration,
    buffer_bytes: usize,
    is_synced: bool,
    book: Book,
    cores: Cores,
    entries: Vec<Entry>,
    is_full: bool,
    healed: Duration,
    is_ending: bool,
    failed: usize,
}

/// One run. Returns how many records were delivered, and how many were told otherwise.
pub(super) fn run(seed: u64) -> Result<(usize, usize), String> {
    let mut world = World::begin(seed);
    let steps = world.rng.between(5, 120);
    for step in 0..steps {
        world.step().map_err(|what| format!("seed {seed}, step {step}: {what}"))?;
    }
    world.end().map_err(|what| format!("seed {seed}, at the end: {what}"))
}

impl World {
    fn begin(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let disk = SimDisk::new(DiskOptions::default());
        let staging = *rng.pick(&[Staging::On, Staging::Off]);
        let log = builder(&disk, staging).open().unwrap();
        let cores = Cores::default();
        let durability = if rng.chance(1, 8) { Durability::Each } else { Durability::Os };
        for (name, partitions) in TOPICS {
            let config = TopicConfig::default().partitions(partitions).durability(durability).segment_bytes(4096);
            note_cores(&cores, &log.create_topic(name, config).unwrap());
        }
        let linger = Duration::from_millis(*rng.pick(&[0, 5, 5, 30]));
        let delivery_timeout = Duration::from_millis(*rng.pick(&[0, 150, 2_000]));
        let (batch_bytes, buffer_bytes) = (*rng.pick(&[0, 150, 400]), *rng.pick(&[1_200, 4_000]));
        let is_synced = rng.chance(1, 2);
        let ways = [Partitioning::Murmur2, Partitioning::Crc32, Partitioning::RoundRobin, Partitioning::Sticky];
        let codec = if Codec::Lz4.is_supported() && rng.chance(1, 4) { Codec::Lz4 } else { Codec::None };
        let producer = log
            .producer()
            .linger(linger)
            .batch_bytes(batch_bytes)
            .buffer_bytes(buffer_bytes)
            .max_block(Duration::ZERO)
            .delivery_timeout(delivery_timeout)
            .acks(if is_synced { Ack::Synced } else { Ack::Written })
            .partitioner(rng.pick(&ways).clone())
            .compression(Compression::new(codec))
            .numbered(rng.chance(3, 4))
            .build()
            .unwrap();
        let (book, entries) = (Book::default(), Vec::new());
        let (is_full, healed, is_ending, failed) = (false, Duration::ZERO, false, 0);
        Self {
            rng,
            disk,
            log,
            producer: Some(producer),
            linger,
            delivery_timeout,
            buffer_bytes,
            is_synced,
            book,
            cores,
            entries,
            is_full,
            healed,
            is_ending,
            failed,
        }
    }

    fn producer(&self) -> &Producer {
        self.producer.as_ref().unwrap()
    }

    fn now(&self) -> Duration {
        self.disk.clock().monotonic()
    }

    fn step(&mut self) -> Result<(), String> {
        match self.rng.weighted(&[60, 12, 4, 4, 18, 3, 6, 4, 1]) {
            0 => self.send(false)?,
            1 => self.send(true)?,
            2 if !self.is_full => self.flush()?,
            3 if !self.is_full => self.wait()?,
            4 => self.pass_time()?,
            5 => {
                self.disk.set_free(Some(0));
                self.is_full = true;
            }
            6 => self.heal(),
            7 => self.poll(),
            8 => self.add_partition(),
            _ => {}
        }
        self.look()?;
        let kept = self.producer().kept_bytes();
        if kept > self.buffer_bytes { Err(format!("{kept} bytes are kept")) } else { Ok(()) }
    }

    fn send(&mut self, names_partition: bool) -> Result<(), String> {
        let number = self.entries.len();
        let key = self.rng.chance(1, 2).then(|| self.rng.below(6).to_string());
        let len = if self.rng.chance(1, 20) { 600 } else { self.rng.between(8, 90) as usize };
        let value = format!("{number:0len$}");
        let mut record = Record::new(&*value);
        record.key = key.as_ref().map(|key| key.as_bytes());
        let (topic, _) = *self.rng.pick(&TOPICS);
        let sent = if names_partition {
            let topic = self.log.find_topic(topic).unwrap();
            let partition = self.rng.below(u64::from(topic.partition_count())) as u32;
            self.producer().send_to(&topic.partition(partition).unwrap(), record).map(Some)
        } else if self.rng.chance(1, 2) {
            let (book, cores) = (Arc::clone(&self.book), Arc::clone(&self.cores));
            let note = move |told: Told<Delivered>| {
                let is_durable = told.as_ref().is_ok_and(|delivered| is_synced(&cores, delivered));
                book.lock().push((number, told, is_durable));
            };
            self.producer().send_with(record.to(topic), note).map(|()| None)
        } else {
            self.producer().send(record.to(topic)).map(Some)
        };
        match sent {
            Ok(sent) => {
                let at = self.now();
                self.entries.push(Entry { key, at, sent, woken: None, told: None });
                Ok(())
            }
            Err(Error::BufferFull { .. }) if self.is_short_of_space() => Ok(()),
            Err(error) => Err(format!("refused: {error}")),
        }
    }

    /// Whether something may still be kept because the disk is full, or was.
    fn is_short_of_space(&self) -> bool {
        self.is_full || self.now() < self.healed + AGAIN
    }

    fn flush(&mut self) -> Result<(), String> {
        // What was sent before and did fail, it tells.
        let flushed = self.producer().flush();
        self.look()?;
        let untold = self.entries.iter().filter(|entry| entry.told.is_none()).count();
        if untold > 0 || self.producer().kept_bytes() > 0 {
            return Err(format!("{untold} records are not told after a flush: {flushed:?}"));
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), String> {
        let untold = self.entries.iter().filter(|entry| entry.told.is_none());
        if let Some(sent) = untold.filter_map(|entry| entry.sent.as_ref()).next_back() {
            let _ = sent.wait();
            if sent.told().is_none() {
                return Err("not told after a wait".to_owned());
            }
        }
        Ok(())
    }

    fn poll(&mut self) {
        for entry in self.entries.iter_mut().filter(|entry| entry.told.is_none()) {
            let flag = Arc::new(Flag::default());
            let waker = Waker::from(Arc::clone(&flag));
            let Some(sent) = &mut entry.sent else { continue };
            if Pin::new(sent).poll_once(&waker).is_pending() {
                entry.woken = Some(flag);
            }
        }
    }

    fn pass_time(&mut self) -> Result<(), String> {
        self.disk.clock().advance(Duration::from_millis(*self.rng.pick(&[1, 3, 5, 40, 150])));
        let _ = self.log.maintain();
        self.look()?;
        let now = self.now();
        let since = |entry: &Entry| (entry.at + self.linger).max(self.healed + AGAIN);
        let is_late = |entry: &&Entry| entry.told.is_none() && since(entry) <= now;
        match self.entries.iter().position(|entry| is_late(&entry)) {
            Some(late) if !self.is_full => {
                Err(format!("{late} lingers since {:?}, it is {now:?}", self.entries[late].at))
            }
            _ => Ok(()),
        }
    }

    fn heal(&mut self) {
        self.disk.set_free(None);
        self.healed = self.now();
        self.is_full = false;
    }

    fn add_partition(&mut self) {
        let topic = self.log.find_topic("a").unwrap();
        let count = topic.partition_count();
        if count < PARTITIONS_MAX && !self.is_full {
            self.log.alter_topic("a", topic.config().partitions(count + 1)).unwrap();
            note_cores(&self.cores, &topic);
        }
    }

    /// Takes in what was told.
    fn look(&mut self) -> Result<(), String> {
        let told = std::mem::take(&mut *self.book.lock());
        for (number, told, is_durable) in told {
            self.take_in(number, told, is_durable)?;
        }
        for number in 0..self.entries.len() {
            let entry = &self.entries[number];
            if entry.told.is_some() {
                continue;
            }
            if let Some(told) = entry.sent.as_ref().and_then(Sent::told) {
                let is_durable = told.as_ref().is_ok_and(|delivered| is_synced(&self.cores, delivered));
                self.take_in(number, told, is_durable)?;
            }
        }
        Ok(())
    }

    fn take_in(&mut self, number: usize, told: Told<Delivered>, is_durable: bool) -> Result<(), String> {
        let now = self.now();
        let entry = &mut self.entries[number];
        if entry.told.is_some() {
            return Err(format!("{number} is told twice"));
        }
        // Its batch may be older, by the time that it lingers.
        let is_old = now + self.linger >= entry.at + self.delivery_timeout;
        match &told {
            Ok(_) if self.is_synced && !is_durable => return Err(format!("{number} is told before it is durable")),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Full => {
                if !is_old && !self.is_ending {
                    return Err(format!("{number} of {:?} is given up at {now:?}", entry.at));
                }
                self.failed += 1;
            }
            // It is in memory of the disk's, which has no space to write it to.
            Err(Error::NotSynced { .. }) if self.is_full && (self.is_ending || is_old) => {}
            Err(error) => return Err(format!("{number} fails: {error}")),
        }
        if entry.woken.as_ref().is_some_and(|flag| !flag.0.load(Ordering::SeqCst)) {
            return Err(format!("who waits for {number} is not woken"));
        }
        entry.told = Some(told);
        Ok(())
    }

    fn end(mut self) -> Result<(usize, usize), String> {
        let end = *self.rng.pick(&[End::Flush, End::Close, End::Drop, End::CloseLog, End::Kill, End::PowerCut]);
        if matches!(end, End::Flush | End::Close) || self.rng.chance(1, 2) {
            self.heal();
            self.disk.clock().advance(AGAIN);
        }
        self.is_ending = true;
        let left = match end {
            End::Kill => Some(self.disk.kill()),
            End::PowerCut => Some(self.disk.crash(self.rng.draw())),
            _ => None,
        };
        let is_cut = left.is_some();
        match end {
            End::Flush => drop(self.producer().flush()),
            End::Close => drop(self.producer().close()),
            End::Drop => drop(self.producer.take()),
            End::CloseLog => drop(self.log.clone().close()),
            End::Kill | End::PowerCut => {}
        }
        if !is_cut {
            self.look()?;
            if let Some(number) = self.entries.iter().position(|entry| entry.told.is_none()) {
                return Err(format!("{number} is never told, after {end:?}"));
            }
        }
        self.disk.set_free(None);
        let left = left.unwrap_or_else(|| self.disk.kill());
        left.set_free(None);
        let survives = end != End::PowerCut || self.is_synced;
        self.judge(&left, survives, is_cut).map_err(|what| format!("{end:?}: {what}"))
    }

    /// Holds what was told against what is in the log. All that was delivered is there if it `survives`; others may be if the
    /// process was `cut` off before they were told.
    fn judge(&self, left: &Arc<SimDisk>, survives: bool, is_cut: bool) -> Result<(usize, usize), String> {
        let log = builder(left, Staging::On).open().map_err(|error| error.to_string())?;
        let mut found = BTreeSet::new();
        for (name, _) in TOPICS {
            let topic = log.find_topic(name).ok_or("a topic is gone")?;
            for number in 0..topic.partition_count() {
                let partition = topic.partition(number).map_err(|error| error.to_string())?;
                let mut last = None;
                for (offset, key, value) in values(&partition) {
                    let index: usize = value.parse().map_err(|_| format!("a value is {value}"))?;
                    let entry = self.entries.get(index).ok_or("a record that was not accepted")?;
                    if !found.insert(index) {
                        return Err(format!("{index} is stored twice"));
                    }
                    if last.replace(index).is_some_and(|last| last > index) {
                        return Err(format!("{index} came before {last:?} and is stored behind"));
                    }
                    let id = TopicPartition::new(name, number);
                    match &entry.told {
                        Some(Ok(at)) if at.offset == offset && at.partition == id && entry.key == key => {}
                        None if is_cut => {}
                        Some(Err(Error::NotSynced { offset: base, .. })) if *base <= offset => {}
                        told => return Err(format!("{index} is at {offset} of {id}, and was told {told:?}")),
                    }
                }
            }
        }
        let delivered: Vec<_> =
            (0..).zip(&self.entries).filter(|(_, entry)| matches!(entry.told, Some(Ok(_)))).collect();
        if let Some((number, _)) = delivered.iter().find(|(number, _)| survives && !found.contains(number)) {
            return Err(format!("{number} was delivered, and is gone"));
        }
        Ok((delivered.len(), self.failed))
    }
}

fn note_cores(cores: &Cores, topic: &crate::log::Topic) {
    for number in 0..topic.partition_count() {
        let core = topic.partition(number).unwrap().core;
        cores.lock().insert(core.id.clone(), core);
    }
}

fn is_synced(cores: &Cores, delivered: &Delivered) -> bool {
    cores.lock()[&delivered.partition].synced() > delivered.offset
}

trait PollOnce {
    fn poll_once(self, waker: &Waker) -> Poll<Told<Delivered>>;
}

impl PollOnce for Pin<&mut Sent> {
    fn poll_once(self, waker: &Waker) -> Poll<Told<Delivered>> {
        self.poll(&mut Context::from_waker(waker))
    }
}

#[test]
fn whatever_is_sent_is_told_once_and_is_where_it_was_told() {
    let (mut delivered, mut failed) = (0, 0);
    for seed in 0..4_000 {
        let (of_run, failed_of_run) = run(seed).unwrap();
        (delivered, failed) = (delivered + of_run, failed + failed_of_run);
    }
    assert!(delivered > 50_000 && failed > 1_000, "the runs reach too little: {delivered} and {failed}");
}

/// A test that cannot fail is none.
#[cfg(feature = "planted-bugs")]
#[test]
fn each_planted_mistake_of_the_producer_is_found() {
    for bug in crate::sim::log::BATCHING {
        crate::sim::explore::plant(Some(bug));
        let is_found = (0..600).any(|seed| !std::panic::catch_unwind(|| run(seed)).is_ok_and(|found| found.is_ok()));
        crate::sim::explore::plant(None);
        assert!(is_found, "{bug}");
    }
}
