//! Offsets: who may commit them, what is told of them, and how they are forgotten.
//!
//! | Generation | Group                     | A commit is                                                              |
//! |-----------:|---------------------------|--------------------------------------------------------------------------|
//! | none       | there is none             | accepted: of an application that chooses its partitions by itself        |
//! | given      | there is none             | [`GroupIdNotFound`]; [`IllegalGeneration`] in a transaction              |
//! | none       | empty                     | accepted                                                                 |
//! | none, and no member | not empty        | [`UnknownMemberId`]; accepted in a transaction, of clients that know no better |
//! | of a member | any                      | checked: member, instance id, generation                                 |
//! | of a member | its members joined, the leader is to assign | [`RebalanceInProgress`]; accepted in a transaction     |
//! | of a member | stable, or its members are to join | accepted: a member keeps what it has until it joins (KIP-429)   |
//!
//! [`GroupIdNotFound`]: GroupError::GroupIdNotFound
//! [`IllegalGeneration`]: GroupError::IllegalGeneration
//! [`UnknownMemberId`]: GroupError::UnknownMemberId
//! [`RebalanceInProgress`]: GroupError::RebalanceInProgress

use std::collections::BTreeSet;

use super::action::{Answer, FetchedOffset};
use super::append::{Then, Waiting};
use super::group::{Group, Phase};
use super::request::{Caller, Now, OffsetCommit, OffsetDelete, OffsetFetch, OffsetToCommit, Token};
use super::{Coordinator, Stored, Wait};
use crate::config::GroupConfig;
use crate::error::Error;
use crate::error::GroupError;
use crate::group::offsets::{GroupOffset, GroupRecord, tombstone};
use crate::group::records::group_key;

impl Coordinator {
    pub(super) fn commit_offsets(&mut self, token: Token, commit: &OffsetCommit, now: Now) {
        if let Err(error) = self.check_commit(commit) {
            return self.reply(token, Err(error));
        }
        // A commit is a sign of life. In a transaction it is the producer's, not the member's.
        if commit.transaction.is_none()
            && let Some(entry) = self.groups.get_mut(&commit.group)
        {
            entry.group.touch(&commit.caller.member_id, now);
        }
        let expire = commit.retention.map(|retention| now.wall + retention);
        let mut records = Vec::with_capacity(commit.offsets.len());
        let mut done = Vec::with_capacity(commit.offsets.len());
        for offset in &commit.offsets {
            let record = offset.as_group_offset().to_record(&commit.group, 0, now.wall, expire, &self.config);
            done.push(record.map(|record| records.push(record)).map_err(|error| match error {
                Error::TooLong { .. } => GroupError::OffsetMetadataTooLarge,
                _ => GroupError::InvalidRequest,
            }));
        }
        let answer = Ok(Answer::Committed(done));
        if records.is_empty() {
            return self.reply(token, answer);
        }
        let then = Then { replies: vec![(token, answer)], cause: Some(token), ..Then::default() };
        self.append(records, commit.transaction, then);
    }

    fn check_commit(&self, commit: &OffsetCommit) -> Result<(), GroupError> {
        let (caller, is_plain) = (&commit.caller, commit.transaction.is_none());
        let has_generation = caller.generation.is_some();
        if !self.is_known(&commit.group) {
            return match has_generation {
                false => Ok(()),
                true if is_plain => Err(GroupError::GroupIdNotFound),
                true => Err(GroupError::IllegalGeneration),
            };
        }
        let group = self.groups.get(&commit.group).map(|entry| &entry.group);
        let phase = group.map_or(Phase::Empty, |group| group.phase);
        if !has_generation && phase == Phase::Empty {
            return Ok(());
        }
        if has_generation || !caller.member_id.is_empty() || caller.instance_id.is_some() {
            group.ok_or(GroupError::UnknownMemberId)?.check_caller(caller)?;
        } else if is_plain {
            return Err(GroupError::UnknownMemberId);
        }
        if is_plain && phase == Phase::Completing {
            return Err(GroupError::RebalanceInProgress);
        }
        Ok(())
    }

    /// Whether there is such a group: with members, a record, or offsets.
    pub(super) fn is_known(&self, name: &str) -> bool {
        self.groups.contains_key(name)
            || self.offsets.has_offsets(name)
            || self.is_foreign(name)
            || self.outstanding_commits().any(|(group, ..)| group == name)
    }

    pub(super) fn fetch_offsets(&mut self, token: Token, fetch: &OffsetFetch) {
        let fetched = |topic: &str, partition: u32| {
            let is_unstable = fetch.require_stable && self.offsets.is_unstable(&fetch.group, topic, partition);
            let committed = match is_unstable {
                true => Err(GroupError::UnstableOffsetCommit),
                false => Ok(self.offsets.committed(&fetch.group, topic, partition).cloned()),
            };
            FetchedOffset { topic: topic.into(), partition, committed }
        };
        let answer = match &fetch.partitions {
            Some(partitions) => partitions.iter().map(|(topic, partition)| fetched(topic, *partition)).collect(),
            None => {
                let committed = self.offsets.offsets(&fetch.group).map(|(topic, partition, _)| (topic, partition));
                // Who waits for all to be stable must hear of those that have only an unstable one.
                let unstable = self.offsets.unstable(&fetch.group).filter(|_| fetch.require_stable);
                let all: BTreeSet<_> = committed.chain(unstable).collect();
                all.into_iter().map(|(topic, partition)| fetched(topic, partition)).collect()
            }
        };
        self.reply(token, Ok(Answer::Offsets(answer)));
    }

