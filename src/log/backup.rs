//! A backup: another directory that opens as this log, made while this one goes on.
//!
//! ```text
//! here    no transaction goes on, schedule and catalog locked      | as before
//!         topics, the partitions of the groups, all others         |
//!         are taken down                                           |
//! there   "unfinished backup"                                      | links and copies | checkpoints, clean | catalog
//! ```
//!
//! **One moment for each partition.** What a partition holds is taken down under its append lock, staged records
//! included, and brought over without it: see [`capture`](crate::partition::capture). Moments of different partitions
//! differ, so an order is needed:
//!
//! **Transactions as a whole.** All partitions are taken down while nothing is appended, decided or ended in a transaction:
//! one whose records are in the backup has its outcome there, too, or the decision by which the next open ends it.
//!
//! **Groups first.** Ends only rise. An offset that a group committed was at most the end of its partition then, if it is
//! of this log, so it is at most the end that is taken down later. The other way round a backup could hold an offset above
//! the end, and the group would pass over what is appended there.
//!
//! **Topics with them.** The catalog and the ends of the groups' partitions are taken down under the catalog lock. So no
//! offset is of a topic that was made later; and what groups committed for a topic that was deleted is gone, or the catalog
//! still names it as being deleted. One that is deleted while the backup is made is left out, and named as being deleted:
//! whoever opens the backup goes on with that, as after a crash here.
//!
//! **The same log.** The backup has the id of the log, as a copy of its directory has: a partition, or the catalog, can be
//! put back from it. What speaks of one file by its identity does not come along: there is no `staging` and there are no
//! `notes`, and the page of sync marks goes when a segment is finished, before it can be linked.
//!
//! **As if closed in order.** Checkpoints say that everything was synced, as it was, and `clean` describes each partition:
//! the backup opens by it, and reads one batch a partition. A damaged partition is left out. It is in the catalog, so the
//! backup, too, says that it cannot be used.
//!
//! **Whole or refused.** See [`target`].
//!
//! Locks: those of maintenance, the catalog and a partition, in the order that all take them, each for as long as it takes
//! to write numbers down. Nothing is held while bytes are brought over: appends, retention, deletions and a close go on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::adopt::refuse_open_transactions;
use super::catalog::{Catalog, CatalogTopic};
use super::checkpoints::{Checkpoint, Checkpoints};
use super::clean::{self, Clean};
use super::names::{OFFSETS_TOPIC, QUEUES_TOPIC};
use super::open::{
    CATALOG_FILE, CHECKPOINTS_FILE, CLEAN_FILE, HIGH_WATERMARKS, LOG_STARTS, METADATA_FILE, RECOVERY_POINTS,
};
use super::topic::{Damage, Slot};
use super::{Inner, Log, compacted};
use crate::disk::checkpoint::{OffsetCheckpoint, PartitionMetadata};
use crate::error::{Error, Result};
use crate::observe::Quiet;
use crate::partition::capture::{Captured, Stored, Tally};
use crate::partition::core::Core;
use crate::probe;
use crate::types::{Offset, TopicId, TopicPartition};

use self::target::Target;

mod target;

/// What [`Log::backup`] has made.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Backup {
    /// The partitions in the backup, and what it holds of each.
    pub partitions: Vec<BackedUp>,
    /// The partitions that are damaged, and so not in the backup. If there are any, keep an older one.
    pub left_out: Vec<Damage>,
    /// How many files of partitions are the log's own, under a second name.
    pub linked_files: u64,
    /// How many files of partitions were copied or made.
    pub copied_files: u64,
    /// How many bytes those have.
    pub copied_bytes: u64,
}

/// What a backup holds of one partition: everything from one offset to another.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackedUp {
    /// Which one.
    pub partition: TopicPartition,
    /// The first offset that can be read.
    pub start: Offset,
    /// The offset that the next record gets there.
    pub end: Offset,
}

