//! What a partition directory holds beside the segments.

use std::path::Path;

use super::finding::{Advice, Finding, FindingKind, Findings};
use super::producers::judge_alone;
use super::target::{Target, read_snapshot};
use crate::disk::checkpoint::{PartitionMetadata, read_limited};
use crate::error::{Error, Result, is_out_of_files};
use crate::partition::epochs::Epochs;
use crate::partition::follow::EPOCHS_FILE;
use crate::segment::{FileKind, file_path};
use crate::types::Offset;

/// Judges the names in the directory, and the files of the partition as a whole. For who keeps maintenance from finishing
/// or removing files meanwhile.
pub(crate) fn directory(target: &Target) -> Result<Vec<Finding>> {
    let mut findings = Findings::new(Some(target.id.clone()));
    let judged = judge(target, &mut findings);
    match judged {
        Ok(()) => {}
        Err(error @ Error::Closed) => return Err(error),
        // Nothing of the disk's.
        Err(error) if is_out_of_files(&error) => return Err(error),
        Err(error) => findings.push(Finding::of_error(FindingKind::Unreadable, &target.dir, &error)),
    }
    Ok(if target.is_gone(usize::MAX) { Vec::new() } else { findings.finish() })
}

fn judge(target: &Target, findings: &mut Findings) -> Result<()> {
    if let Some(unlisted) = &target.unlisted {
        // What else there is, or is not, cannot be told.
        findings.push(unlisted.clone());
        return Ok(());
    }
    metadata(target, findings);
    epochs(target, findings);
    front(target, findings);
    snapshots(target, findings)?;
    names(target, findings);
    Ok(())
}

fn metadata(target: &Target, findings: &mut Findings) {
    let path = target.dir.join("partition.metadata");
    let finding = |position, message: String| Finding::new(&path, position, FindingKind::Metadata, message);
    let text = match read_limited(target.disk(), &path) {
        Ok(Some(text)) => text,
        Ok(None) => return findings.push(Finding::new(&path, 0, FindingKind::Missing, "it is not there")),
        Err(error) => return findings.push(Finding::of_error(FindingKind::Metadata, &path, &error)),
    };
    match PartitionMetadata::parse(&text) {
        Err(malformed) => {
            let error = malformed.at(&path);
            findings.push(Finding::of_error(FindingKind::Metadata, &path, &error));
        }
        Ok(found) if found.topic != target.topic => {
            findings.push(finding(0, format!("it is of topic {}, not {}", found.topic, target.topic)));
        }
        Ok(found) if found.to_text().as_bytes() != text => {
            let message = "it reads as it should, and is not what is written".to_owned();
            findings.push(finding(0, message).advice(Advice::Ignore));
        }
        Ok(_) => {}
    }
}

/// Whether the checkpoint of leader epochs reads. What it says is judged beside the batches.
fn epochs(target: &Target, findings: &mut Findings) {
    let path = target.dir.join(EPOCHS_FILE);
    let has_batches = target.extents.iter().any(|extent| extent.len > 0);
    let end = target.extents.last().and_then(|last| last.end);
    let derived = |finding: Finding| finding.advice(Advice::Derived);
    match read_limited(target.disk(), &path) {
        Ok(None) if has_batches => {
            findings.push(derived(Finding::new(&path, 0, FindingKind::Missing, "it is not there")));
        }
        Ok(None) => {}
        Err(error) => findings.push(derived(Finding::of_error(FindingKind::Epochs, &path, &error))),
        Ok(Some(text)) => match Epochs::parse(&text) {
            Err(malformed) => {
                findings.push(derived(Finding::of_error(FindingKind::Epochs, &path, &malformed.at(&path))));
            }
            Ok(epochs) if epochs.latest().is_none() && has_batches => {
                findings.push(derived(Finding::new(&path, 0, FindingKind::Epochs, "it has no epoch")));
            }
            Ok(epochs) => {
                let last = epochs.entries().last().filter(|last| end.is_some_and(|end| last.start > end));
                // Of one that is written meanwhile, it may be ahead of what is judged.
                if let Some(last) = last.filter(|_| target.is_closed()) {
                    let message = format!("epoch {} begins at offset {}, past the end", last.epoch, last.start);
                    findings.push(derived(Finding::new(&path, 0, FindingKind::Epochs, message)));
                }
            }
        },
    }
}

/// Whether the log begins where it should, or at all.
fn front(target: &Target, findings: &mut Findings) {
    let first = target.extents.first().map(|first| first.base);
    let reaches = first.unwrap_or(target.written);
    if target.start < reaches && (first.is_some() || target.written > target.start) {
        let message = match first {
            Some(first) => format!("the log starts at {}, and its first segment at {first}", target.start),
            None => format!("no segment is left of a log that was written to {}", target.written),
        };
        findings.push(Finding::new(&target.dir, 0, FindingKind::Missing, message).missing(target.start, reaches));
    }
}

/// Snapshots that lie in no segment: those in one are judged with it.
fn snapshots(target: &Target, findings: &mut Findings) -> Result<()> {
    let first = target.extents.first().map_or(target.start, |first| first.base);
    let end = target.extents.last().map(|last| last.end);
    for at in target.listing().snapshots.iter().copied() {
        let path = file_path(&target.dir, at, FileKind::Snapshot);
        if at <= first && !target.has_seals() {
            let bytes = read_snapshot(target, at)?;
            findings.extend(bytes.and_then(|bytes| judge_alone(&path, at, &bytes)));
        }
        // Of ours, an open log writes one before its segment has its seal; and removes those that are of no use.
        if let Some(Some(end)) = end
            && at > end
            && (!target.has_seals() || target.is_closed())
        {
            let message = format!("it is of producers up to offset {at}, and the log ends at {end}");
            findings.push(Finding::new(&path, 0, FindingKind::Snapshot, message).advice(lost(target, at)));
        }
    }
    Ok(())
}

/// A snapshot is made of what is in the log: if nothing else says that there was more, it does.
fn lost(target: &Target, at: Offset) -> Advice {
    if target.is_closed() && at > target.written { Advice::Restore } else { Advice::Derived }
}

fn names(target: &Target, findings: &mut Findings) {
    let listing = target.listing();
    let leftover = |path: &Path, message: &str| Finding::new(path, 0, FindingKind::Leftover, message);
    for name in &listing.pending {
        let message = "a compacted segment that was not put in its place yet";
        findings.push(leftover(&target.dir.join(name), message));
    }
    // Of ours, a crash leaves such files, or the log is making them; where it ended is known otherwise.
    if target.has_seals() || !target.is_open() {
        return;
    }
    let Some(end) = target.extents.last().and_then(|last| last.end) else { return };
    for base in listing.strays.iter().filter(|base| **base >= end) {
        let path = file_path(&target.dir, *base, FileKind::Log);
        let message = format!("a data file behind the end of the log, which is at {end}");
        findings.push(leftover(&path, &message).advice(Advice::Restore));
    }
    for (base, kind) in listing.orphans.iter().filter(|(base, _)| *base >= end) {
        let path = file_path(&target.dir, *base, *kind);
        let message = format!("its data file is not there, and the log ends at {end}");
        findings.push(Finding::new(&path, 0, FindingKind::Missing, message));
    }
}
