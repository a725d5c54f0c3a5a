//! What the modules share.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chiplog::{Background, Clock, Log, LogBuilder, Offset, Partition, Timestamp};

/// A log whose work is done when the test says so.
pub(crate) fn by_hand(dir: &Path) -> LogBuilder {
    Log::builder(dir).background(Background::Caller)
}

/// The values of all records, as text.
pub(crate) fn values(partition: &Partition) -> Vec<String> {
    let (mut values, mut at) = (Vec::new(), partition.offsets().start);
    while at < partition.offsets().end {
        let records = partition.read(at).expect("a readable partition");
        values.extend(records.iter().map(|record| text(record.value)));
        at = records.next_offset();
    }
    values
}

pub(crate) fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8_lossy(bytes.unwrap_or(b"(none)")).into_owned()
}

/// Appends so many records; each says its number.
pub(crate) fn append_numbers(partition: &Partition, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let appended = partition.append(&*number.to_string()).expect("an append");
        assert_eq!(appended.offset(), Offset(number));
    }
}

/// As [`append_numbers`], each record in a batch of its own: small ones that are appended alone share a batch where they
/// are staged, and not elsewhere.
pub(crate) fn append_batches(partition: &Partition, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let appended = partition.append_all([&*number.to_string()]).expect("an append");
        assert_eq!(appended.offset(), Offset(number));
    }
}

/// A clock that stands until it is moved.
#[derive(Debug, Default)]
pub(crate) struct ManualClock {
    ms: AtomicU64,
}

impl ManualClock {
    const START_MS: u64 = 1_700_000_000_000;

    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.ms.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp((Self::START_MS + self.ms.load(Ordering::SeqCst)) as i64)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.ms.load(Ordering::SeqCst))
    }
}

/// Every file below a directory, by its name from there, with its bytes.
pub(crate) fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(at) = dirs.pop() {
        for entry in fs::read_dir(&at).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let name = path.strip_prefix(dir).expect("a path below").to_string_lossy().into_owned();
                found.insert(name, fs::read(&path).expect("a readable file"));
            }
        }
    }
    found
}

/// Copies a directory as a backup does: the same bytes in other files.
pub(crate) fn copy(from: &Path, to: &Path) {
    for (name, bytes) in files(from) {
        let path = to.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, bytes).expect("a writable file");
    }
}

/// Changes one byte of a file.
pub(crate) fn flip(path: &Path, position: usize) {
    let mut bytes = fs::read(path).expect("a readable file");
    bytes[position] ^= 0x40;
    fs::write(path, bytes).expect("a writable file");
}
