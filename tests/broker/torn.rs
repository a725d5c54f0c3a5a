//! Thirty-one kinds of damage, each to one partition: what Kafka does, and what is done here.
//!
//! Whatever the damage, all that Kafka still serves is served, no record that it would not serve of the partition
//! undamaged, and what is wrong is told, unless it makes no difference to anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use chiplog::{
    Adoption, Background, Isolation, LeaderEpoch, Log, Observer, Offset, Partition, ReadOptions, RecoveryMode,
    TopicPartition,
};
use serde_json::Value;

use super::Counts;
use super::answers::{Stopped, epochs_told, list, number, producers_of, text};
use super::kafka_dirs::{KafkaDirs, contents};
use super::printed::{Run, expected};

/// What is done with one kind of damage.
struct Row {
    variant: &'static str,
    /// How many records are served in order, before the damage, and how many of them to readers of committed data.
    served: (usize, usize),
    told: Told,
    /// The files that reads from any offset find wrong, and do without.
    rebuilt: &'static [&'static str],
}

/// What is said of it, and of which file: by its name up to the extension, zeros left out.
#[derive(Clone, Copy)]
enum Told {
    /// Nothing: all records are there, and what is wrong is a file that is made anew after every kill, an entry of an index
    /// that no look-up comes to, or what the next write would overwrite.
    Nothing,
    /// A file is missing or wrong, and what it should say was found in the batches.
    Rebuilt(&'static str),
    /// A write was cut short at this position, which a kill explains.
    Torn(&'static str, u64),
    /// Damage at this position.
    Damage(&'static str, u64),
}

use Told::{Damage, Nothing, Rebuilt, Torn};

#[rustfmt::skip]
const ROWS: [Row; 31] = [
    Row { variant: "clean-cut-tail",        served: (157, 157), told: Damage("0.log", 170_650),      rebuilt: &[] },
    Row { variant: "clean-flip-last",       served: (183, 183), told: Damage("0.log", 76_107),       rebuilt: &[] },
    Row { variant: "clean-garbage-tail",    served: (189, 189), told: Damage("120.log", 9_163),      rebuilt: &[] },
    Row { variant: "clean-index-positions", served: (372, 372), told: Nothing,                       rebuilt: &["317.index"] },
    Row { variant: "clean-lost-active",     served: (267, 110), told: Damage("290.log", 4_905),      rebuilt: &[] },
    Row { variant: "clean-lost-segment",    served: (143, 143), told: Damage("95.log", 6_747),       rebuilt: &[] },
    Row { variant: "clean-no-index",        served: (245, 245), told: Rebuilt("220.index"),          rebuilt: &["220.index"] },
    Row { variant: "clean-no-snapshots",    served: (555, 555), told: Rebuilt("555.snapshot"),       rebuilt: &[] },
    Row { variant: "clean-zero-tail",       served: (131, 131), told: Nothing,                       rebuilt: &[] },
    Row { variant: "cleaned-pending",       served: (93, 93),   told: Nothing,                       rebuilt: &[] },
    Row { variant: "cut-header",            served: (390, 390), told: Torn("372.log", 2_893),        rebuilt: &[] },
    Row { variant: "cut-tail",              served: (493, 493), told: Torn("627.log", 5_418),        rebuilt: &[] },
    Row { variant: "epochs-garbage",        served: (126, 126), told: Rebuilt("leader-epoch-checkpoint"), rebuilt: &[] },
    Row { variant: "flip-active",           served: (408, 408), told: Damage("396.log", 1_708),      rebuilt: &[] },
    Row { variant: "flip-crc",              served: (211, 211), told: Damage("176.log", 6_424),      rebuilt: &[] },
    Row { variant: "flip-flushed",          served: (51, 51),   told: Damage("635.log", 2_677),      rebuilt: &[] },
    Row { variant: "flip-length",           served: (194, 194), told: Damage("154.log", 18_361),     rebuilt: &[] },
    Row { variant: "flip-unflushed",        served: (571, 571), told: Damage("549.log", 3_009),      rebuilt: &[] },
    Row { variant: "garbage-tail",          served: (180, 180), told: Torn("120.log", 7_890),        rebuilt: &[] },
    Row { variant: "index-order",           served: (478, 83),  told: Nothing,                       rebuilt: &[] },
    Row { variant: "index-positions",       served: (738, 738), told: Nothing,                       rebuilt: &["248.index"] },
    Row { variant: "index-size",            served: (216, 216), told: Nothing,                       rebuilt: &[] },
    Row { variant: "no-epochs",             served: (144, 144), told: Rebuilt("leader-epoch-checkpoint"), rebuilt: &[] },
    Row { variant: "no-index",              served: (258, 258), told: Rebuilt("12.index"),           rebuilt: &["12.index"] },
    Row { variant: "no-snapshots",          served: (218, 141), told: Nothing,                       rebuilt: &[] },
    Row { variant: "no-txnindex",           served: (102, 14),  told: Rebuilt("102.txnindex"),       rebuilt: &["102.txnindex", "125.txnindex"] },
    Row { variant: "snapshot-crc",          served: (146, 82),  told: Rebuilt("185.snapshot"),       rebuilt: &[] },
    Row { variant: "swap-pending",          served: (73, 73),   told: Nothing,                       rebuilt: &[] },
    Row { variant: "timeindex-size",        served: (225, 225), told: Nothing,                       rebuilt: &[] },
    Row { variant: "txnindex-size",         served: (152, 107), told: Rebuilt("72.txnindex"),        rebuilt: &["72.txnindex"] },
    Row { variant: "zero-tail",             served: (257, 257), told: Nothing,                       rebuilt: &[] },
];

pub(super) fn variants(dirs: &KafkaDirs, counts: &mut Counts) {
    let names: Vec<_> = ROWS.iter().map(|row| row.variant).collect();
    assert_eq!(names, dirs.variants());
    let undamaged: BTreeMap<_, _> = ["clean", "killed"].map(|name| (name, expected(dirs, name))).into();
    for row in &ROWS {
        let answer = dirs.expected(&format!("torn/{}.json", row.variant));
        let (_, lines) = undamaged.get_key_value(text(&answer["base"])).expect("one of both");
        Case { row, answer: &answer, undamaged: Undamaged::of(lines, &answer) }.check(dirs);
        counts.add("variants", 1);
    }
}

/// The records of a partition before it was damaged: each as it is printed, and whether it is committed, by offset.
struct Undamaged<'a>(BTreeMap<u64, (&'a str, bool)>);

impl<'a> Undamaged<'a> {
    fn of(lines: &'a [(String, bool)], answer: &Value) -> Self {
        let head = format!("{{\"topic\":{},\"partition\":{},", answer["topic"], answer["partition"]);
        let lines = lines.iter().filter(|(line, _)| line.starts_with(&head));
        Self(lines.map(|(line, committed)| (offset_of(line), (line.as_str(), *committed))).collect())
    }
}

struct Case<'a> {
    row: &'a Row,
    /// What Kafka does.
    answer: &'a Value,
    undamaged: Undamaged<'a>,
}

