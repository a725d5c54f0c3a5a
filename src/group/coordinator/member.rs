//! One member of a group: what it supports, what it waits for, and until when it counts as alive.

use std::sync::Arc;
use std::time::Duration;

use super::request::{JoinGroup, MAX_TIMEOUT, Protocol, Token};
use crate::group::records::MemberValue;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// The lower, the longer it is a member.
    pub(super) seniority: u64,
    pub(super) instance_id: Option<Box<str>>,
    pub(super) client_id: Box<str>,
    pub(super) client_host: Box<str>,
    pub(super) rebalance_timeout: Duration,
    pub(super) session_timeout: Duration,
    pub(super) protocols: Vec<Protocol>,
    /// What the leader gave it in this generation.
    pub(super) assignment: Arc<[u8]>,
    /// Its join that waits for the others.
    pub(super) joining: Option<Token>,
    /// Its sync that waits for the leader.
    pub(super) syncing: Option<Token>,
    /// Whether it asked for its assignment in this generation.
    pub(super) has_synced: bool,
    /// Whether it has not been told its id as a member's yet, so that it cannot send heartbeats.
    pub(super) is_new: bool,
    /// When its session ends.
    pub(super) session_end: Duration,
}

impl Member {
    pub(super) fn new(join: JoinGroup, token: Token, seniority: u64, session_end: Duration) -> Self {
        Self {
            seniority,
            instance_id: join.instance_id,
            client_id: join.client_id,
            client_host: join.client_host,
            rebalance_timeout: join.rebalance_timeout,
            session_timeout: join.session_timeout,
            protocols: join.protocols,
            assignment: Arc::default(),
            joining: Some(token),
            syncing: None,
            has_synced: false,
            is_new: true,
            session_end,
        }
    }

    /// A member as it was stored, under the one protocol that is known of it. Its session is to be started.
    pub(super) fn from_value(value: &MemberValue, protocol: &str, seniority: u64) -> Self {
        Self {
            seniority,
            instance_id: value.instance_id.clone(),
            client_id: value.client_id.clone(),
            client_host: value.client_host.clone(),
            rebalance_timeout: from_ms(value.rebalance_timeout_ms),
            session_timeout: from_ms(value.session_timeout_ms),
            protocols: vec![Protocol { name: protocol.into(), metadata: Arc::clone(&value.subscription) }],
            assignment: Arc::clone(&value.assignment),
            joining: None,
            syncing: None,
            has_synced: true,
            is_new: false,
            session_end: Duration::MAX,
        }
    }

    pub(super) fn to_value(&self, id: &str, protocol: &str) -> MemberValue {
        MemberValue {
            id: id.into(),
            instance_id: self.instance_id.clone(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            rebalance_timeout_ms: to_ms(self.rebalance_timeout),
            session_timeout_ms: to_ms(self.session_timeout),
            subscription: self.metadata(protocol),
            assignment: Arc::clone(&self.assignment),
        }
    }

    /// Takes over what a member says that joins again.
    pub(super) fn update(&mut self, join: JoinGroup) {
        self.protocols = join.protocols;
        self.session_timeout = join.session_timeout;
        self.rebalance_timeout = join.rebalance_timeout;
    }

    /// Whether it says what it said before.
    pub(super) fn says(&self, protocols: &[Protocol]) -> bool {
        self.protocols == protocols
    }

    pub(super) fn supports(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|known| *known.name == *protocol)
    }

    /// What it says under a protocol; no bytes if it does not support it.
    pub(super) fn metadata(&self, protocol: &str) -> Arc<[u8]> {
        let known = self.protocols.iter().find(|known| *known.name == *protocol);
        known.map(|known| Arc::clone(&known.metadata)).unwrap_or_default()
    }

    /// Its session begins anew.
    pub(super) fn touch(&mut self, now: Duration) {
        self.session_end = now.saturating_add(self.session_timeout);
    }

    /// When it counts as dead. Who waits for an answer is alive, but for a new member: its client may be gone, and it cannot
    /// be asked.
    pub(super) fn due(&self) -> Option<Duration> {
        let waits = self.joining.is_some() || self.syncing.is_some();
        (self.is_new || !waits).then_some(self.session_end)
    }
}

fn from_ms(ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// What is longer than the stored form can hold was refused.
fn to_ms(time: Duration) -> i32 {
    i32::try_from(time.min(MAX_TIMEOUT).as_millis()).unwrap_or(i32::MAX)
}
