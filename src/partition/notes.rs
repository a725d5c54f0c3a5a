//! The file `notes`: how far each partition had come when this process last wrote it down.
//!
//! A process that was killed leaves whole, in memory of the system, all that it wrote; only its last write may be cut
//! short. So the next process need not look at what the one before noted as written, if it is the same boot, the same
//! file, and no I/O error came between. Opening then takes as long as a few batches take, whatever the log's size.
//!
//! Notes are written in place and never synced: after a new boot nobody believes them. They are never an error either:
//! a note that cannot be written is no note, and the next recovery reads more.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::marks::{ArenaNote, Note, NotesHeader};
use crate::disk::{BootId, Disk, DiskFile, FileId, Open, read_file, write_all_at};
use crate::probe;
use crate::types::TopicId;

/// The notes of a log: those found when it was opened, and the file that new ones go to.
#[derive(Debug)]
pub(crate) struct Notes {
    path: PathBuf,
    log: [u8; 16],
    found: HashMap<(TopicId, u32), Note>,
    /// The arena that the process before used.
    arena: Option<ArenaNote>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    file: Option<Arc<dyn DiskFile>>,
    /// The entry of each partition, and the sequence of its last note.
    entries: HashMap<(TopicId, u32), (u32, u64)>,
    next: u32,
    /// Entries of partitions that are no more.
    free: Vec<u32>,
    /// Whether there is a file, and all of its entries are known.
    is_read: bool,
    is_broken: bool,
    /// The entry that names the arena, and its sequence.
    arena: Option<(u32, u64)>,
}

impl Notes {
    /// Reads what notes there are for the log `log`. A file that cannot be read, or is another log's, has none.
    pub(crate) fn load(disk: &dyn Disk, path: PathBuf, log: [u8; 16]) -> Self {
        let bytes = read_file(disk, &path, MAX_BYTES).unwrap_or_default();
        let mut notes = Self { path, log, found: HashMap::new(), arena: None, state: Mutex::default() };
        if !matches!(NotesHeader::decode(&bytes), Ok(Some(header)) if header.log == log) {
            return notes;
        }
        let mut state = State { is_read: true, ..State::default() };
        for entry in bytes[NotesHeader::LEN..].chunks_exact(Note::ENTRY_LEN) {
            if let Ok(Some(note)) = Note::best(entry) {
                let key = (note.topic, note.partition);
                state.entries.insert(key, (state.next, note.sequence));
                notes.found.insert(key, note);
            } else if let Ok(Some(note)) = ArenaNote::best(entry) {
                state.arena = Some((state.next, note.sequence));
                notes.arena = Some(note);
            } else {
                state.free.push(state.next);
            }
            state.next += 1;
        }
        notes.state = Mutex::new(state);
        notes
    }

    /// What the process before this one noted of a partition.
    pub(crate) fn found(&self, topic: TopicId, partition: u32) -> Option<&Note> {
        self.found.get(&(topic, partition))
    }

    /// The arena that the process before used, if it was this boot's, and said so in this very file.
    pub(crate) fn named_arena(&self, disk: &dyn Disk, boot: Option<BootId>) -> Option<FileId> {
        let note = self.arena.filter(|note| Some(note.boot) == boot && note.arena != FileId::default())?;
        let is_copy = disk.metadata(&self.path).map_or(true, |found| found.id != note.notes);
        (!is_copy).then_some(note.arena)
    }

