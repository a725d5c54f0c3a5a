//! Entries for the fuzzer: whatever the bytes, nothing panics, and what is accepted means the same when written again.

use std::sync::Arc;
use std::time::Duration;

use crate::checksum::crc32;
use crate::config::TopicConfig;
use crate::group::assign::protocol::{LastAssignment, MemberAssignment, Subscription, Version};
use crate::group::assign::{Assignor, CooperativeSticky, GroupView, MemberView, Range, RoundRobin, Sticky};
use crate::group::share::{MAX_OPEN, ShareKey, ShareLimits, SharePartition, ShareState};
use crate::group::world::World;
use crate::group::{GroupValue, Key, LogRecord, OffsetValue, Offsets, offset_key};
use crate::log::Catalog;
use crate::txn::{Coordinator, Key as TxnKey, Open, State, Verdict};
use crate::types::{Offset, ProducerEpoch, ProducerId, Timestamp, TopicId};

/// Reads `bytes` as a catalog: once as they are, once with the checksum that they lack.
pub fn catalog(bytes: &[u8]) {
    let sealed = [bytes, format!("crc32 {:08x}\n", crc32(bytes)).as_bytes()].concat();
    for text in [bytes, &sealed] {
        if let Ok(catalog) = Catalog::parse(text) {
            let again = Catalog::parse(catalog.to_text().as_bytes());
            assert_eq!(again, Ok(catalog));
        }
    }
}

/// Takes `bytes` for what happens to a group, its members and its log: no invariant breaks. Once more they are values of
/// its record, which the coordinator reads or does not.
pub fn group_coordinator(bytes: &[u8]) {
    assert_eq!(World::run(bytes), Ok(()));
    if let Ok(group) = GroupValue::decode(bytes) {
        assert_eq!(group.encode().as_deref().map(GroupValue::decode), Some(Ok(group)));
    }
}

/// Reads `bytes` as the key of what is known of a queue, and as the value: what is understood is written again as the same, and
/// cut where a log may end.
pub fn queue_records(bytes: &[u8]) {
    if let Ok(Some(key)) = ShareKey::decode(bytes) {
        let again = key.encode().map(|again| ShareKey::decode(&again));
        assert_eq!(again, Some(Ok(Some(key))));
    }
    let Ok(mut state) = ShareState::decode(bytes, MAX_OPEN) else { return };
    let limits = ShareLimits { lock: Duration::from_secs(1), max_deliveries: 5, max_in_flight: MAX_OPEN };
    let stored = SharePartition::from_state(&state, limits).to_state();
    assert_eq!(ShareState::decode(&stored.encode(Timestamp(0)), MAX_OPEN), Ok(stored.clone()));
    assert_eq!(SharePartition::from_state(&stored, limits).to_state(), stored);
    let end = Offset(state.start.0 + bytes.len() as u64);
    state.cut(end);
    let share = SharePartition::from_state(&state, limits);
    assert!(share.start() <= share.next() && share.next() <= end.max(state.start), "{share:?} of {end}");
}

/// Reads `bytes` as key, as value, and as a log of records and ends of transactions.
pub fn group_records(bytes: &[u8]) {
    if let Ok(Key::Offset { group, topic, partition }) = Key::decode(bytes) {
        let again = offset_key(group, topic, partition).unwrap_or_default();
        assert_eq!(Key::decode(&again), Key::decode(bytes));
    }
    if let Ok(value) = OffsetValue::decode(bytes)
        && let Some(again) = value.encode()
        && value.expire_time.is_none()
    {
        assert_eq!(OffsetValue::decode(&again), Ok(value));
    }
    let (mut offsets, mut rest, mut position) = (Offsets::default(), bytes, Offset::ZERO);
    while let Some((&[kind, producer, key_len, value_len], body)) = rest.split_first_chunk::<4>() {
        let (key, body) = body.split_at(body.len().min(key_len.into()));
        let (value, body) = body.split_at(body.len().min(value_len.into()));
        rest = body;
        let producer = ProducerId(i64::from(producer % 4));
        match kind % 4 {
            0 => offsets.end_transaction(producer, value_len % 2 == 0),
            kind => {
                let value = (kind != 1).then_some(value);
                let record =
                    LogRecord { position, key: Some(key), value, transaction: (kind == 3).then_some(producer) };
                let _ = offsets.replay(record);
            }
        }
        position = position + 1;
    }
    for producer in 0..4 {
        offsets.end_transaction(ProducerId(producer), true);
    }
    for group in offsets.groups() {
        assert!(offsets.offsets(group).all(|(topic, partition, _)| !offsets.is_unstable(group, topic, partition)));
    }
}

