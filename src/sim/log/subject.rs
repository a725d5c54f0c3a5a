//! The log as the explorers run it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::look::{Blind, Found, look};
use super::model::Model;
use super::op::{Op, Options};
use super::planted::{MARKS, PLANTED};
use super::settle::settle;
use super::{DIR, OFFSETS, SEATS, TOPICS, apply, scenarios};
use crate::clock::{Clock, Entropy};
use crate::disk::Disk;
use crate::sim::Rng;
use crate::sim::explore::{Refusal, Scenario, Subject, Verdict, Violation, World};
use crate::{
    Background, Cleanup, Durability, Error, Finding, GroupConfig, IdempotentProducer, Log, LogBuilder, Offset,
    Offsets, Partition, Staging, TopicConfig, TransactionalProducer, VerifyOptions,
};

/// How long a staged record waits.
pub(super) const LINGER: Duration = Duration::from_millis(1_500);
/// What an orderly close leaves, and the first change takes away.
const CLEAN_MARK: &str = "/log/clean";

/// A log in a simulated world.
#[derive(Debug)]
pub struct Explored {
    /// None if it could not be opened again.
    pub(super) log: Option<Log>,
    /// The one that numbers records. It keeps the log open, so it goes before that.
    pub(super) producer: Option<IdempotentProducer>,
    pub(super) world: World,
    pub(super) options: Options,
    /// What was there when it was opened.
    pub(super) found: Option<Result<Found, Violation>>,
    /// Something failed in a way that only opening again mends.
    pub(super) is_stuck: bool,
    /// How far partitions were when they were last looked at.
    seen: BTreeMap<(&'static str, u32), Offsets>,
    /// The segments that were active then.
    active: BTreeMap<(&'static str, u32), Offset>,
    /// Who holds the transactional ids.
    pub(super) seats: [Option<TransactionalProducer>; SEATS.len()],
}

impl Subject for Explored {
    const NAME: &'static str = "log";
    const PLANTED: &'static [&'static str] = PLANTED;
    const MARKS: &'static [&'static str] = MARKS;
    const KNOWS_WHOLE_FAILURES: bool = true;
    const LONGEST: u32 = 3;
    const MOST_BITS: u32 = 7;

    type Op = Op;
    type Options = Options;
    type Model = Model;

    fn options(rng: &mut Rng) -> Options {
        Options::draw(rng)
    }

    fn operation(options: &Options, rng: &mut Rng) -> Op {
        options.op(rng)
    }

    fn alphabets() -> Vec<(Options, Vec<Op>)> {
        scenarios::alphabets()
    }

    fn scenarios() -> Vec<Scenario<Self>> {
        scenarios::all()
    }

    fn model(options: &Options) -> Model {
        Model::new(*options)
    }

    fn open(world: &World, options: &Options) -> Result<Self, Refusal> {
        let struck = world.disk.struck();
        let log = builder(world, options).strict().open().map_err(|error| match &error {
            Error::Corrupt(found) if world.disk.may_have_dropped(&found.path, found.position) => {
                Refusal::Dropped(error.to_string())
            }
            _ => refusal(error),
        })?;
        // What a look cannot read was not found at the opening, and is damage all the same.
        world.disk.pause_faults(true);
        let mut looked = look(&log, world.clock.forward(), options);
        if let Ok(found) = &mut looked {
            // On a full disk, markers wait for space.
            found.is_settled = !world.disk.is_limited() && world.disk.struck() == struck;
        }
        let passed = match &looked {
            Err(Blind::Failed(error @ Error::Corrupt(_))) => passed_by(&log, error),
            _ => None,
        };
        world.disk.pause_faults(false);
        let found = match (looked, passed) {
            (Ok(found), _) => Ok(found),
            (Err(Blind::Wrong(violation)), _) | (_, Some(violation)) => Err(violation),
            (Err(Blind::Failed(error)), None) => return Err(refusal(error)),
        };
        Ok(Self {
            log: Some(log),
            producer: None,
            world: world.clone(),
            options: *options,
            found: Some(found),
            is_stuck: false,
            seen: BTreeMap::new(),
            active: BTreeMap::new(),
            seats: Default::default(),
        })
    }

