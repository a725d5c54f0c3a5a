//! A history and passes of compaction, made of any bytes: what is left is what the plain rules leave.
#![no_main]

libfuzzer_sys::fuzz_target!(|program: &[u8]| chiplog::partition_fuzzing::compact(program));
