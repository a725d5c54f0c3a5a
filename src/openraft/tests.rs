//! Raft logs on a real disk: what each call does, and what is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests fail as tests do")]

use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{LogState, RaftLogReader};

use super::record::Part;
use super::shared::Amount;
use super::testing::*;
use super::*;
use crate::client::typed::CodecError;
use crate::{Background, Compression, Offset, Record};

fn open() -> (tempfile::TempDir, Log, Stored) {
    let dir = tempfile::tempdir().unwrap();
    let log = reopen(&dir);
    let raft_log = Stored::open(&log, "raft", 0).unwrap();
    (dir, log, raft_log)
}

fn reopen(dir: &tempfile::TempDir) -> Log {
    Log::builder(dir.path()).background(Background::Caller).open().unwrap()
}

/// What openraft can ask for.
fn seen(log: &Log, raft_log: &mut Stored) -> impl PartialEq + std::fmt::Debug + use<> {
    run(log, async {
        let state = raft_log.get_log_state().await.unwrap();
        let entries = raft_log.try_get_log_entries(..).await.unwrap();
        (state, entries, raft_log.read_vote().await.unwrap(), raft_log.read_committed().await.unwrap())
    })
}

fn ids(entries: &[openraft::Entry<Types>]) -> Vec<LogId<u64>> {
    entries.iter().map(|entry| entry.log_id).collect()
}

fn read(log: &Log, raft_log: &mut Stored, range: std::ops::Range<u64>) -> Vec<LogId<u64>> {
    ids(&run(log, raft_log.try_get_log_entries(range)).unwrap())
}

fn append(
    log: &Log,
    raft_log: &mut Stored,
    entries: impl IntoIterator<Item = openraft::Entry<Types>>,
) -> Outcome<()> {
    let entries: Vec<_> = entries.into_iter().collect();
    run(log, raft_log.blocking_append(entries))
}

fn message(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(|error| error.to_string()).collect::<Vec<_>>().join(": ")
}

#[test]
fn a_raft_log_is_the_same_after_it_was_opened_again() {
    type Step = fn(&Log, &mut Stored) -> Outcome<()>;
    let steps: [Step; 13] = [
        |log, raft_log| run(log, raft_log.save_vote(&Vote::new(1, 1))),
        |log, raft_log| append(log, raft_log, (0..10).map(|index| entry(1, index))),
        |log, raft_log| run(log, raft_log.save_committed(Some(id(1, 3)))),
        |log, raft_log| run(log, raft_log.truncate(id(1, 7))),
        |log, raft_log| run(log, raft_log.save_vote(&Vote::new_committed(2, 1))),
        |log, raft_log| append(log, raft_log, (7..9).map(|index| entry(2, index))),
        |log, raft_log| run(log, raft_log.purge(id(1, 2))),
        |log, raft_log| run(log, raft_log.truncate(id(1, 3))),
        |log, raft_log| append(log, raft_log, [entry(3, 3)]),
        |log, raft_log| run(log, raft_log.purge(id(3, 3))),
        |log, raft_log| run(log, raft_log.save_committed(None)),
        |log, raft_log| run(log, raft_log.purge(id(3, 20))),
        |log, raft_log| append(log, raft_log, [entry(3, 21)]),
    ];
    let (dir, mut log, mut raft_log) = open();
    for (number, step) in steps.into_iter().enumerate() {
        step(&log, &mut raft_log).unwrap();
        let before = seen(&log, &mut raft_log);
        drop(raft_log);
        log.close().unwrap();
        log = reopen(&dir);
        raft_log = RaftLog::open(&log, "raft", 0).unwrap();
        assert_eq!(seen(&log, &mut raft_log), before, "step {number}");
    }
    let state = run(&log, raft_log.get_log_state()).unwrap();
    assert_eq!(state, LogState { last_purged_log_id: Some(id(3, 20)), last_log_id: Some(id(3, 21)) });
}

