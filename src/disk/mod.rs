//! The seam: every effect on the file system goes through [`Disk`] and [`DiskFile`]. Nobody else opens a file.
//!
//! Two implementations: [`RealDisk`] is the operating system; the simulated one (feature `sim`) keeps what a crash
//! would keep. The traits are small on purpose, and say what is durable when a call returns, because that is what
//! the simulator holds their callers to.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checksum::Digest;

pub(crate) mod checkpoint;
pub(crate) mod marks;
mod real;
pub(crate) mod replace;

pub use crate::sys::{Arena, Map};
pub use real::RealDisk;

/// The file system as this crate uses it. Implementations are shared between threads.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Opens or creates a file. Creating does not make the name durable: [`Disk::sync_dir`] does.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates one directory; an error if it is there. Durable after [`Disk::sync_dir`] of its parent.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Removes a file. Durable after [`Disk::sync_dir`]. Open handles and maps of it stay valid.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory. Durable after [`Disk::sync_dir`] of its parent.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Renames a file or directory, replacing a file of that name. Atomic; durable after [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file a second name (a hard link). Durable after [`Disk::sync_dir`].
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Lists a directory, in no particular order, without `.` and `..`.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;

    /// Describes the file or directory of this name.
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;

    /// The one path of what is there, without symbolic links and dots. Where there are none, that is `path`.
    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_owned())
    }

    /// Makes all changes of names in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the whole-file lock of `path`, creating the file if need be, without waiting. `None` if somebody
    /// else, in this process or another, has it. Dropping the lock gives it back; so does the end of the process.
    fn lock(&self, path: &Path, how: Lock) -> io::Result<Option<Box<dyn DiskLock>>>;

    /// As [`lock`](Self::lock), but the kind of lock that Kafka takes, by `fcntl`: one that a broker sees, and who locks
    /// in the other way does not. It is the process that has it, so another handle in this one is not refused.
    fn lock_as_kafka(&self, path: &Path, how: Lock) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.lock(path, how)
    }

    /// Describes the file system that `dir` is on, and the boot it is seen from.
    fn volume(&self, dir: &Path) -> io::Result<Volume>;
}

/// One open file. Positions are absolute; there is no cursor.
pub trait DiskFile: fmt::Debug + Send + Sync + 'static {
    /// Reads at `position` and returns how many bytes it got: fewer than asked at the end of the file, or for no
    /// reason at all. Callers repeat.
    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize>;

    /// Writes at `position` and returns how many bytes it took, which may be fewer. Callers repeat.
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize>;

    /// Zeroes a range inside the file without changing its length, quickly where the file system can.
    fn zero_range(&self, position: u64, len: u64) -> io::Result<()>;

    /// Reserves disk space for a range, so that writing it cannot fail for want of space. Existing bytes stay;
    /// the length does not change. `Unsupported` where the file system cannot.
    fn reserve(&self, position: u64, len: u64) -> io::Result<()>;

    /// Cuts or extends the file; new bytes are zero.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes everything that was written through this handle durable, the length included. After one failure no
    /// later success means anything for the bytes before it: the caller poisons what it stores.
    fn sync(&self) -> io::Result<()>;

    /// Where the next bytes at or after `position` are that may be other than zero; `None` if there are none. A file
    /// system that keeps no account of holes says `position`.
    fn next_data(&self, position: u64) -> io::Result<Option<u64>> {
        Ok(Some(position))
    }

    /// Where the next hole at or after `position` begins, at the end of the file at the latest.
    fn next_hole(&self, _position: u64) -> io::Result<u64> {
        Ok(self.metadata()?.len)
    }

    /// Describes the open file.
    fn metadata(&self) -> io::Result<Metadata>;

    /// Maps the file for reading, from its start, with room for `capacity` bytes. The capacity may reach past
    /// the end of the file: the map shows only what its bound was raised to.
    fn map(&self, capacity: usize) -> io::Result<Map>;

    /// Maps the first `len` bytes of the file, which has them, to be stored to. What is stored is in the file for every
    /// reader at once, and survives the process; nothing makes it durable. Only asked for where
    /// [`Volume::no_staging`] is `None`.
    fn share(&self, _len: usize) -> io::Result<Arena> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The open file as the operating system has it, for `sendfile`; `None` in simulation.
    fn as_std(&self) -> Option<&std::fs::File> {
        None
    }
}

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// For reading; it must exist.
    Read,
    /// For reading and writing; it must exist.
    Write,
    /// For reading and writing; it must not exist.
    CreateNew,
}

