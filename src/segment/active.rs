//! The active segment: the file that whole batches are written to.
//!
//! A writer puts a batch behind the last one, then *publishes* it by raising one atomic length. Readers take no lock.
//!
//! ```text
//! growing      0                    position
//!              |---- batches, final ----|-- zeros, sometimes --|
//! reserved     0                    position          allocated            page        full
//!              |---- batches, final ----|---- zeros ----|---- a hole ----|-- marks --|
//! ```
//!
//! A durable topic's file has its full length from the start, and zeros are written ahead of the tail, because a sync
//! into blocks that exist costs two thirds of one into a file that grows. Its last page holds the sync marks.
//!
//! Invariants:
//! - `position` only rises, and always to a batch boundary.
//! - A byte below `position` is never written again, except with the bytes it already has.
//! - Whatever a failed write may have left above `position` is cut off, and the cut synced, before other bytes go there
//!   or a roll leaves the file: an append that failed never reappears. So is what a killed process may have cut.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::data::SegmentData;
use super::files::Home;
use super::index::IndexWriter;
use super::{FileKind, file_path};
use crate::disk::marks::SyncMark;
use crate::disk::{BootId, DiskFile, FileId, Open, read_exact_at, write_all_at};
use crate::error::{Error, Result, is_full};
use crate::probe;
use crate::record::{BatchHeader, BatchRef};
use crate::types::{Offset, Timestamp};

/// How an operation on the active segment failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nothing changed; the same or another append may be tried.
    Refused(Error),
    /// What is on disk is unknown: the partition must not go on.
    Fatal(Error),
}

/// What a new segment is made with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// The length it is sealed at.
    pub(crate) segment_bytes: u64,
    /// Room for each of the two indexes.
    pub(crate) index_bytes: usize,
    /// Bytes of batches between two entries of the offset index.
    pub(crate) index_interval: u32,
    /// Whether the file has its full length, and marks, from the start.
    pub(crate) durable: bool,
}

/// The one writer of a segment.
#[derive(Debug)]
pub(crate) struct ActiveSegment {
    data: Arc<SegmentData>,
    file: Arc<Handle>,
    /// Which file it is, once that was asked for.
    id: Option<FileId>,
    position: u64,
    /// Where bytes may be that are no part of the log: `position` if there are none.
    touched: u64,
    /// A process that did not close the file may have cut it, and died before it synced the cut.
    has_unsynced_cut: bool,
    reserved: Option<Reserved>,
    index: IndexWriter,
    /// The largest timestamp of the first batch: age is counted from it.
    first_timestamp: Option<Timestamp>,
    created: Timestamp,
}

#[derive(Debug)]
struct Reserved {
    /// Where the page of the sync marks begins.
    page: u64,
    /// Up to where blocks exist, as far as this process knows.
    allocated: u64,
    /// How much to allocate next.
    step: u64,
    marks: Arc<Marks>,
}

/// The handle that a segment is written through.
///
/// Syncs of it take turns, and after one that failed none is tried: of two at once the system tells only one that
/// writing back has failed, and the other would believe what is not on the disk.
#[derive(Debug)]
struct Handle {
    file: Arc<dyn DiskFile>,
    has_failed: Mutex<bool>,
}

impl Handle {
    fn sync(&self) -> io::Result<()> {
        let mut has_failed = self.has_failed.lock();
        if *has_failed {
            return Err(io::Error::other("an earlier sync of this file failed"));
        }
        self.file.sync().inspect_err(|_| *has_failed = true)
    }
}

/// The sync marks of one file; see [`SyncMark`].
#[derive(Debug)]
struct Marks {
    page: u64,
    base: Offset,
    boot: BootId,
    file: FileId,
    state: Mutex<MarkState>,
}

#[derive(Debug)]
struct MarkState {
    sequence: u64,
    /// What the last mark says, and what is proven by now.
    marked: (u64, Offset),
    proven: (u64, Offset),
    marked_at: Duration,
    /// Whether the page of marks was cut off the file, or is about to be.
    is_trimmed: bool,
}

/// What a sync needs of a segment, taken under the append lock and used without it.
#[derive(Debug, Clone)]
pub(crate) struct SyncTarget {
    file: Arc<Handle>,
    data: Arc<SegmentData>,
    marks: Option<Arc<Marks>>,
    position: u64,
    /// The offset after the last batch below `position`.
    pub(crate) end: Offset,
}

