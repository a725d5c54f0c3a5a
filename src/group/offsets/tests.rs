//! The fold of group records, by example and against its definition.

use std::time::Duration;

use super::*;
use proptest::prelude::*;

/// A log of one partition of `__consumer_offsets`, replayed as it grows.
#[derive(Default)]
struct Log {
    offsets: Offsets,
    end: Offset,
}

impl Log {
    fn append(&mut self, records: Vec<GroupRecord>, transaction: Option<ProducerId>) {
        for GroupRecord { key, value } in records {
            let record = LogRecord { position: self.end, key: Some(&key), value: value.as_deref(), transaction };
            self.offsets.replay(record).unwrap();
            self.end = self.end + 1;
        }
    }

    fn commit_at(&mut self, now: i64, group: &str, offset: u64, transaction: Option<ProducerId>) {
        let records = commit(group, &[orders(offset)], Timestamp(now), &GroupConfig::default()).unwrap();
        self.append(records, transaction);
    }

    fn commit(&mut self, offset: u64, transaction: Option<ProducerId>) {
        self.commit_at(1000, "billing", offset, transaction);
    }

    fn end(&mut self, producer: ProducerId, is_committed: bool) {
        self.offsets.end_transaction(producer, is_committed);
        self.end = self.end + 1;
    }

    fn committed(&self) -> Option<u64> {
        self.offsets.committed("billing", "orders", 0).map(|committed| committed.offset.0)
    }
}

fn orders(offset: u64) -> GroupOffset<'static> {
    GroupOffset { topic: "orders", partition: 0, offset: Offset(offset), leader_epoch: LeaderEpoch(3), metadata: "m" }
}

