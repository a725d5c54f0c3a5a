//! What is too old or too much goes, oldest first.

use std::time::Duration;

use chiplog::{Error, Offset, TopicConfig};

use crate::support::{ManualClock, append_batches, append_numbers, by_hand, files, values};

#[test]
fn segments_past_their_age_go() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new();
    let log = by_hand(dir.path()).clock(clock.clone()).open().unwrap();
    let config = TopicConfig::default().segment_bytes(1000).retention_time(Duration::from_secs(3600));
    let partition = log.create_topic("orders", config).unwrap().partition(0).unwrap();
    append_batches(&partition, 0..30);
    clock.advance(Duration::from_secs(3000));
    append_batches(&partition, 30..60);
    log.maintain().unwrap();
    assert_eq!(partition.offsets().start, Offset(0), "nothing is an hour old");

    let held = partition.read(Offset(0)).unwrap();
    clock.advance(Duration::from_secs(1000));
    let maintained = log.maintain().unwrap();
    let start = partition.offsets().start;
    assert!(maintained.removed > 0);
    assert!(start > Offset(0) && start <= Offset(30), "{start}: whole segments, of the old ones only");
    assert!(matches!(partition.read(Offset(0)), Err(Error::OffsetOutOfRange { end: Offset(60), .. })));
    assert_eq!(held.iter().next().unwrap().value, Some(&b"0"[..]), "what was read stays readable");
    assert!(!files(dir.path()).contains_key("orders-0/00000000000000000000.log"));

    drop((partition, held));
    log.close().unwrap();
    let log = by_hand(dir.path()).clock(clock.clone()).open().unwrap();
    let partition = log.find_topic("orders").unwrap().partition(0).unwrap();
    assert_eq!((partition.offsets().start, partition.offsets().end), (start, Offset(60)));
}

#[test]
fn a_partition_stays_within_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new();
    let log = by_hand(dir.path()).clock(clock.clone()).open().unwrap();
    let config = TopicConfig::default().segment_bytes(1000).retention_bytes(3000);
    let partition = log.create_topic("orders", config).unwrap().partition(0).unwrap();
    append_batches(&partition, 0..200);
    clock.advance(Duration::from_secs(600));
    log.maintain().unwrap();
    let kept: u64 = partition.segments().iter().map(|segment| segment.len()).sum();
    assert!((3000..=4000).contains(&kept), "{kept}: the limit, and less than a segment above");
    assert_eq!(values(&partition).last().unwrap(), "199");
}

#[test]
fn delete_before_takes_effect_inside_a_segment_and_survives_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let log = by_hand(dir.path()).open().unwrap();
    let partition = log.topic("orders").unwrap().partition(0).unwrap();
    append_numbers(&partition, 0..10);
    log.delete_before("orders", 0, Offset(4)).unwrap();
    log.delete_before("orders", 0, Offset(2)).unwrap();
    assert!(matches!(log.delete_before("orders", 0, Offset(11)), Err(Error::OffsetOutOfRange { .. })));
    assert_eq!(values(&partition).first().unwrap(), "4");
    drop((partition, log));
    let log = by_hand(dir.path()).open().unwrap();
    let partition = log.find_topic("orders").unwrap().partition(0).unwrap();
    assert_eq!(values(&partition).first().unwrap(), "4");
    append_numbers(&partition, 10..12);
}
