//! Beside a compaction: readers, retention, other settings, and keys that are erased.

use super::*;

/// A reader that had the old segments, none of them opened, reads on while they are replaced.
#[test]
pub(super) fn readers_of_old_segments_read_on() {
    let disk = life();
    let log = builder(&disk).max_maps(1).open().unwrap();
    let mut reader = partition(&log).reader().options(ReadOptions::default().max_bytes(1));
    let before = committed(&log);
    let held = partition(&log).read(Offset::ZERO).unwrap();
    let seen_before: Vec<_> = held.iter().map(|record| record.value.map(<[u8]>::to_vec)).collect();
    let old = partition(&log).core.segments();
    compact(&log, &disk);
    for segment in old.iter() {
        let (view, len) = (segment.view().unwrap(), segment.len());
        let mut position = 0;
        while position < len {
            position += u64::from(segment.header(&view, position, len).unwrap().batch_len);
        }
        assert!(segment.locate(segment.end()).unwrap().is_none());
    }
    assert!(held.iter().map(|record| record.value.map(<[u8]>::to_vec)).eq(seen_before));
    let mut at = Offset::ZERO;
    while at < partition(&log).offsets().end {
        let records = reader.read(at).unwrap();
        assert!(records.next_offset() > at);
        at = records.next_offset();
    }
    assert_eq!(table(&committed(&log)), table(&before));
}

/// Retention, deletion by hand and of the topic, other settings: a round that is under way is given up, or goes on.
#[test]
fn whatever_else_is_done_between_two_steps_of_a_round_is_done() {
    type Change = fn(&Log);
    let changes: [(&str, Change); 6] = [
        ("append", |log| append(log, "mnopq")),
        ("delete before", |log| log.delete_before("a", 0, Offset(9)).unwrap()),
        ("alter", |log| log.alter_topic("a", small().cleanup(Cleanup::Delete)).unwrap()),
        ("delete", |log| log.delete_topic("a").unwrap()),
        ("erase", |log| {
            let _ = log.topic("a").unwrap().erase("e").unwrap();
        }),
        ("backup", |log| drop(log.backup(format!("/backup{}", OPENED.load(Ordering::Relaxed))).unwrap())),
    ];
    for (name, change) in changes {
        for calls in 0..12 {
            let disk = life();
            let log = open(&disk);
            log.alter_topic("a", small().cleanup(Cleanup::CompactAndDelete).retention_time(None)).unwrap();
            let before = committed(&log);
            for _ in 0..calls {
                let done = log.maintain().unwrap();
                disk.clock().advance(done.next.min(Duration::from_secs(1)));
            }
            change(&log);
            for _ in 0..30 {
                let done = log.maintain().unwrap_or_else(|error| panic!("{name} after {calls}: {error}"));
                disk.clock().advance(done.next.min(Duration::from_secs(1)));
            }
            if log.find_topic("a").is_some() {
                let start = partition(&log).offsets().start.0;
                let expected = table(&before);
                let seen = table(&committed(&log));
                let is_right = |key: &String| {
                    let last = before.iter().rfind(|(_, (other, _))| other == key).map_or(0, |(offset, _)| *offset);
                    last < start || name == "erase" && key == "e" || seen.get(key) == expected.get(key)
                };
                assert!(expected.keys().all(is_right), "{name} after {calls}: {seen:?}, not {expected:?}");
                verified(&log);
            }
            log.close().unwrap();
            assert_eq!(unfinished_files(&disk), Vec::<String>::new(), "{name} after {calls}");
            assert_eq!(disk.audit(), None);
            open(&disk);
        }
    }
}

/// The files are written, and wait for their names, when a source of theirs is removed.
#[test]
fn a_source_that_goes_while_a_swap_waits_for_the_names_takes_the_round_with_it() {
    let disk = life();
    let log = open(&disk);
    log.alter_topic("a", small().cleanup(Cleanup::CompactAndDelete).retention_time(None)).unwrap();
    let held = partition(&log).core.hold_names().unwrap();
    for _ in 0..20 {
        let done = log.maintain().unwrap();
        disk.clock().advance(done.next.min(Duration::from_secs(1)));
    }
    assert!(!unfinished_files(&disk).is_empty());
    log.delete_before("a", 0, Offset(9)).unwrap();
    drop(held);
    compact(&log, &disk);
    append(&log, "a");
    verified(&log);
    log.close().unwrap();
    assert_eq!(unfinished_files(&disk), Vec::<String>::new());
    assert_eq!(disk.audit(), None);
    verified(&open(&disk));
}

#[test]
fn an_erased_key_is_in_no_file_any_more_but_for_its_tombstone() {
    let disk = life();
    let log = open(&disk);
    let before = committed(&log);
    let erased = log.topic("a").unwrap().erase("x").unwrap();
    let after = found(&log, Isolation::Uncommitted);
    let of_x: Vec<_> = after.iter().filter(|(_, (key, _))| key == "x").collect();
    assert_eq!(of_x, [(&erased.offset.0, &("x".to_owned(), None))]);
    let others = |found: &Found| found.values().filter(|(key, _)| key != "x").cloned().collect::<Vec<_>>();
    assert_eq!(others(&committed(&log)), others(&before), "nothing else went");
    verified(&log);
    // Also not after a power cut, and not in a file that nobody reads.
    let crashed = disk.crash(3);
    let log = open(&crashed);
    assert!(!table(&committed(&log)).contains_key("x"));
    for (path, bytes) in crashed.image().files() {
        let holds = bytes.windows(60).any(|window| window == format!("{:060}", 12).as_bytes());
        assert!(!holds, "{}", path.display());
    }
    log.topic("a").unwrap().erase("nobody").unwrap();
    verified_after_crash(&log);
    let plain = log.create_topic("b", TopicConfig::default()).unwrap();
    assert!(matches!(plain.erase("x"), Err(Error::NotCompacted { .. })));
}

/// While the files are held under their names an erasure waits, and whatever else is done is done.
#[test]
fn an_erasure_ends_when_the_topic_is_altered_or_its_records_are_removed() {
    type Change = fn(&Log);
    let changes: [Change; 2] = [
        |log| log.delete_before("a", 0, partition(log).offsets().end).unwrap(),
        |log| log.alter_topic("a", small().cleanup(Cleanup::Delete).retention_time(None)).unwrap(),
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let disk = life();
        let log = open(&disk);
        log.alter_topic("a", small().cleanup(Cleanup::CompactAndDelete).retention_time(None)).unwrap();
        let end = partition(&log).offsets().end;
        let held = partition(&log).core.hold_names().unwrap();
        let erasing = std::thread::spawn({
            let log = log.clone();
            move || log.topic("a").unwrap().erase("x")
        });
        while unfinished_files(&disk).is_empty() {
            std::thread::yield_now();
        }
        change(&log);
        drop(held);
        let erased = erasing.join().unwrap();
        match at {
            0 => assert_eq!(erased.unwrap().offset, end),
            _ => assert!(matches!(erased, Err(Error::NotCompacted { .. })), "{erased:?}"),
        }
        verified(&log);
        log.close().unwrap();
        assert_eq!(unfinished_files(&disk), Vec::<String>::new());
    }
}