impl Log {
    /// Makes a backup of the log in `dir`, while it is written. The directory is made if it is not there.
    ///
    /// The backup is a log that was closed in order: it opens at once, and can be read, and written, beside this one. Of
    /// each partition it holds what was there at one moment of this call: everything that was appended before the call, in
    /// whole batches, staged records included. Moments of partitions differ, but a transaction is in all of them or in none,
    /// and what a group committed is never above the end of a partition in the backup, unless it was so here. All of it
    /// survives a power cut when this returns.
    ///
    /// Sealed segments are not copied, but linked, as far as maintenance has finished them and `dir` is on the same file
    /// system. They take no space until they are removed here, and neither log ever changes a byte of them. A disk that
    /// fails takes both; and so does whoever else writes to one of the directories, such as a broker. For those, choose
    /// another file system, or copy the backup.
    ///
    /// Appends and all else go on meanwhile, transactions once it is taken down what each partition holds. Until its turn to
    /// be copied comes, each partition has a file open. Blocks for as long as it takes to copy the rest: the last segment of
    /// each partition, and its slot of `staging`. Works on a log that is open read-only, and on one whose disk is full, if
    /// `dir` is elsewhere.
    ///
    /// # Errors
    ///
    /// Nothing is left of a backup that failed, or a directory that every open refuses as [`Error::Corrupt`]: remove it.
    ///
    /// - [`Error::BackupTarget`] if `dir` is not empty, no directory, or inside of the log's own.
    /// - [`Error::Locked`] if another backup is being made there.
    /// - [`Error::Io`], of kind [`Full`](crate::ErrorKind::Full) if there is no space.
    /// - [`Error::OpenTransaction`] if this is a broker's directory, open read-only, with a transaction that has no end:
    ///   the backup would be a log, and keep it open for ever. Copy the directory, and adopt the copy.
    /// - [`Error::Poisoned`] if a partition is: what it acknowledged could be missing. Reopen the log first.
    /// - [`Error::Corrupt`] if batches of a segment that is not finished do not verify. A partition that was found damaged
    ///   when the log was opened is [left out](Backup::left_out) instead.
    /// - [`Error::Closed`], also if the log is closed meanwhile.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset};
    ///
    /// let log = Log::open(dir.path().join("log"))?;
    /// let orders = log.topic("orders")?.partition(0)?;
    /// orders.append("paid")?;
    /// let backup = log.backup(dir.path().join("monday"))?;
    /// assert_eq!(backup.partitions[0].end, Offset(1));
    /// orders.append("sent")?;
    ///
    /// let monday = Log::open(dir.path().join("monday"))?;
    /// let held = monday.topic("orders")?.partition(0)?.read(Offset::ZERO)?;
    /// assert_eq!(held.iter().next().unwrap().value, Some(&b"paid"[..]));
    /// assert_eq!(held.next_offset(), Offset(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn backup(&self, dir: impl AsRef<Path>) -> Result<Backup> {
        self.opened.inner.backup(dir.as_ref())
    }
}

impl Inner {
    fn backup(&self, dir: &Path) -> Result<Backup> {
        self.check_open()?;
        let dir = std::path::absolute(dir).map_err(Error::io("find directory", dir))?;
        if self.context.disk().metadata(&self.dir.join(CATALOG_FILE)).is_err() {
            // A broker's, open read-only. What is made of it is a log of ours, which nobody adopts any more.
            refuse_open_transactions(self)?;
        }
        let target = Target::begin(self.context.disk(), dir, &self.dir, self.log_id)?;
        let mut filling = Filling::new(self, &target.dir);
        match filling.fill() {
            Ok(catalog) => {
                let backup = filling.backup;
                target.finish(&catalog)?;
                probe::reached("log.backed_up");
                Ok(backup)
            }
            Err(error) => {
                target.clear();
                Err(error)
            }
        }
    }

    /// Has what is sealed finished, so that it can be linked. What is not when this returns is copied; that is no error.
    fn finish_what_is_sealed(&self) {
        let ends: Vec<(Arc<Core>, Offset)> =
            self.cores().into_iter().map(|core| (Arc::clone(&core), core.end())).collect();
        if self.context.read_only || ends.iter().all(|(core, _)| !core.has_unfinished()) {
            return;
        }
        for (core, _) in &ends {
            let _ = core.sync_rolled();
        }
        let _ = self.checkpoint_for_backup();
        // One at a time: maintenance is not to wait for all of them, nor a close.
        for (core, end) in &ends {
            while self.finish_one_below(core, *end).is_ok_and(|is_done| is_done) {}
        }
    }

