//! Opening a log: the directory, the lock, the catalog, then each partition.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::background::Background as Thread;
use super::broker::{self, Broker};
use super::builder::{Background, LogBuilder, Staging};
use super::catalog::{Catalog, CatalogTopic, Stored};
use super::checkpoints::{Checkpoint, Checkpoints};
use super::clean::{self, Clean};
use super::clients::Clients;
use super::coordinate::{Coordinators, offsets_config};
use super::maintain::{Schedule, Unsynced};
use super::names::{DirName, classify_dir};
use super::partitioner::Sticky;
use super::producer_ids::ProducerIds;
use super::queues::{Queues, queues_config};
use super::replicate::{NODE_FILE, Replication};
use super::text::LogId;
use super::topic::{Damage, Slot, TopicState};
use super::transactions::{Transactions, transactions_config};
use super::{Inner, Log, Opened, adopt, compacted, delete};
use crate::config::TopicConfig;
use crate::disk::checkpoint::PartitionMetadata;
use crate::disk::replace::sync_parent;
use crate::disk::{DirEntry, Disk, DiskLock, Lock, Volume, read_exact_at, write_all_at};
use crate::error::{Error, ErrorKind, Result};
use crate::observe::tell;
use crate::partition::context::{CleanMark, Context, Doorbell, RecoveryMode, Space};
use crate::partition::core::Core;
use crate::partition::hints::{CleanPartition, Hints};
use crate::partition::notes::Notes;
use crate::partition::recover::{finish_ours, forget_frames};
use crate::partition::salvage::Damaged;
use crate::probe;
use crate::segment::files::Files;
use crate::segment::pool::{self, Pool};
use crate::types::{Offset, TopicId, TopicPartition};

pub(super) const LOCK_FILE: &str = "LOCK";
pub(super) const CATALOG_FILE: &str = "catalog";
pub(super) const CLEAN_FILE: &str = "clean";
pub(super) const NOTES_FILE: &str = "notes";
pub(super) const STAGING_FILE: &str = "staging";
pub(super) const CHECKPOINTS_FILE: &str = "checkpoints";
/// Kafka's own, written at an orderly close.
pub(super) const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";
pub(super) const LOG_STARTS: &str = "log-start-offset-checkpoint";
pub(super) const HIGH_WATERMARKS: &str = "replication-offset-checkpoint";

