//! Backups under the explorers: each must open as the log is, also after a power cut.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::look::{Blind, look};
use super::model::Model;
use super::settle::{named, settle};
use super::subject::{Explored, builder_in, refusal};
use crate::disk::Disk;
use crate::sim::SimDisk;
use crate::sim::explore::{Verdict, Violation, World};

/// Where they are made.
pub(super) const BACKUP: &str = "/backup";

impl Explored {
    /// Compares the backup that was just made with what the log must hold.
    pub(super) fn check_backup(&self, model: &Model) -> Verdict {
        let disk = self.world.disk.crash(self.world.disk.digest());
        let world = World { clock: disk.clock(), disk, entropy: Arc::clone(&self.world.entropy) };
        let opened = builder_in(&world, &self.options, BACKUP).read_only().strict().open();
        let wrong = |error| Violation::new("L6", refusal(error).to_string());
        let log = opened.map_err(wrong)?;
        let mut found = look(&log, world.clock.forward(), &self.options).map_err(|blind| match blind {
            Blind::Wrong(violation) => violation,
            Blind::Failed(error) => wrong(error),
        })?;
        found.is_settled = false;
        let mut held = model.clone();
        held.killed();
        settle(&mut held, &found).map_err(|violation| named("backup", violation))
    }
}

/// Removes what there is of an earlier one.
pub(super) fn clear(disk: &SimDisk) -> Verdict {
    disk.pause_faults(true);
    let cleared = remove(disk, Path::new(BACKUP));
    disk.pause_faults(false);
    cleared.map_err(|error| Violation::new("L6", format!("a backup that cannot be removed: {error}")))
}

fn remove(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let entries = match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        listed => listed?,
    };
    for entry in entries {
        let path = dir.join(&entry.name);
        if entry.is_dir { remove(disk, &path)? } else { disk.remove_file(&path)? }
    }
    disk.remove_dir(dir)
}
