//! Damage is told, where it is, and stays where it is.

use std::sync::Mutex;

use chiplog::{
    BatchMended, DamageCut, Durability, Error, ErrorKind, LeaderEpoch, Log, Observer, Offset, RecoveryMode,
    TopicConfig,
};

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

/// What an observer was told of damage.
#[derive(Debug, Default)]
struct Cuts {
    /// Position, lost offsets, and the file it is kept in.
    cut: Mutex<Vec<(u64, std::ops::Range<u64>, std::path::PathBuf)>>,
    /// Position, and what is there now.
    mended: Mutex<Vec<(u64, Offset, LeaderEpoch)>>,
}

impl Observer for Cuts {
    fn damage_cut_out(&self, cut: &DamageCut<'_>) {
        let lost = cut.first_offset.0..cut.next_offset.0;
        self.cut.lock().unwrap().push((cut.position, lost, cut.kept_in.to_owned()));
    }

    fn batch_mended(&self, mended: &BatchMended<'_>) {
        self.mended.lock().unwrap().push((mended.position, mended.offset, mended.leader_epoch));
    }
}

/// Of three segments, each damaged in another way, and of a fourth that is gone, all that is whole is kept.
#[test]
fn a_salvage_keeps_every_batch_that_verifies() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let log = Log::open(dir.path())?;
    let topic = log.create_topic("orders", TopicConfig::default().segment_bytes(1000))?;
    let partition = topic.partition(0)?;
    let name = |number: u64| format!("{number:02}");
    for number in 0..60 {
        partition.append_all([&*name(number)])?;
    }
    let bases: Vec<u64> = partition.segments().iter().map(|segment| segment.base().0).collect();
    drop((topic, partition));
    log.close()?;
    let segment = |at: usize| dir.path().join(format!("orders-0/{:020}.log", bases[at]));
    let len = std::fs::metadata(segment(0))?.len() / (bases[1] - bases[0]);
    // A record of the third batch; the offset of the second; the length of the last.
    let flip = |at: usize, position: u64| flip(&segment(at), position as usize);
    flip(0, 2 * len + 65);
    flip(1, len + 6);
    flip(2, (bases[3] - bases[2] - 1) * len + 9);
    std::fs::remove_file(segment(3))?;
    // The offset is told by the batches around it.
    let lost: Vec<u64> = [bases[0] + 2, bases[3] - 1].into_iter().chain(bases[3]..bases[4]).collect();
    let kept: Vec<String> = (0..60).filter(|number| !lost.contains(number)).map(name).collect();

    let cuts = std::sync::Arc::new(Cuts::default());
    let salvage = Log::builder(dir.path()).recovery(RecoveryMode::Salvage);
    let log = salvage.observer(std::sync::Arc::clone(&cuts) as _).strict().open()?;
    let partition = log.topic("orders")?.partition(0)?;
    assert_eq!((values(&partition), partition.offsets().end), (kept.clone(), Offset(60)));
    partition.append("more")?;
    drop(partition);
    log.close()?;

    let told = cuts.cut.lock().unwrap();
    let ranges: Vec<_> = told.iter().map(|(position, lost, _)| (*position, lost.clone())).collect();
    let last = bases[3] - 1;
    assert_eq!(ranges, [(2 * len, 2..3), ((last - bases[2]) * len, last..bases[4])]);
    assert_eq!(*cuts.mended.lock().unwrap(), [(len, Offset(bases[1] + 1), LeaderEpoch(0))]);
    for (_, _, kept_in) in told.iter() {
        assert_eq!(std::fs::metadata(kept_in)?.len(), len, "{}", kept_in.display());
    }
    // From here on it is an ordinary log.
    let log = Log::builder(dir.path()).strict().open()?;
    let found = values(&log.topic("orders")?.partition(0)?);
    assert_eq!(found, [&kept[..], &["more".to_owned()]].concat());
    Ok(())
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

/// A log of sixty batches in segments of about ten, closed, and where its segments begin.
fn sixty(dir: &std::path::Path) -> Result<Vec<u64>> {
    let log = Log::open(dir)?;
    let topic = log.create_topic("orders", TopicConfig::default().segment_bytes(1000))?;
    let partition = topic.partition(0)?;
    append_padded(&partition, 0..60)?;
    let bases = partition.segments().iter().map(|segment| segment.base().0).collect();
    drop((topic, partition));
    log.close()?;
    Ok(bases)
}

