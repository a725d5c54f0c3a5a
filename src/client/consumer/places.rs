//! Where a consumer reads: positions, and how to move them.

use super::Consumer;
use crate::error::Result;
use crate::types::{Offset, Timestamp, TopicPartition};

impl Consumer {
    /// The offset of the next record that a poll would return of this partition. Found out now, if it was not yet: what the
    /// group committed, or what [`AutoOffsetReset`](crate::AutoOffsetReset) says.
    ///
    /// # Errors
    ///
    /// [`Error::NotAssigned`](crate::Error::NotAssigned); as for [`poll`](Self::poll) if it cannot be found out, and
    /// [`Error::GroupRefused`](crate::Error::GroupRefused) of kind [`Retry`](crate::ErrorKind::Retry) while an open transaction
    /// is about to commit an offset there.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset, TopicPartition};
    ///
    /// let log = Log::open(dir.path())?;
    /// log.topic("orders")?;
    /// log.group("billing")?.commit("orders", 0, Offset(42))?;
    /// let orders = TopicPartition::new("orders", 0);
    /// let mut consumer = log.consumer("billing").assign([orders.clone()])?;
    /// assert_eq!(consumer.position(&orders)?, Offset(42));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn position(&mut self, partition: &TopicPartition) -> Result<Offset> {
        match self.cursors.get(partition)?.position() {
            Some(position) => Ok(position),
            None => self.find_position(partition),
        }
    }

    /// The positions that are known, by partition: what [`commit`](Self::commit) would commit, and
    /// [`Transaction::commit_positions`](crate::Transaction::commit_positions). Not among them are those of topics that were
    /// deleted.
    #[must_use]
    pub fn positions(&self) -> Vec<(TopicPartition, Offset)> {
        self.cursors.positions().map(|(id, offset)| (id.clone(), offset)).collect()
    }

    pub(super) fn find_position(&mut self, id: &TopicPartition) -> Result<Offset> {
        let committed = self.fetch.now(id)?;
        let policy = self.policy();
        let cursor = self.cursors.get_mut(id)?;
        cursor.begin(committed, policy)?;
        Ok(cursor.position().unwrap_or_default())
    }

    /// Goes on with the record at `offset`, or the next one behind it. Whether the log has it shows at the next poll: if not,
    /// that does what [`AutoOffsetReset`](crate::AutoOffsetReset) says. Changes nothing that was committed.
    ///
    /// # Errors
    ///
    /// [`Error::NotAssigned`](crate::Error::NotAssigned).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::{Log, Offset, Record, TopicPartition};
    ///
    /// let log = Log::open(dir.path())?;
    /// for value in ["paid", "sent"] {
    ///     log.append(Record::new(value).to("orders"))?;
    /// }
    /// let orders = TopicPartition::new("orders", 0);
    /// let mut consumer = log.consumer("billing").assign([orders.clone()])?;
    /// for _ in 0..2 {
    ///     consumer.seek(&orders, Offset(1))?;
    ///     assert_eq!(consumer.poll(Duration::ZERO)?.iter().next().unwrap().1.value, Some(&b"sent"[..]));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn seek(&mut self, partition: &TopicPartition, offset: Offset) -> Result<()> {
        self.cursors.get_mut(partition)?.seek(offset);
        Ok(())
    }

    /// Goes on with the first record that there is, in these partitions, or in all if none is named.
    ///
    /// # Errors
    ///
    /// [`Error::NotAssigned`](crate::Error::NotAssigned): then nothing was moved.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset, Record, TopicPartition};
    ///
    /// let log = Log::open(dir.path())?;
    /// log.append(Record::new("paid").to("orders"))?;
    /// let orders = TopicPartition::new("orders", 0);
    /// let mut consumer = log.consumer("billing").assign([orders.clone()])?;
    /// consumer.seek_to_beginning(&[])?;
    /// assert_eq!((consumer.position(&orders)?, consumer.lag(&orders)?), (Offset(0), 1));
    /// consumer.seek_to_end(&[])?;
    /// assert_eq!((consumer.position(&orders)?, consumer.lag(&orders)?), (Offset(1), 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn seek_to_beginning(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        for cursor in self.cursors.named(partitions)? {
            cursor.seek(cursor.partition().offsets().start);
        }
        Ok(())
    }

    /// Goes on behind all that there is now, in these partitions, or in all if none is named; with
    /// [`Isolation::Committed`](crate::Isolation::Committed), at the first open transaction.
    ///
    /// # Errors
    ///
    /// [`Error::NotAssigned`](crate::Error::NotAssigned): then nothing was moved.
    ///
    /// # Example
    ///
    /// See [`seek_to_beginning`](Self::seek_to_beginning).
    pub fn seek_to_end(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        for cursor in self.cursors.named(partitions)? {
            cursor.seek(cursor.end());
        }
        Ok(())
    }

    /// Goes on with the first record, by offset, whose timestamp is `time` or later, or at the end if there is none; in these
    /// partitions, or in all if none is named. Kafka: `offsetsForTimes`.
    ///
    /// # Errors
    ///
    /// [`Error::NotAssigned`](crate::Error::NotAssigned), or as for [`Partition::offset_at`](crate::Partition::offset_at): then
    /// nothing was moved.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset, Record, Timestamp, TopicPartition};
    ///
    /// let log = Log::open(dir.path())?;
    /// for time in [1_000, 2_000] {
    ///     log.append(Record::new("paid").timestamp(Timestamp(time)).to("orders"))?;
    /// }
    /// let orders = TopicPartition::new("orders", 0);
    /// let mut consumer = log.consumer("billing").assign([orders.clone()])?;
    /// consumer.seek_to_time(&[], Timestamp(1_500))?;
    /// assert_eq!(consumer.position(&orders)?, Offset(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn seek_to_time(&mut self, partitions: &[TopicPartition], time: Timestamp) -> Result<()> {
        let mut named = self.cursors.named(partitions)?;
        let found: Vec<Offset> = named.iter().map(|cursor| cursor.offset_at(time)).collect::<Result<_>>()?;
        named.iter_mut().zip(found).for_each(|(cursor, offset)| cursor.seek(offset));
        Ok(())
    }

    /// Goes back to what the group committed, in these partitions, or in all if none is named: what polls have returned since
    /// then comes again. That is what to do after a transaction that was aborted, as the positions do not go back by themselves.
    ///
    /// Until the next poll, or [`position`](Self::position), has found them out, the positions are unknown, and no
    /// [`commit`](Self::commit) has them. Where the group committed nothing, [`AutoOffsetReset`](crate::AutoOffsetReset) says
    /// where to go on: by default at the end, **behind what is to come again**. So choose another with transactions.
    ///
    /// # Errors
    ///
    /// [`Error::NotAssigned`](crate::Error::NotAssigned): then nothing was moved. What goes wrong when the positions are found
    /// out is told by the poll.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::{AutoOffsetReset, Log, Record, TopicPartition};
    ///
    /// let log = Log::open(dir.path())?;
    /// for value in ["paid", "sent"] {
    ///     log.append(Record::new(value).to("orders"))?;
    /// }
    /// let builder = log.consumer("billing").auto_offset_reset(AutoOffsetReset::Earliest).max_poll_records(1);
    /// let mut consumer = builder.assign([TopicPartition::new("orders", 0)])?;
    /// consumer.poll(Duration::ZERO)?;
    /// consumer.commit()?;
    /// for _ in 0..2 {
    ///     let polled = consumer.poll(Duration::from_secs(60))?;
    ///     assert_eq!(polled.iter().next().unwrap().1.value, Some(&b"sent"[..]));
    ///     consumer.seek_to_committed(&[])?; // it could not be processed
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn seek_to_committed(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        self.cursors.named(partitions)?.iter_mut().for_each(|cursor| cursor.unknow());
        // An answer on its way may be of before the last commit.
        self.fetch.forget();
        Ok(())
    }

    /// Lets polls pass over these partitions, or over all if none is named, until they are [resumed](Self::resume). They stay
    /// its own, and their positions stay where they are. One that is given up and comes back is read again.
    ///
    /// # Errors
    ///
    /// [`Error::NotAssigned`](crate::Error::NotAssigned): then nothing was paused.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::{Log, Record, TopicPartition};
    ///
    /// let log = Log::open(dir.path())?;
    /// log.append(Record::new("paid").to("orders"))?;
    /// let orders = TopicPartition::new("orders", 0);
    /// let mut consumer = log.consumer("billing").assign([orders.clone()])?;
    /// consumer.seek_to_beginning(&[])?;
    /// consumer.pause(&[orders.clone()])?;
    /// assert!(consumer.poll(Duration::ZERO)?.is_empty());
    /// assert_eq!(consumer.paused(), [orders]);
    /// consumer.resume(&[])?;
    /// assert_eq!(consumer.poll(Duration::ZERO)?.iter().count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pause(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        self.cursors.named(partitions)?.iter_mut().for_each(|cursor| cursor.set_paused(true));
        Ok(())
    }

    /// Lets polls return records of these partitions again, or of all if none is named.
    ///
    /// # Errors
    ///
    /// [`Error::NotAssigned`](crate::Error::NotAssigned): then nothing was resumed.
    ///
    /// # Example
    ///
    /// See [`pause`](Self::pause).
    pub fn resume(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        self.cursors.named(partitions)?.iter_mut().for_each(|cursor| cursor.set_paused(false));
        Ok(())
    }

    /// The partitions that are paused, in order.
    #[must_use]
    pub fn paused(&self) -> Vec<TopicPartition> {
        self.cursors.iter().filter(|cursor| cursor.is_paused()).map(|cursor| cursor.id.clone()).collect()
    }

    /// How many offsets lie between its position in this partition and the end, as far as it reads: with
    /// [`Isolation::Committed`](crate::Isolation::Committed), up to the first open transaction. As many records at most.
    ///
    /// # Errors
    ///
    /// As for [`position`](Self::position).
    ///
    /// # Example
    ///
    /// See [`seek_to_beginning`](Self::seek_to_beginning).
    pub fn lag(&mut self, partition: &TopicPartition) -> Result<u64> {
        let position = self.position(partition)?;
        Ok(self.cursors.get(partition)?.end().0.saturating_sub(position.0))
    }
}