/// Which lock to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// Alone: the one process that writes.
    Exclusive,
    /// Beside other readers.
    Shared,
}

/// A lock that is held until dropped. Its file stays.
pub trait DiskLock: fmt::Debug + Send + Sync {
    /// The locked file: holds a line about the holder.
    fn file(&self) -> &dyn DiskFile;
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The name, without the directory. Names that are not UTF-8 are never ours and are left out.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// What the file system knows of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// Length in bytes.
    pub len: u64,
    /// Which file it is.
    pub id: FileId,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// How many names the file has.
    pub links: u64,
    /// When it was last written, in milliseconds since 1970; 0 if unknown.
    pub modified_ms: i64,
}

/// The identity of a file: a copy, or a new file of an old name, has another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FileId {
    /// The device it is on.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
    /// When it was made, in nanoseconds since 1970; 0 if the file system does not say.
    pub born: u64,
}

/// What there is to know of a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Bytes free for this process.
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
    /// Its kind.
    pub kind: VolumeKind,
    /// The boot of the machine it is seen from; changes with every restart. `None` if unknown: nothing that was
    /// left in memory is then believed.
    pub boot: Option<BootId>,
    /// Why a store to a mapped file could become a signal here, or could be lost with the process; `None` if it
    /// cannot.
    pub no_staging: Option<&'static str>,
}

/// A kind of file system, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum VolumeKind {
    /// ext2, ext3 or ext4.
    Ext,
    /// tmpfs.
    Tmpfs,
    /// Anything else, by magic number.
    Other(u64),
}

/// One boot of one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct BootId(pub [u8; 16]);

/// Reads until `into` is full. `UnexpectedEof` if the file ends before.
pub(crate) fn read_exact_at(file: &dyn DiskFile, mut into: &mut [u8], mut position: u64) -> io::Result<()> {
    while !into.is_empty() {
        match file.read_at(into, position) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                into = &mut into[count..];
                position += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all of `bytes`. After an error any part of them may be in the file.
pub(crate) fn write_all_at(file: &dyn DiskFile, mut bytes: &[u8], mut position: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = &bytes[count..];
                position += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads a whole small file. One longer than `limit` is an error of kind `InvalidData`: it is not what we wrote.
pub(crate) fn read_file(disk: &dyn Disk, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(path, Open::Read)?;
    let len = file.metadata()?.len;
    if len > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{len} bytes, of {limit} allowed")));
    }
    let mut bytes = vec![0; len as usize];
    read_exact_at(&*file, &mut bytes, 0)?;
    Ok(bytes)
}

/// The beginning of a file that is at least as long as what a digest was made of: no more is asked of the memory.
pub(crate) struct Vouched {
    file: Arc<dyn DiskFile>,
    digest: Digest,
}

impl Vouched {
    /// `None` if there is no such file.
    pub(crate) fn open(disk: &dyn Disk, path: &Path, digest: Digest) -> Option<Self> {
        let file = disk.open(path, Open::Read).ok()?;
        (file.metadata().ok()?.len >= u64::from(digest.len)).then_some(Self { file, digest })
    }

    /// Fills `bytes`, which are as many as the digest says; `false` if it was made of others.
    pub(crate) fn read(&self, bytes: &mut [u8]) -> bool {
        read_exact_at(&*self.file, bytes, 0).is_ok() && Digest::of(bytes) == self.digest
    }
}

/// The beginning of the file at `path`, as much of it as `digest` was made of; `None` if it is not that.
pub(crate) fn read_vouched(disk: &dyn Disk, path: &Path, digest: Digest) -> Option<Box<[u8]>> {
    if digest.len == 0 {
        return Some(Box::default());
    }
    let vouched = Vouched::open(disk, path, digest)?;
    let mut bytes = vec![0; digest.len as usize].into_boxed_slice();
    vouched.read(&mut bytes).then_some(bytes)
}
