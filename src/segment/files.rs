//! What all segments of a log share to reach their bytes: the disk, how to read, and a limit on open maps and files.
//!
//! Each process may have about 65,000 maps, or a thousand files, and a thousand partitions have many segments. So a
//! segment is opened at its first read, and when there are too many, those that were not read for longest are dropped.
//! A reader that still borrows from one keeps it alive.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::data::SegmentData;
use crate::disk::{Disk, DiskFile, Open, read_exact_at};
use crate::error::{Error, Result};
use crate::observe::{Observer, tell};
use crate::probe;
use crate::sys::{CHUNK, Map};
use crate::types::TopicPartition;

/// How segments are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ReadPath {
    /// Through read-only maps: reads copy nothing. What the operating system has to fetch first is fetched by a call
    /// that reports a failing disk as an error; if it later drops a page and then fails to read it again, the process
    /// gets a signal.
    #[default]
    Mapped,
    /// By positional reads into memory of the result: each failure of the disk is an error, always.
    Positional,
}

/// The files of a log, as segments reach them.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) disk: Arc<dyn Disk>,
    observer: Arc<dyn Observer>,
    read_path: ReadPath,
    max_maps: usize,
    open_maps: AtomicUsize,
    /// Rises with each map made: the age of a segment's last read is told by it.
    tick: AtomicU64,
    mapped: Mutex<Vec<Weak<SegmentData>>>,
}

impl Files {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        observer: Arc<dyn Observer>,
        read_path: ReadPath,
        max_maps: usize,
    ) -> Self {
        Self {
            disk,
            observer,
            read_path,
            max_maps: max_maps.max(1),
            open_maps: AtomicUsize::new(0),
            tick: AtomicU64::new(0),
            mapped: Mutex::new(Vec::new()),
        }
    }

    /// Tells that the index at `path` was built again from its segment.
    pub(crate) fn tell_rebuilt(&self, path: PathBuf) {
        if let Some(partition) = partition_of(&path) {
            tell(&self.observer, move |observer| observer.index_rebuilt(&partition, &path));
        }
    }

    /// Tells that what the file at `path` should say was found in the batches.
    pub(crate) fn tell_state_rebuilt(&self, path: PathBuf) {
        if let Some(partition) = partition_of(&path) {
            tell(&self.observer, move |observer| observer.state_rebuilt(&partition, &path));
        }
    }

    pub(crate) fn tick(&self) -> u64 {
        self.tick.load(Ordering::Relaxed)
    }

    pub(crate) fn open_maps(&self) -> usize {
        self.open_maps.load(Ordering::Relaxed)
    }

    /// Opens a view of the file at `path` that may grow to `capacity`, and whose first `cold` bytes were there
    /// before this process wrote any.
    pub(crate) fn view(&self, path: &Path, capacity: u64, cold: u64) -> Result<View> {
        let file = self.disk.open(path, Open::Read).map_err(Error::io("open", path))?;
        if self.read_path == ReadPath::Positional {
            self.tick.fetch_add(1, Ordering::Relaxed);
            return Ok(View::File(file));
        }
        let capacity = usize::try_from(capacity).map_err(|_| Error::Unsupported { what: "a map of this length" })?;
        let mut map = file.map(capacity).map_err(Error::io("map", path))?;
        map.expect_cold(cold as usize);
        // All of it, or what is fetched of its last piece would end where the first read does.
        map.raise(cold as usize);
        self.tick.fetch_add(1, Ordering::Relaxed);
        Ok(View::Map(Arc::new(map)))
    }

    /// Notes that `segment` now holds a map, or an open file, and makes the one read longest ago drop its own if there
    /// are too many.
    pub(crate) fn note_mapped(&self, segment: &Arc<SegmentData>) {
        let mut mapped = self.mapped.lock();
        mapped.push(Arc::downgrade(segment));
        if self.open_maps.fetch_add(1, Ordering::Relaxed) < self.max_maps {
            return;
        }
        probe::reached("files.too_many_maps");
        let mut live: Vec<Arc<SegmentData>> = mapped.iter().filter_map(Weak::upgrade).collect();
        // Ages change while this sorts: each is looked at once.
        live.sort_by_cached_key(|other| other.last_used());
        // A tenth at once, so that a scan over more segments than maps does not sort the list for each.
        let excess = (self.max_maps / 10).max(live.len().saturating_sub(self.max_maps));
        let dropped = live.iter().filter(|other| !Arc::ptr_eq(other, segment)).take(excess);
        dropped.for_each(|other| other.drop_view());
        mapped.retain(|other| other.upgrade().is_some_and(|other| other.has_view()));
    }

    pub(crate) fn note_unmapped(&self) {
        self.open_maps.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The directory of a partition, as its segments share it.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) files: Arc<Files>,
    pub(crate) dir: PathBuf,
    is_left: AtomicBool,
}

