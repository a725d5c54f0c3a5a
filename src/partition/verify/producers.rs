//! What files say of producers and aborted transactions, beside what the batches say.
//!
//! The state at the beginning of a segment is that of the snapshot there; if that is missing or damaged, it follows from
//! an earlier one and the headers since. It is looked for only once a batch has a producer.
//!
//! What can be demanded depends on what is known:
//!
//! | | all since a good state, without gaps | gaps, or no state |
//! |---|---|---|
//! | `.txnindex` | exactly the aborted transactions | each entry leads to its abort marker; none is missing whose data is in the segment |
//! | `.snapshot` | equal, but for what may have expired | reads |

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::entries::{Entries, EntryFile, Flaw, length_flaw};
use super::finding::{Advice, Finding, FindingKind, Findings};
use super::source::Source;
use super::target::{Target, read_snapshot};
use crate::error::Result;
use crate::partition::follow::{marker_of, placed, producer_batch};
use crate::partition::producers::{Marker, MarkerKind, Producers};
use crate::partition::snapshot::{self, Entry};
use crate::record::{BatchHeader, BatchRef};
use crate::segment::txn_index::{AbortedTxn, AbortedTxns};
use crate::segment::{FileKind, file_path};
use crate::types::{Offset, ProducerId, Timestamp};

/// Judges a `.txnindex` and snapshots.
#[derive(Debug)]
pub(super) struct ProducerJudge<'a> {
    target: &'a Target,
    segment: usize,
    state: Option<State>,
    /// Whether every batch since the beginning of the segment was seen, and none was ever removed.
    is_dense: bool,
    /// Where data of a transaction was seen that no marker has ended since.
    seen: BTreeMap<ProducerId, Offset>,
    entries: Entries<{ AbortedTxn::LEN }>,
    flaw: Flaw,
    /// Where those are that were not come to yet, in order.
    snapshots: std::iter::Peekable<std::vec::IntoIter<Offset>>,
}

/// What is known of producers at some offset.
#[derive(Debug, Default)]
struct State {
    producers: Producers,
    /// Whether those that are not in there are not known to the log, either.
    is_whole: bool,
}

impl<'a> ProducerJudge<'a> {
    pub(super) fn new(
        target: &'a Target,
        segment: usize,
        aborted: Option<EntryFile>,
        snapshots: Vec<Offset>,
    ) -> Self {
        let flaw = length_flaw(aborted.as_ref(), AbortedTxn::LEN);
        Self {
            target,
            segment,
            state: None,
            is_dense: true,
            seen: BTreeMap::new(),
            entries: Entries::new(aborted),
            flaw,
            snapshots: snapshots.into_iter().peekable(),
        }
    }

    /// A batch that verifies.
    #[inline]
    pub(super) fn batch(
        &mut self,
        header: &BatchHeader,
        position: u64,
        source: &mut Source<'_>,
        findings: &mut Findings,
    ) -> Result<()> {
        if self.snapshots.peek().is_some_and(|next| *next <= header.base_offset) {
            self.compare_snapshots(header.base_offset, findings)?;
        }
        if !header.producer_id.is_some() {
            return Ok(());
        }
        self.of_producer(header, position, source)
    }

    fn of_producer(&mut self, header: &BatchHeader, position: u64, source: &mut Source<'_>) -> Result<()> {
        let state = loaded(&mut self.state, self.target, self.segment)?;
        if let Some(marker) = follow(&mut state.producers, header, position, source)? {
            return self.marker(&marker);
        }
        if header.attributes.is_transactional() && !header.attributes.is_control() && header.record_count > 0 {
            self.seen.entry(header.producer_id).or_insert(header.base_offset);
        }
        Ok(())
    }

