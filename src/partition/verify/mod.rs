//! Judging what is on disk: each batch by itself and beside its neighbours, and each file that follows from the batches
//! beside them.
//!
//! ```text
//! directory    names, partition.metadata, leader-epoch-checkpoint      once for each partition
//! segment      .log, and beside it .index .timeindex .txnindex .snapshot .seal      each by itself, in any order
//! ```
//!
//! A segment is judged without the others: where it ends is known from where the next begins, and what producers were at
//! its beginning from the snapshot there. So segments can be shared out among threads, and a verification can stop
//! between two of them and go on another day.
//!
//! Only what was published when it began is judged, and of the files that follow from it those that are final. Nothing
//! is changed, and no record inside of a batch is looked at: the checksum was right when it was built.

mod directory;
mod entries;
mod epochs;
mod finding;
mod producers;
mod source;
mod target;
#[cfg(test)]
mod tests;
mod walk;

use std::ops::ControlFlow;
use std::path::Path;

pub(crate) use directory::directory;
pub(crate) use finding::Findings;
pub use finding::{Advice, Finding, FindingKind};
pub(crate) use target::{Derived, Gathered, Known, Target};
pub(crate) use walk::Pace;

use self::source::Source;
pub(super) use self::source::is_blank;
use self::target::{DerivedFiles, Extent};
use self::walk::{Walk, Walked};
use crate::checksum::{Crc32, Digest};
use crate::disk::{DiskFile, Open, read_exact_at};
use crate::error::{Error, Result, is_out_of_files};
use crate::segment::seal::Seal;
use crate::segment::{FileKind, file_path};
use crate::types::Offset;
use crate::wire::Invalid;

/// What was judged, and what was found.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) findings: Vec<Finding>,
    pub(crate) batches: u64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

/// Judges a segment; `None` if `pace` said stop. One that was removed meanwhile has nothing wrong.
pub(crate) fn segment(
    target: &Target,
    at: usize,
    gathered: Result<Gathered>,
    pace: &mut Pace<'_>,
) -> Result<Option<Verdict>> {
    let mut findings = Findings::new(Some(target.id.clone()));
    let path = target.log_path(at);
    let judged = gathered.and_then(|gathered| judge(target, at, &path, gathered, &mut findings, pace));
    let verdict = match judged {
        Ok(Some(verdict)) => verdict,
        Ok(None) => return Ok(None),
        Err(_) if target.is_gone(at) => return Ok(Some(Verdict::default())),
        Err(error @ Error::Closed) => return Err(error),
        // Nothing of the disk's.
        Err(error) if is_out_of_files(&error) => return Err(error),
        Err(error) => {
            let finding = Finding::of_error(FindingKind::Unreadable, &path, &error);
            let message = format!("{}; the rest of the segment was not judged", finding.message);
            let path = if let Error::Io { path, .. } = &error { path.clone() } else { finding.path.clone() };
            findings.push(Finding { message: message.into(), path, ..finding });
            Verdict::default()
        }
    };
    Ok(Some(Verdict { findings: findings.finish(), ..verdict }))
}

fn judge(
    target: &Target,
    at: usize,
    path: &Path,
    gathered: Gathered,
    findings: &mut Findings,
    pace: &mut Pace<'_>,
) -> Result<Option<Verdict>> {
    let Extent { base, len, end, .. } = target.extents[at];
    let Gathered { log_len, seal, derived, is_at_rest } = gathered;
    let Some(log_len) = log_len else {
        if !target.is_gone(at) {
            let finding = Finding::new(path, 0, FindingKind::Missing, "the data file is not there");
            findings.push(finding.missing(base, end.unwrap_or(base)));
        }
        return Ok(Some(Verdict::default()));
    };
    if log_len < len {
        let message = format!("the file ends here, and its batches are {len} bytes");
        findings.push(Finding::new(path, log_len, FindingKind::Batch, message).len(len - log_len));
    }
    if let Some(derived) = &derived {
        missing_files(target, at, derived, seal.as_ref(), findings);
        digests(target, at, derived, seal.as_ref(), findings)?;
    }
    let mut walk = Walk::new(target, at, path, len.min(log_len), derived)?;
    if walk.run(findings, pace)?.is_break() {
        return Ok(None);
    }
    let walked = walk.finish(findings)?;
    meets(target, at, path, &walked, findings);
    if is_at_rest && target.is_open() && log_len > len {
        let is_finished =
            target.is_closed() || matches!(seal, Some(Ok(_))) || !(target.has_seals() || target.is_last(at));
        behind(target, at, path, log_len, is_finished, findings)?;
    }
    if let Some(seal) = &seal {
        sealed(target, at, path, seal, &walked, findings)?;
    }
    Ok(Some(walked.verdict))
}

