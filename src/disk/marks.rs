//! Two small records of ours about how far a partition had come: *sync marks* and *notes*.
//!
//! Both are kept in two slots that are written in turn, in place. A write that is torn spoils one slot and leaves the
//! other, which holds what was true one write before. A slot carries its own CRC-32, over all of its other bytes, and
//! a sequence number that says which of the two is newer.
//!
//! A **sync mark** is on the last page of the active segment of a durable topic. It says up to where a sync that
//! succeeded has covered the file. Its slots are 2048 bytes apart: a torn sector never holds both.
//!
//! ```text
//! page    0          512                2048       2560               4096
//!         | slot A   |  zeros           | slot B   |  zeros           |
//! ```
//!
//! A **note** is in the file `notes` of the log. It says up to where the file of a partition was written and found
//! whole, and counts only in the boot that wrote it: it is never synced, and sectors do not matter.
//!
//! ```text
//! notes   0          256        416        576        736
//!         | header   | slot A   | slot B   | slot A   | slot B   |  ...
//!         |          |     partition entry 0     |     partition entry 1     |
//! ```
//!
//! All numbers are big-endian. A slot of either kind:
//!
//! | Byte | Size | Field    | Notes                                                       |
//! |-----:|-----:|----------|-------------------------------------------------------------|
//! |    0 |    4 | magic    | `cLsm` for a sync mark, `cLno` for a note, `cLnh` header     |
//! |    4 |    4 | version  | 1                                                           |
//! |    8 |    n | body     | below                                                       |
//! |      |      | zeros    |                                                             |
//! | last |    4 | CRC-32   | of all bytes before it                                      |
//!
//! Magic, version and CRC keep their places in every later version, so that a newer one is told from a damaged one.

use super::{BootId, FileId};
use crate::checksum::{Digest, crc32};
use crate::types::{Offset, Timestamp, TopicId};
use crate::wire::{Invalid, Reader};

/// Up to where a segment is proven to be on the disk, and who saw it.
///
/// | Byte | Size | Field                                            |
/// |-----:|-----:|--------------------------------------------------|
/// |    8 |    8 | sequence                                         |
/// |   16 |    8 | base offset of the segment                       |
/// |   24 |    8 | position: the first byte that is not proven      |
/// |   32 |    8 | offset of the batch that begins there, or would  |
/// |   40 |   16 | boot                                             |
/// |   56 |   24 | file: device, inode, birth time                  |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SyncMark {
    pub(crate) sequence: u64,
    pub(crate) segment_base: Offset,
    pub(crate) position: u64,
    pub(crate) offset: Offset,
    pub(crate) boot: BootId,
    /// The file it is in: a copy has other sectors than those it speaks of.
    pub(crate) file: FileId,
}

impl SyncMark {
    /// The length of the page at the end of the segment file.
    pub(crate) const PAGE_LEN: usize = 4096;
    /// The length of one slot: the least a disk writes at once.
    pub(crate) const SLOT_LEN: usize = 512;
    const SLOT_B_AT: usize = 2048;

    /// Picks the newer valid mark of a page; `None` if it has none.
    pub(crate) fn best(page: &[u8]) -> Result<Option<Self>, UnknownVersion> {
        best([slot_at(page, 0, Self::SLOT_LEN), slot_at(page, Self::SLOT_B_AT, Self::SLOT_LEN)])
    }

    /// Whether the page holds the first part of one mark, and zeros: what a kill leaves of the first mark.
    pub(crate) fn is_begun(page: &[u8]) -> bool {
        // The first one has the sequence 1.
        let slot = Self::SLOT_B_AT..Self::SLOT_B_AT + Self::SLOT_LEN;
        let written: Vec<usize> = (0..page.len()).filter(|at| page[*at] != 0).collect();
        let is_in_place = |at: &usize| match at.checked_sub(slot.start).and_then(|at| Self::MAGIC.get(at)) {
            Some(byte) => page[*at] == *byte,
            None => slot.contains(at),
        };
        written.first() == Some(&slot.start) && written.iter().all(is_in_place)
    }

    /// Where in its page this mark belongs: not where the one before it is.
    pub(crate) fn slot_at(&self) -> usize {
        if self.sequence & 1 == 0 { 0 } else { Self::SLOT_B_AT }
    }

