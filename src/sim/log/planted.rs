//! Mistakes planted in the log, each of which must be found.

/// Their names; each is beside the right code.
pub(super) const PLANTED: &[&str] = &[
    "disk.no_dir_sync",
    "disk.rename_before_sync",
    "log.start_not_durable",
    "log.clean_mark_left",
    "partition.synced_before_sync",
    "partition.recovered_not_rewritten",
    "partition.no_dir_sync",
    "partition.failed_sync_retried",
    "partition.note_after_error",
    "partition.roll_without_cut",
    "partition.rolled_not_synced",
    "partition.note_of_other_boot",
    "segment.index_believed",
    "segment.half_write_forgotten",
    "segment.no_cut",
    "segment.cut_unsynced",
    "segment.zeros_over_tail",
];
