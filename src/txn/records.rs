//! Keys and values of `__transaction_state`, byte for byte as Kafka writes them. Two bytes of version come first.
//!
//! | Key version | Fields after it     | Value                                    |
//! |------------:|---------------------|------------------------------------------|
//! | 0           | transactional id    | the state of its transactions, below     |
//!
//! | Value field           | Type     | Notes                                                     |
//! |-----------------------|----------|-----------------------------------------------------------|
//! | producer id           | i64      |                                                           |
//! | producer epoch        | i16      |                                                           |
//! | transaction time-out  | i32      | milliseconds                                              |
//! | status                | i8       | see [`Status`]                                            |
//! | partitions            | array    | of topic and partition numbers; may be null               |
//! | last update, start    | i64 each | milliseconds since 1970; start is -1 without a transaction |
//!
//! A string is an i16 length and UTF-8, an array has an i32 count. Value version 1 is the flexible form: lengths and counts
//! are unsigned varints of themselves + 1, and tagged fields follow each structure. Brokers from 3.8 on write it, and so do
//! we; version 0 is read, too.
//!
//! | Tag    | Type | Field                                                                     |
//! |-------:|------|---------------------------------------------------------------------------|
//! | 0      | i64  | the producer id before this one                                           |
//! | 1      | i64  | the producer id after this one                                            |
//! | 2      | i16  | version of the transaction protocol                                       |
//! | 3      | i16  | the epoch that goes with the producer id after this one                   |
//! | 10,000 |      | ours: what was decided, or is prepared. A broker passes over it           |
//!
//! Ours is a version byte of 0, the position of the record that prepared the transaction (i64; -1 if none did, or this one
//! does), then for each of the partitions, in their order, the id of the topic (16 bytes), the first offset of the transaction
//! and the offset after its last record (i64 each). By them nobody takes a later transaction for this one, be it in a topic
//! that was made anew, nor a part of it for all.

use std::sync::Arc;

use crate::types::{Offset, ProducerEpoch, ProducerId, Timestamp, TopicId};
use crate::wire::{Invalid, Reader, put_str, put_unsigned_varint};

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    /// A transactional id.
    Id(&'a str),
    /// Something of a version that is not known. To be passed over.
    Other(i16),
}

impl<'a> Key<'a> {
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, Invalid> {
        let mut reader = Reader::new(bytes);
        let version = reader.i16()?;
        if version != KEY_VERSION {
            return Ok(Self::Other(version));
        }
        let id = reader.str()?;
        expect_end(&reader)?;
        Ok(Self::Id(id))
    }

    /// The key of a transactional id; `None` if it is longer than the form can hold.
    pub(crate) fn encode(id: &str) -> Option<Vec<u8>> {
        let mut key = KEY_VERSION.to_be_bytes().to_vec();
        put_str(&mut key, id).then_some(key)
    }
}

/// What is going on with a transactional id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub(crate) enum Status {
    /// No transaction was begun since the id was taken.
    Empty = 0,
    /// One is open. Of ours, only one that is prepared has a record that says so.
    Ongoing = 1,
    /// It is decided: it commits. Markers may be missing.
    PrepareCommit = 2,
    /// It is decided: it aborts. Markers may be missing.
    PrepareAbort = 3,
    /// All markers of a commit are written.
    CompleteCommit = 4,
    /// All markers of an abort are written.
    CompleteAbort = 5,
    /// The id was given up.
    Dead = 6,
    /// It aborts because another took the id.
    PrepareEpochFence = 7,
}

impl Status {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Invalid> {
        let invalid = reader.invalid("unknown status of a transaction");
        Ok(match reader.u8()? {
            0 => Self::Empty,
            1 => Self::Ongoing,
            2 => Self::PrepareCommit,
            3 => Self::PrepareAbort,
            4 => Self::CompleteCommit,
            5 => Self::CompleteAbort,
            6 => Self::Dead,
            7 => Self::PrepareEpochFence,
            _ => return Err(invalid),
        })
    }
}

