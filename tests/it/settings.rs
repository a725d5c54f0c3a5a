//! Names and settings that are refused say what would have been right.

use std::time::Duration;

use chiplog::{Durability, Error, Log, TopicConfig};

#[test]
fn names_follow_kafkas_rules() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let long = "a".repeat(250);
    for name in ["", ".", "..", "a/b", "a\\b", "a b", "a\0", "\u{e4}", &long] {
        let refused = log.create_topic(name, TopicConfig::default());
        assert!(matches!(refused, Err(Error::InvalidTopicName { .. })), "{name:?}");
    }
    for name in ["...", "a.b", "A_Z-9", &long[..249]] {
        log.create_topic(name, TopicConfig::default()).unwrap();
    }
    let collides = log.create_topic("a_b", TopicConfig::default());
    assert!(matches!(collides, Err(Error::TopicExists { topic }) if *topic == *"a.b"));
    assert!(matches!(log.group(""), Err(Error::InvalidGroupId { .. })));
}

#[test]
fn an_unknown_key_names_the_nearest() {
    let told = TopicConfig::default().set("segment.byte", "1000").unwrap_err().to_string();
    assert!(
        told.contains("segment.byte") && told.contains("1000") && told.contains("nearest is segment.bytes"),
        "{told}"
    );
}

#[test]
fn a_value_out_of_range_names_key_value_and_range() {
    for (key, value, range) in
        [("segment.bytes", "-1", "2147483647"), ("retention.ms", "-2", "-1"), ("compression.type", "lzma", "zstd")]
    {
        let told = TopicConfig::default().set(key, value).unwrap_err().to_string();
        assert!([key, value, range].iter().all(|part| told.contains(part)), "{told}");
    }
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let none = TopicConfig::default().partitions(0);
    let told = log.create_topic("orders", none).unwrap_err().to_string();
    assert!(told.contains("partitions") && told.contains("\"0\"") && told.contains("1 to 100000"), "{told}");
    let never = Log::builder(dir.path()).max_maps(0).open().unwrap_err().to_string();
    assert!(never.contains("max_maps") && never.contains("1 and more"), "{never}");
}

#[test]
fn settings_survive_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let config = TopicConfig::default()
        .partitions(2)
        .retention_time(Duration::from_secs(60))
        .durability(Durability::Each)
        .set("segment.bytes", "4096")
        .unwrap();
    Log::open(dir.path()).unwrap().create_topic("orders", config).unwrap();
    let log = Log::open(dir.path()).unwrap();
    assert_eq!(log.find_topic("orders").unwrap().config(), config);
}