/// Whether a segment ends where the next begins, and the log as far as it was written.
fn meets(target: &Target, at: usize, path: &Path, walked: &Walked, findings: &mut Findings) {
    let Extent { base, end, .. } = target.extents[at];
    let finding = |message: String| Finding::new(path, walked.end, FindingKind::Offsets, message);
    match end {
        Some(end) if walked.next > end => {
            findings.push(finding(format!("its batches end at offset {}, and {end} comes next", walked.next)));
        }
        Some(end) if walked.next < end && walked.is_whole => {
            let within = |at: &&(Offset, FileKind)| walked.next <= at.0 && at.0 < end && at.0 > base;
            let orphan = target.listing().orphans.iter().find(within);
            if let Some((lost, kind)) = orphan {
                let message = format!("the data file of segment {lost} is not there, and its .{} is", kind.suffix());
                let lost = file_path(&target.dir, *lost, FileKind::Log);
                findings.push(Finding::new(&lost, 0, FindingKind::Missing, message).missing(walked.next, end));
            } else if target.dense || target.is_last(at) {
                findings.push(finding("the segment ends before it should".into()).missing(walked.next, end));
            }
        }
        _ => {}
    }
    if target.is_last(at) && walked.next < target.written && end.is_none_or(|end| end < target.written) {
        let message = format!("the log ends at offset {}, and was written to {}", walked.next, target.written);
        findings.push(finding(message).missing(walked.next, target.written));
    }
}

/// Bytes behind the batches of a partition that nobody writes. A write that was cut short leaves such bytes; who finished
/// the segment left none.
fn behind(
    target: &Target,
    at: usize,
    path: &Path,
    log_len: u64,
    is_finished: bool,
    findings: &mut Findings,
) -> Result<()> {
    let len = target.extents[at].len;
    let file = target.disk().open(path, Open::Read).map_err(Error::io("open", path))?;
    if !is_finished && is_blank(&*file, len, log_len).map_err(Error::io("read", path))? {
        return Ok(());
    }
    // Of ours, recovery has judged whether a crash explains what is there. A broker's ends at the first bad batch.
    if !is_finished && !target.has_seals() {
        let mut source = Source::open(&target.files, path, log_len)?;
        let end = target.extents[at].end.unwrap_or_default();
        if let Some(resumed) = source.resume(len, &(end..Offset::MAX), &mut |_| ControlFlow::Continue(()))? {
            let (to, offset) = (resumed.position, resumed.offset);
            let message = format!(
                "no batch of the log begins here, and one that verifies does at byte {to}, of offset {offset}"
            );
            findings
                .push(Finding::new(path, len, FindingKind::Batch, message).len(log_len - len).missing(end, offset));
            return Ok(());
        }
    }
    let kind = if is_finished { FindingKind::Batch } else { FindingKind::Leftover };
    let message = format!("{} bytes behind the last batch are none", log_len - len);
    findings.push(Finding::new(path, len, kind, message).len(log_len - len));
    Ok(())
}

fn missing_files(
    target: &Target,
    at: usize,
    derived: &DerivedFiles,
    seal: Option<&std::result::Result<Seal, Invalid>>,
    findings: &mut Findings,
) {
    let base = target.extents[at].base;
    let sealed = seal.and_then(|seal| seal.as_ref().ok());
    let files = [(FileKind::Index, derived.index.is_none()), (FileKind::TimeIndex, derived.time_index.is_none())];
    for (kind, _) in files.into_iter().filter(|(_, is_missing)| *is_missing) {
        // One without an entry need not be there.
        let is_empty = sealed.is_some_and(|seal| seal.digest(kind).len == 0);
        if !is_empty {
            let finding =
                Finding::new(&file_path(&target.dir, base, kind), 0, FindingKind::Missing, "it is not there");
            findings.push(finding.advice(Advice::Derived));
        }
    }
}

