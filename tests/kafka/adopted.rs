//! A broker's directory, taken over: what the broker wrote and what was appended since, in one log.

use std::path::Path;

use chiplog::{Adoption, Background, Log, Record};

use crate::Result;
use crate::kafka_dirs::KafkaDirs;
use crate::lines;

/// Adopts a copy of each of the broker's directories, appends to every partition of an application's, and closes.
pub(crate) fn write_all(dir: &Path) -> Result {
    let dirs = KafkaDirs::shared();
    for name in ["clean", "killed"] {
        let copy = dirs.copy(name);
        let before = lines::read(copy.path())?;
        let dir = dir.join(format!("adopted-{name}"));
        std::fs::create_dir_all(&dir)?;
        copy_all(copy.path(), &dir)?;
        write(&dir).map_err(|error| format!("adopted {name}: {error}"))?;
        let after = lines::read(&dir)?;
        for (place, line) in &before {
            // What came after an open transaction is decided now.
            let same = |line: &serde_json::Value| {
                let mut line = line.clone();
                line["committed"] = true.into();
                line
            };
            if after.get(place).map(same) != Some(same(line)) {
                return Err(format!("adopted {name}, {place:?} was {line}, and is {:?}", after.get(place)).into());
            }
        }
        lines::store(&dir, &after)?;
    }
    Ok(())
}

fn write(dir: &Path) -> Result {
    // Nothing is compacted meanwhile: what the broker wrote is older by the day, and all of it is to be found again.
    let builder = Log::builder(dir).background(Background::Caller);
    let log = builder.adopt(Adoption::default().abort_open()).open()?;
    if let Some(damage) = log.damaged().first() {
        return Err(format!("{:?}: {}", damage.partition, damage.error).into());
    }
    for topic in log.topics() {
        if INTERNAL.contains(&topic.name()) {
            continue;
        }
        for number in 0..topic.partition_count() {
            let partition = topic.partition(number)?;
            for round in 0..3 {
                let value = format!("{}-{number}, {round}", topic.name());
                partition.append(Record::new(&*value).key("k"))?;
            }
        }
    }
    log.group("g-classic")?.commit("orders", 0, chiplog::Offset(60))?;
    Ok(log.close()?)
}

fn copy_all(from: &Path, to: &Path) -> Result {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            std::fs::create_dir(&to)?;
            copy_all(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

const INTERNAL: [&str; 3] = ["__consumer_offsets", "__transaction_state", "__share_group_state"];
