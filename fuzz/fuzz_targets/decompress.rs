//! Compressed records of every codec: output and memory stay within the limit, and what comes out packs again.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| chiplog::record::fuzzing::decompress(bytes));
