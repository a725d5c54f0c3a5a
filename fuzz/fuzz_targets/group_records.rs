//! Keys and values of the offsets topic, and any log of them, are refused or understood.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chiplog::fuzzing::group_records(bytes));