#[test]
fn the_callback_waits_for_the_sync_and_the_entries_do_not() {
    let (_dir, log, mut raft_log) = open();
    let partition = raft_log.partition().clone();
    let before = partition.offsets();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut reader = raft_log.get_log_reader().await;
        let mut appended = std::pin::pin!(raft_log.blocking_append([entry(1, 0), entry(1, 1)]));
        for _ in 0..10 {
            let polled = std::future::poll_fn(|context| {
                context.waker().wake_by_ref();
                std::task::Poll::Ready(appended.as_mut().poll(context))
            });
            assert!(polled.await.is_pending());
            tokio::task::yield_now().await;
        }
        assert_eq!(ids(&reader.try_get_log_entries(..).await.unwrap()), [id(1, 0), id(1, 1)]);
        assert_eq!(partition.offsets().synced, before.synced);
        log.maintain().unwrap();
        appended.await.unwrap();
        assert_eq!(partition.offsets().synced, partition.offsets().end);
    });
}

#[test]
fn entries_are_found_behind_whatever_lies_between_them() {
    let (_dir, log, mut raft_log) = open();
    for index in 0..20 {
        append(&log, &mut raft_log, [entry(1, index)]).unwrap();
        run(&log, raft_log.save_committed(Some(id(1, index)))).unwrap();
        if index == 12 {
            run(&log, raft_log.truncate(id(1, 12))).unwrap();
            append(&log, &mut raft_log, [entry(2, 12)]).unwrap();
        }
    }
    assert_eq!(read(&log, &mut raft_log, 11..14), [id(1, 11), id(2, 12), id(1, 13)]);
    assert_eq!(read(&log, &mut raft_log, 0..100).len(), 20);
    assert_eq!(read(&log, &mut raft_log, 20..25), []);
    run(&log, raft_log.purge(id(1, 5))).unwrap();
    assert_eq!(read(&log, &mut raft_log, 3..7), [id(1, 6)]);
    let missing = run(&log, raft_log.limited_get_log_entries(5, 8)).unwrap_err();
    assert!(missing.into_defensive().is_some(), "what begins elsewhere is no answer");
    assert_eq!(ids(&run(&log, raft_log.limited_get_log_entries(6, 8)).unwrap()), [id(1, 6), id(1, 7)]);
}

#[test]
fn a_limited_read_returns_the_first_entries_and_not_all() {
    let (_dir, log, mut raft_log) = open();
    let text = "x".repeat(1 << 20);
    for index in 0..4 {
        append(&log, &mut raft_log, [with_text(1, index, &text)]).unwrap();
    }
    let entries = run(&log, raft_log.limited_get_log_entries(1, 4)).unwrap();
    assert_eq!(ids(&entries), [id(1, 1)]);
    assert_eq!(read(&log, &mut raft_log, 0..4).len(), 4);
}

#[test]
fn entries_that_are_too_many_for_a_batch_go_into_several() {
    let (dir, log, raft_log) = open();
    drop(raft_log);
    log.alter_topic("raft", topic_config().max_message_bytes(2000)).unwrap();
    let mut raft_log = Stored::open(&log, "raft", 0).unwrap();
    append(&log, &mut raft_log, (0..100).map(|index| entry(1, index))).unwrap();
    assert_eq!(read(&log, &mut raft_log, 0..200).len(), 100);

    let entries = [entry(1, 100), with_text(1, 101, &"x".repeat(2000)), entry(1, 102)];
    let error = append(&log, &mut raft_log, entries).unwrap_err();
    let message = message(&error);
    assert!(message.contains("entry 101") && message.contains("max.message.bytes"), "{message}");
    assert!(message.contains("raft-0") && message.contains("2000"), "{message}");
    // What was before it is there, and is followed.
    append(&log, &mut raft_log, [entry(1, 101)]).unwrap();
    let before = seen(&log, &mut raft_log);
    drop((log, raft_log));
    let log = reopen(&dir);
    assert_eq!(seen(&log, &mut RaftLog::open(&log, "raft", 0).unwrap()), before);
}

