//! The log on real files: its thread, its locks, and partitions that are damaged.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::names::OFFSETS_TOPIC;
use super::verify::VerifyOptions;
use super::{Background, Log, Staging};
use crate::config::{Cleanup, Compression, Durability, GroupConfig, TimestampType, TopicConfig};
use crate::disk::RealDisk;
use crate::error::{Error, ErrorKind};
use crate::group::GroupOffset;
use crate::observe::{Observer, Synced};
use crate::partition::Ack;
use crate::partition::verify::FindingKind;
use crate::record::{Codec, Record};
use crate::types::{Offset, TopicPartition};

fn timed(time: Duration) -> TopicConfig {
    TopicConfig::default().durability(Durability::Every { records: None, time: Some(time) })
}

/// Polls, for what another thread does.
fn comes_true(is_so: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(20) {
        if is_so() {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

fn is_locked(dir: &Path) -> bool {
    matches!(Log::open(dir), Err(Error::Locked { .. }))
}

#[test]
fn the_thread_ends_with_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let inner = Arc::downgrade(&log.opened.inner);
    assert_eq!(inner.strong_count(), 3, "ours, the thread's, and that of who stops it");
    log.close().unwrap();
    assert_eq!(inner.strong_count(), 0);
    let log = Log::open(dir.path()).unwrap();
    let (inner, topic) = (Arc::downgrade(&log.opened.inner), log.topic("a").unwrap());
    drop(log);
    assert!(is_locked(dir.path()), "a handle keeps it open");
    drop(topic);
    assert_eq!(inner.strong_count(), 0);
    assert!(!is_locked(dir.path()));
}

/// The thread slept for a minute, and nobody told it of the topic.
#[test]
fn a_timed_topic_that_is_created_later_is_synced_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let partition = log.create_topic("a", timed(Duration::from_millis(20))).unwrap().partition(0).unwrap();
    let _ = partition.append("v").unwrap();
    assert!(comes_true(|| partition.offsets().synced == Offset(1)));
    log.create_topic("b", TopicConfig::default()).unwrap();
    log.alter_topic("b", timed(Duration::from_millis(20))).unwrap();
    let partition = log.topic("b").unwrap().partition(0).unwrap();
    let _ = partition.append("v").unwrap();
    assert!(comes_true(|| partition.offsets().synced == Offset(1)));
}

/// What an observer does at the first sync.
#[derive(Debug)]
struct OnSync<T>(Mutex<Option<T>>, fn(T));

impl<T: std::fmt::Debug + Send + 'static> Observer for OnSync<T> {
    fn synced(&self, _: &Synced<'_>) {
        let taken = self.0.lock().unwrap().take();
        if let Some(taken) = taken {
            (self.1)(taken);
        }
    }
}

/// Closing waited for the thread it ran on, and for the locks that thread held.
#[test]
fn the_last_handle_may_go_on_the_logs_own_thread() {
    for how in [drop, |log: Log| log.close().unwrap()] {
        let dir = tempfile::tempdir().unwrap();
        let observer = Arc::new(OnSync(Mutex::new(None), how));
        let log = Log::builder(dir.path()).observer(observer.clone()).open().unwrap();
        let topic = log.create_topic("a", timed(Duration::from_millis(20))).unwrap();
        let _ = topic.append("v").unwrap();
        *observer.0.lock().unwrap() = Some(log);
        drop(topic);
        assert!(comes_true(|| !is_locked(dir.path())));
        let log = Log::open(dir.path()).unwrap();
        assert!(observer.0.lock().unwrap().is_none() || log.topics().len() == 1);
        assert_eq!(log.topic("a").unwrap().partition(0).unwrap().offsets().end, Offset(1));
    }
}

#[test]
fn a_panic_on_the_thread_stops_the_log_and_close_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let observer = OnSync(Mutex::new(Some(())), |()| panic!("an observer's mistake"));
    let log = Log::builder(dir.path()).observer(Arc::new(observer)).open().unwrap();
    let topic = log.create_topic("a", timed(Duration::from_millis(20))).unwrap();
    let _ = topic.append("v").unwrap();
    assert!(comes_true(|| topic.append("w").is_err()));
    assert!(comes_true(|| matches!(topic.append("w"), Err(Error::Poisoned { .. }))));
    assert!(log.create_topic("b", TopicConfig::default()).is_err());
    assert!(matches!(log.close(), Err(Error::Poisoned { .. })));
    let log = Log::open(dir.path()).unwrap();
    assert!(log.topic("a").unwrap().partition(0).unwrap().offsets().end >= Offset(1));
}

