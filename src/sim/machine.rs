//! One run of a machine on a simulated volume: its handles, locks and maps, the faults that wait for it, and the
//! audit of what it does. All of it is gone after a crash or a kill.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::choice::Choice;
use super::clock::SimClock;
use super::fault::{Armed, Errno, Fault};
use super::file::File;
use super::image::Image;
use super::rng::{Rng, mix};
use super::trace::{Call, Trace};
use crate::disk::{FileId, Metadata};
use crate::sys::MapWriter;

/// A rule of the seam that was broken, by us: whatever the outcome was this time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// The rule, in a word or two.
    pub rule: &'static str,
    /// What was done to what.
    pub detail: String,
    /// The index of the call.
    pub call: u64,
}

/// The volume at one moment of a run.
#[derive(Debug, Clone)]
pub struct Moment {
    /// The index of the call that led to it.
    pub call: u64,
    /// Whether that call is still under way: it has done a part of its work. Only a kill finds that.
    pub during: bool,
    /// The volume.
    pub image: Image,
}

/// Which moments of a run to keep.
#[derive(Debug, Clone, Default)]
pub enum Record {
    /// None.
    #[default]
    Nothing,
    /// The one after each call that changed something, and one within each write.
    All,
    /// One of those, any with equal chance.
    One(Rng),
}

/// The rule that even a blind disk holds its user to.
const HANG: &str = "hang";

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) image: Image,
    pub(super) handles: BTreeMap<u64, Handle>,
    /// By inode: how many hold it together, or `u32::MAX` for one that holds it alone.
    pub(super) locks: BTreeMap<u64, u32>,
    pub(super) maps: BTreeMap<u64, Vec<MapWriter>>,
    pub(super) armed: Vec<Armed>,
    pub(super) faults_paused: bool,
    pub(super) struck: u64,
    pub(super) trace: Trace,
    /// The indexes of stores to memory.
    pub(super) stores: Vec<u64>,
    pub(super) record: Record,
    pub(super) moments: Vec<Moment>,
    recordable: u64,
    pub(super) audit: Option<Audit>,
    pub(super) read_only: bool,
    pub(super) call_limit: u64,
    pub(super) is_off: bool,
    /// Changes what is left to chance: which part of a failed sync reaches the disk.
    pub(super) luck: u64,
    next_handle: u64,
}

#[derive(Debug)]
pub(super) struct Handle {
    pub(super) path: Arc<Path>,
    inode: u64,
    /// The volume's stamp then: changes with a greater one are covered by its syncs.
    opened: u64,
    /// Write-back errors of the file that it was told of.
    seen: u32,
    failed: bool,
}

impl Machine {
    pub(super) fn new(image: Image) -> Self {
        Self {
            image,
            handles: BTreeMap::new(),
            locks: BTreeMap::new(),
            maps: BTreeMap::new(),
            armed: Vec::new(),
            faults_paused: false,
            struck: 0,
            trace: Trace::default(),
            stores: Vec::new(),
            record: Record::Nothing,
            moments: Vec::new(),
            recordable: 0,
            audit: None,
            read_only: false,
            call_limit: u64::MAX,
            is_off: false,
            luck: 0,
            next_handle: 0,
        }
    }

    /// The start of a call: what goes wrong before it, and what is to go wrong in it.
    pub(super) fn begin(&mut self, call: &Call<'_>, clock: &SimClock) -> Option<Fault> {
        if self.is_off {
            return Some(Fault::Error(Errno::Io));
        }
        let index = self.trace.calls;
        if index >= self.call_limit {
            self.accuse(HANG, format!("{call} is one of more than {} calls", self.call_limit));
            return Some(Fault::Error(Errno::Io));
        }
        if self.read_only && call.changes {
            self.accuse("change while read-only", call.to_string());
            return Some(Fault::Error(Errno::ReadOnly));
        }
        if self.faults_paused {
            return None;
        }
        let fault = self.armed.iter_mut().find_map(|armed| armed.strikes(index, call.kind).then_some(armed.fault));
        self.armed.retain(|armed| !armed.is_over(index));
        self.struck += u64::from(fault.is_some());
        match fault? {
            Fault::Slow(time) => clock.advance(time),
            Fault::Evict => self.evict(),
            Fault::WriteBack => self.write_back_fails(call.path),
            fault => return Some(fault),
        }
        None
    }

