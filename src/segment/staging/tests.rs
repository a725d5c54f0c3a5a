//! One slot: what a kill leaves of it at each store, and what is refused.

use std::sync::Arc;

use parking_lot::Mutex;

use super::*;
use crate::disk::FileId;
use crate::record::{BatchBuilder, BatchOptions, TimestampType};
use crate::sys::{Arena, Stores};
use crate::types::LeaderEpoch;

const SLOT_LEN: usize = 1024;
const FROM: Offset = Offset(7);
const ROOMY: Limits = Limits { len: 500, count: 100, earliest: Timestamp(i64::MIN), latest: Timestamp(i64::MAX) };

fn lap(end_before: Offset) -> Lap {
    Lap {
        number: 0,
        topic: TopicId::from_bytes([1; 16]),
        partition: 2,
        end_before,
        segment_base: Offset(3),
        position: 400,
        file: FileId { device: 1, inode: 2, born: 3 },
    }
}

/// Keeps each store, in order.
#[derive(Debug, Default)]
struct Kept(Mutex<Vec<(usize, Vec<u8>)>>);

impl Stores for Kept {
    fn store(&self, at: usize, bytes: &[u8]) {
        self.0.lock().push((at, bytes.to_vec()));
    }
}

/// A slot in use, whose stores are kept.
fn watched() -> (Staged, Arc<Kept>) {
    let kept = Arc::new(Kept::default());
    let arena = Arena::watched(&[], SLOT_LEN, Arc::clone(&kept) as Arc<dyn Stores>).unwrap();
    let mut staged = Staged::new(arena.into_slots(0, SLOT_LEN).next().unwrap(), 0);
    staged.begin(lap(FROM), usize::MAX);
    (staged, kept)
}

fn slot_of(memory: &[u8]) -> Slot {
    Arena::in_memory(memory, SLOT_LEN).unwrap().into_slots(0, SLOT_LEN).next().unwrap()
}

/// What the next process finds, if anything.
fn left(memory: &[u8]) -> Option<Left> {
    let slot = slot_of(memory);
    let lap = Left::lap_of(&slot)?;
    (slot.word() != 0).then(|| Left::new(slot, lap))
}

/// The memory after the first `count` stores, and `part` bytes of the next one.
fn after(stores: &[(usize, Vec<u8>)], count: usize, part: usize) -> Vec<u8> {
    let mut memory = vec![0; SLOT_LEN];
    for (at, bytes) in &stores[..count] {
        memory[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    if let Some((at, bytes)) = stores.get(count) {
        memory[*at..at + part].copy_from_slice(&bytes[..part]);
    }
    memory
}

fn memory_of(kept: &Kept) -> Vec<u8> {
    let stores = kept.0.lock();
    after(&stores, stores.len(), 0)
}

fn record() -> Record<'static> {
    Record::new("a value").key("k")
}

/// Begins a batch at `offset`, with one record.
fn open(staged: &mut Staged, offset: Offset) {
    let batch = OpenBatch::new(offset, LeaderEpoch(0), TimestampType::CreateTime, Timestamp(5));
    staged.open(batch, &record(), Timestamp(5), ROOMY).unwrap();
}

fn join(staged: &mut Staged) -> Option<Offset> {
    staged.join(&record(), Sender::NONE, Timestamp(6)).unwrap()
}

/// A sealed batch of two records.
fn batch(offset: Offset) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    builder.begin(BatchOptions::default().base_offset(offset));
    (0..2).for_each(|_| builder.push(&record(), Timestamp(5)).unwrap());
    builder.finish().unwrap().to_vec()
}

/// A slot with a sealed batch of two records, a copied one of two, and an open one of two.
fn full() -> (Staged, Arc<Kept>) {
    let (mut staged, kept) = watched();
    open(&mut staged, FROM);
    join(&mut staged).unwrap();
    staged.seal(false);
    staged.copy(&batch(FROM + 2));
    open(&mut staged, FROM + 4);
    join(&mut staged).unwrap();
    (staged, kept)
}

