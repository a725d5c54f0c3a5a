//! Groups with members, on the simulated disk and clock: what is answered is there after any crash.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests fail as tests do")]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::coordinate::offsets_config;
use super::names::OFFSETS_TOPIC;
use super::{Background, Log, LogBuilder, Reply, Staging};
use crate::config::{GroupConfig, TopicConfig};
use crate::error::{Error, ErrorKind, GroupError, Result};
use crate::group::{
    Answer, Caller, DescribedGroup, Generation, GroupOffset, GroupState, Heartbeat, JoinGroup, Joined, LeaveGroup,
    LeavingMember, OffsetCommit, Protocol, Request, SyncGroup,
};
use crate::partition::Ack;
use crate::record::Record;
use crate::sim::{DiskOptions, Errno, Fault, Record as Recording, SimDisk, SimEntropy, Times};
use crate::types::Offset;

/// Two lives of a log must not draw the same ids.
static OPENED: AtomicU64 = AtomicU64::new(1);

const SESSION: Duration = Duration::from_secs(10);

fn open_with(disk: &Arc<SimDisk>, staging: Staging) -> Result<Log> {
    builder(disk, staging).open()
}

fn builder(disk: &Arc<SimDisk>, staging: Staging) -> LogBuilder {
    let groups = GroupConfig::default().initial_rebalance_delay(Duration::ZERO);
    Log::builder("/log")
        .disk(Arc::clone(disk) as _)
        .clock(disk.clock())
        .entropy(Arc::new(SimEntropy::new(OPENED.fetch_add(1, Ordering::Relaxed))))
        .background(Background::Caller)
        .staging(staging)
        .groups(groups)
        .offsets_topic(offsets_config(&groups).segment_bytes(8192).set("segment.index.bytes", "240").unwrap())
        .strict()
}

fn open(disk: &Arc<SimDisk>) -> Result<Log> {
    open_with(disk, Staging::Off)
}

/// A disk with a log of a topic, and a small one for groups.
fn disk() -> Arc<SimDisk> {
    let disk = SimDisk::new(DiskOptions::default());
    let log = open(&disk).unwrap();
    log.topic(OFFSETS_TOPIC).unwrap();
    let small = TopicConfig::default().segment_bytes(4096).set("segment.index.bytes", "240").unwrap();
    log.create_topic("a", small).unwrap();
    log.close().unwrap();
    disk.kill()
}

fn join(uuid: u128, member_id: &str) -> JoinGroup {
    let mut join = JoinGroup::new("g", uuid);
    join.member_id = member_id.into();
    join.client_id = "c".into();
    join.session_timeout = SESSION;
    join.rebalance_timeout = SESSION;
    join.needs_member_id = false;
    join.protocols = vec![Protocol { name: "range".into(), metadata: (*b"m").into() }];
    join
}

fn caller(joined: &Joined) -> Caller {
    Caller { member_id: joined.member_id.clone(), instance_id: None, generation: joined.generation }
}

fn sync(joined: &Joined) -> SyncGroup {
    let assigned = joined.members.iter().map(|member| (member.member_id.clone(), member.member_id.as_bytes().into()));
    SyncGroup {
        group: "g".into(),
        caller: caller(joined),
        protocol_type: None,
        protocol: None,
        assignments: assigned.collect(),
    }
}

fn heartbeat(log: &Log, joined: &Joined) -> Result<Answer> {
    log.ask_coordinator(Request::Heartbeat(Heartbeat { group: "g".into(), caller: caller(joined) })).wait()
}

fn leave(log: &Log, joined: &Joined) -> Result<Answer> {
    let members = vec![LeavingMember { member_id: joined.member_id.clone(), instance_id: None }];
    log.ask_coordinator(Request::Leave(LeaveGroup { group: "g".into(), members })).wait()
}

