//! Opening what a close, a kill or a power cut left.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::disk::marks::SyncMark;
use crate::disk::{Disk, Open};
use crate::error::{Error, ErrorKind};
use crate::observe::{Observer, Recovery, RetentionReason};
use crate::partition::notes::Notes;
use crate::partition::testing::{Bed, DIR, T0, check, fill};
use crate::partition::{ReadOptions, RecoveryMode};
use crate::record::{BatchBuilder, BatchHeader, BatchOptions, Record};
use crate::segment::FileKind;
use crate::sim::{Errno, Fault, Times};
use crate::types::{Offset, Timestamp};

#[test]
fn a_killed_process_loses_nothing_and_a_power_cut_nothing_that_was_synced() {
    for durable in [false, true] {
        let bed = if durable { Bed::durable() } else { Bed::new() };
        let partition = bed.open().unwrap();
        for end in 1..40 {
            fill(&partition, end);
            if end % 5 == 0 {
                partition.sync().unwrap();
            }
            let again = bed.kill().open().unwrap();
            assert_eq!(check(&again, ReadOptions::default()), end);
            for seed in 0..4 {
                let found = bed.crash(seed);
                let again = found.open().unwrap_or_else(|error| panic!("end {end} seed {seed}: {error}"));
                let kept = check(&again, ReadOptions::default());
                assert!(kept >= partition.offsets().synced.0 && kept <= end, "kept {kept} of {end}");
                again.sync().unwrap();
                fill(&again, kept + 3);
                assert_eq!(check(&found.kill().open().unwrap(), ReadOptions::default()), kept + 3);
                assert!(check(&found.crash(seed).open().unwrap(), ReadOptions::default()) >= kept);
                assert!(found.disk.audit().is_none(), "{:?}", found.disk.audit());
            }
        }
        assert!(bed.disk.audit().is_none(), "{:?}", bed.disk.audit());
    }
}

#[test]
fn a_closed_log_opens_without_a_look_and_closing_it_again_changes_nothing() {
    let mut bed = Bed::durable();
    let partition = bed.open().unwrap();
    fill(&partition, 50);
    bed.close(partition).unwrap();
    let before = bed.disk.image().digest();
    let again = bed.open().unwrap();
    assert_eq!(check(&again, ReadOptions::default()), 50);
    assert!(bed.close(again).is_some());
    assert_eq!(bed.disk.image().digest(), before);
}

#[test]
fn what_a_killed_process_left_is_an_ordinary_directory_once_closed() {
    let bed = Bed::durable();
    let partition = bed.open().unwrap();
    fill(&partition, 70);
    let lens: Vec<u64> = partition.segments().iter().map(|segment| segment.len()).collect();
    assert!(lens.len() > 2);
    drop(partition);
    let mut bed = bed.kill();
    let again = bed.open().unwrap();
    assert_eq!(again.segments().iter().map(|segment| segment.len()).collect::<Vec<_>>(), lens);
    assert_eq!(check(&again, ReadOptions::default()), 70);
    let paths: Vec<_> = again.segments().iter().map(|segment| segment.path().to_owned()).collect();
    assert!(bed.close(again).is_some());
    let found: Vec<u64> = paths.iter().map(|path| bed.disk.metadata(path).unwrap().len).collect();
    assert_eq!(found, lens);
    assert_eq!(bed.names().iter().filter(|name| name.ends_with(".seal")).count(), lens.len() - 1);
}

/// Retention had made the start durable and unlinked two segments; the power cut brought the first one back. It was
/// read, ended before the third began, and so everything that was left was put aside.
#[test]
fn a_file_below_the_start_that_comes_back_is_not_read() {
    let mut bed = Bed::new();
    let partition = bed.open().unwrap();
    fill(&partition, 30);
    let bases: Vec<u64> = partition.segments().iter().map(|segment| segment.base().0).collect();
    partition.sync().unwrap();
    drop(partition);
    bed.hints.start = Some(Offset(bases[2]));
    bed.hints.recovery_point = Some(Offset(30));
    let bed = bed.kill();
    bed.disk.remove_file(&Bed::path(bases[1], FileKind::Log)).unwrap();
    let again = bed.open().unwrap();
    assert_eq!(again.offsets().start, Offset(bases[2]));
    assert_eq!(check(&again, ReadOptions::default()), 30);
    fill(&again, 31);
    assert!(bed.disk.metadata(&Bed::path(0, FileKind::Log)).is_err());
}

