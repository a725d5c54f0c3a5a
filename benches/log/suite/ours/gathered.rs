//! A producer that gathers records into batches.

use std::io;
use std::path::Path;

use chiplog::{Partition, Producer, Record};

use super::{AsItComes, Ours, TOPIC};
use crate::suite::system::{Setup, System, Writer};

/// One producer for all writers: into a single log by the name of its topic, into several each by its partition.
pub(crate) struct Gathered {
    ours: Ours<AsItComes>,
    producer: Producer,
    is_single: bool,
}

pub(crate) struct GatheredWriter {
    producer: Producer,
    partition: Option<Partition>,
}

impl System for Gathered {
    type Writer = GatheredWriter;

    fn open(dir: &Path, setup: Setup) -> io::Result<Self> {
        let ours = Ours::open(dir, setup)?;
        let producer = ours.log.producer().build().map_err(io::Error::other)?;
        Ok(Self { ours, producer, is_single: setup.log_count == 1 })
    }

    fn writer(&self, log: usize) -> io::Result<GatheredWriter> {
        let partition = if self.is_single { None } else { Some(self.ours.partition(log)?) };
        Ok(GatheredWriter { producer: self.producer.clone(), partition })
    }

    fn scan(&self, log: usize, each: impl FnMut(&[u8])) -> io::Result<()> {
        self.ours.scan(log, each)
    }

    fn close(self) -> io::Result<()> {
        let Self { ours, producer, .. } = self;
        producer.close().map_err(io::Error::other)?;
        drop(producer);
        ours.close()
    }
}

impl Writer for GatheredWriter {
    #[inline]
    fn append(&mut self, value: &[u8]) -> io::Result<()> {
        let sent = match &self.partition {
            Some(partition) => self.producer.send_to(partition, value),
            None => self.producer.send(Record::new(value).to(TOPIC)),
        };
        sent.map(drop).map_err(io::Error::other)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.producer.flush().map_err(io::Error::other)
    }
}
