//! Ending transactions: a marker that says what became of one.
//!
//! A marker names its producer, and ends whatever that has open. So whoever ends a transaction says where it began, too:
//! a call that comes late, or twice, finds another one open, or none, and leaves it alone.

use super::core::Core;
use super::producers::{self, MarkerKind, OpenTransaction};
use super::report::Raised;
use crate::error::{Error, Result};
use crate::probe;
use crate::record::{Marker, encode_marker};
use crate::types::{Offset, ProducerEpoch, ProducerId};

/// Which transaction is to be ended, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) producer: ProducerId,
    /// Where the transaction began in this partition.
    pub(crate) first: Offset,
    pub(crate) is_commit: bool,
    /// Whether the marker has the epoch after the transaction's own, so that nothing more comes from the producer.
    pub(crate) fences: bool,
}

impl Core {
    /// The transactions without an outcome, the earliest first.
    pub(crate) fn open_transactions(&self) -> Vec<OpenTransaction> {
        self.lock().followed.producers.open()
    }

    /// The largest id below another that a producer has which is remembered.
    pub(crate) fn last_producer(&self, below: ProducerId) -> Option<ProducerId> {
        self.lock().followed.producers.last_id(below)
    }

    /// Forgets producers that wrote nothing for as long as the log is told to remember them.
    pub(crate) fn expire_producers(&self) {
        let (now, after) = (self.context.clock.now(), self.context.producer_expiry);
        self.lock().followed.producers.expire(now, after);
    }

    /// Ends a transaction by a marker, and returns the offset of that; `None` if it is not open here, because it is ended
    /// already. Survives the death of the process when this returns.
    ///
    /// # Errors
    ///
    /// Those of an append: nothing was ended. Space that the log is told to leave free is used for it.
    pub(crate) fn end_transaction(&self, ending: &Ending) -> Result<Option<Offset>> {
        let (placed, raised) = self.end_locked(ending)?;
        drop(raised);
        Ok(placed)
    }

    fn end_locked(&self, ending: &Ending) -> Result<(Option<Offset>, Option<Raised<'_>>)> {
        let mut writer = self.lock();
        self.check_open()?;
        self.check_leads(&writer)?;
        let is_this = |open: &OpenTransaction| open.first == ending.first || probe::planted("ending.any_transaction");
        let Some(open) = writer.followed.producers.open_of(ending.producer).filter(is_this) else {
            probe::reached("ending.not_open");
            return Ok((None, None));
        };
        writer.begin(self).map_err(|failure| self.fail(failure))?;
        let end = writer.end;
        end.checked_add(1).ok_or(Error::OffsetsExhausted { end, count: 1 })?;
        let epoch = ProducerEpoch(open.epoch.0.saturating_add(i16::from(ending.fences)));
        let marker = Marker {
            offset: end,
            leader_epoch: writer.epoch,
            producer_id: ending.producer,
            producer_epoch: epoch,
            timestamp: self.context.clock.now(),
            is_commit: ending.is_commit,
            coordinator_epoch: open.coordinator_epoch.max(0),
        };
        let mut batch = std::mem::take(&mut writer.buffer);
        let placed = encode_marker(&marker, &mut batch).and_then(|header| {
            self.place(&mut writer, &batch, &header).map_err(|failure| self.fail(failure))?;
            Ok(header)
        });
        writer.buffer = batch;
        let header = placed?;
        let ended = producers::Marker {
            producer: ending.producer,
            epoch,
            offset: end,
            timestamp: marker.timestamp,
            coordinator_epoch: marker.coordinator_epoch,
            kind: if ending.is_commit { MarkerKind::Commit } else { MarkerKind::Abort },
        };
        writer.followed.apply(&header, Some(ended));
        self.committed_at_once(&mut writer, header.next_offset());
        self.publish_transactions(&writer);
        self.assign_epoch(&mut writer, end);
        let raised = self.raise_end(writer.end);
        drop(writer);
        Ok((Some(end), Some(raised)))
    }
}