/// The first sync after a kill writes again what recovery read. Retention removed a segment of it between the plan and
/// the work, the sync could not open it, and the partition was poisoned.
#[test]
fn what_retention_removes_while_it_is_written_again_needs_no_sync() {
    let bed = Bed::new();
    fill(&bed.open().unwrap(), 30);
    let partition = bed.kill().open().unwrap();
    let core = &partition.core;
    let plan = {
        let mut writer = core.lock();
        writer.begin(core).unwrap();
        writer.plan_sync(false, core)
    };
    assert!(plan.unproven.len() > 2);
    core.raise_start(partition.segments()[2].base());
    assert_eq!(core.remove_below_start(RetentionReason::Start).unwrap(), 2);
    core.carry_out(&plan, Duration::ZERO).unwrap();

    // One that is missing for any other reason is a failure.
    let next = partition.segments()[1].path().to_owned();
    core.context.disk().remove_file(&next).unwrap();
    let error = core.carry_out(&plan, Duration::ZERO).unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if *path == next), "{error:?}");
}

#[test]
fn damage_below_the_proven_offset_is_corrupt_and_no_byte_changes() {
    for durable in [false, true] {
        let mut bed = if durable { Bed::durable() } else { Bed::new() };
        let partition = bed.open().unwrap();
        fill(&partition, 12);
        partition.sync().unwrap();
        drop(partition);
        bed.hints.recovery_point = Some(Offset(12));
        let bed = bed.crash(1);
        let last = bed.names().into_iter().rfind(|name| name.ends_with(".log")).unwrap();
        bed.poke(&Path::new(DIR).join(last), 100, &[0xFF]);
        let before = bed.disk.image().digest();
        let error = bed.open().err().map(|error| error.kind());
        assert_eq!(error, Some(ErrorKind::Corrupt));
        assert_eq!(bed.disk.image().digest(), before);

        // A salvage keeps what comes before, and what it put aside stays; the next open is an ordinary one.
        let mut salvage = Bed { recovery: RecoveryMode::Salvage, ..bed.clone() };
        let partition = salvage.open().unwrap();
        let end = partition.offsets().end.0;
        assert!(end < 12);
        assert_eq!(check(&partition, ReadOptions::default()), end);
        fill(&partition, end + 1);
        assert!(salvage.names().iter().any(|name| name.ends_with(".cut")));
        salvage.hints.recovery_point = Some(partition.offsets().synced);
        drop(partition);
        for found in [salvage.kill(), salvage.crash(2)] {
            let found = Bed { recovery: RecoveryMode::Report, ..found };
            assert!(check(&found.open().unwrap(), ReadOptions::default()) >= end);
        }
    }
}

#[test]
fn a_missing_segment_is_corrupt_not_skipped() {
    for which in 0..3 {
        let mut bed = Bed::new();
        let partition = bed.open().unwrap();
        fill(&partition, 25);
        partition.sync().unwrap();
        let bases: Vec<u64> = partition.segments().iter().map(|segment| segment.base().0).collect();
        drop(partition);
        bed.hints.recovery_point = Some(Offset(25));
        let base = [bases[1], bases[2], bases[bases.len() - 1]][which];
        bed.disk.remove_file(&Bed::path(base, FileKind::Log)).unwrap();
        bed.disk.sync_dir(Path::new(DIR)).unwrap();
        for found in [bed.kill(), bed.crash(1)] {
            assert_eq!(found.open().err().map(|error| error.kind()), Some(ErrorKind::Corrupt));
        }
    }
}