#[test]
fn a_log_that_closes_under_many_threads_ends_all_of_them_with_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let partition = log.topic("a").unwrap().partition(0).unwrap();
    let mut acked = 0;
    std::thread::scope(|scope| {
        let appending: Vec<_> = (0..3)
            .map(|number| {
                let (log, partition) = (log.clone(), partition.clone());
                scope.spawn(move || {
                    let mut last = None;
                    for round in 0.. {
                        if partition
                            .append("v")
                            .and_then(|appended| {
                                last = Some(appended.offset());
                                appended.wait(Ack::Synced)
                            })
                            .is_err()
                        {
                            return last;
                        }
                        if log.create_topic(&format!("t{number}-{round}"), TopicConfig::default()).is_err() {
                            return last;
                        }
                    }
                    unreachable!()
                })
            })
            .collect();
        let waiting = {
            let partition = partition.clone();
            scope.spawn(move || partition.wait_readable(Offset(1 << 40), Duration::from_secs(60)))
        };
        assert!(comes_true(|| partition.offsets().synced >= Offset(20)));
        log.clone().close().unwrap();
        for thread in appending {
            acked = acked.max(thread.join().unwrap().map_or(0, |offset| offset.0));
        }
        assert!(matches!(waiting.join().unwrap(), Err(Error::Closed)));
    });
    drop(partition);
    drop(log);
    assert!(dir.path().join("clean").exists());
    let log = Log::builder(dir.path()).strict().open().unwrap();
    assert!(log.topic("a").unwrap().partition(0).unwrap().offsets().end > Offset(acked));
}

#[test]
fn a_log_is_opened_once_and_the_error_names_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let Err(Error::Locked { holder, .. }) = Log::open(dir.path()) else { panic!("opened twice") };
    assert_eq!(*holder, *format!("process {}", std::process::id()));
    assert!(matches!(Log::builder(dir.path()).read_only().open(), Err(Error::Locked { .. })));
    log.close().unwrap();
    let readers = [(); 2].map(|()| Log::builder(dir.path()).read_only().open().unwrap());
    let Err(Error::Locked { holder, .. }) = Log::open(dir.path()) else { panic!("opened beside a reader") };
    assert_eq!(&*holder, "a process that only reads");
    drop(readers);
    Log::open(dir.path()).unwrap();
}

#[test]
fn a_place_that_cannot_be_a_log_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "text").unwrap();
    for place in ["file", "file/log"] {
        let error = Log::open(dir.path().join(place)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{place}: {error}");
    }
    assert!(Log::builder(dir.path().join("none")).read_only().open().is_err());
    assert!(!dir.path().join("none").exists());
    Log::open(dir.path().join("a/b/c")).unwrap().close().unwrap();

    let lost = dir.path().join("lost");
    Log::open(&lost).unwrap().topic("orders").unwrap();
    fs::remove_file(lost.join("catalog")).unwrap();
    assert_eq!(Log::open(&lost).unwrap_err().kind(), ErrorKind::Corrupt);
    fs::File::create(lost.join("catalog")).unwrap().set_len(1 << 30).unwrap();
    assert_eq!(Log::open(&lost).unwrap_err().kind(), ErrorKind::Corrupt, "not a full disk");
}

#[test]
fn a_start_is_never_raised_above_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let partition = log.topic("a").unwrap().partition(0).unwrap();
    let _ = partition.append("v").unwrap();
    let error = log.delete_before("a", 0, Offset(2)).unwrap_err();
    assert!(matches!(error, Error::OffsetOutOfRange { end: Offset(1), .. }), "{error}");
    assert_eq!(partition.offsets().start, Offset(0));
    log.delete_before("a", 0, Offset(1)).unwrap();
    log.delete_before("a", 0, Offset(0)).unwrap();
    assert_eq!(partition.offsets().start, Offset(1));
}

#[test]
fn no_interval_is_too_long_or_too_short() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::builder(dir.path())
        .background(Background::Caller)
        .retention_interval(Duration::MAX)
        .checkpoint_interval(Duration::MAX)
        .open()
        .unwrap();
    log.create_topic("a", TopicConfig::default().set("flush.ms", "0").unwrap()).unwrap();
    for _ in 0..2 {
        assert_eq!(log.maintain().unwrap().next, Duration::from_millis(1));
    }
}

