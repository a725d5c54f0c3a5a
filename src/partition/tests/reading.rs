//! Reading: limits, look-ups, damage.

use proptest::prelude::*;

use crate::disk::{Disk, Open};
use crate::error::{Error, ErrorKind};
use crate::partition::testing::{Bed, T0, check, fill, value};
use crate::partition::{ReadOptions, RecordsIter};
use crate::record::{BatchHeader, Record};
use crate::segment::index::IndexWriter;
use crate::segment::{FileKind, ReadPath};
use crate::types::{Offset, Timestamp};

#[test]
fn reads_cross_segments_whatever_the_limits_and_however_few_maps() {
    for (read_path, max_maps) in [(ReadPath::Mapped, 100), (ReadPath::Mapped, 1), (ReadPath::Positional, 1)] {
        let bed = Bed { read_path, max_maps, ..Bed::new() };
        let partition = bed.open().unwrap();
        fill(&partition, 40);
        for bytes in [1, 200, 5000] {
            assert_eq!(check(&partition, ReadOptions::default().max_bytes(bytes)), 40);
            assert_eq!(check(&partition, ReadOptions::default().max_bytes(bytes).max_records(1)), 40);
        }
        assert_eq!(check(&bed.kill().open().unwrap(), ReadOptions::default()), 40);
    }
}

#[test]
fn records_are_the_same_whether_they_are_asked_for_or_handed_out() {
    for codec in ["uncompressed", "lz4"] {
        let mut bed = Bed::new();
        if let Ok(config) = bed.config.set("compression.type", codec) {
            bed.config = config;
        }
        let partition = bed.open().unwrap();
        for batch in 0..4 {
            let _ = partition.append_all((0..batch + 2).map(|_| Record::new("x"))).unwrap();
        }
        let end = partition.offsets().end.0;
        for (from, count) in (0..end).flat_map(|from| (1..=end as usize).map(move |count| (from, count))) {
            let records = partition.read_with(Offset(from), ReadOptions::default().max_records(count)).unwrap();
            let asked = offsets(records.iter());
            for begun in 0..=asked.len() {
                let mut iter = records.iter();
                iter.by_ref().take(begun).for_each(drop);
                let mut handed = Vec::new();
                iter.for_each(|record| handed.push(record.offset.0));
                assert_eq!(handed, asked[begun..], "{codec}, from {from}, {count} at most, {begun} taken before");
            }
        }
    }
}

/// Asks for one after the other.
fn offsets(mut records: RecordsIter<'_>) -> Vec<u64> {
    std::iter::from_fn(|| records.next()).map(|record| record.offset.0).collect()
}