#[test]
fn in_the_same_boot_only_the_last_write_may_be_torn() {
    let bed = Bed::new();
    let partition = bed.open().unwrap();
    fill(&partition, 4);
    let path = Bed::path(0, FileKind::Log);
    let len = partition.segments()[0].len();
    drop(partition);
    let batch = len / 4;
    // A write that was cut short: any prefix of it.
    for kept in [1, 11, 12, 61, batch - 1] {
        let found = bed.kill();
        found.disk.open(&path, Open::Write).unwrap().set_len(len - batch + kept).unwrap();
        let again = found.open().unwrap();
        assert_eq!(check(&again, ReadOptions::default()), 3);
        fill(&again, 5);
        assert_eq!(check(&found.kill().open().unwrap(), ReadOptions::default()), 5);
    }
    // Damage further up, the length of a batch too, is no torn write.
    for position in [batch + 8, batch + 9, batch + 10, batch + 70] {
        let found = bed.kill();
        let byte = found.bytes(&path)[position as usize];
        found.poke(&path, position, &[byte ^ 0x01]);
        assert_eq!(found.open().err().map(|error| error.kind()), Some(ErrorKind::Corrupt), "byte {position}");
        // After a power cut nothing says that it was ever whole.
        let found = Bed { disk: found.disk.crash(0), ..found };
        assert_eq!(check(&found.open().unwrap(), ReadOptions::default()), 1);
    }
}

/// The page of a segment just begun says that its first offset is proven, though what came before was not synced.
#[test]
fn a_new_segment_proves_nothing_of_the_one_before() {
    let bed = Bed::durable();
    let mut config = bed.config;
    config.flush_messages = i64::MAX;
    let partition = bed.open().unwrap();
    fill(&partition, 2);
    partition.core.set_config(crate::TopicConfig { flush_ms: 1000, ..config });
    fill(&partition, 30);
    assert!(partition.segments().len() > 1 && partition.offsets().synced == Offset(2));
    for seed in 0..100 {
        let again = bed.crash(seed).open().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(check(&again, ReadOptions::default()) >= 2);
        assert!(again.offsets().synced <= Offset(2) || again.offsets().end == again.offsets().synced);
    }
}

/// What a process that died half way through cutting a torn tail left was taken for damage.
#[test]
fn recovery_may_be_killed_at_each_of_its_calls() {
    for durable in [false, true] {
        let bed = if durable { Bed::durable() } else { Bed::new() };
        let partition = bed.open().unwrap();
        fill(&partition, 3);
        let (path, len) = (Bed::path(0, FileKind::Log), partition.segments()[0].len());
        drop(partition);
        let torn = bed.kill();
        torn.poke(&path, len, &bed.bytes(&path)[..150]);
        let torn = torn.kill();
        torn.disk.record(crate::sim::Record::All);
        let again = torn.open().unwrap();
        fill(&again, 4);
        for moment in torn.disk.take_moments() {
            let disk = crate::sim::SimDisk::on(moment.image, torn.disk.clock());
            let found = Bed { disk, ..torn.clone() }.open();
            let found = found.unwrap_or_else(|error| panic!("call {}: {error}", moment.call));
            assert!(check(&found, ReadOptions::default()) >= 3);
        }
    }
}

/// What had been read when the log was opened was dropped from memory and came back from the disk as zeros. It was
/// written again as such, and called synced.
#[test]
fn what_changed_since_recovery_read_it_is_not_called_synced() {
    let bed = Bed::new();
    let partition = bed.open().unwrap();
    fill(&partition, 3);
    drop(partition);
    let bed = bed.kill();
    let again = bed.open().unwrap();
    bed.poke(&Bed::path(0, FileKind::Log), 200, &[0; 30]);
    let error = again.sync().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(again.offsets().synced, Offset(0));
    assert!(matches!(again.append("x"), Err(Error::Poisoned { .. })));
}

#[test]
fn an_end_below_the_start_goes_on_empty_at_the_start() {
    let mut bed = Bed::new();
    let partition = bed.open().unwrap();
    fill(&partition, 5);
    drop(partition);
    bed.hints.start = Some(Offset(90));
    let bed = bed.kill();
    let again = bed.open().unwrap();
    assert_eq!((again.offsets().start, again.offsets().end), (Offset(90), Offset(90)));
    fill(&again, 92);
    assert_eq!(check(&bed.kill().open().unwrap(), ReadOptions::default()), 92);
    assert!(bed.disk.metadata(&Bed::path(0, FileKind::Log)).is_err());
}

