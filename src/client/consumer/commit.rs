//! What a consumer commits.

use std::time::Duration;

use super::Consumer;
use crate::error::{Error, ErrorKind, Result};
use crate::group::{Caller, Committed, GroupOffset};
use crate::log::{Group, TopicRead};
use crate::partition::Ack;
use crate::probe;
use crate::types::TopicPartition;

impl Consumer {
    /// Commits the positions of all partitions it reads: everything that polls have returned counts as processed. Survives a
    /// power cut when this returns, and so do the records below, which are synced first, whatever their topics'
    /// [`Durability`](crate::Durability) says. Blocks while the disk works.
    ///
    /// Nothing is committed for a topic that was deleted, also if there is one of its name again.
    ///
    /// # Errors
    ///
    /// Nothing was committed after
    ///
    /// - [`Error::GroupRefused`] of kind [`Retry`](crate::ErrorKind::Retry): the group is rebalancing. Poll, and commit then; what
    ///   was given up meanwhile is delivered again, to others.
    /// - [`Error::GroupRefused`] of kind [`Fenced`](crate::ErrorKind::Fenced): the member was taken for dead, and others read on.
    ///   Do not stop: the next poll says what is lost, and joins again.
    /// - Those of [`Group::commit_all`](crate::Group::commit_all), which also says after which it is not known.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::{AutoOffsetReset, Log, Offset, Record, TopicPartition};
    ///
    /// let log = Log::open(dir.path())?;
    /// log.append(Record::new("paid").to("orders"))?;
    /// let orders = TopicPartition::new("orders", 0);
    /// let builder = log.consumer("billing").auto_offset_reset(AutoOffsetReset::Earliest);
    /// let mut consumer = builder.assign([orders.clone()])?;
    /// assert_eq!(consumer.poll(Duration::ZERO)?.iter().count(), 1);
    /// consumer.commit()?;
    /// assert_eq!(consumer.committed(&orders)?.unwrap().offset, Offset(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn commit(&mut self) -> Result<()> {
        self.commit_with(if probe::planted("consumer.commit_not_synced") { Ack::Written } else { Ack::Synced })
    }

    /// Commits as [`commit`](Self::commit) does, but waits for no more than `ack` says.
    ///
    /// With [`Ack::Written`] nothing is synced. The commit survives the death of the process; after a power cut the group may
    /// go on from an older offset, never from one above what is left of the partition.
    ///
    /// # Errors
    ///
    /// As for [`commit`](Self::commit).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::{Ack, Log, Record, TopicPartition};
    ///
    /// let log = Log::open(dir.path())?;
    /// log.topic("orders")?;
    /// let mut consumer = log.consumer("counts").assign([TopicPartition::new("orders", 0)])?;
    /// for value in ["paid", "sent"] {
    ///     log.append(Record::new(value).to("orders"))?;
    ///     consumer.poll(Duration::ZERO)?;
    ///     consumer.commit_with(Ack::Written)?; // often, and cheap
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn commit_with(&mut self, ack: Ack) -> Result<()> {
        let positions = self.positions();
        let offsets = positions.iter().map(|(id, offset)| GroupOffset::new(&id.topic, id.partition, *offset));
        self.store(&offsets.collect::<Vec<_>>(), ack)
    }

    /// Commits these offsets, all of them or none, as durable as [`commit`](Self::commit): for who processes out of order, or
    /// has something to remember beside them. Those of a topic that it read and that was deleted are left out, as there.
    ///
    /// # Errors
    ///
    /// As for [`commit`](Self::commit).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{GroupOffset, Log, Offset, TopicPartition};
    ///
    /// let log = Log::open(dir.path())?;
    /// log.topic("orders")?;
    /// let orders = TopicPartition::new("orders", 0);
    /// let mut consumer = log.consumer("billing").assign([orders.clone()])?;
    /// consumer.commit_offsets(&[GroupOffset::new("orders", 0, Offset(0)).metadata("by worker 7")])?;
    /// assert_eq!(&*consumer.committed(&orders)?.unwrap().metadata, "by worker 7");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn commit_offsets(&mut self, offsets: &[GroupOffset<'_>]) -> Result<()> {
        self.store(offsets, Ack::Synced)
    }

    /// What the group committed for a partition; `None` if nothing. Any partition may be asked for.
    ///
    /// # Errors
    ///
    /// As for [`Group::committed`](crate::Group::committed).
    ///
    /// # Example
    ///
    /// See [`commit`](Self::commit).
    pub fn committed(&self, partition: &TopicPartition) -> Result<Option<Committed>> {
        self.group.committed(&partition.topic, partition.partition)
    }

    fn store(&mut self, offsets: &[GroupOffset<'_>], ack: Ack) -> Result<()> {
        if offsets.is_empty() {
            return Ok(());
        }
        let read = self.cursors.topics();
        self.commit_as_member(|caller| self.group.commit_as(caller, offsets, ack, &read))
    }

    /// Has its positions committed by a transaction, as those of a member, if it is one.
    pub(in crate::client) fn commit_positions_by(
        &self,
        commit: impl FnOnce(&Group, Caller, &[GroupOffset<'_>], &[TopicRead]) -> Result<()>,
    ) -> Result<()> {
        let read = self.cursors.topics();
        let offsets = self.cursors.positions().map(|(id, offset)| GroupOffset::new(&id.topic, id.partition, offset));
        let offsets: Vec<_> = offsets.collect();
        self.commit_as_member(|caller| commit(&self.group, caller, &offsets, &read))
    }

    /// Says who commits, and takes in that it may not.
    fn commit_as_member(&self, commit: impl FnOnce(Caller) -> Result<()>) -> Result<()> {
        let Some(membership) = &self.membership else { return commit(Caller::none()) };
        let mut caller = membership.shared.caller()?;
        let generation = caller.generation;
        if probe::planted("consumer.commits_as_nobody") {
            caller = Caller::none();
        }
        match commit(caller) {
            Err(Error::GroupRefused { reason, .. }) => Err(membership.shared.refused(reason, generation)),
            committed => committed,
        }
    }

    /// Commits what polls before this one have returned, if the consumer does so by itself and it is time.
    pub(super) fn commit_if_due(&mut self, now: Duration) -> Result<()> {
        let Some(interval) = self.settings.auto_commit.filter(|_| self.next_commit.is_some_and(|due| due <= now))
        else {
            return Ok(());
        };
        self.next_commit = Some(now.saturating_add(interval));
        self.commit_unless_refused()
    }

    /// Commits. What the group refuses, it has other means to tell of.
    pub(super) fn commit_unless_refused(&mut self) -> Result<()> {
        match self.commit() {
            Err(error @ Error::GroupRefused { .. })
                if matches!(error.kind(), ErrorKind::Retry | ErrorKind::Fenced) =>
            {
                Ok(())
            }
            committed => committed,
        }
    }
}
