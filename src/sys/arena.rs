//! Memory that outlives the process: a file mapped to be stored to, cut into slots of one writer each.
//!
//! ```text
//! header                  slot 0                              slot 1
//! |-- nobody stores here --|-- word --|-- flag --|-- bytes --|-- word --| ...
//! ```
//!
//! What was stored is in the system's memory of the file at once, so a process that is killed at any instruction
//! leaves behind whatever it had stored until then, and in the order of the program: between a store of the word and
//! those around it the compiler is kept from moving anything.
//!
//! Invariants:
//! - Slots do not overlap, and each is handed out once: there is one writer of its bytes and of its word.
//! - Its flag, and nothing else of it, may be stored by others too.
//! - A slot's bytes are borrowed from the slot only, so not while they are stored to.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, compiler_fence};

use memmap2::{MmapOptions, MmapRaw};

/// A file's memory that may be stored to. See [`DiskFile::share`](crate::disk::DiskFile::share).
#[derive(Debug)]
pub struct Arena {
    memory: Arc<Memory>,
}

/// A part of an arena, with one writer.
#[derive(Debug)]
pub(crate) struct Slot {
    memory: Arc<Memory>,
    from: usize,
    len: usize,
}

/// The flag of a slot, for those who do not write it.
#[derive(Debug, Clone)]
pub(crate) struct Flag {
    memory: Arc<Memory>,
    at: usize,
}

/// Is told of every store to memory that is not a file's: a kill may fall before or after it.
#[cfg(any(test, feature = "sim"))]
pub(crate) trait Stores: std::fmt::Debug + Send + Sync {
    /// These bytes are being stored at `at`. What a kill in the midst of it leaves is a part of them.
    fn store(&self, at: usize, bytes: &[u8]);
}

#[derive(Debug)]
struct Memory {
    base: NonNull<u8>,
    len: usize,
    /// The mapping that `base` is in; none if it is from the allocator.
    map: Option<MmapRaw>,
    #[cfg(any(test, feature = "sim"))]
    stores: Option<Arc<dyn Stores>>,
}

// SAFETY: `base` points to `len` bytes that this value owns. Each byte is written by at most one `Slot`, which is not
// `Clone`, through `&mut`, and read through `&` of the same slot; words and flags are only touched as atomics.
unsafe impl Send for Memory {}
// SAFETY: as for `Send`.
unsafe impl Sync for Memory {}

impl Arena {
    /// Maps the first `len` bytes of `file`, which must be that long, and must stay so: nobody may shorten or write it
    /// otherwise while it is mapped. A child of a fork does not get the mapping: two
    /// writers would be one too many.
    ///
    /// # Errors
    ///
    /// The operating system's, for want of address space or of a descriptor that may be mapped.
    pub fn of_file(file: &File, len: usize) -> io::Result<Self> {
        let map = MmapOptions::new().len(len).map_raw(file)?;
        #[cfg(target_os = "linux")]
        // SAFETY: the range is the whole mapping; this advice changes nothing in this process.
        unsafe {
            rustix::mm::madvise(map.as_mut_ptr().cast(), map.len(), rustix::mm::Advice::LinuxDontFork)?;
        }
        let base = NonNull::new(map.as_mut_ptr()).ok_or(io::ErrorKind::OutOfMemory)?;
        let memory = Memory {
            base,
            len: map.len(),
            map: Some(map),
            #[cfg(any(test, feature = "sim"))]
            stores: None,
        };
        Ok(Self { memory: Arc::new(memory) })
    }

    /// Memory of this process alone, that begins with `bytes`; zeros follow, `len` bytes in all.
    pub(crate) fn in_memory(bytes: &[u8], len: usize) -> io::Result<Self> {
        let memory = Memory::allocate(bytes, len)?;
        Ok(Self { memory: Arc::new(memory) })
    }

    /// The same, whose stores somebody is told of.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn watched(bytes: &[u8], len: usize, stores: Arc<dyn Stores>) -> io::Result<Self> {
        let mut memory = Memory::allocate(bytes, len)?;
        memory.stores = Some(stores);
        Ok(Self { memory: Arc::new(memory) })
    }

    /// Cuts everything from `from` on into slots of `slot_len` bytes. What is left over at the end is nobody's.
    ///
    /// # Panics
    ///
    /// If slots would not be aligned, or too short for their words.
    pub(crate) fn into_slots(self, from: usize, slot_len: usize) -> impl Iterator<Item = Slot> {
        assert!(slot_len.is_multiple_of(Slot::ALIGN) && from.is_multiple_of(Slot::ALIGN), "slots are aligned");
        assert!(slot_len >= Slot::BYTES_AT, "a slot holds its words");
        let count = self.memory.len.saturating_sub(from) / slot_len;
        let memory = self.memory;
        (0..count).map(move |number| Slot {
            memory: Arc::clone(&memory),
            from: from + number * slot_len,
            len: slot_len,
        })
    }
}

