//! Keys and values of `__consumer_offsets`, byte for byte as Kafka writes them. Two bytes of version come first.
//!
//! | Key version | Fields after it                  | Value                                          |
//! |------------:|----------------------------------|------------------------------------------------|
//! | 0, 1        | group, topic, partition i32      | a committed offset, below                      |
//! | 2           | group                            | a classic group with its members, further below |
//! | 3 and more  | group, and more for most         | groups of other kinds; not read here           |
//!
//! | Value version | Fields of a committed offset after it                                        |
//! |--------------:|------------------------------------------------------------------------------|
//! | 0, 2          | offset i64, metadata, commit time i64                                        |
//! | 1             | offset i64, metadata, commit time i64, expire time i64                       |
//! | 3             | offset i64, leader epoch i32, metadata, commit time i64                      |
//! | 4             | as 3, with the metadata in the compact form, and tagged fields at the end    |
//!
//! A string is an i16 length and UTF-8; the compact form has an unsigned varint of its length + 1. Written are key
//! version 1 and value version 3, or 1 with an expire time: what every broker since 2.1 reads. Brokers from 4.0 on
//! write version 4. Its tagged fields (the id of the topic) are passed over.
//!
//! | Since version | Field of a group                | Field of each of its members                               |
//! |--------------:|---------------------------------|------------------------------------------------------------|
//! | 0             | protocol type                   | member id                                                  |
//! | 3             |                                 | instance id, nullable                                      |
//! | 0             | generation i32                  | client id, client host                                     |
//! | 1             |                                 | rebalance time-out i32, in ms                              |
//! | 0             | protocol, nullable              | session time-out i32, in ms                                |
//! | 0             | leader, nullable                | subscription and assignment: i32 length and bytes, each    |
//! | 2             | time of its state i64           |                                                            |
//! | 0             | i32 count of members, and they  |                                                            |
//!
//! Written is version 3, what every broker since 2.3 reads. Version 4, the flexible form, is not read: a group of which
//! a newer broker wrote the last record is kept, and not understood.

use std::sync::Arc;

use crate::types::{LeaderEpoch, Timestamp};
use crate::wire::{Invalid, Reader, put_str};

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    /// A group's offset in one partition.
    Offset { group: &'a str, topic: &'a str, partition: u32 },
    /// A group itself, in the form of one of its protocols: 2 is the classic one, 3 the newer, others are further
    /// parts of which a group has one each.
    Group { version: i16, group: &'a str },
    /// Something else, of this version: a member, an assignment, what future versions bring. To be passed over.
    Other(i16),
}

impl<'a> Key<'a> {
    /// Reads a key. Only one of a committed offset can be invalid; all other versions are somebody else's.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, Invalid> {
        let mut reader = Reader::new(bytes);
        let version = reader.i16()?;
        if !(0..=1).contains(&version) {
            return Ok(match reader.str() {
                Ok(group) if version >= 0 && reader.is_empty() => Self::Group { version, group },
                _ => Self::Other(version),
            });
        }
        let (group, topic) = (reader.str()?, reader.str()?);
        let at = reader.position();
        let partition = u32::try_from(reader.i32()?).map_err(|_| Invalid { at, what: "negative partition" })?;
        expect_end(&reader)?;
        Ok(Self::Offset { group, topic, partition })
    }
}

/// The key of a committed offset; `None` if a name is longer, or the partition higher, than the form can hold.
pub(crate) fn offset_key(group: &str, topic: &str, partition: u32) -> Option<Vec<u8>> {
    let partition = i32::try_from(partition).ok()?;
    let mut key = Vec::with_capacity(10 + group.len() + topic.len());
    key.extend_from_slice(&OFFSET_KEY_VERSION.to_be_bytes());
    if !put_str(&mut key, group) || !put_str(&mut key, topic) {
        return None;
    }
    key.extend_from_slice(&partition.to_be_bytes());
    Some(key)
}

