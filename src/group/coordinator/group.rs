//! One classic group: who is a member, in which phase it is, and what a member's request does to it.
//!
//! ```text
//!            join                    all joined                leader synced
//! Empty ------------> Preparing ------------------> Completing ------------> Stable
//!   ^                  |     ^                           |                      |
//!   +--- none left ----+     +-- join, leave, expiry ----+----------------------+
//! ```
//!
//! A method changes the group at once and says in [`Effects`] what is to be answered, and whether the change holds only
//! once it is stored. It does not know whether it will be: who calls it works on a copy then.
//!
//! Invariants:
//! - Without members there is no leader and no protocol; with members there is a leader, and it is one of them.
//! - At least one protocol is supported by all members, unless they were loaded from a log that says otherwise.
//! - A token is in one place, and leaves it with an answer.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use super::action::{Answer, Joined, JoinedMember, Synced};
use super::member::Member;
use super::request::{Caller, Generation, JoinGroup, LeavingMember, Now, Protocol, SyncGroup, Token};
use crate::config::GroupConfig;
use crate::error::GroupError;
use crate::group::records::GroupValue;
use crate::probe;
use crate::types::Timestamp;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) phase: Phase,
    pub(super) generation: Generation,
    /// Empty until somebody joined.
    pub(super) protocol_type: Box<str>,
    pub(super) protocol: Option<Box<str>>,
    pub(super) leader: Option<Box<str>>,
    pub(super) members: BTreeMap<Box<str>, Member>,
    /// The ids that were given out and not joined with, and when they are forgotten.
    pub(super) pending: BTreeMap<Box<str>, Duration>,
    /// Until when all members are to have synced; none once they have.
    pub(super) sync_deadline: Option<Duration>,
    pub(super) next_seniority: u64,
    /// Since when it is in this phase, as far as that is stored.
    pub(super) since: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Empty,
    /// The members are to join, until then; or, at first, whoever comes by then.
    Preparing {
        deadline: Duration,
        initial: Option<Initial>,
    },
    /// The leader is to assign.
    Completing,
    Stable,
}

/// The first rebalance of a group without members waits for more to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Initial {
    /// How long it can be prolonged still.
    pub(super) remaining: Duration,
    /// Whether one came since it was prolonged last.
    pub(super) has_new: bool,
}

pub(super) type Reply = (Token, Result<Answer, GroupError>);

/// What a change of a group leads to.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) replies: Vec<Reply>,
    /// Whether the change, and the replies, hold only once the group is stored.
    pub(super) store: bool,
}

/// What goes with a request, or with the time.
pub(super) struct Turn<'a> {
    pub(super) now: Now,
    pub(super) config: &'a GroupConfig,
    pub(super) effects: &'a mut Effects,
}

impl Turn<'_> {
    pub(super) fn reply(&mut self, token: Token, answer: Result<Answer, GroupError>) {
        self.effects.replies.push((token, answer));
    }

    /// Answers what waited, if it did.
    pub(super) fn refuse(&mut self, token: Option<Token>, error: GroupError) {
        if let Some(token) = token {
            self.reply(token, Err(error));
        }
    }
}

impl Default for Group {
    fn default() -> Self {
        Self {
            phase: Phase::Empty,
            generation: Generation(0),
            protocol_type: "".into(),
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            pending: BTreeMap::new(),
            sync_deadline: None,
            next_seniority: 0,
            since: Timestamp::NONE,
        }
    }
}

/// The stored form.
impl Group {
    pub(super) fn from_value(value: &GroupValue) -> Self {
        let protocol = value.protocol.as_deref().unwrap_or_default();
        let members: BTreeMap<_, _> = (0..)
            .zip(&value.members)
            .map(|(seniority, member)| (member.id.clone(), Member::from_value(member, protocol, seniority)))
            .collect();
        let oldest = || value.members.first().map(|member| member.id.clone());
        let leader = value.leader.clone().filter(|leader| members.contains_key(leader)).or_else(oldest);
        Self {
            phase: if members.is_empty() { Phase::Empty } else { Phase::Stable },
            generation: Generation(value.generation),
            protocol_type: value.protocol_type.clone(),
            protocol: value.protocol.clone().filter(|_| !members.is_empty()),
            leader,
            next_seniority: members.len() as u64,
            members,
            pending: BTreeMap::new(),
            sync_deadline: None,
            since: value.state_time,
        }
    }

