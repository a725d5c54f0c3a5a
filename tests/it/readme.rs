//! The README's program is this one.

use chiplog::{Ack, Log, Offset, Record, TopicConfig};

fn program(dir: &std::path::Path) -> chiplog::Result<()> {
    let log = Log::open(dir)?; // creates, locks, recovers
    let orders = log.create_topic("orders", TopicConfig::default().partitions(3))?;

    let appended = orders.append(Record::new("paid").key("o-17"))?; // the key chooses the partition, as in Kafka
    appended.wait(Ack::Synced)?; // from here on a power cut does not take it

    let partition = orders.partition(appended.partition())?;
    for record in &partition.read(Offset::ZERO)? {
        println!("{} {:?}", record.offset, record.value);
        log.group("billing")?.commit("orders", partition.number(), record.offset + 1)?;
    }
    log.close()
}

#[test]
fn the_program_runs() {
    let dir = tempfile::tempdir().unwrap();
    program(dir.path()).unwrap();
    let log = Log::open(dir.path()).unwrap();
    let committed = log.group("billing").unwrap().offsets().unwrap();
    assert_eq!(committed.len(), 1);
    assert_eq!(committed[0].1.offset, Offset(1));
}

#[test]
fn the_program_is_the_one_in_the_readme() {
    let body = |text: &str, from: &str| {
        let rest = &text[text.find(from).unwrap() + from.len()..];
        rest[..rest.find("\n}\n").unwrap()].replace("Log::open(\"data\")", "Log::open(dir)")
    };
    let readme = body(include_str!("../../README.md"), "fn main() -> chiplog::Result<()> {");
    let ours = body(include_str!("readme.rs"), "fn program(dir: &std::path::Path) -> chiplog::Result<()> {");
    assert_eq!(readme, ours);
}
