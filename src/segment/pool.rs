//! The arena of a log and its slots: which are free, which are in whose hand, and what a process before left in them.
//!
//! The file is made when the first small append wants a slot, and its space is taken slot by slot, by calls that report
//! a full disk as an error. It is never synced. After a kill, the next process replays it, and goes on with it; after
//! anything else (a restart, a copy, an orderly close) nobody looks at it, and a new one takes its place.
//!
//! Invariants:
//! - An arena is replayed if and only if it is this log's, of this boot, and the very file its header speaks of.
//! - One that was not replayed is never stored to.
//! - A slot that holds acknowledged records is handed to their partition only, or kept.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::staging::{Left, Staged};
use crate::disk::marks::{ArenaHeader, Lap};
use crate::disk::{Arena, BootId, Disk, DiskFile, FileId, Open, read_exact_at, write_all_at};
use crate::error::{Error, Result};
use crate::probe;
use crate::sys::{Flag, Slot};
use crate::types::TopicId;

/// A partition, by the id of its topic.
pub(crate) type Key = (TopicId, u32);

/// How an arena is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) slot_len: u32,
    pub(crate) slot_count: u32,
    /// The length at which an open batch is sealed.
    pub(crate) batch_len: u32,
    /// What the positions in a segment are multiples of that full laps end at, or a little before: the system takes
    /// what is written from one to the next in one piece, and many small pieces otherwise.
    pub(crate) stride: u32,
}

impl Layout {
    /// A slot is longer than a stride, by what a lap may end before one.
    pub(crate) const DEFAULT: Self =
        Self { slot_len: 144 << 10, slot_count: 1_024, batch_len: 16 << 10, stride: 128 << 10 };

    /// How long a lap may become that begins at `position` in the segment and holds at least `len` bytes: up to the
    /// last multiple of the stride that a slot with room for `capacity` bytes reaches.
    pub(crate) fn lap_len(&self, position: u64, len: usize, capacity: usize) -> usize {
        let last = position + capacity as u64;
        let aligned = (last - last % u64::from(self.stride.max(1))).saturating_sub(position) as usize;
        if aligned < len { capacity } else { aligned }
    }

    /// How many zeros behind `position`, where the batches of a full lap end, are written with them, up to a multiple
    /// of the stride: what comes next then begins at one.
    pub(crate) fn zeros_behind(&self, position: u64) -> usize {
        let missing = position.next_multiple_of(u64::from(self.stride.max(1))) - position;
        if missing <= u64::from(self.batch_len) { missing as usize } else { 0 }
    }
}

/// The slots of a log.
#[derive(Debug)]
pub(crate) struct Pool {
    path: PathBuf,
    log: [u8; 16],
    boot: Option<BootId>,
    layout: Layout,
    /// Why no slots are handed out, if none are.
    refused: Option<&'static str>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The file in use, held so that its name can be told from another's.
    file: Option<Arc<dyn DiskFile>>,
    /// Empty, and populated. The partition is the one whose header still stands in it, and vouches for its file.
    free: Vec<(Option<Key>, Slot)>,
    /// Never used: their space is still to be taken.
    fresh: VecDeque<(u64, Slot)>,
    /// What a process before left, until its partition takes it.
    left: BTreeMap<Key, Left>,
    /// Laps whose bytes are all in the file: they only tell how far the file was written.
    laps: BTreeMap<Key, Lap>,
    /// The flags of all slots that are left, or in a hand.
    flags: BTreeMap<Key, Flag>,
    /// Slots that hold something which does not say whose it is: kept as they are.
    strange: Vec<Slot>,
    /// Slots of topics that are being deleted.
    doomed: Vec<(TopicId, Slot)>,
    /// In the hands of partitions.
    held: BTreeSet<Key>,
    /// Rises with each slot handed out.
    laps_begun: u64,
    /// Whether the file that has the name is damaged, and of a killed process: it is put aside, not removed.
    is_kept: bool,
    /// Whether this system has no call to bring in pages ahead.
    is_unsupported: bool,
    /// How many more are refused before another one is tried: there was no space.
    pause: u32,
}

