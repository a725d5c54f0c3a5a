//! What another thread does between two steps of a call: a hook in the disk or the clock does it there.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::fmt;
use std::fs;
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use super::{Background, Log, Staging};
use crate::clock::{Clock, SystemClock};
use crate::config::{Durability, TopicConfig};
use crate::disk::{DirEntry, Disk, DiskFile, DiskLock, Lock, Metadata, Open, RealDisk, Volume};
use crate::error::Error;
use crate::partition::{Ack, Partition, RecoveryMode};
use crate::record::Record;
use crate::segment::ReadPath;
use crate::types::{Offset, Timestamp};

/// Something to do once, at the next opportunity.
#[derive(Clone, Default)]
pub(super) struct Hook(Arc<Mutex<Option<Work>>>);

type Work = Box<dyn FnOnce() + Send>;

impl Hook {
    pub(super) fn set(&self, work: impl FnOnce() + Send + 'static) {
        *self.0.lock() = Some(Box::new(work));
    }

    fn fire(&self) {
        let work = self.0.lock().take();
        if let Some(work) = work {
            work();
        }
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

/// Before a data file or its seal is opened for reading, and before the first epochs of a partition are stored, the hook
/// has its turn.
#[derive(Debug)]
pub(super) struct HookedDisk(pub(super) Hook, pub(super) Arc<dyn Disk>);

impl Disk for HookedDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let is_read = how == Open::Read && path.extension().is_some_and(|kind| kind == "log" || kind == "seal");
        let is_stored = how == Open::CreateNew && path.to_string_lossy().contains("leader-epoch");
        if is_read || is_stored {
            self.0.fire();
        }
        self.1.open(path, how)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.1.create_dir(path)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.1.remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.1.remove_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.1.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.1.link(from, to)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.1.list(dir)
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.1.metadata(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.1.sync_dir(dir)
    }
    fn lock(&self, path: &Path, how: Lock) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.1.lock(path, how)
    }
    fn volume(&self, dir: &Path) -> io::Result<Volume> {
        self.1.volume(dir)
    }
}

/// Whoever asks for the monotonic time gives the hook its turn.
#[derive(Debug)]
struct HookedClock(Hook, SystemClock);

impl Clock for HookedClock {
    fn now(&self) -> Timestamp {
        self.1.now()
    }
    fn monotonic(&self) -> Duration {
        self.0.fire();
        self.1.monotonic()
    }
}

/// Copies a directory, as a kill would leave it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn manual(dir: &Path) -> super::LogBuilder {
    Log::builder(dir).background(Background::Caller).staging(Staging::Off)
}

fn values(partition: &Partition) -> Vec<String> {
    let records = partition.read(partition.offsets().start).unwrap();
    records.iter().map(|record| String::from_utf8_lossy(record.value.unwrap()).into_owned()).collect()
}

/// An append had encoded its batch when the topic's segments were made shorter than it. The batch went over the page of
/// marks, and the next sync wrote a mark into it: an acknowledged, synced record was damaged.
#[test]
fn a_batch_that_no_longer_fits_since_the_settings_changed_is_refused() {
    for durability in [Durability::Os, Durability::Each] {
        let dir = tempfile::tempdir().unwrap();
        let log = manual(dir.path()).open().unwrap();
        let config = TopicConfig::default().segment_bytes(1 << 20).durability(durability);
        let partition = log.create_topic("t", config).unwrap().partition(0).unwrap();
        partition.append("first").unwrap();
        let mut records = (0..20).map(|_| Record::new(&[7_u8; 1000]));
        let first = records.next();
        let altering = std::iter::once_with(|| {
            log.alter_topic("t", config.segment_bytes(4096)).unwrap();
            first.unwrap()
        });
        let error = partition.append_all(altering.chain(records)).unwrap_err();
        assert!(matches!(error, Error::BatchTooLarge { limit: 4096, .. }), "{error:?}");
        partition.append("second").unwrap().wait(Ack::Synced).unwrap();
        assert_eq!(values(&partition), ["first", "second"]);
    }
}