/// Whether the index files are those that a seal, or the mark of an orderly close, was made of.
fn digests(
    target: &Target,
    at: usize,
    derived: &DerivedFiles,
    seal: Option<&std::result::Result<Seal, Invalid>>,
    findings: &mut Findings,
) -> Result<()> {
    let sealed = match (seal, target.clean_of(at)) {
        (Some(Ok(seal)), _) => [Some(seal.index), Some(seal.time_index), Some(seal.txn_index)],
        (None, Some(clean)) => [Some(clean.index), Some(clean.time_index), None],
        _ => return Ok(()),
    };
    let files = [
        (FindingKind::Index, &derived.index),
        (FindingKind::TimeIndex, &derived.time_index),
        (FindingKind::TxnIndex, &derived.aborted),
    ];
    for ((kind, file), digest) in files.into_iter().zip(sealed) {
        let (Some(file), Some(digest)) = (file, digest) else { continue };
        let found = digest_of(&*file.file, file.len).map_err(Error::io("read", &*file.path))?;
        if found != digest {
            let message = format!(
                "{} bytes of CRC-32 {:08x}, and {} of {:08x} were written",
                found.len, found.crc, digest.len, digest.crc
            );
            findings.push(Finding::new(&file.path, 0, kind, message));
        }
    }
    Ok(())
}

fn digest_of(file: &dyn DiskFile, len: u64) -> std::io::Result<Digest> {
    let (mut crc, mut at) = (Crc32::new(), 0);
    let mut piece = vec![0; len.min(64 << 10) as usize];
    while at < len {
        let bytes = &mut piece[..(len - at).min(64 << 10) as usize];
        read_exact_at(file, bytes, at)?;
        crc.update(bytes);
        at += bytes.len() as u64;
    }
    // Longer ones differ from every digest, for one is of what fits 32 bits.
    Ok(Digest { len: u32::try_from(len).unwrap_or(u32::MAX), crc: crc.finish() })
}

/// What a seal says of the data file.
fn sealed(
    target: &Target,
    at: usize,
    path: &Path,
    seal: &std::result::Result<Seal, Invalid>,
    walked: &Walked,
    findings: &mut Findings,
) -> Result<()> {
    let Extent { base, len, .. } = target.extents[at];
    let seal_path = file_path(&target.dir, base, FileKind::Seal);
    let seal = match seal {
        Ok(seal) => seal,
        Err(invalid) => {
            findings.push(Finding::new(&seal_path, invalid.at as u64, FindingKind::Seal, invalid.what));
            return Ok(());
        }
    };
    if is_cut(seal, base, len) {
        let message = format!("the file ends here, and {} bytes of batches were sealed", seal.log_len);
        let finding = Finding::new(path, len, FindingKind::Batch, message).len(seal.log_len - len);
        findings.push(finding.missing(walked.next, seal.end));
        return Ok(());
    }
    let is_other = seal.base != base || seal.log_len != len;
    // Where offsets may be missing nothing else says that those of the batches are right. Before all else that the seal
    // says: what does not agree with it may follow from one that is wrong.
    if !target.dense && walked.is_whole && !is_other {
        let crc = Source::open(&target.files, path, len)?.crc32()?;
        if crc != seal.log_crc {
            let message = format!("its CRC-32 is {crc:08x}, and {:08x} was sealed", seal.log_crc);
            findings.push(Finding::new(path, 0, FindingKind::Batch, message).len(len));
            return Ok(());
        }
    }
    let differs = if is_other {
        Some(format!("it is of segment {} of {} bytes, not of {base} of {len}", seal.base, seal.log_len))
    } else if target.extents[at].end.is_some_and(|end| seal.end != end) {
        Some(format!("it says that offset {} comes next, and the next segment does not begin there", seal.end))
    } else if walked.largest.is_some_and(|largest| largest != seal.largest) {
        Some(format!(
            "its largest time is {:?}, and that of the batches {:?}",
            seal.largest,
            walked.largest.flatten()
        ))
    } else {
        None
    };
    if let Some(differs) = differs {
        findings.push(Finding::new(&seal_path, 0, FindingKind::Seal, differs));
    }
    Ok(())
}

/// Whether a segment was longer when it was sealed.
fn is_cut(seal: &Seal, base: Offset, len: u64) -> bool {
    seal.base == base && seal.log_len > len
}