/// The partitions of one topic that a transaction wrote to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicPartitions {
    pub(crate) topic: Arc<str>,
    pub(crate) partitions: Vec<u32>,
}

/// Where a transaction lies in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: u32,
    pub(crate) extent: Extent,
}

/// What a transaction takes up of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Of the topic: another one may have the name later.
    pub(crate) topic: TopicId,
    pub(crate) first: Offset,
    /// The offset after its last record.
    pub(crate) end: Offset,
}

/// What we say of a transaction beside what Kafka does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Decision {
    /// Where in the log it was prepared, if it was, and this is not the record that did.
    pub(crate) prepared: Option<Offset>,
    /// What it takes up of each partition, in the order of the partitions.
    pub(crate) extents: Vec<Extent>,
}

/// The state of a transactional id, as one record has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) producer: ProducerId,
    pub(crate) epoch: ProducerEpoch,
    pub(crate) timeout_ms: i32,
    pub(crate) status: Status,
    /// None is null.
    pub(crate) partitions: Option<Vec<TopicPartitions>>,
    pub(crate) updated: Timestamp,
    pub(crate) started: Timestamp,
    pub(crate) previous: ProducerId,
    pub(crate) next: ProducerId,
    pub(crate) protocol: i16,
    pub(crate) next_epoch: ProducerEpoch,
    pub(crate) decision: Option<Decision>,
}

impl State {
    /// An id that was just taken, and has no transaction.
    pub(crate) fn empty(producer: ProducerId, epoch: ProducerEpoch, timeout_ms: i32, now: Timestamp) -> Self {
        Self {
            producer,
            epoch,
            timeout_ms,
            status: Status::Empty,
            partitions: None,
            updated: now,
            started: Timestamp::NONE,
            previous: producer,
            next: ProducerId::NONE,
            protocol: 0,
            next_epoch: ProducerEpoch::NONE,
            decision: None,
        }
    }

    /// The same id with a transaction of which this holds.
    pub(crate) fn with(&self, status: Status, spans: &[Span], prepared: Option<Offset>, now: Timestamp) -> Self {
        // A partition is there twice if its topic was deleted meanwhile and made anew: each with an extent of its own.
        let mut topics: Vec<(TopicPartitions, Vec<Extent>)> = Vec::new();
        for Span { topic, partition, extent } in spans {
            match topics.iter_mut().find(|(known, _)| known.topic == *topic) {
                Some((known, extents)) => {
                    known.partitions.push(*partition);
                    extents.push(*extent);
                }
                None => {
                    let known = TopicPartitions { topic: Arc::clone(topic), partitions: vec![*partition] };
                    topics.push((known, vec![*extent]));
                }
            }
        }
        let (partitions, extents): (Vec<_>, Vec<_>) = topics.into_iter().unzip();
        let extents = extents.concat();
        Self {
            status,
            partitions: Some(partitions),
            updated: now,
            started: if self.started.is_some() { self.started } else { now },
            decision: Some(Decision { prepared, extents }),
            ..self.clone()
        }
    }

