//! What is known of every transactional id: the fold of the records of `__transaction_state`.
//!
//! It answers one question that matters: **what becomes of a transaction that is found open in a partition**, of which
//! nothing but its producer and its first offset is known there.
//!
//! | The last record of the producer's id says    | Verdict                                                       |
//! |----------------------------------------------|---------------------------------------------------------------|
//! | that this transaction commits                | commit, if every partition has all of it; else abort          |
//! | that it is prepared                          | wait for who prepared it                                      |
//! | anything else                                | abort: nobody goes on with it                                 |
//! | something that cannot be read                | wait until it can                                             |
//! | there is none                                | not ours: leave it to who began it                            |
//!
//! If any record is missing or cannot be read, it may be the one that an unknown producer is of: that waits, too.
//!
//! A decision is made durable after the data, and markers come after the decision. So a decision that is found means that
//! all of the data is there, except where nobody asked for it to be durable: then it may be there and the data not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::records::{Extent, Key, State, Status};
use super::ticket::Ticket;
use crate::error::{Error, Result};
use crate::types::{Offset, ProducerEpoch, ProducerId, Timestamp, TopicId};
use crate::wire::Invalid;

/// The state of all transactional ids.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Coordinator {
    ids: BTreeMap<Box<str>, Known>,
    /// Whose producer ids are.
    owners: BTreeMap<ProducerId, Box<str>>,
    /// Those of which the last record cannot be read.
    unreadable: BTreeSet<Box<str>>,
    /// Whether there are, or were, records that could not be read.
    is_incomplete: bool,
}

/// The last record of an id.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    state: State,
    /// Where it is in the log.
    position: Offset,
}

/// A transaction without an outcome, as a partition knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Open<'a> {
    pub(crate) topic: &'a str,
    pub(crate) topic_id: TopicId,
    pub(crate) partition: u32,
    pub(crate) producer: ProducerId,
    pub(crate) epoch: ProducerEpoch,
    pub(crate) first: Offset,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Commit,
    Abort,
    /// It was committed, and has lost a part of its records: it aborts. A record has to say so, durably, before anything can take
    /// their place.
    Lost,
    /// It is prepared, or what is known of it is not all there is: it waits for its outcome.
    Wait,
    /// It is of no transactional id that is known here.
    Foreign,
}

impl Coordinator {
    /// Takes in one record of the log.
    ///
    /// # Errors
    ///
    /// If it cannot be read. What it is about is unknown then, whatever records before it said.
    pub(crate) fn replay(
        &mut self,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        position: Offset,
    ) -> Result<(), Invalid> {
        let replayed = self.try_replay(key, value, position);
        self.is_incomplete |= replayed.is_err();
        replayed
    }

    fn try_replay(&mut self, key: Option<&[u8]>, value: Option<&[u8]>, position: Offset) -> Result<(), Invalid> {
        let key = key.ok_or(Invalid { at: 0, what: "record of a transaction without a key" })?;
        let Key::Id(id) = Key::decode(key)? else { return Ok(()) };
        match value.map(State::decode).transpose() {
            Ok(Some(state)) => self.take(id, state, position),
            Ok(None) => self.forget(id),
            Err(invalid) => {
                self.ids.remove(id);
                self.unreadable.insert(id.into());
                return Err(invalid);
            }
        }
        Ok(())
    }

    /// Adds what was read of other ids.
    pub(crate) fn merge(&mut self, other: Self) {
        self.ids.extend(other.ids);
        self.owners.extend(other.owners);
        self.unreadable.extend(other.unreadable);
        self.is_incomplete |= other.is_incomplete;
    }

    /// Remembers that there are ids of which nothing can be read.
    pub(crate) fn is_missing_some(&mut self) {
        self.is_incomplete = true;
    }

    /// Whether the last record of an id cannot be read.
    pub(crate) fn is_unreadable(&self, id: &str) -> bool {
        self.unreadable.contains(id)
    }

