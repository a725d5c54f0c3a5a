//! Reading: which segment, which batch, how much of it, and to whom it is visible.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

use super::core::Core;
use super::records::{Aborted, Batches, FileRange, Handed, Records, is_plain};
use super::{Partition, ReadOptions};
use crate::disk::Open;
use crate::error::{Error, Result};
use crate::probe;
use crate::record::{BatchHeader, BatchRef, check_records};
use crate::segment::data::{Piece, SegmentData, Wanted};
use crate::segment::files::Bytes;
use crate::types::{Offset, Timestamp};

/// Which records a reader wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Isolation {
    /// All that are committed to the log, those of transactions without an outcome too. Kafka: `read_uncommitted`.
    #[default]
    Uncommitted,
    /// Only up to the first transaction without an outcome, and none of aborted ones. Kafka: `read_committed`.
    Committed,
}

impl Partition {
    /// Reads the records from `from` on, within the default limits of [`ReadOptions`].
    ///
    /// Returns at least one record if any is visible at or after `from`, and not all there are: read on from
    /// [`Records::next_offset`] until it no longer moves. That is the end for now, not for good: wait there for more,
    /// with [`wait_readable`](Self::wait_readable). The records borrow the stored bytes. Never waits.
    ///
    /// # Errors
    ///
    /// - [`Error::OffsetOutOfRange`] if `from` is below the start or above the end.
    /// - [`Error::Corrupt`] if the batch that holds `from` is not what was written. Those before a damaged one are
    ///   returned. [`Log::verify`](crate::Log::verify) says where whole batches begin again.
    /// - [`Error::Unsupported`] if a batch needs a codec that is not built in.
    /// - [`Error::Io`] if the file cannot be read; [`Error::Closed`], [`Error::TopicDeleted`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// let partition = log.topic("orders")?.partition(0)?;
    /// partition.append("paid")?;
    ///
    /// let records = partition.read(Offset::ZERO)?;
    /// assert_eq!(records.iter().next().unwrap().value, Some(&b"paid"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Everything there is:
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = chiplog::Log::open(dir.path())?;
    /// # let partition = log.topic("orders")?.partition(0)?;
    /// # for value in ["one", "two", "three"] {
    /// #     partition.append(value)?;
    /// # }
    /// let mut from = partition.offsets().start;
    /// let mut count = 0;
    /// loop {
    ///     let records = partition.read(from)?;
    ///     if records.next_offset() == from {
    ///         break; // the end, for now
    ///     }
    ///     count += records.iter().count();
    ///     from = records.next_offset();
    /// }
    /// assert_eq!(count, 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read(&self, from: Offset) -> Result<Records> {
        self.read_with(from, ReadOptions::default())
    }

    /// As [`read`](Self::read), within limits of the caller's.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset, ReadOptions};
    ///
    /// let log = Log::open(dir.path())?;
    /// let partition = log.topic("orders")?.partition(0)?;
    /// for value in ["one", "two", "three"] {
    ///     partition.append(value)?;
    /// }
    /// let records = partition.read_with(Offset(1), ReadOptions::default().max_records(1))?;
    /// assert_eq!(records.iter().count(), 1);
    /// assert_eq!(records.next_offset(), Offset(2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_with(&self, from: Offset, options: ReadOptions) -> Result<Records> {
        let segments = self.core.segments();
        self.core.read(&segments, from, options)
    }

    /// Reads stored batches verbatim, from the one that holds `from` on: for transports and replicas.
    ///
    /// Each batch is verified. With [`Isolation::Committed`], the aborted transactions among them are named.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read), except that codecs do not matter.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::record::BatchRef;
    /// use chiplog::{Log, Offset, ReadOptions};
    ///
    /// let log = Log::open(dir.path())?;
    /// let partition = log.topic("orders")?.partition(0)?;
    /// partition.append("paid")?;
    ///
    /// let batches = partition.fetch(Offset::ZERO, ReadOptions::default())?;
    /// assert_eq!(BatchRef::verify(batches.bytes())?.header().record_count, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn fetch(&self, from: Offset, options: ReadOptions) -> Result<Batches> {
        self.core.fetch(from, options)
    }

    /// The last `count` records, or all if there are fewer: the oldest of them first, in as many parts as there were
    /// reads. Those of open and aborted transactions count, as with [`Isolation::Uncommitted`].
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// let log = chiplog::Log::open(dir.path())?;
    /// let partition = log.topic("orders")?.partition(0)?;
    /// for value in ["one", "two", "three"] {
    ///     partition.append(value)?;
    /// }
    /// let last = partition.read_last(2)?;
    /// let values: Vec<_> = last.iter().flat_map(|records| records.iter()).map(|record| record.value).collect();
    /// assert_eq!(values, [Some(&b"two"[..]), Some(&b"three"[..])]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_last(&self, count: usize) -> Result<Vec<Records>> {
        self.core.read_last(count)
    }

    /// The offset of the first record whose timestamp is `time` or later, in order of offsets; `None` if there is
    /// none. The markers that end transactions count, though no reader gets them: reading from one begins with the
    /// record that comes next. Kafka's special timestamps are understood:
    ///
    /// | Time | Offset |
    /// |---:|---|
    /// | -1 | the committed end: where a reader begins that wants new records only |
    /// | -2, -4 | the start |
    /// | -3 | the first record that carries the [largest timestamp](Self::largest_timestamp) |
    /// | other negative ones | `None` |
    ///
    /// Records that were given no time carry that of the log's clock, and [`SystemClock`](crate::SystemClock) is up to
    /// a tick behind, at most 4 ms on usual kernels: ask from a little earlier to miss none.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset, Record, Timestamp};
    ///
    /// let log = Log::open(dir.path())?;
    /// let partition = log.topic("orders")?.partition(0)?;
    /// for at in [1_000, 3_000, 2_000] {
    ///     partition.append(Record::new("paid").timestamp(Timestamp(at)))?;
    /// }
    /// assert_eq!(partition.offset_at(Timestamp(1_500))?, Some(Offset(1)));
    /// assert_eq!(partition.offset_at(Timestamp(3_001))?, None);
    /// assert_eq!(partition.offset_at(Timestamp(-1))?, Some(Offset(3)));
    /// assert_eq!(partition.offset_at(Timestamp(-2))?, Some(Offset(0)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn offset_at(&self, time: Timestamp) -> Result<Option<Offset>> {
        self.core.offset_at(time)
    }

    /// The first record that carries the largest timestamp: its offset and that timestamp. `None` if no record has a
    /// timestamp. Kafka's special timestamp -3.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset, Record, Timestamp};
    ///
    /// let log = Log::open(dir.path())?;
    /// let partition = log.topic("orders")?.partition(0)?;
    /// for at in [1_000, 3_000, 2_000] {
    ///     partition.append(Record::new("paid").timestamp(Timestamp(at)))?;
    /// }
    /// assert_eq!(partition.largest_timestamp()?, Some((Offset(1), Timestamp(3_000))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn largest_timestamp(&self) -> Result<Option<(Offset, Timestamp)>> {
        self.core.largest_timestamp()
    }
}

