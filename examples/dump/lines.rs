//! JSON, an object a line. The fields and their order are those of the answers that a broker's directories are compared
//! with in the tests.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use chiplog::record::BatchHeader;
use chiplog::{Committed, Finding, LeaderEpoch, Offsets, RecordRef, TimestampType, TopicPartition};

/// Writes lines, one after the other, through a buffer.
pub(crate) struct Lines<W: Write> {
    out: BufWriter<W>,
    /// How each line of the partition begins.
    head: String,
    line: String,
}

impl<W: Write> Lines<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out: BufWriter::with_capacity(BUFFER, out), head: String::new(), line: String::new() }
    }

    /// The lines that follow are of this partition.
    pub(crate) fn begin(&mut self, topic: &str, partition: u32) {
        self.head.clear();
        self.head.push_str("{\"topic\":");
        text(&mut self.head, topic);
        let _ = write!(self.head, ",\"partition\":{partition}");
    }

    pub(crate) fn record(
        &mut self,
        header: &BatchHeader,
        record: &RecordRef<'_>,
        is_committed: bool,
    ) -> io::Result<()> {
        let line = &mut self.line;
        line.clone_from(&self.head);
        let kind = match header.attributes.timestamp_type() {
            TimestampType::LogAppendTime => "LogAppendTime",
            _ => "CreateTime",
        };
        let _ = write!(line, ",\"offset\":{},\"timestamp\":{}", record.offset, record.timestamp);
        let _ = write!(line, ",\"timestampType\":\"{kind}\",\"key\":");
        bytes(line, record.key);
        line.push_str(",\"value\":");
        bytes(line, record.value);
        line.push_str(",\"headers\":[");
        for (at, header) in record.headers().enumerate() {
            line.push_str(if at == 0 { "[" } else { ",[" });
            text(line, header.key);
            line.push(',');
            bytes(line, header.value);
            line.push(']');
        }
        line.push_str("],\"leaderEpoch\":");
        epoch(line, header.leader_epoch);
        let (key, value) = (len(record.key), len(record.value));
        let _ = writeln!(line, ",\"keySize\":{key},\"valueSize\":{value},\"committed\":{is_committed}}}");
        self.out.write_all(line.as_bytes())
    }

    pub(crate) fn offsets(&mut self, offsets: &Offsets) -> io::Result<()> {
        let Offsets { start, stable, end, .. } = offsets;
        writeln!(self.out, "{},\"start\":{start},\"stable\":{stable},\"end\":{end}}}", self.head)
    }

    pub(crate) fn group(&mut self, group: &str, of: &TopicPartition, offset: &Committed) -> io::Result<()> {
        let line = &mut self.line;
        line.clear();
        line.push_str("{\"group\":");
        text(line, group);
        line.push_str(",\"topic\":");
        text(line, &of.topic);
        let _ = write!(line, ",\"partition\":{},\"offset\":{},\"leaderEpoch\":", of.partition, offset.offset);
        epoch(line, offset.leader_epoch);
        line.push_str(",\"metadata\":");
        text(line, &offset.metadata);
        line.push_str("}\n");
        self.out.write_all(line.as_bytes())
    }

    pub(crate) fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        let line = &mut self.line;
        line.clear();
        match &finding.partition {
            Some(of) => {
                line.push_str("{\"topic\":");
                text(line, &of.topic);
                let _ = write!(line, ",\"partition\":{}", of.partition);
            }
            None => line.push_str("{\"topic\":null,\"partition\":null"),
        }
        line.push_str(",\"file\":");
        text(line, &finding.path.to_string_lossy());
        let _ = write!(line, ",\"position\":{},\"length\":{},\"missing\":", finding.position, finding.len);
        match &finding.missing {
            Some(missing) => _ = write!(line, "[{},{}]", missing.start, missing.end),
            None => line.push_str("null"),
        }
        let _ = write!(line, ",\"kind\":\"{:?}\",\"damage\":{},\"what\":", finding.kind, finding.is_damage());
        text(line, &finding.message);
        line.push_str(",\"advice\":");
        text(line, &finding.advice.to_string());
        line.push_str("}\n");
        self.out.write_all(line.as_bytes())
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn text(line: &mut String, text: &str) {
    let quoted = serde_json::Value::from(text);
    let _ = write!(line, "{quoted}");
}

fn bytes(line: &mut String, bytes: Option<&[u8]>) {
    let Some(bytes) = bytes else { return line.push_str("null") };
    line.push('"');
    BASE64_STANDARD.encode_string(bytes, line);
    line.push('"');
}

fn epoch(line: &mut String, epoch: LeaderEpoch) {
    if epoch == LeaderEpoch::NONE {
        return line.push_str("null");
    }
    let _ = write!(line, "{epoch}");
}

/// As Kafka's clients tell it.
fn len(bytes: Option<&[u8]>) -> i64 {
    bytes.map_or(-1, |bytes| bytes.len() as i64)
}

const BUFFER: usize = 256 << 10;