#[test]
fn a_kill_at_any_byte_of_any_store_leaves_all_that_was_acknowledged() {
    let (mut staged, kept) = watched();
    // How many stores there were when the end was acknowledged to be there.
    let mut acked = vec![(0, FROM)];
    let mut ack = |offset: Offset| acked.push((kept.0.lock().len(), offset));
    open(&mut staged, FROM);
    ack(FROM + 1);
    for at in 1..4 {
        assert_eq!(join(&mut staged), Some(FROM + at));
        ack(FROM + at + 1);
    }
    staged.seal(false);
    staged.copy(&batch(FROM + 4));
    ack(FROM + 6);
    open(&mut staged, FROM + 6);
    ack(FROM + 7);
    assert_eq!(staged.seal(true).unwrap().next_offset(), FROM + 7);
    // The file has it all from here on.
    let written = kept.0.lock().len();
    staged.clear();
    staged.begin(lap(FROM + 7), usize::MAX);
    staged.copy(&batch(FROM + 7));
    let again = kept.0.lock().len();

    let stores = kept.0.lock();
    for count in 0..=stores.len() {
        let len = stores.get(count).map_or(0, |(_, bytes)| bytes.len());
        // A word is stored at once.
        for part in 0..if len > 8 { len } else { 1 } {
            let end = left(&after(&stores, count, part)).map(|left| left.replay().unwrap().end);
            let promised = acked.iter().rev().find(|(at, _)| *at <= count).unwrap().1;
            let told = format!("{part} bytes of store {count}: up to {end:?}");
            match count {
                count if count <= written => {
                    let end = end.unwrap_or(FROM);
                    assert!(promised <= end && end <= promised + 2, "{told}");
                }
                count if count < again => assert_eq!(end, None, "{told}"),
                _ => assert_eq!(end, Some(FROM + 9), "{told}"),
            }
        }
    }
}

/// What was adopted and is in the file already is still covered by the word when the next lap begins.
#[test]
fn a_kill_while_the_next_lap_begins_finds_one_of_the_two() {
    let (_, kept) = full();
    let memory = memory_of(&kept);
    let found = left(&memory).unwrap().replay().unwrap();
    let kept = Arc::new(Kept::default());
    let arena = Arena::watched(&memory, SLOT_LEN, Arc::clone(&kept) as Arc<dyn Stores>).unwrap();
    let slot = arena.into_slots(0, SLOT_LEN).next().unwrap();
    let mut adopted = Left::new(slot, lap(FROM)).adopt(&found, found.len, false);
    assert!(adopted.is_empty());
    adopted.begin(lap(found.end), usize::MAX);
    adopted.copy(&batch(found.end));
    let mut stores = kept.0.lock();
    stores.insert(0, (0, memory));
    for count in 1..=stores.len() {
        let len = stores.get(count).map_or(0, |(_, bytes)| bytes.len());
        for part in 0..if len > 8 { len } else { 1 } {
            let end = left(&after(&stores, count, part)).map(|left| left.replay().unwrap().end);
            let is_last = count == stores.len();
            assert!(
                end.is_none_or(|end| end == found.end + if is_last { 2 } else { 0 }),
                "{part} of {count}: {end:?}"
            );
        }
    }
}

#[test]
fn a_slot_goes_on_where_the_file_ends() {
    let (staged, kept) = full();
    let capacity = staged.capacity();
    for has_codec in [false, true] {
        let found = left(&memory_of(&kept)).unwrap().replay().unwrap();
        assert_eq!((found.end, found.batches.len(), found.may_be_packed()), (FROM + 6, 3, false));
        let places: Vec<_> = (0..7).map(|at| found.position_of(FROM + at)).collect();
        let [first, second, third] = [0, 1, 2].map(|at| found.batches[at].0);
        assert_eq!(places[..6], [Some(first), None, Some(second), None, Some(third), None]);
        let end = places[6].unwrap();
        assert_eq!(found.position_of(Offset(3)), None);
        for done in [first, second, third, end] {
            let mut adopted = left(&memory_of(&kept)).unwrap().adopt(&found, done, has_codec);
            assert_eq!((adopted.pending_len(), adopted.room()), (end - done, capacity - end));
            let mut rest = adopted.sealed();
            for (_, header) in found.batches.iter().filter(|(at, _)| *at >= done) {
                let batch = BatchRef::verify(rest).unwrap();
                assert_eq!(batch.header(), header);
                rest = &rest[batch.bytes().len()..];
            }
            assert!(rest.is_empty());
            assert_eq!(adopted.awaits_codec(), has_codec);
            assert_eq!(join(&mut adopted), None, "an adopted batch is not joined");
            adopted.clear();
            assert!(adopted.is_empty() && adopted.room() == capacity);
        }
    }
}

