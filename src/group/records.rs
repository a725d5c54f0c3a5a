//! Keys and values of `__consumer_offsets`, byte for byte as Kafka writes them. Two bytes of version come first.
//!
//! | Key version | Fields after it                  | Value                                          |
//! |------------:|----------------------------------|------------------------------------------------|
//! | 0, 1        | group, topic, partition i32      | a committed offset, below                      |
//! | 2 and more  | group, and more for most         | members and assignments; not read here         |
//!
//! | Value version | Fields after it                                                              |
//! |--------------:|------------------------------------------------------------------------------|
//! | 0, 2          | offset i64, metadata, commit time i64                                        |
//! | 1             | offset i64, metadata, commit time i64, expire time i64                       |
//! | 3             | offset i64, leader epoch i32, metadata, commit time i64                      |
//! | 4             | as 3, with the metadata in the compact form, and tagged fields at the end    |
//!
//! A string is an i16 length and UTF-8; the compact form has an unsigned varint of its length + 1. Written are key
//! version 1 and value version 3, or 1 with an expire time: what every broker since 2.1 reads. Brokers from 4.0 on
//! write version 4. Its tagged fields (the id of the topic) are passed over.

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
    let mut key = OFFSET_KEY_VERSION.to_be_bytes().to_vec();
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
        let mut value = version.to_be_bytes().to_vec();
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
        }
    }
}
