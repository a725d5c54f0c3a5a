//! The ids of producers: each is given out once in the life of a log.
//!
//! They are reserved in blocks, in the catalog: before one is given out, it is durable that it may have been. What is left of
//! a block when the log is closed is never used. Those of a log that is replicated come from the controller.

use std::ops::Range;

use super::Inner;
use crate::error::{Error, Result};
use crate::observe::Quiet;
use crate::probe;
use crate::types::ProducerId;

/// What is left of the block that was reserved last.
#[derive(Debug, Default)]
pub(super) struct ProducerIds {
    left: Range<i64>,
    /// All below were taken before, if others reserve them.
    seen: i64,
}

impl Inner {
    /// An id that nobody had before. Once for a thousand of them, this waits for the disk.
    pub(super) fn new_producer_id(&self) -> Result<ProducerId> {
        let mut ids = Quiet::lock(&self.producer_ids);
        if self.context.is_replicated {
            // Another node would reserve the same: the controller does.
            let id = ids.left.next().map(ProducerId);
            if ids.left.is_empty() {
                drop(ids);
                self.ask_for_producer_ids();
            }
            return id.ok_or(Error::NoProducerIds);
        }
        if ids.left.is_empty() {
            ids.left = self.reserve_producer_ids()?;
        }
        ids.left.next().map(ProducerId).ok_or(Error::Unsupported { what: "another producer id" })
    }

    /// Takes ids that were reserved for this node, unless they are some of those that it had, or has.
    pub(super) fn take_producer_ids(&self, reserved: Range<i64>) {
        let mut ids = Quiet::lock(&self.producer_ids);
        if reserved.start >= ids.seen {
            ids.seen = reserved.end;
            ids.left = reserved;
        }
    }

    /// The highest id that is known here: given out while the log was alone, or of a batch that is stored.
    pub(super) fn last_producer_id(&self) -> ProducerId {
        let given = Quiet::lock(&self.catalog).next_producer() - 1;
        let stored = self.cores().iter().filter_map(|core| core.last_producer(MOST)).max();
        ProducerId(given).max(stored.unwrap_or(ProducerId::NONE))
    }

    fn reserve_producer_ids(&self) -> Result<Range<i64>> {
        let mut catalog = self.lock_catalog()?;
        self.context.before_change()?;
        // Others may have brought theirs along: a broker whose directory was adopted, or whose batches are appended here.
        let in_partitions = self.cores().iter().filter_map(|core| core.last_producer(MOST)).max();
        let in_transactions = self.transactions.last_producer(MOST);
        let seen = in_partitions.max(in_transactions).map_or(0, |seen| seen.0 + 1);
        let from = catalog.next_producer().max(FIRST).max((seen + BLOCK - 1) / BLOCK * BLOCK);
        let to = from.checked_add(BLOCK).ok_or(Error::Unsupported { what: "another producer id" })?;
        if !probe::planted("producers.ids_not_reserved") {
            let mut with = (**catalog).clone();
            with.reserve_producers(to);
            self.replace_catalog(&mut catalog, with)?;
        }
        Ok(from..to)
    }
}

const BLOCK: i64 = 1_000;
/// Far above those that a broker gives out, whose batches may be appended here later.
const FIRST: i64 = 1 << 40;
/// One from here on is taken for a number that somebody made up, and not counted on from.
const MOST: ProducerId = ProducerId(1 << 62);
