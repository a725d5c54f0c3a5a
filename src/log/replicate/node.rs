//! What a node knows of itself: who it is, which life this is, and which lives this one continues.
//!
//! ```text
//! chiplog node 1
//! log 00112233445566778899aabbccddeeff
//! node 3
//! home 131074 1700000000000000000
//! life 9f86d081884c7d65
//! continues 2c26b46b68ffc68f
//! lost AAECAwQFBgcICQoLDA0ODw 0
//! crc32 1a2b3c4d
//! ```
//!
//! Each open draws a life, and writes it down before it says anything to anybody. Lives before it stay on the list until the
//! controller is known to have heard of this one: whichever of them it knows, this one goes on from it. A directory that was
//! put back from a copy has another list, and an empty one has none: so it is told that they hold less than they promised.
//! For a copy that was made in the very life that ended, there is the home: inode and birth of the file `LOCK`, which is made
//! with the directory and never replaced. In another home nothing is gone on from.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::replace::replace;
use crate::disk::{Disk, read_file};
use crate::error::{Error, Result};
use crate::log::open::LOCK_FILE;
use crate::log::text::{self, Form, LogId};
use crate::probe;
use crate::replica::{Incarnation, Member, PartitionId};
use crate::types::NodeId;

/// The file of a node.
#[derive(Debug)]
pub(super) struct Node {
    path: PathBuf,
    log: LogId,
    known: Known,
}

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    node: NodeId,
    /// Inode and birth of the file that is made with the directory.
    home: (u64, u64),
    life: Incarnation,
    continues: Vec<Incarnation>,
    /// Partitions that have less than this node acknowledged; the controller may not have heard.
    lost: Vec<PartitionId>,
}

impl Node {
    /// Begins a life. Durable when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] if the directory is another node's; those of the disk.
    pub(super) fn begin(disk: &dyn Disk, dir: &Path, log: LogId, node: NodeId, life: Incarnation) -> Result<Self> {
        let path = dir.join(NODE_FILE);
        let before = match read_file(disk, &path, MAX_BYTES) {
            Ok(bytes) => Known::parse(&bytes, log),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => None,
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        if let Some(before) = before.as_ref().filter(|before| before.node != node) {
            return Err(Error::InvalidSetting {
                key: "node".into(),
                value: node.to_string().into(),
                allowed: format!("this directory is that of node {}", before.node).into(),
            });
        }
        let lock = dir.join(LOCK_FILE);
        let id = disk.metadata(&lock).map_err(Error::io("describe", &*lock))?.id;
        let home = (id.inode, id.born);
        let mut known = Known { node, home, life, continues: Vec::new(), lost: Vec::new() };
        let is_at_home = |before: &Known| before.home == home || probe::planted("replica.copy_goes_on");
        if let Some(before) = before.filter(is_at_home) {
            known.continues = before.continues;
            known.continues.push(before.life);
            known.lost = before.lost;
            // Nobody heard of so many: the controller is asked to take this one for new.
            let excess = known.continues.len().saturating_sub(MAX_LIVES);
            known.continues.drain(..excess);
        }
        let node = Self { path, log, known };
        node.store(disk)?;
        Ok(node)
    }

    pub(super) fn member(&self) -> Member {
        Member { node: self.known.node, incarnation: self.known.life }
    }

    /// The lives that this one goes on from.
    pub(super) fn continues(&self) -> &[Incarnation] {
        &self.known.continues
    }

    /// What the lives before lost, and may not have told.
    pub(super) fn lost(&self) -> &[PartitionId] {
        &self.known.lost
    }

    /// The controller has heard of this life, and of what was lost before it.
    pub(super) fn heard(&mut self, disk: &dyn Disk, told: &[PartitionId]) -> Result<()> {
        self.change(disk, |known| {
            known.continues.clear();
            known.lost.retain(|id| !told.contains(id));
        })
    }

    /// Notes that a partition has less than was acknowledged, or that this is known.
    pub(super) fn set_lost(&mut self, disk: &dyn Disk, id: PartitionId, is_lost: bool) -> Result<()> {
        self.change(disk, |known| {
            known.lost.retain(|other| *other != id);
            known.lost.extend(is_lost.then_some(id));
        })
    }

    fn change(&mut self, disk: &dyn Disk, change: impl FnOnce(&mut Known)) -> Result<()> {
        let before = self.known.clone();
        change(&mut self.known);
        if self.known == before {
            return Ok(());
        }
        self.store(disk).inspect_err(|_| self.known = before)
    }

    fn store(&self, disk: &dyn Disk) -> Result<()> {
        replace(disk, &self.path, self.known.to_text(self.log).as_bytes())
    }
}

impl Known {
    fn to_text(&self, log: LogId) -> String {
        let mut text = FORM.begin(log);
        let Self { node, home: (inode, born), life, .. } = self;
        let _ = writeln!(text, "node {node}\nhome {inode} {born}\nlife {life}");
        for life in &self.continues {
            let _ = writeln!(text, "continues {life}");
        }
        for PartitionId { topic, partition } in &self.lost {
            let _ = writeln!(text, "lost {topic} {partition}");
        }
        text::seal(text)
    }

