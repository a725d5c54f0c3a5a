//! The directory that a backup is made in: nobody's until it is begun, refused by every open until it is whole.
//!
//! In the place of the catalog stands a file that is none, durably before anything else; the catalog replaces it when
//! everything else is durable. So a crash anywhere leaves nothing, or a directory that says what it is, or the whole.

use std::io;
use std::path::{Path, PathBuf};

use crate::disk::replace::{replace, sync_parent};
use crate::disk::{Disk, DiskLock, read_file};
use crate::error::{Error, Result};
use crate::log::catalog::{Catalog, UNFINISHED};
use crate::log::delete::remove_dir;
use crate::log::open::{CATALOG_FILE, LOCK_FILE, make_dir, take_lock};
use crate::log::text::LogId;
use crate::probe;

/// The directory, locked.
#[derive(Debug)]
pub(super) struct Target<'d> {
    disk: &'d dyn Disk,
    pub(super) dir: PathBuf,
    log: LogId,
    /// The directories that were not there, innermost first.
    made: Vec<PathBuf>,
    lock: Option<Box<dyn DiskLock>>,
}

impl<'d> Target<'d> {
    /// Makes the directory, if it is not there, and begins the backup in it. After an error it is as it was, as far as
    /// the disk allows.
    pub(super) fn begin(disk: &'d dyn Disk, dir: PathBuf, log_dir: &Path, log: LogId) -> Result<Self> {
        check_place(disk, &dir, log_dir)?;
        let made = dir.ancestors().take_while(|above| is_missing(disk, above)).map(Path::to_owned).collect();
        let named = make_dir(disk, &dir).and_then(|()| keep_names(disk, &dir));
        let locked = named.and_then(|()| lock_empty(disk, &dir));
        let lock = match locked {
            Ok(lock) => lock,
            Err(error) => {
                remove_dirs(disk, made);
                return Err(error);
            }
        };
        let target = Self { disk, dir, log, made, lock };
        match target.put_placeholder() {
            Ok(()) => Ok(target),
            Err(error) => {
                target.clear();
                Err(error)
            }
        }
    }

    /// Makes the backup whole: everything else in it is durable. After an error nothing is left that opens, as far as
    /// the disk allows.
    pub(super) fn finish(self, catalog: &Catalog) -> Result<()> {
        let path = self.dir.join(CATALOG_FILE);
        catalog.store(self.disk, &path).inspect_err(|_| {
            probe::reached("backup.unfinished");
            // It may have got that far. While that is so, nothing may be missing.
            if self.has_placeholder() || self.put_placeholder().is_ok() {
                self.clear();
            }
        })
    }

    /// Removes what was made, as far as the disk allows. What is left is refused by every open.
    pub(super) fn clear(self) {
        let is_cleared = self.remove_contents().is_ok();
        drop(self.lock);
        if is_cleared {
            remove_dirs(self.disk, self.made);
        }
    }

    fn has_placeholder(&self) -> bool {
        let found = read_file(self.disk, &self.dir.join(CATALOG_FILE), 1 << 10);
        found.is_ok_and(|bytes| bytes.starts_with(UNFINISHED.as_bytes()))
    }

    fn put_placeholder(&self) -> Result<()> {
        let text = format!("{UNFINISHED}\nlog {}\n", self.log);
        replace(self.disk, &self.dir.join(CATALOG_FILE), text.as_bytes())
    }

    fn remove_contents(&self) -> Result<()> {
        let entries = self.disk.list(&self.dir).map_err(Error::io("list", &*self.dir))?;
        for dir in entries.iter().filter(|entry| entry.is_dir) {
            remove_dir(self.disk, &self.dir.join(&dir.name))?;
        }
        // What says that it is no whole backup goes last.
        let files = entries.iter().filter(|entry| !entry.is_dir && entry.name != CATALOG_FILE);
        let paths = files.map(|file| self.dir.join(&file.name)).chain([self.dir.join(CATALOG_FILE)]);
        for path in paths {
            match self.disk.remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Refuses what is no directory, holds anything, or lies in the log's own directory.
fn check_place(disk: &dyn Disk, dir: &Path, log_dir: &Path) -> Result<()> {
    let refused = |reason| Err(Error::BackupTarget { path: dir.to_owned(), reason });
    if disk.metadata(dir).is_ok_and(|found| !found.is_dir) {
        return refused("it is not a directory");
    }
    let there = dir.ancestors().find(|above| !is_missing(disk, above)).unwrap_or(dir);
    let resolve = |path: &Path| disk.resolve(path).map_err(Error::io("find", path));
    if resolve(there)?.starts_with(resolve(log_dir)?) {
        return refused("it lies in the directory of the log");
    }
    if there == dir { check_empty(disk, dir) } else { Ok(()) }
}

/// A lock that nobody holds is no contents.
fn check_empty(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let entries = disk.list(dir).map_err(Error::io("list", dir))?;
    match entries.iter().all(|entry| entry.name == LOCK_FILE) {
        true => Ok(()),
        false => Err(Error::BackupTarget { path: dir.to_owned(), reason: "it is not empty" }),
    }
}

/// Makes the names of the directory and of those above it durable: one that was there may be so new that it is in memory
/// only, and a power cut would take it with all that is in it.
fn keep_names(disk: &dyn Disk, dir: &Path) -> Result<()> {
    sync_parent(disk, dir)?;
    for above in dir.ancestors().skip(2).filter(|above| !above.as_os_str().is_empty()) {
        // It may not be ours to read.
        let _ = disk.sync_dir(above);
    }
    Ok(())
}

/// Takes the lock. Somebody else may have come first, and have been so fast that he is done.
fn lock_empty(disk: &dyn Disk, dir: &Path) -> Result<Option<Box<dyn DiskLock>>> {
    let lock = take_lock(disk, dir, false)?;
    check_empty(disk, dir).inspect_err(|_| {
        if !matches!(disk.list(dir), Ok(entries) if entries.len() > 1) {
            let _ = disk.remove_file(&dir.join(LOCK_FILE));
        }
    })?;
    Ok(lock)
}

fn is_missing(disk: &dyn Disk, path: &Path) -> bool {
    disk.metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Best effort: what is not empty stays.
fn remove_dirs(disk: &dyn Disk, dirs: Vec<PathBuf>) {
    let _ = dirs.iter().try_for_each(|dir| disk.remove_dir(dir));
}