    /// The end of a call that found the volume with the stamp `before`.
    pub(super) fn end<T>(&mut self, call: &Call<'_>, data: &[u8], result: &io::Result<T>, before: u64) {
        self.trace.note(call, data, result);
        if self.image.options.traced {
            let outcome = result.as_ref().err().map_or(String::new(), |error| format!(" -> {error}"));
            eprintln!("{:>6} {call}{outcome}", self.trace.calls);
        }
        if self.image.stamp != before {
            self.keep_moment(false, Image::clone);
        }
        self.trace.calls += 1;
    }

    fn keep_moment(&mut self, during: bool, image: impl FnOnce(&Image) -> Image) {
        self.recordable += 1;
        let call = self.trace.calls;
        match &mut self.record {
            Record::Nothing => return,
            Record::All => {}
            Record::One(rng) => match rng.below(self.recordable) {
                0 => self.moments.clear(),
                _ => return,
            },
        }
        self.moments.push(Moment { call, during, image: image(&self.image) });
    }

    pub(super) fn accuse(&mut self, rule: &'static str, detail: String) {
        if self.image.options.blind && rule != HANG {
            return;
        }
        let call = self.trace.calls;
        self.audit.get_or_insert(Audit { rule, detail, call });
    }

    pub(super) fn change(&mut self) -> u64 {
        self.image.stamp += 1;
        self.image.stamp
    }

    pub(super) fn file(&self, inode: u64) -> io::Result<&File> {
        Ok(self.image.files.get(&inode).ok_or(io::ErrorKind::NotFound)?)
    }

    pub(super) fn file_mut(&mut self, inode: u64) -> io::Result<&mut File> {
        Ok(Arc::make_mut(self.image.files.get_mut(&inode).ok_or(io::ErrorKind::NotFound)?))
    }

    /// Notes a handle, and returns its number.
    pub(super) fn open(&mut self, path: &Arc<Path>, inode: u64) -> io::Result<u64> {
        let (opened, seen) = (self.image.stamp, self.file(inode)?.failures);
        self.next_handle += 1;
        self.handles.insert(self.next_handle, Handle { path: Arc::clone(path), inode, opened, seen, failed: false });
        Ok(self.next_handle)
    }

    /// Puts `bytes` at `position`, as many as there is room for, and tells how many.
    pub(super) fn write(&mut self, inode: u64, position: u64, bytes: &[u8], now_ms: i64) -> io::Result<usize> {
        let bytes = &bytes[..self.room_for(inode, position, bytes.len())?];
        self.audit_write(inode, position, bytes)?;
        self.keep_part(inode, position, bytes);
        let at = self.change();
        let file = self.file_mut(inode)?;
        file.write(at, position, bytes);
        file.modified_ms = now_ms;
        Ok(bytes.len())
    }

    /// Puts `bytes` into the memory of a file. A word of eight bytes is stored at once, more may be stored in part.
    pub(super) fn store(&mut self, inode: u64, position: u64, bytes: &[u8], now_ms: i64) -> io::Result<()> {
        self.stores.push(self.trace.calls);
        if bytes.len() > 8 {
            self.keep_part(inode, position, bytes);
        }
        let at = self.change();
        let file = self.file_mut(inode)?;
        file.write(at, position, bytes);
        file.modified_ms = now_ms;
        Ok(())
    }

    /// Keeps a moment in the midst of a write.
    fn keep_part(&mut self, inode: u64, position: u64, bytes: &[u8]) {
        if bytes.len() < 2 || matches!(self.record, Record::Nothing) {
            return;
        }
        let part = 1 + (mix(self.trace.digest) % (bytes.len() as u64 - 1)) as usize;
        self.keep_moment(true, |image| {
            let mut image = image.clone();
            image.stamp += 1;
            let stamp = image.stamp;
            if let Some(file) = image.files.get_mut(&inode) {
                Arc::make_mut(file).write(stamp, position, &bytes[..part]);
            }
            image
        });
    }

    pub(super) fn is_off(&self) -> bool {
        self.is_off
    }

    /// Puts `bytes` where nobody asked for them. Not audited: it is not the caller's doing.
    pub(super) fn misplace(&mut self, inode: u64, position: u64, bytes: &[u8]) -> io::Result<usize> {
        self.show(inode, position, bytes);
        let at = self.change();
        self.file_mut(inode)?.write(at, position, bytes);
        Ok(bytes.len())
    }

    /// The bytes of the volume, if they are limited and that counts now.
    fn capacity(&self) -> Option<u64> {
        self.image.capacity.filter(|_| !self.faults_paused)
    }

