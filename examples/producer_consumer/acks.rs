//! The file of acknowledgements: `THREAD LINE`, one a line, for a process that survives ours.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use crate::Result;

/// The file, shared by the producers.
#[derive(Debug)]
pub(crate) struct AckWriter {
    file: File,
}

impl AckWriter {
    /// Opens the file to go on at its end. A line that a kill cut short is taken off first.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let (mut whole, mut line) = (0, Vec::new());
        let mut reader = BufReader::new(&file);
        while reader.read_until(b'\n', &mut line)? > 0 {
            if line.ends_with(b"\n") {
                whole += line.len() as u64;
            }
            line.clear();
        }
        file.set_len(whole)?;
        Ok(Self { file })
    }

    /// The acknowledgements of one producer.
    pub(crate) fn of_thread(&self, thread: u32) -> ThreadAcks<'_> {
        ThreadAcks { file: &self.file, thread, text: Vec::new(), count: 0 }
    }
}

/// Acknowledgements on their way to the file.
#[derive(Debug)]
pub(crate) struct ThreadAcks<'a> {
    file: &'a File,
    thread: u32,
    text: Vec<u8>,
    count: u32,
}

impl ThreadAcks<'_> {
    /// Notes that a line is stored.
    pub(crate) fn note(&mut self, line: u64) -> Result<()> {
        writeln!(self.text, "{} {line}", self.thread)?;
        self.count += 1;
        if self.count == WRITE_EVERY { self.flush() } else { Ok(()) }
    }

    /// Hands what was noted to the operating system, in one call.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.file.write_all(&self.text)?;
        self.text.clear();
        self.count = 0;
        Ok(())
    }
}

const WRITE_EVERY: u32 = 100;

/// Reads the file: thread and line of each acknowledgement. A last line that was cut short acknowledges nothing.
pub(crate) fn read(path: &Path) -> Result<impl Iterator<Item = Result<(u32, u64)>>> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut text = String::new();
    Ok(std::iter::from_fn(move || {
        text.clear();
        match reader.read_line(&mut text) {
            Err(error) => Some(Err(error.into())),
            Ok(_) if !text.ends_with('\n') => None,
            Ok(_) => Some(parse(text.trim_end())),
        }
    }))
}

fn parse(text: &str) -> Result<(u32, u64)> {
    let (thread, line) = text.split_once(' ').ok_or_else(|| format!("{text:?} is no acknowledgement"))?;
    Ok((thread.parse()?, line.parse()?))
}
