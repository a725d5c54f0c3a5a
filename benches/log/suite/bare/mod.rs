//! The bare loops: the least code that puts the same bytes on disk, or takes them off.
//!
//! Nothing here comes from the crate: batches are encoded and checked by hand, so that a mistake of ours cannot be
//! shared by what it is measured against.

pub(crate) mod batch;
mod copy;
mod direct;
mod group;
mod staged;
mod walk;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::time::{ClockId, clock_gettime};

pub(crate) use copy::Copied;
pub(crate) use direct::{Buffered, Positional};
pub(crate) use group::Group;
pub(crate) use staged::Staged;
pub(crate) use walk::{Indexed, Walk, verify_only};

/// The file of one log: opened, or made; with blocks that were written and synced before if appends will be synced. A
/// sync then carries the bytes, and no change of the file system's own books.
fn open_file(path: &Path, written_ahead: u64) -> io::Result<File> {
    let is_new = !path.exists();
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    if is_new && written_ahead > 0 {
        let zeros = vec![0; MIB];
        for position in (0..written_ahead).step_by(MIB) {
            file.write_all_at(&zeros, position)?;
        }
        file.sync_all()?;
    }
    Ok(file)
}

fn log_path(dir: &Path, log: usize) -> PathBuf {
    dir.join(format!("{log}.log"))
}

/// Milliseconds since 1970 by the clock that costs least: it moves every 4 ms at most.
fn coarse_ms() -> u64 {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    now.tv_sec as u64 * 1_000 + now.tv_nsec as u64 / 1_000_000
}

const MIB: usize = 1 << 20;
