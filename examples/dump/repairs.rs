//! What was found missing or wrong, and built again in memory, where nobody but an observer hears of it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use chiplog::{Observer, TopicPartition};

/// The files, by partition, that nobody was told of yet.
#[derive(Debug, Default)]
pub(crate) struct Repairs(Mutex<Vec<(TopicPartition, PathBuf)>>);

impl Repairs {
    /// Takes those of the partitions that are wanted.
    pub(crate) fn take(&self, is_wanted: impl Fn(&TopicPartition) -> bool) -> Vec<PathBuf> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (taken, left) = all.drain(..).partition(|(of, _)| is_wanted(of));
        *all = left;
        taken.into_iter().map(|(_, path)| path).collect()
    }

    fn add(&self, of: &TopicPartition, path: &Path) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((of.clone(), path.to_owned()));
    }
}

impl Observer for Repairs {
    fn index_rebuilt(&self, partition: &TopicPartition, path: &Path) {
        self.add(partition, path);
    }

    fn state_rebuilt(&self, partition: &TopicPartition, path: &Path) {
        self.add(partition, path);
    }
}
