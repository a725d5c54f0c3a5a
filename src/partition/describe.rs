//! What a partition knows about itself beside its records, as values: producers and leader epochs.

use super::Partition;
use super::snapshot::Entry;
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

impl Partition {
    /// The idempotent and transactional producers that wrote to it and are remembered, by ascending id. One that wrote
    /// nothing for a day, by the timestamps of its batches and the log's clock, is forgotten when the log is opened,
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
        self.core.lock().followed.producers.entries().map(ProducerState::from).collect()
    }

    /// The leader epochs that its records were written under, and the offset at which each began, in order. The last one
    /// may have begun at the end: a leader that wrote nothing yet. A log that was never replicated has one at most.
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
        let writer = self.core.lock();
        writer.followed.epochs.entries().iter().map(|entry| (entry.epoch, entry.start)).collect()
    }
}
