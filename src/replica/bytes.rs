//! How ids, members and lists of them look in bytes: the same in messages, commands and states. Numbers are big-endian.
//!
//! | Of                | Bytes                                                      |
//! |-------------------|------------------------------------------------------------|
//! | a partition's id  | the topic (16), the number of the partition (u32)          |
//! | a member          | the node (u32), its life (u64)                             |
//! | a list            | how many (u32), each                                       |
//! | what may be there | 1 and it, or 0                                             |
//! | an epoch          | i32; where there may be none, that is -1                   |
//!
//! A count is believed only if so many entries have room in what is left.

use super::{Incarnation, Member, PartitionId};
use crate::types::{LeaderEpoch, NodeId, TopicId};
use crate::wire::{Invalid, Reader};

pub(super) const ID_LEN: usize = 20;
pub(super) const NODE_LEN: usize = 4;
pub(super) const LIFE_LEN: usize = 8;
pub(super) const MEMBER_LEN: usize = NODE_LEN + LIFE_LEN;

pub(super) fn expect_end(reader: &Reader<'_>) -> Result<(), Invalid> {
    if reader.is_empty() { Ok(()) } else { Err(reader.invalid("bytes after the end")) }
}

pub(super) fn put_id(into: &mut Vec<u8>, id: PartitionId) {
    put_topic(into, id.topic);
    put_u32(into, id.partition);
}

pub(super) fn put_topic(into: &mut Vec<u8>, topic: TopicId) {
    into.extend(topic.as_bytes());
}

pub(super) fn put_member(into: &mut Vec<u8>, member: Member) {
    put_node(into, member.node);
    put_life(into, member.incarnation);
}

pub(super) fn put_node(into: &mut Vec<u8>, node: NodeId) {
    put_u32(into, node.0);
}

pub(super) fn put_life(into: &mut Vec<u8>, life: Incarnation) {
    put_u64(into, life.0);
}

pub(super) fn put_epoch(into: &mut Vec<u8>, epoch: LeaderEpoch) {
    into.extend(epoch.0.to_be_bytes());
}

pub(super) fn put_u32(into: &mut Vec<u8>, value: u32) {
    into.extend(value.to_be_bytes());
}

pub(super) fn put_u64(into: &mut Vec<u8>, value: u64) {
    into.extend(value.to_be_bytes());
}

pub(super) fn put_list<T: Copy>(into: &mut Vec<u8>, list: &[T], put: impl Fn(&mut Vec<u8>, T)) {
    // What a list of more could not be in memory.
    debug_assert!(u32::try_from(list.len()).is_ok());
    put_u32(into, list.len() as u32);
    list.iter().for_each(|each| put(into, *each));
}

pub(super) fn put_option<T>(into: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    into.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(into, value);
    }
}

pub(super) fn id(reader: &mut Reader<'_>) -> Result<PartitionId, Invalid> {
    Ok(PartitionId { topic: topic(reader)?, partition: reader.u32()? })
}

pub(super) fn topic(reader: &mut Reader<'_>) -> Result<TopicId, Invalid> {
    let cut = reader.invalid("id of a topic cut short");
    reader.take(16)?.first_chunk().copied().map(TopicId::from_bytes).ok_or(cut)
}

pub(super) fn member(reader: &mut Reader<'_>) -> Result<Member, Invalid> {
    Ok(Member { node: node(reader)?, incarnation: life(reader)? })
}

pub(super) fn node(reader: &mut Reader<'_>) -> Result<NodeId, Invalid> {
    reader.u32().map(NodeId)
}

pub(super) fn life(reader: &mut Reader<'_>) -> Result<Incarnation, Invalid> {
    reader.u64().map(Incarnation)
}

pub(super) fn epoch(reader: &mut Reader<'_>) -> Result<LeaderEpoch, Invalid> {
    reader.i32().map(LeaderEpoch)
}

/// An epoch, or -1.
pub(super) fn maybe_epoch(reader: &mut Reader<'_>) -> Result<Option<LeaderEpoch>, Invalid> {
    let below = reader.invalid("epoch below -1");
    match epoch(reader)? {
        LeaderEpoch::NONE => Ok(None),
        epoch if epoch < LeaderEpoch::NONE => Err(below),
        epoch => Ok(Some(epoch)),
    }
}

/// A byte that is 0 or 1.
pub(super) fn flag(reader: &mut Reader<'_>) -> Result<bool, Invalid> {
    let neither = reader.invalid("neither 0 nor 1");
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(neither),
    }
}

/// A list, each of whose entries takes at least `each_len` bytes.
pub(super) fn list<'a, T>(
    reader: &mut Reader<'a>,
    each_len: usize,
    take: impl Fn(&mut Reader<'a>) -> Result<T, Invalid>,
) -> Result<Vec<T>, Invalid> {
    let count = count(reader, each_len)?;
    let mut list = Vec::with_capacity(count);
    for _ in 0..count {
        list.push(take(reader)?);
    }
    Ok(list)
}

pub(super) fn count(reader: &mut Reader<'_>, each_len: usize) -> Result<usize, Invalid> {
    let past = reader.invalid("more entries than there are bytes for");
    let count = usize::try_from(reader.u32()?).map_err(|_| past)?;
    if count > reader.remaining() / each_len { Err(past) } else { Ok(count) }
}

pub(super) fn option<'a, T>(
    reader: &mut Reader<'a>,
    take: impl FnOnce(&mut Reader<'a>) -> Result<T, Invalid>,
) -> Result<Option<T>, Invalid> {
    if flag(reader)? { take(reader).map(Some) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_refused_before_anything_is_allocated() {
        let past = Invalid { at: 0, what: "more entries than there are bytes for" };
        let bytes = [0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4];
        assert_eq!(list(&mut Reader::new(&bytes), NODE_LEN, node), Err(past));
        let bytes = [0, 0, 0, 1, 0, 0, 0, 9];
        assert_eq!(list(&mut Reader::new(&bytes), NODE_LEN, node), Ok(vec![NodeId(9)]));
        assert_eq!(list(&mut Reader::new(&bytes), NODE_LEN + 1, node), Err(past));
    }

    #[test]
    fn there_is_one_way_to_write_what_may_not_be_there() {
        let neither = Invalid { at: 0, what: "neither 0 nor 1" };
        assert_eq!(option(&mut Reader::new(&[2, 0, 0, 0, 1]), node), Err(neither));
        assert_eq!(option(&mut Reader::new(&[1, 0, 0, 0, 1]), node), Ok(Some(NodeId(1))));
        let below = Invalid { at: 0, what: "epoch below -1" };
        assert_eq!(maybe_epoch(&mut Reader::new(&(-2_i32).to_be_bytes())), Err(below));
        assert_eq!(maybe_epoch(&mut Reader::new(&(-1_i32).to_be_bytes())), Ok(None));
    }
}
