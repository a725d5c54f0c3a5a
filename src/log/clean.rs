//! The mark of an orderly close: what each partition looked like when nothing was left to do.
//!
//! With it, opening compares lengths and verifies one batch a partition, and reads nothing else. It is gone, durably,
//! before the first change of any file; so while it is there, every byte is as the close left it.
//!
//! ```text
//! chiplog clean 1
//! log 00112233445566778899aabbccddeeff
//! partition AAECAwQFBgcICQoLDA0ODw 0 start 0 end 24 batch 200 1a2b3c4d index 24 00000000 36 00000000 grown 1700 22 195 first 1 producers 1 aborted 1
//! segment 0 630
//! segment 17 286
//! crc32 1a2b3c4d
//! ```

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::str::SplitAsciiWhitespace;

use super::text::{self, Form, LogId};
use crate::checksum::Digest;
use crate::disk::replace::replace;
use crate::disk::{Disk, read_file};
use crate::error::Result;
use crate::partition::hints::CleanPartition;
use crate::segment::index::Grown;
use crate::types::{Offset, Timestamp, TopicId};

/// The partitions that were closed in order, by topic id and number.
pub(crate) type Clean = HashMap<(TopicId, u32), CleanPartition>;

/// Reads the mark; `None` if there is none, or none that can be believed: then every partition is recovered.
pub(crate) fn load(disk: &dyn Disk, path: &Path, log: LogId) -> Option<Clean> {
    parse(&read_file(disk, path, MAX_BYTES).ok()?, log)
}

/// Writes the mark. The directory is as it says when this returns.
pub(crate) fn store(disk: &dyn Disk, path: &Path, log: LogId, clean: &Clean) -> Result<()> {
    replace(disk, path, to_text(log, clean).as_bytes())
}

fn to_text(log: LogId, clean: &Clean) -> String {
    let mut text = FORM.begin(log);
    let mut entries: Vec<_> = clean.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| **key);
    for ((topic, partition), entry) in entries {
        let _ = writeln!(text, "partition {topic} {partition} {}", describe(entry));
        for (base, len) in &entry.segments {
            let _ = writeln!(text, "segment {base} {len}");
        }
    }
    text::seal(text)
}

fn describe(entry: &CleanPartition) -> String {
    let (position, crc) = entry.last_batch.map_or((-1, 0), |(position, crc)| (position as i64, crc));
    let (timestamp, offset) = entry.grown.largest.unwrap_or((Timestamp::NONE, Offset::ZERO));
    let first = entry.first_timestamp.unwrap_or(Timestamp(i64::MIN));
    format!(
        "start {} end {} batch {position} {crc:08x} index {} {:08x} {} {:08x} grown {timestamp} {offset} {} first {first} \
         producers {} aborted {}",
        entry.start,
        entry.end,
        entry.index.len,
        entry.index.crc,
        entry.time_index.len,
        entry.time_index.crc,
        entry.grown.since_last,
        u8::from(entry.has_producers),
        u8::from(entry.has_aborted),
    )
}

fn parse(bytes: &[u8], log: LogId) -> Option<Clean> {
    let (found, lines) = FORM.open(bytes).ok()?;
    if found != log {
        return None;
    }
    let mut clean = Clean::new();
    let mut last = None;
    for line in lines {
        let mut words = line.split_ascii_whitespace();
        match words.next()? {
            "partition" => {
                let key = (words.next()?.parse().ok()?, number(&mut words)?);
                clean.insert(key, parse_entry(&mut words)?);
                last = Some(key);
            }
            "segment" => {
                let segment = (Offset(number(&mut words)?), number(&mut words)?);
                clean.get_mut(&last?)?.segments.push(segment);
            }
            _ => return None,
        }
    }
    Some(clean)
}

