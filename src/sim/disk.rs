//! The simulated disk: the seam, on a machine on a volume, all in memory.
//!
//! ```text
//! SimDisk, SimFile, SimLock        one lock, one index a call
//!   machine   handles, locks, maps, faults, trace, audit     gone after a kill or crash
//!   image     files, names: cached, durable, pending         what a kill keeps, and a crash a part of
//! ```
//!
//! It is strict: what the documentation of [`Disk`] does not promise to survive a crash may not. It also watches its
//! user, and keeps the first broken rule: see [`SimDisk::audit`].

use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::clock::SimClock;
use super::fault::{Armed, Errno, Fault, Kind, Times};
use super::file::File;
use super::image::{DiskOptions, Image};
use super::machine::{Audit, Machine, Moment, Record};
use super::trace::Call;
use super::tree::{Node, Place, Tree};
use crate::clock::Clock;
use crate::disk::{DirEntry, Disk, DiskFile, DiskLock, Lock, Metadata, Open, Volume, VolumeKind};
use crate::sys::{Arena, Map, Stores};
use crate::types::Timestamp;

/// A disk in memory that forgets, fails and keeps watch.
///
/// Share it by `Arc`; [`SimDisk::image`] is a copy of what is on it.
#[derive(Debug)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    machine: Mutex<Machine>,
    clock: Arc<SimClock>,
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(options: DiskOptions) -> Arc<Self> {
        Self::on(Image::new(options), Arc::new(SimClock::new(Timestamp(1_700_000_000_000))))
    }

    /// A machine that starts on the volume `image`, nothing open.
    #[must_use]
    pub fn on(image: Image, clock: Arc<SimClock>) -> Arc<Self> {
        let machine = Mutex::new(Machine::new(image));
        Arc::new(Self { shared: Arc::new(Shared { machine, clock }) })
    }

    /// What is on the disk now, for this machine to go on with another life: see [`Image::crash`].
    #[must_use]
    pub fn image(&self) -> Image {
        self.shared.machine.lock().image.clone()
    }

    /// The disk after the power was cut now, in a machine just booted. The same seed finds the same.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Arc<Self> {
        Self::on(self.image().crash(seed), self.shared.clock.fork())
    }

    /// The disk after the process was killed between two calls: nothing is open, nothing lost.
    #[must_use]
    pub fn kill(&self) -> Arc<Self> {
        Self::on(self.image(), self.shared.clock.fork())
    }

    /// The clock that stamps files and that slow calls move.
    #[must_use]
    pub fn clock(&self) -> Arc<SimClock> {
        Arc::clone(&self.shared.clock)
    }

    /// How many calls were made: the index of the next one.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.shared.machine.lock().trace.calls
    }

    /// The indexes of calls that are stores to memory, which cannot fail.
    #[must_use]
    pub fn stores(&self) -> Vec<u64> {
        self.shared.machine.lock().stores.clone()
    }

    /// A digest of every call and its outcome: two runs that did the same have the same.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.shared.machine.lock().trace.digest
    }

    /// Whether each call is told on the standard error stream.
    #[must_use]
    pub fn is_traced(&self) -> bool {
        self.shared.machine.lock().image.options.traced
    }

    /// Keeps a line for each call from now on.
    pub fn trace(&self) {
        self.shared.machine.lock().trace.lines.get_or_insert_default();
    }

    /// The lines kept so far.
    #[must_use]
    pub fn take_trace(&self) -> Vec<String> {
        self.shared.machine.lock().trace.lines.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Sets a fault on the call with this index, or on the next ones if that one is past.
    pub fn inject(&self, call: u64, fault: Fault, times: Times) {
        self.shared.machine.lock().armed.push(Armed::new(call, fault, times));
    }

    /// Takes back every fault.
    pub fn heal(&self) {
        self.shared.machine.lock().armed.clear();
    }

    /// Sets how many bytes the disk holds, or that there is no limit. Less than is used is a full disk.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.shared.machine.lock().image.capacity = bytes;
    }

    /// Whether there is a limit to what the disk holds.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.shared.machine.lock().image.capacity.is_some()
    }

    /// Leaves this many bytes free from now on; `None` for no limit.
    pub fn set_free(&self, bytes: Option<u64>) {
        let mut machine = self.shared.machine.lock();
        machine.image.capacity = bytes.map(|bytes| machine.used().saturating_add(bytes));
    }

    /// Keeps faults waiting, or lets them strike again: what a test does itself must not be what fails, also not for a
    /// full disk.
    pub fn pause_faults(&self, paused: bool) {
        self.shared.machine.lock().faults_paused = paused;
    }

    /// How many calls a fault struck.
    #[must_use]
    pub fn struck(&self) -> u64 {
        self.shared.machine.lock().struck
    }

    /// Sets what is left to chance from here on: which part of a sync that fails reaches the disk all the same.
    pub fn set_luck(&self, luck: u64) {
        self.shared.machine.lock().luck = luck;
    }

    /// Drops clean pages from the cache: bytes that a failed sync lost show as the disk has them.
    pub fn evict(&self) {
        self.shared.machine.lock().evict();
    }

    /// Whether what a file holds at `position` may have vanished by an eviction, after a failed sync and with no promise
    /// broken.
    #[must_use]
    pub fn may_have_dropped(&self, path: &Path, position: u64) -> bool {
        let machine = self.shared.machine.lock();
        let node = machine.image.tree.find(path);
        let file = node.and_then(|node| machine.file(node.inode));
        file.is_ok_and(|file| file.has_dropped && file.claimed <= position)
    }

    /// Whether there is a file under this path, now or after a crash.
    #[must_use]
    pub fn may_be_found(&self, path: &Path) -> bool {
        self.shared.machine.lock().image.tree.may_be_found(path)
    }

    /// Whether a file holds anything but zeros from `position` on, up to the next of its pages.
    #[must_use]
    pub fn has_leftovers(&self, path: &Path, position: u64) -> bool {
        let machine = self.shared.machine.lock();
        let node = machine.image.tree.find(path);
        let mut bytes = vec![0; (position.next_multiple_of(PAGE) - position) as usize];
        let file = node.and_then(|node| machine.file(node.inode));
        let count = file.map_or(0, |file| file.cached.read(position, &mut bytes));
        bytes[..count].iter().any(|byte| *byte != 0)
    }

    /// Keeps moments of the run from now on, and forgets those kept before.
    pub fn record(&self, record: Record) {
        let mut machine = self.shared.machine.lock();
        machine.record = record;
        machine.moments.clear();
    }

    /// Takes the moments kept since the last time.
    #[must_use]
    pub fn take_moments(&self) -> Vec<Moment> {
        std::mem::take(&mut self.shared.machine.lock().moments)
    }

    /// The first rule that was broken on this machine.
    #[must_use]
    pub fn audit(&self) -> Option<Audit> {
        self.shared.machine.lock().audit.clone()
    }

    /// Audits that nothing is open or locked any more, as it should be after a close.
    pub fn audit_closed(&self) {
        let mut machine = self.shared.machine.lock();
        let open: Vec<_> = machine.handles.values().map(|handle| handle.path.display().to_string()).collect();
        if !open.is_empty() || !machine.locks.is_empty() {
            let locks = machine.locks.len();
            machine.accuse("leaked handle", format!("{locks} locks, and {}", open.join(", ")));
        }
    }

    /// How many handles are open.
    #[must_use]
    pub fn handles(&self) -> usize {
        self.shared.machine.lock().handles.len()
    }

    /// Audits every changing call from now on, and refuses it; opening a file to write it, too.
    pub fn set_read_only(&self, read_only: bool) {
        self.shared.machine.lock().read_only = read_only;
    }

    /// Audits, and fails, calls past this many: something loops.
    pub fn set_call_limit(&self, calls: u64) {
        self.shared.machine.lock().call_limit = calls;
    }

    /// Fails every call from now on, without a word: the process is dying, and what it does no longer counts.
    pub fn power_off(&self) {
        self.shared.machine.lock().is_off = true;
    }

    /// Notes that bytes of a file below `position` are final: from now on a write that changes them, or a cut, breaks
    /// the rules. For as long as the machine runs, and after a kill.
    ///
    /// # Errors
    ///
    /// There is no such file.
    pub fn publish(&self, path: &Path, position: u64) -> io::Result<()> {
        self.shared.machine.lock().publish(path, position)
    }

    /// Audits the claim that bytes of a file below `position` are synced: by a handle opened before they were
    /// written, with no failed sync between, under durable names. They are final from now on, whatever happens.
    ///
    /// # Errors
    ///
    /// There is no such file.
    pub fn claim_synced(&self, path: &Path, position: u64) -> io::Result<()> {
        self.shared.machine.lock().claim_synced(path, position)
    }
}

