//! What the fuzz targets of the small files check: each takes bytes that may be anything and asserts a property.

use std::time::Duration;

#[cfg(feature = "sim")]
use super::ReadOptions;
use super::epochs::Epochs;
use super::producers::Producers;
use super::snapshot;
#[cfg(feature = "sim")]
use super::testing::{Bed, check, fill, value};
use crate::checksum::{Digest, crc32c};
use crate::disk::checkpoint::{OffsetCheckpoint, PartitionMetadata};
use crate::disk::marks::{Note, NotesHeader, SyncMark};
use crate::disk::{BootId, FileId};
#[cfg(feature = "sim")]
use crate::segment::FileKind;
use crate::segment::offset_index::{self, OffsetEntry};
use crate::segment::time_index::{self, TimeEntry};
use crate::segment::txn_index::AbortedTxns;
use crate::types::{LeaderEpoch, Offset, Timestamp, TopicId};

/// Whatever the history and the passes over it, compaction leaves what the plain rules leave.
pub fn compact(program: &[u8]) {
    super::compact::reference::run(program);
}

/// A checkpoint is refused, or reads the same once written anew.
pub fn checkpoint(bytes: &[u8]) {
    if let Ok(read) = OffsetCheckpoint::parse(bytes) {
        assert_eq!(OffsetCheckpoint::parse(read.to_text().as_bytes()), Ok(read));
    }
    if let Ok(read) = PartitionMetadata::parse(bytes) {
        assert_eq!(PartitionMetadata::parse(read.to_text().as_bytes()), Ok(read));
    }
}

/// A history of epochs is refused or reads the same; its answers are in order, and truncation keeps it so.
pub fn epochs(bytes: &[u8]) {
    let Some((offset, text)) = bytes.split_first_chunk() else { return };
    let Ok(mut epochs) = Epochs::parse(text) else { return };
    assert_eq!(Epochs::parse(epochs.to_text().as_bytes()).as_ref(), Ok(&epochs));

    let offset = Offset(u64::from_be_bytes(*offset) & Offset::MAX.0);
    let mut ends = Vec::new();
    for entry in epochs.entries() {
        assert_eq!(epochs.epoch_for(entry.start), Some(entry.epoch));
        ends.extend(epochs.end_offset_for(entry.epoch, Offset::MAX));
    }
    assert_eq!(ends.len(), epochs.entries().len());
    assert!(ends.is_sorted_by(|a, b| a.epoch < b.epoch && a.end <= b.end));

    epochs.truncate_from_start(offset);
    epochs.truncate_from_end(Offset(offset.0 / 2));
    epochs.assign(LeaderEpoch(offset.0 as i32), offset);
    assert_eq!(Epochs::parse(epochs.to_text().as_bytes()), Ok(epochs));
}

/// A snapshot is refused, or leads to producers whose own snapshot says the same. It never leads the log.
pub fn snapshot(bytes: &[u8]) {
    let Some((end, file)) = bytes.split_first_chunk() else { return };
    let end = Offset(u64::from_be_bytes(*end) & Offset::MAX.0);
    check_snapshot(file, end);

    // Few guesses have the right checksum and count: the same entries once more, with them.
    let Some((_, body)) = file.split_first_chunk::<10>() else { return };
    let (entries, _) = body.as_chunks::<46>();
    let mut sealed = (entries.len() as u32).to_be_bytes().to_vec();
    sealed.extend_from_slice(entries.as_flattened());
    let head = [&1_i16.to_be_bytes()[..], &crc32c(&sealed).to_be_bytes()].concat();
    check_snapshot(&[head, sealed].concat(), end);
}

fn check_snapshot(file: &[u8], end: Offset) {
    let Ok(entries) = snapshot::decode(file, end) else { return };
    assert!(entries.len() * 46 < file.len());
    let producers = Producers::load(&entries, Timestamp(0), Duration::MAX);
    for entry in producers.entries() {
        assert!(
            entry.last_batch.is_none_or(|batch| batch.base_offset <= batch.last_offset && batch.last_offset < end)
        );
        // Of two entries of one producer the last one counts.
        assert_eq!(entries.iter().rev().find(|other| other.producer == entry.producer), Some(&entry));
    }
    let open_count = producers.entries().filter(|entry| entry.open_since.is_some()).count();
    assert_eq!(producers.transactions().open_count(), open_count);
    let written = producers.snapshot();
    let read = snapshot::decode(&written, end).map(|entries| Producers::load(&entries, Timestamp(0), Duration::MAX));
    assert_eq!(read.map(|producers| producers.snapshot()), Ok(written));
}

