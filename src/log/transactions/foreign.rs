//! Transactions that others began, by batches that they encoded themselves.

use crate::error::{Error, Result};
use crate::log::Opened;
use crate::partition::{Ending, Partition};
use crate::types::{Offset, ProducerId};

impl Partition {
    /// Ends a transaction of a producer whose batches were given to [`append_raw`](Self::append_raw): what a coordinator
    /// elsewhere has markers written for. It must have begun at `first` in this partition, as
    /// [`ProducerState::transaction_start`](crate::ProducerState::transaction_start) tells. Returns the offset of the marker;
    /// none if no such transaction is open, because it was ended before, say.
    ///
    /// Survives the death of the process when this returns, and a power cut after a [`sync`](Self::sync). Until it is ended
    /// such a transaction stays open, over restarts, too, and keeps readers of committed data waiting: nothing here knows who
    /// began it. One of a [`TransactionalProducer`](crate::TransactionalProducer) is ended by that, or by an open.
    ///
    /// # Errors
    ///
    /// Those of an append; [`Error::InternalTopic`]; [`Error::InvalidTransaction`] if a transactional id of this log has the
    /// producer: nothing is ended.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::record::{BatchBuilder, BatchOptions, Producer, Record};
    /// use chiplog::{Log, Offset, ProducerEpoch, ProducerId, Timestamp};
    ///
    /// let mut builder = BatchBuilder::new();
    /// let producer = Producer { id: ProducerId(7), epoch: ProducerEpoch(0), base_sequence: 0, is_transactional: true };
    /// builder.begin(BatchOptions::default().producer(producer));
    /// builder.push(&Record::new("paid"), Timestamp(1_700_000_000_000))?;
    ///
    /// let log = Log::open(dir.path())?;
    /// let orders = log.topic("orders")?.partition(0)?;
    /// orders.append_raw(builder.finish()?)?;
    /// assert_eq!(orders.offsets().stable, Offset(0));
    /// assert_eq!(orders.end_transaction(ProducerId(7), Offset(0), true)?, Some(Offset(1)));
    /// assert_eq!(orders.offsets().stable, Offset(2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn end_transaction(&self, producer: ProducerId, first: Offset, is_commit: bool) -> Result<Option<Offset>> {
        self.core.check_external()?;
        let log = self.keeps_open().downcast_ref::<Opened>();
        if log.is_some_and(|log| log.inner.transactions.coordinator.lock().is_known(producer)) {
            let reason = "a transactional id of this log has it: its holder ends its transactions, or an open does";
            return Err(Error::InvalidTransaction { producer, reason });
        }
        self.core.end_transaction(&Ending { producer, first, is_commit, fences: false })
    }
}
