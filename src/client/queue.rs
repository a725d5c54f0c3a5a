//! Queues for applications: who takes records of a topic one by one, and says of each what became of it.
//!
//! What is shared by all who have a queue open is [`SharedQueue`], in `log/queues.rs`; this is the handle of one worker.

mod builder;
mod task;

#[cfg(all(test, feature = "sim"))]
mod crash_tests;
#[cfg(all(test, feature = "sim"))]
mod damage_tests;
#[cfg(all(test, feature = "sim"))]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

pub use builder::QueueBuilder;
pub use task::Task;

use super::signal::{LONGEST, SHORTEST, Signal};
use crate::error::Result;
use crate::group::share::{Verdict, Worker};
use crate::log::{Log, Progress, SharedQueue};
use crate::partition::{Ack, Isolation, Partition, ReadOptions};
use crate::types::{Offset, TopicPartition};
use crate::watermark::Reached;

/// One worker of a queue: a group that shares the records of one topic, record by record. Made by
/// [`Log::queue`](crate::Log::queue).
///
/// Any number of workers take from the same queue, more than the topic has partitions, too. Each record is with one of them at
/// a time, until that one [accepts](Task::accept), [releases](Task::release) or [rejects](Task::reject) it, or had it for too
/// long. A record that was handed out [too often](QueueBuilder::max_deliveries), or is rejected, goes to the topic of
/// [dead letters](QueueBuilder::dead_letters), if there is one. After Kafka's share groups (KIP-932).
///
/// A record is done at least once: a worker that dies behind its work and before it said so leaves it to another. Records are
/// handed out in the order of a partition, and done in any order.
///
/// Dropped, it gives back what it has. It keeps the log open, and so does a [`Task`].
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use std::time::Duration;
/// use chiplog::{Log, Record};
///
/// let log = Log::open(dir.path())?;
/// for mail in ["to ada", "to nobody", "to alan"] {
///     log.append(Record::new(mail).to("mails"))?;
/// }
///
/// let mut queue = log.queue("senders", "mails").dead_letters("mails.dead").open()?;
/// while let Some(task) = queue.take(Duration::ZERO)? {
///     match task.record().value {
///         Some(b"to nobody") => task.reject()?,
///         _ => task.accept()?,
///     }
/// }
/// assert_eq!(queue.backlog(), 0);
///
/// let letters = log.topic("mails.dead")?.partition(0)?.read(chiplog::Offset::ZERO)?;
/// let letter = letters.iter().next().unwrap();
/// assert_eq!(letter.value, Some(&b"to nobody"[..]));
/// let why = letter.headers().find(|header| header.key == "__dlq.errors.message");
/// assert_eq!(why.unwrap().value, Some(&b"rejected"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Queue {
    desk: Arc<Desk>,
    partitions: Vec<Partition>,
    /// Whose turn it is.
    first: usize,
    max_bytes: usize,
    isolation: Isolation,
    /// Keep this worker on the lists of the partitions while it waits.
    waiting: Vec<Reached>,
    signal: Arc<Signal>,
    waker: Waker,
}

/// What a worker's tasks need of it.
#[derive(Debug)]
struct Desk {
    log: Log,
    shared: Arc<SharedQueue>,
    worker: Worker,
    ack: Ack,
}

/// By partition.
type Offsets = BTreeMap<u32, Vec<Offset>>;

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (group, worker) = (self.desk.shared.group(), self.desk.worker);
        f.debug_struct("Queue").field("group", &group).field("worker", &worker.0).finish_non_exhaustive()
    }
}

/// How far a queue is with one partition. Made by [`Queue::progress`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueProgress {
    /// Which partition.
    pub partition: TopicPartition,
    /// All records below are done. Kafka: the share-partition start offset.
    pub start: Offset,
    /// No record from here on was handed out yet.
    pub next: Offset,
    /// The end of the partition.
    pub end: Offset,
    /// How many records are with a worker.
    pub taken: usize,
    /// How many were handed out and are not done: those that are with a worker, and those that were given back.
    pub in_flight: usize,
}

