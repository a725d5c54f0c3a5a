//! Each topic by itself, in runs.

use std::sync::Arc;

use super::{Assignment, Assignor, GroupView};
use crate::types::TopicPartition;

/// Divides each topic by itself into one run of partitions for each member that subscribes to it. The first members, in
/// the order of [`GroupView::members`], get one more each if it does not come out even.
///
/// Topics with equally many partitions and the same subscribers are divided alike, so one member gets the partitions of
/// a number in all of them: a join by key stays in one member. With many topics of few partitions the first members get
/// much, the last nothing. Kafka: `RangeAssignor`; racks (KIP-881) have no meaning in a log, which is one node.
///
/// ```
/// use chiplog::Assignor;
/// use chiplog::group::assign::{GroupView, MemberView, Range};
///
/// let members = [MemberView::new("a", ["orders", "refunds"]), MemberView::new("b", ["orders", "refunds"])];
/// let assignment = Range.assign(&GroupView::new(members, [("orders", 3), ("refunds", 3)]));
/// let names: Vec<_> = assignment.of("a").iter().map(ToString::to_string).collect();
/// assert_eq!(names, ["orders-0", "orders-1", "refunds-0", "refunds-1"]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Range;

impl Assignor for Range {
    fn name(&self) -> &str {
        "range"
    }

    fn assign(&self, group: &GroupView<'_>) -> Assignment {
        let mut assignment = Assignment::default();
        for (topic, count) in group.topics() {
            let members: Vec<_> = group.subscribers(topic).collect();
            let member_count = members.len() as u64;
            // Run `n` begins where `n` members have had their part: the odd ones lie with the first.
            let start = |n: u64| {
                let (each, odd) = (u64::from(count) / member_count, u64::from(count) % member_count);
                (n * each + n.min(odd)) as u32
            };
            for (n, member) in (0..).zip(members) {
                for partition in start(n)..start(n + 1) {
                    assignment.give(member.id, TopicPartition { topic: Arc::clone(topic), partition });
                }
            }
        }
        assignment
    }
}
