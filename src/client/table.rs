//! The latest value of each key of a topic.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

use crate::error::{Error, Result};
use crate::log::Topic;
use crate::partition::{Isolation, Partition, ReadOptions, Records};
use crate::probe;
use crate::types::Offset;

/// The latest value of each key of a topic: a map that is built by reading it, and kept up by reading on.
///
/// Made for compacted topics ([`Cleanup::Compact`](crate::Cleanup)), which keep that record of each key; of other topics
/// it shows what retention has left. It is as new as the last [`catch_up`](Self::catch_up), and sees committed
/// transactions only. A key belongs into one partition, the one where [`Topic::append`] puts it: of one that is in several,
/// the partition that is read last has its way. Records without a key are passed over.
///
/// Values are kept in memory; [`Topic::table_within`] makes a table that keeps offsets only.
///
/// A table that is not caught up for longer than tombstones stay
/// ([`delete_retention`](crate::TopicConfig::delete_retention), a day by default) may miss some. Then the next
/// [`catch_up`](Self::catch_up) reads that partition anew, from its start, and needs memory for its keys and values once
/// more meanwhile.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use chiplog::{Cleanup, Log, Record, TopicConfig};
///
/// let log = Log::open(dir.path())?;
/// let prices = log.create_topic("prices", TopicConfig::default().cleanup(Cleanup::Compact))?;
/// prices.append(Record::new("4.80").key("tea"))?;
/// prices.append(Record::new("5.20").key("tea"))?;
/// prices.append(Record::new("7.90").key("coffee"))?;
///
/// let mut table = prices.table()?;
/// assert_eq!(table.get("tea")?.as_deref(), Some(&b"5.20"[..]));
///
/// prices.append(Record::tombstone("coffee"))?;
/// table.catch_up()?;
/// assert_eq!(table.get("coffee")?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Table {
    topic: Topic,
    /// How far each partition was read.
    reached: Vec<Reached>,
    kept: Kept,
}

/// How far a partition was read.
#[derive(Debug, Clone, Copy)]
struct Reached {
    /// Where it is read on.
    next: Offset,
    /// Nothing that is kept lies below.
    start: Offset,
    /// No tombstone below was missed.
    checked: Offset,
    /// How often tombstones had been removed by then: [`Forgotten::times`](crate::partition::core::Forgotten).
    times: u64,
}

/// What is kept of each key.
enum Kept {
    Values(HashMap<Box<[u8]>, Latest>),
    Places(Places),
}

/// Where the latest records are, by digests of their keys.
struct Places {
    latest: HashMap<[u64; 2], Place>,
    /// Keys that are kept beside these, and count.
    elsewhere: usize,
    max_keys: usize,
    /// Two keyed digests of 64 bits: nobody can make keys whose digests are the same.
    states: [RandomState; 2],
}

/// The latest record of a key.
struct Latest {
    place: Place,
    value: Box<[u8]>,
}

/// Where the latest record of a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    partition: u32,
    offset: Offset,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys and values belong to the application: they are not printed by accident.
        let next: Vec<Offset> = self.reached.iter().map(|reached| reached.next).collect();
        write!(f, "Table {{ {}, next: {next:?} }}", self.topic.name())
    }
}

impl Topic {
    /// Reads the topic into a [`Table`], which keeps all keys and values in memory.
    ///
    /// # Errors
    ///
    /// As for [`Table::catch_up`].
    pub fn table(&self) -> Result<Table> {
        Table::read(self, Kept::Values(HashMap::new()))
    }