fn commit(log: &Log, caller: Caller, offset: u64, ack: Ack) -> Result<Answer> {
    let offsets = [GroupOffset::new("a", 0, Offset(offset))];
    let commit = OffsetCommit::of("g", caller, &offsets, &GroupConfig::default())?;
    log.ask_coordinator_with(Request::CommitOffsets(commit), ack).wait()
}

fn describe(log: &Log) -> Result<DescribedGroup> {
    match log.ask_coordinator(Request::Describe { group: "g".into() }).wait()? {
        Answer::Described(described) => Ok(described),
        other => panic!("{other:?}"),
    }
}

fn joined(answer: Option<Result<Answer>>) -> Joined {
    match answer {
        Some(Ok(Answer::Joined(joined))) => joined,
        other => panic!("{other:?}"),
    }
}

fn now(mut reply: Reply) -> Option<Result<Answer>> {
    reply.wait_for(Duration::ZERO)
}

fn refusal(answer: Result<Answer>) -> GroupError {
    match answer {
        Err(Error::GroupRefused { group, reason }) if *group == *"g" => reason,
        other => panic!("{other:?}"),
    }
}

/// A group of one member that has its assignment.
fn one_member(log: &Log) -> Result<Joined> {
    let Answer::Joined(joined) = log.ask_coordinator(Request::Join(join(1, ""))).wait()? else { panic!() };
    match log.ask_coordinator(Request::Sync(sync(&joined))).wait()? {
        Answer::Synced(synced) => assert_eq!(*synced.assignment, *joined.member_id.as_bytes()),
        other => panic!("{other:?}"),
    }
    Ok(joined)
}

#[test]
fn members_join_and_one_that_is_silent_makes_room_for_the_other() {
    let disk = disk();
    let log = open(&disk).unwrap();
    let one = one_member(&log).unwrap();

    // The second waits until the first comes, too.
    let mut other = log.ask_coordinator(Request::Join(join(2, "")));
    assert!(other.wait_for(Duration::ZERO).is_none());
    assert_eq!(refusal(heartbeat(&log, &one)), GroupError::RebalanceInProgress);
    let one = joined(now(log.ask_coordinator(Request::Join(join(1, &one.member_id)))));
    let other = joined(other.wait_for(Duration::ZERO));
    assert_eq!((one.generation, other.generation, one.members.len()), (Generation(2), Generation(2), 2));

    // So does its assignment wait for the leader's.
    let mut synced = log.ask_coordinator(Request::Sync(sync(&other)));
    assert!(synced.wait_for(Duration::ZERO).is_none());
    assert!(matches!(log.ask_coordinator(Request::Sync(sync(&one))).wait(), Ok(Answer::Synced(_))));
    let Some(Ok(Answer::Synced(synced))) = synced.wait_for(Duration::ZERO) else { panic!() };
    assert_eq!(*synced.assignment, *other.member_id.as_bytes());

    // One is heard of no more. Maintenance tells when to look.
    let mut waited = Duration::ZERO;
    while describe(&log).unwrap().state == Some(GroupState::Stable) {
        assert_eq!(heartbeat(&log, &one).unwrap(), Answer::Alive);
        let next = log.maintain().unwrap().next.max(Duration::from_millis(1));
        disk.clock().advance(next.min(SESSION / 4));
        waited += next.min(SESSION / 4);
        log.maintain().unwrap();
        assert!(waited <= SESSION * 2, "{waited:?}");
    }
    assert!(waited >= SESSION, "{waited:?}");
    let alone = joined(now(log.ask_coordinator(Request::Join(join(1, &one.member_id)))));
    assert_eq!((alone.generation, alone.members.len()), (Generation(3), 1));
    assert_eq!(refusal(heartbeat(&log, &other)), GroupError::UnknownMemberId);
    assert_eq!(refusal(commit(&log, caller(&other), 1, Ack::Synced)), GroupError::UnknownMemberId);
}

