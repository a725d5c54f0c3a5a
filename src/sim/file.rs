//! One simulated file: what reads see, what would survive, and the writes between the two.
//!
//! ```text
//!            write, cut                 sync
//! cached <------------- pending ------------------> durable
//!    ^                     |  failed sync              |
//!    '------- evict -------+--> lost: in no list,      |
//!                               only cached has it     |
//!             durable + a subset of pending  ----------+--> found after a crash
//! ```
//!
//! Bytes are *unproven* when a sync that reported success says nothing about them: they were written by another
//! handle before the syncing one was opened, or an earlier sync of them failed.

use std::ops::Range;
use std::sync::Arc;

use super::choice::Choice;
use super::contents::Contents;
use super::ranges::Ranges;

/// The unit that the world writes whole, or not at all: half of one only in torn mode.
pub(super) const SECTOR: u64 = 512;

#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) cached: Contents,
    pub(super) durable: Contents,
    pending: Vec<Pending>,
    /// Cached bytes that no later sync will bring to the disk.
    lost: Ranges,
    unproven: Ranges,
    /// Bytes below it are final: they may be borrowed or were promised.
    pub(super) published: u64,
    /// Bytes below it were promised to survive a crash.
    pub(super) claimed: u64,
    /// Whether an eviction took away bytes that were there before. They were promised to nobody.
    pub(super) has_dropped: bool,
    /// Write-back errors so far. A handle that has seen fewer reports one at its next sync, once.
    pub(super) failures: u32,
    /// Whether it is mapped to be stored to. All of it survives a crash then: nobody may believe it, so that is worse.
    pub(super) is_shared: bool,
    pub(super) born: u64,
    pub(super) modified_ms: i64,
}

#[derive(Debug, Clone)]
struct Pending {
    /// When it was made, on the volume's own count.
    at: u64,
    change: Change,
    /// Whether it takes bytes away that were other than zero.
    erases: bool,
}

#[derive(Debug, Clone)]
enum Change {
    Bytes { position: u64, bytes: Arc<[u8]> },
    Zeros { position: u64, len: u64 },
    Cut { len: u64 },
    Grow { len: u64 },
}

impl File {
    pub(super) fn new(born: u64) -> Self {
        Self {
            cached: Contents::default(),
            durable: Contents::default(),
            pending: Vec::new(),
            lost: Ranges::default(),
            unproven: Ranges::default(),
            published: 0,
            claimed: 0,
            has_dropped: false,
            failures: 0,
            is_shared: false,
            born,
            modified_ms: 0,
        }
    }

    /// A file at rest, all of it on the disk.
    pub(super) fn settled(born: u64, contents: Contents) -> Self {
        Self { cached: contents.clone(), durable: contents, ..Self::new(born) }
    }

    pub(super) fn write(&mut self, at: u64, position: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.cached.write(position, bytes);
        self.touch(position..position + bytes.len() as u64);
        if self.is_shared {
            self.durable.write(position, bytes);
            return;
        }
        self.pending.push(Pending { at, change: Change::Bytes { position, bytes: bytes.into() }, erases: false });
    }

    /// From now on it is stored to.
    pub(super) fn share(&mut self) {
        self.is_shared = true;
        self.pending.clear();
        self.durable = self.cached.clone();
    }

    pub(super) fn zero(&mut self, at: u64, position: u64, len: u64) {
        let end = position.saturating_add(len).min(self.cached.len());
        let len = end.saturating_sub(position);
        let erases = self.cached.holds_data(position..position + len);
        self.cached.zero(position, len);
        self.touch(position..position + len);
        self.pending.push(Pending { at, change: Change::Zeros { position, len }, erases });
    }

    pub(super) fn set_len(&mut self, at: u64, len: u64) {
        let change = match len < self.cached.len() {
            true => Change::Cut { len },
            false => Change::Grow { len },
        };
        let erases = self.cached.holds_data(len..self.cached.len());
        self.touch(len..u64::MAX);
        self.cached.set_len(len);
        self.pending.push(Pending { at, change, erases });
    }

    fn touch(&mut self, range: Range<u64>) {
        self.lost.remove(range.clone());
        self.unproven.remove(range);
    }

    /// A sync that succeeds, through a handle opened at `opened`.
    pub(super) fn sync(&mut self, opened: u64) {
        let all = self.lost.is_empty();
        for Pending { at, change, .. } in std::mem::take(&mut self.pending) {
            if !all {
                apply(&mut self.durable, &change);
            }
            if let Some(range) = change.range() {
                match at > opened {
                    true => self.unproven.remove(range),
                    false => self.unproven.add(range),
                }
            }
        }
        match all {
            true => self.durable = self.cached.clone(),
            false => self.durable.set_len(self.cached.len()),
        }
    }

    /// A write-back that fails: what reached the disk is any part; the pages are clean, so that nobody tries again.
    pub(super) fn fail_sync(&mut self, choice: &mut Choice) {
        for Pending { change, .. } in std::mem::take(&mut self.pending) {
            change.split(|part| match choice.keep() {
                true => apply(&mut self.durable, &part),
                false => self.lost.add(part.range().unwrap_or(0..0)),
            });
            self.unproven.add(change.range().unwrap_or(0..0));
        }
        let cached = self.cached.len();
        self.durable.set_len(choice.len(self.durable.len().min(cached), cached));
        self.failures += 1;
    }

