//! Deleting a topic, which a crash may interrupt anywhere: the catalog says so first, and opening goes on from there.
//!
//! ```text
//! fence the handles -> catalog: deleting (from here on it is gone) -> remove what groups committed for it
//!     -> rename the directories -> remove them -> catalog: forget it
//! ```

use std::path::Path;

use super::Inner;
use super::catalog::{CatalogTopic, TopicState};
use super::names::deleted_dir;
use super::open::CATALOG_FILE;
use crate::disk::Disk;
use crate::disk::checkpoint::PartitionMetadata;
use crate::error::{Error, Result};
use crate::probe;
use crate::types::TopicPartition;

/// Removes what is left of topics whose deletion began. Nothing in a log that is open read-only.
pub(super) fn finish_deletes(inner: &Inner) -> Result<()> {
    if inner.context.read_only {
        return Ok(());
    }
    let mut catalog = inner.catalog.lock();
    let deleting = |topic: &&CatalogTopic| topic.state == TopicState::Deleting;
    let topics: Vec<CatalogTopic> = catalog.topics().iter().filter(deleting).cloned().collect();
    if topics.is_empty() {
        return Ok(());
    }
    probe::reached("delete.finished");
    inner.context.before_change()?;
    let mut without = (**catalog).clone();
    for topic in &topics {
        // Before the catalog forgets it: a topic of this name that comes later must not inherit them.
        inner.forget_topic_offsets(&topic.name)?;
        remove_directories(inner, topic)?;
        without.finish_delete(topic.id);
    }
    catalog.replace(inner.context.disk(), &inner.dir.join(CATALOG_FILE), without)
}

fn remove_directories(inner: &Inner, topic: &CatalogTopic) -> Result<()> {
    let disk = inner.context.disk();
    for number in 0..topic.config.partitions {
        let id = TopicPartition::new(std::sync::Arc::clone(&topic.name), number);
        let (dir, renamed) = (inner.partition_dir(&id), inner.dir.join(deleted_dir(&id, topic.id)));
        // A later topic of this name has directories of the same names, and another id in them.
        let found = match PartitionMetadata::read(disk, &dir.join("partition.metadata")) {
            // It is ours for all we know, and must not be forgotten.
            Err(error @ Error::Io { .. }) => return Err(error),
            found => found.ok().flatten(),
        };
        if found.is_some_and(|found| found.topic == topic.id) {
            disk.rename(&dir, &renamed).map_err(Error::io("rename", &*dir))?;
        }
    }
    disk.sync_dir(&inner.dir).map_err(Error::io("sync directory", &*inner.dir))?;
    for number in 0..topic.config.partitions {
        let id = TopicPartition::new(std::sync::Arc::clone(&topic.name), number);
        remove_dir(disk, &inner.dir.join(deleted_dir(&id, topic.id)))?;
    }
    disk.sync_dir(&inner.dir).map_err(Error::io("sync directory", &*inner.dir))
}

fn remove_dir(disk: &dyn Disk, dir: &Path) -> Result<()> {
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