#[test]
fn who_is_no_member_commits_for_no_group_that_has_some() {
    let log = open(&disk()).unwrap();
    let one = one_member(&log).unwrap();
    let group = log.group("g").unwrap();
    let refused = group.commit("a", 0, Offset(1)).unwrap_err();
    assert!(matches!(refused, Error::GroupRefused { reason: GroupError::UnknownMemberId, .. }), "{refused}");
    let refused = group.delete().unwrap_err();
    assert!(matches!(refused, Error::GroupRefused { reason: GroupError::NonEmptyGroup, .. }), "{refused}");
    assert_eq!(commit(&log, caller(&one), 1, Ack::Synced).unwrap(), Answer::Committed(vec![Ok(())]));
    leave(&log, &one).unwrap();
    group.commit("a", 0, Offset(2)).unwrap();
    assert_eq!(group.committed("a", 0).unwrap().unwrap().offset, Offset(2));
    group.delete().unwrap();
    assert!(describe(&log).is_err());
}

/// Counts how often it is woken.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_reply_is_a_future_that_maintenance_brings_to_its_end() {
    let disk = disk();
    let log = open(&disk).unwrap();
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let mut context = Context::from_waker(&waker);
    let Answer::Joined(one) = log.ask_coordinator(Request::Join(join(1, ""))).wait().unwrap() else { panic!() };

    // What is to be durable waits for a sync.
    let mut synced = pin!(log.ask_coordinator(Request::Sync(sync(&one))));
    assert!(synced.as_mut().poll(&mut context).is_pending());
    assert!(log.wait_due(Duration::from_secs(60)).unwrap(), "somebody is asked to sync");
    log.maintain().unwrap();
    assert_eq!(bell.0.load(Ordering::Relaxed), 1);
    assert!(matches!(synced.as_mut().poll(&mut context), Poll::Ready(Ok(Answer::Synced(_)))));
    assert!(matches!(synced.as_mut().poll(&mut context), Poll::Ready(Err(Error::Closed))), "it was taken");

    // And what waits for others, for them.
    let mut other = pin!(log.ask_coordinator(Request::Join(join(2, ""))));
    assert!(other.as_mut().poll(&mut context).is_pending());
    let _ = joined(now(log.ask_coordinator(Request::Join(join(1, &one.member_id)))));
    assert_eq!(bell.0.load(Ordering::Relaxed), 2);
    assert!(matches!(other.as_mut().poll(&mut context), Poll::Ready(Ok(Answer::Joined(_)))));
}

#[test]
fn who_waits_when_the_log_is_closed_is_told_so() {
    let log = open(&disk()).unwrap();
    let one = one_member(&log).unwrap();
    let mut other = log.ask_coordinator(Request::Join(join(2, "")));
    assert!(other.wait_for(Duration::ZERO).is_none());
    log.clone().close().unwrap();
    assert!(matches!(other.wait_for(Duration::ZERO), Some(Err(Error::Closed))));
    assert!(matches!(heartbeat(&log, &one), Err(Error::Closed)));
}

#[test]
fn a_log_that_is_only_read_tells_of_groups_and_changes_none() {
    let disk = disk();
    let log = open(&disk).unwrap();
    let one = one_member(&log).unwrap();
    let before = describe(&log).unwrap();
    log.close().unwrap();
    let log = Log::builder("/log").disk(disk.kill()).clock(disk.clock()).read_only().open().unwrap();
    assert_eq!(describe(&log).unwrap(), before);
    let Answer::Groups(groups) = log.ask_coordinator(Request::List(Default::default())).wait().unwrap() else {
        panic!()
    };
    assert_eq!(groups.len(), 1);
    assert!(matches!(heartbeat(&log, &one), Err(Error::ReadOnly)));
}

