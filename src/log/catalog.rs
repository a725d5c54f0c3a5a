//! The catalog: which topics exist, their ids, partition counts and settings, and which are being deleted.
//!
//! A plain value and its text. The text is one small file, replaced as a whole, so it is either the old one or the
//! new one after a crash:
//!
//! ```text
//! chiplog catalog 1
//! log 00112233445566778899aabbccddeeff
//! topic AAECAwQFBgcICQoLDA0ODw live 3 orders
//! set retention.ms 3600000
//! set segment.bytes 1048576
//! topic EBESExQVFhcYGRobHB0eHw deleting 1 returns
//! crc32 1a2b3c4d
//! ```
//!
//! A `set` line belongs to the topic above it; only settings that differ from the default have one. So does `sparse`: the
//! topic was compacted once, so that offsets may be missing, whatever its settings say now. Lines `abort-open`, with a
//! topic's id and the number of a partition, before the first topic name those in which the transactions that a broker left
//! open are still to be aborted. A line `producer-ids`, before those, has the first id of a producer that was never given
//! out. First and last line are those of
//! all our text files, see `text`.
//!
//! Invariants, of the value as of an accepted text:
//! - No two topics have one id, no two live ones one name. (A live one may have the name of one being deleted: the log
//!   does not let it come to that.)
//! - Every name is one that a topic may have, every setting is in its range.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::{fmt, io};

use super::names;
use super::text::{self, Form, Invalid, LogId, number};
use crate::config::TopicConfig;
use crate::disk::replace::replace;
use crate::disk::{Disk, read_file};
use crate::error::{Error, Result};
use crate::probe;
use crate::types::TopicId;

/// What topics there are. Changed as a value, then stored; only what is stored counts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Catalog {
    log_id: LogId,
    /// The first producer id that was never given out.
    next_producer: i64,
    /// The partitions in which transactions that a broker left open are still to be aborted.
    aborts_open: BTreeSet<(TopicId, u32)>,
    topics: Vec<CatalogTopic>,
}

/// One topic. Its partition count is in its settings.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CatalogTopic {
    pub(crate) id: TopicId,
    pub(crate) name: Arc<str>,
    pub(crate) config: TopicConfig,
    pub(crate) state: TopicState,
    /// Whether it was compacted, so that offsets may be missing.
    pub(crate) is_sparse: bool,
}

/// Whether a topic is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TopicState {
    /// It is.
    Live,
    /// It is deleted; its files may not be gone yet. Opening the log goes on removing them.
    Deleting,
}

impl Catalog {
    /// The catalog of a new log.
    pub(crate) fn new(log_id: LogId) -> Self {
        Self::of(Vec::new(), log_id)
    }

    /// The catalog of topics that are there already. They have names and ids of their own.
    pub(crate) fn of(topics: Vec<CatalogTopic>, log_id: LogId) -> Self {
        Self { log_id, next_producer: 0, aborts_open: BTreeSet::new(), topics }
    }

    /// The first producer id that was never given out.
    pub(crate) fn next_producer(&self) -> i64 {
        self.next_producer
    }

    /// Notes that the ids below `next` may be given out.
    pub(crate) fn reserve_producers(&mut self, next: i64) {
        self.next_producer = self.next_producer.max(next);
    }

    /// The partitions in which transactions that a broker left open are still to be aborted.
    pub(crate) fn aborts_open(&self) -> &BTreeSet<(TopicId, u32)> {
        &self.aborts_open
    }

    pub(crate) fn aborts_open_mut(&mut self) -> &mut BTreeSet<(TopicId, u32)> {
        &mut self.aborts_open
    }

