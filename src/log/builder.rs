//! How a log is opened.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::adopt::Adoption;
use super::compact::CompactionSettings;
use super::replicate::{ReplicationSettings, Replicator};
use super::{Log, check_codec, open};
use crate::clock::{Clock, Entropy, SystemClock, SystemEntropy};
use crate::config::{GroupConfig, TopicConfig};
use crate::disk::{Disk, RealDisk};
use crate::error::{Error, Result};
use crate::observe::{NoObserver, Observer};
use crate::partition::RecoveryMode;
use crate::replica::ReplicaTiming;
use crate::segment::ReadPath;
use crate::segment::pool::Layout;
use crate::types::NodeId;

/// Who does the work that nobody waits for: syncs by time, retention, compaction, finishing sealed segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Background {
    /// One thread of the log's own, stopped and joined when it closes.
    #[default]
    Thread,
    /// The caller, by calling [`Log::maintain`] when it says it wants to be called, or [`Log::wait_due`] says so.
    Caller,
}

/// Where small appends wait until they are worth a write: single records of nearly 144 KiB at most, batches of 16 KiB
/// at most.
///
/// What is staged is acknowledged, can be read, and survives the death of the process at any instruction, as
/// [`Ack::Written`](crate::Ack::Written) says with its one exception. A sync, a close and
/// [`linger`](LogBuilder::linger) write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Staging {
    /// In memory of the file `staging`, which a killed process leaves behind whole, where the file system is known to
    /// allow that: ext4 and tmpfs, on Linux 5.14 and later. Elsewhere as [`Off`](Self::Off);
    /// [`Stats::staging`](crate::Stats::staging) says why.
    #[default]
    On,
    /// Nowhere: each append is one batch, and one write before it returns. What a process before had staged is taken
    /// over all the same.
    Off,
}

/// Settings of a whole log, and what it is built of. Made by [`Log::builder`].
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use chiplog::{Background, Log, TopicConfig};
///
/// let log = Log::builder(dir.path())
///     .background(Background::Caller)
///     .default_config(TopicConfig::default().partitions(3))
///     .open()?;
/// assert_eq!(log.topic("orders")?.partition_count(), 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a builder opens nothing by itself"]
pub struct LogBuilder {
    pub(super) dir: PathBuf,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    /// What the lock is signed with.
    pub(super) process: u32,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) background: Background,
    pub(super) default_config: TopicConfig,
    pub(super) groups: GroupConfig,
    /// How the topic of group offsets is made, if not as `groups` says.
    pub(super) offsets_topic: Option<TopicConfig>,
    /// How the topic of transactional ids is made, if not as it is by default.
    pub(super) transactions_topic: Option<TopicConfig>,
    /// How the topic of queues is made, if not as it is by default.
    pub(super) queues_topic: Option<TopicConfig>,
    pub(super) recovery: RecoveryMode,
    pub(super) read_path: ReadPath,
    pub(super) max_maps: usize,
    pub(super) min_free_bytes: u64,
    pub(super) staging: Staging,
    pub(super) layout: Layout,
    pub(super) linger: Duration,
    pub(super) producer_expiry: Duration,
    pub(super) retention_interval: Duration,
    pub(super) checkpoint_interval: Duration,
    pub(super) compaction: CompactionSettings,
    pub(super) read_only: bool,
    pub(super) strict: bool,
    pub(super) adoption: Option<Adoption>,
    pub(super) replication: Option<ReplicationSettings>,
}

impl LogBuilder {
    /// Makes the log one of several that hold the same topics: the one of `node`. What is appended on the leader of a
    /// partition comes to its followers by `replicator`; see [`guide::replication`](crate::guide::replication).
    ///
    /// From then on no partition takes appends before a role is [assumed](Log::assume) in it, and readers see what is
    /// committed. The directory remembers its node: another one is refused.
    pub fn replicated(mut self, node: NodeId, replicator: Arc<dyn Replicator>) -> Self {
        let (timing, catch_up_rate) = (ReplicaTiming::default(), None);
        self.replication = Some(ReplicationSettings { node, replicator, timing, catch_up_rate });
        self
    }

