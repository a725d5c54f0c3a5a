//! What a user does, and the limits of one plan.

use std::time::Duration;

use crate::segment::pool::Layout;
use crate::sim::Rng;
use crate::{Cleanup, Compression, Durability, ReadPath, TimestampType, TopicConfig};

/// One partition. The number is taken modulo how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    pub(super) topic: u8,
    pub(super) partition: u8,
}

/// Records that are appended together: their ids follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    pub(super) id: u64,
    pub(super) count: u8,
    pub(super) len: u16,
    /// Their timestamp; none for the time of the append.
    pub(super) timestamp: Option<i64>,
}

/// How the batch of an idempotent producer is numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// As the next one.
    Next,
    /// As one that was sent before: the last one, or one further back.
    Again(u8),
    /// As if one before it was lost.
    Gap,
    /// By an incarnation of the producer that was replaced.
    Old,
    /// By a new incarnation.
    New,
}

/// A change of a topic's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Length of segments.
    Segment(u32),
    /// Retention by length.
    Bytes(Option<u64>),
    /// Retention by age, in seconds.
    Age(Option<u64>),
    /// When to sync.
    Durability(Durability),
    /// One partition more.
    Partition,
    /// Whether batches are compressed.
    Codec(bool),
    /// How space is freed.
    Cleanup(Cleanup),
}

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Committed, and durable.
    Commit,
    /// Committed, for as long as the machine runs.
    CommitWritten,
    Abort,
    /// Let go of, which aborts it.
    Drop,
    /// Later, by its ticket.
    Prepare,
}

/// Offsets that a group commits in a transaction, for so many partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offsets {
    pub(super) group: u8,
    pub(super) count: u8,
    pub(super) offset: u64,
}

/// A transaction: its records go to so many partitions in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transact {
    pub(super) seat: u8,
    pub(super) at: At,
    pub(super) spread: u8,
    pub(super) batch: Batch,
    /// What a group commits in it.
    pub(super) offsets: Option<Offsets>,
    pub(super) ending: Ending,
}

/// One call of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// One record, or several as one batch.
    Append(At, Batch),
    /// The same, and waiting until it is synced.
    AppendSynced(At, Batch),
    /// One record, by a producer of the log's own, which numbers it.
    Numbered(At, Batch),
    /// Only if the end is as expected: it is, or not.
    AppendIf(At, Batch, bool),
    /// A batch of an idempotent producer; number 2's belong to a transaction that does not end.
    Raw(At, Batch, u8, Sent),
    /// Everything durable.
    Sync,
    /// What is due.
    Maintain,
    /// So many seconds pass.
    Advance(u32),
    /// The start is raised to so many 255ths of what is there.
    DeleteBefore(At, u8),
    /// Other settings.
    Alter(u8, Change),
    /// A topic is made.
    Create(u8),
    /// A topic is removed.
    Delete(u8),
    /// A group commits an offset for so many partitions, from this one on.
    Commit(u8, At, u8, u64),
    /// A group commits where a partition ends, and waits for no sync.
    CommitEnd(u8, At),
    /// A group is removed.
    DeleteGroup(u8),
    /// Reading from somewhere, with limits.
    Read(At, u64),
    /// Asking for the first record since some time.
    OffsetAt(At, u64),
    /// Reading the last few records.
    ReadLast(At, u8),
    /// Closing, looking without the right to change anything, opening again.
    LookOnly,
    /// Trying to open what is open.
    OpenTwice,
    /// A backup, which is looked at and removed.
    Backup,
    /// A transaction, from its beginning to its end.
    Transact(Transact),
    /// What is prepared in this seat is committed, or aborted.
    Resolve(u8, bool),
    /// Another takes this seat.
    Retake(u8),
}

/// How topics are compacted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Compaction {
    pub(super) cleanup: Cleanup,
    /// How long a tombstone stays, in seconds.
    pub(super) tombstones: u64,
    /// How old a record has to be, in seconds.
    pub(super) lag: u64,
    pub(super) dirty_ratio: f64,
}

