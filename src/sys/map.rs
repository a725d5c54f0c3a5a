//! A read-only mapping of a file, and the prefix of it that may be read.
//!
//! Base and capacity are fixed when it is made, and the capacity may reach past the end of the file: touching a
//! page there would be a signal, so the map shows only what its bound was raised to.

use std::fs::File;
use std::io;
use std::slice;
use std::sync::Arc;
#[cfg(any(test, feature = "sim"))]
use std::sync::Weak;

use memmap2::{MmapOptions, MmapRaw};

use super::shim::{AtomicU64, AtomicUsize, Mutex, Ordering, Witness, ordering};

/// A read-only view of a file that may still be growing. See [`DiskFile::map`](crate::disk::DiskFile::map).
#[derive(Debug)]
pub struct Map {
    bytes: Bytes,
    bound: AtomicUsize,
    /// One bit a chunk that this process did not write and has not asked the system to fetch yet.
    cold: Box<[AtomicU64]>,
}

/// What is fetched at once, before it is first touched.
pub(crate) const CHUNK: usize = 1 << 20;

#[derive(Debug)]
enum Bytes {
    File(MmapRaw),
    Empty,
    #[cfg_attr(not(any(test, feature = "sim")), expect(dead_code, reason = "only disks that are not real make it"))]
    Heap {
        heap: Arc<Heap>,
        /// Held, never read: by it the writer sees whether the map lives.
        _shown: Arc<()>,
    },
}

impl Map {
    /// Maps the first `capacity` bytes of `file`, of which none may be read yet.
    ///
    /// # Errors
    ///
    /// The operating system's, for want of address space or of a descriptor that may be mapped.
    pub fn of_file(file: &File, capacity: usize) -> io::Result<Self> {
        let bytes = match capacity {
            0 => Bytes::Empty,
            _ => Bytes::File(MmapOptions::new().len(capacity).map_raw_read_only(file)?),
        };
        Ok(Self { bytes, bound: AtomicUsize::new(0), cold: Box::default() })
    }

