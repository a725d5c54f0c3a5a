//! Random lives of three members, against what a group promises; and the mistakes that this must find.
//!
//! | Promise | Checked |
//! |---|---|
//! | one owner for a partition and a generation | after each step |
//! | what is read begins where the group is, and goes on without a gap or a repeat | at each record |
//! | a commit is of what was read, durable, and of the latest generation | at each commit |
//! | once all is quiet every partition has an owner, nobody loses anything, everybody can commit | at the end |
//! | every record was delivered | at the end |

use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::log::Staging;

const TOPICS: [&str; 2] = ["a", "b"];

/// What the listener of a member was told, and did.
#[derive(Debug, Clone)]
enum Told {
    Assigned(Vec<TopicPartition>),
    Revoked(Vec<TopicPartition>),
    Lost(Vec<TopicPartition>),
    Committed(Vec<(TopicPartition, Offset)>),
}

#[derive(Debug, Clone, Default)]
struct Ear(Arc<Mutex<Vec<Told>>>);

impl Ear {
    fn hear(&self, told: Told) {
        self.0.lock().unwrap().push(told);
    }

    fn take(&self) -> Vec<Told> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl RebalanceListener for Ear {
    fn assigned(&mut self, _: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
        self.hear(Told::Assigned(partitions.to_vec()));
        Ok(())
    }

    fn revoked(&mut self, consumer: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
        let positions = consumer.positions();
        // One that hands over in order, but for those that have no time.
        if positions.len().is_multiple_of(2) && consumer.commit().is_ok() {
            self.hear(Told::Committed(positions));
        }
        self.hear(Told::Revoked(partitions.to_vec()));
        Ok(())
    }

    fn lost(&mut self, _: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
        self.hear(Told::Lost(partitions.to_vec()));
        Ok(())
    }
}

/// A member, and what it is to read next in each partition that it has; none if it has read nothing of it.
struct Life {
    consumer: Consumer,
    ear: Ear,
    next: BTreeMap<TopicPartition, Option<u64>>,
}

struct World {
    disk: Arc<SimDisk>,
    log: Log,
    lives: [Option<Life>; 3],
    /// Those that nobody polls any more, or drops before all is over.
    dead: Vec<Life>,
    assignors: Vec<Arc<dyn Assignor>>,
    appended: BTreeMap<TopicPartition, u64>,
    committed: BTreeMap<TopicPartition, u64>,
    delivered: BTreeMap<TopicPartition, BTreeSet<u64>>,
    /// How many partitions were given up or lost.
    losses: usize,
    grows_at_last: bool,
}

impl World {
    /// Does what the bytes say, then lets all end well.
    fn run(bytes: &[u8]) -> Result<(), String> {
        let (first, rest) = bytes.split_first().unwrap_or((&0, &[]));
        let assignors: Vec<Arc<dyn Assignor>> = match first % 3 {
            0 => eager().into(),
            1 => cooperative().into(),
            _ => vec![Arc::new(Range), Arc::new(CooperativeSticky)],
        };
        let disk = SimDisk::new(DiskOptions::default());
        let log = start(&disk).unwrap();
        TOPICS.iter().for_each(|name| topic(&log, name, 2));
        let mut world = Self {
            disk,
            log,
            lives: [None, None, None],
            dead: Vec::new(),
            assignors,
            appended: BTreeMap::new(),
            committed: BTreeMap::new(),
            delivered: BTreeMap::new(),
            losses: 0,
            grows_at_last: first / 3 % 2 == 0,
        };
        rest.iter().try_for_each(|byte| world.step(*byte))?;
        world.end_well()
    }

    fn step(&mut self, byte: u8) -> Result<(), String> {
        let at = usize::from(byte / 64) % 3;
        match byte % 64 {
            0..12 => self.append(byte),
            12..32 => self.poll(at)?,
            32..38 => self.commit(at)?,
            38..44 => self.join(at),
            44..46 => self.close(at),
            46 => drop(self.lives[at].take()),
            47 => self.dead.extend(self.lives[at].take()),
            48..56 => self.pass(u32::from(byte % 4) * SECOND),
            56 => self.stand_still(at)?,
            57 => self.grow(at),
            58 => self.kill(),
            59..62 => self.seek(at, byte),
            _ => self.pass(Duration::from_millis(1)),
        }
        (0..3).try_for_each(|at| self.hear(at))?;
        self.check()
    }

    fn append(&mut self, byte: u8) {
        let topic = TOPICS[usize::from(byte) % 2];
        let count = self.log.topic(topic).unwrap().partition_count();
        let id = id(topic, u32::from(byte / 16) % count);
        let offset = append(&self.log, &id, "x");
        self.appended.insert(id, offset.0 + 1);
    }