    pub(super) fn to_value(&self) -> GroupValue {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        GroupValue {
            protocol_type: self.protocol_type.clone(),
            generation: self.generation.0,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_time: self.since,
            members: self.by_seniority().map(|(id, member)| member.to_value(id, protocol)).collect(),
        }
    }
}

/// Join.
impl Group {
    /// Lets a member join, or join again.
    pub(super) fn join(&mut self, token: Token, join: JoinGroup, turn: &mut Turn<'_>) -> Result<(), GroupError> {
        let instance = join.instance_id.as_deref().filter(|_| join.member_id.is_empty());
        let known = instance.and_then(|instance| self.static_member(instance)).map_or(&*join.member_id, |(id, _)| id);
        let known: Box<str> = known.into();
        self.make_room(&known, turn)?;
        self.check_protocols(&known, &join)?;
        if join.member_id.is_empty() {
            return self.join_new(token, join, &known, turn);
        }
        if join.instance_id.is_none() && self.pending.contains_key(&join.member_id) {
            let id = join.member_id.clone();
            self.add(id, token, join, turn);
            return Ok(());
        }
        self.check_member(&join.member_id, join.instance_id.as_deref())?;
        self.join_again(token, join, turn)
    }

    /// Refuses one member too many. While members join, those that did count: so those that come last are turned away,
    /// if there are too many already.
    fn make_room(&mut self, id: &str, turn: &mut Turn<'_>) -> Result<(), GroupError> {
        let most = turn.config.max_members as usize;
        let has_room = match self.phase {
            Phase::Empty => true,
            Phase::Preparing { .. } => self.waits_to_join(id) || self.joining_count() < most,
            Phase::Completing | Phase::Stable => self.members.contains_key(id) || self.members.len() < most,
        };
        if has_room {
            return Ok(());
        }
        self.pending.remove(id);
        self.remove(id, turn);
        self.complete_if_all_joined(turn);
        Err(GroupError::GroupMaxSizeReached)
    }

    /// The type must be that of the group, and a protocol be supported by all others.
    fn check_protocols(&self, id: &str, join: &JoinGroup) -> Result<(), GroupError> {
        let is_type = self.phase == Phase::Empty || self.protocol_type == join.protocol_type;
        let mut others = self.members.iter().filter(|(other, _)| ***other != *id).map(|(_, member)| member);
        let fits = |protocol: &Protocol| others.clone().all(|member| member.supports(&protocol.name));
        if join.protocol_type.is_empty() || !is_type || !join.protocols.iter().any(fits) {
            return Err(GroupError::InconsistentGroupProtocol);
        }
        debug_assert!(self.phase != Phase::Empty || others.next().is_none());
        Ok(())
    }

    /// One without an id: it gets one. `known` is the id of the static member whose place it takes.
    fn join_new(
        &mut self,
        token: Token,
        join: JoinGroup,
        known: &str,
        turn: &mut Turn<'_>,
    ) -> Result<(), GroupError> {
        let prefix = join.instance_id.as_deref().unwrap_or(&join.client_id);
        let id: Box<str> = format!("{prefix}-{}", uuid_text(join.uuid)).into();
        if self.members.contains_key(&id) || self.pending.contains_key(&id) {
            // The caller drew a number twice. Another one may do.
            return Err(GroupError::CoordinatorNotAvailable);
        }
        if !known.is_empty() {
            self.replace(known, id, token, join, turn);
        } else if join.instance_id.is_none() && join.needs_member_id {
            self.pending.insert(id.clone(), turn.now.monotonic.saturating_add(join.session_timeout));
            turn.reply(token, Ok(Answer::MemberIdRequired { member_id: id }));
        } else {
            self.add(id, token, join, turn);
        }
        Ok(())
    }

