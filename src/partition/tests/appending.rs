//! Appending: rolls, failures, refusals.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::disk::Disk;
use crate::disk::marks::SyncMark;
use crate::error::{Error, ErrorKind};
use crate::observe::Observer;
use crate::partition::append::append_raw;
use crate::partition::core::Halt;
use crate::partition::testing::{Bed, DIR, T0, check, fill, marker, transactional};
use crate::partition::{Isolation, ReadOptions};
use crate::record::{BatchOrigin, Record};
use crate::segment::FileKind;
use crate::sim::{Errno, Fault, Times};
use crate::types::{Offset, Timestamp, TopicPartition};

#[test]
fn a_segment_rolls_by_size_by_time_and_when_its_index_is_full() {
    let mut bed = Bed::new();
    let partition = bed.open().unwrap();
    fill(&partition, 20);
    assert!(partition.segments().len() > 2, "by size");
    assert!(partition.segments().iter().all(|segment| segment.len() <= 1000));

    bed = Bed::new();
    (bed.config.segment_bytes, bed.config.segment_ms, bed.config.segment_jitter_ms) = (1 << 20, 1000, 0);
    let partition = bed.open().unwrap();
    for at in [0, 1000, 1001] {
        partition.append(Record::new("v").timestamp(Timestamp(T0 + at))).unwrap();
    }
    assert_eq!(partition.segments().iter().map(|segment| segment.base().0).collect::<Vec<_>>(), [0, 2], "by time");

    bed = Bed::new();
    (bed.config.segment_bytes, bed.config.segment_index_bytes) = (1 << 20, 24);
    let partition = bed.open().unwrap();
    fill(&partition, 20);
    assert!(partition.segments().len() > 2, "full index");
    check(&partition, ReadOptions::default());
}

#[test]
fn a_failed_append_gives_its_offset_to_the_next_one_and_never_comes_back() {
    for durable in [false, true] {
        let bed = if durable { Bed::durable() } else { Bed::new() };
        let partition = bed.open().unwrap();
        fill(&partition, 3);
        for short in [Some(70), None] {
            let calls = bed.disk.calls();
            if let Some(len) = short {
                bed.disk.inject(calls, Fault::Short(len), Times::Once);
                bed.disk.inject(calls + 1, Fault::Error(Errno::Full), Times::Once);
            } else {
                // Zeros ahead of it, and itself.
                bed.disk.inject(calls, Fault::Error(Errno::Full), Times::Next(3));
            }
            let failed = partition.append("never").unwrap_err();
            assert_eq!(failed.kind(), ErrorKind::Full, "{failed:?}");
            bed.disk.heal();
        }
        fill(&partition, 6);
        assert_eq!(check(&partition, ReadOptions::default()), 6);
        partition.sync().unwrap();
        drop(partition);
        assert_eq!(check(&bed.kill().open().unwrap(), ReadOptions::default()), 6);
        assert_eq!(check(&bed.crash(7).open().unwrap(), ReadOptions::default()), 6);
        assert!(bed.disk.audit().is_none(), "{:?}", bed.disk.audit());
    }
}

/// The error of one write-back was taken by the sync of a cut, and the sync that ran beside it believed the rest.
#[test]
fn after_a_failed_sync_the_partition_refuses_and_shows_only_what_was_synced() {
    let bed = Bed::new();
    let partition = bed.open().unwrap();
    fill(&partition, 3);
    partition.sync().unwrap();
    fill(&partition, 5);
    let waits = partition.readable(Offset(9));
    bed.disk.inject(bed.disk.calls(), Fault::Error(Errno::Io), Times::Sticky);
    assert!(partition.sync().is_err());
    bed.disk.heal();
    assert!(matches!(partition.append("late"), Err(Error::Poisoned { .. })));
    assert!(matches!(partition.sync(), Err(Error::Poisoned { .. })));
    assert_eq!(partition.offsets().synced, Offset(3));
    assert_eq!(partition.read(Offset(0)).unwrap().iter().count(), 3);
    assert!(matches!(partition.read(Offset(3)), Err(Error::Poisoned { .. })));
    drop(waits);
    drop(partition);
    // What verifies is taken again, though nothing vouches for more than was synced.
    let again = bed.kill().open().unwrap();
    assert!(again.offsets().end >= Offset(3));
    check(&again, ReadOptions::default());
}

