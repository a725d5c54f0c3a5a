//! As evenly as can be, and with as few moves as that takes.

use std::collections::VecDeque;

use super::balance::balanced;
use super::numbered::{Claims, Numbered};
use super::protocol::LastAssignment;
use super::{Assignment, Assignor, GroupView, MemberView};

/// Divides all partitions as evenly as can be, and leaves each where it was, as far as that allows (KIP-54).
///
/// If all members subscribe to the same topics, their counts differ by one at most, and no more partitions move than that
/// takes. Else no member has two more than another that could have one of them.
///
/// Of two that claim a partition, the one of the newer generation is believed. Of two of the same generation nobody is.
/// What a member had comes with its [`user_data`](Assignor::user_data), since it gave up everything before it joined; if
/// there is none, [`owned`](super::MemberView::owned) counts. Kafka: `StickyAssignor`, which knows user data only.
///
/// ```
/// use chiplog::group::assign::{GroupView, MemberView, Sticky};
/// use chiplog::{Assignor, TopicPartition};
///
/// let owned = |numbers: [u32; 2]| numbers.map(|number| TopicPartition::new("orders", number));
/// // There was a third member, with 0 and 3.
/// let members = [
///     MemberView::new("a", ["orders"]).owned(owned([1, 4]), 7),
///     MemberView::new("b", ["orders"]).owned(owned([2, 5]), 7),
/// ];
/// let assignment = Sticky.assign(&GroupView::new(members, [("orders", 6)]));
/// let names: Vec<_> = assignment.of("a").iter().map(ToString::to_string).collect();
/// assert_eq!(names, ["orders-0", "orders-1", "orders-4"]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sticky;

impl Assignor for Sticky {
    fn name(&self) -> &str {
        "sticky"
    }

    /// What the member was assigned last, if it was; nothing if that cannot be encoded.
    fn user_data(&self, last: &LastAssignment) -> Option<Vec<u8>> {
        if *last == LastAssignment::default() { None } else { last.encode().ok() }
    }

    fn assign(&self, group: &GroupView<'_>) -> Assignment {
        let group = Numbered::new(group);
        let claims = Claims::new(&group, claim);
        group.assignment(&owners(&group, &claims))
    }
}

fn claim(member: &MemberView<'_>) -> LastAssignment {
    match member.user_data {
        // As in Kafka, a member that cannot be understood had nothing.
        Some(data) if !data.is_empty() => LastAssignment::decode(data).unwrap_or_default(),
        _ => LastAssignment { partitions: member.owned.clone(), generation: member.generation },
    }
}

/// The member that each partition is best with.
pub(super) fn owners(group: &Numbered<'_>, claims: &Claims) -> Vec<Option<usize>> {
    if group.is_uniform() { uniform(group, claims) } else { balanced(group, claims) }
}

/// All subscribe to the same topics, so all get `fewest`, and some, as many as are left over, one more.
///
/// A member keeps what it claims up to that. What nobody keeps goes round, by topic and number: first among those below
/// `fewest`, by id, then one each to those that have `fewest`.
fn uniform(group: &Numbered<'_>, claims: &Claims) -> Vec<Option<usize>> {
    let Some(fewest) = group.partition_count().checked_div(group.members.len()) else { return Vec::new() };
    let mut left_over = group.partition_count() % group.members.len();
    let mut owners = vec![None; group.partition_count()];
    let mut kept_count = vec![0; group.members.len()];
    let (mut below, mut at_fewest) = (VecDeque::new(), VecDeque::new());
    for (member, mut owned) in claimed_by_member(group, claims).into_iter().enumerate() {
        owned.sort_by_key(|&partition| group.number_then_topic(partition));
        if owned.len() > fewest && left_over > 0 {
            left_over -= 1;
            owned.truncate(fewest + 1);
        } else {
            owned.truncate(fewest);
            if owned.len() < fewest { below.push_back(member) } else { at_fewest.push_back(member) }
        }
        kept_count[member] = owned.len();
        owned.iter().for_each(|&partition| owners[partition] = Some(member));
    }
    for owner in owners.iter_mut().filter(|owner| owner.is_none()) {
        if let Some(member) = below.pop_front() {
            kept_count[member] += 1;
            let next = if kept_count[member] < fewest { &mut below } else { &mut at_fewest };
            next.push_back(member);
            *owner = Some(member);
        } else {
            *owner = at_fewest.pop_front();
        }
    }
    owners
}

fn claimed_by_member(group: &Numbered<'_>, claims: &Claims) -> Vec<Vec<usize>> {
    let mut owned = vec![Vec::new(); group.members.len()];
    for (partition, owner) in claims.owner.iter().enumerate() {
        if let Some(owner) = owner {
            owned[*owner].push(partition);
        }
    }
    owned
}