    fn add(&mut self, id: Box<str>, token: Token, join: JoinGroup, turn: &mut Turn<'_>) {
        self.pending.remove(&id);
        if let Phase::Preparing { initial: Some(initial), .. } = &mut self.phase {
            initial.has_new = true;
        }
        if self.members.is_empty() {
            self.protocol_type = join.protocol_type.clone();
        }
        let session_end = turn.now.monotonic.saturating_add(NEW_MEMBER_JOIN_TIMEOUT);
        let member = Member::new(join, token, self.next_seniority, session_end);
        self.next_seniority += 1;
        self.leader.get_or_insert_with(|| id.clone());
        self.members.insert(id, member);
        self.rebalance(turn);
    }

    /// A static member that came back takes the place of what it was, which is fenced from now on (KIP-345).
    fn replace(&mut self, old: &str, id: Box<str>, token: Token, join: JoinGroup, turn: &mut Turn<'_>) {
        let Some(mut member) = self.members.remove(old) else { return };
        turn.refuse(member.joining.take(), GroupError::FencedInstanceId);
        turn.refuse(member.syncing.take(), GroupError::FencedInstanceId);
        if probe::planted("group.replaced_member_kept") {
            self.members.insert(old.into(), member.clone());
        }
        member.joining = Some(token);
        member.is_new = false;
        (member.client_id, member.client_host) = (join.client_id.clone(), join.client_host.clone());
        let can_skip = join.can_skip_assignment;
        member.update(join);
        member.touch(turn.now.monotonic);
        let was_leader = self.leader.as_deref() == Some(old);
        if was_leader {
            self.leader = Some(id.clone());
        }
        self.members.insert(id.clone(), member);
        if self.phase != Phase::Stable || self.select_protocol() != self.protocol {
            self.rebalance(turn);
            return;
        }
        // Nobody else need know: the assignment stays, under the new id.
        turn.effects.store = true;
        let Some(member) = self.members.get_mut(&id) else { return };
        member.joining = None;
        let skip_assignment = was_leader && can_skip;
        let mut joined = Joined { skip_assignment, ..self.joined(&id, skip_assignment) };
        if was_leader && !can_skip {
            // It would assign anew, and nobody asked for that: it is not told that it leads.
            joined.leader = old.into();
        }
        turn.reply(token, Ok(Answer::Joined(joined)));
    }

    /// A member that is known.
    fn join_again(&mut self, token: Token, join: JoinGroup, turn: &mut Turn<'_>) -> Result<(), GroupError> {
        let id = join.member_id.clone();
        let leads = self.leader.as_deref() == Some(&*id);
        let member = self.members.get_mut(&id).ok_or(GroupError::UnknownMemberId)?;
        let is_answered = match self.phase {
            Phase::Empty => return Err(GroupError::UnknownMemberId),
            Phase::Preparing { .. } => false,
            // The answer to its join may have been lost.
            Phase::Completing => member.says(&join.protocols),
            // A leader may know of something that the others do not: more partitions, say.
            Phase::Stable => !leads && member.says(&join.protocols),
        };
        if is_answered {
            let lists = leads && self.phase == Phase::Completing;
            turn.reply(token, Ok(Answer::Joined(self.joined(&id, lists))));
            return Ok(());
        }
        member.update(join);
        let superseded = member.joining.replace(token);
        turn.refuse(superseded, GroupError::RebalanceInProgress);
        self.rebalance(turn);
        Ok(())
    }

    /// What a member is told of the group.
    pub(super) fn joined(&self, id: &str, lists_members: bool) -> Joined {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let listed = self.by_seniority().filter(|_| lists_members);
        Joined {
            member_id: id.into(),
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: protocol.into(),
            leader: self.leader.clone().unwrap_or_default(),
            members: listed
                .map(|(id, member)| JoinedMember {
                    member_id: id.into(),
                    instance_id: member.instance_id.clone(),
                    metadata: member.metadata(protocol),
                })
                .collect(),
            skip_assignment: false,
        }
    }
}

