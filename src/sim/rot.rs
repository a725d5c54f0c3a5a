//! Damage at rest: what happens to a file between two runs without anybody writing it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::contents::Contents;
use super::file::{File, SECTOR};
use super::image::Image;
use super::rng::Rng;
use super::tree::Node;

/// One kind of damage to one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rot {
    /// Turns one bit of the byte at this position over.
    FlipBit {
        /// The byte.
        position: u64,
        /// Which of its bits, 0 to 7.
        bit: u8,
    },
    /// Zeroes the 512-byte sector that holds this position.
    ZeroSector(u64),
    /// Swaps the sectors that hold these positions, as far as both are in the file.
    SwapSectors(u64, u64),
    /// Cuts the file to this length.
    Truncate(u64),
    /// Puts these bytes behind the end.
    Append(Vec<u8>),
    /// Removes the file.
    Delete,
    /// Makes a copy, another file, under this path.
    Duplicate(PathBuf),
    /// Puts an old version back: these bytes instead of what is there.
    Restore(Vec<u8>),
}

impl Rot {
    /// Some damage to a file of `len` bytes that changes it in place.
    pub fn draw(rng: &mut Rng, len: u64) -> Self {
        let position = rng.below(len);
        match rng.below(6) {
            0 | 1 => Self::FlipBit { position, bit: rng.below(8) as u8 },
            2 => Self::ZeroSector(position),
            3 => Self::SwapSectors(position, rng.below(len)),
            4 => Self::Truncate(position),
            _ => Self::Append((0..1 + rng.below(64)).map(|_| rng.draw() as u8).collect()),
        }
    }
}

impl Image {
    /// Damages the file at `path`, in the cache and on the disk alike. `false` if there is no such file.
    pub fn rot(&mut self, path: &Path, rot: &Rot) -> bool {
        let Ok(at) = self.tree.place(path) else { return false };
        let Some(node) = self.tree.get(&at) else { return false };
        let Some(file) = self.files.get(&node.inode) else { return false };
        let bytes = file.cached.to_vec();
        match rot {
            Rot::Delete => {
                let names = Arc::make_mut(&mut self.tree);
                names.remove(at.clone(), node);
                names.sync_dir(at.dir);
            }
            Rot::Duplicate(to) => return self.add_file(to, &bytes),
            rot => {
                let contents = Contents::from_bytes(&damaged(bytes, rot));
                let born = file.born;
                self.files.insert(node.inode, Arc::new(File::settled(born, contents)));
            }
        }
        true
    }

    fn add_file(&mut self, path: &Path, bytes: &[u8]) -> bool {
        let Ok(at) = self.tree.place(path) else { return false };
        self.stamp += 1;
        let (inode, contents) = (self.stamp, Contents::from_bytes(bytes));
        self.files.insert(inode, Arc::new(File::settled(inode, contents)));
        let names = Arc::make_mut(&mut self.tree);
        if let Some(there) = names.get(&at) {
            names.remove(at.clone(), there);
        }
        names.add(at.clone(), Node { inode, is_dir: false });
        names.sync_dir(at.dir);
        true
    }
}

fn damaged(mut bytes: Vec<u8>, rot: &Rot) -> Vec<u8> {
    let sector = |position: u64, len: usize| {
        let start = (position / SECTOR * SECTOR) as usize;
        start.min(len)..(start + SECTOR as usize).min(len)
    };
    match rot {
        Rot::FlipBit { position, bit } => {
            if let Some(byte) = bytes.get_mut(*position as usize) {
                *byte ^= 1 << (bit % 8);
            }
        }
        Rot::ZeroSector(position) => {
            let range = sector(*position, bytes.len());
            bytes[range].fill(0);
        }
        Rot::SwapSectors(one, other) => {
            let (one, other) = (sector(*one, bytes.len()), sector(*other, bytes.len()));
            for (a, b) in one.zip(other) {
                bytes.swap(a, b);
            }
        }
        Rot::Truncate(len) => bytes.truncate(*len as usize),
        Rot::Append(more) => bytes.extend(more),
        Rot::Restore(old) => bytes.clone_from(old),
        Rot::Delete | Rot::Duplicate(_) => {}
    }
    bytes
}
