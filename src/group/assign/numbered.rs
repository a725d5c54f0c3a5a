//! A group by numbers: what the sticky assignors reckon with, and what the members claim to own.

use std::sync::Arc;

use super::protocol::LastAssignment;
use super::{Assignment, GroupView, MemberView};
use crate::types::TopicPartition;

/// A group whose members, topics and partitions are numbered: members by id, topics by name, partitions through all
/// topics.
#[derive(Debug)]
pub(super) struct Numbered<'v> {
    pub(super) members: Vec<&'v MemberView<'v>>,
    pub(super) topics: Vec<Topic<'v>>,
    /// By partition.
    pub(super) topic_numbers: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct Topic<'v> {
    name: &'v Arc<str>,
    /// The number of its first partition.
    first: usize,
    partition_count: usize,
    /// Members, ascending: one or more.
    pub(super) subscribers: Vec<usize>,
}

impl Topic<'_> {
    pub(super) fn partitions(&self) -> std::ops::Range<usize> {
        self.first..self.first + self.partition_count
    }
}

impl<'v> Numbered<'v> {
    pub(super) fn new(group: &'v GroupView<'v>) -> Self {
        // Static ones, too: here Kafka knows them by their id only.
        let mut members: Vec<_> = group.members().iter().collect();
        members.sort_by_key(|member| member.id);
        let (mut topics, mut topic_numbers) = (Vec::new(), Vec::new());
        for (name, count) in group.topics() {
            let is_subscriber = |&number: &usize| members[number].topics.contains(&**name);
            let subscribers = (0..members.len()).filter(is_subscriber).collect();
            let topic = Topic { name, first: topic_numbers.len(), partition_count: count as usize, subscribers };
            topic_numbers.resize(topic.partitions().end, topics.len());
            topics.push(topic);
        }
        Self { members, topics, topic_numbers }
    }

    pub(super) fn partition_count(&self) -> usize {
        self.topic_numbers.len()
    }

    pub(super) fn topic_of(&self, partition: usize) -> &Topic<'v> {
        &self.topics[self.topic_numbers[partition]]
    }

    /// By the number within the topic first: the order in which a member gives up what is too much.
    pub(super) fn number_then_topic(&self, partition: usize) -> (usize, usize) {
        (partition - self.topic_of(partition).first, self.topic_numbers[partition])
    }

    pub(super) fn subscribes(&self, member: usize, partition: usize) -> bool {
        self.topic_of(partition).subscribers.binary_search(&member).is_ok()
    }

    /// Whether all members subscribe to all topics.
    pub(super) fn is_uniform(&self) -> bool {
        self.topics.iter().all(|topic| topic.subscribers.len() == self.members.len())
    }

    fn find(&self, partition: &TopicPartition) -> Option<usize> {
        let topic = self.topics.binary_search_by(|topic| topic.name.cmp(&partition.topic)).ok()?;
        self.topics[topic].partitions().nth(partition.partition as usize)
    }

    /// The answer in names, of the owner of each partition.
    pub(super) fn assignment(&self, owners: &[Option<usize>]) -> Assignment {
        let mut assignment = Assignment::default();
        for (partition, owner) in owners.iter().enumerate() {
            if let Some(owner) = owner {
                let topic = self.topic_of(partition);
                let number = (partition - topic.first) as u32;
                assignment.give(self.members[*owner].id, TopicPartition::new(Arc::clone(topic.name), number));
            }
        }
        assignment
    }
}

/// What members say they own, by partition. What does not exist any more is left out.
#[derive(Debug)]
pub(super) struct Claims {
    /// The only one to claim it in the newest generation in which it is claimed. None if it is not claimed, or by two:
    /// one of them is wrong, and nobody knows which.
    pub(super) owner: Vec<Option<usize>>,
    /// Whether anybody claims it, in any generation.
    pub(super) is_claimed: Vec<bool>,
    /// Who claims it in the last generation before the newest of the group: a member that missed a round.
    pub(super) former: Vec<Option<usize>>,
}

impl Claims {
    /// Takes what each member says it was assigned last, as `claim` finds it.
    pub(super) fn new(group: &Numbered<'_>, claim: impl Fn(&MemberView<'_>) -> LastAssignment) -> Self {
        let claims: Vec<_> = group.members.iter().map(|member| claim(member)).collect();
        let newest = claims.iter().map(generation).max().unwrap_or(NO_GENERATION);
        let none = vec![None; group.partition_count()];
        let mut found = Self { owner: none.clone(), is_claimed: vec![false; none.len()], former: none };
        let mut generations = vec![(NO_GENERATION, NO_GENERATION); group.partition_count()];
        for (member, claim) in claims.iter().enumerate() {
            let generation = generation(claim);
            for partition in claim.partitions.iter().filter_map(|partition| group.find(partition)) {
                let (of_owner, of_former) = &mut generations[partition];
                if !found.is_claimed[partition] || *of_owner < generation {
                    (found.owner[partition], *of_owner) = (Some(member), generation);
                } else if *of_owner == generation {
                    found.owner[partition] = None;
                }
                if generation < newest && (found.former[partition].is_none() || *of_former < generation) {
                    (found.former[partition], *of_former) = (Some(member), generation);
                }
                found.is_claimed[partition] = true;
            }
        }
        found
    }
}

fn generation(claim: &LastAssignment) -> i32 {
    claim.generation.unwrap_or(NO_GENERATION)
}

/// A member that does not tell its generation has the oldest.
const NO_GENERATION: i32 = -1;
