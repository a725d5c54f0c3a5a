//! Consumers: who reads for a group, by itself or as one of its members.
//!
//! One loop does everything, for threads and for tasks: it looks for records, and if there are none it leaves a waker with
//! each partition. A thread that polls has a waker of its own that it sleeps on.
//!
//! ```text
//! poll:  commit, if due -> membership: answers, listener -> positions -> take of the cursors -> records
//!          ^                                                                 | none
//!          +---------------- woken <--- partition, alarm <--- waker left ----+
//! ```
//!
//! | File | Holds |
//! |---|---|
//! | `cursor`, `cursors` | one partition, and all of them: what is read, and who is next |
//! | `member` | when to join, what is owned: a machine of values |
//! | `membership` | its driver: what it asks the log, in polls and in maintenance |
//! | `rebalance` | what a poll does with what the group decided: partitions taken and given up, the listener |
//! | `fetch` | what the group committed for partitions that are new, or were sent back |
//! | `wait`, `timer` | what else than records wakes a poll |
//! | `places`, `commit`, `faces` | the rest of the public methods: where it reads, what it commits, other ways to poll |
//!
//! Invariants:
//! - The position of a partition is the offset after the last record that was returned, never beyond.
//! - Nothing is returned of a partition from the moment on at which the member knows that it is no longer its own.
//! - The listener and the assignors are called in polls, in `join` and in `close` only, with no lock held.

mod builder;
mod commit;
mod cursor;
mod cursors;
mod faces;
mod fetch;
mod listener;
mod member;
mod membership;
mod places;
mod polled;
mod rebalance;
mod timer;
mod wait;

#[cfg(all(test, feature = "sim"))]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

pub use builder::{AutoOffsetReset, ConsumerBuilder};
pub use faces::{ConsumerIter, MergedByTime};
pub use listener::RebalanceListener;
pub use polled::{Consumed, Polled, PolledIter, Reset};
pub use wait::ConsumerWaker;

use self::builder::{Joining, Settings};
use self::cursor::{Cursor, Policy};
use self::cursors::Cursors;
use self::fetch::Fetch;
use self::membership::Membership;
use self::timer::Timer;
use self::wait::Alarm;
use super::signal::{LONGEST, SHORTEST, Signal};
use crate::error::{Error, Result};
use crate::log::{Group, Log};
use crate::types::{Timestamp, TopicPartition};

/// Reads partitions for a group, and commits how far it came. Made by [`Log::consumer`](crate::Log::consumer).
///
/// [`ConsumerBuilder::join`] makes a member of the group, which shares the partitions of its topics with the other members;
/// [`ConsumerBuilder::assign`] one that reads the partitions it names. Poll a member regularly: what it has to do for its
/// group, it does in polls. It belongs to one thread at a time, and keeps the log open.
///
/// A record is delivered at least once: who commits after it has processed what a poll returned, begins again behind that,
/// also after a crash. Dropped, a member leaves its group and commits nothing; [`close`](Self::close) says what went wrong.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use std::time::Duration;
/// use chiplog::{AutoOffsetReset, GroupConfig, Log, Record};
///
/// let at_once = GroupConfig::default().initial_rebalance_delay(Duration::ZERO);
/// let log = Log::builder(dir.path()).groups(at_once).open()?;
/// for value in ["paid", "sent"] {
///     log.append(Record::new(value).to("orders"))?;
/// }
///
/// let billing = || log.consumer("billing").topics(["orders"]).auto_offset_reset(AutoOffsetReset::Earliest);
/// let mut consumer = billing().max_poll_records(1).join()?;
/// let polled = consumer.poll(Duration::from_secs(60))?;
/// for (partition, record) in &polled {
///     assert_eq!((partition.to_string().as_str(), record.value), ("orders-0", Some(&b"paid"[..])));
/// }
/// consumer.commit()?; // it is processed
/// consumer.close()?;
///
/// let mut consumer = billing().join()?;
/// let polled = consumer.poll(Duration::from_secs(60))?;
/// assert_eq!(polled.iter().next().unwrap().1.value, Some(&b"sent"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Consumer {
    log: Log,
    group: Group,
    settings: Settings,
    cursors: Cursors,
    fetch: Fetch,
    /// None of one that reads what it was told.
    membership: Option<Membership>,
    /// When to commit next, if that is done by itself.
    next_commit: Option<Duration>,
    /// Whether the listener is at work.
    is_rebalancing: bool,
    alarm: Arc<Alarm>,
    timer: Arc<Timer>,
    signal: Arc<Signal>,
    /// Sets the signal.
    waker: Waker,
    is_closed: bool,
    /// The stream of it has ended.
    #[cfg(feature = "futures")]
    is_over: bool,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let partitions: Vec<_> = self.cursors.iter().map(|cursor| cursor.id.to_string()).collect();
        f.debug_struct("Consumer").field("group", &self.group.id()).field("partitions", &partitions).finish()
    }
}

