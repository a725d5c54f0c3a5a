//! A client that sends numbered lines, many at a time, to whichever node leads, until each is acknowledged. Its batches are
//! numbered, too: one that is sent again, as its outcome was unknown, is stored once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use crate::wire::{self, Answer, Frame, Request};

/// What is sent: these lines, again and again, each with its number.
#[derive(Default)]
pub(crate) struct Lines(pub(crate) Vec<String>);

impl Lines {
    pub(crate) fn numbered(&self, number: u64) -> String {
        format!("{number} {}", self.0[number as usize % self.0.len()])
    }
}

/// What was acknowledged: the lines from this number on have the offsets from this one on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Acked {
    pub(crate) first: u64,
    pub(crate) offset: u64,
    pub(crate) at: Instant,
}

#[derive(Default)]
pub(crate) struct Client {
    pub(crate) ports: BTreeMap<u32, u16>,
    pub(crate) lines: Arc<Lines>,
    /// The node that it talks to.
    pub(crate) leader: Arc<AtomicU32>,
    /// No more lines are to be begun.
    pub(crate) is_over: Arc<AtomicBool>,
    pub(crate) next: u64,
    /// The batches that are under way, by the numbers of their first lines.
    pub(crate) open: BTreeSet<u64>,
    pub(crate) acked: Vec<Acked>,
    /// Who it is, once it was told.
    pub(crate) producer: Option<i64>,
}

impl Client {
    /// Sends until it is over and all is acknowledged.
    pub(crate) async fn run(mut self) -> Vec<Acked> {
        while !self.is_done() {
            let before = self.leader.load(Ordering::Relaxed);
            let hint = self.session(before).await.unwrap_or_default();
            // Nobody knows: the next one may.
            let leader = hint.unwrap_or(before % self.ports.len() as u32 + 1);
            self.leader.store(leader, Ordering::Relaxed);
            sleep(Duration::from_millis(20)).await;
        }
        self.acked
    }

    /// Talks to one node until it answers no more. Returns who is said to lead.
    async fn session(&mut self, node: u32) -> io::Result<Option<u32>> {
        let mut stream = wire::connect(self.ports[&node]).await?;
        let producer = match self.producer {
            Some(producer) => producer,
            None => match timeout(PATIENCE, wire::exchange(&mut stream, Request::NewProducer)).await?? {
                Answer::Producer(id) => *self.producer.insert(id),
                _ => return Ok(Some(node)),
            },
        };
        // What was under way when the last session ended may be appended already. In the order of their numbers.
        for first in &self.open {
            self.send(&mut stream, producer, *first).await?;
        }
        loop {
            while self.open.len() < WINDOW && !self.is_over.load(Ordering::Relaxed) {
                self.open.insert(self.next);
                self.send(&mut stream, producer, self.next).await?;
                self.next += BATCH;
            }
            if self.is_done() {
                return Ok(Some(node));
            }
            match timeout(PATIENCE, wire::read(&mut stream)).await?? {
                Frame::Answer(first, Answer::Acked(offset)) => {
                    self.open.remove(&first);
                    self.acked.push(Acked { first, offset, at: Instant::now() });
                }
                Frame::Answer(_, Answer::NotLeader(hint)) => return Ok(hint),
                // Too few are in sync, or the log was cut: it may lead again in a moment.
                _ => return Ok(Some(node)),
            }
        }
    }

    async fn send(&self, stream: &mut tokio::net::TcpStream, producer: i64, first: u64) -> io::Result<()> {
        let lines = (first..first + BATCH).map(|number| self.lines.numbered(number)).collect();
        // They begin anew after the highest.
        let sequence = (first & i32::MAX as u64) as i32;
        let append = Request::Append(producer, sequence, lines);
        timeout(PATIENCE, wire::write(stream, &Frame::Request(first, append))).await?
    }

    fn is_done(&self) -> bool {
        self.open.is_empty() && self.is_over.load(Ordering::Relaxed)
    }
}

/// How many lines are sent at once.
pub(crate) const BATCH: u64 = 128;
/// How many batches are under way: of so many a log remembers that it has them.
const WINDOW: usize = 5;
/// After which time without an answer another node is asked.
const PATIENCE: Duration = Duration::from_secs(1);