    fn join(&mut self, at: usize) {
        if self.lives[at].is_some() {
            return;
        }
        let ear = Ear::default();
        let builder = self.log.consumer("g").topics(TOPICS).assignors(self.assignors.clone()).listener(ear.clone());
        let builder = builder.auto_offset_reset(AutoOffsetReset::Earliest).max_poll_records(3);
        let builder = builder.session_timeout(10 * SECOND).max_poll_interval(30 * SECOND);
        let consumer = builder.join().unwrap();
        self.lives[at] = Some(Life { consumer, ear, next: BTreeMap::new() });
    }

    fn poll(&mut self, at: usize) -> Result<(), String> {
        let Some(life) = &mut self.lives[at] else { return Ok(()) };
        let polled = life.consumer.poll(Duration::ZERO);
        self.hear(at)?;
        let Some(life) = &mut self.lives[at] else { return Ok(()) };
        let polled = polled.map_err(|error| format!("{at} cannot poll: {error}"))?;
        for (id, record) in &polled {
            let Some(next) = life.next.get_mut(id) else { return Err(format!("{at} reads {id}, and has it not")) };
            let committed = self.committed.get(id).copied().unwrap_or(0);
            let expected = next.unwrap_or(committed);
            if record.offset.0 != expected {
                return Err(format!("{at} reads {} of {id}, not {expected}", record.offset));
            }
            *next = Some(record.offset.0 + 1);
            self.delivered.entry(id.clone()).or_default().insert(record.offset.0);
        }
        Ok(())
    }

    /// Takes in what the listener was told.
    fn hear(&mut self, at: usize) -> Result<(), String> {
        let Some(life) = &mut self.lives[at] else { return Ok(()) };
        for told in life.ear.take() {
            match told {
                Told::Assigned(ids) => life.next.extend(ids.into_iter().map(|id| (id, None))),
                Told::Revoked(ids) | Told::Lost(ids) => {
                    self.losses += ids.len();
                    ids.iter().for_each(|id| _ = life.next.remove(id));
                }
                Told::Committed(positions) => committed(&mut self.committed, life, positions, at)?,
            }
        }
        Ok(())
    }

    fn commit(&mut self, at: usize) -> Result<(), String> {
        let Some(life) = &mut self.lives[at] else { return Ok(()) };
        let positions = life.consumer.positions();
        match life.consumer.commit() {
            Ok(()) => committed(&mut self.committed, life, positions.clone(), at)?,
            Err(Error::GroupRefused { .. }) => return Ok(()),
            Err(error) => return Err(format!("{at} cannot commit: {error}")),
        }
        // Afterwards: an answer that had come, and was not looked at, counts for the commit.
        let generation = generation(&life.consumer);
        let newest = self.lives.iter().flatten().map(|life| self::generation(&life.consumer)).max();
        if !positions.is_empty() && newest > Some(generation) {
            return Err(format!("{at} committed in generation {generation}, and there is {newest:?}"));
        }
        for (id, position) in positions {
            let partition = self.log.topic(&id.topic).unwrap().partition(id.partition).unwrap();
            let stored = self.log.group("g").unwrap().committed(&id.topic, id.partition).unwrap();
            if stored.map(|stored| stored.offset) != Some(position) {
                return Err(format!("{at} committed {position} of {id}, and stored is another"));
            }
            if partition.offsets().synced < position {
                return Err(format!("{at} committed {position} of {id}, and that is not durable"));
            }
        }
        Ok(())
    }

    fn close(&mut self, at: usize) {
        let Some(life) = self.lives[at].take() else { return };
        let mut next = life.next;
        life.consumer.close().unwrap();
        for told in life.ear.take() {
            match told {
                Told::Committed(positions) => {
                    self.committed.extend(positions.into_iter().map(|(id, offset)| (id, offset.0)));
                }
                Told::Assigned(_) | Told::Revoked(_) | Told::Lost(_) => next.clear(),
            }
        }
    }

    fn seek(&mut self, at: usize, byte: u8) {
        let Some(life) = &mut self.lives[at] else { return };
        for (id, position) in life.consumer.positions() {
            let to = position.0.saturating_sub(u64::from(byte % 4));
            life.consumer.seek(&id, Offset(to)).unwrap();
            life.next.insert(id, Some(to));
        }
    }

    fn pass(&mut self, time: Duration) {
        self.disk.clock().advance(time);
        self.log.maintain().unwrap();
    }

    /// The process stands still for longer than a session, and one is the first to go on.
    fn stand_still(&mut self, at: usize) -> Result<(), String> {
        self.disk.clock().advance(11 * SECOND);
        self.poll(at)
    }

    fn grow(&mut self, at: usize) {
        let topic = self.log.topic(TOPICS[at % 2]).unwrap();
        let config = topic.config();
        if topic.partition_count() < 5 {
            self.log.alter_topic(topic.name(), config.partitions(topic.partition_count() + 1)).unwrap();
        }
    }

