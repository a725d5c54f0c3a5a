//! Groups, for who administers them: how far behind they are, and where else they are to go on.

use std::sync::Arc;

use super::groups::{Group, TopicRead};
use super::{Log, Topic};
use crate::error::{Error, GroupError, Result};
use crate::group::{Answer, Caller, Committed, DescribedGroup, GroupOffset, ListGroups, ListedGroup, Request};
use crate::partition::{Ack, Partition};
use crate::types::{Offset, Timestamp, TopicPartition};

/// Where a group is to go on: of each partition the offset is found anew. For [`Group::plan_reset`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OffsetTarget {
    /// The first record there is. Kafka: `--to-earliest`.
    Earliest,
    /// Behind all that there is now. Kafka: `--to-latest`.
    Latest,
    /// The first record, by offset, whose timestamp is this or later; behind all if there is none. Kafka: `--to-datetime`.
    Time(Timestamp),
    /// This offset, or the nearest that the log has. Kafka: `--to-offset`.
    Offset(Offset),
    /// So many offsets further than what is committed, or back if negative, or the nearest that the log has. Kafka:
    /// `--shift-by`.
    Shift(i64),
}

/// How far behind a group is in one partition. Made by [`Group::lag`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupLag {
    /// The partition.
    pub partition: TopicPartition,
    /// What the group committed.
    pub committed: Committed,
    /// Where the partition ends; none if it is not in this log, or cannot be read.
    pub end: Option<Offset>,
    /// How many offsets lie between the two, so as many records at most: 0 if the offset is above the end.
    pub lag: Option<u64>,
}

/// What a reset does to one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OffsetMove {
    /// The partition.
    pub partition: TopicPartition,
    /// What was committed when this was planned.
    pub from: Option<Offset>,
    /// What is to be committed.
    pub to: Offset,
}

/// New offsets for a group, to be looked at, and applied or dropped. Made by [`Group::plan_reset`].
#[derive(Debug, Clone)]
#[must_use = "a plan changes nothing until it is applied"]
pub struct ResetPlan {
    group: Group,
    moves: Vec<OffsetMove>,
    /// What the moves are about: not a topic that has the name of one by then.
    topics: Vec<TopicRead>,
}

impl Log {
    /// Every group with its state, by id; [`groups`](Self::groups) tells the ids alone.
    ///
    /// # Errors
    ///
    /// As for [`groups`](Self::groups).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::group::GroupState;
    /// use chiplog::{Log, Offset};
    ///
    /// let log = Log::open(dir.path())?;
    /// log.group("billing")?.commit("orders", 0, Offset(42))?;
    /// let listed = log.list_groups()?;
    /// assert_eq!((&*listed[0].group, listed[0].state), ("billing", Some(GroupState::Empty)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn list_groups(&self) -> Result<Vec<ListedGroup>> {
        match self.ask_coordinator(Request::List(ListGroups::default())).wait()? {
            Answer::Groups(groups) => Ok(groups),
            _ => Ok(Vec::new()),
        }
    }
}