    fn settle(&mut self, model: &mut Model) -> Verdict {
        match self.found.take() {
            Some(Ok(found)) => settle(model, &found)?,
            Some(Err(violation)) => return Err(violation),
            None => {}
        }
        self.watch(model)
    }

    fn judge(&mut self) -> Verdict {
        let Some(log) = &self.log else { return Ok(()) };
        let report = log.verify(&VerifyOptions::default());
        let report = report.map_err(|error| Violation::new("V1", format!("not verified: {error}")))?;
        // Of files that follow from others, a power cut may have left some half written.
        let is_dropped = |finding: &Finding| self.world.disk.may_have_dropped(&finding.path, finding.position);
        match report.findings().iter().find(|finding| finding.is_damage() && !is_dropped(finding)) {
            Some(finding) => Err(Violation::new("V1", format!("nothing is damaged, but {finding}"))),
            None => Ok(()),
        }
    }

    fn expect(model: &mut Model, op: &Op) {
        model.expect(op);
    }

    fn apply(&mut self, op: &Op, model: &mut Model) -> Verdict {
        if self.log.is_none() {
            model.nothing_under_way();
            return Ok(());
        }
        apply::apply(self, op, model)?;
        self.watch(model)
    }

    fn is_stuck(&self) -> bool {
        self.is_stuck || self.log.is_none()
    }

    fn close(mut self, model: &mut Model) -> Verdict {
        self.close_log(model)
    }

    fn crashed(model: &mut Model) {
        model.crashed();
    }

    fn restarted(model: &mut Model) {
        model.restarted();
    }

    fn killed(model: &mut Model) {
        model.killed();
    }
}

impl Drop for Explored {
    /// A process that dies does not close what it has open.
    fn drop(&mut self) {
        if self.log.is_some() {
            self.world.disk.power_off();
        }
    }
}

/// What is wrong if a verification passes over damage that a look has met.
fn passed_by(log: &Log, met: &Error) -> Option<Violation> {
    match log.verify(&VerifyOptions::default()) {
        Ok(report) if report.is_damaged() => None,
        Ok(report) => Some(Violation::new("V2", format!("{met}, and verified: {:?}", report.findings()))),
        Err(error) => Some(Violation::new("V2", format!("{met}, and not verified: {error}"))),
    }
}

/// A log as `options` have it.
pub(super) fn builder(world: &World, options: &Options) -> LogBuilder {
    builder_in(world, options, DIR)
}

/// The same, in another directory.
pub(super) fn builder_in(world: &World, options: &Options, dir: &str) -> LogBuilder {
    let is_small = options.internal_bytes < Options::TINY.internal_bytes;
    let internal = TopicConfig::default()
        .cleanup(Cleanup::Compact)
        .min_cleanable_dirty_ratio(if is_small { 0.0 } else { 0.5 })
        .delete_retention(Duration::from_secs(60))
        .segment_bytes(options.internal_bytes)
        .segment_index_bytes(48)
        .index_interval_bytes(0)
        .durability(Durability::Every { records: None, time: Some(Duration::from_secs(1)) });
    let (staging, layout) = match options.staging {
        Some(layout) => (Staging::On, layout),
        None => (Staging::Off, Options::STAGING),
    };
    Log::builder(dir)
        .staging(staging)
        .layout(layout)
        .linger(LINGER)
        .disk(Arc::clone(&world.disk) as Arc<dyn Disk>)
        .clock(Arc::clone(&world.clock) as Arc<dyn Clock>)
        .entropy(Arc::clone(&world.entropy) as Arc<dyn Entropy>)
        .process(1)
        .background(Background::Caller)
        .default_config(options.config())
        .groups(GroupConfig::default().offset_retention(options.offset_retention))
        .offsets_topic(internal)
        .transactions_topic(internal)
        .read_path(options.read_path)
        .max_maps(options.max_maps)
        .retention_interval(Duration::from_millis(1))
        .checkpoint_interval(Duration::from_millis(1))
}