    /// Reads the topic into a [`Table`] of at most `max_keys` keys, which keeps a digest and an offset of each (some 50
    /// bytes) and reads a value when it is asked for: for topics whose values do not fit into memory.
    ///
    /// # Errors
    ///
    /// [`Error::TableFull`] if there are more keys, and as for [`Table::catch_up`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use chiplog::{Cleanup, Error, Log, Record, TopicConfig};
    ///
    /// let log = Log::open(dir.path())?;
    /// let prices = log.create_topic("prices", TopicConfig::default().cleanup(Cleanup::Compact))?;
    /// prices.append(Record::new("4.80").key("tea"))?;
    /// let mut table = prices.table_within(1)?;
    /// assert_eq!(table.get("tea")?.as_deref(), Some(&b"4.80"[..]));
    ///
    /// prices.append(Record::new("7.90").key("coffee"))?;
    /// assert!(matches!(table.catch_up(), Err(Error::TableFull { max_keys: 1, .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn table_within(&self, max_keys: usize) -> Result<Table> {
        Table::read(self, Kept::Places(Places::new(max_keys)))
    }
}

impl Table {
    fn read(topic: &Topic, kept: Kept) -> Result<Self> {
        let mut table = Self { topic: topic.clone(), reached: Vec::new(), kept };
        table.catch_up()?;
        Ok(table)
    }

    /// Takes in what is new: up to the end of each partition, or to its first open transaction. Returns how many records
    /// with a key were read. Never waits; [`Partition::wait_readable`] does.
    ///
    /// Forgets what retention has removed. If compaction has removed tombstones that the table had not read, that partition is
    /// read anew, from its start: nothing else tells which keys are gone. As long as the table is caught up more often than
    /// [`delete_retention`](crate::TopicConfig::delete_retention), that does not happen.
    ///
    /// # Errors
    ///
    /// - [`Error::TableFull`] if there are more keys than the table may have. What was read until then is in it; of a partition
    ///   that was to be read anew, what was in it before.
    /// - As for [`Partition::read`], but that offsets which retention has removed are passed over.
    pub fn catch_up(&mut self) -> Result<u64> {
        (0..self.topic.partition_count()).try_fold(0, |count, number| Ok(count + self.catch_up_with(number)?))
    }

    fn catch_up_with(&mut self, number: u32) -> Result<u64> {
        let at = number as usize;
        let partition = self.topic.partition(number)?;
        let (start, forgotten) = (partition.offsets().start, partition.core.forgotten());
        if self.reached.len() <= at {
            self.reached.push(Reached { next: start, start, checked: start, times: forgotten.times });
        }
        let reached = &mut self.reached[at];
        if reached.start < start {
            self.kept.retain(|place| place.partition != number || place.offset >= start);
            reached.start = start;
        }
        let read = read_up(self.topic.name(), &partition, &mut self.kept, &mut reached.next);
        // Asked after the read: what is removed from here on lies below, or is missed by the next one.
        let forgotten = partition.core.forgotten();
        if forgotten.times != reached.times && forgotten.below > reached.checked {
            // Also if there was no room: for what is gone, perhaps.
            probe::reached("table.read_anew");
            return self.read_anew(&partition);
        }
        let count = read?;
        (reached.checked, reached.times) = (reached.next, forgotten.times);
        Ok(count)
    }

    /// Reads a partition from its start, in the place of what is kept of it.
    fn read_anew(&mut self, partition: &Partition) -> Result<u64> {
        let (number, core) = (partition.number(), &partition.core);
        loop {
            let (times, began) = (core.forgotten().times, core.context.clock.now());
            let start = partition.offsets().start;
            let (mut next, mut fresh) = (start, self.kept.beside(number));
            let count = read_up(self.topic.name(), partition, &mut fresh, &mut next)?;
            let took = core.context.clock.now().0.saturating_sub(began.0);
            // Who needs less time than that sees every tombstone of what it has seen.
            if core.forgotten().times == times || took < core.config.read().delete_retention_ms {
                self.kept.replace(number, fresh);
                self.reached[number as usize] = Reached { next, start, checked: next, times };
                return Ok(count);
            }
        }
    }

