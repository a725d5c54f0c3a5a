//! Any bytes as the arena that a killed process left: nothing in the files is lost, and what is found stays.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| chiplog::sim::fuzzing::staging(bytes));