    /// What a file says; `None` if it is not one of this log.
    fn parse(bytes: &[u8], log: LogId) -> Option<Self> {
        let (found, mut lines) = FORM.open(bytes).ok().filter(|(found, _)| *found == log)?;
        let _ = found;
        let life = |text: &str| u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16).map(Incarnation);
        let node = NodeId(lines.next()?.strip_prefix("node ")?.parse().ok()?);
        let (inode, born) = lines.next()?.strip_prefix("home ")?.split_once(' ')?;
        let home = (inode.parse().ok()?, born.parse().ok()?);
        let life_now = life(lines.next()?.strip_prefix("life ")?)?;
        let mut known = Self { node, home, life: life_now, continues: Vec::new(), lost: Vec::new() };
        for line in lines {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["continues", before] => known.continues.push(life(before)?),
                ["lost", topic, partition] => {
                    known.lost.push(PartitionId { topic: topic.parse().ok()?, partition: partition.parse().ok()? });
                }
                _ => return None,
            }
        }
        Some(known)
    }
}

const NODE_FILE: &str = "node";
const FORM: Form = Form { what: "node", version: 1 };
const MAX_BYTES: u64 = 16 << 20;
/// A node that is opened so often without a word to its controller begins anew.
const MAX_LIVES: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;
    use crate::types::TopicId;

    const LOG: LogId = LogId(7);

    fn begin(dir: &Path, node: u32, life: u64) -> Result<Node> {
        std::fs::OpenOptions::new().append(true).create(true).open(dir.join(LOCK_FILE)).unwrap();
        Node::begin(&RealDisk, dir, LOG, NodeId(node), Incarnation(life))
    }

    #[test]
    fn a_life_goes_on_from_all_that_nobody_heard_of() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = begin(dir.path(), 3, 1).unwrap();
        assert_eq!(first.continues(), []);
        first.heard(&RealDisk, &[]).unwrap();
        assert_eq!(begin(dir.path(), 3, 2).unwrap().continues(), [Incarnation(1)]);
        let mut third = begin(dir.path(), 3, 3).unwrap();
        assert_eq!(third.continues(), [Incarnation(1), Incarnation(2)]);
        third.heard(&RealDisk, &[]).unwrap();
        assert_eq!(begin(dir.path(), 3, 4).unwrap().continues(), [Incarnation(3)]);
    }

    #[test]
    fn a_copy_goes_on_from_nothing() {
        let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        begin(dir.path(), 3, 1).unwrap();
        std::fs::copy(dir.path().join(NODE_FILE), copy.path().join(NODE_FILE)).unwrap();
        assert_eq!(begin(copy.path(), 3, 2).unwrap().continues(), []);
    }

    #[test]
    fn a_loss_is_told_until_it_was_heard_of() {
        let dir = tempfile::tempdir().unwrap();
        let id = PartitionId { topic: TopicId::from_bytes([7; 16]), partition: 2 };
        begin(dir.path(), 3, 1).unwrap().set_lost(&RealDisk, id, true).unwrap();
        let mut second = begin(dir.path(), 3, 2).unwrap();
        assert_eq!(second.lost(), [id]);
        second.heard(&RealDisk, &[id]).unwrap();
        assert_eq!(begin(dir.path(), 3, 3).unwrap().lost(), []);
    }

    #[test]
    fn a_directory_of_another_node_is_refused_and_a_damaged_file_is_no_past() {
        let dir = tempfile::tempdir().unwrap();
        begin(dir.path(), 3, 1).unwrap();
        let refused = begin(dir.path(), 4, 2).unwrap_err();
        assert_eq!(refused.to_string(), r#"setting node cannot be "4": this directory is that of node 3"#);
        let path = dir.path().join(NODE_FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        let text = "chiplog node 1\nlog 00000000000000000000000000000007\nnode 3\nhome ";
        assert!(bytes.starts_with(text.as_bytes()));
        bytes[60] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(begin(dir.path(), 3, 2).unwrap().continues(), []);
    }
}