/// A queue, as [`Log::list_queues`](crate::Log::list_queues) tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedQueue {
    /// The group.
    pub group: Box<str>,
    /// The topic whose records it shares.
    pub topic: Arc<str>,
    /// How far it is.
    pub partitions: Vec<QueueProgress>,
}

impl ListedQueue {
    /// How many offsets are not done yet, as [`Queue::backlog`] counts them.
    #[must_use]
    pub fn backlog(&self) -> u64 {
        self.partitions.iter().map(QueueProgress::backlog).sum()
    }
}

impl QueueProgress {
    fn of((partition, progress): (TopicPartition, Progress)) -> Self {
        let Progress { start, next, end, taken, open } = progress;
        Self { partition, start, next, end, taken, in_flight: open }
    }

    fn backlog(&self) -> u64 {
        self.end.0.saturating_sub(self.next.0) + self.in_flight as u64
    }
}

impl Log {
    /// Every queue there is, whoever has it open, with how far it is. Opens none, so that it changes no settings.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`](crate::Error::Closed).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::Log;
    ///
    /// let log = Log::open(dir.path())?;
    /// log.topic("mails")?.partition(0)?.append_all(["to ada", "to alan", "to emmy"])?;
    /// log.queue("senders", "mails").open()?.take(Duration::ZERO)?.unwrap().accept()?;
    /// let queues = log.list_queues()?;
    /// assert_eq!((&*queues[0].group, &*queues[0].topic, queues[0].backlog()), ("senders", "mails", 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn list_queues(&self) -> Result<Vec<ListedQueue>> {
        self.check_open()?;
        let found = self.queue_progress().into_iter();
        let listed = found.map(|((group, topic), partitions)| {
            let partitions = partitions.into_iter().map(QueueProgress::of).collect();
            ListedQueue { group, topic, partitions }
        });
        Ok(listed.collect())
    }
}

impl Queue {
    fn new(log: Log, shared: Arc<SharedQueue>, builder: &QueueBuilder) -> Self {
        let signal = Arc::new(Signal::default());
        let worker = shared.new_worker();
        Self {
            desk: Arc::new(Desk { log, shared, worker, ack: builder.ack }),
            partitions: Vec::new(),
            first: 0,
            max_bytes: builder.max_bytes,
            isolation: builder.isolation,
            waiting: Vec::new(),
            waker: Waker::from(Arc::clone(&signal)),
            signal,
        }
    }