    /// The value of `key`; none if it has none, if it was deleted, or if retention has removed its record.
    ///
    /// A table made by [`Topic::table_within`] reads it: if compaction has removed the record since the last
    /// [`catch_up`](Self::catch_up), because there is a later one, the value of that one is returned.
    ///
    /// # Errors
    ///
    /// None, but of a table made by [`Topic::table_within`]: as for [`Partition::read`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Box<[u8]>>> {
        let key = key.as_ref();
        match &self.kept {
            Kept::Values(values) => {
                Ok(values.get(key).filter(|latest| self.is_there(latest.place)).map(|latest| latest.value.clone()))
            }
            Kept::Places(places) => match places.get(key) {
                Some(place) => self.look_up(key, place),
                None => Ok(None),
            },
        }
    }

    /// How many keys it holds: with a value, unless retention has removed it since the last [`catch_up`](Self::catch_up).
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.kept {
            Kept::Values(values) => values.len(),
            Kept::Places(places) => places.latest.len(),
        }
    }

    /// Whether it holds no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `visit` with each key and its value, in no order that means anything. A table made by
    /// [`Topic::table_within`] passes over keys whose records were compacted away since the last
    /// [`catch_up`](Self::catch_up).
    ///
    /// # Errors
    ///
    /// None, but of a table made by [`Topic::table_within`], which reads the topic once: as for [`Partition::read`].
    ///
    /// # Example
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = chiplog::Log::open(dir.path())?;
    /// use chiplog::Record;
    ///
    /// let prices = log.topic("prices")?;
    /// prices.append(Record::new("4.80").key("tea"))?;
    /// prices.append(Record::new("5.20").key("tea"))?;
    ///
    /// let mut found = Vec::new();
    /// prices.table()?.for_each(|key, value| found.push((key.to_vec(), value.to_vec())))?;
    /// assert_eq!(found, [(b"tea".to_vec(), b"5.20".to_vec())]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn for_each(&self, mut visit: impl FnMut(&[u8], &[u8])) -> Result<()> {
        let places = match &self.kept {
            Kept::Values(values) => {
                for (key, latest) in values.iter().filter(|(_, latest)| self.is_there(latest.place)) {
                    visit(key, &latest.value);
                }
                return Ok(());
            }
            Kept::Places(places) => places,
        };
        for (number, reached) in (0..).zip(&self.reached) {
            let partition = self.topic.partition(number)?;
            let mut next = partition.offsets().start;
            while next < reached.next
                && let Some(records) = read_on(&partition, &mut next)?
            {
                for record in &records {
                    let Some((key, value)) = record.key.zip(record.value) else { continue };
                    if places.get(key) == Some(Place { partition: number, offset: record.offset }) {
                        visit(key, value);
                    }
                }
                next = records.next_offset();
            }
        }
        Ok(())
    }

    fn is_there(&self, place: Place) -> bool {
        self.topic.partition(place.partition).is_ok_and(|partition| partition.offsets().start <= place.offset)
    }

    /// The value of `key` in the record at `place`, or in the latest behind it, if compaction has removed that one.
    fn look_up(&self, key: &[u8], place: Place) -> Result<Option<Box<[u8]>>> {
        let partition = self.topic.partition(place.partition)?;
        if partition.offsets().start > place.offset {
            return Ok(None);
        }
        let mut value = None;
        let mut next = place.offset;
        let mut options = options().max_records(1);
        while let Some(records) = read_with(&partition, &mut next, options)? {
            for record in records.iter().filter(|record| record.key == Some(key)) {
                value = record.value.map(Box::from);
                if record.offset == place.offset {
                    return Ok(value);
                }
            }
            next = records.next_offset();
            options = self::options();
        }
        Ok(value)
    }
}

impl Kept {
    /// Takes in a record: one without a value removes its key.
    fn put(&mut self, topic: &str, key: &[u8], place: Place, value: Option<&[u8]>) -> Result<()> {
        match (self, value) {
            (Self::Values(values), Some(value)) => {
                values.insert(key.into(), Latest { place, value: value.into() });
            }
            (Self::Values(values), None) => {
                values.remove(key);
            }
            (Self::Places(places), Some(_)) => {
                let digest = places.digest(key);
                let count = places.latest.len() + places.elsewhere;
                if !places.latest.contains_key(&digest) && count >= places.max_keys {
                    return Err(Error::TableFull { topic: topic.into(), max_keys: places.max_keys });
                }
                places.latest.insert(digest, place);
            }
            (Self::Places(places), None) => {
                let digest = places.digest(key);
                places.latest.remove(&digest);
            }
        }
        Ok(())
    }

