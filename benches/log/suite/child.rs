//! Processes of their own: to be killed, or to have their memory looked at.
//!
//! The benchmark runs itself, with `--inside JOB`. A job says on standard output what it found.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::ours;

/// What a child does.
#[derive(Clone, Copy)]
pub(crate) enum Job {
    /// Fills so many logs with so many bytes each, says so, and waits to be killed.
    Fill { log_count: usize, bytes_each: u64 },
    /// Appends to so many logs in turn, and looks at its descriptors and memory.
    Many { log_count: usize, rounds: u64 },
    /// Opens what is there, and looks at its memory before and after.
    One,
}

/// Does the job that this process was started for, if it was.
pub(crate) fn do_job() -> Option<io::Result<()>> {
    let mut args = env::args_os().skip(1);
    if args.next()? != INSIDE {
        return None;
    }
    let dir = PathBuf::from(args.next()?);
    let job = args.next()?.into_string().ok()?;
    let numbers: Vec<u64> = args.filter_map(|arg| arg.to_str()?.parse().ok()).collect();
    Some(match (job.as_str(), &numbers[..]) {
        ("fill", [log_count, bytes_each]) => ours::fill_and_wait(&dir, *log_count as usize, *bytes_each),
        ("many", [log_count, rounds]) => say(ours::many_partitions(&dir, *log_count as usize, *rounds)),
        ("one", []) => say(ours::one_partition(&dir)),
        _ => Err(io::Error::other("no such job")),
    })
}

/// Runs a job to its end, and returns the numbers it said.
pub(crate) fn run(dir: &Path, job: Job) -> io::Result<Vec<u64>> {
    let output = command(dir, job)?.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("a job ended with {}", output.status)));
    }
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(said.split_whitespace().filter_map(|word| word.parse().ok()).collect())
}

/// Runs a job until it says something, and kills it.
pub(crate) fn run_and_kill(dir: &Path, job: Job) -> io::Result<()> {
    let mut child = command(dir, job)?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let said = first_line(&mut child);
    child.kill()?;
    child.wait()?;
    if said?.trim() == FILLED { Ok(()) } else { Err(io::Error::other("a job ended before it was done")) }
}

/// Tells the parent that it may kill, and waits for that. Ends by itself if the parent is gone.
pub(crate) fn wait_to_be_killed() -> io::Result<()> {
    println!("{FILLED}");
    io::stdout().flush()?;
    io::stdin().lines().for_each(drop);
    Ok(())
}

fn first_line(child: &mut Child) -> io::Result<String> {
    let output = child.stdout.as_mut().ok_or_else(|| io::Error::other("a child without output"))?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    Ok(line)
}

fn command(dir: &Path, job: Job) -> io::Result<Command> {
    let (name, numbers) = match job {
        Job::Fill { log_count, bytes_each } => ("fill", vec![log_count as u64, bytes_each]),
        Job::Many { log_count, rounds } => ("many", vec![log_count as u64, rounds]),
        Job::One => ("one", vec![]),
    };
    let mut command = Command::new(env::current_exe()?);
    command.arg(INSIDE).arg(dir).arg(name).args(numbers.iter().map(u64::to_string));
    Ok(command)
}

fn say(found: io::Result<[u64; 2]>) -> io::Result<()> {
    found.map(|[one, other]| println!("{one} {other}"))
}

const INSIDE: &str = "--inside";
const FILLED: &str = "filled";
