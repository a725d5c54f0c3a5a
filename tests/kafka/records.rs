//! Records of all shapes, and a log that notes what was appended to it.

use std::path::Path;

use chiplog::record::{BatchBuilder, BatchOptions, Compression, Producer};
use chiplog::{Header, LeaderEpoch, Log, Record, Timestamp, TimestampType, Topic, TopicConfig};

use crate::Result;
use crate::lines::{self, Content, Lines};
use crate::random::Random;

/// A record that owns what it is made of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Made {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
    pub(crate) timestamp: Option<Timestamp>,
}

impl Made {
    /// Any: keys, values and headers may be null, empty, short or long.
    pub(crate) fn any(random: &mut Random) -> Self {
        let mut some = |most: u64| match random.below(8) {
            0 => None,
            1 => Some(Vec::new()),
            _ => {
                let len = random.below(most);
                Some(random.bytes(len))
            }
        };
        let (key, value) = (some(20), some(300));
        let headers = match random.below(4) {
            0 => (0..random.below(5)).map(|_| any_header(random)).collect(),
            _ => Vec::new(),
        };
        Self { key, value, headers, timestamp: None }
    }

    /// In and out of order, some at once, one in a few at the epoch.
    pub(crate) fn at_any_time(self, random: &mut Random) -> Self {
        let ms = if random.one_in(50) { 0 } else { 1_700_000_000_000 + random.below(100_000) as i64 };
        Self { timestamp: Some(Timestamp(ms)), ..self }
    }

    /// Lends it to `take`, as the crate takes records.
    fn with<T>(&self, take: impl FnOnce(Record<'_>) -> T) -> T {
        let headers = self.headers();
        let mut record = Record::default().headers(&headers);
        (record.key, record.value, record.timestamp) = (self.key.as_deref(), self.value.as_deref(), self.timestamp);
        take(record)
    }

    fn headers(&self) -> Vec<Header<'_>> {
        self.headers.iter().map(|(key, value)| Header { key, value: value.as_deref() }).collect()
    }
}

fn any_header(random: &mut Random) -> (String, Option<Vec<u8>>) {
    let key = ["", "retry", "retry", "trace-id", "caf\u{e9}"][random.below(5) as usize];
    let len = random.below(40);
    (key.to_owned(), (!random.one_in(4)).then(|| random.bytes(len)))
}

/// A log, and what is in it.
pub(crate) struct Noted {
    pub(crate) log: Log,
    lines: Lines,
}

impl Noted {
    pub(crate) fn new(log: Log) -> Self {
        Self::with(log, Lines::new())
    }

    /// A log that holds something already.
    pub(crate) fn with(log: Log, lines: Lines) -> Self {
        Self { log, lines }
    }

    pub(crate) fn topic(&self, name: &str, config: TopicConfig) -> Result<Topic> {
        // However old their timestamps are.
        Ok(self.log.create_topic(name, config.retention_time(None))?)
    }

    /// Appends one record, or several as one batch.
    pub(crate) fn append(&mut self, topic: &Topic, partition: u32, records: &[Made]) -> Result {
        let target = topic.partition(partition)?;
        let appended = match records {
            [one] => one.with(|record| target.append(record))?,
            several => {
                let headers: Vec<_> = several.iter().map(Made::headers).collect();
                target.append_all(several.iter().zip(&headers).map(|(made, headers)| {
                    let mut record = Record::default().headers(headers);
                    record.key = made.key.as_deref();
                    record.value = made.value.as_deref();
                    record.timestamp = made.timestamp;
                    record
                }))?
            }
        };
        self.note(topic, partition, appended.offset().0, records, appended.timestamp());
        Ok(())
    }

    /// Appends a batch of a producer's, who numbers it.
    pub(crate) fn append_raw(
        &mut self,
        topic: &Topic,
        partition: u32,
        records: &[Made],
        compression: Compression,
        producer: Option<Producer>,
    ) -> Result {
        let mut options = BatchOptions::default().compression(compression);
        if let Some(producer) = producer {
            options = options.producer(producer);
        }
        let mut builder = BatchBuilder::new();
        builder.begin(options);
        for made in records {
            made.with(|record| builder.push(&record, SENT))?;
        }
        let target = topic.partition(partition)?;
        let appended = target.append_raw(builder.finish()?)?;
        self.note(topic, partition, appended.offset().0, records, SENT);
        Ok(())
    }

    fn note(&mut self, topic: &Topic, partition: u32, first: u64, records: &[Made], time: Timestamp) {
        let timestamp_type = topic.config().get("message.timestamp.type");
        let is_of_the_append = timestamp_type.as_deref() == Some("LogAppendTime");
        let leader_epoch = self.latest_epoch(topic, partition);
        for (offset, made) in (first..).zip(records) {
            let place = (topic.name().to_owned(), partition, offset);
            let content = Content {
                timestamp: made.timestamp.filter(|_| !is_of_the_append).unwrap_or(time),
                timestamp_type: if is_of_the_append {
                    TimestampType::LogAppendTime
                } else {
                    TimestampType::CreateTime
                },
                key: made.key.as_deref(),
                value: made.value.as_deref(),
                headers: made.headers(),
                leader_epoch,
                is_committed: true,
            };
            self.lines.insert(place.clone(), content.to_line(&place));
        }
    }

    /// Appends go on under the epoch of the last leader.
    fn latest_epoch(&self, topic: &Topic, partition: u32) -> LeaderEpoch {
        let all = (topic.name().to_owned(), partition, 0)..(topic.name().to_owned(), partition, u64::MAX);
        let last = self.lines.range(all).next_back();
        LeaderEpoch(last.and_then(|(_, line)| line["leaderEpoch"].as_i64()).unwrap_or(0) as i32)
    }

    /// From here on readers of committed data get nothing of a partition: a transaction is open.
    pub(crate) fn hide_from(&mut self, topic: &Topic, partition: u32, offset: u64) {
        let from = (topic.name().to_owned(), partition, offset);
        let to = (topic.name().to_owned(), partition, u64::MAX);
        self.lines.range_mut(from..to).for_each(|(_, line)| line["committed"] = false.into());
    }

    /// Closes the log in `dir` and writes down what is in it. What groups committed is taken as it is read back: its bytes
    /// are the crate's own.
    pub(crate) fn close(mut self, dir: &Path) -> Result {
        for topic in self.log.topics() {
            for number in 0..topic.partition_count() {
                let start = topic.partition(number)?.offsets().start.0;
                self.lines.retain(|(name, partition, offset), _| {
                    name != topic.name() || *partition != number || *offset >= start
                });
            }
        }
        self.log.close()?;
        let internal = lines::read(dir)?.into_iter().filter(|((topic, ..), _)| topic.starts_with("__"));
        self.lines.extend(internal);
        lines::store(dir, &self.lines)
    }
}

/// When a batch's producer made it.
const SENT: Timestamp = Timestamp(1_700_000_123_456);
