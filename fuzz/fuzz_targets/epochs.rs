//! The history of leader epochs: refused or the same once written anew, and in order whatever is cut.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| chiplog::partition_fuzzing::epochs(bytes));
