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
//! A batch can be whole and out of place: neither its offset nor its leader epoch is under a checksum. Where the batches
//! around it say what was there, it is set right; where offsets may be missing, they say only that it is too high.
//!
//! Offsets are missing then, so the catalog must say of the topic that they may be, durably and before.

use std::path::{Path, PathBuf};

use super::context::Context;
use super::recover::Torn;
use super::verify::is_blank;
use super::writer::{copy_torn, unused_name};
use crate::disk::{Disk, DiskFile, Open, read_exact_at, write_all_at};
use crate::error::{Error, Result};
use crate::observe::{BatchMended, DamageCut, tell};
use crate::probe;
use crate::record::{BatchHeader, stamp};
use crate::segment::scan::Scan;
use crate::segment::seal::Seal;
use crate::segment::{FileKind, file_path, parse_file_name};
use crate::types::{LeaderEpoch, Offset, TopicPartition};

/// What is damaged in a partition, and can be cut out.
#[derive(Debug, Default)]
pub(crate) struct Damaged {
    segments: Vec<Repair>,
    /// Whether records are missing where no byte is damaged.
    has_gaps: bool,
}

/// What is to be done to one segment.
#[derive(Debug)]
struct Repair {
    base: Offset,
    holes: Vec<Hole>,
    mends: Vec<Mend>,
    /// Where the file is to end: what lies behind was never written.
    end: u64,
}

