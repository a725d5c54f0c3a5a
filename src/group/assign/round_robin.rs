//! All topics together, one partition at a time.

use std::sync::Arc;

use super::{Assignment, Assignor, GroupView};
use crate::types::TopicPartition;

/// Gives out the partitions of all topics one at a time, by topic and number, to the members in a circle, in the order of
/// [`GroupView::members`]. One that does not subscribe to the topic is passed over.
///
/// If all subscribe to the same topics, their counts differ by one at most. Kafka: `RoundRobinAssignor`.
///
/// ```
/// use chiplog::Assignor;
/// use chiplog::group::assign::{GroupView, MemberView, RoundRobin};
///
/// let members = [MemberView::new("a", ["orders", "refunds"]), MemberView::new("b", ["orders", "refunds"])];
/// let assignment = RoundRobin.assign(&GroupView::new(members, [("orders", 3), ("refunds", 3)]));
/// let names: Vec<_> = assignment.of("a").iter().map(ToString::to_string).collect();
/// assert_eq!(names, ["orders-0", "orders-2", "refunds-1"]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RoundRobin;

impl Assignor for RoundRobin {
    fn name(&self) -> &str {
        "roundrobin"
    }

    fn assign(&self, group: &GroupView<'_>) -> Assignment {
        let mut assignment = Assignment::default();
        let members = group.members();
        let mut circle = (0..members.len()).cycle();
        for (topic, count) in group.topics() {
            let subscribes: Vec<_> = members.iter().map(|member| member.topics.contains(&**topic)).collect();
            for partition in 0..count {
                // Ends: a topic of the view has a subscriber.
                if let Some(member) = circle.find(|&member| subscribes[member]) {
                    assignment.give(members[member].id, TopicPartition { topic: Arc::clone(topic), partition });
                }
            }
        }
        assignment
    }
}
