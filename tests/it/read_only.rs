//! A log that is open read-only is not changed by a byte.

use chiplog::{Durability, Error, Log, Offset, Record, Staging, TopicConfig};

use crate::support::{append_numbers, files, values};

#[test]
fn nothing_changes_and_changes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let config = TopicConfig::default().segment_bytes(1000).durability(Durability::Each);
    append_numbers(&log.create_topic("orders", config).unwrap().partition(0).unwrap(), 0..50);
    log.group("billing").unwrap().commit("orders", 0, Offset(7)).unwrap();
    log.close().unwrap();
    let before = files(dir.path());

    let log = Log::builder(dir.path()).read_only().open().unwrap();
    let partition = log.find_topic("orders").unwrap().partition(0).unwrap();
    assert_eq!(values(&partition).len(), 50);
    assert_eq!(log.group("billing").unwrap().committed("orders", 0).unwrap().unwrap().offset, Offset(7));
    let refused = [
        partition.append("x").map(|_| ()),
        log.create_topic("new", config).map(|_| ()),
        log.append(Record::new("x").to("new")).map(|_| ()),
        log.alter_topic("orders", config.partitions(2)),
        log.delete_topic("orders"),
        log.delete_before("orders", 0, Offset(3)),
        log.group("billing").unwrap().commit("orders", 0, Offset(8)),
    ];
    for (at, refused) in refused.into_iter().enumerate() {
        assert!(matches!(refused, Err(Error::ReadOnly)), "call {at}: {refused:?}");
    }
    assert!(matches!(log.topic("new"), Err(Error::TopicNotFound { .. })));
    assert_eq!(log.topic("orders").unwrap().partition_count(), 1);
    log.maintain().unwrap();
    drop(partition);
    log.close().unwrap();
    assert!(files(dir.path()) == before, "a file was changed");
}

/// What a killed process left is recovered in memory only.
#[test]
fn a_log_that_was_not_closed_is_read_without_repair() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::builder(dir.path()).staging(Staging::Off).open().unwrap();
    append_numbers(&log.topic("orders").unwrap().partition(0).unwrap(), 0..10);
    // A copy of an open log is what a kill leaves where nothing is staged; this one ends in half a batch.
    let copy = tempfile::tempdir().unwrap();
    for (name, bytes) in files(dir.path()) {
        let path = copy.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let path = copy.path().join("orders-0/00000000000000000000.log");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
    let before = files(copy.path());

    let log = Log::builder(copy.path()).read_only().open().unwrap();
    assert_eq!(values(&log.find_topic("orders").unwrap().partition(0).unwrap()).len(), 9);
    log.close().unwrap();
    assert!(files(copy.path()) == before, "a file was changed");

    // The next to write carries out what was found.
    let log = Log::open(copy.path()).unwrap();
    append_numbers(&log.find_topic("orders").unwrap().partition(0).unwrap(), 9..12);
    log.close().unwrap();
}