/// A committed offset as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OffsetValue<'a> {
    /// Kafka does not check it; a negative one reads as none.
    pub(crate) offset: i64,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) metadata: &'a str,
    pub(crate) commit_time: Timestamp,
    /// When it is to be removed, if the commit said so, as very old clients do.
    pub(crate) expire_time: Option<Timestamp>,
}

impl<'a> OffsetValue<'a> {
    /// Reads a value that is not null.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, Invalid> {
        let mut reader = Reader::new(bytes);
        let version = reader.i16()?;
        if !(0..=4).contains(&version) {
            return Err(Invalid { at: 0, what: "unknown version of a committed offset" });
        }
        let offset = reader.i64()?;
        let leader_epoch = if version >= 3 { LeaderEpoch(reader.i32()?) } else { LeaderEpoch::NONE };
        let metadata = if version >= 4 { reader.compact_str()? } else { reader.str()? };
        let commit_time = Timestamp(reader.i64()?);
        let expire_time = if version == 1 { Some(Timestamp(reader.i64()?)) } else { None };
        if version >= 4 {
            skip_tagged_fields(&mut reader)?;
        }
        expect_end(&reader)?;
        let expire_time = expire_time.filter(|time| time.is_some());
        Ok(Self { offset, leader_epoch, metadata, commit_time, expire_time })
    }

    /// The stored form; `None` if the metadata is longer than it can hold.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        // The version with an expire time has no leader epoch: Kafka drops it, too.
        let version: i16 = if self.expire_time.is_some() { 1 } else { 3 };
        let mut value = Vec::with_capacity(28 + self.metadata.len());
        value.extend_from_slice(&version.to_be_bytes());
        value.extend_from_slice(&self.offset.to_be_bytes());
        if self.expire_time.is_none() {
            value.extend_from_slice(&self.leader_epoch.0.to_be_bytes());
        }
        if !put_str(&mut value, self.metadata) {
            return None;
        }
        value.extend_from_slice(&self.commit_time.0.to_be_bytes());
        if let Some(time) = self.expire_time {
            value.extend_from_slice(&time.0.to_be_bytes());
        }
        Some(value)
    }
}

/// The key of a group's own record; `None` if its id is longer than the form can hold.
pub(crate) fn group_key(group: &str) -> Option<Vec<u8>> {
    let mut key = GROUP_KEY_VERSION.to_be_bytes().to_vec();
    put_str(&mut key, group).then_some(key)
}

/// A classic group as stored: nobody is joining, and each member has what the leader gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupValue {
    /// What its members speak; empty if none ever joined.
    pub(crate) protocol_type: Box<str>,
    pub(crate) generation: i32,
    /// The protocol that was chosen; none without members.
    pub(crate) protocol: Option<Box<str>>,
    /// The member that assigns; none without members.
    pub(crate) leader: Option<Box<str>>,
    /// Since when it is in this state.
    pub(crate) state_time: Timestamp,
    pub(crate) members: Vec<MemberValue>,
}

/// A member as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberValue {
    pub(crate) id: Box<str>,
    pub(crate) instance_id: Option<Box<str>>,
    pub(crate) client_id: Box<str>,
    pub(crate) client_host: Box<str>,
    pub(crate) rebalance_timeout_ms: i32,
    pub(crate) session_timeout_ms: i32,
    pub(crate) subscription: Arc<[u8]>,
    pub(crate) assignment: Arc<[u8]>,
}