    pub(crate) fn encode(&self) -> [u8; Self::SLOT_LEN] {
        let mut slot = [0; Self::SLOT_LEN];
        seal(&mut slot, self);
        slot
    }
}

impl Numbered for SyncMark {
    fn sequence(&self) -> u64 {
        self.sequence
    }
}

impl Slot for SyncMark {
    const MAGIC: [u8; 4] = *b"cLsm";
    const BODY_LEN: usize = 72;

    fn put(&self, into: &mut Put<'_>) {
        into.u64(self.sequence);
        into.u64(self.segment_base.0);
        into.u64(self.position);
        into.u64(self.offset.0);
        into.bytes(&self.boot.0);
        into.file(self.file);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Invalid> {
        Ok(Self {
            sequence: from.u64()?,
            segment_base: offset(from)?,
            position: from.u64()?,
            offset: offset(from)?,
            boot: BootId(array(from)?),
            file: file(from)?,
        })
    }
}

/// Up to where the file of a partition was found or written whole, in one boot.
///
/// | Byte | Size | Field                                                    |
/// |-----:|-----:|----------------------------------------------------------|
/// |    8 |    8 | sequence                                                 |
/// |   16 |   16 | topic id                                                 |
/// |   32 |    4 | partition                                                |
/// |   36 |   16 | boot                                                     |
/// |   52 |   24 | file: device, inode, birth time                          |
/// |   76 |    8 | base offset of the segment                               |
/// |   84 |    8 | position: the first byte that is not vouched for         |
/// |   92 |    8 | offset of the batch that begins there, or would          |
/// |  100 |    1 | 1 if any producer was known, else 0                      |
/// |  101 |    8 | length and CRC-32 of the `.index` as written so far      |
/// |  109 |    8 | the same of the `.timeindex`                             |
/// |  117 |   16 | largest timestamp of the segment, -1 if none, its offset |
/// |  133 |    8 | bytes of batches since the last entry of the `.index`    |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) sequence: u64,
    pub(crate) topic: TopicId,
    pub(crate) partition: u32,
    pub(crate) boot: BootId,
    pub(crate) file: FileId,
    pub(crate) segment_base: Offset,
    pub(crate) position: u64,
    pub(crate) offset: Offset,
    pub(crate) has_producers: bool,
    /// The index files of the segment, which are worth as much as the position: this boot's system has them.
    pub(crate) index: Digest,
    pub(crate) time_index: Digest,
    pub(crate) largest: Option<(Timestamp, Offset)>,
    pub(crate) since_last: u64,
}

impl Note {
    /// The length of one slot.
    pub(crate) const SLOT_LEN: usize = 160;
    /// The length of the two slots of one partition. Zeros erase both.
    pub(crate) const ENTRY_LEN: usize = 2 * Self::SLOT_LEN;

    /// Where in the file the entry number `index` begins.
    pub(crate) fn entry_at(index: u32) -> u64 {
        (NotesHeader::LEN + Self::ENTRY_LEN * index as usize) as u64
    }

    /// Picks the newer valid note of an entry; `None` if it has none.
    pub(crate) fn best(entry: &[u8]) -> Result<Option<Self>, UnknownVersion> {
        best([slot_at(entry, 0, Self::SLOT_LEN), slot_at(entry, Self::SLOT_LEN, Self::SLOT_LEN)])
    }

    /// Where in its entry this note belongs: not where the one before it is.
    pub(crate) fn slot_at(&self) -> usize {
        if self.sequence & 1 == 0 { 0 } else { Self::SLOT_LEN }
    }

    pub(crate) fn encode(&self) -> [u8; Self::SLOT_LEN] {
        let mut slot = [0; Self::SLOT_LEN];
        seal(&mut slot, self);
        slot
    }
}

impl Numbered for Note {
    fn sequence(&self) -> u64 {
        self.sequence
    }
}

impl Slot for Note {
    const MAGIC: [u8; 4] = *b"cLno";
    const BODY_LEN: usize = 133;