impl ActiveSegment {
    /// Creates the files of a new segment that begins at `base`. Their names are not durable yet, and nothing in them
    /// is: the next sync sees to both.
    pub(crate) fn create(home: &Arc<Home>, base: Offset, shape: Shape, origin: Origin) -> Result<Self> {
        let (path, disk) = (file_path(&home.dir, base, FileKind::Log), &home.files.disk);
        let file = disk.open(&path, Open::CreateNew).map_err(Error::io("create", &path))?;
        let data = Arc::new(SegmentData::new(home, base, 0, base, shape.segment_bytes));
        let made = Self::made_ready(data, file, shape, origin);
        made.inspect_err(|_| {
            // Of a segment that could not be made ready nothing must be in the way of the next try.
            let _ = disk.remove_file(&path);
        })
    }

    fn made_ready(data: Arc<SegmentData>, file: Arc<dyn DiskFile>, shape: Shape, origin: Origin) -> Result<Self> {
        let mut segment = Self::over(data, file, shape, origin)?;
        if shape.durable {
            segment.extend(shape, origin).map_err(|failure| match failure {
                Failure::Refused(error) | Failure::Fatal(error) => error,
            })?;
        }
        segment.publish_index();
        Ok(segment)
    }

    /// Takes over an existing segment: `data` is what recovery made of it. After an error `found` is as before.
    pub(crate) fn resume(data: Arc<SegmentData>, shape: Shape, origin: Origin, found: &mut Found) -> Result<Self> {
        let disk = &data.files().disk;
        let file = disk.open(data.path(), Open::Write).map_err(Error::io("open", data.path()))?;
        let mut segment = Self::over(Arc::clone(&data), file, shape, origin)?;
        segment.position = data.len();
        segment.touched = found.touched.max(segment.position);
        segment.has_unsynced_cut = !found.is_closed;
        segment.first_timestamp = found.first_timestamp;
        if let Some((page, mark)) = found.mark {
            let marks = segment.marks_at(page, origin, mark.sequence, (mark.position, mark.offset))?;
            // How far blocks exist is forgotten: what is written again ahead of the tail is zeros over zeros.
            segment.reserved = Some(Reserved { page, allocated: segment.touched, step: FIRST_STEP, marks });
        }
        std::mem::swap(&mut segment.index, &mut found.index);
        segment.publish_index();
        Ok(segment)
    }

    fn over(data: Arc<SegmentData>, file: Arc<dyn DiskFile>, shape: Shape, origin: Origin) -> Result<Self> {
        let index = IndexWriter::new(data.base(), shape.index_bytes, shape.index_interval)?;
        Ok(Self {
            data,
            file: Arc::new(Handle { file, has_failed: Mutex::new(false) }),
            id: None,
            position: 0,
            touched: 0,
            has_unsynced_cut: false,
            reserved: None,
            index,
            first_timestamp: None,
            created: origin.now,
        })
    }

    fn publish_index(&self) {
        self.data.set_index(Some(self.index.reader()));
        if let Some((timestamp, offset)) = self.index.largest() {
            self.data.note_largest(timestamp, offset);
        }
    }

