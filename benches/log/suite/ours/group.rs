//! Groups: what a commit costs, and how soon the partitions of a member that died are another's.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use chiplog::group::assign::protocol::{Subscription, Version};
use chiplog::group::{Answer, Caller, JoinGroup, Protocol, Request, SyncGroup};
use chiplog::{Ack, AutoOffsetReset, Consumer, Group, GroupConfig, GroupOffset, Log, Offset, TopicConfig};

use super::TOPIC;
use crate::suite::race::{Contender, Work};
use crate::suite::system::{Shape, Sum};
use crate::suite::work::unprepared;

/// Commits one offset a call, which nobody waits to be synced. The figure: microseconds a commit.
pub(crate) struct Committed {
    calls: u64,
    open: Option<(Log, Group)>,
    sum: Sum,
}

impl Committed {
    pub(crate) fn new(calls: u64) -> Self {
        Self { calls, open: None, sum: Sum::default() }
    }
}

impl Contender for Committed {
    fn prepare(&mut self, dir: &Path) -> io::Result<Work> {
        let log = Log::open(dir).map_err(io::Error::other)?;
        log.topic(TOPIC).map_err(io::Error::other)?;
        let group = log.group("bench").map_err(io::Error::other)?;
        // Makes the topic of offsets.
        group.commit(TOPIC, 0, Offset(0)).map_err(io::Error::other)?;
        self.open = Some((log, group));
        Ok(Work { sum: Sum { count: self.calls, bytes: 0 }, ..Work::of(Shape::one(100), self.calls) })
    }

    fn run(&mut self) -> io::Result<()> {
        let (_, group) = self.open.as_ref().ok_or_else(unprepared)?;
        (1..=self.calls).try_for_each(|offset| {
            let offsets = [GroupOffset::new(TOPIC, 0, Offset(offset))];
            group.commit_with(&offsets, Ack::Written).map_err(io::Error::other)
        })
    }

    fn verify(&mut self) -> io::Result<Sum> {
        let (log, group) = self.open.take().ok_or_else(unprepared)?;
        let committed = group.committed(TOPIC, 0).map_err(io::Error::other)?;
        self.sum.count = committed.map_or(0, |committed| committed.offset.0);
        drop(group);
        log.close().map_err(io::Error::other)?;
        Ok(self.sum)
    }

    fn figures(&self, _: &Work, time: Duration) -> Vec<f64> {
        vec![time.as_secs_f64() * 1e6 / self.calls as f64]
    }
}

/// A member of a group of two says nothing any more, while the other polls. The figure: when the other has the record in the
/// partition that was not its own, in milliseconds after the session of the dead one was over.
pub(crate) struct Repaired {
    open: Option<(Log, Consumer)>,
    late: f64,
}

const SESSION: Duration = Duration::from_secs(1);

impl Repaired {
    pub(crate) fn new() -> Self {
        Self { open: None, late: f64::NAN }
    }
}

impl Contender for Repaired {
    fn prepare(&mut self, dir: &Path) -> io::Result<Work> {
        let groups = GroupConfig::default().initial_rebalance_delay(Duration::ZERO).min_session_timeout(SESSION);
        let log = Log::builder(dir).groups(groups).open().map_err(io::Error::other)?;
        let topic = log.topic_with(TOPIC, TopicConfig::default().partitions(2)).map_err(io::Error::other)?;
        for number in 0..2 {
            let partition = topic.partition(number).map_err(io::Error::other)?;
            let _ = partition.append("x").map_err(io::Error::other)?;
        }
        let builder = log.consumer("bench").topics([TOPIC]).auto_offset_reset(AutoOffsetReset::Earliest);
        let consumer =
            builder.session_timeout(SESSION).heartbeat_interval(SESSION / 10).join().map_err(io::Error::other)?;
        self.open = Some((log, consumer));
        Ok(Work { sum: Sum { count: 1, bytes: 0 }, ..Work::of(Shape::one(1), 1) })
    }

    fn run(&mut self) -> io::Result<()> {
        let (log, consumer) = self.open.as_mut().ok_or_else(unprepared)?;
        // It is the first of the group, and reads both. The other, which is only requests, joins, is assigned one, and is silent.
        poll_until(consumer, 2)?;
        let mut join = JoinGroup::new("bench", 7);
        (join.needs_member_id, join.session_timeout, join.rebalance_timeout) = (false, SESSION, SESSION);
        let metadata = Subscription::new([TOPIC]).encode(Version::V3).map_err(io::Error::other)?;
        join.protocols = vec![Protocol { name: "range".into(), metadata: metadata.into() }];
        let mut reply = log.ask_coordinator(Request::Join(join));
        let joined = loop {
            consumer.poll(Duration::from_millis(1)).map_err(io::Error::other)?;
            match reply.wait_for(Duration::ZERO).transpose().map_err(io::Error::other)? {
                Some(Answer::Joined(joined)) => break joined,
                Some(other) => return Err(io::Error::other(format!("{other:?}"))),
                None => {}
            }
        };
        let caller = Caller { member_id: joined.member_id, instance_id: None, generation: joined.generation };
        let sync =
            SyncGroup { group: "bench".into(), caller, protocol_type: None, protocol: None, assignments: Vec::new() };
        let mut reply = log.ask_coordinator(Request::Sync(sync));
        while reply.wait_for(Duration::ZERO).transpose().map_err(io::Error::other)?.is_none() {
            consumer.poll(Duration::from_millis(1)).map_err(io::Error::other)?;
        }
        let silent_since = Instant::now();
        // Nothing was committed: who gets the partition reads its record again.
        poll_until(consumer, 1)?;
        self.late = (silent_since.elapsed().as_secs_f64() - SESSION.as_secs_f64()) * 1e3;
        Ok(())
    }

    fn verify(&mut self) -> io::Result<Sum> {
        let (log, consumer) = self.open.take().ok_or_else(unprepared)?;
        let both = consumer.assignment().len();
        drop(consumer);
        log.close().map_err(io::Error::other)?;
        Ok(Sum { count: both as u64 / 2, bytes: 0 })
    }

    fn figures(&self, _: &Work, _: Duration) -> Vec<f64> {
        vec![self.late]
    }
}

fn poll_until(consumer: &mut Consumer, records: usize) -> io::Result<()> {
    let mut left = records;
    while left > 0 {
        left = left.saturating_sub(consumer.poll(Duration::from_secs(10)).map_err(io::Error::other)?.iter().count());
    }
    Ok(())
}
