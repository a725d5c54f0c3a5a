//! The staged tail beside readers, failing calls and kills: bugs that a hostile reader of the code found, each in the
//! shortest story that shows it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers of tests fail as tests do")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::race_tests::{Hook, HookedDisk};
use super::{Background, Log, LogBuilder, Staging};
use crate::checksum::crc32;
use crate::config::{Durability, TopicConfig};
use crate::disk::marks::{ArenaHeader, Lap, SyncMark};
use crate::disk::{BootId, Disk, FileId, Open, read_file, write_all_at};
use crate::error::{Error, ErrorKind, Result};
use crate::partition::testing::{T0, transact};
use crate::partition::{Isolation, Partition, ReadOptions, RecoveryMode};
use crate::record::{Header, Record};
use crate::segment::pool::Layout;
use crate::sim::{DiskOptions, Errno, Fault, Record as Recording, SimDisk, SimEntropy, Times};
use crate::sys::Slot;
use crate::types::{Offset, Timestamp};

/// Little slots and batches, so that their ends are near.
const LAYOUT: Layout = Layout { slot_len: 4096, slot_count: 4, batch_len: 500, stride: 256 };

/// The one segment, as most tests have it.
const FIRST: &str = "/log/t-0/00000000000000000000.log";

/// Two lives of a log must not draw the same ids.
static OPENED: AtomicU64 = AtomicU64::new(1);

fn builder(disk: &Arc<SimDisk>) -> LogBuilder {
    let (clock, disk) = (disk.clock(), Arc::clone(disk));
    Log::builder("/log")
        .disk(disk)
        .clock(clock)
        .entropy(Arc::new(SimEntropy::new(OPENED.fetch_add(1, Ordering::Relaxed))))
        .background(Background::Caller)
        .staging(Staging::On)
        .layout(LAYOUT)
}

fn config() -> TopicConfig {
    TopicConfig::default().segment_bytes(1 << 20).set("segment.index.bytes", "2400").unwrap()
}

/// A log with one topic of one partition, in a process that will be killed.
struct Life {
    disk: Arc<SimDisk>,
    log: Log,
    partition: Partition,
}

impl Life {
    fn begin(config: TopicConfig) -> Self {
        let disk = SimDisk::new(DiskOptions::default());
        builder(&disk).open().unwrap().create_topic("t", config).unwrap();
        Self::on(&disk)
    }

    /// Goes on with what a kill left. Nothing may be damaged.
    fn on(disk: &Arc<SimDisk>) -> Self {
        let log = builder(disk).strict().open().unwrap();
        Self { disk: Arc::clone(disk), partition: partition(&log).unwrap(), log }
    }

    /// Dies at this instruction, and leaves the disk as it is.
    fn kill(self) -> Arc<SimDisk> {
        let left = self.disk.kill();
        self.disk.power_off();
        left
    }

    fn append(&self, values: &[&str]) {
        values.iter().for_each(|value| drop(self.partition.append(*value).unwrap()));
    }

    fn values(&self) -> Vec<String> {
        values(&self.partition).unwrap()
    }
}

fn partition(log: &Log) -> Result<Partition> {
    log.find_topic("t").unwrap().partition(0)
}

fn values(partition: &Partition) -> Result<Vec<String>> {
    let (mut at, mut all) = (partition.offsets().start, Vec::new());
    while at < partition.offsets().end {
        let records = partition.read(at)?;
        assert!(records.next_offset() > at, "nothing at {at}");
        all.extend(records.iter().map(|record| String::from_utf8_lossy(record.value.unwrap()).into_owned()));
        at = records.next_offset();
    }
    Ok(all)
}

/// Looks into `disk` as whoever opens it next would, without a change.
fn found(disk: &Arc<SimDisk>) -> Result<Vec<String>> {
    let disk = disk.kill();
    let log = builder(&disk).open()?;
    let found = partition(&log).and_then(|partition| values(&partition));
    disk.power_off();
    found
}

fn bytes(disk: &SimDisk, path: &str) -> Vec<u8> {
    read_file(disk, Path::new(path), u64::MAX).unwrap()
}

/// A value that takes a batch of its own, and a write of its own.
fn large(name: char) -> String {
    name.to_string().repeat(2000)
}

