//! Any bytes behind, or over, the batches of a log: a torn tail is cut, damage is reported, nothing is invented.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| chiplog::partition_fuzzing::segment_open(bytes));
