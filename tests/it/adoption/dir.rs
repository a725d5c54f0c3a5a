//! A small broker's directory, made by hand, with everything in it that an adoption finishes, keeps or removes.
//!
//! ```text
//! orders-0               three segments; starts at 3, in the middle of the first
//! payments-0, -1         a transaction that was committed, and one left open in both
//! __consumer_offsets-0   an offset that was committed, and one in that open transaction
//! compacted-0            three segments merged into one that waits as .swap; they are all there
//! split-0, -1            one segment split into two .swap; it is there, and it is .deleted
//! cleaning-0             the cleaner was interrupted before its commit point: .cleaned, and a .swap behind it
//! shipped-0              retention removed the first segment, which is .deleted
//! dropped-0...-delete    of a topic that was deleted
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chiplog::disk::{Disk, Open};
use chiplog::record::{BatchBuilder, BatchOptions, Producer};
use chiplog::sim::{DiskOptions, SimDisk};
use chiplog::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Record, Timestamp, TopicId};

pub(super) type Files = BTreeMap<PathBuf, Vec<u8>>;

pub(super) const DIR: &str = "/log";
pub(super) const CLEAN_MARK: &str = "/log/.kafka_cleanshutdown";
const DROPPED: &str = "dropped-0.38ee4b53319408058010770caa907ac3-delete";
const T0: i64 = 1_700_000_000_000;

/// How the broker went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    InOrder,
    Killed,
}

impl Stopped {
    pub(super) const BOTH: [Self; 2] = [Self::InOrder, Self::Killed];
}

/// What is in a partition, whoever reads it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Held {
    pub(super) start: u64,
    pub(super) end: u64,
    /// Those that readers of everything get, by their offsets, in order.
    pub(super) records: Vec<(u64, String)>,
    /// The offsets of those that readers of committed data never get.
    pub(super) undone: BTreeSet<u64>,
    /// Whether a transaction is open in it.
    pub(super) is_open: bool,
}

impl Held {
    /// The records at these offsets of a partition of which nothing below `start` is left.
    fn of(partition: &str, offsets: impl IntoIterator<Item = u64>, start: u64) -> Self {
        let records: Vec<_> = offsets.into_iter().map(|offset| (offset, value(partition, offset))).collect();
        let end = records.last().map_or(start, |(offset, _)| offset + 1);
        Self { start, end, records, ..Self::default() }
    }
}

/// A broker's directory, and what is in it.
#[derive(Debug, Clone, Default)]
pub(super) struct BrokerDir {
    pub(super) files: Files,
    pub(super) holds: BTreeMap<String, Held>,
}

impl BrokerDir {
    pub(super) fn new(stopped: Stopped) -> Self {
        let mut dir = Self::default();
        dir.plain();
        dir.transactional();
        dir.compacted();
        dir.split();
        dir.removed();
        dir.top_level(stopped);
        dir
    }

    /// With less in it, of each kind something.
    pub(super) fn small(stopped: Stopped) -> Self {
        let mut dir = Self::new(stopped);
        let is_left_out = |path: &Path| LEFT_OUT.iter().any(|name| path.starts_with(Path::new(DIR).join(name)));
        dir.files.retain(|path, _| !is_left_out(path));
        dir.holds.retain(|name, _| !LEFT_OUT.contains(&&**name));
        dir.top_level(stopped);
        dir
    }

    fn plain(&mut self) {
        for (base, end) in [(0, 4), (4, 8), (8, 11)] {
            self.segment("orders-0", base, "", &each("orders-0", base..end));
        }
        self.hold("orders-0", Held::of("orders-0", 3..11, 3));
    }

    fn transactional(&mut self) {
        let name = "payments-0";
        let batches = [
            transactional(0, COMMITTED, &value(name, 0)),
            commit_marker(1),
            batch(2, &value(name, 2)),
            transactional(3, LEFT_OPEN, &value(name, 3)),
            batch(4, &value(name, 4)),
        ];
        self.segment(name, 0, "", &batches);
        let open = |held: Held, offset| Held { undone: BTreeSet::from([offset]), is_open: true, ..held };
        self.hold(name, open(Held::of(name, [0, 2, 3, 4], 0), 3));

        let name = "payments-1";
        self.segment(name, 0, "", &[transactional(0, LEFT_OPEN, &value(name, 0)), batch(1, &value(name, 1))]);
        self.hold(name, open(Held::of(name, 0..2, 0), 0));

        let name = "__consumer_offsets-0";
        let offset = |at, producer, to| {
            let (key, value) = (offset_key("billing", "orders", 0), offset_value(to));
            built(at, producer, &Record::new(&value).key(&key))
        };
        self.segment(name, 0, "", &[offset(0, None, 5), offset(1, Some(LEFT_OPEN), 9)]);
        let records = [(0, 5), (1, 9)].map(|(at, to)| (at, String::from_utf8_lossy(&offset_value(to)).into_owned()));
        self.hold(name, open(Held { end: 2, records: records.to_vec(), ..Held::default() }, 1));
    }