    pub(crate) fn data(&self) -> &Arc<SegmentData> {
        &self.data
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn is_reserved(&self) -> bool {
        self.reserved.is_some()
    }

    pub(crate) fn index(&self) -> &IndexWriter {
        &self.index
    }

    pub(crate) fn index_mut(&mut self) -> &mut IndexWriter {
        &mut self.index
    }

    /// When the segment counts as begun: the timestamp of its first batch, or when its file was made.
    pub(crate) fn age_from(&self) -> (Option<Timestamp>, Timestamp) {
        (self.first_timestamp, self.created)
    }

    /// Writes whole batches and lets readers see them. One positional write.
    pub(crate) fn write(&mut self, batches: &[u8]) -> Result<(), Failure> {
        self.write_with_zeros(batches, 0)
    }

    /// The same, with `zeros` zeros behind the batches in `bytes`, which are no part of the log: where nothing is
    /// ahead of the tail, the system then has the place of what comes next.
    pub(crate) fn write_with_zeros(&mut self, bytes: &[u8], zeros: usize) -> Result<(), Failure> {
        self.cut()?;
        let batches = &bytes[..bytes.len() - zeros];
        let end = self.position + batches.len() as u64;
        if end > self.limit() {
            // Over the marks, or where no map reaches. Whoever staged or measured it was wrong.
            let (len, limit) = (batches.len() as u64, self.limit().saturating_sub(self.position));
            return Err(Failure::Refused(Error::BatchTooLarge { len, limit }));
        }
        self.allocate(end)?;
        let takes_zeros = zeros > 0 && !self.is_reserved() && end + zeros as u64 <= self.limit();
        if !takes_zeros || !self.put_with_zeros(bytes)? {
            // Where zeros did not fit, the same bytes go to the same place.
            self.put(batches).map_err(|error| self.write_failed(error))?;
        }
        // Of zeros nothing needs to be cut off.
        self.touched = end;
        self.count_in(batches, if probe::planted("segment.zeros_counted") { end + zeros as u64 } else { end });
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.touched = self.touched.max(self.position + bytes.len() as u64);
        match probe::planted("segment.half_write_believed") {
            true => self.file.file.write_at(bytes, self.position).map(drop),
            false => write_all_at(&*self.file.file, bytes, self.position),
        }
    }

    /// Returns whether there was space.
    fn put_with_zeros(&mut self, bytes: &[u8]) -> Result<bool, Failure> {
        match self.put(bytes) {
            Err(error) if is_full(&error) => {
                // There may be some for the batches alone.
                probe::reached("segment.no_space_for_zeros");
                Ok(false)
            }
            Err(error) => Err(self.write_failed(error)),
            Ok(()) => {
                probe::reached("segment.zeros_behind");
                Ok(true)
            }
        }
    }

    /// Has readers see batches that were written, up to `end`.
    fn count_in(&mut self, batches: &[u8], end: u64) {
        let mut next_offset = self.data.end();
        let mut rest = batches;
        while let Ok(header) = BatchHeader::read(rest) {
            self.first_timestamp = self.first_timestamp.or(Some(header.max_timestamp));
            let position = end - rest.len() as u64;
            self.index.push(&header, position, u64::from(header.batch_len));
            next_offset = header.next_offset();
            rest = rest.get(header.batch_len as usize..).unwrap_or_default();
        }
        if let Some((timestamp, offset)) = self.index.largest() {
            self.data.note_largest(timestamp, offset);
        }
        self.position = end;
        self.data.publish(end, next_offset);
    }

    /// What a failed write left is cut off at once if that works, else before the next one.
    fn write_failed(&mut self, error: std::io::Error) -> Failure {
        probe::reached("segment.write_failed");
        if probe::planted("segment.half_write_forgotten") {
            self.touched = self.position;
        }
        match self.cut() {
            Err(Failure::Fatal(fatal)) => Failure::Fatal(fatal),
            _ => Failure::Refused(Error::io("write", self.data.path())(error)),
        }
    }

    /// Whether an earlier failed write, or a torn tail, may have left something above `position`.
    fn is_touched(&self) -> bool {
        self.touched != self.position
    }

    /// Whether there may be something there, in memory or on the disk.
    pub(crate) fn needs_cut(&self) -> bool {
        self.is_touched() || self.has_unsynced_cut
    }

    /// Cuts that off, and syncs the cut.
    pub(crate) fn cut(&mut self) -> Result<(), Failure> {
        let is_touched = self.is_touched();
        let has_unsynced_cut = self.has_unsynced_cut && !probe::planted("segment.inherited_cut_unsynced");
        if !is_touched && !has_unsynced_cut {
            return Ok(());
        }
        match is_touched {
            true => probe::reached("segment.cut"),
            false => probe::reached("segment.inherited_cut"),
        }
        if is_touched && probe::planted("segment.no_cut") {
            self.touched = self.position;
            return Ok(());
        }
        let cut = match &self.reserved {
            _ if !is_touched => Ok(()),
            None => self.file.file.set_len(self.position),
            Some(_) => self.file.file.zero_range(self.position, self.touched - self.position),
        };
        cut.map_err(|error| Failure::Refused(Error::io("cut", self.data.path())(error)))?;
        if !probe::planted("segment.cut_unsynced") {
            self.file.sync().map_err(|error| Failure::Fatal(Error::io("sync", self.data.path())(error)))?;
        }
        self.has_unsynced_cut = false;
        if let Some(reserved) = &mut self.reserved {
            reserved.allocated = reserved.allocated.min(self.position);
        }
        self.touched = self.position;
        Ok(())
    }

    /// Gives a file that grows its full length and its page of marks.
    pub(crate) fn extend(&mut self, shape: Shape, origin: Origin) -> Result<(), Failure> {
        self.cut()?;
        let page = shape.segment_bytes.max(self.position).next_multiple_of(SyncMark::PAGE_LEN as u64);
        let refused = |error| Failure::Refused(error);
        let extended = self.file.file.set_len(page + SyncMark::PAGE_LEN as u64);
        extended.map_err(Error::io("extend", self.data.path())).map_err(refused)?;
        // What is below was proven by whoever made it, or is not; this mark claims nothing yet.
        let marks = self.marks_at(page, origin, 0, (0, self.data.base())).map_err(refused)?;
        marks.write(&*self.file.file, self.data.path(), Duration::ZERO).map_err(refused)?;
        self.reserved = Some(Reserved { page, allocated: self.position, step: FIRST_STEP, marks });
        Ok(())
    }

    fn marks_at(&mut self, page: u64, origin: Origin, sequence: u64, proven: (u64, Offset)) -> Result<Arc<Marks>> {
        let file = self.file_id()?;
        let state =
            Mutex::new(MarkState { sequence, marked: proven, proven, marked_at: Duration::ZERO, is_trimmed: false });
        Ok(Arc::new(Marks { page, base: self.data.base(), boot: origin.boot.unwrap_or_default(), file, state }))
    }

    /// Whether a batch of `len` bytes fits before the page of marks and into the maps of readers, whatever the settings
    /// say by now.
    pub(crate) fn has_room(&self, len: u64) -> bool {
        self.position + len <= self.limit()
    }

    /// How long the batches may become, before the page of marks and in the maps of readers.
    pub(crate) fn limit(&self) -> u64 {
        let capacity = self.data.capacity();
        self.reserved.as_ref().map_or(capacity, |reserved| capacity.min(reserved.page))
    }

    /// Which file it is.
    pub(crate) fn file_id(&mut self) -> Result<FileId> {
        if let Some(id) = self.id {
            return Ok(id);
        }
        let id = self.file.file.metadata().map_err(Error::io("describe", self.data.path()))?.id;
        self.id = Some(id);
        Ok(id)
    }

    /// Makes a segment that holds nothing yet into one of another shape.
    pub(crate) fn widen(&mut self, shape: Shape, origin: Origin) -> Result<(), Failure> {
        probe::reached("segment.widen");
        self.data.widen(shape.segment_bytes);
        let Some(reserved) = self.reserved.take() else { return Ok(()) };
        // The old page of marks goes: batches are to be where it was.
        self.touched = reserved.page + SyncMark::PAGE_LEN as u64;
        self.extend(shape, origin)
    }

    /// Writes and syncs a mark that claims no more than there is, if the one on disk does: a salvage cut below it.
    pub(crate) fn lower_mark(&mut self) -> Result<(), Failure> {
        let Some(reserved) = &self.reserved else { return Ok(()) };
        let is_above = {
            let mut state = reserved.marks.state.lock();
            let is_above = state.marked.0 > self.position;
            if is_above {
                state.proven = (self.position, self.data.end());
            }
            is_above
        };
        if !is_above {
            return Ok(());
        }
        probe::reached("segment.lower_mark");
        let path = self.data.path();
        reserved.marks.write(&*self.file.file, path, Duration::ZERO).map_err(Failure::Refused)?;
        self.file.sync().map_err(|error| Failure::Fatal(Error::io("sync", path)(error)))
    }

    /// Writes zeros ahead of the tail, so that blocks exist up to `needed`.
    fn allocate(&mut self, needed: u64) -> Result<(), Failure> {
        let Some(reserved) = &mut self.reserved else { return Ok(()) };
        if needed <= reserved.allocated {
            return Ok(());
        }
        probe::reached("segment.allocate");
        let mut from = reserved.allocated.max(self.position);
        if probe::planted("segment.zeros_over_tail") {
            from = from.saturating_sub(from % 512);
        }
        let to = needed.max(from.saturating_add(reserved.step)).min(reserved.page);
        // Zeros are all that this can leave behind, so nothing needs cutting if it fails.
        let zeros = vec![0; (to - from).min(ZEROS_AT_ONCE) as usize];
        let mut at = from;
        while at < to {
            let piece = &zeros[..((to - at) as usize).min(zeros.len())];
            match write_all_at(&*self.file.file, piece, at) {
                Ok(()) => at += piece.len() as u64,
                Err(error) if is_full(&error) => {
                    // What is to be written may fit all the same: what was taken ahead of it is given back.
                    probe::reached("segment.allocate_full");
                    let _ = self.file.file.zero_range(from, to - from);
                    reserved.allocated = from;
                    reserved.step = LEAST_STEP;
                    return Ok(());
                }
                Err(error) => return Err(Failure::Refused(Error::io("allocate", self.data.path())(error))),
            }
        }
        reserved.allocated = to;
        reserved.step = (reserved.step * 2).min(LAST_STEP);
        Ok(())
    }

    /// The index, when the segment is sealed and nobody writes it any more.
    pub(crate) fn into_index(self) -> IndexWriter {
        self.index
    }

    /// What a sync of everything written so far needs.
    pub(crate) fn sync_target(&self) -> SyncTarget {
        SyncTarget {
            file: Arc::clone(&self.file),
            data: Arc::clone(&self.data),
            marks: self.reserved.as_ref().map(|reserved| Arc::clone(&reserved.marks)),
            position: self.position,
            end: self.data.end(),
        }
    }
}

impl SyncTarget {
    pub(crate) fn data(&self) -> &Arc<SegmentData> {
        &self.data
    }

