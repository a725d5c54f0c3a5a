//! What the members of a group tell each other is refused or understood, and every assignor divides the partitions.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chiplog::fuzzing::group_protocol(bytes));
