//! Which segments are past their time, and how they go.
//!
//! A start is raised durably first; then the files below it are unlinked, oldest first, and the directory is synced. A
//! file that a crash brings back lies below the start and is removed again, never read.

use std::sync::Arc;

use super::core::Core;
use super::writer::remove_segment_files;
use crate::config::TopicConfig;
use crate::error::{Error, Result};
use crate::observe::{Retained, RetentionReason, SegmentEvent, tell};
use crate::probe;
use crate::segment::data::SegmentData;
use crate::types::{Offset, Timestamp};

impl Core {
    /// The start that retention asks for, and why; `None` if nothing is due. Reads, changes nothing.
    pub(crate) fn retention_due(&self, now: Timestamp) -> Result<Option<(Offset, RetentionReason)>> {
        self.find_due(now).map_err(|error| if matches!(error, Error::Closed) { self.halted() } else { error })
    }

    fn find_due(&self, now: Timestamp) -> Result<Option<(Offset, RetentionReason)>> {
        self.check()?;
        let config = *self.config.read();
        if !config.cleanup.deletes() || self.context.read_only {
            return Ok(None);
        }
        let segments = self.segments();
        // Never past what is undecided, and only whole segments.
        let stable = self.stable();
        let decided = segments.iter().take_while(|segment| segment.end() <= stable).count();
        let by_size = by_size(&segments, decided, &config).map(|start| (start, RetentionReason::Size));
        let by_age = by_age(&segments[..decided], &config, now)?.map(|start| (start, RetentionReason::Age));
        let due = by_size.into_iter().chain(by_age).max_by_key(|(start, _)| *start);
        let due = due.filter(|(start, _)| *start > self.start());
        match due {
            Some((_, RetentionReason::Age)) => probe::reached("retention.by_age"),
            Some(_) => probe::reached("retention.by_size"),
            None => {}
        }
        Ok(due)
    }

    /// Whether files lie below the start.
    pub(crate) fn has_files_below_start(&self) -> bool {
        let start = self.start();
        let is_below = self.segments().windows(2).next().is_some_and(|pair| pair[1].base() <= start);
        is_below || !self.lock().condemned.is_empty()
    }

    /// Removes the segments that lie wholly below the start, which the caller has made durable.
    pub(crate) fn remove_below_start(&self, reason: RetentionReason) -> Result<u64> {
        // By their names, which a swap that failed has not given back.
        self.finish_swap()?;
        let start = self.start();
        {
            let mut writer = self.lock();
            self.check()?;
            writer.begin(self).map_err(|failure| self.fail(failure))?;
            let segments = self.segments();
            let last = segments.len().saturating_sub(1);
            // The active segment stays: a partition always has one.
            if let Some(kept) = segments.iter().skip(1).take(last).rev().find(|segment| segment.base() <= start) {
                // What comes to be the first segment must have a durable name before the one before it loses its own.
                writer.sync_all_names(self).map_err(|failure| self.fail(failure))?;
                writer.forget_below(kept.base());
                self.forget_aborted_below(&mut writer, kept.base());
                let dropped = self.drop_segments_below(kept.base());
                writer.condemned.extend(dropped);
            }
        }
        let (mut bytes, mut segments) = (0, 0);
        loop {
            let Some(segment) = self.lock().condemned.front().cloned() else { break };
            // One that cannot be removed now is tried again next time.
            remove_segment_files(self, segment.base())?;
            self.lock().condemned.retain(|other| !Arc::ptr_eq(other, &segment));
            segments += 1;
            bytes += segment.len();
            self.tell_deleted(&segment);
        }
        if segments == 0 {
            return Ok(0);
        }
        self.context.disk().sync_dir(&self.dir).map_err(Error::io("sync directory", &*self.dir))?;
        probe::reached("retention.removed");
        let partition = self.id.clone();
        tell(&self.context.observer, move |observer| {
            observer.retention_deleted(&Retained { partition: &partition, start, segments, bytes, reason });
        });
        Ok(segments)
    }

    fn tell_deleted(&self, segment: &SegmentData) {
        let (partition, base, end, bytes) = (self.id.clone(), segment.base(), segment.end(), segment.len());
        tell(&self.context.observer, move |observer| {
            observer.segment_deleted(&SegmentEvent { partition: &partition, base, end, bytes });
        });
    }

    /// Whether the active segment itself is past its time, so that it must be rolled before its records can go.
    pub(crate) fn roll_if_expired(&self, start: Offset) -> Result<()> {
        let mut writer = self.lock();
        self.check()?;
        if start > writer.written(self) && !probe::planted("staging.start_raised_over_staged") {
            // Else a kill would find a start above the files' end, and nothing for the slot to follow.
            probe::reached("retention.wrote_staged");
            writer.flush(self).map_err(|failure| self.fail(failure))?;
        }
        if start == writer.end {
            writer.begin(self).map_err(|failure| self.fail(failure))?;
        }
        if start == writer.end && writer.active().is_some_and(|active| active.position() > 0) {
            probe::reached("retention.rolled_active");
            writer.roll(self).map_err(|failure| self.fail(failure))?;
        }
        Ok(())
    }
}

/// The start below which segments can go without falling below `retention.bytes`: the first `decided` ones may.
fn by_size(segments: &[Arc<SegmentData>], decided: usize, config: &TopicConfig) -> Option<Offset> {
    let limit = config.retained_bytes()?;
    let total: u64 = segments.iter().map(|segment| segment.len()).sum();
    let mut excess = total.checked_sub(limit)?;
    let mut start = None;
    for segment in &segments[..decided] {
        let Some(rest) = excess.checked_sub(segment.len()).filter(|_| segment.len() > 0) else { break };
        excess = rest;
        start = Some(segment.end());
    }
    start
}

/// The start below which every segment's newest record is older than `retention.ms`. A segment whose records have no
/// time, or one in the future, stays, and with it all that follow.
fn by_age(segments: &[Arc<SegmentData>], config: &TopicConfig, now: Timestamp) -> Result<Option<Offset>> {
    let Some(retained_ms) = config.retained_ms() else { return Ok(None) };
    let mut start = None;
    for segment in segments {
        if segment.len() == 0 {
            break;
        }
        // Zero and none are no times to delete by.
        let Some((largest, _)) = segment.largest_timestamp()?.filter(|(largest, _)| largest.0 > 0) else { break };
        if now.0.saturating_sub(largest.0) <= retained_ms {
            break;
        }
        start = Some(segment.end());
    }
    Ok(start)
}