#[test]
fn a_durable_segment_has_its_full_length_while_written_and_its_own_once_closed() {
    let mut bed = Bed::durable();
    let partition = bed.open().unwrap();
    fill(&partition, 3);
    let len = |bed: &Bed| bed.disk.metadata(&Bed::path(0, FileKind::Log)).unwrap().len;
    assert_eq!(len(&bed), 4096 + SyncMark::PAGE_LEN as u64);
    let written = partition.segments()[0].len();
    bed.close(partition).unwrap();
    assert_eq!(len(&bed), written);
    let again = bed.open().unwrap();
    assert_eq!(check(&again, ReadOptions::default()), 3);
    fill(&again, 4);
    assert_eq!(len(&bed), 4096 + SyncMark::PAGE_LEN as u64);
}

/// An empty segment made under smaller settings took a batch longer than itself: over its page of marks, and past
/// what readers had mapped.
#[test]
fn an_empty_segment_of_other_settings_takes_a_longer_batch() {
    for durable in [false, true] {
        let mut bed = if durable { Bed::durable() } else { Bed::new() };
        (bed.config.segment_bytes, bed.config.max_message_bytes) = (4096, 1 << 20);
        let partition = bed.open().unwrap();
        fill(&partition, 1);
        assert_eq!(partition.read(Offset(0)).unwrap().iter().count(), 1);
        let core = &partition.core;
        let mut writer = core.lock();
        writer.roll(core).unwrap();
        drop(writer);
        bed.config.segment_bytes = 1 << 16;
        core.set_config(bed.config);
        let long = vec![b'x'; 20_000];
        partition.append(&long[..]).unwrap();
        assert_eq!(partition.read(Offset(1)).unwrap().iter().next().unwrap().value, Some(&long[..]));
        partition.sync().unwrap();
        drop(partition);
        for bed in [bed.kill(), bed.crash(3)] {
            let again = bed.open().unwrap();
            assert_eq!(again.read(Offset(1)).unwrap().iter().next().unwrap().value, Some(&long[..]));
        }
    }
}

#[test]
fn a_full_disk_refuses_and_heals() {
    let bed = Bed::new();
    let partition = bed.open().unwrap();
    fill(&partition, 3);
    bed.disk.set_free(Some(0));
    let full = (0..20).find_map(|_| partition.append(&[1; 500][..]).err()).unwrap();
    assert_eq!(full.kind(), ErrorKind::Full);
    let end = partition.offsets().end;
    bed.disk.set_free(None);
    assert_eq!(partition.append("goes on").unwrap().offset(), end);
}

#[test]
fn offsets_end_at_two_to_the_sixty_third() {
    let mut bed = Bed::new();
    bed.hints.start = Some(Offset(Offset::MAX.0 - 2));
    let partition = bed.open().unwrap();
    assert_eq!(partition.append("a").unwrap().offset(), Offset(Offset::MAX.0 - 2));
    assert_eq!(partition.append("b").unwrap().offset(), Offset(Offset::MAX.0 - 1));
    assert!(matches!(partition.append("c"), Err(Error::OffsetsExhausted { .. })));
    assert_eq!(partition.read(Offset(Offset::MAX.0 - 1)).unwrap().iter().count(), 1);
    assert_eq!(bed.kill().open().unwrap().offsets().end, Offset::MAX);
}

#[test]
fn a_repeated_batch_is_stored_once_and_a_late_condition_is_refused() {
    let partition = Bed::new().open().unwrap();
    let batch = transactional(7, 0, "once");
    assert_eq!(partition.append_raw(&batch).unwrap().offset(), Offset(0));
    let again = partition.append_raw(&batch).unwrap();
    assert!(again.is_duplicate() && again.offset() == Offset(0) && partition.offsets().end == Offset(1));
    assert!(matches!(partition.append_raw(&transactional(7, 5, "gap")), Err(Error::OutOfOrderSequence { .. })));
    let late = partition.append_if_end(Offset(0), [Record::new("x")]);
    assert!(matches!(late, Err(Error::EndMismatch { actual: Offset(1), .. })));
}

