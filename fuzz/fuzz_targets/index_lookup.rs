//! Look-ups in offset, time and transaction indexes of any bytes: as a linear scan where they are sorted.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| chiplog::partition_fuzzing::index_lookup(bytes));