/// A log whose readers, when they first open a data file, give the hook its turn.
fn hooked(config: TopicConfig) -> (Partition, Hook) {
    let (disk, hook) = (SimDisk::new(DiskOptions::default()), Hook::default());
    let hooked = Arc::new(HookedDisk(hook.clone(), Arc::clone(&disk) as Arc<dyn Disk>));
    let log = builder(&disk).disk(hooked).open().unwrap();
    (log.create_topic("t", config).unwrap().partition(0).unwrap(), hook)
}

/// What `work` returns, unless it takes for ever.
fn in_time<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, result) = mpsc::channel();
    thread::spawn(move || done.send(work()));
    result.recv_timeout(Duration::from_secs(60)).unwrap()
}

// --- Beside readers ---------------------------------------------------------------------------------------------------

/// A reader had taken the end when another record joined the batch it was to read, and the batch was written. It looked
/// for a batch below the end it had, and found none: for ever.
#[test]
fn a_reader_finds_a_batch_that_grew_past_its_limit_and_was_written() {
    type Look = fn(&Partition) -> Offset;
    let looks: [Look; 3] = [
        |partition| partition.read(Offset(1)).unwrap().next_offset(),
        |partition| partition.reader().read(Offset(1)).unwrap().next_offset(),
        |partition| partition.fetch(Offset(1), ReadOptions::default()).unwrap().next_offset(),
    ];
    for look in looks {
        let (partition, hook) = hooked(config());
        partition.append("first").unwrap();
        partition.sync().unwrap();
        partition.append("second").unwrap();
        let ours = partition.clone();
        hook.set(move || {
            ours.append("third").unwrap();
            ours.sync().unwrap();
        });
        assert_eq!(in_time(move || look(&partition)), Offset(3));
    }
}

/// Which transactions were aborted was looked up before the records were. One that came and was aborted in between was
/// shown to a reader of committed records.
#[test]
fn a_transaction_that_is_aborted_during_a_read_of_committed_records_is_hidden() {
    for is_written in [false, true] {
        let committed = ReadOptions::default().isolation(Isolation::Committed);
        let aborting = || {
            let (partition, hook) = hooked(config());
            partition.append("first").unwrap();
            partition.sync().unwrap();
            partition.append("plain").unwrap();
            let ours = partition.clone();
            hook.set(move || {
                transact(&ours, 0, "aborted", false);
                if is_written {
                    ours.sync().unwrap();
                }
            });
            partition
        };
        let read = aborting().read_with(Offset(1), committed).unwrap();
        assert_eq!(read.iter().map(|record| record.value).collect::<Vec<_>>(), [Some(&b"plain"[..])]);
        let fetched = aborting().fetch(Offset(1), committed).unwrap();
        let has_aborted = fetched.next_offset() > Offset(2);
        assert_eq!(fetched.aborted().len(), usize::from(has_aborted), "up to {}", fetched.next_offset());
    }
}

/// The largest timestamp was looked for up to the end, wherever that was by then: beside an appender whose times rise, it
/// was never found.
#[test]
fn the_largest_timestamp_is_found_beside_an_appender_that_never_rests() {
    /// Each record takes a segment, so each that is read opens another file: then the next one is appended.
    fn append_at_each_look(partition: Partition, hook: Hook, count: Arc<AtomicU64>) {
        let ours = hook.clone();
        ours.set(move || {
            let number = count.fetch_add(1, Ordering::Relaxed) as i64;
            append(&partition, number);
            if number < 50 {
                append_at_each_look(partition, hook, count);
            }
        });
    }
    fn append(partition: &Partition, number: i64) {
        partition.append(Record::new(&[7; 1000]).timestamp(Timestamp(T0 + number))).unwrap();
    }
    let (partition, hook) = hooked(config().segment_bytes(1100));
    append(&partition, 0);
    append(&partition, 1);
    let count = Arc::new(AtomicU64::new(2));
    append_at_each_look(partition.clone(), hook, Arc::clone(&count));
    let (_, largest) = partition.largest_timestamp().unwrap().unwrap();
    assert!(largest >= Timestamp(T0 + 1), "{largest:?}");
    assert!(count.load(Ordering::Relaxed) < 10, "it read on and on");
}

