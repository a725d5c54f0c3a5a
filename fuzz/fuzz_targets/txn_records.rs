//! Keys and values of the topic of transactions, and any log of them, are refused or understood.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chiplog::fuzzing::txn_records(bytes));
