//! Commands and states in bytes, and what is none.

use super::*;
use crate::replica::controller::FIRST_PRODUCER;
use crate::replica::{Incarnation, PartitionId};
use crate::types::TopicId;

const FRAME: Frame = Frame { what: "a test", magic: *b"cLte", version: 3 };
const ID: PartitionId = PartitionId { topic: TopicId::from_bytes([7; 16]), partition: 258 };

#[test]
fn what_is_sealed_opens_and_nothing_else_does() {
    let sealed = FRAME.seal(|into| put_u32(into, 7));
    let mut reader = FRAME.open(&sealed).unwrap();
    assert_eq!((reader.position(), reader.u32()), (5, Ok(7)));
    assert!(expect_end(&reader).is_ok());
    for at in 0..sealed.len() * 8 {
        let mut flipped = sealed.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        assert!(FRAME.open(&flipped).is_err(), "bit {at}");
    }
    for len in 0..sealed.len() {
        assert!(FRAME.open(&sealed[..len]).is_err(), "cut to {len}");
    }
    let foreign = InvalidForm::Foreign { len: 3, expected: "a test" };
    assert_eq!(FRAME.open(b"cLt").err(), Some(foreign.clone()));
    assert_eq!(foreign.to_string(), "3 bytes do not begin as a test");
}

/// Of a later version not even the length of the checksum is known.
#[test]
fn another_version_is_named_whatever_follows() {
    let error = FRAME.open(b"cLte\x09later").err().unwrap();
    assert_eq!(error, InvalidForm::Version { what: "a test", found: 9, supported: 3 });
    assert_eq!(error.to_string(), "a test in version 9, of which only 3 is supported");
}

#[test]
fn commands_and_states_look_as_their_tables_say() {
    let member = Member { node: NodeId(1), incarnation: Incarnation(2) };
    let command = Command::NodeUp { member, continues: vec![Incarnation(3)], lost: Loss::Partitions(vec![ID]) };
    let bytes = command.encode();
    assert_eq!(&bytes[..18], b"cLrc\x01\x00\0\0\0\x01\0\0\0\0\0\0\0\x02");
    assert_eq!(&bytes[18..35], b"\0\0\0\x01\0\0\0\0\0\0\0\x03\x01\0\0\0\x01");
    assert_eq!((&bytes[35..51], &bytes[51..55], bytes.len()), (&[7; 16][..], &[0, 0, 1, 2][..], 59));

    let mut controller = Controller::default();
    assert_eq!(controller.encode()[..21], *b"cLrs\x01\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0");
    controller.apply(&Command::NodeUp { member, continues: Vec::new(), lost: Loss::Nothing }).unwrap();
    let bytes = controller.encode();
    assert_eq!(&bytes[13..34], b"\0\0\0\x01\0\0\0\x01\0\0\0\0\0\0\0\x02\x01\0\0\0\0");
    assert_eq!(bytes.len(), 5 + 8 + 4 + MIN_NODE_LEN + 4 + 4);
    controller.apply(&Command::Create { id: ID, replicas: vec![NodeId(1)], min_in_sync: 1 }).unwrap();
    // A replica, in sync, that leads.
    assert_eq!(controller.encode().len(), bytes.len() + MIN_PARTITION_LEN + 3 * NODE_LEN);
}

#[test]
fn what_is_not_known_is_refused_with_its_place() {
    let refused = |kind: u8| Command::decode(&framed(&[kind])[0]);
    let unknown = Invalid { at: 5, what: "unknown kind of command" };
    assert_eq!(refused(11), Err(InvalidForm::Invalid(unknown)));
    let cut = Invalid { at: 6, what: "length past the end" };
    assert_eq!(refused(NODE_DOWN), Err(InvalidForm::Invalid(cut)));
    let mut inner = vec![DELETE];
    inner.extend([7; 17]);
    let more = Invalid { at: 22, what: "bytes after the end" };
    assert_eq!(Command::decode(&framed(&inner)[0]), Err(InvalidForm::Invalid(more)));
    let mut inner = vec![NODE_UP];
    inner.extend([0; MEMBER_LEN + 4]);
    inner.push(3);
    let unknown = Invalid { at: 22, what: "unknown kind of loss" };
    assert_eq!(Command::decode(&framed(&inner)[0]), Err(InvalidForm::Invalid(unknown)));
}

/// Three nodes, the last of them dead; a partition of all, on its way to the first two, of which one is eligible.
fn state() -> Controller {
    let member = |node| Member { node: NodeId(node), incarnation: Incarnation(10) };
    let mut controller = Controller::default();
    let up = |node| Command::NodeUp { member: member(node), continues: Vec::new(), lost: Loss::Nothing };
    let nodes = |nodes: &[u32]| nodes.iter().map(|node| NodeId(*node)).collect();
    let commands = [
        up(1),
        up(2),
        up(3),
        Command::Create { id: ID, replicas: nodes(&[1, 3]), min_in_sync: 2 },
        Command::Reassign { id: ID, replicas: nodes(&[1, 2]) },
        Command::NodeDown { member: member(3) },
    ];
    for command in commands {
        controller.apply(&command).unwrap();
    }
    controller
}

