//! The staged tail: records that were acknowledged and are not in the segment file yet, in one slot of the arena.
//!
//! ```text
//! word                 lap          batches, in the segment's own form and order
//! (sealed, open)  flag |-- header --|-- in the file --|-- sealed --|-- open batch --|-- room --|
//!                                   0               done         sealed            open
//! ```
//!
//! The word is the acknowledgement: whatever lies below the ends it names is part of the log, also if this process dies
//! at the next instruction. A word of 0 is an empty slot, whatever else is in there.
//!
//! Invariants, which hold between any two stores:
//! - Bytes are there before the word covers them. What the word covers is not moved or changed, except that sealing
//!   completes the header of the open batch; until the word moves on, nobody believes more of it than it began with.
//! - A new lap begins with a word of 0, then its header, then bytes.
//! - The word is 0 before any byte that follows the lap reaches the file, and not before the file has what it covers.

use std::ops::Range;

use crate::disk::marks::Lap;
use crate::error::Result;
use crate::probe;
use crate::record::{BatchHeader, BatchRef, Codec, OpenBatch, Record, Sender, check_records};
use crate::sys::Slot;
use crate::types::{LeaderEpoch, Offset, Timestamp, TopicId};
use crate::wire::Invalid;

/// A slot in the hand of the one partition that stages in it.
#[derive(Debug)]
pub(crate) struct Staged {
    slot: Slot,
    lap: Lap,
    /// How long the lap may become.
    lap_len: usize,
    word: Word,
    /// How much of the sealed part is in the file.
    done: usize,
    open: Option<Open>,
}

/// The batch that records join.
#[derive(Debug)]
struct Open {
    batch: OpenBatch,
    limits: Limits,
}

/// How far a batch may grow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Its length, in bytes.
    pub(crate) len: usize,
    pub(crate) count: u64,
    /// No record may be older or younger: one time serves all, or the segment would span more than it should.
    pub(crate) earliest: Timestamp,
    pub(crate) latest: Timestamp,
}

/// Where what ends. Kept in the slot as one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Word {
    sealed: usize,
    open: usize,
    /// Whether the last sealed batch is still to be compressed.
    awaits_codec: bool,
}

impl Word {
    fn encode(self) -> u64 {
        (u64::from(self.awaits_codec) << 63) | ((self.sealed as u64) << 31) | self.open as u64
    }

    fn decode(word: u64) -> Self {
        let mask = (1 << 31) - 1;
        Self { sealed: (word >> 31 & mask) as usize, open: (word & mask) as usize, awaits_codec: word >> 63 != 0 }
    }
}

impl Staged {
    /// Where the batches of a slot begin.
    pub(crate) const BATCHES_AT: usize = LAP_AT + Lap::LEN;

    /// A slot that was just handed out: empty, and of no lap yet.
    pub(crate) fn new(slot: Slot, number: u64) -> Self {
        let lap = Lap { number, ..NO_LAP };
        Self { slot, lap, lap_len: 0, word: Word::default(), done: 0, open: None }
    }

    /// Gives the slot back, which must be empty.
    pub(crate) fn into_slot(self) -> Slot {
        self.slot
    }

    /// Room for batches in an empty slot, in bytes.
    pub(crate) fn capacity(&self) -> usize {
        self.slot.len() - Self::BATCHES_AT
    }

    /// Room for another sealed batch of this lap, in bytes.
    pub(crate) fn room(&self) -> usize {
        self.lap_len.saturating_sub(self.word.open)
    }

    /// How many bytes the file lacks.
    pub(crate) fn pending_len(&self) -> usize {
        self.word.open - self.done
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending_len() == 0
    }

    /// Begins a lap, of at most `lap_len` bytes that belong where `lap` says. The slot is empty, and has as much room.
    pub(crate) fn begin(&mut self, lap: Lap, lap_len: usize) {
        debug_assert!(self.is_empty(), "what is staged would be lost");
        let lap = Lap { number: self.lap.number + 1, ..lap };
        if probe::planted("staging.header_before_word") {
            self.slot.fill(LAP_AT, Lap::LEN, |bytes| bytes.copy_from_slice(&lap.encode()));
            self.set_word(Word::default());
        } else {
            self.clear();
            self.slot.fill(LAP_AT, Lap::LEN, |bytes| bytes.copy_from_slice(&lap.encode()));
        }
        self.lap = lap;
        self.lap_len = lap_len.min(self.capacity());
        (self.done, self.open) = (0, None);
    }

