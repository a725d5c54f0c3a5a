//! What a read returns.

use chiplog::{Log, Offset, Record, Timestamp};

#[test]
fn an_iterator_says_how_many_records_may_come() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let partition = log.topic("orders").unwrap().partition(0).unwrap();
    let _ = partition.append_all(["one", "two", "three"]).unwrap();
    let records = partition.read(Offset(1)).unwrap();
    let mut iter = records.iter();
    for left in [2, 1, 0] {
        assert_eq!(iter.size_hint(), (0, Some(left)));
        iter.next();
    }
    assert_eq!(format!("{:?}", records.iter()), "RecordsIter { next: Offset(1), end: Offset(3) }");
}

/// Each was taken for a time before all others, and found the first record.
#[test]
fn kafkas_special_timestamps_are_places() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let partition = log.topic("orders").unwrap().partition(0).unwrap();
    let places = |partition: &chiplog::Partition| {
        [-1, -2, -3, -4, -5, i64::MIN]
            .map(|time| partition.offset_at(Timestamp(time)).unwrap().map(|offset| offset.0))
    };
    assert_eq!(places(&partition), [Some(0), Some(0), None, Some(0), None, None]);
    for time in [-1, 1_000, 3_000, 2_000] {
        let _ = partition.append(Record::new("v").timestamp(Timestamp(time))).unwrap();
    }
    log.delete_before("orders", 0, Offset(1)).unwrap();
    assert_eq!(places(&partition), [Some(4), Some(1), Some(2), Some(1), None, None]);
    assert_eq!(partition.offset_at(Timestamp(0)).unwrap(), Some(Offset(1)));
}
