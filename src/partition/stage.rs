//! The staged tail of a partition: small appends wait in a slot of the arena until they are worth a write.
//!
//! ```text
//! start            written               end
//! |-- in the file ----|-- sealed --|-- open --|
//! ```
//!
//! A record joins the open batch, a small batch is copied behind it. When the slot is full, at a sync, a roll or a close,
//! and when it has waited for the linger time, the whole of it goes into the segment in one write. Readers below
//! `written` never see any of this; those above it get copies, made under the append lock.

use std::time::Duration;

use super::core::Core;
use super::counters::AppendCounts;
use super::follow::{placed, producer_batch};
use super::producers::{Placed, ProducerBatch};
use super::writer::Writer;
use crate::disk::marks::Lap;
use crate::error::Result;
use crate::probe;
use crate::record::{BatchHeader, BatchRef, Codec, Compression, OpenBatch, Record, Sender, TimestampType, pack};
use crate::segment::active::Failure;
use crate::segment::data::Piece;
use crate::segment::files::Bytes;
use crate::segment::pool::Key;
use crate::segment::staging::{Limits, Staged};
use crate::types::{Offset, Timestamp};

/// What a partition has staged, and what became of it.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    staged: Option<Staged>,
    /// How many sealed batches wait.
    batch_count: usize,
    /// The largest time of the first of them: a segment's age is counted from its first batch.
    first_timestamp: Option<Timestamp>,
    /// What waits, in the form it has from now on, if its last batch is to be compressed: readers and every write get
    /// this one.
    packed: Option<Vec<u8>>,
    /// When the first record of the lap came.
    since: Duration,
    /// When the slot was first seen empty.
    idle_since: Option<Duration>,
}

impl Tail {
    /// What recovery found staged, and adopted.
    pub(crate) fn adopted(staged: Option<Staged>, now: Duration) -> Self {
        let mut tail = Self { staged, since: now, ..Self::default() };
        if let Some(staged) = &tail.staged {
            let headers = headers(staged.sealed());
            (tail.batch_count, tail.first_timestamp) = headers
                .fold((0, None), |(count, first), (_, header)| (count + 1, first.or(Some(header.max_timestamp))));
        }
        tail
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.staged.as_ref().is_none_or(Staged::is_empty)
    }

    pub(crate) fn has_slot(&self) -> bool {
        self.staged.is_some()
    }

    pub(crate) fn first_timestamp(&self) -> Option<Timestamp> {
        self.first_timestamp
    }

    /// Takes the slot away, whatever is in it.
    pub(crate) fn take_slot(&mut self) -> Option<Staged> {
        std::mem::take(self).staged
    }

    /// What waits, the open batch left out, in the form it will have in the file.
    pub(super) fn batches(&self) -> Option<&[u8]> {
        self.staged.as_ref().map(|staged| self.packed.as_deref().unwrap_or(staged.sealed()))
    }

    /// What has joined the open batch.
    pub(crate) fn joined(&self) -> AppendCounts {
        self.staged.as_ref().map_or_else(AppendCounts::default, |staged| {
            let (records, bytes) = staged.joined();
            AppendCounts { batches: records, records, bytes: bytes as u64 }
        })
    }

    /// How many bytes the file lacks, at most: what is compressed in vain gets longer.
    pub(crate) fn pending_bound(&self) -> u64 {
        let len = self.pending_len();
        if len == 0 { 0 } else { packed_bound(len as usize) as u64 }
    }

    fn pending_len(&self) -> u64 {
        self.staged.as_ref().map_or(0, |staged| staged.pending_len() as u64)
    }
}

impl Writer {
    /// Adds a record to the open batch of its sender; `None` if there is none, or it has no room for it.
    ///
    /// # Errors
    ///
    /// What is wrong with the record.
    #[inline]
    pub(super) fn join(&mut self, record: &Record<'_>, sender: Sender, at: Timestamp) -> Result<Option<Offset>> {
        let Some(staged) = &mut self.tail.staged else { return Ok(None) };
        let Some(offset) = staged.join(record, sender, at)? else { return Ok(None) };
        self.end = offset + 1;
        Ok(Some(offset))
    }

