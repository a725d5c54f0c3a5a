//! Short runs in which each call is failed, and the operations whose every sequence is run.

use super::op::{At, Batch, Change, Compaction, Ending, KEYED, Offsets, Op, Options, Sent, Transact};
use super::subject::Explored;
use crate::sim::explore::{End, Scenario};
use crate::{Cleanup, Durability, ReadPath};

const HERE: At = At { topic: 0, partition: 0 };

/// One of each kind whose order matters, without staging and with it.
pub(super) fn alphabets() -> Vec<(Options, Vec<Op>)> {
    let staged = Options { segment_bytes: 400, staging: Some(Options::STAGING), ..Options::TINY };
    let ops = vec![
        append(1, 60),
        append(2, 20),
        Op::Append(HERE, Batch { id: 3 << 8, count: 2, len: 60, timestamp: None }),
        Op::Sync,
        Op::Read(HERE, 1),
        Op::DeleteBefore(HERE, 255),
        Op::Alter(0, Change::Codec(true)),
        Op::Delete(0),
    ];
    vec![alphabet(), (staged, ops)]
}

fn alphabet() -> (Options, Vec<Op>) {
    let options = Options { segment_bytes: 256, retention_bytes: Some(0), ..Options::TINY };
    let ops = vec![
        append(1, 60),
        append(2, 170),
        Op::Sync,
        Op::Maintain,
        Op::DeleteBefore(HERE, 255),
        Op::Alter(0, Change::Durability(Durability::Each)),
        Op::Delete(0),
        Op::Commit(0, HERE, 1, 7),
    ];
    (options, ops)
}

/// The calls of each kind of operation, and of each kind of recovery.
pub(super) fn all() -> Vec<Scenario<Explored>> {
    let mapped = Options { read_path: ReadPath::Mapped, ..Options::TINY };
    let each = Options { durability: Durability::Each, index_interval: 64, ..Options::TINY };
    let records = |from: u64, count: u64| (from..from + count).map(|number| append(number, 60)).collect::<Vec<_>>();
    let used = [records(1, 7), vec![raw(20, Sent::Next), Op::Sync], records(30, 3), vec![commit(1)]].concat();
    let ends = [
        ("after close", End::Close),
        ("after kill", End::Kill),
        ("after crash", End::Crash(1)),
        ("after another crash", End::Crash(2)),
        ("after a third crash", End::Crash(5)),
    ];
    let mut all = Vec::new();
    let staged = Options { staging: Some(Options::STAGING), ..Options::TINY };
    all.extend(of_staging());
    all.extend(of_transactions());
    for options in [mapped, each, staged] {
        let mut add = |name, setup: &[Op], end, ops: Vec<Op>| {
            all.push(Scenario { name, options, setup: setup.to_vec(), end, ops });
        };
        // The short ones first: what goes wrong in a few calls is found in a few calls.
        add("open of nothing", &[], End::Close, vec![append(1, 8), Op::Sync]);
        add("first sync", &[], End::Close, vec![append(1, 60), append(2, 60), Op::Sync, append(3, 60), Op::Sync]);
        add("first roll", &[], End::Close, records(1, 6));
        add("first delete", &[], End::Close, vec![append(1, 20), Op::Delete(0), append(2, 20), Op::Delete(0)]);
        add("first sync after a kill", &records(1, 3), End::Kill, vec![append(9, 60), Op::Sync]);
        let numbered =
            |number: u64| Op::Numbered(HERE, Batch { id: number << 8, count: 1, len: 60, timestamp: None });
        let ops = vec![numbered(1), numbered(2), append(3, 60), numbered(4), Op::Sync, numbered(5), numbered(6)];
        add("numbered", &[], End::Close, ops.clone());
        add("numbered after a kill", &ops, End::Kill, vec![numbered(9), append(10, 20), numbered(11), Op::Sync]);
        add("append by length", &[], End::Close, vec![append(1, 8), append(2, 60), append(3, 200), append(4, 20)]);
        for (name, end) in ends {
            add(name, &used, end, vec![append(50, 20), raw(51, Sent::Again(0)), raw(52, Sent::Next)]);
        }
        add("roll", &used, End::Close, [records(50, 5), vec![Op::Maintain], records(60, 2)].concat());
        add("sync", &used, End::Kill, vec![Op::Sync, append(50, 20), Op::Sync, append(51, 20), Op::Sync]);
        add("maintain", &used, End::Kill, vec![append(50, 200), append(51, 200), Op::Sync, Op::Maintain]);
        let retain = Op::Alter(0, Change::Bytes(Some(0)));
        add("retention", &used, End::Close, vec![retain, Op::Maintain, append(50, 20), Op::Maintain]);
        let delete = vec![Op::DeleteBefore(HERE, 128), append(50, 20), Op::DeleteBefore(HERE, 255), append(51, 20)];
        add("delete before", &used, End::Kill, delete.clone());
        add("delete before, after close", &used, End::Close, delete);
        add("backup", &used, End::Kill, vec![append(50, 20), Op::Backup, append(51, 20)]);
        let topics = vec![Op::Delete(0), append(50, 20), Op::Alter(0, Change::Partition), append(51, 20)];
        add("topics", &used, End::Close, topics);
        let groups = vec![commit(2), commit(3), Op::DeleteGroup(0), commit(4)];
        add("groups", &used, End::Crash(3), groups);
        let end = Op::CommitEnd(0, HERE);
        let unsynced = vec![append(50, 20), end, Op::Delete(0), append(51, 20), end, append(52, 20), end];
        add("groups, not synced", &used, End::Crash(3), unsynced);
        add("reads", &used, End::Close, vec![Op::Read(HERE, 77), Op::OffsetAt(HERE, 5), Op::ReadLast(HERE, 4)]);
        add("read-only", &used, End::Close, vec![append(50, 20), Op::LookOnly, append(51, 20)]);
    }
    all
}

