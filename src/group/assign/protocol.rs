//! The bytes that the members of a group tell each other, through a coordinator that does not read them: Kafka's
//! `consumer` protocol.
//!
//! Two bytes of version come first, but for [`LastAssignment`], whose version shows in its length.
//!
//! | Message               | Version | Fields                                                             |
//! |-----------------------|--------:|--------------------------------------------------------------------|
//! | [`Subscription`]      |       0 | topics: array of string; user data: bytes or null                  |
//! |                       |       1 | + owned partitions: by topic                                       |
//! |                       |       2 | + generation i32, -1 for none                                      |
//! |                       |       3 | + rack: string or null                                             |
//! | [`MemberAssignment`]  |  0 to 3 | partitions: by topic; user data: bytes or null                     |
//! | [`LastAssignment`]    |       0 | partitions: by topic                                               |
//! |                       |       1 | + generation i32                                                   |
//!
//! A string is an i16 length and UTF-8, bytes are an i32 length and themselves, an array is an i32 count and its items;
//! null is length -1. Partitions by topic are an array of a topic, string, and its partitions, array of i32. Integers are
//! big-endian.
//!
//! A version later than 3 is read as 3, and bytes after the last field are passed over: Kafka promises to add fields at
//! the end only.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::types::TopicPartition;
use crate::wire::{Invalid, Reader, put_str};

/// What a member says as it joins a group: what it wants to read, and what it has.
///
/// ```
/// use chiplog::TopicPartition;
/// use chiplog::group::assign::protocol::{Subscription, Version};
///
/// let mut subscription = Subscription::new(["orders", "refunds"]);
/// subscription.owned.insert(TopicPartition::new("orders", 2));
/// subscription.generation = Some(7);
/// let bytes = subscription.encode(Version::V3)?;
/// assert_eq!(Subscription::decode(&bytes)?, subscription);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Subscription {
    /// The topics it wants to read.
    pub topics: BTreeSet<Arc<str>>,
    /// What its assignor has to say to the one that decides.
    pub user_data: Option<Vec<u8>>,
    /// The partitions it reads on meanwhile. From version 1.
    pub owned: BTreeSet<TopicPartition>,
    /// The generation in which it was assigned them. From version 2. Negative is none.
    pub generation: Option<i32>,
    /// Where it runs. From version 3.
    pub rack: Option<Box<str>>,
}

impl Subscription {
    /// A subscription to these topics.
    pub fn new<T: Into<Arc<str>>>(topics: impl IntoIterator<Item = T>) -> Self {
        Self { topics: topics.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// The bytes of this version. Fields that it does not have are left out.
    ///
    /// # Errors
    ///
    /// - [`Error::TooLong`] if a name or the user data is longer than the form can hold: 32,767 bytes, and 2 GiB.
    /// - [`Error::PartitionNotFound`] if the number of a partition is 2^31 or more.
    pub fn encode(&self, version: Version) -> Result<Vec<u8>> {
        let mut bytes = (version as i16).to_be_bytes().to_vec();
        put_count(&mut bytes, self.topics.len())?;
        self.topics.iter().try_for_each(|topic| put_name(&mut bytes, "a topic", topic))?;
        put_bytes(&mut bytes, self.user_data.as_deref())?;
        if version >= Version::V1 {
            put_partitions(&mut bytes, &self.owned)?;
        }
        if version >= Version::V2 {
            put_generation(&mut bytes, self.generation);
        }
        if version >= Version::V3 {
            match &self.rack {
                Some(rack) => put_name(&mut bytes, "a rack", rack)?,
                None => bytes.extend_from_slice(&NULL_STR),
            }
        }
        Ok(bytes)
    }

    /// Reads the bytes of any version.
    ///
    /// # Errors
    ///
    /// If the bytes end early, a version, length or number is negative, or a name is not UTF-8.
    pub fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        let mut reader = Reader::new(bytes);
        let version = version(&mut reader)?;
        let mut subscription = Self::default();
        for _ in 0..count(&mut reader)? {
            subscription.topics.insert(reader.str()?.into());
        }
        subscription.user_data = nullable_bytes(&mut reader)?.map(<[u8]>::to_vec);
        if version >= Version::V1 {
            subscription.owned = partitions(&mut reader)?;
        }
        if version >= Version::V2 {
            subscription.generation = generation(&mut reader)?;
        }
        if version >= Version::V3 {
            subscription.rack = reader.nullable_str()?.map(Into::into);
        }
        Ok(subscription)
    }
}

/// What a member is told to read.
///
/// ```
/// use chiplog::TopicPartition;
/// use chiplog::group::assign::protocol::{MemberAssignment, Version};
///
/// let assignment = MemberAssignment::new([TopicPartition::new("orders", 0), TopicPartition::new("orders", 2)]);
/// assert_eq!(MemberAssignment::decode(&assignment.encode(Version::V3)?)?, assignment);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MemberAssignment {
    /// The partitions it has from now on.
    pub partitions: BTreeSet<TopicPartition>,
    /// What the assignor that decided has to say to that of the member.
    pub user_data: Option<Vec<u8>>,
}

