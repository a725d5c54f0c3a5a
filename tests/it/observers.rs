//! What an observer is told of, and what it may do.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use chiplog::{
    Ack, Durability, GroupConfig, Log, Observer, Offset, Recovery, Retained, SegmentEvent, Synced, TailCut,
    TopicConfig, TopicPartition,
};

use crate::support::{ManualClock, append_batches, append_numbers, by_hand, files};

/// Calls the log from the first few events of each kind: what it does there is told in turn.
#[derive(Debug, Default)]
struct Meddler {
    log: Mutex<Option<Log>>,
    is_busy: AtomicBool,
    told: Mutex<BTreeMap<&'static str, u32>>,
}

impl Meddler {
    fn meddle(&self, event: &'static str) {
        let log = self.log.lock().unwrap().clone();
        let Some(log) = log else { return };
        let count = {
            let mut told = self.told.lock().unwrap();
            let count = told.entry(event).or_default();
            *count += 1;
            *count
        };
        if count > 5 {
            return;
        }
        assert!(!self.is_busy.swap(true, Ordering::SeqCst), "{event} is told within another event");
        // The log may be closed by now: what counts is that each of them returns.
        let _ = log.maintain();
        let _ = log.sync();
        let _ = log.stats();
        let _ = log.create_topic("audit", TopicConfig::default());
        let _ = log.alter_topic("audit", TopicConfig::default().retention_bytes(1 << 20));
        if let Ok(partition) = log.topic("audit").and_then(|topic| topic.partition(0)) {
            let _ = partition.append(event).and_then(|appended| appended.wait(Ack::Synced));
            let _ = partition.sync();
            let _ = log.delete_before("audit", 0, partition.offsets().end);
        }
        if let Ok(group) = log.group("audit") {
            let _ = group.commit("audit", 0, Offset(1));
            let _ = group.offsets();
            let _ = group.delete();
        }
        let _ = log.delete_topic("audit");
        self.is_busy.store(false, Ordering::SeqCst);
    }
}

impl Observer for Meddler {
    fn segment_created(&self, _: &SegmentEvent<'_>) {
        self.meddle("segment_created");
    }

    fn segment_sealed(&self, _: &SegmentEvent<'_>) {
        self.meddle("segment_sealed");
    }

    fn segment_deleted(&self, _: &SegmentEvent<'_>) {
        self.meddle("segment_deleted");
    }

    fn synced(&self, _: &Synced<'_>) {
        self.meddle("synced");
    }

    fn index_rebuilt(&self, _: &TopicPartition, _: &Path) {
        self.meddle("index_rebuilt");
    }

    fn corrupt_tail_cut(&self, _: &TailCut<'_>) {
        self.meddle("corrupt_tail_cut");
    }

    fn retention_deleted(&self, _: &Retained<'_>) {
        self.meddle("retention_deleted");
    }

    fn offsets_committed(&self, _: &str, _: usize) {
        self.meddle("offsets_committed");
    }

    fn offsets_expired(&self, _: &str, _: usize) {
        self.meddle("offsets_expired");
    }
}

/// Fails the test if `work` hangs.
fn in_time(work: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let worker = thread::spawn(move || {
        work();
        done.send(()).unwrap();
    });
    let ended = wait.recv_timeout(Duration::from_secs(60));
    assert!(ended != Err(mpsc::RecvTimeoutError::Timeout), "an observer that calls the log hangs");
    worker.join().unwrap();
}

/// Retention, expiry and the deletion of a topic told the observer while they held the lock that `maintain` and
/// `delete_before` take.
#[test]
fn an_observer_may_call_the_log_from_every_event() {
    in_time(|| {
        let dir = tempfile::tempdir().unwrap();
        let (meddler, clock) = (Arc::new(Meddler::default()), ManualClock::new());
        let day = Duration::from_secs(86_400);
        let open = || {
            by_hand(dir.path())
                .observer(meddler.clone())
                .clock(clock.clone())
                .groups(GroupConfig::default().offset_retention(day))
                .open()
                .unwrap()
        };
        let log = open();
        *meddler.log.lock().unwrap() = Some(log.clone());
        let each_second = Durability::Every { records: None, time: Some(Duration::from_secs(1)) };
        let config = TopicConfig::default().segment_bytes(400).retention_time(day / 2).durability(each_second);
        let orders = log.create_topic("orders", config).unwrap().partition(0).unwrap();
        append_batches(&orders, 0..20);
        orders.sync().unwrap();
        log.group("billing").unwrap().commit("orders", 0, Offset(1)).unwrap();
        append_numbers(&orders, 20..21);
        for _ in 0..4 {
            clock.advance(day);
            log.maintain().unwrap();
        }
        append_batches(&orders, 21..40);
        log.delete_before("orders", 0, Offset(30)).unwrap();
        log.alter_topic("orders", config.partitions(2)).unwrap();
        log.topic("returns").unwrap().append("back").unwrap();
        log.delete_topic("returns").unwrap();
        drop(orders);
        log.close().unwrap();
        *meddler.log.lock().unwrap() = None;

        let index =
            files(&dir.path().join("orders-0")).into_keys().find(|name| name.ends_with(".timeindex")).unwrap();
        std::fs::remove_file(dir.path().join("orders-0").join(index)).unwrap();
        let path = dir.path().join("orders-1/00000000000000000000.log");
        std::fs::write(&path, [1; 40]).unwrap();
        let log = open();
        *meddler.log.lock().unwrap() = Some(log.clone());
        let orders = log.topic("orders").unwrap();
        orders.partition(0).unwrap().offset_at(chiplog::Timestamp(1)).unwrap();
        orders.partition(1).unwrap().append("cut first").unwrap();

        // The last event of a close finds the log closed.
        orders.partition(0).unwrap().append("one more").unwrap();
        *meddler.log.lock().unwrap() = None;
        drop(orders);
        log.close().unwrap();
        let told = meddler.told.lock().unwrap();
        for event in [
            "segment_created",
            "segment_sealed",
            "segment_deleted",
            "synced",
            "index_rebuilt",
            "corrupt_tail_cut",
            "retention_deleted",
            "offsets_committed",
            "offsets_expired",
        ] {
            assert!(told.contains_key(&event), "{event} was not told: {told:?}");
        }
    });
}

