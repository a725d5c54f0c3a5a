//! The sticky division, in two rounds: nobody stops reading what stays with it.

use super::numbered::{Claims, Numbered};
use super::protocol::LastAssignment;
use super::{Assignment, Assignor, GroupView, MemberView, sticky};

/// Divides as [`Sticky`](super::Sticky) does, while the members go on reading (KIP-429).
///
/// A partition that moves is in nobody's part at first. Who has it sees that it is not in its part, gives it up, and joins
/// again; in that round it is free:
///
/// ```text
///            a owns   b owns    a gets   b gets
/// round 1    0 1 2    -         0 1      -        2 moves, and a may still read it
/// round 2    0 1      -         0 1      2
/// ```
///
/// If members subscribe to different topics, a third round may be needed: with what was withheld, another move may even
/// out.
///
/// A partition that two claim is withheld from both, unless one claims it in a newer generation: it stays with that one.
/// Kafka: `CooperativeStickyAssignor`. It gives such a partition at once if members subscribe to different topics.
///
/// ```
/// use chiplog::group::assign::{CooperativeSticky, GroupView, MemberView};
/// use chiplog::{Assignor, TopicPartition};
///
/// let owned = [0, 1, 2].map(|number| TopicPartition::new("orders", number));
/// let members = [MemberView::new("a", ["orders"]).owned(owned, 7), MemberView::new("b", ["orders"])];
/// let first = CooperativeSticky.assign(&GroupView::new(members, [("orders", 3)]));
/// assert_eq!((first.of("a").len(), first.of("b").len()), (2, 0));
///
/// let members = [MemberView::new("a", ["orders"]).owned(first.of("a").clone(), 8), MemberView::new("b", ["orders"])];
/// let second = CooperativeSticky.assign(&GroupView::new(members, [("orders", 3)]));
/// assert_eq!(second.of("a"), first.of("a"));
/// assert!(second.of("b").contains(&TopicPartition::new("orders", 2)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CooperativeSticky;

impl Assignor for CooperativeSticky {
    fn name(&self) -> &str {
        "cooperative-sticky"
    }

    fn is_cooperative(&self) -> bool {
        true
    }

    /// The generation, as 4 bytes, -1 for none: older members cannot tell it in their subscription.
    fn user_data(&self, last: &LastAssignment) -> Option<Vec<u8>> {
        Some(last.generation.unwrap_or(-1).to_be_bytes().to_vec())
    }

    fn assign(&self, group: &GroupView<'_>) -> Assignment {
        let group = Numbered::new(group);
        let claims = Claims::new(&group, claim);
        let mut owners = sticky::owners(&group, &claims);
        for (partition, owner) in owners.iter_mut().enumerate() {
            if claims.is_claimed[partition] && *owner != claims.owner[partition] {
                *owner = None;
            }
        }
        group.assignment(&owners)
    }
}

fn claim(member: &MemberView<'_>) -> LastAssignment {
    let in_user_data = || member.user_data?.first_chunk().map(|bytes| i32::from_be_bytes(*bytes));
    LastAssignment { partitions: member.owned.clone(), generation: member.generation.or_else(in_user_data) }
}