    /// Reads the catalog; `None` if there is no such file.
    ///
    /// # Errors
    ///
    /// - [`Error::Corrupt`] with the position of the first line that is wrong.
    /// - [`Error::NewerVersion`] if a newer version of this crate wrote it.
    pub(crate) fn load(disk: &dyn Disk, path: &Path) -> Result<Option<Self>> {
        let bytes = match read_file(disk, path, MAX_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(Error::corrupt(path, MAX_BYTES, "longer than any catalog"));
            }
            read => read.map_err(Error::io("read", path))?,
        };
        Self::parse(&bytes).map(Some).map_err(|invalid| match invalid {
            Invalid::Newer(found) => Error::NewerVersion { path: path.to_owned(), found, supported: FORM.version },
            // What a backup has in the place of a catalog until it is whole.
            Invalid::At(..) if bytes.starts_with(UNFINISHED.as_bytes()) => {
                Error::corrupt(path, 0, "a backup into this directory did not come to its end: remove it")
            }
            Invalid::At(position, reason) => Error::corrupt(path, position as u64, reason),
        })
    }

    /// Replaces the file. Durable when this returns; after an error either the old or the new one is there.
    pub(crate) fn store(&self, disk: &dyn Disk, path: &Path) -> Result<()> {
        let text = self.to_text();
        let len = text.len() as u64;
        if len > MAX_BYTES {
            return Err(Error::TooLong { what: "the catalog of topics", len, limit: MAX_BYTES });
        }
        replace(disk, path, text.as_bytes())
    }

    /// Adds a live topic, with the first id drawn that no other has, and returns that.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidTopicName`], [`Error::InvalidSetting`].
    /// - [`Error::TopicExists`] if a live topic has this name, or one that differs only by `.` for `_`.
    /// - [`Error::RepeatedEntropy`] if all ids that are drawn are taken.
    pub(crate) fn create(
        &mut self,
        mut draw: impl FnMut() -> TopicId,
        name: &str,
        config: TopicConfig,
    ) -> Result<TopicId> {
        names::check_topic(name)?;
        config.validate()?;
        if let Some(other) = self.live().find(|other| *other.name == *name || names::collide(&other.name, name)) {
            return Err(Error::TopicExists { topic: (&*other.name).into() });
        }
        let is_free = |id: &TopicId| self.topics.iter().all(|topic| topic.id != *id);
        let id = (0..MOST_DRAWS).map(|_| draw()).find(is_free);
        let id = id.ok_or(Error::RepeatedEntropy { draws: MOST_DRAWS })?;
        self.topics.push(CatalogTopic { id, name: name.into(), config, state: TopicState::Live, is_sparse: false });
        Ok(id)
    }

    /// Gives a live topic other settings, more partitions included.
    ///
    /// # Errors
    ///
    /// [`Error::TopicNotFound`]; [`Error::InvalidSetting`] also if there were to be fewer partitions.
    pub(crate) fn alter(&mut self, name: &str, config: TopicConfig) -> Result<()> {
        config.validate()?;
        let topic = self.find_mut(name)?;
        let count = topic.config.partitions;
        if config.partitions < count {
            return Err(Error::InvalidSetting {
                key: "partitions".into(),
                value: config.partitions.to_string().into(),
                allowed: format!("{count} or more: records cannot be moved").into(),
            });
        }
        topic.config = config;
        Ok(())
    }

    /// Marks a live topic as deleted and returns its id: from when this is stored, its name is free.
    ///
    /// # Errors
    ///
    /// [`Error::TopicNotFound`].
    pub(crate) fn begin_delete(&mut self, name: &str) -> Result<TopicId> {
        let topic = self.find_mut(name)?;
        topic.state = TopicState::Deleting;
        Ok(topic.id)
    }

    /// Forgets a deleted topic once nothing of it is left on disk.
    pub(crate) fn finish_delete(&mut self, id: TopicId) {
        self.topics.retain(|topic| topic.id != id || topic.state == TopicState::Live);
    }

    pub(crate) fn log_id(&self) -> LogId {
        self.log_id
    }

    /// Every topic, those being deleted included, oldest first.
    pub(crate) fn topics(&self) -> &[CatalogTopic] {
        &self.topics
    }

    /// The same, to be changed before anybody knows them.
    pub(crate) fn topics_mut(&mut self) -> impl Iterator<Item = &mut CatalogTopic> {
        self.topics.iter_mut()
    }

    /// The topics that are there.
    pub(crate) fn live(&self) -> impl Iterator<Item = &CatalogTopic> {
        self.topics.iter().filter(|topic| topic.state == TopicState::Live)
    }

    /// Whether something of a deleted topic of this name is left.
    pub(crate) fn is_deleting(&self, name: &str) -> bool {
        self.topics.iter().any(|topic| topic.state == TopicState::Deleting && *topic.name == *name)
    }

    /// The live topic of this name.
    pub(crate) fn find(&self, name: &str) -> Option<&CatalogTopic> {
        self.live().find(|topic| *topic.name == *name)
    }

    fn find_mut(&mut self, name: &str) -> Result<&mut CatalogTopic> {
        let mut live = self.topics.iter_mut().filter(|topic| topic.state == TopicState::Live);
        live.find(|topic| *topic.name == *name).ok_or_else(|| Error::TopicNotFound { topic: name.into() })
    }

    /// The text of the file.
    pub(crate) fn to_text(&self) -> String {
        let mut text = FORM.begin(self.log_id);
        if self.next_producer > 0 {
            let _ = writeln!(text, "{PRODUCER_IDS}{}", self.next_producer);
        }
        for (topic, partition) in &self.aborts_open {
            let _ = writeln!(text, "{ABORT_OPEN}{topic} {partition}");
        }
        for topic in &self.topics {
            // Writing to a string does not fail.
            let _ = writeln!(text, "topic {} {} {} {}", topic.id, topic.state, topic.config.partitions, topic.name);
            if topic.is_sparse {
                let _ = writeln!(text, "{SPARSE}");
            }
            if topic.config == TopicConfig::default().partitions(topic.config.partitions) {
                continue; // Most are: to look at each setting would be most of the work.
            }
            for (key, value) in topic.config.changed_entries() {
                let _ = writeln!(text, "set {key} {value}");
            }
        }
        text::seal(text)
    }

    /// Reads the text of a file, which may be anything.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Invalid> {
        let (log_id, mut lines) = FORM.open(bytes)?;
        let mut catalog = Self::new(log_id);
        while let Some(line) = lines.next() {
            catalog.parse_line(line).map_err(|reason| lines.invalid(&reason))?;
        }
        catalog.check_unique().map_err(|reason| Invalid::At(0, reason))?;
        Ok(catalog)
    }

    fn parse_line(&mut self, line: &str) -> Result<(), String> {
        if let Some(topic) = line.strip_prefix("topic ") {
            self.topics.push(parse_topic(topic)?);
            return Ok(());
        }
        let is_first = self.topics.is_empty() && self.aborts_open.is_empty() && self.next_producer == 0;
        if let Some(next) = line.strip_prefix(PRODUCER_IDS).filter(|_| is_first) {
            self.next_producer = next
                .parse()
                .ok()
                .filter(|read: &i64| *read > 0 && read.to_string() == next)
                .ok_or_else(|| format!("{next:?} is no producer id"))?;
            return Ok(());
        }
        if let (Some(partition), None) = (line.strip_prefix(ABORT_OPEN), self.topics.last()) {
            let (topic, partition) = partition.split_once(' ').ok_or("a partition without a number")?;
            let id = topic.parse().map_err(|_| format!("{topic:?} is no topic id"))?;
            let partition = number(partition).ok_or_else(|| format!("{partition:?} is no partition number"))?;
            return match self.aborts_open.insert((id, partition)) {
                true => Ok(()),
                false => Err("a partition that is there already".to_owned()),
            };
        }
        if let (SPARSE, Some(topic)) = (line, self.topics.last_mut().filter(|topic| !topic.is_sparse)) {
            topic.is_sparse = true;
            return Ok(());
        }
        let setting = line.strip_prefix("set ").and_then(|rest| rest.split_once(' '));
        let (key, value) = setting.ok_or("a line that is neither a topic nor a setting")?;
        let topic = self.topics.last_mut().ok_or("a setting before the first topic")?;
        topic.config = topic.config.set(key, value).map_err(|error| error.to_string())?;
        topic.config.get(key).filter(|read| read == value).map(drop).ok_or(format!("the value of {key} is odd"))
    }

    /// Whether ids, and names of live topics, are there once each, and settings agree with each other.
    pub(crate) fn check_unique(&self) -> Result<(), String> {
        let mut ids: Vec<_> = self.topics.iter().map(|topic| topic.id).collect();
        let mut names: Vec<_> = self.live().map(|topic| &*topic.name).collect();
        ids.sort_unstable();
        names.sort_unstable();
        if let Some(id) = first_repeated(&ids) {
            return Err(format!("two topics have the id {id}"));
        }
        if let Some(name) = first_repeated(&names) {
            return Err(format!("two topics have the name {name}"));
        }
        let wrong = self.topics.iter().find_map(|topic| topic.config.validate().err());
        wrong.map_or(Ok(()), |error| Err(error.to_string()))
    }
}

