//! A consumer group, for who is no member of it.

use std::fmt;
use std::sync::Arc;

use super::coordinate::committed_count;
use super::{Inner, Log, Opened};
use crate::error::{Error, GroupError, Result};
use crate::group::{Caller, Committed, GroupOffset, OffsetCommit, Request, check_group_id};
use crate::observe::tell;
use crate::partition::Ack;
use crate::types::{Offset, TopicId, TopicPartition};

/// A consumer group, by its id: what it committed. Made by [`Log::group`](crate::Log::group).
///
/// A group need not be created: it is there while it has offsets. What it committed is forgotten after 7 days by
/// default, counted from the commit: one that only waits has to commit again now and then, or begins anew.
/// [`GroupConfig::offset_retention`](crate::GroupConfig::offset_retention) says otherwise.
///
/// Of a log that is replicated, only the node that coordinates the group answers, and each call that waits for the disk waits for
/// other nodes instead: see [Groups](crate::guide::replication#groups).
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use chiplog::{Log, Offset};
///
/// let log = Log::open(dir.path())?;
/// let billing = log.group("billing")?;
/// billing.commit("orders", 0, Offset(42))?;
/// assert_eq!(billing.committed("orders", 0)?.map(|committed| committed.offset), Some(Offset(42)));
/// assert_eq!(billing.committed("orders", 1)?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Group {
    id: Arc<str>,
    opened: Arc<Opened>,
}

/// A topic that a client has read, in a list sorted by name. Committed offsets are of a name, and those of a topic that was
/// deleted must not become those of the next one.
pub(crate) type TopicRead = (Arc<str>, TopicId);

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("id", &self.id).finish()
    }
}

impl Group {
    pub(super) fn new(id: &str, opened: Arc<Opened>) -> Result<Self> {
        check_group_id(id)?;
        Ok(Self { id: id.into(), opened })
    }

    /// Refuses a group of another log than this.
    pub(super) fn check_of(&self, inner: &Inner) -> Result<()> {
        let found = &self.opened.inner;
        match std::ptr::eq(&**found, inner) {
            true => Ok(()),
            false => Err(Error::ForeignGroup {
                group: (*self.id).into(),
                found: (*found.dir).into(),
                expected: (*inner.dir).into(),
            }),
        }
    }

    /// The log that it belongs to.
    pub(super) fn log(&self) -> Log {
        Log { opened: Arc::clone(&self.opened) }
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Commits the offset to go on from in one partition. Survives a power cut when this returns, and so do the records
    /// below the offset, if the partition is in this log: they are synced first, whatever the topic's
    /// [`Durability`](crate::Durability) says. Committing once for many records costs one sync for all of them.
    ///
    /// The offset may go back, and may lie above the end: the topic may be in another log.
    ///
    /// # Errors
    ///
    /// As for [`commit_all`](Self::commit_all).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// let billing = log.group("billing")?;
    /// billing.commit("orders", 0, Offset(42))?;
    /// billing.commit("orders", 0, Offset(17))?; // go back
    /// assert_eq!(billing.committed("orders", 0)?.unwrap().offset, Offset(17));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn commit(&self, topic: &str, partition: u32, offset: Offset) -> Result<()> {
        self.commit_all(&[GroupOffset::new(topic, partition, offset)])
    }

