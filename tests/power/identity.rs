//! Who wrote a record. Its value, its key and its padding follow from that, so that any byte can be checked.

use chiplog::{Record, RecordRef};

use super::random::Random;

/// A record, by who wrote it: which life of which topic, the thread, and how many that thread had written to the
/// partition before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Id {
    /// A topic that is made again is another one.
    pub(crate) life: u64,
    pub(crate) partition: u32,
    pub(crate) thread: u64,
    pub(crate) count: u64,
}

/// A record's bytes.
#[derive(Debug)]
pub(crate) struct Written {
    key: Option<Vec<u8>>,
    value: Vec<u8>,
}

impl Written {
    pub(crate) fn record(&self) -> Record<'_> {
        let record = Record::new(&self.value);
        match &self.key {
            Some(key) => record.key(key),
            None => record,
        }
    }
}

impl Id {
    pub(crate) fn to_written(self, topic: &str, most_padding: u64) -> Written {
        let Self { life, partition, thread, count } = self;
        let mut random = Random(life << 56 ^ u64::from(partition) << 48 ^ thread << 40 ^ count);
        let mut value = format!("{topic} {most_padding} {life} {partition} {thread} {count} ").into_bytes();
        let len = random.below(most_padding);
        value.extend((0..len).map(|_| random.next() as u8));
        let key = (count % 2 == 1).then(|| format!("key {count}").into_bytes());
        Written { key, value }
    }

    /// Who wrote this record of a topic; `None` if nobody did.
    pub(crate) fn of(topic: &str, record: &RecordRef<'_>) -> Option<Self> {
        let mut words = record.value?.splitn(7, |byte| *byte == b' ');
        let mut word = || std::str::from_utf8(words.next()?).ok();
        if word()? != topic {
            return None;
        }
        let mut number = || word()?.parse::<u64>().ok();
        let most_padding = number()?;
        let (life, partition) = (number()?, number()?);
        let id = Self { life, partition: partition.try_into().ok()?, thread: number()?, count: number()? };
        let written = id.to_written(topic, most_padding);
        (record.value == Some(&written.value) && record.key == written.key.as_deref()).then_some(id)
    }
}
