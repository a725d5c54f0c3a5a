//! Transactions under the explorers: whatever happens, all of one counts or nothing of it.
//!
//! What becomes of one is read from the markers. They are the log's own to write, when and where it is due: the model takes
//! in those that it finds, and checks that each ends a transaction that is open, and ends it as it may.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::apply::{Call, with_records};
use super::groups::{Key, commits, setting};
use super::look::{Blind, Found, FoundPartition, FoundRecord, check, check_record};
use super::model::{Model, Partition, Rec, records};
use super::op::{At, Batch, Ending, Offsets, Transact};
use super::subject::{Explored, each};
use super::{GROUPS, OFFSETS, SEATS, STATE, TOPICS};
use crate::clock::Clock;
use crate::record::RecordRef;
use crate::sim::explore::{Verdict, Violation};
use crate::{Ack, Error, GroupOffset, Isolation, Log, Offset, ReadOptions, Topic};

/// What becomes of transactions, as far as it is known.
#[derive(Debug, Clone, Default)]
pub(super) struct Transactions {
    all: Arc<Vec<Transaction>>,
    /// Those that are prepared, or may be.
    prepared: [Option<usize>; SEATS.len()],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Transaction {
    may_commit: bool,
    may_abort: bool,
    /// Nobody may end it but who resolves it.
    is_prepared: bool,
    /// Its commit was to survive a kill, not a power cut: of such a cut each partition keeps what it keeps.
    is_only_written: bool,
    may_be_halved: bool,
}

/// The id of a marker: they have none of their own.
const ABORTED: u64 = u64::MAX - 1;
const COMMITTED: u64 = u64::MAX;

pub(super) fn is_marker(id: u64) -> bool {
    id >= ABORTED
}

/// Whether the marker of this id ends a transaction that counts.
pub(super) fn is_commit(id: u64) -> bool {
    id == COMMITTED
}

impl Transactions {
    fn get(&mut self, number: usize) -> Option<&mut Transaction> {
        Arc::make_mut(&mut self.all).get_mut(number)
    }

    /// Somebody resolves what is prepared.
    pub(super) fn may_resolve(&mut self, seat: u8, is_commit: bool) {
        if let Some(number) = self.prepared[seat as usize]
            && let Some(transaction) = self.get(number)
        {
            transaction.may_commit |= is_commit;
            transaction.may_abort |= !is_commit;
        }
    }

    /// What was not synced may be lost.
    pub(super) fn power_lost(&mut self) {
        for transaction in Arc::make_mut(&mut self.all) {
            if transaction.is_only_written && transaction.may_commit {
                transaction.may_abort = true;
                transaction.may_be_halved = true;
            }
        }
    }

    /// It has this outcome, and so it is with it for ever.
    pub(super) fn pin(&mut self, number: usize, is_commit: bool) -> Verdict {
        let Some(transaction) = self.get(number) else { return Ok(()) };
        let may = if is_commit { transaction.may_commit } else { transaction.may_abort };
        if !may && !transaction.may_be_halved {
            let what = format!("transaction {number} is found committed: {is_commit}, {transaction:?}");
            return Err(Violation::new("X6", what));
        }
        (transaction.may_commit, transaction.may_abort) = (is_commit, !is_commit);
        Ok(())
    }