    /// Forgets the keys whose latest records are not at such a place.
    fn retain(&mut self, stays: impl Fn(Place) -> bool) {
        match self {
            Self::Values(values) => values.retain(|_, latest| stays(latest.place)),
            Self::Places(places) => places.latest.retain(|_, place| stays(*place)),
        }
    }

    /// An empty one for the keys of this partition, beside what is kept of others.
    fn beside(&self, partition: u32) -> Self {
        match self {
            Self::Values(_) => Self::Values(HashMap::new()),
            Self::Places(places) => Self::Places(Places {
                latest: HashMap::new(),
                elsewhere: places.latest.values().filter(|place| place.partition != partition).count(),
                max_keys: places.max_keys,
                states: places.states.clone(),
            }),
        }
    }

    /// Puts what was made beside this one in the place of what is kept of the partition.
    fn replace(&mut self, partition: u32, fresh: Self) {
        self.retain(|place| place.partition != partition);
        match (self, fresh) {
            (Self::Values(values), Self::Values(fresh)) => values.extend(fresh),
            (Self::Places(places), Self::Places(fresh)) => places.latest.extend(fresh.latest),
            _ => {}
        }
    }
}

impl Places {
    fn new(max_keys: usize) -> Self {
        Self { latest: HashMap::new(), elsewhere: 0, max_keys, states: Default::default() }
    }

    fn digest(&self, key: &[u8]) -> [u64; 2] {
        self.states.each_ref().map(|state| state.hash_one(key))
    }

    fn get(&self, key: &[u8]) -> Option<Place> {
        self.latest.get(&self.digest(key)).copied()
    }
}

fn options() -> ReadOptions {
    ReadOptions::default().isolation(Isolation::Committed)
}

/// Reads from `next` up to the end, and takes in what there is. Returns how many records with a key that were.
fn read_up(topic: &str, partition: &Partition, kept: &mut Kept, next: &mut Offset) -> Result<u64> {
    let mut count = 0;
    while let Some(records) = read_on(partition, next)? {
        for record in &records {
            if let Some(key) = record.key {
                kept.put(topic, key, Place { partition: partition.number(), offset: record.offset }, record.value)?;
                count += 1;
            }
            *next = Offset(record.offset.0 + 1);
        }
        *next = records.next_offset();
    }
    Ok(count)
}

/// The records from `next` on; none at the end. What retention has removed is passed over.
fn read_on(partition: &Partition, next: &mut Offset) -> Result<Option<Records>> {
    read_with(partition, next, options())
}

