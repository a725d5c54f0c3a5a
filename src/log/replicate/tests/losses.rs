//! What a node says of itself, and what it does when its disk fails.

use super::*;
use crate::sim::{Errno, Fault, Times};

impl Trio {
    /// What node `id` says that it has lost.
    fn lost(&self, id: u32) -> Vec<PartitionId> {
        match self.log(id).registration() {
            Some(Command::NodeUp { lost: Loss::Nothing, .. }) => vec![],
            Some(Command::NodeUp { lost: Loss::Partitions(lost), .. }) => lost,
            other => panic!("{other:?}"),
        }
    }

    fn disk(&self, id: u32) -> &SimDisk {
        &self.nodes[&NodeId(id)].disk
    }
}

#[test]
fn a_node_has_lost_something_after_a_power_cut_unless_all_was_synced() {
    let filled = |config| {
        let mut trio = Trio::new(config);
        trio.append(1, &["a", "b", "c"]);
        trio.pass(200);
        assert_eq!(trio.ends(), [3; 3]);
        trio
    };
    let mut trio = filled(small());
    trio.kill(2);
    trio.start(2);
    assert_eq!(trio.lost(2), []);
    trio.pass(200);
    trio.crash(2, 5);
    trio.start(2);
    assert_eq!(trio.lost(2), [ID]);

    let mut trio = filled(each());
    trio.crash(2, 5);
    trio.start(2);
    assert_eq!((trio.lost(2), trio.ends()), (vec![], vec![3; 3]), "all that it acknowledged was synced");

    let mut trio = filled(small());
    trio.log(2).clone().close().unwrap();
    trio.crash(2, 5);
    trio.start(2);
    assert_eq!((trio.lost(2), trio.ends()), (vec![], vec![3; 3]), "an orderly close syncs");
}

/// What a salvage cut out nobody knows, also of a node that was only killed.
#[test]
fn a_node_that_was_salvaged_has_lost_something() {
    for config in [small(), each()] {
        let mut trio = Trio::new(config);
        trio.append(1, &["a", "b", "c"]);
        trio.pass(200);
        trio.kill(2);
        let node = trio.nodes.get_mut(&NodeId(2)).unwrap();
        node.lives += 1;
        node.log = Some(builder(node, NodeId(2), &trio.clock).recovery(RecoveryMode::Salvage).open().unwrap());
        assert_eq!(trio.lost(2), [ID]);
    }
}

/// One that only refused would be elected again and again.
#[test]
fn a_poisoned_node_that_is_to_lead_says_that_it_has_lost_something() {
    let mut trio = Trio::new(each());
    trio.append(1, &["a"]);
    trio.muted = Some(NodeId(2));
    let mut values = (0..200).map(|number| number.to_string());
    while !trio.partition(2).core.is_poisoned() {
        let disk = trio.disk(2);
        disk.inject(disk.calls() + 1, Fault::Error(Errno::Io), Times::Once);
        let value = values.next().expect("a sync fails");
        trio.append(1, &[&value]);
    }
    trio.disk(2).heal();
    let member = trio.log(2).member().unwrap();
    trio.nodes[&NodeId(2)].outbox.1.lock().clear();
    let mut to_lead = trio.controller.assignment(ID).unwrap().clone();
    (to_lead.version, to_lead.leader_epoch) = (to_lead.version + 1, LeaderEpoch(to_lead.leader_epoch.0 + 1));
    to_lead.leader = Some(member);
    assert!(trio.log(2).assume(&to_lead).is_err());
    let said: Vec<_> = trio.nodes[&NodeId(2)].outbox.1.lock().drain(..).collect();
    let is_lost = |command: &Command| matches!(command, Command::Lost { member: of, id: ID, .. } if *of == member);
    assert!(said.iter().any(is_lost), "{said:?}");
    assert!(matches!(trio.partition(2).append("x"), Err(Error::Poisoned { .. } | Error::NotLeader { .. })));
}

/// What was altered in part would be one thing in memory and another after the next open.
#[test]
fn settings_that_could_not_be_altered_are_as_they_were() {
    let mut failures = 0;
    for at in 0..40 {
        let mut trio = Trio::new(small());
        trio.append(1, &["a", "b"]);
        let disk = trio.disk(1);
        disk.inject(disk.calls() + at, Fault::Error(Errno::Full), Times::Once);
        let altered = trio.log(1).alter_topic("t", each());
        trio.disk(1).heal();
        let rule = trio.partition(1).core.config.read().sync_rule();
        match altered {
            Ok(()) => assert_eq!((rule, trio.log(1).topic("t").unwrap().config()), (Durability::Each, each())),
            Err(_) => {
                failures += 1;
                assert_eq!(
                    (rule, trio.log(1).topic("t").unwrap().config()),
                    (small().sync_rule(), small()),
                    "call {at}"
                );
            }
        }
    }
    assert!(failures > 3, "{failures}");
}
