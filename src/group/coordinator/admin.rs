//! What is told of groups.

use std::sync::Arc;

use super::action::{Answer, DescribedGroup, DescribedMember, GroupState, ListedGroup};
use super::group::Phase;
use super::request::{Generation, LeaveGroup, LeavingMember, ListGroups, Token};
use super::{Coordinator, Wait};
use crate::error::GroupError;

impl Coordinator {
    /// The members of each group that joined from this host.
    pub(crate) fn members_of_host(&self, host: &str) -> Vec<LeaveGroup> {
        let leaving = self.groups.iter().map(|(name, entry)| {
            let members = entry.group.members.iter().filter(|(_, member)| *member.client_host == *host);
            let leaving = |id: &str| LeavingMember { member_id: id.into(), instance_id: None };
            LeaveGroup { group: name.clone(), members: members.map(|(id, _)| leaving(id)).collect() }
        });
        leaving.filter(|leave| !leave.members.is_empty()).collect()
    }

    pub(super) fn list(&mut self, token: Token, list: &ListGroups) {
        let listed = self.groups().map(|name| ListedGroup {
            group: name.into(),
            protocol_type: self.groups.get(name).map(|entry| entry.group.protocol_type.clone()).unwrap_or_default(),
            state: self.state(name),
        });
        let is_asked_for = |group: &ListedGroup| {
            list.states.is_empty() || group.state.is_some_and(|state| list.states.contains(&state))
        };
        let groups = listed.filter(is_asked_for).collect();
        self.reply(token, Ok(Answer::Groups(groups)));
    }

    /// The state of a group; none of one that is not understood.
    pub(super) fn state(&self, name: &str) -> Option<GroupState> {
        if self.is_foreign(name) {
            return None;
        }
        let Some(entry) = self.groups.get(name) else { return Some(GroupState::Empty) };
        Some(match entry.group.phase {
            _ if entry.wait == Wait::Deletion => GroupState::Dead,
            Phase::Empty => GroupState::Empty,
            Phase::Preparing { .. } => GroupState::PreparingRebalance,
            Phase::Completing => GroupState::CompletingRebalance,
            Phase::Stable => GroupState::Stable,
        })
    }

    pub(super) fn describe(&mut self, token: Token, name: &str) {
        if !self.is_known(name) {
            return self.reply(token, Err(GroupError::GroupIdNotFound));
        }
        let mut described = DescribedGroup {
            group: name.into(),
            state: self.state(name),
            generation: Generation(0),
            protocol_type: "".into(),
            protocol: "".into(),
            members: Vec::new(),
        };
        if let Some(group) = self.groups.get(name).map(|entry| &entry.group) {
            // Until all is settled, a protocol is not chosen, and what a member has it may have given up.
            let is_stable = group.phase == Phase::Stable;
            let protocol = group.protocol.as_deref().filter(|_| is_stable);
            let bytes = |bytes: Arc<[u8]>| if is_stable { bytes } else { Arc::default() };
            described.generation = group.generation;
            described.protocol_type = group.protocol_type.clone();
            described.protocol = protocol.unwrap_or_default().into();
            let members = group.by_seniority().map(|(id, member)| DescribedMember {
                member_id: id.into(),
                instance_id: member.instance_id.clone(),
                client_id: member.client_id.clone(),
                client_host: member.client_host.clone(),
                metadata: bytes(member.metadata(protocol.unwrap_or_default())),
                assignment: bytes(Arc::clone(&member.assignment)),
            });
            described.members = members.collect();
        }
        self.reply(token, Ok(Answer::Described(described)));
    }
}