#[test]
fn a_sealed_batch_that_awaits_its_codec_is_known_by_it() {
    for awaits in [false, true] {
        let (mut staged, kept) = watched();
        open(&mut staged, FROM);
        staged.seal(awaits);
        let left = left(&memory_of(&kept)).unwrap();
        let found = left.replay().unwrap();
        assert_eq!(found.may_be_packed(), awaits);
        assert_eq!(left.adopt(&found, 0, false).awaits_codec(), awaits, "also if the topic has none any more");
    }
}

#[test]
fn words_read_back() {
    for word in [
        Word::default(),
        Word { sealed: 1, open: 2, awaits_codec: false },
        Word { sealed: (1 << 31) - 1, open: (1 << 31) - 1, awaits_codec: true },
    ] {
        assert_eq!(Word::decode(word.encode()), word);
    }
}

#[test]
fn a_word_that_says_what_no_slot_can_hold_is_refused() {
    let (staged, kept) = full();
    let memory = memory_of(&kept);
    let good = Word::decode(slot_of(&memory).word());
    assert_eq!(good, staged.word);
    let most = SLOT_LEN - Staged::BATCHES_AT;
    let words = [
        Word { sealed: good.open + 1, ..good }.encode(),
        Word { open: most + 1, ..good }.encode(),
        Word { sealed: most + 1, open: most + 1, ..good }.encode(),
        Word { open: (1 << 31) - 1, ..good }.encode(),
        good.encode() | 1 << 62,
        u64::MAX,
        1 << 62,
        1 << 31,
        // Inside of a header, of a record, of nothing.
        Word { sealed: good.sealed - 1, ..good }.encode(),
        Word { open: good.open - 1, ..good }.encode(),
        Word { open: good.open + 1, ..good }.encode(),
        Word { open: good.sealed + 60, ..good }.encode(),
        Word { open: good.sealed + 61, ..good }.encode(),
        Word { open: most, ..good }.encode(),
        Word { sealed: most, open: most, ..good }.encode(),
    ];
    for word in words {
        let mut memory = memory.clone();
        memory[..8].copy_from_slice(&word.to_ne_bytes());
        let left = left(&memory).unwrap();
        assert!(left.bytes().len() <= most);
        assert!(left.replay().is_err(), "{word:#x}");
        assert_eq!(left.into_slot().word(), 0);
    }
}

#[test]
fn batches_that_do_not_follow_the_lap_and_each_other_are_refused() {
    let what = |batches: &[Vec<u8>]| {
        let (mut staged, kept) = watched();
        batches.iter().for_each(|batch| staged.copy(batch));
        left(&memory_of(&kept)).unwrap().replay().map(|found| found.end).map_err(|invalid| (invalid.at, invalid.what))
    };
    let len = batch(FROM).len();
    assert_eq!(what(&[batch(FROM), batch(FROM + 2)]), Ok(FROM + 4));
    assert_eq!(what(&[batch(FROM + 1)]), Err((0, "batch out of order")));
    assert_eq!(what(&[batch(Offset::ZERO)]), Err((0, "batch out of order")));
    assert_eq!(what(&[batch(FROM), batch(FROM)]), Err((len, "batch out of order")));
    assert_eq!(what(&[batch(FROM), batch(FROM + 3)]), Err((len, "batch out of order")));
    // One that was begun does so, too.
    let (mut staged, kept) = watched();
    staged.copy(&batch(FROM));
    open(&mut staged, FROM + 3);
    assert_eq!(left(&memory_of(&kept)).unwrap().replay().unwrap_err().at, len);
}