/// Reads `bytes` as each message of the members of a group, and as what several say as they join, who are then given
/// partitions by every assignor.
pub fn group_protocol(bytes: &[u8]) {
    if let Ok(subscription) = Subscription::decode(bytes) {
        let again = subscription.encode(Version::V3).unwrap_or_default();
        assert_eq!(Subscription::decode(&again), Ok(subscription));
    }
    if let Ok(assignment) = MemberAssignment::decode(bytes) {
        let again = assignment.encode(Version::V3).unwrap_or_default();
        assert_eq!(MemberAssignment::decode(&again), Ok(assignment));
    }
    if let Ok(last) = LastAssignment::decode(bytes) {
        let again = last.encode().unwrap_or_default();
        assert_eq!(LastAssignment::decode(&again), Ok(last));
    }
    let (mut subscriptions, mut rest) = (Vec::new(), bytes);
    while let Some((&len, body)) = rest.split_first() {
        let (subscription, body) = body.split_at(body.len().min(len.into()));
        rest = body;
        subscriptions.extend(Subscription::decode(subscription));
    }
    let ids: Vec<_> = (0..subscriptions.len()).map(|number| number.to_string()).collect();
    let members = ids.iter().zip(&subscriptions).map(|(id, said)| MemberView::from_subscription(id, said));
    let topics =
        subscriptions.iter().flat_map(|said| &said.topics).map(|topic| (Arc::clone(topic), topic.len() as u32));
    let group = GroupView::new(members, topics);
    for assignor in [&Range as &dyn Assignor, &RoundRobin, &Sticky, &CooperativeSticky] {
        let assignment = assignor.assign(&group);
        assert_eq!(assignment.check(&group), Ok(()), "{}", assignor.name());
        let assigned: usize = assignment.iter().map(|(_, partitions)| partitions.len()).sum();
        assert!(assigned == group.partitions().count() || assignor.is_cooperative(), "{}", assignor.name());
    }
}

/// Reads `bytes` as key, as value, and as a log of records of transactional ids, which is asked about a transaction.
pub fn txn_records(bytes: &[u8]) {
    if let Ok(TxnKey::Id(id)) = TxnKey::decode(bytes) {
        assert_eq!(TxnKey::encode(id).as_deref(), Some(bytes));
    }
    if let Ok(state) = State::decode(bytes) {
        let again = state.encode().unwrap_or_default();
        assert_eq!(State::decode(&again), Ok(state));
    }
    let (mut coordinator, mut rest, mut position) = (Coordinator::default(), bytes, Offset::ZERO);
    while let Some((&[key_len, value_len], body)) = rest.split_first_chunk::<2>() {
        let (key, body) = body.split_at(body.len().min(key_len.into()));
        let (value, body) = body.split_at(body.len().min(value_len.into()));
        rest = body;
        let _ = coordinator.replay(Some(key), (value_len > 0).then_some(value), position);
        position = position + 1;
    }
    assert!(coordinator.count() as u64 <= position.0);
    let first = Offset(bytes.len() as u64);
    for producer in coordinator.last_producer(ProducerId(i64::MAX)).into_iter().chain([ProducerId::NONE]) {
        let topic_id = TopicId::from_bytes([0; 16]);
        let open = Open { topic: "a", topic_id, partition: 0, producer, epoch: ProducerEpoch(0), first };
        let is_lost = coordinator.verdict(open, |_, _| Some((topic_id, Offset::ZERO))) == Verdict::Commit;
        assert!(!is_lost || coordinator.verdict(open, |_, _| None) == Verdict::Commit);
    }
    assert!(coordinator.prepared().all(|ticket| coordinator.decided(&ticket).is_none()));
}

/// Reads `bytes` as lines of `key=value`, each a setting. What is accepted reads back.
pub fn settings(bytes: &[u8]) {
    let mut config = TopicConfig::default();
    for line in String::from_utf8_lossy(bytes).lines() {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        let Ok(next) = config.set(key, value) else { continue };
        let again = next.get(key).and_then(|text| config.set(key, &text).ok());
        assert_eq!(again, Some(next));
        config = next;
    }
    let copy = config.changed_entries().try_fold(TopicConfig::default(), |copy, (key, value)| copy.set(key, &value));
    assert_eq!(copy.ok(), Some(config));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_entry_takes_any_bytes(bytes: Vec<u8>, text in "([a-z.]{1,20}[= ][a-z0-9,-]{0,9}\n){0,6}") {
            for entry in [catalog, group_coordinator, group_protocol, group_records, settings, txn_records] {
                entry(&bytes);
                entry(text.as_bytes());
            }
        }
    }
}
