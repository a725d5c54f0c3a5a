//! What readers share of a segment, active or sealed: its bytes, its indexes, where to find an offset in it.
//!
//! ```text
//! 0                          len                            capacity
//! |---- whole batches, final ----|-- the writer's, if active --|
//! ```
//!
//! Invariants:
//! - `len` and `end` only rise, `end` first, always to a batch boundary; below `len` no byte ever changes.
//! - An index is used only if somebody vouches for it: the writer that is growing it, or the segment's seal.
//!   Otherwise it is rebuilt from the batches, so a look-up answers as a scan from the start would.

use std::mem;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

use parking_lot::RwLock;

use super::files::{Bytes, Files, Home, View};
use super::index::{Index, Source};
use super::offset_index::Near;
use super::{FileKind, file_path};
use crate::error::{Error, Result};
use crate::probe;
use crate::record::{BatchHeader, BatchRef, Frame};
use crate::sys;
use crate::types::{LeaderEpoch, Offset, Timestamp};

/// One segment, as readers see it.
#[derive(Debug)]
pub(crate) struct SegmentData {
    home: Arc<Home>,
    base: Offset,
    path: Arc<Path>,
    /// How long the file may become.
    capacity: AtomicU64,
    /// How long it was when this process opened it: what lies below may not be in memory.
    opened_len: u64,
    len: AtomicU64,
    end: AtomicU64,
    /// Below this, a batch whose checksum matches is one that was checked, or built, when it was appended: its
    /// records need no second look.
    vouched: AtomicU64,
    largest: Largest,
    view: RwLock<Option<View>>,
    last_used: AtomicU64,
    index: RwLock<Option<Arc<Index>>>,
    /// How often a wrong index was replaced.
    rebuilt: AtomicU32,
    /// Whether view and index stay: the names of the files are, or will be, those of others.
    is_pinned: AtomicBool,
}

/// The largest timestamp of a segment and the last offset of the batch that holds it.
#[derive(Debug)]
struct Largest {
    timestamp: AtomicI64,
    offset: AtomicU64,
}

/// What to read of a segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// The first offset; the batch that holds it is returned whole.
    pub(crate) from: Offset,
    /// No batch that reaches this offset is returned.
    pub(crate) limit: Offset,
    /// Stop before this length is passed, but not before the first batch.
    pub(crate) max_bytes: usize,
    /// Stop once so many records are among the batches that no reader leaves out.
    pub(crate) max_records: usize,
    /// Whether records of transactions may be left out.
    pub(crate) hides: bool,
    /// Whether offsets must follow one another without a gap.
    pub(crate) dense: bool,
    /// No batch was written under a later one.
    pub(crate) max_epoch: LeaderEpoch,
    /// Whether another segment follows, so that nothing is added to this one.
    pub(crate) is_closed: bool,
}

impl Wanted {
    /// How many records of a batch are sure to be returned.
    fn count(&self, header: &BatchHeader) -> usize {
        let attributes = header.attributes;
        if attributes.is_control() || (self.hides && attributes.is_transactional()) {
            return 0;
        }
        // Of those before the first offset, compaction may have left any number.
        let before = self.from.0.saturating_sub(header.base_offset.0);
        usize::try_from(header.record_count)
            .unwrap_or(0)
            .saturating_sub(usize::try_from(before).unwrap_or(usize::MAX))
    }
}

/// Verified batches, back to back.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    /// Of the segment.
    pub(crate) path: Arc<Path>,
    pub(crate) bytes: Bytes,
    /// Where in the file they begin.
    pub(crate) position: u64,
    /// The offset after the last of them.
    pub(crate) next_offset: Offset,
    /// Whether the records in them are known to be well formed.
    pub(crate) is_vouched: bool,
}

