//! Any sequence of events at a coordinator of groups: no invariant breaks, and a group's record is refused or understood.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chiplog::fuzzing::group_coordinator(bytes));
