//! Races two contenders against each other: ours, bare, ours, bare, and takes medians.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

use crate::bare::Shape;
use crate::machine::Device;

/// One line of the table.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// The ratio, ours to bare, that is wanted.
    pub(crate) goal: f64,
    pub(crate) ours: Box<dyn Contender>,
    pub(crate) bare: Box<dyn Contender>,
}

/// One side of a race. Only [`run`](Contender::run) is on the clock.
pub(crate) trait Contender {
    /// Gets ready in an empty directory, and says what there will be to do.
    fn prepare(&mut self, dir: &Path) -> io::Result<Work>;

    /// Does it.
    fn run(&mut self) -> io::Result<()>;

    /// Reads everything back: the sum of all bytes of all values.
    fn verify(&mut self) -> io::Result<u64>;
}

/// What a run does, whoever does it.
#[derive(Clone, Copy)]
pub(crate) struct Work {
    pub(crate) record_count: u64,
    pub(crate) call_count: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) sum: u64,
    /// Whether each call waits for the device.
    pub(crate) is_synced: bool,
}

impl Work {
    /// `batch_count` batches, one a call.
    pub(crate) fn of(shape: Shape, batch_count: u64) -> Self {
        Self {
            record_count: shape.values as u64 * batch_count,
            call_count: batch_count,
            disk_bytes: shape.disk_bytes(batch_count),
            sum: shape.sum(batch_count),
            is_synced: false,
        }
    }
}

pub(crate) fn heading() -> String {
    format!("{:<22}{:>14}{:>14}{:>8}{:>14}{:>7}  ", "records/s", "ours", "bare", "ratio", "of pairs", "goal")
}

/// Runs both sides of `row` in turn, `pairs` times, and reports medians.
pub(crate) fn race(row: &mut Row, dir: &Path, pairs: usize) -> io::Result<String> {
    let (mut ours, mut bare, mut told) = (Vec::new(), Vec::new(), String::new());
    for _ in 0..pairs {
        let (one, other) = (time(&mut *row.ours, dir)?, time(&mut *row.bare, dir)?);
        ours.push(one.rate);
        bare.push(other.rate);
        if !one.told.is_empty() {
            told = format!("{}; bare {}", one.told, other.told);
        }
    }
    Ok(format!("{}  {told}", line(row, &ours, &bare)).trim_end().to_owned())
}

fn line(row: &Row, ours: &[f64], bare: &[f64]) -> String {
    let mut ratios: Vec<f64> = ours.iter().zip(bare).map(|(ours, bare)| ours / bare).collect();
    let bare = median(&mut bare.to_vec());
    let ratio = median(&mut ratios);
    let spread = format!("{:.2}..{:.2}", ratios[0], ratios[ratios.len() - 1]);
    let verdict = if ratio >= row.goal { "reached" } else { "not reached" };
    let ours = median(&mut ours.to_vec());
    format!("{:<22}{ours:>14.0}{bare:>14.0}{ratio:>8.2}{spread:>14}{:>7.2}  {verdict}", row.name, row.goal)
}

struct Lap {
    rate: f64,
    /// What the device was told, where that matters.
    told: String,
}

fn time(contender: &mut dyn Contender, dir: &Path) -> io::Result<Lap> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    fs::create_dir_all(dir)?;
    let work = contender.prepare(dir)?;
    touch_memory(&dir.join("touched"), work.disk_bytes)?;
    let device = Device::of(dir);
    let before = device.counters();
    let started = Instant::now();
    contender.run()?;
    let seconds = started.elapsed().as_secs_f64();
    let after = device.counters();
    let sum = contender.verify()?;
    if sum != work.sum {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("read back {sum}, wrote {}", work.sum)));
    }
    fs::remove_dir_all(dir)?;
    let told = match (work.is_synced, before.zip(after)) {
        (true, Some((before, after))) => after.since(before, work.call_count),
        _ => String::new(),
    };
    Ok(Lap { rate: work.record_count as f64 / seconds, told })
}

/// Writes and removes a file as long as the one to come. A virtual machine gives free memory back to its host, and
/// gets it back page by page, at up to 11 us each: not on anybody's clock.
fn touch_memory(path: &Path, len: u64) -> io::Result<()> {
    fs::write(path, vec![1_u8; usize::try_from(len).map_err(io::Error::other)?])?;
    fs::File::open(path)?.sync_all()?;
    fs::remove_file(path)
}

/// Sorts, too.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
