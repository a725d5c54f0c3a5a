//! Three processes hold a log, are killed, paused and cut off, and lose nothing that they acknowledged.
//!
//! ```text
//!           lines, while nodes are killed         at the end: what is in the three directories?
//!   client ------------------------------> node 1 <--- TCP ---> node 2
//!          <------------ acknowledged ------   ^                   ^
//!                                              '-----> node 3 <----'
//! ```
//!
//! `cargo run --release --example cluster --features openraft -- --chaos 60` starts itself three times. Each process
//! has a replicated log ([`node`]) and, beside it, a raft group by openraft that agrees on who leads what ([`raft`]),
//! over TCP ([`wire`]). A [`client`] sends numbered lines. It fails if one that was acknowledged is not there, at its
//! offset, on each node; or if the three logs are not the same, byte by byte ([`check`]).

mod check;
mod client;
mod node;
mod raft;
mod wire;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{fs, process, thread};

use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{sleep, timeout};

use client::{Acked, BATCH, Client, Lines};
use wire::{Answer, Place, Request, Status};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// Kills, pauses and cuts off the nodes of a replicated log, and checks that nothing acknowledged is lost.
#[derive(Debug, Clone, Parser)]
struct Options {
    /// For how many seconds nodes are killed, paused and cut off
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    chaos: u64,
    /// A file whose lines are sent, again and again [default: lines are made up]
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// What happens when is drawn from this [default: from the number of the process]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// The directory of the nodes, which is kept [default: a temporary one, kept if a check fails]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Be this node: what this program starts itself with
    #[arg(long, hide = true, requires_all = ["dir", "ports"])]
    node: Option<u32>,
    #[arg(long, hide = true, value_delimiter = ',')]
    ports: Vec<u16>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let (name, done) = match (options.node, &options.dir) {
        (Some(id), Some(dir)) => {
            let ports = (1..).zip(options.ports).collect();
            // Ends when the process does that started it, however that ends.
            thread::spawn(|| io::stdin().read(&mut [0]).map(|_| process::exit(1)));
            (format!("node {id}"), node::run(Place::new(id, dir.clone(), ports)).await)
        }
        _ => ("cluster".to_owned(), orchestrate(&options).await),
    };
    let Err(error) = done else { return ExitCode::SUCCESS };
    eprintln!("{name}: {error}");
    ExitCode::FAILURE
}

async fn orchestrate(options: &Options) -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let dir = options.dir.as_deref().unwrap_or(temporary.path());
    let done = survive(dir, options).await;
    if done.is_err() {
        let kept = if options.dir.is_some() { dir.to_owned() } else { temporary.keep() };
        eprintln!("what the nodes left is in {}", kept.display());
    }
    done
}

/// The processes.
struct Cluster {
    dir: PathBuf,
    ports: BTreeMap<u32, u16>,
    running: BTreeMap<u32, Child>,
}

/// What happens to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    Kill,
    Cut,
    Pause,
}

impl Cluster {
    fn start(&mut self, id: u32) -> Result<()> {
        let dir = self.dir_of(id);
        fs::create_dir_all(&dir)?;
        let ports: Vec<_> = self.ports.values().map(u16::to_string).collect();
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--node", &id.to_string(), "--ports", &ports.join(","), "--dir"]).arg(dir);
        command.stdin(Stdio::piped());
        self.running.insert(id, command.spawn()?);
        Ok(())
    }

    fn dir_of(&self, id: u32) -> PathBuf {
        self.dir.join(format!("node-{id}"))
    }

    async fn strike(&mut self, id: u32, blow: Blow, span: Duration) -> Result<()> {
        match blow {
            Blow::Kill => self.kill(id)?,
            Blow::Cut => {
                // One that has just begun may not listen yet.
                let _ = wire::ask(self.ports[&id], Request::Cut(span.as_millis() as u64)).await;
            }
            Blow::Pause => kill_process(Pid::from_child(&self.running[&id]), Signal::STOP)?,
        }
        Ok(())
    }

    fn mend(&mut self, id: u32, blow: Blow) -> Result<()> {
        match blow {
            Blow::Kill => self.start(id),
            Blow::Cut => Ok(()), // It ends by itself.
            Blow::Pause => Ok(kill_process(Pid::from_child(&self.running[&id]), Signal::CONT)?),
        }
    }