/// What a pool is made with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) log: [u8; 16],
    pub(crate) boot: Option<BootId>,
    pub(crate) layout: Layout,
    pub(crate) refused: Option<&'static str>,
    /// Whether the log is only read: then what was left is copied, and the file is let be.
    pub(crate) read_only: bool,
}

impl Pool {
    /// A pool that knows of no arena.
    pub(crate) fn new(path: PathBuf, origin: Origin) -> Self {
        let Origin { log, boot, layout, refused, read_only } = origin;
        let refused = match boot {
            _ if read_only => Some("the log is read-only"),
            None => Some("the boot of this machine is not known"),
            Some(_) => refused,
        };
        Self { path, log, boot, layout, refused, state: Mutex::default() }
    }

    /// As [`new`](Self::new), and replays what a killed process left. The caller knows that the log was not closed in
    /// order. `named` is the arena that process used, as far as it said so.
    ///
    /// The pool comes with what is to be reported, if anything is: an arena that is missing or damaged, slots of nobody.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if a call failed, or the arena is a newer version's: what is staged there must not be taken for lost.
    pub(crate) fn replay(
        disk: &dyn Disk,
        path: PathBuf,
        origin: Origin,
        named: Option<FileId>,
    ) -> Result<(Self, Option<Error>)> {
        let pool = Self::new(path, origin);
        let found = pool.find(disk, named, origin.read_only);
        let taken = match found {
            Ok(Some((file, header))) => pool.take_over(&file, header, origin.read_only),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        match taken {
            Ok(()) => Ok((pool, None)),
            Err(damage @ Error::Corrupt(_)) => Ok((pool, Some(damage))),
            Err(error) => Err(error),
        }
    }

    /// The arena of the process before, if this is its file and boot.
    fn find(
        &self,
        disk: &dyn Disk,
        named: Option<FileId>,
        read_only: bool,
    ) -> Result<Option<(Arc<dyn DiskFile>, ArenaHeader)>> {
        let missing = |reason: &str| {
            probe::reached("staging.missing");
            Error::corrupt(&self.path, 0, reason)
        };
        // Whatever stands in the place of one that is missed is kept.
        let damaged = |reason: &str| {
            self.state.lock().is_kept = true;
            missing(reason)
        };
        let file = match disk.open(&self.path, if read_only { Open::Read } else { Open::Write }) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return match named {
                    Some(_) => Err(missing("a process was killed with records in this file, and it is gone")),
                    None => Ok(None),
                };
            }
            opened => opened.map_err(Error::io("open", &*self.path))?,
        };
        let found = file.metadata().map_err(Error::io("describe", &*self.path))?;
        let mut head = vec![0; ArenaHeader::LEN.min(found.len as usize)];
        read_exact_at(&*file, &mut head, 0).map_err(Error::io("read", &*self.path))?;
        let header = ArenaHeader::decode(&head).map_err(|version| Error::NewerVersion {
            path: self.path.clone(),
            found: version.0,
            supported: crate::disk::marks::VERSION,
        })?;
        let is_ours = header.is_some_and(|header| {
            let is_of_boot = self.boot == Some(header.boot) || probe::planted("staging.other_boot_replayed");
            let is_this_file = header.file == found.id || probe::planted("staging.copy_replayed");
            header.log == self.log && is_of_boot && is_this_file
        });
        let Some(header) = header.filter(|_| is_ours) else {
            probe::reached("staging.not_ours");
            return match named {
                Some(named) if named == found.id => Err(damaged("its header does not verify")),
                Some(_) => Err(damaged("this is not the file that a killed process had records in")),
                None => Ok(None),
            };
        };
        let len = ArenaHeader::LEN as u64 + u64::from(header.slot_len) * u64::from(header.slot_count);
        let is_laid_out = (header.slot_len as usize).is_multiple_of(Slot::ALIGN)
            && header.slot_len as usize > Staged::BATCHES_AT
            && header.slot_len <= MAX_SLOT_LEN
            && header.slot_count <= MAX_SLOTS;
        if !is_laid_out || found.len < len {
            return Err(damaged("it is shorter than its header says"));
        }
        Ok(Some((file, header)))
    }

    fn take_over(&self, file: &Arc<dyn DiskFile>, header: ArenaHeader, read_only: bool) -> Result<()> {
        probe::reached("staging.replayed");
        let slot_len = header.slot_len as usize;
        let len = ArenaHeader::LEN + slot_len * header.slot_count as usize;
        let io = |action| Error::io(action, &*self.path);
        let used = self.used(&**file, header).map_err(io("read"))?;
        let slots: Vec<Slot> = if read_only {
            let copies = (0..used).map(|number| copy_slot(&**file, ArenaHeader::LEN + slot_len * number, slot_len));
            copies.collect::<io::Result<_>>().map_err(io("copy"))?
        } else {
            file.share(len).map_err(io("map"))?.into_slots(ArenaHeader::LEN, slot_len).collect()
        };
        // Before any is taken for what it holds: all of them can be touched, or none is.
        slots.iter().take(used).try_for_each(Slot::populate).map_err(io("read"))?;
        let mut state = self.state.lock();
        if !read_only {
            state.file = Some(Arc::clone(file));
        }
        for (number, slot) in slots.into_iter().enumerate() {
            match number < used {
                true => state.sort_in(slot),
                false => state.fresh.push_back((number as u64, slot)),
            }
        }
        match state.strange.len() {
            0 => Ok(()),
            count => Err(Error::corrupt(&self.path, 0, format!("{count} slots hold records of nobody knows whom"))),
        }
    }

    /// How many slots were ever used: space was taken for them, in order.
    fn used(&self, file: &dyn DiskFile, header: ArenaHeader) -> io::Result<usize> {
        let at = |number: u32| ArenaHeader::LEN as u64 + u64::from(header.slot_len) * u64::from(number);
        let mut used = 0;
        for number in 0..header.slot_count {
            let mut head = [0; Staged::BATCHES_AT];
            match file.next_data(at(number))? {
                Some(next) if next < at(number) + head.len() as u64 => {}
                Some(_) => continue,
                None => break,
            }
            read_exact_at(file, &mut head, at(number))?;
            if head.iter().any(|byte| *byte != 0) {
                used = number as usize + 1;
            }
        }
        Ok(used)
    }

    /// What a process before staged of a partition.
    pub(crate) fn with_left<R>(&self, key: Key, look: impl FnOnce(&Left) -> R) -> Option<R> {
        self.state.lock().left.get(&key).map(look)
    }

    /// Up to where a slot says the file of a partition was written, with no I/O error since.
    pub(crate) fn lap(&self, key: Key) -> Option<Lap> {
        let state = self.state.lock();
        let left = state.left.get(&key).filter(|_| state.flags.get(&key).is_some_and(|flag| !flag.is_set()));
        left.map(|left| left.lap).or_else(|| state.laps.get(&key).copied())
    }

    /// Whether an I/O error came since the slot of a partition was begun: then its lap does not vouch for the file.
    pub(crate) fn is_void(&self, key: Key) -> bool {
        self.state.lock().flags.get(&key).is_some_and(Flag::is_set)
    }

    /// Hands out what was left, to the partition it is of.
    pub(crate) fn take_left(&self, key: Key) -> Option<Left> {
        let mut state = self.state.lock();
        let left = state.left.remove(&key)?;
        state.held.insert(key);
        Some(left)
    }

    /// Keeps what was left for another try.
    pub(crate) fn put_back(&self, key: Key, left: Left) {
        let mut state = self.state.lock();
        state.held.remove(&key);
        state.left.insert(key, left);
    }

    /// Why no slots are handed out.
    #[inline]
    pub(crate) fn refused(&self) -> Option<&'static str> {
        self.refused
    }

    /// The same, also if that turned out when the first slot was asked for.
    pub(crate) fn why_not(&self) -> Option<&'static str> {
        self.refused.or_else(|| self.state.lock().is_unsupported.then_some("the system cannot bring in pages ahead"))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes back a slot whose records were put aside.
    pub(crate) fn discard(&self, key: Key, left: Left) {
        let mut state = self.state.lock();
        state.flags.remove(&key);
        state.held.remove(&key);
        state.free_up(left.into_slot());
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// How many slots are in use.
    pub(crate) fn in_use(&self) -> usize {
        let state = self.state.lock();
        state.held.len() + state.left.len() + state.strange.len() + state.doomed.len()
    }

    /// An empty slot for a partition, if there is one. `named` is told of an arena that is made for it.
    pub(crate) fn take(&self, disk: &dyn Disk, key: Key, named: impl FnOnce(FileId)) -> Option<Staged> {
        if self.refused.is_some() {
            return None;
        }
        let mut state = self.state.lock();
        if state.is_unsupported || state.left.contains_key(&key) {
            return None;
        }
        if state.pause > 0 {
            state.pause -= 1;
            return None;
        }
        if state.file.is_none() {
            match self.create(disk, &mut state) {
                Ok(id) => named(id),
                Err(error) => {
                    state.is_unsupported = error.kind() == io::ErrorKind::Unsupported;
                    probe::reached("staging.no_arena");
                    state.pause = PAUSE;
                    return None;
                }
            }
        }
        // Its own first: an older lap of it must not go on to speak for its file, whatever comes of the new one.
        let own = state.free.iter().position(|(owner, _)| *owner == Some(key));
        let free = own.map(|at| state.free.swap_remove(at)).or_else(|| state.free.pop());
        let slot = match free {
            Some((owner, mut slot)) => {
                if let Some(owner) = owner.filter(|owner| *owner != key) {
                    // Before the flag goes, which may be what kept that header from being believed.
                    slot.fill(Slot::BYTES_AT, Lap::LEN, |bytes| bytes.fill(0));
                    if !state.left.contains_key(&owner) {
                        state.flags.remove(&owner);
                    }
                }
                slot
            }
            None => match state.populate_next() {
                Ok(Some(slot)) => slot,
                Ok(None) => {
                    probe::reached("staging.no_slot");
                    return None;
                }
                Err(error) => {
                    state.is_unsupported = error.kind() == io::ErrorKind::Unsupported;
                    probe::reached("staging.no_space");
                    state.pause = PAUSE;
                    return None;
                }
            },
        };
        let flag = slot.flag();
        flag.set(false);
        state.flags.insert(key, flag);
        state.held.insert(key);
        state.laps_begun += 1;
        Some(Staged::new(slot, state.laps_begun << 32))
    }

    /// Takes back an empty slot.
    pub(crate) fn give(&self, key: Key, staged: Staged) {
        debug_assert!(staged.is_empty());
        let mut staged = staged;
        staged.clear();
        let mut slot = staged.into_slot();
        let mut state = self.state.lock();
        // Its header speaks of a partition that may get another slot, or fail.
        slot.fill(Slot::BYTES_AT, Lap::LEN, |bytes| bytes.fill(0));
        state.flags.remove(&key);
        state.held.remove(&key);
        state.free.push((None, slot));
    }

    /// Keeps the slot of a partition that is being deleted, until its files are gone.
    pub(crate) fn doom(&self, key: Key, staged: Staged) {
        let mut state = self.state.lock();
        state.held.remove(&key);
        state.doomed.push((key.0, staged.into_slot()));
    }

    /// Frees whatever slots a topic has: it is gone.
    pub(crate) fn release(&self, topic: TopicId) {
        if probe::planted("staging.slot_of_deleted_topic_kept") {
            return;
        }
        let mut state = self.state.lock();
        let keys: Vec<Key> = state.left.keys().filter(|key| key.0 == topic).copied().collect();
        for key in keys {
            if let Some(left) = state.left.remove(&key) {
                probe::reached("staging.released");
                state.free_up(left.into_slot());
            }
        }
        let doomed = std::mem::take(&mut state.doomed);
        for (of, mut slot) in doomed {
            match of == topic {
                true => {
                    probe::reached("staging.released");
                    slot.set_word(0);
                    state.free_up(slot);
                }
                false => state.doomed.push((of, slot)),
            }
        }
        state.flags.retain(|key, _| key.0 != topic);
        state.laps.retain(|key, _| key.0 != topic);
    }

    /// Lets no lap vouch for a partition's file any more: an I/O error came, and what it says may be dropped.
    pub(crate) fn void(&self, key: Key) {
        if let Some(flag) = self.state.lock().flags.get(&key) {
            flag.set(true);
        }
    }

    /// Lets the lap that is begun vouch for the partition's file again: what it says was read after the error.
    pub(crate) fn vouch(&self, key: Key) {
        if let Some(flag) = self.state.lock().flags.get(&key).filter(|flag| flag.is_set()) {
            flag.set(false);
        }
    }

    /// Whether nothing is staged, by anybody.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_use() == 0
    }

    /// The partitions of which something was left that nobody has taken.
    pub(crate) fn left_keys(&self) -> Vec<Key> {
        self.state.lock().left.keys().copied().collect()
    }

    /// Removes the arena. Nothing is staged any more, and nothing will be.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; it is in nobody's way.
    pub(crate) fn remove(&self, disk: &dyn Disk) -> Result<()> {
        let mut state = self.state.lock();
        let is_kept = state.is_kept;
        *state = State::default();
        if is_kept {
            return self.put_aside(disk).map_err(Error::io("rename", &*self.path));
        }
        match disk.remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &*self.path)(error)),
            _ => Ok(()),
        }
    }

    /// Gives a damaged arena another name.
    fn put_aside(&self, disk: &dyn Disk) -> io::Result<()> {
        probe::reached("staging.put_aside");
        for number in 0..u32::MAX {
            let aside = with_suffix(&self.path, &if number == 0 { "cut".into() } else { format!("{number}.cut") });
            match disk.metadata(&aside) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return disk.rename(&self.path, &aside),
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Makes a new arena, in place of whatever is there. Its name comes last.
    fn create(&self, disk: &dyn Disk, state: &mut State) -> io::Result<FileId> {
        let boot = self.boot.ok_or(io::ErrorKind::Unsupported)?;
        if probe::planted("staging.arena_reused")
            && let Ok(file) = disk.open(&self.path, Open::Write)
        {
            return self.reuse(file, boot, state);
        }
        if state.is_kept {
            self.put_aside(disk)?;
            state.is_kept = false;
        }
        let made = with_suffix(&self.path, "tmp");
        let _ = disk.remove_file(&made);
        let file = disk.open(&made, Open::CreateNew)?;
        let created = self.fill_new(&file, boot, state).and_then(|id| {
            disk.rename(&made, &self.path)?;
            Ok(id)
        });
        if created.is_err() {
            let (laps_begun, laps) = (state.laps_begun, std::mem::take(&mut state.laps));
            *state = State { laps_begun, laps, ..State::default() };
            let _ = disk.remove_file(&made);
        }
        created
    }

    fn fill_new(&self, file: &Arc<dyn DiskFile>, boot: BootId, state: &mut State) -> io::Result<FileId> {
        let Layout { slot_len, slot_count, .. } = self.layout;
        let len = ArenaHeader::LEN as u64 + u64::from(slot_len) * u64::from(slot_count);
        file.set_len(len)?;
        let id = file.metadata()?.id;
        let arena = file.share(len as usize)?;
        state.file = Some(Arc::clone(file));
        let slots = arena.into_slots(ArenaHeader::LEN, slot_len as usize);
        state.fresh = slots.enumerate().map(|(number, slot)| (number as u64, slot)).collect();
        if let Some(first) = state.populate_next()? {
            state.free.push((None, first));
        }
        let header = ArenaHeader { log: self.log, boot, file: id, slot_len, slot_count };
        write_all_at(&**file, &header.encode(), 0)?;
        Ok(id)
    }

    /// Takes what is there for its own. Nothing right does that: see the planted mistake.
    fn reuse(&self, file: Arc<dyn DiskFile>, boot: BootId, state: &mut State) -> io::Result<FileId> {
        let Layout { slot_len, slot_count, .. } = self.layout;
        let id = file.metadata()?.id;
        let header = ArenaHeader { log: self.log, boot, file: id, slot_len, slot_count };
        write_all_at(&*file, &header.encode(), 0)?;
        let arena = file.share(ArenaHeader::LEN + slot_len as usize * slot_count as usize)?;
        state.free = arena.into_slots(ArenaHeader::LEN, slot_len as usize).map(|slot| (None, slot)).collect();
        state.file = Some(file);
        Ok(id)
    }
}

impl State {
    /// Finds out what a slot of an arena that was in use holds.
    fn sort_in(&mut self, slot: Slot) {
        let lap = Left::lap_of(&slot);
        let key = lap.map(|lap| (lap.topic, lap.partition));
        let is_empty = Left::is_empty(&slot);
        match (lap, key) {
            (Some(lap), Some(key)) if !is_empty && !self.left.contains_key(&key) => {
                self.flags.insert(key, slot.flag());
                self.left.insert(key, Left::new(slot, lap));
            }
            (Some(lap), Some(key)) if is_empty => {
                if slot.flag().is_set() {
                    return self.free_up(slot);
                }
                self.laps.insert(key, lap);
                self.flags.entry(key).or_insert_with(|| slot.flag());
                self.free.push((Some(key), slot));
            }
            _ if slot.word() == 0 => self.free_up(slot),
            _ => {
                probe::reached("staging.strange_slot");
                self.strange.push(slot);
            }
        }
    }

    fn free_up(&mut self, mut slot: Slot) {
        slot.fill(Slot::BYTES_AT, Lap::LEN, |bytes| bytes.fill(0));
        self.free.push((None, slot));
    }

    /// Takes the space of the next slot that was never used: zeros first, then its pages, each by a call that may fail.
    fn populate_next(&mut self) -> io::Result<Option<Slot>> {
        let (Some((number, slot)), Some(file)) = (self.fresh.front(), &self.file) else { return Ok(None) };
        let zeros = vec![0; slot.len()];
        write_all_at(&**file, &zeros, ArenaHeader::LEN as u64 + number * slot.len() as u64)?;
        slot.populate()?;
        Ok(self.fresh.pop_front().map(|(_, slot)| slot))
    }
}

/// A slot in memory of its own, as far as something is staged in the one at `at`, whose length is `slot_len`.
fn copy_slot(file: &dyn DiskFile, at: usize, slot_len: usize) -> io::Result<Slot> {
    let mut head = [0; Staged::BATCHES_AT];
    read_exact_at(file, &mut head, at as u64)?;
    let staged = Left::staged_len(&head).min(slot_len - head.len());
    let mut bytes = vec![0; head.len() + staged];
    read_exact_at(file, &mut bytes, at as u64)?;
    let len = bytes.len().next_multiple_of(Slot::ALIGN);
    let mut slots = Arena::in_memory(&bytes, len)?.into_slots(0, len);
    slots.next().ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// After a failure, so many small appends go without a slot before another one is asked for.
const PAUSE: u32 = if cfg!(any(test, feature = "sim")) { 4 } else { 1_000 };
/// More or longer ones are none of ours.
const MAX_SLOTS: u32 = 65_536;
const MAX_SLOT_LEN: u32 = 1 << 24;

#[cfg(all(test, feature = "sim"))]
mod tests;