/// A look-up by time took the end, then where the files end. A batch that others had joined and written in between lay
/// below the one and past the other, and was passed over.
#[test]
fn a_look_up_by_time_finds_a_record_that_is_written_meanwhile() {
    for _ in 0..20 {
        let Life { partition, .. } = &Life::begin(config());
        let append = |number: i64| {
            drop(partition.append(Record::new("value").timestamp(Timestamp(T0 + number))).unwrap());
        };
        append(0);
        partition.sync().unwrap();
        append(1);
        append(2);
        let found = thread::scope(|scope| {
            let held = partition.core.hold_segments();
            let looks = scope.spawn(|| partition.offset_at(Timestamp(T0 + 1)));
            // It asks for the segments, and has to wait; mostly it is there by then.
            (0..1000).for_each(|_| thread::yield_now());
            append(3);
            assert!(partition.core.writer.lock().flush(&partition.core).is_ok());
            drop(held);
            looks.join().unwrap()
        });
        assert_eq!(found.unwrap(), Some(Offset(1)));
    }
}

/// A batch is in its file a moment before the end is raised over it. Whoever looked just then, by time, behind what is in
/// the files, was told that there is no such offset.
#[test]
fn a_look_up_by_time_takes_no_batch_for_visible_that_is_in_its_file_already() {
    let (partition, hook) = hooked(config());
    let ours = partition.clone();
    let (seen, looked) = mpsc::channel();
    hook.set(move || {
        let written = ours.core.last_segment().unwrap().end();
        let found = [ours.offset_at(Timestamp(0)).unwrap(), ours.largest_timestamp().unwrap().map(|found| found.0)];
        seen.send((written, ours.offsets().end, found)).unwrap();
    });
    partition.append_all([&*large('x')]).unwrap();
    assert_eq!(looked.try_recv().unwrap(), (Offset(1), Offset(0), [None, None]));
}

// --- Failing calls ----------------------------------------------------------------------------------------------------

/// A process had no descriptor left when it opened the arena, took that for a damaged one, and went on without it: the
/// records of the process before were lost with the next slot.
#[test]
fn an_error_at_any_call_of_an_open_loses_no_staged_record() {
    let life = Life::begin(config());
    life.append(&["one", "two"]);
    let killed = life.kill();
    let calls = {
        let disk = killed.kill();
        let life = Life::on(&disk);
        let calls = disk.calls();
        life.kill();
        calls
    };
    let mut opened = 0;
    for (errno, call) in
        [Errno::TooManyFiles, Errno::Io].into_iter().flat_map(|errno| (0..calls).map(move |call| (errno, call)))
    {
        let disk = killed.kill();
        disk.inject(call, Fault::Error(errno), Times::Once);
        let mut expected = vec!["one".to_owned(), "two".into()];
        if let Ok(log) = builder(&disk).open() {
            opened += 1;
            let appended = partition(&log).is_ok_and(|partition| partition.append("three").is_ok());
            expected.extend(appended.then(|| "three".to_owned()));
            let _ = log.close();
        }
        let found = found(&disk).unwrap_or_else(|error| panic!("{errno:?} at call {call}: {error}"));
        assert_eq!(found, expected, "{errno:?} at call {call}");
    }
    assert!(opened > 0);
}

/// Whatever fails at a close, what was staged is in the files after it, or still in its slot.
#[test]
fn an_error_at_any_call_of_a_close_loses_no_staged_record() {
    let life = Life::begin(config());
    life.append(&["one", "two"]);
    let killed = life.kill();
    let close = |faults: &dyn Fn(&SimDisk)| {
        let life = Life::on(&killed.kill());
        life.append(&["three"]);
        let before = life.disk.calls();
        faults(&life.disk);
        let closed = life.log.close();
        let calls = life.disk.calls() - before;
        life.disk.heal();
        (Arc::clone(&life.disk), closed.is_ok(), calls)
    };
    let (disk, is_closed, calls) = close(&|_| ());
    assert!(is_closed && disk.metadata(Path::new("/log/staging")).is_err());
    for times in [Times::Once, Times::Next(2), Times::Dead] {
        for call in 0..calls {
            let (disk, ..) = close(&|disk| disk.inject(disk.calls() + call, Fault::Error(Errno::Io), times));
            let found = found(&disk).unwrap_or_else(|error| panic!("{times:?} from call {call}: {error}"));
            assert_eq!(found, ["one", "two", "three"], "{times:?} from call {call}");
        }
    }
    let (disk, is_closed, _) = close(&|disk| disk.set_free(Some(0)));
    assert!(!is_closed);
    disk.set_free(None);
    assert_eq!(found(&disk).unwrap(), ["one", "two", "three"]);
}