    /// Empties the slot: the file has all that was staged, or nobody wants it any more.
    pub(crate) fn clear(&mut self) {
        if probe::planted("staging.header_before_word") {
            // That is left to the next lap, which has it behind its header.
            (self.done, self.open) = (self.word.open, None);
            return;
        }
        if self.word != Word::default() {
            self.set_word(Word::default());
        }
        (self.done, self.open) = (0, None);
    }

    fn set_word(&mut self, word: Word) {
        self.word = word;
        self.slot.set_word(word.encode());
    }

    /// Adds `record` of `sender`, with the time `at`, to the open batch; `None` if there is none that it can join.
    ///
    /// # Errors
    ///
    /// [`TooLong`](crate::Error::TooLong) if it cannot be stored in any batch.
    #[inline]
    pub(crate) fn join(&mut self, record: &Record<'_>, sender: Sender, at: Timestamp) -> Result<Option<Offset>> {
        let Some(open) = self.open.as_mut().filter(|open| open.batch.sender() == sender) else { return Ok(None) };
        let len = open.batch.len_of(record, at)?;
        let (begin, end) = (self.word.sealed, self.word.open);
        let fits = end - begin + len.whole <= open.limits.len
            && (open.batch.count() as u64) < open.limits.count
            && open.limits.earliest <= at
            && at <= open.limits.latest;
        if !fits {
            return Ok(None);
        }
        let offset = open.batch.next_offset();
        let word = Word { open: end + len.whole, ..self.word };
        if probe::planted("staging.word_before_bytes") {
            self.slot.set_word(word.encode());
        }
        let batch = &mut open.batch;
        self.slot.fill(Self::BATCHES_AT + end, len.whole, |bytes| batch.push(record, at, len, bytes));
        self.set_word(word);
        Ok(Some(offset))
    }

    /// Begins a batch of which `record` is the first. The caller has made sure that it fits.
    ///
    /// # Errors
    ///
    /// [`TooLong`](crate::Error::TooLong) if the record cannot be stored in any batch.
    pub(crate) fn open(
        &mut self,
        mut batch: OpenBatch,
        record: &Record<'_>,
        at: Timestamp,
        limits: Limits,
    ) -> Result<()> {
        debug_assert!(self.open.is_none());
        let len = batch.len_of(record, at)?;
        let begin = self.word.open;
        let (head, whole) = (batch.head(), BatchHeader::LEN + len.whole);
        self.slot.fill(Self::BATCHES_AT + begin, whole, |bytes| {
            let (front, body) = bytes.split_at_mut(BatchHeader::LEN);
            front.copy_from_slice(&head);
            batch.push(record, at, len, body);
        });
        self.open = Some(Open { batch, limits: Limits { len: limits.len.min(self.room()), ..limits } });
        // The word still says where the sealed part ends: an open batch begins there.
        self.set_word(Word { sealed: begin, open: begin + whole, awaits_codec: self.word.awaits_codec });
        Ok(())
    }

    /// Puts a whole batch behind what is there. There is room, and no open batch.
    pub(crate) fn copy(&mut self, batch: &[u8]) {
        debug_assert!(self.open.is_none());
        let end = self.word.open;
        self.slot.fill(Self::BATCHES_AT + end, batch.len(), |bytes| bytes.copy_from_slice(batch));
        let end = end + batch.len();
        self.set_word(Word { sealed: end, open: end, awaits_codec: self.word.awaits_codec });
    }

    /// Completes the open batch, so that it stands as it will in the file, unless it is still to be compressed. Returns
    /// its header, or `None` if there is no open batch.
    pub(crate) fn seal(&mut self, awaits_codec: bool) -> Option<BatchHeader> {
        let open = self.open.take()?;
        let (begin, end) = (self.word.sealed, self.word.open);
        let header = self.slot.fill(Self::BATCHES_AT + begin, end - begin, |bytes| open.batch.seal(bytes));
        self.set_word(Word { sealed: end, open: end, awaits_codec });
        Some(header)
    }

