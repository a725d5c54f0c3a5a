//! Checkpoints and partition.metadata: refused, or the same once written anew.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| chiplog::partition_fuzzing::checkpoint(bytes));