    /// Each partition of the transaction, and where it lies there if the record says so.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (&Arc<str>, u32, Option<Extent>)> {
        let extents = self.decision.as_ref().map_or(&[][..], |decision| &decision.extents);
        let topics = self.partitions.iter().flatten();
        let named = topics.flat_map(|topic| topic.partitions.iter().map(|partition| (&topic.topic, *partition)));
        named.enumerate().map(|(at, (topic, partition))| (topic, partition, extents.get(at).copied()))
    }

    /// Where the transaction lies, as far as the record says so.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let known = self.parts().filter_map(|(topic, partition, extent)| {
            Some(Span { topic: Arc::clone(topic), partition, extent: extent? })
        });
        known.collect()
    }

    /// Whether this is the record that prepared a transaction, which was not decided since.
    pub(crate) fn is_prepared(&self) -> bool {
        self.status == Status::Ongoing && self.decision.is_some()
    }

    /// Reads a value that is not null.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        let mut reader = Reader::new(bytes);
        let version = reader.i16()?;
        if !(0..=1).contains(&version) {
            return Err(Invalid { at: 0, what: "unknown version of a transaction's state" });
        }
        let is_flexible = version == 1;
        let (producer, epoch) = (ProducerId(reader.i64()?), ProducerEpoch(reader.i16()?));
        let timeout_ms = reader.i32()?;
        let status = Status::decode(&mut reader)?;
        let partitions = decode_partitions(&mut reader, is_flexible)?;
        let (updated, started) = (Timestamp(reader.i64()?), Timestamp(reader.i64()?));
        let mut state = Self {
            status,
            partitions,
            started,
            previous: ProducerId::NONE,
            ..Self::empty(producer, epoch, timeout_ms, updated)
        };
        if is_flexible {
            state.decode_tags(&mut reader)?;
        }
        expect_end(&reader)?;
        Ok(state)
    }

    fn decode_tags(&mut self, reader: &mut Reader<'_>) -> Result<(), Invalid> {
        for _ in 0..reader.unsigned_varint()? {
            let (tag, len) = (reader.unsigned_varint()?, reader.unsigned_varint()?);
            let (at, bytes) = (reader.position(), reader.take(len as usize)?);
            let mut field = Reader::new(bytes);
            let inside = |invalid: Invalid| Invalid { at: at + invalid.at, ..invalid };
            let mut read = || -> Result<(), Invalid> {
                match tag {
                    0 => self.previous = ProducerId(field.i64()?),
                    1 => self.next = ProducerId(field.i64()?),
                    2 => self.protocol = field.i16()?,
                    3 => self.next_epoch = ProducerEpoch(field.i16()?),
                    OURS => self.decision = decode_decision(&mut field, self.parts().count())?,
                    // Of a newer broker.
                    _ => return Ok(()),
                }
                expect_end(&field)
            };
            read().map_err(inside)?;
        }
        Ok(())
    }

    /// The stored form; `None` if a name is longer, or a partition higher, than the form can hold.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let mut value = Vec::with_capacity(160);
        value.extend_from_slice(&VALUE_VERSION.to_be_bytes());
        value.extend_from_slice(&self.producer.0.to_be_bytes());
        value.extend_from_slice(&self.epoch.0.to_be_bytes());
        value.extend_from_slice(&self.timeout_ms.to_be_bytes());
        value.push(self.status as u8);
        let count = self.partitions.as_ref().map(Vec::len);
        put_unsigned_varint(&mut value, count.map_or(Some(0), |count| u32::try_from(count + 1).ok())?);
        for TopicPartitions { topic, partitions } in self.partitions.iter().flatten() {
            put_unsigned_varint(&mut value, u32::try_from(topic.len() + 1).ok()?);
            value.extend_from_slice(topic.as_bytes());
            put_unsigned_varint(&mut value, u32::try_from(partitions.len() + 1).ok()?);
            for partition in partitions {
                value.extend_from_slice(&i32::try_from(*partition).ok()?.to_be_bytes());
            }
            put_unsigned_varint(&mut value, 0);
        }
        value.extend_from_slice(&self.updated.0.to_be_bytes());
        value.extend_from_slice(&self.started.0.to_be_bytes());
        self.encode_tags(&mut value)?;
        Some(value)
    }

    fn encode_tags(&self, value: &mut Vec<u8>) -> Option<()> {
        let is_set = [
            self.previous != ProducerId::NONE,
            self.next != ProducerId::NONE,
            self.protocol != 0,
            self.next_epoch != ProducerEpoch::NONE,
            self.decision.is_some(),
        ];
        put_unsigned_varint(value, is_set.into_iter().filter(|is_set| *is_set).count() as u32);
        let mut put = |tag: u32, is_set: bool, bytes: &[u8]| {
            if is_set {
                put_unsigned_varint(value, tag);
                put_unsigned_varint(value, bytes.len() as u32);
                value.extend_from_slice(bytes);
            }
        };
        put(0, is_set[0], &self.previous.0.to_be_bytes());
        put(1, is_set[1], &self.next.0.to_be_bytes());
        put(2, is_set[2], &self.protocol.to_be_bytes());
        put(3, is_set[3], &self.next_epoch.0.to_be_bytes());
        let Some(decision) = &self.decision else { return Some(()) };
        let mut ours = vec![OURS_VERSION];
        ours.extend_from_slice(&decision.prepared.map_or(-1, Offset::to_wire).to_be_bytes());
        for Extent { topic, first, end } in &decision.extents {
            ours.extend_from_slice(topic.as_bytes());
            ours.extend_from_slice(&first.to_wire().to_be_bytes());
            ours.extend_from_slice(&end.to_wire().to_be_bytes());
        }
        u32::try_from(ours.len()).ok()?;
        put(OURS, true, &ours);
        Some(())
    }
}

