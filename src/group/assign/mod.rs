//! Who of a consumer group reads which partition.
//!
//! One member decides for all, the leader of the group. It is told what every member said as it joined, gives that to
//! the group's [`Assignor`], and every member gets its part of the answer:
//!
//! ```text
//! Subscription of each member --> GroupView --> Assignor::assign --> Assignment --> MemberAssignment of each member
//! (bytes, by protocol)                                                             (bytes, by protocol)
//! ```
//!
//! | Assignor | Name in the group | How it divides | When members come and go |
//! |---|---|---|---|
//! | [`Range`] | `range` | each topic by itself, in runs: partitions of one number go together | all may move |
//! | [`RoundRobin`] | `roundrobin` | all topics together, one partition at a time | all may move |
//! | [`Sticky`] | `sticky` | as evenly as can be | few move; nobody reads meanwhile (KIP-54) |
//! | [`CooperativeSticky`] | `cooperative-sticky` | the same | few move, the rest is read on; a second round gives those that move (KIP-429) |
//!
//! The names and the bytes in [`protocol`] are Kafka's, and so are the answers, but where members subscribe to different
//! topics and Kafka's hash of a name would decide, or a partition would have two readers. An answer depends on nothing
//! but the view: not on the order in which members are given, not on the leader.
//!
//! # An assignor of your own
//!
//! ```
//! use chiplog::Assignor;
//! use chiplog::group::assign::{Assignment, GroupView, MemberView};
//!
//! /// One member reads everything, the others stand by.
//! struct FirstTakesAll;
//!
//! impl Assignor for FirstTakesAll {
//!     fn name(&self) -> &str {
//!         "first-takes-all"
//!     }
//!
//!     fn assign(&self, group: &GroupView<'_>) -> Assignment {
//!         let mut assignment = Assignment::default();
//!         if let Some(first) = group.members().first() {
//!             group.partitions_of(first).for_each(|partition| assignment.give(first.id, partition));
//!         }
//!         assignment
//!     }
//! }
//!
//! let members = [MemberView::new("b", ["orders"]), MemberView::new("a", ["orders"])];
//! let group = GroupView::new(members, [("orders", 3)]);
//! let assignment = FirstTakesAll.assign(&group);
//! assert_eq!(assignment.of("a").len(), 3);
//! assert!(assignment.of("b").is_empty());
//! assignment.check(&group)?; // what an assignor may not do: give a partition twice, say
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod answer;
mod balance;
mod cooperative;
mod numbered;
pub mod protocol;
mod range;
mod round_robin;
mod sticky;
mod view;

pub use answer::{Assignment, InvalidAssignment};
pub use cooperative::CooperativeSticky;
pub use range::Range;
pub use round_robin::RoundRobin;
pub use sticky::Sticky;
pub use view::{GroupView, MemberView};

use protocol::LastAssignment;

/// Decides who of a consumer group reads which partition.
///
/// [`group::assign`](self) has those of Kafka, and an example of one's own. All members of a group use assignors of the
/// same name; any of them may be the one that is asked.
pub trait Assignor: Send + Sync {
    /// The name that members announce it by: a group takes one that all its members have.
    fn name(&self) -> &str;

    /// Whether members go on reading while the group is divided anew, and give up only what their assignment leaves out
    /// (KIP-429). If so, [`assign`](Self::assign) must give nobody a partition that another member still owns: it is left
    /// out, its owner gives it up, and the members join again.
    ///
    /// Default: `false`. Members give up everything before they join.
    fn is_cooperative(&self) -> bool {
        false
    }

    /// What a member adds to its subscription, for this assignor at the leader to read as
    /// [`MemberView::user_data`]: made of what the member was assigned last, the default if it was not yet.
    ///
    /// Default: nothing.
    fn user_data(&self, last: &LastAssignment) -> Option<Vec<u8>> {
        let _ = last;
        None
    }

    /// Divides the partitions of [`group.topics()`](GroupView::topics) among the members.
    ///
    /// A partition goes to one member at most, which subscribes to its topic; [`Assignment::check`] tells. One that goes
    /// to nobody is not read. The answer must depend on the view alone: any member may be asked, and asked again.
    fn assign(&self, group: &GroupView<'_>) -> Assignment;
}

#[cfg(test)]
mod tests;
