//! Arenas as processes leave them: which are replayed, what their slots are worth, and whose they are next.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use super::*;
use crate::record::{self, BatchBuilder, BatchOptions, BatchRef};
use crate::sim::{DiskOptions, Errno, Fault, Record, Rng, SimDisk, Times};
use crate::types::{Offset, Timestamp};

const LAYOUT: Layout = Layout { slot_len: 512, slot_count: 4, batch_len: 200, stride: 256 };
const PATH: &str = "/staging";
const FROM: Offset = Offset(7);

fn key(number: u8) -> Key {
    (TopicId::from_bytes([number; 16]), 0)
}

fn origin(disk: &SimDisk) -> Origin {
    let boot = disk.volume(Path::new("/")).unwrap().boot;
    Origin { log: [1; 16], boot, layout: LAYOUT, refused: None, read_only: false }
}

/// Opens what is on the disk, and says whether that is to be reported.
fn replay(disk: &SimDisk) -> (Pool, bool) {
    let (pool, told) = Pool::replay(disk, PATH.into(), origin(disk), None).unwrap();
    (pool, told.is_some())
}

fn take(pool: &Pool, disk: &SimDisk, number: u8) -> Staged {
    pool.take(disk, key(number), |_| ()).unwrap()
}

/// What a lap of the partition says of its file.
fn lap(number: u8, end_before: Offset) -> Lap {
    let file = FileId { device: 1, inode: 2, born: 3 };
    let (topic, partition) = key(number);
    Lap { number: 0, topic, partition, end_before, segment_base: Offset::ZERO, position: 0, file }
}

fn batch(offset: Offset) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    builder.begin(BatchOptions::default().base_offset(offset));
    builder.push(&record::Record::new("a value"), Timestamp(5)).unwrap();
    builder.finish().unwrap().to_vec()
}

#[test]
fn laps_end_at_the_last_multiple_of_the_stride_they_reach_or_wherever_they_must() {
    let layout = Layout { slot_len: 900, slot_count: 1, batch_len: 100, stride: 256 };
    let lap_len = |position, len| layout.lap_len(position, len, 700);
    assert_eq!([lap_len(0, 1), lap_len(1, 1), lap_len(200, 1), lap_len(256, 1)], [512, 511, 568, 512]);
    assert_eq!([lap_len(0, 512), lap_len(0, 513), lap_len(0, 700)], [512, 700, 700], "a batch has to fit");
    assert_eq!(Layout { stride: 4_096, ..layout }.lap_len(0, 1, 700), 700, "none is reached");
    let zeros = [0, 1, 155, 156, 255, 256].map(|position| layout.zeros_behind(position));
    assert_eq!(zeros, [0, 0, 0, 100, 1, 0], "no more of them than a batch is long");
}

/// Stages one record.
fn stage(staged: &mut Staged, number: u8) {
    staged.begin(lap(number, FROM), usize::MAX);
    staged.copy(&batch(FROM));
}

/// Writes what is staged, as far as the slot can tell.
fn written(staged: &mut Staged, number: u8, end_before: Offset) {
    staged.begin(lap(number, end_before), usize::MAX);
    staged.copy(&batch(end_before));
    staged.clear();
}

/// The disk after a process was killed that staged a record in each of so many partitions.
fn killed(count: u8) -> Arc<SimDisk> {
    let disk = SimDisk::new(DiskOptions::default());
    let (pool, _) = replay(&disk);
    (0..count).for_each(|number| stage(&mut take(&pool, &disk, number), number));
    disk.kill()
}

fn file(disk: &SimDisk) -> Arc<dyn DiskFile> {
    disk.open(Path::new(PATH), Open::Write).unwrap()
}

fn bytes(disk: &SimDisk, path: &str) -> Vec<u8> {
    crate::disk::read_file(disk, Path::new(path), u64::MAX).unwrap()
}