    fn put(&self, into: &mut Put<'_>) {
        into.u64(self.sequence);
        into.bytes(self.topic.as_bytes());
        into.bytes(&self.partition.to_be_bytes());
        into.bytes(&self.boot.0);
        into.file(self.file);
        into.u64(self.segment_base.0);
        into.u64(self.position);
        into.u64(self.offset.0);
        into.bytes(&[u8::from(self.has_producers)]);
        for digest in [self.index, self.time_index] {
            into.bytes(&digest.len.to_be_bytes());
            into.bytes(&digest.crc.to_be_bytes());
        }
        let (timestamp, at) = self.largest.unwrap_or((Timestamp::NONE, Offset::ZERO));
        into.u64(timestamp.0 as u64);
        into.u64(at.0);
        into.u64(self.since_last);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Invalid> {
        Ok(Self {
            sequence: from.u64()?,
            topic: TopicId::from_bytes(array(from)?),
            partition: from.u32()?,
            boot: BootId(array(from)?),
            file: file(from)?,
            segment_base: offset(from)?,
            position: from.u64()?,
            offset: offset(from)?,
            has_producers: match from.u8()? {
                0 => false,
                1 => true,
                _ => return Err(from.invalid("neither 0 nor 1")),
            },
            index: Digest { len: from.u32()?, crc: from.u32()? },
            time_index: Digest { len: from.u32()?, crc: from.u32()? },
            largest: {
                let (timestamp, at) = (Timestamp(from.i64()?), offset(from)?);
                timestamp.is_some().then_some((timestamp, at))
            },
            since_last: from.u64()?,
        })
    }
}

/// The head of the file `notes`: which log it belongs to. One slot; its body is the id of the log, 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotesHeader {
    pub(crate) log: [u8; 16],
}

impl NotesHeader {
    pub(crate) const LEN: usize = 256;

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        let mut slot = [0; Self::LEN];
        seal(&mut slot, self);
        slot
    }

    /// Reads the head of a file; `None` if it is cut short, damaged, or no file of notes.
    pub(crate) fn decode(file: &[u8]) -> Result<Option<Self>, UnknownVersion> {
        open(slot_at(file, 0, Self::LEN))
    }
}

impl Slot for NotesHeader {
    const MAGIC: [u8; 4] = *b"cLnh";
    const BODY_LEN: usize = 16;

    fn put(&self, into: &mut Put<'_>) {
        into.bytes(&self.log);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Invalid> {
        Ok(Self { log: array(from)? })
    }
}

/// The head of the file `staging`: whose it is, and how it is laid out. One slot.
///
/// | Byte | Size | Field                                    |
/// |-----:|-----:|------------------------------------------|
/// |    8 |   16 | log id                                   |
/// |   24 |   16 | boot                                     |
/// |   40 |   24 | this file: device, inode, birth time     |
/// |   64 |    4 | length of a slot                         |
/// |   68 |    4 | how many slots                           |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ArenaHeader {
    pub(crate) log: [u8; 16],
    pub(crate) boot: BootId,
    pub(crate) file: FileId,
    pub(crate) slot_len: u32,
    pub(crate) slot_count: u32,
}

impl ArenaHeader {
    /// The length of the header, and where the first slot begins: a page.
    pub(crate) const LEN: usize = 4096;

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        let mut slot = [0; Self::LEN];
        seal(&mut slot, self);
        slot
    }

    /// Reads the head of a file; `None` if it is cut short, damaged, or of something else.
    pub(crate) fn decode(file: &[u8]) -> Result<Option<Self>, UnknownVersion> {
        open(slot_at(file, 0, Self::LEN))
    }
}

impl Slot for ArenaHeader {
    const MAGIC: [u8; 4] = *b"cLar";
    const BODY_LEN: usize = 64;

    fn put(&self, into: &mut Put<'_>) {
        into.bytes(&self.log);
        into.bytes(&self.boot.0);
        into.file(self.file);
        into.bytes(&self.slot_len.to_be_bytes());
        into.bytes(&self.slot_count.to_be_bytes());
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Invalid> {
        Ok(Self {
            log: array(from)?,
            boot: BootId(array(from)?),
            file: file(from)?,
            slot_len: from.u32()?,
            slot_count: from.u32()?,
        })
    }
}

/// The head of one slot of `staging`: where the bytes that follow it belong.
///
/// | Byte | Size | Field                                                        |
/// |-----:|-----:|--------------------------------------------------------------|
/// |    8 |    8 | lap: how often the slot was begun                            |
/// |   16 |   16 | topic id                                                     |
/// |   32 |    4 | partition                                                    |
/// |   36 |    8 | end of the partition before this lap                         |
/// |   44 |    8 | base offset of the segment                                   |
/// |   52 |    8 | position in it: everything before is in the file             |
/// |   60 |   24 | the file of the segment: device, inode, birth time           |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lap {
    pub(crate) number: u64,
    pub(crate) topic: TopicId,
    pub(crate) partition: u32,
    pub(crate) end_before: Offset,
    pub(crate) segment_base: Offset,
    pub(crate) position: u64,
    pub(crate) file: FileId,
}

