//! Consumers: polls against a bare scan, and how soon one that waits is woken.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use chiplog::{AutoOffsetReset, Consumer, Partition, TopicPartition};

use super::{AsItComes, Ours, TOPIC};
use crate::suite::race::{Contender, Work};
use crate::suite::system::{Setup, Shape, Sum, System};
use crate::suite::work::unprepared;

/// Reads by polls, with the settings that a user gets who sets none.
pub(crate) struct Consuming(Ours<AsItComes>);

impl System for Consuming {
    type Writer = Partition;

    fn open(dir: &Path, setup: Setup) -> io::Result<Self> {
        Ours::open(dir, setup).map(Self)
    }

    fn writer(&self, log: usize) -> io::Result<Partition> {
        self.0.writer(log)
    }

    fn scan(&self, log: usize, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let (mut consumer, end) = (consumer(&self.0, log)?, self.0.partition(log)?.offsets().end);
        let id = TopicPartition::new(TOPIC, log as u32);
        while consumer.position(&id).map_err(io::Error::other)? < end {
            let polled = consumer.poll(Duration::ZERO).map_err(io::Error::other)?;
            polled.iter().for_each(|(_, record)| each(record.value.unwrap_or_default()));
        }
        Ok(())
    }

    fn close(self) -> io::Result<()> {
        self.0.close()
    }
}

/// Reads one by one.
pub(crate) struct Iterating(Ours<AsItComes>);

impl System for Iterating {
    type Writer = Partition;

    fn open(dir: &Path, setup: Setup) -> io::Result<Self> {
        Ours::open(dir, setup).map(Self)
    }

    fn writer(&self, log: usize) -> io::Result<Partition> {
        self.0.writer(log)
    }

    fn scan(&self, log: usize, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let (mut consumer, end) = (consumer(&self.0, log)?, self.0.partition(log)?.offsets().end);
        for consumed in consumer.iter().take(end.0 as usize) {
            each(consumed.map_err(io::Error::other)?.record().value.unwrap_or_default());
        }
        Ok(())
    }

    fn close(self) -> io::Result<()> {
        self.0.close()
    }
}

fn consumer(ours: &Ours<AsItComes>, log: usize) -> io::Result<Consumer> {
    let builder = ours.log.consumer("bench").auto_offset_reset(AutoOffsetReset::Earliest);
    builder.assign([TopicPartition::new(TOPIC, log as u32)]).map_err(io::Error::other)
}

/// Appends while another thread waits in a poll. The figure: from the moment before the append to that at which the other has the
/// record, in microseconds.
pub(crate) struct Woken {
    calls: u64,
    open: Option<Ours<AsItComes>>,
    microseconds: Vec<f64>,
    sum: Sum,
}

/// Long enough to be asleep again.
const APART: Duration = Duration::from_micros(150);

impl Woken {
    pub(crate) fn new(calls: u64) -> Self {
        Self { calls, open: None, microseconds: Vec::new(), sum: Sum::default() }
    }
}

impl Contender for Woken {
    fn prepare(&mut self, dir: &Path) -> io::Result<Work> {
        self.open = Some(Ours::open(dir, Setup { log_count: 1, is_synced: false, room: 0 })?);
        let sum = Sum { count: self.calls, bytes: 0 };
        Ok(Work { disk_bytes: 0, sum, ..Work::of(Shape::one(8), self.calls) })
    }

    fn run(&mut self) -> io::Result<()> {
        let ours = self.open.as_ref().ok_or_else(unprepared)?;
        let (partition, calls, started) = (ours.partition(0)?, self.calls, Instant::now());
        let seen = Arc::new(AtomicU64::new(0));
        let waiting = {
            let (seen, consumer) = (Arc::clone(&seen), consumer(ours, 0)?);
            thread::spawn(move || wait(consumer, calls, started, &seen))
        };
        for call in 0..calls {
            let asleep = started.elapsed() + APART;
            while seen.load(Ordering::Acquire) < call || started.elapsed() < asleep {
                std::hint::spin_loop();
            }
            let now = (started.elapsed().as_nanos() as u64).to_le_bytes();
            let _ = partition.append(&now[..]).map_err(io::Error::other)?;
        }
        self.microseconds = waiting.join().map_err(|_| io::Error::other("a panic"))??;
        self.sum = Sum { count: self.microseconds.len() as u64, bytes: 0 };
        Ok(())
    }

    fn verify(&mut self) -> io::Result<Sum> {
        self.open.take().map_or(Ok(()), Ours::close)?;
        Ok(self.sum)
    }

    fn figures(&self, _: &Work, _: Duration) -> Vec<f64> {
        let mut sorted = self.microseconds.clone();
        sorted.sort_by(f64::total_cmp);
        vec![sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)]
    }
}

fn wait(mut consumer: Consumer, calls: u64, started: Instant, seen: &AtomicU64) -> io::Result<Vec<f64>> {
    let mut found = Vec::new();
    while (found.len() as u64) < calls {
        let polled = consumer.poll(Duration::from_secs(10)).map_err(io::Error::other)?;
        polled.iter().for_each(|(_, record)| note(record.value, started, &mut found));
        seen.store(found.len() as u64, Ordering::Release);
    }
    Ok(found)
}

/// How long ago the record says it was.
fn note(value: Option<&[u8]>, started: Instant, found: &mut Vec<f64>) {
    let bytes = value.and_then(|value| value.first_chunk()).copied().unwrap_or_default();
    let ago = started.elapsed().saturating_sub(Duration::from_nanos(u64::from_le_bytes(bytes)));
    found.push(ago.as_nanos() as f64 / 1e3);
}
