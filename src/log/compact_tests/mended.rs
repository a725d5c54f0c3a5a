//! What was wrong with compaction, with erasing, and with who reads what is left.

use std::sync::mpsc::channel;

use super::*;
use crate::log::partitioner::partition_for_key;

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

/// Which partition is put back, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PutBack {
    /// As the guide says.
    ToBeSalvaged,
    /// What was lost since the backup was nothing but a round of compaction.
    AsItIs,
    /// One of a build that did not write down there how far it was compacted.
    WithoutNumber,
}

/// A partition that was put back from a backup was taken for compacted as far as the one whose place it took: its tombstones
/// went before what they delete.
#[test]
fn a_deleted_key_stays_deleted_in_a_partition_that_was_put_back() {
    for put_back in [PutBack::ToBeSalvaged, PutBack::AsItIs, PutBack::WithoutNumber] {
        let disk = SimDisk::new(DiskOptions::default());
        let log = open(&disk);
        log.create_topic("a", small()).unwrap();
        append(&log, "xxxxxxyyyyyy");
        log.sync().unwrap();
        compact(&log, &disk);
        append(&log, "abcdAeeeeeeeeeeee");
        log.sync().unwrap();
        log.backup("/backup").unwrap();
        assert_eq!(table(&committed(&log)).get("a"), None);
        if put_back != PutBack::AsItIs {
            append(&log, "gg");
        }
        compact(&log, &disk);
        log.close().unwrap();

        let files = disk.image().files();
        for path in files.keys().filter(|path| path.starts_with("/log/a-0")) {
            disk.remove_file(path).unwrap();
        }
        for path in files.keys().filter(|path| path.starts_with("/backup/a-0")) {
            disk.rename(path, &Path::new("/log/a-0").join(path.file_name().unwrap())).unwrap();
        }
        if put_back == PutBack::WithoutNumber {
            disk.remove_file(Path::new("/log/a-0/compacted")).unwrap();
        }
        disk.remove_file(Path::new("/log/clean")).unwrap();
        disk.sync_dir(Path::new("/log/a-0")).unwrap();
        disk.sync_dir(Path::new("/log")).unwrap();

        let recovery = match put_back {
            PutBack::AsItIs => crate::RecoveryMode::Report,
            _ => crate::RecoveryMode::Salvage,
        };
        let log = builder(&disk).recovery(recovery).open().unwrap();
        assert_eq!(table(&committed(&log)).get("a"), None);
        for keys in ["ffffffff", "gggggggg"] {
            append(&log, keys);
            log.sync().unwrap();
            compact(&log, &disk);
            disk.clock().advance(Duration::from_secs(61));
            assert_eq!(table(&committed(&log)).get("a"), None, "{put_back:?}: it was deleted");
        }
    }
}

#[test]
fn how_far_a_partition_is_compacted_outlives_a_close_and_a_kill() {
    let disk = SimDisk::new(DiskOptions::default());
    let log = open(&disk);
    log.create_topic("a", small()).unwrap();
    append(&log, "abababababab");
    log.sync().unwrap();
    compact(&log, &disk);
    let cleaned = partition(&log).core.cleaned();
    assert!(cleaned > Offset::ZERO);
    assert_eq!(partition(&open(&disk.kill())).core.cleaned(), cleaned);
    log.close().unwrap();
    assert_eq!(partition(&open(&disk)).core.cleaned(), cleaned);
}