/// Opens the log that `settings` describe.
pub(super) fn open(settings: LogBuilder) -> Result<Log> {
    let (disk, dir) = (&*settings.disk, &*settings.dir);
    if !settings.read_only {
        make_dir(disk, dir)?;
    }
    let is_brokers = is_of_broker(disk, dir)?;
    if is_brokers && settings.adoption.is_none() && !settings.read_only {
        return Err(Error::NotAdopted { path: dir.to_owned() });
    }
    let locks = take_locks(&settings, is_brokers)?;
    if !settings.read_only {
        // What the process before renamed may be in memory only. It must not count before it is on the disk.
        disk.sync_dir(dir).map_err(Error::io("sync directory", dir))?;
    }
    // Once more, now that nobody else can adopt it.
    if let Some(adoption) = settings.adoption.as_ref().filter(|_| !settings.read_only)
        && is_of_broker(disk, dir)?
    {
        adopt::adopt(&settings, adoption)?;
    }
    if settings.replication.is_none() && !settings.read_only {
        refuse_node(&settings)?;
    }
    let found = Found::load(&settings, settings.read_only)?;
    let is_sparse = found.catalog.topics().iter().any(|topic| topic.is_sparse);
    if settings.replication.is_some() && !settings.read_only && is_sparse && refuse_node(&settings).is_ok() {
        // A follower does not know where compaction has left gaps.
        return Err(Error::Unsupported { what: "to replicate a log that was compacted before" });
    }
    if !settings.read_only && broker::has_clean_mark(disk, dir) {
        // A broker came and went. Who opens the directory next must not take its word for what is written from here on.
        broker::remove_clean_mark(disk, dir)?;
    }
    sign_lock(locks.first().map(|lock| &**lock), &settings, found.catalog.log_id());
    let (mut inner, _) = build(&settings, found, settings.read_only)?;
    *inner.locks.lock() = locks;
    let is_alone = settings.replication.is_none();
    // Of a log that is replicated, groups are loaded when this node leads, and there is nothing else.
    if is_alone || settings.read_only {
        inner.load_transactions();
        inner.load_groups();
        inner.load_queues();
    }
    // Before the first change.
    if let Some(damage) = inner.damaged.read().first().filter(|_| settings.strict) {
        return Err(super::topic::again(&damage.error));
    }
    if settings.recovery == RecoveryMode::Salvage && !settings.read_only {
        // Before anything takes the place of what was given up: a marker that is not synced must not count as synced.
        inner.lower_checkpoints()?;
    }
    if let Some(replication) = settings.replication.as_ref().filter(|_| !settings.read_only) {
        inner.replication = Some(Replication::begin(&inner, replication)?);
    }
    if !settings.read_only && is_alone {
        inner.revoke_lost()?;
        match inner.settle_open().and_then(|()| inner.abort_open()) {
            // A full log can be read. Maintenance goes on with it.
            Err(error) if error.kind() == ErrorKind::Full => {}
            aborted => aborted?,
        }
        // Once transactions have ended: none is to find the place of what it lost taken, nor its offset overtaken by an older
        // one. Also beside the mark of an orderly close: a partition that could not be closed in order is not in it.
        inner.lower_offsets()?;
        inner.lower_queues()?;
        inner.seat_prepared()?;
        inner.leave_for_the_dead();
    }
    delete::hide_deleted(&inner);
    if !settings.read_only {
        // What cannot be removed now (the disk may be full) is in nobody's way: maintenance tries again.
        let _ = delete::finish_deletes(&inner);
    }
    let inner = Arc::new(inner);
    let is_threaded = settings.background == Background::Thread && !settings.read_only;
    let thread = if is_threaded { Some(Thread::start(&inner)?) } else { None };
    Ok(Log { opened: Arc::new(Opened { inner, thread: Mutex::new(thread) }) })
}

/// A broker's directory, looked through and not changed. The caller holds the locks.
pub(super) fn look(settings: &LogBuilder) -> Result<(Inner, Option<Broker>)> {
    let found = Found::load(settings, true)?;
    build(settings, found, true)
}

/// Which topics there are, and who says so.
struct Found {
    catalog: Catalog,
    /// What a broker left, if nobody of ours wrote since.
    broker: Option<Broker>,
}

/// The log with all its partitions open.
fn build(settings: &LogBuilder, mut found: Found, read_only: bool) -> Result<(Inner, Option<Broker>)> {
    let (disk, dir) = (&*settings.disk, settings.dir.clone());
    let volume = disk.volume(&dir).map_err(Error::io("describe", &*dir))?;
    let flaws = found.broker.as_mut().map(|broker| std::mem::take(&mut broker.flaws)).unwrap_or_default();
    let (log_id, catalog) = (found.catalog.log_id(), found.catalog);
    let checkpoints = Checkpoints::load(disk, &dir.join(CHECKPOINTS_FILE), log_id)?;
    let known = Known { clean: clean::load(disk, &dir.join(CLEAN_FILE), log_id), broker: found.broker };
    let has_mark = known.clean.is_some() || known.broker.is_some();
    let (context, lost) = context(settings, &dir, log_id, &volume, has_mark, read_only)?;
    let inner = Inner {
        dir,
        log_id,
        context: Arc::new(context),
        locks: Mutex::new(Vec::new()),
        topics: RwLock::new(BTreeMap::new()),
        topics_version: std::sync::atomic::AtomicU64::new(0),
        damaged: RwLock::new(Vec::new()),
        coordinators: Coordinators::default(),
        clients: Clients::default(),
        transactions: Transactions::default(),
        queues: Queues::default(),
        producer_ids: Mutex::new(ProducerIds::default()),
        catalog: Mutex::new(Stored::new(catalog)),
        checkpoints: Mutex::new(checkpoints),
        schedule: Mutex::new(Schedule::new(settings.clock.monotonic())),
        unsynced: Mutex::new(Unsynced::default()),
        default_config: settings.default_config,
        group_config: settings.groups,
        offsets_config: settings.offsets_topic.unwrap_or_else(|| offsets_config(&settings.groups)),
        transactions_config: settings.transactions_topic.unwrap_or_else(transactions_config),
        queues_config: settings.queues_topic.unwrap_or_else(queues_config),
        retention_interval: settings.retention_interval,
        checkpoint_interval: settings.checkpoint_interval,
        compaction: settings.compaction,
        replication: None,
        heard: std::sync::atomic::AtomicU64::new(0),
        closed: std::sync::atomic::AtomicBool::new(false),
    };
    inner.open_topics(&known)?;
    inner.note_lost(lost.into_iter().chain(flaws));
    Ok((inner, known.broker))
}

