//! What a Kafka broker wrote, opened here: every answer equals Kafka's, nothing is changed, and damage that Kafka passes
//! over in silence is told.
//!
//! ```text
//! broker [--damage N] [NAME...]    all facts, or those whose names hold one of these words; N flipped bits, and N cuts, are
//!                                  judged (100)
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail as tests do")]

mod adopted;
mod answers;
#[path = "../../examples/dump.rs"]
#[allow(dead_code, reason = "its main is not called here")]
mod dump;
mod judged;
#[path = "../kafka_dirs/mod.rs"]
mod kafka_dirs;
mod odd;
mod printed;
mod torn;

use std::collections::BTreeMap;
use std::process::ExitCode;

use kafka_dirs::KafkaDirs;

/// A fact fails by panicking, and says what it counted.
type Fact = (&'static str, fn(&KafkaDirs, &mut Counts));

const FACTS: &[Fact] = &[
    ("topics_have_their_ids_and_partitions", answers::topics),
    ("partitions_begin_and_end_where_kafkas_do", answers::offsets),
    ("a_read_finds_its_record_from_any_offset", answers::reads),
    ("times_lead_to_the_first_record_at_or_after_them", answers::times),
    ("the_largest_timestamp_is_kafkas", answers::largest_timestamps),
    ("leader_epochs_are_kafkas_but_for_its_own_restart", answers::leader_epochs),
    ("producers_are_kafkas", answers::producers),
    ("groups_are_where_kafka_says", answers::groups),
    ("dump_prints_every_record_as_kafkas_consumer_gets_it", printed::records),
    ("dump_prints_committed_records_alone", printed::committed),
    ("dump_prints_offsets_and_groups", printed::offsets_and_groups),
    ("dump_begins_and_ends_where_it_is_told", printed::limits),
    ("dump_begins_before_damage_where_a_look_up_would", printed::begins_before_damage),
    ("dump_prints_findings", printed::findings),
    ("a_partition_that_another_broker_holds_is_not_missed", odd::partitions_elsewhere),
    ("groups_are_told_of_the_partitions_that_are_here", odd::groups_elsewhere),
    ("what_is_no_partition_is_in_nobodys_way", odd::strangers),
    ("dump_prints_logs_of_our_own", odd::logs_of_our_own),
    ("dump_prints_groups_beside_damage", odd::groups_beside_damage),
    ("dump_ends_quietly_when_nobody_reads", odd::nobody_reads),
    ("a_start_above_the_end_removes_nothing", adopted::start_above_the_end),
    ("leader_epochs_are_those_of_the_batches", adopted::epochs_that_are_wrong),
    ("what_a_salvage_opens_has_its_transactions_aborted", adopted::open_transactions_of_what_is_damaged),
    ("a_flipped_bit_serves_nothing_else_and_is_told", odd::flips),
    ("a_flipped_bit_is_found_or_harmless", judged::flips),
    ("a_cut_is_found_or_harmless", judged::cuts),
    ("what_is_damaged_is_served_as_far_as_it_is_whole_and_told", torn::variants),
];

/// What is to be done at least if everything is.
const GOALS: &[(&str, u64)] = &[
    ("records", 8_173 + 10_094),
    ("committed records", 7_763 + 9_425),
    ("look-ups", 964 + 959),
    ("partitions", 61 + 61),
    ("groups", 14),
    ("producers", 110),
    ("variants", 31),
    ("flips printed", 600),
];

/// How often each thing was done.
pub(crate) struct Counts {
    done: BTreeMap<&'static str, u64>,
    /// How many bits are to be flipped, and files cut.
    times: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, what: &'static str, count: u64) {
        *self.done.entry(what).or_default() += count;
    }
}

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let mut times = 100;
    if let Some(at) = words.iter().position(|word| word == "--damage") {
        times = words.get(at + 1).and_then(|number| number.parse().ok()).expect("a number after --damage");
        words.drain(at..at + 2);
    }
    words.retain(|word| !word.starts_with('-'));
    let chosen = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let dirs = KafkaDirs::shared();
    let (mut counts, mut passed, mut failed) = (Counts { done: BTreeMap::new(), times }, 0, 0);
    for (name, fact) in FACTS.iter().filter(|(name, _)| chosen(name)) {
        let run = std::panic::AssertUnwindSafe(|| fact(&dirs, &mut counts));
        let is_fine = std::panic::catch_unwind(run).is_ok();
        println!("{name} ... {}", if is_fine { "ok" } else { "FAILED" });
        if is_fine { passed += 1 } else { failed += 1 }
    }
    let damaged = [("flips judged", times), ("cuts judged", times)];
    for (what, goal) in GOALS.iter().copied().chain(damaged).filter(|_| words.is_empty()) {
        let done = counts.done.get(what).copied().unwrap_or_default();
        println!("count {what} {done} {goal}");
        failed += u32::from(done < goal);
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
