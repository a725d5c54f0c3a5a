//! What was decided cannot be read, or not all of it.

use std::path::{Path, PathBuf};

use super::*;
use crate::disk::{Disk, Open, write_all_at};
use crate::record::BatchHeader;

/// Ids belong to different partitions, and what is damaged opens.
fn several(disk: &Arc<SimDisk>) -> LogBuilder {
    lenient(disk, Staging::Off).transactions_topic(small(transactions_config()).partitions(4))
}

/// Where the decisions of the only id are.
fn decisions(disk: &SimDisk) -> PathBuf {
    let files = disk.image().files().into_iter();
    let mut logs = files.filter(|(path, bytes)| {
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        is_log && path.to_string_lossy().contains("__transaction_state") && bytes.iter().any(|byte| *byte != 0)
    });
    let (path, _) = logs.next().unwrap();
    assert!(logs.next().is_none(), "there is one id");
    path
}

/// Turns a bit in a value of the first batch, which was synced long ago.
fn rot(disk: &SimDisk, path: &Path) {
    let at = BatchHeader::LEN as u64 + 20;
    let file = disk.open(path, Open::Write).unwrap();
    let byte = disk.image().files().remove(path).unwrap()[at as usize];
    write_all_at(&*file, &[byte ^ 1], at).unwrap();
    file.sync().unwrap();
}

/// Whether nothing in a topic is open.
fn has_ended(log: &Log, topic: &str) -> bool {
    let offsets = log.find_topic(topic).unwrap().partition(0).unwrap().offsets();
    offsets.stable == offsets.end
}

/// A power cut took markers, and the decisions of one id cannot be read. What they were about stays open, and is told as
/// damage; of another id, whose decision can be read, everything ends as it was decided.
#[test]
fn what_a_damaged_decision_is_about_waits_and_all_else_ends() {
    let mut waited = 0;
    for seed in 0..60 {
        let disk = made_by(several);
        let damaged = decisions(&disk);
        let log = several(&disk).open().unwrap();
        // The second makes durable how the first ended.
        for (number, id) in if seed % 2 == 0 { [(10, "other"), (11, "id")] } else { [(10, "id"), (11, "other")] } {
            let mut producer = log.producer().transactional(id).unwrap();
            txn(2, false, SYNCED).run(number, &log, &mut producer).unwrap();
        }
        let found = disk.crash(seed);
        rot(&found, &damaged);
        let refused = several(&found).strict().open().map(drop).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Corrupt, "seed {seed}: {refused}");

        let log = several(&found).open().unwrap();
        let told: Vec<_> = log.damaged().iter().filter_map(|damage| damage.partition.clone()).collect();
        let [partition] = &told[..] else { panic!("seed {seed}: {told:?}") };
        assert_eq!(partition.to_string(), damaged.parent().unwrap().file_name().unwrap().to_string_lossy());
        let error = log.producer().transactional("id").map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "seed {seed}: {error}");
        let seen = Seen::of(&log).records;
        let has_waited = TOPICS.iter().any(|topic| !has_ended(&log, topic));
        match has_waited {
            true => waited += 1,
            // Nothing was lost that this is about.
            false => assert_eq!(seen, BTreeMap::from([(10, [2, 2]), (11, [2, 2])]), "seed {seed}"),
        }
        // Below the one that waits the other is not to be seen, but nothing of it is open.
        let other = log.producer().transactional("other").unwrap();
        let core = log.find_topic("b").unwrap().partition(0).unwrap().core;
        assert!(core.open_transactions().iter().all(|open| open.producer != other.id()), "seed {seed}");
        // It neither becomes more nor less, however often somebody opens it.
        drop((other, log));
        let log = several(&found.kill()).open().unwrap();
        assert_eq!((Seen::of(&log).records, TOPICS.iter().any(|topic| !has_ended(&log, topic))), (seen, has_waited));
    }
    assert!(waited > 5, "{waited}");
}

/// Nobody looks at bytes that were shut down in order, until what they say is asked for.
#[test]
fn damage_that_is_found_when_decisions_are_read_is_told_like_any_other() {
    let disk = made_by(several);
    let damaged = decisions(&disk);
    let log = several(&disk).open().unwrap();
    let mut producer = log.producer().transactional("id").unwrap();
    for number in 10..14 {
        txn(2, true, SYNCED).run(number, &log, &mut producer).unwrap();
    }
    drop(producer);
    log.close().unwrap();
    rot(&disk, &damaged);
    let refused = several(&disk).strict().open().map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
    let log = several(&disk).open().unwrap();
    assert_eq!(log.damaged().len(), 1);
    assert!(log.producer().transactional("id").is_err());
    assert_eq!(Seen::of(&log).records.len(), 4, "what had ended is there");
    log.producer().transactional("other").unwrap().begin().unwrap().commit().unwrap();
}
