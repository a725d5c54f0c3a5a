//! Damage is told, where it is, and stays where it is.

use chiplog::{Durability, Error, ErrorKind, Log, Offset, RecoveryMode, TopicConfig};

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

use crate::support::{append_batches, append_numbers, flip, values};

/// A log of five partitions that was closed in order, the middle one damaged since.
fn damaged() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let config = TopicConfig::default().partitions(5).durability(Durability::Each);
    let topic = log.create_topic("orders", config).unwrap();
    (0..5).for_each(|number| append_batches(&topic.partition(number).unwrap(), 0..20));
    drop(topic);
    log.close().unwrap();
    // With neither the mark nor the notes of this boot, every batch is looked at.
    std::fs::remove_file(dir.path().join("clean")).unwrap();
    std::fs::remove_file(dir.path().join("notes")).unwrap();
    flip(&dir.path().join("orders-2/00000000000000000000.log"), 200);
    dir
}

#[test]
fn one_damaged_partition_leaves_the_others_alone() {
    let dir = damaged();
    let log = Log::open(dir.path()).unwrap();
    let found = log.damaged();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].partition.as_ref().unwrap().to_string(), "orders-2");
    let Error::Corrupt(corruption) = &*found[0].error else { panic!("{:?}", found[0].error) };
    assert!(corruption.path.ends_with("orders-2/00000000000000000000.log"), "{corruption}");
    assert!(corruption.position <= 200, "{corruption}");

    let topic = log.find_topic("orders").unwrap();
    assert_eq!(topic.partition(2).unwrap_err().kind(), ErrorKind::Corrupt);
    for number in [0, 1, 3, 4] {
        let partition = topic.partition(number).unwrap();
        assert_eq!(values(&partition).len(), 20);
        append_numbers(&partition, 20..25);
    }
    assert_eq!(log.stats().unwrap().damaged_partitions, 1);
}

#[test]
fn a_strict_open_refuses_a_damaged_log_and_changes_no_batch() {
    let dir = damaged();
    let path = dir.path().join("orders-2/00000000000000000000.log");
    let before = std::fs::read(&path).unwrap();
    assert_eq!(Log::builder(dir.path()).strict().open().unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert!(Log::open(dir.path()).is_ok(), "the refusal let go of the lock");
}

/// After an orderly close nothing is looked at before it is read.
#[test]
fn rot_in_a_closed_log_is_an_error_at_the_read() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    append_batches(&log.topic("orders").unwrap().partition(0).unwrap(), 0..20);
    log.close().unwrap();
    flip(&dir.path().join("orders-0/00000000000000000000.log"), 200);

    let log = Log::open(dir.path()).unwrap();
    let partition = log.find_topic("orders").unwrap().partition(0).unwrap();
    let Err(Error::Corrupt(corruption)) = partition.read(Offset(0)).and_then(|first| {
        assert!(first.next_offset() < Offset(20), "a damaged batch was served");
        partition.read(first.next_offset())
    }) else {
        panic!("damage was not seen")
    };
    assert!(corruption.position <= 200, "{corruption}");
}

/// The guide's way back from a backup that is older than the log.
#[test]
fn a_partition_is_restored_from_an_older_backup() -> Result<()> {
    let (dir, backup) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let append = |count: u32| -> Result<()> {
        let log = Log::open(dir.path())?;
        let partition = log.topic("orders")?.partition(0)?;
        (0..count).try_for_each(|_| partition.append("paid").map(drop))?;
        drop(partition);
        Ok(log.close()?)
    };
    append(5)?;
    for entry in std::fs::read_dir(dir.path().join("orders-0"))? {
        let entry = entry?;
        std::fs::copy(entry.path(), backup.path().join(entry.file_name()))?;
    }
    append(5)?;
    std::fs::remove_dir_all(dir.path().join("orders-0"))?;
    std::fs::create_dir(dir.path().join("orders-0"))?;
    for entry in std::fs::read_dir(backup.path())? {
        let entry = entry?;
        std::fs::copy(entry.path(), dir.path().join("orders-0").join(entry.file_name()))?;
    }
    std::fs::remove_file(dir.path().join("clean"))?;

    let log = Log::open(dir.path())?;
    assert_eq!(log.damaged().len(), 1, "more was there");
    log.close()?;
    let log = Log::builder(dir.path()).recovery(RecoveryMode::Salvage).open()?;
    let partition = log.topic("orders")?.partition(0)?;
    assert_eq!(partition.offsets().end, Offset(5));
    partition.append("paid")?;
    drop(partition);
    log.close()?;
    let log = Log::builder(dir.path()).strict().open()?;
    assert_eq!(log.topic("orders")?.partition(0)?.offsets().end, Offset(6));
    Ok(())
}

/// With damaged checkpoints, and an index that was gone, a start came back that had been raised: the mark of the orderly
/// close knew it, and was not asked.
#[test]
fn a_raised_start_stays_when_the_checkpoints_are_damaged() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let log = Log::open(dir.path())?;
    let partition = log.topic("orders")?.partition(0)?;
    (0..5).try_for_each(|_| partition.append("paid").map(drop))?;
    log.delete_before("orders", 0, Offset(3))?;
    drop(partition);
    log.close()?;
    flip(&dir.path().join("checkpoints"), 60);
    std::fs::remove_file(dir.path().join("orders-0/00000000000000000000.timeindex"))?;
    let log = Log::open(dir.path())?;
    let offsets = log.topic("orders")?.partition(0)?.offsets();
    assert_eq!((offsets.start, offsets.synced, offsets.end), (Offset(3), Offset(5), Offset(5)));
    Ok(())
}