/// Sync, heartbeat, leave.
impl Group {
    /// Tells a member what it was assigned, now or later. What the leader assigned holds once it is stored.
    pub(super) fn sync(&mut self, token: Token, sync: SyncGroup, turn: &mut Turn<'_>) -> Result<(), GroupError> {
        self.check_caller(&sync.caller)?;
        let differs = |told: Option<&str>, known: &str| told.is_some_and(|told| told != known);
        if differs(sync.protocol_type.as_deref(), &self.protocol_type)
            || differs(sync.protocol.as_deref(), self.protocol.as_deref().unwrap_or_default())
        {
            return Err(GroupError::InconsistentGroupProtocol);
        }
        let leads = self.leads(&sync.caller.member_id);
        let member = self.members.get_mut(&sync.caller.member_id).ok_or(GroupError::UnknownMemberId)?;
        match self.phase {
            Phase::Empty => return Err(GroupError::UnknownMemberId),
            Phase::Preparing { .. } => return Err(GroupError::RebalanceInProgress),
            Phase::Completing => {
                let superseded = member.syncing.replace(token);
                turn.refuse(superseded, GroupError::RebalanceInProgress);
            }
            Phase::Stable => {
                member.touch(turn.now.monotonic);
                let assignment = Arc::clone(&member.assignment);
                turn.reply(token, Ok(self.synced(assignment)));
            }
        }
        if let Some(member) = self.members.get_mut(&sync.caller.member_id) {
            member.has_synced = true;
        }
        if self.members.values().all(|member| member.has_synced) {
            self.sync_deadline = None;
        }
        if leads && self.phase == Phase::Completing {
            self.assign(sync.assignments, turn);
        }
        Ok(())
    }

    fn assign(&mut self, assignments: Vec<(Box<str>, Arc<[u8]>)>, turn: &mut Turn<'_>) {
        let mut assignments: BTreeMap<_, _> = assignments.into_iter().collect();
        self.phase = Phase::Stable;
        self.since = turn.now.wall;
        turn.effects.store = !probe::planted("group.assignment_not_stored");
        let mut waiting = Vec::new();
        for (id, member) in &mut self.members {
            member.assignment = assignments.remove(id).unwrap_or_default();
            if let Some(token) = member.syncing.take() {
                member.touch(turn.now.monotonic);
                waiting.push((token, Arc::clone(&member.assignment)));
            }
        }
        for (token, assignment) in waiting {
            turn.reply(token, Ok(self.synced(assignment)));
        }
    }

    fn synced(&self, assignment: Arc<[u8]>) -> Answer {
        Answer::Synced(Synced {
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone().unwrap_or_default(),
            assignment,
        })
    }

    /// Keeps a member alive; tells it to join again if the others do.
    pub(super) fn heartbeat(&mut self, caller: &Caller, now: Now) -> Result<(), GroupError> {
        self.check_caller(caller)?;
        self.touch(&caller.member_id, now);
        match self.phase {
            Phase::Empty => Err(GroupError::UnknownMemberId),
            Phase::Preparing { .. } => Err(GroupError::RebalanceInProgress),
            Phase::Completing | Phase::Stable => Ok(()),
        }
    }

    pub(super) fn touch(&mut self, id: &str, now: Now) {
        if let Some(member) = self.members.get_mut(id)
            && !probe::planted("group.heartbeat_ignored")
        {
            member.touch(now.monotonic);
        }
    }

    /// Removes members, of which each is told whether it left.
    pub(super) fn leave(&mut self, leaving: &[LeavingMember], turn: &mut Turn<'_>) -> Vec<Result<(), GroupError>> {
        let count = self.members.len();
        let left = leaving.iter().map(|leaving| self.leave_one(leaving, turn)).collect();
        self.members_went(self.members.len() < count, turn);
        left
    }

    fn leave_one(&mut self, leaving: &LeavingMember, turn: &mut Turn<'_>) -> Result<(), GroupError> {
        let instance = leaving.instance_id.as_deref();
        let id: Box<str> = if leaving.member_id.is_empty() {
            let (id, _) = instance.and_then(|id| self.static_member(id)).ok_or(GroupError::UnknownMemberId)?;
            id.into()
        } else if self.pending.remove(&leaving.member_id).is_some() {
            return Ok(());
        } else {
            self.check_member(&leaving.member_id, instance)?;
            leaving.member_id.clone()
        };
        self.remove(&id, turn);
        Ok(())
    }
}