    /// Whether the records of the open batch are numbered by a producer.
    pub(crate) fn has_sender(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.batch.sender().is_some())
    }

    /// How many records the open batch has, and how long it is.
    pub(crate) fn joined(&self) -> (u64, usize) {
        self.open.as_ref().map_or((0, 0), |open| (open.batch.count() as u64, self.word.open - self.word.sealed))
    }

    /// Whether the last sealed batch is still to be compressed.
    pub(crate) fn awaits_codec(&self) -> bool {
        self.word.awaits_codec
    }

    /// The sealed batches that the file lacks.
    pub(crate) fn sealed(&self) -> &[u8] {
        self.slot.bytes(self.range(self.done..self.word.sealed))
    }

    /// The same, with as many zeros behind them as there is room for, at most `count`.
    pub(crate) fn sealed_and_zeros(&mut self, count: usize) -> &[u8] {
        let end = self.word.open;
        let count = count.min(self.capacity() - end);
        self.slot.fill(Self::BATCHES_AT + end, count, |bytes| bytes.fill(0));
        self.slot.bytes(self.range(self.done..end + count))
    }

    fn range(&self, range: Range<usize>) -> Range<usize> {
        Self::BATCHES_AT + range.start..Self::BATCHES_AT + range.end
    }

    /// Overwrites the last sealed batch with a shorter form of it. Nothing right does that: see the planted mistake.
    pub(crate) fn squeeze(&mut self, from: usize, packed: &[u8]) {
        let begin = self.done + from;
        self.slot.fill(Self::BATCHES_AT + begin, packed.len(), |bytes| bytes.copy_from_slice(packed));
        let end = begin + packed.len();
        self.set_word(Word { sealed: end, open: end, awaits_codec: false });
    }
}

/// A slot that a process left behind.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) lap: Lap,
    word: Word,
    slot: Slot,
}

/// What a lap holds, as far as it concerns whoever goes on with it.
#[derive(Debug, Clone)]
pub(crate) struct Replayed {
    /// The headers of its batches, and where each begins among them; the open one is sealed here.
    pub(crate) batches: Vec<(usize, BatchHeader)>,
    /// The end of the partition with it.
    pub(crate) end: Offset,
    /// The latest leader epoch.
    epoch: LeaderEpoch,
    /// Where the batches end, in bytes from the first one.
    len: usize,
    open: Option<OpenBatch>,
    awaits_codec: bool,
}

impl Left {
    /// Reads the head of a slot: its lap, if that is whole.
    pub(crate) fn lap_of(slot: &Slot) -> Option<Lap> {
        Lap::decode(slot.bytes(LAP_AT..LAP_AT + Lap::LEN)).ok().flatten()
    }

    /// How many bytes of batches are staged in a slot that begins with `head`, as its word says.
    pub(crate) fn staged_len(head: &[u8; Staged::BATCHES_AT]) -> usize {
        head.first_chunk().map_or(0, |word| Word::decode(u64::from_ne_bytes(*word)).open)
    }

    /// Whether nothing is staged in a slot, whatever bytes are in it.
    pub(crate) fn is_empty(slot: &Slot) -> bool {
        slot.word() == 0 && !probe::planted("staging.stale_lap_replayed")
    }

    /// The slot, if anything is staged in it.
    pub(crate) fn new(slot: Slot, lap: Lap) -> Self {
        let mut word = Word::decode(slot.word());
        if word == Word::default() && !Self::is_empty(&slot) {
            let bytes = slot.bytes(Staged::BATCHES_AT..slot.len());
            while let Ok(batch) = BatchRef::verify(&bytes[word.sealed..]) {
                word.sealed += batch.bytes().len();
                word.open = word.sealed;
            }
        }
        Self { lap, word, slot }
    }

    /// Gives the slot back, whatever was staged in it.
    pub(crate) fn into_slot(mut self) -> Slot {
        self.slot.set_word(0);
        self.slot
    }

