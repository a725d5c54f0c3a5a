//! Memory of a fixed capacity that one writer appends to while others read without a lock.
//!
//! Holds the index entries of an active segment. A large capacity is address space: pages come from the system, not
//! from the allocator, which hands out recycled memory and has to zero all of it. So a page costs memory when its first
//! byte is written.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use memmap2::{MmapMut, MmapRaw};

use super::shim::{AtomicUsize, Ordering, Witness, ordering};

/// The reading side: cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Region {
    memory: Arc<Memory>,
}

/// The writing side: there is one.
#[derive(Debug)]
pub(crate) struct RegionWriter {
    memory: Arc<Memory>,
    /// The writer's own copy of the bound, so that no ordering of the shared one can mislead it.
    len: usize,
}

#[derive(Debug)]
struct Memory {
    base: NonNull<u8>,
    capacity: usize,
    bound: AtomicUsize,
    witness: Witness,
    /// The pages that `base` is in; none if it is from the allocator.
    pages: Option<MmapRaw>,
}

// SAFETY: `base` is an allocation owned by this value. The one `RegionWriter` writes at or above `bound` only, and
// readers read below it only, so no byte is read and written at once.
unsafe impl Send for Memory {}
// SAFETY: as for `Send`.
unsafe impl Sync for Memory {}

impl RegionWriter {
    /// A region of `capacity` bytes, none of them written; `None` if there is no such amount of memory.
    pub(crate) fn new(capacity: usize) -> Option<Self> {
        let capacity = capacity.max(1);
        let (base, pages) = if capacity < LARGE {
            let layout = Layout::array::<u8>(capacity).ok()?;
            // SAFETY: the layout has a size above zero.
            (unsafe { alloc_zeroed(layout) }, None)
        } else {
            let pages = MmapRaw::from(MmapMut::map_anon(capacity).ok()?);
            (pages.as_mut_ptr(), Some(pages))
        };
        let (base, bound) = (NonNull::new(base)?, AtomicUsize::new(0));
        let memory = Memory { base, capacity, bound, witness: Witness::new(capacity), pages };
        Some(Self { memory: Arc::new(memory), len: 0 })
    }

    /// Appends `bytes` and lets them be read; `false`, and nothing appended, if they do not fit.
    #[must_use]
    pub(crate) fn push(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.memory.capacity - self.len {
            return false;
        }
        self.memory.witness.write(self.len..self.len + bytes.len());
        // SAFETY: the range is inside the allocation, by the check above, and at the bound, where only this one
        // writer (`&mut self`, not `Clone`) writes and nobody reads.
        unsafe { self.memory.base.as_ptr().add(self.len).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        self.len += bytes.len();
        self.memory.bound.store(self.len, ordering("region.publish", Ordering::Release));
        true
    }

    /// Has `fill` append `len` bytes in place, and lets them be read if it says so; `false` if it does not, or they do
    /// not fit. They are zeros before, or what an earlier `fill` left that said no.
    #[must_use]
    pub(crate) fn push_with(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        if len > self.memory.capacity - self.len {
            return false;
        }
        self.memory.populate(self.len, len);
        self.memory.witness.write(self.len..self.len + len);
        // SAFETY: the range is inside the allocation, by the check above, and initialized (zeroed when it was made). It
        // is at the bound, where only this one writer (`&mut self`, not `Clone`) writes and nobody reads.
        let bytes = unsafe { slice::from_raw_parts_mut(self.memory.base.as_ptr().add(self.len), len) };
        if !fill(bytes) {
            return false;
        }
        self.len += len;
        self.memory.bound.store(self.len, ordering("region.publish", Ordering::Release));
        true
    }

    /// How many bytes were appended.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How many bytes there is room for in all.
    pub(crate) fn capacity(&self) -> usize {
        self.memory.capacity
    }

    /// A reading side.
    pub(crate) fn region(&self) -> Region {
        Region { memory: Arc::clone(&self.memory) }
    }
}

impl Region {
    /// Everything appended so far.
    pub(crate) fn readable(&self) -> &[u8] {
        let bound = self.memory.bound.load(ordering("region.read", Ordering::Acquire));
        self.memory.witness.read(0..bound);
        // SAFETY:
        // - `base` points to `capacity` allocated, initialized (zeroed) bytes kept by `self`, and
        //   `bound <= capacity`: the only stores, in `push` and `push_with`, follow their checks.
        // - The bytes below were written before the Release store that this Acquire load observed, and `push` and
        //   `push_with` write at or above the bound only.
        unsafe { slice::from_raw_parts(self.memory.base.as_ptr(), bound) }
    }
}

impl Memory {
    /// Has the system bring in the pages of a long range at once; one by one, as they are touched, takes twice as long.
    #[cfg(all(target_os = "linux", not(loom)))]
    fn populate(&self, from: usize, len: usize) {
        let Some(pages) = self.pages.as_ref().filter(|_| from == 0 && len >= LARGE) else { return };
        // SAFETY: the range is at the beginning of the mapping and inside it; the advice changes no byte.
        let _ =
            unsafe { rustix::mm::madvise(pages.as_mut_ptr().cast(), len, rustix::mm::Advice::LinuxPopulateWrite) };
    }

