//! The README's program is this one.

use chiplog::{Ack, Log, Offset, Record, TopicConfig};

fn program(dir: &std::path::Path) -> chiplog::Result<()> {
    let log = Log::open(dir)?; // creates, locks, recovers
    let orders = log.topic_with("orders", TopicConfig::default().partitions(3))?; // opens it, or creates it like this

    let appended = orders.append(Record::new("paid").key("o-17"))?; // the key chooses the partition, as in Kafka
    appended.wait(Ack::Synced)?; // from here on a power cut does not take it

    let billing = log.group("billing")?;
    let partition = orders.partition(appended.partition())?;
    let committed = billing.committed("orders", partition.number())?;
    let stored = partition.offsets(); // retention may have passed the group by
    let from = committed.map_or(Offset::ZERO, |committed| committed.offset).clamp(stored.start, stored.end);
    let records = partition.read(from)?;
    for record in &records {
        println!("{} {:?}", record.offset, record.value);
    }
    billing.commit("orders", partition.number(), records.next_offset())?;
    log.close()
}

#[test]
fn the_program_runs_and_goes_on_when_it_runs_again() {
    let dir = tempfile::tempdir().unwrap();
    for run in 1..4 {
        program(dir.path()).unwrap();
        let log = Log::open(dir.path()).unwrap();
        let committed = log.group("billing").unwrap().offsets().unwrap();
        assert_eq!(committed.len(), 1);
        assert_eq!(committed[0].1.offset, Offset(run));
    }
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