/// What came of looking for something.
enum Next<T> {
    Found(T),
    /// The application wants to go on with something else.
    Woken,
    /// The time ran out.
    Late,
}

impl Consumer {
    fn new(log: Log, group: &str, settings: Settings, is_member: bool) -> Result<Self> {
        log.check_open()?;
        let group = log.group(group)?;
        let (alarm, signal) = (Arc::<Alarm>::default(), Arc::new(Signal::default()));
        let now = log.clock().monotonic();
        Ok(Self {
            cursors: Cursors::new(is_member),
            fetch: Fetch::new(&log, group.id(), Waker::from(Arc::clone(&alarm))),
            group,
            membership: None,
            next_commit: settings.auto_commit.map(|interval| now.saturating_add(interval)),
            is_rebalancing: false,
            timer: Timer::new(&log, Arc::clone(&alarm)),
            alarm,
            waker: Waker::from(Arc::clone(&signal)),
            signal,
            is_closed: false,
            #[cfg(feature = "futures")]
            is_over: false,
            settings,
            log,
        })
    }

    fn by_hand(
        log: Log,
        group: &str,
        settings: Settings,
        partitions: impl IntoIterator<Item = TopicPartition>,
    ) -> Result<Self> {
        let mut consumer = Self::new(log, group, settings, false)?;
        for id in partitions {
            let cursor = consumer.open(&id)?;
            consumer.cursors.insert(cursor);
        }
        Ok(consumer)
    }

    fn joining(log: Log, group: &str, settings: Settings, joining: Joining) -> Result<Self> {
        let mut consumer = Self::new(log, group, settings, true)?;
        consumer.membership = Some(Membership::new(&consumer.log, joining, Arc::clone(&consumer.alarm)));
        // It is on its way from here on. What it is told, it is told by polls.
        consumer.attend()?;
        Ok(consumer)
    }

    fn open(&self, id: &TopicPartition) -> Result<Cursor> {
        let topic = self.log.find_topic(&id.topic);
        let topic = topic.ok_or_else(|| Error::TopicNotFound { topic: (*id.topic).into() })?;
        let partition = topic.partition(id.partition)?;
        Ok(Cursor::new(id.clone(), &partition, self.settings.options(), self.settings.isolation))
    }