fn header(disk: &SimDisk) -> ArenaHeader {
    ArenaHeader::decode(&bytes(disk, PATH)).unwrap().unwrap()
}

fn slot_at(number: usize) -> u64 {
    (ArenaHeader::LEN + LAYOUT.slot_len as usize * number) as u64
}

/// Whether the records that `killed` staged are found.
fn is_left(pool: &Pool, number: u8) -> bool {
    let end = pool.with_left(key(number), |left| left.replay().unwrap().end);
    end == Some(FROM + 1)
}

// --- Arenas -----------------------------------------------------------------------------------------------------------

#[test]
fn what_a_killed_process_staged_is_found_and_goes_to_its_partition_only() {
    let disk = killed(3);
    let (pool, told) = replay(&disk);
    assert!(!told && (0..3).all(|number| is_left(&pool, number)));
    assert!(pool.take(&*disk, key(0), |_| ()).is_none(), "not before it took what is its own");
    let left = pool.take_left(key(0)).unwrap();
    assert!(pool.take_left(key(0)).is_none() && pool.in_use() == 3);
    pool.put_back(key(0), left);
    assert!(is_left(&pool, 0) && pool.in_use() == 3);
    // The one slot that is free goes to another, and no other after it.
    stage(&mut take(&pool, &disk, 9), 9);
    assert!(pool.take(&*disk, key(8), |_| ()).is_none());
    let (pool, told) = replay(&disk.kill());
    assert!(!told && [0, 1, 2, 9].iter().all(|number| is_left(&pool, *number)));
}

#[test]
fn an_arena_of_another_log_boot_or_file_is_never_stored_to() {
    let others: [fn(&mut ArenaHeader); 5] = [
        |header| header.log = [2; 16],
        |header| header.boot = BootId([2; 16]),
        |header| header.file.device += 1,
        |header| header.file.inode += 1,
        |header| header.file.born += 1,
    ];
    for (other, is_named) in others.into_iter().flat_map(|other| [(other, false), (other, true)]) {
        let disk = killed(2);
        let mut header = header(&disk);
        other(&mut header);
        let held = file(&disk);
        write_all_at(&*held, &header.encode(), 0).unwrap();
        let before = bytes(&disk, PATH);
        let named = is_named.then(|| held.metadata().unwrap().id);
        let (pool, told) = Pool::replay(&*disk, PATH.into(), origin(&disk), named).unwrap();
        assert_eq!(told.is_some(), is_named, "{header:?}");
        assert!(pool.left_keys().is_empty() && pool.lap(key(0)).is_none() && pool.is_idle());
        stage(&mut take(&pool, &disk, 0), 0);
        let mut now = vec![0; before.len()];
        read_exact_at(&*held, &mut now, 0).unwrap();
        assert!(now == before, "it was stored to");
        // One that was missed is kept.
        assert_eq!(disk.metadata(Path::new("/staging.cut")).is_ok(), is_named);
        assert!(!is_named || bytes(&disk, "/staging.cut") == before);
        assert!(is_left(&replay(&disk.kill()).0, 0));
    }
}

#[test]
fn an_arena_that_is_missed_and_damaged_is_put_aside_under_a_name_that_is_free() {
    for removes in [false, true] {
        let disk = killed(1);
        disk.open(Path::new("/staging.cut"), Open::CreateNew).unwrap();
        let held = file(&disk);
        write_all_at(&*held, &[0xA5; 64], 0).unwrap();
        let before = bytes(&disk, PATH);
        let named = Some(held.metadata().unwrap().id);
        let (pool, told) = Pool::replay(&*disk, PATH.into(), origin(&disk), named).unwrap();
        assert!(told.is_some());
        match removes {
            true => pool.remove(&*disk).unwrap(),
            false => drop(take(&pool, &disk, 0)),
        }
        assert!(bytes(&disk, "/staging.1.cut") == before && bytes(&disk, "/staging.cut").is_empty());
        assert_eq!(disk.metadata(Path::new(PATH)).is_ok(), !removes);
    }
    // One that is gone is told of, and nothing is there to be kept.
    let disk = killed(1);
    let named = Some(file(&disk).metadata().unwrap().id);
    disk.remove_file(Path::new(PATH)).unwrap();
    let (pool, told) = Pool::replay(&*disk, PATH.into(), origin(&disk), named).unwrap();
    stage(&mut take(&pool, &disk, 0), 0);
    assert!(told.is_some() && disk.metadata(Path::new("/staging.cut")).is_err());
}