/// Refuses to write to the directory of a node as if it had no others: they would not know.
fn refuse_node(settings: &LogBuilder) -> Result<()> {
    let path = settings.dir.join(NODE_FILE);
    match settings.disk.metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("describe", &path)(error)),
        Ok(_) => Err(Error::InvalidSetting {
            key: "node".into(),
            value: "none".into(),
            allowed: "this directory is that of a node of several: open it replicated, or read-only".into(),
        }),
    }
}

/// Whether the directory is one that a broker wrote, and no log of ours. Nothing is made in it to find out.
fn is_of_broker(disk: &dyn Disk, dir: &Path) -> Result<bool> {
    if disk.metadata(&dir.join(CATALOG_FILE)).is_ok() {
        return Ok(false);
    }
    let entries = disk.list(dir).map_err(Error::io("list", dir))?;
    Ok(entries.iter().any(is_partition) && broker::is_broker_dir(disk, dir, &entries))
}

fn is_partition(entry: &DirEntry) -> bool {
    entry.is_dir && matches!(classify_dir(&entry.name), DirName::Partition(_))
}

/// What the directory says about partitions, beside their own.
struct Known {
    clean: Option<Clean>,
    /// What a broker left, if nobody of ours wrote since.
    broker: Option<Broker>,
}

impl Known {
    /// Whether the partition is one that another broker of the cluster has.
    fn is_elsewhere(&self, partition: &TopicPartition) -> bool {
        self.broker.as_ref().is_some_and(|broker| !broker.holds(partition))
    }

    fn clean_entry(&self, topic: TopicId, partition: u32) -> Option<CleanPartition> {
        self.clean.as_ref()?.get(&(topic, partition)).cloned()
    }
}

/// Creates the directory and those above it, durably.
pub(super) fn make_dir(disk: &dyn Disk, dir: &Path) -> Result<()> {
    if disk.metadata(dir).is_ok_and(|found| found.is_dir) {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_dir(disk, parent)?;
    }
    match disk.create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(Error::io("create directory", dir)(error)),
        _ => sync_parent(disk, dir),
    }
}

/// Takes the lock of the directory, and of one that a broker wrote Kafka's too.
fn take_locks(settings: &LogBuilder, is_brokers: bool) -> Result<Vec<Box<dyn DiskLock>>> {
    let (disk, dir) = (&*settings.disk, &*settings.dir);
    let ours = take_lock(disk, dir, settings.read_only)?;
    let kafkas = match settings.read_only {
        true if is_brokers => broker::take_lock(disk, dir, Lock::Shared)?,
        true => None,
        // A broker may have been started on what was adopted from it.
        false if is_brokers || broker::has_lock(disk, dir) => broker::take_lock(disk, dir, Lock::Exclusive)?,
        false => None,
    };
    Ok(ours.into_iter().chain(kafkas).collect())
}

pub(super) fn take_lock(disk: &dyn Disk, dir: &Path, read_only: bool) -> Result<Option<Box<dyn DiskLock>>> {
    let path = dir.join(LOCK_FILE);
    if read_only && disk.metadata(&path).is_err() {
        // Nobody can hold a lock that was never made, and a read-only open makes nothing.
        return Ok(None);
    }
    let how = if read_only { Lock::Shared } else { Lock::Exclusive };
    match disk.lock(&path, how).map_err(Error::io("lock", &*path))? {
        Some(lock) => Ok(Some(lock)),
        None => Err(Error::Locked { holder: holder(disk, &path), path }),
    }
}

