//! Directories that are not as those of the archive: some of a topic's partitions, files that are missing or strange,
//! any single bit flipped.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use chiplog::{Durability, GroupConfig, Log, Offset, Record, Staging, TopicConfig};
use clap::Parser;

use super::Counts;
use super::dump::{self, Options};
use super::kafka_dirs::{KafkaDirs, contents};
use super::printed::{Run, expected};

/// A broker of a cluster holds some partitions of a topic.
pub(super) fn partitions_elsewhere(dirs: &KafkaDirs, _: &mut Counts) {
    let dir = dirs.copy("clean");
    let path = dir.path().to_str().expect("a path");
    for partition in ["payments-0", "payments-2", "orders-1"] {
        fs::remove_dir_all(dir.path().join(partition)).expect("a directory");
    }
    let all = expected(dirs, "clean");
    let of = |topic: &str, partition: u32| {
        let head = format!("{{\"topic\":\"{topic}\",\"partition\":{partition},");
        all.iter().filter(move |(line, _)| line.starts_with(&head)).map(|(line, _)| line.as_str()).collect::<Vec<_>>()
    };
    let run = Run::of(&[path, "--topic", "payments"]);
    assert_eq!((run.code, run.err.as_str()), (0, ""));
    assert_eq!(run.out.lines().collect::<Vec<_>>(), of("payments", 1));
    let run = Run::of(&[path, "--topic", "orders"]);
    assert_eq!(run.out.lines().collect::<Vec<_>>(), [of("orders", 0), of("orders", 2)].concat());
    for absent in ["0", "2", "3", "4294967295"] {
        let run = Run::of(&[path, "--topic", "payments", "--partition", absent]);
        assert_eq!((run.code, run.out.as_str()), (2, ""), "{absent}: {}", run.err);
    }
}

