//! Histories at random, all short ones, and what is read from bytes.

use std::collections::HashSet;
use std::fmt::{self, Write};
use std::hash::{DefaultHasher, Hasher};

use proptest::prelude::*;

use super::super::world::{Op, World};
use super::*;

fn any_id() -> impl Strategy<Value = PartitionId> {
    (0..2_u8, 0..2_u32)
        .prop_map(|(topic, partition)| PartitionId { topic: TopicId::from_bytes([topic; 16]), partition })
}

fn any_member() -> impl Strategy<Value = Member> {
    (0..4_u32, 1..4_u64).prop_map(|(node, life)| in_life(node, life))
}

fn any_nodes() -> impl Strategy<Value = Vec<NodeId>> {
    prop::collection::vec((0..5_u32).prop_map(NodeId), 0..4)
}

fn any_loss() -> impl Strategy<Value = Loss> {
    prop_oneof![
        3 => Just(Loss::Nothing),
        1 => prop::collection::vec(any_id(), 0..3).prop_map(Loss::Partitions),
        1 => Just(Loss::Everything),
    ]
}

fn any_producer() -> impl Strategy<Value = ProducerId> {
    prop_oneof![Just(-1), (1_i64 << 40)..(1 << 40) + 5_000, any::<i64>()].prop_map(ProducerId)
}

fn any_command() -> impl Strategy<Value = Command> {
    let lives = prop::collection::vec(any_member().prop_map(|member| member.incarnation), 0..4);
    let up = (any_member(), lives, any_loss());
    let members = prop::collection::vec(any_member(), 0..4);
    let change = (any_id(), any_member(), 0..5_i32, 0..6_u64, members);
    let made = (any_id(), any_nodes(), 0..4_u32);
    prop_oneof![
        4 => up.prop_map(|(member, continues, lost)| Command::NodeUp { member, continues, lost }),
        2 => any_member().prop_map(|member| Command::NodeDown { member }),
        1 => (any_member(), any_producer()).prop_map(|(member, above)| Command::ReserveProducerIds { member, above }),
        1 => (any_member(), any_id(), 0..5_i32).prop_map(|(member, id, epoch)| {
            Command::Lost { member, id, leader_epoch: LeaderEpoch(epoch) }
        }),
        2 => change.prop_map(|(id, leader, epoch, version, in_sync)| {
            Command::InSync(InSyncChange { id, leader, leader_epoch: LeaderEpoch(epoch), version, in_sync })
        }),
        3 => made.prop_map(|(id, replicas, min_in_sync)| Command::Create { id, replicas, min_in_sync }),
        1 => (0..2_u8).prop_map(|topic| Command::Delete { topic: TopicId::from_bytes([topic; 16]) }),
        1 => (any_id(), 0..4_u32).prop_map(|(id, min_in_sync)| Command::SetMinInSync { id, min_in_sync }),
        2 => (any_id(), any_nodes()).prop_map(|(id, replicas)| Command::Reassign { id, replicas }),
        1 => any_id().prop_map(|id| Command::ElectPreferred { id }),
        1 => (any_id(), 0..4_u32).prop_map(|(id, node)| Command::ElectUnclean { id, node: NodeId(node) }),
    ]
}

