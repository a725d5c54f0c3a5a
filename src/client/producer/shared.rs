//! What the clones of a producer share, and how a record finds its batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Duration;

use super::lane::{Call, Effort, FirstPanic, Lane, Step};
use super::room::{Buffer, Room};
use super::sent::{AGAIN, Sent};
use super::topics::{TopicLanes, Topics};
use crate::error::{Error, ErrorKind, Result};
use crate::log::{Choice, Log, Partitioning, Tended, Unplaced, again};
use crate::partition::Ack;
use crate::partition::context::Context;
use crate::partition::core::Core;
use crate::record::{Compression, Record, Sender};

/// How a producer is to be.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) linger: Duration,
    pub(super) batch_bytes: usize,
    pub(super) buffer_bytes: usize,
    pub(super) max_block: Duration,
    pub(super) delivery_timeout: Duration,
    pub(super) acks: Ack,
    pub(super) partitioning: Partitioning,
    pub(super) compression: Compression,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(5),
            batch_bytes: 16 << 10,
            buffer_bytes: 32 << 20,
            max_block: Duration::from_secs(60),
            delivery_timeout: Duration::from_secs(120),
            acks: Ack::Written,
            partitioning: Partitioning::Murmur2,
            compression: Compression::NONE,
        }
    }
}

impl Settings {
    pub(super) fn check(&self) -> Result<()> {
        const BUFFER_MAX: u64 = 1 << 53;
        const BATCH_MAX: usize = i32::MAX as usize;
        let refuse = |key: &str, value: String, allowed: String| {
            Err(Error::InvalidSetting { key: key.into(), value: value.into(), allowed: allowed.into() })
        };
        if self.linger.as_millis() > i32::MAX as u128 {
            return refuse("linger.ms", self.linger.as_millis().to_string(), "0 to 2147483647".to_owned());
        }
        if self.buffer_bytes == 0 || self.buffer_bytes as u64 > BUFFER_MAX {
            return refuse("buffer.memory", self.buffer_bytes.to_string(), format!("1 to {BUFFER_MAX}"));
        }
        if self.batch_bytes > self.buffer_bytes.min(BATCH_MAX) {
            let allowed = format!("0 to buffer.memory, {}, and to {BATCH_MAX}", self.buffer_bytes);
            return refuse("batch.size", self.batch_bytes.to_string(), allowed);
        }
        let codec = self.compression.codec();
        if codec.is_supported() { Ok(()) } else { Err(Error::Unsupported { what: codec.name() }) }
    }

    /// The first setting that is not the default, and its value.
    pub(super) fn changed(&self) -> Option<(&'static str, String)> {
        let Self { linger, batch_bytes, buffer_bytes, max_block, delivery_timeout, acks, partitioning, compression } =
            self;
        let default = Self::default();
        let ms = |time: &Duration| time.as_millis().to_string();
        let is_default = matches!(partitioning, Partitioning::Murmur2);
        let all = [
            ("linger.ms", *linger != default.linger, ms(linger)),
            ("batch.size", *batch_bytes != default.batch_bytes, batch_bytes.to_string()),
            ("buffer.memory", *buffer_bytes != default.buffer_bytes, buffer_bytes.to_string()),
            ("max.block.ms", *max_block != default.max_block, ms(max_block)),
            ("delivery.timeout.ms", *delivery_timeout != default.delivery_timeout, ms(delivery_timeout)),
            ("acks", *acks != default.acks, format!("{acks:?}")),
            ("partitioner.class", !is_default, format!("{partitioning:?}")),
            ("compression.type", *compression != default.compression, compression.codec().name().to_owned()),
        ];
        all.into_iter().find(|(_, is_changed, _)| *is_changed).map(|(key, _, value)| (key, value))
    }
}

/// What lanes have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) settings: Settings,
    pub(super) sender: Sender,
    /// The log's. It is not kept open by it.
    pub(super) context: Arc<Context>,
    pub(super) room: Room,
    is_closed: AtomicBool,
}

impl Common {
    /// Refuses if the producer takes no more records. With the lock of a lane, no record comes into it after a close has
    /// been there.
    #[inline]
    pub(super) fn check_open(&self) -> Result<()> {
        if self.is_closed.load(Ordering::Relaxed) { Err(Error::Closed) } else { Ok(()) }
    }

