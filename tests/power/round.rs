//! One round: a workload on a disk that is frozen at random moments, and then each of these moments as a power cut.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::check::Found;
use super::expected::Cut;
use super::kind::Kind;
use super::random::Random;
use super::workload::Lie;
use super::world::Mounted;
use super::{Result, server};

/// How many power cuts one workload is good for.
const CUTS: u64 = 12;
/// How long a workload may take to come to all of them.
const MOST_WORK: Duration = Duration::from_secs(2);
/// How long to wait for what should take moments.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where on the disk the log is.
const LOG: &str = "log";

/// What to do in a round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    pub(crate) seed: u64,
    pub(crate) lie: Lie,
    /// What the disk fails, from some moment on.
    pub(crate) fault: Option<&'static str>,
    /// Whether the power may go after the log was opened again, without a restart, on a disk that had failed.
    pub(crate) heals: bool,
    pub(crate) most_cuts: u64,
}

/// What a round did.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) cuts: u64,
    pub(crate) found: Found,
    /// Sectors that were not flushed, and those of them that were kept.
    pub(crate) pending: u64,
    pub(crate) kept: u64,
    /// Whether the disk failed something, the workload met that, and the log was checked where it was.
    pub(crate) faults: u64,
    pub(crate) refusals: u64,
    pub(crate) in_place: u64,
}

/// What went wrong, and where to look at it again.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: String,
    /// The image of the disk, what was said, and the arguments of the check.
    pub(crate) again: Option<Again>,
}

/// A check that can be made again.
#[derive(Debug)]
pub(crate) struct Again {
    pub(crate) image: PathBuf,
    pub(crate) said: String,
    pub(crate) cut: Cut,
    pub(crate) seed: u64,
}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self { error: error.into().to_string(), again: None }
    }
}

/// Runs one round in the empty directory `dir`.
pub(crate) fn run_round(dir: &Path, plan: Plan) -> Result<Done, Failed> {
    let mut random = Random(plan.seed);
    let mut done = Done::default();
    let image = dir.join("made");
    plan.kind.make(&image)?;
    let mut server = ServerProcess::start(&dir.join("server"), &image, plan.kind, random.next())?;
    fs::remove_file(&image)?;

    let (said, gave_up) = live(dir, &mut server, plan, &mut random, &mut done)?;
    let Moments { count: moments, failed, since } = server.moments()?;
    done.faults = failed;
    if matches!(plan.fault, Some("flushes" | "writes")) {
        check_refusals(&said, since)?;
    }
    // The last ones: they have seen the most.
    for number in moments.saturating_sub(plan.most_cuts)..moments {
        let image = dir.join("cut");
        let seed = random.next();
        let (at, kept, pending) = server.image(number, seed, &image)?;
        // While ext4 gives up, it says of a sync that it was done whose transaction has just failed.
        let held = if gave_up && plan.kind == Kind::Ext4 { since } else { u64::MAX };
        let cut = Cut { at, held };
        let found = check_image(&image, &dir.join("mounted"), plan.kind, &said, cut, seed);
        fs::remove_file(&image)?;
        if let Err(error) = &found {
            // As it was before it was mounted.
            server.image(number, seed, &image)?;
            return Err(Failed {
                error: format!("cut {number}, {kept} of {pending} sectors kept: {error}"),
                again: Some(Again { image, said, cut, seed }),
            });
        }
        let found = found?;
        done.cuts += 1;
        done.kept += kept;
        done.pending += pending;
        done.found.records += found.records;
        done.found.acks += found.acks;
        done.found.beyond += found.beyond;
    }
    Ok(done)
}

/// Mounts an image as it was found after a cut, and checks the log on it.
pub(crate) fn check_image(image: &Path, at: &Path, kind: Kind, said: &str, cut: Cut, seed: u64) -> Result<Found> {
    let mounted = Mounted::image(image, at, kind.name(), kind.options())?;
    check_apart(&mounted.at().join(LOG), said, &[cut.at.to_string(), cut.held.to_string(), seed.to_string()])
}

