//! simple_wal: three writes an append. Its flush is that of a plain file, which syncs nothing, and it finds a record by
//! walking to it: no place in synced rows, nor in random reads.

use std::io;
use std::path::{Path, PathBuf};

use simple_wal::LogFile;

use crate::suite::system::{Setup, System, Writer};

pub(crate) struct SimpleWal {
    dir: PathBuf,
}

impl SimpleWal {
    fn log(&self, log: usize) -> io::Result<LogFile> {
        LogFile::open(self.dir.join(log.to_string())).map_err(io::Error::other)
    }
}

impl System for SimpleWal {
    type Writer = SimpleWalWriter;

    fn open(dir: &Path, _: Setup) -> io::Result<Self> {
        Ok(Self { dir: dir.to_owned() })
    }

    fn writer(&self, log: usize) -> io::Result<SimpleWalWriter> {
        Ok(SimpleWalWriter { log: self.log(log)?, entry: Vec::new() })
    }

    fn scan(&self, log: usize, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut log = self.log(log)?;
        for entry in log.iter(..).map_err(io::Error::other)? {
            each(&entry.map_err(io::Error::other)?);
        }
        Ok(())
    }
}

pub(crate) struct SimpleWalWriter {
    log: LogFile,
    /// It wants to be given something that it could change.
    entry: Vec<u8>,
}

impl Writer for SimpleWalWriter {
    fn append(&mut self, value: &[u8]) -> io::Result<()> {
        self.entry.clear();
        self.entry.extend_from_slice(value);
        self.log.write(&mut self.entry)
    }
}