/// Who holds the lock, as they signed it.
fn holder(disk: &dyn Disk, path: &Path) -> Box<str> {
    // Who only reads does not sign: the line is that of an earlier writer then.
    if matches!(disk.lock(path, Lock::Shared), Ok(Some(_))) {
        return "a process that only reads".into();
    }
    let mut text = [0; 64];
    let file = disk.open(path, crate::disk::Open::Read);
    let len = file.and_then(|file| file.read_at(&mut text, 0)).unwrap_or(0);
    let line = text[..len].split(|byte| *byte == b'\n').next().unwrap_or_default();
    match std::str::from_utf8(line) {
        Ok(signed) if !signed.is_empty() => signed.into(),
        _ => "another process".into(),
    }
}

/// Writes down who holds the lock, for the message that the next one gets. Not worth failing for.
fn sign_lock(lock: Option<&dyn DiskLock>, settings: &LogBuilder, log: LogId) {
    if let Some(lock) = lock.filter(|_| !settings.read_only) {
        let line = format!("process {}\nlog {log}\n", settings.process);
        let mut signed = [0; 64];
        let is_same = read_exact_at(lock.file(), &mut signed[..line.len().min(64)], 0).is_ok()
            && signed.starts_with(line.as_bytes());
        if !is_same {
            let _ = lock.file().set_len(0).and_then(|()| write_all_at(lock.file(), line.as_bytes(), 0));
        }
    }
}

impl Found {
    fn load(settings: &LogBuilder, read_only: bool) -> Result<Self> {
        let (disk, dir) = (&*settings.disk, &*settings.dir);
        let path = dir.join(CATALOG_FILE);
        if let Some(catalog) = Catalog::load(disk, &path)? {
            return Ok(Self { catalog, broker: None });
        }
        let entries = disk.list(dir).map_err(Error::io("list", dir))?;
        if let Some(orphan) = entries.iter().find(|entry| is_partition(entry)) {
            if read_only && broker::is_broker_dir(disk, dir, &entries) {
                let offsets = settings.offsets_topic.unwrap_or_else(|| offsets_config(&settings.groups));
                let transactions = settings.transactions_topic.unwrap_or_else(transactions_config);
                let default = &settings.default_config;
                let configs = broker::Settings { default, offsets: &offsets, transactions: &transactions };
                let broker = Broker::read(disk, dir, &entries, &configs, &*settings.entropy)?;
                return Ok(Self { catalog: broker.catalog.clone(), broker: Some(broker) });
            }
            // Somebody's data: a new catalog would not know it.
            return Err(Error::corrupt(&path, 0, format!("there is no catalog, but a partition {}", orphan.name)));
        }
        let random = || u128::from(settings.entropy.random());
        let catalog = Catalog::new(LogId(random() << 64 | random()));
        if !read_only {
            // The directory may be the work of a process that was killed before it made its name durable.
            sync_parent(disk, dir)?;
            for above in dir.ancestors().skip(2).filter(|above| !above.as_os_str().is_empty()) {
                // It may not be ours to read.
                let _ = disk.sync_dir(above);
            }
            catalog.store(disk, &path)?;
            probe::reached("open.new_log");
        }
        Ok(Self { catalog, broker: None })
    }
}

