//! The only way to replace a small file: write a new one, sync it, rename it over the old, sync the directory.

use std::path::Path;

use super::{Disk, DiskFile, Open, read_exact_at, write_all_at};
use crate::error::{Error, Result};
use crate::probe;

/// Replaces `path` by a file holding `bytes`. When this returns the new file is durable; after an error, or a crash
/// on the way, either the old or the new one is there, whole.
///
/// The temporary file is `path` with `.tmp` appended, as Kafka names it. One left by a crash is overwritten.
pub(crate) fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<()> {
    replace_with(disk, path, |file, temporary| write_all_at(file, bytes, 0).map_err(Error::io("write", temporary)))
}

/// The same, by a file that `write` fills.
fn replace_with(disk: &dyn Disk, path: &Path, write: impl FnOnce(&dyn DiskFile, &Path) -> Result<()>) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let temporary = Path::new(&name);
    let written = write_new(disk, temporary, write);
    if written.is_err() {
        // Best effort: the next replacement removes it otherwise.
        let _ = disk.remove_file(temporary);
        return written;
    }
    disk.rename(temporary, path).map_err(Error::io("rename to", path))?;
    sync_parent(disk, path)
}

/// Gives the file at `path` contents of its own if it has other names: what is written to it next is not for those who
/// know it by these. Returns whether it had. Durable when this returns.
pub(crate) fn unshare(disk: &dyn Disk, path: &Path) -> Result<bool> {
    let found = match disk.metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        found => found.map_err(Error::io("describe", path))?,
    };
    if found.links < 2 {
        return Ok(false);
    }
    probe::reached("disk.unshared");
    let source = disk.open(path, Open::Read).map_err(Error::io("open", path))?;
    replace_with(disk, path, |file, temporary| {
        let mut piece = vec![0; found.len.min(PIECE) as usize];
        let mut at = 0;
        while at < found.len {
            let bytes = &mut piece[..(found.len - at).min(PIECE) as usize];
            read_exact_at(&*source, bytes, at).map_err(Error::io("read", path))?;
            write_all_at(file, bytes, at).map_err(Error::io("write", temporary))?;
            at += bytes.len() as u64;
        }
        Ok(())
    })?;
    Ok(true)
}

/// Makes the name of `path` durable, or its absence.
pub(crate) fn sync_parent(disk: &dyn Disk, path: &Path) -> Result<()> {
    if probe::planted("disk.no_dir_sync") {
        return Ok(());
    }
    // A relative path of one name lies in the current directory.
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    disk.sync_dir(dir).map_err(Error::io("sync directory", dir))
}

fn write_new(disk: &dyn Disk, path: &Path, write: impl FnOnce(&dyn DiskFile, &Path) -> Result<()>) -> Result<()> {
    let file = match disk.open(path, Open::CreateNew) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            disk.remove_file(path).map_err(Error::io("remove", path))?;
            disk.open(path, Open::CreateNew)
        }
        opened => opened,
    };
    let file = file.map_err(Error::io("create", path))?;
    write(&*file, path)?;
    if probe::planted("disk.rename_before_sync") {
        return Ok(());
    }
    file.sync().map_err(Error::io("sync", path))
}

const PIECE: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::super::{RealDisk, read_file};
    use super::*;

    #[test]
    fn a_file_is_replaced_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog");
        std::fs::write(dir.path().join("catalog.tmp"), "left by a crash").unwrap();
        for text in ["one", "a longer text", "2"] {
            replace(&RealDisk, &path, text.as_bytes()).unwrap();
            assert_eq!(read_file(&RealDisk, &path, 100).unwrap(), text.as_bytes());
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(read_file(&RealDisk, &path, 0).is_err(), "the limit holds");
    }

    #[test]
    fn a_file_of_two_names_gets_contents_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("here"), dir.path().join("there"));
        assert!(!unshare(&RealDisk, &path).unwrap(), "there is none");
        let bytes = vec![7; PIECE as usize + 1];
        std::fs::write(&path, &bytes).unwrap();
        assert!(!unshare(&RealDisk, &path).unwrap(), "it has one name");
        RealDisk.link(&path, &other).unwrap();
        assert!(unshare(&RealDisk, &path).unwrap());
        std::fs::write(&path, "changed").unwrap();
        assert!(std::fs::read(&other).unwrap() == bytes);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
