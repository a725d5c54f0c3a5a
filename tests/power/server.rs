//! The process that is the disk: a file system in user space with one file, the image, which a loop device is put on.
//!
//! It must never touch what is mounted from that device: it would wait for itself. So it is a process of its own, told
//! by lines on its input what to do:
//!
//! ```text
//! cuts N             from now on freeze the disk at N random moments between two requests    says: full
//! fail WHAT          from some moment on fail what is asked for
//! freeze             freeze it now
//! stop               the same if moments are missing, and never again
//! image K SEED FILE  write the disk as moment K would leave it       says: image K STAMP kept K of N
//! count              how many moments there are                      says: count N FAILED SINCE
//! ```

use std::ffi::OsStr;
use std::io::{self, BufRead, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};

use super::Result;
use super::faults::{Asked, Faults};
use super::image::{Bytes, Disk, Frozen};
use super::kind::Kind;
use super::random::{Random, stamp};

/// The name of the one file.
pub(crate) const FILE: &str = "disk";
/// The longest run of requests between two moments, as a power of two.
const MOST_GAP_BITS: u64 = 9;

/// Serves the disk until the input ends.
pub(crate) fn serve(at: &Path, image: &Path, kind: Kind, seed: u64) -> Result {
    let disk = Disk::new(Bytes::load(image)?, kind.superblock());
    let recorder = Recorder {
        disk,
        random: Random(seed),
        frozen: Vec::new(),
        wanted: 0,
        until_next: 0,
        faults: Faults::default(),
    };
    let recorder = Arc::new(Mutex::new(recorder));
    let session = fuser::Session::new(Server(Arc::clone(&recorder)), at, &Config::default())?;
    let session = session.spawn()?;
    say("ready");
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["cuts", count] => {
                let mut recorder = lock(&recorder);
                recorder.wanted = count.parse()?;
                recorder.until_next = recorder.random.gap(MOST_GAP_BITS);
            }
            ["fail", what] => {
                let mut recorder = lock(&recorder);
                let seed = recorder.random.next();
                recorder.faults = Faults::new(what, &mut Random(seed))?;
            }
            ["freeze"] => lock(&recorder).freeze(),
            ["stop"] => {
                let mut recorder = lock(&recorder);
                // One more, as things are now.
                if recorder.frozen.len() < recorder.wanted {
                    recorder.freeze();
                }
                recorder.wanted = 0;
            }
            ["count"] => {
                let recorder = lock(&recorder);
                let Recorder { frozen, faults, .. } = &*recorder;
                say(&format!("count {} {} {}", frozen.len(), faults.fired(), faults.since()));
            }
            ["image", number, seed, path] => {
                let moment = lock(&recorder).frozen.get(number.parse::<usize>()?).cloned().ok_or("no such moment")?;
                let left = moment.frozen.after_cut(&mut Random(seed.parse()?));
                left.bytes.store(Path::new(path))?;
                say(&format!("image {number} {} kept {} of {}", moment.stamp, left.kept, left.pending));
            }
            _ => return Err(format!("there is no command {line}").into()),
        }
    }
    drop(session);
    Ok(())
}

fn say(line: &str) {
    // Who asked is gone: so is the input, in a moment.
    let _ = io::stdout().lock().write_all(format!("{line}\n").as_bytes());
}

fn lock(recorder: &Mutex<Recorder>) -> MutexGuard<'_, Recorder> {
    recorder.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The disk, and the moments it was frozen at.
#[derive(Debug)]
struct Recorder {
    disk: Disk,
    random: Random,
    frozen: Vec<Arc<Moment>>,
    /// How many moments to come to.
    wanted: usize,
    /// How many requests to let pass before the next one.
    until_next: u64,
    faults: Faults,
}

#[derive(Debug)]
struct Moment {
    /// What was told to anybody before this was told before the cut.
    stamp: u64,
    frozen: Frozen,
}

impl Recorder {
    fn freeze(&mut self) {
        self.frozen.push(Arc::new(Moment { stamp: stamp(), frozen: self.disk.freeze() }));
    }

    /// Between two requests: perhaps this is where the power goes; perhaps what comes fails.
    fn before(&mut self, asked: Asked) -> Result<(), Errno> {
        if asked != Asked::Read && self.frozen.len() < self.wanted {
            self.until_next = self.until_next.saturating_sub(1);
            // Right after a flush there is nothing to lose: that is not looked at as often.
            if self.until_next == 0 && (self.disk.has_pending() || self.random.one_in(4)) {
                self.freeze();
                self.until_next = self.random.gap(MOST_GAP_BITS);
                if self.frozen.len() == self.wanted {
                    say("full");
                }
            }
        }
        if self.faults.fail(asked) { Err(Errno::EIO) } else { Ok(()) }
    }
}

struct Server(Arc<Mutex<Recorder>>);

/// How long the kernel may believe what it was told of names and lengths: they do not change.
const FOR_EVER: Duration = Duration::from_secs(1 << 20);
const ROOT: INodeNo = INodeNo(1);
const IMAGE: INodeNo = INodeNo(2);

impl Server {
    fn attributes(&self, of: INodeNo) -> FileAttr {
        let is_image = of == IMAGE;
        let size = if is_image { lock(&self.0).disk.len() } else { 0 };
        FileAttr {
            ino: of,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_image { FileType::RegularFile } else { FileType::Directory },
            perm: if is_image { 0o600 } else { 0o700 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4096,
        }
    }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == ROOT && name == FILE {
            reply.entry(&FOR_EVER, &self.attributes(IMAGE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOR_EVER, &self.attributes(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Through the cache, a write that begins inside of a page comes in two; and a loop device whose second part fails
        // takes the whole for written.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut recorder = lock(&self.0);
        match recorder.before(Asked::Read) {
            Ok(()) => reply.data(&recorder.disk.read(offset, size as usize)),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut recorder = lock(&self.0);
        let written = recorder.before(Asked::Write);
        match written.and_then(|()| recorder.disk.write(offset, data).map_err(|_| Errno::ENOSPC)) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    /// A flush of the loop device comes as this.
    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut recorder = lock(&self.0);
        match recorder.before(Asked::Flush) {
            Ok(()) => {
                recorder.disk.flush();
                reply.ok();
            }
            Err(error) => reply.error(error),
        }
    }

    /// A close, which promises nothing.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}