/// The surroundings of all partitions, and what is wrong with what a killed process had staged.
fn context(
    settings: &LogBuilder,
    dir: &Path,
    log: LogId,
    volume: &Volume,
    has_mark: bool,
    read_only: bool,
) -> Result<(Context, Option<Error>)> {
    let (disk, observer) = (Arc::clone(&settings.disk), Arc::clone(&settings.observer));
    let files = Files::new(disk, observer, settings.read_path, settings.max_maps);
    let was_closed = has_mark;
    // A mark that was not believed, or could not be read, is still to be erased before the first change.
    let is_missing = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
    let has_mark = has_mark || !settings.disk.metadata(&dir.join(CLEAN_FILE)).is_err_and(is_missing);
    let notes = Notes::load(&*settings.disk, dir.join(NOTES_FILE), log.0.to_be_bytes());
    let (pool, lost) = pool(settings, dir, log, volume, &notes, was_closed)?;
    let context = Context {
        files: Arc::new(files),
        clock: Arc::clone(&settings.clock),
        entropy: Arc::clone(&settings.entropy),
        observer: Arc::clone(&settings.observer),
        boot: volume.boot,
        notes,
        pool,
        linger: settings.linger,
        producer_expiry: settings.producer_expiry,
        recovery: settings.recovery,
        read_only,
        is_replicated: settings.replication.is_some(),
        clean_mark: CleanMark::new(dir.join(CLEAN_FILE), has_mark),
        space: Space::new(dir.to_owned(), settings.min_free_bytes),
        doorbell: Doorbell::default(),
        closing: std::sync::atomic::AtomicBool::new(false),
    };
    Ok((context, lost))
}

/// The slots that small appends are staged in, with what a killed process left in them.
fn pool(
    settings: &LogBuilder,
    dir: &Path,
    log: LogId,
    volume: &Volume,
    notes: &Notes,
    was_closed: bool,
) -> Result<(Pool, Option<Error>)> {
    let origin = pool::Origin {
        log: log.0.to_be_bytes(),
        boot: volume.boot,
        layout: settings.layout,
        refused: match settings.staging {
            Staging::Off => Some("it was switched off"),
            Staging::On => volume.no_staging,
        },
        read_only: settings.read_only,
    };
    let path = dir.join(STAGING_FILE);
    if was_closed {
        // Nothing was staged any more.
        return Ok((Pool::new(path, origin), None));
    }
    Pool::replay(&*settings.disk, path, origin, notes.named_arena(&*settings.disk, volume.boot))
}

impl Inner {
    fn open_topics(&self, known: &Known) -> Result<()> {
        if self.context.recovery == RecoveryMode::Salvage && !self.context.read_only {
            self.cut_out_damage()?;
        }
        let topics: Vec<CatalogTopic> = self.catalog.lock().live().cloned().collect();
        for topic in topics {
            let state = self.open_topic(&topic, known);
            self.topics.write().insert(Arc::clone(&topic.name), Arc::new(state));
        }
        Ok(())
    }

    /// Cuts damage out of the middle of partitions. Their offsets have gaps then, which the catalog says first.
    fn cut_out_damage(&self) -> Result<()> {
        let mut catalog = self.catalog.lock();
        let topics: Vec<CatalogTopic> = catalog.live().cloned().collect();
        for topic in topics {
            for number in 0..topic.config.partitions {
                let id = TopicPartition::new(Arc::clone(&topic.name), number);
                let dir = self.partition_dir(&id);
                let found = finish_ours(&self.context, &dir)
                    .and_then(|_| forget_frames(&self.context, &dir))
                    .and_then(|()| Damaged::find(self.context.disk(), &dir, !topic.is_sparse));
                let found = match found {
                    Ok(found) => found,
                    // That it is missing is told when it is opened.
                    Err(Error::Io { ref source, .. }) if source.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => {
                        // It may open all the same, without what could not be read.
                        self.note_damage(&id, error);
                        continue;
                    }
                };
                if found.is_none() {
                    continue;
                }
                probe::reached("open.cut_out_damage");
                self.context.before_change()?;
                let (mut with, is_sparse) = ((**catalog).clone(), found.leaves_gaps());
                with.topics_mut().filter(|other| other.id == topic.id).for_each(|topic| topic.is_sparse |= is_sparse);
                if is_sparse && self.checkpoints.lock().forget_gaps(topic.id, number) {
                    let checkpoints = self.checkpoints.lock();
                    checkpoints.store(self.context.disk(), &self.dir.join(CHECKPOINTS_FILE), self.log_id)?;
                }
                if with != **catalog {
                    catalog.replace(self.context.disk(), &self.dir.join(CATALOG_FILE), with)?;
                }
                found.cut_out(&self.context, &id, &dir)?;
            }
        }
        Ok(())
    }

