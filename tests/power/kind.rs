//! The kinds of file systems, and how each is made and mounted.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::process::Command;

use super::Result;
use super::world::run;

/// A kind of file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ext4,
    Xfs,
    Btrfs,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    pub(crate) fn named(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        Ok(found.ok_or_else(|| format!("there is no kind {name}"))?)
    }

    /// Whether this machine can make one.
    pub(crate) fn can_be_made(self) -> bool {
        Command::new(self.maker()).arg("-V").output().is_ok()
    }

    pub(crate) fn maker(self) -> String {
        format!("mkfs.{}", self.name())
    }

    /// Makes an empty one in a new file.
    pub(crate) fn make(self, image: &Path) -> Result {
        File::create_new(image)?.set_len(self.bytes())?;
        run(Command::new(self.maker()).arg("-q").args(self.making()).arg(image))
    }

    /// Little, but not so little that it takes another shape.
    fn bytes(self) -> u64 {
        match self {
            Self::Ext4 => 128 << 20,
            Self::Xfs => 304 << 20,
            Self::Btrfs => 192 << 20,
        }
    }

    fn making(self) -> &'static [&'static str] {
        match self {
            Self::Ext4 => &["-m", "0"],
            Self::Xfs => &[],
            // One copy is enough, and half the work.
            Self::Btrfs => &["--metadata", "single"],
        }
    }

    /// How it is mounted. A journal is written every second, not every five or thirty, where that can be asked for.
    pub(crate) fn options(self) -> &'static str {
        match self {
            Self::Ext4 => "noatime,commit=1",
            // The same file system is not mounted twice at a time, but its marks of that may be left.
            Self::Xfs => "noatime,nouuid",
            Self::Btrfs => "noatime,nodiscard,commit=1",
        }
    }

    /// Where the superblock is, if it is longer than a sector.
    pub(crate) fn superblock(self) -> Option<Range<u64>> {
        match self {
            Self::Ext4 => Some(1 << 10..2 << 10),
            Self::Xfs => None,
            Self::Btrfs => Some(64 << 10..68 << 10),
        }
    }
}
