//! A verification finds what is wrong, and nothing where nothing is.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use chiplog::record::{BatchBuilder, BatchOptions, Producer};
use chiplog::{
    Advice, Durability, Error, FindingKind, Log, Offset, Partition, ProducerEpoch, ProducerId, Record, Timestamp,
    TopicConfig, VerifyOptions, VerifyPosition, VerifyReport,
};

use crate::support::{append_batches, by_hand, copy, files, flip, values};

/// A log of small segments, with producers and a group, closed in order.
fn closed(dir: &Path) {
    let log = by_hand(dir).open().unwrap();
    fill(&log);
    log.close().unwrap();
}

fn fill(log: &Log) {
    let config = TopicConfig::default().segment_bytes(400).index_interval_bytes(100).retention_time(None);
    let orders = log.create_topic("orders", config.partitions(2)).unwrap();
    append_batches(&orders.partition(0).unwrap(), 0..40);
    let partition = orders.partition(1).unwrap();
    let mut builder = BatchBuilder::new();
    for sequence in 0..30 {
        let producer = Producer {
            id: ProducerId(7 + i64::from(sequence) % 2),
            epoch: ProducerEpoch(0),
            base_sequence: sequence / 2 * 2,
            is_transactional: false,
        };
        builder.begin(BatchOptions::default().producer(producer));
        for value in ["a", "b"] {
            builder.push(&Record::new(value).key("k"), Timestamp(1_000 + i64::from(sequence % 7))).unwrap();
        }
        let appended = partition.append_raw(builder.finish().unwrap()).unwrap();
        assert_eq!(appended.offset(), Offset(u64::from(sequence as u32) * 2));
    }
    log.create_topic("empty", TopicConfig::default()).unwrap();
    log.group("billing").unwrap().commit("orders", 0, Offset(17)).unwrap();
    log.delete_before("orders", 0, Offset(9)).unwrap();
}

fn verify(log: &Log) -> VerifyReport {
    log.verify(&VerifyOptions::default()).unwrap()
}

fn look(dir: &Path) -> VerifyReport {
    verify(&Log::builder(dir).read_only().open().unwrap())
}

fn assert_sound(report: &VerifyReport) {
    assert_eq!(report.findings(), [], "{report:?}");
    assert_eq!(report.stopped_at(), None);
}

#[test]
fn nothing_is_found_in_a_log_that_is_well() {
    let dir = tempfile::tempdir().unwrap();
    let log = by_hand(dir.path()).open().unwrap();
    assert_sound(&verify(&log));
    fill(&log);
    assert_sound(&verify(&log));
    log.sync().unwrap();
    let report = verify(&log);
    assert_sound(&report);
    // What lies below the start in the same segment is there, and judged.
    assert!(report.records() > 31 + 60 && report.batches() > 31 + 30, "{report:?}");
    log.maintain().unwrap();
    assert_sound(&verify(&log));
    let open = tempfile::tempdir().unwrap();
    copy(dir.path(), open.path());
    log.close().unwrap();
    assert_sound(&look(dir.path()));
    assert_sound(&look(open.path()));
    // Opened again, written and killed, and with the mark of the close gone.
    let log = by_hand(dir.path()).open().unwrap();
    assert_sound(&verify(&log));
    append_batches(&log.topic("orders").unwrap().partition(0).unwrap(), 40..60);
    assert_sound(&verify(&log));
    let killed = tempfile::tempdir().unwrap();
    copy(dir.path(), killed.path());
    assert_sound(&look(killed.path()));
}

/// Damages a closed log, and returns what is found.
fn found_after(damage: impl FnOnce(&Path)) -> Vec<(FindingKind, Advice, String)> {
    let dir = tempfile::tempdir().unwrap();
    closed(dir.path());
    damage(dir.path());
    let report = look(dir.path());
    let name = |path: &Path| path.strip_prefix(dir.path()).unwrap().to_string_lossy().into_owned();
    report.findings().iter().map(|finding| (finding.kind, finding.advice, name(&finding.path))).collect()
}

/// The segments of a partition, by the names of their data files.
fn segments(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir.join("orders-1")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|kind| kind == "log")).collect();
    paths.sort();
    assert!(paths.len() > 4, "{paths:?}");
    paths
}