    /// Takes in what a record says that was just appended.
    pub(crate) fn take(&mut self, id: &str, state: State, position: Offset) {
        // A producer id that the id had before stays its own: what it left open is still to be ended.
        self.owners.insert(state.producer, id.into());
        self.unreadable.remove(id);
        self.ids.insert(id.into(), Known { state, position });
    }

    fn forget(&mut self, id: &str) {
        self.ids.remove(id);
        self.unreadable.remove(id);
        self.owners.retain(|_, owner| **owner != *id);
    }

    /// The last record of an id.
    pub(crate) fn state(&self, id: &str) -> Option<&State> {
        self.ids.get(id).map(|known| &known.state)
    }

    /// The id that a producer is of.
    pub(crate) fn owner(&self, producer: ProducerId) -> Option<&str> {
        self.owners.get(&producer).map(|id| &**id)
    }

    /// Whether an id has the producer, or had it, and its last record is known: what the producer left open is not foreign.
    pub(crate) fn is_known(&self, producer: ProducerId) -> bool {
        self.owner(producer).is_some_and(|id| self.ids.contains_key(id))
    }

    /// The largest producer id below another that any transactional id has, or had.
    pub(crate) fn last_producer(&self, below: ProducerId) -> Option<ProducerId> {
        self.owners.range(..below).next_back().map(|(producer, _)| *producer)
    }

    /// The record that gives an id to a new holder, with an epoch that fences every one before it. Called once a transaction
    /// that the one before had open is ended. `last` is the last record of the id, if it has one.
    pub(crate) fn begin(
        last: Option<&State>,
        timeout_ms: i32,
        now: Timestamp,
        new_producer: impl FnOnce() -> Result<ProducerId>,
    ) -> Result<State> {
        match last {
            Some(last) if last.epoch < LAST_EPOCH => {
                let epoch = ProducerEpoch(last.epoch.0.saturating_add(1).max(0));
                Ok(State { protocol: last.protocol, ..State::empty(last.producer, epoch, timeout_ms, now) })
            }
            _ => {
                let producer = new_producer()?;
                let previous = last.map_or(producer, |last| last.producer);
                Ok(State { previous, ..State::empty(producer, ProducerEpoch(0), timeout_ms, now) })
            }
        }
    }

    /// What becomes of a transaction that is found open. `end_of` tells of which topic a partition is, and where it ends; none
    /// if it is not there any more, or cannot be read.
    pub(crate) fn verdict(&self, open: Open<'_>, end_of: impl Fn(&str, u32) -> Option<(TopicId, Offset)>) -> Verdict {
        let owner = self.owners.get(&open.producer);
        let Some(Known { state, .. }) = owner.and_then(|owner| self.ids.get(owner)) else {
            return if self.is_incomplete { Verdict::Wait } else { Verdict::Foreign };
        };
        let is_this = |(topic, partition, extent): (&Arc<str>, u32, Option<Extent>)| {
            let is_here = **topic == *open.topic && partition == open.partition;
            // It may begin later than it did: of what is deleted before its end only the rest is found.
            let is_it = |Extent { topic, first, end }| topic == open.topic_id && (first..end).contains(&open.first);
            is_here && extent.map_or(state.decision.is_none(), is_it)
        };
        // A broker's marker may carry an epoch above that of the data.
        let is_its_epoch = match &state.decision {
            Some(_) => open.epoch == state.epoch,
            None => open.epoch <= state.epoch,
        };
        let is_named = open.producer == state.producer && is_its_epoch && state.parts().any(is_this);
        match state.status {
            Status::PrepareCommit if is_named && is_whole(state, end_of) => Verdict::Commit,
            Status::PrepareCommit if is_named => Verdict::Lost,
            Status::Ongoing if is_named && state.is_prepared() => Verdict::Wait,
            _ => Verdict::Abort,
        }
    }