impl MemberAssignment {
    /// An assignment of these partitions.
    pub fn new(partitions: impl IntoIterator<Item = TopicPartition>) -> Self {
        Self { partitions: partitions.into_iter().collect(), user_data: None }
    }

    /// The bytes of this version: but for the version itself, the same in all.
    ///
    /// # Errors
    ///
    /// As [`Subscription::encode`].
    pub fn encode(&self, version: Version) -> Result<Vec<u8>> {
        let mut bytes = (version as i16).to_be_bytes().to_vec();
        put_partitions(&mut bytes, &self.partitions)?;
        put_bytes(&mut bytes, self.user_data.as_deref())?;
        Ok(bytes)
    }

    /// Reads the bytes of any version. No bytes at all are no partitions: what a member gets that the leader forgot.
    ///
    /// # Errors
    ///
    /// As [`Subscription::decode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let mut reader = Reader::new(bytes);
        version(&mut reader)?;
        let partitions = partitions(&mut reader)?;
        let user_data = nullable_bytes(&mut reader)?.map(<[u8]>::to_vec);
        Ok(Self { partitions, user_data })
    }
}

/// What a member was assigned last: what [`Sticky`](super::Sticky) adds to its subscription.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LastAssignment {
    /// The partitions it was assigned.
    pub partitions: BTreeSet<TopicPartition>,
    /// The generation of the group in which it was assigned them. From version 1. Negative is none.
    pub generation: Option<i32>,
}

impl LastAssignment {
    /// These partitions, assigned in this generation.
    pub fn new(partitions: impl IntoIterator<Item = TopicPartition>, generation: i32) -> Self {
        Self { partitions: partitions.into_iter().collect(), generation: Some(generation) }
    }

    /// The bytes: of version 1 if there is a generation, of version 0 if not.
    ///
    /// # Errors
    ///
    /// As [`Subscription::encode`].
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        put_partitions(&mut bytes, &self.partitions)?;
        if self.generation.is_some() {
            put_generation(&mut bytes, self.generation);
        }
        Ok(bytes)
    }

    /// Reads the bytes of either version: 0 if less follows the partitions than a generation takes.
    ///
    /// # Errors
    ///
    /// As [`Subscription::decode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        let mut reader = Reader::new(bytes);
        let partitions = partitions(&mut reader)?;
        Ok(Self { partitions, generation: generation(&mut reader).unwrap_or(None) })
    }
}

/// A version of [`Subscription`] and [`MemberAssignment`]. Clients read later ones than they know, and write the latest
/// they know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum Version {
    /// Topics.
    V0 = 0,
    /// What the member owns, for cooperative assignors: KIP-429.
    V1 = 1,
    /// The generation: KIP-792.
    V2 = 2,
    /// The rack: KIP-881.
    #[default]
    V3 = 3,
}

