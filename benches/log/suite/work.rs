//! The kinds of work that every system can be given: appending, reading all, reading here and there, keeping a pace.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::race::{Contender, Work};
use super::system::{Lookup, Setup, Shape, Sum, System, Writer, random_numbers, read_back};

/// Who appends what to how many logs.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) shape: Shape,
    /// In all, rounded down to what divides among the writers.
    pub(crate) calls: u64,
    pub(crate) log_count: usize,
    pub(crate) thread_count: usize,
    pub(crate) is_synced: bool,
}

impl Plan {
    pub(crate) const fn new(shape: Shape, calls: u64) -> Self {
        Self { shape, calls, log_count: 1, thread_count: 1, is_synced: false }
    }

    pub(crate) const fn synced(self) -> Self {
        Self { is_synced: true, ..self }
    }

    pub(crate) const fn threads(self, thread_count: usize) -> Self {
        Self { thread_count, ..self }
    }

    pub(crate) const fn logs(self, log_count: usize) -> Self {
        Self { log_count, ..self }
    }

    /// One for each log, or for each thread if all of them share a log.
    fn writer_count(&self) -> usize {
        self.log_count.max(self.thread_count)
    }

    fn calls_each(&self) -> u64 {
        self.calls / self.writer_count() as u64
    }

    fn setup(&self) -> Setup {
        let calls = (self.calls_each() + 1) * self.writer_count() as u64 / self.log_count as u64;
        Setup { log_count: self.log_count, is_synced: self.is_synced, room: self.shape.disk_bytes(calls) }
    }
}

/// Appends as planned; each writer once more before the clock starts, so that files are made and synced.
pub(crate) struct Appends<S: System> {
    plan: Plan,
    dir: PathBuf,
    open: Option<(S, Vec<S::Writer>)>,
}

impl<S: System> Appends<S> {
    pub(crate) fn new(plan: Plan) -> Self {
        Self { plan, dir: PathBuf::new(), open: None }
    }
}

impl<S: System> Contender for Appends<S> {
    fn prepare(&mut self, dir: &Path) -> io::Result<Work> {
        let plan = self.plan;
        self.dir = dir.to_owned();
        let system = S::open(dir, plan.setup())?;
        let writers = (0..plan.writer_count()).map(|at| system.writer(at % plan.log_count));
        let mut writers = writers.collect::<io::Result<Vec<_>>>()?;
        append_in_turn(&mut writers, plan.shape, 1)?;
        self.open = Some((system, writers));
        let calls = plan.calls_each() * plan.writer_count() as u64;
        let warm = plan.writer_count() as u64;
        Ok(Work {
            record_count: calls * plan.shape.values as u64,
            synced_calls: if plan.is_synced { calls } else { 0 },
            ..Work::of(plan.shape, calls + warm)
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let Plan { shape, thread_count, .. } = self.plan;
        let calls_each = self.plan.calls_each();
        let (_, writers) = self.open.as_mut().ok_or_else(unprepared)?;
        if thread_count == 1 {
            return append_in_turn(writers, shape, calls_each);
        }
        let each = writers.len() / thread_count;
        thread::scope(|scope| {
            let spawn = |writers| scope.spawn(move || append_in_turn(writers, shape, calls_each));
            let threads: Vec<_> = writers.chunks_mut(each).map(spawn).collect();
            threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| io::Error::other("a panic"))?)
        })
    }

    fn verify(&mut self) -> io::Result<Sum> {
        let (system, mut writers) = self.open.take().ok_or_else(unprepared)?;
        writers.iter_mut().try_for_each(Writer::finish)?;
        drop(writers);
        system.close()?;
        read_back::<S>(&self.dir, self.plan.setup())
    }
}

