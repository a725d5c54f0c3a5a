//! The aborted transactions of a log that a broker wrote: found in the batches, once somebody asks.
//!
//! A segment of ours has a seal that vouches for its `.txnindex`. Kafka compares its own with nothing: an entry that is
//! missing there makes aborted records visible. So the headers of all batches below where recovery began are walked,
//! and the end markers among them verified, at the first read of committed data. Who never asks never pays.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::core::Core;
use super::follow::Followed;
use super::producers::{OpenTransaction, Origin};
use super::recover::read_if_there;
use crate::error::{Error, Result};
use crate::probe;
use crate::record::{BatchRef, Marker, encode_marker};
use crate::segment::data::SegmentData;
use crate::segment::txn_index::{AbortedTxn, AbortedTxns};
use crate::segment::{FileKind, file_path};
use crate::types::{LeaderEpoch, Offset, ProducerEpoch};

impl Core {
    /// The transactions without an outcome, the earliest first.
    pub(crate) fn open_transactions(&self) -> Vec<OpenTransaction> {
        self.lock().followed.producers.open()
    }

    /// Ends every open transaction by an abort marker, as a coordinator would that fences the producer: under the epoch
    /// after its own. Durable when this returns.
    pub(crate) fn abort_open(self: &Arc<Self>) -> Result<()> {
        for open in self.open_transactions() {
            let mut batch = Vec::new();
            let header = encode_marker(
                &Marker {
                    offset: self.end(),
                    leader_epoch: LeaderEpoch(0),
                    producer_id: open.producer,
                    producer_epoch: ProducerEpoch(open.epoch.0.saturating_add(1)),
                    timestamp: self.context.clock.now(),
                    is_commit: false,
                    coordinator_epoch: open.coordinator_epoch.max(0),
                },
                &mut batch,
            )?;
            probe::reached("adopt.aborted");
            self.append_batch(&mut batch, header, None, Origin::Coordinator)?;
        }
        self.sync_to(self.end())
    }

    /// The aborted transactions, in the order of their markers.
    ///
    /// # Errors
    ///
    /// Those of reading all batches, if they are not known yet.
    pub(crate) fn aborted(&self) -> Result<Arc<[AbortedTxn]>> {
        if self.aborted_from.load(Ordering::Acquire) > 0 {
            self.find_aborted()?;
        }
        Ok(Arc::clone(&self.aborted.read()))
    }

    fn find_aborted(&self) -> Result<()> {
        let _one_at_a_time = self.finding_aborted.lock();
        let known_from = Offset(self.aborted_from.load(Ordering::Acquire));
        if known_from == Offset::ZERO {
            return Ok(());
        }
        probe::reached("aborted.found");
        let segments = self.segments();
        let mut followed = match segments.first() {
            Some(first) => {
                let snapshot = Followed::snapshot(&self.context, &self.dir, first.base())?.unwrap_or_default();
                Followed::load(&self.context, &self.dir, snapshot, first.base())?
            }
            None => Followed::default(),
        };
        for segment in segments.iter().filter(|segment| segment.base() < known_from) {
            self.follow(segment, &mut followed)?;
            self.compare(segment, &followed)?;
        }
        let mut all = followed.aborted.entries().to_vec();
        let mut entries = self.aborted.write();
        all.extend(entries.iter().filter(|entry| entry.last_offset >= known_from));
        *entries = all.into();
        drop(entries);
        self.aborted_from.store(0, Ordering::Release);
        Ok(())
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

    /// Tells of an index of aborted transactions that is not what the batches say.
    fn compare(&self, segment: &SegmentData, followed: &Followed) -> Result<()> {
        let path = file_path(&self.dir, segment.base(), FileKind::TxnIndex);
        let bytes = read_if_there(&self.context, &path, MAX_INDEX)?;
        let is_readable = bytes.is_some() || self.context.disk().metadata(&path).is_err();
        let found = AbortedTxns::decode(bytes.as_deref().unwrap_or_default(), segment.base());
        let ended = |entry: &&AbortedTxn| (segment.base()..segment.end()).contains(&entry.last_offset);
        let of_batches: Vec<&AbortedTxn> = followed.aborted.entries().iter().filter(ended).collect();
        let is_true = |found: AbortedTxns| match self.dense {
            true => found.entries().iter().eq(of_batches.iter().copied()),
            // Compaction removes the records of an aborted transaction, the first of them or all, and keeps the entry.
            false => of_batches.iter().all(|txn| {
                let mut entries = found.entries().iter();
                entries.any(|entry| (entry.producer, entry.last_offset) == (txn.producer, txn.last_offset))
            }),
        };
        if !is_readable || !found.is_ok_and(is_true) {
            probe::reached("aborted.index_was_wrong");
            self.context.files.tell_state_rebuilt(path);
        }
        Ok(())
    }
}

const MAX_INDEX: u64 = 64 << 20;
