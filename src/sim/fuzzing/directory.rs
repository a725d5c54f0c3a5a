//! Any files under the names of a log's directory, ours or a broker's.
//!
//! ```text
//! input   which | changes: where, file, how, len, bytes ...
//! ```
//!
//! What is there to begin with is empty, a broker's, or a log of ours that was closed or killed. Each change is to one file:
//! bytes as they are, or as a description of batches, which get their checksums.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a fuzz target fails by it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::super::{DiskOptions, Image, SimClock, SimDisk, SimEntropy};
use crate::config::{Cleanup, TopicConfig};
use crate::disk::{Disk, Open, read_file, write_all_at};
use crate::error::Result;
use crate::log::{Adoption, Background, Log, LogBuilder, Staging, VerifyOptions};
use crate::partition::{Partition, RecoveryMode};
use crate::record::{BatchBuilder, BatchOptions, Codec, Compression, Marker, Producer, Record, encode_marker};
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};

const DIR: &str = "/log";
/// The files of a whole log.
const TOP: [&str; 14] = [
    "meta.properties",
    ".kafka_cleanshutdown",
    "recovery-point-offset-checkpoint",
    "log-start-offset-checkpoint",
    "cleaner-offset-checkpoint",
    "replication-offset-checkpoint",
    "catalog",
    "catalog.tmp",
    "clean",
    "notes",
    "checkpoints",
    "staging",
    "LOCK",
    ".lock",
];
const DIRS: [&str; 6] = [
    "t-0",
    "t-1",
    "u-0",
    "__consumer_offsets-0",
    "__cluster_metadata-0",
    "t-0.38ee4b53319408058010770caa907ac3-delete",
];
const SUFFIXES: [&str; 10] = [
    "log",
    "index",
    "timeindex",
    "txnindex",
    "snapshot",
    "seal",
    "log.swap",
    "index.swap",
    "log.cleaned",
    "log.deleted",
];
const BASES: [u64; 4] = [0, 3, 6, 1 << 40];
const T0: i64 = 1_700_000_000_000;
/// No open, verification or close makes as many.
const CALLS: u64 = 50_000;

/// Any files: who only reads changes nothing and is told of damage, or gets what is still there after a salvage, which can
/// be gone on with.
pub fn directory(bytes: &[u8]) {
    let Some((which, changes)) = bytes.split_first() else { return };
    let disk = on(BEGINNINGS[usize::from(which % 4)].get_or_init(|| beginning(which % 4)).clone());
    change(&disk, &changes[..changes.len().min(1 << 13)]);
    let disk = on(disk.image());

    let before = look(&disk);
    let salvaged = on(disk.image());
    let log = builder(&salvaged).recovery(RecoveryMode::Salvage).adopt(Adoption::default().abort_open()).open();
    let appended = log.map(go_on).unwrap_or_default();
    let after = look(&on(salvaged.image()));
    let Some(before) = before.filter(|before| !before.is_damaged) else { return };
    let Some(after) = after else { panic!("what was not damaged cannot be read once it is salvaged") };
    for (name, records) in &before.records {
        let found = after.records.get(name).map(Vec::as_slice).unwrap_or_default();
        assert!(found.starts_with(records), "{name} held {records:?}, and holds {found:?}");
    }
    for (name, offset) in appended {
        let last = after.records.get(&name).and_then(|records| records.last());
        assert_eq!(last.map(|(at, value)| (*at, &**value)), Some((offset, &b"more"[..])), "{name}");
    }
}

/// What a reader is told.
#[derive(Debug, Default)]
struct Seen {
    records: BTreeMap<String, Vec<(Offset, Vec<u8>)>>,
    is_damaged: bool,
}

/// Opens the log to read it all and to have it verified; `None` if it is refused.
fn look(disk: &Arc<SimDisk>) -> Option<Seen> {
    let disk = disk.kill();
    disk.set_read_only(true);
    disk.set_call_limit(CALLS);
    let log = builder(&disk).read_only().open();
    let seen = log.ok().map(|log| see(&log));
    assert_eq!(disk.audit(), None);
    seen
}

fn see(log: &Log) -> Seen {
    let mut seen = Seen { is_damaged: !log.damaged().is_empty(), ..Seen::default() };
    for topic in log.topics() {
        for number in 0..topic.partition_count() {
            let name = format!("{}-{number}", topic.name());
            match topic.partition(number).and_then(|partition| records(&partition)) {
                Ok(records) => drop(seen.records.insert(name, records)),
                Err(_) => seen.is_damaged = true,
            }
        }
    }
    let report = log.verify(&VerifyOptions::default());
    seen.is_damaged |= report.is_ok_and(|report| !report.findings().is_empty());
    seen
}