/// A life of a group up to the first error, and how many steps of it were answered: a member has its assignment, commits,
/// and leaves.
fn live(log: &Log) -> (usize, Result<()>) {
    let mut done = 0;
    let mut step = || -> Result<()> {
        let one = one_member(log)?;
        done += 1;
        commit(log, caller(&one), 1, Ack::Synced)?;
        done += 1;
        leave(log, &one)?;
        done += 1;
        Ok(())
    };
    let result = step();
    (done, result)
}

/// How far the log has come, as it tells.
fn told(log: &Log) -> usize {
    let Ok(described) = describe(log) else { return 0 };
    let committed = log.group("g").unwrap().committed("a", 0).unwrap();
    match (described.members.len(), committed.map(|committed| committed.offset.0)) {
        (1, None) => 1,
        (1, Some(1)) => 2,
        (0, Some(1)) => 3,
        other => panic!("{other:?} of {described:?}"),
    }
}

#[test]
fn a_crash_at_any_call_finds_what_was_answered_or_one_step_more() {
    let disk = disk();
    disk.record(Recording::All);
    let log = open(&disk).unwrap();
    let mut ends = vec![disk.calls()];
    let one = one_member(&log).unwrap();
    ends.push(disk.calls());
    commit(&log, caller(&one), 1, Ack::Synced).unwrap();
    ends.push(disk.calls());
    leave(&log, &one).unwrap();
    ends.push(disk.calls());
    let mut found = 0;
    for moment in disk.take_moments().into_iter().filter(|moment| moment.call >= ends[0]) {
        let done = ends.iter().filter(|end| **end <= moment.call).count() - 1;
        let clock = disk.clock().fork();
        let mut disks = vec![SimDisk::on(moment.image.clone(), Arc::clone(&clock))];
        if !moment.during {
            disks.extend((0..4).map(|seed| SimDisk::on(moment.image.crash(seed), clock.fork())));
        }
        for disk in disks {
            let log = open(&disk).unwrap();
            let told_then = told(&log);
            assert!((done..=done + 1).contains(&told_then), "call {}: {told_then}, not {done}", moment.call);
            // What was told is there once more.
            assert_eq!(told(&open(&disk.crash(1)).unwrap()), told_then);
            found += 1;
        }
    }
    assert!(found > 50, "{found}");
}

#[test]
fn an_error_at_any_call_is_told_and_what_was_answered_before_is_there() {
    let calls = {
        let disk = disk();
        live(&open(&disk).unwrap()).1.unwrap();
        disk.calls()
    };
    let mut failed = 0;
    for (errno, times) in [(Errno::Io, Times::Once), (Errno::Full, Times::Once), (Errno::Full, Times::Dead)] {
        for call in 0..calls {
            let disk = disk();
            disk.inject(call, Fault::Error(errno), times);
            let Ok(log) = open(&disk) else { continue };
            let (done, result) = live(&log);
            disk.heal();
            if let Err(error) = result {
                assert!(matches!(error.kind(), ErrorKind::Io | ErrorKind::Full), "{call}: {error}");
                failed += 1;
            }
            for seed in 0..2 {
                let told = told(&open(&disk.crash(seed)).unwrap());
                assert!((done..=done + 1).contains(&told), "{errno:?} {times:?} at {call}: {told}, not {done}");
            }
        }
    }
    assert!(failed > 10, "{failed}");
}