/// The records of a sealed batch were not looked at, and readers of what is staged believe that they are whole: they went
/// past the batch and all that followed it, without a word.
#[test]
fn a_sealed_batch_whose_records_are_not_whole_is_refused() {
    let good = batch(FROM);
    for at in BatchHeader::LEN..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        let header = BatchHeader::read(&bad).unwrap().seal(&mut bad);
        let is_whole = check_records(&header, &bad[BatchHeader::LEN..]).is_ok();
        let (mut staged, kept) = watched();
        staged.copy(&bad);
        assert_eq!(left(&memory_of(&kept)).unwrap().replay().is_ok(), is_whole, "at {at}");
    }
    let mut cut = good;
    cut[BatchHeader::LEN] = 0xFF;
    BatchHeader::read(&cut).unwrap().seal(&mut cut);
    let (mut staged, kept) = watched();
    staged.copy(&cut);
    assert!(left(&memory_of(&kept)).unwrap().replay().is_err());
}

/// A damaged epoch was adopted, as no checksum is over it. Written to the file, it ended the log there at the next open.
#[test]
fn a_leader_epoch_that_falls_is_refused() {
    let replay = |epochs: [i32; 3]| {
        let (mut staged, kept) = watched();
        for (number, epoch) in epochs.into_iter().enumerate() {
            let offset = FROM + number as u64;
            let batch = OpenBatch::new(offset, LeaderEpoch(epoch), TimestampType::CreateTime, Timestamp(5));
            staged.seal(false);
            staged.open(batch, &record(), Timestamp(5), ROOMY).unwrap();
        }
        left(&memory_of(&kept)).unwrap().replay().map(drop).map_err(|invalid| invalid.what)
    };
    assert_eq!([[0, 0, 1], [-1, 4, -1], [-1, -1, 0]].map(replay), [Ok(()); 3]);
    let falls = Err("leader epoch falls");
    assert_eq!([[1, 0, 1], [0, 4, 3], [3, -1, 2], [0, 0, -2]].map(replay), [falls; 4]);
}

#[test]
fn any_byte_of_a_sealed_batch_that_differs_is_told_where_it_counts() {
    let (staged, kept) = full();
    let memory = memory_of(&kept);
    for at in Staged::BATCHES_AT..Staged::BATCHES_AT + staged.word.sealed {
        let mut memory = memory.clone();
        memory[at] ^= 0x10;
        // Under no checksum are the offset, which must follow, the length, which must fit, and the epoch.
        let refused = left(&memory).unwrap().replay().is_err();
        let is_epoch = [0, staged.word.sealed - batch(FROM).len()]
            .iter()
            .any(|begin| (12..16).contains(&(at - Staged::BATCHES_AT).wrapping_sub(*begin)));
        assert!(refused || is_epoch, "at {at}");
    }
}

#[test]
fn a_batch_grows_within_its_limits_only() {
    let limited = |limits: Limits, at: i64| {
        let (mut staged, _kept) = watched();
        let batch = OpenBatch::new(FROM, LeaderEpoch(0), TimestampType::CreateTime, Timestamp(5));
        staged.open(batch, &record(), Timestamp(5), limits).unwrap();
        let mut count = 1;
        while staged.join(&record(), Sender::NONE, Timestamp(at)).unwrap().is_some() {
            count += 1;
        }
        assert!(staged.word.open <= limits.len && staged.word.open <= staged.capacity());
        count
    };
    assert_eq!(limited(Limits { count: 3, ..ROOMY }, 5), 3);
    assert_eq!(limited(Limits { latest: Timestamp(5), ..ROOMY }, 6), 1);
    assert_eq!(limited(Limits { earliest: Timestamp(5), ..ROOMY }, 4), 1);
    assert!((2..9).contains(&limited(Limits { len: 120, ..ROOMY }, 5)));
    // The slot is a limit, too.
    assert!(limited(Limits { len: usize::MAX, count: u64::MAX, ..ROOMY }, 5) > 40);
}
