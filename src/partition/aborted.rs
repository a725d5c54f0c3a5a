//! The aborted transactions of a log that a broker wrote: found in the batches, once somebody asks.
//!
//! A segment of ours has a seal that vouches for its `.txnindex`. Kafka compares its own with nothing: an entry that is
//! missing there makes aborted records visible. So the headers of all batches below where recovery began are walked,
//! and the end markers among them verified, at the first read of committed data. Who never asks never pays.
//!
//! A header says only with its checksum that a batch is no marker. If the headers and the indexes do not say the same,
//! every batch is verified: either the indexes are wrong, or a batch is damaged. What a marker decides that is damaged, or
//! comes behind the damage, cannot be known, so that is where committed data ends, with an error.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::core::Core;
use super::follow::Followed;
use super::recover::read_if_there;
use crate::disk::Open;
use crate::error::{Corruption, Error, Result};
use crate::probe;
use crate::record::BatchRef;
use crate::segment::data::SegmentData;
use crate::segment::scan::Scan;
use crate::segment::txn_index::{AbortedTxn, AbortedTxns};
use crate::segment::{FileKind, file_path};
use crate::types::Offset;

impl Core {
    /// The aborted transactions, in the order of their markers.
    ///
    /// # Errors
    ///
    /// Those of reading all batches, if they are not known yet.
    pub(crate) fn aborted(&self) -> Result<Arc<[AbortedTxn]>> {
        self.know_aborted()?;
        Ok(self.aborted.read().entries().into())
    }

    /// Those that may have records in `from..to`. To be asked after these were read: of every transaction that was decided
    /// there, the outcome is known by then.
    ///
    /// # Errors
    ///
    /// As for [`aborted`](Self::aborted); [`Error::OffsetOutOfRange`] if the start has risen above `from`.
    pub(crate) fn aborted_within(&self, from: Offset, to: Offset) -> Result<Vec<AbortedTxn>> {
        self.know_aborted()?;
        let within = self.aborted.read().within(from, to).copied().collect();
        // Of what lies below the start they are forgotten, and who was in between would take its records for committed.
        let start = self.start();
        match from < start {
            true => Err(Error::OffsetOutOfRange { requested: from, start, end: self.end() }),
            false => Ok(within),
        }
    }

    /// Up to where committed data can be read, as far as damage has a say in it; at most `stable`.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if `from` is not below that because of damage; [`Error::Io`].
    pub(crate) fn decided(&self, from: Offset, stable: Offset) -> Result<Offset> {
        self.know_aborted()?;
        match self.undecided.get() {
            Some(undecided) if from >= undecided.from => Err(Error::Corrupt(Box::new(undecided.why.clone()))),
            Some(undecided) => Ok(stable.min(undecided.from)),
            None => Ok(stable),
        }
    }

    fn know_aborted(&self) -> Result<()> {
        if self.aborted_from.load(Ordering::Acquire) > 0 {
            self.find_aborted()?;
        }
        Ok(())
    }

    fn find_aborted(&self) -> Result<()> {
        let _one_at_a_time = self.finding_aborted.lock();
        let known_from = Offset(self.aborted_from.load(Ordering::Acquire));
        if known_from == Offset::ZERO {
            return Ok(());
        }
        probe::reached("aborted.found");
        let segments = self.segments();
        let below: Vec<_> = segments.iter().filter(|segment| segment.base() < known_from).collect();
        let (followed, undecided) = match self.follow_headers(&below) {
            Ok(Some(followed)) => (followed, None),
            Ok(None) | Err(Error::Corrupt(_)) => self.follow_verified(&below)?,
            Err(error) => return Err(error),
        };
        let mut all = followed.aborted;
        let mut known = self.aborted.write();
        if undecided.is_none() {
            for entry in known.ended_from(known_from) {
                // Those that were found end below.
                let _ = all.append(*entry);
            }
        }
        *known = all;
        drop(known);
        undecided.map(|undecided| self.undecided.set(undecided));
        self.aborted_from.store(0, Ordering::Release);
        Ok(())
    }

    /// Walks the headers of all batches; `None` if the indexes of aborted transactions do not say just the same.
    fn follow_headers(&self, segments: &[&Arc<SegmentData>]) -> Result<Option<Followed>> {
        let mut followed = self.before(segments)?;
        for segment in segments {
            self.follow(segment, &mut followed)?;
            if self.indexed(segment, &followed)? != Indexed::Exactly {
                return Ok(None);
            }
        }
        Ok(Some(followed))
    }