/// How far the files go: by offsets, and in bytes of the last one.
fn written(segments: &[Arc<SegmentData>]) -> Option<(Offset, u64)> {
    segments.last().map(|last| (last.end(), last.len()))
}

impl Core {
    /// Records from `from` on, of the segments given: the caller's cached list, or the current one.
    pub(crate) fn read(&self, segments: &[Arc<SegmentData>], from: Offset, options: ReadOptions) -> Result<Records> {
        let mut limit = self.check_range(from, options)?;
        let mut at = from;
        let mut newer = None;
        while at < limit {
            let segments = newer.as_deref().unwrap_or(segments);
            let written = written(segments);
            let piece = match self.piece(segments, at, limit, options)? {
                None => self.tail_piece(at, options)?,
                piece => piece,
            };
            let Some(piece) = piece else {
                // A segment may have been begun after the list was taken and before the limit was, or written. And what
                // was staged then may be in the file by now, in a batch that grew past the limit.
                let (current, limit_then) = (self.segments(), limit);
                limit = self.check_range(at, options)?;
                let is_same = std::ptr::eq(segments, &*current) && limit == limit_then;
                if is_same && self.is_written(&current, written) {
                    at = self.behind_nothing(&current, at, limit, options.isolation)?;
                    break;
                }
                newer = Some(current);
                continue;
            };
            let records = self.unpack(piece, at, options)?;
            if !records.is_empty() {
                return Ok(Records { from, ..records });
            }
            // Markers, emptied batches, aborted records: read on, so that "no records" means the end.
            probe::reached("read.nothing_visible");
            at = records.next_offset;
        }
        Ok(Records { next_offset: at, ..Records::none(from) })
    }

