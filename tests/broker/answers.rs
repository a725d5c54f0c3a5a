//! The log's answers about what a stopped and a killed broker left, beside those that Kafka gave.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chiplog::record::BatchRef;
use chiplog::{Clock, LeaderEpoch, Log, Offset, Partition, ProducerState, ReadOptions, Timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Counts;
use super::kafka_dirs::{KafkaDirs, contents};

/// Opened as they are, and left so.
pub(super) const UNDAMAGED: [&str; 2] = ["clean", "killed"];

/// A copy of a broker's directory, open read-only, at the time at which Kafka was asked.
pub(super) struct Opened {
    pub(super) name: &'static str,
    pub(super) log: Log,
    dir: TempDir,
    before: BTreeMap<PathBuf, Option<Vec<u8>>>,
}

impl Opened {
    fn new(dirs: &KafkaDirs, name: &'static str) -> Self {
        let dir = dirs.copy(name);
        let before = contents(dir.path());
        let clock = Arc::new(Stopped::when_asked(dirs, name));
        let log = Log::builder(dir.path()).read_only().clock(clock).open().expect("a readable directory");
        assert!(log.damaged().is_empty(), "{name}: {:?}", log.damaged());
        Self { name, log, dir, before }
    }

    /// The partition that an answer is about.
    fn partition(&self, answer: &Value) -> Partition {
        let (topic, number) = (text(&answer["topic"]), number(&answer["partition"]));
        let topic = self.log.find_topic(topic).expect("a topic that Kafka knows");
        topic.partition(number as u32).expect("a partition that is not damaged")
    }

    fn close(self) {
        self.log.close().expect("a close");
        assert!(contents(self.dir.path()) == self.before, "{}: something was changed", self.name);
    }
}

/// Runs a check on both directories, and sees to it that neither is changed.
fn on_each(dirs: &KafkaDirs, mut check: impl FnMut(&Opened)) {
    for name in UNDAMAGED {
        let opened = Opened::new(dirs, name);
        check(&opened);
        opened.close();
    }
}

pub(super) fn topics(dirs: &KafkaDirs, _: &mut Counts) {
    on_each(dirs, |opened| {
        let expected = dirs.expected(&format!("{}/topics.json", opened.name));
        let expected: BTreeMap<String, (String, i64)> = object(&expected)
            .map(|(name, topic)| (name.clone(), (text(&topic["topicId"]).to_owned(), number(&topic["partitions"]))))
            .collect();
        let found: BTreeMap<String, (String, i64)> = opened
            .log
            .topics()
            .iter()
            .map(|topic| (topic.name().to_owned(), (topic.id().to_string(), i64::from(topic.partition_count()))))
            .collect();
        assert_eq!(found, expected, "{}", opened.name);
    });
}

pub(super) fn offsets(dirs: &KafkaDirs, counts: &mut Counts) {
    on_each(dirs, |opened| {
        for answer in list(&dirs.expected(&format!("{}/loaded.json", opened.name))) {
            let partition = opened.partition(answer);
            let found = partition.offsets();
            let expected = (offset(&answer["logStartOffset"]), offset(&answer["logEndOffset"]));
            assert_eq!((found.start, found.end), expected, "{}: {partition:?}", opened.name);
            counts.add("partitions", 1);
        }
        for answer in list(&dirs.expected(&format!("{}/partitions.json", opened.name))) {
            let partition = opened.partition(answer);
            let found = partition.offsets();
            let expected = ["earliest", "lastStable", "latest"].map(|which| offset(&answer[which]["offset"]));
            assert_eq!([found.start, found.stable, found.committed], expected, "{}: {partition:?}", opened.name);
        }
    });
}

/// A read may begin anywhere: between batches, inside one, where compaction left a gap.
pub(super) fn reads(dirs: &KafkaDirs, _: &mut Counts) {
    on_each(dirs, |opened| {
        for answer in list(&dirs.expected(&format!("{}/partitions.json", opened.name))) {
            let partition = opened.partition(answer);
            let stored: Vec<(u64, bool)> = records(dirs, opened.name, answer)
                .iter()
                .map(|record| (number(&record["offset"]) as u64, record["committed"] == true))
                .collect();
            let offsets = partition.offsets();
            for from in offsets.start.0..=offsets.end.0 {
                for isolation in [chiplog::Isolation::Uncommitted, chiplog::Isolation::Committed] {
                    let only_committed = isolation == chiplog::Isolation::Committed;
                    let options = ReadOptions::default().max_records(1).isolation(isolation);
                    let found = partition.read_with(Offset(from), options).expect("a readable partition");
                    let found = found.iter().next().map(|record| record.offset.0);
                    let shown =
                        |(offset, committed): &&(u64, bool)| *offset >= from && (*committed || !only_committed);
                    let expected = stored.iter().find(shown).map(|(offset, _)| *offset);
                    assert_eq!(found, expected, "{}: {partition:?}, {isolation:?} from {from}", opened.name);
                }
            }
        }
    });
}

pub(super) fn times(dirs: &KafkaDirs, counts: &mut Counts) {
    on_each(dirs, |opened| {
        // There Kafka finds none, because compaction emptied the batch that its index names.
        let missed: BTreeMap<(String, i64, i64), i64> =
            list(&dirs.expected(&format!("{}/times-missed.json", opened.name)))
                .iter()
                .map(|answer| (query(answer), number(&answer["firstRecord"])))
                .collect();
        for line in dirs.expected_lines(&format!("{}/times.jsonl.gz", opened.name)) {
            let answer: Value = serde_json::from_str(&line).expect("an answer");
            let partition = opened.partition(&answer);
            let time = Timestamp(number(&answer["query"]));
            let found = partition.offset_at(time).expect("a readable partition");
            counts.add("look-ups", 1);
            if let Some(first) = missed.get(&query(&answer)) {
                assert_eq!(found, Some(Offset(*first as u64)), "{}: {line}", opened.name);
                continue;
            }
            let stable = partition.offsets().stable;
            let views = [("uncommitted", found), ("committed", found.filter(|found| *found < stable))];
            for (view, found) in views {
                let expected = &answer[view];
                assert_eq!(found, optional_offset(&expected["offset"]), "{}: {view} of {line}", opened.name);
                if let Some(found) = found {
                    assert_eq!(stored_at(&partition, found), told(expected), "{}: {view} of {line}", opened.name);
                }
            }
        }
    });
}

fn query(answer: &Value) -> (String, i64, i64) {
    (text(&answer["topic"]).to_owned(), number(&answer["partition"]), number(&answer["query"]))
}

pub(super) fn largest_timestamps(dirs: &KafkaDirs, _: &mut Counts) {
    on_each(dirs, |opened| {
        for answer in list(&dirs.expected(&format!("{}/partitions.json", opened.name))) {
            let partition = opened.partition(answer);
            let found = partition.largest_timestamp().expect("a readable partition");
            let expected = &answer["maxTimestamp"];
            let start = partition.offsets().start;
            match optional_offset(&expected["offset"]) {
                // Kafka does not mind that nobody can read it any more.
                Some(below) if below < start => {
                    assert!(found.is_none_or(|(offset, _)| offset >= start), "{}: {partition:?}", opened.name);
                }
                offset => {
                    let expected = offset.map(|offset| (offset, Timestamp(number(&expected["timestamp"]))));
                    assert_eq!(found, expected, "{}: {partition:?}", opened.name);
                }
            }
        }
    });
}

pub(super) fn leader_epochs(dirs: &KafkaDirs, _: &mut Counts) {
    on_each(dirs, |opened| {
        for answer in list(&dirs.expected(&format!("{}/loaded.json", opened.name))) {
            let partition = opened.partition(answer);
            let end = partition.offsets().end;
            let is_written = |(_, start): &(LeaderEpoch, Offset)| *start < end;
            let found: Vec<_> = partition.leader_epochs().into_iter().filter(is_written).collect();
            let expected = epochs_told(answer, end);
            assert_eq!(found, expected, "{}: {partition:?}", opened.name);
        }
    });
}

/// The epochs that records were written under, of an answer about loading.
pub(super) fn epochs_told(answer: &Value, end: Offset) -> Vec<(LeaderEpoch, Offset)> {
    // The broker that was asked began an epoch of its own at the end, in the place of one without records.
    let epochs = list(&answer["leaderEpochsAfter"]).iter();
    let epochs = epochs.map(|entry| (LeaderEpoch(number(&entry[0]) as i32), offset(&entry[1])));
    epochs.filter(|(_, start)| *start < end).collect()
}

pub(super) fn producers(dirs: &KafkaDirs, counts: &mut Counts) {
    on_each(dirs, |opened| {
        let mut expected = BTreeMap::new();
        for answer in list(&dirs.expected(&format!("{}/producers.json", opened.name))) {
            let mut producers = list(&answer["producers"]).to_vec();
            producers.sort_by_key(|producer| number(&producer["producerId"]));
            counts.add("producers", producers.len() as u64);
            expected.insert((text(&answer["topic"]).to_owned(), number(&answer["partition"])), producers);
        }
        for topic in opened.log.topics() {
            for number in 0..topic.partition_count() {
                let partition = topic.partition(number).expect("a partition that is not damaged");
                let found = producers_of(&partition);
                let expected = expected.remove(&(topic.name().to_owned(), i64::from(number))).unwrap_or_default();
                assert_eq!(found, expected, "{}: {partition:?}", opened.name);
            }
        }
        assert!(expected.is_empty(), "{}: of partitions that are not there: {expected:?}", opened.name);
    });
}

/// What is known of producers, as Kafka tells it.
pub(super) fn producers_of(partition: &Partition) -> Vec<Value> {
    let told = |producer: &ProducerState| {
        json!({
            "producerId": producer.producer_id.0,
            "producerEpoch": producer.producer_epoch.0,
            "lastSequence": producer.last_sequence.unwrap_or(-1),
            "lastTimestamp": producer.last_timestamp.0,
            "coordinatorEpoch": producer.coordinator_epoch,
            "currentTransactionStartOffset": producer.transaction_start.map(|start| start.0),
        })
    };
    partition.producers().iter().map(told).collect()
}

pub(super) fn groups(dirs: &KafkaDirs, counts: &mut Counts) {
    on_each(dirs, |opened| {
        let expected = committed_by_groups(dirs, opened.name);
        counts.add("groups", expected.len() as u64);
        let mut found = BTreeMap::new();
        for id in opened.log.groups().expect("readable groups") {
            let offsets = opened.log.group(&id).and_then(|group| group.offsets()).expect("readable groups");
            let offsets = offsets.iter().map(|(of, committed)| {
                let epoch = Some(committed.leader_epoch.0).filter(|epoch| *epoch >= 0);
                json!({
                    "topic": *of.topic,
                    "partition": of.partition,
                    "offset": committed.offset.0,
                    "leaderEpoch": epoch,
                    "metadata": *committed.metadata,
                })
            });
            let offsets: Vec<_> = offsets.collect();
            if !offsets.is_empty() {
                found.insert(id.clone(), offsets);
            }
        }
        assert_eq!(found, expected, "{}", opened.name);
    });
}

/// What each group committed, by topic and partition; those without are none.
pub(super) fn committed_by_groups(dirs: &KafkaDirs, name: &str) -> BTreeMap<String, Vec<Value>> {
    let mut groups = BTreeMap::new();
    for answer in list(&dirs.expected(&format!("{name}/groups.json"))) {
        // Groups of another kind have no offsets of this kind.
        let mut offsets = answer["offsets"].as_array().cloned().unwrap_or_default();
        offsets.sort_by_key(|of| (text(&of["topic"]).to_owned(), number(&of["partition"])));
        if !offsets.is_empty() {
            groups.insert(text(&answer["group"]).to_owned(), offsets);
        }
    }
    groups
}

/// The records of a partition, as Kafka's consumer got them.
pub(super) fn records(dirs: &KafkaDirs, name: &str, answer: &Value) -> Vec<Value> {
    let lines = dirs.expected_lines(&format!("{name}/{}", text(&answer["file"])));
    lines.iter().map(|line| serde_json::from_str(line).expect("a record")).collect()
}

/// Timestamp and leader epoch of what is stored at an offset, a marker included.
fn stored_at(partition: &Partition, at: Offset) -> (i64, i64) {
    let batches = partition.fetch(at, ReadOptions::default().max_bytes(1)).expect("a readable partition");
    let batch = BatchRef::verify(batches.bytes()).expect("a batch");
    let mut scratch = Vec::new();
    let record = batch.records(1 << 30, &mut scratch).expect("records").find(|record| record.offset == at);
    (record.expect("a record at the offset").timestamp.0, i64::from(batch.header().leader_epoch.0))
}

fn told(answer: &Value) -> (i64, i64) {
    (number(&answer["timestamp"]), number(&answer["leaderEpoch"]))
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().expect("an object").iter()
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

pub(super) fn number(value: &Value) -> i64 {
    value.as_i64().expect("a number")
}

fn offset(value: &Value) -> Offset {
    optional_offset(value).expect("an offset")
}

/// -1 is none.
fn optional_offset(value: &Value) -> Option<Offset> {
    Offset::from_wire(number(value))
}

/// A clock that stands still.
#[derive(Debug)]
pub(super) struct Stopped(Timestamp);

impl Stopped {
    /// At the time at which Kafka was asked: producers are forgotten by it.
    pub(super) fn when_asked(dirs: &KafkaDirs, name: &str) -> Self {
        Self(Timestamp(number(&dirs.expected(&format!("{name}/meta.json"))["gatheredAtMs"])))
    }
}

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        self.0
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}
