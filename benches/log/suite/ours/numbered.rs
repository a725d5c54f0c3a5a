//! Producers whose records are numbered, without transactions and with them.

use std::io;
use std::path::Path;

use chiplog::{Ack, IdempotentProducer, Log, Offset, Partition, TopicConfig, TransactionalProducer};

use super::{AsItComes, Opening, Ours, TOPIC};
use crate::suite::system::{Setup, System, Writer};

/// One idempotent producer for each writer.
pub(crate) struct Numbered(Ours<AsItComes>);

pub(crate) struct NumberedWriter {
    producer: IdempotentProducer,
    partition: Partition,
}

impl System for Numbered {
    type Writer = NumberedWriter;

    fn open(dir: &Path, setup: Setup) -> io::Result<Self> {
        Ours::open(dir, setup).map(Self)
    }

    fn writer(&self, log: usize) -> io::Result<NumberedWriter> {
        let producer = self.0.log.producer().idempotent().map_err(io::Error::other)?;
        Ok(NumberedWriter { producer, partition: self.0.partition(log)? })
    }

    fn scan(&self, log: usize, each: impl FnMut(&[u8])) -> io::Result<()> {
        self.0.scan(log, each)
    }

    fn close(self) -> io::Result<()> {
        self.0.close()
    }
}

impl Writer for NumberedWriter {
    #[inline]
    fn append(&mut self, value: &[u8]) -> io::Result<()> {
        self.producer.append(&self.partition, value).map(|_| ()).map_err(io::Error::other)
    }
}

/// A topic of three partitions, which each call writes to in one transaction.
pub(crate) struct Transacted {
    log: Log,
    partitions: Vec<Partition>,
}

pub(crate) struct TransactedWriter {
    producer: TransactionalProducer,
    partitions: Vec<Partition>,
}

impl System for Transacted {
    type Writer = TransactedWriter;

    fn open(dir: &Path, _: Setup) -> io::Result<Self> {
        let log = AsItComes::builder(dir).open().map_err(io::Error::other)?;
        let topic = log.topic_with(TOPIC, TopicConfig::default().partitions(3)).map_err(io::Error::other)?;
        let partitions = (0..3).map(|number| topic.partition(number).map_err(io::Error::other));
        let partitions = partitions.collect::<io::Result<_>>()?;
        Ok(Self { log, partitions })
    }

    fn writer(&self, log: usize) -> io::Result<TransactedWriter> {
        let producer = self.log.producer().transactional(&format!("bench-{log}")).map_err(io::Error::other)?;
        Ok(TransactedWriter { producer, partitions: self.partitions.clone() })
    }

    fn scan(&self, _: usize, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        for partition in &self.partitions {
            let (mut reader, mut at, end) = (partition.reader(), Offset::ZERO, partition.offsets().stable);
            while at < end {
                let records = reader.read(at).map_err(io::Error::other)?;
                records.iter().for_each(|record| each(record.value.unwrap_or_default()));
                at = records.next_offset();
            }
        }
        Ok(())
    }

    fn close(self) -> io::Result<()> {
        let Self { log, partitions } = self;
        drop(partitions);
        log.close().map_err(io::Error::other)
    }
}

impl Writer for TransactedWriter {
    fn append(&mut self, value: &[u8]) -> io::Result<()> {
        self.append_all(&[value])
    }

    fn append_all(&mut self, values: &[&[u8]]) -> io::Result<()> {
        let mut transaction = self.producer.begin().map_err(io::Error::other)?;
        for (value, partition) in values.iter().zip(self.partitions.iter().cycle()) {
            transaction.append(partition, *value).map_err(io::Error::other)?;
        }
        transaction.commit_with(Ack::Written).map_err(io::Error::other)
    }
}
