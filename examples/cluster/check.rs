//! What is on disk at the end, held against what was acknowledged.

use std::path::Path;

use chiplog::{Log, Offset, Partition, ReadOptions};

use crate::Result;
use crate::client::{Acked, BATCH, Lines};
use crate::node::TOPIC;

/// What was found.
pub(crate) struct Found {
    pub(crate) stored: u64,
    /// Acknowledged, and not there where it was said to be.
    pub(crate) missing: u64,
    /// There more than once.
    pub(crate) repeated: u64,
}

/// Opens a directory without changing it.
pub(crate) fn open(dir: &Path) -> Result<Partition> {
    let log = Log::builder(dir).read_only().strict().open()?;
    Ok(log.find_topic(TOPIC).ok_or("no topic")?.partition(0)?)
}

/// Reads all lines, and looks for each that was acknowledged.
pub(crate) fn lines(partition: &Partition, lines: &Lines, acked: &[Acked]) -> Result<Found> {
    let count = acked.iter().map(|acked| acked.first + BATCH).max().unwrap_or(0) as usize;
    let (mut offsets, mut times) = (vec![None; count], vec![0_u64; count]);
    for (acked, at) in acked.iter().flat_map(|acked| (0..BATCH).map(move |at| (acked, at))) {
        offsets[(acked.first + at) as usize] = Some(Offset(acked.offset + at));
    }
    let (mut stored, mut missing) = (0, offsets.iter().flatten().count() as u64);
    let (mut reader, mut at) = (partition.reader(), partition.offsets().start);
    while at < partition.offsets().end {
        let records = reader.read(at)?;
        for record in &records {
            let text = std::str::from_utf8(record.value.unwrap_or_default())?;
            let number: usize = text.split(' ').next().unwrap_or_default().parse()?;
            if text != lines.numbered(number as u64) || number >= count {
                return Err(format!("at offset {} is what was never sent: {text}", record.offset).into());
            }
            (stored, times[number]) = (stored + 1, times[number] + 1);
            missing -= u64::from(offsets[number] == Some(record.offset));
        }
        at = records.next_offset();
    }
    let repeated = times.iter().map(|times| times.saturating_sub(1)).sum();
    Ok(Found { stored, missing, repeated })
}

/// Compares two partitions byte by byte, wherever their segments begin. Returns how many are the same, if all are.
pub(crate) fn compare(one: &Partition, other: &Partition) -> Result<Option<u64>> {
    let (mut at, mut same) = (one.offsets().start, 0);
    while at < one.offsets().end || at < other.offsets().end {
        let [left, right] = [one.fetch(at, ReadOptions::default())?, other.fetch(at, ReadOptions::default())?];
        let len = left.bytes().len().min(right.bytes().len());
        if len == 0 || left.bytes()[..len] != right.bytes()[..len] {
            return Ok(None);
        }
        (at, same) = (left.next_offset().min(right.next_offset()), same + len as u64);
    }
    Ok(Some(same))
}