#[test]
fn aborted_records_stay_hidden_through_rolls_kills_and_closing() {
    let mut bed = Bed::new();
    bed.config.segment_bytes = 300;
    let partition = bed.open().unwrap();
    partition.append_raw(&transactional(7, 0, "aborted")).unwrap();
    assert_eq!(partition.offsets().stable, Offset(0));
    append_raw(&partition.core, &marker(7, false), BatchOrigin::Coordinator).unwrap();
    partition.append_raw(&transactional(8, 0, "committed")).unwrap();
    append_raw(&partition.core, &marker(8, true), BatchOrigin::Coordinator).unwrap();
    for _ in 0..10 {
        partition.append("plain").unwrap();
    }
    partition.append_raw(&transactional(9, 0, "open")).unwrap();
    partition.sync().unwrap();
    while partition.core.finish_one(partition.offsets().synced).unwrap() {}
    let seen = |partition: &crate::Partition| {
        let (mut at, mut seen) = (partition.offsets().start, Vec::new());
        loop {
            let options = ReadOptions::default().isolation(Isolation::Committed);
            let records = partition.read_with(at, options).unwrap();
            if records.is_empty() {
                return seen;
            }
            seen.extend(records.iter().map(|record| String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
            at = records.next_offset();
        }
    };
    let expected = seen(&partition);
    assert_eq!(expected.len(), 11);
    assert!(!expected.contains(&"aborted".to_owned()) && !expected.contains(&"open".to_owned()));
    bed.hints.recovery_point = Some(partition.offsets().synced);
    for found in [bed.kill(), bed.crash(5)] {
        assert_eq!(seen(&found.open().unwrap()), expected);
        // Cut or missing, an index of aborted transactions shows nothing that was hidden.
        let path = Bed::path(0, FileKind::TxnIndex);
        assert!(found.disk.metadata(&path).is_ok());
        found.disk.open(&path, crate::disk::Open::Write).unwrap().set_len(0).unwrap();
        assert_eq!(seen(&found.open().unwrap()), expected);
    }
    bed.close(partition);
    let again = bed.open().unwrap();
    assert_eq!(seen(&again), expected);
    assert!(again.append_raw(&transactional(9, 0, "open")).unwrap().is_duplicate());
}

#[test]
fn retention_takes_whole_decided_segments_and_stops_at_its_limit() {
    let mut bed = Bed::new();
    (bed.config.retention_bytes, bed.config.retention_ms) = (2000, -1);
    let partition = bed.open().unwrap();
    fill(&partition, 30);
    let (start, _) = partition.core.retention_due(Timestamp(T0)).unwrap().unwrap();
    let segments = partition.segments();
    let kept: u64 = segments.iter().filter(|segment| segment.base() >= start).map(|segment| segment.len()).sum();
    let last_removed = segments.iter().rfind(|segment| segment.base() < start).unwrap().len();
    assert!(kept >= 2000 && kept + last_removed > 2000);
    let held = partition.read(Offset(0)).unwrap();
    partition.core.raise_start(start);
    assert!(partition.core.remove_below_start(crate::RetentionReason::Size).unwrap() > 0);
    assert!(!partition.core.has_files_below_start());
    assert!(matches!(partition.read(Offset(0)), Err(Error::OffsetOutOfRange { .. })));
    assert_eq!(check(&partition, ReadOptions::default()), 30);
    assert_eq!(held.iter().next().unwrap().offset, Offset(0));
    assert!(bed.disk.metadata(&Bed::path(0, FileKind::Log)).is_err());

    // An open transaction holds its segment, and no start falls inside one.
    let bed = Bed { config: crate::TopicConfig { retention_bytes: 0, retention_ms: -1, ..bed.config }, ..Bed::new() };
    let partition = bed.open().unwrap();
    fill(&partition, 2);
    partition.append_raw(&transactional(7, 0, "open")).unwrap();
    fill(&partition, 30);
    assert_eq!(partition.core.retention_due(Timestamp(T0)).unwrap(), None);
}

#[test]
fn age_comes_from_times_that_are_past() {
    let mut bed = Bed::new();
    (bed.config.retention_ms, bed.config.timestamp_after_max_ms) = (1000, i64::MAX);
    for (at, goes) in [(T0 - 1001, true), (T0 - 1000, false), (T0 + 5000, false), (0, false)] {
        let partition = Bed { config: bed.config, ..Bed::new() }.open().unwrap();
        partition.append(Record::new("v").timestamp(Timestamp(at))).unwrap();
        let due = partition.core.retention_due(Timestamp(T0)).unwrap();
        assert_eq!(due.is_some(), goes, "{at}");
    }
}

#[test]
fn a_segment_whose_files_could_not_be_removed_is_removed_later() {
    let bed = Bed::new();
    let partition = bed.open().unwrap();
    fill(&partition, 30);
    partition.core.raise_start(Offset(15));
    bed.disk.clock().advance(Duration::from_secs(1));
    // After the directory was synced.
    bed.disk.inject(bed.disk.calls() + 2, Fault::Error(Errno::Denied), Times::Once);
    assert!(partition.core.remove_below_start(crate::RetentionReason::Start).is_err());
    assert!(partition.core.has_files_below_start());
    assert!(partition.core.remove_below_start(crate::RetentionReason::Start).unwrap() > 0);
    assert!(
        bed.disk.list(Path::new(DIR)).unwrap().iter().all(|entry| !entry.name.starts_with("00000000000000000000."))
    );
}

/// A sync that had been planned before the trim wrote its mark behind it, and the file was long again.
#[test]
fn a_sync_after_the_trim_leaves_the_file_at_its_length() {
    let bed = Bed::durable();
    let partition = bed.open().unwrap();
    fill(&partition, 5);
    let late = partition.core.lock().active().unwrap().sync_target();
    partition.core.lock().roll(&partition.core).unwrap();
    while partition.core.finish_one(partition.offsets().synced).unwrap() {}
    let len = partition.segments()[0].len();
    assert_eq!(bed.disk.metadata(&Bed::path(0, FileKind::Log)).unwrap().len, len);
    late.sync(Duration::from_secs(3600)).unwrap();
    assert_eq!(bed.disk.metadata(&Bed::path(0, FileKind::Log)).unwrap().len, len);
}

/// Zeros written ahead of the tail used up what was free, and every append was refused, however short.
#[test]
fn an_append_that_fits_is_not_refused_for_what_is_written_ahead() {
    let mut bed = Bed::durable();
    bed.config.segment_bytes = 8 << 20;
    let partition = bed.open().unwrap();
    bed.disk.set_free(Some(500 << 10));
    for _ in 0..1000 {
        partition.append("v").unwrap();
    }
    assert!(bed.disk.audit().is_none(), "{:?}", bed.disk.audit());
}

/// A sync for which nothing could be opened was forgotten: the next ones came when as many records were written again.
#[test]
fn a_sync_that_lacked_a_descriptor_is_tried_with_the_next_append() {
    let mut failed = 0;
    for call in 0..30 {
        let mut bed = Bed::new();
        // A roll comes before it, so that there is a directory to be opened.
        bed.config.flush_messages = 10;
        let partition = bed.open().unwrap();
        fill(&partition, 9);
        bed.disk.inject(bed.disk.calls() + call, Fault::Error(Errno::TooManyFiles), Times::Once);
        let tenth = partition.append("v");
        bed.disk.heal();
        let is_poisoned = matches!(partition.append("v"), Err(Error::Poisoned { .. }));
        if matches!(tenth, Err(Error::NotSynced { .. })) && !is_poisoned {
            failed += 1;
            assert_eq!(partition.offsets().synced, Offset(11), "call {call}");
        }
    }
    assert!(failed > 0);
}

#[derive(Debug, Default)]
struct Poisonings(Mutex<Vec<String>>);

impl Observer for Poisonings {
    fn poisoned(&self, _: &TopicPartition, reason: &str) {
        self.0.lock().push(reason.to_owned());
    }
}

/// Only a failed call of the partition's own was told: not a background thread that panicked, nor a deletion half done.
#[test]
fn whoever_poisons_a_partition_the_observer_is_told() {
    let told = Arc::new(Poisonings::default());
    let bed = Bed { observer: told.clone(), ..Bed::new() };
    let partition = bed.open().unwrap();
    partition.core.fence(Halt::Poisoned("the background thread panicked".into()));
    assert!(matches!(partition.append("v"), Err(Error::Poisoned { .. })));
    assert_eq!(*told.0.lock(), ["the background thread panicked"]);
}