impl GroupValue {
    /// Reads a value that is not null.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        let mut reader = Reader::new(bytes);
        let version = reader.i16()?;
        if !(0..=3).contains(&version) {
            return Err(Invalid { at: 0, what: "unknown version of a group" });
        }
        let protocol_type = reader.str()?.into();
        let at = reader.position();
        let generation = reader.i32()?;
        if generation < 0 {
            return Err(Invalid { at, what: "negative generation" });
        }
        let protocol = reader.nullable_str()?.map(Into::into);
        let leader = reader.nullable_str()?.map(Into::into);
        let state_time = if version >= 2 { Timestamp(reader.i64()?) } else { Timestamp::NONE };
        let at = reader.position();
        let count = u32::try_from(reader.i32()?).map_err(|_| Invalid { at, what: "negative count" })?;
        // Each takes bytes, so a count that is too high ends where they do.
        let mut members = Vec::new();
        for _ in 0..count {
            members.push(MemberValue::read(&mut reader, version)?);
        }
        expect_end(&reader)?;
        Ok(Self { protocol_type, generation, protocol, leader, state_time, members })
    }

    /// The stored form; `None` if a text is longer than it can hold.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let mut value = GROUP_VALUE_VERSION.to_be_bytes().to_vec();
        if !put_str(&mut value, &self.protocol_type) {
            return None;
        }
        value.extend_from_slice(&self.generation.to_be_bytes());
        if !put_nullable_str(&mut value, self.protocol.as_deref())
            || !put_nullable_str(&mut value, self.leader.as_deref())
        {
            return None;
        }
        value.extend_from_slice(&self.state_time.0.to_be_bytes());
        value.extend_from_slice(&i32::try_from(self.members.len()).ok()?.to_be_bytes());
        self.members.iter().all(|member| member.put(&mut value)).then_some(value)
    }
}

impl MemberValue {
    fn read(reader: &mut Reader<'_>, version: i16) -> Result<Self, Invalid> {
        let id = reader.str()?.into();
        let instance_id = if version >= 3 { reader.nullable_str()?.map(Into::into) } else { None };
        let (client_id, client_host) = (reader.str()?.into(), reader.str()?.into());
        let rebalance_timeout_ms = if version >= 1 { reader.i32()? } else { -1 };
        let session_timeout_ms = reader.i32()?;
        Ok(Self {
            id,
            instance_id,
            client_id,
            client_host,
            // Members of before there was one had the other for both.
            rebalance_timeout_ms: if rebalance_timeout_ms < 0 { session_timeout_ms } else { rebalance_timeout_ms },
            session_timeout_ms,
            subscription: read_bytes(reader)?,
            assignment: read_bytes(reader)?,
        })
    }

    fn put(&self, into: &mut Vec<u8>) -> bool {
        let texts = put_str(into, &self.id)
            && put_nullable_str(into, self.instance_id.as_deref())
            && put_str(into, &self.client_id)
            && put_str(into, &self.client_host);
        into.extend_from_slice(&self.rebalance_timeout_ms.to_be_bytes());
        into.extend_from_slice(&self.session_timeout_ms.to_be_bytes());
        texts && put_bytes(into, &self.subscription) && put_bytes(into, &self.assignment)
    }
}

fn read_bytes(reader: &mut Reader<'_>) -> Result<Arc<[u8]>, Invalid> {
    let at = reader.position();
    let len = usize::try_from(reader.i32()?).map_err(|_| Invalid { at, what: "negative length" })?;
    reader.take(len).map(Into::into)
}

fn put_bytes(into: &mut Vec<u8>, bytes: &[u8]) -> bool {
    let Ok(len) = i32::try_from(bytes.len()) else { return false };
    into.extend_from_slice(&len.to_be_bytes());
    into.extend_from_slice(bytes);
    true
}

fn put_nullable_str(into: &mut Vec<u8>, text: Option<&str>) -> bool {
    match text {
        Some(text) => put_str(into, text),
        None => {
            into.extend_from_slice(&(-1_i16).to_be_bytes());
            true
        }
    }
}

fn expect_end(reader: &Reader<'_>) -> Result<(), Invalid> {
    if reader.is_empty() { Ok(()) } else { Err(reader.invalid("bytes after the end")) }
}

/// A count, then for each field its tag, its length and its bytes.
fn skip_tagged_fields(reader: &mut Reader<'_>) -> Result<(), Invalid> {
    for _ in 0..reader.unsigned_varint()? {
        reader.unsigned_varint()?;
        let len = reader.unsigned_varint()?;
        reader.take(len as usize)?;
    }
    Ok(())
}

