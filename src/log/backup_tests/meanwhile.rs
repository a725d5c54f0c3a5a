//! Others work on a log while a backup of it is made.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{BACKUP, LOG, builder, contents, filled, has_files, is_whole, small, values};
use crate::config::{Cleanup, Durability};
use crate::disk::{DirEntry, Disk, DiskFile, DiskLock, Lock, Metadata, Open, Volume};
use crate::error::Error;
use crate::log::{Backup, Log};
use crate::probe;
use crate::record::Record;
use crate::sim::{DiskOptions, Rng, SimDisk};
use crate::types::Offset;

#[test]
fn a_log_that_is_closed_meanwhile_gives_up_its_backup() {
    let mut closed = 0;
    for at in 0..60 {
        let disk = SimDisk::new(DiskOptions::default());
        let meddled = Meddled::new(&disk);
        let log = written_on(&meddled);
        let expected = contents(&log);
        let closing = Mutex::new(Some(log.clone()));
        let mut call = 0;
        meddled.meddle(move || {
            call += 1;
            if call == at {
                closing.lock().take().unwrap().close().unwrap();
            }
        });
        match log.backup(BACKUP) {
            Ok(_) => assert!(is_whole(&disk.crash(at), &expected, "closed")),
            Err(Error::Closed) => {
                closed += 1;
                assert!(!has_files(&disk, "/backups"));
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(closed > 20, "{closed}");
}

fn written_on(meddled: &Arc<Meddled>) -> Log {
    filled(builder(&meddled.disk, LOG).disk(Arc::clone(meddled) as Arc<dyn Disk>))
}

#[test]
fn where_nothing_can_be_linked_everything_is_copied() {
    let disk = SimDisk::new(DiskOptions::default());
    let meddled = Meddled::new(&disk);
    let log = written_on(&meddled);
    let linked = log.backup("/linked").unwrap();
    meddled.no_links.store(true, Ordering::Relaxed);
    let copied = log.backup(BACKUP).unwrap();
    assert_eq!((linked.linked_files > 0, copied.linked_files), (true, 0));
    assert_eq!(copied.copied_files, linked.linked_files + linked.copied_files);
    let below = |dir: &str| {
        let files = disk.image().files().into_iter().filter(|(path, _)| path.starts_with(dir));
        let files = files.map(|(path, bytes)| (path.strip_prefix(dir).unwrap().to_owned(), bytes));
        files.collect::<BTreeMap<_, _>>()
    };
    assert!(below("/linked") == below(BACKUP), "the same either way");
    let counted: usize =
        below(BACKUP).iter().filter(|(path, _)| path.iter().count() == 2).map(|file| file.1.len()).sum();
    let metadata = copied.partitions.len() * "version: 0\ntopic_id: ".len() + copied.partitions.len() * 22;
    assert_eq!(copied.copied_bytes as usize + metadata, counted);
}

/// A topic is deleted, and another made of its name, between the moments of two partitions.
#[test]
fn a_topic_deleted_meanwhile_is_not_in_the_backup_nor_what_groups_committed_for_it() {
    let mut left_out = 0;
    for at in 0..80 {
        let disk = SimDisk::new(DiskOptions::default());
        let meddled = Meddled::new(&disk);
        let log = written_on(&meddled);
        let other = log.clone();
        let mut call = 0;
        meddled.meddle(move || {
            call += 1;
            if call == at {
                other.delete_topic("a").unwrap();
                other.create_topic("a", small()).unwrap().append("new").unwrap();
            }
        });
        log.backup(BACKUP).unwrap();
        meddled.stop();
        for round in 0..2 {
            let copy = builder(&disk, BACKUP).strict().open().unwrap();
            let committed = copy.group("g").unwrap().committed("a", 1).unwrap().map(|committed| committed.offset);
            match copy.find_topic("a") {
                // All was over before it began.
                Some(topic) if topic.partition_count() == 1 => {
                    assert_eq!((committed, values(&topic.partition(0).unwrap())), (None, vec!["new".into()]));
                }
                Some(topic) => {
                    assert!(topic.partition_count() == 2 && committed == Some(Offset(9)), "call {at}");
                    assert_eq!(values(&topic.partition(0).unwrap()).len(), 16);
                }
                None => {
                    assert_eq!(committed, None, "call {at}, round {round}");
                    let is_of_a = |path: &PathBuf| path.starts_with(BACKUP) && path.to_string_lossy().contains("/a-");
                    assert!(!disk.image().files().keys().any(is_of_a), "call {at}");
                    left_out += 1;
                }
            }
            copy.close().unwrap();
        }
    }
    assert!(left_out > 10, "{left_out}");
}

/// A transaction goes on between any two steps, in partitions that no producer had written to before.
#[test]
fn a_transaction_that_goes_on_meanwhile_is_in_a_backup_as_a_whole_or_not_at_all() {
    for at in 1..30 {
        let disk = SimDisk::new(DiskOptions::default());
        let meddled = Meddled::new(&disk);
        let log = written_on(&meddled);
        let mut producer = log.producer().transactional("id").unwrap();
        let mut call = 0;
        meddled.meddle(move || {
            call += 1;
            if call == at {
                let mut transaction = producer.begin().unwrap();
                for topic in ["a", "b"] {
                    transaction.send(Record::new("moved").key("k").to(topic)).unwrap();
                }
                transaction.commit().unwrap();
            }
        });
        log.backup(BACKUP).unwrap();
        meddled.stop();
        let copy = builder(&disk, BACKUP).strict().open().unwrap();
        let found = ["a", "b"].map(|name| {
            let topic = copy.find_topic(name).unwrap();
            (0..topic.partition_count())
                .any(|number| values(&topic.partition(number).unwrap()).contains(&"moved".into()))
        });
        assert_eq!(found[0], found[1], "call {at}");
    }
}

/// A topic is compacted for the first time between two steps: the backup has the latest record of each key.
#[test]
fn a_topic_that_is_compacted_meanwhile_has_the_latest_of_each_key_in_the_backup() {
    let compacted = Arc::new(AtomicU64::new(0));
    for at in 1..30 {
        let disk = SimDisk::new(DiskOptions::default());
        let meddled = Meddled::new(&disk);
        let log = written_on(&meddled);
        let config = small().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.0);
        let topic = log.create_topic("c", config).unwrap();
        for number in 0..40 {
            topic.append(Record::new(&*number.to_string()).key(&*(number % 3).to_string())).unwrap();
        }
        let (other, clock, counted) = (log.clone(), disk.clock(), Arc::clone(&compacted));
        let mut call = 0;
        meddled.meddle(move || {
            call += 1;
            for _ in 0..if call == at { 1_000 } else { 0 } {
                let done = other.maintain().unwrap();
                if done.compacted > 0 {
                    counted.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                clock.advance(done.next);
            }
        });
        log.backup(BACKUP).unwrap();
        meddled.stop();
        let copy = builder(&disk.crash(at), BACKUP).strict().open().unwrap();
        let partition = copy.topic("c").unwrap().partition(0).unwrap();
        let (mut from, mut latest) = (partition.offsets().start, BTreeMap::new());
        while from < partition.offsets().end {
            let records = partition.read(from).unwrap();
            for record in &records {
                let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
                latest.insert(text(record.key), text(record.value));
            }
            from = records.next_offset();
        }
        let expected = [("0", "39"), ("1", "37"), ("2", "38")];
        assert!(latest.iter().map(|(key, value)| (&**key, &**value)).eq(expected), "call {at}: {latest:?}");
    }
    assert!(compacted.load(Ordering::Relaxed) > 3, "{compacted:?}");
}

/// Records by partition, as they were appended: the offset is the place in the list.
type Appended = BTreeMap<u32, Vec<String>>;

/// Between any two steps of a backup others append, roll, commit, delete and add partitions. Whatever they do, each
/// partition in the backup is a piece of the real one without a gap, from a start it had up to an end it had, and a group
/// is within the partition.
#[test]
fn whatever_happens_meanwhile_a_backup_holds_a_prefix_of_each_partition() {
    let (mut moved, mut removed) = (0, 0);
    for seed in 0..150 {
        let disk = SimDisk::new(DiskOptions::default());
        let meddled = Meddled::new(&disk);
        let log = builder(&disk, LOG).disk(Arc::clone(&meddled) as Arc<dyn Disk>).open().unwrap();
        let mut rng = Rng::stream(seed, "before");
        let durability = *rng.pick(&[Durability::Os, Durability::Each]);
        let config = small().retention_bytes(600).durability(durability).partitions(3);
        log.create_topic("a", config).unwrap();
        let appended = Arc::new(Mutex::new(Appended::new()));
        for _ in 0..rng.between(10, 60) {
            meddle_once(&log, &appended, &mut rng);
        }
        let before: Vec<_> = ends(&log);
        let (other, all) = (log.clone(), Arc::clone(&appended));
        let mut rng = Rng::stream(seed, "meanwhile");
        meddled.meddle(move || {
            for _ in 0..rng.below(4) {
                meddle_once(&other, &all, &mut rng);
            }
        });
        drop(probe::registry::take_marks());
        let backup = log.backup(BACKUP).unwrap();
        meddled.stop();
        removed += u64::from(probe::registry::take_marks().contains_key("backup.removed_meanwhile"));
        let after: Vec<_> = ends(&log);
        let copy = builder(&disk.crash(seed), BACKUP).strict().open().unwrap();
        let appended = appended.lock();
        check_prefixes(&backup, &copy, &appended, &before, &after, seed);
        moved += u64::from(before != after);
        assert_eq!(disk.audit(), None, "seed {seed}");
    }
    assert!(moved > 100 && removed > 5, "{moved} moved, {removed} lost segments");
}

fn ends(log: &Log) -> Vec<(Offset, Offset)> {
    let topic = log.topic("a").unwrap();
    let offsets = (0..topic.partition_count()).map(|number| topic.partition(number).unwrap().offsets());
    offsets.map(|offsets| (offsets.start, offsets.end)).collect()
}

fn check_prefixes(
    backup: &Backup,
    copy: &Log,
    appended: &Appended,
    before: &[(Offset, Offset)],
    after: &[(Offset, Offset)],
    seed: u64,
) {
    let held: Vec<_> = backup.partitions.iter().filter(|held| *held.partition.topic == *"a").collect();
    assert!(held.len() >= before.len() && held.len() <= after.len(), "seed {seed}");
    for held in held {
        let number = held.partition.partition;
        let partition = copy.topic("a").unwrap().partition(number).unwrap();
        let offsets = partition.offsets();
        assert_eq!((offsets.start, offsets.end), (held.start, held.end), "seed {seed}");
        let (first, last) = (before.get(number as usize), after[number as usize]);
        let (start, end) = first.copied().unwrap_or_default();
        assert!(
            start <= held.start && held.start <= last.0.max(start),
            "seed {seed}: {held:?} of {first:?} and {last:?}"
        );
        assert!(end <= held.end && held.end <= last.1, "seed {seed}: {held:?} of {first:?} and {last:?}");
        let real = appended.get(&number).map_or(&[][..], Vec::as_slice);
        assert_eq!(values(&partition), real[held.start.0 as usize..held.end.0 as usize], "seed {seed}: {held:?}");
        if let Some(committed) = copy.group("g").unwrap().committed("a", number).unwrap() {
            assert!(committed.offset <= held.end, "seed {seed}: {} of {held:?}", committed.offset);
        }
        assert_eq!(partition.append("more").unwrap().offset(), held.end);
    }
}

/// Something that a log does while another thread makes a backup of it.
fn meddle_once(log: &Log, appended: &Mutex<Appended>, rng: &mut Rng) {
    let topic = log.topic("a").unwrap();
    let number = rng.below(topic.partition_count().into()) as u32;
    let partition = topic.partition(number).unwrap();
    match rng.weighted(&[12, 6, 3, 3, 2, 1, 2]) {
        0 => {
            let value = format!("{number} {}", rng.draw());
            assert_eq!(partition.append(&*value).unwrap().offset().0, push(appended, number, &value));
        }
        1 => {
            let value = format!("{number} {}", "x".repeat(rng.below(150) as usize));
            assert_eq!(partition.append_all([&*value]).unwrap().offset().0, push(appended, number, &value));
        }
        2 => log.group("g").unwrap().commit("a", number, partition.offsets().end).unwrap(),
        3 => {
            // What retention looks at every five minutes.
            log.maintain().unwrap();
        }
        4 => {
            let offsets = partition.offsets();
            let to = offsets.start + rng.below(offsets.end - offsets.start + 1);
            log.delete_before("a", number, to).unwrap();
        }
        5 => {
            let config = topic.config();
            log.alter_topic("a", config.partitions((config.partitions + 1).min(5))).unwrap();
        }
        _ => log.sync().unwrap(),
    }
}

fn push(appended: &Mutex<Appended>, number: u32, value: &str) -> u64 {
    let mut appended = appended.lock();
    let values = appended.entry(number).or_default();
    values.push(value.to_owned());
    values.len() as u64 - 1
}

/// A disk that has somebody else do something before each change of names below the directory of a backup.
struct Meddled {
    disk: Arc<SimDisk>,
    work: Mutex<Option<Box<dyn FnMut() + Send>>>,
    no_links: AtomicBool,
    stopped: AtomicBool,
}

impl fmt::Debug for Meddled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meddled")
    }
}

impl Meddled {
    fn new(disk: &Arc<SimDisk>) -> Arc<Self> {
        let (no_links, stopped) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { disk: Arc::clone(disk), work: Mutex::new(None), no_links, stopped })
    }

    fn meddle(&self, work: impl FnMut() + Send + 'static) {
        *self.work.lock() = Some(Box::new(work));
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        *self.work.lock() = None;
    }

    fn turn(&self, path: &Path) {
        if !path.starts_with("/backups") {
            return;
        }
        // What it does leads here again, and is not to go on for ever.
        let work = self.work.lock().take();
        if let Some(mut work) = work {
            work();
            if !self.stopped.load(Ordering::Relaxed) {
                *self.work.lock() = Some(work);
            }
        }
    }
}

impl Disk for Meddled {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        if how == Open::CreateNew {
            self.turn(path);
        }
        self.disk.open(path, how)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.turn(path);
        self.disk.create_dir(path)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.turn(to);
        match self.no_links.load(Ordering::Relaxed) {
            true => Err(io::ErrorKind::CrossesDevices.into()),
            false => self.disk.link(from, to),
        }
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.disk.list(dir)
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.disk.metadata(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.turn(dir);
        self.disk.sync_dir(dir)
    }
    fn lock(&self, path: &Path, how: Lock) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.disk.lock(path, how)
    }
    fn volume(&self, dir: &Path) -> io::Result<Volume> {
        self.disk.volume(dir)
    }
}