    /// Reports staged records that cannot be given to a partition: they are kept, and nobody reads them.
    fn note_lost(&self, lost: impl IntoIterator<Item = Error>) {
        let catalog = self.catalog.lock();
        let is_known = |(topic, partition): &(TopicId, u32)| {
            catalog.topics().iter().any(|known| known.id == *topic && *partition < known.config.partitions)
        };
        let strangers = self.context.pool.left_keys().into_iter().filter(|key| !is_known(key)).count();
        let path = self.context.pool.path();
        let of_strangers = (strangers > 0).then(|| {
            Error::corrupt(path, 0, format!("{strangers} slots hold records of partitions that are not known"))
        });
        for error in lost.into_iter().chain(of_strangers) {
            probe::reached("log.lost_staged");
            self.damaged.write().push(Damage { partition: None, error: Arc::new(error) });
        }
    }

    /// Takes back, durably, what is said of records that a salvage has given up. Else those that get their offsets
    /// would count as synced when they are not, or as lost when they are.
    fn lower_checkpoints(&self) -> Result<()> {
        let mut checkpoints = self.checkpoints.lock();
        let mut next = checkpoints.clone();
        let mut cores = self.cores();
        cores.retain(|core| next.lower(core.topic, core.id.partition, core.end()));
        if !cores.is_empty() {
            probe::reached("open.lowered_checkpoint");
            // Of the records that were given up, too.
            cores.iter().try_for_each(|core| compacted::remove(self.context.disk(), &core.dir))?;
            next.store(self.context.disk(), &self.dir.join(CHECKPOINTS_FILE), self.log_id)?;
            *checkpoints = next;
        }
        Ok(())
    }

    /// Below which offset all of a partition was compacted: where the checkpoints and its directory both say so, see
    /// [`compacted`].
    fn cleaned(&self, checkpoint: Option<Checkpoint>, id: &TopicPartition) -> Offset {
        let cleaned = checkpoint.unwrap_or_default().cleaned;
        match cleaned > Offset::ZERO {
            true => cleaned.min(compacted::load(self.context.disk(), &self.partition_dir(id), self.log_id)),
            false => Offset::ZERO,
        }
    }

    fn open_topic(&self, topic: &CatalogTopic, known: &Known) -> TopicState {
        let mut slots = Vec::with_capacity(topic.config.partitions as usize);
        for number in 0..topic.config.partitions {
            let id = TopicPartition::new(Arc::clone(&topic.name), number);
            if known.is_elsewhere(&id) {
                probe::reached("open.partition_elsewhere");
                slots.push(Slot::Damaged(Arc::new(Error::PartitionElsewhere { partition: id })));
                continue;
            }
            let clean = known.clean_entry(topic.id, number);
            let broker = known.broker.as_ref();
            let checkpoint = self.checkpoints.lock().get(topic.id, number).filter(|_| broker.is_none());
            let gaps = self.checkpoints.lock().gaps(topic.id, number);
            let recovery_point = match broker {
                Some(broker) => broker.recovery_point(&id),
                None => checkpoint.map(|checkpoint| checkpoint.synced),
            };
            let start = match broker {
                Some(broker) => broker.start(&id),
                None => self.checkpoints.lock().start(topic.id, number),
            };
            let hints = Hints {
                topic: topic.id,
                // As little as possible: no offset, which no checksum covers, may pass for one that is missing.
                dense_from: match (broker, gaps) {
                    (Some(broker), _) if broker.is_dense(&id, &topic.config) => Offset::ZERO,
                    (None, _) if !topic.is_sparse => Offset::ZERO,
                    (None, Some(gaps)) => gaps,
                    _ => Offset::MAX,
                },
                cleaned: self.cleaned(checkpoint, &id),
                broker: broker.map(|broker| broker.stopped),
                // What an orderly close said is true even if the files differ now, and if the checkpoints are damaged.
                start: start.max(clean.as_ref().map(|clean| clean.start)),
                recovery_point: recovery_point.max(clean.as_ref().map(|clean| clean.end)),
                committed: self.context.is_replicated.then(|| checkpoint.unwrap_or_default().committed),
                clean,
                id,
            };
            slots.push(self.open_partition(&hints, topic.config));
        }
        TopicState {
            id: topic.id,
            name: Arc::clone(&topic.name),
            config: RwLock::new(topic.config),
            partitions: RwLock::new(slots),
            sticky: Sticky::default(),
        }
    }

