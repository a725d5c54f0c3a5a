//! What an open does about the transactions that the process before had: it reads what was decided, and ends what is open.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::settle::sync;
use super::{Current, Part, Phase, Seat};
use crate::error::Result;
use crate::log::names::{OFFSETS_TOPIC, TRANSACTIONS_TOPIC};
use crate::log::replay::{Entry, each_entry};
use crate::log::topic::{Slot, TopicState};
use crate::log::{FirstError, Inner};
use crate::observe::Quiet;
use crate::partition::core::Core;
use crate::partition::{Admission, Ending, OpenTransaction};
use crate::probe;
use crate::txn::{Coordinator, Extent, Open, State, Status, Ticket, Verdict};
use crate::types::{Offset, ProducerId};

impl Inner {
    /// Reads what was decided. A partition that cannot be read is damaged; what is open of its ids stays open.
    pub(in crate::log) fn load_transactions(&self) {
        let topic = self.topics.read().get(TRANSACTIONS_TOPIC).map(Arc::clone);
        let Some(topic) = topic else { return };
        let mut decided = Coordinator::default();
        let mut slots = topic.partitions.write();
        for slot in slots.iter_mut() {
            let Slot::Open(core) = slot else { continue };
            match replay_decisions(core) {
                Ok(read) => decided.merge(read),
                Err(error) => {
                    let error = self.note_damage(&core.id, error);
                    if !self.context.read_only {
                        *slot = Slot::Damaged(error);
                    }
                }
            }
        }
        if slots.iter().any(|slot| matches!(slot, Slot::Damaged(_))) {
            decided.is_missing_some();
        }
        drop(slots);
        self.transactions.coordinator.lock().merge(decided);
    }

    /// Decides anew on commits that lost a part of their data, which only [`Ack::Written`](crate::Ack::Written) leaves to be:
    /// they abort. Durable before anything is appended, be it a marker: what takes the place of the lost records would be taken
    /// for them by whoever looks next. So where this fails there is no log, on a full disk either.
    pub(in crate::log) fn revoke_lost(&self) -> Result<()> {
        let mut lost = BTreeSet::new();
        for core in self.cores() {
            let open = core.open_transactions().into_iter();
            lost.extend(open.filter(|open| self.verdict(&core, open) == Verdict::Lost).map(|open| open.producer));
        }
        lost.into_iter().try_for_each(|producer| self.revoke(producer))
    }

    fn revoke(&self, producer: ProducerId) -> Result<()> {
        probe::reached("transactions.revoked");
        let coordinator = self.transactions.coordinator.lock();
        let id: Box<str> = coordinator.owner(producer).unwrap_or_default().into();
        let Some(state) = coordinator.state(&id).cloned() else { return Ok(()) };
        drop(coordinator);
        let seat = self.new_seat(&id, &*self.find(TRANSACTIONS_TOPIC)?)?;
        let work = seat.work.lock();
        let state = State { status: Status::PrepareAbort, updated: self.context.clock.now(), ..state };
        let mut position = work.core.end();
        if !probe::planted("transactions.loss_not_synced") {
            position = self.record(&seat, &work, &state, Admission::Always)?;
            work.core.sync_to(position + 1)?;
        }
        self.transactions.coordinator.lock().take(&id, state, position);
        Ok(())
    }

    /// Ends every transaction that the process before left open, as it was decided: committed if it was, else aborted. One
    /// that is prepared gets a seat, and waits.
    pub(in crate::log) fn settle_open(&self) -> Result<()> {
        *self.transactions.has_left.lock() = true;
        self.settle_left()
    }

    /// Ends what the open could not, because the disk was full.
    pub(in crate::log) fn settle_left(&self) -> Result<()> {
        // Held until it is done: whoever begins a transaction meanwhile would have it ended here.
        let mut has_left = Quiet::lock(&self.transactions.has_left);
        if *has_left {
            self.settle()?;
            *has_left = false;
        }
        Ok(())
    }

    fn settle(&self) -> Result<()> {
        self.keep_decisions()?;
        let mut errors = FirstError::default();
        for core in self.cores() {
            for open in core.open_transactions() {
                errors.keep(self.settle_one(&core, &open));
            }
        }
        errors.into_result()
    }

    fn settle_one(&self, core: &Arc<Core>, open: &OpenTransaction) -> Result<()> {
        let is_commit = match self.verdict(core, open) {
            Verdict::Commit if !probe::planted("transactions.decision_ignored") => true,
            Verdict::Commit | Verdict::Abort => false,
            // None is lost any more: see `revoke_lost`.
            Verdict::Wait | Verdict::Foreign | Verdict::Lost => return Ok(()),
        };
        if is_commit {
            self.keep_data(open.producer)?;
        }
        match is_commit {
            true => probe::reached("transactions.committed_at_open"),
            false => probe::reached("transactions.aborted_at_open"),
        }
        let ending = Ending { producer: open.producer, first: open.first, is_commit, fences: !is_commit };
        self.end_in(core, &ending).map(drop)
    }