/// A read of one record verified a megabyte of batches behind it, and failed if one of those was damaged; then one of many
/// returned none of those before it.
#[test]
fn a_limit_of_records_is_met_by_as_few_batches_as_hold_them() {
    let mut bed = Bed::new();
    bed.config.segment_bytes = 1 << 16;
    let partition = bed.open().unwrap();
    for _ in 0..4 {
        let _ = partition.append_all(["one", "two", "three"]).unwrap();
    }
    let path = Bed::path(0, FileKind::Log);
    let third = bed.bytes(&path).len() as u64 / 4 * 2;
    bed.poke(&path, third + 70, &[0xFF]);
    for (from, count, next) in [(0, 1, 1), (0, 3, 3), (2, 1, 3), (2, 2, 4), (1, 5, 6), (3, 3, 6), (3, 4, 6)] {
        let records = partition.read_with(Offset(from), ReadOptions::default().max_records(count)).unwrap();
        let offsets: Vec<u64> = records.iter().map(|record| record.offset.0).collect();
        assert_eq!((offsets, records.next_offset()), ((from..next).collect(), Offset(next)));
    }
    // What is whole was returned; behind it comes the error.
    assert_eq!(partition.read(Offset(6)).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn outside_the_log_the_error_has_both_bounds_and_at_the_end_there_is_nothing() {
    let partition = Bed::new().open().unwrap();
    fill(&partition, 3);
    assert!(partition.read(Offset(3)).unwrap().is_empty());
    let out = partition.read(Offset(4));
    assert!(matches!(out, Err(Error::OffsetOutOfRange { start: Offset(0), end: Offset(3), .. })));
}

#[test]
fn the_last_records_are_found_over_batches_segments_and_from_any_end() {
    let partition = Bed::new().open().unwrap();
    for at in 0..10_u64 {
        let values: Vec<_> = (0..3).map(|add| value(Offset(at * 3 + add))).collect();
        partition.append_all(values.iter().map(|value| Record::new(&value[..]))).unwrap();
    }
    for count in [0, 1, 2, 3, 4, 29, 30, 31, usize::MAX] {
        let last = partition.read_last(count).unwrap();
        let found: Vec<u64> = last.iter().flat_map(|records| records.iter()).map(|record| record.offset.0).collect();
        assert_eq!(found, (30 - count.min(30) as u64..30).collect::<Vec<_>>(), "{count}");
    }
}

/// A flipped bit anywhere in a batch, the 21 bytes outside its checksum too, is an error or is not there.
#[test]
fn every_flipped_bit_is_found_before_it_is_believed() {
    let mut bed = Bed::new();
    bed.config.segment_bytes = 1 << 16;
    bed.config.index_interval_bytes = 1000;
    let partition = bed.open().unwrap();
    fill(&partition, 5);
    let path = Bed::path(0, FileKind::Log);
    bed.close(partition).unwrap();
    let good = bed.bytes(&path);
    let batch_len = good.len() / 5;
    for position in (2 * batch_len..2 * batch_len + 61).chain([good.len() - 1]) {
        for bit in 0..8 {
            let found = Bed { disk: bed.disk.kill(), read_path: ReadPath::Positional, ..bed.clone() };
            found.poke(&path, position as u64, &[good[position] ^ (1 << bit)]);
            let outcome = found.open().and_then(|partition| {
                let (mut at, mut count) = (Offset(0), 0);
                while at < partition.offsets().end {
                    let records = partition.read_with(at, ReadOptions::default())?;
                    for record in &records {
                        assert_eq!(record.value, Some(&value(Offset(count))[..]), "byte {position} bit {bit}");
                        count += 1;
                    }
                    at = records.next_offset();
                }
                Ok(count)
            });
            assert!(
                outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::Corrupt),
                "byte {position} bit {bit}: {outcome:?}"
            );
        }
    }
}

/// A batch rotted, and its header said an earlier time. The time index did not agree and could not be made again, so the
/// header was believed, and a look-up by time passed over the batch without a word.
#[test]
fn a_batch_whose_time_has_rotted_is_not_passed_over_by_a_look_up() {
    let mut bed = Bed::new();
    bed.config.timestamp_before_max_ms = i64::MAX;
    let partition = bed.open().unwrap();
    for at in 0..30 {
        partition.append(Record::new("v").timestamp(Timestamp(T0 + at))).unwrap();
    }
    partition.sync().unwrap();
    while partition.core.finish_one(partition.offsets().synced).unwrap() {}
    let (next, len) = (partition.segments()[1].base().0, partition.segments()[0].len());
    bed.close(partition);
    bed.disk.remove_file(&Bed::path(0, FileKind::Seal)).unwrap();
    let last_batch = len - len / next;
    bed.poke(&Bed::path(0, FileKind::Log), last_batch + MAX_TIMESTAMP_AT, &T0.to_be_bytes());

    let partition = bed.open().unwrap();
    for at in 0..30 {
        match partition.offset_at(Timestamp(T0 + at)) {
            Ok(found) => assert!(found == Some(Offset(at as u64)) && at != next as i64 - 1, "at {at}: {found:?}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "at {at}"),
        }
    }
    assert_eq!(partition.largest_timestamp().unwrap_err().kind(), ErrorKind::Corrupt);
}

/// Where in a batch its largest timestamp is.
const MAX_TIMESTAMP_AT: u64 = 35;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever bytes the derived files hold, look-ups answer as a scan from the start would.
    #[test]
    fn look_ups_equal_a_scan_whatever_the_indexes_hold(
        times in prop::collection::vec(0..50_i64, 1..40),
        garbage in prop::collection::vec(any::<u8>(), 0..200),
        spoiled in 0..5_usize,
        remove: bool,
        killed: bool,
    ) {
        let mut bed = Bed::new();
        bed.config.timestamp_before_max_ms = i64::MAX;
        let partition = bed.open().unwrap();
        for at in &times {
            partition.append(Record::new("v").timestamp(Timestamp(T0 + at))).unwrap();
        }
        partition.sync().unwrap();
        while partition.core.finish_one(partition.offsets().synced).unwrap() {}
        let bases: Vec<u64> = partition.segments().iter().map(|segment| segment.base().0).collect();
        if !killed {
            bed.close(partition);
        }
        let bed = bed.kill();
        let kind = [FileKind::Index, FileKind::TimeIndex, FileKind::Seal, FileKind::Snapshot, FileKind::TxnIndex][spoiled];
        for base in bases {
            let path = Bed::path(base, kind);
            let _ = bed.disk.remove_file(&path);
            if !remove {
                bed.disk.open(&path, Open::CreateNew).unwrap();
                bed.poke(&path, 0, &garbage);
            }
        }
        let partition = bed.open().unwrap();
        prop_assert_eq!(partition.offsets().end.0, times.len() as u64);
        for time in -1..52 {
            let expected = times.iter().position(|at| *at >= time).map(|at| Offset(at as u64));
            prop_assert_eq!(partition.offset_at(Timestamp(T0 + time)).unwrap(), expected);
        }
        for at in 0..times.len() as u64 {
            let records = partition.read_with(Offset(at), ReadOptions::default().max_records(1)).unwrap();
            let record = records.iter().next().unwrap();
            prop_assert_eq!((record.offset, record.timestamp), (Offset(at), Timestamp(T0 + times[at as usize])));
        }
        let largest = times.iter().copied().max().unwrap();
        let first = times.iter().position(|at| *at == largest).unwrap();
        prop_assert_eq!(partition.largest_timestamp().unwrap(), Some((Offset(first as u64), Timestamp(T0 + largest))));
    }
}

/// Who read at the end of a log while a batch was appended was told that the index was damaged: how far the segment reached
/// had been read before, and the index then led to the new batch.
#[test]
fn an_index_that_is_ahead_of_what_a_reader_saw_is_no_damage() {
    let bed = Bed::new();
    let partition = bed.open().unwrap();
    fill(&partition, 1);
    partition.sync().unwrap();
    let bytes = bed.bytes(&Bed::path(0, FileKind::Log));
    let first = BatchHeader::read(&bytes).unwrap();
    let second = BatchHeader { base_offset: first.next_offset(), ..first };
    // As the writer leaves it between its index and its length.
    let mut index = IndexWriter::new(Offset::ZERO, 100, 1).unwrap();
    index.push(&first, 0, u64::from(first.batch_len));
    index.push(&second, u64::from(first.batch_len), u64::from(first.batch_len));
    partition.core.segments()[0].set_index(Some(index.reader()));
    assert_eq!(partition.core.segments()[0].locate(second.base_offset).unwrap(), None);
}
