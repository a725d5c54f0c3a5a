//! Other ways to poll: as an iterator, in order of time, as a future, as a stream.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::polled::{Consumed, Polled};
use super::{Consumer, Next};
use crate::error::{Error, GroupError, Result};

impl Consumer {
    /// Iterates over records one by one, and waits for them: ends when a [waker](Self::waker) says so, and behind an error that
    /// stays: the log is closed, or another took the place of a [static](crate::ConsumerBuilder::instance_id) member.
    ///
    /// What was returned counts as processed at the next call, and for [`commit`](Self::commit) once the iterator is gone. A
    /// [`poll`](Self::poll) costs less: this looks at each record whether there is something else to do.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset, Record, TopicPartition};
    ///
    /// let log = Log::open(dir.path())?;
    /// for value in ["paid", "sent", "lost"] {
    ///     log.append(Record::new(value).to("orders"))?;
    /// }
    /// let orders = TopicPartition::new("orders", 0);
    /// let mut consumer = log.consumer("billing").assign([orders.clone()])?;
    /// consumer.seek_to_beginning(&[])?;
    /// for consumed in consumer.iter() {
    ///     if consumed?.record().value == Some(b"sent") {
    ///         break;
    ///     }
    /// }
    /// consumer.commit()?; // up to there
    /// assert_eq!(consumer.committed(&orders)?.unwrap().offset, Offset(2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iter(&mut self) -> ConsumerIter<'_> {
        ConsumerIter { consumer: self, is_over: false }
    }

    /// Reads its partitions together, in the order of their records' timestamps, as [`MergedByTime`] says.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::{Log, Record, Timestamp, TopicPartition};
    ///
    /// let log = Log::open(dir.path())?;
    /// for (topic, time) in [("orders", 10), ("refunds", 20), ("refunds", 40), ("orders", 30)] {
    ///     log.append(Record::new("x").timestamp(Timestamp(time)).to(topic))?;
    /// }
    /// let both = ["orders", "refunds"].map(|topic| TopicPartition::new(topic, 0));
    /// let mut consumer = log.consumer("audit").assign(both)?;
    /// consumer.seek_to_beginning(&[])?;
    /// let mut merged = consumer.merge_by_time();
    /// let mut times = Vec::new();
    /// while let Some(consumed) = merged.next(Duration::ZERO)? {
    ///     times.push(consumed.record().timestamp.0);
    /// }
    /// assert_eq!(times, [10, 20, 30, 40]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn merge_by_time(&mut self) -> MergedByTime<'_> {
        MergedByTime { consumer: self }
    }

    /// Polls as a future, on any runtime: resolves once there are records, or a [waker](Self::waker) says so. Dropped before,
    /// nothing is lost.
    ///
    /// While it is awaited the application counts as polling. Some polls block while the disk works, as what they tell of has to
    /// be durable: those that commit [by themselves](crate::ConsumerBuilder::auto_commit), in which a member joins its group, or
    /// that find out where to begin in partitions that are new. So does each call of [`commit`](Self::commit).
    ///
    /// # Errors
    ///
    /// As for [`poll`](Self::poll).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::future::Future;
    /// use std::pin::pin;
    /// use std::task::{Context, Poll, Waker};
    /// use chiplog::{Log, TopicPartition};
    ///
    /// let log = Log::open(dir.path())?;
    /// let orders = log.topic("orders")?;
    /// let mut consumer = log.consumer("billing").assign([TopicPartition::new("orders", 0)])?;
    /// let mut context = Context::from_waker(Waker::noop()); // your runtime's
    /// let mut next = pin!(consumer.next_records());
    /// assert!(next.as_mut().poll(&mut context).is_pending());
    /// orders.append("paid")?;
    /// let Poll::Ready(polled) = next.as_mut().poll(&mut context) else { panic!("there is one") };
    /// assert_eq!(polled?.iter().count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn next_records(&mut self) -> impl Future<Output = Result<Polled>> + Send + '_ {
        NextRecords { consumer: self }
    }

    /// Polls once, and leaves the task's waker if there is nothing: for futures and streams of one's own. While it is pending,
    /// the application counts as polling, until the next call: one that turns to something else for longer than
    /// [`max_poll_interval`](crate::ConsumerBuilder::max_poll_interval) keeps partitions that it does not read. Blocks when
    /// [`next_records`](Self::next_records) does.
    ///
    /// # Errors
    ///
    /// As for [`poll`](Self::poll).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::task::{Context, Waker};
    /// use chiplog::{Log, TopicPartition};
    ///
    /// let log = Log::open(dir.path())?;
    /// let orders = log.topic("orders")?;
    /// let mut consumer = log.consumer("billing").assign([TopicPartition::new("orders", 0)])?;
    /// // For an executor: std::future::poll_fn(|context| consumer.poll_records(context))
    /// let mut context = Context::from_waker(Waker::noop());
    /// assert!(consumer.poll_records(&mut context).is_pending());
    /// orders.append("paid")?;
    /// assert!(consumer.poll_records(&mut context).is_ready());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn poll_records(&mut self, context: &mut Context<'_>) -> Poll<Result<Polled>> {
        let turned = self.turn(Some(context), &mut |cursors, settings, policy| cursors.take(settings, policy));
        match turned {
            Ok(Poll::Ready(next)) => Poll::Ready(self.polled(next)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

/// The future of [`Consumer::next_records`].
struct NextRecords<'c> {
    consumer: &'c mut Consumer,
}

impl Future for NextRecords<'_> {
    type Output = Result<Polled>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.consumer.poll_records(context)
    }
}

