//! Producer snapshots: refused, or loaded into producers whose own snapshot says the same.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| chiplog::partition_fuzzing::snapshot(bytes));