/// In place of a change that was made up, one that a leader might ask for.
fn made_fit(controller: &Controller, command: Command) -> Command {
    let Command::InSync(change) = command else { return command };
    let Some(known) = controller.assignment(change.id) else { return Command::InSync(change) };
    let (Some(leader), true) = (known.leader, change.version > 0) else { return Command::InSync(change) };
    let last = |member: Member| controller.nodes().find(|known| known.node == member.node).unwrap_or(member);
    let in_sync = change.in_sync.into_iter().map(last).chain([leader]).collect::<BTreeSet<_>>();
    let Assignment { id, leader_epoch, version, .. } = *known;
    Command::InSync(InSyncChange { id, leader, leader_epoch, version, in_sync: in_sync.into_iter().collect() })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Whatever happens to nodes and messages, nothing that is committed is lost.
    #[test]
    fn no_sequence_of_events_breaks_an_invariant(bytes in prop::collection::vec(any::<u8>(), 1..400)) {
        World::run(&bytes).map_err(TestCaseError::fail)?;
    }

    /// Over several partitions, with commands that nobody would send.
    #[test]
    fn any_history_leaves_a_state_that_can_be(commands in prop::collection::vec(any_command(), 0..60)) {
        let (mut controller, mut replayed) = (Controller::default(), Controller::default());
        let mut reserved_to = 0;
        for (at, command) in commands.into_iter().enumerate() {
            let command = made_fit(&controller, command);
            let before = controller.clone();
            match controller.apply(&command) {
                Err(refused) => prop_assert_eq!(&controller, &before, "{}", refused),
                Ok(outcome) => {
                    let ids = |list: &[Assignment]| list.iter().map(|known| known.id).collect::<Vec<_>>();
                    if let Some(ReservedIds { first, count, .. }) = outcome.reserved {
                        prop_assert!(first.0 >= reserved_to, "{} is reserved again", first.0);
                        reserved_to = first.0 + i64::from(count);
                    }
                    prop_assert!(ids(&outcome.changed).is_sorted() && outcome.deleted.is_sorted());
                    for now in &outcome.changed {
                        let before = before.assignment(now.id);
                        prop_assert_eq!(Some(now), controller.assignment(now.id));
                        prop_assert_eq!(now.version, before.map_or(0, |before| before.version + 1));
                        let is_same = before.is_some_and(|before| before.leader_epoch == now.leader_epoch);
                        prop_assert!(!is_same || before.is_some_and(|before| before.leader == now.leader));
                    }
                }
            }
            prop_assert_eq!(controller.check(), Ok(()));
            // One that begins from a snapshot, or reads its commands from bytes, goes the same way.
            if at % 7 == 0 {
                replayed = Controller::decode(&replayed.encode())?;
            }
            let _ = replayed.apply(&Command::decode(&command.encode())?);
            prop_assert_eq!(&replayed, &controller);
        }
    }

    #[test]
    fn a_command_reads_back_and_one_that_changed_does_not(
        command in any_command(),
        bit in any::<prop::sample::Index>(),
        len in any::<prop::sample::Index>(),
    ) {
        let bytes = command.encode();
        prop_assert_eq!(Command::decode(&bytes), Ok(command));
        prop_assert!(Command::decode(&bytes[..len.index(bytes.len())]).is_err());
        let mut flipped = bytes;
        let bit = bit.index(flipped.len() * 8);
        flipped[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Command::decode(&flipped).is_err());
    }
}

/// What may come next, of which all sequences are tried: two nodes that hold a partition, and what can go wrong in
/// between.
fn steps() -> [Op; 11] {
    [
        Op::Proceed(0),
        Op::Proceed(1),
        Op::Report(1),
        Op::Deliver(1),
        Op::Expand(0),
        Op::Shrink(0, 1),
        Op::Hear(0, u8::MAX),
        Op::Apply(1),
        Op::Lose(1, 0),
        Op::Down(0),
        Op::Wipe(1),
    ]
}

/// Two of two are in sync, or one of them, with a record; and as many, or more, have to be.
fn starts() -> Vec<World> {
    let mut starts = Vec::new();
    for min_in_sync in [1, 2] {
        let mut both = World::new(min_in_sync).unwrap();
        let settle = [Op::Reassign(3), Op::Apply(0), Op::Proceed(0), Op::Proceed(1), Op::Commit(0)];
        settle.into_iter().for_each(|op| both.step(op).unwrap());
        let mut one = both.clone();
        [Op::Shrink(0, 1), Op::Apply(0), Op::Hear(0, u8::MAX)].into_iter().for_each(|op| one.step(op).unwrap());
        starts.extend([both, one]);
    }
    starts
}

/// Tries all sequences of so many steps, each world once. Returns how many worlds there are.
fn explore(depth: usize) -> Result<usize, String> {
    let (mut seen, mut worlds) = (HashSet::new(), starts());
    for _ in 0..depth {
        let mut next = Vec::new();
        for world in &worlds {
            for op in steps() {
                let mut world = world.clone();
                world.step(op)?;
                if seen.insert(digest(&world)) {
                    next.push(world);
                }
            }
        }
        worlds = next;
    }
    Ok(seen.len())
}

fn digest(world: &World) -> u64 {
    struct Digest(DefaultHasher);
    impl Write for Digest {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.write(text.as_bytes());
            Ok(())
        }
    }
    let mut digest = Digest(DefaultHasher::new());
    write!(digest, "{world:?}").unwrap();
    digest.0.finish()
}

#[test]
fn no_invariant_breaks_within_five_events() {
    let count = explore(5).unwrap();
    println!("{count} worlds within 5 events");
    assert!(count > 1_000, "{count} are not all");
}
