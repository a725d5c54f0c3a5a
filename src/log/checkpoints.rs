//! How far each partition is synced, and where it starts: one small file of ours.
//!
//! Kafka keeps both in files of its own, by name and without a checksum. A flipped digit there would hide records, and
//! a new topic of an old name would find the numbers of the old one. So ours are kept by topic id, with a checksum, and
//! Kafka's files are only written, at an orderly close, for Kafka to read.
//!
//! ```text
//! chiplog checkpoints 1
//! log 00112233445566778899aabbccddeeff
//! partition AAECAwQFBgcICQoLDA0ODw 0 start 3 synced 24
//! partition AAECAwQFBgcICQoLDA0ODw 1 start 0 synced 30 cleaned 20 gaps 25
//! crc32 1a2b3c4d
//! ```
//!
//! The last two numbers are of a partition that is compacted: everything below the first was, and below the second
//! offsets may be missing. In a log that other nodes hold, too, `committed 20` behind `synced 24` is the high watermark.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

use super::text::{self, Form, LogId};
use crate::disk::replace::replace;
use crate::disk::{Disk, read_file};
use crate::error::{Error, Result};
use crate::types::{Offset, TopicId};

/// The checkpoints as they are on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Checkpoints {
    entries: BTreeMap<(TopicId, u32), Checkpoint>,
    /// Whether a file was read: then what it does not speak of starts at 0.
    is_read: bool,
    /// Storing others failed, so they may be in the file: these are to be stored again, or what failed comes true later.
    pub(super) is_in_doubt: bool,
}

/// What is known of one partition, whatever happens to its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Checkpoint {
    /// Nothing below may be read any more.
    pub(super) start: Offset,
    /// Everything below was synced.
    pub(super) synced: Offset,
    /// Everything below was compacted.
    pub(super) cleaned: Offset,
    /// From here on no offset is missing; none if nobody knows that of a topic in which some are.
    pub(super) gaps: Option<Offset>,
    /// Everything below was committed; 0 in a log that no other node holds.
    pub(super) committed: Offset,
}

impl Checkpoint {
    /// Of a partition that was not compacted.
    pub(super) fn new(start: Offset, synced: Offset) -> Self {
        Self { start, synced, ..Self::default() }
    }
}

impl Checkpoints {
    /// Reads the file. One that is missing, or damaged, says nothing: then more is looked at, as in Kafka, and records
    /// that were deleted by hand may be back.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it is there and cannot be read.
    pub(super) fn load(disk: &dyn Disk, path: &Path, log: LogId) -> Result<Self> {
        match read_file(disk, path, MAX_BYTES) {
            Ok(bytes) => {
                Ok(Self::parse(&bytes, log).map_or_else(Self::default, |read| Self { is_read: true, ..read }))
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
                Ok(Self::default())
            }
            Err(error) => Err(Error::io("read", path)(error)),
        }
    }

    /// Replaces the file. Durable when this returns.
    pub(super) fn store(&self, disk: &dyn Disk, path: &Path, log: LogId) -> Result<()> {
        replace(disk, path, self.to_text(log).as_bytes())
    }

    pub(super) fn get(&self, topic: TopicId, partition: u32) -> Option<Checkpoint> {
        self.entries.get(&(topic, partition)).copied()
    }

    /// Where a partition starts; `None` if there was no file to tell.
    pub(super) fn start(&self, topic: TopicId, partition: u32) -> Option<Offset> {
        self.is_read.then(|| self.get(topic, partition).unwrap_or_default().start)
    }

    /// Raises what is known of a partition; lower numbers than before change nothing.
    pub(super) fn raise(&mut self, topic: TopicId, partition: u32, to: Checkpoint) {
        let known = self.entries.entry((topic, partition)).or_default();
        *known = Checkpoint {
            start: known.start.max(to.start),
            synced: known.synced.max(to.synced),
            cleaned: known.cleaned.max(to.cleaned),
            gaps: known.gaps.max(to.gaps),
            committed: known.committed.max(to.committed),
        };
    }