    /// Makes the segment durable up to the target, in one flush that carries a mark of what flushes before it proved,
    /// if one is due. A failure is final: what is on disk is unknown.
    pub(crate) fn sync(&self, now: Duration) -> Result<()> {
        if let Some(marks) = &self.marks
            && probe::planted("segment.mark_ahead")
        {
            marks.state.lock().proven = (self.position, self.end);
        }
        if let Some(marks) = self.marks.as_ref().filter(|marks| marks.is_due(now)) {
            marks.write(&*self.file.file, self.data.path(), now)?;
        }
        self.file.sync().map_err(Error::io("sync", self.data.path()))?;
        if let Some(marks) = &self.marks {
            let mut state = marks.state.lock();
            state.proven = state.proven.max((self.position, self.end));
        }
        Ok(())
    }

    /// Syncs once more, with a mark that is exact, if the one on disk says less than is proven.
    pub(crate) fn make_mark_exact(&self, now: Duration) -> Result<()> {
        let Some(marks) = self.marks.as_ref().filter(|_| self.mark_is_behind()) else { return Ok(()) };
        marks.write(&*self.file.file, self.data.path(), now)?;
        self.file.sync().map_err(Error::io("sync", self.data.path()))
    }

    /// Whether the mark on disk says less than is proven.
    fn mark_is_behind(&self) -> bool {
        self.marks.as_ref().is_some_and(|marks| {
            let state = marks.state.lock();
            state.marked < state.proven
        })
    }

