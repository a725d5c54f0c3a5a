//! What an assignor answers: the partitions of each member.

use std::collections::{BTreeMap, BTreeSet};

use super::view::GroupView;
use crate::types::TopicPartition;

/// Which partitions each member of a group reads, by member id. Sorted, so equal answers look the same.
///
/// ```
/// use chiplog::TopicPartition;
/// use chiplog::group::assign::Assignment;
///
/// let mut assignment = Assignment::default();
/// assignment.give("a", TopicPartition::new("orders", 1));
/// assert_eq!(assignment.of("a").len(), 1);
/// assert_eq!(assignment.of("b").len(), 0);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assignment {
    members: BTreeMap<Box<str>, BTreeSet<TopicPartition>>,
}

impl Assignment {
    /// Gives a partition to a member, beside those it has.
    pub fn give(&mut self, member: &str, partition: TopicPartition) {
        match self.members.get_mut(member) {
            Some(partitions) => _ = partitions.insert(partition),
            None => _ = self.members.insert(member.into(), [partition].into()),
        }
    }

    /// The partitions of a member: none if it was given none.
    #[must_use]
    pub fn of(&self, member: &str) -> &BTreeSet<TopicPartition> {
        static NONE: BTreeSet<TopicPartition> = BTreeSet::new();
        self.members.get(member).unwrap_or(&NONE)
    }

    /// The members that were given something, by id, with their partitions.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &BTreeSet<TopicPartition>)> {
        self.members.iter().map(|(member, partitions)| (&**member, partitions))
    }

    /// Checks that every partition exists, is given once, and to a member that subscribes to its topic. That all are given
    /// is not asked: a cooperative assignor leaves some out for a round.
    ///
    /// # Errors
    ///
    /// The first partition for which that is not so, by member.
    pub fn check(&self, group: &GroupView<'_>) -> Result<(), InvalidAssignment> {
        let members: BTreeMap<_, _> = group.members().iter().map(|member| (member.id, member)).collect();
        let mut owners = BTreeMap::new();
        for (id, partitions) in self.iter() {
            for partition in partitions {
                let invalid = |reason| InvalidAssignment { member: id.into(), partition: partition.clone(), reason };
                let member = members.get(id).ok_or_else(|| invalid("the group has no such member"))?;
                if !member.topics.contains(&*partition.topic) {
                    return Err(invalid("it does not subscribe to the topic"));
                }
                if partition.partition >= group.partition_count(&partition.topic) {
                    return Err(invalid("there is no such partition"));
                }
                if owners.insert(partition, id).is_some() {
                    return Err(invalid("another member was given it, too"));
                }
            }
        }
        Ok(())
    }
}

/// An assignor gave a member what it may not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("member {member:?} cannot be assigned {partition}: {reason}")]
#[non_exhaustive]
pub struct InvalidAssignment {
    /// The member.
    pub member: Box<str>,
    /// What it was given.
    pub partition: TopicPartition,
    /// Why it may not have it.
    pub reason: &'static str,
}

#[cfg(test)]
mod tests {
    use super::super::MemberView;
    use super::*;

    #[test]
    fn what_an_assignor_may_not_do_is_told() {
        let group = GroupView::new(
            [MemberView::new("a", ["t0"]), MemberView::new("b", ["t0", "t1"])],
            [("t0", 2), ("t1", 1)],
        );
        let reason = |given: &[(&str, &str, u32)]| {
            let mut assignment = Assignment::default();
            given
                .iter()
                .for_each(|&(member, topic, number)| assignment.give(member, TopicPartition::new(topic, number)));
            assignment.check(&group).err().map(|invalid| invalid.reason)
        };
        assert_eq!(reason(&[("a", "t0", 0), ("b", "t0", 1), ("b", "t1", 0)]), None);
        assert_eq!(reason(&[("a", "t0", 1), ("b", "t0", 1)]), Some("another member was given it, too"));
        assert_eq!(reason(&[("a", "t1", 0)]), Some("it does not subscribe to the topic"));
        assert_eq!(reason(&[("a", "t0", 2)]), Some("there is no such partition"));
        assert_eq!(reason(&[("c", "t0", 0)]), Some("the group has no such member"));
    }
}
