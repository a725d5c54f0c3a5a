//! Messages in bytes: a head that vouches for itself, then batches as they are stored, which vouch for themselves.
//!
//! | Byte | Size | Field        | Notes                                                       |
//! |-----:|-----:|--------------|-------------------------------------------------------------|
//! |    0 |    4 | magic        | `cLrm`                                                      |
//! |    4 |    1 | version      | 1                                                           |
//! |    5 |    1 | kind         | 0: fetch; answers: 1 batches, 2 diverging, 3 out of range, 4 refused |
//! |    6 |    4 | CRC-32       | of all other bytes of the head                              |
//! |   10 |   16 | topic        |                                                             |
//! |   26 |    4 | partition    |                                                             |
//! |   30 |    4 | leader epoch | i32                                                         |
//! |   34 |    8 | life         | of the one who asks, u64                                    |
//! |   42 |    8 | number       | of the question                                             |
//! |   50 |      | fields       | of the kind, to the end of the head                         |
//!
//! | Kind         | Fields                                                                                      |
//! |--------------|---------------------------------------------------------------------------------------------|
//! | fetch        | next, epoch of the last batch (i32, -1: none), held, start, max bytes (u32)                 |
//! | batches      | committed, start, end, length of the batches (u32); the batches follow the head             |
//! | diverging    | epoch (i32), end                                                                            |
//! | out of range | start, end                                                                                  |
//! | refused      | why (u8): 0 not leader, 1 fenced, 2 unknown, 3 not replica, 4 damaged, 5 failed             |
//!
//! Offsets are i64 and not negative. Numbers are big-endian. A message ends where it says.

use super::{Answer, Fetch, Fetched, Message, Payload, Refusal};
use crate::checksum::Crc32;
use crate::replica::bytes::{
    ID_LEN, LIFE_LEN, epoch, expect_end, id, life, maybe_epoch, put_epoch, put_id, put_life, put_u32, put_u64,
};
use crate::replica::{EpochEnd, Incarnation, PartitionId};
use crate::types::{LeaderEpoch, Offset};
use crate::wire::{Invalid, Reader};

#[cfg(test)]
mod tests;

/// Bytes that are no [`Message`] of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidMessage {
    /// The peer speaks another version: tell it, and whoever runs the two. Its messages must not be guessed at.
    #[error("message in version {found}, of which only {supported} is supported")]
    Version {
        /// The version of the message.
        found: u8,
        /// The one that is read and written here.
        supported: u8,
    },

    /// It is longer than the caller allows. Nothing of it was read or copied.
    #[error("message of {len} bytes, of which at most {limit} are allowed")]
    TooLong {
        /// How many bytes there are.
        len: usize,
        /// How many may be.
        limit: usize,
    },

    /// The head changed on its way. Close the connection: what follows cannot be told apart any more.
    #[error("checksum {found:08x} of a head whose checksum is {expected:08x}")]
    Checksum {
        /// What it carries.
        found: u32,
        /// What would fit its bytes.
        expected: u32,
    },

    /// It is no message, is cut short, or says what makes no sense.
    #[error("not a message: {0}")]
    Invalid(#[from] Invalid),
}

impl Message {
    /// How long the part of a message before its batches can be.
    pub const MAX_HEAD_LEN: usize = FETCH_LEN;

    /// How long a message may be that [`decode`](Self::decode) takes: batches of 64 MiB, and a head.
    pub const MAX_LEN: usize = Self::MAX_HEAD_LEN + (64 << 20);

    /// Appends the message: what [`encode_head`](Self::encode_head) appends, and the [`payload`](Self::payload).
    ///
    /// An offset above [`Offset::MAX`], or batches of more than 4 GiB, are refused by whoever decodes them.
    pub fn encode(&self, into: &mut Vec<u8>) {
        self.encode_head(into);
        into.extend_from_slice(self.payload());
    }

    /// Appends the message without its batches. A transport that sends [`payload`](Self::payload) right after it has
    /// not copied them.
    ///
    /// ```
    /// use chiplog::replica::{Answer, Fetched, Incarnation, Message, PartitionId, Payload};
    /// use chiplog::{LeaderEpoch, Offset, TopicId};
    ///
    /// let id = PartitionId { topic: TopicId::from_bytes([7; 16]), partition: 0 };
    /// let (committed, start, end) = (Offset(8), Offset(0), Offset(9));
    /// let answer = Answer::Batches { committed, start, end, batches: Payload::new("as stored") };
    /// let (leader_epoch, incarnation) = (LeaderEpoch(3), Incarnation(5));
    /// let message = Message::Fetched(Fetched { id, leader_epoch, incarnation, number: 1, answer });
    ///
    /// let mut head = Vec::new();
    /// message.encode_head(&mut head);
    /// assert!(head.len() <= Message::MAX_HEAD_LEN);
    /// assert_eq!(Message::decode(&[&head, message.payload()].concat()), Ok(message));
    /// ```
    pub fn encode_head(&self, into: &mut Vec<u8>) {
        let at = into.len();
        into.extend(MAGIC);
        into.push(VERSION);
        into.push(self.kind());
        put_u32(into, 0); // The checksum.
        let (id, leader_epoch, incarnation, number) = self.address();
        put_id(into, id);
        put_epoch(into, leader_epoch);
        put_life(into, incarnation);
        put_u64(into, number);
        debug_assert_eq!(into.len() - at, FIELDS_AT);
        match self {
            Self::Fetch(fetch) => put_fetch(into, fetch),
            Self::Fetched(fetched) => put_answer(into, &fetched.answer),
        }
        let head = &mut into[at..];
        let crc = head_crc(head);
        head[CRC_AT..AFTER_CRC].copy_from_slice(&crc.to_be_bytes());
    }