/// Closes the log from within its own maintenance.
#[derive(Debug, Default)]
struct Closes(Mutex<Option<Log>>);

impl Observer for Closes {
    fn segment_deleted(&self, _: &SegmentEvent<'_>) {
        if let Some(log) = self.0.lock().unwrap().take() {
            log.close().unwrap();
        }
    }
}

#[test]
fn an_observer_may_close_the_log() {
    in_time(|| {
        let dir = tempfile::tempdir().unwrap();
        let closes = Arc::new(Closes::default());
        let log = by_hand(dir.path()).observer(closes.clone()).open().unwrap();
        let config = TopicConfig::default().segment_bytes(400).retention_bytes(400);
        append_batches(&log.create_topic("orders", config).unwrap().partition(0).unwrap(), 0..20);
        *closes.0.lock().unwrap() = Some(log.clone());
        assert!(log.maintain().unwrap().removed > 0);
        assert!(matches!(log.maintain(), Err(chiplog::Error::Closed)));
        assert!(Log::open(dir.path()).is_ok());
    });
}

#[derive(Debug, Default)]
struct Notes(Mutex<Vec<String>>);

impl Notes {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Observer for Notes {
    fn recovered(&self, recovery: &Recovery<'_>) {
        assert_eq!(recovery.scanned_bytes, recovery.total_bytes);
        self.0.lock().unwrap().push(format!("recovered {} to {}", recovery.partition, recovery.end));
    }

    fn index_rebuilt(&self, partition: &TopicPartition, path: &Path) {
        self.0.lock().unwrap().push(format!("rebuilt {partition} {}", path.file_name().unwrap().display()));
    }
}

/// It was told at every open, and of new topics, too.
#[test]
fn only_what_was_not_closed_in_order_is_recovered() {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let notes = Arc::new(Notes::default());
    let open = |dir: &Path| by_hand(dir).observer(notes.clone()).open().unwrap();
    let log = open(dir.path());
    append_numbers(&log.topic("orders").unwrap().partition(0).unwrap(), 0..3);
    log.topic("empty").unwrap();
    log.close().unwrap();
    let log = open(dir.path());
    let orders = log.topic("orders").unwrap().partition(0).unwrap();
    append_numbers(&orders, 3..4);
    // A copy has what is in the files.
    orders.sync().unwrap();
    assert_eq!(notes.take(), [""; 0]);

    // What a process that is killed now leaves.
    for (name, bytes) in files(dir.path()) {
        let path = copy.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let killed = open(copy.path());
    assert_eq!(notes.take(), ["recovered orders-0 to 4"]);
    assert_eq!(killed.topic("orders").unwrap().partition(0).unwrap().offsets().end, Offset(4));
}

#[test]
fn an_index_that_is_built_again_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let notes = Arc::new(Notes::default());
    let log = by_hand(dir.path()).observer(notes.clone()).open().unwrap();
    let config = TopicConfig::default().segment_bytes(400);
    append_batches(&log.create_topic("orders", config).unwrap().partition(0).unwrap(), 0..20);
    log.close().unwrap();
    std::fs::remove_file(dir.path().join("orders-0/00000000000000000000.timeindex")).unwrap();

    let log = by_hand(dir.path()).observer(notes.clone()).open().unwrap();
    let orders = log.topic("orders").unwrap().partition(0).unwrap();
    for _ in 0..2 {
        assert!(!orders.read(Offset::ZERO).unwrap().is_empty());
    }
    assert_eq!(notes.take(), ["rebuilt orders-0 00000000000000000000.index"]);
}