#[test]
fn a_read_only_open_changes_nothing() {
    let bed = Bed::durable();
    let partition = bed.open().unwrap();
    fill(&partition, 9);
    drop(partition);
    for found in [bed.kill(), bed.crash(3)] {
        let found = Bed { read_only: true, ..found };
        found.disk.set_read_only(true);
        let before = found.disk.image().digest();
        let again = found.open().unwrap();
        check(&again, ReadOptions::default());
        assert!(matches!(again.append("x"), Err(Error::ReadOnly)));
        assert!(again.core.close_files().unwrap().is_none());
        assert_eq!(found.disk.image().digest(), before);
        assert!(found.disk.audit().is_none(), "{:?}", found.disk.audit());
    }
}

/// The last segment could not be opened for writing; the next try began a new one in its place, and had it removed
/// when that failed.
#[test]
fn a_first_write_that_fails_at_any_call_harms_nothing() {
    for durable in [false, true] {
        for call in 0..40 {
            let bed = if durable { Bed::durable() } else { Bed::new() };
            let partition = bed.open().unwrap();
            fill(&partition, 3);
            let (path, len) = (Bed::path(0, FileKind::Log), partition.segments()[0].len());
            drop(partition);
            let bed = bed.kill();
            bed.poke(&path, len, &bed.bytes(&path)[..90]);
            let again = bed.open().unwrap();
            let (fault, times) = (crate::sim::Fault::Error(crate::sim::Errno::Denied), crate::sim::Times::Once);
            bed.disk.inject(bed.disk.calls() + call, fault, times);
            let _ = again.append(&super::super::testing::value(Offset(3))[..]);
            bed.disk.heal();
            if !again.core.is_poisoned() {
                fill(&again, 6);
            }
            let end = again.offsets().end.0;
            assert!(end >= 3);
            drop(again);
            assert_eq!(check(&bed.kill().open().unwrap(), ReadOptions::default()), end, "call {call}");
        }
    }
}

#[derive(Debug, Default)]
struct Told {
    recovering: Mutex<Vec<(Offset, u64, u64)>>,
    recovered: Mutex<Vec<(Offset, u64, u64)>>,
}

impl Observer for Told {
    fn recovering(&self, progress: &Recovery<'_>) {
        assert!(self.recovered.lock().is_empty(), "it is over");
        self.recovering.lock().push((progress.end, progress.scanned_bytes, progress.total_bytes));
    }

    fn recovered(&self, recovery: &Recovery<'_>) {
        self.recovered.lock().push((recovery.end, recovery.scanned_bytes, recovery.total_bytes));
    }
}

/// Each KiB here, each 64 MiB outside of tests.
#[test]
fn a_recovery_tells_how_far_it_has_come() {
    let bed = Bed::new();
    let partition = bed.open().unwrap();
    fill(&partition, 30);
    let total: u64 = partition.segments().iter().map(|segment| segment.len()).sum();
    drop(partition);
    let told = Arc::new(Told::default());
    Bed { observer: told.clone(), ..bed.kill() }.open().unwrap();
    let progress = told.recovering.lock();
    assert!(progress.len() as u64 == total / 1024 && progress.len() > 2, "{progress:?} of {total}");
    for (at, (end, scanned, of)) in progress.iter().enumerate() {
        let (batches, batch) = (end.0, total / 30);
        assert_eq!((*scanned, *of), (batches * batch, total));
        assert_eq!(scanned / 1024, at as u64 + 1, "told as soon as it is reached, and once");
    }
    assert_eq!(*told.recovered.lock(), [(Offset(30), total, total)]);
}

