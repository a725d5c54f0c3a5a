//! What `examples/dump.rs` prints of the same directories.

use std::fs;

use chiplog::record::BatchHeader;
use clap::Parser;
use serde_json::{Value, json};

use super::answers::{UNDAMAGED, committed_by_groups, list, number, text};
use super::dump::{self, Options};
use super::kafka_dirs::{KafkaDirs, contents};
use super::{Counts, printed};

/// One run of the example.
pub(super) struct Run {
    pub(super) code: u8,
    pub(super) out: String,
    pub(super) err: String,
}

impl Run {
    pub(super) fn of(arguments: &[&str]) -> Self {
        let options = Options::try_parse_from([&["dump"], arguments].concat()).expect("good arguments");
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = dump::dump(&options, &mut out, &mut err);
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Self { code, out: text(out), err: text(err) }
    }

    /// What it printed, if nothing was wrong.
    fn lines(&self) -> Vec<&str> {
        assert_eq!((self.code, self.err.as_str()), (0, ""));
        self.out.lines().collect()
    }
}

/// The lines that the records of a directory are printed as: the answers, which topic and partition each is of, and
/// whether it is committed.
pub(super) fn expected(dirs: &KafkaDirs, name: &str) -> Vec<(String, bool)> {
    let mut partitions: Vec<Value> = list(&dirs.expected(&format!("{name}/partitions.json"))).to_vec();
    partitions.sort_by_key(|answer| (text(&answer["topic"]).to_owned(), number(&answer["partition"])));
    let mut lines = Vec::new();
    for answer in &partitions {
        let (topic, partition) = (&answer["topic"], &answer["partition"]);
        for line in dirs.expected_lines(&format!("{name}/{}", text(&answer["file"]))) {
            let line = format!("{{\"topic\":{topic},\"partition\":{partition},{}", &line[1..]);
            let is_committed = line.ends_with("\"committed\":true}");
            lines.push((line, is_committed));
        }
    }
    lines
}

/// Whether a line is about a topic of the broker's own, of which Kafka gave no records.
fn is_internal(line: &str) -> bool {
    ["__consumer_offsets", "__transaction_state", "__share_group_state"]
        .iter()
        .any(|topic| line.starts_with(&format!("{{\"topic\":\"{topic}\"")))
}

pub(super) fn records(dirs: &KafkaDirs, counts: &mut Counts) {
    for name in UNDAMAGED {
        let dir = dirs.copy(name);
        let before = contents(dir.path());
        let run = Run::of(&[dir.path().to_str().expect("a path")]);
        let printed = run.lines();
        let expected = expected(dirs, name);
        let mut of_users = printed.iter().filter(|line| !is_internal(line));
        for (at, (expected, _)) in expected.iter().enumerate() {
            assert_eq!(of_users.next(), Some(&expected.as_str()), "{name}: line {at}");
        }
        assert_eq!(of_users.next(), None, "{name}: more records than Kafka's consumer gets");
        assert!(printed.iter().any(|line| is_internal(line)), "{name}: nothing of the broker's own topics");
        counts.add("records", expected.len() as u64);
        assert!(contents(dir.path()) == before, "{name}: something was changed");
    }
}

pub(super) fn committed(dirs: &KafkaDirs, counts: &mut Counts) {
    for name in UNDAMAGED {
        let dir = dirs.copy(name);
        let run = Run::of(&[dir.path().to_str().expect("a path"), "--committed"]);
        let printed: Vec<_> = run.lines().into_iter().filter(|line| !is_internal(line)).collect();
        let expected = expected(dirs, name);
        let expected: Vec<_> =
            expected.iter().filter(|(_, is_committed)| *is_committed).map(|(line, _)| line.as_str()).collect();
        assert!(printed == expected, "{name}: {} lines, not {}", printed.len(), expected.len());
        counts.add("committed records", printed.len() as u64);
    }
}