    pub(crate) fn fetch(&self, from: Offset, options: ReadOptions) -> Result<Batches> {
        let limit = self.check_range(from, options)?;
        let none =
            Batches { stored: Bytes::empty(), next_offset: from, place: None, file: None, aborted: Vec::new() };
        if from >= limit {
            return Ok(none);
        }
        let options = options.max_records(usize::MAX);
        let (segment, piece) = match self.stored(from, options)? {
            Ok(stored) => stored,
            Err(next_offset) => return Ok(Batches { next_offset, ..none }),
        };
        // What is staged is in no file yet.
        let file = segment.and_then(|segment| {
            let file = self.context.disk().open(segment.path(), Open::Read).ok()?;
            // Asked afterwards: by then compaction may have given the name to another.
            (segment.check_ours().is_ok() && !segment.is_pinned()).then_some(file)
        });
        let len = piece.bytes.as_slice().len() as u64;
        let aborted = match options.isolation {
            Isolation::Committed => self.aborted_within(from, piece.next_offset)?,
            Isolation::Uncommitted => Vec::new(),
        };
        Ok(Batches {
            stored: piece.bytes,
            next_offset: piece.next_offset,
            place: Some((Arc::clone(&piece.path), piece.position)),
            // Retention may have taken the name by now: the bytes are held.
            file: file.map(|file| FileRange { file, position: piece.position, len }),
            aborted: aborted
                .iter()
                .map(|txn| Aborted { producer_id: txn.producer, first_offset: txn.first_offset })
                .collect(),
        })
    }

    /// Stored batches from `from` on, committed or not, for a follower: at most so many bytes, but the first batch whole.
    pub(crate) fn fetch_to_end(&self, from: Offset, max_bytes: usize) -> Result<Bytes> {
        let options = ReadOptions::default().max_bytes(max_bytes).to_end();
        if from >= self.check_range(from, options)? {
            return Ok(Bytes::empty());
        }
        Ok(self.stored(from, options)?.map_or_else(|_| Bytes::empty(), |(_, piece)| piece.bytes))
    }

    /// Stored batches from `from` on, and the segment that holds them, none if they are staged; or where to go on if there
    /// are none.
    fn stored(&self, from: Offset, options: ReadOptions) -> Result<Result<Stored, Offset>> {
        loop {
            let segments = self.segments();
            // After the list: none of the segments closed in it reaches beyond.
            let limit = self.check_range(from, options)?;
            let written = written(&segments);
            if let Some((segment, piece)) = self.piece_of(&segments, from, limit, options)? {
                return Ok(Ok((Some(Arc::clone(segment)), piece)));
            }
            if let Some(piece) = self.tail_piece(from, options)? {
                return Ok(Ok((None, piece)));
            }
            // As in `read`: it may have been written meanwhile, in a batch that had grown past the limit.
            let limit_now = self.check_range(from, options)?;
            let current = self.segments();
            if limit == limit_now && self.is_written(&current, written) {
                return self.behind_nothing(&current, from, limit, options.isolation).map(Err);
            }
        }
    }