#[test]
fn holes_and_repetitions_are_refused() {
    let (_dir, log, mut raft_log) = open();
    append(&log, &mut raft_log, [entry(1, 5)]).unwrap();
    for odd in [4, 5, 7] {
        let error = append(&log, &mut raft_log, [entry(2, odd)]).unwrap_err();
        assert!(error.into_defensive().is_some(), "{odd}");
    }
    assert!(append(&log, &mut raft_log, [entry(2, 6), entry(2, 8)]).is_err());
    assert_eq!(read(&log, &mut raft_log, 0..10), [id(1, 5)], "nothing of what was refused is there");
    run(&log, raft_log.purge(id(1, 5))).unwrap();
    assert!(append(&log, &mut raft_log, [entry(2, 7)]).is_err(), "a hole behind what was purged");
    append(&log, &mut raft_log, [entry(1, 4), entry(1, 5)]).unwrap();
    assert_eq!(read(&log, &mut raft_log, 0..10), [], "what is purged already is passed over");
    assert!(run(&log, raft_log.truncate(id(1, 5))).unwrap_err().into_defensive().is_some());
    append(&log, &mut raft_log, [entry(2, 6)]).unwrap();
}

#[test]
fn what_changes_nothing_appends_nothing() {
    let (_dir, log, mut raft_log) = open();
    append(&log, &mut raft_log, (0..4).map(|index| entry(1, index))).unwrap();
    run(&log, raft_log.purge(id(1, 1))).unwrap();
    let end = raft_log.partition().offsets().end;
    run(&log, raft_log.purge(id(1, 1))).unwrap();
    run(&log, raft_log.purge(id(1, 0))).unwrap();
    run(&log, raft_log.truncate(id(1, 4))).unwrap();
    append(&log, &mut raft_log, []).unwrap();
    assert_eq!(raft_log.partition().offsets().end, end);
}

#[test]
fn a_purge_removes_files_and_an_offset_is_no_index() {
    let (dir, log, raft_log) = open();
    drop(raft_log);
    log.alter_topic("raft", topic_config().segment_bytes(4096)).unwrap();
    let mut raft_log = Stored::open(&log, "raft", 0).unwrap();
    run(&log, raft_log.save_vote(&Vote::new(7, 1))).unwrap();
    run(&log, raft_log.save_committed(Some(id(1, 50)))).unwrap();
    for index in 0..200 {
        append(&log, &mut raft_log, [entry(1, index)]).unwrap();
    }
    let count = raft_log.partition().segments().len();
    assert!(count > 4, "{count}");
    run(&log, raft_log.purge(id(1, 150))).unwrap();
    assert!(raft_log.partition().segments().len() < count / 2);
    // The vote was in a file that is gone, and the entry after the purge is where it was.
    assert_eq!(raft_log.partition().offsets().start, Offset(153));
    let before = seen(&log, &mut raft_log);
    drop((log, raft_log));
    let log = reopen(&dir);
    let mut raft_log = RaftLog::open(&log, "raft", 0).unwrap();
    assert_eq!(seen(&log, &mut raft_log), before);
    assert_eq!(run(&log, raft_log.read_vote()).unwrap(), Some(Vote::new(7, 1)));
    assert_eq!(run(&log, raft_log.read_committed()).unwrap(), Some(id(1, 50)));
    assert_eq!(read(&log, &mut raft_log, 0..300).len(), 49);
}

/// Replication reads while openraft purges.
#[test]
fn a_read_beside_a_purge_finds_what_is_left() {
    let (_dir, log, raft_log) = open();
    drop(raft_log);
    log.alter_topic("raft", topic_config().segment_bytes(1024)).unwrap();
    let mut raft_log = Stored::open(&log, "raft", 0).unwrap();
    let mut reader = run(&log, raft_log.get_log_reader());
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reads = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut count = 0;
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) || count == 0 {
                let entries = runtime.block_on(reader.try_get_log_entries(..)).unwrap();
                let indexes: Vec<u64> = entries.iter().map(|entry| entry.log_id.index).collect();
                assert!(indexes.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{indexes:?}");
                count += 1;
            }
        });
        for index in 0..600 {
            append(&log, &mut raft_log, [entry(1, index)]).unwrap();
            if index % 5 == 4 {
                run(&log, raft_log.purge(id(1, index - 2))).unwrap();
            }
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        reads.join().unwrap();
    });
    assert!(raft_log.partition().offsets().start > Offset(300));
}

