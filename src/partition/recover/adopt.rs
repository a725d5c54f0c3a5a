//! What the process before had staged: whether it goes on where the files end.
//!
//! ```text
//! files   |---- batches ----|-- of the lap, written ------|
//! slot                      |-- of the lap: the same bytes --|-- not in the file --|
//!                       lap.position                       done
//! ```
//!
//! Only after a kill: the pool replays no other arena. What was acknowledged and does not follow is damage, unless an
//! I/O error came since the lap was begun, or the caller salvages.

use super::{Candidate, End, Recovery};
use crate::disk::marks::Lap;
use crate::disk::read_exact_at;
use crate::error::{Error, Result};
use crate::partition::context::RecoveryMode;
use crate::partition::epochs::Epochs;
use crate::probe;
use crate::record::BatchHeader;
use crate::segment::staging::Replayed;
use crate::types::{LeaderEpoch, Offset};
use crate::wire::Invalid;

/// Staged records that the log goes on with.
#[derive(Debug)]
pub(crate) struct Adopted {
    pub(crate) replayed: Replayed,
    /// How many bytes of them are in the file.
    pub(crate) done: usize,
}

/// What the process before had staged, read once.
pub(super) struct LeftBehind {
    pub(super) lap: Lap,
    /// The batches, as far as they had come.
    pub(super) bytes: Vec<u8>,
    /// None if they do not verify, and that is no reason to stop.
    replayed: Option<Replayed>,
}

impl Recovery<'_> {
    /// The slot header of the process before, if it speaks of a file that is here.
    pub(super) fn lap(&self, candidates: &[Candidate]) -> Option<Lap> {
        let lap = self.context.pool.lap((self.hints.topic, self.hints.id.partition))?;
        let candidate = candidates.iter().find(|candidate| candidate.base == lap.segment_base)?;
        // Also if the file is shorter than that by now: then something was cut off it.
        (candidate.id == lap.file).then_some(lap)
    }

    /// What the process before had staged.
    pub(super) fn left(&self) -> Result<Option<LeftBehind>> {
        let key = (self.hints.topic, self.hints.id.partition);
        let left = self.context.pool.with_left(key, |left| {
            let replayed = match left.replay() {
                Err(_) if self.context.recovery == RecoveryMode::Salvage => None,
                replayed => Some(replayed?),
            };
            Ok(LeftBehind { lap: left.lap, bytes: left.bytes().to_vec(), replayed })
        });
        left.transpose().map_err(|invalid: Invalid| {
            let reason =
                format!("staged records of {} do not verify: {} at {}", self.hints.id, invalid.what, invalid.at);
            Error::corrupt(self.context.pool.path(), 0, reason)
        })
    }

    /// Whether what was staged follows what is in the files, and how much of it is there; `None` if it does not, and is
    /// to be put aside.
    pub(super) fn judge_left(
        &self,
        candidates: &[Candidate],
        found: &End,
        left: &LeftBehind,
        epochs: &Epochs,
    ) -> Result<Option<Adopted>> {
        let at = &candidates[found.segment];
        let Some(replayed) = &left.replayed else { return Ok(None) };
        let latest = found.offset.0.checked_sub(1).and_then(|last| epochs.epoch_for(Offset(last)));
        match self.follows(at, found, left, replayed, latest)? {
            Ok(done) => {
                match done {
                    0 => probe::reached("staging.adopted"),
                    done if done == left.bytes.len() => probe::reached("staging.adopted_written"),
                    _ => probe::reached("staging.adopted_in_part"),
                }
                Ok(Some(Adopted { replayed: replayed.clone(), done }))
            }
            Err(_) if self.context.pool.is_void((self.hints.topic, self.hints.id.partition)) => Ok(None),
            Err(_) if self.context.recovery == RecoveryMode::Salvage => Ok(None),
            Err(reason) => Err(Error::corrupt(&at.path, found.position, reason)),
        }
    }

    /// Whether what was staged goes on where the files end: how much of it is there, or why not.
    fn follows(
        &self,
        at: &Candidate,
        found: &End,
        left: &LeftBehind,
        replayed: &Replayed,
        latest: Option<LeaderEpoch>,
    ) -> Result<Result<usize, String>> {
        let lap = &left.lap;
        let (from, to, end) = (lap.end_before, replayed.end, found.offset);
        if probe::planted("staging.gap_accepted") && end < from {
            return Ok(Ok(0));
        }
        let Some(done) = replayed.position_of(end) else {
            return Ok(Err(format!("records {from}..{to} are staged, and the files end at {end}")));
        };
        let next = replayed.batches.iter().find(|(at, _)| *at == done).map(|(_, header)| header.leader_epoch);
        if next.is_some_and(|next| next != LeaderEpoch::NONE && latest.is_some_and(|latest| next < latest)) {
            return Ok(Err(format!("records {from}..{to} are staged, and their leader epoch falls")));
        }
        if at.base != lap.segment_base || at.id != lap.file || lap.position > found.position {
            return Ok(Err(format!("records {from}..{to} were staged for another segment file")));
        }
        let file = at.open(self.context.disk())?;
        let mut stored = vec![0; (found.position - lap.position) as usize];
        read_exact_at(&*file, &mut stored, lap.position).map_err(Error::io("read", &at.path))?;
        let is_same = stored == left.bytes[..done] || is_packed(&stored, left, replayed, done);
        if !is_same {
            return Ok(Err(format!("records {from}..{to} are staged, and others stand in their place")));
        }
        Ok(Ok(done))
    }
}

/// Whether the file has everything that was staged, the last batch of it in another form.
fn is_packed(stored: &[u8], left: &LeftBehind, replayed: &Replayed, done: usize) -> bool {
    let (Some((last, plain)), true) = (replayed.batches.last(), done == left.bytes.len()) else { return false };
    let packed = stored.get(*last..).map(BatchHeader::read);
    let Some(Ok(packed)) = packed else { return false };
    replayed.may_be_packed()
        && stored[..*last] == left.bytes[..*last]
        && packed.batch_len as usize == stored.len() - last
        && (packed.base_offset, packed.record_count, packed.max_timestamp)
            == (plain.base_offset, plain.record_count, plain.max_timestamp)
}