    /// Stages a record, which becomes the first of a new batch if it cannot join one; `false` if it cannot be staged.
    pub(super) fn stage_record(
        &mut self,
        core: &Core,
        record: &Record<'_>,
        sender: Sender,
        at: Timestamp,
    ) -> Result<bool, Failure> {
        if self.join(record, sender, at).map_err(Failure::Refused)?.is_some() {
            return Ok(true);
        }
        self.seal(core)?;
        if self.syncs_with(1) {
            return Ok(false);
        }
        let kind = self.config.timestamp_type;
        let base_sequence = self.followed.producers.next_sequence(sender).map_err(Failure::Refused)?;
        let batch = OpenBatch::new(self.end, self.epoch, kind, at).of(sender, base_sequence);
        let len = BatchHeader::LEN + batch.len_of(record, at).map_err(Failure::Refused)?.whole;
        let limit = self.longest_joined();
        if len > limit {
            // Whoever makes a batch of it says what is wrong, or compresses it.
            return Ok(false);
        }
        let Some(most) = self.make_staging_room(core, len, self.end, at)? else { return Ok(false) };
        let Some(active) = &self.active else { return Ok(false) };
        let left = |last: u64, from: Offset| last.saturating_sub(from.0).saturating_add(1);
        let limits = Limits {
            len: most.min(limit).min(core.context.pool.layout().batch_len as usize).max(len),
            count: left(Offset::MAX.0 - 1, self.end)
                .min(left(active.data().base().0 + MAX_RELATIVE, self.end))
                .min((self.config.flush_messages as u64).saturating_sub(self.unsynced_records + 1))
                .min(i32::MAX as u64),
            earliest: if kind == TimestampType::LogAppendTime { at } else { Timestamp(i64::MIN) },
            latest: if kind == TimestampType::LogAppendTime { at } else { self.latest_joining(at) },
        };
        let Some(staged) = self.tail.staged.as_mut() else { return Ok(false) };
        staged.open(batch, record, at, limits).map_err(Failure::Refused)?;
        let placed = Placed { base_offset: self.end, last_offset: self.end, timestamp: at };
        self.end = self.end + 1;
        // Not before it is there: a number that was given to nothing would be missed.
        self.follow_sender(core, sender, base_sequence, placed);
        Ok(true)
    }

    /// Puts a whole batch, stamped with `end`, behind what is staged; `false` if it cannot be staged.
    pub(super) fn stage_batch(&mut self, core: &Core, batch: &[u8], header: &BatchHeader) -> Result<bool, Failure> {
        let is_small = batch.len() <= core.context.pool.layout().batch_len as usize;
        // Whoever appends to a topic of the log's own waits for the sync: see `syncs_with`.
        if !is_small || core.is_internal || self.syncs_with(header.record_count.max(0) as u64) {
            return Ok(false);
        }
        let room = self.make_staging_room(core, batch.len(), header.last_offset(), header.max_timestamp)?;
        let (Some(_), Some(staged)) = (room, &mut self.tail.staged) else { return Ok(false) };
        staged.copy(batch);
        self.tail.batch_count += 1;
        self.tail.first_timestamp = self.tail.first_timestamp.or(Some(header.max_timestamp));
        self.end = header.next_offset();
        self.count_in(header, 1);
        Ok(true)
    }

    /// Whether the topic asks for a sync with the next `count` records. They are written, not staged: if that fails they
    /// are refused, and not there; staged, they would be there, and the sync would fail.
    fn syncs_with(&self, count: u64) -> bool {
        self.config.flush_messages as u64 <= self.unsynced_records + count
    }

    /// Completes the open batch. On a topic with a codec that writes it, for what is compressed is not staged again.
    pub(super) fn seal(&mut self, core: &Core) -> Result<(), Failure> {
        self.complete();
        match self.tail.staged.as_ref().is_some_and(Staged::awaits_codec) {
            true => self.flush(core),
            false => Ok(()),
        }
    }

    pub(super) fn complete(&mut self) {
        let has_codec = self.codec().is_some();
        let Some(header) = self.tail.staged.as_mut().and_then(|staged| staged.seal(has_codec)) else { return };
        self.tail.batch_count += 1;
        self.tail.first_timestamp = self.tail.first_timestamp.or(Some(header.max_timestamp));
        self.count_in(&header, header.record_count as u64);
        if header.producer_id.is_some() {
            self.followed.producers.grow(&producer_batch(&header), placed(&header));
        }
    }

