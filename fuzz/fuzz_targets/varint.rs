//! Varints of both widths: the naive decoder agrees, and the shortest form is no longer.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| chiplog::record::fuzzing::varint(bytes));
