//! What a partition knows about the batches it holds beside their bytes: producers, transactions, leader epochs.
//!
//! All of it is derived. It is brought up to date with each append, and after a crash from the newest snapshot and the
//! batches behind it.

use std::path::{Path, PathBuf};

use super::context::Context;
use super::epochs::Epochs;
use super::producers::{self, CompletedTxn, Marker, MarkerKind, Placed, ProducerBatch, Producers};
use super::recover::read_if_there;
use super::snapshot::{self, Entry};
use crate::checksum::Digest;
use crate::disk::read_vouched;
use crate::disk::replace::replace;
use crate::error::Result;
use crate::probe;
use crate::record::{BatchHeader, BatchRef, Control};
use crate::segment::txn_index::{AbortedTxn, AbortedTxns, ended_below};
use crate::segment::{FileKind, file_path};
use crate::types::{LeaderEpoch, Offset, ProducerId};

/// Everything derived from the batches of a partition.
#[derive(Debug, Default)]
pub(crate) struct Followed {
    pub(crate) producers: Producers,
    pub(crate) epochs: Epochs,
    pub(crate) aborted: AbortedTxns,
}

impl Followed {
    /// What a snapshot and the checkpoint of epochs say about the log up to `end`.
    pub(crate) fn load(context: &Context, dir: &Path, snapshot: Vec<Entry>, end: Offset) -> Result<Self> {
        let mut epochs = Self::epochs(context, dir)?.unwrap_or_default();
        epochs.truncate_from_end(end);
        let producers = Producers::load(&snapshot, context.clock.now(), context.producer_expiry);
        Ok(Self { producers, epochs, aborted: AbortedTxns::default() })
    }

    /// The snapshot of producers at `at`; `None` if it is missing or damaged.
    pub(crate) fn snapshot(context: &Context, dir: &Path, at: Offset) -> Result<Option<Vec<Entry>>> {
        let bytes = read_if_there(context, &file_path(dir, at, FileKind::Snapshot), MAX_SNAPSHOT)?;
        let entries = bytes.and_then(|bytes| snapshot::decode(&bytes, at).ok());
        if entries.is_none() {
            probe::reached("recover.bad_snapshot");
        }
        Ok(entries)
    }

    /// Whether the checkpoint of epochs can be read: else they are known only from the batches.
    pub(crate) fn has_epochs(context: &Context, dir: &Path) -> bool {
        Self::epochs(context, dir).is_ok_and(|epochs| epochs.is_some_and(|epochs| epochs.latest().is_some()))
    }

    /// Whether the checkpoint of epochs says of a batch what the batch says itself.
    pub(crate) fn epochs_say(context: &Context, dir: &Path, batch: &BatchHeader) -> bool {
        let epochs = Self::epochs(context, dir).ok().flatten().unwrap_or_default();
        let agrees = match epochs.epoch_for(batch.base_offset) {
            Some(epoch) => epoch == batch.leader_epoch,
            // The first epoch begins where the log does, which may be behind the first batches of a segment.
            None => epochs.entries().first().is_some_and(|first| batch.leader_epoch <= first.epoch),
        };
        epochs.latest().is_some() && (agrees || batch.leader_epoch == LeaderEpoch::NONE)
    }

    pub(crate) fn epochs_path(dir: &Path) -> PathBuf {
        dir.join(EPOCHS_FILE)
    }

    fn epochs(context: &Context, dir: &Path) -> Result<Option<Epochs>> {
        let text = read_if_there(context, &dir.join(EPOCHS_FILE), MAX_EPOCHS)?;
        Ok(text.and_then(|text| Epochs::parse(&text).ok()))
    }

    /// The index of aborted transactions of a whole segment, if it is what `digest` was made of.
    pub(crate) fn aborted_of(context: &Context, dir: &Path, base: Offset, digest: Digest) -> Option<AbortedTxns> {
        let bytes = read_vouched(context.disk(), &file_path(dir, base, FileKind::TxnIndex), digest)?;
        AbortedTxns::decode(&bytes, base).ok()
    }