    /// Completes the open batch if a producer's records joined it: what is known of them is then all there is.
    pub(super) fn complete_sender(&mut self) {
        if self.tail.staged.as_ref().is_some_and(Staged::has_sender) {
            self.complete();
        }
    }

    /// Takes the first record of a sender's batch into account.
    pub(super) fn follow_sender(&mut self, core: &Core, sender: Sender, sequence: i32, placed: Placed) {
        if !sender.is_some() {
            return;
        }
        let Sender { producer, epoch, is_transactional } = sender;
        let (base_sequence, last_sequence) = (sequence, sequence);
        let batch = ProducerBatch { producer, epoch, base_sequence, last_sequence, transactional: is_transactional };
        self.followed.producers.apply(&batch, placed);
        if is_transactional {
            core.publish_transactions(self);
        }
    }

    /// The codec that joined records are stored with, if there is one.
    pub(super) fn codec(&self) -> Option<Compression> {
        self.rules.compression.filter(|compression| compression.codec() != Codec::None)
    }

    /// Writes everything that is staged into the segment.
    pub(crate) fn flush(&mut self, core: &Core) -> Result<(), Failure> {
        self.write_staged(core, false)
    }

    /// The same. If the lap `is_full`, and another follows it in this segment, with zeros up to where that one belongs.
    fn write_staged(&mut self, core: &Core, is_full: bool) -> Result<(), Failure> {
        self.complete();
        if self.tail.is_empty() {
            // Of a lap that a process before wrote whole, and did not get to clear.
            self.tail.staged.iter_mut().for_each(Staged::clear);
            return Ok(());
        }
        self.begin(core)?;
        self.pack();
        let (Some(active), Some(staged)) = (&mut self.active, &mut self.tail.staged) else { return Ok(()) };
        probe::reached("staging.flushed");
        if probe::planted("staging.cleared_before_written") {
            let bytes = staged.sealed().to_vec();
            staged.clear();
            return active.write(&bytes);
        }
        match &self.tail.packed {
            Some(packed) => active.write(packed)?,
            None if is_full && !active.is_reserved() => {
                let len = staged.pending_len();
                let zeros = core.context.pool.layout().zeros_behind(active.position() + len as u64);
                let bytes = staged.sealed_and_zeros(zeros);
                active.write_with_zeros(bytes, bytes.len() - len)?;
            }
            None => active.write(staged.sealed())?,
        }
        // Now, and not before. From here on the slot may hold something else.
        staged.clear();
        self.tail.packed = None;
        (self.tail.batch_count, self.tail.first_timestamp) = (0, None);
        self.note_if_due(core);
        Ok(())
    }

    /// Gives what waits the form it will have in the file, once: if it cannot be written now, it is written like this.
    fn pack(&mut self) {
        let Some(staged) = self.tail.staged.as_mut().filter(|staged| staged.awaits_codec()) else { return };
        if self.tail.packed.is_some() && !probe::planted("staging.retry_with_other_bytes") {
            return;
        }
        let sealed = staged.sealed();
        let is_first = self.tail.packed.as_deref().is_none_or(|packed| packed == sealed);
        let last = headers(sealed).last().map_or(0, |(at, _)| at);
        let mut packed = sealed[..last].to_vec();
        let compression = super::stored_as(&self.config).filter(|_| is_first).unwrap_or(Compression::NONE);
        if pack(&mut self.compressor, compression, &sealed[last..], &mut packed).is_err() {
            // Whoever opened the log lacks the codec, or it was taken from the topic: plain will do.
            packed.truncate(last);
            packed.extend_from_slice(&sealed[last..]);
        }
        let left = self.active.as_ref().map_or(u64::MAX, |active| active.limit() - active.position());
        if packed.len() as u64 > left {
            // It was staged when the topic had no codec, and got longer by it.
            packed.clear();
            packed.extend_from_slice(sealed);
        }
        if probe::planted("staging.squeezed_in_place") {
            staged.squeeze(last, &packed[last..]);
            return;
        }
        self.tail.packed = Some(packed);
    }