fn read_with(partition: &Partition, next: &mut Offset, options: ReadOptions) -> Result<Option<Records>> {
    loop {
        match partition.read_with(*next, options) {
            Err(Error::OffsetOutOfRange { start, .. }) if start > *next => *next = start,
            read => return read.map(|records| (records.next_offset() > *next).then_some(records)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{Background, Cleanup, Log, Record, TopicConfig};

    fn open(dir: &std::path::Path) -> Log {
        Log::builder(dir)
            .background(Background::Caller)
            .compaction_interval(std::time::Duration::from_millis(1))
            .open()
            .unwrap()
    }

    fn all(table: &Table) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut found = BTreeMap::new();
        table.for_each(|key, value| drop(found.insert(key.to_vec(), value.to_vec()))).unwrap();
        found
    }

    fn compacted() -> TopicConfig {
        TopicConfig::default().cleanup(Cleanup::Compact).segment_bytes(400).min_cleanable_dirty_ratio(0.0)
    }

    #[test]
    fn a_table_that_keeps_places_finds_values_that_were_compacted_away_since() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        let topic = log.create_topic("t", compacted()).unwrap();
        topic.append(Record::new("old").key("k")).unwrap();
        let table = topic.table_within(1).unwrap();
        for number in 0..40 {
            topic.append(Record::new(&format!("new {number}")).key("k")).unwrap();
        }
        for _ in 0..40 {
            log.maintain().unwrap();
        }
        let first = topic.partition(0).unwrap().read(Offset::ZERO).unwrap().iter().next().unwrap().offset;
        assert!(first > Offset::ZERO, "it was compacted");
        assert_eq!(table.get("k").unwrap().as_deref(), Some(&b"new 39"[..]), "there is nothing else to tell");
        assert_eq!(table.get("other").unwrap(), None);
    }

    #[test]
    fn what_a_transaction_has_not_committed_is_not_in_the_table_nor_what_follows_it() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        let topic = log.create_topic("t", compacted()).unwrap();
        let mut producer = log.producer().transactional("p").unwrap();
        let mut transaction = producer.begin().unwrap();
        transaction.send(Record::new("1").key("a").to("t")).unwrap();
        topic.append(Record::new("2").key("b")).unwrap();
        let mut table = topic.table().unwrap();
        assert!(table.is_empty());
        transaction.abort().unwrap();
        assert_eq!(table.catch_up().unwrap(), 1);
        assert_eq!(all(&table), BTreeMap::from([(b"b".to_vec(), b"2".to_vec())]));
    }

    #[test]
    fn a_full_table_keeps_what_it_has_and_takes_in_what_it_has_room_for() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        let topic = log.create_topic("t", compacted()).unwrap();
        let mut table = topic.table_within(1).unwrap();
        topic.append(Record::new("1").key("a")).unwrap();
        topic.append(Record::new("2").key("b")).unwrap();
        assert!(matches!(table.catch_up(), Err(Error::TableFull { max_keys: 1, .. })));
        assert_eq!((table.len(), table.get("a").unwrap().as_deref()), (1, Some(&b"1"[..])));
        // The same again: nothing of it was passed over.
        assert!(matches!(table.catch_up(), Err(Error::TableFull { .. })));
    }

    #[test]
    fn what_retention_has_removed_is_in_neither_kind_of_table() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        let topic = log.create_topic("t", TopicConfig::default().segment_bytes(200)).unwrap();
        for key in ["a", "b", "c", "d"] {
            topic.append(Record::new(&[7; 100]).key(key)).unwrap();
        }
        let (values, places) = (topic.table().unwrap(), topic.table_within(9).unwrap());
        log.delete_before("t", 0, Offset(3)).unwrap();
        for table in [&values, &places] {
            assert_eq!(table.get("a").unwrap(), None);
            assert_eq!(all(table).into_keys().collect::<Vec<_>>(), [b"d"]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Whatever is appended, compacted and caught up with in between, both tables equal a map.
        #[test]
        fn both_kinds_of_table_equal_a_map(
            steps in prop::collection::vec((0..6u8, prop::option::of(0..200u8), 0..4u8), 1..80),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let log = open(dir.path());
            let topic = log.create_topic("t", compacted().partitions(2)).unwrap();
            let (mut values, mut places) = (topic.table().unwrap(), topic.table_within(6).unwrap());
            let mut map = BTreeMap::new();
            for (key, value, then) in steps {
                let key = vec![key];
                match value {
                    Some(value) => {
                        topic.append(Record::new(&[value; 30]).key(&key)).unwrap();
                        map.insert(key, vec![value; 30]);
                    }
                    None => {
                        topic.append(Record::tombstone(&key)).unwrap();
                        map.remove(&key);
                    }
                }
                if then == 0 {
                    log.maintain().unwrap();
                }
                if then == 1 {
                    values.catch_up().unwrap();
                    places.catch_up().unwrap();
                    prop_assert_eq!(&all(&values), &map);
                }
            }
            values.catch_up().unwrap();
            places.catch_up().unwrap();
            prop_assert_eq!(&all(&values), &map);
            prop_assert_eq!(&all(&places), &map);
            for key in 0..6u8 {
                prop_assert_eq!(places.get([key]).unwrap().map(Vec::from), map.get(&vec![key]).cloned());
            }
        }
    }
}