/// The catalog and its file.
///
/// After a store that failed, the file may hold either text. So what is known here is stored again before anything else
/// changes: what failed must not come true later, behind a change that contradicts it.
#[derive(Debug)]
pub(crate) struct Stored {
    catalog: Catalog,
    is_certain: bool,
}

impl Stored {
    /// A catalog that was just loaded or stored.
    pub(crate) fn new(catalog: Catalog) -> Self {
        Self { catalog, is_certain: true }
    }

    /// Makes the file hold what is known here, if that is in doubt.
    pub(crate) fn settle(&mut self, disk: &dyn Disk, path: &Path) -> Result<()> {
        if !self.is_certain {
            probe::reached("catalog.stored_again");
            self.catalog.store(disk, path)?;
            self.is_certain = true;
        }
        Ok(())
    }

    /// Replaces the catalog, in the file first.
    pub(crate) fn replace(&mut self, disk: &dyn Disk, path: &Path, with: Catalog) -> Result<()> {
        self.settle(disk, path)?;
        self.is_certain = probe::planted("log.failed_store_forgotten");
        with.store(disk, path)?;
        *self = Self::new(with);
        Ok(())
    }

    /// Whether a replacement that failed left the old text: it did not come as far as the renaming.
    pub(crate) fn is_unchanged(&self, disk: &dyn Disk, path: &Path) -> bool {
        matches!(Catalog::load(disk, path), Ok(Some(found)) if found == self.catalog)
    }
}