/// Marks and notes: any page gives a mark that is in it or none; a mark that is written reads back, and does not once
/// any one bit of it is flipped.
pub fn sync_mark(bytes: &[u8]) {
    if let Ok(Some(mark)) = SyncMark::best(bytes) {
        assert_eq!(bytes[mark.slot_at()..][..SyncMark::SLOT_LEN], mark.encode());
    }
    if let Ok(Some(note)) = Note::best(bytes) {
        assert_eq!(bytes[note.slot_at()..][..Note::SLOT_LEN], note.encode());
    }
    if let Ok(Some(header)) = NotesHeader::decode(bytes) {
        assert_eq!(bytes[..NotesHeader::LEN], header.encode());
    }

    let Some((numbers, _)) = bytes.split_first_chunk::<32>() else { return };
    let number = |at: usize| numbers[at..at + 8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let (sequence, position) = (number(0), number(8));
    let (segment_base, offset) = (Offset(number(16) >> 1), Offset(number(24) >> 1));
    let boot = BootId(*numbers.first_chunk().unwrap_or(&[0; 16]));

    let file = FileId { device: position, inode: sequence, born: offset.0 };
    let mark = SyncMark { sequence, segment_base, position, offset, boot, file };
    let mut page = [0; SyncMark::PAGE_LEN];
    page[mark.slot_at()..][..SyncMark::SLOT_LEN].copy_from_slice(&mark.encode());
    assert_eq!(SyncMark::best(&page), Ok(Some(mark)));
    page[mark.slot_at() + position as usize % SyncMark::SLOT_LEN] ^= 1 << (sequence % 8);
    assert_eq!(SyncMark::best(&page), Ok(None));

    let (topic, partition) = (TopicId::from_bytes(boot.0), position as u32);
    let has_producers = sequence % 3 == 0;
    let digest = Digest { len: partition, crc: sequence as u32 };
    let note = Note {
        sequence,
        topic,
        partition,
        boot,
        file,
        segment_base,
        position,
        offset,
        has_producers,
        index: digest,
        time_index: Digest::default(),
        largest: has_producers.then_some((Timestamp(position as i64 & i64::MAX), offset)),
        since_last: sequence,
    };
    let mut entry = [0; Note::ENTRY_LEN];
    entry[note.slot_at()..][..Note::SLOT_LEN].copy_from_slice(&note.encode());
    assert_eq!(Note::best(&entry), Ok(Some(note)));
    entry[note.slot_at() + position as usize % Note::SLOT_LEN] ^= 1 << (sequence % 8);
    assert_eq!(Note::best(&entry), Ok(None));
}

/// Any bytes answer a look-up with an entry of theirs that is not above what was asked for; sorted ones with the
/// greatest such entry.
pub fn index_lookup(bytes: &[u8]) {
    let Some((head, index)) = bytes.split_first_chunk::<16>() else { return };
    let number = |at: usize| head[at..at + 8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let base = Offset(number(0) >> 1);
    check_offsets(index, base, base + (number(8) & u64::from(u32::MAX)));
    check_times(index, base, Timestamp(number(8) as i64));
    if let Ok(aborted) = AbortedTxns::decode(index, base) {
        assert_eq!(aborted.encode(), index);
    }
}

fn check_offsets(index: &[u8], base: Offset, target: Offset) {
    let entries: Vec<_> = index.as_chunks().0.iter().map(|bytes| OffsetEntry::decode(bytes, base)).collect();
    let found = offset_index::floor(index, base, target).entry;
    assert!(found.is_none_or(|found| found.offset <= target && entries.contains(&found)));
    if entries.is_sorted_by_key(|entry| entry.offset) {
        assert_eq!(found, entries.iter().rev().find(|entry| entry.offset <= target).copied());
    }
}

fn check_times(index: &[u8], base: Offset, target: Timestamp) {
    let entries: Vec<_> = index.as_chunks().0.iter().map(|bytes| TimeEntry::decode(bytes, base)).collect();
    let found = time_index::floor(index, base, target);
    assert!(found.is_none_or(|found| found.timestamp <= target && entries.contains(&found)));
    if entries.is_sorted_by_key(|entry| entry.timestamp) {
        assert_eq!(found, entries.iter().rev().find(|entry| entry.timestamp <= target).copied());
    }
    assert_eq!(time_index::last(index, base), entries.last().copied());
}

/// Any bytes behind the batches of a log that were synced: after a power cut those are there, what follows them reads
/// or is cut, and the log goes on. Any bytes over one of them: the log is corrupt, and nothing was changed.
#[cfg(feature = "sim")]
#[expect(clippy::panic, reason = "a fuzz target fails by it")]
pub fn segment_open(bytes: &[u8]) {
    let Some((&[count, over], tail)) = bytes.split_first_chunk::<2>() else { return };
    let count = u64::from(count % 4) + 1;
    let mut bed = Bed::new();
    bed.config.segment_bytes = 1 << 20;
    let Ok(partition) = bed.open() else { return };
    fill(&partition, count);
    let len = partition.segments()[0].len();
    assert!(partition.sync().is_ok());
    drop(partition);
    bed.hints.recovery_point = Some(Offset(count));
    let path = Bed::path(0, FileKind::Log);

    bed.poke(&path, len, tail);
    let found = bed.crash(0);
    let Ok(partition) = found.open() else { panic!("a torn tail is no reason to refuse") };
    let end = partition.offsets().end;
    assert!(end >= Offset(count));
    let first: Vec<_> =
        partition.read(Offset(0)).iter().flat_map(|records| records.iter().map(|r| r.offset)).collect();
    assert!(first.is_empty() || first[0] == Offset(0));
    let mut at = Offset(0);
    while at < end {
        // What verifies may still hold records that do not: an error then, and no more.
        let Ok(records) = partition.read(at) else { break };
        assert!(records.next_offset() > at && records.next_offset() <= end);
        records.iter().take_while(|record| record.offset < Offset(count)).for_each(|record| {
            assert_eq!(record.value, Some(&value(record.offset)[..]));
        });
        at = records.next_offset();
    }
    if end < Offset(1 << 62) {
        assert_eq!(partition.append("goes on").map(|appended| appended.offset()).ok(), Some(end));
    }

    let position = u64::from(over) % len;
    let patch = &tail[..tail.len().min((len - position) as usize)];
    if bed.bytes(&path)[position as usize..][..patch.len()] != *patch {
        bed.poke(&path, position, patch);
        let found = bed.crash(0);
        let before = found.disk.image().digest();
        if let Ok(partition) = found.open() {
            // A leader epoch is under no checksum: one that rises is seen when it is read.
            assert!(
                (0..count).any(|at| partition.read(Offset(at)).is_err()) || is_epoch(position, patch, len / count)
            );
        }
        assert_eq!(found.disk.image().digest(), before);
    }
}

/// Whether a patch changes nothing but leader epochs.
#[cfg(feature = "sim")]
fn is_epoch(position: u64, patch: &[u8], batch_len: u64) -> bool {
    (position..position + patch.len() as u64).any(|at| (12..16).contains(&(at % batch_len)))
}

/// Any bytes as an index, time index, seal, snapshot or index of aborted transactions beside a good log: look-ups
/// answer as a scan from the start would.
#[cfg(feature = "sim")]
#[expect(clippy::panic, reason = "a fuzz target fails by it")]
pub fn index_open(bytes: &[u8]) {
    let Some((&[kind, which], garbage)) = bytes.split_first_chunk::<2>() else { return };
    let bed = Bed::new();
    let Ok(partition) = bed.open() else { return };
    fill(&partition, 12);
    assert!(partition.sync().is_ok());
    while let Ok(true) = partition.core.finish_one(partition.offsets().synced) {}
    let segments = partition.segments();
    let base = segments[usize::from(which) % segments.len()].base();
    drop(partition);
    let kinds = [FileKind::Index, FileKind::TimeIndex, FileKind::Seal, FileKind::Snapshot, FileKind::TxnIndex];
    bed.replace(&Bed::path(base.0, kinds[usize::from(kind) % kinds.len()]), garbage);
    for found in [bed.kill(), bed.crash(0)] {
        let Ok(partition) = found.open() else { panic!("a derived file is no reason to refuse") };
        assert_eq!(check(&partition, ReadOptions::default().max_bytes(1)), 12);
        assert_eq!(partition.offset_at(Timestamp(0)).ok(), Some(Some(Offset(0))));
        assert_eq!(partition.offset_at(Timestamp(i64::MAX)).ok(), Some(None));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        /// The targets hold on what chance and a little help produce; the fuzzer looks further.
        #[test]
        fn the_targets_hold_on_random_bytes(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            text in "0\n[0-9]\n([a-b0-9]{1,2} [0-9] ?[0-9]?\n){0,4}",
        ) {
            for bytes in [bytes.as_slice(), text.as_bytes(), &[&[0; 8], text.as_bytes()].concat()] {
                super::checkpoint(bytes);
                super::epochs(bytes);
                super::snapshot(bytes);
                super::sync_mark(bytes);
                super::index_lookup(bytes);
            }
        }
    }

    #[cfg(feature = "sim")]
    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_log_opens_whatever_lies_behind_or_beside_it(
            head: [u8; 2],
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let bytes = [&head[..], &bytes].concat();
            super::segment_open(&bytes);
            super::index_open(&bytes);
        }
    }
}
