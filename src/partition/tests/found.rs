//! Bugs that the explorers found, each in the shortest story that shows it.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::path::Path;

use crate::disk::Disk;
use crate::error::ErrorKind;
use crate::partition::testing::{Bed, DIR, check, fill, value};
use crate::partition::{Partition, ReadOptions};
use crate::segment::FileKind;
use crate::sim::{Errno, Fault, Record, SimDisk, Times};
use crate::types::Offset;

/// Bytes of a batch as `fill` appends it.
const BATCH: u64 = 170;

/// Somebody removed the first segment of a log, and it opened as one that starts later.
#[test]
fn a_log_whose_first_segment_is_missing_is_damaged_not_shorter() {
    let mut bed = Bed::new();
    let partition = bed.open().unwrap();
    fill(&partition, 12);
    partition.sync().unwrap();
    let second = partition.segments()[1].base();
    drop(partition);
    bed.hints.recovery_point = Some(Offset(12));
    bed.disk.remove_file(&Bed::path(0, FileKind::Log)).unwrap();
    bed.disk.sync_dir(Path::new(DIR)).unwrap();
    for start in [Offset(0), Offset(second.0 - 1)] {
        bed.hints.start = Some(start);
        for found in [bed.kill(), bed.crash(1)] {
            let before = found.disk.image().digest();
            assert_eq!(found.open().err().map(|error| error.kind()), Some(ErrorKind::Corrupt), "from {start}");
            assert_eq!(found.disk.image().digest(), before);
        }
    }
    // What retention leaves: the start was stored before the file went.
    bed.hints.start = Some(second);
    assert_eq!(check(&bed.kill().open().unwrap(), ReadOptions::default()), 12);
}

/// All records were deleted by hand, and the system had lost their pages to a write-back that failed. The start counted
/// as synced, so what recovery had read was not written again: a checkpoint, or the clean mark, said that it was on the
/// disk. Records that were appended behind it and synced lay behind a hole once the power was cut.
#[test]
fn a_start_above_what_is_proven_proves_nothing() {
    for is_closed in [false, true] {
        let mut bed = Bed::new();
        bed.config.segment_bytes = 100_000;
        let partition = bed.open().unwrap();
        fill(&partition, 40);
        bed.disk.inject(bed.disk.calls(), Fault::WriteBack, Times::Once);
        bed.bytes(&Bed::path(0, FileKind::Log));
        drop(partition);

        let mut bed = bed.kill();
        bed.hints.start = Some(Offset(40));
        let partition = bed.open().unwrap();
        assert_eq!(partition.offsets().start, Offset(40));
        match is_closed {
            true => drop(bed.close(partition)),
            false => {
                partition.core.settle(partition.core.end()).unwrap();
                bed.hints.recovery_point = Some(partition.offsets().synced);
            }
        }

        let bed = bed.kill();
        let partition = bed.open().unwrap();
        fill(&partition, 41);
        partition.sync().unwrap();
        for seed in 0..8 {
            let found = bed.crash(seed).open().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            assert_eq!(check(&found, ReadOptions::default()), 41, "seed {seed}");
        }
    }
}

/// The sync of a close failed, for want of a file handle, and the partition got its entry in the clean mark all the
/// same: the next open would have believed bytes that are on no disk.
#[test]
fn a_partition_whose_last_sync_failed_is_not_called_clean() {
    let mut refused = 0;
    for call in 0..20 {
        let bed = Bed::new();
        fill(&bed.open().unwrap(), 3);
        let bed = bed.kill();
        let partition = bed.open().unwrap();
        bed.disk.inject(bed.disk.calls() + call, Fault::Error(Errno::TooManyFiles), Times::Once);
        let settled = partition.core.settle(partition.core.end());
        bed.disk.heal();
        if settled.is_err() && !partition.core.is_poisoned() {
            refused += 1;
            assert_eq!(partition.core.close_files().unwrap(), None, "call {call}");
        }
    }
    assert!(refused > 0);
}

/// A log was found to end below its start: the segments behind the end were put aside, those below the start removed. A
/// power cut kept the removal and lost the renaming, and what was left looked like a log whose front is missing.
#[test]
fn what_lies_behind_the_end_is_put_aside_durably_before_the_front_goes() {
    let mut bed = Bed::new();
    let partition = bed.open().unwrap();
    fill(&partition, 12);
    partition.sync().unwrap();
    assert_eq!(partition.segments().len(), 3);
    drop(partition);
    bed.hints.start = Some(Offset(4));
    bed.poke(&Bed::path(0, FileKind::Log), 2 * BATCH + 100, &[0xFF]);
    let bed = bed.crash(0);
    bed.disk.record(Record::All);
    let again = bed.open().unwrap();
    assert_eq!((again.offsets().start, again.offsets().end), (Offset(4), Offset(4)));
    fill(&again, 5);
    for moment in bed.disk.take_moments().into_iter().filter(|moment| !moment.during) {
        for seed in 0..16 {
            let disk = SimDisk::on(moment.image.crash(seed), bed.disk.clock().fork());
            let found = Bed { disk, ..bed.clone() }.open();
            let found = found.unwrap_or_else(|error| panic!("call {} seed {seed}: {error}", moment.call));
            check(&found, ReadOptions::default());
        }
    }
}

/// A bed whose first segment takes 23 records of `fill`, and a small one.
fn with_room_for_a_small_one() -> (Bed, Partition) {
    let mut bed = Bed::durable();
    bed.config.segment_bytes = 4000;
    let partition = bed.open().unwrap();
    fill(&partition, 23);
    assert_eq!(partition.segments().len(), 1);
    (bed, partition)
}

