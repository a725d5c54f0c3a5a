//! Topics come and go.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chiplog::{Entropy, Error, ErrorKind, GroupOffset, Log, Offset, TopicConfig};

use crate::support::{append_numbers, values};

#[test]
fn topics_are_found_listed_and_counted_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    log.create_topic("b", TopicConfig::default().partitions(2)).unwrap();
    log.topic("a").unwrap();
    assert!(log.find_topic("c").is_none());
    let listed: Vec<_> =
        log.topics().iter().map(|topic| (topic.name().to_owned(), topic.partition_count())).collect();
    assert_eq!(listed, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
    assert!(matches!(log.delete_topic("c"), Err(Error::TopicNotFound { .. })));
    let third = log.find_topic("b").unwrap().partition(2);
    assert!(matches!(third, Err(Error::PartitionNotFound { count: 2, .. })));
}

/// Gives the same three numbers again and again.
#[derive(Debug, Default)]
struct ThreeNumbers(AtomicU64);

impl Entropy for ThreeNumbers {
    fn random(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) % 3
    }
}

/// Two topics got one id, and the log did not open again.
#[test]
fn a_source_of_randomness_that_repeats_itself_gives_no_id_twice() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::builder(dir.path()).entropy(Arc::new(ThreeNumbers::default())).open().unwrap();
    let ids: BTreeSet<_> = ["a", "b", "c"].map(|name| log.topic(name).unwrap().id().to_string()).into();
    assert_eq!(ids.len(), 3);
    assert!(matches!(log.topic("d"), Err(Error::RepeatedEntropy { .. })));
    assert!(matches!(log.create_topic("a", TopicConfig::default()), Err(Error::TopicExists { .. })));
    log.close().unwrap();
    assert_eq!(Log::open(dir.path()).unwrap().topics().len(), 3);
}

#[test]
fn partitions_are_added_and_never_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let topic = log.topic("orders").unwrap();
    append_numbers(&topic.partition(0).unwrap(), 0..3);
    log.alter_topic("orders", topic.config().partitions(3)).unwrap();
    append_numbers(&topic.partition(2).unwrap(), 0..2);
    assert!(matches!(log.alter_topic("orders", topic.config().partitions(2)), Err(Error::InvalidSetting { .. })));
    drop((topic, log));

    let topic = Log::open(dir.path()).unwrap().find_topic("orders").unwrap();
    let ends: Vec<_> = (0..3).map(|number| topic.partition(number).unwrap().offsets().end).collect();
    assert_eq!(ends, [Offset(3), Offset(0), Offset(2)]);
}

#[test]
fn a_topic_made_anew_under_an_old_name_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let old = log.topic("orders").unwrap();
    append_numbers(&old.partition(0).unwrap(), 0..5);
    let group = log.group("billing").unwrap();
    group.commit_all(&[GroupOffset::new("orders", 0, Offset(4)), GroupOffset::new("other", 0, Offset(9))]).unwrap();
    log.delete_topic("orders").unwrap();
    assert!(!dir.path().join("orders-0").exists());

    let new = log.topic("orders").unwrap();
    assert_ne!(new.id(), old.id());
    assert_eq!(values(&new.partition(0).unwrap()), Vec::<String>::new());
    assert_eq!(group.committed("orders", 0).unwrap(), None, "what was committed for the old one is gone");
    assert_eq!(group.committed("other", 0).unwrap().unwrap().offset, Offset(9));
    assert!(old.append("late").is_err(), "the old handle does not write into the new topic");
    drop((old, new, group, log));
    let log = Log::open(dir.path()).unwrap();
    assert_eq!(log.find_topic("orders").unwrap().partition(0).unwrap().offsets().end, Offset(0));
}

#[test]
fn a_topic_is_opened_or_created_with_the_settings_given() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let config = TopicConfig::default().partitions(3).retention_time(None);
    assert_eq!(log.topic_with("orders", config).unwrap().config(), config);
    log.close().unwrap();
    let log = Log::open(dir.path()).unwrap();
    assert_eq!(log.topic_with("orders", config.partitions(5)).unwrap().config(), config);
    let wrong = log.topic_with("orders", config.partitions(0)).unwrap_err();
    assert!(matches!(wrong, Error::InvalidSetting { .. }), "also of a topic that is there: {wrong}");
}

#[test]
fn handles_say_why_they_are_of_no_use_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let deleted = log.topic("deleted").unwrap().partition(0).unwrap();
    append_numbers(&deleted, 0..3);
    let held = deleted.read(Offset(0)).unwrap();
    log.delete_topic("deleted").unwrap();
    assert!(matches!(deleted.append("x"), Err(Error::TopicDeleted { .. })));
    assert!(matches!(deleted.read(Offset(0)), Err(Error::TopicDeleted { .. })));
    assert_eq!(held.iter().count(), 3, "what was read stays readable");

    let topic = log.topic("orders").unwrap();
    let partition = topic.partition(0).unwrap();
    let group = log.group("billing").unwrap();
    let other = log.clone();
    log.close().unwrap();
    let refused = [
        topic.append("x").map(|_| ()).unwrap_err(),
        partition.append("x").map(|_| ()).unwrap_err(),
        partition.read(Offset(0)).map(|_| ()).unwrap_err(),
        partition.sync().unwrap_err(),
        group.commit("orders", 0, Offset(1)).unwrap_err(),
        other.topic("orders").map(|_| ()).unwrap_err(),
        other.stats().map(|_| ()).unwrap_err(),
        other.close().unwrap_err(),
    ];
    for error in refused {
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    }
}
