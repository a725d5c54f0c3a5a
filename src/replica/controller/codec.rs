//! Commands and the state in bytes: what is agreed on, and what a new node goes on from.
//!
//! | Byte | Size | Field   | Notes                                         |
//! |-----:|-----:|---------|-----------------------------------------------|
//! |    0 |    4 | magic   | `cLrc` of a command, `cLrs` of a state        |
//! |    4 |    1 | version | 1                                             |
//! |    5 |      | fields  | of the command, or of the state               |
//! |      |    4 | CRC-32  | of all bytes before it                        |
//!
//! Ids, members and lists are as [`bytes`](super::super::bytes) has them. What is decoded is written as the same
//! bytes again.
//!
//! | Kind of command (u8) | Fields                                                                      |
//! |----------------------|-----------------------------------------------------------------------------|
//! | 0 node up            | member, list of lives, loss (u8): 0 nothing, 1 some, 2 everything; of 1 a list of ids |
//! | 1 node down          | member                                                                      |
//! | 2 lost               | member, partition, epoch                                                    |
//! | 3 in sync            | partition, leader, epoch, version (u64), list of members                    |
//! | 4 create             | partition, list of nodes, minimum (u32)                                     |
//! | 5 delete             | topic                                                                       |
//! | 6 set minimum        | partition, minimum (u32)                                                    |
//! | 7 reassign           | partition, list of nodes                                                    |
//! | 8 elect preferred    | partition                                                                   |
//! | 9 elect unclean      | partition, node                                                             |
//! | 10 reserve producer ids | member, highest id (i64)                                                 |
//!
//! A state is the next producer id (u64), a list of nodes and a list of partitions, each in the order of their ids.
//!
//! | Field of a node | Type            |
//! |-----------------|-----------------|
//! | node, last life | a member        |
//! | whether it lives | u8, 1 or 0     |
//! | former lives    | list            |
//!
//! | Field of a partition | Type                                                       |
//! |----------------------|------------------------------------------------------------|
//! | id                   |                                                            |
//! | version              | u64                                                        |
//! | leader epoch         | i32                                                        |
//! | unclean epoch        | i32, -1 if there was none                                  |
//! | wanted minimum       | u32                                                        |
//! | replicas             | list of nodes                                              |
//! | in sync, eligible    | list of nodes each                                         |
//! | leader               | node, if there is one                                      |
//! | reassignment         | if there is one: list of nodes added, how many of the last replicas go (u32) |
//!
//! Members of a partition are in the last lives of their nodes, so the nodes say all.

use super::nodes::{Node, Nodes};
use super::partition::Partition;
use super::{Command, Controller, Loss, Reassignment};
use crate::checksum::crc32;
use crate::replica::bytes::{
    ID_LEN, LIFE_LEN, MEMBER_LEN, NODE_LEN, count, epoch, expect_end, flag, id, life, list, maybe_epoch, member,
    node, option, put_epoch, put_id, put_life, put_list, put_member, put_node, put_option, put_topic, put_u32,
    put_u64, topic,
};
use crate::replica::{Assignment, InSyncChange, Member};
use crate::types::{LeaderEpoch, NodeId, ProducerId};
use crate::wire::{Invalid, Reader};

#[cfg(test)]
mod tests;

/// Bytes that are no [`Command`], or no state of a [`Controller`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidForm {
    /// They are something else, or cut short.
    #[error("{len} bytes do not begin as {expected}")]
    Foreign {
        /// How many there are.
        len: usize,
        /// What was expected.
        expected: &'static str,
    },

    /// They were written by another version of this crate: use one that knows it.
    #[error("{what} in version {found}, of which only {supported} is supported")]
    Version {
        /// What it is.
        what: &'static str,
        /// Its version.
        found: u8,
        /// The one that is read and written here.
        supported: u8,
    },

    /// They changed since they were written.
    #[error("checksum {found:08x} of bytes whose checksum is {expected:08x}")]
    Checksum {
        /// What is stored.
        found: u32,
        /// What would fit the bytes.
        expected: u32,
    },

    /// They say what makes no sense.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// What comes before and after all that is stored.