impl SegmentData {
    /// A segment whose file holds `len` bytes of whole batches and ends at offset `end`.
    pub(crate) fn new(home: &Arc<Home>, base: Offset, len: u64, end: Offset, capacity: u64) -> Self {
        Self {
            home: Arc::clone(home),
            base,
            path: file_path(&home.dir, base, FileKind::Log).into(),
            capacity: AtomicU64::new(capacity.max(len)),
            opened_len: len,
            len: AtomicU64::new(len),
            end: AtomicU64::new(end.0),
            vouched: AtomicU64::new(0),
            largest: Largest { timestamp: AtomicI64::new(Timestamp::NONE.0), offset: AtomicU64::new(base.0) },
            view: RwLock::new(None),
            last_used: AtomicU64::new(0),
            index: RwLock::new(None),
            rebuilt: AtomicU32::new(0),
            is_pinned: AtomicBool::new(false),
        }
    }

    /// The same, of a file with another name for now.
    pub(crate) fn at(mut self, path: &Path) -> Self {
        if *self.path != *path {
            self.path = path.into();
        }
        self
    }

    /// The same, of a file that was just written under another name: readers have it by `view`, and the index by `index`,
    /// until it is [unpinned](Self::unpin).
    pub(crate) fn pinned_to(self, view: View, index: Index) -> Arc<Self> {
        *self.view.write() = Some(view);
        *self.index.write() = Some(Arc::new(index));
        self.is_pinned.store(true, Ordering::Release);
        let pinned = Arc::new(self);
        pinned.files().note_mapped(&pinned);
        pinned
    }

    /// Opens what readers need, and keeps it from now on: the names of the files are about to be taken away, or given to
    /// others.
    ///
    /// # Errors
    ///
    /// Those of opening the file and of reading its index. Nothing is pinned then.
    pub(crate) fn pin(self: &Arc<Self>) -> Result<()> {
        self.is_pinned.store(true, Ordering::Release);
        let pinned = self.view().and_then(|_| self.vouched_index());
        if pinned.is_err() {
            self.unpin();
        }
        pinned
    }

    /// Lets the names of the files lead to it again.
    pub(crate) fn unpin(&self) {
        self.is_pinned.store(false, Ordering::Release);
    }

    /// Whether nobody may look for it by the names of its files.
    pub(crate) fn is_pinned(&self) -> bool {
        self.is_pinned.load(Ordering::Acquire)
    }

    /// Sees to an index that nobody makes anew: the file that it would be made from has another name then.
    fn vouched_index(&self) -> Result<()> {
        loop {
            let index = self.index()?;
            if index.is_vouched() {
                return Ok(());
            }
            self.rebuild_index()?;
        }
    }

    pub(crate) fn base(&self) -> Offset {
        self.base
    }

    pub(crate) fn files(&self) -> &Arc<Files> {
        &self.home.files
    }