impl std::ops::Deref for Stored {
    type Target = Catalog;

    fn deref(&self) -> &Catalog {
        &self.catalog
    }
}

impl fmt::Display for TopicState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "live",
            Self::Deleting => "deleting",
        })
    }
}

/// The first value that a sorted list has twice.
fn first_repeated<T: PartialEq>(sorted: &[T]) -> Option<&T> {
    sorted.iter().zip(sorted.iter().skip(1)).find(|(one, next)| one == next).map(|(one, _)| one)
}

/// `<id> <state> <partitions> <name>`.
fn parse_topic(line: &str) -> Result<CatalogTopic, String> {
    let fields: Vec<_> = line.splitn(4, ' ').collect();
    let [id, state, partitions, name] = fields[..] else { return Err("a topic lacks a field".into()) };
    let id = id.parse().map_err(|error| format!("{error}"))?;
    let state = match state {
        "live" => TopicState::Live,
        "deleting" => TopicState::Deleting,
        _ => return Err("a topic is neither live nor being deleted".into()),
    };
    let partitions = number(partitions).ok_or("a partition count is not a number")?;
    if let Some(reason) = names::flaw(name) {
        return Err(format!("a topic name is invalid: {reason}"));
    }
    Ok(CatalogTopic {
        id,
        name: name.into(),
        config: TopicConfig::default().partitions(partitions),
        state,
        is_sparse: false,
    })
}