    /// Compares what was found of them.
    pub(super) fn settle(&mut self, outcomes: &Outcomes, found: &Found) -> Verdict {
        for (number, seen) in &outcomes.seen {
            let Some(transaction) = self.all.get(*number).copied() else { continue };
            let seat = self.prepared.iter().position(|prepared| *prepared == Some(*number));
            let is_told = |seat| found.prepared.as_ref().is_none_or(|prepared| prepared.contains(&(seat as u8)));
            let waits = seat.is_some_and(is_told);
            if seen.is_open && !waits && found.is_settled {
                return Err(Violation::new("X7", format!("transaction {number} is open, {transaction:?}")));
            }
            if transaction.may_be_halved {
                continue;
            }
            if seen.is_open && (seen.is_committed || seen.is_aborted) && found.is_settled
                || seen.is_committed && (seen.is_aborted || seen.is_lost)
            {
                return Err(Violation::new("X3", format!("of transaction {number}: {seen:?}, {transaction:?}")));
            }
            if seen.is_committed || seen.is_aborted {
                self.pin(*number, seen.is_committed)?;
            }
        }
        for seat in 0..SEATS.len() {
            if found.prepared.as_ref().is_some_and(|prepared| !prepared.contains(&(seat as u8)))
                && let Some(number) = self.prepared[seat].take()
                && let Some(transaction) = self.get(number)
                && transaction.is_prepared
                && !transaction.may_commit
                && !transaction.may_abort
            {
                return Err(Violation::new("X6", format!("transaction {number} was prepared, and is not any more")));
            }
        }
        Ok(())
    }
}

/// What was found of each transaction.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcomes {
    seen: BTreeMap<usize, Seen>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    is_open: bool,
    is_committed: bool,
    is_aborted: bool,
    is_lost: bool,
}

impl Outcomes {
    /// Makes the partition follow what was found of markers and of the transaction under way. Returns up to where it holds
    /// what it held.
    pub(super) fn follow(&mut self, partition: &mut Partition, maybe: &[Rec], found: &FoundPartition) -> u64 {
        let has_any = maybe.iter().any(|rec| rec.transaction.is_some())
            || found.records.iter().any(|record| record.producer.is_some())
            || partition.records.iter().any(|rec| rec.transaction.is_some());
        if !has_any {
            return found.offsets.end.0;
        }
        let start = found.offsets.start.0;
        let held = |record: &FoundRecord| partition.records.get((record.offset - partition.base) as usize);
        // Markers are told apart by whose they are.
        let is_same = |record: &&FoundRecord| {
            held(record)
                .is_some_and(|rec| record.id == rec.id && (!is_marker(rec.id) || record.producer == rec.sender))
        };
        let same = found.records.iter().take_while(is_same).count();
        let (kept, rest) = found.records.split_at(same);
        // One that was written anew has another time.
        let is_known = |record: &FoundRecord| {
            !is_marker(record.id)
                || held(record).is_some_and(|rec| rec.timestamp.is_none_or(|at| at == record.timestamp))
        };
        let anew: Vec<u64> = kept.iter().filter(|record| !is_known(record)).map(|record| record.offset).collect();
        let kept = rest.first().map_or(found.offsets.end.0, |record| record.offset).min(partition.end()).max(start);
        let lost: Vec<Rec> = partition.from(kept).to_vec();
        if !lost.is_empty() || !anew.is_empty() {
            let base = partition.base;
            let records = Arc::make_mut(&mut partition.records);
            records.truncate(kept.saturating_sub(base) as usize);
            anew.iter().for_each(|offset| records[(offset - base) as usize].timestamp = None);
        }
        let is_whole = lost.is_empty();
        // A write that failed may have been whole.
        let next = rest.first().map(|record| record.id);
        let is_found = |doubt: &Rec| doubt.transaction.is_some() && next == Some(doubt.id);
        let doubt = partition.doubt.first().copied().filter(is_found);
        let of_this = maybe.iter().copied().filter(|_| is_whole);
        let mut coming = doubt.into_iter().chain(of_this).peekable();
        for record in rest {
            let rec = match coming.next_if(|rec| rec.id == record.id) {
                Some(rec) => rec,
                None if is_marker(record.id) => marker(record),
                None => break,
            };
            partition.push(&[Rec { sender: record.producer, ..rec }]);
        }
        let untold = maybe.iter().copied().filter(|rec| !is_whole && rec.transaction.is_some());
        let missing = lost.into_iter().chain(coming).chain(untold);
        missing.filter_map(|rec| rec.transaction).for_each(|number| self.lose(number));
        // What was not a marker has been there before.
        if is_whole { kept.max(partition.acknowledged.min(partition.end())) } else { kept }
    }