fn decode_partitions(reader: &mut Reader<'_>, is_flexible: bool) -> Result<Option<Vec<TopicPartitions>>, Invalid> {
    let Some(topic_count) = count(reader, is_flexible)? else { return Ok(None) };
    let mut topics = Vec::new();
    // Every element takes bytes, so a count that nothing follows ends at once.
    for _ in 0..topic_count {
        let topic = if is_flexible { reader.compact_str()? } else { reader.str()? };
        let partition_count = count(reader, is_flexible)?.ok_or(reader.invalid("no partitions of a topic"))?;
        let mut partitions = Vec::new();
        for _ in 0..partition_count {
            let at = reader.position();
            partitions.push(u32::try_from(reader.i32()?).map_err(|_| Invalid { at, what: "negative partition" })?);
        }
        if is_flexible {
            reader.skip_tags()?;
        }
        topics.push(TopicPartitions { topic: topic.into(), partitions });
    }
    Ok(Some(topics))
}

/// The count of an array; `None` if it is null.
fn count(reader: &mut Reader<'_>, is_flexible: bool) -> Result<Option<u32>, Invalid> {
    if is_flexible {
        return Ok(reader.unsigned_varint()?.checked_sub(1));
    }
    let at = reader.position();
    match reader.i32()? {
        -1 => Ok(None),
        count => u32::try_from(count).map(Some).map_err(|_| Invalid { at, what: "negative count" }),
    }
}

fn decode_decision(field: &mut Reader<'_>, count: usize) -> Result<Option<Decision>, Invalid> {
    if field.u8()? != OURS_VERSION {
        return Err(Invalid { at: 0, what: "unknown version of a decision" });
    }
    let prepared = Offset::from_wire(field.i64()?);
    let mut extents = Vec::new();
    for _ in 0..count {
        let at = field.position();
        let topic = field.take(16)?.first_chunk().copied().ok_or(Invalid { at, what: "no topic id" })?;
        let (first, end) = (Offset::from_wire(field.i64()?), Offset::from_wire(field.i64()?));
        match (first, end) {
            (Some(first), Some(end)) if first < end => {
                extents.push(Extent { topic: TopicId::from_bytes(topic), first, end });
            }
            _ => return Err(Invalid { at, what: "offsets of no transaction" }),
        }
    }
    Ok(Some(Decision { prepared, extents }))
}

fn expect_end(reader: &Reader<'_>) -> Result<(), Invalid> {
    if reader.is_empty() { Ok(()) } else { Err(reader.invalid("bytes after the end")) }
}