/// A write failed, and what it had left could not be cut off. Records were staged for the same place all the same; after
/// a kill others stood there, and the log was called damaged.
#[test]
fn records_are_staged_only_where_a_failed_write_left_nothing() {
    let life = Life::begin(config());
    life.append(&["first"]);
    life.partition.sync().unwrap();
    let killed = life.kill();
    let mut staged = 0;
    for call in 0..8 {
        let life = Life::on(&killed.kill());
        life.append(&["second"]);
        life.partition.sync().unwrap();
        life.disk.inject(life.disk.calls() + call, Fault::Partly(usize::MAX), Times::Next(2));
        let failed = life.partition.append_all([&*large('f')]).is_err();
        life.disk.heal();
        let acked = life.partition.append("third").is_ok();
        staged += u32::from(failed && acked);
        let found = found(&life.kill()).unwrap_or_else(|error| panic!("call {call}: {error}"));
        assert_eq!(found.last().is_some_and(|last| last == "third"), acked, "call {call}: {found:?}");
    }
    assert!(staged > 0);
}

// --- Limits -----------------------------------------------------------------------------------------------------------

/// A topic was made durable, with shorter segments. Whoever replayed laid the page of marks behind what was in the file,
/// and wrote what was staged over it.
#[test]
fn staged_records_of_a_topic_that_is_durable_now_do_not_meet_its_marks() {
    let life = Life::begin(config().durability(Durability::Os));
    (0..5).for_each(|number| drop(life.partition.append_all([&*large(char::from(b'a' + number))]).unwrap()));
    let small: Vec<_> = (0..24).map(|number| format!("{number:0100}")).collect();
    small.iter().for_each(|value| life.append(&[value]));
    life.log.alter_topic("t", config().segment_bytes(4096).durability(Durability::Each)).unwrap();

    let life = Life::on(&life.kill());
    life.append(&["one", "two", "three", "four"]);
    let all = life.values();
    assert_eq!(all[5..29], small);
    assert_eq!(all[29..], ["one", "two", "three", "four"]);
    assert_eq!(Life::on(&life.kill()).values(), all);
}

/// Records joined a batch until it was longer than the topic lets readers decompress: they were acknowledged, and nobody
/// could read them.
#[test]
#[cfg(feature = "lz4")]
fn a_batch_that_records_join_can_be_decompressed() {
    let codec = crate::config::Compression::Lz4 { level: 1 };
    let life = Life::begin(config().compression(codec).max_decompressed_bytes(200));
    let values: Vec<_> = (0..6).map(|number| format!("{number:0100}")).collect();
    values.iter().for_each(|value| life.append(&[value]));
    assert_eq!(life.values(), values);
    assert_eq!(Life::on(&life.kill()).values(), values);
}

/// What does not compress gets longer by it: a batch that was just short enough for `max.message.bytes` was too long in
/// the file, and consumers of Kafka's refuse such a one.
#[test]
#[cfg(feature = "lz4")]
fn a_batch_that_compresses_in_vain_is_within_max_message_bytes() {
    const LIMIT: usize = 400;
    let codec = crate::config::Compression::Lz4 { level: 1 };
    let life = Life::begin(config().compression(codec).max_message_bytes(LIMIT as u32));
    for seed in 0..40 {
        let rng = &mut crate::sim::Rng::new(seed);
        let value: Vec<u8> = (0..59).map(|_| rng.draw() as u8).collect();
        life.partition.append(&value[..]).unwrap();
    }
    life.partition.sync().unwrap();
    let mut at = Offset::ZERO;
    while at < Offset(40) {
        let batch = life.partition.fetch(at, ReadOptions::default().max_bytes(1)).unwrap();
        assert!(batch.bytes().len() <= LIMIT, "{} bytes at {at}", batch.bytes().len());
        at = batch.next_offset();
    }
}

/// A record was measured by the slots that the settings speak of. Those of the arena that was found were shorter: a panic
/// under the append lock.
#[test]
fn a_record_that_is_longer_than_the_slots_found_is_written() {
    let disk = SimDisk::new(DiskOptions::default());
    let log =
        builder(&disk).layout(Layout { slot_len: 512, slot_count: 4, batch_len: 200, stride: 256 }).open().unwrap();
    let topic = log.create_topic("t", config().partitions(2)).unwrap();
    topic.partition(0).unwrap().append("staged").unwrap();
    let killed = disk.kill();
    disk.power_off();

    let log = builder(&killed).layout(Layout { batch_len: 2000, ..LAYOUT }).strict().open().unwrap();
    for number in [0, 1] {
        let partition = log.find_topic("t").unwrap().partition(number).unwrap();
        for len in [1, 300, 320, 400, 1000, 1] {
            partition.append(&vec![b'x'; len]).unwrap();
        }
        assert_eq!(values(&partition).unwrap().len(), 7 - number as usize);
    }
}

