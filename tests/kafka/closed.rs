//! Logs that were closed in order: every codec, many segments, every kind of batch that callers can append.

use std::path::Path;
use std::time::Duration;

use chiplog::record::{Codec, Compression, Producer};
use chiplog::{
    Background, Durability, Log, Offset, ProducerEpoch, ProducerId, Staging, TimestampType, Topic, TopicConfig,
};

use crate::Result;
use crate::random::Random;
use crate::records::{Made, Noted};

/// Writes two logs, which differ in whether small appends are staged.
pub(crate) fn write_all(dir: &Path) -> Result {
    for (name, staging) in [("staged", Staging::On), ("unstaged", Staging::Off)] {
        let dir = dir.join(name);
        let builder = Log::builder(&dir).staging(staging).background(Background::Caller);
        let log = builder.retention_interval(Duration::from_millis(1)).open()?;
        write(log, &dir, &mut Random(1)).map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}

fn write(log: Log, dir: &Path, random: &mut Random) -> Result {
    let mut noted = Noted::new(log);
    for (name, config) in topics()? {
        let topic = noted.topic(&name, config)?;
        for _ in 0..200 {
            let partition = random.below(topic.partition_count().into()) as u32;
            append_any(&mut noted, &topic, partition, random)?;
        }
        noted.log.maintain()?;
    }
    noted.topic("empty", TopicConfig::default().partitions(2))?;
    producers(&mut noted, random)?;
    trimmed(&mut noted, random)?;
    commits(&noted)?;
    noted.log.maintain()?;
    noted.close(dir)
}

/// A topic for each codec, and for each setting that shapes files.
fn topics() -> Result<Vec<(String, TopicConfig)>> {
    let small = TopicConfig::default().segment_bytes(6_000).index_interval_bytes(300);
    let mut topics = vec![
        ("plain".to_owned(), TopicConfig::default().partitions(3)),
        ("rolled".to_owned(), small.partitions(2)),
        ("rolled-often".to_owned(), TopicConfig::default().segment_bytes(2_600).index_interval_bytes(0)),
        ("append-time".to_owned(), small.timestamp_type(TimestampType::LogAppendTime)),
        ("synced".to_owned(), TopicConfig::default().segment_bytes(20_000).durability(Durability::Each)),
        ("preallocated".to_owned(), TopicConfig::default().segment_bytes(16_384).preallocate(true)),
        // An index of ten entries makes the segment full.
        ("index-full".to_owned(), TopicConfig::default().index_interval_bytes(100).segment_index_bytes(80)),
        ("retained".to_owned(), small.retention_bytes(8_000)),
    ];
    for codec in codecs() {
        let name = if codec == Codec::None { "uncompressed" } else { codec.name() };
        topics.push((format!("codec-{name}"), small.partitions(2).set("compression.type", name)?));
    }
    Ok(topics)
}

/// Those that are built in.
fn codecs() -> impl Iterator<Item = Codec> {
    [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd]
        .into_iter()
        .filter(|codec| codec.is_supported())
}

/// One record, or a batch of them, with the time of the append or times of their own.
fn append_any(noted: &mut Noted, topic: &Topic, partition: u32, random: &mut Random) -> Result {
    let count = if random.one_in(5) { 2 + random.below(5) } else { 1 };
    let has_times = random.one_in(3);
    let any = |random: &mut Random| match Made::any(random) {
        made if has_times => made.at_any_time(random),
        made => made,
    };
    let records: Vec<_> = (0..count).map(|_| any(random)).collect();
    noted.append(topic, partition, &records)
}

/// Batches that producers numbered, in partition 1 among those of a transaction that nobody ends.
fn producers(noted: &mut Noted, random: &mut Random) -> Result {
    let config = TopicConfig::default().partitions(2).segment_bytes(6_000).index_interval_bytes(300);
    let topic = noted.topic("producers", config)?;
    let codecs: Vec<_> = codecs().collect();
    let mut sequences = [[0; 4]; 2];
    for number in 0..200 {
        let partition = number % 2;
        let records: Vec<_> = (0..1 + random.below(4)).map(|_| Made::any(random)).collect();
        let who = random.below(5) as usize;
        let producer = sequences[partition].get_mut(who).map(|sequence| {
            *sequence += records.len() as i32;
            producer(who, *sequence - records.len() as i32, false)
        });
        let codec = codecs[random.below(codecs.len() as u64) as usize];
        noted.append_raw(&topic, partition as u32, &records, Compression::new(codec), producer)?;
    }
    let open_from = topic.partition(1)?.offsets().end.0;
    for sequence in 0..3 {
        let producer = Some(producer(9, sequence, true));
        noted.append_raw(&topic, 1, &[Made::any(random)], Compression::NONE, producer)?;
        append_any(noted, &topic, 1, random)?;
    }
    noted.hide_from(&topic, 1, open_from);
    Ok(())
}

fn producer(who: usize, base_sequence: i32, is_transactional: bool) -> Producer {
    Producer { id: ProducerId(4_000 + who as i64), epoch: ProducerEpoch(0), base_sequence, is_transactional }
}

/// Logs that start in the middle of a segment, and at their end.
fn trimmed(noted: &mut Noted, random: &mut Random) -> Result {
    let topic = noted.topic("trimmed", TopicConfig::default().partitions(2).segment_bytes(6_000))?;
    for number in 0..200 {
        append_any(noted, &topic, number % 2, random)?;
    }
    let end = topic.partition(1)?.offsets().end;
    noted.log.delete_before("trimmed", 0, Offset(57))?;
    noted.log.delete_before("trimmed", 1, end)?;
    Ok(())
}

fn commits(noted: &Noted) -> Result {
    for id in ["billing", "shipping"] {
        let group = noted.log.group(id)?;
        for partition in 0..3 {
            let end = noted.log.topic("plain")?.partition(partition)?.offsets().end;
            group.commit("plain", partition, end)?;
        }
    }
    Ok(())
}
