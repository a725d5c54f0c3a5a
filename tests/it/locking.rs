//! One process has a log, and one handle opens it; where it is.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use chiplog::{Error, Log, Offset, TopicConfig};

/// Set for a process that only opens the log in this directory, and waits.
const HOLD: &str = "CHILD_HOLDS_LOG";
/// Set for a process that moves to this directory while it has a log open.
const MOVE: &str = "CHILD_MOVES";

#[test]
fn a_second_open_names_the_holder() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let Err(Error::Locked { path, holder }) = Log::open(dir.path()) else { panic!("opened twice") };
    assert_eq!(path, dir.path().join("LOCK"));
    assert_eq!(*holder, format!("process {}", std::process::id()));
    drop(log);
    Log::open(dir.path()).unwrap();
}

#[test]
fn any_handle_keeps_the_log_and_close_lets_go_of_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let partition = log.topic("orders").unwrap().partition(0).unwrap();
    drop(log.clone());
    drop(log);
    assert!(matches!(Log::open(dir.path()), Err(Error::Locked { .. })), "the partition is a handle");
    drop(partition);

    let log = Log::open(dir.path()).unwrap();
    let topic = log.topic("orders").unwrap();
    log.close().unwrap();
    let again = Log::open(dir.path()).unwrap();
    drop(topic);
    assert!(matches!(Log::open(dir.path()), Err(Error::Locked { .. })), "an old handle has no say any more");
    drop(again);
}

#[test]
fn readers_share_and_exclude_a_writer() {
    let dir = tempfile::tempdir().unwrap();
    drop(Log::open(dir.path()).unwrap());
    let one = Log::builder(dir.path()).read_only().open().unwrap();
    let two = Log::builder(dir.path()).read_only().open().unwrap();
    assert!(matches!(Log::open(dir.path()), Err(Error::Locked { .. })));
    drop((one, two));
    let writer = Log::open(dir.path()).unwrap();
    assert!(matches!(Log::builder(dir.path()).read_only().open(), Err(Error::Locked { .. })));
    drop(writer);
}

#[test]
fn another_process_is_named_and_its_death_frees_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["locking::the_other_process", "--exact", "--ignored", "--nocapture"])
        .env(HOLD, dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("opened")), "the other process did not open");

    let Err(Error::Locked { holder, .. }) = Log::open(dir.path()) else { panic!("opened twice") };
    assert_eq!(*holder, format!("process {}", child.id()));
    child.kill().unwrap();
    child.wait().unwrap();
    Log::open(dir.path()).unwrap();
}

/// Not a test by itself: the other process of the one above.
#[test]
#[ignore = "no test by itself: `another_process_is_named_and_its_death_frees_the_log` runs it as a child process"]
fn the_other_process() {
    let Some(dir) = std::env::var_os(HOLD) else { return };
    let _log = Log::open(dir).unwrap();
    println!("opened");
    std::io::stdout().flush().unwrap();
    // Until it is killed, or the test that started it has gone.
    let _ = std::io::stdin().read_line(&mut String::new());
}

/// A log that was opened by a relative path was looked for elsewhere once the process had changed its directory: no
/// segment could be begun, none be read, and the close failed.
#[test]
fn a_log_stays_where_it_was_opened() {
    let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // The current directory is that of all tests of this process.
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["locking::the_process_that_moves", "--exact", "--ignored"])
        .current_dir(home.path())
        .env(MOVE, other.path())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 0);
    let log = Log::open(home.path().join("data")).unwrap();
    assert_eq!(log.topic("orders").unwrap().partition(0).unwrap().offsets().end, Offset(40));
}

/// Not a test by itself: the other process of the one above.
#[test]
#[ignore = "no test by itself: `a_log_stays_where_it_was_opened` runs it as a child process"]
fn the_process_that_moves() {
    let Some(other) = std::env::var_os(MOVE) else { return };
    let home = std::env::current_dir().unwrap();
    let log = Log::open("data").unwrap();
    assert_eq!(log.dir(), home.join("data"));
    let orders = log.create_topic("orders", TopicConfig::default().segment_bytes(400)).unwrap().partition(0).unwrap();
    crate::support::append_numbers(&orders, 0..20);
    std::env::set_current_dir(other).unwrap();
    crate::support::append_numbers(&orders, 20..40);
    assert_eq!(crate::support::values(&orders).len(), 40);
    assert!(orders.segments().iter().all(|segment| segment.path().starts_with(&home)));
    log.close().unwrap();
}