impl Shared {
    /// Makes one call: an index, perhaps a fault, a line in the trace, a moment if it changed something.
    fn call<T>(
        &self,
        call: Call<'_>,
        data: &[u8],
        work: impl FnOnce(&mut Machine, Option<Fault>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut machine = self.machine.lock();
        let before = machine.image.stamp;
        let fault = match machine.begin(&call, &self.clock) {
            Some(Fault::Partly(_)) if call.kind != Kind::Write => Some(Fault::Error(Errno::Io)),
            fault => fault,
        };
        let result = match fault {
            // A store cannot fail. A dead process makes none.
            Some(_) if call.kind == Kind::Event && !machine.is_off() => work(&mut machine, None),
            Some(Fault::Error(errno)) if call.kind != Kind::Sync => Err(errno.into()),
            fault => work(&mut machine, fault),
        };
        machine.end(&call, data, &result, before);
        result
    }

    fn now_ms(&self) -> i64 {
        self.clock.now().0
    }

    /// A handle on a file that exists.
    fn open(self: &Arc<Self>, machine: &mut Machine, path: &Path, inode: u64, writable: bool) -> io::Result<SimFile> {
        let path: Arc<Path> = path.into();
        let handle = machine.open(&path, inode)?;
        Ok(SimFile { shared: Arc::clone(self), path, inode, handle, writable })
    }
}

fn create(machine: &mut Machine, at: Place, now_ms: i64) -> u64 {
    let inode = machine.change();
    let born = (now_ms as u64).wrapping_mul(1_000_000).wrapping_add(inode);
    let mut file = File::new(born);
    file.modified_ms = now_ms;
    machine.image.files.insert(inode, Arc::new(file));
    tree(machine).add(at, Node { inode, is_dir: false });
    inode
}

fn tree(machine: &mut Machine) -> &mut Tree {
    Arc::make_mut(&mut machine.image.tree)
}

fn file_at(machine: &Machine, path: &Path) -> io::Result<(Place, Node)> {
    let at = machine.image.tree.place(path)?;
    match machine.image.tree.get(&at) {
        Some(node) if node.is_dir => Err(io::ErrorKind::IsADirectory.into()),
        Some(node) => Ok((at, node)),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

fn free_place(machine: &Machine, path: &Path) -> io::Result<Place> {
    let at = machine.image.tree.place(path)?;
    match machine.image.tree.get(&at) {
        Some(_) => Err(io::ErrorKind::AlreadyExists.into()),
        None => Ok(at),
    }
}

fn dir_at(machine: &Machine, path: &Path) -> io::Result<u64> {
    let node = machine.image.tree.find(path)?;
    match node.is_dir {
        true => Ok(node.inode),
        false => Err(io::ErrorKind::NotADirectory.into()),
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        // A volume that may not be changed has no files to write to, as the system has it.
        let changes = match how {
            Open::Read => false,
            Open::Write => self.shared.machine.lock().read_only,
            Open::CreateNew => true,
        };
        let call = Call { changes, ..Call::looks(Kind::Open, path).at(how as u64, 0) };
        let now_ms = self.shared.now_ms();
        let file = self.shared.call(call, &[], |machine, _| {
            let inode = match how {
                Open::CreateNew => {
                    let at = free_place(machine, path)?;
                    create(machine, at, now_ms)
                }
                Open::Read | Open::Write => match machine.image.tree.find(path)? {
                    node if node.is_dir => return Err(io::ErrorKind::IsADirectory.into()),
                    node => node.inode,
                },
            };
            self.shared.open(machine, path, inode, how != Open::Read)
        })?;
        Ok(Arc::new(file))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.shared.call(Call::changes(Kind::CreateDir, path), &[], |machine, _| {
            let at = free_place(machine, path)?;
            let inode = machine.change();
            tree(machine).add(at, Node { inode, is_dir: true });
            Ok(())
        })
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.shared.call(Call::changes(Kind::RemoveFile, path), &[], |machine, _| {
            let (at, node) = file_at(machine, path)?;
            machine.change();
            tree(machine).remove(at, node);
            Ok(())
        })
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.shared.call(Call::changes(Kind::RemoveDir, path), &[], |machine, _| {
            let inode = dir_at(machine, path)?;
            if machine.image.tree.list(inode).next().is_some() {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            let at = machine.image.tree.place(path)?;
            machine.change();
            tree(machine).remove(at, Node { inode, is_dir: true });
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let target = to.as_os_str().as_encoded_bytes();
        self.shared.call(Call::changes(Kind::Rename, from), target, |machine, _| {
            let names = &machine.image.tree;
            let (old, new) = (names.place(from)?, names.place(to)?);
            let node = names.get(&old).ok_or(io::ErrorKind::NotFound)?;
            match names.get(&new) {
                Some(there) if there == node => return Ok(()),
                Some(there) if there.is_dir => return Err(io::ErrorKind::IsADirectory.into()),
                Some(_) if node.is_dir => return Err(io::ErrorKind::NotADirectory.into()),
                _ => {}
            }
            // What is put aside may have been lost to a failed sync, for good.
            let is_aside = to.extension().is_some_and(|extension| extension == "cut");
            if !is_aside
                && machine.image.files.get(&node.inode).is_some_and(|file| !file.is_clean() && !file.is_shared)
            {
                machine.accuse("rename of unsynced bytes", format!("{} to {}", from.display(), to.display()));
            }
            machine.change();
            tree(machine).rename(old, new, node);
            Ok(())
        })
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let target = to.as_os_str().as_encoded_bytes();
        self.shared.call(Call::changes(Kind::Link, from), target, |machine, _| {
            let (_, node) = file_at(machine, from)?;
            let at = free_place(machine, to)?;
            machine.change();
            tree(machine).add(at, node);
            Ok(())
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.shared.call(Call::looks(Kind::List, dir), &[], |machine, _| {
            let inode = dir_at(machine, dir)?;
            let entries = machine.image.tree.list(inode);
            Ok(entries.map(|(name, node)| DirEntry { name: name.to_string(), is_dir: node.is_dir }).collect())
        })
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.shared.call(Call::looks(Kind::Metadata, path), &[], |machine, _| {
            let node = machine.image.tree.find(path)?;
            Ok(machine.describe(node.inode, node.is_dir))
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.shared.call(Call::changes(Kind::SyncDir, dir), &[], |machine, _| {
            let inode = dir_at(machine, dir)?;
            machine.change();
            tree(machine).sync_dir(inode);
            machine.forget_unlinked();
            Ok(())
        })
    }

    fn lock(&self, path: &Path, how: Lock) -> io::Result<Option<Box<dyn DiskLock>>> {
        let now_ms = self.shared.now_ms();
        let file = self.shared.call(Call::looks(Kind::Lock, path).at(how as u64, 0), &[], |machine, _| {
            let inode = match file_at(machine, path) {
                Ok((_, node)) => node.inode,
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Err(_) if machine.read_only => {
                    machine.accuse("change while read-only", format!("lock creates {}", path.display()));
                    return Err(Errno::ReadOnly.into());
                }
                Err(_) => {
                    let at = free_place(machine, path)?;
                    create(machine, at, now_ms)
                }
            };
            let held = machine.locks.get(&inode).copied().unwrap_or(0);
            let holders = match (how, held) {
                (Lock::Exclusive, 0) => u32::MAX,
                (Lock::Shared, held) if held != u32::MAX => held + 1,
                _ => return Ok(None),
            };
            machine.locks.insert(inode, holders);
            self.shared.open(machine, path, inode, true).map(Some)
        })?;
        Ok(file.map(|file| Box::new(SimLock { file }) as Box<dyn DiskLock>))
    }

    fn volume(&self, dir: &Path) -> io::Result<Volume> {
        self.shared.call(Call::looks(Kind::Volume, dir), &[], |machine, _| {
            dir_at(machine, dir)?;
            let capacity = machine.image.capacity;
            let total_bytes = capacity.unwrap_or(UNLIMITED);
            Ok(Volume {
                free_bytes: capacity.map_or(UNLIMITED, |capacity| capacity.saturating_sub(machine.used())),
                total_bytes,
                kind: VolumeKind::Ext,
                boot: Some(machine.image.boot_id()),
                no_staging: None,
            })
        })
    }
}

const PAGE: u64 = 4096;
/// What a disk without limit says it holds: 1 TiB.
const UNLIMITED: u64 = 1 << 40;

#[derive(Debug)]
struct SimFile {
    shared: Arc<Shared>,
    path: Arc<Path>,
    inode: u64,
    handle: u64,
    writable: bool,
}

impl SimFile {
    fn looks(&self, kind: Kind) -> Call<'_> {
        Call::looks(kind, &self.path)
    }

    /// A changing call, refused on a handle for reading.
    fn change<T>(
        &self,
        call: Call<'_>,
        data: &[u8],
        work: impl FnOnce(&mut Machine, Option<Fault>) -> io::Result<T>,
    ) -> io::Result<T> {
        self.shared.call(Call { changes: true, ..call }, data, |machine, fault| match self.writable {
            true => work(machine, fault),
            // EBADF, as Linux has it.
            false => Err(io::Error::from_raw_os_error(9)),
        })
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize> {
        let call = self.looks(Kind::Read).at(position, into.len() as u64);
        self.shared.call(call, &[], |machine, fault| {
            let len = match fault {
                Some(Fault::Short(bytes)) => bytes.clamp(1, into.len().max(1)).min(into.len()),
                _ => into.len(),
            };
            Ok(machine.file(self.inode)?.cached.read(position, &mut into[..len]))
        })
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        let call = self.looks(Kind::Write).at(position, bytes.len() as u64);
        let now_ms = self.shared.now_ms();
        self.change(call, bytes, |machine, fault| {
            machine.audit_cut(&self.path, self.inode, position, bytes);
            match fault {
                Some(Fault::Short(len)) => {
                    machine.write(self.inode, position, &bytes[..len.min(bytes.len())], now_ms)
                }
                Some(Fault::Partly(len)) => {
                    machine.write(self.inode, position, &bytes[..len.min(bytes.len())], now_ms)?;
                    Err(Errno::Io.into())
                }
                Some(Fault::Misplaced(by)) => machine.misplace(self.inode, position.saturating_add(by), bytes),
                _ => machine.write(self.inode, position, bytes, now_ms),
            }
        })
    }

    fn zero_range(&self, position: u64, len: u64) -> io::Result<()> {
        let call = self.looks(Kind::ZeroRange).at(position, len);
        self.change(call, &[], |machine, _| machine.zero_range(self.inode, position, len))
    }

    fn reserve(&self, position: u64, len: u64) -> io::Result<()> {
        let call = self.looks(Kind::Reserve).at(position, len);
        self.change(call, &[], |machine, _| machine.reserve(self.inode, position, len))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(self.looks(Kind::SetLen).at(len, 0), &[], |machine, _| machine.set_len(self.inode, len))
    }

    fn sync(&self) -> io::Result<()> {
        let call = Call { changes: self.writable, ..self.looks(Kind::Sync) };
        self.shared.call(call, &[], |machine, fault| machine.sync(self.inode, self.handle, fault))
    }

    fn metadata(&self) -> io::Result<Metadata> {
        self.shared.call(self.looks(Kind::Metadata), &[], |machine, _| Ok(machine.describe(self.inode, false)))
    }

    fn map(&self, capacity: usize) -> io::Result<Map> {
        self.shared.call(self.looks(Kind::Map).at(0, capacity as u64), &[], |machine, _| {
            let (map, writer) = Map::in_memory(capacity);
            // It is zeros so far, and takes memory only where it is written.
            for (at, bytes) in machine.file(self.inode)?.cached.data(capacity as u64) {
                writer.write(at as usize, bytes);
            }
            machine.maps.entry(self.inode).or_default().push(writer);
            Ok(map)
        })
    }

    fn share(&self, len: usize) -> io::Result<Arena> {
        let call = self.looks(Kind::Map).at(0, len as u64);
        let bytes = self.change(call, &[], |machine, _| {
            machine.change();
            let file = machine.file_mut(self.inode)?;
            file.share();
            // A new one holds nothing yet, however long it is.
            let mut bytes = vec![0; if file.cached.allocated() == 0 { 0 } else { len }];
            file.cached.read(0, &mut bytes);
            Ok(bytes)
        })?;
        let stores = SimStores { shared: Arc::clone(&self.shared), path: Arc::clone(&self.path), inode: self.inode };
        Arena::watched(&bytes, len, Arc::new(stores))
    }
}

/// Puts what is stored to the memory of a file into the file.
#[derive(Debug)]
struct SimStores {
    shared: Arc<Shared>,
    path: Arc<Path>,
    inode: u64,
}

impl Stores for SimStores {
    fn store(&self, at: usize, bytes: &[u8]) {
        let call = Call::changes(Kind::Event, &self.path).at(at as u64, bytes.len() as u64);
        let now_ms = self.shared.now_ms();
        // Nothing comes of one that a dead process makes.
        let _ = self.shared.call(call, bytes, |machine, _| machine.store(self.inode, at as u64, bytes, now_ms));
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.shared.machine.lock().handles.remove(&self.handle);
    }
}

#[derive(Debug)]
struct SimLock {
    file: SimFile,
}

impl DiskLock for SimLock {
    fn file(&self) -> &dyn DiskFile {
        &self.file
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut machine = self.file.shared.machine.lock();
        match machine.locks.remove(&self.file.inode) {
            Some(holders) if holders != u32::MAX && holders > 1 => {
                machine.locks.insert(self.file.inode, holders - 1);
            }
            _ => {}
        }
    }
}