    pub(super) fn now(&self) -> Duration {
        self.context.clock.monotonic()
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) common: Arc<Common>,
    pub(super) topics: Topics,
}

/// Where a record is to go.
#[derive(Clone, Copy)]
pub(super) enum To<'a> {
    Topic(&'a str),
    Partition(&'a Arc<Core>),
}

impl<'a> To<'a> {
    #[inline]
    fn topic(self) -> &'a str {
        match self {
            Self::Topic(name) => name,
            Self::Partition(core) => &core.id.topic,
        }
    }

    #[inline]
    fn core(self) -> Option<&'a Arc<Core>> {
        match self {
            Self::Topic(_) => None,
            Self::Partition(core) => Some(core),
        }
    }
}

impl Shared {
    pub(super) fn new(log: &Log, settings: Settings, sender: Sender) -> Self {
        let room = Room::new(settings.buffer_bytes, settings.batch_bytes);
        let context = Arc::clone(log.context());
        let common = Common { settings, sender, context, room, is_closed: AtomicBool::new(false) };
        Self { common: Arc::new(common), topics: Topics::new() }
    }

    /// Adds a record to the batch of its partition. What is done here is what every record costs.
    #[inline]
    pub(super) fn send(&self, log: &Log, to: To<'_>, record: &Record<'_>, call: Option<Call>) -> Result<Sent> {
        let mut call = call;
        let mut choice = None;
        if let Some(topic) = self.topics.find(to.topic()) {
            let chosen = self.choose(log, topic, to, record);
            choice = Some(chosen);
            if let Some(lane) = topic.lanes.get(chosen.partition as usize) {
                let now = self.common.context.clock.now();
                if let Some(sent) = lane.join(to.core(), record, now, &mut call)? {
                    return Ok(sent);
                }
            }
        }
        self.send_slowly(log, to, record, call, choice)
    }

    #[inline]
    fn choose(&self, log: &Log, topic: &TopicLanes, to: To<'_>, record: &Record<'_>) -> Choice {
        if let To::Partition(core) = to {
            return Choice { partition: core.id.partition, is_sticky: false };
        }
        let is_usable = |number: u32| topic.lanes.get(number as usize).is_some_and(|lane| lane.is_usable());
        let unplaced = Unplaced {
            topic: to.topic(),
            key: record.key,
            value_len: record.value.map_or(0, <[u8]>::len),
            count: topic.lanes.len() as u32,
            is_usable: &is_usable,
        };
        let random = || log.entropy().random();
        self.common.settings.partitioning.choose(&unplaced, &topic.turns, random)
    }

    #[cold]
    fn send_slowly(
        &self,
        log: &Log,
        to: To<'_>,
        record: &Record<'_>,
        mut call: Option<Call>,
        mut choice: Option<Choice>,
    ) -> Result<Sent> {
        if let To::Partition(core) = to {
            log.check_own(core)?;
            core.check_open()?;
        }
        let mut spare = Spare { room: &self.common.room, buffer: None };
        self.find_place(log, to, record, &mut call, &mut choice, &mut spare.buffer)
    }