impl Lap {
    pub(crate) const LEN: usize = 128;

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        let mut slot = [0; Self::LEN];
        seal(&mut slot, self);
        slot
    }

    /// Reads the head of a slot; `None` if it is damaged, or was never written.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Option<Self>, UnknownVersion> {
        open(slot_at(bytes, 0, Self::LEN))
    }
}

impl Slot for Lap {
    const MAGIC: [u8; 4] = *b"cLlp";
    const BODY_LEN: usize = 76;

    fn put(&self, into: &mut Put<'_>) {
        into.u64(self.number);
        into.bytes(self.topic.as_bytes());
        into.bytes(&self.partition.to_be_bytes());
        into.u64(self.end_before.0);
        into.u64(self.segment_base.0);
        into.u64(self.position);
        into.file(self.file);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Invalid> {
        Ok(Self {
            number: from.u64()?,
            topic: TopicId::from_bytes(array(from)?),
            partition: from.u32()?,
            end_before: offset(from)?,
            segment_base: offset(from)?,
            position: from.u64()?,
            file: file(from)?,
        })
    }
}

/// Which file `staging` is in use, so that one that is missing is missed. Lies among the notes, in an entry of its own.
///
/// | Byte | Size | Field                                                   |
/// |-----:|-----:|---------------------------------------------------------|
/// |    8 |    8 | sequence                                                |
/// |   16 |   16 | boot                                                    |
/// |   32 |   24 | the file `staging`: device, inode, birth time; zeros if there is none now |
/// |   56 |   24 | the file of the notes itself: in a copy it is another   |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ArenaNote {
    pub(crate) sequence: u64,
    pub(crate) boot: BootId,
    pub(crate) arena: FileId,
    pub(crate) notes: FileId,
}

impl ArenaNote {
    /// Picks the newer valid one of an entry; `None` if it has none.
    pub(crate) fn best(entry: &[u8]) -> Result<Option<Self>, UnknownVersion> {
        best([slot_at(entry, 0, Note::SLOT_LEN), slot_at(entry, Note::SLOT_LEN, Note::SLOT_LEN)])
    }

    pub(crate) fn slot_at(&self) -> usize {
        if self.sequence & 1 == 0 { 0 } else { Note::SLOT_LEN }
    }

    pub(crate) fn encode(&self) -> [u8; Note::SLOT_LEN] {
        let mut slot = [0; Note::SLOT_LEN];
        seal(&mut slot, self);
        slot
    }
}

impl Numbered for ArenaNote {
    fn sequence(&self) -> u64 {
        self.sequence
    }
}

impl Slot for ArenaNote {
    const MAGIC: [u8; 4] = *b"cLna";
    const BODY_LEN: usize = 72;

