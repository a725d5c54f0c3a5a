//! Deleting a topic, which a crash or an error may interrupt anywhere: the catalog says so first, and what is left is
//! removed by the next call, the next maintenance, or the next open.
//!
//! ```text
//! catalog: deleting (from here on it is gone) -> hide what groups committed -> fence the handles
//!     -> rename the directories -> remove them -> forget what groups committed -> catalog: forget it -> tell again
//! ```
//!
//! Until the end of it no topic of the same name can be created, and what groups committed for it is not told. The
//! tombstones of that come late, because they need space, and what is removed gives some: on a full disk only the first
//! step needs any.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::catalog::{Catalog, CatalogTopic, Stored, TopicState};
use super::names::deleted_dir;
use super::open::CATALOG_FILE;
use super::own::is_own;
use super::{FirstError, Inner};
use crate::disk::Disk;
use crate::disk::checkpoint::PartitionMetadata;
use crate::error::{Error, Result};
use crate::observe::Quiet;
use crate::partition::core::Halt;
use crate::probe;
use crate::types::TopicPartition;

impl Inner {
    pub(super) fn delete_topic(&self, name: &str) -> Result<()> {
        if is_own(name) {
            return Err(Error::InternalTopic { topic: name.into() });
        }
        self.begin_delete(name)?;
        finish_deletes(self)
    }

    fn begin_delete(&self, name: &str) -> Result<()> {
        let mut catalog = self.lock_catalog()?;
        let mut with = (**catalog).clone();
        match with.begin_delete(name) {
            // A call before this one began, and did not come to the end.
            Err(Error::TopicNotFound { .. }) if with.is_deleting(name) => {
                probe::reached("delete.resumed");
                return self.context.before_change();
            }
            begun => begun.map(drop)?,
        }
        self.context.before_change()?;
        let stored = self.replace_catalog(&mut catalog, with);
        match &stored {
            Ok(()) => {
                self.hide_topic_offsets(name);
                let gone = self.topics.write().remove(name);
                self.topics_version.fetch_add(1, Ordering::AcqRel);
                if let Some(topic) = gone {
                    topic.fence(&Halt::Deleted);
                    self.forget_replicas(topic.id);
                }
                self.damaged.write().retain(|damage| !damage.is_of(name));
            }
            Err(_) if catalog.is_unchanged(self.context.disk(), &self.dir.join(CATALOG_FILE)) => {}
            Err(_) => {
                // A crash may find the topic deleted: nothing that is appended from now on could be promised.
                probe::reached("delete.unknown");
                let reason = "a call to delete its topic failed half way: repeat it, or reopen the log";
                self.find(name)?.fence(&Halt::Poisoned(reason.into()));
            }
        }
        stored
    }
}

/// At open: of topics whose deletion began before, nothing is told.
pub(super) fn hide_deleted(inner: &Inner) {
    let catalog = inner.catalog.lock();
    let deleting = catalog.topics().iter().filter(|topic| topic.state == TopicState::Deleting);
    for topic in deleting.filter(|topic| catalog.find(&topic.name).is_none()) {
        probe::reached("delete.hidden");
        inner.hide_topic_offsets(&topic.name);
    }
}

/// Removes what is left of topics whose deletion began.
pub(super) fn finish_deletes(inner: &Inner) -> Result<()> {
    // Not beside maintenance, which is at work on files by their names.
    let _schedule = Quiet::lock(&inner.schedule);
    finish(inner, &mut *inner.lock_catalog()?)
}

/// As [`finish_deletes`], for who is maintenance. A topic that cannot be removed does not keep others.
pub(super) fn finish(inner: &Inner, catalog: &mut Stored) -> Result<()> {
    let mut without = (**catalog).clone();
    let (mut errors, mut gone) = (FirstError::default(), Vec::new());
    for topic in catalog.topics().iter().filter(|topic| topic.state == TopicState::Deleting) {
        let removed = inner.context.before_change().and_then(|()| remove(inner, catalog, topic));
        match removed {
            Ok(()) => {
                inner.context.notes.forget(topic.id);
                inner.context.pool.release(topic.id);
                without.finish_delete(topic.id);
                gone.push(Arc::clone(&topic.name));
            }
            Err(error) => errors.keep(Err(error)),
        }
    }
    if without != **catalog {
        probe::reached("delete.finished");
        inner.replace_catalog(catalog, without)?;
    }
    // Not before: what is committed until then goes with the rest when this is tried again.
    for name in gone.iter().filter(|name| !catalog.is_deleting(name)) {
        inner.show_topic_offsets(name);
    }
    errors.into_result()
}

fn remove(inner: &Inner, catalog: &Catalog, topic: &CatalogTopic) -> Result<()> {
    let disk = inner.context.disk();
    for number in 0..topic.config.partitions {
        let id = TopicPartition::new(Arc::clone(&topic.name), number);
        let (dir, renamed) = (inner.partition_dir(&id), inner.dir.join(deleted_dir(&id, topic.id)));
        if is_of(disk, &dir, catalog, topic)? {
            disk.rename(&dir, &renamed).map_err(Error::io("rename", &*dir))?;
        }
    }
    disk.sync_dir(&inner.dir).map_err(Error::io("sync directory", &*inner.dir))?;
    for number in 0..topic.config.partitions {
        let id = TopicPartition::new(Arc::clone(&topic.name), number);
        remove_dir(disk, &inner.dir.join(deleted_dir(&id, topic.id)))?;
    }
    disk.sync_dir(&inner.dir).map_err(Error::io("sync directory", &*inner.dir))?;
    inner.forget_queues(topic.id, None)?;
    if catalog.find(&topic.name).is_some() || probe::planted("log.offsets_kept") {
        return Ok(());
    }
    inner.forget_deleted(&topic.name)
}

/// Whether the directory is there and that of this deleted topic. One that does not say whose it is, because it is
/// damaged, has the name of the topic, and is, unless another topic has that name now.
fn is_of(disk: &dyn Disk, dir: &Path, catalog: &Catalog, topic: &CatalogTopic) -> Result<bool> {
    match disk.metadata(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        found => found.map_err(Error::io("describe", dir))?,
    };
    match PartitionMetadata::read(disk, &dir.join("partition.metadata")) {
        Ok(Some(found)) => Ok(found.topic == topic.id),
        Ok(None) | Err(Error::Corrupt(_)) => Ok(catalog.find(&topic.name).is_none()),
        Err(error) => Err(error),
    }
}

/// Removes a directory with what is in it.
pub(super) fn remove_dir(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let entries = match disk.list(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        listed => listed.map_err(Error::io("list", dir))?,
    };
    for entry in entries {
        let path = dir.join(&entry.name);
        if entry.is_dir {
            remove_dir(disk, &path)?;
        } else {
            disk.remove_file(&path).map_err(Error::io("remove", path))?;
        }
    }
    disk.remove_dir(dir).map_err(Error::io("remove directory", dir))
}