    fn marker(&mut self, marker: &Marker) -> Result<()> {
        let Some(state) = &mut self.state else { return Ok(()) };
        let completed = state.producers.apply_marker(marker);
        state.producers.committed_to(marker.offset + 1);
        let is_exact = self.is_dense && state.is_whole;
        let seen = self.seen.remove(&marker.producer);
        if marker.kind != MarkerKind::Abort {
            return Ok(());
        }
        let expected = completed.map(|completed| AbortedTxn {
            producer: completed.producer,
            first_offset: completed.first_offset,
            last_offset: completed.marker_offset,
            last_stable_offset: completed.last_stable_offset,
        });
        let place = self.entries.position();
        let found = self.entry_at(marker.offset)?;
        let Marker { producer, offset, .. } = *marker;
        match (found, expected) {
            (Some(found), Some(expected)) if is_exact && found == expected => {}
            (Some(found), Some(expected)) if is_exact => {
                self.flaw.add(place, || format!("it says {found:?}, and the batches {expected:?}"));
            }
            (Some(_), None) if is_exact => {
                self.flaw.add(place, || format!("no transaction of producer {producer} ends at offset {offset}"));
            }
            (Some(found), _) if found.producer != producer || seen.is_some_and(|seen| found.first_offset > seen) => {
                let from = seen.unwrap_or(offset);
                self.flaw.add(place, || {
                    format!("{found:?}, and a transaction of {producer} from {from} on ends at {offset}")
                });
            }
            (None, Some(expected))
                if seen.is_some() || (is_exact && is_left(self.target, self.segment, &expected)?) =>
            {
                self.flaw.add(place, || {
                    format!("the transaction of producer {producer} that was aborted at offset {offset} is not in it")
                });
            }
            (None, None) if seen.is_some() => {
                self.flaw.add(place, || format!("the abort of producer {producer} at offset {offset} is not in it"));
            }
            _ => {}
        }
        Ok(())
    }

    /// The entry of the marker at `offset`, if there is one. Those of other offsets before it lead nowhere.
    fn entry_at(&mut self, offset: Offset) -> Result<Option<AbortedTxn>> {
        while let Some(bytes) = self.entries.peek()? {
            let entry = decode(bytes);
            let at = self.entries.position();
            match entry {
                Ok(entry) if entry.last_offset > offset => return Ok(None),
                Ok(entry) if entry.last_offset == offset => {
                    self.entries.pass();
                    return Ok(Some(entry));
                }
                Ok(entry) => self.flaw.add(at, || format!("{entry:?} leads to no abort marker")),
                Err(what) => self.flaw.add(at, || what.to_owned()),
            }
            self.entries.pass();
        }
        Ok(None)
    }

    /// Some batches of the segment are missing, or have lost records.
    pub(super) fn not_dense(&mut self) {
        self.is_dense = false;
    }

    /// Passes over what lies before `offset`, which could not be judged.
    pub(super) fn skip_to(&mut self, offset: Offset) -> Result<()> {
        self.is_dense = false;
        self.seen.clear();
        while let Some(bytes) = self.entries.peek()? {
            if decode(bytes).is_ok_and(|entry| entry.last_offset >= offset) {
                break;
            }
            self.entries.pass();
        }
        Ok(())
    }

    /// The segment ends with `next`, where another begins if it is not the last.
    pub(super) fn end(mut self, next: Offset, wants_snapshot: bool, findings: &mut Findings) -> Result<()> {
        let dir = &self.target.dir;
        let has_snapshot = self.compare_snapshots(next, findings)? == Some(next);
        while let Some(bytes) = self.entries.peek()? {
            let entry = decode(bytes);
            let at = self.entries.position();
            self.flaw.add(at, || match entry {
                Ok(entry) => format!("{entry:?} leads to no abort marker"),
                Err(what) => what.to_owned(),
            });
            self.entries.pass();
        }
        let base = self.target.extents[self.segment].base;
        findings.extend(self.flaw.finding(&file_path(dir, base, FileKind::TxnIndex), FindingKind::TxnIndex));
        let count = self.state.as_ref().map_or(0, |state| state.producers.count());
        if wants_snapshot && !has_snapshot && count > 0 {
            let message = format!("there is no snapshot of the {count} producers that are known here");
            let path = file_path(dir, next, FileKind::Snapshot);
            findings.push(Finding::new(&path, 0, FindingKind::Missing, message).advice(Advice::Derived));
        }
        Ok(())
    }