fn version(reader: &mut Reader<'_>) -> Result<Version, Invalid> {
    let invalid = reader.invalid("negative version");
    match reader.i16()? {
        ..0 => Err(invalid),
        0 => Ok(Version::V0),
        1 => Ok(Version::V1),
        2 => Ok(Version::V2),
        3.. => Ok(Version::V3),
    }
}

/// The count of an array. Nothing is allocated for it: each item is read, and takes at least two bytes.
fn count(reader: &mut Reader<'_>) -> Result<u32, Invalid> {
    let invalid = reader.invalid("negative count");
    u32::try_from(reader.i32()?).map_err(|_| invalid)
}

fn nullable_bytes<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a [u8]>, Invalid> {
    let invalid = reader.invalid("negative length");
    match reader.i32()? {
        -1 => Ok(None),
        len => reader.take(usize::try_from(len).map_err(|_| invalid)?).map(Some),
    }
}

fn partitions(reader: &mut Reader<'_>) -> Result<BTreeSet<TopicPartition>, Invalid> {
    let mut partitions = BTreeSet::new();
    for _ in 0..count(reader)? {
        let topic: Arc<str> = reader.str()?.into();
        for _ in 0..count(reader)? {
            let invalid = reader.invalid("negative partition");
            let partition = u32::try_from(reader.i32()?).map_err(|_| invalid)?;
            partitions.insert(TopicPartition { topic: Arc::clone(&topic), partition });
        }
    }
    Ok(partitions)
}

fn generation(reader: &mut Reader<'_>) -> Result<Option<i32>, Invalid> {
    Ok(Some(reader.i32()?).filter(|generation| *generation >= 0))
}

fn put_count(into: &mut Vec<u8>, count: usize) -> Result<()> {
    let too_long = Error::TooLong { what: "an array", len: count as u64, limit: LEN_MAX };
    into.extend_from_slice(&i32::try_from(count).map_err(|_| too_long)?.to_be_bytes());
    Ok(())
}

fn put_name(into: &mut Vec<u8>, what: &'static str, name: &str) -> Result<()> {
    let too_long = || Error::TooLong { what, len: name.len() as u64, limit: NAME_LEN_MAX };
    put_str(into, name).then_some(()).ok_or_else(too_long)
}

fn put_bytes(into: &mut Vec<u8>, bytes: Option<&[u8]>) -> Result<()> {
    let Some(bytes) = bytes else {
        into.extend_from_slice(&NULL_BYTES);
        return Ok(());
    };
    let too_long = |_| Error::TooLong { what: "user data", len: bytes.len() as u64, limit: LEN_MAX };
    into.extend_from_slice(&i32::try_from(bytes.len()).map_err(too_long)?.to_be_bytes());
    into.extend_from_slice(bytes);
    Ok(())
}

fn put_partitions(into: &mut Vec<u8>, partitions: &BTreeSet<TopicPartition>) -> Result<()> {
    let partitions: Vec<_> = partitions.iter().collect();
    let topics = || partitions.chunk_by(|a, b| a.topic == b.topic);
    put_count(into, topics().count())?;
    for same_topic in topics() {
        put_name(into, "a topic", &same_topic[0].topic)?;
        put_count(into, same_topic.len())?;
        for TopicPartition { topic, partition } in same_topic {
            let not_found =
                |_| Error::PartitionNotFound { topic: (**topic).into(), partition: *partition, count: 1 << 31 };
            into.extend_from_slice(&i32::try_from(*partition).map_err(not_found)?.to_be_bytes());
        }
    }
    Ok(())
}

fn put_generation(into: &mut Vec<u8>, generation: Option<i32>) {
    into.extend_from_slice(&generation.unwrap_or(-1).to_be_bytes());
}