pub(super) fn refusal(error: Error) -> Refusal {
    match error {
        Error::Corrupt(_) | Error::NewerVersion { .. } => Refusal::Corrupt(error.to_string()),
        Error::Io { ref source, .. } => Refusal::Failed(format!("{error}: {source}")),
        _ => Refusal::Failed(error.to_string()),
    }
}

impl Explored {
    /// Closes the log, and takes into the model what that made durable.
    pub(super) fn close_log(&mut self, model: &mut Model) -> Verdict {
        self.producer = None;
        let Some(log) = self.log.take() else { return Ok(()) };
        self.seats = Default::default();
        let partitions: Vec<_> = each(&log).collect();
        let groups = log.find_topic(OFFSETS).and_then(|topic| topic.partition(0).ok());
        let closed = log.close();
        for (topic, partition) in &partitions {
            self.watch_one(topic, partition, model)?;
        }
        if let Some(groups) = &groups {
            model.groups.synced = model.groups.synced.max(groups.offsets().synced.0);
        }
        drop((partitions, groups));
        self.seen.clear();
        self.active.clear();
        match closed {
            Ok(()) if !self.is_stuck => all_synced(model),
            Ok(()) => Ok(()),
            Err(error) => {
                let is_explained = self.is_stuck || self.world.disk.struck() > 0 || is_full(&error);
                // Pages whose sync failed may be dropped from the cache at any time.
                model.partitions_mut().for_each(|partition| partition.may_be_dropped = true);
                model.groups.may_be_dropped = true;
                let is_dropped = self.is_dropped(&error);
                match (is_explained, refusal(error)) {
                    (true, Refusal::Failed(_)) => Ok(()),
                    (_, Refusal::Corrupt(_)) if is_dropped => Ok(()),
                    (_, refused) => Err(Violation::new("close", refused.to_string())),
                }
            }
        }
    }

    /// Checks what is cheap to check of every partition, and tells the disk what is promised.
    pub(super) fn watch(&mut self, model: &mut Model) -> Verdict {
        let Some(log) = self.log.clone() else { return Ok(()) };
        if self.options.transacts() {
            self.absorb_markers(&log, model)?;
        }
        for (topic, partition) in each(&log) {
            self.watch_one(topic, &partition, model)?;
        }
        if let Some(topic) = log.find_topic(OFFSETS)
            && let Ok(partition) = topic.partition(0)
        {
            let offsets = partition.offsets();
            model.groups.synced = model.groups.synced.max(offsets.synced.0);
            model.groups.may_be_dropped &= model.groups.synced < model.groups.end();
            self.promise(OFFSETS, &partition, offsets)?;
        }
        Ok(())
    }

    /// Whether damage is what an eviction after a failed sync leaves: it was promised to nobody that this is there.
    pub(super) fn is_dropped(&self, error: &Error) -> bool {
        matches!(error, Error::Corrupt(found) if self.world.disk.may_have_dropped(&found.path, found.position))
    }

    /// A topic was deleted: one of its name is another.
    pub(super) fn forget(&mut self, name: &str) {
        self.seen.retain(|key, _| key.0 != name);
        self.active.retain(|key, _| key.0 != name);
    }

    fn watch_one(&mut self, name: &'static str, partition: &Partition, model: &mut Model) -> Verdict {
        let offsets = partition.offsets();
        let number = partition.number();
        let topic = TOPICS.iter().position(|topic| *topic == name).unwrap_or(0);
        let live = model.topics[topic].live.as_mut();
        let Some(expected) = live.and_then(|live| live.partitions.get_mut(number as usize)) else {
            return Err(Violation::new("L2", format!("{name}-{number} is there")));
        };
        let Offsets { start, stable, committed, synced, end } = offsets;
        let place = format_args!("{name}-{number}: {offsets:?}");
        if !(start <= stable && stable <= committed && committed <= end && synced <= end) {
            return Err(Violation::new("D13", place.to_string()));
        }
        if (start.0, end.0) != (expected.start, expected.end()) {
            let what = format!("{place}, not {}..{}", expected.start, expected.end());
            return Err(Violation::new("A2", what));
        }
        if expected.first_unstable().is_some_and(|first| stable.0 > first) {
            return Err(Violation::new("X4", place.to_string()));
        }
        if let Some(before) = self.seen.get(&(name, number)).filter(|before| before.synced > synced) {
            return Err(Violation::new("D13", format!("{place}, after {before:?}")));
        }
        expected.synced = expected.synced.max(synced.0);
        let before = expected.written;
        expected.written = partition.segments().last().map_or(end.0, |last| last.end().0);
        if expected.written >= expected.end() {
            expected.staged_since = None;
        } else if expected.staged_since.is_none() || expected.written > before {
            expected.staged_since = Some(self.world.clock.monotonic());
        }
        expected.may_be_dropped &= expected.synced < expected.end();
        self.promise(name, partition, offsets)
    }