/// A call that failed was taken for damage, and the records of a killed process for lost.
#[test]
fn a_call_that_fails_while_an_arena_is_read_is_an_error() {
    let killed = killed(2);
    let calls = {
        let disk = killed.kill();
        replay(&disk);
        disk.calls()
    };
    for (call, read_only) in (0..calls).flat_map(|call| [(call, false), (call, true)]) {
        let disk = killed.kill();
        let origin = Origin { read_only, ..origin(&disk) };
        let began = disk.calls();
        disk.inject(began + call, Fault::Error(Errno::Io), Times::Once);
        let replayed = Pool::replay(&*disk, PATH.into(), origin, None);
        match disk.struck() {
            0 => assert!(is_left(&replayed.unwrap().0, 1)),
            _ => assert!(matches!(replayed, Err(Error::Io { .. })), "call {call}: {replayed:?}"),
        }
    }
}

/// Whoever claims to have slots that are longer, or more, than a file can have is not believed, and not made room for.
#[test]
fn an_arena_that_cannot_be_as_its_header_says_is_told_of_and_not_mapped() {
    let layouts = [
        (0, 4),
        (8, 4),
        (63, 4),
        (64, 4),
        (100, 4),
        (Staged::BATCHES_AT as u32, 4),
        (512, 5),
        (512, u32::MAX),
        (1024, 4),
        (MAX_SLOT_LEN, 1),
        (u32::MAX, u32::MAX),
        (1 << 31, MAX_SLOTS),
    ];
    let lens = [0, 1, 100, 4095, 4096, slot_at(4) - 1];
    let layouts = layouts.map(|layout| (Some(layout), slot_at(4)));
    // As long as it says, of nothing: files may have holes.
    let hollow = [(MAX_SLOT_LEN + 64, 1), (256, MAX_SLOTS + 1)]
        .map(|(slot_len, count)| (Some((slot_len, count)), 4096 + u64::from(slot_len) * u64::from(count)));
    let all = layouts.into_iter().chain(hollow).chain(lens.map(|len| (None, len)));
    for (layout, len) in all {
        for read_only in [false, true] {
            let disk = killed(2);
            let held = file(&disk);
            if let Some((slot_len, slot_count)) = layout {
                write_all_at(&*held, &ArenaHeader { slot_len, slot_count, ..header(&disk) }.encode(), 0).unwrap();
            }
            held.set_len(len).unwrap();
            let named = Some(held.metadata().unwrap().id);
            let disk = disk.kill();
            disk.trace();
            let origin = Origin { read_only, ..origin(&disk) };
            let (pool, told) = Pool::replay(&*disk, PATH.into(), origin, named).unwrap();
            assert!(told.is_some() && pool.is_idle(), "{layout:?}, {len} bytes");
            let calls = disk.take_trace();
            assert!(calls.len() < 5 && calls.iter().all(|call| !call.contains("map")), "{calls:?}");
            assert_eq!(pool.take(&*disk, key(0), |_| ()).is_some(), !read_only);
        }
    }
}