    /// Says which arena is in use, or that none is. Whether that is what a later process finds.
    pub(crate) fn name_arena(&self, disk: &dyn Disk, boot: Option<BootId>, arena: FileId) -> bool {
        let mut state = self.state.lock();
        let Some(boot) = boot.filter(|_| arena != FileId::default() || state.arena.is_some()) else { return true };
        let (entry, sequence) = match state.arena {
            Some(known) => known,
            None => {
                let entry = state.new_entry();
                self.put(&mut state, disk, &[0; Note::ENTRY_LEN], Note::entry_at(entry));
                (entry, 0)
            }
        };
        let Some(Ok(notes)) = self.opened(&mut state, disk).map(|file| file.metadata().map(|found| found.id)) else {
            return false;
        };
        let note = ArenaNote { sequence: sequence + 1, boot, arena, notes };
        state.arena = Some((entry, note.sequence));
        let at = Note::entry_at(entry) + note.slot_at() as u64;
        self.put(&mut state, disk, &note.encode(), at);
        !state.is_broken
    }

    fn opened(&self, state: &mut State, disk: &dyn Disk) -> Option<Arc<dyn DiskFile>> {
        if state.is_broken {
            return None;
        }
        self.file(state, disk).ok()
    }

    /// Writes `note`, whose sequence is given here.
    pub(crate) fn write(&self, disk: &dyn Disk, mut note: Note) {
        let mut state = self.state.lock();
        let key = (note.topic, note.partition);
        let (entry, sequence) = match state.entries.get(&key) {
            Some(known) => *known,
            None => {
                let entry = state.new_entry();
                // A note of the one that had it before would be the newer one.
                self.put(&mut state, disk, &[0; Note::ENTRY_LEN], Note::entry_at(entry));
                (entry, 0)
            }
        };
        note.sequence = sequence + 1;
        state.entries.insert(key, (entry, note.sequence));
        let at = Note::entry_at(entry) + note.slot_at() as u64;
        self.put(&mut state, disk, &note.encode(), at);
    }

    /// Takes back what was noted of a partition: an I/O error came between, so its file is to be looked at again.
    pub(crate) fn erase(&self, disk: &dyn Disk, topic: TopicId, partition: u32) {
        if probe::planted("partition.note_after_error") {
            return;
        }
        let mut state = self.state.lock();
        match state.entries.get(&(topic, partition)).copied() {
            Some((entry, _)) => self.put(&mut state, disk, &[0; Note::ENTRY_LEN], Note::entry_at(entry)),
            // What could not be read may hold a note of it: a new file does not.
            None if !state.is_read => self.put(&mut state, disk, &[0; Note::ENTRY_LEN], Note::entry_at(0)),
            None => {}
        }
    }

    /// Gives back the entries of a topic that is no more.
    pub(crate) fn forget(&self, topic: TopicId) {
        let mut state = self.state.lock();
        let State { entries, free, .. } = &mut *state;
        entries.retain(|(of, _), (entry, _)| {
            let is_kept = *of != topic;
            if !is_kept {
                free.push(*entry);
            }
            is_kept
        });
        // The same ones are given again in every run.
        free.sort_unstable();
    }

    fn put(&self, state: &mut State, disk: &dyn Disk, bytes: &[u8], at: u64) {
        if state.is_broken {
            return;
        }
        let written = self.file(state, disk).and_then(|file| write_all_at(&*file, bytes, at));
        if written.is_err() {
            probe::reached("notes.broken");
            // One that could not be written may hide one that could not be erased: all of them go.
            state.is_broken = true;
            let _ = disk.remove_file(&self.path);
        }
    }

    fn file(&self, state: &mut State, disk: &dyn Disk) -> std::io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = &state.file {
            return Ok(Arc::clone(file));
        }
        let file = if state.is_read {
            disk.open(&self.path, Open::Write)?
        } else {
            // Whatever it holds, nobody knows which entries are in use.
            let _ = disk.remove_file(&self.path);
            disk.open(&self.path, Open::CreateNew)?
        };
        state.is_read = true;
        write_all_at(&*file, &NotesHeader { log: self.log }.encode(), 0)?;
        state.file = Some(Arc::clone(&file));
        Ok(file)
    }
}

impl State {
    fn new_entry(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }
}

/// Notes of more partitions than this are not read.
const MAX_BYTES: u64 = 64 << 20;