/// Kafka's own directory: opened, read whole, closed, and its batches are byte for byte what they were.
#[cfg(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd"))]
#[test]
fn a_directory_that_kafka_wrote_opens_and_closes_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("orders-0");
    std::fs::create_dir(&target).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/fixture-log-dir/orders-0");
    for entry in std::fs::read_dir(&source).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), target.join(entry.file_name())).unwrap();
    }
    let mut bed = Bed::new();
    bed.config.segment_bytes = 1 << 20;
    let partition = bed.open_real(&target).unwrap();
    let offsets = partition.offsets();
    assert_eq!((offsets.end, offsets.stable), (Offset(24), Offset(20)));
    let (mut at, mut count) = (offsets.start, 0);
    while at < offsets.end {
        let records = partition.read(at).unwrap();
        count += records.iter().count();
        at = records.next_offset();
    }
    assert!(count > 10);
    bed.close(partition);
    for base in ["00000000000000000000.log", "00000000000000000017.log"] {
        assert_eq!(std::fs::read(target.join(base)).unwrap(), std::fs::read(source.join(base)).unwrap(), "{base}");
    }
    bed.hints.clean = None;
    assert_eq!(bed.open_real(&target).unwrap().offsets().stable, Offset(20));
}

/// A sync had taken it upon itself to sync the directory, and had not come to it, when retention found nothing left to
/// sync there: it unlinked the first segment before the name of the next one was durable. After a power cut no segment
/// was there that the log could start with.
#[test]
fn retention_syncs_names_that_a_sync_has_not_come_to_yet() {
    for seed in 0..300 {
        let mut bed = Bed::new();
        let partition = bed.open().unwrap();
        fill(&partition, 3);
        partition.sync().unwrap();
        fill(&partition, 17);
        let core = &partition.core;
        let start = partition.segments()[1].base();
        let plan = core.lock().plan_sync(false, core);
        assert!(plan.names);
        (bed.hints.start, bed.hints.recovery_point) = (Some(start), Some(Offset(3)));
        core.raise_start(start);
        assert_eq!(core.remove_below_start(RetentionReason::Start).unwrap(), 1);
        let found = bed.crash(seed).open().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(found.offsets().start, start);
    }
}

/// A record that was cut short by a kill held a whole batch of Kafka's. That one was taken for a part of the log behind
/// damage, and the partition was refused.
#[test]
fn a_torn_record_that_holds_a_batch_is_torn() {
    for inner_offset in [0, 1000] {
        let bed = Bed::new();
        let partition = bed.open().unwrap();
        fill(&partition, 2);
        let mut builder = BatchBuilder::new();
        builder.begin(BatchOptions::default());
        builder.push(&Record::new("inner"), Timestamp(T0)).unwrap();
        let mut value = builder.finish().unwrap().to_vec();
        let header = BatchHeader::read(&value).unwrap();
        BatchHeader { base_offset: Offset(inner_offset), ..header }.seal(&mut value);
        value.extend_from_slice(&[1; 300]);
        partition.append(&value[..]).unwrap();
        let (path, len) = (partition.segments()[0].path().to_owned(), partition.segments()[0].len());
        drop(partition);
        let killed = bed.kill();
        killed.disk.open(&path, Open::Write).unwrap().set_len(len - 100).unwrap();
        assert_eq!(killed.open().unwrap().offsets().end, Offset(2));
    }
}

/// Each try to put a torn tail aside on a full disk left another file of it, in part.
#[test]
fn a_torn_tail_that_cannot_be_put_aside_leaves_nothing_behind() {
    let bed = Bed::new();
    fill(&bed.open().unwrap(), 5);
    let bed = bed.crash(3);
    let path = Bed::path(0, FileKind::Log);
    let len = bed.disk.metadata(&path).unwrap().len;
    bed.poke(&path, len, &[9; 60_000]);
    let partition = bed.open().unwrap();
    bed.disk.set_free(Some(5000));
    for _ in 0..3 {
        assert_eq!(partition.append("v").unwrap_err().kind(), ErrorKind::Full);
    }
    let cut = |names: Vec<String>| names.iter().filter(|name| name.ends_with(".cut")).count();
    assert_eq!(cut(bed.names()), 0);
    bed.disk.set_free(None);
    partition.append("v").unwrap();
    assert_eq!(cut(bed.names()), 1);
}

