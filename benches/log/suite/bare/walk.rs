//! The bare readers: of a file that one of the bare loops made, or ours.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::batch::{Batch, base_offset_of, damaged, len_of};
use crate::suite::ours::{AsItComes, Opening, Ours, Unstaged, data_files};
use crate::suite::system::{Lookup, Setup, System};

/// Maps a file afresh, checks the CRC of each batch, finds each record. Ends at the end of the file or at zeros.
pub(super) fn scan_file(path: &Path, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let map = map(path)?;
    let mut rest = &map[..];
    while let Some(batch) = Batch::first(rest)? {
        batch.values(&mut each)?;
        rest = &rest[batch.bytes.len()..];
    }
    Ok(())
}

/// Maps a file afresh and checks the CRC of each batch, nothing else. Returns how many there are.
fn verify_file(path: &Path) -> io::Result<u64> {
    let map = map(path)?;
    let mut rest = &map[..];
    let mut count = 0;
    while let Some(batch) = Batch::first(rest)? {
        rest = &rest[batch.bytes.len()..];
        count += 1;
    }
    Ok(count)
}

fn map(path: &Path) -> io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: this process alone knows the file, and writes nothing to it while it is mapped here: its writers are gone.
    unsafe { Mmap::map(&file) }
}

/// Files of ours: both sides of a race are given the same ones. Once they are made, no log of ours is open here, for it
/// would do its own work in the background meanwhile.
struct Made<O> {
    dir: PathBuf,
    making: Option<Ours<O>>,
}

impl<O: Opening> Made<O> {
    fn open(dir: &Path, setup: Setup) -> io::Result<Self> {
        let is_made = dir.read_dir()?.next().is_some();
        let making = if is_made { None } else { Some(Ours::open(dir, setup)?) };
        Ok(Self { dir: dir.to_owned(), making })
    }

    fn writer(&self, log: usize) -> io::Result<<Ours<O> as System>::Writer> {
        self.making.as_ref().ok_or_else(|| io::Error::other("it is made"))?.writer(log)
    }

    fn scan(&self, log: usize, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        data_files(&self.dir, log)?.iter().try_for_each(|path| scan_file(path, &mut each))
    }

    fn close(self) -> io::Result<()> {
        self.making.map_or(Ok(()), Ours::close)
    }
}

/// Walks them.
pub(crate) struct Walk(Made<AsItComes>);

impl System for Walk {
    type Writer = <Ours<AsItComes> as System>::Writer;

    fn open(dir: &Path, setup: Setup) -> io::Result<Self> {
        Made::open(dir, setup).map(Self)
    }

    fn writer(&self, log: usize) -> io::Result<Self::Writer> {
        self.0.writer(log)
    }

    fn scan(&self, log: usize, each: impl FnMut(&[u8])) -> io::Result<()> {
        self.0.scan(log, each)
    }

    fn close(self) -> io::Result<()> {
        self.0.close()
    }
}

/// Checks the CRC of each batch of one log, and nothing else. Returns how many there are.
pub(crate) fn verify_only(dir: &Path, log: usize) -> io::Result<u64> {
    data_files(dir, log)?.iter().map(|path| verify_file(path)).sum()
}

/// Finds single records in the one file of a partition of ours: a sparse index in memory, interpolation, then from
/// header to header.
pub(crate) struct Indexed {
    made: Made<Unstaged>,
    index: Option<Index>,
}

impl System for Indexed {
    type Writer = <Ours<Unstaged> as System>::Writer;

    fn open(dir: &Path, setup: Setup) -> io::Result<Self> {
        Made::open(dir, setup).map(|made| Self { made, index: None })
    }

    fn writer(&self, log: usize) -> io::Result<Self::Writer> {
        self.made.writer(log)
    }

    fn scan(&self, log: usize, each: impl FnMut(&[u8])) -> io::Result<()> {
        self.made.scan(log, each)
    }

    fn close(self) -> io::Result<()> {
        self.made.close()
    }
}

impl Lookup for Indexed {
    #[inline]
    fn lookup(&mut self, at: u64, each: impl FnMut(&[u8])) -> io::Result<()> {
        if let Some(index) = &self.index {
            return index.lookup(at, each);
        }
        let files = data_files(&self.made.dir, 0)?;
        let [file] = &files[..] else { return Err(io::Error::other("more than one segment")) };
        self.index.insert(Index::of(file)?).lookup(at, each)
    }
}

struct Index {
    map: Mmap,
    /// Offset and position of a batch, one for each 4 KiB: as dense as ours by default.
    entries: Vec<(u64, usize)>,
    end: u64,
}

impl Index {
    fn of(path: &Path) -> io::Result<Self> {
        let map = map(path)?;
        let (mut entries, mut position, mut end) = (Vec::new(), 0, 0);
        while let Some(batch) = Batch::first(&map[position..])? {
            let offset = base_offset_of(batch.bytes).ok_or_else(|| damaged("a header is cut short"))?;
            if entries.last().is_none_or(|(_, last)| position - last >= 4_096) {
                entries.push((offset, position));
            }
            batch.values(|_| end += 1)?;
            position += batch.bytes.len();
        }
        Ok(Self { map, entries, end })
    }

    #[inline]
    fn lookup(&self, at: u64, each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut position = self.entry_below(at).1;
        loop {
            let rest = &self.map[position..];
            let len = len_of(rest).ok_or_else(|| damaged("the file ends before the record"))?;
            // A batch of one record ends where the next offset begins.
            if base_offset_of(rest) == Some(at) {
                let batch = Batch::first(rest)?.ok_or_else(|| damaged("zeros before the record"))?;
                return batch.values(each);
            }
            position += len;
        }
    }

    /// The last entry that is not above `at`: a guess by proportion, then a step or two.
    #[inline]
    fn entry_below(&self, at: u64) -> (u64, usize) {
        let guess = (at as u128 * self.entries.len() as u128 / self.end.max(1) as u128) as usize;
        let mut index = guess.min(self.entries.len() - 1);
        while self.entries[index].0 > at {
            index -= 1;
        }
        while self.entries.get(index + 1).is_some_and(|(offset, _)| *offset <= at) {
            index += 1;
        }
        self.entries[index]
    }
}
