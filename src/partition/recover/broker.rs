//! What differs when a broker wrote the directory: how a clean stop is believed, and what cannot be a broker's. What its
//! cleaner left half done is in `leftovers`.

use std::sync::Arc;

use super::walk::End;
use super::{Candidate, Plan, Recovered, Recovery};
use crate::disk::read_file;
use crate::error::{Error, Result};
use crate::partition::follow::Followed;
use crate::partition::hints::Stopped;
use crate::probe;
use crate::record::BatchHeader;
use crate::segment::data::SegmentData;
use crate::segment::offset_index::{self, OffsetEntry};
use crate::segment::scan::Scan;
use crate::segment::{FileKind, file_path};
use crate::types::Offset;

impl Recovery<'_> {
    /// Opens a partition that a broker closed in order, from its last batches alone; `None` if anything there is not as
    /// a close leaves it, or is missing.
    pub(super) fn open_stopped(
        &self,
        candidates: &[Candidate],
        listing: &[(Offset, FileKind)],
    ) -> Result<Option<Recovered>> {
        // To write takes more: the index of the last segment, and a seal for each that is closed.
        if self.hints.broker != Some(Stopped::InOrder) || !self.context.read_only {
            return Ok(None);
        }
        let Some(last) = candidates.last() else { return Ok(None) };
        let Some((end, header)) = self.whole_to_its_end(last)? else { return Ok(None) };
        let is_short = self.hints.recovery_point.is_some_and(|point| point > end);
        let has_epochs = match header {
            Some(header) => Followed::epochs_say(self.context, self.dir, &header),
            None => end == Offset::ZERO || Followed::has_epochs(self.context, self.dir),
        };
        if is_short || !has_epochs {
            return Ok(None);
        }
        // Kafka has none where the log begins.
        let snapshot = match listing.binary_search(&(end, FileKind::Snapshot)) {
            Ok(_) => Followed::snapshot(self.context, self.dir, end)?,
            Err(_) => (end == candidates[0].base).then(Vec::new),
        };
        let Some(snapshot) = snapshot else {
            self.context.files.tell_state_rebuilt(file_path(self.dir, end, FileKind::Snapshot));
            return Ok(None);
        };
        let start = self.hints.start.unwrap_or_default().max(candidates[0].base);
        if start > end {
            return Ok(None);
        }
        let followed = Followed::load(self.context, self.dir, snapshot, end)?;
        let ends = candidates.iter().skip(1).map(|next| next.base).chain([end]);
        let segment =
            |(candidate, end): (&Candidate, Offset)| Arc::new(self.data(candidate, candidate.limit, end, 0));
        let segments: Vec<Arc<SegmentData>> = candidates.iter().zip(ends).map(segment).collect();
        probe::reached("recover.stopped_broker");
        Ok(Some(Recovered {
            segments,
            end,
            proven: end,
            plan: Plan::default(),
            names_are_durable: true,
            is_clean: true,
            aborted_from: end,
            ..Recovered::empty(start, followed)
        }))
    }

    /// Why what was found cannot be what a broker left, if it is one that wrote it: what lies behind the end was not
    /// there when it closed the file, or a segment is missing.
    pub(super) fn unlike_a_broker(&self, found: &End, behind: u64, later: &[Candidate]) -> Option<String> {
        let has_bytes_behind = behind > found.position;
        match (self.hints.broker?, later.first()) {
            (Stopped::InOrder, _) if has_bytes_behind => {
                Some(format!("{}, and the broker had closed it", found.reason))
            }
            // Whole to the end of its file, and the next file does not begin there.
            (_, Some(next)) if !has_bytes_behind && next.base > found.offset => {
                Some(format!("records {}..{} are missing behind it", found.offset, next.base))
            }
            (Stopped::InOrder, Some(_)) => Some(format!("{}, and segments follow", found.reason)),
            _ => None,
        }
    }

    /// The end of the last segment and its last batch, if all its bytes from the last batch on that its index leads to are
    /// whole batches.
    fn whole_to_its_end(&self, last: &Candidate) -> Result<Option<(Offset, Option<BatchHeader>)>> {
        let file = last.open(self.context.disk())?;
        let path = file_path(self.dir, last.base, FileKind::Index);
        let index = read_file(self.context.disk(), &path, last.limit).unwrap_or_default();
        let entry = offset_index::floor(&index, last.base, Offset::MAX).entry;
        let from = entry.filter(|entry| u64::from(entry.position) < last.limit);
        let (position, first) =
            from.map_or((0, last.base), |entry: OffsetEntry| (u64::from(entry.position), last.base));
        let mut scan = Scan::new(&*file, position, last.limit, first, false);
        let mut header = None;
        let stop = loop {
            match scan.next().map_err(Error::io("read", &last.path))? {
                // An entry leads to the batch of its offset, or to one that was appended together with it.
                Ok(batch)
                    if header.is_none() && from.is_some_and(|entry| batch.header.base_offset > entry.offset) =>
                {
                    return Ok(None);
                }
                Ok(batch) => header = Some(batch.header),
                Err(stop) => break stop,
            }
        };
        Ok((stop.position == last.limit).then(|| (scan.next_offset(), header)))
    }
}