fn second(dir: &Path, kind: &str) -> PathBuf {
    segments(dir)[1].with_extension(kind)
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn each_kind_of_damage_is_found_where_it_is() {
    use FindingKind as Kind;
    let check = |what: &str, kind, advice, suffix: &str, damage: &dyn Fn(&Path)| {
        let found = found_after(|dir| damage(dir));
        let is_there = found.iter().any(|found| found.0 == kind && found.1 == advice && found.2.ends_with(suffix));
        assert!(is_there, "{what}: {found:?}");
    };
    check("a record", Kind::Batch, Advice::Restore, ".log", &|dir| flip(&second(dir, "log"), 70));
    check("an offset", Kind::Offsets, Advice::Restore, ".log", &|dir| flip(&second(dir, "log"), 7));
    check("an epoch", Kind::Epochs, Advice::Restore, ".log", &|dir| flip(&second(dir, "log"), 15));
    check("an index", Kind::Index, Advice::Derived, ".index", &|dir| flip(&second(dir, "index"), 6));
    check("a time", Kind::TimeIndex, Advice::Derived, ".timeindex", &|dir| flip(&second(dir, "timeindex"), 6));
    check("a snapshot", Kind::Snapshot, Advice::Derived, ".snapshot", &|dir| flip(&second(dir, "snapshot"), 20));
    check("a seal", Kind::Seal, Advice::Derived, ".seal", &|dir| flip(&second(dir, "seal"), 20));
    check("aborts of none", Kind::TxnIndex, Advice::Derived, ".txnindex", &|dir| {
        fs::write(second(dir, "txnindex"), [0; 34]).unwrap();
    });
    check("a topic id", Kind::Metadata, Advice::Restore, "partition.metadata", &|dir| {
        flip(&dir.join("orders-1/partition.metadata"), 22);
    });
    check("the refusal for it", Kind::NotOpened, Advice::Restore, "partition.metadata", &|dir| {
        flip(&dir.join("orders-1/partition.metadata"), 22);
    });
    check("the epochs", Kind::Epochs, Advice::Derived, "leader-epoch-checkpoint", &|dir| {
        fs::write(dir.join("orders-1/leader-epoch-checkpoint"), "0\n1\n0 1\n").unwrap();
    });
    check("no epochs", Kind::Missing, Advice::Derived, "leader-epoch-checkpoint", &|dir| {
        fs::remove_file(dir.join("orders-1/leader-epoch-checkpoint")).unwrap();
    });
    check("no index", Kind::Missing, Advice::Derived, ".index", &|dir| {
        fs::remove_file(second(dir, "index")).unwrap();
    });
    check("no snapshot", Kind::Missing, Advice::Derived, ".snapshot", &|dir| {
        fs::remove_file(segments(dir)[2].with_extension("snapshot")).unwrap();
    });
    check("our checkpoints", Kind::Checkpoint, Advice::Derived, "checkpoints", &|dir| {
        flip(&dir.join("checkpoints"), 70)
    });
    check("Kafka's", Kind::Checkpoint, Advice::Derived, "replication-offset-checkpoint", &|dir| {
        edit(&dir.join("replication-offset-checkpoint"), |bytes| {
            let at = bytes.len() - 2;
            bytes[at] ^= 1;
        });
    });
    check("the mark", Kind::CleanMark, Advice::Derived, "clean", &|dir| flip(&dir.join("clean"), 70));
    check("bytes behind", Kind::Batch, Advice::Restore, ".log", &|dir| {
        edit(segments(dir).last().unwrap(), |bytes| bytes.extend([0; 100]));
    });
    check("a lost segment", Kind::Missing, Advice::Restore, ".log", &|dir| {
        fs::remove_file(second(dir, "log")).unwrap();
    });
}

/// The catalog is looked at while the log is open: without it there is no opening.
#[test]
fn a_catalog_that_rots_while_the_log_is_open_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let log = by_hand(dir.path()).open().unwrap();
    fill(&log);
    flip(&dir.path().join("catalog"), 30);
    let report = verify(&log);
    assert_eq!(report.findings()[0].kind, FindingKind::Catalog);
    fs::remove_file(dir.path().join("catalog")).unwrap();
    assert!(verify(&log).is_damaged());
}

/// Three of the batches of a segment are damaged in different ways: each is told, with what is lost, and those between
/// are counted.
#[test]
fn what_lies_behind_damage_is_judged_too() {
    let dir = tempfile::tempdir().unwrap();
    let log = by_hand(dir.path()).open().unwrap();
    let partition = log.topic("orders").unwrap().partition(0).unwrap();
    append_batches(&partition, 0..10);
    log.sync().unwrap();
    let path = partition.segments()[0].path().to_owned();
    let len = partition.segments()[0].len() as usize / 10;
    edit(&path, |bytes| {
        bytes[2 * len + 65] ^= 1; // a record
        bytes[5 * len + 8] ^= 0x20; // the length
        bytes[7 * len + 16] = 9; // the magic
        bytes[8 * len..9 * len].fill(0);
    });
    let report = verify(&log);
    let found: Vec<_> = report.findings().iter().map(|f| (f.position, f.len, f.missing.clone().unwrap())).collect();
    let (at, one) = (|batch: usize| (batch * len) as u64, len as u64);
    let expected = [
        (at(2), one, Offset(2)..Offset(3)),
        (at(5), one, Offset(5)..Offset(6)),
        (at(7), 2 * one, Offset(7)..Offset(9)),
    ];
    assert_eq!(found, expected);
    assert_eq!((report.records(), report.is_damaged()), (6, true));
}