/// Offsets that groups had committed were gone.
#[test]
fn nothing_is_removed_by_hand_that_the_log_or_compaction_keeps() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    log.group("g").unwrap().commit("a", 0, Offset(1)).unwrap();
    let error = log.delete_before("__consumer_offsets", 0, Offset(1)).unwrap_err();
    assert!(matches!(error, Error::InternalTopic { .. }), "{error}");
    for (policy, is_deleted) in
        [(Cleanup::Compact, false), (Cleanup::CompactAndDelete, true), (Cleanup::Delete, true), (Cleanup::Keep, true)]
    {
        let name = format!("{policy:?}");
        let topic = log.create_topic(&name, TopicConfig::default().cleanup(policy)).unwrap();
        let _ = topic.append(Record::new("v").key("k")).unwrap();
        match log.delete_before(&name, 0, Offset(1)) {
            Ok(()) => assert!(is_deleted, "{policy:?}"),
            Err(error) => assert!(!is_deleted && matches!(error, Error::CompactedTopic { .. }), "{error}"),
        }
        assert_eq!(topic.partition(0).unwrap().offsets().start, Offset(is_deleted.into()));
    }
}

fn damage(dir: &Path, partition: &str) {
    fs::write(dir.join(partition).join("partition.metadata"), "nothing").unwrap();
}

#[test]
fn records_without_key_go_around_a_damaged_partition() {
    let dir = tempfile::tempdir().unwrap();
    Log::open(dir.path()).unwrap().create_topic("a", TopicConfig::default().partitions(3)).unwrap();
    damage(dir.path(), "a-0");
    damage(dir.path(), "a-2");
    let log = Log::open(dir.path()).unwrap();
    assert_eq!((log.damaged().len(), log.stats().unwrap().damaged_partitions), (2, 2));
    let topic = log.topic("a").unwrap();
    for _ in 0..50 {
        assert_eq!(topic.append(&[0; 1000][..]).unwrap().partition(), 1);
    }
    assert_eq!(topic.partition(0).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn groups_go_on_when_a_partition_of_their_topic_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..20).map(|number| format!("group-{number}")).collect();
    let open = || Log::builder(dir.path()).groups(GroupConfig::default().offsets_partitions(2)).open().unwrap();
    let log = open();
    for name in &names {
        log.group(name).unwrap().commit("a", 0, Offset(1)).unwrap();
    }
    log.close().unwrap();
    damage(dir.path(), "__consumer_offsets-0");
    let log = open();
    let (kept, lost): (Vec<_>, Vec<_>) =
        names.iter().partition(|name| log.group(name).unwrap().committed("a", 0).is_ok());
    assert!(!kept.is_empty() && !lost.is_empty());
    assert_eq!(log.groups().unwrap_err().kind(), ErrorKind::Corrupt, "some are not known");
    let group = log.group(lost[0]).unwrap();
    assert_eq!(group.commit("a", 0, Offset(2)).unwrap_err().kind(), ErrorKind::Corrupt);
    log.group(kept[0]).unwrap().commit("a", 0, Offset(2)).unwrap();
}

/// The groups of a partition with a damaged batch were left out of every list, and nothing said so. A topic was deleted,
/// and what they had committed for it came back with the next of its name.
#[test]
fn groups_that_cannot_be_replayed_are_a_damaged_partition() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    log.topic("a").unwrap();
    for offset in 0..3 {
        log.group("g").unwrap().commit("a", 0, Offset(offset)).unwrap();
    }
    log.close().unwrap();
    let path = dir.path().join("__consumer_offsets-0/00000000000000000000.log");
    let mut bytes = fs::read(&path).unwrap();
    bytes[70] ^= 1;
    fs::write(&path, bytes).unwrap();

    assert_eq!(Log::builder(dir.path()).strict().open().unwrap_err().kind(), ErrorKind::Corrupt);
    let observer = Arc::new(Damaged::default());
    let log = Log::builder(dir.path()).observer(observer.clone()).open().unwrap();
    assert_eq!(*observer.0.lock().unwrap(), ["__consumer_offsets-0"]);
    let damaged = log.damaged();
    assert_eq!((damaged.len(), damaged[0].error.kind()), (1, ErrorKind::Corrupt));
    assert_eq!(log.stats().unwrap().damaged_partitions, 1);
    assert_eq!(log.groups().unwrap_err().kind(), ErrorKind::Corrupt);
    for _ in 0..2 {
        assert_eq!(log.delete_topic("a").unwrap_err().kind(), ErrorKind::Corrupt);
        assert!(log.find_topic("a").is_none() && log.topic("a").is_err());
    }
    let _ = log.topic("b").unwrap().append("v").unwrap();
    log.close().unwrap();
}