    fn kill(&mut self, id: u32) -> Result<()> {
        let Some(mut child) = self.running.remove(&id) else { return Ok(()) };
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// That no node ended by itself.
    fn check(&mut self) -> Result<()> {
        for (id, child) in &mut self.running {
            if let Some(status) = child.try_wait()? {
                return Err(format!("node {id} ended by itself: {status}").into());
            }
        }
        Ok(())
    }

    /// Waits until all nodes are in sync, and hold and know the same.
    async fn settle(&mut self) -> Result<Status> {
        let (began, mut last) = (Instant::now(), Vec::new());
        while began.elapsed() < PATIENCE {
            self.check()?;
            last.clear();
            for port in self.ports.values() {
                if let Ok(Answer::Status(status)) = wire::ask(*port, Request::Status).await {
                    last.push(status);
                }
            }
            let is_settled = |one: &Status| *one == last[0] && one.in_sync == 3 && one.committed == one.end;
            if last.len() == self.ports.len() && last.iter().all(is_settled) {
                return Ok(last[0].clone());
            }
            sleep(Duration::from_millis(100)).await;
        }
        Err(format!("the nodes do not come to hold the same: {last:?}").into())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Nobody is left behind, whatever went wrong.
        self.running.values_mut().for_each(|child| drop(child.kill().and_then(|()| child.wait())));
    }
}

/// How often what happened; and when a leader was killed, and nothing else.
#[derive(Debug, Default)]
struct Blows {
    counts: [u64; 3],
    leader_killed: Vec<Instant>,
}

async fn survive(dir: &Path, options: &Options) -> Result<()> {
    let lines = Arc::new(Lines(match &options.input {
        Some(file) => String::from_utf8_lossy(&fs::read(file)?).lines().map(str::to_owned).collect(),
        None => (0..1_000).map(|number| format!("a line that was made up, {}", number * 7_919 % 1_000)).collect(),
    }));
    let seed = options.seed.unwrap_or_else(|| u64::from(process::id()));
    println!("seed {seed}");
    let ports = free_ports()?;
    let mut cluster = Cluster { dir: dir.to_owned(), ports: ports.clone(), running: BTreeMap::new() };
    for id in ports.keys() {
        cluster.start(*id)?;
    }
    cluster.settle().await?;

    let (leader, is_over) = (Arc::new(AtomicU32::new(1)), Arc::new(AtomicBool::new(false)));
    let sent = Client {
        ports,
        lines: Arc::clone(&lines),
        leader: Arc::clone(&leader),
        is_over: Arc::clone(&is_over),
        ..Client::default()
    };
    let client = tokio::spawn(sent.run());
    let began = Instant::now();
    let blows = strike(&mut cluster, &leader, Duration::from_secs(options.chaos), seed).await?;
    is_over.store(true, Ordering::Relaxed);
    let seconds = began.elapsed().as_secs_f64();
    let acked = timeout(PATIENCE, client).await.map_err(|_| "what was sent last is never acknowledged")??;
    let status = cluster.settle().await?;
    for id in cluster.ports.clone().into_keys() {
        cluster.kill(id)?;
    }
    report(&cluster, &lines, &acked, &blows, seconds, &status)
}

/// Strikes now this node and now that one, mostly the leader, until the time is over and all is mended.
async fn strike(cluster: &mut Cluster, leader: &AtomicU32, span: Duration, seed: u64) -> Result<Blows> {
    let (began, mut random, mut blows) = (Instant::now(), Random(seed), Blows::default());
    while began.elapsed() < span {
        sleep(Duration::from_millis(1_000 + random.below(1_500))).await;
        cluster.check()?;
        let leads = leader.load(Ordering::Relaxed);
        let id = if random.below(3) > 0 { leads } else { 1 + random.below(3) as u32 };
        // With two of three gone nothing is acknowledged, and with all gone nothing may be lost either.
        let count = [1, 1, 1, 1, 1, 1, 2, 3][random.below(8) as usize];
        let lasts = Duration::from_millis(300 + random.below(2_500));
        let mut struck = Vec::new();
        for id in [id, id % 3 + 1, (id + 1) % 3 + 1].into_iter().take(count) {
            let blow = [Blow::Kill, Blow::Kill, Blow::Cut, Blow::Pause][random.below(4) as usize];
            blows.counts[blow as usize] += 1;
            if (id, count, blow) == (leads, 1, Blow::Kill) {
                blows.leader_killed.push(Instant::now());
            }
            cluster.strike(id, blow, lasts).await?;
            struck.push((id, blow));
        }
        sleep(lasts).await;
        struck.into_iter().try_for_each(|(id, blow)| cluster.mend(id, blow))?;
    }
    Ok(blows)
}

fn report(
    cluster: &Cluster,
    lines: &Lines,
    acked: &[Acked],
    blows: &Blows,
    seconds: f64,
    status: &Status,
) -> Result<()> {
    let logs = cluster.ports.keys().map(|id| check::open(&cluster.dir_of(*id).join("data")));
    let logs = logs.collect::<Result<Vec<_>>>()?;
    let found = check::lines(&logs[0], lines, acked)?;
    let same = [check::compare(&logs[0], &logs[1])?, check::compare(&logs[0], &logs[2])?];
    // From the last acknowledgement before the kill had an effect to the first one after it.
    let gap = |killed: &Instant| {
        let around =
            acked.windows(2).filter(|two| two[1].at > *killed && two[0].at < *killed + Duration::from_secs(1));
        around.map(|two| two[1].at - two[0].at).max()
    };
    let mut gaps: Vec<_> = blows.leader_killed.iter().filter_map(gap).collect();
    gaps.sort_unstable();
    let (count, [kills, cuts, pauses]) = (acked.len() as u64 * BATCH, blows.counts);
    println!("acknowledged  {count} lines in {seconds:.1} s; {} are stored", found.stored);
    println!("struck        {kills} kills, {cuts} cuts, {pauses} pauses");
    if let (Some(median), Some(most)) = (gaps.get(gaps.len() / 2), gaps.last()) {
        println!("failover      {median:.0?} in the median of {} kills of a leader, {most:.0?} at most", gaps.len());
    }
    println!("missing       {}, repeated {}", found.missing, found.repeated);
    let identical = same[0].filter(|_| same[0] == same[1]);
    println!("identical     {}", identical.map_or("no".to_owned(), |bytes| format!("{bytes} bytes on each node")));
    if found.missing + found.repeated > 0 || identical.is_none() || found.stored != status.end {
        return Err("what is stored is not what was acknowledged".into());
    }
    Ok(())
}

/// Three ports from below those that connections are given.
fn free_ports() -> Result<BTreeMap<u32, u16>> {
    let first = 20_000 + (process::id() % 10_000) as u16;
    let free = (first..first + 100).filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    let ports: BTreeMap<_, _> = (1..=3).zip(free).collect();
    if ports.len() == 3 { Ok(ports) } else { Err("no three ports are free".into()) }
}

/// Numbers, the same ones for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// How long what is mended may take to come to order.
const PATIENCE: Duration = Duration::from_secs(60);
