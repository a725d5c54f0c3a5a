//! Messages in bytes, and what is none.

use super::*;
use crate::replica::Incarnation;
use crate::types::TopicId;
use proptest::prelude::*;

const ID: PartitionId = PartitionId { topic: TopicId::from_bytes([7; 16]), partition: 258 };

fn fetch() -> Message {
    Message::Fetch(Fetch {
        id: ID,
        leader_epoch: LeaderEpoch(3),
        incarnation: Incarnation(0x0102_0304_0506_0708),
        number: 9,
        next: Offset(100),
        last_epoch: Some(LeaderEpoch(2)),
        held: Offset(90),
        start: Offset(5),
        max_bytes: 1 << 20,
    })
}

fn answered(answer: Answer) -> Message {
    let (leader_epoch, incarnation) = (LeaderEpoch(3), Incarnation(5));
    Message::Fetched(Fetched { id: ID, leader_epoch, incarnation, number: 9, answer })
}

fn batches(bytes: &[u8]) -> Message {
    let batches = Payload::new(bytes.to_vec());
    answered(Answer::Batches { committed: Offset(4), start: Offset(1), end: Offset(6), batches })
}

fn encoded(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

/// The same with the checksum that it should have.
fn mended(mut bytes: Vec<u8>) -> Vec<u8> {
    mend(&mut bytes);
    bytes
}

#[test]
fn a_message_looks_as_its_table_says() {
    let bytes = encoded(&fetch());
    assert_eq!(bytes.len(), Message::MAX_HEAD_LEN);
    assert_eq!(&bytes[..6], b"cLrm\x01\x00");
    assert_eq!(&bytes[10..26], &[7; 16]);
    assert_eq!(&bytes[26..34], &[0, 0, 1, 2, 0, 0, 0, 3]);
    assert_eq!(&bytes[34..50], &[1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 9]);
    assert_eq!(&bytes[50..62], &[0, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0, 2]);
    let bytes = encoded(&batches(b"as stored"));
    assert_eq!(&bytes[74..], b"\0\0\0\x09as stored");
    assert_eq!(encoded(&answered(Answer::Refused(Refusal::Failed)))[50..], [5]);
}

#[test]
fn no_head_is_longer_than_the_longest() {
    let longest = (0..=u8::MAX).filter_map(head_len).max();
    assert_eq!(longest, Some(Message::MAX_HEAD_LEN));
}

#[test]
fn another_version_is_named_whatever_follows() {
    for rest in [&b""[..], b"anything at all"] {
        let other = [b"cLrm\x02", rest].concat();
        assert_eq!(Message::decode(&other), Err(InvalidMessage::Version { found: 2, supported: 1 }));
    }
}

#[test]
fn a_message_that_is_too_long_is_refused_unread() {
    let bytes = encoded(&batches(&[1; 100]));
    let len = bytes.len();
    assert_eq!(Message::decode_limited(&bytes, len - 1), Err(InvalidMessage::TooLong { len, limit: len - 1 }));
    assert!(Message::decode_limited(&bytes, len).is_ok());
    assert_eq!(Message::decode_limited(b"anything", 7), Err(InvalidMessage::TooLong { len: 8, limit: 7 }));
}

#[test]
fn what_makes_no_sense_is_named_with_its_place() {
    let refused = |bytes: &[u8]| match Message::decode(bytes) {
        Err(InvalidMessage::Invalid(invalid)) => (invalid.at, invalid.what),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(b"cLrn\x01\x00"), (0, "other magic"));
    assert_eq!(refused(b"cLrm\x01\x05"), (5, "unknown kind of message"));
    let plain = encoded(&fetch());
    assert_eq!(refused(&plain[..plain.len() - 1]), (81, "head cut short"));
    assert_eq!(refused(&[&plain[..], &[0]].concat()), (50, "batches after a message that has none"));
    let mut bytes = plain.clone();
    bytes[50] = 0x80;
    assert_eq!(refused(&mended(bytes)), (50, "negative offset"));
    let mut bytes = encoded(&batches(b"four"));
    bytes.pop();
    assert_eq!(refused(&bytes), (74, "other length than that of the batches that follow"));
    let mut bytes = encoded(&answered(Answer::Refused(Refusal::Damaged)));
    bytes[50] = 6;
    assert_eq!(refused(&mended(bytes)), (50, "unknown reason"));
}

/// Any flipped bit of the head is found; batches vouch for themselves.
#[test]
fn a_flipped_bit_of_a_head_is_found() {
    let diverging = Answer::Diverging(EpochEnd { epoch: LeaderEpoch(2), end: Offset(50) });
    let out_of_range = Answer::OutOfRange { start: Offset(1), end: Offset(9) };
    let answers = [diverging, out_of_range, Answer::Refused(Refusal::Fenced)].map(answered);
    for message in answers.into_iter().chain([fetch(), batches(b"as stored")]) {
        let bytes = encoded(&message);
        for at in 0..(bytes.len() - message.payload().len()) * 8 {
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            assert!(Message::decode(&flipped).is_err(), "bit {at} of {message:?}");
        }
    }
}

fn any_offset() -> impl Strategy<Value = Offset> {
    (0..=Offset::MAX.0).prop_map(Offset)
}

fn any_epoch() -> impl Strategy<Value = Option<LeaderEpoch>> {
    prop::option::of((0..=i32::MAX).prop_map(LeaderEpoch))
}

fn any_answer() -> impl Strategy<Value = Answer> {
    let refusals = [
        Refusal::NotLeader,
        Refusal::Fenced,
        Refusal::Unknown,
        Refusal::NotReplica,
        Refusal::Damaged,
        Refusal::Failed,
    ];
    prop_oneof![
        (any_offset(), any_offset(), any_offset(), any::<Vec<u8>>()).prop_map(|(committed, start, end, batches)| {
            Answer::Batches { committed, start, end, batches: Payload::new(batches) }
        }),
        (any::<i32>(), any_offset())
            .prop_map(|(epoch, end)| Answer::Diverging(EpochEnd { epoch: LeaderEpoch(epoch), end })),
        (any_offset(), any_offset()).prop_map(|(start, end)| Answer::OutOfRange { start, end }),
        prop::sample::select(refusals.to_vec()).prop_map(Answer::Refused),
    ]
}

fn any_message() -> impl Strategy<Value = Message> {
    let ids = (any::<[u8; 16]>(), any::<u32>());
    let id = ids.prop_map(|(topic, partition)| PartitionId { topic: TopicId::from_bytes(topic), partition });
    let address = (id, any::<i32>().prop_map(LeaderEpoch), any::<u64>().prop_map(Incarnation), any::<u64>());
    let fetched = (address.clone(), any_answer());
    let fetch = (address, any_epoch(), [any_offset(), any_offset(), any_offset()], any::<u32>());
    prop_oneof![
        fetched.prop_map(|((id, leader_epoch, incarnation, number), answer)| {
            Message::Fetched(Fetched { id, leader_epoch, incarnation, number, answer })
        }),
        fetch.prop_map(|((id, leader_epoch, incarnation, number), last_epoch, [next, held, start], max_bytes)| {
            Message::Fetch(Fetch { id, leader_epoch, incarnation, number, next, last_epoch, held, start, max_bytes })
        }),
    ]
}

proptest! {
    #[test]
    fn messages_read_back(message in any_message(), before: Vec<u8>) {
        let mut bytes = before.clone();
        message.encode(&mut bytes);
        let bytes = &bytes[before.len()..];
        prop_assert_eq!(Message::decode(bytes), Ok(message.clone()));
        let mut head = Vec::new();
        message.encode_head(&mut head);
        prop_assert!(head.len() <= Message::MAX_HEAD_LEN);
        prop_assert_eq!([&head, message.payload()].concat(), bytes);
    }

    /// Whatever becomes of a message on its way, it is refused or is a message.
    #[test]
    fn a_message_that_changed_is_refused_or_written_as_it_is(
        message in any_message(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        len in any::<prop::sample::Index>(),
        is_cut: bool,
    ) {
        let mut bytes = encoded(&message);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if is_cut {
            bytes.truncate(len.index(bytes.len()));
        }
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert_eq!(encoded(&message), bytes);
        }
    }
}
