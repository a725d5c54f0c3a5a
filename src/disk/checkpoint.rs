//! Kafka's small text files.
//!
//! The checkpoints of a log directory and of the leader epochs share one form:
//!
//! ```text
//! 0               version
//! 2               how many entries follow
//! orders 0 24     one entry: here topic, partition, offset
//! orders 1 7
//! ```
//!
//! Every line ends in a line feed, the last one too. Reading is strict, because a line cut short still reads as a
//! number: a smaller one. An empty file, and one that ends after its version, hold no entries.
//!
//! `partition.metadata` is the exception: two named fields, and no line feed at the end.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::replace::replace;
use super::{Disk, read_file};
use crate::error::{Error, Result};
use crate::types::{Offset, TopicId, TopicPartition};

/// One offset for each partition of a log directory: recovery points, high watermarks, log starts, cleaned ends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct OffsetCheckpoint(pub(crate) BTreeMap<TopicPartition, Offset>);

impl OffsetCheckpoint {
    /// Replaces the file. Durable when this returns.
    pub(crate) fn write(&self, disk: &dyn Disk, path: &Path) -> Result<()> {
        replace(disk, path, self.to_text().as_bytes())
    }

    pub(crate) fn to_text(&self) -> String {
        let mut text = entries_head(self.0.len());
        for (TopicPartition { topic, partition }, offset) in &self.0 {
            text.push_str(&format!("{topic} {partition} {offset}\n"));
        }
        text
    }
}

/// Only a broker's own are read, and by a verification: a log's have checksums.
impl OffsetCheckpoint {
    /// Reads the file; one that is not there holds nothing.
    pub(crate) fn read(disk: &dyn Disk, path: &Path) -> Result<Self> {
        let Some(bytes) = read_limited(disk, path)? else { return Ok(Self::default()) };
        Self::parse(&bytes).map_err(|malformed| malformed.at(path))
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut offsets = BTreeMap::new();
        parse_entries(bytes, |line| {
            let [name, partition, offset] = fields(line).ok_or("not topic, partition and offset")?;
            let partition = partition.parse::<i32>().ok().and_then(|number| u32::try_from(number).ok());
            let partition = partition.ok_or("not a partition number")?;
            let partition = TopicPartition { topic: name.into(), partition };
            let offset = offset.parse().ok().and_then(Offset::from_wire).ok_or("not an offset")?;
            match offsets.insert(partition, offset) {
                None => Ok(()),
                Some(_) => Err("the partition was named before"),
            }
        })?;
        Ok(Self(offsets))
    }
}

/// The file `partition.metadata`: which topic a partition directory belongs to, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PartitionMetadata {
    pub(crate) topic: TopicId,
}

impl PartitionMetadata {
    /// Reads the file; `None` if it is not there.
    pub(crate) fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Self>> {
        let Some(bytes) = read_limited(disk, path)? else { return Ok(None) };
        Self::parse(&bytes).map(Some).map_err(|malformed| malformed.at(path))
    }

    /// Replaces the file. Durable when this returns.
    pub(crate) fn write(&self, disk: &dyn Disk, path: &Path) -> Result<()> {
        replace(disk, path, self.to_text().as_bytes())
    }

    /// Accepts versions above 0, as Kafka does: what they add follows the two lines that are known.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut lines = bytes.splitn(3, |byte| *byte == b'\n');
        let first = lines.next().unwrap_or_default();
        let version = named(first, "version").and_then(|text| text.parse::<u32>().map_err(|_| "not a version"));
        version.map_err(|what| Malformed::Line { line: 1, at: 0, what })?;

        let topic = named(lines.next().unwrap_or_default(), "topic_id").and_then(|text| {
            let id: Option<TopicId> = text.parse().ok();
            id.filter(|id| *id.as_bytes() != [0; 16]).ok_or("not a topic id")
        });
        let topic = topic.map_err(|what| Malformed::Line { line: 2, at: first.len() + 1, what })?;
        Ok(Self { topic })
    }

    pub(crate) fn to_text(self) -> String {
        format!("version: 0\ntopic_id: {}", self.topic)
    }
}

/// What a reader met in place of a line of the form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// A line that cannot be what stands there. Lines count from 1; `at` is the position of its first byte.
    #[error("line {line}: {what}")]
    Line { line: usize, at: usize, what: &'static str },
    /// A version this build does not know.
    #[error("version {found} is newer than {VERSION}")]
    Newer { found: u32 },
}

impl Malformed {
    /// The error to report, once the file is known.
    pub(crate) fn at(self, path: &Path) -> Error {
        match self {
            Self::Line { at, .. } => Error::corrupt(path, at as u64, self.to_string()),
            Self::Newer { found } => Error::NewerVersion { path: path.to_owned(), found, supported: VERSION },
        }
    }
}

