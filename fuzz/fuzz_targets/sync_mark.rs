//! Sync marks and notes: the newer valid slot or none, and no flipped bit unnoticed.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| chiplog::partition_fuzzing::sync_mark(bytes));
