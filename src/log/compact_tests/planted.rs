//! Each mistake in compaction is found by one of the tests beside this.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::meanwhile::readers_of_old_segments_read_on;
use super::*;
use crate::probe::registry::plant;
use crate::sim::log::COMPACTION;

fn hunts(bug: &str) -> Vec<fn()> {
    let crash = || {
        let _ = (crash_at_every_call(false, 8), crash_at_every_call(true, 8));
    };
    let errors = || {
        let _ = fail_at_every_call(Errno::Io, Times::Once, 1);
    };
    match bug {
        "compact.not_pinned" => vec![readers_of_old_segments_read_on],
        "compact.past_stable" => vec![what_is_undecided_and_what_follows_it_is_left_alone],
        "compact.outcome_not_synced" => vec![|| {
            let fails = |test: fn()| catch_unwind(AssertUnwindSafe(test)).is_err();
            assert!(
                !fails(what_a_transaction_supersedes_stays_until_its_outcome_is_durable)
                    || !fails(a_producer_is_known_after_a_power_cut_that_takes_its_last_batch)
            );
        }],
        "compact.covers_all" => vec![little_memory_takes_more_passes_and_comes_to_the_end],
        "compact.no_horizon" => vec![the_latest_of_each_key_stays_at_its_offset, crash],
        "compact.producers_forgotten" => vec![producers_are_known_from_what_compaction_leaves_alone],
        "compact.leftovers_kept" => vec![|| {
            let _ = fail_at_every_call(Errno::Io, Times::Dead, 1);
        }],
        _ => vec![crash, errors],
    }
}

#[test]
fn every_planted_mistake_is_found() {
    let mut missed = Vec::new();
    for bug in COMPACTION {
        plant(Some(bug));
        let is_found = hunts(bug).into_iter().any(|hunt| catch_unwind(AssertUnwindSafe(hunt)).is_err());
        plant(None);
        if !is_found {
            missed.push(bug);
        }
    }
    assert!(missed.is_empty(), "{missed:?}");
}
