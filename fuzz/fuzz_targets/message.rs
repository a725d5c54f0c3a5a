//! What nodes tell each other is refused, or written as the same bytes again.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chiplog::replica::fuzzing::message(bytes));
