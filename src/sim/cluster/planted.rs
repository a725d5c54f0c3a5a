//! Mistakes planted in replication, each of which a history must find.

/// The mistakes; each is beside the right code.
pub const PLANTED: &[&str] = &[
    "controller.any_version",
    "controller.epoch_kept",
    "controller.loss_ignored",
    "replica.acked_by_one",
    "replica.appends_as_follower",
    "replica.asks_before_sync",
    "replica.commits_below_minimum",
    "replica.copy_goes_on",
    "replica.cuts_to_committed",
    "replica.epoch_not_begun",
    "replica.group_kept",
    "replica.group_told_early",
    "replica.joins_behind",
    "replica.reads_uncommitted",
    "replica.role_of_other_life",
    "truncate.checkpoint_kept",
    "truncate.not_noted",
];