fn append_in_turn<W: Writer>(writers: &mut [W], shape: Shape, calls_each: u64) -> io::Result<()> {
    let payload = shape.payload();
    let values: Vec<&[u8]> = payload.chunks_exact(shape.len).collect();
    for _ in 0..calls_each {
        for writer in writers.iter_mut() {
            match &values[..] {
                [value] => writer.append(value)?,
                values => writer.append_all(values)?,
            }
        }
    }
    Ok(())
}

/// Fills log 0 with `calls` of a shape, and closes it.
pub(crate) fn fill<S: System>(dir: &Path, shape: Shape, calls: u64) -> io::Result<()> {
    let setup = Plan::new(shape, calls).setup();
    let system = S::open(dir, setup)?;
    let mut writers = [system.writer(0)?];
    append_in_turn(&mut writers, shape, calls)?;
    writers[0].finish()?;
    drop(writers);
    system.close()
}

/// Reads one log from start to end, every byte of every value.
pub(crate) struct Scan<S: System> {
    shape: Shape,
    calls: u64,
    open: Option<S>,
    sum: Sum,
}

impl<S: System> Scan<S> {
    pub(crate) fn new(shape: Shape, calls: u64) -> Self {
        Self { shape, calls, open: None, sum: Sum::default() }
    }
}

impl<S: System> Contender for Scan<S> {
    fn prepare(&mut self, dir: &Path) -> io::Result<Work> {
        if dir.read_dir()?.next().is_none() {
            fill::<S>(dir, self.shape, self.calls)?;
        }
        self.open = Some(S::open(dir, Plan::new(self.shape, self.calls).setup())?);
        self.sum = Sum::default();
        Ok(Work { disk_bytes: 0, ..Work::of(self.shape, self.calls) })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut sum = Sum::default();
        self.open.as_ref().ok_or_else(unprepared)?.scan(0, |value| sum.add(value))?;
        self.sum = sum;
        Ok(())
    }

    fn verify(&mut self) -> io::Result<Sum> {
        self.open.take().map_or(Ok(()), S::close)?;
        Ok(self.sum)
    }
}

/// Reads single records, at random, of a log whose every byte was just read.
///
/// The clock is read for every [`TOGETHER`](Self::TOGETHER) of them: one reading costs a fifth of a look-up.
pub(crate) struct RandomReads<S: Lookup> {
    shape: Shape,
    calls: u64,
    reads: u64,
    open: Option<S>,
    sum: Sum,
    nanoseconds: Vec<f64>,
}

impl<S: Lookup> RandomReads<S> {
    const TOGETHER: u64 = 16;

    pub(crate) fn new(shape: Shape, calls: u64, reads: u64) -> Self {
        Self { shape, calls, reads, open: None, sum: Sum::default(), nanoseconds: Vec::new() }
    }

    fn record_count(&self) -> u64 {
        self.shape.values as u64 * self.calls
    }
}

impl<S: Lookup> Contender for RandomReads<S> {
    fn prepare(&mut self, dir: &Path) -> io::Result<Work> {
        if dir.read_dir()?.next().is_none() {
            fill::<S>(dir, self.shape, self.calls)?;
        }
        let mut system = S::open(dir, Plan::new(self.shape, self.calls).setup())?;
        let mut sum = Sum::default();
        system.scan(0, |value| sum.add(value))?;
        for at in scattered(self.record_count()).take(10_000) {
            system.lookup(at, |_| ())?;
        }
        self.sum = sum;
        self.open = Some(system);
        self.nanoseconds.clear();
        // Warm is what it is when it has just been read.
        Ok(Work { disk_bytes: 0, ..Work::of(self.shape, self.calls) })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut places = scattered(self.record_count());
        let system = self.open.as_mut().ok_or_else(unprepared)?;
        let mut sum = Sum::default();
        for _ in 0..self.reads / Self::TOGETHER {
            let started = Instant::now();
            for at in places.by_ref().take(Self::TOGETHER as usize) {
                system.lookup(at, |value| sum.add(value))?;
            }
            self.nanoseconds.push(started.elapsed().as_nanos() as f64 / Self::TOGETHER as f64);
        }
        let wanted = self.reads / Self::TOGETHER * Self::TOGETHER;
        if sum.count != wanted {
            return Err(io::Error::other(format!("{} of {wanted} records found", sum.count)));
        }
        Ok(())
    }