#[test]
fn an_arena_keeps_its_layout_whatever_the_settings_say() {
    let killed = killed(2);
    for layout in [
        Layout { slot_len: 4096, slot_count: 1, batch_len: 2000, stride: 256 },
        Layout { slot_len: 256, slot_count: 9, ..LAYOUT },
    ] {
        let disk = killed.kill();
        let (pool, told) = Pool::replay(&*disk, PATH.into(), Origin { layout, ..origin(&disk) }, None).unwrap();
        assert!(told.is_none() && is_left(&pool, 0) && is_left(&pool, 1));
        for number in [2, 3] {
            let mut staged = take(&pool, &disk, number);
            assert_eq!(staged.capacity(), LAYOUT.slot_len as usize - Staged::BATCHES_AT);
            stage(&mut staged, number);
        }
        assert!(pool.take(&*disk, key(4), |_| ()).is_none());
        let (pool, told) = replay(&disk.kill());
        assert!(!told && (0..4).all(|number| is_left(&pool, number)));
    }
}

/// At whichever call it fails: no arena is named that is not whole, nothing is left of it, and the next try has one.
#[test]
fn an_arena_or_slot_that_cannot_be_made_is_tried_again() {
    for taken in 0..3 {
        let mut failed = 0;
        for (errno, call) in
            [Errno::Full, Errno::Io].into_iter().flat_map(|errno| (0..12).map(move |call| (errno, call)))
        {
            let disk = SimDisk::new(DiskOptions::default());
            let (pool, _) = replay(&disk);
            (0..taken).for_each(|number| stage(&mut take(&pool, &disk, number), number));
            disk.inject(disk.calls() + call, Fault::Error(errno), Times::Once);
            let staged = pool.take(&*disk, key(taken), |_| ());
            let told = format!("{errno:?} at call {call} of slot {taken}");
            assert!(disk.metadata(Path::new("/staging.tmp")).is_err(), "{told}");
            disk.heal();
            let mut staged = staged.unwrap_or_else(|| {
                failed += 1;
                let (found, reported) = replay(&disk.kill());
                assert!(!reported && found.left_keys().len() == taken as usize, "{told}");
                for _ in 0..PAUSE {
                    assert!(pool.take(&*disk, key(taken), |_| ()).is_none(), "{told}: at once");
                }
                take(&pool, &disk, taken)
            });
            stage(&mut staged, taken);
            let (found, reported) = replay(&disk.kill());
            assert!(!reported && (0..=taken).all(|number| is_left(&found, number)), "{told}");
        }
        assert!(failed > 0);
    }
}

/// After a failed write of its zeros, half of them are there. Whoever replays has not been told that a slot is there.
#[test]
fn space_that_was_taken_in_part_holds_nothing() {
    let disk = killed(1);
    let (pool, _) = replay(&disk);
    disk.inject(disk.calls(), Fault::Partly(100), Times::Once);
    assert!(pool.take(&*disk, key(1), |_| ()).is_none());
    let (pool, told) = replay(&disk.kill());
    assert!(!told && pool.left_keys() == [key(0)] && pool.in_use() == 1);
}

// --- Slots ------------------------------------------------------------------------------------------------------------

#[test]
fn two_slots_of_one_partition_are_told_of_and_kept() {
    let disk = killed(2);
    // The second one becomes another of the first partition.
    write_all_at(&*file(&disk), &lap(0, FROM).encode(), slot_at(1) + Slot::BYTES_AT as u64).unwrap();
    let before = bytes(&disk, PATH);
    let (pool, told) = replay(&disk);
    assert!(told && is_left(&pool, 0) && !is_left(&pool, 1));
    assert_eq!((pool.in_use(), pool.is_idle()), (2, false));
    let left = pool.take_left(key(0)).unwrap();
    pool.discard(key(0), left);
    assert_eq!(pool.in_use(), 1);
    // All others are handed out, this one is not.
    let taken: Vec<_> = (2..9).map_while(|number| pool.take(&*disk, key(number), |_| ())).collect();
    assert_eq!(taken.len(), 3);
    let second = slot_at(1) as usize..slot_at(2) as usize;
    assert!(bytes(&disk, PATH)[second.clone()] == before[second]);
}