    /// Takes the next record; waits for one if there is none, at most for `timeout`.
    ///
    /// That it was handed out survives the death of the process, and not each power cut: see
    /// [`max_deliveries`](QueueBuilder::max_deliveries).
    ///
    /// # Errors
    ///
    /// - Those of [`Partition::read`]: nothing is passed over, and the next call begins with another partition.
    /// - What keeps the log from storing that it was handed out, or its dead letters: [`Error::LowSpace`](crate::Error::LowSpace),
    ///   [`Error::Io`](crate::Error::Io), [`Error::Poisoned`](crate::Error::Poisoned). It is handed out later; a letter that cannot be
    ///   written is told only where there is nothing else to hand out.
    /// - [`Error::TopicDeleted`](crate::Error::TopicDeleted), [`Error::Closed`](crate::Error::Closed).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::{Log, Record};
    ///
    /// let log = Log::open(dir.path())?;
    /// let mut queue = log.queue("senders", "mails").open()?;
    /// assert!(queue.take(Duration::ZERO)?.is_none());
    /// log.append(Record::new("to ada").to("mails"))?;
    /// let task = queue.take(Duration::ZERO)?.unwrap();
    /// assert_eq!((task.record().value, task.deliveries()), (Some(&b"to ada"[..]), 1));
    /// assert!(queue.take(Duration::ZERO)?.is_none(), "it is taken");
    /// drop(task); // gives it back
    /// assert_eq!(queue.take(Duration::ZERO)?.unwrap().deliveries(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn take(&mut self, timeout: Duration) -> Result<Option<Task>> {
        Ok(self.take_many(1, timeout)?.pop())
    }

    /// Takes up to `max` records that are there; waits for the first, at most for `timeout`. Cheaper than one by one.
    ///
    /// # Errors
    ///
    /// As for [`take`](Self::take).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::Log;
    ///
    /// let log = Log::open(dir.path())?;
    /// log.topic("mails")?.partition(0)?.append_all(["to ada", "to alan", "to emmy"])?;
    /// let mut queue = log.queue("senders", "mails").open()?;
    /// let tasks = queue.take_many(2, Duration::ZERO)?;
    /// assert_eq!(tasks.len(), 2);
    /// queue.accept_all(tasks)?;
    /// assert_eq!(queue.backlog(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn take_many(&mut self, max: usize, timeout: Duration) -> Result<Vec<Task>> {
        let (signal, waker) = (Arc::clone(&self.signal), self.waker.clone());
        let mut context = Context::from_waker(&waker);
        let (mut left, mut deadline) = (timeout, None);
        loop {
            signal.reset();
            if left.is_zero() {
                return self.look(max);
            }
            if let Poll::Ready(tasks) = self.poll_tasks(max, &mut context) {
                return tasks;
            }
            let now = self.desk.log.clock().monotonic();
            let deadline = *deadline.get_or_insert(now.saturating_add(left));
            left = left.min(deadline.saturating_sub(now));
            let due = self.desk.shared.next_deadline();
            let time =
                due.map_or(left, |due| due.saturating_sub(now).clamp(SHORTEST, left.max(SHORTEST))).min(LONGEST);
            if !signal.wait(time) {
                // By the system's time: the log's clock may be one that stands still.
                left = left.saturating_sub(time);
            }
        }
    }

    /// Takes up to `max` records as a future, on any runtime: resolves once there is one. Dropped before, nothing is taken.
    ///
    /// That the time of another worker is over is noticed while the log is [maintained](crate::Log::maintain).
    ///
    /// # Errors
    ///
    /// As for [`take`](Self::take).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::future::Future;
    /// use std::pin::pin;
    /// use std::task::{Context, Poll, Waker};
    /// use chiplog::{Log, Record};
    ///
    /// let log = Log::open(dir.path())?;
    /// let mut queue = log.queue("senders", "mails").open()?;
    /// let mut context = Context::from_waker(Waker::noop()); // your runtime's
    /// let mut next = pin!(queue.next_tasks(10));
    /// assert!(next.as_mut().poll(&mut context).is_pending());
    /// log.append(Record::new("to ada").to("mails"))?;
    /// let Poll::Ready(tasks) = next.as_mut().poll(&mut context) else { panic!("there is one") };
    /// assert_eq!(tasks?.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn next_tasks(&mut self, max: usize) -> impl Future<Output = Result<Vec<Task>>> + Send + '_ {
        std::future::poll_fn(move |context| self.poll_tasks(max, context))
    }

    /// Looks for up to `max` records, and leaves a waker if there are none.
    fn poll_tasks(&mut self, max: usize, context: &mut Context<'_>) -> Poll<Result<Vec<Task>>> {
        let shared = Arc::clone(&self.desk.shared);
        loop {
            let rung = shared.bell().count();
            let seen: Vec<Offset> = self.partitions.iter().map(|partition| partition.core.end()).collect();
            match self.look(max) {
                Ok(tasks) if tasks.is_empty() && max > 0 => {}
                looked => return Poll::Ready(looked),
            }
            if shared.bell().keep(self.desk.worker, context.waker(), rung) || self.partitions.len() > seen.len() {
                continue;
            }
            self.waiting.clear();
            let mut is_more = false;
            for (partition, seen) in self.partitions.iter().zip(seen) {
                let mut reached = partition.core.end.reached(seen.0 + 1);
                match Pin::new(&mut reached).poll(context) {
                    Poll::Pending => self.waiting.push(reached),
                    Poll::Ready(Ok(())) => is_more = true,
                    Poll::Ready(Err(stop)) => return Poll::Ready(Err(partition.core.stopped(stop))),
                }
            }
            if !is_more {
                return Poll::Pending;
            }
        }
    }

    /// Takes what is there.
    fn look(&mut self, max: usize) -> Result<Vec<Task>> {
        let desk = &self.desk;
        // A letter that cannot be written keeps nobody from the rest.
        let buried = desk.shared.bury();
        for core in desk.shared.grow()?.into_iter().skip(self.partitions.len()) {
            // Tasks and this handle keep the log open, each by its desk.
            self.partitions.push(Partition::new(core, Arc::new(())));
        }
        let (mut tasks, count) = (Vec::new(), self.partitions.len());
        let begin = self.first;
        for step in 0..count {
            let at = (begin + step) % count;
            let partition = &self.partitions[at];
            let options = ReadOptions::default().max_bytes(self.max_bytes).isolation(self.isolation);
            let read = |from, count| partition.read_with(from, options.max_records(count));
            let handed = match desk.shared.take(at, desk.worker, max - tasks.len(), !tasks.is_empty(), read) {
                // It fails again, first of all, once these are dealt with.
                Err(_) if !tasks.is_empty() => {
                    self.first = at;
                    return Ok(tasks);
                }
                Err(error) => {
                    // The next call begins with another.
                    self.first = at + 1;
                    return Err(error);
                }
                Ok(handed) => handed,
            };
            let id = &partition.core.id;
            tasks.extend(handed.into_iter().map(|handed| Task::new(Arc::clone(desk), id.clone(), handed)));
            if tasks.len() == max || tasks.last().is_some_and(|task| desk.shared.was_last_chance(task.deliveries())) {
                self.first = at + 1;
                break;
            }
        }
        if tasks.is_empty() {
            buried?;
        }
        Ok(tasks)
    }

    /// Accepts all of them, also those of other workers: as [`Task::accept`], with one record and one sync for those of one
    /// partition. What those of one partition come to is stored as a whole.
    ///
    /// # Errors
    ///
    /// As for [`Task::accept`]. What is not with its worker any more does not keep the others from being accepted: the error
    /// tells of the first that is not. To know of each, accept them one by one.
    ///
    /// # Example
    ///
    /// See [`take_many`](Self::take_many).
    pub fn accept_all(&self, tasks: impl IntoIterator<Item = Task>) -> Result<()> {
        let mut by_desk: Vec<(Arc<Desk>, Offsets)> = Vec::new();
        for task in tasks {
            let (desk, partition, offset) = task.decided();
            match by_desk.last_mut() {
                Some((last, offsets)) if Arc::ptr_eq(last, &desk) => {
                    offsets.entry(partition).or_default().push(offset)
                }
                _ => by_desk.push((desk, BTreeMap::from([(partition, vec![offset])]))),
            }
        }
        let accept = |(desk, offsets): (Arc<Desk>, Offsets)| {
            desk.shared.decide(desk.worker, &offsets, Verdict::Accept, self.desk.ack)
        };
        by_desk.into_iter().map(accept).fold(Ok(()), Result::and)
    }

    /// How many offsets of the topic are not done yet, with those that hold no record. Kafka: the lag of a share group.
    ///
    /// # Example
    ///
    /// See [`take_many`](Self::take_many).
    #[must_use]
    pub fn backlog(&self) -> u64 {
        self.progress().iter().map(QueueProgress::backlog).sum()
    }

    /// How far the queue is, by partition.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::{Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// log.topic("mails")?.partition(0)?.append_all(["to ada", "to alan", "to emmy"])?;
    /// let mut queue = log.queue("senders", "mails").open()?;
    /// let task = queue.take(Duration::ZERO)?;
    /// queue.take(Duration::ZERO)?.unwrap().accept()?;
    /// let progress = &queue.progress()[0];
    /// assert_eq!((progress.start, progress.next, progress.taken), (Offset(0), Offset(2), 1));
    /// # drop(task);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn progress(&self) -> Vec<QueueProgress> {
        self.desk.shared.progress().into_iter().map(QueueProgress::of).collect()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.desk.shared.release(self.desk.worker, None);
    }
}
