//! What reads return: records for people, batches for transports. Both keep the memory they show alive.

use std::collections::BinaryHeap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::disk::DiskFile;
use crate::record::{BatchHeader, RecordIter, RecordRef};
use crate::segment::files::Bytes;
use crate::segment::txn_index::AbortedTxn;
use crate::types::Offset;

/// Records of a partition, verified and in order.
///
/// Borrows the stored bytes where a batch is stored plain; a compressed one is decompressed once, here. Keeping this
/// keeps the bytes it shows, and so a file's disk space, even after retention has removed its name.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use chiplog::{Log, Offset, Record};
///
/// let log = Log::open(dir.path())?;
/// let partition = log.topic("orders")?.partition(0)?;
/// partition.append(Record::new("paid").key("o-17"))?;
///
/// let records = partition.read(Offset::ZERO)?;
/// for record in &records {
///     assert_eq!((record.offset, record.key, record.value), (Offset(0), Some(&b"o-17"[..]), Some(&b"paid"[..])));
/// }
/// assert_eq!(records.next_offset(), Offset(1)); // read on from here
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Records {
    pub(super) stored: Bytes,
    /// The records of compressed batches, decompressed, in their order; `None` if there are none.
    pub(super) unpacked: Option<Arc<[Box<[u8]>]>>,
    /// Transactions whose records are left out; `None` if there are none.
    pub(super) aborted: Option<Arc<[AbortedTxn]>>,
    pub(super) from: Offset,
    pub(super) next_offset: Offset,
    /// Whether the records of control batches are among them: for who looks for a time.
    pub(super) has_markers: bool,
    /// How far the first batch was handed out already.
    pub(super) handed: Handed,
}

/// How much of a batch lies before the first record that is shown.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Handed {
    /// Bytes of its records.
    bytes: usize,
    /// How many records these are.
    count: usize,
    /// How many compressed batches lie before it.
    unpacked: usize,
}

impl Handed {
    /// The records of a batch that are left. None of the next one was handed out.
    pub(super) fn resume<'a>(&mut self, header: &BatchHeader, body: &'a [u8]) -> RecordIter<'a> {
        let (bytes, count) = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.count));
        RecordIter::resume(header, body, bytes, count)
    }
}

impl Records {
    pub(super) fn none(from: Offset) -> Self {
        let (stored, next_offset) = (Bytes::empty(), from);
        let handed = Handed::default();
        Self { stored, unpacked: None, aborted: None, from, next_offset, has_markers: false, handed }
    }

    /// Iterates over the records, in order of their offsets. Never fails: everything was verified.
    #[must_use]
    pub fn iter(&self) -> RecordsIter<'_> {
        RecordsIter {
            records: self,
            next: self.from,
            rest: self.stored.as_slice(),
            handed: self.handed,
            batch: None,
            hidden: Hidden::new(self.aborted.as_deref().unwrap_or_default()),
        }
    }

    /// Whether the records of the next batch are seen.
    pub(super) fn shows(&self, header: &BatchHeader, hidden: &mut Hidden<'_>) -> bool {
        (!header.attributes.is_control() || self.has_markers) && !hidden.hides(header)
    }

    /// The records of the next batch as they can be read, and counts it as taken if it is compressed.
    pub(super) fn body<'a>(&'a self, header: &BatchHeader, batch: &'a [u8], handed: &mut Handed) -> Option<&'a [u8]> {
        if is_plain(header) {
            return batch.get(BatchHeader::LEN..);
        }
        handed.unpacked += 1;
        self.unpacked.as_deref()?.get(handed.unpacked - 1).map(|body| &**body)
    }

    /// Takes off the first records, `max` of them at most and one at least, and says how many they are and how many bytes of
    /// batches they take. None if there are none left. Copies nothing: both parts keep the same bytes.
    ///
    /// Ends where a batch does, unless the first batch has more records than that.
    pub(crate) fn take_front(&mut self, max: usize) -> Option<Front> {
        let (from, end) = (self.from, self.next_offset);
        let mut hidden = Hidden::new(self.aborted.as_deref().unwrap_or_default());
        let (mut taken, mut count, mut at, mut next) = (0, 0, self.handed, from);
        // Where the bytes end that the first part shows: behind those taken, or inside of the next batch.
        let mut shown = 0;
        while let Ok(header) = BatchHeader::read(&self.stored.as_slice()[taken..])
            && header.base_offset < end
            && let Some(batch) = self.stored.as_slice()[taken..].get(..header.batch_len as usize)
        {
            let mut behind = at;
            let body = self.body(&header, batch, &mut behind)?;
            if self.shows(&header, &mut hidden) {
                let mut records = RecordIter::resume(&header, body, at.bytes, at.count);
                let here = count_within(&header, at.count, from..end, &records);
                if count > 0 && count + here > max {
                    break;
                }
                if here > max {
                    let last = records.by_ref().filter(|record| record.offset >= from).nth(max.max(1) - 1)?;
                    at.count = header.record_count as usize - records.len();
                    at.bytes += records.bytes_read();
                    (count, next, shown) = (max.max(1), last.offset + 1, taken + batch.len());
                    break;
                }
                count += here;
            }
            taken += batch.len();
            shown = taken;
            next = header.next_offset().min(end);
            at = Handed { unpacked: behind.unpacked, ..Handed::default() };
            if count >= max {
                break;
            }
        }
        if count == 0 {
            return None;
        }
        let mut records = self.clone();
        (records.stored, records.next_offset) = (records.stored.truncated(shown), next);
        self.stored.skip(taken);
        (self.from, self.handed) = (next, at);
        Some(Front { records, count, bytes: shown })
    }

    /// The offset to read on from: after the last record, or after what there was in place of records.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// Whether there is no record. That does not make it the end of the partition: what is there may be markers of
    /// transactions, or not yet visible. Read on from [`next_offset`](Self::next_offset) later, which may lie past the
    /// offset that was asked for even then. How many records there are, only [`iter`](Self::iter) tells: offsets may
    /// have gaps.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

