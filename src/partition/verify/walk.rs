//! One data file, batch after batch: each by itself, beside its neighbours, and beside what other files say of it.

use std::ops::ControlFlow;
use std::path::Path;

use super::Verdict;
use super::entries::{Manner, OffsetJudge, TimeJudge};
use super::epochs::EpochJudge;
use super::finding::{Finding, FindingKind, Findings};
use super::producers::{ProducerJudge, is_full};
use super::source::Source;
use super::target::{DerivedFiles, Extent, Target};
use crate::error::Result;
use crate::record::BatchHeader;
use crate::segment::{FileKind, file_path};
use crate::types::{Offset, Timestamp};

/// How often whoever waits is told how far this is.
const PACE: u64 = 4 << 20;

/// What is told how many bytes more were judged; it may say that this is enough.
pub(crate) type Pace<'a> = dyn FnMut(u64) -> ControlFlow<()> + 'a;

/// Goes through one segment.
pub(super) struct Walk<'a> {
    target: &'a Target,
    path: &'a Path,
    extent: Extent,
    source: Source<'a>,
    verdict: Verdict,
    /// The offset that is due.
    next: Offset,
    /// Where the batches were found to end.
    end: u64,
    /// Whether every byte so far belongs to a batch that verifies.
    is_whole: bool,
    epochs: EpochJudge<'a>,
    derived: Option<DerivedJudges<'a>>,
}

/// Those of the files that follow from the batches.
struct DerivedJudges<'a> {
    index: OffsetJudge,
    times: TimeJudge,
    producers: ProducerJudge<'a>,
    is_complete: bool,
}