/// Checks in a process of its own: of one that begins others meanwhile, these hold the lock of the log for a moment.
/// And whatever ends that process is told, too.
fn check_apart(log: &Path, said: &str, how: &[String]) -> Result<Found> {
    let mut process = Command::new(std::env::current_exe()?)
        .arg("check")
        .arg(log)
        .args(how)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = process.stdin.take().ok_or("a check without an input")?;
    input.write_all(said.as_bytes())?;
    drop(input);
    // What it says fits a pipe.
    let status = wait(&mut process, PATIENCE)?;
    let output = process.wait_with_output()?;
    if status.success() {
        return Found::from_text(&String::from_utf8(output.stdout)?);
    }
    Err(format!("{status}: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
}

/// Lets a workload work while the disk is frozen at moments. Returns what it said, and whether the file system takes
/// nothing any more.
fn live(
    dir: &Path,
    server: &mut ServerProcess,
    plan: Plan,
    random: &mut Random,
    done: &mut Done,
) -> Result<(String, bool), Failed> {
    let mounted =
        Mounted::image(&server.at.join(server::FILE), &dir.join("live"), plan.kind.name(), plan.kind.options())?;
    server.tell(&format!("cuts {CUTS}"))?;
    if let Some(fault) = plan.fault {
        server.tell(&format!("fail {fault}"))?;
    }
    let log = mounted.at().join(LOG);
    let mut workload = Command::new(std::env::current_exe()?)
        .arg("work")
        .arg(&log)
        .args([random.next().to_string(), plan.lie.name().to_owned(), plan.fault.is_some().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut pipe = workload.stdout.take().ok_or("a workload without a pipe")?;
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        pipe.read_to_end(&mut said).map(|_| said)
    });
    let is_full = wait_full(server, &mut workload)?;
    // To close its input is to ask it to stop.
    drop(workload.stdin.take());
    let ended = wait(&mut workload, PATIENCE)?;
    // What the check without a restart does is not held to power cuts, unless that is wanted.
    if !plan.heals {
        server.tell("stop")?;
    } else if !is_full {
        server.tell("freeze")?;
    }
    let said = reader.join().map_err(|_| "the reader of the pipe panicked")??;
    let said = String::from_utf8(said)?;
    if !ended.success() {
        return Err(format!("the workload failed by itself, {ended}: {:?}", said.lines().last()).into());
    }
    done.refusals = said.lines().filter(|line| line.contains(" refused ")).count() as u64;
    if matches!(plan.fault, Some("flush" | "write" | "read")) {
        done.in_place = check_apart(&log, &said, &[])?.logs;
    }
    let gave_up = plan.fault.is_some() && fs::write(mounted.at().join("more"), "more").is_err();
    drop(mounted);
    Ok((said, gave_up))
}

/// Waits until there are enough moments, or the workload has worked for long enough, or ended. Whether there are enough.
fn wait_full(server: &ServerProcess, workload: &mut Child) -> Result<bool> {
    let began = Instant::now();
    while began.elapsed() < MOST_WORK && workload.try_wait()?.is_none() {
        if server.hears("full", Duration::from_millis(10)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Waits for a process to end.
fn wait(process: &mut Child, patience: Duration) -> Result<ExitStatus> {
    let step = Duration::from_millis(2);
    for _ in 0..patience.as_millis() / step.as_millis() {
        if let Some(status) = process.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(step);
    }
    process.kill()?;
    Err("a process hung".into())
}

/// On a disk that fails for ever since then, nothing can be synced any more.
fn check_refusals(said: &str, since: u64) -> Result {
    let mut tries = 0;
    for line in said.lines() {
        let (time, what) = line.split_once(' ').unwrap_or((line, ""));
        if what.starts_with("TRIES ") {
            tries = time.parse()?;
        }
        if what.starts_with("accepted ") && tries > since {
            return Err(format!("the disk failed for ever at {since}, and then: {line}").into());
        }
    }
    Ok(())
}

/// How many moments there are, how many requests were failed, and since when.
struct Moments {
    count: u64,
    failed: u64,
    since: u64,
}

/// The process that is the disk. Its mount goes before it does.
struct ServerProcess {
    at: PathBuf,
    process: Child,
    input: Option<ChildStdin>,
    said: mpsc::Receiver<String>,
    mounted: Option<Mounted>,
}

impl ServerProcess {
    fn start(at: &Path, image: &Path, kind: Kind, seed: u64) -> Result<Self> {
        fs::create_dir_all(at)?;
        let mut process = Command::new(std::env::current_exe()?)
            .arg("serve")
            .arg(at)
            .arg(image)
            .args([kind.name().to_owned(), seed.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = process.stdin.take();
        let (tell, said) = mpsc::channel();
        let pipe: ChildStdout = process.stdout.take().ok_or("a disk without a pipe")?;
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        let mut server = Self { at: at.to_owned(), process, input, said, mounted: None };
        if !server.hears("ready", PATIENCE) {
            return Err("the disk is not served".into());
        }
        server.mounted = Some(Mounted::by_another(at));
        Ok(server)
    }

    fn tell(&mut self, line: &str) -> Result {
        let input = self.input.as_mut().ok_or("the disk hears nothing any more")?;
        Ok(input.write_all(format!("{line}\n").as_bytes())?)
    }

    /// Whether it says this in time.
    fn hears(&self, wanted: &str, patience: Duration) -> bool {
        self.said.recv_timeout(patience).is_ok_and(|line| line == wanted)
    }

    /// Asks, and returns the words of the answer.
    fn ask(&mut self, question: &str, answer: &str) -> Result<Vec<String>> {
        self.tell(question)?;
        loop {
            let line = self.said.recv_timeout(PATIENCE).map_err(|_| "the disk does not answer")?;
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            if words[0] == answer {
                return Ok(words);
            }
        }
    }

    fn moments(&mut self) -> Result<Moments> {
        let words = self.ask("count", "count")?;
        Ok(Moments { count: words[1].parse()?, failed: words[2].parse()?, since: words[3].parse()? })
    }

    /// Writes what a cut at this moment leaves. Returns the time, and how many sectors were kept of how many.
    fn image(&mut self, number: u64, seed: u64, to: &Path) -> Result<(u64, u64, u64)> {
        let words = self.ask(&format!("image {number} {seed} {}", to.display()), "image")?;
        Ok((words[2].parse()?, words[4].parse()?, words[6].parse()?))
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.mounted.take());
        drop(self.input.take());
        if wait(&mut self.process, PATIENCE).is_err() {
            let _ = self.process.wait();
        }
    }
}