/// What [`Records::take_front`] took off.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) records: Records,
    pub(crate) count: usize,
    /// The length of its batches, also of those that it shows a part of.
    pub(crate) bytes: usize,
}

/// How many records of a batch lie within `offsets`, of which `done` lie before and `records` are left.
fn count_within(header: &BatchHeader, done: usize, offsets: Range<Offset>, records: &RecordIter<'_>) -> usize {
    let (next, count) = (header.next_offset(), records.len() + done);
    let is_dense = next - header.base_offset == count as u64;
    if !is_dense {
        // Compaction left gaps: only the records tell.
        return records.clone().filter(|record| offsets.contains(&record.offset)).count();
    }
    let first = offsets.start.max(header.base_offset + done as u64);
    next.min(offsets.end).0.saturating_sub(first.0) as usize
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Payloads belong to the application: they are not printed by accident.
        f.debug_struct("Records").field("from", &self.from).field("next_offset", &self.next_offset).finish()
    }
}

impl<'a> IntoIterator for &'a Records {
    type Item = RecordRef<'a>;
    type IntoIter = RecordsIter<'a>;

    fn into_iter(self) -> RecordsIter<'a> {
        self.iter()
    }
}

/// Iterates over [`Records`]: made by [`Records::iter`].
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use chiplog::{Log, Offset, RecordsIter};
///
/// fn longest(records: RecordsIter<'_>) -> usize {
///     records.filter_map(|record| record.value).map(<[u8]>::len).max().unwrap_or(0)
/// }
///
/// let log = Log::open(dir.path())?;
/// let partition = log.topic("orders")?.partition(0)?;
/// partition.append_all(["paid", "delivered"])?;
/// assert_eq!(longest(partition.read(Offset::ZERO)?.iter()), 9);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct RecordsIter<'a> {
    records: &'a Records,
    /// No record that is to come lies before.
    next: Offset,
    rest: &'a [u8],
    handed: Handed,
    batch: Option<RecordIter<'a>>,
    hidden: Hidden<'a>,
}

impl fmt::Debug for RecordsIter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.records.next_offset;
        f.debug_struct("RecordsIter").field("next", &self.next).field("end", &end).finish()
    }
}

impl<'a> Iterator for RecordsIter<'a> {
    type Item = RecordRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<RecordRef<'a>> {
        loop {
            if let Some(batch) = &mut self.batch {
                for record in batch.by_ref() {
                    // A read may begin, or end, inside a batch.
                    if record.offset >= self.records.next_offset {
                        return None;
                    }
                    if record.offset >= self.records.from {
                        self.next = record.offset + 1;
                        return Some(record);
                    }
                }
                self.batch = None;
            }
            self.next_batch()?;
        }
    }

    /// As a loop over [`next`](Iterator::next), and faster: the batch stays in registers.
    #[inline]
    fn fold<B, F: FnMut(B, RecordRef<'a>) -> B>(mut self, init: B, mut f: F) -> B {
        let (from, end) = (self.records.from, self.records.next_offset);
        let mut folded = init;
        loop {
            if let Some(batch) = self.batch.take() {
                for record in batch {
                    if record.offset >= end {
                        return folded;
                    }
                    if record.offset >= from {
                        folded = f(folded, record);
                    }
                }
            }
            if self.next_batch().is_none() {
                return folded;
            }
        }
    }

    /// At most one record an offset; which offsets have none is only known from the batches.
    fn size_hint(&self) -> (usize, Option<usize>) {
        let most = self.records.next_offset.0.saturating_sub(self.next.0);
        (0, usize::try_from(most).ok())
    }
}

