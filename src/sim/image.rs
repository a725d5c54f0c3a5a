//! A simulated volume as a plain value: every file and name, as cached and as durable.
//!
//! Cloning shares all bytes. An image is what a crash or a kill starts from; [`SimDisk`](super::SimDisk) is a
//! machine that runs on one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::choice::Choice;
use super::file::File;
use super::rng::mix;
use super::tree::Tree;
use crate::disk::BootId;

/// How a simulated volume behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskOptions {
    /// Syncing a new file makes its name durable too, as kernels do. Otherwise only what the seam promises.
    pub kind: bool,
    /// A crash may leave a part of a sector.
    pub torn: bool,
    /// The disk does not watch its user: only what is lost in the end shows a mistake.
    pub blind: bool,
    /// Each call is told on the standard error stream.
    pub traced: bool,
}

/// A volume at one moment.
#[derive(Debug, Clone)]
pub struct Image {
    pub(super) files: BTreeMap<u64, Arc<File>>,
    pub(super) tree: Arc<Tree>,
    pub(super) options: DiskOptions,
    pub(super) boot: u128,
    /// Rises with every change, over all runs: orders handles and writes, and gives inodes.
    pub(super) stamp: u64,
    /// Bytes the volume holds.
    pub(super) capacity: Option<u64>,
}

impl Image {
    pub(super) fn new(options: DiskOptions) -> Self {
        Self {
            files: BTreeMap::new(),
            tree: Arc::new(Tree::new()),
            options,
            boot: u128::from(mix(1)),
            stamp: 1,
            capacity: None,
        }
    }

    /// The volume found after the power was cut now. The same seed finds the same.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        self.crash_by(&mut Choice::chance(seed, self.options.torn))
    }

    /// Outcome number `bits` of all that a crash can have here, lengths being either the old or the new one.
    #[must_use]
    pub fn crash_outcome(&self, bits: u64) -> Self {
        self.crash_by(&mut Choice::mask(bits))
    }

    /// How many bits [`Image::crash_outcome`] uses here at most: what is kept can decide what else is asked.
    #[must_use]
    pub fn crash_bits(&self) -> u32 {
        let asked = |bits| {
            let mut choice = Choice::mask(bits);
            self.crash_by(&mut choice);
            choice.asked()
        };
        asked(0).max(asked(u64::MAX))
    }

    fn crash_by(&self, choice: &mut Choice) -> Self {
        let tree = match self.tree.is_clean() {
            true => Arc::clone(&self.tree),
            false => Arc::new(self.tree.crash(choice)),
        };
        let reachable = tree.reachable();
        let mut files = BTreeMap::new();
        for (inode, file) in self.files.iter().filter(|(inode, _)| reachable.contains(inode)) {
            let found = match file.is_settled() {
                true => Arc::clone(file),
                false => Arc::new(file.crash(choice)),
            };
            files.insert(*inode, found);
        }
        Self { files, tree, boot: self.next_boot(), ..*self }
    }

    /// The volume after the process was killed and the machine restarted in good order.
    #[must_use]
    pub fn restart(&self) -> Self {
        Self { boot: self.next_boot(), ..self.clone() }
    }

    /// The volume with a copy of each file in place of the file.
    #[must_use]
    pub fn copy(&self) -> Self {
        let mut copy = self.clone();
        for file in copy.files.values_mut() {
            Arc::make_mut(file).born += 1;
        }
        copy
    }

    fn next_boot(&self) -> u128 {
        self.boot.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835).wrapping_add(1)
    }

    /// The bytes of every file under its path, as reads see them.
    #[must_use]
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        self.walk(super::tree::ROOT, Path::new("/"), &mut |path, file| {
            found.insert(path, file.cached.to_vec());
        });
        found
    }

    /// The length of every file, and its path.
    pub(super) fn lens(&self) -> Vec<(PathBuf, u64)> {
        let mut found = Vec::new();
        self.walk(super::tree::ROOT, Path::new("/"), &mut |path, file| found.push((path, file.cached.len())));
        found
    }

    fn walk(&self, dir: u64, path: &Path, each: &mut impl FnMut(PathBuf, &File)) {
        for (name, node) in self.tree.list(dir) {
            let path = path.join(&**name);
            match self.files.get(&node.inode) {
                _ if node.is_dir => self.walk(node.inode, &path, each),
                Some(file) => each(path, file),
                None => {}
            }
        }
    }

    /// Two volumes with the same names and bytes have the same digest, and others almost never.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut digest = 0;
        self.walk(super::tree::ROOT, Path::new("/"), &mut |path, file| {
            digest = super::trace::absorb(digest, path.as_os_str().as_encoded_bytes());
            digest = super::trace::absorb(digest, &file.cached.to_vec());
        });
        digest
    }

    pub(super) fn boot_id(&self) -> BootId {
        BootId(self.boot.to_be_bytes())
    }
}