impl Home {
    pub(crate) fn new(files: &Arc<Files>, dir: &Path) -> Arc<Self> {
        Arc::new(Self { files: Arc::clone(files), dir: dir.to_owned(), is_left: AtomicBool::new(false) })
    }

    /// From now on the files may be somebody else's: the log was closed, or the topic deleted.
    pub(crate) fn leave(&self) {
        self.is_left.store(true, Ordering::SeqCst);
    }

    /// Whether what was just opened by its name is ours. Asked after the opening: whoever takes the names over does it
    /// after the directory was left.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_left.load(Ordering::SeqCst) { Err(Error::Closed) } else { Ok(()) }
    }
}

/// The partition of a file: its directory is named after it.
fn partition_of(path: &Path) -> Option<TopicPartition> {
    let dir = path.parent()?.file_name()?.to_str()?;
    TopicPartition::from_dir_name(dir)
}

/// An open way to the bytes of one segment file, at a path that its errors name. Cheap to clone; keeps the file's bytes
/// alive.
#[derive(Debug, Clone)]
pub(crate) enum View {
    Map(Arc<Map>),
    File(Arc<dyn DiskFile>),
}

impl View {
    /// How far the view reaches.
    pub(crate) fn capacity(&self) -> u64 {
        match self {
            Self::Map(map) => map.capacity() as u64,
            Self::File(_) => u64::MAX,
        }
    }

    /// The bytes of `range`, all of which the caller knows to be published: borrowed from the map, or read.
    pub(crate) fn bytes(self, range: Range<u64>, path: &Path) -> Result<Bytes> {
        let (from, len) = (range.start as usize, (range.end - range.start) as usize);
        match self {
            Self::Map(map) => {
                show(&map, &range, path)?;
                Ok(Bytes(Held::Mapped { map, from, len }))
            }
            Self::File(file) => {
                let mut bytes = vec![0; len];
                read(&*file, &mut bytes, range.start, path)?;
                Ok(Bytes(Held::Owned { bytes: bytes.into(), from: 0, len }))
            }
        }
    }

    /// Published bytes from `from` on: at least `len`, and below `limit` as many as are fetched with them anyway. With
    /// no map they are read into `copied`, which has room for `len`.
    pub(crate) fn window<'w>(
        &'w self,
        from: u64,
        len: usize,
        limit: u64,
        copied: &'w mut [u8],
        path: &Path,
    ) -> Result<&'w [u8]> {
        let end = from + len as u64;
        match self {
            Self::Map(map) => {
                let end = end.next_multiple_of(CHUNK as u64).min(limit).max(end);
                show(map, &(from..end), path)?;
                Ok(&map.readable()[from as usize..end as usize])
            }
            Self::File(file) => {
                read(&**file, &mut copied[..len], from, path)?;
                Ok(&copied[..len])
            }
        }
    }
}

fn show(map: &Map, range: &Range<u64>, path: &Path) -> Result<()> {
    if map.readable().len() < range.end as usize {
        map.raise(range.end as usize);
    }
    let len = (range.end - range.start) as usize;
    map.populate(range.start as usize, len).map_err(Error::io("read", path))
}

fn read(file: &dyn DiskFile, into: &mut [u8], position: u64, path: &Path) -> Result<()> {
    read_exact_at(file, into, position).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::corrupt(path, position, "the file ends here"),
        _ => Error::io("read", path)(error),
    })
}

/// Bytes of a segment that stay as they are for as long as this lives.
#[derive(Debug, Clone)]
pub(crate) struct Bytes(Held);

#[derive(Debug, Clone)]
enum Held {
    Mapped { map: Arc<Map>, from: usize, len: usize },
    Owned { bytes: Arc<[u8]>, from: usize, len: usize },
}

impl Bytes {
    pub(crate) fn empty() -> Self {
        Self(Held::Owned { bytes: Arc::default(), from: 0, len: 0 })
    }

    /// A copy.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(Held::Owned { bytes: bytes.into(), from: 0, len: bytes.len() })
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Held::Mapped { map, from, len } => &map.readable()[*from..from + len],
            Held::Owned { bytes, from, len } => &bytes[*from..from + len],
        }
    }

    /// The same bytes, less all after the first `len`.
    pub(crate) fn truncated(mut self, to: usize) -> Self {
        let (Held::Mapped { len, .. } | Held::Owned { len, .. }) = &mut self.0;
        *len = to.min(*len);
        self
    }

    /// Leaves the first `count` out.
    pub(crate) fn skip(&mut self, count: usize) {
        let (Held::Mapped { from, len, .. } | Held::Owned { from, len, .. }) = &mut self.0;
        let count = count.min(*len);
        (*from, *len) = (*from + count, *len - count);
    }
}