// --- What a kill leaves -----------------------------------------------------------------------------------------------

/// A record in a slot was damaged, and a salvage did not open the partition either.
#[test]
fn a_salvage_puts_staged_records_aside_that_do_not_verify() {
    let life = Life::begin(config());
    life.append(&["synced"]);
    life.partition.sync().unwrap();
    life.append(&["staged"]);
    let killed = life.kill();
    let at = bytes(&killed, "/log/staging").windows(6).position(|window| window == b"staged").unwrap() as u64;
    // The length of the value: no checksum is over an open batch.
    write_all_at(&*killed.open(Path::new("/log/staging"), Open::Write).unwrap(), &[0xFF], at - 1).unwrap();
    let log = builder(&killed).open().unwrap();
    assert_eq!(partition(&log).unwrap_err().kind(), ErrorKind::Corrupt);
    drop(log);

    let log = builder(&killed).recovery(RecoveryMode::Salvage).strict().open().unwrap();
    let salvaged = partition(&log).unwrap();
    salvaged.append("goes on").unwrap();
    assert_eq!(values(&salvaged).unwrap(), ["synced", "goes on"]);
    let names = killed.image().files();
    let (_, aside) = names.iter().find(|(path, _)| path.to_string_lossy().ends_with(".staged.cut")).unwrap();
    assert!(aside.windows(6).any(|window| window == b"staged"));
    assert_eq!(found(&killed).unwrap(), ["synced", "goes on"]);
}

/// The leader epoch of a batch is under no checksum, and along a log it never falls. What was staged under an earlier one
/// than the file has was adopted, and ended the log once it was written.
#[test]
fn records_that_were_staged_under_an_earlier_epoch_than_the_files_are_refused() {
    let life = Life::begin(config());
    life.append(&["synced"]);
    life.partition.sync().unwrap();
    life.append(&["staged"]);
    let killed = life.kill();
    killed.remove_file(Path::new("/log/notes")).unwrap();
    assert_eq!(found(&killed).unwrap(), ["synced", "staged"]);
    write_all_at(&*killed.open(Path::new(FIRST), Open::Write).unwrap(), &1_i32.to_be_bytes(), 12).unwrap();
    let log = builder(&killed).open().unwrap();
    assert_eq!(partition(&log).unwrap_err().kind(), ErrorKind::Corrupt);
}

/// Somebody removed the one segment of a log. A salvage opened it, empty, and left the slot: its records were in the way
/// of those that got their offsets next, and the log did not open any more.
#[test]
fn a_salvage_of_a_log_without_segments_puts_its_staged_records_aside() {
    let life = Life::begin(config());
    life.append(&["one", "two"]);
    let killed = life.kill();
    killed.remove_file(Path::new(FIRST)).unwrap();
    assert_eq!(found(&killed).unwrap_err().kind(), ErrorKind::Corrupt);

    let log = builder(&killed).recovery(RecoveryMode::Salvage).strict().open().unwrap();
    let salvaged = partition(&log).unwrap();
    salvaged.append("goes on").unwrap();
    assert_eq!(values(&salvaged).unwrap(), ["goes on"]);
    assert!(killed.image().files().keys().any(|path| path.to_string_lossy().ends_with(".staged.cut")));
    assert_eq!(found(&killed).unwrap(), ["goes on"]);
}

/// The history of epochs was cut to where the files end after the staged records had been counted in: an epoch that
/// began with them was gone from it.
#[test]
fn an_epoch_that_began_with_a_staged_record_is_remembered() {
    const EPOCHS: &str = "/log/t-0/leader-epoch-checkpoint";
    let life = Life::begin(config());
    life.append(&["one", "two"]);
    let before = bytes(&life.disk, EPOCHS);
    let life = Life::on(&life.kill());
    life.append(&["three"]);
    let after = bytes(&life.disk, EPOCHS);
    assert_eq!(String::from_utf8_lossy(&after), String::from_utf8_lossy(&before));
    assert!(after.ends_with(b"\n0 0\n"));
}