/// A whole batch with a wrong offset or leader epoch, and what is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mend {
    position: u64,
    offset: Offset,
    epoch: LeaderEpoch,
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
        let len_of = |base: &Offset| {
            let path = file_path(dir, *base, FileKind::Log);
            disk.metadata(&path).map(|metadata| metadata.len).map_err(Error::io("describe", path))
        };
        let lens = bases.iter().map(len_of).collect::<Result<Vec<u64>>>()?;
        for (at, base) in bases.iter().enumerate() {
            let path = file_path(dir, *base, FileKind::Log);
            let file = disk.open(&path, Open::Read).map_err(Error::io("open", &*path))?;
            let limit = lens[at];
            // Where offsets may be missing, an empty file's name says less than a batch does.
            let upper = (at + 1..bases.len()).find(|next| dense || lens[*next] > 0).map(|next| bases[next]);
            let mut look = Look {
                file: &*file,
                base: *base,
                limit,
                upper,
                dense,
                is_cut: Seal::read(disk, dir, *base).is_some_and(|seal| seal.log_len > limit),
                tries: limit.saturating_mul(MOST_TRIED).max(LEAST_TRIED),
                holes: Vec::new(),
                mends: Vec::new(),
                end: limit,
            };
            found.has_gaps |= look.run().map_err(Error::io("read", &*path))?;
            let Look { holes, mends, end, .. } = look;
            if !holes.is_empty() || !mends.is_empty() {
                found.segments.push(Repair { base: *base, holes, mends, end });
            }
        }
        Ok(found)
    }

    /// Whether there is nothing to mend, and no record is missing.
    pub(crate) fn is_none(&self) -> bool {
        self.segments.is_empty() && !self.has_gaps
    }

    /// Whether offsets are missing once it is mended.
    pub(crate) fn leaves_gaps(&self) -> bool {
        self.has_gaps || self.segments.iter().any(|segment| !segment.holes.is_empty())
    }

    /// Cuts it out. Durable when this returns; after a crash before, it is found again.
    pub(crate) fn cut_out(&self, context: &Context, partition: &TopicPartition, dir: &Path) -> Result<()> {
        for repair in &self.segments {
            let path = file_path(dir, repair.base, FileKind::Log);
            for hole in &repair.holes {
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
            write_anew(context.disk(), dir, repair)?;
            for Mend { position, offset, epoch } in repair.mends.iter().copied() {
                probe::reached("salvage.mended");
                let (partition, path) = (partition.clone(), path.clone());
                tell(&context.observer, move |observer| {
                    let (partition, path, leader_epoch) = (&partition, &*path, epoch);
                    observer.batch_mended(&BatchMended { partition, path, position, offset, leader_epoch });
                });
            }
            if !repair.holes.is_empty() {
                probe::reached("salvage.cut_out");
            }
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
    /// Whether it was longer when it was sealed.
    is_cut: bool,
    /// What looks like the head of a long batch costs its checksum. Of a file made up of such, not all is tried.
    tries: u64,
    holes: Vec<Hole>,
    mends: Vec<Mend>,
    /// See [`Repair::end`].
    end: u64,
}

/// A place between two batches: where the next one begins, and what it must not fall below.
#[derive(Debug, Clone, Copy)]
struct Place {
    position: u64,
    next: Offset,
    epoch: LeaderEpoch,
}

impl<'f> Look<'f> {
    /// Returns whether records are missing where no byte is damaged.
    fn run(&mut self) -> std::io::Result<bool> {
        let mut at = Place { position: 0, next: self.base, epoch: LeaderEpoch::NONE };
        let mut has_gaps = false;
        loop {
            let mut scan = self.scan(at, self.dense);
            // Before the last batch that seems right.
            let mut before = None;
            loop {
                let place = Place::of(&scan);
                match scan.next()? {
                    Ok(_) => before = Some(place),
                    Err(_) => break,
                }
            }
            at = Place::of(&scan);
            if at.position == self.limit {
                if let Some(upper) = self.upper.filter(|upper| self.is_cut && *upper > at.next) {
                    self.cut(at, self.limit, upper);
                }
                return Ok(has_gaps || (self.dense && self.upper.is_some_and(|upper| upper > at.next)));
            }
            if self.dense
                && let Some(later) = self.begins_late(at)?
            {
                (at.next, has_gaps) = (later, true);
                continue;
            }
            if self.dense
                && let Some((mend, after)) = self.is_misplaced(at)?
            {
                self.mends.push(mend);
                at = after;
                continue;
            }
            if let Some(before) = before
                && let Some(second) = self.is_too_high(before, at)?
            {
                at = self.lower(before, at, &second)?;
                continue;
            }
            match (self.next_batch(at)?, self.upper) {
                (Some(batch), _) => {
                    self.cut(at, batch.position, batch.first);
                    at = Place { position: batch.position, next: batch.first, ..at };
                }
                (None, Some(upper)) if upper > at.next => {
                    self.cut(at, self.limit, upper);
                    return Ok(has_gaps);
                }
                // For recovery to judge, or room that was never used.
                (None, _) => {
                    if is_blank(self.file, at.position, self.limit)? {
                        self.end = at.position;
                    }
                    return Ok(has_gaps);
                }
            }
        }
    }

    fn scan(&self, at: Place, dense: bool) -> Scan<'f> {
        // Where offsets follow one another, they count for more than the name of the next file.
        let upper = self.upper.filter(|_| !dense);
        Scan::new(self.file, at.position, self.limit, at.next, dense).below(upper).after(at.epoch)
    }

    fn cut(&mut self, at: Place, to: u64, next: Offset) {
        self.holes.push(Hole { from: at.position, to, first: at.next, next });
    }

    /// The offset of the batch at `at`, if it is whole, and records before it are missing: what follows agrees with it.
    /// Else its offset, which no checksum covers, is what is damaged.
    fn begins_late(&self, at: Place) -> std::io::Result<Option<Offset>> {
        let mut scan = self.scan(at, false);
        let Ok(batch) = scan.next()? else { return Ok(None) };
        let (begin, end) = (batch.header.base_offset, batch.header.next_offset());
        let agrees = match scan.position() == self.limit {
            true => self.upper == Some(end),
            false => self.scan(Place::of(&scan), true).next()?.is_ok(),
        };
        Ok((begin > at.next && agrees).then_some(begin))
    }

    /// Whether the batch at `at` is whole, and what follows begins where it ends if it has the offset that is due: then that
    /// is its offset. And where to go on.
    fn is_misplaced(&self, at: Place) -> std::io::Result<Option<(Mend, Place)>> {
        let mut scan = Scan::new(self.file, at.position, self.limit, Offset::ZERO, false);
        let Ok(batch) = scan.next()? else { return Ok(None) };
        let header = batch.header;
        let next = Offset(at.next.0.saturating_add(header.last_offset_delta as u64 + 1)).min(Offset::MAX);
        let after = Place { position: scan.position(), next, epoch: at.epoch };
        let follows = match after.position == self.limit {
            true => self.upper == Some(next),
            false => self.scan(after, true).next()?.is_ok(),
        };
        let epoch = match header.leader_epoch {
            LeaderEpoch::NONE => LeaderEpoch::NONE,
            epoch => epoch.max(at.epoch),
        };
        let mend = Mend { position: at.position, offset: at.next, epoch };
        Ok(follows.then_some((mend, Place { epoch: epoch.max(at.epoch), ..after })))
    }

    /// Sets the batch between `before` and `at` right if it is too high: its leader epoch, or, where its offset is, by cutting
    /// it out. Returns where to go on.
    fn lower(&mut self, before: Place, at: Place, second: &BatchHeader) -> std::io::Result<Place> {
        probe::reached("salvage.too_high");
        if second.base_offset < at.next {
            self.cut(before, at.position, second.base_offset);
            return Ok(Place { next: second.base_offset, epoch: before.epoch, ..at });
        }
        let mut head = [0; BatchHeader::LEN];
        read_exact_at(self.file, &mut head, before.position)?;
        let offset = BatchHeader::read(&head).map_or(before.next, |header| header.base_offset);
        let epoch = if before.epoch == LeaderEpoch::NONE { second.leader_epoch } else { before.epoch };
        self.mends.push(Mend { position: before.position, offset, epoch });
        Ok(Place { epoch, ..at })
    }

    /// Whether the batch between `before` and `at` is what is damaged, and not the one behind it, which is whole and would
    /// follow without it: neither offset nor leader epoch is under a checksum, and one that is too high looks right until
    /// the next batch. Two against one. The next batch, then.
    fn is_too_high(&self, before: Place, at: Place) -> std::io::Result<Option<BatchHeader>> {
        let mut scan = self.scan(Place { position: at.position, ..before }, false);
        let Ok(second) = scan.next()?.map(|second| second.header) else { return Ok(None) };
        let (next, epoch) = (second.base_offset, second.leader_epoch);
        if next >= at.next && (epoch >= at.epoch || epoch == LeaderEpoch::NONE) {
            return Ok(None);
        }
        let agrees = match scan.next()? {
            Ok(third) => third.header.base_offset < at.next || third.header.leader_epoch < at.epoch,
            Err(_) => true,
        };
        Ok(agrees.then_some(second))
    }

    /// The first whole batch behind `at` whose offsets may be right.
    fn next_batch(&mut self, at: Place) -> std::io::Result<Option<Batch>> {
        // A record may hold what looks like a batch. Where the damaged one says that it ends comes first, then.
        if let Some(claimed) = self.claimed_end(at)?
            && let Some(batch) = self.batch_at(Place { position: claimed, ..at })?
        {
            return Ok(Some(batch));
        }
        let mut from = at.position + 1;
        let mut doubtful: Option<Batch> = None;
        let mut piece = vec![0; PIECE.min((self.limit - from.min(self.limit)) as usize)];
        while self.limit.saturating_sub(from) >= BatchHeader::LEN as u64 {
            let bytes = &mut piece[..PIECE.min((self.limit - from) as usize)];
            read_exact_at(self.file, bytes, from)?;
            for (skip, head) in bytes.windows(BatchHeader::LEN).enumerate() {
                if head[BatchHeader::MAGIC_FROM] != BatchHeader::MAGIC {
                    continue;
                }
                match self.batch_at(Place { position: from + skip as u64, ..at })? {
                    // One that nothing follows counts only if the next that something does follow agrees.
                    Some(batch) if batch.is_followed => {
                        let agrees = |doubtful: &Batch| doubtful.end <= batch.first;
                        return Ok(Some(doubtful.filter(agrees).unwrap_or(batch)));
                    }
                    Some(batch) => doubtful = doubtful.or(Some(batch)),
                    None => {}
                }
            }
            from += (bytes.len() - (BatchHeader::LEN - 1)) as u64;
        }
        Ok(doubtful)
    }

    /// Where the damaged batch says that it ends, if the file goes on there.
    fn claimed_end(&self, at: Place) -> std::io::Result<Option<u64>> {
        if self.limit - at.position < BatchHeader::LEN as u64 {
            return Ok(None);
        }
        let mut head = [0; BatchHeader::LEN];
        read_exact_at(self.file, &mut head, at.position)?;
        let end = BatchHeader::read(&head).ok().map(|header| at.position + u64::from(header.batch_len));
        Ok(end.filter(|end| *end < self.limit))
    }

    /// The batch at a position, if it is whole and may follow.
    fn batch_at(&mut self, at: Place) -> std::io::Result<Option<Batch>> {
        let room = self.limit.saturating_sub(at.position);
        if room < BatchHeader::LEN as u64 {
            return Ok(None);
        }
        let mut head = [0; BatchHeader::LEN];
        read_exact_at(self.file, &mut head, at.position)?;
        let Ok(header) = BatchHeader::read(&head) else { return Ok(None) };
        let len = u64::from(header.batch_len);
        let cost = len.max(room.min(PIECE as u64));
        let may_be = header.base_offset >= at.next && len <= room && header.check_range().is_ok();
        let fits = may_be && self.upper.is_none_or(|upper| header.next_offset() <= upper);
        if !fits || cost > self.tries {
            return Ok(None);
        }
        self.tries -= cost;
        let mut scan = self.scan(Place { next: header.base_offset, ..at }, true);
        if scan.next()?.is_err() {
            return Ok(None);
        }
        let (position, end) = (at.position, scan.next_offset());
        let is_followed = scan.position() == self.limit || self.scan(Place::of(&scan), false).next()?.is_ok();
        Ok(Some(Batch { position, first: header.base_offset, end, is_followed }))
    }
}

/// A whole batch behind damage.
#[derive(Debug, Clone, Copy)]
struct Batch {
    position: u64,
    first: Offset,
    end: Offset,
    /// Whether the file ends behind it, or another batch follows.
    is_followed: bool,
}

impl Place {
    fn of(scan: &Scan<'_>) -> Self {
        Self { position: scan.position(), next: scan.next_offset(), epoch: scan.epoch() }
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

/// Replaces a segment file by one without the holes, and with what is right where something is wrong.
fn write_anew(disk: &dyn Disk, dir: &Path, repair: &Repair) -> Result<()> {
    let Repair { base, holes, mends, end } = repair;
    let (base, len) = (*base, *end);
    let path = file_path(dir, base, FileKind::Log);
    let mended = path.with_extension("log.mended");
    match disk.remove_file(&mended) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", mended)(error)),
        _ => {}
    }
    let source = disk.open(&path, Open::Read).map_err(Error::io("open", &*path))?;
    let file = disk.open(&mended, Open::CreateNew).map_err(Error::io("create", &*mended))?;
    let begins = std::iter::once(0).chain(holes.iter().map(|hole| hole.to));
    let ends = holes.iter().map(|hole| hole.from).chain([len]);
    let (mut to, mut piece) = (0, vec![0; PIECE]);
    for (from, end) in begins.zip(ends) {
        let (mut at, begin) = (from, to);
        while at < end {
            let bytes = &mut piece[..PIECE.min((end - at) as usize)];
            read_exact_at(&*source, bytes, at).map_err(Error::io("read", &*path))?;
            write_all_at(&*file, bytes, to).map_err(Error::io("write", &*mended))?;
            (at, to) = (at + bytes.len() as u64, to + bytes.len() as u64);
        }
        for mend in mends.iter().filter(|mend| (from..end).contains(&mend.position)) {
            let mut head = [0; BatchHeader::LEN];
            read_exact_at(&*source, &mut head, mend.position).map_err(Error::io("read", &*path))?;
            stamp(&mut head, mend.offset, mend.epoch);
            let at = begin + (mend.position - from);
            write_all_at(&*file, &head, at).map_err(Error::io("write", &*mended))?;
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
/// How many times the length of a file is read at most in search of batches, and how many bytes of a small one.
const MOST_TRIED: u64 = 16;
const LEAST_TRIED: u64 = 64 << 20;