    /// Compares the snapshots up to `offset`, which is where the batches have come. Returns the last one.
    fn compare_snapshots(&mut self, offset: Offset, findings: &mut Findings) -> Result<Option<Offset>> {
        let mut last = None;
        while let Some(at) = self.snapshots.next_if(|at| *at <= offset) {
            last = Some(at);
            // Removed meanwhile.
            let Some(bytes) = read_snapshot(self.target, at)? else { continue };
            let path = file_path(&self.target.dir, at, FileKind::Snapshot);
            let entries = match snapshot::decode(&bytes, at) {
                Ok(entries) => entries,
                Err(invalid) => {
                    findings.push(Finding::new(&path, invalid.at as u64, FindingKind::Snapshot, invalid.what));
                    continue;
                }
            };
            // Between batches, or the batches do not tell.
            if !self.is_dense || at != offset || (self.state.is_none() && entries.is_empty()) {
                continue;
            }
            let state = loaded(&mut self.state, self.target, self.segment)?;
            if let Some(differs) = difference(&entries, state) {
                findings.push(Finding::new(&path, 0, FindingKind::Snapshot, differs));
            }
        }
        Ok(last)
    }
}

/// Takes a batch into account; a marker that ends a transaction is handed back instead.
fn follow(
    producers: &mut Producers,
    header: &BatchHeader,
    position: u64,
    source: &mut Source<'_>,
) -> Result<Option<Marker>> {
    if !header.attributes.is_control() {
        producers.apply(&producer_batch(header), placed(header));
        return Ok(None);
    }
    let bytes = source.short_batch(position, header)?;
    Ok(bytes.and_then(|bytes| BatchRef::framed(bytes).ok()).and_then(|batch| marker_of(&batch)))
}

fn decode(bytes: &[u8; AbortedTxn::LEN]) -> std::result::Result<AbortedTxn, &'static str> {
    let read = AbortedTxns::decode(bytes, Offset::ZERO).map_err(|invalid| invalid.what)?;
    read.entries().first().copied().ok_or("no entry")
}

/// The state at the beginning of a segment, found when it is first asked for.
fn loaded<'s>(state: &'s mut Option<State>, target: &Target, segment: usize) -> Result<&'s mut State> {
    if state.is_none() {
        *state = Some(state_at(target, segment)?);
    }
    Ok(state.get_or_insert_default())
}

fn state_at(target: &Target, segment: usize) -> Result<State> {
    for (back, at) in (0..=segment).rev().enumerate().take(LOOK_BACK + 1) {
        let base = target.extents[at].base;
        let known = match base {
            Offset::ZERO => Some(Vec::new()),
            base => read_snapshot(target, base)?.and_then(|bytes| snapshot::decode(&bytes, base).ok()),
        };
        if let Some(entries) = known {
            let producers = Producers::load(&entries, Timestamp(0), Duration::MAX);
            let mut state = State { producers, is_whole: true };
            for before in segment - back..segment {
                match replay(target, before, &mut state) {
                    // Removed meanwhile: then this is the first, and nothing says what was before.
                    Err(_) if target.is_gone(before) => return Ok(State::default()),
                    replayed => replayed?,
                }
            }
            return Ok(state);
        }
    }
    Ok(State::default())
}

