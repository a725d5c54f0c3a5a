//! The division for members that subscribe to different topics: partitions move, one at a time, while that evens out.
//!
//! ```text
//! kept by who claims it --> the rest to the least loaded --> moved, one after the other, until no move evens out
//! ```
//!
//! A move is from a member to one that has at least two less, so each makes the sum of the squares of their counts
//! smaller: it ends, and what it ends in is no worse balanced than what it began with. (Kafka compares the two,
//! and never finds that it has to go back.) Partitions of which nobody was the owner move first.

use std::collections::{BTreeMap, BTreeSet};

use super::numbered::{Claims, Numbered, Topic};

/// The member that each partition is best with: a local best, since moves are single.
pub(super) fn balanced(group: &Numbered<'_>, claims: &Claims) -> Vec<Option<usize>> {
    let mut topics: Vec<_> = group.topics.iter().collect();
    // The fewer may have it, the earlier it is given. Those of the same count stay in the order of their names.
    topics.sort_by_key(|topic| topic.subscribers.len());

    let may_keep = |(partition, owner): (usize, &Option<usize>)| owner.filter(|&it| group.subscribes(it, partition));
    let mut owners: Vec<_> = claims.owner.iter().enumerate().map(may_keep).collect();
    let is_revoked = owners.iter().zip(&claims.owner).any(|(kept, claimed)| kept != claimed);
    let mut counts = vec![0; group.members.len()];
    owners.iter().flatten().for_each(|&owner| counts[owner] += 1);
    let mut fresh = Vec::new();
    for topic in &topics {
        for partition in topic.partitions() {
            if owners[partition].is_none() {
                let least = least_loaded(topic, &counts);
                owners[partition] = Some(least);
                counts[least] += 1;
                fresh.push(partition);
            }
        }
    }

    let mut balance = Balance::new(group, claims, owners.into_iter().flatten().collect(), counts);
    let is_shared = |partition: &usize| group.topic_of(*partition).subscribers.len() > 1;
    if !is_revoked {
        fresh.retain(is_shared);
        balance.even_out(&fresh);
    }
    let all: Vec<_> = topics.iter().flat_map(|topic| topic.partitions()).filter(is_shared).collect();
    balance.even_out(&all);
    balance.owners.into_iter().map(Some).collect()
}

/// The subscriber with the fewest partitions; of those with equally many the first.
fn least_loaded(topic: &Topic<'_>, counts: &[usize]) -> usize {
    let least = topic.subscribers.iter().copied().min_by_key(|&member| counts[member]);
    debug_assert!(least.is_some(), "a topic of a group has a subscriber");
    least.unwrap_or(0)
}

struct Balance<'g, 'v> {
    group: &'g Numbered<'v>,
    claims: &'g Claims,
    /// By partition.
    owners: Vec<usize>,
    /// By partition: the owner before the first move.
    origins: Vec<usize>,
    /// By member.
    counts: Vec<usize>,
    moved: Moved,
}

/// The partitions that are not with their first owner: by topic, first owner, owner.
type Moved = BTreeMap<(usize, usize, usize), BTreeSet<usize>>;

impl<'g, 'v> Balance<'g, 'v> {
    fn new(group: &'g Numbered<'v>, claims: &'g Claims, owners: Vec<usize>, counts: Vec<usize>) -> Self {
        Self { group, claims, origins: owners.clone(), owners, counts, moved: Moved::new() }
    }

    /// Moves these partitions while a move evens out.
    fn even_out(&mut self, partitions: &[usize]) {
        loop {
            let mut is_moved = false;
            for &partition in partitions {
                if let Some(to) = self.better(partition) {
                    self.relocate(partition, to);
                    is_moved = true;
                }
            }
            if !is_moved {
                return;
            }
        }
    }

    /// A member that should have the partition: its former owner, or the least loaded.
    fn better(&self, partition: usize) -> Option<usize> {
        let former = self.claims.former[partition].filter(|&former| self.group.subscribes(former, partition));
        let has_less = |member: &usize| self.counts[*member] + 1 < self.counts[self.owners[partition]];
        let least = || Some(least_loaded(self.group.topic_of(partition), &self.counts));
        former.filter(has_less).or_else(least).filter(has_less)
    }

    /// Moves the partition, or in its place one of the same topic that came from there: it goes back, and one less moves
    /// in the end. (If the partition moved before, Kafka looks for one at its first owner, though nobody asked whether that
    /// one has too many.)
    fn relocate(&mut self, partition: usize, to: usize) {
        let (topic, from) = (self.group.topic_numbers[partition], self.owners[partition]);
        let back = self.moved.get(&(topic, to, from)).and_then(|partitions| partitions.first().copied());
        let partition = back.unwrap_or(partition);
        let origin = self.origins[partition];
        if let Some(partitions) = self.moved.get_mut(&(topic, origin, from)) {
            partitions.remove(&partition);
        }
        if origin != to {
            self.moved.entry((topic, origin, to)).or_default().insert(partition);
        }
        self.owners[partition] = to;
        self.counts[from] -= 1;
        self.counts[to] += 1;
    }
}