    /// Makes sure that a batch of `len` bytes can be put behind what is staged, in the slot and later in the segment,
    /// and returns how long it may become; `None` if it is not to be staged.
    fn make_staging_room(
        &mut self,
        core: &Core,
        len: usize,
        last_offset: Offset,
        timestamp: Timestamp,
    ) -> Result<Option<usize>, Failure> {
        let (context, key) = (&core.context, core.key());
        if context.pool.refused().is_some() && !self.tail.has_slot() {
            return Ok(None);
        }
        let bound = self.packed_bound(len);
        if context.pool.refused().is_some() {
            // What was left is written, and nothing more staged.
            self.flush(core)?;
            self.give_slot_back(core);
            return Ok(None);
        }
        if !self.tail.has_slot() {
            let named = |id| {
                context.notes.name_arena(context.disk(), context.boot, id);
            };
            let Some(staged) = context.pool.take(context.disk(), key, named) else { return Ok(None) };
            self.tail = Tail { staged: Some(staged), ..Tail::default() };
            // Whoever does the background work is to come by when it has waited long enough.
            context.doorbell.ring();
        }
        // Its length may be that of an arena which another version, or other settings, made.
        if self.tail.staged.as_ref().is_none_or(|staged| len > staged.capacity()) {
            self.flush(core)?;
            return Ok(None);
        }
        let is_full = |writer: &Self| {
            let has_room = writer.tail.staged.as_ref().is_some_and(|staged| len <= staged.room());
            let entries = writer.active.as_ref().map_or(0, |active| active.index().room());
            !has_room || writer.tail.batch_count >= entries
        };
        let pending = self.tail.pending_len();
        let (is_full, rolls) = (is_full(self), self.must_roll(core, pending + bound as u64, last_offset, timestamp));
        if pending > 0 && (is_full || rolls) {
            self.write_staged(core, is_full && !rolls)?;
        }
        if self.tail.is_empty() {
            self.make_room(core, bound as u64, last_offset, timestamp)?;
            self.begin_lap(core, len)?;
        }
        let (Some(active), Some(staged)) = (&self.active, &self.tail.staged) else { return Ok(None) };
        let end = active.position() + staged.pending_len() as u64;
        let left = active.limit().min(self.config.segment_bytes as u64).saturating_sub(end);
        Ok(Some(self.unpacked_bound(left as usize).max(len).min(staged.room())))
    }

    /// Begins a lap that is to hold at least `len` bytes.
    fn begin_lap(&mut self, core: &Core, len: usize) -> Result<(), Failure> {
        let (Some(active), Some(staged)) = (&mut self.active, &mut self.tail.staged) else { return Ok(()) };
        // A kill must find nothing where the lap belongs but what belongs to it.
        if !probe::planted("staging.no_cut") {
            active.cut()?;
        }
        let lap = Lap {
            number: 0,
            topic: core.topic,
            partition: core.id.partition,
            end_before: self.end,
            segment_base: active.data().base(),
            position: active.position(),
            file: active.file_id().map_err(Failure::Refused)?,
        };
        staged.begin(lap, core.context.pool.layout().lap_len(lap.position, len, staged.capacity()));
        if core.has_stopped() {
            // A sync failed meanwhile: what the lap says of the file may be dropped.
            core.context.pool.void(core.key());
        }
        self.tail.since = core.context.clock.monotonic();
        self.tail.idle_since = None;
        probe::reached("staging.lap");
        Ok(())
    }

    /// How long a batch of `len` bytes may be once it is compressed: what cannot be compressed grows a little.
    fn packed_bound(&self, len: usize) -> usize {
        if self.codec().is_some() { packed_bound(len) } else { len }
    }

    /// How long a batch may be that is not longer than `len` once it is compressed.
    fn unpacked_bound(&self, len: usize) -> usize {
        if self.codec().is_some() { len.saturating_sub(PACKED_EXTRA) / 7 * 6 } else { len }
    }

    /// How long a batch of joined records may become, so that it is within the topic's limits in each of its forms.
    fn longest_joined(&self) -> usize {
        let limit = self.unpacked_bound(self.config.max_batch_bytes() as usize);
        match self.codec() {
            // Nobody could read a longer one.
            Some(_) => limit.min(BatchHeader::LEN + self.config.max_decompressed_bytes as usize),
            None => limit,
        }
    }

    /// The latest time of a record that still belongs into the segment that `at` belongs into.
    fn latest_joining(&self, at: Timestamp) -> Timestamp {
        let first = self.active.as_ref().and_then(|active| active.age_from().0).or(self.tail.first_timestamp());
        let from = first.filter(|first| first.is_some()).unwrap_or(at);
        if from.is_some() { Timestamp(from.0.saturating_add(self.roll_ms())) } else { Timestamp(i64::MAX) }
    }

