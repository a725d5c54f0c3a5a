//! One thread of the workload: what it does to the log, and what it says of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use chiplog::{Ack, Appended, Background, Durability, Error, Log, Offset, Partition, Topic};

use super::Result;
use super::identity::{Id, Written};
use super::random::Random;
use super::workload::{EACH, GROUP, Lie, OS, Swarm, say};

pub(super) struct Worker<'a> {
    pub(super) thread: u64,
    pub(super) random: Random,
    pub(super) log: &'a Log,
    pub(super) swarm: &'a Swarm,
    pub(super) lie: Lie,
    /// How many records it has appended to each partition of the topics that stay.
    pub(super) counts: HashMap<(String, u32), u64>,
    /// How many topics it has made.
    pub(super) lives: u64,
}

impl Worker<'_> {
    pub(super) fn run(&mut self, topics: &[Topic], stop: &AtomicBool) -> Result {
        let done = self.work(topics, stop);
        if let Err(error) = &done {
            say(&format!("failed {}", format!("{error:?}").replace('\n', " ")));
        }
        done
    }

    fn work(&mut self, topics: &[Topic], stop: &AtomicBool) -> Result {
        while !stop.load(Ordering::Relaxed) {
            // The others sync often, and each sync carries much of what the rest has written.
            let topic = if self.random.one_in(2) { &topics[0] } else { self.random.pick(topics) };
            let partition = topic.partition(self.random.below(topic.partition_count().into()) as u32)?;
            // What only one thread does needs no order with the others.
            let is_first = self.thread == 0;
            match self.random.below(200) {
                0..=149 => self.append(&partition, 1)?,
                150..=169 => {
                    let count = 2 + self.random.below(15);
                    self.append(&partition, count)?;
                }
                170..=177 => self.append_synced(&partition)?,
                178..=182 => self.sync(&partition)?,
                183 => self.sync_all(topics)?,
                184..=188 if is_first && self.swarm.commits => self.commit(&partition)?,
                189..=190 if is_first && self.swarm.deletes => self.delete(&partition)?,
                191 if is_first && self.swarm.makes_topics => self.make_topic()?,
                192..=196 if self.swarm.background == Background::Caller => drop(self.log.maintain()?),
                _ => {}
            }
        }
        Ok(())
    }

    /// Appends, and says so; also that it is synced, where the topic promises that.
    fn append(&mut self, partition: &Partition, records: u64) -> Result {
        let ids = self.next_ids(partition, records);
        let appended = self.append_ids(partition, &ids)?;
        if partition.topic() == EACH || (self.lie == Lie::Acks && partition.topic() == OS) {
            say_synced(partition, Offset(appended.last_offset().0 + 1));
        }
        Ok(())
    }

    fn append_synced(&mut self, partition: &Partition) -> Result {
        let ids = self.next_ids(partition, 1);
        let appended = self.append_ids(partition, &ids)?;
        appended.wait(Ack::Synced)?;
        say_synced(partition, Offset(appended.last_offset().0 + 1));
        Ok(())
    }

    fn append_ids<'p>(&self, partition: &'p Partition, ids: &[Id]) -> Result<Appended<'p>> {
        let topic = partition.topic();
        let written: Vec<Written> = ids.iter().map(|id| id.to_written(topic, self.swarm.most_padding)).collect();
        // One by itself joins an open batch, where that is staged.
        let appended = match &written[..] {
            [one] => partition.append(one.record()),
            all => partition.append_all(all.iter().map(Written::record)),
        };
        match appended {
            Ok(appended) => {
                say_appended(partition, appended.offset(), ids);
                Ok(appended)
            }
            Err(error) => {
                // The one error after which the records may be found.
                if let Error::NotSynced { offset, .. } = error {
                    say_appended(partition, offset, ids);
                }
                Err(format!("append of {:?} to {topic}-{}: {error:?}", ids.first(), partition.number()).into())
            }
        }
    }

    fn sync(&self, partition: &Partition) -> Result {
        let end = partition.offsets().end;
        partition.sync()?;
        say_synced(partition, end);
        Ok(())
    }

    fn sync_all(&self, topics: &[Topic]) -> Result {
        let mut ends = Vec::new();
        for topic in topics {
            for number in 0..topic.partition_count() {
                let partition = topic.partition(number)?;
                let end = partition.offsets().end;
                ends.push((partition, end));
            }
        }
        self.log.sync()?;
        for (partition, end) in ends {
            say_synced(&partition, end);
        }
        Ok(())
    }

    fn commit(&self, partition: &Partition) -> Result {
        let end = partition.offsets().end;
        let (topic, number) = (partition.topic(), partition.number());
        say(&format!("COMMIT {topic} {number} {end}"));
        self.log.group(GROUP)?.commit(topic, number, end)?;
        say(&format!("committed {topic} {number} {end}"));
        // The records below a committed offset are as durable as the offset.
        say_synced(partition, end);
        Ok(())
    }

    fn delete(&mut self, partition: &Partition) -> Result {
        let offsets = partition.offsets();
        let to = Offset(offsets.start.0 + self.random.below(offsets.end - offsets.start + 1));
        let (topic, number) = (partition.topic(), partition.number());
        say(&format!("DELETE {topic} {number} {to}"));
        self.log.delete_before(topic, number, to)?;
        say(&format!("deleted {topic} {number} {to}"));
        Ok(())
    }

    /// Creates one of a few topics and appends to it, or removes it if it is there.
    fn make_topic(&mut self) -> Result {
        let name = format!("t{}", self.random.below(3));
        if self.log.find_topic(&name).is_some() {
            say(&format!("REMOVE {name}"));
            self.log.delete_topic(&name)?;
            say(&format!("removed {name}"));
            return Ok(());
        }
        self.lives += 1;
        say(&format!("CREATE {name} {}", self.lives));
        let topic = self.log.create_topic(&name, self.swarm.config(Durability::Os)?)?;
        say(&format!("created {name} {}", self.lives));
        let partition = topic.partition(0)?;
        let ids: Vec<Id> = (0..1 + self.random.below(3))
            .map(|count| Id { life: self.lives, partition: 0, thread: self.thread, count })
            .collect();
        let appended = self.append_ids(&partition, &ids)?;
        if self.random.one_in(2) {
            appended.wait(Ack::Synced)?;
            say_synced(&partition, Offset(appended.last_offset().0 + 1));
        }
        Ok(())
    }

    fn next_ids(&mut self, partition: &Partition, records: u64) -> Vec<Id> {
        let number = partition.number();
        let count = self.counts.entry((partition.topic().to_owned(), number)).or_default();
        let first = *count;
        *count += records;
        let thread = self.thread;
        (first..first + records).map(|count| Id { life: 0, partition: number, thread, count }).collect()
    }
}

fn say_appended(partition: &Partition, offset: Offset, ids: &[Id]) {
    let (Some(first), count) = (ids.first(), ids.len()) else { return };
    let (topic, number) = (partition.topic(), partition.number());
    say(&format!("appended {topic} {number} {offset} {count} {} {} {}", first.life, first.thread, first.count));
}

fn say_synced(partition: &Partition, end: Offset) {
    say(&format!("synced {} {} {end}", partition.topic(), partition.number()));
}
