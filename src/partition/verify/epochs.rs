//! The leader epochs of batches, which no checksum covers: they never fall, and are those that the checkpoint of epochs
//! has for their offsets.

use std::path::Path;

use super::finding::{Advice, Finding, FindingKind, Findings};
use super::source::Source;
use super::target::Target;
use crate::error::Result;
use crate::partition::epochs::EpochStart;
use crate::partition::follow::EPOCHS_FILE;
use crate::record::BatchHeader;
use crate::types::{LeaderEpoch, Offset};

/// Judges the epochs of one segment.
#[derive(Debug)]
pub(super) struct EpochJudge<'a> {
    target: &'a Target,
    /// What the checkpoint says; none if it cannot be read, or says nothing.
    entries: Option<&'a [EpochStart]>,
    /// How many of them begin at the current batch or before.
    passed: usize,
    /// The latest so far.
    latest: LeaderEpoch,
    /// Batches in order that the checkpoint has another epoch for: the first of them, and how many.
    other: Option<Other>,
    /// An epoch that the checkpoint lets begin inside of a batch.
    inside: Option<EpochStart>,
    batches: u64,
}

#[derive(Debug, Clone, Copy)]
struct Other {
    position: u64,
    offset: Offset,
    found: LeaderEpoch,
    expected: Option<LeaderEpoch>,
    count: u64,
}

impl<'a> EpochJudge<'a> {
    pub(super) fn new(target: &'a Target) -> Self {
        let entries = target.epochs().map(|epochs| epochs.entries()).filter(|entries| !entries.is_empty());
        Self { target, entries, passed: 0, latest: LeaderEpoch::NONE, other: None, inside: None, batches: 0 }
    }

    #[inline]
    pub(super) fn batch(
        &mut self,
        header: &BatchHeader,
        position: u64,
        path: &Path,
        source: &mut Source<'_>,
        findings: &mut Findings,
    ) -> Result<()> {
        self.batches += 1;
        let found = header.leader_epoch;
        // One around the start is read from there on.
        let expected = self.expected(header.base_offset.max(self.target.start.min(header.last_offset())));
        if let Some(next) = self.next_entry()
            && next.start <= header.last_offset()
        {
            self.inside.get_or_insert(next);
        }
        if found >= self.latest && expected.is_none_or(|expected| expected == Some(found)) {
            self.latest = found;
            return Ok(());
        }
        // Very old batches have none.
        if found == LeaderEpoch::NONE {
            return Ok(());
        }
        self.differs(header, position, expected, path, source, findings)
    }

    /// The epoch that the checkpoint has for an offset: none if it says nothing, and none in there if it should.
    #[inline]
    fn expected(&mut self, offset: Offset) -> Option<Option<LeaderEpoch>> {
        let entries = self.entries?;
        while entries.get(self.passed).is_some_and(|entry| entry.start <= offset) {
            self.passed += 1;
        }
        match self.passed.checked_sub(1) {
            Some(at) => Some(Some(entries[at].epoch)),
            // A close, of a broker or of ours, drops what lies below the start. A broker writes the start down later: of a
            // killed one nobody knows it.
            None if offset < self.target.start => None,
            None if self.target.has_seals() || self.target.is_closed() => Some(None),
            None => None,
        }
    }

    /// The entry after that of the current batch. The first may begin anywhere: it does so where the log starts.
    #[inline]
    fn next_entry(&self) -> Option<EpochStart> {
        self.entries.filter(|_| self.passed > 0)?.get(self.passed).copied()
    }

    #[cold]
    fn differs(
        &mut self,
        header: &BatchHeader,
        position: u64,
        expected: Option<Option<LeaderEpoch>>,
        path: &Path,
        source: &mut Source<'_>,
        findings: &mut Findings,
    ) -> Result<()> {
        let found = header.leader_epoch;
        let following = source.header(position + u64::from(header.batch_len))?.map(|next| next.leader_epoch);
        let passes_next = following.is_some_and(|next| next != LeaderEpoch::NONE && found > next);
        let is_known = |entries: &[EpochStart]| entries.iter().any(|entry| entry.epoch == found);
        let is_last_and_new = following.is_none() && self.entries.is_some_and(|entries| !is_known(entries));
        if found < self.latest || passes_next || is_last_and_new {
            let latest = expected.flatten().unwrap_or(self.latest);
            let message = format!("the batch has leader epoch {found}, and those around it say {latest}");
            findings
                .push(Finding::new(path, position, FindingKind::Epochs, message).len(u64::from(header.batch_len)));
            return Ok(());
        }
        self.latest = found;
        let offset = header.base_offset;
        let other =
            self.other.get_or_insert(Other { position, offset, found, expected: expected.flatten(), count: 0 });
        other.count += 1;
        Ok(())
    }

    /// There are no more batches in this segment.
    pub(super) fn end(self, path: &Path, findings: &mut Findings) {
        let checkpoint = self.target.dir.join(EPOCHS_FILE);
        if let Some(EpochStart { epoch, start }) = self.inside {
            let message = format!("epoch {epoch} begins at offset {start}, inside of a batch");
            findings.push(Finding::new(&checkpoint, 0, FindingKind::Epochs, message).advice(Advice::Derived));
        }
        let Some(Other { position, offset, found, expected, count }) = self.other else { return };
        if let Some(expected) = expected.filter(|_| count == 1 && self.batches > 1) {
            let message = format!("the batch has leader epoch {found}, and {EPOCHS_FILE} says {expected}");
            findings.push(Finding::new(path, position, FindingKind::Epochs, message));
            return;
        }
        let expected = expected.map_or_else(|| "none".to_owned(), |expected| expected.to_string());
        let message =
            format!("for offset {offset} it says {expected}, and the batch there, as {count} in all, has {found}");
        findings.push(Finding::new(&checkpoint, 0, FindingKind::Epochs, message).advice(Advice::Derived));
    }
}
