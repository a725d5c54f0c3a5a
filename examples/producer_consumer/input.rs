//! The input: files, read line by line as often as it takes, each line with a number of its own.
//!
//! Nothing is kept in memory but the line at hand.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use crate::Result;

/// Files, in order, and how often they are read.
#[derive(Debug)]
pub(crate) struct Input {
    files: Vec<PathBuf>,
    passes: u64,
    lines_a_pass: u64,
    bytes_a_pass: u64,
}

impl Input {
    /// These files, or our own sources if there are none, as often as it takes to come to `repeat_to` bytes.
    pub(crate) fn new(files: &[PathBuf], repeat_to: u64) -> Result<Self> {
        let files = if files.is_empty() { own_sources()? } else { files.to_vec() };
        let mut once = Self { files, passes: 1, lines_a_pass: 0, bytes_a_pass: 0 };
        let (mut line_count, mut bytes) = (0, 0);
        let mut lines = once.lines();
        while let Some((_, line)) = lines.next()? {
            line_count += 1;
            bytes += line.len() as u64 + 1;
        }
        if line_count == 0 {
            return Err("there is no line in the input".into());
        }
        (once.lines_a_pass, once.bytes_a_pass) = (line_count, bytes);
        once.passes = repeat_to.div_ceil(bytes).max(1);
        Ok(once)
    }

    /// How many lines there are in all passes.
    pub(crate) fn line_count(&self) -> u64 {
        self.lines_a_pass * self.passes
    }

    /// Reads the lines of all passes, numbered from 0.
    pub(crate) fn lines(&self) -> Lines<'_> {
        Lines { input: self, pass: 0, file: 0, reader: None, next: 0, line: Vec::new() }
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = crate::report::mebibytes(self.bytes_a_pass * self.passes);
        let (files, lines) = (self.files.len(), crate::report::grouped(self.line_count()));
        write!(f, "{files} files, read {} times: {lines} lines, {mebibytes:.1} MiB", self.passes)
    }
}

/// Reads lines. Not an `Iterator`, because a line lives only until the next.
pub(crate) struct Lines<'a> {
    input: &'a Input,
    pass: u64,
    file: usize,
    reader: Option<BufReader<File>>,
    next: u64,
    line: Vec<u8>,
}

impl Lines<'_> {
    /// The next line and its number. Bytes as they are, a carriage return included, but for the line feed.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, &[u8])>> {
        loop {
            if self.reader.is_none() && !self.open_next()? {
                return Ok(None);
            }
            let Some(reader) = &mut self.reader else { continue };
            self.line.clear();
            if reader.read_until(b'\n', &mut self.line)? == 0 {
                self.reader = None;
                continue;
            }
            if self.line.last() == Some(&b'\n') {
                self.line.pop();
            }
            self.next += 1;
            return Ok(Some((self.next - 1, &self.line)));
        }
    }

    /// Opens the file that comes next; `false` after the last one of the last pass.
    fn open_next(&mut self) -> Result<bool> {
        if self.file == self.input.files.len() {
            (self.file, self.pass) = (0, self.pass + 1);
        }
        let Some(path) = self.input.files.get(self.file).filter(|_| self.pass < self.input.passes) else {
            return Ok(false);
        };
        let file = File::open(path).map_err(|error| format!("cannot open {}: {error}", path.display()))?;
        self.reader = Some(BufReader::with_capacity(1 << 16, file));
        self.file += 1;
        Ok(true)
    }
}

/// The README and sources of the crate, so that there is always something to read.
fn own_sources() -> Result<Vec<PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![root.join("README.md")];
    let mut dirs = vec![root.join("src")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The key of a line: its longest word, often an address, an id or a name.
pub(crate) fn key_of(line: &[u8]) -> &[u8] {
    line.split(u8::is_ascii_whitespace).max_by_key(|word| word.len()).unwrap_or_default()
}

/// The producer that a key belongs to. All lines of a key go through one producer, so that they stay in order.
pub(crate) fn producer_of(key: &[u8], producers: u32) -> u32 {
    (fnv(FNV_BASIS, key) % u64::from(producers)) as u32
}

/// A line and its number, in 64 bits. Summed over all lines it tells whether the same lines arrived.
pub(crate) fn digest(number: u64, line: &[u8]) -> u64 {
    fnv(fnv(FNV_BASIS, &number.to_le_bytes()), line)
}

/// FNV-1a: short, and the same in every run.
fn fnv(basis: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(basis, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3))
}

const FNV_BASIS: u64 = 0xCBF2_9CE4_8422_2325;
