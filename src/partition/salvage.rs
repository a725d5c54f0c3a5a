//! What a salvage does before recovery: damage in the middle of a partition is cut out, and what lies behind it kept.
//!
//! ```text
//! before   | batch | batch | damaged ..... | batch | batch |        an error to recovery, and to readers
//! after    | batch | batch | batch | batch |                        a gap in the offsets
//!                            .cut: what was damaged
//! ```
//!
//! Each segment is read whole. Where no batch verifies, the next one that does is looked for, byte by byte; one whose
//! offset cannot be right counts as damaged. The segment is then written anew without what lies between, beside the old
//! one, and renamed over it. What lies behind the last batch of the log is a torn tail, which recovery judges.
//!
//! Offsets are missing then, so the catalog must say of the topic that they may be, durably and before.

use std::path::{Path, PathBuf};

use super::context::Context;
use super::recover::Torn;
use super::writer::{copy_torn, unused_name};
use crate::disk::{Disk, DiskFile, Open, read_exact_at, write_all_at};
use crate::error::{Error, Result};
use crate::observe::{DamageCut, tell};
use crate::probe;
use crate::record::BatchHeader;
use crate::segment::scan::Scan;
use crate::segment::{FileKind, file_path, parse_file_name};
use crate::types::{Offset, TopicPartition};

/// What is damaged in a partition, and can be cut out.
#[derive(Debug, Default)]
pub(crate) struct Damaged {
    segments: Vec<(Offset, Vec<Hole>)>,
    /// Whether records are missing where no byte is damaged.
    has_gaps: bool,
}

/// Bytes of a segment that are no batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hole {
    from: u64,
    to: u64,
    /// The offset of the first record that is lost, and of the first that is not.
    first: Offset,
    next: Offset,
}

impl Damaged {
    /// Reads the whole partition in `dir`.
    pub(crate) fn find(disk: &dyn Disk, dir: &Path, dense: bool) -> Result<Self> {
        let entries = disk.list(dir).map_err(Error::io("list", dir))?;
        let files = entries.iter().filter_map(|entry| parse_file_name(&entry.name));
        let mut bases: Vec<Offset> = files.filter(|(_, kind)| *kind == FileKind::Log).map(|(base, _)| base).collect();
        bases.sort_unstable();
        let mut found = Self::default();
        for (at, base) in bases.iter().enumerate() {
            let path = file_path(dir, *base, FileKind::Log);
            let file = disk.open(&path, Open::Read).map_err(Error::io("open", &*path))?;
            let limit = file.metadata().map_err(Error::io("describe", &*path))?.len;
            let mut look = Look {
                file: &*file,
                base: *base,
                limit,
                upper: bases.get(at + 1).copied(),
                dense,
                found: Vec::new(),
            };
            found.has_gaps |= look.run().map_err(Error::io("read", &*path))?;
            if !look.found.is_empty() {
                found.segments.push((*base, look.found));
            }
        }
        Ok(found)
    }

    /// Whether there is nothing to cut out, and no record is missing.
    pub(crate) fn is_none(&self) -> bool {
        self.segments.is_empty() && !self.has_gaps
    }

    /// Cuts it out. Durable when this returns; after a crash before, it is found again.
    pub(crate) fn cut_out(&self, context: &Context, partition: &TopicPartition, dir: &Path) -> Result<()> {
        for (base, holes) in &self.segments {
            let path = file_path(dir, *base, FileKind::Log);
            for hole in holes {
                let kept_in = keep(context.disk(), dir, &path, hole)?;
                let (partition, path, hole) = (partition.clone(), path.clone(), *hole);
                tell(&context.observer, move |observer| {
                    observer.damage_cut_out(&DamageCut {
                        partition: &partition,
                        path: &path,
                        position: hole.from,
                        bytes: hole.to - hole.from,
                        first_offset: hole.first,
                        next_offset: hole.next,
                        kept_in: &kept_in,
                    });
                });
            }
            write_anew(context.disk(), dir, *base, holes)?;
            probe::reached("salvage.cut_out");
        }
        Ok(())
    }
}

/// A walk through one segment.
struct Look<'f> {
    file: &'f dyn DiskFile,
    base: Offset,
    limit: u64,
    /// Where the next segment begins; none for the last.
    upper: Option<Offset>,
    dense: bool,
    found: Vec<Hole>,
}

