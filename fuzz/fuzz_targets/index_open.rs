//! Any bytes as a derived file beside a good log: look-ups answer as a scan would.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| chiplog::partition_fuzzing::index_open(bytes));
