//! What a raft log and its readers share: the partition, the codec, and what the records amount to.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;

use openraft::{LogId, RaftLogId, RaftTypeConfig};
use parking_lot::RwLock;

use super::RaftCodec;
use super::error::RaftLogError;
use super::record::{Flaw, Part, Purge, VERSION};
use super::state::State;
use crate::client::typed::{Codec, CodecError};
use crate::error::Error;
use crate::{Ack, Appended, Log, Offset, Partition, ReadOptions, Record, RecordRef, TopicPartition};

/// Resolves once what was appended, and all before it, survives a power cut.
pub(super) type Synced = Pin<Box<dyn Future<Output = Result<(), RaftLogError>> + Send>>;

pub(super) struct Shared<C: RaftTypeConfig, K> {
    log: Log,
    pub(super) partition: Partition,
    pub(super) id: TopicPartition,
    codec: K,
    /// Changed by the raft log alone, after the record that says so was appended, and before it is synced: what a
    /// record says counts for those after it.
    pub(super) state: RwLock<State<C::NodeId>>,
}

/// An entry, as it is stored.
pub(super) struct Encoded<C: RaftTypeConfig> {
    pub(super) log_id: LogId<C::NodeId>,
    value: Vec<u8>,
}

/// How many entries a read wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Amount {
    All,
    /// As many as one read of the partition finds, and no more than [`MOST`].
    Some,
}

/// Whoever wants some of all entries does not have all of them looked up.
const MOST: u64 = 4096;

impl<C: RaftTypeConfig, K: RaftCodec<C>> Shared<C, K> {
    /// Reads the partition from its start to its end.
    pub(super) fn open(log: Log, partition: Partition, codec: K) -> Result<Self, RaftLogError> {
        let id = TopicPartition::new(partition.topic(), partition.number());
        let start = partition.offsets().start;
        let state = RwLock::new(State::new(start));
        let mut shared = Self { log, partition, id, codec, state };
        shared.replay()?;
        let needed = shared.state.get_mut().keep_from;
        if needed < start { Err(shared.missing(needed, start)) } else { Ok(shared) }
    }

    fn replay(&mut self) -> Result<(), RaftLogError> {
        loop {
            let end = self.state.get_mut().end;
            let records = self.partition.read(end).map_err(self.failed("read"))?;
            for record in &records {
                self.take(&record)?;
            }
            let read = self.state.get_mut().end;
            if read != records.next_offset() {
                return Err(self.missing(read, records.next_offset()));
            }
            if read == end {
                return Ok(());
            }
        }
    }

    fn take(&mut self, record: &RecordRef<'_>) -> Result<(), RaftLogError> {
        let at = record.offset;
        let part = self.part(record)?;
        let vote = |vote| self.decode("vote", at, vote);
        let log_id = |log_id| self.decode("log id", at, log_id);
        let mut state = self.state.write();
        if state.end != at {
            return Err(self.missing(state.end, at));
        }
        match part {
            Part::Entry { index, .. } if state.push(index, at) => {}
            Part::Entry { .. } => return Err(self.foreign(at, "it does not follow the entry before")),
            Part::Truncate { from } => state.truncate(from),
            Part::Purge(purge) => {
                state.vote = purge.vote.map(vote).transpose()?;
                state.committed = purge.committed.map(log_id).transpose()?;
                state.purge(log_id(purge.purged)?, purge.keep_from);
            }
            Part::Vote(bytes) => state.vote = Some(vote(bytes)?),
            Part::Committed(bytes) => state.committed = bytes.map(log_id).transpose()?,
        }
        state.end = at + 1;
        Ok(())
    }

    /// The entries of a range that are there, or the first of those.
    pub(super) fn entries(&self, mut indexes: Range<u64>, amount: Amount) -> Result<Vec<C::Entry>, RaftLogError> {
        if amount == Amount::Some {
            indexes.end = indexes.end.min(indexes.start.saturating_add(MOST));
        }
        loop {
            let (first, offsets) = self.state.read().slice(indexes.clone());
            if let Some(entries) = self.read(first, &offsets, amount)? {
                return Ok(entries);
            }
        }
    }

