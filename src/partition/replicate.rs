//! A partition that other nodes hold, too: who may append to it, what is committed, and how a follower's copy grows.
//!
//! ```text
//! start          committed                 end
//!   |---------------|-----------------------|
//!    on every node   on this one: may be cut again
//!    that is in sync
//! ```
//!
//! Who leads is told by whoever drives the machines of [`crate::replica`]; nothing is decided here. Readers see what is
//! committed, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::core::Core;
use super::report::wake;
use super::writer::Writer;
use crate::error::{Error, Result};
use crate::probe;
use crate::record::{BatchHeader, BatchRef};
use crate::segment::active::Failure;
use crate::types::{LeaderEpoch, NodeId, Offset};
use crate::watermark::{Stop, Watermark};

/// What is known of the other nodes.
#[derive(Debug)]
pub(crate) struct Replicated {
    /// Everything below is committed: for readers.
    pub(crate) committed: Arc<Watermark>,
    /// The same, for those who wait for it as an acknowledgement: barred while there will be none.
    pub(crate) acked: Arc<Watermark>,
    standing: Mutex<Standing>,
}

/// What this node is to the partition.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Standing {
    pub(crate) is_leader: bool,
    pub(crate) leader: Option<NodeId>,
    pub(crate) in_sync: u32,
    pub(crate) needed: u32,
}

impl Replicated {
    pub(crate) fn new(committed: Offset) -> Self {
        let acked = Watermark::new(committed.0);
        drop(acked.bar(Stop::NotLeader));
        Self { committed: Arc::new(Watermark::new(committed.0)), acked: Arc::new(acked), standing: Mutex::default() }
    }

    pub(crate) fn committed(&self) -> Offset {
        Offset(self.committed.get())
    }
}

impl Core {
    /// What readers wait on.
    pub(crate) fn readable(&self) -> &Arc<Watermark> {
        if self.context.is_replicated { &self.replicated.committed } else { &self.end }
    }

    pub(crate) fn not_leader(&self) -> Error {
        Error::NotLeader { partition: self.id.clone(), leader: self.replicated.standing.lock().leader }
    }

    pub(crate) fn not_enough(&self) -> Error {
        let Standing { in_sync, needed, .. } = *self.replicated.standing.lock();
        Error::NotEnoughReplicas { partition: self.id.clone(), in_sync, needed }
    }

    /// Refuses appends of this node's own to a partition that another one leads.
    pub(super) fn check_leads(&self, writer: &Writer) -> Result<()> {
        let takes = writer.takes_appends || probe::planted("replica.appends_as_follower");
        if takes { Ok(()) } else { Err(self.not_leader()) }
    }

    /// Lets this node append, under `epoch`. That the epoch begins here is durable before anything is.
    ///
    /// # Errors
    ///
    /// [`Error::LeaderFenced`] if the log knows a later epoch; those of a write. Nothing was changed then.
    pub(crate) fn lead(&self, epoch: LeaderEpoch) -> Result<()> {
        let mut writer = self.lock();
        self.check_open()?;
        let latest = writer.followed.epochs.latest().unwrap_or_default();
        if epoch < latest {
            return Err(Error::LeaderFenced { epoch: epoch.0, current: latest.0 });
        }
        writer.begin(self).map_err(|failure| self.fail(failure))?;
        // What was staged belongs to the epoch before.
        writer.seal(self).map_err(|failure| self.fail(failure))?;
        let end = writer.end;
        if !probe::planted("replica.epoch_not_begun") {
            self.begin_epoch(&mut writer, epoch, end).map_err(|failure| self.fail(failure))?;
        }
        writer.epoch = epoch;
        writer.takes_appends = true;
        Ok(())
    }

    /// Lets nobody append but by [`append_replicated`](Self::append_replicated). Who waits for an acknowledgement is told.
    pub(crate) fn stand_back(&self, leader: Option<NodeId>) {
        let mut writer = self.lock();
        writer.takes_appends = false;
        writer.complete();
        self.set_standing(Standing { leader, ..Standing::default() });
    }

    /// Makes the partition ready to be written. From then on its directory shows whether it was a replica, and a kill can be
    /// told from a restart of the machine.
    ///
    /// # Errors
    ///
    /// Those of a write.
    pub(crate) fn settle_in(&self) -> Result<()> {
        let mut writer = self.lock();
        self.check_open()?;
        writer.begin(self).map_err(|failure| self.fail(failure))
    }

    /// Notes what this node is to the partition, and how many are in sync.
    pub(crate) fn set_standing(&self, standing: Standing) {
        *self.replicated.standing.lock() = standing;
        let acked = &self.replicated.acked;
        match standing {
            Standing { is_leader: false, .. } => wake(acked.bar(Stop::NotLeader)),
            Standing { in_sync, needed, .. } if in_sync < needed => wake(acked.bar(Stop::NotEnough)),
            _ => acked.unbar(),
        }
    }