const NULL_STR: [u8; 2] = (-1_i16).to_be_bytes();
const NULL_BYTES: [u8; 4] = (-1_i32).to_be_bytes();
const NAME_LEN_MAX: u64 = i16::MAX as u64;
const LEN_MAX: u64 = i32::MAX as u64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn from_hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    fn partitions() -> BTreeSet<TopicPartition> {
        [("t0", 0), ("t0", 2), ("t1", 7)].map(|(topic, number)| TopicPartition::new(topic, number)).into()
    }

    /// What has all fields, as far as a version has them.
    fn full(version: Version) -> Subscription {
        let mut full = Subscription::new(["t0", "t1"]);
        full.user_data = Some(vec![1, 2, 3]);
        if version >= Version::V1 {
            full.owned = partitions();
        }
        full.generation = (version >= Version::V2).then_some(5);
        full.rack = (version >= Version::V3).then(|| "r1".into());
        full
    }

    const VERSIONS: [Version; 4] = [Version::V0, Version::V1, Version::V2, Version::V3];

    /// What `ConsumerProtocol` of Kafka 4.3.1 makes of `full`, in each version.
    const FULL: [&str; 4] = [
        "000000000002000274300002743100000003010203",
        "0001000000020002743000027431000000030102030000000200027430000000020000000000000002000274310000000100000007",
        "000200000002000274300002743100000003010203000000020002743000000002000000000000000200027431000000010000000700000005",
        "00030000000200027430000274310000000301020300000002000274300000000200000000000000020002743100000001000000070000000500027231",
    ];
    /// And of what has topics only.
    const BARE: [&str; 4] = [
        "00000000000100027430ffffffff",
        "00010000000100027430ffffffff00000000",
        "00020000000100027430ffffffff00000000ffffffff",
        "00030000000100027430ffffffff00000000ffffffffffff",
    ];

    #[test]
    fn subscriptions_are_kafkas_bytes_both_ways() {
        for ((version, kafkas), kafkas_bare) in VERSIONS.into_iter().zip(FULL).zip(BARE) {
            let bare = Subscription::new(["t0"]);
            for (subscription, bytes) in [(full(version), from_hex(kafkas)), (bare, from_hex(kafkas_bare))] {
                assert_eq!(subscription.encode(version).unwrap(), bytes);
                assert_eq!(Subscription::decode(&bytes), Ok(subscription));
            }
            assert_eq!(
                full(Version::V3).encode(version).unwrap(),
                from_hex(kafkas),
                "what a version lacks is left out"
            );
        }
    }

    #[test]
    fn assignments_are_kafkas_bytes_both_ways() {
        let after_version = "00000002000274300000000200000000000000020002743100000001000000070000000109";
        let with_data = MemberAssignment { user_data: Some(vec![9]), ..MemberAssignment::new(partitions()) };
        for version in VERSIONS {
            let bytes = from_hex(&format!("{:04x}{after_version}", version as i16));
            assert_eq!(with_data.encode(version).unwrap(), bytes);
            assert_eq!(MemberAssignment::decode(&bytes).as_ref(), Ok(&with_data));
        }
        let nothing = from_hex("000300000000ffffffff");
        assert_eq!(MemberAssignment::default().encode(Version::V3).unwrap(), nothing);
        assert_eq!(MemberAssignment::decode(&nothing), Ok(MemberAssignment::default()));
        assert_eq!(MemberAssignment::decode(&[]), Ok(MemberAssignment::default()));
    }

    #[test]
    fn what_sticky_adds_is_kafkas_bytes_both_ways() {
        let last = LastAssignment::new(partitions(), 5);
        let bytes = from_hex("000000020002743000000002000000000000000200027431000000010000000700000005");
        assert_eq!(last.encode().unwrap(), bytes);
        assert_eq!(LastAssignment::decode(&bytes), Ok(last.clone()));
        // Version 0, and one whose generation is cut off, which Kafka reads as that.
        let older = LastAssignment { generation: None, ..last };
        assert_eq!(older.encode().unwrap(), bytes[..bytes.len() - 4]);
        for cut in 1..=4 {
            assert_eq!(LastAssignment::decode(&bytes[..bytes.len() - cut]).as_ref(), Ok(&older));
        }
        assert_eq!(LastAssignment::new([], 6).encode().unwrap(), from_hex("0000000000000006"));
    }

    #[test]
    fn a_later_version_is_read_as_the_latest_known() {
        let later = [&from_hex(FULL[3]), &b"what comes after"[..]].concat();
        for version in [4, i16::MAX] {
            let bytes = [&version.to_be_bytes(), &later[2..]].concat();
            assert_eq!(Subscription::decode(&bytes), Ok(full(Version::V3)));
        }
        let assignment = from_hex("000900000000ffffffff77");
        assert_eq!(MemberAssignment::decode(&assignment), Ok(MemberAssignment::default()));
    }

    #[test]
    fn what_is_broken_is_an_error_with_its_place() {
        let whole = from_hex(FULL[3]);
        for len in 0..whole.len() {
            assert!(Subscription::decode(&whole[..len]).is_err(), "cut to {len}");
        }
        for (bytes, at, what) in [
            ("ffff00000000ffffffff", 0, "negative version"),
            ("0000ffffffffffffffff", 2, "negative count"),
            ("00000000000100027430fffffffe", 10, "negative length"),
            ("000000000001ffff", 6, "string is null"),
            ("000100000000ffffffff000000010002743000000001ffffffff", 22, "negative partition"),
            // Counts of what is not there.
            ("00007fffffff", 6, "length past the end"),
            ("000100000000ffffffff7fffffff000274307fffffff00000001", 26, "length past the end"),
        ] {
            assert_eq!(Subscription::decode(&from_hex(bytes)), Err(Invalid { at, what }), "{bytes}");
        }
    }

    #[test]
    fn what_the_form_cannot_hold_is_refused() {
        let long = "x".repeat(32_768);
        let is_too_long = |subscription: &Subscription| {
            matches!(subscription.encode(Version::V3), Err(Error::TooLong { len: 32_768, limit: 32_767, .. }))
        };
        assert!(is_too_long(&Subscription::new([&*long])));
        assert!(Subscription::new([&long[1..]]).encode(Version::V3).is_ok());
        let mut subscription = Subscription::new(["t0"]);
        subscription.rack = Some(long.into());
        assert!(is_too_long(&subscription));
        let high = MemberAssignment::new([TopicPartition::new("t0", 1 << 31)]).encode(Version::V3);
        assert!(matches!(high, Err(Error::PartitionNotFound { partition: 0x8000_0000, .. })));
    }

    fn any_partitions() -> impl Strategy<Value = BTreeSet<TopicPartition>> {
        let partition =
            ("[a-c]{0,2}", 0..=i32::MAX as u32).prop_map(|(topic, number)| TopicPartition::new(topic, number));
        prop::collection::btree_set(partition, 0..9)
    }

    proptest! {
        #[test]
        fn messages_read_back(
            topics in prop::collection::btree_set(".{0,9}", 0..5),
            user_data: Option<Vec<u8>>,
            owned in any_partitions(),
            generation in prop::option::of(0..i32::MAX),
            rack in prop::option::of(".{0,9}"),
        ) {
            let last = LastAssignment { partitions: owned.clone(), generation };
            prop_assert_eq!(LastAssignment::decode(&last.encode().unwrap()), Ok(last));
            let assignment = MemberAssignment { partitions: owned.clone(), user_data: user_data.clone() };
            prop_assert_eq!(MemberAssignment::decode(&assignment.encode(Version::V3).unwrap()), Ok(assignment));
            let topics = topics.into_iter().map(Into::into).collect();
            let rack = rack.map(Into::into);
            let subscription = Subscription { topics, user_data, owned, generation, rack };
            prop_assert_eq!(Subscription::decode(&subscription.encode(Version::V3).unwrap()), Ok(subscription));
        }
    }
}