    /// The transactions that are prepared and not decided.
    pub(crate) fn prepared(&self) -> impl Iterator<Item = Ticket> + '_ {
        let prepared = self.ids.iter().filter(|(_, known)| known.state.is_prepared());
        prepared.map(|(id, known)| {
            // Of one that could not be decided, the record that says so names the one that prepared it.
            let position = known.state.decision.as_ref().and_then(|decision| decision.prepared);
            known.ticket(id, position.unwrap_or(known.position))
        })
    }

    /// Whether, and how, the transaction of this ticket was decided, if that is the last thing known of its id.
    pub(crate) fn decided(&self, ticket: &Ticket) -> Option<bool> {
        let known = self.ids.get(&ticket.id)?;
        let position = known.state.decision.as_ref()?.prepared?;
        let is_this = known.ticket(&ticket.id, position) == *ticket;
        match known.state.status {
            Status::PrepareCommit if is_this => Some(true),
            Status::PrepareAbort if is_this => Some(false),
            _ => None,
        }
    }

    /// How many ids there are.
    #[cfg(any(fuzzing, test))]
    pub(crate) fn count(&self) -> usize {
        self.ids.len()
    }
}

impl Known {
    fn ticket(&self, id: &str, position: Offset) -> Ticket {
        Ticket { id: id.into(), producer: self.state.producer, epoch: self.state.epoch, position }
    }
}

/// Whether every partition has all of a transaction, as far as the record says what that is.
fn is_whole(state: &State, end_of: impl Fn(&str, u32) -> Option<(TopicId, Offset)>) -> bool {
    state.parts().all(|(topic, partition, extent)| {
        let (Some(extent), Some((id, end))) = (extent, end_of(topic, partition)) else { return true };
        // With a topic that was deleted went its part.
        id != extent.topic || extent.end <= end
    })
}

/// Refuses what cannot be a transactional id.
///
/// # Errors
///
/// [`Error::InvalidTransactionalId`].
pub(crate) fn check_transactional_id(id: &str) -> Result<()> {
    let refuse = |reason| Err(Error::InvalidTransactionalId { id: id.chars().take(250).collect(), reason });
    match id.len() {
        0 => refuse("it is empty"),
        len if len > i16::MAX as usize => refuse("it is longer than 32767 bytes"),
        _ => Ok(()),
    }
}

