//! How a log is opened.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Log, open};
use crate::clock::{Clock, Entropy, SystemClock, SystemEntropy};
use crate::config::{GroupConfig, TopicConfig};
use crate::disk::{Disk, RealDisk};
use crate::error::{Error, Result};
use crate::observe::{NoObserver, Observer};
use crate::partition::RecoveryMode;
use crate::segment::ReadPath;

/// Who does the work that nobody waits for: syncs by time, retention, finishing sealed segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Background {
    /// One thread of the log's own, stopped and joined when it closes.
    #[default]
    Thread,
    /// The caller, by calling [`Log::maintain`] when it says it wants to be called.
    Caller,
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
    pub(super) observer: Arc<dyn Observer>,
    pub(super) background: Background,
    pub(super) default_config: TopicConfig,
    pub(super) groups: GroupConfig,
    pub(super) recovery: RecoveryMode,
    pub(super) read_path: ReadPath,
    pub(super) max_maps: usize,
    pub(super) min_free_bytes: u64,
    pub(super) retention_interval: Duration,
    pub(super) checkpoint_interval: Duration,
    pub(super) read_only: bool,
    pub(super) strict: bool,
}

impl LogBuilder {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            disk: Arc::new(RealDisk),
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(SystemEntropy::default()),
            observer: Arc::new(NoObserver),
            background: Background::default(),
            default_config: TopicConfig::default(),
            groups: GroupConfig::default(),
            recovery: RecoveryMode::default(),
            read_path: ReadPath::default(),
            max_maps: 4096,
            min_free_bytes: 0,
            retention_interval: Duration::from_secs(300),
            checkpoint_interval: Duration::from_secs(60),
            read_only: false,
            strict: false,
        }
    }

    /// Sets the file system. Default: this machine's.
    pub fn disk(mut self, disk: Arc<dyn Disk>) -> Self {
        self.disk = disk;
        self
    }

    /// Sets the clock. Default: this machine's.
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
    pub fn groups(mut self, config: GroupConfig) -> Self {
        self.groups = config;
        self
    }

    /// Sets what to do with damage that a crash does not explain. Default: [`RecoveryMode::Report`].
    pub fn recovery(mut self, mode: RecoveryMode) -> Self {
        self.recovery = mode;
        self
    }

    /// Sets how segments are read. Default: [`ReadPath::Mapped`].
    pub fn read_path(mut self, path: ReadPath) -> Self {
        self.read_path = path;
        self
    }

    /// Sets how many segments are mapped at once; those not read for longest are unmapped beyond. More of them make
    /// scattered reads faster; a process may have about 65,000 maps in all.
    ///
    /// Default: 4,096. Range: 1 and more.
    pub fn max_maps(mut self, count: usize) -> Self {
        self.max_maps = count;
        self
    }

    /// Sets how many bytes to leave free on the file system: appends are refused, with an error of kind
    /// [`Full`](crate::ErrorKind::Full), while less is free, and go on when more is. Looked at every 16 MiB.
    ///
    /// Default: 0, no limit.
    pub fn min_free_bytes(mut self, bytes: u64) -> Self {
        self.min_free_bytes = bytes;
        self
    }

    /// Sets how often segments past their limits are looked for.
    ///
    /// Default: 5 minutes. Range: 1 millisecond and more. Kafka: `log.retention.check.interval.ms`.
    pub fn retention_interval(mut self, interval: Duration) -> Self {
        self.retention_interval = interval;
        self
    }

    /// Sets how often it is written down how far each partition is synced.
    ///
    /// Default: 1 minute. Range: 1 millisecond and more. Kafka: `log.flush.offset.checkpoint.interval.ms`.
    pub fn checkpoint_interval(mut self, interval: Duration) -> Self {
        self.checkpoint_interval = interval;
        self
    }

    /// Opens without changing anything: appends, commits and settings are refused. A damaged or full log can be read
    /// so. Nobody else may have the log open for writing meanwhile.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Refuses to open a log of which any partition is damaged. Without it, such a log opens, calls on the damaged
    /// partition fail, and [`Log::damaged`] lists it.
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// Opens the log: creates the directory if it is not there, locks it, recovers what needs it.
    ///
    /// # Errors
    ///
    /// - [`Error::Locked`] if the log is open already, in this process or another.
    /// - [`Error::Corrupt`] if the catalog is damaged, or, when [`strict`](Self::strict), a partition is.
    /// - [`Error::NewerVersion`] if a newer version of this crate wrote the directory.
    /// - [`Error::InvalidSetting`] if a setting is out of range; [`Error::Io`].
    pub fn open(self) -> Result<Log> {
        self.default_config.validate()?;
        self.groups.validate()?;
        let intervals =
            [("retention_interval", self.retention_interval), ("checkpoint_interval", self.checkpoint_interval)];
        for (key, interval) in intervals {
            if interval < Duration::from_millis(1) {
                let value = format!("{interval:?}").into();
                return Err(Error::InvalidSetting { key: key.into(), value, allowed: "1 ms and more".into() });
            }
        }
        if self.max_maps == 0 {
            let (key, value) = ("max_maps".into(), "0".into());
            return Err(Error::InvalidSetting { key, value, allowed: "1 and more".into() });
        }
        open::open(self)
    }
}
