//! A thousand partitions in one log, with bounded descriptors, maps and memory.

use std::time::{Duration, Instant};

use chiplog::{Log, Offset, TopicConfig};

use crate::support::{append_batches, values};

#[test]
fn a_thousand_partitions_stay_within_bounds() {
    // In memory where there is such a place: thousands of syncs are not what is looked at here.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let memory = resident_kib();
    let log = Log::builder(dir.path()).max_maps(64).open().unwrap();
    let config = TopicConfig::default().partitions(1000).segment_bytes(400);
    let topic = log.create_topic("orders", config).unwrap();
    for number in 0..1000 {
        let partition = topic.partition(number).unwrap();
        append_batches(&partition, 0..10);
        assert_eq!(values(&partition).len(), 10);
    }
    let segments = log.stats().unwrap().total().segments;
    assert!(segments >= 2000, "{segments} segments");
    assert!(log.stats().unwrap().open_maps <= 64);
    let maps = maps_below(dir.path());
    assert!(maps <= 64, "{maps} maps");
    // The active segment of each partition is open, its sealed ones are not once they are finished.
    log.sync().unwrap();
    let has_bounded = || {
        log.maintain().unwrap();
        descriptors_below(dir.path()) <= 1000 + 64 + 16
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while !has_bounded() {
        // Checkpoints, and with them the finishing, keep a distance from one another.
        assert!(Instant::now() < deadline, "{} descriptors", descriptors_below(dir.path()));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(resident_kib() < memory + 256 * 1024, "{} KiB, {memory} before", resident_kib());

    drop(topic);
    log.close().unwrap();
    assert_eq!(descriptors_below(dir.path()), 0);
    let log = Log::builder(dir.path()).max_maps(64).open().unwrap();
    let topic = log.find_topic("orders").unwrap();
    assert!(descriptors_below(dir.path()) <= 16, "partitions that nobody writes to hold nothing open");
    for number in 0..1000 {
        assert_eq!(topic.partition(number).unwrap().read(Offset(9)).unwrap().iter().count(), 1);
    }
    assert!(log.stats().unwrap().open_maps <= 64);
}

/// How many files of this directory are open.
fn descriptors_below(dir: &std::path::Path) -> usize {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()).filter(|path| path.starts_with(dir)).count()
}

/// How many files of this directory are mapped, the one that appends are staged in aside: that is one for all of them.
fn maps_below(dir: &std::path::Path) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let ours = maps.lines().filter(|line| line.contains(&*dir.to_string_lossy()));
    ours.filter(|line| !line.ends_with("/staging")).count()
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