/// A partition that could not be opened is judged by its directory, up to the last record and what was synced.
#[test]
fn a_partition_that_could_not_be_opened_is_judged() {
    let dir = tempfile::tempdir().unwrap();
    let log = by_hand(dir.path()).open().unwrap();
    let topic = log.create_topic("orders", TopicConfig::default().durability(Durability::Each)).unwrap();
    append_batches(&topic.partition(0).unwrap(), 0..10);
    drop(topic);
    log.close().unwrap();
    let path = dir.path().join("orders-0/00000000000000000000.log");
    let len = fs::read(&path).unwrap().len() / 10;
    edit(&path, |bytes| {
        bytes[4 * len + 65] ^= 1;
        bytes.truncate(9 * len);
    });
    let log = by_hand(dir.path()).open().unwrap();
    assert_eq!(log.damaged().len(), 1);
    let report = verify(&log);
    assert_eq!(report.records(), 8);
    let lost: Vec<_> = report.findings().iter().filter_map(|finding| finding.missing.clone()).collect();
    assert!(lost.contains(&(Offset(4)..Offset(5))) && lost.contains(&(Offset(9)..Offset(10))), "{report:?}");
    assert!(report.findings().iter().any(|finding| finding.kind == FindingKind::NotOpened), "{report:?}");
}

/// Reads refused a batch that verified: records of it lie below the start, and what is below that has no epoch that is known.
#[test]
fn the_epoch_of_a_batch_around_the_start_is_judged() {
    let dir = tempfile::tempdir().unwrap();
    let log = by_hand(dir.path()).open().unwrap();
    let partition = log.topic("orders").unwrap().partition(0).unwrap();
    partition.append_all(["1", "2"]).unwrap();
    partition.append_all(["3"]).unwrap();
    log.delete_before("orders", 0, Offset(1)).unwrap();
    drop(partition);
    log.close().unwrap();
    assert_sound(&look(dir.path()));
    // In the leader epoch, which no checksum covers.
    edit(&dir.path().join("orders-0/00000000000000000000.log"), |bytes| bytes[13] ^= 8);
    let log = by_hand(dir.path()).open().unwrap();
    let read = log.topic("orders").unwrap().partition(0).unwrap().read(Offset(1)).map(drop);
    assert!(matches!(read, Err(Error::Corrupt(_))), "{read:?}");
    let report = verify(&log);
    let found: Vec<_> = report.findings().iter().map(|finding| (finding.kind, finding.position)).collect();
    assert_eq!(found, [(FindingKind::Epochs, 0)]);
}

/// A broker's partitions were copied without `meta.properties`. What they lay in was called a damaged log of ours, and so
/// was an empty directory.
#[test]
fn what_is_no_log_of_ours_has_no_catalog_to_miss() {
    let dir = tempfile::tempdir().unwrap();
    assert_sound(&look(dir.path()));
    // Whoever opened it first was killed before there was anything.
    fs::write(dir.path().join("LOCK"), "").unwrap();
    assert_sound(&look(dir.path()));

    let dir = tempfile::tempdir().unwrap();
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/fixture-log-dir"), dir.path());
    let log = Log::builder(dir.path()).read_only().open().unwrap();
    assert_eq!(log.topics().len(), 1);
    let report = verify(&log);
    assert!(!report.is_damaged() && report.records() > 0, "{report:?}");
}

/// One directory that could not be listed kept everything else from being judged.
#[test]
fn a_partition_that_cannot_be_listed_is_a_finding_beside_the_others() {
    let dir = tempfile::tempdir().unwrap();
    closed(dir.path());
    fs::remove_dir_all(dir.path().join("orders-0")).unwrap();
    fs::write(dir.path().join("orders-0"), "no directory").unwrap();
    flip(&second(dir.path(), "log"), 70);
    for read_only in [false, true] {
        let log = if read_only { Log::builder(dir.path()).read_only() } else { by_hand(dir.path()) };
        let report = verify(&log.open().unwrap());
        let of = |name: &str, kind| {
            let is_of = |path: &Path| path.starts_with(dir.path().join(name));
            report.findings().iter().filter(|found| found.kind == kind && is_of(&found.path)).count()
        };
        assert!(of("orders-0", FindingKind::Unreadable) > 0 && of("orders-1", FindingKind::Batch) == 1, "{report:?}");
    }
}