    /// Refuses what was opened by its name, if the name may lead to somebody else's file by now.
    pub(crate) fn check_ours(&self) -> Result<()> {
        self.home.check()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How long the file may become, and so how much is mapped.
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Acquire)
    }

    /// Lets the file become longer. For the one writer, before it publishes more than was possible before.
    pub(crate) fn widen(&self, capacity: u64) {
        self.capacity.fetch_max(capacity, Ordering::AcqRel);
    }

    /// Bytes of whole, published batches.
    pub(crate) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// The offset after the last published batch.
    pub(crate) fn end(&self) -> Offset {
        Offset(self.end.load(Ordering::Acquire))
    }

    /// Lets readers see up to `len`, where the offset `end` comes next. For the one writer.
    pub(crate) fn publish(&self, len: u64, end: Offset) {
        debug_assert!(len >= self.len() && end >= self.end());
        // The end first: who sees a batch below `len` must not find it past the end.
        self.end.store(end.0, Ordering::Release);
        self.len.store(len, Ordering::Release);
    }

    /// Records the largest timestamp so far. For the one writer.
    pub(crate) fn note_largest(&self, timestamp: Timestamp, offset: Offset) {
        self.largest.offset.store(offset.0, Ordering::Relaxed);
        self.largest.timestamp.store(timestamp.0, Ordering::Release);
    }

    /// The largest timestamp in the segment and the last offset of its batch; none if no record has one.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] also if nothing says which it is: a batch is damaged, and its header may be.
    pub(crate) fn largest_timestamp(self: &Arc<Self>) -> Result<Option<(Timestamp, Offset)>> {
        while !self.times()?.has_true_times() {
            self.rebuild_index()?;
        }
        Ok(self.largest())
    }

    /// Where to begin looking for the first record of `time` or later; `None` if the segment has none.
    pub(crate) fn time_floor(self: &Arc<Self>, time: Timestamp) -> Result<Option<Offset>> {
        let index = self.times()?;
        let is_past = index.has_true_times() && self.largest().is_none_or(|(largest, _)| largest < time);
        Ok((!is_past).then(|| index.time_floor(self.base, time)))
    }

    fn largest(&self) -> Option<(Timestamp, Offset)> {
        let timestamp = Timestamp(self.largest.timestamp.load(Ordering::Acquire));
        let offset = Offset(self.largest.offset.load(Ordering::Relaxed));
        timestamp.is_some().then_some((timestamp, offset))
    }

    /// The position of the first batch whose last offset is `target` or more; `None` if the segment ends before.
    /// Published bytes are counted before the view is taken, which then has room for them.
    pub(crate) fn locate(self: &Arc<Self>, target: Offset) -> Result<Option<u64>> {
        self.mending(|| {
            let len = self.len();
            let view = self.view()?;
            Ok(self.find(&view, len, target)?.map(|(position, _)| position))
        })
    }

    /// Looks again with an index made from the batches, if damage was found by one that nobody vouches for.
    fn mending<T>(&self, look: impl Fn() -> Result<T>) -> Result<T> {
        for _ in 1..MOST_LOOKS {
            let rebuilt = self.rebuilt.load(Ordering::Acquire);
            let found = look();
            if !matches!(found, Err(Error::Corrupt(_))) {
                return found;
            }
            match self.rebuild_index() {
                Ok(true) => probe::reached("segment.index_was_wrong"),
                // Another reader did it meanwhile, or it was let go of.
                Ok(false) if self.rebuilt.load(Ordering::Acquire) != rebuilt || self.index.read().is_none() => {}
                Ok(false) | Err(_) => return found,
            }
        }
        look()
    }

    /// Replaces an index that nobody vouches for by one made from the batches; `false` if there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if the batches are what is damaged.
    fn rebuild_index(&self) -> Result<bool> {
        if self.index.read().as_ref().is_none_or(|index| index.is_vouched()) {
            return Ok(false);
        }
        let loaded = Index::rebuild(&*self.files().disk, &self.path, self.base, self.len())?;
        self.replace_found(loaded.index, loaded.largest);
        self.files().tell_rebuilt(file_path(&self.home.dir, self.base, FileKind::Index));
        Ok(true)
    }

    fn replace_found(&self, index: Index, largest: Option<(Timestamp, Offset)>) {
        let mut slot = self.index.write();
        // The writer's own may have come meanwhile.
        if slot.as_ref().is_some_and(|index| !index.is_vouched()) {
            if let Some((timestamp, offset)) = largest {
                self.note_largest(timestamp, offset);
            }
            *slot = Some(Arc::new(index));
            self.rebuilt.fetch_add(1, Ordering::Release);
        }
    }

    /// As [`locate`](Self::locate), among the first `len` bytes, and the frame of that batch.
    fn find(&self, view: &View, len: u64, target: Offset) -> Result<Option<(u64, Frame)>> {
        let (Near { entry, mut way }, is_vouched) = self.floor(target)?;
        let (mut position, mut next) = (entry.map_or(0, |entry| u64::from(entry.position)), self.base);
        let mut indexed = entry.map(|entry| entry.offset);
        // The writer's own index may know of a batch that came after `len` was read.
        if !is_vouched && indexed.is_some() && position >= len {
            return Err(self.corrupt(len, "the index leads past the end"));
        }
        while position < len {
            let (from, mut copied) = (position, [0; BatchHeader::LEN]);
            let window = self.headers(view, from, len, &mut copied)?;
            // Each header says where the next one is: without this, each would be waited for by itself.
            sys::prefetch(&window[..window.len().min(mem::take(&mut way))]);
            while let Some(header) = window.get((position - from) as usize..).and_then(<[u8]>::first_chunk) {
                let frame = self.frame(header, position, len)?;
                // Offsets are under no checksum. One that fell would let a batch be passed over.
                let is_other = |last: Offset| match is_vouched {
                    true => last != frame.last_offset(),
                    // An older broker notes the last offset of several batches with the position of the first.
                    false => last < frame.last_offset(),
                };
                if frame.base_offset < next || indexed.is_some_and(is_other) {
                    return Err(self.corrupt(position, format!("offset {} is out of place", frame.base_offset)));
                }
                if frame.last_offset() >= target {
                    return Ok(Some((position, frame)));
                }
                position += u64::from(frame.batch_len);
                (next, indexed) = (frame.next_offset(), None);
            }
        }
        Ok(None)
    }

    /// Where to begin looking, and whether somebody vouches for that.
    fn floor(&self, target: Offset) -> Result<(Near, bool)> {
        let near = |index: &Index| (index.floor(self.base, target), index.is_vouched());
        if let Some(index) = &*self.index.read() {
            return Ok(near(index));
        }
        Ok(near(&*self.index()?))
    }

    /// Bytes from `position` on, at least a header, of `len` that are published.
    fn headers<'w>(&self, view: &'w View, position: u64, len: u64, copied: &'w mut [u8]) -> Result<&'w [u8]> {
        if len - position < BatchHeader::LEN as u64 {
            return Err(self.corrupt(position, "batch header cut short"));
        }
        view.window(position, BatchHeader::LEN, len, copied, &self.path)
    }

    /// The frame of the batch at `position`, which is not verified.
    #[inline]
    fn frame(&self, header: &[u8; BatchHeader::LEN], position: u64, len: u64) -> Result<Frame> {
        let frame = Frame::read(header).map_err(|invalid| self.corrupt(position, invalid.what))?;
        if u64::from(frame.batch_len) > len - position || frame.last_offset_delta < 0 {
            return Err(self.corrupt(position, "batch length or offsets are out of range"));
        }
        Ok(frame)
    }

    /// Verified batches from the one that holds or follows `wanted.from` on; `None` if the segment ends before it,
    /// or the limit comes before the end of the first batch.
    pub(crate) fn read(self: &Arc<Self>, wanted: Wanted) -> Result<Option<Piece>> {
        let found = self.mending(|| self.read_found(wanted))?;
        // Where the next one begins is where this one must end.
        if found.is_none() && wanted.dense && wanted.is_closed && wanted.from < self.end().min(wanted.limit) {
            let missing = format!("records {}..{} are missing behind it", wanted.from, self.end());
            return Err(self.corrupt(self.len(), missing));
        }
        Ok(found)
    }

    fn read_found(self: &Arc<Self>, wanted: Wanted) -> Result<Option<Piece>> {
        let len = self.len();
        let view = self.view()?;
        let Some((position, first)) = self.find(&view, len, wanted.from)? else { return Ok(None) };
        if first.base_offset > wanted.from && wanted.dense {
            return Err(self.corrupt(position, format!("offset {} is missing before this batch", wanted.from)));
        }
        let want = u64::from(first.batch_len).max(wanted.max_bytes as u64);
        let bytes = view.bytes(position..len.min(position.saturating_add(want)), &self.path)?;
        let mut next_offset = first.base_offset;
        let mut epoch = LeaderEpoch::NONE;
        let (mut taken, mut count) = (0, 0);
        let stored = bytes.as_slice();
        while taken < stored.len() && count < wanted.max_records {
            let batch = match self.next_of(&stored[taken..], position + taken as u64, next_offset, wanted) {
                Ok(Some(batch)) => batch,
                Ok(None) => break,
                // What is whole comes first: who reads on behind it is told.
                Err(Error::Corrupt(_)) if taken > 0 => break,
                Err(error) => return Err(error),
            };
            // Epochs are under no checksum either: they never fall along the log, nor pass the latest. Which of two is
            // wrong, nobody knows.
            let found = batch.header().leader_epoch;
            if found > wanted.max_epoch || (found < epoch && found != LeaderEpoch::NONE) {
                return Err(self.corrupt(position + taken as u64, format!("leader epoch {found} is out of place")));
            }
            epoch = epoch.max(found);
            taken += batch.bytes().len();
            count += wanted.count(batch.header());
            next_offset = batch.header().next_offset();
        }
        let is_vouched = self.is_vouched(position, taken as u64);
        Ok((taken > 0).then(|| Piece {
            path: Arc::clone(&self.path),
            bytes: bytes.truncated(taken),
            position,
            next_offset,
            is_vouched,
        }))
    }

    /// The next batch of a read, checked in full; `None` if a limit comes before its end.
    fn next_of<'b>(
        &self,
        bytes: &'b [u8],
        position: u64,
        next: Offset,
        wanted: Wanted,
    ) -> Result<Option<BatchRef<'b>>> {
        match self.verify(bytes, position, next, wanted.dense)? {
            Some(batch) if batch.header().next_offset() <= wanted.limit => Ok(Some(batch)),
            // Offsets are under no checksum: a later one would pass for records that are not there yet.
            Some(batch) if batch.header().next_offset() > self.end() => {
                Err(self.corrupt(position, "offset past the end of the segment"))
            }
            _ => Ok(None),
        }
    }

    /// Says that the first `len` bytes hold what this crate appended: its writer, seal or close mark knows.
    pub(crate) fn vouch(&self, len: u64) {
        self.vouched.fetch_max(len, Ordering::Relaxed);
    }

    fn is_vouched(&self, position: u64, len: u64) -> bool {
        position >= self.opened_len || position + len <= self.vouched.load(Ordering::Relaxed)
    }

    /// The first batch of `bytes`, checked in full; `None` if the read limit cut it short.
    fn verify<'b>(&self, bytes: &'b [u8], position: u64, next: Offset, dense: bool) -> Result<Option<BatchRef<'b>>> {
        let batch = match BatchRef::framed(bytes) {
            Ok(batch) => batch,
            Err(_) if bytes.len() < BatchHeader::LEN => return Ok(None),
            Err(invalid) => {
                // Only the limit can cut a batch: published ones are whole. If it is not, its length is wrong.
                let frame = Frame::read(bytes).map_err(|_| self.corrupt(position, invalid.what))?;
                let end = position + u64::from(frame.batch_len);
                return if end <= self.len() { Ok(None) } else { Err(self.corrupt(position, "length past the end")) };
            }
        };
        let base = batch.header().base_offset;
        if base < next || (dense && base > next) {
            return Err(self.corrupt(position, format!("offset {base} where {next} was expected")));
        }
        batch.check().map_err(|invalid| self.corrupt(position, invalid.what))?;
        Ok(Some(batch))
    }

    /// The header of the batch at `position`, framed but not verified.
    pub(crate) fn header(&self, view: &View, position: u64, len: u64) -> Result<BatchHeader> {
        let mut copied = [0; BatchHeader::LEN];
        let bytes = self.headers(view, position, len, &mut copied)?;
        let header = BatchHeader::read(bytes).map_err(|invalid| self.corrupt(position, invalid.what))?;
        if u64::from(header.batch_len) > len - position || header.last_offset_delta < 0 {
            return Err(self.corrupt(position, "batch length or offsets are out of range"));
        }
        Ok(header)
    }

    /// A way to the bytes, opened when first needed.
    pub(crate) fn view(self: &Arc<Self>) -> Result<View> {
        let tick = self.files().tick();
        if self.last_used() != tick {
            self.last_used.store(tick, Ordering::Relaxed);
        }
        let capacity = self.capacity();
        let fits = |view: &&View| view.capacity() >= capacity;
        if let Some(view) = self.view.read().as_ref().filter(fits) {
            return Ok(view.clone());
        }
        let mut slot = self.view.write();
        if let Some(view) = slot.as_ref().filter(fits) {
            return Ok(view.clone());
        }
        let view = self.files().view(&self.path, capacity, self.opened_len)?;
        self.check_ours()?;
        let had_view = slot.is_some();
        *slot = Some(view.clone());
        drop(slot);
        if !had_view {
            self.files().note_mapped(self);
        }
        Ok(view)
    }

    pub(crate) fn last_used(&self) -> u64 {
        self.last_used.load(Ordering::Relaxed)
    }

    pub(crate) fn has_view(&self) -> bool {
        self.view.read().is_some()
    }

    /// Gives up the map and a loaded index until the next read. The writer's own index stays.
    pub(crate) fn drop_view(&self) {
        // Whoever pins it looks at both afterwards, so it is asked with each lock held.
        let mut view = self.view.write();
        if !self.is_pinned() && view.take().is_some() {
            self.files().note_unmapped();
        }
        drop(view);
        let mut index = self.index.write();
        if !self.is_pinned() && index.as_ref().is_some_and(|index| index.is_loaded()) {
            *index = None;
        }
    }

    /// The segment's index: the one set by its writer, else loaded or rebuilt now.
    pub(crate) fn index(&self) -> Result<Arc<Index>> {
        let (loaded, mut slot) = loop {
            if let Some(index) = &*self.index.read() {
                return Ok(Arc::clone(index));
            }
            let len = self.len();
            let loaded = Index::load(self.files(), &self.path, self.base, len);
            self.check_ours()?;
            let loaded = loaded?;
            let slot = self.index.write();
            if let Some(index) = &*slot {
                // The writer's own, or another reader's, came meanwhile: what was loaded may be older than it.
                return Ok(Arc::clone(index));
            }
            // The writer's own may even have come and gone, and the segment grown with it.
            if self.len() == len {
                break (loaded, slot);
            }
        };
        if let Some((timestamp, offset)) = loaded.largest {
            self.note_largest(timestamp, offset);
        }
        if loaded.source == Source::Sealed {
            self.vouch(self.len());
        }
        let index = Arc::new(loaded.index);
        *slot = Some(Arc::clone(&index));
        drop(slot);
        if loaded.source == Source::Rebuilt {
            self.files().tell_rebuilt(file_path(&self.home.dir, self.base, FileKind::Index));
        }
        Ok(index)
    }

    /// The segment's index, once its times are known to be those of the batches, or not to be known.
    fn times(self: &Arc<Self>) -> Result<Arc<Index>> {
        loop {
            let index = self.index()?;
            if !index.has_unchecked_times() {
                return Ok(index);
            }
            // A wrong time would let records be passed over, and no batch can tell: so all are looked at, once.
            let (len, view) = (self.len(), self.view()?);
            let mut check = index.check_times(self.base);
            let mut position = 0;
            while position < len {
                let header = self.header(&view, position, len)?;
                check.push(&header);
                position += u64::from(header.batch_len);
            }
            match check.finish() {
                (true, largest) => {
                    probe::reached("segment.times_checked");
                    self.replace_found(index.with_true_times(), largest);
                }
                (false, _) => match self.rebuild_index() {
                    Ok(true) => probe::reached("segment.times_were_wrong"),
                    Ok(false) => {}
                    // A batch is damaged, and its header may be: what that says of times would let records be passed
                    // over. So all batches are searched, and who comes to the damaged one is told.
                    Err(Error::Corrupt(_)) => self.replace_found(index.without_times(), None),
                    Err(error) => return Err(error),
                },
            }
        }
    }

    /// Sets the index that the writer is growing, or takes it away once its files are written.
    pub(crate) fn set_index(&self, index: Option<Index>) {
        *self.index.write() = index.map(Arc::new);
    }

    pub(crate) fn corrupt(&self, position: u64, reason: impl Into<Box<str>>) -> Error {
        Error::corrupt(&self.path, position, reason)
    }
}

impl Drop for SegmentData {
    fn drop(&mut self) {
        if self.view.get_mut().is_some() {
            self.files().note_unmapped();
        }
    }
}

/// How often a look-up is tried while others replace or drop the index under it.
const MOST_LOOKS: usize = 4;
