//! Handles are small to look at.

use chiplog::{Latencies, Log, Offset, ReadOptions};

/// Each printed the state of the whole log: 76 KB.
#[test]
fn handles_print_in_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let topic = log.topic("orders").unwrap();
    let partition = topic.partition(0).unwrap();
    let appended = partition.append_all(["one", "two"]).unwrap();
    assert_eq!(format!("{log:?}"), format!("Log {{ dir: {:?} }}", dir.path()));
    assert_eq!(format!("{topic:?}"), "Topic { orders, partitions: 1 }");
    assert_eq!(format!("{partition:?}"), "Partition { orders-0, 0..2 }");
    assert_eq!(format!("{appended:?}"), "Appended { orders-0, 0..=1 }");
    assert_eq!(format!("{:?}", log.group("billing").unwrap()), r#"Group { id: "billing" }"#);
    assert!(format!("{:?}", partition.reader()).starts_with("Reader { partition: Partition { orders-0, 0..2 }, "));
    let batches = partition.fetch(Offset(0), ReadOptions::default()).unwrap();
    assert_eq!(
        format!("{batches:?}"),
        format!("Batches {{ bytes: {}, next_offset: Offset(2) }}", batches.bytes().len())
    );
    let none = Latencies::default();
    assert_eq!(format!("{none:?}"), "Latencies { count: 0, mean: 0ns, max: 0ns }");
}
