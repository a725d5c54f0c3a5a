//! Settings of a consumer, and how one is made.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Consumer;
use super::listener::RebalanceListener;
use super::member::MemberSettings;
use crate::error::{Error, Result};
use crate::group::MAX_CLIENT_ID_LEN;
use crate::group::assign::{Assignor, CooperativeSticky, Range};
use crate::log::Log;
use crate::partition::{Isolation, ReadOptions};
use crate::types::TopicPartition;

/// Where a consumer begins to read a partition for which its group committed no offset, and where it goes on if the log does
/// not have the next one any more. Kafka: `auto.offset.reset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum AutoOffsetReset {
    /// At the first record there is. Kafka: `earliest`.
    Earliest,
    /// At the end: only what is appended from then on is read. Kafka: `latest`.
    #[default]
    Latest,
    /// At the first record that is no older than this, by its timestamp. Kafka: `by_duration`, KIP-1106.
    ByAge(Duration),
    /// Nowhere: the poll fails with [`Error::NoPosition`]. Kafka: `none`.
    None,
}

/// Settings of a consumer. Made by [`Log::consumer`](crate::Log::consumer).
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use std::time::Duration;
/// use chiplog::{AutoOffsetReset, Isolation, Log, Record};
///
/// let log = Log::open(dir.path())?;
/// log.append(Record::new("paid").to("orders"))?;
/// let builder = log.consumer("billing").topics(["orders"]).isolation(Isolation::Committed);
/// let mut consumer = builder.auto_offset_reset(AutoOffsetReset::Earliest).join()?;
/// consumer.poll(Duration::ZERO)?; // joins the group; records come once its members have their partitions
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a builder makes nothing by itself"]
pub struct ConsumerBuilder {
    log: Log,
    group: Box<str>,
    interest: Interest,
    settings: Settings,
    client_id: Box<str>,
    instance_id: Option<Box<str>>,
    session_timeout: Duration,
    heartbeat_interval: Duration,
    max_poll_interval: Duration,
    rebalance_timeout: Option<Duration>,
    assignors: Vec<Arc<dyn Assignor>>,
    listener: Option<Box<dyn RebalanceListener>>,
}

/// Which topics a member reads.
#[derive(Clone)]
pub(super) enum Interest {
    Topics(BTreeSet<Arc<str>>),
    Pattern(Arc<dyn Fn(&str) -> bool + Send + Sync>),
}

/// How a consumer reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) isolation: Isolation,
    pub(super) reset: AutoOffsetReset,
    pub(super) max_poll_records: usize,
    pub(super) max_partition_bytes: usize,
    pub(super) max_bytes: usize,
    pub(super) auto_commit: Option<Duration>,
}

impl Settings {
    pub(super) fn options(&self) -> ReadOptions {
        ReadOptions::default().max_bytes(self.max_partition_bytes)
    }
}

/// What makes a consumer a member of its group.
pub(super) struct Joining {
    pub(super) member: MemberSettings,
    pub(super) interest: Interest,
    pub(super) assignors: Vec<Arc<dyn Assignor>>,
    pub(super) listener: Option<Box<dyn RebalanceListener>>,
}

impl fmt::Debug for ConsumerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerBuilder").field("group", &self.group).field("settings", &self.settings).finish()
    }
}

impl Log {
    /// Settings for a consumer of this group: a member of it, which is assigned partitions, or one that reads those it names.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::{AutoOffsetReset, Log, Record, TopicPartition};
    ///
    /// let log = Log::open(dir.path())?;
    /// log.append(Record::new("paid").to("orders"))?;
    ///
    /// let builder = log.consumer("billing").auto_offset_reset(AutoOffsetReset::Earliest);
    /// let mut consumer = builder.assign([TopicPartition::new("orders", 0)])?;
    /// assert_eq!(consumer.poll(Duration::ZERO)?.iter().count(), 1);
    /// consumer.commit()?; // who comes next in this group goes on from here
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn consumer(&self, group: &str) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone(), group)
    }
}