fn parse_entry(words: &mut SplitAsciiWhitespace<'_>) -> Option<CleanPartition> {
    let start = Offset(labelled(words, "start")?);
    let end = Offset(labelled(words, "end")?);
    let (position, crc): (i64, u32) = (labelled(words, "batch")?, hex(words)?);
    let index = Digest { len: labelled(words, "index")?, crc: hex(words)? };
    let time_index = Digest { len: number(words)?, crc: hex(words)? };
    let (timestamp, offset) = (Timestamp(labelled(words, "grown")?), Offset(number(words)?));
    let grown = Grown { largest: timestamp.is_some().then_some((timestamp, offset)), since_last: number(words)? };
    let first = labelled(words, "first")?;
    Some(CleanPartition {
        segments: Vec::new(),
        start,
        end,
        last_batch: u64::try_from(position).ok().map(|position| (position, crc)),
        index,
        time_index,
        grown,
        first_timestamp: (first != i64::MIN).then_some(Timestamp(first)),
        has_producers: labelled::<u8>(words, "producers")? == 1,
        has_aborted: labelled::<u8>(words, "aborted")? == 1,
    })
}

fn labelled<T: std::str::FromStr>(words: &mut SplitAsciiWhitespace<'_>, label: &str) -> Option<T> {
    (words.next()? == label).then(|| number(words))?
}

fn number<T: std::str::FromStr>(words: &mut SplitAsciiWhitespace<'_>) -> Option<T> {
    words.next()?.parse().ok()
}

fn hex(words: &mut SplitAsciiWhitespace<'_>) -> Option<u32> {
    u32::from_str_radix(words.next()?, 16).ok()
}

const FORM: Form = Form { what: "clean", version: 1 };
const MAX_BYTES: u64 = 256 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::crc32;

    fn any_clean() -> Clean {
        let entry = CleanPartition {
            segments: vec![(Offset(0), 630), (Offset(17), 286)],
            start: Offset(3),
            end: Offset(24),
            last_batch: Some((200, 0xDEAD_BEEF)),
            index: Digest::of(b"12345678"),
            time_index: Digest::default(),
            grown: Grown { largest: Some((Timestamp(1_700), Offset(22))), since_last: 195 },
            first_timestamp: Some(Timestamp::NONE),
            has_producers: true,
            has_aborted: false,
        };
        let empty = CleanPartition {
            segments: vec![(Offset(0), 0)],
            last_batch: None,
            grown: Grown::default(),
            first_timestamp: None,
            ..entry.clone()
        };
        let id = TopicId::from_bytes([7; 16]);
        Clean::from([((id, 0), entry), ((id, 1), empty)])
    }

    /// The form on disk, so that a change of it is one on purpose.
    #[test]
    fn the_text_is_the_documented_one() {
        let body = "chiplog clean 1\nlog 00112233445566778899aabbccddeeff\n\
            partition BwcHBwcHBwcHBwcHBwcHBw 0 start 3 end 24 batch 200 deadbeef index 8 9ae0daaf 0 00000000 \
            grown 1700 22 195 first -1 producers 1 aborted 0\nsegment 0 630\nsegment 17 286\n\
            partition BwcHBwcHBwcHBwcHBwcHBw 1 start 3 end 24 batch -1 00000000 index 8 9ae0daaf 0 00000000 \
            grown -1 0 0 first -9223372036854775808 producers 1 aborted 0\nsegment 0 0\n";
        let text = format!("{body}crc32 {:08x}\n", crc32(body.as_bytes()));
        assert_eq!(to_text(LogId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff), &any_clean()), text);
    }

    #[test]
    fn a_mark_reads_back() {
        let text = to_text(LogId(9), &any_clean());
        assert_eq!(parse(text.as_bytes(), LogId(9)), Some(any_clean()));
        assert_eq!(parse(text.as_bytes(), LogId(8)), None, "the mark of another log");
    }

    #[test]
    fn no_flipped_bit_and_no_cut_goes_unnoticed() {
        let text = to_text(LogId(9), &any_clean()).into_bytes();
        for bit in 0..text.len() * 8 {
            let mut damaged = text.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&damaged, LogId(9)), None, "bit {bit}");
        }
        for len in 0..text.len() {
            assert_eq!(parse(&text[..len], LogId(9)), None, "{len} bytes");
        }
    }
}
