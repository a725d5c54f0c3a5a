//! One segment: a data file of whole batches, named by the offset it begins at, with its indexes beside it.

use std::path::{Path, PathBuf};

use crate::types::Offset;

pub(crate) mod active;
pub(crate) mod data;
pub(crate) mod files;
pub(crate) mod index;
pub(crate) mod offset_index;
pub(crate) mod pool;
pub(crate) mod scan;
pub(crate) mod seal;
pub(crate) mod staging;
pub(crate) mod time_index;
pub(crate) mod txn_index;

pub use files::ReadPath;

/// The files of a segment, by what they hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FileKind {
    Log,
    Index,
    TimeIndex,
    TxnIndex,
    Snapshot,
    Seal,
}

impl FileKind {
    pub(crate) const ALL: [Self; 6] =
        [Self::Log, Self::Index, Self::TimeIndex, Self::TxnIndex, Self::Snapshot, Self::Seal];

    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Index => "index",
            Self::TimeIndex => "timeindex",
            Self::TxnIndex => "txnindex",
            Self::Snapshot => "snapshot",
            Self::Seal => "seal",
        }
    }
}

/// The path of a file of the segment that begins at `base`: 20 digits and the suffix.
pub(crate) fn file_path(dir: &Path, base: Offset, kind: FileKind) -> PathBuf {
    dir.join(format!("{:020}.{}", base.0, kind.suffix()))
}

/// What a file name in a partition directory stands for; `None` if it is not one of a segment's.
pub(crate) fn parse_file_name(name: &str) -> Option<(Offset, FileKind)> {
    let (digits, suffix) = name.split_once('.')?;
    if digits.len() != 20 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let base = digits.parse().ok().map(Offset).filter(|base| *base <= Offset::MAX)?;
    FileKind::ALL.into_iter().find(|kind| kind.suffix() == suffix).map(|kind| (base, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_twenty_digits_and_a_known_suffix() {
        let path = file_path(Path::new("orders-0"), Offset(4711), FileKind::TimeIndex);
        assert_eq!(path, Path::new("orders-0/00000000000000004711.timeindex"));
        assert_eq!(parse_file_name("00000000000000004711.snapshot"), Some((Offset(4711), FileKind::Snapshot)));
        for other in ["4711.log", "0000000000000000471x.log", "00000000000000004711.log.deleted", "catalog"] {
            assert_eq!(parse_file_name(other), None, "{other}");
        }
        assert_eq!(parse_file_name("99999999999999999999.log"), None, "more than an offset can be");
    }
}
