//! What must hold for any bytes at all. The fuzzers call these with bytes they find, the tests with bytes they make.

use super::controller::framed;
use super::controller::world::World;
use super::message::mend;
use super::{Command, Controller, Incarnation, Loss, Member, Message};
use crate::types::NodeId;

/// Any bytes as a message, once as they are and once with the head mended: refused, or written as the same bytes again.
pub fn message(bytes: &[u8]) {
    let mut mended = bytes.to_vec();
    mend(&mut mended);
    for bytes in [bytes, &mended] {
        if let Ok(message) = Message::decode(bytes) {
            let mut again = Vec::new();
            message.encode(&mut again);
            assert_eq!(again, bytes);
        }
        assert!(Message::decode_limited(bytes, bytes.len().saturating_sub(1)).is_err());
    }
}

/// Any bytes as what happens to nodes that hold a partition: nothing that is committed is lost. Once more they are a
/// command and a state, with their frames and without: refused, or written as the same bytes again; and whatever
/// state it is, commands lead to others that can be.
pub fn controller(bytes: &[u8]) {
    assert_eq!(World::run(bytes), Ok(()));
    let [command, state] = framed(bytes);
    for bytes in [bytes, &command] {
        if let Ok(command) = Command::decode(bytes) {
            assert_eq!(command.encode(), bytes);
        }
    }
    for bytes in [bytes, &state] {
        if let Ok(controller) = Controller::decode(bytes) {
            assert_eq!(controller.encode(), bytes);
            go_on(controller);
        }
    }
}

fn go_on(mut controller: Controller) {
    let members: Vec<_> = controller.nodes().collect();
    let partitions: Vec<_> = controller.assignments().cloned().collect();
    let mut commands = Vec::new();
    for member in members {
        let incarnation = Incarnation(member.incarnation.0.wrapping_add(1));
        let (next, continues) = (Member { incarnation, ..member }, vec![member.incarnation]);
        commands.extend([
            Command::NodeDown { member },
            Command::NodeUp { member: next, continues, lost: Loss::Nothing },
            Command::NodeUp { member, continues: Vec::new(), lost: Loss::Everything },
        ]);
    }
    for known in partitions {
        let (id, leader_epoch, mut replicas) = (known.id, known.leader_epoch, known.replicas);
        let node = replicas.first().copied().unwrap_or(NodeId(0));
        replicas.reverse();
        replicas.push(NodeId(u32::MAX));
        commands.extend(known.in_sync.iter().map(|member| Command::Lost { member: *member, id, leader_epoch }));
        commands.extend([
            Command::ElectUnclean { id, node },
            Command::Reassign { id, replicas },
            Command::SetMinInSync { id, min_in_sync: 2 },
            Command::ElectPreferred { id },
        ]);
    }
    for command in commands {
        let before = controller.clone();
        if controller.apply(&command).is_err() {
            assert_eq!(controller, before);
        }
        // To be read back is to be a state that can be.
        assert_eq!(Controller::decode(&controller.encode()).as_ref(), Ok(&controller), "{command:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_entry_takes_any_bytes(bytes: Vec<u8>, kind in 0..6_u8, head: [u8; 32]) {
            message(&bytes);
            controller(&bytes);
            let mut head = head.repeat(3);
            head[5] = kind;
            message(&head);
        }

        /// A history to begin with, its state with a few bytes changed, and what may follow.
        #[test]
        fn a_state_that_changed_is_refused_or_goes_on(
            nodes in 1..5_u32,
            min_in_sync in 1..4_u32,
            changes in prop::collection::vec((any::<prop::sample::Index>(), 0..5_u8), 0..3),
        ) {
            let mut state = Controller::default();
            let topic = crate::types::TopicId::from_bytes([7; 16]);
            for node in (0..nodes).map(NodeId) {
                let member = Member { node, incarnation: Incarnation(u64::from(node.0) + 7) };
                state.apply(&Command::NodeUp { member, continues: Vec::new(), lost: Loss::Nothing })?;
            }
            for partition in 0..2 {
                let id = crate::replica::PartitionId { topic, partition };
                let replicas = (0..nodes).map(NodeId).collect();
                state.apply(&Command::Create { id, replicas, min_in_sync })?;
                state.apply(&Command::Reassign { id, replicas: vec![NodeId(nodes)] })?;
            }
            let bytes = state.encode();
            let mut inner = bytes[5..bytes.len() - 4].to_vec();
            for (at, value) in changes {
                let at = at.index(inner.len());
                inner[at] = value;
            }
            controller(&inner);
        }
    }
}