    /// Sets how long replication waits for what. Has no effect unless the log is [replicated](Self::replicated).
    pub fn replica_timing(mut self, timing: ReplicaTiming) -> Self {
        if let Some(replication) = &mut self.replication {
            replication.timing = timing;
        }
        self
    }

    /// Sets how many bytes per second are sent, at most, to followers that are not in sync, of all partitions together;
    /// `None`: as many as they take. Has no effect unless the log is [replicated](Self::replicated).
    ///
    /// Default: `None`. Kafka: `leader.replication.throttled.rate`.
    pub fn catch_up_rate(mut self, bytes_per_second: impl Into<Option<u64>>) -> Self {
        if let Some(replication) = &mut self.replication {
            replication.catch_up_rate = bytes_per_second.into();
        }
        self
    }

    /// Sets what the lock is signed with: in a simulation the same every time.
    #[cfg(feature = "sim")]
    pub(crate) fn process(mut self, id: u32) -> Self {
        self.process = id;
        self
    }

    /// Sets how the topic of group offsets is made: in a simulation with little segments.
    #[cfg(feature = "sim")]
    #[doc(hidden)]
    pub fn offsets_topic(mut self, config: TopicConfig) -> Self {
        self.offsets_topic = Some(config);
        self
    }

    /// Sets how the topic of transactional ids is made: in a simulation with little segments.
    #[cfg(feature = "sim")]
    #[doc(hidden)]
    pub fn transactions_topic(mut self, config: TopicConfig) -> Self {
        self.transactions_topic = Some(config);
        self
    }

    /// Sets how the topic of queues is made: in a simulation with little segments.
    #[cfg(all(feature = "sim", test))]
    pub(crate) fn queues_topic(mut self, config: TopicConfig) -> Self {
        self.queues_topic = Some(config);
        self
    }

