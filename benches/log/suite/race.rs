//! Races contenders against each other: ours, another, ours, another, and takes medians.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::machine::{CpuTime, Device};
use super::outcome::{Other, Outcome};
use super::system::{Shape, Sum};

/// One kind of work, and who does it.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// What is read off a run.
    pub(crate) lines: Vec<Line>,
    /// Ours first.
    pub(crate) contenders: Vec<Entrant>,
    /// Whether what a contender prepared stays for its next lap. What it wrote is then too much to write each time.
    pub(crate) keeps: bool,
    pub(crate) notes: Vec<String>,
}

pub(crate) struct Entrant {
    pub(crate) name: &'static str,
    pub(crate) contender: Box<dyn Contender>,
}

impl Entrant {
    pub(crate) fn new(name: &'static str, contender: impl Contender + 'static) -> Self {
        Self { name, contender: Box::new(contender) }
    }
}

/// The unit of a rate.
pub(crate) const PER_RECORD: &str = "records/s";

impl Row {
    /// A race for the most records a second.
    pub(crate) fn rate(name: &'static str, goal: f64, contenders: Vec<Entrant>) -> Self {
        let line = Line { name: "", unit: PER_RECORD, goal: Goal::Ratio(Bound::AtLeast(goal)) };
        Self::of(name, vec![line], contenders)
    }

    pub(crate) fn of(name: &'static str, lines: Vec<Line>, contenders: Vec<Entrant>) -> Self {
        Self { name, lines, contenders, keeps: false, notes: Vec::new() }
    }

    pub(crate) fn keep(self) -> Self {
        Self { keeps: true, ..self }
    }
}

/// One figure of a row.
#[derive(Clone, Copy)]
pub(crate) struct Line {
    /// What it is, where a row has several.
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) goal: Goal,
}

#[derive(Clone, Copy)]
pub(crate) enum Goal {
    /// Of ours to the best of the others, in one lap.
    Ratio(Bound),
    /// Of ours alone.
    Value(Bound),
    /// None here: what it is held against is elsewhere.
    None,
}

#[derive(Clone, Copy)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    pub(crate) fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

/// One side of a race. Only [`run`](Contender::run) is on the clock.
pub(crate) trait Contender {
    /// Gets ready in a directory, which is empty unless the row keeps what was there, and says what there is to do.
    fn prepare(&mut self, dir: &Path) -> io::Result<Work>;

    /// Does it.
    fn run(&mut self) -> io::Result<()>;

    /// Reads everything back.
    fn verify(&mut self) -> io::Result<Sum>;

    /// What it came to, once it is verified: a figure for each line of the row.
    fn figures(&self, work: &Work, elapsed: Duration) -> Vec<f64> {
        vec![work.record_count as f64 / elapsed.as_secs_f64()]
    }
}

/// What a run does, whoever does it.
#[derive(Clone, Copy)]
pub(crate) struct Work {
    pub(crate) record_count: u64,
    pub(crate) disk_bytes: u64,
    /// What there is to read back afterwards.
    pub(crate) sum: Sum,
    /// How many calls wait for the device.
    pub(crate) synced_calls: u64,
}

impl Work {
    pub(crate) fn of(shape: Shape, calls: u64) -> Self {
        Self {
            record_count: shape.values as u64 * calls,
            disk_bytes: shape.disk_bytes(calls),
            sum: shape.sum(calls),
            synced_calls: 0,
        }
    }
}