fn append_padded(partition: &chiplog::Partition, numbers: std::ops::Range<u64>) -> Result<()> {
    for number in numbers {
        partition.append_all([&*format!("{number:02}")])?;
    }
    Ok(())
}

/// The same, of which the third batch was salvaged away: from then on, offsets may be missing. Also how long a batch is.
fn with_a_gap(dir: &std::path::Path) -> Result<(Vec<u64>, usize)> {
    let bases = sixty(dir)?;
    let first = dir.join("orders-0/00000000000000000000.log");
    let len = (std::fs::metadata(&first)?.len() / bases[1]) as usize;
    flip(&first, 2 * len + 65);
    forget(dir);
    assert_eq!(salvaged(dir)?, without(&[2]));
    Ok((bases, len))
}

/// What is left after a salvage of the log in `dir`, which is an ordinary one from then on.
fn salvaged(dir: &std::path::Path) -> Result<Vec<String>> {
    let log = Log::builder(dir).recovery(RecoveryMode::Salvage).strict().open()?;
    let found = values(&log.topic("orders")?.partition(0)?);
    log.close()?;
    let log = Log::builder(dir).strict().open()?;
    assert_eq!(values(&log.topic("orders")?.partition(0)?), found);
    log.close()?;
    Ok(found)
}

fn without(lost: &[u64]) -> Vec<String> {
    (0..60).filter(|number| !lost.contains(number)).map(|number| format!("{number:02}")).collect()
}

/// Removes what vouches for the files: every batch is looked at then.
fn forget(dir: &std::path::Path) {
    for name in ["clean", "notes"] {
        let _ = std::fs::remove_file(dir.join(name));
    }
}

/// No checksum covers a leader epoch. The batch with the wrong one was believed, and all that came behind it was cut off.
#[test]
fn a_salvage_sets_a_raised_epoch_right_and_drops_no_batch() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let bases = sixty(dir.path())?;
    let path = dir.path().join(format!("orders-0/{:020}.log", bases[1]));
    let (before, len) = (std::fs::read(&path)?, std::fs::metadata(&path)?.len() / (bases[2] - bases[1]));
    flip(&path, 2 * len as usize + 12);
    forget(dir.path());
    assert_eq!(salvaged(dir.path())?, without(&[]));
    assert!(std::fs::read(&path)? == before);
    Ok(())
}

/// No checksum covers an offset either: raised or lowered, in the first batch of a segment or the last.
#[test]
fn a_salvage_sets_an_offset_right_that_the_batches_around_it_tell() -> Result<()> {
    for at in [Some(0), Some(3), None] {
        for byte in [2, 7] {
            let dir = tempfile::tempdir()?;
            let bases = sixty(dir.path())?;
            let at = at.unwrap_or(bases[2] - bases[1] - 1);
            let path = dir.path().join(format!("orders-0/{:020}.log", bases[1]));
            let (before, len) = (std::fs::read(&path)?, std::fs::metadata(&path)?.len() / (bases[2] - bases[1]));
            flip(&path, (at * len) as usize + byte);
            forget(dir.path());
            assert_eq!(salvaged(dir.path())?, without(&[]), "batch {at}, byte {byte}");
            assert!(std::fs::read(&path)? == before);
        }
    }
    Ok(())
}

/// The room behind the batches of a durable topic was copied, put aside, and told as a torn tail.
#[test]
fn a_salvage_of_a_file_that_has_its_length_from_the_start_keeps_no_room() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let log = Log::open(dir.path())?;
    let config = TopicConfig::default().segment_bytes(1 << 20).durability(Durability::Each);
    let partition = log.create_topic("orders", config)?.partition(0)?;
    append_padded(&partition, 0..60)?;
    // As a kill leaves it.
    let copy = tempfile::tempdir()?;
    crate::support::copy(dir.path(), copy.path());
    let path = copy.path().join("orders-0/00000000000000000000.log");
    assert!(std::fs::metadata(&path)?.len() > 60_000);
    flip(&path, 80);
    forget(copy.path());
    assert_eq!(salvaged(copy.path())?.len(), 59);
    let cut: u64 = std::fs::read_dir(copy.path().join("orders-0"))?
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".cut"))
        .map(|entry| entry.metadata().unwrap().len())
        .sum();
    assert!(cut < 100, "{cut}");
    Ok(())
}

