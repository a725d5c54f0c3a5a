//! What must be true of the lines that come out: none missing, none twice, none changed, each key's in order.
//!
//! A bit a line and a number a producer, whatever the length of the input.

use std::sync::atomic::{AtomicU64, Ordering};

use chiplog::RecordRef;

use crate::Result;
use crate::input::digest;

/// A line as it is stored: in the value of a record, with where it comes from in the headers.
pub(crate) struct Line<'a> {
    pub(crate) producer: u32,
    pub(crate) number: u64,
    pub(crate) key: &'a [u8],
    text: &'a [u8],
}

impl<'a> Line<'a> {
    pub(crate) fn of(record: &RecordRef<'a>) -> Result<Self> {
        let header = |name| {
            let found = record.headers().find(|header| header.key == name);
            found.and_then(|header| header.value).ok_or_else(|| format!("record {} has no {name}", record.offset))
        };
        Ok(Self {
            producer: u32::from_be_bytes(header("producer")?.try_into()?),
            number: u64::from_be_bytes(header("line")?.try_into()?),
            key: record.key.ok_or("a record without a key")?,
            text: record.value.ok_or("a record without a value")?,
        })
    }
}

/// The last line of each producer in one partition. A key's lines come from one producer and go to one partition, so
/// if these only rise, each key's lines are in order.
#[derive(Debug, Default)]
pub(crate) struct Order {
    last: Vec<Option<u64>>,
}

impl Order {
    /// Takes the next line of the partition.
    pub(crate) fn follow(&mut self, line: &Line<'_>) -> Result<()> {
        let producer = line.producer as usize;
        if producer >= self.last.len() {
            self.last.resize(producer + 1, None);
        }
        let last = &mut self.last[producer];
        if let Some(last) = last.filter(|last| *last >= line.number) {
            return Err(format!("line {} of producer {producer} came after {last}", line.number).into());
        }
        *last = Some(line.number);
        Ok(())
    }
}

/// Which lines were seen, by all consumers together.
#[derive(Debug)]
pub(crate) struct Seen {
    lines: u64,
    bits: Vec<AtomicU64>,
    digest: AtomicU64,
}

impl Seen {
    /// None of this many lines.
    pub(crate) fn new(lines: u64) -> Self {
        let mut seen = Self { lines: 0, bits: Vec::new(), digest: AtomicU64::new(0) };
        seen.grow_to(lines);
        seen
    }

    /// Makes room for this many lines, if there is less.
    pub(crate) fn grow_to(&mut self, lines: u64) {
        self.lines = self.lines.max(lines);
        self.bits.resize_with(self.lines.div_ceil(64) as usize, AtomicU64::default);
    }

    /// Notes that a line was seen, for the first time.
    pub(crate) fn mark(&self, line: &Line<'_>) -> Result<()> {
        let number = line.number;
        let word = self.bits.get((number / 64) as usize).filter(|_| number < self.lines);
        let word = word.ok_or_else(|| format!("line {number} is not of this input"))?;
        let bit = 1 << (number % 64);
        if word.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
            return Err(format!("line {number} was stored twice").into());
        }
        self.digest.fetch_add(digest(number, line.text), Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn contains(&self, line: u64) -> bool {
        let word = self.bits.get((line / 64) as usize);
        word.is_some_and(|word| word.load(Ordering::Relaxed) >> (line % 64) & 1 == 1)
    }

    /// Checks that every line was seen, and that their digest is that of the input.
    pub(crate) fn check_complete(&self, expected: u64) -> Result<()> {
        if let Some(missing) = (0..self.lines).find(|line| !self.contains(*line)) {
            return Err(format!("line {missing} is missing").into());
        }
        if self.digest.load(Ordering::Relaxed) != expected {
            return Err("every line is there, but what they say has changed".into());
        }
        Ok(())
    }
}