/// What is about the slot itself.
fn of_staging() -> Vec<Scenario<Explored>> {
    let plain = Options { staging: Some(Options::STAGING), segment_bytes: 600, ..Options::TINY };
    let packed = Options { is_compressed: true, ..plain };
    let of =
        |len: u16, from: u64, count: u64| (from..from + count).map(|number| append(number, len)).collect::<Vec<_>>();
    let small = |from: u64, count: u64| of(12, from, count);
    // From the first one on.
    let read = Op::Read(HERE, 0);
    let later = [Op::Advance(61), Op::Maintain];
    let mut all = Vec::new();
    for options in [plain, packed] {
        let mut add = |name, setup: &[Op], end, ops: Vec<Op>| {
            all.push(Scenario { name, options, setup: setup.to_vec(), end, ops });
        };
        add("slot", &[], End::Close, [small(1, 3), vec![read], small(4, 2), vec![Op::Sync, read]].concat());
        add("laps", &[], End::Close, [small(1, 12), vec![read]].concat());
        add("left", &small(1, 3), End::Kill, [small(4, 1), vec![read, Op::Sync]].concat());
        // What a failed sync leaves of a file is chance, and the shorter it is, the more was staged behind its end.
        for (name, len) in [("left, and a roll", 12), ("left, and another roll", 9), ("left, and a third roll", 20)] {
            add(name, &of(len, 1, 9), End::Kill, [of(len, 10, 9), vec![read]].concat());
        }
        add("left, and another codec", &small(1, 3), End::Kill, {
            vec![Op::Alter(0, Change::Codec(true)), append(4, 12), Op::Alter(0, Change::Codec(false)), append(5, 12)]
        });
        add("lingering", &small(1, 2), End::Kill, [&later[..], &later, &small(3, 2)].concat());
        add("deleted", &small(1, 2), End::Kill, vec![Op::Delete(0), append(3, 12), Op::Delete(0), append(4, 12)]);
        add("raised", &small(1, 2), End::Kill, vec![Op::DeleteBefore(HERE, 255), append(3, 12)]);
        // Longer than a slot takes: it is written, and if that fails in part, the next one is staged where it was.
        add("after a write", &small(1, 2), End::Close, [vec![append(3, 520)], small(4, 2)].concat());
        add("others", &small(1, 2), End::Kill, vec![raw(9, Sent::Next), append(3, 12), append(4, 300), commit(1)]);
    }
    all
}