    /// Commits several offsets, all of them or none. They survive a power cut when this returns, and so do the records
    /// below them, as [`commit`](Self::commit) says.
    ///
    /// # Errors
    ///
    /// Nothing was committed after
    ///
    /// - [`Error::TooLong`] if a metadata text is too long, [`Error::InvalidRecord`] if a name or number is too large,
    ///   [`Error::BatchTooLarge`] if there are too many.
    /// - [`Error::LowSpace`], and [`Error::Io`] of a full disk: commit again once space is freed.
    /// - [`Error::Corrupt`] if the group's offsets could not be read when the log was opened.
    /// - [`Error::ReadOnly`], [`Error::Closed`].
    ///
    /// [`Error::Io`] and [`Error::Poisoned`] leave it open if the write or the sync of the commit failed: it may be there when
    /// the log is reopened, unless something was committed after it. Both are of the partition whose records the offset points
    /// past, too, if those could not be synced; nothing was committed then.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{GroupOffset, Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// let billing = log.group("billing")?;
    /// billing.commit_all(&[
    ///     GroupOffset::new("orders", 0, Offset(42)).metadata("by worker 7"),
    ///     GroupOffset::new("orders", 1, Offset(17)),
    /// ])?;
    /// assert_eq!(billing.offsets()?.len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn commit_all(&self, offsets: &[GroupOffset<'_>]) -> Result<()> {
        self.commit_with(offsets, Ack::Synced)
    }

    /// Commits as [`commit_all`](Self::commit_all) does, but waits for no more than `ack` says.
    ///
    /// With [`Ack::Written`] nothing is synced, and the commit costs about as much as an append. It survives the death of the
    /// process. After a power cut the group may go on from an older offset, and see records again; it passes over none: an
    /// offset above what is left of its partition is lowered to there by the next open.
    ///
    /// # Errors
    ///
    /// As for [`commit_all`](Self::commit_all).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Ack, GroupOffset, Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// let billing = log.group("billing")?;
    /// for offset in 1..100 {
    ///     billing.commit_with(&[GroupOffset::new("orders", 0, Offset(offset))], Ack::Written)?;
    /// }
    /// assert_eq!(billing.committed("orders", 0)?.unwrap().offset, Offset(99));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn commit_with(&self, offsets: &[GroupOffset<'_>], ack: Ack) -> Result<()> {
        self.commit_as(Caller::none(), offsets, ack, &[])
    }

    /// Commits as [`commit_with`](Self::commit_with) does, for a member, and for who has read these topics: what one commits for
    /// a topic that is gone is left out.
    pub(crate) fn commit_as(
        &self,
        caller: Caller,
        offsets: &[GroupOffset<'_>],
        ack: Ack,
        read: &[TopicRead],
    ) -> Result<()> {
        if offsets.is_empty() {
            return Ok(());
        }
        let inner = &self.opened.inner;
        inner.check_open()?;
        let commit = OffsetCommit::of(&self.id, caller, offsets, &inner.group_config)?;
        let answer = inner.ask_having_read(Request::CommitOffsets(commit), ack, read)?.wait()?;
        let count = committed_count(&self.id, answer)?;
        if count > 0 {
            let id = Arc::clone(&self.id);
            tell(&inner.context.observer, move |observer| observer.offsets_committed(&id, count));
        }
        Ok(())
    }

    /// What the group committed for a partition; `None` if nothing, or so long ago that it was forgotten.
    ///
    /// Only what survives a power cut: waits for a commit that is under way, and syncs what a process that was killed
    /// may have left unsynced, or a commit with [`Ack::Written`]. Of the latter the offset survives then, and the records below
    /// it need not: if they are lost, the next open lowers it to the end of what is left. A log that is open read-only tells
    /// what is there.
    ///
    /// An offset that an open transaction is about to commit is not told yet.
    ///
    /// # Errors
    ///
    /// - [`Error::Corrupt`], [`Error::Io`] if the offsets could not be read when the log was opened; `Io` also if what
    ///   was found then could not be synced now: of kind [`Full`](crate::ErrorKind::Full), ask again once space is freed.
    /// - [`Error::Poisoned`] if a sync of what is committed failed: what is stored is known when the log is reopened.
    /// - [`Error::Closed`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{GroupOffset, Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// let billing = log.group("billing")?;
    /// assert!(billing.committed("orders", 0)?.is_none());
    /// billing.commit_all(&[GroupOffset::new("orders", 0, Offset(42)).metadata("by worker 7")])?;
    /// let committed = billing.committed("orders", 0)?.unwrap();
    /// assert_eq!((committed.offset, &*committed.metadata), (Offset(42), "by worker 7"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn committed(&self, topic: &str, partition: u32) -> Result<Option<Committed>> {
        let found = self
            .opened
            .inner
            .with_group(&self.id, |groups| groups.offsets().committed(&self.id, topic, partition).cloned())?;
        Ok(found.flatten())
    }

    /// Everything the group committed, by topic and partition.
    ///
    /// # Errors
    ///
    /// As for [`committed`](Self::committed).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// let billing = log.group("billing")?;
    /// billing.commit("orders", 3, Offset(42))?;
    /// let offsets = billing.offsets()?;
    /// assert_eq!((offsets[0].0.to_string(), offsets[0].1.offset), ("orders-3".into(), Offset(42)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn offsets(&self) -> Result<Vec<(TopicPartition, Committed)>> {
        let found = self.opened.inner.with_group(&self.id, |groups| {
            let all = groups.offsets().offsets(&self.id);
            all.map(|(topic, partition, committed)| (TopicPartition::new(topic, partition), committed.clone()))
                .collect()
        })?;
        Ok(found.unwrap_or_default())
    }

    /// Forgets everything the group committed. Survives a power cut when this returns.
    ///
    /// # Errors
    ///
    /// As for [`Partition::append`](crate::Partition::append); [`Error::Corrupt`] also if the offsets could not be read
    /// when the log was opened.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// let billing = log.group("billing")?;
    /// billing.commit("orders", 0, Offset(42))?;
    /// billing.delete()?;
    /// assert!(billing.offsets()?.is_empty());
    /// assert!(log.groups()?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn delete(&self) -> Result<()> {
        let inner = &self.opened.inner;
        inner.check_open()?;
        if inner.shard(&self.id)?.is_none() {
            return Ok(());
        }
        let reply = inner.ask(Request::DeleteGroup { group: (*self.id).into() }, Ack::Synced)?;
        match reply.wait() {
            // There is nothing of it, which has to be so after a power cut, too.
            Err(Error::GroupRefused { reason: GroupError::GroupIdNotFound, .. }) => {
                inner.with_group(&self.id, |_| ()).map(drop)
            }
            answer => answer.map(drop),
        }
    }
}

#[cfg(feature = "sim")]
impl crate::log::Log {
    /// The topics that are being deleted, so that what groups committed for them is there, and not told.
    pub(crate) fn hidden_topics(&self) -> std::collections::BTreeSet<String> {
        self.opened.inner.hidden_topics()
    }
}