    fn find_place(
        &self,
        log: &Log,
        to: To<'_>,
        record: &Record<'_>,
        call: &mut Option<Call>,
        choice: &mut Option<Choice>,
        buffer: &mut Option<Buffer>,
    ) -> Result<Sent> {
        // How often it may turn out that the topic, or the partition, is not what it was.
        let mut turns_left = TURNS;
        loop {
            let topic = self.topics.find_or_add(to.topic(), log, &self.common)?;
            let chosen = choice.take().unwrap_or_else(|| self.choose(log, topic, to, record));
            let mut retry = |error: Error| {
                turns_left -= 1;
                if turns_left > 0 { Ok(()) } else { Err(error) }
            };
            let lane = match topic.lane(chosen.partition) {
                Ok(lane) => lane,
                // The topic may have more partitions by now.
                Err(error) if topic.refresh() => {
                    retry(error)?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            match lane.offer(to.core(), record, log.clock().monotonic(), buffer, call) {
                Ok(Step::Kept { sent, is_closed, due }) => {
                    topic.refresh();
                    self.see_to(log, lane, is_closed, due);
                    return Ok(sent);
                }
                Ok(Step::Full) => {
                    self.see_to(log, lane, true, None);
                    // One that may go anywhere is not to begin a batch here again.
                    *choice = Some(chosen).filter(|chosen| !chosen.is_sticky);
                }
                Ok(Step::NoRoom(needed)) => {
                    *buffer = Some(self.wait_for_room(log, needed)?);
                    *choice = Some(chosen);
                }
                Ok(Step::Gone) => {
                    let error = topic.error_of(chosen.partition);
                    if matches!(error, Error::TopicDeleted { .. }) {
                        topic.replace();
                    } else if !chosen.is_sticky {
                        return Err(error);
                    }
                    topic.turns.leave(chosen.partition);
                    retry(error)?;
                }
                Err(error @ Error::TopicDeleted { .. }) => {
                    topic.replace();
                    retry(error)?;
                }
                Err(error) if chosen.is_sticky && error.kind() != ErrorKind::Invalid && !lane.is_usable() => {
                    retry(error)?
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Appends what was closed, and sees to it that maintenance comes by for the rest.
    fn see_to(&self, log: &Log, lane: &Lane, is_closed: bool, due: Option<Duration>) {
        let left = if is_closed { lane.append(Effort::Due) } else { None };
        Self::expect(log, left.into_iter().chain(due).min());
    }

    /// As with a watermark: either maintenance finds what is due, or this finds that maintenance comes too late.
    fn expect(log: &Log, due: Option<Duration>) {
        if let Some(due) = due {
            fence(Ordering::SeqCst);
            log.expect_by(due);
        }
    }

    fn wait_for_room(&self, log: &Log, needed: usize) -> Result<Buffer> {
        let Common { settings, room, .. } = &*self.common;
        let deadline = self.common.now().saturating_add(settings.max_block);
        loop {
            // What lingers in other partitions goes first.
            for lane in self.topics.lanes() {
                if let Some(buffer) = room.take(needed) {
                    return Ok(buffer);
                }
                Self::expect(log, lane.make_room());
            }
            if let Some(buffer) = room.take(needed) {
                return Ok(buffer);
            }
            self.common.check_open()?;
            let left = deadline.saturating_sub(self.common.now());
            if left.is_zero() {
                return Err(Error::BufferFull { needed, limit: room.limit() });
            }
            room.wait(needed, left.min(AGAIN));
        }
    }

    /// Appends all that is kept, and waits until all that was sent before is told. Returns the first error of it.
    pub(super) fn flush(&self) -> Result<()> {
        let lanes = self.topics.lanes();
        let mut fates = Vec::new();
        for lane in &lanes {
            lane.untold(&mut fates);
            lane.append_all();
        }
        // Only now: while one syncs, what others have is written already.
        let mut panic = FirstPanic::default();
        lanes.iter().for_each(|lane| panic.caught(|| lane.sync()));
        let mut first = None;
        for fate in fates {
            if let Err(error) = fate.wait() {
                first.get_or_insert_with(|| again(error));
            }
        }
        panic.resume();
        first.map_or(Ok(()), Err)
    }

    /// Takes no more records, and lets nobody wait for memory. Returns whether it did before.
    pub(super) fn close(&self) -> bool {
        let was_open = !self.common.is_closed.swap(true, Ordering::AcqRel);
        self.common.room.close();
        was_open
    }

    /// Appends what is kept, for the last time. A callback that panics keeps nothing from the others, nor the log from closing:
    /// the panic was reported when it began, and ends here.
    pub(super) fn finish(&self) {
        self.close();
        let mut ended = FirstPanic::default();
        self.topics.lanes().iter().for_each(|lane| ended.caught(|| lane.finish()));
    }
}

/// The buffer of a batch that is not begun yet. Given back also if a callback or a partitioner panics meanwhile.
struct Spare<'a> {
    room: &'a Room,
    buffer: Option<Buffer>,
}

impl Drop for Spare<'_> {
    fn drop(&mut self) {
        self.buffer.take().into_iter().for_each(|buffer| self.room.give_back(buffer));
    }
}

impl Tended for Shared {
    fn tend(&self, now: Duration) -> Option<Duration> {
        // Beside that of `see_to`.
        fence(Ordering::SeqCst);
        let (due, next) = self.topics.due(now);
        due.iter().filter_map(|lane| lane.tend(now)).chain(next).min()
    }

    fn before_close(&self) {
        self.finish();
    }
}

const TURNS: u32 = 16;
