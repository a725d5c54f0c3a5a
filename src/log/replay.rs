//! An internal topic read from its start: its state is the fold of its records.

use std::path::Path;

use crate::error::{Error, Result};
use crate::partition::ReadOptions;
use crate::partition::core::Core;
use crate::record::BatchRef;
use crate::types::Offset;

/// Where a batch is stored, for errors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'p> {
    pub(super) path: &'p Path,
    pub(super) position: u64,
}

/// Hands each batch of a partition to `take`, in order, and returns the offset after the last.
pub(super) fn each_batch(
    core: &Core,
    mut take: impl FnMut(&BatchRef<'_>, Place<'_>) -> Result<()>,
) -> Result<Offset> {
    let mut at = core.start();
    while at < core.end() {
        let batches = core.fetch(at, ReadOptions::default())?;
        let mut rest = batches.bytes();
        while !rest.is_empty() {
            let (path, position) = batches.place_of_last(rest.len());
            let batch = BatchRef::framed(rest).map_err(|invalid| Error::corrupt(path, position, invalid.what))?;
            rest = &rest[batch.bytes().len()..];
            take(&batch, Place { path, position })?;
        }
        if batches.next_offset() <= at {
            let what = format!("no batch is found for offset {at}, and the log goes on");
            return Err(Error::corrupt(&core.dir, 0, what));
        }
        at = batches.next_offset();
    }
    Ok(at)
}