/// Who only reads got nothing at all of a partition of the groups' topic in which one batch was damaged, and of no group
/// of any other.
#[test]
fn a_damaged_batch_hides_neither_the_groups_of_other_partitions_nor_the_records_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..20).map(|number| format!("group-{number}")).collect();
    let log = Log::builder(dir.path()).groups(GroupConfig::default().offsets_partitions(2)).open().unwrap();
    for name in &names {
        log.group(name).unwrap().commit("a", 0, Offset(1)).unwrap();
    }
    log.close().unwrap();
    let path = dir.path().join("__consumer_offsets-0/00000000000000000000.log");
    let mut bytes = fs::read(&path).unwrap();
    let position = bytes.len() * 3 / 4;
    bytes[position] ^= 1;
    fs::write(&path, bytes).unwrap();

    assert_eq!(Log::builder(dir.path()).read_only().strict().open().unwrap_err().kind(), ErrorKind::Corrupt);
    let log = Log::builder(dir.path()).read_only().open().unwrap();
    let [damage] = &log.damaged()[..] else { panic!("{:?}", log.damaged()) };
    let Error::Corrupt(found) = &*damage.error else { panic!("{damage:?}") };
    assert!(found.path == path && found.position <= position as u64, "{found}");
    let told = log.groups().unwrap();
    let (kept, lost): (Vec<_>, Vec<_>) =
        names.iter().partition(|name| log.group(name).unwrap().committed("a", 0).is_ok());
    assert!(!lost.is_empty() && told.len() == kept.len() && kept.iter().all(|name| told.contains(name)), "{told:?}");
    let topic = log.topic(OFFSETS_TOPIC).unwrap();
    let partition = topic.partition(0).unwrap();
    let before = partition.read(Offset(0)).unwrap();
    assert!(before.iter().count() > 0);
    assert_eq!(partition.read(before.next_offset()).unwrap_err().kind(), ErrorKind::Corrupt);
    // A backup has none of it, as before: groups would go on from offsets that are not the last.
    let backup = tempfile::tempdir().unwrap();
    let backup = log.backup(backup.path()).unwrap();
    assert_eq!((backup.left_out.len(), backup.partitions.len()), (1, 1));
}

/// Which partitions it was told are damaged.
#[derive(Debug, Default)]
struct Damaged(Mutex<Vec<String>>);

impl Observer for Damaged {
    fn partition_damaged(&self, partition: &TopicPartition, _: &str) {
        self.0.lock().unwrap().push(partition.to_string());
    }
}

#[test]
fn the_topic_of_groups_has_its_own_settings_however_it_comes_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::builder(dir.path()).groups(GroupConfig::default().offsets_partitions(2)).open().unwrap();
    let config = log.topic("__consumer_offsets").unwrap().config();
    assert_eq!(config, super::coordinate::offsets_config(&GroupConfig::default().offsets_partitions(2)));
    log.group("g").unwrap().commit("a", 0, Offset(1)).unwrap();
    for refused in [
        config.partitions(3),
        config.cleanup(Cleanup::Delete),
        config.cleanup(Cleanup::CompactAndDelete),
        config.max_message_bytes(100),
        config.segment_bytes(100),
        config.durability(Durability::Each),
        config.durability(Durability::Os),
        config.timestamp_type(TimestampType::LogAppendTime),
        config.compression(Compression::Lz4 { level: 1 }),
    ] {
        assert_eq!(log.alter_topic("__consumer_offsets", refused).unwrap_err().kind(), ErrorKind::Invalid);
    }
    log.alter_topic("__consumer_offsets", config.segment_bytes(1 << 20)).unwrap();
    assert!(matches!(log.delete_topic("__consumer_offsets"), Err(Error::InternalTopic { .. })));
    assert_eq!(log.group("g").unwrap().committed("a", 0).unwrap().unwrap().offset, Offset(1));
}