impl ConsumerBuilder {
    fn new(log: Log, group: &str) -> Self {
        Self {
            log,
            group: group.into(),
            interest: Interest::Topics(BTreeSet::new()),
            settings: Settings {
                isolation: Isolation::Uncommitted,
                reset: AutoOffsetReset::Latest,
                max_poll_records: 500,
                max_partition_bytes: 1 << 20,
                max_bytes: 50 << 20,
                auto_commit: None,
            },
            client_id: "consumer".into(),
            instance_id: None,
            session_timeout: Duration::from_secs(45),
            heartbeat_interval: Duration::from_secs(3),
            max_poll_interval: Duration::from_secs(300),
            rebalance_timeout: None,
            assignors: vec![Arc::new(Range), Arc::new(CooperativeSticky)],
            listener: None,
        }
    }

    /// Sets the topics that the member reads. One that does not exist is read once it does.
    ///
    /// Default: none, and [`join`](Self::join) wants some. Kafka: `subscribe`.
    pub fn topics<T: Into<Arc<str>>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.interest = Interest::Topics(topics.into_iter().map(Into::into).collect());
        self
    }

    /// Sets which topics the member reads, by name: those that there are, and those that come to be, which are noticed by the
    /// next poll. The log's own topics are not among them. Called in polls of this consumer, and by [`join`](Self::join).
    ///
    /// Default: see [`topics`](Self::topics), in the place of which this is. Kafka: `subscribe` with a pattern.
    pub fn pattern(mut self, matches: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.interest = Interest::Pattern(Arc::new(matches));
        self
    }

    /// Sets whether records of open and aborted transactions are seen. Records behind an open one are waited for, too.
    ///
    /// Default: [`Isolation::Uncommitted`]. Kafka: `isolation.level`.
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.settings.isolation = isolation;
        self
    }

    /// Sets where a partition is begun for which the group committed nothing, and where reading goes on if the log does not
    /// have what comes next. [`Polled::resets`](crate::Polled::resets) tells of the latter.
    ///
    /// Default: [`AutoOffsetReset::Latest`], as in Kafka: a new group does not read what is there already. Kafka:
    /// `auto.offset.reset`.
    pub fn auto_offset_reset(mut self, reset: AutoOffsetReset) -> Self {
        self.settings.reset = reset;
        self
    }

    /// Sets how many records a poll returns at most. Fewer let the application poll more often, and so leave its group less
    /// often without an answer; more cost less.
    ///
    /// Default: 500. Range: 1 or more. Kafka: `max.poll.records`.
    pub fn max_poll_records(mut self, count: usize) -> Self {
        self.settings.max_poll_records = count;
        self
    }

    /// Sets how many bytes of batches are read of one partition at a time, of which polls hand out records. The first batch
    /// is read whole, however long.
    ///
    /// Default: 1 MiB. Kafka: `max.partition.fetch.bytes`.
    pub fn max_partition_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_partition_bytes = bytes;
        self
    }

    /// Sets how many bytes of batches a poll returns records of. It stops behind the partition with which that is reached, so
    /// it returns a record however long that is.
    ///
    /// Default: 50 MiB. Kafka: `fetch.max.bytes`.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_bytes = bytes;
        self
    }

    /// Sets how often polls commit the positions, before they return new records: what was returned by the polls before counts
    /// as processed then. Also before partitions are given up, and on [`close`](Consumer::close).
    ///
    /// Each commit waits for the disk. One that waits for records commits, too: a thread by itself, a task when
    /// [maintenance](Log::maintain) wakes it. A consumer that is dropped commits nothing.
    ///
    /// Default: `None`, where Kafka has 5 seconds: an application that commits by itself says what it processed, and when it
    /// waits. Kafka: `enable.auto.commit`, `auto.commit.interval.ms`.
    pub fn auto_commit(mut self, interval: impl Into<Option<Duration>>) -> Self {
        self.settings.auto_commit = interval.into();
        self
    }

    /// Sets how long the member may be unheard of before its partitions are given to others. [Maintenance](Log::maintain)
    /// sends its heartbeats, so that is how long the whole process may stand still.
    ///
    /// Default: 45 s. Range: that of the [group settings](crate::GroupConfig::min_session_timeout), 6 s to 30 minutes by
    /// default, or joining is refused. Kafka: `session.timeout.ms`.
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.session_timeout = timeout;
        self
    }

    /// Sets how often the member says that it is alive. Of a rebalance it is told when that begins, whatever this is: a poll that
    /// waits is woken.
    ///
    /// Default: 3 s. Range: 1 ms to less than the session time-out. Kafka: `heartbeat.interval.ms`.
    pub fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.heartbeat_interval = interval;
        self
    }

    /// Sets how long the application may take between polls. If it takes longer, the member leaves its group, and what it
    /// owned is lost to it: the next poll says so, and joins again. A static member is silent instead, until its session ends.
    ///
    /// Default: 5 minutes. Range: 1 ms to 2^31 - 1 ms. Kafka: `max.poll.interval.ms`.
    pub fn max_poll_interval(mut self, interval: Duration) -> Self {
        self.max_poll_interval = interval;
        self
    }

    /// Sets how long a rebalance waits for this member to join again.
    ///
    /// Default: the [longest time between polls](Self::max_poll_interval), as in Kafka. Range: 1 ms to 2^31 - 1 ms.
    pub fn rebalance_timeout(mut self, timeout: Duration) -> Self {
        self.rebalance_timeout = Some(timeout);
        self
    }

    /// Makes it a static member of this name (KIP-345): one that comes back within the session time-out gets the partitions
    /// that it had, and nobody rebalances. Of two of one name, the first is fenced. It does not leave when it is closed.
    ///
    /// Default: none. Range: 1 to 31,963 bytes. Kafka: `group.instance.id`.
    pub fn instance_id(mut self, id: &str) -> Self {
        self.instance_id = Some(id.into());
        self
    }

    /// Sets what the consumer calls itself: the ids of its membership begin with it.
    ///
    /// Default: `consumer`. Range: up to 31,963 bytes. Kafka: `client.id`.
    pub fn client_id(mut self, id: &str) -> Self {
        self.client_id = id.into();
        self
    }

    /// Sets how partitions are divided, the favourite first: the group takes one that all its members have. If all of these are
    /// [cooperative](Assignor::is_cooperative), the member reads on during rebalances. Called in polls, and by
    /// [`join`](Self::join).
    ///
    /// Default: [`Range`], [`CooperativeSticky`], as in Kafka. Kafka: `partition.assignment.strategy`.
    pub fn assignors(mut self, assignors: impl IntoIterator<Item = Arc<dyn Assignor>>) -> Self {
        self.assignors = assignors.into_iter().collect();
        self
    }

    /// Sets who is told of partitions that come and go. Called in polls, by [`join`](Self::join), and by
    /// [`close`](Consumer::close).
    ///
    /// Default: nobody. Kafka: `ConsumerRebalanceListener`.
    pub fn listener(mut self, listener: impl RebalanceListener + 'static) -> Self {
        self.listener = Some(Box::new(listener));
        self
    }

    /// A consumer that is a member of its group, and reads what it is assigned. Polls do what there is to do for that: this
    /// does not wait for other members, only for the disk. It does what the first poll would do, but return records, so it may
    /// call the assignors and the listener.
    ///
    /// The members of a group may be in several threads, each with a consumer of its own; a group is coordinated by the log,
    /// so all of them are in one process. With [`Background::Caller`](crate::Background::Caller) somebody has to call
    /// [`Log::maintain`] meanwhile: the group waits by its clock.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidSetting`] if there are no topics, no assignors, or a setting is out of range.
    /// - [`Error::InvalidGroupId`], [`Error::ReadOnly`], [`Error::Closed`].
    /// - Those of the assignors and of the listener.
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::{AutoOffsetReset, GroupConfig, Log, Record};
    ///
    /// let at_once = GroupConfig::default().initial_rebalance_delay(Duration::ZERO);
    /// let log = Log::builder(dir.path()).groups(at_once).open()?;
    /// log.append(Record::new("paid").to("orders"))?;
    ///
    /// let builder = log.consumer("billing").topics(["orders"]);
    /// let mut consumer = builder.auto_offset_reset(AutoOffsetReset::Earliest).join()?;
    /// let polled = consumer.poll(Duration::from_secs(60))?;
    /// assert_eq!(polled.iter().next().unwrap().1.value, Some(&b"paid"[..]));
    /// consumer.commit()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn join(self) -> Result<Consumer> {
        self.check()?;
        let nothing = matches!(&self.interest, Interest::Topics(topics) if topics.is_empty());
        refuse_if(nothing, "topics", "none", "a member reads at least one topic")?;
        refuse_if(self.assignors.is_empty(), "partition.assignment.strategy", "none", "at least one")?;
        let len = |text: &str| format!("{} bytes", text.len());
        let client = &*self.client_id;
        // Its id, which begins with this, would be refused once it joins with it.
        refuse_if(client.len() > MAX_CLIENT_ID_LEN, "client.id", &len(client), "up to 31963 bytes")?;
        let instance = self.instance_id.as_deref().unwrap_or("-");
        let is_out = instance.is_empty() || instance.len() > MAX_CLIENT_ID_LEN;
        refuse_if(is_out, "group.instance.id", &len(instance), "1 to 31963 bytes")?;
        let member = MemberSettings {
            group: self.group.clone(),
            client_id: self.client_id,
            instance_id: self.instance_id,
            session_timeout: self.session_timeout,
            rebalance_timeout: self.rebalance_timeout.unwrap_or(self.max_poll_interval),
            heartbeat_interval: self.heartbeat_interval,
            max_poll_interval: self.max_poll_interval,
            is_cooperative: self.assignors.iter().all(|assignor| assignor.is_cooperative()),
        };
        let joining = Joining { member, interest: self.interest, assignors: self.assignors, listener: self.listener };
        Consumer::joining(self.log, &self.group, self.settings, joining)
    }

    /// A consumer that reads these partitions, and no others. It is no member: nobody keeps another from reading the same, or
    /// from committing. Do not mix it with members in one group.
    ///
    /// # Errors
    ///
    /// - [`Error::TopicNotFound`], [`Error::PartitionNotFound`] if one does not exist; as for
    ///   [`Topic::partition`](crate::Topic::partition) if it cannot be read.
    /// - [`Error::InvalidSetting`] if a setting is out of range; [`Error::InvalidGroupId`], [`Error::Closed`].
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
    /// consumer.seek(&orders, Offset(1))?;
    /// let polled = consumer.poll(Duration::ZERO)?;
    /// assert_eq!(polled.iter().next().unwrap().1.value, Some(&b"sent"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn assign(self, partitions: impl IntoIterator<Item = TopicPartition>) -> Result<Consumer> {
        self.check()?;
        Consumer::by_hand(self.log, &self.group, self.settings, partitions)
    }

    fn check(&self) -> Result<()> {
        let text = |time: Duration| time.as_millis().to_string();
        let is_long = |time: Duration| time.as_millis() > i32::MAX as u128;
        refuse_if(self.settings.max_poll_records == 0, "max.poll.records", "0", "1 or more")?;
        let (beat, session) = (self.heartbeat_interval, self.session_timeout);
        let is_out = beat.as_millis() == 0 || beat >= session;
        refuse_if(is_out, "heartbeat.interval.ms", &text(beat), "1 to less than session.timeout.ms")?;
        let poll = self.max_poll_interval;
        let is_out = poll.as_millis() == 0 || is_long(poll);
        refuse_if(is_out, "max.poll.interval.ms", &text(poll), "1 to 2147483647")?;
        let rebalance = self.rebalance_timeout.unwrap_or(poll);
        // In no time nobody can join: no rebalance would come to an end.
        let is_out = rebalance.as_millis() == 0 || is_long(rebalance);
        refuse_if(is_out, "rebalance.timeout.ms", &text(rebalance), "1 to 2147483647")?;
        let commit = self.settings.auto_commit;
        let is_out = commit.is_some_and(|interval| interval.as_millis() == 0);
        refuse_if(is_out, "auto.commit.interval.ms", "0", "1 or more")
    }
}

fn refuse_if(is_wrong: bool, key: &str, value: &str, allowed: &str) -> Result<()> {
    let refused = || Error::InvalidSetting { key: key.into(), value: value.into(), allowed: allowed.into() };
    if is_wrong { Err(refused()) } else { Ok(()) }
}