    /// The process dies, with all its members, and is started again.
    fn kill(&mut self) {
        self.disk = self.disk.kill();
        self.log = start(&self.disk).unwrap();
        // What they do as they go, they do to the old disk, which nobody looks at again.
        self.lives = [None, None, None];
        self.dead.clear();
    }

    fn check(&self) -> Result<(), String> {
        let mut owners = BTreeMap::new();
        for (at, life) in self.lives.iter().enumerate().filter_map(|(at, life)| Some((at, life.as_ref()?))) {
            for id in life.consumer.assignment() {
                let generation = generation(&life.consumer);
                if generation >= 0
                    && let Some(other) = owners.insert((id.clone(), generation), at)
                {
                    return Err(format!("{at} and {other} have {id} in generation {generation}"));
                }
            }
        }
        Ok(())
    }

    /// Whoever is there goes on: in the end everything is read, and everybody is content.
    fn end_well(&mut self) -> Result<(), String> {
        if self.lives.iter().flatten().next().is_none() {
            self.join(0);
        }
        let mut losses = 0;
        for round in 0..90 {
            // When all is quiet: nothing else lets them divide anew, or more often.
            match round {
                30 if self.grows_at_last => self.grow(0),
                30 => self.close(2),
                36 if !self.grows_at_last => self.join(2),
                _ => {}
            }
            if round == 60 {
                losses = self.losses;
            }
            for at in 0..3 {
                self.poll(at)?;
                self.check()?;
            }
            self.pass(SECOND);
        }
        if losses != self.losses {
            return Err("they lose partitions, and nothing happens".to_owned());
        }
        for at in 0..3 {
            self.commit(at)?;
            if let Some(life) = &mut self.lives[at] {
                life.consumer.commit().map_err(|error| format!("{at} cannot commit in the end: {error}"))?;
            }
        }
        let lives: Vec<_> = self.lives.iter().flatten().collect();
        let owned: Vec<_> = lives.iter().flat_map(|life| life.consumer.assignment()).collect();
        let all = TOPICS
            .iter()
            .flat_map(|name| (0..self.log.topic(name).unwrap().partition_count()).map(|number| id(name, number)));
        for id in all {
            let count = owned.iter().filter(|owned| **owned == id).count();
            if count != 1 {
                return Err(format!("{id} has {count} owners in the end"));
            }
            let appended = self.appended.get(&id).copied().unwrap_or(0);
            let delivered = self.delivered.get(&id).map_or(0, BTreeSet::len) as u64;
            if appended != delivered {
                return Err(format!("{delivered} of {appended} records of {id} were delivered"));
            }
        }
        Ok(())
    }
}

/// Opens a log without staging, which takes memory and is nothing to a consumer.
fn start(disk: &Arc<SimDisk>) -> Result<Log> {
    builder(disk).staging(Staging::Off).open()
}

/// Notes a commit, which must be of what the member has read.
fn committed(
    all: &mut BTreeMap<TopicPartition, u64>,
    life: &Life,
    positions: Vec<(TopicPartition, Offset)>,
    at: usize,
) -> Result<(), String> {
    for (id, position) in positions {
        let begun = all.get(&id).copied().unwrap_or(0);
        let read = life.next.get(&id).copied().flatten().unwrap_or(begun);
        if position.0 != read {
            return Err(format!("{at} committed {position} of {id}, and has read up to {read}"));
        }
        all.insert(id, position.0);
    }
    Ok(())
}

fn generation(consumer: &Consumer) -> i32 {
    consumer.membership.as_ref().map_or(-1, |membership| membership.shared.generation())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Whatever its members do, a group keeps what it promises.
    #[test]
    fn no_life_of_members_breaks_a_promise(bytes in prop::collection::vec(any::<u8>(), 1..160)) {
        World::run(&bytes).map_err(TestCaseError::fail)?;
    }
}

/// A test that cannot fail is none.
#[cfg(feature = "planted-bugs")]
#[test]
fn each_planted_mistake_of_consumers_is_found() {
    let random = || (0..60).try_for_each(|seed| World::run(&sequence(seed)));
    for bug in crate::sim::log::CONSUMER {
        crate::sim::explore::plant(Some(bug));
        let is_found = std::panic::catch_unwind(random).map_or(true, |found| found.is_err())
            || std::panic::catch_unwind(super::by_hand::no_partition_with_records_is_passed_over_for_long).is_err()
            || std::panic::catch_unwind(super::group::what_a_member_leaves_is_anothers_at_once).is_err();
        crate::sim::explore::plant(None);
        assert!(is_found, "{bug}");
    }
    assert_eq!(random(), Ok(()), "and none is none");
}

/// The bytes of some steps.
#[cfg(feature = "planted-bugs")]
fn sequence(seed: u64) -> Vec<u8> {
    let mut rng = crate::sim::Rng::new(seed);
    (0..160).map(|_| rng.draw() as u8).collect()
}