    /// The bytes of the batches, the open one as far as it had come.
    pub(crate) fn bytes(&self) -> &[u8] {
        let end = self.word.open.min(self.slot.len() - Staged::BATCHES_AT);
        self.slot.bytes(Staged::BATCHES_AT..Staged::BATCHES_AT + end)
    }

    /// Reads and verifies everything that was staged.
    ///
    /// # Errors
    ///
    /// What is wrong, and where: all of it was acknowledged.
    pub(crate) fn replay(&self) -> Result<Replayed, Invalid> {
        let bytes = self.bytes();
        let Word { sealed, open: end, awaits_codec } = self.word;
        // A bit that means nothing yet means something to whoever set it.
        let is_known = self.slot.word() == 0 || self.word.encode() == self.slot.word();
        if sealed > end || end > bytes.len() || !is_known {
            return Err(Invalid { at: 0, what: "ends outside of the slot" });
        }
        let mut replayed = Replayed {
            batches: Vec::new(),
            end: self.lap.end_before,
            epoch: LeaderEpoch::NONE,
            len: end,
            open: None,
            awaits_codec,
        };
        let mut at = 0;
        while at < sealed {
            let inside = |invalid: Invalid| Invalid { at: at + invalid.at, ..invalid };
            let batch = BatchRef::verify(&bytes[at..sealed]).map_err(inside)?;
            // Readers believe what this process has in its hands. What is compressed they look at each time.
            if batch.header().codec() == Ok(Codec::None) {
                check_records(batch.header(), batch.body()).map_err(inside)?;
            }
            replayed.take(at, *batch.header())?;
            at += batch.bytes().len();
        }
        if sealed < end {
            let inside = |invalid: Invalid| Invalid { at: sealed + invalid.at, ..invalid };
            let open = OpenBatch::replay(&bytes[sealed..]).map_err(inside)?;
            let mut whole = bytes[sealed..].to_vec();
            replayed.take(sealed, open.seal(&mut whole))?;
            replayed.open = Some(open);
        }
        Ok(replayed)
    }

    /// Goes on with the lap: the open batch is sealed, and the file has the first `done` bytes of it. With a codec, the
    /// batch that was open awaits it.
    pub(crate) fn adopt(self, replayed: &Replayed, done: usize, has_codec: bool) -> Staged {
        let Self { lap, word, slot } = self;
        let mut staged = Staged { slot, lap, lap_len: 0, word, done, open: None };
        staged.lap_len = staged.capacity();
        if let Some(batch) = replayed.open {
            let limits = Limits { len: 0, count: 0, earliest: Timestamp::NONE, latest: Timestamp::NONE };
            staged.open = Some(Open { batch, limits });
            staged.seal(has_codec);
        }
        staged
    }
}

impl Replayed {
    fn take(&mut self, at: usize, header: BatchHeader) -> Result<(), Invalid> {
        if header.base_offset != self.end {
            return Err(Invalid { at, what: "batch out of order" });
        }
        header.check_range()?;
        // Under no checksum, in a file as here.
        if header.leader_epoch < self.epoch && header.leader_epoch != LeaderEpoch::NONE {
            return Err(Invalid { at, what: "leader epoch falls" });
        }
        self.epoch = self.epoch.max(header.leader_epoch);
        self.end = header.next_offset();
        self.batches.push((at, header));
        Ok(())
    }

    /// Where in the lap the batch that begins at `offset` lies, or the end of the lap; `None` if there is no such place.
    pub(crate) fn position_of(&self, offset: Offset) -> Option<usize> {
        if offset == self.end {
            return Some(self.len);
        }
        self.batches.iter().find(|(_, header)| header.base_offset == offset).map(|(at, _)| *at)
    }

    /// Whether the last batch may stand in the file in another form, compressed.
    pub(crate) fn may_be_packed(&self) -> bool {
        self.awaits_codec && self.open.is_none()
    }
}

const LAP_AT: usize = Slot::BYTES_AT;

const NO_LAP: Lap = Lap {
    number: 0,
    topic: TopicId::from_bytes([0; 16]),
    partition: 0,
    end_before: Offset::ZERO,
    segment_base: Offset::ZERO,
    position: 0,
    file: crate::disk::FileId { device: 0, inode: 0, born: 0 },
};

#[cfg(test)]
mod tests;