    #[cfg(not(all(target_os = "linux", not(loom))))]
    fn populate(&self, _from: usize, _len: usize) {}
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.pages.is_none()
            && let Ok(layout) = Layout::array::<u8>(self.capacity)
        {
            // SAFETY: `RegionWriter::new` allocated `base` with this very layout; the last `Arc` is going.
            unsafe { dealloc(self.base.as_ptr(), layout) };
        }
    }
}

/// From this capacity on, memory comes as pages.
const LARGE: usize = 64 << 10;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn readers_see_what_was_pushed_and_nothing_more() {
        let mut writer = RegionWriter::new(10).unwrap();
        let region = writer.region();
        assert!(writer.push(b"12345678"));
        assert!(!writer.push(b"abc"), "it does not fit");
        assert_eq!(region.readable(), b"12345678");
        assert!(writer.push(b"ab"));
        assert_eq!((writer.len(), writer.capacity()), (10, 10));
        assert!(!writer.push_with(1, |_| true), "there is no room");
        drop(writer);
        assert_eq!(region.readable(), b"12345678ab", "a region outlives its writer");
    }

    #[test]
    fn what_is_filled_in_place_is_read_once_it_is_said_to_be_right() {
        for capacity in [LARGE / 2, LARGE * 2] {
            let mut writer = RegionWriter::new(capacity).unwrap();
            let region = writer.region();
            let fill = |bytes: &mut [u8]| bytes.fill(7);
            assert!(!writer.push_with(capacity, |bytes| {
                fill(bytes);
                false
            }));
            assert_eq!((writer.len(), region.readable().len()), (0, 0));
            assert!(writer.push_with(capacity, |bytes| {
                fill(bytes);
                true
            }));
            assert_eq!(region.readable(), vec![7; capacity]);
        }
    }

    #[test]
    fn slices_stay_whole_while_the_writer_pushes() {
        let mut writer = RegionWriter::new(1 << 18).unwrap();
        let region = writer.region();
        std::thread::scope(|scope| {
            scope.spawn(move || (0..1_u64 << 15).all(|value| writer.push(&value.to_be_bytes())));
            while region.readable().len() < 1 << 18 {
                for (at, word) in region.readable().chunks(8).enumerate() {
                    assert_eq!(word, (at as u64).to_be_bytes());
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
        must_fail("region.publish", RACE, one_writer_one_reader);
    }

    #[test]
    fn a_relaxed_read_is_caught() {
        must_fail("region.read", RACE, one_writer_one_reader);
    }

    fn one_writer_one_reader() {
        let mut writer = RegionWriter::new(3).unwrap();
        let region = writer.region();
        let pushing = thread::spawn(move || {
            assert!(writer.push(b"a"));
            assert!(writer.push(b"bc"));
        });
        let seen = region.readable();
        assert!(b"abc".starts_with(seen) && seen.len() != 2);
        assert!(region.readable().len() >= seen.len());
        pushing.join().unwrap();
        assert_eq!(region.readable(), b"abc");
    }
}