/// What the rules above share.
impl Group {
    /// Whether the caller is a member, of this generation.
    pub(super) fn check_caller(&self, caller: &Caller) -> Result<(), GroupError> {
        self.check_member(&caller.member_id, caller.instance_id.as_deref())?;
        if caller.generation != self.generation && !probe::planted("group.old_generation_accepted") {
            return Err(GroupError::IllegalGeneration);
        }
        Ok(())
    }

    /// Whether the id is a member's, and the instance id that member's.
    fn check_member(&self, id: &str, instance: Option<&str>) -> Result<(), GroupError> {
        let member = self.members.get(id);
        let Some(instance) = instance else {
            return member.map(drop).ok_or(GroupError::UnknownMemberId);
        };
        if member.is_some_and(|member| member.instance_id.as_deref() == Some(instance)) {
            return Ok(());
        }
        match self.static_member(instance) {
            Some(_) => Err(GroupError::FencedInstanceId),
            None => Err(GroupError::UnknownMemberId),
        }
    }

    pub(super) fn static_member(&self, instance: &str) -> Option<(&str, &Member)> {
        let mut members = self.members.iter();
        let found = members.find(|(_, member)| member.instance_id.as_deref() == Some(instance));
        found.map(|(id, member)| (&**id, member))
    }

    pub(super) fn leads(&self, id: &str) -> bool {
        self.leader.as_deref() == Some(id)
    }

    pub(super) fn waits_to_join(&self, id: &str) -> bool {
        self.members.get(id).is_some_and(|member| member.joining.is_some())
    }

    pub(super) fn joining_count(&self) -> usize {
        self.members.values().filter(|member| member.joining.is_some()).count()
    }

    /// The oldest first.
    pub(super) fn by_seniority(&self) -> impl Iterator<Item = (&str, &Member)> {
        let mut members: Vec<_> = self.members.iter().map(|(id, member)| (&**id, member)).collect();
        members.sort_by_key(|(_, member)| member.seniority);
        members.into_iter()
    }

    /// Removes a member, if it is one. What it waited for is answered: if it is there still, it joins again.
    pub(super) fn remove(&mut self, id: &str, turn: &mut Turn<'_>) {
        let Some(member) = self.members.remove(id) else { return };
        turn.refuse(member.joining, GroupError::UnknownMemberId);
        turn.refuse(member.syncing, GroupError::UnknownMemberId);
        if self.leads(id) {
            let oldest = self.by_seniority().next().map(|(id, _)| id.into());
            self.leader = oldest;
        }
    }

    /// Answers all that waits.
    pub(super) fn refuse_all(&mut self, error: GroupError, replies: &mut Vec<Reply>) {
        let tokens = self.members.values_mut().flat_map(|member| [member.joining.take(), member.syncing.take()]);
        replies.extend(tokens.flatten().map(|token| (token, Err(error))));
    }

    /// Lets the time stand still that passed while nobody could be heard.
    pub(super) fn shift(&mut self, by: Duration) {
        let later = |time: &mut Duration| *time = time.saturating_add(by);
        self.members.values_mut().for_each(|member| later(&mut member.session_end));
        self.pending.values_mut().for_each(later);
        self.sync_deadline.iter_mut().for_each(later);
        if let Phase::Preparing { deadline, .. } = &mut self.phase {
            later(deadline);
        }
    }

    /// Takes what is there, and leaves an empty group.
    pub(super) fn take(&mut self) -> Self {
        mem::take(self)
    }
}

fn uuid_text(uuid: u128) -> String {
    let text = format!("{uuid:032x}");
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

/// How long a new member's join waits before it is answered, and its client asks again if it is there still. Kafka's, too:
/// its consumers wait so long for an answer at most.
const NEW_MEMBER_JOIN_TIMEOUT: Duration = Duration::from_secs(5 * 60);