impl Case<'_> {
    fn check(&self, dirs: &KafkaDirs) {
        let name = self.row.variant;
        let dir = dirs.copy(&format!("torn/{name}"));
        let before = contents(dir.path());
        let path = dir.path().to_str().expect("a path");
        let all = Run::of(&[path]);
        let committed = Run::of(&[path, "--committed"]);
        assert_eq!((all.out.lines().count(), committed.out.lines().count()), self.row.served, "{name}: {}", all.err);
        self.serves_what_was_there(&all.out);
        self.serves_what_kafka_serves(&all.out);
        self.hides_what_was_not_committed(&committed.out);
        self.tells(&all);
        let findings = Run::of(&[path, "--verify"]);
        let is_found = findings.code == 1 || !matches!(self.row.told, Damage(..));
        assert!(is_found, "{name}: {}", findings.err);
        self.reads_from_anywhere(dirs, dir.path(), &all.out);
        assert!(contents(dir.path()) == before, "{name}: something was changed");
        self.can_be_salvaged(dirs, &all.out);
    }

    fn serves_what_was_there(&self, out: &str) {
        let offsets: Vec<_> = out.lines().map(offset_of).collect();
        assert!(offsets.is_sorted_by(|one, next| one < next), "{}", self.row.variant);
        for line in out.lines() {
            match self.undamaged.0.get(&offset_of(line)) {
                Some((expected, _)) => assert_eq!(line, *expected, "{}", self.row.variant),
                // The cleaner's work was undone: what it had removed is there once more.
                None => assert_eq!(self.row.variant, "cleaned-pending", "{line}"),
            }
        }
    }

    /// What Kafka serves is printed; or, where that goes on behind a hole without a word, it is there after a salvage.
    fn serves_what_kafka_serves(&self, out: &str) {
        let is_all = self.kafkas().is_none_or(|kafkas| kafkas.is_subset(&offsets_of(out)));
        assert!(is_all || self.row.variant == "clean-lost-segment", "{}", self.row.variant);
    }

    /// The offsets of the records that Kafka serves, if it starts.
    fn kafkas(&self) -> Option<BTreeSet<u64>> {
        let kafkas = &self.answer["seen"]["read"];
        let count = kafkas["records"].as_u64().filter(|count| *count > 0)?;
        let served = number(&kafkas["firstOffset"]) as u64..=number(&kafkas["lastOffset"]) as u64;
        let is_served = |at: &u64| served.contains(at) && !self.unreadable().contains(at);
        let offsets: BTreeSet<u64> = self.undamaged.0.keys().copied().filter(is_served).collect();
        let has_more = self.row.variant == "cleaned-pending";
        assert!(offsets.len() as u64 == count || has_more, "{}", self.row.variant);
        Some(offsets)
    }

    /// Adopted and salvaged, it has all that Kafka serves and all that was printed, goes on, and nothing is wrong with it.
    fn can_be_salvaged(&self, dirs: &KafkaDirs, printed: &str) {
        let name = self.row.variant;
        let dir = dirs.copy(&format!("torn/{name}"));
        // A topic is adopted as a whole.
        let topic = text(&self.answer["topic"]);
        for below in 0..number(&self.answer["partition"]) {
            std::fs::create_dir(dir.path().join(format!("{topic}-{below}"))).expect("a directory");
        }
        let adoption = Adoption::default().abort_open();
        let log = Log::builder(dir.path()).adopt(adoption).recovery(RecoveryMode::Salvage);
        let log = log.background(Background::Caller).open().expect("a salvage");
        assert!(log.damaged().is_empty(), "{name}: {:?}", log.damaged());
        let partition = self.partition(&log).expect("a partition");
        partition.append("and on").expect("an append");
        drop(partition);
        log.close().expect("a close");

        let run = Run::of(&[dir.path().to_str().expect("a path"), "--topic", topic]);
        assert_eq!((run.code, run.err.as_str()), (0, ""), "{name}");
        let (last, salvaged) = run.out.trim_end().rsplit_once('\n').map(|(all, last)| (last, all)).expect("lines");
        assert!(last.contains(",\"value\":\"YW5kIG9u\","), "{name}: {last}");
        for line in salvaged.lines() {
            // What was behind an open transaction is decided now.
            let is_same = |there: &str| line.split(",\"committed\"").next() == there.split(",\"committed\"").next();
            match self.undamaged.0.get(&offset_of(line)) {
                Some((there, _)) => assert!(is_same(there), "{name}: {line}"),
                None => assert_eq!(name, "cleaned-pending", "{line}"),
            }
        }
        let salvaged = offsets_of(salvaged);
        assert!(offsets_of(printed).is_subset(&salvaged), "{name}");
        assert!(self.kafkas().is_none_or(|kafkas| kafkas.is_subset(&salvaged)), "{name}");
    }

    /// The offsets that are damaged, or gone, in the midst of others.
    fn unreadable(&self) -> Range<u64> {
        match self.row.variant {
            "clean-lost-segment" => 143..192,
            "flip-flushed" => 651..652,
            _ => 0..0,
        }
    }

    fn hides_what_was_not_committed(&self, out: &str) {
        for line in out.lines() {
            let was_committed = self.undamaged.0.get(&offset_of(line)).is_none_or(|(_, committed)| *committed);
            assert!(was_committed, "{}: {line}", self.row.variant);
        }
    }

    fn tells(&self, run: &Run) {
        let code = u8::from(matches!(self.row.told, Damage(..)));
        assert_eq!(run.code, code, "{}: {}", self.row.variant, run.err);
        let text = match self.row.told {
            Nothing => return assert_eq!(run.err, "", "{}", self.row.variant),
            Rebuilt(file) => format!("{} is missing or wrong", full_name(file)),
            Torn(file, position) => format!("{} ends at byte {position} in a torn write", full_name(file)),
            Damage(file, position) => format!("{} is damaged at byte {position}: ", full_name(file)),
        };
        let kind = if code == 0 { "note: " } else { "damage: " };
        let is_said = run.err.lines().any(|line| line.starts_with(kind) && line.contains(&text));
        assert!(is_said, "{}: {text:?} is not in {:?}", self.row.variant, run.err);
    }

    /// A read from any offset finds the next record there is, whatever the indexes say; what the partition knows beside
    /// its records is what it knew before, unless its end is gone.
    fn reads_from_anywhere(&self, dirs: &KafkaDirs, dir: &Path, printed: &str) {
        let (name, base) = (self.row.variant, text(&self.answer["base"]));
        let heard = Arc::new(Heard::default());
        let open = |mode| {
            let observer: Arc<Heard> = Arc::clone(&heard);
            let clock = Arc::new(Stopped::when_asked(dirs, base));
            let log = Log::builder(dir).read_only().clock(clock).observer(observer).recovery(mode);
            log.open().expect("an open")
        };
        let log = open(RecoveryMode::Report);
        let (log, partition) = match self.partition(&log) {
            Some(partition) => (log, partition),
            None => {
                let log = open(RecoveryMode::Salvage);
                let partition = self.partition(&log).expect("a partition that can be salvaged");
                (log, partition)
            }
        };
        let mut offsets = offsets_of(printed);
        let end = partition.offsets().end;
        // Reads may begin behind what is damaged, and find all that is there.
        let unreadable = self.unreadable();
        offsets.extend(self.undamaged.0.keys().filter(|at| unreadable.end > 0 && **at >= unreadable.end));
        for from in partition.offsets().start.0..=end.0 {
            for isolation in [Isolation::Uncommitted, Isolation::Committed] {
                let options = ReadOptions::default().max_records(1).isolation(isolation);
                let is_shown = |at: &&u64| {
                    let committed = self.undamaged.0.get(at).is_none_or(|(_, committed)| *committed);
                    committed || isolation == Isolation::Uncommitted
                };
                let expected = offsets.range(from..).find(is_shown).copied();
                match partition.read_with(Offset(from), options) {
                    Ok(found) => {
                        let found = found.iter().next().map(|record| record.offset.0);
                        assert_eq!(found, expected, "{name}: {isolation:?} from {from}");
                    }
                    Err(error) => assert!(unreadable.contains(&from), "{name}: {isolation:?} from {from}: {error}"),
                }
            }
        }
        let rebuilt: BTreeSet<_> = self.row.rebuilt.iter().map(|file| full_name(file)).collect();
        let heard = heard.files();
        assert!(rebuilt.is_subset(&heard), "{name}: {rebuilt:?} are not told among {heard:?}");
        if end == Offset(number(&self.answer["logEndOffsetUntouched"]) as u64) {
            self.knows_what_it_knew(dirs, &partition);
        }
        drop(partition);
        log.close().expect("a close");
    }

    fn knows_what_it_knew(&self, dirs: &KafkaDirs, partition: &Partition) {
        let (name, base) = (self.row.variant, text(&self.answer["base"]));
        let is_this = |answer: &&Value| {
            answer["topic"] == self.answer["topic"] && answer["partition"] == self.answer["partition"]
        };
        let all = dirs.expected(&format!("{base}/producers.json"));
        let mut producers =
            list(&all).iter().find(is_this).map_or(Vec::new(), |answer| list(&answer["producers"]).to_vec());
        producers.sort_by_key(|producer| number(&producer["producerId"]));
        // Those that are old are forgotten where a snapshot is loaded, and not where the batches are read instead.
        let now = number(&dirs.expected(&format!("{base}/meta.json"))["gatheredAtMs"]);
        let is_old = |producer: &Value| now - number(&producer["lastTimestamp"]) >= EXPIRY_MS;
        let mut found = producers_of(partition);
        found.retain(|producer| producers.contains(producer) || !is_old(producer));
        assert_eq!(found, producers, "{name}");
        let all = dirs.expected(&format!("{base}/loaded.json"));
        let epochs = epochs_told(list(&all).iter().find(is_this).expect("an answer"), partition.offsets().end);
        let is_written = |(_, start): &(LeaderEpoch, Offset)| *start < partition.offsets().end;
        let found: Vec<_> = partition.leader_epochs().into_iter().filter(is_written).collect();
        assert_eq!(found, epochs, "{name}");
    }

    fn partition(&self, log: &Log) -> Option<Partition> {
        let topic = log.find_topic(text(&self.answer["topic"]))?;
        topic.partition(number(&self.answer["partition"]) as u32).ok()
    }
}