/// A new segment could not be made ready, and not be removed either. It stayed at the offset that the next record got,
/// which was small enough for the segment before. Whoever opened after a kill found one segment inside of another, and
/// called the partition damaged.
#[test]
fn what_a_failed_roll_left_is_gone_before_anything_is_appended() {
    let mut left = 0;
    for (call, count) in (0..12).flat_map(|call| (1..4).map(move |count| (call, count))) {
        let (bed, partition) = with_room_for_a_small_one();
        bed.disk.inject(bed.disk.calls() + call, Fault::Error(Errno::Io), Times::Next(count));
        let failed = partition.append(&value(Offset(23))[..]).is_err();
        bed.disk.heal();
        if !failed || partition.core.is_poisoned() {
            continue;
        }
        left += u32::from(bed.disk.metadata(&Bed::path(23, FileKind::Log)).is_ok());
        partition.append("small").unwrap();
        let again = bed.kill().open().unwrap_or_else(|error| panic!("{count} from call {call}: {error}"));
        assert_eq!(again.offsets().end, Offset(24));
    }
    assert!(left > 0);
}

/// The mending of that removed too much: retention rolled, so there was a segment of this base by then, and the next
/// append took it for what the failed roll had left.
#[test]
fn a_segment_that_could_be_made_at_the_second_try_stays() {
    let mut refused = 0;
    for call in 0..12 {
        let (bed, partition) = with_room_for_a_small_one();
        bed.disk.inject(bed.disk.calls() + call, Fault::Error(Errno::Io), Times::Once);
        let failed = partition.append(&value(Offset(23))[..]).is_err();
        bed.disk.heal();
        if !failed || partition.core.is_poisoned() {
            continue;
        }
        refused += 1;
        partition.core.roll_if_expired(Offset(23)).unwrap();
        fill(&partition, 26);
        let again = bed.kill().open().unwrap_or_else(|error| panic!("call {call}: {error}"));
        assert_eq!((check(&again, ReadOptions::default()), again.segments().len()), (26, 2), "call {call}");
    }
    assert!(refused > 0);
}

/// The note of a roll could not be written, and the position of the one before stayed, in another file. The next append
/// took it from its own, lower one: a panic where overflow is checked, else a note at each append.
#[test]
fn a_roll_forgets_how_far_the_segment_before_was_noted() {
    let mut rolled = 0;
    for call in 0..16 {
        let bed = Bed::new();
        fill(&bed.open().unwrap(), 4);
        let bed = bed.kill();
        let partition = bed.open().unwrap();
        fill(&partition, 5);
        bed.disk.inject(bed.disk.calls() + call, Fault::Error(Errno::Io), Times::Once);
        let _ = partition.append(&value(Offset(5))[..]);
        rolled += u64::from(partition.offsets().end == Offset(6)) * bed.disk.struck();
        bed.disk.heal();
        if !partition.core.is_poisoned() {
            fill(&partition, 8);
            assert_eq!(check(&bed.kill().open().unwrap(), ReadOptions::default()), 8, "call {call}");
        }
    }
    assert!(rolled > 0);
}

/// A write failed after all of it had reached the file, it was cut off again, and the process died before the cut was
/// synced. The next one appended at the same place, and after a power cut the record that had failed was there instead.
#[test]
fn a_cut_that_a_killed_process_left_is_synced_before_other_bytes_go_there() {
    for durable in [true, false] {
        let mut bed = if durable { Bed::durable() } else { Bed::new() };
        if durable {
            bed.config.flush_messages = 1000;
        }
        let partition = bed.open().unwrap();
        fill(&partition, 3);
        partition.sync().unwrap();
        bed.disk.record(Record::All);
        bed.disk.inject(bed.disk.calls(), Fault::Partly(usize::MAX), Times::Once);
        partition.append("failed").unwrap_err();
        let moments = bed.disk.take_moments();
        assert!(moments.len() > 1);
        for moment in moments {
            let killed = Bed { disk: SimDisk::on(moment.image, bed.disk.clock().fork()), ..bed.clone() };
            let again = killed.open().unwrap();
            again.append("stored").unwrap();
            let stored = values(&again);
            for seed in 0..16 {
                let found = values(&killed.crash(seed).open().unwrap());
                assert!(stored.starts_with(&found), "durable {durable}, call {}: {found:?}", moment.call);
            }
        }
    }
}

/// What comes after the first three records.
fn values(partition: &Partition) -> Vec<String> {
    let records = partition.read(Offset(3)).unwrap();
    records.iter().map(|record| String::from_utf8_lossy(record.value.unwrap()).into_owned()).collect()
}

/// Rot in the last batch showed that the files were not as the close before had left them, so its mark was put away;
/// but a note of the same boot was believed, and the log opened as if nothing was wrong. Closing it changed files.
#[test]
fn damage_that_contradicts_the_mark_of_a_close_is_not_covered_by_a_note() {
    let mut bed = Bed::new();
    let partition = bed.open().unwrap();
    fill(&partition, 1);
    bed.close(partition).unwrap();
    // The partition is made ready to be written, and noted, and nothing is appended.
    let partition = bed.open().unwrap();
    assert!(partition.append_if_end(Offset(7), ["v"]).is_err());
    bed.close(partition).unwrap();
    bed.poke(&Bed::path(0, FileKind::Log), 100, &[0xFF]);
    let before = bed.disk.image().digest();
    assert_eq!(bed.open().unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(bed.disk.image().digest(), before);
}