impl Look<'_> {
    /// Returns whether records are missing where no byte is damaged.
    fn run(&mut self) -> std::io::Result<bool> {
        let (mut position, mut next, mut has_gaps) = (0, self.base, false);
        loop {
            let mut scan = Scan::new(self.file, position, self.limit, next, self.dense);
            while scan.next()?.is_ok() {}
            (position, next) = (scan.position(), scan.next_offset());
            if position == self.limit {
                return Ok(has_gaps || (self.dense && self.upper.is_some_and(|upper| upper > next)));
            }
            if self.dense
                && let Some(later) = self.begins_late(position, next)?
            {
                (next, has_gaps) = (later, true);
                continue;
            }
            let hole = |to, behind| Hole { from: position, to, first: next, next: behind };
            match (self.next_batch(position + 1, next)?, self.upper) {
                (Some((to, behind)), _) => {
                    self.found.push(hole(to, behind));
                    (position, next) = (to, behind);
                }
                (None, Some(upper)) if upper > next => {
                    self.found.push(hole(self.limit, upper));
                    return Ok(has_gaps);
                }
                // For recovery to judge, or room that was never used.
                (None, _) => return Ok(has_gaps),
            }
        }
    }

    /// The offset of the batch at `position`, if it is whole, and records before it are missing: what follows agrees
    /// with it. Else its offset, which no checksum covers, is what is damaged.
    fn begins_late(&self, position: u64, next: Offset) -> std::io::Result<Option<Offset>> {
        let mut scan = Scan::new(self.file, position, self.limit, next, false);
        let Ok(batch) = scan.next()? else { return Ok(None) };
        let (begin, end) = (batch.header.base_offset, batch.header.next_offset());
        if self.upper.is_some_and(|upper| end > upper) {
            return Ok(None);
        }
        let at = scan.position();
        let mut behind = Scan::new(self.file, at, self.limit, end, true);
        let agrees = at == self.limit || behind.next()?.is_ok();
        Ok(agrees.then_some(begin))
    }

    /// The first whole batch from `from` on whose offsets may be right: its position and first offset.
    fn next_batch(&self, from: u64, next: Offset) -> std::io::Result<Option<(u64, Offset)>> {
        // What looks like the head of a long batch costs its checksum. Of a file made up of such, not all is tried.
        let mut tries = MOST_TRIED.saturating_mul(self.limit);
        let mut at = from;
        let mut piece = vec![0; PIECE.min((self.limit - from.min(self.limit)) as usize)];
        while self.limit.saturating_sub(at) >= BatchHeader::LEN as u64 {
            let bytes = &mut piece[..PIECE.min((self.limit - at) as usize)];
            read_exact_at(self.file, bytes, at)?;
            for (skip, head) in bytes.windows(BatchHeader::LEN).enumerate() {
                if head[BatchHeader::MAGIC_FROM] != BatchHeader::MAGIC {
                    continue;
                }
                let Ok(header) = BatchHeader::read(head) else { continue };
                let may_be = header.base_offset >= next
                    && self.upper.is_none_or(|upper| header.next_offset() <= upper)
                    && u64::from(header.batch_len) <= tries;
                if !may_be {
                    continue;
                }
                tries -= u64::from(header.batch_len);
                let position = at + skip as u64;
                if Scan::new(self.file, position, self.limit, header.base_offset, true).next()?.is_ok() {
                    return Ok(Some((position, header.base_offset)));
                }
            }
            at += (bytes.len() - (BatchHeader::LEN - 1)) as u64;
        }
        Ok(None)
    }
}

/// Copies what is to be cut out into a file of its own, durably.
fn keep(disk: &dyn Disk, dir: &Path, path: &Path, hole: &Hole) -> Result<PathBuf> {
    let torn = Torn { path: path.to_owned(), from: hole.from, to: hole.to, offset: hole.first };
    let source = disk.open(path, Open::Read).map_err(Error::io("open", path))?;
    let kept_in = unused_name(disk, dir, &format!("{:020}", hole.first.0))?;
    let file = disk.open(&kept_in, Open::CreateNew).map_err(Error::io("create", &*kept_in))?;
    copy_torn(&*source, &torn, &*file, &kept_in).inspect_err(|_| {
        let _ = disk.remove_file(&kept_in);
    })?;
    Ok(kept_in)
}

/// Replaces a segment file by one without the holes.
fn write_anew(disk: &dyn Disk, dir: &Path, base: Offset, holes: &[Hole]) -> Result<()> {
    let path = file_path(dir, base, FileKind::Log);
    let mended = path.with_extension("log.mended");
    match disk.remove_file(&mended) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", mended)(error)),
        _ => {}
    }
    let source = disk.open(&path, Open::Read).map_err(Error::io("open", &*path))?;
    let len = source.metadata().map_err(Error::io("describe", &*path))?.len;
    let file = disk.open(&mended, Open::CreateNew).map_err(Error::io("create", &*mended))?;
    let begins = std::iter::once(0).chain(holes.iter().map(|hole| hole.to));
    let ends = holes.iter().map(|hole| hole.from).chain([len]);
    let (mut to, mut piece) = (0, vec![0; PIECE]);
    for (from, end) in begins.zip(ends) {
        let mut at = from;
        while at < end {
            let bytes = &mut piece[..PIECE.min((end - at) as usize)];
            read_exact_at(&*source, bytes, at).map_err(Error::io("read", &*path))?;
            write_all_at(&*file, bytes, to).map_err(Error::io("write", &*mended))?;
            (at, to) = (at + bytes.len() as u64, to + bytes.len() as u64);
        }
    }
    file.sync().map_err(Error::io("sync", &*mended))?;
    // Of the old one; a crash may leave the segment without them, and they are made anew.
    for kind in [FileKind::Index, FileKind::TimeIndex, FileKind::TxnIndex, FileKind::Seal] {
        let derived = file_path(dir, base, kind);
        match disk.remove_file(&derived) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", derived)(error));
            }
            _ => {}
        }
    }
    disk.sync_dir(dir).map_err(Error::io("sync directory", dir))?;
    disk.rename(&mended, &path).map_err(Error::io("rename", &*mended))?;
    disk.sync_dir(dir).map_err(Error::io("sync directory", dir))
}

const PIECE: usize = 256 << 10;
/// How many times the length of a file is checksummed at most in search of a batch.
const MOST_TRIED: u64 = 16;