impl Drop for NextRecords<'_> {
    fn drop(&mut self) {
        self.consumer.waits(false);
    }
}

/// Iterates over the records that a [`Consumer`] reads: made by [`Consumer::iter`].
pub struct ConsumerIter<'c> {
    consumer: &'c mut Consumer,
    is_over: bool,
}

impl fmt::Debug for ConsumerIter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConsumerIter").field(&self.consumer).finish()
    }
}

impl Iterator for ConsumerIter<'_> {
    type Item = Result<Consumed>;

    fn next(&mut self) -> Option<Result<Consumed>> {
        if self.is_over {
            return None;
        }
        match self.consumer.wait_for(None, |cursors, settings, policy| cursors.take_one(settings, policy)) {
            Ok(Next::Found(consumed)) => Some(Ok(consumed)),
            Ok(Next::Woken | Next::Late) => None,
            Err(error) => {
                self.is_over = is_final(&error);
                Some(Err(error))
            }
        }
    }
}

/// Reads the partitions of a [`Consumer`] together, in the order of their records' timestamps. Made by
/// [`Consumer::merge_by_time`].
///
/// Of each partition it looks at the next record, and returns the earliest of them; of equal times, that of the first
/// partition. So a partition stays in its own order, also where its times go back, and memory is bounded by what is read of
/// each at once.
///
/// **A partition of which all is read is not waited for.** If a record comes there later that is earlier than what was
/// returned meanwhile, it is returned then, late. Over partitions that are appended to no more, or up to a time that all of
/// them have passed, the order is complete.
pub struct MergedByTime<'c> {
    consumer: &'c mut Consumer,
}

impl fmt::Debug for MergedByTime<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MergedByTime").field(&self.consumer).finish()
    }
}

impl MergedByTime<'_> {
    /// The next record; waits for one if there is none, at most for `timeout`. `None` if the time ran out, or a
    /// [waker](Consumer::waker) said so.
    ///
    /// # Errors
    ///
    /// As for [`Consumer::poll`].
    ///
    /// # Example
    ///
    /// See [`Consumer::merge_by_time`].
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Consumed>> {
        let next = self.consumer.wait_for(Some(timeout), |cursors, _, policy| cursors.take_earliest(policy))?;
        Ok(match next {
            Next::Found(consumed) => Some(consumed),
            Next::Woken | Next::Late => None,
        })
    }
}

/// What polls return, without end, by the feature `futures`. An item has no records only where a [waker](Consumer::waker) ended the
/// wait, or where there are but [resets](Polled::resets) to tell.
///
/// | Item | Means |
/// |---|---|
/// | `Some(Ok(_))` | [records](Polled) |
/// | `Some(Err(Closed))`, `Some(Err(GroupRefused))` for the reason `FencedInstanceId` | the last one: the log is closed, or another took the place of this static member. `None` follows |
/// | `Some(Err(_))`, any other | the stream goes on, with the other partitions first. An error that is not mended comes again, as [`NoPosition`](Error::NoPosition) until somebody [seeks](Consumer::seek): do not just step over it |
/// | `None` | after the last one, and never without it: that the log was closed is not told by `None` alone |
///
/// Pending, it counts as polling, as [`Consumer::poll_records`] says, and blocks when that does.
#[cfg(feature = "futures")]
impl futures_core::Stream for Consumer {
    type Item = Result<Polled>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let polled = std::task::ready!(self.poll_records(context));
        self.is_over = polled.as_ref().is_err_and(is_final);
        Poll::Ready(Some(polled))
    }
}

/// Whether all polls to come would fail with the same.
fn is_final(error: &Error) -> bool {
    matches!(error, Error::Closed | Error::GroupRefused { reason: GroupError::FencedInstanceId, .. })
}