///
/// | Byte | Size | Field   | Notes                  |
/// |-----:|-----:|---------|------------------------|
/// |    0 |    4 | magic   | says what it is        |
/// |    4 |    1 | version |                        |
/// |    5 |      | ...     |                        |
/// |      |    4 | CRC-32  | of all bytes before it |
pub(super) struct Frame {
    pub(super) what: &'static str,
    pub(super) magic: [u8; 4],
    pub(super) version: u8,
}

impl Frame {
    pub(super) fn seal(&self, put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.push(self.version);
        put(&mut bytes);
        bytes.extend(crc32(&bytes).to_be_bytes());
        bytes
    }

    /// What is inside, from the first byte after the version on.
    pub(super) fn open<'a>(&self, bytes: &'a [u8]) -> Result<Reader<'a>, InvalidForm> {
        let foreign = InvalidForm::Foreign { len: bytes.len(), expected: self.what };
        // The version is looked at first: another one may have its checksum elsewhere.
        match bytes.strip_prefix(&self.magic) {
            Some(&[version, ..]) if version == self.version => {}
            Some(&[found, ..]) => {
                return Err(InvalidForm::Version { what: self.what, found, supported: self.version });
            }
            _ => return Err(foreign),
        }
        let Some((sealed, crc)) = bytes.split_last_chunk::<4>().filter(|(sealed, _)| sealed.len() > self.magic.len())
        else {
            return Err(foreign);
        };
        let (found, expected) = (u32::from_be_bytes(*crc), crc32(sealed));
        if found != expected {
            return Err(InvalidForm::Checksum { found, expected });
        }
        let mut reader = Reader::new(sealed);
        reader.take(self.magic.len() + 1)?;
        Ok(reader)
    }
}