    fn compacted(&mut self) {
        let name = "compacted-0";
        for (base, end) in [(0, 4), (4, 8), (8, 12), (12, 14)] {
            self.segment(name, base, "", &each(name, base..end));
        }
        let kept = [1, 3, 5, 10, 11];
        self.segment(name, 0, ".swap", &each(name, kept));
        self.hold(name, Held::of(name, kept.into_iter().chain(12..14), 0));
    }

    fn split(&mut self) {
        for (name, is_removed) in [("split-0", false), ("split-1", true)] {
            self.segment(name, 0, if is_removed { ".deleted" } else { "" }, &each(name, 0..9));
            for (base, end) in PARTS {
                self.segment(name, base, ".swap", &each(name, base..end));
            }
            self.segment(name, 9, "", &each(name, 9..11));
            self.hold(name, Held::of(name, 0..11, 0));
        }
        let name = "cleaning-0";
        self.segment(name, 0, "", &each(name, 0..6));
        self.segment(name, 6, "", &each(name, 6..8));
        // The cleaner renames downwards.
        self.segment(name, 0, ".cleaned", &each(name, 0..3));
        self.segment(name, 3, ".swap", &each(name, 3..6));
        self.hold(name, Held::of(name, 0..8, 0));
    }

    fn removed(&mut self) {
        let name = "shipped-0";
        self.segment(name, 0, ".deleted", &each(name, 0..5));
        self.segment(name, 5, "", &each(name, 5..8));
        self.hold(name, Held::of(name, 5..8, 5));
        self.segment(DROPPED, 0, "", &each(DROPPED, 0..3));
        self.put(&format!("{DROPPED}/partition.metadata"), metadata(99));
    }

