//! What must be true of the lines that come out: none missing, none changed, each key's in order; and none twice where that
//! is promised.
//!
//! A bit a line and a number a producer, whatever the length of the input; four bytes a line where acknowledgements are
//! held against the log.

use std::sync::atomic::{AtomicU64, Ordering};

use chiplog::{Offset, RecordRef};

use crate::Result;
use crate::input::digest;

/// A line as it is stored: in the value of a record, with where it comes from in the headers.
pub(crate) struct Line<'a> {
    pub(crate) producer: u32,
    pub(crate) number: u64,
    pub(crate) key: &'a [u8],
    pub(crate) text: &'a [u8],
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

/// What one member reads of one partition, from when it is given it until it gives it up: every record, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Tenure {
    next: Option<Offset>,
    order: Order,
}

impl Tenure {
    /// Takes the next line.
    pub(crate) fn follow(&mut self, offset: Offset, line: &Line<'_>) -> Result<()> {
        if let Some(next) = self.next.filter(|next| *next != offset) {
            return Err(format!("offset {offset} came where {next} was to come").into());
        }
        self.next = Some(offset + 1);
        self.order.follow(line)
    }
}

/// Which lines were seen, by all threads together.
#[derive(Debug)]
pub(crate) struct Seen {
    lines: u64,
    bits: Vec<AtomicU64>,
    count: AtomicU64,
    digest: AtomicU64,
}

impl Seen {
    /// None of this many lines.
    pub(crate) fn new(lines: u64) -> Self {
        let bits = (0..lines.div_ceil(64)).map(|_| AtomicU64::default()).collect();
        Self { lines, bits, count: AtomicU64::new(0), digest: AtomicU64::new(0) }
    }

    /// Notes that a line was seen. Whether it was for the first time.
    pub(crate) fn mark(&self, line: &Line<'_>) -> Result<bool> {
        let number = line.number;
        let word = self.bits.get((number / 64) as usize).filter(|_| number < self.lines);
        let word = word.ok_or_else(|| format!("line {number} is not of this input"))?;
        let bit = 1 << (number % 64);
        if word.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
            return Ok(false);
        }
        self.digest.fetch_add(digest(number, line.text), Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// Notes that a line was seen, which has to be for the first time.
    pub(crate) fn mark_once(&self, line: &Line<'_>) -> Result<()> {
        if self.mark(line)? { Ok(()) } else { Err(format!("line {} was stored twice", line.number).into()) }
    }

    /// How many were seen.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether a line was seen.
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

/// Which lines a log holds, and from which producer, for acknowledgements to be held against.
#[derive(Debug, Default)]
pub(crate) struct StoredBy {
    producers: Vec<u32>,
    count: u64,
}

impl StoredBy {
    /// Notes a line of the log, for the first time.
    pub(crate) fn note(&mut self, line: &Line<'_>) -> Result<()> {
        let at = usize::try_from(line.number)?;
        if at >= self.producers.len() {
            self.producers.resize(at + 1, NOBODY);
        }
        if self.producers[at] != NOBODY {
            return Err(format!("line {at} was stored twice").into());
        }
        self.producers[at] = line.producer;
        self.count += 1;
        Ok(())
    }

    /// Takes an acknowledgement, for the first time. All lines have to be noted before.
    pub(crate) fn acknowledge(&mut self, producer: u32, line: u64) -> Result<()> {
        let found = usize::try_from(line).ok().and_then(|at| self.producers.get_mut(at));
        let wrong = match found {
            Some(found) if *found == producer => {
                *found = ACKNOWLEDGED;
                return Ok(());
            }
            None | Some(&mut NOBODY) => "is missing".to_owned(),
            Some(&mut ACKNOWLEDGED) => "was acknowledged before".to_owned(),
            Some(other) => format!("was stored by producer {other}"),
        };
        Err(format!("line {line} was acknowledged to producer {producer} and {wrong}").into())
    }

    /// How many lines are stored.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}

// There are no producers of these numbers.
const NOBODY: u32 = u32::MAX;
const ACKNOWLEDGED: u32 = u32::MAX - 1;
