//! A client that sends numbered lines, many at a time, to whichever node leads, until each is acknowledged.

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
        // What was under way when the last session ended may be appended already: it may come to be there twice.
        for first in &self.open {
            self.send(&mut stream, *first).await?;
        }
        loop {
            while self.open.len() < WINDOW && !self.is_over.load(Ordering::Relaxed) {
                self.open.insert(self.next);
                self.send(&mut stream, self.next).await?;
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

    async fn send(&self, stream: &mut tokio::net::TcpStream, first: u64) -> io::Result<()> {
        let lines = (first..first + BATCH).map(|number| self.lines.numbered(number)).collect();
        timeout(PATIENCE, wire::write(stream, &Frame::Request(first, Request::Append(lines)))).await?
    }

    fn is_done(&self) -> bool {
        self.open.is_empty() && self.is_over.load(Ordering::Relaxed)
    }
}

/// How many lines are sent at once.
pub(crate) const BATCH: u64 = 20;
/// How many batches are under way.
const WINDOW: usize = 32;
/// After which time without an answer another node is asked.
const PATIENCE: Duration = Duration::from_secs(1);
