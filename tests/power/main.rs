//! Power cuts on real file systems: ext4, XFS and btrfs on a disk of ours, which loses what was not flushed.
//!
//! ```text
//! power --cuts N      N cuts, an equal part on each kind
//! power --faults N    N rounds on disks that fail something; --fault flush|flushes|write|writes|read|reads: only that
//! power --self-check  mistakes that the cuts must find
//! power --again DIR   the check that failed, on the image it has kept
//!       [--kind ext4|xfs|btrfs]... [--goal N] [--seed N] [--threads N] [--heal]
//!
//! workload --> chiplog --> ext4 --> loop device --> image, in a file system in user space: what was flushed, what not
//!    |                                                |
//!    '-- what it was promised, with the time          '-- at random moments: what a power cut now would leave
//!                         '--> mount, open under another boot id, compare <--'
//! ```
//!
//! A seed repeats what is decided, not when the system does what: what failed is kept whole, for `--again`. `--heal` lets
//! the power go also after a log was opened again, without a restart, on a disk that had failed a write. ext4 then says of
//! data that it was synced and leaves its extent unwritten, so that zeros are found: this finds losses now and then.
//!
//! Times are those of one clock: what was acknowledged before the moment of the cut must be there. Needs root, FUSE and
//! loop devices; where they are missing it says so and tests nothing. Without arguments it does nothing, too: to mount
//! file systems is not what somebody expects of `cargo test`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use expected::Cut;
use inside::{Asked, Mode};
use kind::Kind;
use workload::Lie;

mod check;
mod disks;
mod expected;
mod faults;
mod identity;
mod image;
mod inside;
mod kind;
mod random;
mod round;
mod server;
mod worker;
mod workload;
mod world;

type Result<T = (), E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match role(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{}: {error}", arguments.first().map_or("", String::as_str));
            ExitCode::FAILURE
        }
    }
}

/// This program is each of the processes that a test takes.
fn role(arguments: &[String]) -> Result<ExitCode> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["serve", at, image, kind, seed] => {
            server::serve(Path::new(at), Path::new(image), Kind::named(kind)?, seed.parse()?)?;
        }
        ["work", dir, seed, lie, may_fail] => {
            workload::work(Path::new(dir), seed.parse()?, Lie::named(lie)?, may_fail.parse()?)?;
        }
        ["check", dir, at, held, seed] => {
            let cut = Cut { at: at.parse()?, held: held.parse()? };
            check::run(Path::new(dir), Some((cut, seed.parse()?)))?;
        }
        ["check", dir] => check::run(Path::new(dir), None)?,
        ["keep", ..] => return world::keep(&arguments[1..]),
        ["inside", dir, ..] => {
            let asked = asked(&arguments[2..])?.ok_or("nothing is asked for")?;
            return inside::run(Path::new(dir), &asked);
        }
        _ => return ask(arguments),
    }
    Ok(ExitCode::SUCCESS)
}

/// What somebody asks for who runs the test.
fn ask(arguments: &[String]) -> Result<ExitCode> {
    let Some(asked) = asked(arguments)? else {
        println!("NOTICE: neither --cuts nor --faults nor --self-check: no disk lost its power");
        return Ok(ExitCode::SUCCESS);
    };
    if let Some(missing) = world::what_is_missing() {
        println!("NOTICE: no file systems can be mounted here ({missing}): no power cuts");
        println!("count power cuts, skipped 0 0");
        return Ok(ExitCode::SUCCESS);
    }
    let mut passed_on = arguments.to_vec();
    for kind in &asked.kinds {
        if kind.can_be_made() {
            passed_on.extend(["--kind".to_owned(), kind.name().to_owned()]);
        } else {
            println!("NOTICE: no {}: no power cuts on it", kind.maker());
            println!("count power cuts on {}, skipped 0 0", kind.name());
        }
    }
    if passed_on.len() == arguments.len() {
        return Ok(ExitCode::SUCCESS);
    }
    passed_on.extend(["--seed".to_owned(), asked.seed.to_string()]);
    world::ask_keeper(&passed_on)
}

/// Reads the arguments. `None` if they ask for nothing. Of one that comes twice the last counts.
fn asked(arguments: &[String]) -> Result<Option<Asked>> {
    let mut mode = None;
    let (mut goal, mut seed, mut threads, mut fault, mut heals, mut kinds) = (None, None, 2, None, false, Vec::new());
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{argument} of what?"));
        match argument.as_str() {
            "--cuts" => mode = Some(Mode::Cuts(value()?.parse()?)),
            "--faults" => mode = Some(Mode::Faults(value()?.parse()?)),
            "--self-check" => mode = Some(Mode::SelfCheck),
            "--again" => mode = Some(Mode::Again(PathBuf::from(value()?))),
            "--goal" => goal = Some(value()?.parse()?),
            "--seed" => seed = Some(value()?.parse()?),
            "--heal" => heals = true,
            "--fault" => {
                let name = value()?;
                fault = Some(*faults::FAULTS.iter().find(|fault| *fault == name).ok_or("there is no such fault")?);
            }
            "--threads" => threads = value()?.parse()?,
            "--kind" => {
                let kind = Kind::named(value()?)?;
                kinds.retain(|other| *other != kind);
                kinds.push(kind);
            }
            // What `cargo test` passes to every test means nothing here.
            _ => {}
        }
    }
    if kinds.is_empty() {
        kinds.extend(Kind::ALL);
    }
    let seed = seed.unwrap_or_else(random::seed_of_now);
    Ok(mode.map(|mode| Asked { mode, kinds, seed, goal, threads, fault, heals }))
}