/// The group went on behind what was lost, where others had appended meanwhile.
#[test]
fn an_offset_that_nobody_synced_passes_over_no_record_after_a_power_cut() {
    let (mut lowered, mut kept) = (0, 0);
    for staging in [Staging::On, Staging::Off] {
        let disk = disk();
        let log = open_with(&disk, staging).unwrap();
        let group = log.group("g").unwrap();
        log.append(Record::new("0").to("a")).unwrap().wait(Ack::Synced).unwrap();
        for end in 2..20_u64 {
            log.append(Record::new("more").to("a")).unwrap();
            group.commit_with(&[GroupOffset::new("a", 0, Offset(end))], Ack::Written).unwrap();
        }
        for seed in 0..40 {
            let disk = disk.crash(seed);
            let log = open_with(&disk, staging).unwrap();
            let end = log.topic("a").unwrap().partition(0).unwrap().offsets().end;
            let committed = log.group("g").unwrap().committed("a", 0).unwrap().map(|committed| committed.offset);
            assert!(committed <= Some(end), "{committed:?} of {end}");
            *(if committed == Some(end) { &mut lowered } else { &mut kept }) += 1;
            // Also if the next power cut comes at once, and takes what only the open had written.
            log.append(Record::new("new").to("a")).unwrap().wait(Ack::Synced).unwrap();
            let log = open_with(&disk.crash(seed), staging).unwrap();
            let committed = log.group("g").unwrap().committed("a", 0).unwrap().map(|committed| committed.offset);
            assert!(committed <= Some(end), "{committed:?} of {end}, and one that is new");
        }
        // A kill takes nothing.
        let log = open_with(&disk.kill(), staging).unwrap();
        assert_eq!(log.group("g").unwrap().committed("a", 0).unwrap().unwrap().offset, Offset(19));
    }
    assert!(lowered > 10 && kept > 0, "{lowered}, {kept}");
}

/// A commit in a transaction, which never came to count, took the mark from the one below it.
#[test]
fn an_offset_that_nobody_synced_is_lowered_also_below_one_of_a_transaction_that_was_aborted() {
    let mut lowered = 0;
    for is_aborted in [true, false] {
        let disk = disk();
        let log = open(&disk).unwrap();
        let group = log.group("g").unwrap();
        let mut producer = log.producer().transactional("p").unwrap();
        log.append(Record::new("0").to("a")).unwrap().wait(Ack::Synced).unwrap();
        (2..20).for_each(|_| _ = log.append(Record::new("more").to("a")).unwrap());
        group.commit_with(&[GroupOffset::new("a", 0, Offset(19))], Ack::Written).unwrap();
        let mut transaction = producer.begin().unwrap();
        transaction.commit_offsets(&group, &[GroupOffset::new("a", 0, Offset(1))]).unwrap();
        if is_aborted {
            transaction.abort().unwrap();
        } else {
            std::mem::forget(transaction);
        }
        for seed in 0..40 {
            let log = open(&disk.crash(seed)).unwrap();
            let end = log.topic("a").unwrap().partition(0).unwrap().offsets().end;
            let committed = log.group("g").unwrap().committed("a", 0).unwrap().map(|committed| committed.offset);
            assert!(committed <= Some(end), "{committed:?} of {end}");
            lowered += usize::from(committed == Some(end));
        }
    }
    assert!(lowered > 10, "{lowered}");
}

/// What is left of a partition at an open need not be durable: the offset was lowered to its end, as one that counts, and the
/// next power cut took records from below it.
#[test]
fn an_offset_that_was_lowered_is_lowered_again() {
    let mut lowered = 0;
    for staging in [Staging::On, Staging::Off] {
        let disk = disk();
        let log = open_with(&disk, staging).unwrap();
        (0..10).for_each(|_| _ = log.append(Record::new("more").to("a")).unwrap());
        log.group("g").unwrap().commit_with(&[GroupOffset::new("a", 0, Offset(99))], Ack::Written).unwrap();
        let disk = disk.kill();
        let log = open_with(&disk, staging).unwrap();
        assert_eq!(log.group("g").unwrap().committed("a", 0).unwrap().unwrap().offset, Offset(10));
        for seed in 0..40 {
            let log = open_with(&disk.crash(seed), staging).unwrap();
            let end = log.topic("a").unwrap().partition(0).unwrap().offsets().end;
            let committed = log.group("g").unwrap().committed("a", 0).unwrap().map(|committed| committed.offset);
            assert!(committed <= Some(end), "{committed:?} of {end}");
            lowered += usize::from(end < Offset(10));
        }
    }
    assert!(lowered > 10, "{lowered}");
}