/// A sync of a recovered partition had looked whether it was still there, and its topic was deleted and made again
/// before it came to work. It cut the torn tail that it knew of from the file of the new topic: 50 synced records
/// were gone.
#[test]
fn a_sync_of_a_deleted_topic_leaves_the_new_one_of_its_name_alone() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = manual(first.path()).open().unwrap();
    log.topic("t").unwrap().append("old").unwrap();
    copy(first.path(), second.path());
    let path = second.path().join("t-0/00000000000000000000.log");
    let torn = [fs::read(&path).unwrap(), vec![1; 10]].concat();
    fs::write(&path, torn).unwrap();

    let hook = Hook::default();
    let clock = HookedClock(hook.clone(), SystemClock::new());
    let log = manual(second.path()).clock(Arc::new(clock)).open().unwrap();
    let old = log.topic("t").unwrap().partition(0).unwrap();
    let ours = log.clone();
    hook.set(move || {
        ours.delete_topic("t").unwrap();
        let new = ours.topic("t").unwrap().partition(0).unwrap();
        (0..50).for_each(|number| drop(new.append(&format!("new {number}")).unwrap()));
        new.sync().unwrap();
    });
    assert!(matches!(old.sync(), Err(Error::TopicDeleted { .. })));
    let new = log.topic("t").unwrap().partition(0).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), new.segments()[0].len());
    assert_eq!(values(&new).len(), 50);
}

/// A reader opened its segment by name when the topic had been deleted and made again: it read records of the other
/// topic, or got a signal where the new file was shorter.
#[test]
fn a_reader_of_a_deleted_topic_never_opens_a_file_of_the_new_one_of_its_name() {
    for (read_path, old_count, new_count) in
        [(ReadPath::Mapped, 3, 3), (ReadPath::Mapped, 100, 1), (ReadPath::Positional, 3, 3)]
    {
        let dir = tempfile::tempdir().unwrap();
        let hook = Hook::default();
        let disk = Arc::new(HookedDisk(hook.clone(), Arc::new(RealDisk)));
        let log = manual(dir.path()).disk(disk).read_path(read_path).open().unwrap();
        let old = log.topic("t").unwrap().partition(0).unwrap();
        let append = |partition: &Partition, count: usize, name: char| {
            let value = name.to_string().repeat(1000);
            (0..count).for_each(|_| drop(partition.append(&value).unwrap()));
        };
        append(&old, old_count, 'o');
        let ours = log.clone();
        hook.set(move || {
            ours.delete_topic("t").unwrap();
            append(&ours.topic("t").unwrap().partition(0).unwrap(), new_count, 'n');
        });
        let error = old.read(Offset(old_count as u64 / 2)).unwrap_err();
        assert!(matches!(error, Error::TopicDeleted { .. }), "{error:?}");
    }
}

/// A salvage gave up records that a checkpoint called synced. Those that got their offsets later counted as synced from
/// the first moment, and an open after a kill found fewer than the checkpoint said: corrupt.
#[test]
fn what_a_salvage_gave_up_is_not_called_synced_any_more() {
    let dirs = [(); 4].map(|()| tempfile::tempdir().unwrap());
    let log = manual(dirs[0].path()).open().unwrap();
    let partition = log.topic("t").unwrap().partition(0).unwrap();
    (0..24).for_each(|number| drop(partition.append(&format!("{number:0100}")).unwrap()));
    drop(partition);
    log.close().unwrap();
    copy(dirs[0].path(), dirs[1].path());
    let path = dirs[1].path().join("t-0/00000000000000000000.log");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 24 * 10 + 100;
    bytes.truncate(middle);
    fs::write(&path, bytes).unwrap();
    fs::remove_file(dirs[1].path().join("clean")).unwrap();

    let log = manual(dirs[1].path()).recovery(RecoveryMode::Salvage).open().unwrap();
    let partition = log.topic("t").unwrap().partition(0).unwrap();
    assert_eq!(partition.offsets().end, Offset(10));
    let append = |count| (0..count).for_each(|_| drop(partition.append("again").unwrap()));
    append(5);
    copy(dirs[1].path(), dirs[2].path());
    append(20);
    copy(dirs[1].path(), dirs[3].path());
    for (dir, end) in dirs[2..].iter().zip([15, 35]) {
        let log = manual(dir.path()).strict().open().unwrap();
        let offsets = log.topic("t").unwrap().partition(0).unwrap().offsets();
        assert_eq!((offsets.synced, offsets.end), (Offset(10), Offset(end)));
    }
}