    /// How many of `len` bytes at `position` the volume has room for. An error if none.
    fn room_for(&self, inode: u64, position: u64, len: usize) -> io::Result<usize> {
        let Some(capacity) = self.capacity() else { return Ok(len) };
        let free = capacity.saturating_sub(self.used());
        let contents = &self.file(inode)?.cached;
        if contents.missing(position, len as u64) <= free {
            return Ok(len);
        }
        // A full disk takes what fits, to the last byte of the last block.
        let fits = (0..len).rev().find(|part| contents.missing(position, *part as u64) <= free).unwrap_or(0);
        match fits {
            0 => Err(Errno::Full.into()),
            fits => Ok(fits),
        }
    }

    pub(super) fn reserve(&mut self, inode: u64, position: u64, len: u64) -> io::Result<()> {
        let missing = self.file(inode)?.cached.missing(position, len);
        if self.capacity().is_some_and(|capacity| missing > capacity.saturating_sub(self.used())) {
            return Err(Errno::Full.into());
        }
        self.change();
        self.file_mut(inode)?.cached.reserve(position, len);
        Ok(())
    }

    /// Space in use by files that have a name or a handle.
    pub(super) fn used(&self) -> u64 {
        let used = self.in_use().into_iter().filter_map(|inode| self.image.files.get(&inode));
        used.map(|file| file.cached.allocated()).sum()
    }

    fn in_use(&self) -> BTreeSet<u64> {
        let mut inodes = self.image.tree.linked();
        inodes.extend(self.handles.values().map(|handle| handle.inode));
        inodes
    }

    /// Forgets files that nothing leads to any more, not even after a crash.
    pub(super) fn forget_unlinked(&mut self) {
        // Mostly each file has its name, and there is nothing to look for.
        if self.image.tree.is_clean() && self.image.tree.names_of_files() != self.image.files.len() {
            let in_use = self.in_use();
            self.image.files.retain(|inode, _| in_use.contains(inode));
        }
    }

    /// Accuses a write that changes bytes which may be borrowed or were promised, and shows it to live maps.
    pub(super) fn audit_write(&mut self, inode: u64, position: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.file(inode)?;
        let end = file.published.max(file.claimed);
        let final_bytes = position < end && !file.holds(position, bytes, end);
        let mapped = !self.show(inode, position, bytes);
        if final_bytes || mapped {
            self.accuse("write below published", format!("{} bytes at {position} of inode {inode}", bytes.len()));
        }
        Ok(())
    }

    /// Accuses a write where something was cut off, if a crash may bring that back.
    pub(super) fn audit_cut(&mut self, path: &Path, inode: u64, position: u64, bytes: &[u8]) {
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        if is_log && self.file(inode).is_ok_and(|file| file.has_unsynced_cut(position, bytes)) {
            let what = format!("{} bytes at {position} of {}", bytes.len(), path.display());
            self.accuse("write behind an unsynced cut", what);
        }
    }

    /// Shows bytes to the maps of a file; `false` if one of them has them lent out as they were.
    pub(super) fn show(&mut self, inode: u64, position: u64, bytes: &[u8]) -> bool {
        let Some(writers) = self.maps.get_mut(&inode) else { return true };
        writers.retain(MapWriter::is_mapped);
        let mut shown = true;
        for writer in writers {
            shown &= writer.write(position as usize, bytes);
        }
        shown
    }

    pub(super) fn set_len(&mut self, inode: u64, len: u64) -> io::Result<()> {
        let file = self.file(inode)?;
        let (before, end) = (file.cached.len(), file.published.max(file.claimed));
        let writers = self.maps.get(&inode).into_iter().flatten();
        let mapped = writers.filter(|writer| writer.is_mapped()).map(|writer| writer.bound() as u64).max();
        if len < end.max(mapped.unwrap_or(0)) {
            self.accuse("cut below published", format!("inode {inode} to {len} bytes"));
        }
        self.show_zeros(inode, len, before);
        let at = self.change();
        self.file_mut(inode)?.set_len(at, len);
        Ok(())
    }

    pub(super) fn zero_range(&mut self, inode: u64, position: u64, len: u64) -> io::Result<()> {
        let file = self.file(inode)?;
        let end = position.saturating_add(len).min(file.cached.len());
        let published = file.published.max(file.claimed).min(end);
        if !file.holds(position, &vec![0; published.saturating_sub(position) as usize], published) {
            self.accuse("write below published", format!("{len} zeros at {position} of inode {inode}"));
        }
        if !self.show_zeros(inode, position, end) {
            self.accuse("write below published", format!("{len} zeros at {position} of a map"));
        }
        let at = self.change();
        self.file_mut(inode)?.zero(at, position, len);
        Ok(())
    }