#[test]
fn a_state_reads_back_whole_or_not_at_all() {
    let state = state();
    let bytes = state.encode();
    assert_eq!(Controller::decode(&bytes), Ok(state));
    for at in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        assert!(Controller::decode(&flipped).is_err(), "bit {at}");
    }
    for len in 0..bytes.len() {
        assert!(Controller::decode(&bytes[..len]).is_err(), "cut to {len}");
        // As if it had been written so.
        let inner = &bytes[5..len.clamp(5, bytes.len() - 5)];
        assert!(Controller::decode(&framed(inner)[1]).is_err(), "inside, cut to {len}");
    }
}

#[test]
fn a_state_that_no_commands_lead_to_is_refused() {
    type Change = fn(&mut Partition);
    let changes: [(Change, &str); 17] = [
        (|known| known.assignment.replicas.clear(), "more replicas go than there are"),
        (|known| known.assignment.replicas.push(NodeId(1)), "no replicas, or one twice"),
        (|known| known.assignment.replicas[0] = NodeId(9), "in sync or eligible in no life of a replica"),
        (|known| known.assignment.in_sync[0].node = NodeId(9), "node that was never up"),
        (|known| known.assignment.eligible.push(known.assignment.eligible[0]), "members out of order"),
        (|known| known.assignment.eligible.push(known.assignment.in_sync[0]), "members out of order"),
        (|known| known.assignment.eligible.insert(0, known.assignment.in_sync[0]), "both in sync and eligible"),
        (|known| known.wanted_in_sync = 0, "minimum of 0"),
        (|known| known.wanted_in_sync = 1, "eligible beside enough in sync"),
        (|known| known.assignment.leader = known.assignment.eligible.first().copied(), "leader out of sync"),
        (|known| known.assignment.in_sync.append(&mut known.assignment.eligible), "in sync and not alive"),
        (|known| known.assignment.leader = None, "one can lead, and does not"),
        (|known| known.assignment.leader_epoch = LeaderEpoch(-1), "epoch of no election"),
        (|known| known.assignment.unclean_epoch = Some(LeaderEpoch(0)), "epoch of no election"),
        (|known| known.assignment.unclean_epoch = Some(LeaderEpoch(1)), "epoch of no election"),
        (|known| known.assignment.unclean_epoch = Some(LeaderEpoch(-7)), "epoch below -1"),
        (
            |known| known.reassignment.as_mut().unwrap().adding[0] = NodeId(3),
            "reassignment of other nodes, or complete",
        ),
    ];
    for (change, expected) in changes {
        let mut state = state();
        change(state.partitions.get_mut(&ID).unwrap());
        match Controller::decode(&state.encode()) {
            Err(InvalidForm::Invalid(Invalid { what, .. })) => assert_eq!(what, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
    for next_producer in [0, -1, FIRST_PRODUCER - 1, FIRST_PRODUCER + 1] {
        let bytes = Controller { next_producer, ..state() }.encode();
        match Controller::decode(&bytes) {
            Err(InvalidForm::Invalid(Invalid { what, .. })) => {
                assert_eq!(what, "producer ids that were not reserved by blocks");
            }
            other => panic!("{next_producer}: {other:?}"),
        }
    }
}

#[test]
fn lists_in_another_order_are_refused() {
    let bytes = state().encode();
    let sealed = &bytes[5..bytes.len() - 4];
    // Behind the next producer id and their count, each of the nodes takes as many bytes; two of them are exchanged, then one is
    // there twice.
    let node = |at: usize| sealed[12 + at * MIN_NODE_LEN..][..MIN_NODE_LEN].to_vec();
    for order in [[1, 0, 2], [0, 0, 2]] {
        let mut inner = sealed.to_vec();
        inner[12..12 + 3 * MIN_NODE_LEN].copy_from_slice(&order.map(node).concat());
        let order = Invalid { at: 5 + 12 + MIN_NODE_LEN, what: "nodes out of order" };
        assert_eq!(Controller::decode(&framed(&inner)[1]), Err(InvalidForm::Invalid(order)));
    }
    let mut state = state();
    let first = state.partitions[&ID].clone();
    let mut second = first.clone();
    second.assignment.id.partition += 1;
    // Under each other's place.
    state.partitions.insert(ID, second.clone());
    state.partitions.insert(second.assignment.id, first);
    match Controller::decode(&state.encode()) {
        Err(InvalidForm::Invalid(Invalid { what, .. })) => assert_eq!(what, "partitions out of order"),
        other => panic!("{other:?}"),
    }
}
