//! What the log says about itself.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chiplog::{
    Ack, Observer, Offset, Record, Retained, RetentionReason, SegmentEvent, Staging, Synced, TailCut, TopicConfig,
};

use crate::support::{append_numbers, by_hand};

#[derive(Debug, Default)]
struct Notes(Mutex<Vec<String>>);

impl Notes {
    fn note(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Observer for Notes {
    fn segment_created(&self, event: &SegmentEvent<'_>) {
        self.note(format!("created {} {}", event.partition, event.base));
    }

    fn segment_sealed(&self, event: &SegmentEvent<'_>) {
        self.note(format!("sealed {} {}..{}", event.partition, event.base, event.end));
    }

    fn segment_deleted(&self, event: &SegmentEvent<'_>) {
        self.note(format!("deleted {} {}", event.partition, event.base));
    }

    fn synced(&self, event: &Synced<'_>) {
        self.note(format!("synced {} {}", event.partition, event.offset));
    }

    fn corrupt_tail_cut(&self, cut: &TailCut<'_>) {
        self.note(format!("cut {} {}", cut.partition, cut.bytes));
    }

    fn retention_deleted(&self, event: &Retained<'_>) {
        assert_eq!(event.reason, RetentionReason::Start);
        self.note(format!("retained {} from {}", event.partition, event.start));
    }

    fn offsets_committed(&self, group: &str, count: usize) {
        self.note(format!("committed {group} {count}"));
    }
}

#[test]
fn an_observer_is_told_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let notes = Arc::new(Notes::default());
    let log = by_hand(dir.path()).observer(notes.clone()).open().unwrap();
    let value = "x".repeat(300);
    let config = TopicConfig::default().segment_bytes(800);
    let partition = log.create_topic("orders", config).unwrap().partition(0).unwrap();
    for _ in 0..3 {
        let _ = partition.append(&*value).unwrap();
    }
    assert_eq!(notes.take(), ["created orders-0 0", "created orders-0 2", "sealed orders-0 0..2"]);
    partition.sync().unwrap();
    assert_eq!(notes.take(), ["synced orders-0 3"]);
    log.delete_before("orders", 0, Offset(2)).unwrap();
    assert_eq!(notes.take(), ["deleted orders-0 0", "retained orders-0 from 2"]);
    log.group("billing").unwrap().commit("orders", 0, Offset(3)).unwrap();
    assert_eq!(notes.take().last().unwrap(), "committed billing 1");
}

#[test]
fn a_torn_tail_is_told_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let log = by_hand(dir.path()).open().unwrap();
    append_numbers(&log.topic("orders").unwrap().partition(0).unwrap(), 0..3);
    log.close().unwrap();
    let path = dir.path().join("orders-0/00000000000000000000.log");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend_from_slice(&bytes.clone()[..40]);
    std::fs::write(&path, bytes).unwrap();

    let notes = Arc::new(Notes::default());
    let log = by_hand(dir.path()).observer(notes.clone()).open().unwrap();
    append_numbers(&log.topic("orders").unwrap().partition(0).unwrap(), 3..4);
    assert!(notes.take().contains(&"cut orders-0 40".to_owned()));
    let is_kept = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().ends_with(".cut");
    assert!(std::fs::read_dir(dir.path().join("orders-0")).unwrap().any(|entry| is_kept(entry.unwrap())));
}

#[test]
fn stats_count_what_was_done() {
    let dir = tempfile::tempdir().unwrap();
    let log = by_hand(dir.path()).staging(Staging::Off).open().unwrap();
    let topic = log.create_topic("orders", TopicConfig::default().partitions(2)).unwrap();
    let (first, second) = (topic.partition(0).unwrap(), topic.partition(1).unwrap());
    append_numbers(&first, 0..3);
    let _ = second.append_all((0..10).map(|_| Record::new("x"))).unwrap();
    second.append("y").unwrap().wait(Ack::Synced).unwrap();
    first.read(Offset(0)).unwrap();

    let stats = log.stats().unwrap();
    let [one, two] = &stats.topics[0].partitions[..] else { panic!("{stats:?}") };
    assert_eq!((one.appended_batches, one.appended_records, one.end, one.synced), (3, 3, Offset(3), Offset(0)));
    assert_eq!((two.appended_batches, two.appended_records, two.end, two.synced), (2, 11, Offset(11), Offset(11)));
    assert_eq!((one.syncs.count(), two.syncs.count()), (0, 1));
    assert!(two.syncs.max() > Duration::ZERO);
    assert_eq!(one.bytes, one.appended_bytes);
    assert_eq!((stats.total().appended_records, stats.total().segments), (14, 2));
    assert!(stats.free_bytes > 0);
    assert_eq!(stats.open_maps, 1, "only what was read is mapped");
}
