//! What was lost once, or would have been: a story each.

use std::path::Path;

use super::*;
use crate::disk::Disk;
use crate::log::Adoption;
use crate::types::ProducerId;

/// A topic was deleted and made anew while a transaction had records in both. Its decision had the first extent twice, so a
/// power cut that took the marker of the new one halved what was committed durably.
#[test]
fn a_topic_made_anew_within_a_transaction_is_committed_with_the_rest() {
    let disk = disk(Staging::Off);
    let log = builder(&disk, Staging::Off).open().unwrap();
    let mut producer = log.producer().transactional("id").unwrap();
    let mut transaction = producer.begin().unwrap();
    transaction.send(Record::new("10").to("a")).unwrap();
    log.delete_topic("a").unwrap();
    TOPICS.iter().for_each(|topic| drop(transaction.send(Record::new("10").to(topic)).unwrap()));
    transaction.commit().unwrap();
    let whole = BTreeMap::from([(10, [1, 1])]);
    assert_eq!(Seen::of(&log).records, whole);
    for seed in 0..40 {
        let log = builder(&disk.crash(seed), Staging::Off).open().unwrap();
        assert_eq!(Seen::of(&log).records, whole, "seed {seed}");
    }
}

/// The same, prepared: the part in the new topic was not found, and aborted.
#[test]
fn a_topic_made_anew_within_a_prepared_transaction_is_committed_with_the_rest() {
    let disk = disk(Staging::Off);
    let log = builder(&disk, Staging::Off).open().unwrap();
    let mut producer = log.producer().transactional("id").unwrap();
    let mut transaction = producer.begin().unwrap();
    transaction.send(Record::new("10").to("a")).unwrap();
    log.delete_topic("a").unwrap();
    TOPICS.iter().for_each(|topic| drop(transaction.send(Record::new("10").to(topic)).unwrap()));
    let ticket = transaction.prepare().unwrap();
    let log = builder(&disk.kill(), Staging::Off).open().unwrap();
    log.commit_prepared(&ticket).unwrap();
    assert_eq!(Seen::of(&log).records, BTreeMap::from([(10, [1, 1])]));
}

/// Settings that an adoption gave to `__transaction_state` were taken as they are, and its first retention removed what was
/// prepared durably.
#[test]
fn an_adoption_refuses_settings_under_which_decisions_are_lost() {
    let disk = disk(Staging::Off);
    for name in ["catalog", "clean", "checkpoints", "notes", "LOCK"] {
        let _ = disk.remove_file(&Path::new("/log").join(name));
    }
    disk.sync_dir(Path::new("/log")).unwrap();
    let adopt = |adoption: Adoption| builder(&disk, Staging::Off).adopt(adoption).open();
    let refused = adopt(Adoption::default().topic("__transaction_state", TopicConfig::default()));
    let Err(Error::InvalidSetting { key, allowed, .. }) = &refused else { panic!("{refused:?}") };
    assert_eq!((&**key, &**allowed), ("cleanup.policy", "compact: the decisions on transactions depend on it"));

    let log = adopt(Adoption::default()).unwrap();
    let config = log.find_topic("__transaction_state").unwrap().config();
    assert_eq!(config, small(transactions_config()), "not those of any topic");
    let mut producer = log.producer().transactional("id").unwrap();
    let mut transaction = producer.begin().unwrap();
    transaction.send(Record::new("10").to("a")).unwrap();
    let ticket = transaction.prepare().unwrap();
    disk.clock().advance(Duration::from_secs(8 * 86_400));
    log.maintain().unwrap();
    let log = builder(&disk.kill(), Staging::Off).open().unwrap();
    assert_eq!(log.prepared().unwrap(), [ticket]);
}

/// What power cuts leave of a commit that nobody synced, where the decision is there, `b` has its part, and `a` half of its own.
fn with_a_part_lost(mut look: impl FnMut(u64, Arc<SimDisk>)) {
    let mut lost = 0;
    for seed in 0..60 {
        let disk = disk(Staging::Off);
        let log = builder(&disk, Staging::Off).open().unwrap();
        let mut producer = log.producer().transactional("id").unwrap();
        let mut transaction = producer.begin().unwrap();
        TOPICS.iter().for_each(|topic| drop(transaction.send(Record::new("10").to(topic)).unwrap()));
        log.sync().unwrap();
        transaction.send(Record::new("10").to("a")).unwrap();
        transaction.commit_with(Ack::Written).unwrap();
        // The decision is durable by the way.
        log.producer().transactional("other").unwrap();
        let found = disk.crash(seed);
        let log = builder(&found.kill(), Staging::Off).open().unwrap();
        let end = log.find_topic("a").unwrap().partition(0).unwrap().offsets().end;
        if Seen::of(&log).records.is_empty() && end == Offset(2) {
            lost += 1;
            look(seed, found);
        }
    }
    assert!(lost > 3, "{lost}");
}