    fn verify(&mut self) -> io::Result<Sum> {
        self.open.take().map_or(Ok(()), S::close)?;
        Ok(self.sum)
    }

    fn figures(&self, _: &Work, _: Duration) -> Vec<f64> {
        let mut sorted = self.nanoseconds.clone();
        sorted.sort_by(f64::total_cmp);
        vec![sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)]
    }
}

/// Numbers below `count`, all over the place.
fn scattered(count: u64) -> impl Iterator<Item = u64> {
    random_numbers().map(move |number| (u64::from(number) * count) >> 32)
}

/// Appends records of 1 KiB at a steady pace, and keeps two times of each: of the call, and since it was due.
pub(crate) struct Paced<S: System> {
    calls: u64,
    dir: PathBuf,
    open: Option<(S, S::Writer)>,
    call: Histogram<u64>,
    due: Histogram<u64>,
}

impl<S: System> Paced<S> {
    const A_SECOND: u64 = 50_000;
    const SHAPE: Shape = Shape::one(1_024);

    pub(crate) fn new(calls: u64) -> io::Result<Self> {
        let (call, due) = (histogram()?, histogram()?);
        Ok(Self { calls, dir: PathBuf::new(), open: None, call, due })
    }
}

/// Of nanoseconds up to a minute, to three digits.
fn histogram() -> io::Result<Histogram<u64>> {
    Histogram::new_with_max(60_000_000_000, 3).map_err(io::Error::other)
}

impl<S: System> Contender for Paced<S> {
    fn prepare(&mut self, dir: &Path) -> io::Result<Work> {
        self.dir = dir.to_owned();
        let system = S::open(dir, Plan::new(Self::SHAPE, self.calls + 1).setup())?;
        let mut writer = [system.writer(0)?];
        append_in_turn(&mut writer, Self::SHAPE, 1)?;
        let [writer] = writer;
        self.open = Some((system, writer));
        self.call.reset();
        self.due.reset();
        Ok(Work { record_count: self.calls, ..Work::of(Self::SHAPE, self.calls + 1) })
    }

    fn run(&mut self) -> io::Result<()> {
        let payload = Self::SHAPE.payload();
        let (_, writer) = self.open.as_mut().ok_or_else(unprepared)?;
        let started = Instant::now();
        for at in 0..self.calls {
            let due = Duration::from_nanos(at * 1_000_000_000 / Self::A_SECOND);
            let mut began = started.elapsed();
            while began < due {
                std::hint::spin_loop();
                began = started.elapsed();
            }
            writer.append(&payload)?;
            let ended = started.elapsed();
            self.call.saturating_record((ended - began).as_nanos() as u64);
            self.due.saturating_record((ended - due).as_nanos() as u64);
        }
        Ok(())
    }

    fn verify(&mut self) -> io::Result<Sum> {
        let (system, mut writer) = self.open.take().ok_or_else(unprepared)?;
        writer.finish()?;
        drop(writer);
        system.close()?;
        read_back::<S>(&self.dir, Plan::new(Self::SHAPE, self.calls + 1).setup())
    }

    /// Of the call p99 and p99.99, since it was due p99.9, in microseconds.
    fn figures(&self, _: &Work, _: Duration) -> Vec<f64> {
        let microseconds = |of: &Histogram<u64>, quantile| of.value_at_quantile(quantile) as f64 / 1e3;
        vec![microseconds(&self.call, 0.99), microseconds(&self.call, 0.999_9), microseconds(&self.due, 0.999)]
    }
}

pub(crate) fn unprepared() -> io::Error {
    io::Error::other("run before it was prepared")
}
