//! Any bytes as the arena that a killed process left beside a good log.
//!
//! ```text
//! input   flags | part | slots: word, flag, lap, batches, ...
//! ```
//!
//! What chance does not hit is put right where a flag says so: the header of the file, those of the slots, and the
//! checksums of the batches in them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a fuzz target fails by it")]

mod directory;

pub use directory::directory;

use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::{DiskOptions, Image, SimClock, SimDisk, SimEntropy};
use crate::config::{Compression, TopicConfig};
use crate::disk::marks::{ArenaHeader, Lap};
use crate::disk::{Disk, FileId, Open, write_all_at};
use crate::error::{ErrorKind, Result};
use crate::log::{Background, Log, LogBuilder, Staging};
use crate::partition::{Partition, RecoveryMode};
use crate::record::BatchHeader;
use crate::segment::pool::Layout;
use crate::types::{Offset, Timestamp, TopicId};

/// What the process before staged in is laid out like this.
const LAYOUT: Layout = Layout { slot_len: 512, slot_count: 2, batch_len: 200, stride: 256 };
/// The values of the records that are in the file, for good.
const WRITTEN: [&str; 3] = ["0", "1", "2"];
const ARENA: &str = "/log/staging";
const FILE: &str = "/log/t-0/00000000000000000000.log";
/// No open makes as many.
const CALLS: u64 = 50_000;

/// The arena's header is put right, for slots of this length or twice that.
const HEADER: u8 = 1;
const LONG_SLOTS: u8 = 2;
/// The head of each slot is put right: its checksum; and that of the first one its partition and file, too.
const LAPS: u8 = 4;
const OURS: u8 = 8;
/// The batches have their checksums.
const BATCHES: u8 = 16;
/// It is another file than the one the process before spoke of.
const OTHER_FILE: u8 = 32;
/// A part of what is in the first slot is in the data file, too.
const CUT_WRITE: u8 = 64;
/// The topic has a codec.
const CODEC: u8 = 128;

/// Any bytes as the arena: the log opens, or says what is damaged; what is in its files is there, and what is there
/// stays.
pub fn staging(bytes: &[u8]) {
    let Some((&[flags, part], slots)) = bytes.split_first_chunk::<2>() else { return };
    let slots = &slots[..slots.len().min(1 << 14)];
    if flags & HEADER == 0 && ArenaHeader::decode(slots).is_err() {
        // Of a newer version, which is not read at all.
        return;
    }
    let has_codec = flags & CODEC != 0 && cfg!(feature = "lz4");
    let image = KILLED[usize::from(has_codec)].get_or_init(|| killed(has_codec));
    let disk = SimDisk::on(image.clone(), Arc::new(SimClock::new(Timestamp(1_700_000_100_000))));
    put(&disk, flags, part, slots);
    if has_two(&crate::disk::read_file(&*disk, Path::new(ARENA), u64::MAX).unwrap()) {
        return;
    }

    let found = seen(&disk, RecoveryMode::Report, true);
    let salvaged = seen(&disk.kill(), RecoveryMode::Salvage, false);
    assert!(salvaged.is_some(), "a salvage is refused");
    let again = seen(&disk, RecoveryMode::Report, false);
    assert_eq!(again, found, "who only reads sees something else");
}

/// Opens the log, and reads what is there; `None` if its partition is refused. Whoever writes appends a record, dies, and
/// is followed by another.
fn seen(disk: &Arc<SimDisk>, recovery: RecoveryMode, read_only: bool) -> Option<Vec<String>> {
    let disk = disk.kill();
    disk.set_call_limit(CALLS);
    let settings = builder(&disk).recovery(recovery);
    let settings = if read_only { settings.read_only() } else { settings };
    let log = settings.open().unwrap();
    let partition = match log.find_topic("t").unwrap().partition(0) {
        Ok(partition) => partition,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            disk.power_off();
            return None;
        }
    };
    let found = values(&partition);
    if !read_only {
        let end = partition.offsets().end;
        assert_eq!(partition.append("more").map(|appended| appended.offset()).ok(), Some(end));
        let next = disk.kill();
        next.set_call_limit(CALLS);
        let log = builder(&next).open().unwrap();
        let after = log.find_topic("t").unwrap().partition(0);
        let after = after.unwrap_or_else(|error| panic!("after {recovery:?}: {error}"));
        assert_eq!(after.offsets().end, end + 1, "after {recovery:?}");
        let last = after.read(end).unwrap();
        assert_eq!(last.iter().next().and_then(|record| record.value), Some(&b"more"[..]), "after {recovery:?}");
        check_written(&values(&after));
        next.power_off();
    }
    disk.power_off();
    check_written(&found);
    // What has a checksum may still hold records that cannot be read.
    Some(found.unwrap_or_default())
}

fn check_written(found: &Result<Vec<String>>) {
    if let Ok(found) = found {
        assert!(found.starts_with(&WRITTEN.map(str::to_owned)), "{found:?}");
    }
}

fn values(partition: &Partition) -> Result<Vec<String>> {
    let (mut at, mut all) = (partition.offsets().start, Vec::new());
    while at < partition.offsets().end {
        let records = partition.read(at)?;
        all.extend(
            records.iter().map(|record| String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned()),
        );
        if records.next_offset() == at {
            break;
        }
        at = records.next_offset();
    }
    Ok(all)
}

