//! The files of the whole log.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::plan::is_ours;
use crate::disk::checkpoint::{OffsetCheckpoint, read_limited};
use crate::disk::{Disk, read_file};
use crate::error::{Error, Result};
use crate::log::Inner;
use crate::log::catalog::Catalog;
use crate::log::checkpoints::{self, Checkpoints};
use crate::log::clean::{self, Clean};
use crate::log::compacted;
use crate::log::open::{CATALOG_FILE, CHECKPOINTS_FILE, CLEAN_FILE, HIGH_WATERMARKS, LOG_STARTS, RECOVERY_POINTS};
use crate::observe::Quiet;
use crate::partition::core::Core;
use crate::partition::verify::{Advice, Finding, FindingKind, Findings};
use crate::types::{Offset, TopicPartition};

/// Judges them.
pub(super) fn log_wide(inner: &Inner) -> Result<Vec<Finding>> {
    let mut findings = Findings::new(None);
    let mut clean = None;
    if is_ours(inner) {
        catalog(inner, &mut findings);
        own_checkpoints(inner, &mut findings);
        compacted_files(inner, &mut findings);
        clean = clean_mark(inner, &mut findings);
    }
    let cores = inner.cores();
    let ends = cores.iter().map(|core| (core.id.clone(), Arc::clone(core))).collect();
    for name in [RECOVERY_POINTS, HIGH_WATERMARKS, LOG_STARTS, CLEANED] {
        kafka_checkpoint(inner, name, &ends, clean.as_ref(), &mut findings);
    }
    for damage in inner.damaged.read().iter().filter(|damage| damage.partition.is_none()) {
        findings.push(Finding::of_error(FindingKind::NotOpened, &inner.dir, &damage.error));
    }
    inner.check_open()?;
    Ok(findings.finish())
}

/// Whether the next open finds the topics that this one knows.
fn catalog(inner: &Inner, findings: &mut Findings) {
    let path = inner.dir.join(CATALOG_FILE);
    let known = Quiet::lock(&inner.catalog);
    match Catalog::load(inner.context.disk(), &path) {
        Ok(Some(found)) if found == **known => {}
        Ok(Some(_)) => {
            findings.push(Finding::new(&path, 0, FindingKind::Catalog, "it is another than the log was opened with"));
        }
        Ok(None) => findings.push(Finding::new(&path, 0, FindingKind::Missing, "it is not there")),
        Err(error) => findings.push(Finding::of_error(FindingKind::Catalog, &path, &error)),
    }
}

fn own_checkpoints(inner: &Inner, findings: &mut Findings) {
    let path = inner.dir.join(CHECKPOINTS_FILE);
    let found = {
        // Nobody replaces it meanwhile.
        let _known = inner.checkpoints.lock();
        read_file(inner.context.disk(), &path, checkpoints::MAX_BYTES)
    };
    let finding = |message: &str| Finding::new(&path, 0, FindingKind::Checkpoint, message);
    let bytes = match found {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // It is made by the first sync or close.
            if inner.context.clean_mark.is_there() {
                findings.push(Finding { kind: FindingKind::Missing, ..finding("it is not there") });
            }
            return;
        }
        Err(error) => {
            let error = Error::io("read", &*path)(error);
            return findings.push(Finding::of_error(FindingKind::Checkpoint, &path, &error));
        }
    };
    let Some(found) = Checkpoints::parse(&bytes, inner.log_id) else {
        let message =
            "it does not read: more is looked at when the log is opened, and what was deleted by hand may be back";
        return findings.push(finding(message));
    };
    for core in inner.cores() {
        let Some(checkpoint) = found.get(core.topic, core.id.partition) else { continue };
        let end = core.end();
        if checkpoint.start > end || checkpoint.synced > end {
            let message = format!(
                "{} starts at {}, is synced to {}, and ends at {end}",
                core.id, checkpoint.start, checkpoint.synced
            );
            findings.push(finding(&message).advice(Advice::Restore));
        }
    }
}