pub(super) fn offsets_and_groups(dirs: &KafkaDirs, _: &mut Counts) {
    for name in UNDAMAGED {
        let dir = dirs.copy(name);
        let path = dir.path().to_str().expect("a path");
        let run = Run::of(&[path, "--offsets"]);
        let printed: Vec<&str> = run.lines();
        for answer in list(&dirs.expected(&format!("{name}/partitions.json"))) {
            let [start, stable, end] = ["earliest", "lastStable", "latest"].map(|which| &answer[which]["offset"]);
            let (topic, partition) = (&answer["topic"], &answer["partition"]);
            let line = format!(
                "{{\"topic\":{topic},\"partition\":{partition},\"start\":{start},\"stable\":{stable},\"end\":{end}}}"
            );
            assert!(printed.contains(&line.as_str()), "{name}: {line}");
        }
        assert_eq!(printed.len(), list(&dirs.expected(&format!("{name}/loaded.json"))).len(), "{name}");

        let run = Run::of(&[path, "--groups"]);
        let printed: Vec<Value> = run.lines().iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let mut expected = Vec::new();
        for (group, offsets) in committed_by_groups(dirs, name) {
            for mut offset in offsets {
                offset["group"] = json!(group);
                expected.push(offset);
            }
        }
        assert_eq!(printed, expected, "{name}");
    }
}

pub(super) fn limits(dirs: &KafkaDirs, _: &mut Counts) {
    let dir = dirs.copy("clean");
    let path = dir.path().to_str().expect("a path");
    let expected = expected(dirs, "clean");
    let of = |topic: &str, partition: u32, least: &dyn Fn(&Value) -> bool| -> Vec<&str> {
        let head = format!("{{\"topic\":\"{topic}\",\"partition\":{partition},");
        let mut lines: Vec<_> = expected.iter().map(|(line, _)| line.as_str()).collect();
        lines.retain(|line| line.starts_with(&head));
        let from = lines.iter().position(|line| least(&serde_json::from_str(line).expect("JSON")));
        lines.split_off(from.unwrap_or(lines.len()))
    };
    let at_least = |field: &'static str, least: i64| move |line: &Value| number(&line[field]) >= least;
    let run = |arguments: &[&str]| Run::of(&[&[path], arguments].concat());

    // `a-1` has one partition, `a-1-b` two.
    let all_of_a_1 = of("a-1", 0, &|_| true);
    assert_eq!(run(&["--topic", "a-1"]).lines(), all_of_a_1);
    let second = of("a-1-b", 1, &|_| true);
    assert_eq!(run(&["--topic", "a-1-b", "--partition", "1"]).lines(), second);
    // The first begins at 11.
    for (from, least) in [("0", 11), ("50", 50), ("142", 142), ("1000000", 1_000_000)] {
        let printed = run(&["--topic", "plain-events", "--partition", "0", "--from", from]);
        assert_eq!(printed.lines(), of("plain-events", 0, &at_least("offset", least)), "from {from}");
    }
    for at in [0, 1_700_000_000_000, 1_700_000_500_000, 1_900_000_000_000] {
        let printed = run(&["--topic", "plain-events", "--partition", "0", "--at", &at.to_string()]);
        assert_eq!(printed.lines(), of("plain-events", 0, &at_least("timestamp", at)), "at {at}");
    }
    // To the log -1 is its end, and -3 the largest time: here every record is later.
    for at in ["-1", "-3", "-1700000000000"] {
        let printed = run(&["--topic", "plain-events", "--partition", "0", "--at", at]);
        assert_eq!(printed.lines(), of("plain-events", 0, &|_| true), "at {at}");
    }
    let both: Vec<_> = [of("a-1-b", 0, &|_| true), second].concat();
    for max in [0, 1, both.len() - 1, both.len(), 1000] {
        let printed = run(&["--topic", "a-1-b", "--max", &max.to_string()]);
        assert_eq!(printed.lines(), both[..max.min(both.len())], "at most {max}");
    }
    // Nothing is there, or is no such thing: that is not damage.
    for arguments in [&["--topic", "nobody"][..], &["--topic", "a"]] {
        let printed::Run { code, out, err } = run(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}");
        assert!(err.contains("there is no topic"), "{err}");
    }
    assert_eq!(Run::of(&["no-such-directory"]).code, 2);
}

