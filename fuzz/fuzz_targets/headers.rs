//! The headers of a record: the naive decoder agrees, and a record does not read those of the next.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| chiplog::record::fuzzing::headers(bytes));
