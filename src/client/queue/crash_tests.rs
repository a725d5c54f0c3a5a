//! Queues under crashes, kills and errors at every call: what was accepted is not handed out again, and nothing is forgotten.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests fail as tests do")]

use std::collections::{BTreeMap, BTreeSet};
use std::task::Wake;

use super::tests::*;
use super::*;
use crate::config::{Cleanup, TopicConfig};
use crate::log::{LogBuilder, Staging};
use crate::record::Record;
use crate::segment::pool::Layout;
use crate::sim::{DiskOptions, Errno, Fault, Record as Recording, SimDisk, Times};

/// Little slots and batches, so that their ends are near.
const LAYOUT: Layout = Layout { slot_len: 2048, slot_count: 4, batch_len: 300, stride: 256 };

/// What happens to the records in turn.
const PLAN: [Step; 13] = [
    Step::Append,
    Step::Append,
    Step::Accept,
    Step::Append,
    Step::Release,
    Step::Reject,
    Step::Append,
    Step::Keep,
    Step::Accept,
    Step::Append,
    Step::Release,
    Step::Reject,
    Step::Accept,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Append,
    /// Takes one, and says what became of it.
    Accept,
    Release,
    Reject,
    /// Takes one, and says nothing.
    Keep,
}

/// What a run was told.
#[derive(Debug, Clone, Default)]
struct Told {
    accepted: BTreeSet<u64>,
    rejected: BTreeSet<u64>,
    deliveries: BTreeMap<u64, u16>,
}

/// One life of a queue.
struct Run {
    log: Log,
    queue: Queue,
    kept: Vec<Task>,
    appended: u64,
}

impl Run {
    fn begin(disk: &Arc<SimDisk>, staging: Staging) -> Result<Self> {
        let log = small(disk, staging).open()?;
        let queue = log.queue("g", "a").max_deliveries(3).dead_letters("dead").open()?;
        Ok(Self { log, queue, kept: Vec::new(), appended: 0 })
    }

    fn step(&mut self, step: Step, told: &mut Told) -> Result<()> {
        if step == Step::Append {
            self.log.append(Record::new(&self.appended.to_string()).to("a"))?;
            self.appended += 1;
            return Ok(());
        }
        let Some(task) = self.queue.take(NOW)? else { return Ok(()) };
        let number = number(&task);
        assert!(!told.accepted.contains(&number) && !told.rejected.contains(&number), "{number} is done");
        told.deliveries.insert(number, task.deliveries());
        match step {
            Step::Accept => {
                task.accept()?;
                told.accepted.insert(number);
            }
            Step::Reject => {
                task.reject()?;
                told.rejected.insert(number);
            }
            Step::Release => task.release()?,
            Step::Keep | Step::Append => self.kept.push(task),
        }
        Ok(())
    }
}

fn number(task: &Task) -> u64 {
    value(task).parse().unwrap()
}

/// A log of small segments, so that they end and are compacted.
fn small(disk: &Arc<SimDisk>, staging: Staging) -> LogBuilder {
    let small = TopicConfig::default().set("segment.index.bytes", "240").unwrap();
    let queues = small.cleanup(Cleanup::Compact).segment_bytes(2048);
    builder(disk, staging).layout(LAYOUT).default_config(small.segment_bytes(512)).queues_topic(queues).strict()
}

fn disk(staging: Staging) -> Arc<SimDisk> {
    let disk = SimDisk::new(DiskOptions::default());
    let run = Run::begin(&disk, staging).unwrap();
    drop(run.queue);
    run.log.close().unwrap();
    disk.kill()
}