/// What counts together or not at all, offsets of groups among it. There are many calls in each: some are for what is
/// staged, some for what is not.
fn of_transactions() -> Vec<Scenario<Explored>> {
    let plain = Options { partitions: 2, ..Options::TINY }.with_transactions();
    let staged = Options { staging: Some(Options::STAGING), ..plain };
    let mut all = Vec::new();
    let mut add = |name, options, setup: &[Op], end, ops: Vec<Op>| {
        all.push(Scenario { name, options, setup: setup.to_vec(), end, ops });
    };
    let setup = [commit(1), transact(1, 0, Ending::Commit), append(20, 20), transact(2, 1, Ending::Prepare)];
    let ends = [Ending::CommitWritten, Ending::Abort, Ending::Commit].map(|ending| transact(3, 0, ending));
    let resolve = |is_commit| vec![Op::Resolve(1, is_commit), commit(3), transact(4, 1, Ending::Commit)];
    add("transactions", plain, &setup, End::Kill, ends.to_vec());
    add("transactions, staged", staged, &setup, End::Kill, ends.to_vec());
    add("what is prepared is committed", staged, &setup, End::Kill, resolve(true));
    add("what is prepared is aborted", plain, &setup, End::Crash(1), resolve(false));
    let deleted = vec![Op::Delete(0), Op::Resolve(1, true), commit(4)];
    add("offsets that wait, and their topic is deleted", plain, &setup, End::Kill, deleted);
    let others = vec![Op::Retake(0), Op::DeleteGroup(0), Op::Delete(0), Op::Resolve(1, true)];
    add("what is prepared, and a group and a topic are deleted", staged, &setup, End::Close, others);

    let compaction = Some(Compaction { cleanup: Cleanup::Compact, tombstones: 0, lag: 0, dirty_ratio: 0.0 });
    let options = Options { compaction, partitions: 1, ..plain };
    let ends = [Ending::Commit, Ending::Abort, Ending::CommitWritten, Ending::Abort];
    let again = ends.into_iter().zip(0..).map(|(ending, number)| keyed(&transact(number, 0, ending))).collect();
    let ops = [again, vec![Op::Maintain; 3], vec![Op::Advance(61)], vec![Op::Maintain; 3]].concat();
    let setup = [keyed(&transact(9, 1, Ending::Commit)), keyed(&transact(8, 1, Ending::Abort)), Op::Sync];
    add("compacted transactions", options, &setup, End::Kill, ops);
    all
}

/// The same, of a topic that is compacted.
fn keyed(op: &Op) -> Op {
    match *op {
        Op::Transact(transact) => {
            let batch = Batch { id: transact.batch.id | KEYED, ..transact.batch };
            Op::Transact(Transact { batch, ..transact })
        }
        other => other,
    }
}

fn append(number: u64, len: u16) -> Op {
    Op::Append(HERE, batch(number, len))
}

fn batch(number: u64, len: u16) -> Batch {
    Batch { id: number << 8, count: 1, len, timestamp: None }
}

fn raw(number: u64, sent: Sent) -> Op {
    Op::Raw(HERE, batch(number, 20), 0, sent)
}

/// A transaction of two partitions, in which a group commits as well.
fn transact(number: u64, seat: u8, ending: Ending) -> Op {
    let batch = Batch { count: 3, ..batch(10 + number, 20) };
    let offsets = Some(Offsets { group: 0, count: 1, offset: number });
    Op::Transact(Transact { seat, at: HERE, spread: 2, batch, offsets, ending })
}

fn commit(offset: u64) -> Op {
    Op::Commit(0, HERE, 2, offset)
}
