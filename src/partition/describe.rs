//! What a partition knows about itself beside its records, as values: producers, leader epochs, what is to be cut off.

use std::path::PathBuf;

use super::Partition;
use super::core::Core;
use super::recover::{Torn, hides_batch};
use super::snapshot::Entry;
use crate::disk::Open;
use crate::error::{Error, Result};
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};

/// A producer as a partition knows it: what Kafka's `describeProducers` tells. See [`Partition::producers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProducerState {
    /// Which producer.
    pub producer_id: ProducerId,
    /// Its latest incarnation that wrote here.
    pub producer_epoch: ProducerEpoch,
    /// Its number for the last record that it wrote here under that epoch; none if all that is known of the epoch is that
    /// a transaction ended under it.
    pub last_sequence: Option<i32>,
    /// The largest timestamp of its last batch here, or the time at which its last transaction ended.
    pub last_timestamp: Timestamp,
    /// The epoch of the coordinator that ended its last transaction here, if one did.
    pub coordinator_epoch: Option<i32>,
    /// Where its transaction that is open here began, if one is.
    pub transaction_start: Option<Offset>,
}

impl From<Entry> for ProducerState {
    fn from(entry: Entry) -> Self {
        Self {
            producer_id: entry.producer,
            producer_epoch: entry.epoch,
            last_sequence: entry.last_batch.map(|batch| batch.last_sequence),
            last_timestamp: entry.timestamp,
            coordinator_epoch: Some(entry.coordinator_epoch).filter(|epoch| *epoch >= 0),
            transaction_start: entry.open_since,
        }
    }
}

/// What lies behind the last batch of a partition that was not closed in order, and is no whole batch that follows it.
/// See [`Partition::torn_tail`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TornTail {
    /// The segment file.
    pub path: PathBuf,
    /// The position of the first byte in it.
    pub position: u64,
    /// How many bytes there are in that file, those behind the last that is not zero left out; 0 if all of it is in
    /// segments behind it.
    pub len: u64,
    /// The offset that the first record in it would have had, and the next record gets.
    pub offset: Offset,
    /// Whether whole batches are in it, or segments behind it. A write that was cut short leaves none: something was
    /// damaged, and with it goes what came after it, if the partition is gone on with.
    pub hides_batches: bool,
}

impl Partition {
    /// The idempotent and transactional producers that wrote to it and are remembered, by ascending id. One that wrote
    /// nothing for a day, by the timestamps of its batches and the log's clock, is forgotten, when the log is opened or by maintenance,
    /// unless it is in a transaction.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::record::{BatchBuilder, BatchOptions, Producer, Record};
    /// use chiplog::{Log, ProducerEpoch, ProducerId, Timestamp};
    ///
    /// let mut builder = BatchBuilder::new();
    /// let producer =
    ///     Producer { id: ProducerId(7), epoch: ProducerEpoch(0), base_sequence: 0, is_transactional: false };
    /// builder.begin(BatchOptions::default().producer(producer));
    /// for value in ["paid", "sent"] {
    ///     builder.push(&Record::new(value), Timestamp(1_700_000_000_000))?;
    /// }
    ///
    /// let log = Log::open(dir.path())?;
    /// let partition = log.topic("orders")?.partition(0)?;
    /// partition.append_raw(builder.finish()?)?;
    /// let producers = partition.producers();
    /// assert_eq!((producers[0].producer_id, producers[0].last_sequence), (ProducerId(7), Some(1)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn producers(&self) -> Vec<ProducerState> {
        let mut writer = self.core.lock();
        writer.complete_sender();
        writer.followed.producers.entries().map(ProducerState::from).collect()
    }

    /// The leader epochs that its records were written under, and the offset at which each began, in order: of the first,
    /// its records that are left. The last one may have begun at the end: a leader that wrote nothing yet. A log that was
    /// never replicated has one at most.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{LeaderEpoch, Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// let partition = log.topic("orders")?.partition(0)?;
    /// assert_eq!(partition.leader_epochs(), []);
    /// partition.append("paid")?;
    /// assert_eq!(partition.leader_epochs(), [(LeaderEpoch(0), Offset(0))]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn leader_epochs(&self) -> Vec<(LeaderEpoch, Offset)> {
        let mut epochs = self.core.lock().followed.epochs.clone();
        epochs.truncate_from_start(self.core.start());
        epochs.entries().iter().map(|entry| (entry.epoch, entry.start)).collect()
    }

    /// The tail that was found torn when the log was opened, as long as it is there: the first append puts it aside, and
    /// in a log that is open read-only nobody does. `None` if the partition ends with its files.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the file cannot be read.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::io::Write;
    /// use chiplog::{Log, Offset, Staging};
    ///
    /// let log = Log::builder(dir.path()).staging(Staging::Off).open()?;
    /// log.topic("orders")?.append("paid")?;
    /// # let killed = tempfile::tempdir()?;
    /// # std::fs::create_dir(killed.path().join("orders-0"))?;
    /// # for name in ["catalog", "orders-0/partition.metadata", "orders-0/00000000000000000000.log"] {
    /// #     std::fs::copy(dir.path().join(name), killed.path().join(name))?;
    /// # }
    /// // A copy of the files, as a power cut could have left them: with the first bytes of another batch.
    /// let path = killed.path().join("orders-0/00000000000000000000.log");
    /// # let written = log.topic("orders")?.partition(0)?.segments()[0].len();
    /// # std::fs::OpenOptions::new().write(true).open(&path)?.set_len(written)?;
    /// std::fs::OpenOptions::new().append(true).open(&path)?.write_all(&[0, 0, 0, 0, 0, 0, 0, 1])?;
    ///
    /// let log = Log::builder(killed.path()).read_only().open()?;
    /// let torn = log.topic("orders")?.partition(0)?.torn_tail()?.unwrap();
    /// assert_eq!((torn.path, torn.len, torn.offset, torn.hides_batches), (path, 8, Offset(1), false));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn torn_tail(&self) -> Result<Option<TornTail>> {
        let (torn, has_segments_behind) = {
            let writer = self.core.lock();
            (writer.plan().torn.clone(), !writer.plan().set_aside.is_empty())
        };
        match torn {
            Some(torn) => TornTail::find(&self.core, torn, has_segments_behind).map(Some),
            None if has_segments_behind => Ok(self.core.last_segment().map(|last| TornTail {
                path: last.path().to_owned(),
                position: last.len(),
                len: 0,
                offset: last.end(),
                hides_batches: true,
            })),
            None => Ok(None),
        }
    }
}

impl TornTail {
    fn find(core: &Core, torn: Torn, has_segments_behind: bool) -> Result<Self> {
        let Torn { path, from, to, offset } = torn;
        let file = core.context.disk().open(&path, Open::Read).map_err(Error::io("open", &*path))?;
        let hides_batches =
            has_segments_behind || hides_batch(&*file, from + 1, to, offset).map_err(Error::io("read", &*path))?;
        Ok(Self { path, position: from, len: to.saturating_sub(from), offset, hides_batches })
    }
}
