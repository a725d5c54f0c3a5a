//! Which offsets are past their retention, and which groups have nothing left (KIP-211).
//!
//! | Group                                        | Its offsets expire                                                      |
//! |----------------------------------------------|-------------------------------------------------------------------------|
//! | empty                                        | one retention after it became so, or after their commit if that is later |
//! | never had members                            | one retention after their commit                                        |
//! | stable, of the type `consumer`               | the same, of topics that no member reads                                |
//! | any other                                    | not at all                                                              |
//!
//! A commit that says until when it holds expires then, if its group's offsets expire at all. What an open transaction, or
//! a commit or removal under way, is about to replace stays. (To a broker only the time counts at which a group became empty: an
//! offset that was set by hand a week later is gone minutes after.)

use std::collections::BTreeSet;

use super::append::{Then, batch_count};
use super::group::{Group, Phase};
use super::request::Now;
use super::{Coordinator, Wait};
use crate::group::offsets::tombstone;
use crate::probe;
use crate::types::Timestamp;
use crate::wire::{Invalid, Reader};

impl Coordinator {
    pub(super) fn expire_offsets(&mut self, now: Now) {
        if self.has_resigned {
            return;
        }
        let names: BTreeSet<Box<str>> =
            self.offsets.groups().map(Into::into).chain(self.groups.keys().cloned()).collect();
        for name in names {
            let is_at_work = self.groups.get(&name).is_some_and(|entry| entry.wait != Wait::No);
            if !is_at_work && !self.is_foreign(&name) {
                self.expire_group(&name, now);
            }
        }
    }

    fn expire_group(&mut self, name: &str, now: Now) {
        let nobody = Group::default();
        let group = self.groups.get(name).map_or(&nobody, |entry| &entry.group);
        let Some(since) = group.retained_since() else { return };
        let changing: BTreeSet<_> =
            self.outstanding_offsets().map(|(slot, _)| slot).filter(|(group, ..)| *group == name).collect();
        let is_held = |topic: &str, partition: u32| {
            self.offsets.is_unstable(name, topic, partition)
                || (changing.contains(&(name, topic, partition)) && !probe::planted("group.commit_under_way_expired"))
                || (group.reads(topic) && !probe::planted("group.subscribed_topic_expired"))
        };
        let due = self.offsets.offsets(name).filter(|(topic, partition, committed)| {
            committed.is_due(now.wall, since, &self.config) && !is_held(topic, *partition)
        });
        let mut records: Vec<_> = due.filter_map(|(topic, partition, _)| tombstone(name, topic, partition)).collect();
        let is_last = records.len() == self.offsets.all_offsets(name).count()
            && self.offsets.unstable(name).next().is_none()
            && changing.is_empty();
        let is_left = group.phase == Phase::Empty && group.pending.is_empty() && is_last;
        if !is_left {
            // One batch at a time: a commit must not come between an offset that is found to be due and its tombstone.
            records.truncate(batch_count(&records));
        }
        let count = records.len();
        let then = Then { expired: (count > 0).then(|| (name.into(), count)), ..Then::default() };
        if is_left {
            self.bury(name, records, then, now);
        } else if count > 0 {
            self.append(records, None, then);
        }
    }
}

impl Group {
    /// From when on the retention of offsets counts, if not from their commit; none if they do not expire at all.
    fn retained_since(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Empty => Some(self.since),
            Phase::Stable if self.is_of_consumers() => Some(Timestamp::NONE),
            _ => None,
        }
    }

    /// Whether its members are consumers, whose subscriptions can be read.
    pub(super) fn is_of_consumers(&self) -> bool {
        *self.protocol_type == *"consumer"
    }

    /// Whether a member is subscribed to a topic. Of what cannot be read that is assumed.
    pub(super) fn reads(&self, topic: &str) -> bool {
        let Some(protocol) = self.protocol.as_deref() else { return self.phase != Phase::Empty };
        let mut members = self.members.values();
        members.any(|member| names_topic(&member.metadata(protocol), topic).unwrap_or(true))
    }
}

/// Whether a subscription names a topic. All versions begin alike: a version, and a count of topics, and they.
fn names_topic(subscription: &[u8], topic: &str) -> Result<bool, Invalid> {
    let mut reader = Reader::new(subscription);
    reader.i16()?;
    for _ in 0..reader.i32()? {
        if reader.str()? == topic {
            return Ok(true);
        }
    }
    Ok(false)
}