/// As above, at the one moment that counts: where the entries are was looked up, and they are not there any more.
#[test]
fn entries_that_went_after_they_were_looked_up_are_looked_up_again() {
    let (_dir, log, raft_log) = open();
    drop(raft_log);
    log.alter_topic("raft", topic_config().segment_bytes(1024)).unwrap();
    let mut raft_log = Stored::open(&log, "raft", 0).unwrap();
    for index in 0..40 {
        append(&log, &mut raft_log, [entry(1, index)]).unwrap();
    }
    let shared = Arc::clone(&raft_log.shared);
    let (first, offsets) = shared.state.read().slice(0..40);
    assert_eq!(shared.read(first, &offsets, Amount::All).unwrap().map(|entries| entries.len()), Some(40));
    run(&log, raft_log.purge(id(1, 30))).unwrap();
    assert!(raft_log.partition().offsets().start > Offset::ZERO);
    assert_eq!(shared.read(first, &offsets, Amount::All).unwrap(), None);
    assert_eq!(
        ids(&shared.entries(0..40, Amount::All).unwrap()),
        (31..40).map(|index| id(1, index)).collect::<Vec<_>>()
    );
}

#[test]
fn a_partition_of_something_else_is_refused_by_name_and_offset() {
    let flaws: [(&[u8], &str); 5] = [
        (b"paid", "does not begin as one"),
        (b"", "too short"),
        (b"R\x01V\0\0\0\x04true", "cannot decode the vote"),
        (b"R\x01E\0\0\0\0\0\0\0\x05{}", "does not follow"),
        (b"R\x02E\0\0\0\0\0\0\0\x05{}", "version 2, this build reads up to 1"),
    ];
    for (value, reason) in flaws {
        let (_dir, log, mut raft_log) = open();
        append(&log, &mut raft_log, [entry(1, 0)]).unwrap();
        log.topic("raft").unwrap().append(Record::new(value)).unwrap();
        let error = Stored::open(&log, "raft", 0).unwrap_err();
        let message = message(&error);
        let named = ["offset 1 of raft-0", reason].into_iter().all(|part| message.contains(part));
        assert!(named, "{message}");
    }
    let (_dir, log, raft_log) = open();
    drop(raft_log);
    log.topic("raft").unwrap().append(Record::new(&Part::Truncate { from: 3 }.encode()).key("k")).unwrap();
    assert!(matches!(Stored::open(&log, "raft", 0), Err(RaftLogError::Foreign { offset: Offset(0), .. })));
}

#[test]
fn an_entry_that_another_codec_wrote_is_an_error_when_it_is_read() {
    let (_dir, log, raft_log) = open();
    drop(raft_log);
    let topic = log.topic("raft").unwrap();
    let json = serde_json::to_vec(&entry(1, 4)).unwrap();
    for (index, bytes) in [(3, &b"not JSON"[..]), (4, &json), (5, &json)] {
        topic.append(Record::new(&Part::Entry { index, entry: bytes }.encode())).unwrap();
    }
    let error = Stored::open(&log, "raft", 0).unwrap_err();
    assert!(message(&error).contains("another index"), "the last entry is read at once: {error}");
    topic.append(Record::new(&Part::Truncate { from: 5 }.encode())).unwrap();
    let mut raft_log = Stored::open(&log, "raft", 0).unwrap();
    assert_eq!(read(&log, &mut raft_log, 4..5), [id(1, 4)]);
    let error = run(&log, raft_log.try_get_log_entries(3..4)).unwrap_err();
    assert!(message(&error).contains("cannot decode the entry at offset 0 of raft-0"), "{}", message(&error));
    // The id of the entry before would be the last one: nothing is truncated.
    assert!(run(&log, raft_log.truncate(id(1, 4))).is_err());
    assert_eq!(read(&log, &mut raft_log, 4..5), [id(1, 4)]);
}

/// JSON, but of what is called `no`.
struct Choosy;

impl<T> Codec<T> for Choosy
where
    Json: Codec<T>,
{
    fn encode(&self, value: &T, into: &mut Vec<u8>) -> Result<(), CodecError> {
        Json.encode(value, into)?;
        if into.windows(4).any(|bytes| bytes == b"\"no\"") { Err("it is not wanted".into()) } else { Ok(()) }
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        Json.decode(bytes)
    }
}

#[test]
fn of_entries_that_cannot_all_be_encoded_none_is_appended() {
    let (_dir, log, raft_log) = open();
    drop(raft_log);
    let mut raft_log = RaftLog::<Types, _>::open_with(&log, "raft", 0, Choosy).unwrap();
    let error = run(&log, raft_log.blocking_append([entry(1, 0), with_text(1, 1, "no")])).unwrap_err();
    let told = message(&error);
    assert!(told.contains("cannot encode the entry for raft-0") && told.contains("it is not wanted"), "{told}");
    assert_eq!(raft_log.partition().offsets().end, Offset::ZERO);
    run(&log, raft_log.blocking_append([entry(1, 0), with_text(1, 1, "yes")])).unwrap();
}