    /// The same, after transactions that were aborted before.
    pub(crate) fn with_aborted(mut self, aborted: Vec<AbortedTxn>) -> Self {
        for entry in aborted {
            // Segments come in order, and so do the markers in each.
            let _ = self.aborted.append(entry);
        }
        self
    }

    /// Takes a stored batch into account. It was checked when it was appended.
    pub(crate) fn replay(&mut self, header: &BatchHeader, bytes: Option<&[u8]>) {
        self.epochs.assign(header.leader_epoch, header.base_offset);
        if !header.producer_id.is_some() {
            return;
        }
        let marker = match bytes.map(BatchRef::verify) {
            Some(Ok(batch)) if header.attributes.is_control() => marker_of(&batch),
            _ => None,
        };
        self.apply(header, marker);
    }

    /// Takes an appended batch into account.
    pub(crate) fn apply(&mut self, header: &BatchHeader, marker: Option<Marker>) {
        match marker {
            Some(marker) => {
                if let Some(completed) = self.producers.apply_marker(&marker) {
                    self.complete(completed);
                }
            }
            None if header.attributes.is_control() => {}
            None => self.producers.apply(&producer_batch(header), placed(header)),
        }
    }

    fn complete(&mut self, completed: CompletedTxn) {
        if !completed.aborted {
            return;
        }
        probe::reached("follow.aborted");
        let entry = AbortedTxn {
            producer: completed.producer,
            first_offset: completed.first_offset,
            last_offset: completed.marker_offset,
            last_stable_offset: completed.last_stable_offset,
        };
        // Markers come in order of offset, so the only refusal is an entry that recovery read already.
        let _ = self.aborted.append(entry);
    }

    /// The aborted transactions that ended in `from..to`, as the file of one segment holds them.
    pub(crate) fn aborted_between(&self, from: Offset, to: Offset) -> Vec<u8> {
        encode_between(self.aborted.entries(), from, to)
    }

    /// Writes the checkpoint of leader epochs.
    pub(crate) fn store_epochs(&self, context: &Context, dir: &Path) -> Result<()> {
        replace(context.disk(), &dir.join(EPOCHS_FILE), self.epochs.to_text().as_bytes())
    }
}

/// Those of `aborted`, in the order of their markers, that ended in `from..to`, as the file of one segment holds them.
pub(crate) fn encode_between(aborted: &[AbortedTxn], from: Offset, to: Offset) -> Vec<u8> {
    let later = &aborted[ended_below(aborted, from)..];
    later[..ended_below(later, to)].iter().flat_map(AbortedTxn::encode).collect()
}

/// A data batch, as its producer numbered it.
pub(crate) fn producer_batch(header: &BatchHeader) -> ProducerBatch {
    ProducerBatch {
        producer: header.producer_id,
        epoch: header.producer_epoch,
        base_sequence: header.base_sequence,
        last_sequence: producers::last_sequence(header.base_sequence, header.last_offset_delta),
        transactional: header.attributes.is_transactional(),
    }
}

/// Where a data batch was stored.
pub(crate) fn placed(header: &BatchHeader) -> Placed {
    Placed { base_offset: header.base_offset, last_offset: header.last_offset(), timestamp: header.max_timestamp }
}

/// The end of a transaction, if this batch is one.
pub(crate) fn marker_of(batch: &BatchRef<'_>) -> Option<Marker> {
    let header = batch.header();
    let (kind, coordinator_epoch) = match batch.control() {
        Ok(Some(Control::Commit { coordinator_epoch })) => (MarkerKind::Commit, coordinator_epoch),
        Ok(Some(Control::Abort { coordinator_epoch })) => (MarkerKind::Abort, coordinator_epoch),
        _ => return None,
    };
    (header.producer_id != ProducerId::NONE).then_some(Marker {
        producer: header.producer_id,
        epoch: header.producer_epoch,
        offset: header.base_offset,
        timestamp: header.max_timestamp,
        coordinator_epoch,
        kind,
    })
}

pub(crate) const EPOCHS_FILE: &str = "leader-epoch-checkpoint";
pub(crate) const MAX_SNAPSHOT: u64 = 256 << 20;
const MAX_EPOCHS: u64 = 16 << 20;