/// The last epoch a holder of an id gets, as in Kafka: the one after it is left to fence it.
const LAST_EPOCH: ProducerEpoch = ProducerEpoch(i16::MAX - 1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::txn::records::Span;

    const NOW: Timestamp = Timestamp(1_000);

    fn fresh() -> Result<ProducerId> {
        Ok(ProducerId(1_000))
    }

    const TOPIC: TopicId = TopicId::from_bytes([7; 16]);

    fn span(topic: &str, partition: u32, first: u64, end: u64) -> Span {
        let extent = Extent { topic: TOPIC, first: Offset(first), end: Offset(end) };
        Span { topic: topic.into(), partition, extent }
    }

    fn open(topic: &str, first: u64) -> Open<'_> {
        let (producer, epoch) = (ProducerId(1_000), ProducerEpoch(0));
        Open { topic, topic_id: TOPIC, partition: 0, producer, epoch, first: Offset(first) }
    }

    /// An id whose last record is one of these.
    fn with(status: Status, spans: &[Span]) -> Coordinator {
        let mut coordinator = Coordinator::default();
        let state = Coordinator::begin(None, 60_000, NOW, fresh).unwrap();
        coordinator.take("a", state.clone(), Offset(0));
        coordinator.take("a", state.with(status, spans, None, NOW), Offset(1));
        coordinator
    }

    #[test]
    fn a_transaction_has_the_outcome_that_was_decided_for_it_and_no_other_has() {
        let coordinator = with(Status::PrepareCommit, &[span("x", 0, 5, 7), span("y", 0, 3, 4)]);
        let whole = |_: &str, _| Some((TOPIC, Offset(9)));
        assert_eq!(coordinator.verdict(open("x", 5), whole), Verdict::Commit);
        assert_eq!(coordinator.verdict(open("y", 3), whole), Verdict::Commit);
        assert_eq!(coordinator.verdict(open("x", 8), whole), Verdict::Abort, "a later one of the same producer");
        assert_eq!(coordinator.verdict(open("z", 5), whole), Verdict::Abort, "in another partition");
        let anew = Open { topic_id: TopicId::from_bytes([8; 16]), ..open("x", 5) };
        assert_eq!(coordinator.verdict(anew, whole), Verdict::Abort, "in a topic that was made anew");
        let later = Open { epoch: ProducerEpoch(1), ..open("x", 5) };
        assert_eq!(coordinator.verdict(later, whole), Verdict::Abort, "of a later holder");
        let foreign = Open { producer: ProducerId(7), ..open("x", 5) };
        assert_eq!(coordinator.verdict(foreign, whole), Verdict::Foreign);
    }

    #[test]
    fn a_commit_that_lost_a_part_of_its_data_aborts_everywhere() {
        let coordinator = with(Status::PrepareCommit, &[span("x", 0, 5, 7), span("y", 0, 3, 4)]);
        let end_of = |topic: &str, _| Some((TOPIC, Offset(if topic == "y" { 3 } else { 9 })));
        assert_eq!(coordinator.verdict(open("x", 5), end_of), Verdict::Lost);
        let gone = |_: &str, _| Some((TopicId::from_bytes([8; 16]), Offset(0)));
        assert_eq!(coordinator.verdict(open("x", 5), gone), Verdict::Commit, "its part went with its topic");
        assert_eq!(
            coordinator.verdict(open("x", 5), |_, _| None),
            Verdict::Commit,
            "who cannot be asked says nothing"
        );
    }

    #[test]
    fn a_prepared_transaction_waits_and_is_found_by_its_ticket_once_decided() {
        let mut coordinator = with(Status::Ongoing, &[span("x", 0, 5, 7)]);
        let whole = |_: &str, _| Some((TOPIC, Offset(9)));
        assert_eq!(coordinator.verdict(open("x", 5), whole), Verdict::Wait);
        let tickets: Vec<_> = coordinator.prepared().collect();
        assert_eq!(tickets[0].to_string(), "1.1000.0.a");
        assert_eq!(coordinator.decided(&tickets[0]), None);
        let state = coordinator.state("a").unwrap();
        let decided = state.with(Status::PrepareCommit, &state.spans(), Some(Offset(1)), NOW);
        coordinator.take("a", decided, Offset(2));
        assert_eq!(coordinator.verdict(open("x", 5), whole), Verdict::Commit);
        assert_eq!((coordinator.prepared().count(), coordinator.decided(&tickets[0])), (0, Some(true)));
        assert_eq!(coordinator.decided(&Ticket { position: Offset(7), ..tickets[0].clone() }), None);
    }

    #[test]
    fn each_holder_of_an_id_gets_the_next_epoch_and_after_the_last_another_producer_id() {
        let mut coordinator = Coordinator::default();
        let first = Coordinator::begin(None, 5, NOW, fresh).unwrap();
        assert_eq!(
            (first.producer, first.epoch, first.previous),
            (ProducerId(1_000), ProducerEpoch(0), ProducerId(1_000))
        );
        coordinator.take("a", first.clone(), Offset(0));
        let second = Coordinator::begin(coordinator.state("a"), 5, NOW, || unreachable!("it has one")).unwrap();
        assert_eq!((second.producer, second.epoch), (ProducerId(1_000), ProducerEpoch(1)));
        coordinator.take("a", State { epoch: ProducerEpoch(i16::MAX - 1), ..second }, Offset(1));
        let third = Coordinator::begin(coordinator.state("a"), 5, NOW, || Ok(ProducerId(1_001))).unwrap();
        assert_eq!(
            (third.producer, third.epoch, third.previous),
            (ProducerId(1_001), ProducerEpoch(0), ProducerId(1_000))
        );
        coordinator.take("a", third, Offset(2));
        assert_eq!(
            coordinator.verdict(open("x", 5), |_, _| None),
            Verdict::Abort,
            "the old producer id is still its own"
        );
        assert_eq!(coordinator.last_producer(ProducerId(1_001)), Some(ProducerId(1_000)));
    }

    #[test]
    fn the_fold_of_the_records_is_the_state_before_they_were_written() {
        let coordinator = with(Status::PrepareCommit, &[span("x", 0, 5, 7)]);
        let mut replayed = Coordinator::default();
        for (at, state) in
            [(0, Coordinator::begin(None, 1, NOW, fresh).unwrap()), (1, coordinator.state("a").unwrap().clone())]
        {
            replayed.replay(Key::encode("a").as_deref(), state.encode().as_deref(), Offset(at)).unwrap();
        }
        assert_eq!(replayed, coordinator);
        replayed.replay(Key::encode("a").as_deref(), None, Offset(2)).unwrap();
        assert_eq!((replayed.count(), replayed.verdict(open("x", 5), |_, _| None)), (0, Verdict::Foreign));
        assert!(replayed.replay(None, None, Offset(3)).is_err());
        assert!(replayed.replay(Key::encode("a").as_deref(), Some(&[0, 9]), Offset(3)).is_err());
        assert!(replayed.replay(Some(&[0, 1]), Some(&[0, 9]), Offset(3)).is_ok(), "of another kind: passed over");
    }

    /// What an older record says is not what counts.
    #[test]
    fn an_id_whose_last_record_cannot_be_read_is_unknown_until_one_follows_that_can() {
        let mut coordinator = with(Status::PrepareAbort, &[span("x", 0, 5, 7)]);
        let key = Key::encode("a");
        assert!(coordinator.replay(key.as_deref(), Some(&[0, 9]), Offset(3)).is_err());
        assert_eq!(coordinator.verdict(open("x", 5), |_, _| None), Verdict::Wait);
        let foreign = Open { producer: ProducerId(7), ..open("x", 5) };
        assert_eq!(coordinator.verdict(foreign, |_, _| None), Verdict::Wait, "its record may be that one");
        assert!(coordinator.is_unreadable("a") && coordinator.state("a").is_none());
        let again = with(Status::PrepareAbort, &[span("x", 0, 5, 7)]);
        coordinator.replay(key.as_deref(), again.state("a").unwrap().encode().as_deref(), Offset(4)).unwrap();
        assert_eq!(coordinator.verdict(open("x", 5), |_, _| None), Verdict::Abort);
        assert!(!coordinator.is_unreadable("a"));
    }

    /// A broker does not say where in a partition a transaction lies: it begins none before the markers of the last are there.
    #[test]
    fn a_brokers_decision_counts_for_what_is_open_in_the_partitions_it_names() {
        let mut coordinator = with(Status::PrepareCommit, &[span("x", 0, 5, 7)]);
        let state = State { decision: None, epoch: ProducerEpoch(1), ..coordinator.state("a").unwrap().clone() };
        coordinator.take("a", state.clone(), Offset(3));
        assert_eq!(coordinator.verdict(open("x", 77), |_, _| None), Verdict::Commit);
        assert_eq!(coordinator.verdict(open("y", 77), |_, _| None), Verdict::Abort);
        coordinator.take("a", State { status: Status::Ongoing, ..state }, Offset(4));
        assert_eq!(coordinator.verdict(open("x", 77), |_, _| None), Verdict::Abort);
    }

    #[test]
    fn an_id_has_a_letter_and_fits_its_length() {
        assert!(check_transactional_id("a").is_ok());
        for id in [String::new(), "x".repeat(32_768)] {
            assert!(check_transactional_id(&id).is_err());
        }
    }
}
