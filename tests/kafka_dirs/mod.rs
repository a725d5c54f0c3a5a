//! Directories that an Apache Kafka 4.3.1 broker wrote, what Kafka answers about them, and damaged copies of some of
//! their partitions: `fixtures/kafka-dirs.tar.zst`, unpacked. The README in the archive describes them.
//!
//! ```text
//! clean/                   after an orderly stop
//! clean-metadata/          its cluster's metadata
//! killed/                  after a kill
//! torn/<variant>/          one partition of either, damaged, and the top-level files beside it
//! expected/                what Kafka answers: clean, killed, torn; dump: what its DumpLogSegments prints
//! ```
//!
//! Nobody opens these: tests open copies. The archive was made by
//! `tar --sort=name --format=gnu --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX -cf - *`, and
//! `zstd --ultra -22 --long=27`.

#![allow(dead_code, reason = "each target uses a part of it")]
#![allow(clippy::expect_used, reason = "a test without its input has failed")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use flate2::bufread::MultiGzDecoder;
use serde_json::Value;
use tempfile::TempDir;

/// The archive, unpacked into a temporary directory that goes with this.
pub(crate) struct KafkaDirs {
    root: TempDir,
}

impl KafkaDirs {
    /// The one of this process, unpacked if nobody has it.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<KafkaDirs>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dirs) = shared.upgrade() {
            return dirs;
        }
        let dirs = Arc::new(Self::unpack().expect("the archive unpacks"));
        *shared = Arc::downgrade(&dirs);
        dirs
    }

    fn unpack() -> io::Result<Self> {
        let root = tempfile::tempdir()?;
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kafka-dirs.tar.zst");
        let mut archive = tar::Archive::new(zstd::Decoder::new(File::open(path)?)?);
        archive.set_preserve_mtime(false);
        archive.unpack(root.path())?;
        Ok(Self { root })
    }

    /// A copy of a directory: `clean`, `killed`, `torn/cut-tail`.
    pub(crate) fn copy(&self, name: &str) -> TempDir {
        self.copy_of(name, |_| true)
    }

    /// A copy of one partition's directory, and of the files beside it.
    pub(crate) fn copy_partition(&self, name: &str, partition: &str) -> TempDir {
        self.copy_of(name, |dir| dir == partition)
    }

    fn copy_of(&self, name: &str, wants: impl Fn(&str) -> bool) -> TempDir {
        let copy = tempfile::tempdir().expect("a temporary directory");
        for entry in fs::read_dir(self.root.path().join(name)).expect("a directory of the archive") {
            let entry = entry.expect("an entry");
            let is_dir = entry.file_type().expect("a type").is_dir();
            if !is_dir || wants(&entry.file_name().to_string_lossy()) {
                copy_all(&entry.path(), &copy.path().join(entry.file_name())).expect("a copy");
            }
        }
        copy
    }

    /// The names of the damaged partitions' directories.
    pub(crate) fn variants(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.path().join("torn")).expect("a directory of the archive");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// An answer of Kafka's: `clean/groups.json`.
    pub(crate) fn expected(&self, name: &str) -> Value {
        serde_json::from_str(&self.expected_text(name)).expect("an answer in JSON")
    }

    /// The lines of an answer, which is compressed: `clean/times.jsonl.gz`.
    pub(crate) fn expected_lines(&self, name: &str) -> Vec<String> {
        let file = BufReader::new(File::open(self.expected_path(name)).expect("an answer"));
        BufReader::new(MultiGzDecoder::new(file)).lines().collect::<io::Result<_>>().expect("lines of text")
    }

    fn expected_text(&self, name: &str) -> String {
        fs::read_to_string(self.expected_path(name)).expect("an answer")
    }

    fn expected_path(&self, name: &str) -> PathBuf {
        self.root.path().join("expected").join(name)
    }
}

fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        return fs::copy(from, to).map(drop);
    }
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        copy_all(&from.join(&name), &to.join(&name))?;
    }
    Ok(())
}

/// Everything below a directory, by its name from there: bytes of files, `None` for directories.
pub(crate) fn contents(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(at) = dirs.pop() {
        for entry in fs::read_dir(&at).expect("a directory") {
            let path = entry.expect("an entry").path();
            let bytes = (!path.is_dir()).then(|| fs::read(&path).expect("a readable file"));
            found.insert(path.strip_prefix(dir).expect("a path below").to_owned(), bytes);
            if path.is_dir() {
                dirs.push(path);
            }
        }
    }
    found
}