    fn checkpoint_for_backup(&self) -> Result<()> {
        let _schedule = Quiet::lock(&self.schedule);
        self.check_open()?;
        self.checkpoint(&self.cores())
    }

    fn finish_one_below(&self, core: &Arc<Core>, end: Offset) -> Result<bool> {
        let _schedule = Quiet::lock(&self.schedule);
        self.check_open()?;
        let covered = self.checkpoints.lock().get(core.topic, core.id.partition).unwrap_or_default().synced;
        core.finish_one(covered.min(end))
    }

    /// Takes down the topics, and what their partitions hold. No transaction is half way meanwhile, so the backup has each as a
    /// whole or not at all.
    fn begin_backup(&self) -> Result<Begun> {
        let _schedule = Quiet::lock(&self.schedule);
        let catalog = self.lock_catalog()?;
        self.check_open()?;
        let mut begun = Begun { catalog: (**catalog).clone(), held: Vec::new() };
        let mut topics: Vec<&CatalogTopic> = catalog.live().collect();
        topics.sort_by_key(|topic| !matches!(&*topic.name, OFFSETS_TOPIC | QUEUES_TOPIC));
        for topic in topics {
            let slots = self.find(&topic.name)?.partitions.read().clone();
            let is_of_groups = *topic.name == *OFFSETS_TOPIC;
            for (number, slot) in (0..).zip(slots) {
                // One may be open that cannot be read to its end: to whom groups matter, that is damage.
                let damage = if is_of_groups { self.damage_of_groups(number) } else { None };
                let captured = match (slot, damage) {
                    (Slot::Open(_), Some(error)) | (Slot::Damaged(error), _) => Err(error),
                    (Slot::Open(core), None) => Ok(core.capture()?),
                };
                begun.held.push((topic.clone(), number, captured));
            }
        }
        Ok(begun)
    }
}

/// What a backup begins with.
struct Begun {
    catalog: Catalog,
    /// Each partition, or why it cannot be in the backup.
    held: Vec<(CatalogTopic, u32, Result<Captured, Arc<Error>>)>,
}

/// A backup that is being made, all but its catalog.
struct Filling<'a> {
    inner: &'a Inner,
    dir: &'a Path,
    backup: Backup,
    tally: Tally,
    checkpoints: Checkpoints,
    clean: Clean,
    /// Where partitions start that start behind the beginning of their first segment, as Kafka lists them.
    late_starts: BTreeMap<TopicPartition, Offset>,
    /// The topics of which offsets may be missing, whatever the catalog says.
    sparse: BTreeSet<TopicId>,
}

impl<'a> Filling<'a> {
    fn new(inner: &'a Inner, dir: &'a Path) -> Self {
        Self {
            inner,
            dir,
            backup: Backup::default(),
            tally: Tally::default(),
            checkpoints: Checkpoints::default(),
            clean: Clean::new(),
            late_starts: BTreeMap::new(),
            sparse: BTreeSet::new(),
        }
    }

    /// Makes everything but the catalog, durably, and returns that.
    fn fill(&mut self) -> Result<Catalog> {
        self.inner.finish_what_is_sealed();
        let Begun { mut catalog, held } = self.inner.between_transactions(|| self.inner.begin_backup())?;
        let mut deleted = BTreeMap::new();
        let mut note = |topic: &CatalogTopic, put: Result<()>| match put {
            Err(Error::TopicDeleted { .. }) => {
                deleted.insert(Arc::clone(&topic.name), topic.clone());
                Ok(())
            }
            put => put,
        };
        for (topic, number, captured) in held {
            self.inner.check_open()?;
            match captured {
                Ok(captured) => note(&topic, self.put(&topic, &captured))?,
                Err(error) => self.leave_out(&topic, number, error),
            }
        }
        for topic in deleted.values() {
            probe::reached("backup.topic_deleted");
            self.take_back(topic)?;
            catalog.begin_delete(&topic.name)?;
        }
        // Compacted for the first time since the catalog was taken down, and before the partition was.
        catalog.topics_mut().filter(|topic| self.sparse.contains(&topic.id)).for_each(|topic| topic.is_sparse = true);
        self.put_checkpoints()?;
        self.backup.partitions.sort_by(|one, other| one.partition.cmp(&other.partition));
        let Tally { linked, copied, copied_bytes } = self.tally;
        self.backup =
            Backup { linked_files: linked, copied_files: copied, copied_bytes, ..std::mem::take(&mut self.backup) };
        Ok(catalog)
    }