    /// Opens one partition. One that cannot be opened does not keep the others from it.
    fn open_partition(&self, hints: &Hints, config: TopicConfig) -> Slot {
        let dir = self.partition_dir(&hints.id);
        let opened =
            check_metadata(&self.context, &dir, hints).and_then(|()| Core::open(&self.context, dir, config, hints));
        match opened {
            Ok(core) => Slot::Open(Arc::new(core)),
            Err(error) => Slot::Damaged(self.note_damage(&hints.id, error)),
        }
    }

    /// Notes that a partition cannot be used, and why.
    pub(super) fn note_damage(&self, partition: &TopicPartition, error: Error) -> Arc<Error> {
        probe::reached("log.damaged_partition");
        let (id, reason) = (partition.clone(), error.to_string());
        tell(&self.context.observer, move |observer| observer.partition_damaged(&id, &reason));
        let error = Arc::new(error);
        self.damaged.write().push(Damage { partition: Some(partition.clone()), error: Arc::clone(&error) });
        error
    }

    /// Makes the directories of new partitions, durably, before the catalog names them.
    pub(super) fn make_partitions(
        &self,
        topic: TopicId,
        name: &Arc<str>,
        config: TopicConfig,
        numbers: std::ops::Range<u32>,
    ) -> Result<Vec<Slot>> {
        let disk = self.context.disk();
        let mut slots = Vec::new();
        for number in numbers {
            let id = TopicPartition::new(Arc::clone(name), number);
            let dir = self.partition_dir(&id);
            self.make_partition_dir(&dir)?;
            PartitionMetadata { topic }.write(disk, &dir.join(METADATA_FILE))?;
            let (dense_from, cleaned) = (Offset::ZERO, Offset::ZERO);
            let (start, recovery_point, clean, broker) = (None, None, None, None);
            let committed = self.context.is_replicated.then_some(Offset::ZERO);
            let hints = Hints { id, topic, dense_from, cleaned, start, recovery_point, committed, clean, broker };
            slots.push(Slot::Open(Arc::new(Core::open(&self.context, dir, config, &hints)?)));
        }
        disk.sync_dir(&self.dir).map_err(Error::io("sync directory", &*self.dir))?;
        Ok(slots)
    }

    /// Creates a directory, or takes over an empty one that a creation left when it was cut short.
    fn make_partition_dir(&self, dir: &Path) -> Result<()> {
        let disk = self.context.disk();
        match disk.create_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => return created.map_err(Error::io("create directory", dir)),
        }
        let entries = disk.list(dir).map_err(Error::io("list", dir))?;
        match entries.iter().find(|entry| !entry.name.starts_with(METADATA_FILE)) {
            Some(data) => Err(Error::corrupt(&dir.join(&data.name), 0, "a file of no topic that the catalog knows")),
            None => Ok(()),
        }
    }

    pub(super) fn partition_dir(&self, id: &TopicPartition) -> PathBuf {
        self.dir.join(id.to_string())
    }
}

/// Whether the directory is that of a partition of this topic.
fn check_metadata(context: &Context, dir: &Path, hints: &Hints) -> Result<()> {
    let (path, topic) = (dir.join(METADATA_FILE), hints.topic);
    match PartitionMetadata::read(context.disk(), &path)? {
        Some(found) if found.topic == topic => Ok(()),
        Some(found) => Err(Error::corrupt(&path, 0, format!("it is of topic {}, not {topic}", found.topic))),
        // Kafka wrote none before 2.8.
        None if hints.broker.is_some() => Ok(()),
        None => Err(Error::corrupt(&path, 0, "the file is missing")),
    }
}

pub(super) const METADATA_FILE: &str = "partition.metadata";
