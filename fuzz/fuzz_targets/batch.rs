//! A batch as a file or a producer holds it: the naive decoder agrees, and what the leader stores of it reads the same.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| chiplog::record::fuzzing::batch(bytes));