/// The records that commit these offsets.
fn commit(
    group: &str,
    commits: &[GroupOffset<'_>],
    now: Timestamp,
    config: &GroupConfig,
) -> Result<Vec<GroupRecord>> {
    let to_record = |(index, commit): (usize, &GroupOffset<'_>)| commit.to_record(group, index, now, None, config);
    commits.iter().enumerate().map(to_record).collect()
}

fn is_due(log: &Log, group: &str, now: i64, config: &GroupConfig) -> bool {
    log.offsets.offsets(group).any(|(.., committed)| committed.is_due(Timestamp(now), Timestamp::NONE, config))
}

const A: ProducerId = ProducerId(1);
const B: ProducerId = ProducerId(2);

#[test]
fn a_commit_counts_once_it_is_replayed() {
    let mut log = Log::default();
    let records = commit("billing", &[orders(7)], Timestamp(9), &GroupConfig::default()).unwrap();
    assert_eq!(log.committed(), None);
    log.append(records, None);
    let committed = log.offsets.committed("billing", "orders", 0).unwrap();
    assert_eq!((committed.offset, committed.leader_epoch), (Offset(7), LeaderEpoch(3)));
    assert_eq!((&*committed.metadata, committed.commit_timestamp), ("m", Timestamp(9)));
    assert_eq!(log.offsets.committed("billing", "orders", 1), None);
    assert_eq!(log.offsets.committed("other", "orders", 0), None);
    log.commit(3, None);
    assert_eq!(log.committed(), Some(3), "an offset may go back");
}

#[test]
fn a_commit_says_which_leader_wrote_what_it_follows() {
    let offset = GroupOffset::new("a", 0, Offset(3));
    assert_eq!(offset.leader_epoch, LeaderEpoch::NONE);
    assert_eq!(offset.leader_epoch(LeaderEpoch(7)).leader_epoch, LeaderEpoch(7));
}

#[test]
fn a_commit_in_a_transaction_waits_for_its_end() {
    let mut log = Log::default();
    log.commit(7, Some(A));
    assert_eq!((log.committed(), log.offsets.is_unstable("billing", "orders", 0)), (None, true));
    assert_eq!(log.offsets.groups().count(), 0);
    log.end(A, true);
    assert_eq!((log.committed(), log.offsets.is_unstable("billing", "orders", 0)), (Some(7), false));
    log.commit(9, Some(A));
    log.end(A, false);
    assert_eq!((log.committed(), log.offsets.is_unstable("billing", "orders", 0)), (Some(7), false));
    log.end(B, true);
    assert_eq!(log.committed(), Some(7), "a transaction without commits changes nothing");
}

#[test]
fn a_plain_commit_above_a_waiting_one_stays() {
    let mut log = Log::default();
    log.commit(10, Some(A));
    log.commit(11, None);
    log.end(A, true);
    assert_eq!(log.committed(), Some(11));
}

#[test]
fn of_two_transactions_the_higher_commit_holds_whichever_ends_first() {
    for first_ends_first in [true, false] {
        let mut log = Log::default();
        log.commit(1, Some(A));
        log.commit(2, Some(B));
        let order = if first_ends_first { [A, B] } else { [B, A] };
        order.into_iter().for_each(|producer| log.end(producer, true));
        assert_eq!(log.committed(), Some(2));
    }
}

/// A commit waited in a transaction, a tombstone above it was replayed, the transaction ended: the offset came
/// back. After compaction had removed the commit it did not, so two nodes disagreed.
#[test]
fn a_deleted_offset_does_not_come_back_from_an_older_transaction() {
    let mut log = Log::default();
    log.commit(1, None);
    log.commit(2, Some(A));
    log.append(vec![tombstone("billing", "orders", 0).unwrap()], None);
    log.end(A, true);
    assert_eq!(log.committed(), None);
    assert_eq!(log.offsets, Offsets::default(), "nothing is left behind");
}

#[test]
fn ids_and_texts_that_do_not_fit_are_refused() {
    let config = GroupConfig::default();
    let commit = |group: &str, offset| commit(group, &[orders(1), offset], Timestamp(1), &config).unwrap_err();
    assert!(matches!(check_group_id(""), Err(Error::InvalidGroupId { reason: "it is empty", .. })));
    let error = check_group_id(&"x".repeat(32_768)).unwrap_err();
    assert!(matches!(error, Error::InvalidGroupId { .. }) && error.to_string().len() < 200);
    let error = commit("g", GroupOffset { offset: Offset(1 << 63), ..orders(1) });
    assert!(matches!(error, Error::InvalidRecord { index: 1, .. }));
    let error = commit("g", GroupOffset { partition: 1 << 31, ..orders(1) });
    assert!(matches!(error, Error::InvalidRecord { index: 1, .. }));
}

/// Two units each outside the basic plane, one for a letter of three bytes.
#[test]
fn metadata_is_counted_in_utf_16_units() {
    let commit = |metadata: &str| {
        super::tests::commit("g", &[GroupOffset { metadata, ..orders(1) }], Timestamp(1), &GroupConfig::default())
    };
    assert!(commit(&"\u{20ac}".repeat(4096)).is_ok());
    assert!(commit(&"\u{1f600}".repeat(2048)).is_ok());
    let error = commit(&"\u{1f600}".repeat(2049)).unwrap_err();
    assert!(matches!(error, Error::TooLong { len: 4098, limit: 4096, .. }), "{error}");
}

#[test]
fn an_offset_expires_at_its_age_and_not_before() {
    let config = GroupConfig::default().offset_retention(Duration::from_millis(100));
    let mut log = Log::default();
    log.commit_at(1000, "billing", 1, None);
    log.commit_at(1050, "audit", 1, None);
    let due = |log: &Log, now, config: &GroupConfig| {
        let groups = log.offsets.groups().filter(|group| is_due(log, group, now, config));
        groups.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(due(&log, 1099, &config), Vec::<String>::new());
    assert_eq!(due(&log, 1100, &config), ["billing"]);
    assert_eq!(due(&log, 1150, &config), ["audit", "billing"]);
    assert_eq!(due(&log, 0, &config), Vec::<String>::new(), "the clock was set back");
    assert_eq!(due(&log, i64::MAX, &config.offset_retention(None)), Vec::<String>::new());
    assert_eq!(due(&log, 1000 + 7 * 24 * 3_600_000, &GroupConfig::default()), ["billing"]);
}

#[test]
fn a_commit_with_an_expiry_of_its_own_goes_by_that_alone() {
    let value = OffsetValue {
        offset: 1,
        leader_epoch: LeaderEpoch::NONE,
        metadata: "",
        commit_time: Timestamp(10),
        expire_time: Some(Timestamp(500)),
    };
    let mut log = Log::default();
    let key = offset_key("billing", "orders", 0).unwrap();
    log.append(vec![GroupRecord { key, value: value.encode() }], None);
    let short = GroupConfig::default().offset_retention(Duration::from_millis(1));
    assert!(!is_due(&log, "billing", 499, &short));
    assert!(is_due(&log, "billing", 500, &GroupConfig::default().offset_retention(None)));
}

#[test]
fn a_negative_offset_reads_as_none() {
    let mut log = Log::default();
    log.commit(5, None);
    let value = OffsetValue {
        offset: -1,
        leader_epoch: LeaderEpoch::NONE,
        metadata: "",
        commit_time: Timestamp(10),
        expire_time: None,
    };
    let key = offset_key("billing", "orders", 0).unwrap();
    log.append(vec![GroupRecord { key, value: value.encode() }], None);
    assert_eq!(log.committed(), None);
}

#[test]
fn an_unreadable_record_changes_nothing() {
    let mut log = Log::default();
    log.commit(5, None);
    let before = log.offsets.clone();
    let key = offset_key("billing", "orders", 0).unwrap();
    for (key, value) in
        [(None, None), (Some(&key[..9]), None), (Some(&key[..]), Some(&b"\0\x09"[..])), (Some(&[]), None)]
    {
        let record = LogRecord { position: log.end, key, value, transaction: None };
        assert!(log.offsets.replay(record).is_err());
        assert_eq!(log.offsets, before);
    }
}

/// One step of a log, small enough that steps meet.
#[derive(Debug, Clone)]
enum Step {
    /// Sets, or with no offset removes, an offset of one of a few groups and partitions.
    Offset {
        group: usize,
        partition: u32,
        offset: Option<u64>,
        transaction: Option<ProducerId>,
    },
    Group {
        group: usize,
        version: i16,
        is_there: bool,
    },
    End {
        producer: ProducerId,
        is_committed: bool,
    },
}

const GROUPS: [&str; 2] = ["audit", "billing"];

fn any_step() -> impl Strategy<Value = Step> {
    let producer = || prop_oneof![Just(A), Just(B)];
    prop_oneof![
        6 => (0..2_usize, 0..2_u32, prop::option::weighted(0.7, 0..100_u64), prop::option::of(producer()))
            .prop_map(|(group, partition, offset, transaction)| Step::Offset { group, partition, offset, transaction }),
        1 => (0..2_usize, 2..4_i16, any::<bool>())
            .prop_map(|(group, version, is_there)| Step::Group { group, version, is_there }),
        2 => (producer(), any::<bool>()).prop_map(|(producer, is_committed)| Step::End { producer, is_committed }),
    ]
}

/// A step at its place.
type Placed = (Offset, Step);

fn place(steps: Vec<Step>) -> Vec<Placed> {
    steps.into_iter().enumerate().map(|(at, step)| (Offset(at as u64), step)).collect()
}

fn key_of(step: &Step) -> Option<Vec<u8>> {
    match step {
        Step::Offset { group, partition, .. } => offset_key(GROUPS[*group], "orders", *partition),
        Step::Group { group, version, .. } => {
            let mut key = version.to_be_bytes().to_vec();
            crate::wire::put_str(&mut key, GROUPS[*group]);
            Some(key)
        }
        Step::End { .. } => None,
    }
}

fn replay(steps: &[Placed]) -> Offsets {
    let mut offsets = Offsets::default();
    for (position, step) in steps {
        let (value, transaction) = match step {
            Step::End { producer, is_committed } => {
                offsets.end_transaction(*producer, *is_committed);
                continue;
            }
            Step::Group { is_there, .. } => (is_there.then(|| b"anything".to_vec()), None),
            Step::Offset { offset, transaction, .. } => (offset.map(value_of), *transaction),
        };
        let key = key_of(step);
        let record = LogRecord { position: *position, key: key.as_deref(), value: value.as_deref(), transaction };
        offsets.replay(record).unwrap();
    }
    offsets
}

fn value_of(offset: u64) -> Vec<u8> {
    let commit_time = Timestamp(1);
    let offset = offset as i64;
    let value = OffsetValue { offset, leader_epoch: LeaderEpoch(0), metadata: "", commit_time, expire_time: None };
    value.encode().unwrap()
}

/// How the transaction that the step at `at` is part of ended: `Some(true)` for a plain step, too.
fn outcome(steps: &[Placed], at: usize) -> Option<bool> {
    let Step::Offset { transaction: Some(mine), .. } = steps[at].1 else { return Some(true) };
    steps[at..].iter().find_map(|(_, step)| match step {
        Step::End { producer, is_committed } if *producer == mine => Some(*is_committed),
        _ => None,
    })
}

/// The definition: of the records that count, the one with the highest position.
fn by_definition(steps: &[Placed], of_group: usize, of_partition: u32) -> Option<u64> {
    let about = |at: &usize| matches!(steps[*at].1, Step::Offset { group, partition, .. } if group == of_group && partition == of_partition);
    let last = (0..steps.len()).rev().filter(about).find(|at| outcome(steps, *at) == Some(true))?;
    let Step::Offset { offset, .. } = steps[last].1 else { return None };
    offset
}

/// What compaction leaves: no aborted record, the last of each key, and tombstones or not.
fn compacted(steps: &[Placed], keeps_tombstones: bool) -> Vec<Placed> {
    let counted: Vec<usize> = (0..steps.len()).filter(|at| outcome(steps, *at) == Some(true)).collect();
    let is_last = |at: &usize| {
        let key = key_of(&steps[*at].1);
        key.is_none() || counted.iter().rev().find(|other| key_of(&steps[**other].1) == key) == Some(at)
    };
    let is_tombstone =
        |step: &Step| matches!(step, Step::Offset { offset: None, .. } | Step::Group { is_there: false, .. });
    let left = counted.iter().filter(|at| is_last(at)).map(|at| steps[*at].clone());
    left.filter(|(_, step)| keeps_tombstones || !is_tombstone(step)).collect()
}

proptest! {
    #[test]
    fn state_is_what_the_definition_says(steps in prop::collection::vec(any_step(), 0..40)) {
        let steps = place(steps);
        let offsets = replay(&steps);
        for (group, name) in GROUPS.into_iter().enumerate() {
            for partition in 0..2 {
                let held = offsets.committed(name, "orders", partition).map(|committed| committed.offset.0);
                prop_assert_eq!(held, by_definition(&steps, group, partition));
            }
        }
    }

    /// Compacting a part in which all transactions ended changes nothing, then or later.
    #[test]
    fn state_is_the_same_before_and_after_compaction(
        older in prop::collection::vec(any_step(), 0..40),
        newer in prop::collection::vec(any_step(), 0..20),
        both_commit: bool,
        keeps_tombstones: bool,
    ) {
        let closed = [A, B].map(|producer| Step::End { producer, is_committed: both_commit });
        let older_count = older.len() + closed.len();
        let steps = place(older.into_iter().chain(closed).chain(newer).collect());
        let (older, newer) = steps.split_at(older_count);
        let after = [&compacted(older, keeps_tombstones)[..], newer].concat();
        prop_assert_eq!(replay(&after), replay(&steps));
    }
}