    /// Whether the files hold what they did, and nobody is just making more of it known: the end of a file is told before its
    /// length, both under the append lock.
    fn is_written(&self, segments: &[Arc<SegmentData>], before: Option<(Offset, u64)>) -> bool {
        drop(self.writer.lock());
        written(segments) == before
    }

    /// Where to go on if no batch was found from `at` on. If it lies in the files below `limit`, who reads on until the end
    /// would ask for it for ever: either compaction left nothing there, or damage hides what is.
    fn behind_nothing(
        &self,
        segments: &[Arc<SegmentData>],
        at: Offset,
        limit: Offset,
        isolation: Isolation,
    ) -> Result<Offset> {
        let Some(last) = segments.last().filter(|last| at < limit && limit <= last.end()) else { return Ok(at) };
        // Of a poisoned partition a batch that grew past what was synced is not shown.
        if self.is_poisoned() {
            return Ok(at);
        }
        // A batch that is committed in part: it was being filled when it was.
        if self.context.is_replicated && limit < self.end() {
            probe::reached("read.committed_in_part");
            return Ok(at);
        }
        // Compaction may leave nothing before an empty segment, or before a transaction that is open.
        if !self.is_dense() && (isolation == Isolation::Committed || last.len() == 0) {
            probe::reached("read.gap_at_the_end");
            return Ok(limit);
        }
        let reason = format!("no batch holds offset {at}, and the log goes on to {limit}");
        Err(Error::corrupt(last.path(), last.len(), reason))
    }

    /// Copies of staged batches, from the one that holds `from` on; `None` if there is none, or it was written.
    fn tail_piece(&self, from: Offset, options: ReadOptions) -> Result<Option<Piece>> {
        if self.last_segment().is_some_and(|last| from < last.end()) {
            return Ok(None);
        }
        let mut writer = self.lock();
        // Records may have joined the batch since the limit was taken: it is returned whole.
        let limit = self.check_range(from, options)?;
        if self.last_segment().is_some_and(|last| from < last.end()) {
            return Ok(None);
        }
        writer.read_tail(self, from, limit, options.max_bytes)
    }

    /// Refuses an offset outside the log; else the offset that a read may reach.
    fn check_range(&self, from: Offset, options: ReadOptions) -> Result<Offset> {
        let is_poisoned = self.is_poisoned();
        if !is_poisoned {
            self.check()?;
        }
        let (start, end) = (self.start(), self.end());
        if from < start || from > end {
            probe::reached("read.out_of_range");
            return Err(Error::OffsetOutOfRange { requested: from, start, end });
        }
        let limit = match options.isolation {
            _ if options.to_end => end,
            Isolation::Uncommitted => self.committed(),
            Isolation::Committed => self.decided(from, self.stable())?,
        };
        if is_poisoned {
            // What was not synced may be shown by the system and not be on the disk.
            let synced = self.synced();
            if from >= synced {
                self.check()?;
            }
            return Ok(limit.min(synced));
        }
        Ok(limit)
    }

    fn piece(
        &self,
        segments: &[Arc<SegmentData>],
        from: Offset,
        limit: Offset,
        options: ReadOptions,
    ) -> Result<Option<Piece>> {
        Ok(self.piece_of(segments, from, limit, options)?.map(|(_, piece)| piece))
    }