    /// Memory in place of a file, and the one handle that writes it. For disks that are not real.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn in_memory(capacity: usize) -> (Self, MapWriter) {
        let heap = Arc::new(Heap::new(capacity));
        let shown = Arc::new(());
        let writer = MapWriter { heap: Arc::clone(&heap), shown: Arc::downgrade(&shown) };
        (
            Self { bytes: Bytes::Heap { heap, _shown: shown }, bound: AtomicUsize::new(0), cold: Box::default() },
            writer,
        )
    }

    /// How many bytes the map has room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        match &self.bytes {
            Bytes::File(map) => map.len(),
            Bytes::Empty => 0,
            Bytes::Heap { heap, .. } => heap.capacity,
        }
    }

    /// Lets the first `bound` bytes be read. A lower bound than before changes nothing.
    ///
    /// The caller vouches that these bytes are in the file and will not change while it is mapped.
    pub(crate) fn raise(&self, bound: usize) {
        assert!(bound <= self.capacity(), "bound {bound} is past the capacity {} of the map", self.capacity());
        match &self.bytes {
            Bytes::Heap { heap, .. } => {
                let mut highest = heap.writing.lock();
                *highest = (*highest).max(bound);
                self.publish(bound);
            }
            Bytes::File(_) | Bytes::Empty => self.publish(bound),
        }
    }

    fn publish(&self, bound: usize) {
        self.bound.fetch_max(bound, ordering("map.publish", Ordering::Release));
    }

    /// Says that the first `len` bytes may not be in memory yet: [`populate`](Self::populate) then fetches them.
    pub(crate) fn expect_cold(&mut self, len: usize) {
        let words = len.div_ceil(CHUNK * 64);
        self.cold = (0..words).map(|_| AtomicU64::new(u64::MAX)).collect();
    }

    /// Fetches what is cold in a range by a call that reports a failing disk as an error. Touching such a page
    /// without this would be a signal. Costs a few instructions once a range is warm.
    pub(crate) fn populate(&self, from: usize, len: usize) -> io::Result<()> {
        if self.cold.is_empty() || len == 0 {
            return Ok(());
        }
        for chunk in from / CHUNK..=(from + len - 1) / CHUNK {
            let Some(word) = self.cold.get(chunk / 64) else { break };
            let bit = 1 << (chunk % 64);
            if word.load(Ordering::Relaxed) & bit != 0 {
                self.fetch(chunk * CHUNK)?;
                word.fetch_and(!bit, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    #[cfg(target_os = "linux")]
    fn fetch(&self, from: usize) -> io::Result<()> {
        use rustix::mm::{Advice, madvise};
        let Bytes::File(map) = &self.bytes else { return Ok(()) };
        let len = CHUNK.min(self.bound.load(Ordering::Acquire).saturating_sub(from));
        if len == 0 {
            return Ok(());
        }
        // SAFETY: the range is inside the mapping (`from + len <= bound <= capacity`), which starts at a page, as
        // does `from`; this advice reads pages in and changes nothing.
        match unsafe { madvise(map.as_mut_ptr().add(from).cast(), len, Advice::LinuxPopulateRead) } {
            // A kernel before 5.14 does not know the advice: pages then come as they are touched.
            Err(rustix::io::Errno::INVAL) => Ok(()),
            // The fault a touch would have been.
            Err(rustix::io::Errno::FAULT) => Err(io::Error::other("the disk could not read this range")),
            done => Ok(done?),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn fetch(&self, _from: usize) -> io::Result<()> {
        Ok(())
    }

    /// Everything that may be read so far.
    pub(crate) fn readable(&self) -> &[u8] {
        let bound = self.bound.load(ordering("map.read", Ordering::Acquire));
        let base: *const u8 = match &self.bytes {
            Bytes::File(map) => map.as_ptr(),
            Bytes::Empty => return &[],
            Bytes::Heap { heap, .. } => {
                heap.witness.read(0..bound);
                heap.base
            }
        };
        // SAFETY:
        // - `base` points to `capacity` bytes that `self` keeps mapped or allocated, and `bound <= capacity`: `raise`
        //   asserts it before the only store.
        // - The bytes were there before the Release store that this Acquire load observed: `segment` raises the
        //   bound after its positional write returned; `MapWriter::write` refuses to go below it.
        // - Nobody writes them again, and the file is not shortened below them, as the module's contract says.
        unsafe { slice::from_raw_parts(base, bound) }
    }
}

/// Has the processor bring `bytes` nearer, without waiting for them. Does nothing where there is no such instruction.
#[inline]
pub(crate) fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(LINE) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: this instruction is part of every such processor, and changes and faults on nothing, whatever the
        // address; here it is one of `bytes`.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

/// How much of memory is brought at once.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// A raw allocation: a `Box` would assert that nobody else points to it each time it is moved.
#[derive(Debug)]
struct Heap {
    base: *mut u8,
    capacity: usize,
    /// Held while writing or raising: orders the check of the bound before the copy.
    writing: Mutex<usize>,
    witness: Witness,
}

// SAFETY: `base` is an allocation this value owns. It is written only under `writing` and only at or above every
// bound it was raised to, and read only below a bound; so no byte is read and written at once.
unsafe impl Send for Heap {}
// SAFETY: as for `Send`.
unsafe impl Sync for Heap {}

impl Heap {
    #[cfg(any(test, feature = "sim"))]
    fn new(capacity: usize) -> Self {
        let bytes: Box<[u8]> = vec![0; capacity].into_boxed_slice();
        let base = Box::into_raw(bytes).cast();
        Self { base, capacity, writing: Mutex::new(0), witness: Witness::new(capacity) }
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        let bytes = std::ptr::slice_from_raw_parts_mut(self.base, self.capacity);
        // SAFETY: `new` made exactly this slice from a `Box`, and only this `drop` takes it back; maps and writers
        // hold the `Heap` by `Arc`, so none is left.
        drop(unsafe { Box::from_raw(bytes) });
    }
}

/// The writing side of [`Map::in_memory`].
#[cfg(any(test, feature = "sim"))]
#[derive(Debug, Clone)]
pub(crate) struct MapWriter {
    heap: Arc<Heap>,
    /// Alive as long as the map: writers may be many, so counting the heap's owners would not tell.
    shown: Weak<()>,
}

#[cfg(any(test, feature = "sim"))]
impl MapWriter {
    /// Puts `bytes` at `position`, leaving out what lies past the capacity, as a map does. `false`, and nothing
    /// written, if the map's bound has passed `position` and the bytes there differ: they may be borrowed.
    pub(crate) fn write(&self, position: usize, bytes: &[u8]) -> bool {
        let highest = self.heap.writing.lock();
        let start = position.min(self.heap.capacity);
        let fits = bytes.len().min(self.heap.capacity - start);
        let below = highest.saturating_sub(start).min(fits);
        // SAFETY: `start + fits <= capacity`, so the range is inside the allocation. Bytes below the bound are never
        // written, so reading them beside borrowers is fine.
        let same = unsafe { slice::from_raw_parts(self.heap.base.add(start), below) };
        if same != &bytes[..below] {
            return false;
        }
        self.heap.witness.write(start + below..start + fits);
        // SAFETY: the range from `start + below` to `start + fits` is inside the allocation. It is empty, or begins at
        // or above every bound (`writing` is held, so none rises meanwhile), hence is borrowed by nobody.
        unsafe {
            let target = self.heap.base.add(start + below);
            target.copy_from_nonoverlapping(bytes[below..fits].as_ptr(), fits - below);
        }
        true
    }

    /// Whether a map still shows this memory.
    pub(crate) fn is_mapped(&self) -> bool {
        self.shown.strong_count() > 0
    }

    /// The highest bound the map was raised to.
    #[cfg(feature = "sim")]
    pub(crate) fn bound(&self) -> usize {
        *self.heap.writing.lock()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_map_shows_what_was_written_after_it_was_made() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"one").unwrap();
        let map = Map::of_file(&file, 1 << 20).unwrap();
        assert_eq!(map.readable(), b"");

        map.raise(3);
        let before = map.readable();
        file.write_all(b"two").unwrap();
        map.raise(6);
        assert_eq!(before, b"one");
        assert_eq!(map.readable(), b"onetwo");
        map.raise(2);
        assert_eq!(map.readable().len(), 6);
    }

    #[test]
    fn an_empty_file_can_be_mapped() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(Map::of_file(&file, 0).unwrap().readable(), b"");
    }

    #[test]
    fn a_cold_range_is_fetched_once_and_reads_the_same() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; 3 * CHUNK + 5]).unwrap();
        let mut map = Map::of_file(&file, 4 * CHUNK).unwrap();
        map.expect_cold(3 * CHUNK + 5);
        map.raise(3 * CHUNK + 5);
        map.populate(CHUNK - 1, 2).unwrap();
        assert_eq!(map.cold[0].load(Ordering::Relaxed) & 0b1111, 0b1100);
        map.populate(0, 3 * CHUNK + 5).unwrap();
        assert_eq!(map.cold[0].load(Ordering::Relaxed) & 0b1111, 0);
        assert!(map.readable().iter().all(|byte| *byte == 7));
    }

    #[test]
    fn memory_refuses_to_change_below_its_bound() {
        let (map, writer) = Map::in_memory(8);
        assert!(writer.write(0, b"abcdef"));
        map.raise(4);
        assert!(!writer.write(2, b"X"));
        assert!(writer.write(2, b"cdXY"), "equal bytes may be written again");
        assert!(writer.write(6, b"ghij"), "what lies past the capacity is left out");
        map.raise(8);
        assert_eq!(map.readable(), b"abcdXYgh");
        assert!(writer.write(20, b"far"));
    }

    #[test]
    fn memory_knows_whether_its_map_lives_however_many_write_it() {
        let (map, writer) = Map::in_memory(8);
        let other = writer.clone();
        assert!(writer.is_mapped() && other.is_mapped());
        drop(map);
        assert!(!writer.is_mapped() && !other.is_mapped());
    }

    #[test]
    #[should_panic(expected = "past the capacity")]
    fn a_bound_past_the_capacity_is_our_mistake() {
        Map::in_memory(8).0.raise(9);
    }

    #[test]
    fn slices_stay_whole_while_another_thread_writes() {
        let (map, writer) = Map::in_memory(1 << 16);
        std::thread::scope(|scope| {
            let map = &map;
            scope.spawn(move || {
                for at in 0..1 << 14 {
                    assert!(writer.write(at * 4, &(at as u32).to_be_bytes()));
                    map.raise(at * 4 + 4);
                }
            });
            while map.readable().len() < 1 << 16 {
                for (at, word) in map.readable().chunks(4).enumerate() {
                    assert_eq!(word, (at as u32).to_be_bytes());
                }
            }
        });
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use loom::thread;

    use super::super::shim::{RACE, check, must_fail};
    use super::*;

    #[test]
    fn a_reader_sees_only_finished_bytes() {
        check(one_writer_one_reader);
    }

    #[test]
    fn a_relaxed_publish_is_caught() {
        must_fail("map.publish", RACE, one_writer_one_reader);
    }

    #[test]
    fn a_relaxed_read_is_caught() {
        must_fail("map.read", RACE, one_writer_one_reader);
    }

    fn one_writer_one_reader() {
        let (map, writer) = Map::in_memory(2);
        let map = Arc::new(map);
        let shared = Arc::clone(&map);
        let writing = thread::spawn(move || {
            assert!(writer.write(0, b"a"));
            shared.raise(1);
            assert!(writer.write(1, b"b"));
            shared.raise(2);
        });
        let seen = map.readable();
        assert!(b"ab".starts_with(seen));
        assert!(map.readable().len() >= seen.len());
        writing.join().unwrap();
        assert_eq!(map.readable(), b"ab");
    }
}