impl Slot {
    /// What the length of a slot is a multiple of.
    pub(crate) const ALIGN: usize = 64;
    /// Where in a slot the bytes begin that are no words.
    pub(crate) const BYTES_AT: usize = 64;
    const FLAG_AT: usize = 8;

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The word, as it was last stored.
    pub(crate) fn word(&self) -> u64 {
        self.memory.atomic(self.from).load(Ordering::Acquire)
    }

    /// Stores the word: after everything that was stored before, and before everything that is stored after.
    #[inline]
    pub(crate) fn set_word(&mut self, word: u64) {
        self.memory.store_word(self.from, word);
    }

    /// The flag, which others may store, too.
    pub(crate) fn flag(&self) -> Flag {
        Flag { memory: Arc::clone(&self.memory), at: self.from + Self::FLAG_AT }
    }

    /// Has `with` fill `len` bytes at `at`, in place.
    ///
    /// # Panics
    ///
    /// If the range is not in the slot's bytes.
    #[inline]
    pub(crate) fn fill<R>(&mut self, at: usize, len: usize, with: impl FnOnce(&mut [u8]) -> R) -> R {
        assert!(at >= Self::BYTES_AT && at <= self.len && len <= self.len - at, "a slot is filled inside its bytes");
        // SAFETY: the range is inside the slot, by the assertion, and behind its words; the slot is inside the memory
        // (`into_slots`) and its only writer is `&mut self`, from which nobody borrows meanwhile.
        let bytes = unsafe { slice::from_raw_parts_mut(self.memory.base.as_ptr().add(self.from + at), len) };
        let result = with(bytes);
        #[cfg(any(test, feature = "sim"))]
        if let Some(stores) = &self.memory.stores {
            stores.store(self.from + at, bytes);
        }
        result
    }

    /// What is in the slot's bytes.
    ///
    /// # Panics
    ///
    /// If the range is not in them.
    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        let is_inside = range.start >= Self::BYTES_AT && range.start <= range.end && range.end <= self.len;
        assert!(is_inside, "a slot is read inside its bytes");
        // SAFETY: the range is inside the slot and behind its words; its one writer needs `&mut self`, which cannot be
        // had while this borrow lives.
        unsafe { slice::from_raw_parts(self.memory.base.as_ptr().add(self.from + range.start), range.len()) }
    }

    /// Has the system bring in the slot's pages, ready to be stored to, by a call that reports as an error what a
    /// store would turn into a signal. Keeps them in memory if that is allowed.
    ///
    /// # Errors
    ///
    /// The system's; of kind `Unsupported` where it knows no such call.
    pub(crate) fn populate(&self) -> io::Result<()> {
        let Some(map) = &self.memory.map else { return Ok(()) };
        populate(map, self.from, self.len)
    }
}

#[cfg(target_os = "linux")]
fn populate(map: &MmapRaw, from: usize, len: usize) -> io::Result<()> {
    use rustix::mm::{Advice, madvise, mlock};
    // Calls take whole pages; those of the neighbours may be brought in as well.
    let start = from - from % LARGEST_PAGE;
    let len = from + len - start;
    // SAFETY: the range is inside the mapping, and begins at a page as the mapping does. This advice makes pages
    // present and writable; it does not change a byte.
    match unsafe { madvise(map.as_mut_ptr().add(start).cast(), len, Advice::LinuxPopulateWrite) } {
        Err(rustix::io::Errno::INVAL) => return Err(io::ErrorKind::Unsupported.into()),
        Err(rustix::io::Errno::FAULT) => return Err(io::Error::other("the disk could not take these pages")),
        done => done?,
    }
    // SAFETY: as above; a locked page stays in memory, that is all. Not worth failing for.
    let _ = unsafe { mlock(map.as_mut_ptr().add(start).cast(), len) };
    Ok(())
}

/// Advice begins at a page, however large pages are here; at its end the system rounds up by itself.
#[cfg(target_os = "linux")]
const LARGEST_PAGE: usize = 64 << 10;