    fn put(&self, into: &mut Put<'_>) {
        into.u64(self.sequence);
        into.bytes(&self.boot.0);
        into.file(self.arena);
        into.file(self.notes);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, Invalid> {
        Ok(Self { sequence: from.u64()?, boot: BootId(array(from)?), arena: file(from)?, notes: file(from)? })
    }
}

/// A slot that verifies, of a version this build does not know: [`VERSION`] is the newest it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnknownVersion(pub(crate) u32);

/// The newest version of slots that this build reads, and the one it writes.
pub(crate) const VERSION: u32 = 1;

/// What a slot can hold.
trait Slot: Sized {
    const MAGIC: [u8; 4];
    const BODY_LEN: usize;
    fn put(&self, into: &mut Put<'_>);
    fn take(from: &mut Reader<'_>) -> Result<Self, Invalid>;
}

/// One of two slots that are written in turn.
trait Numbered: Slot {
    fn sequence(&self) -> u64;
}

/// The newer of two slots. Either may be damaged; neither may be of an unknown version.
fn best<T: Numbered>(slots: [&[u8]; 2]) -> Result<Option<T>, UnknownVersion> {
    let [a, b] = slots;
    Ok(match (open::<T>(a)?, open::<T>(b)?) {
        (Some(a), Some(b)) if is_newer(b.sequence(), a.sequence()) => Some(b),
        (Some(a), _) => Some(a),
        (None, b) => b,
    })
}

/// Whether `sequence` comes after `other`. Only their distance counts, so a sequence may wrap around.
fn is_newer(sequence: u64, other: u64) -> bool {
    (sequence.wrapping_sub(other) as i64) > 0
}

fn seal<T: Slot>(slot: &mut [u8], content: &T) {
    let mut put = Put { slot: &mut *slot, at: 0 };
    put.bytes(&T::MAGIC);
    put.bytes(&VERSION.to_be_bytes());
    content.put(&mut put);
    debug_assert_eq!(put.at, BODY_AT + T::BODY_LEN);
    let crc_at = slot.len() - CRC_LEN;
    let crc = crc32(&slot[..crc_at]);
    slot[crc_at..].copy_from_slice(&crc.to_be_bytes());
}

fn open<T: Slot>(slot: &[u8]) -> Result<Option<T>, UnknownVersion> {
    let Some((sealed, crc)) = slot.split_last_chunk::<CRC_LEN>() else { return Ok(None) };
    if !sealed.starts_with(&T::MAGIC) || crc32(sealed) != u32::from_be_bytes(*crc) {
        return Ok(None);
    }
    let mut reader = Reader::new(&sealed[T::MAGIC.len()..]);
    match reader.u32() {
        Ok(VERSION) => {}
        Ok(version) => return Err(UnknownVersion(version)),
        Err(_) => return Ok(None),
    }
    let Ok(content) = T::take(&mut reader) else { return Ok(None) };
    let rest_is_zero = reader.take(reader.remaining()).is_ok_and(|rest| rest.iter().all(|byte| *byte == 0));
    Ok(rest_is_zero.then_some(content))
}

/// The slot at `at`, or as much of it as is there.
fn slot_at(bytes: &[u8], at: usize, len: usize) -> &[u8] {
    bytes.get(at..at + len).unwrap_or_default()
}

fn offset(from: &mut Reader<'_>) -> Result<Offset, Invalid> {
    let value = from.i64()?;
    Offset::from_wire(value).ok_or_else(|| from.invalid("negative offset"))
}

fn file(from: &mut Reader<'_>) -> Result<FileId, Invalid> {
    Ok(FileId { device: from.u64()?, inode: from.u64()?, born: from.u64()? })
}

fn array(from: &mut Reader<'_>) -> Result<[u8; 16], Invalid> {
    let bytes = from.take(16)?;
    bytes.try_into().map_err(|_| from.invalid("not 16 bytes"))
}

/// A cursor that fills a slot. Slots are longer than what is put into them.
struct Put<'a> {
    slot: &'a mut [u8],
    at: usize,
}

impl Put<'_> {
    fn file(&mut self, file: FileId) {
        self.u64(file.device);
        self.u64(file.inode);
        self.u64(file.born);
    }

    fn u64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.slot[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }
}

const BODY_AT: usize = 8;
const CRC_LEN: usize = 4;

const _: () = assert!(SyncMark::SLOT_B_AT + SyncMark::SLOT_LEN <= SyncMark::PAGE_LEN);
const _: () = assert!(BODY_AT + SyncMark::BODY_LEN + CRC_LEN <= SyncMark::SLOT_LEN);
const _: () = assert!(BODY_AT + Note::BODY_LEN + CRC_LEN <= Note::SLOT_LEN);
const _: () = assert!(BODY_AT + ArenaHeader::BODY_LEN + CRC_LEN <= ArenaHeader::LEN);
const _: () = assert!(BODY_AT + Lap::BODY_LEN + CRC_LEN <= Lap::LEN);
const _: () = assert!(BODY_AT + ArenaNote::BODY_LEN + CRC_LEN <= Note::SLOT_LEN);
const _: () = assert!(BODY_AT + NotesHeader::BODY_LEN + CRC_LEN <= NotesHeader::LEN);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_newer_mark_counts_and_the_older_one_is_kept() {
        let mut page = [0; SyncMark::PAGE_LEN];
        assert_eq!(SyncMark::best(&page), Ok(None), "a page of zeros");
        for sequence in [7, 8, 9] {
            let mark = mark(sequence);
            write(&mut page, mark.slot_at(), &mark.encode());
            assert_eq!(SyncMark::best(&page), Ok(Some(mark)));
        }
        // The write of mark 10 is torn.
        page[mark(10).slot_at() + 20] ^= 1;
        assert_eq!(SyncMark::best(&page), Ok(Some(mark(9))));
        page[mark(9).slot_at()] ^= 1;
        assert_eq!(SyncMark::best(&page), Ok(None));
    }