    /// Appends batches as the leader has them, offsets and epochs included, and syncs nothing. What comes before one that
    /// cannot be appended is.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidBatch`] if the bytes are not whole batches that go on where the log ends; those of a write.
    pub(crate) fn append_replicated(&self, batches: &[u8]) -> Result<()> {
        let mut writer = self.lock();
        self.check_open()?;
        writer.begin(self).map_err(|failure| self.fail(failure))?;
        let mut at = 0;
        let appended = loop {
            let Some(rest) = batches.get(at..).filter(|rest| !rest.is_empty()) else { break Ok(()) };
            let invalid = |what| Error::InvalidBatch { reason: what, position: at };
            let batch = match BatchRef::verify(rest) {
                Ok(batch) => batch,
                Err(found) => break Err(Error::InvalidBatch { reason: found.what, position: at + found.at }),
            };
            if let Err(what) = self.check_follows(&writer, batch.header()) {
                break Err(invalid(what));
            }
            if let Err(failure) = self.place_replicated(&mut writer, &batch) {
                break Err(self.fail(failure));
            }
            at += batch.bytes().len();
        };
        if at > 0 {
            self.publish_transactions(&writer);
        }
        let raised = self.raise_end(writer.end.max(self.end()));
        drop(writer);
        drop(raised);
        appended
    }

    /// Whether the batch goes on from where the log ends.
    fn check_follows(&self, writer: &Writer, header: &BatchHeader) -> Result<(), &'static str> {
        let is_first = writer.end <= self.start() && header.base_offset < self.start();
        let holds_start = is_first && header.last_offset() >= self.start();
        if header.base_offset < writer.end && !holds_start {
            return Err("a batch that the log has, or has others in place of");
        }
        if header.base_offset > writer.end && self.is_dense() && !self.may_have_gaps() {
            return Err("offsets are missing before the batch");
        }
        if header.last_offset_delta < 0 || header.next_offset() > Offset::MAX {
            return Err("offsets are out of range");
        }
        if header.leader_epoch < writer.followed.epochs.latest().unwrap_or(LeaderEpoch::NONE) {
            return Err("a leader epoch that is over");
        }
        Ok(())
    }

    fn may_have_gaps(&self) -> bool {
        self.config.read().cleanup.compacts()
    }

    fn place_replicated(&self, writer: &mut Writer, batch: &BatchRef<'_>) -> Result<(), Failure> {
        let header = *batch.header();
        if header.base_offset != writer.end {
            self.move_end(writer, header.base_offset)?;
        }
        // First, and durably: where an epoch begins is what the logs are compared by.
        self.begin_epoch(writer, header.leader_epoch, header.base_offset)?;
        self.place(writer, batch.bytes(), &header)?;
        writer.followed.replay(&header, Some(batch.bytes()));
        Ok(())
    }

    /// Lets the next batch begin at another offset than the end: after a gap, or, of a log that holds nothing, before its
    /// start.
    fn move_end(&self, writer: &mut Writer, to: Offset) -> Result<(), Failure> {
        if to > writer.end {
            writer.seal(self)?;
            writer.end = to;
            return Ok(());
        }
        probe::reached("replicate.before_start");
        writer.restart(self, to)
    }

    /// Notes that `epoch` begins at `start`, durably, if that is news.
    fn begin_epoch(&self, writer: &mut Writer, epoch: LeaderEpoch, start: Offset) -> Result<(), Failure> {
        let before = writer.followed.epochs.clone();
        if !writer.followed.epochs.assign(epoch, start) {
            return Ok(());
        }
        if let Err(error) = writer.followed.store_epochs(&self.context, &self.dir) {
            writer.followed.epochs = before;
            return Err(Failure::Refused(error));
        }
        self.publish_epoch(epoch);
        Ok(())
    }

    /// Where the batches of `epoch` end, and which epoch that really is: the largest known one not above.
    pub(crate) fn epoch_end(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let writer = self.lock();
        let found = writer.followed.epochs.end_offset_for(epoch, self.end())?;
        Some((found.epoch, found.end))
    }

    /// The latest epoch that the log knows, and whether it is known that no record is there under it.
    pub(crate) fn last_epoch(&self) -> Option<LeaderEpoch> {
        self.lock().followed.epochs.latest()
    }

    /// Lets readers have everything below `to`, or below the end if that is lower.
    pub(crate) fn commit_to(&self, to: Offset) {
        let mut writer = self.lock();
        let to = to.min(self.end());
        if to <= self.replicated.committed() {
            return;
        }
        writer.followed.producers.committed_to(to);
        // Before: who sees the one sees the other.
        self.publish_transactions(&writer);
        let woken = [self.replicated.committed.raise(to.0), self.replicated.acked.raise(to.0)];
        drop(writer);
        woken.into_iter().for_each(wake);
    }

    /// Waits until everything below `end` is committed, not longer than `timeout`. Whether it is.
    pub(crate) fn wait_committed(&self, end: Offset, timeout: Option<Duration>) -> Result<bool> {
        if !self.context.is_replicated {
            return Ok(true);
        }
        self.replicated.acked.wait(end.0, timeout).map_err(|stop| self.stopped(stop))
    }

    /// Refuses if the log was cut since it had been cut so often: what was appended then may be gone, and others have its
    /// offset.
    #[inline]
    pub(crate) fn check_uncut(&self, cuts: u64) -> Result<()> {
        if self.cuts() == cuts { Ok(()) } else { Err(Error::Truncated { end: self.end() }) }
    }

    /// After the log was begun anew.
    pub(super) fn raise_committed(&self, to: Offset) {
        for mark in [&self.replicated.committed, &self.replicated.acked] {
            wake(mark.raise(to.0));
        }
    }

    /// After the log was cut.
    pub(super) fn lower_committed(&self, to: Offset) {
        for mark in [&self.replicated.committed, &self.replicated.acked] {
            wake(mark.lower(to.0));
        }
    }
}