#[test]
fn a_slot_whose_header_is_damaged_is_told_of_and_kept_if_anything_is_staged_in_it() {
    for has_word in [true, false] {
        let disk = killed(2);
        let held = file(&disk);
        write_all_at(&*held, &[0xA5; Lap::LEN], slot_at(0) + Slot::BYTES_AT as u64).unwrap();
        if !has_word {
            write_all_at(&*held, &[0; 8], slot_at(0)).unwrap();
        }
        let (pool, told) = replay(&disk);
        assert_eq!((told, pool.in_use()), (has_word, if has_word { 2 } else { 1 }));
        assert!(is_left(&pool, 1));
        assert_eq!(replay(&disk.kill()).1, has_word, "told of each time");
    }
}

#[test]
fn a_slot_that_is_given_back_speaks_of_nobody_and_of_the_next_one_then() {
    let disk = SimDisk::new(DiskOptions::default());
    let (pool, _) = replay(&disk);
    let mut staged = take(&pool, &disk, 0);
    written(&mut staged, 0, FROM);
    assert_eq!((pool.in_use(), replay(&disk.kill()).0.lap(key(0)).is_some()), (1, true));
    pool.give(key(0), staged);
    assert!(pool.is_idle());
    let found = replay(&disk.kill()).0;
    assert!(found.lap(key(0)).is_none() && !found.is_void(key(0)));
    let mut staged = take(&pool, &disk, 0);
    pool.void(key(0));
    staged.begin(lap(0, FROM), usize::MAX);
    pool.give(key(0), staged);

    let mut staged = take(&pool, &disk, 1);
    assert!(!pool.is_void(key(1)), "what went wrong with another is no concern of it");
    pool.void(key(0));
    assert!(!pool.is_void(key(1)));
    stage(&mut staged, 1);
    let found = replay(&disk.kill()).0;
    assert!(is_left(&found, 1) && found.lap(key(0)).is_none());
    assert!(found.lap(key(1)).is_some_and(|lap| lap.number > 1 && lap.end_before == FROM));
}

#[test]
fn a_lap_vouches_until_an_error_and_again_after_what_was_read_since() {
    for is_written in [true, false] {
        let disk = SimDisk::new(DiskOptions::default());
        let (pool, _) = replay(&disk);
        let mut staged = take(&pool, &disk, 0);
        match is_written {
            true => written(&mut staged, 0, FROM),
            false => stage(&mut staged, 0),
        }
        let end = |disk: &SimDisk| replay(&disk.kill()).0.lap(key(0)).map(|lap| lap.end_before);
        assert_eq!(end(&disk), Some(FROM));
        pool.void(key(0));
        assert_eq!((end(&disk), pool.is_void(key(0))), (None, true));
        pool.vouch(key(0));
        assert_eq!((end(&disk), pool.is_void(key(0))), (Some(FROM), false));
        // It is the slot that remembers: the next process may void it, too.
        let disk = disk.kill();
        replay(&disk).0.void(key(0));
        assert_eq!(end(&disk), None);
    }
}

/// A partition took another slot than the one its last lap still stood in. Then a sync failed, and the new lap no longer
/// vouched for the file; the old one did, and what the system had dropped was called damage.
#[test]
fn a_partition_takes_the_slot_again_that_still_speaks_of_it() {
    let disk = SimDisk::new(DiskOptions::default());
    let (pool, _) = replay(&disk);
    for number in 0..3 {
        written(&mut take(&pool, &disk, number), number, FROM);
    }
    for number in 0..3 {
        let disk = disk.kill();
        let (pool, _) = replay(&disk);
        written(&mut take(&pool, &disk, number), number, FROM + 1);
        pool.void(key(number));
        let found = replay(&disk.kill()).0;
        assert_eq!(found.lap(key(number)), None, "of partition {number}");
        for other in (0..3).filter(|other| *other != number) {
            assert_eq!(found.lap(key(other)).map(|lap| lap.end_before), Some(FROM), "of partition {other}");
        }
    }
}

