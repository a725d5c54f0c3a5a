//! Finding out which of the allowed futures came true.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::TOPICS;
use super::look::{Found, FoundPartition, FoundRecord, FoundTopic};
use super::model::{Live, Model, Partition, Rec, Topic};
use super::op::{is_tombstone, key};
use super::transactions::{Outcomes, is_marker};
use crate::sim::explore::{Verdict, Violation};

/// Checks that `found` is what the model allows, and makes the model say that.
pub(super) fn settle(model: &mut Model, found: &Found) -> Verdict {
    let mut outcomes = Outcomes::default();
    for (name, topic) in TOPICS.into_iter().zip(&mut model.topics) {
        let vanished = topic.live.is_some() && !found.topics.contains_key(name);
        settle_topic(topic, found.topics.get(name), found.now, &mut outcomes)
            .map_err(|violation| named(name, violation))?;
        if vanished && found.groups.keys().any(|key| key.1 == name) {
            return Err(Violation::new("G5", format!("{name} is gone, and groups have offsets of it")));
        }
    }
    model.groups.settle(found, &mut outcomes).map_err(|detail| Violation::new("G1", detail))?;
    model.groups.may_expire = false;
    model.transactions.settle(&outcomes, found)?;
    model.nothing_under_way();
    model.catalog_stored();
    Ok(())
}

pub(super) fn named(name: &str, violation: Violation) -> Violation {
    Violation::new(violation.invariant, format!("{name}: {}", violation.detail))
}

fn settle_topic(topic: &mut Topic, found: Option<&FoundTopic>, now: i64, outcomes: &mut Outcomes) -> Verdict {
    let Some(found) = found else {
        return match topic.live.take() {
            Some(_) if !topic.may_vanish => Err(Violation::new("L2", "a topic is gone")),
            _ => Ok(()),
        };
    };
    let may_vanish = topic.may_vanish;
    let again = topic.pending.take().filter(|_| topic.live.is_none() || may_vanish);
    let mut outcome = Err(Violation::new("L2", "a topic that nobody made"));
    for mut live in topic.live.take().into_iter().chain(again) {
        let mut of_this = outcomes.clone();
        let settled = settle_live(&mut live, found, now, &mut of_this);
        if outcome.is_err() && (topic.live.is_none() || settled.is_ok()) {
            topic.live = Some(live);
            outcome = settled;
            *outcomes = of_this;
        }
    }
    outcome
}

fn settle_live(live: &mut Live, found: &FoundTopic, now: i64, outcomes: &mut Outcomes) -> Verdict {
    match found.config {
        config if config == live.config => live.config_may.clear(),
        config if live.config_may.contains(&config) => live.set_config(config),
        config => return Err(Violation::new("L2", format!("settings {config:?}, not {:?}", live.config))),
    }
    if found.partitions.len() != live.partitions.len() {
        return Err(Violation::new("L2", format!("{} partitions", found.partitions.len())));
    }
    for (number, (partition, found)) in live.partitions.iter_mut().zip(&found.partitions).enumerate() {
        let settled = settle_partition(partition, found, now, outcomes);
        settled.map_err(|violation| named(&format!("partition {number}"), violation))?;
    }
    Ok(())
}

fn settle_partition(partition: &mut Partition, found: &FoundPartition, now: i64, outcomes: &mut Outcomes) -> Verdict {
    let (start, end) = (found.offsets.start.0, found.offsets.end.0);
    let highest = partition.start.max(partition.start_flight.unwrap_or(0)).max(partition.start_doubt.unwrap_or(0));
    if start < partition.start || start > highest {
        return Err(Violation::new("T2", format!("starts at {start}, not in {}..={highest}", partition.start)));
    }
    let floor = partition.floor.take().unwrap_or(partition.acknowledged);
    let maybe = std::mem::take(&mut partition.maybe);
    let kept = outcomes.follow(partition, &maybe, found);
    if kept < floor {
        return Err(Violation::new("D1", format!("holds what was appended up to {kept}, not {floor} or above")));
    }
    if end < floor {
        return Err(Violation::new("D1", format!("ends at {end}, not at {floor} or above")));
    }
    if end > partition.end() {
        let fits = |batch: &[Rec]| {
            let found = &found.records[found.records.len().saturating_sub(batch.len())..];
            end == partition.end() + batch.len() as u64
                && batch.iter().zip(found).all(|(rec, found)| rec.id == found.id)
        };
        // What failed stays in doubt until something else is there: the cut may be in memory only, too.
        let found = [&partition.doubt, &maybe].into_iter().find(|batch| fits(batch)).cloned();
        if let Some(batch) = found {
            partition.doubt.clear();
            partition.push(&batch);
        }
    }
    if end > partition.end() {
        return Err(Violation::new("D3", format!("ends at {end}, where {} were appended", partition.end())));
    }
    let kept = (end - partition.base) as usize;
    // What is below the start may be gone, its last batch in part.
    if start < end && kept > 0 && !partition.records[kept - 1].is_last {
        return Err(Violation::new("D3", format!("ends at {end}, inside a batch")));
    }
    if kept < partition.records.len() {
        partition.doubt.clear();
        Arc::make_mut(&mut partition.records).truncate(kept);
    }
    compare(partition, found, now)?;
    partition.raise_start(start);
    outcomes.note(partition);
    partition.start_doubt = None;
    partition.acknowledged = end;
    // Whether they stand in the file as they were served, only the process that served them knows.
    partition.served.clear();
    (partition.written, partition.staged_since) = (0, None);
    if found.offsets.synced.0 > end {
        return Err(Violation::new("D13", format!("{:?}", found.offsets)));
    }
    partition.synced = partition.synced.min(end).max(found.offsets.synced.0);
    Ok(())
}

fn compare(partition: &mut Partition, found: &FoundPartition, now: i64) -> Verdict {
    let (start, end) = (found.offsets.start.0, found.offsets.end.0);
    let read = partition.is_seen(start, end, &found.records, now);
    read.map_err(|violation| Violation {
        invariant: if violation.invariant == "R1" { "D3" } else { violation.invariant },
        ..violation
    })?;
    buried_stays_buried(partition, found, now)?;
    let base = partition.base;
    let place = |record: &FoundRecord| (record.offset - base) as usize;
    let is_known = |record: &FoundRecord| partition.records[place(record)].timestamp == Some(record.timestamp);
    // Mostly nothing is news, and all who hold these records go on sharing them.
    if !found.records.iter().all(is_known) {
        let records = Arc::make_mut(&mut partition.records);
        found.records.iter().for_each(|record| records[place(record)].timestamp = Some(record.timestamp));
    }
    Ok(())
}

/// A tombstone that is gone took with it all that came before it of its key.
fn buried_stays_buried(partition: &Partition, found: &FoundPartition, now: i64) -> Verdict {
    if partition.compacted.is_none() {
        return Ok(());
    }
    let mut buried = BTreeSet::new();
    let removable = partition.removable(now, false);
    let mut found = found.records.iter().rev().peekable();
    for (at, rec) in partition.records.iter().enumerate().rev() {
        let offset = partition.base + at as u64;
        if found.next_if(|record| record.offset == offset).is_none() {
            if is_tombstone(rec.id) && removable.counts(offset) {
                buried.insert(key(rec.id));
            }
        } else if !is_marker(rec.id) && removable.counts(offset) && buried.contains(&key(rec.id)) {
            return Err(Violation::new("C4", format!("{rec:x?} at {offset} is back, its tombstone is gone")));
        }
    }
    Ok(())
}
