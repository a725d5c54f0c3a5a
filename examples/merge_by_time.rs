//! Logs of several services, a topic for each, read as one: in the order of time. Without arguments, of three services that
//! one order went through; or of files, whose lines have a time of day in them:
//!
//!     cargo run --example merge_by_time -- [FILE...]

use std::path::Path;
use std::time::Duration;

use chiplog::{Log, Record, Timestamp, TopicConfig, TopicPartition};

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

const SHOP: &str = "\
09:59:58.870 GET /cart 200
10:00:00.120 POST /orders o-17 202
10:00:00.910 GET /orders/o-17 200 open
10:00:02.300 GET /orders/o-17 200 paid
";
const BILLING: &str = "\
10:00:00.131 o-17 to be charged 24.90
10:00:01.650 o-17 the bank says no, trying again
10:00:02.207 o-17 charged
";
const STOCK: &str = "\
10:00:00.133 o-17 takes 2 of 41 cups
10:00:00.133 o-17 takes 1 of 7 pots
    a pot weighs more than the shelf bears
10:00:02.215 o-17 packed
";

fn main() -> Result<()> {
    let files: Vec<String> = std::env::args().skip(1).collect();
    let mut services: Vec<(String, String)> = [("shop", SHOP), ("billing", BILLING), ("stock", STOCK)]
        .map(|(name, lines)| (name.to_owned(), lines.to_owned()))
        .into();
    if !files.is_empty() {
        services.clear();
    }
    for file in files {
        let name = Path::new(&file).file_stem().ok_or("a file without a name")?.to_string_lossy().into_owned();
        services.push((name, String::from_utf8_lossy(&std::fs::read(&file)?).into_owned()));
    }

    let dir = tempfile::tempdir()?;
    let log = Log::open(dir.path())?;
    let mut count = 0;
    for (service, lines) in &services {
        // These are old times, and by default what is older than a week is deleted.
        let topic = log.topic_with(service, TopicConfig::default().retention_time(None))?;
        let mut time = 0;
        for line in lines.lines() {
            time = time_of(line, time);
            topic.append(Record::new(line).timestamp(Timestamp(time)))?;
            count += 1;
        }
    }

    // Each topic stays in its own order; of their next records the earliest comes first.
    let partitions = services.iter().map(|(service, _)| TopicPartition::new(service.as_str(), 0));
    let mut consumer = log.consumer("reading").assign(partitions)?;
    consumer.seek_to_beginning(&[])?;
    let mut merged = consumer.merge_by_time();
    let mut times = Vec::new();
    while let Some(consumed) = merged.next(Duration::ZERO)? {
        let record = consumed.record();
        println!("{:>12} {}", consumed.partition().topic, String::from_utf8_lossy(record.value.unwrap_or_default()));
        times.push(record.timestamp);
    }
    assert_eq!(times.len(), count);
    assert!(times.is_sorted());
    Ok(log.close()?)
}

/// The time of a line, in milliseconds from the first midnight: of the first hh:mm:ss in it, perhaps with a fraction. One
/// without has that of the line before it; one with an earlier one is of the next day.
fn time_of(line: &str, before: i64) -> i64 {
    const DAY: i64 = 24 * 60 * 60 * 1000;
    let number = |digits: &str| digits.parse::<i64>().ok();
    let clock = |word: &str| {
        let (time, fraction) = word.split_once(['.', ',']).unwrap_or((word, ""));
        let mut parts = time.split(':').map(number);
        let (Some(Some(hour)), Some(Some(minute)), Some(Some(second))) = (parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        let fraction = number(&format!("{fraction:0<3.3}")).unwrap_or(0);
        (parts.next().is_none()).then_some(((hour * 60 + minute) * 60 + second) * 1000 + fraction)
    };
    let Some(time) = line.split_whitespace().find_map(clock) else { return before };
    let day = before / DAY * DAY;
    if day + time < before { day + DAY + time } else { day + time }
}