    #[test]
    fn a_sequence_that_wraps_around_is_still_the_newer_one() {
        let mut page = [0; SyncMark::PAGE_LEN];
        for sequence in [u64::MAX - 1, u64::MAX, 0, 1] {
            let mark = mark(sequence);
            write(&mut page, mark.slot_at(), &mark.encode());
            assert_eq!(SyncMark::best(&page), Ok(Some(mark)), "sequence {sequence}");
        }
        assert!(is_newer(0, u64::MAX) && !is_newer(u64::MAX, 0) && !is_newer(3, 3));
    }

    #[test]
    fn no_single_bit_of_a_slot_can_flip_unnoticed() {
        fn check<T: Slot>(slot: &mut [u8]) {
            assert!(open::<T>(slot).unwrap().is_some());
            for bit in 0..8 * slot.len() {
                slot[bit / 8] ^= 1 << (bit % 8);
                assert!(open::<T>(slot).unwrap().is_none(), "bit {bit}");
                slot[bit / 8] ^= 1 << (bit % 8);
            }
        }
        check::<SyncMark>(&mut mark(3).encode());
        check::<Note>(&mut note(3).encode());
        check::<NotesHeader>(&mut NotesHeader { log: [9; 16] }.encode());
        check::<ArenaNote>(&mut arena_note(3).encode());
        check::<Lap>(&mut lap(4).encode());
    }

    #[test]
    fn arena_headers_laps_and_their_notes_read_back() {
        let file = FileId { device: 1, inode: 2, born: 3 };
        let header = ArenaHeader { log: [1; 16], boot: BootId([2; 16]), file, slot_len: 65_536, slot_count: 1_024 };
        assert_eq!(ArenaHeader::decode(&header.encode()), Ok(Some(header)));
        assert_eq!(ArenaHeader::decode(&header.encode()[..4_095]), Ok(None), "too short");
        assert_eq!(Lap::decode(&lap(7).encode()), Ok(Some(lap(7))));
        assert_eq!(Lap::decode(&[0; Lap::LEN]), Ok(None));
        let mut entry = [0; Note::ENTRY_LEN];
        for sequence in 4..7 {
            let note = arena_note(sequence);
            write(&mut entry, note.slot_at(), &note.encode());
            assert_eq!(ArenaNote::best(&entry), Ok(Some(note)));
            assert_eq!(Note::best(&entry), Ok(None), "it is none of a partition");
        }
    }

    #[test]
    fn a_newer_version_is_told_from_a_damaged_slot() {
        let mut page = [0; SyncMark::PAGE_LEN];
        write(&mut page, 0, &mark(8).encode());
        let mut newer = mark(9).encode();
        newer[4..8].copy_from_slice(&2_u32.to_be_bytes());
        write(&mut page, mark(9).slot_at(), &newer);
        assert_eq!(SyncMark::best(&page), Ok(Some(mark(8))), "its checksum does not match");

        let crc = crc32(&newer[..508]);
        newer[508..].copy_from_slice(&crc.to_be_bytes());
        write(&mut page, mark(9).slot_at(), &newer);
        assert_eq!(SyncMark::best(&page), Err(UnknownVersion(2)));
    }

