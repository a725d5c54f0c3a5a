//! Names: which directory holds which name for which file, now and after a crash.
//!
//! Changes of names are pending until their directory is synced. A crash keeps any subset of them that could have
//! happened: a rename of a name that never came to be, or a second file under a name that was never freed, is
//! dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::choice::Choice;

pub(super) const ROOT: u64 = 0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) inode: u64,
    pub(super) is_dir: bool,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) dir: u64,
    pub(super) name: Arc<str>,
}

type Dirs = BTreeMap<u64, BTreeMap<Arc<str>, Node>>;

#[derive(Debug, Clone)]
pub(super) struct Tree {
    cached: Dirs,
    durable: Dirs,
    pending: Vec<Change>,
    /// How many of the cached names lead to each file and directory.
    links: BTreeMap<u64, u64>,
    /// How many names of files there are.
    names: usize,
}

#[derive(Debug, Clone)]
enum Change {
    Add { at: Place, node: Node },
    Remove { at: Place, node: Node },
    Rename { from: Place, to: Place, node: Node },
}

impl Tree {
    pub(super) fn new() -> Self {
        let dirs = Dirs::from([(ROOT, BTreeMap::new())]);
        Self::of(dirs)
    }

    fn of(dirs: Dirs) -> Self {
        let (mut links, mut names) = (BTreeMap::new(), 0);
        for node in dirs.values().flat_map(BTreeMap::values) {
            *links.entry(node.inode).or_default() += 1;
            names += usize::from(!node.is_dir);
        }
        Self { cached: dirs.clone(), durable: dirs, pending: Vec::new(), links, names }
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<Node> {
        find(&self.cached, path)
    }

    /// Whether a crash now would leave this file under this path.
    pub(super) fn is_durable(&self, path: &Path, inode: u64) -> bool {
        find(&self.durable, path).is_ok_and(|node| node.inode == inode)
    }

    /// Whether there is something under this path, now or after a crash.
    pub(super) fn may_be_found(&self, path: &Path) -> bool {
        [&self.cached, &self.durable].into_iter().any(|names| find(names, path).is_ok())
    }

    /// Where the last name of `path` stands or would stand. Its directory must exist.
    pub(super) fn place(&self, path: &Path) -> io::Result<Place> {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidInput)?;
        let dir = find(&self.cached, path.parent().unwrap_or(Path::new("")))?;
        match dir.is_dir {
            true => Ok(Place { dir: dir.inode, name: name.into() }),
            false => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    pub(super) fn get(&self, at: &Place) -> Option<Node> {
        self.cached.get(&at.dir)?.get(&at.name).copied()
    }

    pub(super) fn add(&mut self, at: Place, node: Node) {
        self.change(Change::Add { at, node });
    }

    pub(super) fn remove(&mut self, at: Place, node: Node) {
        self.change(Change::Remove { at, node });
    }

    pub(super) fn rename(&mut self, from: Place, to: Place, node: Node) {
        self.change(Change::Rename { from, to, node });
    }

    fn change(&mut self, change: Change) {
        match &change {
            Change::Add { node, .. } => {
                *self.links.entry(node.inode).or_default() += 1;
                self.names += usize::from(!node.is_dir);
            }
            Change::Remove { node, .. } => self.unlink(*node),
            Change::Rename { from, to, .. } => {
                if let Some(replaced) = self.get(to).filter(|_| from != to) {
                    self.unlink(replaced);
                }
            }
        }
        apply(&mut self.cached, &change);
        self.pending.push(change);
    }

    fn unlink(&mut self, node: Node) {
        self.names -= usize::from(!node.is_dir);
        if let Some(links) = self.links.get_mut(&node.inode) {
            *links -= 1;
            if *links == 0 {
                self.links.remove(&node.inode);
            }
        }
    }

    pub(super) fn list(&self, dir: u64) -> impl Iterator<Item = (&Arc<str>, &Node)> {
        self.cached.get(&dir).into_iter().flatten()
    }

    /// Every file and directory that a name leads to.
    pub(super) fn linked(&self) -> BTreeSet<u64> {
        self.links.keys().copied().collect()
    }

    /// How many names lead to a file.
    pub(super) fn links(&self, inode: u64) -> u64 {
        self.links.get(&inode).copied().unwrap_or(0)
    }

    /// How many names of files there are.
    pub(super) fn names_of_files(&self) -> usize {
        self.names
    }

    /// Makes all changes in `dir` durable, and those that must have come before them.
    pub(super) fn sync_dir(&mut self, dir: u64) {
        self.settle(|change| change.places().any(|place| place.dir == dir));
    }

    /// Makes the names that lead to a file durable, as most file systems do when a new file is synced.
    pub(super) fn sync_names_of(&mut self, inode: u64) {
        let (mut leading, mut at) = (vec![inode], 0);
        while let Some(below) = leading.get(at).copied() {
            at += 1;
            for (dir, names) in &self.cached {
                if !leading.contains(dir) && names.values().any(|node| node.inode == below) {
                    leading.push(*dir);
                }
            }
        }
        self.settle(|change| leading.contains(&change.node().inode));
    }

    /// Moves the pending changes that `wanted` chooses into the durable names. What happened before to the same
    /// file or under the same name goes with them: no later state exists without it.
    fn settle(&mut self, wanted: impl Fn(&Change) -> bool) {
        let (mut nodes, mut places) = (BTreeSet::new(), BTreeSet::new());
        let mut chosen = vec![false; self.pending.len()];
        for (change, chosen) in self.pending.iter().zip(&mut chosen).rev() {
            let needed = nodes.contains(&change.node().inode) || change.places().any(|place| places.contains(place));
            if needed || wanted(change) {
                *chosen = true;
                nodes.insert(change.node().inode);
                places.extend(change.places().cloned());
            }
        }
        let mut chosen = chosen.into_iter();
        let durable = &mut self.durable;
        self.pending.retain(|change| {
            let settles = chosen.next().unwrap_or(false);
            if settles {
                apply(durable, change);
            }
            !settles
        });
    }

    pub(super) fn is_clean(&self) -> bool {
        self.pending.is_empty()
    }

    /// The names found after the power was cut, and which of the files are still reachable.
    pub(super) fn crash(&self, choice: &mut Choice) -> Self {
        let mut found = self.durable.clone();
        for change in &self.pending {
            if choice.keep() && could_happen(&found, change) {
                apply(&mut found, change);
            }
        }
        let reachable = reachable(&found);
        found.retain(|dir, _| reachable.contains(dir));
        Self::of(found)
    }

    /// Every file and directory that a path leads to.
    pub(super) fn reachable(&self) -> BTreeSet<u64> {
        reachable(&self.cached)
    }
}

impl Change {
    fn node(&self) -> Node {
        match self {
            Self::Add { node, .. } | Self::Remove { node, .. } | Self::Rename { node, .. } => *node,
        }
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        let (first, second) = match self {
            Self::Add { at, .. } | Self::Remove { at, .. } => (at, None),
            Self::Rename { from, to, .. } => (from, Some(to)),
        };
        std::iter::once(first).chain(second)
    }
}

fn apply(dirs: &mut Dirs, change: &Change) {
    match change {
        Change::Add { at, node } => insert(dirs, at, *node),
        Change::Remove { at, node } => {
            if let Some(names) = dirs.get_mut(&at.dir) {
                names.remove(&at.name);
            }
            if node.is_dir {
                dirs.remove(&node.inode);
            }
        }
        Change::Rename { from, to, node } => {
            if let Some(names) = dirs.get_mut(&from.dir) {
                names.remove(&from.name);
            }
            insert(dirs, to, *node);
        }
    }
}

fn insert(dirs: &mut Dirs, at: &Place, node: Node) {
    // A directory on the way that never became durable leaves what was put into it unreachable, not gone.
    dirs.entry(at.dir).or_default().insert(Arc::clone(&at.name), node);
    if node.is_dir {
        dirs.entry(node.inode).or_default();
    }
}

fn could_happen(dirs: &Dirs, change: &Change) -> bool {
    let at = |place: &Place| dirs.get(&place.dir).and_then(|names| names.get(&place.name)).copied();
    match change {
        Change::Add { at: place, .. } => at(place).is_none(),
        Change::Remove { at: place, node } => {
            at(place) == Some(*node) && (!node.is_dir || dirs.get(&node.inode).is_none_or(BTreeMap::is_empty))
        }
        Change::Rename { from, to, node } => at(from) == Some(*node) && at(to).is_none_or(|there| !there.is_dir),
    }
}

fn find(dirs: &Dirs, path: &Path) -> io::Result<Node> {
    let mut node = Node { inode: ROOT, is_dir: true };
    // Every call comes by here: to take the path apart as such would be slow, and a name is too short to be searched for
    // its end in words.
    let mut rest = path.to_str().ok_or(io::ErrorKind::InvalidInput)?;
    while !rest.is_empty() {
        let end = rest.bytes().position(|byte| byte == b'/').unwrap_or(rest.len());
        let name = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        match name {
            "" | "." => continue,
            ".." => return Err(io::ErrorKind::InvalidInput.into()),
            _ => {}
        }
        if !node.is_dir {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        node = *dirs.get(&node.inode).and_then(|names| names.get(name)).ok_or(io::ErrorKind::NotFound)?;
    }
    Ok(node)
}

fn reachable(dirs: &Dirs) -> BTreeSet<u64> {
    let mut reached = BTreeSet::from([ROOT]);
    let mut ahead = vec![ROOT];
    while let Some(dir) = ahead.pop() {
        for node in dirs.get(&dir).into_iter().flat_map(BTreeMap::values) {
            if reached.insert(node.inode) && node.is_dir {
                ahead.push(node.inode);
            }
        }
    }
    reached
}
