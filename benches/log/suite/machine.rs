//! What the figures are from: machine, file system, date; and what the processor and the device were busy with.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One line about where and when.
pub(crate) fn describe(dir: &Path) -> io::Result<String> {
    fs::create_dir_all(dir)?;
    let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let cores = std::thread::available_parallelism()?;
    let memory_kib: u64 =
        field("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse().ok()).unwrap_or(0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let profile = if cfg!(debug_assertions) { ", a debug build: not for comparing" } else { "" };
    Ok(format!(
        "{cores} x {cpu}, {} GiB, {} {}, {}, {}{profile}",
        memory_kib.div_ceil(1 << 20),
        std::env::consts::OS,
        kernel.trim(),
        file_system(&dir.canonicalize()?).unwrap_or_else(|| "unknown file system".to_owned()),
        date(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()),
    ))
}

/// How many descriptors this process has open, the one that it lists them with apart.
pub(crate) fn descriptors() -> io::Result<u64> {
    Ok(fs::read_dir("/proc/self/fd")?.count().saturating_sub(1) as u64)
}

/// How much memory is this process's own: not of a file. Maps of files, shared ones too, are the page cache's.
pub(crate) fn private_kib() -> io::Result<u64> {
    let text = field("/proc/self/status", "RssAnon").unwrap_or_default();
    let kib = text.split(' ').next().and_then(|number| number.parse().ok());
    kib.ok_or_else(|| io::Error::other("the kernel does not tell private memory"))
}

/// How long this process, all its threads together, has run: its own code, and the system for it.
#[derive(Clone, Copy, Default)]
pub(crate) struct CpuTime {
    pub(crate) own: Duration,
    pub(crate) system: Duration,
}

impl CpuTime {
    /// Until now, to a tick of 10 ms.
    pub(crate) fn now() -> Option<Self> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        // Behind the name, which may hold anything, in parentheses: columns 14 and 15 of the kernel's table.
        let mut columns = text.rsplit_once(')')?.1.split_whitespace().skip(11);
        let mut next = || Some(Duration::from_millis(10 * columns.next()?.parse::<u64>().ok()?));
        Some(Self { own: next()?, system: next()? })
    }

    /// Adds what passed from `before` to `after`.
    pub(crate) fn add(&mut self, before: Self, after: Self) {
        self.own += after.own.saturating_sub(before.own);
        self.system += after.system.saturating_sub(before.system);
    }

    /// What there was of it for each of `count`.
    pub(crate) fn for_each_of(self, count: u64) -> String {
        let of = |time: Duration| time.as_nanos() as f64 / count.max(1) as f64;
        format!("{:.0} ns own and {:.0} ns system time a record", of(self.own), of(self.system))
    }
}

fn field(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The kind of the mount with the longest path that leads to `dir`.
fn file_system(dir: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.nth(1)?, words.next()?))
    });
    mounts.filter(|(at, _)| dir.starts_with(at)).max_by_key(|(at, _)| at.len()).map(|(_, kind)| kind.to_owned())
}

/// Seconds since 1970 as a date. Counts in 400-year cycles of years that begin in March, so that leap days come last.
fn date(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year_of_cycle = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = (cycle * 400 + year_of_cycle + u64::from(month >= 10), (month + 2) % 12 + 1);
    format!("{year}-{month:02}-{day_of_month:02}")
}

/// The block device below a directory, if there is one.
pub(crate) struct Device {
    stat: Option<PathBuf>,
}

impl Device {
    pub(crate) fn of(dir: &Path) -> Self {
        let stat = fs::metadata(dir).ok().map(|metadata| {
            let id = metadata.dev();
            let major = id >> 8 & 0xFFF | id >> 32 & !0xFFF;
            let minor = id & 0xFF | id >> 12 & !0xFF;
            PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat"))
        });
        Self { stat }
    }

    /// What it was told since it was there.
    pub(crate) fn counters(&self) -> Option<Counters> {
        let text = fs::read_to_string(self.stat.as_ref()?).ok()?;
        let numbers: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        // Columns 7 and 16 of the kernel's table: sectors written, flushes.
        Some(Counters { written_sectors: *numbers.get(6)?, flushes: *numbers.get(15)? })
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Counters {
    written_sectors: u64,
    flushes: u64,
}

impl Counters {
    pub(crate) fn since(self, before: Self, call_count: u64) -> String {
        let a_call = |count: u64| count as f64 / call_count as f64;
        let kib = a_call(self.written_sectors - before.written_sectors) / 2.0;
        format!("{:.2} flushes and {kib:.1} KiB a call", a_call(self.flushes - before.flushes))
    }
}