    /// Lowers how far a partition is known to be synced, after a salvage that found less. Returns whether it was more.
    pub(super) fn lower(&mut self, topic: TopicId, partition: u32, synced: Offset) -> bool {
        let entry = self.entries.get_mut(&(topic, partition)).filter(|entry| entry.synced > synced);
        entry.map(|entry| (entry.synced, entry.cleaned) = (synced, entry.cleaned.min(synced))).is_some()
    }

    /// Lowers all that is known of a partition above `end`, where it is cut. Returns whether there was any.
    pub(super) fn cut(&mut self, topic: TopicId, partition: u32, end: Offset) -> bool {
        let Some(known) = self.entries.get_mut(&(topic, partition)) else { return false };
        let cut = Checkpoint {
            synced: known.synced.min(end),
            cleaned: known.cleaned.min(end),
            committed: known.committed.min(end),
            ..*known
        };
        std::mem::replace(known, cut) != cut
    }

    /// Says of a partition that it holds nothing, and where it goes on.
    pub(super) fn restart(&mut self, topic: TopicId, partition: u32, at: Offset) {
        let known = Checkpoint { committed: at, ..Checkpoint::new(at, at) };
        self.entries.insert((topic, partition), known);
    }

    /// Below where offsets may be missing in a partition of a topic in which some are; `None` if nobody knows. Of one that
    /// was never spoken of nothing was compacted: that is written down before.
    pub(super) fn gaps(&self, topic: TopicId, partition: u32) -> Option<Offset> {
        match self.get(topic, partition) {
            Some(known) => known.gaps,
            None => self.is_read.then_some(Offset::ZERO),
        }
    }

    /// Forgets where in a partition offsets may be missing: others are about to be. Returns whether that was known.
    pub(super) fn forget_gaps(&mut self, topic: TopicId, partition: u32) -> bool {
        let was_known = self.gaps(topic, partition).is_some();
        self.entries.entry((topic, partition)).or_default().gaps = None;
        was_known
    }

    /// Forgets the partitions of topics that are no more.
    pub(super) fn retain(&mut self, is_live: impl Fn(TopicId) -> bool) {
        self.entries.retain(|(topic, _), _| is_live(*topic));
    }

    fn to_text(&self, log: LogId) -> String {
        let mut text = FORM.begin(log);
        for ((topic, partition), Checkpoint { start, synced, cleaned, gaps, committed }) in &self.entries {
            let _ = write!(text, "partition {topic} {partition} start {start} synced {synced}");
            if *committed > Offset::ZERO {
                let _ = write!(text, " committed {committed}");
            }
            if *cleaned > Offset::ZERO || gaps.is_some() {
                let _ = write!(text, " cleaned {cleaned}");
            }
            if let Some(gaps) = gaps {
                let _ = write!(text, " gaps {gaps}");
            }
            text.push('\n');
        }
        text::seal(text)
    }

    /// The text of a file; `None` if it is not one of this log.
    pub(super) fn parse(bytes: &[u8], log: LogId) -> Option<Self> {
        let (found, lines) = FORM.open(bytes).ok()?;
        if found != log {
            return None;
        }
        let mut checkpoints = Self::default();
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let ["partition", topic, partition, "start", start, "synced", synced, ref rest @ ..] = words[..] else {
                return None;
            };
            let (committed, rest) = match *rest {
                ["committed", committed, ref rest @ ..] => (committed, rest),
                ref rest => ("0", rest),
            };
            let (cleaned, gaps) = match *rest {
                [] => ("0", None),
                ["cleaned", cleaned] => (cleaned, None),
                ["cleaned", cleaned, "gaps", gaps] => (cleaned, Some(gaps)),
                _ => return None,
            };
            let offset = |text: &str| text.parse().ok().map(Offset);
            let key = (topic.parse().ok()?, partition.parse().ok()?);
            let entry = Checkpoint {
                start: offset(start)?,
                synced: offset(synced)?,
                cleaned: offset(cleaned)?,
                gaps: gaps.map(|gaps| offset(gaps).ok_or(())).transpose().ok()?,
                committed: offset(committed)?,
            };
            checkpoints.entries.insert(key, entry);
        }
        Some(checkpoints)
    }
}