/// What a walk found of the segment as a whole.
pub(super) struct Walked {
    pub(super) next: Offset,
    /// Where the batches end, in bytes.
    pub(super) end: u64,
    pub(super) is_whole: bool,
    /// The largest time and its offset, if every batch was seen.
    pub(super) largest: Option<Option<(Timestamp, Offset)>>,
    pub(super) verdict: Verdict,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        target: &'a Target,
        segment: usize,
        path: &'a Path,
        limit: u64,
        derived: Option<DerivedFiles>,
    ) -> Result<Self> {
        let extent = target.extents[segment];
        let manner = |files: &DerivedFiles| Manner {
            base: extent.base,
            is_complete: files.is_complete,
            may_be_blank: !files.is_complete,
            tells_end: files.is_complete && !target.dense,
        };
        let judges = |files: DerivedFiles| -> Result<DerivedJudges<'a>> {
            let manner = manner(&files);
            // Of one that is not there, that is what is wrong.
            let times = Manner { is_complete: manner.is_complete && files.time_index.is_some(), ..manner };
            Ok(DerivedJudges {
                index: OffsetJudge::new(files.index, manner)?,
                times: TimeJudge::new(files.time_index, times)?,
                producers: ProducerJudge::new(target, segment, files.aborted, files.snapshots),
                is_complete: files.is_complete,
            })
        };
        Ok(Self {
            target,
            path,
            extent,
            source: Source::open(&target.files, path, limit)?,
            verdict: Verdict::default(),
            next: extent.base,
            end: 0,
            is_whole: true,
            epochs: EpochJudge::new(target),
            derived: derived.map(judges).transpose()?,
        })
    }

    /// All of it; `None` if it was told to stop.
    pub(super) fn run(&mut self, findings: &mut Findings, pace: &mut Pace<'_>) -> Result<ControlFlow<()>> {
        let (mut position, mut told) = (0, 0);
        while position < self.source.limit() {
            position = match self.source.verified(position)? {
                Ok(header) => {
                    self.take(header, position, findings)?;
                    position + u64::from(header.batch_len)
                }
                Err(_) if self.ends_blank(position)? => break,
                Err(reason) => match self.damaged(position, reason, findings, pace)? {
                    _ if self.source.is_stopped() => return Ok(ControlFlow::Break(())),
                    Some(resumed) => resumed,
                    None => {
                        position = self.source.limit();
                        break;
                    }
                },
            };
            if position - told >= PACE {
                if pace(position - told).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                told = position;
            }
        }
        self.end = position;
        Ok(pace(self.source.limit() - told))
    }

    /// Whether a file whose batches end nobody knows where has nothing more.
    fn ends_blank(&self, position: u64) -> Result<bool> {
        Ok(!self.target.is_open() && !self.target.is_closed() && self.source.is_blank(position)?)
    }

    #[inline]
    fn take(&mut self, mut header: BatchHeader, position: u64, findings: &mut Findings) -> Result<()> {
        if header.base_offset != self.next {
            header.base_offset = self.placed(&header, position, findings)?;
        }
        self.epochs.batch(&header, position, self.path, &mut self.source, findings)?;
        if let Err(invalid) = header.codec() {
            findings.push(Finding::new(self.path, position, FindingKind::Batch, invalid.what));
        }
        self.verdict.batches += 1;
        self.verdict.records += header.record_count.max(0) as u64;
        self.verdict.bytes += u64::from(header.batch_len);
        if let Some(derived) = &mut self.derived {
            derived.index.batch(&header, position)?;
            derived.times.batch(&header)?;
            derived.producers.batch(&header, position, &mut self.source, findings)?;
            if !is_full(&header) {
                derived.producers.not_dense();
            }
        }
        self.next = self.next.max(header.next_offset());
        Ok(())
    }

    /// The offset that a batch has which is not the one that is due. No checksum covers it: what comes next decides
    /// whether it is wrong, or batches are missing.
    #[cold]
    fn placed(&mut self, header: &BatchHeader, position: u64, findings: &mut Findings) -> Result<Offset> {
        let (stored, due) = (header.base_offset, self.next);
        let after = |base: Offset| base.checked_add(header.last_offset_delta as u64 + 1);
        let following = self.following(position + u64::from(header.batch_len))?;
        let fits = |base: Offset| match (following, after(base)) {
            (None, after) => after.is_some(),
            (Some(following), Some(after)) if self.target.dense => following == after,
            (Some(following), Some(after)) => following >= after,
            (Some(_), None) => false,
        };
        let finding = |message: String| Finding::new(self.path, position, FindingKind::Offsets, message);
        if stored > due && !self.target.dense && fits(stored) {
            // Compaction has left nothing in between.
            if let Some(derived) = &mut self.derived {
                derived.producers.not_dense();
            }
            return Ok(stored);
        }
        if following.is_some() && fits(due) {
            let message = format!("the batch has offset {stored}, and those around it say {due}");
            findings.push(finding(message).len(u64::from(header.batch_len)));
            return Ok(due);
        }
        if let Some(derived) = &mut self.derived {
            derived.producers.not_dense();
        }
        if stored > due {
            findings.push(finding("offsets are missing before this batch".into()).missing(due, stored));
            return Ok(stored);
        }
        let message = format!("the batch has offset {stored}, and those before it end with {due}");
        findings.push(finding(message).len(u64::from(header.batch_len)));
        Ok(stored)
    }

    /// The offset of what follows at `position`: of a batch, or of the next segment.
    fn following(&mut self, position: u64) -> Result<Option<Offset>> {
        if position == self.source.limit() && position == self.extent.len {
            return Ok(self.extent.end);
        }
        Ok(self.source.header(position)?.map(|header| header.base_offset))
    }

    /// No batch begins at `position`: where the next one does that verifies.
    #[cold]
    fn damaged(
        &mut self,
        position: u64,
        reason: &str,
        findings: &mut Findings,
        pace: &mut Pace<'_>,
    ) -> Result<Option<u64>> {
        let last = Offset(self.extent.base.0.saturating_add(MAX_RELATIVE)).min(Offset::MAX);
        let offsets = self.next..self.extent.end.unwrap_or(last).max(self.next);
        let resumed = self.source.resume(position, &offsets, pace)?;
        let (to, offset) = match resumed {
            Some(resumed) => (resumed.position, Some(resumed.offset)),
            None => (self.source.limit(), self.extent.end),
        };
        let message = match resumed {
            Some(resumed) => {
                format!("{reason}; the next batch that verifies is at byte {to}, of offset {}", resumed.offset)
            }
            None => format!("{reason}; up to byte {to} no other batch verifies"),
        };
        let offset = offset.unwrap_or(self.next);
        let finding = Finding::new(self.path, position, FindingKind::Batch, message);
        findings.push(finding.len(to - position).missing(self.next, offset));
        self.is_whole = false;
        if let Some(derived) = &mut self.derived {
            derived.index.skip_to(to)?;
            let from = resumed.map_or(Offset::MAX, |_| offset);
            derived.times.skip_to(from)?;
            derived.producers.skip_to(from)?;
        }
        self.next = offset;
        Ok(resumed.map(|resumed| resumed.position))
    }

    /// What is wrong with the files beside the batches, and what was found of all of them.
    pub(super) fn finish(self, findings: &mut Findings) -> Result<Walked> {
        let Self { target, extent, next, end, is_whole, verdict, .. } = self;
        self.epochs.end(self.path, findings);
        let mut largest = None;
        if let Some(derived) = self.derived {
            let path = |kind| file_path(&target.dir, extent.base, kind);
            largest = derived.times.largest();
            findings.extend(derived.index.end(&path(FileKind::Index), end, next)?);
            findings.extend(derived.times.end(&path(FileKind::TimeIndex), next)?);
            let ends_segment = extent.end == Some(next) && next > target.start && verdict.batches > 0;
            derived.producers.end(next, derived.is_complete && ends_segment, findings)?;
        }
        Ok(Walked { next, end, is_whole, largest, verdict })
    }
}

/// Offsets in a segment differ by no more.
const MAX_RELATIVE: u64 = i32::MAX as u64;
