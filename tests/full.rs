//! A full disk is an error that heals: nothing acknowledged is lost, and freeing space is enough to go on.
//!
//! ```text
//! full --dir DIR --kind KIND      DIR is on a small file system of its own, of that kind: see .ci/with-disk
//! ```
//!
//! Without `--dir` there is nothing small to fill, so nothing is tested. A *ballast* file takes space from the start;
//! removing it is what frees some. All of it is done with small appends staged, where that is safe, and without. Where
//! it is not, the log has to say so: there, a store to a file's memory on a full disk would be a signal.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use chiplog::{
    Background, Durability, Error, ErrorKind, Log, LogBuilder, Offset, Partition, Record, Staging, StagingStats,
    Topic, TopicConfig,
};

type Result<T = (), E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;
type Fact = (&'static str, fn(&Place) -> Result);

const FACTS: [Fact; 8] = [
    ("appends_go_on_once_space_is_freed", |place| appends_go_on(place, Durability::Os)),
    ("synced_appends_go_on_once_space_is_freed", |place| appends_go_on(place, Durability::Each)),
    ("a_full_log_opens", |place| a_full_log_opens(place, Durability::Os)),
    ("a_full_durable_log_opens", |place| a_full_log_opens(place, Durability::Each)),
    ("low_space_is_refused_before_the_disk_is_full", low_space_is_refused),
    ("commits_go_on_once_space_is_freed", commits_go_on),
    ("what_is_staged_survives_kills_on_a_full_disk", what_is_staged_survives_kills),
    ("a_log_that_gets_no_slot_goes_on_once_space_is_freed", a_log_that_gets_no_slot_goes_on),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, dir, staging] = &arguments[..]
        && first == "child"
    {
        let staging = if staging == "on" { Staging::On } else { Staging::Off };
        let Err(error) = work(&Place { dir: dir.into(), staging, has_exact_space: true }) else {
            return ExitCode::SUCCESS;
        };
        println!("error {error:?}");
        return ExitCode::FAILURE;
    }
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)
    };
    let Some(root) = value("--dir").map(PathBuf::from) else {
        println!("NOTICE: no --dir with a small file system: nothing was filled");
        return ExitCode::SUCCESS;
    };
    let kind = value("--kind").map(String::as_str);
    let is_safe = match kind {
        Some("ext4" | "tmpfs") => true,
        Some(_) => false,
        None => {
            println!("--dir needs a --kind");
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = says_whether_it_stages(&root, is_safe).and_then(|()| leave_little(&root)) {
        println!("FAILED: {error}");
        return ExitCode::FAILURE;
    }
    let modes = if is_safe { &[Staging::On, Staging::Off][..] } else { &[Staging::On] };
    let (mut passed, wanted) = (0, FACTS.len() * modes.len());
    for (staging, (name, fact)) in modes.iter().flat_map(|mode| FACTS.iter().map(move |fact| (mode, fact))) {
        let place = Place { dir: root.join(name), staging: *staging, has_exact_space: kind != Some("btrfs") };
        match fact(&place) {
            Ok(()) => passed += 1,
            Err(error) => println!("{name} FAILED, staging {staging:?}: {error:?}"),
        }
        let _ = fs::remove_dir_all(&place.dir);
    }
    println!("count facts {passed} {wanted}");
    println!("{passed} passed, {} failed", wanted - passed);
    if passed == wanted { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Where a fact is tried, and how.
struct Place {
    dir: PathBuf,
    staging: Staging,
    /// Whether all of the space that the file system calls free can be had for data.
    has_exact_space: bool,
}

impl Place {
    fn builder(&self) -> LogBuilder {
        Log::builder(self.dir.join("log")).staging(self.staging)
    }

    fn open(&self) -> chiplog::Result<Log> {
        self.builder().open()
    }
}

fn says_whether_it_stages(root: &Path, is_safe: bool) -> Result {
    let dir = root.join("tried");
    let staging = Log::open(&dir)?.stats()?.staging;
    fs::remove_dir_all(&dir)?;
    match staging {
        StagingStats::On { .. } if is_safe => Ok(()),
        StagingStats::Off { why } if !is_safe && why.contains("only ext4 and tmpfs") => {
            println!("staging is off: {why}");
            Ok(())
        }
        other => Err(format!("{other:?}, and it is safe: {is_safe}").into()),
    }
}

/// Takes the space that is more than is needed: some file systems cannot be made small.
fn leave_little(root: &Path) -> Result {
    let excess = free_bytes(root)?.saturating_sub(60 << 20);
    if excess > 0 {
        use std::io::Write;
        let mut file = fs::File::create(root.join("excess"))?;
        for _ in 0..excess >> 20 {
            // Nothing that could be compressed or left out.
            file.write_all(&[0xA5; 1 << 20])?;
        }
        file.sync_all()?;
    }
    Ok(())
}

fn appends_go_on(place: &Place, durability: Durability) -> Result {
    let ballast = Ballast::new(&place.dir)?;
    let log = place.open()?;
    let topic = log.create_topic("lines", config(durability))?;
    let mut written = Written::default();
    written.fill(&topic)?;
    written.check(&topic)?;

    ballast.free()?;
    for _ in 0..20 {
        written.append(&topic)?;
    }
    written.check(&topic)?;
    log.close()?;
    written.check_reopened(place)
}

/// It may be that no more than reading works; that must.
fn a_full_log_opens(place: &Place, durability: Durability) -> Result {
    let ballast = Ballast::new(&place.dir)?;
    let mut written = Written::default();
    let log = place.open()?;
    written.fill(&log.create_topic("lines", config(durability))?)?;
    ballast.fill_up()?;
    allow_full(log.close())?;

    let log = place.builder().read_only().open()?;
    written.check(&find(&log)?)?;
    drop(log);
    if let Some(log) = allow_full(place.open())? {
        written.check(&find(&log)?)?;
        allow_full(log.close())?;
    }

    ballast.free()?;
    let log = place.open()?;
    let topic = find(&log)?;
    written.append(&topic)?;
    written.check(&topic)?;
    log.close()?;
    written.check_reopened(place)
}

fn low_space_is_refused(place: &Place) -> Result {
    let ballast = Ballast::new(&place.dir)?;
    let log = place.open()?;
    let free = log.stats()?.free_bytes;
    log.close()?;

    let limit = free.saturating_sub(Ballast::LEN);
    let log = place.builder().min_free_bytes(limit).open()?;
    let topic = log.create_topic("lines", config(Durability::Os))?;
    let mut written = Written::default();
    let refused = written.fill(&topic)?;
    let left = log.stats()?.free_bytes;
    match refused {
        // Space is looked at every 16 MiB, so that much may go below the limit.
        Error::LowSpace { limit: told, .. } if told == limit && left + (16 << 20) >= limit => {}
        Error::LowSpace { limit: told, .. } => {
            return Err(format!("refused with {left} bytes free, told {told}, the limit is {limit}").into());
        }
        // It is full before, of other things.
        _ if !place.has_exact_space => {}
        other => return Err(other.into()),
    }
    ballast.free()?;
    written.append(&topic)?;
    written.check(&topic)?;
    log.close()?;
    written.check_reopened(place)
}

fn commits_go_on(place: &Place) -> Result {
    let ballast = Ballast::new(&place.dir)?;
    let log = place.open()?;
    let group = log.group("readers")?;
    group.commit("lines", 0, Offset(1))?;
    ballast.fill_up()?;
    let mut committed = 1;
    // What is allocated already takes some more.
    let refused = loop {
        match group.commit("lines", 0, Offset(committed + 1)) {
            Ok(()) => committed += 1,
            Err(error) => break error,
        }
        if committed > 100_000 {
            return Err("a full disk takes commits for ever".into());
        }
    };
    if refused.kind() != ErrorKind::Full {
        return Err(refused.into());
    }
    let read = |log: &Log| -> Result<Option<u64>> {
        Ok(log.group("readers")?.committed("lines", 0)?.map(|committed| committed.offset.0))
    };
    if read(&log)? != Some(committed) {
        return Err(format!("{:?} is committed, not {committed}", read(&log)?).into());
    }
    ballast.free()?;
    group.commit("lines", 0, Offset(1_000_000))?;
    drop(group);
    log.close()?;
    match read(&place.open()?)? {
        Some(1_000_000) => Ok(()),
        other => Err(format!("{other:?} is committed after reopening").into()),
    }
}

/// A child has slots in hand when the disk gets full, goes on until nothing is taken any more, and is killed. The next
/// ones find all of it, on the same full disk.
fn what_is_staged_survives_kills(place: &Place) -> Result {
    let ballast = Ballast::new(&place.dir)?;
    let mut written = Written { most: 200, ..Written::default() };
    for round in 0..4 {
        let counts = killed_child(place).map_err(|error| format!("child {round}: {error}"))?;
        if counts[0] < written.counts[0] || counts[1] < written.counts[1] {
            return Err(format!("child {round} found {counts:?}, after {:?}", written.counts).into());
        }
        written.counts = counts;
        let log = place.builder().read_only().strict().open()?;
        written.check(&find(&log)?)?;
    }
    let log = place.builder().strict().open()?;
    let topic = find(&log)?;
    written.check(&topic)?;

    ballast.free()?;
    for _ in 0..2_000 {
        written.append(&topic)?;
    }
    written.check(&topic)?;
    drop(topic);
    log.close()?;
    if place.dir.join("log/staging").exists() {
        return Err("an orderly close left something staged".into());
    }
    written.check_reopened(place)
}

/// Has a child work until nothing is taken any more, and kills it. Returns how many records each partition has.
fn killed_child(place: &Place) -> Result<[u64; 2]> {
    use std::os::unix::process::ExitStatusExt;
    let mut child = Command::new(std::env::current_exe()?)
        .arg("child")
        .arg(&place.dir)
        .arg(if place.staging == Staging::On { "on" } else { "off" })
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = String::new();
    BufReader::new(child.stdout.take().ok_or("a child without a pipe")?).read_line(&mut said)?;
    child.kill()?;
    let signal = child.wait()?.signal();
    let counts: Vec<u64> = said.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    match (&counts[..], signal) {
        ([first, second], Some(9)) if said.starts_with("done ") => Ok([*first, *second]),
        _ => Err(format!("it said {said:?}, and ended by signal {signal:?}").into()),
    }
}

/// What the child does.
fn work(place: &Place) -> Result {
    // Nothing is written for having waited.
    let log = place.builder().background(Background::Caller).strict().open()?;
    let rest = place.dir.join("rest");
    let is_first = fs::metadata(&rest)?.len() == 0;
    let topic = if is_first { log.create_topic("lines", config(Durability::Os))? } else { find(&log)? };
    let mut written = Written { most: 200, ..Written::default() };
    for number in 0..2 {
        written.counts[number] = topic.partition(number as u32)?.offsets().end.0;
    }
    written.check(&topic)?;
    if is_first {
        for _ in 0..40 {
            written.append(&topic)?;
        }
        fill_up(&rest)?;
    }
    let mut staged = 0;
    for number in 0..2 {
        written.turn = number;
        let refused = loop {
            match written.append(&topic) {
                Ok(()) => written.turn = number,
                Err(refused) => break refused,
            }
        };
        match refused.downcast::<Error>() {
            Ok(refused) if refused.kind() == ErrorKind::Full => {}
            Ok(refused) => return Err(refused),
            Err(other) => return Err(other),
        }
        let partition = topic.partition(number as u32)?;
        let in_files = partition.segments().last().map_or(0, |last| last.end().0);
        staged += partition.offsets().end.0 - in_files;
    }
    if place.staging == Staging::On && staged == 0 && matches!(log.stats()?.staging, StagingStats::On { .. }) {
        return Err("nothing was staged on the full disk".into());
    }
    // Everything can be read while it is full.
    written.check(&topic)?;
    println!("done {} {}", written.counts[0], written.counts[1]);
    // Until it is killed, or nobody is left to do that.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    Ok(())
}

/// The disk is full before the first append: there is no space for what appends are staged in, either.
fn a_log_that_gets_no_slot_goes_on(place: &Place) -> Result {
    let ballast = Ballast::new(&place.dir)?;
    let log = place.open()?;
    let topic = log.create_topic("lines", config(Durability::Os))?;
    ballast.fill_up()?;
    let mut written = Written { most: 200, ..Written::default() };
    written.fill(&topic)?;
    written.check(&topic)?;

    ballast.free()?;
    for _ in 0..2_000 {
        written.append(&topic)?;
    }
    written.check(&topic)?;
    drop(topic);
    log.close()?;
    written.check_reopened(place)
}

/// What was acknowledged: the number of records in each partition, whose values follow from where they are.
#[derive(Debug)]
struct Written {
    counts: [u64; 2],
    turn: usize,
    /// The longest value.
    most: u64,
}

impl Default for Written {
    fn default() -> Self {
        Self { counts: [0; 2], turn: 0, most: 16_000 }
    }
}

impl Written {
    /// Appends until it is refused, which must be for want of space.
    fn fill(&mut self, topic: &Topic) -> Result<Error> {
        loop {
            let Err(refused) = self.append(topic) else { continue };
            return match refused.downcast::<Error>() {
                Ok(refused) if refused.kind() == ErrorKind::Full => Ok(*refused),
                Ok(refused) => Err(refused),
                Err(other) => Err(other),
            };
        }
    }

    fn append(&mut self, topic: &Topic) -> Result {
        let partition = topic.partition(self.turn as u32 % 2)?;
        let count = &mut self.counts[self.turn % 2];
        let offset = partition.append(Record::new(&value(*count, self.most)))?.offset();
        if offset.0 != *count {
            return Err(format!("the append after {count} records got offset {offset}").into());
        }
        *count += 1;
        self.turn += 1;
        Ok(())
    }

    /// Everything that was acknowledged is there, and nothing else.
    fn check(&self, topic: &Topic) -> Result {
        for (number, count) in (0..).zip(self.counts) {
            let partition = topic.partition(number)?;
            let mut expected = 0;
            while expected < count {
                expected = check_from(&partition, expected, self.most)?;
            }
            if partition.offsets().end.0 != count {
                return Err(format!("it ends at {}, and {count} were acknowledged", partition.offsets().end).into());
            }
        }
        Ok(())
    }

    fn check_reopened(&self, place: &Place) -> Result {
        let log = place.open()?;
        self.check(&find(&log)?)
    }
}

/// Reads a piece and compares it. Returns the offset to go on from.
fn check_from(partition: &Partition, from: u64, most: u64) -> Result<u64> {
    let records = partition.read(Offset(from))?;
    let mut expected = from;
    for record in &records {
        if record.offset.0 != expected || record.value != Some(&value(expected, most)[..]) {
            return Err(format!("the record at {expected} is not what was written").into());
        }
        expected += 1;
    }
    if expected == from { Err(format!("nothing can be read at {from}").into()) } else { Ok(expected) }
}

/// From 1 to `most` bytes, which say where they belong.
fn value(offset: u64, most: u64) -> Vec<u8> {
    let len = 1 + (offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48) % most;
    (0..len).map(|at| (at ^ offset.wrapping_mul(31)) as u8).collect()
}

fn config(durability: Durability) -> TopicConfig {
    TopicConfig::default().partitions(2).segment_bytes(4 << 20).durability(durability)
}

fn find(log: &Log) -> Result<Topic> {
    Ok(log.find_topic("lines").ok_or("the topic is gone")?)
}

/// A result, or none if the disk is full; other errors stay errors.
fn allow_full<T>(result: chiplog::Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::Full => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Writes until not even one byte fits.
fn fill_up(path: &Path) -> Result {
    use std::io::Write;
    let mut file = fs::File::options().append(true).open(path)?;
    let mut piece = &[0xA5; 1 << 16][..];
    while !piece.is_empty() {
        match file.write(piece) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => piece = &piece[..piece.len() / 2],
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Space that is taken until it is freed, and a file for what is left: to make one may take space.
struct Ballast {
    path: PathBuf,
    rest: PathBuf,
}

impl Ballast {
    const LEN: u64 = 20 << 20;

    fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let (path, rest) = (dir.join("ballast"), dir.join("rest"));
        fs::write(&path, vec![0xA5; Self::LEN as usize])?;
        fs::write(&rest, "")?;
        Ok(Self { path, rest })
    }

    /// Writes until not even one byte fits.
    fn fill_up(&self) -> Result {
        fill_up(&self.rest)
    }

    /// Frees all of it. Some file systems do that a while later.
    fn free(self) -> Result {
        let dir = self.path.parent().ok_or("no directory")?;
        let (began, before) = (Instant::now(), free_bytes(dir)?);
        fs::remove_file(&self.path)?;
        fs::remove_file(&self.rest)?;
        while free_bytes(dir)? < before + Self::LEN * 3 / 4 {
            if began.elapsed() > Duration::from_secs(60) {
                return Err("what was removed is not freed".into());
            }
            rustix::fs::syncfs(fs::File::open(dir)?)?;
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

fn free_bytes(dir: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail * stat.f_frsize)
}