    /// Cuts the file to its batches, durably. The caller has made a checkpoint that covers them durable: with the
    /// file's end go its marks.
    pub(crate) fn trim(&self) -> Result<(), Failure> {
        if let Some(marks) = &self.marks {
            // A sync that was planned before may still come: a mark of its would make the file longer again.
            marks.state.lock().is_trimmed = true;
        }
        let (path, file) = (self.data.path(), &self.file.file);
        let refused = |action| move |error| Failure::Refused(Error::io(action, path)(error));
        if file.metadata().map_err(refused("describe"))?.len == self.position {
            return Ok(());
        }
        file.set_len(self.position).map_err(refused("trim"))?;
        self.file.sync().map_err(|error| Failure::Fatal(Error::io("sync", path)(error)))
    }
}

/// As [`SyncTarget::trim`], for a segment that a process before this one wrote.
pub(crate) fn trim(segment: &SegmentData) -> Result<(), Failure> {
    let (path, disk) = (segment.path(), &segment.files().disk);
    let refused = |action| move |error| Failure::Refused(Error::io(action, path)(error));
    if disk.metadata(path).map_err(refused("describe"))?.len == segment.len() {
        return Ok(());
    }
    let file = disk.open(path, Open::Write).map_err(refused("open"))?;
    file.set_len(segment.len()).map_err(refused("trim"))?;
    file.sync().map_err(|error| Failure::Fatal(Error::io("sync", path)(error)))
}

/// Makes durable what recovery found, and what it did not find: a cut of the process before may be in memory only.
pub(crate) fn sync_as_found(segment: &SegmentData) -> Result<(), Failure> {
    let path = segment.path();
    let file =
        segment.files().disk.open(path, Open::Write).map_err(Error::io("open", path)).map_err(Failure::Refused)?;
    segment.check_ours().map_err(Failure::Refused)?;
    file.sync().map_err(Error::io("sync", path)).map_err(Failure::Fatal)
}

/// Writes the batches of `segment` from `position` on again, unchanged, and syncs them: the system may have dropped
/// them after a sync that failed before this process began. Each is verified first: what was whole when recovery read
/// it may have been dropped since, and come back from the disk as something else.
pub(crate) fn rewrite(segment: &SegmentData, position: u64) -> Result<()> {
    probe::reached("segment.rewrite");
    let path = segment.path();
    let file = segment.files().disk.open(path, Open::Write).map_err(Error::io("open", path))?;
    segment.check_ours()?;
    let (mut at, end) = (position, segment.len());
    let mut piece = Vec::new();
    let mut want = REWRITTEN_AT_ONCE;
    while at < end {
        piece.resize(want.min(end - at) as usize, 0);
        read_exact_at(&*file, &mut piece, at).map_err(Error::io("read", path))?;
        let whole = verified(&piece).map_err(|(skip, what)| segment.corrupt(at + skip as u64, what))?;
        if whole == 0 {
            // One batch longer than the piece: its length is believed as far as the segment goes.
            let len = BatchHeader::read(&piece).map_or(u64::MAX, |header| u64::from(header.batch_len));
            if len > end - at || len <= want {
                return Err(segment.corrupt(at, "batch cut short"));
            }
            want = len;
            continue;
        }
        write_all_at(&*file, &piece[..whole], at).map_err(Error::io("write", path))?;
        at += whole as u64;
        want = REWRITTEN_AT_ONCE;
    }
    file.sync().map_err(Error::io("sync", path))
}

/// The length of the whole batches that `bytes` begins with; an error is a place and what is wrong there.
fn verified(bytes: &[u8]) -> Result<usize, (usize, &'static str)> {
    let mut whole = 0;
    while bytes.len() - whole >= BatchHeader::LEN {
        let rest = &bytes[whole..];
        let header = BatchHeader::read(rest).map_err(|invalid| (whole, invalid.what))?;
        if header.batch_len as usize > rest.len() {
            break;
        }
        whole += BatchRef::verify(rest).map_err(|invalid| (whole, invalid.what))?.bytes().len();
    }
    Ok(whole)
}

impl Marks {
    /// Whether 64 KiB or 10 ms came since the last mark. A mark at each sync would be a second block in every flush,
    /// which is more than it is worth: without it, recovery looks at that much more.
    fn is_due(&self, now: Duration) -> bool {
        let state = self.state.lock();
        let bytes = state.proven.0 - state.marked.0.min(state.proven.0);
        bytes > 0 && (bytes >= MARK_BYTES || now.saturating_sub(state.marked_at) >= MARK_TIME)
    }