    /// Verified batches of one segment, from the one that holds `from` on.
    fn piece_of<'s>(
        &self,
        segments: &'s [Arc<SegmentData>],
        from: Offset,
        limit: Offset,
        options: ReadOptions,
    ) -> Result<Option<(&'s Arc<SegmentData>, Piece)>> {
        // After the list: what is in it was allowed to have gaps before.
        let dense_from = self.dense_from();
        let hides = options.isolation == Isolation::Committed;
        let (max_bytes, max_records) = (options.max_bytes, options.max_records.max(1));
        let max_epoch = self.latest_epoch();
        let first = segments.partition_point(|segment| segment.base() <= from).saturating_sub(1);
        for (at, segment) in segments.iter().enumerate().skip(first) {
            if segment.base() >= limit {
                break;
            }
            let is_closed = at + 1 < segments.len();
            let dense = segment.base() >= dense_from && from >= segment.base();
            let wanted = Wanted { from, limit, max_bytes, max_records, hides, dense, max_epoch, is_closed };
            match segment.read(wanted) {
                Ok(Some(piece)) => return Ok(Some((segment, piece))),
                // A segment with nothing at or above `from`, or whose first batch passes the limit.
                Ok(None) if !dense || segment.end() <= from || segment.len() == 0 => {}
                Ok(None) => break,
                Err(Error::Closed) => return Err(self.halted()),
                // Retention removes files under readers; then the start has moved past `from`.
                Err(_) if from < self.start() => {
                    probe::reached("read.removed_under_reader");
                    let (start, end) = (self.start(), self.end());
                    return Err(Error::OffsetOutOfRange { requested: from, start, end });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Decompresses what is compressed, and cuts to the limit of records.
    fn unpack(&self, piece: Piece, from: Offset, options: ReadOptions) -> Result<Records> {
        let stored = piece.bytes.as_slice();
        let mut unpacked: Vec<Box<[u8]>> = Vec::new();
        let (mut at, mut decoded, mut next_offset) = (0, 0, from);
        while at < stored.len() {
            let corrupt = |what: &'static str| Error::corrupt(&piece.path, piece.position + at as u64, what);
            let batch = BatchRef::framed(&stored[at..]).map_err(|invalid| corrupt(invalid.what))?;
            if is_plain(batch.header()) {
                if !piece.is_vouched {
                    check_records(batch.header(), batch.body()).map_err(|invalid| corrupt(invalid.what))?;
                }
            } else {
                // At least one batch; then only as much as was asked for, as it is after decompression.
                if at > 0 && decoded >= options.max_bytes {
                    break;
                }
                let mut body = Vec::new();
                let limit = self.config.read().max_decompressed_bytes as usize;
                batch
                    .decompress(limit, &mut body)
                    .map_err(|error| error.at(&piece.path, piece.position + at as u64))?;
                check_records(batch.header(), &body).map_err(|invalid| corrupt(invalid.what))?;
                decoded += body.len();
                unpacked.push(body.into());
            }
            at += batch.bytes().len();
            next_offset = batch.header().next_offset();
        }
        let stored = piece.bytes.truncated(at);
        let aborted = match options.isolation {
            Isolation::Committed => {
                Some(self.aborted_within(from, next_offset)?).filter(|aborted| !aborted.is_empty())
            }
            Isolation::Uncommitted => None,
        };
        let unpacked = Some(unpacked).filter(|unpacked| !unpacked.is_empty());
        let (aborted, unpacked) = (aborted.map(Into::into), unpacked.map(Into::into));
        let has_markers = options.markers;
        let handed = Handed::default();
        let mut records = Records { stored, unpacked, aborted, from, next_offset, has_markers, handed };
        if options.max_records < usize::MAX
            && let Some(last) = records.iter().nth(options.max_records.max(1) - 1)
        {
            records.next_offset = last.offset + 1;
        }
        Ok(records)
    }

    fn read_last(&self, count: usize) -> Result<Vec<Records>> {
        self.unless_removed(|| self.last_records(count))
    }

    fn last_records(&self, count: usize) -> Result<Vec<Records>> {
        let mut pieces: VecDeque<(Records, usize)> = VecDeque::new();
        let (mut upper, mut have, mut span) = (self.committed(), 0, count as u64);
        while have < count && upper > self.start() {
            // Offsets are mostly dense, so this many back is mostly right; over gaps and markers the steps grow.
            let lower = Offset(upper.0.saturating_sub(span)).max(self.start());
            let step = self.counted(lower, upper)?;
            have += step.iter().map(|(_, found)| found).sum::<usize>();
            step.into_iter().rev().for_each(|piece| pieces.push_front(piece));
            (upper, span) = (lower, span.saturating_mul(2));
        }
        // A long step may have found more than were asked for.
        let mut excess = have.saturating_sub(count);
        while let Some((records, found)) = pieces.front_mut() {
            if excess < *found {
                records.from = records.iter().nth(excess).map_or(records.from, |record| record.offset);
                break;
            }
            excess -= *found;
            pieces.pop_front();
        }
        Ok(pieces.into_iter().map(|(records, _)| records).collect())
    }

    /// The records of `from..to`, and how many each result holds.
    fn counted(&self, from: Offset, to: Offset) -> Result<Vec<(Records, usize)>> {
        let (mut all, mut at) = (Vec::new(), from);
        while at < to {
            let mut records = self.read(&self.segments(), at, ReadOptions::default())?;
            if records.next_offset <= at {
                break;
            }
            at = records.next_offset;
            records.next_offset = at.min(to);
            let found = records.iter().count();
            if found > 0 {
                all.push((records, found));
            }
        }
        Ok(all)
    }

    fn offset_at(&self, time: Timestamp) -> Result<Option<Offset>> {
        self.unless_removed(|| {
            let start = self.start();
            self.check_range(start, ReadOptions::default())?;
            match time.0 {
                0.. => {}
                LATEST => return Ok(Some(self.committed())),
                EARLIEST | EARLIEST_LOCAL => return Ok(Some(start)),
                OF_LARGEST => return Ok(self.largest_timestamp()?.map(|(offset, _)| offset)),
                // What lies in other storage, which there is none of.
                _ => return Ok(None),
            }
            let segments = self.segments();
            // Taken before they are searched: what is written meanwhile is looked for behind it. A batch may be in its
            // file a moment before the end is raised.
            let staged = segments.last().map_or(start, |last| last.end()).min(self.committed()).max(start);
            for segment in segments.iter().filter(|segment| segment.len() > 0) {
                let Some(from) = segment.time_floor(time)? else { continue };
                if let Some((offset, _)) = self.first_record(segment, from.max(start), |at| at >= time)? {
                    return Ok(Some(offset));
                }
            }
            Ok(self.first_from(staged, |at| at >= time)?.map(|(offset, _)| offset))
        })
    }

    fn largest_timestamp(&self) -> Result<Option<(Offset, Timestamp)>> {
        self.unless_removed(|| {
            let start = self.start();
            self.check_range(start, ReadOptions::default())?;
            let mut best: Option<(Offset, Timestamp)> = None;
            let segments = self.segments();
            // No further than this: an appender may be faster than this.
            let end = self.committed();
            let staged = segments.last().map_or(start, |last| last.end()).min(end).max(start);
            for segment in segments.iter().filter(|segment| segment.len() > 0 && segment.end() > start) {
                let is_larger = |at: &Timestamp| best.is_none_or(|(_, best)| *at > best);
                let largest = segment.largest_timestamp()?.map(|(largest, _)| largest);
                let Some(largest) = largest.filter(is_larger) else { continue };
                let from = segment.base().max(start);
                let mut found = self.first_record(segment, from, |at| at == largest)?;
                if found.is_none() {
                    // It lies below the start, or in a batch that was emptied: the largest of what is left counts.
                    found = self.largest_of(segment, from)?.filter(|(_, at)| is_larger(at));
                }
                best = found.or(best);
            }
            let mut at = staged;
            loop {
                let records = self.read(&self.segments(), at, WITH_MARKERS)?;
                for record in &records {
                    let is_larger = best.is_none_or(|(_, best)| record.timestamp > best);
                    if record.timestamp.is_some() && is_larger {
                        best = Some((record.offset, record.timestamp));
                    }
                }
                if records.next_offset <= at || at > end {
                    return Ok(best);
                }
                at = records.next_offset;
            }
        })
    }

    fn largest_of(&self, segment: &Arc<SegmentData>, from: Offset) -> Result<Option<(Offset, Timestamp)>> {
        let largest = Cell::new(Timestamp::NONE);
        self.first_record(segment, from, |at| {
            largest.set(largest.get().max(at));
            false
        })?;
        if !largest.get().is_some() {
            return Ok(None);
        }
        self.first_record(segment, from, |at| at == largest.get())
    }

    /// Runs a look-up again if it failed because retention removed a file under it.
    fn unless_removed<T>(&self, look: impl Fn() -> Result<T>) -> Result<T> {
        loop {
            let start = self.start();
            match look() {
                Err(Error::Closed) => return Err(self.halted()),
                Err(_) if self.start() > start => probe::reached("read.removed_under_reader"),
                found => return found,
            }
        }
    }

    /// The first record at or after `from`, wherever it is, whose timestamp `fits`.
    fn first_from(&self, from: Offset, fits: impl Fn(Timestamp) -> bool) -> Result<Option<(Offset, Timestamp)>> {
        let mut at = from;
        loop {
            let records = self.read(&self.segments(), at, WITH_MARKERS)?;
            if let Some(record) = records.iter().find(|record| fits(record.timestamp)) {
                return Ok(Some((record.offset, record.timestamp)));
            }
            if records.next_offset <= at {
                return Ok(None);
            }
            at = records.next_offset;
        }
    }

    /// The first record of `segment` at or after `from` whose timestamp `fits`.
    fn first_record(
        &self,
        segment: &Arc<SegmentData>,
        from: Offset,
        fits: impl Fn(Timestamp) -> bool,
    ) -> Result<Option<(Offset, Timestamp)>> {
        let one = std::slice::from_ref(segment);
        // In this order: what is written was let be seen before, so this ends with a batch.
        let limit = segment.end();
        let limit = limit.min(self.committed());
        let mut at = from;
        while at < limit {
            let Some(piece) = self.piece(one, at, limit, WITH_MARKERS)? else { break };
            let records = self.unpack(piece, at, WITH_MARKERS)?;
            if let Some(record) = records.iter().find(|record| fits(record.timestamp)) {
                return Ok(Some((record.offset, record.timestamp)));
            }
            at = records.next_offset;
        }
        Ok(None)
    }
}

/// Stored batches, and the segment that holds them, if they are in one.
type Stored = (Option<Arc<SegmentData>>, Piece);

/// The last batch of a segment of `len` bytes: its position and checksum.
pub(super) fn last_batch(segment: &Arc<SegmentData>) -> Result<Option<(u64, u32)>> {
    let last = Offset(segment.end().0.saturating_sub(1));
    let Some(mut position) = segment.locate(last)? else { return Ok(None) };
    let (view, len) = (segment.view()?, segment.len());
    let mut header: BatchHeader = segment.header(&view, position, len)?;
    while position + u64::from(header.batch_len) < len {
        position += u64::from(header.batch_len);
        header = segment.header(&view, position, len)?;
    }
    Ok(Some((position, header.crc)))
}

/// The markers of transactions have times as records have: a look-up may answer with one, as Kafka's does.
const WITH_MARKERS: ReadOptions = ReadOptions {
    max_bytes: 1 << 20,
    max_records: usize::MAX,
    isolation: Isolation::Uncommitted,
    markers: true,
    to_end: false,
};

/// Kafka's special timestamps.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const OF_LARGEST: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
