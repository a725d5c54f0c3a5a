//! What groups commit stays, until it is too old.

use std::time::Duration;

use chiplog::{Error, ErrorKind, GroupConfig, GroupOffset, Log, Offset, ReadOptions, Record};

use crate::support::{ManualClock, by_hand};

#[test]
fn commits_survive_reopening_with_their_metadata() {
    let dir = tempfile::tempdir().unwrap();
    {
        let log = Log::open(dir.path()).unwrap();
        for (id, offset) in [("billing", 3), ("shipping", 5)] {
            let done = GroupOffset::new("orders", 1, Offset(offset)).metadata("by worker 7");
            log.group(id).unwrap().commit_all(&[done]).unwrap();
        }
        log.group("billing").unwrap().commit("orders", 1, Offset(2)).unwrap();
        log.group("gone").unwrap().commit("orders", 0, Offset(1)).unwrap();
        log.group("gone").unwrap().delete().unwrap();
    }
    let log = Log::open(dir.path()).unwrap();
    assert_eq!(log.groups().unwrap(), ["billing", "shipping"]);
    let billing = log.group("billing").unwrap().committed("orders", 1).unwrap().unwrap();
    assert_eq!((billing.offset, &*billing.metadata), (Offset(2), ""), "the last commit holds, if it goes back too");
    let shipping = log.group("shipping").unwrap().committed("orders", 1).unwrap().unwrap();
    assert_eq!((shipping.offset, &*shipping.metadata), (Offset(5), "by worker 7"));
}

#[test]
fn offsets_expire_by_the_clock() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new();
    let config = GroupConfig::default().offset_retention(Duration::from_secs(3600));
    let open = || by_hand(dir.path()).clock(clock.clone()).groups(config).open().unwrap();
    let log = open();
    log.group("old").unwrap().commit("orders", 0, Offset(1)).unwrap();
    clock.advance(Duration::from_secs(3000));
    log.group("young").unwrap().commit("orders", 0, Offset(1)).unwrap();
    log.maintain().unwrap();
    assert_eq!(log.groups().unwrap().len(), 2);
    clock.advance(Duration::from_secs(1000));
    log.maintain().unwrap();
    assert_eq!(log.groups().unwrap(), ["young"]);
    log.close().unwrap();
    assert_eq!(open().groups().unwrap(), ["young"], "the removal is in the log, too");
}

/// A program that had not run for longer than the retention lost its place at the first maintenance.
#[test]
fn offsets_do_not_expire_in_the_first_minutes_after_an_open() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new();
    let config = GroupConfig::default().offset_retention(Duration::from_secs(3600));
    let open = || by_hand(dir.path()).clock(clock.clone()).groups(config).open().unwrap();
    open().group("g").unwrap().commit("orders", 0, Offset(1)).unwrap();
    clock.advance(Duration::from_secs(5000));
    let log = open();
    log.maintain().unwrap();
    clock.advance(Duration::from_secs(599));
    assert!(log.maintain().unwrap().next <= Duration::from_secs(1));
    assert_eq!(log.groups().unwrap(), ["g"]);
    clock.advance(Duration::from_secs(1));
    log.maintain().unwrap();
    assert!(log.groups().unwrap().is_empty());
}

/// A record that is none of a group's would stay for good, and confuse whoever reads the topic.
#[test]
fn only_the_log_appends_to_its_own_topic() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    log.group("billing").unwrap().commit("orders", 0, Offset(1)).unwrap();
    let topic = log.find_topic("__consumer_offsets").unwrap();
    let partition = topic.partition(0).unwrap();
    let end = partition.offsets().end;
    let record = Record::new("x").key("k");
    let stored = partition.fetch(Offset(0), ReadOptions::default()).unwrap();
    let refused = [
        log.append(record.to("__consumer_offsets")).unwrap_err(),
        topic.append(record).unwrap_err(),
        partition.append(record).unwrap_err(),
        partition.append_all([record]).unwrap_err(),
        partition.append_if_end(end, [record]).unwrap_err(),
        partition.append_raw(stored.bytes()).unwrap_err(),
    ];
    for error in refused {
        assert!(matches!(error, Error::InternalTopic { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    assert_eq!(partition.offsets().end, end);
    log.group("billing").unwrap().commit("orders", 0, Offset(2)).unwrap();
}