    pub(super) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            disk: Arc::new(RealDisk),
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(SystemEntropy::default()),
            process: std::process::id(),
            observer: Arc::new(NoObserver),
            background: Background::default(),
            default_config: TopicConfig::default(),
            groups: GroupConfig::default(),
            offsets_topic: None,
            transactions_topic: None,
            queues_topic: None,
            recovery: RecoveryMode::default(),
            read_path: ReadPath::default(),
            max_maps: 4096,
            min_free_bytes: 0,
            staging: Staging::default(),
            layout: Layout::DEFAULT,
            linger: Duration::from_secs(1),
            producer_expiry: Duration::from_secs(86_400),
            retention_interval: Duration::from_secs(300),
            checkpoint_interval: Duration::from_secs(60),
            compaction: CompactionSettings { interval: Duration::from_secs(15), memory: 128 << 20, rate: None },
            read_only: false,
            strict: false,
            adoption: None,
            replication: None,
        }
    }

    /// Sets the file system. Default: this machine's.
    pub fn disk(mut self, disk: Arc<dyn Disk>) -> Self {
        self.disk = disk;
        self
    }

    /// Sets the clock. Default: this machine's.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::sync::Arc;
    /// use std::time::Duration;
    /// use chiplog::{Clock, Log, Timestamp};
    ///
    /// /// A clock that stands still.
    /// #[derive(Debug)]
    /// struct Stopped;
    ///
    /// impl Clock for Stopped {
    ///     fn now(&self) -> Timestamp {
    ///         Timestamp(1_000)
    ///     }
    ///     fn monotonic(&self) -> Duration {
    ///         Duration::ZERO
    ///     }
    /// }
    ///
    /// let log = Log::builder(dir.path()).clock(Arc::new(Stopped)).open()?;
    /// assert_eq!(log.topic("orders")?.append("paid")?.timestamp(), Timestamp(1_000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets where random numbers come from. Default: the operating system.
    pub fn entropy(mut self, entropy: Arc<dyn Entropy>) -> Self {
        self.entropy = entropy;
        self
    }

    /// Sets who is told what happens. Default: nobody.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// use chiplog::{Log, Observer, Synced};
    ///
    /// #[derive(Debug, Default)]
    /// struct Count {
    ///     syncs: AtomicU64,
    /// }
    ///
    /// impl Observer for Count {
    ///     fn synced(&self, _: &Synced<'_>) {
    ///         self.syncs.fetch_add(1, Ordering::Relaxed);
    ///     }
    /// }
    ///
    /// let count = Arc::new(Count::default());
    /// let log = Log::builder(dir.path()).observer(count.clone()).open()?;
    /// log.topic("orders")?.append("paid")?;
    /// log.sync()?;
    /// assert!(count.syncs.load(Ordering::Relaxed) >= 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// Sets who does the work that nobody waits for. Default: [`Background::Thread`].
    pub fn background(mut self, background: Background) -> Self {
        self.background = background;
        self
    }

    /// Sets the settings of topics that are created on demand. Default: [`TopicConfig::default`].
    pub fn default_config(mut self, config: TopicConfig) -> Self {
        self.default_config = config;
        self
    }

    /// Sets how the offsets of consumer groups are kept. Default: [`GroupConfig::default`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{GroupConfig, Log, Offset};
    ///
    /// let keep_for_ever = GroupConfig::default().offset_retention(None);
    /// let log = Log::builder(dir.path()).groups(keep_for_ever).open()?;
    /// log.group("billing")?.commit("orders", 0, Offset(42))?;
    /// assert_eq!(log.groups()?, ["billing"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn groups(mut self, config: GroupConfig) -> Self {
        self.groups = config;
        self
    }

    /// Sets what to do with damage that a crash does not explain. Default: [`RecoveryMode::Report`].
    ///
    /// With [`RecoveryMode::Salvage`] the open reads every segment, and cuts out what is damaged before it returns. See
    /// [`guide::operations`](crate::guide::operations).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, RecoveryMode};
    ///
    /// let log = Log::builder(dir.path()).recovery(RecoveryMode::Salvage).open()?;
    /// assert!(log.damaged().is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn recovery(mut self, mode: RecoveryMode) -> Self {
        self.recovery = mode;
        self
    }

    /// Sets how segments are read. Default: [`ReadPath::Mapped`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset, ReadPath};
    ///
    /// let log = Log::builder(dir.path()).read_path(ReadPath::Positional).open()?;
    /// let partition = log.topic("orders")?.partition(0)?;
    /// partition.append("paid")?;
    /// assert_eq!(partition.read(Offset::ZERO)?.iter().count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_path(mut self, path: ReadPath) -> Self {
        self.read_path = path;
        self
    }

    /// Sets how many segments are mapped at once; those not read for longest are unmapped beyond. More of them make
    /// scattered reads faster; a process may have about 65,000 maps in all. With
    /// [`ReadPath::Positional`] it is how many files are open for reading.
    ///
    /// Default: 4,096. Range: 1 and more.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{ErrorKind, Log};
    ///
    /// let refused = Log::builder(dir.path()).max_maps(0).open().unwrap_err();
    /// assert_eq!(refused.kind(), ErrorKind::Invalid);
    /// assert!(Log::builder(dir.path()).max_maps(100).open().is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_maps(mut self, count: usize) -> Self {
        self.max_maps = count;
        self
    }

    /// Sets how many bytes to leave free on the file system: appends are refused, with an error of kind
    /// [`Full`](crate::ErrorKind::Full), while less is free, and go on when more is. Looked at every 16 MiB. What deletes
    /// topics, groups and old records is not refused. [Compaction](crate::guide::compaction) rests while there is not the
    /// room for a segment besides.
    ///
    /// Default: 0, no limit.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{ErrorKind, Log};
    ///
    /// let log = Log::builder(dir.path()).min_free_bytes(u64::MAX).open()?;
    /// let refused = log.topic("orders")?.append("paid").unwrap_err();
    /// assert_eq!(refused.kind(), ErrorKind::Full);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn min_free_bytes(mut self, bytes: u64) -> Self {
        self.min_free_bytes = bytes;
        self
    }

    /// Sets whether small appends are staged: gathered, and written together. A staged record is acknowledged as every
    /// other ([`Ack::Written`](crate::Ack::Written)): it survives the death of the process at any instruction. It is in
    /// no segment file yet, so it does not survive if the process is killed and then, before the log is opened again, the
    /// machine restarted or the directory copied.
    ///
    /// Default: [`Staging::On`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Staging, StagingStats};
    ///
    /// let log = Log::builder(dir.path()).staging(Staging::Off).open()?;
    /// assert!(matches!(log.stats()?.staging, StagingStats::Off { why: "it was switched off" }));
    /// let partition = log.topic("orders")?.partition(0)?;
    /// partition.append("paid")?;
    /// assert!(partition.segments()[0].len() > 0); // written already
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn staging(mut self, staging: Staging) -> Self {
        self.staging = staging;
        self
    }

    /// Sets how many partitions can stage at once, each in a slot of 144 KiB; the others write each append. A
    /// partition gives its slot back when that was empty for the [linger time](Self::linger), by the next
    /// [maintenance](Log::maintain). A slot takes its space on disk and in memory when it is first used, and keeps it
    /// until the log is closed in order.
    ///
    /// It counts when the file `staging` is made, by the first small append: one that a killed process left is gone
    /// on with as it is.
    ///
    /// Default: 1,024. Range: 1 to 65,536.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, StagingStats};
    ///
    /// let log = Log::builder(dir.path()).staging_slots(16).open()?;
    /// log.topic("orders")?.append("paid")?;
    /// if let StagingStats::On { slots, in_use, .. } = log.stats()?.staging {
    ///     assert_eq!((slots, in_use), (16, 1));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn staging_slots(mut self, slots: u32) -> Self {
        self.layout.slot_count = slots;
        self
    }

    /// Sets how long a staged record waits for more before it is written to its segment file, at most: counted from
    /// the first record since the last write of its partition, until the background thread comes by, which other work
    /// may delay a little. From then on it survives also what [`staging`](Self::staging) excepts; a power cut only
    /// once it is synced. It is written sooner when its slot is full, at a sync, a roll, and a close. A write that
    /// fails is tried again after as long.
    ///
    /// With [`Background::Caller`] nobody bounds it unless [`Log::maintain`] is called when it is due.
    ///
    /// Shorter means more and smaller writes. It does not bound the length of batches: a reader at the tail ends the
    /// batch that it is given, so with one that keeps up they hold what came between two of its reads.
    ///
    /// Default: 1 second. Range: 1 millisecond and more. Kafka's producers: `linger.ms`.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::{Background, Log};
    ///
    /// let short = Duration::from_millis(10);
    /// let log = Log::builder(dir.path()).linger(short).background(Background::Caller).open()?;
    /// let partition = log.topic("orders")?.partition(0)?;
    /// partition.append("paid")?;
    /// std::thread::sleep(short);
    /// log.maintain()?;
    /// assert!(partition.segments()[0].len() > 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Sets how long a producer with an id is remembered after its last batch, by the timestamps of its batches: opening
    /// forgets those that are older, and so does maintenance, every 10 minutes. A batch that is repeated later is stored a second time. One in a transaction is
    /// remembered for as long as that is open.
    ///
    /// Default: 1 day. Range: 1 millisecond and more. Kafka: `producer.id.expiration.ms`.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// let week = std::time::Duration::from_secs(7 * 86_400);
    /// let log = chiplog::Log::builder(dir.path()).producer_expiry(week).open()?;
    /// # log.close()?;
    /// assert!(chiplog::Log::builder(dir.path()).producer_expiry(std::time::Duration::ZERO).open().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn producer_expiry(mut self, expiry: Duration) -> Self {
        self.producer_expiry = expiry;
        self
    }

    /// Sets how the arena is laid out: in a simulation with little slots.
    #[cfg(feature = "sim")]
    pub(crate) fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// Sets how often segments past their limits are looked for.
    ///
    /// Default: 5 minutes. Range: 1 millisecond and more. Kafka: `log.retention.check.interval.ms`.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::{Background, Log};
    ///
    /// let often = Duration::from_secs(10);
    /// let log = Log::builder(dir.path()).background(Background::Caller).retention_interval(often).open()?;
    /// assert!(log.maintain()?.next <= often);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn retention_interval(mut self, interval: Duration) -> Self {
        self.retention_interval = interval;
        self
    }

    /// Sets how often it is written down how far each partition is synced.
    ///
    /// Default: 1 minute. Range: 1 millisecond and more. Kafka: `log.flush.offset.checkpoint.interval.ms`.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::{Background, Log};
    ///
    /// let often = Duration::from_secs(10);
    /// let log = Log::builder(dir.path()).background(Background::Caller).checkpoint_interval(often).open()?;
    /// assert!(log.maintain()?.next <= often);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn checkpoint_interval(mut self, interval: Duration) -> Self {
        self.checkpoint_interval = interval;
        self
    }

    /// Sets how often it is looked for partitions of compacted topics that are worth compacting. One is compacted at a
    /// time, the dirtiest first, a piece with each [maintenance](Log::maintain).
    ///
    /// Default: 15 seconds. Range: 1 millisecond and more. Kafka: `log.cleaner.backoff.ms`.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::{Background, Cleanup, Log, Record, TopicConfig};
    ///
    /// let log = Log::builder(dir.path())
    ///     .background(Background::Caller)
    ///     .compaction_interval(Duration::from_secs(1))
    ///     .open()?;
    /// let config = TopicConfig::default().cleanup(Cleanup::Compact).segment_bytes(1_024);
    /// let prices = log.create_topic("prices", config)?;
    /// for price in 0..100 {
    ///     prices.append(Record::new(&[price; 100]).key("oil"))?;
    /// }
    /// log.sync()?;
    /// while log.maintain()?.compacted == 0 {}
    /// let kept: u64 = prices.partition(0)?.segments().iter().map(|segment| segment.len()).sum();
    /// assert!(kept < 3 * 1_024);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn compaction_interval(mut self, interval: Duration) -> Self {
        self.compaction.interval = interval;
        self
    }

    /// Sets how much memory a compaction takes at most to know keys by: 24 bytes each, and a tenth more. How
    /// many there are is not known before: it takes at once what is needed if each offset to be compacted has a key of its
    /// own, or this much, until the pass ends. If there are more keys, it takes more passes, each of which reads and writes the
    /// partition from its start.
    ///
    /// Default: 128 MiB, for 5 million keys. Range: 1 KiB and more. Kafka: `log.cleaner.dedupe.buffer.size`.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{ErrorKind, Log};
    ///
    /// let refused = Log::builder(dir.path()).compaction_memory(100).open().unwrap_err();
    /// assert_eq!(refused.kind(), ErrorKind::Invalid);
    /// assert!(Log::builder(dir.path()).compaction_memory(8 << 20).open().is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn compaction_memory(mut self, bytes: u64) -> Self {
        self.compaction.memory = bytes;
        self
    }

    /// Sets how many bytes a second compaction reads at most; `None` for no limit. It writes as many at most. What
    /// [`erase`](crate::Topic::erase) does is not limited: somebody waits for it.
    ///
    /// Default: `None`. Range: 1 byte and more. Kafka: `log.cleaner.io.max.bytes.per.second`, for reads and writes together.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::Log;
    ///
    /// let log = Log::builder(dir.path()).compaction_rate(20 << 20).open()?;
    /// # log.close()?;
    /// assert!(Log::builder(dir.path()).compaction_rate(0).open().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn compaction_rate(mut self, bytes_per_second: impl Into<Option<u64>>) -> Self {
        self.compaction.rate = bytes_per_second.into();
        self
    }

    /// Opens without changing anything: appends, commits and settings are refused. A full log can be read so, and a
    /// damaged one: with [`RecoveryMode::Salvage`] a partition ends at its first damage. Others may read the same directory,
    /// nobody may have it open for writing meanwhile. Where there is no log, an empty one is shown.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Error, Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// log.topic("orders")?.append("paid")?;
    /// log.close()?;
    ///
    /// let log = Log::builder(dir.path()).read_only().open()?;
    /// let orders = log.topic("orders")?.partition(0)?;
    /// assert_eq!(orders.read(Offset::ZERO)?.iter().count(), 1);
    /// assert!(matches!(orders.append("sent"), Err(Error::ReadOnly)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Refuses to open a log of which any partition is damaged. Without it, such a log opens, calls on the damaged
    /// partition fail, and [`Log::damaged`] lists it. The same goes for staged records that a killed process left and
    /// that cannot be found, or are nobody's.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{ErrorKind, Log};
    ///
    /// let log = Log::open(dir.path())?;
    /// log.topic("orders")?;
    /// log.close()?;
    /// std::fs::remove_file(dir.path().join("orders-0/partition.metadata"))?;
    ///
    /// let refused = Log::builder(dir.path()).strict().open().unwrap_err();
    /// assert_eq!(refused.kind(), ErrorKind::Corrupt);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// Takes over the directory if a Kafka broker wrote it: from then on it is a log like any other, which goes on where
    /// the broker stopped. What is a log of ours already is just opened, and what holds no partition, or is not there, becomes a
    /// new log, so a service can always say this; what the [`Adoption`] asks for has no effect then.
    ///
    /// The broker must have stopped; its lock is taken as another broker would. Its topics keep their ids, offsets,
    /// leader epochs, producers and what groups committed. Their settings are not in this directory: see
    /// [`Adoption::topic`]. Nothing is changed before all was looked through, and until the catalog is written, which
    /// comes last, the broker could be started again. After that it must not be: it would not know the settings, nor
    /// what is to come.
    ///
    /// What is damaged is an error, as in any open, unless [`RecoveryMode::Salvage`] is chosen; so is a
    /// [transaction](Error::OpenTransaction) without an end, a partition that is
    /// [elsewhere](Error::PartitionElsewhere), and a [running](Error::Locked) broker.
    ///
    /// ```no_run
    /// use chiplog::{Adoption, Log, TopicConfig};
    ///
    /// let kept = TopicConfig::default().retention_time(None);
    /// let log = Log::builder("/var/lib/kafka/data").adopt(Adoption::default().topic("orders", kept)).open()?;
    /// log.topic("orders")?.append("paid")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn adopt(mut self, adoption: Adoption) -> Self {
        self.adoption = Some(adoption);
        self
    }

    /// Opens the log: creates the directory if it is not there, locks it, recovers what needs it.
    ///
    /// A relative directory is that of now: when the process changes its current directory, the log stays where it is.
    ///
    /// # Errors
    ///
    /// - [`Error::Locked`] if the log is open already, in this process or another.
    /// - [`Error::NotAdopted`] if a Kafka broker wrote the directory; of an [`adopt`](Self::adopt), what is said there.
    /// - [`Error::Corrupt`] if the catalog is damaged, or, when [`strict`](Self::strict), a partition is.
    /// - [`Error::NewerVersion`] if a newer version of this crate wrote the directory.
    /// - [`Error::InvalidSetting`] if a setting is out of range; [`Error::Unsupported`] if this build lacks the codec of
    ///   the default settings.
    /// - [`Error::Io`].
    pub fn open(mut self) -> Result<Log> {
        // Files are opened by name for as long as the log is open.
        self.dir = std::path::absolute(&self.dir).map_err(Error::io("find directory", &*self.dir))?;
        self.default_config.validate()?;
        check_codec(&self.default_config)?;
        self.groups.validate()?;
        self.adoption.iter().try_for_each(Adoption::validate)?;
        let intervals = [
            ("retention_interval", self.retention_interval),
            ("checkpoint_interval", self.checkpoint_interval),
            ("linger", self.linger),
            ("producer_expiry", self.producer_expiry),
            ("compaction_interval", self.compaction.interval),
        ];
        for (key, interval) in intervals {
            if interval < Duration::from_millis(1) {
                let value = format!("{interval:?}").into();
                return Err(Error::InvalidSetting { key: key.into(), value, allowed: "1 ms and more".into() });
            }
        }
        if !(1..=65_536).contains(&self.layout.slot_count) {
            let (key, value) = ("staging_slots".into(), self.layout.slot_count.to_string().into());
            return Err(Error::InvalidSetting { key, value, allowed: "1 to 65536".into() });
        }
        if self.compaction.memory < LEAST_COMPACTION_MEMORY {
            let (key, value) = ("compaction_memory".into(), self.compaction.memory.to_string().into());
            return Err(Error::InvalidSetting { key, value, allowed: "1024 and more".into() });
        }
        if self.compaction.rate == Some(0) {
            let (key, value) = ("compaction_rate".into(), "0".into());
            return Err(Error::InvalidSetting { key, value, allowed: "1 and more".into() });
        }
        if self.max_maps == 0 {
            let (key, value) = ("max_maps".into(), "0".into());
            return Err(Error::InvalidSetting { key, value, allowed: "1 and more".into() });
        }
        open::open(self)
    }
}

/// In bytes.
const LEAST_COMPACTION_MEMORY: u64 = 1 << 10;