/// Retention by age raised the start of a partition that nobody had written since it was opened, and rolled nothing:
/// its one segment stayed on the disk until the next append.
#[test]
fn an_idle_partition_gives_back_what_has_expired() {
    let dir = tempfile::tempdir().unwrap();
    let config = TopicConfig::default().retention_time(Duration::from_millis(1));
    let log = manual(dir.path()).open().unwrap();
    log.create_topic("t", config).unwrap().append(&[0; 1000]).unwrap();
    log.close().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let log = manual(dir.path()).open().unwrap();
    assert_eq!(log.maintain().unwrap().removed, 1);
    let segments = log.topic("t").unwrap().partition(0).unwrap().segments();
    assert_eq!(segments.iter().map(|segment| segment.len()).collect::<Vec<_>>(), [0]);
}

/// Files that are read by position stayed open, one for each segment that was ever read.
#[test]
fn open_files_are_limited_as_maps_are() {
    for read_path in [ReadPath::Mapped, ReadPath::Positional] {
        let dir = tempfile::tempdir().unwrap();
        let log = manual(dir.path()).read_path(read_path).max_maps(4).open().unwrap();
        let config = TopicConfig::default().segment_bytes(1100);
        let partition = log.create_topic("t", config).unwrap().partition(0).unwrap();
        (0..100).for_each(|_| drop(partition.append(&[0; 1000]).unwrap()));
        (0..100).for_each(|at| drop(partition.read(Offset(at)).unwrap()));
        let open = partition.core.context.files.open_maps();
        assert!(open <= 5, "{read_path:?}: {open}");
    }
}

/// What could be written could not be read: the limit on decompressed batches was looked at by readers only.
#[test]
#[cfg(feature = "lz4")]
fn a_batch_that_nobody_could_decompress_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = manual(dir.path()).open().unwrap();
    let codec = crate::config::Compression::Lz4 { level: 9 };
    let config = TopicConfig::default().compression(codec).max_decompressed_bytes(1000);
    let partition = log.create_topic("t", config).unwrap().partition(0).unwrap();
    let error = partition.append(&[0; 5000]).unwrap_err();
    assert!(matches!(error, Error::TooLong { limit: 1000, .. }), "{error:?}");
    partition.append(&[0; 500]).unwrap();
    assert_eq!(partition.read(Offset(0)).unwrap().iter().count(), 1);
}

/// The entries of deleted topics stayed in use, and the file of notes grew with each.
#[test]
fn notes_of_deleted_topics_give_their_place_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let log = manual(dir.path()).open().unwrap();
    for _ in 0..20 {
        log.topic("t").unwrap().append("v").unwrap();
        log.delete_topic("t").unwrap();
    }
    let len = fs::metadata(dir.path().join("notes")).unwrap().len();
    assert!(len < 1000, "{len}");
    // The one that has the place now is found by who opens after a kill.
    let id = log.topic("u").unwrap().id();
    log.topic("u").unwrap().append("v").unwrap();
    let killed = tempfile::tempdir().unwrap();
    copy(dir.path(), killed.path());
    let log = manual(killed.path()).open().unwrap();
    assert!(log.opened.inner.context.notes.found(id, 0).is_some());
}

