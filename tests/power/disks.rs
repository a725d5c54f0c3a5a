//! Disks that differ from the machine's in one thing.

use std::io;
use std::path::Path;
use std::sync::Arc;

use chiplog::disk::{BootId, DirEntry, Disk, DiskFile, DiskLock, Lock, Map, Metadata, Open, RealDisk, Volume};
use rustix::fs::{Advice, fadvise};

/// The machine's disk, seen from another boot or with a mistake.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Changed {
    /// The boot it is seen from, if not this one.
    pub(crate) boot: Option<BootId>,
    /// A mistake for the self-check to find: a sync of a file writes its bytes to the disk and does not flush that.
    pub(crate) forgets_flushes: bool,
}

impl Disk for Changed {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let file = RealDisk.open(path, how)?;
        Ok(if self.forgets_flushes { Arc::new(Unflushed(file)) } else { file })
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir(path)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.link(from, to)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        RealDisk.list(dir)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        RealDisk.metadata(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }

    fn lock(&self, path: &Path, how: Lock) -> io::Result<Option<Box<dyn DiskLock>>> {
        RealDisk.lock(path, how)
    }

    fn volume(&self, dir: &Path) -> io::Result<Volume> {
        let volume = RealDisk.volume(dir)?;
        Ok(Volume { boot: self.boot.or(volume.boot), ..volume })
    }
}

/// A file whose sync is only a beginning of one.
#[derive(Debug)]
struct Unflushed(Arc<dyn DiskFile>);

impl DiskFile for Unflushed {
    fn sync(&self) -> io::Result<()> {
        self.0.as_std().map_or(Ok(()), write_back)
    }

    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize> {
        self.0.read_at(into, position)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        self.0.write_at(bytes, position)
    }

    fn zero_range(&self, position: u64, len: u64) -> io::Result<()> {
        self.0.zero_range(position, len)
    }

    fn reserve(&self, position: u64, len: u64) -> io::Result<()> {
        self.0.reserve(position, len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn next_data(&self, position: u64) -> io::Result<Option<u64>> {
        self.0.next_data(position)
    }

    fn next_hole(&self, position: u64) -> io::Result<u64> {
        self.0.next_hole(position)
    }

    fn metadata(&self) -> io::Result<Metadata> {
        self.0.metadata()
    }

    fn map(&self, capacity: usize) -> io::Result<Map> {
        self.0.map(capacity)
    }

    fn as_std(&self) -> Option<&std::fs::File> {
        self.0.as_std()
    }
}

/// Has the kernel begin to write a file's bytes to the disk, as it does by itself after some seconds.
pub(crate) fn write_back(file: &std::fs::File) -> io::Result<()> {
    // To say that the cached bytes are not needed is what does it; they go once they are written.
    Ok(fadvise(file, 0, None, Advice::DontNeed)?)
}