    /// The batches that follow the head; of most messages none.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match self {
            Self::Fetched(Fetched { answer: Answer::Batches { batches, .. }, .. }) => batches.as_slice(),
            _ => &[],
        }
    }

    /// Reads a message of at most [`MAX_LEN`](Self::MAX_LEN) bytes.
    ///
    /// # Errors
    ///
    /// As [`decode_limited`](Self::decode_limited).
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidMessage> {
        Self::decode_limited(bytes, Self::MAX_LEN)
    }

    /// Reads a message that is all of `bytes`. Its batches are copied, and not looked at: they carry their own
    /// checksums.
    ///
    /// # Errors
    ///
    /// - [`InvalidMessage::TooLong`] if it has more than `limit` bytes.
    /// - [`InvalidMessage::Version`] if it is of another version, whatever follows.
    /// - [`InvalidMessage::Checksum`] if the head changed on its way.
    /// - [`InvalidMessage::Invalid`] if it is no message, or not a whole one.
    pub fn decode_limited(bytes: &[u8], limit: usize) -> Result<Self, InvalidMessage> {
        let len = bytes.len();
        if len > limit {
            return Err(InvalidMessage::TooLong { len, limit });
        }
        let kind = kind(bytes)?;
        let head_len = head_len(kind).ok_or(Invalid { at: KIND_AT, what: "unknown kind of message" })?;
        let Some((head, rest)) = bytes.split_at_checked(head_len) else {
            return Err(Invalid { at: len, what: "head cut short" }.into());
        };
        let mut reader = Reader::new(head);
        reader.take(CRC_AT)?;
        let (found, expected) = (reader.u32()?, head_crc(head));
        if found != expected {
            return Err(InvalidMessage::Checksum { found, expected });
        }
        let message = Self::take(&mut reader, kind, rest)?;
        expect_end(&reader)?;
        Ok(message)
    }

    fn take(reader: &mut Reader<'_>, kind: u8, rest: &[u8]) -> Result<Self, Invalid> {
        let (id, leader_epoch, incarnation, number) = (id(reader)?, epoch(reader)?, life(reader)?, reader.u64()?);
        if kind != BATCHES && !rest.is_empty() {
            return Err(Invalid { at: FIELDS_AT, what: "batches after a message that has none" });
        }
        if kind == FETCH {
            let (next, last_epoch, held) = (offset(reader)?, maybe_epoch(reader)?, offset(reader)?);
            let (start, max_bytes) = (offset(reader)?, reader.u32()?);
            let fetch = Fetch { id, leader_epoch, incarnation, number, next, last_epoch, held, start, max_bytes };
            return Ok(Self::Fetch(fetch));
        }
        let answer = take_answer(reader, kind, rest)?;
        Ok(Self::Fetched(Fetched { id, leader_epoch, incarnation, number, answer }))
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Fetch(_) => FETCH,
            Self::Fetched(fetched) => match fetched.answer {
                Answer::Batches { .. } => BATCHES,
                Answer::Diverging(_) => DIVERGING,
                Answer::OutOfRange { .. } => OUT_OF_RANGE,
                Answer::Refused(_) => REFUSED,
            },
        }
    }

    fn address(&self) -> (PartitionId, LeaderEpoch, Incarnation, u64) {
        match self {
            Self::Fetch(Fetch { id, leader_epoch, incarnation, number, .. })
            | Self::Fetched(Fetched { id, leader_epoch, incarnation, number, .. }) => {
                (*id, *leader_epoch, *incarnation, *number)
            }
        }
    }
}

/// Makes of any bytes those of a message whose head is as it was written.
#[cfg(any(fuzzing, test))]
pub(crate) fn mend(bytes: &mut [u8]) {
    let Some((kind, head_len)) = bytes.get(KIND_AT).and_then(|kind| Some((*kind, head_len(*kind)?))) else { return };
    let len = bytes.len();
    let Some(head) = bytes.get_mut(..head_len) else { return };
    head[..MAGIC.len()].copy_from_slice(&MAGIC);
    head[KIND_AT - 1] = VERSION;
    if kind == BATCHES {
        let rest = (len - head_len) as u32;
        head[head_len - size_of::<u32>()..].copy_from_slice(&rest.to_be_bytes());
    }
    let crc = head_crc(head);
    head[CRC_AT..AFTER_CRC].copy_from_slice(&crc.to_be_bytes());
}

