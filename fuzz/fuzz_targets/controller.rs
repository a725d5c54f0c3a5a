//! Any sequence of events at nodes that hold a partition: nothing that is committed is lost. Commands and states are
//! refused, or written as the same bytes again.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chiplog::replica::fuzzing::controller(bytes));