/// Wherever it is stopped, it goes on there, and all calls together judge everything once.
#[test]
fn a_verification_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    closed(dir.path());
    flip(&second(dir.path(), "log"), 70);
    flip(&segments(dir.path())[3], 70);
    let log = Log::builder(dir.path()).read_only().open().unwrap();
    let whole = verify(&log);
    assert!(whole.findings().len() >= 2, "{whole:?}");
    for (threads, told) in [(1, 1), (1, 2), (2, 3)] {
        let (mut findings, mut records, mut calls, mut from) = (Vec::new(), 0, 0, None::<VerifyPosition>);
        loop {
            let left = AtomicU64::new(told);
            let mut options = VerifyOptions::default().threads(threads).progress(|_| {
                let is_over = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
                if is_over.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            if let Some(from) = &from {
                options = options.from(from.to_string().parse().unwrap());
            }
            let report = log.verify(&options).unwrap();
            findings.extend_from_slice(report.findings());
            records += report.records();
            calls += 1;
            let Some(position) = report.stopped_at() else { break };
            assert!(from.as_ref().is_none_or(|from| from <= position), "{from:?}, {position}");
            from = Some(position.clone());
            assert!(calls < 100, "it gets nowhere from {position}");
        }
        assert_eq!((findings.as_slice(), records), (whole.findings(), whole.records()), "{threads} threads");
        assert!(calls > 3);
    }
}

#[test]
fn threads_find_what_one_finds_and_progress_rises_to_the_end() {
    let dir = tempfile::tempdir().unwrap();
    closed(dir.path());
    flip(&second(dir.path(), "log"), 70);
    let log = Log::builder(dir.path()).read_only().open().unwrap();
    let alone = verify(&log);
    for threads in [2, 4] {
        let (last, total) = (AtomicU64::new(0), AtomicU64::new(0));
        let options = VerifyOptions::default().threads(threads).progress(|progress| {
            assert!(last.swap(progress.bytes, Ordering::SeqCst) <= progress.bytes);
            total.store(progress.total_bytes, Ordering::SeqCst);
            ControlFlow::Continue(())
        });
        let report = log.verify(&options).unwrap();
        assert_eq!((report.findings(), report.bytes()), (alone.findings(), alone.bytes()));
        drop(options);
        assert_eq!(last.into_inner(), total.into_inner());
    }
}

#[test]
fn one_partition_is_verified_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    closed(dir.path());
    flip(&second(dir.path(), "log"), 70);
    flip(&dir.path().join("checkpoints"), 70);
    let log = Log::builder(dir.path()).read_only().open().unwrap();
    assert_sound(&log.verify(&VerifyOptions::default().partition("orders", 0)).unwrap());
    let report = log.verify(&VerifyOptions::default().partition("orders", 1)).unwrap();
    assert_eq!(report.findings()[0].partition.as_ref().unwrap().to_string(), "orders-1");

    let refused = |options: VerifyOptions<'_>| log.verify(&options).unwrap_err();
    assert!(matches!(
        refused(VerifyOptions::default().partition("orders", 2)),
        Error::PartitionNotFound { count: 2, .. }
    ));
    assert!(matches!(refused(VerifyOptions::default().partition("none", 0)), Error::TopicNotFound { .. }));
    assert!(matches!(refused(VerifyOptions::default().threads(0)), Error::InvalidSetting { .. }));
    let other = log.clone();
    log.close().unwrap();
    assert!(matches!(other.verify(&VerifyOptions::default()), Err(Error::Closed)));
}

/// What appends, rolls, maintenance and retention change under a verification is none of its findings.
#[test]
fn a_log_that_is_written_meanwhile_is_sound() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::builder(dir.path())
        .checkpoint_interval(Duration::from_millis(5))
        .retention_interval(Duration::from_millis(5))
        .open()
        .unwrap();
    let config = TopicConfig::default().segment_bytes(4_096).index_interval_bytes(64).retention_bytes(40_000);
    let topic = log.create_topic("orders", config.partitions(2)).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..2 {
            let (partition, is_over) = (topic.partition(number).unwrap(), &is_over);
            scope.spawn(move || write(&partition, is_over));
        }
        let _over = Over(&is_over);
        let first = topic.partition(0).unwrap();
        let mut rounds = 0;
        // On a busy machine it takes some time until retention has something to do.
        while rounds < 60 || (rounds < 6_000 && first.offsets().start == Offset(0)) {
            let report = log.verify(&VerifyOptions::default().threads(1 + rounds % 2)).unwrap();
            assert_eq!(report.findings(), [], "round {rounds}");
            rounds += 1;
        }
    });
    assert!(topic.partition(0).unwrap().offsets().start > Offset(0), "retention had nothing to do");
}