/// Follows the headers of a segment before. What does not fit is found when that one is judged.
fn replay(target: &Target, segment: usize, state: &mut State) -> Result<()> {
    let extent = &target.extents[segment];
    let path = file_path(&target.dir, extent.base, FileKind::Log);
    let mut source = Source::open(&target.files, &path, extent.len)?;
    let (mut position, mut next) = (0, extent.base);
    while let Some(header) = source.header(position)? {
        state.is_whole &= header.base_offset == next && is_full(&header);
        if header.producer_id.is_some()
            && let Some(marker) = follow(&mut state.producers, &header, position, &mut source)?
        {
            state.producers.apply_marker(&marker);
            state.producers.committed_to(marker.offset + 1);
        }
        next = header.next_offset();
        position += u64::from(header.batch_len);
    }
    state.is_whole &= position == extent.len && extent.end == Some(next);
    Ok(())
}

/// Whether data of an aborted transaction is left, all of whose batches before this segment compaction may have removed:
/// then nobody needs to know of it.
fn is_left(target: &Target, segment: usize, aborted: &AbortedTxn) -> Result<bool> {
    if target.dense || aborted.first_offset >= target.extents[segment].base {
        return Ok(true);
    }
    let since = target.extents[..segment].iter().rposition(|extent| extent.base <= aborted.first_offset);
    for extent in &target.extents[since.unwrap_or(segment).max(segment.saturating_sub(LOOK_BACK))..segment] {
        let path = file_path(&target.dir, extent.base, FileKind::Log);
        let mut source = Source::open(&target.files, &path, extent.len)?;
        let mut position = 0;
        while let Some(header) = source.header(position)? {
            let is_data = header.attributes.is_transactional() && !header.attributes.is_control();
            let is_within = header.base_offset >= aborted.first_offset && header.record_count > 0;
            if is_data && is_within && header.producer_id == aborted.producer {
                return Ok(true);
            }
            position += u64::from(header.batch_len);
        }
    }
    Ok(false)
}

/// Whether no record was removed from a batch.
pub(super) fn is_full(header: &BatchHeader) -> bool {
    i64::from(header.record_count) == i64::from(header.last_offset_delta) + 1
}

/// What a snapshot says that the batches do not.
fn difference(found: &[Entry], state: &State) -> Option<String> {
    let known: BTreeMap<ProducerId, Entry> = state.producers.entries().map(|entry| (entry.producer, entry)).collect();
    for entry in found {
        match known.get(&entry.producer) {
            Some(known) if explains(known, entry, state.is_whole) => {}
            Some(known) => return Some(format!("it says {entry:?}, and the batches {known:?}")),
            None if state.is_whole => return Some(format!("no batch is of producer {}", entry.producer)),
            None => {}
        }
    }
    let is_found = |producer: &ProducerId| found.iter().any(|entry| entry.producer == *producer);
    // One that is idle expires, by a clock that is not known; but not in a transaction.
    let mut open = known.values().filter(|known| state.is_whole && known.open_since.is_some());
    let lost = open.find(|known| !is_found(&known.producer))?;
    Some(format!("producer {} is not in it, and is in a transaction", lost.producer))
}

/// Whether `found` is what `known` is, or what was left of it when the producer had expired and wrote again.
fn explains(known: &Entry, found: &Entry, is_whole: bool) -> bool {
    let is_same = known.epoch == found.epoch && known.timestamp == found.timestamp;
    let has_batch = known.last_batch == found.last_batch || found.last_batch.is_none() || !is_whole;
    let has_coordinator = known.coordinator_epoch == found.coordinator_epoch || found.coordinator_epoch == -1;
    is_same && has_batch && (!is_whole || (has_coordinator && known.open_since == found.open_since))
}

/// How many segments are gone back, for producers, before what is not known is left so.
const LOOK_BACK: usize = 8;

/// Where a snapshot is that nobody speaks of: what is wrong with it by itself.
pub(super) fn judge_alone(path: &Path, at: Offset, bytes: &[u8]) -> Option<Finding> {
    let invalid = snapshot::decode(bytes, at).err()?;
    Some(Finding::new(path, invalid.at as u64, FindingKind::Snapshot, invalid.what))
}