/// The groups that another broker holds are not told; those that are here are, whichever partitions of their topic are.
pub(super) fn groups_elsewhere(dirs: &KafkaDirs, _: &mut Counts) {
    let whole = dirs.copy("clean");
    let all = Run::of(&[whole.path().to_str().expect("a path"), "--groups"]);
    let mut found = Vec::new();
    for kept in 0..4 {
        let dir = dirs.copy_partition("clean", &format!("__consumer_offsets-{kept}"));
        let run = Run::of(&[dir.path().to_str().expect("a path"), "--groups"]);
        assert_eq!((run.code, run.err.as_str()), (0, ""), "{kept}");
        found.extend(run.out.lines().map(str::to_owned));
    }
    found.sort();
    let mut expected: Vec<_> = all.out.lines().collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

/// What is none of a broker's partitions is in nobody's way, and one without a file is still one.
pub(super) fn strangers(dirs: &KafkaDirs, _: &mut Counts) {
    let dir = dirs.copy_partition("clean", "epochs-0");
    let at = |name: &str| dir.path().join(name);
    for name in ["lost+found", "no-number", "x-1-2a", "-5", "__cluster_metadata-0", "gone-0.1234-delete"] {
        fs::create_dir(at(name)).expect("a directory");
        fs::write(at(name).join("00000000000000000000.log"), "no batch").expect("a file");
    }
    fs::write(at("file-0"), "no directory").expect("a file");
    for name in ["empty-3", "young-0"] {
        fs::create_dir(at(name)).expect("a directory");
    }
    fs::write(at("young-0/00000000000000000000.log"), "").expect("a file");
    let path = dir.path().to_str().expect("a path");
    let before = contents(dir.path());

    let run = Run::of(&[path]);
    assert_eq!((run.code, run.err.as_str()), (0, ""));
    assert!(run.out.lines().all(|line| line.starts_with("{\"topic\":\"epochs\",\"partition\":0,")), "{}", run.out);
    assert_eq!(run.out.lines().count(), 7);
    let run = Run::of(&[path, "--offsets"]);
    assert_eq!(
        run.out.lines().collect::<Vec<_>>(),
        [
            r#"{"topic":"empty","partition":3,"start":0,"stable":0,"end":0}"#,
            r#"{"topic":"epochs","partition":0,"start":0,"stable":7,"end":7}"#,
            r#"{"topic":"young","partition":0,"start":0,"stable":0,"end":0}"#,
        ]
    );
    assert!(contents(dir.path()) == before, "something was changed");
}

/// A log of our own, closed or killed, is printed as well.
pub(super) fn logs_of_our_own(_: &KafkaDirs, _: &mut Counts) {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::builder(dir.path()).staging(Staging::Off).open().expect("an open");
    let config = TopicConfig::default().partitions(2).segment_bytes(500).durability(Durability::Each);
    let orders = log.create_topic("or.ders_-", config).expect("a topic");
    let at = chiplog::Timestamp(1_700_000_000_000);
    for number in 0..20 {
        let value = format!("{number:02}");
        let headers = [chiplog::Header::new("h\"\\\n", "x"), chiplog::Header { key: "", value: None }];
        let record = Record::new(&value).headers(&headers).timestamp(at);
        orders.partition(number % 2).and_then(|partition| partition.append(record).map(|_| ())).expect("an append");
    }
    let partition = orders.partition(1).expect("a partition");
    partition.append(Record::tombstone("").timestamp(chiplog::Timestamp::NONE)).expect("an append");
    log.group("g \u{e9}").expect("a group").commit("or.ders_-", 1, Offset(3)).expect("a commit");

    let path = dir.path().to_str().expect("a path");
    let run = Run::of(&[path]);
    assert_eq!((run.code, run.out.as_str()), (2, ""), "somebody writes it: {}", run.err);
    drop((orders, partition));
    log.close().expect("a close");

    let run = Run::of(&[path, "--topic", "or.ders_-"]);
    assert_eq!((run.code, run.err.as_str()), (0, ""));
    let lines: Vec<_> = run.out.lines().collect();
    assert_eq!(lines.len(), 21);
    let first = r#"{"topic":"or.ders_-","partition":0,"offset":0,"timestamp":1700000000000,"timestampType":"CreateTime","key":null,"value":"MDA=","headers":[["h\"\\\n","eA=="],["",null]],"leaderEpoch":0,"keySize":-1,"valueSize":2,"committed":true}"#;
    let last = r#"{"topic":"or.ders_-","partition":1,"offset":10,"timestamp":-1,"timestampType":"CreateTime","key":"","value":null,"headers":[],"leaderEpoch":0,"keySize":0,"valueSize":-1,"committed":true}"#;
    assert_eq!((lines[0], lines[20]), (first, last));
    let run = Run::of(&[path, "--groups"]);
    let group = "{\"group\":\"g \u{e9}\",\"topic\":\"or.ders_-\",\"partition\":1,\"offset\":3,\"leaderEpoch\":null,\"metadata\":\"\"}\n";
    assert_eq!((run.code, run.out.as_str()), (0, group), "{}", run.err);

    // Damage in the first partition; the second is printed all the same.
    let path_of_log = dir.path().join("or.ders_--0/00000000000000000000.log");
    flip(&path_of_log, 8 * 150);
    let run = Run::of(&[path, "--topic", "or.ders_-"]);
    assert_eq!(run.code, 1);
    let printed: Vec<_> = run.out.lines().collect();
    assert_eq!(printed, [&lines[..1], &lines[10..]].concat(), "{}", run.err);
    let said = format!("damage: {} is damaged at byte ", path_of_log.display());
    assert!(run.err.starts_with(&said), "{}", run.err);
}

/// One damaged batch among those of groups: nothing was printed of the partition it was in, and no group of any.
pub(super) fn groups_beside_damage(_: &KafkaDirs, _: &mut Counts) {
    let dir = tempfile::tempdir().expect("a directory");
    let groups = GroupConfig::default().offsets_partitions(2);
    let log = Log::builder(dir.path()).groups(groups).open().expect("an open");
    for number in 0..20 {
        log.group(&format!("g{number}")).and_then(|group| group.commit("orders", 0, Offset(3))).expect("a commit");
    }
    log.close().expect("a close");
    let path = dir.path().to_str().expect("a path");
    let (groups, records) = (Run::of(&[path, "--groups"]), Run::of(&[path]));
    let is_second = |line: &&str| line.contains("\"partition\":1,");
    let in_second = records.out.lines().filter(is_second).count();
    assert!((1..20).contains(&in_second) && records.out.lines().count() == 20, "{}", records.out);

    let log = dir.path().join("__consumer_offsets-0/00000000000000000000.log");
    let len = fs::metadata(&log).expect("a file").len() as usize;
    flip(&log, len * 3 / 4 * 8);
    let said = format!("damage: {} is damaged at byte ", log.display());
    let run = Run::of(&[path, "--groups"]);
    assert_eq!((run.code, run.out.lines().count()), (1, in_second), "{}", run.err);
    assert!(run.out.lines().all(|line| groups.out.lines().any(|there| there == line)), "{}", run.out);
    assert!(run.err.starts_with(&said) && run.err.lines().count() == 1, "{}", run.err);
    let run = Run::of(&[path]);
    let printed: Vec<_> = run.out.lines().collect();
    let of_first = printed.iter().filter(|line| !is_second(line)).count();
    assert!(of_first > 1 && printed.len() == of_first + in_second, "{}", run.err);
    assert!(printed.iter().all(|line| records.out.contains(line)) && run.code == 1 && run.err.starts_with(&said));
}

/// Who reads the lines may go away.
pub(super) fn nobody_reads(dirs: &KafkaDirs, _: &mut Counts) {
    /// Takes so many bytes.
    struct Pipe(usize);
    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            Ok(taken)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let dir = dirs.copy("clean");
    for room in [0, 1, 1000, 1 << 20] {
        let options = Options::try_parse_from(["dump", dir.path().to_str().expect("a path")]).expect("options");
        let mut err = Vec::new();
        let code = dump::dump(&options, Pipe(room), &mut err);
        assert_eq!((code, err), (0, Vec::new()), "{room} bytes");
    }
}

/// Whatever bit of whatever file is flipped: no record is printed that was not there, in none but its own place, and if
/// one is not printed, it is told. The leader epoch of a batch is under no checksum: only a verification finds that it
/// is another one of those that were.
pub(super) fn flips(dirs: &KafkaDirs, counts: &mut Counts) {
    let mut random = Random(7);
    let all: BTreeMap<_, _> = ["clean", "killed"].map(|name| (name, expected(dirs, name))).into();
    for (name, topic, partition) in [
        ("clean", "payments", 1),
        ("killed", "small-segments", 1),
        ("clean", "codec-mixed", 0),
        ("killed", "epochs", 0),
        ("killed", "tx-output", 0),
        ("clean", "time-switch", 0),
    ] {
        let dir = dirs.copy_partition(name, &format!("{topic}-{partition}"));
        let path = dir.path().to_str().expect("a path");
        let head = format!("{{\"topic\":\"{topic}\",\"partition\":{partition},");
        let there: Vec<_> =
            all[name].iter().map(|(line, _)| line.as_str()).filter(|line| line.starts_with(&head)).collect();
        let files: Vec<PathBuf> = contents(dir.path())
            .into_iter()
            .filter_map(|(path, bytes)| bytes.filter(|bytes| !bytes.is_empty()).map(|_| path))
            .collect();
        for round in 0..100 {
            let file = dir.path().join(&files[random.below(files.len() as u64) as usize]);
            let bit = random.below(fs::metadata(&file).expect("a file").len() * 8);
            flip(&file, bit as usize);
            let run = Run::of(&[path]);
            let what =
                format!("{name}/{topic}-{partition}, round {round}: bit {bit} of {}: {}", file.display(), run.err);
            let is_told = run.code != 0 || !run.err.is_empty();
            let mut rest = there.iter();
            for line in run.out.lines() {
                let is_there = rest.any(|there| is_of(line, there));
                assert!(is_there, "{what}: {line}");
            }
            assert!(is_told || run.out.lines().count() == there.len(), "{what}: {} lines", run.out.lines().count());
            flip(&file, bit as usize);
            counts.add("flips printed", 1);
        }
    }
}

/// A line without its leader epoch.
fn without_epoch(line: &str) -> (&str, &str) {
    let (before, after) = line.split_once(",\"leaderEpoch\":").expect("a leader epoch");
    (before, after.split_once(',').map_or("", |(_, rest)| rest))
}

/// Whether a line is that of a record that was there, and is committed only if that was: a marker may be gone.
fn is_of(line: &str, there: &str) -> bool {
    let committed = there.replace("\"committed\":true}", "\"committed\":false}");
    without_epoch(line) == without_epoch(there) || without_epoch(line) == without_epoch(&committed)
}

fn flip(path: &Path, bit: usize) {
    let mut bytes = fs::read(path).expect("a readable file");
    bytes[bit / 8] ^= 1 << (bit % 8);
    fs::write(path, bytes).expect("a writable file");
}

/// Numbers that look random and are the same each time.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}