/// The flag of a slot was taken back when the slot was handed to another partition, and its header only when that began a
/// lap. After a kill in between, the header was believed again.
#[test]
fn a_slot_that_is_handed_out_speaks_no_longer_of_the_one_before() {
    let disk = SimDisk::new(DiskOptions::default());
    let (pool, _) = replay(&disk);
    written(&mut take(&pool, &disk, 0), 0, FROM);
    let disk = disk.kill();
    let (pool, _) = replay(&disk);
    pool.void(key(0));
    disk.record(Record::All);
    let staged = take(&pool, &disk, 1);
    let moments = disk.take_moments();
    assert!(!moments.is_empty());
    for moment in moments {
        let found = replay(&SimDisk::on(moment.image, disk.clock())).0;
        assert_eq!(found.lap(key(0)), None, "at call {}", moment.call);
    }
    drop(staged);
}

#[test]
fn slots_of_a_topic_that_is_gone_are_free() {
    let disk = killed(2);
    let (pool, _) = replay(&disk);
    let mut staged = take(&pool, &disk, 2);
    stage(&mut staged, 2);
    pool.doom(key(2), staged);
    assert_eq!(pool.in_use(), 3);
    pool.release(key(0).0);
    assert_eq!((pool.in_use(), pool.left_keys()), (2, vec![key(1)]));
    pool.release(key(2).0);
    assert_eq!(pool.in_use(), 1);
    let (found, told) = replay(&disk.kill());
    assert!(!told && found.left_keys() == [key(1)] && found.lap(key(2)).is_none());
}

/// Whatever a slot holds, it is read or refused; what is read is what verifies.
#[test]
fn no_bytes_in_a_slot_are_taken_for_more_than_they_are() {
    let killed = killed(3);
    let slot = slot_at(0)..slot_at(1);
    let (mut good, mut refused) = (0, 0);
    for seed in 0..4000 {
        let rng = &mut Rng::new(seed);
        let (disk, mut garbage) = (killed.kill(), vec![0; rng.between(1, 80) as usize]);
        garbage.iter_mut().for_each(|byte| *byte = rng.draw() as u8);
        let held = file(&disk);
        for _ in 0..rng.between(1, 2) {
            let (at, bytes): (u64, Vec<u8>) = match rng.below(4) {
                0 => (0, (rng.below(400) << 31 | rng.below(400)).to_ne_bytes().into()),
                1 => (0, rng.draw().to_ne_bytes().into()),
                2 => (
                    Slot::BYTES_AT as u64,
                    Lap { position: rng.draw(), ..lap(rng.below(4) as u8, Offset(rng.below(9))) }.encode().into(),
                ),
                _ => (rng.below(slot.end - slot.start - 80), garbage.clone()),
            };
            write_all_at(&*held, &bytes, slot.start + at).unwrap();
        }
        let (pool, _) = replay(&disk);
        for key in pool.left_keys() {
            let left = pool.take_left(key).unwrap();
            let room = LAYOUT.slot_len as usize - Staged::BATCHES_AT;
            assert!(left.bytes().len() <= room);
            let Ok(replayed) = left.replay() else {
                refused += 1;
                continue;
            };
            good += 1;
            let adopted = left.adopt(&replayed, 0, false);
            let mut rest = adopted.sealed();
            for (_, header) in &replayed.batches {
                let batch = BatchRef::verify(rest).unwrap();
                assert_eq!(batch.header(), header, "seed {seed}");
                rest = &rest[batch.bytes().len()..];
            }
            assert!(rest.is_empty(), "seed {seed}");
        }
    }
    assert!(good > 4000 && refused > 500, "{good} good, {refused} refused");
}