/// The arena was opened for writing also by those who only read: what was staged could not be seen on a volume that is
/// mounted read-only.
#[test]
fn what_is_staged_is_read_from_a_volume_that_cannot_be_written() {
    let life = Life::begin(config());
    life.append(&["one", "two"]);
    let killed = life.kill();
    killed.set_read_only(true);
    let log = builder(&killed).read_only().strict().open().unwrap();
    assert_eq!(values(&partition(&log).unwrap()).unwrap(), ["one", "two"]);
    assert_eq!(killed.audit(), None);
}

/// A lap says that everything before it was written. A file that is shorter than that has lost acknowledged records, and
/// it opened as a shorter log: the lap did not count if its position was past the file, or once it had been opened.
#[test]
fn a_file_that_is_cut_below_its_last_lap_is_damaged_not_shorter() {
    let life = Life::begin(config());
    life.append(&["first"]);
    life.partition.sync().unwrap();
    (0..3).for_each(|_| drop(life.partition.append_all([&*large('x')]).unwrap()));
    let written = life.partition.segments()[0].len();
    life.append(&["last"]);
    life.disk.clock().advance(Duration::from_secs(2));
    life.log.maintain().unwrap();
    let mut killed = life.kill();
    for opened in 0..3 {
        for len in [written - 1, written - 2000, 1] {
            let cut = killed.kill();
            cut.open(Path::new(FIRST), Open::Write).unwrap().set_len(len).unwrap();
            let kind = found(&cut).map_err(|error| error.kind());
            assert_eq!(kind, Err(ErrorKind::Corrupt), "cut to {len} of {written}, after {opened} opens");
        }
        // Nobody appends, and it dies.
        killed = Life::on(&killed).kill();
    }
}

/// A slot of a partition that the topic does not have: nobody took it, nobody told of it, and the next arena replaced it.
#[test]
fn records_of_a_partition_that_nobody_knows_are_told_of_and_kept() {
    let life = Life::begin(config());
    life.append(&["staged"]);
    let killed = life.kill();
    let arena = killed.open(Path::new("/log/staging"), Open::Write).unwrap();
    let at = ArenaHeader::LEN + Slot::BYTES_AT;
    let lap = Lap::decode(&bytes(&killed, "/log/staging")[at..at + Lap::LEN]).unwrap().unwrap();
    write_all_at(&*arena, &Lap { partition: 1, ..lap }.encode(), at as u64).unwrap();
    for count in 0..3 {
        let log = builder(&killed).open().unwrap();
        let [told] = &log.damaged()[..] else { panic!("{:?}", log.damaged()) };
        assert!(told.partition.is_none() && told.error.to_string().contains("not known"), "{}", told.error);
        let partition = partition(&log).unwrap();
        assert_eq!(values(&partition).unwrap().len(), count);
        partition.append("another").unwrap();
        drop(partition);
        log.close().unwrap();
        assert!(bytes(&killed, "/log/staging").windows(6).any(|window| window == b"staged"));
    }
}