impl Command {
    /// The command in bytes, to be agreed on.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        COMMAND.seal(|into| put_command(into, self))
    }

    /// Reads a command that is all of `bytes`.
    ///
    /// ```
    /// use chiplog::TopicId;
    /// use chiplog::replica::{Command, InvalidForm};
    ///
    /// let command = Command::Delete { topic: TopicId::from_bytes([7; 16]) };
    /// let mut bytes = command.encode();
    /// assert_eq!(Command::decode(&bytes), Ok(command));
    ///
    /// bytes[4] = 2;
    /// assert!(matches!(Command::decode(&bytes), Err(InvalidForm::Version { found: 2, supported: 1, .. })));
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidForm`] if it is none, not a whole one, or one of another version.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidForm> {
        let mut reader = COMMAND.open(bytes)?;
        let command = take_command(&mut reader)?;
        expect_end(&reader)?;
        Ok(command)
    }
}

impl Controller {
    /// The state in bytes: a snapshot.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        STATE.seal(|into| {
            put_u64(into, self.next_producer as u64);
            put_u32(into, self.nodes.iter().len() as u32);
            self.nodes.iter().for_each(|(id, known)| put_known_node(into, id, known));
            put_u32(into, self.partitions.len() as u32);
            self.partitions.values().for_each(|known| put_partition(into, known));
        })
    }

    /// Reads a state that is all of `bytes`.
    ///
    /// # Errors
    ///
    /// [`InvalidForm`] if it is none, not a whole one, one of another version, or one that no commands lead to.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidForm> {
        let mut reader = STATE.open(bytes)?;
        let controller = take_state(&mut reader)?;
        expect_end(&reader)?;
        controller.check().map_err(|what| Invalid { at: reader.position(), what })?;
        Ok(controller)
    }
}

/// Any bytes in the frame of a command, and in that of a state: what is inside is looked at only then.
#[cfg(any(fuzzing, test))]
pub(crate) fn framed(bytes: &[u8]) -> [Vec<u8>; 2] {
    [COMMAND, STATE].map(|frame| frame.seal(|into| into.extend_from_slice(bytes)))
}

fn put_command(into: &mut Vec<u8>, command: &Command) {
    match command {
        Command::NodeUp { member, continues, lost } => {
            into.push(NODE_UP);
            put_member(into, *member);
            put_list(into, continues, put_life);
            match lost {
                Loss::Nothing => into.push(NOTHING),
                Loss::Partitions(ids) => {
                    into.push(PARTITIONS);
                    put_list(into, ids, put_id);
                }
                Loss::Everything => into.push(EVERYTHING),
            }
        }
        Command::NodeDown { member } => {
            into.push(NODE_DOWN);
            put_member(into, *member);
        }
        Command::Lost { member, id, leader_epoch } => {
            into.push(LOST);
            put_member(into, *member);
            put_id(into, *id);
            put_epoch(into, *leader_epoch);
        }
        Command::InSync(InSyncChange { id, leader, leader_epoch, version, in_sync }) => {
            into.push(IN_SYNC);
            put_id(into, *id);
            put_member(into, *leader);
            put_epoch(into, *leader_epoch);
            put_u64(into, *version);
            put_list(into, in_sync, put_member);
        }
        Command::Create { id, replicas, min_in_sync } => {
            into.push(CREATE);
            put_id(into, *id);
            put_list(into, replicas, put_node);
            put_u32(into, *min_in_sync);
        }
        Command::Delete { topic } => {
            into.push(DELETE);
            put_topic(into, *topic);
        }
        Command::SetMinInSync { id, min_in_sync } => {
            into.push(SET_MIN_IN_SYNC);
            put_id(into, *id);
            put_u32(into, *min_in_sync);
        }
        Command::Reassign { id, replicas } => {
            into.push(REASSIGN);
            put_id(into, *id);
            put_list(into, replicas, put_node);
        }
        Command::ElectPreferred { id } => {
            into.push(ELECT_PREFERRED);
            put_id(into, *id);
        }
        Command::ElectUnclean { id, node } => {
            into.push(ELECT_UNCLEAN);
            put_id(into, *id);
            put_node(into, *node);
        }
        Command::ReserveProducerIds { member, above } => {
            into.push(RESERVE_PRODUCER_IDS);
            put_member(into, *member);
            put_u64(into, above.0 as u64);
        }
    }
}

fn take_command(from: &mut Reader<'_>) -> Result<Command, Invalid> {
    let unknown = from.invalid("unknown kind of command");
    Ok(match from.u8()? {
        NODE_UP => {
            let (member, continues) = (member(from)?, list(from, LIFE_LEN, life)?);
            Command::NodeUp { member, continues, lost: take_loss(from)? }
        }
        NODE_DOWN => Command::NodeDown { member: member(from)? },
        LOST => Command::Lost { member: member(from)?, id: id(from)?, leader_epoch: epoch(from)? },
        IN_SYNC => Command::InSync(InSyncChange {
            id: id(from)?,
            leader: member(from)?,
            leader_epoch: epoch(from)?,
            version: from.u64()?,
            in_sync: list(from, MEMBER_LEN, member)?,
        }),
        CREATE => Command::Create { id: id(from)?, replicas: list(from, NODE_LEN, node)?, min_in_sync: from.u32()? },
        DELETE => Command::Delete { topic: topic(from)? },
        SET_MIN_IN_SYNC => Command::SetMinInSync { id: id(from)?, min_in_sync: from.u32()? },
        REASSIGN => Command::Reassign { id: id(from)?, replicas: list(from, NODE_LEN, node)? },
        ELECT_PREFERRED => Command::ElectPreferred { id: id(from)? },
        ELECT_UNCLEAN => Command::ElectUnclean { id: id(from)?, node: node(from)? },
        RESERVE_PRODUCER_IDS => Command::ReserveProducerIds { member: member(from)?, above: ProducerId(from.i64()?) },
        _ => return Err(unknown),
    })
}

fn take_loss(from: &mut Reader<'_>) -> Result<Loss, Invalid> {
    let unknown = from.invalid("unknown kind of loss");
    Ok(match from.u8()? {
        NOTHING => Loss::Nothing,
        PARTITIONS => Loss::Partitions(list(from, ID_LEN, id)?),
        EVERYTHING => Loss::Everything,
        _ => return Err(unknown),
    })
}

fn put_known_node(into: &mut Vec<u8>, id: NodeId, known: &Node) {
    put_node(into, id);
    put_life(into, known.life);
    into.push(u8::from(known.is_live));
    put_list(into, &known.former, put_life);
}

fn put_partition(into: &mut Vec<u8>, known: &Partition) {
    let put_node_of = |into: &mut Vec<u8>, member: Member| put_node(into, member.node);
    let Assignment { id, version, ref replicas, leader, leader_epoch, ref in_sync, ref eligible, .. } =
        known.assignment;
    put_id(into, id);
    put_u64(into, version);
    put_epoch(into, leader_epoch);
    put_epoch(into, known.assignment.unclean_epoch.unwrap_or(LeaderEpoch::NONE));
    put_u32(into, known.wanted_in_sync);
    put_list(into, replicas, put_node);
    put_list(into, in_sync, put_node_of);
    put_list(into, eligible, put_node_of);
    put_option(into, leader, put_node_of);
    put_option(into, known.reassignment.as_ref(), |into, running| {
        put_list(into, &running.adding, put_node);
        put_u32(into, running.removing.len() as u32);
    });
}

fn take_state(from: &mut Reader<'_>) -> Result<Controller, Invalid> {
    let mut controller = Controller { next_producer: from.u64()? as i64, ..Controller::default() };
    for _ in 0..count(from, MIN_NODE_LEN)? {
        let order = from.invalid("nodes out of order");
        let id = node(from)?;
        let known = Node { life: life(from)?, is_live: flag(from)?, former: list(from, LIFE_LEN, life)? };
        if !controller.nodes.push(id, known) {
            return Err(order);
        }
    }
    for _ in 0..count(from, MIN_PARTITION_LEN)? {
        let order = from.invalid("partitions out of order");
        let known = take_partition(from, &controller.nodes)?;
        let id = known.assignment.id;
        if controller.partitions.last_key_value().is_some_and(|(last, _)| *last >= id) {
            return Err(order);
        }
        controller.partitions.insert(id, known);
    }
    Ok(controller)
}

fn take_partition(from: &mut Reader<'_>, nodes: &Nodes) -> Result<Partition, Invalid> {
    let last_life = |from: &mut Reader<'_>| {
        let unknown = from.invalid("node that was never up");
        nodes.last(node(from)?).ok_or(unknown)
    };
    let (id, version, leader_epoch, unclean_epoch) = (id(from)?, from.u64()?, epoch(from)?, maybe_epoch(from)?);
    let wanted_in_sync = from.u32()?;
    let replicas = list(from, NODE_LEN, node)?;
    let (in_sync, eligible) = (list(from, NODE_LEN, last_life)?, list(from, NODE_LEN, last_life)?);
    let leader = option(from, last_life)?;
    let reassignment = option(from, |from| {
        let adding = list(from, NODE_LEN, node)?;
        let more = from.invalid("more replicas go than there are");
        let stay = replicas.len().checked_sub(from.u32()? as usize).ok_or(more)?;
        let (target, removing) = replicas.split_at(stay);
        Ok(Reassignment { target: target.to_vec(), adding, removing: removing.to_vec() })
    })?;
    let min_in_sync = wanted_in_sync.min(replicas.len() as u32);
    let assignment =
        Assignment { id, version, replicas, leader, leader_epoch, in_sync, eligible, min_in_sync, unclean_epoch };
    Ok(Partition { assignment, wanted_in_sync, reassignment })
}

const COMMAND: Frame = Frame { what: "a command", magic: *b"cLrc", version: 1 };
const STATE: Frame = Frame { what: "a controller's state", magic: *b"cLrs", version: 1 };

const NODE_UP: u8 = 0;
const NODE_DOWN: u8 = 1;
const LOST: u8 = 2;
const IN_SYNC: u8 = 3;
const CREATE: u8 = 4;
const DELETE: u8 = 5;
const SET_MIN_IN_SYNC: u8 = 6;
const REASSIGN: u8 = 7;
const ELECT_PREFERRED: u8 = 8;
const ELECT_UNCLEAN: u8 = 9;
const RESERVE_PRODUCER_IDS: u8 = 10;

const NOTHING: u8 = 0;
const PARTITIONS: u8 = 1;
const EVERYTHING: u8 = 2;

/// Without former lives; without any member.
const MIN_NODE_LEN: usize = MEMBER_LEN + 1 + 4;
const MIN_PARTITION_LEN: usize = ID_LEN + 8 + 4 + 4 + 4 + 3 * 4 + 1 + 1;