const FORM: Form = Form { what: "checkpoints", version: 1 };
/// A longer file is not ours.
pub(super) const MAX_BYTES: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::crc32;

    fn any_checkpoints() -> Checkpoints {
        let mut checkpoints = Checkpoints::default();
        checkpoints.raise(TopicId::from_bytes([7; 16]), 3, Checkpoint::new(Offset(3), Offset(24)));
        let compacted = Checkpoint { cleaned: Offset(20), gaps: Some(Offset(25)), ..Checkpoint::default() };
        checkpoints.raise(TopicId::from_bytes([9; 16]), 0, compacted);
        let adopted = Checkpoint { cleaned: Offset(9), ..Checkpoint::default() };
        checkpoints.raise(TopicId::from_bytes([9; 16]), 1, adopted);
        checkpoints
    }

    /// The form on disk, so that a change of it is one on purpose.
    #[test]
    fn the_text_is_the_documented_one() {
        let body = "chiplog checkpoints 1\nlog 00112233445566778899aabbccddeeff\n\
            partition BwcHBwcHBwcHBwcHBwcHBw 3 start 3 synced 24\npartition CQkJCQkJCQkJCQkJCQkJCQ 0 start 0 synced 0 cleaned 20 gaps 25\n\
            partition CQkJCQkJCQkJCQkJCQkJCQ 1 start 0 synced 0 cleaned 9\n";
        let text = format!("{body}crc32 {:08x}\n", crc32(body.as_bytes()));
        assert_eq!(any_checkpoints().to_text(LogId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff)), text);
    }

    #[test]
    fn checkpoints_read_back_and_are_those_of_one_log() {
        let text = any_checkpoints().to_text(LogId(1));
        assert_eq!(Checkpoints::parse(text.as_bytes(), LogId(1)), Some(any_checkpoints()));
        assert_eq!(Checkpoints::parse(text.as_bytes(), LogId(2)), None);
    }

    #[test]
    fn no_flipped_bit_and_no_cut_goes_unnoticed() {
        let text = any_checkpoints().to_text(LogId(1)).into_bytes();
        for bit in 0..text.len() * 8 {
            let mut damaged = text.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Checkpoints::parse(&damaged, LogId(1)), None, "bit {bit}");
        }
        for len in 0..text.len() {
            assert_eq!(Checkpoints::parse(&text[..len], LogId(1)), None, "{len} bytes");
        }
    }

    #[test]
    fn a_checkpoint_never_falls() {
        let mut checkpoints = any_checkpoints();
        let id = TopicId::from_bytes([7; 16]);
        checkpoints.raise(id, 3, Checkpoint::new(Offset(1), Offset(30)));
        assert_eq!(checkpoints.get(id, 3), Some(Checkpoint::new(Offset(3), Offset(30))));
        checkpoints.retain(|topic| topic != id);
        assert_eq!(checkpoints.get(id, 3), None);
    }

    /// Nothing was known of a partition that had just been added to a compacted topic, and its gaps could be anywhere: a
    /// power cut that took the end of a segment left a hole. (Found by operation sequence 60402.)
    #[test]
    fn where_offsets_may_be_missing_is_known_unless_the_file_is_lost_or_a_salvage_took_some() {
        let id = TopicId::from_bytes([9; 16]);
        let text = any_checkpoints().to_text(LogId(1));
        let mut read = Checkpoints { is_read: true, ..Checkpoints::parse(text.as_bytes(), LogId(1)).unwrap() };
        assert_eq!([0, 1, 2].map(|partition| read.gaps(id, partition)), [Some(Offset(25)), None, Some(Offset::ZERO)]);
        assert_eq!(Checkpoints::default().gaps(id, 2), None);
        assert!(read.forget_gaps(id, 0) && read.forget_gaps(id, 2) && !read.forget_gaps(id, 1));
        assert_eq!([0, 1, 2].map(|partition| read.gaps(id, partition)), [None; 3]);
    }
}
