//! What Kafka read and appended, against what we wrote; and its logs opened by us.

use std::collections::BTreeMap;
use std::path::Path;

use chiplog::{Log, Offset, Partition};

use crate::Result;
use crate::lines::{self, Lines, Place};
use crate::random::Random;
use crate::records::{Made, Noted};

/// How many records each partition gets from us once Kafka has appended to it.
const OURS: u64 = 20;

/// Compares what Kafka delivered from the copies it loaded, then goes on in those that it has appended to.
pub(crate) fn all(dir: &Path) -> Result {
    let (mut equal, mut appended, mut partitions) = (0, 0, 0);
    for name in lines::logs_in(&dir.join("ours"))? {
        let of = |state: &str| dir.join(state).join(&name);
        let read = lines::read(&of("ours"))?;
        if lines::is_described(&of("ours")) {
            lines::compare(&name, "written", &lines::load(&of("ours"))?, "read", &read)?;
        }
        equal += compare(dir, &name, &read)?;
        let grown = lines::load(&of("appended"))?;
        appended += is_grown(&name, &read, &grown)?;
        partitions += go_on(&name, &of("appended"), grown)?;
    }
    println!("done records read by Kafka {equal}");
    println!("done records appended by Kafka {appended}");
    println!("done partitions gone on with {partitions}");
    Ok(())
}

/// Compares what Kafka delivered from directories that were adopted from a broker.
pub(crate) fn adopted(dir: &Path) -> Result {
    let mut equal = 0;
    for name in lines::logs_in(&dir.join("ours"))? {
        equal += compare(dir, &name, &lines::load(&dir.join("ours").join(&name))?)?;
    }
    println!("done records of adopted directories read by Kafka {equal}");
    Ok(())
}

/// What Kafka delivered from two copies of a log equals what we read. Returns how many records that are.
fn compare(dir: &Path, name: &str, read: &Lines) -> Result<usize> {
    for state in ["loaded", "recovered"] {
        let delivered = lines::load(&dir.join(state).join(name))?;
        lines::compare(name, "read by us", read, "read by Kafka", &delivered)?;
    }
    Ok(2 * read.len())
}

/// Compares what Kafka delivered from the logs that it and we have appended to.
pub(crate) fn again(dir: &Path) -> Result {
    let mut equal = 0;
    for name in lines::logs_in(&dir.join("appended"))? {
        let ours = lines::load(&dir.join("appended").join(&name))?;
        lines::compare(&name, "read by us", &ours, "read by Kafka", &lines::load(&dir.join("again").join(&name))?)?;
        equal += ours.len();
    }
    println!("done records read by Kafka again {equal}");
    Ok(())
}

/// Everything that was there is there, and more behind it. Returns how many that are.
fn is_grown(name: &str, before: &Lines, after: &Lines) -> Result<usize> {
    let kept: Lines = after.iter().filter(|(place, _)| before.contains_key(*place)).map(cloned).collect();
    lines::compare(name, "written", before, "there after Kafka appended", &kept)?;
    let ends = ends(before);
    let between = after.keys().find(|place| !before.contains_key(*place) && is_below(place, &ends));
    match between {
        Some(place) => Err(format!("{name}, {place:?}: Kafka appended below the end").into()),
        None => Ok(after.len() - before.len()),
    }
}

fn cloned<K: Clone, V: Clone>((key, value): (&K, &V)) -> (K, V) {
    (key.clone(), value.clone())
}

/// The last offset of each partition.
fn ends(lines: &Lines) -> BTreeMap<(&str, u32), u64> {
    lines.keys().map(|(topic, partition, offset)| ((topic.as_str(), *partition), *offset)).collect()
}

fn is_below((topic, partition, offset): &Place, ends: &BTreeMap<(&str, u32), u64>) -> bool {
    ends.get(&(topic.as_str(), *partition)).is_some_and(|last| offset <= last)
}

/// Opens a log that Kafka appended to, first to read and then to append, and writes down what it holds then. Returns how
/// many partitions it has.
fn go_on(name: &str, dir: &Path, expected: Lines) -> Result<usize> {
    lines::compare(name, "read by Kafka after it appended", &expected, "read by us", &lines::read(dir)?)?;
    let log = Log::open(dir)?;
    if let Some(damage) = log.damaged().first() {
        return Err(format!("{name}, {:?}: {}", damage.partition, damage.error).into());
    }
    if dir.join(".kafka_cleanshutdown").exists() {
        return Err(format!("{name}: killed from here on, Kafka would believe its own mark").into());
    }
    let mut noted = Noted::with(log, expected);
    let mut count = 0;
    let mut random = Random(2);
    for topic in noted.log.topics() {
        for number in 0..topic.partition_count() {
            let partition = topic.partition(number)?;
            look_up(&partition).map_err(|error| format!("{name}, {}-{number}: {error}", topic.name()))?;
            count += 1;
            if topic.name().starts_with("__") {
                continue;
            }
            for _ in 0..OURS {
                let made = Made::any(&mut random);
                noted.append(&topic, number, &[made])?;
            }
            noted.hide_from(&topic, number, partition.offsets().stable.0);
        }
    }
    noted.close(dir)?;
    lines::compare(name, "written", &lines::load(dir)?, "read after all", &lines::read(dir)?)?;
    Ok(count)
}

/// Reads from offsets all over the partition, each of which takes an index to find, and by their times.
fn look_up(partition: &Partition) -> Result {
    let (start, end) = (partition.offsets().start.0, partition.offsets().end.0);
    for at in (start..end).step_by(7) {
        let records = partition.read(Offset(at))?;
        let Some(record) = records.iter().next() else { continue };
        let found = partition.offset_at(record.timestamp)?;
        if record.offset.0 < at || found.is_none_or(|found| found > record.offset) {
            return Err(format!("at {at} there is {}, and by its time {found:?}", record.offset).into());
        }
    }
    Ok(())
}