    /// Copies of staged batches, from the one that holds `from` on, below `limit`; `None` if they are in the file by
    /// now, or there are none.
    pub(super) fn read_tail(
        &mut self,
        core: &Core,
        from: Offset,
        limit: Offset,
        max_bytes: usize,
    ) -> Result<Option<Piece>> {
        self.complete();
        if self.tail.staged.as_ref().is_some_and(Staged::awaits_codec) {
            self.pack();
            if self.has_begun() {
                match self.flush(core) {
                    Ok(()) => return Ok(None),
                    // What it was to be written as is what is read.
                    Err(Failure::Refused(_)) => probe::reached("staging.read_unwritten"),
                    Err(failure) => return Err(core.fail(failure)),
                }
            }
        }
        let Some(staged) = self.tail.staged.as_ref().filter(|staged| !staged.is_empty()) else { return Ok(None) };
        let Some(data) = core.last_segment() else { return Ok(None) };
        let bytes = self.tail.packed.as_deref().unwrap_or(staged.sealed());
        let mut taken: Option<(usize, usize, Offset)> = None;
        for (at, header) in headers(bytes).skip_while(|(_, header)| header.next_offset() <= from) {
            let end = at + header.batch_len as usize;
            let begin = taken.map_or(at, |(begin, ..)| begin);
            if header.next_offset() > limit || (taken.is_some() && end - begin > max_bytes) {
                break;
            }
            taken = Some((begin, end, header.next_offset()));
        }
        let Some((begin, end, next_offset)) = taken else { return Ok(None) };
        probe::reached("staging.read");
        Ok(Some(Piece {
            path: data.path().into(),
            bytes: Bytes::of(&bytes[begin..end]),
            position: data.len() + begin as u64,
            next_offset,
            is_vouched: true,
        }))
    }

    /// Does what is due: writes what has waited for `linger`, gives a slot back that was empty for as long. Returns how
    /// long until there is something to do again, if the partition has a slot.
    pub(super) fn tend(&mut self, core: &Core, now: Duration, linger: Duration) -> Result<Option<Duration>, Failure> {
        if !self.tail.has_slot() {
            return Ok(None);
        }
        let waited = |since: Duration| now.saturating_sub(since);
        if !self.tail.is_empty() {
            let waited = waited(self.tail.since);
            if waited < linger {
                return Ok(Some(linger - waited));
            }
            probe::reached("staging.lingered");
            self.flush(core)?;
        }
        let idle_since = *self.tail.idle_since.get_or_insert(now);
        if waited(idle_since) >= linger {
            self.give_slot_back(core);
            return Ok(None);
        }
        Ok(Some(linger - waited(idle_since)))
    }

    /// Gives the slot back, if it is empty. A note takes the place of its header.
    pub(super) fn give_slot_back(&mut self, core: &Core) {
        if !self.tail.has_slot() || !self.tail.is_empty() {
            return;
        }
        if self.has_begun() {
            self.note(core);
        }
        if let Some(staged) = self.tail.take_slot() {
            probe::reached("staging.given_back");
            core.context.pool.give(core.key(), staged);
        }
    }
}

impl Core {
    pub(crate) fn key(&self) -> Key {
        (self.topic, self.id.partition)
    }

    /// See [`Writer::tend`].
    pub(crate) fn tend_staging(&self, now: Duration, linger: Duration) -> Result<Option<Duration>> {
        let mut writer = self.lock();
        self.check()?;
        writer.tend(self, now, linger).map_err(|failure| self.fail(failure))
    }
}

/// The headers of whole batches, and where each begins.
pub(super) fn headers(batches: &[u8]) -> impl Iterator<Item = (usize, BatchHeader)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let batch = BatchRef::framed(batches.get(at..)?).ok()?;
        let found = (at, *batch.header());
        at += batch.bytes().len();
        Some(found)
    })
}

/// The longest form that a batch of `len` bytes has after compression.
pub(super) fn packed_bound(len: usize) -> usize {
    len + len / 6 + PACKED_EXTRA
}

/// Offsets are stored relative to the base of their segment, in 31 bits.
pub(super) const MAX_RELATIVE: u64 = i32::MAX as u64;
/// What a codec adds at most to a batch, beside a sixth of it.
const PACKED_EXTRA: usize = 64;