const OFFSET_KEY_VERSION: i16 = 1;
/// The version of the keys of classic groups.
pub(crate) const GROUP_KEY_VERSION: i16 = 2;
const GROUP_VALUE_VERSION: i16 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The bytes that Kafka's own classes made, by the name the fixture gives them.
    fn fixture(name: &str) -> Vec<u8> {
        let text = include_str!("../../tests/fixtures/scenarios/group-records.json");
        let scenario: serde_json::Value = serde_json::from_str(text).unwrap();
        let rows = scenario["records"].as_array().unwrap();
        assert_eq!(rows.len(), 6);
        let mut matching = rows.iter().filter(|row| row["name"].as_str().unwrap().starts_with(name));
        let row = matching.next().unwrap();
        assert!(matching.next().is_none(), "{name} is one row");
        from_hex(row["hex"].as_str().unwrap())
    }

    fn from_hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    const PLAIN: OffsetValue<'_> = OffsetValue {
        offset: 42,
        leader_epoch: LeaderEpoch(5),
        metadata: "m",
        commit_time: Timestamp(1_700_000_000_000),
        expire_time: None,
    };

    #[test]
    fn keys_are_kafkas_bytes_both_ways() {
        let bytes = fixture("OffsetCommitKey");
        assert_eq!(offset_key("g1", "orders", 2), Some(bytes.clone()));
        assert_eq!(Key::decode(&bytes), Ok(Key::Offset { group: "g1", topic: "orders", partition: 2 }));
        assert_eq!(Key::decode(&fixture("GroupMetadataKey")), Ok(Key::Group { version: 2, group: "g1" }));
    }

    #[test]
    fn values_are_kafkas_bytes_both_ways() {
        let legacy = OffsetValue {
            leader_epoch: LeaderEpoch::NONE,
            metadata: "",
            expire_time: Some(Timestamp(1_700_000_060_000)),
            ..PLAIN
        };
        for (name, value) in
            [("OffsetCommitValue(offset=42,leader", PLAIN), ("OffsetCommitValue(offset=42,metadata", legacy)]
        {
            let bytes = fixture(name);
            assert_eq!(OffsetValue::decode(&bytes), Ok(value), "{name}");
            assert_eq!(value.encode(), Some(bytes), "{name}");
        }
    }

    /// The group of the fixture, and the one that it is when its member has left.
    fn groups() -> [(&'static str, GroupValue); 2] {
        let member = MemberValue {
            id: "m-1".into(),
            instance_id: None,
            client_id: "c".into(),
            client_host: "/127.0.0.1".into(),
            rebalance_timeout_ms: 300_000,
            session_timeout_ms: 45_000,
            subscription: Arc::new([1, 2]),
            assignment: Arc::new([3]),
        };
        let full = GroupValue {
            protocol_type: "consumer".into(),
            generation: 3,
            protocol: Some("range".into()),
            leader: Some("m-1".into()),
            state_time: Timestamp(1_700_000_000_000),
            members: vec![member],
        };
        let empty = GroupValue { generation: 4, protocol: None, leader: None, members: Vec::new(), ..full.clone() };
        [("GroupMetadataValue(consumer", full), ("GroupMetadataValue(empty", empty)]
    }

    #[test]
    fn groups_are_kafkas_bytes_both_ways() {
        assert_eq!(group_key("g1"), Some(fixture("GroupMetadataKey")));
        for (name, group) in groups() {
            let bytes = fixture(name);
            assert_eq!(GroupValue::decode(&bytes), Ok(group.clone()), "{name}");
            assert_eq!(group.encode(), Some(bytes.clone()), "{name}");
            for len in 0..bytes.len() {
                assert!(GroupValue::decode(&bytes[..len]).is_err(), "{name} cut to {len}");
            }
        }
    }

    /// Each form lacks what the next one added: the time-out of rebalances, the time of the state, static members.
    #[test]
    fn groups_in_the_older_forms_are_read() {
        let [(_, group), _] = groups();
        for version in 0..=2_u8 {
            let mut bytes = fixture("GroupMetadataValue(consumer");
            bytes[1] = version;
            // From the end, so that what lies before stays where it is.
            let member = bytes.len() - (4 + 1) - (4 + 2) - 4 - 4 - 12 - 3 - 2;
            let mut cut = |range: std::ops::Range<usize>| drop(bytes.drain(range));
            if version < 1 {
                let rebalance = member + 2 + 3 + 12;
                cut(rebalance..rebalance + 4);
            }
            cut(member..member + 2);
            if version < 2 {
                let time = member - 5 - 4 - 8;
                cut(time..time + 8);
            }
            let mut expected = group.clone();
            expected.members[0].rebalance_timeout_ms = if version < 1 { 45_000 } else { 300_000 };
            expected.state_time = if version < 2 { Timestamp::NONE } else { group.state_time };
            assert_eq!(GroupValue::decode(&bytes), Ok(expected), "version {version}");
        }
    }

    #[test]
    fn a_broken_group_is_an_error_with_its_place() {
        let bytes = fixture("GroupMetadataValue(consumer");
        let with = |at: usize, byte: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            GroupValue::decode(&bytes)
        };
        assert_eq!(with(1, 4), Err(Invalid { at: 0, what: "unknown version of a group" }));
        assert_eq!(with(12, 0x80), Err(Invalid { at: 12, what: "negative generation" }));
        let assignment = bytes.len() - 5;
        assert_eq!(with(assignment, 0x80), Err(Invalid { at: assignment, what: "negative length" }));
        let past = Invalid { at: assignment + 4, what: "length past the end" };
        assert_eq!(with(assignment, 0x7F), Err(past), "nothing is reserved for a length that is not there");
        let count = 2 + 10 + 4 + 7 + 5 + 8;
        assert!(with(count, 0x7F).is_err(), "nor for a count");
        let [(_, group), _] = groups();
        assert_eq!(GroupValue { protocol_type: "x".repeat(32_768).into(), ..group }.encode(), None);
    }

    #[test]
    fn a_key_of_version_0_is_read_like_version_1() {
        let mut bytes = fixture("OffsetCommitKey");
        bytes[1] = 0;
        assert_eq!(Key::decode(&bytes), Ok(Key::Offset { group: "g1", topic: "orders", partition: 2 }));
    }

    /// Brokers of version 4 write these: with the id of the topic in a tagged field, and in transactions without.
    #[test]
    fn values_in_the_flexible_form_are_read() {
        let tagged = from_hex(
            "00040000000000000004000000000a62792068616e642031000001a1fb5dafec010010654a6023498e42028d21cb6b25fab443",
        );
        let value = OffsetValue::decode(&tagged).unwrap();
        assert_eq!((value.offset, value.leader_epoch, value.metadata), (4, LeaderEpoch(0), "by hand 1"));
        assert_eq!((value.commit_time, value.expire_time), (Timestamp(0x01a1_fb5d_afec), None));
        let plain = from_hex("000400000000000000140000000004656f73000001a1fb5db09200");
        assert_eq!(OffsetValue::decode(&plain).unwrap().metadata, "eos");
        for len in 0..tagged.len() {
            assert!(OffsetValue::decode(&tagged[..len]).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn values_of_the_two_oldest_plain_forms_are_read() {
        for version in [0, 2] {
            let mut bytes = vec![0, version];
            bytes.extend_from_slice(&7_i64.to_be_bytes());
            assert!(put_str(&mut bytes, "x"));
            bytes.extend_from_slice(&9_i64.to_be_bytes());
            let value = OffsetValue::decode(&bytes).unwrap();
            assert_eq!((value.offset, value.metadata, value.commit_time), (7, "x", Timestamp(9)));
            assert_eq!((value.leader_epoch, value.expire_time), (LeaderEpoch::NONE, None));
        }
    }

    #[test]
    fn keys_of_other_kinds_are_passed_over_whatever_they_hold() {
        // A member of a group, a group in the newer protocol, versions nobody knows yet.
        let member = from_hex("00050005672d6e65770016454452776f4c56335237797944677755707937415567");
        assert_eq!(Key::decode(&member), Ok(Key::Other(5)));
        assert_eq!(Key::decode(&from_hex("00030005672d6e6577")), Ok(Key::Group { version: 3, group: "g-new" }));
        for bytes in [&[0, 9][..], &[0, 77, 0xFF, 0xFF], &[0x7F, 0xFF, 1], &[0xFF, 0xFF, 0, 1, b'g']] {
            assert!(matches!(Key::decode(bytes), Ok(Key::Other(_))), "{bytes:?}");
        }
        assert!(Key::decode(&[0]).is_err(), "no version at all");
    }

    #[test]
    fn a_broken_offset_record_is_an_error_with_its_place() {
        let key = fixture("OffsetCommitKey");
        assert_eq!(Key::decode(&key[..17]), Err(Invalid { at: 14, what: "length past the end" }));
        let mut negative = key.clone();
        negative[14] = 0x80;
        assert_eq!(Key::decode(&negative), Err(Invalid { at: 14, what: "negative partition" }));
        let longer = [&key[..], &[0]].concat();
        assert_eq!(Key::decode(&longer), Err(Invalid { at: 18, what: "bytes after the end" }));
        let mut newer = fixture("OffsetCommitValue(offset=42,leader");
        newer[1] = 5;
        assert_eq!(OffsetValue::decode(&newer).unwrap_err().what, "unknown version of a committed offset");
    }

    #[test]
    fn what_the_form_cannot_hold_is_not_written() {
        let long = "x".repeat(32_768);
        assert_eq!(offset_key(&long, "orders", 0), None);
        assert_eq!(offset_key("g1", &long, 0), None);
        assert_eq!(offset_key("g1", "orders", 1 << 31), None);
        assert_eq!(OffsetValue { metadata: &long, ..PLAIN }.encode(), None);
        assert!(OffsetValue { metadata: &long[1..], ..PLAIN }.encode().is_some());
    }

    proptest! {
        #[test]
        fn keys_and_values_read_back(
            group in ".{0,20}",
            topic in "[a-z]{1,20}",
            partition in 0..=i32::MAX as u32,
            offset: i64,
            epoch: i32,
            metadata in ".{0,40}",
            time: i64,
            expire in prop::option::of(0..i64::MAX),
        ) {
            let key = offset_key(&group, &topic, partition).unwrap();
            prop_assert_eq!(Key::decode(&key), Ok(Key::Offset { group: &group, topic: &topic, partition }));
            let leader_epoch = if expire.is_some() { LeaderEpoch::NONE } else { LeaderEpoch(epoch) };
            let value = OffsetValue {
                offset,
                leader_epoch,
                metadata: &metadata,
                commit_time: Timestamp(time),
                expire_time: expire.map(Timestamp),
            };
            let bytes = value.encode().unwrap();
            prop_assert_eq!(OffsetValue::decode(&bytes), Ok(value));
        }

        /// Whatever the bytes, decoding ends; and what it accepts says the same when written again.
        #[test]
        fn any_bytes_are_refused_or_understood(version in 0..6_u8, mut bytes: Vec<u8>) {
            bytes.splice(0..0, [0, version]);
            if let Ok(Key::Offset { group, topic, partition }) = Key::decode(&bytes) {
                let again = offset_key(group, topic, partition).unwrap();
                prop_assert_eq!(Key::decode(&again), Key::decode(&bytes));
            }
            if let Ok(value) = OffsetValue::decode(&bytes) {
                prop_assert!(value.metadata.len() <= bytes.len());
            }
            if let Ok(group) = GroupValue::decode(&bytes) {
                prop_assert_eq!(GroupValue::decode(&group.encode().unwrap()), Ok(group));
            }
        }
    }
}
