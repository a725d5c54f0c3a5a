//! okaywal: an entry of one chunk, or of many, an append. It syncs each, so it has no place in unsynced rows. It reads by
//! recovering: an entry is read into memory, and handed on from there.

use std::io::{self, Read};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use okaywal::{
    Configuration, Entry, EntryId, LogManager, LogPosition, ReadChunkResult, SegmentReader, WriteAheadLog,
};
use parking_lot::Mutex;

use crate::suite::system::{Lookup, Setup, System, Writer};

pub(crate) struct Okaywal {
    dir: PathBuf,
    room: u64,
    open: Mutex<Option<WriteAheadLog>>,
    /// Of all chunks: known to who reads at random only.
    places: Vec<LogPosition>,
}

impl Okaywal {
    /// One file that is never full: nobody takes what is in it away.
    fn recover(&self, found: Arc<Mutex<Found>>) -> io::Result<WriteAheadLog> {
        let len = u32::try_from(self.room.max(1 << 20) * 2).map_err(io::Error::other)?;
        let settings = Configuration::default_for(&self.dir).preallocate_bytes(len);
        settings.checkpoint_after_bytes(u64::MAX).open(Manager(found))
    }
}

impl System for Okaywal {
    type Writer = OkaywalWriter;

    fn open(dir: &Path, setup: Setup) -> io::Result<Self> {
        Ok(Self { dir: dir.to_owned(), room: setup.room, open: Mutex::new(None), places: Vec::new() })
    }

    fn writer(&self, _: usize) -> io::Result<OkaywalWriter> {
        let mut open = self.open.lock();
        let log = match &*open {
            Some(log) => log.clone(),
            None => open.insert(self.recover(Arc::default())?).clone(),
        };
        Ok(OkaywalWriter(log))
    }

    fn scan(&self, _: usize, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let found = Arc::new(Mutex::new(Found { keeps_values: true, ..Found::default() }));
        let log = self.recover(Arc::clone(&found))?;
        let values = mem::take(&mut found.lock().values);
        values.iter().for_each(|value| each(value));
        log.shutdown()
    }

    fn close(self) -> io::Result<()> {
        self.open.into_inner().map_or(Ok(()), WriteAheadLog::shutdown)
    }
}

impl Lookup for Okaywal {
    fn lookup(&mut self, at: u64, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut open = self.open.lock();
        let log = match &*open {
            Some(log) => log,
            None => {
                let found = Arc::new(Mutex::new(Found::default()));
                let log = self.recover(Arc::clone(&found))?;
                self.places = mem::take(&mut found.lock().places);
                open.insert(log)
            }
        };
        let place = *self.places.get(at as usize).ok_or_else(|| io::Error::other("no such record"))?;
        let (mut chunk, mut value) = (log.read_at(place)?, Vec::new());
        chunk.read_to_end(&mut value)?;
        each(&value);
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Found {
    keeps_values: bool,
    values: Vec<Vec<u8>>,
    places: Vec<LogPosition>,
}

#[derive(Debug)]
struct Manager(Arc<Mutex<Found>>);

impl LogManager for Manager {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        let mut found = self.0.lock();
        while let ReadChunkResult::Chunk(mut chunk) = entry.read_chunk()? {
            found.places.push(chunk.log_position());
            // A chunk is read even if only its place is wanted: skipping it skips four bytes too many.
            let value = chunk.read_all()?;
            if !chunk.check_crc()? {
                return Err(io::Error::other("a checksum does not match"));
            }
            if found.keeps_values {
                found.values.push(value);
            }
        }
        Ok(())
    }

    fn checkpoint_to(&mut self, _: EntryId, _: &mut SegmentReader, _: &WriteAheadLog) -> io::Result<()> {
        Err(io::Error::other("nothing is taken away here"))
    }
}

pub(crate) struct OkaywalWriter(WriteAheadLog);

impl Writer for OkaywalWriter {
    fn append(&mut self, value: &[u8]) -> io::Result<()> {
        self.append_all(&[value])
    }

    fn append_all(&mut self, values: &[&[u8]]) -> io::Result<()> {
        let mut entry = self.0.begin_entry()?;
        for value in values {
            entry.write_chunk(value)?;
        }
        entry.commit().map(|_| ())
    }
}
