//! What is to be judged, in order.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::options::VerifyOptions;
use super::report::VerifyPosition;
use crate::disk::checkpoint::{OffsetCheckpoint, read_limited};
use crate::error::{Error, Result};
use crate::log::Inner;
use crate::log::broker;
use crate::log::checkpoints::Checkpoint;
use crate::log::clean::{self, Clean};
use crate::log::open::{CATALOG_FILE, CLEAN_FILE, HIGH_WATERMARKS, LOG_STARTS, RECOVERY_POINTS};
use crate::log::topic::{Slot, TopicState};
use crate::observe::Quiet;
use crate::partition::verify::{Derived, Finding, FindingKind, Known, Target};
use crate::types::{Offset, TopicId, TopicPartition};

/// All units of work, in the order in which a report has them.
pub(super) struct Plan {
    pub(super) targets: Vec<Planned>,
    pub(super) units: Vec<Unit>,
    pub(super) total_bytes: u64,
}

/// A partition, and why it could not be opened, if it could not.
pub(super) struct Planned {
    pub(super) target: Target,
    pub(super) refused: Option<Finding>,
}

/// What one thread does at a time.
pub(super) enum Unit {
    /// The files of the whole log.
    Log,
    /// What a partition has beside its segments.
    Directory(usize),
    /// One segment of a partition.
    Segment(usize, usize),
}

impl Plan {
    pub(super) fn new(inner: &Inner, options: &VerifyOptions<'_>) -> Result<Self> {
        let beside = Beside::read(inner);
        let mut targets = Vec::new();
        let topics: Vec<Arc<TopicState>> = inner.topics.read().values().map(Arc::clone).collect();
        if let Some(TopicPartition { topic, partition }) = &options.partition {
            let slots = inner.find(topic)?.partitions.read().len() as u32;
            if *partition >= slots {
                return Err(Error::PartitionNotFound {
                    topic: (**topic).into(),
                    partition: *partition,
                    count: slots,
                });
            }
        }
        for topic in topics {
            let slots = topic.partitions.read().clone();
            for (number, slot) in slots.iter().enumerate() {
                let id = TopicPartition::new(Arc::clone(&topic.name), number as u32);
                let is_wanted = options.partition.as_ref().is_none_or(|wanted| *wanted == id);
                let is_passed =
                    options.from.as_ref().and_then(|from| from.partition.as_ref()).is_some_and(|from| id < *from);
                if is_wanted && !is_passed {
                    targets.extend(planned(inner, &topic, id, slot, &beside));
                }
            }
        }
        Ok(Self::of(targets, options))
    }

    fn of(targets: Vec<Planned>, options: &VerifyOptions<'_>) -> Self {
        let from = options.from.as_ref();
        let is_whole = options.partition.is_none() && from.is_none_or(|from| from.partition.is_none());
        let mut units: Vec<Unit> = is_whole.then_some(Unit::Log).into_iter().collect();
        let mut total_bytes = 0;
        for (at, Planned { target, .. }) in targets.iter().enumerate() {
            let base = from.filter(|from| from.partition.as_ref() == Some(&target.id)).and_then(|from| from.base);
            if base.is_none() {
                units.push(Unit::Directory(at));
            }
            let base = base.unwrap_or_default();
            let segments = target.extents.iter().enumerate().filter(|(_, extent)| extent.base >= base);
            units.extend(segments.map(|(segment, _)| Unit::Segment(at, segment)));
            total_bytes += target.len_from(base);
        }
        Self { targets, units, total_bytes }
    }

    /// Where a later call begins with this unit.
    pub(super) fn position(&self, unit: &Unit) -> VerifyPosition {
        let (target, segment) = match unit {
            Unit::Log => return VerifyPosition { partition: None, base: None },
            Unit::Directory(target) => (target, None),
            Unit::Segment(target, segment) => (target, Some(segment)),
        };
        let target = &self.targets[*target].target;
        let base = segment.map(|segment| target.extents[*segment].base);
        VerifyPosition { partition: Some(target.id.clone()), base }
    }
}

/// What files of the whole log say of partitions.
struct Beside {
    /// Whether a log of ours wrote the directory, or a broker.
    is_ours: bool,
    /// The topics in which offsets may be missing, as the catalog says.
    sparse: BTreeSet<TopicId>,
    clean: Option<Clean>,
    /// Whether the broker was stopped in order.
    is_closed: bool,
    starts: OffsetCheckpoint,
    written: [OffsetCheckpoint; 2],
}

