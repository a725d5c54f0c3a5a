//! Logs with a flaw each, in which the judge has to find something: one that never complains is none.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Result;

/// A name, the kind of file, and what is done to it.
type Flaw = (&'static str, &'static str, fn(&mut Vec<u8>));

/// What is done to the last file of a kind, and by what that shows.
const FLAWS: [Flaw; 7] = [
    ("dump-record", "log", |bytes| flip(bytes, 2)),
    ("dump-position", "index", |bytes| flip(bytes, 1)),
    ("dump-time", "timeindex", |bytes| flip(bytes, 5)),
    ("dump-snapshot", "snapshot", |bytes| bytes[2] ^= 1),
    ("load-index", "index", |bytes| bytes.truncate(bytes.len() - 1)),
    ("recover-tail", "log", |bytes| bytes.truncate(bytes.len() - 7)),
    ("recover-zeros", "log", |bytes| bytes.resize(bytes.len() + 100, 0)),
];

/// Copies the log `from` so often into `dir`, each time with one flaw. A name begins with what is to find it.
pub(crate) fn write(from: &Path, dir: &Path) -> Result {
    for (name, kind, damage) in FLAWS {
        let to = dir.join(name);
        copy(from, &to)?;
        let path = last_of(&to.join("rolled-0"), kind)?;
        let mut bytes = fs::read(&path)?;
        if bytes.len() < 10 {
            return Err(format!("{} has nothing to damage", path.display()).into());
        }
        damage(&mut bytes);
        fs::write(path, bytes)?;
    }
    Ok(())
}

/// Changes the byte that is so far from the end.
fn flip(bytes: &mut [u8], from_end: usize) {
    let at = bytes.len() - from_end;
    bytes[at] ^= 8;
}

fn last_of(partition: &Path, kind: &str) -> Result<PathBuf> {
    let files =
        fs::read_dir(partition)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    let of_kind = files.into_iter().filter(|path| path.extension().is_some_and(|found| found == kind));
    of_kind.max().ok_or_else(|| format!("there is no .{kind} in {}", partition.display()).into())
}

fn copy(from: &Path, to: &Path) -> Result {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