fn records(partition: &Partition) -> Result<Vec<(Offset, Vec<u8>)>> {
    let (mut at, mut all) = (partition.offsets().start, Vec::new());
    while at < partition.offsets().end {
        let records = partition.read(at)?;
        all.extend(records.iter().map(|record| (record.offset, record.value.unwrap_or_default().to_vec())));
        assert!(records.next_offset() > at, "a read comes to nothing");
        at = records.next_offset();
    }
    Ok(all)
}

/// Appends to what can be appended to, and closes. Returns what should be there then.
fn go_on(log: Log) -> Vec<(String, Offset)> {
    let mut appended = Vec::new();
    for topic in log.topics() {
        for number in 0..topic.partition_count() {
            let Ok(partition) = topic.partition(number) else { continue };
            if let Ok(done) = partition.append(Record::new("more").key("k")) {
                appended.push((format!("{}-{number}", topic.name()), done.offset()));
            }
        }
    }
    if log.close().is_err() { Vec::new() } else { appended }
}

fn on(image: Image) -> Arc<SimDisk> {
    let disk = SimDisk::on(image, Arc::new(SimClock::new(Timestamp(T0 + 100_000))));
    disk.set_call_limit(CALLS);
    disk
}

fn builder(disk: &Arc<SimDisk>) -> LogBuilder {
    let small = TopicConfig::default().segment_bytes(1 << 12).segment_index_bytes(240);
    Log::builder(DIR)
        .disk(Arc::clone(disk) as Arc<dyn Disk>)
        .clock(disk.clock())
        .entropy(Arc::new(SimEntropy::new(disk.calls())))
        .background(Background::Caller)
        .staging(Staging::Off)
        .default_config(small)
        .offsets_topic(small.cleanup(Cleanup::Compact))
        .transactions_topic(small.cleanup(Cleanup::Compact))
}

static BEGINNINGS: [OnceLock<Image>; 4] = [OnceLock::new(), OnceLock::new(), OnceLock::new(), OnceLock::new()];

/// What there is before any change: nothing but what tells a broker's directory, what a broker closed, and what we closed
/// or were killed in.
fn beginning(which: u8) -> Image {
    let disk = SimDisk::new(DiskOptions::default());
    if which == 0 {
        disk.create_dir(Path::new(DIR)).unwrap();
        put(&disk, &Path::new(DIR).join(TOP[0]), b"version=1\n");
        return disk.image();
    }
    let log = builder(&disk).open().unwrap();
    let config = TopicConfig::default().partitions(2).segment_bytes(400).segment_index_bytes(240);
    let topic = log.create_topic("t", config).unwrap();
    for number in 0..2 {
        (0..7).for_each(|_| drop(topic.partition(number).unwrap().append_all(["one", "two"]).unwrap()));
    }
    log.delete_before("t", 1, Offset(3)).unwrap();
    if which == 3 {
        let image = disk.image();
        disk.power_off();
        return image;
    }
    log.close().unwrap();
    if which == 1 {
        for name in ["catalog", "clean", "notes", "checkpoints", "LOCK"] {
            let _ = disk.remove_file(&Path::new(DIR).join(name));
        }
        for path in disk.image().files().into_keys().filter(|path| path.extension().is_some_and(|ext| ext == "seal"))
        {
            disk.remove_file(&path).unwrap();
        }
        put(&disk, &Path::new(DIR).join(TOP[0]), b"version=1\n");
        put(&disk, &Path::new(DIR).join(TOP[1]), b"{}");
    }
    disk.image()
}

/// Makes the changes that these bytes say.
fn change(disk: &SimDisk, mut rest: &[u8]) {
    while let Some((&[place, file, how, len], body)) = rest.split_first_chunk::<4>() {
        let (body, left) = body.split_at(body.len().min(len.into()));
        rest = left;
        let (path, base) = path_of(place, file);
        let dir = path.parent().unwrap();
        if disk.metadata(dir).is_err() {
            disk.create_dir(dir).unwrap();
        }
        let found = read_file(disk, &path, u64::MAX).ok();
        let at = |bytes: &[u8]| bytes.first().map_or(0, |at| usize::from(*at) * 4);
        match how % 8 {
            0 => put(disk, &path, body),
            1 => put(disk, &path, &batches(body, base)),
            2 => put(disk, &path, &[found.unwrap_or_default(), body.to_vec()].concat()),
            3 => {
                let next = body.first().map_or(base, |next| base + u64::from(*next));
                put(disk, &path, &[found.unwrap_or_default(), batches(body, next)].concat());
            }
            4 => {
                let mut bytes = found.unwrap_or_default();
                let (at, patch) = (at(body), body.get(1..).unwrap_or_default());
                for (byte, with) in bytes.iter_mut().skip(at).zip(patch) {
                    *byte ^= with;
                }
                put(disk, &path, &bytes);
            }
            5 => {
                let mut bytes = found.unwrap_or_default();
                bytes.truncate(at(body) + body.len());
                put(disk, &path, &bytes);
            }
            6 => drop(disk.remove_file(&path)),
            _ => {
                let (from, _) = path_of(place, body.first().copied().unwrap_or_default());
                if let Ok(bytes) = read_file(disk, &from, u64::MAX) {
                    put(disk, &path, &bytes);
                }
            }
        }
    }
}