impl Beside {
    fn read(inner: &Inner) -> Self {
        let disk = inner.context.disk();
        let is_there = |name: &str| disk.metadata(&inner.dir.join(name)).is_ok();
        let is_ours = is_ours(inner);
        let catalog = Quiet::lock(&inner.catalog);
        let sparse = catalog.topics().iter().filter(|topic| topic.is_sparse).map(|topic| topic.id).collect();
        drop(catalog);
        let mark = inner.dir.join(CLEAN_FILE);
        let clean = if inner.context.clean_mark.is_there() { clean::load(disk, &mark, inner.log_id) } else { None };
        // What cannot be read is found where those files are judged.
        let checkpoint = |name: &str| {
            let text = read_limited(disk, &inner.dir.join(name)).ok().flatten().filter(|_| !is_ours);
            text.and_then(|text| OffsetCheckpoint::parse(&text).ok()).unwrap_or_default()
        };
        Self {
            is_ours,
            sparse,
            clean,
            is_closed: is_there(CLEAN_SHUTDOWN),
            starts: checkpoint(LOG_STARTS),
            written: [checkpoint(RECOVERY_POINTS), checkpoint(HIGH_WATERMARKS)],
        }
    }

    /// Whether each offset of a topic must be there. Of what a broker wrote nobody knows.
    fn is_dense(&self, topic: &TopicState) -> bool {
        self.is_ours && !self.sparse.contains(&topic.id)
    }

    fn derived(&self, topic: &TopicState, partition: u32) -> Derived {
        match self.is_ours {
            true => {
                let clean = self.clean.as_ref().and_then(|clean| clean.get(&(topic.id, partition)));
                Derived::Vouched { clean: clean.cloned() }
            }
            false => Derived::All { is_closed: self.is_closed },
        }
    }

    /// Up to where it was written, as a broker wrote down.
    fn written(&self, id: &TopicPartition) -> Offset {
        self.written.iter().filter_map(|offsets| offsets.0.get(id)).max().copied().unwrap_or_default()
    }
}

/// Whether a log of ours wrote the directory. If nothing was changed when it was opened, that may have been a broker, or
/// nobody as yet: the same decides it as did then.
pub(super) fn is_ours(inner: &Inner) -> bool {
    let disk = inner.context.disk();
    if !inner.context.read_only || disk.metadata(&inner.dir.join(CATALOG_FILE)).is_ok() {
        return true;
    }
    let has_partitions = !inner.topics.read().is_empty();
    has_partitions && disk.list(&inner.dir).is_ok_and(|entries| !broker::is_broker_dir(disk, &inner.dir, &entries))
}

fn planned(inner: &Inner, topic: &TopicState, id: TopicPartition, slot: &Slot, beside: &Beside) -> Option<Planned> {
    let derived = beside.derived(topic, id.partition);
    let known = inner.checkpoints.lock().get(topic.id, id.partition);
    let error = match slot {
        Slot::Open(core) => {
            let _schedule = Quiet::lock(&inner.schedule);
            let written = beside.written(&id).max(known.map_or(Offset::ZERO, |known| known.synced));
            return Some(Planned { target: Target::of(core, written, derived), refused: None });
        }
        Slot::Damaged(error) => error,
    };
    let dir = inner.partition_dir(&id);
    if inner.context.disk().metadata(&dir).is_err() && !matches!(**error, Error::Corrupt(_) | Error::Io { .. }) {
        // It is another's, and not kept here.
        return None;
    }
    let mut refused = Finding::of_error(FindingKind::NotOpened, &dir, error);
    refused.partition = Some(id.clone());
    let clean = match &derived {
        Derived::Vouched { clean } => clean.as_ref().map(|clean| Checkpoint::new(clean.start, clean.end)),
        Derived::All { .. } => None,
    };
    let start = beside.starts.0.get(&id).copied();
    let known = [known, clean, start.map(|start| Checkpoint::new(start, start))].into_iter().flatten();
    let (start, written) = known.fold((Offset::ZERO, beside.written(&id)), |(start, written), known| {
        (start.max(known.start), written.max(known.synced))
    });
    let known = Known { id, topic: topic.id, dir, start, written, dense: beside.is_dense(topic), derived };
    let _schedule = Quiet::lock(&inner.schedule);
    Some(Planned { target: Target::in_directory(known, &inner.context.files), refused: Some(refused) })
}

/// Kafka's mark of an orderly stop.
const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";
