//! What a verification found: values that say where, what, and what to do.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::types::{Offset, TopicPartition};

/// One thing on disk that is not as it should be.
///
/// Displayed in one line: file, position, what is wrong, what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The partition; none for a file of the whole log.
    pub partition: Option<TopicPartition>,
    /// The file.
    pub path: PathBuf,
    /// The first byte of the file that is meant; 0 if all of it is.
    pub position: u64,
    /// How many bytes are meant, from there on; 0 if that cannot be said.
    pub len: u64,
    /// The offsets that are not in the log for it, from the first to before the last.
    pub missing: Option<Range<Offset>>,
    /// Which kind of thing it is.
    pub kind: FindingKind,
    /// What is wrong, in words.
    pub message: Box<str>,
    /// What to do about it.
    pub advice: Advice,
}

/// Kinds of [`Finding`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FindingKind {
    /// Bytes of a data file are no batch that verifies.
    Batch,
    /// Offsets are missing, or a batch has one that others have.
    Offsets,
    /// A leader epoch is not the one that the batches around, or the file `leader-epoch-checkpoint`, say; or that file
    /// cannot be read.
    Epochs,
    /// An `.index` leads elsewhere. Where compaction may have left gaps, what it leads to behind the last batch is lost:
    /// its advice is [`Advice::Restore`] then.
    Index,
    /// A `.timeindex` says other times than the batches do. Of times behind the last batch, as for `Index`.
    TimeIndex,
    /// A `.txnindex` has other transactions than the batches do.
    TxnIndex,
    /// A `.snapshot` cannot be read, or says of producers what the batches do not.
    Snapshot,
    /// A `.seal` cannot be read, or other files are than it says.
    Seal,
    /// `partition.metadata` cannot be read, or is of another topic.
    Metadata,
    /// `catalog` cannot be read, or says something else than the open log knows.
    Catalog,
    /// A checkpoint of offsets cannot be read, or speaks of offsets that are not in the log.
    Checkpoint,
    /// `clean`, the mark of an orderly close, cannot be read, or the files are not as it says.
    CleanMark,
    /// A file that others speak of is not there.
    Missing,
    /// A file, or the end of one, is no part of the log.
    Leftover,
    /// The disk did not give the bytes.
    Unreadable,
    /// The partition could not be opened.
    NotOpened,
    /// More of the same file, which were left out.
    More,
}

/// What to do about a [`Finding`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Advice {
    /// Nothing: it harms nobody.
    Ignore,
    /// Nothing is lost. The file follows from others, and the log does without it. One that is used once more is made anew;
    /// one that is not, such as an old snapshot, may stay until its segment goes.
    Derived,
    /// Check the disk, and verify again.
    CheckDisk,
    /// Restore the partition from a replica or a backup; or open with [`RecoveryMode::Salvage`] to keep what can be kept.
    ///
    /// [`RecoveryMode::Salvage`]: crate::RecoveryMode::Salvage
    Restore,
}

impl Finding {
    pub(crate) fn new(path: &Path, position: u64, kind: FindingKind, message: impl Into<Box<str>>) -> Self {
        Self {
            partition: None,
            path: path.to_owned(),
            position,
            len: 0,
            missing: None,
            kind,
            message: message.into(),
            advice: kind.advice(),
        }
    }

    /// Why something could not be read or opened.
    pub(crate) fn of_error(kind: FindingKind, path: &Path, error: &Error) -> Self {
        match error {
            Error::Corrupt(found) => Self::new(&found.path, found.position, kind, found.reason.clone()),
            Error::Io { action, path, source } => Self {
                advice: Advice::CheckDisk,
                ..Self::new(path, 0, FindingKind::Unreadable, format!("cannot {action} it: {source}"))
            },
            other => Self::new(path, 0, kind, other.to_string()),
        }
    }

    pub(crate) fn len(self, len: u64) -> Self {
        Self { len, ..self }
    }

    pub(crate) fn missing(self, from: Offset, to: Offset) -> Self {
        Self { missing: (from < to).then_some(from..to), ..self }
    }

    pub(crate) fn advice(self, advice: Advice) -> Self {
        Self { advice, ..self }
    }

    /// Whether records may be lost, or cannot be told to be there. Else it is about files that follow from others, or
    /// that nobody needs.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self.advice, Advice::CheckDisk | Advice::Restore)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.path.display(), self.position, self.message)?;
        if let Some(Range { start, end }) = &self.missing {
            write!(f, "; offsets {start}..{end} are missing")?;
        }
        write!(f, "; {}", self.advice)
    }
}

impl FindingKind {
    /// What mostly is to be done.
    fn advice(self) -> Advice {
        match self {
            Self::Leftover | Self::More => Advice::Ignore,
            Self::Index | Self::TimeIndex | Self::TxnIndex | Self::Snapshot | Self::Seal => Advice::Derived,
            Self::Checkpoint | Self::CleanMark => Advice::Derived,
            Self::Unreadable => Advice::CheckDisk,
            Self::Batch | Self::Offsets | Self::Epochs | Self::Metadata | Self::Catalog => Advice::Restore,
            Self::Missing | Self::NotOpened => Advice::Restore,
        }
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ignore => "nothing to do",
            Self::Derived => "nothing is lost: it follows from other files",
            Self::CheckDisk => "check the disk, and verify again",
            Self::Restore => "restore it from a replica or a backup, or salvage what can be kept",
        })
    }
}

/// Findings about the files of one unit of work, of each file so many at most.
#[derive(Debug)]
pub(crate) struct Findings {
    partition: Option<TopicPartition>,
    found: Vec<Finding>,
    /// How many there are of each file.
    counts: Vec<(PathBuf, u64)>,
}

impl Findings {
    pub(crate) fn new(partition: Option<TopicPartition>) -> Self {
        Self { partition, found: Vec::new(), counts: Vec::new() }
    }

    pub(crate) fn push(&mut self, finding: Finding) {
        let count = match self.counts.iter_mut().find(|(path, _)| *path == finding.path) {
            Some((_, count)) => {
                *count += 1;
                *count
            }
            None => {
                self.counts.push((finding.path.clone(), 1));
                1
            }
        };
        if count <= MOST_OF_ONE_FILE {
            self.found.push(Finding { partition: self.partition.clone(), ..finding });
        }
    }

    pub(crate) fn extend(&mut self, findings: impl IntoIterator<Item = Finding>) {
        findings.into_iter().for_each(|finding| self.push(finding));
    }

    pub(crate) fn finish(mut self) -> Vec<Finding> {
        for (path, count) in self.counts.iter().filter(|(_, count)| *count > MOST_OF_ONE_FILE) {
            let left_out = count - MOST_OF_ONE_FILE;
            let more = Finding::new(path, 0, FindingKind::More, format!("{left_out} more findings were left out"));
            self.found.push(Finding { partition: self.partition.clone(), ..more });
        }
        self.found
    }
}

/// A file with more than these is to be replaced, whatever the rest of them is.
const MOST_OF_ONE_FILE: u64 = 100;