/// The log did not open: to lower an offset counted as an append like any other.
#[test]
fn an_offset_is_lowered_on_a_full_disk_or_nothing_is_appended_below_it() {
    let disk = disk();
    let log = open(&disk).unwrap();
    log.append(Record::new("0").to("a")).unwrap().wait(Ack::Synced).unwrap();
    (2..20).for_each(|_| _ = log.append(Record::new("more").to("a")).unwrap());
    log.group("g").unwrap().commit_with(&[GroupOffset::new("a", 0, Offset(19))], Ack::Written).unwrap();
    let look = |log: &Log| {
        let committed = log.group("g").unwrap().committed("a", 0).unwrap().map(|committed| committed.offset);
        (committed, log.topic("a").unwrap().partition(0).unwrap().offsets().end)
    };
    let (mut lowered, mut refused) = (0, 0);
    for seed in 0..30 {
        let crashed = disk.crash(seed);
        let calls = crashed.calls();
        let low = builder(&crashed, Staging::Off).min_free_bytes(u64::MAX).open().unwrap();
        let (found, end) = look(&low);
        assert!(found <= Some(end), "{found:?} of {end}");
        if found != Some(end) || lowered == 6 {
            continue;
        }
        lowered += 1;
        // What the log appends then finds no room at all.
        for call in calls..crashed.calls() {
            let disk = disk.crash(seed);
            disk.inject(call, Fault::Error(Errno::Full), Times::Dead);
            let opened = open(&disk);
            disk.heal();
            let Ok(log) = opened else { continue };
            let appended = log.append(Record::new("new").to("a")).map(drop);
            if log
                .group("g")
                .unwrap()
                .committed("a", 0)
                .is_ok_and(|found| found.is_some_and(|found| found.offset > end))
            {
                assert!(matches!(appended, Err(Error::Poisoned { .. })), "{appended:?}");
                refused += 1;
            }
            drop(log);
            let log = open(&disk).unwrap();
            let _ = log.append(Record::new("new").to("a")).unwrap();
            let (found, end) = look(&log);
            assert!(found < Some(end), "{found:?} of {end}, and one that is new");
        }
    }
    assert!(lowered > 3 && refused > 0, "{lowered}, {refused}");
}

