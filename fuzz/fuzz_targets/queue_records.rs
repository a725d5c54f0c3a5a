//! Keys and values of what is known of queues are refused or understood.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chiplog::fuzzing::queue_records(bytes));