    pub(super) fn delete_offsets(&mut self, token: Token, delete: &OffsetDelete) {
        if !self.is_known(&delete.group) {
            return self.reply(token, Err(GroupError::GroupIdNotFound));
        }
        let group = self.groups.get(&delete.group).map(|entry| &entry.group);
        let active = group.filter(|group| group.phase != Phase::Empty);
        if active.is_some_and(|group| !group.is_of_consumers()) {
            return self.reply(token, Err(GroupError::NonEmptyGroup));
        }
        let known = self.slots_of(|group, _| *group == *delete.group);
        let mut records = Vec::new();
        let mut done = Vec::with_capacity(delete.partitions.len());
        for (topic, partition) in &delete.partitions {
            if active.is_some_and(|group| group.reads(topic)) {
                done.push(Err(GroupError::GroupSubscribedToTopic));
                continue;
            }
            done.push(Ok(()));
            if known.contains(&(delete.group.clone(), topic.clone(), *partition)) {
                records.extend(tombstone(&delete.group, topic, *partition));
            }
        }
        let answer = Ok(Answer::OffsetsDeleted(done));
        self.forget(token, answer, records);
    }

    pub(super) fn forget_topic(&mut self, token: Token, topic: &str) {
        let slots = self.slots_of(|_, known| *known == *topic);
        let records = slots.iter().filter_map(|(group, topic, partition)| tombstone(group, topic, *partition));
        let records = records.collect();
        self.forget(token, Ok(Answer::TopicForgotten), records);
    }

    fn forget(&mut self, token: Token, answer: Result<Answer, GroupError>, records: Vec<GroupRecord>) {
        if records.is_empty() {
            return self.reply(token, answer);
        }
        let then = Then { replies: vec![(token, answer)], cause: Some(token), ..Then::default() };
        self.append_tombstones(records, then);
    }

    pub(super) fn delete_group(&mut self, token: Token, name: &str, now: Now) {
        if !self.is_known(name) {
            return self.reply(token, Err(GroupError::GroupIdNotFound));
        }
        let phase = self.groups.get(name).map_or(Phase::Empty, |entry| entry.group.phase);
        if phase != Phase::Empty || self.is_foreign(name) {
            return self.reply(token, Err(GroupError::NonEmptyGroup));
        }
        let slots = self.slots_of(|group, _| *group == *name);
        let offsets = slots.iter().filter_map(|(group, topic, partition)| tombstone(group, topic, *partition));
        let then = Then { replies: vec![(token, Ok(Answer::GroupDeleted))], cause: Some(token), ..Then::default() };
        let records = offsets.collect();
        self.bury(name, records, then, now);
    }

    /// Removes a group with these records and its own, if it has one.
    pub(super) fn bury(&mut self, name: &str, mut records: Vec<GroupRecord>, mut then: Then, now: Now) {
        let is_stored = self.groups.get(name).is_some_and(|entry| matches!(entry.stored, Some(Stored::Group(_))));
        records.extend(group_key(name).filter(|_| is_stored).map(|key| GroupRecord { key, value: None }));
        if records.is_empty() {
            // There are ids that nobody joined with, and nothing else.
            self.groups.entry(name.into()).or_default().group = Group::default();
            self.settle(name);
            return self.reply_all(then.replies);
        }
        then.group = Some(Waiting { name: name.into(), next: Box::default(), since: now.monotonic });
        self.wait(name, Wait::Deletion);
        self.append_tombstones(records, then);
    }

    /// All that was committed, and is about to be, for which this holds: group, topic, partition.
    fn slots_of(&self, is_wanted: impl Fn(&str, &str) -> bool) -> BTreeSet<(Box<str>, Box<str>, u32)> {
        let mut slots = BTreeSet::new();
        self.offsets.all_slots().chain(self.outstanding_commits()).for_each(|(group, topic, partition)| {
            if is_wanted(group, topic) {
                slots.insert((group.into(), topic.into(), partition));
            }
        });
        slots
    }
}

impl OffsetCommit {
    /// A commit of these offsets, all of which can be stored.
    pub(crate) fn of(
        group: &str,
        caller: Caller,
        offsets: &[GroupOffset<'_>],
        config: &GroupConfig,
    ) -> crate::error::Result<Self> {
        let owned = |(index, offset): (usize, &GroupOffset<'_>)| {
            offset.check(index, config)?;
            let GroupOffset { topic, partition, offset, leader_epoch, metadata } = *offset;
            Ok(OffsetToCommit { topic: topic.into(), partition, offset, leader_epoch, metadata: metadata.into() })
        };
        let offsets = offsets.iter().enumerate().map(owned).collect::<crate::error::Result<_>>()?;
        Ok(Self { group: group.into(), caller, transaction: None, retention: None, offsets })
    }

    /// The same offsets, borrowed.
    pub(crate) fn as_group_offsets(&self) -> Vec<GroupOffset<'_>> {
        self.offsets.iter().map(OffsetToCommit::as_group_offset).collect()
    }
}

impl OffsetToCommit {
    fn as_group_offset(&self) -> GroupOffset<'_> {
        let offset = GroupOffset::new(&self.topic, self.partition, self.offset);
        offset.leader_epoch(self.leader_epoch).metadata(&self.metadata)
    }
}
