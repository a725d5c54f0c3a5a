//! The disk: what reads see, what a flush made stable, and what was written since.
//!
//! ```text
//! write --> cached, pending          flush: pending --> stable
//! read  <-- cached                   power cut: stable + some sectors of pending, in the order of writing
//! ```
//!
//! Invariant: `cached` is `stable` with all of `pending` written to it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::random::Random;

/// What a disk writes whole.
pub(crate) const SECTOR: usize = 512;
/// What is shared between one state and the next until it is written to.
const CHUNK: usize = 16 << 10;
/// The probabilities with which a sector that was not flushed is kept, in eighths; one is drawn for each cut.
const KEPT_EIGHTHS: [u64; 5] = [0, 2, 4, 7, 8];

/// The bytes of a disk. A clone is cheap and shares what neither has written to since.
#[derive(Debug, Clone)]
pub(crate) struct Bytes {
    /// Zeros where there is none.
    chunks: Vec<Option<Arc<[u8; CHUNK]>>>,
}

impl Bytes {
    /// Takes over what is in a file.
    pub(crate) fn load(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        if len % CHUNK as u64 != 0 {
            return Err(io::Error::other(format!("{len} bytes are no whole number of chunks")));
        }
        let mut chunks = Vec::new();
        for position in (0..len).step_by(CHUNK) {
            let mut chunk = [0; CHUNK];
            file.read_exact_at(&mut chunk, position)?;
            chunks.push((chunk != [0; CHUNK]).then(|| Arc::new(chunk)));
        }
        Ok(Self { chunks })
    }

    pub(crate) fn len(&self) -> u64 {
        (self.chunks.len() * CHUNK) as u64
    }

    /// Writes a new file, with holes for zeros.
    pub(crate) fn store(&self, path: &Path) -> io::Result<()> {
        let file = File::create_new(path)?;
        file.set_len(self.len())?;
        for (at, chunk) in self.chunks.iter().enumerate() {
            if let Some(chunk) = chunk {
                file.write_all_at(&chunk[..], (at * CHUNK) as u64)?;
            }
        }
        Ok(())
    }

    /// What is at `position`, up to `len` bytes of it: fewer at the end.
    pub(crate) fn read(&self, position: u64, len: usize) -> Vec<u8> {
        let len = (self.len().saturating_sub(position)).min(len as u64) as usize;
        let mut bytes = vec![0; len];
        for (at, inside, piece) in pieces(position, len) {
            if let Some(Some(chunk)) = self.chunks.get(at) {
                bytes[piece.clone()].copy_from_slice(&chunk[inside..inside + piece.len()]);
            }
        }
        bytes
    }

    fn write(&mut self, position: u64, bytes: &[u8]) {
        for (at, inside, piece) in pieces(position, bytes.len()) {
            let chunk = self.chunks[at].get_or_insert_with(|| Arc::new([0; CHUNK]));
            Arc::make_mut(chunk)[inside..inside + piece.len()].copy_from_slice(&bytes[piece]);
        }
    }
}

/// Splits a range at chunks: which chunk, where in it, and which part of the range.
fn pieces(position: u64, len: usize) -> impl Iterator<Item = (usize, usize, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = position as usize + done;
        let inside = at % CHUNK;
        let step = (CHUNK - inside).min(len - done);
        let piece = done..done + step;
        done += step;
        (step > 0).then_some((at / CHUNK, inside, piece))
    })
}

/// One write that no flush has followed.
#[derive(Debug)]
struct Write {
    position: u64,
    bytes: Vec<u8>,
}

/// A disk with a cache that a power cut takes.
#[derive(Debug)]
pub(crate) struct Disk {
    cached: Bytes,
    stable: Bytes,
    pending: Vec<Arc<Write>>,
    /// What is written whole or not at all: see [`Frozen::after_cut`].
    whole: Option<Range<u64>>,
}

impl Disk {
    pub(crate) fn new(bytes: Bytes, whole: Option<Range<u64>>) -> Self {
        Self { cached: bytes.clone(), stable: bytes, pending: Vec::new(), whole }
    }

    pub(crate) fn write(&mut self, position: u64, bytes: &[u8]) -> io::Result<()> {
        if position.checked_add(bytes.len() as u64).is_none_or(|end| end > self.len()) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.cached.write(position, bytes);
        self.pending.push(Arc::new(Write { position, bytes: bytes.to_vec() }));
        Ok(())
    }

    pub(crate) fn flush(&mut self) {
        for write in self.pending.drain(..) {
            self.stable.write(write.position, &write.bytes);
        }
    }

    /// Whether there is anything that a cut could take.
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(crate) fn len(&self) -> u64 {
        self.cached.len()
    }

    pub(crate) fn read(&self, position: u64, len: usize) -> Vec<u8> {
        self.cached.read(position, len)
    }

    /// The state that a power cut in this moment begins from.
    pub(crate) fn freeze(&self) -> Frozen {
        Frozen { stable: self.stable.clone(), pending: self.pending.clone(), whole: self.whole.clone() }
    }
}

/// A disk in the moment of a power cut.
#[derive(Debug)]
pub(crate) struct Frozen {
    stable: Bytes,
    pending: Vec<Arc<Write>>,
    whole: Option<Range<u64>>,
}

/// What a power cut left of what was not flushed.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) bytes: Bytes,
    pub(crate) kept: usize,
    pub(crate) pending: usize,
}

impl Frozen {
    /// The disk as it is found afterwards: each sector that was not flushed is there or not. A superblock that is
    /// longer than a sector, which a file system cannot be mounted without, is there as a whole or not at all.
    pub(crate) fn after_cut(&self, random: &mut Random) -> Left {
        let eighths = *random.pick(&KEPT_EIGHTHS);
        let mut left = Left { bytes: self.stable.clone(), kept: 0, pending: 0 };
        for write in &self.pending {
            let mut before = false;
            for (at, sector) in write.bytes.chunks(SECTOR).enumerate() {
                let position = write.position + (at * SECTOR) as u64;
                let drawn = random.below(8) < eighths;
                // The first sector of a superblock speaks for all of it.
                let follows = |whole: &Range<u64>| whole.contains(&position) && position > whole.start;
                let is_kept = if at > 0 && self.whole.as_ref().is_some_and(follows) { before } else { drawn };
                before = is_kept;
                left.pending += 1;
                if is_kept {
                    left.bytes.write(position, sector);
                    left.kept += 1;
                }
            }
        }
        left
    }
}