    /// Drops clean pages from the cache: what was lost now shows as the disk has it. Returns what changed.
    pub(super) fn evict(&mut self) -> Vec<Range<u64>> {
        let lost: Vec<_> = std::mem::take(&mut self.lost).iter().collect();
        self.has_dropped |= !lost.is_empty();
        for range in &lost {
            // What is gone is final no more, nor a batch that began before it, unless it was promised to survive.
            if range.end > self.claimed {
                self.published = self.published.min(self.claimed);
            }
            let mut bytes = vec![0; range.end.min(self.cached.len()).saturating_sub(range.start) as usize];
            self.durable.read(range.start, &mut bytes);
            self.cached.write(range.start, &bytes);
        }
        lost
    }

    /// The file as it is found after the power was cut.
    pub(super) fn crash(&self, choice: &mut Choice) -> Self {
        let mut found = self.durable.clone();
        for Pending { change, .. } in &self.pending {
            change.split(|part| {
                if choice.keep() {
                    apply(&mut found, &part.torn(choice));
                }
            });
        }
        found.set_len(choice.len(self.durable.len(), self.cached.len()));
        Self {
            cached: found.clone(),
            durable: found,
            claimed: self.claimed,
            modified_ms: self.modified_ms,
            ..Self::new(self.born)
        }
    }

    /// Whether a crash leaves the file as it is, so that its value can be shared.
    pub(super) fn is_settled(&self) -> bool {
        self.is_clean() && self.published == 0 && self.failures == 0 && self.unproven.is_empty()
    }

    /// Whether everything in it is on the disk.
    pub(super) fn is_clean(&self) -> bool {
        self.pending.is_empty() && self.lost.is_empty()
    }

    /// The first bytes below `end` that no sync has proven to be on the disk.
    pub(super) fn unproven_below(&self, end: u64) -> Option<Range<u64>> {
        let pending = self.pending.iter().filter_map(|pending| pending.change.range());
        let first = pending.filter(|range| range.start < end && !range.is_empty()).min_by_key(|range| range.start);
        first.or_else(|| self.unproven.below(end)).or_else(|| self.lost.below(end))
    }

    /// Whether something was cut off where these bytes go, and a crash may undo that.
    pub(super) fn has_unsynced_cut(&self, position: u64, bytes: &[u8]) -> bool {
        let end = position + bytes.len() as u64;
        let is_new = bytes.iter().any(|byte| *byte != 0);
        is_new
            && self.pending.iter().filter(|pending| pending.erases).any(|pending| match pending.change {
                Change::Cut { len } => len < end,
                Change::Zeros { position: from, len } => from < end && position < from + len,
                Change::Bytes { .. } | Change::Grow { .. } => false,
            })
    }

    /// Whether `bytes` are what is at `position` already, as far as below `end`.
    pub(super) fn holds(&self, position: u64, bytes: &[u8], end: u64) -> bool {
        let below = end.min(self.cached.len()).saturating_sub(position).min(bytes.len() as u64) as usize;
        let mut have = vec![0; below];
        self.cached.read(position, &mut have);
        have == bytes[..below]
    }
}

impl Change {
    /// The bytes it writes; `None` for a change of length.
    fn range(&self) -> Option<Range<u64>> {
        match self {
            Self::Bytes { position, bytes } => Some(*position..position + bytes.len() as u64),
            Self::Zeros { position, len } => Some(*position..position + len),
            Self::Cut { .. } | Self::Grow { .. } => None,
        }
    }

    /// Gives each part that is kept or lost on its own: the sectors of a write, a cut as a whole. A greater length
    /// is no part: the length is drawn by itself.
    fn split(&self, mut each: impl FnMut(Self)) {
        match self {
            Self::Bytes { position, bytes } => {
                for range in sectors(*position, bytes.len() as u64) {
                    let within = (range.start - position) as usize..(range.end - position) as usize;
                    each(Self::Bytes { position: range.start, bytes: bytes[within].into() });
                }
            }
            Self::Zeros { position, len } => {
                for range in sectors(*position, *len) {
                    each(Self::Zeros { position: range.start, len: range.end - range.start });
                }
            }
            Self::Cut { .. } => each(self.clone()),
            Self::Grow { .. } => {}
        }
    }

    fn torn(self, choice: &mut Choice) -> Self {
        match self {
            Self::Bytes { position, bytes } => {
                let range = choice.torn(bytes.len());
                Self::Bytes { position: position + range.start as u64, bytes: bytes[range].into() }
            }
            other => other,
        }
    }
}

fn apply(contents: &mut Contents, change: &Change) {
    match change {
        Change::Bytes { position, bytes } => contents.write(*position, bytes),
        Change::Zeros { position, len } => contents.zero(*position, *len),
        Change::Cut { len } if *len < contents.len() => contents.set_len(*len),
        Change::Grow { len } if *len > contents.len() => contents.set_len(*len),
        Change::Cut { .. } | Change::Grow { .. } => {}
    }
}

/// The parts of a range that lie in one sector each.
fn sectors(position: u64, len: u64) -> impl Iterator<Item = Range<u64>> {
    let end = position + len;
    let mut at = position;
    std::iter::from_fn(move || {
        let next = (at / SECTOR + 1).saturating_mul(SECTOR).min(end);
        (at < end).then(|| std::mem::replace(&mut at, next)..next)
    })
}
