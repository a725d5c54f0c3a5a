//! The README's program is this one, and so is what follows there.

use std::time::Duration;

use chiplog::{Ack, AutoOffsetReset, GroupConfig, Log, Offset, Record, TopicConfig};

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

fn produce_and_consume(log: &Log) -> chiplog::Result<()> {
    let producer = log.producer().build()?;
    let sent = producer.send(Record::new("paid").key("o-17").to("orders"))?;
    producer.flush()?; // what was gathered is appended now
    let delivered = sent.wait()?; // tells what became of this record
    println!("{} {}", delivered.partition, delivered.offset);

    // A new group begins with the first record; by default with those that come from now on.
    let invoicing = log.consumer("invoicing").topics(["orders"]).auto_offset_reset(AutoOffsetReset::Earliest);
    let mut consumer = invoicing.join()?;
    let polled = consumer.poll(Duration::from_secs(30))?; // empty if nothing came within that time
    for (partition, record) in &polled {
        println!("{partition} {} {:?}", record.offset, record.value);
    }
    consumer.commit()?; // processed: the group goes on behind them, also after a power cut
    consumer.close() // the other members take over
}

#[test]
fn the_producer_and_the_consumer_run_and_go_on_when_they_run_again() {
    let dir = tempfile::tempdir().unwrap();
    let at_once = GroupConfig::default().initial_rebalance_delay(Duration::ZERO);
    let log = Log::builder(dir.path()).groups(at_once).open().unwrap();
    for run in 1..4 {
        produce_and_consume(&log).unwrap();
        let committed = log.group("invoicing").unwrap().committed("orders", 0).unwrap();
        assert_eq!(committed.unwrap().offset, Offset(run));
    }
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
    let (readme, ours) = (include_str!("../../README.md"), include_str!("readme.rs"));
    let program = "fn program(dir: &std::path::Path) -> chiplog::Result<()> {";
    assert_eq!(body(readme, "fn main() -> chiplog::Result<()> {"), body(ours, program));
    let consumes = "fn produce_and_consume(log: &Log) -> chiplog::Result<()> {";
    assert_eq!(body(readme, consumes), body(ours, consumes));
}