    /// Takes in what the markers say.
    pub(super) fn note(&mut self, partition: &Partition) {
        let ended = |rec: &Rec| is_marker(rec.id).then_some(rec.id == COMMITTED);
        let records = partition.from(partition.start).iter().rev();
        self.note_all(records.map(|rec| (ended(rec), rec.sender, rec.transaction)));
    }

    /// The same of other records, the last first: how each ends a transaction, if it does, whose it is, and which it belongs
    /// to.
    pub(super) fn note_all(&mut self, records: impl Iterator<Item = (Option<bool>, Option<i64>, Option<usize>)>) {
        let mut ends = BTreeMap::new();
        for (ended, sender, transaction) in records {
            if let Some(is_commit) = ended {
                ends.insert(sender, is_commit);
            } else if let Some(number) = transaction {
                let seen = self.seen.entry(number).or_default();
                match ends.get(&sender) {
                    Some(true) => seen.is_committed = true,
                    Some(false) => seen.is_aborted = true,
                    None => seen.is_open = true,
                }
            }
        }
    }

    /// A part of it is not there.
    pub(super) fn lose(&mut self, number: usize) {
        self.seen.entry(number).or_default().is_lost = true;
    }
}

fn marker(record: &FoundRecord) -> Rec {
    let batch = Batch { id: record.id, count: 1, len: 0, timestamp: None };
    let rec = records(&batch, None)[0];
    Rec { len: 0, timestamp: Some(record.timestamp), sender: record.producer, ..rec }
}

/// All records from `from` on, and the markers among them; what readers of committed data see must be what those say.
/// Where nothing is compacted, each offset is there.
pub(super) fn read_marked(
    partition: &crate::Partition,
    from: u64,
    end: u64,
    has_gaps: bool,
) -> Result<Vec<FoundRecord>, Blind> {
    let mut all: Vec<FoundRecord> = Vec::new();
    let (mut at, mut is_plain) = (from, true);
    while at < end {
        let read = partition.read_with(Offset(at), ReadOptions::default().with_markers())?;
        for batch in read.batches() {
            let (attributes, producer) = (batch.header().attributes, batch.header().producer_id.0);
            let producer = attributes.is_transactional().then_some(producer);
            is_plain &= producer.is_none();
            for record in batch {
                let next = all.last().map_or(from, |last| last.offset + 1);
                let found = if attributes.is_control() { found_marker(&record) } else { check_record(&record, next) };
                all.push(FoundRecord { producer, ..found.map_err(Blind::Wrong)? });
            }
        }
        if read.next_offset().0 <= at {
            return Err(Blind::Wrong(Violation::new("R1", format!("no record at {at}, where {end} is the end"))));
        }
        at = read.next_offset().0;
    }
    if !has_gaps && (from..end).ne(all.iter().map(|record| record.offset)) {
        return Err(Blind::Wrong(Violation::new("R1", format!("not each of {from}..{end}: {all:x?}"))));
    }
    // What belongs to no transaction is shown to all alike.
    if !is_plain || partition.offsets().stable != partition.offsets().end {
        committed_is_told(partition, from, end, &all)?;
    }
    Ok(all)
}

fn found_marker(record: &RecordRef<'_>) -> Result<FoundRecord, Violation> {
    let (offset, id) = (record.offset.0, if says_commit(record) { COMMITTED } else { ABORTED });
    Ok(FoundRecord { offset, id, len: 0, timestamp: record.timestamp.0, producer: None })
}

/// What a marker says.
pub(super) fn says_commit(record: &RecordRef<'_>) -> bool {
    record.key.is_some_and(|key| key.get(3) == Some(&1))
}

