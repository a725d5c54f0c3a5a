//! The producers: threads that send the lines whose keys are theirs, in batches, and note which are stored.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use chiplog::{Header, Log, Record, Sent};

use crate::Result;
use crate::acks::{AckWriter, ThreadAcks};
use crate::checks::Seen;
use crate::input::{Input, digest, key_of, producer_of};

/// What the producers share.
pub(crate) struct Sending<'a> {
    pub(crate) log: &'a Log,
    pub(crate) topic: &'a str,
    pub(crate) input: &'a Input,
    pub(crate) threads: u32,
    /// The lines that earlier runs stored.
    pub(crate) stored: &'a Seen,
    pub(crate) gate: Gate,
    pub(crate) acks: Option<&'a AckWriter>,
    pub(crate) kill_after: Option<u64>,
    /// How many lines are known to be stored.
    pub(crate) delivered: AtomicU64,
}

/// What one producer did.
#[derive(Default)]
pub(crate) struct Produced {
    pub(crate) lines: u64,
    pub(crate) bytes: u64,
    /// Of all its lines, those of earlier runs included.
    pub(crate) digest: u64,
}

/// Sends the lines whose keys are this thread's, in their order, but for those that are stored.
pub(crate) fn produce(sending: &Sending<'_>, thread: u32) -> Result<Produced> {
    // By default a batch takes 16 KiB, waits at most 5 ms for more, and goes where Kafka's Java clients would send it.
    let producer = sending.log.producer().build()?;
    let mut under_way =
        UnderWay { sending, acks: sending.acks.map(|file| file.of_thread(thread)), lines: VecDeque::new() };
    let mut produced = Produced::default();
    let mut lines = sending.input.lines();
    while let Some((number, line)) = lines.next()? {
        let key = key_of(line);
        if producer_of(key, sending.threads) != thread {
            continue;
        }
        produced.digest = produced.digest.wrapping_add(digest(number, line));
        // A kill may have taken a batch of one partition and not that of another: so each line is asked for.
        if sending.stored.contains(number) {
            continue;
        }
        sending.gate.pass();

        // A record borrows its key, value and headers, until they are copied into the batch.
        let (thread_bytes, number_bytes) = (thread.to_be_bytes(), number.to_be_bytes());
        let headers = [Header::new("producer", &thread_bytes), Header::new("line", &number_bytes)];
        let record = Record::new(line).key(key).headers(&headers);

        // When this returns, the record is in memory. What becomes of it `sent` tells, which can be asked, waited for, or
        // awaited; a callback would do, too (`send_with`).
        let sent = producer.send(record.to(sending.topic))?;

        under_way.lines.push_back((number, sent));
        under_way.note_stored()?;
        produced.lines += 1;
        produced.bytes += line.len() as u64;
    }
    // Appends what still waits for more. What went wrong with a record its `sent` tells, too.
    producer.close()?;
    under_way.note_stored()?;
    match under_way.lines.front() {
        Some((number, _)) => Err(format!("the producer is closed, and says nothing of line {number}").into()),
        None => under_way.acks.map_or(Ok(()), |mut acks| acks.flush()).map(|()| produced),
    }
}

/// The lines that were sent, and may not be stored yet.
struct UnderWay<'a> {
    sending: &'a Sending<'a>,
    acks: Option<ThreadAcks<'a>>,
    lines: VecDeque<(u64, Sent)>,
}

impl UnderWay<'_> {
    /// Notes those that are stored, in the order in which they were sent. From then on killing the process loses none of
    /// them; if they are to survive a power cut, the producer is built with `acks(Ack::Synced)`.
    fn note_stored(&mut self) -> Result<()> {
        while let Some((number, sent)) = self.lines.front() {
            let Some(told) = sent.told() else { break };
            told?;
            if let Some(acks) = &mut self.acks {
                acks.note(*number)?;
            }
            let delivered = self.sending.delivered.fetch_add(1, Ordering::Relaxed) + 1;
            if self.sending.kill_after == Some(delivered) {
                eprintln!("aborting after {} lines, as told", crate::report::grouped(delivered));
                std::process::abort();
            }
            self.lines.pop_front();
        }
        Ok(())
    }
}

/// Lets so many lines pass. More wait until it is opened further.
#[derive(Debug)]
pub(crate) struct Gate {
    came: AtomicU64,
    limit: AtomicU64,
}

impl Gate {
    pub(crate) fn new(limit: u64) -> Self {
        Self { came: AtomicU64::new(0), limit: AtomicU64::new(limit) }
    }

    pub(crate) fn open_to(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    fn pass(&self) {
        let number = self.came.fetch_add(1, Ordering::Relaxed);
        while number >= self.limit.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
        }
    }
}
