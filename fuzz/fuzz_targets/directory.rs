//! Any files under a log's names, ours or a broker's: what a reader gets is still there once it is salvaged.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chiplog::sim::fuzzing::directory(bytes));
