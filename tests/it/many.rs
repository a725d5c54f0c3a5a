//! A thousand partitions in one log, with bounded descriptors, maps and memory.

use chiplog::{Log, Offset, TopicConfig};

use crate::support::{append_numbers, values};

#[test]
fn a_thousand_partitions_stay_within_bounds() {
    // In memory where there is such a place: thousands of syncs are not what is looked at here.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let memory = resident_kib();
    let log = Log::builder(dir.path()).max_maps(64).open().unwrap();
    // With indexes of the default 10 MiB the memory of rolled segments is not bounded so: the allocator hands out their
    // room again, and zeroes it, which makes all of it resident.
    let config = TopicConfig::default().partitions(1000).segment_bytes(400).segment_index_bytes(4096);
    let topic = log.create_topic("orders", config).unwrap();
    for number in 0..1000 {
        let partition = topic.partition(number).unwrap();
        append_numbers(&partition, 0..10);
        assert_eq!(values(&partition).len(), 10);
    }
    let segments = log.stats().unwrap().total().segments;
    assert!(segments >= 2000, "{segments} segments");
    assert!(log.stats().unwrap().open_maps <= 64);
    let maps = maps_below(dir.path());
    assert!(maps <= 64, "{maps} maps");
    // The active segment of each partition is open, its sealed ones are not once they are finished.
    log.sync().unwrap();
    log.maintain().unwrap();
    let open = descriptors_below(dir.path());
    assert!(open <= 1000 + 64 + 16, "{open} descriptors");
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

/// How many files of this directory are mapped.
fn maps_below(dir: &std::path::Path) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains(&*dir.to_string_lossy())).count()
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
