//! Bits flipped and files cut, anywhere in small directories, a broker's and our own: each is found by a verification, or
//! makes no difference to anybody.

use std::fs;
use std::path::{Path, PathBuf};

use chiplog::{
    Adoption, Background, Isolation, Log, Offset, Partition, ReadOptions, Record, Timestamp, TopicConfig,
    VerifyOptions,
};
use tempfile::TempDir;

use super::Counts;
use super::kafka_dirs::{KafkaDirs, contents};
use super::odd::Random;

/// All records of a log, as each reader gets them.
type Everything = Vec<Read>;

/// The partition, whether committed data was asked for, offset, key and value.
type Read = (String, bool, Offset, Option<Vec<u8>>, Option<Vec<u8>>);

pub(super) fn flips(dirs: &KafkaDirs, counts: &mut Counts) {
    let times = counts.times;
    judged(dirs, times, 11, |bytes, random| {
        let bit = random.below(bytes.len() as u64 * 8) as usize;
        bytes[bit / 8] ^= 1 << (bit % 8);
    });
    counts.add("flips judged", times);
}

pub(super) fn cuts(dirs: &KafkaDirs, counts: &mut Counts) {
    let times = counts.times;
    judged(dirs, times, 12, |bytes, random| bytes.truncate(random.below(bytes.len() as u64) as usize));
    counts.add("cuts judged", times);
}

fn judged(dirs: &KafkaDirs, times: u64, seed: u64, damage: impl Fn(&mut Vec<u8>, &mut Random)) {
    let mut random = Random(seed);
    let all = directories(dirs);
    let share = times.div_ceil(all.len() as u64);
    let mut left = times;
    for (name, dir) in &all {
        let before = everything(dir.path()).expect("an undamaged log");
        let files: Vec<(PathBuf, Vec<u8>)> = contents(dir.path())
            .into_iter()
            .filter_map(|(path, bytes)| Some((path, bytes.filter(|bytes| !bytes.is_empty())?)))
            .collect();
        for _ in 0..share.min(left) {
            let (file, bytes) = &files[random.below(files.len() as u64) as usize];
            let mut damaged = bytes.clone();
            damage(&mut damaged, &mut random);
            let path = dir.path().join(file);
            fs::write(&path, &damaged).expect("a writable file");
            judge(name, dir.path(), file, &before);
            fs::write(&path, bytes).expect("a writable file");
        }
        left -= share.min(left);
    }
}

/// No record is served that was not there, and if nothing is found, all are.
fn judge(name: &str, dir: &Path, file: &Path, before: &Everything) {
    let what = || format!("{name}, {}", file.display());
    let Ok(log) = Log::builder(dir).read_only().open() else { return };
    let report = log.verify(&VerifyOptions::default()).expect("a verification");
    drop(log);
    let is_found = !report.findings().is_empty();
    match everything(dir) {
        Ok(found) if is_found => {
            let mut rest = before.iter();
            let is_there = |one: &Read| rest.any(|there| is_same(one, there, name.contains("compact")));
            assert!(found.iter().all(is_there), "{}: another record", what());
        }
        Ok(found) => {
            assert!(found == *before, "{}: {} of {} records, and nothing is found", what(), found.len(), before.len())
        }
        Err(error) => assert!(is_found, "{}: nothing is found, and a read says {error}", what()),
    }
}

/// An offset is under no checksum: where compaction left gaps, one that is flipped into a gap passes for right in a read,
/// and only a verification tells.
fn is_same(one: &Read, there: &Read, has_gaps: bool) -> bool {
    let is_same_but_for_offset = (&one.0, one.1, &one.3, &one.4) == (&there.0, there.1, &there.3, &there.4);
    is_same_but_for_offset && (has_gaps || one.2 == there.2)
}

/// What each reader of the log gets, up to the first error of each partition, if a verification tells of it.
fn everything(dir: &Path) -> Result<Everything, chiplog::Error> {
    let log = Log::builder(dir).read_only().open()?;
    let mut all = Everything::new();
    for topic in log.topics() {
        for number in 0..topic.partition_count() {
            let Ok(partition) = topic.partition(number) else { continue };
            for isolation in [Isolation::Uncommitted, Isolation::Committed] {
                read(&partition, isolation, &mut all)?;
            }
        }
    }
    Ok(all)
}

fn read(partition: &Partition, isolation: Isolation, all: &mut Everything) -> Result<(), chiplog::Error> {
    let mut at = partition.offsets().start;
    loop {
        let records = partition.read_with(at, ReadOptions::default().isolation(isolation))?;
        for record in &records {
            let (key, value) = (record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec));
            let is_committed = isolation == Isolation::Committed;
            all.push((
                format!("{}-{}", partition.topic(), partition.number()),
                is_committed,
                record.offset,
                key,
                value,
            ));
        }
        if records.next_offset() == at {
            return Ok(());
        }
        at = records.next_offset();
    }
}

/// Small directories, of everything that there is in one.
fn directories(dirs: &KafkaDirs) -> Vec<(String, TempDir)> {
    let mut all = Vec::new();
    for (name, partition) in [
        ("clean", "payments-1"),
        ("killed", "payments-2"),
        ("killed", "small-segments-1"),
        ("clean", "idempotent-1"),
        ("clean", "compacted-0"),
        ("killed", "compacted-tx-0"),
        ("clean", "codec-gzip-1"),
        ("killed", "tx-output-0"),
        ("clean", "append-time-0"),
        ("killed", "epochs-0"),
        ("clean", "time-switch-0"),
        ("killed", "preallocated-0"),
    ] {
        all.push((format!("{name}/{partition}"), dirs.copy_partition(name, partition)));
    }
    all.push(("ours".to_owned(), ours()));
    // Nothing else of a cluster is here: a partition that another broker holds cannot be taken over.
    all.push(("adopted".to_owned(), adopted(dirs.copy_partition("clean", "tx-output-0"))));
    all
}

fn ours() -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let log = Log::builder(dir.path()).background(Background::Caller).open().expect("a log");
    let config = TopicConfig::default().partitions(2).segment_bytes(900).index_interval_bytes(150);
    let topic = log.create_topic("orders", config).expect("a topic");
    for number in 0..60_i64 {
        let value = format!("{number:030}");
        let record = Record::new(&*value).timestamp(Timestamp(1_700_000_000_000 + number));
        topic
            .partition(number as u32 % 2)
            .and_then(|partition| partition.append(record).map(drop))
            .expect("an append");
        log.maintain().expect("maintenance");
    }
    log.group("g").expect("a group").commit("orders", 0, Offset(3)).expect("a commit");
    drop(topic);
    log.close().expect("a close");
    dir
}

fn adopted(dir: TempDir) -> TempDir {
    let log = Log::builder(dir.path()).adopt(Adoption::default().abort_open()).open().expect("an adoption");
    log.topic("tx-output").and_then(|topic| topic.append("and on").map(drop)).expect("an append");
    log.close().expect("a close");
    dir
}