/// Who reads committed data sees what is in no transaction, or in one that was committed, up to the first that is open.
fn committed_is_told(partition: &crate::Partition, from: u64, end: u64, all: &[FoundRecord]) -> Result<(), Blind> {
    let mut ends = BTreeMap::new();
    let (mut told, mut stable) = (Vec::new(), end);
    for record in all.iter().rev() {
        match (is_marker(record.id), record.producer) {
            (true, sender) => drop(ends.insert(sender, record.id == COMMITTED)),
            (false, None) => told.push(record.offset),
            (false, sender) => match ends.get(&sender) {
                Some(true) => told.push(record.offset),
                Some(false) => {}
                None => stable = record.offset,
            },
        }
    }
    let found = partition.offsets().stable.0;
    // Of one that is open nothing may be left to see.
    if found > stable || found < stable && (partition.offsets().start.0 < found || from != found) {
        return Err(Blind::Wrong(Violation::new("X4", format!("stable up to {found}, not {stable}: {all:x?}"))));
    }
    told.retain(|offset| *offset < found);
    told.reverse();
    let (mut at, mut seen) = (from, Vec::new());
    while at < found {
        let read = partition.read_with(Offset(at), ReadOptions::default().isolation(Isolation::Committed))?;
        check(&read, at, &mut seen).map_err(Blind::Wrong)?;
        if read.next_offset().0 <= at {
            break;
        }
        at = read.next_offset().0;
    }
    match seen.iter().map(|record| record.offset).eq(told.iter().copied()) {
        true => Ok(()),
        false => {
            Err(Blind::Wrong(Violation::new("X3", format!("committed is {seen:x?}, not {told:?}, of {all:x?}"))))
        }
    }
}

impl Model {
    /// A transaction is under way.
    pub(super) fn expect_transact(&mut self, transact: &Transact) {
        self.expect_topic(transact.at.topic);
        let recs = self.planned(transact);
        if let Some(offsets) = transact.offsets {
            let keys = commits(offsets.group, transact.at, offsets.count);
            self.groups.maybe = setting(keys, offsets.offset, Some(self.transactions.all.len()));
        }
        let topic = &mut self.topics[transact.at.topic as usize];
        if let Some(live) = topic.live.as_mut().or(topic.pending.as_mut()) {
            for (number, rec) in recs {
                let count = live.partitions.len();
                live.partitions[number % count].maybe.push(rec);
            }
        }
        let may_commit = matches!(transact.ending, Ending::Commit | Ending::CommitWritten);
        let number = self.transactions.all.len();
        Arc::make_mut(&mut self.transactions.all).push(Transaction {
            may_commit,
            may_abort: true,
            is_prepared: false,
            is_only_written: transact.ending == Ending::CommitWritten,
            may_be_halved: false,
        });
        let prepared = &mut self.transactions.prepared[transact.seat as usize];
        if transact.ending == Ending::Prepare && prepared.is_none() {
            *prepared = Some(number);
        }
    }

    /// The records of a transaction, and the partitions they go to, modulo how many there are.
    fn planned(&self, transact: &Transact) -> Vec<(usize, Rec)> {
        let number = self.transactions.all.len();
        let batch = Batch { len: transact.batch.len, ..transact.batch };
        let place = |at: usize| transact.at.partition as usize + at % transact.spread as usize;
        let recs = records(&batch, None).into_iter().enumerate();
        recs.map(|(at, rec)| (place(at), Rec { is_last: true, transaction: Some(number), ..rec })).collect()
    }
}