    /// Returns the next records, as many as the limits allow: at once if there are some, else it waits for them, at most for
    /// `timeout`. Empty if the time ran out; or for a reason that [`Polled`] tells.
    ///
    /// Partitions take turns. A member joins its group, gives up and takes over partitions here, with calls of its
    /// [listener](ConsumerBuilder::listener), and gets no records before it has partitions. Nothing is made durable by
    /// this, unless the consumer [commits by itself](ConsumerBuilder::auto_commit).
    ///
    /// # Errors
    ///
    /// Nothing is lost by an error: the next poll goes on with the other partitions.
    ///
    /// - [`Error::NoPosition`] if there is no offset to go on from and the consumer is to choose none.
    /// - [`Error::GroupRefused`] if the member cannot join its group: of kind [`Fenced`](crate::ErrorKind::Fenced) for good.
    /// - [`Error::InvalidSetting`] if an assignor gives what it may not.
    /// - Those of the listener; those of [`Partition::read`](crate::Partition::read), but for offsets that are out of range;
    ///   [`Error::Closed`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::{Log, Record, TopicPartition};
    ///
    /// let log = Log::open(dir.path())?;
    /// let orders = log.topic("orders")?;
    /// let mut consumer = log.consumer("billing").assign([TopicPartition::new("orders", 0)])?;
    /// assert!(consumer.poll(Duration::ZERO)?.is_empty()); // begins at the end, by default
    /// orders.append("paid")?;
    /// assert_eq!(consumer.poll(Duration::ZERO)?.iter().count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn poll(&mut self, timeout: Duration) -> Result<Polled> {
        let next = self.wait_for(Some(timeout), |cursors, settings, policy| cursors.take(settings, policy));
        self.polled(next?)
    }

    fn polled(&mut self, next: Next<Polled>) -> Result<Polled> {
        Ok(match next {
            Next::Found(polled) => polled,
            Next::Woken => Polled { is_woken: true, ..Polled::default() },
            Next::Late => Polled::default(),
        })
    }

    /// A handle that ends a poll early, for other threads.
    ///
    /// # Example
    ///
    /// See [`ConsumerWaker`].
    #[must_use]
    pub fn waker(&self) -> ConsumerWaker {
        ConsumerWaker(Arc::clone(&self.alarm))
    }

    /// The partitions it reads now, in order.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, TopicConfig, TopicPartition};
    ///
    /// let log = Log::open(dir.path())?;
    /// log.create_topic("orders", TopicConfig::default().partitions(3))?;
    /// let odd = TopicPartition::new("orders", 1);
    /// let consumer = log.consumer("billing").assign([odd.clone()])?;
    /// assert_eq!(consumer.assignment(), [odd]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.cursors.iter().map(|cursor| cursor.id.clone()).collect()
    }

    /// The id of its group.
    #[must_use]
    pub fn group_id(&self) -> &str {
        self.group.id()
    }

    /// The id that its group knows it by, once it joined; none of one that is no member.
    #[must_use]
    pub fn member_id(&self) -> Option<Box<str>> {
        self.membership.as_ref().and_then(|membership| membership.shared.member_id())
    }

    /// Ends it: commits, if it does so by itself, tells the listener that all is revoked, or lost if the group had taken the
    /// member for dead, and leaves the group. The others take over in their next polls, for which those that wait are woken. A
    /// static member stays in the group, for as long as its session lasts. Waits until the group has stored that it left.
    ///
    /// # Errors
    ///
    /// The first of what went wrong; it is closed all the same. As for [`commit`](Self::commit), and those of the listener.
    ///
    /// # Example
    ///
    /// See [`RebalanceListener`].
    pub fn close(mut self) -> Result<()> {
        self.is_closed = true;
        let all = self.cursors.iter().map(|cursor| cursor.id.clone()).collect();
        let mut first = Ok(());
        if let Some(membership) = &self.membership {
            // Who is out already, and was not told yet, has nothing to give up any more.
            let is_in = membership.shared.caller().is_ok();
            first = if is_in { self.give_up(&all) } else { self.lose(&all) };
        } else if self.settings.auto_commit.is_some() {
            first = self.commit();
        }
        let left = self.membership.as_ref().and_then(|membership| membership.shared.leave());
        let left = left.map_or(Ok(()), |reply| match reply.wait() {
            // It was none any more.
            Err(Error::GroupRefused { .. }) => Ok(()),
            answer => answer.map(drop),
        });
        first.and(left)
    }
}

/// A member that is dropped leaves. What it processed since it committed last is delivered again, to another.
impl Drop for Consumer {
    fn drop(&mut self) {
        if let Some(membership) = self.membership.as_ref().filter(|_| !self.is_closed) {
            // There is nobody to tell.
            drop(membership.shared.leave());
        }
    }
}

/// The loop.
impl Consumer {
    /// Looks until `take` finds something, at most for `timeout`, without end if there is none.
    fn wait_for<T>(
        &mut self,
        timeout: Option<Duration>,
        mut take: impl FnMut(&mut Cursors, &Settings, Policy) -> Result<Option<T>>,
    ) -> Result<Next<T>> {
        // Mostly there is something, and nobody need be woken.
        match self.turn(None, &mut take)? {
            Poll::Ready(next) => Ok(next),
            Poll::Pending if timeout == Some(Duration::ZERO) => Ok(Next::Late),
            Poll::Pending => self.sleep_for(timeout.unwrap_or(Duration::MAX), take),
        }
    }