/// An erasure that had to wait while its topic got more partitions put the tombstone where the key led by then, and waited
/// for that offset, in the other partition, for ever.
#[test]
fn an_erasure_that_waits_while_the_topic_gets_partitions_ends() {
    let disk = SimDisk::new(DiskOptions::default());
    let log = open(&disk);
    log.create_topic("a", small()).unwrap();
    let leads_elsewhere = |key: &String| partition_for_key(key.as_bytes(), 2) == 1;
    let key = (0..10).map(|number| number.to_string()).find(leads_elsewhere).unwrap();
    append(&log, &format!("a{key}b"));
    let core = Arc::clone(&partition(&log).core);
    // Another erasure is under way.
    let other = core.erasing.lock();
    let (done, ended) = channel();
    std::thread::spawn({
        let (topic, key) = (log.topic("a").unwrap(), key.clone());
        move || done.send(topic.erase(&key))
    });
    // Time to come to the lock; with less it chooses later, and has nothing to wait for.
    std::thread::sleep(Duration::from_millis(50));
    log.alter_topic("a", small().partitions(2)).unwrap();
    let second = log.topic("a").unwrap().partition(1).unwrap();
    (0..10).for_each(|_| drop(second.append(Record::new("x").key("z")).unwrap()));
    drop(other);
    let erased = ended.recv_timeout(Duration::from_secs(30)).expect("it ends").unwrap();
    if erased.partition == 0 {
        assert_eq!(table(&committed(&log)).get(key.as_str()), None);
    }
}

/// Erases another key when it is told of a sync, once.
#[derive(Debug, Default)]
struct Erases(parking_lot::Mutex<Option<crate::Topic>>);

impl crate::Observer for Erases {
    fn synced(&self, _: &crate::Synced<'_>) {
        let topic = self.0.lock().take();
        topic.into_iter().for_each(|topic| assert_eq!(topic.erase("b").unwrap().partition, 0));
    }
}

/// The lock of who erases was held while an observer was told: one that erased there as well waited for itself.
#[test]
fn an_observer_that_is_told_of_an_erasure_may_erase() {
    let disk = SimDisk::new(DiskOptions::default());
    let observer = Arc::new(Erases::default());
    let log = builder(&disk).observer(Arc::clone(&observer) as Arc<dyn crate::Observer>).open().unwrap();
    log.create_topic("a", small()).unwrap();
    append(&log, "abab");
    let topic = log.topic("a").unwrap();
    *observer.0.lock() = Some(topic.clone());
    let (done, ended) = channel();
    std::thread::spawn(move || done.send(topic.erase("a")));
    ended.recv_timeout(Duration::from_secs(30)).expect("it ends").unwrap();
    assert!(table(&committed(&log)).is_empty() && observer.0.lock().is_none());
}

/// What retention had removed was remembered for as long as the log was open, and each abort copied all of it.
#[test]
fn aborted_transactions_that_retention_removed_are_forgotten() {
    let disk = SimDisk::new(DiskOptions::default());
    let log = open(&disk);
    log.create_topic("a", small().cleanup(Cleanup::Delete)).unwrap();
    let mut producer = log.producer().transactional("id").unwrap();
    let mut abort = |value: &str| {
        let mut transaction = producer.begin().unwrap();
        transaction.send(Record::new(value).to("a")).unwrap();
        transaction.abort().unwrap();
    };
    let partition = partition(&log);
    let core = Arc::clone(&partition.core);
    let known = || core.aborted().unwrap().len();
    (0..50).for_each(|_| abort("gone"));
    assert_eq!(known(), 50);
    let held = partition.fetch(Offset::ZERO, ReadOptions::default().isolation(Isolation::Committed)).unwrap();
    assert!(!held.aborted().is_empty());
    log.delete_before("a", 0, partition.offsets().end).unwrap();
    assert_eq!(known(), 0);
    let overtaken = core.aborted_within(Offset::ZERO, Offset(4)).unwrap_err();
    assert!(matches!(overtaken, Error::OffsetOutOfRange { .. }), "who has read of what was removed: {overtaken}");
    abort("later");
    append(&log, "a");
    assert_eq!((known(), committed(&log).len()), (1, 1));
    let topic = log.topic("a").unwrap().id();
    log.delete_before("a", 0, partition.offsets().end).unwrap();
    drop(partition);
    log.close().unwrap();
    let mark = String::from_utf8(disk.image().files()[Path::new("/log/clean")].clone()).unwrap();
    let closed = mark.lines().find(|line| line.starts_with(&format!("partition {topic} 0 "))).unwrap();
    assert!(closed.ends_with(" aborted 0"), "{closed}");
}