impl Call<'_> {
    /// Takes the seat, unless it is held. None if that failed, or something is prepared in it.
    pub(super) fn seat(&mut self, seat: u8) -> Result<Option<()>, Violation> {
        if self.subject.seats[seat as usize].is_some() {
            return Ok(Some(()));
        }
        let was_there = self.log.find_topic(STATE).is_some();
        let taken = self.log.producer().transactional(SEATS[seat as usize]);
        if !was_there && self.log.find_topic(STATE).is_some() {
            self.model.catalog_stored();
        }
        match taken {
            Ok(producer) => {
                self.subject.seats[seat as usize] = Some(producer);
                Ok(Some(()))
            }
            Err(Error::InvalidTransaction { .. }) if self.is_prepared(seat) => Ok(None),
            Err(error) => self.failed(error).map(|()| None),
        }
    }

    fn is_prepared(&self, seat: u8) -> bool {
        self.model.transactions.prepared[seat as usize].is_some()
    }

    fn failed(&mut self, error: Error) -> Verdict {
        // Only who opens the log again finds out.
        let is_unknown = matches!(error, Error::OutcomeUnknown { .. });
        let is_known_to_be = is_unknown && (self.subject.is_stuck || self.subject.world.disk.is_limited());
        self.subject.is_stuck |= is_unknown;
        if is_known_to_be { Ok(()) } else { self.explain(error).map(drop) }
    }

    pub(super) fn transact(&mut self, transact: &Transact) -> Verdict {
        // What is expected was numbered before it began.
        let number = self.model.transactions.all.len() - 1;
        let was_prepared =
            self.model.transactions.prepared[transact.seat as usize].is_some_and(|known| known != number);
        let mut outcome = self.run_transaction(transact, number);
        let transactions = &mut self.model.transactions;
        let is_prepared = transactions.all[number].is_prepared;
        if transact.ending == Ending::Prepare && !is_prepared && !was_prepared && !self.subject.is_stuck {
            transactions.prepared[transact.seat as usize] = None;
        }
        let asks = transact.offsets.is_some_and(|offsets| offsets.offset.is_multiple_of(2));
        if asks && outcome.is_ok() && self.log.find_topic(OFFSETS).is_some() {
            outcome = self.absorb_groups();
        }
        outcome
    }

    fn run_transaction(&mut self, transact: &Transact, number: usize) -> Verdict {
        let Some((topic, _)) = self.partition(transact.at)? else { return self.over(number, false) };
        if self.seat(transact.seat)?.is_none() || transact.offsets.is_some() && !self.has_groups()? {
            return self.over(number, false);
        }
        let Some(mut producer) = self.subject.seats[transact.seat as usize].take() else { return Ok(()) };
        let sender = producer.id().0;
        let outcome = self.send_and_end(transact, number, &topic, &mut producer, sender);
        self.subject.seats[transact.seat as usize] = Some(producer);
        outcome
    }

    fn send_and_end(
        &mut self,
        transact: &Transact,
        number: usize,
        topic: &Topic,
        producer: &mut crate::TransactionalProducer,
        sender: i64,
    ) -> Verdict {
        let mut transaction = match producer.begin() {
            Ok(transaction) => transaction,
            Err(Error::InvalidTransaction { .. }) if self.is_prepared(transact.seat) => {
                return self.over(number, false);
            }
            Err(error) => {
                self.failed(error)?;
                return self.over(number, false);
            }
        };
        // To begin may write markers that could not be written before.
        let log = self.log.clone();
        self.subject.absorb_markers(&log, self.model)?;
        let plan = {
            let known = self.model.transactions.all.len();
            debug_assert_eq!(known, number + 1);
            self.model.planned(transact)
        };
        for (place, rec) in plan {
            let rec = Rec { transaction: Some(number), sender: Some(sender), ..rec };
            let place = place % topic.partition_count() as usize;
            let at = At { partition: place as u8, ..transact.at };
            let partition =
                topic.partition(place as u32).map_err(|error| Violation::new("open", error.to_string()))?;
            let appended = with_records(&[rec], |records| transaction.append(&partition, records[0]));
            let is_there = matches!(&appended, Err(Error::NotSynced { .. }));
            if self.placed(at, topic, &[rec], appended)?.is_none() && !is_there {
                drop(transaction);
                return self.over(number, false);
            }
        }
        let mut below = Vec::new();
        if let Some(offsets) = transact.offsets {
            let keys = commits(offsets.group, transact.at, offsets.count);
            match self.commit_within(&mut transaction, sender, &keys, offsets)? {
                Some(ends) => below = ends,
                None => {
                    drop(transaction);
                    return self.over(number, false);
                }
            }
        }
        let ended = match transact.ending {
            Ending::Commit => transaction.commit(),
            Ending::CommitWritten => transaction.commit_with(Ack::Written),
            Ending::Abort => transaction.abort(),
            Ending::Drop => {
                drop(transaction);
                Ok(())
            }
            Ending::Prepare => match transaction.prepare() {
                Ok(_) => {
                    if let Some(transaction) = self.model.transactions.get(number) {
                        (transaction.is_prepared, transaction.may_abort) = (true, false);
                    }
                    // What was thought to be in the seat, as nobody could tell, is not.
                    self.model.transactions.prepared[transact.seat as usize] = Some(number);
                    return Ok(());
                }
                Err(error) => Err(error),
            },
        };
        let is_commit = matches!(transact.ending, Ending::Commit | Ending::CommitWritten);
        match ended {
            Ok(()) if is_commit => {
                below.iter().try_for_each(|(key, end)| self.is_synced_below(key.1, key.2, *end))?;
                self.over(number, true)
            }
            Ok(()) => self.over(number, false),
            Err(error @ Error::OutcomeUnknown { .. }) => self.failed(error),
            // Its outcome is known, and some partitions are yet to be told.
            Err(error) => {
                self.failed(error)?;
                self.over(number, false)
            }
        }
    }

    /// Commits offsets of a group in a transaction. Returns what is to be durable below them once that is committed; none
    /// if it failed.
    fn commit_within(
        &mut self,
        transaction: &mut crate::Transaction<'_>,
        sender: i64,
        keys: &[Key],
        offsets: Offsets,
    ) -> Result<Option<Vec<(Key, Offset)>>, Violation> {
        let all: Vec<_> = keys.iter().map(|key| GroupOffset::new(key.1, key.2, Offset(offsets.offset))).collect();
        let end_of = |key: &Key| {
            let partition = self.log.find_topic(key.1)?.partition(key.2).ok()?;
            Some((*key, partition.offsets().end.min(Offset(offsets.offset))))
        };
        let below = keys.iter().filter_map(end_of).collect();
        let group = self.log.group(GROUPS[offsets.group as usize]);
        let outcome = group.and_then(|group| transaction.commit_offsets(&group, &all));
        self.note_write(outcome.is_ok(), Some(sender))?;
        match outcome {
            // To ask makes durable what is told, which is not to be so each time.
            Ok(()) if offsets.offset.is_multiple_of(2) => self.absorb_groups().map(|()| Some(below)),
            Ok(()) => Ok(Some(below)),
            Err(error) => self.failed(error).map(|()| None),
        }
    }

    /// Its outcome is told.
    fn over(&mut self, number: usize, is_commit: bool) -> Verdict {
        self.model.transactions.pin(number, is_commit)
    }

    pub(super) fn resolve(&mut self, seat: u8, is_commit: bool) -> Verdict {
        let tickets = match self.log.prepared() {
            Ok(tickets) => tickets,
            Err(error) => return self.explain(error).map(drop),
        };
        let ticket = tickets.into_iter().find(|ticket| ticket.transactional_id() == SEATS[seat as usize]);
        let prepared = self.model.transactions.prepared[seat as usize];
        let (Some(ticket), Some(number)) = (ticket, prepared) else {
            return match prepared {
                Some(_) if !self.subject.is_stuck => Err(Violation::new("X6", "what is prepared is not told")),
                _ => Ok(()),
            };
        };
        let resolved = if is_commit { self.log.commit_prepared(&ticket) } else { self.log.abort_prepared(&ticket) };
        match resolved {
            Ok(()) => {
                self.model.transactions.prepared[seat as usize] = None;
                self.over(number, is_commit)
            }
            Err(error @ Error::OutcomeUnknown { .. }) => self.failed(error),
            Err(error) => {
                // It waits.
                if let Some(transaction) = self.model.transactions.get(number) {
                    (transaction.may_commit, transaction.may_abort) = (false, false);
                }
                self.failed(error)
            }
        }
    }
}

