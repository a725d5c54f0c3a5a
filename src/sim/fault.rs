//! What can be made to go wrong, at which call.

use std::fmt;
use std::io;
use std::time::Duration;

/// One thing that goes wrong in one call. What does not fit the call does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call does nothing and returns this error. A failing sync also loses any part of what it was to sync,
    /// and marks the pages clean: later syncs succeed without them.
    Error(Errno),
    /// A read or write gets no more than this many bytes.
    Short(usize),
    /// A write does no more than this many bytes of its work, and fails. Any other call fails with EIO.
    Partly(usize),
    /// A write reports success, and lands this many bytes further on.
    Misplaced(u64),
    /// Before the call, write-back of its file fails behind the caller's back. Each handle open by then hears of
    /// it at its next sync, once; one opened later never does.
    WriteBack,
    /// Before the call the clean pages of all files are dropped: reads see what the disk has.
    Evict,
    /// The call takes this long on the simulated clock.
    Slow(Duration),
}

/// An error of the operating system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errno {
    /// EIO: the device failed.
    Io,
    /// ENOSPC: the disk is full.
    Full,
    /// EDQUOT: the quota is used up.
    Quota,
    /// EINTR: a signal came first.
    Interrupted,
    /// EMFILE: too many open files.
    TooManyFiles,
    /// EACCES: not allowed.
    Denied,
    /// EROFS: the file system turned read-only.
    ReadOnly,
}

impl Errno {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Io, Self::Full, Self::Quota, Self::Interrupted, Self::TooManyFiles, Self::Denied, Self::ReadOnly];
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        // The numbers of Linux. Those with a kind of their own get it without a number, to mean the same elsewhere.
        match errno {
            Errno::Io => Self::from_raw_os_error(5),
            Errno::TooManyFiles => Self::from_raw_os_error(24),
            Errno::Full => io::ErrorKind::StorageFull.into(),
            Errno::Quota => io::ErrorKind::QuotaExceeded.into(),
            Errno::Interrupted => io::ErrorKind::Interrupted.into(),
            Errno::Denied => io::ErrorKind::PermissionDenied.into(),
            Errno::ReadOnly => io::ErrorKind::ReadOnlyFilesystem.into(),
        }
    }
}

/// How often a fault strikes, from the call it is set on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// At that call only.
    Once,
    /// At that call and at the next ones of its kind, this many in all.
    Count(u32),
    /// At that call and at the next ones, whatever their kinds, this many in all.
    Next(u32),
    /// At that call and at every later one of its kind: a write that fails for ever, while reads go on.
    Sticky,
    /// At every call from there on.
    Dead,
}

/// The kind of a call through the seam.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // Named as the methods of `Disk` and `DiskFile` are.
pub enum Kind {
    Open,
    CreateDir,
    RemoveFile,
    RemoveDir,
    Rename,
    Link,
    List,
    Metadata,
    SyncDir,
    Lock,
    Volume,
    Read,
    Write,
    ZeroRange,
    Reserve,
    SetLen,
    Sync,
    Map,
    /// A store to simulated memory that outlives the process.
    Event,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A fault that waits for its call.
#[derive(Debug, Clone)]
pub(super) struct Armed {
    pub(super) from: u64,
    pub(super) fault: Fault,
    pub(super) times: Times,
    struck: u32,
    kind: Option<Kind>,
}

impl Armed {
    pub(super) fn new(from: u64, fault: Fault, times: Times) -> Self {
        Self { from, fault, times, struck: 0, kind: None }
    }

    /// Whether it strikes at the call number `index`, which is of this kind.
    pub(super) fn strikes(&mut self, index: u64, kind: Kind) -> bool {
        let due = match self.times {
            _ if index < self.from => false,
            Times::Once => index == self.from,
            Times::Dead => true,
            Times::Next(count) => index < self.from + u64::from(count),
            Times::Count(_) | Times::Sticky => *self.kind.get_or_insert(kind) == kind,
        };
        let left = !matches!(self.times, Times::Count(count) if self.struck >= count);
        self.struck += u32::from(due && left);
        due && left
    }

    /// Whether it can never strike again once the call number `index` is over.
    pub(super) fn is_over(&self, index: u64) -> bool {
        match self.times {
            Times::Once => index >= self.from,
            Times::Next(count) => index + 1 >= self.from + u64::from(count),
            Times::Count(count) => self.struck >= count,
            Times::Sticky | Times::Dead => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sticky_fault_keeps_to_the_kind_it_first_struck() {
        let mut armed = Armed::new(2, Fault::Error(Errno::Io), Times::Sticky);
        let calls = [Kind::Write, Kind::Sync, Kind::Write, Kind::Read, Kind::Write, Kind::Write];
        let struck: Vec<_> = (0..).zip(calls).filter(|(index, kind)| armed.strikes(*index, *kind)).collect();
        assert_eq!(struck, [(2, Kind::Write), (4, Kind::Write), (5, Kind::Write)]);
    }

    #[test]
    fn a_counted_fault_is_over_when_it_struck_often_enough() {
        let mut armed = Armed::new(0, Fault::Short(1), Times::Count(2));
        assert!(armed.strikes(0, Kind::Read) && !armed.is_over(0));
        assert!(armed.strikes(1, Kind::Read) && armed.is_over(1));
        assert!(!armed.strikes(2, Kind::Read));
    }

    #[test]
    fn a_simulated_error_is_told_apart_as_a_real_one() {
        assert!(crate::error::is_full(&Errno::Full.into()) && crate::error::is_full(&Errno::Quota.into()));
        assert!(!crate::error::is_full(&Errno::Io.into()));
    }
}
