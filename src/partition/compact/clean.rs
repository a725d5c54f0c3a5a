//! One batch after the other through a pass: first into the map, then through the filter. Bytes in, bytes out.

use std::path::Path;

use crate::config::TopicConfig;
use crate::error::{Error, Result};
use crate::partition::append::stored_as;
use crate::probe;
use crate::record::{BatchRef, Codec, Compression, Control, Rewriter, emptied};
use crate::types::Offset;

use super::filter::{Fate, Filter, Kept};
use super::offset_map::OffsetMap;

/// What a pass carries from batch to batch.
#[derive(Debug)]
pub(crate) struct Cleaner {
    pub(crate) filter: Filter,
    pub(crate) latest: OffsetMap,
    /// How the topic's own codec is used; of others, the level is the default.
    compression: Compression,
    max_decompressed: usize,
    rewriter: Rewriter,
    plain: Vec<u8>,
    /// Which records of the batch at hand stay.
    stays: Vec<bool>,
    /// Whether any of the batches that were mapped belongs to a transaction.
    pub(crate) maps_transactions: bool,
}

/// Where a batch is, for errors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At<'p> {
    pub(crate) path: &'p Path,
    pub(crate) position: u64,
}

/// What a batch came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cleaned {
    pub(crate) fate: Fate,
    /// It said that a transaction is aborted, and does no longer.
    pub(crate) drops_abort: bool,
    /// A tombstone went because its time has passed.
    pub(crate) forgets: bool,
}

impl Cleaner {
    pub(crate) fn new(filter: Filter, latest: OffsetMap, config: &TopicConfig) -> Self {
        Self {
            filter,
            latest,
            compression: stored_as(config).unwrap_or(Compression::NONE),
            max_decompressed: config.max_decompressed_bytes as usize,
            rewriter: Rewriter::default(),
            plain: Vec::new(),
            stays: Vec::new(),
            maps_transactions: false,
        }
    }

    /// Notes the keys of a batch, those of records at or above `from`. Returns the offset of the first record that there
    /// was no room for, if there was none.
    pub(crate) fn map(&mut self, batch: &BatchRef<'_>, from: Offset, at: At<'_>) -> Result<Option<Offset>> {
        let header = batch.header();
        self.maps_transactions |= header.attributes.is_transactional();
        let is_aborted = self.filter.is_aborted(header) && !probe::planted("compact.aborted_counts");
        if header.attributes.is_control() || header.record_count == 0 || is_aborted {
            return Ok(None);
        }
        let records = batch.records(self.max_decompressed, &mut self.plain);
        for record in records.map_err(|error| error.at(at.path, at.position))? {
            let Some(key) = record.key.filter(|_| record.offset >= from) else { continue };
            if !self.latest.put(key, record.offset) {
                return Ok(Some(record.offset));
            }
        }
        Ok(None)
    }

    /// Appends to `into` what is left of a batch. Batches come in the order of the log, from its start on.
    pub(crate) fn clean(
        &mut self,
        batch: &BatchRef<'_>,
        is_last: bool,
        at: At<'_>,
        into: &mut Vec<u8>,
    ) -> Result<Cleaned> {
        let header = batch.header();
        let control = batch.control().map_err(|invalid| Error::corrupt(at.path, at.position, invalid.what))?;
        let verdict = self.filter.judge(header, control);
        // Also of those that stay as they are: whoever reads what is written here does not check them again.
        let records = batch.records(self.max_decompressed, &mut self.plain);
        let records = records.map_err(|error| error.at(at.path, at.position))?;
        let (mut kept, mut forgets) = (Kept::default(), false);
        self.stays.clear();
        for record in records.clone() {
            let stays = self.filter.keeps(header, verdict, &record, &self.latest);
            forgets |= !stays && self.filter.forgets(verdict, &record, &self.latest);
            self.stays.push(stays);
            kept.count += i32::from(stays);
            kept.tombstones += i32::from(stays && record.value.is_none());
        }
        let fate = self.filter.fate(header, verdict, kept, is_last);
        match fate {
            Fate::Copied => into.extend_from_slice(batch.bytes()),
            Fate::Rewritten { horizon } => {
                let kept = records.zip(&self.stays).filter_map(|(record, stays)| stays.then_some(record));
                let compression = match header.attributes.codec().unwrap_or(Codec::None) {
                    codec if codec == self.compression.codec() => self.compression,
                    codec => Compression::new(codec),
                };
                self.rewriter.rewrite(header, kept, horizon, compression, into)?;
            }
            Fate::Emptied => drop(emptied(header, into)),
            Fate::Dropped => {}
        }
        let drops_abort =
            matches!(control, Some(Control::Abort { .. })) && matches!(fate, Fate::Emptied | Fate::Dropped);
        Ok(Cleaned { fate, drops_abort, forgets })
    }
}
