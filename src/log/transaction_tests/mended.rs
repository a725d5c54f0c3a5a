//! What was lost once, or would have been: a story each.

use std::path::Path;

use super::*;
use crate::disk::Disk;
use crate::log::Adoption;

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