impl Group {
    /// Its state, and its members with what they read: [`DescribedMember::assigned`](crate::group::DescribedMember::assigned)
    /// decodes that.
    ///
    /// # Errors
    ///
    /// [`Error::GroupRefused`] if there is no such group; those of [`committed`](Self::committed).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use std::time::Duration;
    /// use chiplog::group::GroupState;
    /// use chiplog::{GroupConfig, Log, TopicPartition};
    ///
    /// let at_once = GroupConfig::default().initial_rebalance_delay(Duration::ZERO);
    /// let log = Log::builder(dir.path()).groups(at_once).open()?;
    /// log.topic("orders")?;
    /// let mut consumer = log.consumer("billing").topics(["orders"]).client_id("worker").join()?;
    /// consumer.poll(Duration::ZERO)?;
    /// let billing = log.group("billing")?.describe()?;
    /// assert_eq!(billing.state, Some(GroupState::Stable));
    /// let worker = &billing.members[0];
    /// assert_eq!(&*worker.client_id, "worker");
    /// assert_eq!(worker.assigned(), Some(vec![TopicPartition::new("orders", 0)]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn describe(&self) -> Result<DescribedGroup> {
        let (group, log) = (self.id().into(), self.log());
        match log.ask_coordinator(Request::Describe { group }).wait()? {
            Answer::Described(described) => Ok(described),
            _ => Err(Error::GroupRefused { group: self.id().into(), reason: GroupError::GroupIdNotFound }),
        }
    }

    /// How far behind it is, in each partition that it committed an offset for. A partition that it reads and never committed an
    /// offset for is not among them, however much is in there: compare with what [`describe`](Self::describe) says that its
    /// members have.
    ///
    /// Offsets are counted, not records: those of open and aborted transactions, those that compaction removed, and the marker that
    /// each transaction leaves in each of its partitions. A group that has read all records of a transaction may so stay behind by
    /// the marker until its consumers poll and commit again: let an alarm ask for a lag that grows, or stays above the number of
    /// transactions that end between two commits, not for one that is not 0.
    ///
    /// # Errors
    ///
    /// [`Error::GroupRefused`] for the reason [`GroupIdNotFound`](GroupError::GroupIdNotFound) if there is no such group: its id
    /// may be misspelled. As for [`committed`](Self::committed).
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset, Record};
    ///
    /// let log = Log::open(dir.path())?;
    /// for value in ["paid", "sent", "lost"] {
    ///     log.append(Record::new(value).to("orders"))?;
    /// }
    /// let billing = log.group("billing")?;
    /// billing.commit("orders", 0, Offset(1))?;
    /// let lag = &billing.lag()?[0];
    /// assert_eq!((lag.partition.to_string().as_str(), lag.end, lag.lag), ("orders-0", Some(Offset(3)), Some(2)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lag(&self) -> Result<Vec<GroupLag>> {
        let log = self.log();
        let of = |(partition, committed): (TopicPartition, Committed)| {
            let found = log.find_topic(&partition.topic).and_then(|topic| topic.partition(partition.partition).ok());
            let end = found.map(|found| found.offsets().committed);
            let lag = end.map(|end| end.0.saturating_sub(committed.offset.0));
            GroupLag { partition, committed, end, lag }
        };
        Ok(self.known_offsets()?.into_iter().map(of).collect())
    }

    /// What it committed; an error if nobody ever heard of it.
    fn known_offsets(&self) -> Result<Vec<(TopicPartition, Committed)>> {
        let committed = self.offsets()?;
        if committed.is_empty() {
            // It may have members that have committed nothing yet.
            self.describe()?;
        }
        Ok(committed)
    }

    /// Finds out where it would go on, in these partitions, or if none is named in all that it committed an offset for and that
    /// this log has. Changes nothing: [`ResetPlan::apply`] does. Kafka: `kafka-consumer-groups --reset-offsets --dry-run`.
    ///
    /// # Errors
    ///
    /// - [`Error::TopicNotFound`], [`Error::PartitionNotFound`] of a partition that is named.
    /// - [`Error::NoPosition`] if it is to be shifted where it committed nothing.
    /// - [`Error::GroupRefused`] for the reason [`GroupIdNotFound`](GroupError::GroupIdNotFound) if no partition is named and there
    ///   is no such group: its id may be misspelled. With partitions, a group may begin by a reset.
    /// - As for [`committed`](Self::committed), and [`Partition::offset_at`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Log, Offset, OffsetTarget, Record, TopicPartition};
    ///
    /// let log = Log::open(dir.path())?;
    /// for value in ["paid", "sent", "lost"] {
    ///     log.append(Record::new(value).to("orders"))?;
    /// }
    /// let billing = log.group("billing")?;
    /// billing.commit("orders", 0, Offset(3))?;
    ///
    /// let plan = billing.plan_reset(OffsetTarget::Shift(-2), &[])?;
    /// let first = &plan.moves()[0];
    /// assert_eq!((first.from, first.to), (Some(Offset(3)), Offset(1)));
    /// assert_eq!(billing.committed("orders", 0)?.unwrap().offset, Offset(3));
    /// plan.apply()?;
    /// assert_eq!(billing.committed("orders", 0)?.unwrap().offset, Offset(1));
    ///
    /// let only = TopicPartition::new("orders", 0);
    /// assert_eq!(billing.plan_reset(OffsetTarget::Earliest, &[only])?.moves()[0].to, Offset(0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn plan_reset(&self, to: OffsetTarget, partitions: &[TopicPartition]) -> Result<ResetPlan> {
        let log = self.log();
        let committed = if partitions.is_empty() { self.known_offsets()? } else { self.offsets()? };
        let mut plan = ResetPlan { group: self.clone(), moves: Vec::new(), topics: Vec::new() };
        if partitions.is_empty() {
            for (id, committed) in &committed {
                if let Some(topic) = log.find_topic(&id.topic).filter(|topic| id.partition < topic.partition_count())
                {
                    plan.add(to, id, &topic, Some(committed.offset))?;
                }
            }
        }
        for id in partitions {
            let topic = log.find_topic(&id.topic);
            let topic = topic.ok_or_else(|| Error::TopicNotFound { topic: (*id.topic).into() })?;
            let from = committed.iter().find(|(known, _)| known == id).map(|(_, committed)| committed.offset);
            plan.add(to, id, &topic, from)?;
        }
        plan.moves.sort_by(|one, other| one.partition.cmp(&other.partition));
        plan.moves.dedup_by(|one, other| one.partition == other.partition);
        plan.topics.sort();
        plan.topics.dedup();
        Ok(plan)
    }
}

