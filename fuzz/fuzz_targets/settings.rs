//! Settings in Kafka's own strings are refused or read back.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chiplog::fuzzing::settings(bytes));