    /// The id of the last entry; if there is none, of the last that was purged.
    pub(super) fn last_log_id(&self) -> Result<Option<LogId<C::NodeId>>, RaftLogError> {
        let state = self.state.read();
        let (indexes, purged) = (state.indexes(), state.purged.clone());
        drop(state);
        if indexes.is_empty() { Ok(purged) } else { self.log_id(indexes.end - 1) }
    }

    /// The id of an entry; none if it is not there.
    pub(super) fn log_id(&self, index: u64) -> Result<Option<LogId<C::NodeId>>, RaftLogError> {
        let entries = self.entries(index..index.saturating_add(1), Amount::All)?;
        Ok(entries.first().map(|entry| entry.get_log_id().clone()))
    }

    /// The entries at these offsets, from an index on; none if they went meanwhile.
    pub(super) fn read(
        &self,
        first: u64,
        offsets: &[Offset],
        amount: Amount,
    ) -> Result<Option<Vec<C::Entry>>, RaftLogError> {
        let mut entries = Vec::with_capacity(offsets.len());
        while let [at, .., last] | [at @ last] = offsets[entries.len()..] {
            let index = first + entries.len() as u64;
            let span = usize::try_from(last.0 - at.0).unwrap_or(usize::MAX).saturating_add(1);
            let records = match self.partition.read_with(at, ReadOptions::default().max_records(span)) {
                Err(Error::OffsetOutOfRange { .. }) if self.state.read().offset_of(index) != Some(at) => {
                    return Ok(None);
                }
                read => read.map_err(self.failed("read"))?,
            };
            let count = entries.len();
            for record in &records {
                match offsets.get(entries.len()) {
                    Some(wanted) if *wanted == record.offset => {
                        entries.push(self.entry(first + entries.len() as u64, &record)?);
                    }
                    Some(_) => {}
                    None => break,
                }
            }
            if entries.len() == count {
                return Err(self.missing(at, records.next_offset()));
            }
            if amount == Amount::Some {
                break;
            }
        }
        Ok(Some(entries))
    }

    fn entry(&self, index: u64, record: &RecordRef<'_>) -> Result<C::Entry, RaftLogError> {
        let at = record.offset;
        let Part::Entry { index: found, entry } = self.part(record)? else {
            return Err(self.foreign(at, "it is not the entry that was here"));
        };
        let entry: C::Entry = self.decode("entry", at, entry)?;
        if found != index || entry.get_log_id().index != index {
            return Err(self.foreign(at, "the entry has another index"));
        }
        Ok(entry)
    }

