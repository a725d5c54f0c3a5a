//! What a disk refuses to do: from some moment on, once or for ever.

use super::Result;
use super::random::{Random, stamp};

/// What a disk is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Read,
    Write,
    Flush,
}

/// The kinds of faults, by the names they have on command lines.
pub(crate) const FAULTS: [&str; 6] = ["flush", "flushes", "write", "writes", "read", "reads"];

/// What fails. A write that fails changes nothing; a flush that fails leaves everything as it was.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    what: Option<Asked>,
    is_sticky: bool,
    /// How many requests of this sort are still let pass.
    passing: u64,
    fired: u64,
    /// When the first one was.
    since: u64,
}

impl Faults {
    pub(crate) fn new(name: &str, random: &mut Random) -> Result<Self> {
        let what = match name {
            "flush" | "flushes" => Asked::Flush,
            "write" | "writes" => Asked::Write,
            "read" | "reads" => Asked::Read,
            _ => return Err(format!("there is no fault {name}").into()),
        };
        let passing = random.gap(8);
        Ok(Self { what: Some(what), is_sticky: name.ends_with('s'), passing, fired: 0, since: u64::MAX })
    }

    /// Whether to fail this request.
    pub(crate) fn fail(&mut self, asked: Asked) -> bool {
        if self.what != Some(asked) {
            return false;
        }
        if self.passing > 0 {
            self.passing -= 1;
            return false;
        }
        if self.fired == 0 {
            self.since = stamp();
        }
        self.fired += 1;
        self.is_sticky || self.fired == 1
    }

    /// When it failed the first request.
    pub(crate) fn since(&self) -> u64 {
        self.since
    }

    /// How many requests it has failed, or would have.
    pub(crate) fn fired(&self) -> u64 {
        self.fired
    }
}