/// Opens what a crash or a kill left, and does all that there is to do. Of up to `doubts` records nobody was told what became
/// of them.
fn look(disk: &Arc<SimDisk>, staging: Staging, told: &Told, is_kill: bool, doubts: usize) -> Result<(), String> {
    for life in 0..2 {
        let Run { log, mut queue, .. } = Run::begin(disk, staging).map_err(|error| format!("no open: {error}"))?;
        let there: BTreeSet<u64> = numbers(&log, "a");
        let letters = numbers(&log, "dead");
        // Once more, before anything is synced that was not: what comes in the place of what is lost is new.
        let new = 1000 + life;
        log.append(Record::new(&new.to_string()).to("a")).map_err(|error| error.to_string())?;
        if life == 0 {
            let disk = disk.crash(5);
            let log = small(&disk, staging).open().map_err(|error| format!("once more: {error}"))?;
            let mut queue = log.queue("g", "a").max_deliveries(3).dead_letters("dead").open().unwrap();
            append(&log, &["2000"]);
            let handed: Vec<u64> = drain(&mut queue).iter().map(number).collect();
            if !handed.contains(&2000) {
                return Err(format!("after another power cut what is new is not handed out: {handed:?}"));
            }
        }
        let tasks = drain(&mut queue);
        let handed: BTreeMap<u64, u16> = tasks.iter().map(|task| (number(task), task.deliveries())).collect();
        if !handed.contains_key(&new) {
            return Err(format!("what is new is not handed out, but {handed:?}"));
        }
        let letters: BTreeSet<u64> = letters.union(&numbers(&log, "dead")).copied().collect();
        for number in &there {
            let (is_accepted, is_rejected) = (told.accepted.contains(number), told.rejected.contains(number));
            let (is_handed, is_letter) = (handed.contains_key(number), letters.contains(number));
            let what = match (is_accepted, is_rejected, is_handed, is_letter) {
                (true, _, true, _) => "was accepted, and is handed out",
                (_, true, true, _) => "was rejected, and is handed out",
                (_, true, _, false) => "was rejected, and has no letter",
                _ => "",
            };
            if !what.is_empty() {
                return Err(format!("{number} {what}: {told:?}, {handed:?}"));
            }
            if let (true, Some(again), Some(before)) =
                (is_kill && life == 0, handed.get(number), told.deliveries.get(number))
                && again <= before
            {
                return Err(format!("{number} was handed out {before} times, and then {again}"));
            }
        }
        if life == 0 {
            let done = |number: &&u64| told.accepted.contains(number) || letters.contains(number);
            let left: Vec<_> = there.iter().filter(|number| !done(number) && !handed.contains_key(number)).collect();
            if left.len() > doubts {
                return Err(format!("{left:?} are nowhere: {told:?}, {handed:?}"));
            }
        }
        queue.accept_all(tasks).map_err(|error| error.to_string())?;
        if queue.backlog() != 0 {
            return Err(format!("{} are left", queue.backlog()));
        }
        drop(queue);
        log.maintain().map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The numbers in a topic.
fn numbers(log: &Log, topic: &str) -> BTreeSet<u64> {
    let mut numbers = BTreeSet::new();
    let partition = log.topic(topic).unwrap().partition(0).unwrap();
    let mut from = partition.offsets().start;
    while from < partition.offsets().end {
        let records = partition.read(from).unwrap();
        let text = |value: Option<&[u8]>| String::from_utf8(value.unwrap().to_vec()).unwrap();
        numbers.extend(records.iter().map(|record| text(record.value).parse::<u64>().unwrap()));
        from = records.next_offset();
    }
    numbers.retain(|number| *number < 1000);
    numbers
}

/// Runs the plan, and looks at what a crash or a kill leaves at each of its calls. Returns how many disks were judged.
fn crash_everywhere(staging: Staging, crashes: u64) -> Result<u64, String> {
    let disk = disk(staging);
    disk.record(Recording::All);
    let mut run = Run::begin(&disk, staging).unwrap();
    let (began, mut told) = (disk.calls(), Told::default());
    // What was told up to each call.
    let mut history = vec![(began, told.clone())];
    for step in PLAN {
        run.step(step, &mut told).unwrap();
        history.push((disk.calls(), told.clone()));
    }
    let mut judged = 0;
    for moment in disk.take_moments().into_iter().filter(|moment| moment.call >= began) {
        let (_, told) = history.iter().rfind(|(calls, _)| *calls <= moment.call).unwrap();
        let clock = disk.clock().fork();
        let mut found = vec![(true, SimDisk::on(moment.image.clone(), Arc::clone(&clock)))];
        if !moment.during {
            found.extend((0..crashes).map(|seed| (false, SimDisk::on(moment.image.crash(seed), clock.fork()))));
        }
        for (is_kill, disk) in found {
            let context = |what| format!("call {}, kill {is_kill}: {what}", moment.call);
            look(&disk, staging, told, is_kill, 1).map_err(context)?;
            judged += 1;
        }
    }
    Ok(judged)
}

#[test]
fn a_crash_at_any_call_neither_forgets_a_record_nor_repeats_what_was_accepted() {
    for staging in [Staging::Off, Staging::On] {
        let judged = crash_everywhere(staging, 4).unwrap();
        assert!(judged > 100, "{judged}");
    }
}

/// A queue beside a failing disk, then a crash.
fn fail_everywhere(errno: Errno, times: Times, staging: Staging) -> Result<u64, String> {
    let calls = {
        let disk = disk(staging);
        let (mut run, mut told) = (Run::begin(&disk, staging).unwrap(), Told::default());
        PLAN.iter().for_each(|step| run.step(*step, &mut told).unwrap());
        disk.calls()
    };
    let mut failed = 0;
    for call in 0..calls {
        let disk = disk(staging);
        disk.inject(call, Fault::Error(errno), times);
        let Ok(mut run) = Run::begin(&disk, staging) else { continue };
        let mut told = Told::default();
        let doubts = PLAN.iter().filter(|step| run.step(**step, &mut told).is_err()).count();
        failed += doubts as u64;
        disk.heal();
        for seed in 0..2 {
            let left = if seed == 0 { disk.kill() } else { disk.crash(seed) };
            // Deliveries are not looked at: what failed may have been handed out.
            let context = |what| format!("{errno:?} {times:?} at call {call}, seed {seed}: {what}");
            look(&left, staging, &told, false, 1 + doubts).map_err(context)?;
        }
        if let Some(audit) = disk.audit() {
            return Err(format!("{errno:?} at call {call}: {audit:?}"));
        }
    }
    Ok(failed)
}

#[test]
fn an_error_at_any_call_loses_nothing() {
    for (errno, times, staging) in [
        (Errno::Io, Times::Once, Staging::Off),
        (Errno::Io, Times::Once, Staging::On),
        (Errno::Full, Times::Once, Staging::On),
        (Errno::Io, Times::Dead, Staging::Off),
    ] {
        let failed = fail_everywhere(errno, times, staging).unwrap();
        assert!(failed > 0, "{errno:?} {times:?} {staging:?}");
    }
}

#[cfg(feature = "planted-bugs")]
#[test]
fn each_planted_mistake_is_found() {
    use crate::probe::registry::plant;

    for mistake in crate::sim::log::QUEUES {
        plant(Some(mistake));
        let found = [Staging::Off, Staging::On].map(|staging| crash_everywhere(staging, 4));
        plant(None);
        assert!(found.iter().any(Result::is_err), "{mistake} is not found");
    }
}

#[test]
fn on_a_full_disk_what_lies_above_the_end_is_lowered_or_nothing_is_appended_in_its_place() {
    let disk = disk(Staging::Off);
    let log = small(&disk, Staging::Off).open().unwrap();
    log.append(Record::new("0").to("a")).unwrap().wait(Ack::Synced).unwrap();
    (1..12).for_each(|number| _ = log.append(Record::new(&number.to_string()).to("a")).unwrap());
    let mut queue = log.queue("g", "a").open().unwrap();
    let tasks = queue.take_many(20, NOW).unwrap();
    queue.accept_all(tasks).unwrap();
    let end = |log: &Log| log.topic("a").unwrap().partition(0).unwrap().offsets().end.0;
    let (mut lowered, mut refused) = (0, 0);
    for seed in 0..20 {
        let crashed = disk.crash(seed);
        let calls = crashed.calls();
        // A limit that is ours is none for this.
        let low = small(&crashed, Staging::Off).min_free_bytes(u64::MAX).open().unwrap();
        if end(&low) == 12 {
            continue;
        }
        lowered += 1;
        for call in calls..crashed.calls() {
            let disk = disk.crash(seed);
            disk.inject(call, Fault::Error(Errno::Full), Times::Dead);
            let opened = small(&disk, Staging::Off).open();
            disk.heal();
            let Ok(log) = opened else { continue };
            refused += u64::from(log.append(Record::new("77").to("a")).is_err());
            drop(log);
            let log = small(&disk, Staging::Off).open().unwrap();
            let new = log.append(Record::new("88").to("a")).unwrap().offset();
            let mut queue = log.queue("g", "a").open().unwrap();
            let tasks = queue.take_many(20, NOW).unwrap();
            assert_eq!(tasks.last().map(Task::offset), Some(new), "seed {seed}, call {call}");
        }
    }
    assert!(lowered > 3 && refused > 0, "{lowered}, {refused}");
}

/// Takes from a queue as soon as it is woken, in the midst of what wakes it.
struct Eager(parking_lot::Mutex<Queue>);

impl Wake for Eager {
    fn wake(self: Arc<Self>) {
        assert!(self.0.lock().take(NOW).unwrap().is_none());
    }
}

#[test]
fn what_is_rejected_stays_so_also_if_another_worker_wrote_its_letter() {
    let disk = disk(Staging::Off);
    let log = small(&disk, Staging::Off).open().unwrap();
    let open = || log.queue("g", "a").max_deliveries(3).dead_letters("dead").open().unwrap();
    let (mut queue, mut other) = (open(), open());
    log.append(Record::new("0").to("a")).unwrap().wait(Ack::Synced).unwrap();
    let task = queue.take(NOW).unwrap().unwrap();
    let eager = Arc::new(Eager(parking_lot::Mutex::new(open())));
    let waker = Waker::from(eager);
    assert!(other.poll_tasks(1, &mut Context::from_waker(&waker)).is_pending());
    task.reject().unwrap();
    for seed in 0..8 {
        let log = small(&disk.crash(seed), Staging::Off).open().unwrap();
        let mut queue = log.queue("g", "a").max_deliveries(3).dead_letters("dead").open().unwrap();
        assert!(queue.take(NOW).unwrap().is_none(), "{seed}");
        assert_eq!(numbers(&log, "dead"), [0].into());
    }
}

#[test]
fn a_letter_is_written_once_whatever_fails_behind_it() {
    let mut failed = 0;
    for call in 0.. {
        let disk = disk(Staging::Off);
        let log = small(&disk, Staging::Off).open().unwrap();
        let mut queue = log.queue("g", "a").max_deliveries(3).dead_letters("dead").open().unwrap();
        (0..3).for_each(|number| _ = log.append(Record::new(&number.to_string()).to("a")).unwrap());
        let tasks = queue.take_many(3, NOW).unwrap();
        disk.inject(disk.calls() + call, Fault::Error(Errno::Full), Times::Once);
        let told: Vec<_> = tasks.into_iter().map(Task::reject).collect();
        if disk.struck() == 0 {
            break;
        }
        failed += told.iter().filter(|told| told.is_err()).count();
        log.maintain().unwrap();
        if log.topic("dead").unwrap().partition(0).unwrap().append("one more").is_err() {
            // A sync failed: what is there is not known before the next open.
            continue;
        }
        let Ok(taken) = queue.take(NOW) else { continue };
        assert!(taken.is_none());
        let letters = log.topic("dead").unwrap().partition(0).unwrap().offsets().end;
        assert_eq!(letters, Offset(4), "call {call}");
    }
    assert!(failed > 0);
}

#[test]
fn a_queue_that_passes_over_what_is_there_does_so_as_a_whole_or_begins_again() {
    let disk = SimDisk::new(DiskOptions::default());
    let log = small(&disk, Staging::Off).open().unwrap();
    let topic = log.create_topic("a", TopicConfig::default().partitions(3)).unwrap();
    (0..3).for_each(|number| drop(topic.partition(number).unwrap().append("old").unwrap().wait(Ack::Synced)));
    drop(log.queue("other", "a").open().unwrap());
    log.close().unwrap();
    let disk = disk.kill();
    disk.record(Recording::All);
    let log = small(&disk, Staging::Off).open().unwrap();
    let began = disk.calls();
    drop(log.queue("g", "a").skip_present().open().unwrap());
    let mut judged = 0;
    for moment in disk.take_moments().into_iter().filter(|moment| moment.call >= began) {
        for image in [moment.image.clone(), moment.image.crash(moment.call)] {
            let disk = SimDisk::on(image, disk.clock().fork());
            let log = small(&disk, Staging::Off).open().unwrap();
            let mut queue = log.queue("g", "a").skip_present().open().unwrap();
            assert_eq!(values(&mut queue), [], "call {}", moment.call);
            judged += 1;
        }
    }
    assert!(judged > 4, "{judged}");
}