    fn verdict(&self, core: &Core, open: &OpenTransaction) -> Verdict {
        let found = Open {
            topic: &core.id.topic,
            topic_id: core.topic,
            partition: core.id.partition,
            producer: open.producer,
            epoch: open.epoch,
            first: open.first,
        };
        self.transactions.coordinator.lock().verdict(found, |topic, partition| {
            let topic = self.find(topic).ok()?;
            topic.core(partition).ok().map(|core| (core.topic, core.end()))
        })
    }

    /// Aborts what is open in one partition of a broker's directory, but nothing that is decided, or waits. Durable when this
    /// returns.
    pub(in crate::log) fn abort_open_in(&self, core: &Arc<Core>) -> Result<()> {
        for open in core.open_transactions() {
            if matches!(self.verdict(core, &open), Verdict::Abort | Verdict::Foreign) {
                probe::reached("adopt.aborted");
                let (producer, first) = (open.producer, open.first);
                self.end_in(core, &Ending { producer, first, is_commit: false, fences: true })?;
            }
        }
        core.sync_to(core.end())
    }

    /// Makes durable what is decided. It was found, but may be in memory only, and then the next power cut would take it from
    /// under the markers of some partitions and not of others, or prepare anew what was resolved.
    fn keep_decisions(&self) -> Result<()> {
        let topic = self.topics.read().get(TRANSACTIONS_TOPIC).map(Arc::clone);
        if probe::planted("transactions.found_decision_not_synced") {
            return Ok(());
        }
        topic.iter().flat_map(|topic| topic.cores()).try_for_each(|core| core.sync_to(core.end()))
    }

    /// Makes durable what a producer's commit rests on, for the same reason.
    fn keep_data(&self, producer: ProducerId) -> Result<()> {
        let coordinator = self.transactions.coordinator.lock();
        let id: Box<str> = coordinator.owner(producer).unwrap_or_default().into();
        let parts: Vec<_> = coordinator.state(&id).into_iter().flat_map(State::parts).collect();
        let parts: Vec<_> = parts.into_iter().map(|(topic, partition, _)| (Arc::clone(topic), partition)).collect();
        drop(coordinator);
        for (topic, partition) in parts {
            if let Ok(core) = self.find(&topic).and_then(|topic| topic.core(partition)) {
                sync(&core, core.end())?;
            }
        }
        Ok(())
    }

    /// Gives each prepared transaction its seat.
    pub(in crate::log) fn seat_prepared(&self) -> Result<()> {
        let tickets: Vec<Ticket> = self.transactions.coordinator.lock().prepared().collect();
        for ticket in tickets {
            let topic = self.find(TRANSACTIONS_TOPIC)?;
            let seat = self.prepared_seat(&topic, ticket)?;
            self.transactions.seats.lock().insert(seat.id.clone(), Arc::new(seat));
        }
        Ok(())
    }

    fn prepared_seat(&self, topic: &TopicState, ticket: Ticket) -> Result<Seat> {
        let seat = self.new_seat(&ticket.id, topic)?;
        let state = self.transactions.coordinator.lock().state(&ticket.id).cloned();
        let mut parts = Vec::new();
        for span in state.iter().flat_map(|state| state.spans()) {
            let core = self.find(&span.topic).and_then(|topic| topic.core(span.partition));
            let Ok(core) = core else { continue };
            let Extent { topic, first, end } = span.extent;
            // Another topic may have the name by now.
            let is_this = |open: &OpenTransaction| {
                open.producer == ticket.producer && (first..end).contains(&open.first) && core.topic == topic
            };
            if let Some(open) = core.open_transactions().into_iter().find(is_this) {
                parts.push(Part { core, first: open.first, end });
            }
        }
        let mut work = seat.work.lock();
        let began = self.context.clock.monotonic();
        let phase = Phase::Prepared(ticket);
        let (below, groups) = (Vec::new(), BTreeMap::new());
        work.state = state;
        work.current = Some(Current { number: 0, began, phase, parts, below, groups });
        drop(work);
        Ok(seat)
    }

    /// Ends a transaction in one partition. In one of `__consumer_offsets`, the offsets that were committed in it count
    /// from then on, or never will.
    pub(super) fn end_in(&self, core: &Arc<Core>, ending: &Ending) -> Result<Option<Offset>> {
        if *core.id.topic == *OFFSETS_TOPIC {
            return self.end_in_groups(core, ending);
        }
        core.end_transaction(ending)
    }
}

/// What one partition says was decided: all of it, for of an id the last record counts.
fn replay_decisions(core: &Arc<Core>) -> Result<Coordinator> {
    let mut coordinator = Coordinator::default();
    each_entry(core, |entry| {
        let Entry::Record { record, .. } = entry else { return };
        // Of a newer broker: what is open of this id stays open.
        if coordinator.replay(record.key, record.value, record.offset).is_err() {
            probe::reached("transactions.unreadable_record");
        }
    })?;
    Ok(coordinator)
}