    /// Verifies every batch, up to the first that is damaged.
    fn follow_verified(&self, segments: &[&Arc<SegmentData>]) -> Result<(Followed, Option<Undecided>)> {
        probe::reached("aborted.verified");
        let mut followed = self.before(segments)?;
        for segment in segments {
            let path = segment.path();
            let file = self.context.disk().open(path, Open::Read).map_err(Error::io("open", path))?;
            let mut scan = Scan::new(&*file, 0, segment.len(), segment.base(), false).dense_from(self.dense_from());
            let stop = loop {
                match scan.next().map_err(Error::io("read", path))? {
                    Ok(batch) => followed.replay(&batch.header, batch.bytes),
                    Err(stop) => break stop,
                }
            };
            if stop.position < segment.len() {
                probe::reached("aborted.undecided");
                let open = followed.producers.transactions().first_unstable();
                let from = open.unwrap_or(scan.next_offset()).min(scan.next_offset());
                let (path, position, reason) = (path.to_owned(), stop.position, stop.reason.into());
                return Ok((followed, Some(Undecided { from, why: Corruption { path, position, reason } })));
            }
            if self.indexed(segment, &followed)? == Indexed::Wrongly {
                probe::reached("aborted.index_was_wrong");
                self.context.files.tell_state_rebuilt(file_path(&self.dir, segment.base(), FileKind::TxnIndex));
            }
        }
        Ok((followed, None))
    }

    /// What is known where the first of the segments begins.
    fn before(&self, segments: &[&Arc<SegmentData>]) -> Result<Followed> {
        let Some(first) = segments.first() else { return Ok(Followed::default()) };
        let snapshot = Followed::snapshot(&self.context, &self.dir, first.base())?.unwrap_or_default();
        Followed::load(&self.context, &self.dir, snapshot, first.base())
    }

    /// Takes the batches of a segment into account, by their headers.
    fn follow(&self, segment: &Arc<SegmentData>, followed: &mut Followed) -> Result<()> {
        let (len, view) = (segment.len(), segment.view()?);
        let mut position = 0;
        while position < len {
            let header = segment.header(&view, position, len)?;
            let end = position + u64::from(header.batch_len);
            if header.producer_id.is_some() && header.attributes.is_control() {
                let bytes = view.clone().bytes(position..end, segment.path())?;
                BatchRef::verify(bytes.as_slice())
                    .map_err(|invalid| Error::corrupt(segment.path(), position, invalid.what))?;
                followed.replay(&header, Some(bytes.as_slice()));
            } else {
                followed.replay(&header, None);
            }
            position = end;
        }
        Ok(())
    }

    /// How the index of aborted transactions of a segment compares with its batches.
    fn indexed(&self, segment: &SegmentData, followed: &Followed) -> Result<Indexed> {
        let path = file_path(&self.dir, segment.base(), FileKind::TxnIndex);
        let bytes = read_if_there(&self.context, &path, MAX_INDEX)?;
        let is_readable = bytes.is_some() || self.context.disk().metadata(&path).is_err();
        let found = AbortedTxns::decode(bytes.as_deref().unwrap_or_default(), segment.base());
        let Some(found) = found.ok().filter(|_| is_readable) else { return Ok(Indexed::Wrongly) };
        let ended = |entry: &&AbortedTxn| (segment.base()..segment.end()).contains(&entry.last_offset);
        let of_batches: Vec<&AbortedTxn> = followed.aborted.entries().iter().filter(ended).collect();
        let is_there = |txn: &&AbortedTxn| {
            let mut entries = found.entries().iter();
            entries.any(|entry| (entry.producer, entry.last_offset) == (txn.producer, txn.last_offset))
        };
        Ok(if found.entries().iter().eq(of_batches.iter().copied()) {
            Indexed::Exactly
        } else if !self.is_dense() && of_batches.iter().all(is_there) {
            Indexed::WithMore
        } else {
            Indexed::Wrongly
        })
    }
}

/// What an index of aborted transactions says, beside the batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Indexed {
    Exactly,
    /// Compaction removes the records of an aborted transaction, the first of them or all, and keeps the entry.
    WithMore,
    Wrongly,
}

/// What keeps the outcome of transactions from being known.
#[derive(Debug)]
pub(super) struct Undecided {
    /// From here on.
    from: Offset,
    /// The damage.
    why: Corruption,
}

const MAX_INDEX: u64 = 64 << 20;