const KEY_VERSION: i16 = 0;
const VALUE_VERSION: i16 = 1;
const OURS: u32 = 10_000;
const OURS_VERSION: u8 = 0;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn from_hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    /// Written by a broker of version 4: a commit decided over three topics.
    const DECIDED: &str = "0001000000000000001b000105265c0002040a74782d6f75747075740200000000000d636f6d70616374\
        65642d7478020000000000097061796d656e74730400000000000000020000000100000001a1fb5d885c000001a1fb5d86bc\
        020008000000000000001b02020002";

    #[test]
    fn a_brokers_records_are_read_and_written_byte_for_byte() {
        let key = from_hex("0000000874782d616c706861");
        assert_eq!(Key::decode(&key), Ok(Key::Id("tx-alpha")));
        assert_eq!(Key::encode("tx-alpha"), Some(key));
        let state = State::decode(&from_hex(DECIDED)).unwrap();
        assert_eq!(
            (state.producer, state.epoch, state.status),
            (ProducerId(27), ProducerEpoch(1), Status::PrepareCommit)
        );
        assert_eq!((state.timeout_ms, state.protocol, state.previous), (86_400_000, 2, ProducerId(27)));
        let parts: Vec<_> = state.parts().map(|(topic, partition, _)| format!("{topic}-{partition}")).collect();
        assert_eq!(parts, ["tx-output-0", "compacted-tx-0", "payments-0", "payments-2", "payments-1"]);
        assert_eq!(state.encode(), Some(from_hex(DECIDED)));
        let empty =
            from_hex("0001000000000000001b000005265c000000000001a1fb5d86b7ffffffffffffffff010008000000000000001b");
        let state = State::decode(&empty).unwrap();
        assert_eq!((state.status, &state.partitions, state.started), (Status::Empty, &None, Timestamp::NONE));
        assert_eq!(state.encode(), Some(empty));
    }

    /// Every record of four partitions in two directories that brokers left.
    #[cfg(feature = "zstd")]
    #[test]
    fn all_records_of_real_directories_are_written_byte_for_byte() {
        use std::io::Read;

        use crate::record::BatchRef;

        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/kafka-dirs.tar.zst");
        let archive = zstd::Decoder::new(std::fs::File::open(path).unwrap()).unwrap();
        let (mut count, mut scratch) = (0, Vec::new());
        for entry in tar::Archive::new(archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            if !name.contains("__transaction_state-") || !name.ends_with(".log") {
                continue;
            }
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            let mut rest = &bytes[..];
            while let Ok(batch) = BatchRef::verify(rest) {
                for record in batch.records(1 << 20, &mut scratch).unwrap() {
                    let (key, value) = (record.key.unwrap(), record.value.unwrap());
                    let Key::Id(id) = Key::decode(key).unwrap() else { panic!("{name}: {key:?}") };
                    assert_eq!(Key::encode(id).as_deref(), Some(key));
                    assert_eq!(State::decode(value).unwrap().encode().as_deref(), Some(value), "{name}");
                    count += 1;
                }
                rest = &rest[batch.bytes().len()..];
            }
        }
        assert!(count > 500, "{count}");
    }

    #[test]
    fn the_older_form_is_read() {
        let old = from_hex(
            "000000000000000000070003000003e80100000001000161000000020000000000000004000000000000000500000000\
             00000006",
        );
        let state = State::decode(&old).unwrap();
        assert_eq!((state.producer, state.epoch, state.status), (ProducerId(7), ProducerEpoch(3), Status::Ongoing));
        assert_eq!(state.parts().map(|(topic, at, _)| (&**topic, at)).collect::<Vec<_>>(), [("a", 0), ("a", 4)]);
        assert_eq!((state.updated, state.started), (Timestamp(5), Timestamp(6)));
        assert!(!state.is_prepared(), "only a record of ours says that one is prepared");
        let empty = from_hex("000000000000000000070003000003e800ffffffff00000000000000050000000000000006");
        let state = State::decode(&empty).unwrap();
        assert_eq!((state.status, &state.partitions), (Status::Empty, &None));
    }

    /// A newer broker may say more of each topic.
    #[test]
    fn what_is_tagged_within_a_topic_is_passed_over() {
        let mut bytes = from_hex(DECIDED);
        let expected = State::decode(&bytes);
        assert_eq!(bytes[33], 0, "the first topic has no tags");
        bytes.splice(33..34, [1, 5, 2, 0xAA, 0xBB]);
        assert_eq!(State::decode(&bytes), expected);
        bytes[35] = 0x7F;
        assert!(State::decode(&bytes).is_err(), "longer than what follows");
    }

    #[test]
    fn partitions_of_a_topic_are_gathered_with_their_offsets() {
        let span = |topic: &str, partition, first| Span {
            topic: topic.into(),
            partition,
            extent: Extent { topic: TopicId::from_bytes([7; 16]), first: Offset(first), end: Offset(first + 2) },
        };
        let spans = [span("a", 1, 10), span("b", 0, 20), span("a", 0, 30)];
        let state = State::empty(ProducerId(1), ProducerEpoch(0), 5, Timestamp(9));
        let state = state.with(Status::PrepareCommit, &spans, Some(Offset(3)), Timestamp(10));
        let mut sorted = state.spans();
        assert_eq!(sorted, [span("a", 1, 10), span("a", 0, 30), span("b", 0, 20)]);
        sorted.clear();
        assert_eq!(State::decode(&state.encode().unwrap()), Ok(state.clone()));
        assert_eq!(state.decision.unwrap().prepared, Some(Offset(3)));
    }

    /// How long a record without partitions is, before its tagged fields.
    const EMPTY_LEN: usize = 34;

    /// A record with one tagged field at its end, of this tag and these bytes.
    fn tagged(tag: u8, field: &[u8]) -> Vec<u8> {
        let mut bytes = State::empty(ProducerId(7), ProducerEpoch(3), 5, Timestamp(9)).encode().unwrap();
        // Without the tags it has.
        let state = State::decode(&bytes).unwrap();
        bytes.truncate(EMPTY_LEN);
        assert_eq!(State::decode(&[&bytes[..], &[0]].concat()).unwrap().status, state.status);
        bytes.extend([1, tag, field.len() as u8]);
        bytes.extend(field);
        bytes
    }

    #[test]
    fn tagged_fields_are_read_and_those_of_newer_brokers_passed_over() {
        let read = |tag, field: &[u8]| State::decode(&tagged(tag, field));
        assert_eq!(read(1, &8_i64.to_be_bytes()).unwrap().next, ProducerId(8));
        assert_eq!(read(3, &4_i16.to_be_bytes()).unwrap().next_epoch, ProducerEpoch(4));
        assert!(read(100, b"anything").is_ok());
        let refused = Invalid { at: EMPTY_LEN + 3 + 2, what: "bytes after the end" };
        assert_eq!(read(3, &[0, 4, 9]), Err(refused), "a field longer than it can be");
    }

    #[test]
    fn a_decision_that_makes_no_sense_is_refused() {
        let field = |bytes: &[u8], count| decode_decision(&mut Reader::new(bytes), count);
        let unknown = Invalid { at: 0, what: "unknown version of a decision" };
        assert_eq!(field(&[OURS_VERSION + 1, 0, 0, 0, 0, 0, 0, 0, 0], 0), Err(unknown));
        let mut bytes = vec![OURS_VERSION];
        bytes.extend((-1_i64).to_be_bytes());
        bytes.extend([7; 16]);
        bytes.extend([5_i64, 5].into_iter().flat_map(i64::to_be_bytes));
        let nothing = Invalid { at: 9, what: "offsets of no transaction" };
        assert_eq!(field(&bytes, 1), Err(nothing), "from 5 to 5");
        bytes.truncate(1 + 8 + 10);
        assert!(field(&bytes, 1).is_err(), "cut short");
    }

    /// A topic was deleted and made anew within a transaction, and both its lives had the extent of the first.
    #[test]
    fn a_partition_that_is_there_twice_has_two_extents() {
        let span = |id, first| Span {
            topic: "a".into(),
            partition: 0,
            extent: Extent { topic: TopicId::from_bytes([id; 16]), first: Offset(first), end: Offset(first + 1) },
        };
        let state = State::empty(ProducerId(1), ProducerEpoch(0), 5, Timestamp(9));
        let state = state.with(Status::PrepareCommit, &[span(7, 10), span(8, 0)], None, Timestamp(10));
        assert_eq!(state.spans(), [span(7, 10), span(8, 0)]);
        let named = [TopicPartitions { topic: "a".into(), partitions: vec![0, 0] }];
        assert_eq!(state.partitions.as_deref(), Some(&named[..]), "the topic is named once");
        assert_eq!(State::decode(&state.encode().unwrap()), Ok(state));
    }

    #[test]
    fn a_broken_record_is_an_error_with_its_place() {
        let what = |bytes: &[u8]| State::decode(bytes).unwrap_err();
        let mut bytes = from_hex(DECIDED);
        bytes[1] = 2;
        assert_eq!(what(&bytes), Invalid { at: 0, what: "unknown version of a transaction's state" });
        bytes[1] = 1;
        bytes[16] = 8;
        assert_eq!(what(&bytes), Invalid { at: 16, what: "unknown status of a transaction" });
        bytes[16] = 2;
        bytes.push(0);
        assert_eq!(what(&bytes).what, "bytes after the end");
        for len in 0..bytes.len() - 1 {
            assert!(State::decode(&bytes[..len]).is_err(), "cut to {len}");
        }
        assert_eq!(Key::decode(&[0, 1, 0, 0]), Ok(Key::Other(1)));
        assert!(Key::decode(&[0, 0, 0, 5, b'a']).is_err());
    }

    proptest! {
        #[test]
        fn states_read_back(
            producer: i64,
            epoch: i16,
            timeout_ms: i32,
            status in 0..8_u8,
            topics in prop::option::of(prop::collection::vec(
                ("[a-z]{1,9}", prop::collection::vec(0..=i32::MAX as u32, 0..4)), 0..4)),
            protocol: i16,
            times: (i64, i64),
            prepared in prop::option::of(0..i64::MAX as u64),
            is_ours: bool,
        ) {
            let partitions: Option<Vec<_>> = topics.map(|topics| topics.into_iter().map(|(topic, partitions)| {
                TopicPartitions { topic: topic.into(), partitions }
            }).collect());
            let status = Status::decode(&mut Reader::new(&[status])).unwrap();
            let empty = State::empty(ProducerId(producer), ProducerEpoch(epoch), timeout_ms, Timestamp(times.0));
            let mut state = State { status, partitions, started: Timestamp(times.1), protocol, ..empty };
            if is_ours {
                let extent = |at: u64| Extent {
                    topic: TopicId::from_bytes(u128::from(at).to_be_bytes()),
                    first: Offset(at),
                    end: Offset(at + 9),
                };
                let extents = (0..state.parts().count() as u64).map(extent).collect();
                state.decision = Some(Decision { prepared: prepared.map(Offset), extents });
            }
            prop_assert_eq!(State::decode(&state.encode().unwrap()), Ok(state));
        }

        /// Whatever the bytes, decoding ends; and what it accepts says the same when written again.
        #[test]
        fn any_bytes_are_refused_or_understood(version in 0..3_u8, mut bytes: Vec<u8>) {
            bytes.splice(0..0, [0, version]);
            if let Ok(state) = State::decode(&bytes) {
                prop_assert_eq!(State::decode(&state.encode().unwrap()), Ok(state));
            }
        }
    }
}