/// The volume as the process before left it: three records in the file, others staged.
fn killed(has_codec: bool) -> Image {
    let config = TopicConfig::default().segment_bytes(1 << 16).set("segment.index.bytes", "2400").unwrap();
    let config = if has_codec { config.compression(Compression::Lz4 { level: 1 }) } else { config };
    let disk = SimDisk::new(DiskOptions::default());
    let log = builder(&disk).open().unwrap();
    let partition = log.create_topic("t", config).unwrap().partition(0).unwrap();
    WRITTEN.iter().for_each(|value| drop(partition.append(*value).unwrap()));
    partition.sync().unwrap();
    partition.append_all(["3", "4"]).unwrap();
    ["5", "6"].iter().for_each(|value| drop(partition.append(*value).unwrap()));
    let image = disk.image();
    disk.power_off();
    image
}

static KILLED: [OnceLock<Image>; 2] = [OnceLock::new(), OnceLock::new()];

fn builder(disk: &Arc<SimDisk>) -> LogBuilder {
    Log::builder("/log")
        .disk(Arc::clone(disk) as Arc<dyn Disk>)
        .clock(disk.clock())
        .entropy(Arc::new(SimEntropy::new(disk.calls())))
        .background(Background::Caller)
        .staging(Staging::On)
        .layout(LAYOUT)
}

/// Puts these slots into the arena, with what the flags say, and no more.
fn put(disk: &Arc<SimDisk>, flags: u8, part: u8, slots: &[u8]) {
    let has = |flag: u8| flags & flag != 0;
    let path = Path::new(ARENA);
    let found = crate::disk::read_file(&**disk, path, u64::MAX).unwrap();
    let header = ArenaHeader::decode(&found).unwrap().unwrap();
    let ours = Lap::decode(&found[ArenaHeader::LEN + LAP_AT..][..Lap::LEN]).unwrap().unwrap();
    if has(OTHER_FILE) {
        disk.remove_file(path).unwrap();
    }
    let how = if has(OTHER_FILE) { Open::CreateNew } else { Open::Write };
    let arena = disk.open(path, how).unwrap();
    arena.set_len(0).unwrap();
    if !has(HEADER) {
        return write_all_at(&*arena, slots, 0).unwrap();
    }
    let slot_len = LAYOUT.slot_len << u32::from(has(LONG_SLOTS));
    let mut slots = slots.to_vec();
    slots.resize(slots.len().next_multiple_of(slot_len as usize), 0);
    for (slot_number, slot) in slots.chunks_mut(slot_len as usize).enumerate() {
        if has(LAPS) {
            let is_first = slot_number == 0;
            put_lap(&mut slot[LAP_AT..BATCHES_AT], (has(OURS) && is_first).then_some(ours));
        }
        if has(BATCHES) {
            put_checksums(&mut slot[BATCHES_AT..]);
        }
    }
    if has(CUT_WRITE) && slots.len() > BATCHES_AT {
        let batches = &slots[BATCHES_AT..][..usize::from(part).min(slot_len as usize - BATCHES_AT)];
        write_all_at(&*disk.open(Path::new(FILE), Open::Write).unwrap(), batches, ours.position).unwrap();
    }
    let (file, slot_count) = (arena.metadata().unwrap().id, slots.len() as u32 / slot_len);
    let header = ArenaHeader { file, slot_len, slot_count, ..header };
    write_all_at(&*arena, &[&header.encode()[..], &slots].concat(), 0).unwrap();
}

/// Whether two slots hold records of one partition. No process leaves that: it is told of, and which of them counts may
/// change with each open.
fn has_two(arena: &[u8]) -> bool {
    let Ok(Some(ArenaHeader { slot_len, .. })) = ArenaHeader::decode(arena) else { return false };
    let slots = arena[ArenaHeader::LEN..].chunks_exact((slot_len as usize).max(BATCHES_AT));
    let filled = slots.filter(|slot| slot[..8] != [0; 8]);
    let laps = filled.filter_map(|slot| Lap::decode(&slot[LAP_AT..BATCHES_AT]).ok().flatten());
    let mut keys: Vec<_> = laps.map(|lap| (lap.topic, lap.partition)).collect();
    keys.sort_unstable();
    keys.windows(2).any(|pair| pair[0] == pair[1])
}

/// A lap of the numbers that are there, which may be another partition's.
fn put_lap(bytes: &mut [u8], ours: Option<Lap>) {
    let number = |at: usize| u64::from_be_bytes(*bytes[at..].first_chunk().unwrap());
    let topic = ours.map_or(TopicId::from_bytes(*bytes[16..].first_chunk().unwrap()), |ours| ours.topic);
    let file = FileId { device: number(60), inode: number(68), born: number(76) };
    let lap = Lap {
        number: number(8),
        topic,
        partition: (number(32) >> 32) as u32 % 2,
        end_before: Offset(number(36) >> 1),
        segment_base: Offset(number(44) >> 1),
        position: number(52),
        file: ours.map_or(file, |ours| ours.file),
    };
    bytes.copy_from_slice(&lap.encode());
}

fn put_checksums(mut batches: &mut [u8]) {
    while let Ok(header) = BatchHeader::read(batches) {
        let len = header.batch_len as usize;
        if len < BatchHeader::LEN || len > batches.len() {
            return;
        }
        let (batch, rest) = batches.split_at_mut(len);
        header.seal(batch);
        batches = rest;
    }
}

const LAP_AT: usize = crate::sys::Slot::BYTES_AT;
const BATCHES_AT: usize = LAP_AT + Lap::LEN;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the process before really left, with each of the flags.
    #[test]
    fn the_target_holds_on_what_a_process_left() {
        for flags in 0..=u8::MAX {
            let image = killed(flags & CODEC != 0 && cfg!(feature = "lz4"));
            let arena = &image.files()[Path::new(ARENA)];
            let slots = if flags & HEADER == 0 { 0 } else { ArenaHeader::LEN };
            for part in [0, 70, 255] {
                staging(&[&[flags, part], &arena[slots..]].concat());
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_target_holds_on_random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..1200)) {
            staging(&bytes);
        }
    }
}