    /// Tells the disk which bytes are final, and which survive a power cut.
    fn promise(&mut self, name: &'static str, partition: &Partition, offsets: Offsets) -> Verdict {
        let key = (name, partition.number());
        let before = self.seen.insert(key, offsets);
        if before == Some(offsets) {
            return Ok(());
        }
        let disk = &self.world.disk;
        let is_changed = before.is_some_and(|before| (before.start, before.end) != (offsets.start, offsets.end));
        if is_changed && disk.may_be_found(Path::new(CLEAN_MARK)) {
            let what = format!("{name}-{}: changed, and the mark of an orderly close is there", key.1);
            return Err(Violation::new("D14", what));
        }
        let active = self.active.get(&key).copied();
        let synced_before = before.map_or(Offset::ZERO, |before| before.synced);
        for segment in partition.segments() {
            // Nobody reads a file that retention has removed.
            let _ = disk.publish(segment.path(), segment.len());
            if Some(segment.base()) == active
                && segment.is_sealed()
                && disk.has_leftovers(segment.path(), segment.len())
            {
                let what = format!("{}: rolled with what a failed write left in it", segment.path().display());
                return Err(Violation::new("A2", what));
            }
            self.active.insert(key, segment.base());
            let is_news = offsets.synced > synced_before && segment.end() > synced_before;
            // Of what lies below the start nothing is promised.
            if is_news && offsets.synced > offsets.start {
                let position = match segment.end() <= offsets.synced {
                    true => segment.len(),
                    false => position_of(partition, offsets.synced, segment.base()),
                };
                // An empty file holds nothing to promise, its name included.
                if position == 0 {
                    continue;
                }
                let claimed = disk.claim_synced(segment.path(), position);
                claimed.map_err(|error| Violation::new("D4", format!("{}: {error}", segment.path().display())))?;
            }
        }
        Ok(())
    }
}

/// Where the batch at `synced` begins, in a segment that it is in the middle of.
fn position_of(partition: &Partition, synced: Offset, base: Offset) -> u64 {
    if synced <= base {
        return 0;
    }
    let batches = partition.fetch(synced, crate::ReadOptions::default().max_bytes(1));
    batches.ok().and_then(|batches| batches.file_range().map(|range| range.position())).unwrap_or(0)
}

/// Every partition of the topics that users made.
pub(super) fn each(log: &Log) -> impl Iterator<Item = (&'static str, Partition)> {
    let topics = TOPICS.into_iter().filter_map(|name| Some((name, log.find_topic(name)?)));
    topics.flat_map(|(name, topic)| {
        let partitions = (0..topic.partition_count()).filter_map(move |number| topic.partition(number).ok());
        partitions.map(move |partition| (name, partition))
    })
}

fn all_synced(model: &Model) -> Verdict {
    let lives = model.topics.iter().filter_map(|topic| topic.live.as_ref());
    for partition in lives.flat_map(|live| &live.partitions) {
        if partition.synced < partition.end() {
            let what = format!("{} of {} synced after an orderly close", partition.synced, partition.end());
            return Err(Violation::new("D1", what));
        }
    }
    Ok(())
}

pub(super) fn is_full(error: &Error) -> bool {
    error.kind() == crate::ErrorKind::Full
}
