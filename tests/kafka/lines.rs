//! Records as lines of JSON, in the one form that Kafka's side and ours have in common.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use chiplog::record::{BatchHeader, BatchRef};
use chiplog::{Header, Isolation, LeaderEpoch, Log, Partition, ReadOptions, Timestamp, TimestampType};
use serde_json::{Value, json};

use crate::Result;

/// Topic, partition, offset.
pub(crate) type Place = (String, u32, u64);

/// The records of a log.
pub(crate) type Lines = BTreeMap<Place, Value>;

/// What a record says, whoever it is from.
pub(crate) struct Content<'a> {
    pub(crate) timestamp: Timestamp,
    pub(crate) timestamp_type: TimestampType,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: Vec<Header<'a>>,
    pub(crate) leader_epoch: LeaderEpoch,
    /// Whether readers of committed data get it, too.
    pub(crate) is_committed: bool,
}

impl Content<'_> {
    pub(crate) fn to_line(&self, (topic, partition, offset): &Place) -> Value {
        let len = |bytes: Option<&[u8]>| bytes.map_or(-1, |bytes| bytes.len() as i64);
        let timestamp_type = match self.timestamp_type {
            TimestampType::CreateTime => "CreateTime",
            TimestampType::LogAppendTime => "LogAppendTime",
        };
        let headers: Vec<_> = self.headers.iter().map(|header| json!([header.key, base64(header.value)])).collect();
        json!({
            "topic": topic,
            "partition": partition,
            "offset": offset,
            "timestamp": self.timestamp.0,
            "timestampType": timestamp_type,
            "key": base64(self.key),
            "value": base64(self.value),
            "headers": headers,
            "leaderEpoch": self.leader_epoch.0,
            "keySize": len(self.key),
            "valueSize": len(self.value),
            "committed": self.is_committed,
        })
    }
}

/// Reads all records of the log in `dir`, which is left as it is.
pub(crate) fn read(dir: &Path) -> Result<Lines> {
    let log = Log::builder(dir).read_only().open()?;
    if let Some(damage) = log.damaged().first() {
        return Err(format!("{}, {:?}: {}", dir.display(), damage.partition, damage.error).into());
    }
    let mut lines = Lines::new();
    for topic in log.topics() {
        for number in 0..topic.partition_count() {
            let partition = topic.partition(number)?;
            read_partition(&partition, &mut lines)
                .map_err(|error| format!("{}, {}-{number}: {error}", dir.display(), topic.name()))?;
        }
    }
    Ok(lines)
}

fn read_partition(partition: &Partition, lines: &mut Lines) -> Result {
    let committed = committed(partition)?;
    let mut scratch = Vec::new();
    let mut at = partition.offsets().start;
    loop {
        let batches = partition.fetch(at, ReadOptions::default())?;
        let mut bytes = batches.bytes();
        while !bytes.is_empty() {
            let batch = BatchRef::verify(bytes)?;
            bytes = &bytes[batch.bytes().len()..];
            if batch.header().attributes.is_control() {
                continue;
            }
            for record in batch.records(MOST_DECODED, &mut scratch)?.filter(|record| record.offset >= at) {
                let place = (partition.topic().to_owned(), partition.number(), record.offset.0);
                let BatchHeader { attributes, leader_epoch, .. } = *batch.header();
                let content = Content {
                    timestamp: record.timestamp,
                    timestamp_type: attributes.timestamp_type(),
                    key: record.key,
                    value: record.value,
                    headers: record.headers().collect(),
                    leader_epoch,
                    is_committed: committed.contains(&record.offset.0),
                };
                lines.insert(place.clone(), content.to_line(&place));
            }
        }
        if batches.next_offset() == at {
            return Ok(());
        }
        at = batches.next_offset();
    }
}

/// The offsets that readers of committed data get.
fn committed(partition: &Partition) -> Result<HashSet<u64>> {
    let mut offsets = HashSet::new();
    let mut at = partition.offsets().start;
    loop {
        let records = partition.read_with(at, ReadOptions::default().isolation(Isolation::Committed))?;
        offsets.extend(records.iter().map(|record| record.offset.0));
        if records.next_offset() == at {
            return Ok(offsets);
        }
        at = records.next_offset();
    }
}

/// What is said of the log in `dir`.
pub(crate) fn load(dir: &Path) -> Result<Lines> {
    let path = beside(dir);
    let file = fs::File::open(&path).map_err(|error| format!("cannot open {}: {error}", path.display()))?;
    let mut lines = Lines::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line: Value = serde_json::from_str(&line?)?;
        let place = || {
            let (partition, offset) = (line["partition"].as_u64()?, line["offset"].as_u64()?);
            Some((line["topic"].as_str()?.to_owned(), partition as u32, offset))
        };
        let place = place().ok_or_else(|| format!("{}, line {}: no place", path.display(), number + 1))?;
        if lines.insert(place, line).is_some() {
            return Err(format!("{}, line {}: an offset comes twice", path.display(), number + 1).into());
        }
    }
    Ok(lines)
}

/// Says of the log in `dir` what is in it.
pub(crate) fn store(dir: &Path, lines: &Lines) -> Result {
    let mut file = BufWriter::new(fs::File::create(beside(dir))?);
    for line in lines.values() {
        writeln!(file, "{line}")?;
    }
    Ok(file.flush()?)
}

pub(crate) fn is_described(dir: &Path) -> bool {
    beside(dir).exists()
}

fn beside(dir: &Path) -> PathBuf {
    dir.with_extension("jsonl")
}

/// The logs in a directory, by name.
pub(crate) fn logs_in(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    if names.is_empty() { Err(format!("there is no log in {}", dir.display()).into()) } else { Ok(names) }
}

/// Fails with the first record in which the two differ.
pub(crate) fn compare(log: &str, one: &str, ones: &Lines, other: &str, others: &Lines) -> Result {
    for (place, line) in ones {
        match others.get(place) {
            Some(found) if found == line => {}
            Some(found) => return Err(format!("{log}, {place:?}:\n  {one} {line}\n  {other} {found}").into()),
            None => return Err(format!("{log}, {place:?}: {one}, and not {other}").into()),
        }
    }
    match others.keys().find(|place| !ones.contains_key(*place)) {
        Some(place) => Err(format!("{log}, {place:?}: {other}, and not {one}").into()),
        None => Ok(()),
    }
}

/// As in RFC 4648, with padding.
pub(crate) fn base64(bytes: Option<&[u8]>) -> Option<String> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes?.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | u32::from(*three.get(at).unwrap_or(&0)));
        for at in 0..4 {
            let digit = char::from(DIGITS[(bits >> (18 - 6 * at)) as usize % 64]);
            text.push(if at > three.len() { '=' } else { digit });
        }
    }
    Some(text)
}

/// No batch of these logs has more bytes, once it is decompressed.
const MOST_DECODED: usize = 64 << 20;
