//! The records of a batch in plain form: the naive decoder agrees, and what is read can be written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| chiplog::record::fuzzing::record(bytes));