/// Reads a text file of a length that is bounded; `None` if it is not there.
pub(crate) fn read_limited(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>> {
    match read_file(disk, path, LIMIT_BYTES) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(Error::corrupt(path, LIMIT_BYTES, "longer than any file of its kind"))
        }
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// Checks version and count, and hands each line of an entry to `entry`.
pub(crate) fn parse_entries<'a>(
    bytes: &'a [u8],
    mut entry: impl FnMut(&'a str) -> Result<(), &'static str>,
) -> Result<(), Malformed> {
    let mut lines = Lines::new(bytes);
    let Some(version) = lines.next()? else { return Ok(()) };
    match number(version) {
        Some(VERSION) => {}
        Some(found) => return Err(Malformed::Newer { found }),
        None => return Err(lines.malformed("not a version")),
    }
    let Some(count) = lines.next()? else { return Ok(()) };
    let count = number(count).ok_or_else(|| lines.malformed("not a count"))?;
    for _ in 0..count {
        let line = lines.next()?.ok_or_else(|| lines.malformed("missing: the count promises more"))?;
        entry(line).map_err(|what| lines.malformed(what))?;
    }
    match lines.next()? {
        None => Ok(()),
        Some(_) => Err(lines.malformed("more lines than the count promises")),
    }
}

/// The first two lines of a file of `count` entries.
pub(crate) fn entries_head(count: usize) -> String {
    format!("{VERSION}\n{count}\n")
}

/// Splits a line at white space, into exactly as many fields as asked for.
pub(crate) fn fields<const N: usize>(line: &str) -> Option<[&str; N]> {
    let mut split = line.split_ascii_whitespace();
    let mut fields = [""; N];
    for field in &mut fields {
        *field = split.next()?;
    }
    split.next().is_none().then_some(fields)
}

/// The value of a line `name: value`.
fn named<'a>(line: &'a [u8], name: &'static str) -> Result<&'a str, &'static str> {
    let text = std::str::from_utf8(line).map_err(|_| "not UTF-8")?;
    let (key, value) = text.split_once(':').ok_or("not a name and a value")?;
    if key == name { Ok(value.trim_ascii()) } else { Err("not the expected name") }
}

fn number(line: &str) -> Option<u32> {
    let [text] = fields(line)?;
    text.parse().ok()
}

/// The lines of a text, and where the current one is.
struct Lines<'a> {
    rest: &'a [u8],
    next_at: usize,
    at: usize,
    line: usize,
}

impl<'a> Lines<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, next_at: 0, at: 0, line: 0 }
    }

    fn next(&mut self) -> Result<Option<&'a str>, Malformed> {
        self.at = self.next_at;
        self.line += 1;
        if self.rest.is_empty() {
            return Ok(None);
        }
        let len = self.rest.iter().position(|byte| *byte == b'\n').ok_or_else(|| self.malformed("no line end"))?;
        let (line, rest) = self.rest.split_at(len);
        self.rest = &rest[1..];
        self.next_at += len + 1;
        std::str::from_utf8(line).map(Some).map_err(|_| self.malformed("not UTF-8"))
    }

    fn malformed(&self, what: &'static str) -> Malformed {
        Malformed::Line { line: self.line, at: self.at, what }
    }
}

/// A million partitions with names of a usual length.
const LIMIT_BYTES: u64 = 64 << 20;
const VERSION: u32 = 0;

