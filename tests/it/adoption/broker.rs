//! What a broker makes of a directory when it starts, as Kafka's `LogLoader` has it: the judge of whether a directory
//! can still be given back.

use std::collections::BTreeMap;
use std::path::Path;

use chiplog::record::{BatchHeader, BatchRef};

use super::dir::{BrokerDir, CLEAN_MARK, DIR, Files};

/// Asserts that a broker which is started on these files finds every record, and believes nothing that is no longer so.
pub(super) fn assert_loads(files: &Files, before: &BrokerDir) {
    let is_lock = |path: &Path| path.ends_with("LOCK") || path.ends_with(".lock");
    for (path, bytes) in before.files.iter().filter(|(path, _)| !is_lock(path)) {
        let found = files.get(path);
        if files.contains_key(Path::new(CLEAN_MARK)) {
            assert!(found == Some(bytes), "{} has changed, and the broker's clean mark is there", path.display());
        }
        // Who a partition is, where it starts, and how far it was flushed.
        if is_kept(path) && path != Path::new(CLEAN_MARK) {
            assert!(found == Some(bytes), "{} has changed, and there is no catalog", path.display());
        }
    }
    for (partition, held) in &before.holds {
        let found = load(files, &Path::new(DIR).join(partition));
        let from_start: Vec<_> = found.into_iter().filter(|(offset, _)| *offset >= held.start).collect();
        assert_eq!(from_start, held.records, "what a broker would load of {partition}");
    }
}

/// Whether a file is none of a segment's, nor of a topic that is deleted.
fn is_kept(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    base_of(&name).is_none() && !path.to_string_lossy().contains("-delete")
}

/// The records of a partition's directory, by their offsets.
fn load(files: &Files, dir: &Path) -> Vec<(u64, String)> {
    let mut names: BTreeMap<String, &[u8]> = BTreeMap::new();
    for (path, bytes) in files.iter().filter(|(path, _)| path.parent() == Some(dir)) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        names.insert(name, bytes);
    }
    names.retain(|name, _| !name.ends_with(".deleted"));
    // A split that did not come to its end is undone.
    let cleaned = names.keys().filter(|name| name.ends_with(".cleaned")).filter_map(|name| base_of(name)).min();
    let is_undone = |name: &str| name.ends_with(".swap") && base_of(name) >= cleaned && cleaned.is_some();
    names.retain(|name, _| !name.ends_with(".cleaned") && !is_undone(name));
    // What is compacted takes the place of all that is between its first offset and its last.
    let swaps: Vec<_> = names.iter().filter(|(name, _)| name.ends_with(".log.swap")).collect();
    let first = swaps.iter().filter_map(|(name, _)| base_of(name)).min();
    let end = swaps.iter().flat_map(|(_, bytes)| batches(bytes)).map(|batch| batch.header().next_offset().0).max();
    names.retain(|name, _| {
        let is_replaced = base_of(name).is_some_and(|base| Some(base) >= first && Some(base) < end);
        name.ends_with(".swap") || first.is_none() || !is_replaced
    });
    let swapped: Vec<_> = names.keys().filter(|name| name.ends_with(".swap")).cloned().collect();
    for name in swapped {
        let bytes = names.remove(&name).unwrap_or_default();
        names.insert(name.trim_end_matches(".swap").to_owned(), bytes);
    }
    let mut records = Vec::new();
    for (_, bytes) in names.iter().filter(|(name, _)| name.ends_with(".log")) {
        batches(bytes).iter().for_each(|batch| read(batch, &mut records));
    }
    records
}

/// The offset that a file of a segment is named by.
fn base_of(name: &str) -> Option<u64> {
    name.split_once('.').filter(|(digits, _)| digits.len() == 20)?.0.parse().ok()
}

fn batches(bytes: &[u8]) -> Vec<BatchRef<'_>> {
    let (all, rest) = whole_batches(bytes);
    assert!(rest.is_empty(), "half a batch");
    all
}

pub(super) fn ends_with_a_batch(bytes: &[u8]) -> bool {
    whole_batches(bytes).1.is_empty()
}

/// The batches that bytes begin with, and what follows them.
fn whole_batches(mut bytes: &[u8]) -> (Vec<BatchRef<'_>>, &[u8]) {
    let mut all = Vec::new();
    while let Ok(header) = BatchHeader::read(bytes)
        && let Some((batch, rest)) = bytes.split_at_checked(header.batch_len as usize)
    {
        all.push(BatchRef::verify(batch).expect("a checksum that is right"));
        bytes = rest;
    }
    (all, bytes)
}

fn read(batch: &BatchRef<'_>, into: &mut Vec<(u64, String)>) {
    if batch.header().attributes.is_control() {
        return;
    }
    let mut scratch = Vec::new();
    for record in batch.records(1 << 20, &mut scratch).expect("readable records") {
        let value = String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned();
        into.push((record.offset.0, value));
    }
}