impl RecordsIter<'_> {
    fn next_batch(&mut self) -> Option<()> {
        let header = BatchHeader::read(self.rest).ok()?;
        let (batch, rest) = self.rest.split_at_checked(header.batch_len as usize)?;
        self.rest = rest;
        let body = self.records.body(&header, batch, &mut self.handed)?;
        let records = self.handed.resume(&header, body);
        if self.records.shows(&header, &mut self.hidden) {
            self.batch = Some(records);
        }
        Some(())
    }
}

/// Whether the records of a batch can be borrowed as they are stored.
pub(super) fn is_plain(header: &BatchHeader) -> bool {
    header.attributes.codec() == Some(crate::record::Codec::None) || header.record_count == 0
}

/// Leaves out the records of aborted transactions, batch by batch, as a Kafka consumer does.
#[derive(Debug, Clone)]
pub(super) struct Hidden<'a> {
    /// Those that begin later, the earliest on top.
    ahead: BinaryHeap<std::cmp::Reverse<(Offset, usize)>>,
    all: &'a [AbortedTxn],
    /// Those that have begun and not ended.
    open: Vec<&'a AbortedTxn>,
}

impl<'a> Hidden<'a> {
    pub(super) fn new(all: &'a [AbortedTxn]) -> Self {
        let ahead = all.iter().enumerate().map(|(at, txn)| std::cmp::Reverse((txn.first_offset, at))).collect();
        Self { ahead, all, open: Vec::new() }
    }

    pub(super) fn hides(&mut self, header: &BatchHeader) -> bool {
        if self.all.is_empty() || !header.producer_id.is_some() {
            return false;
        }
        while let Some(std::cmp::Reverse((first, at))) = self.ahead.peek().copied()
            && first <= header.last_offset()
        {
            self.open.push(&self.all[at]);
            self.ahead.pop();
        }
        self.open.retain(|txn| txn.last_offset >= header.base_offset);
        header.attributes.is_transactional() && self.open.iter().any(|txn| txn.producer == header.producer_id)
    }
}

/// Stored batches, verbatim: what a fetch response carries.
///
/// Begins with the batch that holds the offset asked for, so its first records may lie before it: readers skip them,
/// as Kafka's do.
#[derive(Clone)]
pub struct Batches {
    pub(super) stored: Bytes,
    pub(super) next_offset: Offset,
    /// The segment they are of, and where there; none if there are no batches.
    pub(super) place: Option<(Arc<Path>, u64)>,
    pub(super) file: Option<FileRange>,
    pub(super) aborted: Vec<Aborted>,
}

impl fmt::Debug for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len = self.bytes().len();
        f.debug_struct("Batches").field("bytes", &len).field("next_offset", &self.next_offset).finish()
    }
}

/// A transaction that was aborted: its batches are to be left out by readers of committed data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Aborted {
    /// Whose.
    pub producer_id: crate::types::ProducerId,
    /// The first offset of the transaction in this partition.
    pub first_offset: Offset,
}

/// Where in a file the batches are, for calls like `sendfile` that copy nothing.
#[derive(Debug, Clone)]
pub struct FileRange {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) position: u64,
    pub(super) len: u64,
}

impl FileRange {
    /// The open file; `None` on a disk that is not real.
    #[must_use]
    pub fn file(&self) -> Option<&std::fs::File> {
        self.file.as_std()
    }

    /// The position of the first byte.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How many bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Batches {
    /// The bytes: whole batches, back to back.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.stored.as_slice()
    }

    /// The same bytes as a range of their file; `None` if there are none, or they are in no file.
    #[must_use]
    pub fn file_range(&self) -> Option<&FileRange> {
        self.file.as_ref()
    }

    /// The segment file, and where in it the last `len` bytes of these begin.
    pub(crate) fn place_of_last(&self, len: usize) -> (&Path, u64) {
        let (path, position) =
            self.place.as_ref().map_or((Path::new(""), 0), |(path, position)| (&**path, *position));
        (path, position + (self.bytes().len() - len) as u64)
    }

    /// The offset after the last batch.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// The aborted transactions among the batches, if committed data was asked for. May name more than needed.
    #[must_use]
    pub fn aborted(&self) -> &[Aborted] {
        &self.aborted
    }
}