/// How long a producer is remembered by default.
const EXPIRY_MS: i64 = 86_400_000;

/// The name of a file of a segment, zeros included.
fn full_name(file: &str) -> String {
    match file.split_once('.') {
        Some((base, extension)) => format!("{base:0>20}.{extension}"),
        None => file.to_owned(),
    }
}

fn offsets_of(out: &str) -> BTreeSet<u64> {
    out.lines().map(offset_of).collect()
}

fn offset_of(line: &str) -> u64 {
    let digits = line.split("\"offset\":").nth(1).and_then(|rest| rest.split(',').next());
    digits.and_then(|digits| digits.parse().ok()).expect("an offset")
}

/// The files that were found wrong or missing.
#[derive(Debug, Default)]
struct Heard(Mutex<BTreeSet<String>>);

impl Heard {
    fn files(&self) -> BTreeSet<String> {
        self.0.lock().expect("a sound lock").clone()
    }

    fn add(&self, path: &Path) {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        self.0.lock().expect("a sound lock").insert(name);
    }
}

impl Observer for Heard {
    fn index_rebuilt(&self, _: &TopicPartition, path: &Path) {
        self.add(path);
    }

    fn state_rebuilt(&self, _: &TopicPartition, path: &Path) {
        self.add(path);
    }
}