    fn part<'r>(&self, record: &RecordRef<'r>) -> Result<Part<'r>, RaftLogError> {
        let at = record.offset;
        let value = match (record.key, record.value) {
            (None, Some(value)) => value,
            (Some(_), _) => return Err(self.foreign(at, "it has a key")),
            (None, None) => return Err(self.foreign(at, "it has no value")),
        };
        Part::decode(value).map_err(|flaw| match flaw {
            Flaw::Foreign(reason) => self.foreign(at, reason),
            Flaw::Newer(found) => {
                RaftLogError::NewerVersion { partition: self.id.clone(), offset: at, found, supported: VERSION }
            }
        })
    }

    /// Appends entries as one batch, which must follow the last one.
    pub(super) fn append(&self, entries: &[Encoded<C>]) -> Result<Synced, RaftLogError> {
        let appended = match (self.put(entries.iter().map(|entry| &entry.value[..])), entries) {
            (Err(RaftLogError::Log { source: Error::BatchTooLarge { len, limit }, .. }), [entry]) => {
                let (partition, index) = (self.id.clone(), entry.log_id.index);
                return Err(RaftLogError::EntryTooLarge { partition, index, len, limit });
            }
            (put, _) => put?,
        };
        let mut state = self.state.write();
        for (entry, at) in entries.iter().zip(appended.offset().0..) {
            let follows = state.push(entry.log_id.index, Offset(at));
            debug_assert!(follows, "the raft log checks that");
        }
        state.end = appended.last_offset() + 1;
        Ok(self.synced(&appended))
    }

    /// Appends one record that is no entry, and takes it in.
    pub(super) fn tell(
        &self,
        part: Part<'_>,
        take: impl FnOnce(&mut State<C::NodeId>),
    ) -> Result<Synced, RaftLogError> {
        let appended = self.put([&part.encode()[..]])?;
        let mut state = self.state.write();
        take(&mut state);
        state.end = appended.last_offset() + 1;
        Ok(self.synced(&appended))
    }

    /// Says that all entries up to an id are gone, with all else that is to be known without the records before.
    pub(super) fn purge(&self, log_id: &LogId<C::NodeId>) -> Result<Synced, RaftLogError> {
        let state = self.state.read();
        let keep_from = state.needed_after(log_id.index);
        let purged = self.encode("log id", log_id)?;
        let vote = state.vote.as_ref().map(|vote| self.encode("vote", vote)).transpose()?;
        let committed = state.committed.as_ref().map(|id| self.encode("log id", id)).transpose()?;
        drop(state);
        let (vote, committed) = (vote.as_deref(), committed.as_deref());
        let purge = Purge { keep_from, purged: &purged, vote, committed };
        self.tell(Part::Purge(purge), |state| state.purge(log_id.clone(), keep_from))
    }

    /// Removes the files that hold nothing that is needed. To be called once the last purge is synced: after a crash it
    /// is all that tells of what they held.
    pub(super) fn remove_files(&self) -> Result<(), RaftLogError> {
        let keep_from = self.state.read().keep_from;
        // To raise the start of a partition takes a sync of its own, for nothing as long as no file goes.
        let goes = self.partition.segments().get(1).is_some_and(|second| second.base() <= keep_from);
        if !goes {
            return Ok(());
        }
        let (topic, number) = (&self.id.topic, self.id.partition);
        self.log.delete_before(topic, number, keep_from).map_err(self.failed("delete from"))
    }

    pub(super) fn encode_entry(&self, entry: &C::Entry, scratch: &mut Vec<u8>) -> Result<Encoded<C>, RaftLogError> {
        scratch.clear();
        let encoded = Codec::<C::Entry>::encode(&self.codec, entry, scratch);
        encoded.map_err(|source| self.not_encoded("entry", source))?;
        let log_id = entry.get_log_id().clone();
        let value = Part::Entry { index: log_id.index, entry: scratch }.encode();
        Ok(Encoded { log_id, value })
    }

    pub(super) fn encode<T>(&self, what: &'static str, value: &T) -> Result<Vec<u8>, RaftLogError>
    where
        K: Codec<T>,
    {
        let mut bytes = Vec::new();
        self.codec.encode(value, &mut bytes).map_err(|source| self.not_encoded(what, source))?;
        Ok(bytes)
    }

    fn decode<T>(&self, what: &'static str, offset: Offset, bytes: &[u8]) -> Result<T, RaftLogError>
    where
        K: Codec<T>,
    {
        let partition = || self.id.clone();
        self.codec.decode(bytes).map_err(|source| RaftLogError::NotDecoded {
            what,
            partition: partition(),
            offset,
            source,
        })
    }

    /// Appends records as one batch behind all that is known.
    fn put<'v>(&self, values: impl IntoIterator<Item = &'v [u8]>) -> Result<Appended<'_>, RaftLogError> {
        let expected = self.state.read().end;
        let appended = self.partition.append_if_end(expected, values.into_iter().map(Record::new));
        appended.map_err(|error| match error {
            Error::EndMismatch { expected, actual } => {
                RaftLogError::Overtaken { partition: self.id.clone(), expected, actual }
            }
            error => self.failed("append to")(error),
        })
    }

    fn synced(&self, appended: &Appended<'_>) -> Synced {
        let (acked, failed) = (appended.acked(Ack::Synced), self.failed("sync"));
        Box::pin(async move { acked.await.map_err(failed) })
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(Error) -> RaftLogError + Send + use<C, K> {
        let partition = self.id.clone();
        move |source| RaftLogError::Log { action, partition, source }
    }

    fn foreign(&self, offset: Offset, reason: &'static str) -> RaftLogError {
        RaftLogError::Foreign { partition: self.id.clone(), offset, reason }
    }

    fn missing(&self, needed: Offset, found: Offset) -> RaftLogError {
        RaftLogError::Missing { partition: self.id.clone(), needed, found }
    }

    fn not_encoded(&self, what: &'static str, source: CodecError) -> RaftLogError {
        RaftLogError::NotEncoded { what, partition: self.id.clone(), source }
    }
}