/// A marker of a transaction has a time as a record has, and a look-up may answer with one. Where it failed because of
/// damage, records alone were looked at, and those behind the first marker of that time were left out.
pub(super) fn begins_before_damage(dirs: &KafkaDirs, _: &mut Counts) {
    let dir = dirs.copy_partition("clean", "tx-output-0");
    let path = dir.path().to_str().expect("a path");
    let log = dir.path().join("tx-output-0/00000000000000000000.log");
    let whole = fs::read(&log).expect("a data file");
    let batches: Vec<(usize, BatchHeader)> = std::iter::successors(Some(0), |at| {
        let header = BatchHeader::read(&whole[*at..]).ok()?;
        Some(at + header.batch_len as usize)
    })
    .filter_map(|at| Some((at, BatchHeader::read(&whole[at..]).ok()?)))
    .collect();
    // One that is later than all before it, and than the record behind it.
    let is_wanted = |at: &usize| {
        let time = |at: usize| batches[at].1.max_timestamp;
        batches[*at].1.attributes.is_control()
            && (0..*at).all(|other| time(other) < time(*at))
            && time(at + 1) < time(*at)
    };
    let marker = (0..batches.len() - 1).find(is_wanted).expect("a marker");
    let (_, header) = &batches[marker];
    let at = header.max_timestamp.0.to_string();
    let all = Run::of(&[path, "--at", &at]);
    let offset = |line: &str| number(&serde_json::from_str::<Value>(line).expect("JSON")["offset"]) as u64;
    assert_eq!(all.lines().first().map(|line| offset(line)), Some(header.base_offset.0 + 1));

    // The length of a batch behind it.
    let (position, damaged) = batches[(marker + batches.len()) / 2];
    let mut bytes = whole.clone();
    bytes[position + 8] ^= 0x40;
    fs::write(&log, bytes).expect("a writable file");
    let run = Run::of(&[path, "--at", &at]);
    let offsets = |out: &str| out.lines().map(offset).collect::<Vec<_>>();
    let expected: Vec<_> = offsets(&all.out).into_iter().filter(|offset| *offset < damaged.base_offset.0).collect();
    assert!(expected.len() > 5 && run.code == 1, "{}", run.err);
    assert_eq!(offsets(&run.out), expected, "{}", run.err);
}

pub(super) fn findings(dirs: &KafkaDirs, _: &mut Counts) {
    for name in UNDAMAGED {
        let dir = dirs.copy(name);
        let run = Run::of(&[dir.path().to_str().expect("a path"), "--verify"]);
        assert_eq!((run.code, run.out.as_str(), run.err.as_str()), (0, "", ""), "{name}");
    }
    let dir = dirs.copy("torn/flip-flushed");
    let path = dir.path().to_str().expect("a path");
    for arguments in [&[path, "--verify"][..], &[path, "--verify", "--topic", "retained-bytes"]] {
        let run = Run::of(arguments);
        let found: Value = serde_json::from_str(&run.out).expect("one finding");
        assert_eq!(run.code, 1);
        assert_eq!(found["topic"], "retained-bytes");
        assert_eq!((&found["position"], &found["missing"]), (&json!(2677), &json!([651, 652])));
        assert!(text(&found["file"]).ends_with("retained-bytes-0/00000000000000000635.log"), "{found}");
        assert!(run.err.starts_with("damage: ") && run.err.contains(" at byte 2677: "), "{}", run.err);
    }
}
