//! Each rule by an example, then all of them against histories.

mod admin;
mod life;
mod members;
mod property;
mod reassign;

use super::*;
use crate::types::LeaderEpoch;

const ID: PartitionId = PartitionId { topic: TopicId::from_bytes([7; 16]), partition: 0 };

/// A node in its first life.
const fn member(node: u32) -> Member {
    in_life(node, 1)
}

const fn in_life(node: u32, life: u64) -> Member {
    Member { node: NodeId(node), incarnation: Incarnation(node as u64 * 100 + life) }
}

const A: Member = member(0);
const B: Member = member(1);
const C: Member = member(2);
const D: Member = member(3);

fn nodes<const N: usize>(members: [Member; N]) -> Vec<NodeId> {
    members.map(|member| member.node).to_vec()
}

/// What a node says that begins a life after these.
fn up(member: Member, after: &[Member], lost: Loss) -> Command {
    Command::NodeUp { member, continues: after.iter().map(|member| member.incarnation).collect(), lost }
}

fn down(member: Member) -> Command {
    Command::NodeDown { member }
}

fn create<const N: usize>(id: PartitionId, replicas: [Member; N], min_in_sync: u32) -> Command {
    Command::Create { id, replicas: nodes(replicas), min_in_sync }
}

/// Four nodes that live, and a partition that some of them hold.
fn with<const N: usize>(replicas: [Member; N], min_in_sync: u32) -> Controller {
    let mut controller = Controller::default();
    for member in [A, B, C, D] {
        controller.done(up(member, &[], Loss::Nothing));
    }
    controller.done(create(ID, replicas, min_in_sync));
    controller
}

impl Controller {
    /// Applies what must be applied, and checks all that must hold.
    fn done(&mut self, command: Command) -> Outcome {
        let outcome = self.apply(&command).unwrap_or_else(|refused| panic!("{command:?}: {refused}"));
        assert_eq!(self.check(), Ok(()), "{command:?}");
        outcome
    }

    /// Why it is not.
    fn refuses(&mut self, command: Command) -> Refused {
        let before = self.clone();
        let refused = self.apply(&command).expect_err("refused");
        assert_eq!(*self, before, "{command:?}");
        refused
    }

    fn now(&self) -> &Assignment {
        self.assignment(ID).unwrap()
    }

    fn eligible(&self, id: PartitionId) -> &[Member] {
        self.assignment(id).map_or(&[], |known| &known.eligible)
    }

    /// What a member says that lost something, and has heard of all so far.
    fn loses(&self, member: Member) -> Command {
        Command::Lost { member, id: ID, leader_epoch: self.now().leader_epoch }
    }

    /// Who leads, in which epoch, and who is in sync.
    fn led(&self) -> (Option<Member>, i32, &[Member]) {
        let Assignment { leader, leader_epoch, ref in_sync, .. } = *self.now();
        (leader, leader_epoch.0, in_sync)
    }

    /// What the leader asks for in the state that it knows.
    fn asks<const N: usize>(&self, in_sync: [Member; N]) -> Command {
        let Assignment { id, version, leader, leader_epoch, .. } = *self.now();
        let leader = leader.unwrap();
        Command::InSync(InSyncChange { id, leader, leader_epoch, version, in_sync: in_sync.to_vec() })
    }
}
