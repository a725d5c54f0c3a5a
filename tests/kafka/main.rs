//! What we write, judged by Kafka's own classes; and what they append to it, read by us.
//!
//! ```text
//! kafka                write, and hold what is read against what was written: takes no Java
//! kafka write DIR      write logs into DIR/ours, and into DIR/flawed some that Kafka must complain about
//! kafka check DIR      hold what Kafka read against what was written, go on in the logs it has appended to
//! kafka recheck DIR    hold what Kafka read of those against what they should hold
//! kafka adopt DIR      adopt a broker's directories and go on in them, in DIR/ours
//! kafka compare DIR    hold what Kafka read of those against what is in them
//!
//! write --> ours/LOG --copied--> loaded/LOG, recovered/LOG, appended/LOG     and the last one again/LOG
//!           ours/LOG.jsonl           |           |            |   Kafka        |  Kafka
//!              '---- check ---- LOG.jsonl    LOG.jsonl    LOG.jsonl        LOG.jsonl ---- recheck
//! ```
//!
//! A `.jsonl` beside a log says what is in it, one record a line: ours what was appended, Kafka's what it delivers. The
//! stage `kafka` of `.ci/run` does all of it in that order; Kafka's part is in `.ci/kafka`.

use std::path::Path;
use std::process::ExitCode;

mod adopted;
mod check;
mod closed;
mod flawed;
#[path = "../kafka_dirs/mod.rs"]
mod kafka_dirs;
mod killed;
mod lines;
mod random;
mod records;

type Result<T = (), E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// How many logs are written by a process that is killed, half of them staging.
const KILLED: u64 = 8;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["write", dir] => write_flawed_too(Path::new(dir)),
        ["check", dir] => check::all(Path::new(dir)),
        ["recheck", dir] => check::again(Path::new(dir)),
        ["adopt", dir] => adopted::write_all(&Path::new(dir).join("ours")),
        ["compare", dir] => check::adopted(Path::new(dir)),
        ["child", dir, seed, staging] => killed::child(Path::new(dir), seed, staging),
        // What `cargo test` passes to every test means nothing here.
        _ => write_and_read(),
    };
    if let Err(error) = done {
        eprintln!("{}: {error}", words.first().unwrap_or(&"kafka"));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn write(dir: &Path) -> Result {
    std::fs::create_dir_all(dir)?;
    closed::write_all(dir)?;
    for seed in 0..KILLED {
        killed::write(dir, seed)?;
    }
    Ok(())
}

fn write_flawed_too(dir: &Path) -> Result {
    write(&dir.join("ours"))?;
    flawed::write(&dir.join("ours/unstaged"), &dir.join("flawed"))
}

fn write_and_read() -> Result {
    let dir = tempfile::tempdir()?;
    write(dir.path())?;
    adopted::write_all(dir.path())?;
    let mut records = 0;
    for name in lines::logs_in(dir.path())? {
        let written = lines::load(&dir.path().join(&name))?;
        lines::compare(&name, "written", &written, "read", &lines::read(&dir.path().join(&name))?)?;
        records += written.len();
    }
    println!("{records} records read as they were written");
    println!("NOTICE: without an argument nothing is shown to Kafka");
    Ok(())
}
