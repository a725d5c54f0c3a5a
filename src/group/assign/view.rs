//! What an assignor is told: the members of a group, and how many partitions their topics have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::protocol::Subscription;
use crate::types::TopicPartition;

/// A member of a group, as an assignor sees it.
///
/// ```
/// use chiplog::group::assign::MemberView;
///
/// let member = MemberView::new("billing-1", ["orders", "refunds"]).instance_id("node-a");
/// assert!(member.topics.contains("refunds"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberView<'a> {
    /// Its id, by which the answer names it. No two members of a group have the same.
    pub id: &'a str,
    /// The name it keeps across restarts, if it is a static member (KIP-345).
    pub instance_id: Option<&'a str>,
    /// The topics it subscribes to. Some may not exist.
    pub topics: BTreeSet<&'a str>,
    /// The partitions it reads while the group is divided anew, if the assignor is cooperative.
    pub owned: BTreeSet<TopicPartition>,
    /// The generation of the group in which it was assigned them; `None` if it does not say.
    pub generation: Option<i32>,
    /// What its assignor added: [`Assignor::user_data`](super::Assignor::user_data).
    pub user_data: Option<&'a [u8]>,
    /// Where it runs, if it says so (KIP-881). A log is one node, so no assignor here asks.
    pub rack: Option<&'a str>,
}

impl<'a> MemberView<'a> {
    /// A member that subscribes to these topics, and owns nothing.
    pub fn new(id: &'a str, topics: impl IntoIterator<Item = &'a str>) -> Self {
        let topics = topics.into_iter().collect();
        let owned = BTreeSet::new();
        Self { id, instance_id: None, topics, owned, generation: None, user_data: None, rack: None }
    }

    /// A member as it described itself when it joined.
    #[must_use]
    pub fn from_subscription(id: &'a str, subscription: &'a Subscription) -> Self {
        Self {
            owned: subscription.owned.clone(),
            generation: subscription.generation,
            user_data: subscription.user_data.as_deref(),
            rack: subscription.rack.as_deref(),
            ..Self::new(id, subscription.topics.iter().map(|topic| &**topic))
        }
    }

    /// Makes it a static member of this name.
    #[must_use]
    pub fn instance_id(mut self, instance_id: &'a str) -> Self {
        self.instance_id = Some(instance_id);
        self
    }

    /// Sets what it owns, and the generation in which it was assigned that.
    #[must_use]
    pub fn owned(mut self, owned: impl IntoIterator<Item = TopicPartition>, generation: i32) -> Self {
        self.owned = owned.into_iter().collect();
        self.generation = Some(generation);
        self
    }

    /// Sets what its assignor added to the subscription.
    #[must_use]
    pub fn user_data(mut self, user_data: &'a [u8]) -> Self {
        self.user_data = Some(user_data);
        self
    }
}

/// A group as an assignor sees it: its members, and the topics to divide among them.
///
/// ```
/// use chiplog::group::assign::{GroupView, MemberView};
///
/// let members = [MemberView::new("a", ["orders"]), MemberView::new("z", ["orders", "gone"]).instance_id("node-a")];
/// let group = GroupView::new(members, [("orders", 2), ("unread", 8)]);
/// assert_eq!(group.members()[0].id, "z", "static members come first");
/// assert_eq!(group.partition_count("gone"), 0);
/// assert_eq!(group.topics().count(), 1, "nobody subscribes to `unread`");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupView<'a> {
    members: Vec<MemberView<'a>>,
    topics: BTreeMap<Arc<str>, u32>,
}

impl<'a> GroupView<'a> {
    /// A view of these members, in any order, and of the topics that exist, with the count of their partitions. Of members
    /// with the same id the first is taken.
    pub fn new<T: Into<Arc<str>>>(
        members: impl IntoIterator<Item = MemberView<'a>>,
        topics: impl IntoIterator<Item = (T, u32)>,
    ) -> Self {
        let mut members: Vec<_> = members.into_iter().collect();
        members.sort_by_key(|member| member.id);
        members.dedup_by_key(|member| member.id);
        members.sort_by_key(|member| (member.instance_id.is_none(), member.instance_id));
        let topics = topics.into_iter().map(|(topic, count)| (topic.into(), count));
        let is_read = |topic: &str| members.iter().any(|member| member.topics.contains(topic));
        let topics = topics.filter(|(topic, _)| is_read(topic)).collect();
        Self { members, topics }
    }

    /// The members in Kafka's order: static ones by their instance id, then the others by their id.
    #[must_use]
    pub fn members(&self) -> &[MemberView<'a>] {
        &self.members
    }

    /// The topics that exist and that a member subscribes to, by name, with the count of their partitions.
    pub fn topics(&self) -> impl Iterator<Item = (&Arc<str>, u32)> {
        self.topics.iter().map(|(topic, &count)| (topic, count))
    }

    /// How many partitions a topic has: none if it does not exist, or nobody subscribes to it.
    #[must_use]
    pub fn partition_count(&self, topic: &str) -> u32 {
        self.topics.get(topic).copied().unwrap_or(0)
    }

    /// All partitions to divide, by topic and number.
    pub fn partitions(&self) -> impl Iterator<Item = TopicPartition> {
        self.topics().flat_map(|(topic, count)| partitions(topic, count))
    }

    /// The partitions that a member may be given: all those of the topics it subscribes to, by topic and number.
    pub fn partitions_of(&self, member: &MemberView<'_>) -> impl Iterator<Item = TopicPartition> {
        let topics = member.topics.iter().filter_map(|topic| self.topics.get_key_value(*topic));
        topics.flat_map(|(topic, &count)| partitions(topic, count))
    }

    /// The members that subscribe to a topic, in the order of [`members`](Self::members).
    pub fn subscribers(&self, topic: &str) -> impl Iterator<Item = &MemberView<'a>> {
        self.members.iter().filter(move |member| member.topics.contains(topic))
    }
}

fn partitions(topic: &Arc<str>, count: u32) -> impl Iterator<Item = TopicPartition> {
    (0..count).map(|partition| TopicPartition { topic: Arc::clone(topic), partition })
}
