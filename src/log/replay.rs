//! An internal topic read from its start: its state is the fold of its records.

use crate::error::{Error, Result};
use crate::partition::ReadOptions;
use crate::partition::core::Core;
use crate::record::{BatchRef, Control, RecordRef};
use crate::types::{Offset, ProducerId};

/// What there is in a partition.
pub(super) enum Entry<'e> {
    Record {
        record: RecordRef<'e>,
        /// Whose transaction it is part of, if it is of one.
        transaction: Option<ProducerId>,
    },
    /// The end of a producer's transaction.
    Marker { producer: ProducerId, is_commit: bool },
}

/// Hands all there is in a partition to `take`, in order, and returns the offset after it.
pub(super) fn each_entry(core: &Core, mut take: impl FnMut(Entry<'_>)) -> Result<Offset> {
    let (mut at, mut scratch) = (core.start(), Vec::new());
    let limit = core.config.read().max_decompressed_bytes as usize;
    while at < core.end() {
        let batches = core.fetch(at, ReadOptions::default().to_end())?;
        let mut rest = batches.bytes();
        while !rest.is_empty() {
            let (path, position) = batches.place_of_last(rest.len());
            let batch = BatchRef::framed(rest).map_err(|invalid| Error::corrupt(path, position, invalid.what))?;
            rest = &rest[batch.bytes().len()..];
            let (producer, attributes) = (batch.header().producer_id, batch.header().attributes);
            if attributes.is_control() {
                match batch.control() {
                    Ok(Some(Control::Commit { .. })) => take(Entry::Marker { producer, is_commit: true }),
                    Ok(Some(Control::Abort { .. })) => take(Entry::Marker { producer, is_commit: false }),
                    // Of a newer broker.
                    _ => {}
                }
                continue;
            }
            let transaction = attributes.is_transactional().then_some(producer);
            let records = batch.records(limit, &mut scratch).map_err(|error| error.at(path, position))?;
            for record in records.filter(|record| record.offset >= core.start()) {
                take(Entry::Record { record, transaction });
            }
        }
        if batches.next_offset() <= at {
            let what = format!("no batch is found for offset {at}, and the log goes on");
            return Err(Error::corrupt(&core.dir, 0, what));
        }
        at = batches.next_offset();
    }
    Ok(at)
}
