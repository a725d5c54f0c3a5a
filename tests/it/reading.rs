//! What a read returns.

use chiplog::{Log, Offset};

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