#[test]
fn a_raft_log_that_is_open_twice_fails_before_it_overwrites() {
    let (_dir, log, mut one) = open();
    let mut two = Stored::open(&log, "raft", 0).unwrap();
    run(&log, one.save_vote(&Vote::new(1, 1))).unwrap();
    let error = run(&log, two.save_vote(&Vote::new(2, 1))).unwrap_err();
    assert!(message(&error).contains("raft-0 ends at 1, not at 0"), "{}", message(&error));
    run(&log, one.save_vote(&Vote::new(3, 1))).unwrap();
}

#[test]
fn settings_by_which_records_go_are_refused() {
    let (_dir, log, raft_log) = open();
    drop(raft_log);
    let refused = [
        (topic_config().cleanup(Cleanup::Delete).retention_time(std::time::Duration::from_secs(60)), "retention.ms"),
        (topic_config().cleanup(Cleanup::Delete).retention_bytes(1 << 30), "retention.bytes"),
        (topic_config().cleanup(Cleanup::Compact), "cleanup.policy"),
        (topic_config().cleanup(Cleanup::CompactAndDelete), "cleanup.policy"),
        (TopicConfig::default(), "retention.ms"),
    ];
    for (config, expected) in refused {
        log.alter_topic("raft", config).unwrap();
        let error = Stored::open(&log, "raft", 0).unwrap_err();
        let RaftLogError::Log { source: Error::InvalidSetting { key, .. }, .. } = &error else { panic!("{error}") };
        assert_eq!(&**key, expected);
        assert_eq!(error.to_string(), "cannot open raft-0");
    }
    log.alter_topic("raft", topic_config().cleanup(Cleanup::Delete).compression(Compression::Uncompressed)).unwrap();
    Stored::open(&log, "raft", 0).unwrap();
    let error = Stored::open(&log, "other", 2).unwrap_err();
    assert!(matches!(error, RaftLogError::Log { source: Error::TopicNotFound { .. }, .. }), "{error}");
    assert!(log.find_topic("other").is_none());
}

/// Retention by age was set on a topic of raft logs: the vote went, and the node would have voted twice.
#[test]
fn records_that_are_gone_are_missed() {
    let (_dir, log, mut raft_log) = open();
    run(&log, raft_log.save_vote(&Vote::new(1, 1))).unwrap();
    append(&log, &mut raft_log, (0..10).map(|index| entry(1, index))).unwrap();
    run(&log, raft_log.purge(id(1, 4))).unwrap();
    log.delete_before("raft", 0, Offset(6)).unwrap();
    Stored::open(&log, "raft", 0).unwrap();
    for gone in [7, 11, 12] {
        log.delete_before("raft", 0, Offset(gone)).unwrap();
        let error = Stored::open(&log, "raft", 0).unwrap_err();
        assert!(matches!(error, RaftLogError::Missing { .. }), "{gone}: {error}");
    }
    let error = run(&log, raft_log.try_get_log_entries(5..6)).unwrap_err();
    assert!(message(&error).contains("cannot read raft-0"), "{}", message(&error));
}

#[test]
fn two_groups_share_a_log() {
    let (_dir, log, mut one) = open();
    log.topic_with("groups", topic_config().partitions(2)).unwrap();
    let mut two = Stored::open(&log, "groups", 1).unwrap();
    append(&log, &mut one, [entry(1, 0)]).unwrap();
    append(&log, &mut two, [entry(9, 0)]).unwrap();
    assert_eq!((read(&log, &mut one, 0..9), read(&log, &mut two, 0..9)), (vec![id(1, 0)], vec![id(9, 0)]));
    assert!(format!("{two:?}").starts_with("RaftLog { groups-1, last:"));
}

const _: fn() = || {
    fn shared<T: Send + Sync>(_: impl Fn() -> T) {}
    shared(|| -> Stored { unreachable!() });
    shared(|| -> RaftReader<Types> { unreachable!() });
};
