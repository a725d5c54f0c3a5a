//! Reading a log from a batch boundary on: batch after batch, segment after segment, to the first that does not verify.

use super::{Candidate, From, Recovery, UnfinishedParts};
use crate::disk::{DiskFile, read_exact_at};
use crate::error::{Error, Result};
use crate::observe::{Recovery as RecoveryEvent, tell};
use crate::partition::follow::Followed;
use crate::probe;
use crate::record::BatchHeader;
use crate::segment::index::IndexWriter;
use crate::segment::scan::Scan;
use crate::segment::seal::Seal;
use crate::types::{Offset, Timestamp};

/// Where the log was found to end, and what was learned on the way.
#[derive(Debug)]
pub(super) struct End {
    pub(super) segment: usize,
    pub(super) position: u64,
    pub(super) offset: Offset,
    pub(super) reason: &'static str,
    /// The lengths of the segments that were walked.
    pub(super) ends: Vec<(Offset, u64)>,
    pub(super) index: IndexWriter,
    pub(super) first_timestamp: Option<Timestamp>,
}

/// Verifies batch after batch, segment after segment.
pub(super) struct Walk<'a> {
    pub(super) recovery: &'a Recovery<'a>,
    pub(super) candidates: &'a [Candidate],
    pub(super) followed: Followed,
    pub(super) restored: Option<IndexWriter>,
    pub(super) progress: Progress,
    pub(super) unfinished: Vec<UnfinishedParts>,
}

impl Walk<'_> {
    pub(super) fn run(&mut self, from: From) -> Result<End> {
        let (mut segment, mut position, mut offset) = (from.segment, from.position, from.offset);
        let mut ends = Vec::new();
        loop {
            let end = self.segment(segment, position, offset)?;
            ends.push((self.candidates[segment].base, end.position));
            let dense_from = self.recovery.hints.dense_from;
            match self.candidates.get(segment + 1) {
                Some(next)
                    if next.base == end.offset
                        || (next.base <= dense_from && self.is_gap(segment, &end, next.base)) =>
                {
                    self.finished(&self.candidates[segment], end, next.base);
                    (segment, position, offset) = (segment + 1, 0, next.base);
                }
                _ => return Ok(End { ends, ..end }),
            }
        }
    }

    /// Keeps what a sealed segment still needs, if its seal is not there or it was not cut to its length.
    fn finished(&mut self, sealed: &Candidate, mut end: End, next: Offset) {
        let recovery = self.recovery;
        if recovery.context.read_only {
            return; // Nothing is finished then.
        }
        let seal = Seal::load(recovery.context.disk(), recovery.dir, sealed.base, end.position);
        if seal.is_some_and(|seal| seal.end == next) && sealed.limit == end.position {
            return;
        }
        end.index.close();
        self.unfinished.push(UnfinishedParts {
            base: sealed.base,
            end: next,
            index: end.index,
            aborted: self.followed.aborted_between(sealed.base, next),
            snapshot: self.followed.producers.snapshot(),
        });
    }

    /// Whether compaction may have left nothing between the end of a whole segment and the next one. A seal knows; what
    /// a broker compacted has none.
    fn is_gap(&self, segment: usize, end: &End, next: Offset) -> bool {
        let (recovery, candidate) = (self.recovery, &self.candidates[segment]);
        let seal = Seal::read(recovery.context.disk(), recovery.dir, candidate.base);
        // A file that is shorter than it was when it was sealed is no gap.
        let is_whole = seal.is_none_or(|seal| seal.end == next && seal.log_len <= end.position);
        next > end.offset && end.position == candidate.limit && is_whole
    }

    fn segment(&mut self, segment: usize, position: u64, offset: Offset) -> Result<End> {
        let candidate = &self.candidates[segment];
        let shape = self.recovery.shape;
        let mut index = match self.restored.take() {
            Some(index) => index,
            None => IndexWriter::new(candidate.base, shape.index_bytes, shape.index_interval)?,
        };
        let file = candidate.open(self.recovery.context.disk())?;
        let hints = self.recovery.hints;
        let mut first_timestamp = match position {
            0 => None,
            // The age of a segment is counted from its first batch, wherever the walk begins.
            _ => first_timestamp(&*file).map_err(Error::io("read", &candidate.path))?,
        };
        // An empty file's name says less than a batch does.
        let next = self.candidates[segment + 1..].iter().find(|next| next.limit > 0);
        let upper = next.map(|next| next.base).filter(|_| !hints.is_dense());
        let scan = Scan::new(&*file, position, candidate.limit, offset, false);
        let mut scan = scan.dense_from(hints.dense_from).below(upper);
        let stop = loop {
            match scan.next().map_err(Error::io("read", &candidate.path))? {
                Ok(batch) => {
                    first_timestamp = first_timestamp.or(Some(batch.header.max_timestamp));
                    index.push(&batch.header, batch.position, u64::from(batch.header.batch_len));
                    if !probe::planted("partition.producers_forgotten") {
                        self.followed.replay(&batch.header, batch.bytes);
                    }
                    self.progress.add(self.recovery, &batch.header);
                }
                Err(stop) => break stop,
            }
        };
        let (position, offset) = (scan.position(), scan.next_offset());
        Ok(End { segment, position, offset, reason: stop.reason, ends: Vec::new(), index, first_timestamp })
    }
}

/// How much was read and verified, which the observer is told now and then.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) scanned: u64,
    /// How much there is to read at most: where batches end is not known yet.
    total: u64,
    next_told: u64,
}

impl Progress {
    pub(super) fn new(total: u64) -> Self {
        Self { scanned: 0, total, next_told: TELL_EVERY }
    }

    fn add(&mut self, recovery: &Recovery<'_>, batch: &BatchHeader) {
        self.scanned += u64::from(batch.batch_len);
        if self.scanned < self.next_told {
            return;
        }
        self.next_told = (self.scanned / TELL_EVERY + 1) * TELL_EVERY;
        let context = recovery.context;
        let (partition, end) = (recovery.hints.id.clone(), batch.next_offset());
        let (scanned_bytes, total_bytes) = (self.scanned, self.total);
        let duration = context.clock.monotonic().saturating_sub(recovery.began);
        tell(&context.observer, move |observer| {
            observer.recovering(&RecoveryEvent { partition: &partition, end, scanned_bytes, total_bytes, duration });
        });
    }
}

fn first_timestamp(file: &dyn DiskFile) -> std::io::Result<Option<Timestamp>> {
    let mut header = [0; BatchHeader::LEN];
    read_exact_at(file, &mut header, 0)?;
    Ok(BatchHeader::read(&header).ok().map(|header| header.max_timestamp))
}

/// Bytes between two times that the observer is told how far it is. Tests have no time to read as much.
const TELL_EVERY: u64 = if cfg!(test) { 1 << 10 } else { 64 << 20 };
