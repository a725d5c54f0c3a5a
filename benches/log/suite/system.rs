//! What is measured: a system that keeps logs, and what is done with it.
//!
//! Ours, the bare loops and the crates a user would pick instead all come in behind these traits, so that each kind of
//! work is written once and does the same to all of them.

use std::io;
use std::iter;
use std::path::Path;

/// Keeps one log or several of them, numbered from 0, in a directory.
pub(crate) trait System: Sized + 'static {
    type Writer: Writer;

    /// Opens what is in `dir`; makes it if there is nothing.
    fn open(dir: &Path, setup: Setup) -> io::Result<Self>;

    /// Writes to one of the logs. Others may write to the same one at the same time where `setup` is synced.
    fn writer(&self, log: usize) -> io::Result<Self::Writer>;

    /// Hands every value of a log to `each`, in order.
    fn scan(&self, log: usize, each: impl FnMut(&[u8])) -> io::Result<()>;

    /// Ends in order. All writers are gone by then.
    fn close(self) -> io::Result<()> {
        Ok(())
    }
}

/// A system that finds one record by its number.
pub(crate) trait Lookup: System {
    /// Hands the value of record `at` of log 0, counted from 0, to `each`.
    fn lookup(&mut self, at: u64, each: impl FnMut(&[u8])) -> io::Result<()>;
}

/// Appends to one log. Returns when what the setup asks for is done.
pub(crate) trait Writer: Send + 'static {
    fn append(&mut self, value: &[u8]) -> io::Result<()>;

    /// All of them or none, where the system can do that.
    fn append_all(&mut self, values: &[&[u8]]) -> io::Result<()> {
        values.iter().try_for_each(|value| self.append(value))
    }

    /// Hands on what it still holds. Off the clock.
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) log_count: usize,
    /// Whether each append is durable when it returns.
    pub(crate) is_synced: bool,
    /// About how many bytes each log will get.
    pub(crate) room: u64,
}

/// What a call appends: so many values of one length.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) values: usize,
    pub(crate) len: usize,
}

impl Shape {
    pub(crate) const fn one(len: usize) -> Self {
        Self { values: 1, len }
    }

    /// Batches of nearly 16 KiB.
    pub(crate) const fn batch_of(len: usize) -> Self {
        Self { values: (16 << 10) / (len + 12), len }
    }

    /// The values of one call, one after the other: nothing that a codec could make shorter.
    pub(crate) fn payload(self) -> Vec<u8> {
        random_numbers().map(|number| (number >> 24) as u8).take(self.values * self.len).collect()
    }

    /// What `calls` of them come to.
    pub(crate) fn sum(self, calls: u64) -> Sum {
        let mut sum = Sum::default();
        self.payload().chunks_exact(self.len).for_each(|value| sum.add(value));
        Sum { count: sum.count * calls, bytes: sum.bytes * calls }
    }

    /// About the length of `calls` of them on disk, in batches of their own.
    pub(crate) fn disk_bytes(self, calls: u64) -> u64 {
        (61 + self.values * (self.len + 12)) as u64 * calls
    }
}

/// The same numbers for everybody: the upper halves of a multiplicative generator.
pub(crate) fn random_numbers() -> impl Iterator<Item = u32> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    })
}

/// What is compared when everything is read back: how many values, and the sum of all their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sum {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
}

impl Sum {
    #[inline]
    pub(crate) fn add(&mut self, value: &[u8]) {
        self.count += 1;
        self.bytes += value.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    }
}

/// Reads all logs of a directory back.
pub(crate) fn read_back<S: System>(dir: &Path, setup: Setup) -> io::Result<Sum> {
    let system = S::open(dir, setup)?;
    let mut sum = Sum::default();
    for log in 0..setup.log_count {
        system.scan(log, |value| sum.add(value))?;
    }
    system.close()?;
    Ok(sum)
}