    fn put(&mut self, topic: &CatalogTopic, captured: &Captured) -> Result<()> {
        let core = captured.core();
        let dir = self.dir.join(core.id.to_string());
        let stored = captured.store(&dir, &mut self.tally)?;
        PartitionMetadata { topic: topic.id }.write(self.inner.context.disk(), &dir.join(METADATA_FILE))?;
        let Stored { start, end, first_base, clean } = stored;
        let (id, key) = (core.id.clone(), (topic.id, core.id.partition));
        let (cleaned, gaps) = (core.cleaned(), core.known_gaps());
        if cleaned > Offset::ZERO {
            compacted::store(self.inner.context.disk(), &dir, self.inner.log_id, cleaned)?;
        }
        if core.dense_from() > Offset::ZERO {
            self.sparse.insert(topic.id);
        }
        self.checkpoints.raise(key.0, key.1, Checkpoint { cleaned, gaps, ..Checkpoint::new(start, end) });
        clean.into_iter().for_each(|clean| drop(self.clean.insert(key, clean)));
        if first_base.is_some_and(|base| base < start) {
            self.late_starts.insert(id.clone(), start);
        }
        self.backup.partitions.push(BackedUp { partition: id, start, end });
        Ok(())
    }

    /// A damaged partition stays so in the backup. What was known of it counts, should its files be put there.
    fn leave_out(&mut self, topic: &CatalogTopic, number: u32, error: Arc<Error>) {
        probe::reached("backup.left_out");
        if let Some(known) = self.inner.checkpoints.lock().get(topic.id, number) {
            self.checkpoints.raise(topic.id, number, known);
        }
        let partition = TopicPartition::new(Arc::clone(&topic.name), number);
        self.backup.left_out.push(Damage { partition: Some(partition), error });
    }

    /// Removes what there is of a topic.
    fn take_back(&mut self, topic: &CatalogTopic) -> Result<()> {
        let disk = self.inner.context.disk();
        for number in 0..topic.config.partitions {
            let id = TopicPartition::new(Arc::clone(&topic.name), number);
            super::delete::remove_dir(disk, &self.dir.join(id.to_string()))?;
            self.late_starts.remove(&id);
        }
        self.checkpoints.retain(|id| id != topic.id);
        self.clean.retain(|(id, _), _| *id != topic.id);
        self.backup.partitions.retain(|held| held.partition.topic != topic.name);
        self.backup.left_out.retain(|damage| !damage.is_of(&topic.name));
        Ok(())
    }

    /// The files that an orderly close leaves, and the names of all partitions, durably.
    fn put_checkpoints(&self) -> Result<()> {
        let (disk, log) = (self.inner.context.disk(), self.inner.log_id);
        let ends = self.backup.partitions.iter().map(|held| (held.partition.clone(), held.end));
        let ends = OffsetCheckpoint(ends.collect());
        ends.write(disk, &self.dir.join(RECOVERY_POINTS))?;
        ends.write(disk, &self.dir.join(HIGH_WATERMARKS))?;
        OffsetCheckpoint(self.late_starts.clone()).write(disk, &self.dir.join(LOG_STARTS))?;
        self.checkpoints.store(disk, &self.dir.join(CHECKPOINTS_FILE), log)?;
        clean::store(disk, &self.dir.join(CLEAN_FILE), log, &self.clean)
    }
}