#[cfg(not(target_os = "linux"))]
fn populate(_map: &MmapRaw, _from: usize, _len: usize) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Flag {
    pub(crate) fn is_set(&self) -> bool {
        self.memory.atomic(self.at).load(Ordering::Acquire) != 0
    }

    pub(crate) fn set(&self, is_set: bool) {
        self.memory.store_word(self.at, u64::from(is_set));
    }
}

impl Memory {
    fn allocate(bytes: &[u8], len: usize) -> io::Result<Self> {
        let len = len.max(bytes.len()).max(1);
        let layout = layout(len).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: the layout has a size above zero.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: `base` has room for `len` bytes, of which `bytes.len()` are at most all; the allocation is new.
        unsafe { base.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(Self {
            base,
            len,
            map: None,
            #[cfg(any(test, feature = "sim"))]
            stores: None,
        })
    }

    fn atomic(&self, at: usize) -> &AtomicU64 {
        // SAFETY: `at` is that of a word or flag: inside the memory (`into_slots`), aligned (a slot begins at a multiple
        // of 64 from a base that is aligned as much), and touched as an atomic only. The memory lives as long as `self`.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at).cast()) }
    }

    #[inline]
    fn store_word(&self, at: usize, word: u64) {
        self.atomic(at).store(word, Ordering::Release);
        // What comes after stays after: a kill finds the stores in the order of the program.
        compiler_fence(Ordering::SeqCst);
        #[cfg(any(test, feature = "sim"))]
        if let Some(stores) = &self.stores {
            stores.store(at, &word.to_ne_bytes());
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.map.is_none()
            && let Some(layout) = layout(self.len)
        {
            // SAFETY: `allocate` got `base` with this very layout; the last `Arc` is going.
            unsafe { dealloc(self.base.as_ptr(), layout) };
        }
    }
}

fn layout(len: usize) -> Option<Layout> {
    Layout::from_size_align(len, Slot::ALIGN).ok()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_what_was_stored_to_its_slots() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(3 * 4096).unwrap();
        let mut slots: Vec<_> = Arena::of_file(&file, 3 * 4096).unwrap().into_slots(4096, 4096).collect();
        assert_eq!(slots.len(), 2);
        match slots[1].populate() {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            populated => populated.unwrap(),
        }
        slots[1].fill(100, 4, |bytes| bytes.copy_from_slice(b"abcd"));
        slots[1].set_word(7);
        slots[1].flag().set(true);
        assert_eq!((slots[1].word(), slots[1].bytes(100..104), slots[0].word()), (7, &b"abcd"[..], 0));
        let mut found = [0; 4096];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut found, 2 * 4096).unwrap();
        assert_eq!((&found[..8], found[8], &found[100..104]), (&7_u64.to_ne_bytes()[..], 1, &b"abcd"[..]));
    }

    #[test]
    fn slots_of_plain_memory_begin_with_its_bytes() {
        let mut slots: Vec<_> = Arena::in_memory(&[9; 130], 300).unwrap().into_slots(0, 128).collect();
        assert_eq!(slots.len(), 2);
        assert_eq!(slots[0].bytes(64..128), [9; 64]);
        assert_eq!(slots[1].word(), u64::from_ne_bytes([9, 9, 0, 0, 0, 0, 0, 0]));
        slots[0].fill(64, 64, |bytes| bytes.fill(1));
        assert_eq!((slots[0].bytes(64..128), slots[1].bytes(64..66)), (&[1; 64][..], &[0; 2][..]));
    }

    #[test]
    #[should_panic(expected = "inside its bytes")]
    fn a_slot_is_not_filled_past_its_end() {
        let mut slots = Arena::in_memory(&[], 256).unwrap().into_slots(0, 128);
        slots.next().unwrap().fill(100, 29, |_| ());
    }

    #[test]
    fn whoever_watches_is_told_of_each_store() {
        #[derive(Debug, Default)]
        struct Told(parking_lot::Mutex<Vec<(usize, usize)>>);
        impl Stores for Told {
            fn store(&self, at: usize, bytes: &[u8]) {
                self.0.lock().push((at, bytes.len()));
            }
        }
        let told = Arc::new(Told::default());
        let arena = Arena::watched(&[], 256, Arc::clone(&told) as Arc<dyn Stores>).unwrap();
        let mut slot = arena.into_slots(0, 128).nth(1).unwrap();
        slot.fill(64, 10, |bytes| bytes.fill(3));
        slot.set_word(1);
        slot.flag().set(true);
        assert_eq!(*told.0.lock(), [(192, 10), (128, 8), (136, 8)]);
    }
}