impl Explored {
    /// Takes in the markers that the log has written since.
    pub(super) fn absorb_markers(&mut self, log: &Log, model: &mut Model) -> Verdict {
        self.absorb_group_records(log, model)?;
        for (name, partition) in each(log) {
            let topic = TOPICS.iter().position(|topic| *topic == name).unwrap_or(0);
            let number = partition.number() as usize;
            let live = model.topics[topic].live.as_mut();
            let Some(expected) = live.and_then(|live| live.partitions.get_mut(number)) else { continue };
            let (start, end) = (partition.offsets().start.0, partition.offsets().end.0);
            // What retention has removed at once nobody can see: for each that was open there was one.
            let open: BTreeSet<_> = expected.records.iter().filter_map(|rec| rec.sender).collect();
            for _ in open {
                if expected.end() < start {
                    let at = expected.end();
                    expected.push(&[marker(&FoundRecord {
                        offset: at,
                        id: ABORTED,
                        len: 0,
                        timestamp: 0,
                        producer: None,
                    })]);
                    expected.acknowledged = expected.end();
                }
            }
            while expected.end() < end {
                let at = expected.end();
                self.world.disk.pause_faults(true);
                let options = ReadOptions::default().with_markers();
                let read = partition.read_with(Offset(at), options);
                self.world.disk.pause_faults(false);
                let Ok(read) = read else {
                    // What a poisoned partition has not synced is not told: who opens it again sees what it was.
                    let first = expected.first_unstable().and_then(|first| expected.from(first).first());
                    let producer = first.and_then(|rec| rec.sender);
                    let unseen = FoundRecord { offset: at, id: ABORTED, len: 0, timestamp: 0, producer };
                    expected.push(&[marker(&unseen)]);
                    self.is_stuck = true;
                    continue;
                };
                let marked = read.batches().next().map(|mut batch| (*batch.header(), batch.next()));
                let Some((header, Some(record))) = marked.filter(|(header, _)| header.attributes.is_control()) else {
                    return Err(Violation::new(
                        "A2",
                        format!("{name}-{number}: {at} is no marker, and {end} the end"),
                    ));
                };
                let (is_commit, producer) = (says_commit(&record), Some(header.producer_id.0));
                let found = found_marker(&record)?;
                let found = FoundRecord { producer, ..found };
                let open = open_of(expected, found.producer);
                let since = Some(self.world.clock.now().0);
                expected.push(&[Rec { since, ..marker(&found) }]);
                expected.acknowledged = expected.end();
                // Of one whose records were deleted there is nothing left to see.
                if open.is_empty() && !is_cut(expected, found.producer) {
                    return Err(Violation::new("X5", format!("{name}-{number}: the marker at {at} ends nothing")));
                }
                for number in open {
                    model.transactions.pin(number, is_commit)?;
                }
            }
        }
        Ok(())
    }
}

/// Whether the last records of this sender are below the start.
fn is_cut(partition: &Partition, sender: Option<i64>) -> bool {
    let kept = partition.from(partition.start).iter().rev().skip(1);
    partition.start > 0 && !kept.clone().any(|rec| rec.sender == sender)
}

/// The transactions that this sender has open in a partition.
fn open_of(partition: &Partition, sender: Option<i64>) -> BTreeSet<usize> {
    let of_sender = partition.from(partition.start).iter().rev().filter(|rec| rec.sender == sender);
    of_sender.take_while(|rec| !is_marker(rec.id)).filter_map(|rec| rec.transaction).collect()
}