/// A topic was deleted while maintenance looked which of its segments had expired: the call said that the log was
/// closed, and who keeps calling it ended.
#[test]
fn maintenance_of_a_topic_that_is_deleted_meanwhile_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let config = TopicConfig::default().segment_bytes(1100).retention_time(Duration::from_millis(1));
    let log = manual(dir.path()).open().unwrap();
    let topic = log.create_topic("t", config).unwrap();
    (0..5).for_each(|_| drop(topic.append(&[0; 1000]).unwrap()));
    drop(topic);
    log.close().unwrap();
    // Without it the age of the segment is found in the data file.
    fs::remove_file(dir.path().join("t-0/00000000000000000000.seal")).unwrap();
    let hook = Hook::default();
    let log = manual(dir.path()).disk(Arc::new(HookedDisk(hook.clone(), Arc::new(RealDisk)))).open().unwrap();
    let deleting = Arc::new(Mutex::new(None));
    let (ours, started) = (log.clone(), Arc::clone(&deleting));
    hook.set(move || {
        let deleter = ours.clone();
        *started.lock() = Some(std::thread::spawn(move || deleter.delete_topic("t")));
        while ours.find_topic("t").is_some() {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(20));
    });
    std::thread::sleep(Duration::from_millis(20));
    log.maintain().unwrap();
    let thread = deleting.lock().take().unwrap();
    thread.join().unwrap().unwrap();
}

/// One who found another at the syncs that are due did not look again for a minute.
#[test]
fn who_finds_another_at_work_comes_again_soon() {
    let dir = tempfile::tempdir().unwrap();
    let log = manual(dir.path()).open().unwrap();
    let _other = log.opened.inner.unsynced.lock();
    assert!(log.maintain().unwrap().next <= Duration::from_millis(1));
}

/// Calls the log, as an executor does that polls at once.
struct Maintains(Log, Mutex<bool>);

impl Wake for Maintains {
    fn wake(self: Arc<Self>) {
        let _ = self.0.maintain().unwrap();
        *self.1.lock() = true;
    }
}

/// Tasks were woken with the lock of the maintenance held: one that called it waited for itself.
#[test]
fn a_task_that_is_woken_may_call_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = manual(dir.path()).open().unwrap();
    let partition = log.topic("t").unwrap().partition(0).unwrap();
    let mut acked = std::pin::pin!(partition.append("v").unwrap().acked(Ack::Synced));
    let waker = Arc::new(Maintains(log.clone(), Mutex::new(false)));
    let task = Waker::from(Arc::clone(&waker));
    let mut context = Context::from_waker(&task);
    assert!(acked.as_mut().poll(&mut context).is_pending());
    let _ = log.maintain().unwrap();
    assert!(*waker.1.lock());
    assert!(matches!(acked.as_mut().poll(&mut context), Poll::Ready(Ok(()))));
}

/// Sets what it is asked for: whether it was woken.
struct Flag(std::sync::atomic::AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

/// Readers of what was appended slept until the sync of the append was over.
#[test]
fn who_waits_for_the_end_is_woken_before_the_sync_of_the_append() {
    let dir = tempfile::tempdir().unwrap();
    let hook = Hook::default();
    let clock = HookedClock(hook.clone(), SystemClock::new());
    let log = manual(dir.path()).clock(Arc::new(clock)).open().unwrap();
    let config = TopicConfig::default().durability(Durability::Each);
    let partition = log.create_topic("t", config).unwrap().partition(0).unwrap();
    partition.append("first").unwrap();
    let flag = Arc::new(Flag(false.into()));
    let mut readable = std::pin::pin!(partition.readable(Offset(1)));
    let task = Waker::from(Arc::clone(&flag));
    assert!(readable.as_mut().poll(&mut Context::from_waker(&task)).is_pending());
    let before_sync = Arc::new(Mutex::new(None));
    let (woken, noted) = (Arc::clone(&flag), Arc::clone(&before_sync));
    // A sync looks at the clock first, an append does not.
    hook.set(move || *noted.lock() = Some(woken.0.load(std::sync::atomic::Ordering::SeqCst)));
    partition.append("second").unwrap();
    assert_eq!(*before_sync.lock(), Some(true));
}