    fn write(&self, file: &dyn DiskFile, path: &Path, now: Duration) -> Result<()> {
        let mut state = self.state.lock();
        if state.is_trimmed {
            return Ok(());
        }
        state.marked_at = now;
        state.sequence += 1;
        let (position, offset) = state.proven;
        let mark = SyncMark {
            sequence: state.sequence,
            segment_base: self.base,
            position,
            offset,
            boot: self.boot,
            file: self.file,
        };
        match write_all_at(file, &mark.encode(), self.page + mark.slot_at() as u64) {
            // Without the mark a recovery reads more, that is all; its slot is the one of the next.
            Err(error) if is_full(&error) => {
                state.sequence -= 1;
                return Ok(());
            }
            written => written.map_err(Error::io("mark", path))?,
        }
        state.marked = state.proven;
        Ok(())
    }
}

/// Where and when a segment is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) now: Timestamp,
    pub(crate) boot: Option<BootId>,
}

/// What recovery found in a segment that goes on being written.
#[derive(Debug)]
pub(crate) struct Found {
    /// Where bytes may be that are no part of the log.
    pub(crate) touched: u64,
    /// Whether any of them is not zero.
    pub(crate) has_bytes_behind: bool,
    /// Whether an orderly close left it: nothing of it is in memory only.
    pub(crate) is_closed: bool,
    pub(crate) first_timestamp: Option<Timestamp>,
    pub(crate) index: IndexWriter,
    /// The page of marks and the best of them.
    pub(crate) mark: Option<(u64, SyncMark)>,
}

const MARK_BYTES: u64 = 64 << 10;
const MARK_TIME: Duration = Duration::from_millis(10);
/// Linux keeps what one call writes in as large a folio as that, and each later write into it goes through all of its blocks: after
/// zeros by 1 MiB a write of 120 bytes takes twice as long.
const ZEROS_AT_ONCE: u64 = 64 << 10;
/// How much of a recovered segment is read and written anew at a time.
const REWRITTEN_AT_ONCE: u64 = 1 << 20;
const LEAST_STEP: u64 = 4 << 10;
const FIRST_STEP: u64 = 1 << 20;
const LAST_STEP: u64 = 64 << 20;