    #[test]
    fn a_slot_that_verifies_and_holds_something_else_is_none() {
        let mut slot = note(3).encode();
        // Whether there are producers, a byte before two digests, a timestamp, an offset and a count.
        let flag_at = BODY_AT + Note::BODY_LEN - 8 - 16 - 16 - 1;
        assert_eq!(slot[flag_at], 1);
        slot[flag_at] = 2;
        let crc_at = slot.len() - CRC_LEN;
        let crc = crc32(&slot[..crc_at]);
        slot[crc_at..].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(open::<Note>(&slot), Ok(None));
        let mut short = NotesHeader::MAGIC.to_vec();
        short.extend_from_slice(&crc32(&NotesHeader::MAGIC).to_be_bytes());
        assert_eq!(open::<NotesHeader>(&short), Ok(None), "no room for a version");
    }

    #[test]
    fn slots_of_one_kind_are_never_read_as_the_other() {
        let mut entry = [0; Note::ENTRY_LEN];
        entry[..NotesHeader::LEN].copy_from_slice(&NotesHeader { log: [1; 16] }.encode());
        assert_eq!(Note::best(&entry), Ok(None));
        assert_eq!(NotesHeader::decode(&note(1).encode()), Ok(None), "too short");
        assert_eq!(SyncMark::best(&mark(2).encode()[..511]), Ok(None), "too short");
    }

    #[test]
    fn notes_alternate_inside_their_entry() {
        let mut file = vec![0; Note::entry_at(2) as usize];
        write(&mut file, 0, &NotesHeader { log: [5; 16] }.encode());
        let at = Note::entry_at(1) as usize;
        for sequence in 4..8 {
            let note = note(sequence);
            write(&mut file, at + note.slot_at(), &note.encode());
            assert_eq!(Note::best(&file[at..at + Note::ENTRY_LEN]), Ok(Some(note)));
        }
        assert_eq!(NotesHeader::decode(&file), Ok(Some(NotesHeader { log: [5; 16] })));
        assert_eq!(Note::best(&file[Note::entry_at(0) as usize..at]), Ok(None));
    }

    proptest! {
        #[test]
        fn marks_and_notes_read_back(sequence: u64, base in 0..1_u64 << 63, position: u64, id: [u8; 16], flag: bool) {
            let (segment_base, boot, offset) = (Offset(base), BootId(id), Offset(base / 3));
            let file = FileId { device: position, inode: base, born: sequence };
            let mark = SyncMark { sequence, segment_base, position, offset, boot, file };
            prop_assert_eq!(open(&mark.encode()), Ok(Some(mark)));
            let (topic, partition) = (TopicId::from_bytes(id), position as u32);
            let note = Note {
                sequence, topic, partition, boot, file, segment_base, position, offset, has_producers: flag,
                index: Digest { len: partition, crc: 7 }, time_index: Digest::default(),
                largest: flag.then_some((Timestamp(9), segment_base)), since_last: position,
            };
            prop_assert_eq!(open(&note.encode()), Ok(Some(note)));
        }
    }

    fn write(page: &mut [u8], at: usize, slot: &[u8]) {
        page[at..at + slot.len()].copy_from_slice(slot);
    }

    fn mark(sequence: u64) -> SyncMark {
        let position = sequence.wrapping_mul(4096);
        let file = FileId { device: 1, inode: 2, born: 3 };
        SyncMark { sequence, segment_base: Offset(17), position, offset: Offset(90), boot: BootId([7; 16]), file }
    }

    fn lap(number: u64) -> Lap {
        Lap {
            number,
            topic: TopicId::from_bytes([3; 16]),
            partition: 4,
            end_before: Offset(90),
            segment_base: Offset(17),
            position: 8 << 20,
            file: FileId { device: 1, inode: 2, born: 3 },
        }
    }

    fn arena_note(sequence: u64) -> ArenaNote {
        let id = |inode| FileId { device: 1, inode, born: 3 };
        ArenaNote { sequence, boot: BootId([7; 16]), arena: id(2), notes: id(3) }
    }

    fn note(sequence: u64) -> Note {
        Note {
            sequence,
            topic: TopicId::from_bytes([3; 16]),
            partition: 4,
            boot: BootId([7; 16]),
            file: FileId { device: 1, inode: 2, born: 3 },
            segment_base: Offset(17),
            position: 8 << 20,
            offset: Offset(90),
            has_producers: true,
            index: Digest::of(b"12345678"),
            time_index: Digest::default(),
            largest: Some((Timestamp(1_700_000_000_000), Offset(80))),
            since_last: 100,
        }
    }
}