/// Where offsets may be missing, a raised one passed for a gap: what came behind it was "torn", or cut out.
#[test]
fn a_raised_offset_among_gaps_is_damage_and_a_salvage_drops_no_other_batch() -> Result<()> {
    // In the middle of a segment, and last in one.
    for is_last in [false, true] {
        let dir = tempfile::tempdir()?;
        let (bases, len) = with_a_gap(dir.path())?;
        let path = |at: usize| dir.path().join(format!("orders-0/{:020}.log", bases[at]));

        let raised = if is_last { bases[3] - 1 } else { bases[2] + 3 };
        flip(&path(2), (raised - bases[2]) as usize * len + 3);
        forget(dir.path());
        // By its seal the segment is whole. Who reads it is told.
        let log = Log::open(dir.path())?;
        let partition = log.topic("orders")?.partition(0)?;
        let found: Vec<_> =
            (0..60).map(|from| partition.read(Offset(from)).err().map(|error| error.kind())).collect();
        assert_eq!(found[raised as usize], Some(ErrorKind::Corrupt), "{is_last}");
        drop(partition);
        log.close()?;
        // What was adopted has no seals at first.
        std::fs::remove_file(path(2).with_extension("seal"))?;
        forget(dir.path());
        let before = crate::support::files(&dir.path().join("orders-0"));
        let log = Log::open(dir.path())?;
        assert_eq!(log.damaged().len(), 1, "a raised offset passed for a gap");
        log.close()?;
        assert_eq!(crate::support::files(&dir.path().join("orders-0")), before);
        assert_eq!(salvaged(dir.path())?, without(&[2, raised]), "{is_last}");
    }
    Ok(())
}

/// A record can hold what is a batch. A salvage took one for what comes behind the damage, invented its records, and dropped
/// the true ones, whose offsets were lower.
#[test]
fn a_salvage_does_not_take_what_a_record_holds_for_a_batch() -> Result<()> {
    let other = tempfile::tempdir()?;
    sixty(other.path())?;
    let mut batch = std::fs::read(other.path().join("orders-0/00000000000000000000.log"))?;
    let len = 12 + u32::from_be_bytes(batch[8..12].try_into()?) as usize;
    batch.truncate(len);
    batch[..8].copy_from_slice(&5_000_000u64.to_be_bytes());

    // Its timestamp is damaged, which the checksum covers; or the length too, so that where it ends is not known.
    for flips in [&[30][..], &[30, 9]] {
        let dir = tempfile::tempdir()?;
        let log = Log::open(dir.path())?;
        let partition = log.topic("orders")?.partition(0)?;
        append_padded(&partition, 0..30)?;
        partition.append_all([chiplog::Record::new(&batch)])?;
        append_padded(&partition, 31..60)?;
        drop(partition);
        log.close()?;
        let path = dir.path().join("orders-0/00000000000000000000.log");
        let bytes = std::fs::read(&path)?;
        let holder = (0..30)
            .fold(0, |at, _| at + 12 + u32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize);
        for position in flips {
            flip(&path, holder + position);
        }
        forget(dir.path());
        assert_eq!(salvaged(dir.path())?, without(&[30]), "{flips:?}");
    }
    Ok(())
}

/// Nothing follows the last batch that could tell whether records are missing before it, or its offset was raised.
#[test]
fn a_salvage_does_not_serve_the_last_batch_at_an_offset_that_nothing_confirms() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let bases = sixty(dir.path())?;
    let last = *bases.last().ok_or("no segment")?;
    let path = dir.path().join(format!("orders-0/{last:020}.log"));
    let bytes = std::fs::read(&path)?;
    let len = 12 + u32::from_be_bytes(bytes[8..12].try_into()?) as usize;
    flip(&path, (59 - last) as usize * len + 4);
    forget(dir.path());
    assert_eq!(salvaged(dir.path())?, without(&[59]));
    Ok(())
}

/// A file of a sealed segment that ends at a batch, but earlier than it did, passed for what compaction leaves.
#[test]
fn a_sealed_segment_that_was_cut_is_no_gap() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (bases, len) = with_a_gap(dir.path())?;
    let path = |at: usize| dir.path().join(format!("orders-0/{:020}.log", bases[at]));
    for kept in [3, 0] {
        std::fs::File::options().write(true).open(path(2))?.set_len(kept * len as u64)?;
        forget(dir.path());
        let log = Log::open(dir.path())?;
        assert_eq!(log.damaged().len(), 1, "{kept} batches are left, and the rest was not missed");
        log.close()?;
    }
    let lost: Vec<u64> = std::iter::once(2).chain(bases[2]..bases[3]).collect();
    assert_eq!(salvaged(dir.path())?, without(&lost));
    Ok(())
}