/// The marker of the abort took the offset of the record that was lost, so an open after one that died found the commit whole.
#[test]
fn a_commit_that_lost_a_part_stays_aborted_if_the_open_that_aborts_it_dies() {
    with_a_part_lost(|seed, found| {
        found.record(Recording::All);
        drop(builder(&found, Staging::Off).open().unwrap());
        for moment in found.take_moments() {
            for crash in 0..3 {
                let image = if crash == 0 { moment.image.clone() } else { moment.image.crash(crash) };
                let log = builder(&SimDisk::on(image, found.clock().fork()), Staging::Off).open().unwrap();
                assert_eq!(Seen::of(&log).records, BTreeMap::new(), "seed {seed}, call {}, {crash}", moment.call);
            }
        }
    });
}

/// The same without a second crash, on a disk that was full meanwhile: other records took the place of the lost one.
#[test]
fn a_commit_that_lost_a_part_stays_aborted_if_the_disk_is_full_meanwhile() {
    let mut opened = 0;
    with_a_part_lost(|seed, found| {
        for at in 0..200 {
            let disk = found.kill();
            disk.inject(at, Fault::Error(Errno::Full), Times::Dead);
            let log = builder(&disk, Staging::Off).open();
            let is_full = disk.calls() > at;
            disk.heal();
            let Ok(log) = log else { continue };
            opened += u32::from(is_full);
            let a = log.find_topic("a").unwrap().partition(0).unwrap();
            // It may be poisoned.
            (0..3).for_each(|_| drop(a.append("20")));
            let is_aborted = |disk: &SimDisk| {
                for disk in [disk.kill(), disk.crash(seed)] {
                    let log = builder(&disk, Staging::Off).open().unwrap();
                    assert!(!Seen::of(&log).records.contains_key(&10), "seed {seed}, full from call {at}");
                }
            };
            is_aborted(&disk);
            let _ = log.maintain();
            let _ = log.producer().transactional("id");
            is_aborted(&disk);
            if !is_full {
                break;
            }
        }
    });
    assert!(opened > 0);
}

/// Asks what is prepared, once, when it is told of a sync.
#[derive(Debug, Default)]
struct Asks(parking_lot::Mutex<Option<Log>>);

impl crate::Observer for Asks {
    fn synced(&self, _: &crate::Synced<'_>) {
        let log = self.0.lock().take();
        log.into_iter().for_each(|log| drop(log.prepared().unwrap()));
    }
}

/// What a full disk left open was ended under a lock that whoever asked again waited for: itself, if an observer did.
#[test]
fn an_observer_that_is_told_while_an_open_is_finished_may_ask_what_is_prepared() {
    let disk = disk(Staging::Off);
    let log = builder(&disk, Staging::Off).open().unwrap();
    let mut producer = log.producer().transactional("id").unwrap();
    let mut transaction = producer.begin().unwrap();
    TOPICS.iter().for_each(|topic| drop(transaction.send(Record::new("10").to(topic)).unwrap()));
    std::mem::forget(transaction);
    let observer = Arc::new(Asks::default());
    for at in 0..400 {
        let disk = disk.kill();
        disk.inject(at, Fault::Error(Errno::Full), Times::Dead);
        let observed = builder(&disk, Staging::Off).observer(Arc::clone(&observer) as Arc<dyn crate::Observer>);
        let Ok(log) = observed.open() else { continue };
        let offsets = log.find_topic("a").unwrap().partition(0).unwrap().offsets();
        if offsets.stable == offsets.end {
            continue;
        }
        disk.heal();
        *observer.0.lock() = Some(log.clone());
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(log.prepared().is_ok()));
        assert_eq!(
            is_done.recv_timeout(Duration::from_secs(20)),
            Ok(true),
            "it waits for itself, full from call {at}"
        );
        return;
    }
    panic!("no open leaves anything");
}