/// The first words of a file that stands for the catalog while a backup is made.
pub(super) const UNFINISHED: &str = "chiplog unfinished backup";
const FORM: Form = Form { what: "catalog", version: 1 };
/// How many ids to draw for a topic. By chance none is ever taken.
const PRODUCER_IDS: &str = "producer-ids ";
const ABORT_OPEN: &str = "abort-open ";
const SPARSE: &str = "sparse";
const MOST_DRAWS: u32 = 100;
/// About half a million topics. A longer file is not ours.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::crc32;
    use crate::disk::RealDisk;
    use crate::error::ErrorKind;
    use proptest::prelude::*;

    const ORDERS: TopicId = TopicId::from_bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    const RETURNS: TopicId = TopicId::from_bytes([16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31]);

    fn example() -> Catalog {
        let mut catalog = Catalog::new(LogId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff));
        let config = TopicConfig::default().partitions(3).set("retention.ms", "3600000").unwrap();
        catalog.create(|| ORDERS, "orders", config.segment_bytes(1 << 20)).unwrap();
        catalog.create(|| RETURNS, "returns", TopicConfig::default()).unwrap();
        assert_eq!(catalog.begin_delete("returns").unwrap(), RETURNS);
        catalog
    }

    /// A text with the checksum it needs.
    fn sealed(body: &str) -> Vec<u8> {
        format!("{body}crc32 {:08x}\n", crc32(body.as_bytes())).into_bytes()
    }

    /// The form on disk, so that a change of it is one on purpose.
    #[test]
    fn the_text_is_the_documented_one() {
        let body = "chiplog catalog 1\nlog 00112233445566778899aabbccddeeff\n\
            topic AAECAwQFBgcICQoLDA0ODw live 3 orders\nset retention.ms 3600000\nset segment.bytes 1048576\n\
            topic EBESExQVFhcYGRobHB0eHw deleting 1 returns\n";
        assert_eq!(example().to_text().into_bytes(), sealed(body));
        assert_eq!(Catalog::parse(&sealed(body)), Ok(example()));
    }

    #[test]
    fn a_stored_catalog_loads_and_a_missing_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog");
        assert_eq!(Catalog::load(&RealDisk, &path).unwrap(), None);
        example().store(&RealDisk, &path).unwrap();
        assert_eq!(Catalog::load(&RealDisk, &path).unwrap(), Some(example()));
    }

    #[test]
    fn a_newer_version_is_told_from_rot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog");
        std::fs::write(&path, sealed("chiplog catalog 7\nnobody knows\n")).unwrap();
        let error = Catalog::load(&RealDisk, &path).unwrap_err();
        assert!(matches!(error, Error::NewerVersion { found: 7, supported: 1, .. }), "{error}");
        std::fs::write(&path, "chiplog catalog 7\nnobody knows\n").unwrap();
        assert_eq!(Catalog::load(&RealDisk, &path).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_wrong_line_is_named_with_its_position() {
        let head = "chiplog catalog 1\nlog 00112233445566778899aabbccddeeff\n";
        let topic = "topic AAECAwQFBgcICQoLDA0ODw live 1 orders\n";
        let (first, second) = (head.len(), head.len() + topic.len());
        for (body, position, reason) in [
            ("".to_owned(), 0, "too short"),
            ("chiplog\n".to_owned(), 0, "first line"),
            ("chiplog catalog 01\n".to_owned(), 0, "first line"),
            ("chiplog catalog 0\n".to_owned(), 0, "no such version"),
            ("chiplog catalog 1\nlog 11\n".to_owned(), 18, "id of the log"),
            (format!("{head}set retention.ms 1\n"), first, "before the first topic"),
            (format!("{head}\n"), first, "neither"),
            (format!("{head}topic AAECAwQFBgcICQoLDA0ODw live 1\n"), first, "lacks a field"),
            (format!("{head}topic AAECAwQFBgcICQoLDA0ODx live 1 orders\n"), first, "not a topic id"),
            (format!("{head}topic AAECAwQFBgcICQoLDA0ODw gone 1 orders\n"), first, "neither live"),
            (format!("{head}topic AAECAwQFBgcICQoLDA0ODw live +1 orders\n"), first, "not a number"),
            (format!("{head}topic AAECAwQFBgcICQoLDA0ODw live 1 a b\n"), first, "invalid"),
            (format!("{head}topic AAECAwQFBgcICQoLDA0ODw live 0 orders\n"), 0, "setting partitions"),
            (format!("{head}{topic}set retention.ms -2\n"), second, "-1 or more"),
            (format!("{head}{topic}set retention.ms 01\n"), second, "odd"),
            (format!("{head}{topic}set retention 1\n"), second, "nearest"),
            (format!("{head}{topic}{topic}"), 0, "the id"),
            (format!("{head}{topic}topic EBESExQVFhcYGRobHB0eHw live 1 orders\n"), 0, "the name"),
        ] {
            let bytes = if body.is_empty() { Vec::new() } else { sealed(&body) };
            let Err(Invalid::At(at, said)) = Catalog::parse(&bytes) else { panic!("accepted: {body}") };
            assert!(at == position && said.contains(reason), "{body}: {said} at {at}");
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let text = example().to_text().into_bytes();
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(Catalog::parse(&bytes), Err(Invalid::At(..))), "bit {bit}");
        }
        for len in 0..text.len() {
            assert!(Catalog::parse(&text[..len]).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn a_name_is_free_again_from_the_moment_its_topic_is_deleted() {
        let mut catalog = example();
        let taken = |error| matches!(error, Error::TopicExists { .. });
        let other = TopicId::from_bytes([9; 16]);
        assert!(taken(catalog.create(|| other, "orders", TopicConfig::default()).unwrap_err()));
        catalog.create(|| other, "returns", TopicConfig::default()).unwrap();
        assert_eq!(catalog.find("returns").unwrap().id, other);
        assert_eq!(Catalog::parse(catalog.to_text().as_bytes()), Ok(catalog.clone()));

        catalog.finish_delete(RETURNS);
        catalog.finish_delete(other);
        let left: Vec<_> = catalog.topics().iter().map(|topic| topic.id).collect();
        assert_eq!(left, [ORDERS, other], "a live topic is not forgotten");
    }

    #[test]
    fn colliding_names_and_wrong_settings_are_refused() {
        let mut catalog = Catalog::new(LogId(1));
        catalog.create(|| ORDERS, "a.b", TopicConfig::default()).unwrap();
        let error = catalog.create(|| RETURNS, "a_b", TopicConfig::default()).unwrap_err();
        assert_eq!(error.to_string(), r#"topic "a.b" exists"#);
        assert!(catalog.create(|| RETURNS, "a/b", TopicConfig::default()).is_err());
        assert!(catalog.create(|| RETURNS, "c", TopicConfig::default().partitions(0)).is_err());
        assert_eq!(catalog.topics().len(), 1);
    }

    #[test]
    fn partitions_are_added_and_never_taken_away() {
        let mut catalog = example();
        let config = catalog.find("orders").unwrap().config;
        catalog.alter("orders", config.partitions(5)).unwrap();
        let error = catalog.alter("orders", config.partitions(4)).unwrap_err();
        assert!(error.to_string().contains("5 or more"), "{error}");
        assert_eq!(catalog.find("orders").unwrap().config.partitions, 5);
        assert!(matches!(catalog.alter("returns", config), Err(Error::TopicNotFound { .. })));
    }

    proptest! {
        /// Whatever topics there are, their text gives them back.
        #[test]
        fn a_catalog_reads_back_from_its_text(
            log_id: u128,
            names in prop::collection::btree_set("[a-z.]{3,9}", 0..8),
            partitions in 1..100_000_u32,
            retention in -1..i64::MAX,
            deleted in 0..8_usize,
        ) {
            let mut catalog = Catalog::new(LogId(log_id));
            for (at, name) in names.iter().enumerate() {
                let config = TopicConfig::default().partitions(partitions);
                let config = config.set("retention.ms", &(retention >> (8 * at)).to_string()).unwrap();
                catalog.create(|| TopicId::from_bytes([at as u8; 16]), name, config).unwrap();
            }
            if let Some(name) = names.iter().nth(deleted) {
                catalog.begin_delete(name).unwrap();
            }
            prop_assert_eq!(Catalog::parse(catalog.to_text().as_bytes()), Ok(catalog));
        }

        /// Whatever the bytes, they are refused, or are the catalog whose text they are.
        #[test]
        fn any_body_is_refused_or_understood(lines in prop::collection::vec("(topic|set|log|chiplog)[ -~]{0,30}", 0..6)) {
            let bytes = sealed(&format!("chiplog catalog 1\nlog {}\n{}\n", LogId(1), lines.join("\n")));
            if let Ok(catalog) = Catalog::parse(&bytes) {
                prop_assert_eq!(Catalog::parse(catalog.to_text().as_bytes()), Ok(catalog));
            }
        }
    }
}
