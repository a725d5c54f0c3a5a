//! What was wrong with compaction, with erasing, and with who reads what is left.

use super::*;

/// A table that was not caught up for longer than tombstones stay kept the keys that were deleted meanwhile, for ever: the
/// tombstones were gone when it read on. Of a table that keeps places, they took the room of others.
#[test]
fn a_table_that_was_idle_for_long_forgets_what_was_deleted_meanwhile() {
    let disk = SimDisk::new(DiskOptions::default());
    let log = open(&disk);
    log.create_topic("a", small()).unwrap();
    append(&log, "abcd");
    let topic = log.topic("a").unwrap();
    let (mut values, mut places) = (topic.table().unwrap(), topic.table_within(5).unwrap());
    append(&log, "Aeeeeeeee");
    log.sync().unwrap();
    compact(&log, &disk);
    disk.clock().advance(Duration::from_secs(61));
    append(&log, "ffffffff");
    log.sync().unwrap();
    compact(&log, &disk);
    let is_left = found(&log, Isolation::Committed).values().any(|(key, _)| key == "a");
    assert!(!is_left, "neither value nor tombstone is left");
    for table in [&mut values, &mut places] {
        table.catch_up().unwrap();
        assert_eq!((table.get("a").unwrap(), table.len()), (None, 5), "it was deleted");
        assert_eq!(table.catch_up().unwrap(), 0, "once is enough");
    }
}

#[test]
fn a_table_that_is_caught_up_in_time_reads_nothing_twice() {
    let disk = SimDisk::new(DiskOptions::default());
    let log = open(&disk);
    log.create_topic("a", small()).unwrap();
    append(&log, "abcd");
    let mut table = log.topic("a").unwrap().table().unwrap();
    for keys in ["Aeeeeeeee", "ffffffff", "gggggggg", "Bhhhhhhh", "iiiiiiii", "jjjjjjjj"] {
        append(&log, keys);
        log.sync().unwrap();
        assert_eq!(table.catch_up().unwrap(), keys.len() as u64);
        compact(&log, &disk);
        disk.clock().advance(Duration::from_secs(61));
    }
    assert_eq!((table.get("a").unwrap(), table.get("b").unwrap(), table.len()), (None, None, 8));
}

/// They were hidden, and stayed in memory for as long as the table.
#[test]
fn a_table_lets_go_of_what_retention_has_removed_when_it_is_caught_up() {
    let disk = SimDisk::new(DiskOptions::default());
    let log = open(&disk);
    log.create_topic("a", small().cleanup(Cleanup::CompactAndDelete)).unwrap();
    append(&log, "abcdefgh");
    let topic = log.topic("a").unwrap();
    let (mut values, mut places) = (topic.table().unwrap(), topic.table_within(8).unwrap());
    log.delete_before("a", 0, Offset(6)).unwrap();
    append(&log, "ijkl");
    for table in [&mut values, &mut places] {
        assert_eq!((table.len(), table.catch_up().unwrap(), table.len()), (8, 4, 6));
    }
}