/// It began as many threads as were asked for, and panicked where there are not so many.
#[test]
fn more_threads_than_there_is_work_for_are_not_begun() {
    let dir = tempfile::tempdir().unwrap();
    closed(dir.path());
    let log = Log::builder(dir.path()).read_only().open().unwrap();
    assert_sound(&log.verify(&VerifyOptions::default().threads(usize::MAX)).unwrap());
}

/// Tells threads that it is over, also if a test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn write(partition: &Partition, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        for _ in 0..20 {
            partition.append("some value or other").unwrap();
            partition.append_all(["one", "another"]).unwrap();
        }
        // Rolled segments are kept open until they are synced: it is not to run away from maintenance.
        partition.sync().unwrap();
    }
}

/// A topic that is deleted under a verification is not missed.
#[test]
fn a_topic_may_go_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let log = by_hand(dir.path()).open().unwrap();
    fill(&log);
    log.sync().unwrap();
    let is_deleted = AtomicBool::new(false);
    let options = VerifyOptions::default().progress(|_| {
        if !is_deleted.swap(true, Ordering::Relaxed) {
            log.delete_topic("orders").unwrap();
        }
        ControlFlow::Continue(())
    });
    assert_sound(&log.verify(&options).unwrap());
    assert!(log.find_topic("orders").is_none());
}

/// Everything that a reader of the log gets.
fn everything(log: &Log) -> Option<BTreeMap<String, Vec<String>>> {
    let mut all = BTreeMap::new();
    for topic in log.topics() {
        for number in 0..topic.partition_count() {
            let partition = topic.partition(number).ok()?;
            let mut at = partition.offsets().start;
            while at < partition.offsets().end {
                at = partition.read(at).ok()?.next_offset();
            }
            all.insert(format!("{}-{number}", topic.name()), values(&partition));
        }
    }
    let committed = log.group("billing").ok()?.committed("orders", 0).ok()?;
    all.insert("billing".into(), vec![format!("{:?}", committed.map(|committed| committed.offset))]);
    Some(all)
}

/// Numbers that are the same in each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % end as u64) as usize
    }
}

/// Damages one file of a closed log in so many ways: each is found, or the log has all it had.
fn each_is_found_or_harmless(times: usize, seed: u64, damage: fn(&mut Vec<u8>, &mut Chance)) {
    let dir = tempfile::tempdir().unwrap();
    closed(dir.path());
    let before = everything(&Log::builder(dir.path()).read_only().open().unwrap()).unwrap();
    let files: Vec<_> = files(dir.path()).into_iter().filter(|(_, bytes)| !bytes.is_empty()).collect();
    let mut chance = Chance(seed);
    let mut passed: BTreeMap<String, u64> = BTreeMap::new();
    for _ in 0..times {
        let (name, bytes) = &files[chance.below(files.len())];
        let mut damaged = bytes.clone();
        damage(&mut damaged, &mut chance);
        fs::write(dir.path().join(name), &damaged).unwrap();
        // Refusing to open is finding, too.
        if let Ok(log) = Log::builder(dir.path()).read_only().open()
            && verify(&log).findings().is_empty()
        {
            assert_eq!(everything(&log).as_ref(), Some(&before), "{name} was damaged, and nothing is found");
            *passed.entry(name.clone()).or_default() += 1;
        }
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    // Who had it open; how far a killed process had come; where an epoch began, if that is below the first segment.
    let harmless = ["LOCK", "notes", "orders-0/leader-epoch-checkpoint"];
    passed.retain(|name, _| !harmless.contains(&name.as_str()));
    assert_eq!(passed, BTreeMap::new(), "these are judged");
}

#[test]
fn each_flipped_bit_is_found_or_harmless() {
    each_is_found_or_harmless(2_500, 1, |bytes, chance| {
        let bit = chance.below(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
    });
}

#[test]
fn each_cut_is_found_or_harmless() {
    each_is_found_or_harmless(1_000, 2, |bytes, chance| bytes.truncate(chance.below(bytes.len())));
}