/// Offsets of a group of another log were committed to the group of that name in this one.
#[test]
fn a_group_of_another_log_commits_nothing_here() {
    let [log, other] = [(); 2].map(|()| builder(&disk(Staging::Off), Staging::Off).open().unwrap());
    let mut producer = log.producer().transactional("id").unwrap();
    let mut transaction = producer.begin().unwrap();
    let offsets = [GroupOffset::new("other", 0, Offset(7))];
    let refused = transaction.commit_offsets(&other.group("g").unwrap(), &offsets);
    assert!(matches!(&refused, Err(Error::ForeignGroup { group, .. }) if &**group == "g"), "{refused:?}");
    // The transaction is as it was.
    transaction.send(Record::new("10").to("a")).unwrap();
    transaction.commit().unwrap();
    assert_eq!(Seen::of(&log), Seen { records: BTreeMap::from([(10, [1, 0])]), committed: 1 });
}

/// Who lost the id, or took too long, was refused, and had made the topic by then.
#[test]
fn who_has_no_transaction_makes_no_topic() {
    let disk = disk(Staging::Off);
    let log = builder(&disk, Staging::Off).open().unwrap();
    let mut old = log.producer().transactional("id").unwrap();
    let mut fenced = old.begin().unwrap();
    let mut new = log.producer().transaction_timeout(Duration::from_secs(5)).transactional("id").unwrap();
    assert!(matches!(fenced.send(Record::new("10").to("misspelled")), Err(Error::ProducerFenced { .. })));
    let mut slow = new.begin().unwrap();
    disk.clock().advance(Duration::from_secs(6));
    log.maintain().unwrap();
    assert!(matches!(slow.send(Record::new("10").to("misspelled")), Err(Error::InvalidTransaction { .. })));
    assert!(log.find_topic("misspelled").is_none());
}

/// A call meant for transactions that others began ended one of a holder, whose commit then told success over an abort.
#[test]
fn the_transaction_of_a_holder_is_ended_by_nobody_else() {
    let disk = disk(Staging::Off);
    let log = builder(&disk, Staging::Off).open().unwrap();
    let a = log.find_topic("a").unwrap().partition(0).unwrap();
    let mut producer = log.producer().transactional("id").unwrap();
    let id = producer.id();
    let mut transaction = producer.begin().unwrap();
    transaction.send(Record::new("10").to("a")).unwrap();
    for is_commit in [false, true] {
        let refused = a.end_transaction(id, Offset(0), is_commit);
        assert!(matches!(refused, Err(Error::InvalidTransaction { .. })), "{refused:?}");
    }
    transaction.commit().unwrap();
    assert_eq!(Seen::of(&log).records, BTreeMap::from([(10, [1, 0])]));
    // A stranger's is none of the log's business.
    assert_eq!(a.end_transaction(ProducerId(7), Offset(0), true).unwrap(), None);
}

/// What groups commit, as an observer is told.
#[derive(Debug, Default)]
struct Commits(parking_lot::Mutex<Vec<(String, usize)>>);

impl crate::Observer for Commits {
    fn offsets_committed(&self, group: &str, count: usize) {
        self.0.lock().push((group.to_owned(), count));
    }
}

/// Each call was remembered by itself, so a long transaction took memory without end, and told as many commits.
#[test]
fn offsets_that_a_transaction_commits_again_are_one_commit() {
    let commits = Arc::new(Commits::default());
    let observer = Arc::clone(&commits) as Arc<dyn crate::Observer>;
    let log = builder(&disk(Staging::Off), Staging::Off).observer(observer).open().unwrap();
    (0..9).for_each(|_| drop(log.append(Record::new("5").to("b")).unwrap()));
    let (one, other) = (log.group("g").unwrap(), log.group("h").unwrap());
    let mut producer = log.producer().transactional("id").unwrap();
    let mut transaction = producer.begin().unwrap();
    for next in [3, 7, 5] {
        transaction.commit_offsets(&one, &[GroupOffset::new("b", 0, Offset(next))]).unwrap();
    }
    let offsets = [GroupOffset::new("a", 0, Offset(0)), GroupOffset::new("b", 0, Offset(1))];
    transaction.commit_offsets(&other, &offsets).unwrap();
    transaction.commit_with(Ack::Written).unwrap();
    assert_eq!(*commits.0.lock(), [("g".to_owned(), 1), ("h".to_owned(), 2)]);
    assert_eq!(one.committed("b", 0).unwrap().unwrap().offset, Offset(5));
    let synced = log.find_topic("b").unwrap().partition(0).unwrap().offsets().synced;
    assert!(synced >= Offset(7), "{synced}");
}
