//! Files that a log of ours does not make yet, those of transactions, in a directory that Kafka's own code wrote.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::checksum::Digest;
use crate::disk::RealDisk;
use crate::disk::checkpoint::PartitionMetadata;
use crate::observe::Observer;
use crate::record::BatchHeader;
use crate::segment::files::{Files, ReadPath};
use crate::types::TopicPartition;

#[derive(Debug)]
struct Nobody;

impl Observer for Nobody {}

/// A copy of the directory.
fn fixture() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/fixture-log-dir/orders-0");
    let to = dir.path().join("orders-0");
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    (dir, to)
}

fn target(dir: &Path, read_path: ReadPath, dense: bool, derived: Derived) -> Target {
    let files = Arc::new(Files::new(Arc::new(RealDisk), Arc::new(Nobody), read_path, 10));
    let id = TopicPartition::new("orders", 0);
    let topic = PartitionMetadata::parse(&fs::read(dir.join("partition.metadata")).unwrap()).unwrap().topic;
    let (start, written) = (Offset::ZERO, Offset(24));
    Target::in_directory(Known { id, topic, dir: dir.into(), start, written, dense, derived }, &files)
}

fn judged(dir: &Path, read_path: ReadPath, dense: bool) -> Vec<Finding> {
    let target = target(dir, read_path, dense, BROKERS);
    let mut found = directory(&target).unwrap();
    (0..target.extents.len()).for_each(|at| found.extend(judged_segment(&target, at, target.gather(at))));
    found
}

fn judged_segment(target: &Target, at: usize, gathered: Result<Gathered>) -> Vec<Finding> {
    let verdict = segment(target, at, gathered, &mut |_| ControlFlow::Continue(())).unwrap();
    verdict.unwrap().findings
}

const BROKERS: Derived = Derived::All { is_closed: true };
const OURS: Derived = Derived::Vouched { clean: None };