/// Limits and weights of one plan.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub(super) weights: [u32; 23],
    pub(super) topics: u8,
    pub(super) partitions: u32,
    pub(super) segment_bytes: u32,
    pub(super) index_bytes: u32,
    pub(super) index_interval: u32,
    pub(super) durability: Durability,
    pub(super) is_compressed: bool,
    pub(super) is_append_time: bool,
    pub(super) read_path: ReadPath,
    pub(super) max_maps: usize,
    pub(super) longest: u16,
    pub(super) retention_bytes: Option<u64>,
    pub(super) retention_seconds: Option<u64>,
    pub(super) offset_retention: Option<Duration>,
    /// Of compaction; none: records have keys that do not come again, or no keys.
    pub(super) compaction: Option<Compaction>,
    /// Length of segments of the log's own topics, which are compacted.
    pub(super) internal_bytes: u32,
    /// The slots that small appends are staged in; none: they are not.
    pub(super) staging: Option<Layout>,
}

impl Options {
    pub(super) const TINY: Self = Self {
        weights: [12, 4, 1, 3, 2, 3, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
        topics: 1,
        partitions: 1,
        segment_bytes: 300,
        index_bytes: 48,
        index_interval: 0,
        durability: Durability::Os,
        is_compressed: false,
        is_append_time: false,
        read_path: ReadPath::Positional,
        max_maps: 1,
        longest: 100,
        retention_bytes: None,
        retention_seconds: None,
        offset_retention: None,
        compaction: None,
        internal_bytes: 4_096,
        staging: None,
    };

    /// Slots so small that they are full after a few records, and fewer than partitions.
    pub(super) const STAGING: Layout = Layout { slot_len: 768, slot_count: 2, batch_len: 200, stride: 256 };

    pub(super) fn draw(rng: &mut Rng) -> Self {
        let mut weights = Self::TINY.weights;
        for weight in &mut weights[1..18] {
            *weight = if rng.chance(1, 2) { *weight * (1 + rng.below(3) as u32) } else { 0 };
        }
        let every = |records, ms: Option<u64>| Durability::Every { records, time: ms.map(Duration::from_millis) };
        let rules =
            [Durability::Os, Durability::Os, every(Some(3), None), every(None, Some(1_000)), Durability::Each];
        let mut options = Self {
            weights,
            topics: 1 + u8::from(rng.chance(1, 3)),
            partitions: 1 + u32::from(rng.chance(1, 3)),
            segment_bytes: *rng.pick(&[256, 300, 600, 1_100, 4_096]),
            index_bytes: *rng.pick(&[24, 48, 200, 400]),
            index_interval: *rng.pick(&[0, 0, 64, 400]),
            durability: *rng.pick(&rules),
            is_compressed: rng.chance(1, 4),
            is_append_time: rng.chance(1, 8),
            read_path: *rng.pick(&[ReadPath::Mapped, ReadPath::Positional]),
            max_maps: *rng.pick(&[1, 3, 100, 100, 100, 100]),
            longest: *rng.pick(&[24, 60, 150, 600, 1_500]),
            retention_bytes: *rng.pick(&[None, None, Some(0), Some(600), Some(2_000)]),
            retention_seconds: *rng.pick(&[None, None, Some(0), Some(60)]),
            offset_retention: *rng.pick(&[None, Some(Duration::from_secs(3_600))]),
            compaction: rng.chance(1, 4).then(|| Compaction {
                cleanup: *rng.pick(&[Cleanup::Compact, Cleanup::Compact, Cleanup::CompactAndDelete]),
                tombstones: *rng.pick(&[0, 60, 4_000]),
                lag: *rng.pick(&[0, 0, 60]),
                dirty_ratio: *rng.pick(&[0.0, 0.0, 0.5]),
            }),
            internal_bytes: *rng.pick(&[4_096, 4_096, 4_096, 1_000]),
            staging: rng.chance(1, 2).then(|| Layout {
                slot_len: *rng.pick(&[512, 768, 1_536, 4_096]),
                slot_count: *rng.pick(&[1, 2, 4]),
                batch_len: *rng.pick(&[130, 200, 500, 2_000]),
                stride: *rng.pick(&[1, 100, 256, 500, 512, 4_096]),
            }),
        };
        // Each is hundreds of calls: in few plans, or they would be most of what is explored.
        options.weights[18] = u32::from(rng.chance(1, 12));
        options.weights[16] = u32::from(rng.chance(1, 4));
        options.weights[19] = *rng.pick(&[0, 0, 4, 12]);
        if rng.chance(1, if options.compaction.is_some() { 2 } else { 3 }) {
            options = options.with_transactions();
            options.partitions = 2 + rng.below(2) as u32;
        }
        options
    }

    /// The settings of a new topic.
    pub(super) fn config(&self) -> TopicConfig {
        let time = if self.is_append_time { TimestampType::LogAppendTime } else { TimestampType::CreateTime };
        let config = match self.compaction {
            Some(Compaction { cleanup, tombstones, lag, dirty_ratio }) => TopicConfig::default()
                .cleanup(cleanup)
                .delete_retention(Duration::from_secs(tombstones))
                .min_compaction_lag(Duration::from_secs(lag))
                .min_cleanable_dirty_ratio(dirty_ratio),
            None => TopicConfig::default(),
        };
        config
            .partitions(self.partitions)
            .segment_bytes(self.segment_bytes)
            .segment_index_bytes(self.index_bytes)
            .index_interval_bytes(self.index_interval)
            .durability(self.durability)
            .compression(codec(self.is_compressed))
            .timestamp_type(time)
            .timestamp_after_max(Duration::from_secs(1 << 40))
            .retention_bytes(self.retention_bytes)
            .retention_time(self.retention_seconds.map(Duration::from_secs))
    }

    pub(super) fn op(&self, rng: &mut Rng) -> Op {
        let at = At { topic: rng.below(self.topics.into()) as u8, partition: rng.below(4) as u8 };
        match rng.weighted(&self.weights) {
            0 => Op::Append(at, self.batch(rng)),
            1 => Op::AppendSynced(at, self.batch(rng)),
            2 => Op::AppendIf(at, self.batch(rng), rng.chance(1, 2)),
            3 => Op::Raw(at, self.batch(rng), rng.weighted(&[4, 4, 1]) as u8, draw_sent(rng)),
            4 => Op::Sync,
            5 => Op::Maintain,
            6 => Op::Advance(*rng.pick(&[1, 61, 700, 4_000])),
            7 => Op::DeleteBefore(at, *rng.pick(&[0, 60, 128, 200, 255])),
            8 => Op::Alter(at.topic, self.change(rng)),
            9 => Op::Create(at.topic),
            10 => Op::Delete(at.topic),
            11 if rng.chance(1, 3) => Op::CommitEnd(rng.below(2) as u8, at),
            11 => Op::Commit(rng.below(2) as u8, at, 1 + rng.below(3) as u8, rng.below(1 << 40)),
            12 => Op::DeleteGroup(rng.below(2) as u8),
            13 => Op::Read(at, rng.draw()),
            14 => Op::OffsetAt(at, rng.draw()),
            15 => Op::ReadLast(at, rng.below(9) as u8),
            16 => Op::LookOnly,
            17 => Op::OpenTwice,
            18 => Op::Backup,
            19 => Op::Numbered(at, Batch { count: 1, ..self.batch(rng) }),
            20 => Op::Transact(self.transact(at, rng)),
            21 => Op::Resolve(rng.below(2) as u8, rng.chance(1, 2)),
            _ => Op::Retake(rng.below(2) as u8),
        }
    }

    pub(super) fn with_transactions(mut self) -> Self {
        self.weights[20..].copy_from_slice(&[8, 2, 1]);
        self
    }

    /// Whether there are transactions.
    pub(super) fn transacts(&self) -> bool {
        self.weights[20] > 0
    }

    fn transact(&self, at: At, rng: &mut Rng) -> Transact {
        let endings =
            [Ending::Commit, Ending::Commit, Ending::CommitWritten, Ending::Abort, Ending::Drop, Ending::Prepare];
        let (seat, spread) = (rng.below(2) as u8, 1 + rng.below(3) as u8);
        let batch = Batch { timestamp: None, count: 1 + rng.below(4) as u8, ..self.batch(rng) };
        let ending = *rng.pick(&endings);
        // Small ones lie where something is, large ones say that another log is meant.
        let offset = if rng.chance(1, 2) { rng.below(40) } else { rng.below(1 << 40) };
        let offsets = Offsets { group: rng.below(2) as u8, count: 1 + rng.below(2) as u8, offset };
        Transact { seat, at, spread, batch, offsets: rng.chance(1, 2).then_some(offsets), ending }
    }

    fn batch(&self, rng: &mut Rng) -> Batch {
        let count = if rng.chance(1, 4) { 2 + rng.below(3) as u8 } else { 1 };
        let len = if rng.chance(1, 6) { self.longest } else { 8 + rng.below(32) as u16 };
        let now = 1_700_000_000_000;
        let times = [None, None, None, None, Some(-1), Some(0), Some(now - 5_000), Some(now + 9_000_000)];
        let id = rng.draw() << 8;
        let id = if self.compaction.is_some() { id | KEYED } else { id & !KEYED };
        Batch { id, count, len: len / u16::from(count).max(1) + 8, timestamp: *rng.pick(&times) }
    }

    fn change(&self, rng: &mut Rng) -> Change {
        let every = Durability::Every { records: Some(2), time: None };
        match rng.below(if self.compaction.is_some() { 7 } else { 6 }) {
            0 => Change::Segment(*rng.pick(&[256, 700, 3_000])),
            1 => Change::Bytes(*rng.pick(&[None, Some(0), Some(700)])),
            2 => Change::Age(*rng.pick(&[None, Some(0), Some(100)])),
            3 => Change::Durability(*rng.pick(&[Durability::Os, Durability::Each, every])),
            4 => Change::Partition,
            6 => Change::Cleanup(*rng.pick(&[Cleanup::Delete, Cleanup::Compact, Cleanup::CompactAndDelete])),
            _ => Change::Codec(rng.chance(1, 2)),
        }
    }
}

fn draw_sent(rng: &mut Rng) -> Sent {
    match rng.below(10) {
        0..=4 => Sent::Next,
        5 | 6 => Sent::Again(rng.weighted(&[4, 1, 1, 1, 1]) as u8),
        7 => Sent::Gap,
        8 => Sent::Old,
        _ => Sent::New,
    }
}

impl Change {
    pub(super) fn of(self, config: TopicConfig) -> TopicConfig {
        match self {
            Self::Segment(bytes) => config.segment_bytes(bytes),
            Self::Bytes(bytes) => config.retention_bytes(bytes),
            Self::Age(seconds) => config.retention_time(seconds.map(Duration::from_secs)),
            Self::Durability(durability) => config.durability(durability),
            Self::Codec(is_compressed) => config.compression(codec(is_compressed)),
            Self::Cleanup(cleanup) => config.cleanup(cleanup),
            Self::Partition => config.partitions((config.partitions + 1).min(3)),
        }
    }
}

fn codec(is_compressed: bool) -> Compression {
    if is_compressed { Compression::Lz4 { level: 1 } } else { Compression::Producer }
}

/// What the value of the record with this id is: the id, then bytes that follow from it.
pub(super) fn value(id: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    bytes.extend_from_slice(&id.to_be_bytes());
    let mut word = id;
    while bytes.len() < len {
        // Runs of four equal words: there is something to compress.
        if bytes.len() % 32 == 0 {
            word = crate::sim::mix(word);
        }
        bytes.extend_from_slice(&word.to_be_bytes());
    }
    bytes.truncate(len.max(8));
    bytes
}

/// The bit of an id that says that the record has one of few keys.
pub(super) const KEYED: u64 = 1 << 63;

/// Whether it removes its key: one in eight of those whose keys come again.
pub(super) fn is_tombstone(id: u64) -> bool {
    id & KEYED != 0 && (id >> 60) & 7 == 0
}

/// Its key: every fourth record has none, if no key comes again.
pub(super) fn key(id: u64) -> Option<[u8; 4]> {
    let key = crate::sim::mix(id) as u32;
    if id & KEYED != 0 {
        return Some((key % 5).to_be_bytes());
    }
    (!key.is_multiple_of(4)).then_some(key.to_be_bytes())
}