/// Lets all contenders of `row` run in turn, `laps` times. Each line becomes an outcome.
///
/// One of the others that fails is left out, and the outcome says so; ours has to come through.
pub(crate) fn race(row: Row, dir: &Path, laps: usize) -> io::Result<Vec<Outcome>> {
    let Row { name, lines, mut contenders, keeps, mut notes } = row;
    let started = Instant::now();
    eprint!("{name} ");
    clear(dir)?;
    // By contender, by lap, by line.
    let mut figures: Vec<Vec<Vec<f64>>> = vec![Vec::new(); contenders.len()];
    let mut failed = vec![false; contenders.len()];
    let mut busy = vec![(CpuTime::default(), 0); contenders.len()];
    for lap in 0..laps {
        for (at, Entrant { name, contender }) in contenders.iter_mut().enumerate() {
            if failed[at] {
                continue;
            }
            match time(&mut **contender, &dir.join(format!("{at}")), keeps) {
                Ok(timed) => {
                    figures[at].push(timed.figures);
                    busy[at].0.add(timed.busy.0, timed.busy.1);
                    busy[at].1 += timed.record_count;
                    let told = timed.told.filter(|_| lap + 1 == laps);
                    notes.extend(told.map(|told| format!("{name}: {told}")));
                }
                Err(error) if at > 0 && contenders_are_many(&failed) => {
                    notes.push(format!("{name} left out: {error}"));
                    failed[at] = true;
                }
                Err(error) => return Err(io::Error::new(error.kind(), format!("{name}: {error}"))),
            }
        }
        eprint!(".");
        io::stderr().flush()?;
    }
    clear(dir)?;
    // Where the time went: a row that is not reached has its reason there.
    if lines.first().is_some_and(|line| line.unit == PER_RECORD) {
        let busy = contenders.iter().zip(&busy).filter(|(_, (_, record_count))| *record_count > 0);
        notes.extend(
            busy.map(|(who, (time, record_count))| format!("{}: {}", who.name, time.for_each_of(*record_count))),
        );
    }
    eprintln!(" {:.1} s", started.elapsed().as_secs_f64());
    let outcome = |(at, line): (usize, &Line)| {
        let notes = if at == 0 { notes.join("; ") } else { String::new() };
        let mut of_line = figures.iter().map(|laps| laps.iter().map(|figures| figures[at]).collect::<Vec<f64>>());
        let ours = of_line.next().unwrap_or_default();
        let names = contenders.iter().skip(1).map(|entrant| entrant.name);
        let others = names.zip(of_line).filter(|(_, laps)| laps.len() == ours.len());
        let others = others.map(|(name, laps)| Other::new(name, &ours, laps)).collect();
        Outcome::new(full_name(name, line.name), *line, ours, others, notes)
    };
    Ok(lines.iter().enumerate().map(outcome).collect())
}

/// Whether somebody to compare with is left when one more fails.
fn contenders_are_many(failed: &[bool]) -> bool {
    failed.iter().skip(1).filter(|failed| !**failed).count() > 1
}

fn full_name(row: &str, line: &str) -> String {
    if line.is_empty() { row.to_owned() } else { format!("{row}: {line}") }
}

struct Timed {
    figures: Vec<f64>,
    record_count: u64,
    /// Before the clock was started, and after.
    busy: (CpuTime, CpuTime),
    /// What the device was told, where that matters.
    told: Option<String>,
}

fn time(contender: &mut dyn Contender, dir: &Path, keeps: bool) -> io::Result<Timed> {
    if !keeps {
        clear(dir)?;
    }
    fs::create_dir_all(dir)?;
    // What is left to be written back would be so at this lap's expense; but not what it has prepared: pages that were
    // just written back are slower to store to.
    rustix::fs::sync();
    let work = contender.prepare(dir)?;
    touch_memory(&dir.with_extension("touched"), work.disk_bytes)?;
    let device = Device::of(dir);
    let before = device.counters();
    let busy_before = CpuTime::now().unwrap_or_default();
    let started = Instant::now();
    contender.run()?;
    let elapsed = started.elapsed();
    let busy = (busy_before, CpuTime::now().unwrap_or_default());
    let after = device.counters();
    let sum = contender.verify()?;
    if sum != work.sum {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("read back {sum:?}, wrote {:?}", work.sum)));
    }
    if !keeps {
        clear(dir)?;
    }
    let told = before.zip(after).filter(|_| work.synced_calls > 0);
    Ok(Timed {
        figures: contender.figures(&work, elapsed),
        record_count: work.record_count,
        busy,
        told: told.map(|(before, after)| after.since(before, work.synced_calls)),
    })
}

fn clear(dir: &Path) -> io::Result<()> {
    if dir.exists() { fs::remove_dir_all(dir) } else { Ok(()) }
}

/// Writes and removes a file as long as the one to come. A virtual machine gives free memory back to its host, and
/// gets it back page by page, at up to 11 us each: not on anybody's clock.
fn touch_memory(path: &Path, len: u64) -> io::Result<()> {
    let piece = vec![1_u8; 1 << 20];
    let mut file = fs::File::create(path)?;
    for at in (0..len).step_by(piece.len()) {
        file.write_all(&piece[..piece.len().min((len - at) as usize)])?;
    }
    file.sync_data()?;
    drop(file);
    fs::remove_file(path)
}