/// The log woke who waited for an answer while it held its own locks: a task that asked it for something stood still for ever.
#[test]
fn who_is_told_that_the_log_closes_may_call_it() {
    struct Calls(Log, AtomicUsize);
    impl Wake for Calls {
        fn wake(self: Arc<Self>) {
            assert!(matches!(self.0.delete_topic("none"), Err(Error::Closed)));
            assert!(matches!(self.0.maintain(), Err(Error::Closed)));
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }
    let disk = disk();
    let log = open(&disk).unwrap();
    one_member(&log).unwrap();
    let mut other = pin!(log.ask_coordinator(Request::Join(join(2, ""))));
    let calls = Arc::new(Calls(log.clone(), AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&calls));
    assert!(other.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    log.clone().close().unwrap();
    assert_eq!(calls.1.load(Ordering::SeqCst), 1);
}

/// One that was synced may lie above the end for a reason: who committed it knows of records to come.
#[test]
fn an_offset_above_the_end_that_was_synced_stays() {
    let disk = disk();
    let log = open(&disk).unwrap();
    log.group("g").unwrap().commit("a", 0, Offset(7)).unwrap();
    let log = open(&disk.crash(0)).unwrap();
    assert_eq!(log.group("g").unwrap().committed("a", 0).unwrap().unwrap().offset, Offset(7));
}

/// A commit failed, and so did what was to clear away what it may have left. It came back with the next open, and a topic
/// of the name that was made meanwhile was passed over.
#[test]
fn a_commit_that_failed_does_not_outlive_its_topic_nor_its_group() {
    let appended = |log: &Log| _ = log.append(Record::new("x").to("a")).unwrap();
    let mut came_to_it = [0; 2];
    for (call, deletes_topic) in (0..6).flat_map(|call| [(call, true), (call, false)]) {
        let disk = disk();
        let log = open(&disk).unwrap();
        (0..3).for_each(|_| appended(&log));
        // Of nothing that goes: to remove it would write over what failed.
        log.group("other").unwrap().commit("b", 0, Offset(1)).unwrap();
        disk.inject(disk.calls() + call, Fault::Partly(usize::MAX), Times::Next(2));
        let committed = log.group("g").unwrap().commit("a", 0, Offset(3));
        disk.heal();
        let deleted = match deletes_topic {
            true => log.delete_topic("a"),
            false => log.group("g").unwrap().delete(),
        };
        drop(log);
        let log = open(&disk.kill()).unwrap();
        if deleted.is_ok() {
            came_to_it[usize::from(deletes_topic)] += u64::from(committed.is_err());
            let found = log.group("g").unwrap().committed("a", 0).unwrap();
            assert!(found.is_none(), "{found:?}, call {call}, of the topic: {deletes_topic}");
        }
    }
    assert!(came_to_it.iter().all(|count| *count > 0), "{came_to_it:?}");
}

/// The same, where the process died before it had synced the cut.
#[test]
fn a_commit_that_was_cut_off_does_not_come_back_from_the_disk() {
    let disk = disk();
    let log = open(&disk).unwrap();
    log.group("other").unwrap().commit("b", 0, Offset(1)).unwrap();
    // All is known to be on the disk, so that nobody who opens it has anything to sync.
    (0..3).for_each(|_| {
        disk.clock().advance(SESSION);
        log.maintain().unwrap();
    });
    // The write fails behind its last byte.
    disk.inject(disk.calls(), Fault::Partly(usize::MAX), Times::Once);
    disk.record(Recording::All);
    log.group("g").unwrap().commit("a", 0, Offset(3)).unwrap_err();
    let (moments, mut cut) = (disk.take_moments(), 0);
    for (moment, seed) in moments.iter().flat_map(|moment| (0..100).map(move |seed| (moment, seed))) {
        let disk = SimDisk::on(moment.image.clone(), disk.clock().fork());
        let log = open(&disk).unwrap();
        let committed = log.group("g").unwrap().committed("a", 0).unwrap();
        if committed.is_some() {
            // It died before the cut: the commit is found, and told.
            continue;
        }
        log.delete_topic("a").unwrap();
        let found = open(&disk.crash(seed)).unwrap().group("g").unwrap().committed("a", 0).unwrap();
        assert!(found.is_none(), "{found:?}, call {}, seed {seed}", moment.call);
        cut += 1;
    }
    assert!(cut >= 100, "{cut}");
}

/// Offsets that are committed in a transaction, at a moment at which another group has something to store, too.
#[test]
fn what_the_time_brings_to_other_groups_is_no_part_of_a_transaction() {
    let disk = disk();
    let log = open(&disk).unwrap();
    one_member(&log).unwrap();
    let mut producer = log.producer().transactional("t").unwrap();
    let mut transaction = producer.begin().unwrap();
    transaction.send(Record::new("x").to("a")).unwrap();
    // Nobody looked since the member's session was over.
    disk.clock().advance(SESSION);
    let other = log.group("other").unwrap();
    transaction.commit_offsets(&other, &[GroupOffset::new("a", 0, Offset(1))]).unwrap();
    transaction.commit().unwrap();
    assert_eq!(other.committed("a", 0).unwrap().map(|committed| committed.offset), Some(Offset(1)));
    drop((other, producer, log));
    let log = open(&disk.crash(3)).unwrap();
    assert_eq!(log.group("other").unwrap().committed("a", 0).unwrap().unwrap().offset, Offset(1));
}