    fn show_zeros(&mut self, inode: u64, mut position: u64, end: u64) -> bool {
        let zeros = [0; 4096];
        let mut shown = true;
        while position < end && self.maps.contains_key(&inode) {
            let step = (end - position).min(zeros.len() as u64);
            shown &= self.show(inode, position, &zeros[..step as usize]);
            position += step;
        }
        shown
    }

    pub(super) fn sync(&mut self, inode: u64, number: u64, fault: Option<Fault>) -> io::Result<()> {
        let Some(handle) = self.handles.get(&number) else { return Err(io::ErrorKind::NotFound.into()) };
        let (opened, seen, failed) = (handle.opened, handle.seen, handle.failed);
        if failed {
            self.accuse("sync after a failed sync", handle_path(&self.handles, number));
        }
        self.change();
        let mut choice = self.choice();
        let file = self.file_mut(inode)?;
        let error = match fault {
            Some(Fault::Error(errno)) => {
                file.fail_sync(&mut choice);
                Some(errno)
            }
            _ => {
                file.sync(opened);
                (file.failures > seen).then_some(Errno::Io)
            }
        };
        let failures = file.failures;
        if let Some(handle) = self.handles.get_mut(&number) {
            handle.seen = failures;
            handle.failed |= error.is_some();
        }
        match error {
            Some(errno) => Err(errno.into()),
            None => {
                // What others share is not copied for nothing.
                if self.image.options.kind && !self.image.tree.is_clean() {
                    Arc::make_mut(&mut self.image.tree).sync_names_of(inode);
                }
                Ok(())
            }
        }
    }

    fn choice(&self) -> Choice {
        Choice::chance(self.trace.digest ^ self.trace.calls ^ self.luck, self.image.options.torn)
    }

    fn write_back_fails(&mut self, path: &Path) {
        let mut choice = self.choice();
        if let Ok(node) = self.image.tree.find(path)
            && let Ok(file) = self.file_mut(node.inode)
        {
            file.fail_sync(&mut choice);
            self.change();
        }
    }

    /// Drops clean pages: what no sync brought to the disk is gone from the cache, too. A live map keeps what it
    /// shows below its bound, where a real one would change: nothing safe can show that.
    pub(super) fn evict(&mut self) {
        let lossy: Vec<u64> =
            self.image.files.iter().filter(|(_, file)| !file.is_clean()).map(|(inode, _)| *inode).collect();
        for inode in lossy {
            let Ok(file) = self.file_mut(inode) else { continue };
            for range in file.evict() {
                let mut bytes = vec![0; (range.end - range.start) as usize];
                let Ok(file) = self.file(inode) else { continue };
                let count = file.cached.read(range.start, &mut bytes);
                self.show(inode, range.start, &bytes[..count]);
            }
        }
        self.change();
    }

    /// Checks the claim that the bytes of `path` below `position` survive a crash.
    pub(super) fn claim_synced(&mut self, path: &Path, position: u64) -> io::Result<()> {
        let node = self.image.tree.find(path)?;
        let name = path.display();
        // One that took the place of others is found by that name until its own is durable.
        let mut swap = path.as_os_str().to_owned();
        swap.push(".swap");
        let is_found = |path: &Path| self.image.tree.is_durable(path, node.inode);
        if !is_found(path) && !is_found(Path::new(&swap)) {
            self.accuse("synced without its name", format!("{name} is gone after a crash"));
        }
        let file = self.file(node.inode)?;
        if let Some(range) = file.unproven_below(position) {
            self.accuse("synced without proof", format!("{name}: bytes {range:?}, of {position} claimed"));
        }
        if self.file(node.inode)?.claimed < position {
            self.file_mut(node.inode)?.claimed = position;
        }
        Ok(())
    }

    pub(super) fn publish(&mut self, path: &Path, position: u64) -> io::Result<()> {
        let node = self.image.tree.find(path)?;
        // Behind what an eviction took nothing is final: who finds that out cuts it off.
        let file = self.file(node.inode)?;
        if file.published < position && !file.has_dropped {
            self.file_mut(node.inode)?.published = position;
        }
        Ok(())
    }

    pub(super) fn describe(&self, inode: u64, is_dir: bool) -> Metadata {
        let file = self.image.files.get(&inode);
        Metadata {
            len: file.map_or(0, |file| file.cached.len()),
            id: FileId { device: 1, inode, born: file.map_or(inode, |file| file.born) },
            is_dir,
            links: self.image.tree.links(inode),
            modified_ms: file.map_or(0, |file| file.modified_ms),
        }
    }
}

fn handle_path(handles: &BTreeMap<u64, Handle>, number: u64) -> String {
    handles.get(&number).map_or(String::new(), |handle| handle.path.display().to_string())
}