    fn sleep_for<T>(
        &mut self,
        timeout: Duration,
        mut take: impl FnMut(&mut Cursors, &Settings, Policy) -> Result<Option<T>>,
    ) -> Result<Next<T>> {
        let (signal, waker) = (Arc::clone(&self.signal), self.waker.clone());
        let mut context = Context::from_waker(&waker);
        let (mut left, mut deadline) = (timeout, None);
        loop {
            signal.reset();
            if let Poll::Ready(next) = self.turn(Some(&mut context), &mut take)? {
                return Ok(next);
            }
            let now = self.log.clock().monotonic();
            let deadline = *deadline.get_or_insert(now.saturating_add(left));
            left = left.min(deadline.saturating_sub(now));
            if left.is_zero() {
                self.waits(false);
                return Ok(Next::Late);
            }
            let due = self.membership.as_ref().and_then(|membership| membership.shared.next_deadline());
            let due = due.into_iter().chain(self.next_due()).min();
            let time = due.map_or(left, |due| due.saturating_sub(now).clamp(SHORTEST, left.max(SHORTEST)));
            let time = time.min(LONGEST);
            if !signal.wait(time) {
                // By the system's time: the log's clock may be one that stands still.
                left = left.saturating_sub(time);
            }
        }
    }

    /// Looks once. Without a context it leaves no waker.
    fn turn<T>(
        &mut self,
        context: Option<&mut Context<'_>>,
        take: &mut impl FnMut(&mut Cursors, &Settings, Policy) -> Result<Option<T>>,
    ) -> Result<Poll<Next<T>>> {
        let turned = self.look(context, take);
        if turned.is_err() {
            // The application is at it, also if this did not come as far as to say so.
            self.waits(false);
        }
        turned
    }

    fn look<T>(
        &mut self,
        mut context: Option<&mut Context<'_>>,
        take: &mut impl FnMut(&mut Cursors, &Settings, Policy) -> Result<Option<T>>,
    ) -> Result<Poll<Next<T>>> {
        if self.is_rebalancing {
            return Ok(Poll::Ready(Next::Late));
        }
        loop {
            self.alarm.begin();
            if self.alarm.take_woken() {
                self.waits(false);
                return Ok(Poll::Ready(Next::Woken));
            }
            let unbegun = self.attend()?;
            let policy = self.policy();
            if let Some(found) = take(&mut self.cursors, &self.settings, policy)? {
                return Ok(Poll::Ready(Next::Found(found)));
            }
            if let Some(error) = unbegun {
                return Err(error);
            }
            if self.timer.is_closed() {
                return Err(Error::Closed);
            }
            let Some(context) = &mut context else { return Ok(Poll::Pending) };
            let is_readable = match self.cursors.poll_readable(context) {
                Poll::Ready(readable) => readable.map(|()| true)?,
                Poll::Pending => false,
            };
            if !is_readable && !self.alarm.keep(context.waker()) {
                self.timer.set(self.next_due());
                self.waits(true);
                return Ok(Poll::Pending);
            }
        }
    }

    /// Tells the group whether the application waits, however long, or is at work.
    fn waits(&self, is_waiting: bool) {
        if let Some(membership) = &self.membership {
            membership.shared.waits(is_waiting);
        }
    }

    fn policy(&self) -> Policy {
        let reset = self.settings.reset;
        let now = match reset {
            AutoOffsetReset::ByAge(_) => self.log.clock().now(),
            _ => Timestamp::NONE,
        };
        Policy { reset, now }
    }

    /// When one that waits has something to do by itself, beside what its group asks for.
    fn next_due(&self) -> Option<Duration> {
        self.next_commit.into_iter().chain(self.fetch.retry_at()).min()
    }

    /// What is to be done beside reading. Returns why a partition could not be begun, which keeps no other from being read.
    fn attend(&mut self) -> Result<Option<Error>> {
        let is_begun = self.cursors.unknown().next().is_none() && self.fetch.is_idle();
        if is_begun && self.membership.is_none() && self.next_commit.is_none() {
            return Ok(None);
        }
        let now = self.log.clock().monotonic();
        self.commit_if_due(now)?;
        self.rebalance(now)?;
        Ok(self.find_positions(now).err())
    }

    /// Finds out where to begin, of partitions that are new, or to go back to.
    fn find_positions(&mut self, now: Duration) -> Result<()> {
        let unknown: Vec<_> = self.cursors.unknown().map(|cursor| cursor.id.clone()).collect();
        let (policy, mut first) = (self.policy(), Ok(()));
        for (id, committed) in self.fetch.poll(unknown, now)? {
            // It may have been given up, or moved by the application, meanwhile.
            if let Ok(cursor) = self.cursors.get_mut(&id)
                && cursor.position().is_none()
            {
                match cursor.begin(committed, policy) {
                    // The group of a member hears of it.
                    Err(Error::TopicDeleted { .. }) if self.membership.is_some() => {}
                    begun => first = first.and(begun),
                }
            }
        }
        first
    }
}