/// The kind of the message that `bytes` begin with, if it is of this version.
fn kind(bytes: &[u8]) -> Result<u8, InvalidMessage> {
    let mut reader = Reader::new(bytes);
    if reader.take(MAGIC.len())? != MAGIC {
        return Err(Invalid { at: 0, what: "other magic" }.into());
    }
    match reader.u8()? {
        VERSION => Ok(reader.u8()?),
        found => Err(InvalidMessage::Version { found, supported: VERSION }),
    }
}

fn head_len(kind: u8) -> Option<usize> {
    Some(match kind {
        FETCH => FETCH_LEN,
        BATCHES => FIELDS_AT + 3 * OFFSET_LEN + 4,
        DIVERGING => FIELDS_AT + 4 + OFFSET_LEN,
        OUT_OF_RANGE => FIELDS_AT + 2 * OFFSET_LEN,
        REFUSED => FIELDS_AT + 1,
        _ => return None,
    })
}

fn head_crc(head: &[u8]) -> u32 {
    let mut crc = Crc32::new();
    crc.update(&head[..CRC_AT]);
    crc.update(&head[AFTER_CRC..]);
    crc.finish()
}

fn put_fetch(into: &mut Vec<u8>, fetch: &Fetch) {
    let Fetch { id: _, leader_epoch: _, incarnation: _, number: _, next, last_epoch, held, start, max_bytes } =
        *fetch;
    put_u64(into, next.0);
    // Very old batches say of themselves that they have none.
    put_epoch(into, last_epoch.filter(|epoch| epoch.0 >= 0).unwrap_or(LeaderEpoch::NONE));
    put_u64(into, held.0);
    put_u64(into, start.0);
    put_u32(into, max_bytes);
}

fn put_answer(into: &mut Vec<u8>, answer: &Answer) {
    match answer {
        Answer::Batches { committed, start, end, batches } => {
            [committed, start, end].iter().for_each(|offset| put_u64(into, offset.0));
            put_u32(into, u32::try_from(batches.as_slice().len()).unwrap_or(u32::MAX));
        }
        Answer::Diverging(EpochEnd { epoch, end }) => {
            put_epoch(into, *epoch);
            put_u64(into, end.0);
        }
        Answer::OutOfRange { start, end } => [start, end].iter().for_each(|offset| put_u64(into, offset.0)),
        Answer::Refused(refusal) => into.push(match refusal {
            Refusal::NotLeader => 0,
            Refusal::Fenced => 1,
            Refusal::Unknown => 2,
            Refusal::NotReplica => 3,
            Refusal::Damaged => 4,
            Refusal::Failed => 5,
        }),
    }
}

fn take_answer(reader: &mut Reader<'_>, kind: u8, rest: &[u8]) -> Result<Answer, Invalid> {
    Ok(match kind {
        BATCHES => {
            let (committed, start, end) = (offset(reader)?, offset(reader)?, offset(reader)?);
            let other_len = reader.invalid("other length than that of the batches that follow");
            if usize::try_from(reader.u32()?) != Ok(rest.len()) {
                return Err(other_len);
            }
            let batches = if rest.is_empty() { Payload::empty() } else { Payload::new(Box::<[u8]>::from(rest)) };
            Answer::Batches { committed, start, end, batches }
        }
        DIVERGING => Answer::Diverging(EpochEnd { epoch: epoch(reader)?, end: offset(reader)? }),
        OUT_OF_RANGE => Answer::OutOfRange { start: offset(reader)?, end: offset(reader)? },
        _ => Answer::Refused(refusal(reader)?),
    })
}

fn refusal(reader: &mut Reader<'_>) -> Result<Refusal, Invalid> {
    let unknown = reader.invalid("unknown reason");
    Ok(match reader.u8()? {
        0 => Refusal::NotLeader,
        1 => Refusal::Fenced,
        2 => Refusal::Unknown,
        3 => Refusal::NotReplica,
        4 => Refusal::Damaged,
        5 => Refusal::Failed,
        _ => return Err(unknown),
    })
}

fn offset(reader: &mut Reader<'_>) -> Result<Offset, Invalid> {
    let negative = reader.invalid("negative offset");
    Offset::from_wire(reader.i64()?).ok_or(negative)
}

const MAGIC: [u8; 4] = *b"cLrm";
const VERSION: u8 = 1;
const KIND_AT: usize = MAGIC.len() + size_of_val(&VERSION);
const CRC_AT: usize = KIND_AT + 1;
const AFTER_CRC: usize = CRC_AT + size_of::<u32>();
const FIELDS_AT: usize = 50;
const OFFSET_LEN: usize = size_of::<u64>();
const FETCH_LEN: usize = FIELDS_AT + OFFSET_LEN + 4 + 2 * OFFSET_LEN + 4;

const FETCH: u8 = 0;
const BATCHES: u8 = 1;
const DIVERGING: u8 = 2;
const OUT_OF_RANGE: u8 = 3;
const REFUSED: u8 = 4;

const _: () = assert!(AFTER_CRC == 10 && AFTER_CRC + ID_LEN + 4 + LIFE_LEN + 8 == FIELDS_AT);