/// What is found after a change of one file, by kind and file.
fn found_after(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Vec<(FindingKind, String)> {
    let (_dir, to) = fixture();
    let path = to.join(name);
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(&path, bytes).unwrap();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let found = judged(&to, ReadPath::Mapped, true);
    assert_eq!(found, judged(&to, ReadPath::Positional, true));
    found.iter().map(|finding| (finding.kind, name(&finding.path))).collect()
}

#[test]
fn what_kafka_wrote_is_sound() {
    let (_dir, to) = fixture();
    for dense in [true, false] {
        assert_eq!(judged(&to, ReadPath::Mapped, dense), []);
        assert_eq!(judged(&to, ReadPath::Positional, dense), []);
    }
}

#[test]
fn an_index_of_aborted_transactions_is_what_the_batches_say() {
    let name = "00000000000000000000.txnindex";
    let expected = vec![(FindingKind::TxnIndex, name.to_owned())];
    // Version, producer, first offset, marker, stable offset; and the whole entry.
    for at in [1, 9, 17, 25, 33] {
        assert_eq!(found_after(name, |bytes| bytes[at] ^= 1), expected, "byte {at}");
    }
    assert_eq!(found_after(name, Vec::clear), expected);
    assert_eq!(found_after(name, |bytes| bytes.truncate(30)), expected);
    assert_eq!(found_after(name, |bytes| bytes.extend_from_within(..)), expected);
}

/// A snapshot whose checksum is right is compared with the batches: what it says of each producer.
#[test]
fn a_snapshot_says_what_the_batches_say() {
    let name = "00000000000000000024.snapshot";
    for at in [10 + 7, 10 + 9, 10 + 13, 10 + 33] {
        let found = found_after(name, |bytes| {
            bytes[at] ^= 1;
            let crc = crate::checksum::crc32c(&bytes[6..]);
            bytes[2..6].copy_from_slice(&crc.to_be_bytes());
        });
        assert_eq!(found, [(FindingKind::Snapshot, name.to_owned())], "byte {at}");
    }
}

/// Every bit of the directory but those of the records, whose checksum is Kafka's.
#[test]
fn each_bit_of_a_brokers_directory_is_judged() {
    let (_dir, to) = fixture();
    let mut names: Vec<_> = fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let mut passed = Vec::new();
    for path in names.iter().filter(|path| !path.ends_with("partition.metadata")) {
        let whole = fs::read(path).unwrap();
        for bit in 0..whole.len() * 8 {
            if bit % 8 != (bit / 8) % 8 && path.extension().is_some_and(|kind| kind == "log") {
                continue; // One bit of each byte is enough.
            }
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(path, &damaged).unwrap();
            if judged(&to, ReadPath::Positional, true).is_empty() {
                passed.push((path.file_name().unwrap().to_string_lossy().into_owned(), bit / 8));
            }
        }
        fs::write(path, &whole).unwrap();
    }
    // An entry for the end of a later batch leads to where it may begin, as those of brokers before 4.0 do.
    passed.retain(|(name, _)| !name.ends_with("index"));
    assert_eq!(passed, []);
}

/// Bytes made to look like many long batches cost no more than a few passes over them.
#[test]
fn a_search_for_the_next_batch_ends() {
    let (_dir, to) = fixture();
    let path = to.join("00000000000000000017.log");
    let good = fs::read(&path).unwrap();
    let mut bytes = good.clone();
    bytes[30] ^= 1;
    // Headers at every 61 bytes, each of a batch to the end of the file.
    let fake_len = 61 * 4_000;
    for at in (0..fake_len).step_by(61) {
        let mut head = good[..61].to_vec();
        head[8..12].copy_from_slice(&((fake_len - at - 12) as u32).to_be_bytes());
        bytes.extend(head);
    }
    fs::write(&path, bytes).unwrap();
    let found = judged(&to, ReadPath::Mapped, true);
    assert!(found.iter().any(|finding| finding.kind == FindingKind::Batch), "{found:?}");
}

/// Where the batches of a data file begin, and where the last one ends.
fn boundaries(bytes: &[u8]) -> Vec<usize> {
    let mut all = vec![0];
    while let Ok(header) = BatchHeader::read(&bytes[all[all.len() - 1]..]) {
        all.push(all[all.len() - 1] + header.batch_len as usize);
    }
    assert_eq!(all.last(), Some(&bytes.len()));
    all
}

/// Puts a seal beside the first segment, which says what is there, but for `change`.
fn seal_first(dir: &Path, change: impl FnOnce(&mut Seal)) {
    let read = |kind| fs::read(file_path(dir, Offset::ZERO, kind)).unwrap();
    let log = read(FileKind::Log);
    let batches = boundaries(&log);
    let headers = batches[..batches.len() - 1].iter().map(|at| BatchHeader::read(&log[*at..]).unwrap());
    let largest = headers.map(|header| (header.max_timestamp, header.last_offset()));
    let mut seal = Seal {
        base: Offset::ZERO,
        end: Offset(17),
        log_len: log.len() as u64,
        largest: largest.reduce(|largest, next| if next.0 > largest.0 { next } else { largest }),
        log_crc: crate::checksum::crc32(&log),
        index: Digest::of(&read(FileKind::Index)),
        time_index: Digest::of(&read(FileKind::TimeIndex)),
        txn_index: Digest::of(&read(FileKind::TxnIndex)),
        frames: None,
    };
    change(&mut seal);
    fs::write(file_path(dir, Offset::ZERO, FileKind::Seal), seal.encode()).unwrap();
}

/// What is found in the first of the segments, where offsets may be missing: each kind with its advice.
fn found_in_first(dir: &Path, derived: Derived) -> Vec<(FindingKind, Advice)> {
    let target = target(dir, ReadPath::Mapped, false, derived);
    judged_segment(&target, 0, target.gather(0)).iter().map(|finding| (finding.kind, finding.advice)).collect()
}

/// A sealed segment of a compacted partition was cut between two of its batches, or to nothing. What was left was whole,
/// and offsets may be missing there, so it passed, unless a mark of an orderly close said something.
#[test]
fn a_sealed_segment_that_was_cut_where_offsets_may_be_missing_is_damaged() {
    let (_dir, to) = fixture();
    seal_first(&to, |_| {});
    assert_eq!(found_in_first(&to, OURS), []);
    let path = to.join("00000000000000000000.log");
    let whole = fs::read(&path).unwrap();
    let cuts = boundaries(&whole);
    for cut in &cuts[..cuts.len() - 1] {
        fs::write(&path, &whole[..*cut]).unwrap();
        assert_eq!(found_in_first(&to, OURS), [(FindingKind::Batch, Advice::Restore)], "to {cut} bytes");
    }
}

/// A broker's compacted segment has no seal. What its index leads to beyond the end was called a flaw of the index, which
/// follows from the batches, so nothing seemed to be lost.
#[test]
fn an_index_that_leads_behind_the_end_where_offsets_may_be_missing_tells_of_lost_batches() {
    let (_dir, to) = fixture();
    let path = to.join("00000000000000000000.log");
    let whole = fs::read(&path).unwrap();
    let cuts = boundaries(&whole);
    for cut in &cuts[..cuts.len() - 1] {
        fs::write(&path, &whole[..*cut]).unwrap();
        let found = found_in_first(&to, BROKERS);
        assert!(found.iter().any(|(_, advice)| *advice == Advice::Restore), "to {cut} bytes: {found:?}");
    }
    fs::write(&path, &whole).unwrap();
    // Flipped bits of the indexes themselves are none of that.
    for name in ["00000000000000000000.index", "00000000000000000000.timeindex"] {
        let path = to.join(name);
        let good = fs::read(&path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, bytes).unwrap();
            let found = found_in_first(&to, BROKERS);
            assert!(found.iter().all(|(_, advice)| *advice == Advice::Derived), "{name}, bit {bit}: {found:?}");
        }
        fs::write(&path, good).unwrap();
    }
}

/// An offset was flipped into a gap of compaction, and with it that of the largest time. The seal was called wrong for
/// that, which harms nobody; that its checksum tells of the batches was not looked at any more.
#[test]
fn a_seal_is_believed_before_what_follows_from_the_batches() {
    let (_dir, to) = fixture();
    seal_first(&to, |seal| {
        seal.log_crc ^= 1;
        seal.largest = seal.largest.map(|(time, offset)| (time, Offset(offset.0 - 1)));
    });
    assert_eq!(found_in_first(&to, OURS), [(FindingKind::Batch, Advice::Restore)]);
    seal_first(&to, |seal| seal.largest = seal.largest.map(|(time, offset)| (time, Offset(offset.0 - 1))));
    assert_eq!(found_in_first(&to, OURS), [(FindingKind::Seal, Advice::Derived)]);
}

/// All snapshots of a segment were read before its first batch, and kept: a broker may have left any number.
#[test]
fn a_snapshot_is_read_when_the_batches_have_come_to_it() {
    let (_dir, to) = fixture();
    let target = target(&to, ReadPath::Mapped, true, BROKERS);
    let gathered = target.gather(1);
    fs::write(to.join("00000000000000000024.snapshot"), "no snapshot").unwrap();
    let found = judged_segment(&target, 1, gathered);
    assert_eq!(found.iter().map(|finding| finding.kind).collect::<Vec<_>>(), [FindingKind::Snapshot]);
}
