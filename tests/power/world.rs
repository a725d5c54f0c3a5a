//! Mounts, and who takes them down again.
//!
//! ```text
//! asked --spawns--> keeper --unshare--> inside: mounts, disks, workloads, checks
//!   '--- input ---'    '--- kills ---'
//! ```
//!
//! *Inside* has process numbers and mounts of its own, so that its end, however it comes, ends every process that it
//! began, unmounts what was mounted and gives the loop devices back. The *keeper* is out of reach of Ctrl-C: its input
//! ends with the process that was asked, and it then ends the rest and removes the directory.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Result;

/// Why nothing can be tested here; `None` if it can.
pub(crate) fn what_is_missing() -> Option<String> {
    for path in ["/dev/fuse", "/dev/loop-control"] {
        if let Err(error) = fs::OpenOptions::new().read(true).write(true).open(path) {
            return Some(format!("{path}: {error}"));
        }
    }
    let mut trial = Command::new("unshare");
    trial.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "mount", "-t", "tmpfs", "tmpfs"]);
    run(trial.arg(std::env::temp_dir())).err().map(|error| error.to_string())
}

/// Runs this program again as the keeper, and waits for it.
pub(crate) fn ask_keeper(arguments: &[String]) -> Result<ExitCode> {
    let mut keeper = Command::new(std::env::current_exe()?)
        .arg("keep")
        .args(arguments)
        .stdin(Stdio::piped())
        .process_group(0)
        .spawn()?;
    // Held until the end: to wait would close it.
    let input = keeper.stdin.take();
    let status = keeper.wait()?;
    drop(input);
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs this program again inside of a world of its own, until it ends or the input does.
pub(crate) fn keep(arguments: &[String]) -> Result<ExitCode> {
    let dir = tempfile::Builder::new().prefix("power-").tempdir()?;
    let inside = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe()?)
        .arg("inside")
        .arg(dir.path())
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()?;
    let inside = Arc::new(Mutex::new(inside));
    let watched = Arc::clone(&inside);
    std::thread::spawn(move || {
        let _ = io::stdin().lock().read(&mut [0]);
        let _ = watched.lock().unwrap_or_else(PoisonError::into_inner).kill();
    });
    loop {
        if let Some(status) = inside.lock().unwrap_or_else(PoisonError::into_inner).try_wait()? {
            return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Something mounted, until dropped.
#[derive(Debug)]
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    /// A file system in memory.
    pub(crate) fn memory(at: &Path) -> Result<Self> {
        run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(at))?;
        Ok(Self(at.to_owned()))
    }

    /// The file system in `image`, through a loop device that goes with the mount.
    pub(crate) fn image(image: &Path, at: &Path, kind: &str, options: &str) -> Result<Self> {
        fs::create_dir_all(at)?;
        let options = format!("loop,{options}");
        run(Command::new("mount").args(["-t", kind, "-o", &options]).arg(image).arg(at))?;
        Ok(Self(at.to_owned()))
    }

    /// What somebody else has mounted.
    pub(crate) fn by_another(at: &Path) -> Self {
        Self(at.to_owned())
    }

    pub(crate) fn at(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Busy for a moment, perhaps; at worst it goes when this world ends.
        for _ in 0..100 {
            match run(Command::new("umount").arg(&self.0)) {
                Ok(()) => return,
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

/// Runs a command; what it said is the error if it fails.
pub(crate) fn run(command: &mut Command) -> Result {
    let name = command.get_program().to_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{}: {error}", shown(&name)))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} failed: {}", shown(&name), said.trim()).into())
}

fn shown(name: &OsStr) -> std::path::Display<'_> {
    Path::new(name).display()
}