/// It took any settings: retention deleted the offsets of groups that had read everything.
#[test]
fn of_settings_for_the_topic_of_groups_only_the_number_of_partitions_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::builder(dir.path()).background(Background::Caller).open().unwrap();
    let given = TopicConfig::default().retention_bytes(0).segment_bytes(200).partitions(2);
    let topic = log.create_topic("__consumer_offsets", given).unwrap();
    assert_eq!(topic.config(), super::coordinate::offsets_config(&GroupConfig::default().offsets_partitions(2)));
    let group = log.group("g").unwrap();
    for partition in 0..20 {
        group.commit("a", partition, Offset(1)).unwrap();
    }
    log.maintain().unwrap();
    log.close().unwrap();
    let log = Log::open(dir.path()).unwrap();
    assert_eq!(log.group("g").unwrap().offsets().unwrap().len(), 20);
}

/// The tombstones were refused for the space they need, so that what would have freed some was not removed.
#[test]
fn what_frees_space_is_not_refused_while_it_is_low() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let group = log.group("g").unwrap();
    log.topic("a").unwrap();
    group.commit("a", 0, Offset(1)).unwrap();
    group.commit("b", 0, Offset(1)).unwrap();
    log.close().unwrap();
    let log = Log::builder(dir.path()).min_free_bytes(u64::MAX).open().unwrap();
    let group = log.group("g").unwrap();
    assert!(matches!(group.commit("a", 0, Offset(2)), Err(Error::LowSpace { .. })));
    log.delete_topic("a").unwrap();
    assert!(!dir.path().join("a-0").exists());
    assert_eq!(group.offsets().unwrap().len(), 1);
    group.delete().unwrap();
    assert!(log.groups().unwrap().is_empty());
}

#[test]
fn deleting_a_group_that_is_not_there_makes_no_topic() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    log.group("g").unwrap().delete().unwrap();
    assert!(log.topics().is_empty());
    let group = log.group("g").unwrap();
    log.close().unwrap();
    assert!(matches!(group.delete(), Err(Error::Closed)));
}

/// A topic was created whose every append failed. (Bites in a build that lacks a codec.)
#[test]
fn a_codec_that_the_build_lacks_is_refused_in_settings_and_read_in_a_catalog() {
    let dir = tempfile::tempdir().unwrap();
    for codec in Codec::ALL.into_iter().filter(|codec| *codec != Codec::None) {
        let config = TopicConfig::default().set("compression.type", codec.name()).unwrap();
        let (name, log) = (codec.name(), Log::open(dir.path()).unwrap());
        let other = log.topic(&format!("other-{name}")).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let builder = Log::builder(elsewhere.path()).default_config(config);
        let results = [
            builder.open().map(drop),
            log.create_topic(name, config).map(drop),
            log.alter_topic(other.name(), config),
        ];
        for result in results {
            match result {
                Ok(()) => assert!(codec.is_supported(), "{name}"),
                Err(error) => assert!(!codec.is_supported() && matches!(error, Error::Unsupported { .. }), "{error}"),
            }
        }
        log.close().unwrap();

        // Another build of the crate made it.
        let path = dir.path().join("catalog");
        let mut catalog = super::Catalog::load(&RealDisk, &path).unwrap().unwrap();
        catalog.alter(other.name(), config).unwrap();
        catalog.store(&RealDisk, &path).unwrap();
        let log = Log::open(dir.path()).unwrap();
        assert!(log.damaged().is_empty());
        log.alter_topic(other.name(), config.retention_bytes(1)).unwrap();
    }
}

#[test]
fn a_damaged_topic_can_be_deleted_and_its_name_used_again() {
    let dir = tempfile::tempdir().unwrap();
    Log::open(dir.path()).unwrap().create_topic("a", TopicConfig::default().partitions(2)).unwrap();
    damage(dir.path(), "a-0");
    fs::remove_file(dir.path().join("a-1/partition.metadata")).unwrap();
    let log = Log::open(dir.path()).unwrap();
    log.delete_topic("a").unwrap();
    assert!(log.damaged().is_empty() && !dir.path().join("a-0").exists() && !dir.path().join("a-1").exists());
    let _ = log.topic("a").unwrap().append("v").unwrap();
}