/// A file of the log, or of a partition; and the offset that its name begins with.
fn path_of(place: u8, file: u8) -> (PathBuf, u64) {
    let Some(dir) = DIRS.get(usize::from(place % 8)) else {
        return (Path::new(DIR).join(TOP[usize::from(file) % TOP.len()]), 0);
    };
    let dir = Path::new(DIR).join(dir);
    match file {
        0..8 => (dir.join("partition.metadata"), 0),
        8..16 => (dir.join("leader-epoch-checkpoint"), 0),
        file => {
            let (base, suffix) = (BASES[usize::from(file % 4)], SUFFIXES[usize::from(file / 4) % SUFFIXES.len()]);
            (dir.join(format!("{base:020}.{suffix}")), base)
        }
    }
}

fn put(disk: &SimDisk, path: &Path, bytes: &[u8]) {
    let _ = disk.remove_file(path);
    let file = disk.open(path, Open::CreateNew).unwrap();
    write_all_at(&*file, bytes, 0).unwrap();
    file.sync().unwrap();
    disk.sync_dir(path.parent().unwrap()).unwrap();
}

/// Batches as described: four bytes each, for what it is, how many records, who wrote it, and how far behind the last one
/// it begins.
fn batches(description: &[u8], base: u64) -> Vec<u8> {
    let (mut all, mut next, mut builder) = (Vec::new(), Offset(base), BatchBuilder::new());
    for &[what, count, who, gap] in description.as_chunks::<4>().0 {
        let (producer, epoch) = (ProducerId(i64::from(who % 4)), ProducerEpoch(i16::from(who / 64)));
        let leader_epoch = LeaderEpoch(i32::from(gap / 64));
        next = next + u64::from(gap % 4) * u64::from(gap % 8 / 4);
        if what % 8 == 7 {
            let marker = Marker {
                offset: next,
                leader_epoch,
                producer_id: producer,
                producer_epoch: epoch,
                timestamp: Timestamp(T0),
                is_commit: count % 2 == 0,
                coordinator_epoch: i32::from(count / 64),
            };
            let mut batch = Vec::new();
            encode_marker(&marker, &mut batch).unwrap();
            all.extend(batch);
            next = next + 1;
            continue;
        }
        let options = BatchOptions::default().base_offset(next).leader_epoch(leader_epoch);
        let options = options.compression(compression(what / 8));
        let is_transactional = what % 2 == 0;
        let from = Producer { id: producer, epoch, base_sequence: i32::from(who / 4 % 16), is_transactional };
        builder.begin(if what % 8 < 4 { options } else { options.producer(from) });
        let count = u64::from(count % 4) + 1;
        for number in 0..count {
            let time = Timestamp(T0 + i64::from(who) * 100 + number as i64);
            builder.push(&Record::new(&[what, who, gap]).key("k"), time).unwrap();
        }
        all.extend_from_slice(builder.finish().unwrap());
        next = next + count;
    }
    all
}

/// One of the codecs that this build has.
fn compression(number: u8) -> Compression {
    let codecs = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
    let codec = codecs.into_iter().cycle().nth(usize::from(number)).unwrap();
    if codec.is_supported() { Compression::new(codec) } else { Compression::NONE }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_written_in_order_is_read_and_gone_on_with() {
        for which in 0..4 {
            let seen = look(&on(beginning(which))).unwrap();
            assert!(!seen.is_damaged, "{which}: {seen:?}");
            assert_eq!(seen.records.values().map(Vec::len).sum::<usize>(), if which == 0 { 0 } else { 25 });
            directory(&[which]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_target_holds_on_random_changes(which: u8, changes in prop::collection::vec(any_change(), 0..12)) {
            directory(&[&[which][..], &changes.concat()].concat());
        }
    }

    fn any_change() -> impl Strategy<Value = Vec<u8>> {
        let head = any::<(u8, u8, u8)>();
        (head, prop::collection::vec(any::<u8>(), 0..32))
            .prop_map(|((place, file, how), body)| [&[place, file, how, body.len() as u8][..], &body].concat())
    }
}