#[cfg(test)]
mod tests {
    use super::super::RealDisk;
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn the_files_of_a_kafka_directory_read_and_write_back_unchanged() {
        for (name, count) in [("recovery-point", 1), ("replication", 1), ("log-start", 0)] {
            let bytes = fixture(&format!("{name}-offset-checkpoint"));
            let checkpoint = OffsetCheckpoint::parse(&bytes).unwrap();
            assert_eq!(checkpoint.0.len(), count, "{name}");
            assert!(checkpoint.0.iter().all(|entry| entry == (&TopicPartition::new("orders", 0), &Offset(24))));
            assert_eq!(checkpoint.to_text().as_bytes(), bytes, "{name}");
        }
        let bytes = fixture("orders-0/partition.metadata");
        let metadata = PartitionMetadata::parse(&bytes).unwrap();
        assert_eq!(metadata.topic.to_string(), "AAECAwQFBgcICQoLDA0ODw");
        assert_eq!(metadata.to_text().as_bytes(), bytes);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, problem) in [
            ("1\n0\n", "version 1 is newer than 0"),
            ("x\n", "line 1: not a version"),
            ("0", "line 1: no line end"),
            ("0\n-1\n", "line 2: not a count"),
            ("0\n2\na 0 1\n", "line 4: missing: the count promises more"),
            ("0\n4000000000\n", "line 3: missing: the count promises more"),
            ("0\n0\na 0 1\n", "line 3: more lines than the count promises"),
            ("0\n1\na 0\n", "line 3: not topic, partition and offset"),
            ("0\n1\na 0 1 2\n", "line 3: not topic, partition and offset"),
            ("0\n1\na -1 1\n", "line 3: not a partition number"),
            ("0\n1\na 0 -1\n", "line 3: not an offset"),
            ("0\n1\na 0 9223372036854775808\n", "line 3: not an offset"),
            ("0\n2\na 0 1\na 0 1\n", "line 4: the partition was named before"),
            ("0\n1\n\n", "line 3: not topic, partition and offset"),
        ] {
            assert_eq!(OffsetCheckpoint::parse(text.as_bytes()).unwrap_err().to_string(), problem, "{text:?}");
        }
        let not_text = OffsetCheckpoint::parse(b"0\n1\n\xFF 0 1\n").unwrap_err();
        assert_eq!(not_text, Malformed::Line { line: 3, at: 4, what: "not UTF-8" });
    }

    #[test]
    fn a_file_cut_anywhere_is_never_read_as_other_offsets() {
        let whole = "0\n2\norders 0 24\norders 1 7\n";
        for len in 0..whole.len() {
            match OffsetCheckpoint::parse(&whole.as_bytes()[..len]) {
                // Kafka reads an empty file, and a version alone, as no entries.
                Ok(read) => assert!(read.0.is_empty() && len <= 2, "{len} bytes"),
                Err(malformed) => assert!(matches!(malformed, Malformed::Line { .. })),
            }
        }
    }

    #[test]
    fn partition_metadata_needs_both_fields_and_an_id() {
        let id = "AAECAwQFBgcICQoLDA0ODw";
        let read = |text: String| PartitionMetadata::parse(text.as_bytes()).map_err(|error| error.to_string());
        assert!(read(format!("version: 0\ntopic_id: {id}\n")).is_ok(), "a last line end does no harm");
        assert!(read(format!("version: 1\ntopic_id: {id}\nmore: 7\n")).is_ok(), "later versions add lines");
        for (text, problem) in [
            (String::new(), "line 1: not a name and a value"),
            ("version: 0".to_owned(), "line 2: not a name and a value"),
            (format!("version: -1\ntopic_id: {id}"), "line 1: not a version"),
            (format!("topic_id: {id}\nversion: 0"), "line 1: not the expected name"),
            (format!("version: 0\ntopic_id: {}", &id[1..]), "line 2: not a topic id"),
            (format!("version: 0\ntopic_id: {}", "A".repeat(22)), "line 2: not a topic id"),
        ] {
            assert_eq!(read(text.clone()), Err(problem.to_owned()), "{text:?}");
        }
    }

    #[test]
    fn a_checkpoint_is_replaced_and_read_from_a_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recovery-point-offset-checkpoint");
        assert_eq!(OffsetCheckpoint::read(&RealDisk, &path).unwrap(), OffsetCheckpoint::default());

        let offsets = [("b", 0, 7), ("a-1", 2, 5), ("a-1", 0, 0)];
        let offsets =
            offsets.map(|(topic, partition, offset)| (TopicPartition::new(topic, partition), Offset(offset)));
        let checkpoint = OffsetCheckpoint(offsets.into());
        checkpoint.write(&RealDisk, &path).unwrap();
        assert_eq!(OffsetCheckpoint::read(&RealDisk, &path).unwrap(), checkpoint);

        std::fs::write(&path, "0\n1\nb 0\n").unwrap();
        let error = OffsetCheckpoint::read(&RealDisk, &path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().ends_with("damaged at byte 4: line 3: not topic, partition and offset"), "{error}");
        std::fs::write(&path, "3\n").unwrap();
        let error = OffsetCheckpoint::read(&RealDisk, &path).unwrap_err();
        assert!(matches!(error, Error::NewerVersion { found: 3, supported: 0, .. }));
    }

    #[test]
    fn partition_metadata_is_replaced_and_read_from_a_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("partition.metadata");
        assert_eq!(PartitionMetadata::read(&RealDisk, &path).unwrap(), None);
        let metadata = PartitionMetadata { topic: TopicId::from_bytes([9; 16]) };
        metadata.write(&RealDisk, &path).unwrap();
        assert_eq!(PartitionMetadata::read(&RealDisk, &path).unwrap(), Some(metadata));
    }

    #[test]
    fn a_file_beyond_the_limit_is_damaged_and_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long");
        std::fs::File::create(&path).unwrap().set_len(LIMIT_BYTES + 1).unwrap();
        assert_eq!(OffsetCheckpoint::read(&RealDisk, &path).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    fn fixture(name: &str) -> Vec<u8> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/fixture-log-dir");
        std::fs::read(dir.join(name)).unwrap()
    }
}