    fn top_level(&mut self, stopped: Stopped) {
        self.put("meta.properties", "version=1\nbroker.id=1\ncluster.id=T3JkZXJzIGFuZCBtb3Jl\n".into());
        self.put(".lock", Vec::new());
        let flushed = |(name, held): (&String, &Held)| match stopped {
            Stopped::Killed if name == "orders-0" => (name.clone(), 8),
            _ => (name.clone(), held.end),
        };
        let flushed: Vec<_> = self.holds.iter().map(flushed).collect();
        let starts: Vec<_> = self.holds.iter().map(|(name, held)| (name.clone(), held.start)).collect();
        self.put("recovery-point-offset-checkpoint", checkpoint(&flushed));
        self.put("replication-offset-checkpoint", checkpoint(&flushed));
        self.put("log-start-offset-checkpoint", checkpoint(&starts));
        let cleaned = [("compacted-0", 12), ("split-1", 9), ("cleaning-0", 0), ("split-0", 9)];
        let cleaned = cleaned.map(|(name, to)| (name.to_owned(), to));
        self.put("cleaner-offset-checkpoint", checkpoint(&cleaned));
        if stopped == Stopped::InOrder {
            self.put(".kafka_cleanshutdown", r#"{"version":0,"brokerEpoch":-1}"#.into());
        }
    }

    /// Says what a partition holds. One topic has no id, as with Kafka before 2.8.
    fn hold(&mut self, partition: &str, held: Held) {
        let topic = partition.rsplit_once('-').map_or("", |(topic, _)| topic);
        if topic != "shipped" {
            let number = topic.bytes().fold(1_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
            self.put(&format!("{partition}/partition.metadata"), metadata(number));
        }
        self.put(&format!("{partition}/leader-epoch-checkpoint"), format!("0\n1\n0 {}\n", held.start).into());
        self.holds.insert(partition.to_owned(), held);
    }

    /// Puts a segment there, with its two indexes.
    fn segment(&mut self, partition: &str, base: u64, suffix: &str, batches: &[Vec<u8>]) {
        let (mut index, mut times, mut position) = (Vec::new(), Vec::new(), 0_u32);
        for batch in batches {
            let offset = u64::from_be_bytes(*batch.first_chunk().expect("a batch"));
            let relative = ((offset - base) as u32).to_be_bytes();
            index.extend([relative, position.to_be_bytes()].concat());
            times.extend([&(T0 + offset as i64).to_be_bytes()[..], &relative].concat());
            position += batch.len() as u32;
        }
        for (kind, bytes) in [("log", batches.concat()), ("index", index), ("timeindex", times)] {
            self.put(&format!("{partition}/{base:020}.{kind}{suffix}"), bytes);
        }
    }

    fn put(&mut self, name: &str, bytes: Vec<u8>) {
        self.files.insert(Path::new(DIR).join(name), bytes);
    }

    /// The bytes of a file, to be damaged.
    pub(super) fn bytes(&mut self, name: &str) -> &mut Vec<u8> {
        self.files.get_mut(&Path::new(DIR).join(name)).expect("a file of the directory")
    }

    /// A disk with the directory on it, all of it durable.
    pub(super) fn disk(&self) -> Arc<SimDisk> {
        let disk = SimDisk::new(DiskOptions::default());
        let mut dirs = BTreeSet::from([PathBuf::from("/")]);
        for (path, bytes) in &self.files {
            let dir = path.parent().expect("a path below the root");
            for dir in dir.ancestors().collect::<Vec<_>>().into_iter().rev() {
                if dirs.insert(dir.to_owned()) {
                    disk.create_dir(dir).expect("a new directory");
                }
            }
            let file = disk.open(path, Open::CreateNew).expect("a new file");
            let written = file.write_at(bytes, 0).expect("a write");
            assert_eq!(written, bytes.len());
            file.sync().expect("a sync");
        }
        dirs.iter().for_each(|dir| disk.sync_dir(dir).expect("a sync"));
        disk.kill()
    }
}

pub(super) fn value(partition: &str, offset: u64) -> String {
    format!("{partition} {offset}")
}

/// The partitions that a small directory does without.
const LEFT_OUT: [&str; 4] = ["payments-1", "split-1", "cleaning-0", "shipped-0"];

/// What a segment is split into. Two: of three, a crash could keep the new name of the middle one alone, and a broker
/// takes all between the first `.swap` and the last for replaced.
pub(super) const PARTS: [(u64, u64); 3] = [(0, 3), (3, 6), (6, 9)];

/// The producer of the marker among the fixtures, whose epoch the marker has; and another.
const COMMITTED: (i64, i16) = (4242, 3);
const LEFT_OPEN: (i64, i16) = (8, 0);

fn each(partition: &str, offsets: impl IntoIterator<Item = u64>) -> Vec<Vec<u8>> {
    offsets.into_iter().map(|offset| batch(offset, &value(partition, offset))).collect()
}

fn batch(offset: u64, value: &str) -> Vec<u8> {
    built(offset, None, &Record::new(value).key("k"))
}

fn transactional(offset: u64, producer: (i64, i16), value: &str) -> Vec<u8> {
    built(offset, Some(producer), &Record::new(value).key("k"))
}

/// A batch of one record; of a transaction, if there is a producer.
fn built(offset: u64, producer: Option<(i64, i16)>, record: &Record<'_>) -> Vec<u8> {
    let mut options = BatchOptions::default().base_offset(Offset(offset)).leader_epoch(LeaderEpoch(0));
    if let Some((id, epoch)) = producer {
        let (id, epoch) = (ProducerId(id), ProducerEpoch(epoch));
        options = options.producer(Producer { id, epoch, base_sequence: 0, is_transactional: true });
    }
    let mut builder = BatchBuilder::new();
    builder.begin(options);
    builder.push(record, Timestamp(T0 + offset as i64)).expect("a record");
    builder.finish().expect("a batch").to_vec()
}

/// Kafka's own, put at an offset: neither that nor the leader epoch is under its checksum.
fn commit_marker(offset: u64) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/vectors/11-commit-marker.bin");
    let mut marker = std::fs::read(path).expect("a fixture");
    marker[..8].copy_from_slice(&offset.to_be_bytes());
    marker[12..16].copy_from_slice(&0_i32.to_be_bytes());
    marker
}

fn offset_key(group: &str, topic: &str, partition: i32) -> Vec<u8> {
    [&1_i16.to_be_bytes()[..], &text(group), &text(topic), &partition.to_be_bytes()].concat()
}

fn offset_value(offset: u64) -> Vec<u8> {
    let (version, epoch) = (3_i16.to_be_bytes(), (-1_i32).to_be_bytes());
    [&version[..], &offset.to_be_bytes(), &epoch, &text(""), &T0.to_be_bytes()].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as i16).to_be_bytes()[..], text.as_bytes()].concat()
}

fn metadata(number: u8) -> Vec<u8> {
    format!("version: 0\ntopic_id: {}", TopicId::from_bytes([number; 16])).into()
}

fn checkpoint(offsets: &[(String, u64)]) -> Vec<u8> {
    let mut text = format!("0\n{}\n", offsets.len());
    for (partition, offset) in offsets {
        let (topic, number) = partition.rsplit_once('-').expect("a partition");
        text.push_str(&format!("{topic} {number} {offset}\n"));
    }
    text.into()
}