/// What the directories of partitions say of how far these are compacted.
fn compacted_files(inner: &Inner, findings: &mut Findings) {
    for core in inner.cores() {
        if compacted::is_damaged(inner.context.disk(), &core.dir, inner.log_id) {
            let message = "it does not read: all of the partition counts as never compacted";
            let path = compacted::path(&core.dir);
            findings.push(Finding::new(&path, 0, FindingKind::Checkpoint, message));
        }
    }
}

/// The mark of an orderly close, as long as nothing was changed since.
fn clean_mark(inner: &Inner, findings: &mut Findings) -> Option<Clean> {
    let path = inner.dir.join(CLEAN_FILE);
    let is_there = || inner.context.clean_mark.is_there();
    if !is_there() {
        return None;
    }
    let clean = clean::load(inner.context.disk(), &path, inner.log_id);
    if clean.is_none() && is_there() {
        let message = "it does not read: every partition is recovered when the log is opened";
        findings.push(Finding::new(&path, 0, FindingKind::CleanMark, message));
    }
    clean.filter(|_| is_there())
}

/// One of Kafka's own. They are written at a close, and say less than is true from then on.
fn kafka_checkpoint(
    inner: &Inner,
    name: &str,
    cores: &BTreeMap<TopicPartition, Arc<Core>>,
    clean: Option<&Clean>,
    findings: &mut Findings,
) {
    let path = inner.dir.join(name);
    let Some(found) = read(inner.context.disk(), &path, findings) else { return };
    let Some(clean) = clean else {
        // Ours may be of topics that have other successors of their names by now; a broker keeps its own up to date.
        if !is_ours(inner) {
            past_the_end(&path, &found, cores, findings);
        }
        return;
    };
    // Nothing was changed since it was written: it is exactly this.
    for id in found.0.keys().filter(|id| !is_known(inner, id)) {
        let message = format!("it names {id}, and there is no such partition");
        findings.push(Finding::new(&path, 0, FindingKind::Checkpoint, message));
    }
    for (id, core) in cores {
        let (start, end, first) = match clean.get(&(core.topic, id.partition)) {
            Some(closed) => (closed.start, closed.end, closed.segments.first().map(|(first, _)| *first)),
            // Nothing was ever written.
            None if core.segments().is_empty() => (core.start(), core.end(), None),
            None => continue,
        };
        let expected = match name {
            LOG_STARTS => first.is_some_and(|first| first < start).then_some(start),
            CLEANED => continue,
            _ => Some(end),
        };
        let found = found.0.get(id).copied();
        if found != expected {
            let say =
                |offset: Option<Offset>| offset.map_or_else(|| "nothing".to_owned(), |offset| offset.to_string());
            let message = format!("it says {} of {id}, and {} was written", say(found), say(expected));
            findings.push(Finding::new(&path, 0, FindingKind::Checkpoint, message));
        }
    }
}

/// What a broker wrote down is in the log.
fn past_the_end(
    path: &Path,
    found: &OffsetCheckpoint,
    cores: &BTreeMap<TopicPartition, Arc<Core>>,
    findings: &mut Findings,
) {
    for (id, offset) in &found.0 {
        let Some(end) = cores.get(id).map(|core| core.end()).filter(|end| offset > end) else { continue };
        let message = format!("it says {offset} of {id}, which ends at {end}");
        let finding = Finding::new(path, 0, FindingKind::Checkpoint, message);
        findings.push(finding.missing(end, *offset).advice(Advice::Restore));
    }
}

fn is_known(inner: &Inner, id: &TopicPartition) -> bool {
    let topics = inner.topics.read();
    topics.get(&id.topic).is_some_and(|topic| (id.partition as usize) < topic.partitions.read().len())
}

fn read(disk: &dyn Disk, path: &Path, findings: &mut Findings) -> Option<OffsetCheckpoint> {
    let read = read_limited(disk, path).and_then(|text| {
        let parsed = text.map(|text| OffsetCheckpoint::parse(&text).map_err(|malformed| malformed.at(path)));
        parsed.transpose()
    });
    match read {
        Ok(found) => found,
        Err(error) => {
            findings.push(Finding::of_error(FindingKind::Checkpoint, path, &error));
            None
        }
    }
}

/// Up to where a broker's cleaner has come.
const CLEANED: &str = "cleaner-offset-checkpoint";