/// Whatever a kill leaves of the one write of a lap, all of the lap is found; what no kill leaves is refused, or written
/// over by what is staged.
#[test]
fn a_write_of_a_lap_that_is_cut_at_any_byte_is_done_again() {
    let mut configs = vec![config(), config().set("flush.messages", "1000").unwrap()];
    if cfg!(feature = "lz4") {
        configs.push(config().compression(crate::config::Compression::Lz4 { level: 1 }));
    }
    for config in configs {
        let life = Life::begin(config);
        life.append(&["first"]);
        life.partition.sync().unwrap();
        life.partition.append_all(["one", "two"]).unwrap();
        life.append(&["three", "four"]);
        let (begin, before) = (life.partition.segments()[0].len(), bytes(&life.disk, FIRST));
        life.disk.record(Recording::All);
        life.partition.sync().unwrap();
        let end = life.partition.segments()[0].len();
        let lap = &bytes(&life.disk, FIRST)[begin as usize..end as usize];
        // The last moment before the write: the batch is sealed, and awaits its codec if there is one.
        let moments = life.disk.take_moments();
        let is_before = |image: &crate::sim::Image| image.files()[Path::new(FIRST)] == before;
        let written = moments.iter().position(|moment| !is_before(&moment.image)).unwrap();
        let cut_at = |len: usize, flips: u8| {
            let disk = SimDisk::on(moments[written - 1].image.clone(), life.disk.clock().fork());
            let mut part = lap[..len].to_vec();
            part.last_mut().into_iter().for_each(|last| *last ^= flips);
            write_all_at(&*disk.open(Path::new(FIRST), Open::Write).unwrap(), &part, begin).unwrap();
            disk
        };
        for len in 0..=lap.len() {
            let life = Life::on(&cut_at(len, 0));
            assert_eq!(life.values(), ["first", "one", "two", "three", "four"], "{len} of {}", lap.len());
            life.append(&["five"]);
            let killed = life.kill();
            assert_eq!(found(&killed).unwrap()[4..], ["four", "five"], "{len} of {}", lap.len());
            let is_aside = |path: &std::path::PathBuf| path.extension().is_some_and(|extension| extension == "cut");
            assert!(!killed.image().files().keys().any(is_aside), "what is staged was put aside, too");
            match found(&cut_at(len, 0x10)) {
                Ok(found) => assert_eq!(found, ["first", "one", "two", "three", "four"], "flipped at {len}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "flipped at {len}"),
            }
        }
    }
}

/// A full lap is written with zeros up to a multiple of a page, and recovery took the end of a record, which looked like
/// the first byte of a sync mark, for the page of marks of a file that was being made: the record, which was longer than
/// what came before that page, was cut off.
#[test]
fn a_record_that_holds_the_bytes_of_a_mark_is_no_page_of_marks() {
    const PAGE: usize = SyncMark::PAGE_LEN;
    const LONG: Layout = Layout { slot_len: 8_448, slot_count: 4, batch_len: 2_100, stride: PAGE as u32 };
    /// Where the value begins in the file, and where a page has its second mark.
    const VALUE_AT: usize = 69;
    let mark_at = PAGE + PAGE / 2 - VALUE_AT;
    let mark = |version: u8| {
        let file = FileId { device: 1, inode: 2, born: 3 };
        let (segment_base, position, offset) = (Offset::ZERO, 1, Offset(1));
        let mark = SyncMark { sequence: 1, segment_base, position, offset, boot: BootId([7; 16]), file };
        let mut slot = mark.encode();
        slot[7] = version;
        let (body, crc) = slot.split_at_mut(SyncMark::SLOT_LEN - 4);
        crc.copy_from_slice(&crc32(body).to_be_bytes());
        slot.to_vec()
    };
    for ending in [b"c".to_vec(), mark(1), mark(2)] {
        let mut value = vec![0; mark_at];
        value.extend_from_slice(&ending);
        let disk = SimDisk::new(DiskOptions::default());
        let log = builder(&disk).layout(LONG).open().unwrap();
        let topic = log.create_topic("t", config()).unwrap();
        let partition = topic.partition(0).unwrap();
        for value in [&value, &vec![1; 2_100]] {
            partition.append(value).unwrap();
        }
        let life = Life { disk: Arc::clone(&disk), partition, log };
        drop(topic);
        let killed = life.kill();
        assert_eq!(killed.image().files()[Path::new(FIRST)].len(), 2 * PAGE, "one lap, and zeros");
        let life = Life::on(&killed);
        let records = life.partition.read(Offset::ZERO).unwrap();
        assert_eq!(records.iter().next().and_then(|record| record.value), Some(&value[..]));
        assert_eq!(life.partition.offsets().end, Offset(2));
    }
}

/// Records were counted by key and value alone: of those that have nothing but headers any number could be appended, and
/// the space was never looked at.
#[test]
fn what_is_written_counts_against_the_space_to_be_left_whatever_it_consists_of() {
    let disk = SimDisk::new(DiskOptions::default());
    let log = builder(&disk).staging(Staging::Off).min_free_bytes(100 << 20).open().unwrap();
    let topic = log.create_topic("t", TopicConfig::default().set("segment.index.bytes", "2400").unwrap()).unwrap();
    let partition = topic.partition(0).unwrap();
    let value = vec![5; 1_000_000];
    let headers = [Header::new("h", &value)];
    partition.append(Record::default().headers(&headers)).unwrap();
    disk.set_free(Some(60 << 20));
    let refused = (0..18).find_map(|_| partition.append(Record::default().headers(&headers)).err());
    assert!(matches!(refused, Some(Error::LowSpace { .. })), "{refused:?}");
}