impl ResetPlan {
    fn add(&mut self, to: OffsetTarget, id: &TopicPartition, topic: &Topic, from: Option<Offset>) -> Result<()> {
        let to = find(to, id, &topic.partition(id.partition)?, from)?;
        self.moves.push(OffsetMove { partition: id.clone(), from, to });
        self.topics.push((Arc::clone(&id.topic), topic.id()));
        Ok(())
    }

    /// What would be committed, by partition.
    #[must_use]
    pub fn moves(&self) -> &[OffsetMove] {
        &self.moves
    }

    /// Commits it, all or nothing. Survives a power cut when this returns. A topic that was deleted since it was planned is
    /// left out, also if there is one of its name again.
    ///
    /// # Errors
    ///
    /// - [`Error::GroupRefused`] for the reason [`NonEmptyGroup`](GroupError::NonEmptyGroup) while the group has members: they
    ///   read on from their own positions, and would commit those. Close them first.
    /// - As for [`Group::commit_all`].
    ///
    /// # Example
    ///
    /// See [`Group::plan_reset`].
    pub fn apply(&self) -> Result<()> {
        let moved = self.moves.iter().map(|moved| {
            let TopicPartition { topic, partition } = &moved.partition;
            GroupOffset::new(topic, *partition, moved.to)
        });
        let moved: Vec<_> = moved.collect();
        let stored = self.group.commit_as(Caller::none(), &moved, Ack::Synced, &self.topics);
        stored.map_err(|error| match error {
            // So it is said to who is no member, while there are some.
            Error::GroupRefused { group, reason: GroupError::UnknownMemberId } => {
                Error::GroupRefused { group, reason: GroupError::NonEmptyGroup }
            }
            error => error,
        })
    }
}