/// A call that failed between the renaming of a segment and the removal of what was derived from it made every later
/// try fail: the segment was not there under its name any more.
#[test]
fn putting_segments_aside_goes_on_where_an_error_stopped_it() {
    let bed = Bed::new();
    let partition = bed.open().unwrap();
    fill(&partition, 17);
    partition.sync().unwrap();
    drop(partition);
    let bed = bed.crash(1);
    bed.poke(&Bed::path(0, FileKind::Log), 400, &[0xFF]);
    let bed = bed.crash(1);
    let mut failed = 0;
    for call in 0..120 {
        let bed = bed.kill();
        let partition = bed.open().unwrap();
        bed.disk.inject(bed.disk.calls() + call, Fault::Error(Errno::Denied), Times::Once);
        let first = partition.append("v").map(drop);
        bed.disk.heal();
        let is_poisoned = matches!(partition.sync(), Err(Error::Poisoned { .. }));
        if first.is_err() && !is_poisoned {
            failed += 1;
            partition.append("v").unwrap_or_else(|error| panic!("call {call}: {error}"));
        }
    }
    assert!(failed > 20, "{failed}");
}

/// Only a salvage opens a partition of which nothing is left; it goes on at its start.
#[test]
fn a_log_that_is_gone_is_damaged_and_a_salvage_begins_it_anew() {
    let mut bed = Bed::new();
    (bed.hints.start, bed.hints.recovery_point) = (Some(Offset(3)), Some(Offset(12)));
    assert_eq!(bed.open().unwrap_err().kind(), ErrorKind::Corrupt);
    let salvage = Bed { recovery: RecoveryMode::Salvage, ..bed };
    let partition = salvage.open().unwrap();
    assert_eq!((partition.offsets().start, partition.offsets().end), (Offset(3), Offset(3)));
    fill(&partition, 5);
    assert_eq!(check(&partition, ReadOptions::default()), 5);
}

/// A file of notes that could not be read was written on, and what it said of others could not be taken back.
/// A mark that verifies, and is of a version this build does not know, may say what a lower one does not: nothing is opened
/// on a guess, and nothing is changed.
#[test]
fn a_mark_of_a_newer_version_is_refused_and_the_file_stays_as_it_is() {
    let bed = Bed::durable();
    let partition = bed.open().unwrap();
    fill(&partition, 9);
    drop(partition);
    let found = bed.kill();
    let path = Bed::path(0, FileKind::Log);
    let bytes = found.bytes(&path);
    let page = bytes.len() - SyncMark::PAGE_LEN;
    let mark = SyncMark::best(&bytes[page..]).unwrap().unwrap();
    let mut slot = mark.encode();
    slot[4..8].copy_from_slice(&9_u32.to_be_bytes());
    let crc_at = slot.len() - 4;
    let crc = crate::checksum::crc32(&slot[..crc_at]);
    slot[crc_at..].copy_from_slice(&crc.to_be_bytes());
    found.poke(&path, (page + mark.slot_at()) as u64, &slot);
    let before = found.disk.image().digest();
    let Err(Error::NewerVersion { path: named, found: version, supported }) = found.open().map(drop) else {
        panic!("it opens")
    };
    assert_eq!((named, version, supported), (path, 9, crate::disk::marks::VERSION));
    assert_eq!(found.disk.image().digest(), before);
}

#[test]
fn notes_that_could_not_be_read_are_gone_once_a_sync_has_failed() {
    let bed = Bed::new();
    fill(&bed.open().unwrap(), 20);
    let bed = bed.kill();
    let noted = |bed: &Bed| {
        let notes = Notes::load(&*bed.disk, "/log/notes".into(), [7; 16]);
        notes.found(bed.hints.topic, 0).is_some()
    };
    assert!(noted(&bed));
    // The volume is described first, then the notes are opened.
    bed.disk.inject(bed.disk.calls() + 1, Fault::Error(Errno::Io), Times::Once);
    let partition = bed.open().unwrap();
    partition.core.poison(&Error::Closed);
    assert!(!noted(&bed));
}
