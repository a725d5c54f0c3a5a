//! Directories that are adopted although something in them is not as it should be: what is refused, and what a salvage keeps.

use std::fs;
use std::path::Path;

use chiplog::{Adoption, Background, ErrorKind, Log, LogBuilder, Offset, Partition, RecoveryMode};

use super::Counts;
use super::kafka_dirs::{KafkaDirs, contents};

fn adopting(dir: &Path) -> LogBuilder {
    Log::builder(dir).background(Background::Caller).adopt(Adoption::default().abort_open())
}

fn partition_of(log: &Log, topic: &str, number: u32) -> Partition {
    log.find_topic(topic).expect("a topic").partition(number).expect("a partition")
}

/// The offsets of all records.
fn offsets(partition: &Partition) -> Vec<u64> {
    let (mut found, mut at) = (Vec::new(), partition.offsets().start);
    while at < partition.offsets().end {
        let records = partition.read(at).expect("a readable partition");
        found.extend(records.iter().map(|record| record.offset.0));
        at = records.next_offset();
    }
    found
}

fn replace_line(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).expect("a checkpoint");
    assert!(text.lines().any(|line| line == from), "{text}");
    let lines = text.lines().map(|line| if line == from { to } else { line });
    fs::write(path, lines.map(|line| format!("{line}\n")).collect::<String>()).expect("a writable file");
}

/// One wrong digit in a file without a checksum said that the log starts above its end, and every segment was removed.
pub(super) fn start_above_the_end(dirs: &KafkaDirs, _: &mut Counts) {
    let dir = dirs.copy_partition("clean", "small-segments-0");
    let open = Log::builder(dir.path()).read_only().open().expect("an open");
    let whole = offsets(&partition_of(&open, "small-segments", 0));
    drop(open);
    let starts = dir.path().join("log-start-offset-checkpoint");
    let text = fs::read_to_string(&starts).expect("a checkpoint");
    let line = text.lines().find(|line| line.starts_with("small-segments 0 ")).expect("a line");
    replace_line(&starts, line, "small-segments 0 9000");
    let partition = dir.path().join("small-segments-0");
    let before = contents(&partition);

    let error = adopting(dir.path()).open().expect_err("all records are below the start");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(contents(&partition) == before, "something was changed");

    let log = adopting(dir.path()).recovery(RecoveryMode::Salvage).open().expect("a salvage");
    let partition = partition_of(&log, "small-segments", 0);
    let found = offsets(&partition);
    assert!(found.ends_with(&whole) && found.len() >= whole.len(), "{found:?}");
    partition.append("more").expect("an append");
}

/// The checkpoint of leader epochs has no checksum. One that contradicts the batches was believed, and they were not.
pub(super) fn epochs_that_are_wrong(dirs: &KafkaDirs, _: &mut Counts) {
    for adopts in [false, true] {
        let dir = dirs.copy_partition("clean", "epochs-0");
        replace_line(&dir.path().join("epochs-0/leader-epoch-checkpoint"), "6 3", "6 30");
        let builder = if adopts { adopting(dir.path()) } else { Log::builder(dir.path()).read_only() };
        let log = builder.strict().open().expect("an open");
        let partition = partition_of(&log, "epochs", 0);
        assert_eq!(offsets(&partition), [0, 1, 2, 3, 4, 5, 6]);
        let epochs: Vec<_> = partition.leader_epochs().iter().map(|(epoch, start)| (epoch.0, start.0)).collect();
        assert_eq!(epochs, [(0, 0), (2, 1), (6, 3)]);
        drop(partition);
        // Once more, by the file and the mark of a close; then spoiled again.
        if adopts {
            log.close().expect("a close");
            replace_line(&dir.path().join("epochs-0/leader-epoch-checkpoint"), "6 3", "6 30");
            let log = Log::builder(dir.path()).strict().open().expect("an open");
            let partition = partition_of(&log, "epochs", 0);
            assert_eq!(partition.append("more").expect("an append").offset(), Offset(7));
            assert_eq!(offsets(&partition), [0, 1, 2, 3, 4, 5, 6, 7]);
        }
    }
}

/// A partition that was found damaged only after the adoption kept its open transaction for ever: to abort them was taken for
/// done.
pub(super) fn open_transactions_of_what_is_damaged(dirs: &KafkaDirs, _: &mut Counts) {
    let is_open = |partition: &Partition| partition.offsets().stable < partition.offsets().end;
    let all = dirs.copy("clean");
    let log = Log::builder(all.path()).read_only().open().expect("an open");
    let number = (0..3)
        .find(|number| is_open(&partition_of(&log, "payments", *number)))
        .expect("one with an open transaction");
    drop(log);
    let name = format!("payments-{number}");
    let dir = dirs.copy_partition("clean", &name);
    // A record of the first batch: the last are looked at before it is adopted.
    let mut logs: Vec<_> = contents(&dir.path().join(&name))
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    logs.sort();
    let (path, bytes) = logs.remove(0);
    let mut bytes = bytes.expect("a file");
    bytes[65] ^= 1;
    fs::write(dir.path().join(&name).join(path), &bytes).expect("a writable file");

    let log = adopting(dir.path()).open().expect("an adoption");
    assert_eq!(log.damaged().len(), 1);
    log.close().expect("a close");
    let log = Log::builder(dir.path()).background(Background::Caller).recovery(RecoveryMode::Salvage).open();
    let log = log.expect("a salvage");
    let partition = partition_of(&log, "payments", number);
    assert!(!is_open(&partition));
}