/// The offset to go on from, of those that the partition has.
fn find(to: OffsetTarget, id: &TopicPartition, partition: &Partition, from: Option<Offset>) -> Result<Offset> {
    let offsets = partition.offsets();
    let found = match to {
        OffsetTarget::Earliest => offsets.start,
        OffsetTarget::Latest => offsets.committed,
        // Before 1970 are Kafka's special times, which are not meant.
        OffsetTarget::Time(time) => partition.offset_at(Timestamp(time.0.max(0)))?.unwrap_or(offsets.committed),
        OffsetTarget::Offset(offset) => offset,
        OffsetTarget::Shift(by) => {
            let from = from.ok_or_else(|| Error::NoPosition { partition: id.clone(), wanted: None })?;
            Offset(from.0.saturating_add_signed(by))
        }
    };
    Ok(found.clamp(offsets.start, offsets.committed.max(offsets.start)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{GroupConfig, TopicConfig};
    use crate::error::ErrorKind;
    use crate::record::Record;

    fn filled() -> (tempfile::TempDir, Log) {
        let dir = tempfile::tempdir().unwrap();
        let at_once = GroupConfig::default().initial_rebalance_delay(Duration::ZERO);
        let log = Log::builder(dir.path()).groups(at_once).open().unwrap();
        let topic = log.create_topic("t", TopicConfig::default().partitions(2)).unwrap();
        for number in 0..2 {
            for time in 1..=10 {
                topic.partition(number).unwrap().append(Record::new("x").timestamp(Timestamp(time * 1_000))).unwrap();
            }
        }
        (dir, log)
    }

    fn planned(group: &Group, to: OffsetTarget) -> Vec<(u32, u64)> {
        let plan = group.plan_reset(to, &[]).unwrap();
        plan.moves().iter().map(|moved| (moved.partition.partition, moved.to.0)).collect()
    }

    #[test]
    fn a_plan_stays_within_what_the_log_has() {
        let (_dir, log) = filled();
        log.delete_before("t", 1, Offset(4)).unwrap();
        let group = log.group("g").unwrap();
        group.commit_all(&[GroupOffset::new("t", 0, Offset(5)), GroupOffset::new("t", 1, Offset(6))]).unwrap();
        group.commit("elsewhere", 0, Offset(7)).unwrap();
        for (to, expected) in [
            (OffsetTarget::Earliest, [0, 4]),
            (OffsetTarget::Latest, [10, 10]),
            (OffsetTarget::Time(Timestamp(6_500)), [6, 6]),
            (OffsetTarget::Time(Timestamp(60_000)), [10, 10]),
            (OffsetTarget::Time(Timestamp(-2)), [0, 4]),
            (OffsetTarget::Offset(Offset(2)), [2, 4]),
            (OffsetTarget::Offset(Offset(99)), [10, 10]),
            (OffsetTarget::Shift(-3), [2, 4]),
            (OffsetTarget::Shift(i64::MAX), [10, 10]),
            (OffsetTarget::Shift(i64::MIN), [0, 4]),
        ] {
            assert_eq!(planned(&group, to), [(0, expected[0]), (1, expected[1])], "{to:?}");
        }
        assert_eq!(group.lag().unwrap().iter().map(|lag| lag.lag).collect::<Vec<_>>(), [None, Some(5), Some(4)]);
        let missing = group.plan_reset(OffsetTarget::Earliest, &[TopicPartition::new("elsewhere", 0)]);
        assert!(matches!(missing, Err(Error::TopicNotFound { .. })));
        let other = log.group("other").unwrap();
        let id = TopicPartition::new("t", 0);
        assert!(matches!(
            other.plan_reset(OffsetTarget::Shift(1), std::slice::from_ref(&id)),
            Err(Error::NoPosition { .. })
        ));
        let plan = other.plan_reset(OffsetTarget::Latest, &[id.clone(), id]).unwrap();
        assert_eq!(plan.moves().len(), 1);
        plan.apply().unwrap();
        assert_eq!(other.committed("t", 0).unwrap().unwrap().offset, Offset(10));
    }

    #[test]
    fn a_group_that_nobody_knows_is_an_error() {
        let (_dir, log) = filled();
        let misspelled = log.group("biling").unwrap();
        let is_unknown = |error: Error| {
            let is_so = matches!(error, Error::GroupRefused { reason: GroupError::GroupIdNotFound, .. });
            assert!(is_so && error.kind() == ErrorKind::Invalid, "{error}");
        };
        is_unknown(misspelled.lag().unwrap_err());
        is_unknown(misspelled.plan_reset(OffsetTarget::Earliest, &[]).unwrap_err());
        // One with a member is known, though it committed nothing.
        let mut member = log.consumer("young").topics(["t"]).join().unwrap();
        member.poll(Duration::ZERO).unwrap();
        let young = log.group("young").unwrap();
        assert_eq!(young.lag().unwrap(), []);
        assert_eq!(young.plan_reset(OffsetTarget::Earliest, &[]).unwrap().moves(), []);
        let described = young.describe().unwrap();
        assert_eq!(
            described.members[0].assigned(),
            Some(vec![TopicPartition::new("t", 0), TopicPartition::new("t", 1)])
        );
    }

    #[test]
    fn nothing_is_reset_under_members_nor_in_the_topic_that_came_after() {
        let (_dir, log) = filled();
        let group = log.group("g").unwrap();
        group.commit("t", 0, Offset(5)).unwrap();
        let plan = group.plan_reset(OffsetTarget::Earliest, &[]).unwrap();
        {
            use crate::group::{JoinGroup, Protocol};
            let mut join = JoinGroup::new("g", 7);
            join.needs_member_id = false;
            join.protocols = vec![Protocol { name: "range".into(), metadata: Arc::default() }];
            let Answer::Joined(joined) = log.ask_coordinator(Request::Join(join)).wait().unwrap() else { panic!() };
            let refused = plan.apply().unwrap_err();
            assert!(matches!(refused, Error::GroupRefused { reason: GroupError::NonEmptyGroup, .. }), "{refused}");
            assert_eq!(refused.kind(), ErrorKind::Retry);
            assert_eq!(group.describe().unwrap().members.len(), 1);
            let members = vec![crate::group::LeavingMember { member_id: joined.member_id, instance_id: None }];
            let leave = crate::group::LeaveGroup { group: "g".into(), members };
            let _ = log.ask_coordinator(Request::Leave(leave)).wait().unwrap();
        }
        assert_eq!(log.list_groups().unwrap().len(), 1);
        log.delete_topic("t").unwrap();
        log.topic("t").unwrap();
        plan.apply().unwrap();
        assert_eq!(group.committed("t", 0).unwrap(), None);
        assert!(matches!(log.group("none").unwrap().describe(), Err(Error::GroupRefused { .. })));
    }
}