/// Its tombstones were one batch, which was larger than any batch may be.
#[test]
fn a_topic_for_which_very_many_offsets_were_committed_can_be_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::builder(dir.path()).groups(GroupConfig::default().offsets_partitions(1)).open().unwrap();
    let name = "a".repeat(249);
    log.create_topic(&name, TopicConfig::default()).unwrap();
    let group = log.group("g").unwrap();
    for from in (0..5000).step_by(1000) {
        let offsets: Vec<_> = (from..from + 1000).map(|number| GroupOffset::new(&name, number, Offset(1))).collect();
        group.commit_all(&offsets).unwrap();
    }
    group.commit("b", 0, Offset(1)).unwrap();
    assert_eq!(group.offsets().unwrap().len(), 5001);
    log.delete_topic(&name).unwrap();
    assert_eq!(group.offsets().unwrap().len(), 1);
    log.close().unwrap();
    let log = Log::builder(dir.path()).groups(GroupConfig::default().offsets_partitions(1)).open().unwrap();
    assert_eq!(log.group("g").unwrap().offsets().unwrap().len(), 1);
}

/// The bound is loose, for any machine.
#[test]
fn hundreds_of_topics_are_created_and_opened_in_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let began = Instant::now();
    for number in 0..200 {
        log.create_topic(&format!("topic-{number}"), TopicConfig::default().partitions(1)).unwrap();
    }
    let created = began.elapsed();
    let _ = log.append(Record::new("v").to("topic-7")).unwrap();
    log.close().unwrap();
    let began = Instant::now();
    let log = Log::open(dir.path()).unwrap();
    assert_eq!(log.topics().len(), 200);
    let opened = began.elapsed();
    assert!(created + opened < Duration::from_secs(40), "created in {created:?}, opened in {opened:?}");
}

/// A partition that had failed was taken for one that was removed: a verification found nothing wrong with its files.
#[test]
fn a_poisoned_partition_is_still_verified() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::builder(dir.path()).background(Background::Caller).open().unwrap();
    let partition = log.topic("a").unwrap().partition(0).unwrap();
    partition.append("v").unwrap().wait(Ack::Synced).unwrap();
    log.sync().unwrap();
    fs::remove_file(dir.path().join("a-0/partition.metadata")).unwrap();
    fs::remove_file(dir.path().join("a-0/00000000000000000000.log")).unwrap();
    let found = || {
        let report = log.verify(&VerifyOptions::default()).unwrap();
        report.findings().iter().map(|finding| finding.kind).collect::<Vec<_>>()
    };
    assert_eq!(found(), [FindingKind::Missing, FindingKind::Missing]);
    for core in log.opened.inner.cores() {
        core.poison(&Error::ReadOnly);
    }
    assert!(matches!(partition.append("w"), Err(Error::Poisoned { .. })));
    assert_eq!(found(), [FindingKind::Missing, FindingKind::Missing]);
}

/// A partition of a topic that a broker had compacted could not be opened for want of another file. Each gap that
/// compaction had left was told as records that are missing.
#[test]
fn gaps_of_a_sparse_topic_are_no_damage_of_a_partition_that_could_not_be_opened() {
    for is_sparse in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::builder(dir.path()).staging(Staging::Off).open().unwrap();
        let partition = log.topic("a").unwrap().partition(0).unwrap();
        for _ in 0..3 {
            partition.append_all(["v"]).unwrap();
        }
        drop(partition);
        log.close().unwrap();
        let path = dir.path().join("a-0/00000000000000000000.log");
        let mut bytes = fs::read(&path).unwrap();
        let len = bytes.len() / 3;
        bytes.drain(len..2 * len);
        fs::write(&path, bytes).unwrap();
        fs::remove_file(dir.path().join("clean")).unwrap();
        damage(dir.path(), "a-0");
        let path = dir.path().join("catalog");
        let mut catalog = super::Catalog::load(&RealDisk, &path).unwrap().unwrap();
        catalog.topics_mut().for_each(|topic| topic.is_sparse = is_sparse);
        catalog.store(&RealDisk, &path).unwrap();

        let log = Log::builder(dir.path()).read_only().open().unwrap();
        let report = log.verify(&VerifyOptions::default()).unwrap();
        let kinds: Vec<_> = report.findings().iter().map(|finding| finding.kind).collect();
        assert!(kinds.contains(&FindingKind::NotOpened), "{report:?}");
        assert_eq!(kinds.contains(&FindingKind::Offsets), !is_sparse, "{report:?}");
    }
}
