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
//! damaged AAECAwQFBgcICQoLDA0ODw 1
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
    /// Partitions that had less than this node had acknowledged when a life began; the controller may not have heard.
    lost: Vec<PartitionId>,
    /// Partitions in which damage was found, until they are made anew.
    damaged: Vec<PartitionId>,
}

impl Node {
    /// Begins a life that finds these partitions with less than was acknowledged. Durable when this returns: the next life finds
    /// nothing wrong with them, perhaps, and the controller has not heard of this one.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] if the directory is another node's; those of the disk.
    pub(super) fn begin(
        disk: &dyn Disk,
        dir: &Path,
        log: LogId,
        member: Member,
        found_lost: Vec<PartitionId>,
    ) -> Result<Self> {
        let Member { node, incarnation: life } = member;
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
        let mut known = Known { node, home, life, continues: Vec::new(), lost: found_lost, damaged: Vec::new() };
        let is_at_home = |before: &Known| before.home == home || probe::planted("replica.copy_goes_on");
        if let Some(before) = before.filter(is_at_home) {
            known.continues = before.continues;
            known.continues.push(before.life);
            let lost = before.lost.into_iter().chain(before.damaged.iter().copied());
            let unknown: Vec<_> = lost.filter(|id| !known.lost.contains(id)).collect();
            known.lost.extend(unknown);
            known.damaged = before.damaged;
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

    /// What this life and those before lost, of which the controller may not have heard.
    pub(super) fn lost(&self) -> &[PartitionId] {
        &self.known.lost
    }

    /// Whether damage was found in a partition, and it was not made anew since.
    pub(super) fn is_damaged(&self, id: PartitionId) -> bool {
        self.known.damaged.contains(&id)
    }

    /// The controller has heard of this life, and of what was lost before it.
    pub(super) fn heard(&mut self, disk: &dyn Disk, told: &[PartitionId]) -> Result<()> {
        self.change(disk, |known| {
            known.continues.clear();
            known.lost.retain(|id| !told.contains(id));
        })
    }

    /// Notes that a partition is damaged, or made anew.
    pub(super) fn set_damaged(&mut self, disk: &dyn Disk, id: PartitionId, is_damaged: bool) -> Result<()> {
        self.change(disk, |known| {
            known.damaged.retain(|other| *other != id);
            known.damaged.extend(is_damaged.then_some(id));
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
        for (word, ids) in [("lost", &self.lost), ("damaged", &self.damaged)] {
            for PartitionId { topic, partition } in ids {
                let _ = writeln!(text, "{word} {topic} {partition}");
            }
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
        let (continues, lost, damaged) = (Vec::new(), Vec::new(), Vec::new());
        let mut known = Self { node, home, life: life_now, continues, lost, damaged };
        for line in lines {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["continues", before] => known.continues.push(life(before)?),
                [word @ ("lost" | "damaged"), topic, partition] => {
                    let ids = if word == "lost" { &mut known.lost } else { &mut known.damaged };
                    ids.push(PartitionId { topic: topic.parse().ok()?, partition: partition.parse().ok()? });
                }
                _ => return None,
            }
        }
        Some(known)
    }
}

pub(in crate::log) const NODE_FILE: &str = "node";
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
        let member = Member { node: NodeId(node), incarnation: Incarnation(life) };
        Node::begin(&RealDisk, dir, LOG, member, Vec::new())
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

    /// A life found that the power had taken something, could tell nobody, and was closed in order. The next one found
    /// nothing wrong.
    #[test]
    fn a_loss_is_told_until_it_was_heard_of_and_damage_until_it_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let id = |partition| PartitionId { topic: TopicId::from_bytes([7; 16]), partition };
        drop(begin(dir.path(), 3, 1).unwrap());
        let member = Member { node: NodeId(3), incarnation: Incarnation(2) };
        drop(Node::begin(&RealDisk, dir.path(), LOG, member, vec![id(2)]).unwrap());
        let mut third = begin(dir.path(), 3, 3).unwrap();
        assert_eq!(third.lost(), [id(2)]);
        third.heard(&RealDisk, &[id(2)]).unwrap();
        third.set_damaged(&RealDisk, id(5), true).unwrap();
        let mut fourth = begin(dir.path(), 3, 4).unwrap();
        assert_eq!((fourth.lost(), fourth.is_damaged(id(5))), (&[id(5)][..], true));
        fourth.heard(&RealDisk, &[id(5)]).unwrap();
        assert!(begin(dir.path(), 3, 5).unwrap().is_damaged(id(5)), "who heard of it did not mend it");
        begin(dir.path(), 3, 6).unwrap().set_damaged(&RealDisk, id(5), false).unwrap();
        assert!(!begin(dir.path(), 3, 7).unwrap().is_damaged(id(5)));
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
