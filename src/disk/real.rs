//! The operating system's file system.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use super::{BootId, DirEntry, Disk, DiskFile, DiskLock, FileId, Lock, Metadata, Open, Volume, VolumeKind};
use crate::sys::{Arena, Map};

/// The file system of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(how != Open::Read).create_new(how == Open::CreateNew);
        Ok(Arc::new(RealFile { file: options.open(path)? }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(DirEntry { name, is_dir: entry.file_type()?.is_dir() });
            }
        }
        Ok(entries)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        Ok(describe(&fs::metadata(path)?))
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        fs::canonicalize(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path, how: Lock) -> io::Result<Option<Box<dyn DiskLock>>> {
        // Who shares the lock only reads, perhaps from where nothing can be written.
        let writes = how == Lock::Exclusive;
        let file = OpenOptions::new().read(true).write(writes).create(writes).truncate(false).open(path)?;
        let locked = match how {
            Lock::Exclusive => file.try_lock(),
            Lock::Shared => file.try_lock_shared(),
        };
        match locked {
            Ok(()) => Ok(Some(Box::new(RealLock { file: RealFile { file } }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn lock_as_kafka(&self, path: &Path, how: Lock) -> io::Result<Option<Box<dyn DiskLock>>> {
        use rustix::fs::{FlockOperation, fcntl_lock};
        let writes = how == Lock::Exclusive;
        let file = OpenOptions::new().read(true).write(writes).create(writes).truncate(false).open(path)?;
        let operation = match how {
            Lock::Exclusive => FlockOperation::NonBlockingLockExclusive,
            Lock::Shared => FlockOperation::NonBlockingLockShared,
        };
        match fcntl_lock(&file, operation) {
            Ok(()) => Ok(Some(Box::new(RealLock { file: RealFile { file } }))),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn volume(&self, dir: &Path) -> io::Result<Volume> {
        let stat = rustix::fs::statfs(dir)?;
        let block = u64::try_from(stat.f_bsize).unwrap_or(0);
        let kind = match stat.f_type as u64 & 0xFFFF_FFFF {
            0xEF53 => VolumeKind::Ext,
            0x0102_1994 => VolumeKind::Tmpfs,
            other => VolumeKind::Other(other),
        };
        Ok(Volume {
            free_bytes: block.saturating_mul(stat.f_bavail),
            total_bytes: block.saturating_mul(stat.f_blocks),
            kind,
            boot: boot_id(),
            no_staging: no_staging(dir, kind),
        })
    }
}

#[derive(Debug)]
struct RealFile {
    file: File,
}

impl DiskFile for RealFile {
    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(into, position)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        // Not by libc, which makes each call cancellable first.
        Ok(rustix::io::pwrite(&self.file, bytes, position)?)
    }

    fn zero_range(&self, position: u64, len: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        // A hole reads as zeros, costs no space and is one change of metadata.
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, hole, position, len) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => self.write_zeros(position, len),
            done => Ok(done?),
        }
    }

    fn reserve(&self, position: u64, len: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        Ok(fallocate(&self.file, FallocateFlags::KEEP_SIZE, position, len)?)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn next_data(&self, position: u64) -> io::Result<Option<u64>> {
        use rustix::fs::{SeekFrom, seek};
        match seek(&self.file, SeekFrom::Data(position)) {
            Ok(at) => Ok(Some(at)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => Ok(Some(position)),
            Err(error) => Err(error.into()),
        }
    }

    fn next_hole(&self, position: u64) -> io::Result<u64> {
        use rustix::fs::{SeekFrom, seek};
        match seek(&self.file, SeekFrom::Hole(position)) {
            Ok(at) => Ok(at),
            Err(rustix::io::Errno::NXIO) => Ok(position),
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => Ok(self.metadata()?.len),
            Err(error) => Err(error.into()),
        }
    }

    fn metadata(&self) -> io::Result<Metadata> {
        Ok(describe(&self.file.metadata()?))
    }

    fn map(&self, capacity: usize) -> io::Result<Map> {
        Map::of_file(&self.file, capacity)
    }

    fn share(&self, len: usize) -> io::Result<Arena> {
        Arena::of_file(&self.file, len)
    }

    fn as_std(&self) -> Option<&File> {
        Some(&self.file)
    }
}

impl RealFile {
    fn write_zeros(&self, mut position: u64, mut len: u64) -> io::Result<()> {
        let zeros = [0; 64 << 10];
        while len > 0 {
            let step = len.min(zeros.len() as u64);
            self.file.write_all_at(&zeros[..step as usize], position)?;
            position += step;
            len -= step;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct RealLock {
    file: RealFile,
}

impl DiskLock for RealLock {
    fn file(&self) -> &dyn DiskFile {
        &self.file
    }
}

fn describe(metadata: &fs::Metadata) -> Metadata {
    let nanos = |time: io::Result<std::time::SystemTime>| {
        time.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |since| since.as_nanos() as u64)
    };
    Metadata {
        len: metadata.len(),
        id: FileId { device: metadata.dev(), inode: metadata.ino(), born: nanos(metadata.created()) },
        is_dir: metadata.is_dir(),
        links: metadata.nlink(),
        modified_ms: (nanos(metadata.modified()) / 1_000_000) as i64,
    }
}

/// The kernel's random id of this boot, 32 hexadecimal digits with dashes between.
fn boot_id() -> Option<BootId> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let digits: String = text.trim().chars().filter(|digit| *digit != '-').collect();
    let bits = u128::from_str_radix(&digits, 16).ok()?;
    (digits.len() == 32).then(|| BootId(bits.to_be_bytes()))
}

/// Why memory of a file in `dir` is not safe to store to, if it is not. Stores to it become signals where the file
/// system takes space when a page is first written, or again later because it writes copies; and a mount that passes
/// the system's memory by keeps nothing there.
fn no_staging(dir: &Path, kind: VolumeKind) -> Option<&'static str> {
    if matches!(kind, VolumeKind::Other(_)) {
        return Some("only ext4 and tmpfs are known to take stores on a full disk");
    }
    if fs::metadata(dir).is_ok_and(|metadata| metadata.created().is_err()) {
        return Some("the file system keeps no birth times, by which a file is told from a copy");
    }
    if kind == VolumeKind::Tmpfs {
        return None;
    }
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else { return Some("mounts are not told") };
    let Ok(device) = fs::metadata(dir).map(|metadata| metadata.dev()) else { return Some("device is not told") };
    let Some((kind, options)) = mount_of(&mounts, device) else { return Some("mount is not found") };
    let has = |wanted: &str| options.split(',').any(|option| option == wanted);
    match kind {
        "ext4" if has("data=journal") => Some("ext4 is mounted with data=journal"),
        "ext4" if has("dax") || has("dax=always") => Some("ext4 is mounted with dax"),
        // Not among the options of the mount if it is the file system's own default.
        "ext4" if journals_data(device) => Some("ext4 journals data"),
        "ext4" => None,
        _ => Some("only ext4 and tmpfs are known to take stores on a full disk"),
    }
}

/// Whether ext4 says so of itself.
fn journals_data(device: u64) -> bool {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let Ok(name) = fs::read_link(format!("/sys/dev/block/{major}:{minor}")) else { return false };
    let Some(name) = name.file_name().and_then(|name| name.to_str()) else { return false };
    let options = fs::read_to_string(format!("/proc/fs/ext4/{name}/options"));
    options.is_ok_and(|options| options.lines().any(|option| option == "data=journal"))
}

/// Kind and options of the mount of a device, from the kernel's table of mounts.
fn mount_of(mounts: &str, device: u64) -> Option<(&str, &str)> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let wanted = format!("{major}:{minor}");
    mounts.lines().find_map(|line| {
        let (mount, rest) = line.split_once(" - ")?;
        if mount.split(' ').nth(2)? != wanted {
            return None;
        }
        let mut fields = rest.split(' ');
        // Kind, source, options of the file system itself: those of the mount are others.
        Some((fields.next()?, fields.nth(1)?))
    })
}

#[cfg(test)]
mod tests {
    use super::super::{read_exact_at, write_all_at};
    use super::*;

    #[test]
    fn zeroing_keeps_length_and_neighbours() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.open(&dir.path().join("f"), Open::CreateNew).unwrap();
        write_all_at(&*file, &[7; 10_000], 0).unwrap();
        file.zero_range(100, 5_000).unwrap();
        let mut bytes = [1; 10_000];
        read_exact_at(&*file, &mut bytes, 0).unwrap();
        assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == if (100..5_100).contains(&at) { 0 } else { 7 }));
    }

    #[test]
    fn a_lock_excludes_this_process_too_until_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let held = RealDisk.lock(&path, Lock::Exclusive).unwrap().unwrap();
        assert!(RealDisk.lock(&path, Lock::Exclusive).unwrap().is_none());
        assert!(RealDisk.lock(&path, Lock::Shared).unwrap().is_none());
        // Closing another descriptor of the file must not give the lock away, as a record lock would.
        drop(RealDisk.open(&path, Open::Write).unwrap());
        assert!(RealDisk.lock(&path, Lock::Shared).unwrap().is_none());
        drop(held);
        let shared = RealDisk.lock(&path, Lock::Shared).unwrap();
        assert!(shared.is_some() && RealDisk.lock(&path, Lock::Shared).unwrap().is_some());
    }

    #[test]
    fn two_files_of_one_name_have_two_identities() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let first = RealDisk.open(&path, Open::CreateNew).unwrap().metadata().unwrap().id;
        assert_eq!(RealDisk.metadata(&path).unwrap().id, first);
        RealDisk.rename(&path, &dir.path().join("g")).unwrap();
        assert_ne!(RealDisk.open(&path, Open::CreateNew).unwrap().metadata().unwrap().id, first);
        assert!(RealDisk.open(&path, Open::CreateNew).is_err());
    }

    #[test]
    fn the_volume_of_a_temporary_directory_is_described() {
        let volume = RealDisk.volume(&std::env::temp_dir()).unwrap();
        assert!(volume.total_bytes >= volume.free_bytes && volume.total_bytes > 0);
        assert_eq!(volume.boot, RealDisk.volume(Path::new("/")).unwrap().boot);
    }

    #[test]
    fn a_mount_is_found_by_its_device() {
        let mounts = "28 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,data=journal\n\
                      30 28 0:25 / /run rw,nosuid shared:4 master:2 - tmpfs tmpfs rw,size=10k\n";
        assert_eq!(mount_of(mounts, rustix::fs::makedev(254, 0)), Some(("ext4", "rw,data=journal")));
        assert_eq!(mount_of(mounts, rustix::fs::makedev(0, 25)), Some(("tmpfs", "rw,size=10k")));
        assert_eq!(mount_of(mounts, rustix::fs::makedev(9, 9)), None);
    }
}
