//! How far a partition was compacted, as its own directory says it: a small file beside the segments.
//!
//! The checkpoints say that, too. But they stay where they are when the files of a partition are put back from a backup, and
//! what they say is then true of others. A tombstone below would go before what it deletes, and a deleted key come back. So
//! only what both say counts: the smaller of the two.
//!
//! ```text
//! chiplog compacted 1
//! log 00112233445566778899aabbccddeeff
//! cleaned 20
//! crc32 1a2b3c4d
//! ```
//!
//! It is replaced when every segment of a round has its place, durably, and before the checkpoints are: whichever of them a
//! crash keeps from being written, the smaller one is true. One that is missing, damaged or of another log says 0: then all
//! of the partition is dirty, and the next round reads it as the first one did.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use super::text::{self, Form, LogId};
use crate::disk::replace::{replace, sync_parent};
use crate::disk::{Disk, read_file};
use crate::error::{Error, Result};
use crate::types::Offset;

/// Below which offset everything was compacted, as the directory of a partition says it.
pub(super) fn load(disk: &dyn Disk, dir: &Path, log: LogId) -> Offset {
    let bytes = read_file(disk, &path(dir), MAX_BYTES).ok();
    bytes.and_then(|bytes| parse(&bytes, log)).unwrap_or_default()
}

/// Replaces the file. Durable when this returns.
pub(super) fn store(disk: &dyn Disk, dir: &Path, log: LogId, cleaned: Offset) -> Result<()> {
    replace(disk, &path(dir), to_text(log, cleaned).as_bytes())
}

/// Removes the file, durably.
pub(super) fn remove(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let path = path(dir);
    match disk.remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("remove", path)(error)),
        Ok(()) => sync_parent(disk, &path),
    }
}

/// Whether there is a file, and it does not read.
pub(super) fn is_damaged(disk: &dyn Disk, dir: &Path, log: LogId) -> bool {
    match read_file(disk, &path(dir), MAX_BYTES) {
        Ok(bytes) => parse(&bytes, log).is_none(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("compacted")
}

fn to_text(log: LogId, cleaned: Offset) -> String {
    let mut text = FORM.begin(log);
    let _ = writeln!(text, "cleaned {cleaned}");
    text::seal(text)
}

fn parse(bytes: &[u8], log: LogId) -> Option<Offset> {
    let (found, mut lines) = FORM.open(bytes).ok()?;
    let cleaned = lines.next()?.strip_prefix("cleaned ")?.parse().ok()?;
    (found == log && lines.next().is_none()).then_some(Offset(cleaned))
}

const FORM: Form = Form { what: "compacted", version: 1 };
const MAX_BYTES: u64 = 1 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::crc32;

    /// The form on disk, so that a change of it is one on purpose.
    #[test]
    fn the_text_is_the_documented_one_and_no_flipped_bit_goes_unnoticed() {
        let log = LogId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
        let body = "chiplog compacted 1\nlog 00112233445566778899aabbccddeeff\ncleaned 20\n";
        let text = to_text(log, Offset(20));
        assert_eq!(text, format!("{body}crc32 {:08x}\n", crc32(body.as_bytes())));
        assert_eq!(parse(text.as_bytes(), log), Some(Offset(20)));
        assert_eq!(parse(text.as_bytes(), LogId(1)), None);
        for bit in 0..text.len() * 8 {
            let mut damaged = text.clone().into_bytes();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&damaged, log), None, "bit {bit}");
        }
    }
}
