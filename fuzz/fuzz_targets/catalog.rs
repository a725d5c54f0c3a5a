//! The catalog of topics is refused or reads back from its own text.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chiplog::fuzzing::catalog(bytes));
