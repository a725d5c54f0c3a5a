//! commitlog: one write and one store into a mapped index an append. Its flush syncs the index, not the records, so it
//! has no place in synced rows.

use std::io;
use std::path::{Path, PathBuf};

use commitlog::message::{MessageBuf, MessageSet};
use commitlog::{CommitLog, LogOptions, ReadLimit};

use crate::suite::system::{Lookup, Setup, System, Writer};

pub(crate) struct Commitlog {
    dir: PathBuf,
    reader: Option<CommitLog>,
}

impl Commitlog {
    fn log(&self, log: usize) -> io::Result<CommitLog> {
        CommitLog::new(LogOptions::new(self.dir.join(log.to_string())))
    }
}

impl System for Commitlog {
    type Writer = CommitlogWriter;

    fn open(dir: &Path, _: Setup) -> io::Result<Self> {
        Ok(Self { dir: dir.to_owned(), reader: None })
    }

    fn writer(&self, log: usize) -> io::Result<CommitlogWriter> {
        Ok(CommitlogWriter(self.log(log)?))
    }

    fn scan(&self, log: usize, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let log = self.log(log)?;
        let mut at = 0;
        while at < log.next_offset() {
            let messages = log.read(at, ReadLimit::max_bytes(1 << 20)).map_err(io::Error::other)?;
            let mut count = 0;
            for message in messages.iter() {
                each(message.payload());
                count += 1;
            }
            if count == 0 {
                return Err(io::Error::other(format!("nothing to read at {at}")));
            }
            at += count;
        }
        Ok(())
    }
}

impl Lookup for Commitlog {
    fn lookup(&mut self, at: u64, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        if self.reader.is_none() {
            self.reader = Some(self.log(0)?);
        }
        let reader = self.reader.as_ref().ok_or_else(|| io::Error::other("not open"))?;
        // Room for the record and its header of 20 bytes, not for two of them.
        let messages = reader.read(at, ReadLimit::max_bytes(128)).map_err(io::Error::other)?;
        messages.iter().take(1).for_each(|message| each(message.payload()));
        Ok(())
    }
}

pub(crate) struct CommitlogWriter(CommitLog);

impl Writer for CommitlogWriter {
    fn append(&mut self, value: &[u8]) -> io::Result<()> {
        self.0.append_msg(value).map(|_| ()).map_err(io::Error::other)
    }

    fn append_all(&mut self, values: &[&[u8]]) -> io::Result<()> {
        let mut messages = MessageBuf::default();
        for value in values {
            messages.push(value).map_err(|error| io::Error::other(format!("{error:?}")))?;
        }
        self.0.append(&mut messages).map(|_| ()).map_err(io::Error::other)
    }
}
